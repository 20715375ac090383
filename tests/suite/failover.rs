//! Several servers with the same data, and one of them fails: the next one is used, and nobody is lost.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::daemon::{Daemon, Settings, directory, ldap_directory, no_brake};
use crate::support::network::Network;
use crate::support::slapd::{BIND_DN, BIND_PASSWORD, Options, PEOPLE, SUFFIX, Slapd, people, person};
use crate::support::wait_for;

/// What the daemon promises.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// What a loaded machine may add to it.
pub(crate) const LEEWAY: Duration = Duration::from_secs(5);

fn provider() -> Options {
    Options {
        data: people(0..20),
        global: "moduleload syncprov\n".to_owned(),
        database: "overlay syncprov\nsyncprov-sessionlog 1000\n".to_owned(),
        ..Options::default()
    }
}

/// The same with a replica of another server, which is read all the time.
fn replica(number: u32, of: &Slapd) -> Options {
    let consumer = format!(
        "syncrepl rid={number:03} provider={} type=refreshAndPersist retry=\"1 +\" searchbase=\"{SUFFIX}\" \
         bindmethod=simple binddn=\"{BIND_DN}\" credentials={BIND_PASSWORD}\nmultiprovider on\n",
        of.url()
    );
    let options = provider();
    Options {
        global: format!("serverID {number}\n{}", options.global),
        database: consumer + &options.database,
        // A replica needs to read what the others write.
        access: "access to attrs=userPassword by anonymous auth by dn.exact=\"BIND\" read\n\
                 access to * by * read\n"
            .replace("BIND", BIND_DN),
        ..options
    }
}

/// Two providers that replicate each other.
fn mirrors() -> [Slapd; 2] {
    let (mut first, mut second) = (Slapd::start(provider()), Slapd::start(provider()));
    second.copy(&mut first);
    first.reconfigure(&replica(1, &second));
    second.reconfigure(&replica(2, &first));
    [first, second]
}

fn following(slapd: &Slapd, urls: &[String]) -> Daemon {
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let tables = ldap_directory(slapd, &urls, &no_brake("ldap"));
    let daemon = Daemon::start(Settings { seats: 9, tables, ..Settings::default() });
    follows(&daemon, urls[0]);
    daemon.expect("u1", "granted");
    daemon
}

#[track_caller]
fn follows(daemon: &Daemon, url: &str) -> Value {
    daemon.wait_for(&format!("changes to come from {url}"), |status| {
        let corp = directory(status, "corp");
        corp["state"] == "following" && corp["url"].as_str().is_some_and(|now| url.starts_with(now))
    })
}

fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| status["users"]["total"] == count);
}

/// Nobody was ever taken for gone.
#[track_caller]
fn nobody_was_lost(daemon: &Daemon) {
    daemon.expect("u1", "held");
    daemon.agrees();
    let log = daemon.log();
    assert!(!log.contains("event=user_removed") && !log.contains("event=user_disabled"), "{log}");
}

#[test]
fn a_killed_server_is_replaced_by_its_mirror() {
    let [mut first, mut second] = mirrors();
    let daemon = following(&first, &[first.url(), second.url()]);
    first.add(&person(100));
    users(&daemon, 21);
    wait_for("the mirror", || second.search(PEOPLE, "(uid=u100)", &["uid"]).contains("u100").then_some(()));

    let killed = Instant::now();
    first.kill();
    follows(&daemon, &second.url());
    assert!(killed.elapsed() < NOTICED_WITHIN, "{:?}", killed.elapsed());
    second.add(&person(101));
    users(&daemon, 22);
    nobody_was_lost(&daemon);

    // The first one is back, and what works is not left for it.
    first.restart();
    wait_for("the mirror", || first.search(PEOPLE, "(uid=u101)", &["uid"]).contains("u101").then_some(()));
    first.add(&person(102));
    users(&daemon, 23);
    daemon.sync("corp").unwrap();
    follows(&daemon, &second.url());
    nobody_was_lost(&daemon);

    second.kill();
    follows(&daemon, &first.url());
    first.add(&person(103));
    users(&daemon, 24);
    nobody_was_lost(&daemon);

    // All are down, and one comes back.
    first.kill();
    daemon.wait_for("no server", |status| {
        let corp = directory(status, "corp");
        corp["state"] == "backoff" && corp["last_error"].as_str().unwrap_or_default().contains("no server")
    });
    daemon.expect("u1", "held");
    daemon.expect("u103", "granted");
    first.restart();
    follows(&daemon, &first.url());
    users(&daemon, 24);
    daemon.expect("u103", "held");
    nobody_was_lost(&daemon);
}

/// A cookie of one server means nothing to another, even where they look alike.
#[test]
fn a_cookie_does_not_travel() {
    let (mut first, second) = (Slapd::start(provider()), Slapd::start(provider()));
    let mut daemon = following(&first, &[first.url(), second.url()]);
    daemon.terminate();
    first.kill();
    daemon.restart();
    follows(&daemon, &second.url());
    let line = daemon.wait_for_log(&["event=sync_completed"]);
    assert!(line.contains("seen=20 "), "{line}");
    nobody_was_lost(&daemon);
}

#[test]
fn a_hung_server_is_replaced_in_time() {
    let [first, second] = mirrors();
    let daemon = following(&first, &[first.url(), second.url()]);
    let hung = Instant::now();
    first.stop();
    follows(&daemon, &second.url());
    assert!(hung.elapsed() < NOTICED_WITHIN + LEEWAY, "{:?}", hung.elapsed());
    second.add(&person(100));
    users(&daemon, 21);
    nobody_was_lost(&daemon);
    first.resume();
}

/// Half-open: the server is gone without a word, as behind a broken switch.
#[test]
fn a_server_whose_packets_are_lost_is_replaced_in_time() {
    let network = Network::enter();
    let (first, second) = (Slapd::start(provider()), Slapd::start(provider()));
    let daemon = following(&first, &[first.url(), second.url()]);
    let lost = Instant::now();
    network.lose_packets_to(first.port());
    follows(&daemon, &second.url());
    assert!(lost.elapsed() < NOTICED_WITHIN + LEEWAY, "{:?}", lost.elapsed());
    second.add(&person(100));
    users(&daemon, 21);
    nobody_was_lost(&daemon);
}

/// The same in the middle of a sweep, which has its own deadline.
#[test]
fn a_server_that_hangs_while_it_is_swept_is_replaced_in_time() {
    let [first, second] =
        [(); 2].map(|()| Slapd::start(Options { data: people(0..20), ..Options::default() }));
    let keys = "timeouts.read = \"2s\"\ntimeouts.connect = \"2s\"\n".to_owned() + &no_brake("ldap");
    let tables = ldap_directory(&first, &[&first.url(), &second.url()], &keys).replace("\"1h\"", "\"1s\"");
    let daemon = Daemon::start(Settings { seats: 9, tables, ..Settings::default() });
    daemon.expect("u1", "granted");
    first.stop();
    second.add(&person(100));
    users(&daemon, 21);
    nobody_was_lost(&daemon);
    first.resume();
}
