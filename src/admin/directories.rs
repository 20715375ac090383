//! `/v1/directories`: what is stored of directories, configured or not.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::{delete, get, post};
use serde::Deserialize;

use super::server::{Answer, NoQuery, Segment, query, segment};
use crate::net::http::json;
use crate::service::Admin;

pub(super) fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/v1/directories", get(list))
        .route("/v1/directories/{name}", delete(forget))
        .route("/v1/directories/{name}/rename", post(rename))
        .with_state(admin)
}

async fn list(State(admin): State<Admin>, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.directories_stored()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RenameQuery {
    to: String,
    #[serde(default)]
    dry_run: bool,
}

async fn rename(State(admin): State<Admin>, name: Segment, uri: Uri) -> Answer {
    let RenameQuery { to, dry_run } = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.rename_directory(&segment(name)?, &to, dry_run).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn forget(State(admin): State<Admin>, name: Segment, uri: Uri) -> Answer {
    let ForgetQuery { dry_run } = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.forget_directory(&segment(name)?, dry_run).await?))
}
