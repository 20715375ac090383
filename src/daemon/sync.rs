//! The loop of one directory: sweep, wait, sweep again; sooner when asked, later after failures.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::sweep::{self, Mode, Seen, SweepError};
use crate::directory::file;
use crate::domain::directory::{Directory, Source};
use crate::domain::sync::{Report, backoff};
use crate::service::answers::{DirectoryState, LossReport, SyncReport};
use crate::service::directories::{Board, DirectoryHandle, Progress, SyncCommand};
use crate::store::Store;

/// Requests that may wait for a loop: an administrator's, so a few.
const COMMANDS: usize = 8;

/// A file must look the same for this long before it is read: an export may still be writing it.
const SETTLE: Duration = Duration::from_millis(500);

type Reply = oneshot::Sender<Result<SyncReport, String>>;

/// Syncs one directory until it is stopped.
pub struct SyncLoop {
    directory: Directory,
    store: Store,
    progress: watch::Sender<Progress>,
    commands: mpsc::Receiver<SyncCommand>,
    failures: u32,
    first_url: usize,
    fingerprint: Option<file::Fingerprint>,
    /// The size of the loss that the brake holds back.
    held: Option<u64>,
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
        SyncLoop {
            directory,
            store,
            progress,
            commands,
            failures: 0,
            first_url: 0,
            fingerprint: None,
            held: None,
        }
    }

    /// Runs until `stop`. A sweep that is under way is dropped: it has taken nobody away.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut wait = self.sync(Mode::default(), None).await;
        loop {
            tokio::select! {
                command = self.commands.recv() => {
                    // The board lets go of a loop only when it is stopped.
                    let Some(command) = command else { return };
                    wait = self.obey(command, wait).await;
                }
                () = tokio::time::sleep(wait) => {
                    if self.is_due().await {
                        wait = self.sync(Mode::default(), None).await;
                    }
                }
            }
        }
    }

    async fn obey(&mut self, command: SyncCommand, wait: Duration) -> Duration {
        match command {
            SyncCommand::Sync { dry_run: true, reply } => {
                let outcome = self.sweep(Mode { dry_run: true, approved: None }).await;
                let report = outcome.map(|report| SyncReport::new(&self.directory.name, true, &report));
                // Whoever asked may have gone.
                let _ = reply.send(report);
                wait
            }
            SyncCommand::Sync { dry_run: false, reply } => self.sync(Mode::default(), Some(reply)).await,
            SyncCommand::Approve { reply } => match self.held {
                Some(loss) => {
                    let name = &self.directory.name;
                    info!(directory = name, loss, "An administrator let the held sync of {name} through.");
                    self.sync(Mode { dry_run: false, approved: Some(loss) }, Some(reply)).await
                }
                None => {
                    let _ = reply.send(Err(format!("nothing is held back in {}", self.directory.name)));
                    wait
                }
            },
        }
    }

    /// A file is read again only when it changed; a server has to be asked. After a failure both are due.
    async fn is_due(&self) -> bool {
        let Source::Ldif(ldif) = &self.directory.source else { return true };
        if self.failures > 0 || self.fingerprint.is_none() {
            return true;
        }
        let found = file::fingerprint(&ldif.file).ok();
        if found == self.fingerprint {
            return false;
        }
        tokio::time::sleep(SETTLE).await;
        found == file::fingerprint(&ldif.file).ok()
    }

    /// One sync with all that belongs to it; returns how long to wait for the next.
    async fn sync(&mut self, mode: Mode, reply: Option<Reply>) -> Duration {
        let outcome = self.sweep(mode).await;
        let wait = match &outcome {
            Ok(report) => {
                self.failures = 0;
                self.held = report.held.map(|loss| loss.total());
                self.directory.poll_every
            }
            Err(_) => {
                self.failures += 1;
                backoff(self.failures, fastrand::f64())
            }
        };
        self.tell(&outcome, wait);
        if let Some(reply) = reply {
            let report = outcome.map(|report| SyncReport::new(&self.directory.name, false, &report));
            let _ = reply.send(report);
        }
        wait
    }

    async fn sweep(&mut self, mode: Mode) -> Result<Report, String> {
        let before = self.progress.borrow().state;
        self.progress.send_modify(|progress| {
            progress.state = DirectoryState::Refreshing;
            progress.last_attempt = Some(Timestamp::now());
            let mechanism = if matches!(self.directory.source, Source::Ldap(_)) { "sweep" } else { "ldif" };
            progress.mechanism = Some(mechanism.to_owned());
        });
        let outcome = sweep::run(&self.directory, &self.store, mode, self.first_url).await;
        if mode.dry_run {
            self.progress.send_modify(|progress| progress.state = before);
            return outcome.map(|(report, _)| report).map_err(|error| sentence(&error));
        }
        match outcome {
            Ok((report, Seen { server, url_index, fingerprint })) => {
                self.first_url = url_index;
                self.fingerprint = fingerprint;
                self.progress.send_modify(|progress| progress.server = server);
                Ok(report)
            }
            Err(error) => {
                // A server may answer and yet fail in the middle each time: begin with the next one.
                self.first_url = self.first_url.wrapping_add(1);
                self.fingerprint = None;
                Err(sentence(&error))
            }
        }
    }

    fn tell(&self, outcome: &Result<Report, String>, wait: Duration) {
        let directory = &self.directory.name;
        match outcome {
            Ok(report) => {
                if report.held.is_none() {
                    log_completed(directory, report);
                }
                self.progress.send_modify(|progress| {
                    let is_held = report.held.is_some();
                    progress.state = if is_held { DirectoryState::Held } else { DirectoryState::Idle };
                    progress.held = report.held.map(LossReport::from);
                    progress.last_error = None;
                });
            }
            Err(error) => {
                let retry_s = wait.as_secs();
                warn!(
                    event = "sync_failed",
                    directory,
                    error,
                    failures = self.failures,
                    retry_s,
                    "The sync of {directory} failed; nobody was removed."
                );
                self.progress.send_modify(|progress| {
                    progress.state = DirectoryState::Backoff;
                    progress.last_error = Some(error.clone());
                });
            }
        }
    }
}

fn log_completed(directory: &str, report: &Report) {
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
        tracing::debug!(
            event = "sync_completed",
            directory,
            seen,
            skipped,
            "The sync of {directory} is complete; nothing changed."
        );
    }
}

/// An error with its causes on one line.
pub(super) fn sentence(error: &SweepError) -> String {
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
