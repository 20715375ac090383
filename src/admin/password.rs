//! Reads a password from standard input.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The first line, without its end. At a terminal it is asked for on standard error, twice, and not shown.
pub(super) fn read() -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return read_line();
    }
    let before = tcgetattr(&stdin)?;
    let password = ask("New password: ", before.clone())?;
    // An empty one is refused in any case.
    if !password.is_empty() && ask("Again: ", before)? != password {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the two passwords differ"));
    }
    Ok(password)
}

fn ask(prompt: &str, before: Termios) -> io::Result<String> {
    let hidden = Hidden::new(before)?;
    write!(io::stderr(), "{prompt}")?;
    let line = read_line();
    drop(hidden);
    // The line break that was typed was not shown either.
    writeln!(io::stderr())?;
    line
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    Ok(line)
}

/// A terminal that doesn't show what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new(before: Termios) -> io::Result<Hidden> {
        let mut without_echo = before.clone();
        without_echo.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &without_echo)?;
        Ok(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
