//! Listening: sockets, the one accept loop, and on top HTTP and the loop of all other protocols. Knows no
//! protocol of its own and no users.

pub mod dialogue;
pub mod http;
pub mod problem;
pub mod serve;
pub mod socket;
