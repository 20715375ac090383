//! The changes, each inside one write transaction. Nothing here commits: the writer does.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::brake::gives_up_seat;
use super::codec;
use super::directories::Directories;
use super::license::{COMPONENT_COUNTS, COMPONENT_SEATS, LICENSE};
use super::seatless::SeatlessChanges;
use super::tables::{
    BRAKES, CLAIMS, COOKIES, DIRECTORIES, DOMAIN_SEATS, HEIRS, IDS, LAST_LOGINS, LEDGER, LEDGER_BY_NAME,
    LEDGER_BY_USER, Lookup, MAX_STRANGERS, META, NAMES, NEXT_DIRECTORY, NEXT_USER, PASSWORDS, REFUSALS,
    SEATLESS, SEATS, SETTINGS, STOPPED, STRANGERS, TOMBSTONES, USERS, look_up_in_fields, names_from_key,
};
use super::{
    Admitted, Applied, Changes, Checkpoint, DirectoryRecord, Entombed, Forgotten, Policy, Released,
    StoreError, Upserted,
};
use crate::domain::admission::{ComponentView, Decision, Request, decide};
use crate::domain::brake::{Counts, Toll, toll};
use crate::domain::clock::STEP;
use crate::domain::name::{Name, StableId};
use crate::domain::names::NameRules;
use crate::domain::password::PasswordHash;
use crate::domain::seats::{LastLogin, LedgerEvent, Movement, Refusals, ReleaseReason, Seat};
use crate::domain::sync::{Change, compare};
use crate::domain::user::{Census, DirectoryId, Kind, Mapped, User, UserKey};

/// All tables, open for writing.
pub(super) struct Transaction<'t> {
    pub(super) meta: Table<'t, &'static str, u64>,
    pub(super) directory_records: Table<'t, &'static str, &'static [u8]>,
    pub(super) users: Table<'t, u64, &'static [u8]>,
    pub(super) ids: Table<'t, (u32, &'static [u8]), u64>,
    pub(super) names: Table<'t, &'static str, &'static [u8]>,
    pub(super) claims: Table<'t, (&'static str, u64), &'static [u8]>,
    pub(super) heirs: Table<'t, u64, u64>,
    pub(super) settings: Table<'t, &'static str, &'static [u8]>,
    pub(super) rules: Arc<NameRules>,
    pub(super) seats: Table<'t, u64, &'static [u8]>,
    pub(super) domain_seats: Table<'t, &'static str, u64>,
    pub(super) seatless: Table<'t, u64, ()>,
    pub(super) last_logins: Table<'t, u64, &'static [u8]>,
    pub(super) refusals: Table<'t, u64, &'static [u8]>,
    passwords: Table<'t, u64, &'static str>,
    pub(super) strangers: Table<'t, &'static str, &'static [u8]>,
    pub(super) ledger: Table<'t, u64, &'static [u8]>,
    pub(super) ledger_by_user: Table<'t, (u64, u64), ()>,
    pub(super) ledger_by_name: Table<'t, (&'static str, u64), ()>,
    pub(super) tombstones: Table<'t, (i64, u64), ()>,
    pub(super) cookies: Table<'t, u32, &'static [u8]>,
    pub(super) brakes: Table<'t, &'static str, &'static [u8]>,
    pub(super) license: Table<'t, &'static str, &'static [u8]>,
    pub(super) component_seats: Table<'t, (u64, &'static str), i64>,
    pub(super) component_counts: Table<'t, &'static str, u64>,
    pub(super) directories: Directories,
    pub(super) changed_directories: BTreeSet<DirectoryId>,
    /// The directories of mapped users, where they were asked for.
    pub(super) mapped: OnceCell<Vec<DirectoryId>>,
    pub(super) seatless_changes: SeatlessChanges,
    /// The key of the next new user; written by [`Transaction::finish`].
    next_user: u64,
    pub(super) is_dirty: bool,
    /// Nothing is left to be written.
    pub(super) is_stop: bool,
}

impl<'t> Transaction<'t> {
    /// `directories` are the records, and `rules` those that the tables follow from, as the last commit left them.
    pub(super) fn open(
        txn: &'t WriteTransaction,
        directories: Directories,
        rules: Arc<NameRules>,
    ) -> Result<Transaction<'t>, StoreError> {
        let meta = txn.open_table(META)?;
        Ok(Transaction {
            next_user: next_user(&meta)?,
            meta,
            directory_records: txn.open_table(DIRECTORIES)?,
            users: txn.open_table(USERS)?,
            ids: txn.open_table(IDS)?,
            names: txn.open_table(NAMES)?,
            claims: txn.open_table(CLAIMS)?,
            heirs: txn.open_table(HEIRS)?,
            settings: txn.open_table(SETTINGS)?,
            rules,
            seats: txn.open_table(SEATS)?,
            domain_seats: txn.open_table(DOMAIN_SEATS)?,
            seatless: txn.open_table(SEATLESS)?,
            last_logins: txn.open_table(LAST_LOGINS)?,
            refusals: txn.open_table(REFUSALS)?,
            passwords: txn.open_table(PASSWORDS)?,
            strangers: txn.open_table(STRANGERS)?,
            ledger: txn.open_table(LEDGER)?,
            ledger_by_user: txn.open_table(LEDGER_BY_USER)?,
            ledger_by_name: txn.open_table(LEDGER_BY_NAME)?,
            tombstones: txn.open_table(TOMBSTONES)?,
            cookies: txn.open_table(COOKIES)?,
            brakes: txn.open_table(BRAKES)?,
            license: txn.open_table(LICENSE)?,
            component_seats: txn.open_table(COMPONENT_SEATS)?,
            component_counts: txn.open_table(COMPONENT_COUNTS)?,
            directories,
            changed_directories: BTreeSet::new(),
            mapped: OnceCell::new(),
            seatless_changes: SeatlessChanges::default(),
            is_dirty: false,
            is_stop: false,
        })
    }

    /// Writes what was held back. Returns what is kept decoded as it is after the commit, or `None` where there is
    /// nothing to commit.
    pub(super) fn finish(mut self) -> Result<Option<(Directories, Arc<NameRules>)>, StoreError> {
        for id in &self.changed_directories {
            if let Some(record) = self.directories.get(id) {
                let bytes = codec::encode_directory(record);
                self.directory_records.insert(record.name.as_str(), bytes.as_slice())?;
            }
        }
        if self.next_user != next_user(&self.meta)? {
            self.meta.insert(NEXT_USER, self.next_user)?;
        }
        if self.is_stop {
            self.meta.insert(STOPPED, 1)?;
        } else if self.is_dirty && self.meta.get(STOPPED)?.is_some() {
            self.meta.remove(STOPPED)?;
        }
        Ok(self.is_dirty.then_some((self.directories, self.rules)))
    }

    /// Decides with what is true in this transaction, and takes the seat if that is the decision.
    pub(super) fn admit(
        &mut self,
        name: &Name,
        request: &Request,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Admitted, StoreError> {
        let service = request.service.as_ref();
        let (key, view) = self.admission_view(name, request.operation.purpose(), service, policy)?;
        let decision = decide(&view, request, now);
        if let (Decision::Granted(seat), Some(key)) = (&decision, key) {
            self.grant(key, seat)?;
        }
        if let (Decision::Granted(_) | Decision::GrantedComponent, Some(key)) = (&decision, key)
            && let ComponentView::Counted { held: false, .. } = view.component
            && let Some((component, _)) = policy.components.needed_by(service)
        {
            self.grant_component(key, component, now)?;
        }
        if let (Decision::Granted(_), Some(key)) = (&decision, key) {
            self.pass_on(key, now)?;
        }
        Ok(Admitted { key, decision, seats_used: self.seats_used()? })
    }

    pub(super) fn grant(&mut self, key: UserKey, seat: &Seat) -> Result<(), StoreError> {
        let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
        self.seats.insert(key.0, codec::encode_seat(seat).as_slice())?;
        self.count_seat(&user, true)?;
        let name = self.shown_name(key, &user)?;
        self.append_to_ledger(LedgerEvent {
            at: seat.granted_at,
            user: key,
            name,
            what: Movement::Granted(seat.by.clone()),
            used_after: self.seats_used()?,
        })?;
        Ok(())
    }

    /// Takes a seat back; `None` when the user holds none.
    pub(super) fn release(
        &mut self,
        key: UserKey,
        reason: ReleaseReason,
        at: Timestamp,
    ) -> Result<Option<Released>, StoreError> {
        let Some(user) = self.user(key)? else { return Ok(None) };
        if self.seats.remove(key.0)?.is_none() {
            return Ok(None);
        }
        self.release_components(key)?;
        self.count_seat(&user, false)?;
        let name = self.shown_name(key, &user)?;
        let seats_used = self.seats_used()?;
        self.append_to_ledger(LedgerEvent {
            at,
            user: key,
            name: name.clone(),
            what: Movement::Released(reason),
            used_after: seats_used,
        })?;
        Ok(Some(Released { name, reason, seats_used }))
    }

    /// Counts the seat of a user in or out, in the directory and in the mail domain.
    pub(super) fn count_seat(&mut self, user: &User, is_added: bool) -> Result<(), StoreError> {
        self.count(user.directory, |census| census.count_seat(is_added));
        self.count_in_domain(user, is_added)
    }

    pub(super) fn count(&mut self, directory: DirectoryId, change: impl FnOnce(&mut Census)) {
        if self.directories.change(directory, |record| change(&mut record.census)) {
            self.changed_directories.insert(directory);
            self.is_dirty = true;
        }
    }

    /// The number of a directory; a new name gets a new one.
    pub(super) fn directory(&mut self, name: &str) -> Result<DirectoryId, StoreError> {
        if let Some(record) = self.directories.named(name) {
            return Ok(record.id);
        }
        let number = self.meta.get(NEXT_DIRECTORY)?.map_or(1, |number| number.value());
        self.meta.insert(NEXT_DIRECTORY, number + 1)?;
        self.is_dirty = true;
        let id = DirectoryId(u32::try_from(number).map_err(|_| StoreError::Corrupt("meta"))?);
        self.directories.insert(DirectoryRecord::new(id, name));
        self.changed_directories.insert(id);
        self.mapped.take();
        Ok(id)
    }

    /// An id for the next new user, where no directory gives one.
    pub(super) fn own_id(&self) -> StableId {
        StableId::own(self.next_user)
    }

    /// Makes a user known by another id, who is then written under it.
    pub(super) fn change_id(&mut self, key: UserKey, user: &User, id: &StableId) -> Result<(), StoreError> {
        self.ids.remove((user.directory.0, user.mapped.id.as_bytes()))?;
        self.ids.insert((user.directory.0, id.as_bytes()), key.0)?;
        self.is_dirty = true;
        Ok(())
    }

    fn new_key(&mut self, directory: DirectoryId, id: &StableId) -> Result<UserKey, StoreError> {
        let key = UserKey(self.next_user);
        self.next_user += 1;
        self.ids.insert((directory.0, id.as_bytes()), key.0)?;
        self.is_dirty = true;
        Ok(key)
    }

    /// Writes what a directory says of one entry. Whoever is no longer an enabled person loses the seat.
    pub(super) fn upsert(
        &mut self,
        directory: DirectoryId,
        mapped: Mapped,
        at: Timestamp,
    ) -> Result<Upserted, StoreError> {
        let known = self.key_by_id(directory, &mapped.id)?;
        let old = known.map(|key| self.user(key)).transpose()?.flatten();
        // Nothing changes between the entries of one person while this one may hold the seat.
        let others = match old.as_ref().is_some_and(User::needs_seat) {
            true => Vec::new(),
            false => self.other_entries(directory, &mapped.id)?,
        };
        let (key, old, moved_from) = match known {
            Some(key) => (key, old, None),
            None => match self.relocate(directory, &others)? {
                Some((key, from)) => (key, self.user(key)?, Some((from, self.seat(key)?.is_some()))),
                None => (self.new_key(directory, &mapped.id)?, None, None),
            },
        };
        let change = compare(old.as_ref(), &mapped);
        let was_person = old.as_ref().is_some_and(|old| old.mapped.kind == Kind::Person);
        let is_person = was_person || mapped.kind == Kind::Person;
        if change == Change::Unchanged {
            let name = Name::from_stored(mapped.primary());
            let (toll, released, clashes, moved) = (None, None, Vec::new(), Vec::new());
            return Ok(Upserted { key, name, change, toll, is_person, moved_from, moved, released, clashes });
        }
        let toll = match &old {
            Some(old) => toll(old, &mapped, gives_up_seat(self, key, old, &mapped)?, at),
            None => None,
        };
        let since = old.as_ref().map_or(at, |old| old.since);
        let disabled_at = disabled_at(old.as_ref(), &mapped, at);
        let user = User { directory, mapped, since, removed_at: None, disabled_at };
        if let Some(removed_at) = old.as_ref().and_then(|old| old.removed_at) {
            self.tombstones.remove((removed_at.as_millisecond(), key.0))?;
        }
        self.users.insert(key.0, codec::encode_user(&user).as_slice())?;
        self.note_seatless(key, old.as_ref(), Some(&user))?;
        self.move_in_domains(key, old.as_ref(), &user)?;
        self.count(directory, |census| {
            if let Some(old) = &old {
                census.count(old, false);
            }
            census.count(&user, true);
        });
        let clashes = self.update_claims(key, old.as_ref(), &user, change == Change::Returned, at)?;
        let mut moved = self.gather(key, &user, &others, at)?;
        if !user.is_active() && old.as_ref().is_some_and(User::is_active) {
            moved.extend(self.pass_to_kin(key, &user, at)?);
        }
        // A new user holds no seat, and has every name that nobody had first.
        let (released, name) = match change {
            Change::Added if clashes.is_empty() => (None, Name::from_stored(user.mapped.primary())),
            _ => (self.release_inactive(key, &user.mapped, at)?, self.shown_name(key, &user)?),
        };
        Ok(Upserted { key, name, change, toll, is_person, moved_from, moved, released, clashes })
    }

    /// Takes the seat back from somebody who is no enabled person any more.
    fn release_inactive(
        &mut self,
        key: UserKey,
        mapped: &Mapped,
        at: Timestamp,
    ) -> Result<Option<Released>, StoreError> {
        let reason = match mapped.kind {
            Kind::Person if mapped.enabled => return Ok(None),
            Kind::Person => ReleaseReason::Disabled,
            _ => ReleaseReason::NotAPerson,
        };
        self.release(key, reason, at)
    }

    /// Makes a tombstone. The seat stays until [`Transaction::purge`].
    ///
    /// `None` where there is no living user.
    pub(super) fn entomb(&mut self, key: UserKey, at: Timestamp) -> Result<Option<Entombed>, StoreError> {
        let Some(old) = self.user(key)?.filter(User::is_living) else { return Ok(None) };
        let shown = self.shown_name(key, &old)?;
        let tombstone = User { removed_at: Some(at), ..old.clone() };
        self.users.insert(key.0, codec::encode_user(&tombstone).as_slice())?;
        self.note_seatless(key, Some(&old), Some(&tombstone))?;
        self.tombstones.insert((at.as_millisecond(), key.0), ())?;
        self.count(old.directory, |census| {
            census.count(&old, false);
            census.count(&tombstone, true);
        });
        self.entomb_claims(key, &tombstone, at)?;
        let moved = self.bequeath(key, &tombstone, at)?;
        let keeps_seat = self.seat(key)?.is_some();
        Ok(Some(Entombed { name: shown, kind: old.mapped.kind, keeps_seat, moved }))
    }

    /// Forgets up to `limit` tombstones made at or before `cutoff`, their seats released first.
    pub(super) fn purge(
        &mut self,
        cutoff: Timestamp,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Released>, StoreError> {
        let expired: Vec<(i64, u64)> = self
            .tombstones
            .range(..=(cutoff.as_millisecond(), u64::MAX))?
            .take(limit)
            .map(|row| row.map(|row| row.0.value()))
            .collect::<Result<_, _>>()?;
        let mut released = Vec::new();
        for (removed_at, key) in expired {
            released.extend(self.forget_tombstone(UserKey(key), removed_at, now)?);
        }
        Ok(released)
    }

    /// Forgets one tombstone before its grace period is over; `None` where the user lives.
    pub(super) fn forget_removed(
        &mut self,
        key: UserKey,
        now: Timestamp,
    ) -> Result<Option<Forgotten>, StoreError> {
        let Some(user) = self.user(key)? else { return Ok(None) };
        let Some(removed_at) = user.removed_at else { return Ok(None) };
        let name = self.shown_name(key, &user)?;
        let released = self.forget_tombstone(key, removed_at.as_millisecond(), now)?;
        Ok(Some(Forgotten { name, released, seats_used: self.seats_used()? }))
    }

    /// Forgets a user who was removed at this millisecond; the seat is released first.
    fn forget_tombstone(
        &mut self,
        key: UserKey,
        removed_at: i64,
        now: Timestamp,
    ) -> Result<Option<Released>, StoreError> {
        let released = self.release(key, ReleaseReason::Removed, now)?;
        self.forget(key)?;
        self.tombstones.remove((removed_at, key.0))?;
        Ok(released)
    }

    pub(super) fn forget(&mut self, key: UserKey) -> Result<(), StoreError> {
        let Some(user) = self.user(key)? else { return Ok(()) };
        self.drop_claims(key, &user)?;
        self.note_seatless(key, Some(&user), None)?;
        self.count(user.directory, |census| census.count(&user, false));
        self.ids.remove((user.directory.0, user.mapped.id.as_bytes()))?;
        self.users.remove(key.0)?;
        self.last_logins.remove(key.0)?;
        self.refusals.remove(key.0)?;
        self.passwords.remove(key.0)?;
        self.heirs.remove(key.0)?;
        Ok(())
    }

    /// Keeps the hash of an account's password in place of the one before.
    pub(super) fn set_password(&mut self, key: UserKey, hash: &PasswordHash) -> Result<(), StoreError> {
        self.passwords.insert(key.0, hash.as_str())?;
        self.is_dirty = true;
        Ok(())
    }

    /// Writes a bounded part of a sync, its checkpoint with it.
    pub(super) fn apply(
        &mut self,
        directory: DirectoryId,
        changes: Changes,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        let mut applied = Applied::default();
        for mapped in changes.upserts {
            applied.upserted.push(self.upsert(directory, mapped, now)?);
        }
        for key in changes.removals {
            applied.entombed.extend(self.entomb(key, now)?);
        }
        for upserted in &mut applied.upserted {
            upserted.toll = upserted.toll.filter(|toll| !changes.remapped.excuses(*toll));
        }
        self.count_losses(directory, &mut applied, changes.approved, now);
        if let Some(checkpoint) = changes.checkpoint {
            self.checkpoint(directory, &checkpoint, now)?;
        }
        Ok(applied)
    }

    /// In the transaction that takes away, so that a restart forgets nothing of the hour.
    fn count_losses(
        &mut self,
        directory: DirectoryId,
        applied: &mut Applied,
        approved: Counts,
        now: Timestamp,
    ) {
        let removed = applied.entombed.iter().filter(|entombed| entombed.kind == Kind::Person).count() as u64;
        applied.happened.lost = removed;
        for upserted in &applied.upserted {
            match upserted.toll {
                Some(Toll::Disabled | Toll::Seatless | Toll::Names) => applied.happened.lost += 1,
                Some(Toll::Enabled) => applied.happened.enabled += 1,
                None => {}
            }
        }
        let counted = applied.happened.less(approved);
        let Some(record) = self.directories.get(&directory) else { return };
        if counted != Counts::default() || record.hour.is_ahead(now) {
            self.directories.change(directory, |record| {
                record.hour.clip(now);
                record.hour.add(now, counted, record.census.people + removed);
            });
            self.changed_directories.insert(directory);
            self.is_dirty = true;
        }
    }

    fn checkpoint(
        &mut self,
        directory: DirectoryId,
        checkpoint: &Checkpoint,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        match &checkpoint.cookie {
            Some(cookie) => {
                self.cookies.insert(directory.0, codec::encode_cookie(cookie).as_slice())?;
            }
            None => {
                self.cookies.remove(directory.0)?;
            }
        }
        if let Some(basis) = &checkpoint.basis {
            self.settings.insert(names_from_key(directory).as_str(), basis.as_bytes())?;
        }
        let is_known = self.directories.change(directory, |record| {
            record.last_success = Some(now);
            if let Some(skipped) = &checkpoint.skipped {
                record.generation += 1;
                record.left_out = checkpoint.left_out;
                record.skipped = skipped.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect();
            }
        });
        if is_known {
            self.changed_directories.insert(directory);
        }
        self.is_dirty = true;
        Ok(())
    }

    /// Writes coalesced last logins and refusals of users who still exist, and refusals of unknown names. A last
    /// login is never replaced by an earlier one.
    pub(super) fn record_activity(
        &mut self,
        logins: &[(UserKey, LastLogin)],
        refusals: &[(UserKey, Refusals)],
        strangers: &[(Name, Refusals)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for (key, login) in logins {
            let key = self.logs_in_for(*key)?;
            // One far in the future is from a clock that was wrong, and was set right by an administrator.
            let is_later = |old: LastLogin| login.at >= old.at || old.at.duration_since(now) > STEP;
            if self.users.get(key.0)?.is_some() && self.last_login(key)?.is_none_or(is_later) {
                self.last_logins.insert(key.0, codec::encode_last_login(login).as_slice())?;
                self.is_dirty = true;
            }
        }
        for (key, new) in refusals {
            if self.users.get(key.0)?.is_none() {
                continue;
            }
            let sum = new.clone().after(self.refusals_of(*key)?);
            self.refusals.insert(key.0, codec::encode_refusals(&sum).as_slice())?;
            self.is_dirty = true;
        }
        for (name, new) in strangers {
            let old = self.strangers.get(name.as_str())?;
            let old = old.map(|bytes| codec::decode_refusals(bytes.value())).transpose()?;
            let sum = new.clone().after(old);
            self.strangers.insert(name.as_str(), codec::encode_refusals(&sum).as_slice())?;
            self.is_dirty = true;
        }
        self.forget_strangers()
    }

    /// Forgets those who were not seen for longest, where there are too many.
    fn forget_strangers(&mut self) -> Result<(), StoreError> {
        let excess = self.strangers.len()?.saturating_sub(MAX_STRANGERS) as usize;
        if excess == 0 {
            return Ok(());
        }
        let mut known = Vec::new();
        for row in self.strangers.iter()? {
            let (name, bytes) = row?;
            known.push((codec::decode_refusals(bytes.value())?.last, name.value().to_owned()));
        }
        known.sort_unstable();
        for (_, name) in known.iter().take(excess) {
            self.strangers.remove(name.as_str())?;
        }
        Ok(())
    }

    /// Keeps a number that belongs to the store as a whole; true when it was another one.
    pub(super) fn note(&mut self, what: &'static str, number: u64) -> Result<bool, StoreError> {
        let before = self.meta.get(what)?.map_or(0, |before| before.value());
        if before != number {
            self.meta.insert(what, number)?;
            self.is_dirty = true;
        }
        Ok(before != number)
    }
}

/// When a person was disabled: kept for as long as they stay so.
fn disabled_at(old: Option<&User>, new: &Mapped, at: Timestamp) -> Option<Timestamp> {
    if new.kind != Kind::Person || new.enabled {
        return None;
    }
    old.and_then(|old| if old.mapped.is_active() { Some(at) } else { old.disabled_at })
}

fn next_user(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, StoreError> {
    Ok(meta.get(NEXT_USER)?.map_or(1, |number| number.value()))
}

look_up_in_fields!(Transaction<'_>);
