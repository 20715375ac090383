//! A disk that is full: holders go on, newcomers get an outage, and all goes on by itself when there is room.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::support::daemon::{Daemon, HTTP, Settings};
use crate::support::disk::SmallDisk;
use crate::support::http::check_body;
use crate::support::issuer::Vendor;
use crate::support::slapd::people;

/// The answer of `/v1/check`: its status and the document.
#[track_caller]
fn check(daemon: &Daemon, user: &str) -> (u16, Value) {
    let answer = daemon.http().ask("POST", "/v1/check", &check_body(user)).unwrap();
    (answer.status, answer.json())
}

/// What Postfix is told about somebody who has logged in.
#[track_caller]
fn policy(daemon: &Daemon, user: &str) -> String {
    let mut postfix = TcpStream::connect(("127.0.0.1", daemon.port("postfix_policy"))).unwrap();
    let request = format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=friend@example.com\nsasl_username={user}\n\n"
    );
    postfix.write_all(request.as_bytes()).unwrap();
    postfix.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    postfix.read_to_string(&mut answer).unwrap();
    answer.trim().to_owned()
}

#[track_caller]
fn assert_outage(daemon: &Daemon, user: &str) {
    let (status, problem) = check(daemon, user);
    assert_eq!(status, 503, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("seatkeeper.redb cannot be written"), "{problem}");
    assert_eq!(
        policy(daemon, user),
        "action=450 4.3.0 The mail system cannot look up its users now. Please try again later."
    );
}

#[track_caller]
fn assert_holder(daemon: &Daemon, user: &str) {
    daemon.expect(user, "held");
    assert_eq!(policy(daemon, user), "action=DUNNO");
}

fn settings(disk: &SmallDisk) -> Settings {
    Settings {
        listeners: format!("{HTTP}[[listen.postfix_policy]]\nbind = \"127.0.0.1:0\"\n"),
        wrapper: disk.wrapper(),
        ..Settings::ldif(50, &people(0..20))
    }
}

#[test]
fn a_full_disk_costs_no_holder_a_login_and_is_over_when_there_is_room() {
    let mut disk = SmallDisk::new();
    let mut daemon = Daemon::prepare(&settings(&disk));
    disk.mount(&daemon.path("state"), 96);
    daemon.restart();
    daemon.wait_for("the directory", |status| status["ready"] == true);
    daemon.expect("u1", "granted");
    assert!(disk.path("seatkeeper.redb.ballast").exists(), "space is set aside");
    assert_eq!(daemon.status()["store"]["problem"], Value::Null);

    // The space that was set aside is given up first.
    disk.fill();
    daemon.wait_for("the ballast to be given up", |status| status["store"]["short_of_space"] == true);
    daemon.wait_for_log(&[" ERROR ", "event=store_in_trouble", "set aside"]);
    assert!(!disk.path("seatkeeper.redb.ballast").exists());
    daemon.expect("u2", "granted");
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains("Store    the disk is FULL"), "{page}");

    // Then the disk is full for good.
    disk.fill();
    daemon.wait_for("the trouble", |status| status["store"]["problem"].is_string());
    for _ in 0..3 {
        assert_outage(&daemon, "u3");
        assert_holder(&daemon, "u1");
        assert_holder(&daemon, "u2");
    }
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains("NO NEW SEAT IS GRANTED"), "{page}");
    let told = daemon.log().matches("Seat holders still get in").count();
    assert_eq!(told, 1, "it is told once:\n{}", daemon.log());

    // As after a crash: what is there is read.
    daemon.kill9();
    daemon.restart();
    assert_holder(&daemon, "u1");
    assert_holder(&daemon, "u2");
    assert_outage(&daemon, "u3");
    daemon.wait_for_log(&[" ERROR ", "event=store_in_trouble", "no new seat is granted"]);

    // A reload has nothing to write, either.
    daemon.configure(&Settings { seats: 49, ..settings(&disk) });
    daemon.reload().unwrap();
    assert_holder(&daemon, "u1");

    let pid = daemon.pid();
    disk.make_room();
    daemon.wait_for("the trouble to be over", |status| status["store"]["problem"].is_null());
    daemon.wait_for_log(&[" INFO ", "is written again"]);
    daemon.expect("u3", "granted");
    assert_eq!(policy(&daemon, "u4"), "action=DUNNO");
    assert_eq!(daemon.seats_used(), 4);
    daemon.verify();
    assert_eq!(daemon.pid(), pid, "no restart was needed");
    daemon.wait_for("space to be set aside again", |_| disk.path("seatkeeper.redb.ballast").exists());
    let (status, _) = daemon.terminate();
    assert!(status.success(), "{status}");
}

/// What was begun is no store, and must not be taken for a damaged one when there is room.
#[test]
fn a_store_that_found_no_room_is_made_when_there_is_some() {
    let mut disk = SmallDisk::new();
    let mut daemon = Daemon::prepare(&settings(&disk));
    disk.mount(&daemon.path("state"), 16);
    let new = || {
        let mut words = disk.wrapper().into_iter();
        let mut command = std::process::Command::new(words.next().unwrap());
        command.args(words).arg(env!("CARGO_BIN_EXE_seatkeeper")).arg("--config").arg(daemon.config());
        command.args(["store", "new"]).output().unwrap()
    };
    disk.fill();
    let full = new();
    assert!(!full.status.success(), "{full:?}");
    disk.make_room();
    let made = new();
    assert!(made.status.success(), "{made:?}");
    daemon.restart();
    daemon.wait_for("the directory", |status| status["ready"] == true);
    daemon.expect("u1", "granted");
}

/// An ext4 with errors becomes read-only by itself.
#[test]
fn a_disk_that_became_read_only_is_read() {
    let mut disk = SmallDisk::new();
    let mut daemon = Daemon::prepare(&settings(&disk));
    disk.mount(&daemon.path("state"), 16);
    daemon.restart();
    daemon.wait_for("the directory", |status| status["ready"] == true);
    daemon.expect("u1", "granted");
    daemon.kill9();
    disk.run(&["mount", "-o", "remount,ro"]);
    daemon.restart();
    assert_holder(&daemon, "u1");
    assert_outage(&daemon, "u2");
    disk.run(&["mount", "-o", "remount,rw"]);
    daemon.wait_for("the trouble to be over", |status| status["store"]["problem"].is_null());
    daemon.expect("u2", "granted");
    daemon.verify();
}

#[test]
fn a_licence_server_says_that_its_disk_is_full_and_recovers() {
    let mut vendor = Vendor::new();
    vendor.move_to(SmallDisk::new(), 16);
    vendor.serve();
    vendor.sell(&["sell", "L-1", "--seats", "5"]);
    assert_eq!(vendor.health().0, 200);
    vendor.disk().fill();
    // What is set aside on so small a disk is less than what counts as full.
    let (status, body) = vendor.health();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("licenses.redb cannot be written"), "{body}");
    let output = vendor.try_sell(&["sell", "L-2", "--seats", "5"]);
    assert_eq!(output.status.code(), Some(1));
    // What was sold is read all the same.
    assert!(vendor.sell(&["sold"]).to_string().contains("L-1"));

    vendor.disk().make_room();
    crate::support::wait_for("the licence server to recover", || (vendor.health().0 == 200).then_some(()));
    vendor.sell(&["sell", "L-3", "--seats", "5"]);
    let log = vendor.log();
    assert_eq!(log.matches("event=store_in_trouble").count(), 1, "{log}");
    assert!(log.contains("is written again"), "{log}");
}
