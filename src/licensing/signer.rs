//! The vendor's key: made, kept in a file, and used to sign licences.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::claims::Claims;
use super::time::{Nonce, TimeClaims};
use super::token::key_id;
use crate::domain::license::{License, PublicKey};

/// A key in PEM has 119 bytes.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Why there is no key, or nothing signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The key's file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It holds something else.
    #[error("{}: this is no Ed25519 private key in PKCS#8 PEM; make one with seatkeeper license keygen", .0.display())]
    NoKey(PathBuf),
    /// The cryptography failed.
    #[error("cannot make a key: the system has no randomness")]
    Generate,
    /// The cryptography failed.
    #[error("cannot sign: {0}")]
    Sign(jsonwebtoken::errors::Error),
}

/// A private key. Nothing shows it.
#[derive(Clone)]
pub struct Signer {
    key: EncodingKey,
    public: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Signer {
    /// Makes a key and writes it into a new file that only its owner can read.
    pub fn generate(path: &Path) -> Result<Signer, SignerError> {
        let document = Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| SignerError::Generate)?;
        let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
        pem += &STANDARD.encode(document.as_ref());
        pem += "\n-----END PRIVATE KEY-----\n";
        let signer = Signer::from_pem(pem.as_bytes()).ok_or(SignerError::Generate)?;
        let file_error = |error| SignerError::File { path: path.to_owned(), error };
        // An existing file is never replaced: with the key in it, every licence signed by it would be lost.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(file_error)?;
        file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(file_error)?;
        Ok(signer)
    }

    /// Reads a key from its file.
    pub fn load(path: &Path) -> Result<Signer, SignerError> {
        use std::io::Read as _;
        let file_error = |error| SignerError::File { path: path.to_owned(), error };
        let mut pem = Vec::new();
        let file = std::fs::File::open(path).map_err(file_error)?;
        file.take(MAX_KEY_FILE).read_to_end(&mut pem).map_err(file_error)?;
        Signer::from_pem(&pem).ok_or_else(|| SignerError::NoKey(path.to_owned()))
    }

    fn from_pem(pem: &[u8]) -> Option<Signer> {
        let key = EncodingKey::from_ed_pem(pem).ok()?;
        let pair = Ed25519KeyPair::from_pkcs8(key.as_bytes()).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Signer { key, public })
    }

    /// What verifiers need.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    #[cfg(test)]
    pub(super) fn encoding_key(&self) -> &EncodingKey {
        &self.key
    }

    /// Signs a licence. The same licence gives the same token each time.
    pub fn sign(&self, license: &License) -> Result<String, SignerError> {
        self.encode(&Claims::from(license))
    }

    /// Signs what time it is, for whoever sent this nonce.
    pub fn sign_time(&self, nonce: &Nonce, now: Timestamp) -> Result<String, SignerError> {
        self.encode(&TimeClaims { nonce: nonce.as_str().to_owned(), time: now.as_second() })
    }

    fn encode(&self, claims: &impl Serialize) -> Result<String, SignerError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key_id(&self.public));
        jsonwebtoken::encode(&header, claims, &self.key).map_err(SignerError::Sign)
    }
}
