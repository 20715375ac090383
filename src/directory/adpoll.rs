//! Polling a domain controller: Active Directory and Samba.
//!
//! What it tells of changes, by [`dirsync`](super::dirsync) or by [`usn`](super::usn), is a hint and no more: it is
//! about entries anywhere in the naming context, and has not all of their attributes. So the entries that it names
//! are read again, by their ids, with the configured base and filter; those that are not found there are gone. Other
//! things are never told, and each has a remedy:
//!
//! - **Deletions, to a bind user who may not see deleted entries.** Samba tells them to nobody but
//!   administrators, with "Replicating Directory Changes" as without it.
//! - **Group memberships**, which a filter on `memberOf` may ask for.
//! - **The entries below a container that was renamed or moved**, whose DNs change with it. The container
//!   itself is told.
//!
//!   For all of them, ids and DNs of everything are compared with the mirror: one paged search that asks for nothing
//!   else; what the mirror lacks or has at another DN is read. That is done at once when a container changed; else
//!   when anything at all was written on the domain controller, and at most once a second for each
//!   [`IDS_PER_SECOND`] entries. So a deletion is noticed with the next poll in a directory of some thousand
//!   people, and within 17 minutes in one of 100,000.
//! - **That the server was restored from an older copy**: it tells nothing until it has caught up with us. Everything
//!   is read again when its database has begun another life (`invocationId`), as an orderly restore lets it; when its
//!   highest USN has gone back; and when one of the entries that were written last has an older USN than before, since
//!   a copy that was put back out of order soon reaches the old number with other writes.
//!
//! Without a cookie, the server's position is asked for first and everything is swept then: what changes
//! meanwhile is told by the next poll.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ldap3::controls::RawControl;
use ldap3::{Scope, SearchStream};
use tokio::sync::mpsc::Sender;

use super::bookmark::Bookmark;
use super::error::{DirectoryError, LdapResult, ServerProblem};
use super::ldap::Session;
use super::root_dse::{Controller, texts};
use super::sweep::{self, Swept};
use super::{Authority, Compares, Event, IsKnown, ber};
use crate::domain::course::{IDS_PER_SECOND, Mechanism};
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

/// Machines change often, and are never mapped. Everything else may be what a configured filter wants, or a
/// container that is renamed.
pub(super) const ALL_BUT_MACHINES: &str = "(!(objectClass=computer))";

/// What people live below. Policies are containers too, change often, and hold nobody.
const CONTAINERS: &str = "(|(objectClass=organizationalUnit)(objectClass=container)(objectClass=organization)\
                          (objectClass=locality)(objectClass=country))(!(objectClass=groupPolicyContainer))";

pub(super) const OBJECT_GUID: &str = "objectGUID";
const USN_CHANGED: &str = "uSNChanged";
const INVOCATION_ID: &str = "invocationId";

/// Results (RFC 4511 appendix A).
pub(super) const INSUFFICIENT_ACCESS: u32 = 50;
pub(super) const BUSY: u32 = 51;
pub(super) const UNAVAILABLE: u32 = 52;

/// One poll, with everything that it needs.
pub(super) struct Job {
    pub(super) url: LdapUrl,
    pub(super) base: Dn,
    pub(super) filter: Filter,
    pub(super) attributes: Arc<[String]>,
    /// [`Mechanism::DirSync`] or [`Mechanism::Usn`].
    pub(super) mechanism: Mechanism,
    pub(super) cookie: Option<Vec<u8>>,
    pub(super) compares: Compares,
    pub(super) page_size: Option<u32>,
    pub(super) timeouts: Timeouts,
    pub(super) controller: Controller,
    pub(super) is_known: IsKnown,
    pub(super) events: Sender<Event>,
}

/// What a poll was told.
#[derive(Default)]
pub(super) struct Told {
    ids: BTreeSet<StableId>,
    /// Those that were there before, and may have another name or parent now.
    moved: Vec<StableId>,
}

impl Told {
    /// Takes in one change; `false` when there are too many.
    pub(super) fn take(&mut self, id: StableId, is_moved: bool) -> bool {
        if is_moved {
            self.moved.push(id.clone());
        }
        self.ids.insert(id);
        // The same entry may come again and again.
        self.ids.len().max(self.moved.len()) <= MAX_TOLD
    }
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

    async fn poll(&self, mut session: Session) -> Result<Session, DirectoryError> {
        let root = match self.controller.naming_context(self.base.as_str()) {
            Some(root) => root,
            None if self.mechanism == Mechanism::Usn => self.base.as_str(),
            None => {
                return Err(self.mechanism_refused("the base is in none of its naming contexts".to_owned()));
            }
        };
        let invocation = self.invocation(&mut session).await?;
        if self.mechanism == Mechanism::Usn && invocation.is_empty() {
            let problem =
                format!("the bind user may not read {INVOCATION_ID} of {}", self.controller.service);
            return Err(self.mechanism_refused(problem));
        }
        match &self.cookie {
            None => self.everything(session, root, invocation).await,
            Some(cookie) => {
                let bookmark = Bookmark::decode(cookie).map_err(|_| self.refresh_required())?;
                self.changes(session, root, invocation, bookmark).await
            }
        }
    }

    /// Which life of its database the domain controller is in ([MS-ADTS] section 3.1.1.1.9); empty where it may
    /// not be read.
    async fn invocation(&self, session: &mut Session) -> Result<Vec<u8>, DirectoryError> {
        if self.controller.service.is_empty() {
            return Ok(Vec::new());
        }
        let limit = self.timeouts.read;
        let read = session.entry(&self.controller.service, &[INVOCATION_ID]);
        let read =
            tokio::time::timeout(limit, read).await.map_err(|_| self.lost(ServerProblem::Silent(limit)))?;
        let settings = read.map_err(|problem| self.lost(problem))?;
        let mut attributes = settings.into_iter().flat_map(|entry| entry.attributes);
        let found = attributes.find(|attribute| attribute.name.eq_ignore_ascii_case(INVOCATION_ID));
        Ok(found.and_then(|attribute| attribute.values.into_iter().next()).unwrap_or_default())
    }

    /// The position, then a sweep.
    async fn everything(
        &self,
        mut session: Session,
        root: &str,
        invocation: Vec<u8>,
    ) -> Result<Session, DirectoryError> {
        let mut bookmark = Bookmark { invocation, ..Bookmark::default() };
        if self.mechanism == Mechanism::DirSync {
            self.find_position(&mut session, root, &mut bookmark).await?;
        }
        let relay = |event| {
            if let Event::Upserts(entries) = &event {
                entries.iter().for_each(|entry| note(entry, &mut bookmark));
            }
            Ok((!matches!(event, Event::EndRefresh(..))).then_some(event))
        };
        let (session, swept) = self.sweep(session, self.attributes_to_read(), relay).await?;
        self.compared(&mut bookmark, swept.entries);
        self.end(Authority::Everything, bookmark).await?;
        Ok(session)
    }

    /// What changed since the bookmark was set.
    async fn changes(
        &self,
        mut session: Session,
        root: &str,
        invocation: Vec<u8>,
        mut bookmark: Bookmark,
    ) -> Result<Session, DirectoryError> {
        let usn = self.controller.usn.unwrap_or(0);
        let is_same_server = bookmark.service == self.controller.service;
        let is_other_life = bookmark.invocation != invocation;
        // A cookie of DirSync holds on another domain controller of the domain as well.
        if is_other_life && (is_same_server || self.mechanism == Mechanism::Usn)
            || is_same_server && usn < bookmark.usn
        {
            return Err(self.refresh_required());
        }
        bookmark.invocation = invocation;
        let was_written = |since| !is_same_server || usn == 0 || usn != since;
        let since = bookmark.usn;
        let mut must_compare = !matches!(self.compares, Compares::InTime);
        if !is_same_server {
            bookmark.witnesses.clear();
        } else if was_written(bookmark.usn) {
            must_compare |= self.is_witness_missing(&mut session, root, &mut bookmark).await?;
        }
        let mut told = Told::default();
        if self.mechanism == Mechanism::DirSync {
            self.ask_dirsync(&mut session, root, &mut bookmark, &mut told).await?;
        } else if was_written(bookmark.usn) {
            self.ask_by_usn(&mut session, root, bookmark.usn, &mut told).await?;
        }
        let ids: Vec<StableId> = told.ids.iter().cloned().collect();
        let found = self.read_again(&mut session, &ids, &mut bookmark, None).await?;
        let gone: Vec<StableId> = told.ids.difference(&found).cloned().collect();
        for id in &gone {
            bookmark.witnesses.remove(id);
        }
        for ids in gone.chunks(IDS_PER_EVENT) {
            self.send(Event::Deletes(ids.to_vec())).await?;
        }
        told.moved.retain(|id| !found.contains(id));
        must_compare |= self.has_container(&mut session, root, &told.moved).await?;
        let (started, due_at) = (now(), bookmark.compared_at + bookmark.count / IDS_PER_SECOND);
        // A clock that was set back must not put it off.
        let is_due =
            was_written(bookmark.compared_usn) && (started >= due_at || started < bookmark.compared_at);
        let mut authority = Authority::Named;
        if is_due || must_compare {
            let proven = self.proven(&bookmark).filter(|_| is_same_server).map(|usn| (usn, since));
            session = self.compare(session, &found, &mut bookmark, proven).await?;
            authority = Authority::Everything;
        }
        self.end(authority, bookmark).await?;
        Ok(session)
    }

    /// Looks at the entries that were written last. One that is missing was deleted without a word, or the
    /// server went back to before it was made, as it did when none is there any more.
    async fn is_witness_missing(
        &self,
        session: &mut Session,
        root: &str,
        bookmark: &mut Bookmark,
    ) -> Result<bool, DirectoryError> {
        if bookmark.witnesses.is_empty() {
            return Ok(false);
        }
        let filter = any_of(bookmark.witnesses.keys());
        let attributes: Arc<[String]> = [OBJECT_GUID, USN_CHANGED].map(str::to_owned).into();
        let mut found = BTreeMap::new();
        let result = self
            .search(session, root, &filter, &attributes, Vec::new(), |entry| {
                found.extend(id(&entry).zip(usn_changed(&entry)));
                Ok(())
            })
            .await?;
        self.succeeded(&result)?;
        let has_gone_back =
            found.iter().any(|(id, usn)| bookmark.witnesses.get(id).is_some_and(|old| usn < old));
        if has_gone_back || found.is_empty() {
            return Err(self.refresh_required());
        }
        let before = bookmark.witnesses.len();
        bookmark.witnesses.retain(|id, _| found.contains_key(id));
        Ok(bookmark.witnesses.len() < before)
    }

    /// Up to which USN the mirror was proved equal, where that is to be proved again. A proof of another life of the
    /// database, or of another one, is worth nothing.
    fn proven(&self, bookmark: &Bookmark) -> Option<u64> {
        let Compares::With(proof) = &self.compares else { return None };
        let proof = Bookmark::decode(proof).ok();
        let proof = proof.filter(|proof| {
            (&proof.service, &proof.invocation) == (&self.controller.service, &bookmark.invocation)
        });
        Some(proof.map_or(0, |proof| proof.usn))
    }

    /// Compares ids and DNs of everything with the mirror, and reads what differs. For a proof that begins where the
    /// last one ended it reads what was written since then, too; what differs there, and was written before the
    /// last poll, which should have told it, is drift.
    async fn compare(
        &self,
        session: Session,
        told: &BTreeSet<StableId>,
        bookmark: &mut Bookmark,
        proven: Option<(u64, u64)>,
    ) -> Result<Session, DirectoryError> {
        let (proven, since) = proven.unzip();
        let is_proven =
            |entry: &Entry| proven.is_none_or(|proven| usn_changed(entry).is_some_and(|usn| usn <= proven));
        let mut differing = Vec::new();
        let relay = |event| {
            let Event::Upserts(entries) = event else { return Ok(None) };
            let mut present = Vec::new();
            for entry in entries {
                // Without an id it is nobody.
                let Some(id) = id(&entry).filter(|id| !told.contains(id)) else { continue };
                if is_proven(&entry) && (self.is_known)(&id, &entry) {
                    present.push(id);
                } else {
                    differing.push(id);
                }
            }
            if differing.len() > MAX_TOLD {
                return Err(self.refresh_required());
            }
            Ok((!present.is_empty()).then_some(Event::Present(present)))
        };
        let attributes = [OBJECT_GUID, USN_CHANGED].map(str::to_owned).into();
        let (mut session, swept) = self.sweep(session, attributes, relay).await?;
        self.read_again(&mut session, &differing, bookmark, since).await?;
        self.compared(bookmark, swept.entries);
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

    fn attributes_to_read(&self) -> Arc<[String]> {
        self.attributes.iter().map(String::as_str).chain([USN_CHANGED]).map(str::to_owned).collect()
    }

    /// Tells those of these entries that are in the base and match; their ids. What was written up to a USN was told
    /// before, so that a difference is told as such.
    async fn read_again(
        &self,
        session: &mut Session,
        ids: &[StableId],
        bookmark: &mut Bookmark,
        told_before: Option<u64>,
    ) -> Result<BTreeSet<StableId>, DirectoryError> {
        let attributes = self.attributes_to_read();
        let mut found = BTreeSet::new();
        for ids in ids.chunks(IDS_PER_SEARCH) {
            let filter = format!("(&{}{})", self.filter, any_of(ids));
            // A hundred entries at most.
            let mut entries = Vec::new();
            let result = self
                .search(session, self.base.as_str(), &filter, &attributes, Vec::new(), |entry| {
                    note(&entry, bookmark);
                    found.extend(id(&entry));
                    entries.push(entry);
                    Ok(())
                })
                .await?;
            self.succeeded(&result)?;
            let was_told = |entry: &Entry| {
                told_before.is_some_and(|before| usn_changed(entry).is_some_and(|usn| usn <= before))
            };
            let (differences, changes): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(was_told);
            if !changes.is_empty() {
                self.send(Event::Upserts(changes)).await?;
            }
            if !differences.is_empty() {
                self.send(Event::Differences(differences)).await?;
            }
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
        let attributes: Arc<[String]> = [OBJECT_GUID.to_owned()].into();
        let mut has_one = false;
        for ids in ids.chunks(IDS_PER_SEARCH) {
            let filter = format!("(&{CONTAINERS}{})", any_of(ids));
            let result = self
                .search(session, root, &filter, &attributes, Vec::new(), |_| {
                    has_one = true;
                    Ok(())
                })
                .await?;
            self.succeeded(&result)?;
        }
        Ok(has_one)
    }

    /// A sweep whose events go through `relay`.
    async fn sweep(
        &self,
        session: Session,
        attributes: Arc<[String]>,
        relay: impl FnMut(Event) -> Result<Option<Event>, DirectoryError>,
    ) -> Result<(Session, Swept), DirectoryError> {
        let job = sweep::Job {
            url: self.url.clone(),
            base: self.base.clone(),
            filter: self.filter.clone(),
            attributes,
            page_size: self.page_size,
            timeouts: self.timeouts,
            events: self.events.clone(),
        };
        job.through(session, relay).await
    }

    /// One search, without its references; what it ended with.
    pub(super) async fn search(
        &self,
        session: &mut Session,
        base: &str,
        filter: &str,
        attributes: &Arc<[String]>,
        controls: Vec<RawControl>,
        mut take: impl FnMut(Entry) -> Result<(), DirectoryError>,
    ) -> Result<ldap3::LdapResult, DirectoryError> {
        let (ldap, line) = session.parts();
        let limit = self.timeouts.read;
        let silent = |_| self.lost(ServerProblem::Silent(limit));
        if !controls.is_empty() {
            ldap.with_controls(controls);
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

    pub(super) fn succeeded(&self, result: &ldap3::LdapResult) -> Result<(), DirectoryError> {
        let (url, base) = (self.url.clone(), self.base.clone());
        match result.rc {
            0 => Ok(()),
            3 => Err(DirectoryError::TimeLimit { url, base, entries: 0 }),
            32 => Err(DirectoryError::NoSuchBase { url, base }),
            _ => Err(self.refused(result)),
        }
    }

    pub(super) fn refused(&self, result: &ldap3::LdapResult) -> DirectoryError {
        let result = LdapResult::new(result.rc, &result.text);
        DirectoryError::Refused { url: self.url.clone(), base: self.base.clone(), result }
    }

    /// The server refuses to work with the mechanism here.
    pub(super) fn mechanism_refused(&self, problem: String) -> DirectoryError {
        DirectoryError::MechanismRefused { url: self.url.clone(), mechanism: self.mechanism, problem }
    }

    pub(super) fn refresh_required(&self) -> DirectoryError {
        DirectoryError::RefreshRequired { url: self.url.clone() }
    }

    async fn send(&self, event: Event) -> Result<(), DirectoryError> {
        self.events.send(event).await.map_err(|_| DirectoryError::Abandoned)
    }

    pub(super) fn malformed(&self, problem: ber::Malformed) -> DirectoryError {
        DirectoryError::MalformedEntry { url: self.url.clone(), base: self.base.clone(), problem }
    }

    fn lost(&self, problem: ServerProblem) -> DirectoryError {
        DirectoryError::Lost { url: self.url.clone(), problem }
    }
}

pub(super) fn id(entry: &Entry) -> Option<StableId> {
    stable_id(entry, Preset::ActiveDirectory)
}

fn usn_changed(entry: &Entry) -> Option<u64> {
    texts(entry, USN_CHANGED).next()?.parse().ok()
}

fn note(entry: &Entry, bookmark: &mut Bookmark) {
    if let Some((id, usn)) = id(entry).zip(usn_changed(entry)) {
        bookmark.witness(id, usn);
    }
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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_escaped() {
        let ids = [StableId::new(b"(\0").unwrap(), StableId::new(b"*").unwrap()];
        assert_eq!(any_of(&ids), r"(|(objectGUID=\28\00)(objectGUID=\2a))");
    }

    #[test]
    fn our_own_filters_can_be_used() {
        assert!(ldap3::parse_filter(ALL_BUT_MACHINES).is_ok());
        assert!(ldap3::parse_filter(format!("(&{CONTAINERS}(a=b))")).is_ok());
    }
}
