//! A directory that is an LDIF file.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc::Sender;

use super::batch::Batch;
use super::error::DirectoryError;
use super::ldif::{LdifError, Reader};
use super::{Authority, Event};

/// Large enough that a read costs little beside the parsing.
const BUFFER_BYTES: usize = 128 * 1024;

/// Tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Fingerprint {
    fn new(metadata: &Metadata) -> Fingerprint {
        Fingerprint {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

/// What a complete reading of a file saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SweptFile {
    /// Entries told.
    pub entries: u64,
    /// The state of the file that was read: compare it with [`fingerprint`] to notice the next one.
    pub fingerprint: Fingerprint,
}

/// The state that a file is in now. Blocks, shortly.
pub fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    Ok(Fingerprint::new(&std::fs::metadata(path)?))
}

/// Tells every entry of a file, then [`Event::EndRefresh`].
///
/// The file is read twice: once to find out whether it is valid to its end, so that a malformed one
/// changes nothing, and once for its entries. Both readings use one open file, so renaming another over
/// it does no harm; writing into it is an error. An empty file is a directory without entries, which the
/// brake judges.
pub async fn sweep(path: &Path, events: &Sender<Event>) -> Result<SweptFile, DirectoryError> {
    let (reading, events) = (Reading { path: path.to_owned() }, events.clone());
    let reader = tokio::task::spawn_blocking(move || reading.run(&events));
    reader.await.map_err(|_| DirectoryError::FileInterrupted { path: path.to_owned() })?
}

struct Reading {
    path: PathBuf,
}

impl Reading {
    fn run(&self, events: &Sender<Event>) -> Result<SweptFile, DirectoryError> {
        let mut file = self.open()?;
        let before = self.state(&file)?;
        self.pass(&file, |_| if events.is_closed() { Err(DirectoryError::Abandoned) } else { Ok(()) })?;
        self.must_be(&file, before)?;
        file.rewind().map_err(|source| self.unreadable(source))?;
        let mut batch = Batch::default();
        let entries =
            self.pass(&file, |entry| if batch.push(entry) { batch.blocking_flush(events) } else { Ok(()) })?;
        batch.blocking_flush(events)?;
        self.must_be(&file, before)?;
        events
            .blocking_send(Event::EndRefresh(Authority::Everything, None))
            .map_err(|_| DirectoryError::Abandoned)?;
        Ok(SweptFile { entries, fingerprint: before })
    }

    /// Opening a pipe would wait for its writer.
    fn open(&self) -> Result<File, DirectoryError> {
        let metadata = std::fs::metadata(&self.path).map_err(|source| self.unreadable(source))?;
        if !metadata.is_file() {
            return Err(DirectoryError::NotAFile { path: self.path.clone() });
        }
        File::open(&self.path).map_err(|source| self.unreadable(source))
    }

    /// Reads the file to its end; the number of its entries.
    fn pass(
        &self,
        file: &File,
        mut take: impl FnMut(crate::domain::mapping::Entry) -> Result<(), DirectoryError>,
    ) -> Result<u64, DirectoryError> {
        let mut reader = Reader::new(BufReader::with_capacity(BUFFER_BYTES, file));
        let mut entries = 0;
        while let Some(entry) = reader.entry().map_err(|error| self.invalid(error))? {
            take(entry)?;
            entries += 1;
        }
        Ok(entries)
    }

    fn state(&self, file: &File) -> Result<Fingerprint, DirectoryError> {
        let metadata = file.metadata().map_err(|source| self.unreadable(source))?;
        Ok(Fingerprint::new(&metadata))
    }

    fn must_be(&self, file: &File, before: Fingerprint) -> Result<(), DirectoryError> {
        if self.state(file)? == before {
            Ok(())
        } else {
            Err(DirectoryError::FileChanged { path: self.path.clone() })
        }
    }

    fn unreadable(&self, source: io::Error) -> DirectoryError {
        DirectoryError::File { path: self.path.clone(), source }
    }

    fn invalid(&self, error: LdifError) -> DirectoryError {
        match error {
            LdifError::Read(source) => self.unreadable(source),
            LdifError::Mistake { line, mistake } => {
                DirectoryError::Ldif { path: self.path.clone(), line, mistake }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::sync::mpsc;

    use super::*;

    /// The number of entries told, and whether the end was.
    async fn read(
        path: &Path,
        mut meanwhile: impl FnMut(),
    ) -> (Result<SweptFile, DirectoryError>, usize, bool) {
        let (events, mut told) = mpsc::channel(1);
        let path = path.to_owned();
        let sweep = tokio::spawn(async move { sweep(&path, &events).await });
        let (mut entries, mut has_end) = (0, false);
        while let Some(event) = told.recv().await {
            match event {
                Event::Upserts(batch) => entries += batch.len(),
                Event::EndRefresh(..) => has_end = true,
                other => panic!("{other:?}"),
            }
            meanwhile();
        }
        (sweep.await.unwrap(), entries, has_end)
    }

    fn people(count: usize) -> String {
        (0..count).map(|at| format!("dn: uid=u{at},dc=x\nuid: u{at}\n\n")).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[tokio::test]
    async fn a_valid_file_is_told_completely() {
        for count in [0, 1, 499, 500, 501, 2000] {
            let file = file(&people(count));
            let (swept, entries, has_end) = read(file.path(), || ()).await;
            let swept = swept.unwrap();
            assert_eq!((swept.entries, entries, has_end), (count as u64, count, true));
            assert_eq!(swept.fingerprint, fingerprint(file.path()).unwrap());
        }
    }

    #[tokio::test]
    async fn a_malformed_file_tells_nothing() {
        let file = file(&format!("{}oops\n", people(2000)));
        let (swept, entries, has_end) = read(file.path(), || ()).await;
        let error = swept.unwrap_err();
        assert!(error.to_string().ends_with(":6001: expected an attribute and a colon"), "{error}");
        assert_eq!((entries, has_end), (0, false));
    }

    #[tokio::test]
    async fn a_file_that_changes_meanwhile_is_no_complete_one() {
        let file = file(&people(2000));
        let more = || file.as_file().write_all(b"dn: uid=new,dc=x\n\n").unwrap();
        let (swept, _, has_end) = read(file.path(), more).await;
        assert!(matches!(swept, Err(DirectoryError::FileChanged { .. })), "{swept:?}");
        assert!(!has_end);
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_meanwhile_is_told_as_it_was() {
        let (old, dir) = (file(&people(2000)), tempfile::tempdir().unwrap());
        let new = dir.path().join("new");
        std::fs::write(&new, people(1)).unwrap();
        let (swept, entries, has_end) = read(old.path(), || {
            let _ = std::fs::rename(&new, old.path());
        })
        .await;
        assert_eq!((entries, has_end), (2000, true));
        assert_ne!(swept.unwrap().fingerprint, fingerprint(old.path()).unwrap());
    }

    #[tokio::test]
    async fn what_is_no_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (swept, _, has_end) = read(dir.path(), || ()).await;
        assert!(matches!(swept, Err(DirectoryError::NotAFile { .. })));
        assert!(!has_end);
        let (swept, _, _) = read(&dir.path().join("none"), || ()).await;
        assert!(matches!(swept, Err(DirectoryError::File { .. })));
    }

    #[tokio::test]
    async fn a_consumer_that_leaves_ends_the_reading() {
        let file = file(&people(2000));
        let (events, told) = mpsc::channel(1);
        drop(told);
        assert!(matches!(sweep(file.path(), &events).await, Err(DirectoryError::Abandoned)));
    }
}
