//! What can go wrong in the store, and what to do about it.

use std::path::PathBuf;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be created or opened.
    #[error("cannot open the store {}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system or redb said.
        error: redb::Error,
    },
    /// Another process has it open.
    #[error(
        "the store {} is in use: another seatkeeper runs on it, a daemon or a command; stop the daemon, or wait until the \
         command has ended", .0.display()
    )]
    AlreadyOpen(PathBuf),
    /// Something else is in its place.
    #[error(
        "the store {} is not a file: remove what is there, or set state_dir to another folder", .0.display()
    )]
    NotAFile(PathBuf),
    /// Another user's.
    #[error(
        "the store {} cannot be opened: permission denied; make its folder and the files in it belong to the user that \
         the daemon runs as", .0.display()
    )]
    Forbidden(PathBuf),
    /// What is in the file is no store.
    #[error(
        "the store {} is damaged: {problem}; stop the daemon, move the file away and restore a backup with `seatkeeper \
         restore FILE`", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There was a store, and now there is none.
    #[error(
        "the store {} is missing or empty, and was there before ({} says so): mount its disk, or restore a backup with \
         `seatkeeper restore FILE`; to begin with an empty one, which gives everybody's seat up, run `seatkeeper store \
         new`", path.display(), marker.display()
    )]
    Missing {
        /// Where the store was.
        path: PathBuf,
        /// The file that says so.
        marker: PathBuf,
    },
    /// A store where there must be none.
    #[error("there is a store at {} already: {advice}", path.display())]
    Exists {
        /// The store.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// Written by a later program.
    #[error("the store was written by a newer version of seatkeeper: install that version")]
    NewerFormat,
    /// A record does not decode.
    #[error("the store is damaged: a record of the table {0} cannot be read; restore a backup")]
    Corrupt(&'static str),
    /// redb or the disk failed.
    #[error("the store failed: {0}")]
    Storage(redb::Error),
    /// A commit that did not reach the disk.
    #[error("the change could not be written")]
    NotWritten,
    /// No change is written at present.
    #[error("{0}; changes are refused until it can be")]
    InTrouble(String),
    /// The change failed; the log says why.
    #[error("the change was not made; the log of the daemon says why")]
    NotMade,
    /// The writer has ended, because the daemon stops.
    #[error("the store does not take changes any more")]
    Stopped,
}

impl StoreError {
    /// Whether no restart heals it: an administrator has to do something about the file first.
    pub fn needs_an_administrator(&self) -> bool {
        matches!(
            self,
            StoreError::NotAFile(_)
                | StoreError::Forbidden(_)
                | StoreError::Damaged { .. }
                | StoreError::Missing { .. }
                | StoreError::NewerFormat
        )
    }
}

macro_rules! storage_errors {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> StoreError {
                StoreError::Storage(error.into())
            }
        }
    )*};
}
storage_errors!(StorageError, TableError, TransactionError, CommitError);
