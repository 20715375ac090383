//! Seats: taken once, never more than there are, and back again.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use crate::support::daemon::{Daemon, Settings, ldif_directory};
use crate::support::slapd::people;

/// Every user asks once, all at the same time, each on a connection of its own.
fn ask_at_once(daemon: &Daemon, users: &[String]) -> Vec<(String, bool)> {
    let (barrier, http) = (Barrier::new(users.len()), daemon.http());
    let (barrier, http) = (&barrier, &http);
    thread::scope(|scope| {
        let ask = |user: &String| {
            let user = user.clone();
            scope.spawn(move || {
                let mut client = crate::support::http::Client::connect(http).unwrap();
                barrier.wait();
                client.check(&user)
            })
        };
        let asked: Vec<_> = users.iter().map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn two_hundred_first_logins_at_once_take_twenty_seats() {
    let ldif = people(0..200);
    for _ in 0..20 {
        let daemon = Daemon::start(Settings::ldif(20, &ldif));
        let users: Vec<String> = (0..200).map(|number| format!("u{number}@example.org")).collect();
        let answers = ask_at_once(&daemon, &users);
        let granted: BTreeSet<&str> = users
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| answer.1)
            .map(|(user, _)| user.as_str())
            .collect();
        assert_eq!(granted.len(), 20);
        for (user, (decision, allow)) in users.iter().zip(&answers) {
            let expected = if granted.contains(user.as_str()) { "granted" } else { "exhausted" };
            assert_eq!((decision.as_str(), *allow), (expected, expected == "granted"), "{user}");
        }
        // Asked again, nobody's answer changes but for its word.
        let mut client = daemon.client();
        for user in &users {
            let expected = if granted.contains(user.as_str()) { "held" } else { "exhausted" };
            assert_eq!(client.check(user).0, expected, "{user}");
        }
        let history = daemon.history("");
        let in_history: BTreeSet<&str> = history.iter().map(|line| line["user"].as_str().unwrap()).collect();
        assert_eq!(history.len(), 20, "each once");
        assert_eq!(in_history, granted);
        let seats = &daemon.status()["seats"];
        assert_eq!(
            (seats["used"].as_u64(), seats["free"].as_u64(), seats["over_limit"].as_bool()),
            (Some(20), Some(0), Some(false))
        );
        daemon.verify();
    }
}

/// Mail servers ask twice for one login, and a person has several devices.
#[test]
fn one_user_on_many_connections_takes_one_seat() {
    let daemon = Daemon::start(Settings::ldif(10, &people(0..10)));
    let answers = ask_at_once(&daemon, &vec!["U1@Example.ORG".to_owned(); 50]);
    assert!(answers.iter().all(|(_, allow)| *allow), "{answers:?}");
    assert_eq!(daemon.seats_used(), 1);
    let history = daemon.history("u1");
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!((&history[0]["event"], &history[0]["seats_used"]), (&"granted".into(), &1.into()));
}

#[test]
fn an_administrator_grants_through_the_same_gate_and_releases() {
    let daemon = Daemon::start(Settings::ldif(2, &people(0..4)));
    daemon.expect("u0", "granted");
    assert_eq!(daemon.grant("u1").json()["outcome"], "granted");
    assert_eq!(daemon.grant("u1").json()["outcome"], "held");
    let refused = daemon.grant("u2").problem(409);
    assert!(refused.contains("exhausted"), "{refused}");
    let nobody = daemon.grant("nobody").problem(404);
    assert!(nobody.contains("nobody@example.org"), "{nobody}");
    assert_eq!(daemon.probe("u2"), "exhausted");

    let released = daemon.release("u1");
    assert_eq!((&released["outcome"], &released["seats_used"]), (&"released".into(), &1.into()));
    assert_eq!(daemon.release("u1")["outcome"], "not_seated");
    assert_eq!(daemon.probe("u2"), "granted");
    assert_eq!(daemon.seats_used(), 1, "a probe takes none");
    daemon.expect("u2", "granted");
    daemon.expect("u1", "exhausted");
    daemon.expect("u1", "exhausted");
    let explained = daemon.explain("u1");
    assert_eq!(explained["refusals"]["count"], 2, "{explained}");
    assert_eq!(explained["refusals"]["reason"], "exhausted", "{explained}");
    assert_eq!(explained["login_now"]["decision"], "exhausted", "{explained}");
    let events: Vec<_> = daemon.history("u1").iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(events.len(), 2, "{events:?}");
    daemon.verify();
}

#[test]
fn a_domain_has_its_own_cap_inside_the_licence() {
    let branch =
        people(0..5).replace("example.org", "branch.example.org").replace("-0000-4000", "-0001-4000");
    let corp = ldif_directory("corp", "example.org", "corp.ldif");
    let capped = ldif_directory("branch", "branch.example.org", "branch.ldif") + "seat_limit = 2\n";
    let daemon = Daemon::start(Settings {
        seats: 4,
        top: "default_domain = \"example.org\"".to_owned(),
        tables: corp + &capped,
        files: vec![("corp.ldif", people(0..5)), ("branch.ldif", branch)],
        ..Settings::default()
    });
    daemon.expect("u0@branch.example.org", "granted");
    daemon.expect("u1@branch.example.org", "granted");
    let message = daemon.expect("u2@branch.example.org", "domain_exhausted");
    assert!(message.contains("of your domain"), "{message}");
    let refused = daemon.grant("u2@branch.example.org").problem(409);
    assert!(refused.contains("domain_exhausted"), "{refused}");
    daemon.expect("u0@branch.example.org", "held");
    // The others have what is left of the licence, which is the limit for all.
    daemon.expect("u0", "granted");
    daemon.expect("u1@example.org", "granted");
    daemon.expect("u2", "exhausted");
    daemon.expect("u3@branch.example.org", "exhausted");
    let status = daemon.status();
    let branch = crate::support::daemon::directory(&status, "branch");
    assert_eq!((&branch["seats_used"], &branch["seat_limit"]), (&2.into(), &2.into()));
    // A seat that comes free in the licence does not lift the cap.
    daemon.release("u0");
    daemon.expect("u3@branch.example.org", "domain_exhausted");
    daemon.release("u0@branch.example.org");
    daemon.expect("u3@branch.example.org", "granted");
    daemon.verify();
}
