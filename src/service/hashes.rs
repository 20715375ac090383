//! Passwords of local and imported accounts: Argon2id (RFC 9106), with the parameters that OWASP recommends, which
//! are the library's own: 19 MiB, two passes.

use std::sync::{Arc, LazyLock};

use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use crate::domain::password::{Password, PasswordHash};

/// Each takes 19 MiB and a core for some 20 ms; more at once would only slow each other down.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// Somebody's who is not there, so that an unknown name takes as long as a wrong password.
static NOBODY: LazyLock<Option<PasswordHash>> =
    LazyLock::new(|| Password::parse(b"nobody").and_then(|password| make(&password)));

/// The hash could not be made or verified: no memory, or no chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a password could not be hashed")]
pub struct HashError;

fn make(password: &Password) -> Option<PasswordHash> {
    let hash = Argon2::default().hash_password(password.expose().as_bytes()).ok()?;
    Some(PasswordHash::new(&hash.to_string()))
}

/// Hashes a password under a fresh salt.
pub(super) async fn hash(password: Arc<Password>) -> Result<PasswordHash, HashError> {
    alone(move || make(&password)).await?.ok_or(HashError)
}

/// Whether it is the password of a hash; without one it is nobody's.
pub(super) async fn verify(hash: Option<PasswordHash>, password: Arc<Password>) -> Result<bool, HashError> {
    alone(move || {
        let (hash, is_somebody) = match &hash {
            Some(hash) => (hash, true),
            None => (NOBODY.as_ref().ok_or(HashError)?, false),
        };
        let verified = Argon2::default().verify_password(password.expose().as_bytes(), hash.as_str());
        Ok(verified.is_ok() && is_somebody)
    })
    .await?
}

async fn alone<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
    // The semaphore is never closed.
    let _permit = AT_ONCE.acquire().await.map_err(|_| HashError)?;
    tokio::task::spawn_blocking(work).await.map_err(|_| HashError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_are_salted_and_verified() {
        let password = |text: &str| Arc::new(Password::parse(text.as_bytes()).unwrap());
        let one = hash(password("secret")).await.unwrap();
        let other = hash(password("secret")).await.unwrap();
        assert!(one.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.as_str());
        assert_ne!(one, other);
        assert_eq!(verify(Some(one.clone()), password("secret")).await, Ok(true));
        assert_eq!(verify(Some(one), password("Secret")).await, Ok(false));
        assert_eq!(verify(None, password("nobody")).await, Ok(false));
        assert_eq!(verify(Some(PasswordHash::new("damaged")), password("x")).await, Ok(false));
        assert_eq!(format!("{other:?}"), "PasswordHash(…)");
    }
}
