//! The payload of a licence as JSON, and what it means.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::domain::license::{Component, ComponentName, Customer, InstallationId, License, OnExpiry};

/// Components of one licence; more than anybody sells.
const MAX_COMPONENTS: usize = 256;

/// Details of a customer beside name and address.
const MAX_DETAILS: usize = 32;

/// Texts that are shown in tables and log lines.
const MAX_TEXT: usize = 256;

/// More than double is a mistake of the vendor.
const MAX_OVERAGE: u64 = 100;

/// Why signed claims are no licence: the vendor made a mistake.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClaimsError(String);

fn wrong(what: impl Into<String>) -> ClaimsError {
    ClaimsError(what.into())
}

/// The claims as they are written. `Vec` and maps are bounded when they are checked.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Claims {
    /// Who issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The licence's id.
    pub sub: String,
    /// When it was issued, in seconds since 1970; fractions are allowed (RFC 7519 section 2).
    pub iat: Number,
    /// When it becomes valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<Number>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<Number>,
    /// Grows with each issue.
    pub serial: u64,
    /// Seats.
    pub seats: u64,
    /// Mailboxes that need no seat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seatless: Option<u64>,
    /// Components by name.
    #[serde(default)]
    pub components: BTreeMap<String, ComponentClaim>,
    /// Name, address and more.
    #[serde(default)]
    pub customer: BTreeMap<String, String>,
    /// A date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<String>,
    /// A date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_until: Option<String>,
    /// The installation's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
    /// A duration like `14d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
    /// `refuse_new` or `refuse_all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<String>,
    /// Percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage_percent: Option<u64>,
}

/// One of `components`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct ComponentClaim {
    /// Users of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats: Option<u64>,
    /// A date: its last day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// Reads and checks a payload.
pub(super) fn parse(payload: &[u8]) -> Result<License, ClaimsError> {
    Claims::read(payload)?.check()
}

impl Claims {
    /// Reads a payload, without asking what it means.
    pub fn read(payload: &[u8]) -> Result<Claims, ClaimsError> {
        serde_json::from_slice(payload)
            .map_err(|error| wrong(format!("its claims are not those of a licence: {error}")))
    }

    /// What they mean.
    pub fn check(&self) -> Result<License, ClaimsError> {
        let id = text("sub", &self.sub)?;
        if id.is_empty() {
            return Err(wrong("sub is empty: a licence has an id"));
        }
        Ok(License {
            id,
            issuer: self.iss.as_deref().map(|iss| text("iss", iss)).transpose()?,
            serial: self.serial,
            issued_at: time("iat", &self.iat)?,
            not_before: self.nbf.as_ref().map(|nbf| time("nbf", nbf)).transpose()?,
            expires: self.exp.as_ref().map(|exp| time("exp", exp)).transpose()?,
            seats: self.seats,
            seatless: self.seatless.unwrap_or(0),
            overage_percent: match self.overage_percent.unwrap_or(0) {
                percent @ 0..=MAX_OVERAGE => percent,
                percent => return Err(wrong(format!("overage_percent is {percent}: at most {MAX_OVERAGE}"))),
            },
            components: components(&self.components)?,
            customer: customer(&self.customer)?,
            registered: date("registered", self.registered.as_deref())?,
            maintenance_until: date("maintenance_until", self.maintenance_until.as_deref())?,
            installation: self.installation.as_deref().map(installation).transpose()?,
            grace: self.grace.as_deref().map_or(Ok(Duration::ZERO), grace)?,
            on_expiry: match self.on_expiry.as_deref() {
                None | Some("refuse_new") => OnExpiry::RefuseNew,
                Some("refuse_all") => OnExpiry::RefuseAll,
                Some(other) => {
                    let other = text("on_expiry", other)?;
                    return Err(wrong(format!("on_expiry is {other:?}, not refuse_new or refuse_all")));
                }
            },
        })
    }
}

fn text(claim: &str, text: &str) -> Result<String, ClaimsError> {
    if text.len() > MAX_TEXT {
        return Err(wrong(format!("{claim} is longer than {MAX_TEXT} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(wrong(format!("{claim} has a control character")));
    }
    Ok(text.to_owned())
}

fn time(claim: &str, seconds: &Number) -> Result<Timestamp, ClaimsError> {
    let no_time = || wrong(format!("{claim} is no time"));
    let seconds = seconds.as_f64().ok_or_else(no_time)?;
    if !seconds.is_finite() || seconds.abs() > 253_402_300_799.0 {
        return Err(no_time());
    }
    Timestamp::from_millisecond((seconds * 1000.0) as i64).map_err(|_| no_time())
}

fn date(claim: &str, text: Option<&str>) -> Result<Option<Date>, ClaimsError> {
    let parse = |text: &str| {
        text.parse().map_err(|_| wrong(format!("{claim} is no date: it is written like 2027-05-01")))
    };
    text.map(parse).transpose()
}

fn installation(text: &str) -> Result<InstallationId, ClaimsError> {
    InstallationId::parse(text).ok_or_else(|| wrong("installation is no installation's id"))
}

fn grace(text: &str) -> Result<Duration, ClaimsError> {
    /// Digits beyond this overflow inside the parser.
    const MAX_GRACE_TEXT: usize = 16;
    let short = Some(text).filter(|text| text.len() <= MAX_GRACE_TEXT);
    short
        .and_then(|text| humantime::parse_duration(text).ok())
        .ok_or_else(|| wrong("grace is no duration: it is written like 14d"))
}

fn components(
    claims: &BTreeMap<String, ComponentClaim>,
) -> Result<BTreeMap<ComponentName, Component>, ClaimsError> {
    if claims.len() > MAX_COMPONENTS {
        return Err(wrong(format!("it has more than {MAX_COMPONENTS} components")));
    }
    let component = |(name, claim): (&String, &ComponentClaim)| {
        let parsed = ComponentName::parse(name).ok_or_else(|| {
            let shown: String = name.chars().take(MAX_TEXT).collect();
            wrong(format!("{shown:?} is no component's name: lower-case letters, digits, - and _"))
        })?;
        let expires = date(&format!("expires of {parsed}"), claim.expires.as_deref())?;
        Ok((parsed, Component { seats: claim.seats, expires }))
    };
    claims.iter().map(component).collect()
}

/// The details of a customer, checked.
pub fn customer(details: &BTreeMap<String, String>) -> Result<Customer, ClaimsError> {
    if details.len() > MAX_DETAILS {
        return Err(wrong(format!("customer has more than {MAX_DETAILS} details")));
    }
    let mut customer = Customer::default();
    for (key, value) in details {
        let (key, value) = (text("a detail of customer", key)?, text("a detail of customer", value)?);
        match key.as_str() {
            "name" => customer.name = Some(value),
            "email" => customer.email = Some(value),
            _ => drop(customer.more.insert(key, value)),
        }
    }
    Ok(customer)
}

/// The details as they are written.
pub fn customer_claim(customer: &Customer) -> BTreeMap<String, String> {
    let mut details = customer.more.clone();
    details.extend(customer.name.clone().map(|name| ("name".to_owned(), name)));
    details.extend(customer.email.clone().map(|email| ("email".to_owned(), email)));
    details
}

impl From<&License> for Claims {
    fn from(license: &License) -> Claims {
        let seconds = |at: Timestamp| Number::from(at.as_second());
        let component = |(name, component): (&ComponentName, &Component)| {
            let Component { seats, expires } = *component;
            let expires = expires.map(|date| date.to_string());
            (name.to_string(), ComponentClaim { seats, expires })
        };
        Claims {
            iss: license.issuer.clone(),
            sub: license.id.clone(),
            iat: seconds(license.issued_at),
            nbf: license.not_before.map(seconds),
            exp: license.expires.map(seconds),
            serial: license.serial,
            seats: license.seats,
            seatless: Some(license.seatless).filter(|number| *number > 0),
            components: license.components.iter().map(component).collect(),
            customer: customer_claim(&license.customer),
            registered: license.registered.map(|date| date.to_string()),
            maintenance_until: license.maintenance_until.map(|date| date.to_string()),
            installation: license.installation.as_ref().map(InstallationId::to_string),
            grace: (!license.grace.is_zero()).then(|| humantime::format_duration(license.grace).to_string()),
            on_expiry: Some(license.on_expiry.as_str().to_owned()),
            overage_percent: Some(license.overage_percent).filter(|percent| *percent > 0),
        }
    }
}
