//! `status`.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::license;
use super::sync::{held, left_out, skipped};
use super::{Columns, clean, count, list, moment, relative};
use crate::service::answers::{
    BackupStatus, ClockStatus, DirectoryState, DirectoryStatus, DomainStatus, DriftReport, LicenseStatus,
    SeatlessStatus, SeatsByOrigin, SeatsStatus, Status, StoreStatus, UsersStatus,
};

/// The whole state on one page.
pub(crate) fn status(status: &Status, now: Timestamp) -> String {
    let readiness = if status.ready { "ready" } else { "not ready: a directory was never mapped yet" };
    let started = relative(now, status.started);
    let mut page = format!("Seatkeeper {}, started {started}, {readiness}\n\n", clean(&status.version));
    for (label, text) in [
        ("Licence", license::summary(&status.license)),
        ("Seats", seats(&status.seats, &status.license)),
        ("Users", users(&status.users)),
    ] {
        let _ = writeln!(page, "{label:<9}{}", clean(&text));
        let more = if label == "Licence" { license::details(&status.license, now) } else { Vec::new() };
        for line in more {
            let _ = writeln!(page, "{:<9}{}", "", clean(&line));
        }
    }
    page.push_str(&clock(&status.clock));
    if let Some(text) = store(&status.store, now) {
        let _ = writeln!(page, "{:<9}{}", "Store", clean(&text));
    }
    if let Some(text) = status.backup.as_ref().map(|backup| backups(backup, now)) {
        let _ = writeln!(page, "{:<9}{}", "Backup", clean(&text));
    }
    page.push_str(&seatless(status.seatless));
    let SeatsByOrigin { mapped, local, imported } = status.seats_by_origin;
    if local + imported > 0 {
        let _ = writeln!(page, "{:<9}seats: {mapped} mapped, {local} local, {imported} imported", "Origins");
    }
    page.push_str(&domains(&status.domains));
    page.push_str(&directories(&status.directories, now));
    if !status.clashes.is_empty() {
        page.push_str("\nNames that two users claim:\n");
    }
    for clash in &status.clashes {
        // Nobody may have it, where other directories serve its domain.
        let owner = if clash.owner.is_empty() { "no user" } else { &clash.owner };
        let line = format!("{}: {owner} has it, {} is mapped without it", clash.name, clash.claimant);
        let _ = writeln!(page, "  {}", clean(&line));
    }
    if !status.listeners.is_empty() {
        let columns = Columns { header: ["LISTENER", "BIND", "CONNECTIONS"], right: &[2] };
        page.push('\n');
        page += &columns.lines(&status.listeners, |listener| {
            [listener.kind.clone(), listener.bind.clone(), listener.connections.to_string()]
        });
    }
    page
}

/// Nothing where the clock is right.
fn clock(clock: &ClockStatus) -> String {
    let Some(problem) = &clock.problem else { return String::new() };
    let doubt = clock.since.map(|since| format!("IN DOUBT since {}: ", moment(since)));
    format!("{:<9}{}{}\n", "Clock", doubt.unwrap_or_default(), clean(problem))
}

/// What is wrong with the store; `None` where nothing is.
fn store(store: &StoreStatus, now: Timestamp) -> Option<String> {
    let since = store.since.map_or(String::new(), |since| format!(" (since {})", relative(now, since)));
    match &store.problem {
        Some(problem) => Some(format!(
            "{problem}{since}. SEAT HOLDERS GET IN, NO NEW SEAT IS GRANTED: make room, or see to the disk"
        )),
        None if store.short_of_space => {
            let free = store.free_bytes.map_or(String::new(), |free| format!(", {} MiB left", free >> 20));
            Some(format!("the disk is FULL, and the space set aside for that is in use{free}: make room"))
        }
        None => None,
    }
}

fn backups(backup: &BackupStatus, now: Timestamp) -> String {
    let BackupStatus { folder, latest, kept, problem } = backup;
    let latest = latest
        .map_or("none yet".to_owned(), |latest| format!("{kept}, the latest {}", relative(now, latest)));
    match problem {
        Some(problem) => format!("FAILED: {problem} ({latest})"),
        None => format!("{latest}, in {folder}"),
    }
}

fn seats(seats: &SeatsStatus, license: &LicenseStatus) -> String {
    let SeatsStatus { limit, used, free, over_limit } = *seats;
    if license.state == "missing" {
        return format!("{used} used");
    }
    if over_limit {
        let to_release = used.saturating_sub(limit);
        return format!(
            "{used} used of {limit}: {to_release} MORE THAN THE LICENCE HAS; holders go on, nobody new gets one \
             before so many are released"
        );
    }
    match free {
        0 => format!(
            "{used} of {limit} used, NONE FREE: release some (`seatkeeper users --seated --sort last-login` shows \
             who is longest away), or install a license with more"
        ),
        free => format!("{used} used of {limit}, {free} free"),
    }
}

/// Nothing where no mailbox is meant to have no seat.
fn seatless(seatless: SeatlessStatus) -> String {
    let SeatlessStatus { mailboxes, allowed } = seatless;
    let text = match allowed {
        _ if mailboxes == 0 => return String::new(),
        Some(allowed) if mailboxes > allowed => {
            let over = mailboxes - allowed;
            format!(
                "{mailboxes} mailboxes, THE LICENSE ALLOWS {allowed}: the {over} mapped last need a seat each"
            )
        }
        Some(allowed) => format!("{mailboxes} of {allowed} mailboxes"),
        None => format!("{mailboxes} mailboxes"),
    };
    format!("{:<9}{text}\n", "Seatless")
}

/// Nothing where no domain has a cap.
fn domains(domains: &[DomainStatus]) -> String {
    let count = |domain: &DomainStatus| {
        let DomainStatus { name, seats_used, seat_limit } = domain;
        let full = if seats_used >= seat_limit { ": NONE FREE" } else { "" };
        format!("{name} {seats_used} of {seat_limit}{full}")
    };
    match domains {
        [] => String::new(),
        domains => format!("{:<9}seats: {}\n", "Domains", clean(&list(domains.iter().map(count)))),
    }
}

fn users(users: &UsersStatus) -> String {
    let some = |number: u64, what: &str| {
        if number > 0 { format!("{number} {what}") } else { String::new() }
    };
    list([
        format!("{} mapped", users.mapped),
        some(users.local, "local"),
        some(users.imported, "imported"),
        some(users.disabled, "disabled"),
        some(users.tombstoned, "removed and in their grace period"),
    ])
}

fn directories(directories: &[DirectoryStatus], now: Timestamp) -> String {
    if directories.is_empty() {
        return "\nNo directory is configured.\n".to_owned();
    }
    let columns = Columns {
        header: ["DIRECTORY", "DOMAIN", "STATE", "MECHANISM", "USERS", "SEATS", "LAST SUCCESS"],
        right: &[4, 5],
    };
    let dash = || "-".to_owned();
    let table = columns.lines(directories, |directory| {
        let state = match directory.state {
            _ if !directory.configured => "not configured".to_owned(),
            state => list([state.as_str().to_owned(), read(directory)]),
        };
        [
            directory.name.clone(),
            if directory.domain.is_empty() { dash() } else { directory.domain.clone() },
            state,
            directory.mechanism.clone().unwrap_or_else(dash),
            directory.users.to_string(),
            match directory.seat_limit {
                Some(limit) => format!("{}/{limit}", directory.seats_used),
                None => directory.seats_used.to_string(),
            },
            directory.last_success.map_or_else(|| "never".to_owned(), |at| relative(now, at)),
        ]
    });
    let notes: String = directories.iter().flat_map(|directory| notes(directory, now)).collect();
    let gap = if notes.is_empty() { "" } else { "\n" };
    format!("\n{table}{gap}{notes}")
}

/// How far a refresh is; nothing where none is under way.
fn read(directory: &DirectoryStatus) -> String {
    match (directory.state, directory.rate) {
        (DirectoryState::Refreshing, Some(rate)) if directory.seen > 0 => {
            format!("{} read, {rate}/s", directory.seen)
        }
        _ => String::new(),
    }
}

/// How far the sync of a directory is that somebody waits for.
pub(crate) fn progress(directory: &DirectoryStatus, elapsed: Duration) -> String {
    let line = list([
        format!("{}: {}", directory.name, directory.state.as_str()),
        read(directory),
        count(directory.users, "user") + " mapped",
        format!("{} s", elapsed.as_secs()),
    ]);
    clean(&line)
}

/// What does not fit into a column.
fn notes(directory: &DirectoryStatus, now: Timestamp) -> Vec<String> {
    let name = &directory.name;
    let mut notes = Vec::new();
    if let (Some(mechanism), Some(reason)) = (&directory.mechanism, &directory.mechanism_reason) {
        notes.push(format!("mechanism {mechanism}, because {reason}"));
    }
    if let Some(loss) = &directory.held {
        notes.extend(held(loss, name, false));
    }
    if let Some(error) = &directory.last_error {
        let tried = directory.last_attempt.map_or_else(String::new, |at| format!(" {}", relative(now, at)));
        let again = if directory.state == DirectoryState::Backoff { "; it will be tried again" } else { "" };
        notes.push(format!("the last sync{tried} failed: {error}{again}"));
    }
    if let Some(DriftReport { last_reconcile, found, total }) = directory.drift {
        let compared = format!("compared with the whole directory {}", relative(now, last_reconcile));
        let found = match found {
            0 => "nothing differed".to_owned(),
            found => format!("{} differed and {} repaired", count(found, "user"), were(found)),
        };
        let before = if total > 0 { format!(", {total} in all since the start") } else { String::new() };
        notes.push(format!("{compared}: {found}{before}"));
    }
    notes.extend(directory.warning.clone());
    if !directory.skipped.is_empty() {
        notes.push(skipped(&directory.skipped));
    }
    notes.extend(left_out(directory.foreign_names, directory.logins_only));
    if !directory.configured {
        notes.push(format!(
            "not configured: its users keep their seats and take no new ones; seatkeeper directory rename {name} NEW \
             carries them over to another name, seatkeeper directory forget {name} removes them"
        ));
    }
    notes.iter().map(|note| format!("{}\n", clean(&format!("{name}: {note}")))).collect()
}

fn were(number: u64) -> &'static str {
    if number == 1 { "was" } else { "were" }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{at, directory, status as sample};
    use super::*;
    use crate::service::answers::{ClashStatus, ListenerStatus, LossReport};

    #[track_caller]
    fn check(value: &Status, expected: &str) {
        let page = status(value, at(0));
        assert_eq!(page, expected, "\n{page}");
    }

    #[test]
    fn a_quiet_day() {
        let listeners = vec![ListenerStatus {
            kind: "http".to_owned(),
            bind: "127.0.0.1:8460".to_owned(),
            connections: 2,
        }];
        check(
            &Status { listeners, ..sample() },
            "Seatkeeper 0.1.0, started 3 h ago, ready\n\
             \n\
             Licence  active, 25 seats\n\
             Seats    3 used of 25, 22 free\n\
             Users    12 mapped, 1 disabled\n\
             \n\
             DIRECTORY  DOMAIN       STATE  MECHANISM  USERS  SEATS  LAST SUCCESS\n\
             corp       example.org  idle   sweep         12      3  5 min ago\n\
             \n\
             LISTENER  BIND            CONNECTIONS\n\
             http      127.0.0.1:8460            2\n",
        );
    }

    #[test]
    fn a_directory_tells_how_it_is_synced() {
        let why = |mechanism: &str, reason: &str| DirectoryStatus {
            mechanism: Some(mechanism.to_owned()),
            mechanism_reason: Some(reason.to_owned()),
            ..directory("corp")
        };
        let drift = |found, total| Some(DriftReport { last_reconcile: at(-7200), found, total });
        let notes = |directory| notes(&directory, at(0)).concat();
        assert_eq!(
            notes(DirectoryStatus { drift: drift(0, 0), ..why("syncrepl", "the server offers it") }),
            "corp: mechanism syncrepl, because the server offers it\n\
             corp: compared with the whole directory 2 h ago: nothing differed\n"
        );
        let told = |found, total| notes(DirectoryStatus { drift: drift(found, total), ..directory("corp") });
        assert!(told(1, 1).ends_with(": 1 user differed and was repaired, 1 in all since the start\n"));
        assert!(told(2, 5).ends_with(": 2 users differed and were repaired, 5 in all since the start\n"));
        assert!(told(0, 5).ends_with(": nothing differed, 5 in all since the start\n"));
    }

    #[test]
    fn a_refresh_shows_how_far_it_is() {
        let state = DirectoryState::Refreshing;
        let busy = DirectoryStatus { state, seen: 12_000, rate: Some(8000), ..directory("corp") };
        let page = directories(std::slice::from_ref(&busy), at(0));
        assert!(page.contains("refreshing, 12000 read, 8000/s"), "{page}");
        assert_eq!(
            progress(&busy, Duration::from_millis(1700)),
            "corp: refreshing, 12000 read, 8000/s, 12 users mapped, 1 s"
        );
        let begun = DirectoryStatus { seen: 0, name: "a\rb".to_owned(), ..busy };
        assert_eq!(progress(&begun, Duration::ZERO), "a\u{fffd}b: refreshing, 12 users mapped, 0 s");
        assert_eq!(progress(&directory("corp"), Duration::ZERO), "corp: idle, 12 users mapped, 0 s");
    }

    #[test]
    fn a_bad_day() {
        let held = LossReport { removed: 9, disabled: 1, people: 12, ..LossReport::default() };
        let directories = vec![
            DirectoryStatus {
                state: DirectoryState::Held,
                seat_limit: Some(50),
                held: Some(held),
                skipped: [("no_id".to_owned(), 2), ("no_name".to_owned(), 1)].into(),
                ..directory("corp")
            },
            DirectoryStatus {
                state: DirectoryState::Backoff,
                mechanism: None,
                last_success: None,
                last_error: Some("ldap.example.org: \u{1b}refused".to_owned()),
                ..directory("lab")
            },
            DirectoryStatus { domain: String::new(), configured: false, ..directory("old") },
        ];
        let clashes = vec![ClashStatus {
            name: "x@example.org".to_owned(),
            owner: "a@example.org".to_owned(),
            claimant: "b@example.org".to_owned(),
        }];
        let seats_by_origin = SeatsByOrigin { mapped: 20, local: 8, imported: 2 };
        let seats = SeatsStatus { limit: 25, used: 30, free: 0, over_limit: true };
        let users = UsersStatus { total: 12, mapped: 12, local: 0, imported: 0, disabled: 0, tombstoned: 4 };
        check(
            &Status { ready: false, seats, seats_by_origin, users, directories, clashes, ..sample() },
            "Seatkeeper 0.1.0, started 3 h ago, not ready: a directory was never mapped yet\n\
             \n\
             Licence  active, 25 seats\n\
             Seats    30 used of 25: 5 MORE THAN THE LICENCE HAS; holders go on, nobody new gets one \
             before so many are released\n\
             Users    12 mapped, 4 removed and in their grace period\n\
             Origins  seats: 20 mapped, 8 local, 2 imported\n\
             \n\
             DIRECTORY  DOMAIN       STATE           MECHANISM  USERS  SEATS  LAST SUCCESS\n\
             corp       example.org  held            sweep         12   3/50  5 min ago\n\
             lab        example.org  backoff         -             12      3  never\n\
             old        -            not configured  sweep         12      3  5 min ago\n\
             \n\
             corp: the brake holds back 9 removals and 1 disabling of 12 users; if that is right: seatkeeper sync approve corp\n\
             corp: 3 entries skipped: no_id 2, no_name 1\n\
             lab: the last sync 5 min ago failed: ldap.example.org: \u{fffd}refused; it will be tried again\n\
             old: not configured: its users keep their seats and take no new ones; seatkeeper directory rename old NEW carries \
             them over to another name, seatkeeper directory forget old removes them\n\
             \n\
             Names that two users claim:\n  \
             x@example.org: a@example.org has it, b@example.org is mapped without it\n",
        );
    }

    #[test]
    fn a_new_daemon_without_a_licence() {
        let license = LicenseStatus { state: "missing".to_owned(), ..LicenseStatus::default() };
        let seats = SeatsStatus { limit: 0, used: 0, free: 0, over_limit: false };
        let users = UsersStatus { total: 0, mapped: 0, local: 0, imported: 0, disabled: 0, tombstoned: 0 };
        check(
            &Status { started: at(0), license, seats, users, directories: Vec::new(), ..sample() },
            "Seatkeeper 0.1.0, started just now, ready\n\
             \n\
             Licence  missing: nobody new gets a seat; write seats into [license], or install a licence\n\
             Seats    0 used\n\
             Users    0 mapped\n\
             \n\
             No directory is configured.\n",
        );
    }

    #[test]
    fn a_clock_that_is_wrong_is_told() {
        let problem = Some("the clock says 2040: set it".to_owned());
        let doubted = ClockStatus { in_doubt: true, since: Some(at(0)), problem, ..ClockStatus::default() };
        assert_eq!(
            clock(&doubted),
            "Clock    IN DOUBT since 2026-03-01 12:00 UTC: the clock says 2040: set it\n"
        );
        let behind = ClockStatus { since: None, ..doubted };
        assert_eq!(clock(&behind), "Clock    the clock says 2040: set it\n");
        assert_eq!(clock(&ClockStatus::default()), "");
    }

    #[test]
    fn the_last_seat_is_told() {
        let count = SeatsStatus { limit: 25, used: 25, free: 0, over_limit: false };
        assert_eq!(
            seats(&count, &sample().license),
            "25 of 25 used, NONE FREE: release some (`seatkeeper users --seated --sort last-login` shows who is longest \
             away), or install a license with more"
        );
    }

    #[test]
    fn mailboxes_without_a_seat_are_counted() {
        let check = |mailboxes, allowed, expected: &str| {
            assert_eq!(seatless(SeatlessStatus { mailboxes, allowed }), expected);
        };
        check(0, Some(5), "");
        check(3, Some(5), "Seatless 3 of 5 mailboxes\n");
        check(3, None, "Seatless 3 mailboxes\n");
        check(3, Some(1), "Seatless 3 mailboxes, THE LICENSE ALLOWS 1: the 2 mapped last need a seat each\n");
    }
}
