//! Seats: how many there are, who took one and how, why one was released.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

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

    /// Few seats are left: one where there are 15 or fewer, 5 % of them above. The only seat is never few
    /// before it is taken, and where there are no seats nothing runs out.
    pub fn is_low(self) -> bool {
        let few = if self.limit <= 15 { 1 } else { (self.limit / 20).max(1) };
        self.limit > 0 && self.free() <= few.min(self.limit - 1)
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
    /// A shared or service mailbox, which needs none.
    Seatless,
    /// The same person holds a seat under another entry.
    SamePerson,
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
            ReleaseReason::Seatless => "seatless",
            ReleaseReason::SamePerson => "same_person",
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

/// A seat given, taken back or carried over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Movement {
    /// Given.
    Granted(TakenBy),
    /// Taken back.
    Released(ReleaseReason),
    /// Carried over from another user, who held it.
    Moved {
        /// Who held it.
        from: UserKey,
        /// The primary name of that user at that time.
        name: Name,
    },
}

/// The refusals of one user or name, summed up.
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

impl Refusals {
    /// These and those of another user, who is the same person.
    pub fn joined(self, other: Option<Refusals>) -> Refusals {
        let Some(other) = other else { return self };
        let (first, count) = (self.first.min(other.first), self.count.saturating_add(other.count));
        let latest = if other.last > self.last { other } else { self };
        Refusals { first, count, ..latest }
    }

    /// These, together with those before them.
    pub fn after(self, old: Option<Refusals>) -> Refusals {
        match old {
            Some(old) => Refusals { first: old.first, count: old.count.saturating_add(self.count), ..self },
            None => self,
        }
    }
}

/// The latest login of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastLogin {
    /// When.
    pub at: Timestamp,
    /// Through which service.
    pub service: Option<Service>,
}

/// How exactly the store knows when an active user logged in last: it would be most of its work to write each login.
pub const PRECISION: SignedDuration = SignedDuration::from_hours(1);

/// When a seat was last used: by the latest login, or by the grant where that is later, so that a seat which
/// an administrator gave yesterday is not taken back tonight.
pub fn last_used(seat: &Seat, login: Option<Timestamp>) -> Timestamp {
    login.map_or(seat.granted_at, |login| login.max(seat.granted_at))
}

/// Who logged in within this time before a start after a crash may have logged in until the crash: a day for the
/// outage, and [`PRECISION`] for what was not written.
const LOST_BY_CRASH: SignedDuration = SignedDuration::from_hours(25);

/// What a stored login counts as where a seat may be taken back. A crash loses up to an hour of logins, and must cost
/// nobody a seat.
pub fn after_crash(stored: Timestamp, started_after_crash: Option<Timestamp>) -> Timestamp {
    match started_after_crash {
        Some(start) if start.duration_since(stored) <= LOST_BY_CRASH => stored.max(start),
        _ => stored,
    }
}

/// The hour, local time, at which unused seats are taken back: before the working day, when few log in, and
/// after the night's backups have begun.
const RECLAIM_HOUR: i8 = 3;

/// The next night's reclaim after `now`. Where the clocks are put forward over that hour it is the hour
/// behind the gap.
pub fn next_reclaim(now: Timestamp, zone: &TimeZone) -> Timestamp {
    let at = |date: Date| zone.to_timestamp(date.at(RECLAIM_HOUR, 0, 0, 0)).ok();
    let today = zone.to_datetime(now).date();
    let nights = [Some(today), today.tomorrow().ok()];
    // At the end of all time there is no night to come.
    nights.into_iter().flatten().filter_map(at).find(|night| *night > now).unwrap_or(Timestamp::MAX)
}

/// How long a night's reclaim may be late: longer, and people are at work.
const NIGHT: SignedDuration = SignedDuration::from_hours(1);

/// Whether it is still the night of the reclaim that was due.
pub fn is_night(due: Timestamp, now: Timestamp) -> bool {
    now.duration_since(due) < NIGHT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_seats_are_told_from_many() {
        let check = |limit: u64, low_from: u64| {
            for used in 0..=limit + 1 {
                assert_eq!(SeatCount { used, limit }.is_low(), used >= low_from, "{used} of {limit}");
            }
        };
        check(1, 1);
        check(2, 1);
        check(10, 9);
        check(15, 14);
        check(16, 15);
        check(39, 38);
        check(40, 38);
        check(1000, 950);
        assert!(!SeatCount { used: 3, limit: 0 }.is_low());
    }

    #[test]
    fn seats_are_used_by_logins_and_by_the_grant() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let seat = Seat { granted_at: at(100), by: TakenBy::Administrator };
        assert_eq!(last_used(&seat, None), at(100));
        assert_eq!(last_used(&seat, Some(at(50))), at(100));
        assert_eq!(last_used(&seat, Some(at(150))), at(150));
    }

    #[test]
    fn a_crash_makes_the_logins_of_the_day_before_it_as_late_as_the_start() {
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        assert_eq!(after_crash(at(99), None), at(99));
        for (stored, expected) in [(74, 74), (75, 100), (99, 100), (100, 100), (101, 101)] {
            assert_eq!(after_crash(at(stored), Some(at(100))), at(expected), "{stored}");
        }
    }

    #[test]
    fn a_night_is_over_in_an_hour() {
        let due = Timestamp::UNIX_EPOCH;
        let at = |minutes| due.checked_add(SignedDuration::from_mins(minutes)).unwrap();
        for (minutes, expected) in [(0, true), (59, true), (60, false), (9 * 60, false)] {
            assert_eq!(is_night(due, at(minutes)), expected, "{minutes}");
        }
    }

    #[test]
    fn the_night_is_at_three_local_time() {
        // Central European time: clocks go forward on 29 March 2026 from 2 to 3, and back on 25 October.
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let check = |now: &str, expected: &str| {
            let next = next_reclaim(now.parse().unwrap(), &zone);
            assert_eq!(next, expected.parse().unwrap(), "after {now}: {next}");
        };
        check("2026-01-10T01:59:59Z", "2026-01-10T02:00:00Z");
        check("2026-01-10T02:00:00Z", "2026-01-11T02:00:00Z");
        check("2026-07-10T12:00:00Z", "2026-07-11T01:00:00Z");
        check("2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z");
        check("2026-10-24T12:00:00Z", "2026-10-25T02:00:00Z");
        // Clocks that go forward from 3 to 4: the night is an hour later, and is not left out.
        let zone = TimeZone::posix("EET-2EEST,M3.5.0/3,M10.5.0/4").unwrap();
        let next = next_reclaim("2026-03-28T12:00:00Z".parse().unwrap(), &zone);
        assert_eq!(next, "2026-03-29T01:00:00Z".parse().unwrap());
        assert_eq!(next_reclaim(Timestamp::MAX, &TimeZone::UTC), Timestamp::MAX);
    }
}
