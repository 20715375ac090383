//! Start, stop and start again: what is refused, what is finished, and what is written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::daemon::{Daemon, Settings};
use crate::support::http::{Client, check_body};
use crate::support::slapd::people;

/// What systemd grants before it kills.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn sigterm_finishes_what_was_asked_and_writes_the_last_login() {
    let mut daemon = Daemon::start(Settings::ldif(3, &people(0..3)).on_own_ports());
    // One idle connection, and one whose request is known to have begun.
    let mut idle = daemon.client();
    assert_eq!(idle.check("u1").0, "granted");
    let mut busy = daemon.client();
    let body = check_body("u2");
    let head = format!(
        "POST /v1/check HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    busy.send(head.as_bytes()).unwrap();
    assert_eq!(busy.line().unwrap(), "HTTP/1.1 100 Continue");
    assert_eq!(busy.line().unwrap(), "");

    let http = daemon.http();
    daemon.begin_to_terminate();
    daemon.wait_for_log(&["event=stopping"]);
    assert!(idle.is_closed());
    crate::support::wait_for("the listener to close", || Client::connect(&http).is_err().then_some(()));
    busy.send(body.as_bytes()).unwrap();
    let answer = busy.answer().unwrap();
    assert_eq!((answer.status, &answer.json()["decision"]), (200, &"granted".into()));
    assert_eq!(daemon.wait_for_end().code(), Some(0));
    assert!(!daemon.path("control.sock").exists());

    daemon.restart();
    for (user, service) in [("u1", "imap"), ("u2", "imap")] {
        let explained = daemon.explain(user);
        assert_eq!(explained["last_login"]["service"], service, "{explained}");
        daemon.expect(user, "held");
    }
    daemon.verify();
}

#[test]
fn sigterm_waits_for_nobody_longer_than_ten_seconds() {
    let mut daemon = Daemon::start(Settings::ldif(3, &people(0..3)));
    let mut idle = daemon.client();
    assert_eq!(idle.check("u1").0, "granted");
    // A client that stops in the middle of its body, one in its head, and one that says nothing.
    let mut half_body = daemon.client();
    half_body
        .send(b"POST /v1/check HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    assert_eq!(half_body.line().unwrap(), "HTTP/1.1 100 Continue");
    let mut half_head = daemon.client();
    half_head.send(b"POST /v1/che").unwrap();
    let _silent = daemon.client();
    let (status, took) = daemon.terminate();
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    assert!(took < STOPS_WITHIN, "{took:?}");
    daemon.restart();
    assert_eq!(daemon.explain("u1")["last_login"]["service"], "imap");
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused() {
    let daemon = Daemon::start(Settings::ldif(3, &people(0..3)));
    // It shares the store and nothing else.
    let text = fs::read_to_string(daemon.config()).unwrap();
    let own_socket = text.replace("/control.sock\"", "/second.sock\"");
    daemon.write("second.toml", &own_socket);
    let output = crate::support::daemon::seatkeeper(&daemon.path("second.toml"), &["run"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is in use: another seatkeeper runs on it"), "{said}");
    assert!(said.contains(&daemon.path("state").display().to_string()), "{said}");
    assert!(!daemon.path("second.sock").exists());

    // It shares the control socket and nothing else.
    let own_store = text.replace("/state\"", "/second-state\"");
    daemon.write("second.toml", &own_store);
    let output = crate::support::daemon::seatkeeper(&daemon.path("second.toml"), &["run"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("control.sock: another process answers there"), "{said}");

    daemon.expect("u1", "granted");
    assert_eq!(daemon.seats_used(), 1);
}

#[test]
fn a_killed_daemons_socket_is_replaced() {
    let mut daemon = Daemon::start(Settings::ldif(3, &people(0..3)));
    let socket = daemon.path("control.sock");
    let mode = || fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o660);
    daemon.kill9();
    assert!(socket.exists(), "a killed daemon leaves it");
    daemon.restart();
    assert_eq!(mode(), 0o660);
    // A file that is no socket is somebody's, and stays.
    daemon.kill9();
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    let (status, log) = daemon.start_in_vain();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("not a socket"), "{log}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

#[test]
fn a_listener_that_cannot_be_had_is_an_error() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let listeners = format!("[[listen.http]]\nbind = \"{taken}\"\n");
    let mut daemon = Daemon::prepare(&Settings { listeners, ..Settings::ldif(3, "") });
    let (status, log) = daemon.start_in_vain();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(&format!("cannot listen on {taken}")), "{log}");
}

/// Bytes that the daemon has handed to write(2) and its kin so far (proc(5), `io`): what reaches a disk
/// behind them depends on the file system.
fn bytes_written(daemon: &Daemon) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

#[test]
fn a_restart_with_nothing_changed_does_not_rewrite_the_store() {
    let mut daemon = Daemon::start(Settings::ldif(10, &people(0..3000)));
    daemon.expect("u1", "granted");
    let first = bytes_written(&daemon);
    let before = daemon.status();
    assert!(daemon.terminate().0.success());

    daemon.restart();
    daemon.wait_for("a sweep of this run", |status| {
        let people = &status["directories"][0];
        people["state"] == "idle" && people["last_success"] != before["directories"][0]["last_success"]
    });
    let second = bytes_written(&daemon);
    assert!(first > 1 << 20, "the first run wrote {first} bytes");
    assert!(second < 256 << 10, "the second run wrote {second} bytes, the first {first}");
    assert_eq!(daemon.status()["users"], before["users"]);
    daemon.expect("u1", "held");
}
