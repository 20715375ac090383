//! Seats follow people: to another directory, to new ids, and out of directories that are gone.

use serde_json::Value;

use crate::support::daemon::{Daemon, Settings, no_brake};
use crate::support::slapd::{Options, PEOPLE, Slapd, entry_uuid, people, person};

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
    Settings { seats, tables: tables.concat(), ..Settings::default() }
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
