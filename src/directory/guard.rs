//! A panic of the LDAP library becomes an error.

use std::future::Future;

use tokio_util::task::AbortOnDropHandle;

/// The guarded future panicked, or the runtime is shutting down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Panicked;

/// Runs a future in a task of its own, which ends with the future that waits for it.
pub(super) async fn guarded<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, Panicked> {
    AbortOnDropHandle::new(tokio::spawn(future)).await.map_err(|_| Panicked)
}
