//! Everything that can become of a login at a real Dovecot, word for word: by the policy server and by the Lua passdb;
//! over IMAP, POP3 and submission, and at a Postfix that asks Dovecot.

use std::fs;

use crate::support::daemon::{Daemon, Settings};
use crate::support::dovecot::{Dovecot, DovecotOptions, imap_login, pop3_login, submission};
use crate::support::postfix::{Postfix, PostfixOptions, Smtp};
use crate::support::slapd::{Options, PEOPLE, SUFFIX, Slapd, person};
use crate::support::{free_port, wait_for};

const EXHAUSTED: &str = "All mailbox licenses are in use. Please ask your mail administrator for one.";
const DISABLED: &str = "This account is disabled. Please ask your mail administrator.";
const UNKNOWN: &str = "There is no mail user by this name.";
const WELCOME: &str = "welcome";

/// How Dovecot asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// The shipped policy settings, which let in when nobody answers.
    Policy,
    /// The same with `auth_policy_reject_on_fail = yes`.
    StrictPolicy,
    /// The shipped Lua passdb.
    Lua,
}

/// What a person reads; of a refusal, what stands before the reason.
struct Words {
    /// As Dovecot's logs and our ledger call it.
    service: &'static str,
    by_policy: &'static str,
    by_lua: &'static str,
    wrong: &'static str,
    outage: &'static str,
}

const IMAP: Words = Words {
    service: "imap",
    by_policy: "a1 NO [ALERT] ",
    by_lua: "a1 NO [CONTACTADMIN] ",
    wrong: "a1 NO [AUTHENTICATIONFAILED] Authentication failed.",
    outage: "a1 NO [UNAVAILABLE] Temporary authentication failure.",
};

const POP3: Words = Words {
    service: "pop3",
    by_policy: "-ERR [AUTH] ",
    by_lua: "-ERR [AUTH] ",
    wrong: "-ERR [AUTH] Authentication failed.",
    outage: "-ERR [SYS/TEMP] Temporary authentication failure.",
};

const SUBMISSION: Words = Words {
    service: "submission",
    by_policy: "535 5.7.8 ",
    by_lua: "525 5.7.13 ",
    wrong: "535 5.7.8 Authentication failed.",
    outage: "454 4.7.0 Temporary authentication failure.",
};

/// A Postfix, which takes no more of Dovecot's answer than a yes or a no, and the reason of a no.
const POSTFIX: Words = Words {
    service: "smtp",
    by_policy: "535 5.7.8 Error: authentication failed: ",
    by_lua: "",
    wrong: "535 5.7.8 Error: authentication failed: (reason unavailable)",
    outage: "535 5.7.8 Error: authentication failed: (reason unavailable)",
};

impl Words {
    fn refused(&self, way: Way, reason: &str) -> String {
        match way {
            Way::Policy | Way::StrictPolicy => format!("{}{reason}", self.by_policy),
            // Who doesn't know `nologin` is told nothing but a failure.
            Way::Lua if self.by_lua.is_empty() => self.wrong.to_owned(),
            Way::Lua => format!("{}{reason}", self.by_lua),
        }
    }

    fn no_daemon(&self, way: Way) -> &str {
        match way {
            Way::Policy => WELCOME,
            Way::StrictPolicy => self.wrong,
            Way::Lua => self.outage,
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) imap: u16,
    pub(crate) pop3: u16,
    pub(crate) submission: u16,
    postfix: u16,
}

impl Ports {
    /// A whole login: [`WELCOME`], or what the person reads.
    fn log_in(self, service: &str, user: &str, password: &str) -> String {
        let smtp = |port| {
            let said = Smtp::connect(port).map(|mut smtp| smtp.auth_plain(user, password));
            let said = said.unwrap_or_else(|error| error);
            if said.starts_with("235 2.7.0 ") { Ok(()) } else { Err(said) }
        };
        let outcome = match service {
            "imap" => imap_login(self.imap, user, password),
            "pop3" => pop3_login(self.pop3, user, password),
            "submission" => smtp(self.submission),
            _ => smtp(self.postfix),
        };
        match outcome {
            Ok(()) => WELCOME.to_owned(),
            // Dovecot signs an outage with its host's name and the time.
            Err(said) => match said.split_once(" failure. [") {
                Some((outage, _)) => format!("{outage} failure."),
                None => said,
            },
        }
    }
}

pub(crate) struct Site {
    way: Way,
    slapd: Slapd,
    pub(crate) daemon: Daemon,
    /// Of the daemon's listener that Dovecot asks.
    asked: u16,
    pub(crate) dovecot: Dovecot,
    postfix: Postfix,
    pub(crate) ports: Ports,
}

/// A person whose password is `secret-NUMBER`.
pub(crate) fn with_password(number: u32) -> String {
    format!("{}\nuserPassword: secret-{number}\n\n", person(number).trim_end())
}

impl Site {
    /// `settings` are Dovecot's.
    pub(crate) fn start(way: Way, seats: u64, data: String, settings: &str) -> Site {
        // Only the schema of the overlay: slapd itself lets everybody in who has the password.
        let slapd =
            Slapd::start(Options { data, global: "moduleload ppolicy".to_owned(), ..Options::default() });
        let [policy, http, auth, submission_port] = [(); 4].map(|()| free_port());
        let listeners = format!(
            "[[listen.http]]\nbind = \"127.0.0.1:{http}\"\n[[listen.dovecot_policy]]\nbind = \"127.0.0.1:{policy}\"\n"
        );
        let daemon = Daemon::start(Settings { listeners, ..Settings::ldap(seats, &slapd, "") });
        let postfix = Postfix::start(&PostfixOptions {
            settings: format!(
                "smtpd_sasl_type = dovecot\nsmtpd_sasl_path = inet:127.0.0.1:{auth}\n\
                 smtpd_relay_restrictions = permit_sasl_authenticated, reject\n"
            ),
            bare: true,
            ..PostfixOptions::default()
        });
        let strict = if way == Way::StrictPolicy { "auth_policy_reject_on_fail = yes\n" } else { "" };
        let extra = format!(
            "{strict}{settings}{}service auth {{\n inet_listener postfix {{\n address = 127.0.0.1\n port = {auth}\n }}\n}}\n",
            submission(submission_port, postfix.smtp_port)
        );
        let dovecot = Dovecot::start(&DovecotOptions {
            ldap_url: &slapd.url(),
            base_dn: SUFFIX,
            policy_port: policy,
            lua: (way == Way::Lua).then_some(http),
            master: Some(("chief", "chief-secret")),
            extra: &extra,
        });
        let ports = Ports {
            imap: dovecot.imap_port,
            pop3: dovecot.pop3_port,
            submission: submission_port,
            postfix: postfix.submission_port,
        };
        wait_for("Dovecot's submission service", || Smtp::connect(submission_port).ok());
        let asked = if way == Way::Lua { http } else { policy };
        Site { way, slapd, daemon, asked, dovecot, postfix, ports }
    }

    #[track_caller]
    fn expect(&self, words: &Words, what: &str, user: &str, password: &str, expected: &str) {
        let said = self.ports.log_in(words.service, user, password);
        self.compare(words, what, &said, expected);
    }

    #[track_caller]
    fn compare(&self, words: &Words, what: &str, said: &str, expected: &str) {
        let logs = || format!("{}\n{}\n{}", self.dovecot.log(), self.postfix.log(), self.daemon.log());
        assert_eq!(said, expected, "{:?} by {}: {what}\n{}", self.way, words.service, logs());
    }

    /// The cases, in an order that leaves the site as it was.
    fn check(&mut self, words: &Words) {
        let way = self.way;
        let refused = |reason| words.refused(way, reason);
        self.expect(words, "a holder", "u1", "secret-1", WELCOME);
        self.expect(words, "by address", "U1@Example.org", "secret-1", WELCOME);
        self.expect(words, "a wrong password", "u2", "secret-1", words.wrong);
        self.expect(words, "nobody", "nobody", "secret-1", words.wrong);
        self.expect(words, "a master", "u2*chief", "chief-secret", WELCOME);
        assert!(self.dovecot.auth_test("u2", "secret-2").0, "{}", self.dovecot.log());
        self.daemon_dies(words);
        assert_eq!(self.daemon.seats_used(), 1, "{}", self.daemon.log());

        self.expect(words, "a first login", "u2", "secret-2", WELCOME);
        let taken = self.daemon.explain("u2");
        assert_eq!(taken["seat"]["by"], format!("login ({})", words.service), "{taken}");
        self.expect(words, "exhausted", "u3", "secret-3", &refused(EXHAUSTED));
        self.expect(words, "exhausted, a wrong password", "u3", "secret-2", words.wrong);
        assert!(!self.dovecot.auth_test("u3", "secret-3").0, "{}", self.dovecot.log());
        self.expect(words, "disabled", "u7", "secret-7", &refused(DISABLED));
        self.expect(words, "disabled, a wrong password", "u7", "secret-2", words.wrong);
        self.expect(words, "known to Dovecot alone", "u8", "secret-8", &refused(UNKNOWN));
        self.daemon.verify();

        // Dovecot remembers passwords, but not everybody's.
        self.slapd.stop();
        self.expect(words, "a directory that hangs", "u1", "secret-1", WELCOME);
        self.slapd.kill();
        self.expect(words, "no directory", "u1", "secret-1", WELCOME);
        self.expect(words, "no directory, exhausted", "u3", "secret-3", &refused(EXHAUSTED));
        self.expect(words, "no directory, a new one", "u4", "secret-4", words.outage);
        self.slapd.restart();
        self.expect(words, "the directory again", "u5", "secret-5", &refused(EXHAUSTED));
        assert_eq!(self.daemon.seats_used(), 2);
        self.daemon.release("u2");
    }

    /// The daemon hangs, then dies while somebody waits for it, then is gone, then is back.
    fn daemon_dies(&mut self, words: &Words) {
        let no_daemon = words.no_daemon(self.way);
        self.daemon.stop();
        self.expect(words, "the daemon hangs", "u1", "secret-1", no_daemon);
        self.daemon.resume();
        self.expect(words, "the daemon goes on", "u1", "secret-1", WELCOME);

        self.daemon.stop();
        let (ports, service) = (self.ports, words.service);
        let waiting = std::thread::spawn(move || ports.log_in(service, "u2", "secret-2"));
        wait_for("a request that nobody reads", || has_unread(self.asked).then_some(()));
        self.daemon.kill9();
        let said = waiting.join().unwrap();
        self.compare(words, "the daemon dies", &said, no_daemon);
        self.expect(words, "no daemon", "u1", "secret-1", no_daemon);
        self.expect(words, "no daemon, a wrong password", "u1", "secret-2", words.wrong);
        self.daemon.restart();
        self.expect(words, "the daemon again", "u1", "secret-1", WELCOME);
    }
}

/// Whether bytes wait on a connection to this port, proc(5): `/proc/net/tcp`.
fn has_unread(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, address, _, "01", queues, ..] = fields[..] else { return false };
        address == local && !queues.ends_with(":00000000")
    })
}

/// Seven people in the directory, of whom the last has left, and one beside them whom the daemon doesn't know; two
/// seats, of which u1 has one.
fn check_all(way: Way) {
    let gone = with_password(7).replace("\n\n", "\npwdAccountLockedTime: 000001010000Z\n\n");
    let stranger = with_password(8).replace(PEOPLE, SUFFIX);
    let data = (1..7).map(with_password).chain([gone, stranger]).collect();
    let mut site = Site::start(way, 2, data, "");
    site.daemon.expect("u1", "granted");
    for words in [&IMAP, &POP3, &SUBMISSION, &POSTFIX] {
        site.check(words);
    }
    // Nothing of a password is in any log of ours.
    assert!(!site.daemon.log().contains("secret-"), "{}", site.daemon.log());
}

#[test]
fn by_the_policy_server_everybody_reads_what_is_the_matter() {
    check_all(Way::Policy);
}

#[test]
fn by_a_strict_policy_server_nobody_gets_in_without_the_daemon() {
    check_all(Way::StrictPolicy);
}

#[test]
fn by_the_lua_passdb_everybody_reads_what_is_the_matter() {
    check_all(Way::Lua);
}
