//! Last logins that are not written yet.
//!
//! A busy system has thousands of logins a second, of the same people again and again. The store's time of a login is
//! at most [`PRECISION`] old while its user is active; what is newer is here. Each login here becomes due when the
//! stored one has that age, so nothing stays here for longer.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::domain::clock::STEP;
use crate::domain::seats::{LastLogin, PRECISION};
use crate::domain::user::UserKey;

/// Users kept in memory: some 40 MB, and as many as log in within an hour on a very large system.
pub(super) const MOST: usize = 200_000;

/// Logins written in one transaction, so that grants wait for some 10 ms at most.
pub(super) const BATCH: usize = 20_000;

/// The last logins that are not written yet.
#[derive(Default)]
pub(super) struct Logins {
    unwritten: HashMap<UserKey, Unwritten>,
    /// When each is to be written.
    due: BTreeSet<(Timestamp, UserKey)>,
    dropped: u64,
}

struct Unwritten {
    login: LastLogin,
    due: Timestamp,
}

impl Logins {
    /// Notes a later login of a user who is here; false where the user is not.
    pub(super) fn update(&mut self, key: UserKey, login: &LastLogin) -> bool {
        let Some(known) = self.unwritten.get_mut(&key) else { return false };
        // One far in the future is from a clock that was wrong, and was set right by an administrator.
        if login.at >= known.login.at || known.login.at.duration_since(login.at) > STEP {
            known.login = login.clone();
        }
        true
    }

    /// Notes a login of a user who may not be here, and whose stored login is this.
    pub(super) fn insert(&mut self, key: UserKey, login: LastLogin, stored: Option<Timestamp>) {
        if self.update(key, &login) {
            return;
        }
        let is_right = |stored: &Timestamp| stored.duration_since(login.at) <= STEP;
        let due = stored.filter(is_right).map_or(login.at, due_after);
        if self.unwritten.len() >= MOST && !self.make_room(due) {
            return;
        }
        self.due.insert((due, key));
        self.unwritten.insert(key, Unwritten { login, due });
    }

    /// Only a store that cannot be written lets it come to this. Whose stored login is the latest loses the least.
    fn make_room(&mut self, due: Timestamp) -> bool {
        self.dropped += 1;
        let latest = self.due.last().copied().filter(|(latest, _)| *latest > due);
        if let Some((latest, key)) = latest {
            self.due.remove(&(latest, key));
            self.unwritten.remove(&key);
        }
        latest.is_some()
    }

    /// When the user logged in, where that is not written yet.
    pub(super) fn at(&self, key: UserKey) -> Option<Timestamp> {
        self.unwritten.get(&key).map(|unwritten| unwritten.login.at)
    }

    /// All of them, as they are now.
    pub(super) fn all(&self) -> HashMap<UserKey, Timestamp> {
        self.unwritten.iter().map(|(key, unwritten)| (*key, unwritten.login.at)).collect()
    }

    /// Whether all were written.
    pub(super) fn is_empty(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// So many are here that the oldest are written before they are due.
    pub(super) fn are_plenty(&self) -> bool {
        self.unwritten.len() > MOST - BATCH
    }

    /// How many were dropped since this was asked last.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// A batch of those to be written: the due ones, those for whom there is no room, or `everything`.
    pub(super) fn to_write(&self, now: Timestamp, everything: bool) -> Vec<(UserKey, LastLogin)> {
        let excess = if everything { BATCH } else { self.unwritten.len().saturating_sub(MOST - BATCH) };
        // The time was set back by so much that they would never be due.
        let never = now.saturating_add(PRECISION + STEP).unwrap_or(Timestamp::MAX);
        let first =
            self.due.iter().enumerate().take_while(|(index, (due, _))| *due <= now || *index < excess);
        let last = self.due.iter().rev().take_while(|(due, _)| *due > never);
        let keys = first.map(|(_, (_, key))| key).chain(last.map(|(_, key)| key)).take(BATCH);
        let login = |key: &UserKey| Some((*key, self.unwritten.get(key)?.login.clone()));
        keys.filter_map(login).collect()
    }

    /// Forgets those that are on disk now. Who has logged in again meanwhile stays, for an hour from what was written.
    pub(super) fn written(&mut self, written: &[(UserKey, LastLogin)]) {
        for (key, login) in written {
            let Some(known) = self.unwritten.get_mut(key) else { continue };
            self.due.remove(&(known.due, *key));
            if known.login == *login {
                self.unwritten.remove(key);
            } else {
                known.due = due_after(login.at);
                self.due.insert((known.due, *key));
            }
        }
    }
}

/// The later of what is stored and what is not written yet. The service is that of the last write.
pub(super) fn latest(stored: Option<LastLogin>, unwritten: Option<Timestamp>) -> Option<LastLogin> {
    match (stored, unwritten) {
        (Some(stored), Some(at)) => Some(LastLogin { at: at.max(stored.at), ..stored }),
        (None, Some(at)) => Some(LastLogin { at, service: None }),
        (stored, None) => stored,
    }
}

fn due_after(stored: Timestamp) -> Timestamp {
    stored.saturating_add(PRECISION).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn login(second: i64) -> LastLogin {
        LastLogin { at: at(second), service: None }
    }

    fn due(logins: &Logins, second: i64) -> Vec<(u64, Timestamp)> {
        logins.to_write(at(second), false).into_iter().map(|(key, login)| (key.0, login.at)).collect()
    }

    #[test]
    fn a_login_is_due_when_the_stored_one_is_an_hour_old() {
        for (stored, due_at) in [(None, 10), (Some(-3600), 10), (Some(-3599), 10), (Some(0), 3600)] {
            let mut logins = Logins::default();
            logins.insert(UserKey(1), login(10), stored.map(at));
            assert_eq!(due(&logins, due_at), [(1, at(10))], "{stored:?}");
            assert!(stored != Some(0) || due(&logins, due_at - 1).is_empty());
        }
        let mut wrong = Logins::default();
        wrong.insert(UserKey(1), login(0), Some(at(90_000_000)));
        assert_eq!(due(&wrong, 0).len(), 1, "the stored one is from a clock that was wrong");
        let mut set_back = Logins::default();
        set_back.insert(UserKey(1), login(90_000_000), Some(at(90_000_000)));
        assert_eq!(due(&set_back, 0).len(), 1, "and so is this one");
        set_back.insert(UserKey(1), login(5), Some(at(90_000_000)));
        assert_eq!(set_back.at(UserKey(1)), Some(at(5)));
    }

    #[test]
    fn a_login_leaves_only_when_it_was_written_and_none_came_after_it() {
        let mut logins = Logins::default();
        logins.insert(UserKey(1), login(0), None);
        logins.insert(UserKey(2), login(0), None);
        let batch = logins.to_write(at(0), false);
        assert_eq!(batch.len(), 2);
        assert!(logins.update(UserKey(2), &login(3)));
        assert!(logins.update(UserKey(2), &login(1)), "an earlier one does not count");
        assert_eq!(logins.all().len(), 2, "nothing is known of the commit yet");
        logins.written(&batch);
        assert_eq!(logins.all(), HashMap::from([(UserKey(2), at(3))]));
        assert!(due(&logins, 3599).is_empty());
        assert_eq!(due(&logins, 3600), [(2, at(3))]);
        assert_eq!(logins.to_write(at(4), true).len(), 1, "a stop does not wait");
    }

    /// The same 50 people log in 20 times each, over 50 minutes: 1,000 logins.
    #[test]
    fn the_logins_of_the_same_people_are_written_once_an_hour() {
        let (mut logins, mut stored, mut writes) = (Logins::default(), HashMap::new(), Vec::new());
        for second in 0..3000 {
            for key in (0..50).map(UserKey).filter(|key| (second + key.0 as i64) % 150 == 0) {
                logins.insert(key, login(second), stored.get(&key).copied());
            }
            if second % 5 == 0 {
                let batch = logins.to_write(at(second), false);
                stored.extend(batch.iter().map(|(key, login)| (*key, login.at)));
                logins.written(&batch);
                writes.push(batch.len());
            }
        }
        assert_eq!(writes.iter().sum::<usize>(), 50, "each was 1,000 before");
        assert_eq!(logins.all().len(), 50);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_are_written_first() {
        let mut logins = Logins::default();
        let stored = |number: usize| at(i64::try_from(number % 1000).unwrap());
        for number in 0..MOST {
            logins.insert(UserKey(number as u64), login(1000), Some(stored(number)));
        }
        assert!(logins.are_plenty());
        let batch = logins.to_write(at(1000), false);
        assert_eq!(batch.len(), BATCH);
        assert!(batch.iter().all(|(key, _)| key.0 % 1000 < 100), "the stored ones are the oldest");
        // The disk takes no writes: who was written a moment ago gives way, and whoever was not comes in.
        logins.insert(UserKey(MOST as u64), login(1001), Some(at(1000)));
        assert_eq!(logins.at(UserKey(MOST as u64)), None);
        logins.insert(UserKey(MOST as u64), login(1001), None);
        assert_eq!(logins.at(UserKey(MOST as u64)), Some(at(1001)));
        assert_eq!((logins.all().len(), logins.due.len(), logins.take_dropped()), (MOST, MOST, 2));
        logins.written(&batch);
        assert!(!logins.are_plenty() && logins.all().len() == MOST - BATCH);
    }
}
