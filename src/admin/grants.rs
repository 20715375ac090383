//! `/v1/grants`: seats for a list of users. It does not stand below `/v1/seats`, where every word is a user's name.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;

use super::server::{Answer, bad_request, query};
use crate::net::http::json;
use crate::net::problem::Problem;
use crate::service::{Admin, ImportMode};

/// The longest list, which is kept in memory: a hundred thousand addresses are some 3 MB.
pub(super) const MAX_LIST_BYTES: usize = 16 << 20;

pub(super) fn routes(admin: Admin) -> Router {
    Router::new().route("/v1/grants", post(grant)).with_state(admin)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantsQuery {
    #[serde(default)]
    partial: bool,
    #[serde(default)]
    dry_run: bool,
}

async fn grant(State(admin): State<Admin>, request: Request<Body>) -> Answer {
    let GrantsQuery { partial, dry_run } = query(request.uri())?;
    let bytes = to_bytes(request.into_body(), MAX_LIST_BYTES)
        .await
        .map_err(|_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, too_long()))?;
    let list = String::from_utf8(bytes.into()).map_err(|_| bad_request("the list is not UTF-8 text"))?;
    let list = list.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(list);
    Ok(json(StatusCode::OK, &admin.grant_list(list, ImportMode { partial, dry_run }).await?))
}

/// What to say of a longer list.
pub(super) fn too_long() -> String {
    format!("the list is longer than {} MiB: split it", MAX_LIST_BYTES >> 20)
}
