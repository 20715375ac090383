//! The licence: what was bought, until when, and what that means at a moment.
//!
//! Time is a parameter. A signature proves where a licence comes from, elsewhere; here is what it says.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::seats::Service;

/// How long before its end a licence is called expiring.
pub const EXPIRING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A licence issued a moment ago by a server whose clock is ahead of ours is no licence of the future.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// A verified licence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct License {
    /// `sub`: the licence's id, the same for all its issues.
    pub id: String,
    /// `iss`: who issued it.
    pub issuer: Option<String>,
    /// Grows with each issue.
    pub serial: u64,
    /// `iat`.
    pub issued_at: Timestamp,
    /// `nbf`.
    pub not_before: Option<Timestamp>,
    /// `exp`; `None` never expires.
    pub expires: Option<Timestamp>,
    /// Seats bought.
    pub seats: u64,
    /// Shared and service mailboxes that need no seat.
    pub seatless: u64,
    /// So many percent more seats may be taken.
    pub overage_percent: u64,
    /// Optional parts bought.
    pub components: BTreeMap<ComponentName, Component>,
    /// Who bought it.
    pub customer: Customer,
    /// When the customer registered.
    pub registered: Option<Date>,
    /// The last day of maintenance: shown, and nothing else.
    pub maintenance_until: Option<Date>,
    /// The only installation that may use it; `None` is any.
    pub installation: Option<InstallationId>,
    /// How long after its end everything goes on.
    pub grace: Duration,
    /// Who is refused after that.
    pub on_expiry: OnExpiry,
}

/// Who bought a licence.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Customer {
    /// The organisation.
    pub name: Option<String>,
    /// Whom to write to.
    pub email: Option<String>,
    /// Whatever else was registered.
    pub more: BTreeMap<String, String>,
}

/// What becomes of users when a licence has expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnExpiry {
    /// Holders enter, nobody new.
    #[default]
    RefuseNew,
    /// Nobody enters.
    RefuseAll,
}

impl OnExpiry {
    /// The word in the claim.
    pub fn as_str(self) -> &'static str {
        match self {
            OnExpiry::RefuseNew => "refuse_new",
            OnExpiry::RefuseAll => "refuse_all",
        }
    }
}

/// The name of an optional part of the product: `antivirus`, `activesync`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ComponentName(Box<str>);

impl ComponentName {
    /// Longer than the name of anything sold.
    pub const MAX_BYTES: usize = 64;

    /// Lower-case letters, digits, `-` and `_`; `None` for anything else.
    pub fn parse(text: &str) -> Option<ComponentName> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        (!text.is_empty() && text.len() <= ComponentName::MAX_BYTES && text.bytes().all(good))
            .then(|| ComponentName(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was bought of a component.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Component {
    /// Users of its own; `None` is everybody who has a seat.
    pub seats: Option<u64>,
    /// The last day, in UTC; `None` ends with the licence.
    pub expires: Option<Date>,
}

/// What a component is worth at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ComponentStanding {
    /// Not bought, or its time is over.
    Unlicensed,
    /// Everybody may use it, or so many.
    Licensed {
        /// Users of its own.
        seats: Option<u64>,
    },
}

/// The installation that a licence is bound to: random, not derived from hardware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstallationId(Box<str>);

impl InstallationId {
    /// An UUID has 36.
    pub const MAX_BYTES: usize = 64;

    /// Letters, digits and `-`; `None` for anything else.
    pub fn parse(text: &str) -> Option<InstallationId> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (!text.is_empty() && text.len() <= InstallationId::MAX_BYTES && text.bytes().all(good))
            .then(|| InstallationId(text.into()))
    }

    /// The id of these random bytes, as an UUID of version 4 (RFC 9562 section 5.4).
    pub fn from_random(bytes: [u8; 16]) -> InstallationId {
        let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let hex = format!("{number:032x}");
        let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
        let parts: Vec<&str> = parts.iter().filter_map(|(from, to)| hex.get(*from..*to)).collect();
        InstallationId(parts.join("-").into())
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which component each service of the mail server belongs to, and what the components are worth now.
///
/// Made anew whenever that changes, so that a decision looks at no dates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Components {
    /// `[components]`.
    pub services: HashMap<Service, ComponentName>,
    /// One that is not here was not bought.
    pub standings: BTreeMap<ComponentName, ComponentStanding>,
}

impl Components {
    /// What a component is worth.
    pub fn standing(&self, name: &ComponentName) -> ComponentStanding {
        self.standings.get(name).copied().unwrap_or(ComponentStanding::Unlicensed)
    }

    /// The component that a service needs, and what it is worth.
    pub fn needed_by(&self, service: Option<&Service>) -> Option<(&ComponentName, ComponentStanding)> {
        let name = self.services.get(service?)?;
        Some((name, self.standing(name)))
    }
}

/// Where a licence is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// There is none.
    Missing,
    /// All is well.
    Active,
    /// It ends within [`EXPIRING`].
    Expiring,
    /// It has ended, and everything goes on for the grace period.
    Grace,
    /// It is over.
    Expired,
}

impl State {
    /// The stable word in the API and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Missing => "missing",
            State::Active => "active",
            State::Expiring => "expiring",
            State::Grace => "grace",
            State::Expired => "expired",
        }
    }

    /// The state of this word.
    pub fn parse(word: &str) -> Option<State> {
        [State::Missing, State::Active, State::Expiring, State::Grace, State::Expired]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// Why a licence with a good signature is not installed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// `nbf` is in the future.
    #[error("the licence is not valid before {0}; is this machine's clock right?")]
    NotYetValid(Timestamp),
    /// `iat` is in the future.
    #[error("the licence was issued in the future, at {0}; is this machine's clock right?")]
    IssuedInFuture(Timestamp),
    /// Bound to somebody else.
    #[error("the licence is for the installation {theirs}, and this is {ours}")]
    OtherInstallation {
        /// Whose licence it is.
        theirs: InstallationId,
        /// Who we are.
        ours: InstallationId,
    },
    /// A newer issue was installed before.
    #[error(
        "the licence is older than the one that is installed: its serial is {serial}, after {newest}; an \
         administrator may force it"
    )]
    Older {
        /// Its serial.
        serial: u64,
        /// The highest serial of this licence that was installed.
        newest: u64,
    },
}

impl License {
    /// Whether it may be installed here and now. `now` is the time by which dates come; `latest` is the latest that it
    /// may be, where that is in doubt: a licence may have been signed until then. `newest` is the highest serial that was ever installed of
    /// the licence with this id; `None` for none, or to force.
    ///
    /// One that has expired may be: then it says so, instead of that there is none.
    pub fn check(
        &self,
        now: Timestamp,
        latest: Timestamp,
        ours: &InstallationId,
        newest: Option<u64>,
    ) -> Result<(), Refusal> {
        if self.issued_at > latest.saturating_add(CLOCK_SKEW).unwrap_or(latest) {
            return Err(Refusal::IssuedInFuture(self.issued_at));
        }
        if let Some(theirs) = self.installation.as_ref().filter(|theirs| *theirs != ours) {
            return Err(Refusal::OtherInstallation { theirs: theirs.clone(), ours: ours.clone() });
        }
        if let Some(newest) = newest.filter(|newest| self.serial < *newest) {
            return Err(Refusal::Older { serial: self.serial, newest });
        }
        // Last: nothing else is wrong with it, and it may be kept for its day.
        match self.not_before {
            Some(from) if self.starts().is_some_and(|starts| starts > now) => Err(Refusal::NotYetValid(from)),
            _ => Ok(()),
        }
    }

    /// When it may be installed; `None` at any time.
    pub fn starts(&self) -> Option<Timestamp> {
        self.not_before.map(|from| from.saturating_sub(CLOCK_SKEW).unwrap_or(from))
    }

    /// Where it is in its life.
    pub fn state(&self, now: Timestamp) -> State {
        let Some(expires) = self.expires else { return State::Active };
        match now {
            _ if now >= later(expires, self.grace) => State::Expired,
            _ if now >= expires => State::Grace,
            _ if now >= expires.saturating_sub(EXPIRING).unwrap_or(expires) => State::Expiring,
            _ => State::Active,
        }
    }

    /// When the grace period ends; `None` never.
    pub fn ends(&self) -> Option<Timestamp> {
        self.expires.map(|expires| later(expires, self.grace))
    }

    /// Seats that may be taken, the overage among them.
    pub fn seat_limit(&self) -> u64 {
        let more = u128::from(self.seats) * u128::from(self.overage_percent) / 100;
        self.seats.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
    }

    /// What a component is worth now.
    pub fn component(&self, name: &ComponentName, now: Timestamp) -> ComponentStanding {
        match self.components.get(name) {
            Some(component) if component.ends().is_none_or(|end| now < end) => {
                ComponentStanding::Licensed { seats: component.seats }
            }
            _ => ComponentStanding::Unlicensed,
        }
    }

    /// What the components that it has are worth now.
    pub fn standings(&self, now: Timestamp) -> BTreeMap<ComponentName, ComponentStanding> {
        self.components.keys().map(|name| (name.clone(), self.component(name, now))).collect()
    }

    /// When [`License::state`] or [`License::component`] next give another answer.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let expiring = self.expires.map(|expires| expires.saturating_sub(EXPIRING).unwrap_or(expires));
        let states = [expiring, self.expires, self.ends()].into_iter().flatten();
        let components = self.components.values().filter_map(Component::ends);
        states.chain(components).filter(|at| *at > now).min()
    }
}

impl Component {
    /// The first moment at which it is over: the end of its last day, in UTC.
    fn ends(&self) -> Option<Timestamp> {
        let next_day = self.expires?.tomorrow().ok()?;
        TimeZone::UTC.to_timestamp(next_day.at(0, 0, 0, 0)).ok()
    }
}

fn later(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

/// A public key that licences may be signed with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey(pub [u8; 32]);

/// The start of an Ed25519 key as SubjectPublicKeyInfo in DER (RFC 8410 section 4); the key follows.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

impl PublicKey {
    /// Decodes the base64 of a SubjectPublicKeyInfo; `None` where it is none of Ed25519.
    pub fn parse(text: &str) -> Option<PublicKey> {
        use base64::Engine as _;
        let der = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
        let key = der.strip_prefix(&SPKI_PREFIX)?;
        Some(PublicKey(key.try_into().ok()?))
    }

    /// The line for `trusted_keys`.
    pub fn to_spki(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode([&SPKI_PREFIX[..], &self.0].concat())
    }
}

/// The keys that were fixed when the program was built, between commas; then no others count, and no seats
/// can be declared. `None`: the configuration decides.
pub const BUILT_IN_KEYS: Option<&str> = option_env!("SEATKEEPER_LICENSE_KEYS");

#[cfg(test)]
mod tests;
