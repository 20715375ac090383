//! The real daemon, and a socket in the place of systemd's (sd_notify(3)).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, until, write_people};

const CONFIG: &str = r#"
state_dir      = "state"
control_socket = "control.sock"

[license]
seats = 5

[[directory.ldif]]
name   = "demo"
domain = "example.org"
file   = "demo.ldif"

[[listen.http]]
bind = "127.0.0.1:0"

[[listen.dovecot_policy]]
bind = "127.0.0.1:0"
"#;

/// The daemon must end within this time.
const SHUTDOWN: Duration = Duration::from_secs(10);

const GRANT: &str = "PUT /v1/seats/alice@example.org";

/// Whose watchdog it is: the variable that systemd sets has to name the process itself.
const OWN: &str = "$$";

/// A daemon and what it told.
struct Daemon {
    child: Child,
    folder: TempDir,
    told: Receiver<String>,
}

impl Daemon {
    /// Starts the daemon with a watchdog, which belongs to the process `watched`.
    fn start(watchdog: Duration, watched: &str) -> Daemon {
        let folder = tempfile::tempdir().expect("a scratch folder");
        write_people(folder.path());
        fs::write(folder.path().join("seatkeeper.toml"), CONFIG).expect("the scratch folder is writable");
        let address = folder.path().join("notify");
        let socket = UnixDatagram::bind(&address).expect("the scratch folder takes a socket");
        let (tell, told) = mpsc::channel();
        // Read at once, and not only when a test asks: a full queue would hold the daemon up.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                if tell.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                    return;
                }
            }
        });
        let log = File::create(folder.path().join("log")).expect("the scratch folder is writable");
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("WATCHDOG_PID={watched} exec \"$0\" --config seatkeeper.toml run"))
            .arg(env!("CARGO_BIN_EXE_seatkeeper"))
            .current_dir(folder.path())
            .env("NOTIFY_SOCKET", address)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        Daemon { child, folder, told }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The next message, if it comes before the deadline.
    fn next_message(&self, deadline: Instant) -> Option<String> {
        self.told.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Skips messages up to one with this line.
    fn wait_for(&self, line: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.next_message(deadline);
            let message = message.unwrap_or_else(|| panic!("{line} was not told within {PATIENCE:?}"));
            if has(&message, line) {
                return message;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the daemon can be signalled");
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("control.sock")).expect("the control socket answers")
    }

    fn seat_limit(&self) -> Value {
        ask(self.connect(), "GET /v1/status")["seats"]["limit"].take()
    }

    /// Writes another configuration, and tells the daemon to read it.
    fn reload(&self, config: &str) {
        fs::write(self.path("seatkeeper.toml"), config).expect("the scratch folder is writable");
        self.signal(Signal::HUP);
    }

    fn exit_status(&mut self) -> ExitStatus {
        until("the daemon's end", || self.child.try_wait().expect("the daemon is a child"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}

fn has(message: &str, line: &str) -> bool {
    message.lines().any(|told| told == line)
}

/// Sends a request to the administration API, which must do as it is asked.
fn ask(mut control: UnixStream, request: &str) -> Value {
    write!(control, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("the control socket takes a request");
    let mut answer = String::new();
    control.read_to_string(&mut answer).expect("the control socket gives an answer");
    let body = answer.strip_prefix("HTTP/1.1 200 OK\r\n").and_then(|rest| rest.split_once("\r\n\r\n"));
    let (_, body) = body.unwrap_or_else(|| panic!("{request}: {answer}"));
    serde_json::from_str(body).expect("the body is JSON")
}

/// CLOCK_MONOTONIC in microseconds.
fn monotonic_usec() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[test]
fn ready_is_told_when_every_listener_listens() {
    let daemon = Daemon::start(Duration::from_secs(2), OWN);
    daemon.wait_for("READY=1");
    assert_eq!(daemon.seat_limit(), 5);
    let log = daemon.log();
    let addresses: Vec<&str> =
        log.lines().filter_map(|line| line.split_once(" Listening on ")?.1.strip_suffix('.')).collect();
    assert_eq!(addresses.len(), 2, "{log}");
    for address in addresses {
        TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
}

#[test]
fn the_status_line_says_what_is_going_on() {
    let daemon = Daemon::start(Duration::from_secs(2), OWN);
    daemon.wait_for("STATUS=0 of 5 seats taken; demo idle");
    ask(daemon.connect(), GRANT);
    daemon.wait_for("STATUS=1 of 5 seats taken; demo idle");
}

#[test]
fn the_watchdog_is_fed_in_time() {
    let watchdog = Duration::from_secs(4);
    let daemon = Daemon::start(watchdog, OWN);
    daemon.wait_for("WATCHDOG=1");
    for _ in 0..2 {
        let fed = Instant::now();
        daemon.wait_for("WATCHDOG=1");
        assert!(fed.elapsed() < watchdog, "{:?} between two of WATCHDOG=1", fed.elapsed());
    }
}

/// Variables are inherited: the watchdog may be that of a process which started us.
#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let daemon = Daemon::start(Duration::from_secs(2), "1");
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    // The watchdog would be fed before the status is told.
    while !told.iter().any(|message: &String| message.starts_with("STATUS=")) {
        told.extend(Some(daemon.next_message(deadline).expect("a status is told")));
    }
    assert!(!told.iter().any(|message| has(message, "WATCHDOG=1")), "{told:?}");
}

#[test]
fn a_reload_is_told_from_beginning_to_end() {
    let daemon = Daemon::start(Duration::from_secs(2), OWN);
    daemon.wait_for("READY=1");
    let good = CONFIG.replace("seats = 5", "seats = 7");
    let wrong = good.replace("seats = 7", "seats = \"many\"");
    let unusable = format!("{good}\n[[listen.http]]\nbind = \"unix:/nonexistent/socket\"\n");
    let unusable = unusable.replace("seats = 7", "seats = 9");
    let cases = [
        (good.as_str(), "The configuration was read again."),
        (&wrong, "seats"),
        (&unusable, "cannot listen on unix:/nonexistent/socket"),
    ];
    for (config, logged) in cases {
        let before = monotonic_usec();
        daemon.reload(config);
        let reloading = daemon.wait_for("RELOADING=1");
        let after = monotonic_usec();
        let began = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        let began: i64 = began.and_then(|began| began.parse().ok()).expect("the time of the reload");
        assert!((before..=after).contains(&began), "{before} <= {began} <= {after}");
        daemon.wait_for("READY=1");
        assert!(daemon.log().contains(logged), "{logged}");
        assert_eq!(daemon.seat_limit(), 7, "{config}");
    }
    assert_eq!(daemon.log().matches("The new configuration is not used").count(), 2);
}

#[test]
fn the_end_is_told_and_comes_soon() {
    let mut daemon = Daemon::start(Duration::from_secs(2), OWN);
    daemon.wait_for("READY=1");
    // Two clients that hold things up: one is idle, one never finishes its request.
    let (idle, mut slow) = (daemon.connect(), daemon.connect());
    slow.write_all(b"GET /v1/status HTTP/1.1\r\nHost:").expect("the control socket takes a request");
    let began = Instant::now();
    daemon.signal(Signal::TERM);
    daemon.wait_for("STOPPING=1");
    let status = daemon.exit_status();
    assert!(began.elapsed() < SHUTDOWN, "{:?}", began.elapsed());
    assert!(status.success(), "{status}");
    assert!(!daemon.path("control.sock").exists(), "the control socket is removed");
    drop((idle, slow));
}

/// strace holds the writer's thread when it is about to make a commit durable, as a disk does that hangs.
struct HungDisk(Child);

impl HungDisk {
    fn under(daemon: &Daemon) -> HungDisk {
        let tasks = format!("/proc/{}/task", daemon.child.id());
        let tasks: Vec<PathBuf> = fs::read_dir(tasks)
            .expect("the daemon lives")
            .map(|task| task.expect("the daemon lives").path())
            .collect();
        let is_writer = |task: &&PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "store-writer\n")
        };
        let writer = tasks.iter().find(is_writer).expect("a thread is named store-writer");
        let thread = writer.file_name().expect("a number").to_string_lossy();
        let child = Command::new("strace")
            .arg("--output")
            .arg(daemon.path("strace"))
            .args(["--quiet=all", "--trace=fsync,fdatasync"])
            .args(["--inject=fsync,fdatasync:delay_enter=3600s", "--attach", &thread])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("strace can't run ({error}): tests/run.sh installs it"));
        let mut disk = HungDisk(child);
        until("strace has hold of the writer (it takes root, or kernel.yama.ptrace_scope=0)", || {
            let ended = disk.0.try_wait().expect("strace is a child");
            assert!(ended.is_none(), "strace can't attach: it takes root, or kernel.yama.ptrace_scope=0");
            let status = fs::read_to_string(writer.join("status")).expect("the daemon lives");
            (!status.contains("TracerPid:\t0\n")).then_some(())
        });
        disk
    }

    /// The disk goes on with what it was doing.
    fn recover(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("strace can be signalled");
        self.0.wait().expect("strace is a child");
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_watchdog_is_not_fed_while_the_disk_hangs() {
    let watchdog = Duration::from_secs(2);
    let daemon = Daemon::start(watchdog, OWN);
    daemon.wait_for("STATUS=0 of 5 seats taken; demo idle");
    let disk = HungDisk::under(&daemon);
    thread::scope(|scope| {
        let control = daemon.connect();
        let grant = scope.spawn(|| ask(control, GRANT));
        until("the daemon's complaint", || daemon.log().contains("writer does not answer").then_some(()));
        // Forget what was told before.
        while daemon.told.try_recv().is_ok() {}
        let deadline = Instant::now() + watchdog;
        while let Some(message) = daemon.next_message(deadline) {
            assert!(!has(&message, "WATCHDOG=1"), "the watchdog is fed");
        }
        assert!(!grant.is_finished(), "a seat was granted that is not on the disk");
        disk.recover();
        daemon.wait_for("WATCHDOG=1");
        grant.join().expect("the seat is granted at last");
    });
    daemon.wait_for("STATUS=1 of 5 seats taken; demo idle");
    assert_eq!(daemon.log().matches("writer does not answer").count(), 1, "one hang is one line");
}
