//! `seats move`, and what `sync approve --match` carried over.

use std::fmt::Write;

use super::people::from;
use super::{Columns, clean, count};
use crate::service::answers::{MoveReport, MovingPerson};

/// Seats carried over, and those that were not.
pub(crate) fn moved(report: &MoveReport) -> String {
    let MoveReport { dry_run, moved, moved_total, seats_moved, skipped, skipped_total, seats_used } = report;
    let mut page = String::new();
    if !moved.is_empty() {
        let columns = Columns { header: ["FROM", "DIRECTORY", "TO", "DIRECTORY", "SEAT"], right: &[] };
        page += &columns.lines(moved, |line| {
            let seat = if line.seat { "yes" } else { "-" };
            let (old, new) = (&line.old, &line.new);
            [old.user.clone(), place(old), new.user.clone(), place(new), seat.to_owned()]
        });
    }
    for line in skipped {
        let seat = if line.seat { ", keeps its seat" } else { "" };
        let text = format!("skipped {} ({}){seat}: {}", line.old.user, line.old.id, line.message);
        let _ = writeln!(page, "{}", clean(&text));
    }
    let (people, seats) = (count(*moved_total, "user"), count(*seats_moved, "seat"));
    let verb = if *dry_run { "would be moved" } else { "moved" };
    let _ = writeln!(
        page,
        "{people} with {seats} {verb}, {skipped_total} skipped ({} in use)",
        count(*seats_used, "seat")
    );
    page
}

fn place(person: &MovingPerson) -> String {
    let directory = from(&person.directory, "account");
    if person.removed_at.is_some() { format!("{directory}, removed") } else { directory }
}

#[cfg(test)]
mod tests {
    use super::super::samples::at;
    use super::*;
    use crate::service::answers::{MovedPerson, UnmovedPerson};

    #[test]
    fn moves_stand_in_columns_and_what_was_skipped_below() {
        let person = |user: &str, directory: Option<&str>| MovingPerson {
            user: user.to_owned(),
            id: "0b5cd3a0".to_owned(),
            dn: "uid=a".to_owned(),
            directory: directory.map(str::to_owned),
            removed_at: None,
        };
        let old = MovingPerson { removed_at: Some(at(0)), ..person("a@x.org", Some("corp")) };
        let report = MoveReport {
            dry_run: true,
            moved: vec![
                MovedPerson { old, new: person("a@x.org", Some("ad")), seat: true },
                MovedPerson {
                    old: person("b@x.org", None),
                    new: person("b\r@x.org", Some("ad")),
                    seat: false,
                },
            ],
            moved_total: 2,
            seats_moved: 1,
            skipped: vec![UnmovedPerson {
                old: person("c@x.org", Some("corp")),
                seat: true,
                reason: "several_new".to_owned(),
                message: "several new entries have the name".to_owned(),
            }],
            skipped_total: 3,
            seats_used: 9,
        };
        let page = moved(&report);
        let expected = "FROM     DIRECTORY      TO        DIRECTORY  SEAT\n\
                        a@x.org  corp, removed  a@x.org   ad         yes\n\
                        b@x.org  (account)      b\u{fffd}@x.org  ad         -\n\
                        skipped c@x.org (0b5cd3a0), keeps its seat: several new entries have the name\n\
                        2 users with 1 seat would be moved, 3 skipped (9 seats in use)\n";
        assert_eq!(page, expected, "\n{page}");
        let done = MoveReport { moved_total: 1, seats_moved: 1, seats_used: 1, ..MoveReport::default() };
        assert_eq!(moved(&done), "1 user with 1 seat moved, 0 skipped (1 seat in use)\n");
    }
}
