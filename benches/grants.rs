//! How many seats a second are granted, each on disk before it is answered, and whether a crash loses one.
//!
//! `cargo bench --bench grants`; `BENCH_USERS` (100,000), `BENCH_ROUNDS` (3) and `BENCH_GRANTS` (25,000 a
//! round) change its size.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails by panicking")]

mod support;

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::client::Client;
use support::daemon::Daemon;
use support::{Spread, Table, address, ldif, ldif_directory, percentile, setting};

/// Connections, each with one question at a time.
const CLIENTS: usize = 32;

/// What the reference appends, and for how long.
const BLOCK: usize = 4096;
const REFERENCE: Duration = Duration::from_secs(1);

struct Round {
    /// Grants answered, a second.
    grants: f64,
    /// Answered within, of one in two and of 99 in 100.
    half: Duration,
    most: Duration,
    /// Answered, and looked up after the crash.
    answered: usize,
    /// Not found then.
    lost: usize,
    /// From the start after the crash until the daemon is ready.
    ready: Duration,
    /// The reference: synced appends a second.
    syncs: f64,
}

fn main() {
    let users = setting("BENCH_USERS", 100_000);
    let grants = setting("BENCH_GRANTS", 25_000);
    let rounds = setting("BENCH_ROUNDS", 3);
    assert!(rounds * (grants + CLIENTS) <= users, "everybody would have a seat before the end");
    let mut daemon = Daemon::new();
    println!("mapping {users} users");
    std::fs::write(daemon.path("g.ldif"), ldif('g', 0..users)).unwrap();
    daemon.configure(&ldif_directory('g'));
    daemon.start();
    daemon.wait_until_ready();
    let next = AtomicUsize::new(0);
    let rounds: Vec<Round> = (0..rounds)
        .map(|_| {
            let syncs = synced_appends(&daemon.path("appended"));
            let round = Round { syncs, ..round(&mut daemon, &next, grants) };
            println!("{:.0} grants/s, {} looked up after kill -9", round.grants, round.answered);
            round
        })
        .collect();
    let verified = daemon.admin("/v1/verify");

    let mut table = Table::new();
    let spread = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Spread>();
    table.line("durable first grants", spread(|r| r.grants).show(0, "/s"), "at least 10000/s");
    table.line("  answered within, p50", spread(|r| r.half.as_secs_f64() * 1000.0).show(1, " ms"), "");
    table.line("  answered within, p99", spread(|r| r.most.as_secs_f64() * 1000.0).show(1, " ms"), "");
    let (answered, lost): (usize, usize) =
        rounds.iter().fold((0, 0), |(answered, lost), r| (answered + r.answered, lost + r.lost));
    table.line("lost after kill -9", format!("{lost} of {answered}"), "none");
    table.line("verify afterwards", if verified["clean"] == true { "clean" } else { "NOT CLEAN" }, "clean");
    table.line(
        "restart after kill -9: ready after",
        spread(|r| r.ready.as_secs_f64() * 1000.0).show(0, " ms"),
        "",
    );
    let reference = spread(|r| r.syncs).show(0, "/s");
    table.line("4 KiB appends, each fdatasync'ed, one thread", reference, "");
    table.line("  grants for each such sync", spread(|r| r.grants / r.syncs).show(1, ""), "");
    table.print(&format!("First logins of {users} users over {CLIENTS} connections"));
    assert_eq!(lost, 0, "grants were lost");
    assert_eq!(verified["clean"], true, "{verified}");
}

/// Counts `grants` grants, crashes in the middle of more, and looks for every answered one.
fn round(daemon: &mut Daemon, next: &AtomicUsize, grants: usize) -> Round {
    let granted = AtomicUsize::new(0);
    let (mut answered, elapsed) = thread::scope(|scope| {
        let started = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let client = daemon.client();
                scope.spawn(|| log_in(client, next, &granted))
            })
            .collect();
        while granted.load(Ordering::Relaxed) < grants {
            thread::sleep(Duration::from_millis(1));
        }
        let elapsed = started.elapsed();
        daemon.kill();
        let answered = clients.into_iter().flat_map(|client| client.join().unwrap());
        (answered.collect::<Vec<_>>(), elapsed)
    });
    let started = daemon.start();
    let ready = daemon.wait_until_ready() - started;
    let mut client = daemon.client();
    let mut is_lost = |number| client.check(&address('g', number), "probe").unwrap() != "held";
    let lost = answered.iter().filter(|(number, _)| is_lost(*number)).count();
    answered.sort_by_key(|(_, time)| *time);
    let times: Vec<Duration> = answered.iter().map(|(_, time)| *time).collect();
    Round {
        grants: grants as f64 / elapsed.as_secs_f64(),
        half: percentile(&times, 50),
        most: percentile(&times, 99),
        answered: answered.len(),
        lost,
        ready,
        syncs: 0.0,
    }
}

/// Logs people in for the first time until the daemon is gone: who was granted a seat, and how long it took.
fn log_in(
    mut client: Client<TcpStream>,
    next: &AtomicUsize,
    granted: &AtomicUsize,
) -> Vec<(usize, Duration)> {
    let mut answered = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        // The crash; whether this grant was written is unknown to everybody.
        let Ok(decision) = client.check(&address('g', number), "login") else { return answered };
        assert_eq!(decision, "granted", "{number}");
        answered.push((number, started.elapsed()));
        granted.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many blocks a second one thread appends to a file, each synced to the disk.
fn synced_appends(path: &Path) -> f64 {
    let mut file = File::create(path).unwrap();
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < REFERENCE {
        file.write_all(&[7; BLOCK]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}
