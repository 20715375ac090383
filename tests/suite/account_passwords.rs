//! The passwords of local and imported accounts, as an administrator sets them and as people use them.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::json;

use crate::support::daemon::{Daemon, SEATKEEPER, Settings};
use crate::support::slapd::people;
use crate::support::wait_for;

/// `account passwd` at a terminal.
struct Terminal {
    command: Child,
    keyboard: ChildStdin,
    shown: Arc<Mutex<String>>,
    collecting: JoinHandle<()>,
}

impl Terminal {
    fn start(daemon: &Daemon, user: &str) -> Terminal {
        let line = format!("{SEATKEEPER} --config {} account passwd {user}", daemon.config().display());
        let mut command = Command::new("script")
            .args(["-qfec", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is missing: apt-get install bsdutils");
        let (keyboard, mut output) = (command.stdin.take().unwrap(), command.stdout.take().unwrap());
        let shown = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&shown);
        let collecting = thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Terminal { command, keyboard, shown, collecting }
    }

    /// Types a line when the prompt is there, and not before: the terminal would show it.
    fn answer(&mut self, prompt: &str, line: &str) {
        wait_for(prompt, || self.shown.lock().unwrap().trim_end().ends_with(prompt).then_some(()));
        self.keyboard.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// How it ended, and all that was on the terminal.
    fn end(mut self) -> (bool, String) {
        let status = self.command.wait().unwrap();
        self.collecting.join().unwrap();
        let shown = self.shown.lock().unwrap().clone();
        (status.success(), shown)
    }
}

fn log_in(daemon: &Daemon, user: &str, password: &str) -> String {
    let body = json!({ "user": user, "password": password }).to_string();
    let answer = daemon.http().ask("POST", "/v1/authenticate", &body).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["decision"].as_str().unwrap().to_owned()
}

#[test]
fn a_password_is_asked_for_twice_and_never_shown() {
    let daemon =
        Daemon::start(Settings { top: "default_domain = \"example.net\"".to_owned(), ..Settings::default() });
    assert!(daemon.command(&["account", "add", "ann@example.net"]).status.success());
    let [prompt, again] = ["New password:", "Again:"];

    let mut terminal = Terminal::start(&daemon, "ann");
    terminal.answer(prompt, "typed secret");
    terminal.answer(again, "typed secret");
    let (is_set, shown) = terminal.end();
    assert!(is_set && shown.contains("The password was set."), "{shown}");
    assert!(!shown.contains("typed secret"), "{shown}");
    assert_eq!(log_in(&daemon, "ann", "typed secret"), "held");

    let mut terminal = Terminal::start(&daemon, "ann");
    terminal.answer(prompt, "other secret");
    terminal.answer(again, "another secret");
    let (is_set, shown) = terminal.end();
    assert!(
        !is_set && shown.contains("the two passwords differ") && !shown.contains("other secret"),
        "{shown}"
    );

    let mut terminal = Terminal::start(&daemon, "ann");
    terminal.answer(prompt, "");
    let (is_set, shown) = terminal.end();
    assert!(!is_set && shown.contains("a password is 1 to 1024 bytes"), "{shown}");
    assert_eq!(log_in(&daemon, "ann", "typed secret"), "held", "it stays as it was");
    daemon.verify();
}

#[test]
fn imported_accounts_have_passwords_of_their_own() {
    let daemon = Daemon::start(Settings::ldif(4, &people(0..1)));
    daemon.write("accounts.csv", "ada@other.org,Ada,a.l@other.org\nben@other.org,Ben,\n");
    let file = daemon.path("accounts.csv").display().to_string();
    let imported = daemon.command(&["import", &file, "--domain", "other.org"]);
    assert!(imported.status.success(), "{imported:?}");
    // Who has no password gets the same answer as who has another, and as nobody.
    for user in ["ada@other.org", "ben@other.org", "nobody@other.org"] {
        assert_eq!(log_in(&daemon, user, "imported secret"), "wrong_password", "{user}");
    }
    let (is_set, said) = crate::passwords::set_password(&daemon, "ada@other.org", "imported secret\n");
    assert!(is_set, "{said}");
    for user in ["ada@other.org", "A.L@other.org"] {
        assert_eq!(log_in(&daemon, user, "imported secret"), "held", "{user}");
    }
    assert_eq!(log_in(&daemon, "ada@other.org", "x"), "wrong_password");
    assert_eq!(log_in(&daemon, "ben@other.org", "imported secret"), "wrong_password");
    // Another import of the same file leaves the password as it is.
    assert!(daemon.command(&["import", &file, "--domain", "other.org"]).status.success());
    assert_eq!(log_in(&daemon, "ada@other.org", "imported secret"), "held");
    assert!(daemon.command(&["account", "disable", "ada@other.org"]).status.success());
    assert_eq!(log_in(&daemon, "ada@other.org", "imported secret"), "disabled");
    assert_eq!(log_in(&daemon, "ada@other.org", "x"), "wrong_password");
    assert!(!daemon.log().contains("imported secret"));
    daemon.verify();
}
