//! `/v1/reclaim` and `/v1/refused`. They do not stand below `/v1/seats`, where every word is a user's name.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

use super::server::{Answer, bad_request, duration, query};
use crate::net::http::json;
use crate::service::Admin;
use crate::service::answers::RefusedLine;

/// Lines of one answer where the query says nothing.
const REFUSED_DEFAULT: usize = 100;

/// Lines of one answer at most: it is built in memory.
const REFUSED_MAX: usize = 10_000;

/// `GET /v1/refused`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Refused {
    /// The latest first.
    pub(super) refused: Vec<RefusedLine>,
}

pub(super) fn routes(admin: Admin) -> Router {
    Router::new().route("/v1/reclaim", post(reclaim)).route("/v1/refused", get(refused)).with_state(admin)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReclaimQuery {
    inactive: String,
    #[serde(default)]
    dry_run: bool,
}

async fn reclaim(State(admin): State<Admin>, uri: Uri) -> Answer {
    let ReclaimQuery { inactive, dry_run } = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.reclaim(duration(&inactive)?, dry_run).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefusedQuery {
    limit: Option<usize>,
}

async fn refused(State(admin): State<Admin>, uri: Uri) -> Answer {
    let limit = query::<RefusedQuery>(&uri)?.limit.unwrap_or(REFUSED_DEFAULT);
    if limit > REFUSED_MAX {
        return Err(bad_request(format!("the query is wrong: limit={limit}: at most {REFUSED_MAX}")));
    }
    Ok(json(StatusCode::OK, &Refused { refused: admin.refused(limit).await? }))
}
