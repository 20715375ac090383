//! Local accounts: a seat when created, refused without one, and never touched by a sync.

use std::process::Output;
use std::sync::Barrier;
use std::thread;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, LDIF, Settings, no_brake};
use crate::support::http::Client;
use crate::support::slapd::people;

/// Runs a command that must end with a code: what it wrote to either.
#[track_caller]
fn run(daemon: &Daemon, arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = daemon.command(arguments);
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "{arguments:?}: {text}");
    text
}

/// Users and seats of each origin, as the status counts them.
fn origins(daemon: &Daemon) -> (Value, Value) {
    let Value::Object(mut status) = daemon.status() else { panic!("no object") };
    let users = status.remove("users").unwrap();
    let users = json!({ "mapped": users["mapped"], "local": users["local"], "imported": users["imported"] });
    (users, status.remove("seats_by_origin").unwrap())
}

#[test]
fn a_local_account_takes_a_seat_and_is_refused_without_one() {
    let mut daemon = Daemon::start(Settings::ldif(2, &people(0..4)));
    daemon.expect("u0", "granted");
    let text = run(&daemon, &["account", "add", "Ada", "--name", "Ada L.", "--alias", "lovelace@x.org"], 0);
    assert!(text.contains("ada@example.org: The account was created and took a seat. (2 seats"), "{text}");
    daemon.wait_for_log(&["event=seat_granted", "ada@example.org", "account created"]);
    daemon.wait_for_log(&["event=user_added", "ada@example.org", "local"]);
    daemon.expect("lovelace@x.org", "held");
    let explained = daemon.explain("ada");
    assert_eq!((&explained["origin"], &explained["directory"]), (&"local".into(), &Value::Null));
    assert_eq!((&explained["counts"], &explained["display_name"]), (&true.into(), &"Ada L.".into()));
    let page = run(&daemon, &["explain", "ada"], 0);
    assert!(page.contains("Account     local, since ") && !page.contains("Entry"), "{page}");

    // Refused, with nothing changed: no seat, or the name is somebody's.
    let text = run(&daemon, &["account", "add", "bob"], 1);
    assert!(text.contains("bob@example.org gets no seat (exhausted): 2 of 2 seats are used."), "{text}");
    run(&daemon, &["explain", "bob"], 1);
    let status = daemon.status();
    assert_eq!(status["users"]["local"], 1, "{status}");
    daemon.release("u0");
    for (arguments, part) in [
        (&["u1"][..], "u1@example.org is a user of the directory people already"),
        (&["bob", "--alias", "u1"], "u1@example.org is a user of the directory people already"),
        (&["ada"], "ada@example.org is a local account already"),
        (&["bob", "--alias", "lovelace@x.org"], "lovelace@x.org belongs to ada@example.org, a local account"),
        (&["bob smith"], "not a mail address"),
        (&["bob", "--alias", "<b@x.org>"], "not a mail address"),
    ] {
        let text = run(&daemon, &[&["account", "add"][..], arguments].concat(), 1);
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    run(&daemon, &["explain", "bob"], 1);
    assert_eq!(daemon.seats_used(), 1);
    assert_eq!(
        origins(&daemon),
        (
            json!({ "mapped": 4, "local": 1, "imported": 0 }),
            json!({ "mapped": 0, "local": 1, "imported": 0 })
        )
    );
    daemon.verify();
    daemon.kill9();
    daemon.restart();
    daemon.expect("ada", "held");
    daemon.verify();
}

#[test]
fn accounts_are_disabled_enabled_and_removed() {
    let daemon = Daemon::start(Settings::ldif(2, &people(0..4)));
    run(&daemon, &["account", "add", "ada"], 0);
    let text = run(&daemon, &["account", "disable", "ada"], 0);
    assert!(text.contains("was disabled and the seat released. (0 seats"), "{text}");
    daemon.wait_for_log(&["event=seat_released", "ada@example.org", "reason=disabled"]);
    daemon.expect("ada", "disabled");
    assert!(run(&daemon, &["account", "disable", "ada"], 0).contains("disabled already"));
    daemon.expect("u0", "granted");
    daemon.expect("u1", "granted");
    // Enabling goes through the same gate.
    let text = run(&daemon, &["account", "enable", "ada"], 1);
    assert!(text.contains("ada@example.org gets no seat (exhausted)"), "{text}");
    daemon.expect("ada", "disabled");
    daemon.release("u1");
    let text = run(&daemon, &["account", "enable", "ada"], 0);
    assert!(text.contains("was enabled and took a seat. (2 seats"), "{text}");
    daemon.expect("ada", "held");
    assert!(run(&daemon, &["account", "enable", "ada"], 0).contains("enabled already"));
    // One whose seat was released is enabled without one, and takes one by the next login.
    daemon.release("ada");
    assert_eq!(daemon.explain("ada")["counts_because"], "enabled, but the seat was released");
    daemon.expect("ada", "granted");

    run(&daemon, &["account", "remove", "ada"], 0);
    daemon.expect("ada", "unknown_user");
    assert_eq!(daemon.seats_used(), 1, "the seat is free at once");
    let history = daemon.history("ada");
    let last = (&history[0]["event"], &history[0]["reason"]);
    assert_eq!(last, (&"released".into(), &"removed".into()), "{history:?}");
    // Created again, nothing is inherited.
    run(&daemon, &["account", "add", "ada"], 0);
    assert_eq!(daemon.history("ada").len(), 1);

    for verb in ["disable", "enable", "remove"] {
        let text = run(&daemon, &["account", verb, "u0"], 1);
        assert!(text.contains("u0@example.org comes from the directory people: change it there"), "{text}");
        let text = run(&daemon, &["account", verb, "nobody"], 1);
        assert!(text.contains("there is no user nobody@example.org"), "{text}");
    }
    daemon.expect("u0", "held");
    daemon.verify();
}

/// Neither an empty directory without a brake nor a directory that comes to hold the address.
#[test]
fn no_sync_touches_a_local_account() {
    let mut settings = Settings::ldif(5, &people(0..3));
    settings.tables += &no_brake("ldif");
    settings.tables += "[seats]\nremoval_grace = \"0s\"\n";
    let daemon = Daemon::start(settings);
    run(&daemon, &["account", "add", "u7", "--alias", "u8"], 0);
    daemon.write(LDIF, &people(6..9));
    daemon.sync("people").unwrap();
    daemon.wait_for_log(&["event=name_clash", "u7@example.org"]);
    assert_eq!(daemon.explain("u7")["origin"], "local");
    daemon.write(LDIF, "");
    daemon.sync("people").unwrap();
    daemon.approve("people").unwrap();
    daemon.wait_for("the directory to be empty", |status| status["users"]["mapped"] == 0);
    daemon.expect("u7", "held");
    daemon.write(LDIF, &people(7..8));
    daemon.sync("people").unwrap();
    // When the account goes, the mapped user gets the name.
    run(&daemon, &["account", "remove", "u7"], 0);
    assert_eq!(daemon.explain("u7")["origin"], "mapped");
    daemon.verify();
}

#[test]
fn accounts_and_logins_at_once_share_the_last_seats() {
    const EACH: usize = 20;
    let daemon = Daemon::start(Settings::ldif(10, &people(0..EACH as u32)));
    let (barrier, http, control) = (Barrier::new(2 * EACH), daemon.http(), daemon.control());
    let got = thread::scope(|scope| {
        let (barrier, http, control) = (&barrier, &http, &control);
        let logins = (0..EACH).map(|number| {
            scope.spawn(move || {
                let mut client = Client::connect(http).unwrap();
                barrier.wait();
                client.check(&format!("u{number}")).1
            })
        });
        let logins: Vec<_> = logins.collect();
        let accounts = (0..EACH).map(|number| {
            scope.spawn(move || {
                let mut client = Client::connect(control).unwrap();
                barrier.wait();
                let answer = client.ask("PUT", &format!("/v1/accounts/l{number}"), "").unwrap();
                assert!(matches!(answer.status, 200 | 409), "{answer:?}");
                answer.status == 200
            })
        });
        let accounts: Vec<_> = accounts.collect();
        logins.into_iter().chain(accounts).map(|thread| thread.join().unwrap()).filter(|got| *got).count()
    });
    assert_eq!(got, 10);
    assert_eq!(daemon.seats_used(), 10);
    let status = daemon.status();
    assert_eq!(status["users"]["local"], status["seats_by_origin"]["local"], "no account without a seat");
    daemon.verify();
}

/// Whatever the seats, the licence or the directory say.
#[test]
fn the_administrator_always_enters_and_never_counts() {
    let mut settings = Settings::ldif(2, &people(0..4));
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("u0", "granted");
    daemon.expect("u1", "granted");
    daemon.expect("root", "unknown_user");
    settings.tables += "[admin]\naddress = \"root\"\n";
    daemon.configure(&settings);
    daemon.reload().unwrap();
    daemon.expect("root", "exempt");
    daemon.expect("Root@Example.org", "exempt");
    assert_eq!(daemon.probe("root"), "exempt");
    daemon.expect("u2", "exhausted");
    let text = run(&daemon, &["explain", "root"], 1);
    assert!(text.contains("root@example.org is the internal administrator"), "{text}");
    assert_eq!(daemon.seats_used(), 2);

    // A mapped user who holds a seat gives it back, and is known by every name.
    settings.tables = settings.tables.replace("\"root\"", "\"u0\"\ndirectory = \"people\"");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    daemon.wait_for_log(&["event=seat_released", "u0@example.org", "reason=exempt"]);
    assert_eq!(daemon.seats_used(), 1);
    assert_eq!(daemon.history("u0")[0]["reason"], "exempt");
    daemon.expect("u0", "exempt");
    assert_eq!(daemon.grant("u0").json()["outcome"], "exempt");
    let explained = daemon.explain("u0");
    assert_eq!(explained["counts_because"], "the internal administrator never counts", "{explained}");
    assert!(!explained["last_login"].is_null(), "{explained}");
    daemon.expect("u2", "granted");

    // Gone from the directory, without a licence, and after a restart.
    daemon.write(LDIF, &people(1..4));
    daemon.sync("people").unwrap();
    daemon.expect("u0", "exempt");
    let unlicensed = std::fs::read_to_string(daemon.config()).unwrap().replace("seats = 2", "#");
    daemon.write("seatkeeper.toml", &unlicensed);
    daemon.kill9();
    daemon.restart();
    daemon.expect("u3", "license_missing");
    daemon.expect("u0", "exempt");
    daemon.expect("u1", "held");
    daemon.verify();

    // A user like others again.
    daemon.write(LDIF, &people(0..4));
    settings.tables = settings.tables.replace("\"u0\"\ndirectory = \"people\"", "\"root\"");
    settings.seats = 3;
    daemon.configure(&settings);
    daemon.reload().unwrap();
    daemon.sync("people").unwrap();
    daemon.expect("u0", "granted");
    // An account of the administrator's takes no seat, where none is free.
    let text = run(&daemon, &["account", "add", "root"], 0);
    assert!(text.contains("The account was created. (3 seats"), "{text}");
    run(&daemon, &["account", "disable", "root"], 0);
    daemon.expect("root", "exempt");
    daemon.verify();
}

/// What became of the user's seat while the daemon was down is settled when it starts.
#[test]
fn an_administrator_who_was_chosen_while_the_daemon_was_down_holds_no_seat() {
    let mut settings = Settings::ldif(2, &people(0..2));
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("u0", "granted");
    assert!(daemon.terminate().0.success());
    settings.tables += "[admin]\naddress = \"u0@example.org\"\ndirectory = \"people\"\n";
    daemon.configure(&settings);
    daemon.restart();
    assert_eq!(daemon.seats_used(), 0);
    daemon.wait_for_log(&["event=seat_released", "reason=exempt"]);
    daemon.verify();
}
