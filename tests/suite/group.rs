//! `required_group` on real servers: only its members are mapped, and leaving it is like leaving the filter.

use crate::support::daemon::{Daemon, Settings, directory, no_brake};
use crate::support::slapd::{self, PEOPLE, SUFFIX, Slapd, people, person};
use crate::support::{ds389, samba, wait_for};

const MAIL: &str = "cn=mail,dc=example,dc=org";

/// The DN of a numbered person.
fn dn(number: u32) -> String {
    format!("uid=u{number},{PEOPLE}")
}

/// LDIF of a group.
fn group(name: &str, members: &[String]) -> String {
    let members: String = members.iter().map(|member| format!("member: {member}\n")).collect();
    format!("dn: cn={name},{SUFFIX}\nobjectClass: groupOfNames\ncn: {name}\n{members}\n")
}

fn change(group: &str, how: &str, attribute: &str, value: &str) -> String {
    format!("dn: {group}\nchangetype: modify\n{how}: {attribute}\n{attribute}: {value}\n")
}

fn keys(group: &str, more: &str) -> String {
    format!("required_group = '{group}'\n{more}{}", no_brake("ldap"))
}

/// Swept or asked every second.
fn every_second(settings: Settings) -> Settings {
    Settings { tables: settings.tables.replace("poll_every = \"1h\"", "poll_every = \"1s\""), ..settings }
}

#[track_caller]
fn becomes(daemon: &Daemon, user: &str, decision: &str) {
    wait_for(&format!("{user} to be {decision}"), || (daemon.probe(user) == decision).then_some(()));
}

#[track_caller]
fn fails_with(daemon: &Daemon, error: &str) {
    daemon.wait_for(error, |status| {
        directory(status, "corp")["last_error"].as_str().is_some_and(|text| text.contains(error))
    });
}

#[track_caller]
fn users(daemon: &Daemon, count: u64) {
    daemon.wait_for(&format!("{count} users"), |status| {
        let users = &status["users"];
        users["total"] == count && directory(status, "corp")["last_error"].is_null()
    });
}

fn with_groups(groups: &str) -> slapd::Options {
    slapd::Options { data: people(0..10) + groups, ..slapd::Options::default() }
}

/// A provider of content synchronization that keeps `memberOf` and the members' names.
fn followed(groups: &str) -> slapd::Options {
    slapd::Options {
        global: "moduleload syncprov\nmoduleload memberof\nmoduleload refint\n".to_owned(),
        database: "overlay memberof\noverlay refint\nrefint_attributes member\noverlay syncprov\n".to_owned(),
        ..with_groups(groups)
    }
}

#[test]
fn members_come_and_go_with_each_sweep() {
    let slapd = Slapd::start(with_groups(&group("mail", &[dn(0), dn(1)])));
    let daemon = Daemon::start(every_second(Settings::ldap(9, &slapd, &keys(MAIL, ""))));
    members_come_and_go(&slapd, &daemon);
    let skipped = directory(&daemon.status(), "corp")["skipped"].clone();
    assert!(skipped.to_string().contains("not_in_group"), "{skipped}");
}

#[test]
fn members_come_and_go_while_changes_are_followed() {
    let slapd = Slapd::start(followed(&group("mail", &[dn(0), dn(1)])));
    let daemon = Daemon::start(every_second(Settings::ldap(9, &slapd, &keys(MAIL, ""))));
    assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "syncrepl");
    members_come_and_go(&slapd, &daemon);

    // The overlay changes the group after the name, and nobody is gone meanwhile.
    slapd.rename(&dn(1), "uid=renamed");
    becomes(&daemon, "renamed", "held");
    daemon.agrees();
    assert!(!daemon.history("u1@example.org").iter().any(|line| line["event"] == "removed"));
    let removed = daemon.log().lines().filter(|line| line.contains("event=user_removed")).count();
    assert_eq!(removed, 3, "{}", daemon.log());
}

/// From the members 0 and 1 of ten people.
fn members_come_and_go(slapd: &Slapd, daemon: &Daemon) {
    users(daemon, 2);
    daemon.expect("u1", "granted");
    assert_eq!(daemon.probe("u2"), "unknown_user");

    slapd.modify(&change(MAIL, "add", "member", &dn(2)));
    becomes(daemon, "u2", "granted");
    daemon.agrees();

    slapd.modify(&change(MAIL, "delete", "member", &dn(1)));
    becomes(daemon, "u1", "removed");
    daemon.agrees();
    slapd.modify(&change(MAIL, "add", "member", &dn(1)));
    becomes(daemon, "u1", "held");

    // A group in a group in the group, which is in it.
    slapd.add(&group("inner", &[dn(3), MAIL.to_owned()]));
    slapd.add(&group("middle", &[format!("cn=inner,{SUFFIX}")]));
    slapd.modify(&change(MAIL, "add", "member", &format!("cn=middle,{SUFFIX}")));
    becomes(daemon, "u3", "granted");
    slapd.modify(&change(&format!("cn=inner,{SUFFIX}"), "add", "member", &dn(4)));
    becomes(daemon, "u4", "granted");
    slapd.modify(&change(&format!("cn=inner,{SUFFIX}"), "delete", "member", &dn(3)));
    becomes(daemon, "u3", "removed");
    daemon.agrees();

    // Who is new is a member only when the group says so.
    slapd.add(&person(100));
    slapd.modify(&change(MAIL, "add", "member", &dn(100)));
    becomes(daemon, "u100", "granted");
    slapd.add(&person(101));
    slapd.modify(&change(MAIL, "delete", "member", &dn(2)));
    becomes(daemon, "u2", "removed");
    assert_eq!(daemon.probe("u101"), "unknown_user");
    daemon.agrees();
    users(daemon, 4);
}

#[test]
fn a_group_that_is_gone_is_an_error_and_removes_nobody() {
    for options in [with_groups, followed] {
        let slapd = Slapd::start(options(&group("mail", &[dn(0), dn(1)])));
        let daemon = Daemon::start(every_second(Settings::ldap(9, &slapd, &keys(MAIL, ""))));
        daemon.expect("u1", "granted");
        slapd.rename(MAIL, "cn=other");
        fails_with(&daemon, "required_group cn=mail,dc=example,dc=org does not exist");
        daemon.expect("u1", "held");
        assert_eq!(daemon.status()["users"]["total"], 2);
        let check = daemon.command(&["check", "--connect"]);
        let text = String::from_utf8(check.stdout).unwrap();
        assert!(!check.status.success() && text.contains("does not exist"), "{text}");
        slapd.rename(&format!("cn=other,{SUFFIX}"), "cn=mail");
        users(&daemon, 2);
        slapd.delete(MAIL);
        fails_with(&daemon, "required_group cn=mail,dc=example,dc=org does not exist");
        assert_eq!(daemon.status()["users"]["total"], 2);
        assert_eq!(daemon.probe("u0"), "granted");
        daemon.verify();
    }
}

#[test]
fn a_group_that_loses_too_many_is_held() {
    let members: Vec<String> = (0..8).map(dn).collect();
    let slapd = Slapd::start(with_groups(&group("mail", &members)));
    let keys = format!("required_group = '{MAIL}'\n");
    let daemon = Daemon::start(Settings::ldap(9, &slapd, &keys));
    daemon.expect("u7", "granted");
    slapd.modify(&format!("dn: {MAIL}\nchangetype: modify\nreplace: member\nmember: {}\n", dn(0)));
    let report = daemon.sync("corp").unwrap();
    assert_eq!(report["held"]["removed"], 7, "{report}");
    daemon.expect("u7", "held");
    assert_eq!(daemon.approve("corp").unwrap()["removed"], 7);
}

#[test]
fn every_kind_of_group_is_read() {
    let odd = r"uid=b\, \28c\29 \2A,ou=people,dc=example,dc=org";
    let odd_person = format!(
        "dn: {odd}\nobjectClass: inetOrgPerson\nuid: b, (c) *\nuid: odd\ncn: Odd\nsn: Odd\n\n\
         dn: cn=a\\2C (*) \\\\,{SUFFIX}\nobjectClass: groupOfNames\ncn: a, (*) \\\nmember: {odd}\n\n"
    );
    let unique = format!(
        "dn: cn=unique,{SUFFIX}\nobjectClass: groupOfUniqueNames\ncn: unique\nuniqueMember: UID=u1, {PEOPLE}\n\
         uniqueMember: {}#'01'B\n\n",
        dn(2)
    );
    let posix = format!(
        "dn: cn=posix,{SUFFIX}\nobjectClass: posixGroup\ncn: posix\ngidNumber: 1\nmemberUid: u3\n\
         memberUid: nobody\n\n"
    );
    let slapd = Slapd::start(with_groups(&(odd_person + &unique + &posix)));
    for (group, members) in [
        (format!(r"cn=a\, \28\2A\29 \5C,{SUFFIX}"), vec!["odd"]),
        (format!("CN=Unique , {SUFFIX}"), vec!["u1", "u2"]),
        (format!("cn=posix,{SUFFIX}"), vec!["u3"]),
    ] {
        let daemon = Daemon::start(Settings::ldap(9, &slapd, &keys(&group, "")));
        users(&daemon, members.len() as u64);
        for member in members {
            daemon.expect(member, "granted");
        }
        let check = daemon.command(&["check", "--connect"]);
        let text = String::from_utf8(check.stdout).unwrap();
        assert!(check.status.success() && text.contains("list") && text.contains("not_in_group"), "{text}");
    }
    let daemon = Daemon::launch(&Settings::ldap(9, &slapd, &keys(PEOPLE, "")));
    fails_with(&daemon, "is not a group");
}

#[test]
fn members_are_those_of_389_directory_server() {
    for (sync, preset) in [("sweep", "389ds"), ("syncrepl", "389ds"), ("sweep", "freeipa")] {
        let data = ds389::people(0..10)
            + &group("inner", &[dn(2)])
            + &group("mail", &[format!("UID=u0, {PEOPLE}"), dn(1), format!("cn=inner,{SUFFIX}")]);
        let (content_sync, member_of) = (sync == "syncrepl", preset == "freeipa");
        let options = ds389::Options { data, content_sync, member_of, ..ds389::Options::default() };
        let ds389 = ds389::Ds389::start(options);
        let (url, password) = (ds389.url(), ds389.password_file());
        let tables = format!(
            "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [\"{url}\"]\n\
             base_dn = \"{PEOPLE}\"\nbind_dn = \"{}\"\nbind_password_file = {password:?}\n\
             filter = \"(objectClass=inetOrgPerson)\"\npoll_every = \"1s\"\nsync = \"{sync}\"\n\
             preset = \"{preset}\"\n{}",
            ds389.bind_dn(),
            keys(MAIL, "")
        );
        let daemon = Daemon::start(Settings { seats: 9, tables, ..Settings::default() });
        users(&daemon, 3);
        daemon.expect("u0", "granted");
        daemon.expect("u2", "granted");
        // Where the server keeps memberOf, nobody else is read.
        let is_narrowed = directory(&daemon.status(), "corp")["skipped"]["not_in_group"].is_null();
        assert_eq!(is_narrowed, member_of);
        ds389.modify(&change(MAIL, "add", "member", &dn(5)));
        becomes(&daemon, "u5", "granted");
        daemon.agrees();
        ds389.modify(&change(&format!("cn=inner,{SUFFIX}"), "delete", "member", &dn(2)));
        becomes(&daemon, "u2", "removed");
        ds389.modify(&change(MAIL, "delete", "member", &format!("UID=u0, {PEOPLE}")));
        becomes(&daemon, "u0", "removed");
        daemon.agrees();
        // Nobody outside of the group is read again and again.
        let before = daemon.log().lines().filter(|line| line.contains("event=sync_completed")).count();
        wait_for("two more runs", || {
            let log = daemon.log();
            (log.lines().filter(|line| line.contains("event=sync_completed")).count() >= before + 2)
                .then_some(())
        });
        assert!(!daemon.log().contains("event=sync_failed"), "{}", daemon.log());
        ds389.delete(MAIL);
        fails_with(&daemon, "does not exist");
        assert_eq!(daemon.status()["users"]["total"], 2);
    }
}

/// Ranges, nested groups and primary groups.
#[test]
fn members_are_those_of_active_directory() {
    const ROOT: &str = samba::ROOT;
    /// With them the group's list comes in two ranges; only ten people are in the base.
    const MANY: u32 = 1600;
    let group = |name: &str, members: &[String]| {
        let members: String = members.iter().map(|member| format!("member: {member}\n")).collect();
        format!("dn: CN={name},{ROOT}\nobjectClass: group\nsAMAccountName: {name}\n{members}\n")
    };
    const OUTSIDE: &str = "OU=Many,DC=ad,DC=example,DC=org";
    let outside = |number| samba::dn(number).replace(samba::PEOPLE, OUTSIDE);
    let inner = format!("CN=Inner,{ROOT}");
    let mail = format!("CN=Mail \\28all\\29\\, please,{ROOT}");
    let many: Vec<String> =
        (0..10).map(samba::dn).chain((1000..1000 + MANY).map(outside)).chain([inner.clone()]).collect();
    let data = samba::people(0..12)
        + &format!("dn: {OUTSIDE}\nobjectClass: organizationalUnit\n\n")
        + &samba::people(1000..1000 + MANY).replace(samba::PEOPLE, OUTSIDE)
        + &group("Inner", &[samba::dn(10)])
        + &group("Mail", &many).replace(&format!("dn: CN=Mail,{ROOT}"), &format!("dn: {mail}"));
    let samba = samba::SambaAd::start(samba::Options { data, ..samba::Options::default() });
    let range = samba.search(&mail, "(objectClass=group)", &["member;range=0-1499"]);
    assert_eq!(range.matches("member;range=0-1499: ").count(), 1500);
    for sync in ["sweep", "dirsync"] {
        let (url, password) = (samba.ldaps_url(), samba.password_file());
        let tables = format!(
            "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [\"{url}\"]\n\
             base_dn = \"{}\"\nbind_dn = \"{}\"\nbind_password_file = {password:?}\n\
             poll_every = \"1s\"\nsync = \"{sync}\"\n{}\n[directory.ldap.tls]\nca_file = {:?}\n",
            samba::PEOPLE,
            samba.bind_dn(),
            keys(&mail, ""),
            samba.ca_file(),
        );
        let daemon = Daemon::start(Settings { seats: 9, tables, ..Settings::default() });
        let everybody = 11;
        let check = String::from_utf8(daemon.command(&["check", "--connect"]).stdout).unwrap();
        assert!(check.contains(&format!("list {} names", MANY + 12)), "{check}");
        users(&daemon, everybody);
        daemon.expect("u10", "granted");
        daemon.expect("u5", "granted");
        let outsider = 11;
        assert_eq!(daemon.probe(&format!("u{outsider}")), "unknown_user");

        samba.modify(&change(&inner, "add", "member", &samba::dn(outsider)));
        becomes(&daemon, &format!("u{outsider}"), "granted");
        daemon.agrees();
        samba.modify(&change(&inner, "delete", "member", &samba::dn(outsider)));
        becomes(&daemon, &format!("u{outsider}"), "removed");
        samba.modify(&change(&mail, "delete", "member", &samba::dn(5)));
        becomes(&daemon, "u5", "removed");
        samba.modify(&change(&mail, "add", "member", &samba::dn(5)));
        becomes(&daemon, "u5", "held");
        daemon.agrees();

        // The primary group of somebody is theirs without listing them, even where it is only within the group.
        let token = samba.search(&inner, "(objectClass=group)", &["primaryGroupToken"]);
        let token =
            token.lines().find_map(|line| line.strip_prefix("primaryGroupToken: ")).unwrap().to_owned();
        samba.modify(&change(&inner, "add", "member", &samba::dn(outsider)));
        samba.replace(&samba::dn(outsider), "primaryGroupID", &token);
        let listed = samba.search(&inner, "(objectClass=group)", &["member"]);
        assert!(!listed.contains(&samba::dn(outsider)), "{listed}");
        becomes(&daemon, &format!("u{outsider}"), "granted");
        daemon.agrees();
        samba.replace(&samba::dn(outsider), "primaryGroupID", "513");
        samba.modify(&change(&inner, "delete", "member", &samba::dn(outsider)));
        becomes(&daemon, &format!("u{outsider}"), "removed");

        samba.rename(&samba::dn(1), "CN=Renamed");
        wait_for("the new name", || daemon.explain("u1").to_string().contains("CN=Renamed").then_some(()));
        samba.rename(&format!("CN=Renamed,{}", samba::PEOPLE), "CN=Person 1");
        wait_for("the old name", || daemon.explain("u1").to_string().contains("CN=Person 1").then_some(()));
        users(&daemon, everybody);
        daemon.agrees();
        assert!(!daemon.log().contains("event=sync_failed"), "{}", daemon.log());

        samba.rename(&mail, "CN=Other");
        fails_with(&daemon, "does not exist");
        assert_eq!(daemon.status()["users"]["total"], everybody);
        let (parent, _) = mail.split_once(&format!(",{ROOT}")).unwrap();
        samba.rename(&format!("CN=Other,{ROOT}"), parent);
        users(&daemon, everybody);
    }
}
