//! The rules of the store one by one; `model` has them all together, with crashes.

mod backup;
mod clock;
mod disk;
mod domains;
mod ledger;
mod license;
mod moves;
mod seatless;

use std::sync::Mutex;

use proptest::prelude::*;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableHandle};

use super::*;
use crate::domain::account::{AccountChange, AccountRefusal, ImportRow, RowContent};
use crate::domain::admission::{Decision, Operation};
use crate::domain::brake::{Brake, Counts, Hour};
use crate::domain::name::{Domain, StableId};
use crate::domain::names::{DirectoryNames, Purpose, Withheld};
use crate::domain::seats::Movement;
use crate::domain::sync::{Change, Sweep};
use crate::domain::user::{Kind, Mapped};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn policy(limit: u64) -> Policy {
    Policy {
        seat_limit: Some(limit),
        seatless_limit: Some(0),
        directory_limits: BTreeMap::new(),
        domain_limits: BTreeMap::new(),
        take_on: TakeOn { login: true, delivery: false },
        expired: None,
        components: Components::default(),
        names: rules(&[("demo", &[]), ("other", &[])]),
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
        seatless: false,
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

impl Medium for Disk {
    fn path(&self) -> &Path {
        Path::new("test")
    }
    fn open(&self) -> std::io::Result<(Box<dyn StorageBackend>, Option<std::io::Error>)> {
        Ok((Box::new(self.clone()), None))
    }
}

fn start(disk: &Disk, policy: Policy) -> (Store, Writer) {
    Store::start(Box::new(disk.clone()), policy, machine::system()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
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
        assert_eq!(store.view().find(&name("shared@x.org"), Purpose::Login).unwrap(), Some(first.key));
        assert_eq!(store.view().clashes(10).unwrap().len(), 2);

        // A clash is told once; the same entry again is unchanged.
        let again = upsert(store, directory, mapped(2, &["shared@x.org", "b@x.org"]), 3).await;
        assert_eq!((again.change, again.clashes.len()), (Change::Unchanged, 0));

        // When the first gives it up, it goes to whoever has waited longest.
        upsert(store, directory, mapped(1, &["a@x.org"]), 4).await;
        assert_eq!(store.view().find(&name("shared@x.org"), Purpose::Login).unwrap(), Some(second.key));
        upsert(store, directory, mapped(2, &["b@x.org"]), 5).await;
        assert_eq!(store.view().find(&name("shared@x.org"), Purpose::Login).unwrap(), Some(third.key));
        assert_eq!(store.view().clashes(10).unwrap(), []);
    });
}

fn rules(directories: &[(&str, &[&str])]) -> NameRules {
    let served = |(directory, domains): &(&str, &[&str])| DirectoryNames {
        name: (*directory).to_owned(),
        domains: domains.iter().map(|domain| Domain::parse(domain).unwrap()).collect(),
        foreign_names: true,
        login_is_address: true,
        moved_from: Vec::new(),
    };
    NameRules::new(directories.iter().map(served).collect(), None)
}

#[test]
fn a_tombstone_keeps_its_names_until_it_is_forgotten() {
    with_store(10, async |store, directory| {
        store.change_policy(|policy| policy.names = rules(&[("demo", &["x.org"])]));
        let owner = |text: &str| store.view().find(&name(text), Purpose::Login).unwrap();
        let old = upsert(store, directory, mapped(1, &["a@x.org", "b@x.org"]), 0).await;
        let waiting = upsert(store, directory, mapped(2, &["a@x.org"]), 1).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        entomb(store, directory, old.key, 10).await;
        assert_eq!(login(store, "a@x.org").await, "removed");

        // Whoever got a name after the removal has it; another id, so neither the seat nor the history.
        let new = upsert(store, directory, mapped(3, &["b@x.org"]), 20).await;
        assert!(new.clashes.is_empty());
        assert_eq!((owner("a@x.org"), owner("b@x.org")), (Some(old.key), Some(new.key)));
        assert!(store.view().seat_of(new.key).unwrap().is_none());

        // The old one comes back: it keeps the seat and its name, and the clash about the other is told again.
        let back = upsert(store, directory, mapped(1, &["a@x.org", "b@x.org"]), 30).await;
        assert_eq!(back.clashes.len(), 1);
        assert_eq!((owner("a@x.org"), owner("b@x.org")), (Some(old.key), Some(new.key)));
        assert_eq!(login(store, "a@x.org").await, "held");

        entomb(store, directory, old.key, 40).await;
        assert_eq!(owner("a@x.org"), Some(old.key));
        store.purge(at(40), at(50), 10).await.unwrap();
        assert_eq!(owner("a@x.org"), Some(waiting.key));
    });
}

/// The owners follow the configuration with the next transaction, the first of a start among them.
#[test]
fn a_changed_configuration_changes_owners() {
    with_store(10, async |store, demo| {
        let owner = |text: &str| store.view().find(&name(text), Purpose::Mail).unwrap();
        let other = store.directory("other").await.unwrap();
        let early = upsert(store, other, mapped(1, &["ceo@x.org", "x@free.org"]), 0).await;
        let late = upsert(store, demo, mapped(2, &["ceo@x.org"]), 1).await;
        assert_eq!(late.clashes.len(), 1);
        assert_eq!(owner("ceo@x.org"), Some(early.key));
        for (served, expected) in [
            (rules(&[("demo", &["x.org"]), ("other", &["o.org"])]), Some(late.key)),
            (rules(&[("demo", &["y.org"]), ("other", &["o.org"])]), Some(late.key)),
            (rules(&[("demo", &["y.org"]), ("other", &["x.org"])]), Some(early.key)),
            // No longer configured, it still serves what it served, unless another one does.
            (rules(&[("demo", &["y.org"])]), Some(early.key)),
            (rules(&[("demo", &["x.org"])]), Some(late.key)),
        ] {
            store.change_policy(|policy| policy.names = served);
            store.ping().await.unwrap();
            assert_eq!(owner("ceo@x.org"), expected);
            assert_eq!(owner("x@free.org"), Some(early.key));
            assert_eq!(store.view().verify().unwrap(), []);
        }
    });
}

/// The same stable id in another directory is the same person, once the old entry is gone or its directory is.
#[test]
fn a_user_comes_along_to_another_directory() {
    with_store(1, async |store, old| {
        let configure = |names| store.change_policy(|policy| policy.names = names);
        let other = |id, names: &[&str]| mapped(id, names);
        configure(rules(&[("demo", &["x.org"]), ("new", &["y.org"])]));
        let new = store.directory("new").await.unwrap();
        let user = upsert(store, old, mapped(1, &["a@x.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");

        // While both live they are two people.
        let twin = upsert(store, new, other(1, &["a@y.org"]), 1).await;
        assert_eq!((twin.moved_from, login(store, "a@y.org").await), (None, "exhausted"));
        entomb(store, new, twin.key, 2).await;
        store.purge(at(2), at(2), 10).await.unwrap();

        // The block was renamed, and serves the same domain.
        configure(rules(&[("new", &["x.org"])]));
        store.ping().await.unwrap();
        assert_eq!(login(store, "a@x.org").await, "held");
        let moved = upsert(store, new, other(1, &["a@x.org", "b@x.org"]), 3).await;
        assert_eq!((moved.key, moved.moved_from), (user.key, Some(("demo".to_owned(), true))));
        assert_eq!((login(store, "a@x.org").await, login(store, "b@x.org").await), ("held", "held"));
        assert_eq!(store.view().history(Some(user.key)).unwrap().count(), 1);
        assert_eq!(store.view().verify().unwrap(), []);

        // A tombstone moves out of a directory that is configured, too.
        configure(rules(&[("new", &["x.org"]), ("demo", &["y.org"])]));
        entomb(store, new, user.key, 4).await;
        let back = upsert(store, old, mapped(1, &["a@y.org"]), 5).await;
        assert_eq!((back.moved.len(), back.moved_from), (1, None));
        assert_eq!(login(store, "a@y.org").await, "held");
    });
}

/// A name that is on every entry is not decided among all of them for each.
#[test]
fn a_name_of_everybody_belongs_to_the_first_and_to_the_next_after_them() {
    with_store(1, async |store, directory| {
        let mut users = Vec::new();
        for number in 0..50 {
            users.push(upsert(store, directory, mapped(number, &["all@x.org"]), number.into()).await.key);
        }
        let owner = || store.view().find(&name("all@x.org"), Purpose::Mail).unwrap();
        assert_eq!(owner(), Some(users[0]));
        upsert(store, directory, mapped(0, &["own@x.org"]), 60).await;
        assert_eq!(owner(), Some(users[1]));
        // Who was removed while waiting comes behind those who still wait.
        entomb(store, directory, users[2], 61).await;
        upsert(store, directory, mapped(1, &["one@x.org"]), 62).await;
        assert_eq!(owner(), Some(users[3]));
    });
}

/// A file that the program before this one wrote: see tests/data/README.md.
#[test]
fn a_store_of_format_3_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seatkeeper.redb");
    let packed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/store-format-3.redb.gz");
    let unpacked = std::process::Command::new("gzip").args(["-dc", packed]).output().unwrap();
    std::fs::write(&path, unpacked.stdout).unwrap();
    let served = rules(&[("corp", &["example.org"]), ("labs", &["example.net"])]);
    runtime().block_on(async {
        let (store, writer) = Store::open(&path, Policy { names: served, ..policy(5) }).unwrap();
        store.ping().await.unwrap();
        let view = store.view();
        assert_eq!(view.verify().unwrap(), []);
        assert_eq!(view.seats_used().unwrap(), 5);
        let shown = |text: &str| {
            let owners = view.owners(&name(text)).unwrap();
            assert_eq!(owners.login, owners.mail, "{text}");
            owners.mail.map(|key| view.details(key).unwrap().unwrap())
        };
        for (asked, user, directory, is_seated) in [
            ("alice@example.org", "alice@example.org", Some("corp"), true),
            ("a.alice@example.org", "alice@example.org", Some("corp"), true),
            ("shared@example.org", "bela@example.org", Some("corp"), true),
            ("bela@example.org", "bela@example.org", Some("corp"), true),
            ("bela@example.net", "bela@example.net", Some("labs"), false),
            ("gone@example.org", "gone@example.org", Some("corp"), true),
            ("loc@local.example", "local@local.example", None, true),
        ] {
            let found = shown(asked).unwrap();
            let told = (found.name.as_str(), found.directory.as_deref(), found.seat.is_some());
            assert_eq!(told, (user, directory, is_seated), "{asked}");
        }
        assert!(!shown("gone@example.org").unwrap().user.is_living());
        let clashes = view.clashes(10).unwrap();
        let clashing: Vec<&str> = clashes.iter().map(|clash| clash.name.as_str()).collect();
        assert_eq!(clashing, ["bela@example.org", "shared@example.org"]);
        assert!(clashes.iter().all(|clash| clash.reason == Withheld::ServedElsewhere));
        drop((store, view));
        writer.join().unwrap();
    });
    // The next start finds nothing to do.
    let db = Database::open(&path).unwrap();
    let tables: Vec<String> =
        db.begin_read().unwrap().list_tables().unwrap().map(|table| table.name().to_owned()).collect();
    assert!(!tables.iter().any(|table| table == "names" || table == "claims"), "{tables:?}");
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
fn a_preview_changes_nothing() {
    with_store(10, async |store, directory| {
        for id in 1..=4 {
            upsert(store, directory, mapped(id, &[&format!("u{id}@x.org")]), 0).await;
            assert_eq!(login(store, &format!("u{id}@x.org")).await, "granted");
        }
        let mut sweep = Sweep::new(Brake::default(), 4, &Hour::default(), Counts::default(), at(1));
        let mut writes = Vec::new();
        let disabled = Mapped { enabled: false, ..mapped(1, &["u1@x.org"]) };
        for entry in [disabled, mapped(2, &["new@x.org"]), mapped(3, &["u3@x.org"]), mapped(9, &["u9@x.org"])]
        {
            let stored = store.view().stored(directory, &entry).unwrap();
            if let crate::domain::sync::Step::Write(entry) = sweep.observe(stored.as_ref(), entry) {
                writes.push(entry);
            }
        }
        let preview = Preview {
            directory: "demo".to_owned(),
            sweep,
            writes,
            report: Report::default(),
            names: NameRules::default(),
            remapped: Default::default(),
            now: at(1),
        };
        let report = store.preview(preview).await.unwrap();
        let counts = (report.added, report.changed, report.disabled, report.removed);
        assert_eq!(counts, (1, 1, 1, 1));
        assert_eq!((report.seats_released, report.seats_released_after_grace), (1, 1));
        assert_eq!(report.held, None);
        assert_eq!(store.view().find(&name("u9@x.org"), Purpose::Login).unwrap(), None);
        assert_eq!(login(store, "u1@x.org").await, "held");
        assert_eq!(login(store, "u4@x.org").await, "held");
    });
}

#[test]
fn of_unknown_names_the_latest_are_kept() {
    with_store(0, async |store, _| {
        let stranger = |number: i64| {
            let refusals =
                Refusals { first: at(number), last: at(number), count: 1, reason: "unknown_user".into() };
            (name(&format!("u{number}@x.org")), refusals)
        };
        store.record_activity(vec![], vec![], (0..900).map(stranger).collect()).await.unwrap();
        store.record_activity(vec![], vec![], (899..1500).map(stranger).collect()).await.unwrap();
        let view = store.view();
        assert_eq!(view.strangers().unwrap().count(), 1000);
        assert_eq!(view.stranger("u499@x.org").unwrap(), None);
        assert_eq!(view.stranger("u899@x.org").unwrap().unwrap().count, 2);
    });
}

/// Seen from outside while a file is imported whose next row may be long in coming.
#[test]
fn a_writer_that_imports_shows_life_as_long_as_it_goes_on() {
    with_store(2000, async |store, _| {
        let (rows, queue) = std::sync::mpsc::channel();
        let row = |number: u64| {
            let content = RowContent::Skipped("not_a_person");
            Ok(ImportRow { line: number, content })
        };
        let import = Import {
            domain: Domain::parse("x.org").unwrap(),
            rows: Box::new(queue.into_iter()),
            partial: false,
            dry_run: false,
            now: at(0),
        };
        let patience = Duration::from_millis(100);
        let watched = async {
            while store.shows_life(patience).await.unwrap() {}
            (0..1000).for_each(|number| rows.send(row(number)).unwrap());
            assert!(store.shows_life(patience).await.unwrap(), "it goes on");
            assert!(!store.shows_life(patience).await.unwrap(), "it is stuck");
            drop(rows);
        };
        let (imported, ()) = tokio::join!(store.import(import), watched);
        assert_eq!(imported.unwrap().unwrap().rows, 1000);
        assert!(store.shows_life(patience).await.unwrap());
    });
}

/// A store of the version before accounts has fewer tables.
#[test]
fn a_store_of_the_first_format_is_brought_up_to_date() {
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
    txn.open_table(tables::META).unwrap().insert("format", 1).unwrap();
    assert!(txn.delete_table(tables::STRANGERS).unwrap());
    txn.commit().unwrap();
    drop(db);
    runtime().block_on(async {
        let (store, writer) = start(&disk, policy(5));
        assert_eq!(login(&store, "a@x.org").await, "held");
        assert_eq!(store.view().verify().unwrap(), []);
        assert_eq!(store.view().strangers().unwrap().count(), 0);
        drop(store);
        writer.join().unwrap();
    });
    let db = Builder::new().create_with_backend(disk).unwrap();
    let txn = db.begin_write().unwrap();
    assert_eq!(txn.open_table(tables::META).unwrap().get("format").unwrap().unwrap().value(), FORMAT);
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

/// At a provider with thousands of domains, decoding them all took longer than the commit itself.
#[test]
fn a_commit_shares_the_directory_records_that_it_leaves_as_they_are() {
    with_store(5, async |store, directory| {
        upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        let other = store.directory("other").await.unwrap();
        let before = store.view();
        assert_eq!(login(store, "a@x.org").await, "granted");
        let after = store.view();
        let record = |view: &ReadView, id| std::ptr::from_ref(view.directory(id).unwrap());
        assert_eq!(record(&before, other), record(&after, other), "it was decoded or copied");
        assert_eq!(before.directory(directory).unwrap().census.seats, 0);
        assert_eq!(after.directory(directory).unwrap().census.seats, 1);
    });
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
    let ghost = codec::encode_name(&names::NameRecord::Contested(Default::default()));
    txn.open_table(tables::NAMES).unwrap().insert("ghost@x.org", ghost.as_slice()).unwrap();
    txn.commit().unwrap();
    let directories = directories::stored(&db.begin_read().unwrap().open_table(tables::DIRECTORIES).unwrap());
    let view = ReadView::open(&db, directories.unwrap(), Arc::default()).unwrap();
    let findings = view.verify().unwrap();
    let texts: Vec<&str> = findings.iter().map(|finding| finding.0.as_str()).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert!(texts[0].contains("ghost@x.org"));
    assert!(texts[1].contains("seats by mail domain: counted {}, but kept {\"x.org\": 1}"));
    assert!(texts[2].contains("counted"));
    assert!(texts[3].contains("does not hold it"));
}

mod model;
