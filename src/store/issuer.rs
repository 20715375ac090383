//! The licence server's own file: what was sold, and which activation key belongs to it.
//!
//! The terms are bytes to the store. Reads and changes are rare and small, so each is one transaction.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tracing::{error, info};

use super::StoreError;
use super::codec::{Decoder, Encoder};
use super::file::{self, Check, Opened, StoreFile, begin, guarded};
use super::medium::Medium;

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

/// Shortest time between two attempts to open the file again: whoever asks `/healthz` may ask often.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// The open file. One process has it at a time.
pub struct IssuerStore(Mutex<Inner>);

struct Inner {
    medium: Box<dyn Medium>,
    opened: Opened,
    /// Why nothing is written, if so.
    trouble: Option<String>,
    retry_at: Instant,
}

impl IssuerStore {
    /// Opens the file, or creates it, readable by its owner alone.
    pub fn open(path: &Path) -> Result<IssuerStore, StoreError> {
        IssuerStore::over(Box::new(StoreFile::hold(path)?))
    }

    fn over(medium: Box<dyn Medium>) -> Result<IssuerStore, StoreError> {
        let opened = open(&*medium)?;
        let mut inner = Inner { medium, opened, trouble: None, retry_at: Instant::now() };
        // What was sold can be read all the same.
        if inner.write(|_| Ok::<_, StoreError>(())).is_ok() {
            inner.medium.keep_ballast();
        }
        Ok(IssuerStore(Mutex::new(inner)))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whatever a panic interrupted, the file is opened again if it has to be.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes are written. Tries again where they were not.
    pub fn health(&self) -> Result<(), StoreError> {
        let mut inner = self.inner();
        inner.recover()?;
        inner.medium.keep_ballast();
        Ok(())
    }

    /// What was sold under this id.
    pub fn sale(&self, id: &str) -> Result<Option<Sale>, StoreError> {
        self.inner()
            .read(|txn| txn.open_table(SALES)?.get(id)?.map(|bytes| decode(bytes.value())).transpose())
    }

    /// The licence that an activation key belongs to.
    pub fn id_by_key(&self, digest: &[u8]) -> Result<Option<String>, StoreError> {
        self.inner().read(|txn| Ok(txn.open_table(KEYS)?.get(digest)?.map(|id| id.value().to_owned())))
    }

    /// Everything that was sold, by id.
    pub fn sales(&self) -> Result<Vec<(String, Sale)>, StoreError> {
        self.inner().read(|txn| {
            let sales = txn.open_table(SALES)?;
            let row = |row: Result<
                (redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>),
                redb::StorageError,
            >| {
                let (id, bytes) = row?;
                Ok((id.value().to_owned(), decode(bytes.value())?))
            };
            sales.iter()?.map(row).collect()
        })
    }

    /// Changes what was sold under an id in one transaction; on disk when this returns. An error of `change`
    /// changes nothing.
    pub fn change<E: From<StoreError>>(
        &self,
        id: &str,
        change: impl FnOnce(Option<Sale>) -> Result<Sale, E>,
    ) -> Result<Sale, E> {
        let mut inner = self.inner();
        inner.recover()?;
        inner.write(|txn| {
            let read = || -> Result<Option<Sale>, StoreError> {
                txn.open_table(SALES)?.get(id)?.map(|bytes| decode(bytes.value())).transpose()
            };
            let old = read()?;
            let old_digest = old.as_ref().map(|old| old.key_digest.clone());
            let new = change(old)?;
            insert(txn, id, &new, old_digest)?;
            Ok(new)
        })
    }
}

fn insert(
    txn: &WriteTransaction,
    id: &str,
    new: &Sale,
    old_digest: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    txn.open_table(SALES)?.insert(id, encode(new).as_slice())?;
    let mut keys = txn.open_table(KEYS)?;
    if let Some(old) = old_digest.filter(|old| *old != new.key_digest) {
        keys.remove(old.as_slice())?;
    }
    keys.insert(new.key_digest.as_slice(), id)?;
    Ok(())
}

/// Opens the file and makes the tables of a new one.
fn open(medium: &dyn Medium) -> Result<Opened, StoreError> {
    let opened = file::open(medium, Check::IfSmall)?;
    guarded(medium.path(), || {
        let txn = begin(&opened.db)?;
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
        Ok(txn.commit()?)
    })?;
    Ok(opened)
}

impl Inner {
    fn read<T>(
        &mut self,
        read: impl Fn(&redb::ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let attempt = |opened: &Opened| read(&opened.db.begin_read()?);
        match attempt(&self.opened) {
            // redb answers nothing any more once it could not read.
            Err(StoreError::Storage(_)) => {
                self.reopen()?;
                attempt(&self.opened)
            }
            outcome => outcome,
        }
    }

    /// One transaction. Where it did not reach the disk that is an error, whatever redb believes.
    fn write<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let txn = begin(&self.opened.db).inspect_err(|error| self.note(error))?;
        let done = work(&txn)?;
        let commit = || -> Result<(), StoreError> {
            txn.commit()?;
            self.opened.is_written()
        };
        if let Err(error) = commit() {
            self.note(&error);
            return Err(StoreError::InTrouble(self.trouble.clone().unwrap_or_default()).into());
        }
        Ok(done)
    }

    fn note(&mut self, error: &StoreError) {
        let reason =
            self.opened.disk.failure().map_or(error.to_string(), |failure| failure.error.to_string());
        let path = self.medium.path().display();
        let problem = format!("{path} cannot be written: {reason}");
        if self.trouble.is_none() {
            error!(
                event = "store_in_trouble",
                reason,
                "{problem}. Licences are refreshed, but none is sold, activated or given back until it can be: make \
                 room, or see to the disk. The server goes on by itself."
            );
        }
        self.trouble = Some(problem);
    }

    /// Ends trouble that is over. An error says what it is.
    fn recover(&mut self) -> Result<(), StoreError> {
        let medium = &self.medium;
        if !(medium.has_room() || medium.give_up_ballast() && medium.has_room()) {
            self.note(&StoreError::Storage(redb::Error::Io(std::io::ErrorKind::StorageFull.into())));
        }
        let Some(problem) = self.trouble.clone() else { return Ok(()) };
        if !self.medium.has_room() || self.retry_at > Instant::now() {
            return Err(StoreError::InTrouble(problem));
        }
        self.retry_at = Instant::now() + RETRY_EVERY;
        if let Err(error) = self.reopen().and_then(|()| self.opened.probe(META)) {
            self.note(&error);
            return Err(StoreError::InTrouble(problem));
        }
        self.trouble = None;
        info!("{} is written again.", self.medium.path().display());
        Ok(())
    }

    /// Lets go of the database, and opens what is on disk.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let failed = |error| StoreError::Storage(redb::Error::Io(error));
        if self.opened.disk.failure().is_some_and(|failure| failure.is_sync) {
            self.medium.drop_cache();
        }
        self.opened.disk.give_up().map_err(failed)?;
        self.opened = open(&*self.medium)?;
        Ok(())
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
