//! What a sweep would take away, judged against the store: the same for a view and inside a transaction.

use super::tables::Lookup;
use super::view::{living, unseen};
use super::{ReadView, StoreError};
use crate::domain::brake::{Affected, becomes_seatless, held_back};
use crate::domain::sync::{Authority, Stored, Sweep, Verdict};
use crate::domain::user::{DirectoryId, Kind, Mapped, User, UserKey};

/// Users of a directory who are gone, by what a sweep saw.
type Gone<'a> = Box<dyn Iterator<Item = Result<(UserKey, Kind), StoreError>> + 'a>;

impl ReadView {
    /// The user whom an entry is about, for a sweep to compare with.
    pub fn stored(&self, directory: DirectoryId, mapped: &Mapped) -> Result<Option<Stored>, StoreError> {
        let Some((key, user)) = self.user_by_id(directory, &mapped.id)? else { return Ok(None) };
        let gives_up_seat = gives_up_seat(self, key, &user, mapped)?;
        Ok(Some(Stored { key, user, gives_up_seat }))
    }

    /// Ends a sweep that was complete. Reads every user of the directory, or every one that was named.
    pub fn conclude(
        &self,
        sweep: &Sweep,
        directory: DirectoryId,
        authority: Authority,
    ) -> Result<Verdict, StoreError> {
        conclude(self, sweep, directory, authority)
    }

    /// What may be written of entries that the brake holds back.
    pub fn held_back(
        &self,
        sweep: &Sweep,
        entries: Vec<(UserKey, Mapped)>,
    ) -> Result<Vec<Mapped>, StoreError> {
        entries.into_iter().map(|(key, mapped)| keep(self, sweep, key, mapped)).collect()
    }
}

/// Whether a user holds a seat, and needs none by this entry.
pub(super) fn gives_up_seat<T: Lookup>(
    tables: &T,
    key: UserKey,
    user: &User,
    mapped: &Mapped,
) -> Result<bool, StoreError> {
    Ok(becomes_seatless(user, mapped) && tables.seat(key)?.is_some())
}

pub(super) fn conclude<T: Lookup>(
    tables: &T,
    sweep: &Sweep,
    directory: DirectoryId,
    authority: Authority,
) -> Result<Verdict, StoreError> {
    let gone = || -> Result<Gone<'_>, StoreError> {
        Ok(match authority {
            Authority::Everything => Box::new(unseen(tables, directory, |key| sweep.has_seen(key))?),
            Authority::Named => Box::new(living(tables, sweep.named_gone())),
        })
    };
    let mut verdict = sweep.conclude(authority, gone()?)?;
    if let Some(held) = &mut verdict.held {
        held.affected = affected(tables, sweep.held_users(held, gone()?))?;
    }
    Ok(verdict)
}

/// See [`held_back`].
pub(super) fn keep<T: Lookup>(
    tables: &T,
    sweep: &Sweep,
    key: UserKey,
    mapped: Mapped,
) -> Result<Mapped, StoreError> {
    let user = tables.user(key)?;
    Ok(match &user {
        Some(user) => held_back(user, mapped, sweep.now()),
        None => mapped,
    })
}

fn affected<T: Lookup>(
    tables: &T,
    keys: impl Iterator<Item = Result<UserKey, StoreError>>,
) -> Result<Affected, StoreError> {
    let (mut holders, mut others, mut seats) = (Vec::new(), Vec::new(), 0);
    for key in keys {
        let key = key?;
        let is_holder = tables.seat(key)?.is_some();
        seats += u64::from(is_holder);
        let shown = if is_holder { &mut holders } else { &mut others };
        if shown.len() < Affected::SHOWN {
            shown.push(key);
        }
    }
    let mut users = Vec::new();
    for key in holders.into_iter().chain(others).take(Affected::SHOWN) {
        if let Some(user) = tables.user(key)? {
            users.push(tables.shown_name(key, &user)?);
        }
    }
    Ok(Affected { users, seats })
}
