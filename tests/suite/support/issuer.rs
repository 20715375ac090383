//! A vendor: a key, licences signed by hand, and a real licence server over HTTPS, which dies with the value.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::daemon::SEATKEEPER;
use super::disk::SmallDisk;
use super::slapd::{certify, installed};
use super::{free_port, wait_for};

/// Somebody who sells licences.
pub(crate) struct Vendor {
    dir: TempDir,
    /// The line for `trusted_keys`.
    pub(crate) public_key: String,
    server: Option<Child>,
    bind: String,
    /// A disk of its own for the database, with the database as the server sees it.
    disk: Option<(SmallDisk, PathBuf)>,
}

impl Vendor {
    /// With a new key.
    pub(crate) fn new() -> Vendor {
        let dir = tempfile::tempdir().unwrap();
        certify(dir.path(), &["localhost".to_owned(), "127.0.0.1".to_owned()]);
        let bind = format!("127.0.0.1:{}", free_port());
        let mut vendor = Vendor { dir, public_key: String::new(), server: None, bind, disk: None };
        let key = vendor.path("key.pem");
        vendor.public_key = vendor.run(&["keygen", key.to_str().unwrap()]).trim().to_owned();
        vendor
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `license …`, whatever becomes of it.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> Output {
        Command::new(SEATKEEPER).arg("license").args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// `license …`, which must succeed: what it printed.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A licence signed by hand.
    #[track_caller]
    pub(crate) fn issue(&self, arguments: &[&str]) -> String {
        let key = self.path("key.pem");
        let all = [&["issue", "--key", key.to_str().unwrap()], arguments].concat();
        self.run(&all).trim().to_owned()
    }

    /// `license sell|free|revoke ID …`, in JSON.
    #[track_caller]
    pub(crate) fn sell(&self, arguments: &[&str]) -> Value {
        let output = self.try_sell(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The same, whatever becomes of it.
    pub(crate) fn try_sell(&self, arguments: &[&str]) -> Output {
        let database = match &self.disk {
            Some((disk, _)) => disk.path("licenses.redb"),
            None => self.path("licenses.redb"),
        };
        self.try_run(&[arguments, &["--json", "--database", database.to_str().unwrap()]].concat())
    }

    /// Keeps the database on a small disk from now on.
    #[track_caller]
    pub(crate) fn move_to(&mut self, mut disk: SmallDisk, mebibytes: u32) {
        let at = self.path("sold");
        disk.mount(&at, mebibytes);
        self.disk = Some((disk, at.join("licenses.redb")));
    }

    /// That disk.
    pub(crate) fn disk(&self) -> &SmallDisk {
        &self.disk.as_ref().unwrap().0
    }

    /// `/healthz`: the status and the body.
    #[track_caller]
    pub(crate) fn health(&self) -> (u16, String) {
        let mut curl = installed("curl", "curl");
        // Who it is, other tests check.
        curl.args(["--silent", "--show-error", "--insecure", "--write-out", "\n%{http_code}"]);
        let output = curl.arg(self.url() + "/healthz").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// Starts the licence server, on the same port each time.
    #[track_caller]
    pub(crate) fn serve(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let log = File::create(self.path("log")).unwrap();
        let wrapper = self.disk.as_ref().map(|(disk, _)| disk.wrapper()).unwrap_or_default();
        let mut words = wrapper.iter().map(String::as_str).chain([SEATKEEPER]);
        let mut command = Command::new(words.next().unwrap_or(SEATKEEPER));
        command.args(words).args(["license", "serve", "--issuer", "Vendor", "--bind", &self.bind]);
        for (option, file) in [("--key", "key.pem"), ("--cert", "server.pem"), ("--cert-key", "server.key")] {
            command.arg(option).arg(self.path(file));
        }
        let database =
            self.disk.as_ref().map_or_else(|| self.path("licenses.redb"), |(_, path)| path.clone());
        command.arg("--database").arg(database);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        command.env_remove("JOURNAL_STREAM");
        let server = self.server.insert(command.spawn().unwrap());
        let log = self.dir.path().join("log");
        wait_for("the licence server to listen", || {
            let text = fs::read_to_string(&log).unwrap();
            assert!(server.try_wait().unwrap().is_none(), "{text}");
            text.contains(" listener=").then_some(())
        });
    }

    /// Ends it without mercy.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // One that has ended by itself is as dead.
            let _ = kill_process_group(Pid::from_child(&server), Signal::KILL);
            server.wait().unwrap();
        }
    }

    /// What the server logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.bind)
    }

    /// The keys of `[license]` for its customers.
    pub(crate) fn license(&self) -> String {
        let (key, url, ca) = (&self.public_key, self.url(), self.path("ca.pem"));
        format!("trusted_keys = [\"{key}\"]\nserver = \"{url}\"\nca_file = {ca:?}")
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.kill();
    }
}
