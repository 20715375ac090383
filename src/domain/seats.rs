//! Seats: how many there are, who took one and how, why one was released.

use std::fmt;

use jiff::Timestamp;

use super::name::Name;
use super::user::UserKey;

/// How many seats are taken, of how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeatCount {
    /// Taken.
    pub used: u64,
    /// Bought, or the cap of a directory.
    pub limit: u64,
}

impl SeatCount {
    /// Seats left; zero when over the limit, never negative.
    pub fn free(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// More seats are taken than there are: the limit was lowered.
    pub fn is_over(self) -> bool {
        self.used > self.limit
    }
}

/// The way in which a seat was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TakenBy {
    /// The first login, with the service that asked (`imap`, `pop3`, …) where it said so.
    Login(Option<Service>),
    /// The first delivery.
    Delivery(Option<Service>),
    /// An administrator granted it.
    Administrator,
    /// A local account was created.
    Created,
    /// A local or imported account was enabled again.
    Enabled,
    /// An import brought the user.
    Imported,
}

impl fmt::Display for TakenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakenBy::Login(Some(service)) => write!(f, "login ({service})"),
            TakenBy::Login(None) => f.write_str("login"),
            TakenBy::Delivery(Some(service)) => write!(f, "delivery ({service})"),
            TakenBy::Delivery(None) => f.write_str("delivery"),
            TakenBy::Administrator => f.write_str("administrator"),
            TakenBy::Created => f.write_str("account created"),
            TakenBy::Enabled => f.write_str("account enabled"),
            TakenBy::Imported => f.write_str("import"),
        }
    }
}

/// The service that a mail server names: `imap`, `pop3`, `submission`, …
///
/// Lower-case letters, digits, `-` and `_`, at most 32 bytes. Anything else a client sends is replaced,
/// never stored.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Service(Box<str>);

impl Service {
    /// Longer than the name of any service in use.
    pub const MAX_BYTES: usize = 32;

    /// `None` where the text is not a service name.
    pub fn parse(raw: &str) -> Option<Service> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (!raw.is_empty() && raw.len() <= Service::MAX_BYTES && raw.bytes().all(good))
            .then(|| Service(raw.to_ascii_lowercase().into_boxed_str()))
    }

    /// The service's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A seat that somebody holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seat {
    /// When it was granted.
    pub granted_at: Timestamp,
    /// How it was taken.
    pub by: TakenBy,
}

/// Why a seat was released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseReason {
    /// An administrator took it back.
    Administrator,
    /// The account was disabled.
    Disabled,
    /// The entry is no longer a person.
    NotAPerson,
    /// Gone from the directory for longer than the grace period, or an account that was removed here.
    Removed,
    /// The user is the internal administrator now, who does not count.
    Exempt,
    /// Not used for long.
    Reclaimed,
}

impl ReleaseReason {
    /// The stable word in logs and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            ReleaseReason::Administrator => "administrator",
            ReleaseReason::Disabled => "disabled",
            ReleaseReason::NotAPerson => "not_a_person",
            ReleaseReason::Removed => "removed",
            ReleaseReason::Exempt => "exempt",
            ReleaseReason::Reclaimed => "reclaimed",
        }
    }
}

impl fmt::Display for ReleaseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerEvent {
    /// When.
    pub at: Timestamp,
    /// Whose seat.
    pub user: UserKey,
    /// The user's primary name at that time, kept because the user may be gone when the line is read.
    pub name: Name,
    /// What happened.
    pub what: Movement,
    /// Seats taken after it.
    pub used_after: u64,
}

/// A seat given or taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Movement {
    /// Given.
    Granted(TakenBy),
    /// Taken back.
    Released(ReleaseReason),
}

/// The refusals of one user, summed up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusals {
    /// The first one.
    pub first: Timestamp,
    /// The latest one.
    pub last: Timestamp,
    /// How many in all.
    pub count: u64,
    /// The reason code of the latest one.
    pub reason: Box<str>,
}

/// The latest login of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastLogin {
    /// When.
    pub at: Timestamp,
    /// Through which service.
    pub service: Option<Service>,
}
