//! Clocks that jump: forward, backward, for a second or for good, while the daemon runs and while it does not.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, LDIF, Settings};
use crate::support::issuer::Vendor;
use crate::support::slapd::people;
use crate::support::wait_for;
use crate::support::wall::{DAY, Wall};

/// Until about 2040.
const YEARS: i64 = 14 * 365 * DAY;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn run(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A command that must be refused: why.
#[track_caller]
fn refused(daemon: &Daemon, arguments: &[&str]) -> String {
    let output: Output = daemon.command(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr)
}

fn install(daemon: &Daemon, token: &str, more: &[&str]) -> String {
    daemon.write("new.jwt", token);
    run(daemon, &[&["license", "install", daemon.path("new.jwt").to_str().unwrap()], more].concat())
}

/// A date so many days from now.
fn date(days: i64) -> String {
    let now = jiff::Timestamp::now().as_second() + days * DAY;
    jiff::Timestamp::from_second(now).unwrap().strftime("%Y-%m-%d").to_string()
}

/// Five seats that end in a number of days.
fn license(vendor: &Vendor, id: &str, days: i64) -> String {
    vendor.issue(&["--id", id, "--seats", "5", "--expires", &date(days)])
}

fn trusting(vendor: &Vendor, tables: &str) -> Settings {
    let mut settings = Settings::ldif(0, &people(0..10));
    settings.license = Some(format!("trusted_keys = [\"{}\"]", vendor.public_key));
    settings.tables += tables;
    settings
}

fn state(daemon: &Daemon) -> String {
    daemon.status()["license"]["state"].as_str().unwrap().to_owned()
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a time")).parse().unwrap()
}

/// The license ends in 2030, and a removed user keeps the seat for 30 days.
#[test]
fn a_glimpse_of_2040_costs_neither_seat_nor_license_nor_tombstone() {
    let vendor = Vendor::new();
    let mut settings = trusting(&vendor, "[seats]\nremoval_grace = \"30d\"\nreclaim_after = \"180d\"\n");
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    install(&daemon, &license(&vendor, "L-1", 1200), &[]);
    for user in ["u0", "u1"] {
        daemon.expect(user, "granted");
    }
    daemon.write(LDIF, &people(1..10));
    daemon.sync("people").unwrap();
    assert_eq!(daemon.status()["users"]["tombstoned"], 1);

    let check = |daemon: &Daemon| {
        assert_eq!(state(daemon), "active");
        daemon.expect("u1", "held");
        let status = daemon.status();
        assert_eq!(
            (&status["seats"]["used"], &status["users"]["tombstoned"]),
            (&2.into(), &1.into()),
            "{status}"
        );
    };
    wall.set(YEARS);
    daemon.reload().unwrap();
    check(&daemon);
    let why = refused(&daemon, &["seats", "reclaim", "--inactive", "180d"]);
    assert!(why.contains("clock confirm"), "{why}");
    daemon.wait_for_log(&["tombstones are kept"]);
    let line = daemon.wait_for_log(&["ERROR", "event=clock_in_doubt"]);
    assert!(line.contains("seatkeeper clock confirm"), "{line}");
    let clock = daemon.status()["clock"].clone();
    assert_eq!(clock["in_doubt"], true, "{clock}");
    assert!(time(&clock["wall"]) > time(&clock["trusted"]), "{clock}");
    assert!(run(&daemon, &["status"]).contains("Clock    IN DOUBT since "));
    check(&daemon);
    // Who logs in or is granted a seat now is so today.
    daemon.expect("u2", "granted");
    let granted = time(&daemon.history("u2")[0]["at"]);
    assert!(granted.duration_since(jiff::Timestamp::now()).abs() < jiff::SignedDuration::from_mins(5));
    daemon.release("u2");

    // A crash in 2040 and a start there change nothing; the log has said it once more.
    daemon.kill9();
    daemon.restart();
    check(&daemon);
    daemon.wait_for_log(&["ERROR", "event=clock_in_doubt"]);

    wall.set(0);
    daemon.wait_for("the clock to be right again", |status| status["clock"]["in_doubt"] == false);
    check(&daemon);
    let report: Value =
        serde_json::from_str(&run(&daemon, &["seats", "reclaim", "--inactive", "180d", "--json"])).unwrap();
    assert_eq!(report["reclaimed"], json!([]));
    assert_eq!(daemon.status()["clock"]["problem"], Value::Null);
    daemon.verify();
}

#[test]
fn forty_days_back_move_nothing_backwards() {
    let mut settings = Settings::ldif(3, &people(0..10));
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    daemon.expect("u0", "granted");
    daemon.expect("u0", "held");
    let login = |daemon: &Daemon| time(&daemon.explain("u0")["last_login"]["at"]);
    let mut latest = login(&daemon);
    wall.set(-40 * DAY);
    daemon.expect("u1", "granted");
    let history = daemon.history("");
    assert!(time(&history[0]["at"]) >= time(&history[1]["at"]), "{history:?}");
    let clock = daemon.status()["clock"].clone();
    daemon.wait_for_log(&["WARN", "The clock was set back"]);
    assert_eq!(clock["in_doubt"], false, "nothing depends on it: {clock}");
    assert!(clock["problem"].as_str().unwrap().contains("40 days behind"), "{clock}");
    for _ in 0..2 {
        daemon.expect("u0", "held");
        assert!(login(&daemon) >= latest, "{} after {latest}", login(&daemon));
        latest = login(&daemon);
        // Neither does a start. A crash would lose the last hour.
        assert!(daemon.terminate().0.success());
        daemon.restart();
    }
}

#[test]
fn a_start_31_days_ahead_is_in_doubt_until_it_is_confirmed() {
    let vendor = Vendor::new();
    let mut settings = trusting(&vendor, "");
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    install(&daemon, &license(&vendor, "L-1", 20), &[]);
    assert_eq!(state(&daemon), "expiring");
    assert!(daemon.terminate().0.success());
    wall.set(31 * DAY);
    daemon.restart();
    assert_eq!(state(&daemon), "expiring");
    assert_eq!(daemon.status()["clock"]["in_doubt"], true);
    // Neither does another start take it for granted.
    daemon.kill9();
    daemon.restart();
    assert_eq!(state(&daemon), "expiring");
    let said = run(&daemon, &["clock", "confirm"]);
    assert!(said.contains("the clock is right"), "{said}");
    assert_eq!(state(&daemon), "expired");
    assert_eq!(daemon.status()["clock"]["in_doubt"], false);
    daemon.wait_for_log(&["ERROR", "event=license_expired"]);

    // It was wrong, though: what has been accepted is taken back by the same command.
    wall.set(0);
    daemon.wait_for("the clock to be behind", |status| status["clock"]["problem"].is_string());
    assert_eq!(state(&daemon), "expired");
    run(&daemon, &["clock", "confirm"]);
    assert_eq!(state(&daemon), "expiring");
    // To before the license was issued, it cannot be.
    wall.set(-10 * DAY);
    let why = refused(&daemon, &["clock", "confirm"]);
    assert!(why.contains("later than"), "{why}");
    assert_eq!(state(&daemon), "expiring");
}

#[test]
fn a_machine_that_was_off_for_weeks_is_not_in_doubt() {
    let mut settings = Settings::ldif(3, &people(0..10));
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    assert!(daemon.terminate().0.success());
    wall.set(29 * DAY);
    daemon.restart();
    let clock = daemon.status()["clock"].clone();
    assert_eq!((&clock["in_doubt"], &clock["problem"]), (&false.into(), &Value::Null), "{clock}");
    daemon.expect("u0", "granted");
    assert!(time(&daemon.history("u0")[0]["at"]).duration_since(jiff::Timestamp::now()).as_hours() > 28 * 24);
}

#[test]
fn a_boot_before_the_build_is_in_doubt_until_the_clock_is_set() {
    let vendor = Vendor::new();
    let mut settings = trusting(&vendor, "");
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    install(&daemon, &license(&vendor, "L-1", 400), &[]);
    daemon.expect("u0", "granted");
    assert!(daemon.terminate().0.success());
    // The battery is empty.
    wall.set(-56 * 365 * DAY);
    daemon.restart();
    assert_eq!(state(&daemon), "active");
    daemon.expect("u0", "held");
    daemon.expect("u1", "granted");
    let line = daemon.wait_for_log(&["ERROR", "event=clock_in_doubt"]);
    assert!(line.contains("before this program was built"), "{line}");
    assert_eq!(daemon.status()["clock"]["in_doubt"], true);
    assert!(refused(&daemon, &["seats", "reclaim", "--inactive", "1s"]).contains("clock"));
    assert!(time(&daemon.history("u1")[0]["at"]) >= time(&daemon.history("u0")[0]["at"]));
    // The network is up: some days were spent without power.
    wall.set(5 * DAY);
    daemon.wait_for("the clock to be trusted", |status| status["clock"]["in_doubt"] == false);
    daemon.expect("u2", "granted");
    assert!(time(&daemon.history("u2")[0]["at"]).duration_since(jiff::Timestamp::now()).as_hours() > 4 * 24);
}

/// The server's clock is right: its signed time says that it is the daemon's which is wrong.
#[test]
fn the_license_server_says_what_time_it_is() {
    let mut vendor = Vendor::new();
    let sold = vendor.sell(&["sell", "L-1", "--seats", "2", "--expires", &date(400)]);
    vendor.serve();
    let mut settings = Settings { license: Some(vendor.license()), ..Settings::ldif(0, &people(0..10)) };
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    run(&daemon, &["license", "activate", sold["activation_key"].as_str().unwrap()]);
    assert_eq!(state(&daemon), "active");
    wall.set(YEARS);
    daemon.reload().unwrap();
    let status = daemon.wait_for("the server to be asked", |status| {
        status["clock"]["in_doubt"] == false && status["clock"]["problem"].is_string()
    });
    assert!(status["clock"]["problem"].as_str().unwrap().contains("license server"), "{status}");
    assert_eq!(status["license"]["state"], "active");
    wall.set(0);
    daemon.wait_for("the clock to be right", |status| status["clock"]["problem"].is_null());
    assert_eq!(state(&daemon), "active");

    // A future that was confirmed by mistake is taken back by the server.
    wall.set(YEARS);
    run(&daemon, &["clock", "confirm"]);
    assert_eq!(state(&daemon), "expired");
    wall.set(0);
    run(&daemon, &["license", "refresh"]);
    assert_eq!(state(&daemon), "active");
    assert_eq!(daemon.status()["clock"]["problem"], Value::Null);
}

#[test]
fn another_license_or_force_do_not_turn_the_clock_back() {
    let vendor = Vendor::new();
    let mut settings = trusting(&vendor, "");
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    install(&daemon, &license(&vendor, "L-1", 60), &[]);
    let spare = license(&vendor, "L-2", 70);
    let older = vendor.issue(&["--id", "L-1", "--seats", "5", "--serial", "1", "--expires", &date(60)]);
    let newer = license(&vendor, "L-1", 70);
    // A hundred days go by.
    assert!(daemon.terminate().0.success());
    for days in [29, 58, 87, 100] {
        wall.set(days * DAY);
        daemon.restart();
        assert_eq!(daemon.status()["clock"]["in_doubt"], false);
        assert!(daemon.terminate().0.success());
    }
    daemon.restart();
    assert_eq!(state(&daemon), "expired");
    wall.set(0);
    for (token, more) in [(&spare, &[][..]), (&older, &["--force"]), (&newer, &[]), (&spare, &["--force"])] {
        install(&daemon, token, more);
        assert_eq!(state(&daemon), "expired", "{more:?}");
    }
    daemon.kill9();
    daemon.restart();
    assert_eq!(state(&daemon), "expired");
}

#[test]
fn a_renewal_in_the_file_waits_for_its_day() {
    let vendor = Vendor::new();
    let mut settings = trusting(&vendor, "");
    settings.license = settings.license.map(|keys| keys + "\nfile = \"license.jwt\"");
    let mut daemon = Daemon::start(settings);
    let script = include_str!("../data/issue.py");
    let now = jiff::Timestamp::now().as_second();
    let sign = |serial: u64, seats: u64, from: i64| {
        let claims = json!({"sub": "L-1", "iat": now, "nbf": from, "serial": serial, "seats": seats});
        let argument = json!({"key": vendor.path("key.pem"), "claims": claims, "headers": {}});
        let mut python = std::process::Command::new("/usr/bin/python3");
        let output = python.args(["-c", script, &argument.to_string()]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    daemon.write("license.jwt", &sign(1, 2, now));
    daemon.reload().unwrap();
    assert_eq!(daemon.status()["seats"]["limit"], 2);
    // Five minutes are the clocks' difference; five seconds more, the test's patience.
    daemon.write("license.jwt", &sign(2, 7, now + 310));
    daemon.reload().unwrap();
    let status = daemon.status();
    assert_eq!(
        (&status["seats"]["limit"], &status["license"]["problems"]),
        (&2.into(), &json!([])),
        "{status}"
    );
    daemon.wait_for_log(&["INFO", "takes effect on"]);
    let page = run(&daemon, &["license", "show"]);
    assert!(page.contains("Then ") && page.contains("7 seats"), "{page}");
    // It is kept although the file and the process are gone.
    std::fs::remove_file(daemon.path("license.jwt")).unwrap();
    daemon.kill9();
    daemon.restart();
    wait_for("its day", || (daemon.status()["seats"]["limit"] == 7).then_some(()));
    daemon.wait_for_log(&["event=license_installed", "seats=7", "via=file"]);
}

/// A zone in which it is half past two at night now (POSIX.1-2024 XBD 8.3).
fn zone_before_night() -> String {
    let offset = (jiff::Timestamp::now().as_second() - (2 * 3600 + 1800) + 43_200).rem_euclid(DAY) - 43_200;
    let (sign, size) = (if offset < 0 { "-" } else { "" }, offset.abs());
    format!("XXX{sign}{}:{:02}:{:02}", size / 3600, size / 60 % 60, size % 60)
}

#[test]
fn a_night_that_was_slept_through_is_not_made_up_for_at_noon() {
    let mut settings = Settings::ldif(4, &people(0..4));
    settings.tables += "[seats]\nreclaim_after = \"1h\"\n";
    settings.env = vec![("TZ", zone_before_night())];
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    daemon.expect("u0", "granted");
    // The machine was suspended for ten hours.
    wall.set(10 * 3600);
    daemon.wait_for("the clock to be followed", |status| {
        time(&status["clock"]["trusted"]).duration_since(jiff::Timestamp::now()).as_hours() >= 9
    });
    daemon.reload().unwrap();
    daemon.wait_for_log(&["INFO", "unused seats are taken back the next night"]);
    assert_eq!(daemon.seats_used(), 1);
}

#[test]
fn a_stop_writes_the_logins_of_the_hour_and_a_crash_loses_them_without_a_seat() {
    let mut settings = Settings::ldif(3, &people(0..3));
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    let last = |daemon: &Daemon| time(&daemon.explain("u1")["last_login"]["at"]);
    daemon.expect("u1", "granted");
    let log_in_later = |daemon: &Daemon, before: jiff::Timestamp| {
        crate::support::wait_for("a later login", || {
            daemon.expect("u1", "held");
            Some(last(daemon)).filter(|at| *at > before)
        })
    };
    let latest = log_in_later(&daemon, last(&daemon));
    assert!(daemon.terminate().0.success());
    daemon.restart();
    assert_eq!(last(&daemon), latest, "a stop wrote it");

    log_in_later(&daemon, latest);
    daemon.kill9();
    wall.set(DAY / 12);
    daemon.restart();
    assert_eq!(last(&daemon), latest, "it was in memory alone");
    let reclaim = |daemon: &Daemon| -> Value {
        serde_json::from_str(&run(daemon, &["seats", "reclaim", "--inactive", "1h", "--json"])).unwrap()
    };
    assert_eq!(reclaim(&daemon)["reclaimed"], json!([]), "two hours ago, as far as is known");
    assert!(daemon.terminate().0.success());
    daemon.restart();
    assert_eq!(reclaim(&daemon)["reclaimed"][0]["user"], "u1@example.org", "nothing was lost since");
    daemon.verify();
}

/// Two seats: one is held all the time, the other was taken back.
#[test]
fn old_history_is_dropped_but_not_while_the_clock_is_in_doubt() {
    let mut settings = Settings::ldif(2, &people(0..4));
    settings.tables += "[ledger]\nkeep = \"10d\"\n";
    let wall = Wall::under(&mut settings);
    let mut daemon = Daemon::start(settings);
    daemon.expect("u0", "granted");
    daemon.expect("u1", "granted");
    daemon.expect("u2", "exhausted");
    daemon.release("u1");
    assert_eq!(daemon.explain("u2")["refusals"]["count"], 1);

    wall.set(40 * DAY);
    wait_for("the doubt", || (daemon.status()["clock"]["in_doubt"] == true).then_some(()));
    daemon.reload().unwrap();
    daemon.wait_for_log(&["DEBUG", "The clock is in doubt: the ledger is kept."]);
    assert_eq!(daemon.history("").len(), 3);
    assert!(daemon.terminate().0.success());

    wall.set(20 * DAY);
    daemon.restart();
    daemon.wait_for_log(&["INFO", "dropped: 2 lines, 1 refusals"]);
    let history = daemon.history("");
    assert_eq!((history.len(), &history[0]["user"]), (1, &json!("u0@example.org")));
    assert_eq!(daemon.explain("u2")["refusals"], Value::Null);
    daemon.expect("u0", "held");
    daemon.expect("u1", "granted");
    daemon.verify();
}
