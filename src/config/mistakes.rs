//! What is wrong with a configuration file, and how it is shown.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The mistakes of a configuration file, all that could be found at once, in the order of the file.
///
/// Displayed as one block for each mistake with an empty line between them, without a line break at the end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n\n"))]
pub struct ConfigError(pub Vec<Mistake>);

/// One mistake: what is wrong, where, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// The configuration file, as it was named.
    pub path: PathBuf,
    /// `None` when the file as a whole is meant.
    pub place: Option<Place>,
    /// What is wrong: lower case, no full stop, no line break.
    pub message: String,
    /// What to write instead, or to do.
    pub help: String,
}

/// Where in the file a mistake stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The line, ready to be shown: without secrets and control characters, cut where it is long.
    pub source: String,
    /// Characters of `source` before the carets, and the number of carets, never 0.
    carets: (usize, usize),
}

/// A mistake that the decoding found, as a range of bytes in the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) help: String,
    /// Something is not there. Behind a syntax error it may only have been lost.
    pub(super) is_absence: bool,
}

/// A longer line is cut on both sides of the mistake: it must fit on a screen.
const MAX_SHOWN: usize = 160;

/// A value that is quoted in a message is cut here.
const MAX_QUOTED: usize = 60;

impl Found {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Found {
        Found { span, message: message.into(), help: help.into(), is_absence: false }
    }

    pub(super) fn into_mistake(self, path: &Path, text: &str) -> Mistake {
        let place = Some(Place::new(text, self.span));
        Mistake { path: path.to_owned(), place, message: self.message, help: self.help }
    }
}

impl Place {
    /// The carets stop at the end of the first line of the span.
    fn new(text: &str, span: Range<usize>) -> Place {
        let start = floor_char(text, span.start);
        let line_start = line_start(text, start);
        let line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let column = text.get(line_start..start).unwrap_or_default().chars().count();
        let width = text
            .get(start..floor_char(text, span.end))
            .map_or(0, |marked| marked.lines().next().unwrap_or_default().chars().count());
        let shown: Vec<char> = without_secrets(text.get(..line_start).unwrap_or_default(), line)
            .chars()
            .map(printable)
            .collect();
        let at = column.min(shown.len());
        let (source, cut) = window(&shown, at);
        let room = source.chars().count().saturating_sub(at - cut);
        Place {
            line: line_of(text, start),
            column: column + 1,
            source,
            carets: (at - cut, width.min(room).max(1)),
        }
    }
}

/// The line, counted from 1, on which a byte stands.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Where the line of a byte begins.
pub(super) fn line_start(text: &str, at: usize) -> usize {
    text.get(..floor_char(text, at)).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1)
}

fn floor_char(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Cuts a long line around `at`; also says by how many characters `at` moved to the left.
fn window(line: &[char], at: usize) -> (String, usize) {
    if line.len() <= MAX_SHOWN {
        return (line.iter().collect(), 0);
    }
    let first = at.saturating_sub(MAX_SHOWN / 2);
    let mut shown: String = line.iter().skip(first).take(MAX_SHOWN).collect();
    if first + MAX_SHOWN < line.len() {
        shown.push('…');
    }
    if first == 0 { (shown, 0) } else { (format!("…{shown}"), first - 1) }
}

/// A tab takes one column, so that the carets stand right; other control characters would write to the
/// terminal of whoever reads the error.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// Leaves out of a line what may be a secret, written where none belongs. `before` is the text above.
fn without_secrets(before: &str, line: &str) -> String {
    // A line inside a string of several lines belongs to the key above it.
    for quotes in ["\"\"\"", "'''"] {
        let opening = before.rmatch_indices(quotes).map(|(at, _)| at);
        if opening.clone().count() % 2 == 1
            && let Some(key) = opening.take(1).find_map(|at| before.get(..at)?.lines().last())
            && without_secret_values(key) != key
        {
            return "…".to_owned();
        }
    }
    without_secret_values(line)
}

/// Leaves out the value of a key such as `password`, and the user and password of a URL.
fn without_secret_values(line: &str) -> String {
    let mut shown = line.to_owned();
    for (at, _) in line.match_indices('=') {
        let before = line.get(..at).unwrap_or_default().trim_end();
        let key = before.rsplit([' ', '\t', ',', '{']).next().unwrap_or_default();
        if names_secret(key) {
            shown.truncate(at);
            shown.push_str("= …");
            break;
        }
    }
    if let Some((before, rest)) = shown.split_once("://")
        && let Some((_, after)) = rest.rsplit_once('@')
    {
        shown = format!("{before}://…@{after}");
    }
    shown
}

fn names_secret(key: &str) -> bool {
    let key = key.trim_matches(['"', '\'']).to_ascii_lowercase();
    !key.ends_with("_file")
        && ["password", "passwd", "passphrase", "secret", "token", "bindpw", "credential"]
            .iter()
            .any(|word| key.contains(word))
}

/// Something out of the file, quoted in a message.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED).map(printable).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// `a, b or c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The known word that somebody most likely meant.
pub(super) fn closest<'w>(typed: &str, known: &[&'w str]) -> Option<&'w str> {
    let typed = typed.to_lowercase().replace(['-', ' '], "_");
    let limit = (typed.chars().count() / 3).max(1);
    known
        .iter()
        .map(|word| (distance(&typed, &word.replace('-', "_")), *word))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many letters must be added, left out, changed or swapped (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    // Longer words are nobody's slip, and the work grows with the product of the lengths.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut a_before = None;
    for (i, a_char) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        let mut b_before = None;
        for (j, b_char) in b.iter().copied().enumerate() {
            let cell = |cells: &[usize], at: usize| cells.get(at).copied().unwrap_or(usize::MAX / 2);
            let changed = cell(&last, j) + usize::from(a_char != b_char);
            let mut best = changed.min(cell(&last, j + 1) + 1).min(cell(&row, j) + 1);
            if a_before == Some(b_char) && b_before == Some(a_char) && j > 0 {
                best = best.min(cell(&older, j - 1) + 1);
            }
            row.push(best);
            b_before = Some(b_char);
        }
        a_before = Some(a_char);
        older = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

/// Without a line break at the end.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let Some(place) = &self.place else {
            return write!(f, "{path}: {}\n  = help: {}", self.message, self.help);
        };
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        let (indent, carets) = place.carets;
        let (indent, carets) = (" ".repeat(indent), "^".repeat(carets));
        writeln!(f, "{path}:{}:{}: {}", place.line, place.column, self.message)?;
        writeln!(f, " {gutter} |")?;
        writeln!(f, " {number} | {}", place.source)?;
        writeln!(f, " {gutter} | {indent}{carets}")?;
        write!(f, " {gutter} = help: {}", self.help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, span: Range<usize>) -> String {
        Found::new(span, "wrong", "right").into_mistake(Path::new("a.toml"), text).to_string()
    }

    #[test]
    fn the_place_is_shown() {
        assert_eq!(
            render("a = 1\nbc = 2\r\n", 6..8),
            "a.toml:2:1: wrong\n   |\n 2 | bc = 2\n   | ^^\n   = help: right"
        );
        assert_eq!(
            render(&format!("{}äb = 2", "\n".repeat(99)), 101..102),
            "a.toml:100:2: wrong\n     |\n 100 | äb = 2\n     |  ^\n     = help: right"
        );
    }

    #[test]
    fn any_span_is_shown() {
        for (text, span, line, column) in [
            ("", 0..0, 1, 1),
            ("a", 1..1, 1, 2),
            ("a\n", 2..2, 2, 1),
            ("a\n", 1..2, 1, 2),
            ("a", 40..50, 1, 2),
            ("ä", 1..2, 1, 1),
            ("a = [\n1]", 4..8, 1, 5),
        ] {
            let place = Place::new(text, span.clone());
            assert_eq!((place.line, place.column), (line, column), "{text:?} {span:?}");
            assert!(place.carets.1 >= 1);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let place = Place::new(&text, 5000..5001);
        assert_eq!(place.column, 5001);
        assert_eq!(place.source.chars().count(), MAX_SHOWN + 2);
        assert_eq!(place.source.chars().nth(place.carets.0), Some('X'));
        assert_eq!(quoted(&text), format!("`{}…`", "a".repeat(60)));
    }

    #[test]
    fn secrets_and_control_characters_are_not_shown() {
        for (line, shown) in [
            ("bind_password = \"hunter2\"", "bind_password = …"),
            (
                "tls = { ca_file = \"x\", Client_Secret=\"hunter2\" }",
                "tls = { ca_file = \"x\", Client_Secret= …",
            ),
            ("urls = [\"ldap://cn=a:hunter2@ldap1\"]", "urls = [\"ldap://…@ldap1\"]"),
            ("bind_password_file = \"x\"", "bind_password_file = \"x\""),
            ("a\t= \u{1b}[31m", "a = \u{fffd}[31m"),
        ] {
            let place = Place::new(line, 0..1);
            assert_eq!(place.source, shown);
        }
        let several = "bind_password = \"\"\"\nhunter2\n\"\"\"\nname = 1\n";
        assert_eq!(Place::new(several, 21..22).source, "…");
        assert_eq!(Place::new(several, 33..34).source, "name = 1");
    }

    #[test]
    fn slips_are_recognised() {
        let known = ["poll_every", "name", "urls", "base_dn"];
        for (typed, meant) in [
            ("pol_every", Some("poll_every")),
            ("poll-every", Some("poll_every")),
            ("url", Some("urls")),
            ("basedn", Some("base_dn")),
            ("nmae", Some("name")),
            ("Name", Some("name")),
            ("whatever", None),
            ("", None),
        ] {
            assert_eq!(closest(typed, &known), meant, "{typed}");
        }
        assert_eq!(closest(&"x".repeat(100_000), &known), None);
    }
}
