//! What the ledger keeps, and how its lines are found.

use redb::ReadableDatabase;

use super::*;

async fn release(store: &Store, key: UserKey, second: i64) {
    let released = store.release(key, ReleaseReason::Administrator, at(second)).await.unwrap();
    assert!(released.is_some());
}

async fn grant(store: &Store, who: &str, second: i64) {
    let decision = store.admit(name(who), LOGIN, at(second)).await.unwrap().decision;
    assert_eq!(decision.code(), "granted");
}

fn lines(store: &Store) -> usize {
    store.view().history(None).unwrap().count()
}

async fn trim(store: &Store, second: i64) -> u64 {
    let mut dropped = 0;
    while store.view().has_untrimmed(at(second)).unwrap() {
        dropped += store.trim_ledger(at(second), 2).await.unwrap();
        assert_eq!(store.view().verify().unwrap(), []);
    }
    dropped
}

#[test]
fn only_the_history_of_seats_that_were_taken_back_is_dropped() {
    with_store(5, async |store, directory| {
        let mut keys = Vec::new();
        for (id, who) in [(1, "a@x.org"), (2, "b@x.org"), (3, "c@x.org")] {
            keys.push(upsert(store, directory, mapped(id, &[who]), 0).await.key);
        }
        // a holds since the beginning, b had a seat twice, c has one now and another before.
        grant(store, "a@x.org", 1).await;
        grant(store, "b@x.org", 2).await;
        grant(store, "c@x.org", 3).await;
        release(store, keys[1], 4).await;
        release(store, keys[2], 5).await;
        grant(store, "c@x.org", 6).await;
        grant(store, "b@x.org", 7).await;
        release(store, keys[1], 8).await;
        assert_eq!(trim(store, 4).await, 0);
        assert_eq!(trim(store, 5).await, 2, "b's first seat");
        assert_eq!(trim(store, 6).await, 2, "c's first seat");
        assert_eq!((trim(store, 8).await, lines(store)), (0, 4), "b's second release is too young");
        assert_eq!((trim(store, 1000).await, lines(store)), (2, 2));
        let seats: Vec<UserKey> = store.view().holders().unwrap().map(|holder| holder.unwrap().0).collect();
        assert_eq!(seats, [keys[0], keys[2]]);
        assert_eq!(store.view().history(Some(keys[0])).unwrap().count(), 1);
        assert_eq!(store.view().history(Some(keys[1])).unwrap().count(), 0);
        let gone = name("b@x.org");
        assert_eq!(store.view().history_of_name(&gone).unwrap().count(), 0);

        // A seat that is given back later takes its old grant along.
        release(store, keys[0], 2000).await;
        release(store, keys[2], 2001).await;
        assert_eq!((trim(store, 2001).await, trim(store, 3000).await, lines(store)), (2, 2, 0));
        grant(store, "a@x.org", 3001).await;
        let view = store.view();
        let line = view.ledger.iter().unwrap().next().unwrap().unwrap().0.value();
        assert_eq!(line, 10, "no number is used twice");
    });
}

#[test]
fn what_was_carried_over_is_dropped_with_its_grant() {
    with_store(5, async |store, directory| {
        let old = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await.key;
        let new = upsert(store, directory, mapped(2, &["b@x.org"]), 0).await.key;
        grant(store, "a@x.org", 1).await;
        store.carry(vec![(old, new)], Kin::Declared, at(2)).await.unwrap()[0].as_ref().unwrap();
        assert_eq!((trim(store, 10).await, lines(store)), (0, 2), "the seat is held");
        release(store, new, 11).await;
        assert_eq!((trim(store, 12).await, lines(store)), (3, 0));
        for key in [old, new] {
            assert_eq!(store.view().ledger_by_user.range((key.0, 0)..=(key.0, u64::MAX)).unwrap().count(), 0);
        }
    });
}

#[test]
fn the_history_of_a_name_is_found_when_its_user_is_gone() {
    with_store(5, async |store, directory| {
        let user = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await.key;
        upsert(store, directory, mapped(2, &["b@x.org"]), 0).await;
        grant(store, "a@x.org", 1).await;
        grant(store, "b@x.org", 2).await;
        entomb(store, directory, user, 3).await;
        store.forget(user, at(4)).await.unwrap();
        let gone = name("a@x.org");
        let view = store.view();
        let found = view.history_of_name(&gone).unwrap().map(|event| event.unwrap().at);
        assert_eq!(found.collect::<Vec<_>>(), [at(4), at(1)]);
        assert_eq!(view.history_of_name(&name("a@x.or")).unwrap().count(), 0);
    });
}

#[test]
fn refusals_are_forgotten_after_the_last_of_them() {
    with_store(0, async |store, directory| {
        let user = upsert(store, directory, mapped(1, &["a@x.org"]), 0).await.key;
        let refused =
            |second| Refusals { first: at(0), last: at(second), count: 1, reason: "exhausted".into() };
        let strangers = vec![(name("x@x.org"), refused(5)), (name("y@x.org"), refused(15))];
        store.record_activity(vec![], vec![(user, refused(5))], strangers).await.unwrap();
        let (users, names) = store.view().old_refusals(at(10), 9).unwrap();
        assert_eq!((users.clone(), names.clone()), (vec![user], vec![name("x@x.org")]));
        // One came between.
        store.record_activity(vec![], vec![(user, refused(12))], vec![]).await.unwrap();
        store.forget_refusals(users, names, at(10)).await.unwrap();
        let view = store.view();
        assert_eq!(view.details(user).unwrap().unwrap().refusals.unwrap().count, 2);
        assert_eq!(view.strangers().unwrap().count(), 1);
    });
}

#[test]
fn verify_misses_the_grant_of_a_seat_that_is_held() {
    let disk = Disk::default();
    runtime().block_on(async {
        let (store, writer) = start(&disk, policy(5));
        let directory = store.directory("demo").await.unwrap();
        for (id, who) in [(1, "a@x.org"), (2, "b@x.org")] {
            upsert(&store, directory, mapped(id, &[who]), 0).await;
            grant(&store, who, 1).await;
        }
        trim(&store, 10).await;
        drop(store);
        writer.join().unwrap();
    });
    let db = Builder::new().create_with_backend(disk).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::LEDGER).unwrap().remove(0).unwrap();
    txn.commit().unwrap();
    let directories = directories::stored(&db.begin_read().unwrap().open_table(tables::DIRECTORIES).unwrap());
    let view = ReadView::open(&db, directories.unwrap(), Arc::default()).unwrap();
    let findings = view.verify().unwrap();
    let is_told = |words: &str| findings.iter().any(|finding| finding.0.contains(words));
    assert!(is_told("2 seats were taken before ledger line 2, the replay says 1"), "{findings:?}");
}
