//! A user who comes back in another directory: the stable id of a server is unique everywhere, so it is the same person.

use super::tables::Lookup;
use super::transaction::Transaction;
use super::{StoreError, codec};
use crate::domain::name::StableId;
use crate::domain::user::{DirectoryId, Origin, User, UserKey};

/// entryUUID, objectGUID and nsUniqueId all have this length; whatever else identifies an entry may not be unique.
const UUID_BYTES: usize = 16;

impl Transaction<'_> {
    /// Moves the user with this id to `directory` from another one, where they are a tombstone there, or that directory
    /// is not configured any more. Returns the user and the name of that directory. Seat, components, last login,
    /// refusals and history stand under the user's key and come along.
    pub(super) fn relocate(
        &mut self,
        directory: DirectoryId,
        id: &StableId,
    ) -> Result<Option<(UserKey, String)>, StoreError> {
        let is_mapped = |directory: &DirectoryId| {
            self.directories().get(directory).is_some_and(|record| record.origin() == Origin::Mapped)
        };
        if id.as_bytes().len() != UUID_BYTES || !is_mapped(&directory) {
            return Ok(None);
        }
        let others: Vec<DirectoryId> = self
            .directories()
            .keys()
            .copied()
            .filter(|other| *other != directory && is_mapped(other))
            .collect();
        for other in others {
            let Some(key) = self.key_by_id(other, id)? else { continue };
            let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
            let record = self.directories().get(&other).ok_or(StoreError::Corrupt("directories"))?;
            if !(user.is_living() && self.rules.is_configured(&record.name)) {
                let from = record.name.clone();
                self.change_directory(key, user, directory)?;
                return Ok(Some((key, from)));
            }
        }
        Ok(None)
    }

    fn change_directory(&mut self, key: UserKey, user: User, to: DirectoryId) -> Result<(), StoreError> {
        let is_seated = self.seat(key)?.is_some();
        let moved = User { directory: to, ..user.clone() };
        self.ids.remove((user.directory.0, user.mapped.id.as_bytes()))?;
        self.ids.insert((to.0, user.mapped.id.as_bytes()), key.0)?;
        self.users.insert(key.0, codec::encode_user(&moved).as_slice())?;
        for (of, is_added) in [(user.directory, false), (to, true)] {
            self.count(of, |census| {
                census.count(&user, is_added);
                let seats = census.seats.saturating_sub(u64::from(is_seated && !is_added));
                census.seats = seats + u64::from(is_seated && is_added);
            });
        }
        self.decide_names(&moved)
    }
}
