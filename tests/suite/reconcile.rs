//! Now and then the mirror is proved equal to the directory, and what no change told is repaired.

use std::fs;

use seatkeeper::domain::admission::TakeOn;
use seatkeeper::domain::name::{Name, StableId};
use seatkeeper::domain::names::Purpose;
use seatkeeper::store::{Changes, Policy, Store};
use serde_json::Value;

use crate::support::daemon::{Daemon, Settings, directory};
use crate::support::slapd::{Options, PEOPLE, Slapd, people, person};
use crate::support::wait_for;

fn provider(data: String) -> Options {
    Options {
        data,
        global: "moduleload syncprov\n".to_owned(),
        database: "overlay syncprov\nsyncprov-sessionlog 1000\nindex entryUUID,entryCSN eq\n".to_owned(),
        ..Options::default()
    }
}

fn is_following(status: &Value) -> bool {
    directory(status, "corp")["state"] == "following"
}

pub(crate) fn drift(status: &Value) -> &Value {
    &directory(status, "corp")["drift"]
}

/// Waits for a reconcile that begins from now on, and returns what it found.
#[track_caller]
pub(crate) fn reconciled(daemon: &Daemon) -> Value {
    let last = |status: &Value| drift(status)["last_reconcile"].clone();
    let mut before = last(&daemon.status());
    // The one that is under way may have looked already.
    for _ in 0..2 {
        let status = daemon.wait_for("a reconcile", |status| last(status) != before && is_following(status));
        before = last(&status);
    }
    drift(&daemon.status()).clone()
}

/// The person of this number in another place.
fn person_in(number: u32, place: &str) -> String {
    person(number).replace(PEOPLE, place)
}

fn unit(place: &str) -> String {
    let name = place.split([',', '=']).nth(1).unwrap();
    format!("dn: {place}\nobjectClass: organizationalUnit\nou: {name}\n\n")
}

#[test]
fn whole_units_that_move_are_found() {
    find_whole_units_that_move("");
}

/// Then everybody is read, and what differs is drift all the same.
#[test]
fn they_are_found_where_the_bind_user_may_not_read_stamps() {
    find_whole_units_that_move("access to attrs=entryCSN by * none\n");
}

fn find_whole_units_that_move(access: &str) {
    let (team, out) = (format!("ou=team,{PEOPLE}"), "ou=out,dc=example,dc=org".to_owned());
    let away = format!("ou=away,{out}");
    let data = [unit(&team), unit(&out), unit(&away), people(0..10)].concat()
        + &(20..23).map(|number| person_in(number, &team)).collect::<String>()
        + &(30..32).map(|number| person_in(number, &away)).collect::<String>();
    let options = provider(data);
    let slapd = Slapd::start(Options { access: access.to_owned() + &options.access, ..options });
    let daemon = Daemon::start(Settings::ldap(5, &slapd, "full_sync_every = \"1s\"\n"));
    daemon.wait_for("changes to come by themselves", is_following);
    daemon.expect("u20", "granted");
    let found = reconciled(&daemon);
    assert_eq!((&found["found"], &found["total"]), (&0.into(), &0.into()));

    // No change is told of the people below: neither that they have another DN,
    slapd.rename(&team, "ou=squad");
    let squad = format!("ou=squad,{PEOPLE}");
    let dn = format!("uid=u20,{squad}");
    wait_for("the new place", || (daemon.explain("u20")["dn"] == dn.as_str()).then_some(()));
    let told = daemon.wait_for_log(&[" WARN ", "event=drift_repaired", "directory=corp"]);
    assert!(told.contains("missing=0 stale=3 surplus=0"), "{told}");
    daemon.agrees();

    // nor that they left,
    let move_to = "changetype: moddn\nnewrdn: ou=squad\ndeleteoldrdn: 0\nnewsuperior: ";
    slapd.modify(&format!("dn: {squad}\n{move_to}{out}\n"));
    wait_for("the move out", || (daemon.probe("u20") == "removed").then_some(()));
    let told = daemon.wait_for_log(&["event=drift_repaired", "surplus=3"]);
    assert!(told.contains("missing=0 stale=0 surplus=3"), "{told}");
    daemon.agrees();

    // nor that they came.
    slapd.modify(&format!(
        "dn: {away}\nchangetype: moddn\nnewrdn: ou=away\ndeleteoldrdn: 0\nnewsuperior: {PEOPLE}\n"
    ));
    wait_for("the move in", || (daemon.probe("u30") == "granted").then_some(()));
    slapd.modify(&format!("dn: ou=squad,{out}\n{move_to}{PEOPLE}\n"));
    wait_for("the return", || (daemon.probe("u20") == "held").then_some(()));
    let found = reconciled(&daemon);
    // Three were renamed, three left, five came.
    assert_eq!((&found["found"], &found["total"]), (&0.into(), &11.into()));
    assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "syncrepl");
    daemon.agrees();
}

#[test]
fn a_reconcile_that_finds_nothing_lists_ids_and_writes_nothing() {
    let slapd = Slapd::start(provider(people(0..2000)));
    let daemon = Daemon::start(Settings::ldap(5, &slapd, "full_sync_every = \"1s\"\n"));
    daemon.wait_for("changes to come by themselves", is_following);
    reconciled(&daemon);
    let store = daemon.path("state").join("seatkeeper.redb");
    let before = fs::read(&store).unwrap();
    let found = reconciled(&daemon);
    assert!(fs::read(&store).unwrap() == before, "it wrote");
    assert_eq!((&found["found"], &found["total"]), (&0.into(), &0.into()));
    assert_eq!(directory(&daemon.status(), "corp")["seen"], 2000);
    assert!(!daemon.log().contains("drift_repaired"));
    assert!(!daemon.log().contains("has to be read from the beginning"));
}

#[test]
fn a_mirror_that_went_wrong_is_repaired() {
    let slapd = Slapd::start(provider(people(0..20)));
    let mut daemon = Daemon::start(Settings::ldap(5, &slapd, ""));
    daemon.wait_for("changes to come by themselves", is_following);
    daemon.expect("u1", "granted");
    let replace = |number: u32| {
        let change = format!("changetype: modify\nreplace: mail\nmail: new{number}@example.org\n");
        slapd.modify(&format!("dn: uid=u{number},{PEOPLE}\n{change}"));
        wait_for("the new address", || (daemon.probe(&format!("new{number}")) == "granted").then_some(()));
    };
    replace(3);
    replace(4);
    daemon.terminate();
    tamper(&daemon);

    daemon.restart();
    daemon.wait_for("changes to come by themselves", is_following);
    // What changed meanwhile is told, and nothing else.
    assert_eq!((daemon.probe("new3"), daemon.probe("u5")), ("unknown_user".into(), "removed".into()));
    daemon.terminate();

    daemon.configure(&Settings::ldap(5, &slapd, "full_sync_every = \"1s\"\n"));
    daemon.restart();
    wait_for("the repair", || (daemon.probe("new3") == "granted").then_some(()));
    let told = daemon.wait_for_log(&["event=drift_repaired"]);
    assert!(told.contains("missing=1 stale=1 surplus=1"), "{told}");
    assert_eq!((daemon.probe("u5"), daemon.probe("ghost")), ("granted".into(), "removed".into()));
    let found = reconciled(&daemon);
    assert_eq!((&found["found"], &found["total"]), (&0.into(), &3.into()));
    daemon.expect("u1", "held");
    daemon.agrees();
}

/// Makes one user stale, takes one away and adds one, with the daemon down.
pub(crate) fn tamper(daemon: &Daemon) {
    let take_on = TakeOn { login: true, delivery: false };
    let policy = Policy {
        seat_limit: Some(5),
        seatless_limit: Some(0),
        directory_limits: [].into(),
        domain_limits: [].into(),
        take_on,
        names: Default::default(),
        expired: None,
        components: Default::default(),
    };
    let (store, writer) = Store::open(&daemon.path("state").join("seatkeeper.redb"), policy).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let view = store.view();
    let id = view.directories().find(|record| record.name == "corp").unwrap().id;
    let key = |name: &str| view.find(&Name::parse(name, None).unwrap(), Purpose::Login).unwrap().unwrap();
    let mut stale = view.details(key("new3@example.org")).unwrap().unwrap().user.mapped;
    let mut ghost = stale.clone();
    stale.addresses = vec![Name::parse("old3@example.org", None).unwrap()];
    ghost.id = StableId::new(&[0xee; 16]).unwrap();
    ghost.addresses.clear();
    ghost.logins = vec![Name::parse("ghost@example.org", None).unwrap()];
    let removals = vec![key("u5@example.org")];
    let changes = Changes { upserts: vec![stale, ghost], removals, ..Changes::default() };
    runtime.block_on(store.apply(id, changes, jiff::Timestamp::now())).unwrap();
    drop((view, store));
    writer.join().unwrap();
}

#[test]
fn what_a_reconcile_misses_is_held_by_the_brake_until_it_is_approved() {
    let team = format!("ou=team,{PEOPLE}");
    let out = "ou=out,dc=example,dc=org";
    let data = [unit(&team), unit(out), people(0..10)].concat()
        + &(20..30).map(|number| person_in(number, &team)).collect::<String>();
    let slapd = Slapd::start(provider(data));
    let daemon = Daemon::start(Settings::ldap(5, &slapd, "full_sync_every = \"1s\"\n"));
    daemon.wait_for("changes to come by themselves", is_following);
    daemon.expect("u20", "granted");
    slapd.modify(&format!(
        "dn: {team}\nchangetype: moddn\nnewrdn: ou=team\ndeleteoldrdn: 0\nnewsuperior: {out}\n"
    ));
    daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    assert_eq!(directory(&daemon.status(), "corp")["held"]["removed"], 10);
    daemon.expect("u20", "held");
    // A sync that reads only changes would find nothing, and let go of what is held.
    let report = daemon.sync("corp").unwrap();
    assert_eq!(report["held"]["removed"], 10, "{report}");
    assert_eq!(directory(&daemon.status(), "corp")["state"], "held");
    let report = daemon.approve("corp").unwrap();
    assert_eq!((&report["removed"], &report["held"]), (&10.into(), &Value::Null), "{report}");
    daemon.wait_for("changes to come by themselves", is_following);
    daemon.wait_for_log(&["event=drift_repaired", "surplus=10"]);
    daemon.agrees();
}
