//! What an administrator can see and do.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::info;

use super::answers::{
    ClashStatus, DirectoryState, DirectoryStatus, DomainStatus, Explanation, LicenseChange, LicenseStatus,
    SeatChange, SeatlessStatus, SeatsByOrigin, SeatsStatus, Status, SyncReport, UsersStatus, Verdict,
    Verification,
};
use super::clock;
use super::directories::{Progress, SyncCommand};
use super::explain::explanation;
use super::hashes::HashError;
use super::license::{self, LicenseBoard, LicenseCommand, LicenseFailure};
use super::logins::latest;
use super::resolve::{Wanted, removed_holders};
use super::users::{UserList, UserQuery};
use super::{Settings, Shared};
use crate::domain::account::AccountRefusal;
use crate::domain::admission::{Decision, Operation, Request, decide};
use crate::domain::brake::Excess;
use crate::domain::clock::TooEarly;
use crate::domain::moves::{MatchBy, NotMoved};
use crate::domain::name::{Name, NameError};
use crate::domain::names::Purpose;
use crate::domain::password::Password;
use crate::domain::seats::{ReleaseReason, SeatCount, after_crash};
use crate::domain::user::Origin;
use crate::store::{Clash, DirectoryRecord, LastLoginOf, Policy, ReadView, Store, StoreError};

/// Clashes shown by `status`; the log has each.
const CLASHES_SHOWN: usize = 20;

/// Why something an administrator asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The text can be no name.
    #[error("{0:?} is no user name: {1}")]
    BadName(String, NameError),
    /// Nobody has the name.
    #[error("there is no user {0}")]
    NoSuchUser(String),
    /// More than one user is meant.
    #[error("{0} may mean {1}: use the id")]
    Ambiguous(String, String),
    /// No one could log in to the seat.
    #[error("{0} owns no login name and could not use a seat: see `seatkeeper explain`")]
    NoLoginName(String),
    /// Nothing is carried over from the first to the second.
    #[error("nothing was moved from {0} to {1}: {reason}", reason = .2.sentence())]
    NotMoved(String, String, NotMoved),
    /// Nothing of such a directory is stored.
    #[error("nothing is stored of a directory {0:?}: see `seatkeeper directory list`")]
    NothingStored(String),
    /// The directory is in use.
    #[error(
        "the directory {0:?} is in the configuration: take it out or change its name there, and reload first"
    )]
    StillConfigured(String),
    /// A user who lives cannot be forgotten.
    #[error("{0} is not removed: only a user who is gone from the directory can be forgotten")]
    NotRemoved(String),
    /// No such directory is configured.
    #[error(
        "there is no directory {0:?} in the configuration that the daemon has read; one that was added since is read at a \
         reload, and `seatkeeper check --connect` shows before what it would map"
    )]
    NoSuchDirectory(String),
    /// More aliases than an account may have.
    #[error("an account has at most {} aliases", crate::domain::account::MAX_ALIASES)]
    TooManyAliases,
    /// It can be nobody's password.
    #[error("a password is 1 to {} bytes of UTF-8 text without NUL", Password::MAX_BYTES)]
    BadPassword,
    /// It was not hashed.
    #[error(transparent)]
    Hash(HashError),
    /// An account cannot be changed like this.
    #[error("{0}")]
    Account(AccountRefusal),
    /// The internal administrator, of whom nothing is known.
    #[error("{0} is the internal administrator, who always gets in and never counts; no user has this name")]
    OnlyAdministrator(String),
    /// A file that cannot be imported.
    #[error("the file is wrong: {0}")]
    WrongFile(String),
    /// More unused seats than the brake lets go.
    #[error(
        "the brake holds back the reclaim of {0} unused seats ({1}), and no seat was taken back; \
         `seatkeeper seats reclaim --inactive DURATION --dry-run` shows them; to take them back, choose a longer \
         DURATION first, or raise [seats.brake] in the configuration and reload"
    )]
    ReclaimHeld(u64, Excess),
    /// What was begun did not come to its end.
    #[error("this was interrupted: try again")]
    Interrupted,
    /// The sync failed.
    #[error("{0}")]
    SyncFailed(String),
    /// The directory is busy with as many requests as it takes.
    #[error("the directory {0:?} has too many requests waiting: try again later")]
    Busy(String),
    /// The wall clock is not right.
    #[error(transparent)]
    TooEarly(#[from] TooEarly),
    /// `[seats] protected` names the user.
    #[error(
        "{0} is protected by [seats] protected and keeps the seat: to release it all the same, use --force"
    )]
    Protected(String),
    /// Nothing is taken away by its age.
    #[error("the clock is in doubt: {0}")]
    ClockInDoubt(String),
    /// The licence stays as it is.
    #[error(transparent)]
    License(#[from] LicenseFailure),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The administrator's handle.
#[derive(Clone)]
pub struct Admin(Arc<Shared>);

impl Admin {
    pub(super) fn new(shared: Arc<Shared>) -> Admin {
        Admin(shared)
    }

    /// The state after what was collected is written, save last logins that are not due.
    pub(super) async fn fresh_view(&self) -> Result<Arc<ReadView>, StoreError> {
        self.0.flush(false).await?;
        Ok(self.0.store.view())
    }

    /// The state after everything that was collected is written, for what goes from one user to another.
    pub(super) async fn flushed_view(&self) -> Result<Arc<ReadView>, StoreError> {
        self.0.flush(true).await?;
        Ok(self.0.store.view())
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn backups(&self) -> &std::sync::Mutex<Option<super::answers::BackupStatus>> {
        &self.0.backups
    }

    pub(super) fn license_board(&self) -> &LicenseBoard {
        &self.0.license
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.0.settings()
    }

    /// Waits for a reclaim that is under way.
    pub(super) async fn begin_reclaim(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.reclaiming.lock().await
    }

    /// When users logged in last, where a seat may be taken back: what is not written yet counts, and what a crash may
    /// have lost. In a transaction of the writer it misses none: a login leaves the memory after its commit.
    pub(super) fn last_login_of(&self) -> LastLoginOf {
        let (shared, crash) = (Arc::clone(&self.0), self.0.store.started_after_crash());
        Arc::new(move |key, stored| {
            let unwritten = shared.activity.logins().at(key);
            unwritten.max(stored.map(|stored| after_crash(stored, crash)))
        })
    }

    pub(super) fn parse(&self, name: &str) -> Result<Name, AdminError> {
        Name::parse(name, self.0.settings().default_domain.as_ref())
            .map_err(|error| AdminError::BadName(name.to_owned(), error))
    }

    /// One line for a service manager: seats, and what each directory is doing.
    pub fn headline(&self) -> Result<String, AdminError> {
        let used = self.0.store.view().seats_used()?;
        let limit = self.0.store.policy().seat_limit.unwrap_or(0);
        let mut line = format!("{used} of {limit} seats taken");
        if let Some(trouble) = self.0.store.disk().trouble {
            line = format!("{}; {line}", trouble.problem);
        }
        for (name, handle) in self.0.board.all() {
            line.push_str(&format!("; {name} {}", handle.progress.borrow().state.as_str()));
        }
        Ok(line)
    }

    /// The whole state on one page.
    pub async fn status(&self) -> Result<Status, AdminError> {
        let view = self.fresh_view().await?;
        let reading = Arc::clone(&view);
        let clashes = blocking(move || clashes(&reading)).await?;
        let policy = self.0.store.policy();
        let seats = SeatCount { used: view.seats_used()?, limit: policy.seat_limit.unwrap_or(0) };
        let census = view.census();
        let seatless = view.seatless_mailboxes()?;
        let of = |origin| view.census_of(origin);
        let (mapped, local, imported) = (of(Origin::Mapped), of(Origin::Local), of(Origin::Imported));
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.0.started,
            clock: clock::status(self.0.store.clock()),
            ready: self.0.coverage().first_unmapped().is_none(),
            license: license::status(&self.0.license.facts(), &policy, &view, self.0.store.clock().dates())?,
            store: self.0.store.disk().into(),
            backup: self.backup_status(),
            seats: SeatsStatus {
                limit: seats.limit,
                used: seats.used,
                free: seats.free(),
                over_limit: seats.is_over(),
            },
            users: UsersStatus {
                total: census.people,
                mapped: mapped.people,
                local: local.people,
                imported: imported.people,
                disabled: census.disabled,
                tombstoned: census.tombstoned,
            },
            seatless: SeatlessStatus { mailboxes: seatless, allowed: policy.seatless_limit },
            seats_by_origin: SeatsByOrigin {
                mapped: mapped.seats,
                local: local.seats,
                imported: imported.seats,
            },
            directories: self.directories(&view, &policy.directory_limits),
            domains: domains(&view, &policy)?,
            clashes,
            listeners: self.0.listeners.status(),
        })
    }

    /// The licence.
    pub fn license(&self) -> Result<LicenseStatus, AdminError> {
        let (facts, policy) = (self.0.license.facts(), self.0.store.policy());
        Ok(license::status(&facts, &policy, &self.0.store.view(), self.0.store.clock().dates())?)
    }

    /// Has the licence's keeper do something, and shows the licence after it.
    pub async fn change_license(
        &self,
        command: impl FnOnce(license::Reply) -> LicenseCommand,
    ) -> Result<LicenseChange, AdminError> {
        let message = self.0.license.ask(command).await?;
        Ok(LicenseChange { message, license: self.license()? })
    }

    fn directories(&self, view: &ReadView, limits: &BTreeMap<String, u64>) -> Vec<DirectoryStatus> {
        let board = self.0.board.all();
        let record = |name: &str| view.directory_named(name);
        let limit = |name: &str| limits.get(name).copied();
        let configured = board.iter().map(|(name, handle)| {
            let progress = handle.progress.borrow().clone();
            directory_status(name, &handle.domain, progress, record(name), limit(name), true)
        });
        let is_forgotten = |record: &&DirectoryRecord| {
            record.origin() == Origin::Mapped && !board.contains_key(&record.name)
        };
        let forgotten = view.directories().filter(is_forgotten).map(|record| {
            let progress = Progress { state: DirectoryState::Idle, ..Progress::default() };
            directory_status(&record.name, "", progress, Some(record), None, false)
        });
        configured.chain(forgotten).collect()
    }

    /// The users that a query finds, in its order. Reads every user: run it where blocking is allowed.
    pub async fn users(&self, query: UserQuery) -> Result<UserList, AdminError> {
        // Before the view: what leaves the memory is in every later one.
        let unwritten = self.0.activity.logins().all();
        let view = self.fresh_view().await?;
        Ok(UserList::new(view, unwritten, query, self.0.store.now()))
    }

    /// All about one user.
    pub async fn explain(&self, name: &str) -> Result<Explanation, AdminError> {
        let view = self.fresh_view().await?;
        let key = self.resolve(&view, name).await?;
        let unwritten = self.0.activity.logins().at(key);
        let view = self.0.store.view();
        let mut details = view.details(key)?.ok_or_else(|| AdminError::NoSuchUser(name.to_owned()))?;
        details.last_login = latest(details.last_login, unwritten);
        let login = view.login_name(key, &details.user)?;
        let (name, decision) = match login {
            Some(name) => {
                let (_, admission) = view.admission(&name, Purpose::Login, None, &self.0.store.policy())?;
                let probe = Request { operation: Operation::Probe, service: None };
                (name, decide(&admission, &probe, self.0.store.now()))
            }
            None => (details.name.clone(), Decision::UnknownUser),
        };
        explanation(&view, details, Verdict::new(&decision, name.as_str()), self.0.settings().removal_grace)
    }

    /// Grants a seat, through the same decision as every login.
    pub async fn grant(&self, name: &str) -> Result<SeatChange, AdminError> {
        let view = self.0.store.view();
        let mut removed = Vec::new();
        let name = match self.resolve_as(&view, name, Wanted::Owner).await {
            Ok(key) => {
                let user = view.user_of(key)?.ok_or_else(|| AdminError::NoSuchUser(name.to_owned()))?;
                removed = removed_holders(&view, key, &user)?;
                view.login_name(key, &user)?.ok_or_else(|| AdminError::NoLoginName(name.to_owned()))?
            }
            // Nobody has it, but the internal administrator needs no seat.
            Err(AdminError::OnlyAdministrator(_)) => self.parse(name)?,
            Err(error) => return Err(error),
        };
        let request = Request { operation: Operation::Grant, service: None };
        let admitted = self.0.store.admit(name.clone(), request, self.0.store.now()).await?;
        if admitted.decision == Decision::UnknownUser {
            return Err(AdminError::NoSuchUser(name.to_string()));
        }
        let used = admitted.seats_used;
        if let Decision::Granted(seat) = &admitted.decision {
            let by = seat.by.to_string();
            info!(event = "seat_granted", user = %name, by, seats_used = used, "{name} was given a seat.");
        }
        Ok(SeatChange {
            user: name.to_string(),
            outcome: admitted.decision.code().to_owned(),
            done: admitted.decision.allows(),
            message: match (admitted.decision.allows(), removed.as_slice()) {
                (true, _) => admitted.decision.message().to_owned(),
                (false, [old, ..]) => format!(
                    "{} The removed entry {} has this name and holds a seat: see `seatkeeper explain {name}`.",
                    admitted.decision.advice(self.seat_count(used)),
                    old.id
                ),
                (false, []) => admitted.decision.advice(self.seat_count(used)),
            },
            seats_used: used,
        })
    }

    fn seat_count(&self, used: u64) -> Option<SeatCount> {
        self.0.store.policy().seat_limit.map(|limit| SeatCount { used, limit })
    }

    /// Takes a seat back, from a protected user only by `force`. The user may take one again at the next login.
    pub async fn release(&self, name: &str, force: bool) -> Result<SeatChange, AdminError> {
        let view = self.0.store.view();
        let key = self.resolve_as(&view, name, Wanted::Holder).await?;
        let key = view.seat_holder(key)?.unwrap_or(key);
        if !force && view.seat_of(key)?.is_some() && self.protected(&view)?.contains(&key) {
            return Err(AdminError::Protected(name.to_owned()));
        }
        let name = view.name_of(key)?.ok_or_else(|| AdminError::NoSuchUser(name.to_owned()))?;
        let released = self.0.store.release(key, ReleaseReason::Administrator, self.0.store.now()).await?;
        let (outcome, message, used) = match &released {
            Some(released) => {
                super::log_release(released);
                ("released", "The seat was released.", released.seats_used)
            }
            None => ("not_seated", "This user holds no seat.", self.0.store.view().seats_used()?),
        };
        Ok(SeatChange {
            user: name.to_string(),
            outcome: outcome.to_owned(),
            done: true,
            message: message.to_owned(),
            seats_used: used,
        })
    }

    /// Forgets a user who is gone from the directory: the seat and the names are free immediately.
    pub async fn forget(&self, name: &str) -> Result<SeatChange, AdminError> {
        let key = self.resolve_as(&self.0.store.view(), name, Wanted::Removed).await?;
        let forgotten = self.0.store.forget(key, self.0.store.now()).await?;
        let forgotten = forgotten.ok_or_else(|| AdminError::NotRemoved(name.to_owned()))?;
        let message = match &forgotten.released {
            Some(released) => {
                super::log_release(released);
                "The user was forgotten and the seat released."
            }
            None => "The user was forgotten.",
        };
        let user = forgotten.name.to_string();
        info!(user, "{user} was forgotten before the grace period was over.");
        Ok(SeatChange {
            user,
            outcome: "forgotten".to_owned(),
            done: true,
            message: message.to_owned(),
            seats_used: forgotten.seats_used,
        })
    }

    /// Syncs a directory now; `full` reads everything. `wait` returns its report; else it only begins.
    pub async fn sync(
        &self,
        directory: &str,
        full: bool,
        dry_run: bool,
        wait: bool,
    ) -> Result<Option<SyncReport>, AdminError> {
        self.ask_directory(directory, wait || dry_run, |reply| SyncCommand::Sync { full, dry_run, reply })
            .await
    }

    /// Lets a braked sync through: a sweep runs now, and may take away as much as was held back.
    /// Seats of the users whom it removes are carried over to new entries that match by the name.
    pub async fn approve(
        &self,
        directory: &str,
        by: Option<MatchBy>,
        wait: bool,
    ) -> Result<Option<SyncReport>, AdminError> {
        if by.is_some() {
            // Last logins that wait to be written belong to the old entries.
            self.flushed_view().await?;
        }
        self.ask_directory(directory, wait, |reply| SyncCommand::Approve { by, reply }).await
    }

    async fn ask_directory(
        &self,
        name: &str,
        wait: bool,
        command: impl FnOnce(oneshot::Sender<Result<SyncReport, String>>) -> SyncCommand,
    ) -> Result<Option<SyncReport>, AdminError> {
        let handle =
            self.0.board.directory(name).ok_or_else(|| AdminError::NoSuchDirectory(name.to_owned()))?;
        let (reply, answer) = oneshot::channel();
        handle.commands.try_send(command(reply)).map_err(|_| AdminError::Busy(name.to_owned()))?;
        if !wait {
            return Ok(None);
        }
        match answer.await {
            Ok(outcome) => outcome.map(Some).map_err(AdminError::SyncFailed),
            Err(_) => Err(AdminError::SyncFailed("the sync was stopped by a reload".to_owned())),
        }
    }

    /// The names of all configured directories.
    pub fn directory_names(&self) -> Vec<String> {
        self.0.board.all().into_keys().collect()
    }

    /// Recounts everything. Reads the whole store: run it where blocking is allowed.
    pub fn verify(&self) -> Result<Verification, AdminError> {
        let findings: Vec<String> =
            self.0.store.view().verify()?.into_iter().map(|finding| finding.0).collect();
        Ok(Verification { clean: findings.is_empty(), findings })
    }
}

fn directory_status(
    name: &str,
    domain: &str,
    progress: Progress,
    record: Option<&DirectoryRecord>,
    seat_limit: Option<u64>,
    configured: bool,
) -> DirectoryStatus {
    let census = record.map(|record| record.census).unwrap_or_default();
    let left_out = record.map(|record| record.left_out).unwrap_or_default();
    DirectoryStatus {
        name: name.to_owned(),
        domain: domain.to_owned(),
        state: progress.state,
        rate: progress.rate(),
        mechanism: progress.mechanism,
        mechanism_reason: progress.mechanism_reason,
        warning: progress.warning,
        seen: progress.seen,
        server: progress.server,
        url: progress.url,
        users: census.people,
        seats_used: census.seats,
        seat_limit,
        last_attempt: progress.last_attempt,
        last_success: record.and_then(|record| record.last_success),
        last_error: progress.last_error,
        skipped: record.map(|record| record.skipped.clone()).unwrap_or_default(),
        foreign_names: left_out.foreign_names,
        logins_only: left_out.logins_only,
        held: progress.held,
        drift: progress.drift,
        configured,
    }
}

fn domains(view: &ReadView, policy: &Policy) -> Result<Vec<DomainStatus>, StoreError> {
    let status = |(name, seat_limit): (&String, &u64)| {
        let seats_used = view.domain_cap(name, policy)?.map_or(0, |cap| cap.used);
        Ok(DomainStatus { name: name.clone(), seats_used, seat_limit: *seat_limit })
    };
    policy.domain_limits.iter().map(status).collect()
}

fn clashes(view: &ReadView) -> Result<Vec<ClashStatus>, StoreError> {
    let status = |clash: Clash| ClashStatus {
        name: clash.name.to_string(),
        owner: clash.owner.map(|owner| owner.name.to_string()).unwrap_or_default(),
        claimant: clash.claimant.name.to_string(),
    };
    Ok(view.clashes(CLASHES_SHOWN)?.into_iter().map(status).collect())
}

/// Reads what may take long where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, AdminError> {
    Ok(tokio::task::spawn_blocking(read).await.map_err(|_| AdminError::Interrupted)??)
}
