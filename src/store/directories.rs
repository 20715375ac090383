//! All directory records, decoded, in a form that the writer changes cheaply while views hold it.
//!
//! There is a record for each configured directory and for the accounts of each mail domain: thousands at a
//! hosting provider. They are decoded once, when the store is opened. A transaction works on a clone, which
//! shares everything, and copies only what it changes; the view that follows its commit shares the rest with
//! the view before.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::ReadableTable;

use super::{DirectoryRecord, StoreError, codec};
use crate::domain::user::DirectoryId;

/// Records in one leaf. A change copies its leaf and the list of leaves, both pointers only: of 6,000 records
/// some 160.
const LEAF: u32 = 64;

type Leaf = BTreeMap<DirectoryId, Arc<DirectoryRecord>>;

/// All records, by number and by name. A clone shares them.
#[derive(Clone, Default)]
pub(super) struct Directories {
    leaves: Arc<BTreeMap<u32, Arc<Leaf>>>,
    index: DirectoryIndex,
}

/// Which directories there are, and which of them were ever read completely.
///
/// Logins and syncs leave it as it is, so that what is computed from it need seldom be computed again.
#[derive(Clone, Default)]
pub struct DirectoryIndex(Arc<BTreeMap<String, Named>>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Named {
    id: DirectoryId,
    is_mapped: bool,
}

impl DirectoryIndex {
    /// Whether the directory was ever read completely.
    pub fn is_mapped(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|named| named.is_mapped)
    }

    /// Whether nothing was changed from one to the other. `false` is no proof that something was.
    pub fn is_same(&self, other: &DirectoryIndex) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Directories {
    pub(super) fn get(&self, id: &DirectoryId) -> Option<&DirectoryRecord> {
        self.leaves.get(&(id.0 / LEAF))?.get(id).map(Arc::as_ref)
    }

    pub(super) fn named(&self, name: &str) -> Option<&DirectoryRecord> {
        self.get(&self.index.0.get(name)?.id)
    }

    pub(super) fn index(&self) -> &DirectoryIndex {
        &self.index
    }

    /// All records in the order of their numbers.
    pub(super) fn values(&self) -> impl Iterator<Item = &DirectoryRecord> {
        self.leaves.values().flat_map(|leaf| leaf.values().map(Arc::as_ref))
    }

    /// All numbers, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &DirectoryId> {
        self.leaves.values().flat_map(|leaf| leaf.keys())
    }

    /// Adds a record of a new number.
    pub(super) fn insert(&mut self, record: DirectoryRecord) {
        let id = record.id;
        let named = Named { id, is_mapped: record.last_success.is_some() };
        Arc::make_mut(&mut self.index.0).insert(record.name.clone(), named);
        let leaf = Arc::make_mut(&mut self.leaves).entry(id.0 / LEAF).or_default();
        Arc::make_mut(leaf).insert(id, Arc::new(record));
    }

    /// Removes a record.
    pub(super) fn remove(&mut self, id: DirectoryId) {
        if let Some(leaf) = Arc::make_mut(&mut self.leaves).get_mut(&(id.0 / LEAF)) {
            Arc::make_mut(leaf).remove(&id);
        }
        Arc::make_mut(&mut self.index.0).retain(|_, named| named.id != id);
    }

    /// Changes a record; false where there is none of this number.
    pub(super) fn change(&mut self, id: DirectoryId, change: impl FnOnce(&mut DirectoryRecord)) -> bool {
        if self.get(&id).is_none() {
            return false;
        }
        let leaf = Arc::make_mut(&mut self.leaves).get_mut(&(id.0 / LEAF));
        let Some(record) = leaf.and_then(|leaf| Arc::make_mut(leaf).get_mut(&id)) else { return false };
        let record = Arc::make_mut(record);
        change(record);
        let named = Named { id, is_mapped: record.last_success.is_some() };
        if self.index.0.get(&record.name) != Some(&named) {
            let index = Arc::make_mut(&mut self.index.0);
            index.retain(|_, other| other.id != id);
            index.insert(record.name.clone(), named);
        }
        true
    }
}

/// Decodes all records, once for each opening of the store.
pub(super) fn stored(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Directories, StoreError> {
    let mut directories = Directories::default();
    for row in table.iter()? {
        let (name, bytes) = row?;
        directories.insert(codec::decode_directory(name.value(), bytes.value())?);
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn filled(count: u32) -> Directories {
        let mut directories = Directories::default();
        for id in 1..=count {
            directories.insert(DirectoryRecord::new(DirectoryId(id), &format!("d{id}")));
        }
        directories
    }

    #[test]
    fn a_change_leaves_clones_as_they_were_and_shares_all_other_records() {
        let before = filled(500);
        let mut after = before.clone();
        assert!(after.change(DirectoryId(70), |record| record.census.seats = 5));
        assert!(!after.change(DirectoryId(501), |_| ()));
        assert_eq!(before.named("d70").unwrap().census.seats, 0);
        assert_eq!(after.named("d70").unwrap().census.seats, 5);
        let is_shared = |(a, b): (&DirectoryRecord, &DirectoryRecord)| std::ptr::eq(a, b);
        let shared = before.values().zip(after.values()).filter(|pair| is_shared(*pair)).count();
        assert_eq!(shared, 499);
        let leaves = before.leaves.values().zip(after.leaves.values());
        assert_eq!(leaves.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1, "one leaf was copied");
    }

    #[test]
    fn the_index_changes_only_with_names_and_the_first_complete_reading() {
        let before = filled(3);
        let mut after = before.clone();
        after.change(DirectoryId(2), |record| record.census.people = 7);
        assert!(after.index().is_same(before.index()));
        after.change(DirectoryId(2), |record| record.last_success = Some(Timestamp::UNIX_EPOCH));
        assert!(!after.index().is_same(before.index()));
        assert!(after.index().is_mapped("d2") && !before.index().is_mapped("d2"));
        let mapped = after.clone();
        after.change(DirectoryId(2), |record| record.last_success = Some(Timestamp::MAX));
        assert!(after.index().is_same(mapped.index()));
        after.change(DirectoryId(2), |record| record.name = "renamed".to_owned());
        assert!(after.named("d2").is_none());
        assert_eq!(after.named("renamed").unwrap().id, DirectoryId(2));
        assert_eq!(mapped.named("d2").unwrap().id, DirectoryId(2));
        after.remove(DirectoryId(2));
        assert!(after.named("renamed").is_none() && after.get(&DirectoryId(2)).is_none());
        assert_eq!((after.values().count(), mapped.values().count()), (2, 3));
    }
}
