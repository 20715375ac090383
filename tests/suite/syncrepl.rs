//! Changes come by themselves from a real OpenLDAP, by content synchronization (RFC 4533). After each case
//! the mirror equals what a fresh sweep gives.

use crate::failover::{LEEWAY, NOTICED_WITHIN};
use crate::support::daemon::{Daemon, Settings, directory, no_brake};
use crate::support::slapd::{Options, PEOPLE, Slapd, entry_uuid, people, person};
use crate::support::wait_for;

pub(super) fn provider(data: String) -> Options {
    Options {
        data,
        global: "moduleload syncprov\nmoduleload ppolicy\n".to_owned(),
        database: "overlay ppolicy\noverlay syncprov\nsyncprov-sessionlog 1000\n".to_owned(),
        ..Options::default()
    }
}

/// A server with a sync provider and so many people, and a daemon that follows it.
pub(super) fn following(count: u32, keys: &str) -> (Slapd, Daemon) {
    let slapd = Slapd::start(provider(people(0..count)));
    let daemon = Daemon::start(Settings::ldap(5, &slapd, keys));
    wait_until_following(&daemon);
    (slapd, daemon)
}

pub(super) fn wait_until_following(daemon: &Daemon) {
    daemon.wait_for("changes to come by themselves", |status| {
        directory(status, "corp")["state"] == "following"
    });
}

pub(super) fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| status["users"]["total"] == count);
}

pub(super) fn mechanism(daemon: &Daemon) -> String {
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

    let locked = |number: u32, change: &str| {
        slapd.modify(&format!("dn: uid=u{number},{PEOPLE}\nchangetype: modify\n{change}\n"));
    };
    locked(3, "add: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z");
    wait_for("the lock", || (daemon.probe("u3") == "disabled").then_some(()));
    daemon.agrees();
    locked(3, "delete: pwdAccountLockedTime");
    wait_for("the unlocking", || (daemon.probe("u3") == "granted").then_some(()));
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
    let (slapd, daemon) = following(300, &no_brake("ldap"));
    slapd.add(&(1000..1200).map(person).collect::<String>());
    let change = |number: u32| {
        let dn = format!("dn: uid=u{number},{PEOPLE}\nchangetype: ");
        if number < 100 {
            dn + "delete\n\n"
        } else {
            dn + &format!("modify\nreplace: mail\nmail: new{number}@example.org\n\n")
        }
    };
    slapd.modify(&(0..300).map(change).collect::<String>());
    users(&daemon, 400);
    daemon.agrees();
    assert_eq!((daemon.probe("u7"), daemon.probe("new299")), ("removed".into(), "granted".into()));
}

#[test]
fn what_changed_while_the_daemon_was_down_is_all_that_is_told() {
    let (slapd, mut daemon) = following(300, "");
    daemon.expect("u1", "granted");
    daemon.terminate();
    // Where nothing changed the server sends no cookie, and the one there was is as good.
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(directory(&daemon.status(), "corp")["seen"], 0);
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

/// The provider names what was deleted first, and then sends the entry that is back.
#[test]
fn an_entry_that_was_restored_while_the_daemon_was_down_is_there() {
    let (slapd, mut daemon) = following(20, "");
    daemon.expect("u2", "granted");
    daemon.terminate();
    slapd.delete(&format!("uid=u2,{PEOPLE}"));
    slapd.add(&person(2));
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u2"), "held");
    assert_eq!(daemon.explain("u2")["id"], entry_uuid(2));
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
fn the_brake_counts_over_the_hour_and_a_crash() {
    let (slapd, mut daemon) = following(50, "");
    for number in 0..5u64 {
        slapd.delete(&format!("uid=u{number},{PEOPLE}"));
        users(&daemon, 49 - number);
    }
    // What went before a crash has gone in this hour all the same.
    daemon.kill9();
    daemon.restart();
    wait_until_following(&daemon);
    slapd.delete(&format!("uid=u5,{PEOPLE}"));
    daemon.wait_for("the sixth to be held", |status| directory(status, "corp")["state"] == "held");
    assert_eq!(daemon.probe("u5"), "granted");
    // What is held moves no cookie: it is told, and held, again.
    daemon.kill9();
    daemon.restart();
    daemon.wait_for("the sixth to be held again", |status| directory(status, "corp")["state"] == "held");
    assert_eq!(daemon.probe("u5"), "granted");
    let report = daemon.approve("corp").unwrap();
    assert_eq!(report["removed"], 1, "{report}");
    assert_eq!(daemon.probe("u5"), "removed");
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_size_limit_that_only_pages_get_around_leaves_the_sweep() {
    let limits = "size.soft=10 size.hard=10 size.pr=unlimited size.prtotal=unlimited".to_owned();
    let slapd = Slapd::start(Options { limits, ..provider(people(0..20)) });
    let daemon = Daemon::launch(&Settings::ldap(5, &slapd, ""));
    users(&daemon, 20);
    daemon.wait_for("the sweep", |status| directory(status, "corp")["state"] == "idle");
    assert_eq!(mechanism(&daemon), "sweep");
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    let why = "corp: mechanism sweep, because the server's size limit leaves no room for syncrepl\n";
    assert!(page.contains(why), "{page}");
    daemon.agrees();
}

#[test]
fn another_filter_or_base_is_read_from_the_beginning_and_loses_nobody() {
    let (slapd, mut daemon) = following(30, "");
    daemon.expect("u25", "granted");
    let seen = |daemon: &Daemon| directory(&daemon.status(), "corp")["seen"].clone();
    let plain = Settings::ldap(5, &slapd, "");

    // u1 and u10 to u19 would be left.
    let narrow = Settings::ldap(5, &slapd, "filter = \"(&(objectClass=inetOrgPerson)(uid=u1*))\"\n");
    daemon.configure(&narrow);
    daemon.reload().unwrap();
    let status = daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
    assert_eq!(directory(&status, "corp")["held"]["removed"], 19);
    daemon.expect("u25", "held");
    // Held is held, after a crash too; the cookie of the other filter is still good.
    daemon.kill9();
    daemon.restart();
    daemon.wait_for("the brake again", |status| directory(status, "corp")["state"] == "held");
    daemon.configure(&plain);
    daemon.reload().unwrap();
    wait_until_following(&daemon);
    assert_eq!((seen(&daemon), &daemon.status()["users"]["tombstoned"]), (0.into(), &0.into()));

    // One more branch above, and the same people.
    let mut wider = plain.clone();
    wider.tables =
        wider.tables.replace(&format!("base_dn = \"{PEOPLE}\""), "base_dn = \"dc=example,dc=org\"");
    assert_ne!(wider.tables, plain.tables);
    daemon.configure(&wider);
    daemon.reload().unwrap();
    daemon.wait_for("everybody to be read", |_| seen(&daemon) == 30);
    wait_until_following(&daemon);
    daemon.expect("u25", "held");
    daemon.agrees();

    // Another domain gives the same entries other names.
    let mut moved = plain.clone();
    moved.tables = moved.tables.replace("domain = \"example.org\"", "domain = \"example.net\"");
    daemon.configure(&moved);
    daemon.reload().unwrap();
    wait_for("the other names", || (daemon.probe("u25@example.net") == "held").then_some(()));
    wait_until_following(&daemon);
    daemon.agrees();
}

#[test]
fn a_hung_server_is_noticed() {
    let (slapd, daemon) = following(5, "");
    slapd.stop();
    let noticed = std::time::Instant::now();
    daemon.wait_for("the silence to be noticed", |status| directory(status, "corp")["state"] == "backoff");
    assert!(noticed.elapsed() < NOTICED_WITHIN + LEEWAY, "{:?}", noticed.elapsed());
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

#[test]
fn values_of_any_kind_and_size_do_no_harm() {
    let keys = "[directory.ldap.attributes]\nname = [\"jpegPhoto\", \"audio\", \"displayName\", \"cn\"]\n\
                mail = [\"mail\", \"labeledURI\"]\n";
    let (slapd, daemon) = following(3, keys);
    // A JPEG of three megabytes, which is no text; an empty value; bytes that are no UTF-8.
    let photo: Vec<u8> = [0xff, 0xd8, 0xff, 0xe0, 0, 0x10].into_iter().cycle().take(3 << 20).collect();
    let photo = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, photo);
    let many: String = (0..2000).map(|number| format!("labeledURI: many{number}@example.org\n")).collect();
    let odd = |number: u32, lines: &str| person(number).trim_end().to_owned() + "\n" + lines + "\n";
    slapd.add(&odd(10, &format!("jpegPhoto:: {photo}\n")));
    slapd.add(&odd(11, "audio:\n"));
    slapd.add(&odd(12, "audio:: //79\n"));
    slapd.add(&odd(13, &many));
    slapd.add(&odd(14, &format!("displayName: {}\n", "\u{fc}".repeat(30_000))));
    slapd.add(&odd(15, "audio: said\ndisplayName: not shown\n"));
    users(&daemon, 9);
    for number in [10, 11, 12] {
        let name = &daemon.explain(&format!("u{number}"))["display_name"];
        assert_eq!(*name, format!("Person {number}"), "{number}");
    }
    assert_eq!(daemon.probe("many998@example.org"), "granted");
    assert_eq!(daemon.explain("u14")["display_name"].as_str().unwrap().len(), 1024);
    assert_eq!(daemon.explain("u15")["display_name"], "said");
    daemon.agrees();
    // And all of it in a refresh.
    daemon.sync_full("corp").unwrap();
    wait_until_following(&daemon);
    daemon.agrees();
    assert_eq!(daemon.status()["users"]["total"], 9);
}
