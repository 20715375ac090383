//! A sync that takes long shows how far it is.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::daemon::{Daemon, SEATKEEPER, Settings, directory, ldap_directory};
use crate::support::slapd::{Options, Slapd, people};
use crate::support::valve::Valve;
use crate::support::wait_for;

/// The first map of 3000 people comes to a halt when more than a thousand were read, and goes on.
#[test]
fn a_first_map_tells_how_far_it_is() {
    let slapd = Slapd::start(Options { data: people(0..3000), ..Options::default() });
    let valve = Valve::start(&slapd.url());
    valve.close_after(400_000);
    let tables = ldap_directory(&slapd, &[&valve.url()], "");
    let daemon = Daemon::launch(&Settings { tables, ..Settings::default() });
    let status = daemon.wait_for("the first batches", |status| directory(status, "corp")["seen"] != 0);
    let corp = directory(&status, "corp");
    assert_eq!(corp["state"], "refreshing");
    assert!((500..3000).contains(&corp["seen"].as_u64().unwrap()), "{corp}");
    assert!(corp["rate"].as_u64().is_some(), "{corp}");
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains("refreshing, ") && page.contains(" read, "), "{page}");

    // Whoever waits sees it on a terminal, and in no file.
    let config = daemon.config().display().to_string();
    let command = format!("{SEATKEEPER} --config {config} sync corp --wait");
    let mut on_a_terminal = Command::new("script")
        .args(["-qfec", &command, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is missing: apt-get install bsdutils");
    let shown = Arc::new(Mutex::new(String::new()));
    let mut terminal = on_a_terminal.stdout.take().unwrap();
    let collected = Arc::clone(&shown);
    let collecting = thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = terminal.read(&mut buffer) {
            collected.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    });
    let into_pipes = thread::spawn({
        let config = daemon.config();
        move || crate::support::daemon::seatkeeper(&config, &["sync", "corp", "--wait"])
    });
    let shows = |parts: &[&str]| {
        wait_for(&format!("{parts:?} on the terminal"), || {
            let shown = shown.lock().unwrap();
            parts.iter().all(|part| shown.contains(part)).then_some(())
        });
    };
    shows(&["\rcorp: refreshing, ", " read, ", "/s, ", " users mapped, "]);
    let line = daemon.wait_for_log(&[" INFO ", "event=sync_progress", "directory=corp"]);
    assert!(line.contains(" seen=") && line.contains(" rate="), "{line}");

    valve.open();
    assert!(on_a_terminal.wait().unwrap().success());
    collecting.join().unwrap();
    // The line is gone before the report comes.
    shows(&["\r\x1b[Kcorp: synced\r\n"]);
    let piped = into_pipes.join().unwrap();
    assert_eq!((piped.status.code(), piped.stderr.as_slice()), (Some(0), [].as_slice()));
    assert!(piped.stdout.starts_with(b"corp: synced\n"));
    let status = daemon.wait_for("everybody", |status| status["users"]["total"] == 3000);
    assert!(directory(&status, "corp")["rate"].is_null());
}
