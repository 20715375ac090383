//! What happens by itself: writing last logins, and forgetting tombstones whose grace period is over.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{error, info};

use crate::service::{FLUSH_EVERY, Service, log_release};
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
