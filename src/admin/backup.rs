//! `backup`: the file is written here, as the administrator, wherever they want it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::{File, OpenOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::client::ClientError;
use super::command::{Session, Trouble};
use super::output;
use crate::service::backup::{check_backup, is_backup};

impl Session<'_> {
    /// Writes a backup beside `file`, checks it, and puts it in its place.
    pub(super) async fn backup(&mut self, file: &Path) -> Result<(), Trouble> {
        if file == Path::new("-") {
            return Err(Trouble::file(file, "a backup cannot go to standard output: name a file"));
        }
        let target = place(file).map_err(|problem| Trouble::file(file, problem))?;
        let failed = |error: io::Error| Trouble::file(file, error);
        let interruption = interruption().map_err(failed)?;
        let mut partial = Partial::create(&target).await.map_err(failed)?;
        tokio::select! {
            outcome = self.client.download("/v1/backup", &mut partial.file) => {
                outcome.map_err(|error| match error {
                    ClientError::NotWritten(error) => failed(error),
                    error => error.into(),
                })?;
            }
            () = interruption => return Err(Trouble::file(file, "interrupted, so there is no new backup")),
        }
        let info = check_backup(&partial.path).map_err(|error| Trouble::file(file, error))?;
        fs::rename(&partial.path, &target).map_err(failed)?;
        self.show_value(&info, |info| {
            format!(
                "{}: {} users and {} seats\n",
                output::clean(&file.display().to_string()),
                info.users,
                info.seats
            )
        })
    }
}

/// Where a backup that is to go to `file` is written. A slip must not cost anybody another file, the store least of all.
fn place(file: &Path) -> Result<PathBuf, &'static str> {
    match fs::metadata(file) {
        Ok(found) if !found.is_file() => Err("this is not a regular file: name a new one"),
        Ok(_) if !is_backup(file) => Err("there is another file already, which is no backup: name a new one"),
        // What was looked at is what a link leads to.
        Ok(_) => Ok(fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())),
        Err(_) => Ok(file.to_owned()),
    }
}

/// Waits for a signal that would end the command, which from now on does not end by itself.
fn interruption() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// A file that is removed unless it was renamed.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// A new file, whatever an earlier command left.
    async fn create(target: &Path) -> io::Result<Partial> {
        let mut path = OsString::from(target);
        path.push(format!(".{:08x}.partial", fastrand::u32(..)));
        // It holds hashes of passwords.
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
        Ok(Partial { file: options.open(&path).await?, path: path.into() })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is none.
        let _ = fs::remove_file(&self.path);
    }
}
