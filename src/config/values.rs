//! Strings of the file become checked values, or mistakes that point at the character.

use std::path::PathBuf;
use std::time::Duration;

use super::mistakes::{closest, either, quoted};
use super::reader::{Section, Text};
use crate::domain::filter::Condition;
use crate::domain::ldap_text::{Dn, Filter, LdapTextError};
use crate::domain::name::{Domain, Name};

/// No honest interval is longer, and adding one to a time of day must not overflow.
const MAX_DURATION: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Longer numbers, or many of them, are no interval within [`MAX_DURATION`] and could overflow their sum.
const MAX_DURATION_BYTES: usize = 64;
const MAX_DURATION_DIGITS: usize = 10;

/// The only variable that paths may hold: where systemd puts `LoadCredential=` (systemd.exec(5)).
pub(super) const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// A path to a socket in bytes: `sun_path` of unix(7) without its final NUL.
const MAX_SOCKET_PATH: usize = 107;

impl Section<'_> {
    /// A duration of `min` or more; `default` when the key is absent.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        example: &'static str,
        min: Duration,
        default: Duration,
    ) -> Duration {
        let text = self.take(key, example).and_then(|value| value.text());
        text.and_then(|text| text.duration(min)).unwrap_or(default)
    }

    /// One of a few words; `default` when the key is absent.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        example: &'static str,
        words: &[(&'static str, T)],
        default: T,
    ) -> T {
        let text = self.take(key, example).and_then(|value| value.text());
        text.and_then(|text| text.choice(words)).unwrap_or(default)
    }
}

impl Text<'_> {
    /// A humantime duration.
    pub(super) fn duration(&self, min: Duration) -> Option<Duration> {
        let digits = self.text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
        let parsed = if digits > MAX_DURATION_DIGITS || self.text.len() > MAX_DURATION_BYTES {
            Err(humantime::DurationError::NumberOverflow)
        } else {
            humantime::parse_duration(self.text)
        };
        match parsed {
            Ok(duration) if duration < min => {
                let shortest = humantime::format_duration(min);
                self.wrong(format!("`{}` is too short", self.key), format!("write {shortest} or more"));
                None
            }
            Ok(duration) if duration <= MAX_DURATION => Some(duration),
            Ok(_) => self.wrong_duration(&humantime::DurationError::NumberOverflow),
            Err(error) => self.wrong_duration(&error),
        }
    }

    fn wrong_duration<T>(&self, error: &humantime::DurationError) -> Option<T> {
        use humantime::DurationError::{
            Empty, InvalidCharacter, NumberExpected, NumberOverflow, UnknownUnit,
        };
        let key = self.key;
        let like = format!("{}; the units are ms, s, m, h, d and w", self.like());
        match error {
            Empty => self.wrong(format!("`{key}` is empty"), like),
            NumberOverflow => {
                self.wrong(format!("`{key}` is no duration that can be used"), "write at most 100 years");
            }
            InvalidCharacter(at) => {
                self.wrong_at(*at..*at, format!("`{key}`: unexpected character in the duration"), like);
            }
            NumberExpected(at) => {
                self.wrong_at(*at..*at, format!("`{key}`: expected a number before the unit"), like);
            }
            UnknownUnit { start, end, unit, .. } if unit.is_empty() => {
                self.wrong_at(*start..*end, format!("`{key}`: the number needs a unit"), like);
            }
            UnknownUnit { start, end, unit, .. } => {
                self.wrong_at(*start..*end, format!("`{key}`: unknown unit {}", quoted(unit)), like);
            }
        }
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let chosen = words.iter().find(|(word, _)| *word == self.text).map(|(_, value)| *value);
        if chosen.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let help = match closest(self.text, &known) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("write {}", either(&known)),
            };
            self.wrong(format!("`{}` can't be {}", self.key, quoted(self.text)), help);
        }
        chosen
    }

    /// A mail domain.
    pub(super) fn domain(&self) -> Option<Domain> {
        let domain = Domain::parse(self.text).ok();
        if domain.is_none() {
            self.wrong_form(format!("{} is not a mail domain", quoted(self.text)));
        }
        domain
    }

    /// A user's name or address.
    pub(super) fn user(&self, default_domain: Option<&Domain>) -> Option<Name> {
        let name = Name::parse(self.text, default_domain);
        name.map_err(|error| self.wrong_form(format!("{} is no user: {error}", quoted(self.text)))).ok()
    }

    /// A distinguished name.
    pub(super) fn dn(&self) -> Option<Dn> {
        Dn::parse(self.text).map_err(|error| self.wrong_ldap("DN", &error)).ok()
    }

    /// A search filter.
    pub(super) fn filter(&self) -> Option<Filter> {
        Filter::parse(self.text).map_err(|error| self.wrong_ldap("filter", &error)).ok()
    }

    /// A filter that is evaluated here.
    pub(super) fn condition(&self) -> Option<Condition> {
        let what = "filter that is evaluated here";
        Condition::parse(self.text).map_err(|error| self.wrong_ldap(what, &error)).ok()
    }

    fn wrong_ldap(&self, what: &str, error: &LdapTextError) {
        let at = self.text.char_indices().nth(error.at).map_or(self.text.len(), |(at, _)| at);
        let width = self.text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
        let message = format!("`{}` is not a {what}: {}", self.key, error.what);
        self.wrong_at(at..at + width, message, self.like());
    }

    /// A path: `$CREDENTIALS_DIRECTORY` is expanded, and a relative one begins at the file's folder.
    pub(super) fn path(&self) -> Option<PathBuf> {
        if self.text.is_empty() || self.text.chars().any(char::is_control) {
            self.wrong_form(format!("`{}` is not a path", self.key));
            return None;
        }
        let Some((at, variable)) = self.variable() else {
            return Some(self.reader.base.join(self.text));
        };
        if variable != CREDENTIALS || at != 0 {
            let message = format!("`{}`: this variable is not expanded here", self.key);
            let help = format!("write the path in full, or ${CREDENTIALS} at its start");
            self.wrong_at(at..at + 1 + variable.len(), message, help);
            return None;
        }
        let Some(folder) = (self.reader.env)(CREDENTIALS).filter(|folder| !folder.is_empty()) else {
            let message = format!("${CREDENTIALS} is not set");
            let help = "systemd sets it for a unit with LoadCredential=; elsewhere write the path in full";
            self.wrong_at(0..1 + CREDENTIALS.len(), message, help);
            return None;
        };
        let rest = self.text.get(1 + CREDENTIALS.len()..).unwrap_or_default().trim_start_matches('/');
        Some(self.reader.base.join(folder).join(rest))
    }

    /// The first component that is written like a variable: where its `$` is, and the name behind it.
    fn variable(&self) -> Option<(usize, &str)> {
        let is_start = |at: &usize| *at == 0 || self.text.get(..*at).is_some_and(|head| head.ends_with('/'));
        let at = self.text.match_indices('$').map(|(at, _)| at).find(is_start)?;
        let rest = self.text.get(at + 1..)?.split('/').next()?;
        (rest.starts_with('{') || rest.starts_with(|c: char| c.is_ascii_uppercase())).then_some((at, rest))
    }

    /// A path to a socket, which the kernel keeps short.
    pub(super) fn socket_path(&self, path: PathBuf) -> Option<PathBuf> {
        let is_short = path.as_os_str().len() <= MAX_SOCKET_PATH;
        if !is_short {
            let message = format!("`{}` is too long for a socket", self.key);
            self.wrong(message, format!("write a path of at most {MAX_SOCKET_PATH} bytes"));
        }
        is_short.then_some(path)
    }
}

/// What must be unique in a file.
pub(super) struct Unique {
    noun: &'static str,
    help: &'static str,
    seen: Vec<(String, usize)>,
}

impl Unique {
    pub(super) fn new(noun: &'static str, help: &'static str) -> Unique {
        Unique { noun, help, seen: Vec::new() }
    }

    /// Reports `text` when `key` was there before.
    pub(super) fn add(&mut self, key: &str, text: &Text<'_>) {
        match self.seen.iter().find(|(seen, _)| seen == key) {
            Some((_, line)) => {
                let message = format!("{} {} is on line {line} already", self.noun, quoted(key));
                text.wrong(message, self.help);
            }
            None => self.seen.push((key.to_owned(), text.line())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::tests::{check, decode_good, decode_with};

    fn duration(text: &str, expected: &str) {
        check(&format!("[seats]\nremoval_grace = \"{text}\""), &[expected]);
    }

    #[test]
    fn durations_are_checked() {
        duration("", "2:17: `removal_grace` is empty");
        duration(
            "7",
            "2:19: `removal_grace`: the number needs a unit = write it like removal_grace = \"7d\"; the units are ms, s, m, h, d and w",
        );
        duration("7 dayz", "2:20: `removal_grace`: unknown unit `dayz`");
        duration("d", "2:18: `removal_grace`: expected a number before the unit");
        duration("1h -3m", "2:21: `removal_grace`: expected a number before the unit");
        duration("1,5h", "2:19: `removal_grace`: unexpected character in the duration");
        duration(
            "200years",
            "2:17: `removal_grace` is no duration that can be used = write at most 100 years",
        );
        // These would overflow inside the parser.
        duration("18446744073709551615s1000ms", "2:17: `removal_grace` is no duration that can be used");
        duration(&"9999999999y ".repeat(60), "2:17: `removal_grace` is no duration that can be used");
        let good = decode_good("[seats]\nremoval_grace = \"1w 2d 30m\"").seats.removal_grace;
        assert_eq!(good, Duration::from_secs(9 * 86400 + 1800));
    }

    #[test]
    fn an_escaped_string_is_marked_as_a_whole() {
        check("[seats]\nremoval_grace = '7x'", &["2:19: `removal_grace`: unknown unit `x`"]);
        check("[seats]\nremoval_grace = \"\\u0037x\"", &["2:17: `removal_grace`: unknown unit `x`"]);
        check("[seats]\nremoval_grace = \"\"\"7x\"\"\"", &["2:17: `removal_grace`: unknown unit `x`"]);
    }

    #[test]
    fn paths_are_checked() {
        check("state_dir = \"\"", &["1:13: `state_dir` is not a path"]);
        check("state_dir = \"a\\u0000b\"", &["1:13: `state_dir` is not a path"]);
        check(
            "state_dir = \"$HOME/x\"",
            &[
                "1:14: `state_dir`: this variable is not expanded here = write the path in full, or $CREDENTIALS_DIRECTORY at its start",
            ],
        );
        check("state_dir = \"/a/${HOME}/x\"", &["1:17: `state_dir`: this variable is not expanded here"]);
        check(
            "state_dir = \"/a/$CREDENTIALS_DIRECTORY\"",
            &["1:17: `state_dir`: this variable is not expanded here"],
        );
        check("state_dir = \"$CREDENTIALS_DIRECTORY/x\"", &["1:14: $CREDENTIALS_DIRECTORY is not set"]);
        let long = "x".repeat(200);
        check(
            &format!("control_socket = \"/{long}\""),
            &["1:18: `control_socket` is too long for a socket = write a path of at most 107 bytes"],
        );
        assert_eq!(decode_good("state_dir = \"/srv/a$b\"").state_dir, Path::new("/srv/a$b"));
    }

    #[test]
    fn the_credentials_directory_is_expanded() {
        let env = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| "/run/cred".into());
        let config = decode_with("state_dir = \"$CREDENTIALS_DIRECTORY/a/b\"", &env).config.unwrap();
        assert_eq!(config.state_dir, Path::new("/run/cred/a/b"));
        let empty = decode_with("state_dir = \"$CREDENTIALS_DIRECTORY/a\"", &|_| Some("".into()));
        assert!(empty.config.is_none());
    }
}
