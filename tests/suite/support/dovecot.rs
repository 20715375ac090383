//! A real Dovecot in a scratch directory, with the repository's own `config/dovecot.conf`, and a person's
//! IMAP and POP3 client.
//!
//! Passwords are checked by Dovecot with a bind at a real LDAP server, so the policy is asked only after a
//! right one, as in production. Runs as root (then with Debian's users for Dovecot) and as anybody else.

#![expect(clippy::expect_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{assert_may_start, assert_quiet, free_port, shipped, wait_for};

/// How long Dovecot may take to leave: a loaded machine is slow.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Longer than Dovecot's time-out for the policy server (2 s) and its delays together.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What a Dovecot is started with.
pub(crate) struct DovecotOptions<'a> {
    /// Where passwords are checked: `ldap://127.0.0.1:PORT`.
    pub(crate) ldap_url: &'a str,
    /// Where people are looked for, anonymously.
    pub(crate) base_dn: &'a str,
    /// The port of the `[[listen.dovecot_policy]]` on 127.0.0.1.
    pub(crate) policy_port: u16,
    /// The port of the `[[listen.http]]` that the shipped Lua passdb asks, in place of the policy server.
    pub(crate) lua: Option<u16>,
    /// A master user and its password, who logs in as `user*master`.
    pub(crate) master: Option<(&'a str, &'a str)>,
    /// More settings, last in the file: they win over everything before them.
    pub(crate) extra: &'a str,
}

/// A running Dovecot; dropping it ends every process of it.
pub(crate) struct Dovecot {
    /// Where IMAP is spoken, on 127.0.0.1.
    pub(crate) imap_port: u16,
    /// Where POP3 is spoken, on 127.0.0.1.
    pub(crate) pop3_port: u16,
    master: Child,
    scratch: tempfile::TempDir,
}

impl Dovecot {
    /// Starts one and waits until it greets on both ports; panics with its log when it doesn't.
    pub(crate) fn start(options: &DovecotOptions) -> Dovecot {
        assert_may_start("Dovecot");
        let scratch = tempfile::Builder::new().prefix("dovecot").tempdir().expect("a scratch directory");
        let (imap_port, pop3_port) = (free_port(), free_port());
        write_configuration(scratch.path(), options, imap_port, pop3_port);
        let master = Command::new("dovecot")
            .arg("-F")
            .arg("-c")
            .arg(scratch.path().join("dovecot.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(
                fs::File::create(scratch.path().join("stderr")).expect("the scratch directory is writable"),
            )
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("dovecot can't run ({error}): tests/run.sh installs Debian's dovecot-imapd")
            });
        let mut dovecot = Dovecot { imap_port, pop3_port, master, scratch };
        for port in [imap_port, pop3_port] {
            wait_for("Dovecot to greet", || {
                if let Ok(Some(status)) = dovecot.master.try_wait() {
                    panic!("Dovecot ended with {status}\n{}", dovecot.log());
                }
                Connection::open(port).ok()?.read_line().ok()
            });
        }
        assert_quiet("Dovecot", &dovecot.log());
        dovecot
    }

    /// All that Dovecot has logged.
    pub(crate) fn log(&self) -> String {
        ["stderr", "log"]
            .iter()
            .map(|name| fs::read(self.scratch.path().join(name)).unwrap_or_default())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    /// `doveadm auth test`: whether it succeeded, and all that it printed.
    pub(crate) fn auth_test(&self, user: &str, password: &str) -> (bool, String) {
        let output = Command::new("doveadm")
            .arg("-c")
            .arg(self.scratch.path().join("dovecot.conf"))
            .args(["auth", "test", user, password])
            .output()
            .expect("doveadm comes with Dovecot");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Logs in by IMAP, selects the inbox, and logs out.
    pub(crate) fn imap_login(&self, user: &str, password: &str) -> Result<(), String> {
        imap_login(self.imap_port, user, password)
    }

    /// Logs in by POP3, and logs out.
    pub(crate) fn pop3_login(&self, user: &str, password: &str) -> Result<(), String> {
        pop3_login(self.pop3_port, user, password)
    }
}

impl Drop for Dovecot {
    /// The master ends its children on SIGTERM; what is left of the process group then goes the hard way,
    /// before the master is waited for: until then its number is nobody else's.
    fn drop(&mut self) {
        let pid = self.master.id();
        signal("-TERM", &pid.to_string());
        let deadline = Instant::now() + GONE_WITHIN;
        while Instant::now() < deadline && is_running(pid) {
            thread::sleep(Duration::from_millis(10));
        }
        signal("-KILL", &format!("-{pid}"));
        let _ = self.master.wait();
    }
}

fn signal(name: &str, target: &str) {
    let _ = Command::new("kill").args([name, "--", target]).stderr(Stdio::null()).status();
}

/// Whether a child of ours goes on running, rather than being a zombie (proc(5), the state in `stat`).
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn shipped_snippet() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/dovecot.conf")
}

fn write_configuration(scratch: &Path, options: &DovecotOptions, imap_port: u16, pop3_port: u16) {
    let write = |name: &str, text: &str| {
        fs::write(scratch.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    };
    // Dovecot's processes have users of their own, who must get in; so must the one that owns the mail.
    fs::set_permissions(scratch, fs::Permissions::from_mode(0o755)).expect("our own directory");
    let mail = scratch.join("mail");
    fs::create_dir(&mail).expect("the scratch directory is writable");
    fs::set_permissions(&mail, fs::Permissions::from_mode(0o777)).expect("our own directory");

    let mut text = settings(scratch, imap_port, pop3_port);
    text.push_str(&users());
    if let Some((master, password)) = options.master {
        write("masters", &format!("{master}:{{PLAIN}}{password}::::::\n"));
        text.push_str(&format!(
            "auth_master_user_separator = *\n\
             passdb {{\n driver = passwd-file\n args = {}\n master = yes\n result_success = continue\n}}\n",
            scratch.join("masters").display()
        ));
    }
    // People type the address as well as the login name. No attributes, so that the policy is told what was
    // typed.
    write(
        "ldap.conf",
        &format!(
            "uris = {}\nbase = {}\nauth_bind = yes\npass_attrs =\n\
             pass_filter = (&(objectClass=inetOrgPerson)(|(uid=%u)(mail=%u)))\n",
            options.ldap_url, options.base_dn
        ),
    );
    let ldap = scratch.join("ldap.conf");
    let seatkeeper = match options.lua {
        None => format!(
            "passdb {{\n driver = ldap\n args = {}\n}}\n!include {}\n\
             auth_policy_server_url = http://127.0.0.1:{}/\n",
            ldap.display(),
            shipped_snippet().display(),
            options.policy_port
        ),
        Some(http_port) => {
            let script = scratch.join("seatkeeper.lua").display().to_string();
            let address = format!("127.0.0.1:{http_port}");
            write("seatkeeper.lua", &shipped("seatkeeper.lua", &[("127.0.0.1:8460", &address)]));
            let snippet = shipped(
                "dovecot-lua.conf",
                &[("file=/etc/dovecot/seatkeeper.lua", &format!("file={script}"))],
            );
            format!(
                "passdb {{\n driver = ldap\n args = {}\n result_success = continue\n}}\n{snippet}",
                ldap.display()
            )
        }
    };
    text.push_str(&format!("{seatkeeper}\n{}\n", options.extra));
    write("dovecot.conf", &text);
}

/// The cache is a common setting: with it, whoever has logged in before still can while LDAP is down. Delays
/// after failures, the limit of connections from one address, and one process a login would only cost time.
fn settings(scratch: &Path, imap_port: u16, pop3_port: u16) -> String {
    let at = scratch.display();
    format!(
        "base_dir = {at}/run
state_dir = {at}/run
log_path = {at}/log
protocols = imap pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_verbose = yes
auth_failure_delay = 0
auth_cache_size = 1M
auth_cache_negative_ttl = 0
mail_max_userip_connections = 0
mail_location = maildir:{at}/mail/%u
service imap-login {{
  service_count = 0
  chroot =
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  service_count = 0
  chroot =
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"
    )
}

/// Who runs what. Only root can give processes other users; anybody else runs all of it as himself.
fn users() -> String {
    let id = |flag: &str| {
        let output = Command::new("id").arg(flag).output().expect("id is everywhere");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let (user, group) = (id("-un"), id("-gn"));
    let (owner, rest) = if user == "root" {
        // No shell and no files: Debian has both names from the start.
        ("uid=nobody gid=nogroup".to_owned(), String::new())
    } else {
        let rest = format!(
            "default_internal_user = {user}\ndefault_login_user = {user}\ndefault_internal_group = {group}\n"
        );
        (format!("uid={user} gid={group}"), rest)
    };
    format!("{rest}first_valid_uid = 1\nuserdb {{\n driver = static\n args = {owner} home=/nonexistent\n}}\n")
}

/// Logs in by IMAP (RFC 3501), selects the inbox, and logs out. The error holds the server's lines from the
/// refusal on, ALERT included, as the person's mail program gets them.
pub(crate) fn imap_login(port: u16, user: &str, password: &str) -> Result<(), String> {
    let mut connection = Connection::open(port)?;
    connection.read_line()?;
    connection.imap("a1", &format!("LOGIN {} {}", quoted(user), quoted(password)))?;
    connection.imap("a2", "SELECT INBOX")?;
    connection.imap("a3", "LOGOUT")
}

/// Logs in by POP3 (RFC 1939), counts the mail, and logs out. The error is the server's line.
pub(crate) fn pop3_login(port: u16, user: &str, password: &str) -> Result<(), String> {
    let mut connection = Connection::open(port)?;
    connection.read_line()?;
    for command in [format!("USER {user}"), format!("PASS {password}"), "STAT".into(), "QUIT".into()] {
        connection.send(&command)?;
        let line = connection.read_line()?;
        if !line.starts_with("+OK") {
            return Err(line);
        }
    }
    Ok(())
}

/// Settings of a submission service on a port, which hands mail to a server on another.
pub(crate) fn submission(port: u16, relay_port: u16) -> String {
    format!(
        "protocols = imap pop3 lmtp submission\nhostname = mail.example.net\n\
         submission_relay_host = 127.0.0.1\nsubmission_relay_port = {relay_port}\n\
         service submission-login {{\n service_count = 0\n chroot =\n\
         inet_listener submission {{\n port = {port}\n }}\n}}\n"
    )
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(port: u16) -> Result<Connection, String> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|e| format!("connect: {e}"))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(|e| format!("time-out: {e}"))?;
        Ok(Connection { reader: BufReader::new(stream) })
    }

    fn send(&mut self, command: &str) -> Result<(), String> {
        let line = format!("{command}\r\n");
        self.reader.get_mut().write_all(line.as_bytes()).map_err(|e| format!("write: {e}"))
    }

    /// One line without its end; an end of the stream is an error.
    fn read_line(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        self.reader.read_until(b'\n', &mut bytes).map_err(|e| format!("read: {e}"))?;
        let line = String::from_utf8_lossy(&bytes);
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| format!("closed after {line:?}"))
    }

    /// Sends a tagged command and reads up to its completion; anything but OK is an error of all lines.
    fn imap(&mut self, tag: &str, command: &str) -> Result<(), String> {
        self.send(&format!("{tag} {command}"))?;
        let mut lines = Vec::new();
        loop {
            let line = self.read_line()?;
            let status = line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')).map(str::to_owned);
            lines.push(line);
            match status {
                Some(status) if status.starts_with("OK") => return Ok(()),
                Some(_) => return Err(lines.join("\n")),
                None => {}
            }
        }
    }
}
