//! A domain controller says that something was written: the poll comes at once, and nothing depends on it.

use crate::dirsync::{as_administrator, becomes, mechanism, plain, seen};
use crate::support::daemon::{Daemon, Settings, directory};
use crate::support::fake_ldap::{
    DIRSYNC, FakeLdap, Kind, NOTIFICATION, PAGED_RESULTS, Step, When, dirsync_done, done, done_saying,
    person, reference,
};
use crate::support::samba::{self, Options, SambaAd, people};
use crate::support::wait_for;

/// A server that offers notifications, and a daemon that has mapped it.
fn notifying(poll_every: &str, script: Vec<Step>) -> (FakeLdap, Daemon) {
    let fake = FakeLdap::start(Kind::ActiveDirectory, 0..20);
    fake.set_root_dse("supportedControl", &[PAGED_RESULTS, DIRSYNC, NOTIFICATION]);
    if !script.is_empty() {
        fake.next(When::Notification, script);
    }
    let tables = fake.directory(&format!("poll_every = \"{poll_every}\"\n"));
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    assert_eq!(mechanism(&daemon).0, "dirsync");
    (fake, daemon)
}

#[test]
fn a_change_arrives_long_before_the_next_poll() {
    for by in ["dirsync", "usn"] {
        let samba = SambaAd::start(Options { data: people(0..5), is_plain: true, ..Options::default() });
        if by == "usn" {
            samba.refuse_dirsync();
        }
        let mut daemon = Daemon::start(as_administrator(&samba, plain(&samba, "poll_every = \"1h\"\n")));
        assert_eq!(mechanism(&daemon).0, by);
        samba.add(&samba::person(100));
        becomes(&daemon, "u100", "granted");
        samba.disable(&samba::dn(1));
        becomes(&daemon, "u1", "disabled");
        samba.delete(&samba::dn(2));
        becomes(&daemon, "u2", "removed");
        daemon.agrees();
        daemon.terminate();
        samba.enable(&samba::dn(1));
        daemon.restart();
        becomes(&daemon, "u1", "granted");
        samba.disable(&samba::dn(1));
        becomes(&daemon, "u1", "disabled");
        assert!(!daemon.log().contains("event=sync_failed"), "{}", daemon.log());
    }
}

/// Who may not see deleted entries is not told of them; they are noticed with the next change, at the latest at
/// the time of the next poll.
#[test]
fn to_an_ordinary_user_deletions_come_with_other_changes() {
    let samba = SambaAd::start(Options { data: people(0..5), is_plain: true, ..Options::default() });
    let daemon = Daemon::start(plain(&samba, "poll_every = \"1h\"\n"));
    samba.delete(&samba::dn(2));
    samba.replace(&samba::dn(3), "mail", "new@example.org");
    becomes(&daemon, "new@example.org", "granted");
    becomes(&daemon, "u2", "removed");
    daemon.agrees();
}

#[test]
fn many_notifications_lead_to_few_polls() {
    let (fake, daemon) = notifying("1h", Vec::new());
    // One for what may have been written before the search stood.
    wait_for("a poll", || (seen(&daemon).len() >= 2).then_some(()));
    let before = fake.asked(When::DirSync).len();
    let entry = fake.add(100);
    let mut steps = vec![Step::Say(entry.message()); 500];
    steps.push(Step::Say(reference("refldap://elsewhere")));
    fake.push(steps);
    becomes(&daemon, "u100", "granted");
    let polls = fake.asked(When::DirSync).len() - before;
    assert!((1..=2).contains(&polls), "{polls}");

    // A machine wakes nobody; a person after it does.
    let (machine, found) =
        (person(Kind::ActiveDirectory, 900).with("objectClass", b"computer"), fake.add(101));
    fake.push(vec![Step::Say(machine.message())]);
    fake.push(vec![Step::Say(found.message())]);
    becomes(&daemon, "u101", "granted");
    assert_eq!(fake.asked(When::Notification).len(), 1);
}

#[test]
fn notifications_that_hang_break_or_are_refused_do_not_matter() {
    for script in [
        vec![Step::Hang],
        vec![Step::Close],
        vec![Step::Bytes(vec![0xff; 64])],
        vec![Step::Say(done(11))],
        vec![Step::Say(done_saying(53, "no more than five")), Step::Close],
    ] {
        let (fake, daemon) = notifying("1s", script);
        wait_for("the script", || fake.is_done().then_some(()));
        fake.add(100);
        becomes(&daemon, "u100", "granted");
        fake.remove(3);
        becomes(&daemon, "u3", "removed");
        daemon.agrees();
        // It is not asked again and again.
        assert_eq!(fake.asked(When::Notification).len(), 1);
        let status = daemon.status();
        assert_eq!(directory(&status, "corp")["last_error"], serde_json::Value::Null, "{status:#}");
    }
}

/// What Samba never says: an answer that is full, so that the rest has to be asked for.
#[test]
fn an_answer_of_dirsync_may_be_one_of_many() {
    let fake = FakeLdap::start(Kind::ActiveDirectory, 0..20);
    let tables = fake.directory("poll_every = \"1h\"\n");
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    for number in 100..103 {
        let entry = fake.add(number);
        let cookie = format!("part-{number}");
        fake.next(
            When::DirSync,
            vec![Step::Say(entry.message()), Step::Say(dirsync_done(true, cookie.as_bytes()))],
        );
    }
    fake.next(When::DirSync, vec![Step::Say(dirsync_done(false, &fake.cookie()))]);
    assert_eq!(daemon.sync("corp").unwrap()["added"], 3);
    assert!(fake.is_done());
    let cookies: Vec<Vec<u8>> =
        fake.asked(When::DirSync).iter().map(|request| request.dirsync().unwrap().1).collect();
    assert_eq!(cookies[2..], [b"part-100".to_vec(), b"part-101".to_vec(), b"part-102".to_vec()]);
    daemon.agrees();

    // One that says so without an end is given up, and forgets nothing.
    let cookie = fake.cookie();
    let entry = fake.add(200);
    fake.next(When::DirSync, vec![Step::Say(entry.message()), Step::Say(dirsync_done(true, &cookie))]);
    let error = daemon.sync("corp").unwrap_err();
    assert!(error.contains("tells the same again and again"), "{error}");
    becomes(&daemon, "u200", "granted");
}

#[test]
fn whatever_dirsync_is_refused_with_the_flag_is_tried_and_then_the_next_best() {
    for code in [1, 12, 50, 53] {
        let fake = FakeLdap::start(Kind::ActiveDirectory, 0..20);
        fake.next(When::DirSync, vec![Step::Say(done(code))]);
        let tables = fake.directory("poll_every = \"1h\"\n");
        let daemon = Daemon::start(Settings { tables, ..Settings::default() });
        assert_eq!(mechanism(&daemon).0, "dirsync");
        let flags = |fake: &FakeLdap| -> Vec<u32> {
            fake.asked(When::DirSync).iter().map(|request| request.dirsync().unwrap().0).collect()
        };
        assert_eq!(flags(&fake), [0, 1], "{code}");
        // It is kept with the cookie.
        fake.add(100);
        daemon.sync("corp").unwrap();
        assert_eq!((flags(&fake), daemon.probe("u100").as_str()), (vec![0, 1, 1], "granted"));

        // A cookie that is refused costs a full reading; without one, it is swept: the server has no invocationId.
        for _ in 0..3 {
            fake.next(When::DirSync, vec![Step::Say(done(code))]);
        }
        let refused = daemon.sync("corp");
        assert_eq!(refused.unwrap()["seen"], 21);
        assert_eq!(mechanism(&daemon).0, "sweep");
        daemon.agrees();
    }
}
