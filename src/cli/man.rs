//! The manual page: one for the program and all of its commands.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, EXIT_CODES};

/// What clap_mangen writes before each section; once is enough.
const PREAMBLE: [&str; 2] = [".ie", ".el"];

/// Writes the manual page in roff.
pub fn man(out: &mut dyn Write) -> io::Result<()> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let page = Man::new(program.clone());
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    writeln!(out, ".SH COMMANDS")?;
    program.get_subcommands().try_for_each(|command| section(command, out))?;
    writeln!(out, ".SH EXIT STATUS\n{EXIT_CODES}")?;
    writeln!(
        out,
        ".SH ENVIRONMENT\n.TP\nSEATKEEPER_CONFIG\nThe configuration file, where no option names it."
    )
}

/// A subsection for each command that does something, in place of a page of its own.
fn section(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    if !command.is_subcommand_required_set() {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").lines().next().unwrap_or_default().to_owned();
        writeln!(out, ".SS \"{}\"", usage.replace('-', "\\-"))?;
        // Options that all commands have stand once, above.
        let own = command.clone().mut_args(|argument| {
            let is_general =
                argument.is_global_set() || matches!(argument.get_id().as_str(), "help" | "version");
            argument.hide(is_general)
        });
        let page = Man::new(own);
        let mut text = Vec::new();
        page.render_description_section(&mut text)?;
        page.render_options_section(&mut text)?;
        let is_kept =
            |line: &&str| !line.starts_with(".SH") && !PREAMBLE.iter().any(|word| line.starts_with(word));
        for line in String::from_utf8_lossy(&text).lines().filter(is_kept) {
            writeln!(out, "{line}")?;
        }
    }
    command.get_subcommands().try_for_each(|command| section(command, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_every_command() {
        let mut page = Vec::new();
        man(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\-", "-");
        for part in [
            "SEATKEEPER_CONFIG",
            ".SH EXIT STATUS\n0 done",
            ".SS \"seatkeeper users [OPTIONS]\"",
            "--inactive",
            ".SS \"seatkeeper seats grant [OPTIONS] [USER]...\"",
            ".SS \"seatkeeper sync [OPTIONS] [DIRECTORY]\"",
            ".SS \"seatkeeper sync approve [OPTIONS] <DIRECTORY>\"",
            ".SS \"seatkeeper license install [OPTIONS] <FILE>\"",
            ".SS \"seatkeeper license sell [OPTIONS] <ID>\"",
            "Change nothing, and say what a sync would do",
        ] {
            assert!(page.contains(part), "{part}:\n{page}");
        }
        assert_eq!(page.matches("Print JSON").count(), 1, "{page}");
        assert!(!page.contains(".SS \"seatkeeper seats [OPTIONS] <COMMAND>"), "{page}");
    }
}
