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
    let RenameReport { from, to, users, seats } = report;
    let line = format!("{from}: {} with {} moved to {to}", count(*users, "user"), count(*seats, "seat"));
    format!("{}\n", clean(&line))
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
        let report = RenameReport { from: "old".to_owned(), to: "new".to_owned(), users: 1, seats: 2 };
        assert_eq!(renamed(&report), "old: 1 user with 2 seats moved to new\n");
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
