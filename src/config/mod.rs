//! The configuration: TOML becomes checked values, or errors that say `path:line:column` and what to do.

mod address;
mod bind;
mod directories;
mod files;
mod ldap;
mod license;
mod listeners;
mod mistakes;
mod reader;
mod schema;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::{BadTcp, Bind};
pub use license::SignedLicense;
pub use mistakes::{ConfigError, Mistake, Place};

use mistakes::Found;

use crate::domain::admission::TakeOn;
use crate::domain::brake::Brake;
use crate::domain::directory::Directory;
use crate::domain::license::ComponentName;
use crate::domain::mail_server::{Backends, MailboxTemplate, RecipientPolicy};
use crate::domain::name::{Domain, Name};
use crate::domain::names::Administrator;
use crate::domain::seats::Service;

/// A whole configuration file, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Holds the store; exists only for the daemon. `/var/lib/seatkeeper` by default.
    pub state_dir: PathBuf,
    /// Where the command line finds the daemon. `/run/seatkeeper/control.sock` by default.
    pub control_socket: PathBuf,
    /// Added to names without a domain. By default the domain of the only directory, where there is just one.
    pub default_domain: Option<Domain>,
    /// `[license] seats`, self-declared; `None` leaves it to a signed licence.
    pub seat_limit: Option<u64>,
    /// The rest of `[license]`.
    pub license: SignedLicense,
    /// `[components]`: the component that each of these services needs.
    pub components: HashMap<Service, ComponentName>,
    /// `[seats]`.
    pub seats: Seats,
    /// `[ledger] keep`: how long the history of seats that were taken back is kept; for good by default.
    pub ledger_keep: Option<Duration>,
    /// `[admin]`: the internal administrator, who never counts.
    pub administrator: Option<Administrator>,
    /// `[passwords] cache`: how long a right password is remembered; zero, by default, never.
    pub password_cache: Duration,
    /// `[log]`.
    pub log: Log,
    /// `[backup]`: nightly backups, where a folder is named.
    pub backup: Option<Backup>,
    /// `[[directory.…]]`, in the order of the file.
    pub directories: Vec<Directory>,
    /// `[domains."…"] seat_limit`, by mail domain.
    pub domain_limits: BTreeMap<String, u64>,
    /// `[[listen.…]]`, in the order of the file.
    pub listeners: Vec<Listener>,
}

/// `[seats]`: how seats are taken and kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seats {
    /// Which operations may take a seat: logins by default.
    pub take_on: TakeOn,
    /// How long a removed user keeps the seat: 7 days by default, 0 releases it with the next sweep.
    pub removal_grace: Duration,
    /// Users whose seat is never reclaimed.
    pub protected: Vec<Name>,
    /// Every night, seats that nobody used for so long are released; never by default.
    pub reclaim_after: Option<Duration>,
    /// How many unused seats may be released within an hour.
    pub brake: Brake,
}

/// `[backup]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backup {
    /// Where backups are written; made when it is not there.
    pub folder: PathBuf,
    /// How many are kept: 7 by default.
    pub keep: usize,
}

/// `[log]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// The least important level that is shown: `info` by default.
    pub level: LogLevel,
    /// How a line looks: `auto` by default.
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
    /// What is spoken, with the settings of that protocol.
    pub protocol: Protocol,
    /// Where.
    pub bind: Bind,
    /// Connections at a time, 1 to 65,536, by default 1024; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Who may connect to a Unix socket, as chmod(1) writes it: 0666 by default.
    pub socket_mode: u32,
}

/// The protocol of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// `[[listen.http]]`.
    Http,
    /// `[[listen.dovecot_policy]]`.
    DovecotPolicy,
    /// `[[listen.postfix_policy]]`.
    PostfixPolicy(RecipientPolicy),
    /// `[[listen.socketmap]]`.
    Socketmap(MailboxTemplate),
    /// `[[listen.dovecot_auth]]`.
    DovecotAuth,
    /// `[[listen.saslauthd]]`.
    Saslauthd,
    /// `[[listen.nginx_auth]]`.
    NginxAuth(Backends),
}

impl Protocol {
    /// The name of its table.
    pub fn kind(&self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::DovecotPolicy => "dovecot_policy",
            Protocol::PostfixPolicy(_) => "postfix_policy",
            Protocol::Socketmap(_) => "socketmap",
            Protocol::DovecotAuth => "dovecot_auth",
            Protocol::Saslauthd => "saslauthd",
            Protocol::NginxAuth(_) => "nginx_auth",
        }
    }
}

/// Nobody reads more at once; with so many, the file is something else altogether.
const MAX_MISTAKES: usize = 100;

/// Where systemd puts the credentials of the shipped unit (systemd.exec(5)).
const CREDENTIALS_OF_THE_UNIT: &str = "/run/credentials/seatkeeper.service";

/// Reads and checks a configuration file, and looks at the secret and certificate files that it names.
///
/// Every mistake that can be found at once is in the error, each with its place and what to write instead;
/// of more than a hundred, the rest is counted.
/// A file that can't be read, or is larger than 1 MiB, is one mistake without a place.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    read(path, true)
}

/// Reads and checks a configuration file without looking at the files that it names.
///
/// For the command line: who may ask the daemon need not be able to read its secrets.
pub fn load_for_client(path: &Path) -> Result<Config, ConfigError> {
    read(path, false)
}

fn read(path: &Path, with_files: bool) -> Result<Config, ConfigError> {
    let bytes = files::read(path).map_err(|error| {
        let message = format!("can't read the configuration: {error}");
        let help = "name the file with --config PATH or SEATKEEPER_CONFIG".to_owned();
        ConfigError(vec![Mistake { path: path.to_owned(), place: None, message, help }])
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let mut found = Vec::new();
    if let Err(error) = std::str::from_utf8(&bytes) {
        // The text is the same up to here.
        let span = error.valid_up_to()..error.valid_up_to() + char::REPLACEMENT_CHARACTER.len_utf8();
        found.push(Found::new(span, "the file is not UTF-8 text", "save it as UTF-8"));
    }
    let base = path.parent().unwrap_or(Path::new(""));
    let env = |variable: &str| match std::env::var_os(variable) {
        // systemd sets it for the daemon alone, and whoever asks the daemon needs no secrets.
        None if !with_files && variable == values::CREDENTIALS => Some(CREDENTIALS_OF_THE_UNIT.into()),
        found => found,
    };
    let decoded = schema::decode(&text, base, &env);
    found.extend(decoded.found);
    if with_files {
        found.extend(files::check(&decoded.files));
    }
    found.sort_by_key(|mistake| mistake.span.start);
    let more = found.len().saturating_sub(MAX_MISTAKES);
    found.truncate(MAX_MISTAKES);
    let mut mistakes: Vec<_> = found.into_iter().map(|mistake| mistake.into_mistake(path, &text)).collect();
    if more > 0 {
        let (message, help) = (format!("{more} more mistakes"), "correct these first".to_owned());
        mistakes.push(Mistake { path: path.to_owned(), place: None, message, help });
    }
    match decoded.config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(ConfigError(mistakes)),
    }
}
