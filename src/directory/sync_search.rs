//! One search of content synchronization (RFC 4533), refresh and persist: what its drivers have in common.
//!
//! It notices a server that hangs, reads what entries and messages carry, and says why a search ended.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ldap3::controls::{Control, RawControl};
use ldap3::exop::WhoAmI;
use ldap3::{ResultEntry, Scope, SearchStream};
use tokio::sync::mpsc::Sender;

use super::error::{DirectoryError, LdapResult, ServerProblem, clean};
use super::ldap::Session;
use super::rfc4533::{self, E_SYNC_REFRESH_REQUIRED, SyncInfo, SyncState};
use super::{Event, ber};
use crate::domain::directory::{LdapUrl, Timeouts};
use crate::domain::ldap_text::{Dn, Filter};
use crate::domain::mapping::Entry;

/// Silence after which the server is asked whether it still lives. With the answer's deadline this
/// notices a dead or hung server within 30 seconds.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// Time for the answer to that.
pub(super) const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(10);

/// unwillingToPerform: OpenLDAP's answer to a cookie that is newer than its own data, as after a restore.
const UNWILLING_TO_PERFORM: u32 = 53;

/// One search, with everything that it needs.
pub(super) struct SyncSearch {
    pub(super) url: LdapUrl,
    pub(super) base: Dn,
    pub(super) filter: Filter,
    pub(super) attributes: Arc<[String]>,
    pub(super) cookie: Option<Vec<u8>>,
    pub(super) timeouts: Timeouts,
    pub(super) events: Sender<Event>,
}

pub(super) type Stream = SearchStream<'static, String, Arc<[String]>>;

/// What came within some time.
pub(super) enum Heard {
    Message(ResultEntry),
    /// The search has ended.
    End,
    Silence,
}

impl SyncSearch {
    /// Runs a refresh under the deadline for reading everything.
    pub(super) async fn limited<T>(
        &self,
        refresh: impl Future<Output = Result<T, DirectoryError>>,
    ) -> Result<T, DirectoryError> {
        // Else the library would report it as if the connection were at fault.
        if ldap3::parse_filter(self.filter.as_str()).is_err() {
            return Err(DirectoryError::Filter { filter: self.filter.to_string() });
        }
        let limit = self.timeouts.sweep;
        match tokio::time::timeout(limit, refresh).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let (url, base) = (self.url.clone(), self.base.clone());
                Err(DirectoryError::SweepTimeout { url, base, limit })
            }
        }
    }

    /// The next message of the persist stage; `None` after a heartbeat.
    pub(super) async fn change(
        &self,
        session: &mut Session,
        stream: &mut Stream,
    ) -> Result<Option<ResultEntry>, DirectoryError> {
        match self.hear(session, stream, HEARTBEAT_EVERY).await? {
            Heard::Message(item) => Ok(Some(item)),
            Heard::End => Err(self.ended(stream, 0).await),
            Heard::Silence => {
                let silence = HEARTBEAT_EVERY + HEARTBEAT_DEADLINE;
                self.heartbeat(session, HEARTBEAT_DEADLINE, silence).await.map(|()| None)
            }
        }
    }

    /// A half-open connection is silent for ever: the server has to say something, or else it was silent for so
    /// long.
    pub(super) async fn heartbeat(
        &self,
        session: &mut Session,
        deadline: Duration,
        silence: Duration,
    ) -> Result<(), DirectoryError> {
        let (ldap, line) = session.parts();
        match tokio::time::timeout(deadline, line.with(ldap.extended(WhoAmI))).await {
            // Any answer will do: a server may not know the operation.
            Ok(Ok(_)) => Ok(()),
            Ok(Err(problem)) => Err(self.lost(problem)),
            Err(_) => Err(self.lost(ServerProblem::Silent(silence))),
        }
    }

    /// Begins the search.
    pub(super) async fn request(&self, session: &mut Session) -> Result<Stream, DirectoryError> {
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

    /// The next message of the refresh; `None` where the search has ended.
    pub(super) async fn next(
        &self,
        session: &mut Session,
        stream: &mut Stream,
    ) -> Result<Option<ResultEntry>, DirectoryError> {
        match self.hear(session, stream, self.timeouts.read).await? {
            Heard::Message(item) => Ok(Some(item)),
            Heard::End => Ok(None),
            Heard::Silence => Err(self.lost(ServerProblem::Silent(self.timeouts.read))),
        }
    }

    /// Waits for a message, so long.
    pub(super) async fn hear(
        &self,
        session: &mut Session,
        stream: &mut Stream,
        limit: Duration,
    ) -> Result<Heard, DirectoryError> {
        let (_, line) = session.parts();
        match tokio::time::timeout(limit, line.with(stream.next())).await {
            Ok(Ok(Some(item))) => Ok(Heard::Message(item)),
            Ok(Ok(None)) => Ok(Heard::End),
            Ok(Err(problem)) => Err(self.lost(problem)),
            Err(_) => Ok(Heard::Silence),
        }
    }

    /// The search has ended, which it does only for a reason.
    pub(super) async fn ended(&self, stream: &mut Stream, entries: u64) -> DirectoryError {
        let result = stream.finish().await;
        let (url, base) = (self.url.clone(), self.base.clone());
        match result.rc {
            E_SYNC_REFRESH_REQUIRED => DirectoryError::RefreshRequired { url },
            UNWILLING_TO_PERFORM if self.cookie.is_some() => DirectoryError::RefreshRequired { url },
            3 => DirectoryError::TimeLimit { url, base, entries },
            code @ (4 | 11) => DirectoryError::SizeLimit { url, base, entries, code },
            32 => DirectoryError::NoSuchBase { url, base },
            // A refresh without persistence.
            0 => DirectoryError::NotPersistent { url },
            10 => {
                let target = result.refs.first().map_or("another server".to_owned(), |first| clean(first));
                DirectoryError::Referral { url, base, target }
            }
            code => DirectoryError::Refused { url, base, result: LdapResult::new(code, &result.text) },
        }
    }

    pub(super) fn state(&self, controls: &[Control]) -> Result<SyncState, DirectoryError> {
        let control = controls.iter().find(|control| control.1.ctype == rfc4533::SYNC_STATE);
        let value = control.and_then(|control| control.1.val.as_deref());
        let read = value.ok_or("an entry has no sync state control").and_then(rfc4533::state);
        read.map_err(|problem| self.malformed(problem))
    }

    pub(super) fn info(&self, item: &ResultEntry) -> Result<Option<SyncInfo>, DirectoryError> {
        rfc4533::intermediate(&item.0).map_err(|problem| self.malformed(problem))
    }

    pub(super) fn entry(&self, item: ResultEntry) -> Result<Entry, DirectoryError> {
        ber::entry(item.0).map_err(|problem| self.malformed(problem))
    }

    pub(super) async fn send(&self, event: Event) -> Result<(), DirectoryError> {
        self.events.send(event).await.map_err(|_| DirectoryError::Abandoned)
    }

    fn malformed(&self, problem: ber::Malformed) -> DirectoryError {
        DirectoryError::MalformedEntry { url: self.url.clone(), base: self.base.clone(), problem }
    }

    fn lost(&self, problem: ServerProblem) -> DirectoryError {
        DirectoryError::Lost { url: self.url.clone(), problem }
    }
}
