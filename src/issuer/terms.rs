//! What a vendor may do with a licence, pure: sell, change, activate, free.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::cli::license::{ComponentTerm, EndTerm, OnExpiryTerm, SeatsTerm, TermsArgs};
use crate::domain::license::{Component, ComponentName, Customer, InstallationId, License, OnExpiry};
use crate::licensing::claims::{self, ClaimsError};

/// Why a licence cannot be as somebody wants it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TermsError {
    /// A new licence needs seats.
    #[error("a new licence needs --seats")]
    NoSeats,
    /// Fewer than none.
    #[error("the licence has {0} seats: it can't have {1} fewer")]
    TooFew(u64, u64),
    /// A component's name.
    #[error("{0:?} is no component's name: lower-case letters, digits, - and _")]
    BadComponent(String),
    /// The licence has no such component.
    #[error("the licence has no component {0}")]
    NoComponent(String),
    /// The customer's details.
    #[error("{0}")]
    Customer(#[from] ClaimsError),
    /// A date that is none.
    #[error("{0} is no date that can be used")]
    Date(Date),
}

/// A licence that was never issued.
pub fn blank(id: &str, issuer: Option<&str>) -> License {
    License {
        id: id.to_owned(),
        issuer: issuer.map(str::to_owned),
        serial: 0,
        issued_at: Timestamp::UNIX_EPOCH,
        not_before: None,
        expires: None,
        seats: 0,
        seatless: 0,
        overage_percent: 0,
        components: BTreeMap::new(),
        customer: Customer::default(),
        registered: None,
        maintenance_until: None,
        installation: None,
        grace: std::time::Duration::ZERO,
        on_expiry: OnExpiry::RefuseNew,
    }
}

/// The next issue: a higher serial, also higher than whatever was issued by hand before.
pub fn issue(license: &mut License, now: Timestamp) {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    license.serial = license.serial.saturating_add(1).max(seconds);
    license.issued_at = now;
}

/// The beginning of a day, in UTC.
pub fn midnight(date: Date) -> Result<Timestamp, TermsError> {
    TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|_| TermsError::Date(date))
}

/// Changes what was said, and leaves the rest.
pub fn change(license: &mut License, terms: &TermsArgs) -> Result<(), TermsError> {
    match terms.seats {
        None if license.serial == 0 => return Err(TermsError::NoSeats),
        None => {}
        Some(SeatsTerm::Exactly(seats)) => license.seats = seats,
        Some(SeatsTerm::More(more)) => license.seats = license.seats.saturating_add(more),
        Some(SeatsTerm::Fewer(fewer)) => {
            let left = license.seats.checked_sub(fewer);
            license.seats = left.ok_or(TermsError::TooFew(license.seats, fewer))?;
        }
    }
    let parse =
        |name: &str| ComponentName::parse(name).ok_or_else(|| TermsError::BadComponent(name.to_owned()));
    for ComponentTerm { name, seats, expires } in &terms.component {
        license.components.insert(parse(name)?, Component { seats: *seats, expires: *expires });
    }
    for name in &terms.no_component {
        let removed = license.components.remove(&parse(name)?);
        removed.ok_or_else(|| TermsError::NoComponent(name.clone()))?;
    }
    match terms.expires {
        None => {}
        Some(EndTerm::Never) => license.expires = None,
        Some(EndTerm::On(date)) => license.expires = Some(midnight(date)?),
    }
    if let Some(grace) = terms.grace {
        license.grace = grace;
    }
    match terms.on_expiry {
        None => {}
        Some(OnExpiryTerm::RefuseNew) => license.on_expiry = OnExpiry::RefuseNew,
        Some(OnExpiryTerm::RefuseAll) => license.on_expiry = OnExpiry::RefuseAll,
    }
    license.seatless = terms.seatless.unwrap_or(license.seatless);
    license.overage_percent = terms.overage.unwrap_or(license.overage_percent);
    license.maintenance_until = terms.maintenance_until.or(license.maintenance_until);
    let named = [("name", &terms.customer.customer), ("email", &terms.customer.email)];
    let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
    register(license, &named.chain(terms.customer.detail.iter().cloned()).collect())
}

/// Adds the details of a customer to those that are known.
pub fn register(license: &mut License, details: &BTreeMap<String, String>) -> Result<(), TermsError> {
    let mut all = claims::customer_claim(&license.customer);
    all.extend(details.clone());
    license.customer = claims::customer(&all)?;
    Ok(())
}

/// Binds a licence to an installation. The first time sets the anniversary: maintenance for a year, unless
/// something else was sold.
pub fn bind(license: &mut License, installation: InstallationId, now: Timestamp) {
    license.installation = Some(installation);
    if license.registered.is_none() {
        let today = TimeZone::UTC.to_datetime(now).date();
        license.registered = Some(today);
        let anniversary = today.checked_add(1.year()).ok();
        license.maintenance_until = license.maintenance_until.or(anniversary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::license::CustomerArgs;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sold() -> License {
        let mut license = blank("L-1", Some("Vendor"));
        change(&mut license, &TermsArgs { seats: Some(SeatsTerm::Exactly(25)), ..TermsArgs::default() })
            .unwrap();
        issue(&mut license, at(1_700_000_000));
        license
    }

    #[test]
    fn serials_grow_with_each_issue() {
        let mut license = sold();
        assert_eq!(license.serial, 1_700_000_000);
        issue(&mut license, at(1_700_000_000));
        assert_eq!(license.serial, 1_700_000_001, "twice in a second");
        issue(&mut license, at(1_600_000_000));
        assert_eq!(license.serial, 1_700_000_002, "a clock set back");
        issue(&mut license, at(1_800_000_000));
        assert_eq!((license.serial, license.issued_at), (1_800_000_000, at(1_800_000_000)));
    }

    #[test]
    fn only_what_is_said_changes() {
        let check = |terms: TermsArgs, expected: License| {
            let mut license = sold();
            change(&mut license, &terms).unwrap();
            assert_eq!(license, expected, "{terms:?}");
        };
        let terms = TermsArgs::default;
        check(terms(), sold());
        check(TermsArgs { seats: Some(SeatsTerm::More(10)), ..terms() }, License { seats: 35, ..sold() });
        check(TermsArgs { seats: Some(SeatsTerm::Fewer(25)), ..terms() }, License { seats: 0, ..sold() });
        let activesync = ComponentTerm {
            name: "activesync".to_owned(),
            seats: Some(10),
            expires: "2027-05-01".parse().ok(),
        };
        let component = Component { seats: Some(10), expires: "2027-05-01".parse().ok() };
        let name = ComponentName::parse("activesync").unwrap();
        check(
            TermsArgs { component: vec![activesync], ..terms() },
            License { components: [(name, component)].into(), ..sold() },
        );
        let end = "2027-01-01".parse().unwrap();
        check(
            TermsArgs { expires: Some(EndTerm::On(end)), overage: Some(10), ..terms() },
            License { expires: "2027-01-01T00:00:00Z".parse().ok(), overage_percent: 10, ..sold() },
        );
        check(TermsArgs { seatless: Some(7), ..terms() }, License { seatless: 7, ..sold() });
        let customer = CustomerArgs { customer: Some("Example".to_owned()), ..CustomerArgs::default() };
        let named = Customer { name: Some("Example".to_owned()), ..Customer::default() };
        check(TermsArgs { customer, ..terms() }, License { customer: named, ..sold() });
    }

    #[test]
    fn what_cannot_be_sold_says_why() {
        let check = |mut license: License, terms: TermsArgs, expected: &str| {
            assert_eq!(change(&mut license, &terms).unwrap_err().to_string(), expected);
        };
        let terms = TermsArgs::default;
        check(blank("L-1", None), terms(), "a new licence needs --seats");
        let fewer = TermsArgs { seats: Some(SeatsTerm::Fewer(26)), ..terms() };
        check(sold(), fewer, "the licence has 25 seats: it can't have 26 fewer");
        let bad = ComponentTerm { name: "A V".to_owned(), seats: None, expires: None };
        let bad = TermsArgs { component: vec![bad], ..terms() };
        check(sold(), bad, "\"A V\" is no component's name: lower-case letters, digits, - and _");
        let gone = TermsArgs { no_component: vec!["antivirus".to_owned()], ..terms() };
        check(sold(), gone, "the licence has no component antivirus");
    }

    #[test]
    fn the_first_activation_sets_the_anniversary() {
        let installation = InstallationId::from_random([1; 16]);
        let mut license = sold();
        bind(&mut license, installation.clone(), "2026-03-05T10:00:00Z".parse().unwrap());
        assert_eq!(license.registered, "2026-03-05".parse().ok());
        assert_eq!(license.maintenance_until, "2027-03-05".parse().ok());
        let first = license.clone();
        license.installation = None;
        bind(&mut license, installation, "2026-09-09T10:00:00Z".parse().unwrap());
        assert_eq!(license, first, "another activation leaves it");
        let mut sold_with = License { maintenance_until: "2030-01-01".parse().ok(), ..sold() };
        bind(&mut sold_with, InstallationId::from_random([2; 16]), at(1_700_000_000));
        assert_eq!(sold_with.maintenance_until, "2030-01-01".parse().ok());
    }
}
