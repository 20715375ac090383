//! The brake: how much may be taken away within an hour, by a sync or by a reclaim.
//!
//! Two sums are kept for each directory, with the same limit: people who lose something, and disabled people
//! who are enabled again, each of whom could take a seat. A reclaim of seats has a sum of its own. What an
//! administrator approved is in none of them.

use std::fmt;

use jiff::Timestamp;

use super::mapping::{MAX_NAMES, Remapped};
use super::name::Name;
use super::user::{Kind, Mapped, User};

/// `[directory.….brake]` and `[seats.brake]`: how many may go within an hour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Brake {
    /// This share of the mapped users, or of the seats in use, in percent, 0 to 100,
    pub max_removals_percent: u8,
    /// but never fewer than this
    pub min_removals: u64,
    /// nor more than this.
    pub max_removals: u64,
}

impl Default for Brake {
    /// Among what others chose (Entra 500, Okta 20 %, GCDS 5 %), with room for a small team's week.
    fn default() -> Brake {
        Brake { max_removals_percent: 10, min_removals: 3, max_removals: 500 }
    }
}

impl Brake {
    /// For seats that nobody uses: their users take one again with the next login, so more of them may go.
    pub const OF_SEATS: Brake = Brake { max_removals_percent: 20, min_removals: 5, max_removals: 500 };

    /// How many of this many may go.
    pub fn allowance(&self, of: u64) -> u64 {
        let share = u128::from(of) * u128::from(self.max_removals_percent) / 100;
        // The share is at most `of`, which fits.
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        share.max(self.min_removals).min(self.max_removals.max(self.min_removals))
    }
}

/// Minutes for which a loss counts: each is kept by its minute, so that it counts for an hour and up to a
/// minute more, never less than an hour.
const WINDOW: i64 = 61;

/// What happened in one minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Minute {
    /// The minute since 1970.
    pub at: i64,
    /// How many went.
    pub count: u64,
    /// How many there were before: the share of the brake is a share of them, or it would grow with each bite.
    pub of: u64,
}

/// What went in the last hour, to the minute.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Window {
    /// At most [`WINDOW`] of them, the oldest first.
    minutes: Vec<Minute>,
}

impl Window {
    /// The window that [`minutes`](Window::minutes) returned.
    pub fn from_minutes(minutes: Vec<Minute>) -> Window {
        Window { minutes }
    }

    /// The minutes in which something went.
    pub fn minutes(&self) -> &[Minute] {
        &self.minutes
    }

    /// How many went in the hour before `now`.
    pub fn sum(&self, now: Timestamp) -> u64 {
        self.counted(minute(now)).map(|minute| minute.count).sum()
    }

    /// How many there were at most in that hour, as far as the window knows.
    fn of(&self, now: i64) -> u64 {
        self.counted(now).map(|minute| minute.of).max().unwrap_or(0)
    }

    fn counted(&self, now: i64) -> impl Iterator<Item = &Minute> {
        self.minutes.iter().filter(move |minute| minute.at > now - WINDOW)
    }

    /// Counts what goes now, out of `of`.
    pub fn add(&mut self, now: Timestamp, count: u64, of: u64) {
        self.clip(now);
        let at = minute(now);
        self.minutes.retain(|minute| minute.at > at - WINDOW);
        match self.minutes.last_mut() {
            Some(last) if last.at >= at => {
                last.count += count;
                last.of = last.of.max(of);
            }
            _ => self.minutes.push(Minute { at, count, of }),
        }
    }

    /// Whether something is stamped later than `now`, because the clock was ahead.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.minutes.last().is_some_and(|last| last.at > minute(now))
    }

    /// Moves what is stamped later than `now` to `now`: it goes on counting, but for an hour and not until the
    /// clock comes to where it was.
    pub fn clip(&mut self, now: Timestamp) {
        let at = minute(now);
        let first = self.minutes.partition_point(|minute| minute.at < at);
        let merged = self.minutes.drain(first..).reduce(|sum, next| Minute {
            at,
            count: sum.count + next.count,
            of: sum.of.max(next.of),
        });
        self.minutes.extend(merged.map(|merged| Minute { at, ..merged }));
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

/// The two sums of a directory over the last hour.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hour {
    /// People who lost something.
    pub losses: Window,
    /// Disabled people who were enabled again.
    pub enablings: Window,
}

impl Hour {
    /// Counts what happened now to `people`.
    pub fn add(&mut self, now: Timestamp, happened: Counts, people: u64) {
        for (window, count) in [(&mut self.losses, happened.lost), (&mut self.enablings, happened.enabled)] {
            if count > 0 {
                window.add(now, count, people);
            }
        }
    }

    /// Whether one of them has something that is stamped later than `now`.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.losses.is_ahead(now) || self.enablings.is_ahead(now)
    }

    /// See [`Window::clip`].
    pub fn clip(&mut self, now: Timestamp) {
        self.losses.clip(now);
        self.enablings.clip(now);
    }
}

/// One sum with its limit at one moment. Everything that the brake decides, [`Limit::judge`] decides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    brake: Brake,
    window: Window,
    of: u64,
    now: i64,
    approved: u64,
}

impl Limit {
    /// The limit where there are `of` now, and this went before. `approved` may go in any case: an administrator
    /// was shown that many and let them through.
    pub fn new(brake: Brake, window: &Window, of: u64, approved: u64, now: Timestamp) -> Limit {
        let mut window = window.clone();
        window.clip(now);
        Limit { brake, window, of, now: minute(now), approved }
    }

    /// How many may go now.
    pub fn room(&self) -> u64 {
        self.left(self.now).max(self.approved)
    }

    fn left(&self, minute: i64) -> u64 {
        let before: u64 = self.window.counted(minute).map(|minute| minute.count).sum();
        self.at_most(minute).saturating_sub(before)
    }

    fn at_most(&self, minute: i64) -> u64 {
        self.brake.allowance(self.of.max(self.window.of(minute)))
    }

    /// Whether `more` may go now.
    pub fn judge(&self, more: u64) -> Result<(), Excess> {
        if more <= self.room() { Ok(()) } else { Err(self.excess(more)) }
    }

    /// The state of the sum for `more` that are held back.
    pub fn excess(&self, more: u64) -> Excess {
        let leaves = self.window.minutes.iter().map(|minute| minute.at + WINDOW);
        let until = leaves.filter(|at| *at > self.now).find(|at| more <= self.left(*at));
        Excess {
            more,
            before: self.window.counted(self.now).map(|minute| minute.count).sum(),
            at_most: self.at_most(self.now),
            until: until.and_then(|minute| Timestamp::from_second(minute * 60).ok()),
        }
    }
}

/// A sum that would pass its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Excess {
    /// How many would go now.
    pub more: u64,
    /// How many went in the last hour.
    pub before: u64,
    /// How many may go in an hour.
    pub at_most: u64,
    /// When enough of what went before is older than an hour; `None` where that is not enough.
    pub until: Option<Timestamp>,
}

/// `1 more, after 3 in the last hour, of at most 3; until 14:05 UTC`.
impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excess { more, before, at_most, until } = self;
        write!(f, "{more} more, after {before} in the last hour, of at most {at_most}")?;
        match until {
            Some(until) => write!(f, "; until {} UTC", until.strftime("%H:%M")),
            None => Ok(()),
        }
    }
}

/// The sums of a directory that would pass their limits, in words.
pub fn sums(losses: Option<Excess>, enablings: Option<Excess>) -> impl Iterator<Item = String> {
    let words = |what: &str, excess: Excess| {
        let until = if excess.until.is_none() { "; until approved" } else { "" };
        format!("{what}: {excess}{until}")
    };
    let losses = losses.map(|excess| words("losses", excess));
    let enablings = enablings.map(|excess| words("enabled again", excess));
    losses.into_iter().chain(enablings)
}

/// What an update of one user counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Toll {
    /// An enabled person is disabled, or is no longer a person.
    Disabled,
    /// The holder of a seat needs none any more, by an attribute, and would lose it.
    Seatless,
    /// An enabled person has fewer names than before.
    Names,
    /// A disabled person is enabled, and could take a seat.
    Enabled,
}

impl Remapped {
    /// Whether it is another configuration that costs it.
    pub fn excuses(self, toll: Toll) -> bool {
        match toll {
            Toll::Names => self.names,
            Toll::Seatless => self.seatless,
            Toll::Disabled | Toll::Enabled => false,
        }
    }
}

/// A disable that is undone within this time was a mistake of the directory's, not a new person.
const UNDO_SECONDS: i64 = 24 * 3600;

/// Whether an entry makes a user seatless who was not.
pub fn becomes_seatless(stored: &User, mapped: &Mapped) -> bool {
    stored.is_active() && !stored.mapped.seatless && mapped.is_active() && mapped.seatless
}

/// What an entry costs the user whom the mirror holds under its id. `gives_up_seat` is set where they hold a seat and
/// [`becomes_seatless`].
pub fn toll(stored: &User, mapped: &Mapped, gives_up_seat: bool, now: Timestamp) -> Option<Toll> {
    let is_active = mapped.is_active();
    if stored.is_active() {
        return match (is_active, gives_up_seat) {
            (false, _) => Some(Toll::Disabled),
            (true, true) => Some(Toll::Seatless),
            (true, false) => (name_count(mapped) < name_count(&stored.mapped)).then_some(Toll::Names),
        };
    }
    let was_disabled = stored.mapped.kind == Kind::Person && !stored.mapped.enabled;
    (was_disabled && is_active && !is_recent(stored.disabled_at, now)).then_some(Toll::Enabled)
}

/// A name that a user has as a login name and as an address counts twice: each is looked up by itself, and
/// most people have the same name for both.
fn name_count(mapped: &Mapped) -> usize {
    mapped.logins.len() + mapped.addresses.len()
}

fn is_recent(disabled_at: Option<Timestamp>, now: Timestamp) -> bool {
    // A clock that was ahead may have stamped it, which must not last forever either.
    disabled_at.is_some_and(|at| at.duration_since(now).as_secs().abs() <= UNDO_SECONDS)
}

/// What of an entry may be written while the brake holds it back: everything that takes nothing away, and that
/// enables nobody.
pub fn held_back(stored: &User, mapped: Mapped, now: Timestamp) -> Mapped {
    let before = &stored.mapped;
    match toll(stored, &mapped, becomes_seatless(stored, &mapped), now) {
        None => mapped,
        Some(Toll::Enabled) => Mapped { enabled: false, ..mapped },
        Some(Toll::Disabled | Toll::Seatless | Toll::Names) => Mapped {
            kind: before.kind,
            enabled: before.enabled,
            seatless: before.seatless && mapped.seatless,
            logins: union(&before.logins, mapped.logins),
            addresses: union(&before.addresses, mapped.addresses),
            ..mapped
        },
    }
}

/// The names that were there, then as many of the gained ones as a user may have.
fn union(before: &[Name], after: Vec<Name>) -> Vec<Name> {
    let room = MAX_NAMES.saturating_sub(before.len());
    let gained: Vec<Name> = after.into_iter().filter(|name| !before.contains(name)).take(room).collect();
    before.iter().cloned().chain(gained).collect()
}

/// Users whom a sync would take something from, or enable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loss {
    /// Living people who are gone.
    pub removed: u64,
    /// Enabled people who are disabled, or are no longer people.
    pub disabled: u64,
    /// Holders of seats who need none any more.
    pub seatless: u64,
    /// Enabled people who are left with fewer names.
    pub names: u64,
    /// Disabled people who are enabled again.
    pub enabled: u64,
    /// Living people before the sync.
    pub people: u64,
    /// The directory showed no person at all, where there had been some.
    pub empty: bool,
}

impl Loss {
    /// People who lose something.
    pub fn total(self) -> u64 {
        self.removed + self.disabled + self.seatless + self.names
    }
}

/// How much of each sum happened, or may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// People who lose something.
    pub lost: u64,
    /// Disabled people who are enabled again.
    pub enabled: u64,
}

impl Counts {
    /// What is left when `other` is taken off.
    pub fn less(self, other: Counts) -> Counts {
        Counts {
            lost: self.lost.saturating_sub(other.lost),
            enabled: self.enabled.saturating_sub(other.enabled),
        }
    }
}

/// What the brake holds back of a sync.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Who is affected, counted; what is not held back counts as zero.
    pub loss: Loss,
    /// Set when losses are held back.
    pub losses: Option<Excess>,
    /// Set when people stay disabled.
    pub enablings: Option<Excess>,
    /// Who they are.
    pub affected: Affected,
}

/// Users by name, as many as people read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affected {
    /// At most [`Affected::SHOWN`], holders of seats first.
    pub users: Vec<Name>,
    /// How many of all who are affected hold a seat.
    pub seats: u64,
}

impl Affected {
    /// What fits on a screen, and in a line of a log.
    pub const SHOWN: usize = 20;
}

impl Held {
    /// What an approval lets through: what an administrator was shown.
    pub fn shown(&self) -> Counts {
        Counts { lost: self.loss.total(), enabled: self.loss.enabled }
    }

    /// Whether it affects other users than `before`, so that an administrator should read it again.
    pub fn is_news(&self, before: Option<&Held>) -> bool {
        let affects = |held: &Held| (Loss { people: 0, ..held.loss }, held.affected.clone());
        before.map(affects) != Some(affects(self))
    }
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.users.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
