//! The real binary with a configuration of the test's, in a temporary directory and a process group of its
//! own, which dies with the value.
//!
//! ```no_run
//! let mut daemon = Daemon::start(Settings::ldif(3, &people(0..10)));
//! assert_eq!(daemon.check("u1"), ("granted".to_owned(), true));
//! daemon.kill9();
//! daemon.restart();
//! ```

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::http::{Address, Answer, Client};
use super::slapd::{PEOPLE, Slapd, wait_until_stopped};
use super::{free_port, wait_for};

/// The binary under test.
pub(crate) const SEATKEEPER: &str = env!("CARGO_BIN_EXE_seatkeeper");

/// What a daemon is started with; ports are the kernel's choice.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `[license] seats`.
    pub(crate) seats: u64,
    /// The keys of `[license]`, instead of `seats`.
    pub(crate) license: Option<String>,
    /// Keys before the first table.
    pub(crate) top: String,
    /// The tables of directories, and whatever else.
    pub(crate) tables: String,
    /// The tables of listeners.
    pub(crate) listeners: String,
    /// Files in the daemon's directory, against which paths in the configuration are relative.
    pub(crate) files: Vec<(&'static str, String)>,
    /// A program that becomes the daemon, with its arguments; none by default.
    pub(crate) wrapper: Vec<String>,
    /// Variables of the daemon's environment.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            seats: 3,
            license: None,
            top: String::new(),
            tables: String::new(),
            listeners: HTTP.to_owned() + "[[listen.dovecot_policy]]\nbind = \"127.0.0.1:0\"\n",
            files: Vec::new(),
            wrapper: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A listener for `/v1/check`.
pub(crate) const HTTP: &str = "[[listen.http]]\nbind = \"127.0.0.1:0\"\n";

/// The file of [`Settings::ldif`].
pub(crate) const LDIF: &str = "people.ldif";

impl Settings {
    /// The directory `people` for example.org in the file [`LDIF`].
    pub(crate) fn ldif(seats: u64, ldif: &str) -> Settings {
        Settings {
            seats,
            tables: ldif_directory("people", "example.org", LDIF),
            files: vec![(LDIF, ldif.to_owned())],
            ..Settings::default()
        }
    }

    /// The directory `corp` for example.org on a server, swept only when asked for. `keys` is more of it:
    /// keys, then tables.
    pub(crate) fn ldap(seats: u64, slapd: &Slapd, keys: &str) -> Settings {
        Settings { seats, tables: ldap_directory(slapd, &[&slapd.url()], keys), ..Settings::default() }
    }
}

impl Settings {
    /// Ports that are the daemon's also while it is down, instead of those that the kernel chooses at each start: for
    /// tests that ask it then.
    pub(crate) fn on_own_ports(mut self) -> Settings {
        while self.listeners.contains(ANY_PORT) {
            let own = format!("\"127.0.0.1:{}\"", free_port());
            self.listeners = self.listeners.replacen(ANY_PORT, &own, 1);
        }
        self
    }
}

/// An address of a listener whose port the kernel chooses.
const ANY_PORT: &str = "\"127.0.0.1:0\"";

/// A directory in a file, read only when asked for.
pub(crate) fn ldif_directory(name: &str, domain: &str, file: &str) -> String {
    format!(
        "[[directory.ldif]]\nname = \"{name}\"\ndomain = \"{domain}\"\nfile = \"{file}\"\npoll_every = \"1h\"\n"
    )
}

/// The directory `corp` at some urls, with the bind user of a server.
pub(crate) fn ldap_directory(slapd: &Slapd, urls: &[&str], keys: &str) -> String {
    let (bind_dn, password) = (slapd.bind_dn(), slapd.password_file());
    format!(
        "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = {urls:?}\nbase_dn = \"{PEOPLE}\"\n\
         bind_dn = \"{bind_dn}\"\nbind_password_file = {password:?}\npoll_every = \"1h\"\n{keys}\n"
    )
}

/// A brake of `[[directory.ldap]]` or `[[directory.ldif]]` that lets any number go, so that nothing but the
/// rule under test can hold.
pub(crate) fn no_brake(kind: &str) -> String {
    format!(
        "[directory.{kind}.brake]\nmax_removals_percent = 100\nmin_removals = 100000\nmax_removals = 100000\n"
    )
}

/// A running daemon.
pub(crate) struct Daemon {
    dir: TempDir,
    process: Option<Child>,
    http: Option<Address>,
    env: Vec<(&'static str, String)>,
    /// Where the log of the present process begins in its file.
    log_start: u64,
    wrapper: Vec<String>,
}

impl Daemon {
    /// Starts it and waits until every directory is mapped.
    #[track_caller]
    pub(crate) fn start(settings: Settings) -> Daemon {
        let daemon = Daemon::launch(&settings);
        daemon.wait_for("every directory to be mapped", is_settled);
        daemon
    }

    /// Starts it and waits until it can be asked.
    #[track_caller]
    pub(crate) fn launch(settings: &Settings) -> Daemon {
        let mut daemon = Daemon::prepare(settings);
        daemon.restart();
        daemon
    }

    /// Writes everything, and starts nothing.
    pub(crate) fn prepare(settings: &Settings) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let (env, wrapper) = (settings.env.clone(), settings.wrapper.clone());
        let daemon = Daemon { dir, process: None, http: None, env, log_start: 0, wrapper };
        for (name, text) in &settings.files {
            daemon.write(name, text);
        }
        daemon.configure(settings);
        daemon
    }

    /// Writes the configuration. It counts from the next start or reload on.
    pub(crate) fn configure(&self, settings: &Settings) {
        let Settings { seats, top, tables, listeners, .. } = settings;
        let license = settings.license.clone().unwrap_or(format!("seats = {seats}"));
        let dir = self.dir.path().display();
        self.write(
            "seatkeeper.toml",
            &format!(
                "state_dir = \"{dir}/state\"\ncontrol_socket = \"{dir}/control.sock\"\n{top}\n\
                 [license]\n{license}\n[log]\nformat = \"text\"\nlevel = \"debug\"\n{tables}\n{listeners}\n"
            ),
        );
    }

    /// Replaces a file in the daemon's directory as a whole, as an export should.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.path("new.tmp");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("seatkeeper.toml")
    }

    /// Starts the daemon on what is there, and waits until it can be asked.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs");
        self.spawn();
        wait_for("the daemon to answer", || {
            let process = self.process.as_mut().unwrap();
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            // The control socket answers a moment before everything else listens.
            (self.log().contains(" event=started ") && self.try_status().is_some()).then_some(())
        });
        self.learn_ports();
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.log_start = log.metadata().unwrap().len();
        let mut words = self.wrapper.iter().map(String::as_str).chain([SEATKEEPER]);
        let mut command = Command::new(words.next().unwrap_or(SEATKEEPER));
        command.args(words).arg("--config").arg(self.config()).arg("run");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        // A variable of the machine must not change where the log goes or who is told of the start.
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        command.envs(self.env.iter().cloned());
        self.process = Some(command.spawn().unwrap());
    }

    /// Starts a daemon that is to end by itself: its status and its log.
    #[track_caller]
    pub(crate) fn start_in_vain(&mut self) -> (ExitStatus, String) {
        self.spawn();
        let status = self.wait_for_end();
        (status, self.log())
    }

    fn learn_ports(&mut self) {
        let status = self.status();
        self.http = listener(&status, "http");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").id()
    }

    /// Bytes of memory, by a line of proc_pid_status(5): `VmRSS` now, `VmHWM` at most until now.
    pub(crate) fn memory(&self, line: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|found| found.starts_with(line)).unwrap();
        let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes << 10
    }

    fn signal(&self, signal: Signal) {
        kill_process_group(Pid::from_child(self.process.as_ref().expect("the daemon runs")), signal).unwrap();
    }

    /// SIGSTOP: connections open and nothing is answered. Returns when every thread has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until_stopped(self.process.as_ref().expect("the daemon runs"));
    }

    /// A crash.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            // One that has ended by itself is as dead.
            let _ = kill_process_group(Pid::from_child(&process), Signal::KILL);
            process.wait().unwrap();
        }
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, without waiting.
    pub(crate) fn begin_to_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let status = wait_for("the daemon to end", || self.process.as_mut().unwrap().try_wait().unwrap());
        self.process = None;
        status
    }

    /// SIGTERM; how it ended, and how long that took.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.begin_to_terminate();
        (self.wait_for_end(), start.elapsed())
    }

    /// SIGHUP; `Err` is the log's line where the new configuration was refused.
    #[track_caller]
    pub(crate) fn reload(&mut self) -> Result<(), String> {
        let is_outcome = |line: &&str| {
            line.contains(" event=reloaded ") || line.contains("The new configuration is not used")
        };
        let before = self.log().lines().filter(is_outcome).count();
        self.signal(Signal::HUP);
        let outcome =
            wait_for("the reload", || self.log().lines().filter(is_outcome).nth(before).map(str::to_owned));
        self.learn_ports();
        if outcome.contains(" event=reloaded ") { Ok(()) } else { Err(outcome) }
    }

    /// What the present process logged.
    pub(crate) fn log(&self) -> String {
        let mut bytes = Vec::new();
        let mut file = File::open(self.path("log")).unwrap();
        file.seek(SeekFrom::Start(self.log_start)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line of the log that has all of these.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, parts: &[&str]) -> String {
        wait_for(&format!("{parts:?} in the log"), || {
            let log = self.log();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    /// The control socket.
    pub(crate) fn control(&self) -> Address {
        Address::Unix(self.path("control.sock"))
    }

    /// The first http listener.
    #[track_caller]
    pub(crate) fn http(&self) -> Address {
        self.http.clone().expect("there is an http listener")
    }

    /// A connection to the first http listener.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.http()).unwrap()
    }

    /// The port of the first listener of this kind, which is on TCP.
    #[track_caller]
    pub(crate) fn port(&self, kind: &str) -> u16 {
        match listener(&self.status(), kind) {
            Some(Address::Tcp(bind)) => bind.rsplit(':').next().unwrap().parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// `POST /v1/check`: the decision, and whether it lets in.
    #[track_caller]
    pub(crate) fn check(&self, user: &str) -> (String, bool) {
        self.http().check(user)
    }

    /// Checks a decision; the sentence for the person.
    #[track_caller]
    pub(crate) fn expect(&self, user: &str, decision: &str) -> String {
        let body = super::http::check_body(user);
        let answer = self.http().ask("POST", "/v1/check", &body).unwrap().json();
        assert_eq!(answer["decision"], decision, "{user}: {answer}");
        assert_eq!(answer["allow"], matches!(decision, "held" | "granted" | "exempt"), "{answer}");
        answer["message"].as_str().unwrap().to_owned()
    }

    /// What a login would get, without taking a seat.
    #[track_caller]
    pub(crate) fn probe(&self, user: &str) -> String {
        let body = serde_json::json!({ "user": user, "operation": "probe" }).to_string();
        let answer = self.http().ask("POST", "/v1/check", &body).unwrap().json();
        answer["decision"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// A request on the control socket.
    #[track_caller]
    pub(crate) fn api(&self, method: &str, path: &str) -> Answer {
        self.control().ask(method, path, "").unwrap()
    }

    /// The same, which must succeed.
    #[track_caller]
    fn done(&self, method: &str, path: &str) -> Value {
        let answer = self.api(method, path);
        assert_eq!(answer.status, 200, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.done("GET", "/v1/status")
    }

    fn try_status(&self) -> Option<Value> {
        let answer = self.control().ask("GET", "/v1/status", "").ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// Waits for a status, and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let deadline = Instant::now() + super::PATIENCE;
        while Instant::now() < deadline {
            last = self.status();
            if is_there(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited for {what}; the status is {last:#}\n{}", self.log());
    }

    #[track_caller]
    pub(crate) fn seats_used(&self) -> u64 {
        self.status()["seats"]["used"].as_u64().unwrap()
    }

    #[track_caller]
    pub(crate) fn release(&self, user: &str) -> Value {
        self.done("DELETE", &format!("/v1/seats/{user}"))
    }

    pub(crate) fn grant(&self, user: &str) -> Answer {
        self.api("PUT", &format!("/v1/seats/{user}"))
    }

    #[track_caller]
    pub(crate) fn explain(&self, user: &str) -> Value {
        self.done("GET", &format!("/v1/users/{user}"))
    }

    /// The ledger's lines of one user, or of all for an empty name; the newest first.
    #[track_caller]
    pub(crate) fn history(&self, user: &str) -> Vec<Value> {
        let path = if user.is_empty() {
            "/v1/history?limit=10000".to_owned()
        } else {
            format!("/v1/history?user={user}")
        };
        self.done("GET", &path)["history"].as_array().unwrap().clone()
    }

    /// A sweep now, to its end: the report, or the sentence that says why it failed.
    pub(crate) fn sync(&self, directory: &str) -> Result<Value, String> {
        self.run_sync(&format!("/v1/directories/{directory}/sync?wait=true"))
    }

    /// The same, and everything is read.
    pub(crate) fn sync_full(&self, directory: &str) -> Result<Value, String> {
        self.run_sync(&format!("/v1/directories/{directory}/sync?full=true&wait=true"))
    }

    pub(crate) fn approve(&self, directory: &str) -> Result<Value, String> {
        self.run_sync(&format!("/v1/directories/{directory}/approve?wait=true"))
    }

    pub(crate) fn dry_run(&self, directory: &str) -> Result<Value, String> {
        self.run_sync(&format!("/v1/directories/{directory}/sync?dry_run=true"))
    }

    fn run_sync(&self, path: &str) -> Result<Value, String> {
        let answer = self.api("POST", path);
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.problem(502)) }
    }

    /// Recounts everything; panics with what is wrong.
    #[track_caller]
    pub(crate) fn verify(&self) {
        let verification = self.done("GET", "/v1/verify");
        assert_eq!(verification["clean"], true, "{verification:#}");
    }

    /// The one comparison: a fresh sweep would change nothing, and the store agrees with itself.
    #[track_caller]
    pub(crate) fn agrees(&self) {
        let is_equal = |report: &Value| {
            ["added", "changed", "returned", "disabled", "removed"].iter().all(|name| report[*name] == 0)
        };
        wait_for("the mirror to equal a fresh sweep", || {
            self.dry_run("corp").is_ok_and(|report| is_equal(&report)).then_some(())
        });
        self.verify();
    }

    /// Runs the binary once, with this daemon's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        seatkeeper(&self.config(), arguments)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Runs the binary once, to its end.
pub(crate) fn seatkeeper(config: &Path, arguments: &[&str]) -> Output {
    Command::new(SEATKEEPER)
        .arg("--config")
        .arg(config)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Every directory was read to its end, and none is being read.
fn is_settled(status: &Value) -> bool {
    let is_at_rest = |directory: &Value| {
        matches!(directory["state"].as_str(), Some("idle" | "following")) || directory["configured"] == false
    };
    status["ready"] == true && status["directories"].as_array().unwrap().iter().all(is_at_rest)
}

/// A directory's part of the status.
#[track_caller]
pub(crate) fn directory<'a>(status: &'a Value, name: &str) -> &'a Value {
    let directories = status["directories"].as_array().unwrap();
    directories.iter().find(|directory| directory["name"] == name).expect("the directory is configured")
}

/// Where the first listener of a kind listens.
pub(crate) fn listener(status: &Value, kind: &str) -> Option<Address> {
    let listeners = status["listeners"].as_array().unwrap();
    let listener = listeners.iter().find(|listener| listener["kind"] == kind)?;
    Some(Address::parse(listener["bind"].as_str().unwrap()))
}
