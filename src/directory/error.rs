//! What can go wrong with a directory, in sentences for the person who has to act.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use super::frame::Violation;
use crate::domain::course::Mechanism;
use crate::domain::directory::LdapUrl;
use crate::domain::ldap_text::Dn;

/// A directory could not be read completely. Nothing may be removed because of it.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Each server was tried.
    #[error("no server could be used: {}", ServerError::list(.0))]
    NoServer(Vec<ServerError>),
    /// The configured authorities can't be read.
    #[error("cannot use ca_file {}: {problem}", path.display())]
    CaFile {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The daemon's own certificate or key can't be used.
    #[error("cannot use {key} {}: {problem}", path.display())]
    IdentityFile {
        /// `cert_file` or `key_file`.
        key: &'static str,
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Encryption without anybody to trust.
    #[error("this system has no certificate authorities; name the directory's own in ca_file")]
    NoSystemRoots,
    /// The TLS library refuses its configuration.
    #[error("cannot set up TLS")]
    TlsSetup(#[source] rustls::Error),
    /// The file with the bind password can't be read.
    #[error("cannot read bind_password_file {}", path.display())]
    PasswordFile {
        /// As configured.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A bind without a password succeeds everywhere and proves nothing (RFC 4513 section 5.1.2).
    #[error("bind_password_file {} is empty; leave bind_dn out for an anonymous bind", path.display())]
    EmptyPassword {
        /// As configured.
        path: PathBuf,
    },
    /// The connection was lost, or an earlier error ended it.
    #[error("{url}: {problem}")]
    Lost {
        /// The server.
        url: LdapUrl,
        /// How.
        problem: ServerProblem,
    },
    /// The cookie is too old, or newer than the server's data, as after a restore (RFC 4533 section 3.3.1).
    #[error("{url}: the server cannot go on where we stopped: everything has to be read again")]
    RefreshRequired {
        /// The server.
        url: LdapUrl,
    },
    /// 389 Directory Server says nothing when the search behind a refresh fails, whatever the reason is.
    #[error(
        "{url}: the server fell silent in the refresh of content synchronization of {base} after {entries} \
         entries, while it answers everything else"
    )]
    SilentRefresh {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// Entries told before.
        entries: u64,
    },
    /// The server shows a mechanism and does not work with it here.
    #[error("{url}: the server refuses {}: {problem}", mechanism.as_str())]
    MechanismRefused {
        /// The server.
        url: LdapUrl,
        /// What it refuses.
        mechanism: Mechanism,
        /// Its reason.
        problem: String,
    },
    /// noSuchObject (RFC 4511 appendix A): deleted, mistyped or hidden, and never an empty directory.
    #[error("{url}: the base {base} does not exist, or the bind user may not see it")]
    NoSuchBase {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
    },
    /// sizeLimitExceeded or adminLimitExceeded.
    #[error(
        "{url}: the server stopped after {entries} entries of {base} (result {code}): \
         lift its size limits for the bind user"
    )]
    SizeLimit {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// Entries told before.
        entries: u64,
        /// 4 or 11.
        code: u32,
    },
    /// timeLimitExceeded.
    #[error("{url}: the server's time limit ended the search of {base} after {entries} entries")]
    TimeLimit {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// Entries told before.
        entries: u64,
    },
    /// The server does not hold the base, and names another that does.
    #[error("{url}: the server does not hold {base} and refers to {target}")]
    Referral {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// Where it points, or "another server".
        target: String,
    },
    /// Any other result than success.
    #[error("{url}: the search of {base} failed: {result}")]
    Refused {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// The server's answer.
        result: LdapResult,
    },
    /// Content synchronization was to go on with changes (RFC 4533 section 3.4), and success ended it.
    #[error("{url}: the server ended a search that was to stay open, as if nothing would ever change")]
    NotPersistent {
        /// The server.
        url: LdapUrl,
    },
    /// The page's result has no paging control, so that nobody knows whether more would follow.
    #[error("{url}: the search of {base} was answered without a valid paging control (RFC 2696): {problem}")]
    Paging {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An entry that is no entry (RFC 4511 section 4.5.2), or a control or message of a mechanism that is none.
    #[error("{url}: the search of {base} was answered with what is malformed: {problem}")]
    MalformedEntry {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A configured filter that the LDAP library can't encode.
    #[error("the filter {filter} cannot be used")]
    Filter {
        /// As configured.
        filter: String,
    },
    /// `required_group` names nothing. Never a group without members.
    #[error(
        "{url}: required_group {group} does not exist, or the bind user may not see it; \
         nobody is removed because of that"
    )]
    NoSuchGroup {
        /// The server.
        url: LdapUrl,
        /// As configured.
        group: Dn,
    },
    /// `required_group` names something else.
    #[error(
        "{url}: required_group {group} is not a group, or the bind user may not read its objectClass and members"
    )]
    NotAGroup {
        /// The server.
        url: LdapUrl,
        /// As configured.
        group: Dn,
    },
    /// A bound of this program.
    #[error("{url}: required_group {group} has too many members, or too many groups are in it or beside it")]
    GroupTooLarge {
        /// The server.
        url: LdapUrl,
        /// As configured.
        group: Dn,
    },
    /// Its list was another one each time that it was read.
    #[error("{url}: the members of {group} change faster than they can be read")]
    GroupChanges {
        /// The server.
        url: LdapUrl,
        /// The group.
        group: Dn,
    },
    /// The sweep as a whole took too long.
    #[error("{url}: the sweep of {base} took longer than {limit:?}")]
    SweepTimeout {
        /// The server.
        url: LdapUrl,
        /// The search base.
        base: Dn,
        /// The configured limit.
        limit: Duration,
    },
    /// The receiver of the events is gone.
    #[error("the sweep was abandoned")]
    Abandoned,
    /// The LDAP library panicked on what the server sent.
    #[error("{url}: the server sent what is no LDAP message")]
    Panicked {
        /// The server.
        url: LdapUrl,
    },
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is not LDIF with entries.
    #[error("{}:{line}: {mistake}", path.display())]
    Ldif {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong there.
        mistake: super::ldif::Mistake,
    },
    /// Somebody wrote to the file meanwhile.
    #[error("{} changed while it was read; write a new file and rename it over the old one", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// The thread that reads the file ended before it was done.
    #[error("reading {} was interrupted", path.display())]
    FileInterrupted {
        /// The file.
        path: PathBuf,
    },
}

/// Why one server could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct ServerError {
    /// The server.
    pub url: LdapUrl,
    /// The reason.
    pub problem: ServerProblem,
}

impl ServerError {
    fn list(errors: &[ServerError]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// What is wrong with a connection to a server.
///
/// The causes are part of the text, since several of these are listed in one line.
#[derive(Debug, thiserror::Error)]
pub enum ServerProblem {
    /// Connect deadline.
    #[error("no answer within {0:?} to {1}")]
    ConnectTimeout(Duration, ConnectStep),
    /// Read deadline.
    #[error("the server was silent for {0:?}")]
    Silent(Duration),
    /// The servers of a domain.
    #[error("the SRV records {records} lead to no server: {problem}")]
    Srv {
        /// Their name.
        records: String,
        /// Why.
        problem: super::srv::SrvProblem,
    },
    /// Name resolution.
    #[error("the host name cannot be resolved: {0}")]
    Resolve(io::Error),
    /// Name resolution without a result.
    #[error("the host name has no address")]
    NoAddress,
    /// TCP.
    #[error("cannot connect to {0}: {1}")]
    Tcp(SocketAddr, io::Error),
    /// A chain that ends at nobody whom we trust.
    #[error("the server's certificate is not signed by an authority {}", trusted_by(.ca_file.as_ref()))]
    UnknownAuthority {
        /// As configured; `None` trusts the system's.
        ca_file: Option<PathBuf>,
    },
    /// Another host's certificate.
    #[error("the server's certificate is for {} and not for {host}", names(.presented))]
    WrongName {
        /// The host in the URL.
        host: String,
        /// The certificate's own names.
        presented: Vec<String>,
    },
    /// Any other failure of the handshake.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The daemon's certificate is not accepted, which not every server says in so many words.
    #[error(
        "the server ended the connection when it was shown the certificate in cert_file {} ({how}): \
         it may be from an authority that the server does not trust",
        cert_file.display()
    )]
    ClientCertificate {
        /// As configured.
        cert_file: PathBuf,
        /// An alert (RFC 8446 section 6), or an end without one.
        how: String,
    },
    /// SASL EXTERNAL refused.
    #[error("the server refused to bind by the certificate in cert_file {}: {result}", cert_file.display())]
    External {
        /// As configured.
        cert_file: PathBuf,
        /// The server's answer.
        result: LdapResult,
    },
    /// The host in the URL is neither a DNS name nor an address.
    #[error("the host is not a name that a certificate can be for")]
    TlsHost,
    /// StartTLS refused.
    #[error("StartTLS was refused: {0}")]
    StartTls(LdapResult),
    /// invalidCredentials.
    #[error(
        "the server refused the password (result 49): check bind_dn {dn} and the password in {}",
        password_file.display()
    )]
    WrongPassword {
        /// As configured.
        dn: Dn,
        /// As configured.
        password_file: PathBuf,
    },
    /// Any other refusal of the bind.
    #[error("the server refused to bind as {dn}: {result}")]
    Bind {
        /// As configured.
        dn: Dn,
        /// The server's answer.
        result: LdapResult,
    },
    /// A person's password would go over the network as it is.
    #[error("passwords of users are sent over TLS alone: use ldaps:// or starttls")]
    NotEncrypted,
    /// Neither yes nor no.
    #[error("the server could not verify a password: {0}")]
    Unverified(LdapResult),
    /// A clean close. Never a success.
    #[error("the server closed the connection")]
    Closed,
    /// An unclean one.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// A notice of disconnection (RFC 4511 section 4.4.1).
    #[error("the server ended the connection: {0}")]
    Disconnected(LdapResult),
    /// Bytes that are no LDAP message.
    #[error("the server sent what is no LDAP message")]
    Malformed,
    /// A message of a shape or size that is not taken.
    #[error("the server sent {0}")]
    Violation(Violation),
    /// An earlier error ended this connection.
    #[error("the connection has already failed")]
    Unusable,
}

/// How far a connection came before its deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectStep {
    /// DNS.
    Resolve,
    /// TCP.
    Connect,
    /// StartTLS or TLS.
    Tls,
    /// Simple bind.
    Bind,
    /// The search of the root DSE.
    RootDse,
}

impl fmt::Display for ConnectStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectStep::Resolve => "the look-up of the host name",
            ConnectStep::Connect => "the connection attempt",
            ConnectStep::Tls => "the TLS handshake",
            ConnectStep::Bind => "the bind",
            ConnectStep::RootDse => "the search of the root DSE",
        })
    }
}

/// A server's answer that is not success (RFC 4511 section 4.1.9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LdapResult {
    /// The result code.
    pub code: u32,
    /// The server's own words, cleaned and cut.
    pub message: String,
}

/// Enough of a diagnostic message to understand it.
const MAX_MESSAGE_CHARS: usize = 200;

impl LdapResult {
    pub(super) fn new(code: u32, message: &str) -> LdapResult {
        LdapResult { code, message: clean(message) }
    }

    fn name(&self) -> Option<&'static str> {
        Some(match self.code {
            1 => "operationsError",
            2 => "protocolError",
            3 => "timeLimitExceeded",
            4 => "sizeLimitExceeded",
            7 => "authMethodNotSupported",
            8 => "strongerAuthRequired",
            11 => "adminLimitExceeded",
            12 => "unavailableCriticalExtension",
            13 => "confidentialityRequired",
            18 => "inappropriateMatching",
            32 => "noSuchObject",
            34 => "invalidDNSyntax",
            48 => "inappropriateAuthentication",
            49 => "invalidCredentials",
            50 => "insufficientAccessRights",
            51 => "busy",
            52 => "unavailable",
            53 => "unwillingToPerform",
            80 => "other",
            _ => return None,
        })
    }
}

impl fmt::Display for LdapResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "result {}", self.code)?;
        if let Some(name) = self.name() {
            write!(f, " ({name})")?;
        }
        if !self.message.is_empty() {
            write!(f, ", {:?}", self.message)?;
        }
        Ok(())
    }
}

/// Text from a server, for one line of a log: without control characters, cut.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect::<String>().trim().to_owned()
}

fn trusted_by(ca_file: Option<&PathBuf>) -> String {
    match ca_file {
        Some(path) => format!("in ca_file {}", path.display()),
        None => "that this system trusts; name the directory's own in ca_file".to_owned(),
    }
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() { "no host name at all".to_owned() } else { presented.join(", ") }
}
