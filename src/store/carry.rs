//! What a person takes along to another entry: seat, components, last login, refusals and history.

use jiff::Timestamp;
use redb::ReadableTable;

use super::names::NameLookup;
use super::relocate::Kinship;
use super::tables::Lookup;
use super::transaction::Transaction;
use super::writer::Command;
use super::{Party, ReadView, Store, StoreError, codec};
use crate::domain::moves::{Belongings, NotMoved, Receiver, may_receive};
use crate::domain::seats::{LedgerEvent, Movement, Seat};
use crate::domain::user::UserKey;

/// One person, carried over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// The old entry, which has nothing any more.
    pub from: Party,
    /// The new one.
    pub to: Party,
    /// A seat came along.
    pub seat: bool,
}

/// Why two users are one person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kin {
    /// An administrator says so.
    Declared,
    /// They have the same stable id, and what the old one holds goes to the new one.
    SameId,
}

fn belongings(tables: &impl Lookup, key: UserKey) -> Result<Belongings, StoreError> {
    let traces = tables.last_login(key)?.is_some() || tables.refusals_of(key)?.is_some();
    Ok(Belongings { seat: tables.seat(key)?.is_some(), traces })
}

fn may_carry(tables: &impl Lookup, from: UserKey, to: UserKey) -> Result<Result<(), NotMoved>, StoreError> {
    if from == to {
        return Ok(Err(NotMoved::Itself));
    }
    let (Some(_), Some(new)) = (tables.user(from)?, tables.user(to)?) else {
        return Ok(Err(NotMoved::Gone));
    };
    let is_configured = tables.is_configured(new.directory);
    let receiver = Receiver { user: &new, is_seated: tables.seat(to)?.is_some(), is_configured };
    Ok(may_receive(belongings(tables, from)?, receiver))
}

impl ReadView {
    /// What a user has that could be carried over.
    pub fn belongings(&self, key: UserKey) -> Result<Belongings, StoreError> {
        belongings(self, key)
    }

    /// Whether everything of one user could be carried over to another.
    pub fn may_carry(&self, from: UserKey, to: UserKey) -> Result<Result<(), NotMoved>, StoreError> {
        may_carry(self, from, to)
    }
}

impl Store {
    /// Carries everything that the first of each pair has over to the second; each pair is whole or refused. Keep it
    /// short: logins wait for its transaction.
    pub async fn carry(
        &self,
        pairs: Vec<(UserKey, UserKey)>,
        kin: Kin,
        now: Timestamp,
    ) -> Result<Vec<Result<Moved, NotMoved>>, StoreError> {
        self.ask(|reply| Command::Carry { pairs, kin, now, reply }).await
    }
}

impl Transaction<'_> {
    /// Carries over pairs of users, each whole or not at all.
    pub(super) fn carry_pairs(
        &mut self,
        pairs: &[(UserKey, UserKey)],
        kin: Kin,
        at: Timestamp,
    ) -> Result<Vec<Result<Moved, NotMoved>>, StoreError> {
        let carried = pairs.iter().map(|(from, to)| match kin {
            // The configuration may be another one since the pair was found.
            Kin::SameId if !self.is_same_person(*from, *to)? => Ok(Err(NotMoved::Changed)),
            _ => self.carry(*from, *to, at),
        });
        carried.collect()
    }

    fn is_same_person(&self, from: UserKey, to: UserKey) -> Result<bool, StoreError> {
        match (self.user(from)?, self.user(to)?) {
            (Some(old), Some(new)) => Ok(old.mapped.id == new.mapped.id && self.goes_to(&old, &new)?),
            _ => Ok(false),
        }
    }

    /// Carries everything of one user over to another. No seat is added, so no limit is asked.
    pub(super) fn carry(
        &mut self,
        from: UserKey,
        to: UserKey,
        at: Timestamp,
    ) -> Result<Result<Moved, NotMoved>, StoreError> {
        if let Err(reason) = may_carry(self, from, to)? {
            return Ok(Err(reason));
        }
        let seat = self.seat(from)?;
        let moved = Moved { from: self.party(from)?, to: self.party(to)?, seat: seat.is_some() };
        self.carry_traces(from, to)?;
        self.carry_history(from, to)?;
        if let Some(seat) = seat {
            self.carry_seat(from, to, &seat, &moved, at)?;
        }
        Ok(Ok(moved))
    }

    fn carry_traces(&mut self, from: UserKey, to: UserKey) -> Result<(), StoreError> {
        let logins = [self.last_login(from)?, self.last_login(to)?];
        if let Some(latest) = logins.into_iter().flatten().max_by_key(|login| login.at) {
            self.last_logins.remove(from.0)?;
            self.last_logins.insert(to.0, codec::encode_last_login(&latest).as_slice())?;
        }
        if let Some(refusals) = self.refusals_of(from)? {
            let joined = refusals.joined(self.refusals_of(to)?);
            self.refusals.remove(from.0)?;
            self.refusals.insert(to.0, codec::encode_refusals(&joined).as_slice())?;
        }
        self.is_dirty = true;
        Ok(())
    }

    /// The lines stay as they are, and are listed under both users.
    fn carry_history(&mut self, from: UserKey, to: UserKey) -> Result<(), StoreError> {
        let lines = self.ledger_by_user.range((from.0, 0)..=(from.0, u64::MAX))?;
        let lines: Vec<u64> = lines.map(|row| Ok(row?.0.value().1)).collect::<Result<_, StoreError>>()?;
        for line in lines {
            self.ledger_by_user.insert((to.0, line), ())?;
        }
        Ok(())
    }

    fn carry_seat(
        &mut self,
        from: UserKey,
        to: UserKey,
        seat: &Seat,
        moved: &Moved,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.seats.remove(from.0)?;
        self.seats.insert(to.0, codec::encode_seat(seat).as_slice())?;
        self.carry_components(from, to)?;
        for (key, is_added) in [(from, false), (to, true)] {
            let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
            self.count_in_domain(&user, is_added)?;
            self.count(user.directory, |census| {
                census.seats = census.seats.saturating_sub(u64::from(!is_added)) + u64::from(is_added);
            });
        }
        let line = self.append_to_ledger(LedgerEvent {
            at,
            user: to,
            name: moved.to.name.clone(),
            what: Movement::Moved { from, name: moved.from.name.clone() },
            used_after: self.seats_used()?,
        })?;
        self.ledger_by_user.insert((from.0, line), ())?;
        self.seatless_changes.seated(to);
        Ok(())
    }
}
