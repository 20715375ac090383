//! The course of one directory's sync: a state machine of plain data, driven by what happened.
//!
//! It decides what to do next and never does it; the shell connects, reads and waits. From everywhere a
//! failure leads to `backoff` and a tripped brake to `held`; both lead back to a run.

use std::time::Duration;

use super::brake::Counts;
use super::sync::backoff;

/// `[[directory.ldap]] sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// The best that the server offers.
    #[default]
    Auto,
    /// Content synchronization, refresh and persist.
    SyncRepl,
    /// DirSync, polled.
    DirSync,
    /// A paged search of everything, again and again.
    Sweep,
}

/// How changes are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// Reading a file when it changed.
    Ldif,
    /// A paged search of everything.
    Sweep,
    /// RFC 4533, refresh and persist.
    SyncRepl,
    /// The same of 389 Directory Server, whose refresh is only a hint.
    ContentSync,
    /// The DirSync control of Active Directory, polled.
    DirSync,
    /// The numbers of the writes on one domain controller, polled.
    Usn,
}

impl Mechanism {
    /// The stable word in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Mechanism::Ldif => "ldif",
            Mechanism::Sweep => "sweep",
            Mechanism::SyncRepl => "syncrepl",
            Mechanism::ContentSync => "content-sync",
            Mechanism::DirSync => "dirsync",
            Mechanism::Usn => "usn",
        }
    }

    /// Tells changes by itself as long as the connection stands.
    pub fn follows(self) -> bool {
        matches!(self, Mechanism::SyncRepl | Mechanism::ContentSync)
    }

    /// Leaves something out while it follows, so that a run from the cookie is due after each poll interval.
    pub fn needs_comparing(self) -> bool {
        self == Mechanism::ContentSync
    }

    /// Goes on from a cookie, so that only changes are told, and the mirror is proved equal now and then.
    pub fn keeps_cookies(self) -> bool {
        matches!(self, Mechanism::SyncRepl | Mechanism::ContentSync | Mechanism::DirSync | Mechanism::Usn)
    }

    /// Proves the mirror equal by the ids of everything; the others read everything for it.
    pub fn reconciles_by_ids(self) -> bool {
        matches!(self, Mechanism::SyncRepl | Mechanism::DirSync | Mechanism::Usn)
    }
}

/// Ids compared in a second, on average over the day: what a server hardly notices. Chosen, not measured.
pub const IDS_PER_SECOND: u64 = 100;

/// The time between two comparisons of all ids: the poll interval, or longer in a large directory.
pub fn compare_every(poll_every: Duration, people: u64) -> Duration {
    poll_every.max(Duration::from_secs(people / IDS_PER_SECOND))
}

/// What a server can do, by its root DSE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offers {
    /// The control of RFC 4533, on a server whose implementation of it is complete.
    pub syncrepl: bool,
    /// The same control and a changelog, on 389 Directory Server.
    pub content_sync: bool,
    /// The DirSync control, on a server with the conventions of Active Directory.
    pub dirsync: bool,
    /// The number of its latest write, on a domain controller that can be told from others.
    pub usn: bool,
}

/// What a domain controller offered and then refused to work with, and why.
pub type Refusal = (Mechanism, String);

/// Chooses the mechanism, and says why. Of those that poll a domain controller, what was refused is replaced by the
/// next best.
pub fn choose(choice: Choice, offers: Offers, refused: &[Refusal]) -> (Mechanism, String) {
    let (mut mechanism, why) = first_choice(choice, offers);
    let mut why = why.to_owned();
    // Ends, since each mechanism leads on to a plainer one.
    while let Some((_, refusal)) = refused.iter().find(|(refused, _)| *refused == mechanism) {
        mechanism = match mechanism {
            Mechanism::DirSync if offers.usn => Mechanism::Usn,
            Mechanism::DirSync | Mechanism::Usn => Mechanism::Sweep,
            _ => break,
        };
        why.clone_from(refusal);
    }
    (mechanism, why)
}

fn first_choice(choice: Choice, offers: Offers) -> (Mechanism, &'static str) {
    match choice {
        Choice::Sweep => (Mechanism::Sweep, "the configuration says so"),
        Choice::SyncRepl if offers.content_sync => (Mechanism::ContentSync, "the configuration says so"),
        Choice::SyncRepl => (Mechanism::SyncRepl, "the configuration says so"),
        Choice::DirSync => (Mechanism::DirSync, "the configuration says so"),
        Choice::Auto if offers.syncrepl => (Mechanism::SyncRepl, "the server offers it"),
        Choice::Auto if offers.content_sync => (Mechanism::ContentSync, "the server offers it"),
        Choice::Auto if offers.dirsync => (Mechanism::DirSync, "the server offers it"),
        Choice::Auto if offers.usn => (Mechanism::Usn, "the server offers no DirSync"),
        Choice::Auto => (Mechanism::Sweep, "the server offers no better one"),
    }
}

/// How soon after one another notifications may lead to polls. While they lead to nothing, as those of a busy
/// domain mostly do, ever slower.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    gap: Duration,
    slowest: Duration,
}

impl Pace {
    /// The shortest time between two of these polls.
    const FASTEST: Duration = Duration::from_secs(1);

    /// The longest: notifications are to bring a change much sooner than a poll at its time.
    const SLOWEST: Duration = Duration::from_secs(30);

    /// For a directory that is polled so often in any case.
    pub fn new(poll_every: Duration) -> Pace {
        Pace { gap: Pace::FASTEST, slowest: Pace::SLOWEST.min(poll_every).max(Pace::FASTEST) }
    }

    /// The time that has to pass between two polls.
    pub fn gap(&self) -> Duration {
        self.gap
    }

    /// Takes in whether a notification led to a change.
    pub fn led_to(&mut self, a_change: bool) {
        self.gap = if a_change { Pace::FASTEST } else { (self.gap * 2).min(self.slowest) };
    }
}

/// Where a run begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the cookie in the store, or with everything where there is none.
    Cookie,
    /// With everything.
    Everything,
}

/// One run: connect, refresh, and follow where the mechanism can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Where it begins.
    pub start: Start,
    /// It proves the mirror equal to the directory, all of whose changes were told before. What differs is
    /// drift.
    pub reconciles: bool,
    /// What was held and an administrator let through.
    pub approved: Counts,
}

/// No approval.
const NOTHING: Counts = Counts { lost: 0, enabled: 0 };

/// An ordinary run.
const FROM_COOKIE: Run = Run { start: Start::Cookie, reconciles: false, approved: NOTHING };

/// What the shell has to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Begin a run; end the one that follows, if there is one.
    Run(Run),
    /// Wait so long, then say [`Happened::Due`].
    Wait(Duration),
    /// Go on following; say [`Happened::ReconcileDue`] when it is.
    Follow,
    /// There is nothing to do: an approval came when nothing was held.
    Nothing,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happened {
    /// A refresh ended completely; the mechanism goes on following, or not.
    Refreshed {
        /// Changes come by themselves from now on.
        follows: bool,
    },
    /// The brake tripped, and holds this much back. No cookie was kept.
    Held(Counts),
    /// The server wants the refresh to begin without a cookie.
    RefreshRequired,
    /// The server refuses to work with the mechanism, and another one is tried at once.
    Refused,
    /// The run failed.
    Failed,
    /// The wait is over.
    Due,
    /// The last proof that the mirror equals the directory is too old.
    ReconcileDue {
        /// Where the next one begins.
        start: Start,
    },
    /// An administrator wants a sync now.
    Asked {
        /// Everything is to be read.
        full: bool,
    },
    /// An administrator lets through what is held.
    Approved,
}

/// Where a directory's sync stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// A run has begun, and its refresh has not ended yet.
    Refreshing,
    /// Changes come by themselves.
    Following,
    /// Between two runs.
    Idle,
    /// The brake holds this much back.
    Held(Counts),
    /// The last run failed, as did so many before it in a row.
    Backoff(u32),
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Course {
    phase: Phase,
    run: Run,
    failures: u32,
    /// Readings of everything whose cookie the server would not take afterwards, in a row.
    rejected: u32,
    /// The size of what the brake holds back, and the run that finds it again.
    held: Option<(Counts, Run)>,
    poll_every: Duration,
}

impl Course {
    /// A directory whose sync is about to begin, and the first thing to do.
    pub fn begin(poll_every: Duration) -> (Course, Action) {
        let run = FROM_COOKIE;
        (
            Course { phase: Phase::Refreshing, run, failures: 0, rejected: 0, held: None, poll_every },
            Action::Run(run),
        )
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the brake holds something back that can be approved.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Takes in what happened. `jitter`, from 0 to 1, spreads the wait after a failure.
    pub fn on(&mut self, happened: Happened, jitter: f64) -> Action {
        match happened {
            Happened::Refreshed { follows } => {
                self.failures = 0;
                self.held = None;
                if self.run.start == Start::Cookie {
                    self.rejected = 0;
                }
                self.phase = if follows { Phase::Following } else { Phase::Idle };
                if follows { Action::Follow } else { Action::Wait(self.poll_every) }
            }
            Happened::Held(loss) => {
                // What is told while following is told again from the cookie, which stands before it. What a
                // comparison found is only found by another one.
                let is_told = self.phase == Phase::Following;
                let run = if is_told { FROM_COOKIE } else { Run { approved: NOTHING, ..self.run } };
                self.failures = 0;
                self.held = Some((loss, run));
                self.phase = Phase::Held(loss);
                Action::Wait(self.poll_every)
            }
            // A server that refuses even the refresh from nothing, or what it told in it, is broken: it is asked
            // less and less often, since each time it has to tell everything.
            Happened::RefreshRequired if self.run.start == Start::Everything => {
                self.failures = self.failures.max(self.rejected);
                self.rejected = self.rejected.saturating_add(1);
                self.fail(jitter)
            }
            Happened::RefreshRequired => self.start(Run { start: Start::Everything, ..self.run }),
            // Each mechanism is refused once, so this comes to an end.
            Happened::Refused => self.start(self.run),
            Happened::Failed => self.fail(jitter),
            Happened::Asked { full: true } => self.start(Run { start: Start::Everything, ..FROM_COOKIE }),
            Happened::Due | Happened::Asked { full: false } => {
                self.start(self.held.map_or(FROM_COOKIE, |(_, run)| run))
            }
            Happened::ReconcileDue { start } => {
                self.start(Run { start, reconciles: true, approved: NOTHING })
            }
            Happened::Approved => match self.held {
                Some((loss, run)) => self.start(Run { approved: loss, ..run }),
                None => Action::Nothing,
            },
        }
    }

    fn start(&mut self, run: Run) -> Action {
        self.phase = Phase::Refreshing;
        self.run = run;
        Action::Run(run)
    }

    fn fail(&mut self, jitter: f64) -> Action {
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Backoff(self.failures);
        Action::Wait(backoff(self.failures, jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(60);
    const NINE: Counts = Counts { lost: 9, enabled: 0 };
    const COOKIE: Action = Action::Run(super::FROM_COOKIE);
    const EVERYTHING: Action = Action::Run(Run { start: Start::Everything, ..super::FROM_COOKIE });

    /// Plays what happened, and looks at the last thing to do and the phase after it.
    fn check(happened: &[Happened], action: Action, phase: Phase) {
        let (mut course, mut last) = Course::begin(POLL);
        for happened in happened {
            last = course.on(*happened, 1.0);
        }
        assert_eq!((last, course.phase()), (action, phase), "{happened:?}");
    }

    #[test]
    fn the_course_runs() {
        use Happened::{Asked, Due, Failed, ReconcileDue, RefreshRequired, Refreshed, Refused};
        use Phase::{Backoff, Following, Idle, Refreshing};
        let (swept, followed) = (Refreshed { follows: false }, Refreshed { follows: true });

        check(&[], COOKIE, Refreshing);
        check(&[swept], Action::Wait(POLL), Idle);
        check(&[swept, Due], COOKIE, Refreshing);
        check(&[followed], Action::Follow, Following);
        check(&[followed, Asked { full: false }], COOKIE, Refreshing);
        check(&[swept, Asked { full: true }], EVERYTHING, Refreshing);

        check(&[Failed], Action::Wait(Duration::from_secs(1)), Backoff(1));
        check(&[Failed, Due, Failed], Action::Wait(Duration::from_secs(2)), Backoff(2));
        check(&[followed, Failed, Due], COOKIE, Refreshing);
        check(&[Failed, Due, followed, Failed], Action::Wait(Duration::from_secs(1)), Backoff(1));
        check(&[Failed, Asked { full: false }], COOKIE, Refreshing);

        check(&[RefreshRequired], EVERYTHING, Refreshing);
        check(&[followed, RefreshRequired], EVERYTHING, Refreshing);
        check(&[RefreshRequired, RefreshRequired], Action::Wait(Duration::from_secs(1)), Backoff(1));

        check(&[Refused], COOKIE, Refreshing);
        check(&[swept, Asked { full: true }, Refused], EVERYTHING, Refreshing);

        let (by_ids, by_all) =
            (ReconcileDue { start: Start::Cookie }, ReconcileDue { start: Start::Everything });
        let reconcile = |start| Run { start, reconciles: true, approved: NOTHING };
        check(&[followed, by_ids], Action::Run(reconcile(Start::Cookie)), Refreshing);
        check(&[swept, by_all], Action::Run(reconcile(Start::Everything)), Refreshing);
        check(&[followed, by_ids, RefreshRequired], Action::Run(reconcile(Start::Everything)), Refreshing);
        check(&[followed, by_ids, followed], Action::Follow, Following);
        check(&[followed, by_ids, Failed, Due], COOKIE, Refreshing);
    }

    #[test]
    fn what_is_held_is_found_again() {
        use Happened::{Approved, Asked, Due, Failed, Held, ReconcileDue, RefreshRequired, Refreshed};
        let followed = Refreshed { follows: true };
        let again = |happened: &[Happened], run: Run| {
            check(&[happened, &[Held(NINE)]].concat(), Action::Wait(POLL), Phase::Held(NINE));
            for next in [Due, Asked { full: false }] {
                check(&[happened, &[Held(NINE), next]].concat(), Action::Run(run), Phase::Refreshing);
                // The loss is still known while a held directory fails.
                let failing = [happened, &[Held(NINE), Due, Failed, next]].concat();
                check(&failing, Action::Run(run), Phase::Refreshing);
            }
            let approved = Action::Run(Run { approved: NINE, ..run });
            check(&[happened, &[Held(NINE), Approved]].concat(), approved, Phase::Refreshing);
            check(&[happened, &[Held(NINE), Due, Failed, Approved]].concat(), approved, Phase::Refreshing);
            check(&[happened, &[Held(NINE), Due, followed, Due]].concat(), COOKIE, Phase::Refreshing);
        };
        let everything = Run { start: Start::Everything, ..FROM_COOKIE };
        again(&[], FROM_COOKIE);
        again(&[followed], FROM_COOKIE);
        again(&[RefreshRequired], everything);
        again(&[RefreshRequired, followed], FROM_COOKIE);
        again(&[followed, Asked { full: true }], everything);
        let by_ids = Run { reconciles: true, ..FROM_COOKIE };
        again(&[followed, ReconcileDue { start: Start::Cookie }], by_ids);
        check(&[Refreshed { follows: false }, Approved], Action::Nothing, Phase::Idle);
    }

    #[test]
    fn ids_are_compared_less_often_where_there_are_many() {
        assert_eq!(compare_every(POLL, 0), POLL);
        assert_eq!(compare_every(POLL, 6_099), POLL);
        assert_eq!(compare_every(POLL, 100_000), Duration::from_secs(1000));
        assert_eq!(compare_every(Duration::from_secs(3600), 100_000), Duration::from_secs(3600));
    }

    #[test]
    fn a_server_that_rejects_its_own_cookies_is_asked_less_and_less_often() {
        use Happened::{Due, RefreshRequired, Refreshed};
        let followed = Refreshed { follows: true };
        let again = [RefreshRequired, Due, RefreshRequired, followed];
        let wait = |seconds| Action::Wait(Duration::from_secs(seconds));
        let rejected = |times: usize, then: &[Happened]| -> Vec<Happened> {
            let begin = [RefreshRequired, followed];
            let times = std::iter::repeat_n(again, times).flatten();
            begin.into_iter().chain(times).chain(then.iter().copied()).collect()
        };
        check(&rejected(0, &[RefreshRequired]), wait(1), Phase::Backoff(1));
        check(&rejected(1, &[RefreshRequired]), wait(2), Phase::Backoff(2));
        check(&rejected(2, &[RefreshRequired]), wait(4), Phase::Backoff(3));
        // One that takes a cookie again begins anew.
        let taken = [RefreshRequired, Due, followed, RefreshRequired, followed, RefreshRequired];
        check(&rejected(2, &taken), wait(1), Phase::Backoff(1));
    }

    #[test]
    fn notifications_that_lead_to_nothing_slow_down() {
        let gaps = |poll_every, count: usize| -> Vec<u64> {
            let mut pace = Pace::new(Duration::from_secs(poll_every));
            let slower = |_| {
                pace.led_to(false);
                pace.gap().as_secs()
            };
            let gaps = (0..count).map(slower).collect();
            pace.led_to(true);
            assert_eq!(pace.gap(), Duration::from_secs(1));
            gaps
        };
        assert_eq!(gaps(3600, 7), [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(gaps(10, 5), [2, 4, 8, 10, 10]);
        assert_eq!(gaps(1, 2), [1, 1]);
    }

    #[test]
    fn the_mechanism_is_chosen() {
        use Mechanism::{ContentSync, DirSync, Sweep, SyncRepl, Usn};
        let check = |choice, offers, refused: &[Mechanism], mechanism, reason: &str| {
            let refused: Vec<Refusal> = refused.iter().map(|one| (*one, format!("no {one:?}"))).collect();
            assert_eq!(
                choose(choice, offers, &refused),
                (mechanism, reason.to_owned()),
                "{choice:?} {offers:?}"
            );
        };
        let (wanted, offered) = ("the configuration says so", "the server offers it");

        let none = Offers::default();
        check(Choice::Auto, none, &[], Sweep, "the server offers no better one");
        check(Choice::SyncRepl, none, &[], SyncRepl, wanted);
        check(Choice::DirSync, none, &[], DirSync, wanted);
        let open_ldap = Offers { syncrepl: true, ..none };
        check(Choice::Auto, open_ldap, &[], SyncRepl, offered);
        check(Choice::SyncRepl, open_ldap, &[SyncRepl], SyncRepl, wanted);
        check(Choice::Sweep, open_ldap, &[], Sweep, wanted);
        let ds389 = Offers { content_sync: true, ..none };
        check(Choice::Auto, ds389, &[], ContentSync, offered);
        check(Choice::SyncRepl, ds389, &[], ContentSync, wanted);
        check(Choice::Sweep, ds389, &[], Sweep, wanted);

        let controller = Offers { dirsync: true, usn: true, ..none };
        check(Choice::Auto, controller, &[], DirSync, offered);
        check(Choice::Sweep, controller, &[], Sweep, wanted);
        for choice in [Choice::Auto, Choice::DirSync] {
            check(choice, controller, &[DirSync], Usn, "no DirSync");
            check(choice, controller, &[DirSync, Usn], Sweep, "no Usn");
            check(choice, Offers { usn: false, ..controller }, &[DirSync], Sweep, "no DirSync");
        }
        check(
            Choice::Auto,
            Offers { dirsync: false, ..controller },
            &[],
            Usn,
            "the server offers no DirSync",
        );
        assert!(DirSync.keeps_cookies() && !DirSync.follows());
        assert!(Usn.keeps_cookies() && !Usn.follows());
    }
}
