//! What a directory's answer means for the mirror: additions and changes at once, removals and disables
//! only at the end of a complete sweep, and only as many as the brake lets through.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::brake::{Affected, Brake, Counts, Excess, Held, Hour, Limit, Loss, Toll, held_back, toll};
use super::mapping::Remapped;
use super::name::Name;
use super::names::LeftOut;
use super::user::{Kind, Mapped, User, UserKey};

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
    now: Timestamp,
    losses: Limit,
    enablings: Limit,
    /// An administrator let a loss through.
    is_approved: bool,
    /// What the configuration has otherwise than when the mirror was written.
    remapped: Remapped,
    seen: KeySet,
    people_seen: u64,
    /// Whom the entries disable, make seatless, leave with fewer names, or enable.
    disabled: KeySet,
    unseated: KeySet,
    renamed: KeySet,
    enabled: KeySet,
    /// Entries that wait for the brake: at most as many as it lets through, since with one more none of them
    /// is needed.
    deferred_losses: Vec<(UserKey, Mapped)>,
    deferred_enablings: Vec<(UserKey, Mapped)>,
    /// Users whom the directory named as gone.
    named: KeySet,
}

/// The user whom the mirror holds under an entry's id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The key.
    pub key: UserKey,
    /// The user.
    pub user: User,
    /// The user holds a seat, and the entry makes them seatless.
    pub gives_up_seat: bool,
}

/// How a complete sweep ends: what the brake lets through, and what it holds back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Living users of the directory to entomb: the sweep did not see them.
    pub removed: Vec<UserKey>,
    /// Set when the brake tripped.
    pub held: Option<Held>,
}

/// The entries that waited for the brake.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deferred {
    /// To be written as they are.
    pub free: Vec<(UserKey, Mapped)>,
    /// To be written as [`held_back`] leaves them.
    pub held: Vec<(UserKey, Mapped)>,
}

impl Sweep {
    /// Starts a sweep of a directory with `people` living people. `hour` is what happened before; `approved`
    /// what was held and an administrator let through: as many may go, but not more than they were shown.
    pub fn new(brake: Brake, people: u64, hour: &Hour, approved: Counts, now: Timestamp) -> Sweep {
        Sweep {
            people,
            now,
            losses: Limit::new(brake, &hour.losses, people, approved.lost, now),
            enablings: Limit::new(brake, &hour.enablings, people, approved.enabled, now),
            is_approved: approved.lost > 0,
            ..Sweep::default()
        }
    }

    /// This sweep, where the configuration is another than when the mirror was written: who loses something by that
    /// does not count.
    pub fn remapped(self, remapped: Remapped) -> Sweep {
        Sweep { remapped, ..self }
    }

    /// Takes in one entry, with the user that the mirror holds under its id.
    pub fn observe(&mut self, stored: Option<&Stored>, mapped: Mapped) -> Step {
        if mapped.kind == Kind::Person {
            self.people_seen += 1;
        }
        let Some(Stored { key, user, gives_up_seat }) = stored else { return Step::Write(mapped) };
        let key = *key;
        // An entry that changes meanwhile may be told again: its last word counts, and it counts once.
        let is_again = !self.seen.insert(key);
        if is_again {
            self.undo(key);
        }
        let gives_up_seat = *gives_up_seat && !self.remapped.seatless;
        let toll = toll(user, &mapped, gives_up_seat, self.now).filter(|toll| !self.remapped.excuses(*toll));
        let mapped = match toll {
            Some(toll) => match self.defer(key, toll, mapped) {
                Some(mapped) => held_back(user, mapped, self.now),
                None => return Step::Nothing,
            },
            None => mapped,
        };
        // What was told before may be on its way to the mirror.
        match compare(Some(user), &mapped) {
            Change::Unchanged if !is_again => Step::Nothing,
            _ => Step::Write(mapped),
        }
    }

    /// Counts an entry and keeps it for the brake; gives it back where the brake is sure to trip.
    fn defer(&mut self, key: UserKey, toll: Toll, mapped: Mapped) -> Option<Mapped> {
        let (keys, deferred, limit) = match toll {
            Toll::Disabled => (&mut self.disabled, &mut self.deferred_losses, &self.losses),
            Toll::Seatless => (&mut self.unseated, &mut self.deferred_losses, &self.losses),
            Toll::Names => (&mut self.renamed, &mut self.deferred_losses, &self.losses),
            Toll::Enabled => (&mut self.enabled, &mut self.deferred_enablings, &self.enablings),
        };
        keys.insert(key);
        if (deferred.len() as u64) < limit.room() {
            deferred.push((key, mapped));
            return None;
        }
        Some(mapped)
    }

    /// Forgets what an entry was counted as.
    fn undo(&mut self, key: UserKey) {
        let counted = [&mut self.disabled, &mut self.unseated, &mut self.renamed, &mut self.enabled];
        if counted.into_iter().any(|keys| keys.remove(key)) {
            self.deferred_losses.retain(|(deferred, _)| *deferred != key);
            self.deferred_enablings.retain(|(deferred, _)| *deferred != key);
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
        self.undo(key);
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

    /// The entries that waited for the brake, when it has decided.
    pub fn take_deferred(&mut self, verdict: &Verdict) -> Deferred {
        let held = verdict.held.as_ref();
        let mut deferred = Deferred::default();
        let losses = (&mut self.deferred_losses, held.is_some_and(|held| held.losses.is_some()));
        let enablings = (&mut self.deferred_enablings, held.is_some_and(|held| held.enablings.is_some()));
        for (entries, is_held) in [losses, enablings] {
            let to = if is_held { &mut deferred.held } else { &mut deferred.free };
            to.append(entries);
        }
        deferred
    }

    /// The people whom the brake holds as they are, those of `gone` first.
    pub fn held_users<E>(
        &self,
        held: &Held,
        gone: impl Iterator<Item = Result<(UserKey, Kind), E>>,
    ) -> impl Iterator<Item = Result<UserKey, E>> {
        let people = gone.filter_map(|gone| match gone {
            Ok((key, Kind::Person)) => Some(Ok(key)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let changed = self.disabled.iter().chain(self.unseated.iter()).chain(self.renamed.iter()).map(Ok);
        let losses = held.losses.map(|_| people.chain(changed));
        let enablings = held.enablings.map(|_| self.enabled.iter().map(Ok));
        losses.into_iter().flatten().chain(enablings.into_iter().flatten())
    }

    /// The time of the sweep.
    pub fn now(&self) -> Timestamp {
        self.now
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
            disabled: self.disabled.len(),
            seatless: self.unseated.len(),
            names: self.renamed.len(),
            enabled: self.enabled.len(),
            people: self.people,
            empty: authority == Authority::Everything && self.people > 0 && self.people_seen == 0,
        };
        let room = self.losses.room();
        for user in gone {
            let (key, kind) = user?;
            if kind == Kind::Person {
                loss.removed += 1;
            }
            // Past the allowance the list is not needed; what is no person is not counted, only listed.
            if loss.total() <= room {
                removed.push(key);
            }
        }
        let held = self.judge(loss);
        if held.as_ref().is_some_and(|held| held.losses.is_some()) {
            removed.clear();
        }
        Ok(Verdict { removed, held })
    }

    fn judge(&self, loss: Loss) -> Option<Held> {
        let losses = match self.losses.judge(loss.total()) {
            // However few they are: no directory is empty but by mistake.
            Ok(()) if loss.empty && !self.is_approved => {
                Some(Excess { until: None, ..self.losses.excess(loss.total()) })
            }
            judged => judged.err(),
        };
        let enablings = self.enablings.judge(loss.enabled).err();
        if losses.is_none() && enablings.is_none() {
            return None;
        }
        let Loss { enabled, people, .. } = loss;
        let loss = if losses.is_some() { loss } else { Loss { people, ..Loss::default() } };
        let loss = Loss { enabled: enablings.map_or(0, |_| enabled), ..loss };
        Some(Held { loss, losses, enablings, affected: Affected::default() })
    }
}

/// A set of user keys, a bit each: a million users take 125 kB.
#[derive(Debug, Default)]
struct KeySet {
    words: Vec<u64>,
    len: u64,
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
        self.len += u64::from(is_new);
        is_new
    }

    /// True when it was there.
    fn remove(&mut self, key: UserKey) -> bool {
        let was_there = self.contains(key);
        if was_there && let Some(word) = self.words.get_mut((key.0 / 64) as usize) {
            *word &= !(1 << (key.0 % 64));
            self.len -= 1;
        }
        was_there
    }

    fn len(&self) -> u64 {
        self.len
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
    /// What entries were mapped without.
    pub left_out: LeftOut,
    /// Seats released at once: their users are disabled, need none any more, or have another entry with a seat.
    pub seats_released: u64,
    /// The first [`TAKEN_SHOWN`] of their users. Found by a dry run alone.
    pub released_of: Vec<String>,
    /// Seats that will be released when the grace period of removed users ends.
    pub seats_released_after_grace: u64,
    /// Set when the brake tripped.
    pub held: Option<Held>,
    /// What was repaired although no change was told of it.
    pub drift: Drift,
    /// Names that the configuration takes from their users. Found by a dry run alone.
    pub taken: Taken,
    /// Lists, rooms and contacts that became tombstones: mail to them is refused.
    pub lists_removed: u64,
    /// The first [`TAKEN_SHOWN`] of them.
    pub lists_removed_of: Vec<String>,
    /// Seats that went to other entries of the same people.
    pub seats_moved: u64,
    /// The first [`TAKEN_SHOWN`] of them.
    pub seats_moved_of: Vec<SeatMove>,
}

/// A seat that goes from one entry of a person to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeatMove {
    /// The old entry, as logs show it.
    pub old_user: String,
    /// Its directory.
    pub from: String,
    /// The new entry.
    pub user: String,
    /// Its directory.
    pub to: String,
}

/// Names that are taken from users by another configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// How many.
    pub names: u64,
    /// The first of them.
    pub first: Vec<TakenName>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakenName {
    /// Whose, as logs show it.
    pub user: String,
    /// The name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Names, or users, that a report lists.
pub const TAKEN_SHOWN: usize = 20;

impl Taken {
    /// Adds a name.
    pub fn add(&mut self, user: &Name, name: &Name, reason: String) {
        self.names += 1;
        if self.first.len() < TAKEN_SHOWN {
            self.first.push(TakenName { user: user.to_string(), name: name.to_string(), reason });
        }
    }
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
        self.added + self.changed + self.returned + self.disabled + self.removed + self.lists_removed > 0
    }

    /// Counts a list, a room or a contact that is gone.
    pub fn add_removed_list(&mut self, name: &Name) {
        self.lists_removed += 1;
        if self.lists_removed_of.len() < TAKEN_SHOWN {
            self.lists_removed_of.push(name.to_string());
        }
    }

    /// Counts a seat that goes to another entry.
    pub fn add_move(&mut self, seat: SeatMove) {
        self.seats_moved += 1;
        if self.seats_moved_of.len() < TAKEN_SHOWN {
            self.seats_moved_of.push(seat);
        }
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
mod tests;
