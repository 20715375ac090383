//! `[[listen.http]]`: `/v1/check`, `/v1/authenticate`, `/v1/forward-auth`, `/v1/components/NAME`, `/healthz`,
//! `/readyz`. The control socket has them too.

use std::net::IpAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Response, StatusCode};
use axum::routing::{get, post};
use serde::Deserialize;

use super::{admit, forward_auth, unavailable};
use crate::domain::admission::Operation;
use crate::net::http::{json, read_body};
use crate::net::problem::Problem;
use crate::service::passwords::Authenticator;
use crate::service::{Admission, Ask};

/// The routes, without fallbacks.
pub fn routes(admission: Admission, authenticator: Authenticator) -> Router {
    let passwords = Router::new()
        .route("/v1/authenticate", post(forward_auth::authenticate))
        .route("/v1/forward-auth", get(forward_auth::forward_auth))
        .with_state(authenticator);
    Router::new()
        .route("/v1/check", post(check))
        .route("/v1/components/{name}", get(component))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(admission)
        .merge(passwords)
}

/// The body of `POST /v1/check`.
#[derive(Deserialize, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    user: String,
    service: Option<String>,
    #[serde(default)]
    operation: CheckOperation,
    client_ip: Option<IpAddr>,
}

#[derive(Deserialize, PartialEq, Eq, Debug, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum CheckOperation {
    #[default]
    Login,
    Delivery,
    Probe,
}

fn parse(body: &Bytes) -> Result<CheckRequest, Problem> {
    let request: CheckRequest = serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is wrong: {error}")))?;
    if request.user.trim().is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is wrong: \"user\" is empty"));
    }
    Ok(request)
}

async fn check(State(admission): State<Admission>, request: Request) -> Result<Response<Body>, Problem> {
    let body = read_body(request.into_body()).await?;
    let request = parse(&body)?;
    let ask = Ask {
        user: &request.user,
        service: request.service.as_deref(),
        operation: match request.operation {
            CheckOperation::Login => Operation::Login,
            CheckOperation::Delivery => Operation::Delivery,
            CheckOperation::Probe => Operation::Probe,
        },
        client: request.client_ip,
    };
    let verdict = admit(&admission, &ask).await?;
    Ok(json(StatusCode::OK, &verdict))
}

/// Whether a component may be used, for a scanner or filter that serves everybody at once.
async fn component(
    State(admission): State<Admission>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Problem> {
    let Path(name) = name.map_err(|rejection| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the path is wrong: {}", rejection.body_text()))
    })?;
    let answer = admission.component(&name).map_err(|error| unavailable(&error.into()))?;
    Ok(json(StatusCode::OK, &answer))
}

async fn readyz(State(admission): State<Admission>) -> Result<&'static str, Problem> {
    admission.readiness().map(|()| "ready\n").map_err(|error| unavailable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_parse(body: &str, expected: Result<CheckRequest, &str>) {
        match (parse(&Bytes::copy_from_slice(body.as_bytes())), expected) {
            (Ok(parsed), Ok(expected)) => assert_eq!(parsed, expected),
            (Err(problem), Err(part)) => {
                assert_eq!(problem.status, StatusCode::BAD_REQUEST);
                assert!(problem.detail.contains(part), "{body}: {}", problem.detail);
            }
            (got, expected) => panic!("{body}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn bodies_are_parsed() {
        let alice = || CheckRequest {
            user: "alice".to_owned(),
            service: None,
            operation: CheckOperation::Login,
            client_ip: None,
        };
        check_parse(r#"{"user":"alice"}"#, Ok(alice()));
        check_parse(
            r#"{"user":"alice","service":"imap","operation":"probe","client_ip":"2001:db8::1"}"#,
            Ok(CheckRequest {
                service: Some("imap".to_owned()),
                operation: CheckOperation::Probe,
                client_ip: "2001:db8::1".parse().ok(),
                ..alice()
            }),
        );
    }

    #[test]
    fn wrong_bodies_say_what_is_wrong() {
        check_parse("", Err("EOF"));
        check_parse("[]", Err("expected struct"));
        check_parse("{}", Err("missing field `user`"));
        check_parse(r#"{"user":""}"#, Err("empty"));
        check_parse(r#"{"user":"a","usr":"b"}"#, Err("unknown field `usr`"));
        check_parse(r#"{"user":"a","operation":"steal"}"#, Err("unknown variant `steal`"));
        check_parse(r#"{"user":"a","client_ip":"here"}"#, Err("IP address"));
        check_parse(r#"{"user":7}"#, Err("expected a string"));
        check_parse(r#"{"user":"a"} x"#, Err("trailing"));
    }
}
