//! The rules, pure: no async, no I/O, no clock, no logging. Time is a parameter.
//!
//! `tests/tidy.rs` fails when a file here names a runtime, a store, a directory library or a clock.

pub mod account;
pub mod admission;
pub mod backup;
pub mod brake;
pub mod clock;
pub mod course;
pub mod directory;
pub mod filter;
pub mod group;
pub mod host;
pub mod ldap_text;
pub mod license;
pub mod mail_server;
pub mod mapping;
pub mod moves;
pub mod name;
pub mod names;
pub mod password;
mod preset;
pub mod refresh;
pub mod seats;
pub mod sync;
pub mod user;
