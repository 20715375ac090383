//! What an administrator sees of the clock, and says about it.

use tracing::debug;

use super::admin::{Admin, AdminError};
use super::answers::{ClockChange, ClockStatus};
use super::license::LicenseCommand;
use crate::clock::Clock;

/// The clock, for people.
pub(super) fn status(clock: &Clock) -> ClockStatus {
    let reading = clock.read();
    let doubt = reading.standing.doubt();
    ClockStatus {
        trusted: reading.trusted,
        wall: reading.wall,
        in_doubt: doubt.is_some(),
        since: doubt.map(|doubt| doubt.since),
        problem: reading.problem,
    }
}

impl Admin {
    /// The wall clock is right, as an administrator says: it counts from now on, and every doubt is over.
    pub async fn confirm_clock(&self) -> Result<ClockChange, AdminError> {
        let store = self.store();
        let before = store.now();
        let now = store.clock().confirm()?;
        // It counts all the same, and is written with the next change.
        if let Err(error) = store.keep_time().await {
            debug!(error = %error, "The confirmed time could not be written.");
        }
        self.look_at_license().await;
        let (before, now) = (before.strftime("%FT%TZ"), now.strftime("%FT%TZ"));
        let message =
            format!("Confirmed: the clock is right, and it is {now}. Before this, {before} counted.");
        Ok(ClockChange { message, clock: status(store.clock()) })
    }

    /// An error while the clock is in doubt.
    pub(super) fn check_clock(&self) -> Result<(), AdminError> {
        let ClockStatus { in_doubt, problem, .. } = status(self.store().clock());
        if in_doubt { Err(AdminError::ClockInDoubt(problem.unwrap_or_default())) } else { Ok(()) }
    }

    /// Has the licence's keeper look at its dates. It does so by itself within a minute.
    async fn look_at_license(&self) {
        if let Err(error) = self.license_board().ask(|reply| LicenseCommand::Look { reply }).await {
            debug!(error = %error, "The licence's dates are looked at later.");
        }
    }
}
