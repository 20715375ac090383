//! A disk that hangs: strace(1) holds the writer's thread when it is about to make a commit durable.

use std::fs;
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
