//! A dry run: a whole sweep in a transaction that is dropped.

use jiff::Timestamp;

use super::brake::{conclude, keep};
use super::names::Adopted;
use super::relocate::Kinship;
use super::tables::Lookup;
use super::transaction::Transaction;
use super::{Clash, Kin, Moved, Policy, Released, StoreError};
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
    let Preview { directory: name, mut sweep, writes, mut report, remapped, now, .. } = preview;
    adopted.count_in(&mut report);
    let directory = transaction.directory(&name)?;
    let mut released: Vec<Released> = Vec::new();
    for mapped in writes {
        if remapped.names {
            transaction.count_lost_names(directory, &mapped, &mut report)?;
        }
        let upserted = transaction.upsert(directory, mapped, now)?;
        sweep.saw(upserted.key);
        upserted.count_in(&name, &mut report);
        released.extend(upserted.released.into_iter().chain(second_seats(upserted.moved)));
    }
    let verdict = conclude(transaction, &sweep, directory, Authority::Everything)?;
    let deferred = sweep.take_deferred(&verdict);
    for (_, mapped) in deferred.free {
        let upserted = transaction.upsert(directory, mapped, now)?;
        upserted.count_in(&name, &mut report);
        released.extend(upserted.released.into_iter().chain(second_seats(upserted.moved)));
    }
    for (key, mapped) in deferred.held {
        let mapped = keep(transaction, &sweep, key, mapped)?;
        transaction.upsert(directory, mapped, now)?.count_in(&name, &mut report);
    }
    for key in verdict.removed {
        if let Some(entombed) = transaction.entomb(key, now)? {
            entombed.count_in(&mut report);
            released.extend(second_seats(entombed.moved));
        }
    }
    for moved in transaction.reunite(directory, now)? {
        moved.count_in(&mut report);
        released.extend(moved.released);
    }
    let settled = transaction.settle_seatless(policy, now)?;
    report.seats_released += settled.released.len() as u64;
    released.extend(settled.released);
    let names = released.iter().map(|released| released.name.to_string());
    report.released_of = names.take(TAKEN_SHOWN).collect();
    report.held = verdict.held;
    Ok(report)
}

/// The seats of old entries whose new ones have a seat of their own.
fn second_seats(moved: impl IntoIterator<Item = Moved>) -> impl Iterator<Item = Released> {
    moved.into_iter().filter_map(|moved| moved.released)
}

impl Transaction<'_> {
    /// Carries over what the configuration gives to other entries of the same people, from this directory or to it.
    fn reunite(&mut self, directory: DirectoryId, now: Timestamp) -> Result<Vec<Moved>, StoreError> {
        let is_of = |key| Ok::<_, StoreError>(self.user(key)?.is_some_and(|it| it.directory == directory));
        let mut pairs = Vec::new();
        for (old, new) in self.reunions()? {
            if is_of(old)? || is_of(new)? {
                pairs.push((old, new));
            }
        }
        let moved = self.carry_pairs(&pairs, Kin::SameId, now)?;
        Ok(moved.into_iter().flatten().collect())
    }

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
