//! Changes are polled from a real Samba domain controller by DirSync. After each case the mirror equals what a
//! fresh sweep gives.

use serde_json::Value;

use crate::support::daemon::{Daemon, Settings, directory, no_brake};
use crate::support::samba::{Options, PEOPLE, ROOT, SambaAd, dn, people, person};
use crate::support::wait_for;

pub(crate) const OUTSIDE: &str = "OU=Outside,DC=ad,DC=example,DC=org";

/// The directory `corp`, asked every second.
pub(crate) fn corp(samba: &SambaAd, base: &str, keys: &str) -> Settings {
    let (url, bind_dn, password) = (samba.ldaps_url(), samba.bind_dn(), samba.password_file());
    let poll = if keys.contains("poll_every = ") { "" } else { "poll_every = \"1s\"\n" };
    let brake = if keys.contains("[directory.ldap.brake]") { String::new() } else { no_brake("ldap") };
    let tables = format!(
        "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [\"{url}\"]\n\
         base_dn = \"{base}\"\nbind_dn = \"{bind_dn}\"\nbind_password_file = {password:?}\n\
         {poll}{keys}\n[directory.ldap.tls]\nca_file = {:?}\n{brake}",
        samba.ca_file(),
    );
    Settings { seats: 5, tables, ..Settings::default() }
}

/// The same without encryption, so that the test can tamper with what is said.
pub(crate) fn plain(samba: &SambaAd, keys: &str) -> Settings {
    let mut settings = corp(samba, PEOPLE, keys);
    let ca_file = format!("[directory.ldap.tls]\nca_file = {:?}\n", samba.ca_file());
    settings.tables = settings.tables.replace(&samba.ldaps_url(), &samba.url()).replace(&ca_file, "");
    settings
}

/// The same as the administrator, who may see deleted entries.
pub(crate) fn as_administrator(samba: &SambaAd, mut settings: Settings) -> Settings {
    let (dn, file) = samba.administrator();
    let ordinary = samba.password_file();
    settings.tables = settings.tables.replace(samba.bind_dn(), dn);
    settings.tables = settings.tables.replace(ordinary.to_str().unwrap(), file.to_str().unwrap());
    settings
}

pub(crate) fn unit(dn: &str) -> String {
    format!("dn: {dn}\nobjectClass: organizationalUnit\n\n")
}

fn start(count: u32, keys: &str) -> (SambaAd, Daemon) {
    let samba = SambaAd::start(Options { data: unit(OUTSIDE) + &people(0..count), ..Options::default() });
    let daemon = Daemon::start(corp(&samba, PEOPLE, keys));
    (samba, daemon)
}

#[track_caller]
pub(crate) fn becomes(daemon: &Daemon, user: &str, decision: &str) {
    wait_for(&format!("{user} to be {decision}"), || (daemon.probe(user) == decision).then_some(()));
}

pub(crate) fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| status["users"]["total"] == count);
}

/// What each complete sync saw, as the log says.
pub(crate) fn seen(daemon: &Daemon) -> Vec<u64> {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains("event=sync_completed"));
    let count = |line: &str| line.split("seen=").nth(1)?.split(' ').next()?.parse().ok();
    lines.filter_map(count).collect()
}

/// The mechanism, and why it was chosen.
#[track_caller]
pub(crate) fn mechanism(daemon: &Daemon) -> (String, String) {
    let status = daemon.status();
    let text = |name: &str| directory(&status, "corp")[name].as_str().unwrap().to_owned();
    (text("mechanism"), text("mechanism_reason"))
}

/// Everything was read no more often than at the beginning.
#[track_caller]
pub(crate) fn was_not_read_again(daemon: &Daemon) {
    let log = daemon.log();
    assert!(
        !log.contains("has to be read from the beginning") && !log.contains("event=sync_failed"),
        "{log}"
    );
}

pub(crate) fn every_kind_of_change_arrives(samba: &SambaAd, daemon: &Daemon) {
    daemon.expect("u1", "granted");

    samba.add(&person(100));
    becomes(daemon, "u100", "granted");
    daemon.agrees();

    samba.replace(&dn(1), "mail", "other@example.org");
    becomes(daemon, "other@example.org", "held");
    samba.remove(&dn(1), "mail");
    becomes(daemon, "other@example.org", "unknown_user");
    daemon.agrees();

    samba.disable(&dn(1));
    becomes(daemon, "u1", "disabled");
    assert_eq!(daemon.seats_used(), 0);
    samba.enable(&dn(1));
    becomes(daemon, "u1", "granted");
    daemon.agrees();
    daemon.expect("u1", "granted");

    samba.replace(&dn(1), "sAMAccountName", "login1");
    samba.rename(&dn(1), "CN=Renamed");
    becomes(daemon, "login1", "held");
    daemon.agrees();

    samba.move_to(&format!("CN=Renamed,{PEOPLE}"), OUTSIDE);
    becomes(daemon, "login1", "removed");
    daemon.agrees();
    samba.move_to(&format!("CN=Renamed,{OUTSIDE}"), PEOPLE);
    becomes(daemon, "login1", "held");
    daemon.agrees();

    samba.delete(&dn(2));
    becomes(daemon, "u2", "removed");
    daemon.agrees();
    samba.undelete("u2", &dn(2));
    becomes(daemon, "u2", "granted");
    daemon.agrees();

    daemon.expect("u3", "granted");
    let before = samba.guid(&dn(3));
    samba.delete(&dn(3));
    becomes(daemon, "u3", "removed");
    samba.add(&person(3));
    assert_ne!(samba.guid(&dn(3)), before);
    becomes(daemon, "u3", "granted");
    daemon.agrees();
}

#[test]
fn every_kind_of_change_arrives_with_the_next_poll() {
    let (samba, daemon) = start(10, "");
    assert_eq!(mechanism(&daemon), ("dirsync".to_owned(), "the server offers it".to_owned()));
    every_kind_of_change_arrives(&samba, &daemon);
    was_not_read_again(&daemon);
}

#[test]
fn it_does_with_the_right_to_replicate_too() {
    let samba = SambaAd::start(Options { data: unit(OUTSIDE) + &people(0..10), ..Options::default() });
    samba.allow_replication();
    let daemon = Daemon::start(corp(&samba, PEOPLE, "sync = \"dirsync\"\n"));
    assert_eq!(mechanism(&daemon), ("dirsync".to_owned(), "the configuration says so".to_owned()));
    every_kind_of_change_arrives(&samba, &daemon);
    was_not_read_again(&daemon);
}

#[test]
fn an_entry_leaves_the_filter_and_comes_back() {
    let (samba, daemon) = start(5, "filter = \"(&(objectClass=user)(!(department=Guests)))\"\n");
    daemon.expect("u1", "granted");
    samba.replace(&dn(1), "department", "Guests");
    becomes(&daemon, "u1", "removed");
    daemon.agrees();
    samba.replace(&dn(1), "department", "Staff");
    becomes(&daemon, "u1", "held");
    daemon.agrees();
}

#[test]
fn members_of_a_group_come_and_go() {
    let group = format!("CN=Mail,{PEOPLE}");
    let members = |change: &str, number| {
        format!("dn: {group}\nchangetype: modify\n{change}: member\nmember: {}\n", dn(number))
    };
    let data = unit(OUTSIDE)
        + &people(0..5)
        + &format!("dn: {group}\nobjectClass: group\nsAMAccountName: Mail\nmember: {}\n\n", dn(0));
    let samba = SambaAd::start(Options { data, ..Options::default() });
    let filter = format!("filter = \"(&(objectClass=user)(memberOf={group}))\"\n");
    let daemon = Daemon::start(corp(&samba, PEOPLE, &filter));
    assert_eq!((daemon.probe("u0"), daemon.probe("u1")), ("granted".to_owned(), "unknown_user".to_owned()));
    samba.modify(&members("add", 1));
    becomes(&daemon, "u1", "granted");
    daemon.agrees();
    samba.modify(&members("delete", 0));
    becomes(&daemon, "u0", "removed");
    daemon.agrees();
}

#[test]
fn units_above_people_are_renamed_and_moved() {
    let unit_a = format!("OU=A,{PEOPLE}");
    let below = person(50).replace(PEOPLE, &unit_a);
    let data = unit(OUTSIDE) + &people(0..3) + &unit(&unit_a) + &below;
    let samba = SambaAd::start(Options { data, ..Options::default() });
    let daemon = Daemon::start(corp(&samba, PEOPLE, ""));
    daemon.expect("u50", "granted");

    samba.rename(&unit_a, "OU=B");
    daemon.agrees();
    daemon.expect("u50", "held");

    samba.move_to(&format!("OU=B,{PEOPLE}"), OUTSIDE);
    becomes(&daemon, "u50", "removed");
    daemon.agrees();
    samba.move_to(&format!("OU=B,{OUTSIDE}"), PEOPLE);
    becomes(&daemon, "u50", "held");
    daemon.agrees();
    was_not_read_again(&daemon);
}

#[test]
fn a_burst_of_changes_arrives() {
    let (samba, daemon) = start(10, "");
    samba.add(&people(1000..1500));
    users(&daemon, 510);
    daemon.agrees();
    was_not_read_again(&daemon);
}

#[test]
fn what_changed_while_the_daemon_was_down_is_all_that_is_told() {
    // More than one page.
    let samba = SambaAd::start(Options { data: people(0..1100), ..Options::default() });
    let mut daemon = Daemon::start(corp(&samba, PEOPLE, ""));
    daemon.expect("u1", "granted");
    wait_for("the first sync in the log", || (seen(&daemon).first() == Some(&1100)).then_some(()));
    daemon.terminate();
    samba.add(&people(2000..2003));
    for number in 3..9 {
        samba.replace(&dn(number), "mail", &format!("new{number}@example.org"));
    }
    samba.delete(&dn(500));
    daemon.restart();
    becomes(&daemon, "u2000", "granted");
    assert_eq!(daemon.probe("new3@example.org"), "granted");
    // Ten changes: nine entries were read again, and not eleven hundred.
    let told = wait_for("a sync in the log", || seen(&daemon).first().copied());
    assert_eq!(told, 9, "{}", daemon.log());
    // The deletion is noticed when the ids are compared, which takes its time in a larger directory.
    becomes(&daemon, "u500", "removed");
    daemon.agrees();
    was_not_read_again(&daemon);
}

#[test]
fn a_server_that_dies_and_comes_back_is_polled_again() {
    let (mut samba, daemon) = start(10, "");
    daemon.expect("u1", "granted");
    samba.kill();
    daemon.wait_for("the loss to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    daemon.expect("u1", "held");
    samba.restart();
    samba.add(&person(500));
    samba.delete(&dn(9));
    becomes(&daemon, "u500", "granted");
    becomes(&daemon, "u9", "removed");
    daemon.agrees();
    assert!(!daemon.log().contains("has to be read from the beginning"), "{}", daemon.log());
}

#[test]
fn a_base_that_is_the_root_has_more_than_people() {
    let samba = SambaAd::start(Options { data: people(0..3), ..Options::default() });
    let daemon = Daemon::start(corp(&samba, ROOT, ""));
    let before = seen(&daemon).len();
    samba.add(&person(100));
    becomes(&daemon, "u100", "granted");
    wait_for("another poll", || (seen(&daemon).len() > before + 2).then_some(()));
    daemon.agrees();
    assert!(!daemon.log().contains("event=sync_failed"), "{}", daemon.log());
}

#[test]
fn nothing_is_compared_while_nothing_is_written() {
    let (_samba, daemon) = start(10, "");
    wait_for("some polls", || (seen(&daemon).len() > 3).then_some(()));
    assert_eq!(seen(&daemon)[..3], [10, 0, 0]);
    let report: Value = daemon.sync("corp").unwrap();
    assert_eq!(report["seen"], 0, "{report}");
}
