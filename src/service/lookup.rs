//! What mail servers look up about addresses, beside the decision who may come in.

use super::{Admission, AdmitError};
use crate::domain::name::Name;
use crate::domain::names::Purpose;
use crate::domain::user::Kind;

/// Whose address it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resident {
    /// Person or not.
    pub kind: Kind,
    /// By the directory.
    pub enabled: bool,
    /// Gone from the directory, in the grace period.
    pub removed: bool,
    /// Holds a seat, or needs none.
    pub seated: bool,
    /// The address that asked, in its compared form.
    pub name: Name,
    /// The main address.
    pub primary: Name,
    /// A login name that the user owns; an address that they log in with, where the entry has no login name.
    pub login: Option<Name>,
}

impl Resident {
    /// The internal administrator of whom no directory and no account knows: is let in all the same.
    fn administrator(name: Name) -> Resident {
        Resident {
            kind: Kind::Person,
            enabled: true,
            removed: false,
            seated: true,
            primary: name.clone(),
            login: Some(name.clone()),
            name,
        }
    }
}

impl Admission {
    /// Whether a mail domain is one of ours: a directory serves it, names without a domain are in it, or there
    /// are local or imported accounts of it.
    pub fn serves(&self, domain: &str) -> bool {
        // An upper-case letter can only come from a client: what we serve is kept in lower case.
        let domain = domain.to_ascii_lowercase();
        let settings = self.0.settings();
        self.0.coverage().directory_of(&domain).is_some()
            || settings.default_domain.as_ref().is_some_and(|default| default.as_str() == domain)
            || self.0.store.view().has_accounts_in(&domain)
    }

    /// Whether mail to this address has an owner.
    pub fn knows(&self, address: &str) -> Result<bool, AdmitError> {
        let Ok(name) = Name::parse(address, None) else { return Ok(false) };
        let view = self.0.store.view();
        Ok(view.find(&name, Purpose::Mail)?.is_some() || view.name_rules().is_administrator(&name))
    }

    /// Who has this address; `None` for nobody, and for a text that is no whole address.
    pub fn resident(&self, address: &str) -> Result<Option<Resident>, AdmitError> {
        let Ok(name) = Name::parse(address, None) else { return Ok(None) };
        let store = &self.0.store;
        let view = store.view();
        let found = match view.find(&name, Purpose::Mail)? {
            Some(key) => view.user_of(key)?.map(|user| (key, user)),
            None => None,
        };
        if found.is_none() && view.name_rules().is_administrator(&name) {
            return Ok(Some(Resident::administrator(name)));
        }
        let Some((key, user)) = found else {
            return match self.may_be_unmapped(&name) {
                Some(directory) => Err(AdmitError::NotMapped(directory)),
                None => Ok(None),
            };
        };
        let primary = view.shown_name_of(key, &user)?;
        // Who always enters, with an account or without one.
        let is_administrator = view.is_administrator(&name, Some(key))?;
        let seated = is_administrator
            || view.seat_holder(key)?.is_some()
            || view.needs_no_seat(key, &store.policy())?;
        Ok(Some(Resident {
            kind: user.mapped.kind,
            enabled: user.mapped.enabled || is_administrator,
            removed: !user.is_living(),
            seated,
            login: view.login_name(key, &user)?,
            name,
            primary,
        }))
    }
}
