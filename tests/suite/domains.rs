//! Mail domains: several of one directory, one of several directories, and caps of their own.

use crate::support::daemon::{Daemon, Settings, ldif_directory, no_brake};
use crate::support::slapd::{Options, PEOPLE, Slapd, people};
use crate::support::wait_for;

const CAP: &str = "[domains.\"alias.example\"]\nseat_limit = 1\n";

fn set_mail(slapd: &Slapd, number: u32, address: &str) {
    slapd.modify(&format!(
        "dn: uid=u{number},{PEOPLE}\nchangetype: modify\nreplace: mail\nmail: {address}\nmail: u{number}@example.org\n"
    ));
}

#[test]
fn a_user_counts_in_the_domain_of_the_main_address_and_keeps_the_seat_when_it_changes() {
    let slapd = Slapd::start(Options::provider(people(0..4)));
    set_mail(&slapd, 0, "u0@alias.example");
    set_mail(&slapd, 1, "u1@alias.example");
    let base = Settings::ldap(9, &slapd, &format!("{}{CAP}", no_brake("ldap")));
    let tables =
        base.tables.replace("domain = \"example.org\"", "domains = [\"example.org\", \"alias.example\"]");
    let settings = Settings { tables, ..base };
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("u0", "granted");
    daemon.expect("u1", "domain_exhausted");
    daemon.expect("u2", "granted");
    let domains = || daemon.status()["domains"].clone();
    assert_eq!(domains(), serde_json::json!([{ "name": "alias.example", "seats_used": 1, "seat_limit": 1 }]));
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains("alias.example 1 of 1: NONE FREE"), "{page}");

    let listed = |domain: &str| {
        let output = daemon.command(&["users", "--json", "--domain", domain]);
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let users = list["users"].as_array().unwrap().iter();
        users.map(|user| user["user"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("alias.example"), ["u0@alias.example", "u1@alias.example"]);
    assert_eq!(listed("Example.org"), ["u2@example.org", "u3@example.org"]);
    set_mail(&slapd, 2, "u2@alias.example");
    wait_for("the change", || (domains()[0]["seats_used"] == 2).then_some(()));
    daemon.expect("u2", "held");
    assert_eq!(daemon.probe("u1"), "domain_exhausted");
    daemon.verify();

    // An account counts in its own domain, and a reload changes the cap.
    let refused = daemon.command(&["account", "add", "new@alias.example"]);
    assert!(!refused.status.success());
    daemon.configure(&Settings {
        tables: settings.tables.replace("seat_limit = 1", "seat_limit = 3"),
        ..settings
    });
    daemon.reload().unwrap();
    let added = daemon.command(&["account", "add", "new@alias.example"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    assert_eq!(daemon.probe("u1"), "domain_exhausted");
    daemon.verify();
}

#[test]
fn one_domain_is_served_by_two_directories() {
    let tables =
        ldif_directory("one", "example.org", "one.ldif") + &ldif_directory("two", "example.org", "two.ldif");
    let files = vec![("one.ldif", people(0..2)), ("two.ldif", people(2..4))];
    let daemon = Daemon::start(Settings { seats: 9, tables, files, ..Settings::default() });
    for user in ["u0@example.org", "u1@example.org", "u2@example.org", "u3@example.org"] {
        daemon.expect(user, "granted");
    }
    assert_eq!(daemon.explain("u3@example.org")["directory"], "two");
    daemon.verify();
}
