//! The configuration: TOML becomes checked values, or errors that say `path:line:column` and what to do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::admission::TakeOn;
use crate::domain::directory::Directory;
use crate::domain::name::Domain;

/// A whole configuration file, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Holds the store; exists only for the daemon.
    pub state_dir: PathBuf,
    /// Where the command line finds the daemon.
    pub control_socket: PathBuf,
    /// Added to names without a domain. Defaults to the domain of the only directory, where there is just one.
    pub default_domain: Option<Domain>,
    /// `[license] seats`; `None` means that there is no licence.
    pub seat_limit: Option<u64>,
    /// `[seats]`.
    pub seats: Seats,
    /// `[log]`.
    pub log: Log,
    /// `[[directory.…]]`, in the order of the file.
    pub directories: Vec<Directory>,
    /// `[[listen.…]]`, in the order of the file.
    pub listeners: Vec<Listener>,
}

/// `[seats]`: how seats are taken and kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seats {
    /// Which operations may take a seat.
    pub take_on: TakeOn,
    /// How long a removed user keeps the seat.
    pub removal_grace: Duration,
}

/// `[log]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// The least important level that is shown.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// `[log] level`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// Somebody must act.
    Error,
    /// Recovered, or will need action.
    Warn,
    /// State changed.
    Info,
    /// Each login.
    Debug,
    /// Everything.
    Trace,
}

/// `[log] format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// To the journal where systemd started us, else text.
    Auto,
    /// Lines on standard error.
    Text,
    /// A JSON object a line, on standard error.
    Json,
    /// Fields of journald's native protocol.
    Journald,
}

/// One `[[listen.…]]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// The protocol.
    pub kind: ListenerKind,
    /// Where.
    pub bind: Bind,
    /// Connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
}

/// The protocol of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ListenerKind {
    /// `[[listen.http]]`.
    Http,
    /// `[[listen.dovecot_policy]]`.
    DovecotPolicy,
}

/// Where a listener listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Bind {
    /// `HOST:PORT`; port 0 lets the kernel choose.
    Tcp {
        /// Host name or address, an IPv6 one without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:/path`.
    Unix(PathBuf),
}

impl fmt::Display for ListenerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ListenerKind::Http => "http",
            ListenerKind::DovecotPolicy => "dovecot_policy",
        })
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Bind::Tcp { host, port } => write!(f, "{host}:{port}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
/// The mistakes of a configuration file, all that could be found at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n\n"))]
pub struct ConfigError(pub Vec<String>);

/// Reads and checks a configuration file.
pub fn load(_path: &Path) -> Result<Config, ConfigError> {
    Err(ConfigError(vec![]))
}
