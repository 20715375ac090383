//! The keeper over a real store, with clocks of the test's.

use std::sync::Mutex as StdMutex;

use jiff::SignedDuration;
use tempfile::TempDir;

use super::*;
use crate::domain::admission::TakeOn;
use crate::domain::clock::Sample;
use crate::domain::license::OnExpiry;
use crate::domain::names::NameRules;
use crate::issuer::terms;
use crate::licensing::signer::Signer;
use crate::store::{Policy, Writer};

const DAY: i64 = 86_400;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * DAY).unwrap()
}

/// What stays when the daemon restarts: the store's file, the clocks, the vendor.
struct World {
    folder: TempDir,
    clocks: Arc<StdMutex<Sample>>,
    signer: Signer,
    settings: LicenseSettings,
}

/// One run of the daemon's keeper.
struct Run {
    keeper: Keeper,
    board: LicenseBoard,
    store: Store,
    writer: Writer,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::generate(&folder.path().join("key.pem")).unwrap();
        let signed = SignedLicense {
            trusted_keys: vec![signer.public_key().clone()],
            file: Some(folder.path().join("license.jwt")),
            ..SignedLicense::default()
        };
        let settings = LicenseSettings { declared: None, signed, services: HashMap::new() };
        let clocks = Arc::new(StdMutex::new(Sample { wall: at(0), up: Duration::ZERO }));
        World { folder, clocks, signer, settings }
    }

    fn now(&self) -> Timestamp {
        self.clocks.lock().unwrap().wall
    }

    /// Time passes, until then by the wall clock.
    fn pass(&self, then: Timestamp) {
        let mut clocks = self.clocks.lock().unwrap();
        let passed = then.duration_since(clocks.wall);
        clocks.up += Duration::try_from(passed).unwrap();
        clocks.wall = then;
    }

    /// Somebody sets the wall clock.
    fn jump(&self, then: Timestamp) {
        self.clocks.lock().unwrap().wall = then;
    }

    async fn start(&self) -> Run {
        let take_on = TakeOn { login: true, delivery: false };
        let (expired, components) = (None, Components::default());
        let (seat_limit, directory_limits, names) = (None, [].into(), NameRules::default());
        let seatless_limit = Some(0);
        let domain_limits = Default::default();
        let policy = Policy {
            seat_limit,
            seatless_limit,
            directory_limits,
            domain_limits,
            take_on,
            names,
            expired,
            components,
        };
        let clocks = Arc::clone(&self.clocks);
        let clocks: crate::clock::Source = Arc::new(move || *clocks.lock().unwrap());
        let path = self.folder.path().join("store.redb");
        let (store, writer) = Store::open_with(&path, policy, clocks).unwrap();
        let board = LicenseBoard::new().0;
        let keeper = Keeper::open(store.clone(), board.clone(), self.settings.clone()).await.unwrap();
        Run { keeper, board, store, writer }
    }

    /// A licence of 25 seats that was issued now and ends on a day.
    fn license(&self, serial: u64, ends: i64) -> License {
        License {
            serial,
            issued_at: self.now(),
            expires: Some(at(ends)),
            seats: 25,
            grace: Duration::from_secs(14 * DAY as u64),
            ..terms::blank("L-1", None)
        }
    }

    fn sign(&self, license: &License) -> String {
        self.signer.sign(license).unwrap()
    }
}

impl Run {
    async fn stop(self) {
        self.store.keep_time().await.unwrap();
        drop((self.keeper, self.board, self.store));
        self.writer.join().unwrap();
    }

    /// What the daemon does every few seconds and every minute.
    async fn look(&self) {
        self.store.clock().look();
        self.keeper.look().await.unwrap();
    }

    async fn install(&self, token: &str) -> Result<String, String> {
        self.keeper.install(token, false).await.map_err(|failure| failure.to_string())
    }

    /// State, seats, and whom it refuses.
    fn in_force(&self) -> (State, Option<u64>, Option<OnExpiry>) {
        let policy = self.store.policy();
        (self.board.facts().state, policy.seat_limit, policy.expired)
    }

    fn told(&self) -> Option<(u64, String)> {
        self.store.view().license().unwrap().told
    }
}

#[tokio::test]
async fn the_id_is_made_once_and_a_licence_outlives_a_restart() {
    let world = World::new();
    let run = world.start().await;
    let id = run.board.facts().record.installation.clone();
    assert_eq!(id.len(), 36);
    assert_eq!(run.in_force(), (State::Missing, None, None));
    let installation = InstallationId::parse(&id);
    let bound = License { installation, ..world.license(5, 100) };
    run.install(&world.sign(&bound)).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(25), None));
    run.stop().await;
    let run = world.start().await;
    assert_eq!(run.board.facts().record.installation, id);
    assert_eq!(run.in_force(), (State::Active, Some(25), None));
    run.stop().await;
    let other = World::new();
    let run = other.start().await;
    assert_ne!(run.board.facts().record.installation, id);
    run.stop().await;
}

#[tokio::test]
async fn what_is_refused_says_why_and_the_old_licence_stays() {
    let world = World::new();
    let run = world.start().await;
    run.install(&world.sign(&world.license(5, 100))).await.unwrap();
    let check = async |token: String, part: &str| {
        let refused = run.install(&token).await.unwrap_err();
        assert!(refused.contains(part), "{refused:?} has no {part:?}");
        assert_eq!(run.in_force(), (State::Active, Some(25), None));
    };
    let stranger = Signer::generate(&world.folder.path().join("other.pem")).unwrap();
    check(stranger.sign(&world.license(9, 100)).unwrap(), "not among the trusted keys").await;
    let ours = run.board.facts().record.installation.clone();
    let theirs = License { installation: InstallationId::parse("another"), ..world.license(9, 100) };
    check(world.sign(&theirs), &format!("for the installation another, and this is {ours}")).await;
    check(world.sign(&world.license(4, 100)), "its serial is 4, after 5").await;
    let future = License { issued_at: at(3), ..world.license(9, 100) };
    check(world.sign(&future), "issued in the future").await;
    let later = License { not_before: Some(at(3)), ..world.license(9, 100) };
    check(world.sign(&later), "not valid before").await;
    let good = world.sign(&world.license(9, 100));
    check(good[..good.len() - 9].to_owned(), "signature").await;

    // Forced, an older one is installed.
    let fewer = License { seats: 3, ..world.license(4, 100) };
    run.keeper.install(&world.sign(&fewer), true).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(3), None));
    run.stop().await;
}

#[tokio::test]
async fn a_file_is_installed_at_the_start_and_at_a_reload() {
    let world = World::new();
    let file = world.folder.path().join("license.jwt");
    std::fs::write(&file, world.sign(&world.license(5, 100)) + "\n").unwrap();
    let run = world.start().await;
    assert_eq!(run.in_force(), (State::Active, Some(25), None));
    // A newer one that came another way is not undone by the file.
    run.install(&world.sign(&License { seats: 30, ..world.license(6, 100) })).await.unwrap();
    run.keeper.reconfigure(world.settings.clone()).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(30), None));
    assert_eq!(run.board.facts().problems, [""; 0]);
    // One that is damaged changes nothing, and is shown.
    std::fs::write(&file, "damaged").unwrap();
    run.keeper.reconfigure(world.settings.clone()).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(30), None));
    let problem = run.board.facts().problems.concat();
    assert!(problem.contains("license.jwt") && problem.contains("no signed licence"), "{problem}");
    std::fs::write(&file, world.sign(&License { seats: 40, ..world.license(7, 100) })).unwrap();
    run.keeper.reconfigure(world.settings.clone()).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(40), None));
    assert_eq!(run.board.facts().problems, [""; 0]);

    // A key that is not trusted any more takes its licences along.
    let stranger = Signer::generate(&world.folder.path().join("other.pem")).unwrap();
    let mut settings = world.settings.clone();
    settings.signed.trusted_keys = vec![stranger.public_key().clone()];
    run.keeper.reconfigure(settings.clone()).await.unwrap();
    assert_eq!(run.in_force(), (State::Missing, None, None));
    // Declared seats are a licence of their own.
    settings.declared = Some(7);
    run.keeper.reconfigure(settings).await.unwrap();
    assert_eq!(run.in_force().1, Some(7));
    assert!(
        run.install(&world.sign(&world.license(9, 100))).await.unwrap_err().contains("seats are declared")
    );
    run.keeper.reconfigure(world.settings.clone()).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(40), None));
    run.stop().await;
}

#[tokio::test]
async fn states_come_with_their_dates_and_are_told_once() {
    let world = World::new();
    let mut run = world.start().await;
    assert_eq!(run.told(), Some((0, "missing".to_owned())));
    let license = License { on_expiry: OnExpiry::RefuseAll, ..world.license(5, 100) };
    run.install(&world.sign(&license)).await.unwrap();
    for (day, state, expired) in [
        (0, State::Active, None),
        (69, State::Active, None),
        (70, State::Expiring, None),
        (99, State::Expiring, None),
        (100, State::Grace, None),
        (114, State::Expired, Some(OnExpiry::RefuseAll)),
    ] {
        world.pass(at(day));
        run.look().await;
        assert_eq!(run.in_force(), (state, Some(25), expired), "day {day}");
        assert_eq!(run.told(), Some((5, state.as_str().to_owned())));
        // After a restart it is the same, and was told already.
        run.stop().await;
        run = world.start().await;
        assert_eq!(run.in_force(), (state, Some(25), expired), "day {day} after a restart");
        assert_eq!(run.told(), Some((5, state.as_str().to_owned())));
    }
    // Between the dates nothing is due.
    assert_eq!(run.keeper.wait().await, LOOK_EVERY);
    run.install(&world.sign(&world.license(6, 200))).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(25), None));
    world.pass(at(170).checked_sub(SignedDuration::from_secs(7)).unwrap());
    assert_eq!(run.keeper.wait().await, Duration::from_secs(7));
    run.stop().await;
}

#[tokio::test]
async fn a_clock_set_back_gives_nothing_back() {
    let world = World::new();
    let mut run = world.start().await;
    run.install(&world.sign(&License { grace: Duration::ZERO, ..world.license(5, 100) })).await.unwrap();
    world.pass(at(101));
    run.look().await;
    assert_eq!(run.in_force().0, State::Expired);
    let spare = License { id: "L-2".to_owned(), ..world.license(1, 102) };
    world.jump(at(50));
    for _ in 0..2 {
        run.look().await;
        assert_eq!(run.in_force(), (State::Expired, Some(25), Some(OnExpiry::RefuseNew)));
        // Neither does a restart.
        run.stop().await;
        run = world.start().await;
    }
    // Nor another licence, nor force: the one is over by the time that counts, and the other still is.
    world.pass(at(52));
    for (license, force) in [(world.license(4, 102), true), (spare, false), (world.license(3, 102), true)] {
        run.keeper.install(&world.sign(&license), force).await.unwrap();
        let ends = license.expires.unwrap();
        assert_eq!(run.store.now(), at(103));
        assert_eq!(run.in_force().0, if ends > at(103) { State::Active } else { State::Grace });
    }
    // The highest serial is remembered all the same.
    let refused = run.install(&world.sign(&world.license(4, 200))).await.unwrap_err();
    assert!(refused.contains("its serial is 4, after 5"), "{refused}");
    run.stop().await;
}

#[tokio::test]
async fn a_glimpse_of_the_future_ends_no_licence() {
    let world = World::new();
    let mut run = world.start().await;
    run.install(&world.sign(&License { grace: Duration::ZERO, ..world.license(5, 100) })).await.unwrap();
    let active = (State::Active, Some(25), None);
    world.jump(at(5000));
    for _ in 0..3 {
        run.look().await;
        run.keeper.reconfigure(world.settings.clone()).await.unwrap();
        assert_eq!(run.in_force(), active);
        assert_eq!(run.keeper.wait().await, LOOK_EVERY, "no date is due");
        run.stop().await;
        run = world.start().await;
    }
    world.jump(at(0));
    run.look().await;
    assert_eq!(run.in_force(), active);

    // Six hours of it, with a restart, are no glimpse.
    world.jump(at(5000));
    for minute in 0..6 * 60 {
        run.look().await;
        assert_eq!(run.in_force(), active, "{minute}");
        if minute == 200 {
            run.stop().await;
            run = world.start().await;
        }
        world.pass(world.now().checked_add(Duration::from_secs(60)).unwrap());
    }
    run.look().await;
    assert_eq!(run.in_force(), (State::Expired, Some(25), Some(OnExpiry::RefuseNew)));

    // It was wrong all the same. No licence can tell, but an administrator can.
    world.jump(at(1));
    run.install(&world.sign(&world.license(6, 200))).await.unwrap();
    run.look().await;
    assert_eq!(run.in_force().0, State::Expired);
    run.store.clock().confirm().unwrap();
    run.look().await;
    assert_eq!((run.in_force(), run.store.now()), (active, at(1)));
    run.stop().await;
}

#[tokio::test]
async fn a_licence_of_a_later_day_waits_in_the_store() {
    let world = World::new();
    let file = world.folder.path().join("license.jwt");
    let mut run = world.start().await;
    run.install(&world.sign(&world.license(5, 100))).await.unwrap();
    let renewal = |serial, seats| License { seats, not_before: Some(at(90)), ..world.license(serial, 500) };
    std::fs::write(&file, world.sign(&renewal(6, 40))).unwrap();
    run.keeper.reconfigure(world.settings.clone()).await.unwrap();
    assert_eq!((run.in_force().1, &run.board.facts().problems), (Some(25), &vec![]));
    assert_eq!(run.board.facts().coming.as_ref().map(|license| license.seats), Some(40));
    std::fs::remove_file(&file).unwrap();
    world.pass(at(89));
    run.stop().await;
    run = world.start().await;
    assert_eq!(run.in_force().1, Some(25));
    // No day comes while the clock is in doubt.
    world.jump(at(3000));
    run.look().await;
    assert_eq!(run.in_force().1, Some(25));
    world.jump(at(89));
    run.look().await;
    world.pass(at(90).checked_sub(SignedDuration::from_secs(303)).unwrap());
    assert_eq!(run.keeper.wait().await, Duration::from_secs(3));
    world.pass(at(90));
    run.look().await;
    assert_eq!(run.in_force(), (State::Active, Some(40), None));
    assert!(run.board.facts().coming.is_none() && run.store.view().license().unwrap().coming.is_none());

    // What came meanwhile and is newer stays.
    let later = License { not_before: Some(at(95)), ..world.license(7, 500) };
    std::fs::write(&file, world.sign(&later)).unwrap();
    run.keeper.reconfigure(world.settings.clone()).await.unwrap();
    run.install(&world.sign(&License { seats: 50, ..world.license(8, 500) })).await.unwrap();
    world.pass(at(96));
    run.look().await;
    assert_eq!(run.in_force(), (State::Active, Some(50), None));
    run.stop().await;
}

/// Nothing listens where the server should be, for a week.
#[tokio::test]
async fn a_week_without_the_server_changes_nothing() {
    let mut world = World::new();
    world.settings.signed.server = Some("http://127.0.0.1:1".to_owned());
    let run = world.start().await;
    run.install(&world.sign(&world.license(5, 100))).await.unwrap();
    let mut looks = 0;
    while world.now() < at(7) {
        let wait = run.keeper.wait().await;
        world.pass(world.now().checked_add(wait.max(Duration::from_millis(1))).unwrap());
        run.look().await;
        assert_eq!(run.in_force(), (State::Active, Some(25), None));
        looks += 1;
    }
    let refresh = run.store.view().license().unwrap().refresh.unwrap();
    assert_eq!(refresh.outcome, "unreachable");
    assert!(refresh.error.unwrap().contains("cannot reach the licence server"));
    assert!((18..=30).contains(&refresh.failures), "asked {} times", refresh.failures);
    assert!(looks >= 7 * 24 * 60, "{looks}");
    run.stop().await;
}
