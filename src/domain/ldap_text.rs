//! Distinguished names (RFC 4514) and search filters (RFC 4515), checked as text.
//!
//! A mistake in one must be found when the configuration is read, not when a server refuses it at night.

use std::fmt;

/// A distinguished name in its string form (RFC 4514 section 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dn(Box<str>);

/// A search filter in its string form (RFC 4515 section 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter(Box<str>);

/// Where a text stops being a DN or a filter, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}, at character {}", at + 1)]
pub struct LdapTextError {
    /// Characters before the mistake.
    pub at: usize,
    /// The mistake.
    pub what: &'static str,
}

/// Filters nest deeper than this only by mistake; it also bounds the recursion.
const MAX_FILTER_DEPTH: usize = 32;

impl Dn {
    /// Checks a DN. The empty DN is refused: as a search base it would mean the whole server.
    pub fn parse(text: &str) -> Result<Dn, LdapTextError> {
        let mut cursor = Cursor::new(text);
        loop {
            cursor.skip_spaces();
            cursor.attribute_type("expected an attribute such as dc, ou or uid")?;
            cursor.skip_spaces();
            cursor.expect('=', "expected = after the attribute")?;
            cursor.skip_spaces();
            cursor.dn_value()?;
            match cursor.next() {
                None => return Ok(Dn(text.into())),
                Some(',' | '+') => {}
                Some(_) => return Err(cursor.error_before("this character must be written with a backslash")),
            }
        }
    }

    /// The DN as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Filter {
    /// Checks a filter.
    pub fn parse(text: &str) -> Result<Filter, LdapTextError> {
        let mut cursor = Cursor::new(text);
        cursor.filter(0)?;
        match cursor.peek() {
            None => Ok(Filter(text.into())),
            Some(_) => Err(cursor.error("something follows the closing parenthesis")),
        }
    }

    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What matches this filter or the other.
    pub fn or(&self, other: &Filter) -> Filter {
        Filter(format!("(|{self}{other})").into())
    }

    /// What matches this filter and has one of these values, which are text without special characters.
    pub fn with_any(&self, attribute: &str, values: impl Iterator<Item = String>) -> Filter {
        let mut text = format!("(&{}(|", self.0);
        for value in values {
            let value: String = value.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            text.push_str(&format!("({attribute}={value})"));
        }
        text.push_str("))");
        Filter(text.into())
    }
}

/// A text as the value of an item of a filter (RFC 4515 section 3).
pub fn escaped(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' | '(' | ')' | '\\' | '\0' => value.push_str(&format!("\\{:02x}", u32::from(c))),
            _ => value.push(c),
        }
    }
    value
}

impl fmt::Display for Dn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Cursor {
    chars: Vec<char>,
    at: usize,
}

impl Cursor {
    fn new(text: &str) -> Cursor {
        Cursor { chars: text.chars().collect(), at: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    fn error(&self, what: &'static str) -> LdapTextError {
        LdapTextError { at: self.at, what }
    }

    fn error_before(&self, what: &'static str) -> LdapTextError {
        LdapTextError { at: self.at.saturating_sub(1), what }
    }

    fn expect(&mut self, wanted: char, what: &'static str) -> Result<(), LdapTextError> {
        if self.peek() == Some(wanted) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.error(what))
        }
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(' ') {
            self.at += 1;
        }
    }

    /// A short name or a dotted OID (RFC 4512 section 1.4).
    fn attribute_type(&mut self, what: &'static str) -> Result<(), LdapTextError> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')) {
            self.at += 1;
        }
        if self.at == start { Err(self.error(what)) } else { Ok(()) }
    }

    /// Up to the next unescaped separator (RFC 4514 section 3, `string` and `hexstring`).
    fn dn_value(&mut self) -> Result<(), LdapTextError> {
        while let Some(c) = self.peek() {
            match c {
                ',' | '+' => return Ok(()),
                '"' | ';' | '<' | '>' | '\0' => {
                    return Err(self.error("this character must be written with a backslash"));
                }
                '\\' => {
                    self.at += 1;
                    self.dn_escape()?;
                }
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    fn dn_escape(&mut self) -> Result<(), LdapTextError> {
        match self.next() {
            Some(' ' | '"' | '#' | '+' | ',' | ';' | '<' | '=' | '>' | '\\') => Ok(()),
            Some(first) if first.is_ascii_hexdigit() => {
                if self.next().is_some_and(|second| second.is_ascii_hexdigit()) {
                    Ok(())
                } else {
                    Err(self.error_before("expected two hexadecimal digits after the backslash"))
                }
            }
            _ => Err(self.error_before("a backslash must be followed by the character it protects")),
        }
    }

    fn filter(&mut self, depth: usize) -> Result<(), LdapTextError> {
        if depth > MAX_FILTER_DEPTH {
            return Err(self.error("the filter nests too deeply"));
        }
        self.expect('(', "expected (")?;
        match self.peek() {
            Some('&' | '|') => {
                self.at += 1;
                while self.peek() == Some('(') {
                    self.filter(depth + 1)?;
                }
            }
            Some('!') => {
                self.at += 1;
                self.filter(depth + 1)?;
            }
            _ => self.filter_item()?,
        }
        self.expect(')', "expected )")
    }

    /// `attr=value`, `attr~=value`, `attr>=value`, `attr<=value`, `attr:dn:rule:=value`.
    fn filter_item(&mut self) -> Result<(), LdapTextError> {
        if self.peek() != Some(':') {
            self.attribute_type("expected an attribute such as objectClass")?;
            while self.peek() == Some(';') {
                self.at += 1;
                self.attribute_type("expected an attribute option")?;
            }
        }
        while self.peek() == Some(':') {
            self.at += 1;
            if self.peek() != Some('=') {
                self.attribute_type("expected a matching rule")?;
            }
        }
        if matches!(self.peek(), Some('~' | '>' | '<')) {
            self.at += 1;
        }
        self.expect('=', "expected = after the attribute")?;
        while let Some(c) = self.peek() {
            match c {
                ')' => return Ok(()),
                '(' | '\0' => return Err(self.error("this character must be written as \\28 or \\00")),
                '\\' => {
                    self.at += 1;
                    for _ in 0..2 {
                        if !self.next().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                            return Err(
                                self.error_before("expected two hexadecimal digits after the backslash")
                            );
                        }
                    }
                }
                _ => self.at += 1,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in [
            "dc=example,dc=org",
            "uid=alice, ou=people, dc=example",
            "cn=Smith\\, Alice+uid=a,o=x",
            "2.5.4.3=x",
            "cn=J\\C3\\BCrgen,o=x",
            "cn=,o=x",
        ] {
            assert!(Dn::parse(good).is_ok(), "{good}: {:?}", Dn::parse(good));
        }
        for (bad, at) in [
            ("", 0),
            ("example.org", 11),
            ("dc=example,", 11),
            ("dc=a,,dc=b", 5),
            ("cn=a\\", 4),
            ("cn=a;b", 4),
            ("cn=a\\zz", 5),
        ] {
            assert_eq!(Dn::parse(bad).map_err(|error| error.at), Err(at), "{bad}");
        }
    }

    #[test]
    fn filters_are_checked() {
        for good in [
            "(objectClass=inetOrgPerson)",
            "(&(objectClass=user)(!(objectClass=computer)))",
            "(|(mail=*@example.org)(uid>=a)(cn~=b))",
            "(userAccountControl:1.2.840.113556.1.4.803:=2)",
            "(cn:dn:=x)",
            "(cn=a\\2ab)",
            "(&)",
            "(mail;lang-de=*)",
        ] {
            assert!(Filter::parse(good).is_ok(), "{good}: {:?}", Filter::parse(good));
        }
        for (bad, at) in [
            ("", 0),
            ("objectClass=person", 0),
            ("(objectClass=person", 19),
            ("(&(a=b)(c=d)", 12),
            ("(a=b))", 5),
            ("(a)", 2),
            ("(a=(b))", 3),
            ("(a=\\2)", 5),
            ("(!a=b)", 2),
        ] {
            assert_eq!(Filter::parse(bad).map_err(|error| error.at), Err(at), "{bad}");
        }
        assert!(Filter::parse(&"(!".repeat(100)).is_err());
    }
}
