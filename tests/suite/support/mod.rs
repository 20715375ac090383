//! What tests share: real servers in temporary directories, and waiting with a deadline.

#![allow(dead_code, reason = "each test uses the part that it needs")]

pub(crate) mod caddy;
pub(crate) mod daemon;
pub(crate) mod disk;
pub(crate) mod dns;
pub(crate) mod dovecot;
pub(crate) mod ds389;
pub(crate) mod exim;
pub(crate) mod fake_ldap;
pub(crate) mod http;
pub(crate) mod issuer;
pub(crate) mod network;
pub(crate) mod nginx;
pub(crate) mod ports;
pub(crate) mod postfix;
pub(crate) mod relay;
pub(crate) mod samba;
pub(crate) mod slapd;
pub(crate) mod terminal;
pub(crate) mod valve;
pub(crate) mod wall;
pub(crate) mod wires;

use std::time::{Duration, Instant};

pub(crate) use self::ports::free_port;

/// Generous: a loaded machine must not fail a test, and a passing one never waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A file of `config/` as it is shipped, but for the addresses, which each test has of its own.
#[track_caller]
pub(crate) fn shipped(name: &str, addresses: &[(&str, &str)]) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (shipped, own) in addresses {
        assert!(text.contains(shipped), "{name} has no {shipped}");
        text = text.replace(shipped, own);
    }
    text
}

/// Looks again and again until something is there; panics after [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_at_most(PATIENCE, what, look)
}

/// The same with more patience.
pub(crate) fn wait_at_most<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Modules whose tests start nothing but the daemon: `tests/run.sh quick` runs them where nothing is installed.
const QUICK: &str = include_str!("../quick");

/// Fails in a test of one of them.
#[track_caller]
pub(crate) fn assert_may_start(program: &str) {
    // The harness names the thread after the test.
    let thread = std::thread::current();
    let module = thread.name().and_then(|test| test.split("::").next());
    let is_quick = QUICK.lines().any(|quick| Some(quick) == module);
    assert!(!is_quick, "this starts {program}: move the test, or take its module from tests/suite/quick");
}

/// Fails when a server warned while it started: its configuration is wrong then, and a test of it proves little.
#[track_caller]
pub(crate) fn assert_quiet(server: &str, log: &str) {
    let is_trouble = |line: &&str| {
        ["warning", "error", "fatal", "panic"].iter().any(|word| line.to_lowercase().contains(word))
    };
    let trouble: Vec<&str> = log.lines().filter(is_trouble).collect();
    assert!(trouble.is_empty(), "{server} warned at its start:\n{}", trouble.join("\n"));
}

/// What Cyrus SASL's own client of the protocol prints.
pub(crate) fn test_saslauthd(mux: &std::path::Path, user: &str, password: &str) -> String {
    let mut command = slapd::installed("testsaslauthd", "sasl2-bin");
    command.args(["-u", user, "-p", password, "-s", "imap", "-f"]).arg(mux);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
}
