//! Seats that follow people to other entries because an administrator says so.

use std::sync::Arc;

use jiff::Timestamp;

use super::admin::{Admin, AdminError, blocking};
use super::answers::{MoveReport, MovedPerson, MovingPerson, UnmovedPerson};
use super::log_move;
use super::resolve::Wanted;
use crate::domain::moves::{MatchBy, NotMoved, Pairs};
use crate::domain::user::{DirectoryId, Origin, UserKey};
use crate::store::{Kin, Moved, ReadView, Store, StoreError, UserDetails};

/// People carried over in one transaction, each of them whole: some milliseconds, for which a first login waits.
pub const MOVES_A_COMMIT: usize = 200;

/// People listed in a report; the others are counted. It is built in memory, some 500 bytes each.
const LISTED: usize = 10_000;

/// Whose seats are carried over to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveOrder {
    /// By which name.
    pub by: MatchBy,
    /// The directory of the old entries.
    pub from: String,
    /// The directory of the new ones: where it is the same, the old ones are the tombstones.
    pub to: String,
    /// Only tombstones made at or after this time are old entries.
    pub removed_since: Option<Timestamp>,
    /// Change nothing.
    pub dry_run: bool,
}

type Decided = Vec<(UserKey, Result<UserKey, NotMoved>)>;

/// Carries everything over to the entries that match one to one, a bounded number of people in each transaction. What was
/// carried over before an interruption is not found again.
pub async fn carry_over(store: &Store, order: &MoveOrder) -> Result<MoveReport, AdminError> {
    let view = store.view();
    let from = mapped(&view, &order.from)?;
    let to = mapped(&view, &order.to)?;
    if !view.name_rules().is_configured(&order.to) {
        return Err(AdminError::NoSuchDirectory(order.to.clone()));
    }
    let (by, since, reading) = (order.by, order.removed_since, Arc::clone(&view));
    let decided = blocking(move || pairs(&reading, by, from, to, since)).await?;
    let mut report = MoveReport { dry_run: order.dry_run, ..MoveReport::default() };
    for decided in decided.chunks(MOVES_A_COMMIT) {
        let pairs: Vec<(UserKey, UserKey)> =
            decided.iter().filter_map(|(old, new)| new.ok().map(|new| (*old, new))).collect();
        let outcomes = match order.dry_run {
            true => pairs.iter().map(|(old, new)| view.may_carry(*old, *new)).collect::<Result<_, _>>()?,
            false => carry(store, pairs).await?,
        };
        let mut outcomes = outcomes.into_iter();
        for (old, new) in decided {
            let outcome = new.and_then(|new| outcomes.next().unwrap_or(Err(NotMoved::Changed)).map(|()| new));
            report.add(&view, *old, outcome)?;
        }
    }
    report.seats_used = store.view().seats_used()?;
    Ok(report)
}

async fn carry(
    store: &Store,
    pairs: Vec<(UserKey, UserKey)>,
) -> Result<Vec<Result<(), NotMoved>>, StoreError> {
    let moved = store.carry(pairs, Kin::Declared, store.now()).await?;
    moved.iter().flatten().for_each(log_move);
    Ok(moved.into_iter().map(|moved| moved.map(|Moved { .. }| ())).collect())
}

fn mapped(view: &ReadView, name: &str) -> Result<DirectoryId, AdminError> {
    let record = view.directory_named(name).filter(|record| record.origin() == Origin::Mapped);
    record.map(|record| record.id).ok_or_else(|| AdminError::NothingStored(name.to_owned()))
}

/// Old entries, each with its new one; those without one that have something as well. Reads both directories.
fn pairs(
    view: &ReadView,
    by: MatchBy,
    from: DirectoryId,
    to: DirectoryId,
    removed_since: Option<Timestamp>,
) -> Result<Decided, StoreError> {
    let bare = |directory| {
        let record = view.directory(directory)?;
        Some(view.name_rules().bare_domain(&record.name)?.as_str().to_owned())
    };
    let (bare_from, bare_to) = (bare(from), bare(to));
    let mut pairs = Pairs::default();
    for user in view.users_of(from)? {
        let (key, user) = user?;
        let is_old = match (from == to || removed_since.is_some(), user.removed_at) {
            (true, None) => false,
            (_, at) => removed_since.is_none_or(|since| at >= Some(since)),
        };
        if is_old {
            pairs.add_old(key, &by.names(&user.mapped, bare_from.as_deref()));
        }
    }
    for user in view.users_of(to)? {
        let (key, user) = user?;
        if user.is_living() {
            pairs.add_new(key, &by.names(&user.mapped, bare_to.as_deref()));
        }
    }
    let is_of_use = |(old, new): &(UserKey, Result<_, _>)| match new {
        Ok(_) => Ok(true),
        Err(_) => view.has_belongings(*old),
    };
    let decided = pairs.decide().filter_map(|pair| is_of_use(&pair).map(|it| it.then_some(pair)).transpose());
    decided.collect()
}

impl MoveReport {
    /// Adds what became of one old entry. One without a seat to whom nobody corresponds is only counted.
    fn add(
        &mut self,
        view: &ReadView,
        old: UserKey,
        outcome: Result<UserKey, NotMoved>,
    ) -> Result<(), AdminError> {
        let seat = view.seat_of(old)?.is_some();
        match outcome {
            Ok(new) => {
                self.moved_total += 1;
                self.seats_moved += u64::from(seat);
                if self.moved.len() < LISTED {
                    self.moved.push(MovedPerson { old: person(view, old)?, new: person(view, new)?, seat });
                }
            }
            Err(NotMoved::Nothing) => {}
            Err(reason) => {
                self.skipped_total += 1;
                if (seat || reason != NotMoved::NoMatch) && self.skipped.len() < LISTED {
                    let (message, reason) = (reason.sentence().to_owned(), reason.code().to_owned());
                    self.skipped.push(UnmovedPerson { old: person(view, old)?, seat, reason, message });
                }
            }
        }
        Ok(())
    }
}

fn person(view: &ReadView, key: UserKey) -> Result<MovingPerson, AdminError> {
    Ok(view.details(key)?.ok_or(AdminError::Interrupted)?.into())
}

impl Admin {
    /// `seats move --match`: see [`carry_over`].
    pub async fn move_matching(&self, order: &MoveOrder) -> Result<MoveReport, AdminError> {
        // Last logins that wait to be written belong to the old entries.
        self.flushed_view().await?;
        carry_over(self.store(), order).await
    }

    /// `seats move OLD NEW`: everything of one user goes to another.
    pub async fn move_one(&self, old: &str, new: &str) -> Result<MoveReport, AdminError> {
        let view = self.flushed_view().await?;
        let old = self.resolve_as(&view, old, Wanted::Holder).await?;
        let new = self.resolve_as(&view, new, Wanted::Living).await?;
        let mut report = MoveReport::default();
        let outcome = carry(self.store(), vec![(old, new)]).await?.pop().unwrap_or(Err(NotMoved::Gone));
        if let Err(reason) = outcome {
            let (old, new) = (person(&view, old)?, person(&view, new)?);
            return Err(AdminError::NotMoved(old.shown(), new.shown(), reason));
        }
        report.add(&view, old, Ok(new))?;
        report.seats_used = self.store().view().seats_used()?;
        Ok(report)
    }
}

impl From<UserDetails> for MovingPerson {
    fn from(details: UserDetails) -> MovingPerson {
        MovingPerson {
            user: details.name.to_string(),
            id: details.user.mapped.id.to_string(),
            dn: details.user.mapped.dn.to_string(),
            directory: details.directory,
            removed_at: details.user.removed_at,
        }
    }
}

impl MovingPerson {
    /// Two entries of one person may have the same names.
    fn shown(&self) -> String {
        format!("{} ({})", self.user, self.id)
    }
}
