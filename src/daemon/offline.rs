//! Commands on a store while no daemon runs on it: `store new`, `restore` and `verify --store`.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::config::Config;
use crate::service::answers::Verification;
use crate::service::backup::BackupInfo;
use crate::store::{self, Marker};

/// What was done, as `--json` prints it.
#[derive(Serialize)]
struct Done<'a> {
    store: &'a Path,
    #[serde(flatten)]
    restored: Option<RestoredAnswer>,
}

#[derive(Serialize)]
struct RestoredAnswer {
    backup: BackupInfo,
    replaced: Option<PathBuf>,
    findings: Vec<String>,
}

/// Makes an empty store.
pub fn create(config: &Config, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let path = place(config)?;
    store::create(&path)?;
    mark(config)?;
    if json {
        return print(out, &Done { store: &path, restored: None });
    }
    Ok(writeln!(out, "{}: an empty store; start the daemon", path.display())?)
}

/// Puts a backup in the place of the store.
pub fn restore(
    config: &Config,
    file: &Path,
    replace: bool,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    be_quiet_about_guarded_panics();
    let path = place(config)?;
    let restored =
        store::restore(file, &path, replace).with_context(|| format!("cannot restore {}", file.display()))?;
    mark(config)?;
    let store::Restored { info: backup, replaced, findings } = restored;
    let findings = findings.into_iter().map(|finding| finding.0).collect();
    let answer = RestoredAnswer { backup, replaced, findings };
    if json {
        return print(out, &Done { store: &path, restored: Some(answer) });
    }
    let BackupInfo { created, users, seats, .. } = &answer.backup;
    let created = created.strftime("%F %H:%M:%S UTC");
    writeln!(out, "{}: {users} users and {seats} seats, as of {created}; start the daemon", path.display())?;
    if let Some(replaced) = &answer.replaced {
        writeln!(out, "The store that was there is {} now.", replaced.display())?;
    }
    for finding in &answer.findings {
        writeln!(out, "It does not hold that way: {finding}")?;
    }
    Ok(())
}

/// Recounts a store or a backup.
pub fn verify(file: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<bool> {
    be_quiet_about_guarded_panics();
    let findings = match store::verify_file(file) {
        Ok(findings) => findings.into_iter().map(|finding| finding.0).collect(),
        Err(error) if error.is_damage() => vec![error.to_string()],
        Err(error) => return Err(error).with_context(|| format!("cannot check {}", file.display())),
    };
    let verification = Verification { clean: findings.is_empty(), findings };
    if json {
        print(out, &verification)?;
    } else {
        write!(out, "{}", crate::admin::verification(&verification))?;
    }
    Ok(verification.clean)
}

fn print(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// The store's path, in a folder that is there; an error while the daemon runs, also on a store that was removed.
fn place(config: &Config) -> anyhow::Result<PathBuf> {
    if UnixStream::connect(&config.control_socket).is_ok() {
        bail!("the daemon runs: {} answers; stop it first", config.control_socket.display());
    }
    super::make_folder(&config.state_dir, 0o700)?;
    Ok(config.state_dir.join(store::FILE_NAME))
}

fn mark(config: &Config) -> anyhow::Result<()> {
    let marker = Marker::of(&config.state_dir);
    marker.make().with_context(|| format!("cannot make {}", marker.path().display()))
}

/// A panic of redb over a damaged file becomes an error that says which file.
fn be_quiet_about_guarded_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !store::is_guarded() {
            usual(panic);
        }
    }));
}
