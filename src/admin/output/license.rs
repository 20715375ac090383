//! The licence: a few lines of `status`, and the page of `license show`.

use std::fmt::Write;

use jiff::Timestamp;

use super::{clean, count, dated, list, moment, relative};
use crate::service::answers::{ComingLicense, ComponentStatus, LicenseStatus, RefreshStatus};

/// What `status` says in its first line about the licence.
pub(super) fn summary(license: &LicenseStatus) -> String {
    match license.state.as_str() {
        "missing" if license.declared || license.problems.is_empty() => {
            "missing: nobody new gets a seat; write seats into [license], or install a licence".to_owned()
        }
        "missing" => "missing: nobody new gets a seat".to_owned(),
        state => list([state.to_owned(), seats(license), left(license)]),
    }
}

fn seats(license: &LicenseStatus) -> String {
    let seats = count(license.seats, "seat");
    let seats = match license.overage_percent {
        0 => seats,
        percent => format!("{seats} and {percent} % more"),
    };
    match license.seatless {
        Some(1) => format!("{seats}, 1 seatless mailbox"),
        Some(number) if number > 1 => format!("{seats}, {number} seatless mailboxes"),
        _ => seats,
    }
}

fn left(license: &LicenseStatus) -> String {
    let (Some(days), Some(expires)) = (license.days_left, license.expires) else { return String::new() };
    let date = expires.strftime("%Y-%m-%d");
    match license.state.as_str() {
        "active" | "expiring" => format!("{} left (until {date})", days_text(days)),
        "grace" => {
            let ends = license.ends.map(|ends| ends.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
            format!("ENDED on {date}, everything goes on until {ends}")
        }
        _ if license.on_expiry.as_deref() == Some("refuse_all") => format!("ENDED on {date}: NOBODY enters"),
        _ => format!("ENDED on {date}: holders enter, nobody new gets a seat"),
    }
}

fn days_text(days: i64) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

/// What `status` says in further lines: nothing where the seats are declared.
pub(super) fn details(license: &LicenseStatus, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(id) = &license.id {
        let serial = license.serial.map(|serial| format!("serial {serial}")).unwrap_or_default();
        lines.push(list([id.clone(), serial, licensee(license)]));
        let date = |what: &str, date: &Option<String>| {
            date.as_ref().map(|date| format!("{what} {date}")).unwrap_or_default()
        };
        let dates =
            [date("registered", &license.registered), date("maintenance until", &license.maintenance_until)];
        lines.push(list(dates));
    }
    lines.extend(license.components.iter().map(component));
    lines.extend(license.coming.as_ref().map(|coming| format!("then {}", self::coming(coming))));
    lines.extend(license.last_refresh.as_ref().map(|refresh| refreshed(refresh, now)));
    lines.extend(license.problems.iter().map(|problem| format!("PROBLEM: {problem}")));
    lines.retain(|line| !line.is_empty());
    lines
}

fn licensee(license: &LicenseStatus) -> String {
    match (&license.licensee, &license.email) {
        (Some(name), Some(email)) => format!("{name} <{email}>"),
        (name, email) => name.clone().or(email.clone()).unwrap_or_default(),
    }
}

fn component(component: &ComponentStatus) -> String {
    let ComponentStatus { name, licensed, seats, used, expires } = component;
    let users = seats.map(|seats| format!("{} users of {seats}", used.unwrap_or(0))).unwrap_or_default();
    let date = expires.as_ref().map(|date| format!("until {date}")).unwrap_or_default();
    let over = if *licensed { String::new() } else { "OVER".to_owned() };
    let facts = list([users, date, over]);
    if facts.is_empty() { format!("component {name}") } else { format!("component {name}: {facts}") }
}

fn coming(license: &ComingLicense) -> String {
    let ComingLicense { id, serial, seats, not_before } = license;
    format!("{id}, serial {serial}, {} from {}", count(*seats, "seat"), not_before.strftime("%Y-%m-%d"))
}

fn refreshed(refresh: &RefreshStatus, now: Timestamp) -> String {
    let RefreshStatus { at, outcome, error } = refresh;
    let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("last refresh {}: {outcome}{error}", relative(now, *at))
}

/// The page of `license show`.
pub(crate) fn license(license: &LicenseStatus, now: Timestamp) -> String {
    let mut page = String::new();
    let mut line = |label: &str, text: &str| {
        if !text.is_empty() {
            let _ = writeln!(page, "{label:<14}{}", clean(text));
        }
    };
    line("State", &summary(license));
    line("Licence", license.id.as_deref().unwrap_or_default());
    line("Serial", &license.serial.map(|serial| serial.to_string()).unwrap_or_default());
    line("Licensee", &licensee(license));
    line("Issuer", license.issuer.as_deref().unwrap_or_default());
    line("Issued", &license.issued_at.map(|at| dated(now, at)).unwrap_or_default());
    line("Installed", &license.installed_at.map(|at| dated(now, at)).unwrap_or_default());
    line("Registered", license.registered.as_deref().unwrap_or_default());
    line(
        "Maintenance",
        &license.maintenance_until.as_ref().map(|d| format!("until {d}")).unwrap_or_default(),
    );
    line("Ends", &license.expires.map(|at| dated(now, at)).unwrap_or_default());
    line("Grace", &license.ends.map(|ends| format!("until {}", moment(ends))).unwrap_or_default());
    line("On expiry", license.on_expiry.as_deref().unwrap_or_default());
    line("Then", &license.coming.as_ref().map(coming).unwrap_or_default());
    for each in &license.components {
        line("Component", component(each).trim_start_matches("component "));
    }
    let bound = if license.bound { "the licence is for it alone" } else { "" };
    line("Installation", &list([license.installation.as_str(), bound]));
    line("Server", license.server.as_deref().unwrap_or_default());
    line(
        "Refreshed",
        &license
            .last_refresh
            .as_ref()
            .map(|refresh| {
                let text = refreshed(refresh, now);
                text.trim_start_matches("last refresh ").to_owned()
            })
            .unwrap_or_default(),
    );
    line("Next refresh", &license.next_refresh.map(|at| dated(now, at)).unwrap_or_default());
    for problem in &license.problems {
        line("Problem", problem);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::samples::at;
    use super::*;

    fn sample() -> LicenseStatus {
        let component = |name: &str, seats: Option<u64>, expires: Option<&str>, licensed| ComponentStatus {
            name: name.to_owned(),
            licensed,
            seats,
            used: seats.map(|_| 3),
            expires: expires.map(str::to_owned),
        };
        LicenseStatus {
            state: "expiring".to_owned(),
            seats: 25,
            overage_percent: 10,
            components: vec![
                component("activesync", Some(10), Some("2026-02-01"), false),
                component("antivirus", None, None, true),
            ],
            licensee: Some("Example\u{1b} GmbH".to_owned()),
            email: Some("it@example.org".to_owned()),
            id: Some("L-1".to_owned()),
            serial: Some(7),
            registered: Some("2025-03-13".to_owned()),
            maintenance_until: Some("2026-03-13".to_owned()),
            expires: Some(at(12 * 86_400)),
            days_left: Some(12),
            ends: Some(at(26 * 86_400)),
            on_expiry: Some("refuse_new".to_owned()),
            installation: "1111".to_owned(),
            bound: true,
            server: Some("https://l.example".to_owned()),
            last_refresh: Some(RefreshStatus {
                at: at(-7200),
                outcome: "unreachable".to_owned(),
                error: Some("no route".to_owned()),
            }),
            problems: vec!["the clock was set back".to_owned()],
            ..LicenseStatus::default()
        }
    }

    #[test]
    fn the_summary_says_what_to_do() {
        let check = |license: LicenseStatus, expected: &str| assert_eq!(summary(&license), expected);
        check(sample(), "expiring, 25 seats and 10 % more, 12 days left (until 2026-03-13)");
        let with = |state: &str, on_expiry: &str| LicenseStatus {
            state: state.to_owned(),
            on_expiry: Some(on_expiry.to_owned()),
            overage_percent: 0,
            ..sample()
        };
        check(
            with("grace", "refuse_new"),
            "grace, 25 seats, ENDED on 2026-03-13, everything goes on until 2026-03-27",
        );
        check(
            with("expired", "refuse_new"),
            "expired, 25 seats, ENDED on 2026-03-13: holders enter, nobody new gets a seat",
        );
        check(with("expired", "refuse_all"), "expired, 25 seats, ENDED on 2026-03-13: NOBODY enters");
        let missing = LicenseStatus { state: "missing".to_owned(), ..LicenseStatus::default() };
        check(missing, "missing: nobody new gets a seat; write seats into [license], or install a licence");
    }

    #[test]
    fn the_details_are_on_lines_of_their_own() {
        assert_eq!(
            details(&sample(), at(0)),
            [
                "L-1, serial 7, Example\u{1b} GmbH <it@example.org>",
                "registered 2025-03-13, maintenance until 2026-03-13",
                "component activesync: 3 users of 10, until 2026-02-01, OVER",
                "component antivirus",
                "last refresh 2 h ago: unreachable: no route",
                "PROBLEM: the clock was set back",
            ]
        );
        assert_eq!(details(&LicenseStatus::default(), at(0)), [""; 0]);
    }

    #[test]
    fn the_page_has_all_of_it() {
        let page = license(&sample(), at(0));
        assert_eq!(
            page,
            "State         expiring, 25 seats and 10 % more, 12 days left (until 2026-03-13)\n\
             Licence       L-1\n\
             Serial        7\n\
             Licensee      Example\u{fffd} GmbH <it@example.org>\n\
             Registered    2025-03-13\n\
             Maintenance   until 2026-03-13\n\
             Ends          2026-03-13 12:00 UTC (in 12 d)\n\
             Grace         until 2026-03-27 12:00 UTC\n\
             On expiry     refuse_new\n\
             Component     activesync: 3 users of 10, until 2026-02-01, OVER\n\
             Component     antivirus\n\
             Installation  1111, the licence is for it alone\n\
             Server        https://l.example\n\
             Refreshed     2 h ago: unreachable: no route\n\
             Problem       the clock was set back\n"
        );
    }
}
