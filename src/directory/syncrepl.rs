//! Content synchronization, refresh and persist (RFC 4533): how OpenLDAP tells changes as they happen.
//!
//! One search stays open. It begins with a refresh: everything without a cookie, what changed since then
//! with one. Then come changes, each with a cookie that covers it. Paging is impossible with it, so the
//! bind user needs its size limits lifted.

use ldap3::ResultEntry;

use super::batch::Batch;
use super::error::DirectoryError;
use super::ldap::Session;
use super::rfc4533::{State, SyncInfo, SyncState};
use super::sync_search::{Stream, SyncSearch};
use super::{Authority, Event};
use crate::domain::name::StableId;

/// Ids in one event, so that it stays as small as a batch of entries.
const MAX_IDS: usize = 5000;

/// One synchronization.
pub(super) struct Job {
    pub(super) search: SyncSearch,
}

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
        let mut session = session;
        let mut stream = self.search.limited(self.refresh(&mut session)).await?;
        loop {
            self.follow(&mut session, &mut stream).await?;
        }
    }

    /// Everything up to [`Event::EndRefresh`].
    async fn refresh(&self, session: &mut Session) -> Result<Stream, DirectoryError> {
        let mut told = Told::default();
        let mut stream = self.search.request(session).await?;
        loop {
            let Some(item) = self.search.next(session, &mut stream).await? else {
                return Err(self.search.ended(&mut stream, told.entries).await);
            };
            if let Some((cookie, authority)) = self.take(item, &mut told).await? {
                self.hand_on(&mut told).await?;
                self.search.send(Event::EndRefresh(authority, cookie)).await?;
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
            let SyncState { state, id, .. } = self.search.state(&item.1)?;
            if state != State::Delete {
                self.hand_on_deleted(told).await?;
            }
            match state {
                State::Add | State::Modify => {
                    told.entries += 1;
                    if told.batch.push(self.search.entry(item)?) {
                        told.batch.flush(&self.search.events).await?;
                    }
                }
                State::Present => told.present.push(id),
                State::Delete => told.deleted.push(id),
            }
        } else if let Some(info) = self.search.info(&item)? {
            match info {
                SyncInfo::NewCookie(_) => {}
                SyncInfo::IdSet { deletes, ids, .. } => {
                    if deletes {
                        told.deleted.extend(ids);
                    } else {
                        self.hand_on_deleted(told).await?;
                        told.present.extend(ids);
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
                    let is_whole = told.present_ended || self.search.cookie.is_none();
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

    /// The last word on an id counts: what is reported after a deletion is handed on after it.
    async fn hand_on_deleted(&self, told: &mut Told) -> Result<(), DirectoryError> {
        if told.deleted.is_empty() { Ok(()) } else { self.hand_on(told).await }
    }

    async fn hand_on(&self, told: &mut Told) -> Result<(), DirectoryError> {
        told.batch.flush(&self.search.events).await?;
        for ids in told.present.chunks(MAX_IDS) {
            self.search.send(Event::Present(ids.to_vec())).await?;
        }
        for ids in told.deleted.chunks(MAX_IDS) {
            self.search.send(Event::Deletes(ids.to_vec())).await?;
        }
        told.present.clear();
        told.deleted.clear();
        Ok(())
    }

    /// Takes in one change of the persist stage, or a heartbeat.
    async fn follow(&self, session: &mut Session, stream: &mut Stream) -> Result<(), DirectoryError> {
        let Some(item) = self.search.change(session, stream).await? else { return Ok(()) };
        let mut checkpoint = None;
        if item.is_intermediate() {
            match self.search.info(&item)? {
                Some(SyncInfo::NewCookie(cookie)) => checkpoint = cookie,
                Some(SyncInfo::IdSet { cookie, deletes: true, ids }) => {
                    self.search.send(Event::Deletes(ids)).await?;
                    checkpoint = cookie;
                }
                _ => {}
            }
        } else if !item.is_ref() {
            let SyncState { state, id, cookie } = self.search.state(&item.1)?;
            match state {
                State::Add | State::Modify => {
                    self.search.send(Event::Upserts(vec![self.search.entry(item)?])).await?
                }
                State::Delete => self.search.send(Event::Deletes(vec![id])).await?,
                State::Present => {}
            }
            checkpoint = cookie;
        }
        match checkpoint {
            Some(cookie) => self.search.send(Event::Checkpoint(cookie)).await,
            None => Ok(()),
        }
    }
}
