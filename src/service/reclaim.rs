//! Seats back from those who do not use them, and who was turned away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::admin::{Admin, AdminError, blocking};
use super::answers::{ReclaimReport, ReclaimedSeat, RefusedLine, SumReport};
use super::log_release;
use crate::domain::brake::{Excess, Limit};
use crate::domain::user::UserKey;
use crate::store::{LastLoginOf, ReadView, StoreError};

/// Seats released in one transaction, so that logins do not wait for all of them.
const RECLAIM_BATCH: usize = 500;

impl Admin {
    /// Takes back the seats of everybody who was not active for so long, save the protected; with `dry_run`
    /// only says whose they are. Each may take one again with the next login. Where the brake does not let all of
    /// them go, or the clock is in doubt, none is taken back.
    pub async fn reclaim(&self, inactive: Duration, dry_run: bool) -> Result<ReclaimReport, AdminError> {
        if !dry_run {
            self.check_clock()?;
        }
        let _alone = self.begin_reclaim().await;
        let now = self.store().now();
        let cutoff = now.checked_sub(inactive).unwrap_or(Timestamp::MIN);
        let last_login = self.last_login_of();
        let view = self.fresh_view().await?;
        let protected = self.protected(&view)?;
        let login_of = Arc::clone(&last_login);
        let (mut found, spared) = blocking(move || candidates(&view, cutoff, &protected, &login_of)).await?;
        let seats = found.len() as u64;
        let held = self.judge(seats, cutoff, now, dry_run).await?;
        let mut reclaimed: Vec<ReclaimedSeat> = Vec::new();
        if dry_run {
            reclaimed.extend(found.into_values());
        } else if let Some(excess) = held {
            return Err(AdminError::ReclaimHeld(seats, excess));
        } else {
            let keys: Vec<UserKey> = found.keys().copied().collect();
            for keys in keys.chunks(RECLAIM_BATCH) {
                let last_login = Arc::clone(&last_login);
                for (key, released) in self.store().reclaim(keys.to_vec(), cutoff, now, last_login).await? {
                    log_release(&released);
                    reclaimed.extend(found.remove(&key));
                }
            }
        }
        reclaimed.sort_by(|a, b| (a.last_used, &a.user).cmp(&(b.last_used, &b.user)));
        let seats_used = self.store().view().seats_used()?;
        let held = held.map(SumReport::from);
        Ok(ReclaimReport { dry_run, protected: spared, reclaimed, seats_used, held })
    }

    /// The users of `[seats] protected`.
    pub(super) fn protected(&self, view: &ReadView) -> Result<BTreeSet<UserKey>, StoreError> {
        let mut protected = BTreeSet::new();
        for name in &self.settings().protected {
            let owners = view.owners(name)?;
            for owner in [owners.login, owners.mail].into_iter().flatten() {
                protected.extend(view.seat_holder(owner)?);
            }
        }
        Ok(protected)
    }

    /// The state of the brake where it does not let so many seats go.
    async fn judge(
        &self,
        seats: u64,
        cutoff: Timestamp,
        now: Timestamp,
        dry_run: bool,
    ) -> Result<Option<Excess>, AdminError> {
        let reclaims = self.store().view().reclaims()?;
        if reclaims.is_ahead(now) && !dry_run {
            // Where nothing is reclaimed for long, it would count for as long.
            self.store().reclaim(Vec::new(), cutoff, now, self.last_login_of()).await?;
        }
        let used = self.store().view().seats_used()?;
        let limit = Limit::new(self.settings().reclaim_brake, &reclaims, used, 0, now);
        Ok(limit.judge(seats).err())
    }

    /// At most `limit` of those who were turned away, the latest first.
    pub async fn refused(&self, limit: usize) -> Result<Vec<RefusedLine>, AdminError> {
        let view = self.fresh_view().await?;
        blocking(move || refused(&view, limit)).await
    }
}

type Candidates = (BTreeMap<UserKey, ReclaimedSeat>, u64);

/// Holders who were not active since `cutoff`; those who are protected are only counted.
fn candidates(
    view: &ReadView,
    cutoff: Timestamp,
    protected: &BTreeSet<UserKey>,
    last_login: &LastLoginOf,
) -> Result<Candidates, StoreError> {
    let (mut found, mut spared) = (BTreeMap::new(), 0);
    for holder in view.holders()? {
        let (key, seat) = holder?;
        let login = last_login(key, view.last_login_of(key)?.map(|login| login.at));
        let last_used = crate::domain::seats::last_used(&seat, login);
        if last_used >= cutoff {
            continue;
        }
        if protected.contains(&key) {
            spared += 1;
            continue;
        }
        let Some(details) = view.details(key)? else { continue };
        let line = ReclaimedSeat {
            user: details.name.to_string(),
            origin: details.origin.to_string(),
            directory: details.directory,
            seat_since: seat.granted_at,
            last_login: login,
            last_used,
        };
        found.insert(key, line);
    }
    Ok((found, spared))
}

fn refused(view: &ReadView, limit: usize) -> Result<Vec<RefusedLine>, StoreError> {
    let mut latest: Vec<(Timestamp, Option<UserKey>, String)> = Vec::new();
    for row in view.refused_users()? {
        let (key, refusals) = row?;
        latest.push((refusals.last, Some(key), String::new()));
    }
    for row in view.strangers()? {
        let (name, refusals) = row?;
        latest.push((refusals.last, None, name.to_string()));
    }
    latest.sort_unstable_by(|a, b| b.cmp(a));
    let mut lines = Vec::new();
    for (_, key, name) in latest.into_iter().take(limit) {
        let (user, is_known, seated, refusals) = match key {
            Some(key) => {
                let Some(details) = view.details(key)? else { continue };
                (details.name.to_string(), true, details.seat.is_some(), details.refusals)
            }
            None => {
                let refusals = view.stranger(&name)?;
                (name, false, false, refusals)
            }
        };
        let Some(refusals) = refusals else { continue };
        lines.push(RefusedLine {
            user,
            is_known,
            seated,
            count: refusals.count,
            first: refusals.first,
            last: refusals.last,
            reason: refusals.reason.into(),
        });
    }
    Ok(lines)
}
