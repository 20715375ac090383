//! `verify`: counts everything again and checks that the tables agree.

use std::collections::{BTreeMap, BTreeSet};

use redb::{ReadableTable, ReadableTableMetadata};

use super::ledger::{kept_from, names_of};
use super::names::{NameLookup, NameRecord};
use super::tables::Lookup;
use super::{ReadView, StoreError, codec, domains};
use crate::domain::name::Name;
use crate::domain::names::owners;
use crate::domain::seats::Movement;
use crate::domain::user::{Census, DirectoryId, UserKey};

/// Something that is not as it must be, as a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding(pub String);

/// Findings told in full; a damaged store may have millions, and the first ones say enough.
const MAX_FINDINGS: usize = 100;

struct Findings {
    told: Vec<Finding>,
}

impl Findings {
    fn check(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        if !holds && self.told.len() < MAX_FINDINGS {
            self.told.push(Finding(sentence()));
        }
    }
}

impl ReadView {
    /// Recounts and compares. An empty list means that all invariants hold.
    ///
    /// Reads the whole store: a second for some hundred thousand users. Writers are not held up.
    pub fn verify(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Findings { told: Vec::new() };
        let census = self.verify_users(&mut findings)?;
        self.verify_names(&mut findings)?;
        self.verify_seats(&mut findings, census)?;
        self.verify_ledger(&mut findings)?;
        self.verify_components(|holds, sentence| findings.check(holds, sentence))?;
        Ok(findings.told)
    }

    /// Users, their ids and tombstones; returns what was counted, seats excepted.
    fn verify_users(&self, findings: &mut Findings) -> Result<BTreeMap<DirectoryId, Census>, StoreError> {
        let mut counted: BTreeMap<DirectoryId, Census> = BTreeMap::new();
        let (mut tombstones, mut seatless) = (0, 0);
        for row in self.users.iter()? {
            let row = row?;
            let key = UserKey(row.0.value());
            let user = codec::decode_user(row.1.value())?;
            counted.entry(user.directory).or_default().count(&user, true);
            let by_id = self.key_by_id(user.directory, &user.mapped.id)?;
            findings.check(by_id == Some(key), || {
                format!("user {} ({}) is not found by its id", key.0, user.mapped.primary())
            });
            if user.is_seatless() {
                seatless += 1;
                let is_listed = self.seatless.get(key.0)?.is_some();
                findings.check(is_listed, || format!("user {} needs no seat, and is not listed so", key.0));
            }
            if let Some(removed_at) = user.removed_at {
                tombstones += 1;
                let is_listed = self.tombstones.get((removed_at.as_millisecond(), key.0))?.is_some();
                findings.check(is_listed, || format!("tombstone {} is not listed to expire", key.0));
            }
            for name in user.mapped.names() {
                let is_claimed = !self.claim_of(key, name)?.is_empty();
                findings.check(is_claimed, || format!("{name}: the claim of user {} is missing", key.0));
            }
        }
        let (users, ids) = (self.users.len()?, self.ids.len()?);
        findings.check(users == ids, || format!("{users} users, but {ids} ids"));
        let listed = self.seatless.len()?;
        findings.check(seatless == listed, || format!("{seatless} need no seat, but {listed} are listed so"));
        let listed = self.tombstones.len()?;
        findings.check(tombstones == listed, || format!("{tombstones} tombstones, but {listed} are listed"));
        Ok(counted)
    }

    fn verify_names(&self, findings: &mut Findings) -> Result<(), StoreError> {
        for row in self.names.iter()? {
            let row = row?;
            let (name, record) = (Name::from_stored(row.0.value()), codec::decode_name(row.1.value())?);
            let claims = self.all_claims(&name)?;
            let is_alone = matches!(record, NameRecord::Sole { .. });
            findings.check(is_alone || claims.len() > 1, || format!("{name} is not contested"));
            let mut theirs = Vec::new();
            for (key, claim) in claims {
                let is_theirs =
                    self.user(key)?.is_some_and(|user| user.mapped.names().any(|had| *had == name));
                findings.check(is_theirs, || format!("{name}: user {} does not have this name", key.0));
                theirs.extend(is_theirs.then_some((key, claim)));
            }
            let decided = owners(&name, &self.claimants(&name, &theirs)?, record.owners(), &self.rules);
            findings.check(decided == record.owners(), || {
                format!("{name} belongs to {decided:?}, but is kept as {:?}", record.owners())
            });
        }
        for row in self.claims.iter()? {
            let row = row?;
            let (name, key) = row.0.value();
            let record = self.name_record(&Name::from_stored(name))?;
            let is_contested = matches!(record, Some(NameRecord::Contested(_)));
            findings.check(is_contested, || format!("{name}: the claim of user {key} stands alone"));
        }
        Ok(())
    }

    fn verify_seats(
        &self,
        findings: &mut Findings,
        mut counted: BTreeMap<DirectoryId, Census>,
    ) -> Result<(), StoreError> {
        for row in self.seats.iter()? {
            let row = row?;
            let key = UserKey(row.0.value());
            codec::decode_seat(row.1.value())?;
            match self.user(key)? {
                None => findings.check(false, || format!("a seat is held by user {}, who is unknown", key.0)),
                Some(user) => {
                    findings.check(user.mapped.is_active(), || {
                        format!("{} holds a seat but is no enabled person", user.mapped.primary())
                    });
                    counted.entry(user.directory).or_default().seats += 1;
                }
            }
        }
        let (by_domain, mut kept) = (domains::counted(self)?, BTreeMap::new());
        for row in self.domain_seats.iter()? {
            let row = row?;
            kept.insert(row.0.value().to_owned(), row.1.value());
        }
        findings.check(by_domain == kept, || {
            format!("seats by mail domain: counted {by_domain:?}, but kept {kept:?}")
        });
        for (id, census) in &counted {
            let is_known = self.directories.get(id).is_some();
            findings.check(is_known, || format!("directory {} has users but no record: {census:?}", id.0));
        }
        for record in self.directories.values() {
            let census = counted.get(&record.id).copied().unwrap_or_default();
            findings.check(census == record.census, || {
                format!("directory {}: counted {census:?}, but kept {:?}", record.name, record.census)
            });
        }
        Ok(())
    }

    /// Replays the ledger: who should hold a seat. Being over the limit is no finding: it was lowered, and `status` says so.
    fn verify_ledger(&self, findings: &mut Findings) -> Result<(), StoreError> {
        let mut holders = BTreeSet::new();
        let (kept_from, seats_there) = kept_from(&self.meta)?;
        let mut is_kept = kept_from == 0;
        let check_there = |findings: &mut Findings, used: u64| {
            findings.check(used == seats_there, || {
                format!(
                    "{seats_there} seats were taken before ledger line {kept_from}, the replay says {used}"
                )
            });
        };
        for row in self.ledger.iter()? {
            let row = row?;
            let (line, event) = (row.0.value(), codec::decode_ledger_event(row.1.value())?);
            if !is_kept && line >= kept_from {
                is_kept = true;
                check_there(findings, holders.len() as u64);
            }
            let is_new = match event.what {
                Movement::Granted(_) => holders.insert(event.user),
                Movement::Released(_) => holders.remove(&event.user),
                Movement::Moved { from, .. } => holders.remove(&from) && holders.insert(event.user),
            };
            findings.check(is_new, || format!("ledger line {line} repeats what {} had already", event.name));
            let used = holders.len() as u64;
            // Before it, lines of seats that were taken back are missing.
            findings.check(used == event.used_after || !is_kept, || {
                format!("ledger line {line} says {} seats taken, the replay {used}", event.used_after)
            });
            let is_indexed = self.ledger_by_user.get((event.user.0, line))?.is_some();
            findings.check(is_indexed, || format!("ledger line {line} is not listed under its user"));
            for name in names_of(&event) {
                let is_indexed = self.ledger_by_name.get((name.as_str(), line))?.is_some();
                findings.check(is_indexed, || format!("ledger line {line} is not listed under {name}"));
            }
        }
        if !is_kept {
            check_there(findings, holders.len() as u64);
        }
        for row in self.seats.iter()? {
            let key = UserKey(row?.0.value());
            findings.check(holders.remove(&key), || format!("user {} holds a seat without a grant", key.0));
        }
        for key in holders {
            findings.check(false, || format!("user {} was granted a seat but does not hold it", key.0));
        }
        Ok(())
    }
}
