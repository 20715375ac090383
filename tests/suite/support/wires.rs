//! Every question that can be asked about a user, in the raw bytes of its protocol, and every answer in a form that
//! has room for nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::Value;

use super::PATIENCE;

pub(crate) const WRONG: &str = "The user name or the password is wrong.";
pub(crate) const NOBODY: &str = "There is no mail user by this name.";

/// What LOGIN is asked for: `Username:` and `Password:`.
pub(crate) const LOGIN_PROMPTS: [&str; 2] = ["CONT\t1\tVXNlcm5hbWU6", "CONT\t1\tUGFzc3dvcmQ6"];

/// What the listeners need beside their `bind`.
pub(crate) const LISTENERS: [(&str, &str); 7] = [
    ("http", ""),
    ("dovecot_policy", ""),
    ("postfix_policy", ""),
    ("socketmap", ""),
    ("dovecot_auth", ""),
    ("saslauthd", ""),
    ("nginx_auth", "backends.imap = \"127.0.0.1:143\"\n"),
];

/// One kind of question.
pub(crate) struct Wire {
    pub(crate) name: &'static str,
    /// Of the listener.
    pub(crate) kind: &'static str,
    /// The question about a user with a password, as a mail server would write it. Where an address is asked for, the
    /// user is made one of example.org.
    pub(crate) request: fn(user: &[u8], password: &[u8]) -> Vec<u8>,
    /// What is answered about a holder, by the compared name without its domain.
    pub(crate) welcome: fn(user: &str) -> Vec<String>,
    /// What is answered about nobody, by the name as it was sent.
    pub(crate) unknown: fn(user: &[u8]) -> Vec<String>,
    /// Whether a user without a seat takes one.
    pub(crate) takes_seat: bool,
    pub(crate) has_password: bool,
    /// A user's name of so many bytes is more than the protocol takes, and this says so; [`Wire::read`] of nothing
    /// where the connection just ends.
    pub(crate) too_long: (usize, &'static [&'static str]),
}

/// Of every listener, and of every way to ask it that has code of its own.
pub(crate) const WIRES: [Wire; 13] = [
    Wire {
        name: "/v1/check",
        kind: "http",
        request: |user, _| check(user, "login"),
        welcome: held,
        unknown: |user| refused("unknown_user", NOBODY, user),
        takes_seat: true,
        has_password: false,
        too_long: (HTTP_MOST, &["413 problem"]),
    },
    Wire {
        name: "/v1/check for a delivery",
        kind: "http",
        request: |user, _| check(user, "delivery"),
        welcome: held,
        unknown: |user| refused("unknown_user", NOBODY, user),
        takes_seat: true,
        has_password: false,
        too_long: (HTTP_MOST, &["413 problem"]),
    },
    Wire {
        name: "/v1/check as a probe",
        kind: "http",
        request: |user, _| check(user, "probe"),
        welcome: held,
        unknown: |user| refused("unknown_user", NOBODY, user),
        takes_seat: false,
        has_password: false,
        too_long: (HTTP_MOST, &["413 problem"]),
    },
    Wire {
        name: "/v1/authenticate",
        kind: "http",
        request: |user, password| {
            let (user, password) = (json_string(user), json_string(password));
            let body = [b"{\"user\":", &user[..], b",\"password\":", &password, b",\"service\":\"imap\"}"];
            post("/v1/authenticate", &body.concat())
        },
        welcome: held,
        unknown: |user| refused("wrong_password", WRONG, user),
        takes_seat: true,
        has_password: true,
        too_long: (HTTP_MOST, &["413 problem"]),
    },
    Wire {
        name: "/v1/forward-auth",
        kind: "http",
        request: |user, password| {
            let credentials = STANDARD.encode([user, b":", password].concat());
            format!("GET /v1/forward-auth HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n")
                .into_bytes()
        },
        welcome: |user| vec![format!("200 remote-user: {user}@example.org")],
        unknown: |_| vec![format!("401 www-authenticate: Basic realm=\"Mail\", charset=\"UTF-8\" {WRONG}\n")],
        takes_seat: true,
        has_password: true,
        too_long: (HTTP_MOST, &["431"]),
    },
    Wire {
        name: "dovecot_policy",
        kind: "dovecot_policy",
        request: |user, _| {
            let body = [b"{\"user\":", &json_string(user)[..], b",\"protocol\":\"imap\"}"].concat();
            post("/?command=allow", &body)
        },
        welcome: |_| vec![r#"200 {"msg":"","status":0}"#.to_owned()],
        unknown: |user| of_json(user, format!("200 {{\"msg\":\"{NOBODY}\",\"status\":-1}}")),
        takes_seat: true,
        has_password: false,
        too_long: (HTTP_MOST, &["413 problem"]),
    },
    Wire {
        name: "postfix_policy, a login",
        kind: "postfix_policy",
        request: |user, _| policy(&[b"recipient=friend@example.com\nsasl_username=", user]),
        welcome: |_| vec!["action=DUNNO".to_owned()],
        unknown: |_| vec![format!("action=550 5.7.1 {NOBODY}")],
        takes_seat: true,
        has_password: false,
        too_long: (65_536, &[]),
    },
    Wire {
        name: "postfix_policy, a recipient",
        kind: "postfix_policy",
        request: |user, _| policy(&[b"sender=friend@example.com\nrecipient=", user, b"@example.org"]),
        welcome: |_| vec!["action=DUNNO".to_owned()],
        unknown: |_| vec![format!("action=550 5.1.1 {NOBODY}")],
        takes_seat: true,
        has_password: false,
        too_long: (65_536, &[]),
    },
    Wire {
        name: "socketmap",
        kind: "socketmap",
        request: |user, _| {
            let text = [b"mailboxes ", user, b"@example.org"].concat();
            [text.len().to_string().as_bytes(), b":", &text, b","].concat()
        },
        welcome: |user| vec![format!("OK example.org/{user}/")],
        unknown: |_| vec!["NOTFOUND ".to_owned()],
        takes_seat: false,
        has_password: false,
        too_long: (16_384, &[]),
    },
    Wire {
        name: "dovecot_auth, PLAIN",
        kind: "dovecot_auth",
        request: |user, password| {
            let response = STANDARD.encode([b"\0", user, b"\0", password].concat());
            format!("{HANDSHAKE}AUTH\t1\tPLAIN\tservice=imap\tresp={response}\n").into_bytes()
        },
        welcome: |user| vec![format!("OK\t1\tuser={user}@example.org")],
        // A NUL is where the password begins.
        unknown: |user| vec![failed(user.split(|byte| *byte == 0).next().unwrap())],
        takes_seat: true,
        has_password: true,
        too_long: (8192, &[]),
    },
    Wire {
        name: "dovecot_auth, LOGIN",
        kind: "dovecot_auth",
        request: |user, password| {
            let [user, password] = [user, password].map(|text| STANDARD.encode(text));
            format!("{HANDSHAKE}AUTH\t1\tLOGIN\tservice=imap\nCONT\t1\t{user}\nCONT\t1\t{password}\n")
                .into_bytes()
        },
        welcome: |user| prompted(format!("OK\t1\tuser={user}@example.org")),
        unknown: |user| prompted(failed(user)),
        takes_seat: true,
        has_password: true,
        too_long: (8192, &[LOGIN_PROMPTS[0]]),
    },
    Wire {
        name: "saslauthd",
        kind: "saslauthd",
        request: |user, password| {
            let field = |text: &[u8]| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat();
            [user, password, b"imap", b"example.org"].into_iter().flat_map(field).collect()
        },
        welcome: |_| vec!["OK".to_owned()],
        unknown: |_| vec![format!("NO {WRONG}")],
        takes_seat: true,
        has_password: true,
        too_long: (1025, &[]),
    },
    Wire {
        name: "nginx_auth",
        kind: "nginx_auth",
        request: |user, password| {
            let [user, password] = [user, password].map(|text| percent_encode(text, NON_ALPHANUMERIC));
            format!(
                "GET /auth HTTP/1.1\r\nHost: x\r\nAuth-Method: plain\r\nAuth-User: {user}\r\n\
                 Auth-Pass: {password}\r\nAuth-Protocol: imap\r\n\r\n"
            )
            .into_bytes()
        },
        welcome: |_| vec!["200 auth-port: 143, auth-server: 127.0.0.1, auth-status: OK".to_owned()],
        unknown: |_| vec![format!("200 auth-status: [AUTHENTICATIONFAILED] {WRONG}, auth-wait: 1")],
        takes_seat: true,
        has_password: true,
        too_long: (HTTP_MOST, &["431"]),
    },
];

/// `net::http::MAX_BODY` and `MAX_HEAD`.
const HTTP_MOST: usize = 16 * 1024;

const HANDSHAKE: &str = "VERSION\t1\t1\nCPID\t77\n";

fn policy(parts: &[&[u8]]) -> Vec<u8> {
    [&b"request=smtpd_access_policy\nprotocol_state=RCPT\n"[..], &parts.concat(), b"\n\n"].concat()
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// What is no text can only be written as it is, which is no JSON.
fn json_string(text: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(text) {
        Ok(text) => serde_json::to_vec(text).unwrap(),
        Err(_) => [b"\"", text, b"\""].concat(),
    }
}

fn check(user: &[u8], operation: &str) -> Vec<u8> {
    let (user, operation) = (json_string(user), format!("\"{operation}\"}}"));
    post("/v1/check", &[b"{\"user\":", &user[..], b",\"operation\":", operation.as_bytes()].concat())
}

fn held(user: &str) -> Vec<String> {
    let verdict = serde_json::json!({
        "allow": true, "decision": "held", "message": "A seat is held.", "user": format!("{user}@example.org")
    });
    vec![format!("200 {verdict}")]
}

/// How [`Wire::read`] tells a refusal, without the name.
fn refused(decision: &str, message: &str, user: &[u8]) -> Vec<String> {
    let verdict = serde_json::json!({ "allow": false, "decision": decision, "message": message });
    of_json(user, format!("200 {verdict}"))
}

fn of_json(user: &[u8], answer: String) -> Vec<String> {
    let is_text = std::str::from_utf8(user).is_ok();
    vec![if is_text { answer } else { "400 problem".to_owned() }]
}

/// A name that is said back has nothing in it that could begin a field or a line (Dovecot's `strescape.c`).
fn failed(user: &[u8]) -> String {
    let mut shown = String::new();
    for c in String::from_utf8_lossy(user).chars() {
        match c {
            '\0' => shown.push_str("\x010"),
            '\x01' => shown.push_str("\x011"),
            '\t' => shown.push_str("\x01t"),
            '\r' => shown.push_str("\x01r"),
            '\n' => shown.push_str("\x01n"),
            c => shown.push(c),
        }
    }
    format!("FAIL\t1\tuser={shown}\treason={WRONG}")
}

fn prompted(last: String) -> Vec<String> {
    LOGIN_PROMPTS.iter().map(|prompt| (*prompt).to_owned()).chain([last]).collect()
}

impl Wire {
    pub(crate) fn is_http(&self) -> bool {
        matches!(self.kind, "http" | "dovecot_policy" | "nginx_auth")
    }

    /// Whether the protocol has a way to send such a name.
    pub(crate) fn can_carry(&self, user: &[u8]) -> bool {
        self.kind != "postfix_policy" || !user.contains(&b'\n')
    }

    /// The answers in a stream, without what is the same in all of them. Whatever is none is one of its own, with a
    /// question mark.
    pub(crate) fn read(&self, stream: &[u8]) -> Vec<String> {
        let mut rest = stream;
        if self.kind == "dovecot_auth" {
            rest = rest.split_at(find(rest, b"\nDONE\n").expect("a greeting") + 6).1;
        }
        let mut answers = Vec::new();
        while !rest.is_empty() {
            let Some((answer, length)) = self.read_one(rest) else {
                answers.push(format!("? {}", String::from_utf8_lossy(rest)));
                break;
            };
            answers.push(answer);
            rest = &rest[length..];
        }
        answers
    }

    /// The first answer, and how many bytes it has.
    fn read_one(&self, stream: &[u8]) -> Option<(String, usize)> {
        let text =
            |range: std::ops::Range<usize>| Some(String::from_utf8_lossy(stream.get(range)?).into_owned());
        match self.kind {
            "postfix_policy" => {
                let end = find(stream, b"\n\n")?;
                Some((text(0..end)?, end + 2))
            }
            "socketmap" => {
                let colon = find(stream, b":")?;
                let end = colon + 1 + text(0..colon)?.parse::<usize>().ok()?;
                (stream.get(end) == Some(&b',')).then_some((text(colon + 1..end)?, end + 1))
            }
            "dovecot_auth" => {
                let end = find(stream, b"\n")?;
                Some((text(0..end)?, end + 1))
            }
            "saslauthd" => {
                let end = 2 + usize::from(u16::from_be_bytes([*stream.first()?, *stream.get(1)?]));
                Some((text(2..end)?, end))
            }
            _ => {
                let body = find(stream, b"\r\n\r\n")? + 4;
                let head = text(0..body)?;
                let (status, headers) = head.trim_end().split_once("\r\n")?;
                let (version, status) = status.split_once(' ')?;
                let mut headers: Vec<String> = headers.split("\r\n").map(str::to_owned).collect();
                headers.sort();
                let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name));
                let end = body + header("content-length: ")?.parse::<usize>().ok()?;
                let said = match header("content-type: ") {
                    Some("application/problem+json") => "problem".to_owned(),
                    Some("application/json") => without_user(stream.get(body..end)?),
                    _ => text(body..end)?,
                };
                let plain = ["connection: ", "content-length: ", "content-type: ", "date: "];
                headers.retain(|line| !plain.iter().any(|name| line.starts_with(name)));
                let parts = [status.split(' ').next()?, &headers.join(", "), &said];
                let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                version.starts_with("HTTP/1.").then_some((parts.join(" "), end))
            }
        }
    }
}

/// A verdict in one form; without the name where nobody is let in, since that is what was sent.
fn without_user(body: &[u8]) -> String {
    let mut verdict: Value = serde_json::from_slice(body).unwrap();
    if verdict["allow"] == false {
        verdict.as_object_mut().unwrap().remove("user").unwrap();
    }
    verdict.to_string()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

pub(crate) fn connect(bind: &str) -> TcpStream {
    let stream = TcpStream::connect(bind).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends pieces, with something to do between them, and no more; what came back until the end.
pub(crate) fn exchange(bind: &str, pieces: &[&[u8]], mut between: impl FnMut()) -> Vec<u8> {
    let mut stream = connect(bind);
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            between();
        }
        // The daemon may have said all that it wants to.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    answer
}
