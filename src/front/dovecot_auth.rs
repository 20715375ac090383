//! `[[listen.dovecot_auth]]`: the server's side of Dovecot's authentication protocol (version 1.2, "Dovecot
//! Authentication Protocol"), so that Postfix and Exim let people log in without a Dovecot.
//!
//! Lines of fields between tabs. Postfix tells the person the reason of a `FAIL`. There is no word for an outage that
//! clients understand, so the connection ends without an answer, which they do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::domain::password::Password;
use crate::net::dialogue::{Dialogue, Garbled, Next};
use crate::service::passwords::{Attempt, Authenticator};

/// As Dovecot itself has it.
const MAX_REQUEST: usize = 8192;

/// Logins of one connection that wait for their password. A mail server has one for each of its clients, at most
/// some hundred.
const MAX_PENDING: usize = 1024;

/// The prompts of LOGIN, as everybody writes them, in Base64.
const ASK_USER: &str = "VXNlcm5hbWU6";
const ASK_PASSWORD: &str = "UGFzc3dvcmQ6";

/// Each connection has a number of its own.
static CONNECTIONS: AtomicU32 = AtomicU32::new(1);

/// A login that was begun.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Begun {
    mechanism: Mechanism,
    service: String,
    client: String,
}

/// How name and password come (RFC 4616, and draft-murchison-sasl-login).
#[derive(Clone, PartialEq, Eq, Debug)]
enum Mechanism {
    Plain,
    Login,
    /// LOGIN, of which only the password is missing.
    LoginAs(String),
}

/// What a client says.
#[derive(PartialEq, Eq, Debug)]
enum Line<'a> {
    Begin {
        id: u32,
        mechanism: &'a str,
        service: String,
        client: String,
        response: Option<&'a str>,
    },
    Continue {
        id: u32,
        response: &'a str,
    },
    Cancel {
        id: u32,
    },
    /// Nothing to answer.
    Greeting,
}

/// What is known after a response.
enum Step {
    /// Ask for more.
    Ask(Begun, &'static str),
    /// Name and password are there.
    Try { user: String, password: Zeroizing<Vec<u8>> },
    /// There will be none.
    Fail(&'static str),
}

fn parse(line: &str) -> Result<Line<'_>, Garbled> {
    let mut fields = line.split('\t');
    let command = fields.next().unwrap_or_default();
    let first = fields.next().unwrap_or_default();
    let id = || first.parse().ok().filter(|id| *id > 0).ok_or(Garbled);
    match command {
        "VERSION" if first == "1" => Ok(Line::Greeting),
        "CPID" => Ok(Line::Greeting),
        "CANCEL" => Ok(Line::Cancel { id: id()? }),
        "CONT" => Ok(Line::Continue { id: id()?, response: fields.next().unwrap_or_default() }),
        "AUTH" => {
            let id = id()?;
            let mechanism = fields.next().ok_or(Garbled)?;
            let (mut service, mut client, mut response) = (String::new(), String::new(), None);
            for field in fields {
                match field.split_once('=') {
                    Some(("service", value)) => service = unescape(value),
                    Some(("rip", value)) => client = unescape(value),
                    // Exim sends an empty one where its client has sent none; neither mechanism has such a response.
                    Some(("resp", value)) => response = Some(value).filter(|value| !value.is_empty()),
                    _ => {}
                }
            }
            Ok(Line::Begin { id, mechanism, service, client, response })
        }
        _ => Err(Garbled),
    }
}

/// Takes back what [`escape`] does.
fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\x01' => match chars.next() {
                Some('0') => '\0',
                Some('1') => '\x01',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('n') => '\n',
                Some(other) => other,
                None => break,
            },
            c => c,
        });
    }
    text
}

/// Nothing that is said back can begin a field or a line of its own.
fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\0' => text.push_str("\x010"),
            '\x01' => text.push_str("\x011"),
            '\t' => text.push_str("\x01t"),
            '\r' => text.push_str("\x01r"),
            '\n' => text.push_str("\x01n"),
            c => text.push(c),
        }
    }
    text
}

impl Begun {
    /// Goes on with a response, in Base64.
    fn step(self, response: &str) -> Step {
        let Ok(decoded) = STANDARD.decode(response).map(Zeroizing::new) else {
            return Step::Fail("The response is not Base64.");
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self.mechanism {
            Mechanism::Plain => {
                let mut parts = decoded.splitn(3, |byte| *byte == 0);
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(act_as), Some(user), Some(password)) if act_as.is_empty() || act_as == user => {
                        Step::Try { user: text(user), password: Zeroizing::new(password.to_vec()) }
                    }
                    (Some(_), Some(_), Some(_)) => Step::Fail("Nobody can log in as somebody else here."),
                    _ => Step::Fail("The response is not one of PLAIN."),
                }
            }
            Mechanism::Login => {
                Step::Ask(Begun { mechanism: Mechanism::LoginAs(text(&decoded)), ..self }, ASK_PASSWORD)
            }
            Mechanism::LoginAs(user) => Step::Try { user, password: decoded },
        }
    }
}

/// The beginning of the conversation: what we are, and what we can.
fn greeting(connection: u32, cookie: u128) -> String {
    format!(
        "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t{}\nCUID\t{connection}\n\
         COOKIE\t{cookie:032x}\nDONE\n",
        std::process::id()
    )
}

/// A connection of a mail server.
pub struct DovecotAuth {
    authenticator: Authenticator,
    begun: HashMap<u32, Begun>,
}

impl DovecotAuth {
    /// Nobody has begun to log in yet.
    pub fn new(authenticator: Authenticator) -> DovecotAuth {
        DovecotAuth { authenticator, begun: HashMap::new() }
    }

    async fn go_on(&mut self, id: u32, begun: Begun, response: &str) -> Result<String, Next> {
        let (service, client) = (begun.service.clone(), begun.client.clone());
        let (user, password) = match begun.step(response) {
            Step::Ask(begun, prompt) => {
                self.begun.insert(id, begun);
                return Ok(format!("CONT\t{id}\t{prompt}\n"));
            }
            Step::Fail(reason) => return Ok(format!("FAIL\t{id}\treason={reason}\n")),
            Step::Try { user, password } => (user, password),
        };
        let attempt = Attempt {
            user: &user,
            password: Password::parse(&password).map(Arc::new),
            service: Some(service.as_str()).filter(|service| !service.is_empty()),
            client: client.parse().ok(),
        };
        let login = self.authenticator.log_in(&attempt).await.map_err(|error| {
            super::log_auth_outage(&error);
            Next::End
        })?;
        Ok(match login.allowed() {
            Some(name) => format!("OK\t{id}\tuser={}\n", escape(name.as_str())),
            None => format!("FAIL\t{id}\tuser={}\treason={}\n", escape(&user), login.message()),
        })
    }

    async fn line(&mut self, line: Line<'_>) -> Result<String, Next> {
        match line {
            Line::Greeting => Ok(String::new()),
            Line::Cancel { id } => {
                self.begun.remove(&id);
                Ok(String::new())
            }
            Line::Begin { id, mechanism, service, client, response } => {
                let (mechanism, prompt) = match mechanism {
                    "PLAIN" => (Mechanism::Plain, ""),
                    "LOGIN" => (Mechanism::Login, ASK_USER),
                    _ => return Ok(format!("FAIL\t{id}\treason=The mechanism is not PLAIN or LOGIN.\n")),
                };
                let begun = Begun { mechanism, service, client };
                match response {
                    Some(response) => self.go_on(id, begun, response).await,
                    None if self.begun.len() >= MAX_PENDING => {
                        Ok(format!("FAIL\t{id}\treason=Too many logins wait for their password.\n"))
                    }
                    None => {
                        self.begun.insert(id, begun);
                        Ok(format!("CONT\t{id}\t{prompt}\n"))
                    }
                }
            }
            Line::Continue { id, response } => match self.begun.remove(&id) {
                Some(begun) => self.go_on(id, begun, response).await,
                None => Ok(format!("FAIL\t{id}\treason=The login was not begun.\n")),
            },
        }
    }
}

impl Dialogue for DovecotAuth {
    const MAX_REQUEST: usize = MAX_REQUEST;

    fn greet(&mut self, answer: &mut Vec<u8>) {
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        answer.extend_from_slice(greeting(connection, fastrand::u128(..)).as_bytes());
    }

    fn cut(&self, buffer: &[u8]) -> Result<Option<usize>, Garbled> {
        Ok(buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1))
    }

    async fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Next {
        let line = std::str::from_utf8(request.strip_suffix(b"\n").unwrap_or(request));
        let Ok(Ok(line)) = line.map(parse) else {
            tracing::warn!("A request on a dovecot_auth listener is not of its protocol.");
            return Next::End;
        };
        match self.line(line).await {
            Ok(text) => {
                answer.extend_from_slice(text.as_bytes());
                Next::GoOn
            }
            Err(next) => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed() {
        let begin = |response| Line::Begin {
            id: 7,
            mechanism: "PLAIN",
            service: "smtp".to_owned(),
            client: "192.0.2.7".to_owned(),
            response,
        };
        let line = "AUTH\t7\tPLAIN\tservice=smtp\tnologin\tlip=192.0.2.1\trip=192.0.2.7\tsecured\tfuture";
        assert_eq!(parse(line), Ok(begin(None)));
        assert_eq!(parse(&format!("{line}\tresp=AGEAYg==")), Ok(begin(Some("AGEAYg=="))));
        assert_eq!(parse(&format!("{line}\tresp=")), Ok(begin(None)));
        assert_eq!(parse("CONT\t7\tAGEAYg=="), Ok(Line::Continue { id: 7, response: "AGEAYg==" }));
        assert_eq!(parse("CANCEL\t7"), Ok(Line::Cancel { id: 7 }));
        assert_eq!(parse("VERSION\t1\t1"), Ok(Line::Greeting));
        assert_eq!(parse("CPID\t12"), Ok(Line::Greeting));
        for bad in [
            "",
            "VERSION\t2\t0",
            "VERSION",
            "AUTH",
            "AUTH\tx\tPLAIN",
            "AUTH\t7",
            "AUTH\t0\tPLAIN",
            "CONT",
            "HELO x",
        ] {
            assert_eq!(parse(bad), Err(Garbled), "{bad}");
        }
    }

    #[test]
    fn nothing_said_back_can_begin_a_field_or_a_line() {
        let hostile = "a\tuser=root\nOK\t1\r\0\x01";
        assert!(!escape(hostile).contains(['\t', '\n', '\r', '\0']));
        assert_eq!(unescape(&escape(hostile)), hostile);
        assert_eq!(unescape("a\x01"), "a");
    }

    fn said(step: Step) -> String {
        match step {
            Step::Ask(_, prompt) => format!("ask {prompt}"),
            Step::Try { user, password } => format!("{user:?} {}", password.escape_ascii()),
            Step::Fail(reason) => reason.to_owned(),
        }
    }

    #[test]
    fn responses_have_name_and_password() {
        let begun = |mechanism| Begun { mechanism, service: String::new(), client: String::new() };
        let plain = |response: &[u8]| said(begun(Mechanism::Plain).step(&STANDARD.encode(response)));
        assert_eq!(plain(b"\0alice\0secret"), "\"alice\" secret");
        assert_eq!(plain(b"alice\0alice\0secret"), "\"alice\" secret");
        assert_eq!(plain(b"\0alice\0"), "\"alice\" ");
        assert_eq!(plain(b"\0alice\0se\0cret"), "\"alice\" se\\x00cret");
        assert_eq!(plain(b"bob\0alice\0secret"), "Nobody can log in as somebody else here.");
        assert_eq!(plain(b"alice"), "The response is not one of PLAIN.");
        assert_eq!(plain(b""), "The response is not one of PLAIN.");
        assert_eq!(said(begun(Mechanism::Plain).step("*")), "The response is not Base64.");
        assert_eq!(said(begun(Mechanism::Login).step("YWxpY2U=")), format!("ask {ASK_PASSWORD}"));
        let named = Mechanism::LoginAs("alice".to_owned());
        assert_eq!(said(begun(named).step("c2VjcmV0")), "\"alice\" secret");
    }
}
