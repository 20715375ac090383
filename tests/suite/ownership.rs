//! Who owns a name, at every door: two tenants on one real slapd, whose people write their own entries.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, HTTP, LDIF, Settings, no_brake};
use crate::support::slapd::{Options, PEOPLE, Slapd, entry_uuid, installed, people, person};

const TENANTS: [(&str, &str); 2] = [("a", "a.org"), ("b", "b.org")];

/// A person of a tenant with the password `secret-LOGIN`; `more` are lines of the entry.
fn entry(number: u32, tenant: &str, login: &str, more: &str) -> String {
    let uuid = entry_uuid(number);
    format!(
        "dn: uid={login},ou={tenant},{PEOPLE}\nobjectClass: inetOrgPerson\nuid: {login}\ncn: {login}\nsn: x\n\
         entryUUID: {uuid}\nuserPassword: secret-{login}\n{more}\n"
    )
}

/// Tenant `a` has `eve` and `ann`, tenant `b` has `ceo` and `bob`.
fn tenants() -> Slapd {
    let unit =
        |(tenant, _)| format!("dn: ou={tenant},{PEOPLE}\nobjectClass: organizationalUnit\nou: {tenant}\n\n");
    let data = TENANTS.map(unit).concat()
        + &entry(1, "a", "eve", "mail: eve@a.org\n")
        + &entry(2, "a", "ann", "mail: ann@a.org\n")
        + &entry(3, "b", "ceo", "mail: ceo@b.org\n")
        + &entry(4, "b", "bob", "mail: bob@b.org\n");
    Slapd::start(Options { data, ..Options::default() })
}

fn settings(slapd: &Slapd, keys: &str) -> Settings {
    let directory = |(tenant, domain): (&str, &str)| {
        format!(
            "[[directory.ldap]]\nname = \"{tenant}\"\ndomain = \"{domain}\"\nurls = [\"{}\"]\n\
             base_dn = \"ou={tenant},{PEOPLE}\"\nbind_dn = \"{}\"\nbind_password_file = {:?}\n\
             poll_every = \"1h\"\nsync = \"sweep\"\n{keys}\n{}",
            slapd.url(),
            slapd.bind_dn(),
            slapd.password_file(),
            no_brake("ldap"),
        )
    };
    let maps = "[[listen.socketmap]]\nbind = \"127.0.0.1:0\"\nmailbox = \"{domain}/{login}/\"\n";
    Settings {
        seats: 10,
        tables: TENANTS.map(directory).concat(),
        listeners: HTTP.to_owned() + maps,
        ..Settings::default()
    }
}

fn log_in(daemon: &Daemon, user: &str, password: &str) -> String {
    let body = json!({ "user": user, "password": password }).to_string();
    let answer = daemon.http().ask("POST", "/v1/authenticate", &body).unwrap();
    answer.json()["decision"].as_str().unwrap().to_owned()
}

/// What Postfix finds in one of the maps.
fn look_up(daemon: &Daemon, map: &str, key: &str) -> String {
    let table = format!("socketmap:inet:127.0.0.1:{}:{map}", daemon.port("socketmap"));
    let output = installed("postmap", "postfix").args(["-q", key, &table]).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
}

fn set_mail(slapd: &Slapd, dn: &str, values: &[&str]) {
    let lines: String = values.iter().map(|value| format!("mail: {value}\n")).collect();
    slapd.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: mail\n{lines}"));
}

#[test]
fn an_address_of_another_tenant_opens_nothing_and_gets_no_mail() {
    let slapd = tenants();
    // Eve claims it before the other tenant is mapped for the first time.
    set_mail(&slapd, &format!("uid=eve,ou=a,{PEOPLE}"), &["eve@a.org", "ceo@b.org", "free@b.org"]);
    let daemon = Daemon::start(settings(&slapd, ""));
    daemon.wait_for_log(&["event=name_clash", "name=ceo@b.org", "directory=a", "uid=eve"]);
    daemon.sync("a").unwrap();
    daemon.sync("b").unwrap();
    assert_eq!(log_in(&daemon, "ceo@b.org", "secret-eve"), "wrong_password");
    assert_eq!(log_in(&daemon, "free@b.org", "secret-eve"), "wrong_password");
    assert_eq!(log_in(&daemon, "ceo@b.org", "secret-ceo"), "granted");
    assert_eq!(log_in(&daemon, "eve@a.org", "secret-eve"), "granted");
    assert_eq!(look_up(&daemon, "mailboxes", "ceo@b.org"), "b.org/ceo/");
    assert_eq!(look_up(&daemon, "mailboxes", "free@b.org"), "");
    // Nor while the owner is missing from a sweep.
    slapd.delete(&format!("uid=ceo,ou=b,{PEOPLE}"));
    daemon.sync("b").unwrap();
    assert_eq!(log_in(&daemon, "ceo@b.org", "secret-eve"), "wrong_password");
    daemon.expect("ceo@b.org", "removed");
    let explained = daemon.explain("eve@a.org");
    assert_eq!(explained["names_held_by_others"], json!(["ceo@b.org", "free@b.org"]));
    // Nor as an alias of an account, nor in a file.
    let added = daemon.command(&["account", "add", "x@c.org", "--alias", "boss@b.org"]);
    assert!(!added.status.success());
    assert!(
        String::from_utf8_lossy(&added.stderr).contains("the directory b serves the domain b.org"),
        "{added:?}"
    );
    daemon.write("import.csv", "address,name,aliases\ny@c.org,Y,boss@b.org\n");
    let file = daemon.path("import.csv");
    let imported = daemon.command(&["import", file.to_str().unwrap(), "--domain", "c.org"]);
    assert!(String::from_utf8_lossy(&imported.stdout).contains("boss@b.org is not in c.org"), "{imported:?}");
    daemon.expect("boss@b.org", "unknown_user");
    daemon.verify();
}

#[test]
fn logins_and_mail_are_looked_up_apart() {
    let slapd = tenants();
    let daemon = Daemon::start(settings(&slapd, ""));
    // Eve takes Ann's login name as an address: Ann logs in, and mail goes to whoever has it as an address.
    set_mail(&slapd, &format!("uid=ann,ou=a,{PEOPLE}"), &["ann.other@a.org"]);
    daemon.sync("a").unwrap();
    set_mail(&slapd, &format!("uid=eve,ou=a,{PEOPLE}"), &["eve@a.org", "ann@a.org"]);
    daemon.sync("a").unwrap();
    assert_eq!(log_in(&daemon, "ann@a.org", "secret-eve"), "wrong_password");
    assert_eq!(log_in(&daemon, "ann@a.org", "secret-ann"), "granted");
    assert_eq!(look_up(&daemon, "mailboxes", "ann.other@a.org"), "a.org/ann/");
    assert_eq!(look_up(&daemon, "mailboxes", "ann@a.org"), "a.org/eve/");
    daemon.verify();
}

#[test]
fn login_names_are_no_addresses_where_that_is_switched_off() {
    let slapd = tenants();
    set_mail(&slapd, &format!("uid=ann,ou=a,{PEOPLE}"), &["ann.other@a.org", "x@else.org"]);
    let mut daemon = Daemon::start(settings(&slapd, "login_is_address = false\nforeign_names = false"));
    assert_eq!(log_in(&daemon, "ann@a.org", "secret-ann"), "granted");
    assert_eq!(look_up(&daemon, "mailboxes", "ann@a.org"), "");
    assert_eq!(look_up(&daemon, "mailboxes", "x@else.org"), "");
    assert_eq!(look_up(&daemon, "mailboxes", "ann.other@a.org"), "a.org/ann/");
    assert_eq!(log_in(&daemon, "x@else.org", "secret-ann"), "wrong_password");
    // What is left out is counted.
    set_mail(&slapd, &format!("uid=eve,ou=a,{PEOPLE}"), &[]);
    let report = daemon.sync("a").unwrap();
    assert_eq!((&report["foreign_names"], &report["logins_only"]), (&json!(1), &json!(1)));
    let shown = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    let note = "a: 1 address left out (foreign_names = false), 1 user mapped for logins only (login_is_address = false)";
    assert!(shown.contains(note), "{shown}");
    // A reload is enough to have them back.
    daemon.configure(&settings(&slapd, ""));
    daemon.reload().unwrap();
    assert_eq!(look_up(&daemon, "mailboxes", "ann@a.org"), "a.org/ann/");
    assert_eq!(look_up(&daemon, "mailboxes", "x@else.org"), "a.org/ann/");
    daemon.verify();
}

#[test]
fn nobody_becomes_the_administrator_by_an_address() {
    let slapd = tenants();
    set_mail(&slapd, &format!("uid=eve,ou=a,{PEOPLE}"), &["eve@a.org", "root@a.org"]);
    let with = |admin: &str| {
        let mut settings = settings(&slapd, "");
        settings.tables += &format!("[admin]\naddress = \"root@a.org\"\n{admin}");
        settings
    };
    let mut daemon = Daemon::start(with(""));
    let is_error = daemon.wait_for_log(&["event=name_clash", "name=root@a.org", "uid=eve"]);
    assert!(is_error.contains("ERROR"), "{is_error}");
    assert_eq!(log_in(&daemon, "root@a.org", "secret-eve"), "wrong_password");
    assert_eq!(look_up(&daemon, "mailboxes", "root@a.org"), "a.org/root/");
    daemon.expect("root@a.org", "exempt");
    daemon.expect("eve@a.org", "granted");
    let added = daemon.command(&["account", "add", "x@c.org", "--alias", "root@a.org"]);
    assert!(
        String::from_utf8_lossy(&added.stderr).contains("the internal administrator's address"),
        "{added:?}"
    );

    // An import is told of it as well.
    daemon.write("people.csv", "kim@a.org,Kim,root@a.org\n");
    let file = daemon.path("people.csv");
    let imported = daemon.command(&["import", file.to_str().unwrap(), "--domain", "a.org"]);
    assert!(imported.status.success(), "{imported:?}");
    daemon.wait_for_log(&["ERROR", "event=name_clash", "name=root@a.org", "kim@a.org is mapped without"]);
    daemon.expect("root@a.org", "exempt");
    daemon.expect("kim@a.org", "held");
    assert!(daemon.command(&["account", "remove", "kim@a.org"]).status.success());

    // A local account of that address is, and only while it is enabled.
    let passwd = |user: &str| {
        let script = format!(
            "echo secret-root | {} --config {} account passwd {user}",
            crate::support::daemon::SEATKEEPER,
            daemon.config().display()
        );
        assert!(Command::new("sh").args(["-c", &script]).output().unwrap().status.success());
    };
    assert!(daemon.command(&["account", "add", "root@a.org"]).status.success());
    passwd("root@a.org");
    assert_eq!(log_in(&daemon, "root@a.org", "secret-root"), "exempt");
    assert_eq!(look_up(&daemon, "seated", "root@a.org"), "root@a.org");
    assert!(daemon.command(&["account", "disable", "root@a.org"]).status.success());
    assert_eq!(log_in(&daemon, "root@a.org", "secret-root"), "wrong_password");
    assert_eq!(look_up(&daemon, "seated", "root@a.org"), "root@a.org");
    assert!(daemon.command(&["account", "remove", "root@a.org"]).status.success());

    // Or the entry with that login name, and no other.
    slapd.add(&entry(9, "a", "root", ""));
    daemon.configure(&with("directory = \"a\"\n"));
    daemon.reload().unwrap();
    daemon.sync("a").unwrap();
    assert_eq!(log_in(&daemon, "root@a.org", "secret-root"), "exempt");
    assert_eq!(log_in(&daemon, "root@a.org", "secret-eve"), "wrong_password");
    assert_eq!(daemon.seats_used(), 1);
    daemon.verify();
}

/// An administrator names a user by whatever stands in a list, and frees the names and the seat of a removed one.
#[test]
fn a_removed_user_can_be_forgotten() {
    let daemon = Daemon::start(Settings::ldif(1, &people(0..3)));
    daemon.expect("u0", "granted");
    let alias = person(1).replace("mail: u1@", "mail: u0@example.org\nmail: u1@");
    daemon.write(LDIF, &(alias.clone() + &person(2)));
    daemon.sync("people").unwrap();
    daemon.expect("u0", "removed");
    daemon.expect("u1", "exhausted");
    let run = |arguments: &[&str]| {
        let output = daemon.command(arguments);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = run(&["users", "forget", "u1"]);
    assert!(code == Some(1) && said.contains("is not removed"), "{said}");
    for text in ["u0", "u0@example.org", &entry_uuid(0), &format!("UID=u0,{PEOPLE}")] {
        let (code, said) = run(&["explain", text]);
        assert!(code == Some(0) && said.contains(&entry_uuid(0)), "{text}: {said}");
    }
    let users: Value = serde_json::from_str(&run(&["--json", "users"]).1).unwrap();
    let listed = &users["users"][0];
    assert_eq!((&listed["id"], &listed["dn"]), (&json!(entry_uuid(0)), &json!(format!("uid=u0,{PEOPLE}"))));
    // Nor does a name that looks like the id of another.
    let posing = person(2).replace("mail: u2@", &format!("mail: {}\nmail: u2@", entry_uuid(0)));
    daemon.write(LDIF, &(alias.clone() + &posing));
    daemon.sync("people").unwrap();
    let (code, said) = run(&["users", "forget", &entry_uuid(0)]);
    assert!(code == Some(1) && said.contains("may mean"), "{said}");
    daemon.write(LDIF, &(alias + &person(2)));
    daemon.sync("people").unwrap();
    let (code, said) = run(&["users", "forget", &entry_uuid(0)]);
    assert!(code == Some(0) && said.contains("The user was forgotten and the seat released."), "{said}");
    daemon.expect("u1", "granted");
    // The name goes to the entry that waited for it.
    daemon.expect("u0@example.org", "held");
    daemon.verify();
}

#[test]
fn a_name_of_two_users_is_not_guessed() {
    let shared = person(1).replace("mail: u1@", "mail: u0@example.org\nmail: u1@");
    let without = person(0).replace("mail: u0@example.org\n", "");
    let daemon = Daemon::start(Settings::ldif(3, &(without + &shared)));
    let output = daemon.command(&["seats", "grant", "u0@example.org"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains(&entry_uuid(0)) && said.contains(&entry_uuid(1)),
        "{said}"
    );
    assert!(daemon.command(&["seats", "grant", &entry_uuid(0)]).status.success());
    assert!(daemon.command(&["seats", "release", &entry_uuid(0)]).status.success());
    assert_eq!(daemon.seats_used(), 0);
    daemon.verify();
}

/// What tombstones give away, and to whom.
#[test]
fn a_new_entry_with_the_login_name_has_all_names_of_the_old() {
    let daemon = Daemon::start(Settings::ldif(5, &people(0..2)));
    daemon.expect("u0", "granted");
    let alias = person(0).replace("mail: u0@", "mail: alias@example.org\nmail: u0@");
    daemon.write(LDIF, &(alias.clone() + &person(1)));
    daemon.sync("people").unwrap();
    let again = alias.replace(&entry_uuid(0), &entry_uuid(77));
    daemon.write(LDIF, &(again + &person(1)));
    daemon.sync("people").unwrap();
    for name in ["u0", "u0@example.org", "alias@example.org"] {
        let explained = daemon.explain(name);
        assert_eq!(explained["id"], entry_uuid(77), "{explained}");
        assert_eq!(explained["seat"], Value::Null);
    }
    daemon.verify();
}

/// A block under another name maps the same people: who held a seat before the reload holds it after it.
#[test]
fn a_block_that_is_renamed_keeps_its_seats() {
    let mut settings = Settings::ldif(2, &people(0..3));
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("u0", "granted");
    daemon.expect("u1", "granted");
    settings.tables = settings.tables.replace("\"people\"", "\"staff\"");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    daemon.sync("staff").unwrap();
    let line = daemon.wait_for_log(&["event=seat_moved", "directory=staff", "u0@example.org"]);
    assert!(line.contains("was in people before"), "{line}");
    for user in ["u0", "u1"] {
        daemon.expect(user, "held");
        assert_eq!(daemon.explain(user)["directory"], "staff");
    }
    daemon.expect("u2", "exhausted");
    assert_eq!(daemon.history("u0").len(), 1);
    daemon.verify();
}

/// What a reload takes from somebody stands in the log.
#[test]
fn a_reload_that_takes_a_name_says_so() {
    let slapd = tenants();
    set_mail(&slapd, &format!("uid=eve,ou=a,{PEOPLE}"), &["eve@a.org", "eve@else.org"]);
    let mut settings = settings(&slapd, "");
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("eve@else.org", "granted");
    settings.tables = settings.tables.replace("domain = \"b.org\"", "domains = [\"b.org\", \"else.org\"]");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    daemon.wait_for_log(&["WARN", "event=name_clash", "name=eve@else.org", "uid=eve"]);
    daemon.wait_for_log(&["WARN", "The configuration took", "from their owners"]);
    daemon.expect("eve@else.org", "unknown_user");
    daemon.expect("eve@a.org", "held");
    daemon.verify();
}

/// What a change of the configuration takes is told by a dry run before the reload, and the brake lets it through.
#[test]
fn what_another_configuration_takes_is_listed_before_and_is_no_loss() {
    let entries: Vec<String> = (0..30)
        .map(|number| person(number) + &format!("mailAlternateAddress: second{number}@example.org\n\n"))
        .map(|entry| entry.replace("\n\nmailAlt", "\nmailAlt"))
        .collect();
    let both = "mail = [\"mail\", \"mailAlternateAddress\"]\n";
    let mut settings = Settings::ldif(50, &entries.concat());
    let with =
        |attributes: &str| settings.tables.clone() + &format!("[directory.ldif.attributes]\n{attributes}");
    let (first, second) = (with(both), with("mail = [\"mail\"]\n"));
    settings.tables = first;
    let mut daemon = Daemon::start(settings.clone());
    daemon.expect("second7@example.org", "granted");

    settings.tables = second;
    daemon.configure(&settings);
    let report = daemon.dry_run("people").unwrap();
    assert_eq!((&report["names_taken"]["names"], &report["held"]), (&json!(30), &Value::Null), "{report}");
    let said = report["names_taken"]["first"].as_array().unwrap();
    assert_eq!(said.len(), 20);
    assert!(
        said.iter().any(|taken| taken["name"] == "second7@example.org" && taken["user"] == "u7@example.org")
    );
    daemon.expect("second7@example.org", "held");

    daemon.reload().unwrap();
    daemon.sync("people").unwrap();
    assert_eq!(daemon.status()["directories"][0]["held"], Value::Null);
    assert_eq!(daemon.probe("second7@example.org"), "unknown_user");
    daemon.expect("u7", "held");

    // From now on it is a loss again, which the directory may take by mistake.
    let fewer = entries
        .iter()
        .map(|entry| entry.lines().filter(|line| !line.starts_with("mail: ")).collect::<Vec<_>>().join("\n"));
    daemon.write(LDIF, &fewer.map(|entry| entry + "\n\n").collect::<String>());
    daemon.sync("people").unwrap();
    assert_ne!(daemon.status()["directories"][0]["held"], Value::Null);
    daemon.verify();
}

/// Names that go to another directory by a change of its domains.
#[test]
fn what_a_domain_takes_is_listed_before() {
    let slapd = tenants();
    set_mail(&slapd, &format!("uid=eve,ou=a,{PEOPLE}"), &["eve@a.org", "eve@else.org"]);
    let mut settings = settings(&slapd, "");
    let daemon = Daemon::start(settings.clone());
    daemon.expect("eve@else.org", "granted");
    settings.tables = settings.tables.replace("domain = \"b.org\"", "domains = [\"b.org\", \"else.org\"]");
    daemon.configure(&settings);
    let report = daemon.dry_run("a").unwrap();
    let taken = &report["names_taken"];
    assert_eq!(taken["names"], 1, "{report}");
    assert_eq!(taken["first"][0]["name"], "eve@else.org");
    assert_eq!(taken["first"][0]["reason"], "other directories serve its domain");
    daemon.expect("eve@else.org", "held");
    // A file with a mistake says so.
    settings.tables = settings.tables.replace("poll_every", "poll_evry");
    daemon.configure(&settings);
    let said = daemon.dry_run("a").unwrap_err();
    assert!(said.contains("the configuration has mistakes") && said.contains("poll_evry"), "{said}");
}

/// A name that only its bearer claims, in a domain that is another tenant's, is no way to a seat.
#[test]
fn an_administrator_gives_no_seat_by_a_name_that_is_not_owned() {
    let slapd = tenants();
    set_mail(&slapd, &format!("uid=eve,ou=a,{PEOPLE}"), &["eve@a.org", "boss@b.org"]);
    let daemon = Daemon::start(settings(&slapd, ""));
    daemon.write("list", "boss@b.org\nann@a.org\n");
    let list = daemon.path("list");
    let granted = daemon.command(&["seats", "grant", "boss@b.org"]);
    assert!(!granted.status.success(), "{granted:?}");
    daemon.command(&["seats", "grant", "--file", list.to_str().unwrap(), "--partial"]);
    assert_eq!(daemon.seats_used(), 1, "ann's");
    daemon.expect("ann@a.org", "held");
    // She is found all the same.
    let shown = String::from_utf8(daemon.command(&["explain", "boss@b.org"]).stdout).unwrap();
    assert!(shown.contains("other directories serve its domain"), "{shown}");
}
