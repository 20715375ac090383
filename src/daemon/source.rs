//! Opening a directory: which server, which mechanism, and the driver that tells its events.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::group::{self, Group};
use super::intake::{Intake, Mode, SyncError};
use super::refusal::{Refusal, Refusals};
use crate::directory::{
    Compares, Connection, Coverage, DirectoryError, Event, Evidence, Hinted, IsKnown, Known, LastServer,
    Poll, Watch, file,
};
use crate::domain::course::{Choice, Mechanism, choose};
use crate::domain::directory::{Directory, LdapSource, LdapUrl, Lists, Source as Configured};
use crate::domain::filter::Condition;
use crate::domain::ldap_text::Filter;
use crate::domain::mapping::{OBJECT_CLASS, Preset, Rules, may_be_list, printable};
use crate::domain::names::NameRules;
use crate::domain::sync::Report;
use crate::store::Store;

/// Batches of entries between the driver and the mapping; the driver stops reading when they are full.
const EVENT_QUEUE: usize = 4;

/// A file must look the same for this long before it is read: an export may still be writing it.
const SETTLE: Duration = Duration::from_millis(500);

/// Raised when the meaning of a cookie's data changes: older cookies are not used then.
const DRIVER_VERSION: u32 = 1;

/// What is remembered of a directory between two runs.
pub(super) struct Source {
    /// The server that was used last: it stays the first choice as long as it works.
    last: Option<LastServer>,
    fingerprint: Option<file::Fingerprint>,
    /// What the servers show and then don't work with.
    pub(super) refusals: Refusals,
    /// What changes have shown of a 389 Directory Server's changelog.
    evidence: Evidence,
    /// The server's notifications, and which server it is.
    watch: Option<(Watch, LdapUrl)>,
}

/// A directory that was opened.
pub(super) struct Opened {
    pub(super) mechanism: Mechanism,
    /// Why this one.
    pub(super) reason: String,
    /// Why no better one.
    refusal: Option<Refusal>,
    /// What the changelog of a 389 Directory Server has.
    coverage: Option<Coverage>,
    evidence: Evidence,
    pub(super) server: Option<String>,
    /// The server says when a poll would find something.
    notifies: bool,
    /// A poll is to compare ids now, since a proof comes after it.
    pub(super) precedes_proof: bool,
    pub(super) rules: Rules,
    /// Everything that a cookie of this run depends on.
    pub(super) valid_for: String,
    /// Whom of a required group this run maps.
    pub(super) group: Option<Group>,
    connection: Option<Connection>,
    driver: Option<AbortOnDropHandle<Result<Option<file::Fingerprint>, DirectoryError>>>,
    /// The server.
    pub(super) url: Option<LdapUrl>,
    fingerprint: Option<file::Fingerprint>,
}

impl Source {
    pub(super) fn new(_: &Directory) -> Source {
        Source {
            last: None,
            fingerprint: None,
            refusals: Refusals::default(),
            evidence: Evidence::default(),
            watch: None,
        }
    }

    /// Connects to the first server that answers, and chooses the mechanism.
    pub(super) async fn open(&mut self, directory: &Directory) -> Result<Opened, SyncError> {
        let ldap = match &directory.source {
            Configured::Ldif(_) => {
                return Ok(Opened {
                    mechanism: Mechanism::Ldif,
                    reason: "it is a file".to_owned(),
                    refusal: None,
                    coverage: None,
                    evidence: self.evidence.clone(),
                    server: None,
                    notifies: false,
                    precedes_proof: false,
                    rules: directory.rules(Preset::Ldif),
                    valid_for: String::new(),
                    group: None,
                    connection: None,
                    driver: None,
                    url: None,
                    fingerprint: None,
                });
            }
            Configured::Ldap(ldap) => ldap,
        };
        let mut connection = Connection::reopen(ldap, self.last.as_ref()).await?;
        self.last = Some(LastServer { url: connection.url().clone(), has_failed: false });
        let group = Group::read(ldap, &mut connection).await?;
        let (preset, offers) = (connection.server().preset, connection.server().offers);
        let is_389 = matches!(preset, Preset::Ds389 | Preset::FreeIpa);
        let refusal = self.refusals.current(directory.full_sync_every);
        let (mechanism, reason) = match (ldap.sync, refusal) {
            (Choice::Auto, Some(refusal)) => (Mechanism::Sweep, refusal.reason.to_owned()),
            (Choice::SyncRepl, Some(refusal)) if is_389 => (Mechanism::Sweep, refusal.reason.to_owned()),
            (choice, _) => choose(choice, offers, self.refusals.of_polls()),
        };
        // Without a changelog every run of it reads everything, and even so nobody is lost.
        let is_hinted = is_389 && mechanism == Mechanism::SyncRepl;
        let mechanism = if is_hinted { Mechanism::ContentSync } else { mechanism };
        let coverage = match mechanism {
            Mechanism::ContentSync => Some(connection.changelog(&ldap.base_dn).await),
            _ => None,
        };
        let refusal = refusal.filter(|_| mechanism == Mechanism::Sweep && ldap.sync != Choice::Sweep);
        let changelog = coverage.as_ref().map(|coverage| format!("\n{}", coverage.as_str()));
        let server = connection.server();
        let mut rules = directory.rules(server.preset);
        rules.members = group.as_ref().map(Group::members);
        Ok(Opened {
            mechanism,
            reason,
            refusal,
            coverage,
            evidence: self.evidence.clone(),
            server: Some(server.vendor.clone()),
            precedes_proof: false,
            notifies: server.notifies && matches!(mechanism, Mechanism::DirSync | Mechanism::Usn),
            valid_for: valid_for(
                ldap,
                &rules,
                mechanism,
                &connection.url().to_string(),
                connection.identity(),
            )? + &changelog.unwrap_or_default(),
            rules,
            group,
            url: Some(connection.url().clone()),
            connection: Some(connection),
            driver: None,
            fingerprint: None,
        })
    }

    /// A cookie of the store, where it can be used. It also tells what changes had shown before a restart.
    pub(super) fn usable(&self, opened: &Opened, cookie: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let (cookie, preset) = (cookie?, opened.rules.preset);
        let Some(coverage) = &opened.coverage else { return Some(cookie) };
        if *coverage == Coverage::Hidden && (cookie.is_empty() || preset == Preset::FreeIpa) {
            self.evidence.show(!cookie.is_empty());
        }
        coverage.is_trustworthy(preset, &self.evidence).then_some(cookie)
    }

    /// What keeps the server from a better mechanism, and what to do about it.
    pub(super) fn warning(&self, directory: &Directory, opened: &Opened) -> Option<String> {
        let Configured::Ldap(ldap) = &directory.source else { return None };
        match (&opened.coverage, opened.refusal) {
            (Some(coverage), _) => coverage.warning(&ldap.base_dn, opened.rules.preset, &self.evidence),
            (None, refusal) => Some(refusal?.warning(&directory.name, directory.full_sync_every)),
        }
    }

    /// A file is read again only when it changed; a server has to be asked.
    pub(super) async fn is_due(&self, directory: &Directory) -> bool {
        let Configured::Ldif(ldif) = &directory.source else { return true };
        let found = file::fingerprint(&ldif.file).ok();
        if found == self.fingerprint && found.is_some() {
            return false;
        }
        tokio::time::sleep(SETTLE).await;
        found == file::fingerprint(&ldif.file).ok()
    }

    /// Remembers what was read, and listens to the server's notifications.
    pub(super) fn succeeded(&mut self, directory: &Directory, opened: &Opened) {
        self.refusals.succeeded();
        self.fingerprint = opened.fingerprint;
        let url = match &directory.source {
            Configured::Ldap(ldap) if opened.notifies => opened.url.as_ref().map(|url| (ldap, url)),
            _ => None,
        };
        let is_watched = self.watch.as_ref().is_some_and(|(_, watched)| Some(watched) == opened.url.as_ref());
        match url {
            None => self.watch = None,
            Some(_) if is_watched => {}
            Some((ldap, url)) => {
                let source = LdapSource { urls: vec![url.clone()], ..ldap.clone() };
                self.watch = Some((Watch::start(source), url.clone()));
            }
        }
    }

    /// Waits until the server says that a poll would find something. May be dropped.
    pub(super) async fn woken(&self) {
        match &self.watch {
            Some((watch, _)) => watch.woken().await,
            None => std::future::pending().await,
        }
    }

    /// A server may answer and yet fail in the middle each time: the next one is tried first. One that only
    /// pretends to know a mechanism is swept from now on.
    pub(super) fn failed(&mut self, error: &SyncError) {
        self.fingerprint = None;
        // A server that could not be connected to is no worse than the others.
        let was_used = !matches!(error, SyncError::Directory(DirectoryError::NoServer(_)));
        if !self.refusals.failed(error)
            && was_used
            && let Some(last) = &mut self.last
        {
            last.has_failed = true;
        }
    }

    /// What a sweep would do now, on a connection of its own.
    pub(super) async fn preview(
        &mut self,
        directory: &Directory,
        names: NameRules,
        store: &Store,
    ) -> Result<Report, SyncError> {
        let mut opened = self.open(directory).await?;
        if opened.mechanism != Mechanism::Ldif {
            opened.mechanism = Mechanism::Sweep;
        }
        let mode = Mode { dry_run: Some(names), ..Mode::default() };
        let mut intake = Intake::begin(directory, opened.rules.clone(), store, mode).await?;
        let mut events = opened.start(directory, store, None, None)?;
        loop {
            match events.recv().await {
                Some(Event::EndRefresh(authority, _)) => return Ok(intake.end(authority, None).await?.0),
                Some(event) => intake.take(event).await?,
                None => return Err(opened.error().await),
            }
        }
    }
}

impl Opened {
    /// Starts the driver; it ends with this value. With the cookie of the last proof, and one to go on from,
    /// it compares the ids of everything first.
    pub(super) fn start(
        &mut self,
        directory: &Directory,
        store: &Store,
        cookie: Option<Vec<u8>>,
        proven: Option<Vec<u8>>,
    ) -> Result<mpsc::Receiver<Event>, SyncError> {
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let driver = match (&directory.source, self.connection.take()) {
            (Configured::Ldif(ldif), _) => {
                let path = ldif.file.clone();
                // What is noticed now is at worst older than what is read.
                self.fingerprint = file::fingerprint(&path).ok();
                tokio::spawn(
                    async move { file::sweep(&path, &events).await.map(|swept| Some(swept.fingerprint)) },
                )
            }
            (Configured::Ldap(ldap), Some(mut connection)) => {
                let filter = filter(ldap, &self.rules)?;
                let (base, rules, mechanism) = (ldap.base_dn.clone(), self.rules.clone(), self.mechanism);
                let is_known = is_known(store.clone(), directory.name.clone(), &rules);
                // Who is not in the group may be a list.
                let reads: &[&str] = if rules.members.is_some() { &[OBJECT_CLASS] } else { &[] };
                let hinted = (mechanism == Mechanism::ContentSync).then(|| Hinted {
                    server: ldap.clone(),
                    is_known: Arc::clone(&is_known),
                    reads,
                    evidence: self.evidence.clone(),
                });
                let is_polled = matches!(mechanism, Mechanism::DirSync | Mechanism::Usn);
                let compares = match &proven {
                    Some(proven) => Compares::With(proven.clone()),
                    None if self.precedes_proof => Compares::Now,
                    None => Compares::InTime,
                };
                let known = proven.filter(|_| !is_polled).zip(cookie.clone());
                let known = known.map(|(proven, cookie)| {
                    let is_known = Arc::clone(&is_known);
                    Known { is_known, reads, proven, cookie }
                });
                tokio::spawn(async move {
                    let attributes = rules.attributes();
                    if let Some(known) = known {
                        connection.reconcile(&base, &filter, &attributes, known, &events).await?;
                    }
                    match mechanism {
                        Mechanism::SyncRepl | Mechanism::ContentSync => {
                            let followed =
                                connection.follow(&base, &filter, &attributes, cookie, hinted, &events);
                            return Err(followed.await);
                        }
                        Mechanism::DirSync | Mechanism::Usn => {
                            let poll = Poll { mechanism, cookie, compares, is_known };
                            connection.poll(poll, &base, &filter, &attributes, &events).await?;
                        }
                        Mechanism::Sweep | Mechanism::Ldif => {
                            connection.sweep(&base, &filter, &attributes, &events).await?;
                        }
                    }
                    connection.close().await;
                    Ok(None)
                })
            }
            (Configured::Ldap(_), None) => return Err(SyncError::Interrupted),
        };
        self.driver = Some(AbortOnDropHandle::new(driver));
        Ok(queue)
    }

    /// Why the driver ended.
    pub(super) async fn error(&mut self) -> SyncError {
        match self.driver.take() {
            Some(driver) => match driver.await {
                Ok(Ok(_)) => SyncError::Incomplete,
                Ok(Err(error)) => error.into(),
                Err(_) => SyncError::Interrupted,
            },
            None => SyncError::Incomplete,
        }
    }
}

/// Asks the mirror. Who can't be found there for whatever reason is read again, except where it is known that
/// nobody would be mapped.
fn is_known(store: Store, directory: String, rules: &Rules) -> IsKnown {
    let members = rules.members.clone().filter(|members| members.is_by_dn_alone());
    let preset = rules.preset;
    Arc::new(move |id, entry| {
        let view = store.view();
        let record = view.directory_named(&directory);
        let user = record.and_then(|record| view.user_by_id(record.id, id).ok().flatten());
        match user.filter(|(_, user)| user.is_living()) {
            Some((_, user)) => user.mapped.dn == printable(&entry.dn),
            None => members
                .as_ref()
                .is_some_and(|members| !members.has_dn(&entry.dn) && !may_be_list(entry, preset)),
        }
    })
}

/// What people match, by the configured filter or the preset's, narrowed to the required group where that is certain to
/// be the same; and lists, whoever is in that group.
pub(super) fn filter(ldap: &LdapSource, rules: &Rules) -> Result<Filter, SyncError> {
    let filter = match &ldap.filter {
        Some(filter) => filter.clone(),
        None => {
            let text = rules.preset.default_filter();
            Filter::parse(text).map_err(|error| SyncError::Filter(text.to_owned(), error))?
        }
    };
    let people = group::narrow(filter, rules);
    let lists = match &ldap.lists {
        Lists::Unread => None,
        Lists::Matching(lists) => Some(lists.filter().clone()),
        Lists::Preset => {
            let text = rules.preset.default_list_filter(&rules.mail);
            let parsed =
                text.map(|text| Filter::parse(&text).map_err(|error| SyncError::Filter(text, error)));
            parsed.transpose()?
        }
    };
    Ok(lists.map_or(people.clone(), |lists| people.or(&lists)))
}

/// A cookie is worth something only for the same server, base, filter, bind DN, attributes and driver, and
/// while entries mean the same.
fn valid_for(
    ldap: &LdapSource,
    rules: &Rules,
    mechanism: Mechanism,
    url: &str,
    identity: &str,
) -> Result<String, SyncError> {
    // Who joined did not change.
    let group = rules.members.as_ref().map_or(String::new(), |members| members.fingerprint().to_string());
    let parts = [
        mechanism.as_str(),
        &DRIVER_VERSION.to_string(),
        url,
        ldap.base_dn.as_str(),
        filter(ldap, rules)?.as_str(),
        &group,
        identity,
        &rules.attributes().join(","),
        rules.preset.as_str(),
        rules.domain.as_str(),
        &rules.login.join(","),
        &rules.mail.join(","),
        &rules.name.join(","),
        rules.seatless.as_ref().map_or("", Condition::as_str),
    ]
    .join("\n");
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::directory::Bind;

    /// What a cookie depends on, with these keys in the configuration.
    fn key(keys: &str, mechanism: Mechanism, url: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seatkeeper.toml");
        let text = format!("[license]\nseats = 1\n[[directory.ldap]]\nname = \"corp\"\n{keys}\n");
        std::fs::write(&path, text).unwrap();
        for password in ["one", "two"] {
            let path = folder.path().join(password);
            std::fs::write(&path, "secret").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        let config = crate::config::load(&path).unwrap();
        let directory = &config.directories[0];
        let Configured::Ldap(ldap) = &directory.source else { panic!("it is on a server") };
        let rules = directory.rules(ldap.preset.unwrap_or(Preset::OpenLdap));
        let identity = match &ldap.bind {
            Bind::Simple(bind) => bind.dn.as_str(),
            Bind::Anonymous | Bind::External => "",
        };
        valid_for(ldap, &rules, mechanism, url, identity).unwrap()
    }

    #[test]
    fn a_cookie_depends_on_everything_that_it_was_got_with() {
        const URL: &str = "ldap://one.example.org:389";
        const KEYS: &str = "domain = \"example.org\"\nurls = [\"ldap://one.example.org\"]\n\
            base_dn = \"dc=example,dc=org\"\nfilter = \"(uid=*)\"\nbind_dn = \"cn=a,dc=example,dc=org\"\n\
            bind_password_file = \"one\"\n";
        let as_it_was = key(KEYS, Mechanism::SyncRepl, URL);
        let mut keys = vec![
            as_it_was.clone(),
            key(KEYS, Mechanism::SyncRepl, "ldap://two.example.org:389"),
            key(KEYS, Mechanism::ContentSync, URL),
        ];
        for (old, new) in [
            ("base_dn = \"dc", "base_dn = \"ou=people,dc"),
            ("(uid=*)", "(uid=a*)"),
            ("filter = \"(uid=*)\"\n", ""),
            ("cn=a,", "cn=b,"),
            ("bind_dn = \"cn=a,dc=example,dc=org\"\nbind_password_file = \"one\"\n", ""),
            ("domain = \"example.org\"", "domain = \"example.net\""),
        ] {
            assert!(KEYS.contains(old), "{old}");
            keys.push(key(&KEYS.replace(old, new), Mechanism::SyncRepl, URL));
        }
        for more in [
            "preset = \"389ds\"",
            "[directory.ldap.attributes]\nlogin = \"mail\"",
            "[directory.ldap.attributes]\nlogin = [\"uid\", \"mail\"]",
            "[directory.ldap.attributes]\nmail = \"mailAlternateAddress\"",
            "[directory.ldap.attributes]\nname = \"sn\"",
        ] {
            keys.push(key(&format!("{KEYS}{more}"), Mechanism::SyncRepl, URL));
        }
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "{keys:#?}");
        assert_eq!(as_it_was.lines().nth(1), Some(DRIVER_VERSION.to_string().as_str()));

        for more in
            ["poll_every = \"5s\"", "full_sync_every = \"1h\"", "[directory.ldap.brake]\nmax_removals = 7"]
        {
            assert_eq!(key(&format!("{KEYS}{more}"), Mechanism::SyncRepl, URL), as_it_was, "{more}");
        }
        let password = KEYS.replace("\"one\"", "\"two\"");
        assert_eq!(key(&password, Mechanism::SyncRepl, URL), as_it_was);
    }
}
