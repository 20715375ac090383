//! The time that is kept, and what is never replaced by something earlier.

use super::*;

#[test]
fn a_last_login_is_never_replaced_by_an_earlier_one() {
    with_store(0, async |store, directory| {
        let user = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        let last = || store.view().details(user.key).unwrap().unwrap().last_login.unwrap().at;
        let future = store.now().checked_add(Duration::from_secs(999_999)).unwrap();
        // The last but one is from a clock that was wrong then.
        for (login, expected) in
            [(at(9), at(9)), (at(7), at(9)), (at(10), at(10)), (future, future), (at(11), at(11))]
        {
            let login = LastLogin { at: login, service: None };
            store.record_activity(vec![(user.key, login)], vec![], vec![]).await.unwrap();
            assert_eq!(last(), expected);
        }
    });
}

/// A machine whose wall clock stands still while it runs.
fn machine(seconds: &Arc<Mutex<u64>>) -> machine::Source {
    let seconds = Arc::clone(seconds);
    Arc::new(move || crate::domain::clock::Sample {
        wall: at(200_000_000),
        up: Duration::from_secs(*seconds.lock().unwrap()),
    })
}

#[test]
fn the_time_is_kept_with_other_changes_once_a_minute() {
    let (disk, up) = (Disk::default(), Arc::new(Mutex::new(0)));
    let open = || Store::start(Box::new(disk.clone()), policy(5), machine(&up)).unwrap();
    runtime().block_on(async {
        let begins = at(200_000_000);
        // So many seconds into a run a change comes, and then a crash. The next run goes on from what was kept.
        let mut kept = 0;
        for (changes, lost) in [(&[0, 59][..], 59), (&[0, 61], 0), (&[30], 0), (&[0, 100, 159], 59)] {
            let (store, writer) = open();
            assert_eq!(store.now().duration_since(begins).as_secs(), kept);
            let start = *up.lock().unwrap();
            for second in changes {
                *up.lock().unwrap() = start + second;
                store.directory(&format!("{kept} {second}")).await.unwrap();
            }
            kept += i64::try_from(changes.last().unwrap() - lost).unwrap();
            drop(store);
            writer.join().unwrap();
        }
        // Not by itself, but where it is asked for, as at a stop.
        let (store, writer) = open();
        *up.lock().unwrap() += 500;
        store.ping().await.unwrap();
        store.keep_time().await.unwrap();
        drop(store);
        writer.join().unwrap();
        let (store, writer) = open();
        assert_eq!(store.now().duration_since(begins).as_secs(), kept + 500);
        drop(store);
        writer.join().unwrap();
    });
}

#[test]
fn a_store_of_an_earlier_program_goes_on_from_the_time_that_its_license_has_seen() {
    let (disk, up) = (Disk::default(), Arc::new(Mutex::new(0)));
    let open = || Store::start(Box::new(disk.clone()), policy(5), machine(&up)).unwrap();
    runtime().block_on(async {
        let (store, writer) = open();
        let seen = Some(at(200_009_000));
        store.keep_license(LicenseRecord { time_seen: seen, ..LicenseRecord::default() }).await.unwrap();
        drop(store);
        writer.join().unwrap();
    });
    let db = Builder::new().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    assert!(txn.delete_table(crate::store::clock::CLOCK).unwrap());
    txn.commit().unwrap();
    drop(db);
    runtime().block_on(async {
        let (store, writer) = open();
        assert_eq!(store.now(), at(200_009_000));
        drop(store);
        writer.join().unwrap();
    });
}

#[test]
fn a_start_knows_whether_the_run_before_it_stopped_in_order() {
    let (disk, up) = (Disk::default(), Arc::new(Mutex::new(0)));
    let open = || Store::start(Box::new(disk.clone()), policy(5), machine(&up)).unwrap();
    runtime().block_on(async {
        let mut is_crash = true;
        // What a run does last, and whether the next one follows a crash.
        for (last, crashed) in
            [("stop", false), ("stop", false), ("nothing", false), ("time", true), ("change", true)]
        {
            let (store, writer) = open();
            assert_eq!(store.started_after_crash(), is_crash.then(|| store.now()), "before {last}");
            match last {
                "stop" => store.keep_stop().await.unwrap(),
                "time" => store.keep_time().await.unwrap(),
                "change" => {
                    store.keep_stop().await.unwrap();
                    store.directory("later").await.unwrap();
                }
                _ => store.ping().await.unwrap(),
            }
            is_crash = crashed;
            drop(store);
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_seat_whose_user_logged_in_since_is_not_reclaimed() {
    with_store(5, async |store, directory| {
        let user = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        let reclaim = async |last_login: LastLoginOf| {
            store.reclaim(vec![user.key], at(100), at(200), last_login).await.unwrap().len()
        };
        assert_eq!(reclaim(Arc::new(|_, _| Some(at(150)))).await, 0, "not written yet");
        assert_eq!(reclaim(Arc::new(|_, stored| stored)).await, 1);
    });
}
