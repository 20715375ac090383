//! What happens by itself: writing last logins, looking at the clock, forgetting tombstones whose grace period is over,
//! and taking unused seats back at night.

use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::watch;
use tracing::{debug, error, info};

use crate::clock;
use crate::domain::seats::{is_night, next_reclaim};
use crate::service::moves::MOVES_A_COMMIT;
use crate::service::{Admin, AdminError, FLUSH_EVERY, Service, log_move, log_release};
use crate::store::{Kin, Store, StoreError};

/// Tombstones forgotten in one transaction.
const PURGE_BATCH: usize = 500;

/// Longest time between two looks for expired tombstones.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// Shortest time between them, when the grace period is tiny.
const PURGE_AT_MOST_EVERY: Duration = Duration::from_millis(500);

/// How often the disk is looked after: so long it takes to go on after room was made.
const DISK_EVERY: Duration = Duration::from_secs(2);

/// Looks after the store's disk. Returns when the daemon stops.
pub async fn look_after_disk(store: Store) {
    while store.look_after_disk().await.is_ok() {
        tokio::time::sleep(DISK_EVERY).await;
    }
}

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

/// Longest time that is not written where nothing else is: a start after a crash goes on from there.
const KEEP_TIME_EVERY: Duration = Duration::from_secs(3600);

/// The same while the clock is in doubt, so that a crash does not begin the doubt again.
const KEEP_DOUBT_EVERY: Duration = Duration::from_secs(600);

/// Looks at the wall clock, and keeps what time it is. Never returns.
pub async fn clock(store: Store) {
    loop {
        tokio::time::sleep(clock::LOOK_EVERY).await;
        let clock = store.clock();
        let is_new = clock.look();
        let is_doubted = clock.standing().doubt().is_some();
        let every = if is_doubted { KEEP_DOUBT_EVERY } else { KEEP_TIME_EVERY };
        if (is_new || clock.since_kept() >= every)
            && let Err(error) = store.keep_time().await
        {
            debug!(error = %error, "The time could not be written; it counts all the same.");
        }
    }
}

/// Forgets tombstones when their grace period is over, and releases their seats; looks at once when the
/// configuration was read again. Never returns.
pub async fn purge(store: Store, mut changes: watch::Receiver<Duration>) {
    loop {
        let wait = (*changes.borrow() / 4).clamp(PURGE_AT_MOST_EVERY, PURGE_EVERY);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = changes.changed() => {}
        }
        let grace = *changes.borrow_and_update();
        if let Err(error) = purge_expired(&store, grace).await {
            error!(error = %error, "Tombstones could not be forgotten.");
        }
    }
}

async fn purge_expired(store: &Store, grace: Duration) -> Result<(), StoreError> {
    if store.clock().is_doubted() {
        debug!("The clock is in doubt: tombstones are kept.");
        return Ok(());
    }
    if store.disk().trouble.is_some() {
        return Ok(());
    }
    let now = store.now();
    let Ok(cutoff) = now.checked_sub(grace) else { return Ok(()) };
    // Asking first keeps the writer asleep when nothing has expired.
    while store.view().oldest_tombstone()?.is_some_and(|oldest| oldest <= cutoff) {
        let released = store.purge(cutoff, now, PURGE_BATCH).await?;
        released.iter().for_each(log_release);
        info!(released = released.len(), "Tombstones whose grace period is over were forgotten.");
    }
    Ok(())
}

/// Moves what a new configuration says is another entry's: at the start, and when the configuration was read again.
/// Until then a login is answered by the entry that holds the seat. Never returns.
pub async fn reunite(store: Store, mut changes: watch::Receiver<()>) {
    loop {
        changes.borrow_and_update();
        if let Err(error) = reunite_all(&store).await {
            error!(error = %error, "Seats could not be moved to other entries of the same users: {error}.");
        }
        if changes.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

async fn reunite_all(store: &Store) -> Result<(), StoreError> {
    let view = store.view();
    let pairs = tokio::task::spawn_blocking(move || view.reunions()).await;
    let pairs = pairs.map_err(|_| crate::store::StoreError::Stopped)??;
    for pairs in pairs.chunks(MOVES_A_COMMIT) {
        let moved = store.carry(pairs.to_vec(), Kin::SameId, store.now()).await?;
        moved.iter().flatten().for_each(log_move);
    }
    Ok(())
}

/// How often old lines of the ledger are looked for.
const TRIM_EVERY: Duration = Duration::from_secs(3600);

/// Lines looked at, or refusals forgotten, in one transaction.
const TRIM_BATCH: usize = 500;

/// Drops what `[ledger] keep` does not keep; looks at once when the configuration was read again. Never returns.
pub async fn trim_ledger(store: Store, mut keep: watch::Receiver<Option<Duration>>) {
    loop {
        let kept_for = *keep.borrow_and_update();
        if let Some(kept_for) = kept_for
            && let Err(error) = trim(&store, kept_for).await
        {
            error!(error = %error, "Old lines of the ledger could not be dropped; they are looked for again in an hour.");
        }
        tokio::select! {
            () = tokio::time::sleep(TRIM_EVERY) => {}
            Ok(()) = keep.changed() => {}
        }
    }
}

async fn trim(store: &Store, keep: Duration) -> Result<(), StoreError> {
    if store.clock().is_doubted() {
        debug!("The clock is in doubt: the ledger is kept.");
        return Ok(());
    }
    let Ok(cutoff) = store.now().checked_sub(keep) else { return Ok(()) };
    let mut lines = 0;
    // Asking first keeps the writer asleep when there is nothing old.
    while store.view().has_untrimmed(cutoff)? {
        lines += store.trim_ledger(cutoff, TRIM_BATCH).await?;
    }
    let mut refusals = 0;
    loop {
        let view = store.view();
        let old = tokio::task::spawn_blocking(move || view.old_refusals(cutoff, TRIM_BATCH));
        let (users, names) = old.await.map_err(|_| StoreError::Stopped)??;
        if users.is_empty() && names.is_empty() {
            break;
        }
        refusals += users.len() + names.len();
        store.forget_refusals(users, names, cutoff).await?;
    }
    if lines > 0 || refusals > 0 {
        info!(
            lines,
            refusals, "What is older than [ledger] keep was dropped: {lines} lines, {refusals} refusals."
        );
    }
    Ok(())
}

/// Longest time between two looks at the time: the clock may be set, and a machine may sleep.
const TIME_EVERY: Duration = Duration::from_secs(60);

/// Takes seats back that nobody used for so long, every night. A night that was missed, because the machine slept or its
/// clock jumped, is not made up for by day. Never returns.
pub async fn reclaim(store: Store, admin: Admin, mut after: watch::Receiver<Option<Duration>>) {
    let next = || next_reclaim(store.now(), &TimeZone::system());
    let mut due = next();
    loop {
        let until = Duration::try_from(due.duration_since(store.now())).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(until.min(TIME_EVERY)) => {}
            Ok(()) = after.changed() => {}
        }
        let now = store.now();
        if now < due {
            // Another time zone, or a time that was set right, brings the night nearer.
            due = due.min(next());
            continue;
        }
        let is_night = is_night(due, now);
        due = next();
        let Some(after) = *after.borrow_and_update() else { continue };
        if !is_night {
            info!(next = %due, "The night was missed: unused seats are taken back the next night, at {due}.");
            continue;
        }
        match admin.reclaim(after, false).await {
            Ok(report) => {
                let (seats, protected) = (report.reclaimed.len(), report.protected);
                info!(event = "seats_reclaimed", seats, protected, "{seats} unused seats were taken back.");
            }
            Err(error @ AdminError::ReclaimHeld(seats, _)) => {
                error!(event = "brake_tripped", seats, "{error}");
            }
            Err(error) => error!(error = %error, "Unused seats were not taken back: {error}."),
        }
    }
}
