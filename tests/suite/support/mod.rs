//! What tests share: real servers in temporary directories, and waiting with a deadline.

#![allow(dead_code, reason = "each test uses the part that it needs")]

pub(crate) mod daemon;
pub(crate) mod dns;
pub(crate) mod dovecot;
pub(crate) mod ds389;
pub(crate) mod fake_ldap;
pub(crate) mod http;
pub(crate) mod network;
pub(crate) mod postfix;
pub(crate) mod samba;
pub(crate) mod slapd;
pub(crate) mod valve;

use std::time::{Duration, Instant};

/// Generous: a loaded machine must not fail a test, and a passing one never waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until something is there; panics after [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_at_most(PATIENCE, what, look)
}

/// The same with more patience.
pub(crate) fn wait_at_most<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
