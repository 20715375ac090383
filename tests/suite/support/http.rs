//! A small HTTP/1.1 client over TCP or a Unix socket, which can also speak raw bytes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::PATIENCE;

/// Where a server listens, as `status` shows it.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// `HOST:PORT` or `unix:/path`.
    pub(crate) fn parse(bind: &str) -> Address {
        match bind.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => Address::Tcp(bind.to_owned()),
        }
    }

    /// A request on a connection of its own.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        Client::connect(self)?.ask(method, path, body)
    }

    /// `POST /v1/check` on a connection of its own: the decision, and whether it lets in.
    #[track_caller]
    pub(crate) fn check(&self, user: &str) -> (String, bool) {
        Client::connect(self).unwrap().check(user)
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that is kept alive.
pub(crate) struct Client {
    stream: BufReader<Stream>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case, then a colon and the value.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body; panics where it is no JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    }

    /// Checks that this is an error as RFC 9457 has it; the sentence in it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["type"], "about:blank", "{body}");
        body["detail"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub(crate) fn connect(address: &Address) -> io::Result<Client> {
        let stream = match address {
            Address::Tcp(bind) => {
                let stream = TcpStream::connect(bind)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
        };
        Ok(Client { stream: BufReader::new(stream) })
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        self.send(request(method, path, body).as_bytes())?;
        self.answer()
    }

    /// `POST /v1/check`: the decision, and whether it lets in.
    #[track_caller]
    pub(crate) fn check(&mut self, user: &str) -> (String, bool) {
        self.try_check(user).expect("the daemon answers")
    }

    /// The same where the daemon may die meanwhile; no answer is an error.
    pub(crate) fn try_check(&mut self, user: &str) -> io::Result<(String, bool)> {
        let answer = self.ask("POST", "/v1/check", &check_body(user))?;
        assert_eq!(answer.status, 200, "{user}: {}", String::from_utf8_lossy(&answer.body));
        let verdict = answer.json();
        Ok((verdict["decision"].as_str().unwrap().to_owned(), verdict["allow"].as_bool().unwrap()))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Whether the server closed the connection, after nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// One line of an answer, without its end.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Reads one answer.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let status = self.line()?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = code.ok_or_else(|| io::Error::other(format!("no status line: {status:?}")))?;
        let mut answer = Answer { status, headers: Vec::new(), body: Vec::new() };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            answer.headers.push(format!("{}:{value}", name.to_lowercase()));
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                self.read_into(&mut answer.body, size)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            self.read_into(&mut answer.body, length)?;
        }
        Ok(answer)
    }

    fn read_into(&mut self, body: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        body.append(&mut bytes);
        Ok(())
    }
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: seatkeeper\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The body of a check.
pub(crate) fn check_body(user: &str) -> String {
    serde_json::json!({ "user": user, "service": "imap" }).to_string()
}
