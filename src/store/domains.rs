//! Seats by mail domain: a user counts in the domain of the main address, an account in its own.

use std::collections::BTreeMap;

use redb::ReadableTable;

use super::names::home;
use super::tables::Lookup;
use super::transaction::Transaction;
use super::{Policy, StoreError};
use crate::domain::names::mail_domain;
use crate::domain::seats::SeatCount;
use crate::domain::user::{User, UserKey};

impl Transaction<'_> {
    /// Counts a seat of a user in, or out.
    pub(super) fn count_in_domain(&mut self, user: &User, is_added: bool) -> Result<(), StoreError> {
        let domain = self.domain_of(user)?;
        let seats = self.domain_seats.get(domain.as_str())?.map_or(0, |seats| seats.value());
        match if is_added { seats + 1 } else { seats.saturating_sub(1) } {
            0 => drop(self.domain_seats.remove(domain.as_str())?),
            seats => drop(self.domain_seats.insert(domain.as_str(), seats)?),
        }
        Ok(())
    }

    /// Counts a holder where they belong now, past any cap.
    pub(super) fn move_in_domains(
        &mut self,
        key: UserKey,
        old: Option<&User>,
        new: &User,
    ) -> Result<(), StoreError> {
        let Some(old) = old else { return Ok(()) };
        if self.domain_of(old)? != self.domain_of(new)? && self.seat(key)?.is_some() {
            self.count_in_domain(old, false)?;
            self.count_in_domain(new, true)?;
        }
        Ok(())
    }

    /// Counts everything anew, by other rules.
    pub(super) fn recount_domains(&mut self) -> Result<(), StoreError> {
        let counted = counted(self)?;
        self.domain_seats.retain(|_, _| false)?;
        for (domain, seats) in counted {
            self.domain_seats.insert(domain.as_str(), seats)?;
        }
        self.is_dirty = true;
        Ok(())
    }
}

/// The seats of each domain, as the holders say.
pub(super) fn counted(tables: &impl Lookup) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut counted = BTreeMap::new();
    for row in tables.seats().iter()? {
        let key = UserKey(row?.0.value());
        if let Some(user) = tables.user(key)? {
            *counted.entry(tables.domain_of(&user)?).or_default() += 1;
        }
    }
    Ok(counted)
}

/// What a read view and a transaction know of domains.
pub(super) trait DomainLookup: Lookup {
    /// The domain in which a user counts.
    fn domain_of(&self, user: &User) -> Result<String, StoreError> {
        let record = self.directories().get(&user.directory).ok_or(StoreError::Corrupt("directories"))?;
        Ok(mail_domain(&user.mapped, &home(record), self.rules()).to_owned())
    }

    /// The seats of a domain that has a cap.
    fn domain_cap(&self, domain: &str, policy: &Policy) -> Result<Option<SeatCount>, StoreError> {
        let Some(limit) = policy.domain_limits.get(domain).copied() else { return Ok(None) };
        let used = self.domain_seats().get(domain)?.map_or(0, |seats| seats.value());
        Ok(Some(SeatCount { used, limit }))
    }

    /// The seats of the domain in which a user counts, where it has a cap.
    fn domain_cap_of(&self, key: UserKey, policy: &Policy) -> Result<Option<SeatCount>, StoreError> {
        if policy.domain_limits.is_empty() {
            return Ok(None);
        }
        let Some(user) = self.user(key)? else { return Ok(None) };
        self.domain_cap(&self.domain_of(&user)?, policy)
    }
}

impl<T: Lookup> DomainLookup for T {}
