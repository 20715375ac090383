//! The rules of a sweep, one by one.

use super::*;
use crate::domain::name::{Name, StableId};
use crate::domain::user::DirectoryId;
use jiff::Timestamp;

fn mapped(id: u8) -> Mapped {
    Mapped {
        id: StableId::new(&[id; 16]).unwrap(),
        kind: Kind::Person,
        enabled: true,
        seatless: false,
        logins: vec![Name::parse(&format!("u{id}@example.org"), None).unwrap()],
        addresses: Vec::new(),
        display_name: None,
        dn: "".into(),
    }
}

fn user(id: u8) -> User {
    User {
        directory: DirectoryId(1),
        mapped: mapped(id),
        since: Timestamp::UNIX_EPOCH,
        removed_at: None,
        disabled_at: None,
    }
}

/// A user in the mirror, under the key that is the first byte of the id.
fn stored(user: User) -> Stored {
    Stored { key: UserKey(user.mapped.id.as_bytes()[0].into()), user, gives_up_seat: false }
}

fn new_sweep(brake: Brake, people: u64, lost: u64, approved: u64) -> Sweep {
    let mut hour = Hour::default();
    hour.add(Timestamp::UNIX_EPOCH, Counts { lost, enabled: 0 }, people + lost);
    let approved = Counts { lost: approved, enabled: 0 };
    Sweep::new(brake, people, &hour, approved, Timestamp::UNIX_EPOCH)
}

/// A sweep over `people` users of which the first `seen` are still there, the first `disabled` disabled.
fn sweep(brake: Brake, people: u8, seen: u8, disabled: u8, approved: u64) -> (Verdict, Deferred) {
    let mut sweep = new_sweep(brake, people.into(), 0, approved);
    for id in 0..seen {
        let entry = Mapped { enabled: id >= disabled, ..mapped(id) };
        let _ = sweep.observe(Some(&stored(user(id))), entry.clone());
        let _ = sweep.observe(Some(&stored(user(id))), entry);
    }
    let unseen: Vec<_> = (0..people)
        .map(|id| UserKey(id.into()))
        .filter(|key| !sweep.has_seen(*key))
        .map(|key| Ok::<_, ()>((key, Kind::Person)))
        .collect();
    let verdict = sweep.conclude(Authority::Everything, unseen.into_iter()).unwrap();
    let deferred = sweep.take_deferred(&verdict);
    (verdict, deferred)
}

fn check(people: u8, seen: u8, disabled: u8, approved: u64, proceeds: bool) {
    let brake = Brake { max_removals_percent: 10, min_removals: 3, max_removals: 8 };
    let (verdict, deferred) = sweep(brake, people, seen, disabled, approved);
    let lost = people - seen + disabled;
    assert_eq!(verdict.held.is_none(), proceeds, "{people} {seen} {disabled} {approved}");
    match &verdict.held {
        None => assert_eq!(verdict.removed.len() + deferred.free.len(), usize::from(lost)),
        Some(held) => {
            assert_eq!(held.loss.total(), u64::from(lost));
            assert!(verdict.removed.is_empty() && deferred.free.is_empty());
        }
    }
}

#[test]
fn the_brake_counts_removals_and_disables_together() {
    check(50, 50, 0, 0, true);
    check(50, 45, 0, 0, true);
    check(50, 44, 0, 0, false);
    check(50, 47, 2, 0, true);
    check(50, 47, 3, 0, false);
    check(50, 50, 6, 0, false);
}

#[test]
fn the_brake_has_a_floor_and_a_ceiling() {
    check(5, 2, 0, 0, true);
    check(5, 1, 0, 0, false);
    check(200, 192, 0, 0, true);
    check(200, 191, 0, 0, false);
}

#[test]
fn an_empty_answer_trips_the_brake() {
    check(2, 0, 0, 0, false);
    check(0, 0, 0, 0, true);
    check(2, 0, 0, 2, true);
}

#[test]
fn an_approval_covers_what_was_shown_and_no_more() {
    check(50, 30, 0, 20, true);
    check(50, 29, 0, 20, false);
}

#[test]
fn what_was_lost_in_the_hour_counts() {
    let brake = Brake { max_removals_percent: 10, min_removals: 3, max_removals: 8 };
    let gone = |count: u64| (0..count).map(|id| Ok::<_, ()>((UserKey(id), Kind::Person)));
    let verdict =
        |lost, count| new_sweep(brake, 50 - lost, lost, 0).conclude(Authority::Named, gone(count)).unwrap();
    assert_eq!(verdict(3, 2).held, None);
    assert!(verdict(3, 3).held.is_some());
}

#[test]
fn the_last_word_on_an_entry_counts() {
    let brake = Brake { max_removals_percent: 10, min_removals: 3, max_removals: 8 };
    let mut sweep = new_sweep(brake, 50, 0, 0);
    let mut observe = |mapped| sweep.observe(Some(&stored(user(1))), mapped);
    let disabled = Mapped { enabled: false, ..mapped(1) };
    let moved = Mapped { dn: "uid=moved".into(), ..mapped(1) };
    assert!(matches!(observe(moved.clone()), Step::Write(_)));
    assert!(matches!(observe(mapped(1)), Step::Write(_)), "as the mirror has it, but the move is under way");
    assert!(matches!(observe(disabled.clone()), Step::Nothing));
    assert!(matches!(observe(moved), Step::Write(_)));
    assert_eq!((sweep.disabled.len(), sweep.deferred_losses.len()), (0, 0));
    let _ = sweep.observe(Some(&stored(user(1))), disabled);
    assert_eq!((sweep.disabled.len(), sweep.deferred_losses.len()), (1, 1));
    sweep.name_gone(UserKey(1));
    assert_eq!((sweep.disabled.len(), sweep.deferred_losses.len()), (0, 0));
}

/// Ten holders of seats and ten others become seatless, by an attribute or by another filter.
#[test]
fn only_holders_who_become_seatless_by_an_attribute_are_held() {
    for (remapped, held) in [(false, 10), (true, 0)] {
        let remapped = Remapped { seatless: remapped, names: false };
        let mut sweep = new_sweep(Brake::default(), 20, 0, 0).remapped(remapped);
        let mut written = Vec::new();
        for id in 0..20 {
            let before = Stored { gives_up_seat: id < 10, ..stored(user(id)) };
            let entry = Mapped { seatless: true, dn: "moved".into(), ..mapped(id) };
            if let Step::Write(mapped) = sweep.observe(Some(&before), entry) {
                written.push(mapped);
            }
        }
        let verdict = sweep.conclude(Authority::Named, std::iter::empty::<Result<_, ()>>()).unwrap();
        assert_eq!(verdict.held.as_ref().map_or(0, |held| held.loss.seatless), held);
        if let Some(held) = &verdict.held {
            let gone = std::iter::empty::<Result<_, ()>>();
            let users: Vec<_> = sweep.held_users(held, gone).map(|key| key.unwrap().0).collect();
            assert_eq!(users, (0..10).collect::<Vec<u64>>());
        }
        let deferred = sweep.take_deferred(&verdict);
        written.extend(
            deferred
                .held
                .into_iter()
                .map(|(_, mapped)| held_back(&user(mapped.id.as_bytes()[0]), mapped, sweep.now())),
        );
        assert!(deferred.free.is_empty() && written.iter().all(|mapped| &*mapped.dn == "moved"));
        assert_eq!(written.iter().filter(|mapped| !mapped.seatless).count() as u64, held);
    }
}

/// Ten lose names and ten are enabled; each sum has its own room, and holds nothing of the other.
#[test]
fn losses_and_enablings_are_held_apart() {
    let brake = Brake { max_removals_percent: 0, min_removals: 3, max_removals: 3 };
    let check = |approved: Counts, lost: u64, enabled: u64| {
        let mut sweep = Sweep::new(brake, 50, &Hour::default(), approved, Timestamp::UNIX_EPOCH);
        let mut written = 0;
        for id in 0..20 {
            let before = Mapped { enabled: id < 10, ..mapped(id) };
            let before = User { mapped: before, ..user(id) };
            let after = if id < 10 { Mapped { logins: Vec::new(), ..mapped(id) } } else { mapped(id) };
            let after = Mapped { dn: "moved".into(), ..after };
            match sweep.observe(Some(&stored(before.clone())), after) {
                Step::Write(mapped) => {
                    assert_eq!(toll(&before, &mapped, false, Timestamp::UNIX_EPOCH), None, "{id}");
                    assert_eq!(&*mapped.dn, "moved");
                    written += 1;
                }
                Step::Nothing => {}
            }
        }
        let verdict = sweep.conclude(Authority::Named, std::iter::empty::<Result<_, ()>>()).unwrap();
        let shown = verdict.held.as_ref().map(Held::shown).unwrap_or_default();
        assert_eq!((shown.lost, shown.enabled), (lost, enabled), "{approved:?}");
        let Deferred { free, held } = sweep.take_deferred(&verdict);
        assert_eq!(written + free.len() + held.len(), 20, "each entry is written once");
        let expected = [lost, enabled].iter().filter(|sum| **sum == 0).count() * 10;
        assert_eq!(free.len(), expected, "{approved:?}");
    };
    check(Counts::default(), 10, 10);
    check(Counts { lost: 10, enabled: 0 }, 0, 10);
    check(Counts { lost: 9, enabled: 10 }, 10, 0);
    check(Counts { lost: 10, enabled: 10 }, 0, 0);
}

#[test]
fn who_is_named_and_told_again_is_not_gone() {
    let mut sweep = new_sweep(Brake::default(), 3, 0, 0);
    for id in [1, 64, 200] {
        sweep.name_gone(UserKey(id));
    }
    sweep.saw(UserKey(64));
    assert_eq!(sweep.named_gone().collect::<Vec<_>>(), [UserKey(1), UserKey(200)]);
    sweep.observe_present(UserKey(1), Kind::Person);
    sweep.name_gone(UserKey(64));
    assert_eq!(sweep.named_gone().collect::<Vec<_>>(), [UserKey(64), UserKey(200)]);
}

#[test]
fn entries_compare_with_the_mirror() {
    let stored = user(1);
    assert_eq!(compare(None, &mapped(1)), Change::Added);
    assert_eq!(compare(Some(&stored), &mapped(1)), Change::Unchanged);
    let moved = Mapped { dn: "ou=new".into(), ..mapped(1) };
    assert_eq!(compare(Some(&stored), &moved), Change::Changed);
    let disabled = Mapped { enabled: false, ..mapped(1) };
    assert_eq!(compare(Some(&stored), &disabled), Change::Disabled);
    let room = Mapped { kind: Kind::Resource, ..mapped(1) };
    assert_eq!(compare(Some(&stored), &room), Change::Disabled);
    let was_disabled = User { mapped: disabled.clone(), ..user(1) };
    assert_eq!(compare(Some(&was_disabled), &mapped(1)), Change::Changed);
    let tombstone = User { removed_at: Some(Timestamp::UNIX_EPOCH), ..user(1) };
    assert_eq!(compare(Some(&tombstone), &disabled), Change::Returned);
}

#[test]
fn backoff_doubles_up_to_five_minutes() {
    assert_eq!(backoff(1, 1.0), Duration::from_secs(1));
    assert_eq!(backoff(1, 0.0), Duration::from_millis(500));
    assert_eq!(backoff(4, 1.0), Duration::from_secs(8));
    assert_eq!(backoff(1000, 1.0), Duration::from_secs(300));
}
