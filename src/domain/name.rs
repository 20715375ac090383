//! Names that people and mail servers type, and the stable id that really identifies a user.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

/// A login name or mail address in its compared form: `local@domain`, trimmed, NFKC-normalised and
/// lower-cased, as LDAP compares `caseIgnoreMatch` values (RFC 4518 section 2).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// Why a text cannot be a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left after trimming.
    #[error("the name is empty")]
    Empty,
    /// Longer than [`Name::MAX_BYTES`].
    #[error("the name is longer than {} bytes", Name::MAX_BYTES)]
    TooLong,
    /// A control character, a line break or NUL: it could inject into a log line or a reply.
    #[error("the name holds a control character")]
    Control,
    /// No `@domain`, and no default domain to add.
    #[error("the name has no @domain, and no default domain is set")]
    NoDomain,
    /// `@example.org` or `alice@`.
    #[error("the part before or after the @ is empty")]
    EmptyPart,
    /// A name to log in with, perhaps, but nothing that mail can be sent to.
    #[error("it is not a mail address: write it like alice@example.org")]
    NotAnAddress,
}

impl Name {
    /// 64 bytes of local part, the `@`, 255 bytes of domain (RFC 5321 section 4.5.3.1).
    pub const MAX_BYTES: usize = 320;

    /// Takes what somebody typed, adds `@domain` where there is none, and normalises it.
    pub fn parse(raw: &str, default_domain: Option<&Domain>) -> Result<Name, NameError> {
        let trimmed = raw.trim();
        if trimmed.is_empty() {
            return Err(NameError::Empty);
        }
        // Checked before normalising, so that a hostile length costs nothing.
        if trimmed.len() > Name::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        // At the ends too: nobody types a line break, and whoever sends one is not asking for this user.
        if raw.chars().any(is_deceptive) {
            return Err(NameError::Control);
        }
        let raw = trimmed;
        let mut text = fold(raw);
        match text.rsplit_once('@') {
            Some((local, domain)) if local.is_empty() || domain.is_empty() => {
                return Err(NameError::EmptyPart);
            }
            Some(_) => {}
            None => {
                text.push('@');
                text.push_str(default_domain.ok_or(NameError::NoDomain)?.as_str());
            }
        }
        if text.len() > Name::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        Ok(Name(text.into_boxed_str()))
    }

    /// [`Name::parse`] for what must be a mail address: a dot-atom (RFC 5322 section 3.2.3, with the letters
    /// of RFC 6531) before the `@`, and a mail domain behind it.
    pub fn parse_address(raw: &str, default_domain: Option<&Domain>) -> Result<Name, NameError> {
        let name = Name::parse(raw, default_domain)?;
        if name.is_address() { Ok(name) } else { Err(NameError::NotAnAddress) }
    }

    /// Whether mail can be sent to it.
    pub fn is_address(&self) -> bool {
        let is_atom = |atom: &str| {
            let is_good = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
            !atom.is_empty() && atom.chars().all(is_good)
        };
        self.0.rsplit_once('@').is_some_and(|(local, domain)| {
            local.len() <= 64 && local.split('.').all(is_atom) && Domain::parse(domain).is_ok()
        })
    }

    /// A name that an earlier [`Name::parse`] made, read back from the store.
    pub(crate) fn from_stored(text: &str) -> Name {
        Name(text.into())
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the last `@`.
    pub fn local_part(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(local, _)| local)
    }

    /// What stands behind the last `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// Control characters, line separators, and marks that turn the direction of writing: in a log or on a
/// terminal they make one name look like another, or like another line.
pub fn is_deceptive(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Lower-cases and normalises; ASCII, the common case, without the Unicode tables.
fn fold(raw: &str) -> String {
    if raw.is_ascii() { raw.to_ascii_lowercase() } else { raw.nfkc().collect::<String>().to_lowercase() }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A mail domain, lower-cased: labels of letters, digits, `-` and `_`, or beyond ASCII, joined by dots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Domain(Box<str>);

/// The text is not a mail domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a mail domain: write it like example.org")]
pub struct DomainError;

impl Domain {
    /// Checks and lower-cases a domain.
    pub fn parse(raw: &str) -> Result<Domain, DomainError> {
        let label_is_good = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        };
        let text = fold(raw);
        if text.len() > 255 || !text.split('.').all(label_is_good) {
            return Err(DomainError);
        }
        Ok(Domain(text.into_boxed_str()))
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What identifies a user for good, as bytes: entryUUID (RFC 4530), objectGUID or nsUniqueId.
///
/// Unique inside one directory only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StableId(Box<[u8]>);

impl StableId {
    /// The ids of all known servers are 16 bytes; other servers may use longer ones, but not without end.
    pub const MAX_BYTES: usize = 128;

    /// `None` for an empty or overlong value.
    pub fn new(bytes: &[u8]) -> Option<StableId> {
        (!bytes.is_empty() && bytes.len() <= StableId::MAX_BYTES).then(|| StableId(bytes.into()))
    }

    /// The id of somebody to whom no directory gave one, made from a number that is never used twice. It begins
    /// with a NUL, as no text of a directory does, and has another length than a UUID.
    pub fn own(number: u64) -> StableId {
        let mut bytes = [0; StableId::OWN_BYTES];
        bytes[1..].copy_from_slice(&number.to_be_bytes());
        StableId(Box::from(bytes))
    }

    const OWN_BYTES: usize = 9;

    /// Whether no directory gave it.
    pub fn is_own(&self) -> bool {
        self.0.len() == StableId::OWN_BYTES && self.0.first() == Some(&0)
    }

    /// Whether a server made it (entryUUID, objectGUID, nsUniqueId), so that it is unique everywhere. A text of that
    /// length, which anybody may have written, is none: it is read in lower case, which the bytes of a UUID are not.
    pub fn is_server_made(&self) -> bool {
        let is_text = std::str::from_utf8(&self.0)
            .is_ok_and(|text| !text.chars().any(char::is_control) && text.to_ascii_lowercase() == text);
        self.0.len() == StableId::UUID_BYTES && !is_text
    }

    const UUID_BYTES: usize = 16;

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Sixteen bytes print as a UUID in the order in which they are stored; other lengths as plain hex.
impl fmt::Display for StableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_uuid = self.0.len() == 16;
        for (i, byte) in self.0.iter().enumerate() {
            if is_uuid && matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for StableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StableId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: Result<&str, NameError>) {
        let domain = Domain::parse("Example.ORG").unwrap();
        let parsed = Name::parse(raw, Some(&domain));
        assert_eq!(parsed.as_ref().map(Name::as_str), expected.as_ref().map(|text| *text), "{raw:?}");
    }

    #[test]
    fn names_are_normalised() {
        check("Alice", Ok("alice@example.org"));
        check(" ALICE@Example.Org ", Ok("alice@example.org"));
        check("Jürgen@EXAMPLE.org", Ok("jürgen@example.org"));
        check("Ju\u{308}rgen", Ok("jürgen@example.org"));
        check("a@b@c.example", Ok("a@b@c.example"));
        check("john smith", Ok("john smith@example.org"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        check("", Err(NameError::Empty));
        check("   ", Err(NameError::Empty));
        check("a\r\nb", Err(NameError::Control));
        check("a\0", Err(NameError::Control));
        check("a\u{202e}b", Err(NameError::Control));
        check("a\u{2028}b", Err(NameError::Control));
        check("a\r\n", Err(NameError::Control));
        check("\ta", Err(NameError::Control));
        check("@example.org", Err(NameError::EmptyPart));
        check("alice@", Err(NameError::EmptyPart));
        check(&"x".repeat(400), Err(NameError::TooLong));
        assert_eq!(Name::parse("alice", None), Err(NameError::NoDomain));
    }

    #[test]
    fn addresses_are_checked() {
        let domain = Domain::parse("example.org").ok();
        for good in ["alice", "a.b+c@x.org", "o'neil@x.org", "jürgen@bücher.example", "A@localhost"] {
            assert!(Name::parse_address(good, domain.as_ref()).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["a b", "a;b;c", "a,b", "a..b", ".a", "a@b@x.org", "<a@x.org>", "a@x..org", "a\"b", &long]
        {
            let parsed = Name::parse_address(bad, domain.as_ref());
            assert_eq!(parsed, Err(NameError::NotAnAddress), "{bad}");
        }
    }

    #[test]
    fn domains_are_checked() {
        for good in ["example.org", "localhost", "xn--bcher-kva.example", "bücher.example", "a_b.example"] {
            assert!(Domain::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "-a.org", "a b.org", "a@b.org", "example.org."] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sixteen_bytes_print_as_uuid() {
        let id = StableId::new(&(0..16).collect::<Vec<u8>>()).unwrap();
        assert_eq!(id.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(StableId::new(&[0xab, 0x01]).unwrap().to_string(), "ab01");
        assert!(StableId::new(&[]).is_none());
    }

    #[test]
    fn ids_of_servers_are_told_from_texts() {
        let check = |bytes: &[u8], expected| {
            assert_eq!(StableId::new(bytes).unwrap().is_server_made(), expected, "{bytes:?}");
        };
        check(&[7; 16], true);
        check(b"\xe4\x16\x32\x07\xd0\x94\x49\x96\x82\xf0\xee\x99\x73\x1c\x94\x52", true);
        check(b"employee-0000001", false);
        check("jürgen-mülle-01".as_bytes(), false);
        check(&[7; 15], false);
        check(&[7; 17], false);
        check(StableId::own(7).as_bytes(), false);
    }
}
