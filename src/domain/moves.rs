//! What follows a person from one entry to another: by the same stable id, or by a name that an administrator trusts.

use std::collections::HashMap;

use super::name::Name;
use super::names::NameRules;
use super::user::{Mapped, User, UserKey};

/// One of several entries with the same stable id, each in a directory of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing<'a> {
    /// The directory's name.
    pub directory: &'a str,
    /// Not a tombstone.
    pub is_living: bool,
}

/// Whether `old` is the same person as `new`, who has the same stable id, and what `old` holds goes to `new`. Two entries
/// that live in configured directories are two people, unless `moved_from` says otherwise.
pub fn succeeds(old: Standing<'_>, new: Standing<'_>, rules: &NameRules) -> bool {
    let gives_way = !old.is_living
        || !rules.is_configured(old.directory)
        || rules.has_moved(old.directory, new.directory);
    new.is_living && rules.is_configured(new.directory) && old.directory != new.directory && gives_way
}

/// Why nothing was carried over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotMoved {
    /// One of the two is not there any more.
    Gone,
    /// Both are the same user.
    Itself,
    /// The new entry is a tombstone.
    Removed,
    /// The new entry is disabled.
    Disabled,
    /// The new entry is not a person.
    NotAPerson,
    /// The new entry is a mailbox that needs no seat.
    Seatless,
    /// The directory of the new entry is not configured.
    NotConfigured,
    /// Both hold a seat.
    HasSeat,
    /// The old entry has nothing to carry over.
    Nothing,
    /// What was true when the pair was found is not true any more.
    Changed,
    /// No new entry has the name.
    NoMatch,
    /// Several new entries have it.
    SeveralNew,
    /// Several old entries match the same new one.
    SeveralOld,
}

impl NotMoved {
    /// The stable word in the API.
    pub fn code(self) -> &'static str {
        match self {
            NotMoved::Gone => "gone",
            NotMoved::Itself => "same_user",
            NotMoved::Removed => "removed",
            NotMoved::Disabled => "disabled",
            NotMoved::NotAPerson => "not_a_person",
            NotMoved::Seatless => "seatless",
            NotMoved::NotConfigured => "not_configured",
            NotMoved::HasSeat => "has_seat",
            NotMoved::Nothing => "nothing",
            NotMoved::Changed => "changed",
            NotMoved::NoMatch => "no_match",
            NotMoved::SeveralNew => "several_new",
            NotMoved::SeveralOld => "several_old",
        }
    }

    /// A sentence for an administrator, without a full stop.
    pub fn sentence(self) -> &'static str {
        match self {
            NotMoved::Gone => "one of the two users was forgotten",
            NotMoved::Itself => "both are the same user",
            NotMoved::Removed => "the new entry is removed",
            NotMoved::Disabled => "the new entry is disabled",
            NotMoved::NotAPerson => "the new entry is not a person",
            NotMoved::Seatless => "the new entry is a mailbox that needs no seat",
            NotMoved::NotConfigured => "the directory of the new entry is not configured",
            NotMoved::HasSeat => "the new entry holds a seat of its own",
            NotMoved::Nothing => "the old entry has nothing that the new one could get",
            NotMoved::Changed => "the entries changed meanwhile",
            NotMoved::NoMatch => "no new entry has the name",
            NotMoved::SeveralNew => "several new entries have the name",
            NotMoved::SeveralOld => "several old entries match the same new entry",
        }
    }
}

/// What an old entry has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Belongings {
    /// A seat, and the components with it.
    pub seat: bool,
    /// A last login, refusals, or names that the new entry claims.
    pub others: bool,
}

impl Belongings {
    /// Whether there is nothing to carry over.
    pub fn is_empty(self) -> bool {
        !self.seat && !self.others
    }
}

/// Who is to get what another user has.
#[derive(Clone, Copy, Debug)]
pub struct Receiver<'a> {
    /// The user.
    pub user: &'a User,
    /// Holds a seat.
    pub is_seated: bool,
    /// The user's directory is configured, or it is an account.
    pub is_configured: bool,
}

/// Whether a user may get it.
pub fn may_receive(belongings: Belongings, to: Receiver<'_>) -> Result<(), NotMoved> {
    let Mapped { kind, enabled, .. } = to.user.mapped;
    let refusals = [
        (kind != super::user::Kind::Person, NotMoved::NotAPerson),
        (!to.user.is_living(), NotMoved::Removed),
        (!enabled, NotMoved::Disabled),
        (!to.is_configured, NotMoved::NotConfigured),
        (to.user.is_seatless(), NotMoved::Seatless),
        (belongings.seat && to.is_seated, NotMoved::HasSeat),
        (belongings.is_empty(), NotMoved::Nothing),
    ];
    refusals.into_iter().find(|(applies, _)| *applies).map_or(Ok(()), |(_, reason)| Err(reason))
}

/// By which name old and new entries are matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchBy {
    /// Mail addresses.
    Mail,
    /// Login names.
    Login,
}

impl MatchBy {
    /// The word in the API, the same as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            MatchBy::Mail => "mail",
            MatchBy::Login => "login",
        }
    }

    /// The names of an entry that are compared, the main one first. `bare` is the domain that the directory adds to
    /// login names: it is left out, so that the same login name matches in a directory for another domain.
    pub fn names<'a>(self, mapped: &'a Mapped, bare: Option<&str>) -> Vec<&'a str> {
        let strip = |name: &'a Name| match name.as_str().rsplit_once('@') {
            Some((local, domain)) if self == MatchBy::Login && bare == Some(domain) => local,
            _ => name.as_str(),
        };
        let names = if self == MatchBy::Mail { &mapped.addresses } else { &mapped.logins };
        names.iter().map(strip).collect()
    }
}

/// The entries of two sides that match one to one.
///
/// Two entries match where the main name of one is a name of the other: an address that is an alias of both says
/// nothing about who they are.
#[derive(Debug, Default)]
pub struct Pairs {
    olds: Vec<UserKey>,
    /// Name to the old entries that have it, and whether it is their main one.
    by_name: HashMap<Box<str>, Vec<(usize, bool)>>,
    /// New entries that match each old one.
    news: Vec<Vec<UserKey>>,
    /// Old entries that match each new one.
    matches: HashMap<UserKey, u32>,
}

impl Pairs {
    /// Takes in an old entry. All of them come before the first new one.
    pub fn add_old(&mut self, key: UserKey, names: &[&str]) {
        for (at, name) in names.iter().enumerate() {
            self.by_name.entry((*name).into()).or_default().push((self.olds.len(), at == 0));
        }
        self.olds.push(key);
        self.news.push(Vec::new());
    }

    /// Takes in a new entry; only one that matches takes memory.
    pub fn add_new(&mut self, key: UserKey, names: &[&str]) {
        for (at, name) in names.iter().enumerate() {
            for (old, is_main) in self.by_name.get(*name).into_iter().flatten() {
                let Some(news) = self.news.get_mut(*old) else { continue };
                if (at == 0 || *is_main) && !news.contains(&key) {
                    news.push(key);
                    *self.matches.entry(key).or_default() += 1;
                }
            }
        }
    }

    /// Each old entry with the new one that is theirs alone, or the reason why there is none.
    pub fn decide(&self) -> impl Iterator<Item = (UserKey, Result<UserKey, NotMoved>)> + '_ {
        self.olds.iter().zip(&self.news).map(|(old, news)| {
            let decision = match news.as_slice() {
                [] => Err(NotMoved::NoMatch),
                [new] if self.matches.get(new) == Some(&1) => Ok(*new),
                [_] => Err(NotMoved::SeveralOld),
                _ => Err(NotMoved::SeveralNew),
            };
            (*old, decision)
        })
    }
}

#[cfg(test)]
mod tests;
