//! The daemon: start, run, reload, drain.

mod backup;
pub mod check;
mod follow;
mod group;
mod housekeeping;
mod intake;
mod license;
mod listeners;
pub mod offline;
mod passwords;
mod refusal;
mod source;
mod sync;
mod systemd;
pub mod telemetry;
mod tell;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, Bind, Config};
use crate::directory;
use crate::domain::directory::Directory;
use crate::domain::license::Components;
use crate::domain::names::NameRules;
use crate::domain::user::{Census, Origin};
use crate::service::directories::Board;
use crate::service::license::LicenseBoard;
use crate::service::listeners::ListenerBoard;
use crate::service::passwords::Authenticator;
use crate::service::{Service, Settings};
use crate::store::{self, Marker, Policy, Store, StoreError, Writer};
use license::{Keeper, LicenseSettings};
use listeners::Listeners;
use sync::SyncLoop;
use telemetry::LevelHandle;

/// All of the drain: listeners take the most of it. The daemon is gone after ten seconds, before systemd's
/// patience ends (`TimeoutStopSec=`).
const SHUTDOWN: Duration = Duration::from_secs(9);

/// Runs the daemon until a signal ends it.
pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let level = telemetry::start(config.log).context("cannot start logging")?;
    end_on_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (daemon, writer) = Daemon::start(path, config, level).await?;
        daemon.run(writer).await
    });
    if let Err(error) = &outcome
        && needs_an_administrator(error)
    {
        error!(event = "store_in_trouble", "The daemon does not start: {error:#}");
    }
    // Whatever still blocks then is a read of a directory; nothing of it is kept.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Whether a restart would end in the same error: the store's file has to be seen to first.
pub fn needs_an_administrator(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::needs_an_administrator)
}

/// A panic ends the process, so that it never runs on with half of its tasks; only the LDAP library's
/// become errors of their sweep.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if directory::is_guarded() {
            warn!(panic = %panic, "The LDAP library panicked on a server's answer.");
            return;
        }
        if store::is_guarded() {
            return;
        }
        if panic.location().is_some_and(store::is_damage) {
            error!(
                "The store seems to be damaged. Stop the daemon, run `seatkeeper verify --store` on its file, and \
                 restore a backup with `seatkeeper restore FILE`."
            );
        }
        error!(panic = %panic, "The daemon panicked and ends.");
        std::process::abort();
    }));
}

struct Daemon {
    path: PathBuf,
    config: Config,
    level: LevelHandle,
    store: Store,
    service: Service,
    keeper: Keeper,
    authenticator: Authenticator,
    verifiers: Arc<passwords::Directories>,
    board: Board,
    listeners: Listeners,
    loops: BTreeMap<String, RunningLoop>,
    grace: watch::Sender<Duration>,
    reclaim_after: watch::Sender<Option<Duration>>,
    ledger_keep: watch::Sender<Option<Duration>>,
    /// Notified when the configuration was read again.
    configured: watch::Sender<()>,
    backup: watch::Sender<Option<config::Backup>>,
    background: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    signals: Signals,
}

struct RunningLoop {
    directory: Directory,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Daemon {
    /// Opens the store, then listens, then begins to sync: whoever can connect gets an answer.
    async fn start(path: &Path, config: Config, level: LevelHandle) -> anyhow::Result<(Daemon, Writer)> {
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        make_folder(&config.state_dir, 0o700)?;
        if let Some(parent) = config.control_socket.parent() {
            make_folder(parent, 0o755)?;
        }
        let store_path = config.state_dir.join(store::FILE_NAME);
        let marker = Marker::of(&config.state_dir);
        marker.check(&store_path)?;
        let opening = policy(&config);
        let (store, writer) =
            tokio::task::spawn_blocking(move || Store::open(&store_path, opening)).await??;
        if let Err(error) = marker.make() {
            warn!(
                error = %error,
                "{} cannot be made ({error}): a store that is missing would be taken for a first start. Under systemd, \
                 write StateDirectory=seatkeeper seatkeeper-marker.",
                marker.path().display()
            );
        }
        // Settles what follows from a policy that changed while the daemon was down, and notes that the daemon runs.
        if_written(store.keep_time().await)?;
        let (board, listener_board) = (Board::default(), ListenerBoard::default());
        let (license_board, license_commands) = LicenseBoard::new();
        // Before anybody can ask: the first login must find the licence in force.
        let wanted = license_settings(&config);
        let keeper = Keeper::open(store.clone(), license_board.clone(), wanted).await?;
        let (boards, settings) = ((board.clone(), listener_board.clone()), settings(&config));
        let service = Service::new(store.clone(), settings, boards.0, boards.1, license_board);
        let stop = CancellationToken::new();
        let verifiers = Arc::new(passwords::Directories::default());
        verifiers.set(&config.directories);
        let authenticator = Authenticator::new(service.admission(), verifiers.clone());
        authenticator.set_cache(config.password_cache);
        let mut listeners =
            Listeners::new(service.clone(), authenticator.clone(), listener_board, stop.clone());
        listeners.serve_control(&Bind::Unix(config.control_socket.clone())).await?;
        let plan = listeners.plan(&config.listeners).await?;
        listeners.apply(plan);
        let (grace, grace_seen) = watch::channel(config.seats.removal_grace);
        let (reclaim_after, after_seen) = watch::channel(config.seats.reclaim_after);
        let (configured, configured_seen) = watch::channel(());
        let (backup, backup_seen) = watch::channel(config.backup.clone());
        let (ledger_keep, keep_seen) = watch::channel(config.ledger_keep);
        let background = vec![
            tokio::spawn(housekeeping::look_after_disk(store.clone())),
            tokio::spawn(housekeeping::flush(service.clone())),
            tokio::spawn(housekeeping::clock(store.clone())),
            tokio::spawn(housekeeping::purge(store.clone(), grace_seen)),
            tokio::spawn(housekeeping::reunite(store.clone(), configured_seen)),
            tokio::spawn(housekeeping::trim_ledger(store.clone(), keep_seen)),
            tokio::spawn(housekeeping::reclaim(store.clone(), service.admin(), after_seen)),
            tokio::spawn(backup::nightly(store.clone(), service.admin(), backup_seen)),
            tokio::spawn(systemd::watch(store.clone(), service.admin())),
            tokio::spawn(keeper.clone().run(license_commands)),
        ];
        let mut daemon = Daemon {
            path: path.to_owned(),
            level,
            store,
            service,
            keeper,
            authenticator,
            verifiers,
            board,
            listeners,
            loops: BTreeMap::new(),
            grace,
            reclaim_after,
            ledger_keep,
            configured,
            backup,
            background,
            stop,
            signals,
            config: Config { directories: Vec::new(), ..config.clone() },
        };
        daemon.sync(&config.directories).await;
        daemon.config = config;
        daemon.warn_of_forgotten_directories();
        Ok((daemon, writer))
    }

    async fn run(mut self, writer: Writer) -> anyhow::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        info!(event = "started", version, config = %self.path.display(), "Seatkeeper {version} is ready to be asked.");
        systemd::ready();
        let storage_failed = loop {
            tokio::select! {
                _ = self.signals.terminate.recv() => break false,
                _ = self.signals.interrupt.recv() => break false,
                _ = self.signals.hang_up.recv() => self.reload().await,
                () = self.store.closed() => break true,
            }
        };
        systemd::stopping();
        info!(event = "stopping", "Seatkeeper finishes what was asked, and ends.");
        let drained = tokio::time::timeout(SHUTDOWN, self.drain(writer)).await;
        match drained {
            Ok(outcome) => outcome?,
            Err(_) => warn!("Not everything was finished in time; what was granted is on disk."),
        }
        if storage_failed {
            bail!("the store's writer ended; it recovers when the daemon starts again");
        }
        Ok(())
    }

    /// Nobody new, then the last answers, then the last writes, then the file is closed.
    async fn drain(self, writer: Writer) -> anyhow::Result<()> {
        let Daemon { store, service, authenticator, keeper, listeners, loops, background, stop, .. } = self;
        stop.cancel();
        for running in loops.into_values() {
            running.stop.cancel();
            // A loop that was stopped has nothing to tell.
            let _ = running.task.await;
        }
        listeners.drained().await;
        for task in background {
            task.abort();
            let _ = task.await;
        }
        let flushed = service.flush_all().await;
        // Without it the next start goes on from a minute ago, as after a crash.
        let _ = match flushed {
            Ok(true) => store.keep_stop().await,
            _ => store.keep_time().await,
        };
        drop((listeners, authenticator, service, keeper, store));
        tokio::task::spawn_blocking(move || writer.join()).await??;
        flushed?;
        Ok(())
    }

    /// SIGHUP: the new configuration as a whole, or the old one as it was.
    async fn reload(&mut self) {
        systemd::reloading();
        match self.try_reload().await {
            Ok(()) => {
                info!(event = "reloaded", config = %self.path.display(), "The configuration was read again.")
            }
            Err(error) => {
                let reason = format!("{error:#}");
                error!(config = %self.path.display(), reason, "The new configuration is not used, the old one stays in force: {reason}");
            }
        }
        systemd::ready();
    }

    async fn try_reload(&mut self) -> anyhow::Result<()> {
        // Who has set the clock reloads, and need not wait for it to be seen.
        self.store.clock().look();
        let path = self.path.clone();
        let config = tokio::task::spawn_blocking(move || config::load(&path)).await??;
        for (key, old, new) in [
            ("state_dir", &self.config.state_dir, &config.state_dir),
            ("control_socket", &self.config.control_socket, &config.control_socket),
        ] {
            if old != new {
                bail!("{key} cannot change while the daemon runs: restart it");
            }
        }
        let plan = self.listeners.plan(&config.listeners).await?;
        // Nothing can fail from here on but the store, which ends the daemon.
        self.store.change_policy(|policy| configure(policy, &config));
        self.keeper.reconfigure(license_settings(&config)).await?;
        self.service.set_settings(settings(&config));
        self.verifiers.set(&config.directories);
        self.authenticator.set_cache(config.password_cache);
        self.grace.send_replace(config.seats.removal_grace);
        self.reclaim_after.send_replace(config.seats.reclaim_after);
        self.backup.send_replace(config.backup.clone());
        self.ledger_keep.send_replace(config.ledger_keep);
        // A transaction settles what follows from the new policy; without a store the daemon ends by itself.
        let _ = self.store.ping().await;
        self.configured.send_replace(());
        self.level.set(config.log.level);
        self.listeners.apply(plan);
        self.sync(&config.directories).await;
        self.config = config;
        self.warn_of_forgotten_directories();
        Ok(())
    }

    /// Stops the loops of directories that are gone or changed, and starts those that are new or changed.
    async fn sync(&mut self, wanted: &[Directory]) {
        let is_wanted = |running: &RunningLoop| wanted.contains(&running.directory);
        let ended: Vec<String> = self
            .loops
            .iter()
            .filter(|(_, running)| !is_wanted(running))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            if let Some(running) = self.loops.remove(&name) {
                running.stop.cancel();
                let _ = running.task.await;
                self.board.remove(&name);
            }
        }
        for directory in wanted {
            if self.loops.contains_key(&directory.name) {
                continue;
            }
            let stop = self.stop.child_token();
            let sync = SyncLoop::new(self.path.clone(), directory.clone(), self.store.clone(), &self.board);
            let task = tokio::spawn(sync.run(stop.clone()));
            let running = RunningLoop { directory: directory.clone(), stop, task };
            self.loops.insert(directory.name.clone(), running);
        }
    }

    /// A directory that is taken out of the configuration leaves its users as they were: a slip of the
    /// editor must cost nobody a mailbox.
    fn warn_of_forgotten_directories(&self) {
        for record in self.store.view().directories() {
            let Census { people: users, seats, .. } = record.census;
            if record.origin() == Origin::Mapped && users > 0 && !self.loops.contains_key(&record.name) {
                let directory = &record.name;
                warn!(
                    directory,
                    users,
                    seats,
                    "The directory {directory} is not configured any more: of its {users} users, the holders keep \
                     their {seats} seats, and the others get none (not_seated). To carry them over to another name or \
                     remove them: seatkeeper directory rename, seatkeeper directory forget."
                );
            }
        }
    }
}

/// A disk that takes no writes is no reason to end: whoever holds a seat gets in all the same. The log has said so.
fn if_written(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(StoreError::InTrouble(_)) => Ok(()),
        outcome => outcome,
    }
}

fn make_folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(mode);
    let made = builder.create(path);
    made.with_context(|| match std::fs::read_link(path) {
        Ok(target) => {
            format!(
                "the folder {} is a symbolic link to {}, which is not a folder",
                path.display(),
                target.display()
            )
        }
        Err(_) => format!("cannot make the folder {}", path.display()),
    })
}

/// What the store begins with: the licence comes to it before anybody can ask.
fn policy(config: &Config) -> Policy {
    let mut policy = Policy {
        seat_limit: None,
        seatless_limit: Some(0),
        directory_limits: BTreeMap::new(),
        domain_limits: BTreeMap::new(),
        take_on: config.seats.take_on,
        names: NameRules::default(),
        expired: None,
        components: Components::default(),
    };
    configure(&mut policy, config);
    policy
}

/// The part of the policy that is not the licence's.
fn configure(policy: &mut Policy, config: &Config) {
    let limit = |directory: &Directory| Some((directory.name.clone(), directory.seat_limit?));
    policy.directory_limits = config.directories.iter().filter_map(limit).collect();
    policy.domain_limits = config.domain_limits.clone();
    policy.take_on = config.seats.take_on;
    policy.names = names(config);
}

/// The rules of names of a configuration.
fn names(config: &Config) -> NameRules {
    let names = config.directories.iter().map(Directory::names).collect();
    NameRules::new(names, config.administrator.clone())
}

fn license_settings(config: &Config) -> LicenseSettings {
    LicenseSettings {
        declared: config.seat_limit,
        signed: config.license.clone(),
        services: config.components.clone(),
    }
}

fn settings(config: &Config) -> Settings {
    let served = |directory: &Directory| (directory.name.clone(), directory.domains.clone());
    Settings {
        default_domain: config.default_domain.clone(),
        directories: config.directories.iter().map(served).collect(),
        removal_grace: config.seats.removal_grace,
        state_dir: config.state_dir.clone(),
        protected: config.seats.protected.clone(),
        reclaim_brake: config.seats.brake,
    }
}
