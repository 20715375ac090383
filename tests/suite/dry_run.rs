//! What a dry run says beside people: lists, seats that move, which file it went by; and entries of a file that are there
//! twice.

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, LDIF, Settings, directory, ldif_directory};
use crate::support::slapd::{PEOPLE, entry_uuid, people, person};

fn list(number: u32) -> String {
    let id = entry_uuid(900 + number);
    format!(
        "dn: cn=list{number},{PEOPLE}\nobjectClass: groupOfNames\ncn: list{number}\nmember: uid=u1,{PEOPLE}\n\
         mail: list{number}@example.org\nentryUUID: {id}\n\n"
    )
}

#[test]
fn lists_that_a_sync_removes_are_named_before_and_after() {
    let (one, two) = (list(1), list(2));
    let daemon = Daemon::start(Settings::ldif(5, &[people(0..5), one.clone(), two].concat()));
    daemon.write(LDIF, &(people(0..5) + &one));
    let report = daemon.dry_run("people").unwrap();
    let removed = |report: &Value| (report["lists_removed"].clone(), report["lists_removed_of"].clone());
    let expected = (json!(1), json!(["list2@example.org"]));
    assert_eq!((removed(&report), &report["removed"]), (expected.clone(), &json!(0)), "{report}");
    let page = String::from_utf8(daemon.command(&["sync", "people", "--dry-run"]).stdout).unwrap();
    let said =
        "1 list, room or contact would be removed, and mail to them would be refused: list2@example.org";
    assert!(page.contains(said) && page.contains("no user to change"), "{page}");
    assert!(!daemon.log().contains("is gone from the directory"));

    assert_eq!(removed(&daemon.sync("people").unwrap()), expected);
    daemon.wait_for_log(&[
        " INFO ",
        "The list list2@example.org is gone from the directory: mail to it is refused.",
    ]);
    daemon.verify();
}

#[test]
fn seats_that_another_configuration_moves_are_named_before() {
    let other =
        |numbers| people(numbers).replace("example.org", "example.net").replace(",dc=example", ",dc=other");
    let new = ldif_directory("new", "example.net", "new.ldif");
    let mut settings = Settings::ldif(5, &people(0..5));
    settings.tables += &new;
    settings.files.push(("new.ldif", other(0..5)));
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("u1@example.org", "granted");
    daemon.expect("u2@example.org", "granted");
    assert_eq!(daemon.dry_run("new").unwrap()["seats_moved"], 0);

    let named = new.replace("name = \"new\"", "name = \"new\"\nmoved_from = [\"people\"]");
    settings.tables = settings.tables.replace(&new, &named);
    daemon.configure(&settings);
    for name in ["new", "people"] {
        let report = daemon.dry_run(name).unwrap();
        let first = json!({
            "old_user": "u1@example.org", "from": "people", "user": "u1@example.net", "to": "new"
        });
        assert_eq!((&report["seats_moved"], &report["seats_moved_of"][0]), (&json!(2), &first), "{report}");
    }
    daemon.expect("u1@example.org", "held");
    assert!(!daemon.log().contains("seat_moved"));
    daemon.reload().unwrap();
    daemon.wait_for_log(&["event=seat_moved", "old_user=u1@example.org", "user=u1@example.net"]);
    daemon.verify();
}

#[test]
fn a_dry_run_says_which_file_it_goes_by_and_of_a_new_directory_what_to_do() {
    let settings = Settings::ldif(5, &people(0..5));
    let daemon = Daemon::start(settings.clone());
    let page = String::from_utf8(daemon.command(&["sync", "people", "--dry-run"]).stdout).unwrap();
    let file = daemon.path("seatkeeper.toml");
    assert!(
        page.starts_with(&format!("people: dry run by {}, nothing was changed", file.display())),
        "{page}"
    );

    let tables = settings.tables.clone() + &ldif_directory("new", "example.net", "new.ldif");
    daemon.configure(&Settings { tables, ..settings });
    let output = daemon.command(&["sync", "new", "--dry-run"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("there is no directory \"new\" in the configuration that the daemon has read")
            && said.contains("seatkeeper check --connect"),
        "{said}"
    );
}

#[test]
fn an_entry_whose_id_is_in_the_file_before_is_skipped() {
    // One beside the other, and both far from each other: more than are written at once.
    let twin = |number: u32, name: &str| person(number).replace(&format!("u{number}"), name);
    let all =
        [twin(7, "first"), twin(7, "second"), people(10..2510), twin(10, "third"), twin(2509, "fourth")]
            .concat();
    let daemon = Daemon::start(Settings::ldif(5, &all));
    let expected = json!({ "duplicate_id": 3 });
    let skipped = |daemon: &Daemon| directory(&daemon.status(), "people")["skipped"].clone();
    let names = |daemon: &Daemon| -> Vec<String> {
        let names = ["first", "second", "u10", "third", "u2509", "fourth"];
        names.iter().map(|name| daemon.probe(name)).collect()
    };
    let unknown = "unknown_user";
    let probed = ["granted", unknown, "granted", unknown, "granted", unknown];
    assert_eq!((skipped(&daemon), names(&daemon)), (expected.clone(), probed.map(str::to_owned).to_vec()));
    let line = daemon.wait_for_log(&[" WARN ", "since an entry before it in the file has the same id"]);
    assert!(line.contains("uid=second,") && daemon.log().matches("has the same id").count() == 1, "{line}");

    // Read again, nobody changes places.
    let report = daemon.dry_run("people").unwrap();
    assert_eq!(
        (&report["skipped"], &report["changed"], &report["removed"]),
        (&expected, &json!(0), &json!(0))
    );
    daemon.write(LDIF, &(all + "\n"));
    let report = daemon.sync("people").unwrap();
    assert_eq!(
        (&report["skipped"], &report["changed"], &report["removed"]),
        (&expected, &json!(0), &json!(0))
    );
    assert_eq!(names(&daemon), probed);
    let check = String::from_utf8(daemon.command(&["check", "--connect"]).stdout).unwrap();
    assert!(check.contains("3 would be skipped (duplicate_id)"), "{check}");
    daemon.verify();
}
