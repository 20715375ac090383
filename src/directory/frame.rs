//! What a server may send: LDAP messages whose size, depth and number of parts are bounded, and whose lengths
//! agree with one another (X.690, as RFC 4511 section 5.1 restricts it).
//!
//! The LDAP library recurses as deep as a message nests, waits for as many bytes as its head announces, and
//! waits for ever where an inner length is longer than the outer one. So every byte goes through [`Frames`]
//! before the library sees it. It keeps a few numbers and no bytes: a message is judged while it passes.

use super::ber;
use super::error::LdapResult;

/// No message is longer. An entry has the attributes that we ask for, some kB; 389 Directory Server tells
/// changed ones with all of theirs, and a photo has 10 MB at most in Active Directory. A group with 250,000
/// members fits. The library keeps a message three times while it reads it.
const MAX_MESSAGE_BYTES: u32 = 16 * 1024 * 1024;

/// No message nests deeper. What we ask for is answered with five levels: message, operation, attributes,
/// attribute, values.
const MAX_DEPTH: usize = 16;

/// No message has more parts: each one, however short, costs the library some 100 bytes. It is as many as
/// fit a long message where they are names.
const MAX_PARTS: u32 = 256 * 1024;

/// Enough of an unsolicited message to know what it says.
const MAX_NOTICE_BYTES: usize = 4096;

/// A tag, the first byte of a length, and at most four more.
const MAX_HEAD_BYTES: usize = 6;

/// `LDAPMessage`, a sequence.
const MESSAGE: u8 = 0x30;

/// What a server did that it must not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// It speaks something else.
    #[error("what is no LDAP message: it begins with the byte {0:#04x}")]
    NoMessage(u8),
    /// The length in its head.
    #[error("a message of {0} bytes, where {MAX_MESSAGE_BYTES} are the most that is taken")]
    TooLong(u32),
    /// Constructed elements in constructed elements.
    #[error("a message that nests more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Elements, small ones.
    #[error("a message of more than {MAX_PARTS} parts")]
    TooManyParts,
    /// The lengths contradict one another.
    #[error("a malformed message: one of its parts is longer than what it is a part of")]
    Overrun,
    /// The indefinite form, more than four bytes of length, or a tag of several bytes.
    #[error("a malformed message: a tag or a length has a form that LDAP does not use")]
    Form,
}

/// Why what follows must not pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// It is not as it must be.
    Violation(Violation),
    /// The notice of disconnection (RFC 4511 section 4.4.1): the server is about to leave.
    Notice(LdapResult),
}

/// Looks at the messages of one connection as they pass.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the message that are still to come; none between two messages.
    left: u32,
    /// Bytes that are not taken up by their parts yet, of each element that is open, the message first.
    open: Vec<u32>,
    /// Bytes of a value that are still to come.
    value: u32,
    /// The beginning of a head that is not complete.
    head: Vec<u8>,
    parts: u32,
    /// The first bytes of the message: its id where that is zero.
    start: Vec<u8>,
    /// The rest of a message that nobody asked for.
    notice: Option<Vec<u8>>,
}

/// The head of an element.
struct Head {
    tag: u8,
    length: u32,
    /// Bytes of the head itself.
    size: usize,
}

impl Frames {
    /// Takes in what came next. After an error nothing that follows is of use.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<(), Refused> {
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.begin(bytes)?;
                continue;
            }
            let length = bytes.len().min(self.left as usize);
            let (part, rest) = bytes.split_at(length);
            // No longer than `left`.
            self.left -= length as u32;
            self.listen(part);
            self.walk(part).map_err(Refused::Violation)?;
            if self.left == 0 {
                self.end()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Reads the head of a message; what follows it.
    fn begin<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refused> {
        let Some((head, rest)) = self.head(bytes).map_err(Refused::Violation)? else { return Ok(&[]) };
        if head.tag != MESSAGE {
            return Err(Refused::Violation(Violation::NoMessage(head.tag)));
        }
        if head.length > MAX_MESSAGE_BYTES {
            return Err(Refused::Violation(Violation::TooLong(head.length)));
        }
        self.left = head.length;
        self.open.clear();
        self.open.push(head.length);
        self.parts = 0;
        self.start.clear();
        Ok(rest)
    }

    /// Every part has to end where the message ends.
    fn end(&mut self) -> Result<(), Refused> {
        let is_whole = self.open.is_empty() && self.value == 0 && self.head.is_empty();
        if !is_whole {
            return Err(Refused::Violation(Violation::Overrun));
        }
        match self.notice.take().as_deref().and_then(notice) {
            Some(result) => Err(Refused::Notice(result)),
            None => Ok(()),
        }
    }

    /// Goes through a part of a message, from head to head.
    fn walk(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let mut bytes = self.pass(bytes);
        while !bytes.is_empty() {
            let Some((head, rest)) = self.head(bytes)? else { return Ok(()) };
            self.open_part(&head)?;
            bytes = self.pass(rest);
        }
        Ok(())
    }

    /// Lets the value pass, as far as it is here; what follows it.
    fn pass<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let length = bytes.len().min(self.value as usize);
        // No longer than `value`.
        self.value -= length as u32;
        &bytes[length..]
    }

    fn open_part(&mut self, head: &Head) -> Result<(), Violation> {
        const CONSTRUCTED: u8 = 0x20;
        let outer = self.open.last_mut().ok_or(Violation::Overrun)?;
        // A head has six bytes at most.
        let size = head.length.checked_add(head.size as u32).ok_or(Violation::Overrun)?;
        *outer = outer.checked_sub(size).ok_or(Violation::Overrun)?;
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(Violation::TooManyParts);
        }
        if head.tag & CONSTRUCTED == 0 {
            self.value = head.length;
            if *outer > 0 {
                return Ok(());
            }
        } else if self.open.len() < MAX_DEPTH {
            self.open.push(head.length);
        } else {
            return Err(Violation::TooDeep);
        }
        while self.open.last() == Some(&0) {
            self.open.pop();
        }
        Ok(())
    }

    /// Takes a head off the front, begun in earlier bytes perhaps; `None` where it goes on in later ones.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Head, &'a [u8])>, Violation> {
        if self.head.is_empty() {
            if let Some(head) = parse(bytes)? {
                let rest = &bytes[head.size..];
                return Ok(Some((head, rest)));
            }
            self.head.extend_from_slice(bytes);
            return Ok(None);
        }
        let before = self.head.len();
        self.head.extend(bytes.iter().take(MAX_HEAD_BYTES - before));
        let Some(head) = parse(&self.head)? else { return Ok(None) };
        self.head.clear();
        // What was there before was not complete.
        let rest = &bytes[head.size - before..];
        Ok(Some((head, rest)))
    }

    /// Keeps a message whose id is zero, which no request has.
    fn listen(&mut self, part: &[u8]) {
        const ID_ZERO: [u8; 3] = [ber::INTEGER, 1, 0];
        let mut part = part;
        if self.start.len() < ID_ZERO.len() {
            let (start, rest) = part.split_at(part.len().min(ID_ZERO.len() - self.start.len()));
            self.start.extend_from_slice(start);
            self.notice = (self.start == ID_ZERO).then(Vec::new);
            part = rest;
        }
        if let Some(notice) = &mut self.notice {
            let room = MAX_NOTICE_BYTES - notice.len();
            notice.extend(part.iter().take(room));
        }
    }
}

/// Reads a head; `None` where more bytes are needed.
#[inline]
fn parse(bytes: &[u8]) -> Result<Option<Head>, Violation> {
    /// Says that the tag goes on in the next byte.
    const LONG_TAG: u8 = 0x1f;
    let [tag, first, rest @ ..] = bytes else { return Ok(None) };
    if tag & LONG_TAG == LONG_TAG {
        return Err(Violation::Form);
    }
    if *first < 0x80 {
        return Ok(Some(Head { tag: *tag, length: u32::from(*first), size: 2 }));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > size_of::<u32>() {
        return Err(Violation::Form);
    }
    let Some(length) = rest.get(..count) else { return Ok(None) };
    let length = length.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    Ok(Some(Head { tag: *tag, length, size: 2 + count }))
}

/// What a notice of disconnection says; `None` for another notification.
fn notice(message: &[u8]) -> Option<LdapResult> {
    const NAME: &[u8] = b"1.3.6.1.4.1.1466.20036";
    let (result, name) = ber::extended_result(message).ok()?;
    (name == Some(NAME)).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldap3::asn1::parse_tag;
    use proptest::prelude::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut element = Vec::new();
        ber::push_element(&mut element, tag, content);
        element
    }

    fn message(content: &[u8]) -> Vec<u8> {
        element(MESSAGE, &[&[2, 1, 7], content].concat())
    }

    /// The same, whether the bytes come at once or one by one.
    #[track_caller]
    fn check(bytes: &[u8]) -> Result<(), Refused> {
        let mut at_once = Frames::default();
        let outcome = at_once.check(bytes);
        let mut frames = Frames::default();
        assert_eq!(bytes.iter().try_for_each(|byte| frames.check(&[*byte])), outcome, "{bytes:02x?}");
        outcome
    }

    #[track_caller]
    fn refused(bytes: &[u8], violation: Violation) {
        assert_eq!(check(bytes), Err(Refused::Violation(violation)), "{bytes:02x?}");
    }

    fn nested(depth: usize) -> Vec<u8> {
        (1..depth).fold(Vec::new(), |inner, _| element(0xa0, &inner))
    }

    #[test]
    fn messages_pass() {
        let entry = b"\x64\x10\x04\x02\xffx\x30\x0a\x30\x08\x04\x01a\x31\x03\x04\x01\xfe";
        let several = [message(entry), message(b""), message(&element(4, &[0x30; 300])), vec![MESSAGE, 0]];
        assert_eq!(check(&several.concat()), Ok(()));
        // Active Directory writes every length with four bytes.
        assert_eq!(check(b"\x30\x84\0\0\0\x0d\x02\x01\x07\x65\x84\0\0\0\x04\x0a\x02\0\0"), Ok(()));
        assert_eq!(check(&message(&nested(MAX_DEPTH))), Ok(()));
        // Not to its end yet.
        assert_eq!(check(b"\x30\x84\x00\xff\xff\xff\x04"), Ok(()));
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_head() {
        refused(b"\x30\x84\xff\xff\xff\xff", Violation::TooLong(u32::MAX));
        refused(b"\x30\x84\x01\x00\x00\x01", Violation::TooLong(MAX_MESSAGE_BYTES + 1));
        refused(&message(&nested(MAX_DEPTH + 1)), Violation::TooDeep);
        let parts = vec![[4, 0]; MAX_PARTS as usize].concat();
        refused(&message(&parts), Violation::TooManyParts);
        assert_eq!(check(&message(&parts[4..])), Ok(()));
    }

    #[test]
    fn lengths_must_agree() {
        for bytes in [
            &b"\x30\x03\x02\x02\x07"[..],
            b"\x30\x05\x02\x01\x07\x04\x01",
            b"\x30\x04\x02\x01\x07\x04",
            b"\x30\x05\x02\x01\x07\x04\x84",
            b"\x30\x07\x02\x01\x07\x30\x02\x04\x01",
            b"\x30\x09\x02\x01\x07\x04\x84\xff\xff\xff\xff",
        ] {
            refused(bytes, Violation::Overrun);
        }
        for bytes in [&b"\x30\x80"[..], b"\x30\x85\0\0\0\0\0", b"\x30\x05\x02\x01\x07\x1f\x00", b"\x3f\x00"] {
            refused(bytes, Violation::Form);
        }
        refused(b"HTTP/1.1 400 Bad Request", Violation::NoMessage(b'H'));
        refused(b"\x15\x03\x01\x00\x02", Violation::NoMessage(0x15));
    }

    #[test]
    fn a_notice_of_disconnection_is_heard() {
        let name = element(0x8a, b"1.3.6.1.4.1.1466.20036");
        let result = [0x0a, 1, 52, 4, 0, 4, 3, b'b', b'y', b'e'];
        let said = Err(Refused::Notice(LdapResult::new(52, "bye")));
        let zero = |rest: &[u8]| element(MESSAGE, &[&[2, 1, 0], rest].concat());
        let inside = zero(&element(0x78, &[&result[..], &name].concat()));
        assert_eq!(check(&inside), said);
        assert_eq!(check(&[message(b""), inside].concat()), said);
        assert_eq!(check(&zero(&[element(0x78, &result), name.clone()].concat())), said);
        // Others, or no more than a beginning of one.
        let other = element(0x8a, b"1.2.3");
        assert_eq!(check(&zero(&element(0x78, &[&result[..], &other].concat()))), Ok(()));
        assert_eq!(check(&zero(&element(0x78, &[0; 5000]))), Ok(()));
        assert_eq!(check(&message(&element(0x78, &[&result[..], &name].concat()))), Ok(()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, cut: prop::sample::Index) {
            let cut = cut.index(bytes.len() + 1);
            let mut frames = Frames::default();
            let outcome = frames.check(&bytes[..cut]).and_then(|()| frames.check(&bytes[cut..]));
            prop_assert_eq!(outcome, Frames::default().check(&bytes));
        }

        /// What passes is what the library can read, to the last byte.
        #[test]
        fn what_passes_can_be_parsed(
            content in prop::collection::vec(
                prop_oneof![Just(0x30u8), Just(0x04), Just(0x31), Just(0), Just(1), Just(2), Just(3), Just(0x81)],
                0..24,
            ),
        ) {
            let bytes = element(MESSAGE, &content);
            if Frames::default().check(&bytes).is_ok() {
                let (rest, _) = parse_tag(&bytes).unwrap();
                prop_assert!(rest.is_empty());
            }
        }
    }
}
