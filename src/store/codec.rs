//! Records as bytes. Each begins with a version, so that a later program can read an earlier file.
//!
//! Numbers are LEB128 varints, times are milliseconds since 1970 (zigzag), texts and byte strings carry
//! their length. A record that does not decode is reported with its table, never guessed at.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::names::NameRecord;
use super::{Cookie, DirectoryRecord, Proof, StoreError};
use crate::domain::brake::{Hour, Minute, Window};
use crate::domain::name::{Name, StableId};
use crate::domain::names::{Claim, LeftOut, Owners};
use crate::domain::seats::{
    LastLogin, LedgerEvent, Movement, Refusals, ReleaseReason, Seat, Service, TakenBy,
};
use crate::domain::user::{Census, DirectoryId, Kind, Mapped, User, UserKey};

/// The version that this program writes, the same for all records so far.
const VERSION: u8 = 1;

/// What cannot be decoded, and why.
fn corrupt(what: &'static str) -> StoreError {
    StoreError::Corrupt(what)
}

pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder(vec![VERSION])
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    pub(super) fn time(&mut self, time: Timestamp) {
        self.signed(time.as_millisecond());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Encoder, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn window(&mut self, window: &Window) {
        self.number(window.minutes().len() as u64);
        for Minute { at, count, of } in window.minutes() {
            self.signed(*at);
            self.number(*count);
            self.number(*of);
        }
    }

    fn names(&mut self, names: &[Name]) {
        self.number(names.len() as u64);
        for name in names {
            self.text(name.as_str());
        }
    }
}

pub(super) struct Decoder<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Result<Decoder<'a>, StoreError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Decoder { rest, what }),
            Some(_) => Err(StoreError::NewerFormat),
            None => Err(corrupt(what)),
        }
    }

    fn byte(&mut self) -> Result<u8, StoreError> {
        let (&byte, rest) = self.rest.split_first().ok_or(corrupt(self.what))?;
        self.rest = rest;
        Ok(byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(corrupt(self.what))
    }

    fn signed(&mut self) -> Result<i64, StoreError> {
        let zigzag = self.number()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, StoreError> {
        Timestamp::from_millisecond(self.signed()?).map_err(|_| corrupt(self.what))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], StoreError> {
        let length = usize::try_from(self.number()?).map_err(|_| corrupt(self.what))?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(corrupt(self.what))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, StoreError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| corrupt(self.what))
    }

    pub(super) fn option<T>(
        &mut self,
        decode: impl FnOnce(&mut Decoder<'a>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match self.byte()? {
            0 => Ok(None),
            1 => decode(self).map(Some),
            _ => Err(corrupt(self.what)),
        }
    }

    fn window(&mut self) -> Result<Window, StoreError> {
        let mut minutes = Vec::new();
        for _ in 0..self.number()? {
            minutes.push(Minute { at: self.signed()?, count: self.number()?, of: self.number()? });
        }
        Ok(Window::from_minutes(minutes))
    }

    fn names(&mut self) -> Result<Vec<Name>, StoreError> {
        let count = self.number()?;
        (0..count).map(|_| self.text().map(Name::from_stored)).collect()
    }

    fn service(&mut self) -> Result<Option<Service>, StoreError> {
        let what = self.what;
        self.option(|decoder| Service::parse(decoder.text()?).ok_or(corrupt(what)))
    }
}

/// The beginning of a user's record: all that a decision needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserHead {
    pub(super) directory: DirectoryId,
    pub(super) kind: Kind,
    pub(super) enabled: bool,
    pub(super) seatless: bool,
    has_disabled_at: bool,
    pub(super) removed_at: Option<Timestamp>,
}

/// The state of an account; the last one has a time at the end of the record.
const DISABLED: u8 = 0;
const ENABLED: u8 = 1;
const DISABLED_SINCE: u8 = 2;
/// Beside the state: the mailbox needs no seat, where the licence allows it.
const SEATLESS: u8 = 4;

pub(super) fn encode_user(user: &User) -> Vec<u8> {
    let User { directory, mapped, since, removed_at, disabled_at } = user;
    let mut encoder = Encoder::new();
    encoder.number(directory.0.into());
    encoder.byte(match mapped.kind {
        Kind::Person => 0,
        Kind::Group => 1,
        Kind::List => 2,
        Kind::Resource => 3,
        Kind::Contact => 4,
    });
    let state = match (mapped.enabled, disabled_at) {
        (true, _) => ENABLED,
        (false, None) => DISABLED,
        (false, Some(_)) => DISABLED_SINCE,
    };
    encoder.byte(if mapped.seatless { state | SEATLESS } else { state });
    encoder.option(*removed_at, Encoder::time);
    encoder.time(*since);
    encoder.bytes(mapped.id.as_bytes());
    encoder.names(&mapped.addresses);
    encoder.names(&mapped.logins);
    encoder.option(mapped.display_name.as_deref(), Encoder::text);
    encoder.text(&mapped.dn);
    if let Some(at) = disabled_at.filter(|_| !mapped.enabled) {
        encoder.time(at);
    }
    encoder.0
}

fn user_head(decoder: &mut Decoder<'_>) -> Result<UserHead, StoreError> {
    let directory = u32::try_from(decoder.number()?).map_err(|_| corrupt(decoder.what))?;
    let kind = match decoder.byte()? {
        0 => Kind::Person,
        1 => Kind::Group,
        2 => Kind::List,
        3 => Kind::Resource,
        4 => Kind::Contact,
        _ => return Err(corrupt(decoder.what)),
    };
    let flags = decoder.byte()?;
    let (enabled, has_disabled_at) = match flags & !SEATLESS {
        DISABLED => (false, false),
        ENABLED => (true, false),
        DISABLED_SINCE => (false, true),
        _ => return Err(corrupt(decoder.what)),
    };
    let removed_at = decoder.option(Decoder::time)?;
    let seatless = flags & SEATLESS != 0;
    Ok(UserHead { directory: DirectoryId(directory), kind, enabled, seatless, has_disabled_at, removed_at })
}

pub(super) fn decode_user_head(bytes: &[u8]) -> Result<UserHead, StoreError> {
    user_head(&mut Decoder::new(bytes, "users")?)
}

/// The head, the stable id and the main address: what a decision about a name needs, before all the other names.
pub(super) fn decode_user_identity(bytes: &[u8]) -> Result<(UserHead, StableId, Option<Name>), StoreError> {
    let mut decoder = Decoder::new(bytes, "users")?;
    let head = user_head(&mut decoder)?;
    decoder.time()?;
    let id = StableId::new(decoder.bytes()?).ok_or(corrupt("users"))?;
    let main = if decoder.number()? > 0 { Some(Name::from_stored(decoder.text()?)) } else { None };
    Ok((head, id, main))
}

pub(super) fn decode_user(bytes: &[u8]) -> Result<User, StoreError> {
    let mut decoder = Decoder::new(bytes, "users")?;
    let UserHead { directory, kind, enabled, seatless, has_disabled_at, removed_at } =
        user_head(&mut decoder)?;
    let since = decoder.time()?;
    let id = StableId::new(decoder.bytes()?).ok_or(corrupt("users"))?;
    let addresses = decoder.names()?;
    let logins = decoder.names()?;
    let display_name = decoder.option(|decoder| decoder.text().map(Into::into))?;
    let dn = decoder.text()?.into();
    let mapped = Mapped { id, kind, enabled, seatless, logins, addresses, display_name, dn };
    let disabled_at = has_disabled_at.then(|| decoder.time()).transpose()?;
    Ok(User { directory, mapped, since, removed_at, disabled_at })
}

fn claim(encoder: &mut Encoder, claim: Claim) {
    encoder.option(claim.login, Encoder::time);
    encoder.option(claim.mail, Encoder::time);
}

fn read_claim(decoder: &mut Decoder<'_>) -> Result<Claim, StoreError> {
    Ok(Claim { login: decoder.option(Decoder::time)?, mail: decoder.option(Decoder::time)? })
}

pub(super) fn encode_claim(of: Claim) -> Vec<u8> {
    let mut encoder = Encoder::new();
    claim(&mut encoder, of);
    encoder.0
}

pub(super) fn decode_claim(bytes: &[u8]) -> Result<Claim, StoreError> {
    read_claim(&mut Decoder::new(bytes, "name_claims")?)
}

pub(super) fn encode_name(record: &NameRecord) -> Vec<u8> {
    let mut encoder = Encoder::new();
    match *record {
        NameRecord::Sole { user, claim: of, owners: Owners { login, mail } } => {
            // The owner can only be that user.
            encoder.byte(1 | u8::from(login.is_some()) << 1 | u8::from(mail.is_some()) << 2);
            encoder.number(user.0);
            claim(&mut encoder, of);
        }
        NameRecord::Contested(Owners { login, mail }) => {
            encoder.byte(0);
            for owner in [login, mail] {
                encoder.option(owner, |encoder, owner| encoder.number(owner.0));
            }
        }
    }
    encoder.0
}

pub(super) fn decode_name(bytes: &[u8]) -> Result<NameRecord, StoreError> {
    let mut decoder = Decoder::new(bytes, "name_owners")?;
    let flags = decoder.byte()?;
    if flags & 1 == 0 {
        let mut owner = || decoder.option(|decoder| decoder.number().map(UserKey));
        return Ok(NameRecord::Contested(Owners { login: owner()?, mail: owner()? }));
    }
    let user = UserKey(decoder.number()?);
    let owner = |bit: u8| (flags & bit != 0).then_some(user);
    Ok(NameRecord::Sole {
        user,
        claim: read_claim(&mut decoder)?,
        owners: Owners { login: owner(2), mail: owner(4) },
    })
}

fn encode_taken_by(encoder: &mut Encoder, by: &TakenBy) {
    let (tag, service) = match by {
        TakenBy::Login(service) => (0, service.as_ref()),
        TakenBy::Delivery(service) => (1, service.as_ref()),
        TakenBy::Administrator => (2, None),
        TakenBy::Created => (3, None),
        TakenBy::Enabled => (4, None),
        TakenBy::Imported => (5, None),
    };
    encoder.byte(tag);
    encoder.option(service, |encoder, service| encoder.text(service.as_str()));
}

fn decode_taken_by(decoder: &mut Decoder<'_>) -> Result<TakenBy, StoreError> {
    let tag = decoder.byte()?;
    let service = decoder.service()?;
    match tag {
        0 => Ok(TakenBy::Login(service)),
        1 => Ok(TakenBy::Delivery(service)),
        2 => Ok(TakenBy::Administrator),
        3 => Ok(TakenBy::Created),
        4 => Ok(TakenBy::Enabled),
        5 => Ok(TakenBy::Imported),
        _ => Err(corrupt(decoder.what)),
    }
}

pub(super) fn encode_seat(seat: &Seat) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.time(seat.granted_at);
    encode_taken_by(&mut encoder, &seat.by);
    encoder.0
}

pub(super) fn decode_seat(bytes: &[u8]) -> Result<Seat, StoreError> {
    let mut decoder = Decoder::new(bytes, "seats")?;
    Ok(Seat { granted_at: decoder.time()?, by: decode_taken_by(&mut decoder)? })
}

pub(super) fn encode_last_login(login: &LastLogin) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.time(login.at);
    encoder.option(login.service.as_ref(), |encoder, service| encoder.text(service.as_str()));
    encoder.0
}

pub(super) fn decode_last_login(bytes: &[u8]) -> Result<LastLogin, StoreError> {
    let mut decoder = Decoder::new(bytes, "last_logins")?;
    Ok(LastLogin { at: decoder.time()?, service: decoder.service()? })
}

pub(super) fn encode_refusals(refusals: &Refusals) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.time(refusals.first);
    encoder.time(refusals.last);
    encoder.number(refusals.count);
    encoder.text(&refusals.reason);
    encoder.0
}

pub(super) fn decode_refusals(bytes: &[u8]) -> Result<Refusals, StoreError> {
    let mut decoder = Decoder::new(bytes, "refusals")?;
    Ok(Refusals {
        first: decoder.time()?,
        last: decoder.time()?,
        count: decoder.number()?,
        reason: decoder.text()?.into(),
    })
}

pub(super) fn encode_ledger_event(event: &LedgerEvent) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.time(event.at);
    encoder.number(event.user.0);
    encoder.text(event.name.as_str());
    match &event.what {
        Movement::Granted(by) => {
            encoder.byte(0);
            encode_taken_by(&mut encoder, by);
        }
        Movement::Moved { from, name } => {
            encoder.byte(2);
            encoder.number(from.0);
            encoder.text(name.as_str());
        }
        Movement::Released(reason) => {
            encoder.byte(1);
            encoder.byte(match reason {
                ReleaseReason::Administrator => 0,
                ReleaseReason::Disabled => 1,
                ReleaseReason::NotAPerson => 2,
                ReleaseReason::Removed => 3,
                ReleaseReason::Exempt => 4,
                ReleaseReason::Reclaimed => 5,
                ReleaseReason::Seatless => 6,
                ReleaseReason::SamePerson => 7,
            });
        }
    }
    encoder.number(event.used_after);
    encoder.0
}

pub(super) fn decode_ledger_event(bytes: &[u8]) -> Result<LedgerEvent, StoreError> {
    let mut decoder = Decoder::new(bytes, "ledger")?;
    let at = decoder.time()?;
    let user = UserKey(decoder.number()?);
    let name = Name::from_stored(decoder.text()?);
    let what = match decoder.byte()? {
        0 => Movement::Granted(decode_taken_by(&mut decoder)?),
        1 => Movement::Released(match decoder.byte()? {
            0 => ReleaseReason::Administrator,
            1 => ReleaseReason::Disabled,
            2 => ReleaseReason::NotAPerson,
            3 => ReleaseReason::Removed,
            4 => ReleaseReason::Exempt,
            5 => ReleaseReason::Reclaimed,
            6 => ReleaseReason::Seatless,
            7 => ReleaseReason::SamePerson,
            _ => return Err(corrupt("ledger")),
        }),
        2 => Movement::Moved { from: UserKey(decoder.number()?), name: Name::from_stored(decoder.text()?) },
        _ => return Err(corrupt("ledger")),
    };
    Ok(LedgerEvent { at, user, name, what, used_after: decoder.number()? })
}

pub(super) fn encode_directory(record: &DirectoryRecord) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.number(record.id.0.into());
    encoder.number(record.generation);
    encoder.option(record.last_success, Encoder::time);
    let Census { people, disabled, tombstoned, not_people, seats } = record.census;
    for count in [people, disabled, tombstoned, not_people, seats] {
        encoder.number(count);
    }
    encoder.number(record.skipped.len() as u64);
    for (code, count) in &record.skipped {
        encoder.text(code);
        encoder.number(*count);
    }
    let losses = record.hour.losses.minutes();
    encoder.number(losses.len() as u64);
    for Minute { at, count, .. } in losses {
        encoder.signed(*at);
        encoder.number(*count);
    }
    losses.iter().for_each(|minute| encoder.number(minute.of));
    encoder.window(&record.hour.enablings);
    encoder.number(record.left_out.foreign_names);
    encoder.number(record.left_out.logins_only);
    encoder.0
}

pub(super) fn decode_directory(name: &str, bytes: &[u8]) -> Result<DirectoryRecord, StoreError> {
    let mut decoder = Decoder::new(bytes, "directories")?;
    let id = u32::try_from(decoder.number()?).map_err(|_| corrupt("directories"))?;
    let generation = decoder.number()?;
    let last_success = decoder.option(Decoder::time)?;
    let census = Census {
        people: decoder.number()?,
        disabled: decoder.number()?,
        tombstoned: decoder.number()?,
        not_people: decoder.number()?,
        seats: decoder.number()?,
    };
    let mut skipped = BTreeMap::new();
    for _ in 0..decoder.number()? {
        skipped.insert(decoder.text()?.to_owned(), decoder.number()?);
    }
    let (mut losses, mut enablings) = (Vec::new(), Window::default());
    // Older records end here,
    if !decoder.rest.is_empty() {
        for _ in 0..decoder.number()? {
            losses.push(Minute { at: decoder.signed()?, count: decoder.number()?, of: 0 });
        }
    }
    // or here.
    if !decoder.rest.is_empty() {
        for minute in &mut losses {
            minute.of = decoder.number()?;
        }
        enablings = decoder.window()?;
    }
    let left_out = match decoder.rest.is_empty() {
        true => LeftOut::default(),
        false => LeftOut { foreign_names: decoder.number()?, logins_only: decoder.number()? },
    };
    Ok(DirectoryRecord {
        id: DirectoryId(id),
        name: name.to_owned(),
        generation,
        last_success,
        census,
        skipped,
        left_out,
        hour: Hour { losses: Window::from_minutes(losses), enablings },
    })
}

pub(super) fn encode_window(window: &Window) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.window(window);
    encoder.0
}

pub(super) fn decode_window(bytes: &[u8]) -> Result<Window, StoreError> {
    Decoder::new(bytes, "brakes")?.window()
}

pub(super) fn encode_cookie(cookie: &Cookie) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.text(&cookie.valid_for);
    encoder.bytes(&cookie.bytes);
    encoder.option(cookie.proof.as_ref(), |encoder, proof| {
        encoder.time(proof.at);
        encoder.bytes(&proof.bytes);
    });
    encoder.0
}

pub(super) fn decode_cookie(bytes: &[u8]) -> Result<Cookie, StoreError> {
    let mut decoder = Decoder::new(bytes, "cookies")?;
    Ok(Cookie {
        valid_for: decoder.text()?.to_owned(),
        bytes: decoder.bytes()?.to_vec(),
        proof: match decoder.rest {
            // Older records end here.
            [] => None,
            _ => decoder
                .option(|decoder| Ok(Proof { at: decoder.time()?, bytes: decoder.bytes()?.to_vec() }))?,
        },
    })
}

#[cfg(test)]
mod tests;
