//! Last logins and refusals, collected in memory and written together every few seconds.
//!
//! A login of a holder must not wait for the disk, and a client that tries again every second must not
//! cost a commit each time. A crash loses refusals since the last write, [`FLUSH_EVERY`], and up to an hour of the
//! logins of people whose earlier login is stored; never a seat.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::logins::Logins;
use crate::domain::name::Name;
use crate::domain::seats::{LastLogin, Refusals};
use crate::domain::user::UserKey;

/// How often the daemon writes what was collected.
pub const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Refused users collected before an early write is asked for: some 5 MB, and one transaction of a few 10 ms.
const EARLY_FLUSH: usize = 20_000;

/// Refused names that belong to nobody, remembered so that each is logged once in an interval. Anybody can
/// invent names, so there is a limit; names beyond it are counted together.
const MAX_STRANGERS: usize = 1000;

/// What waits to be written.
#[derive(Default)]
pub(super) struct Activity {
    logins: Mutex<Logins>,
    pending: Mutex<Pending>,
    early: Notify,
}

/// The refusals since the last write.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) refusals: HashMap<UserKey, Refusals>,
    pub(super) strangers: HashMap<Name, Refusals>,
    pub(super) more_strangers: u64,
}

impl Activity {
    /// Notes that a user came in. `stored` is asked for the login that is stored, where none is here.
    pub(super) fn note_login(
        &self,
        key: UserKey,
        login: LastLogin,
        stored: impl FnOnce() -> Option<Timestamp>,
    ) {
        if self.logins().update(key, &login) {
            return;
        }
        let stored = stored();
        let mut logins = self.logins();
        logins.insert(key, login, stored);
        if logins.are_plenty() {
            self.early.notify_one();
        }
    }

    /// Notes a refusal; true when it is the first of this user since the last write, and worth a log line.
    pub(super) fn note_refusal(&self, key: UserKey, at: Timestamp, reason: &str) -> bool {
        let mut pending = self.lock();
        let is_first = match pending.refusals.get_mut(&key) {
            Some(known) => {
                known.last = at;
                known.count += 1;
                known.reason = reason.into();
                false
            }
            None => {
                let first = Refusals { first: at, last: at, count: 1, reason: reason.into() };
                pending.refusals.insert(key, first);
                true
            }
        };
        if pending.refusals.len() >= EARLY_FLUSH {
            self.early.notify_one();
        }
        is_first
    }

    /// Notes the refusal of a name that nobody has; true when it is worth a log line.
    pub(super) fn note_stranger(&self, name: &Name, at: Timestamp, reason: &str) -> bool {
        let mut pending = self.lock();
        if let Some(known) = pending.strangers.get_mut(name) {
            known.last = at;
            known.count += 1;
            return false;
        }
        if pending.strangers.len() >= MAX_STRANGERS {
            pending.more_strangers += 1;
            return false;
        }
        let first = Refusals { first: at, last: at, count: 1, reason: reason.into() };
        pending.strangers.insert(name.clone(), first);
        true
    }

    /// Returns when so much was collected that it should be written early.
    pub(super) async fn is_plenty(&self) {
        self.early.notified().await;
    }

    /// Takes all refusals that were collected.
    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut *self.lock())
    }

    /// The last logins that are not written yet.
    pub(super) fn logins(&self) -> MutexGuard<'_, Logins> {
        // As below.
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Every change above is whole before the lock is let go, so a poisoned one holds good data.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_summed_and_logged_once() {
        let activity = Activity::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(activity.note_refusal(UserKey(1), at(10), "exhausted"));
        assert!(!activity.note_refusal(UserKey(1), at(12), "disabled"));
        let pending = activity.take();
        let known = &pending.refusals[&UserKey(1)];
        assert_eq!((known.first, known.last, known.count), (at(10), at(12), 2));
        assert_eq!(&*known.reason, "disabled");
        assert!(activity.note_refusal(UserKey(1), at(20), "exhausted"));
    }

    #[test]
    fn invented_names_take_bounded_memory() {
        let activity = Activity::default();
        for i in 0..5000 {
            let name = Name::parse(&format!("u{i}@x.org"), None).unwrap();
            activity.note_stranger(&name, Timestamp::UNIX_EPOCH, "unknown_user");
        }
        let pending = activity.take();
        assert_eq!(pending.strangers.len(), MAX_STRANGERS);
        assert_eq!(pending.more_strangers, 4000);
    }
}
