//! A refresh: the entries of a directory flow through the mapping and the brake into the store.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::tell;
use crate::directory::{Authority, DirectoryError, Event};
use crate::domain::brake::{Counts, Hour, toll};
use crate::domain::directory::{Directory, Source};
use crate::domain::mapping::{Entry, Remapped, Rules, Skip, map_entry, map_known, stable_id};
use crate::domain::name::StableId;
use crate::domain::names::NameRules;
use crate::domain::sync::{Change, Report, Step, Stored, Sweep, Verdict, compare};
use crate::domain::user::{DirectoryId, Kind, Mapped, UserKey};
use crate::store::{Applied, Changes, Checkpoint, Cookie, Policy, Preview, ReadView, Store, StoreError};

/// Entries in one write: a transaction of some ten milliseconds, which a first login waits for without
/// notice. Each costs two syncs of the disk, so smaller ones would wait for it most of the time.
pub(super) const WRITE_BATCH: usize = 2000;

/// Names in one write: each is a row of its own, and a hostile entry has a thousand of them.
const WRITE_NAMES: usize = 20_000;

/// Changed entries that a dry run collects before it gives up: some 20 MB, and a transaction of half a
/// second that logins have to wait for.
const MAX_PREVIEW: usize = 50_000;

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
    Filter(String, crate::domain::ldap_text::LdapTextError),
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
#[derive(Clone, Debug, Default)]
pub(super) struct Mode {
    /// Write nothing, and go by these rules of names.
    pub(super) dry_run: Option<NameRules>,
    /// What was held and an administrator approved.
    pub(super) approved: Counts,
    /// What of it is drift.
    pub(super) compares: Compares,
}

/// What a refresh finds that all changes told before should have brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Compares {
    /// Nothing: it is how changes come.
    #[default]
    Nothing,
    /// [`Event::Differences`], and whoever is gone without being named: the ids of everything were listed.
    Ids,
    /// Whatever differs: everything was read.
    Everything,
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
    dry_run: Option<NameRules>,
    /// What the store goes by at the begin of the refresh.
    policy: Arc<Policy>,
    compares: Compares,
    approved: Counts,
    sweep: Sweep,
    /// What the configuration has otherwise than when everything was read last.
    remapped: Remapped,
    report: Report,
    /// Differences among the entries that are held back.
    drift_held_back: u64,
    writes: Vec<Mapped>,
    /// New ids that the mirror may not have yet, where they are looked for again.
    unwritten: HashSet<StableId>,
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
        let known = store.view().directory_named(&directory.name).cloned();
        let id = match &known {
            Some(record) => record.id,
            // A dry run gives out no number: nothing of this directory is in the store, whatever it is.
            None if mode.dry_run.is_some() => DirectoryId(0),
            None => store.directory(&directory.name).await?,
        };
        let now = store.now();
        let people = known.as_ref().map_or(0, |record| record.census.people);
        let hour = known.as_ref().map_or_else(Hour::default, |record| record.hour.clone());
        if hour.is_ahead(now) && mode.dry_run.is_none() {
            // Where nothing else is written for long, it would count for as long.
            store.apply(id, Changes::default(), now).await?;
        }
        let remapped = rules.remapped_since(store.view().basis(id)?.as_deref());
        Ok(Intake {
            place: Place { directory, id, rules, store },
            dry_run: mode.dry_run,
            policy: store.policy(),
            compares: mode.compares,
            approved: mode.approved,
            sweep: Sweep::new(directory.brake, people, &hour, mode.approved, now).remapped(remapped),
            remapped,
            report: Report::default(),
            drift_held_back: 0,
            writes: Vec::new(),
            unwritten: HashSet::new(),
            write_names: 0,
            writing: None,
            is_first_map: known.is_none_or(|record| record.last_success.is_none()),
            told_present: false,
            left_group: false,
            now,
        })
    }

    /// Nothing of the directory was mapped before.
    pub(super) fn is_first_map(&self) -> bool {
        self.is_first_map
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
            Event::Upserts(entries) => {
                self.take_entries(&entries, self.compares == Compares::Everything).await
            }
            Event::Differences(entries) => self.take_entries(&entries, self.compares == Compares::Ids).await,
            Event::Present(ids) => self.take_present(&ids).await,
            Event::Deletes(ids) => {
                // Whom it told before must be in the view, to be found there.
                self.write().await?;
                self.written().await?;
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

    async fn take_entries(&mut self, entries: &[Entry], is_compared: bool) -> Result<(), SyncError> {
        let view = self.place.store.view();
        for entry in entries {
            match self.place.map(entry, &view)? {
                Ok(mapped) => {
                    let stored = view.stored(self.place.id, &mapped)?;
                    if self.is_file() && self.was_seen(stored.as_ref(), &mapped.id) {
                        self.skip_twin(&mapped);
                        continue;
                    }
                    self.report.seen += 1;
                    let names = self.dry_run.as_ref().unwrap_or(&self.policy.names);
                    self.report.left_out.count(&self.place.directory.name, &mapped, names);
                    if is_compared && mapped.kind == Kind::Person {
                        self.count_drift(stored.as_ref(), &mapped);
                    }
                    if let Step::Write(mapped) = self.sweep.observe(stored.as_ref(), mapped) {
                        self.write_names += mapped.names().count();
                        self.writes.push(mapped);
                    }
                }
                Err(skip) => {
                    let (directory, reason) = (&self.place.directory.name, skip.code());
                    debug!(directory, dn = entry.dn, reason, "An entry was skipped.");
                    *self.report.skipped.entry(reason).or_default() += 1;
                    let key = self.place.living(entry, &view)?;
                    self.left_group |= key.is_some() && skip == Skip::NotInGroup;
                    // An entry that can no longer be mapped is like one that is gone: it is named, where it was
                    // mapped. Where everything is compared it is gone by not being seen.
                    if !is_compared {
                        key.into_iter().for_each(|key| self.sweep.name_gone(key));
                    }
                }
            }
        }
        if self.dry_run.is_some() {
            if self.writes.len() > MAX_PREVIEW { Err(SyncError::PreviewTooLarge) } else { Ok(()) }
        } else if self.writes.len() >= WRITE_BATCH || self.write_names >= WRITE_NAMES {
            self.write().await
        } else {
            Ok(())
        }
    }

    /// In a file each entry is written once. A server may tell of one again that changed meanwhile.
    fn is_file(&self) -> bool {
        matches!(self.place.directory.source, Source::Ldif(_))
    }

    /// Whether an entry with this id was taken in before. Notes one that the mirror does not have.
    fn was_seen(&mut self, stored: Option<&Stored>, id: &StableId) -> bool {
        match stored {
            Some(stored) => self.sweep.has_seen(stored.key) || self.unwritten.contains(id),
            None => !self.unwritten.insert(id.clone()),
        }
    }

    fn skip_twin(&mut self, mapped: &Mapped) {
        let (directory, skip) = (&self.place.directory.name, Skip::DuplicateId);
        let skipped = self.report.skipped.entry(skip.code()).or_default();
        *skipped += 1;
        if *skipped == 1 {
            let (dn, id) = (&mapped.dn, &mapped.id);
            warn!(
                directory, %dn, %id,
                "{dn} is skipped, since an entry before it in the file has the same id {id}: remove one of them. Others \
                 like it are counted in `seatkeeper status` as {}.",
                skip.code()
            );
        }
    }

    fn count_drift(&mut self, stored: Option<&Stored>, mapped: &Mapped) {
        let costs =
            |Stored { user, gives_up_seat, .. }: &Stored| toll(user, mapped, *gives_up_seat, self.now);
        if stored.and_then(costs).is_some() {
            self.drift_held_back += 1;
            return;
        }
        match compare(stored.map(|stored| &stored.user), mapped) {
            Change::Added | Change::Returned => self.report.drift.missing += 1,
            Change::Changed | Change::Disabled => self.report.drift.stale += 1,
            Change::Unchanged => {}
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
        let record = view.directory(self.place.id);
        record.is_some_and(|record| record.skipped.values().sum::<u64>() > 0)
    }

    /// Begins to write what was collected, once the batch before it is written.
    async fn write(&mut self) -> Result<(), SyncError> {
        self.written().await?;
        let upserts = std::mem::take(&mut self.writes);
        self.write_names = 0;
        if self.is_file() {
            // Those before are in the mirror now.
            self.unwritten = upserts.iter().map(|mapped| mapped.id.clone()).collect();
        }
        if !upserts.is_empty() {
            let (store, id, now) = (self.place.store.clone(), self.place.id, self.now);
            let changes = Changes { upserts, remapped: self.remapped, ..Changes::default() };
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
        let name = &self.place.directory.name;
        for upserted in &applied.upserted {
            self.sweep.saw(upserted.key);
            upserted.count_in(name, &mut self.report);
        }
        for entombed in &applied.entombed {
            entombed.count_in(&mut self.report);
        }
        tell::applied(name, applied, self.is_first_map);
    }

    /// Ends a refresh that was told to its end: asks the brake, then takes away what it lets through, and
    /// keeps the cookie. A held refresh keeps none, so that the next one tells the same again.
    pub(super) async fn end(
        mut self,
        authority: Authority,
        cookie: Option<Cookie>,
    ) -> Result<(Report, Place<'a>), SyncError> {
        if let Some(names) = self.dry_run {
            let preview = Preview {
                directory: self.place.directory.name.clone(),
                sweep: self.sweep,
                writes: self.writes,
                report: self.report,
                names,
                remapped: self.remapped,
                now: self.now,
            };
            return Ok((self.place.store.preview(preview).await?, self.place));
        }
        self.write().await?;
        self.written().await?;
        let verdict = self.judge(authority).await?;
        if self.compares != Compares::Nothing && verdict.held.is_none() {
            self.report.drift.stale += self.drift_held_back;
            self.report.drift.surplus = self.surplus(&verdict.removed)?;
        }
        let is_whole = authority == Authority::Everything && !self.told_present;
        let skipped = is_whole.then(|| self.report.skipped.clone());
        let basis = is_whole.then(|| self.place.rules.basis());
        let left_out = self.report.left_out;
        let checkpoint = verdict.held.is_none().then_some(Checkpoint { cookie, skipped, left_out, basis });
        self.take_away(&verdict, checkpoint).await?;
        self.report.held = verdict.held;
        Ok((self.report, self.place))
    }

    async fn judge(&mut self, authority: Authority) -> Result<Verdict, SyncError> {
        let (view, id) = (self.place.store.view(), self.place.id);
        let sweep = Arc::new(std::mem::take(&mut self.sweep));
        let judged = Arc::clone(&sweep);
        let verdict = tokio::task::spawn_blocking(move || view.conclude(&judged, id, authority));
        let verdict = verdict.await.map_err(|_| SyncError::Interrupted)??;
        // The other owner ended with the task above.
        self.sweep = Arc::try_unwrap(sweep).map_err(|_| SyncError::Interrupted)?;
        Ok(verdict)
    }

    /// People who are to be removed though nobody named them.
    fn surplus(&self, removed: &[UserKey]) -> Result<u64, StoreError> {
        let view = self.place.store.view();
        let unnamed = removed.iter().copied().filter(|key| !self.sweep.is_named(*key));
        let kinds: Vec<Kind> =
            view.living(unnamed).map(|user| Ok(user?.1)).collect::<Result<_, StoreError>>()?;
        Ok(kinds.into_iter().filter(|kind| *kind == Kind::Person).count() as u64)
    }

    /// Whether the checkpoint says what the store has already.
    fn is_known(&self, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
        let stored = self.place.store.view().cookie(self.place.id)?;
        Ok(match (&stored, &checkpoint.cookie) {
            (Some(stored), Some(new)) => (&stored.valid_for, &stored.bytes) == (&new.valid_for, &new.bytes),
            _ => false,
        })
    }

    /// Writes what the brake lets through, and of the rest what takes nothing away. The checkpoint is in the
    /// transaction of the last batch.
    async fn take_away(
        &mut self,
        verdict: &Verdict,
        checkpoint: Option<Checkpoint>,
    ) -> Result<(), SyncError> {
        let deferred = self.sweep.take_deferred(verdict);
        let mut upserts = self.place.store.view().held_back(&self.sweep, deferred.held)?;
        upserts.extend(deferred.free.into_iter().map(|(_, mapped)| mapped));
        let is_empty = upserts.is_empty() && verdict.removed.is_empty();
        let is_known = match &checkpoint {
            // The proof is written with the next change.
            Some(checkpoint) => self.compares == Compares::Ids && self.is_known(checkpoint)?,
            None => true,
        };
        if is_empty && is_known {
            return Ok(());
        }
        let mut batches: Vec<Changes> = Vec::new();
        for upserts in upserts.chunks(WRITE_BATCH) {
            batches.push(Changes { upserts: upserts.to_vec(), ..Changes::default() });
        }
        for removals in verdict.removed.chunks(WRITE_BATCH) {
            batches.push(Changes { removals: removals.to_vec(), ..Changes::default() });
        }
        if batches.is_empty() {
            batches.push(Changes::default());
        }
        if let Some(last) = batches.last_mut() {
            last.checkpoint = checkpoint;
        }
        let mut approved = self.approved;
        for changes in batches {
            let changes = Changes { approved, remapped: self.remapped, ..changes };
            let applied = self.place.store.apply(self.place.id, changes, self.place.store.now()).await?;
            approved = approved.less(applied.happened);
            self.count(&applied);
        }
        Ok(())
    }
}

impl Place<'_> {
    /// Maps an entry. A user who is known stays enabled or disabled where the entry does not say.
    pub(super) fn map(&self, entry: &Entry, view: &ReadView) -> Result<Result<Mapped, Skip>, StoreError> {
        let mapped = map_entry(entry, &self.rules);
        let Err(skip @ Skip::NoAccountState) = mapped else { return Ok(mapped) };
        let Some(id) = stable_id(entry, self.rules.preset) else { return Ok(Err(skip)) };
        Ok(match view.user_by_id(self.id, &id)? {
            Some((_, user)) => map_known(entry, &self.rules, &user.mapped),
            None => Err(skip),
        })
    }

    /// The living user whose entry this is.
    pub(super) fn living(&self, entry: &Entry, view: &ReadView) -> Result<Option<UserKey>, StoreError> {
        let Some(id) = stable_id(entry, self.rules.preset) else { return Ok(None) };
        Ok(view.living_by_id(self.id, &id)?.map(|(key, _)| key))
    }
}
