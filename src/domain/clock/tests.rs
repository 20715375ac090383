use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Seconds after the build.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A machine whose clocks the test moves. `truth` is the time that it really is.
#[derive(Debug)]
struct Machine {
    truth: i64,
    /// How far the wall clock is off.
    wrong: i64,
    up: i64,
    clock: Clock,
}

impl Machine {
    /// A new store, a hundred days after the build.
    fn new() -> Machine {
        let (truth, up) = (100 * DAY, 7);
        let sample = Sample { wall: at(truth), up: Duration::from_secs(7) };
        Machine { truth, wrong: 0, up, clock: Clock::start(None, at(0), sample) }
    }

    fn sample(&self) -> Sample {
        Sample { wall: at(self.truth + self.wrong), up: Duration::from_secs(self.up as u64) }
    }

    fn look(&mut self) {
        self.clock.look(self.sample());
    }

    /// The wall clock is off by so much from now on.
    fn set(&mut self, wrong: i64) {
        self.wrong = wrong;
        self.look();
    }

    /// Runs on, and looks now and then.
    fn run(&mut self, seconds: i64) {
        let end = self.truth + seconds;
        while self.truth < end {
            let step = MINUTE.min(end - self.truth);
            (self.truth, self.up) = (self.truth + step, self.up + step);
            self.look();
        }
    }

    /// Asleep; the clock since the boot counts on.
    fn sleep(&mut self, seconds: i64) {
        (self.truth, self.up) = (self.truth + seconds, self.up + seconds);
        self.look();
    }

    /// Off, then a boot, with the wall clock off by so much.
    fn reboot(&mut self, off: i64, wrong: i64) {
        let kept = self.clock.kept(self.sample().up);
        (self.truth, self.wrong, self.up) = (self.truth + off, wrong, 3);
        self.clock = Clock::start(Some(kept), at(0), self.sample());
    }

    /// How far trusted time is off.
    fn error(&self) -> i64 {
        self.clock.trusted(self.sample().up).duration_since(at(self.truth)).as_secs()
    }

    fn dates(&self) -> Timestamp {
        self.clock.dates(self.sample().up)
    }

    fn is_doubted(&self) -> bool {
        matches!(self.clock.standing(), Standing::Doubted(_))
    }

    /// Trusted time is off by so much, and in doubt or not.
    #[track_caller]
    fn check(&self, error: i64, is_doubted: bool) {
        assert_eq!((self.error(), self.is_doubted()), (error, is_doubted), "{self:#?}");
        assert_eq!(self.clock.problem().is_none(), self.clock.standing() == Standing::Right);
    }
}

#[test]
fn a_jump_of_a_running_machines_clock() {
    // How far it jumps; how far trusted time follows at once, and in 7 hours; whether it is in doubt until then.
    for (jump, follows, later, is_doubted) in [
        (0, 0, 0, false),
        (1, 1, 1, false),
        (DAY, DAY, DAY, false),
        (DAY + 2, 0, DAY + 2, true),
        (14 * 365 * DAY, 0, 14 * 365 * DAY, true),
        (-1, 0, 0, false),
        (-40 * DAY, 0, 0, false),
        // To before the build: it was right before.
        (-5000 * DAY, 0, 0, false),
    ] {
        let mut machine = Machine::new();
        machine.set(jump);
        machine.check(follows, is_doubted);
        machine.run(7 * HOUR);
        machine.check(later, false);
    }
}

#[test]
fn a_clock_after_a_start() {
    for (off, wrong, error, is_doubted) in [
        (0, 0, 0, false),
        (29 * DAY, 0, 0, false),
        (0, 30 * DAY, 30 * DAY, false),
        (10 * DAY, 21 * DAY, -10 * DAY, true),
        (365 * DAY, 0, -365 * DAY, true),
        (DAY, -40 * DAY, -DAY, false),
        // At the build, and before.
        (DAY, -101 * DAY, -DAY, false),
        (DAY, -101 * DAY - 1, -DAY, true),
        (DAY, -20_000 * DAY, -DAY, true),
    ] {
        let mut machine = Machine::new();
        machine.reboot(off, wrong);
        machine.check(error, is_doubted);
    }
    // A store that knows nothing believes any clock but one before the build.
    let start = |wall| Clock::start(None, at(0), Sample { wall, up: Duration::ZERO });
    assert_eq!(start(at(9000 * DAY)).trusted(Duration::ZERO), at(9000 * DAY));
    let mut clock = start(at(-1));
    assert_eq!(clock.dates(Duration::from_secs(9)), at(0));
    clock.look(Sample { wall: at(9000 * DAY), up: Duration::from_secs(1) });
    assert_eq!((clock.standing(), clock.trusted(Duration::from_secs(1))), (Standing::Right, at(9000 * DAY)));
}

#[test]
fn a_glimpse_moves_nothing() {
    let mut machine = Machine::new();
    machine.run(DAY);
    for _ in 0..100 {
        machine.set(5000 * DAY);
        machine.check(0, true);
        let since = machine.dates();
        machine.run(5 * HOUR);
        assert_eq!(machine.dates(), since, "dates stand still");
        machine.set(0);
        machine.check(0, false);
        assert!(
            machine.dates() > since,
            "and go on, so that a clock that is set in turns holds up no license"
        );
    }
}

#[test]
fn six_hours_of_running_are_six_hours_of_running() {
    let mut machine = Machine::new();
    machine.set(40 * DAY);
    machine.run(3 * HOUR);
    // Asleep is not running.
    machine.sleep(9 * HOUR);
    machine.check(0, true);
    // A restart neither ends it nor begins it again, whatever time went by.
    for _ in 0..5 {
        machine.reboot(2 * DAY, 40 * DAY);
        machine.check(-2 * DAY * ((machine.truth - 100 * DAY) / (2 * DAY)), true);
    }
    // Nor does it where a start alone would not doubt so much.
    let mut less = Machine::new();
    less.set(10 * DAY);
    less.reboot(0, 10 * DAY);
    less.check(0, true);
    machine.run(2 * HOUR + 58 * MINUTE);
    assert!(machine.is_doubted());
    machine.run(2 * MINUTE);
    machine.check(40 * DAY, false);
    assert_eq!(machine.dates(), at(machine.truth + 40 * DAY));
}

#[test]
fn a_doubt_is_about_one_time() {
    let mut machine = Machine::new();
    machine.set(40 * DAY);
    machine.run(5 * HOUR);
    machine.set(90 * DAY);
    machine.run(5 * HOUR);
    machine.check(0, true);
    // Put right while the machine was off.
    machine.reboot(10 * DAY, 0);
    machine.check(0, false);
}

#[test]
fn a_clock_of_1970_is_judged_when_it_is_set() {
    for (off, is_doubted) in [(29, false), (31, true)] {
        let mut machine = Machine::new();
        machine.reboot(off * DAY, -20_000 * DAY);
        let since = machine.dates();
        machine.run(9 * HOUR);
        machine.check(-off * DAY, true);
        machine.reboot(0, -20_000 * DAY);
        assert_eq!(machine.dates(), since);
        machine.set(0);
        machine.check(if is_doubted { -off * DAY } else { 0 }, is_doubted);
    }
}

#[test]
fn many_small_steps_are_one_large_one() {
    let mut machine = Machine::new();
    let mut wrong = 0;
    for _ in 0..50 {
        wrong += 23 * HOUR;
        machine.set(wrong);
        machine.run(MINUTE);
    }
    assert!(machine.is_doubted() && machine.error() <= DAY, "{machine:#?}");
    // Where each has its day, they are followed.
    let mut machine = Machine::new();
    for day in 1..5 {
        machine.set(day * 23 * HOUR);
        machine.check(day * 23 * HOUR, false);
        machine.run(DAY);
    }
}

#[test]
fn an_administrator_confirms_either_way() {
    let mut machine = Machine::new();
    machine.run(5 * DAY);
    machine.set(40 * DAY);
    machine.clock.confirm(machine.sample()).unwrap();
    machine.check(40 * DAY, false);
    // That was wrong.
    machine.set(0);
    machine.check(40 * DAY, false);
    assert_eq!(machine.clock.standing(), Standing::Behind);
    machine.clock.confirm(machine.sample()).unwrap();
    machine.check(0, false);
    // Not to a time that was proved, nor to what has run since then, reboots or not.
    machine.clock.proved(at(machine.truth), machine.sample());
    machine.run(10 * DAY);
    machine.reboot(0, 0);
    machine.set(-9 * DAY);
    let refused = machine.clock.confirm(machine.sample()).unwrap_err();
    assert_eq!((refused.wall, refused.floor), (at(machine.truth - 9 * DAY), at(machine.truth)));
    machine.check(0, false);
    // A server whose clock was a little ahead forbids nothing.
    machine.set(-HOUR);
    machine.clock.confirm(machine.sample()).unwrap();
    machine.check(-HOUR, false);
}

#[test]
fn a_signed_time_ends_every_doubt() {
    // It agrees with the wall clock: the machine was off for long.
    let mut machine = Machine::new();
    machine.reboot(90 * DAY, 0);
    machine.check(-90 * DAY, true);
    machine.clock.signed(at(machine.truth - 3), machine.sample());
    machine.check(0, false);
    // It does not: the wall clock is wrong, and nothing waits for it.
    machine.set(5000 * DAY);
    machine.clock.signed(at(machine.truth), machine.sample());
    machine.check(0, false);
    machine.run(9 * HOUR);
    machine.check(0, false);
    assert_eq!((machine.clock.standing(), machine.dates()), (Standing::Refuted, at(machine.truth)));
    // It is somewhere else now, and that is a new doubt.
    machine.set(9000 * DAY);
    machine.check(0, true);
    machine.set(0);
    machine.check(0, false);
    // It takes back what was accepted by mistake, and goes no more back than it must.
    machine.set(5000 * DAY);
    machine.run(7 * HOUR);
    machine.check(5000 * DAY, false);
    machine.clock.signed(at(machine.truth), machine.sample());
    machine.check(0, false);
    machine.clock.signed(at(machine.truth - HOUR), machine.sample());
    machine.check(0, false);
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let says = |machine: &Machine| machine.clock.problem().unwrap();
    let mut machine = Machine::new();
    machine.set(40 * DAY);
    machine.run(HOUR);
    assert_eq!(
        says(&machine),
        "the clock says 2027-06-04T09:00:00Z, 40 days ahead of 2027-04-25T09:00:00Z, the time that is trusted: nothing \
         is reclaimed, forgotten or expired by date until it is set, or has stayed there for 5 h 0 min more; if it is \
         right: seatkeeper clock confirm"
    );
    machine.set(-30 * HOUR);
    assert_eq!(
        says(&machine),
        "the clock says 2027-04-24T03:00:00Z, 30 hours behind 2027-04-25T09:00:00Z, which goes on and counts: set the \
         clock, or, if it is right: seatkeeper clock confirm"
    );
    machine.reboot(0, -20_000 * DAY);
    assert!(
        says(&machine).contains("before this program was built (2027-01-15T08:00:00Z)"),
        "{}",
        says(&machine)
    );
    let refused = machine.clock.confirm(machine.sample()).unwrap_err().to_string();
    assert!(refused.contains("but it is later than 2027-01-15T09:00:00Z"), "{refused}");
}

/// What may happen to a machine.
#[derive(Clone, Debug)]
enum Event {
    Run(i64),
    Sleep(i64),
    /// The wall clock is off by so much for so long, while the machine runs, and right again then.
    Glimpse(i64, i64),
    /// A restart in the middle of such a glimpse.
    RestartInGlimpse(i64, i64),
    /// Off for less than a month.
    Off(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let jump = || prop_oneof![DAY + 2..29 * DAY, DAY + 2..9000 * DAY, -9000 * DAY..0];
    prop_oneof![
        (1..3 * DAY).prop_map(Event::Run),
        (1..90 * DAY).prop_map(Event::Sleep),
        (jump(), 0..5 * HOUR).prop_map(|(jump, length)| Event::Glimpse(jump, length)),
        (jump(), 0..5 * HOUR).prop_map(|(jump, length)| Event::RestartInGlimpse(jump, length)),
        (1..29 * DAY).prop_map(Event::Off),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No glimpse, in either direction and with restarts or not, moves trusted time off the truth; it never goes back,
    /// and nothing expires before its time.
    #[test]
    fn glimpses_leave_the_truth(events in prop::collection::vec(event(), 1..12)) {
        let mut machine = Machine::new();
        let mut before = machine.dates();
        for event in events {
            match event {
                Event::Run(seconds) => machine.run(seconds),
                Event::Sleep(seconds) => machine.sleep(seconds),
                Event::Glimpse(jump, length) => {
                    machine.set(jump);
                    machine.run(length);
                    prop_assert_eq!(machine.error(), 0);
                    machine.set(0);
                }
                Event::RestartInGlimpse(jump, length) => {
                    machine.set(jump);
                    machine.run(length / 2);
                    machine.reboot(0, jump);
                    machine.run(length / 2);
                    prop_assert_eq!(machine.error(), 0);
                    prop_assert!(machine.dates() <= at(machine.truth));
                    machine.set(0);
                }
                Event::Off(seconds) => machine.reboot(seconds, 0),
            }
            prop_assert_eq!(machine.error(), 0);
            prop_assert!(!machine.is_doubted());
            prop_assert!(machine.dates() >= before);
            before = machine.dates();
        }
    }
}
