//! A dry run: a whole sweep in a transaction that is dropped.

use jiff::Timestamp;

use super::brake::{conclude, keep};
use super::names::Adopted;
use super::tables::Lookup;
use super::transaction::Transaction;
use super::{Clash, Policy, StoreError};
use crate::domain::mapping::Remapped;
use crate::domain::names::{NameRules, Withheld};
use crate::domain::sync::{Authority, Report, Sweep, TAKEN_SHOWN};
use crate::domain::user::{DirectoryId, Mapped, User};

/// A sweep whose entries were collected instead of written.
pub struct Preview {
    /// The directory's name; it may never have been mapped.
    pub directory: String,
    /// The sweep, which has observed every entry.
    pub sweep: Sweep,
    /// The entries that the sweep would write.
    pub writes: Vec<Mapped>,
    /// What is known so far: entries seen and skipped.
    pub report: Report,
    /// The rules of names that the sweep would go by.
    pub names: NameRules,
    /// What the configuration has otherwise than before.
    pub remapped: Remapped,
    /// The time of the sweep.
    pub now: Timestamp,
}

/// Runs it in a transaction that follows its rules of names already; `adopted` is what they took.
pub(super) fn run(
    preview: Preview,
    transaction: &mut Transaction<'_>,
    adopted: &Adopted,
    policy: &Policy,
) -> Result<Report, StoreError> {
    let Preview { directory, mut sweep, writes, mut report, remapped, now, .. } = preview;
    adopted.count_in(&mut report);
    let directory = transaction.directory(&directory)?;
    let mut disabled: Vec<String> = Vec::new();
    for mapped in writes {
        if remapped.names {
            transaction.count_lost_names(directory, &mapped, &mut report)?;
        }
        let upserted = transaction.upsert(directory, mapped, now)?;
        disabled.extend(upserted.released.as_ref().map(|released| released.name.to_string()));
        sweep.saw(upserted.key);
        upserted.count_in(&mut report);
    }
    let verdict = conclude(transaction, &sweep, directory, Authority::Everything)?;
    let deferred = sweep.take_deferred(&verdict);
    for (_, mapped) in deferred.free {
        let upserted = transaction.upsert(directory, mapped, now)?;
        disabled.extend(upserted.released.as_ref().map(|released| released.name.to_string()));
        upserted.count_in(&mut report);
    }
    for (key, mapped) in deferred.held {
        let mapped = keep(transaction, &sweep, key, mapped)?;
        transaction.upsert(directory, mapped, now)?.count_in(&mut report);
    }
    for key in verdict.removed {
        if let Some(entombed) = transaction.entomb(key, now)? {
            entombed.count_in(&mut report);
        }
    }
    let settled = transaction.settle_seatless(policy, now)?;
    report.seats_released += settled.released.len() as u64;
    let seatless = settled.released.iter().map(|released| released.name.to_string());
    report.released_of = disabled.into_iter().chain(seatless).take(TAKEN_SHOWN).collect();
    report.held = verdict.held;
    Ok(report)
}

impl Transaction<'_> {
    /// Adds the names that an entry does not have any more to a report.
    pub(super) fn count_lost_names(
        &self,
        directory: DirectoryId,
        mapped: &Mapped,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let Some(key) = self.key_by_id(directory, &mapped.id)? else { return Ok(()) };
        let Some(user) = self.user(key)?.filter(User::is_living) else { return Ok(()) };
        let shown = self.shown_name(key, &user)?;
        for name in user.mapped.names().filter(|name| !mapped.names().any(|new| new == *name)) {
            report.taken.add(&shown, name, "the attributes of the configuration do not have it".to_owned());
        }
        Ok(())
    }
}

impl Adopted {
    /// Adds what is taken to a report.
    pub(super) fn count_in(&self, report: &mut Report) {
        for Clash { name, owner, claimant, reason } in &self.clashes {
            let reason = match (reason, owner) {
                (Withheld::Administrator, _) => "it is the internal administrator's".to_owned(),
                (Withheld::Owned(_), Some(owner)) => {
                    format!("it belongs to {} of {}", owner.name, owner.directory)
                }
                (Withheld::Foreign, _) => "foreign_names is false".to_owned(),
                (Withheld::Owned(_) | Withheld::ServedElsewhere, _) => {
                    "other directories serve its domain".to_owned()
                }
            };
            report.taken.add(&claimant.name, name, reason);
        }
        report.taken.names = report.taken.names.max(self.lost);
    }
}
