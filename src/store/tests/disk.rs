//! Disks that are full, fail or recover under an open store.

use std::io;
use std::path::PathBuf;

use super::*;
use crate::domain::names::Purpose;

/// A disk that does what the test wants, from when it wants it.
#[derive(Debug, Clone, Default)]
struct Faulty {
    disk: Disk,
    fault: Arc<Mutex<Fault>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Fault {
    /// Writes that still succeed.
    writes_left: Option<u32>,
    fails_sync: bool,
    fails_reads: bool,
}

impl Faulty {
    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn get(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn take_write(&self) -> io::Result<()> {
        let mut fault = self.fault.lock().unwrap();
        if let Some(left) = &mut fault.writes_left {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        }
        Ok(())
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.get().fails_reads {
            return Err(io::Error::other("input/output error"));
        }
        self.disk.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.take_write()?;
        self.disk.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.get().fails_sync {
            return Err(io::Error::other("input/output error"));
        }
        self.disk.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take_write()?;
        self.disk.write(offset, data)
    }
}

impl Medium for Faulty {
    fn path(&self) -> &Path {
        Path::new("/var/lib/seatkeeper/seatkeeper.redb")
    }
    fn open(&self) -> io::Result<(Box<dyn StorageBackend>, Option<io::Error>)> {
        Ok((Box::new(self.clone()), None))
    }
}

const HEALTHY: Fault = Fault { writes_left: None, fails_sync: false, fails_reads: false };

async fn people(store: &Store, count: u8) {
    let directory = store.directory("demo").await.unwrap();
    let upserts = (0..count).map(|id| mapped(id, &[&format!("u{id}@x.org")])).collect();
    let changes = Changes { upserts, checkpoint: Some(Checkpoint::default()), ..Changes::default() };
    store.apply(directory, changes, at(0)).await.unwrap();
}

fn would_get(store: &Store, who: &str) -> &'static str {
    let (_, view) = store.view().admission(&name(who), Purpose::Login, None, &store.policy()).unwrap();
    crate::domain::admission::decide(&view, &LOGIN, at(1)).code()
}

/// Under a fault that begins anywhere in the next commits: holders are read as before, whoever is told `granted` has a
/// seat for good, no seat is granted twice, and all goes on when the fault is over.
fn check(fault: Fault, seats: u64) {
    let faulty = Faulty::default();
    runtime().block_on(async {
        let (store, writer) =
            Store::start(Box::new(faulty.clone()), policy(seats), machine::system()).unwrap();
        people(&store, 12).await;
        assert_eq!(login(&store, "u0@x.org").await, "granted");
        faulty.set(fault);
        let mut granted = vec!["u0@x.org".to_owned()];
        let mut refused = 0;
        for id in 1..12 {
            let who = format!("u{id}@x.org");
            match store.admit(name(&who), LOGIN, at(1)).await {
                Ok(admitted) if admitted.decision.allows() => granted.push(who),
                Ok(admitted) => assert_eq!(admitted.decision.code(), "exhausted", "{fault:?}"),
                Err(StoreError::InTrouble(problem)) => {
                    assert!(problem.contains("seatkeeper.redb cannot be written: "), "{problem}");
                    refused += 1;
                }
                Err(error) => panic!("{fault:?}: {error}"),
            }
            for holder in &granted {
                assert_eq!(would_get(&store, holder), "held", "{fault:?}");
            }
        }
        assert_eq!(store.disk().trouble.is_some(), refused > 0, "{fault:?}");
        assert!(store.shows_life(Duration::from_secs(60)).await.unwrap(), "the watchdog is fed");

        faulty.set(HEALTHY);
        store.look_after_disk().await.unwrap();
        assert_eq!(store.disk().trouble, None, "{fault:?}");
        for id in 1..12 {
            let who = format!("u{id}@x.org");
            let outcome = login(&store, &who).await;
            assert!(outcome == "held" || !granted.contains(&who), "{fault:?}: {who} lost a seat");
        }
        let used = store.view().seats_used().unwrap();
        assert_eq!(used, seats.min(12), "{fault:?}");
        assert_eq!(store.view().verify().unwrap(), []);
        drop(store);
        writer.join().unwrap();
    });
    // The same from what is on disk.
    runtime().block_on(async {
        let (store, writer) = start(&faulty.disk.after_power_failure(), policy(seats));
        assert_eq!(store.view().seats_used().unwrap(), seats.min(12));
        assert_eq!(store.view().verify().unwrap(), []);
        drop(store);
        writer.join().unwrap();
    });
}

#[test]
fn a_disk_may_be_full_at_any_write() {
    // A grant writes some twenty times.
    for writes_left in (0..24).chain([30, 37, 45]) {
        check(Fault { writes_left: Some(writes_left), ..HEALTHY }, 9);
    }
    check(Fault { writes_left: Some(17), ..HEALTHY }, 100);
}

#[test]
fn a_commit_that_cannot_be_made_durable_is_not_confirmed() {
    check(Fault { fails_sync: true, ..HEALTHY }, 9);
}

#[test]
fn a_full_disk_is_no_reason_not_to_start() {
    let faulty = Faulty::default();
    runtime().block_on(async {
        let (store, writer) = Store::start(Box::new(faulty.clone()), policy(5), machine::system()).unwrap();
        people(&store, 4).await;
        assert_eq!(login(&store, "u1@x.org").await, "granted");
        // What a kill leaves.
        let crashed = Faulty { disk: faulty.disk.after_power_failure(), ..Faulty::default() };
        crashed.set(Fault { writes_left: Some(0), ..HEALTHY });
        drop(store);
        writer.join().unwrap();

        let (store, writer) = Store::start(Box::new(crashed.clone()), policy(5), machine::system()).unwrap();
        let trouble = store.disk().trouble.unwrap();
        assert!(trouble.problem.contains("cannot be written"), "{}", trouble.problem);
        assert_eq!(would_get(&store, "u1@x.org"), "held");
        assert!(matches!(store.admit(name("u2@x.org"), LOGIN, at(1)).await, Err(StoreError::InTrouble(_))));
        crashed.set(HEALTHY);
        store.look_after_disk().await.unwrap();
        assert_eq!(login(&store, "u2@x.org").await, "granted");
        assert_eq!(store.view().verify().unwrap(), []);
        drop(store);
        writer.join().unwrap();
    });
    let full = Faulty::default();
    full.set(Fault { writes_left: Some(0), ..HEALTHY });
    let error = Store::start(Box::new(full), policy(1), machine::system()).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "a new store cannot be made there: {error}");
}

/// Under the format before, which has to be brought up to date.
#[test]
fn a_full_disk_does_not_keep_an_older_store_from_being_read() {
    let faulty = Faulty::default();
    runtime().block_on(async {
        let (store, writer) = Store::start(Box::new(faulty.clone()), policy(5), machine::system()).unwrap();
        people(&store, 2).await;
        assert_eq!(login(&store, "u1@x.org").await, "granted");
        drop(store);
        writer.join().unwrap();
        let db = Builder::new().create_with_backend(faulty.clone()).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(tables::META).unwrap().insert("format", 2).unwrap();
        txn.commit().unwrap();
        drop(db);
        faulty.set(Fault { writes_left: Some(0), ..HEALTHY });
        let (store, writer) = Store::start(Box::new(faulty.clone()), policy(5), machine::system()).unwrap();
        assert_eq!(would_get(&store, "u1@x.org"), "held");
        faulty.set(HEALTHY);
        store.look_after_disk().await.unwrap();
        assert_eq!(login(&store, "u0@x.org").await, "granted");
        drop(store);
        writer.join().unwrap();
    });
    let db = Builder::new().create_with_backend(faulty.disk).unwrap();
    let txn = db.begin_write().unwrap();
    assert_eq!(txn.open_table(tables::META).unwrap().get("format").unwrap().unwrap().value(), FORMAT);
}

#[test]
fn a_disk_that_could_not_be_read_once_is_read_again() {
    let faulty = Faulty::default();
    runtime().block_on(async {
        let (store, writer) = Store::start(Box::new(faulty.clone()), policy(5), machine::system()).unwrap();
        people(&store, 200).await;
        assert_eq!(login(&store, "u1@x.org").await, "granted");
        drop(store);
        writer.join().unwrap();
        // Opened anew, so that little is cached.
        let (store, writer) = Store::start(Box::new(faulty.clone()), policy(5), machine::system()).unwrap();
        let read = async |who: &str| {
            store
                .read(|view| {
                    view.admission(&name(who), Purpose::Login, None, &store.policy()).map(|(key, _)| key)
                })
                .await
        };
        faulty.set(Fault { fails_reads: true, ..HEALTHY });
        let failed = store.view();
        assert!(failed.verify().is_err(), "this disk cannot be read");
        faulty.set(HEALTHY);
        assert!(failed.verify().is_err(), "redb reads nothing more after an error");
        assert!(read("u1@x.org").await.unwrap().is_some());
        assert_eq!(login(&store, "u1@x.org").await, "held");
        assert_eq!(login(&store, "u2@x.org").await, "granted");
        assert_eq!(store.view().verify().unwrap(), []);
        drop(failed);
        drop(store);
        writer.join().unwrap();
    });
}

/// A store with some people in a file, closed as it should be, and the folder that goes with the value.
fn a_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    runtime().block_on(async {
        let (store, writer) = Store::open(&path, policy(5)).unwrap();
        people(&store, 100).await;
        assert_eq!(login(&store, "u1@x.org").await, "granted");
        drop(store);
        writer.join().unwrap();
    });
    (folder, path)
}

#[test]
fn garbage_is_refused_with_advice_wherever_it_is() {
    let check = |what: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let (_folder, path) = a_file();
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(&path, policy(5)).map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error}");
        assert!(error.needs_an_administrator() && error.to_string().contains("restore a backup"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}: the file stays as it was");
    };
    let garbage = |range: std::ops::Range<usize>| {
        move |bytes: &mut Vec<u8>| {
            let mut random = fastrand::Rng::with_seed(7);
            bytes[range.clone()].fill_with(|| random.u8(..));
        }
    };
    check("all of it", &|bytes| garbage(0..bytes.len())(bytes));
    check("a text file", &|bytes| *bytes = b"hello\n".to_vec());
    check("all but the first word", &|bytes| garbage(9..bytes.len())(bytes));
    check("all behind the header", &|bytes| garbage(4096..bytes.len())(bytes));
    check("zeros behind the header", &|bytes| bytes[4096..].fill(0));
    check("the commits in the header", &garbage(64..320));
    check("cut short in the header", &|bytes| bytes.truncate(100));
    check("cut short", &|bytes| bytes.truncate(bytes.len() / 2 / 4096 * 4096));
    check("cut short in a page", &|bytes| bytes.truncate(bytes.len() - 5000));
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(folder.path(), policy(1)).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::NotAFile(_)), "{error}");
    assert!(error.needs_an_administrator());
}
