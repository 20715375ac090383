//! An import: all of a file in one transaction, so that no crash leaves half of it, and the last seats are
//! shared with logins rightly. Only seats for newcomers have to wait for it.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::accounts::request;
use super::names::NameLookup;
use super::tables::Lookup;
use super::transaction::Transaction;
use super::writer::Command;
use super::{Clash, IMPORTED, Policy, Store, StoreError};
use crate::domain::account::{ImportRow, ImportedPerson, Mistake, RowContent, Rows};
use crate::domain::admission::{Decision, Operation, decide};
use crate::domain::name::{Domain, Name};
use crate::domain::sync::Change;
use crate::domain::user::{DirectoryId, User, UserKey};

/// Rows of one import. A hundred thousand take some seconds in one transaction, for which newcomers who log
/// in have to wait.
pub const MAX_ROWS: u64 = 250_000;

/// Rows between two signs of life: some milliseconds.
pub(super) const BEAT_EVERY: u64 = 500;

/// Rows told of each kind where all of them matter: in a dry run, and of a part that was left out.
pub(super) const MAX_TOLD: usize = 10_000;

/// Refused rows told where nothing was imported: enough to see what is wrong.
pub(super) const MAX_TOLD_OF_FAILURE: usize = 100;

/// What to import, and how.
pub struct Import {
    /// The mail domain of all of them.
    pub domain: Domain,
    /// The file.
    pub rows: Rows,
    /// Import what can be, instead of all or nothing.
    pub partial: bool,
    /// Only say what would happen.
    pub dry_run: bool,
    /// The time of the import.
    pub now: Timestamp,
}

/// What became of an import.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// It was written.
    pub applied: bool,
    /// Rows read.
    pub rows: u64,
    /// New users.
    pub added: u64,
    /// Users with other names, or disabled now.
    pub changed: u64,
    /// Users who are as the file says.
    pub unchanged: u64,
    /// Rows that were not imported.
    pub refused: u64,
    /// Rows among them whose user is in a directory.
    pub mapped: u64,
    /// Entries of nobody who could log in, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Seats that all of the file needs beyond those held.
    pub seats_needed: u64,
    /// Seats free before it.
    pub seats_free: u64,
    /// Seats taken after it; after it would be applied, in a dry run.
    pub seats_used: u64,
    /// The first of the new users, with their lines.
    pub added_users: Vec<(u64, Name)>,
    /// The first of the changed users.
    pub changed_users: Vec<(u64, Name)>,
    /// The first of the refused rows.
    pub refusals: Vec<(u64, Mistake)>,
    /// The first of the names that users were imported without.
    pub clashes: Vec<Clash>,
}

/// What is remembered while an import goes on.
struct Progress {
    imported: Imported,
    directory: DirectoryId,
    domain: Domain,
    /// On which line each user of the file stands: some bytes a user, bounded by [`MAX_ROWS`].
    lines: HashMap<UserKey, u64>,
    refusals_told: usize,
}

enum Done {
    Added,
    Changed,
    Unchanged,
}

impl Store {
    /// Imports a file as a whole, or what of it can be; on disk when this returns. An `Err` inside is a
    /// sentence about the file.
    pub async fn import(&self, import: Import) -> Result<Result<Imported, String>, StoreError> {
        self.ask(|reply| Command::Import { import: Box::new(import), reply }).await
    }
}

impl Transaction<'_> {
    /// Imports a file. The caller drops the transaction where the outcome is not to be applied; an `Err` inside
    /// is a sentence about the file. `beat` is called now and then while it goes on.
    pub(super) fn import(
        &mut self,
        import: Import,
        policy: &Policy,
        beat: &dyn Fn(),
    ) -> Result<Result<Imported, String>, StoreError> {
        let Import { domain, rows, partial, dry_run, now } = import;
        let free = self.seat_count(policy)?.map_or(0, |count| count.free());
        let refusals_told = if partial || dry_run { MAX_TOLD } else { MAX_TOLD_OF_FAILURE };
        let mut progress = Progress {
            imported: Imported { seats_free: free, ..Imported::default() },
            directory: self.directory(&format!("{IMPORTED}{domain}"))?,
            domain,
            lines: HashMap::new(),
            refusals_told,
        };
        for row in rows {
            let ImportRow { line, content } = match row {
                Ok(row) => row,
                Err(sentence) => return Ok(Err(sentence)),
            };
            progress.imported.rows += 1;
            if progress.imported.rows.is_multiple_of(BEAT_EVERY) {
                beat();
            }
            if progress.imported.rows > MAX_ROWS {
                return Ok(Err(format!("line {line}: the file has more than {MAX_ROWS} rows: split it")));
            }
            match content {
                RowContent::Skipped(reason) => *progress.imported.skipped.entry(reason).or_default() += 1,
                RowContent::Wrong(mistake) => progress.refuse(line, mistake),
                RowContent::Person(person) => {
                    let name = person.address.clone();
                    let done = self.import_person(line, person, &mut progress, policy, now)?;
                    progress.count(line, name, done);
                }
            }
        }
        let mut imported = progress.imported;
        imported.applied = !dry_run && (partial || imported.refused == 0);
        imported.seats_used = self.seats_used()?;
        Ok(Ok(imported))
    }

    fn import_person(
        &mut self,
        line: u64,
        person: ImportedPerson,
        progress: &mut Progress,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Result<Done, Mistake>, StoreError> {
        let address = person.address.clone();
        let refuse = |reason: &'static str, message: String| {
            Ok(Err(Mistake { user: Some(address.to_string()), reason, message }))
        };
        let known = self.imported_user(&person, progress.directory)?;
        let own = known.as_ref().map(|(key, _)| *key);
        if let Some(first) = own.and_then(|key| progress.lines.get(&key)) {
            return refuse("duplicate", format!("the same user is on line {first}"));
        }
        let old = known.as_ref().map(|(_, user)| &user.mapped);
        let mapped = person.into_mapped(old, self.own_id());
        if let Some(taken) = self.taken(mapped.names(), own)? {
            progress.imported.mapped += u64::from(taken.directory.is_some());
            let first = self.owners_of(&taken.name)?.mail.and_then(|key| progress.lines.get(&key));
            let place = first.map(|first| format!(" (line {first})")).unwrap_or_default();
            return refuse("name_taken", format!("{taken}{place}"));
        }
        let mut seat = None;
        if known.is_none() && mapped.enabled {
            let view = self.newcomer_view(false, None, progress.domain.as_str(), policy)?;
            match decide(&view, &request(Operation::Import), now) {
                Decision::Granted(granted) => seat = Some(granted),
                Decision::Exempt => {}
                decision => {
                    progress.imported.seats_needed += 1;
                    return refuse(decision.code(), decision.advice(view.seats));
                }
            }
        }
        if let Some((key, user)) = &known
            && user.mapped.id != mapped.id
        {
            self.change_id(*key, user, &mapped.id)?;
        }
        let upserted = self.upsert(progress.directory, mapped, now)?;
        progress.lines.insert(upserted.key, line);
        let room = MAX_TOLD_OF_FAILURE.saturating_sub(progress.imported.clashes.len());
        progress.imported.clashes.extend(upserted.clashes.into_iter().take(room));
        if let Some(seat) = &seat {
            progress.imported.seats_needed += 1;
            self.grant(upserted.key, seat)?;
        }
        Ok(Ok(match upserted.change {
            Change::Added => Done::Added,
            Change::Unchanged => Done::Unchanged,
            Change::Changed | Change::Returned | Change::Disabled => Done::Changed,
        }))
    }

    /// The user whom a row means: by the id, where the file has one, else by the main address. An id may be
    /// learned for somebody who was imported without one; the same address under another id is somebody else.
    fn imported_user(
        &self,
        person: &ImportedPerson,
        directory: DirectoryId,
    ) -> Result<Option<(UserKey, User)>, StoreError> {
        if let Some(id) = &person.id
            && let Some(key) = self.key_by_id(directory, id)?
        {
            return Ok(self.user(key)?.map(|user| (key, user)));
        }
        // Who claims the address, since another user may own it by now.
        for (key, _) in self.all_claims(&person.address)? {
            let Some(user) = self.user(key)? else { continue };
            let is_theirs = user.directory == directory
                && user.mapped.addresses.first() == Some(&person.address)
                && (person.id.is_none() || user.mapped.id.is_own());
            if is_theirs {
                return Ok(Some((key, user)));
            }
        }
        Ok(None)
    }
}

impl Progress {
    fn count(&mut self, line: u64, name: Name, done: Result<Done, Mistake>) {
        let imported = &mut self.imported;
        let told = match done {
            Ok(Done::Added) => {
                imported.added += 1;
                &mut imported.added_users
            }
            Ok(Done::Changed) => {
                imported.changed += 1;
                &mut imported.changed_users
            }
            Ok(Done::Unchanged) => {
                imported.unchanged += 1;
                return;
            }
            Err(mistake) => return self.refuse(line, mistake),
        };
        if told.len() < MAX_TOLD {
            told.push((line, name));
        }
    }

    fn refuse(&mut self, line: u64, mistake: Mistake) {
        self.imported.refused += 1;
        if self.imported.refusals.len() < self.refusals_told {
            self.imported.refusals.push((line, mistake));
        }
    }
}
