//! Changes come by themselves from a real 389 Directory Server, by Content Synchronization. After each case
//! the mirror equals what a fresh sweep gives.

use std::collections::HashSet;
use std::time::Instant;

use serde_json::Value;

use crate::failover::{LEEWAY, NOTICED_WITHIN};
use crate::reconcile::{drift, reconciled, tamper};
use crate::support::daemon::{Daemon, Settings, directory, no_brake};
use crate::support::ds389::{Ds389, Options, dn, people, person};
use crate::support::relay::Relay;
use crate::support::slapd::PEOPLE;
use crate::support::wait_for;

const OUT: &str = "ou=out,dc=example,dc=org";

pub(crate) fn server(count: u32) -> Ds389 {
    server_with(count, Options::default())
}

/// The same with other options.
pub(crate) fn server_with(count: u32, options: Options) -> Ds389 {
    let units = format!(
        "dn: {OUT}\nobjectClass: organizationalUnit\nou: out\n\n\
         dn: ou=sales,{PEOPLE}\nobjectClass: organizationalUnit\nou: sales\n\n"
    );
    let data = options.data + &units + &people(0..count);
    Ds389::start(Options { data, content_sync: true, ..options })
}

/// The directory `corp` at the server.
pub(crate) fn settings(server: &Ds389, seats: u64, keys: &str) -> Settings {
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
pub(crate) fn following(count: u32, keys: &str) -> (Ds389, Daemon) {
    let server = server(count);
    let daemon = Daemon::start(settings(&server, 5, keys));
    wait_until_following(&daemon);
    (server, daemon)
}

pub(crate) fn wait_until_following(daemon: &Daemon) {
    daemon.wait_for("changes to come by themselves", |status| {
        directory(status, "corp")["state"] == "following"
    });
}

pub(crate) fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| status["users"]["total"] == count);
}

#[track_caller]
pub(crate) fn wait_for_probe(daemon: &Daemon, user: &str, decision: &str) {
    wait_for(&format!("{user} to be {decision}"), || (daemon.probe(user) == decision).then_some(()));
}

pub(crate) fn set(server: &Ds389, dn: &str, attribute: &str, value: &str) {
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
    let changes: String = (120..150)
        .map(|number| {
            format!("dn: {}\nchangetype: modify\nreplace: mail\nmail: m{number}@example.org\n\n", dn(number))
        })
        .collect();
    server.modify(&changes);
    server.add(&people(1000..1350));
    delete_all(&server, 0..120);
    users(&daemon, 380);
    wait_for_probe(&daemon, "m149@example.org", "granted");
    daemon.agrees();
}

#[test]
fn a_burst_while_the_daemon_is_down_loses_no_deletion() {
    let (server, mut daemon) = following(150, &no_brake("ldap"));
    daemon.terminate();
    delete_all(&server, 0..120);
    server.add(&people(1000..1380));
    daemon.restart();
    wait_until_following(&daemon);
    users(&daemon, 410);
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

/// 512: a line for each entry that is sent.
const LOG_ENTRIES: &str = "768";

#[test]
fn a_restart_reads_ids_and_what_changed() {
    let (server, mut daemon) = following(2000, "");
    daemon.terminate();
    set(&server, "cn=config", "nsslapd-accesslog-logbuffering", "off");
    set(&server, "cn=config", "nsslapd-accesslog-level", LOG_ENTRIES);
    let log = server.attribute("cn=config", "nsslapd-accesslog").unwrap();
    let (read, listed) = sent(&log, || {
        for number in 0..10 {
            set(&server, &dn(number), "mail", &format!("new{number}@example.org"));
        }
        daemon.restart();
        wait_until_following(&daemon);
    });
    assert_eq!(daemon.probe("new9@example.org"), "granted");
    // Once by the hint and once to have all of their attributes; and every id.
    assert!(read <= 20 && listed == 2000, "{read} people were read, and {listed} ids");

    // Without a change only ids are listed.
    let (read, listed) = sent(&log, || {
        daemon.sync("corp").unwrap();
        wait_until_following(&daemon);
    });
    assert_eq!((read, listed), (0, 2000));
    set(&server, "cn=config", "nsslapd-accesslog-level", "256");
    daemon.agrees();
}

/// The people whose attributes a server sends meanwhile, and those of whom it sends the id alone.
fn sent(log: &str, meanwhile: impl FnOnce()) -> (usize, usize) {
    let before = std::fs::read_to_string(log).unwrap().len();
    meanwhile();
    let log = std::fs::read_to_string(log).unwrap()[before..].to_owned();
    let operation =
        |line: &str| line.split_once("conn=").map(|(_, rest)| rest.split(' ').take(2).collect::<String>());
    let lists: HashSet<_> =
        log.lines().filter(|line| line.contains("attrs=\"nsUniqueId\"")).map(operation).collect();
    let (listed, read): (Vec<&str>, Vec<&str>) = log
        .lines()
        .filter(|line| line.contains(" ENTRY dn=\"uid="))
        .partition(|line| lists.contains(&operation(line)));
    (read.len(), listed.len())
}

#[test]
fn a_server_that_dies_and_comes_back_is_followed_again() {
    let mut server = server(50);
    let relay = Relay::start(&server.url());
    let daemon = Daemon::start(behind(&relay, &server, &no_brake("ldap")));
    wait_until_following(&daemon);
    daemon.expect("u1", "granted");
    move_to(&server, "uid=u2", PEOPLE, &format!("ou=sales,{PEOPLE}"));
    wait_for("the move", || is_below(&daemon, "u2", "ou=sales").then_some(()));

    // In the middle of a burst, some of which it has told.
    relay.cut_after(5_000);
    server.add(&people(1000..1060));
    wait_for("the middle of the burst", || relay.is_cut().then_some(()));
    server.kill();
    daemon.wait_for("the loss to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    daemon.expect("u1", "held");
    server.restart();
    server.delete(&dn(9));
    // No change is told of those below.
    server.rename(&format!("ou=sales,{PEOPLE}"), "ou=service");
    relay.repair();
    wait_until_following(&daemon);
    users(&daemon, 109);
    assert_eq!(daemon.probe("u9"), "removed");
    assert!(is_below(&daemon, "u2", "ou=service"));
    daemon.expect("u1", "held");
    daemon.agrees();
}

#[test]
fn a_server_that_dies_in_the_middle_of_a_refresh_removes_nobody() {
    let mut server = server(1000);
    let relay = Relay::start(&server.url());
    let daemon = Daemon::launch(&behind(&relay, &server, &no_brake("ldap")));
    let wait_until_cut = || {
        wait_for("the middle of the refresh", || relay.is_cut().then_some(()));
        assert_eq!(directory(&daemon.status(), "corp")["state"], "refreshing");
    };
    // Of everything, then of what changed, then of the list of ids.
    wait_until_following(&daemon);
    daemon.expect("u1", "granted");
    for bytes in [100_000, 1_500, 40_000] {
        let full = bytes == 100_000;
        daemon.wait_for("rest", |status| directory(status, "corp")["state"] == "following");
        relay.cut_after(bytes);
        daemon.api("POST", &format!("/v1/directories/corp/sync?full={full}"));
        wait_until_cut();
        daemon.expect("u1", "held");
        server.kill();
        daemon.wait_for("the loss", |status| directory(status, "corp")["state"] == "backoff");
        server.restart();
        relay.repair();
        wait_until_following(&daemon);
        let status = daemon.status();
        assert_eq!((&status["users"]["total"], &status["users"]["tombstoned"]), (&1000.into(), &0.into()));
        daemon.agrees();
    }
    assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "content-sync", "it is no refusal");
}

/// The directory `corp` behind a relay.
fn behind(relay: &Relay, server: &Ds389, keys: &str) -> Settings {
    let mut settings = settings(server, 5, keys);
    settings.tables = settings.tables.replace(&server.url(), &relay.url());
    settings
}

#[test]
fn a_server_restored_from_an_older_copy_is_read_again() {
    let mut server = server(20);
    server.keep_copy();
    let mut daemon = Daemon::start(settings(&server, 5, &no_brake("ldap")));
    wait_until_following(&daemon);
    daemon.expect("u1", "granted");
    let change = |server: &Ds389| {
        server.add(&person(600));
        server.delete(&dn(3));
        set(server, &dn(4), "mail", "four@example.org");
        server.lock(&dn(5));
        set(server, &dn(6), "employeeType", "left");
    };
    change(&server);
    users(&daemon, 20);
    wait_for_probe(&daemon, "u5", "disabled");
    server.restore_copy();
    for (user, decision) in [("u600", "removed"), ("u3", "granted"), ("u5", "granted")] {
        wait_for_probe(&daemon, user, decision);
    }
    wait_until_following(&daemon);
    daemon.expect("u1", "held");
    daemon.agrees();

    change(&server);
    wait_for_probe(&daemon, "u5", "disabled");
    daemon.terminate();
    server.restore_copy();
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("four@example.org"), "unknown_user");
    daemon.agrees();
}

/// A huge value, and values that are no text: the server checks the syntax only where it is told to.
#[test]
fn strange_values_are_read_by_every_way() {
    let (server, mut daemon) = following(3, "");
    set(&server, "cn=config", "nsslapd-syntaxcheck", "off");
    let strange = |number: u32| {
        let huge = "x".repeat(200_000);
        format!(
            "dn: {}\nobjectClass: inetOrgPerson\nuid: u{number}\ncn:: //79\nsn: Person\ndisplayName:: //79/w==\n\
             mail: u{number}@example.org\nmail: {huge}@example.org\n\
             description:\njpegPhoto:: {}\nuserCertificate;binary:: AP8A/wD/\n\n",
            dn(number),
            "/9j/".repeat(50_000),
        )
    };
    server.add(&strange(100));
    wait_for_probe(&daemon, "u100", "granted");
    daemon.agrees();
    assert_eq!(daemon.probe("u100@example.org"), "granted");
    // Every attribute comes with the hint.
    daemon.terminate();
    server.add(&strange(101));
    set(&server, &dn(100), "description", "Changed");
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u101@example.org"), "granted");
    daemon.agrees();
    daemon.api("POST", "/v1/directories/corp/sync?full=true&wait=true");
    daemon.agrees();
}

#[test]
fn an_emptied_directory_is_held_and_a_base_that_vanished_is_an_error() {
    let (server, mut daemon) = following(20, "");
    daemon.expect("u15", "granted");
    daemon.terminate();
    server.rename(PEOPLE, "ou=elsewhere");
    daemon.restart();
    let is_named = |status: &Value| {
        directory(status, "corp")["last_error"].as_str().is_some_and(|error| error.contains("does not exist"))
    };
    daemon.wait_for("the error", is_named);
    users(&daemon, 20);
    server.rename("ou=elsewhere,dc=example,dc=org", "ou=people");
    wait_until_following(&daemon);
    daemon.agrees();

    delete_all(&server, 0..20);
    daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    daemon.wait_for_log(&["event=brake_tripped", "directory=corp"]);
    daemon.expect("u15", "held");
    daemon.terminate();
    daemon.restart();
    daemon.wait_for("the brake", |status| directory(status, "corp")["held"]["empty"] == true);
    // How many went before depends on how many came in one transaction.
    assert!(daemon.status()["users"]["total"].as_u64().unwrap() >= 17);
    daemon.approve("corp").unwrap();
    users(&daemon, 0);
    daemon.agrees();
}

#[test]
fn a_hung_server_is_noticed() {
    let (server, daemon) = following(5, "");
    server.stop();
    let noticed = Instant::now();
    daemon.wait_for("the silence to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    assert!(noticed.elapsed() < NOTICED_WITHIN + LEEWAY, "{:?}", noticed.elapsed());
    server.resume();
    wait_until_following(&daemon);
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
fn what_stands_in_the_way_is_named() {
    let server = server(5);
    let tables = settings(&server, 5, "sync = \"auto\"\n").tables;
    let nowhere = tables.replace(server.base_dn(), "ou=nobody,dc=example,dc=org");
    let daemon = Daemon::launch(&Settings { tables: nowhere, ..Settings::default() });
    daemon.wait_for_log(&["sync_failed", "the base ou=nobody,dc=example,dc=org does not exist"]);
    let status = daemon.wait_for("backoff", |status| directory(status, "corp")["state"] == "backoff");
    assert_eq!(directory(&status, "corp")["warning"], Value::Null);

    // Nobody may synchronize anonymously, but anybody may search.
    let anonymous = tables.lines().filter(|line| !line.starts_with("bind_")).collect::<Vec<_>>().join("\n");
    let daemon = Daemon::start(Settings { tables: anonymous, ..Settings::default() });
    users(&daemon, 5);
    let status = daemon.status();
    let corp = directory(&status, "corp");
    assert_eq!(
        (&corp["mechanism"], &corp["mechanism_reason"]),
        (&"sweep".into(), &"the server refuses syncrepl".into())
    );
    let advice = "let the bind user read the entry oid=1.3.6.1.4.1.4203.1.9.1.1,cn=features,cn=config";
    assert!(corp["warning"].as_str().unwrap().contains(advice), "{corp}");
}

pub(crate) fn output(daemon: &Daemon, arguments: &[&str]) -> String {
    String::from_utf8(daemon.command(arguments).stdout).unwrap()
}

#[test]
fn what_no_change_tells_is_found_by_listing_ids() {
    let (server, daemon) = following(10, "poll_every = \"2s\"\n");
    move_to(&server, "uid=u1", PEOPLE, &format!("ou=sales,{PEOPLE}"));
    wait_for("the move", || is_below(&daemon, "u1", "ou=sales").then_some(()));
    server.rename(&format!("ou=sales,{PEOPLE}"), "ou=service");
    wait_for("the new name of the unit", || is_below(&daemon, "u1", "ou=service").then_some(()));
    move_to(&server, "ou=service", PEOPLE, OUT);
    wait_for_probe(&daemon, "u1", "removed");
    daemon.agrees();
    assert!(!daemon.log().contains("has to be read from the beginning"), "{}", daemon.log());
}

#[test]
fn what_neither_changes_nor_ids_tell_is_drift() {
    let (server, mut daemon) = following(20, "");
    set(&server, &dn(3), "mail", "new3@example.org");
    wait_for_probe(&daemon, "new3@example.org", "granted");
    daemon.terminate();
    tamper(&daemon);
    daemon.restart();
    wait_until_following(&daemon);
    // The ids show who is missing and who is there too much, which is what comparing them is for.
    assert_eq!((daemon.probe("u5"), daemon.probe("ghost")), ("granted".into(), "removed".into()));
    assert_eq!(daemon.probe("new3@example.org"), "unknown_user");
    assert!(!daemon.log().contains("drift_repaired"));
    daemon.terminate();

    daemon.configure(&settings(&server, 5, "full_sync_every = \"2s\"\n"));
    daemon.restart();
    wait_for_probe(&daemon, "new3@example.org", "granted");
    let told = daemon.wait_for_log(&[" WARN ", "event=drift_repaired"]);
    assert!(told.contains("missing=0 stale=1 surplus=0"), "{told}");
    let found = reconciled(&daemon);
    assert_eq!((&found["found"], &found["total"]), (&0.into(), &1.into()));
    // The ids are compared before it, so that this is none.
    move_to(&server, "uid=u1", PEOPLE, &format!("ou=sales,{PEOPLE}"));
    server.rename(&format!("ou=sales,{PEOPLE}"), "ou=service");
    wait_for("the new name of the unit", || is_below(&daemon, "u1", "ou=service").then_some(()));
    reconciled(&daemon);
    assert_eq!(drift(&daemon.status())["total"], 1, "{}", daemon.log());
    daemon.agrees();
}

fn is_below(daemon: &Daemon, user: &str, unit: &str) -> bool {
    let user: Value = daemon.explain(user);
    user["dn"].as_str().is_some_and(|dn| dn.contains(unit))
}
