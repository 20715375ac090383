//! What the administration API answers, as JSON: made here, read back by the command line.

mod accounts;
mod clock;
mod license;
mod moves;
mod stored;
mod sync;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use accounts::*;
pub use clock::*;
pub use license::*;
pub use moves::*;
pub use stored::*;
pub use sync::*;

use crate::domain::admission::Decision;
use crate::domain::brake::{Excess, Held, Loss};
use crate::store::DiskState;

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// When the daemon started.
    pub started: Timestamp,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// The clock.
    #[serde(default)]
    pub clock: ClockStatus,
    /// The licence.
    pub license: LicenseStatus,
    /// The store and its disk.
    #[serde(default)]
    pub store: StoreStatus,
    /// The nightly backups; `null` where `[backup]` names no folder.
    #[serde(default)]
    pub backup: Option<BackupStatus>,
    /// Seats.
    pub seats: SeatsStatus,
    /// Users of all origins.
    pub users: UsersStatus,
    /// Mailboxes that need no seat.
    #[serde(default)]
    pub seatless: SeatlessStatus,
    /// Who holds the seats.
    pub seats_by_origin: SeatsByOrigin,
    /// Configured directories, then those that only the store still knows.
    pub directories: Vec<DirectoryStatus>,
    /// Mail domains that have a cap of their own.
    #[serde(default)]
    pub domains: Vec<DomainStatus>,
    /// Names that two users claim, the first of them.
    pub clashes: Vec<ClashStatus>,
    /// Listeners.
    pub listeners: Vec<ListenerStatus>,
}

/// The store and its disk.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct StoreStatus {
    /// Why changes cannot be written; `null` where they are.
    pub problem: Option<String>,
    /// Since when they cannot.
    pub since: Option<Timestamp>,
    /// Space left in the file system of the store; `null` where that is unknown.
    pub free_bytes: Option<u64>,
    /// The space that is set aside for a full disk is in use.
    pub short_of_space: bool,
}

impl From<DiskState> for StoreStatus {
    fn from(DiskState { trouble, free_bytes, is_short }: DiskState) -> StoreStatus {
        let (problem, since) = trouble.map(|trouble| (trouble.problem, trouble.since)).unzip();
        StoreStatus { problem, since, free_bytes, short_of_space: is_short }
    }
}

/// The nightly backups.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct BackupStatus {
    /// Where they are.
    pub folder: String,
    /// The latest; `null` where there is none.
    pub latest: Option<Timestamp>,
    /// How many there are.
    pub kept: usize,
    /// Why the last attempt failed; `null` where it did not.
    pub problem: Option<String>,
}

/// Seats taken and free.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SeatsStatus {
    /// Seats bought.
    pub limit: u64,
    /// Seats taken.
    pub used: u64,
    /// Seats left.
    pub free: u64,
    /// More are taken than bought, since the limit was lowered.
    pub over_limit: bool,
}

/// Shared and service mailboxes that need no seat.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct SeatlessStatus {
    /// Enabled mailboxes that match `seatless_filter`.
    pub mailboxes: u64,
    /// How many the licence allows; `null` for any number. The others need a seat each.
    pub allowed: Option<u64>,
}

/// Seats taken, by where their users come from.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SeatsByOrigin {
    /// By users of directories.
    pub mapped: u64,
    /// By local accounts.
    pub local: u64,
    /// By imported accounts.
    pub imported: u64,
}

/// A mail domain that has a cap of its own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DomainStatus {
    /// The domain.
    pub name: String,
    /// Seats of those who count in it.
    pub seats_used: u64,
    /// The cap.
    pub seat_limit: u64,
}

/// Users, counted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct UsersStatus {
    /// The living of every origin.
    pub total: u64,
    /// From a directory.
    pub mapped: u64,
    /// Created here.
    pub local: u64,
    /// From a file or another domain.
    pub imported: u64,
    /// The disabled among `total`.
    pub disabled: u64,
    /// Gone from their directory, in the grace period.
    pub tombstoned: u64,
}

/// One directory.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DirectoryStatus {
    /// The configured name.
    pub name: String,
    /// The mail domain; empty for one that is no longer configured.
    pub domain: String,
    /// What the sync is doing.
    pub state: DirectoryState,
    /// How changes are found; `null` until the first attempt.
    pub mechanism: Option<String>,
    /// Why in this way.
    pub mechanism_reason: Option<String>,
    /// What keeps the server from a better one, and what to do about it.
    pub warning: Option<String>,
    /// The server's product, where it said.
    pub server: Option<String>,
    /// Which of the directory's servers it is; `null` until one could be used.
    pub url: Option<String>,
    /// Entries that the present refresh, or the last one, has seen.
    pub seen: u64,
    /// Entries a second that the present refresh reads; `null` where none is under way.
    pub rate: Option<u64>,
    /// Living users.
    pub users: u64,
    /// Seats that they hold.
    pub seats_used: u64,
    /// The directory's own cap.
    pub seat_limit: Option<u64>,
    /// When a sync last began.
    pub last_attempt: Option<Timestamp>,
    /// When one last ended completely.
    pub last_success: Option<Timestamp>,
    /// Why the last one failed; `null` after a success.
    pub last_error: Option<String>,
    /// Entries that the last complete sweep skipped, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Mail addresses that it left out because of `foreign_names = false`.
    #[serde(default)]
    pub foreign_names: u64,
    /// People whom it mapped for logins only: without a mail address, and `login_is_address = false`.
    #[serde(default)]
    pub logins_only: u64,
    /// What the brake holds back.
    pub held: Option<LossReport>,
    /// What comparisons of the mirror with the directory found; `null` before the first, and where each sync is
    /// one.
    pub drift: Option<DriftReport>,
    /// False for one that only the store still knows: its users keep their seats and take no new ones.
    pub configured: bool,
}

/// What the sync of a directory is doing.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum DirectoryState {
    /// No sync has begun yet.
    Starting,
    /// Reading the directory.
    Refreshing,
    /// Changes come by themselves.
    Following,
    /// Between two syncs.
    Idle,
    /// The brake tripped.
    Held,
    /// The last attempt failed; waiting to try again.
    Backoff,
}

impl DirectoryState {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            DirectoryState::Starting => "starting",
            DirectoryState::Refreshing => "refreshing",
            DirectoryState::Following => "following",
            DirectoryState::Idle => "idle",
            DirectoryState::Held => "held",
            DirectoryState::Backoff => "backoff",
        }
    }
}

/// What the brake holds back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct LossReport {
    /// Users who would become tombstones.
    pub removed: u64,
    /// Users who would be disabled.
    pub disabled: u64,
    /// Users who would lose their seat, because they match `seatless_filter` now.
    #[serde(default)]
    pub seatless: u64,
    /// Users who would be left with fewer names.
    #[serde(default)]
    pub names: u64,
    /// Disabled users who would be enabled again.
    #[serde(default)]
    pub enabled: u64,
    /// Users mapped before.
    pub people: u64,
    /// No user at all was found.
    pub empty: bool,
    /// The sum of those who lose something; `null` where none of that is held back.
    #[serde(default)]
    pub losses: Option<SumReport>,
    /// The sum of those who are enabled again; `null` where none of that is held back.
    #[serde(default)]
    pub enablings: Option<SumReport>,
    /// The first of those who are affected, holders of seats before the others.
    #[serde(default)]
    pub users: Vec<String>,
    /// How many of all who are affected hold a seat.
    #[serde(default)]
    pub seats: u64,
}

impl From<&Held> for LossReport {
    fn from(held: &Held) -> LossReport {
        let Loss { removed, disabled, seatless, names, enabled, people, empty } = held.loss;
        LossReport {
            removed,
            disabled,
            seatless,
            names,
            enabled,
            people,
            empty,
            losses: held.losses.map(SumReport::from),
            enablings: held.enablings.map(SumReport::from),
            users: held.affected.users.iter().map(ToString::to_string).collect(),
            seats: held.affected.seats,
        }
    }
}

/// A sum of the brake that would pass its limit.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SumReport {
    /// How many would be counted now.
    pub more: u64,
    /// How many were counted in the last hour.
    pub before: u64,
    /// How many may be counted in an hour.
    pub at_most: u64,
    /// When they are let through without an approval; `null` for never.
    pub until: Option<Timestamp>,
}

impl From<Excess> for SumReport {
    fn from(Excess { more, before, at_most, until }: Excess) -> SumReport {
        SumReport { more, before, at_most, until }
    }
}

impl From<SumReport> for Excess {
    fn from(SumReport { more, before, at_most, until }: SumReport) -> Excess {
        Excess { more, before, at_most, until }
    }
}

/// Users in whom the mirror differed from the directory, although all changes had been told. They were repaired.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct DriftReport {
    /// When the mirror was last compared with the whole directory.
    pub last_reconcile: Timestamp,
    /// How many users differed then.
    pub found: u64,
    /// How many since the daemon started.
    pub total: u64,
}

/// A name that two users claim.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ClashStatus {
    /// The name.
    pub name: String,
    /// Who has it.
    pub owner: String,
    /// Who is mapped without it.
    pub claimant: String,
}

/// One listener.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ListenerStatus {
    /// The protocol.
    pub kind: String,
    /// Where it listens, with the port that the kernel chose.
    pub bind: String,
    /// Connections now.
    pub connections: usize,
}

/// One line of `users`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct UserLine {
    /// The name shown.
    pub user: String,
    /// Every name of the entry or the account, those that another user owns among them.
    pub names: Vec<String>,
    /// The stable id.
    pub id: String,
    /// Where the entry stands; empty for an account.
    pub dn: String,
    /// For people.
    pub display_name: Option<String>,
    /// The directory's name; `null` for an account that is not mapped.
    pub directory: Option<String>,
    /// `mapped`, `local` or `imported`.
    pub origin: String,
    /// By the directory, or by an administrator.
    pub enabled: bool,
    /// For a tombstone: since when.
    pub removed_at: Option<Timestamp>,
    /// For a holder: since when.
    pub seat_since: Option<Timestamp>,
    /// The last login.
    pub last_login: Option<Timestamp>,
}

/// `explain`: all about one user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Explanation {
    /// The name shown.
    pub user: String,
    /// Every name the user has.
    pub names: Vec<String>,
    /// Names the entry claims but somebody else has.
    pub names_held_by_others: Vec<String>,
    /// For people.
    pub display_name: Option<String>,
    /// The directory's name; `null` for an account that is not mapped.
    pub directory: Option<String>,
    /// `mapped`, `local` or `imported`.
    pub origin: String,
    /// The stable id.
    pub id: String,
    /// Where the entry stands.
    pub dn: String,
    /// Person, group, list, resource, contact.
    pub kind: String,
    /// By the directory.
    pub enabled: bool,
    /// First mapped.
    pub since: Timestamp,
    /// For a tombstone: since when.
    pub removed_at: Option<Timestamp>,
    /// For a tombstone: when the seat is released and the user forgotten.
    pub forgotten_at: Option<Timestamp>,
    /// Whether the user takes a seat of the licence.
    pub counts: bool,
    /// Why, or why not: a sentence.
    pub counts_because: String,
    /// The seat, if one is held.
    pub seat: Option<SeatReport>,
    /// Components of which the user holds a seat.
    #[serde(default)]
    pub components: Vec<String>,
    /// The last login.
    pub last_login: Option<LoginReport>,
    /// Refusals, if any.
    pub refusals: Option<RefusalsReport>,
    /// False where the directory is not configured any more.
    #[serde(default)]
    pub configured: bool,
    /// Removed entries that hold a seat and have a name of this user: perhaps the same person under an id of before.
    #[serde(default)]
    pub removed_holders: Vec<MovingPerson>,
    /// What a login would get now.
    pub login_now: Verdict,
}

/// A seat held.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SeatReport {
    /// Since when.
    pub granted_at: Timestamp,
    /// How it was taken.
    pub by: String,
}

/// The last login.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LoginReport {
    /// When.
    pub at: Timestamp,
    /// Through which service.
    pub service: Option<String>,
}

/// Refusals of one user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RefusalsReport {
    /// The first.
    pub first: Timestamp,
    /// The latest.
    pub last: Timestamp,
    /// How many.
    pub count: u64,
    /// The latest reason code.
    pub reason: String,
}

/// A decision, as `/v1/check` answers it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Verdict {
    /// Whether the user may come in.
    pub allow: bool,
    /// The reason code.
    pub decision: String,
    /// The name asked for, normalised.
    pub user: String,
    /// For the person.
    pub message: String,
}

impl Verdict {
    /// The answer for a decision about `user`.
    pub fn new(decision: &Decision, user: &str) -> Verdict {
        Verdict {
            allow: decision.allows(),
            decision: decision.code().to_owned(),
            user: user.to_owned(),
            message: decision.message().to_owned(),
        }
    }
}

/// `seats grant` and `seats release`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SeatChange {
    /// The user.
    pub user: String,
    /// `granted`, `held`, `released`, `not_seated`, or the reason of a refusal.
    pub outcome: String,
    /// Whether the user is now as was asked.
    pub done: bool,
    /// A sentence.
    pub message: String,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// One line of `seats history`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct HistoryLine {
    /// When.
    pub at: Timestamp,
    /// `granted`, `released`, or `moved` from another entry.
    pub event: String,
    /// Whose seat.
    pub user: String,
    /// How it was taken, why it was released, or whose it was.
    pub reason: String,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// `verify`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Verification {
    /// All invariants hold.
    pub clean: bool,
    /// What does not.
    pub findings: Vec<String>,
}
