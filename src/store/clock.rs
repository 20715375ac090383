//! The time that is kept, so that a restart goes on from it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use redb::{Database, ReadableDatabase, TableDefinition, TableError, WriteTransaction};

use super::StoreError;
use super::codec::{Decoder, Encoder};
use crate::domain::clock::{Cause, Doubt, Kept};

/// One row, [`ROW`].
pub(super) const CLOCK: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("clock");
const ROW: &str = "clock";

/// What was kept, or what a store of an earlier program knows: the highest time that its license has seen.
pub(super) fn kept(db: &Database) -> Result<Option<Kept>, StoreError> {
    let txn = db.begin_read()?;
    let kept = match txn.open_table(CLOCK) {
        Ok(table) => table.get(ROW)?.map(|bytes| decode(bytes.value())).transpose()?,
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if kept.is_some() {
        return Ok(kept);
    }
    let seen = super::license::time_seen(&txn)?;
    Ok(seen.map(|trusted| Kept { trusted, floor: Timestamp::UNIX_EPOCH, doubt: None }))
}

/// Writes it with whatever else a transaction writes.
pub(super) fn keep(txn: &WriteTransaction, kept: &Kept) -> Result<(), StoreError> {
    txn.open_table(CLOCK)?.insert(ROW, encode(kept).as_slice())?;
    Ok(())
}

fn encode(kept: &Kept) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.time(kept.trusted);
    encoder.time(kept.floor);
    encoder.option(kept.doubt, |encoder, Doubt { cause, since, ahead, ran }| {
        encoder.number(match cause {
            Cause::Ahead => 0,
            Cause::BeforeBuild => 1,
        });
        encoder.time(since);
        // What is before the build is behind, and its distance does not matter.
        encoder.number(u64::try_from(ahead.as_millis()).unwrap_or_default());
        encoder.number(u64::try_from(ran.as_millis()).unwrap_or(u64::MAX));
    });
    encoder.into_bytes()
}

fn decode(bytes: &[u8]) -> Result<Kept, StoreError> {
    let mut decoder = Decoder::new(bytes, "clock")?;
    let (trusted, floor) = (decoder.time()?, decoder.time()?);
    let doubt = decoder.option(|decoder| {
        Ok(Doubt {
            cause: match decoder.number()? {
                0 => Cause::Ahead,
                1 => Cause::BeforeBuild,
                _ => return Err(StoreError::Corrupt("clock")),
            },
            since: decoder.time()?,
            ahead: SignedDuration::from_millis(i64::try_from(decoder.number()?).unwrap_or(i64::MAX)),
            ran: Duration::from_millis(decoder.number()?),
        })
    })?;
    Ok(Kept { trusted, floor, doubt })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_survives() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ahead = SignedDuration::from_hours(31 * 24);
        let doubt = Doubt { cause: Cause::Ahead, since: at(7), ahead, ran: Duration::from_secs(9) };
        let kept = Kept { trusted: at(1_800_000_000), floor: at(1_700_000_000), doubt: Some(doubt) };
        let before = Doubt { cause: Cause::BeforeBuild, ahead: SignedDuration::ZERO, ..doubt };
        for kept in [kept, Kept { doubt: None, ..kept }, Kept { doubt: Some(before), ..kept }] {
            let bytes = encode(&kept);
            assert_eq!(decode(&bytes).unwrap(), kept);
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }
}
