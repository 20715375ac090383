//! `import`.

use std::fmt::Write;

use super::sync::skipped;
use super::{clean, count, list};
use crate::service::answers::{GrantsReport, ImportReport, RefusedRow};

/// What became of an import, or would.
pub(crate) fn imported(report: &ImportReport) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        let _ = writeln!(page, "{}", clean(&text));
    };
    if report.dry_run {
        for (word, users) in [("add", &report.added_users), ("change", &report.changed_users)] {
            users.iter().for_each(|user| line(format!("line {}: would {word} {}", user.line, user.user)));
        }
        let told = report.added_users.len() + report.changed_users.len();
        more(report.added + report.changed, told, &mut line);
    }
    for refusal in &report.refusals {
        let user = refusal.user.as_ref().map(|user| format!("{user}: ")).unwrap_or_default();
        line(format!("line {}: refused ({}): {user}{}", refusal.line, refusal.reason, refusal.message));
    }
    more(report.refused, report.refusals.len(), &mut line);
    if report.mapped > 0 {
        line(format!(
            "{} in a directory already, and need no import: give them seats with `seatkeeper seats grant --file LIST`",
            if report.mapped == 1 { "1 is".to_owned() } else { format!("{} are", report.mapped) },
        ));
    }
    let some = |number: u64, what: &str| {
        if number > 0 { format!("{number} {what}") } else { String::new() }
    };
    let parts = [
        format!("{} added", report.added),
        some(report.changed, "changed"),
        some(report.unchanged, "unchanged"),
        some(report.refused, "refused"),
    ];
    line(format!("{}: {}", count(report.rows, "row"), list(parts)));
    if !report.skipped.is_empty() {
        line(skipped(&report.skipped));
    }
    line(format!("seats: {} needed, {} free before", report.seats_needed, report.seats_free));
    match (report.applied, report.dry_run) {
        (true, _) => {
            line(format!("imported for {} ({} in use)", report.domain, count(report.seats_used, "seat")))
        }
        (false, true) => line("nothing was changed: this was a dry run".to_owned()),
        (false, false) => line(
            "NOTHING was imported: correct the file or free seats, or import what can be with --partial"
                .to_owned(),
        ),
    }
    page
}

/// What became of a list of users, or would.
pub(crate) fn grants(report: &GrantsReport) -> String {
    let mut page = String::new();
    let mut line = |text: String| {
        let _ = writeln!(page, "{}", clean(&text));
    };
    if report.dry_run {
        let users = &report.granted_users;
        users.iter().for_each(|user| line(format!("line {}: {} would get a seat", user.line, user.user)));
        more(report.granted, users.len(), &mut line);
    }
    for RefusedRow { line: at, user, reason, message } in &report.refusals {
        let user = user.as_deref().unwrap_or_default();
        line(format!("line {at}: {user} gets no seat ({reason}): {message}"));
    }
    more(report.refused, report.refusals.len(), &mut line);
    let some = |number: u64, what: &str| {
        if number > 0 { format!("{number} {what}") } else { String::new() }
    };
    let parts = [
        format!("{} granted", report.granted),
        some(report.held, "held one already"),
        some(report.exempt, "need none"),
        some(report.refused, "refused"),
    ];
    line(format!("{}: {}", count(report.users, "user"), list(parts)));
    line(format!("seats: {} needed, {} free before", report.seats_needed, report.seats_free));
    match (report.applied, report.dry_run) {
        (true, _) => line(format!("{} of {} used", report.seats_used, count(report.seat_limit, "seat"))),
        (false, true) => line("nothing was changed: this was a dry run".to_owned()),
        (false, false) => line(
            "NO seat was granted: correct the list or free seats, or grant what can be granted with --partial"
                .to_owned(),
        ),
    }
    page
}

/// How many were not told.
fn more(all: u64, told: usize, line: &mut impl FnMut(String)) {
    let more = all.saturating_sub(told as u64);
    if more > 0 {
        line(format!("and {more} more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::answers::ImportedLine;

    #[test]
    fn an_import_is_told() {
        let user = |line: u64, user: &str| ImportedLine { line, user: user.to_owned() };
        let report = ImportReport {
            domain: "x.org".to_owned(),
            dry_run: true,
            partial: false,
            applied: false,
            rows: 7,
            added: 2,
            changed: 1,
            unchanged: 1,
            refused: 2,
            mapped: 0,
            skipped: [("not_a_person".to_owned(), 1)].into(),
            seats_needed: 3,
            seats_free: 2,
            seats_used: 10,
            added_users: vec![user(1, "a@x.org")],
            changed_users: vec![user(3, "c@x.org")],
            refusals: vec![RefusedRow {
                line: 5,
                user: Some("e\u{1b}@x.org".to_owned()),
                reason: "exhausted".to_owned(),
                message: "All are in use.".to_owned(),
            }],
        };
        let page = imported(&report);
        let expected = "line 1: would add a@x.org\n\
                        line 3: would change c@x.org\n\
                        and 1 more\n\
                        line 5: refused (exhausted): e\u{fffd}@x.org: All are in use.\n\
                        and 1 more\n\
                        7 rows: 2 added, 1 changed, 1 unchanged, 2 refused\n\
                        1 entry skipped: not_a_person 1\n\
                        seats: 3 needed, 2 free before\n\
                        nothing was changed: this was a dry run\n";
        assert_eq!(page, expected, "\n{page}");
        let failed = imported(&ImportReport { dry_run: false, ..report.clone() });
        assert!(failed.starts_with("line 5: refused") && failed.contains("NOTHING was imported"), "{failed}");
        let done = ImportReport { applied: true, dry_run: false, refused: 0, refusals: Vec::new(), ..report };
        assert!(imported(&done).ends_with("imported for x.org (10 seats in use)\n"));
    }
}
