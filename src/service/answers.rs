//! What the administration API answers, as JSON: made here, read back by the command line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::admission::Decision;
use crate::domain::sync::{Loss, Report};

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// When the daemon started.
    pub started: Timestamp,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// The licence.
    pub license: LicenseStatus,
    /// Seats.
    pub seats: SeatsStatus,
    /// Users of all origins.
    pub users: UsersStatus,
    /// Who holds the seats.
    pub seats_by_origin: SeatsByOrigin,
    /// Configured directories, then those that only the store still knows.
    pub directories: Vec<DirectoryStatus>,
    /// Names that two users claim, the first of them.
    pub clashes: Vec<ClashStatus>,
    /// Listeners.
    pub listeners: Vec<ListenerStatus>,
}

/// `GET /v1/license`: the licence.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct LicenseStatus {
    /// `missing`, `active`, `expiring`, `grace` or `expired`.
    pub state: String,
    /// The seats are declared in the configuration, without a signed licence.
    pub declared: bool,
    /// Seats bought.
    pub seats: u64,
    /// So many percent more may be taken.
    pub overage_percent: u64,
    /// So many seats are taken beyond what it allows: nobody new gets one before they are released.
    pub to_release: u64,
    /// Optional components bought, with their dates.
    pub components: Vec<ComponentStatus>,
    /// Who bought it.
    pub licensee: Option<String>,
    /// Whom to write to.
    pub email: Option<String>,
    /// The licence's id.
    pub id: Option<String>,
    /// Grows with each issue.
    pub serial: Option<u64>,
    /// Who issued it.
    pub issuer: Option<String>,
    /// When it was issued.
    pub issued_at: Option<Timestamp>,
    /// The date of registration.
    pub registered: Option<String>,
    /// The last day of maintenance.
    pub maintenance_until: Option<String>,
    /// When it ends; `null` never.
    pub expires: Option<Timestamp>,
    /// Whole days until then; negative when it is over.
    pub days_left: Option<i64>,
    /// When the grace period ends.
    pub ends: Option<Timestamp>,
    /// `refuse_new` or `refuse_all`.
    pub on_expiry: Option<String>,
    /// This installation's id.
    pub installation: String,
    /// Only this installation may use it.
    pub bound: bool,
    /// When it was put in force.
    pub installed_at: Option<Timestamp>,
    /// The licence server.
    pub server: Option<String>,
    /// How the server last answered.
    pub last_refresh: Option<RefreshStatus>,
    /// When it is asked next.
    pub next_refresh: Option<Timestamp>,
    /// What somebody should look at.
    pub problems: Vec<String>,
}

/// A component of the licence.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ComponentStatus {
    /// The component's name.
    pub name: String,
    /// It may be used now.
    pub licensed: bool,
    /// Users of its own; `null` is everybody.
    pub seats: Option<u64>,
    /// How many of them there are.
    pub used: Option<u64>,
    /// Its last day.
    pub expires: Option<String>,
}

/// How the licence server last answered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RefreshStatus {
    /// When it was asked.
    pub at: Timestamp,
    /// `updated`, `unchanged`, `unreachable` or `refused`.
    pub outcome: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// What was done about the licence, and the licence after it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LicenseChange {
    /// A sentence.
    pub message: String,
    /// The licence.
    pub license: LicenseStatus,
}

/// `GET /v1/components/{name}`, for scanners and filters.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ComponentAnswer {
    /// The component's name.
    pub component: String,
    /// It may be used now.
    pub licensed: bool,
    /// Users of its own; `null` is everybody.
    pub seats: Option<u64>,
    /// How many of them there are.
    pub used: Option<u64>,
    /// Why it may not be used.
    pub reason: Option<String>,
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
    /// What the brake holds back.
    pub held: Option<LossReport>,
    /// What comparisons of the mirror with the directory found; `null` before the first, and where each sync is
    /// one.
    pub drift: Option<DriftReport>,
    /// False for one that only the store still knows: its users stay as they were.
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
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LossReport {
    /// Users who would become tombstones.
    pub removed: u64,
    /// Users who would be disabled.
    pub disabled: u64,
    /// Users mapped before.
    pub people: u64,
    /// Nobody at all was found.
    pub empty: bool,
}

impl From<Loss> for LossReport {
    fn from(Loss { removed, disabled, people, empty }: Loss) -> LossReport {
        LossReport { removed, disabled, people, empty }
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

/// One line of `seats history`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct HistoryLine {
    /// When.
    pub at: Timestamp,
    /// `granted` or `released`.
    pub event: String,
    /// Whose seat.
    pub user: String,
    /// How it was taken, or why it was released.
    pub reason: String,
    /// Seats taken after it.
    pub seats_used: u64,
}

/// The outcome of one sync, or of a dry run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SyncReport {
    /// The directory's name.
    pub directory: String,
    /// Nothing was written.
    pub dry_run: bool,
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
    /// Entries not mapped, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Seats released at once, from disabled users.
    pub seats_released: u64,
    /// Seats that are released when the grace period of removed users ends.
    pub seats_released_after_grace: u64,
    /// Set when the brake tripped: nothing of this was applied.
    pub held: Option<LossReport>,
}

impl SyncReport {
    /// The report of a sweep.
    pub fn new(directory: &str, dry_run: bool, report: &Report) -> SyncReport {
        SyncReport {
            directory: directory.to_owned(),
            dry_run,
            seen: report.seen,
            added: report.added,
            changed: report.changed,
            returned: report.returned,
            disabled: report.disabled,
            removed: report.removed,
            skipped: report.skipped.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            seats_released: report.seats_released,
            seats_released_after_grace: report.seats_released_after_grace,
            held: report.held.map(LossReport::from),
        }
    }
}

/// `verify`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Verification {
    /// All invariants hold.
    pub clean: bool,
    /// What does not.
    pub findings: Vec<String>,
}
