//! The members of `required_group`, read from the group and from the groups in it.
//!
//! The group's own list is read, whatever attribute it is in: `member`, `uniqueMember` or `memberUid`. Active
//! Directory tells `member` in ranges ([MS-ADTS] section 3.1.1.3.1.3.3) and leaves out whose primary group
//! it is; those are known by the group's SID. Which of the members are groups is found by a search for groups:
//! by `memberOf`, where the server is certain to keep it, else by their object classes.
//!
//! Whatever is not read to its end is an error, and never a group with fewer members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::error::DirectoryError;
use super::ldap::Session;
use super::root_dse::Server;
use super::{Event, sweep};
use crate::domain::directory::{LdapUrl, Timeouts};
use crate::domain::group::{Members, Membership, normal_dn};
use crate::domain::ldap_text::{Dn, Filter, escaped};
use crate::domain::mapping::{Attribute, Entry, Preset};

/// Groups within the group, however deep: each is a search or two. With more, a group of its own for mail is
/// the better choice.
const MAX_GROUPS: usize = 1000;

/// Groups of a server that are looked at to find those in the group: some 20 MB.
const MAX_LISTED: usize = 200_000;

/// Members that are listed: 32 MB, and more than any directory of users that this is made for.
const MAX_MEMBERS: usize = 2_000_000;

/// Members asked for at a time: as many as Active Directory sends, which sends less to whom asks for all.
const RANGE: u32 = 1500;

/// A list in ranges may change between them, so it is read until it is twice the same.
const READINGS: usize = 5;

/// Batches between a search and whoever sorts it.
const QUEUE: usize = 1;

/// Attributes that list members, and what else is needed of a group.
const MEMBER: &str = "member";
const MEMBER_UID: &str = "memberUid";
const BY_DN: [&str; 2] = [MEMBER, "uniqueMember"];
const OBJECT_SID: &str = "objectSid";
const OBJECT_CLASS: &str = "objectClass";
const GROUP: [&str; 4] = ["uniqueMember", MEMBER_UID, OBJECT_SID, OBJECT_CLASS];

/// Classes of groups: RFC 4519, RFC 2307, OpenLDAP, 389 Directory Server, FreeIPA and Active Directory.
const CLASSES: [&str; 9] = [
    "group",
    "groupOfNames",
    "groupOfUniqueNames",
    "groupOfMembers",
    "groupOfEntries",
    "groupOfURLs",
    "posixGroup",
    "ipaUserGroup",
    "nestedGroup",
];

/// One reading of a group, with everything that it needs.
pub(super) struct Job {
    pub(super) url: LdapUrl,
    pub(super) group: Dn,
    pub(super) server: Server,
    pub(super) page_size: u32,
    pub(super) timeouts: Timeouts,
}

/// The server's groups by their normal DNs, where they have to be listed.
type Candidates = Option<BTreeMap<String, Dn>>;

impl Job {
    /// Reads the group and every group in it, and gives the session back.
    pub(super) async fn run(self, mut session: Session) -> Result<(Session, Members), DirectoryError> {
        let mut told = Membership::default();
        let mut waiting = vec![self.group.clone()];
        let mut seen = BTreeSet::from([normal_dn(self.group.as_str())]);
        let mut candidates: Candidates = None;
        let mut count = 0;
        while let Some(group) = waiting.pop() {
            let entry;
            (session, entry) = self.read(session, &group, seen.len() == 1).await?;
            let Some(entry) = entry else { continue };
            tell(&entry, &mut told);
            count += entry.attributes.iter().map(|attribute| attribute.values.len()).sum::<usize>();
            let inner;
            (session, inner) = self.groups_in(session, &entry, &mut candidates).await?;
            for group in inner {
                if seen.insert(normal_dn(group.as_str())) {
                    waiting.push(group);
                }
            }
            if count > MAX_MEMBERS || seen.len() > MAX_GROUPS {
                return Err(self.too_large());
            }
        }
        Ok((session, told.finish()))
    }

    /// A group with all its members. One within the group may be hidden, which is like no members; the
    /// required group itself may not.
    async fn read(
        &self,
        mut session: Session,
        group: &Dn,
        is_required: bool,
    ) -> Result<(Session, Option<Entry>), DirectoryError> {
        let mut before: Option<Entry> = None;
        let member = self.range(0);
        let attributes: Vec<&str> = GROUP.into_iter().chain([member.as_str()]).collect();
        for _ in 0..READINGS {
            let mut entry;
            (session, entry) = self.entry(session, group, &attributes).await?;
            let Some(mut entry) = entry.take() else {
                return if is_required { Err(self.missing()) } else { Ok((session, None)) };
            };
            if is_required && !is_group(&entry) {
                let (url, group) = (self.url.clone(), self.group.clone());
                return Err(DirectoryError::NotAGroup { url, group });
            }
            let is_ranged = ranged(&entry).is_some_and(|(_, next)| next.is_some());
            session = self.complete(session, group, &mut entry).await?;
            if !is_ranged || before.as_ref() == Some(&entry) {
                return Ok((session, Some(entry)));
            }
            before = Some(entry);
        }
        let (url, group) = (self.url.clone(), group.clone());
        Err(DirectoryError::GroupChanges { url, group })
    }

    /// Reads the ranges that are left, and makes of all of them one attribute.
    async fn complete(
        &self,
        mut session: Session,
        group: &Dn,
        entry: &mut Entry,
    ) -> Result<Session, DirectoryError> {
        let mut count = 0;
        while let Some((at, next)) = ranged(entry) {
            let first = entry.attributes.swap_remove(at);
            entry.attributes.retain(|attribute| !attribute.name.eq_ignore_ascii_case(MEMBER));
            entry.attributes.push(Attribute { name: MEMBER.to_owned(), ..first });
            let Some(next) = next else { break };
            let more;
            (session, more) = self.entry(session, group, &[&self.range(next)]).await?;
            let mut more = more.ok_or_else(|| self.missing())?;
            let Some((at, end)) = ranged(&more) else {
                let problem = "a range of members is missing";
                let (url, base) = (self.url.clone(), group.clone());
                return Err(DirectoryError::MalformedEntry { url, base, problem });
            };
            let range = more.attributes.swap_remove(at);
            count += range.values.len();
            // An empty range would be asked for for ever.
            if count > MAX_MEMBERS || range.values.is_empty() && end.is_some() {
                return Err(self.too_large());
            }
            let Some(all) = entry.attributes.last_mut() else { break };
            all.values.extend(range.values);
            all.name = range.name;
        }
        Ok(session)
    }

    /// The attribute with the members from this one on. Other servers know no ranges.
    fn range(&self, first: u32) -> String {
        match self.server.preset {
            Preset::ActiveDirectory => format!("{MEMBER};range={first}-{}", first.saturating_add(RANGE - 1)),
            _ => MEMBER.to_owned(),
        }
    }

    /// The groups among the members of a group.
    async fn groups_in(
        &self,
        session: Session,
        group: &Entry,
        candidates: &mut Candidates,
    ) -> Result<(Session, Vec<Dn>), DirectoryError> {
        if texts(group, &BY_DN).next().is_none() {
            return Ok((session, Vec::new()));
        }
        if keeps_member_of(self.server.preset) {
            return self.groups(session, &format!("(memberOf={})", escaped(&group.dn))).await;
        }
        let (session, all) = match candidates {
            Some(all) => (session, all),
            None => {
                let (session, all) = self.groups(session, "").await?;
                let all = all.into_iter().map(|group| (normal_dn(group.as_str()), group)).collect();
                (session, candidates.insert(all))
            }
        };
        let inner = texts(group, &BY_DN).filter_map(|dn| all.get(&normal_dn(dn)).cloned()).collect();
        Ok((session, inner))
    }

    /// The groups of the server that match.
    async fn groups(&self, session: Session, filter: &str) -> Result<(Session, Vec<Dn>), DirectoryError> {
        let classes: String = CLASSES.iter().map(|class| format!("(objectClass={class})")).collect();
        let (base, page_size) = (self.root(), self.server.pages.then_some(self.page_size));
        let filter = format!("(&(|{classes}){filter})");
        let (session, entries) = self.search(session, &base, &filter, &["1.1"], page_size).await?;
        // What is no DN by RFC 4514 could not be asked for.
        let dns = entries.iter().filter_map(|entry| Dn::parse(&entry.dn).ok()).collect();
        Ok((session, dns))
    }

    /// Where groups are looked for: the naming context of the group, or what is above it.
    fn root(&self) -> Dn {
        let group = self.group.as_str();
        let context = self.server.controller.naming_context(group).map(Dn::parse);
        let parent = || {
            let commas = group.match_indices(',').map(|(at, _)| at);
            commas.map(|at| &group[at + 1..]).find_map(|parent| Dn::parse(parent).ok())
        };
        context.and_then(Result::ok).or_else(parent).unwrap_or_else(|| self.group.clone())
    }

    /// One entry; `None` where the server shows none.
    async fn entry(
        &self,
        session: Session,
        dn: &Dn,
        attributes: &[&str],
    ) -> Result<(Session, Option<Entry>), DirectoryError> {
        // 389 Directory Server ends a page of what does not exist with success and without its control.
        let found = self.search(session, dn, "(objectClass=*)", attributes, None).await;
        let (session, entries) = found.map_err(|error| match error {
            DirectoryError::NoSuchBase { .. } if *dn == self.group => self.missing(),
            error => error,
        })?;
        // The others are below it.
        Ok((session, entries.into_iter().min_by_key(|entry| entry.dn.len())))
    }

    /// Everything below a base that matches.
    async fn search(
        &self,
        session: Session,
        base: &Dn,
        filter: &str,
        attributes: &[&str],
        page_size: Option<u32>,
    ) -> Result<(Session, Vec<Entry>), DirectoryError> {
        let filter =
            Filter::parse(filter).map_err(|_| DirectoryError::Filter { filter: filter.to_owned() })?;
        let (events, mut queue) = mpsc::channel(QUEUE);
        let job = sweep::Job {
            url: self.url.clone(),
            base: base.clone(),
            filter,
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect::<Arc<[String]>>(),
            page_size,
            timeouts: self.timeouts,
            events,
        };
        let take = async move {
            let mut found = Vec::new();
            while let Some(event) = queue.recv().await {
                if let Event::Upserts(entries) = event {
                    found.extend(entries);
                }
                if found.len() > MAX_LISTED {
                    return Err(self.too_large());
                }
            }
            Ok(found)
        };
        let (swept, found) = tokio::join!(job.run(session), take);
        // In this order: a search that was given up is why it could not be told.
        let found = found?;
        match swept {
            Ok((session, _)) => Ok((session, found)),
            Err(error) => Err(error),
        }
    }

    fn missing(&self) -> DirectoryError {
        DirectoryError::NoSuchGroup { url: self.url.clone(), group: self.group.clone() }
    }

    fn too_large(&self) -> DirectoryError {
        DirectoryError::GroupTooLarge { url: self.url.clone(), group: self.group.clone() }
    }
}

/// Whether the server itself keeps `memberOf`, for groups and people alike, so that a filter can trust it.
/// With OpenLDAP and 389 Directory Server it is an option, and where it was taken late, old members lack it.
pub fn keeps_member_of(preset: Preset) -> bool {
    matches!(preset, Preset::ActiveDirectory | Preset::FreeIpa)
}

/// Tells the members that a group lists.
fn tell(entry: &Entry, told: &mut Membership) {
    let sid = entry.attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(OBJECT_SID));
    told.push_group(&entry.dn, sid.and_then(|sid| sid.values.first()).map(Vec::as_slice));
    texts(entry, &BY_DN).for_each(|dn| told.push_dn(dn));
    texts(entry, &[MEMBER_UID]).for_each(|login| told.push_login(login));
}

/// The values of some attributes that are text.
fn texts<'a>(entry: &'a Entry, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
    names.iter().flat_map(|name| super::root_dse::texts(entry, name))
}

/// It has members, or one of the classes that could have.
fn is_group(entry: &Entry) -> bool {
    let is = |value: &str, names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(value));
    let is_group_class = super::root_dse::texts(entry, OBJECT_CLASS).any(|class| is(class, &CLASSES));
    let mut names = entry.attributes.iter().filter_map(|attribute| attribute.name.split(';').next());
    is_group_class || names.any(|name| is(name, &BY_DN) || is(name, &[MEMBER_UID]))
}

/// Where the attribute with a range of members is, and where the next range begins, if this is not the last.
fn ranged(entry: &Entry) -> Option<(usize, Option<u32>)> {
    entry.attributes.iter().enumerate().find_map(|(at, attribute)| {
        let (name, range) = attribute.name.split_once(';')?;
        let (option, bounds) = range.split_once('=')?;
        if !name.eq_ignore_ascii_case(MEMBER) || !option.eq_ignore_ascii_case("range") {
            return None;
        }
        let (_, last) = bounds.split_once('-')?;
        Some((at, last.parse().ok().and_then(|last: u32| last.checked_add(1))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let check = |name: &str, expected| {
            let attribute = Attribute { name: name.to_owned(), values: Vec::new() };
            let entry = Entry { dn: String::new(), attributes: vec![attribute] };
            assert_eq!(ranged(&entry), expected, "{name}");
        };
        check("member;range=0-1499", Some((0, Some(1500))));
        check("Member;Range=1500-*", Some((0, None)));
        check("member", None);
        check("member;lang-de", None);
        check("memberOf;range=0-1", None);
        check("member;range=0-4294967295", Some((0, None)));
        check("member;range=", None);
    }

    #[test]
    fn a_group_has_members_or_a_class() {
        let check = |name: &str, value: &str, expected| {
            let attribute = Attribute { name: name.to_owned(), values: vec![value.as_bytes().to_vec()] };
            let entry = Entry { dn: String::new(), attributes: vec![attribute] };
            assert_eq!(is_group(&entry), expected, "{name}: {value}");
        };
        check("objectClass", "GroupOfNames", true);
        check("objectClass", "organizationalUnit", false);
        check("uniquemember", "uid=a", true);
        check("member;range=0-1", "uid=a", true);
        check("cn", "group", false);
    }
}
