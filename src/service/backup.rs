//! Backups of the store, and what is known of those made by night.

use std::io::Write;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;

use super::admin::{Admin, AdminError};
use super::answers::BackupStatus;
use crate::store::ReadView;
pub use crate::store::{BackupError, BackupInfo, check_backup, is_backup};

/// A backup that is about to be written.
pub struct Backup {
    view: Arc<ReadView>,
    now: Timestamp,
    /// Those of the store, which has the same rows and more.
    bytes_at_most: u64,
}

impl Backup {
    /// Bytes that it will not exceed.
    pub fn bytes_at_most(&self) -> u64 {
        self.bytes_at_most
    }

    /// Writes it, and what is said of it. Blocks; nobody waits for it.
    pub fn write(&self, out: impl Write) -> Result<BackupInfo, BackupError> {
        self.view.back_up(self.now, out)
    }
}

impl Admin {
    /// A backup of what is in the store now.
    pub async fn backup(&self) -> Result<Backup, AdminError> {
        let view = self.fresh_view().await?;
        let bytes_at_most = self.store().file_bytes();
        Ok(Backup { view, now: self.store().now(), bytes_at_most })
    }

    /// What `status` shows of the nightly backups; `None` where none are made.
    pub fn show_backups(&self, status: Option<BackupStatus>) {
        *self.backups().lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// What is shown.
    pub(super) fn backup_status(&self) -> Option<BackupStatus> {
        self.backups().lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
