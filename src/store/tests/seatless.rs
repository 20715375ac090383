//! Mailboxes that need no seat, counted against what the licence allows.

use super::*;
use crate::domain::mapping::Remapped;

fn shared(id: u8) -> Mapped {
    Mapped { seatless: true, ..person(id) }
}

fn person(id: u8) -> Mapped {
    mapped(id, &[&format!("u{id}@x.org")])
}

fn allow(store: &Store, limit: Option<u64>) {
    store.change_policy(|policy| policy.seatless_limit = limit);
}

/// Decides about users 1 to 4 without a change.
fn probes(store: &Store) -> Vec<&'static str> {
    let request = Request { operation: Operation::Probe, service: None };
    let decision = |id: u8| {
        let (_, view) = store
            .view()
            .admission(&name(&format!("u{id}@x.org")), Purpose::Login, None, &store.policy())
            .unwrap();
        crate::domain::admission::decide(&view, &request, at(0)).code()
    };
    (1..=4).map(decision).collect()
}

#[test]
fn the_first_that_were_mapped_are_those_that_the_licence_allows() {
    with_store(1, async |store, directory| {
        for id in 1..=4 {
            upsert(store, directory, shared(id), 0).await;
        }
        assert_eq!(probes(store), ["granted"; 4], "none is allowed");
        allow(store, Some(2));
        assert_eq!(probes(store), ["exempt", "exempt", "granted", "granted"]);
        assert_eq!(login(store, "u3@x.org").await, "granted");
        assert_eq!(login(store, "u1@x.org").await, "exempt");
        assert_eq!(probes(store), ["exempt", "exempt", "held", "exhausted"]);

        // One that is disabled or gone makes room, and the seat of the next is free.
        upsert(store, directory, Mapped { enabled: false, ..shared(1) }, 1).await;
        assert_eq!(probes(store), ["disabled", "exempt", "exempt", "granted"]);
        assert_eq!(store.view().seats_used().unwrap(), 0);
        upsert(store, directory, shared(1), 2).await;
        assert_eq!(probes(store), ["exempt", "exempt", "granted", "granted"], "the same ones as before");
        let key = store.view().find(&name("u2@x.org"), Purpose::Login).unwrap().unwrap();
        entomb(store, directory, key, 3).await;
        assert_eq!(probes(store), ["exempt", "removed", "exempt", "granted"]);

        allow(store, None);
        assert_eq!(probes(store), ["exempt", "removed", "exempt", "exempt"]);
        allow(store, Some(0));
        assert_eq!(probes(store), ["granted", "removed", "granted", "granted"]);
    });
}

#[test]
fn becoming_seatless_releases_the_seat_and_the_reverse_takes_one_with_the_next_login() {
    with_store(2, async |store, directory| {
        allow(store, Some(1));
        for id in 1..=3 {
            upsert(store, directory, person(id), 0).await;
        }
        for id in 1..=2 {
            assert_eq!(login(store, &format!("u{id}@x.org")).await, "granted");
        }
        upsert(store, directory, shared(2), 1).await;
        assert_eq!(store.view().seats_used().unwrap(), 1);
        let history = store.view().history(None).unwrap().next().unwrap().unwrap();
        assert_eq!(history.what, Movement::Released(ReleaseReason::Seatless));
        assert_eq!(login(store, "u3@x.org").await, "granted");
        upsert(store, directory, person(2), 2).await;
        assert_eq!(login(store, "u2@x.org").await, "exhausted");
        // Beyond what is allowed the seat stays.
        upsert(store, directory, shared(1), 3).await;
        upsert(store, directory, shared(3), 4).await;
        assert_eq!(store.view().seats_used().unwrap(), 1);
        assert_eq!(login(store, "u3@x.org").await, "held");
        // A licence that allows more releases it.
        allow(store, Some(2));
        store.ping().await.unwrap();
        assert_eq!(store.view().seats_used().unwrap(), 0);
        assert_eq!(login(store, "u3@x.org").await, "exempt");
    });
}

#[test]
fn who_needs_no_seat_is_kept_over_a_restart() {
    runtime().block_on(async {
        let disk = Disk::default();
        let (store, writer) = start(&disk, policy(1));
        let directory = store.directory("demo").await.unwrap();
        upsert(&store, directory, shared(1), 0).await;
        drop(store);
        writer.join().unwrap();
        let (store, writer) = start(&disk, policy(1));
        allow(&store, Some(1));
        assert_eq!(login(&store, "u1@x.org").await, "exempt");
        assert_eq!(store.view().verify().unwrap(), []);
        drop(store);
        writer.join().unwrap();
    });
}

#[test]
fn a_seat_lost_by_an_attribute_counts_for_the_hour_and_one_lost_by_the_filter_does_not() {
    with_store(9, async |store, directory| {
        allow(store, None);
        for id in 1..=6 {
            upsert(store, directory, person(id), 0).await;
        }
        for id in 1..=4 {
            assert_eq!(login(store, &format!("u{id}@x.org")).await, "granted");
        }
        let lost = || store.view().directory(directory).unwrap().hour.losses.sum(at(1));
        let become_seatless = async |ids: std::ops::RangeInclusive<u8>, seatless| {
            let remapped = Remapped { seatless, names: false };
            let changes = Changes { upserts: ids.map(shared).collect(), remapped, ..Changes::default() };
            store.apply(directory, changes, at(1)).await.unwrap().happened.lost
        };
        // The fifth holds no seat.
        assert_eq!((become_seatless(4..=5, false).await, lost()), (1, 1));
        assert_eq!((become_seatless(1..=3, true).await, lost()), (0, 1));
        assert_eq!(store.view().seats_used().unwrap(), 0);
    });
}
