//! A backup: every table of one read view in a stream that ends with a checksum. It holds rows rather than pages, so it
//! is smaller than the store, needs no pause of the writer, and can be restored by later programs.
//!
//! The stream is [`MAGIC`], a line of JSON ([`BackupInfo`]), then records that begin with a tag: a table (the length of
//! its name and the name), a row of it (the lengths of key and value, key, value), the end (the number of rows). Lengths
//! are 32 bits and the number 64 bits, little-endian. The last 32 bytes are the SHA-256 of all before them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use jiff::Timestamp;
use redb::{
    Database, Key, ReadableTable, ReadableTableMetadata, TableDefinition, TableError, TableHandle, Value,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::file::{self, guarded};
use super::tables::{TableVisitor, visit_tables};
use super::{FORMAT, ReadView, StoreError};

/// What every backup begins with.
const MAGIC: &[u8] = b"seatkeeper backup 1\n";

const TABLE: u8 = 1;
const ROW: u8 = 2;
const END: u8 = 3;

/// The longest line of JSON that is read; ours have some 150 bytes.
const MAX_HEADER: u64 = 4096;

/// What a backup says of itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct BackupInfo {
    /// The format of the store's tables.
    pub format: u64,
    /// The program that made it.
    pub version: String,
    /// When it was made.
    pub created: Timestamp,
    /// Users in it, removed ones and other entries included.
    pub users: u64,
    /// Seats that were in use.
    pub seats: u64,
}

/// Why a backup is not made, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another user's.
    #[error("permission denied; run this as root, or as the user that the daemon runs as")]
    Forbidden,
    /// Another file.
    #[error("this is no backup of seatkeeper")]
    NoBackup,
    /// A file without a byte.
    #[error("the file is empty: it is neither a store nor a backup")]
    Empty,
    /// Cut short, or changed.
    #[error("the backup is damaged ({0}): take another one")]
    Damaged(&'static str),
    /// A later program's.
    #[error("the backup was made by a newer version of seatkeeper ({0}): install that version")]
    Newer(String),
}

impl BackupError {
    /// Whether the file itself is to blame, and not what reads it.
    pub fn is_damage(&self) -> bool {
        match self {
            BackupError::Damaged(_) => true,
            BackupError::Store(error) => {
                matches!(error, StoreError::Damaged { .. } | StoreError::Corrupt(_) | StoreError::Storage(_))
            }
            _ => false,
        }
    }
}

impl ReadView {
    /// Writes a backup of this view. Blocks; the writer goes on meanwhile.
    pub fn back_up(&self, created: Timestamp, out: impl Write) -> Result<BackupInfo, BackupError> {
        let info = BackupInfo {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created,
            users: self.users.len().map_err(StoreError::from)?,
            seats: self.seats.len().map_err(StoreError::from)?,
        };
        let mut out = BufWriter::new(Summing { inner: out, sum: Context::new(&SHA256) });
        out.write_all(MAGIC)?;
        serde_json::to_writer(&mut out, &info).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        let mut dump = Dump { view: self, out, rows: 0 };
        visit_tables(&mut dump)?;
        let Dump { mut out, rows, .. } = dump;
        out.write_all(&[END])?;
        out.write_all(&rows.to_le_bytes())?;
        let Summing { mut inner, sum } = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        inner.write_all(sum.finish().as_ref())?;
        inner.flush()?;
        Ok(info)
    }
}

struct Summing<W> {
    inner: W,
    sum: Context,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the rows of the tables that it visits.
struct Dump<'a, W> {
    view: &'a ReadView,
    out: W,
    rows: u64,
}

impl<W: Write> Dump<'_, W> {
    fn part(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn len(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        self.part(&len.to_le_bytes())
    }
}

impl<W: Write> TableVisitor for Dump<'_, W> {
    type Error = BackupError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), BackupError> {
        let table = match self.view.txn.open_table(definition) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(StoreError::from(error).into()),
        };
        let name = definition.name().as_bytes();
        self.part(&[TABLE])?;
        self.len(name)?;
        self.part(name)?;
        for row in table.iter().map_err(StoreError::from)? {
            let (key, value) = row.map_err(StoreError::from)?;
            let (key, value) = (key.value(), value.value());
            let (key, value) = (K::as_bytes(&key), V::as_bytes(&value));
            self.part(&[ROW])?;
            self.len(key.as_ref())?;
            self.len(value.as_ref())?;
            self.part(key.as_ref())?;
            self.part(value.as_ref())?;
            self.rows += 1;
        }
        Ok(())
    }
}

/// Whether a file begins like a backup; false where it cannot be read.
pub fn is_backup(path: &Path) -> bool {
    file::open_regular(path).is_ok_and(|mut file| begins_like_a_backup(&mut file))
}

fn begins_like_a_backup(file: &mut File) -> bool {
    let mut begin = [0; MAGIC.len()];
    file.read_exact(&mut begin).is_ok() && begin == MAGIC
}

/// Reads a whole backup and compares its checksum. Blocks.
pub fn check_backup(path: &Path) -> Result<BackupInfo, BackupError> {
    Ok(Backup::open(path)?.info)
}

/// A backup whose checksum is right.
pub(super) struct Backup {
    pub(super) info: BackupInfo,
    /// Behind the line of JSON.
    records: BufReader<File>,
    /// Bytes from there to the checksum.
    left: u64,
}

impl Backup {
    pub(super) fn open(path: &Path) -> Result<Backup, BackupError> {
        let mut file = file::open_regular(path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => BackupError::Forbidden,
            _ => BackupError::Io(error),
        })?;
        if !begins_like_a_backup(&mut file) {
            return Err(BackupError::NoBackup);
        }
        file.rewind()?;
        let len = file.metadata()?.len();
        let Some(summed) = len.checked_sub((MAGIC.len() + SHA256_OUTPUT_LEN) as u64) else {
            return Err(BackupError::Damaged("it is cut short"));
        };
        let summed = summed + MAGIC.len() as u64;
        check_sum(&file, summed)?;
        file.seek(io::SeekFrom::Start(MAGIC.len() as u64))?;
        let mut records = BufReader::new(file);
        let mut line = Vec::new();
        io::BufRead::read_until(&mut (&mut records).take(MAX_HEADER), b'\n', &mut line)?;
        let left = summed.checked_sub((MAGIC.len() + line.len()) as u64);
        let info = serde_json::from_slice(&line).ok();
        let (Some(info), Some(left)) = (info, left) else {
            return Err(BackupError::Damaged("its first lines"));
        };
        let info: BackupInfo = info;
        if info.format > FORMAT {
            return Err(BackupError::Newer(info.version));
        }
        Ok(Backup { info, records, left })
    }

    /// Writes all rows to an empty database, durably. The checksum only shows that nothing was changed by accident, so
    /// what does not fit the tables is an error and no panic.
    pub(super) fn load(mut self, path: &Path, db: &Database) -> Result<BackupInfo, BackupError> {
        let loaded = guarded(path, || {
            let txn = db.begin_write()?;
            let loaded = self.load_into(&txn);
            if loaded.is_ok() {
                txn.commit()?;
            }
            Ok(loaded)
        });
        loaded??;
        Ok(self.info)
    }

    fn load_into(&mut self, txn: &WriteTransaction) -> Result<(), BackupError> {
        let mut rows = 0;
        let mut tag = self.tag()?;
        while tag == TABLE {
            let name_len = self.number()?;
            let name = self.bytes(name_len)?;
            let mut load = Load { backup: self, txn, name, rows: 0, next: None };
            visit_tables(&mut load)?;
            rows += load.rows;
            tag = load.next.ok_or(BackupError::Damaged("it has a table that no store has"))?;
        }
        let mut count = [0; 8];
        self.fill(&mut count)?;
        match tag == END && self.left == 0 && rows == u64::from_le_bytes(count) {
            true => Ok(()),
            false => Err(BackupError::Damaged("its rows are not those that were written")),
        }
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), BackupError> {
        let left = self.left.checked_sub(out.len() as u64);
        self.left = left.ok_or(BackupError::Damaged("it ends in the middle of a row"))?;
        Ok(self.records.read_exact(out)?)
    }

    fn tag(&mut self) -> Result<u8, BackupError> {
        let mut tag = [0];
        self.fill(&mut tag)?;
        Ok(tag[0])
    }

    fn number(&mut self) -> Result<u32, BackupError> {
        let mut number = [0; 4];
        self.fill(&mut number)?;
        Ok(u32::from_le_bytes(number))
    }

    /// No longer than what is left of the file.
    fn bytes(&mut self, len: u32) -> Result<Vec<u8>, BackupError> {
        if u64::from(len) > self.left {
            return Err(BackupError::Damaged("it ends in the middle of a row"));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// Compares the checksum of the first `len` bytes with what follows them.
fn check_sum(file: &File, len: u64) -> Result<(), BackupError> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut sum = Summing { inner: io::sink(), sum: Context::new(&SHA256) };
    io::copy(&mut (&mut reader).take(len), &mut sum)?;
    let mut expected = [0; SHA256_OUTPUT_LEN];
    reader.read_exact(&mut expected)?;
    match sum.sum.finish().as_ref() == expected {
        true => Ok(()),
        false => Err(BackupError::Damaged("its checksum is wrong")),
    }
}

/// Reads the rows of one table, when that is visited.
struct Load<'a> {
    backup: &'a mut Backup,
    txn: &'a WriteTransaction,
    name: Vec<u8>,
    rows: u64,
    /// The tag behind the rows.
    next: Option<u8>,
}

impl TableVisitor for Load<'_> {
    type Error = BackupError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), BackupError> {
        if definition.name().as_bytes() != self.name {
            return Ok(());
        }
        let mut table = self.txn.open_table(definition).map_err(StoreError::from)?;
        let next = loop {
            let tag = self.backup.tag()?;
            if tag != ROW {
                break tag;
            }
            let (key_len, value_len) = (self.backup.number()?, self.backup.number()?);
            let (key, value) = (self.backup.bytes(key_len)?, self.backup.bytes(value_len)?);
            table.insert(K::from_bytes(&key), V::from_bytes(&value)).map_err(StoreError::from)?;
            self.rows += 1;
        };
        self.next = Some(next);
        Ok(())
    }
}
