//! The main job: a real Dovecot asks the daemon about real logins of users mapped from a real OpenLDAP.

use crate::support::daemon::{Daemon, Settings};
use crate::support::dovecot::{Dovecot, DovecotOptions};
use crate::support::slapd::{Options, PEOPLE, Slapd, person};

/// What the person reads.
const NO_SEAT: &str = "All mailbox licenses are in use. Please ask your mail administrator for one.";

/// Six people with passwords, 3 seats, and a Dovecot with the shipped configuration.
struct Site {
    dovecot: Dovecot,
    daemon: Daemon,
    slapd: Slapd,
}

impl Site {
    fn start(extra: &str) -> Site {
        let with_password =
            |number| person(number).trim_end().to_owned() + &format!("\nuserPassword: secret-{number}\n\n");
        let data = (1..7).map(with_password).collect();
        let slapd = Slapd::start(Options { data, ..Options::default() });
        let daemon = Daemon::start(Settings::ldap(3, &slapd, "").on_own_ports());
        let dovecot = Dovecot::start(&DovecotOptions {
            ldap_url: &slapd.url(),
            base_dn: PEOPLE,
            policy_port: daemon.port("dovecot_policy"),
            lua: None,
            master: Some(("chief", "chief-secret")),
            extra,
        });
        Site { dovecot, daemon, slapd }
    }

    fn imap(&self, number: u32) -> Result<(), String> {
        self.dovecot.imap_login(&format!("u{number}"), &format!("secret-{number}"))
    }

    fn pop3(&self, number: u32) -> Result<(), String> {
        self.dovecot.pop3_login(&format!("u{number}"), &format!("secret-{number}"))
    }

    #[track_caller]
    fn must_enter(&self, outcome: Result<(), String>) {
        if let Err(error) = outcome {
            panic!("{error}\n{}\n{}", self.dovecot.log(), self.daemon.log());
        }
    }
}

#[test]
fn the_fourth_of_three_reads_the_reason_and_gets_in_after_a_release() {
    let mut site = Site::start("");
    for number in 1..=3 {
        site.must_enter(site.imap(number));
        assert_eq!(site.daemon.seats_used(), u64::from(number));
    }
    let refused = site.imap(4).unwrap_err();
    assert_eq!(refused, format!("a1 NO [ALERT] {NO_SEAT}"));
    let refused = site.pop3(4).unwrap_err();
    assert_eq!(refused, format!("-ERR [AUTH] {NO_SEAT}"));
    assert_eq!(site.daemon.seats_used(), 3);
    site.daemon.wait_for_log(&[" WARN ", "event=seat_refused", "user=u4@example.org", "reason=exhausted"]);
    let explained = site.daemon.explain("u4");
    assert_eq!((&explained["refusals"]["count"], &explained["counts"]), (&2.into(), &false.into()));

    // Who holds a seat goes on, by the other protocol and under the other name too.
    site.must_enter(site.imap(1));
    site.must_enter(site.pop3(1));
    site.must_enter(site.dovecot.imap_login("u1@example.org", "secret-1"));
    let explained = site.daemon.explain("u1");
    assert_eq!(
        (&explained["seat"]["by"], &explained["last_login"]["service"]),
        (&"login (imap)".into(), &"imap".into())
    );

    site.daemon.release("u3");
    site.must_enter(site.imap(4));
    let refused = site.imap(3).unwrap_err();
    assert_eq!(refused, format!("a1 NO [ALERT] {NO_SEAT}"));

    // Dovecot remembers passwords, and nobody asks the directory who holds a seat.
    site.slapd.kill();
    site.daemon.sync("corp").unwrap_err();
    site.must_enter(site.imap(1));
    site.must_enter(site.imap(4));
    let refused = site.imap(3).unwrap_err();
    assert_eq!(refused, format!("a1 NO [ALERT] {NO_SEAT}"));
    site.daemon.verify();
}

#[test]
fn a_wrong_password_and_an_administrators_test_take_no_seat() {
    let site = Site::start("");
    let wrong = site.dovecot.imap_login("u1", "secret-2").unwrap_err();
    assert!(wrong.contains("[AUTHENTICATIONFAILED]"), "{wrong}");
    site.dovecot.pop3_login("u1", "secret-2").unwrap_err();
    assert!(!site.daemon.log().contains("u1@example.org may come in"));

    let (is_let_in, said) = site.dovecot.auth_test("u1", "secret-1");
    assert!(is_let_in, "{said}");
    site.must_enter(site.dovecot.imap_login("u1*chief", "chief-secret"));
    let status = site.daemon.status();
    assert_eq!(status["seats"]["used"], 0, "{}", site.daemon.log());
    assert_eq!(site.daemon.history("").len(), 0);
    let explained = site.daemon.explain("u1");
    assert!(explained["last_login"].is_null(), "{explained}");

    // Both are told what a login would get.
    for number in 1..=3 {
        site.must_enter(site.imap(number));
    }
    let (is_let_in, said) = site.dovecot.auth_test("u4", "secret-4");
    assert!(!is_let_in && said.contains(NO_SEAT), "{said}");
    let (is_let_in, said) = site.dovecot.auth_test("u1", "secret-1");
    assert!(is_let_in, "{said}");
    site.must_enter(site.dovecot.imap_login("u1*chief", "chief-secret"));
    assert_eq!(site.daemon.seats_used(), 3);
}

/// The two answers of `auth_policy_reject_on_fail` to a daemon that is gone, as the shipped file tells.
#[test]
fn without_the_daemon_the_shipped_setting_lets_in_and_the_other_does_not() {
    for (extra, lets_in) in [("", true), ("auth_policy_reject_on_fail = yes", false)] {
        let mut site = Site::start(extra);
        site.must_enter(site.imap(1));
        site.daemon.kill9();
        let outcome = site.imap(2);
        assert_eq!(outcome.is_ok(), lets_in, "{outcome:?}");
        assert!(!outcome.is_err_and(|error| error.contains(NO_SEAT)), "an outage is no refusal");
    }
}
