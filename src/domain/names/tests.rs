//! The rules of ownership as tables.

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text, None).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn directory(name: &str, domains: &[&str]) -> DirectoryNames {
    DirectoryNames {
        name: name.to_owned(),
        domains: domains.iter().map(|domain| Domain::parse(domain).unwrap()).collect(),
        foreign_names: true,
        login_is_address: true,
        moved_from: Vec::new(),
    }
}

/// Directory `a` serves a.org and shared.org, `b` serves b.org and shared.org.
fn rules() -> NameRules {
    let directories =
        vec![directory("a", &["a.org", "shared.org"]), directory("b", &["b.org", "shared.org"])];
    NameRules::new(directories, None)
}

fn administered(directory: Option<&str>) -> NameRules {
    let administrator = Administrator { name: name("root@a.org"), directory: directory.map(str::to_owned) };
    NameRules { administrator: Some(administrator), ..rules() }
}

/// A living entry without other names; refined by the methods below.
fn user(number: u64, home: &str) -> Claimant {
    let home = match home.split_once(':') {
        Some((origin, domain)) => Home::Account { domain: domain.to_owned(), local: origin == "local" },
        None => Home::Directory(home.to_owned()),
    };
    Claimant {
        user: UserKey(number),
        id: StableId::new(&[number as u8]).unwrap(),
        home,
        removed_at: None,
        logins: Vec::new(),
        heir: None,
        is_main: false,
        claim: Claim::default(),
    }
}

impl Claimant {
    fn mail(mut self, second: i64) -> Claimant {
        self.claim.mail = Some(at(second));
        self
    }
    fn login(mut self, second: i64) -> Claimant {
        self.claim.login = Some(at(second));
        self
    }
    fn removed(mut self, second: i64) -> Claimant {
        self.removed_at = Some(at(second));
        self
    }
    fn named(mut self, login: &str) -> Claimant {
        self.logins.push(name(login));
        self
    }
    fn main(mut self) -> Claimant {
        self.is_main = true;
        self
    }
    fn went_to(mut self, heir: u64) -> Claimant {
        self.heir = Some(UserKey(heir));
        self
    }
}

/// The owner for a login and for mail, 0 for none; the order of the claimants never matters.
#[track_caller]
fn check_with(
    rules: &NameRules,
    asked: &str,
    present: (u64, u64),
    claimants: &[Claimant],
    expected: (u64, u64),
) {
    let key = |number: u64| (number > 0).then_some(UserKey(number));
    let present = Owners { login: key(present.0), mail: key(present.1) };
    let mut claimants = claimants.to_vec();
    for _ in 0..2 {
        let owners = owners(&name(asked), &claimants, present, rules);
        let number = |key: Option<UserKey>| key.map_or(0, |key| key.0);
        assert_eq!((number(owners.login), number(owners.mail)), expected, "{asked}: {claimants:#?}");
        claimants.reverse();
    }
}

#[track_caller]
fn check(asked: &str, claimants: &[Claimant], expected: (u64, u64)) {
    check_with(&rules(), asked, (0, 0), claimants, expected);
}

#[test]
fn a_served_domain_belongs_to_its_directories_and_accounts() {
    check("ceo@b.org", &[user(1, "a").mail(1), user(2, "b").mail(9)], (2, 2));
    check("ceo@b.org", &[user(1, "a").mail(1).login(1)], (0, 0));
    check("ceo@b.org", &[user(1, "a").mail(1), user(2, "local:b.org").mail(9).login(9).main()], (2, 2));
    check("ceo@b.org", &[user(1, "local:x.org").mail(1), user(2, "import:a.org").mail(1)], (0, 0));
    check("x@shared.org", &[user(1, "b").mail(1), user(2, "a").mail(2)], (1, 1));
}

#[test]
fn a_domain_that_nothing_serves_leaves_names_where_they_are() {
    check("x@else.org", &[user(1, "b").mail(2), user(2, "a").mail(3)], (1, 1));
    check("x@else.org", &[user(1, "local:a.org").mail(2), user(2, "a").mail(1)], (2, 2));
    let mut strict = rules();
    strict.directories.iter_mut().for_each(|directory| directory.foreign_names = false);
    check_with(&strict, "x@else.org", (0, 0), &[user(1, "a").mail(1)], (0, 0));
    check_with(&strict, "x@else.org", (0, 0), &[user(1, "a").mail(1).login(2)], (1, 1));
    check_with(&strict, "x@a.org", (0, 0), &[user(1, "a").mail(1)], (1, 1));
}

#[test]
fn logins_and_mail_are_looked_up_apart() {
    check("x@a.org", &[user(1, "a").mail(1), user(2, "a").login(9)], (2, 1));
    check("x@a.org", &[user(1, "a").login(1)], (1, 1));
    check("x@a.org", &[user(1, "a").mail(1)], (1, 1));
    check_with(&rules(), "x@a.org", (1, 1), &[user(1, "a").login(1), user(2, "a").mail(9)], (1, 2));
    let mut apart = rules();
    apart.directories.iter_mut().for_each(|directory| directory.login_is_address = false);
    check_with(&apart, "x@a.org", (0, 0), &[user(1, "a").login(1)], (1, 0));
    check_with(&apart, "x@a.org", (0, 0), &[user(1, "a").login(1), user(2, "a").mail(2)], (1, 2));
}

#[test]
fn between_equal_claims() {
    let (early, late) = (user(1, "a").mail(1), user(2, "a").mail(2));
    check("x@a.org", &[early.clone(), late.clone()], (1, 1));
    check_with(&rules(), "x@a.org", (2, 2), &[early, late], (2, 2));
    // Then the order in the file, then the id.
    check("x@shared.org", &[user(1, "b").mail(1), user(2, "a").mail(1)], (2, 2));
    check("x@a.org", &[user(3, "a").mail(1), user(2, "a").mail(1)], (2, 2));
}

#[test]
fn a_tombstone_keeps_its_names() {
    let gone = || user(1, "a").mail(1).login(1).named("x@a.org").removed(50);
    let check = |claimants: &[Claimant], expected| {
        check_with(&rules(), "x@a.org", (1, 1), claimants, expected);
    };
    check(&[gone()], (1, 1));
    // Whoever waited does not get them, and no other directory's user does.
    check(&[gone(), user(2, "a").mail(10)], (1, 1));
    check(&[gone(), user(2, "a").mail(50)], (1, 1));
    check(&[gone(), user(2, "a").mail(51)], (2, 2));
    check(&[gone(), user(2, "a").mail(51).removed(60)], (1, 1));
    check(&[gone(), user(2, "local:a.org").mail(51).login(51).main()], (1, 1));
    // An entry with its login name has them, also when it came before.
    check(&[gone(), user(2, "a").mail(10).named("x@a.org")], (2, 2));
    check(&[gone(), user(2, "a").mail(10).login(10).named("x@a.org").named("y@a.org")], (2, 2));
    // To one of them, and not to those who waited, also when it is decided again.
    let (waiting, heir) = (user(2, "a").mail(10), user(3, "a").mail(60));
    check(&[gone(), waiting.clone(), heir.clone()], (3, 3));
    check_with(&rules(), "x@a.org", (3, 3), &[gone(), waiting.clone(), heir], (3, 3));
    let heir = user(3, "a").mail(60).login(60).named("x@a.org");
    check(&[gone(), waiting.clone().login(10), heir.clone()], (3, 3));
    check_with(&rules(), "x@a.org", (3, 3), &[gone(), waiting.login(10), heir], (3, 3));
    let others = [user(2, "b").mail(60).named("x@shared.org")];
    let gone = user(1, "a").mail(1).named("x@shared.org").removed(50);
    check_with(&rules(), "x@shared.org", (1, 1), &[gone, others[0].clone()], (1, 1));
}

#[test]
fn directories_that_are_not_configured_give_way() {
    let before = NameRules::new(vec![directory("old", &["a.org"]), directory("c", &["c.org"])], None);
    let rules = rules().retiring(&before);
    let check = |asked, claimants: &[Claimant], expected| {
        check_with(&rules, asked, (1, 1), claimants, expected);
    };
    check("x@a.org", &[user(1, "old").mail(1)], (1, 1));
    check("x@b.org", &[user(1, "old").mail(1)], (0, 0));
    check("x@a.org", &[user(1, "old").mail(1), user(2, "a").mail(2)], (2, 2));
    check("x@a.org", &[user(1, "old").mail(1).removed(9), user(2, "a").mail(2)], (2, 2));
    check("x@else.org", &[user(1, "old").mail(1), user(2, "a").mail(2)], (1, 1));
    check("x@else.org", &[user(1, "old").mail(1).removed(9), user(2, "a").mail(2)], (2, 2));
    // What it could not do it still cannot.
    let strict = |directory| DirectoryNames { foreign_names: false, login_is_address: false, ..directory };
    let before = NameRules::new(vec![strict(directory("old", &["a.org"]))], None);
    let strict = NameRules::new(vec![directory("b", &["b.org"])], None).retiring(&before);
    check_with(&strict, "x@else.org", (1, 1), &[user(1, "old").mail(1), user(2, "b").mail(2)], (2, 2));
    check_with(&strict, "x@a.org", (1, 1), &[user(1, "old").login(1)], (1, 0));
    // It is remembered until it is configured again.
    let again = NameRules::new(vec![directory("old", &["a.org"])], None).retiring(&rules);
    assert_eq!(again.retired().iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn the_administrators_name_is_an_accounts_or_a_login_name() {
    let account = user(9, "local:a.org").mail(9).login(9).main();
    let alias = user(9, "local:a.org").mail(9);
    let imported = user(9, "import:a.org").mail(9).login(9).main();
    let entry = user(1, "a").mail(1).login(1);
    let check = |directory, claimants: &[Claimant], expected| {
        check_with(&administered(directory), "root@a.org", (1, 1), claimants, expected);
    };
    check(None, &[entry.clone(), account.clone()], (9, 9));
    check(None, &[entry.clone(), alias], (0, 0));
    check(None, &[entry.clone(), imported], (0, 0));
    check(Some("a"), &[entry.clone(), account], (1, 1));
    check(Some("a"), &[user(2, "a").mail(1)], (0, 0));
    check(Some("a"), &[user(2, "a").mail(1), user(3, "a").login(5)], (3, 3));
    check(Some("b"), &[entry], (0, 0));
}

#[test]
fn reasons_are_given() {
    let check = |rules: &NameRules, asked: &str, claimant: &Claimant, owner: (u64, u64), expected| {
        let key = |number: u64| (number > 0).then_some(UserKey(number));
        let owners = Owners { login: key(owner.0), mail: key(owner.1) };
        assert_eq!(withheld(&name(asked), claimant, owners, rules), expected, "{asked}");
    };
    let entry = user(1, "a").mail(1);
    check(&rules(), "x@a.org", &entry, (2, 1), None);
    check(&rules(), "x@a.org", &entry, (1, 2), Some(Withheld::Owned(UserKey(2))));
    check(&rules(), "x@b.org", &entry, (0, 2), Some(Withheld::ServedElsewhere));
    check(&administered(None), "root@a.org", &entry, (0, 0), Some(Withheld::Administrator));
    let mut strict = rules();
    strict.directories.iter_mut().for_each(|it| it.foreign_names = false);
    check(&strict, "x@else.org", &entry, (0, 0), Some(Withheld::Foreign));
}

#[test]
fn what_a_change_of_the_rules_may_change() {
    let check = |before: &NameRules, after: &NameRules, asked: &str, expected| {
        assert_eq!(after.may_change(before, &name(asked)), expected, "{asked}");
    };
    let added = NameRules::new([rules().directories, vec![directory("c", &["c.org"])]].concat(), None);
    check(&rules(), &rules(), "x@a.org", false);
    check(&NameRules::default(), &rules(), "x@else.org", true);
    check(&rules(), &added, "x@a.org", false);
    check(&rules(), &added, "x@c.org", true);
    check(&added, &rules().retiring(&added), "x@a.org", true);
    check(&rules(), &administered(None), "x@a.org", false);
    check(&rules(), &administered(None), "root@a.org", true);
    let mut strict = rules();
    strict.directories[0].foreign_names = false;
    check(&rules(), &strict, "x@else.org", true);
}

#[test]
fn claims_are_those_of_the_entry() {
    let mapped = Mapped {
        id: StableId::new(b"1").unwrap(),
        kind: crate::domain::user::Kind::Person,
        enabled: true,
        seatless: false,
        logins: vec![name("x@a.org")],
        addresses: vec![name("y@a.org"), name("x@a.org")],
        display_name: None,
        dn: "".into(),
    };
    let claims = claims_of(&mapped, Origin::Mapped, at(5));
    assert_eq!(claims[&name("x@a.org")], Claim { login: Some(at(5)), mail: Some(at(5)) });
    assert_eq!(claims[&name("y@a.org")], Claim { login: None, mail: Some(at(5)) });
    let account = Mapped { logins: Vec::new(), ..mapped };
    let claims = claims_of(&account, Origin::Local, at(5));
    assert_eq!(claims[&name("y@a.org")], Claim { login: Some(at(5)), mail: Some(at(5)) });
    assert_eq!(claims[&name("x@a.org")].login, None);
    let older = Claim { login: None, mail: Some(at(1)) };
    let now = Claim { login: Some(at(5)), mail: Some(at(5)) };
    assert_eq!(now.continuing(older), Claim { login: Some(at(5)), mail: Some(at(1)) });
}

#[test]
fn a_user_who_is_removed_keeps_others_only_from_what_they_owned() {
    let (claim, owners) =
        (user(1, "a").mail(1).login(2).claim, Owners { login: Some(UserKey(1)), mail: None });
    assert_eq!(claim.entombed(UserKey(1), owners, at(9)), Claim { login: Some(at(2)), mail: Some(at(9)) });
}

#[test]
fn a_user_counts_in_the_domain_of_the_main_address() {
    let strict = DirectoryNames { foreign_names: false, ..directory("b", &["b.org"]) };
    let rules = NameRules::new(vec![directory("a", &["a.org", "alias.org"]), strict], None);
    let check = |home: &Home, logins: &[&str], addresses: &[&str], expected: &str| {
        let names = |texts: &[&str]| texts.iter().map(|text| name(text)).collect();
        let mapped = Mapped {
            id: StableId::new(b"1").unwrap(),
            kind: crate::domain::user::Kind::Person,
            enabled: true,
            seatless: false,
            logins: names(logins),
            addresses: names(addresses),
            display_name: None,
            dn: "".into(),
        };
        assert_eq!(mail_domain(&mapped, home, &rules), expected, "{home:?} {logins:?} {addresses:?}");
    };
    let (a, b) = (Home::Directory("a".to_owned()), Home::Directory("b".to_owned()));
    check(&a, &["x@a.org"], &["x@alias.org", "x@a.org"], "alias.org");
    check(&a, &["x@a.org"], &[], "a.org");
    check(&a, &["x@a.org"], &["x@other.org"], "other.org");
    // Another directory's seats are not taken by writing an address of its domain.
    check(&a, &["x@a.org"], &["x@b.org", "x@alias.org"], "alias.org");
    check(&a, &["x@b.org"], &["x@b.org"], "a.org");
    check(&b, &["x@b.org"], &["x@other.org"], "b.org");
    check(&Home::Directory("old".to_owned()), &["x@old.org"], &[], "old.org");
    let account = Home::Account { domain: "own.org".to_owned(), local: true };
    check(&account, &[], &["x@own.org", "x@a.org"], "own.org");
}

#[test]
fn names_go_to_the_heir() {
    let check = |asked: &str, claimants: &[Claimant], expected: u64| {
        check_with(&rules(), asked, (1, 1), claimants, (expected, expected));
    };
    let waiting = |home: &str| user(2, home).mail(1);
    let (gone, living) = (user(1, "a").mail(0).removed(5), user(1, "a").mail(0));
    check("x@a.org", &[gone.clone(), waiting("a")], 1);
    check("x@a.org", &[gone.clone().went_to(2), waiting("a")], 2);
    check("x@a.org", &[living.clone().went_to(2), waiting("a")], 2);
    // Also a login name, to a mail address.
    check("x@a.org", &[gone.clone().login(0).went_to(2), waiting("a")], 2);
    // Not past the domains, and not to an heir who does not claim the name.
    check("x@a.org", &[gone.clone().went_to(2), waiting("b")], 1);
    check("x@a.org", &[gone.clone().went_to(3), waiting("a")], 1);
    check("x@else.org", &[gone.clone().went_to(2), waiting("b")], 2);
    // An heir who was removed keeps the names, but not from the one who is back.
    check("x@a.org", &[gone.went_to(2), waiting("a").removed(9)], 2);
    check("x@a.org", &[living.went_to(2), waiting("a").removed(9)], 1);
}
