//! Answers of `directory …`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `directory list`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct DirectoryList {
    /// Configured directories, in the order of the file, then those that only the store still knows.
    pub directories: Vec<StoredDirectory>,
}

/// One directory, as the store knows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct StoredDirectory {
    /// The name.
    pub name: String,
    /// False for one that only the store still knows: its users keep their seats and take no new ones.
    pub configured: bool,
    /// The mail domains that it serves; empty for one that is not configured.
    pub domains: Vec<String>,
    /// Living users.
    pub users: u64,
    /// Users who are gone from it, in their grace period.
    pub removed: u64,
    /// Seats that they hold.
    pub seats_used: u64,
    /// When it was last read completely; `null` for never.
    pub last_success: Option<Timestamp>,
}

/// `directory rename`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct RenameReport {
    /// The old name, of which nothing is stored afterwards.
    pub from: String,
    /// The name of the block in the configuration.
    pub to: String,
    /// It was only asked what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Users carried over, removed ones and others that are not people among them.
    pub users: u64,
    /// How many of them the new name has already, by the same stable id. None of many means that it is another directory.
    #[serde(default)]
    pub known: u64,
    /// Seats that they hold.
    pub seats: u64,
    /// Second seats that are released, since one person needs one.
    #[serde(default)]
    pub second_seats: u64,
    /// Who loses the only seat, because the entry in the new directory is disabled or not a person: the first 10,000.
    #[serde(default)]
    pub losers: Vec<String>,
    /// How many lose it.
    #[serde(default)]
    pub losers_total: u64,
}

/// `directory forget`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct ForgetReport {
    /// The directory.
    pub directory: String,
    /// It was only asked what would happen.
    pub dry_run: bool,
    /// Users forgotten, removed ones and others that are not people among them.
    pub users: u64,
    /// Who loses a seat, the first 10,000.
    pub seats: Vec<String>,
    /// How many lose one.
    pub seats_total: u64,
    /// Seats that go to another entry of the same person.
    pub seats_moved: u64,
    /// Seats taken after it.
    pub seats_used: u64,
}
