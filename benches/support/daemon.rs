//! The real daemon, on a store of its own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::client::Client;
use super::suite::wait_for;

/// Not the five milliseconds of the tests: some of what is measured takes hardly longer.
const POLL: Duration = Duration::from_millis(1);

/// A folder with a configuration and a store, and the daemon while it runs.
pub(crate) struct Daemon {
    dir: TempDir,
    /// The path of a socket may have 107 bytes, so this one is elsewhere.
    sockets: TempDir,
    process: Option<Child>,
    address: String,
}

impl Daemon {
    /// A fresh folder, on the disk that the build is on: `/tmp` may be in memory, where a sync costs nothing.
    pub(crate) fn new() -> Daemon {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Daemon { dir, sockets: tempfile::tempdir().unwrap(), process: None, address: String::new() }
    }

    /// A file in the daemon's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration: directories as given, and enough seats for everybody.
    pub(crate) fn configure(&self, directories: &str) {
        let socket = self.control_socket();
        let text = format!(
            "state_dir = \"state\"\ncontrol_socket = \"{}\"\n[license]\nseats = 1000000\n\
             [log]\nlevel = \"warn\"\nformat = \"text\"\n\
             [[listen.http]]\nbind = \"127.0.0.1:0\"\n{directories}",
            socket.display()
        );
        fs::write(self.path("seatkeeper.toml"), text).unwrap();
    }

    /// A file that only the daemon may read, as it wants a password to be.
    pub(crate) fn write_secret(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path(name))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn control_socket(&self) -> PathBuf {
        self.sockets.path().join("control.sock")
    }

    /// Starts it; returns when it answers, which is before it has mapped anything.
    pub(crate) fn start(&mut self) -> Instant {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_seatkeeper"));
        command.current_dir(self.dir.path()).args(["--config", "seatkeeper.toml", "run"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let started = Instant::now();
        self.process = Some(command.spawn().unwrap());
        self.address = self.poll("the daemon to listen", |daemon| {
            let status = Client::unix(&daemon.control_socket()).ok()?.get("/v1/status").ok()?;
            let listeners = status["listeners"].as_array()?;
            let http = listeners.iter().find(|listener| listener["kind"] == "http")?;
            Some(http["bind"].as_str()?.to_owned())
        });
        started
    }

    /// Waits until every directory is mapped; the mapping is on disk then.
    pub(crate) fn wait_until_ready(&mut self) -> Instant {
        let mut client = self.client();
        self.poll("the daemon to be ready", |_| client.is_ready().unwrap().then_some(()));
        Instant::now()
    }

    /// Looks again and again, as long as the daemon runs.
    pub(crate) fn poll<T>(&mut self, what: &str, mut look: impl FnMut(&Daemon) -> Option<T>) -> T {
        wait_for(what, || {
            let until = Instant::now() + Duration::from_millis(100);
            while Instant::now() < until {
                if let Some(found) = look(self) {
                    return Some(found);
                }
                if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                    panic!("the daemon ended, {status}:\n{}", self.log());
                }
                std::thread::sleep(POLL);
            }
            None
        })
    }

    /// Of the HTTP listener.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn client(&self) -> Client<TcpStream> {
        Client::tcp(&self.address).unwrap()
    }

    /// A connection to the control socket.
    pub(crate) fn control(&self) -> Client<UnixStream> {
        Client::unix(&self.control_socket()).unwrap()
    }

    /// What the control socket answers.
    pub(crate) fn admin(&self, path: &str) -> Value {
        self.control().get(path).unwrap()
    }

    /// The most memory that it used, in MiB.
    pub(crate) fn peak_memory(&self) -> f64 {
        self.proc("status", "VmHWM:") as f64 / 1024.0
    }

    /// Bytes that it caused to be written to disk since it was started.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.proc("io", "write_bytes:")
    }

    fn proc(&self, file: &str, key: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.process.as_ref().unwrap().id());
        let text = fs::read_to_string(path).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        value.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// SIGTERM, as systemd stops it.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// SIGHUP: reads the configuration again.
    pub(crate) fn reload(&self) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), Signal::HUP).unwrap();
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself, of which `poll` tells.
            let _ = kill_process(Pid::from_child(&process), signal);
            process.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
