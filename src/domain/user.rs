//! A user as the mirror keeps it.

use std::fmt;

use jiff::Timestamp;

use super::name::{Name, StableId};

/// The number under which the store keeps a user. Never used twice, so that a user who is deleted and
/// created again, even under the same address, inherits nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UserKey(pub u64);

/// The number under which the store keeps a directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DirectoryId(pub u32);

/// Where a user comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// From a directory, which alone may change or remove the user.
    Mapped,
    /// Created here.
    Local,
    /// From a file.
    Imported,
}

impl Origin {
    /// The stable word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Mapped => "mapped",
            Origin::Local => "local",
            Origin::Imported => "imported",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an entry stands for. Only a person can take a seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Somebody who may log in.
    Person,
    /// A security or POSIX group.
    Group,
    /// A mailing list: a group with an address, or a distribution group.
    List,
    /// A room, a piece of equipment, a shared mailbox.
    Resource,
    /// An address of somebody outside.
    Contact,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Person => "person",
            Kind::Group => "group",
            Kind::List => "list",
            Kind::Resource => "resource",
            Kind::Contact => "contact",
        })
    }
}

/// What the directory says about one entry, after mapping.
///
/// Groups, lists, resources and contacts are kept as well, so that a login under their address is
/// answered with `not_a_person` instead of `unknown_user`; they are never counted as users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Identifies the entry inside its directory.
    pub id: StableId,
    /// Person or not.
    pub kind: Kind,
    /// By the preset's rule; always true for what is not a person.
    pub enabled: bool,
    /// A person whose mailbox needs no seat, as far as the license allows: by `seatless_filter`.
    pub seatless: bool,
    /// The login names, qualified with the directory's domain; directories allow several.
    pub logins: Vec<Name>,
    /// All mail addresses, the primary one first, without repeats.
    pub addresses: Vec<Name>,
    /// For people to read.
    pub display_name: Option<Box<str>>,
    /// Where the entry stands; for people to read, never an identity.
    pub dn: Box<str>,
}

impl Mapped {
    /// The name that logs and answers use: the first address, else the login name.
    ///
    /// Mapping skips an entry that has neither, so the empty text never shows.
    pub fn primary(&self) -> &str {
        self.addresses.first().or(self.logins.first()).map_or("", Name::as_str)
    }

    /// Every name that the user may be asked for under, without repeats.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.logins.iter().filter(|login| !self.addresses.contains(login)).chain(&self.addresses)
    }

    /// A person whose account is enabled: one who can hold a seat.
    pub fn is_active(&self) -> bool {
        self.kind == Kind::Person && self.enabled
    }
}

/// A user in the mirror: living, or a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// Where the user comes from.
    pub directory: DirectoryId,
    /// What the directory last said.
    pub mapped: Mapped,
    /// When this user was first mapped.
    pub since: Timestamp,
    /// When the user went missing from the directory: set for a tombstone.
    pub removed_at: Option<Timestamp>,
    /// When the person was disabled, where that is known: set only for one who is disabled.
    pub disabled_at: Option<Timestamp>,
}

impl User {
    /// Still in the directory, as far as we know.
    pub fn is_living(&self) -> bool {
        self.removed_at.is_none()
    }

    /// A mailbox that needs no seat where the license allows it.
    pub fn is_seatless(&self) -> bool {
        self.is_active() && self.mapped.seatless
    }

    /// One who can hold a seat, and needs one.
    pub fn needs_seat(&self) -> bool {
        self.is_active() && !self.mapped.seatless
    }

    /// One whom a removal or a disable would hurt: living, a person, enabled.
    pub fn is_active(&self) -> bool {
        self.is_living() && self.mapped.is_active()
    }
}

/// How many of each a directory has; kept with every change, recounted by `verify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Living people, the disabled ones among them.
    pub people: u64,
    /// Living people whose account is disabled.
    pub disabled: u64,
    /// People gone from the directory, in their grace period.
    pub tombstoned: u64,
    /// Living groups, lists, resources and contacts.
    pub not_people: u64,
    /// Seats held by the directory's users, tombstones among them.
    pub seats: u64,
}

impl Census {
    /// All users, whoever and wherever they are.
    pub fn users(self) -> u64 {
        self.people + self.tombstoned + self.not_people
    }

    /// The sum of two directories.
    pub fn plus(self, other: Census) -> Census {
        Census {
            people: self.people + other.people,
            disabled: self.disabled + other.disabled,
            tombstoned: self.tombstoned + other.tombstoned,
            not_people: self.not_people + other.not_people,
            seats: self.seats + other.seats,
        }
    }

    /// Counts one seat in (`add`) or out.
    pub fn count_seat(&mut self, add: bool) {
        self.seats = if add { self.seats + 1 } else { self.seats.saturating_sub(1) };
    }

    /// Counts one user in (`add`) or out.
    pub fn count(&mut self, user: &User, add: bool) {
        let mut bump = |counter: fn(&mut Census) -> &mut u64| {
            let value = counter(self);
            *value = if add { *value + 1 } else { value.saturating_sub(1) };
        };
        match (user.mapped.kind, user.is_living()) {
            (Kind::Person, true) => {
                bump(|c| &mut c.people);
                if !user.mapped.enabled {
                    bump(|c| &mut c.disabled);
                }
            }
            (Kind::Person, false) => bump(|c| &mut c.tombstoned),
            (_, true) => bump(|c| &mut c.not_people),
            (_, false) => {}
        }
    }
}
