//! TLS: whom to trust, StartTLS, the handshake, and what its failure means.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ber;
use super::error::{DirectoryError, LdapResult, ServerProblem};
use super::identity::Identity;
use crate::domain::directory::{LdapUrl, Tls};

/// A bundle of every public authority is a quarter of this.
const MAX_CA_FILE_BYTES: u64 = 1024 * 1024;

/// Certificates list more names than a person wants to read.
const MAX_NAMES_SHOWN: usize = 10;

/// The authorities of one directory, read once for each attempt to connect.
#[derive(Clone)]
pub(super) struct Trust {
    roots: Arc<RootCertStore>,
    ca_file: Option<PathBuf>,
    identity: Option<Arc<Identity>>,
}

impl Trust {
    /// Reads the authorities. Blocks.
    pub(super) fn load(tls: &Tls) -> Result<Trust, DirectoryError> {
        let roots = match &tls.ca_file {
            Some(path) => own_roots(path)?,
            None => system_roots()?,
        };
        let identity = tls.identity.as_ref().map(|files| Identity::load(files).map(Arc::new)).transpose()?;
        Ok(Trust { roots: Arc::new(roots), ca_file: tls.ca_file.clone(), identity })
    }

    /// Encrypts a connection to a server, whose certificate must be for the host in the URL.
    pub(super) async fn encrypt(
        &self,
        url: &LdapUrl,
        socket: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ServerProblem> {
        let config = self.config().map_err(|error| ServerProblem::Tls(error.to_string()))?;
        let host = ServerName::try_from(url.host.clone()).map_err(|_| ServerProblem::TlsHost)?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(host, socket);
        connecting.await.map_err(|error| self.explain(url, &error))
    }

    /// The TLS configuration.
    fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(self.roots.clone());
        match &self.identity {
            Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()),
            None => Ok(builder.with_no_client_auth()),
        }
    }

    /// Explains a failed handshake.
    fn explain(&self, url: &LdapUrl, error: &io::Error) -> ServerProblem {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(problem)) => self.certificate(url, problem),
            Some(rustls::Error::AlertReceived(alert)) => self.refused(*alert),
            Some(error) => ServerProblem::Tls(error.to_string()),
            None => ServerProblem::Tls(error.to_string()),
        }
    }

    /// A server may look at the certificate only after the handshake: then it breaks the connection.
    pub(super) fn explain_late(&self, problem: ServerProblem) -> ServerProblem {
        let alert = match &problem {
            ServerProblem::Broken(source) => match source.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
                _ => None,
            },
            ServerProblem::Closed => None,
            _ => return problem,
        };
        match (&self.identity, alert) {
            (None, None) => problem,
            (_, Some(alert)) => self.refused(alert),
            (Some(identity), None) => identity.refused("without a word".to_owned()),
        }
    }

    fn refused(&self, alert: AlertDescription) -> ServerProblem {
        // By its name in RFC 8446 section 6, as the TLS library spells it.
        let how = super::error::clean(&format!("TLS alert {alert:?}"));
        match &self.identity {
            Some(identity) => identity.refused(how),
            None => ServerProblem::Tls(format!("the server ended it: {how}")),
        }
    }

    fn certificate(&self, url: &LdapUrl, problem: &CertificateError) -> ServerProblem {
        match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                ServerProblem::UnknownAuthority { ca_file: self.ca_file.clone() }
            }
            CertificateError::NotValidForNameContext { presented, .. } => ServerProblem::WrongName {
                host: url.host.clone(),
                presented: presented.iter().take(MAX_NAMES_SHOWN).map(|name| plain(name)).collect(),
            },
            CertificateError::NotValidForName => {
                ServerProblem::WrongName { host: url.host.clone(), presented: Vec::new() }
            }
            other => ServerProblem::Tls(format!("the server's certificate: {other}")),
        }
    }
}

/// `DnsName("ldap.example.org")` without its wrapping, which is how the TLS library shows names.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    super::error::clean(inner.trim_matches('"'))
}

fn own_roots(path: &Path) -> Result<RootCertStore, DirectoryError> {
    let problem = |problem: String| DirectoryError::CaFile { path: path.to_owned(), problem };
    let size = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?.len();
    if size > MAX_CA_FILE_BYTES {
        return Err(problem(format!("it is larger than {MAX_CA_FILE_BYTES} bytes")));
    }
    let pem = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| problem(format!("it is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| problem(format!("it has a bad certificate: {error}")))?;
    }
    if roots.is_empty() {
        return Err(problem("it has no certificate in PEM".to_owned()));
    }
    Ok(roots)
}

/// Unreadable ones are left out: one broken file in a system's store must not stop every directory.
fn system_roots() -> Result<RootCertStore, DirectoryError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(DirectoryError::NoSystemRoots) } else { Ok(roots) }
}

/// No answer to StartTLS is longer: a result with a few words.
const MAX_STARTTLS_ANSWER: usize = 16 * 1024;

/// Asks the server to go on encrypted (RFC 4511 section 4.14). Nothing that it sends in the clear after its
/// answer is taken for more than the beginning of the handshake.
pub(super) async fn start_tls(socket: &mut TcpStream) -> Result<(), ServerProblem> {
    // LDAPMessage { messageID 1, extendedReq [APPLICATION 23] { requestName [0] 1.3.6.1.4.1.1466.20037 } }
    const REQUEST: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ServerProblem::Closed,
        _ => ServerProblem::Broken(error),
    };
    socket.write_all(REQUEST).await.map_err(broken)?;
    let answer = read_answer(socket).await.map_err(broken)?.ok_or(ServerProblem::Malformed)?;
    match starttls_result(&answer) {
        Ok(LdapResult { code: 0, .. }) => Ok(()),
        Ok(result) => Err(ServerProblem::StartTls(result)),
        Err(_) => Err(ServerProblem::Malformed),
    }
}

/// One message to its last byte and no byte more: its content, `None` where it is none or too long.
async fn read_answer(socket: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 2];
    socket.read_exact(&mut head).await?;
    let mut length = usize::from(head[1]);
    if length >= 0x80 {
        let mut bytes = [0; size_of::<u32>()];
        let Some(bytes) = bytes.get_mut(..length & 0x7f) else { return Ok(None) };
        socket.read_exact(bytes).await?;
        length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    }
    if head[0] != ber::SEQUENCE || length > MAX_STARTTLS_ANSWER {
        return Ok(None);
    }
    let mut content = vec![0; length];
    socket.read_exact(&mut content).await?;
    Ok(Some(content))
}

/// What a server answered to StartTLS, or told on its own.
fn starttls_result(message: &[u8]) -> Result<LdapResult, ber::Malformed> {
    let (_id, content) = ber::element(message, ber::INTEGER)?;
    ber::extended_result(content).map(|(result, _)| result)
}
