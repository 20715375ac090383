//! The lines of the ledger: how they are appended and found, and how old ones are dropped.
//!
//! Only what no count needs is dropped: the lines of a seat that was taken back, from its grant on. Below
//! [`KEPT_FROM`] all such lines are gone, so what is left there are the seats that were open at that line, and the
//! counts of the lines from there on follow from their number, [`SEATS_THERE`].

use std::iter;

use jiff::Timestamp;
use redb::ReadableTable;

use super::tables::{KEPT_FROM, Lookup, SEATS_THERE};
use super::transaction::Transaction;
use super::{ReadView, StoreError, codec};
use crate::domain::name::Name;
use crate::domain::seats::{LedgerEvent, Movement};
use crate::domain::user::UserKey;

type Line = (u64, LedgerEvent);

/// The number of the first line of which nothing was dropped, and the seats taken before it.
pub(super) fn kept_from(meta: &impl ReadableTable<&'static str, u64>) -> Result<(u64, u64), StoreError> {
    let number = |key| Ok::<u64, StoreError>(meta.get(key)?.map_or(0, |number| number.value()));
    Ok((number(KEPT_FROM)?, number(SEATS_THERE)?))
}

/// The names under which a line is found when no user has them any more.
pub(super) fn names_of(event: &LedgerEvent) -> impl Iterator<Item = &Name> {
    let other = match &event.what {
        Movement::Moved { name, .. } => Some(name),
        Movement::Granted(_) | Movement::Released(_) => None,
    };
    iter::once(&event.name).chain(other)
}

impl Transaction<'_> {
    /// Returns the number of the line. None is used twice, though the last ones may have been dropped.
    pub(super) fn append_to_ledger(&mut self, event: LedgerEvent) -> Result<u64, StoreError> {
        let next = self.ledger.last()?.map_or(0, |(line, _)| line.value() + 1);
        let line = next.max(kept_from(&self.meta)?.0);
        self.ledger.insert(line, codec::encode_ledger_event(&event).as_slice())?;
        self.ledger_by_user.insert((event.user.0, line), ())?;
        for name in names_of(&event) {
            self.ledger_by_name.insert((name.as_str(), line), ())?;
        }
        self.is_dirty = true;
        Ok(line)
    }

    /// Lists the lines of a store of an earlier program under their names.
    pub(super) fn list_ledger_by_name(&mut self) -> Result<(), StoreError> {
        for row in self.ledger.iter()? {
            let (line, bytes) = row?;
            for name in names_of(&codec::decode_ledger_event(bytes.value())?) {
                self.ledger_by_name.insert((name.as_str(), line.value()), ())?;
            }
        }
        Ok(())
    }

    /// Drops the lines of seats that were taken back before `cutoff`; looks at no more than `limit` lines. Returns how
    /// many were dropped.
    pub(super) fn trim_ledger(&mut self, cutoff: Timestamp, limit: usize) -> Result<u64, StoreError> {
        let (from, _) = kept_from(&self.meta)?;
        let mut lines: Vec<Line> = Vec::new();
        for row in self.ledger.range(from..)?.take(limit) {
            let (line, bytes) = row?;
            let event = codec::decode_ledger_event(bytes.value())?;
            if event.at >= cutoff {
                break;
            }
            lines.push((line.value(), event));
        }
        let Some((last, event)) = lines.last() else { return Ok(0) };
        let (kept_from, seats) = (last + 1, event.used_after);
        let mut dropped = 0;
        for (line, event) in lines {
            if matches!(event.what, Movement::Released(_)) {
                dropped += self.drop_seat((line, event))?;
            }
        }
        self.meta.insert(KEPT_FROM, kept_from)?;
        self.meta.insert(SEATS_THERE, seats)?;
        self.is_dirty = true;
        Ok(dropped)
    }

    /// Drops a release and what led to it: the grant, and the moves between.
    fn drop_seat(&mut self, released: Line) -> Result<u64, StoreError> {
        let (mut user, mut users, mut lines) = (released.1.user, Vec::new(), vec![released]);
        loop {
            users.push(user);
            let before = lines.last().map_or(0, |(line, _)| *line);
            // Without a grant something is wrong, which `verify` must find.
            let Some(line) = self.line_before(user, before)? else { return Ok(0) };
            let what = line.1.what.clone();
            lines.push(line);
            match what {
                Movement::Granted(_) => break,
                Movement::Moved { from, .. } => user = from,
                Movement::Released(_) => return Ok(0),
            }
        }
        for (line, event) in &lines {
            self.ledger.remove(line)?;
            // Lines are listed under the users, too, to whom they were carried over.
            for user in &users {
                self.ledger_by_user.remove((user.0, *line))?;
            }
            for name in names_of(event) {
                self.ledger_by_name.remove((name.as_str(), *line))?;
            }
        }
        Ok(lines.len() as u64)
    }

    /// The latest line before another by which a user got or lost a seat.
    fn line_before(&self, user: UserKey, before: u64) -> Result<Option<Line>, StoreError> {
        for row in self.ledger_by_user.range((user.0, 0)..(user.0, before))?.rev() {
            let line = row?.0.value().1;
            let Some(bytes) = self.ledger.get(line)? else { continue };
            let event = codec::decode_ledger_event(bytes.value())?;
            if event.user == user {
                return Ok(Some((line, event)));
            }
        }
        Ok(None)
    }

    /// Forgets those of these refusals whose latest was before `cutoff`.
    pub(super) fn forget_refusals(
        &mut self,
        users: &[UserKey],
        strangers: &[Name],
        cutoff: Timestamp,
    ) -> Result<(), StoreError> {
        for key in users {
            if self.refusals_of(*key)?.is_some_and(|refusals| refusals.last < cutoff) {
                self.refusals.remove(key.0)?;
                self.is_dirty = true;
            }
        }
        for name in strangers {
            let known = self.strangers.get(name.as_str())?;
            let known = known.map(|bytes| codec::decode_refusals(bytes.value())).transpose()?;
            if known.is_some_and(|refusals| refusals.last < cutoff) {
                self.strangers.remove(name.as_str())?;
                self.is_dirty = true;
            }
        }
        Ok(())
    }
}

impl ReadView {
    /// Ledger lines, the newest first, of one user or of all.
    pub fn history(
        &self,
        user: Option<UserKey>,
    ) -> Result<Box<dyn Iterator<Item = Result<LedgerEvent, StoreError>> + '_>, StoreError> {
        Ok(match user {
            None => Box::new(self.ledger.iter()?.rev().map(|row| codec::decode_ledger_event(row?.1.value()))),
            Some(UserKey(key)) => {
                let rows = self.ledger_by_user.range((key, 0)..=(key, u64::MAX))?.rev();
                Box::new(self.lines(rows.map(|row| Ok(row?.0.value().1))))
            }
        })
    }

    /// Ledger lines about a name, the newest first, whoever had it then.
    pub fn history_of_name<'a>(
        &'a self,
        name: &'a Name,
    ) -> Result<impl Iterator<Item = Result<LedgerEvent, StoreError>> + 'a, StoreError> {
        let rows = self.ledger_by_name.range((name.as_str(), 0)..=(name.as_str(), u64::MAX))?.rev();
        Ok(self.lines(rows.map(|row| Ok(row?.0.value().1))))
    }

    /// The lines with these numbers, without those that were dropped.
    fn lines(
        &self,
        numbers: impl Iterator<Item = Result<u64, StoreError>>,
    ) -> impl Iterator<Item = Result<LedgerEvent, StoreError>> {
        let line = |number: Result<u64, StoreError>| {
            let found = self.ledger.get(number?)?;
            found.map(|bytes| codec::decode_ledger_event(bytes.value())).transpose()
        };
        numbers.filter_map(move |number| line(number).transpose())
    }

    /// Whether [`super::Store::trim_ledger`] has lines to look at.
    pub fn has_untrimmed(&self, cutoff: Timestamp) -> Result<bool, StoreError> {
        let (from, _) = kept_from(&self.meta)?;
        let Some(row) = self.ledger.range(from..)?.next() else { return Ok(false) };
        Ok(codec::decode_ledger_event(row?.1.value())?.at < cutoff)
    }

    /// Users and names whose latest refusal was before `cutoff`, at most `limit` of each. Reads all refusals.
    pub fn old_refusals(
        &self,
        cutoff: Timestamp,
        limit: usize,
    ) -> Result<(Vec<UserKey>, Vec<Name>), StoreError> {
        let (mut users, mut names) = (Vec::new(), Vec::new());
        for row in self.refused_users()? {
            let (key, refusals) = row?;
            if refusals.last < cutoff && users.len() < limit {
                users.push(key);
            }
        }
        for row in self.strangers()? {
            let (name, refusals) = row?;
            if refusals.last < cutoff && names.len() < limit {
                names.push(name);
            }
        }
        Ok((users, names))
    }
}
