//! Mailboxes that need no seat: shared and service mailboxes, as many as the licence allows.

use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{Lookup, SEATLESS_LIMIT, SEATLESS_OVER};
use super::transaction::Transaction;
use super::{Policy, Released, StoreError};
use crate::domain::seats::ReleaseReason;
use crate::domain::user::{User, UserKey};

/// What a transaction changed about them.
#[derive(Default)]
pub(super) struct SeatlessChanges {
    added: Vec<UserKey>,
    /// One is fewer, so that another may be allowed.
    is_freed: bool,
}

/// More seatless mailboxes than the licence allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Excess {
    pub(super) mailboxes: u64,
    pub(super) allowed: u64,
}

/// What was settled about them.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) released: Vec<Released>,
    /// Set when there are too many, and that is new.
    pub(super) over: Option<Excess>,
}

impl SeatlessChanges {
    /// Notes that a seat came to a user past the decision, who may need none.
    pub(super) fn seated(&mut self, key: UserKey) {
        self.added.push(key);
    }
}

impl Transaction<'_> {
    /// Counts a user in or out who is changed, or forgotten.
    pub(super) fn note_seatless(
        &mut self,
        key: UserKey,
        old: Option<&User>,
        new: Option<&User>,
    ) -> Result<(), StoreError> {
        let is_seatless = |user: Option<&User>| user.is_some_and(User::is_seatless);
        match (is_seatless(old), is_seatless(new)) {
            (false, true) => {
                self.seatless.insert(key.0, ())?;
                self.seatless_changes.added.push(key);
            }
            (true, false) => {
                self.seatless.remove(key.0)?;
                self.seatless_changes.is_freed = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Releases the seats of those who need none. All are looked at only where one who needed a seat may need none now.
    pub(super) fn settle_seatless(&mut self, policy: &Policy, now: Timestamp) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        // Without a licence nothing is known; it may be on its way at a start.
        if policy.seat_limit.is_none() {
            return Ok(settled);
        }
        let limit = policy.seatless_limit.unwrap_or(u64::MAX);
        let changes = std::mem::take(&mut self.seatless_changes);
        let keys = if self.note(SEATLESS_LIMIT, limit)? || changes.is_freed {
            let allowed = self.seatless.iter()?.take(usize::try_from(limit).unwrap_or(usize::MAX));
            allowed.map(|row| Ok(UserKey(row?.0.value()))).collect::<Result<Vec<_>, StoreError>>()?
        } else {
            changes.added
        };
        for key in keys {
            if self.seat(key)?.is_some() && self.needs_no_seat(key, policy)? {
                settled.released.extend(self.release(key, ReleaseReason::Seatless, now)?);
            }
        }
        let mailboxes = self.seatless.len()?;
        let is_over = mailboxes > limit;
        let is_new = self.note(SEATLESS_OVER, u64::from(is_over))?;
        settled.over = (is_new && is_over).then_some(Excess { mailboxes, allowed: limit });
        Ok(settled)
    }
}
