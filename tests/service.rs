//! The daemon as a service: what it tells systemd, and how a real systemd runs the shipped unit.

#![expect(clippy::expect_used, reason = "a test may panic")]
#![expect(clippy::print_stderr, reason = "a failed test shows the logs")]

#[path = "service/booted.rs"]
mod booted;
#[path = "service/notify.rs"]
mod notify;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that has no limit of its own; a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Looks until there is something to see.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(POLL);
    }
}

/// Writes the demo's 12 people to a folder.
fn write_people(folder: &Path) {
    let people = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo.ldif");
    std::fs::copy(people, folder.join("demo.ldif")).expect("the demo can be copied");
}
