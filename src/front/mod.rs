//! Front ends: one file a protocol, each a pure parse and a pure render around one call of
//! [`Admission::admit`]. They see the service, and neither the store nor a directory.

pub mod dovecot_auth;
pub mod dovecot_policy;
mod forward_auth;
pub mod http;
pub mod nginx_auth;
pub mod postfix_policy;
pub mod saslauthd;
pub mod socketmap;

use axum::http::StatusCode;

use crate::net::http::REQUEST_DEADLINE;
use crate::net::problem::Problem;
use crate::service::answers::Verdict;
use crate::service::passwords::{AuthError, LONGEST_LOGIN};
use crate::service::{Admission, AdmitError, Ask};

// Else a login that found no directory would end in HTTP's own words, which no mail server passes on.
const _: () = assert!(LONGEST_LOGIN.as_millis() < REQUEST_DEADLINE.as_millis());

/// Asks for an admission. When there is no decision, the answer is an error and never looks like a refusal.
async fn admit(admission: &Admission, ask: &Ask<'_>) -> Result<Verdict, Problem> {
    admission.admit(ask).await.map_err(|error| {
        log_outage(&error);
        unavailable(&error)
    })
}

fn log_outage(error: &AdmitError) {
    tracing::warn!(error = %error, "A request could not be decided.");
}

fn log_auth_outage(error: &AuthError) {
    tracing::warn!(error = %error, "A login could not be decided: {error}.");
}

fn unavailable(error: &AdmitError) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

#[cfg(test)]
mod wire_tests;
