//! Answers about seats that follow people.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `seats move`, and `sync approve --match`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct MoveReport {
    /// It was only asked what would happen.
    pub dry_run: bool,
    /// Old entries with their new ones, the first 10,000.
    pub moved: Vec<MovedPerson>,
    /// How many there are.
    pub moved_total: u64,
    /// How many of them hold a seat.
    pub seats_moved: u64,
    /// Old entries that keep what they have, the first 10,000: those that hold a seat, or match something.
    pub skipped: Vec<UnmovedPerson>,
    /// How many there are, those without a seat and without a match among them.
    pub skipped_total: u64,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// One old entry with its new one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct MovedPerson {
    /// The old entry.
    pub old: MovingPerson,
    /// The new one.
    pub new: MovingPerson,
    /// A seat comes along.
    pub seat: bool,
}

/// An old entry that keeps what it has.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct UnmovedPerson {
    /// The entry.
    pub old: MovingPerson,
    /// It holds a seat.
    pub seat: bool,
    /// The reason's code.
    pub reason: String,
    /// The reason.
    pub message: String,
}

/// One entry of a person who has several.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct MovingPerson {
    /// The name shown.
    pub user: String,
    /// The stable id.
    pub id: String,
    /// Where the entry stands.
    pub dn: String,
    /// The directory's name; `null` for an account.
    pub directory: Option<String>,
    /// For a tombstone: since when.
    pub removed_at: Option<Timestamp>,
}
