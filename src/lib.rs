//! Seatkeeper.

pub mod config;
pub mod directory;
pub mod domain;
pub mod store;
