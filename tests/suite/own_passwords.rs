//! Passwords of accounts that no directory has: local and imported ones, set by `account passwd`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, SEATKEEPER, Settings};
use crate::support::slapd::people;
use crate::support::terminal::Terminal;

const BAD: &str = "a password is 1 to 1024 bytes of UTF-8 text without NUL";

/// The whole answer of `POST /v1/authenticate`.
#[track_caller]
fn ask(daemon: &Daemon, user: &str, password: &str) -> Value {
    let body = json!({ "user": user, "password": password, "service": "imap" }).to_string();
    let answer = daemon.http().ask("POST", "/v1/authenticate", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", daemon.log());
    answer.json()
}

#[track_caller]
fn log_in(daemon: &Daemon, user: &str, password: &str) -> String {
    ask(daemon, user, password)["decision"].as_str().unwrap().to_owned()
}

/// `account passwd`, with the password on standard input.
fn set_password(daemon: &Daemon, user: &str, password: impl AsRef<[u8]>) -> (bool, String) {
    let mut command = Command::new(SEATKEEPER);
    command.arg("--config").arg(daemon.config()).args(["account", "passwd", user]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have read enough.
    let _ = child.stdin.take().unwrap().write_all(password.as_ref());
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn local_accounts_have_passwords_of_their_own() {
    let mut daemon =
        Daemon::start(Settings { top: "default_domain = \"example.net\"".to_owned(), ..Settings::default() });
    for user in ["ann", "ben"] {
        let added = daemon.command(&["account", "add", &format!("{user}@example.net")]);
        assert!(added.status.success(), "{added:?}");
    }
    // Without a password nobody gets in.
    assert_eq!(log_in(&daemon, "ann", "secret"), "wrong_password");
    let (is_set, said) = set_password(&daemon, "ann", "first secret\n");
    assert!(is_set && said.contains("The password was set."), "{said}");
    assert_eq!(log_in(&daemon, "ann", "first secret"), "held");
    assert_eq!(log_in(&daemon, "Ann@Example.NET", "first secret"), "held");
    for (user, password) in
        [("ann", "first secret\n"), ("ann", "x"), ("ben", "first secret"), ("nobody", "x")]
    {
        assert_eq!(log_in(&daemon, user, password), "wrong_password", "{user}");
    }
    set_password(&daemon, "ann", "second secret\n");
    daemon.kill9();
    daemon.restart();
    assert_eq!(log_in(&daemon, "ann", "first secret"), "wrong_password");
    assert_eq!(log_in(&daemon, "ann", "second secret"), "held");
    assert!(daemon.command(&["account", "disable", "ann"]).status.success());
    assert_eq!(log_in(&daemon, "ann", "second secret"), "disabled");
    assert!(daemon.command(&["account", "remove", "ann"]).status.success());
    assert_eq!(log_in(&daemon, "ann", "second secret"), "wrong_password");
    // Whoever gets the address later doesn't get the password with it.
    assert!(daemon.command(&["account", "add", "ann@example.net"]).status.success());
    assert_eq!(log_in(&daemon, "ann", "second secret"), "wrong_password");

    // No more than the first line is read, and of that no more than a password has.
    let (long, endless) = ("x".repeat(1025), "ü".repeat(100_000));
    for (user, password, expected) in [
        ("nobody", &b"x\n"[..], "there is no user nobody@example.net"),
        ("ben", b"", BAD),
        ("ben", b"\n", BAD),
        ("ben", b"\r\n", BAD),
        ("ben", b"a\0b\n", BAD),
        ("ben", b"\xff\xfe\n", BAD),
        ("ben", long.as_bytes(), BAD),
        ("ben", endless.as_bytes(), BAD),
    ] {
        let (is_set, said) = set_password(&daemon, user, password);
        assert!(!is_set && said.contains(expected), "{said}");
    }
    assert_eq!(log_in(&daemon, "ben", "x"), "wrong_password");
    let longest = "ü".repeat(512);
    for (line, password) in [
        (" first \nsecond\n".to_owned(), " first "),
        ("with\r\n".to_owned(), "with"),
        ("no end".to_owned(), "no end"),
        (format!("{longest}\r\n"), &longest),
    ] {
        assert!(set_password(&daemon, "ben", &line).0, "{line}");
        assert_eq!(log_in(&daemon, "ben", password), "held", "{line}");
    }
    assert!(!daemon.log().contains("secret\""), "{}", daemon.log());
    daemon.verify();
}

/// Two who hold seats, of whom b has no password, and one who is disabled; others whose seats are free.
const FILE: &str = "dn: uid=a\nmail: a@other.org\nmail: al@other.org\n\ndn: uid=b\nmail: b@other.org\n\n\
                    dn: uid=c\nmail: c@other.org\npwdAccountLockedTime: 000001010000Z\n\n";

#[test]
fn imported_accounts_have_passwords_of_their_own() {
    let mut daemon = Daemon::start(Settings::ldif(2, &people(0..2)));
    daemon.write("file", FILE);
    let file = daemon.path("file").display().to_string();
    let imported = daemon.command(&["import", &file, "--domain", "other.org"]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(daemon.seats_used(), 2);
    let wrong = |user: &str| {
        json!({
            "allow": false, "decision": "wrong_password", "user": user,
            "message": "The user name or the password is wrong.",
        })
    };
    // Nobody has a password yet, which looks as if nobody were there; and so it does for c, who is disabled.
    for user in ["a@other.org", "b@other.org", "c@other.org", "nobody@other.org", "nobody@foreign.org"] {
        for password in ["secret", "", "\0"] {
            assert_eq!(ask(&daemon, user, password), wrong(user));
        }
    }
    for user in ["a", "c"] {
        let (is_set, said) = set_password(&daemon, &format!("{user}@other.org"), format!("secret {user}\n"));
        assert!(is_set && said.contains("The password was set."), "{said}");
    }
    let held =
        json!({ "allow": true, "decision": "held", "user": "a@other.org", "message": "A seat is held." });
    assert_eq!(ask(&daemon, "A@Other.org", "secret a"), held);
    assert_eq!(log_in(&daemon, "al@other.org", "secret a"), "held", "by another address");
    for (user, password) in [("a@other.org", "secret c"), ("b@other.org", "secret a"), ("c@other.org", "x")] {
        assert_eq!(ask(&daemon, user, password), wrong(user));
    }
    let disabled = ask(&daemon, "c@other.org", "secret c");
    assert_eq!(
        (&disabled["allow"], &disabled["decision"]),
        (&false.into(), &"disabled".into()),
        "{disabled}"
    );

    // A holder who lost the seat takes one again, and reads why where there is none.
    daemon.release("a@other.org");
    assert_eq!(log_in(&daemon, "a@other.org", "secret a"), "granted");
    daemon.release("a@other.org");
    daemon.expect("u0", "granted");
    assert_eq!(log_in(&daemon, "a@other.org", "secret c"), "wrong_password");
    let exhausted = ask(&daemon, "a@other.org", "secret a");
    let reason = "All mailbox licenses are in use. Please ask your mail administrator for one.";
    assert_eq!((&exhausted["decision"], &exhausted["message"]), (&"exhausted".into(), &reason.into()));
    daemon.release("u0");

    // A further import of the same people leaves their passwords, and so does a crash.
    let again = daemon.command(&["import", &file, "--domain", "other.org"]);
    assert!(again.status.success(), "{again:?}");
    daemon.kill9();
    daemon.restart();
    assert_eq!(log_in(&daemon, "a@other.org", "secret a"), "granted");
    let no_account = set_password(&daemon, "u1@example.org", "secret u\n");
    assert!(!no_account.0 && no_account.1.contains("u1@example.org comes from the directory people"));
    assert!(!daemon.log().contains("A login could not be decided"), "{}", daemon.log());
    assert!(!daemon.log().contains("secret "), "{}", daemon.log());
    daemon.verify();
}

/// Asks for a password of ann's at a terminal, types these lines, and shows the settings of the terminal then.
#[track_caller]
fn at_a_terminal(daemon: &Daemon, lines: &[&str]) -> String {
    let config = daemon.config().display().to_string();
    let passwd = format!("{SEATKEEPER} --config {config} account passwd ann; echo \"code $?\"; stty -a");
    let mut terminal = Terminal::run(&passwd);
    for (line, prompt) in lines.iter().zip(["Password: ", "The same again: "]) {
        terminal.wait_for(&[prompt]);
        terminal.type_in(line);
    }
    terminal.wait_for(&["code ", "echo"]);
    let (status, shown) = terminal.end();
    assert!(status.success(), "{shown}");
    for line in lines {
        assert!(line.trim().is_empty() || !shown.contains(line.trim()), "{shown}");
    }
    let (said, settings) = shown.split_once("code ").unwrap();
    assert!(settings.contains(" echo ") && !settings.contains("-echo "), "{settings}");
    let (code, _) = settings.split_once("\r\n").unwrap();
    format!("{said}{code}")
}

#[test]
fn at_a_terminal_a_password_is_asked_for_twice_and_not_shown() {
    let top = "default_domain = \"example.net\"".to_owned();
    let daemon = Daemon::start(Settings { top, ..Settings::default() });
    assert!(daemon.command(&["account", "add", "ann@example.net"]).status.success());
    let said = at_a_terminal(&daemon, &["hidden secret\r", "hidden secret\r"]);
    assert!(
        said.starts_with("Password: \r\nThe same again: \r\nann@example.net: The password was set.")
            && said.ends_with("\r\n0"),
        "{said:?}"
    );
    assert_eq!(log_in(&daemon, "ann", "hidden secret"), "held");

    let differ = at_a_terminal(&daemon, &["other secret\r", "other sceret\r"]);
    let expected =
        "Password: \r\nThe same again: \r\nthe two passwords are not the same: nothing was changed\r\n1";
    assert_eq!(differ, expected.replace("the two", "seatkeeper: the two"));
    // Nothing, and the end of the input.
    for nothing in ["\r", "\x04"] {
        let expected = format!("Password: \r\nseatkeeper: {BAD}\r\n1");
        assert_eq!(at_a_terminal(&daemon, &[nothing]), expected);
    }
    assert_eq!(log_in(&daemon, "ann", "hidden secret"), "held");
}
