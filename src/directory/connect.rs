//! One try to connect to one server: resolve, connect, TLS, bind, root DSE.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::error::{ConnectStep, DirectoryError, ServerProblem};
use super::ldap::Session;
use super::tls::Trust;
use super::{root_dse, tcp, tls};
use crate::domain::directory::{Bind, LdapUrl, SimpleBind, Tls};
use crate::domain::mapping::Entry;

/// No password of a person or a machine is longer.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// One server, one try.
pub(super) struct Attempt {
    pub(super) url: LdapUrl,
    /// Whom to trust, where the connection is to be encrypted.
    pub(super) trust: Option<Trust>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) limit: Duration,
}

impl Attempt {
    pub(super) async fn run(self) -> Result<Bound, ServerProblem> {
        let mut step = ConnectStep::Resolve;
        match tokio::time::timeout(self.limit, self.steps(&mut step)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ServerProblem::ConnectTimeout(self.limit, step)),
        }
    }

    /// Only connects, for whoever binds later.
    pub(super) async fn connect(self) -> Result<Session, ServerProblem> {
        let mut step = ConnectStep::Resolve;
        match tokio::time::timeout(self.limit, self.line(&mut step)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ServerProblem::ConnectTimeout(self.limit, step)),
        }
    }

    async fn line(&self, step: &mut ConnectStep) -> Result<Session, ServerProblem> {
        let deadline = Instant::now() + self.limit;
        let addresses = tcp::resolve(&self.url).await?;
        *step = ConnectStep::Connect;
        let socket = tcp::connect(&addresses, deadline).await?;
        *step = ConnectStep::Tls;
        self.session(socket).await
    }

    async fn steps(&self, step: &mut ConnectStep) -> Result<Bound, ServerProblem> {
        let mut session = self.line(step).await?;
        *step = ConnectStep::Bind;
        let identity = session.bind(&self.credentials).await.map_err(|problem| self.explain(problem))?;
        *step = ConnectStep::RootDse;
        let root_dse = session.entry("", &root_dse::ATTRIBUTES).await;
        let root_dse = root_dse.map_err(|problem| self.explain(problem))?;
        Ok((session, root_dse, identity))
    }

    fn explain(&self, problem: ServerProblem) -> ServerProblem {
        match &self.trust {
            Some(trust) => trust.explain_late(problem),
            None => problem,
        }
    }

    async fn session(&self, mut socket: TcpStream) -> Result<Session, ServerProblem> {
        let Some(trust) = &self.trust else { return Session::over(socket).await };
        if !self.url.is_ldaps {
            tls::start_tls(&mut socket).await?;
        }
        Session::over(trust.encrypt(&self.url, socket).await?).await
    }
}

/// A session, the root DSE, and the identity.
pub(super) type Bound = (Session, Option<Entry>, String);

/// Who the daemon is, with the password. Not `Debug`.
pub(super) enum Credentials {
    Anonymous,
    Simple { bind: SimpleBind, password: String },
    External { cert_file: PathBuf },
}

impl Credentials {
    pub(super) fn load(bind: &Bind, tls: &Tls) -> Result<Arc<Credentials>, DirectoryError> {
        let bind = match bind {
            Bind::Simple(bind) => bind,
            Bind::Anonymous => return Ok(Arc::new(Credentials::Anonymous)),
            Bind::External => {
                // Without one the server says what is missing.
                let cert_file = tls.identity.as_ref().map(|identity| identity.cert_file.clone());
                return Ok(Arc::new(Credentials::External { cert_file: cert_file.unwrap_or_default() }));
            }
        };
        let path = &bind.password_file;
        let password = read_password(path)
            .map_err(|source| DirectoryError::PasswordFile { path: path.clone(), source })?;
        if password.is_empty() {
            return Err(DirectoryError::EmptyPassword { path: path.clone() });
        }
        Ok(Arc::new(Credentials::Simple { bind: bind.clone(), password }))
    }
}

/// The password without the newline that editors add; UTF-8, as RFC 4513 section 5.1.1 wants it.
fn read_password(path: &Path) -> io::Result<String> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if std::fs::metadata(path)?.len() > MAX_PASSWORD_BYTES {
        return Err(invalid("it is too long for a password"));
    }
    let mut bytes = std::fs::read(path)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))
}
