//! The format of the file: a new store gets its tables, that of an earlier program is brought up to date, and that of a
//! later one is refused. Each step is whole or not at all, and the original number is only replaced with the last.

use std::sync::Arc;

use redb::{Database, ReadableTable};

use super::directories::{self, Directories};
use super::file::begin;
use super::names::{from_format_3, stored_rules};
use super::tables::{DIRECTORIES, META, SETTINGS};
use super::transaction::Transaction;
use super::{FORMAT, StoreError};
use crate::domain::names::NameRules;

/// Makes the tables fit this program. Returns what is kept decoded: the directory records, and the rules that the
/// tables of names follow from.
pub(super) fn prepare(db: &Database) -> Result<(Directories, Arc<NameRules>), StoreError> {
    let txn = begin(db)?;
    let found = txn.open_table(META)?.get("format")?.map(|format| format.value());
    match found {
        None | Some(FORMAT) => {}
        // 1 knew no accounts, 2 no signed licenses: they only lack tables. 3 had one owner for each name.
        Some(1..=3) => from_format_3(&txn)?,
        Some(_) => return Err(StoreError::NewerFormat),
    }
    let rules = Arc::new(stored_rules(&txn.open_table(SETTINGS)?)?);
    let directories = directories::stored(&txn.open_table(DIRECTORIES)?)?;
    if found == Some(FORMAT) {
        txn.abort()?;
        return Ok((directories, rules));
    }
    // Opening a table makes it.
    Transaction::open(&txn, directories.clone(), Arc::clone(&rules))?.finish()?;
    txn.open_table(META)?.insert("format", FORMAT)?;
    txn.commit()?;
    Ok((directories, rules))
}
