//! Lists of users, read one by one from one state of the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::answers::UserLine;
use super::logins::latest;
use crate::domain::name::Name;
use crate::domain::seats::last_used;
use crate::domain::user::UserKey;
use crate::store::{ReadView, StoreError, UserDetails};

/// Which users to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserQuery {
    /// Only holders, or only others.
    pub seated: Option<bool>,
    /// Only users who were active once, but not for this long.
    pub inactive: Option<Duration>,
    /// Only users who never logged in.
    pub never: bool,
    /// Only users who count in this mail domain.
    pub domain: Option<String>,
    /// The order.
    pub sort: UserSort,
}

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UserSort {
    /// By the name shown.
    #[default]
    Name,
    /// The longest away first; who never came before all.
    LastLogin,
    /// The oldest seat first; who holds none behind all.
    Granted,
}

/// A list of users.
pub struct UserList {
    view: Arc<ReadView>,
    /// Logins that the view does not have yet.
    unwritten: HashMap<UserKey, Timestamp>,
    query: UserQuery,
    now: Timestamp,
}

impl UserList {
    pub(super) fn new(
        view: Arc<ReadView>,
        unwritten: HashMap<UserKey, Timestamp>,
        query: UserQuery,
        now: Timestamp,
    ) -> UserList {
        let domain = query.domain.map(|domain| domain.to_lowercase());
        UserList { view, unwritten, query: UserQuery { domain, ..query }, now }
    }

    /// Calls `each` with every line in order until it says stop; blocks while it reads.
    pub fn for_each(&self, mut each: impl FnMut(UserLine) -> bool) -> Result<(), StoreError> {
        for key in self.sorted_keys()? {
            let Some(mut details) = self.view.details(key)? else { continue };
            details.last_login = latest(details.last_login, self.unwritten.get(&key).copied());
            if !each(line(details)) {
                break;
            }
        }
        Ok(())
    }

    fn last_login(&self, key: UserKey) -> Result<Option<Timestamp>, StoreError> {
        let login = latest(self.view.last_login_of(key)?, self.unwritten.get(&key).copied());
        Ok(login.map(|login| login.at))
    }

    /// Only keys and what they are sorted by are kept, not whole users.
    fn sorted_keys(&self) -> Result<Vec<UserKey>, StoreError> {
        let mut keys: Vec<(Option<i64>, String, UserKey)> = Vec::new();
        for key in self.view.user_keys()? {
            let key = key?;
            if !self.is_wanted(key)? {
                continue;
            }
            let time = match self.query.sort {
                UserSort::Name => None,
                UserSort::LastLogin => self.last_login(key)?.map(Timestamp::as_millisecond),
                UserSort::Granted => {
                    Some(self.view.seat_of(key)?.map_or(i64::MAX, |seat| seat.granted_at.as_millisecond()))
                }
            };
            let name = match self.query.sort {
                UserSort::Name => self.view.name_of(key)?.map(|name| name.to_string()).unwrap_or_default(),
                _ => String::new(),
            };
            keys.push((time, name, key));
        }
        keys.sort_unstable();
        Ok(keys.into_iter().map(|(_, _, key)| key).collect())
    }

    fn is_wanted(&self, key: UserKey) -> Result<bool, StoreError> {
        if !self.view.is_person(key)? {
            return Ok(false);
        }
        if let Some(domain) = &self.query.domain
            && self.view.mail_domain_of(key)?.as_ref() != Some(domain)
        {
            return Ok(false);
        }
        let login = self.last_login(key)?;
        if self.query.never && login.is_some() {
            return Ok(false);
        }
        let seat = self.view.seat_of(key)?;
        if self.query.seated.is_some_and(|wanted| wanted != seat.is_some()) {
            return Ok(false);
        }
        let Some(inactive) = self.query.inactive else { return Ok(true) };
        let active_at = match &seat {
            Some(seat) => Some(last_used(seat, login)),
            None => login,
        };
        let cutoff = self.now.checked_sub(inactive).unwrap_or(Timestamp::MIN);
        Ok(active_at.is_some_and(|at| at < cutoff))
    }
}

fn line(details: UserDetails) -> UserLine {
    UserLine {
        user: details.name.to_string(),
        names: details.user.mapped.names().map(Name::to_string).collect(),
        id: details.user.mapped.id.to_string(),
        dn: details.user.mapped.dn.to_string(),
        display_name: details.user.mapped.display_name.map(String::from),
        directory: details.directory,
        origin: details.origin.to_string(),
        enabled: details.user.mapped.enabled,
        removed_at: details.user.removed_at,
        seat_since: details.seat.map(|seat| seat.granted_at),
        last_login: details.last_login.map(|login| login.at),
    }
}
