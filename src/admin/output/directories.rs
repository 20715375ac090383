//! `directory …`.

use std::fmt::Write;

use jiff::Timestamp;

use super::{Columns, clean, count, relative};
use crate::service::answers::{DirectoryList, ForgetReport, RenameReport};

/// What is stored of directories.
pub(crate) fn listed(list: &DirectoryList, now: Timestamp) -> String {
    if list.directories.is_empty() {
        return "no directory is configured, and nothing is stored of one\n".to_owned();
    }
    let header = ["DIRECTORY", "CONFIGURED", "DOMAINS", "USERS", "REMOVED", "SEATS", "LAST SUCCESS"];
    let columns = Columns { header, right: &[3, 4, 5] };
    columns.lines(&list.directories, |directory| {
        [
            directory.name.clone(),
            if directory.configured { "yes" } else { "no" }.to_owned(),
            if directory.domains.is_empty() { "-".to_owned() } else { directory.domains.join(" ") },
            directory.users.to_string(),
            directory.removed.to_string(),
            directory.seats_used.to_string(),
            directory.last_success.map_or_else(|| "never".to_owned(), |at| relative(now, at)),
        ]
    })
}

/// A directory carried over to another name.
pub(crate) fn renamed(report: &RenameReport) -> String {
    let RenameReport { from, to, dry_run, users, known, seats, second_seats, losers, losers_total } = report;
    let mut page: String = losers.iter().map(|name| format!("{}\n", clean(name))).collect();
    let (moved, released) = match dry_run {
        true => ("would move", "would be released"),
        false => ("moved", "released"),
    };
    let mut line =
        format!("{from}: {} with {} {moved} to {to}", count(*users, "user"), count(*seats, "seat"));
    line += &format!(", which has {known} of them already");
    if *second_seats > 0 {
        line += &format!("; {} of the same users {released}", count(*second_seats, "second seat"));
    }
    if *losers_total > 0 {
        let seats = count(*losers_total, "seat");
        line += &format!("; {seats} {released} of users who are disabled in {to}, or not a person there");
    }
    let _ = writeln!(page, "{}", clean(&line));
    page
}

/// A directory forgotten, and who loses a seat.
pub(crate) fn forgotten(report: &ForgetReport) -> String {
    let ForgetReport { directory, dry_run, users, seats, seats_total, seats_moved, seats_used } = report;
    let mut page = String::new();
    for name in seats {
        let _ = writeln!(page, "{}", clean(name));
    }
    let (forgotten, released, moved) = match dry_run {
        true => ("would be forgotten", "would be released", "would go to other entries of the same users"),
        false => ("forgotten", "released", "went to other entries of the same users"),
    };
    let moved = if *seats_moved > 0 { format!(", {seats_moved} {moved}") } else { String::new() };
    let line = format!(
        "{directory}: {} {forgotten}, {} {released}{moved} ({} in use)",
        count(*users, "user"),
        count(*seats_total, "seat"),
        count(*seats_used, "seat")
    );
    let _ = writeln!(page, "{}", clean(&line));
    page
}

#[cfg(test)]
mod tests {
    use super::super::samples::at;
    use super::*;
    use crate::service::answers::StoredDirectory;

    #[test]
    fn directories_stand_in_columns() {
        let corp = StoredDirectory {
            name: "corp".to_owned(),
            configured: true,
            domains: vec!["example.org".to_owned(), "alias.example".to_owned()],
            users: 120,
            removed: 1,
            seats_used: 12,
            last_success: Some(at(-60)),
        };
        let new = StoredDirectory { users: 0, removed: 0, seats_used: 0, last_success: None, ..corp.clone() };
        let old = StoredDirectory {
            name: "old\\r".replace("\\r", "\r"),
            configured: false,
            domains: Vec::new(),
            ..corp.clone()
        };
        let page = listed(&DirectoryList { directories: vec![corp, new, old] }, at(0));
        let expected = "DIRECTORY  CONFIGURED  DOMAINS                    USERS  REMOVED  SEATS  LAST SUCCESS\n\
                        corp       yes         example.org alias.example    120        1     12  1 min ago\n\
                        corp       yes         example.org alias.example      0        0      0  never\n\
                        old\u{fffd}       no          -                            120        1     12  1 min ago\n";
        assert_eq!(page, expected, "\n{page}");
        assert!(listed(&DirectoryList::default(), at(0)).starts_with("no directory is configured"));
    }

    #[test]
    fn what_was_renamed_and_forgotten() {
        let (from, to) = ("old".to_owned(), "new".to_owned());
        let report = RenameReport { from, to, users: 1, seats: 2, ..RenameReport::default() };
        assert_eq!(renamed(&report), "old: 1 user with 2 seats moved to new, which has 0 of them already\n");
        let losers = vec!["b@x.org".to_owned()];
        let report =
            RenameReport { dry_run: true, known: 1, second_seats: 1, losers, losers_total: 1, ..report };
        assert_eq!(
            renamed(&report),
            "b@x.org\nold: 1 user with 2 seats would move to new, which has 1 of them already; 1 second seat of the \
             same users would be released; 1 seat would be released of users who are disabled in new, or not a person \
             there\n"
        );
        let report = ForgetReport {
            directory: "old".to_owned(),
            dry_run: true,
            users: 3,
            seats: vec!["a@x.org".to_owned()],
            seats_total: 1,
            seats_moved: 1,
            seats_used: 9,
        };
        assert_eq!(
            forgotten(&report),
            "a@x.org\nold: 3 users would be forgotten, 1 seat would be released, 1 would go to other entries of the \
             same users (9 seats in use)\n"
        );
        let done = ForgetReport { dry_run: false, seats_moved: 0, seats_used: 8, ..report };
        assert_eq!(forgotten(&done), "a@x.org\nold: 3 users forgotten, 1 seat released (8 seats in use)\n");
    }
}
