//! `check`: what can be found out about a configuration without running it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use super::intake::SyncError;
use super::source;
use super::sync::sentence;
use crate::config::Config;
use crate::directory::{Connection, Event, Evidence, file};
use crate::domain::course::Choice;
use crate::domain::directory::{Bind, Directory, Source};
use crate::domain::group::Members;
use crate::domain::host::is_loopback;
use crate::domain::ldap_text::Dn;
use crate::domain::mapping::{Preset, Rules, Skip, map_entry};
use crate::domain::user::Kind;

/// What `check` found; its JSON is what `--json` prints.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Checked {
    /// Everything that was looked at is good.
    pub ok: bool,
    /// The configuration file.
    pub config: String,
    /// Seats declared.
    pub seats: Option<u64>,
    /// Keys that a signed licence may have, instead of declared seats.
    pub trusted_keys: usize,
    /// Listeners configured.
    pub listeners: usize,
    /// One a directory; with `--connect` they say what was found.
    pub directories: Vec<CheckedDirectory>,
}

/// One directory.
#[derive(Clone, PartialEq, Eq, Serialize, Debug, Default)]
pub struct CheckedDirectory {
    /// The configured name.
    pub name: String,
    /// The server that answered, and its product.
    pub server: Option<String>,
    /// The preset in force.
    pub preset: Option<&'static str>,
    /// Names that `required_group` and the groups in it list, those groups among them.
    pub members: Option<usize>,
    /// People who would be mapped.
    pub people: u64,
    /// The disabled among them.
    pub disabled: u64,
    /// Groups, lists, resources and contacts, by kind.
    pub not_people: BTreeMap<String, u64>,
    /// Entries that would be skipped: reason code, how many, and what it means.
    pub skipped: Vec<Skipped>,
    /// Things that work but should be looked at.
    pub warnings: Vec<String>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// Entries skipped for one reason.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Skipped {
    /// The reason's code.
    pub reason: &'static str,
    /// How many.
    pub entries: u64,
    /// What it means and what to do.
    pub explanation: String,
    /// The DN of one of them.
    pub example: String,
}

/// Checks a configuration that was loaded; with `connect`, reads every directory as a sweep would.
pub async fn check(path: &Path, config: &Config, connect: bool) -> Checked {
    let mut directories = Vec::new();
    for directory in &config.directories {
        let mut checked = CheckedDirectory { name: directory.name.clone(), ..CheckedDirectory::default() };
        checked.warnings.extend(warnings(directory));
        if connect && let Err(error) = read(directory, &mut checked).await {
            checked.error = Some(sentence(&error));
        }
        directories.push(checked);
    }
    Checked {
        ok: directories.iter().all(|directory| directory.error.is_none()),
        config: path.display().to_string(),
        seats: config.seat_limit,
        trusted_keys: config.license.trusted_keys.len(),
        listeners: config.listeners.len(),
        directories,
    }
}

fn warnings(directory: &Directory) -> Option<String> {
    let Source::Ldap(ldap) = &directory.source else { return None };
    let open = ldap.urls.iter().find(|url| !url.is_ldaps && !ldap.tls.starttls && !is_loopback(&url.host))?;
    matches!(ldap.bind, Bind::Simple(_)).then_some(())?;
    Some(format!("the bind password goes to {open} unencrypted: use ldaps:// or starttls = true"))
}

fn no_members(group: &Dn, members: &Members) -> Option<String> {
    // Who is in Active Directory by the primary group alone is listed nowhere.
    let is_empty = members.listed() == 0 && members.is_by_dn_alone();
    is_empty.then(|| format!("required_group {group} lists no members, or the bind user may not read them"))
}

async fn read(directory: &Directory, checked: &mut CheckedDirectory) -> Result<(), SyncError> {
    let (events, queue) = mpsc::channel(4);
    match &directory.source {
        Source::Ldif(ldif) => {
            let rules = directory.rules(Preset::Ldif);
            checked.server = Some(ldif.file.display().to_string());
            let swept = async {
                let events = events;
                file::sweep(&ldif.file, &events).await
            };
            let (swept, ()) = tokio::join!(swept, count(queue, &rules, checked));
            swept?;
        }
        Source::Ldap(ldap) => {
            let mut connection = Connection::open(ldap, 0).await?;
            let mut rules = directory.rules(connection.server().preset);
            checked.server = Some(format!("{} ({})", connection.url(), connection.server().vendor));
            checked.preset = Some(rules.preset.as_str());
            let is_hinted = ldap.sync != Choice::Sweep && connection.server().offers.content_sync;
            if is_hinted {
                let coverage = connection.changelog(&ldap.base_dn).await;
                checked.warnings.extend(coverage.warning(&ldap.base_dn, rules.preset, &Evidence::default()));
            }
            if let Some(group) = &ldap.required_group {
                let members = connection.members(group).await?;
                checked.members = Some(members.listed());
                checked.warnings.extend(no_members(group, &members));
                rules.members = Some(Arc::new(members));
            }
            let filter = source::filter(ldap, &rules)?;
            let swept = async {
                let events = events;
                connection.sweep(&ldap.base_dn, &filter, &rules.attributes(), &events).await
            };
            let (swept, ()) = tokio::join!(swept, count(queue, &rules, checked));
            swept?;
            // It can't be paged, so that limits count which a sweep doesn't notice.
            if is_hinted && let Err(error) = connection.search_at_once(&ldap.base_dn, &filter).await {
                checked.warnings.push(format!("everything will be read at each poll: {error}"));
            }
            connection.close().await;
        }
    }
    Ok(())
}

async fn count(mut events: mpsc::Receiver<Event>, rules: &Rules, checked: &mut CheckedDirectory) {
    let mut skipped: BTreeMap<Skip, (u64, String)> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        let Event::Upserts(entries) = event else { continue };
        for entry in entries {
            match map_entry(&entry, rules) {
                Ok(mapped) if mapped.kind == Kind::Person => {
                    checked.people += 1;
                    checked.disabled += u64::from(!mapped.enabled);
                }
                Ok(mapped) => *checked.not_people.entry(mapped.kind.to_string()).or_default() += 1,
                Err(skip) => skipped.entry(skip).or_insert((0, entry.dn)).0 += 1,
            }
        }
    }
    let skipped = skipped.into_iter().map(|(skip, (entries, example))| Skipped {
        reason: skip.code(),
        entries,
        explanation: skip.explanation(rules),
        example,
    });
    checked.skipped = skipped.collect();
}

impl Checked {
    /// The same for people.
    pub fn write(&self, connected: bool, out: &mut dyn Write) -> io::Result<()> {
        let seats = match (self.seats, self.trusted_keys) {
            (Some(seats), _) => format!("{seats} seats"),
            (None, 0) => "no licence".to_owned(),
            (None, _) => "seats by a signed licence".to_owned(),
        };
        let (directories, listeners) = (self.directories.len(), self.listeners);
        writeln!(
            out,
            "{}: correct; {seats}, directories: {directories}, listeners: {listeners}",
            self.config
        )?;
        for directory in &self.directories {
            directory.write(connected, out)?;
        }
        Ok(())
    }
}

impl CheckedDirectory {
    fn write(&self, connected: bool, out: &mut dyn Write) -> io::Result<()> {
        for warning in &self.warnings {
            writeln!(out, "{}: warning: {warning}", self.name)?;
        }
        if let Some(error) = &self.error {
            return writeln!(out, "{}: error: {error}", self.name);
        }
        if !connected {
            return Ok(());
        }
        let server = self.server.as_deref().unwrap_or_default();
        let preset = self.preset.map(|preset| format!(", preset {preset}")).unwrap_or_default();
        writeln!(out, "{}: {server}{preset}", self.name)?;
        if let Some(members) = self.members {
            writeln!(out, "  required_group and the groups in it list {members} names")?;
        }
        writeln!(out, "  {} people would be mapped, {} of them disabled", self.people, self.disabled)?;
        for (kind, entries) in &self.not_people {
            writeln!(out, "  {entries} of the kind {kind} would be known, and take no seats")?;
        }
        for Skipped { reason, entries, explanation, example } in &self.skipped {
            writeln!(out, "  {entries} would be skipped ({reason}): {explanation}; for example {example}")?;
        }
        Ok(())
    }
}
