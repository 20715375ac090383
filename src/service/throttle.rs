//! Slows down whoever tries passwords: after a few failures for one user or from one address each try takes
//! longer, and after more of them none is looked at for a while.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures after which tries are slowed, and after which they are refused.
struct Limits {
    slow: u32,
    slower: u32,
    shut: u32,
}

/// Somebody who mistypes a password or changes it in one of three programs stays below the first.
const USER: Limits = Limits { slow: 3, slower: 6, shut: 10 };

/// Many people may be behind one address.
const CLIENT: Limits = Limits { slow: 20, slower: 40, shut: 60 };

/// Mail servers wait for us, so no try is held up for long.
const SLOW: Duration = Duration::from_secs(1);
pub(super) const SLOWER: Duration = Duration::from_secs(2);

/// How long nothing is looked at. Each failure after it begins another such while.
pub(super) const SHUT_FOR: Duration = Duration::from_secs(60);

/// Failures are forgotten when no other has followed for so long.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Users and addresses remembered in each of two generations, some 10 MB in all. Whoever invents more of them
/// displaces the oldest.
const MAX_REMEMBERED: usize = 100_000;

/// What a try has to go through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Gate {
    /// Nothing.
    Open,
    /// It waits first.
    Slow(Duration),
    /// It is refused, unseen.
    Shut,
}

/// A user or an address, without its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Tag(u64);

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Tag, Failures>,
    old: HashMap<Tag, Failures>,
}

/// Failed tries, by user and by address.
#[derive(Default)]
pub(super) struct Throttle {
    hasher: RandomState,
    failures: Mutex<Generations>,
}

impl Throttle {
    /// The tag of a user, by key or name.
    pub(super) fn tag(&self, user: impl Hash) -> Tag {
        Tag(self.hasher.hash_one(("user", user)))
    }

    /// An IPv6 client has at least a /64 to itself (RFC 6177).
    fn client_tag(&self, client: IpAddr) -> Tag {
        let network = match client.to_canonical() {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address) >> 64 | 1 << 64,
        };
        Tag(self.hasher.hash_one(("client", network)))
    }

    /// What the next try of this user from this address has to go through.
    pub(super) fn gate(&self, user: Tag, client: Option<IpAddr>, now: Instant) -> Gate {
        let failures = self.lock();
        let by_user = failures.gate(user, &USER, now);
        let client = client.map(|client| self.client_tag(client));
        by_user.max(client.map_or(Gate::Open, |client| failures.gate(client, &CLIENT, now)))
    }

    /// Counts a failure; true where the user's tries are refused from now on.
    pub(super) fn failed(&self, user: Tag, client: Option<IpAddr>, now: Instant) -> bool {
        let mut failures = self.lock();
        if let Some(client) = client.map(|client| self.client_tag(client)) {
            failures.count(client, now);
        }
        failures.count(user, now) >= USER.shut
    }

    /// Forgets the user's failures. Those of the address stay, or else an account of one's own would clear them.
    pub(super) fn succeeded(&self, user: Tag) {
        let mut failures = self.lock();
        failures.young.remove(&user);
        failures.old.remove(&user);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        // Every change is whole before the lock is let go, so a poisoned one holds good data.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn known(&self, tag: Tag, now: Instant) -> Option<Failures> {
        let failures = self.young.get(&tag).or_else(|| self.old.get(&tag)).copied()?;
        (now.saturating_duration_since(failures.last) < FORGET_AFTER).then_some(failures)
    }

    fn gate(&self, tag: Tag, limits: &Limits, now: Instant) -> Gate {
        let Some(Failures { count, last }) = self.known(tag, now) else { return Gate::Open };
        match count {
            _ if count >= limits.shut && now.saturating_duration_since(last) < SHUT_FOR => Gate::Shut,
            _ if count >= limits.slower => Gate::Slow(SLOWER),
            _ if count >= limits.slow => Gate::Slow(SLOW),
            _ => Gate::Open,
        }
    }

    fn count(&mut self, tag: Tag, now: Instant) -> u32 {
        let count = self.known(tag, now).map_or(0, |failures| failures.count).saturating_add(1);
        if self.young.len() >= MAX_REMEMBERED && !self.young.contains_key(&tag) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(tag, Failures { count, last: now });
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_user_slow_and_then_refuse() {
        let throttle = Throttle::default();
        let (alice, bob) = (throttle.tag("alice"), throttle.tag("bob"));
        let start = Instant::now();
        for failure in 0..10 {
            let expected = match failure {
                0..3 => Gate::Open,
                3..6 => Gate::Slow(SLOW),
                _ => Gate::Slow(SLOWER),
            };
            assert_eq!(throttle.gate(alice, None, start), expected, "{failure}");
            assert_eq!(throttle.failed(alice, None, start), failure == 9);
        }
        assert_eq!(throttle.gate(alice, None, start), Gate::Shut);
        assert_eq!(throttle.gate(bob, None, start), Gate::Open);
        let later = start + SHUT_FOR;
        assert_eq!(throttle.gate(alice, None, later), Gate::Slow(SLOWER));
        throttle.failed(alice, None, later);
        assert_eq!(throttle.gate(alice, None, later), Gate::Shut);
        assert_eq!(throttle.gate(alice, None, later + FORGET_AFTER), Gate::Open);
        throttle.succeeded(alice);
        assert_eq!(throttle.gate(alice, None, later), Gate::Open);
    }

    #[test]
    fn failures_of_an_address_count_for_every_user() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let address = |text: &str| text.parse::<IpAddr>().ok();
        for (from, other, stranger) in [
            ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"),
            ("2001:db8::1", "2001:db8::ffff:0:1", "2001:db8:0:1::1"),
        ] {
            for number in 0..60 {
                let user = throttle.tag(("u", from, number));
                throttle.failed(user, address(from), now);
                throttle.succeeded(user);
            }
            let user = throttle.tag("fresh");
            assert_eq!(throttle.gate(user, address(from), now), Gate::Shut);
            assert_eq!(throttle.gate(user, address(other), now), Gate::Shut);
            assert_eq!(throttle.gate(user, address(stranger), now), Gate::Open);
            assert_eq!(throttle.gate(user, None, now), Gate::Open);
        }
    }

    #[test]
    fn invented_names_take_bounded_memory() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..5 * MAX_REMEMBERED {
            throttle.failed(throttle.tag(number), None, now);
        }
        let failures = throttle.lock();
        assert!(failures.young.len() <= MAX_REMEMBERED && failures.old.len() <= MAX_REMEMBERED);
    }
}
