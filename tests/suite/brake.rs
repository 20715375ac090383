//! Disabled users, the brake that counts them together with removals, and the preview of both.

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, LDIF, Settings, directory, no_brake};
use crate::support::slapd::{people, person};

/// The people of a range, some of them disabled.
fn staff(numbers: std::ops::Range<u32>, disabled: &[u32]) -> String {
    let entry = |number| {
        let flag = if disabled.contains(&number) { "\nnsAccountLock: TRUE\n\n" } else { "\n\n" };
        person(number).trim_end().to_owned() + flag
    };
    numbers.map(entry).collect()
}

/// A daemon over a file, with keys of its directory.
fn daemon(seats: u64, ldif: &str, keys: &str) -> Daemon {
    let mut settings = Settings::ldif(seats, ldif);
    settings.tables += keys;
    Daemon::start(settings)
}

/// What is held, counted.
fn counts(held: &Value) -> Value {
    let of = |name: &str| held[name].clone();
    json!({ "removed": of("removed"), "disabled": of("disabled"), "people": of("people"), "empty": of("empty") })
}

/// Everything that a preview must leave alone; times of attempts are no part of it.
fn state(daemon: &Daemon) -> (Value, Value, Vec<Value>, Value) {
    let status = daemon.status();
    let users: Value = serde_json::from_slice(&daemon.api("GET", "/v1/users").body).unwrap();
    (status["users"].clone(), status["seats"].clone(), daemon.history(""), users)
}

#[test]
fn a_disabled_user_loses_the_seat_at_once_and_is_gated_again() {
    let daemon = daemon(1, &staff(0..5, &[]), "");
    daemon.expect("u1", "granted");
    daemon.expect("u2", "exhausted");

    daemon.write(LDIF, &staff(0..5, &[1]));
    let report = daemon.sync("people").unwrap();
    assert_eq!((&report["disabled"], &report["seats_released"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(daemon.seats_used(), 0);
    daemon.expect("u1", "disabled");
    assert_eq!(daemon.status()["users"]["disabled"], 1);
    let history = daemon.history("u1");
    assert_eq!((&history[0]["event"], &history[0]["reason"]), (&"released".into(), &"disabled".into()));
    daemon.wait_for_log(&["event=user_disabled", "user=u1@example.org"]);
    daemon.wait_for_log(&["event=seat_released", "user=u1@example.org", "reason=disabled"]);
    let refused = daemon.grant("u1").problem(409);
    assert!(refused.contains("disabled"), "{refused}");
    daemon.expect("u2", "granted");

    // Enabled again, the seat is not: somebody else has it.
    daemon.write(LDIF, &staff(0..5, &[]));
    assert_eq!(daemon.sync("people").unwrap()["changed"], 1);
    daemon.expect("u1", "exhausted");
    daemon.release("u2");
    daemon.expect("u1", "granted");
    daemon.verify();
}

#[test]
fn the_brake_counts_removals_and_disables_together() {
    // Ten percent of 50 users, but three at least: five may go.
    let daemon = daemon(50, &staff(0..50, &[]), "");
    for number in [0, 1, 48] {
        daemon.expect(&format!("u{number}"), "granted");
    }
    let before = state(&daemon);

    // Three disabled and three gone are six. Who is new or changed is taken over all the same.
    let newcomer = person(60);
    daemon.write(LDIF, &(staff(0..47, &[0, 1, 2]) + &newcomer));
    let report = daemon.sync("people").unwrap();
    let held = json!({ "removed": 3, "disabled": 3, "people": 50, "empty": false });
    assert_eq!(counts(&report["held"]), held, "{report}");
    assert_eq!(
        (&report["removed"], &report["disabled"], &report["added"]),
        (&0.into(), &0.into(), &1.into())
    );
    let status = daemon.status();
    assert_eq!(directory(&status, "people")["state"], "held");
    assert_eq!(counts(&directory(&status, "people")["held"]), held);
    assert_eq!((&status["users"]["mapped"], &status["users"]["disabled"]), (&51.into(), &0.into()));
    assert_eq!((&status["seats"], daemon.history("")), (&before.1, before.2));
    for number in [0, 1, 48] {
        daemon.expect(&format!("u{number}"), "held");
    }
    let line =
        daemon.wait_for_log(&[" ERROR ", "event=brake_tripped", "removed=3", "disabled=3", "people=50"]);
    assert!(line.contains("u48@example.org") && line.contains("seatkeeper sync approve people"), "{line}");
    daemon.expect("u60", "granted");

    // One fewer is within the allowance: no approval is needed.
    daemon.write(LDIF, &(staff(0..47, &[0, 1]) + &newcomer));
    let report = daemon.sync("people").unwrap();
    assert_eq!((&report["removed"], &report["disabled"]), (&3.into(), &2.into()), "{report}");
    assert_eq!((&report["seats_released"], &report["seats_released_after_grace"]), (&2.into(), &1.into()));
    assert_eq!(report["held"], Value::Null);
    let status = daemon.status();
    assert_eq!(directory(&status, "people")["state"], "idle");
    assert_eq!((&status["users"]["disabled"], &status["users"]["tombstoned"]), (&2.into(), &3.into()));
    daemon.verify();
}

#[test]
fn the_brake_has_a_floor_a_share_and_a_ceiling() {
    let keys = |percent, floor, ceiling| {
        format!(
            "[directory.ldif.brake]\nmax_removals_percent = {percent}\nmin_removals = {floor}\nmax_removals = {ceiling}\n"
        )
    };
    // People, brake, how many may go.
    for (people_count, brake, allowed) in [
        (10, keys(10, 3, 500), 3),
        (40, keys(50, 3, 500), 20),
        (40, keys(50, 3, 8), 8),
        (10, keys(0, 0, 500), 0),
    ] {
        let daemon = daemon(5, &people(0..people_count), &brake);
        daemon.write(LDIF, &people(0..people_count - allowed - 1));
        let report = daemon.sync("people").unwrap();
        assert_eq!(report["held"]["removed"], allowed + 1, "{brake}");
        assert_eq!(daemon.status()["users"]["tombstoned"], 0);
        daemon.write(LDIF, &people(0..people_count - allowed));
        let report = daemon.sync("people").unwrap();
        assert_eq!((&report["held"], &report["removed"]), (&Value::Null, &allowed.into()), "{brake}");
        assert_eq!(daemon.status()["users"]["tombstoned"], allowed);
    }
}

#[test]
fn an_approval_lets_no_more_go_than_was_shown() {
    let daemon = daemon(50, &staff(0..20, &[]), "");
    daemon.expect("u0", "granted");
    daemon.write(LDIF, &staff(0..12, &[]));
    assert_eq!(daemon.sync("people").unwrap()["held"]["removed"], 8);
    // It got worse while the administrator read.
    daemon.write(LDIF, &staff(0..11, &[]));
    assert_eq!(daemon.approve("people").unwrap()["held"]["removed"], 9);
    assert_eq!(daemon.status()["users"]["tombstoned"], 0);
    let report = daemon.approve("people").unwrap();
    assert_eq!((&report["held"], &report["removed"]), (&Value::Null, &9.into()));
    assert_eq!(daemon.status()["users"]["mapped"], 11);
    daemon.expect("u0", "held");
    daemon.verify();
}

#[test]
fn a_dry_run_tells_everything_and_changes_nothing() {
    let daemon = daemon(50, &staff(0..20, &[]), &no_brake("ldif"));
    for number in 0..20 {
        daemon.expect(&format!("u{number}"), "granted");
    }
    // Three disabled, five gone, one with another address, two new.
    let changed = staff(0..15, &[0, 1, 2]).replace("mail: u9@example.org", "mail: nine@example.org");
    daemon.write(LDIF, &(changed + &people(30..32)));
    let before = state(&daemon);
    let report = daemon.dry_run("people").unwrap();
    let config = daemon.path("seatkeeper.toml");
    let expected = json!({
        "directory": "people", "dry_run": true, "config": config, "lists_removed": 0, "lists_removed_of": [],
        "seats_moved": 0, "seats_moved_of": [], "seen": 17, "added": 2, "changed": 1, "returned": 0,
        "disabled": 3, "removed": 5, "skipped": {}, "foreign_names": 0, "logins_only": 0, "seats_released": 3,
        "seats_released_of": ["u0@example.org", "u1@example.org", "u2@example.org"], "seats_released_after_grace": 5,
        "held": null, "names_taken": { "names": 0, "first": [] }, "moves": null,
    });
    assert_eq!(report, expected);
    assert_eq!(state(&daemon), before);
    assert_eq!(directory(&daemon.status(), "people")["state"], "idle");
    daemon.expect("u30", "unknown_user");
    daemon.expect("u0", "held");

    // And the sync does what was told.
    let report = daemon.sync("people").unwrap();
    for (name, value) in expected.as_object().unwrap() {
        if !["dry_run", "config", "seats_released_of"].contains(&name.as_str()) {
            assert_eq!(&report[name], value, "{name}");
        }
    }
    let status = daemon.status();
    assert_eq!((&status["seats"]["used"], &status["users"]["tombstoned"]), (&17.into(), &5.into()));
    daemon.verify();
}

#[test]
fn a_dry_run_says_that_the_brake_would_hold() {
    let daemon = daemon(50, &staff(0..20, &[]), "");
    daemon.write(LDIF, "");
    let before = state(&daemon);
    let report = daemon.dry_run("people").unwrap();
    let held = json!({ "removed": 20, "disabled": 0, "people": 20, "empty": true });
    assert_eq!(counts(&report["held"]), held);
    assert_eq!(state(&daemon), before);
    let status = daemon.status();
    let people = directory(&status, "people");
    assert_eq!((&people["state"], &people["held"]), (&"idle".into(), &Value::Null));
    assert!(!daemon.log().contains("brake_tripped"));
    // What was only previewed cannot be approved.
    daemon.approve("people").unwrap_err();
}
