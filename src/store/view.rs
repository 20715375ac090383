//! A read view: one consistent state of the store, which no writer delays.
//!
//! The writer publishes a new view after each commit, before it answers, so that whoever was told
//! `granted` is a holder for everybody who asks later.

use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::Timestamp;
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
};

use super::directories::{Directories, DirectoryIndex};
use super::domains::DomainLookup;
use super::license::{COMPONENT_COUNTS, COMPONENT_SEATS, LICENSE};
use super::names::NameLookup;
use super::tables::{
    BRAKES, CLAIMS, COOKIES, DOMAIN_SEATS, HEIRS, IDS, LAST_LOGINS, LEDGER, LEDGER_BY_NAME, LEDGER_BY_USER,
    Lookup, META, NAMES, PASSWORDS, REFUSALS, SEATLESS, SEATS, SETTINGS, STOPPED, STRANGERS, TOMBSTONES,
    USERS, look_up_in_fields, names_from_key, reclaims,
};
use super::{Clash, Cookie, DirectoryRecord, IMPORTED, LOCAL, Policy, StoreError, codec};
use crate::domain::admission::View;
use crate::domain::brake::Window;
use crate::domain::name::{Name, StableId};
use crate::domain::names::{NameRules, Owners, Purpose};
use crate::domain::password::PasswordHash;
use crate::domain::seats::{LastLogin, Refusals, Seat, SeatCount, Service};
use crate::domain::user::{Census, DirectoryId, Kind, Origin, User, UserKey};

/// One consistent state of the store.
pub struct ReadView {
    pub(super) meta: ReadOnlyTable<&'static str, u64>,
    pub(super) txn: ReadTransaction,
    pub(super) directories: Directories,
    pub(super) users: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) ids: ReadOnlyTable<(u32, &'static [u8]), u64>,
    pub(super) names: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) claims: ReadOnlyTable<(&'static str, u64), &'static [u8]>,
    pub(super) heirs: ReadOnlyTable<u64, u64>,
    pub(super) rules: Arc<NameRules>,
    pub(super) seats: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) domain_seats: ReadOnlyTable<&'static str, u64>,
    pub(super) seatless: ReadOnlyTable<u64, ()>,
    pub(super) last_logins: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) refusals: ReadOnlyTable<u64, &'static [u8]>,
    passwords: ReadOnlyTable<u64, &'static str>,
    strangers: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) ledger: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) ledger_by_user: ReadOnlyTable<(u64, u64), ()>,
    pub(super) ledger_by_name: ReadOnlyTable<(&'static str, u64), ()>,
    pub(super) tombstones: ReadOnlyTable<(i64, u64), ()>,
    cookies: ReadOnlyTable<u32, &'static [u8]>,
    settings: ReadOnlyTable<&'static str, &'static [u8]>,
    brakes: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) license: ReadOnlyTable<&'static str, &'static [u8]>,
    pub(super) component_seats: ReadOnlyTable<(u64, &'static str), i64>,
    pub(super) component_counts: ReadOnlyTable<&'static str, u64>,
}

/// A user with all that the store knows of them.
#[derive(Clone, PartialEq, Debug)]
pub struct UserDetails {
    /// The store's key.
    pub key: UserKey,
    /// The user.
    pub user: User,
    /// The name that logs show.
    pub name: Name,
    /// The name of the user's directory; `None` for one who is not mapped.
    pub directory: Option<String>,
    /// Where the user comes from.
    pub origin: Origin,
    /// The seat, if one is held.
    pub seat: Option<Seat>,
    /// The last login, if there was one.
    pub last_login: Option<LastLogin>,
    /// Refusals, if there were any.
    pub refusals: Option<Refusals>,
}

impl ReadView {
    /// The latest committed state. `directories` and `rules` are kept decoded, as the commit left them: decoding
    /// the records of thousands of domains would take longer than the commit.
    pub(super) fn open(
        db: &Database,
        directories: Directories,
        rules: Arc<NameRules>,
    ) -> Result<ReadView, StoreError> {
        let txn = db.begin_read()?;
        Ok(ReadView {
            meta: txn.open_table(META)?,
            directories,
            users: txn.open_table(USERS)?,
            ids: txn.open_table(IDS)?,
            names: txn.open_table(NAMES)?,
            claims: txn.open_table(CLAIMS)?,
            heirs: txn.open_table(HEIRS)?,
            rules,
            seats: txn.open_table(SEATS)?,
            domain_seats: txn.open_table(DOMAIN_SEATS)?,
            seatless: txn.open_table(SEATLESS)?,
            last_logins: txn.open_table(LAST_LOGINS)?,
            refusals: txn.open_table(REFUSALS)?,
            passwords: txn.open_table(PASSWORDS)?,
            strangers: txn.open_table(STRANGERS)?,
            ledger: txn.open_table(LEDGER)?,
            ledger_by_user: txn.open_table(LEDGER_BY_USER)?,
            ledger_by_name: txn.open_table(LEDGER_BY_NAME)?,
            tombstones: txn.open_table(TOMBSTONES)?,
            cookies: txn.open_table(COOKIES)?,
            settings: txn.open_table(SETTINGS)?,
            brakes: txn.open_table(BRAKES)?,
            license: txn.open_table(LICENSE)?,
            component_seats: txn.open_table(COMPONENT_SEATS)?,
            component_counts: txn.open_table(COMPONENT_COUNTS)?,
            txn,
        })
    }

    /// What the decision needs to know of the user who has this name, and of the service that they want.
    pub fn admission(
        &self,
        name: &Name,
        purpose: Purpose,
        service: Option<&Service>,
        policy: &Policy,
    ) -> Result<(Option<UserKey>, View), StoreError> {
        self.admission_view(name, purpose, service, policy)
    }

    /// Whether the daemon stopped in order, with everything written.
    pub(super) fn is_stopped(&self) -> Result<bool, StoreError> {
        Ok(self.meta.get(STOPPED)?.is_some())
    }

    /// Every directory that was ever mapped.
    pub fn directories(&self) -> impl Iterator<Item = &DirectoryRecord> {
        self.directories.values()
    }

    /// One directory.
    pub fn directory(&self, id: DirectoryId) -> Option<&DirectoryRecord> {
        self.directories.get(&id)
    }

    /// The directory of this name; none where it was never mapped.
    pub fn directory_named(&self, name: &str) -> Option<&DirectoryRecord> {
        self.directories.named(name)
    }

    /// Which directories there are, and which were ever read completely.
    pub fn directory_index(&self) -> &DirectoryIndex {
        self.directories.index()
    }

    /// Whether there are local or imported accounts in a mail domain, which is in lower case.
    pub fn has_accounts_in(&self, domain: &str) -> bool {
        let has_people = |prefix: &str| {
            self.directories
                .named(&format!("{prefix}{domain}"))
                .is_some_and(|record| record.census.people > 0)
        };
        has_people(LOCAL) || has_people(IMPORTED)
    }

    /// The cookie of a directory's last checkpoint.
    pub fn cookie(&self, DirectoryId(directory): DirectoryId) -> Result<Option<Cookie>, StoreError> {
        self.cookies.get(directory)?.map(|bytes| codec::decode_cookie(bytes.value())).transpose()
    }

    /// What the mirror depended on beside the entries (`Rules::basis`), when the directory was read as a whole.
    pub fn basis(&self, directory: DirectoryId) -> Result<Option<String>, StoreError> {
        let bytes = self.settings.get(names_from_key(directory).as_str())?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes.value()).into_owned()))
    }

    /// The seats that were reclaimed in the last hour.
    pub fn reclaims(&self) -> Result<Window, StoreError> {
        reclaims(&self.brakes)
    }

    /// Those of the users who live.
    pub fn living<'a>(
        &'a self,
        keys: impl Iterator<Item = UserKey> + 'a,
    ) -> impl Iterator<Item = Result<(UserKey, Kind), StoreError>> + 'a {
        living(self, keys)
    }

    /// The key of the living user under this stable id.
    pub fn living_by_id(
        &self,
        directory: DirectoryId,
        id: &StableId,
    ) -> Result<Option<(UserKey, Kind)>, StoreError> {
        let Some(key) = self.key_by_id(directory, id)? else { return Ok(None) };
        let head = self.user_head(key)?.filter(|head| head.removed_at.is_none());
        Ok(head.map(|head| (key, head.kind)))
    }

    /// Seats taken.
    pub fn seats_used(&self) -> Result<u64, StoreError> {
        Lookup::seats_used(self)
    }

    /// Seats of a mail domain that has a cap.
    pub fn domain_cap(&self, domain: &str, policy: &Policy) -> Result<Option<SeatCount>, StoreError> {
        DomainLookup::domain_cap(self, domain, policy)
    }

    /// Mailboxes that need no seat where the licence allows it.
    pub fn seatless_mailboxes(&self) -> Result<u64, StoreError> {
        Ok(self.seatless.len()?)
    }

    /// Whether a mailbox is one of those that the licence allows to have no seat.
    pub fn needs_no_seat(&self, key: UserKey, policy: &Policy) -> Result<bool, StoreError> {
        Lookup::needs_no_seat(self, key, policy)
    }

    /// The user under this stable id.
    pub fn user_by_id(
        &self,
        directory: DirectoryId,
        id: &StableId,
    ) -> Result<Option<(UserKey, User)>, StoreError> {
        let Some(key) = self.key_by_id(directory, id)? else { return Ok(None) };
        Ok(Lookup::user(self, key)?.map(|user| (key, user)))
    }

    /// The name that logs show for a user; `None` for a key that is gone.
    pub fn name_of(&self, key: UserKey) -> Result<Option<Name>, StoreError> {
        Lookup::user(self, key)?.map(|user| self.shown_name(key, &user)).transpose()
    }

    /// A user; `None` for a key that is gone.
    pub fn user_of(&self, key: UserKey) -> Result<Option<User>, StoreError> {
        Lookup::user(self, key)
    }

    /// [`ReadView::name_of`] for a user who was read already.
    pub fn shown_name_of(&self, key: UserKey, user: &User) -> Result<Name, StoreError> {
        self.shown_name(key, user)
    }

    /// Who owns this name for a purpose.
    pub fn find(&self, name: &Name, purpose: Purpose) -> Result<Option<UserKey>, StoreError> {
        self.key_by_name(name, purpose)
    }

    /// Whether a name, or the user who owns it, is the internal administrator's.
    pub fn is_administrator(&self, name: &Name, key: Option<UserKey>) -> Result<bool, StoreError> {
        Lookup::is_administrator(self, name, key)
    }

    /// The first name that a user owns for logins: one of the login names, or of the addresses where there are none.
    pub fn login_name(&self, key: UserKey, user: &User) -> Result<Option<Name>, StoreError> {
        let User { mapped, .. } = user;
        let names = if mapped.logins.is_empty() { &mapped.addresses } else { &mapped.logins };
        for name in names {
            if self.key_by_name(name, Purpose::Login)? == Some(key) {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// Who owns this name.
    pub fn owners(&self, name: &Name) -> Result<Owners, StoreError> {
        self.owners_of(name)
    }

    /// The rules that decide who owns a name.
    pub fn name_rules(&self) -> &NameRules {
        &self.rules
    }

    /// Why a user does not own a name that they claim.
    pub fn clash_of(&self, name: &Name, key: UserKey) -> Result<Option<Clash>, StoreError> {
        self.clash(name, key)
    }

    /// Who claims this name, whether they own it or not.
    pub fn users_claiming(&self, name: &Name) -> Result<Vec<UserKey>, StoreError> {
        Ok(self.all_claims(name)?.into_iter().map(|(key, _)| key).collect())
    }

    /// The users of all directories who have this stable id.
    pub fn find_by_id(&self, id: &StableId) -> Result<Vec<UserKey>, StoreError> {
        let keys = self.directories.keys().map(|directory| self.key_by_id(*directory, id));
        keys.filter_map(Result::transpose).collect()
    }

    /// The users whose entry stands under this DN, as the directory wrote it but for letter case. Reads every user: run
    /// it where blocking is allowed.
    pub fn find_by_dn(&self, dn: &str) -> Result<Vec<UserKey>, StoreError> {
        let mut found = Vec::new();
        for row in self.users.iter()? {
            let row = row?;
            if codec::decode_user(row.1.value())?.mapped.dn.eq_ignore_ascii_case(dn) {
                found.push(UserKey(row.0.value()));
            }
        }
        Ok(found)
    }

    /// All that is known of a user; `None` for a key that is gone.
    pub fn details(&self, key: UserKey) -> Result<Option<UserDetails>, StoreError> {
        let Some(user) = Lookup::user(self, key)? else { return Ok(None) };
        let directory = self.directories.get(&user.directory);
        Ok(Some(UserDetails {
            key,
            name: self.shown_name(key, &user)?,
            directory: directory
                .filter(|record| record.origin() == Origin::Mapped)
                .map(|record| record.name.clone()),
            origin: directory.map_or(Origin::Mapped, DirectoryRecord::origin),
            seat: self.seat(key)?,
            last_login: Lookup::last_login(self, key)?,
            refusals: self.refusals_of(key)?,
            user,
        }))
    }

    /// Whether the directory of a user is configured; accounts need none.
    pub fn is_configured(&self, user: &User) -> bool {
        Lookup::is_configured(self, user.directory)
    }

    /// The users of a directory, tombstones among them.
    pub fn users_of(
        &self,
        directory: DirectoryId,
    ) -> Result<impl Iterator<Item = Result<(UserKey, User), StoreError>> + '_, StoreError> {
        let rows = self.ids.range(ids_of(directory))?;
        Ok(rows.map(|row| {
            let key = UserKey(row?.1.value());
            Ok((key, Lookup::user(self, key)?.ok_or(StoreError::Corrupt("ids"))?))
        }))
    }

    /// Every user's key with what a list is filtered and sorted by; the record is read later.
    pub fn user_keys(&self) -> Result<impl Iterator<Item = Result<UserKey, StoreError>> + '_, StoreError> {
        Ok(self.users.iter()?.map(|row| Ok(UserKey(row?.0.value()))))
    }

    /// Whether a user is a person, without decoding the names.
    pub fn is_person(&self, key: UserKey) -> Result<bool, StoreError> {
        Ok(self.user_head(key)?.is_some_and(|head| head.kind == Kind::Person))
    }

    /// The mail domain in which a user counts; `None` for a key that is gone.
    pub fn mail_domain_of(&self, key: UserKey) -> Result<Option<String>, StoreError> {
        Lookup::user(self, key)?.map(|user| self.domain_of(&user)).transpose()
    }

    /// The hash of a local or imported account's password, where it has one.
    pub fn password_of(&self, UserKey(key): UserKey) -> Result<Option<PasswordHash>, StoreError> {
        Ok(self.passwords.get(key)?.map(|hash| PasswordHash::new(hash.value())))
    }

    /// The seat of a user.
    pub fn seat_of(&self, key: UserKey) -> Result<Option<Seat>, StoreError> {
        self.seat(key)
    }

    /// The last login of a user.
    pub fn last_login_of(&self, key: UserKey) -> Result<Option<LastLogin>, StoreError> {
        Lookup::last_login(self, key)
    }

    /// Everybody who holds a seat.
    pub fn holders(
        &self,
    ) -> Result<impl Iterator<Item = Result<(UserKey, Seat), StoreError>> + '_, StoreError> {
        Ok(self.seats.iter()?.map(|row| {
            let row = row?;
            Ok((UserKey(row.0.value()), codec::decode_seat(row.1.value())?))
        }))
    }

    /// Every user who was ever refused.
    pub fn refused_users(
        &self,
    ) -> Result<impl Iterator<Item = Result<(UserKey, Refusals), StoreError>> + '_, StoreError> {
        Ok(self.refusals.iter()?.map(|row| {
            let row = row?;
            Ok((UserKey(row.0.value()), codec::decode_refusals(row.1.value())?))
        }))
    }

    /// The names that nobody had when they were refused, the latest of them.
    pub fn strangers(
        &self,
    ) -> Result<impl Iterator<Item = Result<(Name, Refusals), StoreError>> + '_, StoreError> {
        Ok(self.strangers.iter()?.map(|row| {
            let row = row?;
            Ok((Name::from_stored(row.0.value()), codec::decode_refusals(row.1.value())?))
        }))
    }

    /// The refusals of a name that nobody had.
    pub fn stranger(&self, name: &str) -> Result<Option<Refusals>, StoreError> {
        self.strangers.get(name)?.map(|bytes| codec::decode_refusals(bytes.value())).transpose()
    }

    /// Names that a living user claims and another has: at most `limit` of them, in the order of the names.
    pub fn clashes(&self, limit: usize) -> Result<Vec<Clash>, StoreError> {
        let mut clashes = Vec::new();
        for row in self.claims.iter()? {
            if clashes.len() >= limit {
                break;
            }
            let row = row?;
            let (name, claimant) = row.0.value();
            let (name, claimant) = (Name::from_stored(name), UserKey(claimant));
            // A tombstone's claim only means that it gave the name up.
            if self.user_head(claimant)?.is_some_and(|head| head.removed_at.is_none()) {
                clashes.extend(self.clash(&name, claimant)?);
            }
        }
        Ok(clashes)
    }

    /// The census of all users of an origin.
    pub fn census_of(&self, origin: Origin) -> Census {
        let records = self.directories.values().filter(|record| record.origin() == origin);
        records.fold(Census::default(), |sum, record| sum.plus(record.census))
    }

    /// The census of all directories together.
    pub fn census(&self) -> Census {
        self.directories.values().fold(Census::default(), |sum, record| sum.plus(record.census))
    }

    /// When the oldest tombstone was made.
    pub fn oldest_tombstone(&self) -> Result<Option<Timestamp>, StoreError> {
        let Some(row) = self.tombstones.first()? else { return Ok(None) };
        Ok(Timestamp::from_millisecond(row.0.value().0).ok())
    }
}

/// Those of the users who live, from a view or inside a transaction.
pub(super) fn living<'a, T: Lookup>(
    tables: &'a T,
    keys: impl Iterator<Item = UserKey> + 'a,
) -> impl Iterator<Item = Result<(UserKey, Kind), StoreError>> + 'a {
    keys.filter_map(move |key| match tables.user_head(key) {
        Ok(Some(head)) if head.removed_at.is_none() => Some(Ok((key, head.kind))),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// Living users of a directory that a sweep did not see, from a view or inside a transaction.
pub(super) fn unseen<'a, T: Lookup>(
    tables: &'a T,
    directory: DirectoryId,
    has_seen: impl Fn(UserKey) -> bool + 'a,
) -> Result<impl Iterator<Item = Result<(UserKey, Kind), StoreError>> + 'a, StoreError> {
    let keys = tables.ids().range(ids_of(directory))?;
    Ok(keys.filter_map(move |row| {
        let key = match row {
            Ok(row) => UserKey(row.1.value()),
            Err(error) => return Some(Err(error.into())),
        };
        if has_seen(key) {
            return None;
        }
        match tables.user_head(key) {
            Ok(Some(head)) if head.removed_at.is_none() => Some(Ok((key, head.kind))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }))
}

/// Longer than any stable id, so that the range ends behind the last one.
const PAST_EVERY_ID: [u8; StableId::MAX_BYTES + 1] = [0xff; StableId::MAX_BYTES + 1];

pub(super) fn ids_of(DirectoryId(directory): DirectoryId) -> RangeInclusive<(u32, &'static [u8])> {
    (directory, [].as_slice())..=(directory, PAST_EVERY_ID.as_slice())
}

look_up_in_fields!(ReadView);
