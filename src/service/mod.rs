//! The handles that everything outside may call: [`Admission`] for front ends, [`Admin`] for the
//! administration API. They hold the store; whoever holds them sees no store.

mod accounts;
mod activity;
mod admin;
pub mod answers;
pub mod backup;
mod clock;
mod coverage;
pub mod directories;
mod explain;
mod grants;
mod hashes;
mod history;
mod import;
pub mod license;
pub mod listeners;
mod logins;
mod lookup;
pub mod moves;
pub mod passwords;
mod recent;
mod reclaim;
mod resolve;
mod stored;
mod throttle;
mod users;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use tracing::{debug, info, warn};

pub use activity::FLUSH_EVERY;
pub use admin::{Admin, AdminError};
pub use import::ImportMode;
pub use lookup::Resident;
pub use users::{UserList, UserQuery, UserSort};

use crate::domain::admission::{Decision, Operation, Request, decide};
use crate::domain::brake::Brake;
use crate::domain::license::{ComponentName, ComponentStanding, OnExpiry};
use crate::domain::name::{Domain, Name};
use crate::domain::seats::{LastLogin, Service as MailService};
use crate::domain::user::UserKey;
use crate::store::{Store, StoreError};
pub(crate) use crate::store::{log_move, log_release};
use activity::Activity;
use answers::{BackupStatus, ComponentAnswer, Verdict};
use coverage::Coverage;
use directories::Board;
use license::LicenseBoard;
use listeners::ListenerBoard;

/// What the service takes from the configuration, apart from the store's policy. May change by a reload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Added to names without a domain.
    pub default_domain: Option<Domain>,
    /// Configured directories: name and the domains that it serves.
    pub directories: Vec<(String, Vec<Domain>)>,
    /// How long tombstones stay.
    pub removal_grace: std::time::Duration,
    /// Where a file lies while it is imported.
    pub state_dir: std::path::PathBuf,
    /// Names of users whose seat is never reclaimed.
    pub protected: Vec<Name>,
    /// How many seats may be reclaimed within an hour.
    pub reclaim_brake: Brake,
}

struct Shared {
    store: Store,
    activity: Activity,
    settings: RwLock<Arc<Settings>>,
    coverage: RwLock<Arc<Coverage>>,
    board: Board,
    listeners: ListenerBoard,
    license: LicenseBoard,
    /// Held while seats are reclaimed: two at once would each find room under the same brake.
    reclaiming: tokio::sync::Mutex<()>,
    backups: Mutex<Option<BackupStatus>>,
    started: Timestamp,
}

/// The service; clones share it.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

impl Service {
    /// Puts the handles over a store.
    pub fn new(
        store: Store,
        settings: Settings,
        board: Board,
        listeners: ListenerBoard,
        license: LicenseBoard,
    ) -> Service {
        let started = store.now();
        let settings = Arc::new(settings);
        let coverage = Coverage::new(Arc::clone(&settings), store.view().directory_index().clone());
        Service(Arc::new(Shared {
            store,
            activity: Activity::default(),
            settings: RwLock::new(settings),
            coverage: RwLock::new(Arc::new(coverage)),
            board,
            listeners,
            license,
            reclaiming: tokio::sync::Mutex::default(),
            backups: Mutex::default(),
            started,
        }))
    }

    /// For front ends.
    pub fn admission(&self) -> Admission {
        Admission(Arc::clone(&self.0))
    }

    /// For the administration API.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.0))
    }

    /// Puts other settings in force.
    pub fn set_settings(&self, settings: Settings) {
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// Writes the collected refusals, and the last logins that are due.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.0.flush(false).await
    }

    /// Writes everything that was collected, for a stop; true when nothing is left.
    pub async fn flush_all(&self) -> Result<bool, StoreError> {
        self.0.flush(true).await?;
        Ok(self.0.activity.logins().is_empty())
    }

    /// Returns when so much was collected that it should be written before [`FLUSH_EVERY`] is over.
    pub async fn has_plenty_to_flush(&self) {
        self.0.activity.is_plenty().await;
    }
}

impl Shared {
    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The coverage of the settings in force, by what the latest view says of the directories.
    fn coverage(&self) -> Arc<Coverage> {
        let (settings, view) = (self.settings(), self.store.view());
        let index = view.directory_index();
        let known = self.coverage.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_of(&settings, index) {
            return known;
        }
        let coverage = Arc::new(Coverage::new(settings, index.clone()));
        *self.coverage.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&coverage);
        coverage
    }

    async fn flush(&self, everything: bool) -> Result<(), StoreError> {
        // It stays in memory until it can be written: at most a line a user, and a bounded number of strangers.
        if self.store.disk().trouble.is_some() {
            return Ok(());
        }
        let pending = self.activity.take();
        if pending.more_strangers > 0 {
            info!(
                event = "seat_refused",
                reason = "unknown_user",
                count = pending.more_strangers,
                "More unknown names were refused than are logged one by one."
            );
        }
        if !pending.refusals.is_empty() || !pending.strangers.is_empty() {
            let refusals = pending.refusals.into_iter().collect();
            let strangers = pending.strangers.into_iter().collect();
            self.store.record_activity(Vec::new(), refusals, strangers).await?;
        }
        self.write_logins(everything).await
    }

    async fn write_logins(&self, everything: bool) -> Result<(), StoreError> {
        let dropped = self.activity.logins().take_dropped();
        if dropped > 0 {
            warn!(
                dropped,
                "{dropped} last logins were lost, because the store could not be written for long."
            );
        }
        // Who goes on logging in must not keep it busy without end.
        for _ in 0..=logins::MOST / logins::BATCH {
            let batch = self.activity.logins().to_write(self.store.now(), everything);
            if batch.is_empty() {
                break;
            }
            self.store.record_activity(batch.clone(), Vec::new(), Vec::new()).await?;
            self.activity.logins().written(&batch);
        }
        Ok(())
    }
}

/// One question of a front end, as it came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask<'a> {
    /// Who: a login name or an address, not yet checked.
    pub user: &'a str,
    /// Through which service.
    pub service: Option<&'a str>,
    /// What for.
    pub operation: Operation,
    /// The client's address, for the log alone.
    pub client: Option<std::net::IpAddr>,
}

/// Why there is no decision. A refusal must never look like this, nor this like a refusal.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The user may exist, but their directory was never read completely.
    #[error("the directory {0} has not been mapped yet")]
    NotMapped(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Nobody can have such a name. What was sent is shown escaped, and cut.
fn note_impossible(user: &str) -> String {
    let shown: String = user.chars().take(64).flat_map(char::escape_default).collect();
    debug!(event = "seat_refused", user = shown, reason = "unknown_user", "This can be no user's name.");
    shown
}

/// Decides who may come in. The handle that every front end gets.
#[derive(Clone)]
pub struct Admission(Arc<Shared>);

impl Admission {
    /// Decides one request. Whoever holds a seat is answered from the mirror at once; a new seat is on disk
    /// when this returns.
    pub async fn admit(&self, ask: &Ask<'_>) -> Result<Verdict, AdmitError> {
        let settings = self.0.settings();
        let Ok(name) = Name::parse(ask.user, settings.default_domain.as_ref()) else {
            let shown = note_impossible(ask.user);
            return Ok(Verdict::new(&Decision::UnknownUser, &shown));
        };
        let decision = self.decide_and_note(&name, ask).await?;
        Ok(Verdict::new(&decision, name.as_str()))
    }

    /// [`Admission::admit`] for front ends that have words of their own for each decision.
    pub async fn decision(&self, ask: &Ask<'_>) -> Result<Decision, AdmitError> {
        let settings = self.0.settings();
        let Ok(name) = Name::parse(ask.user, settings.default_domain.as_ref()) else {
            note_impossible(ask.user);
            return Ok(Decision::UnknownUser);
        };
        self.decide_and_note(&name, ask).await
    }

    async fn decide_and_note(&self, name: &Name, ask: &Ask<'_>) -> Result<Decision, AdmitError> {
        let now = self.0.store.now();
        let request =
            Request { operation: ask.operation.clone(), service: ask.service.and_then(MailService::parse) };
        let (key, decision) = self.decide(name, &request, now).await?;
        if decision == Decision::UnknownUser
            && let Some(directory) = self.may_be_unmapped(name)
        {
            return Err(AdmitError::NotMapped(directory));
        }
        self.note(name, key, &request, &decision, ask, now);
        Ok(decision)
    }

    async fn decide(
        &self,
        name: &Name,
        request: &Request,
        now: Timestamp,
    ) -> Result<(Option<UserKey>, Decision), StoreError> {
        let store = &self.0.store;
        let (purpose, service) = (request.operation.purpose(), request.service.as_ref());
        let (key, view) = store.read(|view| view.admission(name, purpose, service, &store.policy())).await?;
        match decide(&view, request, now) {
            Decision::Granted(_) | Decision::GrantedComponent => {
                let admitted = store.admit(name.clone(), request.clone(), now).await?;
                if let Decision::Granted(seat) = &admitted.decision {
                    let (by, used) = (seat.by.to_string(), admitted.seats_used);
                    info!(event = "seat_granted", user = %name, by, seats_used = used, "{name} took a seat.");
                }
                if admitted.decision == Decision::GrantedComponent {
                    let service = request.service.as_ref().map(MailService::as_str);
                    info!(event = "component_granted", user = %name, service, "{name} took a seat of this service's component.");
                }
                Ok((admitted.key, admitted.decision))
            }
            decision => Ok((key, decision)),
        }
    }

    /// The directory that may still bring a user of this name, if there is one.
    fn may_be_unmapped(&self, name: &Name) -> Option<String> {
        self.0.coverage().may_be_unmapped(name).map(str::to_owned)
    }

    fn note(
        &self,
        name: &Name,
        key: Option<UserKey>,
        request: &Request,
        decision: &Decision,
        ask: &Ask<'_>,
        now: Timestamp,
    ) {
        let activity = &self.0.activity;
        let service = request.service.as_ref().map(MailService::as_str);
        let client = ask.client.map(tracing::field::display);
        let reason = decision.code();
        if decision.allows() {
            if let (Some(key), Operation::Login) = (key, &request.operation) {
                let login = LastLogin { at: now, service: request.service.clone() };
                let stored = || self.0.store.view().last_login_of(key).ok().flatten().map(|login| login.at);
                activity.note_login(key, login, stored);
            }
            debug!(user = %name, service, client, decision = reason, "{name} may come in.");
            return;
        }
        let is_list = request.operation == Operation::Delivery && matches!(decision, Decision::NotAPerson(_));
        // Mail to a list needs no seat.
        if is_list || matches!(request.operation, Operation::Probe | Operation::DeliveryProbe) {
            debug!(user = %name, service, client, decision = reason, "{name} would be refused.");
            return;
        }
        let is_first = match key {
            Some(key) => activity.note_refusal(key, now, reason),
            None => activity.note_stranger(name, now, reason),
        };
        match decision {
            // Repeats within seconds are counted in the ledger, not logged: clients try again by themselves.
            _ if !is_first => {
                debug!(event = "seat_refused", user = %name, service, client, reason, "{name} was refused again.");
            }
            Decision::NotConfigured => {
                warn!(
                    event = "seat_refused", user = %name, service, client, reason,
                    "{name} was refused: the directory of this user is not configured any more, and its users take \
                     no new seats."
                );
            }
            Decision::Exhausted
            | Decision::DomainExhausted
            | Decision::ComponentExhausted
            | Decision::LicenseMissing
            | Decision::LicenseExpired => {
                warn!(event = "seat_refused", user = %name, service, client, reason, "{name} was refused.");
            }
            _ => info!(event = "seat_refused", user = %name, service, client, reason, "{name} was refused."),
        }
    }

    /// Whether a component may be used now, for those who give it to everybody or to nobody.
    pub fn component(&self, name: &str) -> Result<ComponentAnswer, StoreError> {
        let policy = self.0.store.policy();
        let parsed = ComponentName::parse(name);
        let standing =
            parsed.as_ref().map_or(ComponentStanding::Unlicensed, |name| policy.components.standing(name));
        let view = self.0.store.view();
        let (seats, reason) = match standing {
            _ if policy.expired == Some(OnExpiry::RefuseAll) => (None, Some("license_expired")),
            ComponentStanding::Unlicensed => (None, Some("component_unlicensed")),
            ComponentStanding::Licensed { seats } => (seats, None),
        };
        let used =
            parsed.filter(|_| seats.is_some()).map(|name| view.component_seats_used(&name)).transpose()?;
        Ok(ComponentAnswer {
            component: name.to_owned(),
            licensed: reason.is_none(),
            seats,
            used,
            reason: reason.map(str::to_owned),
        })
    }

    /// `Err` says why the daemon is not ready: a directory was never mapped.
    pub fn readiness(&self) -> Result<(), AdmitError> {
        match self.0.coverage().first_unmapped() {
            None => Ok(()),
            Some(directory) => Err(AdmitError::NotMapped(directory.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::users::UserQuery;
    use super::*;
    use crate::admin::fixture::Fixture;
    use crate::domain::names::Purpose;

    /// At a provider with thousands of directories, going through them took longer than the decision.
    #[tokio::test]
    async fn unknown_names_share_what_is_known_of_the_directories() {
        let fixture = Fixture::new(5).await;
        let admission = fixture.service.admission();
        let coverage = || admission.0.coverage();
        let ask = |user| Ask { user, service: None, operation: Operation::Login, client: None };
        let first = coverage();
        assert_eq!(admission.decision(&ask("nobody@example.org")).await.unwrap(), Decision::UnknownUser);
        assert!(admission.decision(&ask("u1")).await.unwrap().allows());
        assert!(Arc::ptr_eq(&first, &coverage()), "a login made it anew");
        assert!(admission.serves("Example.org") && !admission.serves("later.org"));

        let settings = Settings::clone(&admission.0.settings());
        let later = ("later".to_owned(), vec![Domain::parse("later.org").unwrap()]);
        let directories = settings.directories.iter().cloned().chain([later]).collect();
        fixture.service.set_settings(Settings { directories, ..settings });
        assert!(admission.serves("later.org"));
        let unmapped = admission.decision(&ask("x@later.org")).await.unwrap_err();
        assert_eq!(unmapped.to_string(), "the directory later has not been mapped yet");
        assert_eq!(admission.decision(&ask("nobody")).await.unwrap(), Decision::UnknownUser);

        let store = &admission.0.store;
        let later = store.directory("later").await.unwrap();
        assert!(admission.readiness().is_err());
        let changes = crate::store::Changes { checkpoint: Some(Default::default()), ..Default::default() };
        store.apply(later, changes, store.now()).await.unwrap();
        assert_eq!(admission.decision(&ask("x@later.org")).await.unwrap(), Decision::UnknownUser);
        admission.readiness().unwrap();
    }

    /// The first login of the hour is written; the next ones are known all the same, to everyone who shows or decides.
    #[tokio::test]
    async fn logins_within_the_hour_are_not_written_and_count() {
        let fixture = Fixture::new(5).await;
        let (admission, admin) = (fixture.service.admission(), fixture.service.admin());
        let login = async |service| {
            let ask = Ask { user: "u1", service: Some(service), operation: Operation::Login, client: None };
            assert!(admission.decision(&ask).await.unwrap().allows());
        };
        let shown = async || admin.explain("u1").await.unwrap().last_login.unwrap();
        login("imap").await;
        let first = shown().await;
        let key =
            admission.0.store.view().find(&Name::parse("u1@example.org", None).unwrap(), Purpose::Login);
        let key = key.unwrap().unwrap();
        let stored = || admission.0.store.view().last_login_of(key).unwrap().unwrap();
        assert_eq!(stored().at, first.at);
        while admission.0.store.now().as_millisecond() <= first.at.as_millisecond() {
            tokio::task::yield_now().await;
        }
        login("pop3").await;
        fixture.service.flush().await.unwrap();
        assert_eq!(stored().at, first.at, "it was written");

        let second = shown().await;
        assert!(second.at > first.at);
        assert_eq!(second.service.as_deref(), Some("imap"), "the service is that of the last write");
        let last_login_of = admin.last_login_of();
        assert_eq!(last_login_of(key, Some(first.at)), Some(second.at));
        let mut listed = None;
        let list = admin.users(UserQuery::default()).await.unwrap();
        list.for_each(|line| {
            listed = listed.or(line.last_login);
            true
        })
        .unwrap();
        assert_eq!(listed, Some(second.at));

        assert!(fixture.service.flush_all().await.unwrap());
        assert_eq!((stored().at, stored().service.unwrap().as_str()), (second.at, "pop3"));
        assert_eq!(last_login_of(key, Some(second.at)), Some(second.at), "nothing is left in memory");
    }

    #[tokio::test]
    async fn after_a_crash_the_logins_of_the_day_before_count_as_at_the_start() {
        let fixture = Fixture::new(1).await;
        let (admin, store) = (fixture.service.admin(), &fixture.service.0.store);
        // A store that was never stopped.
        let start = store.started_after_crash().unwrap();
        let hours = |hours| start.checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap();
        let last_login_of = admin.last_login_of();
        assert_eq!(last_login_of(UserKey(1), Some(hours(20))), Some(start));
        assert_eq!(last_login_of(UserKey(1), Some(hours(26))), Some(hours(26)));
        assert_eq!(last_login_of(UserKey(1), None), None);
    }
}
