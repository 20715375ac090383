//! Local and imported accounts: each change inside one write transaction, whole or not at all.

use jiff::Timestamp;

use super::domains::DomainLookup;
use super::names::NameLookup;
use super::tables::Lookup;
use super::transaction::Transaction;
use super::writer::Command;
use super::{LOCAL, Policy, Released, Store, StoreError};
use crate::domain::account::{AccountChange, AccountRefusal, NewAccount, Taken};
use crate::domain::admission::{ComponentView, Decision, Operation, Request, Subject, View, decide};
use crate::domain::name::Name;
use crate::domain::seats::{ReleaseReason, Seat};
use crate::domain::user::{Kind, Mapped, Origin, User, UserKey};

/// An account that was changed, or is as it was asked for already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountChanged {
    /// The name shown.
    pub name: Name,
    /// Local or imported.
    pub origin: Origin,
    /// Nothing was to be done.
    pub unchanged: bool,
    /// The seat taken.
    pub granted: Option<Seat>,
    /// The seat given back.
    pub released: Option<Released>,
    /// Seats taken after it.
    pub seats_used: u64,
}

type Outcome = Result<Result<AccountChanged, AccountRefusal>, StoreError>;

/// An account of one of the origins that can be changed here.
struct Account {
    key: UserKey,
    user: User,
    name: Name,
    origin: Origin,
}

impl Store {
    /// Changes a local or imported account, or refuses to and changes nothing; on disk when this returns.
    pub async fn account(
        &self,
        change: AccountChange,
        now: Timestamp,
    ) -> Result<Result<AccountChanged, AccountRefusal>, StoreError> {
        self.ask(|reply| Command::Account { change, now, reply }).await
    }
}

impl Transaction<'_> {
    /// Changes an account through the one gate. A refusal has changed nothing.
    pub(super) fn account(&mut self, change: AccountChange, policy: &Policy, now: Timestamp) -> Outcome {
        let name = match change {
            AccountChange::Add(account) => return self.add_account(account, policy, now),
            AccountChange::Remove(ref name)
            | AccountChange::Enable(ref name)
            | AccountChange::Disable(ref name)
            | AccountChange::SetPassword(ref name, _) => name,
        };
        let account = match self.own_account(name)? {
            Ok(account) => account,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match change {
            AccountChange::Enable(_) => self.enable(&account, policy, now),
            AccountChange::Disable(_) => {
                let mapped = Mapped { enabled: false, ..account.user.mapped.clone() };
                let unchanged = !account.user.mapped.enabled;
                let released = self.upsert(account.user.directory, mapped, now)?.released;
                self.changed(&account, unchanged, None, released)
            }
            AccountChange::SetPassword(_, hash) => {
                self.set_password(account.key, &hash)?;
                self.changed(&account, false, None, None)
            }
            AccountChange::Remove(_) | AccountChange::Add(_) => {
                let released = self.release(account.key, ReleaseReason::Removed, now)?;
                self.forget(account.key)?;
                self.changed(&account, false, None, released)
            }
        }
    }

    fn add_account(&mut self, account: NewAccount, policy: &Policy, now: Timestamp) -> Outcome {
        if let Some(taken) = self.taken(account.names(), None)? {
            return Ok(Err(AccountRefusal::Taken(taken)));
        }
        if let Some(refusal) = self.forbidden_alias(&account) {
            return Ok(Err(refusal));
        }
        let name = account.address.clone();
        let exempt = self.is_administrators_account(&name);
        let view = self.newcomer_view(exempt, None, name.domain(), policy)?;
        let seat = match decide(&view, &request(Operation::Create), now) {
            Decision::Granted(seat) => Some(seat),
            Decision::Exempt => None,
            decision => return Ok(Err(AccountRefusal::NoSeat { name, decision, seats: view.seats })),
        };
        let directory = self.directory(&format!("{LOCAL}{}", name.domain()))?;
        let mapped = account.into_mapped(self.own_id(), true);
        let key = self.upsert(directory, mapped, now)?.key;
        if let Some(seat) = &seat {
            self.grant(key, seat)?;
        }
        let seats_used = self.seats_used()?;
        let origin = Origin::Local;
        Ok(Ok(AccountChanged { name, origin, unchanged: false, granted: seat, released: None, seats_used }))
    }

    /// One that is enabled but lost the seat takes one again, too.
    fn enable(&mut self, account: &Account, policy: &Policy, now: Timestamp) -> Outcome {
        let Account { key, user, name, .. } = account;
        let is_enabled = user.mapped.enabled;
        let exempt = Some(*key) == self.administrator_key()?;
        let domain = self.domain_of(user)?;
        let view = self.newcomer_view(exempt, Some(*key), &domain, policy)?;
        let seat = match decide(&view, &request(Operation::Enable), now) {
            Decision::Granted(seat) => Some(seat),
            Decision::Exempt | Decision::Held => None,
            decision => {
                return Ok(Err(AccountRefusal::NoSeat { name: name.clone(), decision, seats: view.seats }));
            }
        };
        let mapped = Mapped { enabled: true, ..user.mapped.clone() };
        self.upsert(user.directory, mapped, now)?;
        if let Some(seat) = &seat {
            self.grant(*key, seat)?;
        }
        let unchanged = is_enabled && seat.is_none();
        self.changed(account, unchanged, seat, None)
    }

    fn changed(
        &self,
        account: &Account,
        unchanged: bool,
        granted: Option<Seat>,
        released: Option<Released>,
    ) -> Outcome {
        let (name, origin, seats_used) = (account.name.clone(), account.origin, self.seats_used()?);
        Ok(Ok(AccountChanged { name, origin, unchanged, granted, released, seats_used }))
    }

    fn own_account(&self, name: &Name) -> Result<Result<Account, AccountRefusal>, StoreError> {
        let (key, user) = match self.account_or_owner(name)? {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Err(AccountRefusal::Unknown(name.clone()))),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let record = self.directories().get(&user.directory).ok_or(StoreError::Corrupt("directories"))?;
        let origin = record.origin();
        if origin == Origin::Mapped {
            let directory = record.name.clone();
            return Ok(Err(AccountRefusal::Mapped { name: name.clone(), directory }));
        }
        let name = self.shown_name(key, &user)?;
        Ok(Ok(Account { key, user, name, origin }))
    }

    /// The account with this main address, whether it owns the address or not; else the user who owns the name.
    fn account_or_owner(
        &self,
        name: &Name,
    ) -> Result<Result<Option<(UserKey, User)>, AccountRefusal>, StoreError> {
        for (key, _) in self.all_claims(name)? {
            let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
            if self.origin(&user) != Origin::Mapped && user.mapped.addresses.first() == Some(name) {
                return Ok(Ok(Some((key, user))));
            }
        }
        let owners = self.owners_of(name)?;
        let key = match (owners.login, owners.mail) {
            (Some(login), Some(mail)) if login != mail => {
                return Ok(Err(AccountRefusal::Ambiguous(name.clone())));
            }
            (login, mail) => login.or(mail),
        };
        let user = key.map(|key| self.user(key)).transpose()?.flatten();
        Ok(Ok(key.zip(user)))
    }

    /// Whether a local account of this address is the internal administrator.
    fn is_administrators_account(&self, address: &Name) -> bool {
        self.rules().administrator().is_some_and(|it| it.directory.is_none() && it.name == *address)
    }

    /// Why one of the aliases could never belong to the account.
    fn forbidden_alias(&self, account: &NewAccount) -> Option<AccountRefusal> {
        let own = account.address.domain();
        account.aliases.iter().find_map(|alias| {
            if self.rules().is_administrator(alias) {
                return Some(AccountRefusal::Administrator(alias.clone()));
            }
            let directory =
                self.rules().directories_of(alias.domain()).next().filter(|_| alias.domain() != own);
            directory.map(|directory| AccountRefusal::ServedElsewhere {
                name: alias.clone(),
                directory: directory.to_owned(),
            })
        })
    }

    /// The first of the names that another user than `own` owns, a tombstone in its grace period among them.
    pub(super) fn taken<'n>(
        &self,
        names: impl Iterator<Item = &'n Name>,
        own: Option<UserKey>,
    ) -> Result<Option<Taken>, StoreError> {
        for name in names {
            let owners = self.owners_of(name)?;
            let mut others = [owners.login, owners.mail].into_iter().flatten();
            let Some(key) = others.find(|key| Some(*key) != own) else { continue };
            let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
            let record = self.directories().get(&user.directory).ok_or(StoreError::Corrupt("directories"))?;
            let origin = record.origin();
            let directory = (origin == Origin::Mapped).then(|| record.name.clone());
            let owner = self.shown_name(key, &user)?;
            let is_removed = !user.is_living();
            return Ok(Some(Taken { name: name.clone(), owner, origin, directory, is_removed }));
        }
        Ok(None)
    }

    /// What the decision depends on for an account of a domain that is about to be enabled. `exempt` is the internal
    /// administrator. The caps of directories do not hold for accounts.
    pub(super) fn newcomer_view(
        &self,
        exempt: bool,
        key: Option<UserKey>,
        domain: &str,
        policy: &Policy,
    ) -> Result<View, StoreError> {
        let domain_seats = self.domain_cap(domain, policy)?;
        let seated = match key {
            Some(key) => self.seat(key)?.is_some(),
            None => false,
        };
        let subject = Subject {
            kind: Kind::Person,
            enabled: true,
            removed: false,
            configured: true,
            seatless: false,
            seated,
            directory_seats: None,
            domain_seats,
        };
        let (subject, seats) = (Some(subject), self.seat_count(policy)?);
        // An account has no service: a component is asked for when somebody logs in.
        let (component, expired) = (ComponentView::Licensed, policy.expired);
        Ok(View { subject, seats, take_on: policy.take_on, exempt, expired, component })
    }
}

pub(super) fn request(operation: Operation) -> Request {
    Request { operation, service: None }
}
