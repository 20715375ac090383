//! `seats reclaim` and `seats refused`.

use std::fmt::Write;

use jiff::Timestamp;

use super::people::from;
use super::{Columns, count, moment, relative};
use crate::domain::brake::Excess;
use crate::service::answers::{ReclaimReport, RefusedLine};

/// Seats taken back.
pub(crate) fn reclaimed(report: &ReclaimReport, now: Timestamp) -> String {
    let ReclaimReport { dry_run, protected, reclaimed, seats_used, held } = report;
    let columns = Columns { header: ["USER", "DIRECTORY", "SEAT", "LAST LOGIN"], right: &[] };
    let mut page = match reclaimed.as_slice() {
        [] => String::new(),
        lines => columns.lines(lines, |line| {
            [
                line.user.clone(),
                from(&line.directory, &line.origin),
                relative(now, line.seat_since),
                line.last_login.map_or_else(|| "never".to_owned(), |at| relative(now, at)),
            ]
        }),
    };
    let seats = count(reclaimed.len() as u64, "seat");
    let spared = if *protected > 0 { format!(", {protected} protected") } else { String::new() };
    let _ = match dry_run {
        true => writeln!(page, "{seats} would be taken back{spared} ({} in use)", count(*seats_used, "seat")),
        false => writeln!(page, "{seats} taken back{spared} ({} in use)", count(*seats_used, "seat")),
    };
    if let Some(held) = held {
        let _ = writeln!(page, "the brake would hold all of them back: {}", Excess::from(*held));
    }
    page
}

/// Who was turned away.
pub(crate) fn refused(refused: &[RefusedLine], now: Timestamp) -> String {
    if refused.is_empty() {
        return "nobody was turned away\n".to_owned();
    }
    let columns = Columns { header: ["LAST", "", "TIMES", "USER", "REASON", "NOW"], right: &[2] };
    columns.lines(refused, |line| {
        let state = match (line.is_known, line.seated) {
            (false, _) => "nobody by this name",
            (true, true) => "holds a seat",
            (true, false) => "",
        };
        [
            moment(line.last),
            relative(now, line.last),
            line.count.to_string(),
            line.user.clone(),
            line.reason.clone(),
            state.to_owned(),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::at;
    use super::*;
    use crate::service::answers::{ReclaimedSeat, SumReport};

    const DAY: i64 = 86_400;

    #[test]
    fn reclaimed_seats_stand_in_columns() {
        let seat = |user: &str, directory: Option<&str>, login: Option<i64>| ReclaimedSeat {
            user: user.to_owned(),
            origin: "local".to_owned(),
            directory: directory.map(str::to_owned),
            seat_since: at(-300 * DAY),
            last_login: login.map(at),
            last_used: at(-200 * DAY),
        };
        let reclaimed_seats =
            vec![seat("a@x.org", Some("corp"), Some(-200 * DAY)), seat("b@x.org", None, None)];
        let report = ReclaimReport {
            dry_run: true,
            protected: 1,
            reclaimed: reclaimed_seats,
            seats_used: 9,
            held: None,
        };
        let table = "USER     DIRECTORY  SEAT       LAST LOGIN\n\
                     a@x.org  corp       300 d ago  200 d ago\n\
                     b@x.org  (local)    300 d ago  never\n";
        let page = reclaimed(&report, at(0));
        assert_eq!(
            page,
            format!("{table}2 seats would be taken back, 1 protected (9 seats in use)\n"),
            "\n{page}"
        );
        let held = Some(SumReport { more: 2, before: 5, at_most: 6, until: None });
        let page = reclaimed(&ReclaimReport { held, ..report.clone() }, at(0));
        let words = "the brake would hold all of them back: 2 more, after 5 in the last hour, of at most 6\n";
        assert!(page.ends_with(words), "{page}");
        let report = ReclaimReport { dry_run: false, protected: 0, reclaimed: Vec::new(), ..report };
        assert_eq!(reclaimed(&report, at(0)), "0 seats taken back (9 seats in use)\n");
    }

    #[test]
    fn refusals_stand_in_columns() {
        let line = RefusedLine {
            user: "a@x.org".to_owned(),
            is_known: true,
            seated: true,
            count: 12,
            first: at(-DAY),
            last: at(-60),
            reason: "exhausted".to_owned(),
        };
        let stranger = RefusedLine {
            user: "nobody@x.org".to_owned(),
            is_known: false,
            count: 1,
            reason: "unknown_user".to_owned(),
            ..line.clone()
        };
        let page = refused(&[line, stranger], at(0));
        let expected = "LAST                             TIMES  USER          REASON        NOW\n\
                        2026-03-01 11:59 UTC  1 min ago     12  a@x.org       exhausted     holds a seat\n\
                        2026-03-01 11:59 UTC  1 min ago      1  nobody@x.org  unknown_user  nobody by this name\n";
        assert_eq!(page, expected, "\n{page}");
        assert_eq!(refused(&[], at(0)), "nobody was turned away\n");
    }
}
