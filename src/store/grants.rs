//! Seats for a list of users: all of it in one transaction, so that no crash leaves half of it, and the last seats are
//! shared with logins rightly.

use jiff::Timestamp;

use super::accounts::request;
use super::import::{BEAT_EVERY, MAX_TOLD, MAX_TOLD_OF_FAILURE};
use super::tables::Lookup;
use super::transaction::Transaction;
use super::writer::Command;
use super::{Policy, Store, StoreError};
use crate::domain::account::Mistake;
use crate::domain::admission::{Decision, Operation, decide};
use crate::domain::name::Name;

/// Line and name of a user; the name is one that the user logs in with. A mistake is a line that means no user.
pub type GrantLine = (u64, Result<Name, Mistake>);

/// A list of users, and what to do with it.
pub struct Grants {
    /// The users.
    pub lines: Vec<GrantLine>,
    /// Grant what can be granted, instead of all or nothing.
    pub partial: bool,
    /// Only say what would happen.
    pub dry_run: bool,
    /// The time of the grants.
    pub now: Timestamp,
}

/// What became of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Granted {
    /// It was written.
    pub applied: bool,
    /// Users who took a seat.
    pub granted: u64,
    /// Users who held one already.
    pub held: u64,
    /// Users who need none.
    pub exempt: u64,
    /// Lines that got none.
    pub refused: u64,
    /// Seats that all of the list needs beyond those held.
    pub seats_needed: u64,
    /// Seats free before it.
    pub seats_free: u64,
    /// Seats taken after it; after it would be applied, in a dry run.
    pub seats_used: u64,
    /// The first of those who took a seat, with their lines.
    pub granted_users: Vec<(u64, Name)>,
    /// The first of the refused lines.
    pub refusals: Vec<(u64, Mistake)>,
}

impl Store {
    /// Grants seats to a list of users, all or nothing unless it says otherwise; on disk when this returns.
    pub async fn grant_list(&self, grants: Grants) -> Result<Granted, StoreError> {
        self.ask(|reply| Command::GrantList { grants: Box::new(grants), reply }).await
    }
}

impl Transaction<'_> {
    /// Grants a list of seats through the one gate. The caller drops the transaction where the outcome is not to be
    /// applied. `beat` is called now and then while it goes on.
    pub(super) fn grant_list(
        &mut self,
        grants: Grants,
        policy: &Policy,
        beat: &dyn Fn(),
    ) -> Result<Granted, StoreError> {
        let Grants { lines, partial, dry_run, now } = grants;
        let seats_free = self.seat_count(policy)?.map_or(0, |count| count.free());
        let mut granted = Granted { seats_free, ..Granted::default() };
        let told = if partial || dry_run { MAX_TOLD } else { MAX_TOLD_OF_FAILURE };
        for (count, (line, name)) in (1u64..).zip(lines) {
            if count.is_multiple_of(BEAT_EVERY) {
                beat();
            }
            let mistake = match name {
                Ok(name) => self.grant_line(line, name, &mut granted, policy, now)?,
                Err(mistake) => Some(mistake),
            };
            if let Some(mistake) = mistake {
                granted.refused += 1;
                if granted.refusals.len() < told {
                    granted.refusals.push((line, mistake));
                }
            }
        }
        granted.applied = !dry_run && (partial || granted.refused == 0);
        granted.seats_used = self.seats_used()?;
        Ok(granted)
    }

    /// Why the user of a line gets no seat.
    fn grant_line(
        &mut self,
        line: u64,
        name: Name,
        granted: &mut Granted,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Option<Mistake>, StoreError> {
        let request = request(Operation::Grant);
        let (key, view) = self.admission_view(&name, request.operation.purpose(), None, policy)?;
        match (decide(&view, &request, now), key) {
            (Decision::Granted(seat), Some(key)) => {
                self.grant(key, &seat)?;
                self.pass_on(key, now)?;
                granted.granted += 1;
                granted.seats_needed += 1;
                if granted.granted_users.len() < MAX_TOLD {
                    granted.granted_users.push((line, name));
                }
            }
            (Decision::Held, _) => granted.held += 1,
            (Decision::Exempt, _) => granted.exempt += 1,
            (decision, _) => {
                let needs_more = matches!(decision, Decision::Exhausted | Decision::DomainExhausted);
                granted.seats_needed += u64::from(needs_more);
                let message = decision.advice(view.seats);
                return Ok(Some(Mistake { user: Some(name.to_string()), reason: decision.code(), message }));
            }
        }
        Ok(None)
    }
}
