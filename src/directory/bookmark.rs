//! What is kept between two polls of a domain controller, written and read without trust.

use std::collections::BTreeMap;

use super::ber::{Malformed, OCTET_STRING, SEQUENCE, element, push_element};
use crate::domain::name::StableId;

/// Entries that bear witness. One may be deleted at any time, all of them at once hardly.
pub(super) const MAX_WITNESSES: usize = 8;

/// Where a poll ended: our own cookie, with the server's in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bookmark {
    /// The server's cookie for DirSync.
    pub(super) cookie: Vec<u8>,
    /// The server refused to work without the flag for the bind user's own rights.
    pub(super) object_security: bool,
    /// Which domain controller it was (`dsServiceName`), empty where it does not say,
    pub(super) service: String,
    /// and which life of its database (`invocationId`), empty where it may not be read.
    pub(super) invocation: Vec<u8>,
    /// Its highest USN before the poll.
    pub(super) usn: u64,
    /// What it was before the ids were compared last,
    pub(super) compared_usn: u64,
    /// when that was, in seconds since 1970,
    pub(super) compared_at: u64,
    /// and how many there were.
    pub(super) count: u64,
    /// The entries that were written last, with their USN, which only grows. See [`MAX_WITNESSES`].
    pub(super) witnesses: BTreeMap<StableId, u64>,
}

impl Bookmark {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.cookie.len() + self.service.len() + 512);
        push_element(&mut content, OCTET_STRING, &self.cookie);
        push_element(&mut content, OCTET_STRING, &[u8::from(self.object_security)]);
        push_element(&mut content, OCTET_STRING, self.service.as_bytes());
        push_element(&mut content, OCTET_STRING, &self.invocation);
        for number in [self.usn, self.compared_usn, self.compared_at, self.count] {
            push_element(&mut content, OCTET_STRING, &number.to_be_bytes());
        }
        for (id, usn) in &self.witnesses {
            push_element(&mut content, OCTET_STRING, id.as_bytes());
            push_element(&mut content, OCTET_STRING, &usn.to_be_bytes());
        }
        let mut bytes = Vec::with_capacity(content.len() + 6);
        push_element(&mut bytes, SEQUENCE, &content);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Bookmark, Malformed> {
        let (content, _) = element(bytes, SEQUENCE)?;
        let (cookie, content) = element(content, OCTET_STRING)?;
        let (object_security, content) = element(content, OCTET_STRING)?;
        let (service, content) = element(content, OCTET_STRING)?;
        let (invocation, content) = element(content, OCTET_STRING)?;
        let (usn, content) = number(content)?;
        let (compared_usn, content) = number(content)?;
        let (compared_at, content) = number(content)?;
        let (count, mut content) = number(content)?;
        let mut witnesses = BTreeMap::new();
        while !content.is_empty() {
            let (id, rest) = element(content, OCTET_STRING)?;
            let id = StableId::new(id).ok_or("a witness has no id")?;
            let (usn, rest) = number(rest)?;
            witnesses.insert(id, usn);
            content = rest;
        }
        Ok(Bookmark {
            cookie: cookie.to_vec(),
            object_security: object_security != [0],
            service: String::from_utf8_lossy(service).into_owned(),
            invocation: invocation.to_vec(),
            usn,
            compared_usn,
            compared_at,
            count,
            witnesses,
        })
    }

    /// Takes in an entry that was read, and keeps only those that were written last.
    pub(super) fn witness(&mut self, id: StableId, usn: u64) {
        self.witnesses.insert(id, usn);
        if self.witnesses.len() > MAX_WITNESSES {
            let oldest = self.witnesses.iter().min_by_key(|(_, usn)| **usn);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.witnesses.remove(&id);
            }
        }
    }
}

fn number(content: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (bytes, rest) = element(content, OCTET_STRING)?;
    let bytes = bytes.try_into().map_err(|_| "a number has eight bytes")?;
    Ok((u64::from_be_bytes(bytes), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_latest_bear_witness() {
        let id = |number: u8| StableId::new(&[number]).unwrap();
        let mut bookmark = Bookmark::default();
        for number in [9, 3, 7, 1, 5, 11, 2, 4, 8, 6] {
            bookmark.witness(id(number), number.into());
        }
        bookmark.witness(id(1), 20);
        let usns: Vec<u64> = bookmark.witnesses.values().copied().collect();
        assert_eq!(usns, [20, 4, 5, 6, 7, 8, 9, 11]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Bookmark::decode(&bytes);
        }

        #[test]
        fn a_bookmark_survives(
            cookie: Vec<u8>,
            object_security: bool,
            service: String,
            invocation: Vec<u8>,
            numbers: [u64; 4],
            witnesses: Vec<([u8; 16], u64)>,
        ) {
            let [usn, compared_usn, compared_at, count] = numbers;
            let witnesses = witnesses.iter().map(|(id, usn)| (StableId::new(id).unwrap(), *usn)).collect();
            let bookmark = Bookmark {
                cookie, object_security, service, invocation, usn, compared_usn, compared_at, count, witnesses,
            };
            prop_assert_eq!(Bookmark::decode(&bookmark.encode()), Ok(bookmark));
        }
    }
}
