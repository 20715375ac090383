//! A real Dovecot in other ways than `mail.rs`: the Lua passdb, submission, and mail that arrives by LMTP.

use crate::support::daemon::{Daemon, HTTP, Settings, listener};
use crate::support::dovecot::{Dovecot, DovecotOptions};
use crate::support::free_port;
use crate::support::http::{Address, Client};
use crate::support::postfix::{Postfix, PostfixOptions, Smtp};
use crate::support::slapd::{Options, PEOPLE, Slapd, person};
use crate::support::wait_for;

const EXHAUSTED: &str = "All mailbox licenses are in use. Please ask your mail administrator for one.";

fn people() -> Slapd {
    let with_password =
        |number| person(number).trim_end().to_owned() + &format!("\nuserPassword: secret-{number}\n\n");
    Slapd::start(Options { data: (1..6).map(with_password).collect(), ..Options::default() })
}

/// What the first line says that ends a command, or the server.
fn last_line(port: u16, command: &str, is_last: &str) -> String {
    let mut client = Client::connect(&Address::Tcp(format!("127.0.0.1:{port}"))).unwrap();
    client.line().unwrap();
    client.send(format!("{command}\r\n").as_bytes()).unwrap();
    loop {
        let line = client.line().unwrap();
        if line.starts_with(is_last) || line.starts_with("-ERR") || line.starts_with("* BYE") {
            return line;
        }
    }
}

#[test]
fn the_lua_passdb_lets_holders_in_and_says_when_the_daemon_is_away() {
    let slapd = people();
    let http = free_port();
    let listeners = format!("[[listen.http]]\nbind = \"127.0.0.1:{http}\"\n");
    let mut daemon = Daemon::start(Settings { listeners, ..Settings::ldap(2, &slapd, "") });
    let dovecot = Dovecot::start(&DovecotOptions {
        ldap_url: &slapd.url(),
        base_dn: PEOPLE,
        policy_port: 0,
        lua: Some(http),
        master: Some(("chief", "chief-secret")),
        extra: "",
    });
    let imap = |user: &str, password: &str| {
        last_line(dovecot.imap_port, &format!("a1 LOGIN {user} {password}"), "a1 ")
    };
    let enters = |user: &str, password: &str| {
        let outcome = dovecot.imap_login(user, password);
        assert_eq!(outcome, Ok(()), "{}\n{}", dovecot.log(), daemon.log());
    };
    // Neither a wrong password nor an administrator takes a seat.
    let wrong = "a1 NO [AUTHENTICATIONFAILED] Authentication failed.";
    assert_eq!(imap("u1", "secret-2"), wrong);
    let (is_let_in, said) = dovecot.auth_test("u1", "secret-1");
    assert!(is_let_in, "{said}\n{}", dovecot.log());
    enters("u1*chief", "chief-secret");
    assert_eq!(daemon.seats_used(), 0, "{}", daemon.log());

    enters("u1", "secret-1");
    dovecot.pop3_login("u2", "secret-2").unwrap();
    assert_eq!(daemon.explain("u2")["seat"]["by"], "login (pop3)");
    enters("u2", "secret-2");
    assert_eq!(imap("u3", "secret-3"), wrong, "{}", dovecot.log());
    let refused = dovecot.pop3_login("u3", "secret-3").unwrap_err();
    assert_eq!(refused, "-ERR [AUTH] Authentication failed.");
    assert_eq!(imap("u3", "secret-2"), wrong);
    wait_for("the reason in Dovecot's log", || dovecot.log().contains(EXHAUSTED).then_some(()));
    daemon.verify();

    daemon.kill9();
    let outage = "[UNAVAILABLE] Temporary authentication failure.";
    let said = imap("u1", "secret-1");
    assert!(said.starts_with(&format!("a1 NO {outage}")), "{said}");
    let said = dovecot.pop3_login("u1", "secret-1").unwrap_err();
    assert!(said.starts_with("-ERR [SYS/TEMP] Temporary authentication failure."), "{said}");
    daemon.restart();
    assert_eq!(dovecot.imap_login("u1", "secret-1"), Ok(()), "{}", dovecot.log());
    assert_eq!(daemon.seats_used(), 2);
}

fn port(daemon: &Daemon, kind: &str) -> u16 {
    match listener(&daemon.status(), kind) {
        Some(Address::Tcp(bind)) => bind.rsplit(':').next().unwrap().parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Mail comes in at Postfix, which asks for the recipient, goes to Dovecot by LMTP, and is read by IMAP; it is sent
/// through Dovecot's submission service. Dovecot asks the policy server for its logins.
#[test]
fn mail_goes_from_submission_to_a_mailbox_for_those_who_hold_a_seat() {
    let slapd = people();
    let listeners = format!(
        "{HTTP}[[listen.dovecot_policy]]\nbind = \"127.0.0.1:0\"\n[[listen.postfix_policy]]\nbind = \"127.0.0.1:0\"\n\
         [[listen.socketmap]]\nbind = \"127.0.0.1:0\"\n"
    );
    let daemon = Daemon::start(Settings { listeners, ..Settings::ldap(2, &slapd, "") });
    let [lmtp, submission] = [(); 2].map(|()| free_port());
    let postfix = Postfix::start(&PostfixOptions {
        settings: format!(
            "seatkeeper_policy = inet:127.0.0.1:{}\nseatkeeper_maps = socketmap:inet:127.0.0.1:{}\n\
             virtual_transport = lmtp:inet:127.0.0.1:{lmtp}\nmynetworks = 127.0.0.1\n",
            port(&daemon, "postfix_policy"),
            port(&daemon, "socketmap")
        ),
        ..PostfixOptions::default()
    });
    let extra = format!(
        "protocols = imap pop3 lmtp submission\nhostname = mail.example.net\n\
         submission_relay_host = 127.0.0.1\nsubmission_relay_port = {}\n\
         service submission-login {{\n chroot =\n inet_listener submission {{\n port = {submission}\n }}\n}}\n\
         service lmtp {{\n inet_listener lmtp {{\n address = 127.0.0.1\n port = {lmtp}\n }}\n}}\n\
         userdb {{\n driver = static\n args = uid=nobody gid=nogroup home=/nonexistent allow_all_users=yes\n}}\n\
         auth_username_format = %Lu\n",
        postfix.smtp_port
    );
    let dovecot = Dovecot::start(&DovecotOptions {
        ldap_url: &slapd.url(),
        base_dn: PEOPLE,
        policy_port: daemon.policy_port(),
        lua: None,
        master: None,
        extra: &extra,
    });
    let log_in = |user: &str, password: &str| {
        let mut smtp = wait_for("Dovecot's submission service", || Smtp::connect(submission).ok());
        let said = smtp.auth_plain(user, password);
        (smtp, said)
    };
    // Nobody has a seat yet: mail waits at its sender.
    let deferred = "450 4.2.1 <u1@example.org>: Recipient address rejected: This user has no mailbox license, and \
                    this request may not take one.";
    assert_eq!(postfix.smtp().recipient("friend@example.com", "u1@example.org"), deferred);
    let (mut smtp, said) = log_in("u1@example.org", "secret-1");
    assert_eq!(said, "235 2.7.0 Logged in.", "{}", dovecot.log());
    assert_eq!(daemon.explain("u1")["seat"]["by"], "login (submission)");
    let accepted = smtp.recipient("u1@example.org", "u1@example.org");
    assert!(accepted.starts_with("250 2.1.5 "), "{accepted}\n{}", postfix.log());
    assert!(smtp.data("To myself").starts_with("250 2.0.0 "), "{}", postfix.log());
    // From outside too.
    let mut outside = postfix.smtp();
    assert_eq!(outside.recipient("friend@example.com", "u1@example.org"), "250 2.1.5 Ok");
    assert!(outside.data("From a friend").starts_with("250 2.0.0 "));
    let count = || {
        let mut client = Client::connect(&Address::Tcp(format!("127.0.0.1:{}", dovecot.imap_port))).unwrap();
        client.send(b"a1 LOGIN u1@example.org secret-1\r\na2 STATUS INBOX (MESSAGES)\r\n").unwrap();
        loop {
            let line = client.line().unwrap();
            if let Some(status) = line.strip_prefix("* STATUS INBOX ") {
                return status.to_owned();
            }
            assert!(!line.starts_with("a2"), "{line}");
        }
    };
    let mut last = String::new();
    wait_for("both mails in the mailbox", || {
        last = count();
        (last == "(MESSAGES 2)").then_some(())
    });

    let (_, said) = log_in("u2@example.org", "secret-2");
    assert_eq!(said, "235 2.7.0 Logged in.");
    let (_, said) = log_in("u3@example.org", "secret-3");
    assert_eq!(said, format!("535 5.7.8 {EXHAUSTED}"));
    assert_eq!(daemon.seats_used(), 2);
    daemon.verify();
}
