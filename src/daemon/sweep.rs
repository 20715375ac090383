//! One sweep: the entries of a directory flow through the mapping and the brake into the store.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use crate::directory::{Connection, DirectoryError, Event, file};
use crate::domain::directory::{Directory, LdapSource, Source};
use crate::domain::ldap_text::{Filter, LdapTextError};
use crate::domain::mapping::{Preset, Rules, map_entry};
use crate::domain::sync::{Change, Loss, Report, Step, Sweep, Verdict};
use crate::domain::user::{DirectoryId, Kind, Mapped};
use crate::service::log_release;
use crate::store::{Preview, Store, StoreError, Upserted};

/// Entries in one write: a transaction of some ten milliseconds, which a first login waits for without
/// notice. Each costs two syncs of the disk, so smaller ones would wait for it most of the time.
const WRITE_BATCH: usize = 2000;

/// Batches of entries between the driver and the mapping; the driver stops reading when they are full.
const EVENT_QUEUE: usize = 4;

/// Changed entries that a dry run collects before it gives up: some 20 MB, and a transaction of half a
/// second that logins have to wait for.
const MAX_PREVIEW: usize = 50_000;

/// Names of lost users that the log of a tripped brake shows.
const LOSSES_SHOWN: usize = 5;

/// Why a sweep did not come to its end. Nobody was removed or disabled by it.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The directory could not be read to its end.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A preset's own filter is malformed: a mistake in this program.
    #[error("the filter {0} is wrong: {1}")]
    Filter(&'static str, LdapTextError),
    /// A dry run would change too much to be collected.
    #[error("more than {MAX_PREVIEW} entries would change: too many to preview")]
    PreviewTooLarge,
    /// The driver ended without a word.
    #[error("the directory was not read to its end")]
    Incomplete,
    /// A part of the sweep panicked or was stopped.
    #[error("the sweep was interrupted")]
    Interrupted,
}

/// What the sync loop learns beside the report.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The server's product.
    pub server: Option<String>,
    /// The server that answered, for the next attempt to begin with.
    pub url_index: usize,
    /// The file's state.
    pub fingerprint: Option<file::Fingerprint>,
}

/// How a sweep is to be run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Write nothing.
    pub dry_run: bool,
    /// The size of a loss that an administrator approved.
    pub approved: Option<u64>,
}

/// Reads a directory once.
pub async fn run(
    directory: &Directory,
    store: &Store,
    mode: Mode,
    first_url: usize,
) -> Result<(Report, Seen), SweepError> {
    let (events, queue) = mpsc::channel(EVENT_QUEUE);
    match &directory.source {
        Source::Ldif(ldif) => {
            let rules = directory.rules(Preset::Ldif);
            let intake = Intake::begin(directory, rules, store, mode).await?;
            let (read, taken) = tokio::join!(read_file(&ldif.file, events), intake.take(queue));
            let fingerprint = Some(read?);
            let report = taken?.end().await?;
            Ok((report, Seen { fingerprint, ..Seen::default() }))
        }
        Source::Ldap(ldap) => {
            let mut connection = Connection::open(ldap, first_url).await?;
            let seen = Seen {
                server: Some(connection.server().vendor.clone()),
                url_index: connection.url_index(),
                fingerprint: None,
            };
            let rules = directory.rules(connection.server().preset);
            let intake = Intake::begin(directory, rules.clone(), store, mode).await?;
            let read = read_ldap(&mut connection, ldap, &rules, events);
            let (read, taken) = tokio::join!(read, intake.take(queue));
            let intake = taken?;
            read?;
            connection.close().await;
            Ok((intake.end().await?, seen))
        }
    }
}

async fn read_file(path: &Path, events: mpsc::Sender<Event>) -> Result<file::Fingerprint, DirectoryError> {
    Ok(file::sweep(path, &events).await?.fingerprint)
}

async fn read_ldap(
    connection: &mut Connection,
    ldap: &LdapSource,
    rules: &Rules,
    events: mpsc::Sender<Event>,
) -> Result<(), SweepError> {
    let filter = filter(ldap, rules.preset)?;
    connection.sweep(&ldap.base_dn, &filter, &rules.attributes(), &events).await?;
    Ok(())
}

/// The configured filter, or the preset's.
pub fn filter(ldap: &LdapSource, preset: Preset) -> Result<Filter, SweepError> {
    match &ldap.filter {
        Some(filter) => Ok(filter.clone()),
        None => {
            let text = preset.default_filter();
            Filter::parse(text).map_err(|error| SweepError::Filter(text, error))
        }
    }
}

type Writing = JoinHandle<Result<Vec<Upserted>, StoreError>>;

/// Takes entries in: maps them, compares them with the mirror, and writes those that differ.
struct Intake<'a> {
    directory: &'a Directory,
    id: DirectoryId,
    rules: Rules,
    store: &'a Store,
    mode: Mode,
    sweep: Sweep,
    report: Report,
    writes: Vec<Mapped>,
    /// The batch that is being written while the next one is mapped.
    writing: Option<Writing>,
    is_first_map: bool,
    is_complete: bool,
    now: Timestamp,
}

impl<'a> Intake<'a> {
    async fn begin(
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
            directory,
            id,
            rules,
            store,
            mode,
            sweep: Sweep::new(&directory.brake, people, mode.approved),
            report: Report::default(),
            writes: Vec::new(),
            writing: None,
            is_first_map: known.is_none_or(|record| record.last_success.is_none()),
            is_complete: false,
            now: Timestamp::now(),
        })
    }

    async fn take(mut self, mut events: mpsc::Receiver<Event>) -> Result<Intake<'a>, SweepError> {
        while let Some(event) = events.recv().await {
            match event {
                Event::Upserts(entries) => {
                    let view = self.store.view();
                    for entry in &entries {
                        match map_entry(entry, &self.rules) {
                            Ok(mapped) => {
                                self.report.seen += 1;
                                let stored = view.user_by_id(self.id, &mapped.id)?;
                                let stored = stored.as_ref().map(|(key, user)| (*key, user));
                                if let Step::Write(mapped) = self.sweep.observe(stored, mapped) {
                                    self.writes.push(mapped);
                                }
                            }
                            Err(skip) => {
                                debug!(
                                    directory = self.directory.name,
                                    dn = entry.dn,
                                    reason = skip.code(),
                                    "An entry was skipped."
                                );
                                *self.report.skipped.entry(skip.code()).or_default() += 1;
                            }
                        }
                    }
                    if self.mode.dry_run {
                        if self.writes.len() > MAX_PREVIEW {
                            return Err(SweepError::PreviewTooLarge);
                        }
                    } else if self.writes.len() >= WRITE_BATCH {
                        self.write().await?;
                    }
                }
                Event::EndRefresh => self.is_complete = true,
            }
        }
        Ok(self)
    }

    /// Begins to write what was collected, once the batch before it is written.
    async fn write(&mut self) -> Result<(), SweepError> {
        self.written().await?;
        let batch = std::mem::take(&mut self.writes);
        if !batch.is_empty() {
            let (store, id, now) = (self.store.clone(), self.id, self.now);
            self.writing = Some(tokio::spawn(async move { store.upsert(id, batch, now).await }));
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<(), SweepError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        for upserted in writing.await.map_err(|_| SweepError::Interrupted)?? {
            self.sweep.saw(upserted.key);
            upserted.count_in(&mut self.report);
            self.log(&upserted);
        }
        Ok(())
    }

    /// Ends a sweep that was read to its end: asks the brake, then takes away what it lets through.
    async fn end(mut self) -> Result<Report, SweepError> {
        if !self.is_complete {
            return Err(SweepError::Incomplete);
        }
        if self.mode.dry_run {
            let preview = Preview {
                directory: self.directory.name.clone(),
                sweep: self.sweep,
                writes: self.writes,
                report: self.report,
                now: self.now,
            };
            return Ok(self.store.preview(preview).await?);
        }
        self.write().await?;
        self.written().await?;
        let (view, id) = (self.store.view(), self.id);
        let sweep = Arc::new(self.sweep);
        let judged = Arc::clone(&sweep);
        let verdict = tokio::task::spawn_blocking(move || {
            judged.conclude(view.unseen(id, |key| judged.has_seen(key))?)
        });
        let verdict = verdict.await.map_err(|_| SweepError::Interrupted)??;
        // The other owner ended with the task above.
        self.sweep = Arc::try_unwrap(sweep).map_err(|_| SweepError::Interrupted)?;
        match verdict {
            Verdict::Held(loss) => {
                self.log_brake(loss)?;
                self.report.held = Some(loss);
                Ok(self.report)
            }
            Verdict::Proceed { removed } => self.take_away(removed).await,
        }
    }

    async fn take_away(mut self, removed: Vec<crate::domain::user::UserKey>) -> Result<Report, SweepError> {
        let deferred = self.sweep.take_deferred();
        for batch in deferred.chunks(WRITE_BATCH) {
            self.writes = batch.to_vec();
            self.write().await?;
        }
        self.written().await?;
        for keys in removed.chunks(WRITE_BATCH) {
            for entombed in self.store.entomb(keys.to_vec(), self.now).await? {
                if entombed.kind != Kind::Person {
                    continue;
                }
                self.report.removed += 1;
                self.report.seats_released_after_grace += u64::from(entombed.keeps_seat);
                let (directory, name) = (&self.directory.name, &entombed.name);
                let keeps_seat = entombed.keeps_seat;
                info!(event = "user_removed", directory, user = %name, keeps_seat, "{name} is gone from the directory.");
            }
        }
        self.store.complete_sweep(self.id, self.report.skipped.clone(), Timestamp::now()).await?;
        Ok(self.report)
    }

    fn log(&self, upserted: &Upserted) {
        let (directory, name) = (&self.directory.name, &upserted.name);
        for clash in &upserted.clashes {
            let claimed = &clash.name;
            let owner = self.store.view().name_of(clash.owner).ok().flatten();
            let owner = owner.map(|owner| owner.to_string()).unwrap_or_default();
            warn!(event = "name_clash", directory, user = %name, name = %claimed, owner, "{name} is mapped without {claimed}, which {owner} had first.");
        }
        if upserted.is_person {
            match upserted.change {
                // The first map would write a line for everybody; its summary says as much.
                Change::Added if self.is_first_map => {
                    debug!(event = "user_added", directory, user = %name, "{name} is mapped.");
                }
                Change::Added => info!(event = "user_added", directory, user = %name, "{name} is mapped."),
                Change::Returned => {
                    info!(event = "user_added", directory, user = %name, "{name} is back in the directory.")
                }
                Change::Changed => {
                    info!(event = "user_changed", directory, user = %name, "{name} was changed in the directory.")
                }
                Change::Disabled => {
                    info!(event = "user_disabled", directory, user = %name, "{name} is disabled in the directory.")
                }
                Change::Unchanged => {}
            }
        }
        if let Some(released) = &upserted.released {
            log_release(released);
        }
    }

    /// Says what would have gone. Repeated by every sweep until it is over: somebody must act.
    fn log_brake(&self, loss: Loss) -> Result<(), StoreError> {
        let view = self.store.view();
        let mut names = Vec::new();
        for unseen in view.unseen(self.id, |key| self.sweep.has_seen(key))?.take(LOSSES_SHOWN) {
            names.extend(view.name_of(unseen?.0)?.map(|name| name.to_string()));
        }
        let Loss { removed, disabled, people, empty } = loss;
        let (directory, examples) = (&self.directory.name, names.join(" "));
        error!(
            event = "brake_tripped",
            directory,
            removed,
            disabled,
            people,
            empty,
            examples,
            "The directory would lose {removed} of {people} users and disable {disabled}: nothing was taken \
             away. If that is right, say: seatkeeper sync approve {directory}"
        );
        Ok(())
    }
}
