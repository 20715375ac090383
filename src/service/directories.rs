//! The directories as the rest of the daemon sees them: their state, and how to ask for a sync.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::answers::{DirectoryState, DriftReport, LossReport, SyncReport};
use crate::domain::moves::MatchBy;

/// What a sync loop tells of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What it is doing.
    pub state: DirectoryState,
    /// How changes are found.
    pub mechanism: Option<String>,
    /// Why in this way.
    pub mechanism_reason: Option<String>,
    /// What keeps the server from a better one, and what to do about it.
    pub warning: Option<String>,
    /// The server's product.
    pub server: Option<String>,
    /// Its address.
    pub url: Option<String>,
    /// Entries that the refresh has seen so far.
    pub seen: u64,
    /// When the refresh began.
    pub refreshing_since: Option<Instant>,
    /// When the last sync began.
    pub last_attempt: Option<Timestamp>,
    /// Why it failed, if it did.
    pub last_error: Option<String>,
    /// What the brake holds back.
    pub held: Option<LossReport>,
    /// What comparisons with the directory found.
    pub drift: Option<DriftReport>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            state: DirectoryState::Starting,
            mechanism: None,
            mechanism_reason: None,
            warning: None,
            server: None,
            url: None,
            seen: 0,
            refreshing_since: None,
            last_attempt: None,
            last_error: None,
            held: None,
            drift: None,
        }
    }
}

impl Progress {
    /// Entries a second that the refresh which is under way has read, on average.
    pub fn rate(&self) -> Option<u64> {
        let is_refreshing = self.state == DirectoryState::Refreshing;
        let since = self.refreshing_since.filter(|_| is_refreshing)?;
        Some(per_second(self.seen, since.elapsed()))
    }
}

/// So many in this time, as a rate.
pub fn per_second(count: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(count) * 1000 / millis).unwrap_or(u64::MAX)
}

/// What can be asked of a sync loop.
#[derive(Debug)]
pub enum SyncCommand {
    /// Sync now, or only say what a sync would do.
    Sync {
        /// Read everything, not only what changed.
        full: bool,
        /// Change nothing.
        dry_run: bool,
        /// Where the outcome goes: an error is a sentence.
        reply: oneshot::Sender<Result<SyncReport, String>>,
    },
    /// Sync now, and let as much be removed as the brake holds back.
    Approve {
        /// Carry the seats of removed users over to new entries that match by this.
        by: Option<MatchBy>,
        /// Where the outcome goes.
        reply: oneshot::Sender<Result<SyncReport, String>>,
    },
}

/// One directory's place on the board.
#[derive(Clone, Debug)]
pub struct DirectoryHandle {
    /// The mail domain.
    pub domain: String,
    /// What its loop last told.
    pub progress: watch::Receiver<Progress>,
    /// Asks its loop.
    pub commands: mpsc::Sender<SyncCommand>,
}

/// All configured directories by name; the daemon keeps it true across reloads.
#[derive(Clone, Default)]
pub struct Board(Arc<RwLock<BTreeMap<String, DirectoryHandle>>>);

impl Board {
    /// Puts a directory on the board, in place of one of the same name.
    pub fn insert(&self, name: &str, handle: DirectoryHandle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), handle);
    }

    /// Takes a directory off.
    pub fn remove(&self, name: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// One directory.
    pub fn directory(&self, name: &str) -> Option<DirectoryHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<String, DirectoryHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
