//! Who owns a name: one function of all who claim it.
//!
//! A name is claimed as a login name, as a mail address, or as both, and logins and mail are looked up apart: for a
//! login a login name outranks a mail address, for mail it is the other way round. A name in a domain that directories
//! serve belongs to their users and to the accounts made in that domain, whoever claimed it first.

use std::collections::HashMap;

use jiff::Timestamp;

use super::name::{Domain, Name, StableId};
use super::user::{Kind, Mapped, Origin, UserKey};

/// What a name is looked up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Somebody logs in.
    Login,
    /// Mail arrives.
    Mail,
}

/// The owners of one name, which may be two users.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owners {
    /// Who logs in under the name.
    pub login: Option<UserKey>,
    /// Who gets mail to the name.
    pub mail: Option<UserKey>,
}

impl Owners {
    /// The owner for one purpose.
    pub fn of(self, purpose: Purpose) -> Option<UserKey> {
        match purpose {
            Purpose::Login => self.login,
            Purpose::Mail => self.mail,
        }
    }
}

/// What a configured directory has to do with names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryNames {
    /// The directory's name.
    pub name: String,
    /// The mail domains that it serves.
    pub domains: Vec<Domain>,
    /// Whether its users may have mail addresses in domains that no directory serves.
    pub foreign_names: bool,
    /// Whether a login name is a mail address where no user has it as one.
    pub login_is_address: bool,
    /// Directories whose users are the same people where they have the same stable id, while both entries live.
    pub moved_from: Vec<String>,
}

/// The internal administrator: `[admin]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Administrator {
    /// The address.
    pub name: Name,
    /// The directory whose entry with this login name is the administrator. Without one only a local account of exactly
    /// this address is.
    pub directory: Option<String>,
}

/// Everything in the configuration that decides about names. Replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct NameRules {
    /// Configured directories, in the order of the file.
    directories: Vec<DirectoryNames>,
    /// Directories that were configured before, with what they served.
    retired: Vec<DirectoryNames>,
    administrator: Option<Administrator>,
    /// Name of a directory to its position in `directories`.
    positions: HashMap<String, usize>,
    /// Domain to the positions in `directories` that serve it.
    serving: HashMap<String, Vec<usize>>,
}

impl PartialEq for NameRules {
    fn eq(&self, other: &NameRules) -> bool {
        self.is_configured_as(other) && self.retired == other.retired
    }
}

impl Eq for NameRules {}

impl NameRules {
    /// The rules of a configuration.
    pub fn new(directories: Vec<DirectoryNames>, administrator: Option<Administrator>) -> NameRules {
        let mut positions = HashMap::new();
        let mut serving: HashMap<String, Vec<usize>> = HashMap::new();
        for (position, directory) in directories.iter().enumerate() {
            positions.insert(directory.name.clone(), position);
            for domain in &directory.domains {
                serving.entry(domain.as_str().to_owned()).or_default().push(position);
            }
        }
        NameRules { directories, retired: Vec::new(), administrator, positions, serving }
    }

    /// Whether the same configuration says so, whatever was configured before it.
    pub fn is_configured_as(&self, other: &NameRules) -> bool {
        // What is looked up by follows from these.
        (&self.directories, &self.administrator) == (&other.directories, &other.administrator)
    }

    /// These rules, with the directories that `before` knew and that are not configured any more.
    pub fn retiring(&self, before: &NameRules) -> NameRules {
        let known = before.directories.iter().chain(&before.retired);
        let retired = known.filter(|directory| self.position(&directory.name).is_none()).cloned().collect();
        NameRules { retired, ..self.clone() }
    }

    /// Configured directories, in the order of the file.
    pub fn directories(&self) -> &[DirectoryNames] {
        &self.directories
    }

    /// Directories that were configured before.
    pub fn retired(&self) -> &[DirectoryNames] {
        &self.retired
    }

    /// The internal administrator.
    pub fn administrator(&self) -> Option<&Administrator> {
        self.administrator.as_ref()
    }

    /// Whether a name is the internal administrator's.
    pub fn is_administrator(&self, name: &Name) -> bool {
        self.administrator.as_ref().is_some_and(|administrator| administrator.name == *name)
    }

    /// The names of the directories that serve a domain, which is given in its compared form.
    pub fn directories_of<'a>(&'a self, domain: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.served_by(domain).iter().filter_map(|at| Some(self.directories.get(*at)?.name.as_str()))
    }

    /// Whether the owners of a name may be others than under the rules before.
    pub fn may_change(&self, before: &NameRules, name: &Name) -> bool {
        if self.administrator != before.administrator
            && (self.is_administrator(name) || before.is_administrator(name))
        {
            return true;
        }
        let kept = self.directories.iter().filter(|directory| before.position(&directory.name).is_some());
        // Before the first configuration nothing was decided by one.
        let is_addition =
            !before.directories.is_empty() && self.retired == before.retired && kept.eq(&before.directories);
        !is_addition || !self.directories_of(name.domain()).eq(before.directories_of(name.domain()))
    }

    /// The directories whose users come along to this one while both entries live.
    pub fn moved_from(&self, directory: &str) -> &[String] {
        let at = self.position(directory).and_then(|at| self.directories.get(at));
        at.map_or(&[], |directory| directory.moved_from.as_slice())
    }

    /// Whether `moved_from` says that the users of a directory are those of another one.
    pub fn has_moved(&self, from: &str, to: &str) -> bool {
        self.moved_from(to).iter().any(|name| name == from)
    }

    /// The directories in which an entry with the same stable id is the same person as one of this directory, though
    /// both live: mostly none.
    pub fn kin_of<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = &'a str> {
        let is_configured = self.is_configured(directory);
        let is_kin = move |other: &&DirectoryNames| {
            !is_configured || other.moved_from.iter().any(|from| from == directory)
        };
        let heirs = self.directories.iter().filter(is_kin).map(|other| other.name.as_str());
        let retired = self.retired.iter().filter(move |_| is_configured).map(|other| other.name.as_str());
        heirs.chain(retired).chain(self.moved_from(directory).iter().map(String::as_str))
    }

    /// These rules, without a directory that is not configured any more.
    pub fn forgetting(&self, directory: &str) -> NameRules {
        let mut rules = self.clone();
        rules.retired.retain(|retired| retired.name != directory);
        rules
    }

    /// The domain that a directory adds to login names, or did.
    pub fn bare_domain(&self, directory: &str) -> Option<&Domain> {
        self.directory(directory).and_then(|directory| directory.domains.first())
    }

    /// The place of a directory in the file; those that are not configured come behind all.
    pub fn order(&self, directory: &str) -> usize {
        self.position(directory).unwrap_or(usize::MAX)
    }

    /// Whether a directory is configured.
    pub fn is_configured(&self, directory: &str) -> bool {
        self.position(directory).is_some()
    }

    /// A directory that is configured, or was.
    fn directory(&self, name: &str) -> Option<&DirectoryNames> {
        let retired = || self.retired.iter().find(|directory| directory.name == name);
        self.position(name).and_then(|at| self.directories.get(at)).or_else(retired)
    }

    /// Whether a directory serves a domain, or did so before it was not configured any more.
    fn is_served_by(&self, directory: &str, domain: &str) -> bool {
        match self.position(directory) {
            Some(at) => self.served_by(domain).contains(&at),
            None => {
                self.directory(directory).is_some_and(|it| it.domains.iter().any(|it| it.as_str() == domain))
            }
        }
    }

    fn position(&self, directory: &str) -> Option<usize> {
        self.positions.get(directory).copied()
    }

    fn served_by(&self, domain: &str) -> &[usize] {
        self.serving.get(domain).map_or(&[], Vec::as_slice)
    }
}

/// Where the claimant of a name comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Home {
    /// A directory, by its name.
    Directory(String),
    /// A local or imported account of this mail domain.
    Account {
        /// The domain.
        domain: String,
        /// Local, not imported.
        local: bool,
    },
}

/// Since when a user claims one name, and as what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// As a login name.
    pub login: Option<Timestamp>,
    /// As a mail address.
    pub mail: Option<Timestamp>,
}

impl Claim {
    /// Whether nothing is claimed.
    pub fn is_empty(self) -> bool {
        self.login.is_none() && self.mail.is_none()
    }

    /// Whether a user owns the name as everything that is claimed.
    pub fn is_met(self, user: UserKey, owners: Owners) -> bool {
        self.unmet(user, owners).is_none()
    }

    /// Who owns the name instead of `user` as what is claimed: the first of them, who may be nobody.
    fn unmet(self, user: UserKey, owners: Owners) -> Option<Option<UserKey>> {
        let claimed = [(self.login, owners.login), (self.mail, owners.mail)];
        let mut owners = claimed.into_iter().filter(|(since, _)| since.is_some()).map(|(_, owner)| owner);
        owners.find(|owner| *owner != Some(user))
    }

    /// The earlier of the two.
    fn since(self) -> Option<Timestamp> {
        [self.login, self.mail].into_iter().flatten().min()
    }

    /// How well the claim serves a purpose, the best first.
    fn rank(self, purpose: Purpose) -> Option<(u8, Timestamp)> {
        let (first, second) = match purpose {
            Purpose::Login => (self.login, self.mail),
            Purpose::Mail => (self.mail, self.login),
        };
        first.map(|since| (0, since)).or(second.map(|since| (1, since)))
    }

    /// This claim of a user who is removed at `now`: what they do not own they claim only from then on, so that they do
    /// not keep it from those who waited.
    pub fn entombed(self, user: UserKey, owners: Owners, now: Timestamp) -> Claim {
        let time =
            |since: Option<Timestamp>, owner| since.map(|at| if owner == Some(user) { at } else { now });
        Claim { login: time(self.login, owners.login), mail: time(self.mail, owners.mail) }
    }

    /// This claim under `before`: what was claimed before keeps its time, what is new begins at `now`.
    pub fn continuing(self, before: Claim) -> Claim {
        let time = |new: Option<Timestamp>, old: Option<Timestamp>| new.map(|new| old.unwrap_or(new));
        Claim { login: time(self.login, before.login), mail: time(self.mail, before.mail) }
    }
}

/// The names that an entry or an account claims at `now`, without repeats. The address of an account is its login name
/// too.
pub fn claims_of(mapped: &Mapped, origin: Origin, now: Timestamp) -> HashMap<Name, Claim> {
    let mut claims: HashMap<Name, Claim> = HashMap::new();
    for address in &mapped.addresses {
        claims.entry(address.clone()).or_default().mail = Some(now);
    }
    let own = mapped.addresses.first().filter(|_| origin != Origin::Mapped);
    for login in mapped.logins.iter().chain(own) {
        claims.entry(login.clone()).or_default().login = Some(now);
    }
    claims
}

/// The mail domain in which a user counts: that of the main address, or else of a login name, as far as the rules let the
/// user have it. An account counts in its own, and a user without any such name where the directory's first domain is.
pub fn mail_domain<'a>(mapped: &'a Mapped, home: &'a Home, rules: &'a NameRules) -> &'a str {
    let directory = match home {
        Home::Account { domain, .. } => return domain,
        Home::Directory(directory) => directory,
    };
    let known = rules.directory(directory);
    let may_have = |name: &&Name, is_mail: bool| {
        let domain = name.domain();
        let is_foreign = is_mail && known.is_some_and(|it| !it.foreign_names);
        rules.is_served_by(directory, domain) || rules.served_by(domain).is_empty() && !is_foreign
    };
    let address = mapped.addresses.iter().find(|name| may_have(name, true));
    let name = address.or_else(|| mapped.logins.iter().find(|name| may_have(name, false)));
    let first = || known.and_then(|it| it.domains.first()).map_or("", Domain::as_str);
    name.map_or_else(first, Name::domain)
}

/// What entries are mapped without because the configuration of their directory says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// Mail addresses in domains that no directory serves: `foreign_names = false`.
    pub foreign_names: u64,
    /// People without a mail address, who can only log in: `login_is_address = false`.
    pub logins_only: u64,
}

impl LeftOut {
    /// Counts an entry of a directory.
    pub fn count(&mut self, directory: &str, mapped: &Mapped, rules: &NameRules) {
        let Some(known) = rules.directory(directory) else { return };
        if !known.foreign_names {
            let is_foreign = |name: &&Name| rules.served_by(name.domain()).is_empty();
            self.foreign_names += mapped.addresses.iter().filter(is_foreign).count() as u64;
        }
        let is_unreachable = mapped.kind == Kind::Person && mapped.addresses.is_empty();
        self.logins_only += u64::from(is_unreachable && !known.login_is_address);
    }
}

/// One of those who claim a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimant {
    /// The user.
    pub user: UserKey,
    /// The stable id.
    pub id: StableId,
    /// Where the user comes from.
    pub home: Home,
    /// When the user was removed from the directory: set for a tombstone.
    pub removed_at: Option<Timestamp>,
    /// All login names of the user; needed only where a tombstone is among the claimants.
    pub logins: Vec<Name>,
    /// The name is the main address.
    pub is_main: bool,
    /// The user to whom everything of this one was carried over; needed only where several claim the name.
    pub heir: Option<UserKey>,
    /// What is claimed.
    pub claim: Claim,
}

/// Why a user does not own a name that is claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Withheld {
    /// Another user owns it.
    Owned(UserKey),
    /// It is the internal administrator's.
    Administrator,
    /// Its domain is served by other directories.
    ServedElsewhere,
    /// `foreign_names = false`, and its domain is none of the directory's.
    Foreign,
}

/// A claim that may own the name.
struct Candidate<'a> {
    claimant: &'a Claimant,
    /// What of the claim counts.
    claim: Claim,
    /// The position of the directory in the file; accounts come behind all.
    order: usize,
    /// Of a directory that is not configured any more.
    is_retired: bool,
    /// Directories serve the name's domain.
    is_served: bool,
}

impl Candidate<'_> {
    fn is_living(&self) -> bool {
        self.claimant.removed_at.is_none()
    }

    /// Whether what this user claims is the heir's, who claims the name too. Someone who lives gives nothing to a
    /// tombstone.
    fn has_heir(&self, able: &[&Candidate<'_>]) -> bool {
        let is_heir = |it: &&&Candidate<'_>| self.claimant.heir == Some(it.claimant.user);
        able.iter().find(is_heir).is_some_and(|heir| heir.is_living() || !self.is_living())
    }
}

/// Decides who owns `name` among all who claim it. `present` are the owners until now, and deciding again with what was
/// decided changes nothing.
pub fn owners(name: &Name, claimants: &[Claimant], present: Owners, rules: &NameRules) -> Owners {
    let mut candidates: Vec<Candidate<'_>> =
        claimants.iter().filter_map(|claimant| candidate(name, claimant, rules).ok()).collect();
    // In a domain that directories serve, their living users come before those of a directory that is not configured.
    if candidates.iter().any(|it| it.is_living() && !it.is_retired && it.is_served) {
        candidates.retain(|it| !(it.is_living() && it.is_retired));
    }
    Owners {
        login: owner(&candidates, Purpose::Login, present.login, rules),
        mail: owner(&candidates, Purpose::Mail, present.mail, rules),
    }
}

/// Why a user does not own a name as what they claim it, given who owns it; `None` where they do.
pub fn withheld(name: &Name, claimant: &Claimant, owners: Owners, rules: &NameRules) -> Option<Withheld> {
    let owner = claimant.claim.unmet(claimant.user, owners)?;
    match candidate(name, claimant, rules) {
        Err(reason) => Some(reason),
        // A mail address in a domain that is not the directory's, beside a login name that is.
        Ok(_) => Some(owner.map_or(Withheld::Foreign, Withheld::Owned)),
    }
}

/// The order of claims, the best first: by the role, then the present owner, then the time, the directory and the id.
type Rank<'a> = (u8, bool, Timestamp, usize, &'a StableId);

/// The best living claimant whom no tombstone keeps from the name; else the best tombstone.
fn owner(
    candidates: &[Candidate<'_>],
    purpose: Purpose,
    present: Option<UserKey>,
    rules: &NameRules,
) -> Option<UserKey> {
    let able: Vec<_> = candidates.iter().filter(|candidate| serves(candidate, purpose, rules)).collect();
    let ranked = able.iter().filter(|candidate| !candidate.has_heir(&able)).filter_map(|candidate| {
        let (role, since) = candidate.claim.rank(purpose)?;
        let Claimant { user, id, .. } = candidate.claimant;
        let rank: Rank<'_> = (role, present != Some(*user), since, candidate.order, id);
        Some((rank, *candidate))
    });
    let (living, tombstones): (Vec<_>, Vec<_>) = ranked.partition(|(_, candidate)| candidate.is_living());
    // Each by itself: a tombstone that gives way to one does not give way to those who waited.
    let is_free = |(rank, candidate): &&(Rank<'_>, &Candidate<'_>)| {
        present == Some(candidate.claimant.user)
            || !tombstones.iter().any(|(better, tombstone)| better < rank && !gives_way(tombstone, candidate))
    };
    let free = living.iter().filter(is_free).min_by(|left, right| left.0.cmp(&right.0));
    let best = free.or(tombstones.iter().min_by(|left, right| left.0.cmp(&right.0)));
    best.map(|(_, candidate)| candidate.claimant.user)
}

/// Whether the claim is good for a purpose at all.
fn serves(candidate: &Candidate<'_>, purpose: Purpose, rules: &NameRules) -> bool {
    match (&candidate.claimant.home, purpose, candidate.claim.mail) {
        (Home::Directory(name), Purpose::Mail, None) => {
            rules.directory(name).is_none_or(|directory| directory.login_is_address)
        }
        _ => true,
    }
}

/// Whether a claimant may own the name, apart from the others.
fn candidate<'a>(name: &Name, claimant: &'a Claimant, rules: &NameRules) -> Result<Candidate<'a>, Withheld> {
    let mut claim = claimant.claim;
    if let Some(administrator) = rules.administrator.as_ref().filter(|it| it.name == *name) {
        // For a directory's administrator the login name alone counts.
        if administrator.directory.is_some() {
            claim.mail = None;
        }
        if !is_administrator(claimant, claim, administrator) {
            return Err(Withheld::Administrator);
        }
    }
    let serving = rules.served_by(name.domain());
    let (order, is_retired) = match &claimant.home {
        Home::Account { domain, .. } => {
            if !serving.is_empty() && domain != name.domain() {
                return Err(Withheld::ServedElsewhere);
            }
            (usize::MAX, false)
        }
        Home::Directory(directory) => {
            let known = rules.directory(directory);
            let position = rules.position(directory);
            let is_ours = rules.is_served_by(directory, name.domain());
            if !serving.is_empty() && !is_ours {
                return Err(Withheld::ServedElsewhere);
            }
            if !is_ours && known.is_some_and(|it| !it.foreign_names) {
                claim.mail = None;
            }
            (position.unwrap_or(usize::MAX), position.is_none())
        }
    };
    if claim.is_empty() {
        return Err(Withheld::Foreign);
    }
    Ok(Candidate { claimant, claim, order, is_retired, is_served: !serving.is_empty() })
}

fn is_administrator(claimant: &Claimant, claim: Claim, administrator: &Administrator) -> bool {
    match (&administrator.directory, &claimant.home) {
        (Some(wanted), Home::Directory(directory)) => wanted == directory && claim.login.is_some(),
        (None, Home::Account { local, .. }) => *local && claimant.is_main,
        _ => false,
    }
}

/// Whether a tombstone gives the name to this living claimant.
fn gives_way(tombstone: &Candidate<'_>, living: &Candidate<'_>) -> bool {
    let (gone, heir) = (tombstone.claimant, living.claimant);
    let is_neighbour = heir.home == gone.home;
    let has_login = heir.logins.iter().any(|login| gone.logins.contains(login));
    let came_later = heir.claim.since() > gone.removed_at;
    tombstone.is_retired || is_neighbour && (has_login || came_later)
}

#[cfg(test)]
mod tests;
