//! Slows down whoever tries passwords: after a few failures each try takes longer, and after more of them none is
//! looked at for a while.
//!
//! Failures count for a user *from an address*, so that nobody locks somebody out of their mail by guessing from
//! elsewhere. They count for the address, whatever the user. And they count for the user, whatever the address,
//! because whoever has a thousand addresses must not have a thousand times the tries; but this limit is for places
//! from which the user has never logged in, so that it keeps strangers out and not the person.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::recent::Recent;

/// Failures after which tries are slowed, and after which they are refused.
struct Limits {
    slow: u32,
    slower: u32,
    shut: u32,
}

/// Of a user from an address. Somebody who mistypes a password or changes it in one of three programs stays below
/// the first.
const PLACE: Limits = Limits { slow: 3, slower: 6, shut: 10 };

/// Of an address: many people may be behind one.
const CLIENT: Limits = Limits { slow: 20, slower: 40, shut: 60 };

/// Of a user from everywhere: no more than NIST SP 800-63B section 5.2.2 allows.
const USER: Limits = Limits { slow: 30, slower: 60, shut: 100 };

/// Mail servers wait for us, so no try is held up for long.
const SLOW: Duration = Duration::from_secs(1);
pub(super) const SLOWER: Duration = Duration::from_secs(2);

/// How long nothing is looked at. Each failure after it begins another such while.
pub(super) const SHUT_FOR: Duration = Duration::from_secs(60);

/// Failures are forgotten when no other has followed for so long.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Tags of failures that are remembered, and of places where somebody has logged in: up to twice as many, some
/// 15 MB in all. Whoever invents more of them displaces the oldest.
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

/// Whose tries are refused from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shut {
    /// The user's from this address.
    Place,
    /// Everybody's from this address.
    Client,
    /// The user's from wherever they have not logged in before.
    User,
}

/// A user, an address or both, without their names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Tag(u64);

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

struct Memory {
    failures: Recent<Tag, Failures>,
    /// Users with addresses from which they have logged in.
    homes: Recent<Tag, ()>,
}

/// Failed tries.
pub(super) struct Throttle {
    hasher: RandomState,
    memory: Mutex<Memory>,
}

impl Throttle {
    pub(super) fn new() -> Throttle {
        let memory = Memory { failures: Recent::new(MAX_REMEMBERED), homes: Recent::new(MAX_REMEMBERED) };
        Throttle { hasher: RandomState::new(), memory: Mutex::new(memory) }
    }

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

    /// Everybody whose address isn't told is in one place.
    fn place_tag(&self, user: Tag, client: Option<Tag>) -> Tag {
        Tag(self.hasher.hash_one(("place", user, client)))
    }

    /// What the next try of this user from this address has to go through.
    pub(super) fn gate(&self, user: Tag, client: Option<IpAddr>, now: Instant) -> Gate {
        let client = client.map(|client| self.client_tag(client));
        let place = self.place_tag(user, client);
        let memory = self.lock();
        let mut gate = memory.gate(place, &PLACE, now);
        if let Some(client) = client {
            gate = gate.max(memory.gate(client, &CLIENT, now));
        }
        if memory.homes.get(&place).is_none() {
            gate = gate.max(memory.gate(user, &USER, now));
        }
        gate
    }

    /// Counts a failure; says whose tries are refused from now on, of several the most.
    pub(super) fn failed(&self, user: Tag, client: Option<IpAddr>, now: Instant) -> Option<Shut> {
        let client = client.map(|client| self.client_tag(client));
        let place = self.place_tag(user, client);
        let mut memory = self.lock();
        let place_shut = memory.count(place, &PLACE, now);
        let client_shut = client.is_some_and(|client| memory.count(client, &CLIENT, now));
        let user_shut = memory.homes.get(&place).is_none() && memory.count(user, &USER, now);
        match (user_shut, client_shut, place_shut) {
            (true, ..) => Some(Shut::User),
            (_, true, _) => Some(Shut::Client),
            (_, _, true) => Some(Shut::Place),
            _ => None,
        }
    }

    /// Forgets the user's failures from this address. Those of the address stay, or else an account of one's own
    /// would clear them, and so do those from elsewhere.
    pub(super) fn succeeded(&self, user: Tag, client: Option<IpAddr>) {
        let client = client.map(|client| self.client_tag(client));
        let place = self.place_tag(user, client);
        let mut memory = self.lock();
        memory.failures.remove(&place);
        memory.homes.insert(place, ());
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Every change is whole before the lock is let go, so a poisoned one holds good data.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn known(&self, tag: Tag, now: Instant) -> Option<Failures> {
        let failures = self.failures.get(&tag).copied()?;
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

    /// Whether that is too many.
    fn count(&mut self, tag: Tag, limits: &Limits, now: Instant) -> bool {
        let count = self.known(tag, now).map_or(0, |failures| failures.count).saturating_add(1);
        self.failures.insert(tag, Failures { count, last: now });
        count >= limits.shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn failures_of_a_user_slow_and_then_refuse() {
        for client in [None, address("192.0.2.7")] {
            let throttle = Throttle::new();
            let (alice, bob) = (throttle.tag("alice"), throttle.tag("bob"));
            let start = Instant::now();
            for failure in 0..10 {
                let expected = match failure {
                    0..3 => Gate::Open,
                    3..6 => Gate::Slow(SLOW),
                    _ => Gate::Slow(SLOWER),
                };
                assert_eq!(throttle.gate(alice, client, start), expected, "{failure}");
                assert_eq!(throttle.failed(alice, client, start), (failure == 9).then_some(Shut::Place));
            }
            assert_eq!(throttle.gate(alice, client, start), Gate::Shut);
            assert_eq!(throttle.gate(bob, client, start), Gate::Open);
            let later = start + SHUT_FOR;
            assert_eq!(throttle.gate(alice, client, later), Gate::Slow(SLOWER));
            throttle.failed(alice, client, later);
            assert_eq!(throttle.gate(alice, client, later), Gate::Shut);
            assert_eq!(throttle.gate(alice, client, later + FORGET_AFTER), Gate::Open);
            throttle.succeeded(alice, client);
            assert_eq!(throttle.gate(alice, client, later), Gate::Open);
        }
    }

    #[test]
    fn who_guesses_from_elsewhere_locks_nobody_out() {
        let throttle = Throttle::new();
        let alice = throttle.tag("alice");
        let now = Instant::now();
        let (home, stranger) = (address("192.0.2.7"), address("198.51.100.1"));
        for _ in 0..10 {
            throttle.failed(alice, stranger, now);
        }
        assert_eq!(throttle.gate(alice, stranger, now), Gate::Shut);
        assert_eq!(throttle.gate(alice, home, now), Gate::Open);
        // Nor does a login of hers let the stranger go on.
        throttle.succeeded(alice, home);
        assert_eq!(throttle.gate(alice, stranger, now), Gate::Shut);
    }

    #[test]
    fn who_guesses_from_everywhere_has_a_limit_too_and_the_person_gets_in_from_home() {
        let throttle = Throttle::new();
        let alice = throttle.tag("alice");
        let now = Instant::now();
        let (home, away) = (address("192.0.2.7"), address("192.0.2.8"));
        throttle.succeeded(alice, home);
        // A program of hers with an old password.
        for _ in 0..9 {
            throttle.failed(alice, home, now);
        }
        for number in 0..100_u8 {
            let expected = match number {
                0..30 => Gate::Open,
                30..60 => Gate::Slow(SLOW),
                _ => Gate::Slow(SLOWER),
            };
            assert_eq!(throttle.gate(alice, away, now), expected, "{number}");
            let bot = Some(IpAddr::from([198, 51, 100, number]));
            assert_eq!(throttle.failed(alice, bot, now), (number == 99).then_some(Shut::User));
        }
        assert_eq!(throttle.gate(alice, away, now), Gate::Shut);
        assert_eq!(throttle.gate(alice, None, now), Gate::Shut);
        throttle.succeeded(alice, home);
        assert_eq!(throttle.gate(alice, home, now), Gate::Open);
        assert_eq!(throttle.gate(alice, away, now), Gate::Shut, "a login clears what failed there alone");
        assert_eq!(throttle.gate(throttle.tag("bob"), away, now), Gate::Open);
        assert_eq!(throttle.gate(alice, away, now + SHUT_FOR), Gate::Slow(SLOWER));
    }

    #[test]
    fn failures_of_an_address_count_for_every_user() {
        for (from, other, stranger) in [
            ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"),
            ("2001:db8::1", "2001:db8::ffff:0:1", "2001:db8:0:1::1"),
        ] {
            let throttle = Throttle::new();
            let now = Instant::now();
            for number in 0..60 {
                let user = throttle.tag(("u", number));
                let shut = throttle.failed(user, address(from), now);
                assert_eq!(shut, (number == 59).then_some(Shut::Client));
                throttle.succeeded(user, address(from));
            }
            let user = throttle.tag("fresh");
            assert_eq!(throttle.gate(user, address(from), now), Gate::Shut);
            assert_eq!(throttle.gate(user, address(other), now), Gate::Shut);
            assert_eq!(throttle.gate(user, address(stranger), now), Gate::Open);
            assert_eq!(throttle.gate(user, None, now), Gate::Open);
        }
    }
}
