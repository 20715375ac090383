//! The paged sweep: every entry of the base, in pages (RFC 2696), by hand.
//!
//! The library's own paging can end early without an error when it is cancelled, and its parsers of
//! controls panic on bad input.

use std::future::Future;
use std::sync::Arc;

use ldap3::controls::{Control, RawControl};
use ldap3::{ResultEntry, Scope, SearchStream};
use tokio::sync::mpsc::{self, Sender};

use super::batch::Batch;
use super::error::{DirectoryError, LdapResult, ServerProblem, clean};
use super::ldap::Session;
use super::{Authority, Event, ber};
use crate::domain::directory::{LdapUrl, Timeouts};
use crate::domain::ldap_text::{Dn, Filter};

/// RFC 2696.
const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";

/// noSuchObject (RFC 4511 appendix A).
const NO_SUCH_OBJECT: u32 = 32;

/// Batches between a sweep and whoever takes them apart.
const QUEUE: usize = 2;

/// What a complete sweep saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Entries told.
    pub entries: u64,
    /// Continuation references (RFC 4511 section 4.5.3) that were skipped: they point to other servers.
    pub references: u64,
    /// Searches that it took.
    pub pages: u64,
}

/// One sweep, with everything that it needs.
pub(super) struct Job {
    pub(super) url: LdapUrl,
    pub(super) base: Dn,
    pub(super) filter: Filter,
    pub(super) attributes: Arc<[String]>,
    /// `None` where the server does not page: then one search tells all.
    pub(super) page_size: Option<u32>,
    pub(super) timeouts: Timeouts,
    pub(super) events: Sender<Event>,
}

type Stream = SearchStream<'static, String, Arc<[String]>>;

impl Job {
    /// Sends [`Event::EndRefresh`] as the last thing, and gives the session back.
    pub(super) async fn run(self, session: Session) -> Result<(Session, Swept), DirectoryError> {
        // Else the library would report it as if the connection were at fault.
        if ldap3::parse_filter(self.filter.as_str()).is_err() {
            return Err(DirectoryError::Filter { filter: self.filter.to_string() });
        }
        let limit = self.timeouts.sweep;
        match tokio::time::timeout(limit, self.pages(session)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(DirectoryError::SweepTimeout { url: self.url.clone(), base: self.base.clone(), limit })
            }
        }
    }

    /// Runs with `take` between the sweep and whoever listens: what it makes of each event goes on, and its error
    /// ends the sweep.
    pub(super) async fn through<E: IntoIterator<Item = Event>>(
        mut self,
        session: Session,
        mut take: impl FnMut(Event) -> Result<E, DirectoryError>,
    ) -> Result<(Session, Swept), DirectoryError> {
        let (events, mut told) = mpsc::channel(QUEUE);
        let onward = std::mem::replace(&mut self.events, events);
        // It owns the receiver, so that the sweep ends when nobody listens any more.
        let taking = async move {
            while let Some(event) = told.recv().await {
                for event in take(event)? {
                    onward.send(event).await.map_err(|_| DirectoryError::Abandoned)?;
                }
            }
            Ok(())
        };
        let (swept, taken): (_, Result<(), DirectoryError>) = tokio::join!(self.run(session), taking);
        // In this order: the error of who took is why the sweep could not tell.
        taken.and(swept)
    }

    async fn pages(&self, mut session: Session) -> Result<(Session, Swept), DirectoryError> {
        let mut swept = Swept::default();
        let mut batch = Batch::default();
        let mut stream = self.request(&mut session, &[]).await?;
        loop {
            swept.pages += 1;
            while let Some(item) = self.next(&mut session, &mut stream).await? {
                if item.is_ref() {
                    swept.references += 1;
                } else if !item.is_intermediate() {
                    let entry = ber::entry(item.0).map_err(|problem| DirectoryError::MalformedEntry {
                        url: self.url.clone(),
                        base: self.base.clone(),
                        problem,
                    })?;
                    swept.entries += 1;
                    if batch.push(entry) {
                        batch.flush(&self.events).await?;
                    }
                }
            }
            let cookie = match self.page_end(&mut stream, &swept).await {
                Err(DirectoryError::Paging { .. }) if self.lacks_base(&mut session).await => {
                    let (url, base) = (self.url.clone(), self.base.clone());
                    return Err(DirectoryError::NoSuchBase { url, base });
                }
                cookie => cookie?,
            };
            if cookie.is_empty() {
                break;
            }
            // Asked for before the rest of this page is handed on: the server works meanwhile.
            stream = self.request(&mut session, &cookie).await?;
        }
        batch.flush(&self.events).await?;
        self.events
            .send(Event::EndRefresh(Authority::Everything, None))
            .await
            .map_err(|_| DirectoryError::Abandoned)?;
        Ok((session, swept))
    }

    async fn request(&self, session: &mut Session, cookie: &[u8]) -> Result<Stream, DirectoryError> {
        let (ldap, line) = session.parts();
        if let Some(page_size) = self.page_size {
            ldap.with_controls(paging(page_size, cookie));
        }
        let search = ldap.streaming_search(
            self.base.as_str(),
            Scope::Subtree,
            self.filter.as_str(),
            self.attributes.clone(),
        );
        self.begun(line.with(search)).await
    }

    /// 389 Directory Server calls it a success when it is asked for pages of a base that does not exist, and
    /// sends no control. Asked for the base itself, it says so.
    async fn lacks_base(&self, session: &mut Session) -> bool {
        let (ldap, line) = session.parts();
        let (base, attributes) = (self.base.as_str(), self.attributes.clone());
        let search = ldap.streaming_search(base, Scope::Base, "(objectClass=*)", attributes);
        let Ok(mut stream) = self.begun(line.with(search)).await else { return false };
        while let Ok(Some(_)) = self.next(session, &mut stream).await {}
        stream.finish().await.rc == NO_SUCH_OBJECT
    }

    async fn begun(
        &self,
        search: impl Future<Output = Result<Stream, ServerProblem>>,
    ) -> Result<Stream, DirectoryError> {
        match tokio::time::timeout(self.timeouts.read, search).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(problem)) => Err(self.lost(problem)),
            Err(_) => Err(self.lost(ServerProblem::Silent(self.timeouts.read))),
        }
    }

    async fn next(
        &self,
        session: &mut Session,
        stream: &mut Stream,
    ) -> Result<Option<ResultEntry>, DirectoryError> {
        let (_, line) = session.parts();
        match tokio::time::timeout(self.timeouts.read, line.with(stream.next())).await {
            Ok(Ok(item)) => Ok(item),
            Ok(Err(problem)) => Err(self.lost(problem)),
            Err(_) => Err(self.lost(ServerProblem::Silent(self.timeouts.read))),
        }
    }

    /// The cookie for the next page, empty after the last; anything but success is an error.
    async fn page_end(&self, stream: &mut Stream, swept: &Swept) -> Result<Vec<u8>, DirectoryError> {
        let result = stream.finish().await;
        let (url, base, entries) = (self.url.clone(), self.base.clone(), swept.entries);
        match result.rc {
            0 => {}
            3 => return Err(DirectoryError::TimeLimit { url, base, entries }),
            code @ (4 | 11) => return Err(DirectoryError::SizeLimit { url, base, entries, code }),
            10 => {
                let target = result.refs.first().map_or("another server".to_owned(), |first| clean(first));
                return Err(DirectoryError::Referral { url, base, target });
            }
            NO_SUCH_OBJECT => return Err(DirectoryError::NoSuchBase { url, base }),
            code => {
                let result = LdapResult::new(code, &result.text);
                return Err(DirectoryError::Refused { url, base, result });
            }
        }
        if self.page_size.is_none() {
            return Ok(Vec::new());
        }
        cookie(&result.ctrls).map_err(|problem| DirectoryError::Paging { url, base, problem })
    }

    fn lost(&self, problem: ServerProblem) -> DirectoryError {
        DirectoryError::Lost { url: self.url.clone(), problem }
    }
}

/// Asks for a page; critical, since a server that ignored it might stop where it likes.
pub(super) fn paging(page_size: u32, cookie: &[u8]) -> RawControl {
    let val = Some(ber::paging_request(page_size, cookie));
    RawControl { ctype: PAGED_RESULTS.to_owned(), crit: true, val }
}

/// The cookie for the next page, empty after the last.
pub(super) fn cookie(controls: &[Control]) -> Result<Vec<u8>, ber::Malformed> {
    let control = controls.iter().find(|control| control.1.ctype == PAGED_RESULTS);
    let value = control.ok_or("it is missing")?.1.val.as_deref().ok_or("it has no value")?;
    ber::paging_cookie(value)
}
