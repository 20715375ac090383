//! The daemon's clock: feeds [`crate::domain::clock`] with the machine's clocks, and logs what it decides.
//!
//! Everything that is stored or decided takes its time from here. Only the log has the wall clock.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tracing::{error, info, warn};

use crate::domain::clock::{self, Kept, Sample, Standing, TooEarly};

/// How often the wall clock is looked at. A glimpse that is shorter may not even be seen.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often the time goes along with what is written anyway.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// The machine's clocks; a test has its own.
pub type Source = Arc<dyn Fn() -> Sample + Send + Sync>;

/// The machine's clocks. The one since the boot counts a suspended machine's time as well.
pub fn system() -> Source {
    Arc::new(|| {
        let up = clock_gettime(ClockId::Boottime);
        let seconds = Duration::from_secs(u64::try_from(up.tv_sec).unwrap_or_default());
        let nanoseconds = Duration::from_nanos(u64::try_from(up.tv_nsec).unwrap_or_default());
        Sample { wall: Timestamp::now(), up: seconds + nanoseconds }
    })
}

/// It is later than this: a machine whose clock says otherwise has an empty battery.
///
/// The date of the build where the build states it, as packagers' tools do (SOURCE_DATE_EPOCH,
/// <https://reproducible-builds.org/specs/source-date-epoch/>); else a day of this source. Not the clock of the machine
/// that builds, so that the same source gives the same program. An older date only says less.
pub fn build_date() -> Timestamp {
    let stated = option_env!("SOURCE_DATE_EPOCH").and_then(|seconds| seconds.parse().ok());
    // 2026-11-24T00:00:00Z
    Timestamp::from_second(stated.unwrap_or(1_795_478_400)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What there is to show.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Trusted time.
    pub trusted: Timestamp,
    /// The wall clock.
    pub wall: Timestamp,
    /// What is to be said of it.
    pub standing: Standing,
    /// The same as a sentence; `None` where all is well.
    pub problem: Option<String>,
}

/// Tells trusted time.
pub struct Clock {
    source: Source,
    state: Mutex<clock::Clock>,
    /// Trusted time less [`Sample::up`], in milliseconds, so that a login waits for no lock.
    offset: AtomicI64,
    /// [`Sample::up`] in seconds when the time was last kept.
    kept: AtomicU64,
    is_due: AtomicBool,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("state", &self.lock()).finish_non_exhaustive()
    }
}

impl Clock {
    /// The clock of a daemon that starts with what was kept.
    pub fn start(kept: Option<Kept>, source: Source) -> Clock {
        let sample = source();
        let state = clock::Clock::start(kept, build_date(), sample);
        tell(Standing::Right, &state, state.trusted(sample.up));
        let clock = Clock {
            source,
            offset: AtomicI64::new(offset(&state, sample)),
            state: Mutex::new(state),
            kept: AtomicU64::new(0),
            is_due: AtomicBool::new(true),
        };
        clock.kept.store(sample.up.as_secs(), Ordering::Relaxed);
        clock
    }

    /// Trusted time, in the milliseconds that the store keeps.
    pub fn now(&self) -> Timestamp {
        let up = (self.source)().up;
        let now = milliseconds(up).saturating_add(self.offset.load(Ordering::Relaxed));
        Timestamp::from_millisecond(now).unwrap_or(Timestamp::MAX)
    }

    /// The time by which something expires or comes into force: it stands still while the wall clock is in doubt.
    pub fn dates(&self) -> Timestamp {
        let up = (self.source)().up;
        self.lock().dates(up)
    }

    /// Trusted time, or the wall clock where that is later: what is signed may be this new.
    pub fn latest(&self) -> Timestamp {
        self.now().max((self.source)().wall)
    }

    /// Looks at the wall clock, which is done every [`LOOK_EVERY`]; whether that has begun or ended a doubt.
    pub fn look(&self) -> bool {
        self.change(clock::Clock::look).0
    }

    /// Looks, and tells whether the wall clock is in doubt: then nothing is taken away from anyone by its age.
    pub fn is_doubted(&self) -> bool {
        self.look();
        self.standing().doubt().is_some()
    }

    /// An administrator says that the wall clock is right. The time that it is.
    pub fn confirm(&self) -> Result<Timestamp, TooEarly> {
        self.change(clock::Clock::confirm).1.map(|()| self.now())
    }

    /// The license server has signed this time just now.
    pub fn signed(&self, time: Timestamp) {
        self.change(|state, sample| state.signed(time, sample));
    }

    /// A license was signed at this time.
    pub fn proved(&self, time: Timestamp) {
        self.change(|state, sample| state.proved(time, sample));
    }

    /// What was found at the last look.
    pub fn standing(&self) -> Standing {
        self.lock().standing()
    }

    /// Looks, and shows.
    pub fn read(&self) -> Reading {
        self.look();
        let sample = (self.source)();
        let state = self.lock();
        Reading {
            trusted: state.trusted(sample.up),
            wall: sample.wall,
            standing: state.standing(),
            problem: state.problem(),
        }
    }

    /// What to keep now, if that is due.
    pub(crate) fn due(&self) -> Option<Kept> {
        let up = (self.source)().up;
        let kept = Duration::from_secs(self.kept.load(Ordering::Relaxed));
        let is_due = self.is_due.load(Ordering::Relaxed) || up.saturating_sub(kept) >= KEEP_EVERY;
        is_due.then(|| self.lock().kept(up))
    }

    /// Makes the next write keep it.
    pub(crate) fn set_due(&self) {
        self.is_due.store(true, Ordering::Relaxed);
    }

    /// It is on disk.
    pub(crate) fn was_kept(&self) {
        self.kept.store((self.source)().up.as_secs(), Ordering::Relaxed);
        self.is_due.store(false, Ordering::Relaxed);
    }

    /// How long ago it was written to disk.
    pub fn since_kept(&self) -> Duration {
        (self.source)().up.saturating_sub(Duration::from_secs(self.kept.load(Ordering::Relaxed)))
    }

    /// Whether a doubt began or ended with it, and what came of it.
    fn change<T>(&self, change: impl FnOnce(&mut clock::Clock, Sample) -> T) -> (bool, T) {
        let mut state = self.lock();
        // Inside the lock, so that the samples come in order.
        let sample = (self.source)();
        let before = state.standing();
        let outcome = change(&mut state, sample);
        self.offset.store(offset(&state, sample), Ordering::Relaxed);
        let is_new = kind(before) != kind(state.standing());
        if is_new {
            self.set_due();
            tell(before, &state, state.trusted(sample.up));
        }
        (is_new, outcome)
    }

    fn lock(&self) -> MutexGuard<'_, clock::Clock> {
        // Each change leaves a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn milliseconds(up: Duration) -> i64 {
    i64::try_from(up.as_millis()).unwrap_or(i64::MAX)
}

fn offset(state: &clock::Clock, sample: Sample) -> i64 {
    state.trusted(sample.up).as_millisecond().saturating_sub(milliseconds(sample.up))
}

/// What tells one thing that is said from another.
fn kind(standing: Standing) -> (u8, Option<Timestamp>) {
    match standing {
        Standing::Right => (0, None),
        Standing::Doubted(doubt) => (1, Some(doubt.since)),
        Standing::Behind => (2, None),
        Standing::Refuted => (3, None),
    }
}

fn tell(before: Standing, state: &clock::Clock, trusted: Timestamp) {
    let problem = state.problem().unwrap_or_default();
    match state.standing() {
        Standing::Right if before == Standing::Right => {}
        Standing::Right => info!(trusted = %trusted, "The clock is trusted: it is {trusted}."),
        Standing::Doubted(doubt) => {
            let since = doubt.since;
            error!(event = "clock_in_doubt", trusted = %trusted, since = %since, "The clock is in doubt: {problem}.");
        }
        Standing::Behind => warn!(trusted = %trusted, "The clock was set back: {problem}."),
        Standing::Refuted => error!(trusted = %trusted, "The clock is wrong: {problem}."),
    }
}
