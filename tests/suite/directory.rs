//! The LDAP driver against a real OpenLDAP.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use seatkeeper::directory::{Connection, DirectoryError, Event, ServerProblem, Swept};
use seatkeeper::domain::course::Choice;
use seatkeeper::domain::directory::{Bind, LdapSource, LdapUrl, Lists, SimpleBind, Timeouts, Tls};
use seatkeeper::domain::ldap_text::{Dn, Filter};
use seatkeeper::domain::mapping::{Entry, Preset};
use tokio::sync::mpsc;

use crate::support::free_port;
use crate::support::slapd::{Options, PEOPLE, Slapd, entry_uuid, people};

const ATTRIBUTES: [&str; 5] = ["objectClass", "entryUUID", "uid", "mail", "cn"];

fn source(slapd: &Slapd) -> LdapSource {
    LdapSource {
        urls: vec![LdapUrl::parse(&slapd.url()).unwrap()],
        base_dn: Dn::parse(PEOPLE).unwrap(),
        bind: Bind::Simple(SimpleBind {
            dn: Dn::parse(slapd.bind_dn()).unwrap(),
            password_file: slapd.password_file(),
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

/// What one sweep told.
#[derive(Debug)]
struct Told {
    result: Result<Swept, DirectoryError>,
    entries: Vec<Entry>,
    has_end: bool,
}

impl Told {
    /// Checks that nothing was said to be complete, and returns the error.
    #[track_caller]
    fn error(self) -> DirectoryError {
        assert!(!self.has_end, "{:?}", self.result);
        self.result.unwrap_err()
    }

    #[track_caller]
    fn complete(self) -> Vec<Entry> {
        let swept = self.result.unwrap();
        assert!(self.has_end);
        assert_eq!(swept.entries, self.entries.len() as u64);
        self.entries
    }
}

async fn sweep(source: &LdapSource) -> Told {
    let mut connection = Connection::open(source, 0).await.unwrap();
    sweep_on(&mut connection, source, |_| ()).await
}

/// Sweeps and calls `meanwhile` after each event, with their number so far, before the next one is taken.
async fn sweep_on(
    connection: &mut Connection,
    source: &LdapSource,
    mut meanwhile: impl FnMut(usize),
) -> Told {
    let (events, mut receiver) = mpsc::channel(1);
    let filter = Filter::parse("(objectClass=inetOrgPerson)").unwrap();
    let (mut entries, mut has_end, mut count) = (Vec::new(), false, 0);
    let driver = async move { connection.sweep(&source.base_dn, &filter, &ATTRIBUTES, &events).await };
    let consumer = async {
        while let Some(event) = receiver.recv().await {
            assert!(!has_end, "nothing follows the end");
            match event {
                Event::Upserts(batch) => {
                    assert!(!batch.is_empty() && batch.len() <= 500, "{}", batch.len());
                    entries.extend(batch);
                }
                Event::EndRefresh(..) => has_end = true,
                other => panic!("a sweep does not tell {other:?}"),
            }
            count += 1;
            meanwhile(count);
        }
    };
    let (result, ()) = tokio::join!(driver, consumer);
    Told { result, entries, has_end }
}

fn values(entry: &Entry, name: &str) -> Vec<String> {
    let found = entry.attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(name));
    let values = found.map(|attribute| attribute.values.clone()).unwrap_or_default();
    values.into_iter().map(|value| String::from_utf8(value).unwrap()).collect()
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
async fn a_sweep_tells_everybody_once() {
    let slapd = Slapd::start(Options { data: people(0..2500), ..Options::default() });
    for (page_size, pages) in [(100, 25), (1000, 3), (2500, 1), (5000, 1)] {
        let source = LdapSource { page_size, ..source(&slapd) };
        let told = sweep(&source).await;
        let swept = *told.result.as_ref().unwrap();
        // A full last page may be followed by an empty one.
        assert!(swept.pages == pages || swept.pages == pages + 1, "{swept:?}");
        let found: BTreeMap<String, Entry> =
            told.complete().into_iter().map(|entry| (entry.dn.clone(), entry)).collect();
        assert_eq!(found.len(), 2500);
        for number in 0..2500 {
            let entry = &found[&format!("uid=u{number},{PEOPLE}")];
            assert_eq!(values(entry, "entryUUID"), [entry_uuid(number)]);
            assert_eq!(values(entry, "mail"), [format!("u{number}@example.org")]);
            assert_eq!(values(entry, "cn"), [format!("Person {number}")]);
            assert_eq!(values(entry, "sn"), [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_connection_sweeps_again_and_sees_what_changed() {
    let slapd = Slapd::start(Options { data: people(0..5), ..Options::default() });
    let source = source(&slapd);
    let mut connection = Connection::open(&source, 0).await.unwrap();
    assert_eq!(sweep_on(&mut connection, &source, |_| ()).await.complete().len(), 5);
    slapd.add(&people(5..6));
    slapd.delete(&format!("uid=u0,{PEOPLE}"));
    slapd.rename(&format!("uid=u1,{PEOPLE}"), "uid=renamed");
    slapd.modify(&format!("dn: uid=u2,{PEOPLE}\nchangetype: modify\nadd: mail\nmail: second@example.org\n"));
    let entries = sweep_on(&mut connection, &source, |_| ()).await.complete();
    let by_id = |number| entries.iter().find(|entry| values(entry, "entryUUID") == [entry_uuid(number)]);
    assert_eq!(entries.len(), 5);
    assert!(by_id(0).is_none());
    assert_eq!(by_id(1).unwrap().dn, format!("uid=renamed,{PEOPLE}"));
    assert_eq!(values(by_id(2).unwrap(), "mail"), ["u2@example.org", "second@example.org"]);
    assert_eq!(values(by_id(5).unwrap(), "uid"), ["u5"]);
    connection.close().await;
}

#[tokio::test]
async fn values_come_as_bytes() {
    let data = format!(
        "dn: uid=b,{PEOPLE}\nobjectClass: inetOrgPerson\nuid: b\ncn: J\u{f6}rg\nsn: b\njpegPhoto:: /9j/AP8=\n\n"
    );
    let slapd = Slapd::start(Options { data, ..Options::default() });
    let source = source(&slapd);
    let mut connection = Connection::open(&source, 0).await.unwrap();
    let (events, mut receiver) = mpsc::channel(10);
    let filter = Filter::parse("(cn=J\u{f6}rg)").unwrap();
    connection.sweep(&source.base_dn, &filter, &["jpegPhoto", "cn"], &events).await.unwrap();
    let Some(Event::Upserts(entries)) = receiver.recv().await else { panic!("no entry") };
    let photo = entries[0].attributes.iter().find(|attribute| attribute.name == "jpegPhoto").unwrap();
    assert_eq!(photo.values, [b"\xff\xd8\xff\x00\xff"]);
    assert_eq!(values(&entries[0], "cn"), ["J\u{f6}rg"]);
}

#[tokio::test]
async fn the_server_is_recognised() {
    let slapd = Slapd::start(Options::default());
    let connection = Connection::open(&source(&slapd), 0).await.unwrap();
    let server = connection.server();
    assert_eq!((server.preset, server.vendor.as_str(), server.pages), (Preset::OpenLdap, "OpenLDAP", true));
    let source = LdapSource { preset: Some(Preset::FreeIpa), ..source(&slapd) };
    let connection = Connection::open(&source, 0).await.unwrap();
    assert_eq!(connection.server().preset, Preset::FreeIpa);
}

#[tokio::test]
async fn limits_of_the_server_make_a_sweep_incomplete() {
    for limits in ["size=10", "size.soft=10 size.hard=10 size.prtotal=10", "size.prtotal=1500"] {
        let options = Options { data: people(0..2000), limits: limits.to_owned(), ..Options::default() };
        let slapd = Slapd::start(options);
        let error = sweep(&source(&slapd)).await.error();
        assert!(matches!(error, DirectoryError::SizeLimit { .. }), "{limits}: {error}");
        assert!(error.to_string().contains("lift its size limits for the bind user"), "{error}");
    }
    // A page larger than the server grants is cut to what it grants, and the sweep is complete.
    let limits = "size.soft=unlimited size.hard=unlimited size.pr=100".to_owned();
    let slapd = Slapd::start(Options { data: people(0..2000), limits, ..Options::default() });
    let told = sweep(&source(&slapd)).await;
    match &told.result {
        Ok(_) => assert_eq!(told.complete().len(), 2000),
        Err(_) => assert!(matches!(told.error(), DirectoryError::SizeLimit { .. })),
    }
}

#[tokio::test]
async fn an_access_rule_that_hides_the_base_is_an_error() {
    let hidden = |rules: &str| Options {
        data: people(0..10),
        access: format!("access to attrs=userPassword by anonymous auth\n{rules}\n"),
        ..Options::default()
    };
    // Everything hidden: the base does not exist for the bind user.
    let slapd = Slapd::start(hidden("access to * by * none"));
    let error = sweep(&source(&slapd)).await.error();
    assert!(matches!(error, DirectoryError::NoSuchBase { .. }), "{error}");
    // Only the people hidden: for the protocol this is a complete answer, which the brake is for.
    let slapd =
        Slapd::start(hidden(&format!("access to dn.children=\"{PEOPLE}\" by * none\naccess to * by * read")));
    assert_eq!(sweep(&source(&slapd)).await.complete(), []);
}

#[tokio::test]
async fn an_empty_base_is_complete_and_a_missing_one_is_an_error() {
    let slapd = Slapd::start(Options { data: people(0..10), ..Options::default() });
    let source = source(&slapd);
    for number in 0..10 {
        slapd.delete(&format!("uid=u{number},{PEOPLE}"));
    }
    assert_eq!(sweep(&source).await.complete(), []);
    slapd.delete(PEOPLE);
    let error = sweep(&source).await.error();
    assert!(matches!(error, DirectoryError::NoSuchBase { .. }), "{error}");
    assert!(error.to_string().contains(PEOPLE), "{error}");
}

#[tokio::test]
async fn continuation_references_are_skipped_and_a_referral_is_an_error() {
    let reference = "dn: ou=elsewhere,ou=people,dc=example,dc=org\nobjectClass: referral\n\
                     objectClass: extensibleObject\nou: elsewhere\nref: ldap://other.example.org/dc=x\n\n";
    let slapd = Slapd::start(Options { data: people(0..3) + reference, ..Options::default() });
    let told = sweep(&source(&slapd)).await;
    assert_eq!(told.result.as_ref().unwrap().references, 1);
    assert_eq!(told.complete().len(), 3);
    let base_dn = Dn::parse("ou=elsewhere,ou=people,dc=example,dc=org").unwrap();
    let error = sweep(&LdapSource { base_dn, ..source(&slapd) }).await.error();
    assert!(matches!(error, DirectoryError::Referral { .. }), "{error}");
    assert!(error.to_string().contains("ldap://other.example.org/"), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_during_a_sweep_is_an_error() {
    // More than the kernel buffers of a connection, which hold some 10 MB, so that it can't all have been sent.
    let name = format!("\nsn: Person\ndisplayName: {}\n", "x".repeat(1000));
    let data = people(0..20_000).replace("\nsn: Person\n", &name);
    for page_size in [500, 20_000] {
        let mut slapd = Slapd::start(Options { data: data.clone(), ..Options::default() });
        let source = LdapSource { page_size, ..source(&slapd) };
        let mut connection = Connection::open(&source, 0).await.unwrap();
        let told = sweep_on(&mut connection, &source, |count| {
            if count == 1 {
                slapd.stop();
                slapd.kill();
            }
        })
        .await;
        assert!(!told.entries.is_empty() && told.entries.len() < 20_000, "{}", told.entries.len());
        let error = told.error();
        assert!(matches!(error, DirectoryError::Lost { .. }), "{error}");
        // The connection is of no use any more, and says so.
        let error = sweep_on(&mut connection, &source, |_| ()).await.error();
        assert!(matches!(error, DirectoryError::Lost { problem: ServerProblem::Unusable, .. }), "{error}");
        slapd.restart();
        assert_eq!(sweep(&source).await.complete().len(), 20_000);
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_an_error_within_the_deadline() {
    let slapd = Slapd::start(Options { data: people(0..10), ..Options::default() });
    let limit = Duration::from_millis(300);
    let timeouts = Timeouts { connect: limit, read: limit, ..Timeouts::default() };
    let source = LdapSource { timeouts, ..source(&slapd) };
    let mut connection = {
        let patient =
            LdapSource { timeouts: Timeouts { read: limit, ..Timeouts::default() }, ..source.clone() };
        Connection::open(&patient, 0).await.unwrap()
    };
    slapd.stop();
    let start = Instant::now();
    let error = sweep_on(&mut connection, &source, |_| ()).await.error();
    assert!(matches!(error, DirectoryError::Lost { problem: ServerProblem::Silent(_), .. }), "{error}");
    // The kernel accepts the connection, and nobody answers the bind.
    let (problem, text) = refused(&source).await;
    assert!(matches!(problem, ServerProblem::ConnectTimeout(..)), "{text}");
    assert!(text.contains("no answer within 300ms to the bind"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_sweep_has_an_overall_deadline() {
    let slapd = Slapd::start(Options { data: people(0..2000), ..Options::default() });
    let timeouts = Timeouts { sweep: Duration::from_millis(300), ..Timeouts::default() };
    let source = LdapSource { timeouts, ..source(&slapd) };
    let mut connection = Connection::open(&source, 0).await.unwrap();
    // Nobody takes the events.
    let (events, _receiver) = mpsc::channel(1);
    let filter = Filter::parse("(objectClass=*)").unwrap();
    let error = connection.sweep(&source.base_dn, &filter, &ATTRIBUTES, &events).await.unwrap_err();
    assert!(matches!(error, DirectoryError::SweepTimeout { .. }), "{error}");
}

#[tokio::test]
async fn a_consumer_that_leaves_ends_the_sweep() {
    let slapd = Slapd::start(Options { data: people(0..2000), ..Options::default() });
    let source = source(&slapd);
    let mut connection = Connection::open(&source, 0).await.unwrap();
    let (events, receiver) = mpsc::channel(1);
    drop(receiver);
    let filter = Filter::parse("(objectClass=*)").unwrap();
    let error = connection.sweep(&source.base_dn, &filter, &ATTRIBUTES, &events).await.unwrap_err();
    assert!(matches!(error, DirectoryError::Abandoned), "{error}");
}

#[tokio::test]
async fn ldaps_and_starttls_work_with_a_private_authority() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    for (url, starttls) in [(slapd.ldaps_url(), false), (slapd.ldaps_url(), true), (slapd.url(), true)] {
        let source = LdapSource {
            urls: vec![LdapUrl::parse(&url).unwrap()],
            tls: Tls { ca_file: Some(slapd.ca_file()), starttls, ..Tls::default() },
            ..source(&slapd)
        };
        assert_eq!(sweep(&source).await.complete().len(), 3, "{url}");
    }
}

#[tokio::test]
async fn an_unknown_authority_is_refused_and_named() {
    let slapd = Slapd::start(Options::default());
    for (url, starttls) in [(slapd.ldaps_url(), false), (slapd.url(), true)] {
        let urls = vec![LdapUrl::parse(&url).unwrap()];
        let tls = Tls { ca_file: Some(slapd.other_ca_file()), starttls, ..Tls::default() };
        let (problem, text) = refused(&LdapSource { urls: urls.clone(), tls, ..source(&slapd) }).await;
        assert!(matches!(problem, ServerProblem::UnknownAuthority { .. }), "{text}");
        let ca_file = format!("in ca_file {}", slapd.other_ca_file().display());
        assert!(text.contains(&url) && text.ends_with(&ca_file), "{text}");
    }
    for (content, why) in [("", "no certificate"), ("-----BEGIN CERTIFICATE-----\n!", "not PEM")] {
        std::fs::write(slapd.other_ca_file(), content).unwrap();
        let tls = Tls { ca_file: Some(slapd.other_ca_file()), starttls: true, ..Tls::default() };
        let error = Connection::open(&LdapSource { tls, ..source(&slapd) }, 0).await.unwrap_err();
        assert!(matches!(error, DirectoryError::CaFile { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn another_hosts_certificate_is_refused_and_its_names_are_shown() {
    let names = ["ldap.example.org", "*.example.net", "192.0.2.1"];
    let certificate_names = names.map(str::to_owned).to_vec();
    let slapd = Slapd::start(Options { certificate_names, ..Options::default() });
    for (url, starttls) in [(slapd.ldaps_url(), false), (slapd.url(), true)] {
        let urls = vec![LdapUrl::parse(&url).unwrap()];
        let tls = Tls { ca_file: Some(slapd.ca_file()), starttls, ..Tls::default() };
        let (problem, text) = refused(&LdapSource { urls, tls, ..source(&slapd) }).await;
        assert!(matches!(problem, ServerProblem::WrongName { .. }), "{text}");
        let wanted = "is for ldap.example.org, *.example.net, 192.0.2.1 and not for 127.0.0.1";
        assert!(text.contains(wanted), "{text}");
    }
}

/// The server's TLS port on `[::1]`, for one connection; nothing where the kernel has no IPv6.
fn on_ipv6(slapd: &Slapd) -> Option<LdapUrl> {
    let server = slapd.ldaps_url().replace("ldaps://", "");
    let listener = TcpListener::bind("[::1]:0").ok()?;
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut near, _) = listener.accept().unwrap();
        let mut far = TcpStream::connect(server).unwrap();
        let (mut near_end, mut far_end) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut near_end, &mut far_end));
        let _ = std::io::copy(&mut far, &mut near);
    });
    Some(LdapUrl::parse(&format!("ldaps://[::1]:{port}")).unwrap())
}

#[tokio::test]
async fn a_certificate_for_an_ipv6_address_is_checked_for_it() {
    for (name, is_right) in [("::1", true), ("::2", false)] {
        let certificate_names = vec![name.to_owned()];
        let slapd = Slapd::start(Options { certificate_names, ..Options::default() });
        let Some(url) = on_ipv6(&slapd) else { return };
        let tls = Tls { ca_file: Some(slapd.ca_file()), starttls: false, ..Tls::default() };
        let source = LdapSource { urls: vec![url], tls, ..source(&slapd) };
        if is_right {
            assert!(Connection::open(&source, 0).await.is_ok());
        } else {
            let (problem, text) = refused(&source).await;
            assert!(matches!(problem, ServerProblem::WrongName { .. }), "{name}: {text}");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_says_where_to_look_and_is_not_shown() {
    let slapd = Slapd::start(Options::default());
    let source = source(&slapd);
    std::fs::write(slapd.password_file(), "not-the-password\n").unwrap();
    let (problem, text) = refused(&source).await;
    assert!(matches!(problem, ServerProblem::WrongPassword { .. }), "{text}");
    assert!(text.contains(slapd.bind_dn()), "{text}");
    assert!(text.contains(&slapd.password_file().display().to_string()), "{text}");
    assert!(!text.contains("not-the-password"), "{text}");
    assert!(!format!("{problem:?}").contains("not-the-password"));
    for empty in ["", "\n"] {
        std::fs::write(slapd.password_file(), empty).unwrap();
        let error = Connection::open(&source, 0).await.unwrap_err();
        assert!(matches!(error, DirectoryError::EmptyPassword { .. }), "{error}");
    }
    std::fs::remove_file(slapd.password_file()).unwrap();
    let error = Connection::open(&source, 0).await.unwrap_err();
    assert!(matches!(error, DirectoryError::PasswordFile { .. }), "{error}");
}

#[tokio::test]
async fn an_anonymous_bind_reads_what_everybody_may() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    let source = LdapSource { bind: Bind::Anonymous, ..source(&slapd) };
    assert_eq!(sweep(&source).await.complete().len(), 3);
}

#[tokio::test]
async fn servers_are_tried_in_their_order_from_the_given_one() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    // A port where nothing listens, and a name that never resolves (RFC 6761 section 6.4).
    let port = free_port();
    let dead = LdapUrl::parse(&format!("ldap://127.0.0.1:{port}")).unwrap();
    let nowhere = LdapUrl::parse("ldap://nowhere.invalid").unwrap();
    let alive = LdapUrl::parse(&slapd.url()).unwrap();
    let urls = vec![dead.clone(), alive.clone(), nowhere.clone()];
    let working = LdapSource { urls, ..source(&slapd) };
    for first in 0..4 {
        let connection = Connection::open(&working, first).await.unwrap();
        assert_eq!((connection.url_index(), connection.url()), (1, &alive), "{first}");
    }
    let error = Connection::open(&LdapSource { urls: vec![dead, nowhere], ..working }, 0).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("ldap://127.0.0.1:{port}: cannot connect to 127.0.0.1:{port}")), "{text}");
    assert!(text.contains("ldap://nowhere.invalid:389: the host name cannot be resolved"), "{text}");
}
