//! Brings the service, which wants passwords verified, and the directories, which can do it, together.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use crate::directory::Verifier;
use crate::domain::directory::{Directory, LdapSource, Source};
use crate::domain::password::Password;
use crate::service::passwords::Verify;

/// Every configured directory by name; the daemon keeps it true across reloads.
#[derive(Default)]
pub(super) struct Directories(RwLock<BTreeMap<String, Configured>>);

#[derive(Clone)]
enum Configured {
    Ldap(Arc<LdapSource>, Arc<Verifier>),
    Ldif,
}

impl Directories {
    /// Takes over the configured directories. Where nothing changed, connections stay open.
    pub(super) fn set(&self, directories: &[Directory]) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let configured = |directory: &Directory| match &directory.source {
            Source::Ldif(_) => Configured::Ldif,
            Source::Ldap(source) => match known.get(&directory.name) {
                Some(Configured::Ldap(old, verifier)) if **old == *source => {
                    Configured::Ldap(Arc::clone(old), Arc::clone(verifier))
                }
                _ => Configured::Ldap(Arc::new(source.clone()), Arc::new(Verifier::new(source.clone()))),
            },
        };
        let wanted = directories.iter().map(|directory| (directory.name.clone(), configured(directory)));
        *known = wanted.collect();
    }

    fn configured(&self, directory: &str) -> Option<Configured> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(directory).cloned()
    }
}

impl Verify for Directories {
    fn verify<'a>(
        &'a self,
        directory: &'a str,
        dn: Option<&'a str>,
        password: &'a Arc<Password>,
    ) -> Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>> {
        Box::pin(async move {
            match self.configured(directory) {
                Some(Configured::Ldap(_, verifier)) => {
                    verifier.verify(dn, password).await.map_err(|error| error.to_string())
                }
                Some(Configured::Ldif) => {
                    Err(format!("the directory {directory} is a file, which verifies no passwords"))
                }
                None => Err(format!("the directory {directory} is not configured")),
            }
        })
    }
}
