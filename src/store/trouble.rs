//! What the writer does when the disk takes no more changes: readers go on from the view that was published last,
//! changes are refused as an outage, and the file is opened again as soon as it can be written.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use redb::Database;
use tracing::{debug, error, info, warn};

use super::clock;
use super::file::{self, Check, Opened, guarded};
use super::medium::{MIN_FREE, Medium};
use super::migrate::prepare;
use super::tables::META;
use super::{ReadView, Shared, StoreError};
use crate::domain::clock::Kept;

/// Longest time between two attempts to write again. The first comes at once.
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// Why the store takes no changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// What is wrong: a sentence without its full stop.
    pub problem: String,
}

/// The state of the disk, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskState {
    /// Set while no changes are written.
    pub trouble: Option<Trouble>,
    /// Bytes free in the store's file system; `None` where that is unknown.
    pub free_bytes: Option<u64>,
    /// The space that was set aside had to be given up, and there is not yet room to set it aside again.
    pub is_short: bool,
}

/// The file, opened, and what is known of the disk under it. Belongs to the writer's thread.
pub(super) struct Owner {
    medium: Box<dyn Medium>,
    opened: Opened,
    retry_at: Instant,
    retry_after: Duration,
}

impl Owner {
    /// Opens what is on a medium and makes its tables. A disk that cannot be written is no error: what is there can be
    /// read, unless there is nothing yet.
    pub(super) fn open(medium: Box<dyn Medium>) -> Result<(Owner, ReadView), StoreError> {
        let was_empty = medium.is_empty();
        Owner::open_medium(&*medium)
            .inspect_err(|_| {
                if was_empty {
                    medium.clear();
                }
            })
            .map(|(opened, view)| {
                (Owner { medium, opened, retry_at: Instant::now(), retry_after: Duration::ZERO }, view)
            })
    }

    fn open_medium(medium: &dyn Medium) -> Result<(Opened, ReadView), StoreError> {
        let open = || -> Result<(Opened, ReadView), StoreError> {
            let opened = file::open(medium, Check::IfSmall)?;
            let view = guarded(medium.path(), || view(&opened.db))?;
            match opened.disk.failure() {
                Some(failure) if opened.is_new => Err(StoreError::Open {
                    path: medium.path().to_owned(),
                    error: redb::Error::Io(failure.error.kind().into()),
                }),
                _ => Ok((opened, view)),
            }
        };
        let (mut opened, mut view) = open()?;
        if opened.disk.failure().is_some() && medium.give_up_ballast() {
            drop((view, opened));
            (opened, view) = open()?;
        }
        Ok((opened, view))
    }

    pub(super) fn path(&self) -> &Path {
        self.medium.path()
    }

    /// The time that was kept.
    pub(super) fn kept_time(&self) -> Result<Option<Kept>, StoreError> {
        guarded(self.medium.path(), || clock::kept(&self.opened.db))
    }

    /// What is known at the start.
    pub(super) fn begin(&self, shared: &Shared) {
        if let Some(failure) = self.opened.disk.failure() {
            self.tell_trouble(shared, failure.error.to_string());
        } else {
            self.medium.keep_ballast();
        }
        self.measure(shared);
    }

    /// Carries out a change, or reports it and answers `None`. What the change was told to commit is on disk when
    /// there is a result; else it may be there or not, and whoever asked must not be told that it is.
    pub(super) fn attempt<T>(
        &mut self,
        shared: &Shared,
        change: impl FnOnce(&Opened) -> Result<T, StoreError>,
    ) -> Option<T> {
        if shared.trouble().is_some() || !self.has_room(shared) {
            return None;
        }
        if self.opened.disk.failure().is_some() {
            self.failed(shared);
            return None;
        }
        match change(&self.opened) {
            Ok(done) if self.opened.disk.failure().is_none() => return Some(done),
            Ok(_) | Err(StoreError::NotWritten) => {}
            Err(error @ StoreError::Storage(_)) => debug!(error = %error, "The store failed."),
            Err(error) => {
                // Nothing is wrong with the disk, so the next change may succeed.
                error!(error = %error, "A change of the store failed, and was not made: {error}");
                return None;
            }
        }
        self.failed(shared);
        None
    }

    /// A write failed. Where the ballast makes room the store goes on at once.
    fn failed(&mut self, shared: &Shared) {
        let problem = self.opened.disk.failure().map_or_else(
            || "redb reports an earlier failure of the disk".to_owned(),
            |failure| failure.error.to_string(),
        );
        if self.is_full() && self.give_up_ballast(shared) {
            debug!("The store is opened again with the space of the ballast.");
        }
        shared.change_disk(|disk| disk.trouble = Some(self.trouble(&problem)));
        match self.recover(shared) {
            Ok(()) => {
                shared.change_disk(|disk| disk.trouble = None);
                warn!(
                    reason = problem,
                    "A change could not be written ({problem}) and was not confirmed; the store was opened again and \
                     goes on."
                );
            }
            Err(error) => {
                debug!(error = %error, "The store could not be opened again at once.");
                self.tell_trouble(shared, problem);
            }
        }
    }

    fn is_full(&self) -> bool {
        let is_no_space = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        self.opened.disk.failure().is_some_and(|failure| is_no_space(&failure.error))
    }

    /// Whether there is room for a change, if need be that of the ballast.
    fn has_room(&mut self, shared: &Shared) -> bool {
        if self.medium.has_room() || self.give_up_ballast(shared) && self.medium.has_room() {
            return true;
        }
        self.tell_trouble(shared, "no space is left on the disk".to_owned());
        false
    }

    fn give_up_ballast(&self, shared: &Shared) -> bool {
        let is_given_up = self.medium.give_up_ballast();
        if is_given_up {
            shared.change_disk(|disk| disk.is_short = true);
            let path = self.path().display();
            error!(
                event = "store_in_trouble",
                "The disk of {path} is full. The space that was set aside is used now, so new users still get seats \
                 until it is used up, too: make room."
            );
        }
        is_given_up
    }

    fn trouble(&self, problem: &str) -> Trouble {
        let problem = format!("{} cannot be written: {problem}", self.path().display());
        Trouble { since: Timestamp::now(), problem }
    }

    fn tell_trouble(&self, shared: &Shared, problem: String) {
        let trouble = self.trouble(&problem);
        error!(
            event = "store_in_trouble",
            reason = problem,
            "{}. Seat holders still get in; no new seat is granted and no change of a directory is applied until it \
             can be written: make room, or see to the disk. The daemon goes on by itself.",
            trouble.problem
        );
        shared.change_disk(|disk| disk.trouble = Some(trouble));
    }

    /// Looks after the disk, now and then: ends trouble that is over, and keeps space aside.
    pub(super) fn look(&mut self, shared: &Shared) {
        let free = self.medium.free();
        match shared.trouble() {
            Some(trouble)
                if self.retry_at <= Instant::now() && free.is_none_or(|free| free >= 2 * MIN_FREE) =>
            {
                self.retry(shared, &trouble);
            }
            Some(_) => {}
            None if self.is_latched() => self.replace(shared, &shared.view()),
            None => {
                if self.has_room(shared) && self.medium.keep_ballast() {
                    let was_short = shared.change_disk(|disk| std::mem::take(&mut disk.is_short));
                    if was_short {
                        info!("The disk of {} has room again.", self.path().display());
                    }
                }
            }
        }
        self.measure(shared);
    }

    fn measure(&self, shared: &Shared) {
        let free = self.medium.free();
        shared.change_disk(|disk| disk.free_bytes = free);
    }

    fn retry(&mut self, shared: &Shared, trouble: &Trouble) {
        match self.recover(shared) {
            Ok(()) => {
                shared.change_disk(|disk| disk.trouble = None);
                self.retry_after = Duration::ZERO;
                let since = trouble.since;
                info!(since = %since, "{} is written again.", self.path().display());
            }
            Err(error) => {
                self.retry_after = (self.retry_after * 2).clamp(Duration::from_secs(1), RETRY_AT_MOST);
                self.retry_at = Instant::now() + self.retry_after;
                debug!(error = %error, "{} cannot be written yet.", self.path().display());
            }
        }
    }

    /// After a failed read redb refuses everything.
    fn is_latched(&self) -> bool {
        self.opened.db.begin_write().is_err()
    }

    /// Opens the file again if it has to be, and proves that it can be written.
    fn recover(&mut self, shared: &Shared) -> Result<(), StoreError> {
        if self.opened.disk.failure().is_some() || self.is_latched() {
            self.reopen(shared)?;
        }
        self.opened.probe(META)?;
        let (directories, rules) = {
            let view = shared.view();
            (view.directories.clone(), Arc::clone(&view.rules))
        };
        shared.publish(guarded(self.medium.path(), || ReadView::open(&self.opened.db, directories, rules))?);
        Ok(())
    }

    /// Opens the file again beside the present database, which nothing writes any more, publishes what is there, and
    /// only then lets go of the old one: readers always have a view. What a failed commit left is decided here, by
    /// what is on disk.
    fn reopen(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let failed = |error| StoreError::Storage(redb::Error::Io(error));
        let is_in_doubt = self.opened.disk.failure().is_some_and(|failure| failure.is_sync);
        self.opened.disk.give_up().map_err(failed)?;
        let check = if is_in_doubt { Check::Everything } else { Check::IfSmall };
        if is_in_doubt {
            self.medium.drop_cache();
        }
        let opened = file::open(&*self.medium, check)?;
        let view = guarded(self.medium.path(), || view(&opened.db));
        if view.is_err() {
            // Closing it must not write what the present view does not know.
            opened.disk.give_up().map_err(failed)?;
        }
        shared.publish(view?);
        self.opened = opened;
        Ok(())
    }

    /// A reader could not read this view: opens the file again, unless that was done meanwhile.
    pub(super) fn replace(&mut self, shared: &Shared, failed: &Arc<ReadView>) {
        if !Arc::ptr_eq(failed, &shared.view()) || self.retry_at > Instant::now() {
            return;
        }
        self.retry_at = Instant::now() + Duration::from_secs(1);
        match self.reopen(shared) {
            Ok(()) => warn!("The store could not be read, and was opened again."),
            Err(error) => self.tell_trouble(shared, error.to_string()),
        }
    }
}

/// Brings the tables up to date, and reads them.
pub(super) fn view(db: &Database) -> Result<ReadView, StoreError> {
    let (directories, rules) = prepare(db)?;
    ReadView::open(db, directories, rules)
}
