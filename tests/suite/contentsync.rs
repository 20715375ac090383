//! Changes come by themselves from a real 389 Directory Server, by Content Synchronization. After each case
//! the mirror equals what a fresh sweep gives.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::daemon::{Daemon, Settings, directory, no_brake};
use crate::support::ds389::{Ds389, Options, dn, people, person};
use crate::support::slapd::PEOPLE;
use crate::support::wait_for;

const OUT: &str = "ou=out,dc=example,dc=org";
const PLUGIN: &str = "cn=Retro Changelog Plugin,cn=plugins,cn=config";

fn server(count: u32) -> Ds389 {
    let units = format!(
        "dn: {OUT}\nobjectClass: organizationalUnit\nou: out\n\n\
         dn: ou=sales,{PEOPLE}\nobjectClass: organizationalUnit\nou: sales\n\n"
    );
    Ds389::start(Options { data: units + &people(0..count), content_sync: true, ..Options::default() })
}

/// The directory `corp` at the server.
fn settings(server: &Ds389, seats: u64, keys: &str) -> Settings {
    let (url, base, bind_dn, password) =
        (server.url(), server.base_dn(), server.bind_dn(), server.password_file());
    let poll = if keys.contains("poll_every") { "" } else { "poll_every = \"1h\"\n" };
    let sync = if keys.contains("sync = ") { "" } else { "sync = \"syncrepl\"\n" };
    let tables = format!(
        "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [{url:?}]\nbase_dn = \"{base}\"\n\
         bind_dn = \"{bind_dn}\"\nbind_password_file = {password:?}\n{poll}{sync}{keys}\n"
    );
    Settings { seats, tables, ..Settings::default() }
}

/// A filter that people can leave, and no brake.
fn filtered() -> String {
    "filter = \"(&(objectClass=inetOrgPerson)(!(employeeType=left)))\"\n".to_owned() + &no_brake("ldap")
}

/// A server with so many people, and a daemon that follows it.
fn following(count: u32, keys: &str) -> (Ds389, Daemon) {
    let server = server(count);
    let daemon = Daemon::start(settings(&server, 5, keys));
    wait_until_following(&daemon);
    (server, daemon)
}

fn wait_until_following(daemon: &Daemon) {
    daemon.wait_for("changes to come by themselves", |status| {
        directory(status, "corp")["state"] == "following"
    });
}

fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| status["users"]["total"] == count);
}

#[track_caller]
fn wait_for_probe(daemon: &Daemon, user: &str, decision: &str) {
    wait_for(&format!("{user} to be {decision}"), || (daemon.probe(user) == decision).then_some(()));
}

fn set(server: &Ds389, dn: &str, attribute: &str, value: &str) {
    server.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n"));
}

/// Moves an entry, which keeps its name.
fn move_to(server: &Ds389, rdn: &str, from: &str, to: &str) {
    let change = "changetype: moddn\nnewrdn";
    server.modify(&format!("dn: {rdn},{from}\n{change}: {rdn}\ndeleteoldrdn: 0\nnewsuperior: {to}\n"));
}

fn delete_all(server: &Ds389, numbers: std::ops::Range<u32>) {
    server.modify(
        &numbers.map(|number| format!("dn: {}\nchangetype: delete\n\n", dn(number))).collect::<String>(),
    );
}

#[test]
fn every_kind_of_change_arrives_by_itself() {
    let (server, daemon) = following(20, &filtered());
    let status = daemon.status();
    assert_eq!(directory(&status, "corp")["mechanism"], "content-sync");
    assert_eq!(directory(&status, "corp")["mechanism_reason"], "the configuration says so");
    daemon.expect("u1", "granted");

    server.add(&person(100));
    users(&daemon, 21);
    daemon.expect("u100", "granted");
    daemon.agrees();

    set(&server, &dn(1), "mail", "other@example.org");
    wait_for_probe(&daemon, "other@example.org", "held");
    assert_eq!(daemon.probe("u1@example.org"), "held", "the login name is left");
    daemon.agrees();

    server.lock(&dn(1));
    wait_for_probe(&daemon, "u1", "disabled");
    assert_eq!(daemon.seats_used(), 1);
    server.unlock(&dn(1));
    wait_for_probe(&daemon, "u1", "granted");
    daemon.expect("u1", "granted");
    daemon.agrees();

    server.rename(&dn(1), "uid=renamed");
    wait_for_probe(&daemon, "renamed", "held");
    daemon.agrees();

    move_to(&server, "uid=renamed", PEOPLE, OUT);
    wait_for_probe(&daemon, "renamed", "removed");
    daemon.agrees();
    move_to(&server, "uid=renamed", OUT, PEOPLE);
    wait_for_probe(&daemon, "renamed", "held");
    daemon.agrees();

    set(&server, &dn(3), "employeeType", "left");
    wait_for_probe(&daemon, "u3", "removed");
    daemon.agrees();
    set(&server, &dn(3), "employeeType", "back");
    wait_for_probe(&daemon, "u3", "granted");
    daemon.agrees();

    daemon.expect("u2", "granted");
    server.delete(&dn(2));
    wait_for_probe(&daemon, "u2", "removed");
    let seats = daemon.seats_used();
    server.add(&person(2));
    // Another person of the same name, who has to take a seat of their own.
    wait_for_probe(&daemon, "u2", "granted");
    daemon.expect("u2", "granted");
    assert_eq!(daemon.seats_used(), seats + 1);
    daemon.agrees();
}

#[test]
fn what_changed_while_the_daemon_was_down_is_found() {
    let (server, mut daemon) = following(20, &filtered());
    for user in ["u1", "u2", "u4"] {
        daemon.expect(user, "granted");
    }
    daemon.terminate();
    server.add(&person(100));
    server.lock(&dn(1));
    server.delete(&dn(2));
    server.add(&person(2));
    // Neither of these is told since a cookie.
    set(&server, &dn(3), "employeeType", "left");
    move_to(&server, "uid=u4", PEOPLE, &format!("ou=sales,{PEOPLE}"));
    server.rename(&format!("ou=sales,{PEOPLE}"), "ou=service");
    move_to(&server, "uid=u5", PEOPLE, OUT);
    set(&server, &dn(6), "mail", "six@example.org");
    server.modify(&format!("dn: {}\nchangetype: modify\ndelete: mail\n", dn(7)));
    daemon.restart();
    wait_until_following(&daemon);
    for (user, decision) in [
        ("u100", "granted"),
        ("u1", "disabled"),
        ("u2", "granted"),
        ("u3", "removed"),
        ("u4", "held"),
        ("u5", "removed"),
        ("six@example.org", "granted"),
        ("u7@example.org", "granted"),
    ] {
        assert_eq!(daemon.probe(user), decision, "{user}");
    }
    assert!(daemon.explain("u4")["dn"].as_str().is_some_and(|dn| dn.contains("ou=service")));
    daemon.agrees();

    // The whole unit leaves: not one of its people is told.
    daemon.terminate();
    move_to(&server, "ou=service", PEOPLE, OUT);
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u4"), "removed");
    daemon.agrees();

    daemon.terminate();
    move_to(&server, "ou=service", OUT, PEOPLE);
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u4"), "held");
    daemon.agrees();
}

#[test]
fn a_burst_arrives() {
    let (server, daemon) = following(150, &no_brake("ldap"));
    server.add(&people(1000..1300));
    users(&daemon, 450);
    daemon.agrees();
    delete_all(&server, 0..120);
    users(&daemon, 330);
    daemon.agrees();
}

#[test]
fn a_burst_while_the_daemon_is_down_loses_no_deletion() {
    let (server, mut daemon) = following(150, &no_brake("ldap"));
    daemon.terminate();
    delete_all(&server, 0..120);
    server.add(&people(1000..1300));
    daemon.restart();
    wait_until_following(&daemon);
    users(&daemon, 330);
    daemon.agrees();
}

#[test]
fn a_burst_of_deletions_is_held() {
    let (server, mut daemon) = following(150, "");
    daemon.terminate();
    delete_all(&server, 0..120);
    daemon.restart();
    daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    users(&daemon, 150);
    let report = daemon.approve("corp").unwrap();
    assert_eq!(report["removed"], 120, "{report}");
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_restart_reads_ids_and_what_changed() {
    let (server, mut daemon) = following(300, "");
    set(&server, "cn=config", "nsslapd-accesslog-logbuffering", "off");
    let log = server.search("cn=config", "(objectClass=nsslapdConfig)", &["nsslapd-accesslog"]);
    let log = log.lines().find_map(|line| line.strip_prefix("nsslapd-accesslog: ")).unwrap().to_owned();
    daemon.terminate();
    let before = std::fs::read_to_string(&log).unwrap().len();
    for number in 0..5 {
        set(&server, &dn(number), "mail", &format!("new{number}@example.org"));
    }
    daemon.restart();
    wait_until_following(&daemon);
    let log = std::fs::read_to_string(&log).unwrap()[before..].to_owned();
    assert_eq!(log.matches("attrs=\"nsUniqueId\"").count(), 1, "one list of ids: {log}");
    let read = log.lines().find(|line| line.contains("(nsUniqueId=")).expect("the changed are read");
    assert_eq!(read.matches("(nsUniqueId=").count(), 5, "{read}");
    daemon.agrees();
}

#[test]
fn a_server_that_dies_and_comes_back_is_followed_again() {
    let (mut server, daemon) = following(50, "");
    daemon.expect("u1", "granted");
    server.kill();
    daemon.wait_for("the loss to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    daemon.expect("u1", "held");
    server.restart();
    server.add(&person(500));
    server.delete(&dn(9));
    wait_until_following(&daemon);
    users(&daemon, 50);
    assert_eq!(daemon.probe("u9"), "removed");
    daemon.agrees();
}

#[test]
fn a_hung_server_is_noticed() {
    let (server, daemon) = following(5, "");
    server.stop();
    let noticed = Instant::now();
    daemon.wait_for("the silence to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    assert!(noticed.elapsed() < Duration::from_secs(31), "{:?}", noticed.elapsed());
    server.resume();
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_trimmed_changelog_is_noticed() {
    let (mut server, mut daemon) = following(20, &no_brake("ldap"));
    daemon.terminate();
    set(&server, PLUGIN, "nsslapd-changelogmaxage", "1s");
    set(&server, PLUGIN, "nsslapd-changelog-trim-interval", "1");
    set(&server, &dn(1), "mail", "one@example.org");
    for number in 2..6 {
        server.lock(&dn(number));
    }
    let before: u64 = number(&server, "lastChangeNumber");
    server.restart();
    wait_for("the changelog to be trimmed", || {
        // It keeps the last one, so there has to be another.
        set(&server, &dn(10), "description", "Changed");
        std::thread::sleep(Duration::from_millis(500));
        (number(&server, "firstChangeNumber") >= before).then_some(())
    });
    daemon.restart();
    daemon.wait_for_log(&["has to be read from the beginning"]);
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("one@example.org"), "granted");
    assert_eq!(daemon.probe("u3"), "disabled");
    daemon.agrees();
}

fn number(server: &Ds389, attribute: &str) -> u64 {
    server.attribute("", attribute).unwrap().parse().unwrap()
}

#[test]
fn a_changelog_that_does_not_cover_the_base_is_told_and_not_relied_on() {
    let (mut server, mut daemon) = following(10, "");
    daemon.terminate();
    set(&server, PLUGIN, "nsslapd-include-suffix", "cn=dns,dc=example,dc=org");
    server.modify(&format!(
        "dn: {PLUGIN}\nchangetype: modify\nadd: aci\naci: (targetattr=\"*\")(version 3.0; acl \"the reader\"; \
         allow (read, search, compare) userdn=\"ldap:///{}\";)\n",
        server.bind_dn()
    ));
    server.restart();
    set(&server, &dn(1), "mail", "one@example.org");
    let checked = daemon.command(&["check", "--connect"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.contains(&format!("the changelog records only cn=dns,dc=example,dc=org, and not {PEOPLE}")),
        "{checked}"
    );
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("one@example.org"), "granted");
    let warning = directory(&daemon.status(), "corp")["warning"].clone();
    assert!(warning.as_str().unwrap().starts_with("the changelog records only cn=dns"), "{warning}");
    daemon.agrees();
    // What comes by itself does not depend on it.
    set(&server, &dn(2), "mail", "two@example.org");
    wait_for_probe(&daemon, "two@example.org", "granted");
    daemon.agrees();
}

/// Where the search behind a refresh fails, the server says nothing, for ever.
#[test]
fn a_server_whose_limits_cut_it_short_is_swept_until_they_are_lifted() {
    let server = server(30);
    set(&server, server.bind_dn(), "nsSizeLimit", "10");
    let keys = "sync = \"auto\"\npage_size = 7\npoll_every = \"1s\"\n";
    let daemon = Daemon::start(settings(&server, 5, keys));
    users(&daemon, 30);
    let status = daemon.wait_for("sweeps", |status| directory(status, "corp")["last_error"] == Value::Null);
    let corp = directory(&status, "corp");
    assert_eq!(corp["mechanism"], "sweep", "{corp}");
    assert_eq!(corp["mechanism_reason"], "the server's size limit leaves no room for syncrepl");
    let warning = "everything is read at each poll, since the server's size limit leaves no room for syncrepl; \
                   lift nsSizeLimit and nsLookThroughLimit of the bind user";
    assert!(corp["warning"].as_str().unwrap().starts_with(warning), "{corp}");
    assert!(output(&daemon, &["status"]).contains(&format!("corp: {warning}")));
    assert!(output(&daemon, &["check", "--connect"]).contains("the server stopped after 10 entries"));
    daemon.wait_for_log(&["sync_failed", "the server stopped after 10 entries"]);
    daemon.wait_for_log(&["WARN", warning]);
    server.lock(&dn(1));
    wait_for_probe(&daemon, "u1", "disabled");
    daemon.agrees();
    assert_eq!(daemon.log().matches(warning).count(), 1, "it is said once: {}", daemon.log());

    set(&server, server.bind_dn(), "nsSizeLimit", "-1");
    daemon.api("POST", "/v1/directories/corp/sync?full=true");
    wait_until_following(&daemon);
    let status = daemon.status();
    let corp = directory(&status, "corp");
    assert_eq!(corp["mechanism"], "content-sync");
    assert_eq!((&corp["mechanism_reason"], &corp["warning"]), (&"the server offers it".into(), &Value::Null));
    daemon.agrees();

    // Only a refresh from nothing needs the limits lifted.
    set(&server, server.bind_dn(), "nsSizeLimit", "10");
    server.unlock(&dn(1));
    wait_for_probe(&daemon, "u1", "granted");
    daemon.sync("corp").unwrap();
    wait_until_following(&daemon);
    assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "content-sync");
    daemon.agrees();
}

/// A base that does not exist makes a refresh fall silent as well, and is said to be what it is.
#[test]
fn a_base_that_does_not_exist_is_named() {
    let server = server(5);
    let mut settings = settings(&server, 5, "sync = \"auto\"\n");
    settings.tables = settings.tables.replace(server.base_dn(), "ou=nobody,dc=example,dc=org");
    let daemon = Daemon::launch(&settings);
    daemon.wait_for_log(&["sync_failed", "the base ou=nobody,dc=example,dc=org does not exist"]);
    let status = daemon.wait_for("backoff", |status| directory(status, "corp")["state"] == "backoff");
    assert_eq!(directory(&status, "corp")["warning"], Value::Null);
}

fn output(daemon: &Daemon, arguments: &[&str]) -> String {
    String::from_utf8(daemon.command(arguments).stdout).unwrap()
}

#[test]
fn what_no_change_tells_is_found_by_listing_ids() {
    let (server, daemon) = following(10, "poll_every = \"2s\"\n");
    move_to(&server, "uid=u1", PEOPLE, &format!("ou=sales,{PEOPLE}"));
    wait_for("the move", || is_below(&daemon, "ou=sales").then_some(()));
    server.rename(&format!("ou=sales,{PEOPLE}"), "ou=service");
    wait_for("the new name of the unit", || is_below(&daemon, "ou=service").then_some(()));
    move_to(&server, "ou=service", PEOPLE, OUT);
    wait_for_probe(&daemon, "u1", "removed");
    daemon.agrees();
    assert!(!daemon.log().contains("has to be read from the beginning"), "{}", daemon.log());
}

#[test]
fn a_full_sync_reads_everything_again() {
    let (server, daemon) = following(10, "full_sync_every = \"2s\"\n");
    server.add(&person(700));
    users(&daemon, 11);
    let attempt = |status: &Value| directory(status, "corp")["last_attempt"].clone();
    let first = attempt(&daemon.status());
    daemon.wait_for("the next full sync", |status| attempt(status) != first);
    wait_until_following(&daemon);
    daemon.agrees();
}

/// FreeIPA's own changelog does not have the users, and the bind user can't see whether this one has.
#[test]
fn a_free_ipa_that_hides_its_changelog_is_read_again() {
    let keys = "preset = \"freeipa\"\nfilter = \"(objectClass=inetOrgPerson)\"\nsync = \"syncrepl\"\n";
    let (server, mut daemon) = following(10, keys);
    let status = daemon.status();
    assert_eq!(directory(&status, "corp")["mechanism"], "content-sync");
    assert_eq!(directory(&status, "corp")["mechanism_reason"], "the configuration says so");
    daemon.terminate();
    let checked = daemon.command(&["check", "--connect"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("FreeIPA's changelog records only cn=dns unless told otherwise"), "{checked}");
    server.lock(&dn(1));
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u1"), "disabled");
    daemon.agrees();
}

fn is_below(daemon: &Daemon, unit: &str) -> bool {
    let user: Value = daemon.explain("u1");
    user["dn"].as_str().is_some_and(|dn| dn.contains(unit))
}
