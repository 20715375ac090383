//! Nightly backups into a folder, the oldest of which are removed.

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
use crate::service::backup::{Backup, check_backup};
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
    let mut failed_at: Option<Timestamp> = None;
    loop {
        let wanted = settings.borrow_and_update().clone();
        if let Some(wanted) = &wanted {
            look(&store, &admin, wanted, &mut failed_at).await;
        } else {
            admin.show_backups(None);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Ok(()) = settings.changed() => failed_at = None,
        }
    }
}

async fn look(store: &Store, admin: &Admin, settings: &Settings, failed_at: &mut Option<Timestamp>) {
    let now = store.now();
    let (latest, kept) = match found(&settings.folder) {
        Ok(found) => (found.iter().map(|(at, _)| *at).filter(|at| *at <= now).max(), found.len()),
        // Making the folder says what is wrong with it.
        Err(_) => (None, 0),
    };
    let mut status =
        BackupStatus { folder: settings.folder.display().to_string(), latest, kept, problem: None };
    let is_waiting = failed_at.is_some_and(|at| now.duration_since(at).abs() < RETRY_AFTER);
    if is_waiting {
        return;
    }
    if !is_due(latest, now, &TimeZone::system()) {
        admin.show_backups(Some(status));
        return;
    }
    match make(admin, settings, now).await {
        Ok(kept) => {
            *failed_at = None;
            (status.latest, status.kept) = (Some(now), kept);
        }
        Err(problem) => {
            *failed_at = Some(now);
            error!(folder = %settings.folder.display(), reason = problem, "There is no backup of this night: {problem}.");
            status.problem = Some(problem);
        }
    }
    admin.show_backups(Some(status));
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
    let path = folder.join(now.strftime(NAME).to_string());
    let partial = path.with_extension("partial");
    let written =
        write_file(backup, folder, &partial).and_then(|()| fs::rename(&partial, &path).map_err(in_folder));
    if let Err(error) = written {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    info!(file = %path.display(), "A backup was written to {}.", path.display());
    prune(settings).map_err(in_folder)
}

fn write_file(backup: &Backup, folder: &Path, partial: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", partial.display());
    let needed = backup.bytes_at_most().saturating_add(MIN_LEFT);
    let system = statvfs(folder).map_err(|error| failed(&error))?;
    let free = system.f_frsize.saturating_mul(system.f_bavail);
    if free < needed {
        let (free, needed) = (free >> 20, needed >> 20);
        return Err(format!("{} has {free} MiB left, and {needed} MiB are needed", folder.display()));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial);
    let file = file.map_err(|error| failed(&error))?;
    backup.write(&file).map_err(|error| failed(&error))?;
    file.sync_all().map_err(|error| failed(&error))?;
    // What the disk made of it.
    check_backup(partial).map(drop).map_err(|error| failed(&error))
}

/// Removes the oldest, and what an attempt left that was cut off.
fn prune(settings: &Settings) -> io::Result<usize> {
    let folder = &settings.folder;
    let mut found = found(folder)?;
    found.sort_unstable();
    let too_many = found.len().saturating_sub(settings.keep);
    for (_, path) in found.iter().take(too_many) {
        fs::remove_file(path)?;
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("seatkeeper-") && name.ends_with(".partial") {
            warn!(file = %path.display(), "A backup was cut off, and is removed: {}.", path.display());
            fs::remove_file(&path)?;
        }
    }
    File::open(folder)?.sync_all()?;
    Ok(found.len() - too_many)
}

/// The backups in a folder, with the time of each.
fn found(folder: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let parsed = strtime::parse(NAME, name).and_then(|parsed| parsed.to_datetime());
        if let Ok(at) = parsed.and_then(|time| TimeZone::UTC.to_timestamp(time)) {
            found.push((at, path));
        }
    }
    Ok(found)
}
