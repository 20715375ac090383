//! Tests against real servers, which `tests/run.sh` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod brake;
mod crash;
mod directory;
mod hostile;
mod identity;
mod ldif;
mod outage;
mod seats;
mod support;
