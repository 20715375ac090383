//! A refresh: the entries of a directory flow through the mapping and the brake into the store.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::debug;

use super::tell;
use crate::directory::{Authority, DirectoryError, Event};
use crate::domain::directory::Directory;
use crate::domain::mapping::{Entry, Rules, Skip, map_entry, stable_id};
use crate::domain::name::StableId;
use crate::domain::sync::{Loss, Report, Step, Sweep, Verdict};
use crate::domain::user::{DirectoryId, Mapped, UserKey};
use crate::store::{Applied, Changes, Checkpoint, Cookie, Preview, ReadView, Store, StoreError};

/// Entries in one write: a transaction of some ten milliseconds, which a first login waits for without
/// notice. Each costs two syncs of the disk, so smaller ones would wait for it most of the time.
pub(super) const WRITE_BATCH: usize = 2000;

/// Names in one write: each is a row of its own, and a hostile entry has a thousand of them.
const WRITE_NAMES: usize = 20_000;

/// Changed entries that a dry run collects before it gives up: some 20 MB, and a transaction of half a
/// second that logins have to wait for.
const MAX_PREVIEW: usize = 50_000;

/// Names of lost users that the log of a tripped brake shows.
const LOSSES_SHOWN: usize = 5;

/// Why a sync did not come to its end. Nobody was removed or disabled by it.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The directory could not be read to its end.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A preset's own filter is malformed: a mistake in this program.
    #[error("the filter {0} is wrong: {1}")]
    Filter(&'static str, crate::domain::ldap_text::LdapTextError),
    /// A dry run would change too much to be collected.
    #[error("more than {MAX_PREVIEW} entries would change: too many to preview")]
    PreviewTooLarge,
    /// The driver ended without a word.
    #[error("the directory was not read to its end")]
    Incomplete,
    /// A part of the sync panicked or was stopped.
    #[error("the sync was interrupted")]
    Interrupted,
    /// The directory says that somebody is there unchanged whom the mirror does not have.
    #[error("the mirror lacks entries that did not change: everything has to be read again")]
    Gap,
}

/// How a refresh is to be run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mode {
    /// Write nothing.
    pub(super) dry_run: bool,
    /// The size of a loss that an administrator approved.
    pub(super) approved: Option<u64>,
    /// Users taken away before, in the same hour.
    pub(super) lost: u64,
}

/// One directory in the store: what a refresh and a follower both need.
pub(super) struct Place<'a> {
    pub(super) directory: &'a Directory,
    pub(super) id: DirectoryId,
    pub(super) rules: Rules,
    pub(super) store: &'a Store,
}

type Writing = JoinHandle<Result<Applied, StoreError>>;

/// Takes entries in: maps them, compares them with the mirror, and writes those that differ.
pub(super) struct Intake<'a> {
    place: Place<'a>,
    dry_run: bool,
    sweep: Sweep,
    report: Report,
    writes: Vec<Mapped>,
    /// Names of the entries in `writes`.
    write_names: usize,
    /// The batch that is being written while the next one is mapped.
    writing: Option<Writing>,
    is_first_map: bool,
    /// Entries were told by their ids alone, so that skipped ones are not known as such.
    told_present: bool,
    /// Somebody who is mapped seems to have left the required group.
    left_group: bool,
    now: Timestamp,
}

impl<'a> Intake<'a> {
    /// Begins a refresh of a directory. One that was never mapped gets its number now.
    pub(super) async fn begin(
        directory: &'a Directory,
        rules: Rules,
        store: &'a Store,
        mode: Mode,
    ) -> Result<Intake<'a>, StoreError> {
        let known = store.view().directories().find(|record| record.name == directory.name).cloned();
        let id = match &known {
            Some(record) => record.id,
            // A dry run gives out no number: nothing of this directory is in the store, whatever it is.
            None if mode.dry_run => DirectoryId(0),
            None => store.directory(&directory.name).await?,
        };
        let people = known.as_ref().map_or(0, |record| record.census.people);
        Ok(Intake {
            place: Place { directory, id, rules, store },
            dry_run: mode.dry_run,
            sweep: Sweep::new(&directory.brake, people, mode.lost, mode.approved),
            report: Report::default(),
            writes: Vec::new(),
            write_names: 0,
            writing: None,
            is_first_map: known.is_none_or(|record| record.last_success.is_none()),
            told_present: false,
            left_group: false,
            now: Timestamp::now(),
        })
    }

    /// Entries seen so far.
    pub(super) fn seen(&self) -> u64 {
        self.report.seen
    }

    /// Whether the required group has to be looked at again before this refresh may end: whoever was told
    /// under a new name while the group still had the old one has not left it.
    pub(super) fn has_left_group(&self) -> bool {
        self.left_group
    }

    /// Takes in what a driver tells before the end of its refresh.
    pub(super) async fn take(&mut self, event: Event) -> Result<(), SyncError> {
        match event {
            Event::Upserts(entries) => self.take_entries(&entries).await,
            Event::Present(ids) => self.take_present(&ids).await,
            Event::Deletes(ids) => {
                let view = self.place.store.view();
                for id in &ids {
                    if let Some((key, _)) = view.living_by_id(self.place.id, id)? {
                        self.sweep.name_gone(key);
                    }
                }
                Ok(())
            }
            // The end is for `end`, and a checkpoint comes only after it.
            Event::EndRefresh(..) | Event::Checkpoint(_) => Ok(()),
        }
    }

    async fn take_entries(&mut self, entries: &[Entry]) -> Result<(), SyncError> {
        let view = self.place.store.view();
        for entry in entries {
            match map_entry(entry, &self.place.rules) {
                Ok(mapped) => {
                    self.report.seen += 1;
                    let stored = view.user_by_id(self.place.id, &mapped.id)?;
                    let stored = stored.as_ref().map(|(key, user)| (*key, user));
                    if let Step::Write(mapped) = self.sweep.observe(stored, mapped) {
                        self.write_names += mapped.names().count();
                        self.writes.push(mapped);
                    }
                }
                Err(skip) => {
                    let (directory, reason) = (&self.place.directory.name, skip.code());
                    debug!(directory, dn = entry.dn, reason, "An entry was skipped.");
                    *self.report.skipped.entry(reason).or_default() += 1;
                    let was_mapped = self.place.name_gone(entry, &view, &mut self.sweep)?;
                    self.left_group |= was_mapped && skip == Skip::NotInGroup;
                }
            }
        }
        if self.dry_run {
            if self.writes.len() > MAX_PREVIEW { Err(SyncError::PreviewTooLarge) } else { Ok(()) }
        } else if self.writes.len() >= WRITE_BATCH || self.write_names >= WRITE_NAMES {
            self.write().await
        } else {
            Ok(())
        }
    }

    /// What is there unchanged must be in the mirror; what was told before has to be in the view as well.
    async fn take_present(&mut self, ids: &[StableId]) -> Result<(), SyncError> {
        self.told_present = true;
        self.write().await?;
        self.written().await?;
        let view = self.place.store.view();
        for id in ids {
            self.report.seen += 1;
            match view.living_by_id(self.place.id, id)? {
                Some((key, kind)) => self.sweep.observe_present(key, kind),
                // Skipped entries are not in the mirror, and are told as present all the same.
                None if self.is_skipped_before() => {}
                None => return Err(SyncError::Gap),
            }
        }
        Ok(())
    }

    /// Whether the last complete refresh skipped entries, so that not every id has to be known.
    fn is_skipped_before(&self) -> bool {
        let view = self.place.store.view();
        let record = view.directories().find(|record| record.id == self.place.id);
        record.is_some_and(|record| record.skipped.values().sum::<u64>() > 0)
    }

    /// Begins to write what was collected, once the batch before it is written.
    async fn write(&mut self) -> Result<(), SyncError> {
        self.written().await?;
        let upserts = std::mem::take(&mut self.writes);
        self.write_names = 0;
        if !upserts.is_empty() {
            let (store, id, now) = (self.place.store.clone(), self.place.id, self.now);
            let changes = Changes { upserts, ..Changes::default() };
            self.writing = Some(tokio::spawn(async move { store.apply(id, changes, now).await }));
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<(), SyncError> {
        if let Some(writing) = self.writing.take() {
            let applied = writing.await.map_err(|_| SyncError::Interrupted)??;
            self.count(&applied);
        }
        Ok(())
    }

    fn count(&mut self, applied: &Applied) {
        for upserted in &applied.upserted {
            self.sweep.saw(upserted.key);
            upserted.count_in(&mut self.report);
        }
        for entombed in &applied.entombed {
            entombed.count_in(&mut self.report);
        }
        let name = &self.place.directory.name;
        tell::applied(name, &self.place.store.view(), applied, self.is_first_map);
    }

    /// Ends a refresh that was told to its end: asks the brake, then takes away what it lets through, and
    /// keeps the cookie. A held refresh keeps none, so that the next one tells the same again.
    pub(super) async fn end(
        mut self,
        authority: Authority,
        cookie: Option<Cookie>,
    ) -> Result<(Report, Place<'a>), SyncError> {
        if self.dry_run {
            let preview = Preview {
                directory: self.place.directory.name.clone(),
                sweep: self.sweep,
                writes: self.writes,
                report: self.report,
                now: self.now,
            };
            return Ok((self.place.store.preview(preview).await?, self.place));
        }
        self.write().await?;
        self.written().await?;
        match self.judge(authority).await? {
            Verdict::Held(loss) => {
                let examples = self.examples(authority)?;
                tell::brake_tripped(&self.place.directory.name, loss, &examples);
                self.report.held = Some(loss);
            }
            Verdict::Proceed { removed } => {
                let is_whole = authority == Authority::Everything && !self.told_present;
                let skipped = is_whole.then(|| self.report.skipped.clone());
                self.take_away(removed, Checkpoint { cookie, skipped }).await?;
            }
        }
        Ok((self.report, self.place))
    }

    async fn judge(&mut self, authority: Authority) -> Result<Verdict, SyncError> {
        let (view, id) = (self.place.store.view(), self.place.id);
        let sweep = Arc::new(std::mem::take(&mut self.sweep));
        let judged = Arc::clone(&sweep);
        let verdict = tokio::task::spawn_blocking(move || match authority {
            Authority::Everything => judged.conclude(authority, view.unseen(id, |key| judged.has_seen(key))?),
            Authority::Named => judged.conclude(authority, view.living(judged.named_gone())),
        });
        let verdict = verdict.await.map_err(|_| SyncError::Interrupted)??;
        // The other owner ended with the task above.
        self.sweep = Arc::try_unwrap(sweep).map_err(|_| SyncError::Interrupted)?;
        Ok(verdict)
    }

    /// The checkpoint is in the transaction of the last batch.
    async fn take_away(&mut self, removed: Vec<UserKey>, checkpoint: Checkpoint) -> Result<(), SyncError> {
        let deferred = self.sweep.take_deferred();
        let mut batches: Vec<Changes> = Vec::new();
        for upserts in deferred.chunks(WRITE_BATCH) {
            batches.push(Changes { upserts: upserts.to_vec(), ..Changes::default() });
        }
        for removals in removed.chunks(WRITE_BATCH) {
            batches.push(Changes { removals: removals.to_vec(), ..Changes::default() });
        }
        if batches.is_empty() {
            batches.push(Changes::default());
        }
        if let Some(last) = batches.last_mut() {
            last.checkpoint = Some(checkpoint);
        }
        for changes in batches {
            let applied = self.place.store.apply(self.place.id, changes, Timestamp::now()).await?;
            self.count(&applied);
        }
        Ok(())
    }

    fn examples(&self, authority: Authority) -> Result<String, StoreError> {
        let view = self.place.store.view();
        let mut names = Vec::new();
        let has_seen = |key| self.sweep.has_seen(key);
        let gone: Box<dyn Iterator<Item = _>> = match authority {
            Authority::Everything => Box::new(view.unseen(self.place.id, has_seen)?),
            Authority::Named => Box::new(view.living(self.sweep.named_gone())),
        };
        for gone in gone.take(LOSSES_SHOWN) {
            names.extend(view.name_of(gone?.0)?.map(|name| name.to_string()));
        }
        Ok(names.join(" "))
    }
}

impl Place<'_> {
    /// An entry that can no longer be mapped is like one that is gone: it is named, where it was mapped,
    /// which is the answer.
    fn name_gone(&self, entry: &Entry, view: &ReadView, sweep: &mut Sweep) -> Result<bool, StoreError> {
        let key = self.living(entry, view)?;
        key.into_iter().for_each(|key| sweep.name_gone(key));
        Ok(key.is_some())
    }

    /// The living user whose entry this is.
    pub(super) fn living(&self, entry: &Entry, view: &ReadView) -> Result<Option<UserKey>, StoreError> {
        let Some(id) = stable_id(entry, self.rules.preset) else { return Ok(None) };
        Ok(view.living_by_id(self.id, &id)?.map(|(key, _)| key))
    }
}

/// The size of a loss for the course of the sync.
pub(super) fn held(report: &Report) -> Option<u64> {
    report.held.map(Loss::total)
}
