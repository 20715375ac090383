//! Names that several entries have, decided as the store will decide.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::domain::name::{Name, StableId};
use crate::domain::names::{Claimant, Home, NameRules, Owners, Withheld, claims_of, owners, withheld};
use crate::domain::user::{Mapped, Origin, UserKey};

/// Names that are compared: some 200 MB.
const MAX_NAMES: usize = 1_000_000;

/// Clashes listed; the rest is counted.
const MAX_LISTED: usize = 100;

/// A name that an entry would be mapped without.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct CheckedClash {
    /// The name.
    pub name: String,
    /// The entry that would have it, where one would.
    pub owner: Option<CheckedEntry>,
    /// The entry that would be mapped without it.
    pub claimant: CheckedEntry,
    /// `owned`, `administrator` or `served_elsewhere`.
    pub reason: &'static str,
}

/// An entry.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct CheckedEntry {
    /// The directory.
    pub directory: String,
    /// Its DN.
    pub dn: String,
}

/// What was found about names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Clashes {
    /// The first of them.
    pub(super) listed: Vec<CheckedClash>,
    /// How many more there are.
    pub(super) more: u64,
    /// Addresses that would be left out by `foreign_names = false`.
    pub(super) foreign: u64,
}

/// Every name of every entry.
#[derive(Default)]
pub(super) struct Names {
    claims: BTreeMap<Name, Vec<(usize, Claimant)>>,
    entries: Vec<CheckedEntry>,
    is_full: bool,
}

impl Names {
    /// Takes in an entry that would be mapped.
    pub(super) fn push(&mut self, directory: &str, mapped: &Mapped) {
        if self.claims.len() >= MAX_NAMES {
            self.is_full = true;
            return;
        }
        let at = self.entries.len();
        self.entries.push(CheckedEntry { directory: directory.to_owned(), dn: mapped.dn.to_string() });
        let id: &StableId = &mapped.id;
        for (name, claim) in claims_of(mapped, Origin::Mapped, Timestamp::UNIX_EPOCH) {
            let claimant = Claimant {
                user: UserKey(at as u64),
                id: id.clone(),
                home: Home::Directory(directory.to_owned()),
                removed_at: None,
                logins: Vec::new(),
                heir: None,
                is_main: mapped.addresses.first() == Some(&name),
                claim,
            };
            self.claims.entry(name).or_default().push((at, claimant));
        }
    }

    /// A sentence where there were too many names to compare.
    pub(super) fn warning(&self) -> Option<String> {
        self.is_full.then(|| format!("only the first {MAX_NAMES} names were compared with each other"))
    }

    /// The names that entries would be mapped without, as in a new store: of equal claims the earlier directory in the
    /// file wins.
    pub(super) fn clashes(&self, rules: &NameRules) -> Clashes {
        let mut clashes = Clashes::default();
        for (name, claims) in &self.claims {
            let claimants: Vec<Claimant> = claims.iter().map(|(_, claimant)| claimant.clone()).collect();
            let decided = owners(name, &claimants, Owners::default(), rules);
            let mut told = BTreeSet::new();
            for (at, claimant) in claims.iter().filter(|(at, _)| told.insert(*at)) {
                match withheld(name, claimant, decided, rules) {
                    None => {}
                    Some(Withheld::Foreign) => clashes.foreign += 1,
                    Some(reason) => self.list(name, *at, reason, &mut clashes),
                }
            }
        }
        clashes
    }

    fn list(&self, name: &Name, claimant: usize, reason: Withheld, clashes: &mut Clashes) {
        let Some(claimant) = self.entries.get(claimant) else { return };
        if clashes.listed.len() >= MAX_LISTED {
            clashes.more += 1;
            return;
        }
        let (reason, owner) = match reason {
            Withheld::Owned(UserKey(at)) => ("owned", self.entries.get(at as usize)),
            Withheld::Administrator => ("administrator", None),
            Withheld::ServedElsewhere | Withheld::Foreign => ("served_elsewhere", None),
        };
        clashes.listed.push(CheckedClash {
            name: name.to_string(),
            owner: owner.cloned(),
            claimant: claimant.clone(),
            reason,
        });
    }
}

impl CheckedClash {
    /// A line for people.
    pub(super) fn line(&self) -> String {
        let entry = |entry: &CheckedEntry| format!("{} ({})", entry.dn, entry.directory);
        let claimant = entry(&self.claimant);
        let why = match (&self.owner, self.reason) {
            (Some(owner), _) => format!("{} has it", entry(owner)),
            (None, "administrator") => "it is the internal administrator's, see [admin] directory".to_owned(),
            (None, _) => "other directories serve its domain".to_owned(),
        };
        format!("{}: {claimant} would be mapped without it: {why}", self.name)
    }
}
