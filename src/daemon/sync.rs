//! The loop of one directory: it does what [`Course`] decides, and tells it what happened.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::follow::{Ended, Follower};
use super::group;
use super::intake::{Compares, Intake, Mode, SyncError};
use super::source::{Opened, Source};
use super::{names, tell};
use crate::config;
use crate::directory::{Authority, DirectoryError, Event};
use crate::domain::brake::Held;
use crate::domain::course::{Action, Course, Happened, Mechanism, Pace, Phase, Run, Start, compare_every};
use crate::domain::directory::Directory;
use crate::domain::moves::MatchBy;
use crate::domain::sync::{Drift, Report};
use crate::service::answers::{DirectoryState, DriftReport, LossReport, MoveReport, SyncReport};
use crate::service::directories::{Board, DirectoryHandle, Progress, SyncCommand, per_second};
use crate::service::moves::{MoveOrder, carry_over};
use crate::store::{Cookie, Proof, Store};

/// How soon a reconcile that failed is tried again, at the latest.
const RECONCILE_AGAIN: Duration = Duration::from_secs(900);

/// How often a refresh that takes long tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Requests that may wait for a loop: an administrator's, so a few.
const COMMANDS: usize = 8;

type Reply = oneshot::Sender<Result<SyncReport, String>>;

/// Syncs one directory until it is stopped.
pub struct SyncLoop {
    /// The configuration file.
    config: PathBuf,
    directory: Directory,
    store: Store,
    source: Source,
    progress: watch::Sender<Progress>,
    commands: mpsc::Receiver<SyncCommand>,
    course: Course,
    /// When the mirror was last proved equal, where only changes are told. The store may have an older one.
    proof: Option<Proof>,
    /// When that is due again.
    reconcile_at: Option<Instant>,
    /// How soon a notification may lead to a poll,
    pace: Pace,
    /// and whether one led to this one.
    was_woken: bool,
    /// What the brake holds back, as it was logged.
    held: Option<Held>,
    /// By which name the seats of users who are removed are carried over, and since when they are removed.
    carries: Option<(MatchBy, Timestamp)>,
    /// Who waits for the end of the refresh.
    reply: Option<Reply>,
}

impl SyncLoop {
    /// Makes the loop and puts its directory on the board.
    pub fn new(config: PathBuf, directory: Directory, store: Store, board: &Board) -> SyncLoop {
        let (progress, progress_seen) = watch::channel(Progress::default());
        let (sender, commands) = mpsc::channel(COMMANDS);
        let handle = DirectoryHandle {
            domain: directory.domain.to_string(),
            progress: progress_seen,
            commands: sender,
        };
        board.insert(&directory.name, handle);
        let (course, _) = Course::begin(directory.poll_every);
        let pace = Pace::new(directory.poll_every);
        SyncLoop {
            config,
            source: Source::new(&directory),
            directory,
            store,
            progress,
            commands,
            course,
            proof: None,
            reconcile_at: None,
            pace,
            was_woken: false,
            held: None,
            carries: None,
            reply: None,
        }
    }

    /// Runs until `stop`. A refresh that is under way is dropped: it has taken nobody away.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.sync()).await;
    }

    async fn sync(&mut self) -> Infallible {
        let (course, mut action) = Course::begin(self.directory.poll_every);
        self.course = course;
        loop {
            let happened = match action {
                Action::Run(run) => self.carry_out(run).await,
                Action::Wait(wait) => self.wait(wait).await,
                // A run that follows ends with what happened, and a wait never ends in nothing.
                Action::Follow | Action::Nothing => Happened::Due,
            };
            action = self.on(happened);
        }
    }

    /// Asks the course, and shows where it stands.
    fn on(&mut self, happened: Happened) -> Action {
        let action = self.course.on(happened, fastrand::f64());
        let phase = self.course.phase();
        self.progress.send_modify(|progress| {
            progress.state = match phase {
                Phase::Refreshing => DirectoryState::Refreshing,
                Phase::Following => DirectoryState::Following,
                Phase::Idle => DirectoryState::Idle,
                Phase::Held(_) => DirectoryState::Held,
                Phase::Backoff(_) => DirectoryState::Backoff,
            };
        });
        action
    }

    async fn wait(&mut self, wait: Duration) -> Happened {
        let mut until = Instant::now() + wait;
        let may_be_woken = Instant::now() + self.pace.gap();
        let is_idle = self.course.phase() == Phase::Idle;
        loop {
            let woken = async {
                // First, so that no notification is lost when this is dropped.
                tokio::time::sleep_until(may_be_woken).await;
                self.source.woken().await;
            };
            tokio::select! {
                () = woken, if is_idle => {
                    self.was_woken = true;
                    return Happened::Due;
                }
                command = self.commands.recv() => {
                    if let Some(happened) = self.obey(command).await {
                        return happened;
                    }
                }
                () = tokio::time::sleep_until(until) => {
                    // A file that did not change is not read again; it is looked at as often.
                    if self.course.phase() != Phase::Idle || self.source.is_due(&self.directory).await {
                        return Happened::Due;
                    }
                    until = Instant::now() + wait;
                }
            }
        }
    }

    /// What a command makes happen; `None` where the course is not touched.
    async fn obey(&mut self, command: Option<SyncCommand>) -> Option<Happened> {
        match command {
            Some(SyncCommand::Sync { dry_run: true, reply, .. }) => {
                let report = self.preview().await;
                // Whoever asked may have gone.
                let _ = reply.send(report);
                None
            }
            Some(SyncCommand::Sync { full, reply, .. }) => {
                if full {
                    self.source.refusals.forget();
                }
                self.reply = Some(reply);
                Some(Happened::Asked { full })
            }
            Some(SyncCommand::Approve { by, reply }) if self.course.is_held() => {
                let name = &self.directory.name;
                info!(directory = name, "An administrator let the held sync of {name} through.");
                self.reply = Some(reply);
                self.carries = by.map(|by| (by, self.store.now()));
                Some(Happened::Approved)
            }
            Some(SyncCommand::Approve { reply, .. }) => {
                let _ = reply.send(Err(format!("nothing is held back in {}", self.directory.name)));
                None
            }
            // The board lets go of a loop only when it is stopped.
            None => std::future::pending().await,
        }
    }

    /// What the configuration file would do as it is now, so that a change of it can be looked at before it is in force.
    async fn preview(&mut self) -> Result<SyncReport, String> {
        let path = self.config.clone();
        let config = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let config = config.map_err(|_| "the configuration could not be read".to_owned())?;
        let config = config.map_err(|error| format!("the configuration has mistakes:\n{error}"))?;
        let name = &self.directory.name;
        let Some(directory) = config.directories.iter().find(|directory| directory.name == *name) else {
            return Err(format!("{name} is not in the configuration file any more"));
        };
        let outcome = self.source.preview(directory, names(&config), &self.store).await;
        let report = outcome.map_err(|error| sentence(&error))?;
        // As others see it, who may stand in another folder.
        let config = std::path::absolute(&self.config).unwrap_or_else(|_| self.config.clone());
        let config = Some(config.display().to_string());
        Ok(SyncReport { config, ..SyncReport::new(&self.directory.name, true, &report) })
    }

    /// One run, with all that belongs to it.
    async fn carry_out(&mut self, run: Run) -> Happened {
        let now = self.store.now();
        self.progress.send_modify(|progress| {
            progress.state = DirectoryState::Refreshing;
            progress.seen = 0;
            progress.refreshing_since = Some(std::time::Instant::now());
            progress.last_attempt = Some(now);
        });
        match self.refresh_and_follow(run).await {
            Ok(happened) => happened,
            Err(SyncError::Directory(DirectoryError::RefreshRequired { .. }) | SyncError::Gap)
                if run.start != Start::Everything =>
            {
                let directory = &self.directory.name;
                info!(directory, "The directory {directory} has to be read from the beginning.");
                Happened::RefreshRequired
            }
            Err(error) if self.source.refusals.refuses(&error) => {
                let (directory, problem) = (&self.directory.name, sentence(&error));
                warn!(
                    directory,
                    "The directory {directory} is synchronized in another way, since {problem}."
                );
                Happened::Refused
            }
            Err(error) => {
                self.source.failed(&error);
                self.tell_failure(&sentence(&error));
                Happened::Failed
            }
        }
    }

    async fn refresh_and_follow(&mut self, run: Run) -> Result<Happened, SyncError> {
        let mut opened = self.source.open(&self.directory).await?;
        self.source.refusals.tries(opened.mechanism);
        let cookie = self.cookie(&opened, run)?;
        let cookie = self.source.usable(&opened, cookie);
        self.tell_opened(&opened);
        let mechanism = opened.mechanism;
        let proven = self.begin_proof(run, cookie.is_some());
        let compares = match (run.reconciles, &proven) {
            (false, _) => Compares::Nothing,
            (true, Some(_)) => Compares::Ids,
            (true, None) => Compares::Everything,
        };
        let mode = Mode { dry_run: None, approved: run.approved, compares };
        let directory = self.directory.clone();
        let store = self.store.clone();
        let intake = Intake::begin(&directory, opened.rules.clone(), &store, mode).await?;
        let valid_for = opened.valid_for.clone();
        // It is to bring everything, so that the proof after it finds nothing but drift.
        opened.precedes_proof = !run.reconciles && self.is_proof_due();
        let mut events = opened.start(&directory, &store, cookie.clone(), proven)?;
        let (intake, authority, bytes) = self.refresh(intake, &mut events, &mut opened).await?;
        if let Some(group) = &opened.group
            && (group.is_narrowing(&opened.rules) || intake.has_left_group())
            && group.has_changed().await?
        {
            return Ok(Happened::Due);
        }
        // Where nothing changed a server may send no cookie: the one that it got is as good.
        let reads_everything = cookie.is_none();
        let bytes = bytes.or(cookie);
        let proves = reads_everything || run.reconciles;
        let proof = match &bytes {
            Some(bytes) if proves => Some(Proof { at: self.store.now(), bytes: bytes.clone() }),
            _ => self.proof.clone(),
        };
        let cookie = bytes.map(|bytes| Cookie { valid_for: valid_for.clone(), bytes, proof: proof.clone() });
        // The ids of everything were told before.
        let authority = if compares == Compares::Ids { Authority::Everything } else { authority };
        let (report, place) = intake.end(authority, cookie).await?;
        if run.reconciles {
            self.tell_reconciled(report.drift);
        }
        if let Some(held) = &report.held {
            self.tell_held(held);
            self.answer(Ok(SyncReport::new(&directory.name, false, &report)));
            return Ok(Happened::Held(held.shown()));
        }
        if std::mem::take(&mut self.was_woken) {
            self.pace.led_to(report.has_changes());
        }
        self.source.succeeded(&directory, &opened);
        let moves = self.carry_over().await;
        self.tell_completed(&report, moves);
        self.proof = proof;
        if mechanism.keeps_cookies() && (proves || self.reconcile_at.is_none()) {
            self.reconcile_at = Some(Instant::now() + self.until_reconcile());
        }
        let follows = mechanism.follows();
        let is_due = mechanism.keeps_cookies() && self.is_proof_due();
        if follows && !(is_due && mechanism.needs_comparing()) {
            let _ = self.on(Happened::Refreshed { follows });
            let mut follower = Follower::new(place, valid_for, self.proof.clone());
            return self.follow(&mut follower, &mut events, opened).await;
        }
        // Right after a run that brought everything, so that nothing else counts as drift. A poll that began before the
        // proof was due did not: the next one does.
        if is_due && (follows || opened.precedes_proof) {
            let _ = self.on(Happened::Refreshed { follows });
            return Ok(self.proof_due(mechanism));
        }
        Ok(Happened::Refreshed { follows })
    }

    /// Follows until something happens that ends the run.
    async fn follow(
        &mut self,
        follower: &mut Follower<'_>,
        events: &mut mpsc::Receiver<Event>,
        mut opened: Opened,
    ) -> Result<Happened, SyncError> {
        let reconcile_at = self.reconcile_at.unwrap_or_else(|| Instant::now() + self.until_reconcile());
        let (due, happens) = if opened.mechanism.needs_comparing() {
            let people = follower.people();
            (
                reconcile_at.min(Instant::now() + compare_every(self.directory.poll_every, people)),
                Happened::Due,
            )
        } else {
            (reconcile_at, self.proof_due(opened.mechanism))
        };
        let mut group_changed = Box::pin(group::changed(opened.group.clone(), self.directory.poll_every));
        // Never dropped before the end of the run: what it was writing would be missing, and a later cookie
        // would cover it all the same.
        let mut following = Box::pin(follower.run(events));
        loop {
            tokio::select! {
                ended = &mut following => match ended {
                    Ok(Ended::Held(held)) => {
                        self.tell_held(&held);
                        break Ok(Happened::Held(held.shown()));
                    }
                    Ok(Ended::Group) => break Ok(Happened::Due),
                    Ok(Ended::Driver) => break Err(opened.error().await),
                    Err(error) => break Err(error),
                },
                command = self.commands.recv() => {
                    if let Some(happened) = self.obey(command).await {
                        break Ok(happened);
                    }
                }
                changed = &mut group_changed => break changed.map(|()| Happened::Due),
                () = tokio::time::sleep_until(due) => break Ok(happens),
            }
        }
    }

    /// Takes entries in until the driver has told its refresh to the end: what may be concluded, and the cookie.
    async fn refresh<'a>(
        &mut self,
        mut intake: Intake<'a>,
        events: &mut mpsc::Receiver<Event>,
        opened: &mut Opened,
    ) -> Result<(Intake<'a>, Authority, Option<Vec<u8>>), SyncError> {
        let began = Instant::now();
        let mut telling = tokio::time::interval_at(began + PROGRESS_EVERY, PROGRESS_EVERY);
        telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = telling.tick() => {
                    self.tell_progress(&intake, began.elapsed());
                    continue;
                }
            };
            match event {
                Some(Event::EndRefresh(authority, cookie)) => return Ok((intake, authority, cookie)),
                Some(event) => {
                    intake.take(event).await?;
                    self.progress.send_modify(|progress| progress.seen = intake.seen());
                }
                None => return Err(opened.error().await),
            }
        }
    }

    /// For a run that compares ids: the cookie of the last proof.
    fn begin_proof(&mut self, run: Run, goes_on: bool) -> Option<Vec<u8>> {
        if !run.reconciles {
            return None;
        }
        self.source.refusals.forget_polls();
        let again = RECONCILE_AGAIN.min(self.directory.full_sync_every);
        self.reconcile_at = Some(Instant::now() + again);
        self.proof.as_ref().filter(|_| goes_on).map(|proof| proof.bytes.clone())
    }

    fn is_proof_due(&self) -> bool {
        self.reconcile_at.is_some_and(|at| at <= Instant::now())
    }

    /// The next proof: by ids, where that is possible and there is one to begin with.
    fn proof_due(&self, mechanism: Mechanism) -> Happened {
        let by_ids = mechanism.reconciles_by_ids() && self.proof.is_some();
        Happened::ReconcileDue { start: if by_ids { Start::Cookie } else { Start::Everything } }
    }

    /// Until the last proof is as old as it may become. A clock that was set must not put it off.
    fn until_reconcile(&self) -> Duration {
        let every = self.directory.full_sync_every;
        let age = self.proof.as_ref().map(|proof| self.store.now().duration_since(proof.at));
        every.saturating_sub(age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default())
    }

    /// The cookie in the store, where it is wanted and everything that it depends on is as it was.
    fn cookie(&mut self, opened: &Opened, run: Run) -> Result<Option<Vec<u8>>, SyncError> {
        if run.start == Start::Everything || !opened.mechanism.keeps_cookies() {
            return Ok(None);
        }
        let view = self.store.view();
        let record = view.directory_named(&self.directory.name);
        let cookie = record.map(|record| view.cookie(record.id)).transpose()?.flatten();
        let Some(cookie) = cookie.filter(|cookie| cookie.valid_for == opened.valid_for) else {
            return Ok(None);
        };
        self.proof = self.proof.take().or(cookie.proof);
        // What was never proved can't be proved by what changed since.
        Ok((!run.reconciles || self.proof.is_some()).then_some(cookie.bytes))
    }

    /// Carries over what users had whom an approved sync removed, if the administrator wanted that.
    async fn carry_over(&mut self) -> Option<MoveReport> {
        let (by, since) = self.carries.take()?;
        let name = self.directory.name.clone();
        let order =
            MoveOrder { by, from: name.clone(), to: name, removed_since: Some(since), dry_run: false };
        match carry_over(&self.store, &order).await {
            Ok(report) => Some(report),
            Err(error) => {
                let (directory, by) = (&self.directory.name, by.as_str());
                error!(
                    directory,
                    error = %error,
                    "Not all seats of removed users of {directory} were carried over to new entries: {error}. Run: \
                     seatkeeper seats move --match {by} --from {directory} --to {directory}"
                );
                None
            }
        }
    }

    fn answer(&mut self, report: Result<SyncReport, String>) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone.
            let _ = reply.send(report);
        }
    }

    /// What keeps the server from a better mechanism is logged once.
    fn tell_opened(&self, opened: &Opened) {
        let directory = &self.directory.name;
        let warning = self.source.warning(&self.directory, opened);
        if let Some(warning) = &warning
            && self.progress.borrow().warning.as_ref() != Some(warning)
        {
            warn!(directory, "The sync of {directory} could do better: {warning}.");
        }
        self.progress.send_modify(|progress| {
            progress.mechanism = Some(opened.mechanism.as_str().to_owned());
            progress.mechanism_reason = Some(opened.reason.clone());
            progress.warning = warning;
            progress.server.clone_from(&opened.server);
            progress.url = opened.url.as_ref().map(ToString::to_string);
        });
    }

    fn tell_completed(&mut self, report: &Report, moves: Option<MoveReport>) {
        self.held = None;
        let directory = &self.directory.name;
        let Report { added, changed, returned, disabled, removed, seen, skipped, .. } = report;
        let skipped: u64 = skipped.values().sum();
        if report.has_changes() {
            info!(
                event = "sync_completed",
                directory,
                seen,
                added,
                changed,
                returned,
                disabled,
                removed,
                skipped,
                "The sync of {directory} is complete."
            );
        } else {
            debug!(
                event = "sync_completed",
                directory, seen, skipped, "The sync of {directory} is complete; nothing changed."
            );
        }
        self.progress.send_modify(|progress| {
            progress.held = None;
            progress.last_error = None;
        });
        let mut report = SyncReport::new(&self.directory.name, false, report);
        if let Some(moves) = &moves {
            // Their removed users have none any more.
            report.seats_released_after_grace =
                report.seats_released_after_grace.saturating_sub(moves.seats_moved);
        }
        report.moves = moves;
        self.answer(Ok(report));
    }

    /// The first map of a large directory takes a while, and whoever started the daemon watches it.
    fn tell_progress(&self, intake: &Intake<'_>, elapsed: Duration) {
        let (directory, seen) = (&self.directory.name, intake.seen());
        let rate = per_second(seen, elapsed);
        if intake.is_first_map() {
            info!(
                event = "sync_progress",
                directory, seen, rate, "{seen} entries of {directory} are read, {rate} a second."
            );
        } else {
            debug!(
                event = "sync_progress",
                directory, seen, rate, "{seen} entries of {directory} are read, {rate} a second."
            );
        }
    }

    /// What a reconcile found, and repaired.
    fn tell_reconciled(&mut self, drift: Drift) {
        let directory = &self.directory.name;
        let Drift { missing, stale, surplus } = drift;
        let found = drift.total();
        if found > 0 {
            warn!(
                event = "drift_repaired",
                directory,
                missing,
                stale,
                surplus,
                "The mirror of {directory} differed from it in {found} users, and was repaired."
            );
        } else {
            debug!(directory, "The mirror of {directory} equals it.");
        }
        let last_reconcile = self.store.now();
        self.progress.send_modify(|progress| {
            let total = progress.drift.map_or(0, |drift| drift.total) + found;
            progress.drift = Some(DriftReport { last_reconcile, found, total });
        });
    }

    /// Each attempt finds it again, until it is over; the log has it when it is news.
    fn tell_held(&mut self, held: &Held) {
        self.carries = None;
        if held.is_news(self.held.as_ref()) {
            tell::brake_tripped(&self.directory.name, held);
        }
        self.held = Some(held.clone());
        self.progress.send_modify(|progress| {
            progress.held = Some(LossReport::from(held));
            progress.last_error = None;
        });
    }

    fn tell_failure(&mut self, error: &str) {
        let directory = &self.directory.name;
        warn!(
            event = "sync_failed",
            directory, error, "The sync of {directory} failed, and nobody was removed: {error}"
        );
        self.progress.send_modify(|progress| progress.last_error = Some(error.to_owned()));
        self.answer(Err(error.to_owned()));
    }
}

/// An error with its causes on one line.
pub(super) fn sentence(error: &SyncError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        let next = source.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = source.source();
    }
    text
}
