//! Who is a member of a group: `required_group`.
//!
//! The daemon reads the members from the group itself, so that the rule is the same on every server, with
//! `memberOf` and without. A name is kept as 16 bytes, so that a group of a million takes 16 MB.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::mapping::Entry;

/// On entries of Active Directory: who they are, and their primary group, which does not list them.
const OBJECT_SID: &str = "objectSid";
const PRIMARY_GROUP_ID: &str = "primaryGroupID";

/// What posixGroup lists (RFC 2307 section 3).
const UID: &str = "uid";

/// The members of a group, those of the groups in it among them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// The group and those in it, as the server writes their DNs.
    groups: Vec<String>,
    /// Sorted hashes of normal DNs.
    dns: Vec<u128>,
    /// Sorted hashes of login names.
    logins: Vec<u128>,
    /// Of groups in Active Directory.
    sids: Vec<Vec<u8>>,
}

/// The values of a group that name its members, told one by one.
#[derive(Debug, Default)]
pub struct Membership(Members);

impl Membership {
    /// A group whose members are told.
    pub fn push_group(&mut self, dn: &str, sid: Option<&[u8]>) {
        self.0.groups.push(dn.to_owned());
        self.0.sids.extend(sid.map(<[u8]>::to_vec));
    }

    /// A member's DN, with or without the unique identifier of `uniqueMember` (RFC 4517 section 3.3.21).
    pub fn push_dn(&mut self, dn: &str) {
        let name = match dn.rsplit_once("#'") {
            Some((name, bits)) if bits.ends_with("'B") => name,
            _ => dn,
        };
        self.0.dns.push(hash(&normal_dn(name)));
    }

    /// A member's `uid`.
    pub fn push_login(&mut self, login: &str) {
        self.0.logins.push(hash(login));
    }

    /// Everything was told.
    pub fn finish(self) -> Members {
        let mut members = self.0;
        for hashes in [&mut members.dns, &mut members.logins] {
            hashes.sort_unstable();
            hashes.dedup();
        }
        members.sids.sort_unstable();
        members
    }
}

impl Members {
    /// Whether a DN is listed. `false` says nothing where members are listed in another way, too.
    pub fn has_dn(&self, dn: &str) -> bool {
        self.dns.binary_search(&hash(&normal_dn(dn))).is_ok()
    }

    /// Whether the DN alone decides, so that nobody else is a member.
    pub fn is_by_dn_alone(&self) -> bool {
        self.logins.is_empty() && self.sids.is_empty()
    }

    /// Whether `memberOf` and `primaryGroupID` together know all members, on a server that keeps them.
    pub fn is_by_filter(&self) -> bool {
        self.logins.is_empty()
    }

    /// Whether an entry is a member. It must have been read with [`attributes`](Members::attributes).
    pub fn has(&self, entry: &Entry) -> bool {
        let is_login = |uid: &str| self.logins.binary_search(&hash(uid)).is_ok();
        self.has_dn(&entry.dn)
            || !self.logins.is_empty() && entry.texts(UID).any(is_login)
            || primary_group(entry).is_some_and(|sid| self.sids.contains(&sid))
    }

    /// What an entry must be read with.
    pub fn attributes(&self) -> impl Iterator<Item = &'static str> + use<> {
        let logins = (!self.logins.is_empty()).then_some(UID);
        let sids = (!self.sids.is_empty()).then_some([OBJECT_SID, PRIMARY_GROUP_ID]);
        logins.into_iter().chain(sids.into_iter().flatten())
    }

    /// The group and the groups in it.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Members that are listed, groups among them.
    pub fn listed(&self) -> usize {
        self.dns.len() + self.logins.len()
    }

    /// The relative ids of the groups, which are the primary groups of others ([MS-DTYP] section 2.4.2).
    pub fn relative_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.sids.iter().filter_map(|sid| sid.last_chunk().copied().map(u32::from_le_bytes))
    }

    /// The same for the same members, and for no others: what was read with one is of no use with another.
    pub fn fingerprint(&self) -> u128 {
        hash(&(&self.groups, &self.dns, &self.logins, &self.sids))
    }
}

/// The SID of an entry's primary group: its own, with another last part.
fn primary_group(entry: &Entry) -> Option<Vec<u8>> {
    let id: u32 = entry.texts(PRIMARY_GROUP_ID).next()?.parse().ok()?;
    let mut sid = entry.values(OBJECT_SID).next()?.to_vec();
    *sid.last_chunk_mut()? = id.to_le_bytes();
    Some(sid)
}

/// Two hashes of 64 bits, so that no two names of a directory share one.
fn hash(value: &(impl Hash + ?Sized)) -> u128 {
    let half = |start: u8| {
        let mut hasher = DefaultHasher::new();
        start.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// One text for all spellings of a DN (RFC 4514 section 2, in both directions): servers write the same DN
/// in different ways as the name of an entry and as a member of a group.
///
/// Case does not count, as in almost all attributes that name entries; neither do spaces around the parts of
/// the name, and more than one space within it.
pub fn normal_dn(dn: &str) -> String {
    let parts = split(dn, ',').into_iter().map(|rdn| {
        let mut pairs: Vec<String> = split(rdn, '+').into_iter().map(normal_pair).collect();
        pairs.sort_unstable();
        pairs.join("+")
    });
    parts.collect::<Vec<_>>().join(",")
}

fn normal_pair(pair: &str) -> String {
    let Some((name, value)) = pair.split_once('=') else { return pair.trim().to_lowercase() };
    let mut normal = name.trim().to_lowercase();
    normal.push('=');
    let value = unescape(value).to_lowercase();
    for (at, word) in value.split(' ').filter(|word| !word.is_empty()).enumerate() {
        if at > 0 {
            normal.push(' ');
        }
        for c in word.chars() {
            if matches!(c, ',' | '+' | '\\') {
                normal.push('\\');
            }
            normal.push(c);
        }
    }
    normal
}

/// What stands between separators that no backslash protects.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut is_protected) = (0, false);
    for (at, c) in text.char_indices() {
        if is_protected {
            is_protected = false;
        } else if c == '\\' {
            is_protected = true;
        } else if c == separator {
            parts.push(&text[start..at]);
            start = at + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The value that its escaped form stands for.
fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        (bytes, rest) = match (first, tail) {
            (b'\\', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default();
                bytes.extend(u8::try_from(digit(*high) << 4 | digit(*low)));
                (bytes, after)
            }
            (b'\\', [protected, after @ ..]) => {
                bytes.push(*protected);
                (bytes, after)
            }
            _ => {
                bytes.push(*first);
                (bytes, tail)
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mapping::Attribute;

    fn entry(dn: &str, attributes: &[(&str, &[u8])]) -> Entry {
        let attribute = |(name, value): &(&str, &[u8])| Attribute {
            name: (*name).to_owned(),
            values: vec![value.to_vec()],
        };
        Entry { dn: dn.to_owned(), attributes: attributes.iter().map(attribute).collect() }
    }

    #[test]
    fn spellings_of_a_dn_are_one() {
        for (one, other) in [
            ("uid=alice,ou=People,dc=example,dc=org", "UID = Alice , OU=people,DC=example, dc=ORG"),
            (r"cn=Smith\, Alice,o=x", r"CN=smith\2C alice,O=X"),
            (r"cn=J\C3\BCrgen,o=x", "cn=jürgen,o=x"),
            ("cn=ÄRGER,o=x", "cn=ärger,o=x"),
            ("cn=a+uid=b,o=x", "uid=B+cn=A,o=x"),
            ("cn=a  b,o=x", "cn=A b,o=x"),
            (r"cn=\#a\20,o=x", "cn=\\#a,o=x"),
        ] {
            assert_eq!(normal_dn(one), normal_dn(other));
        }
        for (one, other) in [
            ("uid=a,ou=b", "uid=ab"),
            (r"cn=a\,ou=b,o=x", "cn=a,ou=b,o=x"),
            (r"cn=a\+uid=b", "cn=a+uid=b"),
            ("cn=ab,o=x", "cn=a b,o=x"),
            (r"cn=a\\,o=x", r"cn=a\,o=x"),
        ] {
            assert_ne!(normal_dn(one), normal_dn(other));
        }
        for odd in ["", "\\", "a", "=", ",", "+", "cn=\\f", "cn=\\ff\\"] {
            let _ = normal_dn(odd);
        }
    }

    #[test]
    fn members_are_known_by_dn_login_or_primary_group() {
        let sid = |last: u32| [&[1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0][..], &last.to_le_bytes()].concat();
        let mut told = Membership::default();
        told.push_group("CN=g,O=x", Some(&sid(513)));
        told.push_dn("uid=a,o=x");
        told.push_dn("uid=b,o=x#'0101'B");
        told.push_login("carol");
        let members = told.finish();
        assert!(members.has(&entry("UID=A,o=x", &[])) && members.has(&entry("uid=b,o=x", &[])));
        assert!(members.has(&entry("cn=1", &[("uid", b"carol")])));
        assert!(!members.has(&entry("cn=1", &[("uid", b"Carol")])));
        let user = |own: Vec<u8>, group: &[u8]| {
            members.has(&entry("cn=1", &[("objectSid", own.as_slice()), ("primaryGroupID", group)]))
        };
        assert!(user(sid(1105), b"513") && !user(sid(1105), b"514"));
        let elsewhere = [&[1, 5, 0, 0, 0, 0, 0, 5, 22, 0, 0, 0][..], &1105u32.to_le_bytes()].concat();
        assert!(!user(elsewhere, b"513") && !user(vec![1], b"513"));
        assert_eq!(members.relative_ids().collect::<Vec<_>>(), [513]);
        assert_eq!(members.attributes().collect::<Vec<_>>(), ["uid", "objectSid", "primaryGroupID"]);
    }

    #[test]
    fn the_fingerprint_is_that_of_the_members() {
        let of = |dns: &[&str]| {
            let mut told = Membership::default();
            dns.iter().for_each(|dn| told.push_dn(dn));
            told.finish().fingerprint()
        };
        assert_eq!(of(&["uid=a", "uid=b"]), of(&["UID=b", "uid=a", "uid=a"]));
        assert_ne!(of(&["uid=a", "uid=b"]), of(&["uid=a"]));
        assert_ne!(of(&[]), of(&["uid=a"]));
    }
}
