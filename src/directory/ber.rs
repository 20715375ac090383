//! Structures that the LDAP library hands over raw, read without trust (X.690, as RFC 4511 section 5.1
//! restricts it). Whatever the bytes are, the answer is a value or an error.

use ldap3::asn1::{PL, StructureTag};

use super::error::LdapResult;
use crate::domain::mapping::{Attribute, Entry};

/// What is wrong with the bytes.
pub(super) type Malformed = &'static str;

/// Servers use some hundred bytes; a cookie goes back with every page, and is kept with every change.
pub(super) const MAX_COOKIE_BYTES: usize = 64 * 1024;

/// Universal tags.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;

/// The value of a paging request (RFC 2696 section 2): `SEQUENCE { size INTEGER, cookie OCTET STRING }`.
pub(super) fn paging_request(page_size: u32, cookie: &[u8]) -> Vec<u8> {
    // The protocol's maxInt is 2^31 - 1.
    let size = page_size.clamp(1, i32::MAX as u32).to_be_bytes();
    let significant = size.iter().position(|byte| *byte != 0).unwrap_or(3);
    let mut integer = size[significant..].to_vec();
    // A set top bit would make it negative.
    if integer[0] & 0x80 != 0 {
        integer.insert(0, 0);
    }
    let mut content = Vec::with_capacity(cookie.len() + 16);
    push_element(&mut content, INTEGER, &integer);
    push_element(&mut content, OCTET_STRING, cookie);
    let mut value = Vec::with_capacity(content.len() + 6);
    push_element(&mut value, SEQUENCE, &content);
    value
}

pub(super) fn push_element(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len().to_be_bytes();
    if content.len() < 0x80 {
        out.push(length[length.len() - 1]);
    } else {
        let significant = length.iter().position(|byte| *byte != 0).unwrap_or(0);
        let length = &length[significant..];
        // At most eight bytes of length.
        out.push(0x80 | length.len() as u8);
        out.extend_from_slice(length);
    }
    out.extend_from_slice(content);
}

/// The cookie in the value of a paging response; an empty one says that this was the last page.
pub(super) fn paging_cookie(value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (content, rest) = element(value, SEQUENCE)?;
    if !rest.is_empty() {
        return Err("something follows the control's value");
    }
    let (_size_estimate, content) = element(content, INTEGER)?;
    let (cookie, _extensions) = element(content, OCTET_STRING)?;
    if cookie.len() > MAX_COOKIE_BYTES {
        return Err("the cookie is too long");
    }
    Ok(cookie.to_vec())
}

/// Takes one element off the front if it has this tag; else takes nothing.
pub(super) fn optional(bytes: &[u8], wanted: u8) -> Result<(Option<&[u8]>, &[u8]), Malformed> {
    if bytes.first() != Some(&wanted) {
        return Ok((None, bytes));
    }
    element(bytes, wanted).map(|(content, rest)| (Some(content), rest))
}

/// Takes one element with a definite length off the front.
pub(super) fn element(bytes: &[u8], wanted: u8) -> Result<(&[u8], &[u8]), Malformed> {
    const TRUNCATED: Malformed = "the control's value is truncated";
    let (&[tag, first], mut rest) = bytes.split_first_chunk::<2>().ok_or(TRUNCATED)?;
    if tag != wanted {
        return Err("the control's value has an unexpected element");
    }
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > size_of::<u32>() {
            return Err("the control's value has an invalid length");
        }
        let (length, after) = rest.split_at_checked(count).ok_or(TRUNCATED)?;
        rest = after;
        length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    rest.split_at_checked(length).ok_or(TRUNCATED)
}

/// `ExtendedResponse ::= [APPLICATION 24] SEQUENCE { COMPONENTS OF LDAPResult, responseName [10] OPTIONAL, .. }`
/// (RFC 4511 section 4.12): the result and the name. Active Directory puts the name of a notice of
/// disconnection behind the response instead of into it.
pub(super) fn extended_result(bytes: &[u8]) -> Result<(LdapResult, Option<&[u8]>), Malformed> {
    const EXTENDED_RESPONSE: u8 = 0x78;
    const RESPONSE_NAME: u8 = 0x8a;
    let (response, behind) = element(bytes, EXTENDED_RESPONSE)?;
    let (code, rest) = element(response, ENUMERATED)?;
    let (_matched_dn, rest) = element(rest, OCTET_STRING)?;
    let (text, rest) = element(rest, OCTET_STRING)?;
    let name = [rest, behind].into_iter().find_map(|bytes| optional(bytes, RESPONSE_NAME).ok()?.0);
    let code = code.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    Ok((LdapResult::new(code, &String::from_utf8_lossy(text)), name))
}

/// `SearchResultEntry ::= [APPLICATION 4] SEQUENCE { objectName, attributes }` (RFC 4511 section 4.5.2).
///
/// Values are moved, not copied. A name that is not UTF-8 is only for people to read, so it is shown with
/// replacement characters instead of failing the sweep.
pub(super) fn entry(tag: StructureTag) -> Result<Entry, Malformed> {
    let [name, attributes] = pair(tag, "an entry is a name and attributes")?;
    let dn = text(primitive(name, "an entry's name is a string")?);
    let attributes = constructed(attributes, "an entry's attributes are a list")?
        .into_iter()
        .map(attribute)
        .collect::<Result<_, _>>()?;
    Ok(Entry { dn, attributes })
}

/// `PartialAttribute ::= SEQUENCE { type, vals SET OF value }` (RFC 4511 section 4.1.7).
fn attribute(tag: StructureTag) -> Result<Attribute, Malformed> {
    let [name, values] = pair(tag, "an attribute is a description and values")?;
    let name = String::from_utf8(primitive(name, "an attribute description is a string")?)
        .map_err(|_| "an attribute description is not text")?;
    let values = constructed(values, "an attribute's values are a set")?
        .into_iter()
        .map(|value| primitive(value, "a value is a string"))
        .collect::<Result<_, _>>()?;
    Ok(Attribute { name, values })
}

fn pair(tag: StructureTag, problem: Malformed) -> Result<[StructureTag; 2], Malformed> {
    constructed(tag, problem)?.try_into().map_err(|_| problem)
}

fn constructed(tag: StructureTag, problem: Malformed) -> Result<Vec<StructureTag>, Malformed> {
    match tag.payload {
        PL::C(parts) => Ok(parts),
        PL::P(_) => Err(problem),
    }
}

fn primitive(tag: StructureTag, problem: Malformed) -> Result<Vec<u8>, Malformed> {
    match tag.payload {
        PL::P(bytes) => Ok(bytes),
        PL::C(_) => Err(problem),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldap3::asn1::{TagClass, parse_tag};
    use proptest::prelude::*;

    #[test]
    fn a_paging_request_is_encoded_as_in_rfc_2696() {
        for (size, cookie, bytes) in [
            (1, &b""[..], &[0x30, 5, 2, 1, 1, 4, 0][..]),
            (127, b"ab", &[0x30, 7, 2, 1, 127, 4, 2, b'a', b'b']),
            (128, b"", &[0x30, 6, 2, 2, 0, 128, 4, 0]),
            (1000, b"", &[0x30, 6, 2, 2, 3, 0xe8, 4, 0]),
            (0, b"", &[0x30, 5, 2, 1, 1, 4, 0]),
            (u32::MAX, b"", &[0x30, 8, 2, 4, 0x7f, 0xff, 0xff, 0xff, 4, 0]),
        ] {
            assert_eq!(paging_request(size, cookie), bytes, "{size}");
        }
    }

    #[test]
    fn hostile_paging_responses_are_errors() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0],
            &[0x30, 5, 2, 1, 0, 4],
            &[0x30, 0x80, 2, 1, 0, 4, 0, 0, 0],
            &[0x30, 0xff, 2, 1, 0, 4, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1, 0, 4, 0],
            &[0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 5, 4, 1, 0, 4, 0],
            &[0x30, 5, 2, 1, 0, 2, 0],
            &[0x30, 5, 2, 9, 0, 4, 0],
            &[0x30, 5, 2, 1, 0, 4, 9],
            &[0x30, 5, 2, 1, 0, 4, 0, 0],
            &[0x31, 5, 2, 1, 0, 4, 0],
        ] {
            assert!(paging_cookie(bytes).is_err(), "{bytes:02x?}");
        }
        let long = paging_request(1, &vec![0; MAX_COOKIE_BYTES + 1]);
        assert_eq!(paging_cookie(&long), Err("the cookie is too long"));
    }

    #[test]
    fn malformed_entries_are_errors() {
        for bytes in [
            &b"\x64\x00"[..],
            b"\x64\x02\x04\x00",
            b"\x64\x04\x30\x00\x30\x00",
            b"\x64\x04\x04\x00\x04\x00",
            b"\x64\x06\x04\x00\x30\x02\x04\x00",
            b"\x64\x06\x04\x00\x30\x02\x30\x00",
            b"\x64\x0a\x04\x00\x30\x06\x30\x04\x04\x00\x04\x00",
            b"\x64\x0b\x04\x00\x30\x07\x30\x05\x04\x01\xff\x31\x00",
            b"\x64\x0c\x04\x00\x30\x08\x30\x06\x04\x00\x31\x02\x30\x00",
        ] {
            let (rest, tag) = parse_tag(bytes).unwrap();
            assert!(rest.is_empty());
            assert!(entry(tag).is_err(), "{bytes:02x?}");
        }
        assert!(entry(leaf(b"x")).is_err());
    }

    #[test]
    fn values_are_bytes() {
        let bytes = b"\x64\x10\x04\x02\xffx\x30\x0a\x30\x08\x04\x01a\x31\x03\x04\x01\xfe";
        let (_, tag) = parse_tag(bytes).unwrap();
        let entry = entry(tag).unwrap();
        assert_eq!(entry.dn, "\u{fffd}x");
        assert_eq!(entry.attributes, [Attribute { name: "a".to_owned(), values: vec![vec![0xfe]] }]);
    }

    fn leaf(bytes: &[u8]) -> StructureTag {
        StructureTag { class: TagClass::Universal, id: 4, payload: PL::P(bytes.to_vec()) }
    }

    fn tags() -> impl Strategy<Value = StructureTag> {
        any::<Vec<u8>>().prop_map(|bytes| leaf(&bytes)).prop_recursive(5, 64, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(|parts| StructureTag {
                class: TagClass::Application,
                id: 4,
                payload: PL::C(parts),
            })
        })
    }

    proptest! {
        #[test]
        fn a_cookie_survives(size: u32, cookie: Vec<u8>) {
            prop_assert_eq!(paging_cookie(&paging_request(size, &cookie)), Ok(cookie));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = paging_cookie(&bytes);
        }

        #[test]
        fn no_structure_panics(tag in tags()) {
            let _ = entry(tag);
        }
    }
}
