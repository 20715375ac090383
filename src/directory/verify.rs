//! Verifies the passwords of users, by binding as them (RFC 4513 section 5.1.3).
//!
//! A few connections are kept open and used again, since a TLS handshake costs far more than a bind; each bind ends
//! the session of the one before it. What a server answers is yes, no, or no answer at all, and only the first two
//! say something about the password.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::connect::{Attempt, Credentials};
use super::error::{DirectoryError, LdapResult, ServerError, ServerProblem};
use super::guard::guarded;
use super::ldap::Session;
use super::srv;
use super::tls::Trust;
use crate::domain::directory::{LdapSource, LdapUrl};
use crate::domain::host::is_loopback;
use crate::domain::password::Password;

/// Connections of one directory at a time. A server answers a bind within milliseconds, so that these are
/// thousands of logins a second; more would only be a burden to it.
const MAX_CONNECTIONS: usize = 8;

/// A connection that was idle for longer is not trusted: servers and firewalls drop such ones.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// For each server to connect, and again to answer, so that there is time left to ask another one within the 5
/// seconds that a login has.
const SERVER_DEADLINE: Duration = Duration::from_secs(2);

/// The entry that nobody is, below the base.
const NOBODY: &str = "uid=seatkeeper-nobody";

/// The connections for one directory.
pub struct Verifier {
    source: LdapSource,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
    first_url: AtomicUsize,
}

struct Idle {
    session: Session,
    since: Instant,
}

/// A server's answer to a bind.
enum Answer {
    Right,
    Wrong,
}

impl Verifier {
    /// No connection yet.
    pub fn new(source: LdapSource) -> Verifier {
        let permits = Semaphore::new(MAX_CONNECTIONS);
        Verifier { source, permits, idle: Mutex::default(), first_url: AtomicUsize::new(0) }
    }

    /// Whether it is the password of an entry. Without a DN the password of nobody is tried, who is not there.
    pub async fn verify(&self, dn: Option<&str>, password: &Arc<Password>) -> Result<bool, DirectoryError> {
        let nobody = || format!("{NOBODY},{}", self.source.base_dn.as_str());
        let dn = dn.map_or_else(nobody, str::to_owned);
        self.bind(&dn, password).await.map(|answer| matches!(answer, Answer::Right))
    }

    async fn bind(&self, dn: &str, password: &Arc<Password>) -> Result<Answer, DirectoryError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|_| DirectoryError::Abandoned)?;
        // A kept connection may be dead without our knowing: that says nothing, and a fresh one is tried.
        while let Some(session) = self.take_idle() {
            match self.bind_on(session, dn, password).await {
                Ok(answer) => return Ok(answer),
                // A server that hangs does so on every connection.
                Err(ServerProblem::Silent(_)) => {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    self.first_url.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {}
            }
        }
        let needs_tls = self.source.tls.starttls || self.source.urls.iter().any(|url| url.is_ldaps);
        let tls = self.source.tls.clone();
        let trust = match needs_tls {
            true => tokio::task::spawn_blocking(move || Trust::load(&tls))
                .await
                .map_err(|_| DirectoryError::Abandoned)?
                .map(Some)?,
            false => None,
        };
        let (urls, mut errors) = srv::expand(&self.source.urls, SERVER_DEADLINE).await;
        let (count, first) = (urls.len(), self.first_url.load(Ordering::Relaxed));
        for at in (0..count).map(|at| first.wrapping_add(at) % count) {
            let Some(url) = urls.get(at).cloned() else { continue };
            let bound = match self.connect(url.clone(), trust.as_ref()).await {
                Ok(session) => self.bind_on(session, dn, password).await,
                Err(problem) => Err(problem),
            };
            match bound {
                Ok(answer) => {
                    self.first_url.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(problem) => errors.push(ServerError { url, problem }),
            }
        }
        Err(DirectoryError::NoServer(errors))
    }

    async fn connect(&self, url: LdapUrl, trust: Option<&Trust>) -> Result<Session, ServerProblem> {
        let encrypt = url.is_ldaps || self.source.tls.starttls;
        if !encrypt && !is_loopback(&url.host) {
            return Err(ServerProblem::NotEncrypted);
        }
        let attempt = Attempt {
            url,
            trust: trust.filter(|_| encrypt).cloned(),
            credentials: Arc::new(Credentials::Anonymous),
            limit: self.source.timeouts.connect.min(SERVER_DEADLINE),
        };
        guarded(attempt.connect()).await.unwrap_or(Err(ServerProblem::Malformed))
    }

    /// Binds; the connection is kept when the server has answered.
    async fn bind_on(
        &self,
        mut session: Session,
        dn: &str,
        password: &Arc<Password>,
    ) -> Result<Answer, ServerProblem> {
        let (dn, password) = (dn.to_owned(), Arc::clone(password));
        let binding = guarded(async move {
            let (ldap, line) = session.parts();
            let result = line.with(ldap.simple_bind(&dn, password.expose())).await?;
            Ok((session, LdapResult::new(result.rc, &result.text)))
        });
        let bound = tokio::time::timeout(SERVER_DEADLINE, binding).await;
        let bound = bound.map_err(|_| ServerProblem::Silent(SERVER_DEADLINE))?;
        let (session, result) = bound.unwrap_or(Err(ServerProblem::Malformed))?;
        let answer = answer(result)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_CONNECTIONS {
            idle.push(Idle { session, since: Instant::now() });
        }
        Ok(answer)
    }

    /// The connection that was used last; those that are idle for too long are closed.
    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < MAX_IDLE);
        idle.pop().map(|idle| idle.session)
    }
}

/// What a result code says about a password (RFC 4511 appendix A). Servers refuse a locked or expired account, or
/// one without a password, in several ways; to a client all of them look like a wrong password.
fn answer(result: LdapResult) -> Result<Answer, ServerProblem> {
    match result.code {
        0 => Ok(Answer::Right),
        // constraintViolation, noSuchObject, invalidDNSyntax, inappropriateAuthentication, invalidCredentials,
        // insufficientAccessRights, unwillingToPerform.
        19 | 32 | 34 | 48 | 49 | 50 | 53 => Ok(Answer::Wrong),
        _ => Err(ServerProblem::Unverified(result)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_results_say_something_about_a_password() {
        let said = |code| match answer(LdapResult::new(code, "")) {
            Ok(Answer::Right) => Some(true),
            Ok(Answer::Wrong) => Some(false),
            Err(_) => None,
        };
        assert_eq!(said(0), Some(true));
        for code in [19, 32, 34, 48, 49, 50, 53] {
            assert_eq!(said(code), Some(false), "{code}");
        }
        for code in [1, 2, 3, 7, 8, 10, 13, 14, 51, 52, 80, 4096] {
            assert_eq!(said(code), None, "{code}");
        }
    }
}
