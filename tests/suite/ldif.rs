//! A directory that is a file: read again when it changed, and never believed when it is malformed.

use serde_json::Value;

use crate::support::daemon::{Daemon, LDIF, Settings, directory, no_brake};
use crate::support::slapd::{people, person};

fn daemon(ldif: &str) -> Daemon {
    let mut settings = Settings::ldif(5, ldif);
    settings.tables = settings.tables.replace("\"1h\"", "\"1s\"") + &no_brake("ldif");
    Daemon::start(settings)
}

#[test]
fn a_changed_file_is_read_again_by_itself() {
    let daemon = daemon(&people(0..3));
    daemon.expect("u7", "unknown_user");
    daemon.write(LDIF, &people(0..8));
    daemon.wait_for("the new users", |status| status["users"]["mapped"] == 8);
    daemon.expect("u7", "granted");
    daemon.wait_for_log(&["event=user_added", "user=u7@example.org"]);
    // Written in place, as an editor does it.
    std::fs::write(daemon.path(LDIF), people(0..6)).unwrap();
    daemon.wait_for("the shorter file", |status| status["users"]["tombstoned"] == 2);
    daemon.expect("u7", "removed");
}

#[test]
fn a_malformed_file_changes_nothing_until_it_is_mended() {
    let daemon = daemon(&people(0..3));
    daemon.expect("u1", "granted");
    let line = people(0..5).lines().count() + 1;
    daemon.write(LDIF, &(people(0..5) + "this is no attribute\n\n" + &person(9)));
    let status = daemon.wait_for("the error", |status| directory(status, "people")["state"] == "backoff");
    let broken = directory(&status, "people");
    assert_eq!((&broken["state"], &broken["users"]), (&"backoff".into(), &3.into()));
    let error = broken["last_error"].as_str().unwrap();
    assert!(error.contains(&format!("{LDIF}:{line}: ")), "line {line}: {error}");
    daemon.wait_for_log(&[" WARN ", "event=sync_failed", "directory=people", &format!("{LDIF}:{line}: ")]);
    daemon.expect("u1", "held");
    daemon.expect("u4", "unknown_user");
    assert_eq!(daemon.status()["users"]["tombstoned"], 0);

    // Gone altogether is no empty directory either.
    std::fs::remove_file(daemon.path(LDIF)).unwrap();
    let error = daemon.sync("people").unwrap_err();
    assert!(error.contains(LDIF), "{error}");
    assert_eq!(daemon.status()["users"]["mapped"], 3);

    daemon.write(LDIF, &people(0..5));
    let status = daemon.wait_for("the mended file", |status| status["users"]["mapped"] == 5);
    assert_eq!(status["users"]["tombstoned"], 0);
    daemon.wait_for("the end of the error", |status| {
        let mended = directory(status, "people");
        mended["last_error"] == Value::Null && mended["state"] == "idle"
    });
    daemon.expect("u4", "granted");
    daemon.verify();
}

#[test]
fn entries_that_are_no_users_are_counted_by_reason_or_known_as_what_they_are() {
    let others = "dn: cn=nobody,dc=x\nobjectClass: inetOrgPerson\nuid: nobody\ncn: No Id\n\n\
        dn: cn=nameless,dc=x\nobjectClass: inetOrgPerson\ncn: No Name\n\
        entryUUID: 00000000-0000-4000-9000-000000000001\n\n\
        dn: ou=unit,dc=x\nobjectClass: organizationalUnit\nou: unit\n\
        entryUUID: 00000000-0000-4000-9000-000000000002\n\n\
        dn: cn=staff,dc=x\nobjectClass: groupOfNames\nobjectClass: extensibleObject\ncn: staff\n\
        mail: staff@example.org\nmember: uid=u1\nentryUUID: 00000000-0000-4000-9000-000000000003\n\n";
    let daemon = daemon(&(people(0..2) + others));
    let status = daemon.status();
    assert_eq!((&status["users"]["total"], &status["users"]["mapped"]), (&2.into(), &2.into()));
    let skipped = &directory(&status, "people")["skipped"];
    assert_eq!(*skipped, serde_json::json!({ "no_id": 1, "no_name": 1, "not_a_user": 1 }));
    daemon.expect("nobody", "unknown_user");
    daemon.expect("staff@example.org", "not_a_person");
    daemon.expect("u1", "granted");
}
