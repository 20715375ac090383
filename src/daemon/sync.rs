//! The loop of one directory: it does what [`Course`] decides, and tells it what happened.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::follow::{Ended, Follower};
use super::group;
use super::intake::{Intake, Mode, SyncError, held};
use super::source::{Opened, Source};
use crate::directory::{DirectoryError, Event};
use crate::domain::course::{Action, Course, Happened, Phase, Run, Start};
use crate::domain::directory::Directory;
use crate::domain::sync::{Loss, Report, Window};
use crate::service::answers::{DirectoryState, LossReport, SyncReport};
use crate::service::directories::{Board, DirectoryHandle, Progress, SyncCommand};
use crate::store::{Cookie, Store};

/// Requests that may wait for a loop: an administrator's, so a few.
const COMMANDS: usize = 8;

type Reply = oneshot::Sender<Result<SyncReport, String>>;

/// Syncs one directory until it is stopped.
pub struct SyncLoop {
    directory: Directory,
    store: Store,
    source: Source,
    progress: watch::Sender<Progress>,
    commands: mpsc::Receiver<SyncCommand>,
    course: Course,
    /// What was taken away in the last hour, where only changes are told.
    window: Window,
    /// When everything is to be read again, where only changes are told.
    full_sync: Option<Instant>,
    /// Who waits for the end of the refresh.
    reply: Option<Reply>,
}

impl SyncLoop {
    /// Makes the loop and puts its directory on the board.
    pub fn new(directory: Directory, store: Store, board: &Board) -> SyncLoop {
        let (progress, progress_seen) = watch::channel(Progress::default());
        let (sender, commands) = mpsc::channel(COMMANDS);
        let handle = DirectoryHandle {
            domain: directory.domain.to_string(),
            progress: progress_seen,
            commands: sender,
        };
        board.insert(&directory.name, handle);
        let (course, _) = Course::begin(directory.poll_every);
        SyncLoop {
            source: Source::new(&directory),
            directory,
            store,
            progress,
            commands,
            course,
            window: Window::default(),
            full_sync: None,
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
                Action::Follow | Action::Nothing => self.due(),
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
        loop {
            tokio::select! {
                command = self.commands.recv() => {
                    if let Some(happened) = self.obey(command).await {
                        return happened;
                    }
                }
                () = tokio::time::sleep_until(until) => {
                    // A file that did not change is not read again; it is looked at as often.
                    if self.course.phase() != Phase::Idle || self.source.is_due(&self.directory).await {
                        return self.due();
                    }
                    until = Instant::now() + wait;
                }
            }
        }
    }

    fn due(&self) -> Happened {
        Happened::Due { full: self.full_sync.is_some_and(|at| at <= Instant::now()) }
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
                self.reply = Some(reply);
                Some(Happened::Asked { full })
            }
            Some(SyncCommand::Approve { reply }) if self.course.is_held() => {
                let name = &self.directory.name;
                info!(directory = name, "An administrator let the held sync of {name} through.");
                self.reply = Some(reply);
                Some(Happened::Approved)
            }
            Some(SyncCommand::Approve { reply }) => {
                let _ = reply.send(Err(format!("nothing is held back in {}", self.directory.name)));
                None
            }
            // The board lets go of a loop only when it is stopped.
            None => std::future::pending().await,
        }
    }

    async fn preview(&mut self) -> Result<SyncReport, String> {
        let outcome = self.source.preview(&self.directory, &self.store).await;
        let report = outcome.map_err(|error| sentence(&error))?;
        Ok(SyncReport::new(&self.directory.name, true, &report))
    }

    /// One run, with all that belongs to it.
    async fn carry_out(&mut self, run: Run) -> Happened {
        self.progress.send_modify(|progress| {
            progress.state = DirectoryState::Refreshing;
            progress.seen = 0;
            progress.last_attempt = Some(Timestamp::now());
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
            Err(error) => {
                self.source.failed(&error);
                self.tell_failure(&sentence(&error));
                Happened::Failed
            }
        }
    }

    async fn refresh_and_follow(&mut self, run: Run) -> Result<Happened, SyncError> {
        let mut opened = self.source.open(&self.directory).await?;
        self.progress.send_modify(|progress| {
            progress.mechanism = Some(opened.mechanism.as_str().to_owned());
            progress.mechanism_reason = Some(opened.reason.to_owned());
            progress.server.clone_from(&opened.server);
            progress.url = opened.url.as_ref().map(ToString::to_string);
        });
        let cookie = self.cookie(&opened, run.start)?;
        let reads_everything = cookie.is_none();
        let (follows, keeps_cookies) = (opened.mechanism.follows(), opened.mechanism.keeps_cookies());
        let lost = if keeps_cookies { self.window.lost(Timestamp::now()) } else { 0 };
        let mode = Mode { dry_run: false, approved: run.approved, lost };
        let directory = self.directory.clone();
        let store = self.store.clone();
        let mut intake = Intake::begin(&directory, opened.rules.clone(), &store, mode).await?;
        let valid_for = opened.valid_for.clone();
        let mut events = opened.start(&directory, &store, cookie.clone())?;
        let (authority, bytes) = loop {
            match events.recv().await {
                Some(Event::EndRefresh(authority, cookie)) => break (authority, cookie),
                Some(event) => {
                    intake.take(event).await?;
                    self.progress.send_modify(|progress| progress.seen = intake.seen());
                }
                None => return Err(opened.error().await),
            }
        };
        if let Some(group) = &opened.group
            && (group.is_narrowing(&opened.rules) || intake.has_left_group())
            && group.has_changed().await?
        {
            return Ok(Happened::Due { full: false });
        }
        // Where nothing changed a server may send no cookie: the one that it got is as good.
        let bytes = bytes.or(cookie);
        let cookie = bytes.map(|bytes| Cookie { valid_for: valid_for.clone(), bytes });
        let (report, place) = intake.end(authority, cookie).await?;
        if let Some(loss) = held(&report) {
            self.tell_held(&report);
            return Ok(Happened::Held(loss));
        }
        if keeps_cookies {
            self.window.add(Timestamp::now(), report.disabled + report.removed);
            if reads_everything || self.full_sync.is_none() {
                self.full_sync = Some(Instant::now() + self.directory.full_sync_every);
            }
        }
        self.source.succeeded(&opened);
        self.tell_completed(&report);
        if !follows {
            return Ok(Happened::Refreshed { follows });
        }
        let _ = self.on(Happened::Refreshed { follows });
        let mut follower = Follower::new(place, valid_for);
        self.follow(&mut follower, &mut events, opened).await
    }

    /// Follows until something happens that ends the run.
    async fn follow(
        &mut self,
        follower: &mut Follower<'_>,
        events: &mut mpsc::Receiver<Event>,
        mut opened: Opened,
    ) -> Result<Happened, SyncError> {
        let full_sync = self.full_sync.unwrap_or_else(|| Instant::now() + self.directory.full_sync_every);
        let poll = Instant::now() + self.directory.poll_every;
        let is_compared = opened.mechanism.needs_comparing() && poll < full_sync;
        let (due, full) = if is_compared { (poll, false) } else { (full_sync, true) };
        let mut group_changed = Box::pin(group::changed(opened.group.clone(), self.directory.poll_every));
        let mut window = std::mem::take(&mut self.window);
        // Never dropped before the end of the run: what it was writing would be missing, and a later cookie
        // would cover it all the same.
        let mut following = Box::pin(follower.run(events, &mut window));
        let happened = loop {
            tokio::select! {
                ended = &mut following => match ended {
                    Ok(Ended::Held(loss)) => {
                        self.tell_loss(loss);
                        break Ok(Happened::Held(loss.total()));
                    }
                    Ok(Ended::Group) => break Ok(Happened::Due { full: false }),
                    Ok(Ended::Driver) => break Err(opened.error().await),
                    Err(error) => break Err(error),
                },
                command = self.commands.recv() => {
                    if let Some(happened) = self.obey(command).await {
                        break Ok(happened);
                    }
                }
                changed = &mut group_changed => {
                    break changed.map(|()| Happened::Due { full: false });
                }
                () = tokio::time::sleep_until(due) => break Ok(Happened::Due { full }),
            }
        };
        drop(following);
        self.window = window;
        happened
    }

    /// The cookie in the store, where it is wanted and everything that it depends on is as it was.
    fn cookie(&self, opened: &Opened, start: Start) -> Result<Option<Vec<u8>>, SyncError> {
        if start == Start::Everything || !opened.mechanism.keeps_cookies() {
            return Ok(None);
        }
        let view = self.store.view();
        let record = view.directories().find(|record| record.name == self.directory.name);
        let cookie = record.map(|record| view.cookie(record.id)).transpose()?.flatten();
        Ok(cookie.filter(|cookie| cookie.valid_for == opened.valid_for).map(|cookie| cookie.bytes))
    }

    fn answer(&mut self, report: Result<SyncReport, String>) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone.
            let _ = reply.send(report);
        }
    }

    fn tell_completed(&mut self, report: &Report) {
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
        self.answer(Ok(SyncReport::new(&self.directory.name, false, report)));
    }

    fn tell_held(&mut self, report: &Report) {
        self.progress.send_modify(|progress| {
            progress.held = report.held.map(LossReport::from);
            progress.last_error = None;
        });
        self.answer(Ok(SyncReport::new(&self.directory.name, false, report)));
    }

    fn tell_loss(&mut self, loss: Loss) {
        self.progress.send_modify(|progress| progress.held = Some(LossReport::from(loss)));
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
