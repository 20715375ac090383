//! The accept loop that all listeners share: a limit on connections, and a drain at the end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::socket::{Socket, Stream};

/// The pause after a failed accept: out of file descriptors is the usual cause, and only time mends it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long connections may finish what they are doing when the listener ends. Longer than any request
/// takes, but for a login that is held up after failures at a directory that hangs, and short enough that the daemon
/// is gone within its ten seconds.
const DRAIN: Duration = Duration::from_secs(6);

/// How often the log says that a listener has all the connections it may have: those who wait see nothing but that
/// nobody answers.
const TELL_FULL_EVERY: Duration = Duration::from_secs(60);

/// Counts a connection as long as it lives.
struct Counted {
    connections: Arc<AtomicUsize>,
    closed: Arc<Notify>,
}

impl Counted {
    fn new(connections: &Arc<AtomicUsize>, closed: &Arc<Notify>) -> Counted {
        connections.fetch_add(1, Ordering::Relaxed);
        Counted { connections: Arc::clone(connections), closed: Arc::clone(closed) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.closed.notify_one();
    }
}

/// Accepts connections until `stop`, then lets the open ones finish.
///
/// At `max_connections` further clients wait in the kernel's queue; the limit may change meanwhile.
/// `handle` gets each connection and a token that tells it to finish.
pub async fn serve<F>(
    socket: Socket,
    connections: Arc<AtomicUsize>,
    mut max_connections: watch::Receiver<usize>,
    stop: CancellationToken,
    handle: impl Fn(Stream, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let tracker = TaskTracker::new();
    let closed = Arc::new(Notify::new());
    let abort = CancellationToken::new();
    let mut told_full: Option<Instant> = None;
    loop {
        let limit = *max_connections.borrow_and_update();
        let is_full = connections.load(Ordering::Relaxed) >= limit;
        if is_full && told_full.is_none_or(|told| told.elapsed() >= TELL_FULL_EVERY) {
            let listener = socket.shown();
            warn!(listener, "{listener} has {limit} connections, which are its max_connections: more wait.");
            told_full = Some(Instant::now());
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = closed.notified(), if is_full => {}
            Ok(()) = max_connections.changed() => {}
            accepted = socket.accept(), if !is_full => match accepted {
                Ok(stream) => {
                    let counted = Counted::new(&connections, &closed);
                    let connection = handle(stream, stop.clone());
                    let abort = abort.clone();
                    tracker.spawn(async move {
                        abort.run_until_cancelled(connection).await;
                        drop(counted);
                    });
                }
                Err(error) => {
                    warn!(listener = socket.shown(), error = %error, "A connection could not be accepted.");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Nobody new gets in from here on.
    drop(socket);
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        abort.cancel();
        tracker.wait().await;
    }
}
