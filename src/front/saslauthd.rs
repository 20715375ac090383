//! `[[listen.saslauthd]]`: the protocol of Cyrus' saslauthd, which Cyrus IMAP, Postfix and Sendmail ask through
//! libsasl2 (saslauthd(8), `ipc_unix.c`).
//!
//! A request is four fields, user, password, service and realm, each with a length of two bytes, big-endian; the
//! answer is one such field, `OK` or `NO` with a reason. One request a connection. Clients wait without end, and
//! take a connection that ends without an answer for an outage, which is what we mean by it.

use std::sync::Arc;

use crate::domain::password::Password;
use crate::net::dialogue::{Dialogue, Garbled, Next};
use crate::service::passwords::{Attempt, Authenticator};

/// A name is at most 320 bytes, a password 1024.
const MAX_FIELD: usize = 1024;

/// Newer clients send a fifth field, the client's address, at once with the others.
const FIELDS: usize = 4;

const MAX_REQUEST: usize = FIELDS * (2 + MAX_FIELD);

/// User, password, service and realm.
type Fields<'a> = [&'a [u8]; FIELDS];

/// The fields of a request, and where it ends; `None` until it is whole.
fn fields(buffer: &[u8]) -> Result<Option<(Fields<'_>, usize)>, Garbled> {
    let mut found = [&[][..]; FIELDS];
    let mut at = 0;
    for field in &mut found {
        let Some(&[high, low]) = buffer.get(at..at + 2) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_FIELD {
            return Err(Garbled);
        }
        let Some(bytes) = buffer.get(at + 2..at + 2 + length) else { return Ok(None) };
        *field = bytes;
        at += 2 + length;
    }
    Ok(Some((found, at)))
}

/// The whole name: libsasl2 takes the domain of `alice@example.org` for a realm.
fn user(login: &[u8], realm: &[u8]) -> String {
    let (login, realm) = (String::from_utf8_lossy(login), String::from_utf8_lossy(realm));
    if realm.is_empty() || login.contains('@') { login.into_owned() } else { format!("{login}@{realm}") }
}

fn render(allowed: bool, message: &str, answer: &mut Vec<u8>) {
    let text = if allowed { "OK".to_owned() } else { format!("NO {message}") };
    // Messages are far shorter.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    answer.extend_from_slice(&length.to_be_bytes());
    answer.extend_from_slice(text.as_bytes());
}

/// A connection of libsasl2.
pub struct Saslauthd(Authenticator);

impl Saslauthd {
    /// Takes one request.
    pub fn new(authenticator: Authenticator) -> Saslauthd {
        Saslauthd(authenticator)
    }
}

impl Dialogue for Saslauthd {
    const MAX_REQUEST: usize = MAX_REQUEST;

    fn cut(&self, buffer: &[u8]) -> Result<Option<usize>, Garbled> {
        Ok(fields(buffer)?.map(|(_, end)| end))
    }

    async fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Next {
        let Ok(Some(([login, password, service, realm], _))) = fields(request) else { return Next::End };
        let (user, service) = (user(login, realm), String::from_utf8_lossy(service));
        let attempt = Attempt {
            user: &user,
            password: Password::parse(password).map(Arc::new),
            service: Some(&service),
            client: None,
        };
        match self.0.log_in(&attempt).await {
            Ok(login) => render(login.allowed().is_some(), login.message(), answer),
            Err(error) => super::log_auth_outage(&error),
        }
        Next::End
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(parts: &[&[u8]]) -> Vec<u8> {
        let length = |part: &[u8]| u16::try_from(part.len()).unwrap().to_be_bytes();
        parts.iter().flat_map(|part| [&length(part)[..], part].concat()).collect()
    }

    #[test]
    fn requests_are_cut_into_fields() {
        let whole = request(&[b"alice", b"se\0cret", b"imap", b""]);
        let parts = [&b"alice"[..], b"se\0cret", b"imap", b""];
        assert_eq!(fields(&whole), Ok(Some((parts, whole.len()))));
        let more = [whole.clone(), request(&[b"192.0.2.7"])].concat();
        assert_eq!(fields(&more), Ok(Some((parts, whole.len()))));
        for end in 0..whole.len() {
            assert_eq!(fields(&whole[..end]), Ok(None));
        }
        assert_eq!(fields(&request(&[&[b'x'; 1024][..]; 4])).unwrap().unwrap().1, MAX_REQUEST);
        assert_eq!(fields(b"\x04\x01"), Err(Garbled));
        assert_eq!(fields(b"\0\x01a\xff\xff"), Err(Garbled));
    }

    #[test]
    fn the_realm_is_the_domain() {
        assert_eq!(user(b"alice", b""), "alice");
        assert_eq!(user(b"alice", b"example.org"), "alice@example.org");
        assert_eq!(user(b"alice@example.org", b"mail.example.net"), "alice@example.org");
    }

    #[test]
    fn answers_have_their_length() {
        let mut answer = Vec::new();
        render(true, "A seat is held.", &mut answer);
        render(false, "No.", &mut answer);
        assert_eq!(answer, b"\0\x02OK\0\x06NO No.");
    }
}
