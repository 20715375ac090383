//! When the licence server is asked again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The server is asked at least so often.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// So long before the licence ends, and from then on, it is asked every [`NEAR_END_EVERY`].
const NEAR_END: SignedDuration = SignedDuration::from_hours(7 * 24);
const NEAR_END_EVERY: Duration = Duration::from_secs(3600);

/// The wait after a first failure that may pass by itself; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(300);

/// The longest wait before a first question, so that a thousand daemons that start after a power
/// failure do not ask in the same second.
const FIRST_ASK: Duration = Duration::from_secs(60);

/// The share of an interval by which it may be shortened.
const JITTER: f64 = 0.1;

/// The last question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// When it was asked, in trusted time.
    pub at: Timestamp,
    /// Failures in a row that may pass by themselves: 0 after an answer, also after a refusal.
    pub failures: u64,
}

/// When to ask next. `every` is configured, `expires` is the end of the licence in hand, `since` is when the
/// daemon started, `chance` is a number between 0 and 1.
pub fn next(
    every: Duration,
    expires: Option<Timestamp>,
    asked: Option<Asked>,
    since: Timestamp,
    now: Timestamp,
    chance: f64,
) -> Timestamp {
    let is_near_end = expires.is_some_and(|end| now >= end.saturating_sub(NEAR_END).unwrap_or(end));
    let regular = every.min(if is_near_end { NEAR_END_EVERY } else { LONGEST });
    let chance = chance.clamp(0.0, 1.0);
    let Some(asked) = asked else { return later(since.min(now), regular.min(FIRST_ASK).mul_f64(chance)) };
    let interval = match asked.failures {
        0 => regular,
        failures => {
            let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
            FIRST_RETRY.saturating_mul(1 << doublings).min(regular)
        }
    };
    let interval = interval.mul_f64(1.0 - JITTER * chance);
    if asked.at > now {
        // It was asked by a time that was wrong.
        return now;
    }
    later(asked.at, interval)
}

fn later(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second as i64).unwrap()
    }

    #[test]
    fn the_server_is_asked_in_time() {
        let check = |every, expires: Option<u64>, asked: Option<(u64, u64)>, now, chance, expected| {
            let asked = asked.map(|(second, failures)| Asked { at: at(second), failures });
            let next = next(Duration::from_secs(every), expires.map(at), asked, at(50), at(now), chance);
            assert_eq!(next, at(expected), "{every} {expires:?} {asked:?} {now} {chance}");
        };
        // At once, or a moment later.
        check(12 * HOUR, None, None, 100, 0.0, 50);
        check(12 * HOUR, None, None, 100, 1.0, 110);
        check(12 * HOUR, None, None, 105, 1.0, 110);
        check(1, None, None, 105, 1.0, 51);
        // As configured, at most a tenth earlier, and never more than a day.
        check(12 * HOUR, None, Some((0, 0)), 5, 0.0, 12 * HOUR);
        check(10 * HOUR, None, Some((0, 0)), 5, 1.0, 9 * HOUR);
        check(900 * HOUR, None, Some((0, 0)), 5, 0.0, DAY);
        check(1, None, Some((0, 0)), 0, 0.0, 1);
        // Every hour in the last seven days, and when it is over.
        check(12 * HOUR, Some(8 * DAY), Some((0, 0)), 5, 0.0, 12 * HOUR);
        check(12 * HOUR, Some(8 * DAY), Some((DAY, 0)), DAY, 0.0, DAY + HOUR);
        check(12 * HOUR, Some(DAY), Some((9 * DAY, 0)), 9 * DAY, 0.0, 9 * DAY + HOUR);
        check(60, Some(DAY), Some((0, 0)), 0, 0.0, 60);
        // After failures sooner, and then as usual.
        check(12 * HOUR, None, Some((0, 1)), 5, 0.0, 300);
        check(12 * HOUR, None, Some((0, 2)), 5, 0.0, 600);
        check(12 * HOUR, None, Some((0, 9)), 5, 0.0, 12 * HOUR);
        check(12 * HOUR, None, Some((0, u64::MAX)), 5, 0.0, 12 * HOUR);
        check(60, None, Some((0, 1)), 5, 0.0, 60);
        // It was asked by a time that was wrong: once more, and then as usual.
        check(12 * HOUR, None, Some((30 * DAY, 0)), DAY, 0.0, DAY);
    }

    /// A server that is down for a week is asked often at first, then every interval, and asked soon when it
    /// is back; the licence in hand has its state from its own dates alone.
    #[test]
    fn a_server_that_is_down_for_a_week_is_not_flooded() {
        let every = Duration::from_secs(12 * HOUR);
        let (mut asked, mut now, mut questions) = (Asked { at: at(0), failures: 1 }, at(0), 0);
        while now < at(7 * DAY) {
            now = next(every, Some(at(365 * DAY)), Some(asked), at(0), now, 0.5);
            asked = Asked { at: now, failures: asked.failures + 1 };
            questions += 1;
        }
        assert!((20..=24).contains(&questions), "{questions}");
        let back = next(every, None, Some(Asked { at: now, failures: 0 }), at(0), now, 0.5);
        assert!(back <= later(now, every) && back > now);
    }
}
