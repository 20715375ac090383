//! A command at a terminal, which `script` makes for it.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::wait_for;

/// A command that runs at a terminal of its own.
pub(crate) struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    shown: Arc<Mutex<String>>,
    collecting: JoinHandle<()>,
}

impl Terminal {
    /// Runs a line of the shell's.
    pub(crate) fn run(command: &str) -> Terminal {
        // In an essential package of Debian: it is always there.
        let mut script = Command::new("script");
        script.args(["-qfec", command, "/dev/null"]).env("SHELL", "/bin/sh");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let keyboard = child.stdin.take().unwrap();
        let mut screen = child.stdout.take().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&shown);
        let collecting = thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Terminal { child, keyboard, shown, collecting }
    }

    /// All that was shown until now.
    pub(crate) fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until all of these are shown.
    #[track_caller]
    pub(crate) fn wait_for(&self, parts: &[&str]) {
        wait_for(&format!("{parts:?} on the terminal"), || {
            let shown = self.shown();
            parts.iter().all(|part| shown.contains(part)).then_some(())
        });
    }

    /// Presses keys.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end: how it ended, and all that was shown.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.collecting.join().unwrap();
        let shown = self.shown.lock().unwrap().clone();
        (status, shown)
    }
}
