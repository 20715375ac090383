//! A connection to one of a directory's servers: TCP, TLS, bind, root DSE.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use ldap3::exop::WhoAmI;
use ldap3::result::ExopResult;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, StdStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{self, Sender};

use super::connect::{Attempt, Credentials};
use super::error::{DirectoryError, LdapResult, ServerError, ServerProblem};
use super::group;
use super::guard::guarded;
use super::relay::Relay;
use super::root_dse::{self, Server};
use super::sweep::{Job, Swept};
use super::sync_search::SyncSearch;
use super::tls::Trust;
use super::{
    Coverage, Event, Hinted, Known, Poll, adpoll, ber, changelog, contentsync, reconcile, srv, syncrepl,
};
use crate::domain::directory::{LdapSource, LdapUrl, Timeouts};
use crate::domain::group::Members;
use crate::domain::ldap_text::{Dn, Filter};
use crate::domain::mapping::Entry;

/// Asks for entries without attributes (RFC 4511 section 4.5.1.8).
const NO_ATTRIBUTES: &str = "1.1";

/// A server that was used before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastServer {
    /// Which one.
    pub url: LdapUrl,
    /// Others come first now.
    pub has_failed: bool,
}

/// A server that the daemon is bound to. Dropping it closes the connection, on which the server abandons
/// whatever it was doing for it (RFC 4511 section 5.3).
#[derive(Debug)]
pub struct Connection {
    url: LdapUrl,
    url_index: usize,
    identity: String,
    server: Server,
    timeouts: Timeouts,
    page_size: u32,
    /// Once it was asked for.
    coverage: Option<Coverage>,
    /// `None` after an error: what the server sends next is anybody's guess.
    session: Option<Session>,
}

impl Connection {
    /// [`open`](Connection::open), beginning with the server that was used last while it is still listed, or
    /// with the one after it where it has failed.
    pub async fn reopen(
        source: &LdapSource,
        last: Option<&LastServer>,
    ) -> Result<Connection, DirectoryError> {
        let first = |urls: &[LdapUrl]| {
            let last = last?;
            Some(urls.iter().position(|url| *url == last.url)? + usize::from(last.has_failed))
        };
        Connection::open_one(source, |urls| first(urls).unwrap_or(0)).await
    }

    /// Tries the servers in their order, beginning at `first_url` and wrapping around, each under a
    /// deadline of its own. If none can be used, the error has a reason for each.
    pub async fn open(source: &LdapSource, first_url: usize) -> Result<Connection, DirectoryError> {
        Connection::open_one(source, |_| first_url).await
    }

    async fn open_one(
        source: &LdapSource,
        first: impl FnOnce(&[LdapUrl]) -> usize,
    ) -> Result<Connection, DirectoryError> {
        let needs_tls = source.tls.starttls || source.urls.iter().any(|url| url.is_ldaps);
        let (tls, bind) = (source.tls.clone(), source.bind.clone());
        let read_files = move || {
            let trust = if needs_tls { Some(Trust::load(&tls)?) } else { None };
            Ok((trust, Credentials::load(&bind, &tls)?))
        };
        let (trust, credentials) =
            tokio::task::spawn_blocking(read_files).await.map_err(|_| DirectoryError::Abandoned)??;
        let (urls, mut errors) = srv::expand(&source.urls, source.timeouts.connect).await;
        let (count, first_url) = (urls.len(), first(&urls));
        for url_index in (0..count).map(|at| (first_url % count + at) % count) {
            let Some(url) = urls.get(url_index).cloned() else { continue };
            let encrypt = url.is_ldaps || source.tls.starttls;
            let attempt = Attempt {
                url: url.clone(),
                trust: trust.clone().filter(|_| encrypt),
                credentials: credentials.clone(),
                limit: source.timeouts.connect,
            };
            let problem = match guarded(attempt.run()).await {
                Ok(Ok((session, root_dse, identity))) => {
                    return Ok(Connection {
                        url,
                        url_index,
                        identity,
                        server: root_dse::server(root_dse.as_ref(), source.preset),
                        timeouts: source.timeouts,
                        page_size: source.page_size,
                        coverage: None,
                        session: Some(session),
                    });
                }
                Ok(Err(problem)) => problem,
                Err(_panicked) => ServerProblem::Malformed,
            };
            errors.push(ServerError { url, problem });
        }
        Err(DirectoryError::NoServer(errors))
    }

    /// Which of the servers it is, those of the DNS among them.
    pub fn url_index(&self) -> usize {
        self.url_index
    }

    /// The server's address.
    pub fn url(&self) -> &LdapUrl {
        &self.url
    }

    /// Who the daemon is to it: a bind DN, who the certificate stands for, or nobody.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What the server is.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Tells every entry below `base` that matches, then [`Event::EndRefresh`], in which case the
    /// connection can be used again. After an error, or when the future is dropped, it can't.
    pub async fn sweep(
        &mut self,
        base: &Dn,
        filter: &Filter,
        attributes: &[&str],
        events: &Sender<Event>,
    ) -> Result<Swept, DirectoryError> {
        let page_size = self.server.pages.then_some(self.page_size);
        self.search(base, filter, attributes, page_size, events).await
    }

    /// Searches without pages, which counts for the server's limits as content synchronization does, and
    /// reads no attributes. The error is the server's reason why it won't tell everything; after a success
    /// the connection can be used again.
    pub async fn search_at_once(&mut self, base: &Dn, filter: &Filter) -> Result<Swept, DirectoryError> {
        let (events, mut told) = mpsc::channel(1);
        let drain = async move { while told.recv().await.is_some() {} };
        let search = async {
            let events = events;
            self.search(base, filter, &[NO_ATTRIBUTES], None, &events).await
        };
        tokio::join!(search, drain).0
    }

    async fn search(
        &mut self,
        base: &Dn,
        filter: &Filter,
        attributes: &[&str],
        page_size: Option<u32>,
        events: &Sender<Event>,
    ) -> Result<Swept, DirectoryError> {
        let session = self.take_session()?;
        let job = Job {
            url: self.url.clone(),
            base: base.clone(),
            filter: filter.clone(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            page_size,
            timeouts: self.timeouts,
            events: events.clone(),
        };
        let (session, swept) = self.guard(job.run(session)).await?;
        self.session = Some(session);
        Ok(swept)
    }

    /// Synchronizes by RFC 4533: tells what changed since `cookie`, or everything without one, then
    /// [`Event::EndRefresh`], then every change as it happens. Returns only with an error, which is
    /// [`DirectoryError::RefreshRequired`] where the cookie is of no use.
    ///
    /// With `hinted`, which 389 Directory Server needs, what changed since the cookie is only a hint: the
    /// ids of everything are compared with the mirror, on a second connection. Without
    /// [`changelog`](Connection::changelog) before it, nothing is known of its changelog.
    pub async fn follow(
        mut self,
        base: &Dn,
        filter: &Filter,
        attributes: &[&str],
        cookie: Option<Vec<u8>>,
        hinted: Option<Hinted>,
        events: &Sender<Event>,
    ) -> DirectoryError {
        let session = match self.take_session() {
            Ok(session) => session,
            Err(error) => return error,
        };
        let search = SyncSearch {
            url: self.url.clone(),
            base: base.clone(),
            filter: filter.clone(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            cookie,
            timeouts: self.timeouts,
            events: events.clone(),
        };
        let outcome = match hinted {
            None => self.guard(syncrepl::Job { search }.run(session)).await,
            Some(hinted) => {
                let server = LdapSource { urls: vec![self.url.clone()], ..hinted.server };
                let hinted = Hinted { server, ..hinted };
                let (preset, coverage) =
                    (self.server.preset, self.coverage.take().unwrap_or(Coverage::Hidden));
                self.guard(contentsync::Job { search, hinted, preset, coverage }.run(session)).await
            }
        };
        match outcome {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Compares the ids of everything with the mirror: tells who is there unchanged by their ids, and what
    /// differs by its entries, but no end of a refresh. Another search must tell it, and what changed
    /// since the cookie. The error is [`DirectoryError::RefreshRequired`] where too much differs.
    pub async fn reconcile(
        &mut self,
        base: &Dn,
        filter: &Filter,
        attributes: &[&str],
        known: Known,
        events: &Sender<Event>,
    ) -> Result<(), DirectoryError> {
        let session = self.take_session()?;
        let job = reconcile::Job {
            url: self.url.clone(),
            base: base.clone(),
            filter: filter.clone(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            preset: self.server.preset,
            timeouts: self.timeouts,
            known,
            events: events.clone(),
        };
        self.session = Some(self.guard(job.run(session)).await?);
        Ok(())
    }

    /// Whether the changelog of 389 Directory Server records the changes of a base. An error is like
    /// settings that may not be read; the connection can't be used after it.
    pub async fn changelog(&mut self, base: &Dn) -> Coverage {
        let (session, limit) = (self.session.take(), self.timeouts.read);
        let read = async move {
            let mut session = session?;
            let settings = session.entry(changelog::SETTINGS, &changelog::SETTINGS_ATTRIBUTES);
            let settings = tokio::time::timeout(limit, settings).await.ok()?.ok()?;
            Some((session, settings))
        };
        let Ok(Some((session, settings))) = guarded(read).await else { return Coverage::Hidden };
        self.session = Some(session);
        let coverage = changelog::coverage(settings.as_ref(), base);
        self.coverage = Some(coverage.clone());
        coverage
    }

    /// Polls a domain controller: tells what changed since the cookie, or everything without one, then
    /// [`Event::EndRefresh`], in which case the connection can be used again. The error is
    /// [`DirectoryError::RefreshRequired`] where the cookie is of no use, and
    /// [`DirectoryError::MechanismRefused`] where another mechanism is to be tried.
    pub async fn poll(
        &mut self,
        poll: Poll,
        base: &Dn,
        filter: &Filter,
        attributes: &[&str],
        events: &Sender<Event>,
    ) -> Result<(), DirectoryError> {
        let session = self.take_session()?;
        let job = adpoll::Job {
            url: self.url.clone(),
            base: base.clone(),
            filter: filter.clone(),
            attributes: attributes.iter().map(|name| (*name).to_owned()).collect(),
            mechanism: poll.mechanism,
            cookie: poll.cookie,
            compares: poll.compares,
            page_size: self.server.pages.then_some(self.page_size),
            timeouts: self.timeouts,
            controller: self.server.controller.clone(),
            is_known: poll.is_known,
            events: events.clone(),
        };
        self.session = Some(self.guard(job.run(session)).await?);
        Ok(())
    }

    /// The members of a group and of the groups in it. After an error the connection can't be used.
    pub async fn members(&mut self, group: &Dn) -> Result<Members, DirectoryError> {
        let session = self.take_session()?;
        let job = group::Job {
            url: self.url.clone(),
            group: group.clone(),
            server: self.server.clone(),
            page_size: self.page_size,
            timeouts: self.timeouts,
        };
        let (session, members) = self.guard(job.run(session)).await?;
        self.session = Some(session);
        Ok(members)
    }

    /// The session, which comes back only after a success.
    fn take_session(&mut self) -> Result<Session, DirectoryError> {
        let unusable = || DirectoryError::Lost { url: self.url.clone(), problem: ServerProblem::Unusable };
        self.session.take().ok_or_else(unusable)
    }

    /// Runs what may panic in the library.
    async fn guard<T: Send + 'static>(
        &mut self,
        job: impl Future<Output = Result<T, DirectoryError>> + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let panicked = |_| DirectoryError::Panicked { url: self.url.clone() };
        guarded(job).await.map_err(panicked)?
    }

    pub(super) fn into_session(self) -> Option<Session> {
        self.session
    }

    /// Says good-bye to the server (RFC 4511 section 4.3), which keeps its log clean.
    pub async fn close(mut self) {
        if let Some(mut session) = self.session.take() {
            let limit = self.timeouts.connect;
            // The connection is over in any case.
            let _ = guarded(async move { session.unbind(limit).await }).await;
        }
    }
}

type Driver = Pin<Box<dyn Future<Output = Result<(), LdapError>> + Send>>;

/// The LDAP library's handle together with its driver, which is not spawned.
///
/// The library's channels are unbounded, so the socket must be read only when everything that was read
/// before has been taken: [`with`](Session::with) polls the operation first and the driver second.
pub(super) struct Session {
    pub(super) ldap: Ldap,
    line: Line,
}

/// The driver, until it ends, and what stands between it and the server.
pub(super) struct Line {
    driver: Option<Driver>,
    broken: Option<io::Error>,
    relay: Relay,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// A session on a stream to the server, through a relay.
    pub(super) async fn over(
        server: impl AsyncRead + AsyncWrite + Send + 'static,
    ) -> Result<Session, ServerProblem> {
        /// The library's word for a Unix socket, one that is connected already.
        const SOCKET: &str = "ldapi:///";
        let (relay, library) = Relay::start(server).map_err(ServerProblem::Broken)?;
        let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(library));
        let opened = LdapConnAsync::with_settings(settings, SOCKET).await;
        let (driver, ldap) = opened.map_err(|error| problem(error, None))?;
        Ok(Session { ldap, line: Line { driver: Some(Box::pin(driver.drive())), broken: None, relay } })
    }

    /// The handle and the line apart, for operations that borrow the handle.
    pub(super) fn parts(&mut self) -> (&mut Ldap, &mut Line) {
        (&mut self.ldap, &mut self.line)
    }

    /// Binds; the identity that it gives, in whatever words.
    pub(super) async fn bind(&mut self, credentials: &Credentials) -> Result<String, ServerProblem> {
        let (bind, password) = match credentials {
            Credentials::Anonymous => return Ok(String::new()),
            Credentials::External { cert_file } => return self.bind_externally(cert_file).await,
            Credentials::Simple { bind, password } => (bind, password),
        };
        let operation = self.ldap.simple_bind(bind.dn.as_str(), password);
        let result = self.line.with(operation).await?;
        match result.rc {
            0 => Ok(bind.dn.to_string()),
            49 => Err(ServerProblem::WrongPassword {
                dn: bind.dn.clone(),
                password_file: bind.password_file.clone(),
            }),
            code => {
                Err(ServerProblem::Bind { dn: bind.dn.clone(), result: LdapResult::new(code, &result.text) })
            }
        }
    }

    /// Who that is, the server knows: another certificate of the same identity leaves it as it is.
    async fn bind_externally(&mut self, cert_file: &Path) -> Result<String, ServerProblem> {
        let (ldap, line) = self.parts();
        let result = line.with(ldap.sasl_external_bind()).await?;
        if result.rc != 0 {
            let result = LdapResult::new(result.rc, &result.text);
            return Err(ServerProblem::External { cert_file: cert_file.to_owned(), result });
        }
        let ExopResult(answer, result) = line.with(ldap.extended(WhoAmI)).await?;
        let name = answer.val.filter(|_| result.rc == 0).unwrap_or_default();
        Ok(format!("external {}", String::from_utf8_lossy(&name)))
    }

    /// One entry, the root DSE being that of no name; `None` where the server hides it, which is no error.
    pub(super) async fn entry(
        &mut self,
        dn: &str,
        attributes: &[&str],
    ) -> Result<Option<Entry>, ServerProblem> {
        let (ldap, line) = self.parts();
        let search = ldap.streaming_search(dn, Scope::Base, "(objectClass=*)", attributes);
        let mut stream = line.with(search).await?;
        let mut found = None;
        while let Some(item) = line.with(stream.next()).await? {
            if !item.is_ref() && !item.is_intermediate() {
                found = Some(ber::entry(item.0).map_err(|_| ServerProblem::Malformed)?);
            }
        }
        Ok(found)
    }

    async fn unbind(&mut self, limit: Duration) {
        let farewell = async {
            // Nothing depends on it.
            let _ = self.line.with(self.ldap.unbind()).await;
            self.line.relay.finished().await;
        };
        let _ = tokio::time::timeout(limit, farewell).await;
    }
}

impl Line {
    /// Runs an operation while reading the socket only when the operation has nothing left to take.
    pub(super) async fn with<T>(
        &mut self,
        operation: impl Future<Output = Result<T, LdapError>>,
    ) -> Result<T, ServerProblem> {
        tokio::pin!(operation);
        if let Some(driver) = &mut self.driver {
            let ended = tokio::select! {
                biased;
                result = &mut operation => return result.map_err(|error| self.problem(error)),
                ended = driver => ended,
            };
            self.driver = None;
            if let Err(LdapError::Io { source }) = ended {
                self.broken = Some(source);
            }
        }
        // The driver is gone and its channels with it: what it had read is taken, then comes an error.
        operation.await.map_err(|error| self.problem(error))
    }

    /// What the relay found says more than what the library noticed of it.
    fn problem(&mut self, error: LdapError) -> ServerProblem {
        let noticed = problem(error, self.broken.take());
        self.relay.problem().unwrap_or(noticed)
    }
}

/// What an error of the LDAP library means. A closed channel means that the connection is gone; `broken`
/// is the reason, which is none when the server closed it in order.
fn problem(error: LdapError, broken: Option<io::Error>) -> ServerProblem {
    match (error, broken) {
        (LdapError::Io { source }, _) | (_, Some(source)) => {
            // The library's own word for bytes that it can't read.
            if source.kind() == io::ErrorKind::Other {
                ServerProblem::Malformed
            } else {
                ServerProblem::Broken(source)
            }
        }
        _ => ServerProblem::Closed,
    }
}
