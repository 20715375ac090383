//! The keeper over a real store, with a clock of the test's.

use std::sync::Mutex as StdMutex;

use tempfile::TempDir;

use super::*;
use crate::domain::admission::TakeOn;
use crate::domain::license::OnExpiry;
use crate::domain::names::NameRules;
use crate::issuer::terms;
use crate::licensing::signer::Signer;
use crate::store::{Policy, Writer};

const DAY: i64 = 86_400;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * DAY).unwrap()
}

/// What stays when the daemon restarts: the store's file, the clock, the vendor.
struct World {
    folder: TempDir,
    clock: Arc<StdMutex<Timestamp>>,
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
        World { folder, clock: Arc::new(StdMutex::new(at(0))), signer, settings }
    }

    fn set(&self, now: Timestamp) {
        *self.clock.lock().unwrap() = now;
    }

    async fn start(&self) -> Run {
        let take_on = TakeOn { login: true, delivery: false };
        let (expired, components) = (None, Components::default());
        let (seat_limit, directory_limits, names) = (None, [].into(), NameRules::default());
        let policy = Policy { seat_limit, directory_limits, take_on, names, expired, components };
        let (store, writer) = Store::open(&self.folder.path().join("store.redb"), policy).unwrap();
        let board = LicenseBoard::new().0;
        let clock = Arc::clone(&self.clock);
        let clock: Clock = Arc::new(move || *clock.lock().unwrap());
        let keeper = Keeper::open(store.clone(), board.clone(), self.settings.clone(), clock).await.unwrap();
        Run { keeper, board, store, writer }
    }

    /// A licence of 25 seats that was issued now and ends on a day.
    fn license(&self, serial: u64, ends: i64) -> License {
        License {
            serial,
            issued_at: *self.clock.lock().unwrap(),
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
    fn stop(self) {
        drop((self.keeper, self.board, self.store));
        self.writer.join().unwrap();
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
    run.stop();
    let run = world.start().await;
    assert_eq!(run.board.facts().record.installation, id);
    assert_eq!(run.in_force(), (State::Active, Some(25), None));
    run.stop();
    let other = World::new();
    let run = other.start().await;
    assert_ne!(run.board.facts().record.installation, id);
    run.stop();
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
    run.stop();
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
    run.stop();
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
        world.set(at(day));
        run.keeper.look().await.unwrap();
        assert_eq!(run.in_force(), (state, Some(25), expired), "day {day}");
        assert_eq!(run.told(), Some((5, state.as_str().to_owned())));
        // After a restart it is the same, and was told already.
        run.stop();
        run = world.start().await;
        assert_eq!(run.in_force(), (state, Some(25), expired), "day {day} after a restart");
        assert_eq!(run.told(), Some((5, state.as_str().to_owned())));
    }
    // Between the dates nothing is due.
    assert_eq!(run.keeper.wait().await, LOOK_EVERY);
    run.install(&world.sign(&world.license(6, 200))).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(25), None));
    world.set(at(170).checked_sub(SignedDuration::from_secs(7)).unwrap());
    assert_eq!(run.keeper.wait().await, Duration::from_secs(7));
    run.stop();
}

#[tokio::test]
async fn a_clock_set_back_gives_nothing_back() {
    let world = World::new();
    let mut run = world.start().await;
    run.install(&world.sign(&License { grace: Duration::ZERO, ..world.license(5, 100) })).await.unwrap();
    world.set(at(101));
    run.keeper.look().await.unwrap();
    assert_eq!(run.in_force().0, State::Expired);
    world.set(at(50));
    for _ in 0..2 {
        run.keeper.look().await.unwrap();
        assert_eq!(run.in_force(), (State::Expired, Some(25), Some(OnExpiry::RefuseNew)));
        let problem = run.board.facts().problems.concat();
        assert!(problem.contains("the clock was set back"), "{problem}");
        // Neither does a restart.
        run.stop();
        run = world.start().await;
    }
    // Less than a day is no fraud, but time that passes.
    world.set(at(101).checked_sub(SignedDuration::from_hours(20)).unwrap());
    run.keeper.look().await.unwrap();
    assert_eq!(run.board.facts().problems, [""; 0]);

    // Once the clock was far ahead; the vendor's next licence says what time it is.
    world.set(at(10_000));
    run.keeper.look().await.unwrap();
    world.set(at(102));
    run.keeper.look().await.unwrap();
    assert_eq!(run.in_force().0, State::Expired);
    run.install(&world.sign(&world.license(6, 200))).await.unwrap();
    assert_eq!(run.in_force(), (State::Active, Some(25), None));
    assert_eq!(run.board.facts().problems, [""; 0]);
    run.stop();
}

/// Nothing listens where the server should be, for a week.
#[tokio::test]
async fn a_week_without_the_server_changes_nothing() {
    let mut world = World::new();
    world.settings.signed.server = Some("http://127.0.0.1:1".to_owned());
    let run = world.start().await;
    run.install(&world.sign(&world.license(5, 100))).await.unwrap();
    let mut looks = 0;
    while *world.clock.lock().unwrap() < at(7) {
        let wait = run.keeper.wait().await;
        let now = *world.clock.lock().unwrap();
        world.set(now.checked_add(wait.max(Duration::from_millis(1))).unwrap());
        run.keeper.look().await.unwrap();
        assert_eq!(run.in_force(), (State::Active, Some(25), None));
        looks += 1;
    }
    let refresh = run.store.view().license().unwrap().refresh.unwrap();
    assert_eq!(refresh.outcome, "unreachable");
    assert!(refresh.error.unwrap().contains("cannot reach the licence server"));
    assert!((18..=30).contains(&refresh.failures), "asked {} times", refresh.failures);
    assert!(looks >= 7 * 24 * 60, "{looks}");
    run.stop();
}
