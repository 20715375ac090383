//! What is made true at the end of every transaction, and seats taken back from those who do not use them.

use jiff::Timestamp;
use tracing::{debug, error, info, warn};

use super::names::Adopted;
use super::seatless::Excess;
use super::tables::{Lookup, RECLAIMS, SEATS_LOW, reclaims};
use super::transaction::Transaction;
use super::{Clash, LastLoginOf, Moved, Policy, Released, StoreError, codec};
use crate::domain::names::Withheld;
use crate::domain::seats::{ReleaseReason, SeatCount, last_used};
use crate::domain::user::UserKey;

/// What a transaction settled, to be told after its commit.
#[must_use]
#[derive(Default)]
pub(super) struct Settled {
    released: Vec<Released>,
    low: Option<SeatCount>,
    seatless_over: Option<Excess>,
    adopted: Adopted,
}

impl Settled {
    /// Tells it in the log.
    pub(super) fn tell(&self) {
        self.released.iter().for_each(log_release);
        if let Some(Excess { mailboxes, allowed }) = self.seatless_over {
            let over = mailboxes - allowed;
            warn!(
                mailboxes,
                allowed,
                "{mailboxes} mailboxes match seatless_filter, but the license allows {allowed}: the {over} that were \
                 mapped last need a seat each. Narrow the filter, or buy more of them."
            );
        }
        self.adopted.clashes.iter().for_each(log_clash);
        if self.adopted.lost > 0 {
            let lost = self.adopted.lost;
            warn!(
                lost,
                "The configuration took {lost} names from their owners: `seatkeeper explain USER` shows why."
            );
        }
        if let Some(SeatCount { used, limit }) = self.low {
            let free = SeatCount { used, limit }.free();
            warn!(
                event = "seats_low",
                seats_used = used,
                seats_limit = limit,
                seats_free = free,
                "Few seats are left: {free} of {limit}."
            );
        }
    }
}

/// Logs one release; every way to lose a seat ends here.
pub(crate) fn log_release(released: &Released) {
    let Released { name, reason, seats_used } = released;
    info!(event = "seat_released", user = %name, reason = reason.as_str(), seats_used, "{name} lost the seat.");
}

/// Logs that a person's seat, last login, refusals and history went to another entry of theirs.
pub(crate) fn log_move(moved: &Moved) {
    let Moved { from, to, seat, released } = moved;
    if !seat {
        debug!(
            directory = to.directory, from = from.directory, user = %to.name, old_user = %from.name,
            "{} of {} goes on with what {} of {} had.", to.name, to.directory, from.name, from.directory
        );
        return released.iter().for_each(log_release);
    }
    info!(
        event = "seat_moved", directory = to.directory, from = from.directory, user = %to.name, old_user = %from.name,
        dn = %to.dn, old_dn = %from.dn,
        "{} of {} goes on with the seat of {} of {}.", to.name, to.directory, from.name, from.directory
    );
}

/// Logs that a user is mapped without a name that the entry or the account has.
pub(crate) fn log_clash(clash: &Clash) {
    let Clash { name, owner, claimant, reason } = clash;
    let (user, directory, dn) = (&claimant.name, &claimant.directory, &claimant.dn);
    let owner_name = owner.as_ref().map(|owner| owner.name.to_string());
    let (owner_directory, owner_dn) =
        (owner.as_ref().map(|it| &it.directory), owner.as_ref().map(|it| &it.dn));
    match reason {
        Withheld::Administrator => error!(
            event = "name_clash", directory, %dn, %user, %name,
            "{user} is mapped without {name}, which is the internal administrator's. If this user is the administrator, \
             set [admin] directory; otherwise remove the name from the entry."
        ),
        Withheld::Owned(_) => warn!(
            event = "name_clash", directory, %dn, %user, %name,
            owner = owner_name, owner_directory, owner_dn = owner_dn.map(tracing::field::display),
            "{user} is mapped without {name}, which belongs to {}.", owner_name.as_deref().unwrap_or_default()
        ),
        Withheld::ServedElsewhere => warn!(
            event = "name_clash", directory, %dn, %user, %name,
            owner = owner_name, owner_directory, owner_dn = owner_dn.map(tracing::field::display),
            "{user} is mapped without {name}: other directories serve its domain."
        ),
        // A whole directory may have them where `foreign_names` is false.
        Withheld::Foreign => {
            debug!(directory, %dn, %user, %name, "{user} is mapped without the foreign name {name}.")
        }
    }
}

impl Transaction<'_> {
    /// The internal administrator holds no seat, whatever was configured, mapped or renamed before; and
    /// whether few seats are left is noted in the store, so that it is told once each time it comes to that,
    /// restarts or not.
    pub(super) fn settle(
        &mut self,
        policy: &Policy,
        adopted: Adopted,
        now: Timestamp,
    ) -> Result<Settled, StoreError> {
        let mut settled = Settled { adopted, ..Settled::default() };
        if let Some(key) = self.administrator_key()? {
            settled.released.extend(self.release(key, ReleaseReason::Exempt, now)?);
        }
        let seatless = self.settle_seatless(policy, now)?;
        settled.released.extend(seatless.released);
        settled.seatless_over = seatless.over;
        if let Some(count) = self.seat_count(policy)? {
            let is_new = self.note(SEATS_LOW, u64::from(count.is_low()))?;
            settled.low = (is_new && count.is_low()).then_some(count);
        }
        Ok(settled)
    }

    /// Takes the seats back of those who were not active since `cutoff`, which is asked again here: they may
    /// have logged in since they were listed.
    pub(super) fn reclaim(
        &mut self,
        keys: &[UserKey],
        cutoff: Timestamp,
        now: Timestamp,
        last_login: &LastLoginOf,
    ) -> Result<Vec<(UserKey, Released)>, StoreError> {
        let of = self.seats_used()?;
        let mut reclaimed = Vec::new();
        for key in keys {
            let Some(seat) = self.seat(*key)? else { continue };
            let login = last_login(*key, self.last_login(*key)?.map(|login| login.at));
            if last_used(&seat, login) < cutoff {
                let released = self.release(*key, ReleaseReason::Reclaimed, now)?;
                reclaimed.extend(released.map(|released| (*key, released)));
            }
        }
        self.count_reclaims(reclaimed.len() as u64, of, now)?;
        Ok(reclaimed)
    }

    /// In the same transaction, so that a restart forgets nothing of the hour.
    fn count_reclaims(&mut self, count: u64, of: u64, now: Timestamp) -> Result<(), StoreError> {
        let mut window = reclaims(&self.brakes)?;
        if count == 0 && !window.is_ahead(now) {
            return Ok(());
        }
        window.clip(now);
        if count > 0 {
            window.add(now, count, of);
        }
        self.brakes.insert(RECLAIMS, codec::encode_window(&window).as_slice())?;
        self.is_dirty = true;
        Ok(())
    }
}
