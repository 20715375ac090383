//! The licence server's own file: what was sold, and which activation key belongs to it.
//!
//! The terms are bytes to the store. Reads and changes are rare and small, so each is one transaction.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::codec::{Decoder, Encoder};
use super::{StoreError, open_database};

/// Licence id to what was sold.
const SALES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("sales");
/// Digest of an activation key to the licence id.
const KEYS: TableDefinition<'static, &[u8], &str> = TableDefinition::new("keys");
/// `format`.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("issuer_meta");

/// The number in the file that says how its tables are laid out.
const FORMAT: u64 = 1;

/// One licence that was sold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sale {
    /// The claims of its current issue.
    pub claims: Vec<u8>,
    /// SHA-256 of its activation key: the key itself is known to the customer alone.
    pub key_digest: Vec<u8>,
    /// Its refreshes are refused.
    pub is_revoked: bool,
}

fn encode(sale: &Sale) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.bytes(&sale.claims);
    encoder.bytes(&sale.key_digest);
    encoder.number(u64::from(sale.is_revoked));
    encoder.into_bytes()
}

fn decode(bytes: &[u8]) -> Result<Sale, StoreError> {
    let mut decoder = Decoder::new(bytes, "sales")?;
    Ok(Sale {
        claims: decoder.bytes()?.to_vec(),
        key_digest: decoder.bytes()?.to_vec(),
        is_revoked: decoder.number()? != 0,
    })
}

/// The open file. One process has it at a time.
pub struct IssuerStore {
    db: Database,
}

impl IssuerStore {
    /// Opens the file, or creates it, readable by its owner alone.
    pub fn open(path: &Path) -> Result<IssuerStore, StoreError> {
        let db = open_database(path)?;
        let txn = db.begin_write()?;
        {
            let mut meta = txn.open_table(META)?;
            let found = meta.get("format")?.map(|format| format.value());
            match found {
                Some(FORMAT) => {}
                Some(_) => return Err(StoreError::NewerFormat),
                None => drop(meta.insert("format", FORMAT)?),
            }
            txn.open_table(SALES)?;
            txn.open_table(KEYS)?;
        }
        txn.commit()?;
        Ok(IssuerStore { db })
    }

    /// What was sold under this id.
    pub fn sale(&self, id: &str) -> Result<Option<Sale>, StoreError> {
        let txn = self.db.begin_read()?;
        txn.open_table(SALES)?.get(id)?.map(|bytes| decode(bytes.value())).transpose()
    }

    /// The licence that an activation key belongs to.
    pub fn id_by_key(&self, digest: &[u8]) -> Result<Option<String>, StoreError> {
        let txn = self.db.begin_read()?;
        Ok(txn.open_table(KEYS)?.get(digest)?.map(|id| id.value().to_owned()))
    }

    /// Everything that was sold, by id.
    pub fn sales(&self) -> Result<Vec<(String, Sale)>, StoreError> {
        let txn = self.db.begin_read()?;
        let sales = txn.open_table(SALES)?;
        let row =
            |row: Result<(redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>), redb::StorageError>| {
                let (id, bytes) = row?;
                Ok((id.value().to_owned(), decode(bytes.value())?))
            };
        sales.iter()?.map(row).collect()
    }

    /// Changes what was sold under an id in one transaction; on disk when this returns. An error of `change`
    /// changes nothing.
    pub fn change<E: From<StoreError>>(
        &self,
        id: &str,
        change: impl FnOnce(Option<Sale>) -> Result<Sale, E>,
    ) -> Result<Sale, E> {
        let begin = || -> Result<redb::WriteTransaction, StoreError> {
            let mut txn = self.db.begin_write()?;
            txn.set_quick_repair(true);
            Ok(txn)
        };
        let txn = begin()?;
        let read = || -> Result<Option<Sale>, StoreError> {
            txn.open_table(SALES)?.get(id)?.map(|bytes| decode(bytes.value())).transpose()
        };
        let old = read()?;
        let old_digest = old.as_ref().map(|old| old.key_digest.clone());
        let new = change(old)?;
        let write = || -> Result<(), StoreError> {
            txn.open_table(SALES)?.insert(id, encode(&new).as_slice())?;
            let mut keys = txn.open_table(KEYS)?;
            if let Some(old) = old_digest.filter(|old| *old != new.key_digest) {
                keys.remove(old.as_slice())?;
            }
            keys.insert(new.key_digest.as_slice(), id)?;
            Ok(())
        };
        write()?;
        let commit = || -> Result<(), StoreError> { Ok(txn.commit()?) };
        commit()?;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sold_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("licenses.redb");
        let sale = Sale { claims: b"{}".to_vec(), key_digest: vec![7; 32], is_revoked: false };
        let store = IssuerStore::open(&path).unwrap();
        assert!(matches!(IssuerStore::open(&path), Err(StoreError::AlreadyOpen(_))));
        store
            .change("L-1", |old| {
                assert_eq!(old, None);
                Ok::<_, StoreError>(sale.clone())
            })
            .unwrap();
        drop(store);
        let store = IssuerStore::open(&path).unwrap();
        assert_eq!(store.sale("L-1").unwrap(), Some(sale.clone()));
        assert_eq!(store.id_by_key(&[7; 32]).unwrap().as_deref(), Some("L-1"));
        let refused = store.change("L-1", |_| Err::<Sale, _>(StoreError::Stopped));
        assert!(refused.is_err());
        let new = Sale { key_digest: vec![8; 32], is_revoked: true, ..sale };
        store.change("L-1", |_| Ok::<_, StoreError>(new.clone())).unwrap();
        assert_eq!(store.id_by_key(&[7; 32]).unwrap(), None);
        assert_eq!(store.sales().unwrap(), [("L-1".to_owned(), new)]);
    }
}
