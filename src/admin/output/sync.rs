//! What a sync did or would do, and what `verify` found.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{clean, count, list, moved};
use crate::domain::brake::{Excess, sums};
use crate::service::answers::{LossReport, NameTaken, NamesTaken, SeatMoved, SyncReport, Verification};

/// One sync, or a dry run.
pub(crate) fn report(report: &SyncReport) -> String {
    let name = clean(&report.directory);
    let mut lines = vec![format!("{}: {}", entries(report.seen, "read"), changes(report))];
    lines.extend(lists(report));
    lines.extend(seats(report));
    if !report.skipped.is_empty() {
        lines.push(skipped(&report.skipped));
    }
    lines.extend(left_out(report.foreign_names, report.logins_only));
    lines.extend(names_taken(&report.names_taken));
    if let Some(loss) = &report.held {
        lines.extend(held(loss, &name, report.dry_run));
    }
    let config = report.config.as_ref().map(|config| format!(" by {}", clean(config))).unwrap_or_default();
    let outcome = match (report.dry_run, report.held.is_some()) {
        (true, _) => format!("dry run{config}, nothing was changed; a sync would do this:"),
        (false, false) => "synced".to_owned(),
        (false, true) => "synced, except for what the brake holds back".to_owned(),
    };
    let mut page = format!("{name}: {outcome}\n");
    for line in lines {
        let _ = writeln!(page, "  {}", clean(&line));
    }
    page + &report.moves.as_ref().map(moved).unwrap_or_default()
}

fn names_taken(taken: &NamesTaken) -> Vec<String> {
    let NamesTaken { names, first } = taken;
    if *names == 0 {
        return Vec::new();
    }
    let mut lines = vec![format!("the configuration takes {} from their users", count(*names, "name"))];
    lines.extend(
        first.iter().map(|NameTaken { user, name, reason }| format!("  {user} loses {name}: {reason}")),
    );
    let more = names.saturating_sub(first.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

fn changes(report: &SyncReport) -> String {
    let some = |number: u64, what: &str| {
        if number > 0 { format!("{number} {what}") } else { String::new() }
    };
    let changes = list([
        some(report.added, "added"),
        some(report.changed, "changed"),
        some(report.returned, "returned"),
        some(report.disabled, "disabled"),
        some(report.removed, "removed"),
    ]);
    let what = if report.lists_removed > 0 { "no user" } else { "nothing" };
    match (changes.is_empty(), report.dry_run) {
        (false, _) => changes,
        (true, false) => format!("{what} changed"),
        (true, true) => format!("{what} to change"),
    }
}

/// The first of `all`, after a colon.
fn whose(first: &[String], all: u64) -> String {
    match first {
        [] => String::new(),
        first if first.len() as u64 == all => format!(": {}", first.join(", ")),
        first => format!(": {}, …", first.join(", ")),
    }
}

fn lists(report: &SyncReport) -> Option<String> {
    let SyncReport { lists_removed, lists_removed_of, dry_run, .. } = report;
    let (removed, is) = if *dry_run { ("would be removed", "would be") } else { ("removed", "is") };
    let which = whose(lists_removed_of, *lists_removed);
    let lists = match lists_removed {
        0 => return None,
        1 => "1 list, room or contact".to_owned(),
        lists => format!("{lists} lists, rooms or contacts"),
    };
    Some(format!("{lists} {removed}, and mail to them {is} refused{which}"))
}

fn seats(report: &SyncReport) -> Vec<String> {
    let released = if report.dry_run { "would be released" } else { "released" };
    let mut lines = Vec::new();
    if report.seats_moved > 0 {
        let moves = report
            .seats_moved_of
            .iter()
            .map(|SeatMoved { old_user, from, user, to }| format!("{old_user} of {from} to {user} of {to}"));
        let which = whose(&moves.collect::<Vec<_>>(), report.seats_moved);
        let moved = if report.dry_run { "would be moved" } else { "moved" };
        lines.push(format!("{} {moved}{which}", count(report.seats_moved, "seat")));
    }
    if report.seats_released > 0 {
        let whose = whose(&report.seats_released_of, report.seats_released);
        let seats = count(report.seats_released, "seat");
        lines.push(format!(
            "{seats} {released}, of disabled users, seatless mailboxes and second entries{whose}"
        ));
    }
    if report.seats_released_after_grace > 0 {
        let seats = count(report.seats_released_after_grace, "seat");
        let when = "when the grace period of removed users ends";
        let released = if report.dry_run { "would be released" } else { "will be released" };
        lines.push(format!("{seats} {released} {when}"));
    }
    lines
}

fn entries(number: u64, what: &str) -> String {
    if number == 1 { format!("1 entry {what}") } else { format!("{number} entries {what}") }
}

/// Entries that were not mapped, with the reasons.
pub(super) fn skipped(skipped: &BTreeMap<String, u64>) -> String {
    let reasons = list(skipped.iter().map(|(reason, number)| format!("{reason} {number}")));
    format!("{}: {reasons}", entries(skipped.values().sum(), "skipped"))
}

/// What entries were mapped without.
pub(super) fn left_out(foreign_names: u64, logins_only: u64) -> Option<String> {
    let addresses = if foreign_names == 1 { "address" } else { "addresses" };
    let foreign = format!("{foreign_names} {addresses} left out (foreign_names = false)");
    let logins = format!("{} mapped for logins only (login_is_address = false)", count(logins_only, "user"));
    match (foreign_names, logins_only) {
        (0, 0) => None,
        (_, 0) => Some(foreign),
        (0, _) => Some(logins),
        (_, _) => Some(format!("{foreign}, {logins}")),
    }
}

/// What the brake holds back, or would; by which sums, and whom it is about.
pub(super) fn held(held: &LossReport, name: &str, dry_run: bool) -> Vec<String> {
    let loss = loss(held);
    let mut lines = vec![if dry_run {
        format!("the brake would hold back {loss}")
    } else {
        format!("the brake holds back {loss}; if that is right: seatkeeper sync approve {name}")
    }];
    lines.extend(sums(held.losses.map(Excess::from), held.enablings.map(Excess::from)));
    if !held.users.is_empty() {
        let affected = held.removed + held.disabled + held.seatless + held.names + held.enabled;
        let more = affected.saturating_sub(held.users.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let seats = count(held.seats, "seat");
        lines.push(format!("they hold {seats}: {}{more}", held.users.join(" ")));
    }
    lines
}

fn loss(loss: &LossReport) -> String {
    let some = |number: u64, noun: &str| (number > 0).then(|| count(number, noun));
    let some_of = |number: u64, one: &str, many: &str| {
        (number > 0).then(|| format!("{number} {}", if number == 1 { one } else { many }))
    };
    let parts = [
        some(loss.removed, "removal"),
        some(loss.disabled, "disabling"),
        some_of(loss.seatless, "seat of a seatless mailbox", "seats of seatless mailboxes"),
        some_of(loss.names, "loss of names", "losses of names"),
        some(loss.enabled, "enabling"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let found_nobody = if loss.empty { " (the directory showed nobody at all)" } else { "" };
    let parts = match parts.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        parts => parts.concat(),
    };
    format!("{parts} of {}{found_nobody}", count(loss.people, "user"))
}

/// What `verify` found.
pub fn verification(verification: &Verification) -> String {
    if verification.clean {
        return "all invariants hold\n".to_owned();
    }
    verification.findings.iter().map(|finding| format!("{}\n", clean(finding))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::answers::SumReport;

    fn sample() -> SyncReport {
        SyncReport { directory: "corp".to_owned(), seen: 12, ..SyncReport::default() }
    }

    #[track_caller]
    fn check(value: &SyncReport, expected: &str) {
        assert_eq!(report(value), expected);
    }

    #[test]
    fn reports_of_syncs() {
        check(&sample(), "corp: synced\n  12 entries read: nothing changed\n");
        let busy = SyncReport {
            added: 3,
            changed: 1,
            returned: 1,
            disabled: 1,
            removed: 2,
            skipped: [("no_id".to_owned(), 1)].into(),
            foreign_names: 2,
            logins_only: 1,
            seats_released: 1,
            seats_released_after_grace: 2,
            ..sample()
        };
        check(
            &busy,
            "corp: synced\n  \
             12 entries read: 3 added, 1 changed, 1 returned, 1 disabled, 2 removed\n  \
             1 seat released, of disabled users, seatless mailboxes and second entries\n  \
             2 seats will be released when the grace period of removed users ends\n  \
             1 entry skipped: no_id 1\n  \
             2 addresses left out (foreign_names = false), 1 user mapped for logins only (login_is_address = false)\n",
        );
        let taken =
            NameTaken { user: "eve@a.org".into(), name: "ceo@b.org".into(), reason: "it is odd".into() };
        check(
            &SyncReport {
                dry_run: true,
                names_taken: NamesTaken { names: 3, first: vec![taken] },
                ..sample()
            },
            "corp: dry run, nothing was changed; a sync would do this:\n  \
             12 entries read: nothing to change\n  \
             the configuration takes 3 names from their users\n    \
             eve@a.org loses ceo@b.org: it is odd\n    \
             and 2 more\n",
        );
        check(
            &SyncReport { dry_run: true, seats_released_of: vec!["eve@a.org".into()], ..busy },
            "corp: dry run, nothing was changed; a sync would do this:\n  \
             12 entries read: 3 added, 1 changed, 1 returned, 1 disabled, 2 removed\n  \
             1 seat would be released, of disabled users, seatless mailboxes and second entries: eve@a.org\n  \
             2 seats would be released when the grace period of removed users ends\n  \
             1 entry skipped: no_id 1\n  \
             2 addresses left out (foreign_names = false), 1 user mapped for logins only (login_is_address = false)\n",
        );
    }

    #[test]
    fn a_dry_run_names_its_file_and_what_becomes_of_lists_and_seats() {
        let moved = SeatMoved {
            old_user: "eve@a.org".into(),
            from: "old".into(),
            user: "eve@b.org".into(),
            to: "corp".into(),
        };
        let value = SyncReport {
            lists_removed: 3,
            lists_removed_of: vec!["all@a.org".into(), "room@a.org".into()],
            seats_moved: 1,
            seats_moved_of: vec![moved],
            ..sample()
        };
        check(
            &SyncReport { dry_run: true, config: Some("/etc/s.toml".into()), ..value.clone() },
            "corp: dry run by /etc/s.toml, nothing was changed; a sync would do this:\n  \
             12 entries read: no user to change\n  \
             3 lists, rooms or contacts would be removed, and mail to them would be refused: all@a.org, room@a.org, …\n  \
             1 seat would be moved: eve@a.org of old to eve@b.org of corp\n",
        );
        check(
            &value,
            "corp: synced\n  \
             12 entries read: no user changed\n  \
             3 lists, rooms or contacts removed, and mail to them is refused: all@a.org, room@a.org, …\n  \
             1 seat moved: eve@a.org of old to eve@b.org of corp\n",
        );
    }

    #[test]
    fn reports_of_held_syncs() {
        let held = Some(LossReport { removed: 12, people: 12, empty: true, ..LossReport::default() });
        check(
            &SyncReport { seen: 0, held, ..sample() },
            "corp: synced, except for what the brake holds back\n  \
             0 entries read: nothing changed\n  \
             the brake holds back 12 removals of 12 users (the directory showed nobody at all); \
             if that is right: seatkeeper sync approve corp\n",
        );
        let at = |text: &str| text.parse().unwrap();
        let held = Some(LossReport {
            removed: 4,
            disabled: 1,
            names: 2,
            enabled: 4,
            people: 12,
            losses: Some(SumReport {
                more: 7,
                before: 1,
                at_most: 7,
                until: Some(at("2026-02-03T14:05:00Z")),
            }),
            enablings: Some(SumReport { more: 4, before: 0, at_most: 3, until: None }),
            users: vec!["ceo@x.org".to_owned(), "u2@x.org".to_owned()],
            seats: 1,
            ..LossReport::default()
        });
        check(
            &SyncReport { seen: 1, dry_run: true, held, ..sample() },
            "corp: dry run, nothing was changed; a sync would do this:\n  \
             1 entry read: nothing to change\n  \
             the brake would hold back 4 removals, 1 disabling, 2 losses of names and 4 enablings of 12 users\n  \
             losses: 7 more, after 1 in the last hour, of at most 7; until 14:05 UTC\n  \
             enabled again: 4 more, after 0 in the last hour, of at most 3; until approved\n  \
             they hold 1 seat: ceo@x.org u2@x.org and 9 more\n",
        );
    }

    #[test]
    fn findings_are_listed() {
        let clean = Verification { clean: true, findings: Vec::new() };
        assert_eq!(verification(&clean), "all invariants hold\n");
        let findings = vec!["one".to_owned(), "t\two".to_owned()];
        assert_eq!(verification(&Verification { clean: false, findings }), "one\nt\u{fffd}wo\n");
    }
}
