//! The time as the license server signs it, in answer to a number that is used once.
//!
//! A token like a license's (RFC 7515), signed by the same key, with the claims `nonce` and `time` and no others: neither
//! can be taken for the other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::token::{self, TokenError};
use crate::domain::license::PublicKey;

/// Random bytes: no answer of another time has the same.
const NONCE_BYTES: usize = 16;

/// What a server signs is what it was sent: no more than this.
const MAX_NONCE: usize = 64;

/// Why a token does not say what time it is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TimeError {
    /// The token or its signature.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The signature is good, but it is about something else.
    #[error("it is not a signed time")]
    NotATime,
    /// Signed for another question.
    #[error("it answers another question")]
    OtherNonce,
}

/// A number that is used once: base64url, at most 64 characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nonce(String);

impl Nonce {
    /// A new one; `None` where the system has no randomness.
    pub fn random() -> Option<Nonce> {
        let mut bytes = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Nonce(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// What a client sent; `None` where it is none.
    pub fn parse(text: &str) -> Option<Nonce> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (!text.is_empty() && text.len() <= MAX_NONCE && text.bytes().all(is_good))
            .then(|| Nonce(text.to_owned()))
    }

    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The claims.
#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeClaims {
    pub(super) nonce: String,
    /// Seconds since 1970.
    pub(super) time: i64,
}

/// The time that one of the trusted keys has signed for this nonce.
pub fn verify(token: &str, trusted: &[PublicKey], nonce: &Nonce) -> Result<Timestamp, TimeError> {
    let payload = token::open(token, trusted)?;
    let claims: TimeClaims = serde_json::from_slice(&payload).map_err(|_| TimeError::NotATime)?;
    if claims.nonce != nonce.0 {
        return Err(TimeError::OtherNonce);
    }
    Timestamp::from_second(claims.time).map_err(|_| TimeError::NotATime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::terms;
    use crate::licensing::signer::Signer;

    #[test]
    fn only_an_answer_to_our_own_question_counts() {
        let folder = tempfile::tempdir().unwrap();
        let signer = |name: &str| Signer::generate(&folder.path().join(name)).unwrap();
        let (vendor, stranger) = (signer("a"), signer("b"));
        let trusted = [vendor.public_key().clone()];
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let (ours, other) = (Nonce::random().unwrap(), Nonce::random().unwrap());
        let token = vendor.sign_time(&ours, at).unwrap();
        assert_eq!(verify(&token, &trusted, &ours), Ok(at));
        assert_eq!(verify(&token, &trusted, &other), Err(TimeError::OtherNonce));
        let forged = stranger.sign_time(&ours, at).unwrap();
        assert!(matches!(verify(&forged, &trusted, &ours), Err(TimeError::Token(TokenError::UnknownKey(_)))));
        let license = vendor.sign(&terms::blank("L-1", None)).unwrap();
        assert_eq!(verify(&license, &trusted, &ours), Err(TimeError::NotATime));
        assert!(matches!(token::verify(&token, &trusted), Err(TokenError::Claims(_))));
    }

    #[test]
    fn a_nonce_is_short_and_plain() {
        assert!(Nonce::parse(Nonce::random().unwrap().as_str()).is_some());
        for bad in ["", "a b", "a\"b", "ä", &"x".repeat(65)] {
            assert_eq!(Nonce::parse(bad), None, "{bad}");
        }
    }
}
