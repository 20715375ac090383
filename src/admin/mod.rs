//! The administration API on the control socket, and the command line as its client.

pub mod server;
mod stream;

use serde::{Deserialize, Serialize};

use crate::service::answers::HistoryLine;

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
