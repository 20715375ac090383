//! What happens by itself: writing last logins, forgetting tombstones whose grace period is over, and taking
//! unused seats back at night.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::watch;
use tracing::{error, info};

use crate::domain::seats::next_reclaim;
use crate::service::{Admin, AdminError, FLUSH_EVERY, Service, log_release};
use crate::store::Store;

/// Tombstones forgotten in one transaction.
const PURGE_BATCH: usize = 500;

/// Longest time between two looks for expired tombstones.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// Shortest time between them, when the grace period is tiny.
const PURGE_AT_MOST_EVERY: Duration = Duration::from_millis(500);

/// Writes what front ends collected, every few seconds and when there is much. Never returns.
pub async fn flush(service: Service) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FLUSH_EVERY) => {}
            () = service.has_plenty_to_flush() => {}
        }
        if let Err(error) = service.flush().await {
            error!(error = %error, "Last logins could not be written.");
        }
    }
}

/// Forgets tombstones when their grace period is over, and releases their seats. Never returns.
pub async fn purge(store: Store, grace: watch::Receiver<Duration>) {
    loop {
        let grace = *grace.borrow();
        tokio::time::sleep((grace / 4).clamp(PURGE_AT_MOST_EVERY, PURGE_EVERY)).await;
        if let Err(error) = purge_expired(&store, grace).await {
            error!(error = %error, "Tombstones could not be forgotten.");
        }
    }
}

async fn purge_expired(store: &Store, grace: Duration) -> Result<(), crate::store::StoreError> {
    let now = Timestamp::now();
    let Ok(cutoff) = now.checked_sub(grace) else { return Ok(()) };
    // Asking first keeps the writer asleep when nothing has expired.
    while store.view().oldest_tombstone()?.is_some_and(|oldest| oldest <= cutoff) {
        let released = store.purge(cutoff, now, PURGE_BATCH).await?;
        released.iter().for_each(log_release);
        info!(released = released.len(), "Tombstones whose grace period is over were forgotten.");
    }
    Ok(())
}

/// Longest time between two looks at the clock: it may be set, and a machine may sleep.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// Takes seats back that nobody used for so long, every night. Never returns.
pub async fn reclaim(admin: Admin, mut after: watch::Receiver<Option<Duration>>) {
    let next = || next_reclaim(Timestamp::now(), &TimeZone::system());
    let mut due = next();
    loop {
        let until = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(until.min(CLOCK_EVERY)) => {}
            Ok(()) = after.changed() => {}
        }
        if Timestamp::now() < due {
            // A clock that was set back, or another time zone, brings the night nearer.
            due = due.min(next());
            continue;
        }
        due = next();
        let Some(after) = *after.borrow_and_update() else { continue };
        match admin.reclaim(after, false).await {
            Ok(report) => {
                let (seats, protected) = (report.reclaimed.len(), report.protected);
                info!(event = "seats_reclaimed", seats, protected, "{seats} unused seats were taken back.");
            }
            Err(error @ AdminError::ReclaimHeld(seats, _)) => {
                error!(event = "brake_tripped", seats, "{error}");
            }
            Err(error) => error!(error = %error, "Unused seats could not be taken back."),
        }
    }
}
