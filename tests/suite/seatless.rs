//! Shared and service mailboxes of real servers: they need no seat, as many as the license allows.

use serde_json::Value;

use crate::dirsync;
use crate::support::daemon::{Daemon, Settings, directory, no_brake};
use crate::support::issuer::Vendor;
use crate::support::samba::{self, SambaAd};
use crate::support::slapd::{Options, PEOPLE, Slapd, people};
use crate::support::wait_for;

#[track_caller]
fn becomes(daemon: &Daemon, user: &str, decision: &str) {
    wait_for(&format!("{user} to be {decision}"), || (daemon.probe(user) == decision).then_some(()));
}

fn modify(slapd: &Slapd, number: u32, change: &str) {
    slapd.modify(&format!("dn: uid=u{number},{PEOPLE}\nchangetype: modify\n{change}\n"));
}

#[test]
fn a_shared_mailbox_of_openldap_takes_no_seat_and_gives_one_back() {
    for sync in ["sweep", "syncrepl"] {
        let slapd = Slapd::start(Options::provider(people(0..4)));
        modify(&slapd, 0, "replace: employeeType\nemployeeType: Shared  mailbox");
        let keys = format!(
            "sync = \"{sync}\"\nseatless_filter = \"(&(employeeType=shared*)(!(title=*)))\"\n{}",
            no_brake("ldap")
        );
        let mut settings = Settings::ldap(2, &slapd, &keys);
        settings.tables = settings.tables.replace("poll_every = \"1h\"", "poll_every = \"1s\"");
        let daemon = Daemon::start(settings);
        assert_eq!(daemon.expect("u0", "exempt"), "No seat is needed.");
        daemon.expect("u1", "granted");
        daemon.expect("u2", "granted");
        daemon.expect("u3", "exhausted");
        assert_eq!(daemon.status()["seatless"]["mailboxes"], 1);

        // Becoming one gives the seat back; no longer being one takes a seat with the next login.
        modify(&slapd, 2, "replace: employeeType\nemployeeType: shared");
        becomes(&daemon, "u2", "exempt");
        assert_eq!(daemon.seats_used(), 1);
        assert!(daemon.history("u2").iter().any(|line| line["reason"] == "seatless"));
        daemon.expect("u3", "granted");
        modify(&slapd, 2, "add: title\ntitle: Boss");
        becomes(&daemon, "u2", "exhausted");
        daemon.verify();
        daemon.agrees();
    }
}

#[test]
fn bits_of_active_directory_are_evaluated_here() {
    // DONT_EXPIRE_PASSWD ([MS-ADTS] section 2.2.16) marks service accounts in this domain.
    let service = samba::person(0).replace("userAccountControl: 544", "userAccountControl: 66080");
    let data = service + &samba::people(1..3);
    let samba = SambaAd::start(samba::Options { data, ..samba::Options::default() });
    let keys = "seatless_filter = \"(userAccountControl:1.2.840.113556.1.4.803:=65536)\"\n";
    let daemon = Daemon::start(dirsync::corp(&samba, samba::PEOPLE, keys));
    daemon.expect("u0", "exempt");
    daemon.expect("u1", "granted");
    samba.replace(&samba::dn(1), "userAccountControl", "66080");
    becomes(&daemon, "u1", "exempt");
    assert_eq!(daemon.seats_used(), 0);
    samba.replace(&samba::dn(0), "userAccountControl", "66082");
    becomes(&daemon, "u0", "disabled");
    daemon.agrees();
}

#[test]
fn a_signed_license_allows_as_many_as_it_says() {
    let vendor = Vendor::new();
    let keys = format!("trusted_keys = [\"{}\"]", vendor.public_key);
    let mut settings = Settings { license: Some(keys), ..Settings::ldif(0, &people(0..4)) };
    settings.tables += "seatless_filter = \"(|(uid=u0)(uid=u1)(uid=u2))\"\n";
    let daemon = Daemon::start(settings);
    let install = |arguments: &[&str]| {
        let token = vendor.issue(&[&["--id", "L-1", "--seats", "1"], arguments].concat());
        daemon.write("new.jwt", &token);
        let path = daemon.path("new.jwt");
        let output = daemon.command(&["license", "install", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    assert_eq!(daemon.probe("u0"), "license_missing");

    // Without the claim they are ordinary persons.
    install(&[]);
    daemon.expect("u1", "granted");
    assert_eq!(daemon.probe("u0"), "exhausted");
    let warning = "3 mailboxes match seatless_filter, but the license allows 0: the 3 that were mapped last";
    daemon.wait_for_log(&[warning]);

    install(&["--seatless", "2"]);
    daemon.expect("u0", "exempt");
    daemon.expect("u1", "exempt");
    assert_eq!(daemon.seats_used(), 0, "becoming seatless releases the seat");
    daemon.expect("u2", "granted");
    daemon.expect("u3", "exhausted");
    let status = daemon.status();
    assert_eq!(status["seatless"], serde_json::json!({ "mailboxes": 3, "allowed": 2 }));
    assert_eq!(status["license"]["seatless"], 2);
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains("3 mailboxes, THE LICENSE ALLOWS 2: the 1 mapped last need a seat each"), "{page}");
    assert!(page.contains("1 seat, 2 seatless mailboxes"), "{page}");
    let check = String::from_utf8(daemon.command(&["check", "--connect"]).stdout).unwrap();
    let over =
        "seatless_filter matches 3 mailboxes, and the license allows 2: the 1 that were mapped last need";
    assert!(
        check.contains("3 of them match seatless_filter: u0@example.org") && check.contains(over),
        "{check}"
    );
    assert_eq!(daemon.explain("u0")["counts_because"], "a mailbox that needs no seat, by seatless_filter");
    daemon.verify();
}

#[test]
fn a_reload_with_another_filter_is_evaluated_at_once() {
    let slapd = Slapd::start(Options::provider(people(0..3)));
    let before = Settings::ldap(2, &slapd, &no_brake("ldap"));
    let mut daemon = Daemon::start(before.clone());
    daemon.expect("u0", "granted");
    daemon.expect("u1", "granted");
    let filter = "seatless_filter = \"(uid=u0)\"\n[directory.ldap.brake]";
    let tables = before.tables.replace("[directory.ldap.brake]", filter);
    daemon.configure(&Settings { tables, ..before.clone() });
    let dry_run = daemon.command(&["check", "--connect"]);
    let names = String::from_utf8(dry_run.stdout).unwrap();
    assert!(names.contains("1 of them match seatless_filter: u0@example.org"), "{names}");
    let group = before.tables.replace(
        "[directory.ldap.brake]",
        "seatless_filter = \"(memberOf=cn=shared,dc=example,dc=org)\"\n[directory.ldap.brake]",
    );
    let checked = Daemon::prepare(&Settings { tables: group, ..before.clone() }).command(&["check"]);
    let checked = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.contains("corp: warning: seatless_filter asks for memberOf"), "{checked}");
    daemon.reload().unwrap();
    becomes(&daemon, "u0", "exempt");
    assert_eq!(daemon.seats_used(), 1);
    daemon.expect("u2", "granted");
    daemon.configure(&before);
    daemon.reload().unwrap();
    becomes(&daemon, "u0", "exhausted");
    daemon.verify();
}

/// A filter by an attribute that ordinary people have: where a server hides it, everybody looks like a shared mailbox.
const WITHOUT_TYPE: &str = "seatless_filter = \"(!(employeeType=*))\"\n";

/// People of a server, all of whom have the attribute.
fn typed(numbers: std::ops::Range<u32>) -> String {
    people(numbers).replace("\nmail: ", "\nemployeeType: staff\nmail: ")
}

#[test]
fn holders_whom_a_server_makes_seatless_keep_their_seats_until_approved() {
    let options = Options { data: typed(0..20), ..Options::default() };
    let mut slapd = Slapd::start(options.clone());
    let keys = format!("sync = \"sweep\"\n{WITHOUT_TYPE}");
    let daemon = Daemon::start(Settings::ldap(10, &slapd, &keys));
    for number in 0..5 {
        daemon.expect(&format!("u{number}"), "granted");
    }
    let hidden = "access to attrs=employeeType by * none\n".to_owned() + &options.access;
    slapd.reconfigure(&Options { access: hidden, ..options.clone() });
    modify(&slapd, 3, "add: uid\nuid: three");
    for report in [daemon.dry_run("corp").unwrap(), daemon.sync("corp").unwrap()] {
        let held = &report["held"];
        assert_eq!(
            (&held["seatless"], &held["removed"], &held["seats"]),
            (&5.into(), &0.into(), &5.into()),
            "{report}"
        );
        assert_eq!(
            (&held["users"][0], &report["seats_released"]),
            (&"u0@example.org".into(), &0.into()),
            "{report}"
        );
    }
    assert_eq!(daemon.seats_used(), 5);
    for number in 0..5 {
        daemon.expect(&format!("u{number}"), "held");
    }
    // What else changed is written, and whoever holds no seat loses none.
    daemon.expect("three", "held");
    daemon.expect("u9", "exempt");
    daemon.wait_for_log(&[" ERROR ", "event=brake_tripped", "seatless=5", "u4@example.org"]);
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains("the brake holds back 5 seats of seatless mailboxes of 20 users"), "{page}");

    // The slip is undone, and nobody has noticed.
    slapd.reconfigure(&options);
    assert_eq!(daemon.sync("corp").unwrap()["held"], Value::Null);
    assert_eq!((daemon.seats_used(), daemon.probe("u9").as_str()), (5, "granted"));
    daemon.expect("u4", "held");

    // This time it is meant.
    let bulk = (0..4)
        .map(|number| format!("dn: uid=u{number},{PEOPLE}\nchangetype: modify\ndelete: employeeType\n\n"));
    slapd.modify(&bulk.collect::<String>());
    assert_eq!(daemon.sync("corp").unwrap()["held"]["seatless"], 4);
    daemon.expect("u1", "held");
    let report = daemon.approve("corp").unwrap();
    assert_eq!((&report["held"], daemon.seats_used()), (&Value::Null, 1), "{report}");
    daemon.expect("u1", "exempt");
    daemon.expect("u4", "held");
    daemon.verify();
    daemon.agrees();
}

#[test]
fn holders_who_become_seatless_one_by_one_add_up_while_following() {
    let slapd = Slapd::start(Options::provider(typed(0..20)));
    let daemon = Daemon::start(Settings::ldap(10, &slapd, WITHOUT_TYPE));
    daemon.wait_for("following", |status| directory(status, "corp")["state"] == "following");
    for number in 0..4 {
        daemon.expect(&format!("u{number}"), "granted");
    }
    for number in [9, 0, 1, 2] {
        modify(&slapd, number, "delete: employeeType");
        becomes(&daemon, &format!("u{number}"), "exempt");
    }
    modify(&slapd, 3, "delete: employeeType\n-\nadd: uid\nuid: three");
    let status = daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    let held = &directory(&status, "corp")["held"];
    assert_eq!((&held["seatless"], &held["losses"]["before"]), (&1.into(), &3.into()), "{held}");
    becomes(&daemon, "three", "held");
    assert_eq!(daemon.approve("corp").unwrap()["held"], Value::Null);
    becomes(&daemon, "u3", "exempt");
    daemon.agrees();
}

#[test]
fn whom_another_filter_makes_seatless_is_listed_before_and_is_no_loss() {
    for sync in ["sweep", "syncrepl"] {
        let slapd = Slapd::start(Options::provider(typed(0..20)));
        let before = Settings::ldap(10, &slapd, &format!("sync = \"{sync}\"\n{WITHOUT_TYPE}"));
        let mut daemon = Daemon::start(before.clone());
        for number in 0..10 {
            daemon.expect(&format!("u{number}"), "granted");
        }
        let other = "seatless_filter = \"(employeeType=staff)\"\n";
        let after = Settings { tables: before.tables.replace(WITHOUT_TYPE, other), ..before };
        daemon.configure(&after);
        let report = daemon.dry_run("corp").unwrap();
        assert_eq!((&report["seats_released"], &report["held"]), (&10.into(), &Value::Null), "{report}");
        let listed = report["seats_released_of"].as_array().unwrap();
        assert!(listed.len() == 10 && listed.contains(&"u7@example.org".into()), "{report}");
        let check = String::from_utf8(daemon.command(&["check", "--connect"]).stdout).unwrap();
        assert!(check.contains("20 of them match seatless_filter: u0@example.org"), "{check}");
        daemon.expect("u7", "held");
        daemon.reload().unwrap();
        becomes(&daemon, "u7", "exempt");
        assert_eq!(daemon.seats_used(), 0);
        assert!(!daemon.log().contains("brake_tripped"));
        daemon.verify();
    }
}
