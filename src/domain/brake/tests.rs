use proptest::prelude::*;

use super::*;
use crate::domain::name::StableId;
use crate::domain::user::DirectoryId;

const BRAKE: Brake = Brake { max_removals_percent: 10, min_removals: 3, max_removals: 8 };

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(minute * 60 + 59).unwrap()
}

/// A window in which these went at these minutes, out of 30.
fn window(went: &[(i64, u64)]) -> Window {
    let mut window = Window::default();
    for (minute, count) in went {
        window.add(at(*minute), *count, 30);
    }
    window
}

#[test]
fn the_allowance_has_a_floor_a_share_and_a_ceiling() {
    for (of, allowed) in [(0, 3), (10, 3), (39, 3), (50, 5), (80, 8), (1_000_000, 8)] {
        assert_eq!(BRAKE.allowance(of), allowed, "{of}");
    }
    let odd = Brake { max_removals_percent: 100, min_removals: 9, max_removals: 4 };
    assert_eq!(odd.allowance(u64::MAX), 9);
}

#[test]
fn what_went_counts_for_an_hour_and_not_much_longer() {
    let window = window(&[(0, 2), (0, 1), (30, 4)]);
    assert_eq!(window.sum(at(0)), 7, "30 is in the future, and counts");
    for (minute, sum) in [(30, 7), (60, 7), (61, 4), (90, 4), (91, 0)] {
        assert_eq!(window.sum(at(minute)), sum, "{minute}");
    }
}

/// Without the number of people of back then each bite would raise the limit for the next one.
#[test]
fn small_bites_do_not_raise_the_limit() {
    let half = Brake { max_removals_percent: 50, min_removals: 0, max_removals: 1000 };
    for leaves in [0, 1] {
        let (mut window, mut people, mut gone) = (Window::default(), 100, 0);
        for minute in 0..60 {
            for _ in 0..10 {
                if Limit::new(half, &window, people, 0, at(minute)).judge(1).is_ok() {
                    window.add(at(minute), 1, people);
                    people -= leaves;
                    gone += 1;
                }
            }
        }
        assert_eq!(gone, 50, "{leaves}");
    }
}

#[test]
fn the_sum_is_told_in_words() {
    let check = |went: &[(i64, u64)], more, approved, expected: &str| {
        let limit = Limit::new(BRAKE, &window(went), 30, approved, at(10));
        let told = limit.judge(more).err().map(|excess| excess.to_string());
        assert_eq!(told.unwrap_or_default(), expected, "{went:?} {more} {approved}");
    };
    check(&[], 3, 0, "");
    check(&[], 4, 0, "4 more, after 0 in the last hour, of at most 3");
    check(&[(5, 3)], 1, 0, "1 more, after 3 in the last hour, of at most 3; until 01:06 UTC");
    check(&[(5, 3)], 4, 0, "4 more, after 3 in the last hour, of at most 3");
    check(&[(1, 1), (5, 1), (9, 1)], 2, 0, "2 more, after 3 in the last hour, of at most 3; until 01:06 UTC");
    check(&[(5, 3)], 4, 4, "");
    check(&[(5, 3)], 5, 4, "5 more, after 3 in the last hour, of at most 3");
    // An hour ahead: it counts as if it were now.
    check(&[(70, 3)], 1, 0, "1 more, after 3 in the last hour, of at most 3; until 01:11 UTC");
}

#[test]
fn what_is_stamped_in_the_future_leaves_after_an_hour() {
    let a_year = 365 * 24 * 60;
    let minute = |at, count| Minute { at, count, of: 30 };
    let mut window = Window::from_minutes(vec![minute(3, 1), minute(a_year, 2), minute(a_year + 1, 3)]);
    assert!(window.is_ahead(at(10)));
    window.clip(at(10));
    assert!(!window.is_ahead(at(10)));
    for (minute, sum) in [(10, 6), (63, 6), (64, 5), (70, 5), (71, 0)] {
        assert_eq!(window.sum(at(minute)), sum, "{minute}");
    }
    window.add(at(5), 1, 30);
    assert_eq!((window.sum(at(65)), window.sum(at(66))), (6, 0), "a clock that was set back again");
}

fn mapped(kind: Kind, enabled: bool, logins: &[&str], addresses: &[&str]) -> Mapped {
    let names = |names: &[&str]| names.iter().map(|name| Name::parse(name, None).unwrap()).collect();
    Mapped {
        id: StableId::new(&[7; 16]).unwrap(),
        kind,
        enabled,
        seatless: false,
        logins: names(logins),
        addresses: names(addresses),
        display_name: None,
        dn: "".into(),
    }
}

fn stored(mapped: Mapped) -> User {
    User { directory: DirectoryId(1), mapped, since: at(0), removed_at: None, disabled_at: None }
}

#[test]
fn who_loses_names_is_counted_and_who_swaps_one_is_not() {
    let person = |logins: &[&str], addresses: &[&str]| mapped(Kind::Person, true, logins, addresses);
    let check =
        |before: (&[&str], &[&str]), after: (&[&str], &[&str]), expected, kept: (&[&str], &[&str])| {
            let (user, new) = (stored(person(before.0, before.1)), person(after.0, after.1));
            assert_eq!(toll(&user, &new, false, at(0)), expected, "{before:?} {after:?}");
            assert_eq!(held_back(&user, new, at(0)), person(kept.0, kept.1), "{before:?} {after:?}");
        };
    let (u, a, b, c): (&[&str], _, _, _) = (&["u@x.org"], "a@x.org", "b@x.org", "c@x.org");
    check((u, &[a, b]), (u, &[b, a]), None, (u, &[b, a]));
    check((u, &[a]), (u, &[b]), None, (u, &[b]));
    check((u, &[a]), (u, &[a, b]), None, (u, &[a, b]));
    check((u, &[a, b]), (u, &[b]), Some(Toll::Names), (u, &[a, b]));
    check((u, &[a, b]), (u, &[c]), Some(Toll::Names), (u, &[a, b, c]));
    check((u, &["u@x.org"]), (u, &[]), Some(Toll::Names), (u, &["u@x.org"]));
    check(
        (&["u@x.org", "v@x.org"], &[a]),
        (&["w@x.org"], &[a]),
        Some(Toll::Names),
        (&["u@x.org", "v@x.org", "w@x.org"], &[a]),
    );
}

#[test]
fn what_an_update_counts_as() {
    let on = mapped(Kind::Person, true, &["u@x.org"], &["a@x.org"]);
    let off = Mapped { enabled: false, ..on.clone() };
    let room = Mapped { kind: Kind::Resource, ..on.clone() };
    let fewer = Mapped { addresses: vec![], ..on.clone() };
    let check = |before: &Mapped, after: &Mapped, expected| {
        assert_eq!(toll(&stored(before.clone()), after, false, at(0)), expected, "{before:?} {after:?}");
    };
    check(&on, &on, None);
    check(&on, &off, Some(Toll::Disabled));
    check(&on, &room, Some(Toll::Disabled));
    check(&on, &Mapped { enabled: false, ..fewer.clone() }, Some(Toll::Disabled));
    check(&off, &on, Some(Toll::Enabled));
    check(&off, &fewer, Some(Toll::Enabled));
    check(&off, &Mapped { enabled: false, ..fewer.clone() }, None);
    check(&room, &on, None);
    check(&room, &Mapped { addresses: vec![], ..room.clone() }, None);
    check(&on, &Mapped { seatless: true, ..on.clone() }, None);

    let tombstone = |mapped: &Mapped| User { removed_at: Some(at(0)), ..stored(mapped.clone()) };
    assert_eq!(toll(&tombstone(&on), &off, false, at(1)), None);
    assert_eq!(toll(&tombstone(&on), &fewer, false, at(1)), None);
    assert_eq!(toll(&tombstone(&off), &on, false, at(1)), Some(Toll::Enabled));
}

#[test]
fn a_holder_who_becomes_seatless_is_counted_unless_another_filter_does_it() {
    let on = mapped(Kind::Person, true, &["u@x.org"], &["a@x.org"]);
    let shared = Mapped { seatless: true, ..on.clone() };
    let fewer = Mapped { addresses: vec![], ..shared.clone() };
    let other = Mapped {
        dn: "moved".into(),
        addresses: vec![Name::parse("b@x.org", None).unwrap()],
        ..shared.clone()
    };
    let off = Mapped { enabled: false, ..shared.clone() };
    for (before, after, becomes) in [
        (&on, &shared, true),
        (&on, &fewer, true),
        (&shared, &fewer, false),
        (&shared, &on, false),
        (&on, &off, false),
    ] {
        assert_eq!(becomes_seatless(&stored(before.clone()), after), becomes, "{before:?} {after:?}");
    }
    let user = stored(on.clone());
    assert_eq!(toll(&user, &shared, true, at(0)), Some(Toll::Seatless));
    assert_eq!(toll(&user, &fewer, true, at(0)), Some(Toll::Seatless));
    assert_eq!(toll(&user, &fewer, false, at(0)), Some(Toll::Names));
    // Held, they stay what they were; the rest is written.
    let names = |addresses: &[&str]| mapped(Kind::Person, true, &["u@x.org"], addresses);
    assert_eq!(held_back(&user, shared.clone(), at(0)), on);
    let kept = Mapped { dn: "moved".into(), ..names(&["a@x.org", "b@x.org"]) };
    assert_eq!(held_back(&user, other, at(0)), kept);
    // One who needs a seat again does not wait, whatever else is held.
    assert_eq!(held_back(&stored(shared), Mapped { addresses: vec![], ..on.clone() }, at(0)), on);

    let remapped = |names, seatless| Remapped { names, seatless };
    for (toll, names, seatless) in
        [(Toll::Names, true, false), (Toll::Seatless, false, true), (Toll::Disabled, false, false)]
    {
        assert_eq!(
            (remapped(true, false).excuses(toll), remapped(false, true).excuses(toll)),
            (names, seatless),
            "{toll:?}"
        );
    }
}

#[test]
fn undoing_a_disable_of_a_day_counts_for_nothing() {
    let on = mapped(Kind::Person, true, &["u@x.org"], &[]);
    let off = |disabled_at| User { disabled_at, ..stored(Mapped { enabled: false, ..on.clone() }) };
    let day = 24 * 60;
    for (disabled_at, expected) in [
        (None, Some(Toll::Enabled)),
        (Some(at(0)), None),
        (Some(at(-day)), None),
        (Some(at(-day - 1)), Some(Toll::Enabled)),
        (Some(at(day + 1)), Some(Toll::Enabled)),
    ] {
        assert_eq!(toll(&off(disabled_at), &on, false, at(0)), expected, "{disabled_at:?}");
    }
}

#[test]
fn while_held_only_the_flag_of_an_enabled_person_waits() {
    let off = mapped(Kind::Person, false, &["u@x.org"], &["a@x.org", "b@x.org"]);
    let on = mapped(Kind::Person, true, &["v@x.org"], &["c@x.org"]);
    assert_eq!(held_back(&stored(off), on.clone(), at(0)), Mapped { enabled: false, ..on });
}

#[test]
fn a_user_does_not_gather_names_without_end_while_held() {
    let many = |prefix: &str, count: usize| -> Vec<Name> {
        (0..count).map(|number| Name::parse(&format!("{prefix}{number}@x.org"), None).unwrap()).collect()
    };
    let person = |addresses| Mapped { addresses, ..mapped(Kind::Person, true, &["u@x.org"], &[]) };
    let before = person(many("a", MAX_NAMES - 1));
    let after = held_back(&stored(before.clone()), person(many("b", 500)), at(0));
    assert_eq!(after.addresses.len(), MAX_NAMES);
    assert_eq!(after.addresses[..MAX_NAMES - 1], before.addresses);
}

#[test]
fn what_is_held_is_news_when_it_affects_others() {
    let name = |text: &str| Name::parse(text, None).unwrap();
    let loss = Loss { removed: 4, people: 30, ..Loss::default() };
    let affected = Affected { users: vec![name("a@x.org")], seats: 1 };
    let held = Held { loss, affected: affected.clone(), ..Held::default() };
    assert!(held.is_news(None));
    assert!(!held.is_news(Some(&held)));
    let later = Excess { more: 4, before: 2, at_most: 3, until: Some(at(5)) };
    let same = Held { loss: Loss { people: 31, ..loss }, losses: Some(later), ..held.clone() };
    assert!(!same.is_news(Some(&held)));
    let others = Affected { users: vec![name("b@x.org")], ..affected };
    assert!(Held { affected: others, ..held.clone() }.is_news(Some(&held)));
    assert!(Held { loss: Loss { names: 1, ..loss }, ..held.clone() }.is_news(Some(&held)));
}

/// What happens in a directory: after this many seconds so many would go, or only be disabled, of which so many
/// are approved; and so many come.
#[derive(Clone, Debug)]
struct Bite {
    seconds: i64,
    more: u64,
    leave: bool,
    approved: u64,
    come: u64,
}

fn bite() -> impl Strategy<Value = Bite> {
    let approved = prop_oneof![4 => Just(0u64), 1 => 0u64..40];
    (0i64..1500, 0u64..12, any::<bool>(), approved, 0u64..5)
        .prop_map(|(seconds, more, leave, approved, come)| Bite { seconds, more, leave, approved, come })
}

fn person() -> impl Strategy<Value = Mapped> {
    let names = || proptest::collection::vec("[a-e]@x\\.org", 0..4);
    let kind = prop_oneof![3 => Just(Kind::Person), 1 => Just(Kind::Resource)];
    (kind, any::<(bool, bool)>(), names(), names()).prop_map(
        |(kind, (enabled, shared), mut logins, mut addresses)| {
            logins.sort();
            logins.dedup();
            addresses.sort();
            addresses.dedup();
            let texts =
                |names: &[String]| names.iter().map(|name| Name::parse(name, None).unwrap()).collect();
            let seatless = shared && kind == Kind::Person;
            Mapped {
                seatless,
                logins: texts(&logins),
                addresses: texts(&addresses),
                ..mapped(kind, enabled, &[], &[])
            }
        },
    )
}

proptest! {
    #[test]
    fn no_hour_takes_more_than_the_allowance_and_what_was_approved(
        percent in 0u8..=100, people in 0u64..300, bites in proptest::collection::vec(bite(), 1..60)
    ) {
        let brake = Brake { max_removals_percent: percent, ..BRAKE };
        let (mut window, mut people, mut now) = (Window::default(), people, 1_000_000i64);
        // When, how many went, how many of them were approved, and out of how many.
        let mut went: Vec<(i64, u64, u64, u64)> = Vec::new();
        for Bite { seconds, more, leave, approved, come } in bites {
            now += seconds;
            people += come;
            let more = more.min(people);
            let time = Timestamp::from_second(now).unwrap();
            let limit = Limit::new(brake, &window, people, approved, time);
            prop_assert_eq!(limit.judge(more).is_ok(), more <= limit.room());
            if limit.judge(more).is_err() {
                continue;
            }
            window.add(time, more.saturating_sub(approved), people);
            went.push((now, more, more.min(approved), people));
            people -= if leave { more } else { 0 };
            let hour: Vec<_> = went.iter().filter(|(at, ..)| *at > now - 3600).collect();
            // The last loss of this hour was judged by the most users of the hour before it.
            let of = went.iter().filter(|(at, ..)| *at > now - 7200).map(|(.., of)| *of).max().unwrap_or(0);
            let total: u64 = hour.iter().map(|(_, more, ..)| more).sum();
            let approved: u64 = hour.iter().map(|(_, _, approved, _)| approved).sum();
            prop_assert!(total <= brake.allowance(of.max(people)) + approved, "{hour:?}");
            prop_assert!(window.minutes().len() <= WINDOW as usize);
        }
    }

    /// When the brake says until when it holds, it lets go then and not before.
    #[test]
    fn the_brake_lets_go_when_it_said(
        went in proptest::collection::vec((0i64..90, 1u64..4), 0..10), more in 1u64..10, now in 0i64..60
    ) {
        let window = window(&went);
        if let Err(excess) = Limit::new(BRAKE, &window, 50, 0, at(now)).judge(more) {
            let mut clipped = window.clone();
            clipped.clip(at(now));
            let fits = |minute| Limit::new(BRAKE, &clipped, 50, 0, at(minute)).judge(more).is_ok();
            match excess.until {
                Some(until) => {
                    let until = minute(until);
                    prop_assert!(until > now && until <= now + WINDOW);
                    prop_assert!(fits(until) && !fits(until - 1));
                }
                None => prop_assert!(!fits(now + WINDOW)),
            }
        }
    }

    #[test]
    fn what_may_be_written_while_held_costs_nothing(before in person(), after in person(), living in any::<bool>()) {
        let user = User { removed_at: (!living).then(|| at(0)), ..stored(before) };
        let written = held_back(&user, after.clone(), at(1));
        let costs = |entry: &Mapped| toll(&user, entry, becomes_seatless(&user, entry), at(1));
        prop_assert_eq!(costs(&written), None);
        if user.is_active() && costs(&after).is_some() {
            prop_assert!(user.mapped.names().chain(after.names()).all(|name| written.names().any(|kept| kept == name)));
        }
        let once = User { mapped: written.clone(), ..user };
        if once.is_living() {
            prop_assert_eq!(&held_back(&once, after, at(1)), &written, "a poll later there is nothing to write");
        }
    }
}
