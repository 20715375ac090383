//! Answers about accounts, imports, lists of seats, and seats to get back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::account::Mistake;
use crate::domain::name::Name;

/// `account …`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct AccountReport {
    /// The name shown.
    pub user: String,
    /// `local` or `imported`.
    pub origin: String,
    /// `added`, `removed`, `enabled`, `disabled`, or `unchanged`.
    pub outcome: String,
    /// A sentence.
    pub message: String,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// `import`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ImportReport {
    /// The mail domain.
    pub domain: String,
    /// It was only asked what would happen.
    pub dry_run: bool,
    /// What could be was asked for, instead of all or nothing.
    pub partial: bool,
    /// The import was written. False where a row was refused and not `partial`, and in a dry run.
    pub applied: bool,
    /// Rows read.
    pub rows: u64,
    /// New users.
    pub added: u64,
    /// Users with other names, or disabled now.
    pub changed: u64,
    /// Users who are as the file says.
    pub unchanged: u64,
    /// Rows that were not imported.
    pub refused: u64,
    /// Rows among them whose user is in a directory, and needs no import.
    #[serde(default)]
    pub mapped: u64,
    /// Entries of nobody who could log in, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Seats that all of the file needs beyond those held.
    pub seats_needed: u64,
    /// Seats free before it.
    pub seats_free: u64,
    /// Seats taken after it; after it would be applied, where it was not.
    pub seats_used: u64,
    /// The first 10,000 of the new users.
    pub added_users: Vec<ImportedLine>,
    /// The first 10,000 of the changed users.
    pub changed_users: Vec<ImportedLine>,
    /// The first refused rows: 10,000 where `partial` or `dry_run`, else 100.
    pub refusals: Vec<RefusedRow>,
}

/// A user whom a file brings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ImportedLine {
    /// Where in the file, counted from 1.
    pub line: u64,
    /// The address.
    pub user: String,
}

impl ImportedLine {
    pub(crate) fn list(users: Vec<(u64, Name)>) -> Vec<ImportedLine> {
        users.into_iter().map(|(line, name)| ImportedLine { line, user: name.to_string() }).collect()
    }
}

/// A row that is not imported.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RefusedRow {
    /// Where in the file, counted from 1.
    pub line: u64,
    /// Whom it is about, as far as one can tell.
    pub user: Option<String>,
    /// `invalid`, `foreign_domain`, `duplicate`, `name_taken`, or the reason why there is no seat.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl RefusedRow {
    pub(crate) fn list(mistakes: Vec<(u64, Mistake)>) -> Vec<RefusedRow> {
        let row = |(line, Mistake { user, reason, message }): (u64, Mistake)| RefusedRow {
            line,
            user,
            reason: reason.to_owned(),
            message,
        };
        mistakes.into_iter().map(row).collect()
    }
}

/// `seats reclaim`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ReclaimReport {
    /// Nothing was released.
    pub dry_run: bool,
    /// Users who were inactive for as long, but are protected.
    pub protected: u64,
    /// Whose seats were released, or would be, the longest unused first.
    pub reclaimed: Vec<ReclaimedSeat>,
    /// Seats taken after it.
    pub seats_used: u64,
    /// Set where the brake would hold all of it back.
    #[serde(default)]
    pub held: Option<super::SumReport>,
}

/// A seat that nobody used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ReclaimedSeat {
    /// The name shown.
    pub user: String,
    /// `mapped`, `local` or `imported`.
    pub origin: String,
    /// The directory's name; `null` for an account that is not mapped.
    pub directory: Option<String>,
    /// Since when it was held.
    pub seat_since: Timestamp,
    /// The last login.
    pub last_login: Option<Timestamp>,
    /// The last login or the grant, whichever was later.
    pub last_used: Timestamp,
}

/// One line of `seats refused`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RefusedLine {
    /// The name shown, or the name asked for.
    pub user: String,
    /// False for a name that nobody had.
    pub is_known: bool,
    /// Holds a seat by now.
    pub seated: bool,
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: Timestamp,
    /// The latest time.
    pub last: Timestamp,
    /// The latest reason code.
    pub reason: String,
}

/// `POST /v1/grants`: what became of a list of users.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct GrantsReport {
    /// Nothing was to be changed.
    pub dry_run: bool,
    /// What can be granted was, instead of all or nothing.
    pub partial: bool,
    /// Something was changed, or everything is as it was asked for.
    pub applied: bool,
    /// Users in the list.
    pub users: u64,
    /// Those who took a seat.
    pub granted: u64,
    /// Those who held one already.
    pub held: u64,
    /// Those who need none.
    pub exempt: u64,
    /// Those who got none.
    pub refused: u64,
    /// Seats that all of the list needs beyond those held.
    pub seats_needed: u64,
    /// Seats free before it.
    pub seats_free: u64,
    /// Seats taken after it; after it would be applied, in a dry run.
    pub seats_used: u64,
    /// Seats of the licence.
    pub seat_limit: u64,
    /// The first of those who took a seat.
    pub granted_users: Vec<ImportedLine>,
    /// The first of the refused lines.
    pub refusals: Vec<RefusedRow>,
}
