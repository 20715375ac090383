//! The control of DirSync ([MS-ADTS] section 3.1.1.3.4.1.3), written and read without trust.

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
        }
    }
}
