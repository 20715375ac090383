//! Listening: sockets, the one accept loop, and HTTP on top. Knows no protocol of its own and no users.

pub mod http;
pub mod problem;
pub mod serve;
pub mod socket;
