//! How long the first map of a large directory takes, beside ldapsearch(1) reading the same, and what a
//! restart costs afterwards.
//!
//! `cargo bench --bench first_map`; `BENCH_USERS` (100,000) and `BENCH_ROUNDS` (5) change its size.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails by panicking")]

mod support;

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use seatkeeper::domain::mapping::{Preset, Rules};
use seatkeeper::domain::name::Domain;
use serde_json::Value;

use support::daemon::Daemon;
use support::suite::slapd::{Options, PEOPLE, SUFFIX, Slapd, people};
use support::{Spread, Table, address, ldap_directory, ldif, ldif_directory, percentile, setting};

/// People of a second, small directory, who log in while the large one is mapped: most hold a seat, and
/// the others take one then.
const STAFF: usize = 2_000;
const HOLDERS: usize = 1_000;

/// A pause between two logins of a connection, so that they are a light load.
const PACE: Duration = Duration::from_millis(1);

/// The consumer takes a minute or more, so that looking for its end costs nothing beside it.
const CONSUMER_POLL: Duration = Duration::from_millis(100);
const CONSUMER_PATIENCE: Duration = Duration::from_secs(1800);

/// One round: everything is measured once, so that a slow moment of the machine hits all alike.
struct Round {
    plain: Duration,
    paged: Duration,
    map: Duration,
    memory: f64,
}

fn main() {
    let users = setting("BENCH_USERS", 100_000);
    let rounds = setting("BENCH_ROUNDS", 5);
    println!("loading {users} users into slapd");
    let slapd = Slapd::start(Options::provider(people(0..users)));
    // Both sides read from a warm server.
    ldapsearch(&slapd, &[]);
    let mut daemon = Daemon::new();
    let rounds: Vec<Round> = (1..=rounds)
        .map(|_| {
            daemon = Daemon::new();
            daemon.configure(&ldap_directory(&daemon, &slapd));
            let round = Round {
                plain: ldapsearch(&slapd, &[]),
                paged: ldapsearch(&slapd, &["-E", "pr=1000/noprompt"]),
                ..first_map(&mut daemon, users)
            };
            println!(
                "mapped in {:.2?}; ldapsearch took {:.2?}, paged {:.2?}",
                round.map, round.plain, round.paged
            );
            round
        })
        .collect();

    let mut table = Table::new();
    let spread = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Spread>();
    table.line("ldapsearch, plain", spread(|r| r.plain.as_secs_f64()).show(2, " s"), "");
    table.line("ldapsearch, pages of 1000", spread(|r| r.paged.as_secs_f64()).show(2, " s"), "");
    table.line("first map, durable", spread(|r| r.map.as_secs_f64()).show(2, " s"), "");
    let times = spread(|r| r.map.as_secs_f64() / r.plain.as_secs_f64());
    table.line("  of plain ldapsearch", times.show(2, " ×"), "at most 1.5 ×");
    let times = spread(|r| r.map.as_secs_f64() / r.paged.as_secs_f64());
    table.line("  of paged ldapsearch", times.show(2, " ×"), "");
    table.line("  peak memory of the daemon", spread(|r| r.memory).show(0, " MiB"), "at most 100 MiB");
    restarts(&mut daemon, &mut table);
    logins_meanwhile(&slapd, &mut table);
    table.print(&format!("First map of {users} users from slapd, in {} rounds", rounds.len()));

    let consumer = consumer(&slapd);
    let mut table = Table::new();
    table.line("an OpenLDAP consumer's first copy", format!("{:.1} s", consumer.as_secs_f64()), "");
    let times = consumer.as_secs_f64() / spread(|r| r.map.as_secs_f64()).median();
    table.line("  of first map", format!("{times:.0} ×"), "at least 20 ×");
    table.print("The same users copied by OpenLDAP itself");
}

/// How long ldapsearch(1) takes to print the attributes that the daemon reads.
fn ldapsearch(slapd: &Slapd, options: &[&str]) -> Duration {
    let rules = Rules::new(Preset::OpenLdap, Domain::parse("example.org").unwrap());
    let mut command = slapd.reader("ldapsearch");
    command
        .arg("-LLL")
        .args(options)
        .args(["-b", PEOPLE, rules.preset.default_filter()])
        .args(rules.attributes());
    let started = Instant::now();
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    started.elapsed()
}

/// From the start of a slapd that holds nothing until it has all that the provider has, and says so by the
/// contextCSN, which it writes last. Once: it takes long.
fn consumer(provider: &Slapd) -> Duration {
    println!("waiting for an OpenLDAP consumer");
    let started = Instant::now();
    let consumer = Slapd::start(Options::consumer(provider));
    loop {
        let mut search = consumer.client("ldapsearch");
        let search = search.args(["-LLL", "-s", "base", "-b", SUFFIX, "(objectClass=*)", "contextCSN"]);
        let found = search.stderr(Stdio::null()).output().unwrap();
        if String::from_utf8_lossy(&found.stdout).contains("contextCSN: ") {
            return started.elapsed();
        }
        assert!(started.elapsed() < CONSUMER_PATIENCE, "{}", consumer.log());
        thread::sleep(CONSUMER_POLL);
    }
}

/// From the start of the process until all users are mapped, on disk.
fn first_map(daemon: &mut Daemon, users: u32) -> Round {
    let started = daemon.start();
    let map = daemon.wait_until_ready() - started;
    let status = daemon.admin("/v1/status");
    assert_eq!(status["users"]["mapped"], users, "{status}");
    Round { plain: Duration::ZERO, paged: Duration::ZERO, map, memory: daemon.peak_memory() }
}

/// Restarts on the store that the last round left, in order and after a crash; nothing changed meanwhile.
fn restarts(daemon: &mut Daemon, table: &mut Table) {
    daemon.stop();
    let (ready, sweep, written) = restart(daemon);
    table.line("restart: ready after", format!("{:.0} ms", ready.as_secs_f64() * 1000.0), "");
    table.line("  sweep that changes nothing", format!("{:.2} s", sweep.as_secs_f64()), "");
    table.line("  written to disk by it", format!("{} KiB", written / 1024), "not the store");
    daemon.kill();
    let (ready, ..) = restart(daemon);
    table.line("restart after kill -9: ready after", format!("{:.0} ms", ready.as_secs_f64() * 1000.0), "");
    daemon.stop();
}

/// Time to ready, time of the sweep that follows, and what start and sweep wrote to disk.
fn restart(daemon: &mut Daemon) -> (Duration, Duration, u64) {
    let started = daemon.start();
    let ready = daemon.wait_until_ready() - started;
    let (attempt, success) = daemon.poll("a second sweep", |daemon| {
        std::thread::sleep(Duration::from_millis(50));
        let directory = &daemon.admin("/v1/status")["directories"][0];
        let (attempt, success) = (time(&directory["last_attempt"])?, time(&directory["last_success"])?);
        (success > attempt).then_some((attempt, success))
    });
    let sweep = success.duration_since(attempt).unsigned_abs();
    (ready, sweep, daemon.bytes_written())
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// What people notice who log in while a large directory is mapped: those who hold a seat, and those who
/// take one, which has to wait for the writer.
fn logins_meanwhile(slapd: &Slapd, table: &mut Table) {
    let mut daemon = Daemon::new();
    std::fs::write(daemon.path("s.ldif"), ldif('s', 0..STAFF)).unwrap();
    daemon.configure(&ldif_directory('s'));
    daemon.start();
    daemon.wait_until_ready();
    let mut client = daemon.client();
    for number in 0..HOLDERS {
        client.check(&address('s', number), "login").unwrap();
    }
    daemon.configure(&(ldif_directory('s') + &ldap_directory(&daemon, slapd)));
    daemon.reload();
    daemon.poll("the map to begin", |_| (!client.is_ready().unwrap()).then_some(()));
    let is_mapping = AtomicBool::new(true);
    let (held, granted) = thread::scope(|scope| {
        let held = scope.spawn(|| log_in(&daemon, (0..HOLDERS).cycle(), "held", &is_mapping));
        let granted = scope.spawn(|| log_in(&daemon, HOLDERS..STAFF, "granted", &is_mapping));
        while !client.is_ready().unwrap() {
            thread::sleep(PACE);
        }
        is_mapping.store(false, Ordering::Relaxed);
        (held.join().unwrap(), granted.join().unwrap())
    });
    let targets = ["p99 under 10 ms", "p99 under 50 ms"];
    for ((what, times), target) in [("holders", held), ("first logins", granted)].into_iter().zip(targets) {
        let [half, most, all] = [50, 99, 100].map(|p| percentile(&times, p).as_secs_f64() * 1000.0);
        let what = format!("{} {what} meanwhile: p50, p99, longest", times.len());
        table.line(&what, format!("{half:.2}, {most:.1}, {all:.1} ms"), target);
    }
}

/// Logs people in, one after the other, while the map goes on; how long each took, sorted.
fn log_in(
    daemon: &Daemon,
    numbers: impl Iterator<Item = usize>,
    expected: &str,
    is_mapping: &AtomicBool,
) -> Vec<Duration> {
    let mut client = daemon.client();
    let mut times = Vec::new();
    for number in numbers {
        let started = Instant::now();
        let decision = client.check(&address('s', number), "login").unwrap();
        times.push(started.elapsed());
        assert_eq!(decision, expected, "{number}");
        if !is_mapping.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PACE);
    }
    times.sort();
    times
}
