//! Accounts that no directory maps: created here, or imported from a file.

use std::fmt;

use super::admission::Decision;
use super::mapping::printable;
use super::name::{Name, StableId};
use super::password::PasswordHash;
use super::seats::SeatCount;
use super::user::{Kind, Mapped, Origin};

/// More aliases than any person has; each is a row of the store.
pub const MAX_ALIASES: usize = 100;

/// An account as an administrator describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewAccount {
    /// The mail address, which is also the login name.
    pub address: Name,
    /// Further addresses; at most [`MAX_ALIASES`].
    pub aliases: Vec<Name>,
    /// For people to read.
    pub display_name: Option<Box<str>>,
}

impl NewAccount {
    /// Leaves out repeated aliases and an empty display name.
    pub fn new(address: Name, aliases: Vec<Name>, display_name: Option<&str>) -> NewAccount {
        let mut account = NewAccount { address, aliases: Vec::new(), display_name: None };
        for alias in aliases {
            if alias != account.address && !account.aliases.contains(&alias) {
                account.aliases.push(alias);
            }
        }
        account.display_name =
            display_name.map(|name| printable(name.trim())).filter(|name| !name.is_empty());
        account
    }

    /// Every name, the address first.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.address).chain(&self.aliases)
    }

    /// The account as the mirror keeps users.
    pub fn into_mapped(self, id: StableId, enabled: bool) -> Mapped {
        let NewAccount { address, aliases, display_name } = self;
        let addresses = std::iter::once(address).chain(aliases).collect();
        Mapped {
            id,
            kind: Kind::Person,
            enabled,
            seatless: false,
            logins: Vec::new(),
            addresses,
            display_name,
            dn: "".into(),
        }
    }
}

/// What an administrator does to an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccountChange {
    /// Create a local one; takes a seat.
    Add(NewAccount),
    /// Remove a local or imported one; its seat is free at once.
    Remove(Name),
    /// Enable one; takes a seat.
    Enable(Name),
    /// Disable one; its seat is free at once.
    Disable(Name),
    /// Give one another password.
    SetPassword(Name, PasswordHash),
}

/// Somebody has the name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// The name.
    pub name: Name,
    /// Whose it is: the name shown of them.
    pub owner: Name,
    /// Where they come from.
    pub origin: Origin,
    /// Their directory, where they are mapped.
    pub directory: Option<String>,
    /// They are gone from it, and keep their names for the grace period.
    pub is_removed: bool,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Taken { name, owner, origin, directory, is_removed } = self;
        let who = match (origin, directory) {
            (Origin::Mapped, Some(directory)) => format!("a user of the directory {directory}"),
            (Origin::Mapped, None) => "a mapped user".to_owned(),
            (Origin::Local, _) => "a local account".to_owned(),
            (Origin::Imported, _) => "an imported account".to_owned(),
        };
        if name == owner {
            write!(f, "{name} is {who} already")?;
        } else {
            write!(f, "{name} belongs to {owner}, {who}")?;
        }
        if *is_removed {
            write!(
                f,
                "; the user was removed and keeps the name for the grace period, or until `seatkeeper users forget {owner}`"
            )?;
        }
        Ok(())
    }
}

/// Why nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccountRefusal {
    /// Somebody has one of the names.
    #[error("{0}")]
    Taken(Taken),
    /// It may not take a seat.
    #[error("{name} gets no seat ({}): {}", decision.code(), decision.advice(*seats))]
    NoSeat {
        /// The account.
        name: Name,
        /// Why not.
        decision: Decision,
        /// Those of the licence.
        seats: Option<SeatCount>,
    },
    /// An alias in a domain that directories serve, for an account made in another one.
    #[error("{name} cannot be an alias: the directory {directory} serves the domain {}", name.domain())]
    ServedElsewhere {
        /// The alias.
        name: Name,
        /// The first directory that serves the domain.
        directory: String,
    },
    /// The internal administrator's address as an alias.
    #[error("{0} cannot be an alias: it is the internal administrator's address")]
    Administrator(Name),
    /// Two users have the name.
    #[error("{0} is the login name of one user and the address of another: use the account's main address")]
    Ambiguous(Name),
    /// Nobody has the name.
    #[error("there is no user {0}")]
    Unknown(Name),
    /// A directory says who this is.
    #[error("{name} comes from the directory {directory}: change it there")]
    Mapped {
        /// The user.
        name: Name,
        /// The directory.
        directory: String,
    },
}

/// The rows of a file, in its order. An `Err` says why there are no more, and is the last.
pub type Rows = Box<dyn Iterator<Item = Result<ImportRow, String>> + Send>;

/// One row of a file that is imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportRow {
    /// Where it begins, counted from 1.
    pub line: u64,
    /// What it says.
    pub content: RowContent,
}

/// What a row of a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowContent {
    /// Somebody to import.
    Person(ImportedPerson),
    /// Nobody who could log in: the reason's code.
    Skipped(&'static str),
    /// Something that cannot be understood.
    Wrong(Mistake),
}

/// Why a row cannot be imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Whom it is about, as far as one can tell.
    pub user: Option<String>,
    /// The reason's code.
    pub reason: &'static str,
    /// What is wrong: a sentence.
    pub message: String,
}

/// Somebody whom a file brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportedPerson {
    /// Identifies the user inside the domain, unless there is an id.
    pub address: Name,
    /// `None` where the file says nothing of aliases: they stay as they are.
    pub aliases: Option<Vec<Name>>,
    /// The same for the name for people; an empty one takes it away.
    pub display_name: Option<String>,
    /// The id that a directory gave; then it identifies the user, and the address may change.
    pub id: Option<StableId>,
    /// False keeps the account out, and without a seat.
    pub enabled: bool,
}

impl ImportedPerson {
    /// The account that results, over the one that is there. An import never enables: who was disabled stays so.
    pub fn into_mapped(self, old: Option<&Mapped>, own_id: StableId) -> Mapped {
        let ImportedPerson { address, aliases, display_name, id, enabled } = self;
        let aliases = aliases.unwrap_or_else(|| {
            old.map(|old| old.addresses.iter().skip(1).cloned().collect()).unwrap_or_default()
        });
        let kept = old.and_then(|old| old.display_name.as_deref());
        let account = NewAccount::new(address, aliases, display_name.as_deref().or(kept));
        let id = id.or_else(|| old.map(|old| old.id.clone())).unwrap_or(own_id);
        account.into_mapped(id, enabled && old.is_none_or(|old| old.enabled))
    }
}
