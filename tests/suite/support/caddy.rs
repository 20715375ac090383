//! A real Caddy in a scratch directory.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::slapd::installed;
use super::{free_port, wait_for};

/// A running Caddy; dropping it ends it.
pub(crate) struct Caddy {
    /// Where its one site is, on 127.0.0.1, without TLS.
    pub(crate) port: u16,
    scratch: TempDir,
    process: Child,
}

impl Caddy {
    /// Starts one with a site of these directives, in the language of its Caddyfile.
    #[track_caller]
    pub(crate) fn start(site: &str) -> Caddy {
        let scratch = tempfile::Builder::new().prefix("caddy").tempdir().unwrap();
        let port = free_port();
        let file = scratch.path().join("Caddyfile");
        let text = format!("{{\n admin off\n}}\nhttp://:{port} {{\n bind 127.0.0.1\n {site}\n}}\n");
        fs::write(&file, text).unwrap();
        let log = fs::File::create(scratch.path().join("log")).unwrap();
        let mut command = installed("caddy", "caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        // Where it keeps what it was last told, and certificates.
        for folder in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(folder, scratch.path());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let process = command.spawn().unwrap();
        let mut caddy = Caddy { port, scratch, process };
        wait_for("Caddy to listen", || {
            if let Ok(Some(status)) = caddy.process.try_wait() {
                panic!("Caddy ended with {status}\n{}", caddy.log());
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        caddy
    }

    /// All that Caddy has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.scratch.path().join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Caddy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}
