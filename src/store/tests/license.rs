//! Licences that come, shrink, lose components and expire, against a model.

use std::collections::BTreeSet;

use super::model::{Life, MAPPED as USERS, address, entry};
use super::*;
use crate::domain::account::{ImportedPerson, NewAccount};
use crate::domain::license::{ComponentName, ComponentStanding};
use crate::domain::seats::Service;

#[derive(Debug, Clone)]
enum Step {
    /// A login, through the component's service or another.
    Login { user: u8, eas: bool },
    /// An administrator grants.
    Grants(u8),
    /// An administrator takes back.
    Release(u8),
    /// The directory has the user, enabled or not.
    Appear { user: u8, enabled: bool },
    /// The directory has the user no more.
    Disappear(u8),
    /// An administrator creates a local account.
    Create(u8),
    /// It is disabled, or removed.
    End { account: u8, remove: bool },
    /// A file brings these people.
    Import { people: BTreeSet<u8>, partial: bool },
    /// Another licence, or none, or another day.
    License(Terms),
    /// Power fails.
    Crash,
}

const ACCOUNTS: u8 = 3;
const IMPORTED: u8 = 3;

/// A local account of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Local {
    Unknown,
    Enabled,
    Disabled,
}

/// What is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    seats: Option<u64>,
    component: ComponentStanding,
    expired: Option<OnExpiry>,
}

fn terms() -> impl Strategy<Value = Terms> {
    let component = prop_oneof![
        Just(ComponentStanding::Unlicensed),
        Just(ComponentStanding::Licensed { seats: None }),
        (0u64..4).prop_map(|seats| ComponentStanding::Licensed { seats: Some(seats) }),
    ];
    let expired = prop_oneof![
        4 => Just(None),
        1 => Just(Some(OnExpiry::RefuseNew)),
        1 => Just(Some(OnExpiry::RefuseAll)),
    ];
    let seats = prop_oneof![1 => Just(None), 6 => (0u64..6).prop_map(Some)];
    (seats, component, expired).prop_map(|(seats, component, expired)| Terms { seats, component, expired })
}

fn step() -> impl Strategy<Value = Step> {
    let user = || 0..USERS;
    prop_oneof![
        8 => (user(), any::<bool>()).prop_map(|(user, eas)| Step::Login { user, eas }),
        1 => user().prop_map(Step::Grants),
        2 => user().prop_map(Step::Release),
        4 => (user(), prop::bool::weighted(0.8)).prop_map(|(user, enabled)| Step::Appear { user, enabled }),
        1 => user().prop_map(Step::Disappear),
        2 => (0..ACCOUNTS).prop_map(Step::Create),
        1 => (0..ACCOUNTS, any::<bool>()).prop_map(|(account, remove)| Step::End { account, remove }),
        2 => (prop::collection::btree_set(0..IMPORTED, 0..4), any::<bool>())
            .prop_map(|(people, partial)| Step::Import { people, partial }),
        3 => terms().prop_map(Step::License),
        1 => Just(Step::Crash),
    ]
}

/// What must hold, said in the simplest way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    lives: Vec<Life>,
    seated: Vec<bool>,
    eas: Vec<bool>,
    locals: Vec<Local>,
    imported: Vec<bool>,
    terms: Terms,
}

fn taken(seats: &[bool]) -> u64 {
    seats.iter().filter(|taken| **taken).count() as u64
}

impl Expected {
    fn new() -> Expected {
        let terms = Terms {
            seats: Some(3),
            component: ComponentStanding::Licensed { seats: Some(2) },
            expired: None,
        };
        let none = vec![false; USERS.into()];
        let locals = vec![Local::Unknown; ACCOUNTS.into()];
        let imported = vec![false; IMPORTED.into()];
        Expected {
            lives: vec![Life::Unknown; USERS.into()],
            seated: none.clone(),
            eas: none,
            locals,
            imported,
            terms,
        }
    }

    fn used(&self) -> u64 {
        let accounts = taken(&self.seated) + taken(&self.imported);
        accounts + self.locals.iter().filter(|local| **local == Local::Enabled).count() as u64
    }

    fn create(&mut self, account: u8) -> &'static str {
        let account = usize::from(account);
        if self.locals[account] != Local::Unknown {
            return "taken";
        }
        let answer = self.newcomer();
        if answer == "granted" {
            self.locals[account] = Local::Enabled;
        }
        answer
    }

    /// What somebody gets who takes a seat by coming.
    fn newcomer(&self) -> &'static str {
        let Terms { seats, expired, .. } = self.terms;
        match (expired, seats) {
            (Some(_), _) => "license_expired",
            (None, None) => "license_missing",
            (None, Some(seats)) if self.used() >= seats => "exhausted",
            (None, Some(_)) => "granted",
        }
    }

    /// All or nobody, or those who fit.
    fn import(&mut self, people: &BTreeSet<u8>, partial: bool) {
        let before = self.imported.clone();
        for person in people.iter().copied().map(usize::from) {
            if self.imported[person] {
                continue;
            }
            if self.newcomer() == "granted" {
                self.imported[person] = true;
            } else if !partial {
                self.imported = before;
                return;
            }
        }
    }

    fn login(&mut self, user: u8, eas: bool) -> &'static str {
        let user = usize::from(user);
        match self.lives[user] {
            Life::Unknown => return "unknown_user",
            Life::Gone => return "removed",
            Life::Living { enabled: false } => return "disabled",
            Life::Living { enabled: true } => {}
        }
        let Terms { seats, component, expired } = self.terms;
        if expired == Some(OnExpiry::RefuseAll) {
            return "license_expired";
        }
        let limit = match component {
            ComponentStanding::Unlicensed if eas => return "component_unlicensed",
            ComponentStanding::Licensed { seats: Some(limit) } if eas && !self.eas[user] => Some(limit),
            _ => None,
        };
        if self.seated[user] && limit.is_none() {
            return "held";
        }
        if expired.is_some() {
            return "license_expired";
        }
        let Some(seats) = seats else { return "license_missing" };
        let seat_is_free = self.seated[user] || self.used() < seats;
        let component_is_free = limit.is_none_or(|limit| taken(&self.eas) < limit);
        if !seat_is_free || !component_is_free {
            return "exhausted";
        }
        self.seated[user] = true;
        self.eas[user] |= limit.is_some();
        "granted"
    }

    fn lose(&mut self, user: u8) {
        self.seated[usize::from(user)] = false;
        self.eas[usize::from(user)] = false;
    }

    fn apply(&mut self, step: &Step) -> Option<&'static str> {
        match *step {
            Step::Login { user, eas } => return Some(self.login(user, eas)),
            Step::Grants(user) => return Some(self.login(user, false)),
            Step::Release(user) => self.lose(user),
            Step::Appear { user, enabled } => {
                self.lives[usize::from(user)] = Life::Living { enabled };
                if !enabled {
                    self.lose(user);
                }
            }
            Step::Disappear(user) => {
                let life = &mut self.lives[usize::from(user)];
                if *life != Life::Unknown {
                    *life = Life::Gone;
                }
            }
            Step::Create(account) => return Some(self.create(account)),
            Step::End { account, remove } => {
                let local = &mut self.locals[usize::from(account)];
                *local = match (*local, remove) {
                    (Local::Unknown, _) | (_, true) => Local::Unknown,
                    (_, false) => Local::Disabled,
                };
            }
            Step::Import { ref people, partial } => self.import(people, partial),
            Step::License(terms) => self.terms = terms,
            Step::Crash => {}
        }
        None
    }

    fn policy(&self) -> Policy {
        let components = Components {
            services: [(Service::parse("eas").unwrap(), activesync())].into(),
            standings: [(activesync(), self.terms.component)].into(),
        };
        Policy { seat_limit: self.terms.seats, expired: self.terms.expired, components, ..policy(0) }
    }
}

fn activesync() -> ComponentName {
    ComponentName::parse("activesync").unwrap()
}

fn account(number: u8) -> Name {
    name(&format!("local{number}@x.org"))
}

async fn create(store: &Store, number: u8) -> &'static str {
    let change = AccountChange::Add(NewAccount::new(account(number), Vec::new(), None));
    match store.account(change, at(0)).await.unwrap() {
        Ok(changed) => changed.granted.map_or("exempt", |_| "granted"),
        Err(AccountRefusal::NoSeat { decision, .. }) => decision.code(),
        Err(AccountRefusal::Taken(_)) => "taken",
        Err(refusal) => panic!("{refusal}"),
    }
}

fn imported(number: u8) -> Name {
    name(&format!("imported{number}@y.org"))
}

async fn import(store: &Store, people: &BTreeSet<u8>, partial: bool) {
    let rows = people.clone().into_iter().zip(1..).map(|(number, line)| {
        let address = imported(number);
        let person = ImportedPerson { address, aliases: None, display_name: None, id: None, enabled: true };
        Ok(ImportRow { line, content: RowContent::Person(person) })
    });
    let domain = Domain::parse("y.org").unwrap();
    let import = Import { domain, rows: Box::new(rows), partial, dry_run: false, now: at(0) };
    store.import(import).await.unwrap().unwrap();
}

fn key_of(store: &Store, directory: DirectoryId, user: u8) -> Option<UserKey> {
    store.view().user_by_id(directory, &entry(user, true).id).unwrap().map(|(key, _)| key)
}

async fn take(store: &Store, directory: DirectoryId, step: &Step) -> Option<&'static str> {
    let ask = async |user: u8, operation: Operation, service: &str| {
        let request = Request { operation, service: Service::parse(service) };
        Some(store.admit(name(&address(user)), request, at(0)).await.unwrap().decision.code())
    };
    match *step {
        Step::Login { user, eas } => {
            return ask(user, Operation::Login, if eas { "eas" } else { "imap" }).await;
        }
        Step::Grants(user) => return ask(user, Operation::Grant, "").await,
        Step::Release(user) => {
            if let Some(key) = key_of(store, directory, user) {
                store.release(key, ReleaseReason::Administrator, at(0)).await.unwrap();
            }
        }
        Step::Appear { user, enabled } => drop(upsert(store, directory, entry(user, enabled), 0).await),
        Step::Disappear(user) => {
            if let Some(key) = key_of(store, directory, user) {
                let changes = Changes { removals: vec![key], ..Changes::default() };
                store.apply(directory, changes, at(0)).await.unwrap();
            }
        }
        Step::Create(number) => return Some(create(store, number).await),
        Step::End { account: number, remove } => {
            let name = account(number);
            let change = if remove { AccountChange::Remove(name) } else { AccountChange::Disable(name) };
            // One that does not exist is refused, and that is as good.
            let _ = store.account(change, at(0)).await.unwrap();
        }
        Step::Import { ref people, partial } => import(store, people, partial).await,
        Step::License(_) | Step::Crash => {}
    }
    None
}

/// What the store says of the same things.
fn seen(store: &Store, directory: DirectoryId, terms: Terms) -> Expected {
    let view = store.view();
    let mut seen = Expected { terms, ..Expected::new() };
    for user in 0..USERS {
        let Some((key, found)) = view.user_by_id(directory, &entry(user, true).id).unwrap() else { continue };
        let living = Life::Living { enabled: found.mapped.enabled };
        seen.lives[usize::from(user)] = if found.is_living() { living } else { Life::Gone };
        seen.seated[usize::from(user)] = view.seat_of(key).unwrap().is_some();
        seen.eas[usize::from(user)] = view.components_of(key).unwrap() == ["activesync"];
    }
    for number in 0..ACCOUNTS {
        let Some(key) = view.find(&account(number), Purpose::Login).unwrap() else { continue };
        let is_seated = view.seat_of(key).unwrap().is_some();
        seen.locals[usize::from(number)] = if is_seated { Local::Enabled } else { Local::Disabled };
    }
    for number in 0..IMPORTED {
        let Some(key) = view.find(&imported(number), Purpose::Login).unwrap() else { continue };
        seen.imported[usize::from(number)] = view.seat_of(key).unwrap().is_some();
    }
    assert_eq!(view.seats_used().unwrap(), seen.used());
    assert_eq!(view.verify().unwrap(), []);
    assert_eq!(view.component_seats_used(&activesync()).unwrap(), taken(&seen.eas));
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// No sequence of licences, logins, grants, releases, disables, imports and crashes sells a seat too many, of the
    /// licence or of a component; and none loses an answered one.
    #[test]
    fn no_sequence_of_licences_oversells(steps in prop::collection::vec(step(), 1..60)) {
        runtime().block_on(async {
            let mut disk = Disk::default();
            let mut model = Expected::new();
            let (mut store, mut writer) = start(&disk, model.policy());
            let directory = store.directory("demo").await.unwrap();
            for step in steps {
                let before = model.clone();
                let expected = model.apply(&step);
                store.change_policy(|policy| *policy = model.policy());
                let got = take(&store, directory, &step).await;
                prop_assert_eq!(got, expected, "{:?}", step);
                prop_assert_eq!(&seen(&store, directory, model.terms), &model, "{:?}", step);
                if model.used() > before.used() {
                    prop_assert!(model.terms.seats.is_some_and(|seats| model.used() <= seats));
                    prop_assert_eq!(model.terms.expired, None);
                }
                if taken(&model.eas) > taken(&before.eas) {
                    let ComponentStanding::Licensed { seats: Some(seats) } = model.terms.component else {
                        panic!("{step:?}")
                    };
                    prop_assert!(taken(&model.eas) <= seats);
                }
                if matches!(step, Step::Crash) {
                    disk = disk.after_power_failure();
                    drop(store);
                    writer.join().unwrap();
                    (store, writer) = start(&disk, model.policy());
                    prop_assert_eq!(&seen(&store, directory, model.terms), &model);
                }
            }
            drop(store);
            writer.join().unwrap();
            Ok(())
        })?;
    }
}

#[test]
fn a_store_of_an_earlier_program_gets_its_new_tables() {
    let disk = Disk::default();
    runtime().block_on(async {
        let (store, writer) = start(&disk, policy(1));
        store.directory("demo").await.unwrap();
        drop(store);
        writer.join().unwrap();
    });
    let db = Builder::new().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.delete_table(crate::store::license::LICENSE).unwrap();
    txn.delete_table(crate::store::license::COMPONENT_SEATS).unwrap();
    txn.open_table(crate::store::tables::META).unwrap().insert("format", 2).unwrap();
    txn.commit().unwrap();
    drop(db);
    runtime().block_on(async {
        let (store, writer) = start(&disk, policy(1));
        assert_eq!(store.view().license().unwrap(), LicenseRecord::default());
        assert_eq!(store.view().directories().count(), 1);
        drop(store);
        writer.join().unwrap();
    });
}
