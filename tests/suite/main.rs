//! Tests against real servers, which `tests/run.sh` installs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod accounts;
mod bind;
mod brake;
mod commands;
mod contentsync;
mod crash;
mod directory;
mod dirsync;
mod ds389;
mod failover;
mod group;
mod hostile;
mod hostile_sync;
mod identity;
mod ldif;
mod lifecycle;
mod mail;
mod outage;
mod postfix;
mod progress;
mod reclaim;
mod reconcile;
mod reload;
mod samba;
mod seats;
mod srv;
mod support;
mod syncrepl;
mod wire;
