//! What is asked of the writer, and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::Moved;
use crate::domain::admission::Decision;
use crate::domain::brake::{Counts, Toll};
use crate::domain::mapping::Remapped;
use crate::domain::name::Name;
use crate::domain::names::{LeftOut, Withheld};
use crate::domain::seats::ReleaseReason;
use crate::domain::sync::{Change, Report, SeatMove};
use crate::domain::user::{Kind, Mapped, UserKey};

/// A decision made inside a write transaction, on disk by the time it is seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admitted {
    /// The user, where there is one.
    pub key: Option<UserKey>,
    /// The decision.
    pub decision: Decision,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// A seat taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Released {
    /// Whose.
    pub name: Name,
    /// Why.
    pub reason: ReleaseReason,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// A tombstone that was forgotten by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forgotten {
    /// The name shown.
    pub name: Name,
    /// The seat that it kept.
    pub released: Option<Released>,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// A name that a user claims and does not own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clash {
    /// The name.
    pub name: Name,
    /// Who owns it, where somebody does.
    pub owner: Option<Party>,
    /// Who is mapped without it.
    pub claimant: Party,
    /// Why.
    pub reason: Withheld,
}

/// One side of a clash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Party {
    /// The name shown.
    pub name: Name,
    /// The name of the record that the user stands under.
    pub directory: String,
    /// Where the entry stands; empty for an account.
    pub dn: Box<str>,
}

/// One entry written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upserted {
    /// The user.
    pub key: UserKey,
    /// The name shown.
    pub name: Name,
    /// How the entry differed.
    pub change: Change,
    /// What the brake counts it as.
    pub toll: Option<Toll>,
    /// A person, now or before.
    pub is_person: bool,
    /// The directory that the user was in until now, where that was another one, and whether a seat came along.
    pub moved_from: Option<(String, bool)>,
    /// What came along from other entries with the same stable id.
    pub moved: Vec<Moved>,
    /// The seat lost, because the user is disabled or no person any more.
    pub released: Option<Released>,
    /// Names that somebody else has.
    pub clashes: Vec<Clash>,
}

/// A user who became a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entombed {
    /// The name shown.
    pub name: Name,
    /// Person or not.
    pub kind: Kind,
    /// A seat is kept for the grace period.
    pub keeps_seat: bool,
    /// What went to another entry of the same person.
    pub moved: Option<Moved>,
}

impl Entombed {
    /// Adds one removed user to a report.
    pub fn count_in(&self, report: &mut Report) {
        if self.is_list() {
            report.add_removed_list(&self.name);
        }
        if self.kind == Kind::Person {
            report.removed += 1;
            report.seats_released_after_grace += u64::from(self.keeps_seat);
        }
        self.moved.iter().for_each(|moved| moved.count_in(report));
    }

    /// One to whom there is mail, though it takes no seat.
    pub fn is_list(&self) -> bool {
        !matches!(self.kind, Kind::Person | Kind::Group)
    }
}

impl Upserted {
    /// Adds one written entry of `directory` to a report. Of what is not a person nothing is counted.
    pub fn count_in(&self, directory: &str, report: &mut Report) {
        if !self.is_person {
            return;
        }
        match self.change {
            Change::Added => report.added += 1,
            Change::Changed => report.changed += 1,
            Change::Returned => report.returned += 1,
            Change::Disabled => report.disabled += 1,
            Change::Unchanged => {}
        }
        report.seats_released += u64::from(self.released.is_some());
        if let Some((from, true)) = &self.moved_from {
            let (user, to) = (self.name.to_string(), directory.to_owned());
            report.add_move(SeatMove { old_user: user.clone(), from: from.clone(), user, to });
        }
        self.moved.iter().for_each(|moved| moved.count_in(report));
    }
}

impl Moved {
    /// Adds a seat that came along, or one that was released because the new entry has its own, to a report.
    pub(super) fn count_in(&self, report: &mut Report) {
        let Moved { from, to, seat, released } = self;
        report.seats_released += u64::from(released.is_some());
        if *seat {
            report.add_move(SeatMove {
                old_user: from.name.to_string(),
                from: from.directory.clone(),
                user: to.name.to_string(),
                to: to.directory.clone(),
            });
        }
    }
}

/// Where a directory can be asked to go on, and under which circumstances the answer would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// Everything that the cookie depends on: with anything else it is worthless.
    pub valid_for: String,
    /// The server's bytes.
    pub bytes: Vec<u8>,
    /// When the mirror was last proved equal to the directory.
    pub proof: Option<Proof>,
}

/// The mirror was compared with the whole directory, and made equal to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// When.
    pub at: Timestamp,
    /// The server's cookie at its end.
    pub bytes: Vec<u8>,
}

/// A bounded part of a sync, written in one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Entries to write.
    pub upserts: Vec<Mapped>,
    /// Users to make tombstones of.
    pub removals: Vec<UserKey>,
    /// How much of it an administrator approved: the brake does not count that.
    pub approved: Counts,
    /// What the configuration has otherwise than before: the brake does not count who loses something by that.
    pub remapped: Remapped,
    /// Set when everything up to here is known.
    pub checkpoint: Option<Checkpoint>,
}

/// The mirror agrees with the directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Where to go on; `None` forgets the one before.
    pub cookie: Option<Cookie>,
    /// Entries skipped, by reason, where everything was read.
    pub skipped: Option<BTreeMap<&'static str, u64>>,
    /// What entries were mapped without; it counts where everything was read.
    pub left_out: LeftOut,
    /// What the mirror depends on beside the entries (`Rules::basis`), where everything was read.
    pub basis: Option<String>,
}

/// What became of [`Changes`], in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// One for each entry.
    pub upserted: Vec<Upserted>,
    /// One for each user who lived.
    pub entombed: Vec<Entombed>,
    /// What happened in the eyes of the brake, what was approved included.
    pub happened: Counts,
}

/// When a user logged in last, given the stored login: the latest may not be written yet. Called inside a transaction,
/// so it must not wait.
pub type LastLoginOf = Arc<dyn Fn(UserKey, Option<Timestamp>) -> Option<Timestamp> + Send + Sync>;
