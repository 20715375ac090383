//! What time it is: trusted time, which a jump of the wall clock does not move.
//!
//! Trusted time is the stored time plus what has run since, by a clock that counts from the boot and cannot be set. The
//! wall clock corrects it forward, by as much as a correct clock may differ: [`STEP`] while the daemon runs,
//! [`LONGEST_OFF`] at a start. A clock that is further ahead is in doubt until it has stayed there for [`HOLD`] of
//! running, or until the license server or an administrator says what time it is. Trusted time never goes back, except
//! when one of those two says so.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How far the wall clock may differ without any doubt: more than a time zone that was mistaken for another.
pub const STEP: SignedDuration = SignedDuration::from_hours(24);

/// How long a machine may have been off without any doubt.
pub const LONGEST_OFF: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How long a clock that is ahead has to stay there before it is believed: long enough to be seen and set.
pub const HOLD: Duration = Duration::from_secs(6 * 3600);

/// Both clocks are not read in the same moment, and one is slewed to a server.
const JITTER: SignedDuration = SignedDuration::from_secs(1);

/// The most that counts as running between two looks, which are closer together: a machine that slept did not run.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// A moment by both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// By the wall clock, which anyone may have set to anything.
    pub wall: Timestamp,
    /// Since the machine started, time asleep included.
    pub up: Duration,
}

/// Why the wall clock is in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It is too far ahead of trusted time.
    Ahead,
    /// Since the daemon started, it has only shown times before the program was built.
    BeforeBuild,
}

/// A doubt about the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// Why.
    pub cause: Cause,
    /// Since when, in trusted time.
    pub since: Timestamp,
    /// How far the wall clock was ahead then.
    pub ahead: SignedDuration,
    /// How long the daemon has run in this doubt, over all its restarts.
    pub ran: Duration,
}

/// What outlives a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Trusted time.
    pub trusted: Timestamp,
    /// What [`Clock`] has proof of.
    pub floor: Timestamp,
    /// A doubt that is not over.
    pub doubt: Option<Doubt>,
}

/// What is to be said of the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is right, as far as can be known.
    Right,
    /// It may be wrong: nothing may depend on a date that comes.
    Doubted(Doubt),
    /// It is behind trusted time by more than [`STEP`]. Trusted time does not depend on it.
    Behind,
    /// It is ahead, and the license server has signed another time.
    Refuted,
}

impl Standing {
    /// The doubt, where there is one.
    pub fn doubt(self) -> Option<Doubt> {
        match self {
            Standing::Doubted(doubt) => Some(doubt),
            Standing::Right | Standing::Behind | Standing::Refuted => None,
        }
    }
}

/// The clock is behind a time that is proved, and cannot be confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the clock says {wall}, but it is later than {floor}: this program was built, or the license was signed, before \
     that and has run since; set the clock first"
)]
pub struct TooEarly {
    wall: Timestamp,
    floor: Timestamp,
}

/// Decides what time it is.
#[derive(Clone, Debug)]
pub struct Clock {
    /// When the program was built.
    build: Timestamp,
    /// When the fields below were true.
    at: Sample,
    trusted: Timestamp,
    /// The latest time that was signed, or built into the program, plus what has run since: it is later than that.
    floor: Timestamp,
    /// How far the wall clock may be ahead of trusted time.
    limit: SignedDuration,
    /// Forward steps that were followed, less what has run since: many small steps are as bad as one.
    followed: SignedDuration,
    doubt: Option<Doubt>,
    /// How far the wall clock was ahead when a signed time said that it is wrong.
    refuted: Option<SignedDuration>,
}

impl Clock {
    /// The clock of a daemon that starts. A new store has nothing to hold against the wall clock but the build.
    pub fn start(kept: Option<Kept>, build: Timestamp, sample: Sample) -> Clock {
        let floor = kept.map_or(build, |kept| kept.floor.max(build));
        let trusted = kept.map_or(floor, |kept| kept.trusted.max(floor));
        let ahead = sample.wall.duration_since(trusted);
        // Nobody knows how long the machine was off; the rest of a clock's difference is the doubt's own.
        let claim = |doubt: Doubt| {
            let is_same = ahead >= doubt.ahead && ahead <= doubt.ahead.saturating_add(LONGEST_OFF);
            Doubt { ahead: if is_same { ahead } else { doubt.ahead }, ..doubt }
        };
        let mut clock = Clock {
            build,
            at: sample,
            trusted,
            floor,
            limit: if kept.is_some() { LONGEST_OFF } else { SignedDuration::MAX },
            followed: SignedDuration::ZERO,
            doubt: kept.and_then(|kept| kept.doubt).map(claim),
            refuted: None,
        };
        clock.judge(sample.wall);
        clock
    }

    /// Looks at the wall clock.
    pub fn look(&mut self, sample: Sample) {
        self.run(sample);
        self.judge(sample.wall);
    }

    /// An administrator says that the wall clock is right, also where trusted time is ahead of it.
    pub fn confirm(&mut self, sample: Sample) -> Result<(), TooEarly> {
        self.run(sample);
        let wall = sample.wall;
        if wall < minus(self.floor, STEP) {
            return Err(TooEarly { wall, floor: self.floor });
        }
        self.trusted = wall;
        self.settle();
        Ok(())
    }

    /// The license server has signed this time, in answer to our own question.
    pub fn signed(&mut self, time: Timestamp, sample: Sample) {
        self.run(sample);
        self.floor = if time < minus(self.floor, STEP) { time } else { self.floor.max(time) };
        if time < minus(self.trusted, STEP) {
            self.trusted = time;
        }
        self.trusted = self.trusted.max(time);
        self.settle();
        let ahead = sample.wall.duration_since(self.trusted);
        self.refuted = Some(ahead).filter(|ahead| *ahead > STEP);
        self.judge(sample.wall);
    }

    /// A license that was signed at this time is there: it is later than that.
    pub fn proved(&mut self, time: Timestamp, sample: Sample) {
        self.run(sample);
        self.floor = self.floor.max(time);
        self.trusted = self.trusted.max(time);
        self.judge(sample.wall);
    }

    /// Trusted time, at so much [`Sample::up`].
    pub fn trusted(&self, up: Duration) -> Timestamp {
        plus_time(self.trusted, up.saturating_sub(self.at.up))
    }

    /// The time by which something may expire or come into force: it stands still in a doubt.
    pub fn dates(&self, up: Duration) -> Timestamp {
        self.doubt.map_or_else(|| self.trusted(up), |doubt| doubt.since)
    }

    /// What is to be said of the wall clock, as of the last look.
    pub fn standing(&self) -> Standing {
        let ahead = self.at.wall.duration_since(self.trusted);
        match self.doubt {
            Some(doubt) => Standing::Doubted(doubt),
            None if ahead > STEP => Standing::Refuted,
            None if ahead < -STEP => Standing::Behind,
            None => Standing::Right,
        }
    }

    /// The same as a sentence, with what follows and what to do; `None` where all is well.
    pub fn problem(&self) -> Option<String> {
        let (wall, trusted, build) = (shown(self.at.wall), shown(self.trusted), shown(self.build));
        let ahead = length(self.at.wall.duration_since(self.trusted));
        let held = "nothing is reclaimed, forgotten or expired by date";
        match self.standing() {
            Standing::Right => None,
            Standing::Doubted(Doubt { cause: Cause::Ahead, ran, .. }) => {
                let left = HOLD.saturating_sub(ran).as_secs().div_ceil(60);
                let (hours, minutes) = (left / 60, left % 60);
                Some(format!(
                    "the clock says {wall}, {ahead} ahead of {trusted}, the time that is trusted: {held} until it is \
                     set, or has stayed there for {hours} h {minutes} min more; if it is right: seatkeeper clock confirm"
                ))
            }
            Standing::Doubted(Doubt { cause: Cause::BeforeBuild, .. }) => Some(format!(
                "the clock says {wall}, before this program was built ({build}): {held} until the clock is set"
            )),
            Standing::Behind => Some(format!(
                "the clock says {wall}, {ahead} behind {trusted}, which goes on and counts: set the clock, or, if it is \
                 right: seatkeeper clock confirm"
            )),
            Standing::Refuted => Some(format!(
                "the clock says {wall}, {ahead} ahead of the time that the license server signed, which counts: set the \
                 clock"
            )),
        }
    }

    /// What to keep, at so much [`Sample::up`].
    pub fn kept(&self, up: Duration) -> Kept {
        let floor = plus_time(self.floor, up.saturating_sub(self.at.up));
        Kept { trusted: self.trusted(up), floor, doubt: self.doubt }
    }

    fn run(&mut self, sample: Sample) {
        let elapsed = sample.up.saturating_sub(self.at.up);
        self.trusted = self.trusted(sample.up);
        self.floor = plus_time(self.floor, elapsed);
        let elapsed_signed = SignedDuration::try_from(elapsed).unwrap_or(SignedDuration::MAX);
        self.followed = self.followed.saturating_sub(elapsed_signed).max(SignedDuration::ZERO);
        if let Some(doubt) = &mut self.doubt {
            doubt.ran = doubt.ran.saturating_add(elapsed.min(LONGEST_LOOK));
        }
        self.at = Sample { wall: sample.wall, up: sample.up.max(self.at.up) };
    }

    /// Follows the wall clock, or doubts it.
    fn judge(&mut self, wall: Timestamp) {
        let ahead = wall.duration_since(self.trusted);
        if wall < self.build && self.limit > STEP {
            return self.begin(Cause::BeforeBuild, ahead);
        }
        let allowed = |limit: SignedDuration| limit.saturating_sub(self.followed).max(JITTER);
        let same = self.doubt.filter(|doubt| doubt.cause == Cause::Ahead && is_near(doubt.ahead, ahead));
        match same {
            Some(doubt) if doubt.ran >= HOLD => self.follow(wall, SignedDuration::ZERO),
            // A start does not end a doubt.
            Some(_) if ahead > allowed(STEP) => {}
            _ if ahead > allowed(self.limit) => {
                if self.refuted.is_some_and(|refuted| is_near(refuted, ahead)) {
                    self.doubt = None;
                } else {
                    self.begin(Cause::Ahead, ahead);
                }
            }
            // How long the machine was off is no step.
            _ if self.limit > STEP => self.follow(wall, SignedDuration::ZERO),
            _ => self.follow(wall, self.followed.saturating_add(ahead.max(SignedDuration::ZERO))),
        }
    }

    fn begin(&mut self, cause: Cause, ahead: SignedDuration) {
        let is_same = |doubt: Doubt| cause == Cause::BeforeBuild && doubt.cause == cause;
        if !self.doubt.is_some_and(is_same) {
            self.doubt = Some(Doubt { cause, since: self.trusted, ahead, ran: Duration::ZERO });
        }
    }

    fn follow(&mut self, wall: Timestamp, followed: SignedDuration) {
        self.trusted = self.trusted.max(wall);
        self.settle();
        self.followed = followed;
    }

    /// The wall clock is right, or is known to be wrong.
    fn settle(&mut self) {
        self.limit = STEP;
        self.followed = SignedDuration::ZERO;
        self.doubt = None;
        self.refuted = None;
    }
}

fn is_near(one: SignedDuration, other: SignedDuration) -> bool {
    one.saturating_sub(other).abs() <= STEP
}

fn minus(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.saturating_sub(duration).unwrap_or(at)
}

fn plus_time(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

fn shown(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A difference for people.
fn length(difference: SignedDuration) -> String {
    match difference.abs().as_hours() {
        hours @ 0..48 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests;
