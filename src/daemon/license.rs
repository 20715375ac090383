//! Keeps the licence: installs it, follows its dates, and asks the server for newer ones.
//!
//! What is in force is in the store. What a login needs of it is put into the store's policy whenever it
//! changes, so that no login looks at a date or a signature.

mod refresh;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard, Notify, mpsc};
use tracing::{debug, error, info, warn};

use super::if_written;
use crate::config::SignedLicense;
use crate::domain::license::{ComponentName, Components, InstallationId, License, Refusal, State};
use crate::domain::refresh::{Asked, next};
use crate::domain::seats::Service as MailService;
use crate::licensing::token::{self, TokenError};
use crate::service::license::{LicenseBoard, LicenseCommand, LicenseFacts, LicenseFailure};
use crate::store::{LicenseRecord, Store, StoreError};

/// The machine may sleep, and its clock may be in doubt: dates are looked at again this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Licences whose serials are remembered. A customer has one or two.
const MAX_SERIALS: usize = 64;

/// What the configuration says of the licence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LicenseSettings {
    /// Seats that are declared: then nothing else counts.
    pub declared: Option<u64>,
    /// The rest.
    pub signed: SignedLicense,
    /// The components of services.
    pub services: HashMap<MailService, ComponentName>,
}

/// Keeps the licence; clones share it.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

struct Inner {
    store: Store,
    board: LicenseBoard,
    held: Mutex<Held>,
    /// Wakes the loop, which has to wait for something else now.
    changed: Notify,
}

struct Held {
    settings: LicenseSettings,
    record: LicenseRecord,
    /// What `record.token` says; `None` also where it is not trusted any more.
    license: Option<License>,
    /// What `record.coming` says.
    coming: Option<License>,
    /// Why a licence that is there is not in force.
    refused: Option<String>,
    /// The disk did not take the record.
    is_unwritten: bool,
    /// When the daemon started.
    since: Timestamp,
    /// Shortens the wait for the next question to the server; new after each.
    chance: f64,
}

/// Why a licence was not installed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error(
        "seats are declared in the configuration: a signed licence needs trusted_keys in [license] instead"
    )]
    Declared,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a licence came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Via {
    File,
    Administrator { force: bool },
    Activation,
    Refresh,
}

impl Via {
    fn as_str(self) -> &'static str {
        match self {
            Via::File => "file",
            Via::Administrator { .. } => "administrator",
            Via::Activation => "activation",
            Via::Refresh => "refresh",
        }
    }
}

impl Keeper {
    /// Reads what is in force, and puts it in force. An installation's first start makes its id.
    pub async fn open(
        store: Store,
        board: LicenseBoard,
        settings: LicenseSettings,
    ) -> Result<Keeper, StoreError> {
        let mut record = store.view().license()?;
        if record.installation.is_empty() {
            let mut bytes = [0; 16];
            // Without the system's randomness any other will do: the id is no secret.
            if aws_lc_rs::rand::fill(&mut bytes).is_err() {
                fastrand::fill(&mut bytes);
            }
            record.installation = InstallationId::from_random(bytes).to_string();
            store.keep_license(record.clone()).await?;
        }
        let held = Held {
            settings,
            record,
            license: None,
            coming: None,
            refused: None,
            is_unwritten: false,
            since: store.now(),
            chance: fastrand::f64(),
        };
        let inner = Inner { store, board, held: Mutex::new(held), changed: Notify::new() };
        let keeper = Keeper(Arc::new(inner));
        let mut held = keeper.0.held.lock().await;
        if_written(keeper.load(&mut held).await)?;
        if_written(keeper.apply(&mut held).await)?;
        drop(held);
        Ok(keeper)
    }

    /// Other settings: keys may be gone, and the file may hold something new.
    pub async fn reconfigure(&self, settings: LicenseSettings) -> Result<(), StoreError> {
        let mut held = self.0.held.lock().await;
        held.settings = settings;
        if_written(self.load(&mut held).await)?;
        if_written(self.apply(&mut held).await)?;
        drop(held);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Does what is asked for, and what is due. Returns when the store fails, or nobody can ask any more.
    pub async fn run(self, mut commands: mpsc::Receiver<LicenseCommand>) {
        loop {
            let wait = self.wait().await;
            let done = tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = self.0.changed.notified() => Ok(()),
                () = tokio::time::sleep(wait) => self.look().await,
            };
            match done {
                // The log has said so; what could not be written is written when the next date is looked at.
                Err(StoreError::InTrouble(_) | StoreError::NotMade) | Ok(()) => {}
                Err(error) => {
                    error!(error = %error, "The licence could not be kept.");
                    return;
                }
            }
        }
    }

    async fn obey(&self, command: LicenseCommand) -> Result<(), StoreError> {
        let (outcome, reply) = match command {
            LicenseCommand::Install { token, force, reply } => (self.install(&token, force).await, reply),
            LicenseCommand::Activate { key, customer, reply } => (self.activate(key, customer).await, reply),
            LicenseCommand::Look { reply } => (self.look_again().await, reply),
            LicenseCommand::Refresh { reply } => (self.refresh().await, reply),
            LicenseCommand::Deactivate { reply } => (self.deactivate().await, reply),
        };
        // Whoever asked may have gone meanwhile.
        let _ = reply.send(outcome);
        Ok(())
    }

    async fn install(&self, token: &str, force: bool) -> Result<String, LicenseFailure> {
        let mut held = self.0.held.lock().await;
        let installed = self.put(&mut held, token, Via::Administrator { force }).await;
        let outcome = match installed {
            Ok(license) => Ok(sentence(&license)),
            Err(error) => Err(refused(&error)),
        };
        if let Err(error) = self.apply(&mut held).await {
            return Err(LicenseFailure::Unreachable(error.to_string()));
        }
        outcome
    }

    /// How long nothing is due.
    async fn wait(&self) -> Duration {
        let held = self.0.held.lock().await;
        let now = self.0.store.now();
        let change = held.license.as_ref().and_then(|license| license.next_change(now));
        let starts = held.coming.as_ref().and_then(License::starts);
        // No date comes while the clock is in doubt.
        let dates = [change, starts].into_iter().flatten().filter(|_| self.doubted_since().is_none());
        let due = dates.chain(held.next_refresh(now, self.doubted_since())).min();
        let until = due.map_or(Duration::MAX, |due| {
            Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO)
        });
        until.min(LOOK_EVERY)
    }

    /// Since when the clock is in doubt.
    fn doubted_since(&self) -> Option<Timestamp> {
        self.0.store.clock().standing().doubt().map(|doubt| doubt.since)
    }

    /// It is another time, all at once.
    async fn look_again(&self) -> Result<String, LicenseFailure> {
        let mut held = self.0.held.lock().await;
        self.apply(&mut held).await?;
        Ok(String::new())
    }

    /// Looks at the time: a date may have come, and the server may have to be asked.
    async fn look(&self) -> Result<(), StoreError> {
        let mut held = self.0.held.lock().await;
        self.apply(&mut held).await?;
        let now = self.0.store.now();
        let is_due = held.next_refresh(now, self.doubted_since()).is_some_and(|due| due <= now);
        drop(held);
        if is_due {
            // What went wrong is in the log and in the status; the licence in hand goes on.
            let _ = self.refresh().await;
        }
        Ok(())
    }

    /// Verifies what the store keeps, with the keys that are trusted now, then looks into the file.
    async fn load(&self, held: &mut Held) -> Result<(), StoreError> {
        held.license = None;
        held.coming = None;
        held.refused = None;
        if held.settings.declared.is_some() {
            return Ok(());
        }
        if let Some(token) = &held.record.token {
            match token::verify(token, &held.settings.signed.trusted_keys) {
                Ok(license) => {
                    self.0.store.clock().proved(license.issued_at);
                    held.license = Some(license);
                }
                Err(error) => {
                    error!(reason = %error, "The licence that was installed is not in force any more: {error}");
                    held.refused = Some(format!("the licence that was installed: {error}"));
                }
            }
        }
        let trusted = &held.settings.signed.trusted_keys;
        held.coming = held.record.coming.as_ref().and_then(|token| token::verify(token, trusted).ok());
        let Some(path) = held.settings.signed.file.clone() else { return Ok(()) };
        let shown = path.display().to_string();
        let problem = match tokio::task::spawn_blocking(move || read_bounded(&path)).await {
            Ok(Ok(text)) if held.record.token.as_deref() == Some(text.trim()) => return Ok(()),
            Ok(Ok(text)) => match self.put(held, &text, Via::File).await {
                Ok(_) => return Ok(()),
                // What came later by another way is newer.
                Err(InstallError::Refused(Refusal::Older { serial, newest })) if held.license.is_some() => {
                    debug!(serial, newest, "The licence in {shown} is older than the one in force.");
                    return Ok(());
                }
                Err(InstallError::Refused(Refusal::NotYetValid(_))) => {
                    return self.keep_coming(held, &text).await;
                }
                Err(InstallError::Store(error)) => return Err(error),
                Err(error) => error.to_string(),
            },
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        error!(file = shown, reason = problem, "The licence in {shown} is not installed: {problem}");
        held.refused = Some(format!("{shown}: {problem}"));
        Ok(())
    }

    /// Keeps a licence of which nothing is wrong but that its day is still to come.
    async fn keep_coming(&self, held: &mut Held, token: &str) -> Result<(), StoreError> {
        let token = token.trim();
        held.coming = token::verify(token, &held.settings.signed.trusted_keys).ok();
        if held.record.coming.as_deref() == Some(token) {
            return Ok(());
        }
        held.record.coming = Some(token.to_owned());
        self.0.store.keep_license(held.record.clone()).await?;
        if let Some(License { id, serial, seats, not_before: Some(from), .. }) = &held.coming {
            info!(
                license = id,
                serial, seats, "The licence {id} (serial {serial}, {seats} seats) takes effect on {from}."
            );
        }
        Ok(())
    }

    /// Installs the licence whose day has come.
    async fn install_coming(&self, held: &mut Held) -> Result<(), StoreError> {
        let starts = held.coming.as_ref().and_then(License::starts);
        if starts.is_none_or(|starts| starts > self.0.store.clock().dates()) {
            return Ok(());
        }
        held.coming = None;
        let Some(token) = held.record.coming.take() else { return Ok(()) };
        match self.put(held, &token, Via::File).await {
            Ok(_) => {}
            Err(InstallError::Store(error)) => return Err(error),
            // Something newer came meanwhile.
            Err(error) => info!(reason = %error, "The licence whose day has come is not installed: {error}."),
        }
        Ok(())
    }

    /// Verifies a licence, checks that it may be installed, and keeps it. The one before stays otherwise.
    async fn put(&self, held: &mut Held, token: &str, via: Via) -> Result<License, InstallError> {
        if held.settings.declared.is_some() {
            return Err(InstallError::Declared);
        }
        let token = token.trim();
        let license = token::verify(token, &held.settings.signed.trusted_keys)?;
        let clock = self.0.store.clock();
        let ours = InstallationId::parse(&held.record.installation)
            .ok_or(InstallError::Store(StoreError::Corrupt("license")))?;
        let newest = held.record.serials.get(&license.id).copied();
        let force = via == Via::Administrator { force: true };
        license.check(clock.dates(), clock.latest(), &ours, newest.filter(|_| !force))?;
        // It was signed then: so much of the time is proved. No licence turns the time back.
        clock.proved(license.issued_at);
        let (id, serial, seats) = (&license.id, license.serial, license.seats);
        if let Some(newest) = newest.filter(|newest| serial < *newest) {
            warn!(
                license = id,
                serial,
                newest,
                "An administrator forced the older licence {id}, serial {serial} after {newest}."
            );
        }
        let mut record = held.record.clone();
        record.token = Some(token.to_owned());
        record.installed_at = Some(clock.now());
        if record.serials.len() >= MAX_SERIALS && newest.is_none() {
            record.serials.pop_first();
        }
        // Force lets one older issue in, and not all others after it.
        record.serials.insert(id.clone(), newest.map_or(serial, |newest| newest.max(serial)));
        if via != Via::Refresh
            && let Some(refresh) = &mut record.refresh
        {
            // The tag was that of another licence.
            refresh.etag = None;
        }
        self.0.store.keep_license(record.clone()).await?;
        held.record = record;
        held.refused = None;
        if via == Via::Refresh {
            info!(
                event = "license_refreshed",
                license = id,
                serial,
                seats,
                "The licence server gave a newer licence: {}",
                sentence(&license)
            );
        } else {
            info!(
                event = "license_installed",
                license = id,
                serial,
                seats,
                via = via.as_str(),
                "{}",
                sentence(&license)
            );
        }
        held.license = Some(license.clone());
        Ok(license)
    }

    /// Puts what is true now in force: the policy of the store, the log, the status.
    async fn apply(&self, held: &mut Held) -> Result<(), StoreError> {
        let before = held.record.clone();
        self.install_coming(held).await?;
        let now = self.0.store.clock().dates();
        let state = held.license.as_ref().map_or(State::Missing, |license| license.state(now));
        tell_state(held, state);
        let license = held.license.as_ref();
        let seat_limit = held.settings.declared.or(license.map(License::seat_limit));
        let seatless_limit = match held.settings.declared {
            Some(_) => None,
            None => Some(license.map_or(0, |license| license.seatless)),
        };
        let expired = license.filter(|_| state == State::Expired).map(|license| license.on_expiry);
        let standings = license.map(|license| license.standings(now)).unwrap_or_default();
        let components = Components { services: held.settings.services.clone(), standings };
        let policy = self.0.store.policy();
        let is_changed = (policy.seat_limit, policy.seatless_limit) != (seat_limit, seatless_limit);
        self.0.store.change_policy(|policy| {
            policy.seat_limit = seat_limit;
            policy.seatless_limit = seatless_limit;
            policy.expired = expired;
            policy.components = components;
        });
        self.publish(held, state);
        if held.record != before || held.is_unwritten {
            held.is_unwritten = true;
            self.0.store.keep_license(held.record.clone()).await?;
            held.is_unwritten = false;
        } else if is_changed {
            // A transaction settles what follows from another number of seats.
            self.0.store.ping().await?;
        }
        Ok(())
    }

    fn publish(&self, held: &Held, state: State) {
        self.0.board.publish(LicenseFacts {
            declared: held.settings.declared.is_some(),
            state,
            license: held.license.clone(),
            record: held.record.clone(),
            server: held.settings.signed.server.clone(),
            next_refresh: held.next_refresh(self.0.store.now(), self.doubted_since()),
            coming: held.coming.clone(),
            problems: held.refused.clone().into_iter().collect(),
        });
    }
}

impl Held {
    /// When the server is asked next; `None` where there is none, or nothing to ask for.
    /// While the clock is in doubt, the server is asked what time it is.
    fn next_refresh(&self, now: Timestamp, doubted_since: Option<Timestamp>) -> Option<Timestamp> {
        let license = self.license.as_ref()?;
        self.settings.signed.server.as_ref()?;
        let refresh = self.record.refresh.as_ref();
        if refresh.is_some_and(|refresh| doubted_since.is_some_and(|since| refresh.at < since)) {
            return Some(now);
        }
        let asked = refresh.map(|refresh| Asked { at: refresh.at, failures: refresh.failures });
        Some(next(self.settings.signed.refresh_every, license.expires, asked, self.since, now, self.chance))
    }
}

/// Logs a state once, also across restarts.
fn tell_state(held: &mut Held, state: State) {
    if held.settings.declared.is_some() {
        held.record.told = None;
        return;
    }
    let told = (held.license.as_ref().map_or(0, |license| license.serial), state.as_str().to_owned());
    if held.record.told.as_ref() == Some(&told) {
        return;
    }
    held.record.told = Some(told);
    let Some(license) = &held.license else {
        warn!(
            event = "license_missing",
            "There is no licence: whoever holds a seat enters, and nobody new gets one."
        );
        return;
    };
    let (id, serial) = (&license.id, license.serial);
    let date = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let (expires, ends) = (date(license.expires), date(license.ends()));
    let whom = license.on_expiry.as_str();
    match state {
        State::Missing | State::Active => {}
        State::Expiring => {
            warn!(
                event = "license_expiring",
                license = id,
                serial,
                expires,
                "The licence {id} ends on {expires}."
            );
        }
        State::Grace => {
            error!(
                event = "license_grace",
                license = id,
                serial,
                expires,
                ends,
                "The licence {id} ended on {expires}; everything goes on until {ends}."
            );
        }
        State::Expired => {
            error!(
                event = "license_expired",
                license = id,
                serial,
                expires,
                on_expiry = whom,
                "The licence {id} has expired ({whom})."
            );
        }
    }
}

fn sentence(license: &License) -> String {
    let License { id, serial, seats, .. } = license;
    format!("The licence {id} (serial {serial}) is installed: {seats} seats.")
}

fn refused(error: &InstallError) -> LicenseFailure {
    match error {
        InstallError::Store(error) => LicenseFailure::Unreachable(error.to_string()),
        error => LicenseFailure::Refused(error.to_string()),
    }
}

/// A licence file, as far as a licence can be long.
fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = token::MAX_BYTES as u64 + 1024;
    std::fs::File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

type Locked<'a> = MutexGuard<'a, Held>;
