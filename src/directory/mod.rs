//! Reads directories: the only module that names the LDAP library.

use crate::domain::mapping::Entry;

/// What a driver tells of its directory.
#[derive(Debug)]
pub enum Event {
    /// Entries that exist, a bounded batch of them.
    Upserts(Vec<Entry>),
    /// Everything that exists was told. Only now may what was not told be removed; a sweep that ends
    /// without it removes nobody.
    EndRefresh,
}
