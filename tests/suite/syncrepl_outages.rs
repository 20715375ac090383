//! OpenLDAP servers that die in the middle of content synchronization, forget, or come back as they once were.
//! After each case the mirror equals what a fresh sweep gives, and nobody was lost meanwhile.

use serde_json::Value;

use std::time::Duration;

use crate::support::daemon::{Daemon, Settings, directory, ldap_directory, no_brake};
use crate::support::slapd::{Options, PEOPLE, Slapd, people, person};
use crate::support::valve::Valve;
use crate::support::wait_for;
use crate::syncrepl::{following, mechanism, provider, users, wait_until_following};

/// A daemon that comes to a server through a valve.
fn through(valve: &Valve, slapd: &Slapd, keys: &str) -> Settings {
    Settings { seats: 5, tables: ldap_directory(slapd, &[&valve.url()], keys), ..Settings::default() }
}

fn wait_until_failed(daemon: &Daemon) -> Value {
    daemon.wait_for("the failure", |status| directory(status, "corp")["state"] == "backoff")
}

#[test]
fn a_server_that_dies_in_a_refresh_removes_nobody() {
    let mut slapd = Slapd::start(provider(people(0..3000)));
    let valve = Valve::start(&slapd.url());
    // In the first map,
    valve.close_after(300_000);
    let mut daemon = Daemon::launch(&through(&valve, &slapd, ""));
    valve.wait_until_closed();
    slapd.kill();
    valve.cut();
    let status = wait_until_failed(&daemon);
    assert!(status["users"]["total"].as_u64().unwrap() < 3000);
    assert_eq!(status["ready"], false);
    slapd.restart();
    wait_until_following(&daemon);
    users(&daemon, 3000);
    daemon.expect("u1", "granted");
    daemon.agrees();

    // and in one that tells what changed: with its session log the server lost what it knew of deletions, and
    // names all who are present, 256 at a time.
    daemon.terminate();
    slapd.modify(
        &(0..5)
            .map(|number| format!("dn: uid=u{number},{PEOPLE}\nchangetype: delete\n\n"))
            .collect::<String>(),
    );
    slapd.add(&(4000..4200).map(person).collect::<String>());
    slapd.restart();
    valve.close_after(40_000);
    daemon.restart();
    valve.wait_until_closed();
    slapd.kill();
    valve.cut();
    let status = wait_until_failed(&daemon);
    assert!(status["users"]["total"].as_u64().unwrap() < 3200, "it was not in the middle");
    assert_eq!(status["users"]["tombstoned"], 0);
    daemon.expect("u1", "held");
    slapd.restart();
    wait_until_following(&daemon);
    users(&daemon, 3195);
    assert_eq!(daemon.probe("u1"), "removed");
    let log = daemon.log();
    assert!(!log.contains("has to be read from the beginning"), "the cookie was worthless");
    daemon.agrees();

    // And in one that reads everything again.
    let full = std::thread::scope(|scope| {
        valve.close_after(300_000);
        let full = scope.spawn(|| daemon.sync_full("corp"));
        valve.wait_until_closed();
        slapd.kill();
        valve.cut();
        full.join().unwrap()
    });
    full.unwrap_err();
    assert_eq!(wait_until_failed(&daemon)["users"]["total"], 3195);
    slapd.restart();
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_server_that_dies_while_it_tells_changes_is_followed_again() {
    let mut slapd = Slapd::start(provider(people(0..300)));
    let valve = Valve::start(&slapd.url());
    let daemon = Daemon::start(through(&valve, &slapd, &no_brake("ldap")));
    wait_until_following(&daemon);
    valve.close_after(60_000);
    slapd.add(&(1000..1500).map(person).collect::<String>());
    slapd.modify(
        &(0..100)
            .map(|number| format!("dn: uid=u{number},{PEOPLE}\nchangetype: delete\n\n"))
            .collect::<String>(),
    );
    valve.wait_until_closed();
    slapd.kill();
    valve.cut();
    let status = wait_until_failed(&daemon);
    let total = status["users"]["total"].as_u64().unwrap();
    assert!((301..800).contains(&total), "{total}");
    slapd.restart();
    users(&daemon, 700);
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn without_a_session_log_those_present_are_named() {
    let options =
        Options { database: "overlay ppolicy\noverlay syncprov\n".to_owned(), ..provider(people(0..1000)) };
    let slapd = Slapd::start(options);
    let mut daemon = Daemon::start(Settings::ldap(5, &slapd, ""));
    wait_until_following(&daemon);
    daemon.terminate();
    slapd.delete(&format!("uid=u999,{PEOPLE}"));
    slapd.rename(&format!("uid=u5,{PEOPLE}"), "uid=renamed5");
    slapd.add(&person(2000));
    daemon.restart();
    wait_until_following(&daemon);
    users(&daemon, 1000);
    assert_eq!((daemon.probe("u999"), daemon.probe("renamed5")), ("removed".into(), "granted".into()));
    // Those who changed are told and named.
    let told = daemon.wait_for_log(&["event=sync_completed", "added=1", "changed=1", "removed=1"]);
    assert!(told.contains("seen=1002"), "{told}");
    assert!(!daemon.log().contains("has to be read from the beginning"));
    daemon.agrees();
}

#[test]
fn a_server_restored_from_a_real_backup_is_read_again() {
    let (mut slapd, daemon) = following(20, "");
    daemon.expect("u1", "granted");
    let backup = slapd.save();
    slapd.add(&person(600));
    slapd.delete(&format!("uid=u2,{PEOPLE}"));
    users(&daemon, 20);
    wait_for("the removal", || (daemon.probe("u2") == "removed").then_some(()));
    // Its state is older than the cookie, which it answers with 53.
    slapd.restore_saved(&backup);
    daemon.wait_for_log(&["has to be read from the beginning"]);
    wait_until_following(&daemon);
    wait_for("the return", || (daemon.probe("u2") == "granted").then_some(()));
    assert_eq!(daemon.probe("u600"), "removed");
    daemon.expect("u1", "held");
    daemon.agrees();
}

#[test]
fn an_empty_server_removes_nobody() {
    let mut slapd = Slapd::start(provider(people(0..20)));
    // Anonymously, since the bind user is gone with everybody else.
    let tables = ldap_directory(&slapd, &[&slapd.url()], "");
    let tables = tables.lines().filter(|line| !line.starts_with("bind_")).collect::<Vec<_>>().join("\n");
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    wait_until_following(&daemon);
    daemon.expect("u1", "granted");
    let backup = slapd.save();
    // It has not even the base, which it says before it looks at the cookie.
    slapd.restore_saved("");
    daemon.wait_for_log(&["event=sync_failed", PEOPLE, "does not exist"]);
    let status = wait_until_failed(&daemon);
    assert_eq!((&status["users"]["total"], &status["users"]["tombstoned"]), (&20.into(), &0.into()));
    daemon.expect("u1", "held");
    slapd.restore_saved(&backup);
    wait_until_following(&daemon);
    daemon.agrees();

    // With the base alone, everybody is gone, which the brake holds.
    slapd.restore("");
    let status = daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    assert_eq!(directory(&status, "corp")["held"]["empty"], true);
    daemon.expect("u1", "held");
    slapd.restore_saved(&backup);
    daemon.sync("corp").unwrap();
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_stale_cookie_reads_everything_whether_the_server_says_so_or_not() {
    let index = "index entryUUID,entryCSN eq\n";
    // Without the index it does not even notice.
    for (more, is_told) in
        [("", false), (index, false), (&format!("{index}syncprov-reloadhint TRUE\n"), true)]
    {
        let plain = provider(people(0..20));
        let mut slapd = Slapd::start(Options { database: plain.database.clone() + more, ..plain });
        let mut daemon = Daemon::start(Settings::ldap(5, &slapd, ""));
        wait_until_following(&daemon);
        daemon.expect("u1", "granted");
        daemon.terminate();
        // Everything is loaded anew, so that nothing is as old as the cookie: not in the same second either,
        // which is as exact as the server's index is.
        std::thread::sleep(Duration::from_millis(1100));
        slapd.restore(&people(1..21));
        daemon.restart();
        wait_until_following(&daemon);
        assert_eq!(daemon.log().contains("has to be read from the beginning"), is_told, "{}", daemon.log());
        assert_eq!((daemon.probe("u0"), daemon.probe("u20")), ("removed".into(), "granted".into()));
        daemon.expect("u1", "held");
        assert_eq!(mechanism(&daemon), "syncrepl");
        daemon.agrees();
    }
}
