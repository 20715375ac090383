//! A signed licence as text: a JWS in compact form (RFC 7515), EdDSA with Ed25519 (RFC 8037) and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;

use super::claims::{self, ClaimsError};
use crate::domain::license::{License, PublicKey};

/// A licence with a hundred components is some 8 kB.
pub const MAX_BYTES: usize = 16 * 1024;

/// Longer key ids are cut where they are shown.
const MAX_SHOWN: usize = 64;

/// Why a token is no licence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// More than [`MAX_BYTES`].
    #[error("the licence is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// No three parts of base64url.
    #[error("this is no signed licence, or not the whole of it: {0}")]
    Malformed(&'static str),
    /// `alg` is another one.
    #[error("the licence is signed with {0:?}, and only EdDSA is accepted")]
    Algorithm(String),
    /// `crit` (RFC 7515 section 4.1.11).
    #[error("the licence has a critical header that this version does not know: install a newer version")]
    CriticalHeader,
    /// No key is configured.
    #[error("no key is trusted: write the vendor's into trusted_keys of [license]")]
    NoKeys,
    /// `kid` is nobody's.
    #[error("the licence is signed with the key {0:?}, which is not among the trusted keys")]
    UnknownKey(String),
    /// No trusted key has made the signature.
    #[error("the signature is wrong: the licence was changed, or signed with a key that is not trusted")]
    Signature,
    /// The payload is signed, but no licence.
    #[error("the licence is signed, but {0}")]
    Claims(#[from] ClaimsError),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

/// Verifies a token and reads what it says. Whether it may be installed here and now is another question:
/// [`License::check`].
pub fn verify(token: &str, trusted: &[PublicKey]) -> Result<License, TokenError> {
    Ok(claims::parse(&open(token, trusted)?)?)
}

/// The payload of a token with a good signature.
pub(super) fn open(token: &str, trusted: &[PublicKey]) -> Result<Vec<u8>, TokenError> {
    let token = token.trim();
    if token.len() > MAX_BYTES {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("it has no dots"))?;
    let (header, payload) =
        signed.split_once('.').ok_or(TokenError::Malformed("it has two parts, not three"))?;
    let decode = |part: &str, what| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed(what));
    let header = decode(header, "its header is no base64url")?;
    let header: Header = serde_json::from_slice(&header)
        .map_err(|_| TokenError::Malformed("its header is not that of a JSON Web Token"))?;
    let payload = decode(payload, "its payload is no base64url")?;
    let signature = decode(signature, "its signature is no base64url")?;
    if header.alg != "EdDSA" {
        return Err(TokenError::Algorithm(cut(&header.alg)));
    }
    if header.crit.is_some() {
        return Err(TokenError::CriticalHeader);
    }
    if trusted.is_empty() {
        return Err(TokenError::NoKeys);
    }
    let candidates: Vec<&PublicKey> = match &header.kid {
        None => trusted.iter().collect(),
        Some(kid) => match trusted.iter().find(|key| key_id(key) == *kid) {
            Some(key) => vec![key],
            None => return Err(TokenError::UnknownKey(cut(kid))),
        },
    };
    if candidates.iter().any(|key| is_signed(signed.as_bytes(), &signature, key)) {
        Ok(payload)
    } else {
        Err(TokenError::Signature)
    }
}

/// Whether the key has made the signature (RFC 8032 section 5.1.7).
pub(super) fn is_signed(message: &[u8], signature: &[u8], key: &PublicKey) -> bool {
    let signature = URL_SAFE_NO_PAD.encode(signature);
    let key = DecodingKey::from_ed_der(&key.0);
    crypto::verify(&signature, message, &key, Algorithm::EdDSA).unwrap_or(false)
}

/// A key's id: its thumbprint (RFC 7638, RFC 8037 appendix A.3).
pub fn key_id(key: &PublicKey) -> String {
    let x = URL_SAFE_NO_PAD.encode(key.0);
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, jwk.as_bytes());
    URL_SAFE_NO_PAD.encode(digest)
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests;
