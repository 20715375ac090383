//! Where the bytes of a store are, and what happens when it takes no more writes.
//!
//! redb refuses everything, reads included, after one failed write. So it never hears of a failed write: the
//! [`Overlay`] freezes instead. From then on all writes stay in memory, reads of what was committed before go on as
//! ever, and whoever commits asks [`Overlay::failure`] before believing in the commit.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::StorageBackend;

/// Less free space than this is a full disk: a transaction of logins writes some 100 KiB, and who stops before the
/// last block leaves some to those who can make room.
pub(super) const MIN_FREE: u64 = 1 << 20;

/// A place that a store can be opened in, and opened again when writing failed.
pub(super) trait Medium: Send + 'static {
    /// The store's file, for messages.
    fn path(&self) -> &Path;

    /// The bytes, and why they can only be read, if so.
    fn open(&self) -> io::Result<(Box<dyn StorageBackend>, Option<io::Error>)>;

    /// Bytes that may still be written; `None` where that is unknown.
    fn free(&self) -> Option<u64> {
        None
    }

    /// Whether there is room for a change.
    fn has_room(&self) -> bool {
        self.free().is_none_or(|free| free >= MIN_FREE)
    }

    /// Whether there is not a byte on it.
    fn is_empty(&self) -> bool {
        false
    }

    /// Takes away what was written to an empty one, where that did not become a store.
    fn clear(&self) {}

    /// Gives up the space that was set aside; false where there was none.
    fn give_up_ballast(&self) -> bool {
        false
    }

    /// Sets space aside where there is plenty; whether there is some now.
    fn keep_ballast(&self) -> bool {
        false
    }

    /// Makes the next reads see what is really on disk: after a failed fsync(2) the system's cache may hold pages
    /// that are not.
    fn drop_cache(&self) {}
}

/// The unit in which written bytes are kept in memory: a page of redb.
const BLOCK: u64 = 4096;

/// Blocks that a frozen overlay keeps: 256 MiB, more than the largest transaction (an import, or a migration of half
/// a million users) writes. Past that, writes fail.
const MAX_BLOCKS: usize = 65_536;

/// Bytes on a medium, and in memory what could not be written to it. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Overlay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    below: Box<dyn StorageBackend>,
    is_frozen: AtomicBool,
    over: Mutex<Over>,
    failure: OnceLock<Failure>,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Over {
    len: u64,
    blocks: HashMap<u64, Box<[u8]>>,
}

/// The first write that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the system said.
    pub(super) error: io::Error,
    /// The data was written, but could not be made durable: the system may have forgotten some of it.
    pub(super) is_sync: bool,
}

impl Overlay {
    /// Over these bytes; frozen from the beginning where they cannot be written.
    pub(super) fn new(below: Box<dyn StorageBackend>, read_only: Option<io::Error>) -> io::Result<Overlay> {
        let len = below.len()?;
        let inner = Inner {
            below,
            is_frozen: AtomicBool::new(false),
            over: Mutex::new(Over { len, blocks: HashMap::new() }),
            failure: OnceLock::new(),
        };
        let overlay = Overlay(Arc::new(inner));
        if let Some(error) = read_only {
            overlay.fail(error, false)?;
        }
        Ok(overlay)
    }

    /// Why nothing is written to the medium any more.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.0.failure.get()
    }

    /// Writes nothing to the medium from now on: another overlay is about to.
    pub(super) fn give_up(&self) -> io::Result<()> {
        self.fail(io::Error::other("the file was opened again"), false)
    }

    fn freeze(&self) -> io::Result<()> {
        if !self.is_frozen() {
            let mut over = self.over();
            over.len = self.0.below.len()?;
            self.0.is_frozen.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn is_frozen(&self) -> bool {
        self.0.is_frozen.load(Ordering::Acquire)
    }

    fn fail(&self, error: io::Error, is_sync: bool) -> io::Result<()> {
        // Only the first failure counts.
        let _ = self.0.failure.set(Failure { error, is_sync });
        self.freeze()
    }

    fn over(&self) -> MutexGuard<'_, Over> {
        self.0.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a write of redb, in memory if it cannot be done below.
    fn write_or_freeze(
        &self,
        below: impl FnOnce() -> io::Result<()>,
        above: impl FnOnce(&mut Over) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.is_frozen() {
            match below() {
                Ok(()) => return Ok(()),
                Err(error) => self.fail(error, false)?,
            }
        }
        above(&mut self.over())
    }

    /// A block as it was written last, with zeros behind the end.
    fn block(&self, over: &Over, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(block) = over.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK as usize].into_boxed_slice();
        let start = number * BLOCK;
        let there = self.0.below.len()?.saturating_sub(start).min(BLOCK) as usize;
        if let Some(there) = block.get_mut(..there).filter(|there| !there.is_empty()) {
            self.0.below.read(start, there)?;
        }
        Ok(block)
    }

    /// Visits the blocks of a range: number, begin and end inside it, begin in the range.
    fn blocks(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, usize)> {
        let end = offset + len as u64;
        (offset / BLOCK..end.div_ceil(BLOCK)).map(move |number| {
            let start = number * BLOCK;
            let from = offset.max(start);
            let until = end.min(start + BLOCK);
            (number, (from - start) as usize..(until - start) as usize, (from - offset) as usize)
        })
    }

    fn read_frozen(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if offset + out.len() as u64 > over.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, part, at) in Overlay::blocks(offset, out.len()) {
            let block = self.block(&over, number)?;
            out[at..at + part.len()].copy_from_slice(&block[part]);
        }
        Ok(())
    }

    fn write_frozen(&self, over: &mut Over, offset: u64, data: &[u8]) -> io::Result<()> {
        for (number, part, at) in Overlay::blocks(offset, data.len()) {
            if over.blocks.len() >= MAX_BLOCKS && !over.blocks.contains_key(&number) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let mut block = self.block(over, number)?;
            block[part.clone()].copy_from_slice(&data[at..at + part.len()]);
            over.blocks.insert(number, block);
        }
        Ok(())
    }
}

/// One process has the file at a time, which [`Medium`] sees to, so redb's own locks are left out.
impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        if self.is_frozen() { Ok(self.over().len) } else { self.0.below.len() }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.is_frozen() { self.read_frozen(offset, out) } else { self.0.below.read(offset, out) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_or_freeze(
            || self.0.below.set_len(len),
            |over| {
                over.len = len;
                Ok(())
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.is_frozen()
            && let Err(error) = self.0.below.sync_data()
        {
            self.fail(error, true)?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_or_freeze(
            || self.0.below.write(offset, data),
            |over| self.write_frozen(over, offset, data),
        )
    }

    fn close(&self) -> io::Result<()> {
        self.0.below.close()
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    /// Takes this many writes, then says that the disk is full.
    #[derive(Debug)]
    struct Small(InMemoryBackend, Mutex<u32>);

    impl StorageBackend for Small {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let mut left = self.1.lock().unwrap();
            *left = left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            self.0.write(offset, data)
        }
    }

    #[test]
    fn what_cannot_be_written_is_read_back_all_the_same() {
        let below = Small(InMemoryBackend::new(), Mutex::new(1));
        below.set_len(10_000).unwrap();
        let overlay = Overlay::new(Box::new(below), None).unwrap();
        overlay.write(4090, b"written below").unwrap();
        assert!(overlay.failure().is_none());
        overlay.write(8190, b"kept above").unwrap();
        assert_eq!(overlay.failure().unwrap().error.kind(), io::ErrorKind::StorageFull);
        overlay.write(4098, b"MIX").unwrap();
        overlay.set_len(20_000).unwrap();
        overlay.write(12_280, b"behind the old end").unwrap();
        overlay.sync_data().unwrap();

        let check = |offset: u64, expected: &[u8]| {
            let mut out = vec![1; expected.len()];
            overlay.read(offset, &mut out).unwrap();
            assert_eq!(out, expected, "at {offset}");
        };
        check(4090, b"written MIXow");
        check(8188, b"\0\0kept above\0");
        check(12_280, b"behind the old end\0\0");
        check(19_990, &[0; 10]);
        assert_eq!(overlay.len().unwrap(), 20_000);
        assert!(overlay.read(19_991, &mut [0; 10]).is_err(), "that is past the end");
        let mut below = [0; 13];
        overlay.0.below.read(4090, &mut below).unwrap();
        assert_eq!(&below, b"written below", "nothing more reached the medium");
    }

    #[test]
    fn a_medium_that_cannot_be_written_is_not_written() {
        let below = Small(InMemoryBackend::new(), Mutex::new(9));
        below.set_len(100).unwrap();
        let overlay = Overlay::new(Box::new(below), Some(io::ErrorKind::ReadOnlyFilesystem.into())).unwrap();
        overlay.write(0, b"x").unwrap();
        let mut byte = [1];
        overlay.0.below.read(0, &mut byte).unwrap();
        assert_eq!(byte, [0]);
        assert!(overlay.failure().is_some());
    }
}
