//! What a person takes along to another entry: seat, components, last login, refusals, history and names.

use jiff::Timestamp;
use redb::ReadableTable;

use super::names::NameLookup;
use super::relocate::Kinship;
use super::tables::Lookup;
use super::transaction::Transaction;
use super::writer::Command;
use super::{Clash, Party, ReadView, Released, Store, StoreError, codec};
use crate::domain::moves::{Belongings, NotMoved, Receiver, may_receive};
use crate::domain::names::Withheld;
use crate::domain::seats::{LedgerEvent, Movement, ReleaseReason, Seat};
use crate::domain::user::{User, UserKey};

/// One person, carried over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// The old entry, which has nothing any more.
    pub from: Party,
    /// The new one.
    pub to: Party,
    /// A seat came along.
    pub seat: bool,
    /// The seat of the old entry, where the new one has a seat of its own.
    pub released: Option<Released>,
}

/// Why two users are one person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kin {
    /// An administrator says so.
    Declared,
    /// They have the same stable id, and what the old one holds goes to the new one.
    SameId,
}

/// What a read view and a transaction know of what may be carried over.
trait Carriage: Lookup + Sized {
    /// Whether a user has a seat, a last login or refusals.
    fn has_belongings(&self, key: UserKey) -> Result<bool, StoreError> {
        let has_traces = self.last_login(key)?.is_some() || self.refusals_of(key)?.is_some();
        Ok(has_traces || self.seat(key)?.is_some())
    }

    fn may_carry(&self, from: UserKey, to: UserKey, kin: Kin) -> Result<Result<(), NotMoved>, StoreError> {
        if from == to {
            return Ok(Err(NotMoved::Itself));
        }
        let (Some(old), Some(new)) = (self.user(from)?, self.user(to)?) else {
            return Ok(Err(NotMoved::Gone));
        };
        let belongings = Belongings {
            seat: self.seat(from)?.is_some(),
            others: self.has_belongings(from)? || self.withholds_names(from, to, &new)?,
        };
        let receiver = Receiver {
            user: &new,
            // One person needs one seat; but an administrator who says who they are may be wrong.
            is_seated: self.seat(to)?.is_some()
                && (kin == Kin::Declared || !self.share_a_seat(&old, &new)?),
            is_configured: self.is_configured(new.directory),
        };
        Ok(may_receive(belongings, receiver))
    }

    /// Whether a user has a name that would be the new entry's.
    fn withholds_names(&self, from: UserKey, to: UserKey, new: &User) -> Result<bool, StoreError> {
        for name in new.mapped.names() {
            if let Some(Clash { reason: Withheld::Owned(owner), .. }) = self.clash(name, to)?
                && owner == from
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<T: Lookup> Carriage for T {}

impl ReadView {
    /// Whether a user has a seat, a last login or refusals, which could be carried over.
    pub fn has_belongings(&self, key: UserKey) -> Result<bool, StoreError> {
        Carriage::has_belongings(self, key)
    }

    /// Whether an administrator could have everything of one user carried over to another.
    pub fn may_carry(&self, from: UserKey, to: UserKey) -> Result<Result<(), NotMoved>, StoreError> {
        Carriage::may_carry(self, from, to, Kin::Declared)
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
            _ => self.carry(*from, *to, kin, at),
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
        kin: Kin,
        at: Timestamp,
    ) -> Result<Result<Moved, NotMoved>, StoreError> {
        Ok(match self.may_carry(from, to, kin)? {
            Ok(()) => Ok(self.carry_all(from, to, at)?),
            Err(reason) => Err(reason),
        })
    }

    pub(super) fn carry_all(
        &mut self,
        from: UserKey,
        to: UserKey,
        at: Timestamp,
    ) -> Result<Moved, StoreError> {
        let old = self.party(from)?;
        self.carry_names(from, to)?;
        let mut moved = Moved { from: old, to: self.party(to)?, seat: false, released: None };
        self.carry_traces(from, to)?;
        self.carry_history(from, to)?;
        self.carry_components(from, to)?;
        match (self.seat(from)?, self.seat(to)?) {
            (Some(_), Some(_)) => moved.released = self.release(from, ReleaseReason::SamePerson, at)?,
            (Some(seat), None) => {
                self.carry_seat(from, to, &seat, &moved, at)?;
                moved.seat = true;
            }
            (None, _) => {}
        }
        Ok(moved)
    }

    /// From now on the new entry has every name that both claim.
    fn carry_names(&mut self, from: UserKey, to: UserKey) -> Result<(), StoreError> {
        self.heirs.insert(from.0, to.0)?;
        // So nobody is their own heir, however often they go to and fro.
        let mut others = vec![from];
        if self.heirs.remove(to.0)?.is_some() {
            others.push(to);
        }
        for key in others {
            let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
            self.decide_names(&user)?;
        }
        self.is_dirty = true;
        Ok(())
    }

    /// Who a last login that was noted for this user belongs to: after everything was carried over, the heir.
    pub(super) fn logs_in_for(&self, key: UserKey) -> Result<UserKey, StoreError> {
        let heir = if self.seats.get(key.0)?.is_some() { None } else { self.carried_to(key)? };
        Ok(heir.unwrap_or(key))
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
        for (key, is_added) in [(from, false), (to, true)] {
            let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
            self.count_seat(&user, is_added)?;
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
