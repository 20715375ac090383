//! What can be typed. The help, the man page and the shell completions all come from here.

mod directory;
pub mod license;
mod man;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

pub use directory::DirectoryCommand;
use license::{IssuerCommand, LicenseCommand};
pub use man::man;

/// For the end of the help, and for the manual page.
const EXIT_CODES: &str = "0 done, 1 refused or failed, 2 usage, 69 the daemon can't be reached, \
                          78 the configuration is wrong.";

/// Keeps a licensed number of mailbox seats true.
///
/// Maps the users of LDAP directories, gives a seat of the licence to whoever logs in to a mail server for
/// the first time, and refuses new users when all seats are taken.
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(name = "seatkeeper", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = format!("Exit codes: {EXIT_CODES}"))]
pub struct Cli {
    /// Read this configuration file.
    #[arg(long, global = true, env = "SEATKEEPER_CONFIG", value_name = "PATH", display_order = 100)]
    #[arg(default_value = "/etc/seatkeeper/seatkeeper.toml")]
    pub config: PathBuf,
    /// Print JSON instead of text for people.
    #[arg(long, global = true, display_order = 100)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Run the daemon in the foreground.
    ///
    /// Ends by SIGTERM, and reads its configuration again by SIGHUP.
    Run,
    /// Check the configuration.
    ///
    /// Shows every mistake with its place in the file and what to write instead. Needs no daemon.
    Check {
        /// Also connect to each directory, bind and search.
        #[arg(long)]
        connect: bool,
    },
    /// What the running daemon is asked for.
    #[command(flatten)]
    Client(ClientCommand),
    /// Put a backup in the place of the store, while the daemon does not run.
    Restore {
        /// The backup.
        file: PathBuf,
        /// Keep a store that is there under another name. Without this it is not touched.
        #[arg(long)]
        replace: bool,
    },
    /// The store itself, while the daemon does not run.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// What is asked of the running daemon, over its control socket.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum ClientCommand {
    /// Show the licence, seats, directories and listeners.
    Status,
    /// List the users of all directories.
    Users(UsersArgs),
    /// Explain one user: who it is, whether and why they count, what a login would get now.
    Explain {
        /// An address, a login name, a stable id or a DN.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: String,
    },
    /// Create accounts that no directory holds, and change them.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Import users from a file, in CSV or LDIF.
    ///
    /// Each takes a seat. All are imported or none, unless --partial says otherwise; importing the same file
    /// again changes nothing.
    Import(ImportArgs),
    /// Give seats, take them back, and see who got and lost them.
    #[command(subcommand)]
    Seats(SeatsCommand),
    /// List the directories that are stored, carry one over to a new name, or forget one.
    #[command(subcommand)]
    Directory(DirectoryCommand),
    /// Sync directories now, or preview what a sync would do.
    Sync(SyncArgs),
    /// The licence: show, install, activate and refresh it; or, for a vendor, issue and serve licences.
    #[command(subcommand)]
    License(LicenseArgs),
    /// Confirm the time when the clock is in doubt.
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Write a backup of the store to a file.
    ///
    /// Users, seats, history and the license, as they are now; nothing waits for it. The configuration is not in it. An
    /// older backup is replaced, any other file is not.
    Backup {
        /// The file.
        file: PathBuf,
    },
    /// Recount the store and check every invariant.
    ///
    /// Exits with 1 when one does not hold.
    Verify {
        /// Check this file, a store that no daemon uses or a backup, and ask no daemon.
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
    },
}

/// `store …`.
#[derive(Subcommand, Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreCommand {
    /// Make an empty store.
    ///
    /// The daemon makes one at its first start; later it does not start without the store that it had. Nobody has a
    /// seat in an empty one.
    New,
}

/// `clock …`.
#[derive(Subcommand, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockCommand {
    /// Confirm that the clock of the machine is right.
    ///
    /// Ends the doubt that `status` shows: seats, licenses and all dates go by the clock from now on. Look at the clock
    /// first. Where a wrong time in the future was accepted, set the clock right and confirm it: the time that counts goes
    /// back. It cannot go back to before the program was built or the license was signed, plus the time that the daemon
    /// has run since.
    Confirm,
}

/// `license …`.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum LicenseArgs {
    /// Of the running daemon.
    #[command(flatten)]
    Client(LicenseCommand),
    /// Of a vendor, without a daemon.
    #[command(flatten)]
    Issuer(IssuerCommand),
}

/// Which users to list, and in which order.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UsersArgs {
    /// What to do instead of listing.
    #[command(subcommand)]
    pub action: Option<UsersAction>,
    /// Only users who hold a seat.
    #[arg(long, conflicts_with = "unseated")]
    pub seated: bool,
    /// Only users who hold no seat.
    #[arg(long)]
    pub unseated: bool,
    /// Only users who were active once, but not for this long: 180d, 12h.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub inactive: Option<Duration>,
    /// Only users who never logged in.
    #[arg(long, conflicts_with = "inactive")]
    pub never: bool,
    /// Only users of this mail domain.
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Sort by this: names, the longest away first, or the oldest seat first.
    #[arg(long, value_enum, value_name = "ORDER", default_value_t)]
    pub sort: SortOrder,
}

/// `users …`, instead of a list.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum UsersAction {
    /// Forget users who are gone from their directory, before the grace period is over.
    ///
    /// Their seats and names are free immediately; a user who comes back is a new one.
    Forget {
        /// Addresses, login names, stable ids or DNs.
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        users: Vec<String>,
    },
}

/// By which name entries are matched.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchName {
    /// By mail addresses.
    Mail,
    /// By login names.
    Login,
}

impl MatchName {
    /// The word in the API, the same as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            MatchName::Mail => "mail",
            MatchName::Login => "login",
        }
    }
}

/// The order of a list of users.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SortOrder {
    /// By name.
    #[default]
    Name,
    /// The longest away first; who never logged in before all.
    LastLogin,
    /// The oldest seat first; who holds none behind all.
    Granted,
}

impl SortOrder {
    /// The word in the API, the same as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            SortOrder::Name => "name",
            SortOrder::LastLogin => "last-login",
            SortOrder::Granted => "granted",
        }
    }
}

/// `account …`.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum AccountCommand {
    /// Create a local account.
    ///
    /// It takes a seat at once, and is refused when none is free. An address that a mapped user or another
    /// account has is refused, too.
    Add {
        /// The mail address; the default domain is added to one without @domain.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        address: String,
        /// The name for people.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// A further address; may be given several times.
        #[arg(long = "alias", value_name = "ADDRESS")]
        aliases: Vec<String>,
    },
    /// Remove a local or imported account.
    ///
    /// Its seat is free at once, and its history stays.
    Remove {
        /// An address of the account.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        address: String,
    },
    /// Set the password of a local or imported account.
    ///
    /// It is read from standard input, up to the end of the first line; at a terminal it is asked for twice, and not
    /// shown. Users of a directory have their password there.
    Passwd {
        /// An address of the account.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        address: String,
    },
    /// Enable a local or imported account.
    ///
    /// It takes a seat, and is refused when none is free.
    Enable {
        /// An address of the account.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        address: String,
    },
    /// Disable a local or imported account.
    ///
    /// Its seat is free at once.
    Disable {
        /// An address of the account.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        address: String,
    },
}

/// `import …`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ImportArgs {
    /// CSV with the columns address, name, aliases (with a header or in this order), or LDIF.
    ///
    /// In CSV a user is known by the address; aliases are separated by spaces. In LDIF a user is known by
    /// entryUUID, nsUniqueId or objectGUID where there is one, and disabled accounts are imported without a
    /// seat.
    pub file: PathBuf,
    /// The mail domain, in which all addresses must be.
    #[arg(long, value_name = "DOMAIN")]
    pub domain: String,
    /// Import what can be, and list the rest.
    #[arg(long)]
    pub partial: bool,
    /// Change nothing, and say what would happen.
    #[arg(long)]
    pub dry_run: bool,
}

/// `seats …`.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum SeatsCommand {
    /// Give seats to users before their first login.
    ///
    /// Goes through the same decision as a login. With several users, each is tried, and the exit code is 1
    /// when any was refused. From a file all users get a seat or none, unless --partial says otherwise; who holds one
    /// keeps it.
    Grant {
        /// Addresses, login names, stable ids or DNs.
        #[arg(required_unless_present = "file", value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
        users: Vec<String>,
        /// A file with one user on each line, or - for standard input. Lines that begin with # are comments.
        #[arg(long, value_name = "LIST", conflicts_with = "users")]
        file: Option<PathBuf>,
        /// Give seats to those who can have one, and list the rest.
        #[arg(long, requires = "file")]
        partial: bool,
        /// Change nothing, and say what would happen.
        #[arg(long, requires = "file")]
        dry_run: bool,
    },
    /// Take seats back.
    ///
    /// The users may take one again with their next login, if one is free.
    Release {
        /// Addresses, login names, stable ids or DNs. A removed entry that has a seat is found by a name that belongs to
        /// another entry now.
        #[arg(required = true, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
        users: Vec<String>,
        /// Release the seats of users in `[seats] protected` too.
        #[arg(long)]
        force: bool,
    },
    /// Take back the seats of those who do not use them.
    ///
    /// They may take one again with their next login, if one is free. Whoever stands in `[seats] protected`
    /// keeps the seat. At a terminal the command lists the seats and asks for confirmation. If there are more than
    /// `[seats.brake]` allows within an hour, none is taken back.
    Reclaim {
        /// Nobody who logged in, or was given the seat, within this time: 180d, 12h.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        inactive: Duration,
        /// Change nothing, and say whose seats would be taken back.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask for confirmation. The command never asks if standard input is not a terminal.
        #[arg(long)]
        yes: bool,
    },
    /// Carry seats over to other entries of the same people.
    ///
    /// Seat, components, last login, refusals and history go from an old entry to a new one, past every limit. Either
    /// one user to another; or, with --match, everyone of a directory whose old entry has the mail address or login
    /// name of exactly one new entry, and the other way round. All others are listed and keep what they have.
    Move {
        /// Who has the seat: an address, login name, stable id or DN. A removed entry that has a seat is found by a name
        /// that belongs to the new entry now.
        #[arg(required_unless_present = "by", requires = "new", value_parser = NonEmptyStringValueParser::new())]
        old: Option<String>,
        /// Who gets it.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        new: Option<String>,
        /// Match the entries of two directories by this.
        #[arg(long = "match", value_enum, value_name = "NAME", conflicts_with = "old", requires_all = ["from", "to"])]
        by: Option<MatchName>,
        /// The directory of the old entries, configured or not.
        #[arg(long, value_name = "DIRECTORY", requires = "by")]
        from: Option<String>,
        /// The directory of the new entries. If it is the same one, the old entries are those that were removed from it.
        #[arg(long, value_name = "DIRECTORY", requires = "by")]
        to: Option<String>,
        /// Change nothing, and show what would be moved.
        #[arg(long, requires = "by")]
        dry_run: bool,
    },
    /// Show who was turned away, the latest first.
    ///
    /// Of names that nobody has, the latest 1000 are remembered.
    Refused {
        /// Show at most so many.
        #[arg(long, value_name = "N", default_value_t = 100)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
        limit: u64,
    },
    /// Show grants and releases, the newest first.
    History {
        /// Only of this user.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        user: Option<String>,
        /// Show at most so many.
        #[arg(long, value_name = "N", default_value_t = 100)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
        limit: u64,
    },
}

/// `sync …`. The configuration allows no directory called `approve`.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SyncArgs {
    /// The directory's name in the configuration; all of them by default.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub directory: Option<String>,
    /// Read the whole directory, not only what changed.
    #[arg(long)]
    pub full: bool,
    /// Change nothing, and say what a sync would do.
    #[arg(long)]
    pub dry_run: bool,
    /// Wait for the end, and show what was done; on a terminal also how far it is.
    #[arg(long)]
    pub wait: bool,
    /// Something else than a sync.
    #[command(subcommand)]
    pub action: Option<SyncAction>,
}

/// `sync approve`.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum SyncAction {
    /// Let through what the brake holds back.
    ///
    /// Syncs the directory now; it may remove and disable as many users as `status` shows, but no more.
    Approve {
        /// The directory's name in the configuration.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        directory: String,
        /// Carry the seats of removed users over to the new entries with the same mail address or login name.
        ///
        /// For users who were loaded again under new ids. See `seats move`.
        #[arg(long = "match", value_enum, value_name = "NAME")]
        by: Option<MatchName>,
        /// Wait for the end, and show what was done.
        #[arg(long)]
        wait: bool,
    },
}

/// How a command ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done.
    Done,
    /// Refused or failed.
    Failed,
    /// Typed wrong; clap ends the process with this by itself.
    Usage,
    /// The daemon can't be reached, or does not answer as it should (`EX_UNAVAILABLE`).
    Unreachable,
    /// The configuration is wrong (`EX_CONFIG`).
    Configuration,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 69,
            Exit::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Writes the completion script of a shell.
pub fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> io::Result<()> {
    // clap_complete panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "seatkeeper", &mut script);
    out.write_all(&script)
}

#[cfg(test)]
mod tests;
