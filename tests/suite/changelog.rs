//! What the Retro Changelog of a real 389 Directory Server keeps, or doesn't: a cookie is relied on only where
//! it keeps everything. FreeIPA's own keeps only its DNS.

use std::time::Duration;

use serde_json::Value;

use crate::contentsync::{
    following, output, server_with, set, settings, users, wait_for_probe, wait_until_following,
};
use crate::support::daemon::{Daemon, directory, no_brake};
use crate::support::ds389::{Ds389, Options, dn, person};
use crate::support::slapd::PEOPLE;
use crate::support::wait_for;

const PLUGIN: &str = "cn=Retro Changelog Plugin,cn=plugins,cn=config";

/// FreeIPA's installation sets it so.
const FREE_IPA: &str =
    "nsslapd-attribute: nsuniqueid:targetUniqueId\nnsslapd-include-suffix: cn=dns,dc=example,dc=org\n";

/// Lets the bind user read the settings, as few servers do.
fn show_settings(server: &Ds389) {
    server.modify(&format!(
        "dn: {PLUGIN}\nchangetype: modify\nadd: aci\naci: (targetattr=\"*\")(version 3.0; acl \"the reader\"; \
         allow (read, search, compare) userdn=\"ldap:///{}\";)\n",
        server.bind_dn()
    ));
}

fn warning(daemon: &Daemon) -> String {
    directory(&daemon.status(), "corp")["warning"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_trimmed_changelog_is_noticed() {
    let (mut server, mut daemon) = following(20, &no_brake("ldap"));
    daemon.terminate();
    set(&server, PLUGIN, "nsslapd-changelogmaxage", "1s");
    set(&server, PLUGIN, "nsslapd-changelog-trim-interval", "1");
    set(&server, &dn(1), "mail", "one@example.org");
    for number in 2..6 {
        server.lock(&dn(number));
    }
    let before: u64 = number(&server, "lastChangeNumber");
    server.restart();
    wait_for("the changelog to be trimmed", || {
        // It keeps the last one, so there has to be another.
        set(&server, &dn(10), "description", "Changed");
        std::thread::sleep(Duration::from_millis(500));
        (number(&server, "firstChangeNumber") >= before).then_some(())
    });
    daemon.restart();
    daemon.wait_for_log(&["has to be read from the beginning"]);
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("one@example.org"), "granted");
    assert_eq!(daemon.probe("u3"), "disabled");
    daemon.agrees();
}

fn number(server: &Ds389, attribute: &str) -> u64 {
    server.attribute("", attribute).unwrap().parse().unwrap()
}

#[test]
fn a_changelog_without_ids_is_told_by_its_changes_or_its_settings() {
    let server = server_with(10, Options { changelog: String::new(), ..Options::default() });
    let mut daemon = Daemon::start(settings(&server, 5, ""));
    wait_until_following(&daemon);
    assert_eq!(warning(&daemon), "", "nothing has shown it yet");
    // It comes with the number that stands for none.
    set(&server, &dn(1), "mail", "one@example.org");
    wait_for_probe(&daemon, "one@example.org", "granted");
    daemon.terminate();
    set(&server, &dn(2), "mail", "two@example.org");
    daemon.restart();
    wait_until_following(&daemon);
    // No hint would name it.
    assert_eq!(daemon.probe("two@example.org"), "granted");
    let told =
        "the changelog does not have a change below ou=people,dc=example,dc=org that came, or not its id";
    assert!(warning(&daemon).starts_with(told), "{}", warning(&daemon));
    daemon.wait_for_log(&["WARN", told]);
    daemon.agrees();
    // The restart did not make it forget.
    daemon.terminate();
    server.lock(&dn(3));
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u3"), "disabled");
    daemon.agrees();

    show_settings(&server);
    assert!(output(&daemon, &["check", "--connect"]).contains("warning: the changelog records no ids: "));
    daemon.sync("corp").unwrap();
    wait_until_following(&daemon);
    assert!(warning(&daemon).starts_with("the changelog records no ids"), "{}", warning(&daemon));
    set(&server, &dn(4), "mail", "four@example.org");
    wait_for_probe(&daemon, "four@example.org", "granted");
    daemon.agrees();
}

#[test]
fn a_free_ipa_is_recognised_and_its_changelog_explained() {
    let mut server = server_with(10, Options { changelog: FREE_IPA.to_owned(), ..Options::default() });
    // What its topology plug-in shows.
    server.modify(
        "dn:\nchangetype: modify\nadd: objectClass\nobjectClass: extensibleObject\n-\nadd: ipaDomainLevel\n\
         ipaDomainLevel: 1\n",
    );
    let keys = "sync = \"auto\"\nfilter = \"(objectClass=inetOrgPerson)\"\n".to_owned() + &no_brake("ldap");
    let mut daemon = Daemon::start(settings(&server, 5, &keys));
    wait_until_following(&daemon);
    let status = daemon.status();
    let corp = directory(&status, "corp");
    assert_eq!(
        (&corp["mechanism"], &corp["mechanism_reason"]),
        (&"content-sync".into(), &"the server offers it".into())
    );

    // As for most bind users: nobody knows, so that it is taken for FreeIPA's own.
    let hidden =
        "FreeIPA's changelog records only cn=dns unless told otherwise, and the bind user may not read";
    let checked = output(&daemon, &["check", "--connect"]);
    assert!(
        checked.contains("preset freeipa") && checked.contains(&format!("warning: {hidden}")),
        "{checked}"
    );
    assert!(warning(&daemon).starts_with(hidden), "{}", warning(&daemon));
    daemon.terminate();
    server.lock(&dn(1));
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!(daemon.probe("u1"), "disabled");
    // What comes by itself does not depend on it.
    set(&server, &dn(2), "mail", "two@example.org");
    wait_for_probe(&daemon, "two@example.org", "granted");
    daemon.agrees();

    show_settings(&server);
    let elsewhere = format!("the changelog records only cn=dns,dc=example,dc=org, and not {PEOPLE}");
    let checked = output(&daemon, &["check", "--connect"]);
    assert!(checked.contains(&format!("warning: {elsewhere}")), "{checked}");
    assert!(checked.contains(&format!("add nsslapd-include-suffix: {PEOPLE} to {PLUGIN}")), "{checked}");
    daemon.terminate();
    set(&server, &dn(3), "mail", "three@example.org");
    daemon.restart();
    wait_until_following(&daemon);
    assert!(warning(&daemon).starts_with(&elsewhere), "{}", warning(&daemon));
    assert_eq!(daemon.probe("three@example.org"), "granted");
    daemon.agrees();

    // As it was told.
    server.modify(&format!(
        "dn: {PLUGIN}\nchangetype: modify\nadd: nsslapd-include-suffix\nnsslapd-include-suffix: {PEOPLE}\n"
    ));
    server.restart();
    daemon.wait_for("the changelog to be of use", |status| {
        let corp = directory(status, "corp");
        corp["state"] == "following" && corp["warning"] == Value::Null
    });
    daemon.terminate();
    server.add(&person(100));
    set(&server, &dn(4), "mail", "four@example.org");
    daemon.restart();
    wait_until_following(&daemon);
    users(&daemon, 11);
    assert_eq!(daemon.probe("four@example.org"), "granted");
    let checked = output(&daemon, &["check", "--connect"]);
    assert!(!checked.contains("warning"), "{checked}");
    daemon.agrees();
}

/// FreeIPA's, where somebody has done as `check --connect` says, but the bind user can't see it: the first
/// change shows it.
#[test]
fn a_hidden_changelog_of_free_ipa_is_relied_on_after_a_change() {
    let keys = "preset = \"freeipa\"\nfilter = \"(objectClass=inetOrgPerson)\"\n";
    let (server, mut daemon) = following(10, keys);
    assert!(warning(&daemon).starts_with("FreeIPA's changelog"), "{}", warning(&daemon));
    set(&server, &dn(1), "mail", "one@example.org");
    wait_for_probe(&daemon, "one@example.org", "granted");
    daemon.terminate();
    set(&server, &dn(2), "mail", "two@example.org");
    daemon.restart();
    wait_until_following(&daemon);
    assert_eq!((warning(&daemon), daemon.probe("two@example.org")), (String::new(), "granted".to_owned()));
    daemon.agrees();
}
