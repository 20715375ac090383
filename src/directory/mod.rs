//! Reads directories: the only module that names the LDAP library.
//!
//! Every driver tells the same [`Event`]s through a bounded channel, so that a slow store slows the
//! server down instead of filling memory:
//!
//! - [`Connection`] opens one of a directory's servers and sweeps it page by page (RFC 2696);
//! - [`Connection::follow`] and [`Connection::poll`] tell only changes, from a cookie on;
//! - [`Connection::members`] reads a group, of which only the members are to be mapped;
//! - [`Watch`] says that a poll would find something;
//! - [`Connection::reconcile`] compares the ids of everything with the mirror before that;
//! - [`Verifier`] verifies passwords of users;
//! - [`mod@file`] reads an LDIF file (RFC 2849) whose content [`ldif`] parses.
//!
//! **[`Event::EndRefresh`] is the only word that lets users be removed**, and it is sent in one place
//! each: after the last page of a search that the server called a success, at the end of a refresh or a
//! poll that the server told to its end, and after the end of a file that was valid from end to end and did
//! not change meanwhile. Whatever else happens (an error, a size or time limit, a closed connection, a
//! deadline, a consumer that left) is a [`DirectoryError`].
//!
//! **Hostile bytes.** What a server sends is parsed here without panics where the LDAP library leaves it
//! raw. The library itself recurses as deep as a message nests and buffers as much as a head announces, so
//! `relay` stands between the server and it, and ends the connection at the first byte that is not as
//! `frame` wants it. The library also panics on some messages whose shape is right and whose content is not,
//! so all of its code runs in a task of its own, and a panic there becomes [`DirectoryError::Panicked`] (a
//! panic hook that ends the process asks [`is_guarded`] first). The task ends with the future that waits for
//! it.

mod adpoll;
mod batch;
mod ber;
mod bookmark;
mod changelog;
mod connect;
mod contentsync;
mod dirsync;
mod dirsync_wire;
mod error;
pub mod file;
mod frame;
mod group;
mod guard;
mod identity;
mod ldap;
pub mod ldif;
mod notify;
mod reconcile;
mod relay;
mod rfc4533;
mod root_dse;
mod srv;
mod sweep;
mod sync_search;
mod syncrepl;
mod tcp;
mod tls;
mod usn;
mod verify;

pub use changelog::{Changes, Coverage, Evidence};
pub use error::{ConnectStep, DirectoryError, LdapResult, ServerError, ServerProblem, Violation};
pub use group::keeps_member_of;
pub use guard::is_guarded;
pub use ldap::{Connection, LastServer};
pub use notify::Watch;
pub use reconcile::Known;
pub use root_dse::Server;
pub use srv::SrvProblem;
pub use sweep::Swept;
pub use verify::Verifier;

use std::sync::Arc;

use crate::domain::course::Mechanism;
use crate::domain::directory::LdapSource;
use crate::domain::mapping::Entry;
use crate::domain::name::StableId;
pub use crate::domain::sync::Authority;

/// Whether the mirror has a living user with this id and the DN of this entry, or nobody would be mapped.
pub type IsKnown = Arc<dyn Fn(&StableId, &Entry) -> bool + Send + Sync>;

/// What content synchronization of 389 Directory Server needs, which is only a hint there.
#[derive(Clone)]
pub struct Hinted {
    /// For a second connection, to the same server.
    pub server: LdapSource,
    /// The mirror.
    pub is_known: IsKnown,
    /// Attributes that it looks at.
    pub reads: &'static [&'static str],
    /// Of the runs before, and for those to come.
    pub evidence: Evidence,
}

/// How a domain controller is polled.
pub struct Poll {
    /// [`Mechanism::DirSync`] or [`Mechanism::Usn`].
    pub mechanism: Mechanism,
    /// Where the last poll ended.
    pub cookie: Option<Vec<u8>>,
    /// When the ids of everything are compared with the mirror.
    pub compares: Compares,
    /// Asks the mirror.
    pub is_known: IsKnown,
}

/// When a poll compares the ids of everything with the mirror.
#[derive(Clone, Debug, Default)]
pub enum Compares {
    /// When it is time for it.
    #[default]
    InTime,
    /// Now, so that a proof right after it finds nothing but drift.
    Now,
    /// Now, and with this cookie, at which they were proved equal.
    With(Vec<u8>),
}

/// What a driver tells of its directory.
#[derive(Debug)]
pub enum Event {
    /// Entries that exist, a bounded batch of them.
    Upserts(Vec<Entry>),
    /// Entries that exist, and of which the mirror should know already: what differs is drift.
    Differences(Vec<Entry>),
    /// Entries that exist and did not change.
    Present(Vec<StableId>),
    /// Entries that are gone.
    Deletes(Vec<StableId>),
    /// The refresh is over. Only now may users be removed, as far as the authority goes; a refresh that ends
    /// without it removes nobody. With a cookie the next one can begin here.
    EndRefresh(Authority, Option<Vec<u8>>),
    /// Every change up to here was told, and this cookie covers them.
    Checkpoint(Vec<u8>),
}
