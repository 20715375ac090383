//! The binary's commands that need no daemon, and its exit codes.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Settings, ldap_directory, ldif_directory, seatkeeper};
use crate::support::slapd::{Options, PEOPLE, Slapd, people, person};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn check_code(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out, err)
}

#[test]
fn a_wrong_configuration_ends_with_78_and_shows_every_mistake() {
    let daemon = Daemon::prepare(&Settings::default());
    let wrong = "state_dir = \"state\"\nno_such_key = 1\n[license]\nseats = \"many\"\n\
                 [seats]\nremoval_grace = \"a while\"\n[[directory.ldif]]\nname = \"x\"\n";
    daemon.write("seatkeeper.toml", wrong);
    let path = daemon.config().display().to_string();
    for command in [&["run"][..], &["check"], &["check", "--connect"]] {
        let (out, err) = check_code(&daemon.command(command), 78);
        assert_eq!(out, "");
        for (place, part) in [
            ("2:1", "no_such_key"),
            ("4:9", "seats = \"many\""),
            ("6:18", "removal_grace = \"a while\""),
            ("7:1", "[[directory.ldif]]"),
        ] {
            assert!(err.contains(&format!("{path}:{place}")), "{place} is not in:\n{err}");
            assert!(err.contains(part), "{part} is not in:\n{err}");
        }
    }
    let none = daemon.path("none.toml");
    let (_, err) = check_code(&seatkeeper(&none, &["run"]), 78);
    assert!(err.contains(&none.display().to_string()), "{err}");
    check_code(&daemon.command(&["no-such-command"]), 2);
    assert!(!daemon.path("state").exists(), "a mistake makes nothing");
}

#[test]
fn check_looks_at_the_configuration_alone() {
    let daemon = Daemon::prepare(&Settings::ldif(25, &people(0..3)));
    let (out, _) = check_code(&daemon.command(&["check"]), 0);
    assert!(out.contains("correct; 25 seats, directories: 1, listeners: 2"), "{out}");
    assert!(!daemon.path("state").exists());
}

#[test]
fn check_connect_says_who_would_be_mapped_and_why_others_are_not() {
    let others = format!(
        "dn: cn=nameless,{PEOPLE}\nobjectClass: inetOrgPerson\ncn: nameless\nsn: x\n\n\
         dn: ou=unit,{PEOPLE}\nobjectClass: organizationalUnit\nou: unit\n\n\
         dn: cn=staff,{PEOPLE}\nobjectClass: groupOfNames\ncn: staff\nmember: uid=u1,{PEOPLE}\n\n"
    );
    let slapd = Slapd::start(Options { data: people(0..7) + &others, ..Options::default() });
    let settings = Settings::ldap(3, &slapd, "filter = \"(objectClass=*)\"");
    let daemon = Daemon::prepare(&settings);
    let (out, _) = check_code(&daemon.command(&["check", "--connect"]), 0);
    for part in [
        "7 people would be mapped, 0 of them disabled",
        "(no_name)",
        "cn=nameless,",
        "OpenLDAP",
        "preset openldap",
    ] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    let (out, _) = check_code(&daemon.command(&["--json", "check", "--connect"]), 0);
    let corp = serde_json::from_str::<Value>(&out).unwrap()["directories"][0].clone();
    assert_eq!((&corp["people"], &corp["error"]), (&7.into(), &Value::Null), "{corp}");
    let skipped = corp["skipped"].as_array().unwrap();
    let reasons: Vec<_> = skipped.iter().map(|skip| json!([skip["reason"], skip["entries"]])).collect();
    // Somebody without uid and mail, and a group without an address; the base itself and the unit below it.
    assert!(reasons.contains(&json!(["no_name", 2])), "{corp}");
    assert!(reasons.contains(&json!(["not_a_user", 2])), "{corp}");
    assert!(!daemon.path("state").exists(), "it only looks");
}

#[test]
fn check_connect_shows_people_and_seats_side_by_side_and_what_will_not_fit() {
    let list = format!(
        "dn: cn=sales,{PEOPLE}\nobjectClass: groupOfNames\nobjectClass: extensibleObject\ncn: sales\n\
         mail: sales@example.org\nmember: uid=u1,{PEOPLE}\n\n"
    );
    let silent =
        format!("dn: uid=silent,{PEOPLE}\nobjectClass: inetOrgPerson\nuid: silent\ncn: s\nsn: s\n\n");
    let second = person(5).replace("mail: u5@example.org", "mail: u5@elsewhere.net\nmail: u1@example.org");
    let slapd =
        Slapd::start(Options { data: people(0..5) + &second + &list + &silent, ..Options::default() });
    let mut settings = Settings::ldap(9, &slapd, "seat_limit = 4\nseatless_filter = \"(uid=u4)\"\n");
    settings.tables += &ldif_directory("branch", "branch.example", "branch.ldif");
    let stray = person(9).replace("u9@example.org", "u0@example.org");
    settings.files = vec![("branch.ldif", stray)];
    let daemon = Daemon::start(settings);
    daemon.expect("u1@example.org", "granted");
    let (out, _) = check_code(&daemon.command(&["check", "--connect"]), 0);
    for part in [
        "7 people would be mapped, 0 of them disabled; 1 of 4 seats are used",
        "1 of them match seatless_filter: u4@example.org",
        &format!("1 of them have no mail address; for example uid=silent,{PEOPLE}"),
        "lists: sales@example.org",
        "seats: 1 of 9 are used; 8 people in all",
        "no directory serves the domains of these addresses:\n  elsewhere.net: 1",
        &format!(
            "u1@example.org: uid=u5,{PEOPLE} (corp) would be mapped without it: uid=u1,{PEOPLE} (corp) has it"
        ),
        &format!(
            "u0@example.org: uid=u9,{PEOPLE} (branch) would be mapped without it: other directories serve"
        ),
    ] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    let (out, _) = check_code(&daemon.command(&["--json", "check", "--connect"]), 0);
    let checked: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(checked["seats_used"], json!([1, 9]), "{checked}");
    assert_eq!(checked["clashes"].as_array().unwrap().len(), 2, "{checked}");
}

#[test]
fn check_connect_fails_where_a_directory_cannot_be_read() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    let check = |tables: String, parts: &[&str]| {
        let daemon = Daemon::prepare(&Settings { tables, ..Settings::default() });
        let (out, _) = check_code(&daemon.command(&["check", "--connect"]), 1);
        for part in parts {
            assert!(out.contains(part), "{part:?} is not in:\n{out}");
        }
    };
    let good = ldap_directory(&slapd, &[&slapd.url()], "");
    check(good.replace(PEOPLE, "ou=nowhere,dc=example,dc=org"), &["corp: error: ", "ou=nowhere"]);
    check(good.replace(slapd.bind_dn(), "cn=stranger,dc=example,dc=org"), &["corp: error: ", "cn=stranger"]);
    let ca_file = slapd.other_ca_file();
    let tls = format!("[directory.ldap.tls]\nca_file = {ca_file:?}\nstarttls = true\n");
    check(good + &tls, &["corp: error: ", &ca_file.display().to_string()]);
}

/// The way of an administrator.
#[test]
fn the_commands_ask_the_running_daemon() {
    let mut daemon = Daemon::start(Settings::ldif(1, &people(0..3)));
    daemon.expect("u1", "granted");
    daemon.expect("u2", "exhausted");
    let (out, _) = check_code(&daemon.command(&["status", "--json"]), 0);
    let status: Value = serde_json::from_str(&out).unwrap();
    let seats = json!({ "limit": 1, "used": 1, "free": 0, "over_limit": false });
    assert_eq!((&status["seats"], &status["users"]["total"]), (&seats, &3.into()));
    check_code(&daemon.command(&["seats", "grant", "u2"]), 1);
    check_code(&daemon.command(&["explain", "nobody"]), 1);
    let (out, _) = check_code(&daemon.command(&["seats", "release", "u1"]), 0);
    assert!(out.contains("u1@example.org"), "{out}");
    daemon.expect("u2", "granted");
    let (out, _) = check_code(&daemon.command(&["explain", "u1"]), 0);
    assert!(out.contains("All mailbox licenses are in use"), "{out}");
    daemon.write(crate::support::daemon::LDIF, &people(0..4));
    check_code(&daemon.command(&["sync", "people", "--wait"]), 0);
    assert_eq!(daemon.status()["users"]["total"], 4);
    check_code(&daemon.command(&["verify"]), 0);

    assert!(daemon.terminate().0.success());
    for command in [&["status"][..], &["explain", "u1"], &["seats", "history"], &["verify"]] {
        let (_, err) = check_code(&daemon.command(command), 69);
        assert!(err.contains("control.sock"), "{err}");
    }
}
