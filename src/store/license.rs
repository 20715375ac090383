//! What the store keeps of the licence, and the seats of components.

use std::collections::BTreeMap;

use jiff::Timestamp;
use redb::{ReadTransaction, ReadableTable, TableDefinition};

use super::codec::{Decoder, Encoder};
use super::tables::Lookup;
use super::transaction::Transaction;
use super::{Policy, ReadView, StoreError};
use crate::domain::admission::ComponentView;
use crate::domain::license::{ComponentName, ComponentStanding};
use crate::domain::seats::{SeatCount, Service};
use crate::domain::user::UserKey;

/// Two rows: [`RECORD`], and [`COMING`] where there is one.
pub(super) const LICENSE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("license");
const RECORD: &str = "license";
const COMING: &str = "coming";

/// User key and component: since when (milliseconds) the user holds one of the component's seats.
pub(super) const COMPONENT_SEATS: TableDefinition<'static, (u64, &str), i64> =
    TableDefinition::new("component_seats");
/// Component to the number of its seats that are held, so that a decision need not count them.
pub(super) const COMPONENT_COUNTS: TableDefinition<'static, &str, u64> =
    TableDefinition::new("component_counts");

/// All that outlives a restart of the licence. The token in it was verified when it was put there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LicenseRecord {
    /// This installation's id; made once. Empty until then.
    pub installation: String,
    /// The signed licence in force.
    pub token: Option<String>,
    /// When it was installed.
    pub installed_at: Option<Timestamp>,
    /// The highest serial installed of each licence id.
    pub serials: BTreeMap<String, u64>,
    /// The serial and state that the log was last told.
    pub told: Option<(u64, String)>,
    /// A signed licence that takes effect later, and replaces the one in force then.
    pub coming: Option<String>,
    /// The highest time that was seen by a program that kept no time of its own.
    pub time_seen: Option<Timestamp>,
    /// How the licence server last answered.
    pub refresh: Option<RefreshRecord>,
}

/// How the licence server last answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefreshRecord {
    /// When it was asked.
    pub at: Timestamp,
    /// The tag of the licence that it gave (RFC 9110 section 8.8.3).
    pub etag: Option<String>,
    /// Failures in a row.
    pub failures: u64,
    /// The outcome's word: `updated`, `unchanged`, `unreachable`, `refused`.
    pub outcome: String,
    /// What went wrong, as a sentence.
    pub error: Option<String>,
}

fn encode(record: &LicenseRecord) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.text(&record.installation);
    encoder.option(record.token.as_deref(), Encoder::text);
    encoder.option(record.installed_at, Encoder::time);
    encoder.number(record.serials.len() as u64);
    for (id, serial) in &record.serials {
        encoder.text(id);
        encoder.number(*serial);
    }
    encoder.option(record.told.as_ref(), |encoder, (serial, state)| {
        encoder.number(*serial);
        encoder.text(state);
    });
    encoder.option(record.time_seen, Encoder::time);
    encoder.option(record.refresh.as_ref(), |encoder, refresh| {
        encoder.time(refresh.at);
        encoder.option(refresh.etag.as_deref(), Encoder::text);
        encoder.number(refresh.failures);
        encoder.text(&refresh.outcome);
        encoder.option(refresh.error.as_deref(), Encoder::text);
    });
    encoder.into_bytes()
}

fn decode(bytes: &[u8]) -> Result<LicenseRecord, StoreError> {
    fn text(decoder: &mut Decoder<'_>) -> Result<String, StoreError> {
        decoder.text().map(str::to_owned)
    }
    let mut decoder = Decoder::new(bytes, "license")?;
    let mut record = LicenseRecord {
        installation: text(&mut decoder)?,
        token: decoder.option(text)?,
        installed_at: decoder.option(Decoder::time)?,
        ..LicenseRecord::default()
    };
    for _ in 0..decoder.number()? {
        let id = text(&mut decoder)?;
        record.serials.insert(id, decoder.number()?);
    }
    record.told = decoder.option(|decoder| Ok((decoder.number()?, text(decoder)?)))?;
    record.time_seen = decoder.option(Decoder::time)?;
    record.refresh = decoder.option(|decoder| {
        Ok(RefreshRecord {
            at: decoder.time()?,
            etag: decoder.option(text)?,
            failures: decoder.number()?,
            outcome: text(decoder)?,
            error: decoder.option(text)?,
        })
    })?;
    Ok(record)
}

/// The time that the record of an earlier program has.
pub(super) fn time_seen(txn: &ReadTransaction) -> Result<Option<Timestamp>, StoreError> {
    let record = txn.open_table(LICENSE)?.get(RECORD)?.map(|bytes| decode(bytes.value())).transpose()?;
    Ok(record.and_then(|record: LicenseRecord| record.time_seen))
}

impl ReadView {
    /// What is kept of the licence; all empty in a new store.
    pub fn license(&self) -> Result<LicenseRecord, StoreError> {
        let record = self.license.get(RECORD)?.map(|bytes| decode(bytes.value())).transpose()?;
        let coming = self.license.get(COMING)?.map(|token| String::from_utf8(token.value().to_vec()));
        let coming = coming.transpose().map_err(|_| StoreError::Corrupt("license"))?;
        Ok(LicenseRecord { coming, ..record.unwrap_or_default() })
    }

    /// Seats of a component that are held.
    pub fn component_seats_used(&self, name: &ComponentName) -> Result<u64, StoreError> {
        used(self, name)
    }

    /// The components of which a user holds a seat.
    pub fn components_of(&self, key: UserKey) -> Result<Vec<String>, StoreError> {
        components_of(self.component_seats(), key)
    }

    /// Compares the seats of components with the users who hold them; tells what is wrong.
    pub(super) fn verify_components(
        &self,
        mut check: impl FnMut(bool, &dyn Fn() -> String),
    ) -> Result<(), StoreError> {
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for row in self.component_seats.iter()? {
            let row = row?;
            let (key, component) = row.0.value();
            *counted.entry(component.to_owned()).or_default() += 1;
            let is_seated = self.seats.get(key)?.is_some();
            check(is_seated, &|| format!("user {key} holds a seat of {component}, but none of the licence"));
        }
        for row in self.component_counts.iter()? {
            let row = row?;
            let (component, kept) = (row.0.value(), row.1.value());
            let held = counted.remove(component).unwrap_or_default();
            check(held == kept, &|| format!("component {component}: counted {held} seats, but kept {kept}"));
        }
        for (component, held) in counted {
            check(false, &|| format!("component {component}: counted {held} seats, but kept none"));
        }
        Ok(())
    }
}

fn components_of(
    seats: &impl ReadableTable<(u64, &'static str), i64>,
    UserKey(key): UserKey,
) -> Result<Vec<String>, StoreError> {
    let rows = seats.range((key, "")..(key + 1, ""))?;
    rows.map(|row| Ok(row?.0.value().1.to_owned())).collect()
}

fn used(tables: &impl Lookup, name: &ComponentName) -> Result<u64, StoreError> {
    Ok(tables.component_counts().get(name.as_str())?.map_or(0, |count| count.value()))
}

/// What a service needs, of a user who may be unknown.
pub(super) fn component_view(
    tables: &impl Lookup,
    key: Option<UserKey>,
    service: Option<&Service>,
    policy: &Policy,
) -> Result<ComponentView, StoreError> {
    Ok(match policy.components.needed_by(service) {
        None | Some((_, ComponentStanding::Licensed { seats: None })) => ComponentView::Licensed,
        Some((_, ComponentStanding::Unlicensed)) => ComponentView::Unlicensed,
        Some((name, ComponentStanding::Licensed { seats: Some(limit) })) => {
            let held = match key {
                Some(UserKey(key)) => tables.component_seats().get((key, name.as_str()))?.is_some(),
                None => false,
            };
            ComponentView::Counted { held, seats: SeatCount { used: used(tables, name)?, limit } }
        }
    })
}

impl Transaction<'_> {
    /// Replaces what is kept of the licence.
    pub(super) fn keep_license(&mut self, record: &LicenseRecord) -> Result<(), StoreError> {
        self.license.insert(RECORD, encode(record).as_slice())?;
        match &record.coming {
            Some(token) => drop(self.license.insert(COMING, token.as_bytes())?),
            None => drop(self.license.remove(COMING)?),
        }
        self.is_dirty = true;
        Ok(())
    }

    /// Takes a seat of a component. Only for who holds none of it, and only after the decision.
    pub(super) fn grant_component(
        &mut self,
        UserKey(key): UserKey,
        name: &ComponentName,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.component_seats.insert((key, name.as_str()), at.as_millisecond())?;
        let count = used(self, name)?;
        self.component_counts.insert(name.as_str(), count + 1)?;
        self.is_dirty = true;
        Ok(())
    }

    /// Carries the component seats of a user over to another. Those that the other has already stay behind.
    pub(super) fn carry_components(&mut self, from: UserKey, to: UserKey) -> Result<(), StoreError> {
        let had = components_of(&self.component_seats, to)?;
        for name in components_of(&self.component_seats, from)?.into_iter().filter(|name| !had.contains(name))
        {
            let since = self.component_seats.remove((from.0, name.as_str()))?.map(|since| since.value());
            self.component_seats.insert((to.0, name.as_str()), since.unwrap_or_default())?;
        }
        Ok(())
    }

    /// Takes back all component seats of a user, whose seat goes.
    pub(super) fn release_components(&mut self, key: UserKey) -> Result<(), StoreError> {
        for name in components_of(&self.component_seats, key)? {
            self.component_seats.remove((key.0, name.as_str()))?;
            let count = self.component_counts.get(name.as_str())?.map_or(0, |count| count.value());
            self.component_counts.insert(name.as_str(), count.saturating_sub(1))?;
            self.is_dirty = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_survives() {
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        let full = LicenseRecord {
            installation: "11111111-1111-4111-8111-111111111111".to_owned(),
            token: Some("a.b.c".to_owned()),
            installed_at: Some(at),
            serials: [("L-1".to_owned(), u64::MAX), ("L-2".to_owned(), 0)].into(),
            told: Some((7, "active".to_owned())),
            coming: None,
            time_seen: Some(at),
            refresh: Some(RefreshRecord {
                at,
                etag: Some("\"7\"".to_owned()),
                failures: 3,
                outcome: "unreachable".to_owned(),
                error: Some("no route".to_owned()),
            }),
        };
        let bytes = encode(&full);
        assert_eq!(decode(&bytes).unwrap(), full);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(decode(&encode(&LicenseRecord::default())).unwrap(), LicenseRecord::default());
    }
}
