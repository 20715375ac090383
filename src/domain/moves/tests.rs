//! Tables of cases.

use jiff::Timestamp;

use super::*;
use crate::domain::name::{Domain, StableId};
use crate::domain::names::DirectoryNames;
use crate::domain::user::{DirectoryId, Kind};

fn rules(moved_from: &[&str]) -> NameRules {
    let directory = |name: &str, moved_from: &[&str]| DirectoryNames {
        name: name.to_owned(),
        domains: vec![Domain::parse("x.org").unwrap()],
        foreign_names: true,
        login_is_address: true,
        moved_from: moved_from.iter().map(|name| (*name).to_owned()).collect(),
    };
    NameRules::new(vec![directory("a", &[]), directory("b", moved_from)], None)
}

#[test]
fn the_same_id_is_one_person_or_two() {
    for (old, new, moved_from, expected) in [
        // Both live in configured directories.
        (("a", true), ("b", true), [].as_slice(), false),
        (("a", true), ("b", true), &["a"], true),
        (("a", true), ("b", true), &["c"], false),
        // It says nothing about the other direction.
        (("b", true), ("a", true), &["a"], false),
        (("a", false), ("b", true), &[], true),
        (("b", false), ("a", true), &["a"], true),
        // The old directory is not configured.
        (("gone", true), ("b", true), &[], true),
        (("gone", false), ("b", true), &[], true),
        // The new entry must live in a configured directory.
        (("a", false), ("b", false), &[], false),
        (("a", true), ("b", false), &["a"], false),
        (("a", false), ("gone", true), &[], false),
        (("gone", true), ("lost", true), &[], false),
        (("a", false), ("a", true), &[], false),
    ] {
        let standing = |(directory, is_living)| Standing { directory, is_living };
        let decided = succeeds(standing(old), standing(new), &rules(moved_from));
        assert_eq!(decided, expected, "{old:?} {new:?} {moved_from:?}");
    }
}

fn user(kind: Kind, enabled: bool, removed: bool) -> User {
    User {
        directory: DirectoryId(1),
        mapped: Mapped {
            id: StableId::new(&[1]).unwrap(),
            kind,
            enabled,
            seatless: false,
            logins: Vec::new(),
            addresses: Vec::new(),
            display_name: None,
            dn: "uid=a".into(),
        },
        since: Timestamp::UNIX_EPOCH,
        removed_at: removed.then_some(Timestamp::UNIX_EPOCH),
        disabled_at: None,
    }
}

#[test]
fn who_may_get_it() {
    let seat = Belongings { seat: true, others: true };
    let traces = Belongings { seat: false, others: true };
    let person = user(Kind::Person, true, false);
    let shared = User { mapped: Mapped { seatless: true, ..person.mapped.clone() }, ..person.clone() };
    for (belongings, to, is_seated, is_configured, expected) in [
        (seat, &person, false, true, Ok(())),
        (seat, &person, true, true, Err(NotMoved::HasSeat)),
        (seat, &shared, false, true, Err(NotMoved::Seatless)),
        (traces, &person, true, true, Ok(())),
        (Belongings::default(), &person, false, true, Err(NotMoved::Nothing)),
        (seat, &person, false, false, Err(NotMoved::NotConfigured)),
        (seat, &user(Kind::Person, false, false), false, true, Err(NotMoved::Disabled)),
        (seat, &user(Kind::Person, true, true), false, true, Err(NotMoved::Removed)),
        (seat, &user(Kind::Resource, true, false), false, true, Err(NotMoved::NotAPerson)),
    ] {
        let receiver = Receiver { user: to, is_seated, is_configured };
        assert_eq!(may_receive(belongings, receiver), expected, "{belongings:?} {receiver:?}");
    }
}

/// Old and new entries by their names, the main one first; the decision about each old one.
#[track_caller]
fn check(olds: &[&[&str]], news: &[&[&str]], expected: &[Result<u64, NotMoved>]) {
    let mut pairs = Pairs::default();
    for (number, names) in (1..).zip(olds) {
        pairs.add_old(UserKey(number), names);
    }
    for (number, names) in (101..).zip(news) {
        pairs.add_new(UserKey(number), names);
    }
    let decided: Vec<_> = pairs.decide().map(|(_, new)| new.map(|UserKey(new)| new)).collect();
    assert_eq!(decided, expected);
}

#[test]
fn pairs_are_one_to_one() {
    use NotMoved::{NoMatch, SeveralNew, SeveralOld};
    check(&[&["a"], &["b"]], &[&["b"], &["a"]], &[Ok(102), Ok(101)]);
    check(&[&["a"], &["b"]], &[&["c"]], &[Err(NoMatch), Err(NoMatch)]);
    // An alias of the one is the main name of the other.
    check(&[&["a", "a.long"]], &[&["a.long", "x"]], &[Ok(101)]);
    check(&[&["a.long"]], &[&["a", "a.long"]], &[Ok(101)]);
    // A name that is an alias of both says nothing.
    check(&[&["a", "info"]], &[&["b", "info"]], &[Err(NoMatch)]);
    check(&[&["a", "info"], &["b", "info"]], &[&["b", "info"], &["a", "info"]], &[Ok(102), Ok(101)]);
    // Several on either side.
    check(&[&["a"]], &[&["a"], &["b", "a"]], &[Err(SeveralNew)]);
    check(&[&["a"], &["b", "a"]], &[&["a"]], &[Err(SeveralOld), Err(SeveralOld)]);
    check(&[&["a"], &["b", "a"]], &[&["a"], &["b"]], &[Err(SeveralOld), Err(SeveralNew)]);
    // What is in doubt does not hold up the others.
    check(&[&["a"], &["b"]], &[&["a"], &["a"], &["b"]], &[Err(SeveralNew), Ok(103)]);
    // Two names in common are one match.
    check(&[&["a", "b"]], &[&["b", "a"]], &[Ok(101)]);
    check(&[&[]], &[&[]], &[Err(NoMatch)]);
}

#[test]
fn a_bare_login_name_matches_in_another_domain() {
    let name = |text: &str| Name::parse(text, None).unwrap();
    let mapped = Mapped {
        logins: vec![name("alice@x.org"), name("alice@corp.local")],
        addresses: vec![name("alice@x.org")],
        ..user(Kind::Person, true, false).mapped
    };
    assert_eq!(MatchBy::Login.names(&mapped, Some("x.org")), ["alice", "alice@corp.local"]);
    assert_eq!(MatchBy::Login.names(&mapped, None), ["alice@x.org", "alice@corp.local"]);
    assert_eq!(MatchBy::Mail.names(&mapped, Some("x.org")), ["alice@x.org"]);
}
