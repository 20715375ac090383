//! Getting seats back: who is inactive, who was turned away, and when few seats are left.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::daemon::{Daemon, SEATKEEPER, Settings};
use crate::support::slapd::people;
use crate::support::terminal::Terminal;
use crate::support::wait_for;

/// Runs a command with `--json`, which must end well.
#[track_caller]
fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let output = daemon.command(&[arguments, &["--json"]].concat());
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {err}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn page(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.command(arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

/// The part before the `@` of every line's user.
fn users(lines: &Value) -> Vec<String> {
    let local = |line: &Value| line["user"].as_str().unwrap().split('@').next().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(local).collect()
}

#[test]
fn unused_seats_are_taken_back_save_the_protected() {
    let mut settings = Settings::ldif(4, &people(0..6));
    settings.tables += "[seats]\nprotected = [\"u1\", \"nobody\"]\n";
    let daemon = Daemon::start(settings);
    for user in ["u0", "u1"] {
        daemon.expect(user, "granted");
    }
    daemon.grant("u2");
    page(&daemon, &["account", "add", "ada"]);
    assert_eq!(json(&daemon, &["seats", "reclaim", "--inactive", "1h"])["reclaimed"], Value::Array(vec![]));
    daemon.expect("u3", "exhausted");
    // All were granted within seconds; they are inactive as soon as one second has passed.
    let preview = wait_for("the seats to be unused", || {
        let preview = json(&daemon, &["seats", "reclaim", "--inactive", "1s", "--dry-run"]);
        (users(&preview["reclaimed"]).len() == 3).then_some(preview)
    });
    assert_eq!((&preview["dry_run"], &preview["protected"]), (&true.into(), &1.into()), "{preview}");
    assert_eq!(daemon.seats_used(), 4, "a dry run changes nothing");
    let text = page(&daemon, &["seats", "reclaim", "--inactive", "1s"]);
    assert!(text.contains("3 seats taken back, 1 protected (1 seat in use)\n"), "{text}");
    assert!(text.contains("ada@example.org  (local)"), "{text}");
    for user in ["u0", "u2", "ada"] {
        daemon.wait_for_log(&["event=seat_released", &format!("{user}@example.org"), "reason=reclaimed"]);
        assert_eq!(daemon.history(user)[0]["reason"], "reclaimed");
        // Who is back takes a seat again; the account stayed enabled.
        daemon.expect(user, "granted");
    }
    daemon.expect("u1", "held");
    daemon.expect("u3", "exhausted");
    daemon.verify();
}

/// Waits until so many seats were not used for a second.
#[track_caller]
fn wait_for_unused(daemon: &Daemon, seats: usize) -> Value {
    wait_for("the seats to be unused", || {
        let preview = json(daemon, &["seats", "reclaim", "--inactive", "1s", "--dry-run"]);
        (users(&preview["reclaimed"]).len() == seats).then_some(preview)
    })
}

#[test]
fn the_brake_counts_reclaimed_seats_over_the_hour() {
    let mut settings = Settings::ldif(9, &people(0..9));
    settings.tables += "[seats.brake]\nmax_removals_percent = 0\nmin_removals = 2\n";
    let mut daemon = Daemon::start(settings.clone());
    for number in 0..3 {
        daemon.expect(&format!("u{number}"), "granted");
    }
    let held = wait_for_unused(&daemon, 3)["held"].clone();
    assert_eq!((&held["more"], &held["before"], &held["at_most"]), (&3.into(), &0.into(), &2.into()));
    let refuse = |daemon: &Daemon, words: &str| {
        let output = daemon.command(&["seats", "reclaim", "--inactive", "1s"]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(words) && err.contains("[seats.brake]"), "{err}");
    };
    refuse(&daemon, "3 more, after 0 in the last hour, of at most 2");
    assert_eq!(daemon.seats_used(), 3);

    daemon.release("u0");
    page(&daemon, &["seats", "reclaim", "--inactive", "1s"]);
    assert_eq!(daemon.seats_used(), 0);
    daemon.expect("u5", "granted");
    wait_for_unused(&daemon, 1);
    refuse(&daemon, "1 more, after 2 in the last hour, of at most 2; until ");
    daemon.kill9();
    daemon.restart();
    // After a crash a login of the day before counts as at the start.
    wait_for_unused(&daemon, 1);
    refuse(&daemon, "1 more, after 2 in the last hour, of at most 2; until ");
    daemon.expect("u5", "held");

    settings.tables = settings.tables.replace("min_removals = 2", "min_removals = 3");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    wait_for_unused(&daemon, 1);
    page(&daemon, &["seats", "reclaim", "--inactive", "1s"]);
    assert_eq!(daemon.seats_used(), 0);
    daemon.verify();
}

#[test]
fn a_reclaim_at_a_terminal_asks_first() {
    let daemon = Daemon::start(Settings::ldif(4, &people(0..4)));
    daemon.expect("u0", "granted");
    wait_for_unused(&daemon, 1);
    let config = daemon.config().display().to_string();
    let reclaim = |more: &str| {
        Terminal::run(&format!("{SEATKEEPER} --config {config} seats reclaim --inactive 1s {more}"))
    };
    for answer in ["n\n", "\n", "yesterday\n"] {
        let mut terminal = reclaim("");
        terminal.wait_for(&["u0@example.org", "1 seat would be taken back", "[y/N]"]);
        terminal.type_in(answer);
        let (status, shown) = terminal.end();
        assert_eq!(status.code(), Some(1), "{shown}");
        assert!(shown.contains("no seat was taken back"), "{shown}");
        assert_eq!(daemon.seats_used(), 1, "{answer:?}");
    }
    let mut terminal = reclaim("");
    terminal.wait_for(&["[y/N]"]);
    terminal.type_in("y\n");
    let (status, shown) = terminal.end();
    assert!(status.success() && shown.contains("1 seat taken back"), "{shown}");
    assert_eq!(daemon.seats_used(), 0);

    // Nothing to ask about, and a command that is not to ask.
    let (status, shown) = reclaim("").end();
    assert!(status.success() && !shown.contains("[y/N]"), "{shown}");
    daemon.expect("u1", "granted");
    wait_for_unused(&daemon, 1);
    let (status, shown) = reclaim("--yes").end();
    assert!(status.success() && shown.contains("1 seat taken back"), "{shown}");
    assert!(!shown.contains("[y/N]"), "{shown}");
    daemon.verify();
}

/// The seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A time zone in which it is 03:00 at a moment, as TZ has it (POSIX.1-2024 XBD 8.3): what is added to the local
/// time to get UTC.
fn zone_of_night(at: i64) -> String {
    let offset = (at - 3 * 3600 + 12 * 3600).rem_euclid(86_400) - 12 * 3600;
    let (sign, size) = (if offset < 0 { "-" } else { "" }, offset.abs());
    format!("XXX{sign}{}:{:02}:{:02}", size / 3600, size / 60 % 60, size % 60)
}

#[test]
fn every_night_at_three_unused_seats_are_taken_back() {
    let mut patience = 8;
    // On a slow machine it may be night before the seats are taken and unused: then again, with more time.
    let daemon = loop {
        let night = now() + patience;
        let mut settings = Settings::ldif(4, &people(0..4));
        settings.tables += "[seats]\nreclaim_after = \"2s\"\nprotected = [\"u1@example.org\"]\n";
        settings.env = vec![("TZ", zone_of_night(night))];
        let daemon = Daemon::start(settings);
        for user in ["u0", "u1", "u2"] {
            daemon.expect(user, "granted");
        }
        if now() < night - 3 {
            break daemon;
        }
        patience *= 2;
        assert!(patience < 200, "the daemon never starts in time");
    };
    assert_eq!(daemon.seats_used(), 3);
    for user in ["u0", "u2"] {
        daemon.wait_for_log(&["event=seat_released", &format!("{user}@example.org"), "reason=reclaimed"]);
    }
    daemon.wait_for_log(&["event=seats_reclaimed", "seats=2", "protected=1"]);
    assert_eq!(daemon.seats_used(), 1);
    daemon.expect("u1", "held");
    daemon.expect("u0", "granted");
    daemon.verify();
}

#[test]
fn a_night_that_would_take_too_many_seats_takes_none() {
    // It is 03:00 in some seconds; should the seats be taken later, they are simply not unused yet.
    let mut settings = Settings::ldif(4, &people(0..4));
    settings.tables +=
        "[seats]\nreclaim_after = \"1s\"\n[seats.brake]\nmax_removals_percent = 0\nmin_removals = 0\n";
    let mut patience = 6;
    let daemon = loop {
        let night = now() + patience;
        settings.env = vec![("TZ", zone_of_night(night))];
        let daemon = Daemon::start(settings.clone());
        daemon.expect("u0", "granted");
        if now() < night - 2 {
            break daemon;
        }
        patience *= 2;
        assert!(patience < 200, "the daemon never starts in time");
    };
    daemon.wait_for_log(&[" ERROR ", "event=brake_tripped", "seats=1", "[seats.brake]"]);
    daemon.expect("u0", "held");
}

fn warnings(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains(" event=seats_low ")).count()
}

#[test]
fn few_seats_are_told_once_each_time() {
    let mut settings = Settings::ldif(3, &people(0..30));
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("u0", "granted");
    assert_eq!(warnings(&daemon), 0);
    daemon.expect("u1", "granted");
    let line = daemon.wait_for_log(&["event=seats_low"]);
    assert!(line.contains("WARN") && line.contains("1 of 3"), "{line}");
    daemon.expect("u2", "granted");
    daemon.release("u2");
    daemon.expect("u2", "granted");
    assert_eq!(warnings(&daemon), 1, "{}", daemon.log());
    // It is known after a crash as well.
    daemon.kill9();
    daemon.restart();
    daemon.release("u2");
    daemon.expect("u2", "granted");
    assert_eq!(warnings(&daemon), 0, "{}", daemon.log());
    // Above it, and back.
    daemon.release("u2");
    daemon.release("u1");
    daemon.expect("u1", "granted");
    daemon.wait_for_log(&["event=seats_low"]);
    // So does a smaller licence, once there were more: 5 % of 40.
    settings.seats = 40;
    daemon.configure(&settings);
    daemon.reload().unwrap();
    settings.seats = 3;
    daemon.configure(&settings);
    daemon.reload().unwrap();
    wait_for("the second warning", || (warnings(&daemon) == 2).then_some(()));
    settings.seats = 30;
    daemon.configure(&settings);
    daemon.reload().unwrap();
    for number in 2..30 {
        daemon.expect(&format!("u{number}"), "granted");
        let expected = if number < 28 { 2 } else { 3 };
        wait_for("the warning", || (warnings(&daemon) == expected).then_some(()));
    }
}

#[test]
fn who_was_turned_away_is_listed() {
    let mut daemon = Daemon::start(Settings::ldif(1, &people(0..4)));
    assert!(page(&daemon, &["seats", "refused"]).contains("nobody was turned away"));
    daemon.expect("u0", "granted");
    for user in ["u1", "u1", "u2", "stranger", "u1", "stranger"] {
        // The list tells times apart by the millisecond.
        std::thread::sleep(Duration::from_millis(2));
        daemon.expect(user, if user == "stranger" { "unknown_user" } else { "exhausted" });
    }
    let refused = json(&daemon, &["seats", "refused"])["refused"].clone();
    let of = |user: &str| {
        let at = users(&refused).iter().position(|line| line == user).unwrap();
        let line = &refused[at];
        (line["count"].as_u64().unwrap(), line["reason"].clone(), line["is_known"] == true)
    };
    assert_eq!(users(&refused).len(), 3, "{refused}");
    assert_eq!(users(&refused)[2], "u2", "the latest come first: {refused}");
    assert_eq!(of("u1"), (3, "exhausted".into(), true));
    assert_eq!(of("u2"), (1, "exhausted".into(), true));
    assert_eq!(of("stranger"), (2, "unknown_user".into(), false));
    // A daemon that is killed remembers what was written; this list wrote it.
    daemon.kill9();
    daemon.restart();
    daemon.release("u0");
    daemon.expect("u2", "granted");
    let text = page(&daemon, &["seats", "refused", "--limit", "3"]);
    assert!(text.contains("stranger@example.org  unknown_user  nobody by this name"), "{text}");
    assert!(text.contains("u2@example.org        exhausted     holds a seat"), "{text}");
    assert_eq!(json(&daemon, &["seats", "refused", "--limit", "1"])["refused"].as_array().unwrap().len(), 1);
    daemon.verify();
}

#[test]
fn users_are_listed_by_how_they_use_their_seat() {
    let daemon = Daemon::start(Settings::ldif(4, &people(0..4)));
    daemon.expect("u2", "granted");
    daemon.grant("u1");
    page(&daemon, &["account", "add", "ada@other.org"]);
    let list = |arguments: &[&str]| users(&json(&daemon, &[&["users"][..], arguments].concat())["users"]);
    assert_eq!(list(&[]), ["ada", "u0", "u1", "u2", "u3"]);
    assert_eq!(list(&["--never", "--seated"]), ["ada", "u1"]);
    assert_eq!(list(&["--sort", "granted", "--seated"]), ["u2", "u1", "ada"]);
    assert_eq!(list(&["--sort", "last-login"]).last().unwrap(), "u2");
    assert_eq!(list(&["--domain", "other.org"]), ["ada"]);
    assert_eq!(list(&["--domain", "example.org", "--seated"]), ["u1", "u2"]);
    let lines = json(&daemon, &["users", "--seated"])["users"].clone();
    assert_eq!((&lines[0]["origin"], &lines[0]["directory"]), (&"local".into(), &Value::Null));
    assert_eq!((&lines[1]["origin"], &lines[1]["directory"]), (&"mapped".into(), &"people".into()));
    assert!(page(&daemon, &["users", "--never"]).contains("(local)"));
}
