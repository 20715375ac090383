//! `check`: what can be found out about a configuration without running it.

mod clashes;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use serde::Serialize;
use tokio::sync::mpsc;

use super::intake::SyncError;
use super::source;
use super::sync::sentence;
use crate::admin::client::Client;
use crate::config::Config;
use crate::directory::{Connection, Event, Evidence, file};
use crate::domain::course::Choice;
use crate::domain::directory::{Bind, Directory, LdapSource, Source};
use crate::domain::group::Members;
use crate::domain::host::is_loopback;
use crate::domain::ldap_text::Dn;
use crate::domain::mapping::{Preset, Rules, Skip, map_entry};
use crate::domain::name::Name;
use crate::domain::names::NameRules;
use crate::domain::user::{Kind, Mapped};
use crate::service::answers::Status;
use clashes::{CheckedClash, Names};

/// Users and lists named in full; the rest is counted.
const SHOWN: usize = 20;

/// Domains of addresses that are counted one by one.
const MAX_DOMAINS: usize = 1000;

/// How long the daemon may take to say how many seats are used.
const ASK_WITHIN: Duration = Duration::from_secs(5);

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
    /// Seats in use, and how many there are, as the running daemon says; `null` where none runs.
    pub seats_used: Option<(u64, u64)>,
    /// Mailboxes without a seat that the license allows, as the running daemon says; `null` where none runs, or for any
    /// number.
    pub seatless_allowed: Option<u64>,
    /// Names that entries would be mapped without.
    pub clashes: Vec<CheckedClash>,
    /// How many more there are.
    pub more_clashes: u64,
    /// Addresses that would be left out by `foreign_names = false`.
    pub foreign_names: u64,
    /// Domains of addresses that no directory serves, with the number of addresses.
    pub unserved_domains: BTreeMap<String, u64>,
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
    /// Seats that its users hold, as the running daemon says.
    pub seats_used: Option<u64>,
    /// The directory's own cap.
    pub seat_limit: Option<u64>,
    /// Enabled people who match `seatless_filter`, and the first of them.
    pub seatless: u64,
    /// The first of them.
    pub seatless_users: Vec<String>,
    /// People without a mail address, and the DN of one of them.
    pub without_mail: u64,
    /// The DN of one of them.
    pub without_mail_example: Option<String>,
    /// The first of the lists.
    pub lists: Vec<String>,
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
    let mut found = Found::new(config);
    for directory in &config.directories {
        let mut checked = CheckedDirectory { name: directory.name.clone(), ..CheckedDirectory::default() };
        checked.seat_limit = directory.seat_limit;
        checked.warnings.extend(warnings(directory));
        checked.warnings.extend(group_warning(directory));
        if connect && let Err(error) = read(directory, &mut checked, &mut found).await {
            checked.error = Some(sentence(&error));
        }
        directories.push(checked);
    }
    let status = if connect { ask(config).await } else { None };
    for checked in &mut directories {
        let known = status.iter().flat_map(|status| &status.directories);
        checked.seats_used = known.into_iter().find(|it| it.name == checked.name).map(|it| it.seats_used);
    }
    if let (Some(warning), Some(last)) = (found.names.warning(), directories.last_mut()) {
        last.warnings.push(warning);
    }
    let clashes = found.names.clashes(&found.rules);
    Checked {
        seatless_allowed: status.as_ref().and_then(|status| status.seatless.allowed),
        seats_used: status.map(|status| (status.seats.used, status.seats.limit)),
        clashes: clashes.listed,
        more_clashes: clashes.more,
        foreign_names: clashes.foreign,
        unserved_domains: found.unserved,
        ok: directories.iter().all(|directory| directory.error.is_none()),
        config: path.display().to_string(),
        seats: config.seat_limit,
        trusted_keys: config.license.trusted_keys.len(),
        listeners: config.listeners.len(),
        directories,
    }
}

/// What is found in all directories together.
struct Found {
    names: Names,
    rules: NameRules,
    unserved: BTreeMap<String, u64>,
}

impl Found {
    fn new(config: &Config) -> Found {
        Found { names: Names::default(), rules: super::names(config), unserved: BTreeMap::new() }
    }

    fn push(&mut self, directory: &str, mapped: &Mapped) {
        self.names.push(directory, mapped);
        let unserved = mapped.addresses.iter().map(Name::domain);
        for domain in unserved.filter(|domain| self.rules.directories_of(domain).next().is_none()) {
            if self.unserved.len() < MAX_DOMAINS || self.unserved.contains_key(domain) {
                *self.unserved.entry(domain.to_owned()).or_default() += 1;
            }
        }
    }
}

/// What the running daemon says; `None` where none runs, or where it may not be asked.
async fn ask(config: &Config) -> Option<Status> {
    let client = Client::new(&config.control_socket);
    let answer = client.request_within(Method::GET, "/v1/status", ASK_WITHIN).await.ok()?;
    client.decode(&answer).ok()
}

/// Servers do not report a change of a group as a change of its members.
fn group_warning(directory: &Directory) -> Option<String> {
    let Source::Ldap(LdapSource { sync, .. }) = &directory.source else { return None };
    let asked = directory.seatless.as_ref()?.attributes();
    let is_late = *sync != Choice::Sweep && asked.iter().any(|name| name.eq_ignore_ascii_case("memberOf"));
    is_late.then(|| {
        "seatless_filter asks for memberOf: a change of a group is noticed only when the entry changes, too; use an \
         attribute of the entry, or sync = \"sweep\""
            .to_owned()
    })
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

async fn read(
    directory: &Directory,
    checked: &mut CheckedDirectory,
    found: &mut Found,
) -> Result<(), SyncError> {
    let (events, queue) = mpsc::channel(4);
    match &directory.source {
        Source::Ldif(ldif) => {
            let rules = directory.rules(Preset::Ldif);
            checked.server = Some(ldif.file.display().to_string());
            let swept = async {
                let events = events;
                file::sweep(&ldif.file, &events).await
            };
            let (swept, ()) = tokio::join!(swept, count(queue, &rules, checked, found));
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
            let (swept, ()) = tokio::join!(swept, count(queue, &rules, checked, found));
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

async fn count(
    mut events: mpsc::Receiver<Event>,
    rules: &Rules,
    checked: &mut CheckedDirectory,
    found: &mut Found,
) {
    let mut skipped: BTreeMap<Skip, (u64, String)> = BTreeMap::new();
    let mut ids = HashSet::new();
    while let Some(event) = events.recv().await {
        let Event::Upserts(entries) = event else { continue };
        for entry in entries {
            let mapped = map_entry(&entry, rules).and_then(|mapped| {
                let is_twin = rules.preset == Preset::Ldif && !ids.insert(mapped.id.clone());
                if is_twin { Err(Skip::DuplicateId) } else { Ok(mapped) }
            });
            match mapped {
                Ok(mapped) => {
                    found.push(&checked.name, &mapped);
                    checked.count(&mapped);
                }
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
        if connected { self.write_found(out) } else { Ok(()) }
    }

    /// What concerns all directories together.
    fn write_found(&self, out: &mut dyn Write) -> io::Result<()> {
        let people: u64 = self.directories.iter().map(|directory| directory.people).sum();
        match self.seats_used {
            Some((used, limit)) => {
                writeln!(out, "seats: {used} of {limit} are used; {people} people in all")?
            }
            None => {
                writeln!(out, "seats: no daemon answers that says how many are used; {people} people in all")?
            }
        }
        let seatless: u64 = self.directories.iter().map(|directory| directory.seatless).sum();
        if let Some(allowed) = self.seatless_allowed.filter(|allowed| *allowed < seatless) {
            let over = seatless - allowed;
            writeln!(
                out,
                "seatless_filter matches {seatless} mailboxes, and the license allows {allowed}: the {over} that were \
                 mapped last need a seat each"
            )?;
        }
        if !self.unserved_domains.is_empty() {
            writeln!(out, "no directory serves the domains of these addresses:")?;
        }
        let mut unserved: Vec<_> = self.unserved_domains.iter().collect();
        unserved.sort_by_key(|(domain, addresses)| (std::cmp::Reverse(**addresses), *domain));
        for (domain, addresses) in unserved.iter().take(SHOWN) {
            writeln!(out, "  {domain}: {addresses}")?;
        }
        if unserved.len() > SHOWN {
            writeln!(out, "  and {} more domains", unserved.len() - SHOWN)?;
        }
        if self.foreign_names > 0 {
            writeln!(out, "foreign_names = false leaves out {} addresses", self.foreign_names)?;
        }
        if !self.clashes.is_empty() {
            writeln!(out, "names that several entries have, or that are not theirs:")?;
        }
        for clash in &self.clashes {
            writeln!(out, "  {}", clash.line())?;
        }
        if self.more_clashes > 0 { writeln!(out, "  and {} more", self.more_clashes) } else { Ok(()) }
    }
}

/// The first of some names, and how many more there are.
fn shown(names: &[String], all: u64) -> String {
    let more = all.saturating_sub(names.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

impl CheckedDirectory {
    fn count(&mut self, mapped: &Mapped) {
        if mapped.kind != Kind::Person {
            *self.not_people.entry(mapped.kind.to_string()).or_default() += 1;
            if mapped.kind == Kind::List && self.lists.len() < SHOWN {
                self.lists.push(mapped.primary().to_owned());
            }
            return;
        }
        self.people += 1;
        self.disabled += u64::from(!mapped.enabled);
        if mapped.enabled && mapped.seatless {
            self.seatless += 1;
            if self.seatless_users.len() < SHOWN {
                self.seatless_users.push(mapped.primary().to_owned());
            }
        }
        if mapped.addresses.is_empty() {
            self.without_mail += 1;
            self.without_mail_example.get_or_insert_with(|| mapped.dn.to_string());
        }
    }

    /// Seats in use beside the people who may want one.
    fn seats(&self) -> String {
        match (self.seats_used, self.seat_limit) {
            (Some(used), Some(limit)) => format!("; {used} of {limit} seats are used"),
            (Some(used), None) => format!("; {used} seats are used"),
            (None, Some(limit)) => format!("; at most {limit} seats"),
            (None, None) => String::new(),
        }
    }

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
        let seats = self.seats();
        writeln!(out, "  {} people would be mapped, {} of them disabled{seats}", self.people, self.disabled)?;
        if self.seatless > 0 {
            let names = shown(&self.seatless_users, self.seatless);
            writeln!(out, "  {} of them match seatless_filter: {names}", self.seatless)?;
        }
        if let Some(example) = &self.without_mail_example {
            writeln!(out, "  {} of them have no mail address; for example {example}", self.without_mail)?;
        }
        for (kind, entries) in &self.not_people {
            writeln!(out, "  {entries} of the kind {kind} would be known, and take no seats")?;
        }
        if !self.lists.is_empty() {
            let lists = self.not_people.get("list").copied().unwrap_or_default();
            writeln!(out, "  lists: {}", shown(&self.lists, lists))?;
        }
        for Skipped { reason, entries, explanation, example } in &self.skipped {
            writeln!(out, "  {entries} would be skipped ({reason}): {explanation}; for example {example}")?;
        }
        Ok(())
    }
}
