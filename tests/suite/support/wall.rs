//! A wall clock that the test moves under a running daemon: libfaketime, preloaded, which asks a file each time. The
//! monotonic clocks stay those of the machine.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::daemon::Settings;

/// One day.
pub(crate) const DAY: i64 = 86_400;

/// The wall clock of one daemon.
pub(crate) struct Wall(TempDir);

impl Wall {
    /// For a daemon with these settings; right until it is set.
    #[track_caller]
    pub(crate) fn under(settings: &mut Settings) -> Wall {
        let wall = Wall(tempfile::tempdir().unwrap());
        wall.set(0);
        let file = wall.file().to_str().unwrap().to_owned();
        settings.env.extend([
            ("LD_PRELOAD", library().to_str().unwrap().to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // Stamps of files stay right.
            ("NO_FAKE_STAT", "1".to_owned()),
        ]);
        wall
    }

    /// Makes it wrong by so many seconds from now on.
    pub(crate) fn set(&self, seconds: i64) {
        let new = self.0.path().join("new");
        fs::write(&new, format!("{seconds:+}\n")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }
}

impl Drop for Wall {
    /// libfaketime shares memory under the process's id and leaves it behind when the process is killed; a later
    /// process of that id would not start.
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid =
                ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|prefix| name.strip_prefix(prefix));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another test may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|folder| folder.unwrap().path());
    let library = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    let found = folders.map(library).find(|library| Path::exists(library));
    found.expect("libfaketime is missing: apt-get install faketime")
}
