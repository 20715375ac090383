//! The control of DirSync ([MS-ADTS] section 3.1.1.3.4.1.3) and what is kept between two polls, written and
//! read without trust.

use super::ber::{INTEGER, Malformed, OCTET_STRING, SEQUENCE, element, push_element};

/// LDAP_SERVER_DIRSYNC_OID, of a request and of its answer.
pub(super) const DIRSYNC: &str = "1.2.840.113556.1.4.841";

/// Only what the bind user may read ([MS-ADTS] section 3.1.1.3.4.1.3, LDAP_DIRSYNC_OBJECT_SECURITY). Without
/// it the user needs the right "Replicating Directory Changes".
const OBJECT_SECURITY: u8 = 1;

/// What one answer may hold, 1 MiB as the server counts: a page of some thousand changes. Active Directory says
/// "more" past it; Samba ignores it.
const MAX_ANSWER_BYTES: [u8; 3] = [0x10, 0, 0];

/// Servers use some hundred bytes, and a few more for each domain controller of the domain.
const MAX_COOKIE_BYTES: usize = 64 * 1024;

/// What an answer says of the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// There is more to tell: ask again at once, with the cookie.
    pub(super) more: bool,
    pub(super) cookie: Vec<u8>,
}

/// The request's value: `SEQUENCE { flags INTEGER, maxBytes INTEGER, cookie OCTET STRING }`.
pub(super) fn request(object_security: bool, cookie: &[u8]) -> Vec<u8> {
    let flags = if object_security { OBJECT_SECURITY } else { 0 };
    let mut content = Vec::with_capacity(cookie.len() + 16);
    push_element(&mut content, INTEGER, &[flags]);
    push_element(&mut content, INTEGER, &MAX_ANSWER_BYTES);
    push_element(&mut content, OCTET_STRING, cookie);
    wrapped(&content)
}

/// The answer's value: `SEQUENCE { more INTEGER, unused INTEGER, cookie OCTET STRING }`.
pub(super) fn answer(value: &[u8]) -> Result<Answer, Malformed> {
    let (content, _) = element(value, SEQUENCE)?;
    let (more, content) = element(content, INTEGER)?;
    let (_unused, content) = element(content, INTEGER)?;
    let (cookie, _) = element(content, OCTET_STRING)?;
    if cookie.is_empty() || cookie.len() > MAX_COOKIE_BYTES {
        return Err("the DirSync cookie is empty or too long");
    }
    Ok(Answer { more: more.iter().any(|byte| *byte != 0), cookie: cookie.to_vec() })
}

/// Where a poll ended: our own cookie, with the server's in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bookmark {
    /// The server's cookie.
    pub(super) cookie: Vec<u8>,
    /// The server refused to work without [`OBJECT_SECURITY`].
    pub(super) object_security: bool,
    /// Which domain controller it was (`dsServiceName`), empty where it does not say.
    pub(super) service: String,
    /// Its highest USN before the poll.
    pub(super) usn: u64,
    /// What it was before the ids were compared last,
    pub(super) compared_usn: u64,
    /// when that was, in seconds since 1970,
    pub(super) compared_at: u64,
    /// and how many there were.
    pub(super) count: u64,
}

impl Bookmark {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.cookie.len() + self.service.len() + 64);
        push_element(&mut content, OCTET_STRING, &self.cookie);
        push_element(&mut content, OCTET_STRING, &[u8::from(self.object_security)]);
        push_element(&mut content, OCTET_STRING, self.service.as_bytes());
        for number in [self.usn, self.compared_usn, self.compared_at, self.count] {
            push_element(&mut content, OCTET_STRING, &number.to_be_bytes());
        }
        wrapped(&content)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Bookmark, Malformed> {
        let (content, _) = element(bytes, SEQUENCE)?;
        let (cookie, content) = element(content, OCTET_STRING)?;
        let (object_security, content) = element(content, OCTET_STRING)?;
        let (service, content) = element(content, OCTET_STRING)?;
        let (usn, content) = number(content)?;
        let (compared_usn, content) = number(content)?;
        let (compared_at, content) = number(content)?;
        let (count, _) = number(content)?;
        Ok(Bookmark {
            cookie: cookie.to_vec(),
            object_security: object_security != [0],
            service: String::from_utf8_lossy(service).into_owned(),
            usn,
            compared_usn,
            compared_at,
            count,
        })
    }
}

fn number(content: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (bytes, rest) = element(content, OCTET_STRING)?;
    let bytes = bytes.try_into().map_err(|_| "a number has eight bytes")?;
    Ok((u64::from_be_bytes(bytes), rest))
}

fn wrapped(content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(content.len() + 6);
    push_element(&mut value, SEQUENCE, content);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_encoded() {
        assert_eq!(request(false, b""), [0x30, 10, 2, 1, 0, 2, 3, 0x10, 0, 0, 4, 0]);
        assert_eq!(request(true, b"ab"), [0x30, 12, 2, 1, 1, 2, 3, 0x10, 0, 0, 4, 2, b'a', b'b']);
    }

    #[test]
    fn answers_are_read() {
        let read = |more| answer(&[0x30, 9, 2, 1, more, 2, 1, 0, 4, 1, b'c']);
        assert_eq!(read(0), Ok(Answer { more: false, cookie: b"c".to_vec() }));
        assert_eq!(read(1), Ok(Answer { more: true, cookie: b"c".to_vec() }));
        for bad in [
            &[][..],
            &[0x30, 0],
            &[0x30, 3, 2, 1, 0],
            &[0x30, 6, 2, 1, 0, 2, 1, 0],
            &[0x30, 8, 2, 1, 0, 2, 1, 0, 4, 0],
            &[0x30, 9, 2, 1, 0, 2, 1, 0, 4, 9, b'c'],
            &[0x31, 9, 2, 1, 0, 2, 1, 0, 4, 1, b'c'],
        ] {
            assert!(answer(bad).is_err(), "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = answer(&bytes);
            let _ = Bookmark::decode(&bytes);
        }

        #[test]
        fn a_bookmark_survives(
            cookie: Vec<u8>,
            object_security: bool,
            service: String,
            numbers: [u64; 4],
        ) {
            let [usn, compared_usn, compared_at, count] = numbers;
            let bookmark =
                Bookmark { cookie, object_security, service, usn, compared_usn, compared_at, count };
            prop_assert_eq!(Bookmark::decode(&bookmark.encode()), Ok(bookmark));
        }
    }
}
