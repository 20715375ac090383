//! The shipped unit, run by a real systemd: PID 1 of namespaces of its own (`boot.sh`).

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{until, write_people};

const CONFIG: &str = r#"
state_dir      = "/var/lib/seatkeeper"
control_socket = "/run/seatkeeper/control.sock"

[license]
seats = 5

[[directory.ldif]]
name   = "demo"
domain = "example.org"
file   = "demo.ldif"

[[directory.ldap]]
name               = "corp"
domain             = "example.com"
urls               = ["ldap://127.0.0.1:1"]
base_dn            = "dc=example,dc=com"
bind_dn            = "cn=seatkeeper,dc=example,dc=com"
bind_password_file = "$CREDENTIALS_DIRECTORY/corp.password"

[[listen.http]]
bind = "127.0.0.1:0"
"#;

const CURL: [&str; 5] =
    ["curl", "--silent", "--fail-with-body", "--unix-socket", "/run/seatkeeper/control.sock"];

/// What the boot needs beside the service: names of units, and their texts.
const UNITS: [(&str, &str); 4] = [
    ("shutdown.target", "[Unit]\nDefaultDependencies=no\n"),
    (
        "sysinit.target",
        "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service systemd-journald-dev-log.socket\n",
    ),
    ("basic.target", "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n"),
    ("multi-user.target", "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=seatkeeper.service\n"),
];

/// Units of the machine's that are used as they are.
const JOURNAL: [&str; 3] =
    ["systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"];

/// Users that DynamicUser= makes (systemd.exec(5)).
const DYNAMIC_USERS: std::ops::RangeInclusive<u32> = 61184..=65519;

/// `systemctl stop` and the daemon's drain.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// A systemd with the shipped unit, and nothing else to do.
struct Machine {
    folder: TempDir,
    boot: Child,
    /// Closed, it ends the machine.
    power: Option<ChildStdin>,
    /// PID 1, as seen from here.
    init: String,
}

impl Machine {
    /// Boots with the shipped unit, in which the credential is uncommented.
    fn boot(config: &str) -> Machine {
        Machine::boot_with(config, "")
    }

    /// The same with a drop-in for the service.
    fn boot_with(config: &str, drop_in: &str) -> Machine {
        assert!(
            rustix::process::geteuid().is_root(),
            "systemd can be booted by root alone: run this as root"
        );
        let folder = tempfile::tempdir().expect("a scratch folder");
        write_etc(&folder.path().join("etc"), config);
        write_units(&folder.path().join("units"), drop_in);
        let mut boot = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/boot.sh"))
            .arg(folder.path())
            .arg(env!("CARGO_BIN_EXE_seatkeeper"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare can run: tests/run.sh installs it");
        let mut first_line = String::new();
        let stdout = boot.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut first_line).expect("the script says something");
        let power = boot.stdin.take();
        let Some(init) = first_line.trim_end().strip_prefix("pid ") else {
            panic!(
                "systemd can't be booted here (unshare, mount and cgroup2 have to be allowed): {}",
                said(&mut boot)
            );
        };
        let machine = Machine { init: init.to_owned(), folder, boot, power };
        until("systemd's answer", || machine.run(&["systemctl", "show"]).status.success().then_some(()));
        machine
    }

    /// A command on the machine.
    fn command(&self, command: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--target", &self.init, "--"])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        nsenter
    }

    fn run(&self, command: &[&str]) -> Output {
        let bounded = [&["timeout", "30"], command].concat();
        self.command(&bounded).output().expect("nsenter can run: tests/run.sh installs it")
    }

    /// Runs a command that must succeed; gives what it printed.
    fn output(&self, command: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run(command);
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
        stdout.trim_end().to_owned()
    }

    /// What systemd knows about the service.
    fn property(&self, name: &str) -> String {
        self.output(&["systemctl", "show", "seatkeeper", "--value", "--property", name])
    }

    fn wait_for_property(&self, name: &str, value: &str) {
        until(&format!("{name}={value}"), || (self.property(name) == value).then_some(()));
    }

    fn main_pid(&self) -> String {
        self.property("MainPID")
    }

    /// Asks the administration API, as root on the machine.
    fn ask(&self, method: &str, path: &str) -> Value {
        let url = format!("http://localhost{path}");
        let answer = self.output(&[&CURL[..], &["--request", method, &url]].concat());
        serde_json::from_str(&answer).expect("the answer is JSON")
    }

    /// Waits until the people of the demo are known.
    fn wait_for_people(&self) {
        until("12 users", || (self.ask("GET", "/v1/status")["users"]["total"] == 12).then_some(()));
    }

    /// What the service logged.
    fn journal(&self) -> Vec<Value> {
        let lines = self.output(&["journalctl", "--unit=seatkeeper", "--output=json", "--all"]);
        lines.lines().map(|line| serde_json::from_str(line).expect("the journal's lines are JSON")).collect()
    }

    /// Waits for an event in the journal.
    fn wait_for_event(&self, event: &str) -> Value {
        until(event, || self.journal().into_iter().find(|line| line["SEATKEEPER_EVENT"] == event))
    }

    /// Waits for a text in the journal.
    fn wait_for_message(&self, text: &str) {
        let contains = |line: &Value| line["MESSAGE"].as_str().is_some_and(|message| message.contains(text));
        until(text, || self.journal().iter().any(contains).then_some(()));
    }

    /// Writes another configuration file.
    fn configure(&self, config: &str) {
        fs::write(self.folder.path().join("etc/seatkeeper.toml"), config)
            .expect("the scratch folder is writable");
    }

    /// Ends the machine, and looks whether anything is left.
    fn power_off(&mut self) {
        drop(self.power.take());
        let status = until("the end of the machine", || self.boot.try_wait().expect("the script is a child"));
        assert!(status.success(), "{status}: {}", said(&mut self.boot));
        assert!(!Path::new("/proc").join(&self.init).exists(), "systemd is still there");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be listed");
        assert!(!mounts.contains(&self.folder.path().display().to_string()), "{mounts}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            for command in ["systemctl --no-pager status seatkeeper", "journalctl --no-pager --lines=60"] {
                let output = self.run(&command.split(' ').collect::<Vec<_>>());
                eprintln!("--- {command}\n{}", String::from_utf8_lossy(&output.stdout));
            }
            let console = fs::read_to_string(self.folder.path().join("console"));
            eprintln!("--- systemd's console\n{}", console.unwrap_or_default());
            drop(self.power.take());
            let _ = self.boot.wait();
        } else {
            self.power_off();
        }
    }
}

/// What a process said on its standard error, until it ends.
fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What can't be read is shown as nothing.
        let _ = stderr.read_to_string(&mut text);
    }
    text
}

/// Fills what will be /etc/seatkeeper. The password is for root's eyes only.
fn write_etc(etc: &Path, config: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    fs::create_dir(etc).expect("the scratch folder is writable");
    write_people(etc);
    fs::write(etc.join("seatkeeper.toml"), config).expect("the scratch folder is writable");
    let mut password = fs::OpenOptions::new();
    let password = password.create_new(true).write(true).mode(0o600).open(etc.join("corp.password"));
    std::io::Write::write_all(&mut password.expect("the scratch folder is writable"), b"secret\n")
        .expect("the scratch folder is writable");
}

fn write_units(units: &Path, drop_in: &str) {
    let write = |name: &str, text: &str| {
        let path = units.join(name);
        let parent = path.parent().expect("a unit is in a folder");
        fs::create_dir_all(parent).expect("the scratch folder is writable");
        fs::write(path, text).expect("the scratch folder is writable");
    };
    for (name, text) in UNITS {
        write(name, text);
    }
    for name in JOURNAL {
        let path = PathBuf::from("/lib/systemd/system").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        write(name, &text);
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/seatkeeper.service");
    let shipped = fs::read_to_string(shipped).expect("the unit can be read");
    let commented = "#LoadCredential=corp.password:/etc/seatkeeper/corp.password";
    assert!(shipped.contains(commented), "the unit shows how to hand over a password");
    write("seatkeeper.service", &shipped.replace(commented, &commented[1..]));
    write("seatkeeper.service.d/test.conf", drop_in);
}

#[test]
fn the_service_starts_and_has_only_what_it_needs() {
    let machine = Machine::boot(CONFIG);
    machine.wait_for_property("ActiveState", "active");
    for (name, value) in [("Type", "notify"), ("WatchdogUSec", "30s"), ("NotifyAccess", "main")] {
        assert_eq!(machine.property(name), value, "{name}");
    }
    machine.wait_for_people();

    let pid = machine.main_pid();
    let process = machine.output(&["cat", &format!("/proc/{pid}/status")]);
    let field = |name: &str| {
        let line = process.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("no {name} in {process}"))
    };
    let uid: u32 = field("Uid").split('\t').next().expect("an ID").parse().expect("a number");
    assert!(DYNAMIC_USERS.contains(&uid), "{uid}");
    for (name, value) in [("CapEff", 0), ("CapPrm", 0), ("CapBnd", 0), ("NoNewPrivs", 1), ("Seccomp", 2)] {
        assert_eq!(u64::from_str_radix(field(name), 16), Ok(value), "{name}");
    }

    let modes = [
        ("/var/lib/private/seatkeeper", "700"),
        ("/var/lib/private/seatkeeper/seatkeeper.redb", "600"),
        ("/run/seatkeeper", "755"),
        ("/run/seatkeeper/control.sock", "660"),
    ];
    for (path, mode) in modes {
        assert_eq!(machine.output(&["stat", "-c", "%a %u", path]), format!("{mode} {uid}"), "{path}");
    }
    assert_eq!(machine.output(&["readlink", "/var/lib/seatkeeper"]), "private/seatkeeper");
}

#[test]
fn a_password_is_handed_over_as_a_credential() {
    let machine = Machine::boot(CONFIG);
    machine.wait_for_event("sync_failed");
    let status = machine.ask("GET", "/v1/status");
    let directories = status["directories"].as_array().expect("an array");
    let corp = directories.iter().find(|directory| directory["name"] == "corp").expect("it is configured");
    // The password is read before the server is asked.
    let error = corp["last_error"].as_str().expect("nobody listens");
    assert!(error.contains("ldap://127.0.0.1:1"), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
}

#[test]
fn the_journal_has_the_fields_and_the_status_line_the_seats() {
    let machine = Machine::boot(CONFIG);
    let started = machine.wait_for_event("started");
    let version = env!("CARGO_PKG_VERSION");
    for (field, value) in [
        ("MESSAGE", format!("Seatkeeper {version} is ready to be asked.").as_str()),
        ("PRIORITY", "5"),
        ("SYSLOG_IDENTIFIER", "seatkeeper"),
        ("SEATKEEPER_VERSION", version),
        ("SEATKEEPER_CONFIG", "/etc/seatkeeper/seatkeeper.toml"),
        ("_SYSTEMD_UNIT", "seatkeeper.service"),
        // As text on standard error it would be "stdout".
        ("_TRANSPORT", "journal"),
    ] {
        assert_eq!(started[field], value, "{field} in {started}");
    }
    machine.wait_for_people();
    machine.ask("PUT", "/v1/seats/alice@example.org");
    let line = r#"Status: "1 of 5 seats taken; corp backoff; demo idle""#;
    until(line, || {
        machine.output(&["systemctl", "--no-pager", "status", "seatkeeper"]).contains(line).then_some(())
    });
}

#[test]
fn the_service_reloads_and_stops() {
    let machine = Machine::boot(CONFIG);
    machine.wait_for_property("ActiveState", "active");
    let pid = machine.main_pid();
    machine.configure(&CONFIG.replace("seats = 5", "seats = 7"));
    machine.output(&["systemctl", "reload", "seatkeeper"]);
    machine.wait_for_event("reloaded");
    machine.wait_for_property("ActiveState", "active");
    assert_eq!(machine.ask("GET", "/v1/status")["seats"]["limit"], 7);
    assert_eq!(machine.main_pid(), pid, "the process is the same");

    let began = Instant::now();
    machine.output(&["systemctl", "stop", "seatkeeper"]);
    assert!(began.elapsed() < SHUTDOWN, "{:?}", began.elapsed());
    for (name, value) in
        [("ActiveState", "inactive"), ("Result", "success"), ("ExecMainStatus", "0"), ("NRestarts", "0")]
    {
        assert_eq!(machine.property(name), value, "{name}");
    }
    machine.wait_for_event("stopping");
    // SystemCallErrorNumber=EPERM: a system call that the filter forbids fails like this.
    let journal = machine.output(&["journalctl", "--no-pager", "--output=verbose"]);
    assert!(!journal.contains("not permitted"), "{journal}");
    assert!(!machine.run(&["test", "-e", "/run/seatkeeper"]).status.success(), "the sockets are gone");
}

#[test]
fn a_killed_daemon_comes_back_with_its_seats() {
    let machine = Machine::boot(CONFIG);
    machine.wait_for_property("ActiveState", "active");
    machine.wait_for_people();
    for user in ["alice", "bela"] {
        machine.ask("PUT", &format!("/v1/seats/{user}@example.org"));
    }
    let pid = machine.main_pid();
    machine.output(&["kill", "-KILL", &pid]);
    machine.wait_for_property("NRestarts", "1");
    machine.wait_for_property("ActiveState", "active");
    assert_ne!(machine.main_pid(), pid);
    assert_eq!(machine.ask("GET", "/v1/status")["seats"]["used"], 2);
    assert!(machine.ask("GET", "/v1/verify")["findings"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn a_daemon_whose_disk_hangs_is_started_again() {
    let machine = Machine::boot_with(CONFIG, "[Service]\nWatchdogSec=2s\n");
    machine.wait_for_property("ActiveState", "active");
    machine.wait_for_people();
    let pid = machine.main_pid();
    // strace holds the writer's thread when it is about to make a commit durable.
    let comm = machine.output(&["sh", "-c", &format!("grep -lx store-writer /proc/{pid}/task/*/comm")]);
    let writer = comm.split('/').nth(4).expect("a thread");
    let status = format!("/proc/{pid}/task/{writer}/status");
    let strace = ["strace", "--quiet=all", "--output=/dev/null", "--trace=fsync,fdatasync"];
    let hang = ["--inject=fsync,fdatasync:delay_enter=3600s", "--attach", writer];
    let mut disk = machine.command(&[&strace[..], &hang].concat());
    // It is surprised when the process ends.
    let mut disk = disk.stderr(Stdio::null()).spawn().expect("nsenter can run");
    until("strace has hold of the writer", || {
        (!machine.output(&["cat", &status]).contains("TracerPid:\t0\n")).then_some(())
    });
    let grant = ["--request", "PUT", "http://localhost/v1/seats/alice@example.org"];
    let mut grant = machine.command(&[&CURL[..], &grant].concat()).spawn().expect("nsenter can run");
    machine.wait_for_message("The store's writer does not answer");
    machine.wait_for_message("Watchdog timeout");
    // The old process ends when its disk lets go of it; meanwhile systemd goes on trying.
    assert!(
        grant.try_wait().expect("curl is a child").is_none(),
        "a seat was granted that is not on the disk"
    );
    machine.output(&["pkill", "-KILL", "--exact", "strace"]);
    disk.wait().expect("strace is a child");
    machine.wait_for_property("ActiveState", "active");
    assert_ne!(machine.main_pid(), pid);
    assert!(!grant.wait().expect("curl is a child").success(), "a killed daemon answered");
    assert_eq!(machine.ask("GET", "/v1/verify")["findings"], serde_json::json!([]));
}

#[test]
fn a_mistake_in_the_configuration_is_not_tried_again() {
    let no_number = CONFIG.replace("seats = 5", "seats = \"many\"");
    let no_credential = "[Service]\nLoadCredential=\n";
    for (config, drop_in, mistake) in
        [(no_number.as_str(), "", "`seats`"), (CONFIG, no_credential, "$CREDENTIALS_DIRECTORY is not set")]
    {
        let machine = Machine::boot_with(config, drop_in);
        machine.wait_for_property("ActiveState", "failed");
        for (name, value) in [("Result", "exit-code"), ("ExecMainStatus", "78"), ("NRestarts", "0")] {
            assert_eq!(machine.property(name), value, "{name}");
        }
        machine.wait_for_message(mistake);
    }
}

/// The commands are root's, and the daemon is not root.
#[test]
fn a_backup_is_restored_for_the_user_of_the_service() {
    let machine = Machine::boot(CONFIG);
    machine.wait_for_property("ActiveState", "active");
    machine.wait_for_people();
    machine.ask("PUT", "/v1/seats/alice@example.org");
    machine.output(&["seatkeeper", "backup", "/root/seatkeeper.backup"]);
    let starts = || {
        machine.output(&["systemctl", "reset-failed", "seatkeeper"]);
        machine.output(&["systemctl", "start", "seatkeeper"]);
        assert_eq!(machine.ask("GET", "/v1/status")["seats"]["used"], 1);
        let user = machine.output(&["stat", "-c", "%u", "/var/lib/private/seatkeeper-marker"]);
        let uid: u32 = user.parse().expect("a number");
        assert!(DYNAMIC_USERS.contains(&uid), "{uid}");
        machine.output(&["systemctl", "stop", "seatkeeper"]);
    };
    machine.output(&["systemctl", "stop", "seatkeeper"]);

    // The store is gone.
    machine.output(&["rm", "/var/lib/private/seatkeeper/seatkeeper.redb"]);
    assert!(!machine.run(&["systemctl", "start", "seatkeeper"]).status.success());
    assert_eq!(
        (machine.property("ExecMainStatus"), machine.property("NRestarts")),
        ("78".into(), "0".into())
    );
    machine.wait_for_message("is missing or empty, and was there before");
    machine.output(&["seatkeeper", "restore", "/root/seatkeeper.backup"]);
    starts();

    // A machine on which the service never ran.
    for folder in ["seatkeeper", "seatkeeper-marker"] {
        machine.output(&["rm", "-rf", &format!("/var/lib/{folder}"), &format!("/var/lib/private/{folder}")]);
    }
    machine.output(&["seatkeeper", "restore", "/root/seatkeeper.backup"]);
    starts();
}
