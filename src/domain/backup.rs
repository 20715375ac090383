//! When a backup is due.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The hours of the night, local time: before seats are reclaimed at three.
const NIGHT: std::ops::Range<i8> = 1..3;

/// One a night.
const SAME_NIGHT: SignedDuration = SignedDuration::from_hours(12);

/// Where the latest is older than this a night was missed, and nobody waits for the next.
const OVERDUE: SignedDuration = SignedDuration::from_hours(36);

/// Whether a backup is due, where the latest was made at `latest`.
pub fn is_due(latest: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> bool {
    let Some(latest) = latest else { return true };
    let age = now.duration_since(latest);
    age >= OVERDUE || age >= SAME_NIGHT && NIGHT.contains(&zone.to_datetime(now).hour())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_night_and_one_where_a_night_was_missed() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let check = |latest: Option<&str>, now: &str, expected| {
            assert_eq!(is_due(latest.map(at), at(now), &zone), expected, "{latest:?}, {now}");
        };
        check(None, "2026-11-24T12:00:00Z", true);
        // One o'clock in Berlin.
        check(Some("2026-11-23T00:10:00Z"), "2026-11-23T23:59:00Z", false);
        check(Some("2026-11-23T00:10:00Z"), "2026-11-24T00:00:00Z", true);
        check(Some("2026-11-24T00:00:00Z"), "2026-11-24T01:00:00Z", false);
        // Made by day, as at the first start.
        check(Some("2026-11-23T13:00:00Z"), "2026-11-24T00:00:00Z", false);
        check(Some("2026-11-23T12:00:00Z"), "2026-11-24T00:00:00Z", true);
        check(Some("2026-11-23T00:00:00Z"), "2026-11-24T11:00:00Z", false);
        check(Some("2026-11-23T00:00:00Z"), "2026-11-24T12:00:00Z", true);
        // A clock that was ahead.
        check(Some("2027-11-23T00:00:00Z"), "2026-11-24T12:00:00Z", false);
    }
}
