//! The listeners as `status` shows them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::answers::ListenerStatus;

/// One listener that accepts connections.
#[derive(Clone, Debug)]
pub struct ListenerEntry {
    /// The protocol.
    pub kind: String,
    /// Where it listens, with the port that the kernel chose.
    pub bind: String,
    /// Connections now.
    pub connections: Arc<AtomicUsize>,
}

/// All listeners; the daemon keeps it true across reloads.
#[derive(Clone, Default)]
pub struct ListenerBoard(Arc<Mutex<Vec<ListenerEntry>>>);

impl ListenerBoard {
    /// Replaces the list.
    pub fn set(&self, entries: Vec<ListenerEntry>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = entries;
    }

    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |entry: &ListenerEntry| ListenerStatus {
            kind: entry.kind.clone(),
            bind: entry.bind.clone(),
            connections: entry.connections.load(Ordering::Relaxed),
        };
        entries.iter().map(status).collect()
    }
}
