//! `[[listen.dovecot_policy]]`: Dovecot's authentication policy protocol (Dovecot 2.3 documentation,
//! "Authentication Policy").
//!
//! Dovecot posts a JSON object to `/?command=allow` after a correct password and expects
//! `{"status": N, "msg": "…"}`: a negative status refuses, zero lets in, and a positive one would only
//! delay. The person reads `msg` word for word.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::routing::post;
use serde::{Deserialize, Serialize};

use super::admit;
use crate::domain::admission::Operation;
use crate::net::http::{json, read_body};
use crate::net::problem::Problem;
use crate::service::answers::Verdict;
use crate::service::{Admission, Ask};

/// The routes, without fallbacks.
pub fn routes(admission: Admission) -> Router {
    Router::new().route("/", post(policy)).with_state(admission)
}

/// What Dovecot sends. Which attributes there are is configured on its side, so unknown ones are ignored.
#[derive(Deserialize, PartialEq, Eq, Debug, Default)]
#[serde(default)]
struct PolicyRequest {
    /// The user whose mailbox is meant. Only sent when asked for; `config/dovecot.conf` does.
    user: String,
    /// The name that was typed.
    login: String,
    /// `imap`, `pop3`, `submission`, …, or `doveadm` for a test by an administrator.
    protocol: String,
    /// The client's address.
    remote: String,
    /// The administrator who logs in as this user, where it is a master login. Sent when asked for.
    master_user: String,
}

/// What Dovecot understands.
#[derive(Serialize, PartialEq, Eq, Debug)]
struct PolicyAnswer {
    status: i8,
    msg: String,
}

/// The `command` parameter of the query.
fn command(query: Option<&str>) -> &str {
    let parameters = query.unwrap_or_default().split('&');
    parameters.filter_map(|parameter| parameter.strip_prefix("command=")).next_back().unwrap_or_default()
}

fn parse(body: &Bytes) -> Result<PolicyRequest, Problem> {
    let request: PolicyRequest = serde_json::from_slice(body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is wrong: {error}")))?;
    if request.name().is_empty() {
        let detail =
            "the body is wrong: neither \"user\" nor \"login\" is set; see auth_policy_request_attributes";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    Ok(request)
}

impl PolicyRequest {
    fn name(&self) -> &str {
        if self.user.is_empty() { &self.login } else { &self.user }
    }

    /// `doveadm auth test` and master logins are an administrator's work and must not cost a seat.
    fn operation(&self) -> Operation {
        let is_administrator = self.protocol == "doveadm" || !self.master_user.is_empty();
        if is_administrator { Operation::Probe } else { Operation::Login }
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            user: self.name(),
            service: Some(self.protocol.as_str()).filter(|protocol| !protocol.is_empty()),
            operation: self.operation(),
            client: self.remote.parse().ok(),
        }
    }
}

/// Messages are one line of ASCII, which Dovecot passes on as it is.
fn render(verdict: &Verdict) -> PolicyAnswer {
    if verdict.allow {
        PolicyAnswer { status: 0, msg: String::new() }
    } else {
        PolicyAnswer { status: -1, msg: verdict.message.clone() }
    }
}

async fn policy(State(admission): State<Admission>, request: Request) -> Result<Response<Body>, Problem> {
    let command = command(request.uri().query()).to_owned();
    let body = read_body(request.into_body()).await?;
    match command.as_str() {
        "allow" => {
            let request = parse(&body)?;
            let verdict = admit(&admission, &request.ask()).await?;
            Ok(json(StatusCode::OK, &render(&verdict)))
        }
        // Dovecot tells how a login went; there is nothing to decide.
        "report" => Ok(json(StatusCode::OK, &PolicyAnswer { status: 0, msg: String::new() })),
        other => {
            let detail = format!("the command is {other:?}: Dovecot sends allow and report");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Decision;

    fn request(body: &str) -> PolicyRequest {
        parse(&Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    #[test]
    fn dovecots_requests_are_understood() {
        let login =
            request(r#"{"login":"a","user":"alice","protocol":"imap","remote":"127.0.0.1","tls":false}"#);
        assert_eq!(
            login.ask(),
            Ask {
                user: "alice",
                service: Some("imap"),
                operation: Operation::Login,
                client: "127.0.0.1".parse().ok()
            }
        );
        assert_eq!(request(r#"{"login":"alice"}"#).ask().user, "alice");
        let test = request(r#"{"user":"alice","protocol":"doveadm"}"#);
        assert_eq!(test.ask().operation, Operation::Probe);
        let master = request(r#"{"user":"alice","protocol":"imap","master_user":"admin"}"#);
        assert_eq!(master.ask().operation, Operation::Probe);
    }

    #[test]
    fn what_names_nobody_is_an_error() {
        for body in ["", "{}", "[]", r#"{"user":""}"#, r#"{"user":1}"#] {
            assert!(parse(&Bytes::copy_from_slice(body.as_bytes())).is_err(), "{body}");
        }
    }

    #[test]
    fn answers_let_in_or_refuse_and_never_delay() {
        let answer = |decision| render(&Verdict::new(&decision, "alice@example.org"));
        assert_eq!(answer(Decision::Held), PolicyAnswer { status: 0, msg: String::new() });
        let refused = answer(Decision::Exhausted);
        assert_eq!((refused.status, refused.msg.as_str()), (-1, Decision::Exhausted.message()));
    }

    #[test]
    fn commands_come_from_the_query() {
        assert_eq!(command(Some("command=allow")), "allow");
        assert_eq!(command(Some("x=1&command=report")), "report");
        assert_eq!(command(None), "");
    }
}
