//! A real Dovecot in other ways than `mail.rs`: the Lua passdb, submission, and mail that arrives by LMTP.

use crate::support::daemon::{Daemon, HTTP, Settings};
use crate::support::dovecot::{self, Dovecot, DovecotOptions};
use crate::support::free_port;
use crate::support::http::{Address, Client};
use crate::support::postfix::{Postfix, PostfixOptions, Smtp};
use crate::support::slapd::{Options, PEOPLE, Slapd, person};
use crate::support::wait_for;

const EXHAUSTED: &str = "All mailbox licenses are in use. Please ask your mail administrator for one.";

/// Six people, of whom the last has left.
fn people() -> Slapd {
    let with_password = |number| {
        let locked = if number == 6 { "pwdAccountLockedTime: 000001010000Z\n" } else { "" };
        format!("{}\nuserPassword: secret-{number}\n{locked}\n", person(number).trim_end())
    };
    let data = (1..7).map(with_password).collect();
    // Only the schema of the overlay.
    Slapd::start(Options { data, global: "moduleload ppolicy".to_owned(), ..Options::default() })
}

/// One after the other on a connection.
struct Imap(Client);

impl Imap {
    fn connect(port: u16) -> Imap {
        let mut client = Client::connect(&Address::Tcp(format!("127.0.0.1:{port}"))).unwrap();
        client.line().unwrap();
        Imap(client)
    }

    /// The line that ends a command.
    fn say(&mut self, command: &str) -> String {
        self.0.send(format!("a {command}\r\n").as_bytes()).unwrap();
        loop {
            let line = self.0.line().unwrap();
            if line.starts_with("a ") || line.starts_with("* BYE") {
                return line;
            }
        }
    }
}

/// Dovecot remembers passwords in these tests (`auth_cache_size`); who may come in is asked anew each time.
#[test]
fn on_one_connection_the_lua_passdb_lets_in_who_has_got_a_seat_meanwhile() {
    let slapd = people();
    let daemon = Daemon::start(Settings { listeners: HTTP.to_owned(), ..Settings::ldap(1, &slapd, "") });
    let dovecot = Dovecot::start(&DovecotOptions {
        ldap_url: &slapd.url(),
        base_dn: PEOPLE,
        policy_port: 0,
        lua: Some(daemon.port("http")),
        master: None,
        extra: "",
    });
    daemon.expect("u1", "granted");
    let mut imap = Imap::connect(dovecot.imap_port);
    for _ in 0..2 {
        assert_eq!(imap.say("LOGIN u2 secret-2"), format!("a NO [CONTACTADMIN] {EXHAUSTED}"));
    }
    wait_for("the reason in Dovecot's log", || dovecot.log().contains(EXHAUSTED).then_some(()));
    daemon.release("u1");
    let said = imap.say("LOGIN u2 secret-2");
    assert!(said.starts_with("a OK "), "{said}\n{}", dovecot.log());
    assert_eq!(daemon.explain("u2")["seat"]["by"], "login (imap)");
    daemon.verify();
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
            daemon.port("postfix_policy"),
            daemon.port("socketmap")
        ),
        ..PostfixOptions::default()
    });
    let extra = format!(
        "{}service lmtp {{\n inet_listener lmtp {{\n address = 127.0.0.1\n port = {lmtp}\n }}\n}}\n\
         userdb {{\n driver = static\n args = uid=nobody gid=nogroup home=/nonexistent allow_all_users=yes\n}}\n\
         auth_username_format = %Lu\n",
        dovecot::submission(submission, postfix.smtp_port)
    );
    let dovecot = Dovecot::start(&DovecotOptions {
        ldap_url: &slapd.url(),
        base_dn: PEOPLE,
        policy_port: daemon.port("dovecot_policy"),
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
    wait_for("both mails in the mailbox", || {
        let mut imap = Imap::connect(dovecot.imap_port);
        assert!(imap.say("LOGIN u1@example.org secret-1").starts_with("a OK "));
        imap.0.send(b"a STATUS INBOX (MESSAGES)\r\n").unwrap();
        (imap.0.line().unwrap() == "* STATUS INBOX (MESSAGES 2)").then_some(())
    });

    let (_, said) = log_in("u2@example.org", "secret-2");
    assert_eq!(said, "235 2.7.0 Logged in.");
    let (_, said) = log_in("u3@example.org", "secret-3");
    assert_eq!(said, format!("535 5.7.8 {EXHAUSTED}"));
    assert_eq!(daemon.seats_used(), 2);
    daemon.verify();
}

/// Dovecot asks the Lua passdb whether a recipient exists, where its userdb doesn't know: no login, and no seat.
#[test]
fn mail_by_lmtp_takes_no_seat_at_dovecot_and_is_refused_at_postfix() {
    let slapd = people();
    let listeners = format!(
        "{HTTP}[[listen.postfix_policy]]\nbind = \"127.0.0.1:0\"\n[[listen.socketmap]]\nbind = \"127.0.0.1:0\"\n"
    );
    let base = Settings::ldap(1, &slapd, "");
    let tables = format!("[seats]\ntake_on = [\"login\", \"delivery\"]\n{}", base.tables);
    let daemon = Daemon::start(Settings { listeners, tables, ..base });
    let lmtp = free_port();
    let dovecot = Dovecot::start(&DovecotOptions {
        ldap_url: &slapd.url(),
        base_dn: PEOPLE,
        policy_port: 0,
        lua: Some(daemon.port("http")),
        master: None,
        extra: &format!(
            "protocols = imap pop3 lmtp\nhostname = mail.example.net\n\
             service lmtp {{\n inet_listener lmtp {{\n address = 127.0.0.1\n port = {lmtp}\n }}\n}}\n"
        ),
    });
    let mut straight = Smtp::connect_lmtp(lmtp).unwrap();
    let friend = "friend@example.com";
    for user in ["u1@example.org", "u2@example.org"] {
        let said = straight.recipient(friend, user);
        assert_eq!(said, "250 2.1.5 OK", "{}", dovecot.log());
        assert!(straight.data("Straight").starts_with("250 2.0.0 "), "{}", dovecot.log());
    }
    let said = straight.recipient(friend, "nobody@example.org");
    assert_eq!(said, "550 5.1.1 <nobody@example.org> User doesn't exist: nobody@example.org");
    assert_eq!(daemon.seats_used(), 0, "{}", daemon.log());

    let postfix = Postfix::start(&PostfixOptions {
        settings: format!(
            "seatkeeper_policy = inet:127.0.0.1:{}\nseatkeeper_maps = socketmap:inet:127.0.0.1:{}\n\
             virtual_transport = lmtp:inet:127.0.0.1:{lmtp}\n",
            daemon.port("postfix_policy"),
            daemon.port("socketmap")
        ),
        ..PostfixOptions::default()
    });
    let mut outside = postfix.smtp();
    assert_eq!(outside.recipient(friend, "u1@example.org"), "250 2.1.5 Ok", "{}", postfix.log());
    assert!(outside.data("Through Postfix").starts_with("250 2.0.0 "));
    assert_eq!(daemon.explain("u1")["seat"]["by"], "delivery (smtp)");
    for (user, code, reason) in [
        ("u2@example.org", "450 4.2.1", EXHAUSTED),
        ("u6@example.org", "550 5.2.1", "This account is disabled. Please ask your mail administrator."),
        ("nobody@example.org", "550 5.1.1", "There is no mail user by this name."),
    ] {
        let refused = format!("{code} <{user}>: Recipient address rejected: {reason}");
        assert_eq!(outside.recipient(friend, user), refused);
    }
    wait_for("both mails in the mailbox", || {
        let mut imap = Imap::connect(dovecot.imap_port);
        let said = imap.say("LOGIN u1@example.org secret-1");
        assert!(said.starts_with("a OK "), "{said}");
        imap.0.send(b"a STATUS INBOX (MESSAGES)\r\n").unwrap();
        (imap.0.line().unwrap() == "* STATUS INBOX (MESSAGES 2)").then_some(())
    });
    assert_eq!(daemon.seats_used(), 1);
    daemon.verify();
}
