//! Changes come by themselves from a real OpenLDAP, by content synchronization (RFC 4533). After each case
//! the mirror equals what a fresh sweep gives.

use std::time::Duration;

use crate::support::daemon::{Daemon, Settings, directory, no_brake};
use crate::support::slapd::{Options, PEOPLE, Slapd, entry_uuid, people, person};
use crate::support::wait_for;

fn provider(data: String) -> Options {
    Options {
        data,
        global: "moduleload syncprov\n".to_owned(),
        database: "overlay syncprov\nsyncprov-sessionlog 1000\n".to_owned(),
        ..Options::default()
    }
}

/// A server with a sync provider and so many people, and a daemon that follows it.
fn following(count: u32, keys: &str) -> (Slapd, Daemon) {
    let slapd = Slapd::start(provider(people(0..count)));
    let daemon = Daemon::start(Settings::ldap(5, &slapd, keys));
    wait_until_following(&daemon);
    (slapd, daemon)
}

fn wait_until_following(daemon: &Daemon) {
    daemon.wait_for("changes to come by themselves", |status| {
        directory(status, "corp")["state"] == "following"
    });
}

fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| status["users"]["total"] == count);
}

fn mechanism(daemon: &Daemon) -> String {
    directory(&daemon.status(), "corp")["mechanism"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn every_kind_of_change_arrives_by_itself() {
    let unit = "dn: ou=out,dc=example,dc=org\nobjectClass: organizationalUnit\nou: out\n\n".to_owned();
    let slapd = Slapd::start(provider(unit + &people(0..20)));
    let daemon = Daemon::start(Settings::ldap(5, &slapd, ""));
    wait_until_following(&daemon);
    assert_eq!(mechanism(&daemon), "syncrepl");
    daemon.expect("u1", "granted");

    slapd.add(&person(100));
    users(&daemon, 21);
    daemon.expect("u100", "granted");
    daemon.agrees();

    slapd.modify(&format!(
        "dn: uid=u1,{PEOPLE}\nchangetype: modify\nreplace: mail\nmail: other@example.org\n"
    ));
    wait_for("the new address", || (daemon.probe("other@example.org") == "held").then_some(()));
    assert_eq!(daemon.probe("u1@example.org"), "held", "the login name is left");
    daemon.agrees();

    slapd.rename(&format!("uid=u1,{PEOPLE}"), "uid=renamed");
    wait_for("the new name", || (daemon.probe("renamed") == "held").then_some(()));
    daemon.agrees();

    let away = "newsuperior: ou=out,dc=example,dc=org\n";
    let moved = "changetype: moddn\nnewrdn: uid=renamed\ndeleteoldrdn: 0\n";
    slapd.modify(&format!("dn: uid=renamed,{PEOPLE}\n{moved}{away}"));
    wait_for("the move out of the base", || (daemon.probe("renamed") == "removed").then_some(()));
    daemon.agrees();
    slapd.modify(&format!("dn: uid=renamed,ou=out,dc=example,dc=org\n{moved}newsuperior: {PEOPLE}\n"));
    wait_for("the move back", || (daemon.probe("renamed") == "held").then_some(()));
    daemon.agrees();

    slapd.delete(&format!("uid=u2,{PEOPLE}"));
    wait_for("the removal", || (daemon.probe("u2") == "removed").then_some(()));
    slapd.add(&person(2).replace(&format!("entryUUID: {}\n", entry_uuid(2)), ""));
    wait_for("the new entry of the same name", || (daemon.probe("u2") == "granted").then_some(()));
    daemon.agrees();
}

#[test]
fn a_burst_of_changes_arrives() {
    let (slapd, daemon) = following(10, "");
    let burst: String = (1000..1500).map(person).collect();
    slapd.add(&burst);
    users(&daemon, 510);
    daemon.agrees();
}

#[test]
fn what_changed_while_the_daemon_was_down_is_all_that_is_told() {
    let (slapd, mut daemon) = following(300, "");
    daemon.expect("u1", "granted");
    daemon.terminate();
    slapd.add(&person(1000));
    slapd.delete(&format!("uid=u2,{PEOPLE}"));
    slapd
        .modify(&format!("dn: uid=u3,{PEOPLE}\nchangetype: modify\nreplace: mail\nmail: new3@example.org\n"));
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u1000"), "granted");
    assert_eq!(daemon.probe("u2"), "removed");
    assert_eq!(daemon.probe("new3"), "granted");
    let log = daemon.wait_for_log(&["event=sync_completed"]);
    // Two entries were told, and not three hundred; the provider's session log named the third.
    let seen = log.split("seen=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(seen.parse::<u64>().unwrap() <= 4, "{log}");
    daemon.agrees();
}

#[test]
fn a_server_that_dies_and_comes_back_is_followed_again() {
    let (mut slapd, daemon) = following(50, "");
    daemon.expect("u1", "granted");
    slapd.kill();
    daemon.wait_for("the loss to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    daemon.expect("u1", "held");
    slapd.restart();
    // The session log died with the server, so it names what is present instead.
    slapd.add(&person(500));
    slapd.delete(&format!("uid=u9,{PEOPLE}"));
    wait_until_following(&daemon);
    users(&daemon, 50);
    assert_eq!(daemon.probe("u9"), "removed");
    daemon.agrees();
}

#[test]
fn a_server_restored_from_an_older_copy_is_read_again() {
    let (mut slapd, daemon) = following(20, "");
    daemon.expect("u1", "granted");
    slapd.add(&person(600));
    users(&daemon, 21);
    slapd.restore(&people(0..20));
    users(&daemon, 20);
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u600"), "removed");
    daemon.expect("u1", "held");
    daemon.agrees();
}

#[test]
fn an_emptied_provider_is_held() {
    let (slapd, daemon) = following(20, "");
    daemon.expect("u15", "granted");
    // One by one, the first three of them within what the brake lets through.
    slapd.delete_tree(PEOPLE);
    daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    daemon.expect("u15", "held");
    daemon.wait_for_log(&["event=brake_tripped", "directory=corp"]);
    // How many went before depends on how many came in one transaction.
    assert!(daemon.status()["users"]["total"].as_u64().unwrap() >= 17);
}

#[test]
fn the_brake_counts_over_the_hour() {
    let (slapd, daemon) = following(50, "");
    for number in 0..5u64 {
        slapd.delete(&format!("uid=u{number},{PEOPLE}"));
        users(&daemon, 49 - number);
    }
    slapd.delete(&format!("uid=u5,{PEOPLE}"));
    daemon.wait_for("the sixth to be held", |status| directory(status, "corp")["state"] == "held");
    assert_eq!(daemon.probe("u5"), "granted");
    let report = daemon.approve("corp").unwrap();
    assert_eq!(report["removed"], 1, "{report}");
    assert_eq!(daemon.probe("u5"), "removed");
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_hung_server_is_noticed() {
    let (slapd, daemon) = following(5, "");
    slapd.stop();
    let noticed = std::time::Instant::now();
    daemon.wait_for("the silence to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    assert!(noticed.elapsed() < Duration::from_secs(31), "{:?}", noticed.elapsed());
    slapd.resume();
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_database_without_a_provider_is_swept() {
    let options = Options { database: String::new(), ..provider(people(0..5)) };
    let slapd = Slapd::start(options);
    let daemon = Daemon::start(Settings::ldap(5, &slapd, &no_brake("ldap")));
    daemon.wait_for("a sweep", |status| directory(status, "corp")["state"] == "idle");
    assert_eq!(mechanism(&daemon), "sweep");
    users(&daemon, 5);
}
