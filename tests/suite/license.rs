//! Licences: signed by hand and by others, sold by a real licence server, refreshed, expired, forged.

use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, Settings};
use crate::support::issuer::Vendor;
use crate::support::slapd::people;
use crate::support::wait_for;

fn settings(license: String) -> Settings {
    Settings { license: Some(license), ..Settings::ldif(0, &people(0..30)) }
}

fn trusting(vendor: &Vendor) -> Settings {
    settings(format!("trusted_keys = [\"{}\"]", vendor.public_key))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `license …` with a daemon's configuration, which must end well.
#[track_caller]
fn run(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.command(&[&["license"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// `license …`, which must be refused: why.
#[track_caller]
fn refused(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.command(&[&["license"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr)
}

#[track_caller]
fn install(daemon: &Daemon, token: &str) -> String {
    daemon.write("new.jwt", token);
    run(daemon, &["install", daemon.path("new.jwt").to_str().unwrap()])
}

#[track_caller]
fn install_refused(daemon: &Daemon, token: &str) -> String {
    daemon.write("new.jwt", token);
    refused(daemon, &["install", daemon.path("new.jwt").to_str().unwrap()])
}

fn check(daemon: &Daemon, user: &str, service: &str) -> String {
    let body = json!({ "user": user, "service": service }).to_string();
    let answer = daemon.http().ask("POST", "/v1/check", &body).unwrap().json();
    answer["decision"].as_str().unwrap().to_owned()
}

fn component(daemon: &Daemon, name: &str) -> Value {
    daemon.http().ask("GET", &format!("/v1/components/{name}"), "").unwrap().json()
}

fn license(daemon: &Daemon) -> Value {
    daemon.status()["license"].clone()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Runs a Python script with Debian's PyJWT.
fn python(script: &str, argument: &str) -> Output {
    let mut python = Command::new("/usr/bin/python3");
    let output = python.args(["-c", script, argument]).stdin(Stdio::null()).output();
    output.expect("python3 is missing: apt-get install python3-jwt python3-cryptography")
}

/// The whole way of a vendor and two customers, over HTTPS.
#[test]
fn a_licence_is_activated_grows_and_is_moved() {
    let mut vendor = Vendor::new();
    // Sold before the server runs, and changed while it does.
    let sold =
        vendor.sell(&["sell", "L-1", "--seats", "2", "--expires", "2099-01-01", "--component", "antivirus"]);
    let key = sold["activation_key"].as_str().unwrap().to_owned();
    vendor.serve();
    let mut one = Daemon::start(settings(vendor.license()));
    assert_eq!(license(&one)["state"], "missing");
    one.expect("u0", "license_missing");
    one.wait_for_log(&["event=license_missing"]);

    let said = run(&one, &["activate", &key, "--customer", "Example GmbH", "--email", "it@example.org"]);
    assert!(said.contains("L-1") && said.contains("2 seats"), "{said}");
    one.wait_for_log(&["event=license_installed", "license=L-1", "seats=2"]);
    let active = license(&one);
    assert_eq!((&active["state"], &active["seats"]), (&"active".into(), &2.into()), "{active}");
    assert_eq!((&active["licensee"], &active["email"]), (&"Example GmbH".into(), &"it@example.org".into()));
    assert_eq!(active["bound"], true);
    assert!(active["registered"].is_string() && active["maintenance_until"].is_string(), "{active}");
    assert!(active["days_left"].as_i64().unwrap() > 20_000, "{active}");
    assert_eq!(active["components"][0]["name"], "antivirus");
    assert_eq!(component(&one, "antivirus")["licensed"], true);
    for (user, decision) in [("u0", "granted"), ("u1", "granted"), ("u2", "exhausted")] {
        one.expect(user, decision);
    }

    // Five more are bought, and get in without a restart.
    let pid = one.pid();
    let said = run(&one, &["refresh"]);
    assert!(said.contains("newest"), "{said}");
    assert_eq!(license(&one)["last_refresh"]["outcome"], "unchanged");
    vendor.sell(&["sell", "L-1", "--seats", "+5", "--component", "activesync"]);
    one.expect("u2", "exhausted");
    run(&one, &["refresh"]);
    one.wait_for_log(&["event=license_refreshed", "seats=7"]);
    for number in 2..7 {
        one.expect(&format!("u{number}"), "granted");
    }
    one.expect("u7", "exhausted");
    assert_eq!((one.pid(), license(&one)["last_refresh"]["outcome"].clone()), (pid, "updated".into()));

    // Fewer: holders enter, none new.
    vendor.sell(&["sell", "L-1", "--seats", "3"]);
    run(&one, &["refresh"]);
    let seats = one.status()["seats"].clone();
    assert_eq!(seats, json!({"limit": 3, "used": 7, "free": 0, "over_limit": true}),);
    assert_eq!(license(&one)["to_release"], 4);
    one.expect("u6", "held");
    one.expect("u9", "exhausted");
    let page = text(&one.command(&["status"]).stdout);
    assert!(page.contains("7 used of 3: 4 MORE THAN THE LICENCE HAS"), "{page}");
    assert!(page.contains("L-1, serial") && page.contains("Example GmbH <it@example.org>"), "{page}");
    let shown = run(&one, &["show"]);
    assert!(shown.contains("Component     activesync") && shown.contains(&vendor.url()), "{shown}");

    // A second installation with the same key is refused, and learns where it is active.
    let mut two = Daemon::start(settings(vendor.license()));
    let id = license(&one)["installation"].as_str().unwrap().to_owned();
    let why = refused(&two, &["activate", &key]);
    assert!(why.contains(&format!("active on the installation {id} already")), "{why}");
    assert_eq!(license(&two)["state"], "missing");
    let stolen = refused(&two, &["activate", "0000-0000"]);
    assert!(stolen.contains("this activation key is unknown"), "{stolen}");

    // The server dies: the licence in hand goes on working, also across a restart.
    vendor.kill();
    let why = refused(&one, &["refresh"]);
    assert!(why.contains("cannot reach the licence server"), "{why}");
    assert_eq!(license(&one)["last_refresh"]["outcome"], "unreachable");
    one.kill9();
    one.restart();
    assert_eq!(license(&one)["state"], "active");
    one.expect("u6", "held");
    assert!(!one.log().contains("event=license_installed"), "it was told before the restart");
    vendor.serve();

    // Moved to the other machine: a copy of the old licence is worth nothing any more.
    let said = run(&one, &["deactivate"]);
    assert!(said.contains("may be activated elsewhere"), "{said}");
    one.expect("u6", "held");
    one.expect("u9", "license_missing");
    run(&two, &["activate", &key]);
    two.expect("u1", "granted");
    assert_eq!(license(&two)["licensee"], "Example GmbH");
    let foreign = refused(&one, &["activate", &key]);
    assert!(foreign.contains(license(&two)["installation"].as_str().unwrap()), "{foreign}");

    // The vendor takes it back: said once, and the licence in hand goes on working.
    vendor.sell(&["revoke", "L-1"]);
    let why = refused(&two, &["refresh"]);
    assert!(why.contains("the licence L-1 was revoked"), "{why}");
    two.expect("u1", "held");
    two.expect("u2", "granted");
    assert_eq!(license(&two)["last_refresh"]["outcome"], "refused");

    for daemon in [&one, &two] {
        daemon.verify();
        assert!(!daemon.log().contains(&key), "the activation key is in the log");
    }
    assert!(!vendor.log().contains(&key), "the activation key is in the server's log");
    assert!(two.terminate().0.success());
}

/// A newer licence comes by itself.
#[test]
fn the_server_is_asked_without_an_administrator() {
    let mut vendor = Vendor::new();
    let sold = vendor.sell(&["sell", "L-1", "--seats", "1"]);
    vendor.serve();
    let keys = vendor.license() + "\nrefresh_every = \"1s\"";
    let daemon = Daemon::start(settings(keys));
    run(&daemon, &["activate", sold["activation_key"].as_str().unwrap()]);
    daemon.expect("u0", "granted");
    daemon.expect("u1", "exhausted");
    // Down and up again meanwhile.
    vendor.kill();
    daemon.wait_for_log(&["event=license_refresh_failed"]);
    daemon.expect("u0", "held");
    vendor.serve();
    vendor.sell(&["sell", "L-1", "--seats", "+1"]);
    daemon.wait_for("the newer licence", |status| status["seats"]["limit"] == 2);
    daemon.expect("u1", "granted");
    let failures = daemon.log().matches("event=license_refresh_failed").count();
    assert_eq!(failures, 1, "an outage is told once");
}

#[test]
fn a_licence_travels_in_files() {
    let vendor = Vendor::new();
    let daemon = Daemon::start(trusting(&vendor));
    let request = run(&daemon, &["request", "--customer", "Example", "--detail", "phone=1"]);
    daemon.write("request.json", &request);
    let file = daemon.path("request.json");
    let file = file.to_str().unwrap();
    let token = vendor.issue(&["--id", "L-7", "--seats", "3", "--request", file, "--expires", "2099-01-01"]);
    install(&daemon, &token);
    let installed = license(&daemon);
    assert_eq!((&installed["licensee"], &installed["bound"]), (&"Example".into(), &true.into()));
    daemon.expect("u0", "granted");

    // It is for nobody else, and says for whom.
    let other = Daemon::start(trusting(&vendor));
    let why = install_refused(&other, &token);
    let ids = [&daemon, &other].map(|daemon| license(daemon)["installation"].as_str().unwrap().to_owned());
    assert!(why.contains(&format!("for the installation {}, and this is {}", ids[0], ids[1])), "{why}");

    // An older issue only by force, and the log says so.
    let older = vendor.issue(&["--id", "L-7", "--seats", "9", "--serial", "1"]);
    assert!(install_refused(&daemon, &older).contains("older than the one that is installed"));
    daemon.write("new.jwt", &older);
    run(&daemon, &["install", "--force", daemon.path("new.jwt").to_str().unwrap()]);
    daemon.wait_for_log(&["WARN", "forced the older licence L-7", "serial=1"]);
    assert_eq!(daemon.status()["seats"]["limit"], 9);
    let refused = refused(&daemon, &["refresh"]);
    assert!(refused.contains("no licence server is configured"), "{refused}");
    assert!(run(&daemon, &["deactivate"]).contains("tell the vendor"));

    // OpenSSL reads the key, and knows its public half.
    let key = vendor.path("key.pem");
    let openssl =
        Command::new("/usr/bin/openssl").args(["pkey", "-pubout", "-in"]).arg(key).output().unwrap();
    assert!(text(&openssl.stdout).contains(&vendor.public_key), "{}", text(&openssl.stderr));
}

#[test]
fn an_expired_licence_refuses_whom_it_says() {
    let vendor = Vendor::new();
    let mut daemon = Daemon::start(trusting(&vendor));
    let script = include_str!("../data/issue.py");
    let sign = |claims: Value| {
        let argument = json!({"key": vendor.path("key.pem"), "claims": claims, "headers": {}});
        let output = python(script, &argument.to_string());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    // Made by PyJWT, without a `kid`. It ends in a moment.
    let claims = |serial: u64, end: u64, on_expiry: &str| {
        json!({"iss": "Vendor", "sub": "L-1", "iat": now(), "nbf": now(), "exp": end, "serial": serial,
               "seats": 5, "on_expiry": on_expiry, "customer": {"name": "Jürgen"}})
    };
    install(&daemon, &sign(claims(1, now() + 3, "refuse_new")));
    assert_eq!(
        (license(&daemon)["state"].clone(), license(&daemon)["licensee"].clone()),
        ("expiring".into(), "Jürgen".into())
    );
    daemon.wait_for_log(&["WARN", "event=license_expiring"]);
    daemon.expect("u0", "granted");
    daemon.wait_for("the end", |status| status["license"]["state"] == "expired");
    daemon.wait_for_log(&["ERROR", "event=license_expired"]);
    daemon.expect("u0", "held");
    daemon.expect("u1", "license_expired");
    assert!(daemon.grant("u1").problem(409).contains("license_expired"));
    // The same after a restart, and not told again.
    daemon.kill9();
    daemon.restart();
    daemon.expect("u0", "held");
    daemon.expect("u1", "license_expired");
    assert!(!daemon.log().contains("event=license_expired "), "told twice");

    install(&daemon, &sign(claims(2, now() - 10, "refuse_all")));
    daemon.expect("u0", "license_expired");
    // In its grace period everything goes on.
    let mut graced = claims(3, now() - 10, "refuse_all");
    graced["grace"] = "1h".into();
    install(&daemon, &sign(graced));
    assert_eq!(license(&daemon)["state"], "grace");
    daemon.wait_for_log(&["ERROR", "event=license_grace"]);
    daemon.expect("u0", "held");
    daemon.expect("u1", "granted");
    daemon.verify();
}

/// Every forgery is made by another implementation, or by hand.
#[test]
fn forgeries_are_refused_with_their_reasons() {
    let vendor = Vendor::new();
    let stranger = Vendor::new();
    let daemon = Daemon::start(trusting(&vendor));
    let script = include_str!("../data/issue.py");
    let make = |argument: Value| {
        let output = python(script, &argument.to_string());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let claims = |serial: u64| json!({"sub": "L-1", "iat": now(), "serial": serial, "seats": 2});
    let key = vendor.path("key.pem");
    let kid: Value =
        serde_json::from_str(&vendor.run(&["keygen", "--json", vendor.path("more.pem").to_str().unwrap()]))
            .unwrap();
    assert_eq!(kid["kid"].as_str().unwrap().len(), 43);
    let good = make(json!({"key": key, "claims": claims(5), "headers": {}}));
    install(&daemon, &good);
    daemon.expect("u0", "granted");

    let check = |token: &str, part: &str| {
        let why = install_refused(&daemon, token);
        assert!(why.contains(part), "{why:?} has no {part:?}");
    };
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = make(json!({"key": key, "claims": claims(6), "headers": {}}));
    let other_payload = other.split('.').nth(1).unwrap();
    let header = good.split('.').next().unwrap();
    check(&format!("{header}.{other_payload}.{signature}"), "the signature is wrong");
    check(&good[..good.len() - 5], "signature");
    check(signed, "this is no signed licence");
    check(&make(json!({"alg": "none", "claims": claims(6), "headers": {}})), "only EdDSA is accepted");
    let with_public_key =
        json!({"alg": "HS256", "secret": vendor.public_key, "claims": claims(6), "headers": {}});
    check(&make(with_public_key), "signed with \"HS256\"");
    let foreign = json!({"key": stranger.path("key.pem"), "claims": claims(6), "headers": {}});
    check(&make(foreign), "the signature is wrong");
    check(&stranger.issue(&["--id", "L-1", "--seats", "9"]), "not among the trusted keys");
    let mut future = claims(6);
    future["nbf"] = (now() + 86_400).into();
    check(&make(json!({"key": key, "claims": future, "headers": {}})), "not valid before");
    let mut future = claims(6);
    future["iat"] = (now() + 86_400).into();
    check(&make(json!({"key": key, "claims": future, "headers": {}})), "issued in the future");
    let mut bound = claims(6);
    bound["installation"] = "another".into();
    check(&make(json!({"key": key, "claims": bound, "headers": {}})), "for the installation another");
    check(&make(json!({"key": key, "claims": claims(4), "headers": {}})), "older than the one");
    check(&"x".repeat(15_000), "this is no signed licence");
    let long = daemon.control().ask("PUT", "/v1/license", &"x".repeat(20_000)).unwrap();
    long.problem(413);
    let refused = daemon.control().ask("PUT", "/v1/license", "nonsense").unwrap();
    assert!(refused.problem(409).contains("no signed licence"));

    assert_eq!(license(&daemon)["serial"], 5, "the old licence stays");
    daemon.expect("u1", "granted");
    let done = daemon.control().ask("PUT", "/v1/license", &other).unwrap();
    assert_eq!((done.status, &done.json()["license"]["serial"]), (200, &6.into()));
}

#[test]
fn components_are_sold_apart() {
    let vendor = Vendor::new();
    let mut settings = trusting(&vendor);
    settings.tables += "[components]\nactivesync = [\"activesync\", \"eas\"]\nantivirus = [\"clamav\"]\narchive = [\"archive\"]\n";
    let mut daemon = Daemon::start(settings.clone());
    assert_eq!(
        component(&daemon, "antivirus"),
        json!({"component": "antivirus", "licensed": false,
        "seats": null, "used": null, "reason": "component_unlicensed"})
    );
    let token = vendor.issue(&[
        "--id",
        "L-1",
        "--seats",
        "4",
        "--component",
        "activesync:2@2099-05-01",
        "--component",
        "antivirus",
        "--component",
        "archive@2020-01-01",
    ]);
    install(&daemon, &token);
    assert_eq!(component(&daemon, "antivirus")["licensed"], true);
    assert_eq!(component(&daemon, "archive")["licensed"], false, "its time is over");
    assert_eq!(component(&daemon, "nonsense")["licensed"], false);

    assert_eq!(check(&daemon, "u0", "imap"), "granted");
    assert_eq!(check(&daemon, "u0", "archive"), "component_unlicensed");
    assert_eq!(check(&daemon, "u0", "EAS"), "granted", "a seat of the component");
    assert_eq!(check(&daemon, "u0", "activesync"), "held");
    assert_eq!(check(&daemon, "u1", "eas"), "granted", "both at once");
    assert_eq!(check(&daemon, "u2", "eas"), "exhausted");
    assert_eq!(daemon.seats_used(), 2, "a refused component takes no seat either");
    assert_eq!(check(&daemon, "u2", "imap"), "granted");
    assert_eq!(check(&daemon, "u2", "clamav"), "held");
    assert_eq!(check(&daemon, "u3", "archive"), "component_unlicensed");
    assert_eq!(component(&daemon, "activesync")["used"], 2);
    // Durable, and released with the user's seat.
    daemon.kill9();
    daemon.restart();
    assert_eq!(check(&daemon, "u0", "eas"), "held");
    assert_eq!(check(&daemon, "u2", "eas"), "exhausted");
    daemon.release("u0");
    assert_eq!(component(&daemon, "activesync")["used"], 1);
    assert_eq!(check(&daemon, "u2", "eas"), "granted");
    let page = text(&daemon.command(&["status"]).stdout);
    assert!(page.contains("component activesync: 2 users of 2, until 2099-05-01"), "{page}");
    assert!(page.contains("component archive: until 2020-01-01, OVER"), "{page}");
    daemon.verify();

    // Dovecot asks with the names of its protocols.
    settings.tables = settings.tables.replace("\"activesync\", \"eas\"", "\"pop3\"");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    let body = json!({"user": "u3", "login": "u3", "protocol": "pop3", "remote": "127.0.0.1"}).to_string();
    let policy = crate::support::http::Address::Tcp(format!("127.0.0.1:{}", daemon.port("dovecot_policy")));
    let answer = policy.ask("POST", "/?command=allow", &body).unwrap().json();
    assert_eq!(answer["status"], -1, "{answer}");
    assert!(answer["msg"].as_str().unwrap().contains("of this service are in use"), "{answer}");
}

/// A licence server may be asked for what it is not.
#[test]
fn the_licence_server_keeps_to_its_rules() {
    let mut vendor = Vendor::new();
    vendor.sell(&["sell", "L-1", "--seats", "1"]);
    vendor.serve();
    let listed = vendor.sell(&["sold"]);
    assert_eq!((&listed["license"]["sub"], &listed["activation_key"]), (&"L-1".into(), &Value::Null));
    let fewer = vendor.try_run(&[
        "sell",
        "L-1",
        "--seats",
        "-5",
        "--database",
        vendor.path("licenses.redb").to_str().unwrap(),
    ]);
    assert_eq!(fewer.status.code(), Some(1));
    assert!(text(&fewer.stderr).contains("it can't have 5 fewer"), "{}", text(&fewer.stderr));
    // A second server on the same file, and one without encryption for everybody.
    let key = vendor.path("key.pem");
    let key = key.to_str().unwrap();
    let database = vendor.path("licenses.redb");
    let second = vendor.try_run(&[
        "serve",
        "--key",
        key,
        "--bind",
        "127.0.0.1:0",
        "--database",
        database.to_str().unwrap(),
    ]);
    assert!(text(&second.stderr).contains("in use"), "{}", text(&second.stderr));
    let open = vendor.try_run(&[
        "serve",
        "--key",
        key,
        "--bind",
        "0.0.0.0:0",
        "--database",
        database.to_str().unwrap(),
    ]);
    assert!(text(&open.stderr).contains("--cert and --cert-key"), "{}", text(&open.stderr));
    // Whoever does not trust its authority tells it nothing.
    let strangers = vendor.license().replace("/ca.pem", "/other-ca.pem");
    let daemon = Daemon::start(settings(strangers));
    let why = refused(&daemon, &["activate", "1234"]);
    assert!(why.contains("cannot reach the licence server"), "{why}");
    wait_for("the server's log", || (!vendor.log().contains("activation_refused")).then_some(()));
}
