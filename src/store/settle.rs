//! What is made true at the end of every transaction, and seats taken back from those who do not use them.

use jiff::Timestamp;
use redb::ReadableTable;
use tracing::{info, warn};

use super::tables::{Lookup, RECLAIMS};
use super::transaction::Transaction;
use super::{Policy, Released, StoreError, codec};
use crate::domain::seats::{ReleaseReason, SeatCount, last_used};
use crate::domain::user::UserKey;

/// What a transaction settled, to be told after its commit.
#[must_use]
#[derive(Default)]
pub(super) struct Settled {
    released: Option<Released>,
    low: Option<SeatCount>,
}

impl Settled {
    /// Tells it in the log.
    pub(super) fn tell(&self) {
        if let Some(released) = &self.released {
            log_release(released);
        }
        if let Some(SeatCount { used, limit }) = self.low {
            let free = SeatCount { used, limit }.free();
            warn!(
                event = "seats_low",
                seats_used = used,
                seats_limit = limit,
                seats_free = free,
                "Few seats are left: {free} of {limit}."
            );
        }
    }
}

/// Logs one release; every way to lose a seat ends here.
pub(crate) fn log_release(released: &Released) {
    let Released { name, reason, seats_used } = released;
    info!(event = "seat_released", user = %name, reason = reason.as_str(), seats_used, "{name} lost the seat.");
}

impl Transaction<'_> {
    /// The internal administrator holds no seat, whatever was configured, mapped or renamed before; and
    /// whether few seats are left is noted in the store, so that it is told once each time it comes to that,
    /// restarts or not.
    pub(super) fn settle(&mut self, policy: &Policy) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        if let Some(administrator) = &policy.administrator
            && let Some(key) = self.key_by_name(administrator)?
        {
            settled.released = self.release(key, ReleaseReason::Exempt, Timestamp::now())?;
        }
        if let Some(count) = self.seat_count(policy)? {
            let is_new = self.note_low(count.is_low())?;
            settled.low = (is_new && count.is_low()).then_some(count);
        }
        Ok(settled)
    }

    /// Takes the seats back of those who were not active since `cutoff`, which is asked again here: they may
    /// have logged in since they were listed.
    pub(super) fn reclaim(
        &mut self,
        keys: &[UserKey],
        cutoff: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<(UserKey, Released)>, StoreError> {
        let of = self.seats_used()?;
        let mut reclaimed = Vec::new();
        for key in keys {
            let Some(seat) = self.seat(*key)? else { continue };
            if last_used(&seat, self.last_login(*key)?.as_ref()) < cutoff {
                let released = self.release(*key, ReleaseReason::Reclaimed, now)?;
                reclaimed.extend(released.map(|released| (*key, released)));
            }
        }
        self.count_reclaims(reclaimed.len() as u64, of, now)?;
        Ok(reclaimed)
    }

    /// In the same transaction, so that a restart forgets nothing of the hour.
    fn count_reclaims(&mut self, count: u64, of: u64, now: Timestamp) -> Result<(), StoreError> {
        let bytes = self.brakes.get(RECLAIMS)?.map(|bytes| codec::decode_window(bytes.value()));
        let mut window = bytes.transpose()?.unwrap_or_default();
        if count == 0 && !window.is_ahead(now) {
            return Ok(());
        }
        window.clip(now);
        if count > 0 {
            window.add(now, count, of);
        }
        self.brakes.insert(RECLAIMS, codec::encode_window(&window).as_slice())?;
        self.is_dirty = true;
        Ok(())
    }
}
