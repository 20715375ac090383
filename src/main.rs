//! Parses the command line, then runs the daemon, a check or a client, and ends with their exit code.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use seatkeeper::cli::license::IssuerCommand;
use seatkeeper::cli::{self, Cli, ClientCommand, Command, Exit, LicenseArgs, StoreCommand};
use seatkeeper::config::{self, Config, ConfigError, Log, LogFormat, LogLevel};
use seatkeeper::{admin, daemon, issuer};

/// A sweep makes millions of small values in one thread and drops them in another, which the allocator of
/// the C library is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match run(&cli) {
        Ok(exit) => exit,
        // Whoever reads our output may stop when they have seen enough.
        Err(error) if is_broken_pipe(&error) => Exit::Done,
        Err(error) if error.is::<ConfigError>() => {
            complain(&error.to_string());
            Exit::Configuration
        }
        Err(error) => {
            complain(&format!("seatkeeper: {error:#}"));
            if daemon::needs_an_administrator(&error) { Exit::Configuration } else { Exit::Failed }
        }
    };
    exit.into()
}

fn run(cli: &Cli) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    match &cli.command {
        Command::Run => daemon::run(&cli.config, config::load(&cli.config)?)?,
        Command::Check { connect } => return check(&cli.config, *connect, cli.json, &mut out),
        Command::Restore { file, replace } => {
            daemon::offline::restore(
                &config::load_for_client(&cli.config)?,
                file,
                *replace,
                cli.json,
                &mut out,
            )?;
        }
        Command::Store(StoreCommand::New) => {
            daemon::offline::create(&config::load_for_client(&cli.config)?, cli.json, &mut out)?;
        }
        Command::Client(ClientCommand::Verify { store: Some(file) }) => {
            let is_clean = daemon::offline::verify(file, cli.json, &mut out)?;
            return Ok(if is_clean { Exit::Done } else { Exit::Failed });
        }
        Command::Completions { shell } => cli::completions(*shell, &mut out)?,
        Command::Man => cli::man(&mut out)?,
        Command::Client(ClientCommand::License(LicenseArgs::Issuer(command))) => {
            if matches!(command, IssuerCommand::Serve(_)) {
                daemon::telemetry::start(Log { level: LogLevel::Info, format: LogFormat::Auto })?;
            }
            block_on(issuer::run(command, cli.json, &mut out))??;
        }
        Command::Client(command) => {
            let socket = config::load_for_client(&cli.config)?.control_socket;
            let mut err = io::stderr();
            let is_terminal = err.is_terminal();
            return Ok(block_on(admin::run(command, &socket, cli.json, &mut out, &mut err, is_terminal))?);
        }
    }
    Ok(Exit::Done)
}

fn check(path: &Path, connect: bool, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config: Config = config::load(path)?;
    let checked = block_on(daemon::check::check(path, &config, connect))?;
    if json {
        serde_json::to_writer(&mut *out, &checked)?;
        writeln!(out)?;
    } else {
        checked.write(connect, out)?;
    }
    Ok(if checked.ok { Exit::Done } else { Exit::Failed })
}

fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn complain(message: &str) {
    // There is nobody else to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{message}");
}
