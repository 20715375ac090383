//! Answers as text for people. Nothing here reads a clock or writes: every page is a plain function.

mod directories;
mod import;
mod license;
mod moves;
mod people;
mod reclaim;
mod status;
mod sync;

use std::fmt;

use comfy_table::{CellAlignment, ColumnConstraint, Table, Width, presets};
use jiff::Timestamp;

pub(super) use directories::{forgotten, listed, renamed};
pub(super) use import::{grants, imported};
pub(super) use license::license;
pub(super) use moves::moved;
pub(super) use people::{account, change, explanation, history, users};
pub(super) use reclaim::{reclaimed, refused};
pub(super) use status::{progress, status};
pub(super) use sync::report;
pub use sync::verification;

/// How long ago, or how far ahead: in one unit, rounded down.
fn relative(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs();
    let (count, unit) = match seconds.unsigned_abs() {
        0..60 => return "just now".to_owned(),
        size @ 60..3600 => (size / 60, "min"),
        size @ 3600..86_400 => (size / 3600, "h"),
        size => (size / 86_400, "d"),
    };
    if seconds > 0 { format!("{count} {unit} ago") } else { format!("in {count} {unit}") }
}

/// A moment, for where the hour matters.
fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A moment, and how long ago it was.
fn dated(now: Timestamp, at: Timestamp) -> String {
    format!("{} ({})", moment(at), relative(now, at))
}

/// A directory, or whoever wrote into it, chose this text: it must not move the cursor, break a line, or
/// turn the direction of what follows.
pub(super) fn clean(text: &str) -> String {
    let is_unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_unseen(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `1 user`, `2 users`.
fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Texts joined by commas; one of nothing is left out.
fn list<T: fmt::Display>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<String> =
        parts.into_iter().map(|part| part.to_string()).filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// Spaces between two columns.
const GAP: u16 = 2;

/// Longer than any name that the mirror keeps. A table must not be as wide as what an entry says.
const MAX_CELL_CHARS: usize = 400;

/// Rows that are laid out at once: a table takes ten times the memory of its text.
const ROWS_AT_ONCE: usize = 10_000;

/// Columns two spaces apart, of any width: a line is broken by the terminal, never here.
struct Columns<const N: usize> {
    header: [&'static str; N],
    /// Columns of numbers, which stand to the right.
    right: &'static [usize],
}

impl<const N: usize> Columns<N> {
    /// The lines, each with its end.
    fn lines<T>(&self, rows: &[T], cells: impl Fn(&T) -> [String; N]) -> String {
        let tables = || rows.chunks(ROWS_AT_ONCE).map(|rows| self.table(rows.iter().map(&cells)));
        let mut widths = [0; N];
        for table in tables() {
            for (width, here) in widths.iter_mut().zip(table.column_max_content_widths()) {
                *width = here.max(*width);
            }
        }
        let mut text = String::new();
        for (number, mut table) in tables().enumerate() {
            for (column, width) in table.column_iter_mut().zip(widths) {
                column.set_padding((0, GAP));
                let padded = width.saturating_add(GAP);
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(padded)));
            }
            // The header stands once, above all.
            for line in table.lines().skip(usize::from(number > 0)) {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }

    fn table(&self, rows: impl Iterator<Item = [String; N]>) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(self.header);
        for cells in rows {
            table.add_row(cells.map(|cell| {
                let cut: String = cell.chars().take(MAX_CELL_CHARS).collect();
                clean(&cut)
            }));
        }
        for column in self.right {
            if let Some(column) = table.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

#[cfg(test)]
pub(super) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::at;
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let check = |then: i64, expected: &str| assert_eq!(relative(at(0), at(then)), expected, "{then}");
        check(0, "just now");
        check(-59, "just now");
        check(59, "just now");
        check(-60, "1 min ago");
        check(-3599, "59 min ago");
        check(-3600, "1 h ago");
        check(-86_399, "23 h ago");
        check(-86_400, "1 d ago");
        check(-12 * 86_400 - 5, "12 d ago");
        check(-400 * 86_400, "400 d ago");
        check(61, "in 1 min");
        check(7200, "in 2 h");
        check(6 * 86_400, "in 6 d");
        assert_eq!(relative(Timestamp::MAX, Timestamp::MIN), "7304481 d ago");
        assert_eq!(dated(at(0), at(-7200)), "2026-03-01 10:00 UTC (2 h ago)");
    }

    #[test]
    fn hostile_text_is_made_visible() {
        assert_eq!(
            clean("a\u{1b}[2Jb\r\nc\u{202e}d\u{85}e\u{9b}f\u{7f}"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}f\u{fffd}"
        );
        assert_eq!(clean("Zoë 王 \u{1f431}"), "Zoë 王 \u{1f431}");
    }

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let columns = Columns { header: ["NAME", "COUNT", "NOTE"], right: &[1] };
        let rows = [("王", 7, ""), ("a\nb", 12_345_678, "x")];
        assert_eq!(
            columns.lines(&rows, |(name, count, note)| {
                [(*name).to_owned(), count.to_string(), (*note).to_owned()]
            }),
            "NAME     COUNT  NOTE\n\
             王           7\n\
             a\u{fffd}b   12345678  x\n"
        );
    }

    #[test]
    fn long_tables_are_aligned_throughout_and_have_one_header() {
        let columns = Columns { header: ["NAME", "NOTE"], right: &[] };
        let rows: Vec<usize> = (0..=ROWS_AT_ONCE).collect();
        let text = columns
            .lines(&rows, |row| [format!("{row:x>width$}", width = 5 + row / ROWS_AT_ONCE), "y".to_owned()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[1]), (rows.len() + 1, "NAME    NOTE", "xxxx0   y"));
        assert_eq!(lines.last(), Some(&"x10000  y"));
        let wide = columns.lines(&[()], |()| ["x".repeat(100_000), String::new()]);
        assert!(wide.len() < 1000, "{}", wide.len());
    }
}
