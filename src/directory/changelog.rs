//! The Retro Changelog of 389 Directory Server: whether a cookie can rely on it.

use std::sync::{Arc, Mutex, PoisonError};

use super::root_dse::texts;
use crate::domain::ldap_text::Dn;
use crate::domain::mapping::{Entry, Preset};

/// Where the server keeps its settings, which few bind users may read.
pub(super) const SETTINGS: &str = "cn=Retro Changelog Plugin,cn=plugins,cn=config";

const INCLUDED: &str = "nsslapd-include-suffix";
const EXCLUDED: &str = "nsslapd-exclude-suffix";
const ATTRIBUTES: &str = "nsslapd-attribute";

/// What to ask for; nothing else of the settings is read.
pub(super) const SETTINGS_ATTRIBUTES: [&str; 4] = ["objectClass", INCLUDED, EXCLUDED, ATTRIBUTES];

/// The numbers of the first and the last change that the changelog has, as the root DSE shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// `None` where there is no changelog; 0 where it is empty.
    pub first: Option<u64>,
}

impl Changes {
    /// Nothing that came after this change is missing.
    pub(super) fn reach_back_to(self, number: u64) -> bool {
        match self.first {
            // An empty one has lost whatever it had.
            Some(0) => number == 0,
            Some(first) => first <= number.saturating_add(1),
            None => false,
        }
    }
}

/// Whether the changelog records the changes of a base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Coverage {
    /// All of them, with the ids of their entries.
    Covers,
    /// Only those of other suffixes.
    Elsewhere(Vec<String>),
    /// Those below these are left out.
    Excluded(Vec<String>),
    /// Without ids, so that nothing can be found by them.
    NoIds,
    /// The bind user may not read the settings.
    Hidden,
}

/// What changes have shown of a changelog whose settings are hidden: each comes with its number there, or
/// with one that stands for none. Shared by the runs of a directory.
#[derive(Clone, Default, Debug)]
pub struct Evidence(Arc<Mutex<Option<bool>>>);

impl Evidence {
    /// Whether the latest change was recorded; `None` before the first.
    pub fn is_recorded(&self) -> Option<bool> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a change showed.
    pub fn show(&self, is_recorded: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(is_recorded);
    }
}

impl Coverage {
    /// What makes cookies worthless when it becomes another.
    pub fn as_str(&self) -> &'static str {
        match self {
            Coverage::Covers => "covers",
            Coverage::Elsewhere(_) => "elsewhere",
            Coverage::Excluded(_) => "excluded",
            Coverage::NoIds => "no ids",
            Coverage::Hidden => "hidden",
        }
    }

    /// A cookie may be used. FreeIPA's own installation records only its DNS, others everything.
    pub fn is_trustworthy(&self, preset: Preset, evidence: &Evidence) -> bool {
        match self {
            Coverage::Covers => true,
            Coverage::Hidden => evidence.is_recorded().unwrap_or(preset != Preset::FreeIpa),
            Coverage::Elsewhere(_) | Coverage::Excluded(_) | Coverage::NoIds => false,
        }
    }

    /// What an administrator should know.
    pub fn warning(&self, base: &Dn, preset: Preset, evidence: &Evidence) -> Option<String> {
        let consequence = "changes come at once, but what happened meanwhile is found only by reading \
                           everything, at each poll and after each interruption";
        let problem = match self {
            Coverage::Covers => return None,
            Coverage::Hidden if self.is_trustworthy(preset, evidence) => return None,
            Coverage::Hidden if evidence.is_recorded().is_some() => format!(
                "the changelog does not have a change below {base} that came, or not its id: {consequence}; \
                 see to it that {SETTINGS} has {ATTRIBUTES}: nsuniqueid:targetUniqueId, and {base} in \
                 {INCLUDED} if that is set, and restart the server"
            ),
            Coverage::Elsewhere(suffixes) => format!(
                "the changelog records only {}, and not {base}: {consequence}; \
                 add {INCLUDED}: {base} to {SETTINGS} and restart the server",
                suffixes.join(" and ")
            ),
            Coverage::Excluded(suffixes) => format!(
                "the changelog leaves out {}, which {base} belongs to or holds: {consequence}; \
                 take it out of {EXCLUDED} of {SETTINGS} and restart the server",
                suffixes.join(" and ")
            ),
            Coverage::NoIds => format!(
                "the changelog records no ids: {consequence}; \
                 add {ATTRIBUTES}: nsuniqueid:targetUniqueId to {SETTINGS} and restart the server"
            ),
            Coverage::Hidden => format!(
                "FreeIPA's changelog records only cn=dns unless told otherwise, and the bind user may not \
                 read how it is set. If so, {consequence}; look with ldapsearch -D 'cn=Directory Manager' -W \
                 -b '{SETTINGS}' {INCLUDED}, add {base} to it, restart the server, and let the bind user \
                 read that entry"
            ),
        };
        Some(problem)
    }
}

/// Reads the settings; `None` where the bind user may not see them.
pub(super) fn coverage(settings: Option<&Entry>, base: &Dn) -> Coverage {
    // An entry without its attributes is one that hides them.
    let Some(settings) = settings.filter(|entry| texts(entry, "objectClass").next().is_some()) else {
        return Coverage::Hidden;
    };
    let all = |name: &'static str| texts(settings, name).map(super::error::clean).collect::<Vec<String>>();
    let (included, excluded) = (all(INCLUDED), all(EXCLUDED));
    let base = parts(base.as_str());
    let holds = |suffix: &String| base.ends_with(&parts(suffix));
    let excluded: Vec<String> =
        excluded.into_iter().filter(|suffix| holds(suffix) || parts(suffix).ends_with(&base)).collect();
    let names_ids = texts(settings, ATTRIBUTES).any(|attribute| {
        let name = attribute.split(':').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("nsuniqueid")
    });
    if !included.is_empty() && !included.iter().any(holds) {
        Coverage::Elsewhere(included)
    } else if !excluded.is_empty() {
        Coverage::Excluded(excluded)
    } else if names_ids {
        Coverage::Covers
    } else {
        Coverage::NoIds
    }
}

/// The parts of a DN, comparable. A comma inside a value parts it in both DNs alike.
fn parts(dn: &str) -> Vec<String> {
    let part = |part: &str| match part.split_once('=') {
        Some((name, value)) => format!("{}={}", name.trim(), value.trim()).to_lowercase(),
        None => part.trim().to_lowercase(),
    };
    dn.split(',').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mapping::Attribute;

    const IDS: (&str, &str) = ("nsslapd-attribute", "nsuniqueid:targetUniqueId");
    const CLASS: (&str, &str) = ("objectClass", "nsSlapdPlugin");

    fn check(attributes: &[(&str, &str)], expected: &Coverage, words: &str) {
        let attributes = attributes
            .iter()
            .map(|(name, value)| Attribute {
                name: (*name).to_owned(),
                values: vec![value.as_bytes().to_vec()],
            })
            .collect();
        let entry = Entry { dn: SETTINGS.to_owned(), attributes };
        let base = Dn::parse("cn=users,cn=accounts,dc=ipa,dc=example").unwrap();
        let found = coverage(Some(&entry), &base);
        assert_eq!(found, *expected, "{entry:?}");
        let unknown = Evidence::default();
        assert_eq!(found.is_trustworthy(Preset::FreeIpa, &unknown), *expected == Coverage::Covers);
        let warning = found.warning(&base, Preset::FreeIpa, &unknown).unwrap_or_default();
        assert!(warning.contains(words) && warning.is_empty() == words.is_empty(), "{warning}");
    }

    #[test]
    fn the_changelog_covers_the_base_or_not() {
        let dns = ("nsslapd-include-suffix", "cn=dns,dc=ipa,dc=example");
        let elsewhere = Coverage::Elsewhere(vec![dns.1.to_owned()]);
        check(&[CLASS, IDS, dns], &elsewhere, "records only cn=dns,dc=ipa,dc=example, and not cn=users,");
        check(&[CLASS, IDS, dns, ("nsslapd-include-suffix", "DC=ipa, dc = Example")], &Coverage::Covers, "");
        check(&[CLASS, ("NSSLAPD-ATTRIBUTE", "nsUniqueId:target")], &Coverage::Covers, "");
        check(&[CLASS], &Coverage::NoIds, "records no ids");
        for suffix in ["dc=ipa,dc=example", "cn=secret,cn=users,cn=accounts,dc=ipa,dc=example"] {
            let excluded = Coverage::Excluded(vec![suffix.to_owned()]);
            check(&[CLASS, IDS, ("nsslapd-exclude-suffix", suffix)], &excluded, "leaves out");
        }
        check(&[CLASS, IDS, ("nsslapd-exclude-suffix", "o=ipaca")], &Coverage::Covers, "");
        check(&[], &Coverage::Hidden, "may not read how it is set");
    }

    #[test]
    fn hidden_settings_are_trusted_but_for_free_ipa_until_a_change_shows_what_they_are() {
        let base = Dn::parse("dc=example").unwrap();
        let hidden = coverage(None, &base);
        assert_eq!(hidden, Coverage::Hidden);
        for (preset, shown, is_trusted) in [
            (Preset::Ds389, None, true),
            (Preset::FreeIpa, None, false),
            (Preset::Ds389, Some(false), false),
            (Preset::FreeIpa, Some(true), true),
        ] {
            let evidence = Evidence::default();
            shown.iter().for_each(|shown| evidence.show(*shown));
            assert_eq!(hidden.is_trustworthy(preset, &evidence), is_trusted, "{preset:?} {shown:?}");
            assert_eq!(
                hidden.warning(&base, preset, &evidence).is_none(),
                is_trusted,
                "{preset:?} {shown:?}"
            );
        }
    }

    #[test]
    fn a_trimmed_changelog_does_not_reach_back() {
        for (first, number, reaches) in [
            (Some(1), 0, true),
            (Some(7), 6, true),
            (Some(7), 5, false),
            (Some(7), 7, true),
            (Some(0), 0, true),
            (Some(0), 5, false),
            (None, 0, false),
            (Some(u64::MAX), u64::MAX, true),
        ] {
            assert_eq!(Changes { first }.reach_back_to(number), reaches, "{first:?} {number}");
        }
    }
}
