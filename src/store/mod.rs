//! The store: the only module that names redb.
//!
//! One thread writes (`writer`), everybody reads from the view that it published last (`view`). What
//! the tables hold is listed in `tables`, what the bytes mean in `codec`.

mod accounts;
mod backup;
mod brake;
mod carry;
mod clock;
mod codec;
mod directories;
mod domains;
mod error;
mod file;
mod grants;
mod import;
pub mod issuer;
mod ledger;
mod license;
mod marker;
mod medium;
mod migrate;
mod names;
mod offline;
mod outcome;
mod preview;
mod relocate;
mod retired;
mod seatless;
mod settle;
mod tables;
mod transaction;
mod trouble;
mod verify;
mod view;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

pub use accounts::AccountChanged;
pub use backup::{BackupError, BackupInfo, check_backup, is_backup};
pub use carry::{Kin, Moved};
pub use directories::DirectoryIndex;
pub use error::StoreError;
pub use file::{is_damage, is_guarded};
pub use grants::{GrantLine, Granted, Grants};
pub use import::{Import, Imported, MAX_ROWS};
pub use license::{LicenseRecord, RefreshRecord};
pub use marker::Marker;
pub use offline::{Restored, create, restore, verify_file};
pub use outcome::*;
pub use preview::Preview;
pub use retired::{HandedOver, NotRetired, Part};
pub(crate) use settle::{log_clash, log_move, log_release};
pub use trouble::{DiskState, Trouble};
pub use verify::Finding;
pub use view::{ReadView, UserDetails};

use crate::clock::{self as machine, Clock};
use crate::domain::admission::{Request, TakeOn};
use crate::domain::brake::Hour;
use crate::domain::license::{Components, OnExpiry};
use crate::domain::name::Name;
use crate::domain::names::{LeftOut, NameRules};
use crate::domain::seats::{LastLogin, Refusals, ReleaseReason};
use crate::domain::sync::Report;
use crate::domain::user::{Census, DirectoryId, Origin, UserKey};
use file::StoreFile;
use medium::Medium;
use trouble::Owner;
use writer::Command;

/// The store's file in the state directory.
pub const FILE_NAME: &str = "seatkeeper.redb";

/// The number in the file that says how its tables are laid out.
const FORMAT: u64 = 4;

/// What the decision takes from the configuration and the licence. May change while the daemon runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Seats bought; `None` is no licence.
    pub seat_limit: Option<u64>,
    /// Mailboxes that need no seat; `None` is any number.
    pub seatless_limit: Option<u64>,
    /// Caps by directory name.
    pub directory_limits: BTreeMap<String, u64>,
    /// Caps by mail domain.
    pub domain_limits: BTreeMap<String, u64>,
    /// Which operations may take a seat.
    pub take_on: TakeOn,
    /// Who owns which names, and which is the internal administrator's, who never counts.
    pub names: NameRules,
    /// Set where the licence has expired.
    pub expired: Option<OnExpiry>,
    /// Services that need more than a seat.
    pub components: Components,
}

/// What the names of the records begin with under which local and imported accounts stand; their mail domain
/// follows. No configured directory can have a name with an `@`, so a sync, which only ever touches the users
/// of its own directory, touches none of them.
const LOCAL: &str = "@local:";
const IMPORTED: &str = "@import:";

/// What the store keeps of a directory, or of the local or imported accounts of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryRecord {
    /// The store's number.
    pub id: DirectoryId,
    /// The configured name, or one that no configuration can have.
    pub name: String,
    /// Complete sweeps so far.
    pub generation: u64,
    /// When the last complete sweep ended; `None` means never mapped.
    pub last_success: Option<Timestamp>,
    /// Its users, counted.
    pub census: Census,
    /// Entries that the last complete sweep skipped, by reason code.
    pub skipped: BTreeMap<String, u64>,
    /// What entries were mapped without in it.
    pub left_out: LeftOut,
    /// What the brake counted in the last hour.
    pub hour: Hour,
}

impl DirectoryRecord {
    fn new(id: DirectoryId, name: &str) -> DirectoryRecord {
        DirectoryRecord {
            id,
            name: name.to_owned(),
            generation: 0,
            last_success: None,
            census: Census::default(),
            skipped: BTreeMap::new(),
            left_out: LeftOut::default(),
            hour: Hour::default(),
        }
    }

    /// Where its users come from.
    pub fn origin(&self) -> Origin {
        match self.name.as_str() {
            name if name.starts_with(LOCAL) => Origin::Local,
            name if name.starts_with(IMPORTED) => Origin::Imported,
            _ => Origin::Mapped,
        }
    }

    /// The mail domain of local or imported accounts; the configuration has that of a directory.
    pub fn accounts_domain(&self) -> Option<&str> {
        self.name.strip_prefix(LOCAL).or_else(|| self.name.strip_prefix(IMPORTED))
    }
}

/// What the writer and the readers share.
struct Shared {
    view: RwLock<Arc<ReadView>>,
    policy: RwLock<Arc<Policy>>,
    clock: Clock,
    /// When this run began, where the one before did not stop in order.
    started_after_crash: Option<Timestamp>,
    /// Counts on while the writer is at something long.
    beats: AtomicU64,
    disk: Mutex<DiskState>,
    path: PathBuf,
}

impl Shared {
    fn view(&self) -> Arc<ReadView> {
        // A poisoned lock still holds a whole value: it is only ever replaced.
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, view: ReadView) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change_disk<T>(&self, change: impl FnOnce(&mut DiskState) -> T) -> T {
        change(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn trouble(&self) -> Option<Trouble> {
        self.change_disk(|disk| disk.trouble.clone())
    }
}

/// A handle on the open store; clones share it. The writer ends when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// The writer's thread. Joining it waits until everything is on disk and the file is closed.
pub struct Writer {
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    /// Waits for the writer to end; blocks.
    pub fn join(self) -> Result<(), StoreError> {
        self.thread.join().map_err(|_| StoreError::Stopped)
    }
}

impl Store {
    /// Opens the store, or creates it, readable by its owner alone. What is there is opened even where the disk takes
    /// no writes.
    pub fn open(path: &Path, policy: Policy) -> Result<(Store, Writer), StoreError> {
        Store::open_with(path, policy, machine::system())
    }

    /// The same with other clocks than the machine's.
    pub(crate) fn open_with(
        path: &Path,
        policy: Policy,
        clocks: machine::Source,
    ) -> Result<(Store, Writer), StoreError> {
        Store::start(Box::new(StoreFile::hold(path)?), policy, clocks)
    }

    fn start(
        medium: Box<dyn Medium>,
        policy: Policy,
        clocks: machine::Source,
    ) -> Result<(Store, Writer), StoreError> {
        let (owner, view) = Owner::open(medium)?;
        let clock = Clock::start(owner.kept_time()?, clocks);
        let shared = Arc::new(Shared {
            started_after_crash: (!view.is_stopped()?).then(|| clock.now()),
            view: RwLock::new(Arc::new(view)),
            policy: RwLock::new(Arc::new(policy)),
            clock,
            beats: AtomicU64::new(0),
            disk: Mutex::default(),
            path: owner.path().to_owned(),
        });
        owner.begin(&shared);
        let (commands, queue) = mpsc::channel(writer::QUEUE);
        let for_writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(owner, &for_writer, queue))
            .map_err(|error| StoreError::Storage(redb::Error::Io(error)))?;
        Ok((Store { shared, commands }, Writer { thread }))
    }

    /// The latest committed state.
    pub fn view(&self) -> Arc<ReadView> {
        self.shared.view()
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.shared.policy()
    }

    /// Changes the policy in force, for readers at once and for the writer from its next transaction on. The
    /// configuration and the licence each change their part.
    pub fn change_policy(&self, change: impl FnOnce(&mut Policy)) {
        let mut policy = self.shared.policy.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut policy));
    }

    /// The clock, which goes on from the time that the store kept.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Trusted time.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// When this run began, where the one before did not stop in order: its last logins may be missing.
    pub fn started_after_crash(&self) -> Option<Timestamp> {
        self.shared.started_after_crash
    }

    /// What is known of the disk.
    pub fn disk(&self) -> DiskState {
        self.shared.change_disk(|disk| disk.clone())
    }

    /// Bytes of the store's file.
    pub fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.shared.path).map_or(0, |file| file.len())
    }

    /// Reads from the latest view. Where the disk cannot be read the file is opened again, and read once more.
    pub async fn read<T>(&self, read: impl Fn(&ReadView) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let view = self.view();
        match read(&view) {
            Err(StoreError::Storage(_)) => {
                self.ask(|reply| Command::Replace { failed: view, reply }).await?;
                read(&self.view())
            }
            outcome => outcome,
        }
    }

    /// Looks after the disk: ends trouble that is over, and keeps space aside. Call it every few seconds.
    pub async fn look_after_disk(&self) -> Result<(), StoreError> {
        self.ask(|reply| Command::Look { reply }).await
    }

    /// Returns when the writer has ended, which it does by itself only when it panics.
    pub async fn closed(&self) {
        self.commands.closed().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| StoreError::Stopped)?;
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Why a command was not answered, as soon as the writer knows.
    async fn failure(&self) -> StoreError {
        let (reply, concluded) = oneshot::channel();
        if self.commands.send(Command::Conclude { reply }).await.is_err() || concluded.await.is_err() {
            return StoreError::Stopped;
        }
        match self.shared.trouble() {
            Some(trouble) => StoreError::InTrouble(trouble.problem),
            None => StoreError::NotMade,
        }
    }

    /// Decides inside a write transaction; a granted seat is on disk when this returns.
    pub async fn admit(&self, name: Name, request: Request, now: Timestamp) -> Result<Admitted, StoreError> {
        self.ask(|reply| Command::Admit { name, request, now, reply }).await
    }

    /// Takes a seat back; `None` when the user holds none.
    pub async fn release(
        &self,
        key: UserKey,
        reason: ReleaseReason,
        now: Timestamp,
    ) -> Result<Option<Released>, StoreError> {
        self.ask(|reply| Command::Release { key, reason, now, reply }).await
    }

    /// The number of a directory; a name that is new gets one.
    pub async fn directory(&self, name: &str) -> Result<DirectoryId, StoreError> {
        self.ask(|reply| Command::Directory { name: name.to_owned(), reply }).await
    }

    /// Writes a part of a sync. Keep it short: logins wait for its transaction.
    pub async fn apply(
        &self,
        directory: DirectoryId,
        changes: Changes,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        self.ask(|reply| Command::Apply { directory, changes, now, reply }).await
    }

    /// Forgets tombstones made at or before `cutoff`, at most `limit`, and releases their seats.
    pub async fn purge(
        &self,
        cutoff: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Released>, StoreError> {
        self.ask(|reply| Command::Purge { cutoff, now, limit, reply }).await
    }

    /// Forgets one tombstone, whatever is left of its grace period; `None` where the user lives.
    pub async fn forget(&self, key: UserKey, now: Timestamp) -> Result<Option<Forgotten>, StoreError> {
        self.ask(|reply| Command::Forget { key, now, reply }).await
    }

    /// Takes the seats of these users back, of each who was not active since `cutoff`, as far as is known here and by
    /// `last_login`.
    pub async fn reclaim(
        &self,
        keys: Vec<UserKey>,
        cutoff: Timestamp,
        now: Timestamp,
        last_login: LastLoginOf,
    ) -> Result<Vec<(UserKey, Released)>, StoreError> {
        self.ask(|reply| Command::Reclaim { keys, cutoff, now, last_login, reply }).await
    }

    /// Writes coalesced last logins and refusals, and refusals of names that nobody has.
    pub async fn record_activity(
        &self,
        logins: Vec<(UserKey, LastLogin)>,
        refusals: Vec<(UserKey, Refusals)>,
        strangers: Vec<(Name, Refusals)>,
    ) -> Result<(), StoreError> {
        self.ask(|reply| Command::RecordActivity { logins, refusals, strangers, reply }).await
    }

    /// Drops the ledger's lines of seats that were taken back before `cutoff`; looks at no more than `limit` lines.
    /// Returns how many were dropped.
    pub async fn trim_ledger(&self, cutoff: Timestamp, limit: usize) -> Result<u64, StoreError> {
        self.ask(|reply| Command::TrimLedger { cutoff, limit, reply }).await
    }

    /// Forgets those of these refusals whose latest was before `cutoff`.
    pub async fn forget_refusals(
        &self,
        users: Vec<UserKey>,
        strangers: Vec<Name>,
        cutoff: Timestamp,
    ) -> Result<(), StoreError> {
        self.ask(|reply| Command::ForgetRefusals { users, strangers, cutoff, reply }).await
    }

    /// Replaces what is kept of the licence.
    pub async fn keep_license(&self, record: LicenseRecord) -> Result<(), StoreError> {
        self.ask(|reply| Command::KeepLicense { record: Box::new(record), reply }).await
    }

    /// Writes the time now. It is written by itself with other changes, once a minute.
    pub async fn keep_time(&self) -> Result<(), StoreError> {
        self.shared.clock.set_due();
        self.ask(|reply| Command::KeepTime { is_stop: false, reply }).await
    }

    /// Writes the time, and that nothing is left to be written. Any later change says again that the daemon runs.
    pub async fn keep_stop(&self) -> Result<(), StoreError> {
        self.shared.clock.set_due();
        self.ask(|reply| Command::KeepTime { is_stop: true, reply }).await
    }

    /// Runs a collected sweep in a transaction that is dropped.
    pub async fn preview(&self, preview: Preview) -> Result<Report, StoreError> {
        self.ask(|reply| Command::Preview { preview: Box::new(preview), reply }).await
    }

    /// Whether the writer shows within this time that it lives: it answers, or goes on with something long.
    pub async fn shows_life(&self, patience: Duration) -> Result<bool, StoreError> {
        let before = self.shared.beats.load(Ordering::Relaxed);
        match tokio::time::timeout(patience, self.ping()).await {
            // It answers that it cannot write.
            Ok(Err(StoreError::InTrouble(_) | StoreError::NotMade)) => Ok(true),
            Ok(answer) => answer.map(|()| true),
            Err(_) => Ok(self.shared.beats.load(Ordering::Relaxed) != before),
        }
    }

    /// Returns when the writer has answered: it lives, and the disk lets it commit.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.ask(|reply| Command::Ping { reply }).await
    }
}

#[cfg(test)]
mod tests;
