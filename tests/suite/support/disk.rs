//! Disks that hang or are full: strace(1) holds the writer's thread when it is about to make a commit durable, and a
//! small tmpfs in a mount namespace of the test's own is filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{assert_may_start, wait_for};

/// Hangs until it recovers or is dropped.
pub(crate) struct HungDisk(Child);

impl HungDisk {
    /// Under the daemon of this process id.
    #[track_caller]
    pub(crate) fn under(pid: u32) -> HungDisk {
        assert_may_start("strace");
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut tasks = tasks.map(|task| task.unwrap().path());
        let is_writer = |name: String| name == "store-writer\n";
        let writer = tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(is_writer)).unwrap();
        let strace = Command::new("strace")
            .args(["--output=/dev/null", "--quiet=all", "--trace=fsync,fdatasync"])
            .args(["--inject=fsync,fdatasync:delay_enter=3600s", "--attach"])
            .arg(writer.file_name().unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("strace can't run ({error}): tests/run.sh installs it"));
        let mut disk = HungDisk(strace);
        wait_for("strace to take hold (it takes root, or kernel.yama.ptrace_scope=0)", || {
            assert!(disk.0.try_wait().unwrap().is_none(), "strace can't attach");
            let status = fs::read_to_string(writer.join("status")).unwrap();
            (!status.contains("TracerPid:\t0\n")).then_some(())
        });
        disk
    }

    /// The disk goes on with what it was doing.
    pub(crate) fn recover(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A small file system that a daemon in its namespace has, and that outlives the daemon.
pub(crate) struct SmallDisk {
    /// Keeps the namespace.
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// Nothing is mounted yet.
    #[track_caller]
    pub(crate) fn new() -> SmallDisk {
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("unshare can't run ({error}): tests/run.sh installs it"));
        let mut disk = SmallDisk { holder, at: PathBuf::new() };
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own = namespace("self");
        wait_for("a mount namespace (it takes root)", || {
            assert!(disk.holder.try_wait().unwrap().is_none(), "unshare can't make a mount namespace");
            let theirs = namespace(&disk.holder.id().to_string());
            let comm = fs::read_to_string(format!("/proc/{}/comm", disk.holder.id())).ok();
            (theirs.is_some() && theirs != own && comm.as_deref() == Some("sleep\n")).then_some(())
        });
        disk
    }

    /// What a daemon is started with, so that it sees the disk.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        ["nsenter", "--target", &pid, "--mount", "--"].map(str::to_owned).to_vec()
    }

    /// Makes it, of this size, at a path that is a folder for everybody else.
    #[track_caller]
    pub(crate) fn mount(&mut self, at: &Path, mebibytes: u32) {
        fs::create_dir_all(at).unwrap();
        self.at = at.to_owned();
        self.run(&["mount", "-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=0700"), "tmpfs"]);
    }

    /// A command in the namespace, with the mount point behind its arguments.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) {
        let mut all = self.wrapper().into_iter();
        let status = Command::new(all.next().unwrap()).args(all).args(words).arg(&self.at).status().unwrap();
        assert!(status.success(), "{words:?}");
    }

    /// A file on it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let inside = self.at.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside).join(name)
    }

    /// Writes until nothing more can be written.
    #[track_caller]
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.path("full")).unwrap();
        for size in [64 << 10, 1] {
            let error = loop {
                if let Err(error) = file.write(&vec![b'x'; size]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    /// Takes away what filled it.
    #[track_caller]
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path("full")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
