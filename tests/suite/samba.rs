//! The LDAP driver, the mapping and the daemon against a real Samba domain controller, which stands for
//! Active Directory.

use std::collections::BTreeMap;
use std::time::Duration;

use seatkeeper::directory::{Connection, DirectoryError, Event, ServerProblem, Swept};
use seatkeeper::domain::course::Choice;
use seatkeeper::domain::directory::{Bind, LdapSource, LdapUrl, Lists, SimpleBind, Timeouts, Tls};
use seatkeeper::domain::ldap_text::{Dn, Filter};
use seatkeeper::domain::mapping::{Preset, Rules, Skip, map_entry};
use seatkeeper::domain::name::{Domain, Name};
use seatkeeper::domain::user::{Kind, Mapped};
use tokio::sync::mpsc;

use crate::support::daemon::{Daemon, Settings};
use crate::support::samba::{Options, PEOPLE, ROOT, SambaAd, dn, people, person};

fn source(samba: &SambaAd) -> LdapSource {
    LdapSource {
        urls: vec![LdapUrl::parse(&samba.ldaps_url()).unwrap()],
        base_dn: Dn::parse(PEOPLE).unwrap(),
        bind: Bind::Simple(SimpleBind {
            dn: Dn::parse(samba.bind_dn()).unwrap(),
            password_file: samba.password_file(),
        }),
        sync: Choice::Sweep,
        preset: None,
        filter: None,
        lists: Lists::Preset,
        required_group: None,
        tls: Tls { ca_file: Some(samba.ca_file()), ..Tls::default() },
        timeouts: Timeouts::default(),
        page_size: 1000,
    }
}

/// A sweep whose entries were mapped, by their DN.
#[derive(Debug)]
struct Mapping {
    swept: Swept,
    users: BTreeMap<String, Result<Mapped, Skip>>,
}

impl Mapping {
    #[track_caller]
    fn user(&self, dn: &str) -> &Mapped {
        self.users[dn].as_ref().unwrap()
    }
}

/// Sweeps as the daemon does: with the preset of the server, its filter where there is no other, and the
/// attributes of the mapping.
async fn try_sweep(source: &LdapSource) -> Result<Mapping, DirectoryError> {
    let mut connection = Connection::open(source, 0).await?;
    let preset = connection.server().preset;
    let rules = Rules::new(preset, Domain::parse("example.org").unwrap());
    let default = || Filter::parse(preset.default_filter()).unwrap();
    let filter = source.filter.clone().unwrap_or_else(default);
    let (events, mut receiver) = mpsc::channel(1);
    let (mut users, mut has_end) = (BTreeMap::new(), false);
    let attributes = rules.attributes();
    let driver = async move { connection.sweep(&source.base_dn, &filter, &attributes, &events).await };
    let consumer = async {
        while let Some(event) = receiver.recv().await {
            match event {
                Event::Upserts(batch) => {
                    for entry in batch {
                        let known = users.insert(entry.dn.clone(), map_entry(&entry, &rules));
                        assert!(known.is_none(), "{} came twice", entry.dn);
                    }
                }
                Event::EndRefresh(..) => has_end = true,
                other => panic!("a sweep does not tell {other:?}"),
            }
        }
    };
    let (swept, ()) = tokio::join!(driver, consumer);
    assert_eq!(has_end, swept.is_ok());
    Ok(Mapping { swept: swept?, users })
}

async fn sweep(source: &LdapSource) -> Mapping {
    try_sweep(source).await.unwrap()
}

fn texts(names: &[Name]) -> Vec<&str> {
    names.iter().map(Name::as_str).collect()
}

/// The only server's reason why it can't be used, with the whole text.
async fn refused(source: &LdapSource) -> (ServerProblem, String) {
    let error = Connection::open(source, 0).await.unwrap_err();
    let text = error.to_string();
    match error {
        DirectoryError::NoServer(mut servers) if servers.len() == 1 => (servers.remove(0).problem, text),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn people_are_mapped_by_the_rules_of_active_directory() {
    let addresses = "proxyAddresses: smtp:second@example.org\nproxyAddresses: SMTP:first@example.org\n\
                     proxyAddresses: x500:/o=Example\n\n";
    let data = people(0..2) + person(2).trim_end() + "\n" + addresses;
    let samba = SambaAd::start(Options { data, ..Options::default() });
    let source = source(&samba);
    let connection = Connection::open(&source, 0).await.unwrap();
    let server = connection.server();
    assert_eq!((server.preset, server.pages), (Preset::ActiveDirectory, true));
    assert!(server.vendor.starts_with("Samba Team (https://www.samba.org) 4."), "{}", server.vendor);
    connection.close().await;

    let mapping = sweep(&source).await;
    assert_eq!(mapping.users.len(), 3);
    for number in 0..3 {
        let user = mapping.user(&dn(number));
        assert_eq!(user.id.as_bytes(), samba.guid(&dn(number)));
        assert_eq!(user.id.as_bytes().len(), 16);
        let [login, principal] = ["example.org", "ad.example.org"].map(|at| format!("u{number}@{at}"));
        assert_eq!(texts(&user.logins), [login, principal]);
        assert_eq!(user.display_name.as_deref(), Some(format!("Person Number {number}").as_str()));
        assert_eq!((user.kind, user.enabled), (Kind::Person, true));
    }
    assert_eq!(texts(&mapping.user(&dn(1)).addresses), ["u1@example.org"]);
    let mut found = texts(&mapping.user(&dn(2)).addresses);
    assert_eq!(found[0], "first@example.org");
    found.sort_unstable();
    assert_eq!(found, ["first@example.org", "second@example.org", "u2@example.org"]);
}

#[tokio::test]
async fn the_accounts_of_the_system_are_left_out_by_default() {
    let samba = SambaAd::start(Options::default());
    let source = LdapSource { base_dn: Dn::parse(ROOT).unwrap(), ..source(&samba) };
    let mapping = sweep(&source).await;
    let enabled: BTreeMap<&str, bool> = mapping
        .users
        .values()
        .map(|user| user.as_ref().unwrap())
        .map(|user| (user.logins[0].as_str(), user.enabled))
        .collect();
    // Neither Administrator, Guest and krbtgt, nor a computer.
    assert_eq!(enabled, BTreeMap::from([("reader@example.org", true)]));
    // An administrator's own filter brings them back, the disabled as such.
    let filter = Filter::parse("(&(objectClass=user)(!(objectClass=computer)))").unwrap();
    let mapping = sweep(&LdapSource { filter: Some(filter), ..source }).await;
    let enabled = |login: &str| {
        let users = mapping.users.values().map(|user| user.as_ref().unwrap());
        let mut found = users.filter(|user| user.logins.iter().any(|name| name.as_str() == login));
        found.next().map(|user| user.enabled)
    };
    assert_eq!(enabled("administrator@example.org"), Some(true));
    assert_eq!(enabled("guest@example.org"), Some(false));
    assert_eq!(enabled("krbtgt@example.org"), Some(false));
    assert_eq!(enabled("dc1$@example.org"), None);
}

#[tokio::test]
async fn references_of_the_root_are_skipped_and_counted() {
    let samba = SambaAd::start(Options { data: people(0..3), ..Options::default() });
    let below = source(&samba);
    assert_eq!(sweep(&below).await.swept.references, 0);
    let root = LdapSource { base_dn: Dn::parse(ROOT).unwrap(), ..below };
    for page_size in [1000, 2] {
        let mapping = sweep(&LdapSource { page_size, ..root.clone() }).await;
        // To the configuration's naming context.
        assert!(mapping.swept.references >= 1, "{:?}", mapping.swept);
        assert!((0..3).all(|number| mapping.users.contains_key(&dn(number))));
        assert_eq!(mapping.users.len(), 3 + 1);
    }
}

#[tokio::test]
async fn a_wide_filter_finds_groups_contacts_and_what_is_no_user() {
    let data = format!(
        "dn: CN=Team,{PEOPLE}\nobjectClass: group\nsAMAccountName: team\n\n\
         dn: CN=List,{PEOPLE}\nobjectClass: group\nsAMAccountName: list\nmail: list@example.org\n\n\
         dn: CN=Outside,{PEOPLE}\nobjectClass: contact\nmail: outside@example.com\n\n\
         dn: CN=HOST,{PEOPLE}\nobjectClass: computer\nsAMAccountName: HOST$\nuserAccountControl: 4096\n\n\
         dn: OU=Unit,{PEOPLE}\nobjectClass: organizationalUnit\n\n"
    );
    let samba = SambaAd::start(Options { data: people(0..1) + &data, ..Options::default() });
    let filter = Filter::parse("(objectClass=*)").ok();
    let mapping = sweep(&LdapSource { filter, ..source(&samba) }).await;
    let kind = |name: &str| mapping.users[&format!("{name},{PEOPLE}")].as_ref().map(|user| user.kind);
    assert_eq!(kind("CN=Person 0"), Ok(Kind::Person));
    assert_eq!(kind("CN=Team"), Ok(Kind::Group));
    assert_eq!(kind("CN=List"), Ok(Kind::List));
    assert_eq!(kind("CN=Outside"), Ok(Kind::Contact));
    assert_eq!(kind("CN=HOST"), Err(&Skip::NotAUser));
    assert_eq!(kind("OU=Unit"), Err(&Skip::NotAUser));
    assert_eq!(mapping.users[PEOPLE], Err(Skip::NotAUser));
    assert_eq!(mapping.users.len(), 7);
}

#[tokio::test]
async fn disabling_renaming_and_moving_keep_the_id_and_deleting_removes() {
    let unit = format!("dn: OU=Sales,{PEOPLE}\nobjectClass: organizationalUnit\n\n");
    let samba = SambaAd::start(Options { data: unit + &people(0..3), ..Options::default() });
    let source = source(&samba);
    let before = sweep(&source).await;
    samba.disable(&dn(0));
    let renamed = format!("CN=Renamed,{PEOPLE}");
    samba.rename(&dn(1), "CN=Renamed");
    let sales = format!("OU=Sales,{PEOPLE}");
    samba.move_to(&renamed, &sales);
    samba.delete(&dn(2));
    let after = sweep(&source).await;
    assert_eq!(after.users.len(), 2);
    assert_eq!((before.user(&dn(0)).enabled, after.user(&dn(0)).enabled), (true, false));
    assert_eq!(after.user(&dn(0)).id, before.user(&dn(0)).id);
    assert_eq!(after.user(&format!("CN=Renamed,{sales}")).id, before.user(&dn(1)).id);

    samba.enable(&dn(0));
    samba.undelete("u2", &dn(2));
    let again = sweep(&source).await;
    assert!(again.user(&dn(0)).enabled);
    let returned = again.user(&dn(2));
    assert_eq!(returned.id, before.user(&dn(2)).id);
    // A tombstone keeps few attributes.
    assert_eq!((texts(&returned.logins), returned.addresses.len()), (vec!["u2@example.org"], 0));
}

#[tokio::test]
async fn more_than_a_thousand_people_come_in_pages() {
    let samba = SambaAd::start(Options { data: people(0..1100), ..Options::default() });
    for (page_size, pages) in [(1000, 2), (300, 4), (5000, 1)] {
        let mapping = sweep(&LdapSource { page_size, ..source(&samba) }).await;
        assert_eq!(mapping.users.len(), 1100);
        assert!((0..1100).all(|number| mapping.user(&dn(number)).enabled));
        assert_eq!(mapping.swept.pages, pages, "{page_size}");
    }
}

#[tokio::test]
async fn a_bind_needs_encryption_and_the_right_password() {
    let samba = SambaAd::start(Options { data: people(0..1), ..Options::default() });
    let plain = LdapSource { urls: vec![LdapUrl::parse(&samba.url()).unwrap()], ..source(&samba) };
    let (problem, text) = refused(&plain).await;
    assert!(matches!(problem, ServerProblem::Bind { .. }), "{text}");
    assert!(text.contains("Transport encryption required"), "{text}");
    let starttls = LdapSource { tls: Tls { starttls: true, ..source(&samba).tls }, ..plain };
    assert_eq!(sweep(&starttls).await.users.len(), 1);
    std::fs::write(samba.password_file(), "wrong\n").unwrap();
    let (problem, text) = refused(&source(&samba)).await;
    assert!(matches!(problem, ServerProblem::WrongPassword { .. }), "{text}");
}

#[tokio::test]
async fn the_certificate_that_samba_makes_itself_has_no_name_to_check() {
    let samba = SambaAd::start(Options { certificate_names: Vec::new(), ..Options::default() });
    let (problem, text) = refused(&source(&samba)).await;
    assert!(matches!(problem, ServerProblem::WrongName { .. }), "{text}");
}

#[tokio::test]
async fn a_server_that_hangs_or_dies_is_an_error_and_comes_back() {
    let mut samba = SambaAd::start(Options { data: people(0..3), ..Options::default() });
    let limit = Duration::from_millis(300);
    let hasty = LdapSource {
        timeouts: Timeouts { connect: limit, read: limit, ..Timeouts::default() },
        ..source(&samba)
    };
    samba.stop();
    let (problem, text) = refused(&hasty).await;
    assert!(matches!(problem, ServerProblem::ConnectTimeout(..)), "{text}");
    samba.resume();
    assert_eq!(sweep(&source(&samba)).await.users.len(), 3);
    samba.kill();
    let error = try_sweep(&source(&samba)).await.unwrap_err();
    assert!(matches!(error, DirectoryError::NoServer(_)), "{error}");
    samba.restart();
    assert_eq!(sweep(&source(&samba)).await.users.len(), 3);
}

#[test]
fn seats_follow_the_domain() {
    let samba = SambaAd::start(Options { data: people(0..4), ..Options::default() });
    let daemon = Daemon::start(Settings { seats: 2, tables: directory(&samba), ..Settings::default() });
    daemon.expect("u0", "granted");
    // The same person by another name.
    daemon.expect("u0@ad.example.org", "held");
    daemon.expect("U1@example.org", "granted");
    daemon.expect("u2", "exhausted");

    samba.disable(&dn(0));
    let report = daemon.sync("corp").unwrap();
    assert_eq!((&report["disabled"], &report["seats_released"]), (&1.into(), &1.into()), "{report}");
    daemon.expect("u0", "disabled");
    daemon.expect("u2", "granted");

    samba.rename(&dn(1), "CN=Renamed");
    assert_eq!(daemon.sync("corp").unwrap()["changed"], 1);
    daemon.expect("u1", "held");

    samba.delete(&dn(2));
    let report = daemon.sync("corp").unwrap();
    assert_eq!(report["removed"], 1, "{report}");
    daemon.expect("u2", "removed");
    daemon.verify();
}

#[test]
fn an_account_whose_state_is_hidden_stays_as_it_was() {
    let samba = SambaAd::start(Options { data: people(0..4), ..Options::default() });
    samba.disable(&dn(1));
    // Samba's DirSync reports what a search hides.
    let tables = directory(&samba).replace("poll_every", "sync = \"sweep\"\npoll_every");
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    daemon.expect("u0", "granted");
    daemon.expect("u1", "disabled");

    samba.add(&person(9));
    for number in [0, 1, 2, 9] {
        samba.hide_account_state(&dn(number));
    }
    samba.replace(&dn(1), "mail", "one@example.org");
    let report = daemon.sync_full("corp").unwrap();
    assert_eq!(report["skipped"]["no_account_state"], 1, "{report}");
    assert_eq!((&report["removed"], &report["held"]), (&0.into(), &serde_json::Value::Null), "{report}");
    daemon.expect("u0", "held");
    daemon.expect("one", "disabled");
    assert_eq!(daemon.probe("u2"), "granted");
    daemon.expect("u9", "unknown_user");
    let check = daemon.command(&["check", "--connect"]);
    let page = String::from_utf8_lossy(&check.stdout);
    let why = "4 would be skipped (no_account_state): no userAccountControl";
    assert!(page.contains(why) && page.contains("let the bind user read it"), "{page}");
    // Where the state can be read it counts.
    samba.disable(&dn(3));
    assert_eq!(daemon.sync_full("corp").unwrap()["disabled"], 1);
    daemon.expect("u3", "disabled");
    daemon.verify();
}

/// The directory `corp`, as an administrator writes it: without a preset and a filter.
fn directory(samba: &SambaAd) -> String {
    let (url, bind_dn, password) = (samba.ldaps_url(), samba.bind_dn(), samba.password_file());
    format!(
        "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [\"{url}\"]\n\
         base_dn = \"{PEOPLE}\"\nbind_dn = \"{bind_dn}\"\nbind_password_file = {password:?}\n\
         poll_every = \"1h\"\n[directory.ldap.tls]\nca_file = {:?}\n\
         [directory.ldap.brake]\nmax_removals_percent = 100\nmin_removals = 100\nmax_removals = 100\n",
        samba.ca_file()
    )
}
