//! What a directory's answer means for the mirror: additions and changes at once, removals and disables
//! only at the end of a complete sweep, and only as many as the brake lets through.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::user::{Kind, Mapped, User, UserKey};

/// `[directory.….brake]`: how many users one sweep may remove or disable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Brake {
    /// This share of the mapped users, in percent, 0 to 100,
    pub max_removals_percent: u8,
    /// but never fewer than this
    pub min_removals: u64,
    /// nor more than this.
    pub max_removals: u64,
}

impl Default for Brake {
    /// Among what others chose (Entra 500, Okta 20 %, GCDS 5 %), with room for a small team's week.
    fn default() -> Brake {
        Brake { max_removals_percent: 10, min_removals: 3, max_removals: 500 }
    }
}

impl Brake {
    /// How many of `people` mapped users may go at once.
    pub fn allowance(&self, people: u64) -> u64 {
        let share = u128::from(people) * u128::from(self.max_removals_percent) / 100;
        // The share is at most `people`, which fits.
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        share.max(self.min_removals).min(self.max_removals.max(self.min_removals))
    }
}

/// What a sweep would take away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loss {
    /// Living people whom the sweep did not see.
    pub removed: u64,
    /// Enabled people whom the sweep saw disabled, or as something that is no person.
    pub disabled: u64,
    /// Living people before the sweep.
    pub people: u64,
    /// The sweep saw no person at all, where there had been some.
    pub empty: bool,
}

impl Loss {
    /// Removals and disables together: what the brake counts.
    pub fn total(self) -> u64 {
        self.removed + self.disabled
    }
}

/// How an entry differs from what the mirror holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Not seen before.
    Added,
    /// Nothing to write.
    Unchanged,
    /// Names, display name, DN, or enabled again.
    Changed,
    /// A tombstone is back.
    Returned,
    /// An enabled person is disabled now, or no person any more: loses the seat, so the brake counts it.
    Disabled,
}

/// Compares an entry with the mirror.
pub fn compare(stored: Option<&User>, mapped: &Mapped) -> Change {
    match stored {
        None => Change::Added,
        Some(user) if !user.is_living() => Change::Returned,
        Some(user) if user.is_active() && !mapped.is_active() => Change::Disabled,
        Some(user) if user.mapped == *mapped => Change::Unchanged,
        Some(_) => Change::Changed,
    }
}

/// What may be concluded at the end of a refresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authority {
    /// Everything that exists was told: what was not told is gone.
    Everything,
    /// What is gone was named: what was not told is unchanged.
    Named,
}

/// Minutes of a [`Window`]: an hour of them.
const WINDOW: i64 = 60;

/// What was taken away in the last hour, to the minute: the brake of a directory that is followed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Window {
    /// At most sixty minutes since 1970 with what was lost in each, the oldest first.
    minutes: Vec<(i64, u64)>,
}

impl Window {
    /// The window that [`minutes`](Window::minutes) told.
    pub fn from_minutes(minutes: Vec<(i64, u64)>) -> Window {
        Window { minutes }
    }

    /// Minutes since 1970 with what was lost in each.
    pub fn minutes(&self) -> &[(i64, u64)] {
        &self.minutes
    }

    /// How many users were removed or disabled in the hour before `now`.
    pub fn lost(&self, now: Timestamp) -> u64 {
        let minute = minute(now);
        self.minutes.iter().filter(|(at, _)| *at > minute - WINDOW).map(|(_, lost)| lost).sum()
    }

    /// Counts what was taken away now.
    pub fn add(&mut self, now: Timestamp, lost: u64) {
        let minute = minute(now);
        self.minutes.retain(|(at, _)| *at > minute - WINDOW);
        match self.minutes.last_mut() {
            // A clock that was set back adds to the latest minute.
            Some((at, sum)) if *at >= minute => *sum += lost,
            _ => self.minutes.push((minute, lost)),
        }
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

/// What to do with one entry of a running sweep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Write it now.
    Write(Mapped),
}

/// One sweep: the generation of everything that it saw.
///
/// The stamp is a set of the keys seen, kept in memory and dropped with the sweep, and not a number
/// in each record, so that a sweep that changes nothing writes nothing.
#[derive(Debug, Default)]
pub struct Sweep {
    people: u64,
    allowance: u64,
    approved: bool,
    seen: KeySet,
    people_seen: u64,
    disabled: u64,
    /// At most `allowance` of them: with one more the brake trips, and none of them is needed.
    deferred: Vec<Mapped>,
    /// Users whom the directory named as gone.
    named: KeySet,
}

/// How a complete sweep ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Apply [`Sweep::take_deferred`] and entomb these, whom the sweep did not see.
    Proceed {
        /// Living users of the directory.
        removed: Vec<UserKey>,
    },
    /// The brake tripped: nothing that takes away is applied.
    Held(Loss),
}

impl Sweep {
    /// Starts a sweep of a directory with `people` living people, of whom `lost` were taken away before in
    /// the same hour. `approved` is the size of the held loss that an administrator let through: as many may
    /// go, but not more than they were shown.
    pub fn new(brake: &Brake, people: u64, lost: u64, approved: Option<u64>) -> Sweep {
        let allowance = brake.allowance(people + lost).saturating_sub(lost);
        Sweep {
            people,
            allowance: allowance.max(approved.unwrap_or(0)),
            approved: approved.is_some(),
            seen: KeySet::default(),
            people_seen: 0,
            disabled: 0,
            deferred: Vec::new(),
            named: KeySet::default(),
        }
    }

    /// Takes in one entry, with the user that the mirror holds under its id.
    pub fn observe(&mut self, stored: Option<(UserKey, &User)>, mapped: Mapped) -> Step {
        if mapped.kind == Kind::Person {
            self.people_seen += 1;
        }
        // An entry that changes meanwhile may be told again: its last word counts, and it counts once.
        let is_again = stored.is_some_and(|(key, _)| !self.seen.insert(key));
        if is_again {
            let before = self.deferred.len();
            self.deferred.retain(|deferred| deferred.id != mapped.id);
            self.disabled -= (before - self.deferred.len()) as u64;
        }
        match compare(stored.map(|(_, user)| user), &mapped) {
            // What was told before may be on its way to the mirror.
            Change::Unchanged if is_again => Step::Write(mapped),
            Change::Unchanged => Step::Nothing,
            Change::Disabled => {
                let has_room = (self.deferred.len() as u64) < self.allowance;
                // Past the allowance nobody knows who was counted before.
                if has_room || !is_again {
                    self.disabled += 1;
                }
                if has_room {
                    self.deferred.push(mapped);
                }
                Step::Nothing
            }
            Change::Added | Change::Changed | Change::Returned => Step::Write(mapped),
        }
    }

    /// Marks a user whom the store has just added for this sweep.
    pub fn saw(&mut self, key: UserKey) {
        self.seen.insert(key);
    }

    /// Takes in a user of whom the directory told that they are there, unchanged.
    pub fn observe_present(&mut self, key: UserKey, kind: Kind) {
        if kind == Kind::Person {
            self.people_seen += 1;
        }
        self.seen.insert(key);
    }

    /// Notes that the directory named a user as gone: the last word counts, so one whom it told before is
    /// gone, and one whom it tells again later is not.
    pub fn name_gone(&mut self, key: UserKey) {
        self.named.insert(key);
        self.seen.remove(key);
    }

    /// Whether the directory named this user as gone.
    pub fn is_named(&self, key: UserKey) -> bool {
        self.named.contains(key)
    }

    /// The users who were named as gone and not seen.
    pub fn named_gone(&self) -> impl Iterator<Item = UserKey> + '_ {
        self.named.iter().filter(|key| !self.has_seen(*key))
    }

    /// Whether the sweep saw this user.
    pub fn has_seen(&self, key: UserKey) -> bool {
        self.seen.contains(key)
    }

    /// The entries that disable their user, held back until the brake let them through.
    pub fn take_deferred(&mut self) -> Vec<Mapped> {
        std::mem::take(&mut self.deferred)
    }

    /// Ends a complete sweep. `gone` are the living users of the directory whom it did not see, or, with
    /// [`Authority::Named`], only those who were named; an incomplete sweep is dropped instead, and takes
    /// nothing away.
    pub fn conclude<E>(
        &self,
        authority: Authority,
        gone: impl Iterator<Item = Result<(UserKey, Kind), E>>,
    ) -> Result<Verdict, E> {
        let mut removed = Vec::new();
        let mut loss = Loss {
            removed: 0,
            disabled: self.disabled,
            people: self.people,
            empty: authority == Authority::Everything && self.people > 0 && self.people_seen == 0,
        };
        for user in gone {
            let (key, kind) = user?;
            if kind == Kind::Person {
                loss.removed += 1;
            }
            // Past the allowance the list is not needed; what is no person is not counted, only listed.
            if loss.total() <= self.allowance {
                removed.push(key);
            }
        }
        let is_within = loss.total() <= self.allowance && (!loss.empty || self.approved);
        Ok(if is_within { Verdict::Proceed { removed } } else { Verdict::Held(loss) })
    }
}

/// A set of user keys, a bit each: a million users take 125 kB.
#[derive(Debug, Default)]
struct KeySet {
    words: Vec<u64>,
}

impl KeySet {
    /// True when the key is new.
    fn insert(&mut self, UserKey(key): UserKey) -> bool {
        let (word, bit) = ((key / 64) as usize, 1 << (key % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    fn remove(&mut self, UserKey(key): UserKey) {
        if let Some(word) = self.words.get_mut((key / 64) as usize) {
            *word &= !(1 << (key % 64));
        }
    }

    fn iter(&self) -> impl Iterator<Item = UserKey> + '_ {
        let bits = |word: u64| (0..64).filter(move |bit| word & (1 << bit) != 0);
        let words = self.words.iter().zip(0u64..);
        words.flat_map(move |(word, at)| bits(*word).map(move |bit| UserKey(at * 64 + bit)))
    }

    fn contains(&self, UserKey(key): UserKey) -> bool {
        self.words.get((key / 64) as usize).is_some_and(|word| word & (1 << (key % 64)) != 0)
    }
}

/// What a sweep did, or a dry run would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// New people.
    pub added: u64,
    /// Users with other names, another DN, or enabled again.
    pub changed: u64,
    /// Tombstones that came back.
    pub returned: u64,
    /// People whose account is disabled now.
    pub disabled: u64,
    /// People who became tombstones.
    pub removed: u64,
    /// People and others seen in all.
    pub seen: u64,
    /// Entries that were not mapped, by the reason's code.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Seats released at once: their users are disabled.
    pub seats_released: u64,
    /// Seats that will be released when the grace period of removed users ends.
    pub seats_released_after_grace: u64,
    /// Set when the brake tripped.
    pub held: Option<Loss>,
    /// What was repaired although no change was told of it.
    pub drift: Drift,
}

/// Users in whom the mirror differed from the directory, although all changes had been told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drift {
    /// In the directory, and not in the mirror.
    pub missing: u64,
    /// Otherwise in the directory than in the mirror.
    pub stale: u64,
    /// In the mirror, and not in the directory.
    pub surplus: u64,
}

impl Drift {
    /// All of them.
    pub fn total(self) -> u64 {
        self.missing + self.stale + self.surplus
    }
}

impl Report {
    /// Something was written, or would be.
    pub fn has_changes(&self) -> bool {
        self.added + self.changed + self.returned + self.disabled + self.removed > 0
    }
}

/// The wait after the first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// No longer, so that a repaired server is noticed within minutes.
const BACKOFF_LONGEST: Duration = Duration::from_secs(300);

/// How long to wait after `failures` (1 or more) failures in a row. `jitter`, from 0 to 1, spreads the
/// wait over the upper half of the interval, so that many daemons do not return in step.
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let longest = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_LONGEST);
    longest.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::name::{Name, StableId};
    use crate::domain::user::DirectoryId;
    use jiff::Timestamp;

    fn mapped(id: u8) -> Mapped {
        Mapped {
            id: StableId::new(&[id; 16]).unwrap(),
            kind: Kind::Person,
            enabled: true,
            logins: vec![Name::parse(&format!("u{id}@example.org"), None).unwrap()],
            addresses: Vec::new(),
            display_name: None,
            dn: "".into(),
        }
    }

    fn user(id: u8) -> User {
        User { directory: DirectoryId(1), mapped: mapped(id), since: Timestamp::UNIX_EPOCH, removed_at: None }
    }

    /// A sweep over `people` users of which the first `seen` are still there, the first `disabled` disabled.
    fn sweep(brake: &Brake, people: u8, seen: u8, disabled: u8, approved: Option<u64>) -> (Verdict, usize) {
        let mut sweep = Sweep::new(brake, people.into(), 0, approved);
        for id in 0..seen {
            let entry = Mapped { enabled: id >= disabled, ..mapped(id) };
            let _ = sweep.observe(Some((UserKey(id.into()), &user(id))), entry.clone());
            let _ = sweep.observe(Some((UserKey(id.into()), &user(id))), entry);
        }
        let unseen: Vec<_> = (0..people)
            .map(|id| UserKey(id.into()))
            .filter(|key| !sweep.has_seen(*key))
            .map(|key| Ok::<_, ()>((key, Kind::Person)))
            .collect();
        let verdict = sweep.conclude(Authority::Everything, unseen.into_iter()).unwrap();
        (verdict, sweep.take_deferred().len())
    }

    fn check(people: u8, seen: u8, disabled: u8, approved: Option<u64>, proceeds: bool) {
        let brake = Brake { max_removals_percent: 10, min_removals: 3, max_removals: 8 };
        let (verdict, deferred) = sweep(&brake, people, seen, disabled, approved);
        let lost = usize::from(people - seen + disabled);
        match verdict {
            Verdict::Proceed { removed } => {
                assert!(proceeds, "{people} {seen} {disabled} {approved:?}");
                assert_eq!(removed.len() + deferred, lost);
            }
            Verdict::Held(loss) => {
                assert!(!proceeds, "{people} {seen} {disabled} {approved:?} {loss:?}");
                assert_eq!(loss.total(), lost as u64);
            }
        }
    }

    #[test]
    fn the_brake_counts_removals_and_disables_together() {
        check(50, 50, 0, None, true);
        check(50, 45, 0, None, true);
        check(50, 44, 0, None, false);
        check(50, 47, 2, None, true);
        check(50, 47, 3, None, false);
        check(50, 50, 6, None, false);
    }

    #[test]
    fn the_brake_has_a_floor_and_a_ceiling() {
        check(5, 2, 0, None, true);
        check(5, 1, 0, None, false);
        check(200, 192, 0, None, true);
        check(200, 191, 0, None, false);
    }

    #[test]
    fn an_empty_answer_trips_the_brake() {
        check(2, 0, 0, None, false);
        check(0, 0, 0, None, true);
        check(2, 0, 0, Some(2), true);
    }

    #[test]
    fn an_approval_covers_what_was_shown_and_no_more() {
        check(50, 30, 0, Some(20), true);
        check(50, 29, 0, Some(20), false);
    }

    #[test]
    fn what_was_lost_in_the_hour_counts() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let mut window = Window::default();
        window.add(at(0), 2);
        window.add(at(0), 1);
        window.add(at(30), 4);
        assert_eq!(window.lost(at(59)), 7);
        assert_eq!(window.lost(at(60)), 4);
        assert_eq!(window.lost(at(90)), 0);

        let brake = Brake { max_removals_percent: 10, min_removals: 3, max_removals: 8 };
        let gone = |count: u64| (0..count).map(|id| Ok::<_, ()>((UserKey(id), Kind::Person)));
        let verdict = |lost, count| {
            Sweep::new(&brake, 50 - lost, lost, None).conclude(Authority::Named, gone(count)).unwrap()
        };
        assert!(matches!(verdict(3, 2), Verdict::Proceed { .. }));
        assert!(matches!(verdict(3, 3), Verdict::Held(_)));
    }

    #[test]
    fn the_last_word_on_an_entry_counts() {
        let brake = Brake { max_removals_percent: 10, min_removals: 3, max_removals: 8 };
        let mut sweep = Sweep::new(&brake, 50, 0, None);
        let mut observe = |mapped| sweep.observe(Some((UserKey(1), &user(1))), mapped);
        let disabled = Mapped { enabled: false, ..mapped(1) };
        let moved = Mapped { dn: "uid=moved".into(), ..mapped(1) };
        assert!(matches!(observe(moved.clone()), Step::Write(_)));
        assert!(
            matches!(observe(mapped(1)), Step::Write(_)),
            "as the mirror has it, but the move is under way"
        );
        assert!(matches!(observe(disabled.clone()), Step::Nothing));
        assert!(matches!(observe(moved), Step::Write(_)));
        assert_eq!((sweep.disabled, sweep.take_deferred().len()), (0, 0));
        let _ = sweep.observe(Some((UserKey(1), &user(1))), disabled);
        assert_eq!((sweep.disabled, sweep.take_deferred().len()), (1, 1));
    }

    #[test]
    fn who_is_named_and_told_again_is_not_gone() {
        let mut sweep = Sweep::new(&Brake::default(), 3, 0, None);
        for id in [1, 64, 200] {
            sweep.name_gone(UserKey(id));
        }
        sweep.saw(UserKey(64));
        assert_eq!(sweep.named_gone().collect::<Vec<_>>(), [UserKey(1), UserKey(200)]);
        sweep.observe_present(UserKey(1), Kind::Person);
        sweep.name_gone(UserKey(64));
        assert_eq!(sweep.named_gone().collect::<Vec<_>>(), [UserKey(64), UserKey(200)]);
    }

    #[test]
    fn entries_compare_with_the_mirror() {
        let stored = user(1);
        assert_eq!(compare(None, &mapped(1)), Change::Added);
        assert_eq!(compare(Some(&stored), &mapped(1)), Change::Unchanged);
        let moved = Mapped { dn: "ou=new".into(), ..mapped(1) };
        assert_eq!(compare(Some(&stored), &moved), Change::Changed);
        let disabled = Mapped { enabled: false, ..mapped(1) };
        assert_eq!(compare(Some(&stored), &disabled), Change::Disabled);
        let room = Mapped { kind: Kind::Resource, ..mapped(1) };
        assert_eq!(compare(Some(&stored), &room), Change::Disabled);
        let was_disabled = User { mapped: disabled.clone(), ..user(1) };
        assert_eq!(compare(Some(&was_disabled), &mapped(1)), Change::Changed);
        let tombstone = User { removed_at: Some(Timestamp::UNIX_EPOCH), ..user(1) };
        assert_eq!(compare(Some(&tombstone), &disabled), Change::Returned);
    }

    #[test]
    fn backoff_doubles_up_to_five_minutes() {
        assert_eq!(backoff(1, 1.0), Duration::from_secs(1));
        assert_eq!(backoff(1, 0.0), Duration::from_millis(500));
        assert_eq!(backoff(4, 1.0), Duration::from_secs(8));
        assert_eq!(backoff(1000, 1.0), Duration::from_secs(300));
    }
}
