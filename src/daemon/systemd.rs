//! What systemd is told: ready, reloading, stopping, a line of status, and that the writer lives.
//!
//! Without systemd (`NOTIFY_SOCKET` is not set) each of these does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tracing::{error, info};

use crate::service::Admin;
use crate::store::{Store, StoreError};

/// How often the status line is looked at.
const STATUS_EVERY: Duration = Duration::from_secs(5);

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = %error, "systemd could not be told the daemon's state.");
    }
}

/// The store is open and every listener listens.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The daemon drains.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog, as long as the writer answers, and keeps the status line true. Returns when the
/// store takes no more changes.
pub async fn watch(store: Store, admin: Admin) {
    let watchdog = sd_notify::watchdog_enabled();
    // Twice in the interval, as sd_watchdog_enabled(3) asks.
    let every = watchdog.map_or(STATUS_EVERY, |interval| (interval / 2).min(STATUS_EVERY));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        if answer(&store, every).await.is_err() {
            return;
        }
        if watchdog.is_some() {
            notify(&[NotifyState::Watchdog]);
        }
        let line = admin.headline().unwrap_or_else(|error| error.to_string());
        if line != told {
            notify(&[NotifyState::Status(&line)]);
            told = line;
        }
    }
}

/// Waits for the writer to answer, however long: a late answer is one, and what is too late systemd decides. A
/// writer that is seen to import a long file need not answer.
async fn answer(store: &Store, patience: Duration) -> Result<(), StoreError> {
    if store.shows_life(patience).await? {
        return Ok(());
    }
    error!("The store's writer does not answer; the watchdog is not fed until it does.");
    store.ping().await?;
    info!("The store's writer answers again.");
    Ok(())
}
