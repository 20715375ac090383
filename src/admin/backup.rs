//! `backup`: the file is written here, as the administrator, wherever they want it.

use std::path::{Path, PathBuf};

use tokio::fs::OpenOptions;

use super::command::{Session, Trouble};
use super::output;
use crate::service::backup::{check_backup, is_backup};

impl Session<'_> {
    /// Writes a backup beside `file`, checks it, and puts it in its place.
    pub(super) async fn backup(&mut self, file: &Path) -> Result<(), Trouble> {
        let failed = |error: &dyn std::fmt::Display| Trouble::File(format!("{}: {error}", file.display()));
        // A slip must not cost anybody another file, the store least of all.
        if file.exists() && !is_backup(file) {
            return Err(failed(&"there is another file already, which is no backup: name a new one"));
        }
        if file == Path::new("-") {
            return Err(failed(&"a backup cannot go to standard output: name a file"));
        }
        let partial = Partial::beside(file);
        // It holds hashes of passwords.
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
        let mut out = options.open(&partial.0).await.map_err(|error| failed(&error))?;
        self.client.download("/v1/backup", &mut out).await?;
        let info = check_backup(&partial.0).map_err(|error| failed(&error))?;
        std::fs::rename(&partial.0, file).map_err(|error| failed(&error))?;
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

/// A file that is removed unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn beside(file: &Path) -> Partial {
        let mut name = file.as_os_str().to_owned();
        name.push(".partial");
        Partial(name.into())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is none.
        let _ = std::fs::remove_file(&self.0);
    }
}
