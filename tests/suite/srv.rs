//! Servers that a real DNS server lists, in a network of the test's own.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::daemon::{Daemon, Settings, directory, ldap_directory, no_brake};
use crate::support::dns::Dns;
use crate::support::network::Network;
use crate::support::slapd::{Options, Slapd, people};

/// A server with a certificate for its name in the DNS.
fn server(name: &str) -> Slapd {
    let certificate_names = vec![format!("{name}.example.org")];
    Slapd::start(Options { data: people(0..3), certificate_names, ..Options::default() })
}

/// The daemon at some urls, with the test's DNS, swept every second.
fn settings(slapd: &Slapd, urls: &[&str], keys: &str) -> (TempDir, Settings) {
    let dir = tempfile::tempdir().unwrap();
    let resolv_conf = dir.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolv_conf.display());
    let wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let keys = format!("timeouts.connect = \"2s\"\n{}{keys}", no_brake("ldap"));
    let tables = ldap_directory(slapd, urls, &keys).replace("\"1h\"", "\"1s\"");
    (dir, Settings { tables, wrapper, ..Settings::default() })
}

fn record(service: &str, name: &str, port: u16, priority: u16) -> String {
    format!("srv-host={service}._tcp.example.org,{name}.example.org,{port},{priority},10")
}

fn host(name: &str) -> String {
    format!("host-record={name}.example.org,127.0.0.1")
}

#[track_caller]
fn uses(daemon: &Daemon, url: &str) {
    daemon.wait_for(url, |status| {
        let corp = directory(status, "corp");
        corp["url"] == url && corp["state"] == "idle" && corp["last_error"].is_null()
    });
}

#[track_caller]
fn fails_with(daemon: &Daemon, error: &str) -> Value {
    daemon.wait_for(error, |status| {
        directory(status, "corp")["last_error"].as_str().is_some_and(|text| text.contains(error))
    })
}

#[test]
fn the_dns_lists_the_servers() {
    let _network = Network::enter();
    let (mut first, second) = (server("dc1"), server("dc2"));
    let hosts = [host("dc1"), host("dc2")];
    let (first_port, second_port) = (first.port(), second.port());
    let both = |one: u16, two: u16| {
        let records = [record("_ldap", "dc1", first_port, one), record("_ldap", "dc2", second_port, two)];
        [&records[..], &hosts].concat()
    };
    let (first_url, second_url) = (
        format!("ldap://dc1.example.org:{}", first.port()),
        format!("ldap://dc2.example.org:{}", second.port()),
    );
    let records = [both(10, 20), both(20, 10)];
    let dns = Dns::start(&records[0]);
    let (_dir, settings) = settings(&first, &["srv:example.org"], "");
    let daemon = Daemon::start(settings);
    uses(&daemon, &first_url);
    daemon.expect("u1", "granted");

    // The one that works is kept while it is listed, whatever its priority is.
    drop(dns);
    let dns = Dns::start(&records[1]);
    daemon.sync("corp").unwrap();
    uses(&daemon, &first_url);
    first.kill();
    uses(&daemon, &second_url);
    first.restart();
    daemon.sync("corp").unwrap();
    uses(&daemon, &second_url);

    // It is left when it is not listed any more.
    drop(dns);
    let dns = Dns::start(&[&[record("_ldap", "dc1", first.port(), 10)], &hosts[..]].concat());
    uses(&daemon, &first_url);

    let fails_with = |error: &str| {
        let failed = daemon.sync("corp").unwrap_err();
        assert!(failed.contains(&format!("_ldap._tcp.example.org lead to no server: {error}")), "{failed}");
    };
    dns.stop();
    fails_with("no answer from the DNS within 2s");
    assert_eq!(daemon.status()["users"]["total"], 3);
    daemon.expect("u1", "held");
    drop(dns);
    // Nobody answers on the port.
    fails_with("");
    let dns = Dns::start(&[]);
    fails_with("there are none");
    drop(dns);
    let dns = Dns::start(&["srv-host=_ldap._tcp.example.org".to_owned()]);
    fails_with("they say that the domain offers no LDAP");
    drop(dns);
    let _dns = Dns::start(&both(10, 20));
    daemon.sync("corp").unwrap();
    uses(&daemon, &first_url);
    daemon.expect("u1", "held");
    daemon.verify();
}

#[test]
fn the_certificate_is_for_the_servers_own_name() {
    let _network = Network::enter();
    let slapd = server("dc1");
    let ldaps_port: u16 = slapd.ldaps_url().rsplit(':').next().unwrap().parse().unwrap();
    for (service, url, port, starttls) in [
        ("_ldap", "srv:example.org", slapd.port(), true),
        ("_ldaps", "srv+ldaps:example.org", ldaps_port, false),
    ] {
        let tls = format!("[directory.ldap.tls]\nca_file = {:?}\nstarttls = {starttls}\n", slapd.ca_file());
        let dns = Dns::start(&[record(service, "dc2", port, 0), host("dc1"), host("dc2")]);
        let (_dir, settings) = settings(&slapd, &[url], &tls);
        let daemon = Daemon::launch(&settings);
        fails_with(&daemon, "the server's certificate is for dc1.example.org and not for dc2.example.org");
        drop(dns);
        let _dns = Dns::start(&[record(service, "dc1", port, 0), host("dc1")]);
        let scheme = if starttls { "ldap" } else { "ldaps" };
        uses(&daemon, &format!("{scheme}://dc1.example.org:{port}"));
    }
}

/// A domain that the DNS does not know leaves the servers that are named.
#[test]
fn a_domain_and_a_server_may_stand_together() {
    let _network = Network::enter();
    let slapd = server("dc1");
    let _dns = Dns::start(&[]);
    let (_dir, settings) = settings(&slapd, &["srv:nowhere.example.org", &slapd.url()], "");
    let daemon = Daemon::start(settings);
    uses(&daemon, &slapd.url());
}
