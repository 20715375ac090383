//! A password on its way from a mail server to whoever can check it. It is never kept, shown or logged.

use std::fmt;

use zeroize::Zeroizing;

/// A password that may be tried: not empty, UTF-8 (RFC 4513 section 5.1.1), without NUL, of a bounded length.
/// Its memory is zeroed when it is dropped.
pub struct Password(Zeroizing<String>);

impl Password {
    /// Nobody's password is longer.
    pub const MAX_BYTES: usize = 1024;

    /// `None` for what can be nobody's password and must never reach a directory: a bind without a password
    /// succeeds there, as an anonymous one does (RFC 4513 section 5.1.2), and some servers end it at a NUL.
    pub fn parse(bytes: &[u8]) -> Option<Password> {
        if bytes.is_empty() || bytes.len() > Password::MAX_BYTES || bytes.contains(&0) {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        Some(Password(Zeroizing::new(text.to_owned())))
    }

    /// For the one call that sends or hashes it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// An Argon2id hash of a local account's password, with its salt and parameters (the PHC string format).
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Box<str>);

impl PasswordHash {
    /// Whoever made the text knows that it is one.
    pub fn new(text: &str) -> PasswordHash {
        PasswordHash(text.into())
    }

    /// For the store, and for whoever verifies a password.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_password_is_not_tried() {
        for bad in [&b""[..], b"\0", b"secret\0", b"\xff\xfe", &[b'x'; 1025]] {
            assert!(Password::parse(bad).is_none(), "{}", bad.escape_ascii());
        }
        for good in ["x", " ", "pässword", "a\nb"] {
            assert_eq!(Password::parse(good.as_bytes()).unwrap().expose(), good);
        }
    }

    #[test]
    fn it_does_not_show() {
        let password = Password::parse(b"hunter2").unwrap();
        assert_eq!(format!("{password:?}"), "Password(…)");
    }
}
