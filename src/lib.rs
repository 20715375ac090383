//! Seatkeeper: directory sync and seat licensing for mail servers.
//!
//! A mail product is licensed by the mailbox. This daemon maps every user of a directory into a store of
//! its own, gives a seat to whoever logs in for the first time, and refuses new ones when all seats are
//! taken, while those who hold one go on working. Mail servers ask it over protocols that they speak.
//!
//! # The map
//!
//! ```text
//! main ─ cli          what was typed, and the exit code
//!   │
//! daemon              start, sync loops, reload, drain; the only one that knows everybody
//!   ├── config        TOML -> checked values, or mistakes with their place
//!   ├── directory     LDAP servers and LDIF files -> entries (the only module that names ldap3)
//!   ├── licensing     signed token -> licence, or why not; asking a licence server; signing
//!   ├── front         one file a protocol: parse -> Ask -> Verdict -> render
//!   ├── admin         the API on the control socket, and its client, the command line
//!   │     ├── import  CSV and LDIF files -> rows of users
//!   │     └── net     sockets, the accept loop, HTTP; shared by front and admin
//!   └── service       the handles `Admission` and `Admin`: all that front and admin may call
//!         └── store   tables, read views, the one writer (the only module that names redb)
//!               └── clock   the machine's clocks; goes on from the time that the store kept
//! issuer              the vendor's side: keys, licences by hand, the licence server; beside the daemon
//! domain              the rules, which everybody above uses and which use nobody
//! ```
//!
//! | to find | look in |
//! | --- | --- |
//! | who may come in, and why not | [`domain::admission::decide`] |
//! | how an entry becomes a user | [`domain::mapping`] |
//! | which mailboxes need no seat | [`domain::filter`], `store::seatless` |
//! | seats of a mail domain | [`domain::names::mail_domain`], `store::domains` |
//! | who is in the required group | [`domain::group`], `directory::group`, `daemon::group` |
//! | what a sweep may take away | [`domain::sync`] |
//! | what goes from one entry of a person to another | [`domain::moves`], `store::carry`, `store::relocate`, `store::retired` |
//! | how much may be taken away within an hour | [`domain::brake`] |
//! | how a seat is granted and made durable | `store::transaction`, `store::writer` |
//! | how local and imported accounts change | `store::accounts`, `store::import` |
//! | what is made true after every change | `store::settle` |
//! | what a login goes through | [`service::Admission::admit`] |
//! | what a password goes through | [`service::passwords::Authenticator::log_in`], [`directory::Verifier`] |
//! | how a protocol is spoken | its file in [`front`], over [`net::dialogue`] or [`net::http`] |
//! | what a change in a directory goes through | `daemon::intake`, `daemon::follow` |
//! | what time it is, and when that is in doubt | [`domain::clock`], [`clock`] |
//! | what a licence means at a moment | [`domain::license`] |
//! | which tokens are licences | `licensing::token` |
//! | how a licence is installed, refreshed and followed through its dates | `daemon::license` |
//! | what a sync does next, and why | [`domain::course`] |
//! | what can be typed | [`cli`] |
//! | what can be configured | [`config`], and `config/seatkeeper.toml` |
//!
//! # A login, end to end
//!
//! A front end parses the request and calls [`service::Admission::admit`]. It takes the view of the store
//! that was published last and asks [`domain::admission::decide`]. A holder is answered at once; the time
//! of the login is collected, and written within [`service::FLUSH_EVERY`] if the stored one is an hour old. If a
//! seat would be taken, the writer asks `decide` again, inside its transaction, and the answer is given after
//! the commit. Requests that wait meanwhile share the next commit.
//!
//! Where a server hands us the password, [`service::passwords`] comes before that: a slot of the throttle, a turn of
//! the user's, then a bind at the directory through [`service::passwords::Verify`], which `daemon::passwords`
//! implements over [`directory::Verifier`], so that neither side knows the other. Only a right password goes on to the
//! decision; no answer is an error, which each front end tells by its protocol's own sign.
//!
//! # A change in a directory, end to end
//!
//! `daemon::sync` does what [`domain::course::Course`] decides: it begins a run, waits, or goes on following.
//! A driver in [`directory`] tells batches of entries through a bounded channel. `daemon::intake` maps them,
//! compares them with the view, and sends those that differ to the writer in short transactions. Entries
//! that would take something away are held back. When the driver has told its refresh to the end, and only
//! then, the brake judges what is missing and what is held back, with what went in the last hour. All of it is
//! applied, and the cookie is kept with the last of it; or only what takes nothing away, and no cookie is kept.
//! Where changes come by themselves, `daemon::follow` writes each group of them with the cookie that covers it,
//! by the same judgement. Now and then a run reconciles: it compares everything with the mirror, and what no
//! change had told counts as drift.
//!
//! # A licence, end to end
//!
//! It comes by a file, an administrator or the licence server. [`licensing::token::verify`] proves who signed it,
//! [`domain::license::License::check`] whether it may be installed here and now. `daemon::license` keeps it in the
//! store and puts what a login needs of it, seats and components and whether it has expired, into the store's
//! policy, anew whenever one of its dates comes; so no login looks at a signature or a date. What is wrong with a
//! newer licence leaves the one before in force, and so does a server that is down.
//!
//! # Invariants
//!
//! 1. **Never oversold.** A seat is inserted in one place, `Transaction::grant`, after `decide` in the
//!    same transaction; there is one writer.
//! 2. **Granted means durable.** The writer answers after the commit, and publishes the new view before.
//! 3. **A holder enters.** `decide` looks at the limit only after it has looked for a seat.
//! 4. **Mapping never depends on seats.** `daemon::intake` does not know the limit.
//! 5. **An error is not an empty directory.** Only [`directory::Event::EndRefresh`] lets a sweep remove.
//! 6. **Identity is the stable id.** User keys are never used twice; names only lead to keys.
//! 7. **An outage never looks like a refusal**: no decision is an error of the protocol, never a verdict.
//! 8. **Everything is bounded**: each queue, body, batch, wait and count has a named constant that says why.
//!
//! # Absences
//!
//! The domain reads no clock and does no I/O. Front ends see neither the store nor a directory. Directories
//! see no store. `tests/tidy.rs` fails when one of these is no longer true.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod directory;
pub mod domain;
pub mod front;
pub mod import;
pub mod issuer;
pub mod licensing;
pub mod net;
pub mod service;
pub mod store;
