//! Who the daemon is to a server that asks for a certificate.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::ber;
use super::error::{DirectoryError, ServerProblem};
use crate::domain::directory::TlsIdentity;

/// A chain of a few certificates, or a key, is a hundredth of this.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A certificate with its chain and key. Not `Debug`.
pub(super) struct Identity {
    pub(super) cert_file: PathBuf,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both files. Blocks.
    pub(super) fn load(files: &TlsIdentity) -> Result<Identity, DirectoryError> {
        let TlsIdentity { cert_file, key_file } = files;
        let pem = read(cert_file, "cert_file")?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(cert_file, "cert_file", &format!("it is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(wrong(cert_file, "cert_file", "it has no certificate in PEM"));
        }
        let pem = read(key_file, "key_file")?;
        // Its own errors may quote the file.
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
            wrong(key_file, "key_file", "it has no private key in PEM, or one with a passphrase")
        })?;
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &aws_lc_rs::default_provider()) {
            Ok(_) => {
                if let Some(problem) = chain.first().and_then(|own| invalid_now(own, Timestamp::now())) {
                    return Err(wrong(cert_file, "cert_file", &problem));
                }
                Ok(Identity { cert_file: cert_file.clone(), chain, key })
            }
            Err(rustls::Error::InconsistentKeys(_)) => {
                let problem = format!("it is not the key of the certificate in {}", cert_file.display());
                Err(wrong(key_file, "key_file", &problem))
            }
            Err(error) => Err(wrong(key_file, "key_file", &error.to_string())),
        }
    }
}

impl Identity {
    /// The server does not want it.
    pub(super) fn refused(&self, how: String) -> ServerProblem {
        ServerProblem::ClientCertificate { cert_file: self.cert_file.clone(), how }
    }
}

/// Why a certificate is of no use at this time. Servers end the connection and don't tell.
fn invalid_now(certificate: &[u8], now: Timestamp) -> Option<String> {
    let [begins, ends] = validity(certificate).ok()?;
    let now = now.strftime("%Y%m%d%H%M%S").to_string();
    let at = |time: &str| {
        let part = |from, to| time.get(from..to).unwrap_or_default().to_owned();
        let (date, clock) = ([part(0, 4), part(4, 6), part(6, 8)], [part(8, 10), part(10, 12), part(12, 14)]);
        format!("{} {} UTC", date.join("-"), clock.join(":"))
    };
    if now > ends {
        Some(format!("it expired at {}", at(&ends)))
    } else if now < begins {
        Some(format!("it is not valid before {}", at(&begins)))
    } else {
        None
    }
}

/// `validity` of a certificate (RFC 5280 section 4.1.2.5), as `YYYYMMDDhhmmss`.
fn validity(certificate: &[u8]) -> Result<[String; 2], ber::Malformed> {
    const VERSION: u8 = 0xa0;
    let (certificate, _) = ber::element(certificate, ber::SEQUENCE)?;
    let (to_be_signed, _) = ber::element(certificate, ber::SEQUENCE)?;
    let (_version, rest) = ber::optional(to_be_signed, VERSION)?;
    let (_serial, rest) = ber::element(rest, ber::INTEGER)?;
    let (_algorithm, rest) = ber::element(rest, ber::SEQUENCE)?;
    let (_issuer, rest) = ber::element(rest, ber::SEQUENCE)?;
    let (validity, _) = ber::element(rest, ber::SEQUENCE)?;
    let (begins, rest) = time(validity)?;
    Ok([begins, time(rest)?.0])
}

/// `UTCTime`, whose years before 50 are after 2000, or `GeneralizedTime`.
fn time(bytes: &[u8]) -> Result<(String, &[u8]), ber::Malformed> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let (short, rest) = ber::optional(bytes, UTC_TIME)?;
    let (text, rest) = match short {
        Some(text) => (text, rest),
        None => ber::element(bytes, GENERALIZED_TIME)?,
    };
    let text = std::str::from_utf8(text).map_err(|_| "a time is not text")?.trim_end_matches('Z');
    let century = match short {
        Some([b'0'..=b'4', ..]) => "20",
        Some(_) => "19",
        None => "",
    };
    Ok((format!("{century}{text}"), rest))
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, DirectoryError> {
    let problem = |error: std::io::Error| wrong(path, key, &error.to_string());
    if std::fs::metadata(path).map_err(problem)?.len() > MAX_FILE_BYTES {
        return Err(wrong(path, key, &format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read(path).map_err(problem)
}

fn wrong(path: &Path, key: &'static str, problem: &str) -> DirectoryError {
    DirectoryError::IdentityFile { key, path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_has_its_time() {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1999, 12, 31);
        params.not_after = date_time_ymd(2051, 2, 3);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let at = |time: &str| invalid_now(certificate.der(), time.parse().unwrap());
        assert_eq!(at("2026-11-24T00:00:00Z"), None);
        assert_eq!(at("2051-02-03T00:00:01Z").as_deref(), Some("it expired at 2051-02-03 00:00:00 UTC"));
        let early = at("1999-12-30T23:59:59Z");
        assert_eq!(early.as_deref(), Some("it is not valid before 1999-12-31 00:00:00 UTC"));
        let der = certificate.der();
        (0..der.len().min(200)).for_each(|end| drop(validity(&der[..end])));
    }
}
