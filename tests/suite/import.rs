//! Imports of files: all or nothing, through the one gate, and again without a change.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{Daemon, SEATKEEPER, Settings, seatkeeper};
use crate::support::http::Client;
use crate::support::slapd::people;

fn daemon(seats: u64) -> Daemon {
    Daemon::start(Settings::ldif(seats, &people(0..4)))
}

/// Imports a text for other.org: the report, and the exit code.
#[track_caller]
fn import(daemon: &Daemon, text: impl AsRef<[u8]>, options: &[&str]) -> (Value, i32) {
    std::fs::write(daemon.path("file"), text).unwrap();
    let file = daemon.path("file").display().to_string();
    let arguments = [&["import", &file, "--domain", "other.org", "--json"][..], options].concat();
    let Output { status, stdout, stderr } = daemon.command(&arguments);
    let report = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", String::from_utf8_lossy(&stderr), daemon.log()));
    (report, status.code().unwrap())
}

/// What a page says, with the exit code.
#[track_caller]
fn page(daemon: &Daemon, text: &str, options: &[&str], code: i32) -> String {
    daemon.write("file", text);
    let file = daemon.path("file").display().to_string();
    let output = daemon.command(&[&["import", &file, "--domain", "other.org"][..], options].concat());
    let page =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{page}");
    page
}

/// Added, changed, unchanged and refused.
fn counts(report: &Value) -> [u64; 4] {
    ["added", "changed", "unchanged", "refused"].map(|word| report[word].as_u64().unwrap())
}

/// Line and reason of each refused row.
fn refusals(report: &Value) -> Vec<(u64, String)> {
    let row = |row: &Value| (row["line"].as_u64().unwrap(), row["reason"].as_str().unwrap().to_owned());
    report["refusals"].as_array().unwrap().iter().map(row).collect()
}

fn refusal(line: u64, reason: &str) -> (u64, String) {
    (line, reason.to_owned())
}

const THREE: &str =
    "address,name,aliases\na@other.org,Ada,ada@other.org l@other.org\nb@other.org,Bob,\nc@other.org,,\n";

#[test]
fn a_file_is_imported_whole_and_again_without_a_change() {
    let mut daemon = daemon(5);
    daemon.expect("u0", "granted");
    let (report, code) = import(&daemon, THREE, &["--dry-run"]);
    assert_eq!((counts(&report), code, &report["applied"]), ([3, 0, 0, 0], 0, &false.into()), "{report}");
    assert_eq!((&report["seats_needed"], &report["seats_free"]), (&3.into(), &4.into()), "{report}");
    assert_eq!(report["added_users"][1]["user"], "b@other.org", "{report}");
    assert_eq!(daemon.status()["users"]["imported"], 0, "a dry run changes nothing");
    let text = page(&daemon, THREE, &[], 0);
    assert!(text.contains("3 rows: 3 added\n") && text.contains("imported for other.org (4 seats"), "{text}");
    daemon.wait_for_log(&["event=import_completed", "added=3"]);
    let status = daemon.status();
    assert_eq!((&status["users"]["imported"], &status["users"]["mapped"]), (&3.into(), &4.into()));
    assert_eq!((&status["seats_by_origin"]["imported"], &status["seats"]["used"]), (&3.into(), &4.into()));
    assert_eq!(daemon.history("a@other.org")[0]["reason"], "import");
    daemon.expect("l@other.org", "held");

    let (report, code) = import(&daemon, THREE, &[]);
    assert_eq!((counts(&report), code), ([0, 0, 3, 0], 0), "{report}");
    assert_eq!(daemon.history("").len(), 4, "and no seat moved");
    // A column that is not there leaves what was; other names are changes; nobody is removed.
    let (report, _) = import(&daemon, "a@other.org\nb@other.org\n", &[]);
    assert_eq!(counts(&report), [0, 0, 2, 0], "{report}");
    let (report, _) = import(&daemon, "address,aliases\na@other.org,x@other.org\n", &["--dry-run"]);
    assert_eq!((counts(&report), &report["changed_users"][0]["line"]), ([0, 1, 0, 0], &2.into()), "{report}");
    let (report, _) = import(&daemon, "address,aliases\na@other.org,x@other.org\n", &[]);
    assert_eq!(counts(&report), [0, 1, 0, 0], "{report}");
    daemon.expect("l@other.org", "unknown_user");
    daemon.expect("x@other.org", "held");
    let explained = daemon.explain("x@other.org");
    assert_eq!((&explained["display_name"], &explained["origin"]), (&"Ada".into(), &"imported".into()));
    daemon.kill9();
    daemon.restart();
    daemon.expect("c@other.org", "held");
    daemon.verify();

    // Disabled by an administrator, it stays so; a seat that was released is not taken again by a file.
    daemon.command(&["account", "disable", "b@other.org"]);
    daemon.release("c@other.org");
    let (report, _) = import(&daemon, THREE.replace("ada@other.org l@", "x@"), &[]);
    assert_eq!(counts(&report), [0, 0, 3, 0], "{report}");
    daemon.expect("b@other.org", "disabled");
    assert_eq!(daemon.seats_used(), 2);
    daemon.command(&["account", "remove", "b@other.org"]);
    daemon.expect("b@other.org", "unknown_user");
    daemon.verify();
}

#[test]
fn all_or_nothing_unless_a_part_will_do() {
    let daemon = daemon(5);
    assert!(daemon.command(&["account", "add", "local@other.org"]).status.success());
    let text = "address,name,aliases\n\
                a@other.org,A,\n\
                u1@example.org,foreign,\n\
                b@other.org,B,local@other.org\n\
                a@other.org,again,\n\
                c@other.org,too few\n\
                d@other.org,D,a@other.org\n\
                e@other.org,E,\n\
                not an address,F,\n\
                g@other.org,G,\n\
                h@other.org,H,\n\
                i@other.org,I,\n";
    let wrong = [
        refusal(3, "foreign_domain"),
        refusal(4, "name_taken"),
        refusal(5, "duplicate"),
        refusal(6, "invalid"),
        refusal(7, "name_taken"),
        refusal(9, "invalid"),
        refusal(12, "exhausted"),
    ];
    for options in [&[][..], &["--dry-run"], &["--dry-run", "--partial"]] {
        let (report, code) = import(&daemon, text, options);
        assert_eq!((refusals(&report), code), (wrong.to_vec(), 1), "{report}");
        assert_eq!((&report["applied"], &report["seats_needed"]), (&false.into(), &5.into()), "{report}");
        assert_eq!(daemon.status()["users"]["imported"], 0);
        assert_eq!(daemon.seats_used(), 1);
    }
    let told = page(&daemon, text, &[], 1);
    for part in [
        "line 4: refused (name_taken): b@other.org: local@other.org is a local account already\n",
        "line 5: refused (duplicate): a@other.org: the same user is on line 2\n",
        "line 7: refused (name_taken): d@other.org: a@other.org is an imported account already (line 2)\n",
        "line 12: refused (exhausted): i@other.org: 5 of 5 seats are used.",
        "seats: 5 needed, 4 free before\nNOTHING was imported",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let (report, code) = import(&daemon, text, &["--partial"]);
    assert_eq!((refusals(&report), code), (wrong.to_vec(), 1), "{report}");
    assert_eq!((counts(&report), &report["applied"]), ([4, 0, 0, 7], &true.into()), "{report}");
    assert_eq!(daemon.seats_used(), 5);
    for (user, decision) in [("a", "held"), ("h", "held"), ("i", "unknown_user"), ("b", "unknown_user")] {
        daemon.expect(&format!("{user}@other.org"), decision);
    }
    // A mapped user's address is refused as well, with who has it.
    let told = page(&daemon, "dn: cn=x\nmail: u9@other.org\nmail: x@other.org\n", &["--dry-run"], 1);
    assert!(told.contains("(exhausted)"), "{told}");
    daemon.verify();
}

#[test]
fn what_is_no_file_of_users_changes_nothing() {
    let daemon = daemon(100);
    let check = |text: &[u8], part: &str| {
        std::fs::write(daemon.path("file"), text).unwrap();
        let file = daemon.path("file").display().to_string();
        let output = daemon.command(&["import", &file, "--domain", "other.org", "--partial"]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains(part), "{part}: {err}");
    };
    check(
        b"mail;name\na@other.org;A\n",
        "the file is wrong: line 1: this is neither a header with the column",
    );
    check(
        b"dn: cn=a\nmail: a@other.org\n\ndn: cn=b\noops\n",
        "the file is wrong: line 5: expected an attribute",
    );
    let err = daemon.command(&["import", "/nonexistent", "--domain", "other.org"]);
    assert!(String::from_utf8_lossy(&err.stderr).contains("/nonexistent: No such file"), "{err:?}");
    let err = daemon.command(&["import", daemon.path("file").to_str().unwrap(), "--domain", "a..b"]);
    assert!(String::from_utf8_lossy(&err.stderr).contains("not a mail domain"), "{err:?}");
    assert_eq!(daemon.status()["users"]["imported"], 0);

    let mut text = b"address,name\na@other.org,A\nb@other.org,J\xfcrgen\nc@other.org,".to_vec();
    text.extend(vec![b'x'; 1 << 20]);
    text.extend(b"\nd@other.org,D\n");
    let (report, code) = import(&daemon, &text, &["--partial"]);
    assert_eq!(
        (refusals(&report), code),
        (vec![refusal(3, "invalid"), refusal(4, "invalid")], 1),
        "{report}"
    );
    assert_eq!(counts(&report), [2, 0, 0, 2], "{report}");
    // Nothing is left behind in the state directory.
    let left: Vec<String> = std::fs::read_dir(daemon.path("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(left.iter().all(|name| name.starts_with("seatkeeper.redb")), "{left:?}");
    let config = daemon.config();
    assert_eq!(seatkeeper(&config, &["import", "x"]).status.code(), Some(2));
}

#[test]
fn ldif_is_known_by_its_ids() {
    let daemon = daemon(5);
    let entry = |uid: &str, id: u32, more: &str| {
        format!(
            "dn: uid={uid},dc=other\nobjectClass: inetOrgPerson\nuid: {uid}\nmail: {uid}@other.org\ncn: {uid}\n\
             entryUUID: 00000000-0000-4000-8000-{id:012}\n{more}\n"
        )
    };
    let locked = "pwdAccountLockedTime: 000001010000Z\n";
    let file =
        entry("a", 1, "") + &entry("b", 2, locked) + "dn: ou=x\nobjectClass: organizationalUnit\nou: x\n\n";
    let (report, code) = import(&daemon, &file, &[]);
    assert_eq!(
        (counts(&report), code, &report["skipped"]["not_a_user"]),
        ([2, 0, 0, 0], 0, &1.into()),
        "{report}"
    );
    assert_eq!(daemon.seats_used(), 1, "a disabled account takes none");
    daemon.expect("b@other.org", "disabled");
    assert_eq!(counts(&import(&daemon, &file, &[]).0), [0, 0, 2, 0]);
    // A new address is the same user; the old address under another id is somebody else.
    let renamed = entry("a2", 1, "") + &entry("a", 3, "");
    let (report, _) = import(&daemon, &renamed, &[]);
    assert_eq!(counts(&report), [1, 1, 0, 0], "{report}");
    assert_eq!(daemon.seats_used(), 2);
    daemon.expect("a2@other.org", "held");
    let (report, code) = import(&daemon, entry("a2", 9, ""), &[]);
    assert_eq!((refusals(&report), code), (vec![refusal(1, "name_taken")], 1), "{report}");
    // A user who came without an id is known by one from then on.
    assert_eq!(counts(&import(&daemon, "c@other.org,C\n", &[]).0), [1, 0, 0, 0]);
    assert_eq!(counts(&import(&daemon, entry("c", 4, ""), &[]).0), [0, 1, 0, 0]);
    assert_eq!(counts(&import(&daemon, entry("c2", 4, ""), &[]).0), [0, 1, 0, 0]);
    daemon.expect("c2@other.org", "held");
    daemon.expect("c@other.org", "unknown_user");
    // A file that disables takes the seat.
    assert_eq!(counts(&import(&daemon, entry("c2", 4, locked), &[]).0), [0, 1, 0, 0]);
    daemon.expect("c2@other.org", "disabled");
    assert_eq!(daemon.seats_used(), 2);
    daemon.verify();
}

fn many(count: u32) -> String {
    let mut text = "address,name,aliases\n".to_owned();
    for number in 0..count {
        let _ = writeln!(text, "user{number}@other.org,User {number},alias{number}@other.org");
    }
    text
}

/// Most of the rows are only read, since to write as many users takes a build without optimisation too long.
#[test]
fn a_long_file_is_imported_within_bounded_memory() {
    const USERS: u32 = 5_000;
    const LINES: u32 = 100_000;
    let daemon = daemon(USERS.into());
    let before = daemon.memory("VmHWM");
    let mut text = many(USERS);
    for number in USERS..LINES {
        let _ = writeln!(text, "user{number}@foreign.org,User {number},alias{number}@other.org");
    }
    let (report, code) = import(&daemon, &text, &["--partial"]);
    assert_eq!((counts(&report), code), ([USERS.into(), 0, 0, (LINES - USERS).into()], 1));
    assert_eq!(report["refusals"].as_array().unwrap().len(), 10_000, "what is told is bounded");
    let grown = daemon.memory("VmHWM") - before;
    assert!(grown < 100 << 20, "the import took {grown} bytes");
    assert_eq!(daemon.seats_used(), u64::from(USERS));
    daemon.expect("alias4999@other.org", "held");
    daemon.verify();
}

/// An import that is killed anywhere left all of its users or none.
#[test]
fn a_crash_leaves_all_of_a_file_or_nothing() {
    const ROWS: u32 = 1000;
    let mut daemon = daemon(ROWS.into());
    daemon.write("file", &many(ROWS));
    let file = daemon.path("file").display().to_string();
    let config = daemon.config();
    let (mut none, mut all) = (0, 0);
    for round in 0..12 {
        let killed = thread::scope(|scope| {
            let import = scope.spawn(|| seatkeeper(&config, &["import", &file, "--domain", "other.org"]));
            // Anywhere in it, and now and then behind it.
            thread::sleep(Duration::from_millis(fastrand::u64(0..60) * (1 + round % 12)));
            daemon.kill9();
            import.join().unwrap()
        });
        daemon.restart();
        let status = daemon.status();
        let imported = status["users"]["imported"].as_u64().unwrap();
        assert_eq!(status["seats_by_origin"]["imported"].as_u64(), Some(imported));
        match imported {
            0 => {
                none += 1;
                assert!(!killed.status.success(), "what was answered is on disk");
            }
            _ => {
                assert_eq!(imported, u64::from(ROWS));
                all += 1;
            }
        }
        daemon.verify();
        if imported > 0 {
            break;
        }
    }
    assert!(none > 0 || all > 0);
    let (report, code) = import(&daemon, many(ROWS), &[]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(daemon.status()["users"]["imported"], ROWS);
}

#[test]
fn imports_and_logins_at_once_share_the_last_seats() {
    const EACH: usize = 12;
    let daemon = Daemon::start(Settings::ldif(10, &people(0..EACH as u32)));
    let (barrier, http, control) = (Barrier::new(2 * EACH), daemon.http(), daemon.control());
    let (logins, imports) = thread::scope(|scope| {
        let (barrier, http, control) = (&barrier, &http, &control);
        let login = |number: usize| {
            scope.spawn(move || {
                let mut client = Client::connect(http).unwrap();
                barrier.wait();
                usize::from(client.check(&format!("u{number}")).1)
            })
        };
        // Each brings two users, or none.
        let import = |number: usize| {
            scope.spawn(move || {
                let mut client = Client::connect(control).unwrap();
                let text = format!("a{number}@other.org\nb{number}@other.org\n");
                barrier.wait();
                let report = client.ask("POST", "/v1/import?domain=other.org", &text).unwrap().json();
                let added = if report["applied"] == true { 2 } else { 0 };
                assert!(added == 0 || report["added"] == 2, "{report}");
                added
            })
        };
        let threads: Vec<_> = (0..EACH).map(|number| (login(number), import(number))).collect();
        threads.into_iter().fold((0, 0), |(logins, imports), (login, import)| {
            (logins + login.join().unwrap(), imports + import.join().unwrap())
        })
    });
    assert!((9..=10).contains(&(logins + imports)), "{logins} and {imports}");
    assert_eq!(daemon.seats_used() as usize, logins + imports);
    assert_eq!(daemon.status()["users"]["imported"].as_u64().unwrap() as usize, imports);
    daemon.verify();
}

/// Through a pipe, as from a program that writes the list while it is imported.
#[test]
fn a_file_that_is_long_in_coming_is_told_of() {
    let daemon = daemon(5);
    let path = daemon.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut child = Command::new(SEATKEEPER)
        .arg("--config")
        .arg(daemon.config())
        .args(["import", "--domain", "other.org"])
        .arg(&path)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = std::fs::File::options().write(true).open(&path).unwrap();
    pipe.write_all(b"a@other.org\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("0 kB are sent"), "{line}");
    assert_eq!(daemon.status()["users"]["imported"], 0, "nothing before the end");
    pipe.write_all(b"b@other.org\n").unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(daemon.status()["users"]["imported"], 2);
}
