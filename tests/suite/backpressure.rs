//! However large the directory and however slow the disk, the daemon takes in no more than it can put down.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, Settings, directory, ldap_directory};
use crate::support::disk::HungDisk;
use crate::support::slapd::{Slapd, person};
use crate::support::valve::Valve;
use crate::support::{PATIENCE, wait_at_most};
use crate::syncrepl::provider;

/// Fifteen kilobytes each: 120 megabytes in all.
const PEOPLE: u32 = 8000;
const BYTES: usize = 15_000;

/// What the daemon may have read while nothing can be written: two writes of 2000 entries, the batches that wait
/// for them, and what is in the sockets' buffers on the way.
const MAX_READ: usize = 90 << 20;

/// More than the store's cache, two writes and some batches take, and less than the directory.
const MAX_GROWTH: usize = 64 << 20;

/// Waits until no byte has passed for a while.
fn wait_until_held_up(valve: &Valve) -> usize {
    let (mut passed, mut since) = (valve.passed(), Instant::now());
    wait_at_most(2 * PATIENCE, "the server to be held up", || {
        let now = valve.passed();
        if now != passed {
            (passed, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(passed)
    })
}

#[test]
fn a_disk_that_hangs_holds_up_the_server_and_fills_no_memory() {
    let text = "x".repeat(BYTES);
    let mut data = String::new();
    for number in 0..PEOPLE {
        let _ = write!(data, "{}\ndescription: {text}\n\n", person(number).trim_end());
    }
    let slapd = Slapd::start(provider(data));
    for mechanism in ["sweep", "syncrepl"] {
        let valve = Valve::start(&slapd.url());
        let settings = |filter: &str| {
            let keys = format!(
                "sync = \"{mechanism}\"\nfilter = \"{filter}\"\n[directory.ldap.attributes]\n\
                 name = \"description\"\n[directory.ldap.timeouts]\nread = \"10m\"\n"
            );
            Settings { tables: ldap_directory(&slapd, &[&valve.url()], &keys), ..Settings::default() }
        };
        let mut daemon = Daemon::start(settings("(uid=u0)"));
        let before = daemon.memory("VmRSS");
        let disk = HungDisk::under(daemon.pid());
        let passed = valve.passed();
        daemon.configure(&settings("(objectClass=inetOrgPerson)"));
        daemon.reload().unwrap();
        wait_at_most(PATIENCE, "it to begin", || (valve.passed() > passed + (1 << 20)).then_some(()));
        let read = wait_until_held_up(&valve) - passed;
        let grown = daemon.memory("VmHWM").saturating_sub(before);
        assert!(read < MAX_READ, "{mechanism}: {read} bytes were read");
        assert!(grown < MAX_GROWTH, "{mechanism}: it takes {grown} bytes more");
        disk.recover();
        wait_at_most(4 * PATIENCE, "everybody", || {
            (daemon.status()["users"]["total"] == PEOPLE).then_some(())
        });
        assert_eq!(directory(&daemon.status(), "corp")["mechanism"], mechanism);
        let grown = daemon.memory("VmHWM").saturating_sub(before);
        assert!(grown < MAX_GROWTH, "{mechanism}: it took {grown} bytes more");
    }
}
