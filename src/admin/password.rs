//! Reads a password from standard input.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::domain::password::Password;
use crate::service::AdminError;

/// A line that is too long for a password, with its end: what comes behind is not read.
const MAX_LINE: u64 = Password::MAX_BYTES as u64 + 3;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// Standard input.
    #[error("cannot read the password: {0}")]
    Io(#[from] io::Error),
    /// The same sentence as the daemon's, before the password is asked for again.
    #[error("{}", AdminError::BadPassword)]
    Bad,
    /// A slip of the finger, which nobody saw.
    #[error("the two passwords are not the same: nothing was changed")]
    Differ,
}

/// The first line, without its end. At a terminal it is asked for on standard error, twice, and not shown.
pub(super) fn read() -> Result<Password, ReadError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return read_line();
    }
    let _hidden = Hidden::new(tcgetattr(&stdin).map_err(io::Error::from)?)?;
    let password = ask("Password: ")?;
    let again = ask("The same again: ")?;
    if password.expose() == again.expose() { Ok(password) } else { Err(ReadError::Differ) }
}

fn ask(prompt: &str) -> Result<Password, ReadError> {
    write!(io::stderr(), "{prompt}")?;
    let password = read_line();
    // The line break that was typed was not shown either.
    writeln!(io::stderr())?;
    password
}

fn read_line() -> Result<Password, ReadError> {
    let mut line = Zeroizing::new(Vec::new());
    io::stdin().lock().take(MAX_LINE).read_until(b'\n', &mut line)?;
    let bytes = line.strip_suffix(b"\n").map_or(&line[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
    Password::parse(bytes).ok_or(ReadError::Bad)
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
