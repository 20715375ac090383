//! Domain controllers that fail, lie or come back, by both ways of polling them. After each case the mirror equals
//! what a fresh sweep gives.

use crate::dirsync::{
    OUTSIDE, as_administrator, becomes, corp, every_kind_of_change_arrives, mechanism, plain, seen, unit,
    users, was_not_read_again,
};
use crate::support::daemon::{Daemon, Settings, directory};
use crate::support::fake_ldap::{FakeLdap, Kind, Step, When, dirsync_done};
use crate::support::samba::{Options, PEOPLE, SambaAd, dn, people, person};
use crate::support::wait_for;

const READ_AGAIN: &str = "has to be read from the beginning";

/// A server with some people, which is polled by this mechanism, and the daemon's settings.
fn polled(by: &str, count: u32, keys: &str) -> (SambaAd, Settings) {
    let data = unit(OUTSIDE) + &people(0..count);
    let samba = SambaAd::start(Options { data, is_plain: true, ..Options::default() });
    if by == "usn" {
        samba.refuse_dirsync();
    }
    let settings = plain(&samba, keys);
    (samba, settings)
}

fn was_read_again(daemon: &Daemon) {
    daemon.wait_for_log(&[READ_AGAIN]);
}

fn backs_off(daemon: &Daemon) {
    daemon.wait_for("the loss to be noticed", |status| directory(status, "corp")["state"] == "backoff");
}

/// Both ways share their rules for servers that go back in time; each has its own number that is too high then.
#[test]
fn an_older_copy_that_was_put_back_is_noticed() {
    for by in ["dirsync", "usn"] {
        let (mut samba, settings) = polled(by, 20, "");
        let daemon = Daemon::start(settings);
        assert_eq!(mechanism(&daemon).0, by);
        daemon.expect("u1", "granted");
        samba.kill();
        let copy = samba.backup();
        samba.restart();
        samba.replace(&dn(1), "mail", "lost@example.org");
        samba.add(&people(100..120));
        samba.delete(&dn(2));
        users(&daemon, 39);
        becomes(&daemon, "lost@example.org", "held");
        daemon.agrees();
        was_not_read_once_more(&daemon, 0);

        // Its numbers are lower than ours.
        samba.kill();
        backs_off(&daemon);
        samba.restore(&copy);
        samba.restart();
        was_read_again(&daemon);
        users(&daemon, 20);
        daemon.agrees();
        daemon.expect("u1", "held");
        assert_eq!(daemon.probe("lost@example.org"), "unknown_user");
        assert_eq!(daemon.probe("u2"), "granted");
    }
}

#[track_caller]
fn was_not_read_once_more(daemon: &Daemon, times: usize) {
    assert_eq!(daemon.log().matches(READ_AGAIN).count(), times, "{}", daemon.log());
}

/// A change is in the mirror a moment before the place up to which the server has told is.
fn remembers_what_was_told(daemon: &Daemon) {
    daemon.sync("corp").unwrap();
}

#[test]
fn an_older_copy_that_has_caught_up_is_noticed() {
    for by in ["dirsync", "usn"] {
        let (mut samba, settings) = polled(by, 20, "");
        let mut daemon = Daemon::start(settings);
        daemon.expect("u1", "granted");
        samba.kill();
        let copy = samba.backup();
        samba.restart();
        samba.replace(&dn(1), "mail", "lost@example.org");
        becomes(&daemon, "lost@example.org", "held");
        remembers_what_was_told(&daemon);
        daemon.terminate();

        // Its numbers are higher than ours before we look: only what was written last gives it away.
        samba.kill();
        samba.restore(&copy);
        samba.restart();
        samba.add(&people(200..220));
        daemon.restart();
        was_read_again(&daemon);
        users(&daemon, 40);
        daemon.agrees();
        assert_eq!(daemon.probe("lost@example.org"), "unknown_user");
        daemon.expect("u1", "held");

        // The same where all that was written last had been made after the copy.
        samba.kill();
        let copy = samba.backup();
        samba.restart();
        samba.replace(&dn(1), "mail", "lost@example.org");
        becomes(&daemon, "lost@example.org", "held");
        samba.add(&people(300..310));
        becomes(&daemon, "u309", "granted");
        remembers_what_was_told(&daemon);
        daemon.terminate();
        samba.kill();
        samba.restore(&copy);
        samba.restart();
        samba.add(&people(400..430));
        daemon.restart();
        was_read_again(&daemon);
        users(&daemon, 70);
        daemon.agrees();
        assert_eq!(daemon.probe("lost@example.org"), "unknown_user");
    }
}

#[test]
fn an_orderly_restore_begins_another_life() {
    for by in ["dirsync", "usn"] {
        let (mut samba, settings) = polled(by, 10, "");
        let daemon = Daemon::start(settings);
        samba.kill();
        backs_off(&daemon);
        samba.begin_another_life();
        samba.restart();
        was_read_again(&daemon);
        daemon.wait_for("the sync", |status| directory(status, "corp")["state"] == "idle");
        samba.replace(&dn(1), "mail", "new@example.org");
        becomes(&daemon, "new@example.org", "granted");
        daemon.agrees();
        was_not_read_once_more(&daemon, 1);
    }
}

#[test]
fn a_server_that_dies_in_the_middle_of_it_costs_nobody_their_place() {
    for by in ["dirsync", "usn"] {
        let (mut samba, settings) = polled(by, 1100, "");
        // In the middle of the first reading of everything,
        samba.cut_after(100_000);
        let mut daemon = Daemon::launch(&settings);
        samba.wait_until_cut();
        samba.kill();
        backs_off(&daemon);
        let mapped = daemon.status()["users"]["total"].as_u64().unwrap();
        assert!(mapped < 1100, "{mapped}");
        samba.mend();
        samba.restart();
        users(&daemon, 1100);
        daemon.wait_for("the sync", |status| directory(status, "corp")["state"] == "idle");
        daemon.agrees();
        daemon.expect("u1", "granted");
        daemon.terminate();

        // and of a poll, while the entries that changed are read again.
        let changes = |range: std::ops::Range<u32>| {
            let change = |number| {
                format!(
                    "dn: {}\nchangetype: modify\nreplace: mail\nmail: n{number}@example.org\n\n",
                    dn(number)
                )
            };
            samba.modify(&range.map(change).collect::<String>());
        };
        changes(0..400);
        samba.delete(&dn(500));
        samba.cut_after(120_000);
        daemon.restart();
        samba.wait_until_cut();
        samba.kill();
        backs_off(&daemon);
        assert_eq!(daemon.status()["users"]["tombstoned"], 0);
        daemon.expect("u1", "held");
        samba.mend();
        samba.restart();
        becomes(&daemon, "n399@example.org", "granted");
        becomes(&daemon, "u500", "removed");
        daemon.agrees();
        was_not_read_once_more(&daemon, 0);
    }
}

#[test]
fn a_cookie_that_the_server_does_not_know_is_given_up() {
    let (samba, settings) = polled("dirsync", 10, "");
    let daemon = Daemon::start(settings);
    daemon.expect("u1", "granted");
    // Every cookie of DirSync begins with this word.
    samba.write_over(b"MSDS", 4, &[0xff; 80]);
    samba.add(&person(100));
    was_read_again(&daemon);
    samba.be_honest();
    becomes(&daemon, "u100", "granted");
    assert_eq!(mechanism(&daemon).0, "dirsync");
    daemon.agrees();
    daemon.expect("u1", "held");
}

#[test]
fn what_the_brake_holds_is_told_again() {
    for (by, sees_deleted) in [("dirsync", false), ("dirsync", true), ("usn", true)] {
        let brake = "[directory.ldap.brake]\nmin_removals = 3\nmax_removals_percent = 10\n";
        let (samba, mut settings) = polled(by, 20, brake);
        if sees_deleted {
            settings = as_administrator(&samba, settings);
        }
        let mut daemon = Daemon::start(settings);
        assert_eq!(mechanism(&daemon).0, by);
        daemon.terminate();
        for number in 0..5 {
            samba.delete(&dn(number));
        }
        samba.disable(&dn(5));
        samba.add(&person(100));
        for _ in 0..2 {
            // As well after another restart: the cookie stands before them.
            daemon.restart();
            let status = daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
            assert_eq!(directory(&status, "corp")["held"]["removed"], 5, "{status:#}");
            assert_eq!(directory(&status, "corp")["held"]["disabled"], 1, "{status:#}");
            // What takes nothing away is not held back.
            becomes(&daemon, "u100", "granted");
            assert_eq!(
                (daemon.probe("u0"), daemon.probe("u5")),
                ("granted".to_owned(), "granted".to_owned())
            );
            daemon.terminate();
        }
        daemon.restart();
        daemon.wait_for("the brake", |status| directory(status, "corp")["state"] == "held");
        let report = daemon.approve("corp").unwrap();
        assert_eq!((&report["removed"], &report["disabled"]), (&5.into(), &1.into()), "{report}");
        daemon.agrees();
        was_not_read_once_more(&daemon, 0);
    }
}

/// Photos are among the attributes that are read, and nothing that they hold makes trouble.
#[test]
fn values_of_all_kinds_come_and_go() {
    use base64::Engine as _;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let samba = SambaAd::start(Options { data: people(0..5), ..Options::default() });
    let keys = "[directory.ldap.attributes]\nmail = [\"mail\", \"proxyAddresses\", \"thumbnailPhoto\", \"jpegPhoto\"]\n\
                name = \"description\"\n";
    let daemon = Daemon::start(corp(&samba, PEOPLE, keys));
    daemon.expect("u1", "granted");
    let every_byte: Vec<u8> = (0..=255).cycle().take(90_000).collect();
    let not_text = [0xff, 0xfe, 0x00, 0x80, b'@', 0xc3, 0x28];
    samba.modify(&format!(
        "dn: {}\nchangetype: modify\nreplace: jpegPhoto\njpegPhoto:: {}\njpegPhoto:: {}\n-\n\
         replace: thumbnailPhoto\nthumbnailPhoto:: {}\n-\nreplace: description\ndescription:: {}\n-\n\
         add: proxyAddresses\nproxyAddresses: smtp:second@example.org\nproxyAddresses: SMTP:first@example.org\n\
         proxyAddresses: x500:/o=Example\nproxyAddresses: smtp:\n",
        dn(1),
        base64(&every_byte),
        base64(&not_text),
        base64(&not_text),
        base64("J\u{fc}rgen \u{1f600} ".repeat(60).as_bytes()),
    ));
    becomes(&daemon, "second@example.org", "held");
    daemon.expect("first@example.org", "held");
    daemon.agrees();
    samba.modify(&format!(
        "dn: {}\nchangetype: modify\ndelete: jpegPhoto\n-\ndelete: thumbnailPhoto\n-\ndelete: description\n-\n\
         delete: proxyAddresses\nproxyAddresses: smtp:second@example.org\n",
        dn(1)
    ));
    becomes(&daemon, "second@example.org", "unknown_user");
    daemon.expect("first@example.org", "held");
    daemon.agrees();

    // Every other flag is set as well: only ACCOUNTDISABLE counts.
    for (flags, decision) in
        [("66082", "disabled"), ("66080", "granted"), ("262690", "disabled"), ("544", "granted")]
    {
        samba.replace(&dn(1), "userAccountControl", flags);
        becomes(&daemon, "u1", decision);
        daemon.agrees();
    }
    was_not_read_again(&daemon);
    assert!(seen(&daemon).len() > 5);
    wait_for("the log", || (!daemon.log().contains(" ERROR ")).then_some(()));
}

/// Ids and stamps are listed for it: what differs though a poll should have told it is drift, and nothing else is.
#[test]
fn the_mirror_is_proved_equal_by_ids() {
    let fake = FakeLdap::start(Kind::ActiveDirectory, 0..20);
    let tables = fake.directory("poll_every = \"1s\"\nfull_sync_every = \"1s\"\n");
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    let drift = |name: &str| directory(&daemon.status(), "corp")["drift"][name].clone();
    // DirSync does not tell a change, and its cookie moves on. A proof that is under way may be faster.
    for number in 2..20_u32 {
        fake.next(
            When::DirSync,
            vec![Step::Say(dirsync_done(false, format!("dirsync-{number}").as_bytes()))],
        );
        let mail = format!("drifted{number}@example.org");
        let person = fake.people()[3].clone().with("mail", mail.as_bytes());
        fake.put(person.with("uSNChanged", number.to_string().as_bytes()));
        becomes(&daemon, &mail, "granted");
        if drift("total") != 0 {
            break;
        }
    }
    assert_ne!(drift("total"), 0);
    let told = daemon.wait_for_log(&[" WARN ", "event=drift_repaired", "directory=corp"]);
    assert!(told.contains("missing=0 stale=1 surplus=0"), "{told}");
    daemon.agrees();
    was_not_read_again(&daemon);
}

#[test]
fn what_is_only_noticed_by_comparing_is_no_drift() {
    for by in ["dirsync", "usn"] {
        let (samba, settings) = polled(by, 10, "full_sync_every = \"1s\"\n");
        let daemon = Daemon::start(settings);
        every_kind_of_change_arrives(&samba, &daemon);
        assert_eq!(mechanism(&daemon).0, by);
        let drift = directory(&daemon.status(), "corp")["drift"].clone();
        assert_eq!(drift["total"], 0, "{drift}\n{}", daemon.log());
        assert_ne!(drift["last_reconcile"], serde_json::Value::Null, "{drift}");
        // By their ids, and not by everything that they have.
        assert!(!daemon.log().contains(READ_AGAIN), "{}", daemon.log());
    }
}
