//! Where a domain controller refuses DirSync, the numbers of its writes are polled; where these can't be used either,
//! it is swept. The refusals are real: a relay changes what is asked, so that the server refuses it.

use crate::dirsync::{
    OUTSIDE, as_administrator, becomes, every_kind_of_change_arrives, mechanism, plain, seen, unit, users,
    was_not_read_again,
};
use crate::support::daemon::Daemon;
use crate::support::samba::{Options, PEOPLE, SambaAd, dn, people, person};
use crate::support::wait_for;

const REFUSES: &str = "the server refuses dirsync: result 1 (operationsError)";

/// A server whose DirSync is refused.
fn samba(data: String) -> SambaAd {
    let samba = SambaAd::start(Options { data: unit(OUTSIDE) + &data, is_plain: true, ..Options::default() });
    samba.refuse_dirsync();
    samba
}

#[track_caller]
fn is_polled_by_usn(daemon: &Daemon) {
    let (mechanism, reason) = mechanism(daemon);
    assert_eq!(mechanism, "usn", "{reason}");
    assert!(reason.starts_with(REFUSES), "{reason}");
}

#[test]
fn where_dirsync_is_refused_writes_are_polled() {
    let samba = samba(people(0..10));
    let mut daemon = Daemon::start(plain(&samba, ""));
    is_polled_by_usn(&daemon);
    every_kind_of_change_arrives(&samba, &daemon);
    was_not_read_again(&daemon);

    // While the daemon is down; it learns anew that DirSync is refused.
    daemon.terminate();
    samba.add(&people(1000..1500));
    samba.replace(&dn(4), "mail", "new4@example.org");
    samba.delete(&dn(5));
    daemon.restart();
    becomes(&daemon, "u1000", "granted");
    is_polled_by_usn(&daemon);
    becomes(&daemon, "new4@example.org", "granted");
    becomes(&daemon, "u5", "removed");
    daemon.agrees();
    was_not_read_again(&daemon);
}

#[test]
fn entries_leave_the_filter_and_units_are_renamed() {
    let unit_a = format!("OU=A,{}", PEOPLE);
    let below = person(50).replace(PEOPLE, &unit_a);
    let samba = samba(people(0..3) + &unit(&unit_a) + &below);
    let filter = "filter = \"(&(objectClass=user)(!(department=Guests)))\"\nsync = \"dirsync\"\n";
    let daemon = Daemon::start(plain(&samba, filter));
    is_polled_by_usn(&daemon);
    daemon.expect("u1", "granted");
    samba.replace(&dn(1), "department", "Guests");
    becomes(&daemon, "u1", "removed");
    daemon.agrees();
    samba.replace(&dn(1), "department", "Staff");
    becomes(&daemon, "u1", "held");
    daemon.agrees();

    samba.rename(&unit_a, "OU=B");
    daemon.agrees();
    let unit_b = format!("OU=B,{}", PEOPLE);
    samba.move_to(&unit_b, OUTSIDE);
    becomes(&daemon, "u50", "removed");
    daemon.agrees();
    samba.move_to(&format!("OU=B,{OUTSIDE}"), PEOPLE);
    becomes(&daemon, "u50", "granted");
    daemon.agrees();
    was_not_read_again(&daemon);
}

#[test]
fn who_may_see_deleted_entries_is_told_of_them() {
    for refuses in [true, false] {
        let samba = samba(people(0..1100));
        if !refuses {
            samba.be_honest();
        }
        let daemon = Daemon::start(as_administrator(&samba, plain(&samba, "")));
        assert_eq!(mechanism(&daemon).0, if refuses { "usn" } else { "dirsync" });
        samba.delete(&dn(7));
        becomes(&daemon, "u7", "removed");
        // Ids were not compared for it.
        assert!(seen(&daemon)[1..].iter().all(|seen| *seen < 100), "{:?}", seen(&daemon));
        samba.undelete("u7", &dn(7));
        becomes(&daemon, "u7", "granted");
        daemon.agrees();
        was_not_read_again(&daemon);
    }
}

#[test]
fn without_the_id_of_the_database_it_is_swept_until_a_full_sync_tries_again() {
    let samba = samba(people(0..5));
    samba.write_over(b"invocationId", 0, b"invocationXX");
    let daemon = Daemon::start(plain(&samba, ""));
    let (swept, reason) = mechanism(&daemon);
    assert_eq!(swept, "sweep");
    assert!(
        reason.starts_with("the server refuses usn: the bind user may not read invocationId of "),
        "{reason}"
    );
    daemon.expect("u1", "granted");
    samba.delete(&dn(1));
    samba.add(&person(100));
    becomes(&daemon, "u1", "removed");
    users(&daemon, 5);
    daemon.agrees();

    samba.be_honest();
    daemon.sync("corp").unwrap();
    assert_eq!(mechanism(&daemon).0, "sweep");
    let full = daemon.api("POST", "/v1/directories/corp/sync?full=true&wait=true");
    assert_eq!(full.status, 200);
    assert_eq!(mechanism(&daemon), ("dirsync".to_owned(), "the server offers it".to_owned()));
    daemon.agrees();
}

#[test]
fn a_refusal_is_told_once() {
    let samba = samba(people(0..3));
    let daemon = Daemon::start(plain(&samba, ""));
    wait_for("some polls", || (seen(&daemon).len() > 2).then_some(()));
    let log = daemon.log();
    assert_eq!(log.matches("is synchronized in another way").count(), 1, "{log}");
    assert!(log.contains(REFUSES), "{log}");
}
