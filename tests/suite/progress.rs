//! A sync that takes long shows how far it is.

use std::thread;

use crate::support::daemon::{Daemon, SEATKEEPER, Settings, directory, ldap_directory};
use crate::support::slapd::{Options, Slapd, people};
use crate::support::terminal::Terminal;
use crate::support::valve::Valve;

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
    let terminal = Terminal::run(&command);
    let into_pipes = thread::spawn({
        let config = daemon.config();
        move || crate::support::daemon::seatkeeper(&config, &["sync", "corp", "--wait"])
    });
    terminal.wait_for(&["\rcorp: refreshing, ", " read, ", "/s, ", " users mapped, "]);
    let line = daemon.wait_for_log(&[" INFO ", "event=sync_progress", "directory=corp"]);
    assert!(line.contains(" seen=") && line.contains(" rate="), "{line}");

    valve.open();
    let (status, shown) = terminal.end();
    // The line is gone before the report comes.
    assert!(status.success() && shown.contains("\r\x1b[Kcorp: synced\r\n"), "{shown}");
    let piped = into_pipes.join().unwrap();
    assert_eq!((piped.status.code(), piped.stderr.as_slice()), (Some(0), [].as_slice()));
    assert!(piped.stdout.starts_with(b"corp: synced\n"));
    let status = daemon.wait_for("everybody", |status| status["users"]["total"] == 3000);
    assert!(directory(&status, "corp")["rate"].is_null());
}
