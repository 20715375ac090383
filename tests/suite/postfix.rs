//! A real Postfix asks for whom it may accept mail, where it goes, and who may send it.

use crate::support::daemon::{Daemon, HTTP, Settings, ldap_directory};
use crate::support::network::is_unread_at;
use crate::support::postfix::{Postfix, PostfixOptions};
use crate::support::slapd::{Options, PEOPLE, Slapd, entry_uuid, people, person};
use crate::support::{free_port, wait_for};

pub(crate) const UNSEATED: &str = "This user has no mailbox license, and this request may not take one.";
pub(crate) const EXHAUSTED: &str =
    "All mailbox licenses are in use. Please ask your mail administrator for one.";
pub(crate) const SENDER: &str = "friend@example.com";

const ACCEPTED: &str = "250 2.1.5 Ok";

/// How Postfix passes a reason on.
fn refused(code: &str, recipient: &str, reason: &str) -> String {
    format!("{code} <{recipient}>: Recipient address rejected: {reason}")
}

/// Four people, one of whom has left, a list and a room.
pub(crate) fn directory() -> String {
    let uuid = entry_uuid;
    people(1..5)
        + &format!(
            "dn: uid=gone,{PEOPLE}\nobjectClass: inetOrgPerson\nuid: gone\nmail: gone@example.org\n\
             entryUUID: {}\npwdAccountLockedTime: 000001010000Z\n\n\
             dn: cn=all,{PEOPLE}\nobjectClass: groupOfNames\ncn: all\nmail: all@example.org\nentryUUID: {}\n\n\
             dn: cn=room,{PEOPLE}\nobjectClass: room\ncn: room\nmail: room@example.org\nentryUUID: {}\n\n",
            uuid(50),
            uuid(51),
            uuid(52)
        )
        + &person(9).replace(
            "mail: u9@example.org\n",
            "mail: nina@example.org\nmail: n.nine@example.org\nmail: u9@example.org\n",
        )
}

/// Fixed ports, so that Postfix finds the daemon again after a restart.
struct Site {
    daemon: Daemon,
    postfix: Postfix,
}

fn listeners(policy_port: u16, maps_port: u16, keys: &str) -> String {
    format!(
        "{HTTP}[[listen.postfix_policy]]\nbind = \"127.0.0.1:{policy_port}\"\n{keys}\n\
         [[listen.socketmap]]\nbind = \"127.0.0.1:{maps_port}\"\n"
    )
}

fn settings(seats: u64, top: &str, keys: &str) -> Settings {
    let base = Settings::ldif(seats, &directory());
    let tables = format!("{top}\n{}", base.tables);
    Settings { tables, listeners: listeners(0, 0, keys), ..base }
}

fn start(settings: Settings) -> Site {
    let daemon = Daemon::start(settings);
    let postfix = Postfix::start(&PostfixOptions {
        settings: format!(
            "seatkeeper_policy = inet:127.0.0.1:{}\nseatkeeper_maps = socketmap:inet:127.0.0.1:{}\n",
            daemon.port("postfix_policy"),
            daemon.port("socketmap")
        ),
        ..PostfixOptions::default()
    });
    Site { daemon, postfix }
}

#[test]
fn mail_is_accepted_for_those_who_hold_a_seat() {
    let Site { daemon, postfix } = start(settings(2, "", ""));
    let mut smtp = postfix.smtp();
    let mut check = |recipient: &str, expected: &str| {
        assert_eq!(smtp.recipient(SENDER, recipient), expected, "{}", postfix.log());
    };
    // Mapped, but nobody has logged in: mail takes no seat.
    check("u1@example.org", &refused("450 4.2.1", "u1@example.org", UNSEATED));
    assert_eq!(daemon.seats_used(), 0);
    daemon.expect("u1", "granted");
    daemon.expect("u9", "granted");
    for recipient in ["u1@example.org", "U1@EXAMPLE.ORG", "nina@example.org", "n.nine@example.org"] {
        check(recipient, ACCEPTED);
    }
    check("u2@example.org", &refused("450 4.2.1", "u2@example.org", UNSEATED));
    check("room@example.org", ACCEPTED);
    let unknown = "There is no mail user by this name.";
    check("nobody@example.org", &refused("550 5.1.1", "nobody@example.org", unknown));
    let disabled = "This account is disabled. Please ask your mail administrator.";
    check("gone@example.org", &refused("550 5.2.1", "gone@example.org", disabled));
    // Another domain is not ours to judge: Postfix says that it doesn't relay.
    check("x@example.com", "454 4.7.1 <x@example.com>: Relay access denied");
    daemon.verify();
    assert_eq!(daemon.seats_used(), 2);
    let explained = daemon.explain("u2");
    assert_eq!(explained["refusals"]["reason"], "not_seated", "{explained}");
}

#[test]
fn a_delivery_takes_a_seat_where_it_may_and_a_question_does_not() {
    let mut site = start(settings(2, "[seats]\ntake_on = [\"delivery\"]\n", ""));
    let mut smtp = site.postfix.smtp();
    // A bounce, and a server that asks whether the sender of its mail exists.
    for sender in ["", "double-bounce@mx.example.com"] {
        assert_eq!(smtp.recipient(sender, "u1@example.org"), ACCEPTED);
    }
    assert_eq!(site.daemon.seats_used(), 0);
    for _ in 0..3 {
        assert_eq!(smtp.recipient(SENDER, "u1@example.org"), ACCEPTED);
        assert_eq!(smtp.recipient(SENDER, "u9@example.org"), ACCEPTED);
        assert_eq!(smtp.recipient(SENDER, "n.nine@example.org"), ACCEPTED);
    }
    assert_eq!(site.daemon.seats_used(), 2);
    assert_eq!(site.daemon.explain("u1")["seat"]["by"], "delivery (smtp)");
    assert_eq!(site.daemon.history("").len(), 2);
    let deferred = refused("450 4.2.1", "u2@example.org", EXHAUSTED);
    assert_eq!(smtp.recipient(SENDER, "u2@example.org"), deferred);
    assert_eq!(smtp.recipient("", "u2@example.org"), deferred);

    // The listener's settings change with a reload, on connections that are open.
    for (exhausted, expected) in [
        ("reject", refused("550 5.2.1", "u2@example.org", EXHAUSTED)),
        ("accept", ACCEPTED.to_owned()),
        ("defer", deferred),
    ] {
        let ports = (site.daemon.port("postfix_policy"), site.daemon.port("socketmap"));
        let key = format!("exhausted = \"{exhausted}\"");
        let mut changed = settings(2, "[seats]\ntake_on = [\"delivery\"]\n", "");
        // Port 0 is what the listeners were configured with, and stays so.
        changed.listeners = listeners(0, 0, &key);
        site.daemon.configure(&changed);
        site.daemon.reload().unwrap();
        assert_eq!(ports, (site.daemon.port("postfix_policy"), site.daemon.port("socketmap")));
        assert_eq!(smtp.recipient(SENDER, "u2@example.org"), expected);
    }
    site.daemon.verify();
    assert_eq!(site.daemon.seats_used(), 2);
}

#[test]
fn postmap_finds_mailboxes_aliases_domains_and_holders() {
    let Site { mut daemon, postfix } = start(settings(2, "", "").on_own_ports());
    daemon.expect("u9", "granted");
    let table = format!("socketmap:inet:127.0.0.1:{}", daemon.port("socketmap"));
    let ask = |map: &str, key: &str| postfix.postmap(key, &format!("{table}:{map}"));
    let nothing = Err(String::new());
    for (map, key, expected) in [
        ("mailboxes", "u1@example.org", Ok("example.org/u1/")),
        ("mailboxes", "n.nine@example.org", Ok("example.org/u9/")),
        ("mailboxes", "room@example.org", Ok("example.org/room/")),
        ("mailboxes", "gone@example.org", Ok("example.org/gone/")),
        ("aliases", "n.nine@example.org", Ok("nina@example.org")),
        ("domains", "example.org", Ok("example.org")),
        ("seated", "n.nine@example.org", Ok("nina@example.org")),
    ] {
        assert_eq!(ask(map, key), expected.map(str::to_owned).map_err(|(): ()| String::new()), "{map} {key}");
    }
    for (map, key) in [
        ("mailboxes", "nobody@example.org"),
        ("mailboxes", "all@example.org"),
        ("aliases", "nina@example.org"),
        ("aliases", "@example.org"),
        ("domains", "example.com"),
        ("seated", "u1@example.org"),
    ] {
        assert_eq!(ask(map, key), nothing, "{map} {key}");
    }
    let mistake = ask("users", "u1@example.org").unwrap_err();
    assert!(mistake.contains("unknown map: use mailboxes, aliases, domains or seated"), "{mistake}");
    daemon.kill9();
    let outage = ask("mailboxes", "u1@example.org").unwrap_err();
    assert!(outage.contains("Connection refused"), "{outage}");
}

const OUTAGE: &str = "The mail system cannot look up its users now. Please try again later.";

/// What the person reads while the daemon is away.
#[test]
fn an_outage_is_temporary_and_over_when_the_daemon_is_back() {
    let (policy, maps) = (free_port(), free_port());
    let base = Settings::ldif(2, &directory());
    let mut daemon = Daemon::start(Settings { listeners: listeners(policy, maps, ""), ..base });
    daemon.expect("u1", "granted");
    let postfix = Postfix::start(&PostfixOptions {
        settings: format!(
            "seatkeeper_policy = inet:127.0.0.1:{policy}\nseatkeeper_maps = socketmap:inet:127.0.0.1:{maps}\n\
             smtpd_policy_service_retry_delay = 1s\n"
        ),
        ..PostfixOptions::default()
    });
    let mut smtp = postfix.smtp();
    assert_eq!(smtp.recipient(SENDER, "u1@example.org"), ACCEPTED);
    daemon.kill9();
    // Postfix looks for the domain first; `451` is its word for a look-up that failed.
    let said = postfix.smtp().recipient(SENDER, "u1@example.org");
    assert!(said.starts_with("451 4.3.0 <u1@example.org>: Temporary lookup failure"), "{said}");
    daemon.restart();
    // Postfix remembers for a moment that a look-up failed.
    wait_for("Postfix to look again", || {
        (smtp.recipient(SENDER, "u1@example.org") == ACCEPTED).then_some(())
    });
    wait_for("a new connection to be served", || {
        (postfix.smtp().recipient(SENDER, "u1@example.org") == ACCEPTED).then_some(())
    });

    // Postfix alone, which knows its domains by itself: the policy's own sign.
    let postfix = Postfix::start(&PostfixOptions {
        settings: format!(
            "seatkeeper_policy = inet:127.0.0.1:{policy}\nvirtual_mailbox_domains = example.org\n\
             virtual_mailbox_maps =\nvirtual_alias_maps =\nsmtpd_policy_service_retry_delay = 1s\n"
        ),
        ..PostfixOptions::default()
    });
    let mut smtp = postfix.smtp();
    assert_eq!(smtp.recipient(SENDER, "u1@example.org"), ACCEPTED);
    daemon.kill9();
    for recipient in ["u1@example.org", "nobody@example.org"] {
        assert_eq!(smtp.recipient(SENDER, recipient), refused("450 4.3.0", recipient, OUTAGE));
    }
    daemon.restart();
    assert_eq!(smtp.recipient(SENDER, "u1@example.org"), ACCEPTED, "{}", postfix.log());
}

/// Holds the daemon until a question of `ask` has come in at a port, and kills it then: what the person reads.
fn killed_under<T: Send>(daemon: &mut Daemon, port: u16, ask: impl FnOnce() -> T + Send) -> T {
    daemon.stop();
    std::thread::scope(|scope| {
        let asking = scope.spawn(ask);
        wait_for("the question", || is_unread_at(port).then_some(()));
        daemon.kill9();
        asking.join().unwrap()
    })
}

#[test]
fn a_question_under_way_when_the_daemon_dies_is_answered_when_it_is_back() {
    let (policy, maps) = (free_port(), free_port());
    let base = Settings::ldif(2, &directory());
    let mut daemon = Daemon::start(Settings { listeners: listeners(policy, maps, ""), ..base });
    daemon.expect("u1", "granted");
    daemon.expect("u9", "granted");
    let table = format!("socketmap:inet:127.0.0.1:{maps}");
    let start = |maps: &str| {
        let settings = format!(
            "seatkeeper_policy = inet:127.0.0.1:{policy}\nseatkeeper_maps = {maps}\n\
             smtpd_policy_service_retry_delay = 1s\n"
        );
        Postfix::start(&PostfixOptions { settings, ..PostfixOptions::default() })
    };
    let whole = start(&table);
    // One that knows its users by itself: the policy is the first question.
    let alone = start("static");
    let (mut through_maps, mut through_policy) = (whole.smtp(), alone.smtp());
    assert_eq!(through_maps.recipient(SENDER, "u1@example.org"), ACCEPTED);
    assert_eq!(through_policy.recipient(SENDER, "u1@example.org"), ACCEPTED);

    // Postfix knows for a while where the address before is: this one is new to it.
    let said = killed_under(&mut daemon, maps, || through_maps.recipient(SENDER, "nina@example.org"));
    assert_eq!(said, "451 4.3.0 <nina@example.org>: Temporary lookup failure", "{}", whole.log());
    daemon.restart();
    // A process of Postfix remembers for half a minute what could not be looked up; this is another one.
    assert_eq!(whole.smtp().recipient(SENDER, "nina@example.org"), ACCEPTED, "{}", whole.log());

    let said = killed_under(&mut daemon, policy, || through_policy.recipient(SENDER, "u1@example.org"));
    assert_eq!(said, refused("450 4.3.0", "u1@example.org", OUTAGE), "{}", alone.log());
    daemon.restart();
    assert_eq!(through_policy.recipient(SENDER, "u1@example.org"), ACCEPTED, "{}", alone.log());

    let ask = || whole.postmap("u1@example.org", &format!("{table}:mailboxes"));
    let said = killed_under(&mut daemon, maps, ask);
    let gone = format!(
        "postmap: warning: connect to 127.0.0.1:{maps}: Connection refused\n\
         postmap: warning: table {table}:mailboxes lookup error: Connection refused\n\
         postmap: fatal: table {table}:mailboxes: query error: Connection refused"
    );
    assert_eq!(said, Err(gone));
    daemon.restart();
    assert_eq!(ask().as_deref(), Ok("example.org/u1/"));
    assert_eq!(daemon.seats_used(), 2);
    daemon.verify();
}

/// With everything that is shipped: who has logged in is asked about, and their recipients are not.
#[test]
fn a_mail_of_somebody_who_logged_in_is_their_login() {
    let with_password = |number| format!("{}\nuserPassword: secret\n\n", person(number).trim_end());
    let slapd = Slapd::start(Options { data: (1..4).map(with_password).collect(), ..Options::default() });
    let daemon = Daemon::start(Settings {
        seats: 1,
        tables: ldap_directory(&slapd, &[&slapd.url()], ""),
        listeners: listeners(0, 0, "") + "[[listen.dovecot_auth]]\nbind = \"127.0.0.1:0\"\n",
        ..Settings::default()
    });
    let postfix = Postfix::start(&PostfixOptions {
        settings: format!(
            "seatkeeper_policy = inet:127.0.0.1:{}\nseatkeeper_maps = socketmap:inet:127.0.0.1:{}\n\
             seatkeeper_auth = inet:127.0.0.1:{}\n\
             smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination\n",
            daemon.port("postfix_policy"),
            daemon.port("socketmap"),
            daemon.port("dovecot_auth")
        ),
        ..PostfixOptions::default()
    });
    let mut smtp = postfix.submission();
    assert_eq!(smtp.auth_plain("u1", "secret"), "235 2.7.0 Authentication successful");
    let mut send = |recipient: &str| smtp.recipient("u1@example.org", recipient);
    for recipient in ["friend@example.com", "u1@example.org", "u2@example.org"] {
        assert_eq!(send(recipient), ACCEPTED, "{recipient}\n{}", postfix.log());
    }
    // From outside nobody sends mail to this colleague.
    let said = postfix.smtp().recipient(SENDER, "u2@example.org");
    assert_eq!(said, refused("450 4.2.1", "u2@example.org", UNSEATED));
    assert_eq!(
        send("nobody@example.org"),
        "550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown in virtual mailbox table"
    );
    // Somebody else takes the seat while the connection stays open.
    daemon.release("u1");
    daemon.expect("u2", "granted");
    assert_eq!(send("friend@example.com"), refused("550 5.7.1", "friend@example.com", EXHAUSTED));
    daemon.release("u2");
    assert_eq!(send("friend@example.com"), ACCEPTED);
    assert_eq!(daemon.explain("u1")["seat"]["by"], "login (submission)");
    daemon.verify();
}
