//! Content synchronization, refresh and persist (RFC 4533): how OpenLDAP tells changes as they happen.
//!
//! One search stays open. It begins with a refresh: everything without a cookie, what changed since then
//! with one. Then come changes, each with a cookie that covers it. Paging is impossible with it, so the
//! bind user needs its size limits lifted.

use std::sync::Arc;
use std::time::Duration;

use ldap3::controls::{Control, RawControl};
use ldap3::exop::WhoAmI;
use ldap3::{ResultEntry, Scope, SearchStream};
use tokio::sync::mpsc::Sender;

use super::batch::Batch;
use super::error::{DirectoryError, LdapResult, ServerProblem};
use super::ldap::Session;
use super::rfc4533::{self, E_SYNC_REFRESH_REQUIRED, State, SyncInfo, SyncState};
use super::{Authority, Event, ber};
use crate::domain::directory::{LdapUrl, Timeouts};
use crate::domain::ldap_text::{Dn, Filter};
use crate::domain::name::StableId;

/// Silence after which the server is asked whether it still lives. With the answer's deadline this
/// notices a dead or hung server within 30 seconds.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// Time for the answer to that.
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(10);

/// Ids in one event, so that it stays as small as a batch of entries.
const MAX_IDS: usize = 5000;

/// unwillingToPerform: OpenLDAP's answer to a cookie that is newer than its own data, as after a restore.
const UNWILLING_TO_PERFORM: u32 = 53;

/// One synchronization, with everything that it needs.
pub(super) struct Job {
    pub(super) url: LdapUrl,
    pub(super) base: Dn,
    pub(super) filter: Filter,
    pub(super) attributes: Arc<[String]>,
    pub(super) cookie: Option<Vec<u8>>,
    pub(super) timeouts: Timeouts,
    pub(super) events: Sender<Event>,
}

type Stream = SearchStream<'static, String, Arc<[String]>>;

/// What the refresh has told so far.
#[derive(Default)]
struct Told {
    batch: Batch,
    present: Vec<StableId>,
    deleted: Vec<StableId>,
    /// A present phase ended: whatever was not told is gone.
    present_ended: bool,
    entries: u64,
}

impl Job {
    /// Tells the refresh, then every change, until the connection or the consumer ends. Never returns `Ok`.
    pub(super) async fn run(self, session: Session) -> Result<std::convert::Infallible, DirectoryError> {
        if ldap3::parse_filter(self.filter.as_str()).is_err() {
            return Err(DirectoryError::Filter { filter: self.filter.to_string() });
        }
        let mut session = session;
        let limit = self.timeouts.sweep;
        let refresh = tokio::time::timeout(limit, self.refresh(&mut session)).await;
        let mut stream = match refresh {
            Ok(stream) => stream?,
            Err(_) => {
                let (url, base) = (self.url.clone(), self.base.clone());
                return Err(DirectoryError::SweepTimeout { url, base, limit });
            }
        };
        loop {
            self.follow(&mut session, &mut stream).await?;
        }
    }

    /// Everything up to [`Event::EndRefresh`].
    async fn refresh(&self, session: &mut Session) -> Result<Stream, DirectoryError> {
        let mut told = Told::default();
        let mut stream = self.request(session).await?;
        loop {
            let Some(item) = self.next(session, &mut stream, self.timeouts.read).await? else {
                return Err(self.ended(&mut stream, told.entries).await);
            };
            if let Some((cookie, authority)) = self.take(item, &mut told).await? {
                self.hand_on(&mut told).await?;
                self.send(Event::EndRefresh(authority, cookie)).await?;
                return Ok(stream);
            }
        }
    }

    /// Takes in one message of the refresh; at its end, the cookie and what may be concluded.
    async fn take(
        &self,
        item: ResultEntry,
        told: &mut Told,
    ) -> Result<Option<(Option<Vec<u8>>, Authority)>, DirectoryError> {
        if item.is_ref() {
            return Ok(None);
        }
        if !item.is_intermediate() {
            let SyncState { state, id, .. } = self.state(&item.1)?;
            match state {
                State::Add | State::Modify => {
                    told.entries += 1;
                    if told.batch.push(self.entry(item)?) {
                        told.batch.flush(&self.events).await?;
                    }
                }
                State::Present => told.present.push(id),
                State::Delete => told.deleted.push(id),
            }
        } else if let Some(info) = self.info(&item)? {
            match info {
                SyncInfo::NewCookie(_) => {}
                SyncInfo::IdSet { deletes, ids, .. } => {
                    if deletes {
                        told.deleted.extend(ids)
                    } else {
                        told.present.extend(ids)
                    }
                }
                SyncInfo::RefreshPresent { cookie, done } => {
                    told.present_ended = true;
                    if done {
                        return Ok(Some((cookie, Authority::Everything)));
                    }
                }
                SyncInfo::RefreshDelete { cookie, done } if done => {
                    // Without a cookie everything was told, whatever the phase is called.
                    let is_whole = told.present_ended || self.cookie.is_none();
                    let authority = if is_whole { Authority::Everything } else { Authority::Named };
                    return Ok(Some((cookie, authority)));
                }
                SyncInfo::RefreshDelete { .. } => {}
            }
        }
        if told.present.len().max(told.deleted.len()) >= MAX_IDS {
            self.hand_on(told).await?;
        }
        Ok(None)
    }

    async fn hand_on(&self, told: &mut Told) -> Result<(), DirectoryError> {
        told.batch.flush(&self.events).await?;
        for ids in told.present.chunks(MAX_IDS) {
            self.send(Event::Present(ids.to_vec())).await?;
        }
        for ids in told.deleted.chunks(MAX_IDS) {
            self.send(Event::Deletes(ids.to_vec())).await?;
        }
        told.present.clear();
        told.deleted.clear();
        Ok(())
    }

    /// Takes in one change of the persist stage, or a heartbeat.
    async fn follow(&self, session: &mut Session, stream: &mut Stream) -> Result<(), DirectoryError> {
        let waiting = {
            let (_, line) = session.parts();
            tokio::time::timeout(HEARTBEAT_EVERY, line.with(stream.next())).await
        };
        let item = match waiting {
            Err(_) => return self.heartbeat(session).await,
            Ok(Err(problem)) => return Err(self.lost(problem)),
            Ok(Ok(None)) => return Err(self.ended(stream, 0).await),
            Ok(Ok(Some(item))) => item,
        };
        let mut checkpoint = None;
        if item.is_intermediate() {
            match self.info(&item)? {
                Some(SyncInfo::NewCookie(cookie)) => checkpoint = Some(cookie),
                Some(SyncInfo::IdSet { cookie, deletes: true, ids }) => {
                    self.send(Event::Deletes(ids)).await?;
                    checkpoint = cookie;
                }
                _ => {}
            }
        } else if !item.is_ref() {
            let SyncState { state, id, cookie } = self.state(&item.1)?;
            match state {
                State::Add | State::Modify => self.send(Event::Upserts(vec![self.entry(item)?])).await?,
                State::Delete => self.send(Event::Deletes(vec![id])).await?,
                State::Present => {}
            }
            checkpoint = cookie;
        }
        match checkpoint {
            Some(cookie) => self.send(Event::Checkpoint(cookie)).await,
            None => Ok(()),
        }
    }

    /// A half-open connection is silent for ever: the server has to say something.
    async fn heartbeat(&self, session: &mut Session) -> Result<(), DirectoryError> {
        let (ldap, line) = session.parts();
        match tokio::time::timeout(HEARTBEAT_DEADLINE, line.with(ldap.extended(WhoAmI))).await {
            // Any answer will do: a server may not know the operation.
            Ok(Ok(_)) => Ok(()),
            Ok(Err(problem)) => Err(self.lost(problem)),
            Err(_) => Err(self.lost(ServerProblem::Silent(HEARTBEAT_EVERY + HEARTBEAT_DEADLINE))),
        }
    }

    async fn request(&self, session: &mut Session) -> Result<Stream, DirectoryError> {
        let (ldap, line) = session.parts();
        ldap.with_controls(RawControl {
            ctype: rfc4533::SYNC_REQUEST.to_owned(),
            crit: true,
            val: Some(rfc4533::request(self.cookie.as_deref())),
        });
        let (base, filter) = (self.base.as_str(), self.filter.as_str());
        let search = ldap.streaming_search(base, Scope::Subtree, filter, self.attributes.clone());
        match tokio::time::timeout(self.timeouts.read, line.with(search)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(problem)) => Err(self.lost(problem)),
            Err(_) => Err(self.lost(ServerProblem::Silent(self.timeouts.read))),
        }
    }

    async fn next(
        &self,
        session: &mut Session,
        stream: &mut Stream,
        limit: Duration,
    ) -> Result<Option<ResultEntry>, DirectoryError> {
        let (_, line) = session.parts();
        match tokio::time::timeout(limit, line.with(stream.next())).await {
            Ok(Ok(item)) => Ok(item),
            Ok(Err(problem)) => Err(self.lost(problem)),
            Err(_) => Err(self.lost(ServerProblem::Silent(limit))),
        }
    }

    /// The search has ended, which it does only for a reason.
    async fn ended(&self, stream: &mut Stream, entries: u64) -> DirectoryError {
        let result = stream.finish().await;
        let (url, base) = (self.url.clone(), self.base.clone());
        match result.rc {
            E_SYNC_REFRESH_REQUIRED => DirectoryError::RefreshRequired { url },
            UNWILLING_TO_PERFORM if self.cookie.is_some() => DirectoryError::RefreshRequired { url },
            3 => DirectoryError::TimeLimit { url, base, entries },
            code @ (4 | 11) => DirectoryError::SizeLimit { url, base, entries, code },
            32 => DirectoryError::NoSuchBase { url, base },
            // It must not end well: that would be a refresh without persistence.
            code => DirectoryError::Refused { url, base, result: LdapResult::new(code, &result.text) },
        }
    }

    fn state(&self, controls: &[Control]) -> Result<SyncState, DirectoryError> {
        let control = controls.iter().find(|control| control.1.ctype == rfc4533::SYNC_STATE);
        let value = control.and_then(|control| control.1.val.as_deref());
        let read = value.ok_or("an entry has no sync state control").and_then(rfc4533::state);
        read.map_err(|problem| self.malformed(problem))
    }

    fn info(&self, item: &ResultEntry) -> Result<Option<SyncInfo>, DirectoryError> {
        rfc4533::intermediate(&item.0).map_err(|problem| self.malformed(problem))
    }

    fn entry(&self, item: ResultEntry) -> Result<crate::domain::mapping::Entry, DirectoryError> {
        ber::entry(item.0).map_err(|problem| self.malformed(problem))
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
