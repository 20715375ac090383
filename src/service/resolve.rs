//! The user whom an administrator means.

use std::sync::Arc;

use super::admin::{Admin, AdminError, blocking};
use super::answers::MovingPerson;
use crate::domain::mapping::unhex;
use crate::domain::name::{Name, StableId};
use crate::domain::user::{User, UserKey};
use crate::store::{ReadView, StoreError};

/// Names of a user that are looked at for removed entries, and entries that are shown: more help nobody.
const NAMES_LOOKED_AT: usize = 100;
const REMOVED_SHOWN: usize = 10;

/// Which of several users with the same name, id or DN is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// The owner of the name; of several entries the living one.
    Anyone,
    /// The owner of the name, and not somebody who only claims it.
    Owner,
    /// Who holds a seat, though the name may belong to another entry now.
    Holder,
    /// A tombstone.
    Removed,
    /// The living one.
    Living,
}

impl Admin {
    /// Finds a user by an address, a login name, a stable id as `explain` shows it, or a DN; tombstones too. Where one
    /// name has two owners, or one id stands in two directories, nobody is guessed.
    pub(super) async fn resolve(&self, view: &Arc<ReadView>, text: &str) -> Result<UserKey, AdminError> {
        self.resolve_as(view, text, Wanted::Anyone).await
    }

    pub(super) async fn resolve_as(
        &self,
        view: &Arc<ReadView>,
        text: &str,
        wanted: Wanted,
    ) -> Result<UserKey, AdminError> {
        let name = self.parse(text);
        let found = match id(text) {
            Some(id) => view.find_by_id(&id)?,
            None if text.contains('=') => {
                let (view, dn) = (Arc::clone(view), text.trim().to_owned());
                blocking(move || view.find_by_dn(&dn)).await?
            }
            None => Vec::new(),
        };
        match (the_one(view, text, &name, found, wanted)?, name) {
            (Some(key), _) => Ok(key),
            (None, Ok(name)) if view.name_rules().is_administrator(&name) => {
                Err(AdminError::OnlyAdministrator(name.to_string()))
            }
            (None, Ok(name)) => Err(AdminError::NoSuchUser(name.to_string())),
            (None, Err(error)) => Err(error),
        }
    }
}

/// The owner of this name, or the user with this stable id; `None` for nobody. A DN is not looked up, since that reads every user.
pub(super) fn by_name_or_id(
    view: &ReadView,
    text: &str,
    name: &Result<Name, AdminError>,
) -> Result<Option<UserKey>, AdminError> {
    let found = id(text).map(|id| view.find_by_id(&id)).transpose()?.unwrap_or_default();
    the_one(view, text, name, found, Wanted::Owner)
}

fn id(text: &str) -> Option<StableId> {
    unhex(text).and_then(|bytes| StableId::new(&bytes))
}

/// Of those who were found by an id or a DN, and the one who is found by the name, the one who is wanted.
fn the_one(
    view: &ReadView,
    text: &str,
    name: &Result<Name, AdminError>,
    mut found: Vec<UserKey>,
    wanted: Wanted,
) -> Result<Option<UserKey>, AdminError> {
    let by_name = name.as_ref().ok().map(|name| by_name(view, name, wanted)).transpose()?.flatten();
    if let Some(one) = only(view, &found, wanted)? {
        found = vec![one];
    }
    // A user may have a name that looks like the id or the DN of another.
    found.extend(by_name.filter(|key| !found.contains(key)));
    match found.as_slice() {
        [] => Ok(None),
        [key] => Ok(Some(*key)),
        several => Err(ambiguous(view, text, several)?),
    }
}

fn by_name(view: &ReadView, name: &Name, wanted: Wanted) -> Result<Option<UserKey>, AdminError> {
    let owners = view.owners(name)?;
    let mut owners: Vec<UserKey> = [owners.login, owners.mail].into_iter().flatten().collect();
    owners.dedup();
    if !matches!(wanted, Wanted::Anyone | Wanted::Owner) {
        if let Some(owner) = only(view, &owners, wanted)? {
            return Ok(Some(owner));
        }
        // A name that went to another entry still means the one that had it.
        // Only a tombstone: a name is never a way to somebody who lives and claims it without owning it.
        let mut fitting = Vec::new();
        for key in view.users_claiming(name)? {
            if fits(view, key, Wanted::Removed)? && fits(view, key, wanted)? {
                fitting.push(key);
            }
        }
        match fitting.as_slice() {
            [] => {}
            [one] => return Ok(Some(*one)),
            several => return Err(ambiguous(view, name.as_str(), several)?),
        }
    }
    match owners.as_slice() {
        [one] => Ok(Some(*one)),
        [] if wanted == Wanted::Owner => Ok(None),
        // A name that was withheld from the only user who has it still means that user.
        [] => Ok(match view.users_claiming(name)?.as_slice() {
            [only] => Some(*only),
            _ => None,
        }),
        several => Err(ambiguous(view, name.as_str(), several)?),
    }
}

/// The only one of these who is wanted.
fn only(view: &ReadView, keys: &[UserKey], wanted: Wanted) -> Result<Option<UserKey>, StoreError> {
    let mut fitting = Vec::new();
    for key in keys {
        if fits(view, *key, wanted)? {
            fitting.push(*key);
        }
    }
    Ok(if let [one] = fitting.as_slice() { Some(*one) } else { None })
}

fn fits(view: &ReadView, key: UserKey, wanted: Wanted) -> Result<bool, StoreError> {
    let is_living = || Ok::<bool, StoreError>(view.user_of(key)?.is_some_and(|user| user.is_living()));
    match wanted {
        Wanted::Holder => Ok(view.seat_of(key)?.is_some()),
        Wanted::Removed => Ok(!is_living()?),
        Wanted::Living | Wanted::Owner | Wanted::Anyone => is_living(),
    }
}

/// Tombstones that hold a seat and have a name of this user: mostly the same person, loaded again under a new id.
pub(super) fn removed_holders(
    view: &ReadView,
    key: UserKey,
    user: &User,
) -> Result<Vec<MovingPerson>, StoreError> {
    let mut found: Vec<UserKey> = Vec::new();
    for name in user.mapped.names().take(NAMES_LOOKED_AT) {
        for other in view.users_claiming(name)?.into_iter().take(NAMES_LOOKED_AT) {
            if other != key && !found.contains(&other) && view.seat_of(other)?.is_some() {
                found.push(other);
            }
        }
    }
    let mut holders = Vec::new();
    for other in found {
        let Some(details) = view.details(other)? else { continue };
        if !details.user.is_living() {
            holders.push(details.into());
        }
    }
    holders.truncate(REMOVED_SHOWN);
    Ok(holders)
}

fn ambiguous(view: &ReadView, text: &str, keys: &[UserKey]) -> Result<AdminError, StoreError> {
    let mut users = Vec::new();
    for key in keys {
        if let Some(details) = view.details(*key)? {
            let directory = details.directory.unwrap_or_else(|| details.origin.to_string());
            let removed = if details.user.is_living() { "" } else { ", removed" };
            users.push(format!("{} ({directory}, id {}{removed})", details.name, details.user.mapped.id));
        }
    }
    Ok(AdminError::Ambiguous(text.to_owned(), users.join(" and ")))
}
