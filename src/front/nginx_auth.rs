//! `[[listen.nginx_auth]]`: what nginx' mail proxy asks before it connects a client to the server behind it
//! (ngx_mail_auth_http_module).
//!
//! A `GET` with name and password in headers; the answer's headers say where to connect, or what the client is to
//! read. nginx puts the beginning of the reply before it (`a1 NO `, `-ERR `), and for SMTP a code that we give.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response};
use axum::routing::get;
use percent_encoding::percent_decode;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::domain::mail_server::Backends;
use crate::domain::password::Password;
use crate::service::passwords::{Attempt, AuthError, Authenticator, Login};

/// The one route, under any path: nginx' `auth_http` may have one.
pub fn routes(authenticator: Authenticator, backends: watch::Receiver<Backends>) -> Router {
    let state = Front { authenticator, backends };
    Router::new().route("/", get(auth)).route("/{*path}", get(auth)).with_state(state)
}

#[derive(Clone)]
struct Front {
    authenticator: Authenticator,
    backends: watch::Receiver<Backends>,
}

/// A protocol that nginx proxies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    Imap,
    Pop3,
    Smtp,
}

/// What nginx tells of a client. Not `Debug`: there is a password in it.
struct AuthRequest {
    protocol: Protocol,
    user: String,
    password: Zeroizing<Vec<u8>>,
    client: Option<std::net::IpAddr>,
}

/// What nginx is to do.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    Connect(SocketAddr),
    /// What the client reads. It may try again only after a wrong password.
    Refuse {
        text: String,
        smtp_code: Option<&'static str>,
        may_retry: bool,
    },
}

/// A sentence for whoever set nginx up where the request is none that can be answered.
fn parse(headers: &HeaderMap) -> Result<AuthRequest, &'static str> {
    let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let decoded = |name: &str| header(name).map(|value| percent_decode(value).collect::<Vec<u8>>());
    let protocol = match header("auth-protocol") {
        Some(b"imap") => Protocol::Imap,
        Some(b"pop3") => Protocol::Pop3,
        Some(b"smtp") => Protocol::Smtp,
        _ => return Err("there is no Auth-Protocol: this listener is for nginx' auth_http"),
    };
    // APOP and CRAM-MD5 send no password that a directory could verify.
    if header("auth-method") != Some(b"plain") {
        return Err("the Auth-Method is not plain: allow nothing but plain and login in nginx");
    }
    let (Some(user), Some(password)) = (decoded("auth-user"), decoded("auth-pass")) else {
        return Err("there is no Auth-User or Auth-Pass");
    };
    let client = header("client-ip").and_then(|ip| std::str::from_utf8(ip).ok());
    Ok(AuthRequest {
        protocol,
        user: String::from_utf8_lossy(&user).into_owned(),
        password: Zeroizing::new(password),
        client: client.and_then(|client| client.parse().ok()),
    })
}

impl Protocol {
    fn service(self) -> &'static str {
        match self {
            Protocol::Imap => "imap",
            Protocol::Pop3 => "pop3",
            Protocol::Smtp => "submission",
        }
    }

    fn backend(self, backends: &Backends) -> Option<SocketAddr> {
        match self {
            Protocol::Imap => backends.imap,
            Protocol::Pop3 => backends.pop3,
            Protocol::Smtp => backends.smtp,
        }
    }

    /// The protocols' own signs: response codes of RFC 5530 and RFC 3206, `ALERT` of RFC 3501, which a mail
    /// program must show, and codes of RFC 4954.
    fn refuse(self, [imap, pop3, smtp]: [&'static str; 3], message: &str, may_retry: bool) -> Answer {
        let (code, smtp_code) = match self {
            Protocol::Imap => (imap, None),
            Protocol::Pop3 => (pop3, None),
            Protocol::Smtp => ("", Some(smtp)),
        };
        let text = if code.is_empty() { message.to_owned() } else { format!("[{code}] {message}") };
        Answer::Refuse { text, smtp_code, may_retry }
    }

    fn outage(self) -> Answer {
        let codes = ["UNAVAILABLE", "SYS/TEMP", "454 4.7.0"];
        self.refuse(codes, "The mail system cannot verify passwords now. Please try again later.", false)
    }

    fn answer(self, login: &Login, backend: Option<SocketAddr>) -> Answer {
        match login {
            Login::Wrong => self.refuse(["AUTHENTICATIONFAILED", "AUTH", "535 5.7.8"], login.message(), true),
            login if login.allowed().is_some() => backend.map_or_else(|| self.outage(), Answer::Connect),
            login => self.refuse(["ALERT", "AUTH", "535 5.7.8"], login.message(), false),
        }
    }
}

fn render(answer: &Answer) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let mut set = |name: &'static str, value: &str| {
        // Only texts of ours go in here, which are printable.
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    match answer {
        Answer::Connect(backend) => {
            set("auth-status", "OK");
            set("auth-server", &backend.ip().to_string());
            set("auth-port", &backend.port().to_string());
        }
        Answer::Refuse { text, smtp_code, may_retry } => {
            set("auth-status", text);
            if let Some(code) = smtp_code {
                set("auth-error-code", code);
            }
            if *may_retry {
                set("auth-wait", "1");
            }
        }
    }
    response
}

async fn auth(State(front): State<Front>, request: Request) -> Response<Body> {
    let request = match parse(request.headers()) {
        Ok(request) => request,
        Err(mistake) => {
            tracing::warn!("A request on an nginx_auth listener is wrong: {mistake}.");
            let mut response = Response::new(Body::from(format!("{mistake}\n")));
            *response.status_mut() = axum::http::StatusCode::BAD_REQUEST;
            return response;
        }
    };
    let backend = request.protocol.backend(&front.backends.borrow());
    if backend.is_none() {
        tracing::warn!(
            "nginx asks for {}, for which [[listen.nginx_auth]] has no backend.",
            request.protocol.service()
        );
        return render(&request.protocol.outage());
    }
    let login = log_in(&front.authenticator, &request).await;
    render(&login.map_or_else(
        |error| {
            super::log_auth_outage(&error);
            request.protocol.outage()
        },
        |login| request.protocol.answer(&login, backend),
    ))
}

async fn log_in(authenticator: &Authenticator, request: &AuthRequest) -> Result<Login, AuthError> {
    let attempt = Attempt {
        user: &request.user,
        password: Password::parse(&request.password).map(Arc::new),
        service: Some(request.protocol.service()),
        client: request.client,
    };
    authenticator.log_in(&attempt).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Decision;
    use crate::domain::name::Name;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn requests_are_parsed() {
        let parsed = parse(&headers(&[
            ("auth-method", "plain"),
            ("auth-user", "alice%20b"),
            ("auth-pass", "p%25%0A%ff"),
            ("auth-protocol", "imap"),
            ("client-ip", "192.0.2.7"),
        ]))
        .ok()
        .unwrap();
        assert_eq!((parsed.protocol, parsed.user.as_str()), (Protocol::Imap, "alice b"));
        assert_eq!(&parsed.password[..], b"p%\n\xff");
        assert_eq!(parsed.client, "192.0.2.7".parse().ok());
        let whole =
            [("auth-method", "plain"), ("auth-user", "a"), ("auth-pass", "b"), ("auth-protocol", "imap")];
        assert!(parse(&headers(&whole)).is_ok());
        for missing in 0..whole.len() {
            let mut part = whole.to_vec();
            part.remove(missing);
            assert!(parse(&headers(&part)).is_err(), "{part:?}");
        }
        for (name, value) in [("auth-method", "cram-md5"), ("auth-method", "none"), ("auth-protocol", "ftp")]
        {
            let mut changed = whole.to_vec();
            changed.retain(|(key, _)| *key != name);
            changed.push((name, value));
            assert!(parse(&headers(&changed)).is_err(), "{changed:?}");
        }
    }

    fn said(answer: &Answer) -> String {
        let response = render(answer);
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
        ["auth-status", "auth-error-code", "auth-server", "auth-port", "auth-wait"]
            .into_iter()
            .filter_map(header)
            .collect::<Vec<_>>()
            .join("|")
    }

    #[test]
    fn every_protocol_has_its_own_signs() {
        use Protocol::{Imap, Pop3, Smtp};
        let backend = "[::1]:143".parse().ok();
        let name = Name::parse("a@example.org", None).unwrap();
        let decided = |decision| Login::Decided(name.clone(), decision);
        let wrong = "The user name or the password is wrong.";
        let exhausted = Decision::Exhausted.message();
        let throttled = Login::Throttled.message();
        let outage = "The mail system cannot verify passwords now. Please try again later.";
        for (protocol, expected) in [
            (
                Imap,
                [
                    format!("[AUTHENTICATIONFAILED] {wrong}|1"),
                    format!("[ALERT] {exhausted}"),
                    format!("[ALERT] {throttled}"),
                    format!("[UNAVAILABLE] {outage}"),
                ],
            ),
            (
                Pop3,
                [
                    format!("[AUTH] {wrong}|1"),
                    format!("[AUTH] {exhausted}"),
                    format!("[AUTH] {throttled}"),
                    format!("[SYS/TEMP] {outage}"),
                ],
            ),
            (
                Smtp,
                [
                    format!("{wrong}|535 5.7.8|1"),
                    format!("{exhausted}|535 5.7.8"),
                    format!("{throttled}|535 5.7.8"),
                    format!("{outage}|454 4.7.0"),
                ],
            ),
        ] {
            let answer = |login| said(&protocol.answer(&login, backend));
            let got = [
                answer(Login::Wrong),
                answer(decided(Decision::Exhausted)),
                answer(Login::Throttled),
                said(&protocol.outage()),
            ];
            assert_eq!(got, expected);
            assert_eq!(answer(decided(Decision::Held)), "OK|::1|143");
        }
    }
}
