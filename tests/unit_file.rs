//! The shipped systemd unit, judged by systemd itself.

#![expect(clippy::expect_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The worst exposure that `systemd-analyze security` may find, of 10.
const MAX_EXPOSURE: f64 = 1.5;

fn unit_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/seatkeeper.service");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes a unit of the shipped name into a directory of its own.
fn write_unit(directory: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = directory.path().join("seatkeeper.service");
    std::fs::write(&path, text).expect("the scratch directory is writable");
    path
}

fn analyze(arguments: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze").args(arguments).arg(unit).env("LC_ALL", "C").output().unwrap_or_else(
        |error| panic!("systemd-analyze can't run ({error}): tests/run.sh installs Debian's systemd package"),
    )
}

/// `systemd-analyze verify`: whether it succeeded, and all that it said.
fn verify(text: &str) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let output = analyze(&["verify", "--man=no"], &write_unit(&directory, text));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The overall exposure level that `systemd-analyze security` prints.
fn exposure(text: &str) -> f64 {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let output = analyze(&["security", "--offline=true", "--no-pager"], &write_unit(&directory, text));
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines()
        .find_map(|line| line.split_once("Overall exposure level for seatkeeper.service:"))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|level| level.parse().ok())
        .unwrap_or_else(|| panic!("no exposure level in {said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The unit as shipped, with the binary under test in the place of the installed one: `verify` looks for it.
fn unit_with_binary() -> String {
    let text = unit_text();
    let installed = "ExecStart=/usr/bin/seatkeeper ";
    assert!(text.contains(installed), "the unit starts /usr/bin/seatkeeper");
    text.replace(installed, concat!("ExecStart=", env!("CARGO_BIN_EXE_seatkeeper"), " "))
}

#[test]
fn verify_has_nothing_to_say() {
    let (success, said) = verify(&unit_with_binary());
    assert!(success && said.is_empty(), "systemd-analyze verify:\n{said}");
}

#[test]
fn verify_notices_a_mistake() {
    let (_, said) = verify(&unit_with_binary().replace("ProtectHome=yes", "ProtectHome=perhaps"));
    assert!(said.contains("perhaps"), "a wrong value went unnoticed: {said:?}");
    let (success, _) = verify(&unit_text().replace("/usr/bin/seatkeeper", "/nonexistent/seatkeeper"));
    assert!(!success, "a missing binary went unnoticed");
}

#[test]
fn exposure_is_low() {
    let level = exposure(&unit_text());
    println!("exposure level {level}");
    assert!(level <= MAX_EXPOSURE, "exposure level {level}, allowed {MAX_EXPOSURE}");
    let open = exposure("[Service]\nExecStart=/bin/true\n");
    assert!(open > MAX_EXPOSURE, "a unit without any hardening is rated {open}");
}

/// What the daemon, the documentation and the scripts rely on.
#[test]
fn settings_match_the_daemon() {
    let text = unit_text();
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/seatkeeper --config /etc/seatkeeper/seatkeeper.toml run",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "WatchdogSec=30s",
        "RestartPreventExitStatus=78",
        "DynamicUser=yes",
        "StateDirectory=seatkeeper seatkeeper-marker",
        "RuntimeDirectory=seatkeeper",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
    ] {
        assert!(text.lines().any(|present| present == line), "the unit lacks {line}");
    }
}
