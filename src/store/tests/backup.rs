//! A backup has every row of every table, and nothing in one can do harm.

use std::io::Write;

use aws_lc_rs::digest::{SHA256, digest};
use redb::backends::InMemoryBackend;
use redb::{Key, TableDefinition, TableError, Value};

use super::*;
use crate::store::backup::{Backup, BackupError};
use crate::store::tables::{TableVisitor, visit_tables};

/// Tables with their rows, as text.
#[derive(Default)]
struct Contents(BTreeMap<String, Vec<String>>);

struct Reader<'a> {
    txn: &'a redb::ReadTransaction,
    contents: Contents,
}

impl TableVisitor for Reader<'_> {
    type Error = TableError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), TableError> {
        let opened = self.txn.open_table(table)?;
        let rows = opened.iter()?.map(|row| {
            let (key, value) = row.unwrap();
            format!("{:?}: {:?}", key.value(), value.value())
        });
        self.contents.0.insert(table.name().to_owned(), rows.collect());
        Ok(())
    }
}

fn contents(view: &ReadView) -> BTreeMap<String, Vec<String>> {
    let mut reader = Reader { txn: &view.txn, contents: Contents::default() };
    visit_tables(&mut reader).unwrap();
    reader.contents.0
}

fn empty() -> Database {
    Builder::new().create_with_backend(InMemoryBackend::new()).unwrap()
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// What a backup has of a store in which something has happened.
fn back_up() -> (Vec<u8>, BackupInfo, BTreeMap<String, Vec<String>>) {
    let made = Mutex::new(None);
    with_store(2, async |store, directory| {
        for id in 1..20 {
            upsert(store, directory, mapped(id, &[&format!("u{id}@x.org"), "all@x.org"]), 0).await;
        }
        for user in ["u1@x.org", "u2@x.org", "u3@x.org"] {
            login(store, user).await;
        }
        store.keep_time().await.unwrap();
        let view = store.view();
        let tables = view.txn.list_tables().unwrap().map(|table| table.name().to_owned());
        let (mut tables, contents): (Vec<String>, _) = (tables.collect(), contents(&view));
        tables.sort_unstable();
        assert_eq!(contents.keys().cloned().collect::<Vec<_>>(), tables, "visit_tables names them all");
        let mut bytes = Vec::new();
        let info = view.back_up(at(7), &mut bytes).unwrap();
        *made.lock().unwrap() = Some((bytes, info, contents));
    });
    made.into_inner().unwrap().unwrap()
}

#[test]
fn a_backup_has_every_row_of_every_table() {
    let (bytes, info, before) = back_up();
    assert!(before.values().filter(|rows| !rows.is_empty()).count() > 8, "{before:?}");
    assert_eq!((info.users, info.seats, info.created), (19, 2, at(7)));
    let (db, file) = (empty(), file(&bytes));
    let restored = Backup::open(file.path()).unwrap();
    assert_eq!(restored.load(file.path(), &db).unwrap(), info);
    let again = crate::store::trouble::view(&db).unwrap();
    assert_eq!(contents(&again), before);
    assert_eq!(again.verify().unwrap(), []);
}

/// Whoever changes a backup on purpose can make the checksum fit.
#[test]
fn what_does_not_fit_the_tables_is_an_error() {
    let (mut bytes, ..) = back_up();
    bytes.truncate(bytes.len() - 32);
    let begin = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0 + 1;
    let (mut refused, mut taken) = (0, 0);
    for place in (begin..bytes.len()).step_by(7) {
        let mut changed = bytes.clone();
        changed[place] ^= 0x80;
        let sum = digest(&SHA256, &changed);
        changed.extend_from_slice(sum.as_ref());
        let file = file(&changed);
        match Backup::open(file.path()).unwrap().load(file.path(), &empty()) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 50 && taken > 50, "{refused} refused, {taken} taken");
}

#[test]
fn a_later_programs_backup_is_refused() {
    let (bytes, ..) = back_up();
    let later = String::from_utf8_lossy(&bytes[..60]).replace("\"format\":4", "\"format\":5");
    let mut changed = later.into_bytes();
    changed.extend_from_slice(&bytes[60..bytes.len() - 32]);
    let sum = digest(&SHA256, &changed);
    changed.extend_from_slice(sum.as_ref());
    let file = file(&changed);
    assert!(matches!(Backup::open(file.path()), Err(BackupError::Newer(_))));
}
