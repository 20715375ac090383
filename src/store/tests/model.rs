//! The ledger against a model: whatever administrators, directories, mail servers and files do, with crashes.

use super::*;
use crate::domain::account::{AccountChange, ImportedPerson, NewAccount};
use crate::domain::names::Administrator;

/// People of two directories, the even ones of them in the one with a cap.
pub(super) const MAPPED: u8 = 6;
/// After them those who may be local accounts,
const LOCAL_END: u8 = 8;
/// and after them those whom a file may bring.
const EVERYBODY: u8 = 11;

#[derive(Debug, Clone)]
enum Op {
    Login(u8),
    AdministratorGrants(u8),
    Release(u8),
    Appear {
        user: u8,
        enabled: bool,
    },
    Disappear(u8),
    Limit(u64),
    Cap(u64),
    GraceEnds,
    AddAccount(u8),
    RemoveAccount(u8),
    EnableAccount(u8),
    DisableAccount(u8),
    Import {
        users: Vec<u8>,
        partial: bool,
        dry_run: bool,
    },
    /// Seats that were not used in so many of the last operations.
    Reclaim(i64),
    Administrator(Option<u8>),
    /// The history of seats that were taken back before so many of the last operations.
    Trim(i64),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let mapped = || 0..MAPPED;
    let anybody = || 0..EVERYBODY;
    let account = || prop_oneof![4 => MAPPED..EVERYBODY, 1 => 0..MAPPED];
    let imported = prop::collection::vec(LOCAL_END..EVERYBODY, 0..4);
    let import = (imported, any::<bool>(), prop::bool::weighted(0.2));
    prop_oneof![
        6 => anybody().prop_map(Op::Login),
        1 => anybody().prop_map(Op::AdministratorGrants),
        2 => anybody().prop_map(Op::Release),
        4 => (mapped(), prop::bool::weighted(0.7)).prop_map(|(user, enabled)| Op::Appear { user, enabled }),
        2 => mapped().prop_map(Op::Disappear),
        1 => (0u64..7).prop_map(Op::Limit),
        1 => (0u64..4).prop_map(Op::Cap),
        1 => Just(Op::GraceEnds),
        3 => (MAPPED..LOCAL_END).prop_map(Op::AddAccount),
        1 => account().prop_map(Op::RemoveAccount),
        2 => account().prop_map(Op::EnableAccount),
        2 => account().prop_map(Op::DisableAccount),
        3 => import.prop_map(|(users, partial, dry_run)| Op::Import { users, partial, dry_run }),
        1 => (0i64..6).prop_map(Op::Reclaim),
        1 => prop::option::weighted(0.7, anybody()).prop_map(Op::Administrator),
        2 => (0i64..6).prop_map(Op::Trim),
        2 => Just(Op::Crash),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Unknown,
    Living { enabled: bool },
    Gone,
}

/// What must hold, said in the simplest way: a list of lives, a list of seats, and what was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    lives: Vec<Life>,
    seated: Vec<bool>,
    /// When each was granted a seat or logged in with one.
    used_at: Vec<i64>,
    now: i64,
    limit: u64,
    cap: u64,
    administrator: Option<u8>,
}

impl Model {
    fn new() -> Model {
        Model {
            lives: vec![Life::Unknown; EVERYBODY.into()],
            seated: vec![false; EVERYBODY.into()],
            used_at: vec![0; EVERYBODY.into()],
            now: 0,
            limit: 3,
            cap: 2,
            administrator: None,
        }
    }

    fn used(&self) -> u64 {
        self.seated.iter().filter(|seated| **seated).count() as u64
    }

    fn used_in_capped(&self) -> u64 {
        self.seated.iter().take(MAPPED.into()).step_by(2).filter(|seated| **seated).count() as u64
    }

    /// What an enabled person gets who may take a seat.
    fn gate(&mut self, user: u8) -> &'static str {
        let at = usize::from(user);
        if self.administrator == Some(user) {
            return "exempt";
        }
        if self.seated[at] {
            return "held";
        }
        if self.used() >= self.limit {
            return "exhausted";
        }
        if user < MAPPED && user.is_multiple_of(2) && self.used_in_capped() >= self.cap {
            return "domain_exhausted";
        }
        self.seated[at] = true;
        self.used_at[at] = self.now;
        "granted"
    }

    fn login(&mut self, user: u8) -> &'static str {
        match self.lives[usize::from(user)] {
            _ if self.administrator == Some(user) => "exempt",
            Life::Unknown => "unknown_user",
            Life::Gone => "removed",
            Life::Living { enabled: false } => "disabled",
            Life::Living { enabled: true } => self.gate(user),
        }
    }

    /// Makes somebody an enabled person, if that is allowed.
    fn come(&mut self, user: u8) -> &'static str {
        let decision = self.gate(user);
        if matches!(decision, "granted" | "exempt" | "held") {
            self.lives[usize::from(user)] = Life::Living { enabled: true };
        }
        decision
    }

    fn apply(&mut self, op: &Op) -> Option<&'static str> {
        self.now += 1;
        let outcome = self.apply_unsettled(op);
        // The administrator holds no seat.
        if let Some(user) = self.administrator {
            self.seated[usize::from(user)] = false;
        }
        outcome
    }

    fn apply_unsettled(&mut self, op: &Op) -> Option<&'static str> {
        match *op {
            Op::Login(user) => {
                let decision = self.login(user);
                if decision == "held" {
                    self.used_at[usize::from(user)] = self.now;
                }
                return Some(decision);
            }
            Op::AdministratorGrants(user) => return Some(self.login(user)),
            Op::Release(user) => self.seated[usize::from(user)] = false,
            Op::Appear { user, enabled } => {
                self.lives[usize::from(user)] = Life::Living { enabled };
                self.seated[usize::from(user)] &= enabled;
            }
            Op::Disappear(user) => {
                let life = &mut self.lives[usize::from(user)];
                if *life != Life::Unknown {
                    *life = Life::Gone;
                }
            }
            Op::Limit(limit) => self.limit = limit,
            Op::Cap(cap) => self.cap = cap,
            Op::GraceEnds => {
                for (life, seated) in self.lives.iter_mut().zip(&mut self.seated) {
                    if *life == Life::Gone {
                        *life = Life::Unknown;
                        *seated = false;
                    }
                }
            }
            Op::AddAccount(user) => {
                let is_there = self.lives[usize::from(user)] != Life::Unknown;
                return Some(if is_there { "taken" } else { self.come(user) });
            }
            Op::RemoveAccount(user) | Op::EnableAccount(user) | Op::DisableAccount(user) => {
                return Some(self.change_account(op, user));
            }
            Op::Import { ref users, partial, dry_run } => {
                let before = self.clone();
                let mut is_refused = false;
                for (at, user) in users.iter().enumerate() {
                    if self.lives[usize::from(*user)] == Life::Unknown {
                        is_refused |= !matches!(self.come(*user), "granted" | "exempt");
                    }
                    is_refused |= users[..at].contains(user);
                }
                if dry_run || (is_refused && !partial) {
                    *self = before;
                }
            }
            Op::Reclaim(age) => {
                for (seated, used_at) in self.seated.iter_mut().zip(&self.used_at) {
                    *seated &= *used_at >= self.now - age;
                }
            }
            // No imported account can be the administrator.
            Op::Administrator(user) => self.administrator = user.filter(|user| *user < LOCAL_END),
            Op::Trim(_) | Op::Crash => {}
        }
        None
    }

    fn change_account(&mut self, op: &Op, user: u8) -> &'static str {
        let at = usize::from(user);
        if self.lives[at] == Life::Unknown {
            return "unknown";
        }
        if user < MAPPED {
            return "mapped";
        }
        match op {
            Op::EnableAccount(_) => return self.come(user),
            Op::DisableAccount(_) => self.lives[at] = Life::Living { enabled: false },
            _ => self.lives[at] = Life::Unknown,
        }
        self.seated[at] = false;
        "changed"
    }

    fn policy(&self) -> Policy {
        Policy {
            directory_limits: [("even".to_owned(), self.cap)].into(),
            names: NameRules::new(
                rules(&[("even", &[]), ("odd", &[])]).directories().to_vec(),
                self.administrator.map(administrator),
            ),
            ..policy(self.limit)
        }
    }
}

pub(super) fn address(user: u8) -> String {
    if user < LOCAL_END { format!("u{user}@x.org") } else { format!("u{user}@other.org") }
}

/// An entry by its login name, or a local account by its address.
fn administrator(user: u8) -> Administrator {
    let directory = ["even", "odd"][usize::from(user % 2)];
    let directory = (user < MAPPED).then(|| directory.to_owned());
    Administrator { name: name(&address(user)), directory }
}

pub(super) fn entry(user: u8, enabled: bool) -> Mapped {
    Mapped { enabled, logins: vec![name(&address(user))], ..mapped(user + 1, &[&address(user)]) }
}

async fn change(store: &Store, change: AccountChange, now: Timestamp) -> &'static str {
    match store.account(change, now).await.unwrap() {
        Ok(AccountChanged { granted: Some(_), .. }) => "granted",
        Ok(_) => "changed",
        Err(AccountRefusal::NoSeat { decision, .. }) => decision.code(),
        Err(AccountRefusal::Taken(_)) => "taken",
        Err(AccountRefusal::Unknown(_)) => "unknown",
        Err(AccountRefusal::Mapped { .. }) => "mapped",
        Err(refusal) => panic!("{refusal}"),
    }
}

async fn apply_to_store(
    store: &Store,
    op: &Op,
    now: Timestamp,
    directories: [DirectoryId; 2],
) -> Option<&'static str> {
    let directory = |user: u8| directories[usize::from(user % 2)];
    let key = |user: u8| store.view().find(&name(&address(user)), Purpose::Login).unwrap();
    let admit = async |user: u8, operation: Operation| {
        let request = Request { operation, service: None };
        store.admit(name(&address(user)), request, now).await.unwrap()
    };
    match op.clone() {
        Op::Login(user) => {
            let admitted = admit(user, Operation::Login).await;
            if admitted.decision == Decision::Held {
                let login = LastLogin { at: now, service: None };
                let logins = admitted.key.into_iter().map(|key| (key, login.clone())).collect();
                store.record_activity(logins, vec![], vec![]).await.unwrap();
            }
            return Some(admitted.decision.code());
        }
        Op::AdministratorGrants(user) => return Some(admit(user, Operation::Grant).await.decision.code()),
        Op::Release(user) => {
            if let Some(key) = key(user) {
                store.release(key, ReleaseReason::Administrator, now).await.unwrap();
            }
        }
        Op::Appear { user, enabled } => {
            let changes = Changes { upserts: vec![entry(user, enabled)], ..Changes::default() };
            store.apply(directory(user), changes, now).await.unwrap();
        }
        Op::Disappear(user) => {
            if let Some(key) = key(user) {
                let changes = Changes { removals: vec![key], ..Changes::default() };
                store.apply(directory(user), changes, now).await.unwrap();
            }
        }
        Op::GraceEnds => {
            store.purge(now, now, 1000).await.unwrap();
        }
        Op::AddAccount(user) => {
            let account = NewAccount::new(name(&address(user)), Vec::new(), None);
            return Some(change(store, AccountChange::Add(account), now).await);
        }
        Op::RemoveAccount(user) => {
            return Some(change(store, AccountChange::Remove(name(&address(user))), now).await);
        }
        Op::EnableAccount(user) => {
            return Some(change(store, AccountChange::Enable(name(&address(user))), now).await);
        }
        Op::DisableAccount(user) => {
            return Some(change(store, AccountChange::Disable(name(&address(user))), now).await);
        }
        Op::Import { users, partial, dry_run } => {
            let domain = Domain::parse("other.org").unwrap();
            let rows = users.into_iter().zip(1..).map(|(user, line)| {
                let address = name(&address(user));
                let person =
                    ImportedPerson { address, aliases: None, display_name: None, id: None, enabled: true };
                Ok(ImportRow { line, content: RowContent::Person(person) })
            });
            let import = Import { domain, rows: Box::new(rows), partial, dry_run, now };
            store.import(import).await.unwrap().unwrap();
        }
        Op::Reclaim(age) => {
            let keys = store.view().holders().unwrap().map(|holder| holder.unwrap().0).collect();
            let cutoff = now - jiff::SignedDuration::from_secs(age);
            store.reclaim(keys, cutoff, now, Arc::new(|_, stored| stored)).await.unwrap();
        }
        Op::Trim(age) => {
            store.trim_ledger(now - jiff::SignedDuration::from_secs(age), 3).await.unwrap();
        }
        // What follows from another policy is settled with the next transaction.
        Op::Administrator(_) => store.ping().await.unwrap(),
        Op::Limit(_) | Op::Cap(_) | Op::Crash => {}
    }
    None
}

/// What the store says of the same things.
fn observe(store: &Store, model: &Model) -> Model {
    let view = store.view();
    let mut seen = Model { lives: Vec::new(), seated: Vec::new(), ..model.clone() };
    for user in 0..EVERYBODY {
        let details = view
            .find(&name(&address(user)), Purpose::Login)
            .unwrap()
            .and_then(|key| view.details(key).unwrap());
        seen.lives.push(match &details {
            None => Life::Unknown,
            Some(details) if details.user.is_living() => {
                Life::Living { enabled: details.user.mapped.enabled }
            }
            Some(_) => Life::Gone,
        });
        seen.seated.push(details.is_some_and(|details| details.seat.is_some()));
    }
    assert_eq!(view.verify().unwrap(), []);
    assert_eq!(view.seats_used().unwrap(), seen.used());
    seen
}

/// The two say the same in other words: an account that is enabled without a new seat is only changed.
fn is_same(got: Option<&str>, expected: Option<&str>) -> bool {
    got == expected || (got == Some("changed") && matches!(expected, Some("exempt" | "held")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// No sequence of logins, grants, releases, disables, removals, returns, limit changes, accounts, imports,
    /// reclaims, changes of the administrator and crashes oversells, loses an answered grant, or lets the tables
    /// disagree. A crash may strike at every sync of the operation before it, also inside its commit.
    #[test]
    fn the_ledger_follows_its_model(ops in prop::collection::vec((op(), any::<usize>()), 1..60)) {
        runtime().block_on(async {
            let mut disk = Disk::default();
            let mut model = Model::new();
            let (mut store, mut writer) = start(&disk, model.policy());
            let directories = [store.directory("even").await.unwrap(), store.directory("odd").await.unwrap()];
            for (op, nth) in ops {
                disk.mark();
                let before = model.clone();
                let expected = model.apply(&op);
                store.change_policy(|policy| *policy = model.policy());
                let got = apply_to_store(&store, &op, at(model.now), directories).await;
                prop_assert!(is_same(got, expected), "{:?}: {:?}, not {:?}", op, got, expected);
                prop_assert!(model.used() <= model.limit.max(before.used()), "{:?} oversold", op);
                prop_assert_eq!(&observe(&store, &model), &model, "{:?}", op);
                // What an unanswered operation had left on disk, had power failed during it.
                let crashed = disk.after_crash(nth);
                let (reopened, its_writer) = start(&crashed, model.policy());
                let found = observe(&reopened, &model);
                let is_whole = found == model
                    || (found.lives == before.lives && found.seated == before.seated);
                prop_assert!(is_whole, "half of {:?} is on disk", op);
                drop(reopened);
                its_writer.join().unwrap();
                if matches!(op, Op::Crash) {
                    // Power fails now: everything answered so far must be there.
                    disk = disk.after_power_failure();
                    drop(store);
                    writer.join().unwrap();
                    (store, writer) = start(&disk, model.policy());
                    prop_assert_eq!(&observe(&store, &model), &model);
                }
            }
            drop(store);
            writer.join().unwrap();
            Ok(())
        })?;
    }
}
