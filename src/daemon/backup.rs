//! Nightly backups into a folder, the oldest of which are removed.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::statvfs;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::Backup as Settings;
use crate::domain::backup::is_due;
use crate::service::Admin;
use crate::service::answers::BackupStatus;
use crate::service::backup::{Backup, BackupError, check_backup};
use crate::store::Store;

/// How often it is looked whether a backup is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What did not succeed is tried again after this.
const RETRY_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// A backup is not made where it would leave less space than this: the store may be on the same disk.
const MIN_LEFT: u64 = 64 << 20;

/// The names of backups: their time, UTC.
const NAME: &str = "seatkeeper-%Y%m%dT%H%M%SZ.backup";

/// Makes a backup each night, and as soon as there is none of the last day and a half. Never returns.
pub async fn nightly(store: Store, admin: Admin, mut settings: watch::Receiver<Option<Settings>>) {
    let mut nights = Nights::default();
    loop {
        let wanted = settings.borrow_and_update().clone();
        if let Some(wanted) = &wanted {
            nights.look(&store, &admin, wanted).await;
        } else {
            admin.show_backups(None);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Ok(()) = settings.changed() => nights = Nights::default(),
        }
    }
}

/// What is remembered between two looks.
#[derive(Default)]
struct Nights {
    failed_at: Option<Timestamp>,
    /// The log says which backups are dated later than now.
    has_warned: bool,
}

impl Nights {
    async fn look(&mut self, store: &Store, admin: &Admin, settings: &Settings) {
        let now = store.now();
        if self.failed_at.is_some_and(|at| now.duration_since(at).abs() < RETRY_AFTER) {
            return;
        }
        // Making the folder says what is wrong with it.
        let found = found(&settings.folder, now).unwrap_or_default();
        self.warn(&found.later);
        let latest = found.made.last().map(|(at, _)| *at);
        let folder = settings.folder.display().to_string();
        let mut status = BackupStatus { folder, latest, kept: found.made.len(), problem: None };
        if is_due(latest, now, &TimeZone::system()) {
            match make(admin, settings, now).await {
                Ok(kept) => {
                    self.failed_at = None;
                    (status.latest, status.kept) = (Some(now), kept);
                }
                Err(problem) => {
                    self.failed_at = Some(now);
                    error!(
                        folder = status.folder,
                        reason = problem,
                        "There is no backup of this night: {problem}."
                    );
                    status.problem = Some(problem);
                }
            }
        }
        admin.show_backups(Some(status));
    }

    fn warn(&mut self, later: &[PathBuf]) {
        if !later.is_empty() && !self.has_warned {
            let files: Vec<_> = later.iter().map(|path| path.display().to_string()).collect();
            let files = files.join(", ");
            warn!(
                files,
                "Backups are dated later than now, as by a clock that was ahead. They do not count and are not removed: \
                 {files}. Remove or rename them."
            );
        }
        self.has_warned = !later.is_empty();
    }
}

/// Makes one, and removes those that are too many; returns how many there are.
async fn make(admin: &Admin, settings: &Settings, now: Timestamp) -> Result<usize, String> {
    let backup = admin.backup().await.map_err(|error| error.to_string())?;
    let settings = settings.clone();
    let made = tokio::task::spawn_blocking(move || write(&backup, &settings, now));
    made.await.map_err(|error| format!("it ended early: {error}"))?
}

fn write(backup: &Backup, settings: &Settings, now: Timestamp) -> Result<usize, String> {
    let folder = &settings.folder;
    let in_folder = |error: io::Error| format!("{}: {error}", folder.display());
    // It holds hashes of passwords.
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(in_folder)?;
    check_space(backup, folder)?;
    let path = folder.join(now.strftime(NAME).to_string());
    let partial = path.with_extension("partial");
    let of_partial = |error: &dyn Display| format!("{}: {error}", partial.display());
    // Whatever else has the name is not written to.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
    let file = file.map_err(|error| of_partial(&error))?;
    let written = write_file(backup, &file, &partial).map_err(|error| of_partial(&error));
    if let Err(error) = written.and_then(|()| fs::rename(&partial, &path).map_err(in_folder)) {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    info!(file = %path.display(), "A backup was written to {}.", path.display());
    prune(settings, now).map_err(|error| format!("old backups cannot be removed: {}", in_folder(error)))
}

fn check_space(backup: &Backup, folder: &Path) -> Result<(), String> {
    let needed = backup.bytes_at_most().saturating_add(MIN_LEFT);
    let system = statvfs(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let free = system.f_frsize.saturating_mul(system.f_bavail);
    if free < needed {
        let (free, needed) = (free >> 20, needed >> 20);
        return Err(format!("{} has {free} MiB left, and {needed} MiB are needed", folder.display()));
    }
    Ok(())
}

fn write_file(backup: &Backup, file: &File, path: &Path) -> Result<(), BackupError> {
    backup.write(file)?;
    file.sync_all()?;
    // What the disk made of it.
    check_backup(path).map(drop)
}

/// Removes the oldest, and what an attempt left that was cut off. The one of `now` is the newest and stays.
fn prune(settings: &Settings, now: Timestamp) -> io::Result<usize> {
    let folder = &settings.folder;
    let Found { made, cut_off, .. } = found(folder, now)?;
    let too_many = made.len().saturating_sub(settings.keep);
    for (_, path) in made.iter().take(too_many) {
        fs::remove_file(path)?;
    }
    for path in &cut_off {
        warn!(file = %path.display(), "A backup was cut off, and is removed: {}.", path.display());
        fs::remove_file(path)?;
    }
    File::open(folder)?.sync_all()?;
    Ok(made.len() - too_many)
}

/// What is in a folder of backups; other files are left out.
#[derive(Default)]
struct Found {
    /// By their time, the oldest first.
    made: Vec<(Timestamp, PathBuf)>,
    /// Those that are dated later than now. When they were made is unknown, so they neither show that there is a backup
    /// nor make another one too many.
    later: Vec<PathBuf>,
    cut_off: Vec<PathBuf>,
}

fn found(folder: &Path, now: Timestamp) -> io::Result<Found> {
    let mut found = Found::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().unwrap_or_default();
        if !entry.file_type()?.is_file() {
            continue;
        }
        let parsed = strtime::parse(NAME, name).and_then(|parsed| parsed.to_datetime());
        match parsed.and_then(|time| TimeZone::UTC.to_timestamp(time)) {
            Ok(at) if at <= now => found.made.push((at, path)),
            Ok(_) => found.later.push(path),
            Err(_) if name.starts_with("seatkeeper-") && name.ends_with(".partial") => {
                found.cut_off.push(path)
            }
            Err(_) => {}
        }
    }
    found.made.sort_unstable();
    found.later.sort_unstable();
    Ok(found)
}
