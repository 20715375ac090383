//! The controls and messages of content synchronization (RFC 4533 section 2), written and read without
//! trust.

use ldap3::asn1::{PL, StructureTag};

use super::ber::{
    ENUMERATED, MAX_COOKIE_BYTES, Malformed, OCTET_STRING, SEQUENCE, element, optional, push_element,
};
use crate::domain::name::StableId;

/// The control of a request.
pub(super) const SYNC_REQUEST: &str = "1.3.6.1.4.1.4203.1.9.1.1";
/// The control of an entry.
pub(super) const SYNC_STATE: &str = "1.3.6.1.4.1.4203.1.9.1.2";
/// The name of an intermediate message.
pub(super) const SYNC_INFO: &str = "1.3.6.1.4.1.4203.1.9.1.4";

/// The result that asks for a refresh without a cookie.
pub(super) const E_SYNC_REFRESH_REQUIRED: u32 = 4096;

const BOOLEAN: u8 = 0x01;
const SET: u8 = 0x31;
/// The choices of a sync info message, context tags 0 to 3.
const NEW_COOKIE: u8 = 0x80;
const REFRESH_DELETE: u8 = 0xa1;
const REFRESH_PRESENT: u8 = 0xa2;
const SYNC_ID_SET: u8 = 0xa3;

/// Ids in one message. OpenLDAP sends 256; a hostile server could send as many as fit a message.
const MAX_IDS: usize = 65_536;

/// What the state control says of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Exists, unchanged.
    Present,
    /// New to the content.
    Add,
    /// Changed.
    Modify,
    /// No longer in the content.
    Delete,
}

/// `SyncStateValue`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SyncState {
    pub(super) state: State,
    pub(super) id: StableId,
    pub(super) cookie: Option<Vec<u8>>,
}

/// `SyncInfoValue`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SyncInfo {
    /// Only a cookie.
    NewCookie(Option<Vec<u8>>),
    /// The end of a delete phase.
    RefreshDelete { cookie: Option<Vec<u8>>, done: bool },
    /// The end of a present phase.
    RefreshPresent { cookie: Option<Vec<u8>>, done: bool },
    /// Entries that exist, or that do not.
    IdSet { cookie: Option<Vec<u8>>, deletes: bool, ids: Vec<StableId> },
}

/// `SyncRequestValue` for refreshAndPersist (3).
pub(super) fn request(cookie: Option<&[u8]>) -> Vec<u8> {
    let mut content = Vec::new();
    push_element(&mut content, ENUMERATED, &[3]);
    if let Some(cookie) = cookie {
        push_element(&mut content, OCTET_STRING, cookie);
    }
    let mut value = Vec::new();
    push_element(&mut value, SEQUENCE, &content);
    value
}

/// Reads the value of a state control.
pub(super) fn state(value: &[u8]) -> Result<SyncState, Malformed> {
    let (content, _) = element(value, SEQUENCE)?;
    let (state, content) = element(content, ENUMERATED)?;
    let state = match state {
        [0] => State::Present,
        [1] => State::Add,
        [2] => State::Modify,
        [3] => State::Delete,
        _ => return Err("the entry's state is unknown"),
    };
    let (id, content) = element(content, OCTET_STRING)?;
    let (cookie, _) = optional_cookie(content)?;
    Ok(SyncState { state, id: sync_uuid(id)?, cookie })
}

/// `syncUUID ::= OCTET STRING (SIZE(16))` (RFC 4533 section 2.1).
fn sync_uuid(bytes: &[u8]) -> Result<StableId, Malformed> {
    const PROBLEM: Malformed = "an id does not have 16 bytes";
    if bytes.len() == 16 { StableId::new(bytes).ok_or(PROBLEM) } else { Err(PROBLEM) }
}

fn optional_cookie(content: &[u8]) -> Result<(Option<Vec<u8>>, &[u8]), Malformed> {
    let (bytes, rest) = optional(content, OCTET_STRING)?;
    Ok((cookie(bytes.unwrap_or_default())?, rest))
}

/// An empty cookie is none: a server that got it back would begin from nothing.
fn cookie(bytes: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    if bytes.len() > MAX_COOKIE_BYTES {
        return Err("the cookie is too long");
    }
    Ok((!bytes.is_empty()).then(|| bytes.to_vec()))
}

/// Reads an intermediate message; `None` for one of another kind.
///
/// `IntermediateResponse ::= [APPLICATION 25] SEQUENCE { [0] name OPTIONAL, [1] value OPTIONAL }`
/// (RFC 4511 section 4.13).
pub(super) fn intermediate(tag: &StructureTag) -> Result<Option<SyncInfo>, Malformed> {
    let PL::C(parts) = &tag.payload else { return Err("an intermediate message is a sequence") };
    let part = |id| {
        parts.iter().find(|part| part.id == id).and_then(|part| match &part.payload {
            PL::P(bytes) => Some(bytes.as_slice()),
            PL::C(_) => None,
        })
    };
    if part(0) != Some(SYNC_INFO.as_bytes()) {
        return Ok(None);
    }
    info(part(1).ok_or("a sync info message has no value")?).map(Some)
}

fn info(value: &[u8]) -> Result<SyncInfo, Malformed> {
    let tag = *value.first().ok_or("a sync info message is empty")?;
    let (content, _) = element(value, tag)?;
    match tag {
        NEW_COOKIE => cookie(content).map(SyncInfo::NewCookie),
        REFRESH_DELETE | REFRESH_PRESENT => {
            let (cookie, content) = optional_cookie(content)?;
            let done = boolean(content, true)?.0;
            Ok(if tag == REFRESH_DELETE {
                SyncInfo::RefreshDelete { cookie, done }
            } else {
                SyncInfo::RefreshPresent { cookie, done }
            })
        }
        SYNC_ID_SET => {
            let (cookie, content) = optional_cookie(content)?;
            let (deletes, content) = boolean(content, false)?;
            let (mut set, _) = element(content, SET)?;
            let mut ids = Vec::new();
            while !set.is_empty() {
                let (id, rest) = element(set, OCTET_STRING)?;
                ids.push(sync_uuid(id)?);
                set = rest;
                if ids.len() > MAX_IDS {
                    return Err("an id set is too large");
                }
            }
            Ok(SyncInfo::IdSet { cookie, deletes, ids })
        }
        _ => Err("a sync info message is of an unknown kind"),
    }
}

/// A boolean that may be left out, where it has its default.
fn boolean(content: &[u8], default: bool) -> Result<(bool, &[u8]), Malformed> {
    let (value, rest) = optional(content, BOOLEAN)?;
    Ok((value.map_or(default, |value| value != [0]), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldap3::asn1::parse_tag;
    use proptest::prelude::*;

    const ID: [u8; 16] = [7; 16];

    fn with_id(head: &[u8], tail: &[u8]) -> Vec<u8> {
        let content = [head, &[OCTET_STRING, 16], &ID, tail].concat();
        let mut value = Vec::new();
        push_element(&mut value, SEQUENCE, &content);
        value
    }

    #[test]
    fn requests_are_encoded() {
        assert_eq!(request(None), [0x30, 3, 0x0a, 1, 3]);
        assert_eq!(request(Some(b"ab")), [0x30, 7, 0x0a, 1, 3, 4, 2, b'a', b'b']);
    }

    #[test]
    fn states_are_read() {
        let id = StableId::new(&ID).unwrap();
        for (number, state_read) in
            [(0, State::Present), (1, State::Add), (2, State::Modify), (3, State::Delete)]
        {
            let read = state(&with_id(&[ENUMERATED, 1, number], &[])).unwrap();
            assert_eq!(read, SyncState { state: state_read, id: id.clone(), cookie: None });
        }
        let read = state(&with_id(&[ENUMERATED, 1, 3], &[OCTET_STRING, 1, b'c'])).unwrap();
        assert_eq!(read.cookie.as_deref(), Some(&b"c"[..]));
        assert!(state(&with_id(&[ENUMERATED, 1, 9], &[])).is_err());
        assert!(state(&[0x30, 3, ENUMERATED, 1, 0]).is_err());
    }

    #[test]
    fn infos_are_read_with_their_defaults() {
        assert_eq!(info(&[0x80, 1, b'c']), Ok(SyncInfo::NewCookie(Some(b"c".to_vec()))));
        assert_eq!(info(&[0x80, 0]), Ok(SyncInfo::NewCookie(None)));
        assert_eq!(info(&[0xa1, 2, 4, 0]), Ok(SyncInfo::RefreshDelete { cookie: None, done: true }));
        assert_eq!(info(&[0xa1, 0]), Ok(SyncInfo::RefreshDelete { cookie: None, done: true }));
        assert_eq!(
            info(&[0xa2, 6, 4, 1, b'c', 1, 1, 0]),
            Ok(SyncInfo::RefreshPresent { cookie: Some(b"c".to_vec()), done: false })
        );
        let set = [&[0xa3, 23, 1, 1, 0xff, 0x31, 18, 4, 16], &ID[..]].concat();
        let ids = vec![StableId::new(&ID).unwrap()];
        assert_eq!(info(&set), Ok(SyncInfo::IdSet { cookie: None, deletes: true, ids: ids.clone() }));
        let present = [&[0xa3, 20, 0x31, 18, 4, 16], &ID[..]].concat();
        assert_eq!(info(&present), Ok(SyncInfo::IdSet { cookie: None, deletes: false, ids }));
        for bad in [&[][..], &[0x84, 0], &[0xa3, 0], &[0xa3, 2, 0x31, 9], &[0xa2, 9, 4, 1]] {
            assert!(info(bad).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn other_intermediate_messages_are_not_ours() {
        let (_, tag) = parse_tag(b"\x79\x05\x80\x03\x31\x2e\x32").unwrap();
        assert_eq!(intermediate(&tag), Ok(None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = state(&bytes);
            let _ = info(&bytes);
        }
    }
}
