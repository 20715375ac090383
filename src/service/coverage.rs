//! Which domains the configured directories serve, and which of these directories were never read completely:
//! what an unknown name means depends on it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Settings;
use crate::domain::name::Name;
use crate::store::DirectoryIndex;

/// Computed from the settings and the store's directories, and again only when one of them changes: an unknown
/// name must not cost a walk through thousands of directories.
pub(super) struct Coverage {
    settings: Arc<Settings>,
    index: DirectoryIndex,
    /// Every domain that is served, with the first directory that serves it.
    served: HashMap<String, String>,
    /// Domains of directories that were never mapped, with the first such directory.
    unmapped: HashMap<String, String>,
    first_unmapped: Option<String>,
}

impl Coverage {
    pub(super) fn new(settings: Arc<Settings>, index: DirectoryIndex) -> Coverage {
        let (mut served, mut unmapped, mut first_unmapped) = (HashMap::new(), HashMap::new(), None);
        for (directory, domains) in &settings.directories {
            let is_mapped = index.is_mapped(directory);
            if !is_mapped {
                first_unmapped.get_or_insert_with(|| directory.clone());
            }
            for domain in domains {
                let first = |map: &mut HashMap<String, String>| {
                    map.entry(domain.as_str().to_owned()).or_insert_with(|| directory.clone());
                };
                first(&mut served);
                if !is_mapped {
                    first(&mut unmapped);
                }
            }
        }
        Coverage { settings, index, served, unmapped, first_unmapped }
    }

    /// Whether it is still what these settings and directories make.
    pub(super) fn is_of(&self, settings: &Arc<Settings>, index: &DirectoryIndex) -> bool {
        Arc::ptr_eq(&self.settings, settings) && self.index.is_same(index)
    }

    /// The first directory that serves a domain.
    pub(super) fn directory_of(&self, domain: &str) -> Option<&str> {
        self.served.get(domain).map(String::as_str)
    }

    /// The directory that may still bring a user of this name, if there is one.
    pub(super) fn may_be_unmapped(&self, name: &Name) -> Option<&str> {
        match self.served.contains_key(name.domain()) {
            true => self.unmapped.get(name.domain()).map(String::as_str),
            // A directory may hold addresses of domains that it does not serve.
            false => self.first_unmapped(),
        }
    }

    /// The first directory that was never mapped.
    pub(super) fn first_unmapped(&self) -> Option<&str> {
        self.first_unmapped.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::name::Domain;

    fn check(directories: &[(&str, &str)], name: &str, expected: Option<&str>) {
        let domain = |text: &str| Domain::parse(text).unwrap();
        let directories =
            directories.iter().map(|(name, at)| ((*name).to_owned(), vec![domain(at)])).collect();
        let settings = Settings { directories, ..Settings::default() };
        let coverage = Coverage::new(Arc::new(settings), DirectoryIndex::default());
        assert_eq!(coverage.may_be_unmapped(&Name::parse(name, None).unwrap()), expected, "{name}");
    }

    #[test]
    fn an_unknown_name_waits_for_the_directory_of_its_domain() {
        check(&[], "a@a.org", None);
        check(&[("a", "a.org"), ("b", "b.org")], "x@b.org", Some("b"));
        check(&[("a", "a.org"), ("b", "b.org")], "x@c.org", Some("a"));
    }
}
