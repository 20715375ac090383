//! What a sync did, or would do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{LossReport, MoveReport};
use crate::domain::sync::{Report, SeatMove, Taken, TakenName};

/// Names that another configuration takes from their users.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct NamesTaken {
    /// How many.
    pub names: u64,
    /// The first of them.
    pub first: Vec<NameTaken>,
}

/// A name that is taken from a user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct NameTaken {
    /// The user.
    pub user: String,
    /// The name.
    pub name: String,
    /// Why, as a clause.
    pub reason: String,
}

impl From<&Taken> for NamesTaken {
    fn from(taken: &Taken) -> NamesTaken {
        let first = taken.first.iter().map(|TakenName { user, name, reason }| NameTaken {
            user: user.clone(),
            name: name.clone(),
            reason: reason.clone(),
        });
        NamesTaken { names: taken.names, first: first.collect() }
    }
}

/// A seat that goes from one entry of a person to another, because both have the same stable id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SeatMoved {
    /// The old entry.
    pub old_user: String,
    /// Its directory.
    pub from: String,
    /// The new entry.
    pub user: String,
    /// Its directory.
    pub to: String,
}

impl From<&SeatMove> for SeatMoved {
    fn from(moved: &SeatMove) -> SeatMoved {
        let SeatMove { old_user, from, user, to } = moved.clone();
        SeatMoved { old_user, from, user, to }
    }
}

/// The outcome of one sync, or of a dry run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct SyncReport {
    /// The directory's name.
    pub directory: String,
    /// Nothing was written.
    pub dry_run: bool,
    /// The configuration file that a dry run went by: the daemon's. `null` for a sync.
    #[serde(default)]
    pub config: Option<String>,
    /// Entries seen.
    pub seen: u64,
    /// New users.
    pub added: u64,
    /// Users with other names, another place, or enabled again.
    pub changed: u64,
    /// Tombstones that came back.
    pub returned: u64,
    /// Users disabled.
    pub disabled: u64,
    /// Users removed.
    pub removed: u64,
    /// Lists, rooms and contacts removed: mail to them is refused.
    #[serde(default)]
    pub lists_removed: u64,
    /// The first of them.
    #[serde(default)]
    pub lists_removed_of: Vec<String>,
    /// Entries not mapped, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Mail addresses left out because of `foreign_names = false`.
    #[serde(default)]
    pub foreign_names: u64,
    /// People mapped for logins only: without a mail address, and `login_is_address = false`.
    #[serde(default)]
    pub logins_only: u64,
    /// Seats released at once: of users who are disabled, need none any more, or have another entry with a seat.
    pub seats_released: u64,
    /// The first of their users, in a dry run.
    #[serde(default)]
    pub seats_released_of: Vec<String>,
    /// Seats that are released when the grace period of removed users ends.
    pub seats_released_after_grace: u64,
    /// Seats that go to other entries of the same people.
    #[serde(default)]
    pub seats_moved: u64,
    /// The first of them.
    #[serde(default)]
    pub seats_moved_of: Vec<SeatMoved>,
    /// Set when the brake tripped: nothing of this was applied.
    pub held: Option<LossReport>,
    /// Names that the configuration takes from their users, in a dry run.
    #[serde(default)]
    pub names_taken: NamesTaken,
    /// What an approval carried over to new entries.
    #[serde(default)]
    pub moves: Option<MoveReport>,
}

impl SyncReport {
    /// The report of a sweep.
    pub fn new(directory: &str, dry_run: bool, report: &Report) -> SyncReport {
        SyncReport {
            directory: directory.to_owned(),
            dry_run,
            config: None,
            seen: report.seen,
            added: report.added,
            changed: report.changed,
            returned: report.returned,
            disabled: report.disabled,
            removed: report.removed,
            lists_removed: report.lists_removed,
            lists_removed_of: report.lists_removed_of.clone(),
            skipped: report.skipped.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            foreign_names: report.left_out.foreign_names,
            logins_only: report.left_out.logins_only,
            seats_released: report.seats_released,
            seats_released_of: report.released_of.clone(),
            seats_released_after_grace: report.seats_released_after_grace,
            seats_moved: report.seats_moved,
            seats_moved_of: report.seats_moved_of.iter().map(SeatMoved::from).collect(),
            held: report.held.as_ref().map(LossReport::from),
            names_taken: NamesTaken::from(&report.taken),
            moves: None,
        }
    }
}
