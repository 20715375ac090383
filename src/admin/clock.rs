//! `/v1/clock/confirm`, and the command that asks for it.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::routing::post;

use super::command::{Session, Trouble};
use super::output;
use super::server::{Answer, NoQuery, query};
use crate::cli::ClockCommand;
use crate::net::http::json;
use crate::service::Admin;
use crate::service::answers::ClockChange;

/// The route, without fallbacks.
pub(super) fn routes(admin: Admin) -> Router {
    Router::new().route("/v1/clock/confirm", post(confirm)).with_state(admin)
}

async fn confirm(State(admin): State<Admin>, request: Request) -> Answer {
    let NoQuery {} = query(request.uri())?;
    Ok(json(StatusCode::OK, &admin.confirm_clock().await?))
}

impl Session<'_> {
    /// Runs a command about the clock.
    pub(super) async fn clock(&mut self, ClockCommand::Confirm: &ClockCommand) -> Result<(), Trouble> {
        let answer = self.client.request(Method::POST, "/v1/clock/confirm").await?;
        self.show(&answer, |change: &ClockChange| format!("{}\n", output::clean(&change.message)))
    }
}
