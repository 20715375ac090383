//! A real Postfix in a scratch directory, with the repository's own `config/postfix.cf`, and a person's SMTP client.
//!
//! Runs as root alone, as Postfix does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{PATIENCE, assert_may_start, assert_quiet, free_port, wait_for};

/// What lies between the shipped settings and the scratch directory.
#[derive(Default)]
pub(crate) struct PostfixOptions {
    /// Settings that replace or extend the shipped ones.
    pub(crate) settings: String,
    /// Leave the shipped file out.
    pub(crate) bare: bool,
    /// `sasl/smtpd.conf`, which Debian's Postfix looks for beside its own settings.
    pub(crate) sasl: String,
}

/// A running Postfix; dropping it ends every process of it.
pub(crate) struct Postfix {
    /// Where mail comes in, on 127.0.0.1.
    pub(crate) smtp_port: u16,
    /// Where people send mail, on 127.0.0.1: they must log in.
    pub(crate) submission_port: u16,
    scratch: TempDir,
    master: Child,
}

const QUEUES: [&str; 13] = [
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "private",
    "public", "saved", "trace",
];

/// Services in the order of master(5). The submission service needs no TLS, so that passwords are plain to see.
const SERVICES: &str = "
127.0.0.1:SMTP inet n - n - - smtpd
127.0.0.1:SUBMISSION inet n - n - - smtpd
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

impl Postfix {
    /// Starts one and waits until it greets; panics with its log when it doesn't.
    #[track_caller]
    pub(crate) fn start(options: &PostfixOptions) -> Postfix {
        assert_may_start("Postfix");
        let scratch = tempfile::Builder::new().prefix("postfix").tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        make_queues(scratch.path());
        let (smtp_port, submission_port) = (free_port(), free_port());
        write_configuration(scratch.path(), options, smtp_port, submission_port);
        let error = fs::File::create(scratch.path().join("stderr")).unwrap();
        let master = Command::new("/usr/lib/postfix/sbin/master")
            .arg("-c")
            .arg(scratch.path())
            .arg("-d")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(error)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("postfix can't run ({error}): tests/run.sh installs it"));
        let mut postfix = Postfix { smtp_port, submission_port, scratch, master };
        wait_for("Postfix to greet", || {
            if let Ok(Some(status)) = postfix.master.try_wait() {
                panic!("Postfix ended with {status}\n{}", postfix.log());
            }
            Smtp::connect(smtp_port).ok()
        });
        assert_quiet("Postfix", &postfix.log());
        postfix
    }

    /// All that Postfix has logged.
    pub(crate) fn log(&self) -> String {
        let read = |name: &str| fs::read(self.scratch.path().join(name)).unwrap_or_default();
        ["stderr", "log"].map(|name| String::from_utf8_lossy(&read(name)).into_owned()).concat()
    }

    /// A connection from outside.
    #[track_caller]
    pub(crate) fn smtp(&self) -> Smtp {
        Smtp::connect(self.smtp_port).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// A connection of somebody who wants to send.
    #[track_caller]
    pub(crate) fn submission(&self) -> Smtp {
        Smtp::connect(self.submission_port).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// What `postmap -q KEY TABLE` prints: the value, or `Err` with what it said on standard error (nothing where
    /// the key is not there).
    pub(crate) fn postmap(&self, key: &str, table: &str) -> Result<String, String> {
        let mut command = Command::new("/usr/sbin/postmap");
        let output = command.arg("-c").arg(self.scratch.path()).args(["-q", key, table]).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // The master and all that it started are one process group; it may have ended already.
        let _ = kill_process_group(Pid::from_child(&self.master), Signal::KILL);
        let _ = self.master.wait();
    }
}

fn id(flag: &str, name: &str) -> u32 {
    let output = Command::new("id").args([flag, name]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("Debian's package makes this user")
}

fn make_queues(scratch: &Path) {
    let postfix = id("-u", "postfix");
    let queue = scratch.join("queue");
    for name in QUEUES {
        fs::create_dir_all(queue.join(name)).unwrap();
        chown(queue.join(name), Some(postfix), None).unwrap();
    }
    fs::create_dir(queue.join("pid")).unwrap();
    fs::create_dir(scratch.join("data")).unwrap();
    chown(scratch.join("data"), Some(postfix), None).unwrap();
}

fn write_configuration(scratch: &Path, options: &PostfixOptions, smtp: u16, submission: u16) {
    let at = scratch.display();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/postfix.cf");
    let shipped = if options.bare { String::new() } else { fs::read_to_string(shipped).unwrap() };
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
         command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
         shlib_directory = /usr/lib/postfix\nmail_owner = postfix\nsetgid_group = postdrop\n\
         maillog_file = {at}/log\nmaillog_file_prefixes = {at}\ninet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\nmyhostname = mail.example.net\nmydestination =\nlocal_recipient_maps =\n\
         smtpd_peername_lookup = no\nsmtpd_error_sleep_time = 0\nsmtpd_client_connection_count_limit = 0\n\
         default_process_limit = 600\nalias_maps =\nmynetworks =\nvirtual_transport = discard:\n"
    );
    let main = settings(&[&main, &shipped, &options.settings]);
    fs::write(scratch.join("main.cf"), main).unwrap();
    fs::create_dir(scratch.join("sasl")).unwrap();
    fs::write(scratch.join("sasl/smtpd.conf"), &options.sasl).unwrap();
    let services = SERVICES.replace("SMTP", &smtp.to_string()).replace("SUBMISSION", &submission.to_string());
    fs::write(scratch.join("master.cf"), services).unwrap();
}

/// One text of settings (postconf(5)), in which a later text replaces the keys of an earlier one. Each process of
/// Postfix warns of a key that is set twice, and the warnings of postlogd fill the socket that postlogd itself reads:
/// Postfix hangs.
fn settings(texts: &[&str]) -> String {
    let mut settings = BTreeMap::new();
    for text in texts {
        // Lines that begin with white space continue the one before.
        let text = text.replace("\n ", " ");
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        settings.extend(lines.map(|line| {
            let (key, value) = line.split_once('=').unwrap();
            (key.trim().to_owned(), value.trim().to_owned())
        }));
    }
    settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

/// A person's, or another server's, side of SMTP (RFC 5321).
pub(crate) struct Smtp {
    reader: BufReader<TcpStream>,
}

impl Smtp {
    /// Connects, and says hello.
    pub(crate) fn connect(port: u16) -> Result<Smtp, String> {
        Smtp::greet(port, "EHLO")
    }

    /// The same for LMTP (RFC 2033), with one recipient a mail.
    pub(crate) fn connect_lmtp(port: u16) -> Result<Smtp, String> {
        Smtp::greet(port, "LHLO")
    }

    fn greet(port: u16, hello: &str) -> Result<Smtp, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let mut smtp = Smtp { reader: BufReader::new(stream) };
        let greeting = smtp.reply()?;
        if !greeting.starts_with("220 ") {
            return Err(greeting);
        }
        smtp.say(&format!("{hello} client.example.net"))?;
        Ok(smtp)
    }

    /// A command; the last line of the reply, without its end.
    pub(crate) fn say(&mut self, command: &str) -> Result<String, String> {
        self.send(command)?;
        self.reply()
    }

    fn send(&mut self, command: &str) -> Result<(), String> {
        let stream = self.reader.get_mut();
        stream.write_all(format!("{command}\r\n").as_bytes()).map_err(|error| error.to_string())
    }

    fn reply(&mut self) -> Result<String, String> {
        Ok(self.lines()?.pop().unwrap_or_default())
    }

    /// All lines of a reply, without their ends.
    fn lines(&mut self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
                return Err("the server closed the connection".to_owned());
            }
            lines.push(line.trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(lines);
            }
        }
    }

    /// The reply to a recipient, after a sender.
    #[track_caller]
    pub(crate) fn recipient(&mut self, sender: &str, recipient: &str) -> String {
        self.recipient_lines(sender, recipient).pop().unwrap()
    }

    /// All lines of the reply to a recipient, after a sender.
    #[track_caller]
    pub(crate) fn recipient_lines(&mut self, sender: &str, recipient: &str) -> Vec<String> {
        self.say("RSET").unwrap();
        let reply = self.say(&format!("MAIL FROM:<{sender}>")).unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
        self.send(&format!("RCPT TO:<{recipient}>")).and_then(|()| self.lines()).unwrap()
    }

    /// Sends a short mail to the recipient who was accepted.
    #[track_caller]
    pub(crate) fn data(&mut self, subject: &str) -> String {
        let reply = self.say("DATA").unwrap();
        assert!(reply.starts_with("354 "), "{reply}");
        self.say(&format!("Subject: {subject}\r\n\r\nHello.\r\n.")).unwrap()
    }

    /// `AUTH PLAIN` (RFC 4616).
    pub(crate) fn auth_plain(&mut self, user: &str, password: &str) -> String {
        let response = STANDARD.encode(format!("\0{user}\0{password}"));
        self.say(&format!("AUTH PLAIN {response}")).unwrap_or_else(|error| error)
    }

    /// `AUTH LOGIN`, as mail programs still speak it.
    pub(crate) fn auth_login(&mut self, user: &str, password: &str) -> String {
        let mut say = |text: &str| self.say(text).unwrap_or_else(|error| error);
        assert_eq!(say("AUTH LOGIN"), "334 VXNlcm5hbWU6");
        assert_eq!(say(&STANDARD.encode(user)), "334 UGFzc3dvcmQ6");
        say(&STANDARD.encode(password))
    }
}
