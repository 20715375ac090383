//! What is done to a store while no daemon runs on it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use redb::backends::InMemoryBackend;
use redb::{Builder, StorageBackend};

use super::backup::Backup;
use super::file::{self, Check, Found, StoreFile, beside, guarded};
use super::medium::Medium;
use super::trouble::{Owner, view};
use super::{BackupError, BackupInfo, Finding, StoreError};

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// What the backup says of itself.
    pub info: BackupInfo,
    /// Where the store is now that was there before.
    pub replaced: Option<PathBuf>,
    /// What does not hold in the restored store.
    pub findings: Vec<Finding>,
}

/// Makes an empty store where there is none.
pub fn create(path: &Path) -> Result<(), StoreError> {
    let held = StoreFile::hold(path)?;
    if held.found()? == Found::Content {
        let advice = "move it away first, if you really want an empty one";
        return Err(StoreError::Exists { path: path.to_owned(), advice });
    }
    drop(Owner::open(Box::new(held))?);
    hand_over(path)
}

/// Makes a store of a backup. One that is there is kept under another name with `replace`, else it stays. No daemon may
/// run on it.
pub fn restore(backup: &Path, path: &Path, replace: bool) -> Result<Restored, BackupError> {
    let backup = Backup::open(backup)?;
    let is_new = file::look(path)? == Found::Nothing;
    // Also where nothing is there yet: until the end no daemon makes a store, and no other restore begins.
    let held = StoreFile::hold(path)?;
    if is_new {
        // Whatever ends this command must not leave the daemon a file that it cannot open.
        hand_over(path)?;
    }
    let found = held.found()?;
    if found == Found::Content && !replace {
        let advice = "give `--replace` to keep it under another name and put the backup in its place";
        return Err(StoreError::Exists { path: path.to_owned(), advice }.into());
    }
    // A link stays a link.
    let path = fs::canonicalize(path)?;
    let fresh = beside(&path, ".restoring");
    let outcome = load(backup, &fresh).and_then(|(info, findings)| {
        let replaced = if found == Found::Content { Some(keep(&path)?) } else { None };
        hand_over(&fresh)?;
        fs::rename(&fresh, &path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Restored { info, replaced, findings })
    });
    drop(held);
    if outcome.is_err() {
        // Else the next attempt removes it.
        let _ = fs::remove_file(&fresh);
    }
    outcome
}

/// Gives a store another name as well, so that there is one under its own at every moment.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let name = format!(".replaced-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let kept = beside(path, &name);
    // Fails where that is there already: a backup may be restored twice in a second.
    fs::hard_link(path, &kept)?;
    Ok(kept)
}

/// Makes a store of its own of a backup, and recounts it.
fn load(backup: Backup, path: &Path) -> Result<(BackupInfo, Vec<Finding>), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let medium = StoreFile::hold(path)?;
    let opened = file::open(&medium, Check::IfSmall)?;
    let info = backup.load(path, &opened.db)?;
    let findings = guarded(path, || view(&opened.db)?.verify())?;
    opened.is_written()?;
    Ok((info, findings))
}

/// Recounts a store, or a backup, which is read into memory for that. Changes nothing in the file.
pub fn verify_file(path: &Path) -> Result<Vec<Finding>, BackupError> {
    match Backup::open(path) {
        Ok(backup) => {
            let db = Builder::new().create_with_backend(InMemoryBackend::new());
            let db = db.map_err(|error| StoreError::Storage(error.into()))?;
            backup.load(path, &db)?;
            return Ok(guarded(path, || view(&db)?.verify())?);
        }
        Err(BackupError::NoBackup) => {}
        Err(error) => return Err(error),
    }
    let medium = ReadOnly(StoreFile::lock(path)?);
    if medium.0.found()? == Found::Empty {
        return Err(BackupError::Empty);
    }
    let opened = file::open(&medium, Check::Everything)?;
    Ok(guarded(path, || view(&opened.db)?.verify())?)
}

/// A store that is only looked at: what opening it would write stays in memory.
struct ReadOnly(StoreFile);

impl Medium for ReadOnly {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn open(&self) -> io::Result<(Box<dyn StorageBackend>, Option<io::Error>)> {
        Ok((file::backend(File::open(self.path())?)?, Some(io::Error::other("it is only read"))))
    }
}

/// Gives a new store to the user that the daemon runs as: whoever has the folder.
fn hand_over(path: &Path) -> Result<(), StoreError> {
    let open = |error: io::Error| StoreError::Open { path: path.to_owned(), error: redb::Error::Io(error) };
    path.parent().map_or(Ok(()), |folder| give_to_owner_of(folder, path)).map_err(open)
}

/// Commands are run by root, and the daemon is not.
pub(super) fn give_to_owner_of(of: &Path, path: &Path) -> io::Result<()> {
    let (wanted, present) = (fs::metadata(of)?, fs::metadata(path)?);
    if (wanted.uid(), wanted.gid()) == (present.uid(), present.gid()) || !rustix::process::geteuid().is_root()
    {
        return Ok(());
    }
    chown(path, Some(wanted.uid()), Some(wanted.gid()))
}
