//! A real nginx in a scratch directory.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::slapd::installed;
use super::{free_port, wait_for};

/// A running nginx; dropping it ends every process of it.
pub(crate) struct Nginx {
    /// Ports on 127.0.0.1, in the order of their names in the configuration.
    pub(crate) ports: Vec<u16>,
    scratch: TempDir,
    master: Child,
}

impl Nginx {
    /// Starts one on a configuration in which `PORT0`, `PORT1` and so on stand for its ports, and `SCRATCH` for its
    /// folder, where `files` are.
    #[track_caller]
    pub(crate) fn start(ports: usize, configuration: &str, files: &[(&str, &str)]) -> Nginx {
        let scratch = tempfile::Builder::new().prefix("nginx").tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let ports: Vec<u16> = (0..ports).map(|_| free_port()).collect();
        let at = scratch.path().display().to_string();
        let mut text = format!(
            "load_module /usr/lib/nginx/modules/ngx_mail_module.so;\nworker_processes 1;\ndaemon off;\n\
             error_log {at}/log info;\npid {at}/pid;\nevents {{ worker_connections 4096; }}\n{configuration}"
        );
        for (number, port) in ports.iter().enumerate() {
            text = text.replace(&format!("PORT{number}"), &port.to_string());
        }
        fs::write(scratch.path().join("nginx.conf"), text.replace("SCRATCH", &at)).unwrap();
        for (name, content) in files {
            fs::write(scratch.path().join(name), content).unwrap();
        }
        let errors = fs::File::create(scratch.path().join("stderr")).unwrap();
        let mut command = installed("nginx", "nginx");
        command.arg("-p").arg(scratch.path()).arg("-c").arg(scratch.path().join("nginx.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).process_group(0);
        let master = command.spawn().unwrap();
        let mut nginx = Nginx { ports, scratch, master };
        for port in nginx.ports.clone() {
            wait_for("nginx to listen", || {
                if let Ok(Some(status)) = nginx.master.try_wait() {
                    panic!("nginx ended with {status}\n{}", nginx.log());
                }
                TcpStream::connect(("127.0.0.1", port)).ok()
            });
        }
        nginx
    }

    /// All that nginx has logged.
    pub(crate) fn log(&self) -> String {
        let read = |name: &str| fs::read(self.scratch.path().join(name)).unwrap_or_default();
        ["stderr", "log"].map(|name| String::from_utf8_lossy(&read(name)).into_owned()).concat()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master and its workers are one process group; it may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.master), Signal::KILL);
        let _ = self.master.wait();
    }
}
