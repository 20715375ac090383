//! The store's file: taking hold of it, judging what is in it, and opening it.

use std::cell::Cell;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};
use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate, fstatvfs};
use tracing::debug;

use super::StoreError;
use super::medium::{Medium, Overlay};

/// Pages kept in memory. The default, 1 GiB, would be most of a small mail server; the decision needs a
/// few pages a user who really logs in.
const CACHE_BYTES: usize = 32 << 20;

/// Files up to this size are read as a whole when they are opened, which takes a third of a second: redb panics in
/// the middle of its work where a page is damaged. A larger one would hold up the first login after a restart;
/// `verify --store` reads it.
const CHECKED_BYTES: u64 = 64 << 20;

/// What every file of redb begins with.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// Space set aside in the store's file system, for the hours until an administrator has made room: some 10,000 new
/// seats.
const BALLAST_BYTES: u64 = 16 << 20;

/// A small file system sets less aside.
const BALLAST_SHARE: u64 = 20;

/// What is beside a path under its name and an ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// What is at the path of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Nothing,
    Empty,
    Content,
}

/// Looks without opening.
pub(super) fn look(path: &Path) -> Result<Found, StoreError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(StoreError::NotAFile(path.to_owned())),
        Ok(found) if found.len() == 0 => Ok(Found::Empty),
        Ok(_) => Ok(Found::Content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(refused(path, error)),
    }
}

fn refused(path: &Path, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => StoreError::Forbidden(path.to_owned()),
        io::ErrorKind::IsADirectory => StoreError::NotAFile(path.to_owned()),
        _ => StoreError::Open { path: path.to_owned(), error: redb::Error::Io(error) },
    }
}

/// Opens a file for reading, and nothing else that may have its name: a pipe would be waited for.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a regular file")),
    }
}

/// A file that this process alone has, for as long as the value lives.
pub(super) struct StoreFile {
    path: PathBuf,
    /// Locked by flock(2), as redb itself does, so that older versions are kept out, too. The bytes are read through
    /// other descriptors, since the file is opened again when writing failed.
    held: File,
}

impl StoreFile {
    /// Takes hold of the file; makes an empty one where there is none, readable by its owner alone.
    pub(super) fn hold(path: &Path) -> Result<StoreFile, StoreError> {
        if look(path)? == Found::Nothing {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            options.open(path).map_err(|error| refused(path, error))?;
        }
        StoreFile::lock(path)
    }

    pub(super) fn lock(path: &Path) -> Result<StoreFile, StoreError> {
        let held = File::open(path).map_err(|error| refused(path, error))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::AlreadyOpen(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(refused(path, error)),
        }
        let file = StoreFile { path: path.to_owned(), held };
        // A restore that ended between the two steps has put another file there.
        match fs::metadata(path).and_then(|found| file.is(&found)) {
            Ok(true) => Ok(file),
            Ok(false) => Err(StoreError::AlreadyOpen(path.to_owned())),
            Err(error) => Err(refused(path, error)),
        }
    }

    /// Whether this is what is held.
    fn is(&self, found: &Metadata) -> io::Result<bool> {
        let held = self.held.metadata()?;
        Ok((held.dev(), held.ino()) == (found.dev(), found.ino()))
    }

    /// What is in it.
    pub(super) fn found(&self) -> Result<Found, StoreError> {
        let held = self.held.metadata().map_err(|error| refused(&self.path, error))?;
        Ok(if held.len() == 0 { Found::Empty } else { Found::Content })
    }

    fn ballast(&self) -> PathBuf {
        beside(&self.path, ".ballast")
    }
}

impl Medium for StoreFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> io::Result<(Box<dyn StorageBackend>, Option<io::Error>)> {
        let mut options = OpenOptions::new();
        options.read(true);
        let (file, read_only) = match options.clone().write(true).open(&self.path) {
            Ok(file) => (file, None),
            // An ext4 with errors becomes read-only by itself.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                (options.open(&self.path)?, Some(error))
            }
            Err(error) => return Err(error),
        };
        if !self.is(&file.metadata()?)? {
            return Err(io::Error::other("the file was replaced while it was in use: restart the daemon"));
        }
        Ok((backend(file)?, read_only))
    }

    fn free(&self) -> Option<u64> {
        let system = fstatvfs(&self.held).ok()?;
        // What a file system keeps for root is not for others.
        let is_root = rustix::process::geteuid().is_root();
        Some(system.f_frsize.saturating_mul(if is_root { system.f_bfree } else { system.f_bavail }))
    }

    fn is_empty(&self) -> bool {
        self.found().is_ok_and(|found| found == Found::Empty)
    }

    fn clear(&self) {
        // It is held, so nobody else has made a store of it.
        let emptied = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| if self.is(&file.metadata()?)? { file.set_len(0) } else { Ok(()) });
        if let Err(error) = emptied {
            debug!(error = %error, "A store that was begun could not be emptied.");
        }
    }

    fn give_up_ballast(&self) -> bool {
        fs::remove_file(self.ballast()).is_ok()
    }

    fn keep_ballast(&self) -> bool {
        let Ok(system) = fstatvfs(&self.held) else { return false };
        let wanted = BALLAST_BYTES.min(system.f_frsize.saturating_mul(system.f_blocks) / BALLAST_SHARE);
        let path = self.ballast();
        if fs::metadata(&path).is_ok_and(|ballast| ballast.len() >= wanted) {
            return true;
        }
        // What is set aside must not itself make the disk full.
        if self.free().is_none_or(|free| free < wanted.saturating_mul(3)) {
            return false;
        }
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let kept = made.and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, wanted)?));
        if kept.is_err() {
            // Half a ballast is none; a file system without fallocate(2) does without it.
            let _ = fs::remove_file(&path);
        }
        kept.is_ok()
    }

    fn drop_cache(&self) {
        // Advice: where it is not taken, the check of every page reads what the system believes.
        let _ = fadvise(&self.held, 0, None, Advice::DontNeed);
    }
}

/// The bytes of a file.
pub(super) fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    let backend = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Box::new(backend))
}

/// A database, and the medium under it.
pub(super) struct Opened {
    // Dropped first: closing it may write.
    pub(super) db: Database,
    pub(super) disk: Overlay,
    /// There was nothing before.
    pub(super) is_new: bool,
}

/// Key of a table of numbers: how often the file had to be proved writable.
const PROBES: &str = "probes";

impl Opened {
    /// Fails where a commit that redb believes in did not reach the disk.
    pub(super) fn is_written(&self) -> Result<(), StoreError> {
        match self.disk.failure() {
            None => Ok(()),
            Some(_) => Err(StoreError::NotWritten),
        }
    }

    /// Commits something durably, in a table of numbers.
    pub(super) fn probe(&self, meta: TableDefinition<'static, &str, u64>) -> Result<(), StoreError> {
        let txn = begin(&self.db)?;
        {
            let mut meta = txn.open_table(meta)?;
            let probes = meta.get(PROBES)?.map_or(0, |count| count.value());
            meta.insert(PROBES, probes + 1)?;
        }
        txn.commit()?;
        self.is_written()
    }
}

/// Begins a two-phase commit with quick repair: after a crash a million users open in half a second.
pub(super) fn begin(db: &Database) -> Result<WriteTransaction, StoreError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    Ok(txn)
}

/// How thoroughly a file is read when it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Check {
    /// As a whole if it is small.
    IfSmall,
    /// As a whole.
    Everything,
}

/// Opens what is on a medium; an empty one becomes an empty database.
pub(super) fn open(medium: &dyn Medium, check: Check) -> Result<Opened, StoreError> {
    let failed = |error: io::Error| refused(medium.path(), error);
    let (below, read_only) = medium.open().map_err(failed)?;
    let len = below.len().map_err(failed)?;
    let mut magic = [0; MAGIC.len()];
    if len > 0 {
        let there = magic.len().min(len as usize);
        below.read(0, &mut magic[..there]).map_err(failed)?;
        if magic != MAGIC {
            let problem = "it does not begin like a store".to_owned();
            return Err(StoreError::Damaged { path: medium.path().to_owned(), problem });
        }
    }
    let disk = Overlay::new(below, read_only).map_err(failed)?;
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder.set_check_integrity_on_open(check == Check::Everything || len <= CHECKED_BYTES);
    let db = guarded(medium.path(), || {
        builder.create_with_backend(disk.clone()).map_err(|error| not_opened(medium.path(), error))
    })?;
    Ok(Opened { db, disk, is_new: len == 0 })
}

fn not_opened(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::AlreadyOpen(path),
        DatabaseError::Storage(redb::StorageError::Corrupted(problem)) => {
            StoreError::Damaged { path, problem }
        }
        DatabaseError::Storage(redb::StorageError::Io(error))
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Damaged { path, problem: error.to_string() }
        }
        DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => {
            StoreError::Damaged { path, problem: error.to_string() }
        }
        error => StoreError::Open { path, error: error.into() },
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is opening a file: a panic of redb is then an error about the file, so a panic hook must not
/// end the process for it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Whether a panic comes from within redb: what it read is damaged.
pub fn is_damage(place: &std::panic::Location<'_>) -> bool {
    place.file().contains("/redb-")
}

/// Runs what reads a file that may be anything.
pub(super) fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let was_guarded = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(was_guarded);
    outcome.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("redb panicked");
        Err(StoreError::Damaged { path: path.to_owned(), problem: format!("it cannot be read ({said})") })
    })
}
