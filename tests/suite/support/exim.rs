//! A real Exim in a scratch directory, with the repository's own `config/exim-acl.conf` and `config/exim-auth.conf`,
//! included where Debian's configuration includes them.
//!
//! Debian's Exim and Postfix exclude each other, so `tests/run.sh` unpacks Exim's packages into `target/exim`, and
//! installs none. Runs as root alone, as Exim does.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::postfix::Smtp;
use super::slapd::certify;
use super::{assert_may_start, assert_quiet, free_port, shipped, wait_for};

/// Where the packages were unpacked.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/exim");

/// What an Exim is started with.
#[derive(Default)]
pub(crate) struct EximOptions<'a> {
    /// The socket of the `[[listen.postfix_policy]]`, or Exim's `inet:HOST:PORT`.
    pub(crate) policy: &'a str,
    /// The socket of the `[[listen.dovecot_auth]]`.
    pub(crate) auth: &'a str,
    /// Offer TLS, and let nobody log in without it, as is the default of the shipped file.
    pub(crate) tls: bool,
}

/// A running Exim; dropping it ends every process of it.
pub(crate) struct Exim {
    /// Where mail comes in, on 127.0.0.1: Debian's ACL.
    pub(crate) smtp_port: u16,
    /// Where people send mail, on 127.0.0.1: they must log in.
    pub(crate) submission_port: u16,
    /// Another server, on 127.0.0.1, that asks this one by a call-out whether a recipient exists.
    pub(crate) relay_port: u16,
    scratch: TempDir,
    daemon: Child,
}

impl Exim {
    /// Starts one and waits until it greets; panics with its log when it doesn't.
    #[track_caller]
    pub(crate) fn start(options: &EximOptions) -> Exim {
        let scratch = tempfile::Builder::new().prefix("exim").tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let [smtp_port, submission_port, relay_port] = [(); 3].map(|()| free_port());
        write_configuration(scratch.path(), options, [smtp_port, submission_port, relay_port]);
        let errors = fs::File::create(scratch.path().join("stderr")).unwrap();
        let mut command = exim(scratch.path());
        command.arg("-bdf").stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).process_group(0);
        let daemon = command.spawn().unwrap();
        let mut exim = Exim { smtp_port, submission_port, relay_port, scratch, daemon };
        wait_for("Exim to greet", || {
            if let Ok(Some(status)) = exim.daemon.try_wait() {
                panic!("Exim ended with {status}\n{}", exim.log());
            }
            Smtp::connect(smtp_port).ok()
        });
        assert_quiet("Exim", &exim.log());
        exim
    }

    /// All that Exim has logged.
    pub(crate) fn log(&self) -> String {
        let read = |name: &str| fs::read(self.scratch.path().join(name)).unwrap_or_default();
        let logs = ["stderr", "mainlog", "rejectlog", "paniclog"];
        logs.map(|name| String::from_utf8_lossy(&read(name)).into_owned()).concat()
    }

    /// A connection from outside.
    #[track_caller]
    pub(crate) fn smtp(&self) -> Smtp {
        self.connect(self.smtp_port)
    }

    /// A connection of somebody who wants to send.
    #[track_caller]
    pub(crate) fn submission(&self) -> Smtp {
        self.connect(self.submission_port)
    }

    /// A connection to one of the ports.
    #[track_caller]
    pub(crate) fn connect(&self, port: u16) -> Smtp {
        Smtp::connect(port).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Exim on the same configuration, for what an administrator asks it.
    pub(crate) fn command(&self) -> Command {
        exim(self.scratch.path())
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        // The daemon and what it has forked are one process group; it may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.daemon), Signal::KILL);
        let _ = self.daemon.wait();
    }
}

#[track_caller]
fn exim(scratch: &Path) -> Command {
    assert_may_start("Exim");
    let path = Path::new(UNPACKED).join("usr/sbin/exim4");
    let why = match Command::new(&path).args(["-C", "/dev/null", "-bV"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = why {
        panic!("{} can't run ({}): tests/run.sh unpacks exim4-daemon-heavy", path.display(), why.trim());
    }
    let mut command = Command::new(path);
    command.arg("-C").arg(scratch.join("exim.conf"));
    command
}

fn user_id() -> u32 {
    let output = Command::new("id").args(["-u", "Debian-exim"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("tests/run.sh makes this user")
}

/// Debian's own ACL for recipients, with the shipped file at its hook; for those who send, the shipped file alone.
fn write_configuration(scratch: &Path, options: &EximOptions, [smtp, submission, relay]: [u16; 3]) {
    let at = scratch.display();
    fs::create_dir(scratch.join("spool")).unwrap();
    chown(scratch, Some(user_id()), None).unwrap();
    chown(scratch.join("spool"), Some(user_id()), None).unwrap();
    let acl = shipped("exim-acl.conf", &[("/run/seatkeeper/postfix-policy.sock", options.policy)]);
    fs::write(scratch.join("acl.conf"), acl).unwrap();
    let auth = shipped("exim-auth.conf", &[("/run/seatkeeper/dovecot-auth.sock", options.auth)]);
    fs::write(scratch.join("auth.conf"), auth).unwrap();
    let debian = format!("{UNPACKED}/etc/exim4/conf.d/acl");
    let tls = if options.tls {
        certify(scratch, &["localhost".to_owned()]);
        format!(
            "tls_advertise_hosts = *\ntls_certificate = {at}/server.pem\ntls_privatekey = {at}/server.key"
        )
    } else {
        "AUTH_SERVER_ALLOW_NOTLS_PASSWORDS = true\ntls_advertise_hosts =".to_owned()
    };
    let text = format!(
        "CONFDIR = {at}
DC_minimaldns = 1
CHECK_RCPT_LOCAL_ACL_FILE = {at}/acl.conf
{tls}
exim_path = {UNPACKED}/usr/sbin/exim4
spool_directory = {at}/spool
log_file_path = {at}/%slog
pid_file_path = {at}/pid
keep_environment =
primary_hostname = mail.example.net
local_interfaces = 127.0.0.1
daemon_smtp_ports = {smtp} : {submission} : {relay}
smtp_accept_max = 0
smtp_connect_backlog = 600
smtp_accept_max_nonmail_hosts =
queue_only
domainlist local_domains = example.org
domainlist relay_to_domains =
hostlist relay_from_hosts =
acl_smtp_rcpt = ${{if ={{$received_port}}{{{submission}}}{{acl_submission}}\
  {{${{if ={{$received_port}}{{{relay}}}{{acl_relay}}{{acl_check_rcpt}}}}}}}}
begin acl
.include {debian}/20_exim4-config_local_deny_exceptions
.include {debian}/30_exim4-config_check_rcpt
acl_submission:
  .include {at}/acl.conf
  accept
    authenticated = *
  deny
acl_relay:
  require
    verify = recipient/callout=30s,no_cache
  accept
begin routers
behind:
  driver = manualroute
  condition = ${{if ={{$received_port}}{{{relay}}}}}
  route_list = * 127.0.0.1
  self = send
  transport = behind
people:
  driver = accept
  domains = +local_domains
  transport = behind
begin transports
behind:
  driver = smtp
  port = {smtp}
  allow_localhost
begin authenticators
.include {at}/auth.conf
"
    );
    fs::write(scratch.join("exim.conf"), text).unwrap();
}
