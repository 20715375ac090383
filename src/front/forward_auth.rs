//! `POST /v1/authenticate` and `GET /v1/forward-auth`: passwords over HTTP.
//!
//! The first answers like `/v1/check`. The second is for web servers that ask before they pass a request on (nginx'
//! `auth_request`, `forwardAuth` of Traefik, `forward_auth` of Caddy): 200 with the user in `Remote-User`, 401 for
//! whoever has not said a right password (RFC 7617), 403 with the reason for whoever has and may not enter.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::domain::password::Password;
use crate::net::http::{json, read_body};
use crate::net::problem::Problem;
use crate::service::passwords::{Attempt, AuthError, Authenticator, Login};

/// The service that the ledger names for a web server's question.
const WEB_SERVICE: &str = "web";

/// The reason of a 403 once more, for servers that don't pass our body on.
const REASON: &str = "x-seatkeeper-reason";

/// The body of `POST /v1/authenticate`. Not `Debug`: there is a password in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthenticateRequest {
    user: String,
    password: Secret,
    service: Option<String>,
    client_ip: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(from = "String")]
struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }
}

/// A mistake in the body is told by its place alone: its words could be a password.
fn parse(body: &Bytes) -> Result<AuthenticateRequest, Problem> {
    let wrong =
        |detail: String| Problem::new(StatusCode::BAD_REQUEST, format!("the body is wrong: {detail}"));
    let request: AuthenticateRequest = serde_json::from_slice(body).map_err(|error| {
        wrong(format!(
            "it is no object with the strings user and password, and optionally service and client_ip (line {}, \
             column {})",
            error.line(),
            error.column()
        ))
    })?;
    if request.user.trim().is_empty() {
        return Err(wrong("\"user\" is empty".to_owned()));
    }
    Ok(request)
}

pub(super) async fn authenticate(
    State(authenticator): State<Authenticator>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let body = read_body(request.into_body()).await?;
    let request = parse(&body)?;
    let attempt = Attempt {
        user: &request.user,
        password: Password::parse(request.password.0.as_bytes()).map(Arc::new),
        service: request.service.as_deref(),
        client: request.client_ip,
    };
    let login = authenticator.log_in(&attempt).await.map_err(|error| outage(&error))?;
    Ok(json(StatusCode::OK, &login.verdict(&request.user)))
}

/// Name and password of the `Basic` scheme, and who really asks: the web server adds the client's address as the
/// last one of `X-Forwarded-For`.
struct Credentials {
    user: String,
    password: Zeroizing<Vec<u8>>,
    client: Option<IpAddr>,
}

/// `None` where there are no credentials that could be right.
fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
    let at = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at(at);
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let forwarded = forwarded.and_then(|list| list.to_str().ok()?.rsplit(',').next());
    Some(Credentials {
        user: String::from_utf8_lossy(user).into_owned(),
        password: Zeroizing::new(password.get(1..).unwrap_or_default().to_vec()),
        client: forwarded.and_then(|client| client.trim().parse().ok()),
    })
}

pub(super) async fn forward_auth(
    State(authenticator): State<Authenticator>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let Some(credentials) = credentials(&headers) else { return Ok(render(&Login::Wrong)) };
    let attempt = Attempt {
        user: &credentials.user,
        password: Password::parse(&credentials.password).map(Arc::new),
        service: Some(WEB_SERVICE),
        client: credentials.client,
    };
    let login = authenticator.log_in(&attempt).await.map_err(|error| outage(&error))?;
    Ok(render(&login))
}

fn render(login: &Login) -> Response<Body> {
    let (status, name, value, body) = match (login.allowed(), login) {
        (Some(user), _) => {
            // A name has no control character, and bytes beyond ASCII are sent as UTF-8.
            let user = HeaderValue::from_bytes(user.as_str().as_bytes());
            (StatusCode::OK, "remote-user", user.ok(), String::new())
        }
        (None, Login::Wrong) => {
            let challenge = HeaderValue::from_static("Basic realm=\"Mail\", charset=\"UTF-8\"");
            let body = format!("{}\n", login.message());
            (StatusCode::UNAUTHORIZED, "www-authenticate", Some(challenge), body)
        }
        (None, login) => {
            let reason = HeaderValue::from_static(login.message());
            (StatusCode::FORBIDDEN, REASON, Some(reason), format!("{}\n", login.message()))
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    match value {
        Some(value) => {
            response.headers_mut().insert(name, value);
        }
        // Letting somebody in without saying who it is would be worse than not letting them in.
        None => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}

fn outage(error: &AuthError) -> Problem {
    super::log_auth_outage(error);
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Decision;
    use crate::domain::name::Name;

    fn headers(authorization: &str, forwarded: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        for list in forwarded {
            headers.append("x-forwarded-for", list.parse().unwrap());
        }
        headers
    }

    #[test]
    fn credentials_are_parsed() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let parsed = |authorization: &str, forwarded: &[&str]| {
            credentials(&headers(authorization, forwarded))
                .map(|found| (found.user, found.password.escape_ascii().to_string(), found.client))
        };
        let plain = |user: &str, password: &str| Some((user.to_owned(), password.to_owned(), None));
        assert_eq!(parsed(&basic("alice:secret"), &[]), plain("alice", "secret"));
        assert_eq!(parsed(&basic("alice:a:b"), &[]), plain("alice", "a:b"));
        assert_eq!(parsed(&basic(":"), &[]), plain("", ""));
        let lower = basic("alice:secret").replace("Basic", "bAsIc");
        let client = parsed(&lower, &["203.0.113.9", "198.51.100.1, 192.0.2.7"]).unwrap().2;
        assert_eq!(client, "192.0.2.7".parse().ok());
        for bad in ["Bearer abc", "Basic", "Basic !", &basic("nocolon")] {
            assert!(parsed(bad, &[]).is_none(), "{bad}");
        }
        assert!(credentials(&HeaderMap::new()).is_none());
    }

    #[test]
    fn answers_differ_by_who_asks() {
        let name = Name::parse("jürgen@example.org", None).unwrap();
        let check = |login: Login, status: u16, header: &str, value: &str| {
            let response = render(&login);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().get(header).unwrap().as_bytes(), value.as_bytes());
        };
        check(Login::Decided(name.clone(), Decision::Held), 200, "remote-user", "jürgen@example.org");
        check(Login::Wrong, 401, "www-authenticate", "Basic realm=\"Mail\", charset=\"UTF-8\"");
        check(
            Login::Decided(name, Decision::Exhausted),
            403,
            REASON,
            "All mailbox licenses are in use. Please ask your mail administrator for one.",
        );
        check(Login::Throttled, 403, REASON, "Too many failed logins. Please try again in a few minutes.");
    }

    #[test]
    fn wrong_bodies_are_refused_without_saying_them_back() {
        let problem = |body: &'static str| parse(&Bytes::from(body)).err().unwrap().detail;
        for body in [
            "",
            "{}",
            r#"{"user": "a"}"#,
            r#"{"user": "a", "password": 12345}"#,
            r#"{"user": "a", "password": "12345", "x": 1}"#,
            r#"{"user": "a", "password": "b", "client_ip": "12345"}"#,
            r#"{"user": "a", "12345": "b"}"#,
        ] {
            let detail = problem(body);
            assert!(detail.contains("no object with") && !detail.contains("12345"), "{detail}");
        }
        assert!(problem(r#"{"user": " ", "password": "b"}"#).contains("\"user\" is empty"));
        assert!(parse(&Bytes::from(r#"{"user": "a", "password": ""}"#)).is_ok());
    }
}
