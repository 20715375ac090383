//! HTTP/1.1 over one kept connection, blocking and small, so that the client costs little beside the daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

/// A kept connection.
pub(crate) struct Client<S> {
    stream: BufReader<S>,
    body: Vec<u8>,
}

impl Client<TcpStream> {
    /// `127.0.0.1:8460`.
    pub(crate) fn tcp(address: &str) -> io::Result<Client<TcpStream>> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream), body: Vec::new() })
    }
}

impl Client<UnixStream> {
    pub(crate) fn unix(path: &Path) -> io::Result<Client<UnixStream>> {
        Ok(Client { stream: BufReader::new(UnixStream::connect(path)?), body: Vec::new() })
    }
}

impl<S: Read> Client<S>
where
    for<'a> &'a S: Write,
{
    /// The status code of an answer; its body is in `self.body`.
    fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<u16> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        self.stream.get_ref().write_all(request.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<u16> {
        let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (mut status, mut length) = (None, 0);
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(broken());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if text.is_empty() {
                break;
            }
            if let Some(value) = text.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| broken())?;
            } else if status.is_none() {
                status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body)?;
        status.ok_or_else(broken)
    }

    /// An answer that is a success, as JSON.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Value> {
        let status = self.request("GET", path, "")?;
        assert_eq!(status, 200, "GET {path}: {}", String::from_utf8_lossy(&self.body));
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// Whether `/readyz` says yes.
    pub(crate) fn is_ready(&mut self) -> io::Result<bool> {
        Ok(self.request("GET", "/readyz", "")? == 200)
    }

    /// What `/v1/check` answers, as it is.
    pub(crate) fn check_raw(&mut self, user: &str, operation: &str) -> io::Result<&[u8]> {
        let body = format!(r#"{{"user":"{user}","service":"imap","operation":"{operation}"}}"#);
        let status = self.request("POST", "/v1/check", &body)?;
        assert_eq!(status, 200, "/v1/check of {user}: {}", String::from_utf8_lossy(&self.body));
        Ok(&self.body)
    }

    /// The `decision` of `/v1/check`.
    pub(crate) fn check(&mut self, user: &str, operation: &str) -> io::Result<String> {
        let answer: Value = serde_json::from_slice(self.check_raw(user, operation)?)?;
        Ok(answer["decision"].as_str().unwrap_or_default().to_owned())
    }
}
