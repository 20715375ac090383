//! A panic of the LDAP library becomes an error.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::task::AbortOnDropHandle;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the code that runs on this thread is guarded: its panic is expected and becomes an error, so
/// a panic hook must not end the process for it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// The guarded future panicked, or the runtime is shutting down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Panicked;

/// Runs a future in a task of its own, which ends with the future that waits for it.
pub(super) async fn guarded<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, Panicked> {
    let guarded = Guarded(Box::pin(future));
    AbortOnDropHandle::new(tokio::spawn(guarded)).await.map_err(|_| Panicked)
}

/// Marks the thread while the future runs on it.
struct Guarded<F>(Pin<Box<F>>);

impl<F: Future> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        struct Unmark;
        impl Drop for Unmark {
            fn drop(&mut self) {
                GUARDED.set(false);
            }
        }
        GUARDED.set(true);
        // Dropped when a panic unwinds, too.
        let _unmark = Unmark;
        self.0.as_mut().poll(cx)
    }
}
