//! The LDAP driver and the daemon against a real 389 Directory Server.

use std::collections::BTreeMap;
use std::time::Duration;

use seatkeeper::directory::{Connection, DirectoryError, Event, ServerProblem, Swept};
use seatkeeper::domain::course::Choice;
use seatkeeper::domain::directory::{Bind, LdapSource, LdapUrl, Lists, SimpleBind, Timeouts, Tls};
use seatkeeper::domain::ldap_text::{Dn, Filter};
use seatkeeper::domain::mapping::{Entry, Preset, Rules, Skip, map_entry};
use seatkeeper::domain::name::Domain;
use seatkeeper::domain::user::{Kind, Mapped};
use tokio::sync::mpsc;

use crate::support::daemon::{Daemon, Settings, directory};
use crate::support::ds389::{Ds389, Options, dn, people};
use crate::support::slapd::PEOPLE;

fn source(server: &Ds389) -> LdapSource {
    LdapSource {
        urls: vec![LdapUrl::parse(&server.url()).unwrap()],
        base_dn: Dn::parse(server.base_dn()).unwrap(),
        bind: Bind::Simple(SimpleBind {
            dn: Dn::parse(server.bind_dn()).unwrap(),
            password_file: server.password_file(),
        }),
        sync: Choice::Sweep,
        preset: None,
        filter: None,
        lists: Lists::Preset,
        required_group: None,
        tls: Tls::default(),
        timeouts: Timeouts::default(),
        page_size: 1000,
    }
}

/// How a sweep ended, the entries, and whether they were said to be all.
type Told = (Result<Swept, DirectoryError>, Vec<Entry>, bool);

/// Sweeps with the attributes and, unless another is given, the filter of the server's preset.
async fn sweep_with(source: &LdapSource, filter: Option<&str>) -> Told {
    let mut connection = Connection::open(source, 0).await.unwrap();
    let rules = rules(connection.server().preset);
    let filter = Filter::parse(filter.unwrap_or(rules.preset.default_filter())).unwrap();
    let attributes = rules.attributes();
    let (events, mut receiver) = mpsc::channel(1);
    let driver = async move { connection.sweep(&source.base_dn, &filter, &attributes, &events).await };
    let consumer = async {
        let (mut entries, mut has_end) = (Vec::new(), false);
        while let Some(event) = receiver.recv().await {
            assert!(!has_end, "nothing follows the end");
            match event {
                Event::Upserts(batch) => entries.extend(batch),
                Event::EndRefresh(..) => has_end = true,
                other => panic!("a sweep does not tell {other:?}"),
            }
        }
        (entries, has_end)
    };
    let (result, (entries, has_end)) = tokio::join!(driver, consumer);
    (result, entries, has_end)
}

fn rules(preset: Preset) -> Rules {
    Rules::new(preset, Domain::parse("example.org").unwrap())
}

/// What a complete sweep's entries map to, by DN.
#[track_caller]
fn mapped((result, entries, has_end): Told) -> BTreeMap<String, Result<Mapped, Skip>> {
    assert_eq!(result.unwrap().entries, entries.len() as u64);
    assert!(has_end);
    let rules = rules(Preset::Ds389);
    entries.into_iter().map(|entry| (entry.dn.clone(), map_entry(&entry, &rules))).collect()
}

#[track_caller]
fn error((result, _, has_end): (Result<Swept, DirectoryError>, Vec<Entry>, bool)) -> DirectoryError {
    assert!(!has_end, "{result:?}");
    result.unwrap_err()
}

/// The 16 bytes of an entry's nsUniqueId.
fn unique_id(server: &Ds389, dn: &str) -> Vec<u8> {
    let text = server.attribute(dn, "nsUniqueId").unwrap().replace('-', "");
    assert_eq!(text.len(), 32, "{text}");
    (0..16).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn people_are_mapped_by_the_id_that_a_rename_keeps() {
    let server = Ds389::start(Options { data: people(0..10), ..Options::default() });
    let source = source(&server);
    let connection = Connection::open(&source, 0).await.unwrap();
    assert_eq!((connection.server().preset, connection.server().pages), (Preset::Ds389, true));
    assert!(connection.server().vendor.contains("389"), "{}", connection.server().vendor);
    connection.close().await;

    let found = mapped(sweep_with(&LdapSource { page_size: 3, ..source.clone() }, None).await);
    assert_eq!(found.len(), 10);
    for number in 0..10 {
        let user = found[&dn(number)].as_ref().unwrap();
        assert_eq!(user.id.as_bytes(), unique_id(&server, &dn(number)));
        assert_eq!((user.kind, user.enabled), (Kind::Person, true));
        assert_eq!(user.primary(), format!("u{number}@example.org"));
        assert_eq!(user.display_name.as_deref(), Some(format!("Person {number}").as_str()));
    }

    let before = unique_id(&server, &dn(1));
    server.rename(&dn(1), "uid=renamed");
    let moved = format!("dn: {}\nchangetype: moddn\nnewrdn: uid=u2\ndeleteoldrdn: 0\n", dn(2));
    server.add(&format!("dn: ou=sales,{PEOPLE}\nobjectClass: organizationalUnit\nou: sales\n\n"));
    server.modify(&format!("{moved}newsuperior: ou=sales,{PEOPLE}\n"));
    let after = mapped(sweep_with(&source, None).await);
    assert_eq!(after.len(), 10);
    let renamed = after[&format!("uid=renamed,{PEOPLE}")].as_ref().unwrap();
    assert_eq!(renamed.id.as_bytes(), before);
    assert_eq!(renamed.logins[0].as_str(), "renamed@example.org");
    let moved = after[&format!("uid=u2,ou=sales,{PEOPLE}")].as_ref().unwrap();
    assert_eq!(moved.id, found[&dn(2)].as_ref().unwrap().id);
}

#[tokio::test]
async fn an_account_lock_disables_and_its_removal_enables() {
    let server = Ds389::start(Options { data: people(0..4), ..Options::default() });
    let source = source(&server);
    server.lock(&dn(1));
    // In any case of letters, and explicitly not locked.
    for (number, value) in [(2, "TRUE"), (3, "false")] {
        let change = "changetype: modify\nreplace: nsAccountLock\nnsAccountLock";
        server.modify(&format!("dn: {}\n{change}: {value}\n", dn(number)));
    }
    let found = mapped(sweep_with(&source, None).await);
    let enabled = [0, 1, 2, 3].map(|number| found[&dn(number)].as_ref().unwrap().enabled);
    assert_eq!(enabled, [true, false, false, true]);
    server.unlock(&dn(1));
    let found = mapped(sweep_with(&source, None).await);
    assert!(found[&dn(1)].as_ref().unwrap().enabled);
}

#[tokio::test]
async fn a_wide_filter_finds_more_than_people() {
    let data = people(0..1)
        + &format!(
            "dn: cn=team,{PEOPLE}\nobjectClass: groupOfNames\ncn: team\nmember: {member}\n\n\
             dn: cn=news,{PEOPLE}\nobjectClass: groupOfUniqueNames\nobjectClass: mailRecipient\ncn: news\n\
             uniqueMember: {member}\nuid: news\nmail: news@example.org\n\n\
             dn: cn=named,{PEOPLE}\nobjectClass: groupOfNames\nobjectClass: extensibleObject\ncn: named\n\
             uid: named\n\n\
             dn: cn=projector,{PEOPLE}\nobjectClass: device\nobjectClass: extensibleObject\ncn: projector\n\
             mail: projector@example.org\n\n\
             dn: ou=unit,{PEOPLE}\nobjectClass: organizationalUnit\nou: unit\n\n",
            member = dn(0)
        );
    let server = Ds389::start(Options { data, ..Options::default() });
    let found = mapped(sweep_with(&source(&server), Some("(objectClass=*)")).await);
    let kinds: Vec<(&str, Result<Kind, Skip>)> = found
        .iter()
        .map(|(dn, user)| {
            (dn.split(',').next().unwrap(), user.as_ref().map(|user| user.kind).map_err(|skip| *skip))
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("cn=named", Ok(Kind::Group)),
            ("cn=news", Ok(Kind::List)),
            ("cn=projector", Ok(Kind::Resource)),
            // Nobody can log in as it and no mail reaches it.
            ("cn=team", Err(Skip::NoName)),
            ("ou=people", Err(Skip::NotAUser)),
            ("ou=unit", Err(Skip::NotAUser)),
            ("uid=u0", Ok(Kind::Person)),
        ]
    );
}

#[tokio::test]
async fn limits_of_the_server_make_a_sweep_incomplete() {
    let server = Ds389::start(Options { data: people(0..30), limits: String::new(), ..Options::default() });
    let change =
        |what: &str| server.modify(&format!("dn: {}\nchangetype: modify\n{what}\n", server.bind_dn()));
    // Its size limits count each page by itself; the look-through limits count all candidates.
    for (limit, page_size, code) in [
        ("nsSizeLimit", 1000, Some(4)),
        ("nsSizeLimit", 7, None),
        ("nsPagedSizeLimit", 1000, Some(4)),
        ("nsLookThroughLimit", 7, Some(11)),
        ("nsPagedLookThroughLimit", 7, Some(11)),
    ] {
        change(&format!("add: {limit}\n{limit}: 10"));
        let swept = sweep_with(&LdapSource { page_size, ..source(&server) }, None).await;
        if let Some(expected) = code {
            let error = error(swept);
            assert!(
                matches!(error, DirectoryError::SizeLimit { code, .. } if code == expected),
                "{limit}: {error}"
            );
            assert!(error.to_string().contains("lift its size limits for the bind user"), "{error}");
        } else {
            assert_eq!(mapped(swept).len(), 30, "{limit}");
        }
        change(&format!("delete: {limit}"));
    }
    // It calls this a success, with pages.
    let base_dn = Dn::parse("ou=nobody,dc=example,dc=org").unwrap();
    let error = error(sweep_with(&LdapSource { base_dn, ..source(&server) }, None).await);
    assert!(matches!(error, DirectoryError::NoSuchBase { .. }), "{error}");
}

#[tokio::test]
async fn ldaps_and_starttls_work_with_a_private_authority() {
    let server = Ds389::start(Options { data: people(0..3), ..Options::default() });
    for (url, starttls) in [(server.ldaps_url(), false), (server.url(), true)] {
        let source = LdapSource {
            urls: vec![LdapUrl::parse(&url).unwrap()],
            tls: Tls { ca_file: Some(server.ca_file()), starttls, ..Tls::default() },
            ..source(&server)
        };
        assert_eq!(mapped(sweep_with(&source, None).await).len(), 3, "{url}");
        let tls = Tls { ca_file: Some(server.other_ca_file()), starttls, ..Tls::default() };
        let error = Connection::open(&LdapSource { tls, ..source }, 0).await.unwrap_err();
        let DirectoryError::NoServer(reasons) = &error else { panic!("{error:?}") };
        assert!(matches!(reasons[0].problem, ServerProblem::UnknownAuthority { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_crashes_is_an_error_and_forgets_nobody() {
    let mut server = Ds389::start(Options { data: people(0..10), ..Options::default() });
    let limit = Duration::from_millis(300);
    let timeouts = Timeouts { connect: limit, read: limit, ..Timeouts::default() };
    server.stop();
    let error = Connection::open(&LdapSource { timeouts, ..source(&server) }, 0).await.unwrap_err();
    let DirectoryError::NoServer(reasons) = &error else { panic!("{error:?}") };
    assert!(matches!(reasons[0].problem, ServerProblem::ConnectTimeout(..)), "{error}");
    server.resume();
    let before = mapped(sweep_with(&source(&server), None).await);
    server.kill();
    assert!(Connection::open(&source(&server), 0).await.is_err());
    server.restart();
    assert_eq!(mapped(sweep_with(&source(&server), None).await), before);
}

/// Content Synchronization works where it is asked for, and is not there where it isn't.
#[test]
fn content_synchronization_is_an_option() {
    const SYNC: &str = "1.3.6.1.4.1.4203.1.9.1.1";
    let server = Ds389::start(Options { data: people(0..10), content_sync: true, ..Options::default() });
    assert_eq!(server.attribute("", "firstChangeNumber").as_deref(), Some("1"));
    assert!(server.controls().contains(SYNC));
    let first = server.content_sync(None);
    assert_eq!(first.matches("\ndn: uid=").count(), 10, "{first}");
    assert!(first.contains("SyncDone control refreshDeletes=0"), "{first}");

    let cookie = first.lines().find_map(|line| line.strip_prefix("# cookie: ")).unwrap();
    server.lock(&dn(1));
    server.delete(&dn(2));
    let deleted = unique_id_text(&first, &dn(2));
    let delta = server.content_sync(Some(cookie));
    // A changed entry comes with all of its own attributes and none of the operational ones, whatever was
    // asked for.
    assert!(delta.contains(&format!("\ndn: {}\n", dn(1))) && !delta.contains("nsAccountLock:"), "{delta}");
    assert!(
        delta.contains(&format!("following UUIDs no longer match the search\n# syncUUIDs:\n#\t{deleted}")),
        "{delta}"
    );

    let server = Ds389::start(Options::default());
    assert_eq!(server.attribute("", "firstChangeNumber"), None);
    assert!(!server.controls().contains(SYNC));
}

/// The entryUUID that ldapsearch(1) shows in an entry's sync state.
fn unique_id_text<'a>(text: &'a str, dn: &str) -> &'a str {
    let entry = text.split_once(&format!("\ndn: {dn}\n")).unwrap().1;
    entry.split_once("UUID ").unwrap().1.split_once(' ').unwrap().0
}

#[test]
fn a_lock_releases_the_seat_and_a_deletion_leaves_a_tombstone() {
    let server = Ds389::start(Options { data: people(0..10), ..Options::default() });
    let (url, base, bind_dn, password) =
        (server.url(), server.base_dn(), server.bind_dn(), server.password_file());
    let tables = format!(
        "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [{url:?}]\nbase_dn = \"{base}\"\n\
         bind_dn = \"{bind_dn}\"\nbind_password_file = {password:?}\npoll_every = \"1h\"\nsync = \"syncrepl\"\n"
    );
    let daemon = Daemon::start(Settings { seats: 2, tables, ..Settings::default() });
    // It has no plugin for what it is asked.
    assert_eq!(directory(&daemon.status(), "corp")["mechanism_reason"], "the server does not offer syncrepl");
    daemon.expect("u1", "granted");
    daemon.expect("u2@example.org", "granted");
    daemon.expect("u3", "exhausted");

    server.lock(&dn(1));
    let report = daemon.sync("corp").unwrap();
    assert_eq!((&report["disabled"], &report["seats_released"]), (&1.into(), &1.into()), "{report}");
    daemon.expect("u1", "disabled");
    daemon.expect("u3", "granted");

    let id = server.attribute(&dn(2), "nsUniqueId").unwrap().replace('-', "");
    server.delete(&dn(2));
    let report = daemon.sync("corp").unwrap();
    assert_eq!(report["removed"], 1, "{report}");
    daemon.expect("u2", "removed");
    let tombstone = daemon.explain("u2");
    assert!(tombstone["removed_at"].is_string() && tombstone["forgotten_at"].is_string(), "{tombstone}");
    assert_eq!(tombstone["id"].as_str().unwrap().replace('-', ""), id);
    daemon.verify();
}
