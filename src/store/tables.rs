//! The tables, and what can be looked up in them from a read view and from a write transaction alike.

use redb::{Key, ReadableTable, ReadableTableMetadata, TableDefinition, Value};

use super::clock::CLOCK;
use super::codec::{self, UserHead};
use super::directories::Directories;
use super::domains::DomainLookup;
use super::license::{COMPONENT_COUNTS, COMPONENT_SEATS, LICENSE, component_view};
use super::names::NameRecord;
use super::relocate::Kinship;
use super::{DirectoryRecord, Policy, StoreError};
use crate::domain::admission::{Subject, View};
use crate::domain::brake::Window;
use crate::domain::name::{Name, StableId};
use crate::domain::names::{NameRules, Owners, Purpose};
use crate::domain::seats::{LastLogin, Refusals, Seat, SeatCount, Service};
use crate::domain::user::{DirectoryId, Origin, User, UserKey};

/// `format`, `next_user`, `next_directory`, `seats_low`: the numbers that belong to the store as a whole.
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
/// Keys of [`META`]: the numbers that the next new user and directory get.
pub(super) const NEXT_USER: &str = "next_user";
pub(super) const NEXT_DIRECTORY: &str = "next_directory";
/// 1 while few seats are left and that was told.
pub(super) const SEATS_LOW: &str = "seats_low";
/// There while the daemon is stopped and everything is written: not after a crash.
pub(super) const STOPPED: &str = "stopped";
/// The number of seatless mailboxes that the last transaction knew to be allowed; [`u64::MAX`] for any.
pub(super) const SEATLESS_LIMIT: &str = "seatless_limit";
/// 1 while there are more of them than allowed and that was told.
pub(super) const SEATLESS_OVER: &str = "seatless_over";
/// Directory name to its record.
pub(super) const DIRECTORIES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("directories");
/// User key to the user.
pub(super) const USERS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("users");
/// Directory and stable id to the user key: the identity.
pub(super) const IDS: TableDefinition<'static, (u32, &[u8]), u64> = TableDefinition::new("ids");
/// Name to its owners, and to the claim where there is only one.
pub(super) const NAMES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("name_owners");
/// Name and user key to the claim, where several users claim a name.
pub(super) const CLAIMS: TableDefinition<'static, (&str, u64), &[u8]> = TableDefinition::new("name_claims");
/// What of the configuration the tables follow from: `name_rules`, and a row of [`names_from_key`] for each directory.
pub(super) const SETTINGS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("settings");
/// Key of [`SETTINGS`]: what the names of the directory's users depended on when it was read as a whole.
pub(super) fn names_from_key(DirectoryId(directory): DirectoryId) -> String {
    format!("names_from {directory}")
}

/// User key to the seat held.
pub(super) const SEATS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("seats");
/// Mail domain to the seats of those who count in it.
pub(super) const DOMAIN_SEATS: TableDefinition<'static, &str, u64> = TableDefinition::new("domain_seats");
/// Enabled people whose mailbox needs no seat. Those whom the licence allows are the first of them, in the order in
/// which they were mapped.
pub(super) const SEATLESS: TableDefinition<'static, u64, ()> = TableDefinition::new("seatless");
/// User key to the last login.
pub(super) const LAST_LOGINS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("last_logins");
/// User key to the summed-up refusals.
pub(super) const REFUSALS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("refusals");
/// Name that nobody has to its summed-up refusals: at most [`MAX_STRANGERS`] of them.
pub(super) const STRANGERS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("strangers");
/// Anybody can invent names: only the latest are kept.
pub(super) const MAX_STRANGERS: u64 = 1000;
/// Grants and releases in the order in which they happened. Never trimmed: a line is some 60 bytes, and
/// only an administrator's change or a first login adds one.
pub(super) const LEDGER: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("ledger");
/// User key and number of a ledger line.
pub(super) const LEDGER_BY_USER: TableDefinition<'static, (u64, u64), ()> =
    TableDefinition::new("ledger_by_user");
/// Name and number of each ledger line that mentions it, for the history of a name that no user has any more.
pub(super) const LEDGER_BY_NAME: TableDefinition<'static, (&str, u64), ()> =
    TableDefinition::new("ledger_by_name");
/// Keys of [`META`]: the first ledger line of which nothing was dropped, and the seats taken before it.
pub(super) const KEPT_FROM: &str = "ledger_kept_from";
pub(super) const SEATS_THERE: &str = "ledger_seats_there";
/// Time of removal (milliseconds) and user key of each tombstone, so that the expired ones are found first.
pub(super) const TOMBSTONES: TableDefinition<'static, (i64, u64), ()> = TableDefinition::new("tombstones");

/// User key to the user to whom everything was carried over, who has the names of both.
pub(super) const HEIRS: TableDefinition<'static, u64, u64> = TableDefinition::new("heirs");

/// User key to the hash of a local or imported account's password.
pub(super) const PASSWORDS: TableDefinition<'static, u64, &str> = TableDefinition::new("passwords");

/// Directory number to the cookie of its last checkpoint.
pub(super) const COOKIES: TableDefinition<'static, u32, &[u8]> = TableDefinition::new("cookies");

/// Sums of the brake that belong to no directory: [`RECLAIMS`].
pub(super) const BRAKES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("brakes");
/// Key of [`BRAKES`]: the seats that were reclaimed in the last hour.
pub(super) const RECLAIMS: &str = "reclaims";

/// Something that is done to every table.
pub(super) trait TableVisitor {
    type Error;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), Self::Error>;
}

/// Visits all tables; a test compares them with those that a store has.
pub(super) fn visit_tables<T: TableVisitor>(visitor: &mut T) -> Result<(), T::Error> {
    visitor.visit(META)?;
    visitor.visit(SETTINGS)?;
    visitor.visit(CLOCK)?;
    visitor.visit(LICENSE)?;
    visitor.visit(DIRECTORIES)?;
    visitor.visit(COOKIES)?;
    visitor.visit(BRAKES)?;
    visitor.visit(USERS)?;
    visitor.visit(IDS)?;
    visitor.visit(NAMES)?;
    visitor.visit(CLAIMS)?;
    visitor.visit(TOMBSTONES)?;
    visitor.visit(HEIRS)?;
    visitor.visit(PASSWORDS)?;
    visitor.visit(SEATS)?;
    visitor.visit(SEATLESS)?;
    visitor.visit(DOMAIN_SEATS)?;
    visitor.visit(COMPONENT_SEATS)?;
    visitor.visit(COMPONENT_COUNTS)?;
    visitor.visit(LAST_LOGINS)?;
    visitor.visit(REFUSALS)?;
    visitor.visit(STRANGERS)?;
    visitor.visit(LEDGER)?;
    visitor.visit(LEDGER_BY_USER)?;
    visitor.visit(LEDGER_BY_NAME)
}

/// The seats that were reclaimed in the last hour.
pub(super) fn reclaims(
    brakes: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Window, StoreError> {
    let bytes = brakes.get(RECLAIMS)?;
    bytes.map(|bytes| codec::decode_window(bytes.value())).transpose().map(Option::unwrap_or_default)
}

/// Look-ups that a read view and a write transaction share.
pub(super) trait Lookup {
    fn directories(&self) -> &Directories;
    fn users(&self) -> &impl ReadableTable<u64, &'static [u8]>;
    fn ids(&self) -> &impl ReadableTable<(u32, &'static [u8]), u64>;
    fn names(&self) -> &impl ReadableTable<&'static str, &'static [u8]>;
    fn claims(&self) -> &impl ReadableTable<(&'static str, u64), &'static [u8]>;
    fn heirs(&self) -> &impl ReadableTable<u64, u64>;
    fn rules(&self) -> &NameRules;
    fn seats(&self) -> &impl ReadableTable<u64, &'static [u8]>;
    fn seatless(&self) -> &impl ReadableTable<u64, ()>;
    fn domain_seats(&self) -> &impl ReadableTable<&'static str, u64>;
    fn last_logins(&self) -> &impl ReadableTable<u64, &'static [u8]>;
    fn refusals(&self) -> &impl ReadableTable<u64, &'static [u8]>;
    fn component_seats(&self) -> &impl ReadableTable<(u64, &'static str), i64>;
    fn component_counts(&self) -> &impl ReadableTable<&'static str, u64>;

    /// Who owns this name for a purpose.
    fn key_by_name(&self, name: &Name, purpose: Purpose) -> Result<Option<UserKey>, StoreError> {
        Ok(self.owners_of(name)?.of(purpose))
    }

    /// Who owns this name.
    fn owners_of(&self, name: &Name) -> Result<Owners, StoreError> {
        Ok(self.name_record(name)?.map(|record| record.owners()).unwrap_or_default())
    }

    fn name_record(&self, name: &Name) -> Result<Option<NameRecord>, StoreError> {
        self.names().get(name.as_str())?.map(|bytes| codec::decode_name(bytes.value())).transpose()
    }

    /// Who has this stable id.
    fn key_by_id(&self, directory: DirectoryId, id: &StableId) -> Result<Option<UserKey>, StoreError> {
        Ok(self.ids().get((directory.0, id.as_bytes()))?.map(|key| UserKey(key.value())))
    }

    fn user(&self, UserKey(key): UserKey) -> Result<Option<User>, StoreError> {
        self.users().get(key)?.map(|bytes| codec::decode_user(bytes.value())).transpose()
    }

    fn user_head(&self, UserKey(key): UserKey) -> Result<Option<UserHead>, StoreError> {
        self.users().get(key)?.map(|bytes| codec::decode_user_head(bytes.value())).transpose()
    }

    /// The user to whom everything of this one was carried over.
    fn carried_to(&self, UserKey(key): UserKey) -> Result<Option<UserKey>, StoreError> {
        Ok(self.heirs().get(key)?.map(|heir| UserKey(heir.value())))
    }

    fn seat(&self, UserKey(key): UserKey) -> Result<Option<Seat>, StoreError> {
        self.seats().get(key)?.map(|bytes| codec::decode_seat(bytes.value())).transpose()
    }

    fn last_login(&self, UserKey(key): UserKey) -> Result<Option<LastLogin>, StoreError> {
        self.last_logins().get(key)?.map(|bytes| codec::decode_last_login(bytes.value())).transpose()
    }

    fn refusals_of(&self, UserKey(key): UserKey) -> Result<Option<Refusals>, StoreError> {
        self.refusals().get(key)?.map(|bytes| codec::decode_refusals(bytes.value())).transpose()
    }

    /// Seats taken.
    fn seats_used(&self) -> Result<u64, StoreError> {
        Ok(self.seats().len()?)
    }

    /// The name that logs and the ledger show: the first of the user's names that is really theirs.
    fn shown_name(&self, key: UserKey, user: &User) -> Result<Name, StoreError> {
        let mapped = &user.mapped;
        let addresses = mapped.addresses.iter().map(|name| (name, Purpose::Mail));
        for (name, purpose) in addresses.chain(mapped.logins.iter().map(|name| (name, Purpose::Login))) {
            if self.key_by_name(name, purpose)? == Some(key) {
                return Ok(name.clone());
            }
        }
        Ok(Name::from_stored(mapped.primary()))
    }

    /// What [`crate::domain::admission::decide`] needs to know of the user who has this name, and of the
    /// service that they want.
    fn admission_view(
        &self,
        name: &Name,
        purpose: Purpose,
        service: Option<&Service>,
        policy: &Policy,
    ) -> Result<(Option<UserKey>, View), StoreError>
    where
        Self: Sized,
    {
        let mut key = self.key_by_name(name, purpose)?;
        let head = key.map(|key| self.user_head(key)).transpose()?.flatten();
        let exempt = self.is_administrator(name, key)?;
        let subject = match (key, head) {
            (Some(user), Some(head)) => {
                let directory_seats = self.directory_cap(head.directory, policy);
                let domain_seats = self.domain_cap_of(user, policy)?;
                let mut seated = self.seats().get(user.0)?.is_some();
                if !seated
                    && head.removed_at.is_none()
                    && let Some(kin) = self.kin_with_seat(user, head.directory)?
                {
                    // From here on it is about the entry that holds the person's seat.
                    (key, seated) = (Some(kin), true);
                }
                Some(Subject {
                    kind: head.kind,
                    enabled: head.enabled,
                    removed: head.removed_at.is_some(),
                    seatless: head.seatless && self.needs_no_seat(user, policy)?,
                    configured: self.is_configured(head.directory),
                    seated,
                    directory_seats,
                    domain_seats,
                })
            }
            _ => None,
        };
        let seats = self.seat_count(policy)?;
        let component = component_view(self, key, service, policy)?;
        let (take_on, expired) = (policy.take_on, policy.expired);
        Ok((key, View { subject, seats, take_on, exempt, expired, component }))
    }

    /// Whether a directory is configured, or has accounts.
    fn is_configured(&self, directory: DirectoryId) -> bool {
        let is_configured = |record: &DirectoryRecord| {
            record.origin() != Origin::Mapped || self.rules().is_configured(&record.name)
        };
        self.directories().get(&directory).is_some_and(is_configured)
    }

    /// Whether a mailbox is one of those that the licence allows to have no seat.
    fn needs_no_seat(&self, UserKey(key): UserKey, policy: &Policy) -> Result<bool, StoreError> {
        if self.seatless().get(key)?.is_none() {
            return Ok(false);
        }
        let Some(limit) = policy.seatless_limit.filter(|limit| *limit != 0) else {
            return Ok(policy.seatless_limit.is_none());
        };
        if self.seatless().len()? <= limit {
            return Ok(true);
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut before = 0;
        for row in self.seatless().range(..key)?.take(limit) {
            row?;
            before += 1;
        }
        Ok(before < limit)
    }

    /// Whether a name is the internal administrator's: the configured one, or another of the same user.
    fn is_administrator(&self, name: &Name, key: Option<UserKey>) -> Result<bool, StoreError> {
        if self.rules().is_administrator(name) {
            return Ok(true);
        }
        Ok(key.is_some() && key == self.administrator_key()?)
    }

    /// The user who is the internal administrator, where there is one.
    fn administrator_key(&self) -> Result<Option<UserKey>, StoreError> {
        let Some(administrator) = self.rules().administrator() else { return Ok(None) };
        self.key_by_name(&administrator.name, Purpose::Login)
    }

    /// Seats of a directory that has a cap of its own.
    fn directory_cap(&self, directory: DirectoryId, policy: &Policy) -> Option<SeatCount> {
        let record = self.directories().get(&directory)?;
        let limit = *policy.directory_limits.get(&record.name)?;
        Some(SeatCount { used: record.census.seats, limit })
    }

    /// Seats taken and bought; `None` without a licence.
    fn seat_count(&self, policy: &Policy) -> Result<Option<SeatCount>, StoreError> {
        let Some(limit) = policy.seat_limit else { return Ok(None) };
        Ok(Some(SeatCount { used: self.seats_used()?, limit }))
    }
}

/// A read view and a transaction have their tables in fields of the same names.
macro_rules! look_up_in_fields {
    ($tables:ty) => {
        impl Lookup for $tables {
            fn directories(&self) -> &Directories {
                &self.directories
            }
            fn users(&self) -> &impl ReadableTable<u64, &'static [u8]> {
                &self.users
            }
            fn ids(&self) -> &impl ReadableTable<(u32, &'static [u8]), u64> {
                &self.ids
            }
            fn names(&self) -> &impl ReadableTable<&'static str, &'static [u8]> {
                &self.names
            }
            fn claims(&self) -> &impl ReadableTable<(&'static str, u64), &'static [u8]> {
                &self.claims
            }
            fn heirs(&self) -> &impl ReadableTable<u64, u64> {
                &self.heirs
            }
            fn rules(&self) -> &NameRules {
                &self.rules
            }
            fn seats(&self) -> &impl ReadableTable<u64, &'static [u8]> {
                &self.seats
            }
            fn seatless(&self) -> &impl ReadableTable<u64, ()> {
                &self.seatless
            }
            fn domain_seats(&self) -> &impl ReadableTable<&'static str, u64> {
                &self.domain_seats
            }
            fn last_logins(&self) -> &impl ReadableTable<u64, &'static [u8]> {
                &self.last_logins
            }
            fn refusals(&self) -> &impl ReadableTable<u64, &'static [u8]> {
                &self.refusals
            }
            fn component_seats(&self) -> &impl ReadableTable<(u64, &'static str), i64> {
                &self.component_seats
            }
            fn component_counts(&self) -> &impl ReadableTable<&'static str, u64> {
                &self.component_counts
            }
        }
    };
}
pub(super) use look_up_in_fields;
