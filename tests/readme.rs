//! The README's transcript, typed as it stands there, gives the answers that it shows.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "suite/support/ports.rs"]
mod ports;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ports::free_port;

/// Between the commands in the shell's output.
const MARK: &str = "@@ next @@";

/// What the README says to type, each with the lines that it shows for it.
fn transcript(readme: &str) -> Vec<(String, Vec<String>)> {
    let block = readme.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push((command.to_owned(), Vec::new())),
            None => steps.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    steps
}

/// Ports, and so widths of columns, differ; so do the digits of a date.
fn comparable(lines: &[String], ports: &[(u16, &str)]) -> Vec<String> {
    let comparable = |line: &String| {
        let mut line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        for (port, shown) in ports {
            line = line.replace(&format!("127.0.0.1:{port}"), shown);
        }
        if line.contains(" UTC") { line.replace(|c: char| c.is_ascii_digit(), "0") } else { line }
    };
    let mut lines: Vec<String> = lines.iter().map(comparable).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The demo as it is shipped, but for its ports and its state.
fn start(folder: &Path, ports: &[(u16, &str)]) -> Daemon {
    let mut config = fs::read_to_string("config/demo.toml").unwrap();
    for (port, shown) in ports {
        assert!(config.contains(shown), "config/demo.toml listens on {shown}");
        config = config.replace(shown, &format!("127.0.0.1:{port}"));
    }
    fs::create_dir(folder.join("config")).unwrap();
    fs::write(folder.join("config/demo.toml"), config).unwrap();
    fs::copy("config/demo.ldif", folder.join("config/demo.ldif")).unwrap();
    let daemon = Command::new(env!("CARGO_BIN_EXE_seatkeeper"))
        .args(["--config", "config/demo.toml", "run"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Daemon(daemon)
}

#[test]
fn the_transcript_is_true() {
    let steps = transcript(&fs::read_to_string("README.md").unwrap());
    assert!(steps.len() > 8, "the transcript was found");
    let folder = tempfile::tempdir().unwrap();
    let ports = [(free_port(), "127.0.0.1:8460"), (free_port(), "127.0.0.1:4001")];
    let _daemon = start(folder.path(), &ports);

    let mut script = "shopt -s expand_aliases\n\
                      for i in $(seq 300); do\n\
                      curl -sf --unix-socket target/demo/control.sock http://localhost/readyz >/dev/null && break\n\
                      sleep 0.1\n\
                      done\n"
        .to_owned();
    for (command, _) in &steps {
        let command = command
            .replace("target/release/seatkeeper", env!("CARGO_BIN_EXE_seatkeeper"))
            .replace("127.0.0.1:8460", &format!("127.0.0.1:{}", ports[0].0));
        script.push_str(&format!("echo '{MARK}'\n{command}\n"));
    }
    let output = Command::new("bash").arg("-c").arg(script).current_dir(folder.path()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let answers: Vec<&str> = shown.split(&format!("{MARK}\n")).skip(1).collect();
    assert_eq!(answers.len(), steps.len(), "{shown}{errors}");
    for ((command, expected), answer) in steps.iter().zip(answers) {
        let answer: Vec<String> = answer.lines().map(str::to_owned).collect();
        assert_eq!(comparable(&answer, &ports), comparable(expected, &ports), "{command}\n{errors}");
    }
}
