//! What ten times the users cost: time and memory of the first map, and a restart.
//!
//! `cargo bench --bench scale`; `BENCH_USERS` (1,000,000) changes the larger directory; the smaller one has a
//! tenth of it. It needs some 4 GiB of disk.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails by panicking")]

mod support;

use std::time::Duration;

use support::daemon::Daemon;
use support::suite::slapd::{Options, Slapd, people};
use support::{Table, ldap_directory, setting};

/// What one directory cost.
struct Cost {
    map: Duration,
    memory: f64,
    restart: Duration,
    crash: Duration,
}

fn main() {
    let users = setting("BENCH_USERS", 1_000_000);
    let small = cost(users / 10);
    let large = cost(users);
    let mut table = Table::new();
    for (users, cost) in [(users / 10, &small), (users, &large)] {
        table.line(&format!("{users} users: first map"), format!("{:.1} s", cost.map.as_secs_f64()), "");
        table.line("  peak memory of the daemon", format!("{:.0} MiB", cost.memory), "at most 160 MiB");
        let ready = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1000.0);
        table.line("  restart: ready after", ready(cost.restart), "at most 2 s");
        table.line("  restart after kill -9: ready after", ready(cost.crash), "at most 2 s");
    }
    let times = large.map.as_secs_f64() / small.map.as_secs_f64();
    table.line("time for ten times the users", format!("{times:.1} ×"), "some 10 ×");
    table.print("Ten times the users");
}

fn cost(users: u32) -> Cost {
    println!("loading {users} users into slapd");
    let slapd = Slapd::start(Options::provider(people(0..users)));
    let mut daemon = Daemon::new();
    daemon.configure(&ldap_directory(&daemon, &slapd));
    let started = daemon.start();
    let map = daemon.wait_until_ready() - started;
    println!("mapped in {map:.2?}");
    assert_eq!(daemon.admin("/v1/status")["users"]["mapped"], users);
    let mut memory = daemon.peak_memory();
    daemon.stop();
    let started = daemon.start();
    let restart = daemon.wait_until_ready() - started;
    memory = memory.max(daemon.peak_memory());
    daemon.kill();
    let started = daemon.start();
    let crash = daemon.wait_until_ready() - started;
    Cost { map, memory, restart, crash }
}
