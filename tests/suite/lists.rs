//! Lists and rooms on real servers: they are read beside people, so that mail to them passes, and they take no seat.

use crate::support::daemon::{Daemon, Settings, no_brake};
use crate::support::samba::{self, SambaAd};
use crate::support::slapd::{Options, PEOPLE, Slapd, people};
use crate::support::wait_for;
use crate::{contentsync, dirsync};

const GROUP: &str = "cn=mail,dc=example,dc=org";
const MEMBER: &str = "uid=u1,ou=people,dc=example,dc=org";

/// LDIF of a list with an address, whose member is a numbered person.
fn list(name: &str, member: &str) -> String {
    format!(
        "dn: cn={name},{PEOPLE}\nobjectClass: groupOfNames\nobjectClass: extensibleObject\ncn: {name}\n\
         mail: {name}@example.org\nmember: {member}\n\n"
    )
}

fn room(name: &str) -> String {
    format!(
        "dn: cn={name},{PEOPLE}\nobjectClass: room\nobjectClass: extensibleObject\ncn: {name}\n\
         mail: {name}@example.org\n\n"
    )
}

/// Ten people, of whom one is in the required group, a list, a room, and a group without an address.
fn data() -> String {
    let silent = list("silent", MEMBER).replace("mail: silent@example.org\n", "");
    let required = format!("dn: {GROUP}\nobjectClass: groupOfNames\ncn: mail\nmember: {MEMBER}\n\n");
    people(0..10) + &list("sales", MEMBER) + &room("library") + &silent + &required
}

#[track_caller]
fn becomes(daemon: &Daemon, user: &str, decision: &str) {
    wait_for(&format!("{user} to be {decision}"), || (daemon.probe(user) == decision).then_some(()));
}

/// What mail to an address is answered.
fn delivery(daemon: &Daemon, address: &str) -> String {
    let body = serde_json::json!({ "user": address, "operation": "delivery" }).to_string();
    let answer = daemon.http().ask("POST", "/v1/check", &body).unwrap().json();
    answer["decision"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn lists_and_rooms_of_openldap_are_known_beside_people() {
    for sync in ["sweep", "syncrepl"] {
        let slapd = Slapd::start(Options::provider(data()));
        let keys = format!("sync = \"{sync}\"\nrequired_group = \"{GROUP}\"\n{}", no_brake("ldap"));
        let mut settings = Settings::ldap(2, &slapd, &keys);
        settings.tables = settings.tables.replace("poll_every = \"1h\"", "poll_every = \"1s\"");
        let daemon = Daemon::start(settings);
        for address in ["sales@example.org", "library@example.org"] {
            assert_eq!(delivery(&daemon, address), "not_a_person", "{sync}");
            assert_eq!(daemon.probe(address), "not_a_person", "{sync}");
        }
        // Without an address nobody writes to it; and a person is mapped only as a member.
        assert_eq!(daemon.probe("silent"), "unknown_user");
        assert_eq!(delivery(&daemon, "u2@example.org"), "unknown_user");
        assert_eq!(daemon.status()["users"]["total"], 1);

        slapd.add(&list("support", MEMBER));
        becomes(&daemon, "support@example.org", "not_a_person");
        slapd.modify(&format!(
            "dn: cn=sales,{PEOPLE}\nchangetype: modify\nreplace: mail\nmail: offers@example.org\n"
        ));
        becomes(&daemon, "offers@example.org", "not_a_person");
        becomes(&daemon, "sales@example.org", "unknown_user");
        daemon.agrees();
    }
}

#[test]
fn a_list_made_while_the_daemon_is_down_is_found_outside_of_the_required_group() {
    let slapd = Slapd::start(Options::provider(data()));
    let keys = format!("required_group = \"{GROUP}\"\nfull_sync_every = \"1s\"\n{}", no_brake("ldap"));
    let mut daemon = Daemon::start(Settings::ldap(2, &slapd, &keys));
    daemon.terminate();
    slapd.add(&list("support", MEMBER));
    daemon.restart();
    becomes(&daemon, "support@example.org", "not_a_person");
    // A moved one is told by no change that syncprov sends for what is below it.
    slapd.add(&format!("dn: ou=old,{PEOPLE}\nobjectClass: organizationalUnit\nou: old\n"));
    slapd.add(&list("press", MEMBER).replace(PEOPLE, &format!("ou=old,{PEOPLE}")));
    slapd.rename(&format!("ou=old,{PEOPLE}"), "ou=new");
    becomes(&daemon, "press@example.org", "not_a_person");
    daemon.agrees();
}

#[test]
fn an_empty_list_filter_reads_people_alone() {
    let slapd = Slapd::start(Options { data: data(), ..Options::default() });
    let daemon = Daemon::start(Settings::ldap(2, &slapd, "list_filter = \"\"\n"));
    assert_eq!(delivery(&daemon, "sales@example.org"), "unknown_user");
    // Of a class that says nothing, it is a list because of the filter.
    let alias = format!(
        "dn: cn=alias,{PEOPLE}\nobjectClass: document\nobjectClass: extensibleObject\ncn: alias\n\
         documentIdentifier: alias\nmail: alias@example.org\n\n"
    );
    slapd.add(&alias);
    let keys = format!(
        "list_filter = \"(&(|(objectClass=room)(objectClass=document))(mail=*))\"\nfilter = \"(uid=u1)\"\n{}",
        no_brake("ldap")
    );
    let daemon = Daemon::start(Settings::ldap(2, &slapd, &keys));
    assert_eq!(delivery(&daemon, "sales@example.org"), "unknown_user");
    assert_eq!(delivery(&daemon, "library@example.org"), "not_a_person");
    assert_eq!(delivery(&daemon, "alias@example.org"), "not_a_person");
    assert_eq!(daemon.status()["users"]["total"], 1);
}

#[test]
fn lists_of_389_directory_server_are_found_by_what_it_tells() {
    let server = contentsync::server(10);
    let member = crate::support::ds389::dn(1);
    server.add(&list("sales", &member));
    server.add(&format!("dn: {GROUP}\nobjectClass: groupOfNames\ncn: mail\nmember: {member}\n"));
    for sync in ["sweep", "syncrepl"] {
        let keys = format!(
            "sync = \"{sync}\"\npoll_every = \"1s\"\nrequired_group = \"{GROUP}\"\nfilter = \"(objectClass=inetOrgPerson)\"\n{}",
            no_brake("ldap")
        );
        let daemon = Daemon::start(contentsync::settings(&server, 2, &keys));
        assert_eq!(daemon.probe("sales@example.org"), "not_a_person", "{sync}");
        assert_eq!(daemon.probe("u2"), "unknown_user", "{sync}");
        let name = format!("support-{sync}");
        server.add(&list(&name, &member));
        becomes(&daemon, &format!("{name}@example.org"), "not_a_person");
        daemon.agrees();
    }
}

#[test]
fn lists_of_active_directory_come_by_each_mechanism() {
    let group = |name: &str| {
        format!(
            "dn: CN={name},{}\nobjectClass: group\nsAMAccountName: {name}-account\nmail: {name}@example.org\n\n",
            samba::PEOPLE
        )
    };
    let required = format!(
        "dn: CN=Mail,{}\nobjectClass: group\nsAMAccountName: Mail\nmember: {}\n\n",
        samba::ROOT,
        samba::dn(1)
    );
    let data = samba::people(0..3) + &group("sales") + &required;
    let samba = SambaAd::start(samba::Options { data, is_plain: true, ..samba::Options::default() });
    for sync in ["sweep", "dirsync", "usn"] {
        if sync == "usn" {
            samba.refuse_dirsync();
        }
        let chosen = if sync == "sweep" { sync } else { "dirsync" };
        let keys = format!("sync = \"{chosen}\"\nrequired_group = \"CN=Mail,{}\"\n", samba::ROOT);
        let daemon = Daemon::start(dirsync::plain(&samba, &keys));
        assert_eq!(dirsync::mechanism(&daemon).0, sync);
        assert_eq!(daemon.probe("sales@example.org"), "not_a_person", "{sync}");
        // Its account name is not an address, nor a name to log in with.
        assert_eq!(daemon.probe("sales-account"), "unknown_user", "{sync}");
        assert_eq!(daemon.probe("u2"), "unknown_user", "{sync}");
        samba.add(&group(&format!("support-{sync}")));
        becomes(&daemon, &format!("support-{sync}@example.org"), "not_a_person");
        samba.replace(
            &format!("CN=support-{sync},{}", samba::PEOPLE),
            "mail",
            &format!("help-{sync}@example.org"),
        );
        becomes(&daemon, &format!("help-{sync}@example.org"), "not_a_person");
        daemon.agrees();
    }
}
