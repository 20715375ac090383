//! Whom to trust, and what a failed handshake means.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ldap3::LdapError;
use rustls::client::WantsClientCert;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use super::error::{DirectoryError, ServerProblem};
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

    /// The TLS configuration for one server.
    pub(super) fn config(&self, url: &LdapUrl) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let Ok(address) = url.host.parse::<Ipv6Addr>() else {
            return self.identify(builder.with_root_certificates(self.roots.clone()));
        };
        let verifier = verify_address(address, self.roots.clone(), provider)?;
        let mut config = self.identify(builder.dangerous().with_custom_certificate_verifier(verifier))?;
        config.enable_sni = false;
        Ok(config)
    }

    fn identify(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, rustls::Error> {
        match &self.identity {
            Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()),
            None => Ok(builder.with_no_client_auth()),
        }
    }

    /// Explains a failed connection set-up.
    pub(super) fn explain(&self, url: &LdapUrl, error: LdapError) -> ServerProblem {
        match error {
            LdapError::Io { source } => match source.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::InvalidCertificate(problem)) => self.certificate(url, problem),
                Some(rustls::Error::AlertReceived(alert)) => self.refused(*alert),
                Some(error) => ServerProblem::Tls(error.to_string()),
                None => ServerProblem::Tls(source.to_string()),
            },
            LdapError::Rustls { source } => ServerProblem::Tls(source.to_string()),
            LdapError::DNSName { .. } => ServerProblem::TlsHost,
            other => super::ldap::problem(other, None),
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

/// The LDAP library can't name an IPv6 address to the TLS library, which takes it without the brackets
/// of the URL. This checks the certificate for the address, whatever name the library asks for.
#[derive(Debug)]
struct VerifyAddress {
    address: ServerName<'static>,
    verifier: Arc<WebPkiServerVerifier>,
}

/// The name in the URL that the LDAP library gets instead (RFC 6761 section 6.4).
pub(super) const ADDRESS_PLACEHOLDER: &str = "address.invalid";

fn verify_address(
    address: Ipv6Addr,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<VerifyAddress>, rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Arc::new(VerifyAddress { address: ServerName::from(std::net::IpAddr::V6(address)), verifier }))
}

impl ServerCertVerifier for VerifyAddress {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.verify_server_cert(end_entity, intermediates, &self.address, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
