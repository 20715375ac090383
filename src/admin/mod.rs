//! The administration API on the control socket, and the command line as its client.

mod accounts;
mod backup;
pub mod client;
mod clock;
mod command;
mod directories;
#[cfg(test)]
pub(crate) mod fixture;
mod grants;
mod import;
mod license;
mod moves;
mod output;
mod password;
mod progress;
mod reclaim;
pub mod server;
mod stream;
mod upload;

pub use command::run;
pub use output::verification;

use serde::{Deserialize, Serialize};

use crate::service::answers::{HistoryLine, UserLine};

/// `GET /v1/users`.
#[derive(Clone, PartialEq, Eq, Deserialize, Debug)]
struct Users {
    users: Vec<UserLine>,
}

/// `GET /v1/history`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct History {
    history: Vec<HistoryLine>,
}

/// The answer to a sync that nobody waits for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Started {
    started: bool,
}
