//! `/v1/moves`: seats that follow people to other entries.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use serde::Deserialize;

use super::server::{Answer, bad_request, query};
use crate::domain::moves::MatchBy;
use crate::net::http::json;
use crate::service::Admin;
use crate::service::moves::MoveOrder;

pub(super) fn routes(admin: Admin) -> Router {
    Router::new().route("/v1/moves", post(move_seats)).with_state(admin)
}

/// The value of `match`.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MatchParameter {
    Mail,
    Login,
}

impl From<MatchParameter> for MatchBy {
    fn from(parameter: MatchParameter) -> MatchBy {
        match parameter {
            MatchParameter::Mail => MatchBy::Mail,
            MatchParameter::Login => MatchBy::Login,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MovesQuery {
    old: Option<String>,
    new: Option<String>,
    r#match: Option<MatchParameter>,
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

async fn move_seats(State(admin): State<Admin>, uri: Uri) -> Answer {
    let report = match query(&uri)? {
        MovesQuery {
            old: Some(old),
            new: Some(new),
            r#match: None,
            from: None,
            to: None,
            dry_run: false,
        } => admin.move_one(&old, &new).await?,
        MovesQuery { old: None, new: None, r#match: Some(by), from: Some(from), to: Some(to), dry_run } => {
            let order = MoveOrder { by: by.into(), from, to, removed_since: None, dry_run };
            admin.move_matching(&order).await?
        }
        _ => return Err(bad_request("the query is wrong: give old and new, or match, from and to")),
    };
    Ok(json(StatusCode::OK, &report))
}
