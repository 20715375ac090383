//! Imports of files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::info;

use super::admin::{Admin, AdminError};
use super::answers::{ImportReport, ImportedLine, RefusedRow};
use crate::domain::account::Rows;
use crate::domain::name::Domain;
use crate::store::{Import, Imported, log_clash};

/// How to import.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImportMode {
    /// What can be, instead of all or nothing.
    pub partial: bool,
    /// Only say what would happen.
    pub dry_run: bool,
}

impl Admin {
    /// A file without a name, where one that is imported lies meanwhile. It is gone with its handle, also
    /// when the daemon dies.
    pub fn spool(&self) -> io::Result<File> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.settings().state_dir.join(format!("import-{}-{number}.tmp", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    /// Imports the rows of a file for a domain, all or nothing unless the mode says otherwise.
    pub async fn import(
        &self,
        domain: Domain,
        rows: Rows,
        mode: ImportMode,
    ) -> Result<ImportReport, AdminError> {
        let ImportMode { partial, dry_run } = mode;
        let import = Import { domain: domain.clone(), rows, partial, dry_run, now: self.store().now() };
        let imported = self.store().import(import).await?.map_err(AdminError::WrongFile)?;
        if imported.applied {
            imported.clashes.iter().for_each(log_clash);
            let Imported { added, changed, refused, seats_used, .. } = imported;
            info!(
                event = "import_completed",
                domain = %domain,
                added,
                changed,
                refused,
                seats_used,
                "{added} users were imported for {domain}."
            );
        }
        Ok(report(&domain, mode, imported))
    }
}

fn report(domain: &Domain, mode: ImportMode, imported: Imported) -> ImportReport {
    ImportReport {
        domain: domain.to_string(),
        dry_run: mode.dry_run,
        partial: mode.partial,
        applied: imported.applied,
        rows: imported.rows,
        added: imported.added,
        changed: imported.changed,
        unchanged: imported.unchanged,
        refused: imported.refused,
        mapped: imported.mapped,
        skipped: imported.skipped.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
        seats_needed: imported.seats_needed,
        seats_free: imported.seats_free,
        seats_used: imported.seats_used,
        added_users: ImportedLine::list(imported.added_users),
        changed_users: ImportedLine::list(imported.changed_users),
        refusals: RefusedRow::list(imported.refusals),
    }
}
