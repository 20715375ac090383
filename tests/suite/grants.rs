//! Seats for the users of a system that already has mailboxes, and what an administrator reads when none is free.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::support::daemon::{Daemon, SEATKEEPER, Settings};
use crate::support::slapd::{Options, Slapd, people};

fn text(output: &Output) -> (i32, String, String) {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), lossy(&output.stdout), lossy(&output.stderr))
}

fn grant(daemon: &Daemon, list: &str, options: &[&str]) -> (i32, String, String) {
    daemon.write("list", list);
    let path = daemon.path("list");
    text(&daemon.command(&[&["seats", "grant", "--file", path.to_str().unwrap()], options].concat()))
}

fn addresses(numbers: std::ops::Range<u32>) -> String {
    numbers.fold(String::new(), |mut list, number| {
        let _ = writeln!(list, "u{number}@example.org");
        list
    })
}

#[test]
fn three_hundred_mailboxes_get_their_seats_before_the_first_login() {
    let slapd = Slapd::start(Options { data: people(0..400), ..Options::default() });
    let daemon = Daemon::start(Settings::ldap(300, &slapd, ""));
    let list = format!("# from the mail store\n\nu0\n{}\r\nu1\n", addresses(0..300));

    let (code, out, _) = grant(&daemon, &list, &["--dry-run"]);
    assert!(code == 0 && out.contains("u299@example.org would get a seat"), "{out}");
    assert!(out.contains("300 users: 300 granted") && out.contains("nothing was changed"), "{out}");
    assert_eq!(daemon.seats_used(), 0);

    let (code, out, err) = grant(&daemon, &list, &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("300 users: 300 granted\n") && out.ends_with("300 of 300 seats used\n"), "{out}");
    daemon.expect("u299", "held");
    daemon.expect("u300", "exhausted");

    // Again it changes nothing.
    let (code, out, _) = grant(&daemon, &list, &[]);
    assert!(code == 0 && out.contains("300 users: 0 granted, 300 held one already"), "{out}");
    assert_eq!(daemon.history("u5").len(), 1);
    daemon.verify();
}

#[test]
fn all_of_a_list_or_none_unless_partial() {
    let slapd = Slapd::start(Options { data: people(0..6), ..Options::default() });
    let daemon = Daemon::start(Settings::ldap(3, &slapd, ""));
    let list = addresses(0..5) + "nobody@example.org\n@\n";
    let (code, out, _) = grant(&daemon, &list, &[]);
    assert_eq!(code, 1, "{out}");
    for part in [
        "line 4: u3@example.org gets no seat (exhausted): 3 of 3 seats are used. Release some",
        "line 6: nobody@example.org gets no seat (unknown_user): There is no mail user by this name.",
        "line 7: @ gets no seat (bad_name): ",
        "7 users: 3 granted, 4 refused",
        "seats: 5 needed, 3 free before",
        "NO seat was granted: correct the list or free seats, or grant what can be granted with --partial",
    ] {
        assert!(out.contains(part), "{part}:\n{out}");
    }
    assert_eq!(daemon.seats_used(), 0);

    // From standard input, and each who can have one.
    let mut command = Command::new(SEATKEEPER);
    command.arg("--config").arg(daemon.config()).args(["seats", "grant", "--file", "-", "--partial"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let (code, out, _) = text(&child.wait_with_output().unwrap());
    assert!(code == 1 && out.ends_with("3 of 3 seats used\n"), "{out}");
    assert_eq!(daemon.seats_used(), 3);
    daemon.verify();
}

#[test]
fn on_a_full_license_the_administrator_reads_how_full_it_is_and_what_to_do() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    let mut settings = Settings::ldap(1, &slapd, "");
    settings.tables = "[seats]\nprotected = [\"u0@example.org\"]\n".to_owned() + &settings.tables;
    let daemon = Daemon::start(settings);
    daemon.expect("u0", "granted");
    let full = "1 of 1 seats are used. Release some (`seatkeeper users --seated";
    let import = "address\nnew@example.org\nu1@example.org\n";
    daemon.write("new.csv", import);
    let csv = daemon.path("new.csv");
    for command in [
        vec!["seats", "grant", "u1"],
        vec!["account", "add", "new@example.org"],
        vec!["import", csv.to_str().unwrap(), "--domain", "example.org"],
    ] {
        let (code, out, err) = text(&daemon.command(&command));
        assert!(code == 1 && (out.clone() + &err).contains(full), "{command:?}: {out}{err}");
    }
    let (_, out, _) = text(&daemon.command(&["import", csv.to_str().unwrap(), "--domain", "example.org"]));
    assert!(
        out.contains(
            "1 is in a directory already, and need no import: give them seats with `seatkeeper seats grant"
        ),
        "{out}"
    );

    // A person reads what they always did.
    assert!(daemon.expect("u1", "exhausted").starts_with("All mailbox licenses are in use."));
    let (code, _, err) = text(&daemon.command(&["seats", "release", "u0"]));
    assert!(code == 1 && err.contains("u0 is protected by [seats] protected and keeps the seat"), "{err}");
    assert_eq!(daemon.seats_used(), 1);
    let (code, out, _) = text(&daemon.command(&["seats", "release", "--force", "u0"]));
    assert!(code == 0 && out.contains("The seat was released."), "{out}");
    assert_eq!(daemon.seats_used(), 0);
}
