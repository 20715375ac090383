//! The administration API: `/v1/status`, `/v1/license`, `/v1/clock`, `/v1/users`, `/v1/accounts`, `/v1/seats`, `/v1/reclaim`,
//! `/v1/refused`, `/v1/moves`, `/v1/import`, `/v1/grants`, `/v1/history`, `/v1/directories`,
//! `/v1/verify`, `/v1/backup`.
//!
//! Whoever can connect may do everything: the mode of the control socket is the guard.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::{Response, StatusCode, Uri};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::moves::MatchParameter;
use super::{
    History, Started, accounts, clock, directories, grants, import, license, moves, reclaim, stream,
};
use crate::net::http::json;
use crate::net::problem::Problem;
use crate::service::answers::SyncReport;
use crate::service::license::LicenseFailure;
use crate::service::{Admin, AdminError, UserQuery, UserSort};

/// Ledger lines in one answer where the query says nothing.
const HISTORY_DEFAULT: usize = 100;

/// Ledger lines in one answer at most: it is built in memory, some 200 bytes each.
const HISTORY_MAX: usize = 10_000;

/// The state on one page: the part of the API that listeners show to everybody.
pub fn status_route(admin: Admin) -> Router {
    Router::new().route("/v1/status", get(status)).with_state(admin)
}

/// The whole API, without fallbacks. Serve it without a deadline: a sync may be waited for.
pub fn routes(admin: Admin) -> Router {
    let routes = Router::new()
        .route("/v1/users", get(users))
        .route("/v1/users/{address}", get(explain).delete(forget))
        .route("/v1/seats/{address}", put(grant).delete(release))
        .route("/v1/history", get(history))
        .route("/v1/directories/{name}/sync", post(sync))
        .route("/v1/directories/{name}/approve", post(approve))
        .route("/v1/verify", get(verify))
        .route("/v1/backup", get(backup));
    routes
        .with_state(admin.clone())
        .merge(accounts::routes(admin.clone()))
        .merge(license::routes(admin.clone()))
        .merge(clock::routes(admin.clone()))
        .merge(reclaim::routes(admin.clone()))
        .merge(moves::routes(admin.clone()))
        .merge(directories::routes(admin.clone()))
        .merge(import::routes(admin.clone()))
        .merge(grants::routes(admin.clone()))
        .merge(status_route(admin))
}

pub(super) type Answer = Result<Response<Body>, Problem>;

/// A segment of the path; what is percent-encoded in it is no UTF-8 text in an `Err`.
pub(super) type Segment = Result<Path<String>, PathRejection>;

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Problem {
        let status = match error {
            AdminError::BadName(..) | AdminError::TooManyAliases | AdminError::BadPassword => {
                StatusCode::BAD_REQUEST
            }
            AdminError::Hash(_) => StatusCode::INTERNAL_SERVER_ERROR,
            AdminError::Account(_)
            | AdminError::ReclaimHeld(..)
            | AdminError::Protected(_)
            | AdminError::TooEarly(_)
            | AdminError::ClockInDoubt(_)
            | AdminError::Ambiguous(..)
            | AdminError::NoLoginName(_)
            | AdminError::NotMoved(..)
            | AdminError::StillConfigured(_)
            | AdminError::NotRemoved(_) => StatusCode::CONFLICT,
            AdminError::WrongFile(_) => StatusCode::UNPROCESSABLE_ENTITY,
            AdminError::NoSuchUser(_)
            | AdminError::OnlyAdministrator(_)
            | AdminError::NothingStored(_)
            | AdminError::NoSuchDirectory(_) => StatusCode::NOT_FOUND,
            AdminError::SyncFailed(_) | AdminError::License(LicenseFailure::Unreachable(_)) => {
                StatusCode::BAD_GATEWAY
            }
            AdminError::License(LicenseFailure::Refused(_)) => StatusCode::CONFLICT,
            AdminError::Busy(_) | AdminError::Interrupted | AdminError::Store(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Problem::new(status, error.to_string())
    }
}

pub(super) fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

pub(super) fn segment(segment: Segment) -> Result<String, Problem> {
    match segment {
        Ok(Path(text)) => Ok(text),
        Err(rejection) => Err(bad_request(format!("the path is wrong: {}", rejection.body_text()))),
    }
}

pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    match Query::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(bad_request(format!("the query is wrong: {}", rejection.body_text()))),
    }
}

/// The value of `inactive`.
pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
    humantime::parse_duration(text).map_err(|error| {
        bad_request(format!("the query is wrong: inactive={text:?}: {error}; write it like 180d"))
    })
}

/// The query of a route that takes none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

async fn status(State(admin): State<Admin>, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.status().await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersQuery {
    seated: Option<bool>,
    inactive: Option<String>,
    #[serde(default)]
    never: bool,
    domain: Option<String>,
    #[serde(default)]
    sort: SortParameter,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "kebab-case")]
enum SortParameter {
    #[default]
    Name,
    LastLogin,
    Granted,
}

impl UsersQuery {
    fn checked(self) -> Result<UserQuery, Problem> {
        Ok(UserQuery {
            seated: self.seated,
            inactive: self.inactive.as_deref().map(duration).transpose()?,
            never: self.never,
            domain: self.domain,
            sort: match self.sort {
                SortParameter::Name => UserSort::Name,
                SortParameter::LastLogin => UserSort::LastLogin,
                SortParameter::Granted => UserSort::Granted,
            },
        })
    }
}

async fn users(State(admin): State<Admin>, uri: Uri) -> Answer {
    let list = admin.users(query::<UsersQuery>(&uri)?.checked()?).await?;
    stream::users(list).await
}

async fn explain(State(admin): State<Admin>, address: Segment, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.explain(&segment(address)?).await?))
}

async fn grant(State(admin): State<Admin>, address: Segment, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    let change = admin.grant(&segment(address)?).await?;
    if !change.done {
        let detail = format!("{} gets no seat ({}): {}", change.user, change.outcome, change.message);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Ok(json(StatusCode::OK, &change))
}

async fn forget(State(admin): State<Admin>, address: Segment, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.forget(&segment(address)?).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseQuery {
    #[serde(default)]
    force: bool,
}

async fn release(State(admin): State<Admin>, address: Segment, uri: Uri) -> Answer {
    let ReleaseQuery { force } = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.release(&segment(address)?, force).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    user: Option<String>,
    limit: Option<usize>,
}

async fn history(State(admin): State<Admin>, uri: Uri) -> Answer {
    let HistoryQuery { user, limit } = query(&uri)?;
    let limit = limit.unwrap_or(HISTORY_DEFAULT);
    if limit > HISTORY_MAX {
        return Err(bad_request(format!("the query is wrong: limit={limit}: at most {HISTORY_MAX}")));
    }
    let history = admin.history(user.as_deref(), limit).await?;
    Ok(json(StatusCode::OK, &History { history }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncQuery {
    #[serde(default)]
    full: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    wait: bool,
}

async fn sync(State(admin): State<Admin>, name: Segment, uri: Uri) -> Answer {
    let SyncQuery { full, dry_run, wait } = query(&uri)?;
    Ok(report(admin.sync(&segment(name)?, full, dry_run, wait).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApproveQuery {
    r#match: Option<MatchParameter>,
    #[serde(default)]
    wait: bool,
}

async fn approve(State(admin): State<Admin>, name: Segment, uri: Uri) -> Answer {
    let ApproveQuery { r#match, wait } = query(&uri)?;
    Ok(report(admin.approve(&segment(name)?, r#match.map(Into::into), wait).await?))
}

fn report(report: Option<SyncReport>) -> Response<Body> {
    match report {
        Some(report) => json(StatusCode::OK, &report),
        None => json(StatusCode::ACCEPTED, &Started { started: true }),
    }
}

async fn verify(State(admin): State<Admin>, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    let verification = tokio::task::spawn_blocking(move || admin.verify()).await.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the check ended early: {error}"))
    })?;
    Ok(json(StatusCode::OK, &verification?))
}

async fn backup(State(admin): State<Admin>, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    stream::backup(admin.backup().await?).await
}

#[cfg(test)]
mod tests;
