//! What mail servers look up about addresses, beside the decision who may come in.

use super::{Admission, AdmitError};
use crate::domain::name::Name;
use crate::domain::user::Kind;
use crate::store::DirectoryRecord;

/// Whose address it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resident {
    /// Person or not.
    pub kind: Kind,
    /// By the directory.
    pub enabled: bool,
    /// Gone from the directory, in the grace period.
    pub removed: bool,
    /// Holds a seat.
    pub seated: bool,
    /// The address that asked, in its compared form.
    pub name: Name,
    /// The main address.
    pub primary: Name,
    /// The login name; the main address where there is none.
    pub login: Name,
}

impl Admission {
    /// Whether a mail domain is one of ours: a directory serves it, names without a domain are in it, or there
    /// are local or imported accounts of it.
    pub fn serves(&self, domain: &str) -> bool {
        let settings = self.0.settings();
        let mut served = settings.directories.iter().map(|(_, domain)| domain);
        let is_it = |ours: &str| ours.eq_ignore_ascii_case(domain);
        let has_accounts = |record: &DirectoryRecord| {
            record.census.people > 0 && record.accounts_domain().is_some_and(is_it)
        };
        served.any(|served| is_it(served.as_str()))
            || settings.default_domain.as_ref().is_some_and(|default| is_it(default.as_str()))
            || self.0.store.view().directories().any(has_accounts)
    }

    /// Whether somebody has this address.
    pub fn knows(&self, address: &str) -> Result<bool, AdmitError> {
        let Ok(name) = Name::parse(address, None) else { return Ok(false) };
        Ok(self.0.store.view().find(&name)?.is_some())
    }

    /// Who has this address; `None` for nobody, and for a text that is no whole address.
    pub fn resident(&self, address: &str) -> Result<Option<Resident>, AdmitError> {
        let Ok(name) = Name::parse(address, None) else { return Ok(None) };
        let store = &self.0.store;
        let view = store.view();
        let found = match view.find(&name)? {
            Some(key) => view.user_of(key)?.map(|user| (key, user)),
            None => None,
        };
        let Some((key, user)) = found else {
            return match self.may_be_unmapped(&name, &self.0.settings()) {
                Some(directory) => Err(AdmitError::NotMapped(directory)),
                None => Ok(None),
            };
        };
        let primary = view.shown_name_of(key, &user)?;
        Ok(Some(Resident {
            kind: user.mapped.kind,
            enabled: user.mapped.enabled,
            removed: !user.is_living(),
            seated: view.seat_of(key)?.is_some(),
            login: user.mapped.logins.first().unwrap_or(&primary).clone(),
            name,
            primary,
        }))
    }
}
