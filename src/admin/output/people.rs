//! `users`, `explain`, `seats`.

use std::fmt::Write;

use jiff::Timestamp;

use super::{Columns, clean, count, dated, moment, relative};
use crate::service::answers::{
    AccountReport, Explanation, HistoryLine, MovingPerson, SeatChange, UserLine, Verdict,
};

/// The list of users.
pub(crate) fn users(users: &[UserLine], now: Timestamp) -> String {
    if users.is_empty() {
        return "no users\n".to_owned();
    }
    let columns =
        Columns { header: ["USER", "NAME", "DIRECTORY", "SEAT", "LAST LOGIN", "STATE"], right: &[] };
    columns.lines(users, |user| {
        let state = match user.removed_at {
            Some(at) => format!("removed {}", relative(now, at)),
            None if user.enabled => String::new(),
            None => "disabled".to_owned(),
        };
        [
            user.user.clone(),
            user.display_name.clone().unwrap_or_default(),
            from(&user.directory, &user.origin),
            user.seat_since.map_or_else(|| "-".to_owned(), |at| relative(now, at)),
            user.last_login.map_or_else(|| "never".to_owned(), |at| relative(now, at)),
            state,
        ]
    })
}

/// The directory, or, in brackets, what stands in its place.
pub(super) fn from(directory: &Option<String>, origin: &str) -> String {
    directory.clone().unwrap_or_else(|| format!("({origin})"))
}

/// All about one user.
pub(crate) fn explanation(explanation: &Explanation, now: Timestamp) -> String {
    let Explanation { user, names_held_by_others: others, directory, kind, counts_because, .. } = explanation;
    let mut page = match &explanation.display_name {
        Some(name) => format!("{} ({})\n\n", clean(user), clean(name)),
        None => format!("{}\n\n", clean(user)),
    };
    let mut line = |label: &str, text: String| {
        let _ = writeln!(page, "{label:<12}{}", clean(&text));
    };
    line("Names", explanation.names.join(", "));
    if !others.is_empty() {
        line(
            "Not theirs",
            format!(
                "{}: the entry has it, but another user owns it, or other directories serve its domain",
                others.join(", ")
            ),
        );
    }
    let since = dated(now, explanation.since);
    match directory {
        Some(directory) => {
            let state = if explanation.configured { "" } else { ", not configured any more" };
            line("Directory", format!("{directory}{state}, mapped since {since}"));
            line("Entry", explanation.dn.clone());
            line("Id", explanation.id.clone());
        }
        None => line("Account", format!("{}, since {since}", explanation.origin)),
    }
    line("Kind", format!("{kind}, {}", if explanation.enabled { "enabled" } else { "disabled" }));
    if let Some(removed_at) = explanation.removed_at {
        let forgotten = explanation.forgotten_at.map(|at| format!(", forgotten {}", relative(now, at)));
        let removed = dated(now, removed_at);
        line("Removed", format!("{removed}{}", forgotten.unwrap_or_default()));
    }
    line("Counts", format!("{}: {counts_because}", if explanation.counts { "yes" } else { "no" }));
    if let Some(seat) = &explanation.seat {
        line("Seat", format!("since {}, by {}", dated(now, seat.granted_at), seat.by));
    }
    if !explanation.components.is_empty() {
        line("Components", explanation.components.join(", "));
    }
    line(
        "Last login",
        match &explanation.last_login {
            Some(login) => {
                let through = login.service.as_ref().map(|service| format!(", {service}"));
                format!("{}{}", dated(now, login.at), through.unwrap_or_default())
            }
            None => "never".to_owned(),
        },
    );
    if let Some(refusals) = &explanation.refusals {
        let (first, last) = (dated(now, refusals.first), dated(now, refusals.last));
        let reason = &refusals.reason;
        line(
            "Refused",
            match refusals.count {
                1 => format!("once, {last}: {reason}"),
                number => format!("{}, first {first}, last {last}: {reason}", count(number, "time")),
            },
        );
    }
    for MovingPerson { user, id, directory, .. } in &explanation.removed_holders {
        let directory = from(directory, "account");
        let command = format!("seatkeeper seats move {id} {}", explanation.id);
        line(
            "Same name",
            format!("the removed {user} of {directory} holds a seat; if it is the same person: {command}"),
        );
    }
    line("A login now", login_now(&explanation.login_now));
    page
}

fn login_now(Verdict { allow, decision, message, .. }: &Verdict) -> String {
    format!("{} ({decision}): {message}", if *allow { "is let in" } else { "is refused" })
}

/// One seat given or taken back.
pub(crate) fn change(change: &SeatChange) -> String {
    let SeatChange { user, message, seats_used, .. } = change;
    let line = format!("{user}: {message} ({} in use)", count(*seats_used, "seat"));
    format!("{}\n", clean(&line))
}

/// One account changed.
pub(crate) fn account(report: &AccountReport) -> String {
    let AccountReport { user, message, seats_used, .. } = report;
    let line = format!("{user}: {message} ({} in use)", count(*seats_used, "seat"));
    format!("{}\n", clean(&line))
}

/// The ledger.
pub(crate) fn history(history: &[HistoryLine], now: Timestamp) -> String {
    if history.is_empty() {
        return "no seat was ever granted\n".to_owned();
    }
    let columns = Columns { header: ["AT", "", "EVENT", "USER", "REASON", "SEATS"], right: &[5] };
    columns.lines(history, |line| {
        [
            moment(line.at),
            relative(now, line.at),
            line.event.clone(),
            line.user.clone(),
            line.reason.clone(),
            line.seats_used.to_string(),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::at;
    use super::*;
    use crate::service::answers::{LoginReport, RefusalsReport, SeatReport};

    const DAY: i64 = 86_400;

    fn alice() -> UserLine {
        UserLine {
            user: "alice@example.org".to_owned(),
            names: vec!["alice@example.org".to_owned()],
            id: "e4163207-d094-4996-82f0-ee99731c9452".to_owned(),
            dn: "uid=alice,ou=people,dc=example,dc=org".to_owned(),
            display_name: Some("Alice".to_owned()),
            directory: Some("corp".to_owned()),
            origin: "mapped".to_owned(),
            enabled: true,
            removed_at: None,
            seat_since: Some(at(-12 * DAY)),
            last_login: Some(at(-180)),
        }
    }

    #[test]
    fn users_stand_in_columns() {
        let bob = UserLine {
            user: "bob@example.org".to_owned(),
            display_name: Some("Bob\r\u{1b}[31m".to_owned()),
            enabled: false,
            seat_since: None,
            last_login: None,
            ..alice()
        };
        let carol = UserLine {
            user: "carol@example.org".to_owned(),
            display_name: None,
            removed_at: Some(at(-3 * DAY)),
            ..alice()
        };
        let page = users(&[alice(), bob, carol], at(0));
        let expected = "USER               NAME       DIRECTORY  SEAT      LAST LOGIN  STATE\n\
                        alice@example.org  Alice      corp       12 d ago  3 min ago\n\
                        bob@example.org    Bob\u{fffd}\u{fffd}[31m  corp       -         never       disabled\n\
                        carol@example.org             corp       12 d ago  3 min ago   removed 3 d ago\n";
        assert_eq!(page, expected, "\n{page}");
        assert_eq!(users(&[], at(0)), "no users\n");
    }

    fn explained() -> Explanation {
        Explanation {
            user: "alice@example.org".to_owned(),
            names: vec!["alice@example.org".to_owned(), "al@example.org".to_owned()],
            names_held_by_others: Vec::new(),
            display_name: Some("Alice".to_owned()),
            directory: Some("corp".to_owned()),
            origin: "mapped".to_owned(),
            id: "0b5cd3a0".to_owned(),
            dn: "uid=alice,dc=example,dc=org".to_owned(),
            kind: "person".to_owned(),
            enabled: true,
            since: at(-30 * DAY),
            removed_at: None,
            forgotten_at: None,
            counts: true,
            counts_because: "holds a seat".to_owned(),
            seat: Some(SeatReport { granted_at: at(-12 * DAY), by: "login (imap)".to_owned() }),
            components: vec!["activesync".to_owned()],
            last_login: Some(LoginReport { at: at(-180), service: Some("imap".to_owned()) }),
            refusals: None,
            configured: true,
            removed_holders: Vec::new(),
            login_now: Verdict {
                allow: true,
                decision: "held".to_owned(),
                user: "alice@example.org".to_owned(),
                message: "A seat is held.".to_owned(),
            },
        }
    }

    #[test]
    fn a_holder_is_explained() {
        let page = explanation(&explained(), at(0));
        let expected = "alice@example.org (Alice)\n\
                        \n\
                        Names       alice@example.org, al@example.org\n\
                        Directory   corp, mapped since 2026-01-30 12:00 UTC (30 d ago)\n\
                        Entry       uid=alice,dc=example,dc=org\n\
                        Id          0b5cd3a0\n\
                        Kind        person, enabled\n\
                        Counts      yes: holds a seat\n\
                        Seat        since 2026-02-17 12:00 UTC (12 d ago), by login (imap)\n\
                        Components  activesync\n\
                        Last login  2026-03-01 11:57 UTC (3 min ago), imap\n\
                        A login now is let in (held): A seat is held.\n";
        assert_eq!(page, expected, "\n{page}");
    }

    #[test]
    fn a_removed_and_refused_user_is_explained() {
        let refusals =
            RefusalsReport { first: at(-2 * DAY), last: at(-60), count: 3, reason: "exhausted".to_owned() };
        let removed = Explanation {
            names_held_by_others: vec!["info@example.org".to_owned()],
            display_name: None,
            enabled: false,
            components: Vec::new(),
            removed_at: Some(at(-DAY)),
            forgotten_at: Some(at(6 * DAY)),
            counts: false,
            counts_because: "gone from the directory, and held no seat".to_owned(),
            seat: None,
            last_login: None,
            refusals: Some(refusals.clone()),
            login_now: Verdict {
                allow: false,
                decision: "removed".to_owned(),
                user: "alice@example.org".to_owned(),
                message: "This account was removed.".to_owned(),
            },
            ..explained()
        };
        let page = explanation(&removed, at(0));
        let expected = "alice@example.org\n\
                        \n\
                        Names       alice@example.org, al@example.org\n\
                        Not theirs  info@example.org: the entry has it, but another user owns it, or other directories serve its domain\n\
                        Directory   corp, mapped since 2026-01-30 12:00 UTC (30 d ago)\n\
                        Entry       uid=alice,dc=example,dc=org\n\
                        Id          0b5cd3a0\n\
                        Kind        person, disabled\n\
                        Removed     2026-02-28 12:00 UTC (1 d ago), forgotten in 6 d\n\
                        Counts      no: gone from the directory, and held no seat\n\
                        Last login  never\n\
                        Refused     3 times, first 2026-02-27 12:00 UTC (2 d ago), last 2026-03-01 11:59 UTC (1 min ago): exhausted\n\
                        A login now is refused (removed): This account was removed.\n";
        assert_eq!(page, expected, "\n{page}");
        let holder = MovingPerson {
            user: "alice@example.org".to_owned(),
            id: "77aa".to_owned(),
            dn: String::new(),
            directory: Some("corp".to_owned()),
            removed_at: Some(at(0)),
        };
        let orphan = Explanation { configured: false, ..removed.clone() };
        let line = "Directory   corp, not configured any more, mapped since 2026-01-30";
        assert!(explanation(&orphan, at(0)).contains(line));
        let again = Explanation { removed_holders: vec![holder], ..removed.clone() };
        let hint = "Same name   the removed alice@example.org of corp holds a seat; if it is the same person: \
                    seatkeeper seats move 77aa 0b5cd3a0\n";
        assert!(explanation(&again, at(0)).contains(hint));
        let once = RefusalsReport { count: 1, ..refusals };
        let page = explanation(&Explanation { refusals: Some(once), ..removed }, at(0));
        assert!(page.contains("Refused     once, 2026-03-01 11:59 UTC (1 min ago): exhausted\n"), "{page}");
    }

    #[test]
    fn the_ledger_stands_in_columns() {
        let granted = HistoryLine {
            at: at(-60),
            event: "granted".to_owned(),
            user: "alice@example.org".to_owned(),
            reason: "login (imap)".to_owned(),
            seats_used: 10,
        };
        let released = HistoryLine {
            at: at(-DAY),
            event: "released".to_owned(),
            user: "bob@example.org".to_owned(),
            reason: "administrator".to_owned(),
            seats_used: 9,
        };
        let page = history(&[granted, released], at(0));
        let expected = "AT                               EVENT     USER               REASON         SEATS\n\
                        2026-03-01 11:59 UTC  1 min ago  granted   alice@example.org  login (imap)      10\n\
                        2026-02-28 12:00 UTC  1 d ago    released  bob@example.org    administrator      9\n";
        assert_eq!(page, expected, "\n{page}");
        assert_eq!(history(&[], at(0)), "no seat was ever granted\n");
    }

    #[test]
    fn a_change_is_one_line() {
        let granted = SeatChange {
            user: "alice@example.org".to_owned(),
            outcome: "granted".to_owned(),
            done: true,
            message: "A seat was granted.".to_owned(),
            seats_used: 1,
        };
        assert_eq!(change(&granted), "alice@example.org: A seat was granted. (1 seat in use)\n");
    }
}
