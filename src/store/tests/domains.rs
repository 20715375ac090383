//! Caps inside the licence: of directories, and of mail domains.

use super::*;
use crate::domain::account::NewAccount;

fn served(store: &Store, limits: &[(&str, u64)]) {
    let domains = ["x.org", "alias.org"].map(|domain| Domain::parse(domain).unwrap()).to_vec();
    let directory = |name: &str, domains| DirectoryNames {
        name: name.to_owned(),
        domains,
        foreign_names: true,
        login_is_address: true,
        moved_from: Vec::new(),
    };
    let other = directory("other", vec![Domain::parse("y.org").unwrap()]);
    store.change_policy(|policy| {
        policy.names = NameRules::new(vec![directory("demo", domains), other], None);
        policy.domain_limits = limits.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
    });
}

fn used(store: &Store, domain: &str) -> u64 {
    let policy = Policy { domain_limits: [(domain.to_owned(), 0)].into(), ..policy(0) };
    store.view().domain_cap(domain, &policy).unwrap().unwrap().used
}

#[test]
fn a_user_counts_in_the_domain_of_the_main_address() {
    with_store(10, async |store, directory| {
        served(store, &[("alias.org", 1)]);
        upsert(store, directory, mapped(1, &["a@alias.org", "a@x.org"]), 0).await;
        upsert(store, directory, mapped(2, &["b@alias.org"]), 0).await;
        upsert(store, directory, mapped(3, &["c@x.org", "c@alias.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        assert_eq!(login(store, "b@alias.org").await, "domain_exhausted");
        assert_eq!(login(store, "c@alias.org").await, "granted");
        assert_eq!((used(store, "alias.org"), used(store, "x.org")), (1, 1));
        assert_eq!(store.view().verify().unwrap(), []);

        // A change of the main address moves the seat past the cap, and never costs it.
        upsert(store, directory, mapped(3, &["c@alias.org", "c@x.org"]), 1).await;
        assert_eq!(login(store, "c@x.org").await, "held");
        assert_eq!((used(store, "alias.org"), used(store, "x.org")), (2, 0));
        upsert(store, directory, mapped(1, &["a@x.org"]), 2).await;
        assert_eq!(login(store, "b@alias.org").await, "domain_exhausted");
        store.release(login_key(store, "c@x.org"), ReleaseReason::Administrator, at(3)).await.unwrap();
        assert_eq!(login(store, "b@alias.org").await, "granted");
        assert_eq!((used(store, "alias.org"), used(store, "x.org")), (1, 1));
    });
}

fn login_key(store: &Store, who: &str) -> UserKey {
    store.view().find(&name(who), Purpose::Login).unwrap().unwrap()
}

#[test]
fn both_caps_hold_and_no_other_tenant_fills_one() {
    with_store(10, async |store, directory| {
        served(store, &[("x.org", 1), ("y.org", 1)]);
        store.change_policy(|policy| policy.directory_limits = [("demo".to_owned(), 2)].into());
        let other = store.directory("other").await.unwrap();
        // Writes an address of somebody else's domain first.
        upsert(store, other, mapped(9, &["z@x.org", "z@y.org"]), 0).await;
        assert_eq!(login(store, "z@y.org").await, "granted");
        assert_eq!((used(store, "x.org"), used(store, "y.org")), (0, 1));
        for (id, address) in [(1, "a@x.org"), (2, "b@x.org"), (3, "c@alias.org"), (4, "d@alias.org")] {
            upsert(store, directory, mapped(id, &[address]), 0).await;
        }
        assert_eq!(login(store, "a@x.org").await, "granted");
        assert_eq!(login(store, "b@x.org").await, "domain_exhausted");
        assert_eq!(login(store, "c@alias.org").await, "granted");
        assert_eq!(login(store, "d@alias.org").await, "domain_exhausted", "by the directory's cap");
    });
}

#[test]
fn an_account_counts_in_its_own_domain() {
    with_store(10, async |store, _| {
        served(store, &[("own.org", 1)]);
        let account = |address: &str| AccountChange::Add(NewAccount::new(name(address), Vec::new(), None));
        store.account(account("a@own.org"), at(0)).await.unwrap().unwrap();
        assert_eq!(used(store, "own.org"), 1);
        let refused = store.account(account("b@own.org"), at(0)).await.unwrap().unwrap_err();
        assert!(matches!(refused, AccountRefusal::NoSeat { decision: Decision::DomainExhausted, .. }));
        store.account(AccountChange::Disable(name("a@own.org")), at(1)).await.unwrap().unwrap();
        assert_eq!(used(store, "own.org"), 0);
        store.account(account("b@own.org"), at(2)).await.unwrap().unwrap();
        let refused =
            store.account(AccountChange::Enable(name("a@own.org")), at(3)).await.unwrap().unwrap_err();
        assert!(matches!(refused, AccountRefusal::NoSeat { decision: Decision::DomainExhausted, .. }));
    });
}

#[test]
fn seats_are_counted_anew_under_other_rules() {
    with_store(10, async |store, directory| {
        served(store, &[]);
        upsert(store, directory, mapped(1, &["a@alias.org", "a@x.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        assert_eq!((used(store, "alias.org"), used(store, "x.org")), (1, 0));
        // The alias belongs to the other directory now.
        let directory = |name: &str, domain: &str| DirectoryNames {
            name: name.to_owned(),
            domains: vec![Domain::parse(domain).unwrap()],
            foreign_names: true,
            login_is_address: true,
            moved_from: Vec::new(),
        };
        let rules = NameRules::new(vec![directory("demo", "x.org"), directory("other", "alias.org")], None);
        store.change_policy(|policy| policy.names = rules);
        store.ping().await.unwrap();
        assert_eq!((used(store, "alias.org"), used(store, "x.org")), (0, 1));
    });
}

#[test]
fn a_directory_has_a_cap_inside_the_licence() {
    with_store(10, async |store, directory| {
        store.change_policy(|policy| policy.directory_limits = [("demo".to_owned(), 1)].into());
        upsert(store, directory, mapped(1, &["a@x.org"]), 0).await;
        upsert(store, directory, mapped(2, &["b@x.org"]), 0).await;
        let other = store.directory("other").await.unwrap();
        upsert(store, other, mapped(3, &["c@y.org"]), 0).await;
        assert_eq!(login(store, "a@x.org").await, "granted");
        assert_eq!(login(store, "b@x.org").await, "domain_exhausted");
        assert_eq!(login(store, "c@y.org").await, "granted");
    });
}
