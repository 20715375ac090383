//! Several entries of one person, by the same stable id, and what goes from one to another.

use super::*;
use crate::domain::license::{ComponentName, ComponentStanding};
use crate::domain::moves::NotMoved;
use crate::domain::seats::Service;

fn with_moved_from(from: &[&str]) -> NameRules {
    let mut directories = rules(&[("demo", &["x.org"]), ("new", &["y.org"])]).directories().to_vec();
    directories[1].moved_from = from.iter().map(|name| (*name).to_owned()).collect();
    NameRules::new(directories, None)
}

async fn configure(store: &Store, names: NameRules) {
    store.change_policy(|policy| policy.names = names);
    store.ping().await.unwrap();
    assert_eq!(store.view().verify().unwrap(), []);
}

/// What a login is answered from the read view, and who is noted for it.
fn probe(store: &Store, who: &str) -> (Option<UserKey>, &'static str) {
    let policy = store.policy();
    let (key, view) = store.view().admission(&name(who), Purpose::Login, None, &policy).unwrap();
    (key, crate::domain::admission::decide(&view, &LOGIN, at(0)).code())
}

fn seated(store: &Store, key: UserKey) -> bool {
    store.view().seat_of(key).unwrap().is_some()
}

async fn reunite(store: &Store) -> usize {
    let pairs = store.view().reunions().unwrap();
    let moved = store.carry(pairs, Kin::SameId, at(50)).await.unwrap();
    moved.into_iter().map(Result::unwrap).count()
}

#[test]
fn with_moved_from_a_holder_is_held_while_both_entries_live() {
    with_store(1, async |store, old| {
        let new = store.directory("new").await.unwrap();
        store.change_policy(|policy| policy.directory_limits = [("new".to_owned(), 0)].into());
        configure(store, with_moved_from(&["demo"])).await;
        let holder = upsert(store, old, mapped(1, &["a@x.org"]), 0).await.key;
        assert_eq!(login(store, "a@x.org").await, "granted");
        // Past the cap of the new block.
        let twin = upsert(store, new, mapped(1, &["a@y.org"]), 1).await;
        assert_eq!(twin.moved.len(), 1);
        let Moved { from, to, seat, .. } = &twin.moved[0];
        assert_eq!((&*from.directory, &*to.directory, *seat), ("demo", "new", true));
        assert!(seated(store, twin.key) && !seated(store, holder));
        // One seat, whichever name is used; the login is noted for the holder.
        for who in ["a@x.org", "a@y.org"] {
            assert_eq!(probe(store, who), (Some(twin.key), "held"));
            assert_eq!(login(store, who).await, "held");
        }
        let view = store.view();
        let history = view.history(Some(twin.key)).unwrap().map(|event| event.unwrap().what);
        let history: Vec<Movement> = history.collect();
        assert!(matches!(&history[..], [Movement::Moved { .. }, Movement::Granted(_)]), "{history:?}");
        assert_eq!(store.view().history(Some(holder)).unwrap().count(), 2);
        assert_eq!(store.view().verify().unwrap(), []);
        assert_eq!(store.view().seat_holder(holder).unwrap(), Some(twin.key));
        // The old entry goes, and takes nothing with it.
        entomb(store, old, holder, 2).await;
        store.purge(at(2), at(3), 10).await.unwrap();
        assert_eq!(login(store, "a@y.org").await, "held");
    });
}

/// Whoever was there when `moved_from` was configured comes along as well, and is held before that.
#[test]
fn what_is_mapped_already_comes_along_when_the_configuration_says_so() {
    with_store(1, async |store, old| {
        let new = store.directory("new").await.unwrap();
        configure(store, with_moved_from(&[])).await;
        let holder = upsert(store, old, mapped(1, &["a@x.org"]), 0).await.key;
        let twin = upsert(store, new, mapped(1, &["a@y.org"]), 1).await.key;
        assert_eq!(login(store, "a@x.org").await, "granted");
        assert_eq!(probe(store, "a@y.org"), (Some(twin), "exhausted"));
        assert_eq!(reunite(store).await, 0, "two people");

        configure(store, with_moved_from(&["demo"])).await;
        assert_eq!(probe(store, "a@y.org"), (Some(holder), "held"));
        assert_eq!(reunite(store).await, 1);
        assert_eq!(probe(store, "a@x.org"), (Some(twin), "held"));
        assert_eq!(reunite(store).await, 0);
    });
}

/// The new block mapped the id while the old entry lived; then that is removed, or its block is.
#[test]
fn a_second_entry_gets_the_seat_when_the_first_is_gone() {
    with_store(2, async |store, old| {
        let new = store.directory("new").await.unwrap();
        configure(store, with_moved_from(&[])).await;
        let mut keys = Vec::new();
        for id in [1, 2] {
            let first = upsert(store, old, mapped(id, &[&format!("u{id}@x.org")]), 0).await.key;
            let second = upsert(store, new, mapped(id, &[&format!("u{id}@y.org")]), 1).await;
            assert!(second.moved.is_empty());
            assert_eq!(login(store, &format!("u{id}@x.org")).await, "granted");
            keys.push((first, second.key));
        }
        let login_at = LastLogin { at: at(5), service: None };
        store.record_activity(vec![(keys[0].0, login_at.clone())], vec![], vec![]).await.unwrap();
        let changes = Changes { removals: vec![keys[0].0], ..Changes::default() };
        let entombed = store.apply(old, changes, at(9)).await.unwrap().entombed;
        assert!(!entombed[0].keeps_seat && entombed[0].moved.as_ref().unwrap().seat);
        assert_eq!(probe(store, "u1@y.org"), (Some(keys[0].1), "held"));
        assert_eq!(store.view().last_login_of(keys[0].1).unwrap(), Some(login_at));
        assert_eq!(probe(store, "u1@x.org").1, "removed");
        // It comes back within the grace period: two people again, and the seat is whose it was.
        let back = upsert(store, old, mapped(1, &["u1@x.org"]), 10).await;
        assert_eq!((back.moved.len(), probe(store, "u1@x.org")), (1, (Some(keys[0].0), "held")));
        assert_eq!((probe(store, "u1@y.org").1, seated(store, keys[0].1)), ("exhausted", false));

        configure(store, rules(&[("new", &["y.org"])])).await;
        assert_eq!(probe(store, "u2@y.org"), (Some(keys[1].0), "held"));
        assert_eq!(probe(store, "u2@x.org"), (Some(keys[1].0), "held"));
        assert_eq!(reunite(store).await, 2);
        assert_eq!(probe(store, "u2@y.org"), (Some(keys[1].1), "held"));
        assert_eq!(probe(store, "u2@x.org"), (Some(keys[1].1), "held"), "also by the old name");
    });
}

/// Who writes a foreign id into the entries of their own directory gets nothing of who lives in another one.
#[test]
fn a_living_holder_loses_nothing_to_a_copied_id() {
    with_store(1, async |store, victims| {
        let attackers = store.directory("new").await.unwrap();
        configure(store, with_moved_from(&[])).await;
        let victim = upsert(store, victims, mapped(1, &["v@x.org"]), 0).await.key;
        assert_eq!(login(store, "v@x.org").await, "granted");
        // Before and after, with the victim's names or others, disabled, and back from the dead.
        let posing = upsert(store, attackers, mapped(1, &["e@y.org", "v@x.org"]), 1).await;
        entomb(store, attackers, posing.key, 2).await;
        upsert(store, attackers, mapped(1, &["e@y.org"]), 3).await;
        assert_eq!(probe(store, "e@y.org").1, "exhausted");
        upsert(store, attackers, Mapped { enabled: false, ..mapped(1, &["e@y.org"]) }, 4).await;
        upsert(store, victims, mapped(1, &["v@x.org", "w@x.org"]), 5).await;
        assert_eq!(reunite(store).await, 0);
        assert!(seated(store, victim));
        assert_eq!(login(store, "v@x.org").await, "held");
        // An attacker's block that is not configured any more gives nothing either, nor does one that moves away.
        configure(store, rules(&[("demo", &["x.org"])])).await;
        assert_eq!(reunite(store).await, 0);
        assert_eq!(
            (probe(store, "v@x.org"), probe(store, "e@y.org").1),
            ((Some(victim), "held"), "disabled")
        );
    });
}

/// Only ids of servers are unique everywhere.
#[test]
fn an_id_that_anybody_may_have_written_moves_nobody() {
    with_store(1, async |store, old| {
        configure(store, with_moved_from(&["demo"])).await;
        let new = store.directory("new").await.unwrap();
        let text =
            |names: &[&str]| Mapped { id: StableId::new(b"employee-0000001").unwrap(), ..mapped(1, names) };
        let holder = upsert(store, old, text(&["a@x.org"]), 0).await.key;
        assert_eq!(login(store, "a@x.org").await, "granted");
        let other = upsert(store, new, text(&["a@y.org"]), 1).await;
        assert!(other.moved.is_empty() && other.moved_from.is_none());
        entomb(store, old, holder, 2).await;
        assert_eq!((probe(store, "a@y.org").1, seated(store, holder)), ("exhausted", true));
        configure(store, rules(&[("new", &["y.org"])])).await;
        assert_eq!((reunite(store).await, probe(store, "a@y.org").1), (0, "exhausted"));
    });
}

#[test]
fn users_of_a_directory_that_is_not_configured_take_no_new_seat() {
    with_store(5, async |store, old| {
        upsert(store, old, mapped(1, &["a@x.org"]), 0).await;
        upsert(store, old, mapped(2, &["b@x.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        configure(store, rules(&[("new", &["y.org"])])).await;
        assert_eq!((login(store, "a@x.org").await, login(store, "b@x.org").await), ("held", "not_seated"));
        configure(store, rules(&[("demo", &["y.org"])])).await;
        assert_eq!(login(store, "b@x.org").await, "granted");
    });
}

/// Everything goes, and is not doubled.
#[test]
fn a_declared_move_carries_everything() {
    with_store(3, async |store, demo| {
        let imap = Service::parse("imap");
        let component = ComponentName::parse("archive").unwrap();
        store.change_policy(|policy| {
            let standing = ComponentStanding::Licensed { seats: Some(1) };
            policy.components = Components {
                services: imap.iter().map(|imap| (imap.clone(), component.clone())).collect(),
                standings: [(component.clone(), standing)].into(),
            };
        });
        let old = upsert(store, demo, mapped(1, &["a@x.org"]), 0).await.key;
        let new = upsert(store, demo, mapped(2, &["b@x.org"]), 0).await.key;
        let third = upsert(store, demo, mapped(3, &["c@x.org"]), 0).await.key;
        let request = Request { operation: Operation::Login, service: imap };
        assert_eq!(store.admit(name("a@x.org"), request, at(0)).await.unwrap().decision.code(), "granted");
        let login_at = |second| LastLogin { at: at(second), service: None };
        let refused =
            |second| Refusals { first: at(second), last: at(second), count: 2, reason: "exhausted".into() };
        let logins = vec![(old, login_at(5)), (new, login_at(3))];
        store.record_activity(logins, vec![(old, refused(1)), (new, refused(7))], vec![]).await.unwrap();

        let moved = carry(store, old, new).await.unwrap();
        assert_eq!((moved.from.name, moved.to.name, moved.seat), (name("a@x.org"), name("b@x.org"), true));
        let view = store.view();
        let got = view.details(new).unwrap().unwrap();
        assert_eq!(got.seat.unwrap().granted_at, at(0));
        assert_eq!(got.last_login, Some(login_at(5)));
        let refusals = got.refusals.unwrap();
        assert_eq!((refusals.first, refusals.last, refusals.count), (at(1), at(7), 4));
        assert_eq!(view.components_of(new).unwrap(), ["archive"]);
        let left = view.details(old).unwrap().unwrap();
        assert_eq!((left.seat, left.last_login, left.refusals), (None, None, None));
        assert_eq!(view.seats_used().unwrap(), 1);

        assert_eq!(carry(store, old, new).await, Err(NotMoved::Nothing));
        assert_eq!(carry(store, new, new).await, Err(NotMoved::Itself));
        assert_eq!(carry(store, new, UserKey(99)).await, Err(NotMoved::Gone));
        assert_eq!(login(store, "c@x.org").await, "granted");
        assert_eq!(carry(store, new, third).await, Err(NotMoved::HasSeat));
        entomb(store, demo, old, 10).await;
        assert_eq!(carry(store, new, old).await, Err(NotMoved::Removed));
    });
}

/// Parts until nothing is left of the directory; how many there were.
async fn retire(store: &Store, to: Option<&str>) -> (usize, Vec<Part>) {
    let mut parts = Vec::new();
    loop {
        let part = match to {
            Some(to) => store.rename_some("demo", to, at(60)).await.unwrap().unwrap(),
            None => store.forget_some("demo", at(60)).await.unwrap().unwrap(),
        };
        assert_eq!(store.view().verify().unwrap(), [], "each part is whole");
        let is_done = part.is_done;
        parts.push(part);
        if is_done {
            return (parts.len(), parts);
        }
    }
}

/// 450 people with ids that no server made, of whom every third holds a seat and every tenth is removed.
async fn populate(store: &Store, directory: DirectoryId) -> Vec<UserKey> {
    let mut keys = Vec::new();
    for number in 0..450u32 {
        let address = format!("u{number}@x.org");
        let id = StableId::new(format!("employee-{number:07}").as_bytes()).unwrap();
        let key = upsert(store, directory, Mapped { id, ..mapped(1, &[&address]) }, 0).await.key;
        if number % 3 == 0 {
            assert_eq!(login(store, &address).await, "granted");
        }
        if number % 10 == 0 {
            entomb(store, directory, key, 1).await;
        }
        keys.push(key);
    }
    keys
}

/// What is said before of users, their seats, second seats and losers.
fn foresee(store: &Store, old: DirectoryId, new: DirectoryId) -> [usize; 4] {
    let view = store.view();
    let mut foreseen = [0; 4];
    for user in view.users_of(old).unwrap() {
        let (key, user) = user.unwrap();
        let HandedOver { is_known, seat, second, loses } = view.handed_over(key, &user, Some(new)).unwrap();
        for (sum, is_so) in foreseen.iter_mut().zip([is_known, seat, second, loses]) {
            *sum += usize::from(is_so);
        }
    }
    foreseen
}

#[test]
fn a_directory_is_carried_over_to_another_name_in_parts() {
    with_store(200, async |store, old| {
        let keys = populate(store, old).await;
        let names =
            |names: &[&str]| rules(&names.iter().map(|name| (*name, [].as_slice())).collect::<Vec<_>>());
        assert_eq!(store.rename_some("demo", "new", at(60)).await.unwrap(), Err(NotRetired::Configured));
        configure(store, names(&["other"])).await;
        assert_eq!(store.rename_some("demo", "new", at(60)).await.unwrap(), Err(NotRetired::NoTarget));
        assert_eq!(store.rename_some("lost", "other", at(60)).await.unwrap(), Err(NotRetired::Unknown));
        configure(store, names(&["new"])).await;
        // The block under its new name has begun to map: the same ids, and none of them is a server's.
        let new = store.directory("new").await.unwrap();
        let twin = |number: u32| Mapped {
            id: StableId::new(format!("employee-{number:07}").as_bytes()).unwrap(),
            ..mapped(1, &[&format!("u{number}@x.org")])
        };
        let renewed = upsert(store, new, twin(3), 5).await.key;
        for (number, from) in [(6, None), (12, Some(12)), (15, Some(18))] {
            let gone = upsert(store, new, twin(number), 5).await.key;
            // Removed in both names of the block: without a seat, with the only one, and with a second one.
            if let Some(from) = from {
                assert!(carry(store, keys[from], gone).await.unwrap().seat);
            }
            entomb(store, new, gone, 6).await;
        }

        // Disabled under the new name.
        upsert(store, new, Mapped { enabled: false, ..twin(21) }, 5).await;
        let foreseen = foresee(store, old, new);

        // Interrupted after the first part, and begun again.
        let first = store.rename_some("demo", "new", at(60)).await.unwrap().unwrap();
        assert!(!first.is_done);
        let (count, mut parts) = retire(store, Some("new")).await;
        assert_eq!(count, 2);
        parts.push(first);
        let seats = |part: &Part| part.moved.iter().filter(|moved| moved.seat).count();
        let released =
            |reason| parts.iter().flat_map(|part| &part.released).filter(|it| it.reason == reason).count();
        let known: u64 = parts.iter().map(|part| part.known).sum();
        assert_eq!(
            foreseen,
            [
                known as usize,
                parts.iter().map(seats).sum(),
                released(ReleaseReason::SamePerson),
                released(ReleaseReason::Removed)
            ]
        );
        assert_eq!((known, released(ReleaseReason::SamePerson), released(ReleaseReason::Removed)), (5, 1, 1));
        let view = store.view();
        assert!(view.directory_named("demo").is_none());
        assert_eq!(view.seats_used().unwrap(), 148, "nobody has two");
        let census = view.directory_named("new").unwrap().census;
        assert_eq!((census.people, census.tombstoned, census.seats), (405, 45, 148));
        assert_eq!(probe(store, "u3@x.org"), (Some(renewed), "held"));
        for number in [6, 12, 15] {
            let held = (Some(keys[number]), "held");
            assert_eq!(
                probe(store, &format!("u{number}@x.org")),
                held,
                "a holder, and no longer a tombstone"
            );
        }
        assert_eq!(probe(store, "u0@x.org").1, "removed");
        assert_eq!(probe(store, "u9@x.org"), (Some(keys[9]), "held"));
        assert_eq!(store.rename_some("demo", "new", at(60)).await.unwrap(), Err(NotRetired::Unknown));
        upsert(store, new, twin(0), 61).await;
        assert_eq!(login(store, "u0@x.org").await, "held");
    });
}

#[test]
fn a_directory_is_forgotten_in_parts() {
    with_store(200, async |store, old| {
        populate(store, old).await;
        let new = store.directory("new").await.unwrap();
        let both = upsert(store, old, mapped(7, &["both@x.org"]), 1).await.key;
        assert_eq!(login(store, "both@x.org").await, "granted");
        configure(store, rules(&[("demo", &["x.org"]), ("new", &["y.org"])])).await;
        let kept = upsert(store, new, mapped(7, &["both@y.org"]), 2).await.key;
        assert_eq!(store.forget_some("demo", at(60)).await.unwrap(), Err(NotRetired::Configured));
        configure(store, rules(&[("new", &["y.org"])])).await;
        // Before the seat was moved: it is not released.
        assert!(seated(store, both) && !seated(store, kept));
        let (parts, told) = retire(store, None).await;
        assert_eq!(parts, 3);
        assert_eq!(told.iter().map(|part| part.released.len()).sum::<usize>(), 150);
        assert!(seated(store, kept));
        let view = store.view();
        assert!(view.directory_named("demo").is_none());
        assert_eq!((view.seats_used().unwrap(), view.census().people), (1, 1));
        assert_eq!(probe(store, "u3@x.org").1, "unknown_user");
        let released = view.history(None).unwrap().take(150);
        assert!(released.into_iter().all(|event| match event.unwrap().what {
            Movement::Released(reason) => reason == ReleaseReason::Removed,
            Movement::Moved { .. } => true,
            Movement::Granted(_) => false,
        }));
        // Under the same name again it is a new one.
        assert_ne!(store.directory("demo").await.unwrap(), old);
    });
}

fn person(id: u8, login: &str, mail: &str) -> Mapped {
    Mapped { logins: vec![name(login)], ..mapped(id, &[mail]) }
}

async fn carry(store: &Store, from: UserKey, to: UserKey) -> Result<Moved, NotMoved> {
    store.carry(vec![(from, to)], Kin::Declared, at(9)).await.unwrap().pop().unwrap()
}

/// People were loaded again, under other login names: with the seat comes the address, which was the tombstone's.
#[test]
fn a_declared_move_carries_the_names_of_a_tombstone() {
    with_store(1, async |store, demo| {
        configure(store, rules(&[("demo", &["x.org"])])).await;
        let old = upsert(store, demo, person(1, "bob@x.org", "b@x.org"), 0).await.key;
        assert_eq!(login(store, "b@x.org").await, "granted");
        let new = upsert(store, demo, person(2, "bsmith@x.org", "b@x.org"), 1).await.key;
        entomb(store, demo, old, 2).await;
        assert_eq!(probe(store, "b@x.org"), (Some(old), "removed"));

        assert!(carry(store, old, new).await.unwrap().seat);
        for who in ["b@x.org", "bsmith@x.org"] {
            assert_eq!(probe(store, who), (Some(new), "held"));
        }
        assert_eq!(probe(store, "bob@x.org"), (Some(old), "removed"));
        // A login that was still to be written is the new entry's.
        let login_at = LastLogin { at: at(8), service: None };
        store.record_activity(vec![(old, login_at.clone())], vec![], vec![]).await.unwrap();
        assert_eq!(store.view().last_login_of(new).unwrap(), Some(login_at));
        // The old id comes back: the administrator has said who has the address.
        upsert(store, demo, person(1, "bob@x.org", "b@x.org"), 10).await;
        assert_eq!(
            (probe(store, "b@x.org"), probe(store, "bob@x.org").1),
            ((Some(new), "held"), "exhausted")
        );
        assert_eq!(store.view().verify().unwrap(), []);
        // And forth again: whoever gives everything away has no name of the two any more.
        let bob = upsert(store, demo, person(1, "bob@x.org", "b@x.org"), 11).await.key;
        carry(store, new, bob).await.unwrap();
        assert_eq!(probe(store, "b@x.org"), (Some(bob), "held"));
        assert_eq!(store.view().verify().unwrap(), []);
    });
}

/// Somebody without a seat has names to give, too.
#[test]
fn a_declared_move_carries_names_without_a_seat() {
    with_store(1, async |store, demo| {
        configure(store, rules(&[("demo", &["x.org"])])).await;
        let old = upsert(store, demo, person(1, "bob@x.org", "b@x.org"), 0).await.key;
        let new = upsert(store, demo, person(2, "bsmith@x.org", "b@x.org"), 1).await.key;
        entomb(store, demo, old, 2).await;
        assert_eq!(store.view().may_carry(old, new).unwrap(), Ok(()));
        assert!(!carry(store, old, new).await.unwrap().seat);
        assert_eq!(login(store, "b@x.org").await, "granted");
        assert_eq!(carry(store, old, new).await, Err(NotMoved::Nothing));
    });
}

/// Two configured blocks that serve one domain, the entries of both alive: the names would otherwise lead to the old one,
/// who would take a second seat.
#[test]
fn a_declared_move_carries_the_names_of_the_living() {
    with_store(2, async |store, demo| {
        configure(store, rules(&[("demo", &["x.org"]), ("new", &["x.org"])])).await;
        let new = store.directory("new").await.unwrap();
        let first = upsert(store, demo, person(1, "bob@x.org", "b@x.org"), 0).await.key;
        assert_eq!(login(store, "b@x.org").await, "granted");
        let second = upsert(store, new, person(2, "bob@x.org", "b@x.org"), 1).await.key;
        assert_eq!(probe(store, "b@x.org"), (Some(first), "held"));
        carry(store, first, second).await.unwrap();
        for who in ["b@x.org", "bob@x.org"] {
            assert_eq!(login(store, who).await, "held");
            assert_eq!(probe(store, who), (Some(second), "held"));
        }
        // When the new one is gone for good they lead to the old one again.
        entomb(store, new, second, 10).await;
        assert_eq!(probe(store, "b@x.org"), (Some(second), "removed"));
        store.purge(at(10), at(11), 10).await.unwrap();
        assert_eq!(probe(store, "b@x.org"), (Some(first), "granted"));
        assert_eq!(store.view().verify().unwrap(), []);
    });
}

/// The same person in two blocks that serve one domain: when the old entry goes, its names are not lost for the grace
/// period.
#[test]
fn the_names_of_a_tombstone_are_those_of_the_same_person() {
    with_store(1, async |store, demo| {
        configure(store, rules(&[("demo", &["x.org"]), ("new", &["x.org"])])).await;
        let new = store.directory("new").await.unwrap();
        let first = upsert(store, demo, person(1, "bob@x.org", "b@x.org"), 0).await.key;
        let second = upsert(store, new, person(1, "bob@x.org", "b@x.org"), 1).await.key;
        assert_eq!(login(store, "b@x.org").await, "granted");
        entomb(store, demo, first, 2).await;
        assert_eq!(probe(store, "b@x.org"), (Some(second), "held"));
        assert_eq!(probe(store, "bob@x.org"), (Some(second), "held"));
        upsert(store, demo, person(1, "bob@x.org", "b@x.org"), 3).await;
        assert_eq!(probe(store, "b@x.org"), (Some(first), "held"));
        assert_eq!(store.view().verify().unwrap(), []);
    });
}

/// An id was copied into another block, and its holder missed one sync: everything is back with the entry.
#[test]
fn a_holder_who_comes_back_has_the_seat_that_a_copied_id_got() {
    for copied_late in [false, true] {
        with_store(1, async |store, victims| {
            let attackers = store.directory("new").await.unwrap();
            configure(store, with_moved_from(&[])).await;
            let victim = upsert(store, victims, mapped(1, &["v@x.org", "v@free.org"]), 0).await.key;
            assert_eq!(login(store, "v@x.org").await, "granted");
            let copy = mapped(1, &["e@y.org", "v@free.org"]);
            if !copied_late {
                upsert(store, attackers, copy.clone(), 1).await;
            }
            entomb(store, victims, victim, 2).await;
            upsert(store, attackers, copy, 3).await;
            assert_eq!(probe(store, "e@y.org").1, "held");
            upsert(store, victims, mapped(1, &["v@x.org", "v@free.org"]), 4).await;
            for who in ["v@x.org", "v@free.org"] {
                assert_eq!(probe(store, who), (Some(victim), "held"));
            }
            assert_eq!(probe(store, "e@y.org").1, "exhausted");
            assert_eq!(store.view().verify().unwrap(), []);
        });
    }
}

/// Each of two entries has taken a seat before they turned out to be one person.
#[test]
fn one_person_keeps_one_of_two_seats() {
    with_store(4, async |store, demo| {
        let new = store.directory("new").await.unwrap();
        configure(store, with_moved_from(&[])).await;
        let mut pairs = Vec::new();
        for id in [1, 2] {
            let (x, y) = (format!("u{id}@x.org"), format!("u{id}@y.org"));
            let first = upsert(store, demo, mapped(id, &[&x]), 0).await.key;
            let second = upsert(store, new, mapped(id, &[&y]), 0).await.key;
            assert_eq!((login(store, &x).await, login(store, &y).await), ("granted", "granted"));
            pairs.push((first, second));
        }
        // An administrator may be wrong about them.
        assert_eq!(carry(store, pairs[0].0, pairs[0].1).await, Err(NotMoved::HasSeat));
        entomb(store, demo, pairs[0].0, 1).await;
        assert_eq!((store.view().seats_used().unwrap(), probe(store, "u1@y.org").1), (3, "held"));
        configure(store, with_moved_from(&["demo"])).await;
        assert_eq!(reunite(store).await, 1);
        assert_eq!(store.view().seats_used().unwrap(), 2);
        assert_eq!(
            (probe(store, "u2@x.org"), probe(store, "u2@y.org").1),
            ((Some(pairs[1].1), "held"), "held")
        );
        let history = store.view().history(Some(pairs[1].0)).unwrap().next().unwrap().unwrap();
        assert_eq!(history.what, Movement::Released(ReleaseReason::SamePerson));
        assert_eq!(store.view().verify().unwrap(), []);
    });
}

/// The new entry could not hold the seat when the old one went, and can later.
#[test]
fn an_entry_that_is_enabled_later_gets_the_seat_of_a_tombstone() {
    with_store(2, async |store, demo| {
        let new = store.directory("new").await.unwrap();
        configure(store, with_moved_from(&[])).await;
        for (id, seatless) in [(1, false), (2, true)] {
            let (x, y) = (format!("u{id}@x.org"), format!("u{id}@y.org"));
            let first = upsert(store, demo, mapped(id, &[&x]), 0).await.key;
            assert_eq!(login(store, &x).await, "granted");
            entomb(store, demo, first, 1).await;
            upsert(store, new, Mapped { enabled: seatless, seatless, ..mapped(id, &[&y]) }, 2).await;
            let later = upsert(store, new, mapped(id, &[&y]), 3).await;
            assert_eq!((later.moved.len(), probe(store, &y)), (1, (Some(later.key), "held")));
        }
        assert_eq!(store.view().seats_used().unwrap(), 2);
        assert_eq!(store.view().verify().unwrap(), []);
    });
}

/// With `moved_from` the seat is the new entry's, and goes to the one that is enabled.
#[test]
fn of_two_living_entries_the_enabled_one_has_the_seat() {
    with_store(1, async |store, demo| {
        let new = store.directory("new").await.unwrap();
        configure(store, with_moved_from(&["demo"])).await;
        let (x, y) = (mapped(1, &["p@x.org"]), mapped(1, &["p@y.org"]));
        let old = upsert(store, demo, x.clone(), 0).await.key;
        let twin = upsert(store, new, y.clone(), 0).await.key;
        assert_eq!(login(store, "p@x.org").await, "granted");
        assert!(seated(store, twin), "also after a login under the old name");
        upsert(store, demo, Mapped { enabled: false, ..x.clone() }, 1).await;
        assert_eq!(probe(store, "p@y.org"), (Some(twin), "held"));
        upsert(store, demo, x, 2).await;
        let disabled = upsert(store, new, Mapped { enabled: false, ..y.clone() }, 3).await;
        assert_eq!((disabled.released, disabled.moved.len()), (None, 1));
        assert_eq!((probe(store, "p@x.org"), probe(store, "p@y.org").1), ((Some(old), "held"), "disabled"));
        upsert(store, new, y, 4).await;
        assert_eq!(probe(store, "p@y.org"), (Some(twin), "held"));
        assert_eq!(store.view().verify().unwrap(), []);
    });
}
