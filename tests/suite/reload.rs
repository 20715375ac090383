//! SIGHUP: the new configuration as a whole, or the old one as it was; connections stay either way.

use serde_json::Value;

use crate::support::daemon::{Daemon, HTTP, LDIF, Settings, directory, ldif_directory};
use crate::support::http::{Address, Client};
use crate::support::slapd::people;

#[test]
fn seats_are_raised_and_lowered_without_dropping_a_connection() {
    let mut settings = Settings::ldif(2, &people(0..10));
    let mut daemon = Daemon::start(settings.clone());
    let mut client = daemon.client();
    assert_eq!(client.check("u1").0, "granted");
    assert_eq!(client.check("u2").0, "granted");
    assert_eq!(client.check("u3").0, "exhausted");

    settings.seats = 4;
    daemon.configure(&settings);
    daemon.reload().unwrap();
    assert_eq!(client.check("u3").0, "granted");
    assert_eq!(client.check("u4").0, "granted");
    assert_eq!(client.check("u5").0, "exhausted");

    settings.seats = 1;
    daemon.configure(&settings);
    daemon.reload().unwrap();
    let status = daemon.status();
    let over = serde_json::json!({ "limit": 1, "used": 4, "free": 0, "over_limit": true });
    assert_eq!((&status["seats"], &status["license"]["seats"]), (&over, &1.into()));
    for user in ["u1", "u2", "u3", "u4"] {
        assert_eq!(client.check(user), ("held".to_owned(), true));
    }
    assert_eq!(client.check("u5").0, "exhausted");
    // Nobody new until the number of seats taken is below the limit, not just at it.
    for (user, used) in [("u4", 3), ("u3", 2), ("u2", 1)] {
        assert_eq!(daemon.release(user)["seats_used"], used);
        assert_eq!(client.check("u5").0, "exhausted");
    }
    assert_eq!(daemon.status()["seats"]["over_limit"], false);
    daemon.release("u1");
    assert_eq!(client.check("u5").0, "granted");
    daemon.verify();
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let good = Settings::ldif(2, &people(0..10));
    let mut daemon = Daemon::start(good.clone());
    let mut client = daemon.client();
    assert_eq!(client.check("u1").0, "granted");
    let before = daemon.status();
    let taken = match daemon.http() {
        Address::Tcp(bind) => bind,
        Address::Unix(_) => unreachable!(),
    };

    let raised = |settings: Settings| Settings { seats: 9, ..settings };
    let second_listener = format!("[[listen.http]]\nbind = \"{taken}\"\n");
    for (settings, reason) in [
        (raised(Settings { top: "no_such_key = 1".to_owned(), ..good.clone() }), "seatkeeper.toml:3:1"),
        (
            raised(Settings { tables: good.tables.clone() + "seat_limit = \"many\"\n", ..good.clone() }),
            "seat_limit",
        ),
        (raised(Settings { listeners: good.listeners.clone() + &second_listener, ..good.clone() }), &taken),
    ] {
        daemon.configure(&settings);
        let refusal = daemon.reload().unwrap_err();
        assert!(refusal.contains(" ERROR ") && refusal.contains(reason), "{refusal}");
        assert_eq!(client.check("u1").0, "held");
        let status = daemon.status();
        assert_eq!(status["seats"]["limit"], 2);
        for listener in 0..2 {
            assert_eq!(status["listeners"][listener]["bind"], before["listeners"][listener]["bind"]);
        }
        assert_eq!(status["listeners"].as_array().unwrap().len(), 2);
    }
    // A store in another place is another daemon.
    daemon.configure(&raised(good.clone()));
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    daemon.write("seatkeeper.toml", &text.replace("/state\"", "/other\""));
    let refusal = daemon.reload().unwrap_err();
    assert!(refusal.contains("state_dir cannot change while the daemon runs"), "{refusal}");
    // The directories are still followed.
    daemon.write(LDIF, &people(0..12));
    daemon.wait_for("the new users", |status| status["users"]["mapped"] == 12);

    daemon.configure(&raised(good));
    daemon.reload().unwrap();
    assert_eq!(daemon.status()["seats"]["limit"], 9);
    assert_eq!(client.check("u2").0, "granted");
}

#[test]
fn a_listener_comes_and_goes() {
    let mut settings = Settings::ldif(5, &people(0..10));
    let mut daemon = Daemon::start(settings.clone());
    let (tcp, mut client) = (daemon.http(), daemon.client());
    assert_eq!(client.check("u1").0, "granted");

    // A Unix socket beside the port.
    let path = daemon.path("http.sock");
    settings.listeners += &format!("[[listen.http]]\nbind = \"unix:{}\"\n", path.display());
    daemon.configure(&settings);
    daemon.reload().unwrap();
    let unix = Address::Unix(path.clone());
    let mut unix_client = Client::connect(&unix).unwrap();
    assert_eq!(unix_client.check("u1").0, "held");
    assert_eq!(client.check("u1").0, "held");
    assert_eq!(daemon.status()["listeners"].as_array().unwrap().len(), 3);

    // Only the Unix socket: the port is closed, and the socket's connection stays.
    settings.listeners = settings.listeners.replace(HTTP, "");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    assert_eq!(unix_client.check("u1").0, "held");
    let status = daemon.status();
    let kinds: Vec<_> = status["listeners"].as_array().unwrap().iter().map(|l| l["kind"].clone()).collect();
    assert_eq!(kinds, ["dovecot_policy", "http"]);
    crate::support::wait_for("the port to be closed", || Client::connect(&tcp).is_err().then_some(()));
    assert!(client.is_closed(), "an idle connection of a listener that ends is closed");

    settings.listeners = HTTP.to_owned();
    daemon.configure(&settings);
    daemon.reload().unwrap();
    assert_eq!(daemon.check("u1").0, "held");
    crate::support::wait_for("the socket to be gone", || (!path.exists()).then_some(()));
}

#[test]
fn a_directory_comes_and_goes() {
    let mut settings = Settings::ldif(5, &people(0..5));
    settings.top = "default_domain = \"example.org\"".to_owned();
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("u1", "granted");
    daemon.expect("u1@branch.example.org", "unknown_user");

    let branch = people(0..3).replace("example.org", "branch.example.org");
    daemon.write("branch.ldif", &branch);
    let alone = settings.tables.clone();
    settings.tables += &ldif_directory("branch", "branch.example.org", "branch.ldif");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    daemon.wait_for("the first map", |status| {
        status["ready"] == true && directory(status, "branch")["users"] == 3
    });
    daemon.expect("u1@branch.example.org", "granted");
    daemon.expect("u1", "held");

    // Taken out of the configuration, its users stay as they were, and the log says so.
    settings.tables = alone;
    daemon.configure(&settings);
    daemon.reload().unwrap();
    let status = daemon.status();
    let forgotten = directory(&status, "branch");
    assert_eq!((&forgotten["configured"], &forgotten["users"]), (&false.into(), &3.into()));
    assert_eq!((&status["seats"]["used"], &status["ready"]), (&2.into(), &true.into()));
    daemon.wait_for_log(&[" WARN ", "directory=branch", "is not configured any more"]);
    daemon.expect("u1@branch.example.org", "held");
    assert_ne!(daemon.api("POST", "/v1/directories/branch/sync").status, 202);
    assert_eq!(daemon.explain("u1@branch.example.org")["removed_at"], Value::Null);
    daemon.verify();
}
