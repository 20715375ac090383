//! The one writer: a thread that owns every change.
//!
//! Commands wait in a bounded queue. The thread takes all that are waiting, applies them in one
//! transaction, commits, publishes the new view, and only then answers them: concurrent grants share a
//! commit, and no answer is given before its change is on disk (group commit).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use redb::{Database, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::clock;
use super::directories::Directories;
use super::file::{Opened, begin};
use super::names::Adopted;
use super::preview::{self, Preview};
use super::settle::Settled;
use super::transaction::Transaction;
use super::trouble::Owner;
use super::view::ReadView;
use super::{
    AccountChanged, Admitted, Applied, Changes, Forgotten, Granted, Grants, Import, Imported, Kin,
    LastLoginOf, LicenseRecord, Moved, NotRetired, Part, Policy, Released, Shared, StoreError,
};
use crate::domain::account::{AccountChange, AccountRefusal};
use crate::domain::admission::Request;
use crate::domain::moves::NotMoved;
use crate::domain::name::Name;
use crate::domain::names::NameRules;
use crate::domain::seats::{LastLogin, Refusals, ReleaseReason};
use crate::domain::sync::Report;
use crate::domain::user::{DirectoryId, UserKey};

/// Commands that may wait. A mail server opens some twenty connections, so this is far more than can
/// honestly wait at once; who finds the queue full waits to get in.
pub(super) const QUEUE: usize = 1024;

/// Commands in one commit, so that the first of them does not wait for an endless transaction.
const COMMANDS_A_COMMIT: usize = 256;

/// Where an answer goes.
type Reply<T> = oneshot::Sender<T>;

/// Everything that can change the store.
pub(super) enum Command {
    /// Decide, and take the seat if that is the decision.
    Admit { name: Name, request: Request, now: Timestamp, reply: Reply<Admitted> },
    /// Take a seat back.
    Release { key: UserKey, reason: ReleaseReason, now: Timestamp, reply: Reply<Option<Released>> },
    /// Change a local or imported account.
    Account { change: AccountChange, now: Timestamp, reply: Reply<Result<AccountChanged, AccountRefusal>> },
    /// Grant seats to a list of users, in a transaction of its own.
    GrantList { grants: Box<Grants>, reply: Reply<Granted> },
    /// Import a file, in a transaction of its own.
    Import { import: Box<Import>, reply: Reply<Result<Imported, String>> },
    /// Find or make the number of a directory.
    Directory { name: String, reply: Reply<DirectoryId> },
    /// Write a bounded part of a sync.
    Apply { directory: DirectoryId, changes: Changes, now: Timestamp, reply: Reply<Applied> },
    /// Forget tombstones made at or before `cutoff`, at most `limit` of them.
    Purge { cutoff: Timestamp, now: Timestamp, limit: usize, reply: Reply<Vec<Released>> },
    /// Forget one tombstone.
    Forget { key: UserKey, now: Timestamp, reply: Reply<Option<Forgotten>> },
    /// Carry over what users have to other entries of theirs.
    Carry {
        pairs: Vec<(UserKey, UserKey)>,
        kin: Kin,
        now: Timestamp,
        reply: Reply<Vec<Result<Moved, NotMoved>>>,
    },
    /// One part of forgetting a directory that is not configured, or of carrying it over to another one.
    Retire { directory: String, to: Option<String>, now: Timestamp, reply: Reply<Result<Part, NotRetired>> },
    /// Write coalesced last logins and refusals.
    RecordActivity {
        logins: Vec<(UserKey, LastLogin)>,
        refusals: Vec<(UserKey, Refusals)>,
        strangers: Vec<(Name, Refusals)>,
        reply: Reply<()>,
    },
    /// Take the seats back of those who were not active since `cutoff`.
    Reclaim {
        keys: Vec<UserKey>,
        cutoff: Timestamp,
        now: Timestamp,
        last_login: LastLoginOf,
        reply: Reply<Vec<(UserKey, Released)>>,
    },
    /// Drop old lines of the ledger.
    TrimLedger { cutoff: Timestamp, limit: usize, reply: Reply<u64> },
    /// Forget old refusals.
    ForgetRefusals { users: Vec<UserKey>, strangers: Vec<Name>, cutoff: Timestamp, reply: Reply<()> },
    /// Replace what is kept of the licence.
    KeepLicense { record: Box<LicenseRecord>, reply: Reply<()> },
    /// Run a whole sweep in a transaction that is dropped.
    Preview { preview: Box<Preview>, reply: Reply<Report> },
    /// Write the time, and whether the daemon stops.
    KeepTime { is_stop: bool, reply: Reply<()> },
    /// Show that the writer is alive.
    Ping { reply: Reply<()> },
    /// Answer when everything before was done or has failed.
    Conclude { reply: Reply<()> },
    /// Look after the disk.
    Look { reply: Reply<()> },
    /// This view could not be read: publish one that can.
    Replace { failed: Arc<ReadView>, reply: Reply<()> },
}

impl Command {
    /// Whether it has a transaction of its own, or none.
    fn stands_alone(&self) -> bool {
        use Command::{Conclude, GrantList, Import, Look, Preview, Replace};
        matches!(
            self,
            Preview { .. }
                | Import { .. }
                | GrantList { .. }
                | Conclude { .. }
                | Look { .. }
                | Replace { .. }
        )
    }
}

/// An answer that waits for the commit.
type Answer = Box<dyn FnOnce() + Send>;

/// Runs until the last handle is dropped. While the disk takes no writes, commands are dropped unanswered: whoever
/// asked gets an error, and readers go on.
pub(super) fn run(mut owner: Owner, shared: &Shared, mut commands: mpsc::Receiver<Command>) {
    let mut held_back = None;
    loop {
        let Some(first) = held_back.take().or_else(|| commands.blocking_recv()) else { return };
        if first.stands_alone() {
            run_alone(&mut owner, shared, first);
            continue;
        }
        let mut batch = vec![first];
        while batch.len() < COMMANDS_A_COMMIT {
            match commands.try_recv() {
                Ok(command) if command.stands_alone() => {
                    held_back = Some(command);
                    break;
                }
                Ok(command) => batch.push(command),
                Err(_) => break,
            }
        }
        if let Some(answers) = owner.attempt(shared, |opened| commit(opened, shared, batch)) {
            for answer in answers {
                answer();
            }
        }
    }
}

fn run_alone(owner: &mut Owner, shared: &Shared, command: Command) {
    match command {
        Command::Preview { preview, reply } => {
            if let Some(report) = owner.attempt(shared, |opened| run_preview(&opened.db, shared, *preview)) {
                let _ = reply.send(report);
            }
        }
        // Nobody would learn of it.
        Command::Import { reply, .. } if reply.is_closed() => {}
        Command::Import { import, reply } => {
            if let Some(imported) = owner.attempt(shared, |opened| run_import(opened, shared, *import)) {
                let _ = reply.send(imported);
            }
        }
        Command::GrantList { reply, .. } if reply.is_closed() => {}
        Command::GrantList { grants, reply } => {
            if let Some(granted) = owner.attempt(shared, |opened| run_grants(opened, shared, *grants)) {
                let _ = reply.send(granted);
            }
        }
        Command::Conclude { reply } => {
            let _ = reply.send(());
        }
        Command::Look { reply } => {
            owner.look(shared);
            let _ = reply.send(());
        }
        Command::Replace { failed, reply } => {
            owner.replace(shared, &failed);
            let _ = reply.send(());
        }
        // `stands_alone` names all the others.
        _ => {}
    }
}

fn commit(opened: &Opened, shared: &Shared, batch: Vec<Command>) -> Result<Vec<Answer>, StoreError> {
    let (policy, now) = (shared.policy(), shared.clock.now());
    let txn = begin(&opened.db)?;
    let (mut transaction, adopted) = open(&txn, shared, &policy.names)?;
    let mut answers = Vec::with_capacity(batch.len());
    for command in batch {
        if let Some(answer) = apply(command, &mut transaction, &policy, now)? {
            answers.push(answer);
        }
    }
    let settled = transaction.settle(&policy, adopted, now)?;
    let changed = transaction.finish()?;
    finish(opened, shared, txn, changed, &settled)?;
    Ok(answers)
}

/// Commits what was changed, with the rules that it follows from, publishes it, and logs what was settled.
fn finish(
    opened: &Opened,
    shared: &Shared,
    txn: WriteTransaction,
    changed: Option<(Directories, Arc<NameRules>)>,
    settled: &Settled,
) -> Result<(), StoreError> {
    let Some((directories, rules)) = changed else { return Ok(txn.abort()?) };
    let time = shared.clock.due();
    if let Some(time) = &time {
        clock::keep(&txn, time)?;
    }
    txn.commit()?;
    opened.is_written()?;
    if time.is_some() {
        shared.clock.was_kept();
    }
    shared.publish(ReadView::open(&opened.db, directories, rules)?);
    settled.tell();
    Ok(())
}

/// Opens the tables with the rules of names that are in force.
fn open<'t>(
    txn: &'t WriteTransaction,
    shared: &Shared,
    names: &NameRules,
) -> Result<(Transaction<'t>, Adopted), StoreError> {
    let view = shared.view();
    let mut transaction = Transaction::open(txn, view.directories.clone(), Arc::clone(&view.rules))?;
    let beat = || {
        shared.beats.fetch_add(1, Ordering::Relaxed);
    };
    let adopted = transaction.adopt_rules(names, &beat)?;
    Ok((transaction, adopted))
}

fn apply(
    command: Command,
    transaction: &mut Transaction<'_>,
    policy: &Arc<Policy>,
    now: Timestamp,
) -> Result<Option<Answer>, StoreError> {
    fn answer<T: Send + 'static>(reply: Reply<T>, value: T) -> Option<Answer> {
        // Whoever asked may have gone meanwhile; the change stands all the same.
        Some(Box::new(move || drop(reply.send(value))))
    }
    Ok(match command {
        // Nobody would learn of the seat: its client has gone, so it is not taken.
        Command::Admit { reply, .. } if reply.is_closed() => None,
        Command::Admit { name, request, now, reply } => {
            answer(reply, transaction.admit(&name, &request, policy, now)?)
        }
        Command::Release { key, reason, now, reply } => answer(reply, transaction.release(key, reason, now)?),
        // As above: nobody would learn of it.
        Command::Account { reply, .. } if reply.is_closed() => None,
        Command::Account { change, now, reply } => answer(reply, transaction.account(change, policy, now)?),
        Command::Directory { name, reply } => answer(reply, transaction.directory(&name)?),
        Command::Apply { directory, changes, now, reply } => {
            answer(reply, transaction.apply(directory, changes, now)?)
        }
        Command::Purge { cutoff, now, limit, reply } => answer(reply, transaction.purge(cutoff, now, limit)?),
        Command::Forget { key, now, reply } => answer(reply, transaction.forget_removed(key, now)?),
        Command::Reclaim { keys, cutoff, now, last_login, reply } => {
            answer(reply, transaction.reclaim(&keys, cutoff, now, &last_login)?)
        }
        Command::Carry { pairs, kin, now, reply } => {
            answer(reply, transaction.carry_pairs(&pairs, kin, now)?)
        }
        Command::Retire { directory, to, now, reply } => {
            answer(reply, transaction.retire(&directory, to.as_deref(), now)?)
        }
        Command::RecordActivity { logins, refusals, strangers, reply } => {
            transaction.record_activity(&logins, &refusals, &strangers, now)?;
            answer(reply, ())
        }
        Command::TrimLedger { cutoff, limit, reply } => {
            answer(reply, transaction.trim_ledger(cutoff, limit)?)
        }
        Command::ForgetRefusals { users, strangers, cutoff, reply } => {
            transaction.forget_refusals(&users, &strangers, cutoff)?;
            answer(reply, ())
        }
        Command::KeepLicense { record, reply } => {
            transaction.keep_license(&record)?;
            answer(reply, ())
        }
        Command::KeepTime { is_stop, reply } => {
            transaction.is_stop = is_stop;
            transaction.is_dirty = true;
            answer(reply, ())
        }
        Command::Ping { reply } => answer(reply, ()),
        // `run` takes these out before.
        Command::Preview { .. }
        | Command::GrantList { .. }
        | Command::Import { .. }
        | Command::Conclude { .. }
        | Command::Look { .. }
        | Command::Replace { .. } => None,
    })
}

/// Imports a file, or drops the transaction.
fn run_import(
    opened: &Opened,
    shared: &Shared,
    import: Import,
) -> Result<Result<Imported, String>, StoreError> {
    run_list(opened, shared, |transaction, policy, beat| {
        let imported = transaction.import(import, policy, beat)?;
        let is_applied = imported.as_ref().is_ok_and(|imported| imported.applied);
        Ok((imported, is_applied))
    })
}

/// Grants a list of seats, or drops the transaction.
fn run_grants(opened: &Opened, shared: &Shared, grants: Grants) -> Result<Granted, StoreError> {
    run_list(opened, shared, |transaction, policy, beat| {
        let granted = transaction.grant_list(grants, policy, beat)?;
        let is_applied = granted.applied;
        Ok((granted, is_applied))
    })
}

/// Runs what changes many users in one transaction, which is dropped where it says that it is not to be applied.
fn run_list<T>(
    opened: &Opened,
    shared: &Shared,
    list: impl FnOnce(&mut Transaction<'_>, &Policy, &dyn Fn()) -> Result<(T, bool), StoreError>,
) -> Result<T, StoreError> {
    let policy = shared.policy();
    let txn = begin(&opened.db)?;
    let (mut transaction, adopted) = open(&txn, shared, &policy.names)?;
    let beat = || {
        shared.beats.fetch_add(1, Ordering::Relaxed);
    };
    let (outcome, is_applied) = list(&mut transaction, &policy, &beat)?;
    if is_applied {
        let settled = transaction.settle(&policy, adopted, shared.clock.now())?;
        let changed = transaction.finish()?;
        finish(opened, shared, txn, changed, &settled)?;
    } else {
        drop(transaction);
        txn.abort()?;
    }
    Ok(outcome)
}

fn run_preview(db: &Database, shared: &Shared, preview: Preview) -> Result<Report, StoreError> {
    let txn = begin(db)?;
    let (mut transaction, adopted) = open(&txn, shared, &preview.names)?;
    let report = preview::run(preview, &mut transaction, &adopted, &shared.policy())?;
    drop(transaction);
    txn.abort()?;
    Ok(report)
}
