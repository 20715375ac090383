//! Who the daemon is to real servers: by a password, by a certificate, and nobody.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::daemon::{Daemon, Settings, directory, ldap_directory};
use crate::support::ds389::{self, Ds389};
use crate::support::slapd::{self, Options, PEOPLE, Slapd, installed, people, person, run};
use crate::support::wait_for;

/// Only the entry that the certificate stands for may read, and without a certificate nobody may even ask.
fn with_certificates() -> Options {
    let reader = slapd::BIND_DN;
    Options {
        data: people(0..3),
        global: format!(
            "moduleload syncprov\nTLSVerifyClient demand\n\
             authz-regexp \"^cn=reader,o=example$\" \"{reader}\"\n"
        ),
        access: format!(
            "access to attrs=userPassword by anonymous auth\naccess to * by dn.exact=\"{reader}\" read by * none\n"
        ),
        database: "overlay syncprov\nsyncprov-sessionlog 1000\n".to_owned(),
        ..Options::default()
    }
}

/// The directory `corp` with a certificate in the daemon's own directory.
fn by_certificate(url: &str, ca_file: &Path, keys: &str) -> Settings {
    let starttls = !url.starts_with("ldaps");
    let tables = format!(
        "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [\"{url}\"]\n\
         base_dn = \"{PEOPLE}\"\npoll_every = \"1h\"\n{keys}\n[directory.ldap.tls]\nstarttls = {starttls}\n\
         ca_file = {ca_file:?}\ncert_file = \"client.pem\"\nkey_file = \"client.key\"\n"
    );
    Settings { tables, ..Settings::default() }
}

/// Gives the daemon one of the server's certificates.
fn show(daemon: &Daemon, file: impl Fn(&str) -> std::path::PathBuf, name: &str) {
    for end in ["pem", "key"] {
        fs::copy(file(&format!("{name}.{end}")), daemon.path(&format!("client.{end}"))).unwrap();
    }
}

#[track_caller]
fn fails_with(daemon: &Daemon, error: &str) -> String {
    let status = daemon.wait_for(error, |status| last_error(status).contains(error));
    last_error(&status)
}

fn last_error(status: &Value) -> String {
    directory(status, "corp")["last_error"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| {
        status["users"]["total"] == count && last_error(status).is_empty()
    });
}

#[test]
fn a_certificate_says_who_the_daemon_is() {
    let slapd = Slapd::start(with_certificates());
    for (url, keys) in [(slapd.ldaps_url(), ""), (slapd.url(), "bind = \"external\"\n")] {
        let mut daemon = Daemon::prepare(&by_certificate(&url, &slapd.ca_file(), keys));
        show(&daemon, |name| slapd.file(name), "foreign");
        daemon.restart();
        let refusal = fails_with(&daemon, "the certificate in cert_file");
        assert!(refusal.contains(&url) && refusal.contains("client.pem"), "{refusal}");
        show(&daemon, |name| slapd.file(name), "expired");
        fails_with(&daemon, "it expired at 2020-01-01 00:00:00 UTC");
        fs::copy(slapd.file("client.pem"), daemon.path("client.pem")).unwrap();
        fails_with(&daemon, "it is not the key of the certificate in");
        // Renewed without a restart.
        show(&daemon, |name| slapd.file(name), "client");
        users(&daemon, 3);
        daemon.wait_for("changes to come", |status| directory(status, "corp")["state"] == "following");
        assert!(daemon.command(&["check", "--connect"]).status.success());

        // The cookie is that of the identity: another certificate of the same costs no full refresh.
        daemon.terminate();
        show(&daemon, |name| slapd.file(name), "renewed");
        slapd.modify(&format!("dn: uid=u1,{PEOPLE}\nchangetype: modify\nreplace: sn\nsn: {url}\n"));
        daemon.restart();
        let line = daemon.wait_for_log(&["event=sync_completed"]);
        assert!(line.contains("seen=1 "), "{line}");
        daemon.agrees();
    }
}

#[test]
fn a_certificate_that_is_nobody_here_reads_nothing() {
    let options = with_certificates();
    let global = options.global.replace("^cn=reader", "^cn=somebody");
    let slapd = Slapd::start(Options { global, ..options });
    let mut daemon = Daemon::prepare(&by_certificate(&slapd.ldaps_url(), &slapd.ca_file(), ""));
    show(&daemon, |name| slapd.file(name), "client");
    daemon.restart();
    fails_with(&daemon, "does not exist, or the bind user may not see it");
}

#[test]
fn a_server_that_takes_no_certificates_refuses_the_bind() {
    let slapd = Slapd::start(Options { data: people(0..3), ..Options::default() });
    let mut daemon = Daemon::prepare(&by_certificate(&slapd.ldaps_url(), &slapd.ca_file(), ""));
    show(&daemon, |name| slapd.file(name), "client");
    daemon.restart();
    let refusal = fails_with(&daemon, "the server refused to bind by the certificate in cert_file");
    assert!(refusal.contains("result 7 (authMethodNotSupported)"), "{refusal}");
}

/// A password beside a certificate, and keys in every form that they have.
#[test]
fn a_certificate_may_be_shown_with_a_password() {
    let options = with_certificates();
    let slapd = Slapd::start(Options { global: options.global.replace("demand", "allow"), ..options });
    let tls = format!(
        "starttls = true\nca_file = {:?}\ncert_file = \"client.pem\"\nkey_file = \"client.key\"\n",
        slapd.ca_file()
    );
    let tables = ldap_directory(&slapd, &[&slapd.url()], &format!("[directory.ldap.tls]\n{tls}"));
    let mut daemon = Daemon::prepare(&Settings { tables, ..Settings::default() });
    show(&daemon, |name| slapd.file(name), "client");
    let key = daemon.path("client.key");
    let check = |what: &str| {
        let check = daemon.command(&["check", "--connect"]);
        assert!(check.status.success(), "{what}: {}", String::from_utf8_lossy(&check.stdout));
    };
    assert!(fs::read_to_string(&key).unwrap().contains("BEGIN PRIVATE KEY"));
    check("PKCS #8");
    let openssl = |arguments: &[&str]| {
        run(installed("openssl", "openssl").args(arguments).current_dir(daemon.path("")), "");
    };
    openssl(&["ec", "-in", "client.key", "-out", "client.key"]);
    assert!(fs::read_to_string(&key).unwrap().contains("BEGIN EC PRIVATE KEY"));
    check("SEC 1");
    // Nobody signed this one, and the server does not insist.
    openssl(&[
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "rsa:2048",
        "-subj",
        "/CN=x",
        "-keyout",
        "x",
        "-out",
        "client.pem",
    ]);
    openssl(&["rsa", "-in", "x", "-traditional", "-out", "client.key"]);
    assert!(fs::read_to_string(&key).unwrap().contains("BEGIN RSA PRIVATE KEY"));
    check("PKCS #1");

    show(&daemon, |name| slapd.file(name), "client");
    daemon.restart();
    users(&daemon, 3);
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nnot base64\n").unwrap();
    let error = daemon.sync("corp").unwrap_err();
    assert!(error.contains("cannot use key_file") && !error.contains("not base64"), "{error}");
}

#[test]
fn a_key_that_others_may_read_is_a_mistake() {
    use std::os::unix::fs::PermissionsExt;
    let slapd = Slapd::start(with_certificates());
    let daemon = Daemon::prepare(&by_certificate(&slapd.ldaps_url(), &slapd.ca_file(), ""));
    show(&daemon, |name| slapd.file(name), "client");
    fs::set_permissions(daemon.path("client.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let check = daemon.command(&["check"]);
    let text = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
    assert_eq!(check.status.code(), Some(78), "{text}");
    assert!(
        text.contains("every user of this machine has access to") && text.contains("client.key"),
        "{text}"
    );
}

#[test]
fn a_certificate_says_who_the_daemon_is_to_389_directory_server() {
    let options = ds389::Options {
        data: ds389::people(0..3),
        client_certificates: true,
        access: format!(
            "aci: (targetattr!=\"userPassword\")(version 3.0; acl \"the reader reads\"; \
             allow (read, search, compare) userdn=\"ldap:///{}\";)\n",
            slapd::BIND_DN
        ),
        ..ds389::Options::default()
    };
    let ds389 = Ds389::start(options);
    let mut daemon = Daemon::prepare(&by_certificate(&ds389.ldaps_url(), &ds389.ca_file(), ""));
    show(&daemon, |name| ds389.file(name), "foreign");
    daemon.restart();
    fails_with(&daemon, "the certificate in cert_file");
    show(&daemon, |name| ds389.file(name), "client");
    users(&daemon, 3);
}

/// A new password counts from the next bind on, whether it came before or after the old one stopped working.
#[test]
fn a_new_password_needs_no_restart() {
    let options = Options { data: people(0..3), ..Options::default() };
    let mut slapd = Slapd::start(Options {
        global: "moduleload syncprov\n".to_owned(),
        database: "overlay syncprov\n".to_owned(),
        ..options
    });
    let daemon = Daemon::start(Settings::ldap(3, &slapd, ""));
    let change = |slapd: &Slapd, password: &str| {
        let dn = slapd.bind_dn();
        slapd.modify(&format!(
            "dn: {dn}\nchangetype: modify\nreplace: userPassword\nuserPassword: {password}\n"
        ));
    };
    // What is bound goes on.
    change(&slapd, "second");
    slapd.add(&person(10));
    users(&daemon, 4);
    let error = daemon.sync("corp").unwrap_err();
    assert!(error.contains("refused the password") && !error.contains("second"), "{error}");
    fs::write(slapd.password_file(), "second\n").unwrap();
    users(&daemon, 4);
    // The other way round, with a connection that is lost.
    change(&slapd, "third");
    fs::write(slapd.password_file(), "third\n").unwrap();
    slapd.restart();
    slapd.add(&person(11));
    users(&daemon, 5);
    wait_for("a new seat", || (daemon.probe("u11") == "granted").then_some(()));
}
