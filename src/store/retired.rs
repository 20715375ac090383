//! Directories that are not configured any more: carried over to another name, or forgotten.
//!
//! Each part is bounded, so that a waiting login does not notice, and each person is in one part as a whole. What was
//! begun goes on when the same is asked again.

use std::sync::Arc;

use jiff::Timestamp;
use redb::ReadableTable;

use super::carry::{Kin, Moved};
use super::names::NameLookup;
use super::tables::{Lookup, names_from_key};
use super::transaction::Transaction;
use super::view::ids_of;
use super::writer::Command;
use super::{ReadView, Released, Store, StoreError};
use crate::domain::moves::NotMoved;
use crate::domain::seats::ReleaseReason;
use crate::domain::user::{DirectoryId, Origin, User, UserKey};

/// Users in one part: some milliseconds.
const PART: usize = 200;

/// Why a stored directory stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotRetired {
    /// Nothing of it is stored.
    Unknown,
    /// It is configured.
    Configured,
    /// The directory that is to take its users is not configured.
    NoTarget,
}

/// One part of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// Users who are in the directory no longer.
    pub users: u64,
    /// How many of them were in the directory that takes them already.
    pub known: u64,
    /// Seats that were released, second seats of one person among them.
    pub released: Vec<Released>,
    /// Those whose seat is another entry's, or another directory's, now.
    pub moved: Vec<Moved>,
    /// Nothing is left of the directory.
    pub is_done: bool,
}

impl Part {
    fn add(&mut self, mut moved: Moved) {
        self.released.extend(moved.released.take());
        self.moved.push(moved);
    }
}

/// What becomes of the seats of one user when a directory is carried over to another name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HandedOver {
    /// The directory that takes the user has an entry with the same stable id.
    pub is_known: bool,
    /// The user holds a seat afterwards.
    pub seat: bool,
    /// A seat is released because the same person has another one.
    pub second: bool,
    /// The only seat is released: the entry in the new directory is disabled or not a person.
    pub loses: bool,
}

impl ReadView {
    /// What [`Store::rename_some`] would make of a user.
    pub fn handed_over(
        &self,
        key: UserKey,
        user: &User,
        to: Option<DirectoryId>,
    ) -> Result<HandedOver, StoreError> {
        let twin = to.map(|to| self.key_by_id(to, &user.mapped.id)).transpose()?.flatten();
        let held = self.seat(key)?.is_some();
        let Some(twin) = twin else { return Ok(HandedOver { seat: held, ..HandedOver::default() }) };
        let other = Lookup::user(self, twin)?.ok_or(StoreError::Corrupt("ids"))?;
        let has_own = self.seat(twin)?.is_some();
        // Who goes on: a tombstone gives way.
        let (goes_on, comes_along) = match other.is_living() {
            true => (other.needs_seat(), held && !has_own),
            false => (user.mapped.is_active(), held || has_own),
        };
        Ok(HandedOver {
            is_known: true,
            seat: comes_along && goes_on,
            second: held && has_own,
            loses: comes_along && !goes_on,
        })
    }
}

impl Store {
    /// Forgets some users of a directory that is not configured; with the last of them, the directory.
    pub async fn forget_some(
        &self,
        directory: &str,
        now: Timestamp,
    ) -> Result<Result<Part, NotRetired>, StoreError> {
        let directory = directory.to_owned();
        self.ask(|reply| Command::Retire { directory, to: None, now, reply }).await
    }

    /// Carries some users of a directory that is not configured over to one that is; with the last of them, all else
    /// that is stored of it.
    pub async fn rename_some(
        &self,
        directory: &str,
        to: &str,
        now: Timestamp,
    ) -> Result<Result<Part, NotRetired>, StoreError> {
        let (directory, to) = (directory.to_owned(), Some(to.to_owned()));
        self.ask(|reply| Command::Retire { directory, to, now, reply }).await
    }
}

impl Transaction<'_> {
    /// One part of forgetting a directory, or of carrying it over to another one.
    pub(super) fn retire(
        &mut self,
        name: &str,
        to: Option<&str>,
        now: Timestamp,
    ) -> Result<Result<Part, NotRetired>, StoreError> {
        let record = self.directories().named(name).filter(|record| record.origin() == Origin::Mapped);
        let Some(from) = record.map(|record| record.id) else { return Ok(Err(NotRetired::Unknown)) };
        if self.rules.is_configured(name) {
            return Ok(Err(NotRetired::Configured));
        }
        if to.is_some_and(|to| !self.rules.is_configured(to)) {
            return Ok(Err(NotRetired::NoTarget));
        }
        let to = to.map(|to| self.directory(to)).transpose()?;
        let rows = self.ids.range(ids_of(from))?.take(PART);
        let keys: Vec<UserKey> =
            rows.map(|row| Ok(UserKey(row?.1.value()))).collect::<Result<_, StoreError>>()?;
        let mut part = Part::default();
        for key in &keys {
            let user = self.user(*key)?.ok_or(StoreError::Corrupt("ids"))?;
            match to {
                Some(to) => self.hand_over(*key, user, to, now, &mut part)?,
                None => self.drop_user(*key, &user, now, &mut part)?,
            }
            part.users += 1;
        }
        if keys.len() < PART {
            self.close_directory(name, from, to)?;
            part.is_done = true;
        }
        Ok(Ok(part))
    }

    /// The seat goes to another entry of the same person, where there is one.
    fn drop_user(
        &mut self,
        key: UserKey,
        user: &User,
        now: Timestamp,
        part: &mut Part,
    ) -> Result<(), StoreError> {
        self.bequeath(key, user, now)?.into_iter().for_each(|moved| part.add(moved));
        part.released.extend(self.release(key, ReleaseReason::Removed, now)?);
        if let Some(removed_at) = user.removed_at {
            self.tombstones.remove((removed_at.as_millisecond(), key.0))?;
        }
        self.forget(key)
    }

    /// An administrator says that it is the same directory, so the same id is the same person whoever made it.
    fn hand_over(
        &mut self,
        key: UserKey,
        user: User,
        to: DirectoryId,
        now: Timestamp,
        part: &mut Part,
    ) -> Result<(), StoreError> {
        if let Some(other) = self.key_by_id(to, &user.mapped.id)? {
            let twin = self.user(other)?.ok_or(StoreError::Corrupt("ids"))?;
            if twin.is_living() {
                match self.carry(key, other, Kin::SameId, now)? {
                    Ok(moved) => part.add(moved),
                    Err(NotMoved::HasSeat) => {
                        part.released.extend(self.release(key, ReleaseReason::SamePerson, now)?);
                    }
                    Err(_) => {}
                }
                part.known += 1;
                return self.drop_user(key, &user, now, part);
            }
            // A tombstone gives way to who may live. The next complete reading shows who does.
            if user.mapped.is_active() {
                part.released.extend(self.carry_all(other, key, now)?.released);
            }
            part.known += 1;
            self.drop_user(other, &twin, now, part)?;
        }
        let from = self.party(key)?;
        let seat = self.seat(key)?.is_some();
        self.change_directory(key, user, to)?;
        if seat {
            part.moved.push(Moved { from, to: self.party(key)?, seat, released: None });
        }
        Ok(())
    }

    /// Nobody is left in it.
    fn close_directory(
        &mut self,
        name: &str,
        from: DirectoryId,
        to: Option<DirectoryId>,
    ) -> Result<(), StoreError> {
        if let (Some(to), Some(old)) = (to, self.directories.get(&from).cloned()) {
            self.directories.change(to, |new| {
                new.hour = if new.hour == Default::default() { old.hour } else { new.hour.clone() };
                if new.last_success.is_none() {
                    // It counts as mapped: its users are known.
                    (new.last_success, new.generation, new.skipped, new.left_out) =
                        (old.last_success, old.generation, old.skipped, old.left_out);
                }
            });
            self.changed_directories.insert(to);
        }
        self.directories.remove(from);
        self.directory_records.remove(name)?;
        self.cookies.remove(from.0)?;
        self.settings.remove(names_from_key(from).as_str())?;
        self.mapped.take();
        self.keep_rules(Arc::new(self.rules.forgetting(name)))
    }
}
