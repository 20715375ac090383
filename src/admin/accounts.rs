//! `/v1/accounts`: local and imported accounts.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::routing::{post, put};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::server::{Answer, NoQuery, Segment, bad_request, query, segment};
use crate::net::http::{json, read_body};
use crate::service::Admin;

/// The body of `PUT /v1/accounts/{address}`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// Further addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) aliases: Vec<String>,
}

/// The body of `PUT /v1/accounts/{address}/password`. Not `Debug`: there is a password in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    /// In plain text, since the socket doesn't leave the machine.
    pub(super) password: String,
}

impl Drop for NewPassword {
    fn drop(&mut self) {
        self.password.zeroize();
    }
}

pub(super) fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/v1/accounts/{address}", put(add).delete(remove))
        .route("/v1/accounts/{address}/password", put(set_password))
        .route("/v1/accounts/{address}/enable", post(enable))
        .route("/v1/accounts/{address}/disable", post(disable))
        .with_state(admin)
}

async fn add(State(admin): State<Admin>, address: Segment, request: Request) -> Answer {
    let NoQuery {} = query(request.uri())?;
    let body = read_body(request.into_body()).await?;
    let description: Description = match body.is_empty() {
        true => Description::default(),
        false => serde_json::from_slice(&body)
            .map_err(|error| bad_request(format!("the body is wrong: {error}")))?,
    };
    let Description { name, aliases } = description;
    let report = admin.add_account(&segment(address)?, name.as_deref(), &aliases).await?;
    Ok(json(StatusCode::OK, &report))
}

async fn remove(State(admin): State<Admin>, address: Segment, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.remove_account(&segment(address)?).await?))
}

async fn set_password(State(admin): State<Admin>, address: Segment, request: Request) -> Answer {
    let NoQuery {} = query(request.uri())?;
    let body = read_body(request.into_body()).await?;
    // What is wrong may be the password, so it isn't said back.
    let new: NewPassword = serde_json::from_slice(&body)
        .map_err(|_| bad_request("the body is wrong: it is no object with the string password".to_owned()))?;
    let report = admin.set_account_password(&segment(address)?, new.password.as_bytes()).await?;
    Ok(json(StatusCode::OK, &report))
}

async fn enable(State(admin): State<Admin>, address: Segment, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.enable_account(&segment(address)?).await?))
}

async fn disable(State(admin): State<Admin>, address: Segment, uri: Uri) -> Answer {
    let NoQuery {} = query(&uri)?;
    Ok(json(StatusCode::OK, &admin.disable_account(&segment(address)?).await?))
}
