//! Who owns a name, kept in tables: [`crate::domain::names`] decides, here its decision is made again whenever a claim,
//! a claimant or the configuration changes.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use redb::{ReadableTable, Table, WriteTransaction};

use super::codec::{self, Decoder, Encoder};
use super::tables::Lookup;
use super::transaction::Transaction;
use super::{Clash, DirectoryRecord, Party, StoreError};
use crate::domain::name::{Domain, Name};
use crate::domain::names::{
    Administrator, Claim, Claimant, DirectoryNames, Home, NameRules, Owners, Withheld, claims_of, owners,
    withheld,
};
use crate::domain::sync::TAKEN_SHOWN;
use crate::domain::user::{DirectoryId, Origin, User, UserKey};

/// Key of the rules in [`super::tables::SETTINGS`].
const RULES: &str = "name_rules";

/// Names read between two changes while all of them are decided again: some 200 kB.
const NAMES_AT_A_TIME: usize = 4096;

/// What a change of the rules took away.
#[derive(Default)]
pub(super) struct Adopted {
    /// The first of those who lost a name, and all who claim the internal administrator's.
    pub(super) clashes: Vec<Clash>,
    /// How often a user lost a name.
    pub(super) lost: u64,
}

/// What is kept of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NameRecord {
    /// One user claims it.
    Sole {
        /// The user.
        user: UserKey,
        /// The claim.
        claim: Claim,
        /// The user, or no one.
        owners: Owners,
    },
    /// Several do; their claims have rows of their own.
    Contested(Owners),
}

impl NameRecord {
    pub(super) fn owners(&self) -> Owners {
        match self {
            NameRecord::Sole { owners, .. } | NameRecord::Contested(owners) => *owners,
        }
    }
}

impl Transaction<'_> {
    /// Brings the claims of a user up to date and decides anew about every name concerned. Clashes are those of new
    /// claims, and of all where the user `is_back`, so that each is logged once.
    pub(super) fn update_claims(
        &mut self,
        key: UserKey,
        old: Option<&User>,
        new: &User,
        is_back: bool,
        at: Timestamp,
    ) -> Result<Vec<Clash>, StoreError> {
        let origin = self.origin(new);
        let wanted = claims_of(&new.mapped, origin, at);
        for name in old.into_iter().flat_map(|old| old.mapped.names()) {
            if !wanted.contains_key(name) {
                self.set_claim(key, name, Claim::default())?;
            }
        }
        let is_other = old.is_none_or(|old| {
            is_back
                || old.mapped.logins != new.mapped.logins
                || old.mapped.addresses.first() != new.mapped.addresses.first()
        });
        let mut news = Vec::new();
        for name in new.mapped.names() {
            let Some(claim) = wanted.get(name) else { continue };
            let is_new = self.set_claim(key, name, *claim)?;
            if !is_new && is_other {
                self.decide_owners(name)?;
            }
            if is_new || is_back {
                news.push(name);
            }
        }
        // With every claim in place, since a clash shows the user by a name that they own.
        news.into_iter().filter_map(|name| self.clash(name, key).transpose()).collect()
    }

    /// Decides anew about every name of a user who became a tombstone. What they only waited for they claim from now on.
    pub(super) fn entomb_claims(
        &mut self,
        key: UserKey,
        user: &User,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for name in user.mapped.names() {
            let before = self.claim_of(key, name)?;
            let claim = before.entombed(key, self.owners_of(name)?, now);
            if claim != before && matches!(self.name_record(name)?, Some(NameRecord::Contested(_))) {
                self.put_claim(key, name, claim)?;
            }
            self.decide_owners(name)?;
        }
        Ok(())
    }

    /// Decides anew about every name of a user who is in another directory now, or has another heir.
    pub(super) fn decide_names(&mut self, user: &User) -> Result<(), StoreError> {
        user.mapped.names().try_for_each(|name| self.decide_owners(name))
    }

    /// Withdraws all claims of a user.
    pub(super) fn drop_claims(&mut self, key: UserKey, user: &User) -> Result<(), StoreError> {
        user.mapped.names().try_for_each(|name| self.set_claim(key, name, Claim::default()).map(drop))
    }

    /// Puts the rules of the configuration in force, and decides anew about the names that they may concern. Returns
    /// what they take away.
    pub(super) fn adopt_rules(&mut self, wanted: &NameRules, beat: &dyn Fn()) -> Result<Adopted, StoreError> {
        let mut adopted = Adopted::default();
        // Each transaction asks.
        if self.rules.is_configured_as(wanted) {
            return Ok(adopted);
        }
        let before = Arc::clone(&self.rules);
        self.keep_rules(Arc::new(wanted.retiring(&before)))?;
        self.recount_domains()?;
        let mut last: Option<String> = None;
        loop {
            beat();
            let names = self.names_after(last.as_deref())?;
            let Some(end) = names.last() else { break };
            last = Some(end.as_str().to_owned());
            for name in names.iter().filter(|name| self.rules.may_change(&before, name)).collect::<Vec<_>>() {
                let owners = self.owners_of(name)?;
                self.decide_owners(name)?;
                self.note_losers(name, owners, &mut adopted)?;
            }
        }
        if self.rules.administrator() != before.administrator()
            && let Some(name) = self.rules.administrator().map(|it| it.name.clone())
        {
            for key in self.all_claims(&name)?.into_iter().map(|(key, _)| key) {
                adopted.clashes.extend(self.clash(&name, key)?);
            }
        }
        Ok(adopted)
    }

    /// Keeps rules in place of those before; nothing is decided by them yet.
    pub(super) fn keep_rules(&mut self, rules: Arc<NameRules>) -> Result<(), StoreError> {
        self.rules = rules;
        let bytes = encode_rules(&self.rules);
        self.settings.insert(RULES, bytes.as_slice())?;
        self.is_dirty = true;
        Ok(())
    }

    /// Who owned a name and does not any more.
    fn note_losers(&self, name: &Name, before: Owners, adopted: &mut Adopted) -> Result<(), StoreError> {
        let after = self.owners_of(name)?;
        let lost = [(before.login, after.login), (before.mail, after.mail)];
        let mut losers: Vec<UserKey> = lost
            .into_iter()
            .filter(|(before, after)| before != after)
            .filter_map(|(before, _)| before)
            .collect();
        losers.dedup();
        adopted.lost += losers.len() as u64;
        let is_administrators = self.rules.is_administrator(name);
        for key in losers.into_iter().filter(|_| !is_administrators) {
            if adopted.clashes.len() < TAKEN_SHOWN {
                adopted.clashes.extend(self.clash(name, key)?);
            }
        }
        Ok(())
    }

    fn names_after(&self, last: Option<&str>) -> Result<Vec<Name>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = last.map_or(Unbounded, Excluded);
        let rows = self.names.range::<&str>((from, Unbounded))?.take(NAMES_AT_A_TIME);
        rows.map(|row| Ok(Name::from_stored(row?.0.value()))).collect()
    }

    /// Replaces what a user claims of a name; what was claimed before keeps its time, and an empty claim withdraws it.
    /// Whether that changed anything.
    fn set_claim(&mut self, key: UserKey, name: &Name, claim: Claim) -> Result<bool, StoreError> {
        let found = self.name_record(name)?;
        let before = self.claim_in(found, key, name)?;
        let claim = claim.continuing(before);
        if claim == before {
            return Ok(false);
        }
        let record = match found {
            None => self.decide(name, &[(key, claim)], Owners::default())?,
            Some(NameRecord::Sole { user, owners, .. }) if user == key => {
                self.decide(name, &[(key, claim)], owners)?
            }
            Some(NameRecord::Sole { user, claim: other, owners }) => {
                self.put_claim(user, name, other)?;
                // Claims of one moment are equal, whichever was written first.
                let present = if other == claim { Owners::default() } else { owners };
                self.decide_with(key, name, claim, present)?
            }
            Some(NameRecord::Contested(owners)) => {
                if before.is_empty() && self.loses(key, name, claim, owners)? {
                    self.put_claim(key, name, claim)?;
                    return Ok(true);
                }
                self.decide_with(key, name, claim, owners)?
            }
        };
        self.put_record(name, record)?;
        Ok(true)
    }

    /// Whether a new claim changes nothing, since it loses against the owners alone: a name that is on every entry must
    /// not be decided among all of them each time.
    fn loses(&self, key: UserKey, name: &Name, claim: Claim, present: Owners) -> Result<bool, StoreError> {
        let mut claims = vec![(key, claim)];
        for owner in [present.login, present.mail].into_iter().flatten() {
            if claims.iter().all(|(known, _)| *known != owner) {
                claims.push((owner, self.claim_of(owner, name)?));
            }
        }
        Ok(owners(name, &self.claimants(name, &claims)?, present, &self.rules) == present)
    }

    /// Decides about a name that others claim too, with their claims in rows.
    fn decide_with(
        &mut self,
        key: UserKey,
        name: &Name,
        claim: Claim,
        present: Owners,
    ) -> Result<Option<NameRecord>, StoreError> {
        self.put_claim(key, name, claim)?;
        let claims = self.claims_on(name)?;
        if let [(last, _)] = claims.as_slice() {
            self.put_claim(*last, name, Claim::default())?;
        }
        self.decide(name, &claims, present)
    }

    /// Decides anew about a name whose claims are as they were.
    fn decide_owners(&mut self, name: &Name) -> Result<(), StoreError> {
        let found = self.name_record(name)?;
        let present = found.map(|record| record.owners()).unwrap_or_default();
        let claims = self.all_claims(name)?;
        let record = self.decide(name, &claims, present)?;
        if record == found { Ok(()) } else { self.put_record(name, record) }
    }

    /// What is to be kept of a name that these users claim.
    fn decide(
        &self,
        name: &Name,
        claims: &[(UserKey, Claim)],
        present: Owners,
    ) -> Result<Option<NameRecord>, StoreError> {
        let claimants = self.claimants(name, claims)?;
        let owners = owners(name, &claimants, present, &self.rules);
        Ok(match claimants.as_slice() {
            [] => None,
            [only] => Some(NameRecord::Sole { user: only.user, claim: only.claim, owners }),
            _ => Some(NameRecord::Contested(owners)),
        })
    }

    fn put_record(&mut self, name: &Name, record: Option<NameRecord>) -> Result<(), StoreError> {
        match record {
            Some(record) => self.names.insert(name.as_str(), codec::encode_name(&record).as_slice())?,
            None => self.names.remove(name.as_str())?,
        };
        self.is_dirty = true;
        Ok(())
    }

    fn put_claim(&mut self, key: UserKey, name: &Name, claim: Claim) -> Result<(), StoreError> {
        let row = (name.as_str(), key.0);
        if claim.is_empty() {
            self.claims.remove(row)?;
        } else {
            self.claims.insert(row, codec::encode_claim(claim).as_slice())?;
        }
        self.is_dirty = true;
        Ok(())
    }
}

/// What a read view and a transaction know of names.
pub(super) trait NameLookup: Lookup {
    /// The claims that have rows of their own: none where there is only one.
    fn claims_on(&self, name: &Name) -> Result<Vec<(UserKey, Claim)>, StoreError> {
        let rows = self.claims().range((name.as_str(), 0)..=(name.as_str(), u64::MAX))?;
        rows.map(|row| {
            let row = row?;
            Ok((UserKey(row.0.value().1), codec::decode_claim(row.1.value())?))
        })
        .collect()
    }

    /// Every claim on a name.
    fn all_claims(&self, name: &Name) -> Result<Vec<(UserKey, Claim)>, StoreError> {
        match self.name_record(name)? {
            None => Ok(Vec::new()),
            Some(NameRecord::Sole { user, claim, .. }) => Ok(vec![(user, claim)]),
            Some(NameRecord::Contested(_)) => self.claims_on(name),
        }
    }

    /// What a user claims of a name.
    fn claim_of(&self, key: UserKey, name: &Name) -> Result<Claim, StoreError> {
        self.claim_in(self.name_record(name)?, key, name)
    }

    /// The same where the name was looked up already.
    fn claim_in(&self, record: Option<NameRecord>, key: UserKey, name: &Name) -> Result<Claim, StoreError> {
        match record {
            Some(NameRecord::Sole { user, claim, .. }) if user == key => Ok(claim),
            Some(NameRecord::Contested(_)) => {
                let row = self.claims().get((name.as_str(), key.0))?;
                Ok(row.map(|bytes| codec::decode_claim(bytes.value())).transpose()?.unwrap_or_default())
            }
            _ => Ok(Claim::default()),
        }
    }

    /// The claimants with all that the decision needs to know.
    fn claimants(&self, name: &Name, claims: &[(UserKey, Claim)]) -> Result<Vec<Claimant>, StoreError> {
        let claims = claims.iter().filter(|(_, claim)| !claim.is_empty());
        let mut claimants: Vec<Claimant> =
            claims.map(|(key, claim)| self.claimant(name, *key, *claim)).collect::<Result<_, _>>()?;
        // An entry may have a thousand names, which are read only where they matter.
        if claimants.iter().any(|claimant| claimant.removed_at.is_some()) {
            for claimant in &mut claimants {
                let user = self.user(claimant.user)?.ok_or(StoreError::Corrupt("users"))?;
                claimant.logins = user.mapped.logins;
            }
        }
        if claimants.len() > 1 {
            for claimant in &mut claimants {
                claimant.heir = self.carried_to(claimant.user)?;
            }
        }
        Ok(claimants)
    }

    /// One of them, without the login names.
    fn claimant(&self, name: &Name, key: UserKey, claim: Claim) -> Result<Claimant, StoreError> {
        let bytes = self.users().get(key.0)?.ok_or(StoreError::Corrupt("users"))?;
        let (head, id, main) = codec::decode_user_identity(bytes.value())?;
        let record = self.directories().get(&head.directory).ok_or(StoreError::Corrupt("directories"))?;
        Ok(Claimant {
            user: key,
            home: home(record),
            removed_at: head.removed_at,
            is_main: main.as_ref() == Some(name),
            logins: Vec::new(),
            heir: None,
            id,
            claim,
        })
    }

    /// The clash of a user about a name that they claim; `None` where they own it.
    fn clash(&self, name: &Name, key: UserKey) -> Result<Option<Clash>, StoreError> {
        let record = self.name_record(name)?;
        let owners = record.map(|record| record.owners()).unwrap_or_default();
        let claim = self.claim_in(record, key, name)?;
        // Nearly always, and then nobody has to be read.
        if claim.is_met(key, owners) {
            return Ok(None);
        }
        let claimant = self.claimant(name, key, claim)?;
        let Some(reason) = withheld(name, &claimant, owners, self.rules()) else { return Ok(None) };
        let owner = match reason {
            Withheld::Owned(owner) => Some(self.party(owner)?),
            _ => owners.mail.or(owners.login).map(|owner| self.party(owner)).transpose()?,
        };
        Ok(Some(Clash { name: name.clone(), owner, claimant: self.party(key)?, reason }))
    }

    fn party(&self, key: UserKey) -> Result<Party, StoreError> {
        let user = self.user(key)?.ok_or(StoreError::Corrupt("users"))?;
        let record = self.directories().get(&user.directory).ok_or(StoreError::Corrupt("directories"))?;
        Ok(Party { name: self.shown_name(key, &user)?, directory: record.name.clone(), dn: user.mapped.dn })
    }

    fn origin(&self, user: &User) -> Origin {
        self.directories().get(&user.directory).map_or(Origin::Mapped, DirectoryRecord::origin)
    }
}

impl<T: Lookup> NameLookup for T {}

pub(super) fn home(record: &DirectoryRecord) -> Home {
    match record.accounts_domain() {
        Some(domain) => Home::Account { domain: domain.to_owned(), local: record.origin() == Origin::Local },
        None => Home::Directory(record.name.clone()),
    }
}

/// The rules that the tables follow from; those of no configuration in a new store.
pub(super) fn stored_rules(
    settings: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<NameRules, StoreError> {
    Ok(settings.get(RULES)?.map(|bytes| decode_rules(bytes.value())).transpose()?.unwrap_or_default())
}

/// Fills the tables of names from those of format 3, where a name had one owner for logins and mail alike.
pub(super) fn from_format_3(txn: &WriteTransaction) -> Result<(), StoreError> {
    use redb::TableDefinition;
    const OWNERS_3: TableDefinition<'static, &str, u64> = TableDefinition::new("names");
    const CLAIMS_3: TableDefinition<'static, (&str, u64), i64> = TableDefinition::new("claims");
    let keys: Vec<u64> = {
        let users = txn.open_table(super::tables::USERS)?;
        users.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, StoreError>>()?
    };
    {
        let (owners, waiting) = (txn.open_table(OWNERS_3)?, txn.open_table(CLAIMS_3)?);
        let directories = super::directories::stored(&txn.open_table(super::tables::DIRECTORIES)?)?;
        let mut transaction = Transaction::open(txn, directories, Arc::default())?;
        transaction.list_ledger_by_name()?;
        transaction.guess_rules(&keys)?;
        for key in keys {
            transaction.claim_as_before(UserKey(key), &owners, &waiting)?;
        }
        transaction.recount_domains()?;
        transaction.finish()?;
    }
    txn.delete_table(OWNERS_3)?;
    txn.delete_table(CLAIMS_3)?;
    Ok(())
}

impl Transaction<'_> {
    /// Format 3 did not keep which domain a directory served: most login names of its users are in it. It matters for
    /// directories that are not configured any more.
    fn guess_rules(&mut self, keys: &[u64]) -> Result<(), StoreError> {
        let mut logins: HashMap<(DirectoryId, String), u64> = HashMap::new();
        for key in keys {
            let Some(user) = self.user(UserKey(*key))? else { continue };
            if let Some(login) = user.mapped.logins.first() {
                *logins.entry((user.directory, login.domain().to_owned())).or_default() += 1;
            }
        }
        let served =
            self.directories().values().filter(|record| record.origin() == Origin::Mapped).map(|record| {
                let of_it = logins.iter().filter(|((directory, _), _)| *directory == record.id);
                let most = of_it.max_by_key(|((_, domain), count)| (**count, domain));
                DirectoryNames {
                    name: record.name.clone(),
                    domains: most
                        .and_then(|((_, domain), _)| Domain::parse(domain).ok())
                        .into_iter()
                        .collect(),
                    foreign_names: true,
                    login_is_address: true,
                    moved_from: Vec::new(),
                }
            });
        let before = NameRules::new(served.collect(), None);
        self.keep_rules(Arc::new(NameRules::default().retiring(&before)))
    }

    /// Whoever waited claims a name since they began to, all others since they were mapped. An owner stays the owner.
    fn claim_as_before(
        &mut self,
        key: UserKey,
        owners: &Table<'_, &'static str, u64>,
        waiting: &Table<'_, (&'static str, u64), i64>,
    ) -> Result<(), StoreError> {
        let Some(user) = self.user(key)? else { return Ok(()) };
        for (name, claim) in claims_of(&user.mapped, self.origin(&user), user.since) {
            let since = waiting.get((name.as_str(), key.0))?.map(|row| row.value());
            let since = since.and_then(|at| Timestamp::from_millisecond(at).ok());
            let time = |at: Option<Timestamp>| at.map(|at| since.unwrap_or(at));
            let claim = Claim { login: time(claim.login), mail: time(claim.mail) };
            self.set_claim(key, &name, claim)?;
            let owner = owners.get(name.as_str())?.map(|row| UserKey(row.value()));
            let claims = self.all_claims(&name)?;
            let record = self.decide(&name, &claims, Owners { login: owner, mail: owner })?;
            self.put_record(&name, record)?;
        }
        Ok(())
    }
}

fn encode_rules(rules: &NameRules) -> Vec<u8> {
    fn directories(encoder: &mut Encoder, directories: &[DirectoryNames]) {
        encoder.number(directories.len() as u64);
        for DirectoryNames { name, domains, foreign_names, login_is_address, moved_from } in directories {
            encoder.text(name);
            encoder.number(u64::from(*foreign_names) | u64::from(*login_is_address) << 1);
            encoder.number(domains.len() as u64);
            domains.iter().for_each(|domain| encoder.text(domain.as_str()));
            encoder.number(moved_from.len() as u64);
            moved_from.iter().for_each(|name| encoder.text(name));
        }
    }
    let mut encoder = Encoder::new();
    directories(&mut encoder, rules.directories());
    directories(&mut encoder, rules.retired());
    encoder.option(rules.administrator(), |encoder, administrator| {
        encoder.text(administrator.name.as_str());
        encoder.option(administrator.directory.as_deref(), Encoder::text);
    });
    encoder.into_bytes()
}

fn decode_rules(bytes: &[u8]) -> Result<NameRules, StoreError> {
    fn directories(decoder: &mut Decoder<'_>) -> Result<Vec<DirectoryNames>, StoreError> {
        let count = decoder.number()?;
        (0..count).map(|_| directory(decoder)).collect()
    }
    fn directory(decoder: &mut Decoder<'_>) -> Result<DirectoryNames, StoreError> {
        let name = decoder.text()?.to_owned();
        let flags = decoder.number()?;
        let count = decoder.number()?;
        let domain = |text: &str| Domain::parse(text).map_err(|_| StoreError::Corrupt("settings"));
        let domains = (0..count).map(|_| domain(decoder.text()?)).collect::<Result<_, _>>()?;
        let count = decoder.number()?;
        let moved_from = (0..count).map(|_| decoder.text().map(str::to_owned)).collect::<Result<_, _>>()?;
        let (foreign_names, login_is_address) = (flags & 1 != 0, flags & 2 != 0);
        Ok(DirectoryNames { name, domains, foreign_names, login_is_address, moved_from })
    }
    let mut decoder = Decoder::new(bytes, "settings")?;
    let (configured, retired) = (directories(&mut decoder)?, directories(&mut decoder)?);
    let administrator = decoder.option(|decoder| {
        Ok(Administrator {
            name: Name::from_stored(decoder.text()?),
            directory: decoder.option(|decoder| decoder.text().map(str::to_owned))?,
        })
    })?;
    let before = NameRules::new(retired, None);
    Ok(NameRules::new(configured, administrator).retiring(&before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive() {
        let directory = |name: &str, flag| DirectoryNames {
            name: name.to_owned(),
            domains: vec![Domain::parse("a.org").unwrap(), Domain::parse("b.org").unwrap()],
            foreign_names: flag,
            login_is_address: !flag,
            moved_from: if flag { vec!["old".to_owned()] } else { Vec::new() },
        };
        let name = Name::parse("root@a.org", None).unwrap();
        let before = NameRules::new(vec![directory("old", true)], None);
        for administrator in [
            None,
            Some(Administrator { name: name.clone(), directory: None }),
            Some(Administrator { name, directory: Some("a".to_owned()) }),
        ] {
            let rules = NameRules::new(vec![directory("a", true), directory("b", false)], administrator);
            let rules = rules.retiring(&before);
            assert_eq!(decode_rules(&encode_rules(&rules)).unwrap(), rules);
        }
    }
}
