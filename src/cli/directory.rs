//! `directory …`.

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;

/// What is stored of directories.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum DirectoryCommand {
    /// List the directories in the configuration, and those of which users are still stored.
    ///
    /// Users of a directory that is not configured keep their seats and take no new ones.
    List,
    /// Carry users over to the new name of a directory.
    ///
    /// Change the name in the configuration and reload first. Everything that is stored under the old name goes to the
    /// new one: users, removed users, seats, last logins and history. After an interruption, run it again.
    Rename {
        /// The name of before, which is not in the configuration any more.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        old: String,
        /// The name in the configuration.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        new: String,
        /// Change nothing, and say what would become of the users and their seats.
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a directory that is not in the configuration any more, with its users.
    ///
    /// Their seats are released, except those of users with the same stable id in another directory: these go there.
    Forget {
        /// The directory's name.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Change nothing, and list who would lose a seat.
        #[arg(long)]
        dry_run: bool,
    },
}
