//! What remembers, beside the state directory, that there was a store: a disk that is not mounted, or a file that was
//! removed, must not look like the first start.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::file::{self, Found};
use super::offline::give_to_owner_of;

/// A file `store` in a folder beside the state directory: under systemd, `StateDirectory=` makes both.
pub struct Marker {
    state_dir: PathBuf,
    path: PathBuf,
}

impl Marker {
    /// The marker for the store of a state directory.
    pub fn of(state_dir: &Path) -> Marker {
        // Without a slash at the end.
        let state_dir: PathBuf = state_dir.components().collect();
        let path = file::beside(&state_dir, "-marker").join("store");
        Marker { state_dir, path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses where there was a store, and none is there now.
    pub fn check(&self, store: &Path) -> Result<(), StoreError> {
        match file::look(store)? {
            Found::Nothing | Found::Empty if self.path.exists() => {
                Err(StoreError::Missing { path: store.to_owned(), marker: self.path.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Makes it, where it is not there yet.
    pub fn make(&self) -> io::Result<()> {
        let Some(folder) = self.path.parent() else { return Ok(()) };
        if self.path.exists() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let text = format!(
            "Seatkeeper has a store in {}. While this file is here it does not start without one.\n",
            self.state_dir.display()
        );
        fs::write(&self.path, text)?;
        give_to_owner_of(&self.state_dir, folder)?;
        give_to_owner_of(&self.state_dir, &self.path)
    }
}
