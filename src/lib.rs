//! Seatkeeper.

pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod directory;
pub mod domain;
pub mod front;
pub mod net;
pub mod service;
pub mod store;
