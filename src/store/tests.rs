//! The store against a model, with crashes; and its rules one by one.

mod license;

use std::sync::Mutex;

use proptest::prelude::*;
use redb::StorageBackend;

use super::*;
use crate::domain::admission::Operation;
use crate::domain::name::StableId;
use crate::domain::seats::Movement;
use crate::domain::sync::{Brake, Sweep};
use crate::domain::user::Kind;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn policy(limit: u64) -> Policy {
    Policy {
        seat_limit: Some(limit),
        directory_limits: BTreeMap::new(),
        take_on: TakeOn { login: true, delivery: false },
        expired: None,
        components: Components::default(),
        administrator: None,
    }
}

fn name(text: &str) -> Name {
    Name::parse(text, None).unwrap()
}

fn mapped(id: u8, names: &[&str]) -> Mapped {
    Mapped {
        id: StableId::new(&[id; 16]).unwrap(),
        kind: Kind::Person,
        enabled: true,
        logins: Vec::new(),
        addresses: names.iter().map(|text| name(text)).collect(),
        display_name: None,
        dn: format!("uid={id}").into(),
    }
}

const LOGIN: Request = Request { operation: Operation::Login, service: None };

/// A disk that forgets what was not synced, and remembers every synced state since the last mark.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    current: Vec<u8>,
    synced: Vec<Vec<u8>>,
}

impl Disk {
    fn holding(bytes: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(DiskState { current: bytes.clone(), synced: vec![bytes] })))
    }

    /// Forgets all synced states but the last.
    fn mark(&self) {
        let mut state = self.0.lock().unwrap();
        let last = state.synced.pop();
        state.synced = last.into_iter().collect();
    }

    /// What is on disk if power fails now.
    fn after_power_failure(&self) -> Disk {
        Disk::holding(self.0.lock().unwrap().synced.last().cloned().unwrap_or_default())
    }

    /// What is on disk if power failed after the `nth` sync since the mark (modulo their number).
    fn after_crash(&self, nth: usize) -> Disk {
        let state = self.0.lock().unwrap();
        Disk::holding(state.synced[nth % state.synced.len()].clone())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.0.lock().unwrap().current.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let offset = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap().current[offset..offset + out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.lock().unwrap().current.resize(len as usize, 0);
        Ok(())
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut state = self.0.lock().unwrap();
        let current = state.current.clone();
        state.synced.push(current);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let offset = offset as usize;
        self.0.lock().unwrap().current[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn start(disk: &Disk, policy: Policy) -> (Store, Writer) {
    let db = Builder::new().set_cache_size(1 << 20).create_with_backend(disk.clone()).unwrap();
    Store::start(db, policy).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn with_store<F: AsyncFn(&Store, DirectoryId)>(limit: u64, test: F) {
    runtime().block_on(async {
        let (store, writer) = start(&Disk::default(), policy(limit));
        let directory = store.directory("demo").await.unwrap();
        test(&store, directory).await;
        assert_eq!(store.view().verify().unwrap(), []);
        drop(store);
        writer.join().unwrap();
    });
}

async fn login(store: &Store, who: &str) -> &'static str {
    store.admit(name(who), LOGIN, at(0)).await.unwrap().decision.code()
}

async fn entomb(store: &Store, directory: DirectoryId, key: UserKey, second: i64) {
    let changes = Changes { removals: vec![key], ..Changes::default() };
    assert_eq!(store.apply(directory, changes, at(second)).await.unwrap().entombed.len(), 1);
}

async fn upsert(store: &Store, directory: DirectoryId, entry: Mapped, second: i64) -> Upserted {
    let changes = Changes { upserts: vec![entry], ..Changes::default() };
    store.apply(directory, changes, at(second)).await.unwrap().upserted.pop().unwrap()
}

#[test]
fn an_address_belongs_to_the_one_that_had_it_first() {
    with_store(10, async |store, directory| {
        let first = upsert(store, directory, mapped(1, &["a@x.org", "shared@x.org"]), 0).await;
        let second = upsert(store, directory, mapped(2, &["shared@x.org", "b@x.org"]), 1).await;
        let third = upsert(store, directory, mapped(3, &["shared@x.org"]), 2).await;
        assert!(first.clashes.is_empty());
        assert_eq!(second.clashes.len(), 1);
        assert_eq!(second.name, name("b@x.org"), "a name that is somebody else's is not shown");
        assert_eq!(store.view().find(&name("shared@x.org")).unwrap(), Some(first.key));
        assert_eq!(store.view().clashes(10).unwrap().len(), 2);

        // A clash is told once; the same entry again is unchanged.
        let again = upsert(store, directory, mapped(2, &["shared@x.org", "b@x.org"]), 3).await;
        assert_eq!((again.change, again.clashes.len()), (Change::Unchanged, 0));

        // When the first gives it up, it goes to whoever has waited longest.
        upsert(store, directory, mapped(1, &["a@x.org"]), 4).await;
        assert_eq!(store.view().find(&name("shared@x.org")).unwrap(), Some(second.key));
        upsert(store, directory, mapped(2, &["b@x.org"]), 5).await;
        assert_eq!(store.view().find(&name("shared@x.org")).unwrap(), Some(third.key));
        assert_eq!(store.view().clashes(10).unwrap(), []);
    });
}

#[test]
fn a_tombstone_gives_its_names_to_the_living() {
    with_store(10, async |store, directory| {
        let old = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        entomb(store, directory, old.key, 1).await;
        assert_eq!(login(store, "a@x.org").await, "removed");

        // Created again under the same address: another id, so neither the seat nor the history.
        let new = upsert(store, directory, mapped(2, &["a@x.org"]), 2).await;
        assert_ne!(old.key, new.key);
        assert!(new.clashes.is_empty());
        assert!(store.view().seat_of(new.key).unwrap().is_none());
        assert!(store.view().seat_of(old.key).unwrap().is_some());

        // The old one comes back: it keeps the seat, and waits for its name.
        upsert(store, directory, mapped(1, &["a@x.org"]), 3).await;
        assert_eq!(store.view().find(&name("a@x.org")).unwrap(), Some(new.key));
        entomb(store, directory, new.key, 4).await;
        assert_eq!(store.view().find(&name("a@x.org")).unwrap(), Some(old.key));
        assert_eq!(login(store, "a@x.org").await, "held");
    });
}

#[test]
fn a_removed_user_keeps_the_seat_for_the_grace_period() {
    with_store(1, async |store, directory| {
        let user = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        upsert(store, directory, mapped(2, &["b@x.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        entomb(store, directory, user.key, 10).await;
        assert_eq!(store.purge(at(9), at(20), 100).await.unwrap(), []);
        assert_eq!(login(store, "b@x.org").await, "exhausted");
        let released = store.purge(at(10), at(20), 100).await.unwrap();
        assert_eq!(released.len(), 1);
        assert_eq!(released[0].reason, ReleaseReason::Removed);
        assert_eq!(login(store, "a@x.org").await, "unknown_user");
        assert_eq!(login(store, "b@x.org").await, "granted");
        let history: Vec<_> =
            store.view().history(Some(user.key)).unwrap().map(|event| event.unwrap().what).collect();
        assert!(matches!(history[..], [Movement::Released(ReleaseReason::Removed), Movement::Granted(_)]));
    });
}

#[test]
fn who_is_disabled_loses_the_seat_and_is_gated_again() {
    with_store(1, async |store, directory| {
        upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        upsert(store, directory, mapped(2, &["b@x.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        let disabled = Mapped { enabled: false, ..mapped(1, &["a@x.org"]) };
        let outcome = upsert(store, directory, disabled, 1).await;
        assert_eq!(outcome.released.unwrap().reason, ReleaseReason::Disabled);
        assert_eq!(login(store, "a@x.org").await, "disabled");
        assert_eq!(login(store, "b@x.org").await, "granted");
        upsert(store, directory, mapped(1, &["a@x.org"]), 2).await;
        assert_eq!(login(store, "a@x.org").await, "exhausted");
        let room = Mapped { kind: Kind::Resource, ..mapped(2, &["b@x.org"]) };
        let outcome = upsert(store, directory, room, 3).await;
        assert_eq!(outcome.released.unwrap().reason, ReleaseReason::NotAPerson);
        assert_eq!(login(store, "b@x.org").await, "not_a_person");
    });
}

#[test]
fn a_directory_has_a_cap_inside_the_licence() {
    with_store(10, async |store, directory| {
        store.change_policy(|policy| policy.directory_limits = [("demo".to_owned(), 1)].into());
        upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        upsert(store, directory, mapped(2, &["b@x.org"]), 0).await;
        let other = store.directory("other").await.unwrap();
        upsert(store, other, mapped(1, &["c@y.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        assert_eq!(login(store, "b@x.org").await, "domain_exhausted");
        assert_eq!(login(store, "c@y.org").await, "granted");
    });
}

#[test]
fn a_preview_changes_nothing() {
    with_store(10, async |store, directory| {
        for id in 1..=4 {
            upsert(store, directory, mapped(id, &[&format!("u{id}@x.org")]), 0).await;
            assert_eq!(login(store, &format!("u{id}@x.org")).await, "granted");
        }
        let mut sweep = Sweep::new(&Brake::default(), 4, 0, None);
        let mut writes = Vec::new();
        let disabled = Mapped { enabled: false, ..mapped(1, &["u1@x.org"]) };
        for entry in [disabled, mapped(2, &["new@x.org"]), mapped(3, &["u3@x.org"]), mapped(9, &["u9@x.org"])]
        {
            let stored = store.view().user_by_id(directory, &entry.id).unwrap();
            let stored = stored.as_ref().map(|(key, user)| (*key, user));
            if let crate::domain::sync::Step::Write(entry) = sweep.observe(stored, entry) {
                writes.push(entry);
            }
        }
        let preview =
            Preview { directory: "demo".to_owned(), sweep, writes, report: Report::default(), now: at(1) };
        let report = store.preview(preview).await.unwrap();
        let counts = (report.added, report.changed, report.disabled, report.removed);
        assert_eq!(counts, (1, 1, 1, 1));
        assert_eq!((report.seats_released, report.seats_released_after_grace), (1, 1));
        assert_eq!(report.held, None);
        assert_eq!(store.view().find(&name("u9@x.org")).unwrap(), None);
        assert_eq!(login(store, "u1@x.org").await, "held");
        assert_eq!(login(store, "u4@x.org").await, "held");
    });
}

#[test]
fn activity_is_summed_up() {
    with_store(0, async |store, directory| {
        let user = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        let refusals = |second, count| Refusals {
            first: at(second),
            last: at(second + 1),
            count,
            reason: "exhausted".into(),
        };
        store.record_activity(vec![], vec![(user.key, refusals(0, 2))], vec![]).await.unwrap();
        store
            .record_activity(vec![], vec![(user.key, refusals(9, 3)), (UserKey(99), refusals(0, 1))], vec![])
            .await
            .unwrap();
        let known = store.view().details(user.key).unwrap().unwrap().refusals.unwrap();
        assert_eq!((known.first, known.last, known.count), (at(0), at(10), 5));
    });
}

#[test]
fn a_second_daemon_and_a_newer_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let (store, writer) = Store::open(&path, policy(1)).unwrap();
    assert!(matches!(Store::open(&path, policy(1)), Err(StoreError::AlreadyOpen(_))));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    drop(store);
    writer.join().unwrap();
    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::META).unwrap().insert("format", FORMAT + 1).unwrap();
    txn.commit().unwrap();
    drop(db);
    assert!(matches!(Store::open(&path, policy(1)), Err(StoreError::NewerFormat)));
}

#[test]
fn verify_finds_what_is_wrong() {
    let disk = Disk::default();
    runtime().block_on(async {
        let (store, writer) = start(&disk, policy(5));
        let directory = store.directory("demo").await.unwrap();
        upsert(&store, directory, mapped(1, &["a@x.org"]), 0).await;
        assert_eq!(login(&store, "a@x.org").await, "granted");
        drop(store);
        writer.join().unwrap();
    });
    let db = Builder::new().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::SEATS).unwrap().remove(1).unwrap();
    txn.open_table(tables::NAMES).unwrap().insert("ghost@x.org", 7).unwrap();
    txn.commit().unwrap();
    let findings = ReadView::open(&db).unwrap().verify().unwrap();
    let texts: Vec<&str> = findings.iter().map(|finding| finding.0.as_str()).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[0].contains("ghost@x.org"));
    assert!(texts[1].contains("counted"));
    assert!(texts[2].contains("does not hold it"));
}

// The ledger against a model.

const USERS: u8 = 6;

#[derive(Debug, Clone)]
enum Op {
    Login(u8),
    AdministratorGrants(u8),
    Release(u8),
    Appear { user: u8, enabled: bool },
    Disappear(u8),
    Limit(u64),
    Cap(u64),
    GraceEnds,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let user = || 0..USERS;
    prop_oneof![
        6 => user().prop_map(Op::Login),
        1 => user().prop_map(Op::AdministratorGrants),
        2 => user().prop_map(Op::Release),
        4 => (user(), prop::bool::weighted(0.7)).prop_map(|(user, enabled)| Op::Appear { user, enabled }),
        2 => user().prop_map(Op::Disappear),
        1 => (0u64..6).prop_map(Op::Limit),
        1 => (0u64..4).prop_map(Op::Cap),
        1 => Just(Op::GraceEnds),
        2 => Just(Op::Crash),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unknown,
    Living { enabled: bool },
    Gone,
}

/// What must hold, said in the simplest way: a list of lives, a list of seats, two numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    lives: Vec<Life>,
    seated: Vec<bool>,
    limit: u64,
    cap: u64,
}

impl Model {
    fn new() -> Model {
        Model {
            lives: vec![Life::Unknown; USERS.into()],
            seated: vec![false; USERS.into()],
            limit: 3,
            cap: 2,
        }
    }

    fn used(&self) -> u64 {
        self.seated.iter().filter(|seated| **seated).count() as u64
    }

    /// Users with an even number are in the capped directory.
    fn used_in_capped(&self) -> u64 {
        self.seated.iter().step_by(2).filter(|seated| **seated).count() as u64
    }

    fn login(&mut self, user: u8) -> &'static str {
        let at = usize::from(user);
        match self.lives[at] {
            Life::Unknown => "unknown_user",
            Life::Gone => "removed",
            Life::Living { enabled: false } => "disabled",
            Life::Living { enabled: true } if self.seated[at] => "held",
            Life::Living { .. } if self.used() >= self.limit => "exhausted",
            Life::Living { .. } if user.is_multiple_of(2) && self.used_in_capped() >= self.cap => {
                "domain_exhausted"
            }
            Life::Living { .. } => {
                self.seated[at] = true;
                "granted"
            }
        }
    }

    fn apply(&mut self, op: &Op) -> Option<&'static str> {
        match *op {
            Op::Login(user) | Op::AdministratorGrants(user) => return Some(self.login(user)),
            Op::Release(user) => self.seated[usize::from(user)] = false,
            Op::Appear { user, enabled } => {
                self.lives[usize::from(user)] = Life::Living { enabled };
                self.seated[usize::from(user)] &= enabled;
            }
            Op::Disappear(user) => {
                let life = &mut self.lives[usize::from(user)];
                if *life != Life::Unknown {
                    *life = Life::Gone;
                }
            }
            Op::Limit(limit) => self.limit = limit,
            Op::Cap(cap) => self.cap = cap,
            Op::GraceEnds => {
                for (life, seated) in self.lives.iter_mut().zip(&mut self.seated) {
                    if *life == Life::Gone {
                        *life = Life::Unknown;
                        *seated = false;
                    }
                }
            }
            Op::Crash => {}
        }
        None
    }

    fn policy(&self) -> Policy {
        Policy { directory_limits: [("even".to_owned(), self.cap)].into(), ..policy(self.limit) }
    }
}

fn address(user: u8) -> String {
    format!("u{user}@x.org")
}

fn entry(user: u8, enabled: bool) -> Mapped {
    Mapped { enabled, ..mapped(user + 1, &[&address(user)]) }
}

async fn apply_to_store(store: &Store, op: &Op, directories: [DirectoryId; 2]) -> Option<&'static str> {
    let directory = |user: u8| directories[usize::from(user % 2)];
    let key = |user: u8| {
        let id = entry(user, true).id;
        store.view().user_by_id(directory(user), &id).unwrap().map(|(key, _)| key)
    };
    match *op {
        Op::Login(user) => return Some(login(store, &address(user)).await),
        Op::AdministratorGrants(user) => {
            let request = Request { operation: Operation::Grant, service: None };
            return Some(store.admit(name(&address(user)), request, at(0)).await.unwrap().decision.code());
        }
        Op::Release(user) => {
            if let Some(key) = key(user) {
                store.release(key, ReleaseReason::Administrator, at(0)).await.unwrap();
            }
        }
        Op::Appear { user, enabled } => {
            upsert(store, directory(user), entry(user, enabled), 0).await;
        }
        Op::Disappear(user) => {
            if let Some(key) = key(user) {
                let changes = Changes { removals: vec![key], ..Changes::default() };
                store.apply(directory(user), changes, at(0)).await.unwrap();
            }
        }
        Op::GraceEnds => {
            store.purge(at(0), at(0), 1000).await.unwrap();
        }
        Op::Limit(_) | Op::Cap(_) | Op::Crash => {}
    }
    None
}

/// What the store says of the same things.
fn observe(store: &Store, model: &Model, directories: [DirectoryId; 2]) -> Model {
    let view = store.view();
    let mut seen = Model { limit: model.limit, cap: model.cap, ..Model::new() };
    for user in 0..USERS {
        let id = entry(user, true).id;
        let Some((key, found)) = view.user_by_id(directories[usize::from(user % 2)], &id).unwrap() else {
            continue;
        };
        let living = Life::Living { enabled: found.mapped.enabled };
        seen.lives[usize::from(user)] = if found.is_living() { living } else { Life::Gone };
        seen.seated[usize::from(user)] = view.seat_of(key).unwrap().is_some();
    }
    assert_eq!(view.verify().unwrap(), []);
    assert_eq!(view.seats_used().unwrap(), seen.used());
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// No sequence of logins, grants, releases, disables, removals, returns, limit changes and crashes
    /// oversells, loses an answered grant, or lets the tables disagree. A crash may strike at every sync
    /// of the operation before it, also inside its commit.
    #[test]
    fn the_ledger_follows_its_model(ops in prop::collection::vec((op(), any::<usize>()), 1..60)) {
        runtime().block_on(async {
            let mut disk = Disk::default();
            let mut model = Model::new();
            let (mut store, mut writer) = start(&disk, model.policy());
            let directories = [store.directory("even").await.unwrap(), store.directory("odd").await.unwrap()];
            for (op, nth) in ops {
                disk.mark();
                let before = model.clone();
                let expected = model.apply(&op);
                store.change_policy(|policy| *policy = model.policy());
                let got = apply_to_store(&store, &op, directories).await;
                prop_assert_eq!(got, expected, "{:?}", op);
                if got == Some("granted") {
                    prop_assert!(before.used() < before.limit);
                }
                prop_assert_eq!(&observe(&store, &model, directories), &model, "{:?}", op);
                // What an unanswered operation had left on disk, had power failed during it.
                let crashed = disk.after_crash(nth);
                let (reopened, its_writer) = start(&crashed, model.policy());
                let found = observe(&reopened, &model, directories);
                let is_whole = found == model
                    || (found.lives == before.lives && found.seated == before.seated);
                prop_assert!(is_whole, "half of {:?} is on disk", op);
                drop(reopened);
                its_writer.join().unwrap();
                if matches!(op, Op::Crash) {
                    // Power fails now: everything answered so far must be there.
                    disk = disk.after_power_failure();
                    drop(store);
                    writer.join().unwrap();
                    (store, writer) = start(&disk, model.policy());
                    prop_assert_eq!(&observe(&store, &model, directories), &model);
                }
            }
            drop(store);
            writer.join().unwrap();
            Ok(())
        })?;
    }
}
