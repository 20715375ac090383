//! Seats follow people: to another directory, to new ids, and out of directories that are gone.

use serde_json::Value;

use crate::support::daemon::{Daemon, HTTP, Settings, no_brake};
use crate::support::samba::{self, SambaAd};
use crate::support::slapd::{Options, PEOPLE, Slapd, entry_uuid, installed, people, person};

/// A block on a server; `keys` is more of it.
fn block(name: &str, domain: &str, slapd: &Slapd, keys: &str) -> String {
    format!(
        "[[directory.ldap]]\nname = \"{name}\"\ndomain = \"{domain}\"\nurls = [\"{}\"]\nbase_dn = \"{PEOPLE}\"\n\
         bind_dn = \"{}\"\nbind_password_file = {:?}\npoll_every = \"1h\"\nsync = \"sweep\"\n{keys}\n{}",
        slapd.url(),
        slapd.bind_dn(),
        slapd.password_file(),
        no_brake("ldap"),
    )
}

fn server(data: String) -> Slapd {
    Slapd::start(Options { data, ..Options::default() })
}

/// Entries with the ids of [`people`] and addresses in another domain.
fn elsewhere(numbers: std::ops::Range<u32>) -> String {
    people(numbers).replace("@example.org", "@new.example")
}

fn settings(seats: u64, tables: &[String]) -> Settings {
    let maps = "[[listen.socketmap]]\nbind = \"127.0.0.1:0\"\nmailbox = \"{domain}/{login}/\"\n";
    Settings { seats, tables: tables.concat(), listeners: HTTP.to_owned() + maps, ..Settings::default() }
}

/// A copy of a server under a new domain: everybody is in both, and holds one seat.
#[test]
fn a_holder_is_held_in_both_blocks_with_moved_from() {
    let (old, new) = (server(people(0..3)), server(elsewhere(0..3)));
    let old_block = block("old", "example.org", &old, "");
    let mut daemon = Daemon::start(settings(2, std::slice::from_ref(&old_block)));
    daemon.expect("u0@example.org", "granted");
    daemon.expect("u1@example.org", "granted");

    // Without it they are two people, and the seats are all taken.
    daemon.configure(&settings(2, &[old_block.clone(), block("new", "new.example", &new, "")]));
    daemon.reload().unwrap();
    daemon.sync("new").unwrap();
    daemon.expect("u0@new.example", "exhausted");

    let moved_from = "moved_from = [\"old\"]\nseat_limit = 1\n";
    daemon.configure(&settings(2, &[old_block, block("new", "new.example", &new, moved_from)]));
    daemon.reload().unwrap();
    // At once, and past the cap of the new block.
    for user in ["u0@new.example", "u0@example.org", "u1@new.example", "u1@example.org"] {
        daemon.expect(user, "held");
    }
    daemon.wait_for_log(&[
        "event=seat_moved",
        "directory=new",
        "from=old",
        "u0@example.org",
        "u0@new.example",
    ]);
    daemon.wait_for("both seats to be in the new block", |status| seats_of(status, "new") == 2);
    assert_eq!(daemon.seats_used(), 2);
    daemon.expect("u2@new.example", "exhausted");
    // Commands and look-ups find the seat by either name.
    let holders = format!("socketmap:inet:127.0.0.1:{}:seated", daemon.port("socketmap"));
    let is_holder = |name: &str| {
        let found = installed("postmap", "postfix").args(["-q", name, &holders]).output().unwrap();
        found.status.success()
    };
    assert!(is_holder("u0@example.org") && is_holder("u0@new.example") && !is_holder("u2@example.org"));
    let (is_done, said) = run(&daemon, &["seats", "release", "u0@example.org"]);
    assert!(is_done && said.contains("The seat was released. (1 seat in use)"), "{said}");
    daemon.expect("u0@example.org", "granted");
    daemon.expect("u0@new.example", "held");
    // The old server is given up.
    daemon.configure(&settings(2, &[block("new", "new.example", &new, "")]));
    daemon.reload().unwrap();
    daemon.sync("new").unwrap();
    daemon.expect("u1@new.example", "held");
    daemon.verify();
}

fn seats_of(status: &Value, directory: &str) -> u64 {
    let directories = status["directories"].as_array().unwrap();
    directories.iter().find(|it| it["name"] == directory).unwrap()["seats_used"].as_u64().unwrap()
}

/// A person is moved to another unit, whose block is swept before the block of the old one.
#[test]
fn an_entry_that_was_in_both_blocks_keeps_the_seat_when_one_is_gone() {
    let (old, new) = (server(people(0..3)), server(elsewhere(0..3)));
    let blocks = [block("old", "example.org", &old, ""), block("new", "new.example", &new, "")];
    let mut daemon = Daemon::start(settings(2, &blocks));
    daemon.expect("u0@example.org", "granted");
    daemon.expect("u1@example.org", "granted");
    daemon.expect("u0@new.example", "exhausted");
    old.delete(&format!("uid=u0,{PEOPLE}"));
    daemon.sync("old").unwrap();
    daemon.wait_for_log(&["event=user_removed", "u0@example.org", "keeps_seat=false"]);
    daemon.wait_for_log(&["event=seat_moved", "directory=new", "u0@new.example"]);
    daemon.expect("u0@new.example", "held");
    daemon.expect("u1@new.example", "exhausted");
    // A crash between the reload and the move loses nothing: the next start goes on.
    daemon.configure(&settings(2, &blocks[1..]));
    daemon.kill9();
    daemon.restart();
    daemon.expect("u1@new.example", "held");
    daemon.wait_for("the seat to be in the new block", |status| seats_of(status, "new") == 2);
    assert_eq!(daemon.history("u1@new.example")[0]["event"], "moved");
    daemon.verify();
}

/// Whoever may write entries of one directory copies the entryUUID of a holder of another.
#[test]
fn a_copied_entry_uuid_takes_nothing_from_a_living_holder() {
    let (victims, attackers) = (server(people(0..2)), server(elsewhere(5..6)));
    let blocks =
        [block("victims", "example.org", &victims, ""), block("attackers", "new.example", &attackers, "")];
    let mut daemon = Daemon::start(settings(1, &blocks));
    daemon.expect("u0@example.org", "granted");
    let posing = |login: &str| {
        person(7)
            .replace("u7", login)
            .replace(&entry_uuid(7), &entry_uuid(0))
            .replace("@example.org", "@new.example")
    };
    attackers.add(&posing("eve"));
    daemon.sync("attackers").unwrap();
    assert_eq!(daemon.explain("eve@new.example")["id"], entry_uuid(0));
    daemon.expect("eve@new.example", "exhausted");
    attackers.delete(&format!("uid=eve,{PEOPLE}"));
    daemon.sync("attackers").unwrap();
    attackers.add(&posing("eve2"));
    daemon.sync("attackers").unwrap();
    daemon.expect("eve2@new.example", "exhausted");
    daemon.expect("u0@example.org", "held");
    // The server of the victims is down, or shows nothing of them: that moves nobody either.
    victims.stop();
    assert!(daemon.sync("attackers").is_ok());
    daemon.expect("eve2@new.example", "exhausted");
    victims.resume();
    // Nor does the configuration of the attackers, when it goes.
    daemon.configure(&settings(1, &blocks[..1]));
    daemon.reload().unwrap();
    daemon.sync("victims").unwrap();
    daemon.expect("u0@example.org", "held");
    assert_eq!(daemon.explain("u0@example.org")["seat"]["by"], "login (imap)");
    daemon.verify();
}

/// What a command prints, and whether it succeeded.
fn run(daemon: &Daemon, arguments: &[&str]) -> (bool, String) {
    let output = daemon.command(arguments);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
fn run_json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (is_done, said) = run(daemon, &[&["--json"], arguments].concat());
    assert!(is_done, "{arguments:?}: {said}");
    serde_json::from_str(&said).unwrap()
}

/// Everybody is deleted and loaded again, so that the ids are new.
fn load_again(slapd: &Slapd, numbers: std::ops::Range<u32>) {
    let delete = |number| format!("dn: uid=u{number},{PEOPLE}\nchangetype: delete\n\n");
    slapd.modify(&numbers.clone().map(delete).collect::<String>());
    let add = |number| person(number).replace(&entry_uuid(number), &entry_uuid(number + 1000));
    slapd.add(&numbers.map(add).collect::<String>());
}

#[test]
fn an_approval_carries_the_seats_of_people_who_were_loaded_again() {
    let slapd = server(people(0..10));
    let daemon = Daemon::start(Settings::ldap(3, &slapd, "sync = \"sweep\""));
    for user in ["u0", "u1", "u2"] {
        daemon.expect(user, "granted");
    }
    daemon.expect("u3", "exhausted");
    load_again(&slapd, 0..10);
    // One left, and one has another login name besides.
    slapd.delete(&format!("uid=u2,{PEOPLE}"));
    slapd.delete(&format!("uid=u1,{PEOPLE}"));
    let renamed = person(1).replace("u1", "w1").replace("w1@example.org", "u1@example.org");
    slapd.add(&renamed.replace(&entry_uuid(1), &entry_uuid(1001)));
    assert_eq!(daemon.sync("corp").unwrap()["held"]["removed"], 10);
    let report = run_json(&daemon, &["sync", "approve", "corp", "--match", "mail", "--wait"]);
    let moves = &report["moves"];
    // u3 had been refused, which goes along.
    assert_eq!((&moves["moved_total"], &moves["seats_moved"]), (&3.into(), &2.into()), "{report}");
    assert_eq!(report["seats_released_after_grace"], 1, "{report}");
    let skipped = &moves["skipped"][0];
    assert_eq!((&skipped["old"]["user"], &skipped["reason"]), (&"u2@example.org".into(), &"no_match".into()));
    for user in ["u0", "u1"] {
        daemon.expect(user, "held");
        let explained = daemon.explain(user);
        assert_eq!(explained["id"], entry_uuid(if user == "u0" { 1000 } else { 1001 }));
        assert_eq!(explained["seat"]["by"], "login (imap)");
        assert!(explained["last_login"]["at"].is_string(), "{explained}");
        let events: Vec<String> =
            daemon.history(user).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
        assert_eq!(events, ["moved", "granted"]);
    }
    assert_eq!(daemon.explain("u3")["refusals"]["reason"], "exhausted");
    assert_eq!(daemon.seats_used(), 3);
    daemon.wait_for_log(&["event=seat_moved", "u0@example.org", "directory=corp", "from=corp"]);
    daemon.verify();
}

/// An approval without a match leaves the seats with the tombstones; commands find them there.
#[test]
fn commands_find_a_removed_entry_that_has_the_seat() {
    let slapd = server(people(0..6));
    let daemon = Daemon::start(Settings::ldap(3, &slapd, "sync = \"sweep\""));
    for user in ["u0", "u1", "u2"] {
        daemon.expect(user, "granted");
    }
    load_again(&slapd, 0..6);
    daemon.sync("corp").unwrap();
    daemon.approve("corp").unwrap();
    daemon.expect("u0", "exhausted");
    // By name, login, id and DN, all of which the new entry has too, but for the id.
    let explained = daemon.explain("u0");
    assert_eq!(explained["id"], entry_uuid(1000));
    assert_eq!(explained["removed_holders"][0]["id"], entry_uuid(0), "{explained}");
    let (_, said) = run(&daemon, &["explain", "u0"]);
    assert!(
        said.contains(&format!("seatkeeper seats move {} {}", entry_uuid(0), entry_uuid(1000))),
        "{said}"
    );
    let (is_done, said) = run(&daemon, &["seats", "grant", "u0"]);
    assert!(!is_done && said.contains(&entry_uuid(0)), "{said}");
    let (is_done, said) = run(&daemon, &["explain", &entry_uuid(0)]);
    assert!(is_done && said.contains("keeps the seat for the grace period"), "{said}");
    let (is_done, said) = run(&daemon, &["explain", &format!("uid=u0,{PEOPLE}")]);
    assert!(is_done && said.contains(&entry_uuid(1000)), "{said}");

    // The same name for both: the old entry is the one with the seat, the new one the one that lives.
    let (is_done, said) = run(&daemon, &["seats", "move", "u0", "u0"]);
    assert!(is_done && said.contains("1 user with 1 seat moved"), "{said}");
    daemon.expect("u0", "held");
    let (is_done, said) = run(&daemon, &["seats", "move", "u0", "u0"]);
    assert!(!is_done && said.contains("both are the same user"), "{said}");
    let (is_done, said) = run(&daemon, &["seats", "release", &format!("uid=u1,{PEOPLE}")]);
    assert!(is_done && said.contains("The seat was released. (2 seats in use)"), "{said}");
    daemon.expect("u1", "granted");
    let (is_done, said) = run(&daemon, &["seats", "release", "u2@example.org"]);
    assert!(is_done && said.contains("The seat was released. (2 seats in use)"), "{said}");
    // A tombstone gets no seat, and the name does not mean it.
    let (is_done, said) = run(&daemon, &["seats", "grant", &entry_uuid(2)]);
    assert!(!is_done, "{said}");
    let (is_done, said) = run(&daemon, &["users", "forget", "u2@example.org"]);
    assert!(is_done && said.contains("forgotten"), "{said}");
    daemon.expect("u2", "granted");
    daemon.verify();
}

/// The same directory, later: tombstones to the living, bounded batches, and again without an effect.
#[test]
fn seats_are_moved_within_a_directory_and_again() {
    let slapd = server(people(0..450));
    let daemon = Daemon::start(Settings::ldap(450, &slapd, "sync = \"sweep\""));
    for number in 0..450 {
        daemon.expect(&format!("u{number}"), "granted");
    }
    load_again(&slapd, 0..450);
    daemon.sync("corp").unwrap();
    daemon.approve("corp").unwrap();
    let dry = run_json(
        &daemon,
        &["seats", "move", "--match", "login", "--from", "corp", "--to", "corp", "--dry-run"],
    );
    assert_eq!((&dry["seats_moved"], &dry["dry_run"]), (&450.into(), &true.into()));
    daemon.expect("u0", "exhausted");
    let moved = run_json(&daemon, &["seats", "move", "--match", "login", "--from", "corp", "--to", "corp"]);
    assert_eq!((&moved["seats_moved"], &moved["skipped_total"]), (&450.into(), &0.into()));
    daemon.expect("u0", "held");
    daemon.expect("u449", "held");
    let again = run_json(&daemon, &["seats", "move", "--match", "login", "--from", "corp", "--to", "corp"]);
    assert_eq!(again["moved_total"], 0);
    assert_eq!(daemon.seats_used(), 450);
    daemon.verify();
}

/// An OpenLDAP is replaced by Active Directory, under another name for the same domain: all ids are others.
#[test]
fn seats_are_moved_from_openldap_to_active_directory() {
    let (old, new) = (
        server(people(0..5)),
        SambaAd::start(samba::Options { data: samba::people(0..5), ..samba::Options::default() }),
    );
    let mut daemon = Daemon::start(settings(3, &[block("openldap", "example.org", &old, "")]));
    for user in ["u0", "u1", "u2"] {
        daemon.expect(user, "granted");
    }
    let ad = format!(
        "[[directory.ldap]]\nname = \"ad\"\ndomain = \"example.org\"\nurls = [\"{}\"]\nbase_dn = \"{}\"\n\
         bind_dn = \"{}\"\nbind_password_file = {:?}\npoll_every = \"1h\"\ntls = {{ ca_file = {:?} }}\n",
        new.ldaps_url(),
        samba::PEOPLE,
        new.bind_dn(),
        new.password_file(),
        new.ca_file(),
    );
    // Another entry has the mail address of u1 as well.
    new.replace(&samba::dn(4), "mail", "u1@example.org");
    daemon.configure(&settings(3, &[ad]));
    daemon.reload().unwrap();
    daemon.sync("ad").unwrap();
    daemon.expect("u0", "exhausted");
    let report = run_json(&daemon, &["seats", "move", "--match", "mail", "--from", "openldap", "--to", "ad"]);
    assert_eq!(report["seats_moved"], 2, "{report}");
    let skipped = &report["skipped"][0];
    assert_eq!(
        (&skipped["old"]["user"], &skipped["reason"]),
        (&"u1@example.org".into(), &"several_new".into())
    );
    daemon.expect("u0", "held");
    daemon.expect("u0@ad.example.org", "held");
    daemon.expect("u2", "held");
    assert_eq!(daemon.explain("u0")["directory"], "ad");
    // The login name is not in doubt.
    let report =
        run_json(&daemon, &["seats", "move", "--match", "login", "--from", "openldap", "--to", "ad"]);
    assert_eq!(report["seats_moved"], 1, "{report}");
    daemon.expect("u1", "held");
    assert_eq!(daemon.seats_used(), 3);
    daemon.verify();
}

#[test]
fn a_renamed_block_takes_everything_along() {
    let slapd = server(people(0..4));
    let mut daemon = Daemon::start(settings(3, &[block("old", "example.org", &slapd, "")]));
    for user in ["u0", "u1", "u2"] {
        daemon.expect(user, "granted");
    }
    slapd.delete(&format!("uid=u2,{PEOPLE}"));
    daemon.sync("old").unwrap();
    let (is_done, said) = run(&daemon, &["directory", "rename", "old", "new"]);
    assert!(!is_done && said.contains("is in the configuration"), "{said}");
    daemon.configure(&settings(3, &[block("new", "example.org", &slapd, "")]));
    daemon.reload().unwrap();
    daemon.sync("new").unwrap();
    // Who is in the directory came along by the id; the removed user and the seat stayed behind.
    let listed = run_json(&daemon, &["directory", "list"]);
    let told: Vec<_> = listed["directories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["name"].as_str().unwrap(),
                it["configured"].as_bool().unwrap(),
                it["seats_used"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("new", true, 2), ("old", false, 1)]);
    let (is_done, said) = run(&daemon, &["directory", "rename", "old", "lab"]);
    assert!(!is_done && said.contains("there is no directory \"lab\" in the configuration"), "{said}");
    let (is_done, said) = run(&daemon, &["directory", "rename", "old", "new"]);
    assert!(is_done && said.contains("old: 1 user with 1 seat moved to new"), "{said}");
    daemon.wait_for_log(&["event=seat_moved", "directory=new", "from=old", "u2@example.org"]);
    daemon.expect("u2", "removed");
    slapd.add(&person(2));
    daemon.sync("new").unwrap();
    daemon.expect("u2", "held");
    daemon.expect("u0", "held");
    assert_eq!(daemon.history("u2").len(), 1);
    let listed = run_json(&daemon, &["directory", "list"]);
    assert_eq!(listed["directories"].as_array().unwrap().len(), 1, "{listed}");
    daemon.verify();
}

#[test]
fn a_directory_that_is_not_configured_takes_no_seats_and_can_be_forgotten() {
    let (old, new) = (server(people(0..4)), server(elsewhere(0..1)));
    let blocks = [block("old", "example.org", &old, ""), block("new", "new.example", &new, "")];
    let mut daemon = Daemon::start(settings(5, &blocks));
    for user in ["u0@example.org", "u1@example.org", "u2@example.org"] {
        daemon.expect(user, "granted");
    }
    old.delete(&format!("uid=u2,{PEOPLE}"));
    daemon.sync("old").unwrap();
    daemon.configure(&settings(5, &blocks[1..]));
    daemon.reload().unwrap();
    daemon.wait_for_log(&[" WARN ", "directory=old", "holders keep", "directory forget"]);
    daemon.expect("u1@example.org", "held");
    daemon.expect("u3@example.org", "not_seated");
    daemon.wait_for_log(&[
        " WARN ",
        "event=seat_refused",
        "u3@example.org",
        "reason=not_seated",
        "not configured any more",
    ]);
    let (_, said) = run(&daemon, &["seats", "grant", "u3@example.org"]);
    assert!(said.contains("not_seated"), "{said}");
    let (_, said) = run(&daemon, &["explain", "u3@example.org"]);
    assert!(
        said.contains("old, not configured any more") && said.contains("its users take no new seats"),
        "{said}"
    );
    let (_, said) = run(&daemon, &["status"]);
    assert!(said.contains("old: not configured: its users keep their seats and take no new ones"), "{said}");

    // u0 has an entry in the other directory; the seats of u1 and of the removed u2 would be lost.
    daemon.wait_for("the seat of u0 to move", |status| seats_of(status, "new") == 1);
    let dry = run_json(&daemon, &["directory", "forget", "old", "--dry-run"]);
    assert_eq!((&dry["seats_total"], &dry["users"]), (&2.into(), &4.into()), "{dry}");
    let mut names: Vec<&str> =
        dry["seats"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["u1@example.org", "u2@example.org"]);
    assert_eq!(daemon.seats_used(), 3);
    let (is_done, said) = run(&daemon, &["directory", "forget", "new"]);
    assert!(!is_done && said.contains("is in the configuration"), "{said}");
    let (is_done, said) = run(&daemon, &["directory", "forget", "old"]);
    assert!(is_done && said.contains("4 users forgotten, 2 seats released"), "{said}");
    daemon.expect("u1@example.org", "unknown_user");
    daemon.expect("u0@new.example", "held");
    let newest = &daemon.history("")[0];
    assert_eq!((&newest["event"], &newest["reason"]), (&"released".into(), &"removed".into()));
    let (is_done, said) = run(&daemon, &["directory", "forget", "old"]);
    assert!(!is_done && said.contains("nothing is stored of a directory \"old\""), "{said}");
    daemon.verify();
}
