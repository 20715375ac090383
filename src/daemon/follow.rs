//! After the refresh: changes are written as they come, a transaction for each group that a cookie covers.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use super::intake::{Place, SyncError, WRITE_BATCH};
use super::tell;
use crate::directory::{Authority, Event};
use crate::domain::brake::{Counts, Held};
use crate::domain::mapping::{Entry, Skip, stable_id};
use crate::domain::name::StableId;
use crate::domain::sync::{Step, Sweep};
use crate::domain::user::Mapped;
use crate::store::{Changes, Checkpoint, Cookie, Proof};

/// How long a change waits for the cookie that covers it. A server that sends none with its changes has them
/// written all the same, and tells them again after a restart.
const COOKIE_PATIENCE: Duration = Duration::from_millis(200);

/// Why following ended.
pub(super) enum Ended {
    /// The driver has nothing more to tell: its error says why.
    Driver,
    /// The brake tripped; the cookie stands where it stood.
    Held(Held),
    /// Somebody seems to have left the required group, which has to be looked at again.
    Group,
}

/// Writes the changes of one directory.
pub(super) struct Follower<'a> {
    place: Place<'a>,
    /// What the cookies depend on.
    valid_for: String,
    /// When the mirror was last proved equal, which is written with each cookie.
    proof: Option<Proof>,
    /// What was told and is not written yet: the last word on each id, `None` where it is gone.
    pending: BTreeMap<StableId, Option<Mapped>>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(place: Place<'a>, valid_for: String, proof: Option<Proof>) -> Follower<'a> {
        Follower { place, valid_for, proof, pending: BTreeMap::new() }
    }

    /// How many users are mapped.
    pub(super) fn people(&self) -> u64 {
        let view = self.place.store.view();
        view.directory(self.place.id).map_or(0, |record| record.census.people)
    }

    /// Follows until the driver ends or the brake trips. May be dropped: what it has not written is told
    /// again, since its cookie is not kept.
    pub(super) async fn run(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<Ended, SyncError> {
        loop {
            let event = if self.pending.is_empty() {
                events.recv().await
            } else {
                match tokio::time::timeout(COOKIE_PATIENCE, events.recv()).await {
                    Ok(event) => event,
                    Err(_) => match self.write(None).await? {
                        Some(held) => return Ok(Ended::Held(held)),
                        None => continue,
                    },
                }
            };
            let cookie = match event {
                Some(Event::Upserts(entries) | Event::Differences(entries)) => {
                    if self.take_entries(&entries)? {
                        return Ok(Ended::Group);
                    }
                    None
                }
                Some(Event::Deletes(ids)) => {
                    self.pending.extend(ids.into_iter().map(|id| (id, None)));
                    None
                }
                Some(Event::Checkpoint(cookie)) => Some(cookie),
                Some(Event::Present(_) | Event::EndRefresh(..)) => None,
                None => return Ok(Ended::Driver),
            };
            // A burst shares transactions: what has been told already joins this one.
            let is_whole = cookie.is_some() && events.is_empty();
            if (is_whole || self.pending.len() >= WRITE_BATCH)
                && let Some(held) = self.write(cookie).await?
            {
                return Ok(Ended::Held(held));
            }
        }
    }

    /// True where a user is told as no member of the required group.
    fn take_entries(&mut self, entries: &[Entry]) -> Result<bool, SyncError> {
        let view = self.place.store.view();
        for entry in entries {
            match self.place.map(entry, &view)? {
                Ok(mapped) => drop(self.pending.insert(mapped.id.clone(), Some(mapped))),
                Err(Skip::NotInGroup) => {
                    let id = stable_id(entry, self.place.rules.preset);
                    let is_pending = id.is_some_and(|id| self.pending.contains_key(&id));
                    if is_pending || self.place.living(entry, &view)?.is_some() {
                        return Ok(true);
                    }
                }
                // It can no longer be mapped, which is like being gone.
                Err(_) => self.pending.extend(stable_id(entry, self.place.rules.preset).map(|id| (id, None))),
            }
        }
        Ok(false)
    }

    /// Asks the brake, then writes; what it holds back, where it trips.
    async fn write(&mut self, cookie: Option<Vec<u8>>) -> Result<Option<Held>, SyncError> {
        let now = self.place.store.now();
        let Place { directory, id, store, .. } = &self.place;
        let view = store.view();
        let record = view.directory(*id);
        let (people, hour) =
            record.map(|record| (record.census.people, record.hour.clone())).unwrap_or_default();
        let mut sweep = Sweep::new(directory.brake, people, &hour, Counts::default(), now);
        let mut upserts = Vec::new();
        for (stable_id, mapped) in std::mem::take(&mut self.pending) {
            let Some(mapped) = mapped else {
                let gone = view.living_by_id(*id, &stable_id)?;
                gone.into_iter().for_each(|(key, _)| sweep.name_gone(key));
                continue;
            };
            let stored = view.stored(*id, &mapped)?;
            if let Step::Write(mapped) = sweep.observe(stored.as_ref(), mapped) {
                upserts.push(mapped);
            }
        }
        let verdict = view.conclude(&sweep, *id, Authority::Named)?;
        let deferred = sweep.take_deferred(&verdict);
        upserts.extend(deferred.free.into_iter().map(|(_, mapped)| mapped));
        upserts.extend(view.held_back(&sweep, deferred.held)?);
        let checkpoint = cookie.filter(|_| verdict.held.is_none()).map(|bytes| {
            let cookie = Cookie { valid_for: self.valid_for.clone(), bytes, proof: self.proof.clone() };
            Checkpoint { cookie: Some(cookie), ..Checkpoint::default() }
        });
        let changes = Changes { upserts, removals: verdict.removed, checkpoint, ..Changes::default() };
        let applied = store.apply(*id, changes, now).await?;
        tell::applied(&directory.name, &applied, false);
        Ok(verdict.held)
    }
}
