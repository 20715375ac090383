//! A user is an entry's stable id: names come and go, the seat stays, and nobody inherits it.

use jiff::Timestamp;
use serde_json::Value;

use crate::support::daemon::{Daemon, LDIF, Settings, directory};
use crate::support::slapd::{Options, PEOPLE, SUFFIX, Slapd, entry_uuid, people, person};
use crate::support::wait_for;

/// Ten people on a server, and a daemon that knows them.
fn mapped(seats: u64, keys: &str) -> (Slapd, Daemon) {
    mapped_from(seats, people(0..10), keys)
}

fn mapped_from(seats: u64, data: String, keys: &str) -> (Slapd, Daemon) {
    let slapd = Slapd::start(Options { data, ..Options::default() });
    let settings = Settings::ldap(seats, &slapd, keys);
    (slapd, Daemon::start(settings))
}

/// The counts of a report that are not zero.
fn counts(report: &Value) -> Vec<(&str, u64)> {
    let names = [
        "added",
        "changed",
        "returned",
        "disabled",
        "removed",
        "seats_released",
        "seats_released_after_grace",
    ];
    names.iter().filter_map(|name| Some((*name, report[name].as_u64().filter(|n| *n > 0)?))).collect()
}

#[test]
fn a_rename_a_move_and_another_address_keep_the_seat() {
    let unit = format!("dn: ou=sales,{PEOPLE}\nobjectClass: organizationalUnit\nou: sales\n\n");
    let (slapd, daemon) = mapped_from(1, unit + &people(0..10), "");
    daemon.expect("u1", "granted");
    let before = daemon.explain("u1");

    slapd.rename(&format!("uid=u1,{PEOPLE}"), "uid=renamed");
    assert_eq!(counts(&daemon.sync("corp").unwrap()), [("changed", 1)]);
    daemon.expect("renamed", "held");
    daemon.expect("u1@example.org", "held");

    let move_it =
        format!("dn: uid=renamed,{PEOPLE}\nchangetype: moddn\nnewrdn: uid=renamed\ndeleteoldrdn: 0\n");
    slapd.modify(&format!("{move_it}newsuperior: ou=sales,{PEOPLE}\n"));
    assert_eq!(counts(&daemon.sync("corp").unwrap()), [("changed", 1)]);
    daemon.expect("renamed", "held");

    let dn = format!("uid=renamed,ou=sales,{PEOPLE}");
    slapd.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: mail\nmail: new.name@example.org\n"));
    assert_eq!(counts(&daemon.sync("corp").unwrap()), [("changed", 1)]);
    daemon.expect("New.Name@example.org", "held");
    daemon.expect("u1", "unknown_user");
    daemon.expect("u1@example.org", "unknown_user");

    let after = daemon.explain("renamed");
    assert_eq!(after["dn"], dn);
    for same in ["id", "since", "seat"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!((daemon.seats_used(), daemon.history("renamed").len()), (1, 1));
    daemon.verify();
}

#[test]
fn moving_the_whole_unit_keeps_every_seat() {
    let people_in_unit = people(0..10).replace(PEOPLE, &format!("ou=old,{PEOPLE}"));
    let unit = format!("dn: ou=old,{PEOPLE}\nobjectClass: organizationalUnit\nou: old\n\n");
    let (slapd, daemon) = mapped_from(10, unit + &people_in_unit, "");
    for number in 0..10 {
        daemon.expect(&format!("u{number}"), "granted");
    }
    slapd.rename(&format!("ou=old,{PEOPLE}"), "ou=new");
    assert_eq!(counts(&daemon.sync("corp").unwrap()), [("changed", 10)]);
    for number in 0..10 {
        let user = format!("u{number}");
        daemon.expect(&user, "held");
        assert_eq!(daemon.explain(&user)["dn"], format!("uid={user},ou=new,{PEOPLE}"));
    }
    assert_eq!(daemon.status()["users"]["tombstoned"], 0);

    // Out of the base, they are gone as far as the directory says, and the brake thinks of a mistake.
    slapd.modify(&format!(
        "dn: ou=new,{PEOPLE}\nchangetype: moddn\nnewrdn: ou=new\ndeleteoldrdn: 0\nnewsuperior: {SUFFIX}\n"
    ));
    assert_eq!(daemon.sync("corp").unwrap()["held"]["removed"], 10);
    daemon.expect("u1", "held");
}

#[test]
fn a_new_entry_with_the_old_name_inherits_nothing() {
    let (slapd, daemon) = mapped(1, "");
    daemon.expect("u1", "granted");
    let old = daemon.explain("u1");
    let dn = format!("uid=u1,{PEOPLE}");

    // In one step, as the next sweep sees it.
    slapd.delete(&dn);
    slapd.add(&person(1).replace(&entry_uuid(1), &entry_uuid(1001)));
    let report = daemon.sync("corp").unwrap();
    assert_eq!(counts(&report), [("added", 1), ("removed", 1), ("seats_released_after_grace", 1)]);

    let new = daemon.explain("u1");
    assert_ne!(new["id"], old["id"]);
    assert_eq!(new["seat"], Value::Null, "{new}");
    assert_eq!(new["names"].as_array().unwrap().len(), 1, "the tombstone gave up its name: {new}");
    // The one who left still has the only seat.
    daemon.expect("u1", "exhausted");
    let status = daemon.status();
    assert_eq!((&status["users"]["tombstoned"], &status["seats"]["used"]), (&1.into(), &1.into()));
    assert_eq!(daemon.history("").len(), 1);
    daemon.verify();
}

#[test]
fn one_who_comes_back_in_time_has_the_seat_still() {
    let (slapd, daemon) = mapped(1, "");
    daemon.expect("u1", "granted");
    let before = daemon.explain("u1");
    slapd.delete(&format!("uid=u1,{PEOPLE}"));
    assert_eq!(counts(&daemon.sync("corp").unwrap()), [("removed", 1), ("seats_released_after_grace", 1)]);
    daemon.expect("u1", "removed");
    daemon.expect("u2", "exhausted");
    let gone = daemon.explain("u1");
    assert_eq!(gone["seat"], before["seat"]);
    assert_ne!(gone["forgotten_at"], Value::Null, "{gone}");

    slapd.add(&person(1));
    assert_eq!(counts(&daemon.sync("corp").unwrap()), [("returned", 1)]);
    daemon.expect("u1", "held");
    assert_eq!(daemon.explain("u1")["seat"], before["seat"]);
    assert_eq!(daemon.status()["users"]["tombstoned"], 0);
    daemon.verify();
}

#[test]
fn when_the_grace_is_over_the_seat_is_free_and_the_history_says_why() {
    let (slapd, daemon) = mapped(1, "[seats]\nremoval_grace = \"2s\"\n");
    daemon.expect("u1", "granted");
    slapd.delete(&format!("uid=u1,{PEOPLE}"));
    let before = Timestamp::now();
    let report = daemon.sync("corp").unwrap();
    assert_eq!(counts(&report), [("removed", 1), ("seats_released_after_grace", 1)]);

    daemon.wait_for("the seat to come free", |status| status["seats"]["used"] == 0);
    let released = wait_for("the release in the history", || {
        let history = daemon.history("u1");
        (history.len() == 2).then(|| history[0].clone())
    });
    assert_eq!(released["event"], "released");
    let released_at: Timestamp = released["at"].as_str().unwrap().parse().unwrap();
    assert!(released_at.duration_since(before).as_secs_f64() >= 2.0, "not before the grace is over");
    let reason = released["reason"].as_str().unwrap();
    assert!(reason.contains("removed"), "{released}");
    daemon.wait_for_log(&["event=seat_released", "user=u1@example.org", &format!("reason={reason}")]);
    assert_eq!(daemon.status()["users"]["tombstoned"], 0);
    daemon.expect("u1", "unknown_user");
    daemon.expect("u2", "granted");
    // Whoever comes back now is a new user.
    slapd.add(&person(1));
    assert_eq!(counts(&daemon.sync("corp").unwrap()), [("added", 1)]);
    daemon.expect("u1", "exhausted");
    daemon.verify();
}

#[test]
fn a_claimed_address_stays_with_whoever_had_it_first() {
    let mut daemon = Daemon::start(Settings::ldif(5, &people(0..2)));
    daemon.expect("u0@example.org", "granted");
    let third = person(2).replace("mail: u2@example.org", "mail: u0@example.org\nmail: third@example.org");
    // First in the file, so that the order of reading does not decide.
    daemon.write(LDIF, &(third.clone() + &people(0..2)));
    let report = daemon.sync("people").unwrap();
    assert_eq!(counts(&report), [("added", 1)]);
    daemon.wait_for_log(&["WARN", "event=name_clash", "user=third@example.org", "name=u0@example.org"]);
    let clash = serde_json::json!(
        [{ "name": "u0@example.org", "owner": "u0@example.org", "claimant": "third@example.org" }]
    );
    assert_eq!(daemon.status()["clashes"], clash);
    daemon.expect("u0@example.org", "held");
    let third_user = daemon.explain("third@example.org");
    assert_eq!(third_user["names_held_by_others"], serde_json::json!(["u0@example.org"]));
    assert_eq!(third_user["seat"], Value::Null, "{third_user}");
    daemon.expect("u2", "granted");

    // The same after a restart, and while the one who had it is gone, for the grace period.
    assert!(daemon.terminate().0.success());
    daemon.restart();
    assert_eq!(daemon.status()["clashes"], clash);
    daemon.write(LDIF, &(third + &person(1)));
    daemon.sync("people").unwrap();
    let owner = daemon.explain("u0@example.org");
    assert_ne!(owner["id"], third_user["id"], "a tombstone keeps its names: {owner}");
    assert_eq!(daemon.status()["clashes"], clash);
    daemon.expect("u0@example.org", "removed");
    assert_eq!(directory(&daemon.status(), "people")["users"], 2);
    daemon.verify();
}
