//! The sums of the brake: over the hour, by whatever mechanism; of names, and of people who are enabled again.

use std::time::Duration;

use jiff::Timestamp;
use seatkeeper::domain::admission::TakeOn;
use seatkeeper::domain::name::Name;
use seatkeeper::domain::names::Purpose;
use seatkeeper::store::{Changes, Policy, Store};
use serde_json::Value;

use crate::support::daemon::{Daemon, LDIF, Settings, directory};
use crate::support::slapd::{Options, PEOPLE, Slapd, people, person};
use crate::support::wait_for;

/// People of a range in a file; `change` rewrites each entry.
fn staff(numbers: std::ops::Range<u32>, change: impl Fn(u32, String) -> String) -> String {
    numbers.map(|number| change(number, person(number).trim_end().to_owned()) + "\n\n").collect()
}

fn disabled(entry: String) -> String {
    entry + "\nnsAccountLock: TRUE"
}

fn held(status: &Value, name: &str) -> Value {
    directory(status, name)["held"].clone()
}

#[track_caller]
fn mapped(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| status["users"]["total"] == count);
}

fn trips(daemon: &Daemon) -> usize {
    daemon.log().matches("event=brake_tripped").count()
}

#[test]
fn small_bites_of_a_file_add_up_over_the_hour_and_a_restart() {
    // Ten percent of 100.
    let mut daemon = Daemon::start(Settings::ldif(50, &people(0..100)));
    daemon.expect("u50", "granted");
    daemon.expect("u88", "granted");
    for (left, gone) in [(96, 4), (91, 9)] {
        daemon.write(LDIF, &people(0..left));
        assert_eq!(daemon.sync("people").unwrap()["held"], Value::Null, "{left}");
        assert_eq!(daemon.status()["users"]["tombstoned"], gone);
    }

    daemon.write(LDIF, &people(0..87));
    let sum = |report: &Value| {
        let losses = &report["held"]["losses"];
        assert!(losses["until"].is_string(), "{report}");
        (losses["more"].clone(), losses["before"].clone(), losses["at_most"].clone())
    };
    let expected = (4.into(), 9.into(), 10.into());
    assert_eq!(sum(&daemon.dry_run("people").unwrap()), expected);
    for _ in 0..3 {
        assert_eq!(sum(&daemon.sync("people").unwrap()), expected);
    }
    let held_now = held(&daemon.status(), "people");
    // Who holds a seat comes first.
    let users = ["u88@example.org", "u87@example.org", "u89@example.org", "u90@example.org"];
    assert_eq!((&held_now["users"], &held_now["seats"]), (&users.as_slice().into(), &1.into()), "{held_now}");
    let words = "4 more, after 9 in the last hour, of at most 10; until ";
    let line = daemon.wait_for_log(&["event=brake_tripped", words]);
    assert!(line.contains(&users.join(" ")), "{line}");
    assert_eq!(trips(&daemon), 1, "nothing changed after the first time");
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains(words) && page.contains("they hold 1 seat: u88@example.org"), "{page}");

    // One more is another matter, which the log has again.
    daemon.write(LDIF, &people(0..86));
    daemon.sync("people").unwrap();
    assert_eq!(trips(&daemon), 2);

    daemon.kill9();
    daemon.restart();
    daemon.wait_for("the brake after a crash", |status| held(status, "people")["losses"]["before"] == 9);
    daemon.expect("u88", "held");
    assert_eq!(daemon.status()["users"]["tombstoned"], 9);
    daemon.verify();
}

#[test]
fn small_bites_of_a_sweep_add_up() {
    let slapd = Slapd::start(Options { data: people(0..30), ..Options::default() });
    let daemon = Daemon::start(Settings::ldap(5, &slapd, "sync = \"sweep\"\n"));
    for number in 0..3 {
        slapd.delete(&format!("uid=u{number},{PEOPLE}"));
        assert_eq!(daemon.sync("corp").unwrap()["removed"], 1);
    }
    slapd.delete(&format!("uid=u3,{PEOPLE}"));
    let report = daemon.sync("corp").unwrap();
    assert_eq!((&report["removed"], &report["held"]["losses"]["before"]), (&0.into(), &3.into()), "{report}");
    daemon.expect("u3", "granted");
}

#[test]
fn an_approved_loss_leaves_the_sum() {
    let slapd = Slapd::start(Options::provider(people(0..30)));
    let mut daemon = Daemon::start(Settings::ldap(5, &slapd, ""));
    daemon.wait_for("following", |status| directory(status, "corp")["state"] == "following");
    daemon.expect("u9", "granted");
    // While it is down, so that all of it comes at once.
    daemon.kill9();
    let leaves = (0..10).map(|number| format!("dn: uid=u{number},{PEOPLE}\nchangetype: delete\n\n"));
    slapd.modify(&leaves.collect::<String>());
    daemon.restart();
    daemon.wait_for("the brake", |status| held(status, "corp")["removed"] == 10);
    assert_eq!(daemon.approve("corp").unwrap()["removed"], 10);
    daemon.wait_for("following", |status| directory(status, "corp")["state"] == "following");

    // Single changes go on as if nothing had happened, until they are too many themselves.
    let delete = |number: u64| slapd.delete(&format!("uid=u{number},{PEOPLE}"));
    for number in 10..13 {
        delete(number);
        mapped(&daemon, 29 - number);
    }
    delete(13);
    let status = daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    let losses = &held(&status, "corp")["losses"];
    assert_eq!((&losses["more"], &losses["before"], &losses["at_most"]), (&1.into(), &3.into(), &3.into()));
    assert_eq!(held(&status, "corp")["users"], serde_json::json!(["u13@example.org"]));
    daemon.verify();
}

#[test]
fn names_that_a_server_hides_are_kept() {
    // slapadd wants the values of an attribute in one place.
    let alias = |number, entry: String| {
        entry.replace("\nmail: ", &format!("\nmail: person.{number}@example.org\nmail: "))
    };
    let options = Options { data: staff(0..20, alias), ..Options::default() };
    let mut slapd = Slapd::start(options.clone());
    let daemon = Daemon::start(Settings::ldap(5, &slapd, "sync = \"sweep\"\n"));
    daemon.expect("person.7", "granted");
    let names = |number: u32| daemon.explain(&format!("u{number}@example.org"))["names"].clone();
    let before = names(7);

    let hidden = "access to attrs=mail by * none\n".to_owned() + &options.access;
    slapd.reconfigure(&Options { access: hidden, ..options.clone() });
    slapd.modify(&format!("dn: uid=u3,{PEOPLE}\nchangetype: modify\nadd: uid\nuid: three\n"));
    for report in [daemon.dry_run("corp").unwrap(), daemon.sync("corp").unwrap()] {
        assert_eq!(
            (&report["held"]["names"], &report["held"]["removed"]),
            (&20.into(), &0.into()),
            "{report}"
        );
        assert_eq!(report["held"]["users"][0], "person.7@example.org");
    }
    assert_eq!(names(7), before);
    daemon.expect("person.7", "held");
    daemon.expect("u7", "held");
    // What is gained is written: only the loss waits.
    assert_eq!(daemon.probe("three"), "granted");
    assert_eq!(daemon.probe("person.3"), "granted");
    daemon.wait_for_log(&["event=brake_tripped", "names=20", "person.7@example.org"]);

    // The slip is undone, and nobody has noticed.
    slapd.reconfigure(&options);
    assert_eq!(daemon.sync("corp").unwrap()["held"], Value::Null);
    daemon.expect("person.7", "held");
    daemon.verify();

    // A few who lose names are no accident, and a swap is no loss.
    let swap: String = (0..20)
        .map(|number| {
            format!(
                "dn: uid=u{number},{PEOPLE}\nchangetype: modify\ndelete: mail\nmail: \
                 person.{number}@example.org\n-\nadd: mail\nmail: p{number}@example.org\n\n"
            )
        })
        .collect();
    slapd.modify(&swap);
    assert_eq!(daemon.sync("corp").unwrap()["changed"], 20);
    daemon.expect("p7", "held");
    daemon.expect("person.7", "unknown_user");
    for number in 0..3 {
        let entry = format!("dn: uid=u{number},{PEOPLE}\nchangetype: modify\ndelete: mail\n");
        slapd.modify(&entry);
    }
    assert_eq!(daemon.sync("corp").unwrap()["held"], Value::Null);
    assert_eq!(daemon.probe("p2"), "unknown_user");
    assert_eq!(daemon.probe("p3"), "granted");
    daemon.agrees();
}

#[test]
fn names_that_are_taken_one_by_one_add_up_while_following() {
    let slapd = Slapd::start(Options::provider(people(0..20)));
    let daemon = Daemon::start(Settings::ldap(5, &slapd, ""));
    daemon.wait_for("following", |status| directory(status, "corp")["state"] == "following");
    let address = |number| {
        let address = format!("a{number}@example.org");
        slapd.modify(&format!(
            "dn: uid=u{number},{PEOPLE}\nchangetype: modify\nreplace: mail\nmail: {address}\n"
        ));
        wait_for("the address", || (daemon.probe(&address) == "granted").then_some(()));
        address
    };
    let addresses: Vec<String> = (0..4).map(address).collect();
    for (number, address) in addresses.iter().enumerate().take(3) {
        slapd.modify(&format!("dn: uid=u{number},{PEOPLE}\nchangetype: modify\ndelete: mail\n"));
        wait_for("the address to be gone", || (daemon.probe(address) == "unknown_user").then_some(()));
    }
    let change = |change: &str| {
        slapd.modify(&format!("dn: uid=u3,{PEOPLE}\nchangetype: modify\n{change}"));
    };
    change("add: mail\nmail: b3@example.org\n");
    wait_for("the second address", || (daemon.probe("b3") == "granted").then_some(()));
    change("delete: mail\n-\nadd: uid\nuid: third\n");
    let status = daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    assert_eq!((&held(&status, "corp")["names"], &held(&status, "corp")["removed"]), (&1.into(), &0.into()));
    wait_for("the name that was gained", || (daemon.probe("third") == "granted").then_some(()));
    assert_eq!(daemon.probe(&addresses[3]), "granted");
    assert_eq!(daemon.approve("corp").unwrap()["held"], Value::Null);
    assert_eq!(daemon.probe(&addresses[3]), "unknown_user");
    daemon.agrees();
}

#[test]
fn many_who_are_enabled_again_wait_and_their_other_changes_do_not() {
    let off = |number, entry| if number < 10 { disabled(entry) } else { entry };
    let daemon = Daemon::start(Settings::ldif(50, &staff(0..20, off)));
    // Three are no more than happens in an hour.
    daemon.write(LDIF, &staff(0..20, |number, entry| if number < 7 { disabled(entry) } else { entry }));
    assert_eq!(daemon.sync("people").unwrap()["held"], Value::Null);
    assert_eq!(daemon.probe("u9"), "granted");

    let renamed = people(0..20).replace("mail: u4@example.org", "mail: four@example.org");
    daemon.write(LDIF, &(renamed + &person(30)));
    let report = daemon.sync("people").unwrap();
    let enablings = &report["held"]["enablings"];
    assert_eq!((&enablings["more"], &enablings["before"]), (&7.into(), &3.into()), "{report}");
    assert_eq!((&report["held"]["enabled"], &report["held"]["losses"]), (&7.into(), &Value::Null));
    daemon.wait_for_log(&[
        "event=brake_tripped",
        "enabled=7",
        "7 more, after 3 in the last hour, of at most 3",
    ]);
    daemon.expect("four", "disabled");
    daemon.expect("u30", "granted");

    // Another sum is not held with it.
    let fewer = people(0..19).replace("mail: u4@example.org", "mail: four@example.org");
    daemon.write(LDIF, &(fewer + &person(30)));
    let report = daemon.sync("people").unwrap();
    assert_eq!((&report["removed"], &report["held"]["enabled"]), (&1.into(), &7.into()), "{report}");
    assert_eq!(daemon.probe("u19"), "removed");

    assert_eq!(daemon.approve("people").unwrap()["changed"], 7);
    daemon.expect("four", "granted");
    assert_eq!(daemon.status()["users"]["disabled"], 0);
    daemon.verify();
}

#[test]
fn a_disable_of_today_is_undone_without_the_brake() {
    let mut daemon = Daemon::start(Settings::ldif(50, &people(0..20)));
    for number in 0..12 {
        daemon.expect(&format!("u{number}"), "granted");
    }
    daemon.write(LDIF, &staff(0..20, |number, entry| if number < 12 { disabled(entry) } else { entry }));
    assert_eq!(daemon.sync("people").unwrap()["held"]["disabled"], 12);
    assert_eq!(daemon.approve("people").unwrap()["disabled"], 12);
    assert_eq!(daemon.seats_used(), 0);
    // When they were disabled is on disk.
    daemon.kill9();
    daemon.restart();
    // The start reads the file by itself.
    daemon.wait_for("the first sync to end", |status| directory(status, "people")["state"] == "idle");
    daemon.write(LDIF, &people(0..20));
    let report = daemon.sync("people").unwrap();
    assert_eq!((&report["held"], &report["changed"]), (&Value::Null, &12.into()), "{report}");
    daemon.expect("u11", "granted");
    daemon.verify();
}

/// Runs on the store of a daemon that is down.
fn with_store<T>(daemon: &Daemon, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let policy = Policy {
        seat_limit: Some(50),
        seatless_limit: Some(0),
        directory_limits: [].into(),
        domain_limits: [].into(),
        take_on: TakeOn { login: true, delivery: false },
        names: Default::default(),
        expired: None,
        components: Default::default(),
    };
    let (store, writer) = Store::open(&daemon.path("state").join("seatkeeper.redb"), policy).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let done = runtime.block_on(work(&store));
    drop(store);
    writer.join().unwrap();
    done
}

#[test]
fn losses_stamped_in_the_future_count_and_leave_after_an_hour() {
    let mut daemon = Daemon::start(Settings::ldif(50, &people(0..30)));
    daemon.kill9();
    let name = |number| Name::parse(&format!("u{number}@example.org"), None).unwrap();
    with_store(&daemon, async |store| {
        let removals =
            (0..3).map(|number| store.view().find(&name(number), Purpose::Login).unwrap().unwrap()).collect();
        let directory = store.view().directories().next().unwrap().id;
        let in_a_year = Timestamp::now() + Duration::from_secs(365 * 86_400);
        let changes = Changes { removals, ..Changes::default() };
        store.apply(directory, changes, in_a_year).await.unwrap();
    });
    daemon.write(LDIF, &people(4..30));
    daemon.restart();
    let status = daemon.wait_for("the brake", |status| directory(status, "people")["state"] == "held");
    assert_eq!(held(&status, "people")["losses"]["before"], 3);
    // Nothing was written for the sake of what is held; what was ahead was moved to now all the same.
    daemon.kill9();
    with_store(&daemon, async |store| {
        let view = store.view();
        let losses = &view.directories().next().unwrap().hour.losses;
        let now = Timestamp::now();
        assert_eq!((losses.sum(now), losses.is_ahead(now)), (3, false));
        assert_eq!(losses.sum(now + Duration::from_secs(62 * 60)), 0);
    });
}
