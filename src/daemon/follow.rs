//! After the refresh: changes are written as they come, a transaction for each group that a cookie covers.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::intake::{Place, SyncError, WRITE_BATCH};
use super::tell;
use crate::directory::Event;
use crate::domain::mapping::{Entry, Skip, map_entry, stable_id};
use crate::domain::name::StableId;
use crate::domain::sync::{Change, Loss, compare};
use crate::domain::user::{Kind, Mapped};
use crate::store::{Changes, Checkpoint, Cookie, Proof};

/// How long a change waits for the cookie that covers it. A server that sends none with its changes has them
/// written all the same, and tells them again after a restart.
const COOKIE_PATIENCE: Duration = Duration::from_millis(200);

/// Names of lost users that the log of a tripped brake shows.
const LOSSES_SHOWN: usize = 5;

/// Why following ended.
pub(super) enum Ended {
    /// The driver has nothing more to tell: its error says why.
    Driver,
    /// The brake tripped; the cookie stands where it stood.
    Held(Loss),
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
        view.directories().find(|record| record.id == self.place.id).map_or(0, |record| record.census.people)
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
                        Some(loss) => return Ok(Ended::Held(loss)),
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
                && let Some(loss) = self.write(cookie).await?
            {
                return Ok(Ended::Held(loss));
            }
        }
    }

    /// True where a user is told as no member of the required group.
    fn take_entries(&mut self, entries: &[Entry]) -> Result<bool, SyncError> {
        for entry in entries {
            match map_entry(entry, &self.place.rules) {
                Ok(mapped) => drop(self.pending.insert(mapped.id.clone(), Some(mapped))),
                Err(Skip::NotInGroup) => {
                    let id = stable_id(entry, self.place.rules.preset);
                    let is_pending = id.is_some_and(|id| self.pending.contains_key(&id));
                    if is_pending || self.place.living(entry, &self.place.store.view())?.is_some() {
                        return Ok(true);
                    }
                }
                // It can no longer be mapped, which is like being gone.
                Err(_) => self.pending.extend(stable_id(entry, self.place.rules.preset).map(|id| (id, None))),
            }
        }
        Ok(false)
    }

    /// Asks the brake, then writes; the loss where it trips.
    async fn write(&mut self, cookie: Option<Vec<u8>>) -> Result<Option<Loss>, SyncError> {
        let now = Timestamp::now();
        let Place { directory, id, store, .. } = &self.place;
        let view = store.view();
        let record = view.directories().find(|record| record.id == *id);
        let before = record.map_or(0, |record| record.losses.lost(now));
        let mut loss = Loss { people: record.map_or(0, |record| record.census.people), ..Loss::default() };
        let checkpoint = cookie.map(|bytes| {
            let cookie = Cookie { valid_for: self.valid_for.clone(), bytes, proof: self.proof.clone() };
            Checkpoint { cookie: Some(cookie), skipped: None }
        });
        let mut changes = Changes { checkpoint, ..Changes::default() };
        let mut examples = Vec::new();
        for (stable_id, mapped) in std::mem::take(&mut self.pending) {
            let stored = view.user_by_id(*id, &stable_id)?;
            let stored = stored.as_ref().map(|(key, user)| (*key, user));
            let lost = match mapped {
                Some(mapped) => {
                    let change = compare(stored.map(|(_, user)| user), &mapped);
                    if change != Change::Unchanged {
                        changes.upserts.push(mapped);
                    }
                    loss.disabled += u64::from(change == Change::Disabled);
                    change == Change::Disabled
                }
                None => match stored.filter(|(_, user)| user.is_living()) {
                    Some((key, user)) => {
                        changes.removals.push(key);
                        let is_person = user.mapped.kind == Kind::Person;
                        loss.removed += u64::from(is_person);
                        is_person
                    }
                    None => false,
                },
            };
            if let (true, Some((key, _))) = (lost && examples.len() < LOSSES_SHOWN, stored) {
                examples.extend(view.name_of(key)?.map(|name| name.to_string()));
            }
        }
        if loss.total() > 0 && before + loss.total() > directory.brake.allowance(loss.people + before) {
            tell::brake_tripped(&directory.name, loss, &examples.join(" "));
            return Ok(Some(loss));
        }
        let applied = store.apply(*id, changes, now).await?;
        tell::applied(&directory.name, &store.view(), &applied, false);
        Ok(None)
    }
}
