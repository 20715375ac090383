//! A user who comes back in another directory: the stable id of a server is unique everywhere, so it is the same person.

use jiff::Timestamp;
use redb::ReadableTable;

use super::carry::{Kin, Moved};
use super::tables::Lookup;
use super::transaction::Transaction;
use super::{ReadView, StoreError, codec};
use crate::domain::moves::{Standing, succeeds};
use crate::domain::name::StableId;
use crate::domain::user::{DirectoryId, Origin, User, UserKey};

/// What a read view and a transaction know of people with several entries.
pub(super) trait Kinship: Lookup {
    /// The users of these directories who have this stable id, where a server made it: accounts, imports and ids that
    /// anybody may have written have no others.
    fn others(
        &self,
        directory: DirectoryId,
        id: &StableId,
        among: impl Iterator<Item = DirectoryId>,
    ) -> Result<Vec<UserKey>, StoreError> {
        let is_mapped = self.directories().get(&directory).is_some_and(|it| it.origin() == Origin::Mapped);
        if !is_mapped || !id.is_server_made() {
            return Ok(Vec::new());
        }
        let found = among.filter(|other| *other != directory).map(|other| self.key_by_id(other, id));
        found.filter_map(Result::transpose).collect()
    }

    /// The directories of mapped users. There may be thousands of records of accounts beside them.
    fn mapped_directories(&self) -> Vec<DirectoryId> {
        let records = self.directories().values();
        records.filter(|record| record.origin() == Origin::Mapped).map(|record| record.id).collect()
    }

    fn standing<'a>(&'a self, user: &User) -> Result<Standing<'a>, StoreError> {
        let record = self.directories().get(&user.directory).ok_or(StoreError::Corrupt("directories"))?;
        Ok(Standing { directory: &record.name, is_living: user.is_living() })
    }

    /// Whether what `old` holds goes to `new`, who has the same stable id.
    fn goes_to(&self, old: &User, new: &User) -> Result<bool, StoreError> {
        Ok(succeeds(self.standing(old)?, self.standing(new)?, self.rules()))
    }

    /// Whether two entries with the same stable id have one seat at most. A directory may be out of the configuration by
    /// mistake, so that its users keep theirs.
    fn share_a_seat(&self, old: &User, new: &User) -> Result<bool, StoreError> {
        let (from, to) = (self.standing(old)?, self.standing(new)?);
        Ok(!from.is_living || self.rules().has_moved(from.directory, to.directory))
    }

    /// The living entry to which what this user holds goes: one whose directory says so, else the first in the file.
    fn heir(&self, user: &User, others: &[UserKey]) -> Result<Option<UserKey>, StoreError> {
        let from = self.standing(user)?.directory;
        let mut heirs = Vec::new();
        for key in others {
            let other = self.user(*key)?.ok_or(StoreError::Corrupt("users"))?;
            if !other.needs_seat() || !self.goes_to(user, &other)? {
                continue;
            }
            let is_seated = self.seats().get(key.0)?.is_some();
            if !is_seated || self.share_a_seat(user, &other)? {
                let to = self.standing(&other)?.directory;
                heirs.push((!self.rules().has_moved(from, to), is_seated, self.rules().order(to), *key));
            }
        }
        Ok(heirs.into_iter().min().map(|(.., key)| key))
    }

    /// Every holder whose seat goes to another entry, with that entry.
    fn reunions(&self) -> Result<Vec<(UserKey, UserKey)>, StoreError> {
        let mut pairs = Vec::new();
        let mapped = self.mapped_directories();
        // Alone it has nobody to give to.
        for row in self.seats().iter()?.take_while(|_| mapped.len() > 1) {
            let key = UserKey(row?.0.value());
            let Some(user) = self.user(key)? else { continue };
            let others = self.others(user.directory, &user.mapped.id, mapped.iter().copied())?;
            pairs.extend(self.heir(&user, &others)?.map(|heir| (key, heir)));
        }
        Ok(pairs)
    }

    /// Who holds the seat of a living user: the user, or another entry of the same person.
    fn holder_of(&self, key: UserKey, directory: DirectoryId) -> Result<Option<UserKey>, StoreError> {
        if self.seats().get(key.0)?.is_some() {
            return Ok(Some(key));
        }
        self.kin_with_seat(key, directory)
    }

    /// The holder of the seat of a user who holds none under their own entry, though both entries may live.
    fn kin_with_seat(
        &self,
        UserKey(key): UserKey,
        directory: DirectoryId,
    ) -> Result<Option<UserKey>, StoreError> {
        let Some(record) = self.directories().get(&directory) else { return Ok(None) };
        if record.origin() != Origin::Mapped {
            return Ok(None);
        }
        let mut names = self.rules().kin_of(&record.name).peekable();
        if names.peek().is_none() {
            return Ok(None);
        }
        let Some(bytes) = self.users().get(key)? else { return Ok(None) };
        let (_, id, _) = codec::decode_user_identity(bytes.value())?;
        let records = names.filter_map(|name| self.directories().named(name));
        for other in self.others(directory, &id, records.map(|record| record.id))? {
            if self.seats().get(other.0)?.is_some() {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }
}

impl<T: Lookup> Kinship for T {}

impl ReadView {
    /// Who holds the seat of a user: another entry of the same person, where there are two. A tombstone has its own.
    pub fn seat_holder(&self, key: UserKey) -> Result<Option<UserKey>, StoreError> {
        match self.user_head(key)? {
            Some(head) if head.removed_at.is_none() => self.holder_of(key, head.directory),
            _ => Ok(self.seat(key)?.map(|_| key)),
        }
    }

    /// The living entry of the same person to which what this user holds goes.
    pub fn heir_of(&self, user: &User) -> Result<Option<UserKey>, StoreError> {
        let others = self.others(user.directory, &user.mapped.id, self.mapped_directories().into_iter())?;
        self.heir(user, &others)
    }

    /// Holders whose seat goes to another entry of theirs, with that entry: what a changed configuration moves. Reads
    /// every holder: run it where blocking is allowed.
    pub fn reunions(&self) -> Result<Vec<(UserKey, UserKey)>, StoreError> {
        Kinship::reunions(self)
    }
}

impl Transaction<'_> {
    /// The users of other directories who have this stable id.
    pub(super) fn other_entries(
        &self,
        directory: DirectoryId,
        id: &StableId,
    ) -> Result<Vec<UserKey>, StoreError> {
        let has_users =
            |id: &DirectoryId| self.directories().get(id).is_some_and(|record| record.census.users() > 0);
        let mapped = self.mapped.get_or_init(|| self.mapped_directories());
        self.others(directory, id, mapped.iter().copied().filter(has_users))
    }

    /// Moves one of the entries with this stable id to `directory`, if its own is not configured any more: one that
    /// holds a seat before the others. Returns the user and the name of that directory. Seat, components, last login,
    /// refusals and history stand under the user's key and come along.
    pub(super) fn relocate(
        &mut self,
        directory: DirectoryId,
        others: &[UserKey],
    ) -> Result<Option<(UserKey, String)>, StoreError> {
        let mut found: Option<(UserKey, User, String)> = None;
        for key in others {
            let user = self.user(*key)?.ok_or(StoreError::Corrupt("users"))?;
            let standing = self.standing(&user)?;
            if self.rules.is_configured(standing.directory) {
                continue;
            }
            if found.is_none() || self.seat(*key)?.is_some() {
                let from = standing.directory.to_owned();
                found = Some((*key, user, from));
            }
        }
        let Some((key, user, from)) = found else { return Ok(None) };
        self.change_directory(key, user, directory)?;
        Ok(Some((key, from)))
    }

    /// Carries over to a living user what other entries with the same stable id hold, if it goes to this one. A user
    /// who comes back within the grace period gets back what went to another entry.
    pub(super) fn gather(
        &mut self,
        key: UserKey,
        user: &User,
        others: &[UserKey],
        at: Timestamp,
    ) -> Result<Vec<Moved>, StoreError> {
        let mut moved = Vec::new();
        for other in others.iter().filter(|other| **other != key) {
            let Some(old) = self.user(*other)? else { continue };
            let is_given_back = self.carried_to(key)? == Some(*other)
                && self.seats.get(key.0)?.is_none()
                && !self.goes_to(user, &old)?;
            if is_given_back || self.goes_to(&old, user)? {
                moved.extend(self.carry(*other, key, Kin::SameId, at)?.ok());
            }
        }
        Ok(moved)
    }

    /// Carries over what a new tombstone holds, where the person lives under another entry.
    pub(super) fn bequeath(
        &mut self,
        key: UserKey,
        user: &User,
        at: Timestamp,
    ) -> Result<Option<Moved>, StoreError> {
        let others = self.other_entries(user.directory, &user.mapped.id)?;
        let Some(heir) = self.heir(user, &others)? else { return Ok(None) };
        Ok(self.carry(key, heir, Kin::SameId, at)?.ok())
    }

    /// Carries a new seat over, where `moved_from` says that it is another entry's.
    pub(super) fn pass_on(&mut self, key: UserKey, at: Timestamp) -> Result<(), StoreError> {
        if self.rules.directories().iter().all(|directory| directory.moved_from.is_empty()) {
            return Ok(());
        }
        let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
        self.bequeath(key, &user, at).map(drop)
    }

    /// Carries over what somebody holds who is not an enabled person any more, where another entry of the same person
    /// lives and is.
    pub(super) fn pass_to_kin(
        &mut self,
        key: UserKey,
        user: &User,
        at: Timestamp,
    ) -> Result<Option<Moved>, StoreError> {
        if self.seats.get(key.0)?.is_none() {
            return Ok(None);
        }
        for other in self.other_entries(user.directory, &user.mapped.id)? {
            let kin = self.user(other)?.ok_or(StoreError::Corrupt("users"))?;
            if kin.needs_seat() && (self.goes_to(user, &kin)? || self.goes_to(&kin, user)?) {
                return Ok(self.carry(key, other, Kin::SameId, at)?.ok());
            }
        }
        Ok(None)
    }

    pub(super) fn change_directory(
        &mut self,
        key: UserKey,
        user: User,
        to: DirectoryId,
    ) -> Result<(), StoreError> {
        let is_seated = self.seat(key)?.is_some();
        let moved = User { directory: to, ..user.clone() };
        self.ids.remove((user.directory.0, user.mapped.id.as_bytes()))?;
        self.ids.insert((to.0, user.mapped.id.as_bytes()), key.0)?;
        self.users.insert(key.0, codec::encode_user(&moved).as_slice())?;
        self.move_in_domains(key, Some(&user), &moved)?;
        for (of, is_added) in [(user.directory, false), (to, true)] {
            self.count(of, |census| {
                census.count(&user, is_added);
                if is_seated {
                    census.count_seat(is_added);
                }
            });
        }
        self.decide_names(&moved)
    }
}
