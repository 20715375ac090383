//! DirSync ([MS-ADTS] section 3.1.1.3.4.1.3), polled: how Active Directory and Samba tell what changed.
//!
//! What it tells is a hint and no more: an answer has only the attributes that changed, of entries anywhere
//! in the naming context. So the entries that it names are read again, by their ids, with the configured base
//! and filter; those that are not found there are gone. Other things it never tells, and each has a remedy:
//!
//! - **Deletions, to a bind user who may not see deleted entries.** Samba tells them to nobody but
//!   administrators, with "Replicating Directory Changes" as without it. The cookie moves on all the same.
//! - **Group memberships**, which a filter on `memberOf` may ask for.
//!
//!   For both, the ids of all entries are compared now and then: one paged search that asks for nothing else.
//!   It is left out while nothing at all was written on the domain controller, and comes at most once a
//!   second for each [`IDS_PER_SECOND`] entries. So a deletion is noticed with the next poll in a directory of
//!   some thousand people, and within 17 minutes in one of 100,000. An id that is new there is one more
//!   reason to read everything.
//! - **The entries below a container that was renamed or moved**, whose DNs change with it. The container
//!   itself is told; everything is read again then. One that was moved out of the base is noticed when the ids
//!   are compared.
//! - **A server that was restored from an older copy** tells nothing until it has caught up with the cookie.
//!   Its highest USN has gone back then, and everything is read again.
//!
//! Without a cookie, the server's position is asked for first and everything is swept then: what changes
//! meanwhile is told by the next poll.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ldap3::controls::RawControl;
use ldap3::{Scope, SearchStream};
use tokio::sync::mpsc::{self, Sender};

use super::batch::Batch;
use super::dirsync_wire::{self, Bookmark, DIRSYNC};
use super::error::{DirectoryError, LdapResult, ServerProblem};
use super::ldap::Session;
use super::root_dse::{Controller, is_below};
use super::sweep::{self, Swept};
use super::{Authority, Event, ber};
use crate::domain::directory::{LdapUrl, Timeouts};
use crate::domain::ldap_text::{Dn, Filter};
use crate::domain::mapping::{Entry, Preset, stable_id};
use crate::domain::name::StableId;

/// Changed entries that are read again one by one. With more a sweep is cheaper, and they must fit in memory.
const MAX_TOLD: usize = 20_000;

/// Ids in one filter: some 7 kB, far below what a server takes, and below any page's size.
const IDS_PER_SEARCH: usize = 100;

/// Ids in one event, so that it stays as small as a batch of entries.
const IDS_PER_EVENT: usize = 5000;

/// How often all ids are compared: on average so many a second, so that listing them stays a small part of
/// what a server does, however large the directory is. Chosen, not measured.
const IDS_PER_SECOND: u64 = 100;

/// Machines change often, and are never mapped. Everything else may be what a configured filter wants, or a
/// container that is renamed.
const ALL_BUT_MACHINES: &str = "(!(objectClass=computer))";

/// No entry has this objectGUID, and a search for it is a look into an index.
const NOTHING: &str = r"(objectGUID=\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00)";

/// Told where an entry was renamed or moved.
const PLACE: [&str; 2] = ["name", "parentGUID"];

const OBJECT_CLASS: &str = "objectClass";
const IS_DELETED: &str = "isDeleted";
const OBJECT_GUID: &str = "objectGUID";

/// Results (RFC 4511 appendix A).
const UNAVAILABLE_EXTENSION: u32 = 12;
const INSUFFICIENT_ACCESS: u32 = 50;
const BUSY: u32 = 51;
const UNAVAILABLE: u32 = 52;
const UNWILLING_TO_PERFORM: u32 = 53;

/// One poll, with everything that it needs.
pub(super) struct Job {
    pub(super) url: LdapUrl,
    pub(super) base: Dn,
    pub(super) filter: Filter,
    pub(super) attributes: Arc<[String]>,
    pub(super) cookie: Option<Vec<u8>>,
    pub(super) page_size: Option<u32>,
    pub(super) timeouts: Timeouts,
    pub(super) controller: Controller,
    pub(super) events: Sender<Event>,
}

/// What a poll was told.
#[derive(Default)]
struct Told {
    ids: BTreeSet<StableId>,
    /// Those below the base that were there before, and have another name or parent now.
    moved: Vec<StableId>,
}

impl Job {
    /// Sends [`Event::EndRefresh`] as the last thing, and gives the session back.
    pub(super) async fn run(self, session: Session) -> Result<Session, DirectoryError> {
        if ldap3::parse_filter(self.filter.as_str()).is_err() {
            return Err(DirectoryError::Filter { filter: self.filter.to_string() });
        }
        let limit = self.timeouts.sweep;
        match tokio::time::timeout(limit, self.poll(session)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(DirectoryError::SweepTimeout { url: self.url.clone(), base: self.base.clone(), limit })
            }
        }
    }

    async fn poll(&self, session: Session) -> Result<Session, DirectoryError> {
        let Some(root) = self.controller.naming_context(self.base.as_str()) else {
            let problem = "the base is in none of its naming contexts".to_owned();
            return Err(DirectoryError::DirSyncRefused { url: self.url.clone(), problem });
        };
        match &self.cookie {
            None => self.everything(session, root).await,
            Some(cookie) => {
                let bookmark = Bookmark::decode(cookie).map_err(|_| self.refresh_required())?;
                self.changes(session, root, bookmark).await
            }
        }
    }

    /// The position, then a sweep.
    async fn everything(&self, mut session: Session, root: &str) -> Result<Session, DirectoryError> {
        let mut bookmark = Bookmark { compared_at: now(), ..Bookmark::default() };
        self.ask(&mut session, root, NOTHING, &mut bookmark, |_| Ok(())).await?;
        let relay = |event| (!matches!(event, Event::EndRefresh(..))).then_some(event);
        let (session, swept) = self.sweep(session, Arc::clone(&self.attributes), relay).await?;
        self.compared(&mut bookmark, swept.entries);
        self.end(Authority::Everything, bookmark).await?;
        Ok(session)
    }

    /// What changed since the bookmark was set.
    async fn changes(
        &self,
        mut session: Session,
        root: &str,
        mut bookmark: Bookmark,
    ) -> Result<Session, DirectoryError> {
        let usn = self.controller.usn.unwrap_or(0);
        let is_same_server = bookmark.service == self.controller.service;
        if is_same_server && usn < bookmark.usn {
            return Err(self.refresh_required());
        }
        let mut told = Told::default();
        self.ask(&mut session, root, ALL_BUT_MACHINES, &mut bookmark, |entry| self.take(entry, &mut told))
            .await?;
        let found = self.read_again(&mut session, &told.ids).await?;
        let gone: Vec<StableId> = told.ids.difference(&found).cloned().collect();
        told.moved.retain(|id| !found.contains(id));
        if self.has_container(&mut session, root, &told.moved).await? {
            return Err(self.refresh_required());
        }
        for ids in gone.chunks(IDS_PER_EVENT) {
            self.send(Event::Deletes(ids.to_vec())).await?;
        }
        let was_written = !is_same_server || usn == 0 || usn != bookmark.compared_usn;
        let (started, due_at) = (now(), bookmark.compared_at + bookmark.count / IDS_PER_SECOND);
        // A clock that was set back must not put it off.
        let is_due = was_written && (started >= due_at || started < bookmark.compared_at);
        let mut authority = Authority::Named;
        if is_due {
            let present = |event| present(event, &found);
            let (given_back, swept) =
                self.sweep(session, Arc::new([OBJECT_GUID.to_owned()]), present).await?;
            session = given_back;
            self.compared(&mut bookmark, swept.entries);
            authority = Authority::Everything;
        }
        self.end(authority, bookmark).await?;
        Ok(session)
    }

    /// Notes that every id was seen. The USN is older than that, so that nothing is taken for seen that was not.
    fn compared(&self, bookmark: &mut Bookmark, count: u64) {
        bookmark.compared_usn = self.controller.usn.unwrap_or(0);
        bookmark.compared_at = now();
        bookmark.count = count;
    }

    async fn end(&self, authority: Authority, mut bookmark: Bookmark) -> Result<(), DirectoryError> {
        bookmark.service.clone_from(&self.controller.service);
        bookmark.usn = self.controller.usn.unwrap_or(0);
        self.send(Event::EndRefresh(authority, Some(bookmark.encode()))).await
    }

    /// Asks for changes until there are no more, and moves the bookmark's cookie on.
    async fn ask(
        &self,
        session: &mut Session,
        root: &str,
        filter: &str,
        bookmark: &mut Bookmark,
        mut take: impl FnMut(Entry) -> Result<(), DirectoryError>,
    ) -> Result<(), DirectoryError> {
        let names = self.attributes.iter().map(String::as_str).chain(named_in(self.filter.as_str()));
        let attributes: Arc<[String]> = names.chain(PLACE).chain([IS_DELETED]).map(str::to_owned).collect();
        loop {
            let control = RawControl {
                ctype: DIRSYNC.to_owned(),
                // Else a server that ignored it would tell everything.
                crit: true,
                val: Some(dirsync_wire::request(bookmark.object_security, &bookmark.cookie)),
            };
            let result = self.search(session, root, filter, &attributes, Some(control), &mut take).await?;
            match result.rc {
                0 => {}
                INSUFFICIENT_ACCESS if !bookmark.object_security => {
                    bookmark.object_security = true;
                    continue;
                }
                BUSY | UNAVAILABLE => return Err(self.refused(&result)),
                // What is wrong with a cookie has no result of its own.
                _ if !bookmark.cookie.is_empty() => return Err(self.refresh_required()),
                UNAVAILABLE_EXTENSION | INSUFFICIENT_ACCESS | UNWILLING_TO_PERFORM => {
                    let problem = LdapResult::new(result.rc, &result.text).to_string();
                    return Err(DirectoryError::DirSyncRefused { url: self.url.clone(), problem });
                }
                _ => return Err(self.refused(&result)),
            }
            let control = result.ctrls.iter().find(|control| control.1.ctype == DIRSYNC);
            let value = control.and_then(|control| control.1.val.as_deref());
            let answer = value.ok_or("the answer has no DirSync control").and_then(dirsync_wire::answer);
            let answer = answer.map_err(|problem| self.malformed(problem))?;
            let is_stuck = answer.more && answer.cookie == bookmark.cookie;
            bookmark.cookie = answer.cookie;
            if is_stuck {
                return Err(self.malformed("DirSync tells the same again and again"));
            } else if !answer.more {
                return Ok(());
            }
        }
    }

    fn take(&self, entry: Entry, told: &mut Told) -> Result<(), DirectoryError> {
        let id = id(&entry).ok_or_else(|| self.malformed("a change has no objectGUID"))?;
        // The class is told of new entries only.
        let is_moved = !has(&entry, OBJECT_CLASS)
            && PLACE.iter().any(|name| has(&entry, name))
            && is_below(&entry.dn, self.base.as_str());
        if is_moved {
            told.moved.push(id.clone());
        }
        told.ids.insert(id);
        // The same entry may come again and again.
        if told.ids.len().max(told.moved.len()) > MAX_TOLD { Err(self.refresh_required()) } else { Ok(()) }
    }

    /// Tells those of these entries that are in the base and match; their ids.
    async fn read_again(
        &self,
        session: &mut Session,
        ids: &BTreeSet<StableId>,
    ) -> Result<BTreeSet<StableId>, DirectoryError> {
        let ids: Vec<&StableId> = ids.iter().collect();
        let mut found = BTreeSet::new();
        for ids in ids.chunks(IDS_PER_SEARCH) {
            let filter = format!("(&{}{})", self.filter, any_of(ids.iter().copied()));
            let mut batch = Batch::default();
            // A hundred entries at most, so that they fit, however full the batch says it is.
            let result = self
                .search(session, self.base.as_str(), &filter, &self.attributes, None, |entry| {
                    found.extend(id(&entry));
                    batch.push(entry);
                    Ok(())
                })
                .await?;
            self.succeeded(&result)?;
            batch.flush(&self.events).await?;
        }
        Ok(found)
    }

    /// Whether some of these entries may have others below them.
    async fn has_container(
        &self,
        session: &mut Session,
        root: &str,
        ids: &[StableId],
    ) -> Result<bool, DirectoryError> {
        const LEAVES: &str = "(!(objectClass=user))(!(objectClass=group))(!(objectClass=contact))";
        let mut count = 0u32;
        for ids in ids.chunks(IDS_PER_SEARCH) {
            let filter = format!("(&{LEAVES}{})", any_of(ids));
            let attributes = Arc::new([OBJECT_GUID.to_owned()]) as Arc<[String]>;
            let result = self
                .search(session, root, &filter, &attributes, None, |_| {
                    count += 1;
                    Ok(())
                })
                .await?;
            self.succeeded(&result)?;
        }
        Ok(count > 0)
    }

    /// A sweep whose events go through `relay`.
    async fn sweep(
        &self,
        session: Session,
        attributes: Arc<[String]>,
        mut relay: impl FnMut(Event) -> Option<Event>,
    ) -> Result<(Session, Swept), DirectoryError> {
        let (events, mut swept) = mpsc::channel(1);
        let job = sweep::Job {
            url: self.url.clone(),
            base: self.base.clone(),
            filter: self.filter.clone(),
            attributes,
            page_size: self.page_size,
            timeouts: self.timeouts,
            events,
        };
        // It owns the receiver, so that the sweep ends when nobody listens any more.
        let relaying = async move {
            while let Some(event) = swept.recv().await {
                if let Some(event) = relay(event) {
                    self.send(event).await?;
                }
            }
            Ok(())
        };
        let (outcome, relayed) = tokio::join!(job.run(session), relaying);
        relayed.and(outcome)
    }

    /// One search, without its references; what it ended with.
    async fn search(
        &self,
        session: &mut Session,
        base: &str,
        filter: &str,
        attributes: &Arc<[String]>,
        control: Option<RawControl>,
        mut take: impl FnMut(Entry) -> Result<(), DirectoryError>,
    ) -> Result<ldap3::LdapResult, DirectoryError> {
        let (ldap, line) = session.parts();
        let limit = self.timeouts.read;
        let silent = |_| self.lost(ServerProblem::Silent(limit));
        if let Some(control) = control {
            ldap.with_controls(control);
        }
        let search = ldap.streaming_search(base, Scope::Subtree, filter, Arc::clone(attributes));
        let started = tokio::time::timeout(limit, line.with(search)).await.map_err(silent)?;
        let mut stream: SearchStream<'static, String, Arc<[String]>> =
            started.map_err(|problem| self.lost(problem))?;
        loop {
            let next = tokio::time::timeout(limit, line.with(stream.next())).await.map_err(silent)?;
            let Some(item) = next.map_err(|problem| self.lost(problem))? else { break };
            if !item.is_ref() && !item.is_intermediate() {
                take(ber::entry(item.0).map_err(|problem| self.malformed(problem))?)?;
            }
        }
        Ok(stream.finish().await)
    }

    fn succeeded(&self, result: &ldap3::LdapResult) -> Result<(), DirectoryError> {
        let (url, base) = (self.url.clone(), self.base.clone());
        match result.rc {
            0 => Ok(()),
            3 => Err(DirectoryError::TimeLimit { url, base, entries: 0 }),
            32 => Err(DirectoryError::NoSuchBase { url, base }),
            _ => Err(self.refused(result)),
        }
    }

    fn refused(&self, result: &ldap3::LdapResult) -> DirectoryError {
        let result = LdapResult::new(result.rc, &result.text);
        DirectoryError::Refused { url: self.url.clone(), base: self.base.clone(), result }
    }

    fn refresh_required(&self) -> DirectoryError {
        DirectoryError::RefreshRequired { url: self.url.clone() }
    }

    async fn send(&self, event: Event) -> Result<(), DirectoryError> {
        self.events.send(event).await.map_err(|_| DirectoryError::Abandoned)
    }

    fn malformed(&self, problem: ber::Malformed) -> DirectoryError {
        DirectoryError::MalformedEntry { url: self.url.clone(), base: self.base.clone(), problem }
    }

    fn lost(&self, problem: ServerProblem) -> DirectoryError {
        DirectoryError::Lost { url: self.url.clone(), problem }
    }
}

/// A batch of entries of which only the ids count; those that were told already are left out.
fn present(event: Event, told: &BTreeSet<StableId>) -> Option<Event> {
    let Event::Upserts(entries) = event else { return None };
    let ids: Vec<StableId> = entries.iter().filter_map(id).filter(|id| !told.contains(id)).collect();
    (!ids.is_empty()).then_some(Event::Present(ids))
}

fn id(entry: &Entry) -> Option<StableId> {
    stable_id(entry, Preset::ActiveDirectory)
}

/// Whether an attribute is there with a value: an empty one was taken away.
fn has(entry: &Entry, name: &str) -> bool {
    let mut attributes = entry.attributes.iter();
    attributes.any(|attribute| attribute.name.eq_ignore_ascii_case(name) && !attribute.values.is_empty())
}

/// A filter that matches any of these entries. Every byte is escaped (RFC 4515 section 3).
fn any_of<'a>(ids: impl IntoIterator<Item = &'a StableId>) -> String {
    let mut filter = "(|".to_owned();
    for id in ids {
        filter.push_str("(objectGUID=");
        for byte in id.as_bytes() {
            filter.push_str(&format!("\\{byte:02x}"));
        }
        filter.push(')');
    }
    filter.push(')');
    filter
}

/// The attributes that a filter asks for. A parenthesis within a value is always escaped (RFC 4515 section 3),
/// so each one opens an item.
fn named_in(filter: &str) -> impl Iterator<Item = &str> {
    filter.split('(').filter_map(|item| {
        let end = item.find(['=', '<', '>', '~', ':', ';'])?;
        let name = item[..end].trim();
        (!name.is_empty()).then_some(name)
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attributes_of_a_filter_are_found() {
        let named = |filter| named_in(filter).collect::<Vec<_>>();
        assert_eq!(named("(mail=*)"), ["mail"]);
        assert_eq!(
            named(r"(&(objectClass=user)(!(department=a\28b=c))(|(x>=1)(y;lang-de~=2)( z <=3)))"),
            ["objectClass", "department", "x", "y", "z"]
        );
        assert_eq!(named("(&(memberOf:1.2.840:=cn=x)(:dn:2.5.13.2:=y))"), ["memberOf"]);
    }

    #[test]
    fn ids_are_escaped() {
        let ids = [StableId::new(b"(\0").unwrap(), StableId::new(b"*").unwrap()];
        assert_eq!(any_of(&ids), r"(|(objectGUID=\28\00)(objectGUID=\2a))");
        assert!(ldap3::parse_filter(NOTHING).is_ok());
    }
}
