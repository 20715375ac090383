//! Answers about the licence and its components.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `GET /v1/license`: the licence.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct LicenseStatus {
    /// `missing`, `active`, `expiring`, `grace` or `expired`.
    pub state: String,
    /// The seats are declared in the configuration, without a signed licence.
    pub declared: bool,
    /// Seats bought.
    pub seats: u64,
    /// Shared and service mailboxes that need no seat; `null` for any number, where seats are declared.
    #[serde(default)]
    pub seatless: Option<u64>,
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
    /// The licence that replaces it on a later day.
    #[serde(default)]
    pub coming: Option<ComingLicense>,
    /// What somebody should look at.
    pub problems: Vec<String>,
}

/// A licence that takes effect on a later day.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ComingLicense {
    /// The licence's id.
    pub id: String,
    /// Its serial.
    pub serial: u64,
    /// Seats bought.
    pub seats: u64,
    /// When it takes effect.
    pub not_before: Timestamp,
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
