//! Directories that fail, lie or come back: nobody is removed, and who holds a seat goes on.

use std::thread;

use serde_json::Value;

use crate::support::daemon::{Daemon, Settings, directory, ldap_directory, no_brake};
use crate::support::relay::Relay;
use crate::support::slapd::{Options, PEOPLE, Slapd, people, person};
use crate::support::{free_port, wait_for};

/// Nobody is gone or forgotten, and a holder comes in.
#[track_caller]
fn assert_untouched(daemon: &Daemon, users: u64) -> Value {
    let status = daemon.status();
    assert_eq!(
        (&status["users"]["mapped"], &status["users"]["tombstoned"], &status["users"]["disabled"]),
        (&users.into(), &0.into(), &0.into())
    );
    assert_eq!(directory(&status, "corp")["users"], users);
    daemon.expect("u1", "held");
    daemon.verify();
    status
}

#[track_caller]
fn assert_backs_off(daemon: &Daemon, parts: &[&str]) {
    // It tries again meanwhile.
    let status = daemon.wait_for("the failure", |status| directory(status, "corp")["state"] == "backoff");
    let error = directory(&status, "corp")["last_error"].as_str().unwrap();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    daemon.wait_for_log(&[&[" WARN ", "event=sync_failed", "directory=corp"], parts].concat());
}

#[test]
fn a_server_killed_in_the_middle_of_a_sweep_removes_nobody() {
    let mut slapd = Slapd::start(Options { data: people(0..2000), ..Options::default() });
    let relay = Relay::start(&slapd.url());
    let keys = "page_size = 100\n".to_owned() + &no_brake("ldap");
    let tables = ldap_directory(&slapd, &[&relay.url()], &keys);
    let daemon = Daemon::start(Settings { seats: 3, tables, ..Settings::default() });
    daemon.expect("u1", "granted");

    for bytes in [300_000, 2_000] {
        relay.cut_after(bytes);
        thread::scope(|scope| {
            let sync = scope.spawn(|| daemon.sync("corp"));
            wait_for("the middle of the sweep", || relay.is_cut().then_some(()));
            assert_eq!(directory(&daemon.status(), "corp")["state"], "refreshing");
            daemon.expect("u1", "held");
            slapd.kill();
            let error = sync.join().unwrap().unwrap_err();
            assert!(error.contains(&relay.url()), "{error}");
        });
        assert_untouched(&daemon, 2000);
        assert_backs_off(&daemon, &[&relay.url()]);
        relay.repair();
        slapd.restart();
        daemon.wait_for("the directory to recover by itself", |status| {
            let corp = directory(status, "corp");
            corp["state"] == "idle" && corp["last_error"].is_null()
        });
        assert_untouched(&daemon, 2000);
    }
}

/// With small pages the server sends ten entries before the error, with large ones none.
#[test]
fn a_size_limit_of_ten_removes_nobody() {
    let options = Options { data: people(0..30), ..Options::default() };
    for page_size in [5, 1000] {
        let mut slapd = Slapd::start(options.clone());
        let keys = format!("page_size = {page_size}\n") + &no_brake("ldap");
        let daemon = Daemon::start(Settings::ldap(3, &slapd, &keys));
        daemon.expect("u1", "granted");
        slapd.reconfigure(&Options { limits: "size=10".to_owned(), ..options.clone() });
        let error = daemon.sync("corp").unwrap_err();
        assert!(error.contains("size limit"), "{error}");
        assert_untouched(&daemon, 30);
        assert_backs_off(&daemon, &["lift its size limits for the bind user"]);
        slapd.reconfigure(&options);
        daemon.wait_for("the directory to recover", |status| directory(status, "corp")["state"] == "idle");
        assert_untouched(&daemon, 30);
    }
}

#[test]
fn a_server_that_hangs_holds_up_neither_a_login_nor_the_end() {
    let slapd = Slapd::start(Options { data: people(0..10), ..Options::default() });
    let mut daemon = Daemon::start(Settings::ldap(3, &slapd, ""));
    daemon.expect("u1", "granted");
    slapd.stop();
    assert_eq!(daemon.api("POST", "/v1/directories/corp/sync").status, 202);
    daemon.wait_for("the sweep", |status| directory(status, "corp")["state"] == "refreshing");
    daemon.expect("u2", "granted");
    daemon.reload().unwrap();
    assert_untouched(&daemon, 10);
    let (status, took) = daemon.terminate();
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    slapd.resume();
    daemon.restart();
    daemon.sync("corp").unwrap();
    assert_untouched(&daemon, 10);
}

#[test]
fn an_access_rule_that_hides_everybody_removes_nobody() {
    let options = Options { data: people(0..10), ..Options::default() };
    let mut slapd = Slapd::start(options.clone());
    let daemon = Daemon::start(Settings::ldap(3, &slapd, &no_brake("ldap")));
    daemon.expect("u1", "granted");
    let hidden = |rules: &str| Options {
        access: format!("access to attrs=userPassword by anonymous auth\n{rules}\n"),
        ..options.clone()
    };

    // Only the people are hidden: a complete answer without anybody.
    let people_hidden = format!("access to dn.children=\"{PEOPLE}\" by * none\naccess to * by * read");
    slapd.reconfigure(&hidden(&people_hidden));
    let report = daemon.sync("corp").unwrap();
    assert_eq!((&report["held"]["removed"], &report["held"]["empty"]), (&10.into(), &true.into()));
    assert_eq!(directory(&assert_untouched(&daemon, 10), "corp")["state"], "held");

    // Only their names and ids are: every entry is skipped, which is nobody as well.
    slapd.reconfigure(&hidden("access to attrs=entryUUID by * none\naccess to * by * read"));
    let report = daemon.sync("corp").unwrap();
    assert_eq!((&report["held"]["removed"], &report["skipped"]["no_id"]), (&10.into(), &10.into()));
    assert_untouched(&daemon, 10);

    // The base is hidden too: an error.
    slapd.reconfigure(&hidden("access to * by * none"));
    daemon.sync("corp").unwrap_err();
    assert_untouched(&daemon, 10);
    assert_backs_off(&daemon, &[PEOPLE]);

    slapd.reconfigure(&options);
    daemon.sync("corp").unwrap();
    let status = assert_untouched(&daemon, 10);
    assert_eq!(directory(&status, "corp")["state"], "idle");
    assert_eq!(directory(&status, "corp")["held"], Value::Null);
}

#[test]
fn an_emptied_base_is_held_until_it_is_approved_or_filled_again() {
    let slapd = Slapd::start(Options { data: people(0..6), ..Options::default() });
    let empty = || (0..6).for_each(|number| slapd.delete(&format!("uid=u{number},{PEOPLE}")));
    let daemon = Daemon::start(Settings::ldap(3, &slapd, &no_brake("ldap")));
    daemon.expect("u1", "granted");
    assert_eq!(daemon.approve("corp").unwrap_err(), "nothing is held back in corp");

    empty();
    let report = daemon.sync("corp").unwrap();
    assert_eq!((&report["removed"], &report["held"]["removed"]), (&0.into(), &6.into()));
    let corp = directory(&assert_untouched(&daemon, 6), "corp").clone();
    assert_eq!(corp["state"], "held");
    let held = &corp["held"];
    assert_eq!((&held["removed"], &held["disabled"], &held["people"]), (&6.into(), &0.into(), &6.into()));
    assert_eq!((&held["empty"], &held["losses"]["until"]), (&true.into(), &Value::Null));
    let line = daemon.wait_for_log(&[" ERROR ", "event=brake_tripped", "directory=corp", "removed=6"]);
    assert!(line.contains("u1@example.org") && line.contains("sync approve corp"), "{line}");
    // A seat that is free is still for whoever asks.
    daemon.expect("u2", "granted");

    // The same people are back: the hold ends by itself.
    slapd.add(&people(0..6));
    let report = daemon.sync("corp").unwrap();
    assert_eq!(report["held"], Value::Null);
    let corp = directory(&assert_untouched(&daemon, 6), "corp").clone();
    assert_eq!((&corp["state"], &corp["held"]), (&"idle".into(), &Value::Null));
    daemon.approve("corp").unwrap_err();

    // It is meant: they become tombstones, with their seats.
    empty();
    daemon.sync("corp").unwrap();
    assert_untouched(&daemon, 6);
    let report = daemon.approve("corp").unwrap();
    assert_eq!(
        (&report["removed"], &report["seats_released_after_grace"], &report["held"]),
        (&6.into(), &2.into(), &Value::Null)
    );
    let status = daemon.status();
    assert_eq!(directory(&status, "corp")["state"], "idle");
    assert_eq!((&status["users"]["mapped"], &status["users"]["tombstoned"]), (&0.into(), &6.into()));
    assert_eq!(status["seats"]["used"], 2);
    daemon.expect("u1", "removed");
    daemon.verify();

    // An approval is for one sweep.
    slapd.add(&person(7));
    slapd.add(&person(8));
    daemon.sync("corp").unwrap();
    slapd.delete(&format!("uid=u7,{PEOPLE}"));
    slapd.delete(&format!("uid=u8,{PEOPLE}"));
    assert_eq!(daemon.sync("corp").unwrap()["held"]["removed"], 2);
}

#[test]
fn the_next_url_is_used_when_the_first_is_dead() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    let dead = format!("ldap://127.0.0.1:{}", free_port());
    let tables = ldap_directory(&slapd, &[&dead, &slapd.url()], "");
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    let status = daemon.status();
    let corp = directory(&status, "corp");
    assert_eq!((&corp["state"], &corp["users"]), (&"idle".into(), &3.into()));
    assert_eq!((&corp["server"], &corp["mechanism"]), (&"OpenLDAP".into(), &"sweep".into()));
    daemon.expect("u1", "granted");
    daemon.sync("corp").unwrap();
}

#[test]
fn an_unmapped_directory_is_an_outage_and_not_a_refusal() {
    let mut slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    slapd.kill();
    let mut daemon = Daemon::launch(&Settings::ldap(3, &slapd, ""));
    let http = daemon.http();
    daemon.wait_for("the first failure", |status| directory(status, "corp")["state"] == "backoff");
    assert_eq!(http.ask("GET", "/healthz", "").unwrap().status, 200);
    let not_ready = http.ask("GET", "/readyz", "").unwrap().problem(503);
    assert!(not_ready.contains("corp"), "{not_ready}");
    for user in ["u1", "u1@example.org", "stranger@example.org"] {
        let body = crate::support::http::check_body(user);
        let problem = http.ask("POST", "/v1/check", &body).unwrap().problem(503);
        assert!(problem.contains("corp"), "{problem}");
    }
    assert_eq!(daemon.status()["ready"], false);

    slapd.restart();
    daemon.wait_for("the first map", |status| status["ready"] == true);
    assert_eq!(http.ask("GET", "/readyz", "").unwrap().status, 200);
    daemon.expect("u1", "granted");
    daemon.expect("stranger@example.org", "unknown_user");

    // Mapped in an earlier run is mapped.
    assert!(daemon.terminate().0.success());
    slapd.kill();
    daemon.restart();
    daemon.wait_for("the failure", |status| directory(status, "corp")["state"] == "backoff");
    assert_eq!(daemon.http().ask("GET", "/readyz", "").unwrap().status, 200);
    assert_untouched(&daemon, 3);
    daemon.expect("u2", "granted");
    daemon.expect("stranger@example.org", "unknown_user");
}

#[test]
fn tls_with_a_private_authority_maps() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    let ca_file = slapd.ca_file();
    for (url, starttls) in [(slapd.ldaps_url(), false), (slapd.url(), true)] {
        let keys = format!("[directory.ldap.tls]\nca_file = {ca_file:?}\nstarttls = {starttls}\n");
        let tables = ldap_directory(&slapd, &[&url], &keys);
        let daemon = Daemon::start(Settings { tables, ..Settings::default() });
        daemon.expect("u1", "granted");
        assert_untouched(&daemon, 3);
    }
}

#[test]
fn a_wrong_authority_and_a_wrong_host_name_are_refused() {
    let right = Slapd::start(Options { data: people(0..3), ..Options::default() });
    let certificate_names = vec!["ldap.example.org".to_owned()];
    let other = Slapd::start(Options { data: people(0..3), certificate_names, ..Options::default() });
    for starttls in [false, true] {
        let check = |slapd: &Slapd, ca_file: &std::path::Path, parts: &[&str]| {
            let url = if starttls { slapd.url() } else { slapd.ldaps_url() };
            let keys = format!("[directory.ldap.tls]\nca_file = {ca_file:?}\nstarttls = {starttls}\n");
            let tables = ldap_directory(slapd, &[&url], &keys);
            let daemon = Daemon::launch(&Settings { tables, ..Settings::default() });
            assert_backs_off(&daemon, &[&[url.as_str()], parts].concat());
            let status = daemon.status();
            assert_eq!((&status["users"]["total"], &status["ready"]), (&0.into(), &false.into()));
        };
        let wrong_ca = right.other_ca_file();
        check(&right, &wrong_ca, &["in ca_file", &wrong_ca.display().to_string()]);
        check(&other, &other.ca_file(), &["is for ldap.example.org and not for 127.0.0.1"]);
    }
}
