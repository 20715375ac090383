//! LDIF content records (RFC 2849), as a stream of entries.
//!
//! Lenient where real exports are: text in UTF-8 without base64, no `version:`, a byte order mark, spaces
//! after a base64 value, entries without attributes. Strict where a mistake could hide people: whatever is
//! not an entry is an error with its line.

use std::fmt;
use std::io::{self, BufRead};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::mapping::{Attribute, Entry};

/// A line with its continuations. A photo of 6 MiB in base64 fits; mail clients refuse larger ones.
pub const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;

/// An entry with all its values: bounds what one entry can take of the memory.
pub const MAX_ENTRY_BYTES: usize = 32 * 1024 * 1024;

/// Different attributes of an entry. The largest schemas name a few hundred for a person.
pub const MAX_ATTRIBUTES: usize = 1000;

/// What a value costs beyond its bytes, so that many empty ones count too.
const VALUE_OVERHEAD_BYTES: usize = 64;

/// Why the input ended early.
#[derive(Debug, thiserror::Error)]
pub enum LdifError {
    /// The input can't be read.
    #[error("cannot read the file")]
    Read(#[from] io::Error),
    /// It is not LDIF with entries.
    #[error("line {line}: {mistake}")]
    Mistake {
        /// Counted from 1.
        line: u64,
        /// What is wrong there.
        mistake: Mistake,
    },
}

/// What can be wrong with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// A continuation where nothing is to be continued.
    LooseContinuation,
    /// Longer than [`MAX_LINE_BYTES`].
    LineTooLong,
    /// Larger than [`MAX_ENTRY_BYTES`].
    EntryTooLarge,
    /// More than [`MAX_ATTRIBUTES`].
    TooManyAttributes,
    /// The version specification has another number.
    Version,
    /// An entry that does not begin with its name.
    MissingDn,
    /// Two entries run together.
    SecondDn,
    /// `dn:<`.
    DnFromUrl,
    /// A change record.
    Change,
    /// Neither `name: value` nor a comment.
    NoColon,
    /// RFC 4512 section 2.5.
    Description,
    /// After `::`.
    Base64,
    /// A value in plain that is neither ASCII nor UTF-8, or has NUL or CR in it.
    NotText,
    /// After `:<`.
    Url,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mistake::LooseContinuation => {
                f.write_str("this line continues nothing: remove the space in front")
            }
            Mistake::LineTooLong => write!(f, "the line is longer than {MAX_LINE_BYTES} bytes"),
            Mistake::EntryTooLarge => write!(f, "the entry is larger than {MAX_ENTRY_BYTES} bytes"),
            Mistake::TooManyAttributes => write!(f, "the entry has more than {MAX_ATTRIBUTES} attributes"),
            Mistake::Version => f.write_str("only version 1 of LDIF is known"),
            Mistake::MissingDn => f.write_str("an entry must begin with dn: (export with ldapsearch -LLL)"),
            Mistake::SecondDn => f.write_str("a second dn: put an empty line between entries"),
            Mistake::DnFromUrl => f.write_str("a dn cannot come from a URL"),
            Mistake::Change => f.write_str("this is a change; the file must hold entries, not changes"),
            Mistake::NoColon => f.write_str("expected an attribute and a colon"),
            Mistake::Description => {
                f.write_str("an attribute is letters, digits and hyphens, then options after semicolons")
            }
            Mistake::Base64 => f.write_str("the value after :: is not base64"),
            Mistake::NotText => f.write_str("the value is not UTF-8 text: write it in base64 after ::"),
            Mistake::Url => f.write_str("expected a URL after :<"),
        }
    }
}

/// Reads entries from LDIF.
pub struct Reader<R> {
    lines: Lines<R>,
    /// The version specification may only come first.
    is_start: bool,
    /// Where the entry that was read last begins.
    entry_line: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the start of the input.
    pub fn new(input: R) -> Reader<R> {
        Reader { lines: Lines::new(input), is_start: true, entry_line: 0 }
    }

    /// Where the entry that was read last begins, counted from 1.
    pub fn entry_line(&self) -> u64 {
        self.entry_line
    }

    /// The next entry; `None` at the end. After an error there is nothing more to read.
    pub fn entry(&mut self) -> Result<Option<Entry>, LdifError> {
        let Some(dn) = self.dn()? else { return Ok(None) };
        let mut size = dn.len();
        let mut entry = Entry { dn, attributes: Vec::new() };
        let mut is_first = true;
        while let Some(line) = self.lines.next()? {
            let at = line.number;
            if line.text.is_empty() {
                break;
            }
            let parsed =
                attribute(&line, std::mem::take(&mut is_first)).map_err(|mistake| at.error(mistake))?;
            let Some((name, value)) = parsed else { continue };
            size += value.len() + VALUE_OVERHEAD_BYTES;
            if size > MAX_ENTRY_BYTES {
                return Err(at.error(Mistake::EntryTooLarge));
            }
            add(&mut entry, name, value).map_err(|mistake| at.error(mistake))?;
        }
        Ok(Some(entry))
    }

    /// The name of the next entry, after empty lines and the version.
    fn dn(&mut self) -> Result<Option<String>, LdifError> {
        loop {
            let Some(line) = self.lines.next()? else { return Ok(None) };
            if line.text.is_empty() {
                continue;
            }
            let at = line.number;
            let (name, value) = split(line.text).map_err(|mistake| at.error(mistake))?;
            if std::mem::take(&mut self.is_start) && name.eq_ignore_ascii_case(b"version") {
                match value {
                    Value::Plain(b"1") => continue,
                    _ => return Err(at.error(Mistake::Version)),
                }
            }
            if !name.eq_ignore_ascii_case(b"dn") {
                return Err(at.error(Mistake::MissingDn));
            }
            let value = value.decode().map_err(|mistake| at.error(mistake))?;
            let dn = value.ok_or(at.error(Mistake::DnFromUrl))?;
            self.entry_line = at.0;
            return Ok(Some(String::from_utf8(dn).map_err(|_| at.error(Mistake::NotText))?));
        }
    }
}

/// An attribute and its value; nothing where the value is elsewhere.
fn attribute<'a>(line: &Line<'a>, is_first: bool) -> Result<Option<(&'a str, Vec<u8>)>, Mistake> {
    let (name, value) = split(line.text)?;
    if name.eq_ignore_ascii_case(b"dn") {
        return Err(Mistake::SecondDn);
    }
    // A control comes only in a change record, directly after the name.
    if name.eq_ignore_ascii_case(b"changetype") || (is_first && name.eq_ignore_ascii_case(b"control")) {
        return Err(Mistake::Change);
    }
    let name = description(name)?;
    Ok(value.decode()?.map(|value| (name, value)))
}

/// `AttributeDescription` (RFC 4512 section 2.5), with the underscores that some servers allow.
fn description(name: &[u8]) -> Result<&str, Mistake> {
    let is_part = |part: &[u8]| {
        !part.is_empty()
            && part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    };
    if !name.first().is_some_and(u8::is_ascii_alphanumeric) || !name.split(|byte| *byte == b';').all(is_part)
    {
        return Err(Mistake::Description);
    }
    std::str::from_utf8(name).map_err(|_| Mistake::Description)
}

/// Values of one attribute come together, as a server sends them.
fn add(entry: &mut Entry, name: &str, value: Vec<u8>) -> Result<(), Mistake> {
    // They nearly always follow each other.
    let is_full = entry.attributes.len() >= MAX_ATTRIBUTES;
    let known = entry.attributes.iter_mut().rev().find(|known| known.name.eq_ignore_ascii_case(name));
    match known {
        Some(attribute) => attribute.values.push(value),
        None if is_full => return Err(Mistake::TooManyAttributes),
        None => entry.attributes.push(Attribute { name: name.to_owned(), values: vec![value] }),
    }
    Ok(())
}

/// `value-spec` (RFC 2849).
#[derive(Clone, Copy)]
enum Value<'a> {
    Plain(&'a [u8]),
    Base64(&'a [u8]),
    Url(&'a [u8]),
}

impl Value<'_> {
    /// The value's bytes; `None` where a URL says where they are, since no file of others is opened and
    /// nothing is fetched.
    fn decode(self) -> Result<Option<Vec<u8>>, Mistake> {
        match self {
            Value::Plain(text) => {
                let is_text =
                    std::str::from_utf8(text).is_ok() && !text.iter().any(|b| matches!(b, 0 | b'\r'));
                if is_text { Ok(Some(text.to_vec())) } else { Err(Mistake::NotText) }
            }
            Value::Base64(text) => {
                STANDARD.decode(text.trim_ascii_end()).map(Some).map_err(|_| Mistake::Base64)
            }
            Value::Url(url) if url.is_ascii() && url.contains(&b':') => Ok(None),
            Value::Url(_) => Err(Mistake::Url),
        }
    }
}

fn split(line: &[u8]) -> Result<(&[u8], Value<'_>), Mistake> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Mistake::NoColon)?;
    let (name, rest) = (&line[..colon], &line[colon + 1..]);
    let value = match rest.first() {
        Some(b':') => Value::Base64(fill(&rest[1..])),
        Some(b'<') => Value::Url(fill(&rest[1..])),
        _ => Value::Plain(fill(rest)),
    };
    Ok((name, value))
}

/// `FILL = *SPACE`.
fn fill(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != b' ').unwrap_or(bytes.len());
    &bytes[start..]
}

/// Where a line begins, counted from 1.
#[derive(Clone, Copy)]
struct LineNumber(u64);

impl LineNumber {
    fn error(self, mistake: Mistake) -> LdifError {
        LdifError::Mistake { line: self.0, mistake }
    }
}

/// A line with its continuations; an empty one separates entries.
struct Line<'a> {
    number: LineNumber,
    text: &'a [u8],
}

/// Unfolds lines and drops comments.
struct Lines<R> {
    input: R,
    /// Lines read so far.
    count: u64,
    text: Vec<u8>,
}

/// U+FEFF in UTF-8, which Windows puts in front.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<R: BufRead> Lines<R> {
    fn new(input: R) -> Lines<R> {
        Lines { input, count: 0, text: Vec::new() }
    }

    /// The next line that is no comment.
    fn next(&mut self) -> Result<Option<Line<'_>>, LdifError> {
        loop {
            let number = LineNumber(self.count + 1);
            self.text.clear();
            if !self.append(number)? {
                return Ok(None);
            }
            if self.count == 1 && self.text.starts_with(BYTE_ORDER_MARK) {
                self.text.drain(..BYTE_ORDER_MARK.len());
            }
            if self.text.first() == Some(&b' ') {
                return Err(number.error(Mistake::LooseContinuation));
            }
            // Nothing continues an empty line: the next one finds that out.
            while !self.text.is_empty() && self.is_continued()? {
                self.input.consume(1);
                self.append(number)?;
            }
            if self.text.first() != Some(&b'#') {
                return Ok(Some(Line { number, text: &self.text }));
            }
        }
    }

    fn is_continued(&mut self) -> io::Result<bool> {
        Ok(self.input.fill_buf()?.first() == Some(&b' '))
    }

    /// Appends the rest of a physical line, without its end; false at the end of the input. `number` is
    /// where the line with its continuations began.
    fn append(&mut self, number: LineNumber) -> Result<bool, LdifError> {
        let mut has_any = false;
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if buffer.is_empty() {
                break;
            }
            has_any = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            if self.text.len() + piece.len() > MAX_LINE_BYTES {
                return Err(number.error(Mistake::LineTooLong));
            }
            self.text.extend_from_slice(piece);
            let used = piece.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        if has_any {
            self.count += 1;
            if self.text.last() == Some(&b'\r') {
                self.text.pop();
            }
        }
        Ok(has_any)
    }
}

#[cfg(test)]
mod tests;
