//! Servers that hand us the password: what the person reads in each case, through each of them.
//!
//! The passwords are in a real OpenLDAP, which is asked over TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::caddy::Caddy;
use crate::support::daemon::{Daemon, Settings, ldap_directory};
use crate::support::dovecot::{Dovecot, DovecotOptions, imap_login, pop3_login};
use crate::support::http::{Address, Client};
use crate::support::network::connections_to;
use crate::support::nginx::Nginx;
use crate::support::postfix::{Postfix, PostfixOptions, Smtp};
use crate::support::slapd::{Options, PEOPLE, Slapd, person};
use crate::support::{free_port, shipped, test_saslauthd, wait_for};

const WRONG: &str = "The user name or the password is wrong.";
const EXHAUSTED: &str = "All mailbox licenses are in use. Please ask your mail administrator for one.";
const DISABLED: &str = "This account is disabled. Please ask your mail administrator.";

/// For those who don't get so far.
const NO_BACKENDS: &str = "backends.imap = \"127.0.0.1:1\"\n";

/// Seven people, of whom the last has left; two seats, of which u1 has one.
pub(crate) struct Site {
    pub(crate) slapd: Slapd,
    pub(crate) daemon: Daemon,
    /// Of http, dovecot_auth and nginx_auth, the same after each start.
    ports: [u16; 3],
    pub(crate) settings: Settings,
}

impl Site {
    pub(crate) fn start() -> Site {
        let with_password = |number| {
            let person = person(number);
            let locked = if number == 7 { "pwdAccountLockedTime: 000001010000Z\n" } else { "" };
            format!("{}\nuserPassword: secret-{number}\n{locked}\n", person.trim_end())
        };
        let data = (1..8).map(with_password).collect();
        // Only the schema of the overlay: slapd itself lets everybody in who has the password.
        let slapd =
            Slapd::start(Options { data, global: "moduleload ppolicy".to_owned(), ..Options::default() });
        let tls = format!("[directory.ldap.tls]\nca_file = {:?}\n", slapd.ca_file());
        let tables = ldap_directory(&slapd, &[&slapd.ldaps_url()], &tls);
        let ports = [(); 3].map(|()| free_port());
        let [http, dovecot_auth, nginx_auth] = ports;
        let listeners = format!(
            "[[listen.http]]\nbind = \"127.0.0.1:{http}\"\n\
             [[listen.dovecot_policy]]\nbind = \"127.0.0.1:0\"\n\
             [[listen.dovecot_auth]]\nbind = \"127.0.0.1:{dovecot_auth}\"\n\
             [[listen.dovecot_auth]]\nbind = \"unix:auth\"\n\
             [[listen.postfix_policy]]\nbind = \"unix:policy\"\n\
             [[listen.saslauthd]]\nbind = \"unix:mux\"\nsocket_mode = \"0666\"\n\
             [[listen.nginx_auth]]\nbind = \"127.0.0.1:{nginx_auth}\"\n{NO_BACKENDS}"
        );
        let settings = Settings { seats: 2, tables, listeners, ..Settings::default() }.on_own_ports();
        let daemon = Daemon::start(settings.clone());
        daemon.expect("u1", "granted");
        // Others than root have to get to the socket.
        fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        Site { slapd, daemon, ports, settings }
    }

    /// Everything that can become of a login, for a protocol that says so: what `log_in` with a name and a password
    /// shows to a person.
    #[track_caller]
    pub(crate) fn check(
        &mut self,
        service: &str,
        words: &Words,
        log_in: &(dyn Fn(&str, &str) -> String + Sync),
    ) {
        let told = |what: &str, said: String, expected: &str, daemon: &Daemon| {
            assert_eq!(said, expected, "{service}, {what}\n{}", daemon.log());
        };
        let try_it = |what: &str, user: &str, password: &str, expected: &str, daemon: &Daemon| {
            told(what, log_in(user, password), expected, daemon);
        };
        let daemon = &self.daemon;
        try_it("a holder", "u1", "secret-1", words.welcome, daemon);
        try_it("by address", "U1@Example.org", "secret-1", words.welcome, daemon);
        try_it("a wrong password", "u2", "secret-1", words.wrong, daemon);
        try_it("nobody", "nobody", "secret-1", words.wrong, daemon);
        assert_eq!(daemon.seats_used(), 1, "{service}");
        try_it("a first login", "u2", "secret-2", words.welcome, daemon);
        let taken = daemon.explain("u2");
        assert_eq!(taken["seat"]["by"], format!("login ({service})"), "{taken}");
        try_it("exhausted", "u3", "secret-3", words.exhausted, daemon);
        try_it("exhausted, a wrong password", "u3", "secret-2", words.wrong, daemon);
        try_it("disabled", "u7", "secret-7", words.disabled, daemon);
        try_it("disabled, a wrong password", "u7", "secret-2", words.wrong, daemon);
        daemon.verify();

        // The directory is gone, then it hangs, then it is there again.
        self.slapd.kill();
        try_it("no directory", "u1", "secret-1", words.outage, daemon);
        try_it("no directory, nobody", "nobody", "secret-1", words.outage, daemon);
        self.slapd.restart();
        try_it("the directory again", "u1", "secret-1", words.welcome, daemon);
        self.slapd.stop();
        try_it("a directory that hangs", "u1", "secret-1", words.outage, daemon);

        // The daemon dies while a login waits for the directory. A connection to a directory that hangs is never
        // used again, so one that is there is the login's.
        let is_asked = || connections_to(self.slapd.tls_port()) > 0;
        wait_for("the login before to end", || (!is_asked()).then_some(()));
        let said = std::thread::scope(|scope| {
            let person = scope.spawn(|| log_in("u1", "secret-1"));
            wait_for("a login to be under way", || is_asked().then_some(()));
            self.daemon.kill9();
            person.join().unwrap()
        });
        told("the daemon dies", said, words.no_daemon, &self.daemon);
        told("no daemon", log_in("u1", "secret-1"), words.no_daemon, &self.daemon);
        self.slapd.resume();
        self.daemon.configure(&self.settings);
        self.daemon.restart();
        told("the daemon again", log_in("u1", "secret-1"), words.welcome, &self.daemon);
        assert_eq!(self.daemon.seats_used(), 2);
        self.daemon.verify();
        // Nothing of a password is in any log.
        assert!(!self.daemon.log().contains("secret-"), "{}", self.daemon.log());
    }
}

/// What a person reads.
pub(crate) struct Words<'a> {
    pub(crate) welcome: &'a str,
    pub(crate) wrong: &'a str,
    pub(crate) exhausted: &'a str,
    pub(crate) disabled: &'a str,
    pub(crate) outage: &'a str,
    /// While the daemon is down, and also where it dies before it has answered.
    pub(crate) no_daemon: &'a str,
}

fn refused(reason: &str) -> String {
    format!("535 5.7.8 Error: authentication failed: {reason}")
}

const LOST: &str = "454 4.7.0 Temporary authentication failure: Connection lost to authentication server";

/// A Postfix with the shipped file that asks the daemon for passwords by Dovecot's protocol, and for recipients not at
/// all.
fn postfix_by_dovecot(site: &Site) -> Postfix {
    let settings = format!(
        "seatkeeper_auth = inet:127.0.0.1:{}\nsmtpd_recipient_restrictions = permit\nvirtual_mailbox_domains =\n\
         virtual_mailbox_maps =\nvirtual_alias_maps =\n\
         smtpd_relay_restrictions = permit_sasl_authenticated, reject\ndefault_transport = discard:\n",
        site.ports[1]
    );
    Postfix::start(&PostfixOptions { settings, ..PostfixOptions::default() })
}

/// A Postfix that asks the daemon for passwords by libsasl2, with the shipped file.
fn postfix_by_cyrus_sasl(site: &Site) -> Postfix {
    let path = site.daemon.path("mux").display().to_string();
    Postfix::start(&PostfixOptions {
        settings: "smtpd_sasl_type = cyrus\nsmtpd_sasl_path = smtpd\n\
                   smtpd_relay_restrictions = permit_sasl_authenticated, reject\n"
            .to_owned(),
        bare: true,
        sasl: shipped("cyrus-sasl.conf", &[("/run/seatkeeper/saslauthd.sock", &path)]),
    })
}

/// An nginx with the shipped file, before a Dovecot and a Postfix: its ports are those of IMAP, POP3 and SMTP.
struct MailProxy {
    nginx: Nginx,
    _dovecot: Dovecot,
    _postfix: Postfix,
}

impl MailProxy {
    fn start(site: &mut Site) -> MailProxy {
        let dovecot = Dovecot::start(&DovecotOptions {
            ldap_url: &site.slapd.url(),
            base_dn: PEOPLE,
            policy_port: site.daemon.port("dovecot_policy"),
            lua: None,
            master: None,
            extra: "",
        });
        let postfix = postfix_by_dovecot(site);
        let backends = format!(
            "[listen.nginx_auth.backends]\nimap = \"127.0.0.1:{}\"\npop3 = \"127.0.0.1:{}\"\nsmtp = \"127.0.0.1:{}\"\n",
            dovecot.imap_port, dovecot.pop3_port, postfix.submission_port
        );
        site.settings.listeners = site.settings.listeners.replace(NO_BACKENDS, &backends);
        site.daemon.configure(&site.settings);
        site.daemon.reload().unwrap();
        let address = format!("127.0.0.1:{}", site.ports[2]);
        let snippet = shipped("nginx-mail.conf", &[("127.0.0.1:4005", &address)]);
        let servers = "mail {\n include SCRATCH/seatkeeper-mail.conf;\n\
                       server { listen 127.0.0.1:PORT0; protocol imap; }\n\
                       server { listen 127.0.0.1:PORT1; protocol pop3; }\n\
                       server { listen 127.0.0.1:PORT2; protocol smtp; server_name mx; }\n}\n";
        let nginx = Nginx::start(3, servers, &[("seatkeeper-mail.conf", &snippet)]);
        MailProxy { nginx, _dovecot: dovecot, _postfix: postfix }
    }
}

/// An nginx with the shipped file, before a web application of one file, `/mail.txt`.
fn web_application(site: &Site) -> Nginx {
    let address = format!("127.0.0.1:{}", site.ports[0]);
    let snippet = shipped("nginx-forward-auth.conf", &[("127.0.0.1:8460", &address)]);
    let servers = "http {\n access_log off;\n client_body_temp_path SCRATCH/body;\n proxy_temp_path SCRATCH/proxy;\n\
                   fastcgi_temp_path SCRATCH/f;\n uwsgi_temp_path SCRATCH/u;\n scgi_temp_path SCRATCH/s;\n\
                   server { listen 127.0.0.1:PORT0; include SCRATCH/seatkeeper.conf;\n\
                   add_header X-User $seatkeeper_user;\n root SCRATCH; }\n}\n";
    Nginx::start(1, servers, &[("seatkeeper.conf", &snippet), ("mail.txt", "Your mail.")])
}

#[test]
fn people_send_mail_through_postfix_which_asks_by_dovecots_protocol() {
    let mut site = Site::start();
    let postfix = postfix_by_dovecot(&site);
    let (wrong, exhausted, disabled) = (refused(WRONG), refused(EXHAUSTED), refused(DISABLED));
    let words = Words {
        welcome: "235 2.7.0 Authentication successful",
        wrong: &wrong,
        exhausted: &exhausted,
        disabled: &disabled,
        outage: LOST,
        no_daemon: "454 4.7.0 Temporary authentication failure: Connection lost to authentication server",
    };
    // One connection is open before all, since Postfix greets nobody on this port while the daemon is down.
    let spare = Mutex::new(postfix.submission());
    let log_in = |user: &str, password: &str| {
        let mut smtp = spare.lock().unwrap();
        let said = smtp.auth_plain(user, password);
        if said.starts_with("235 ") {
            // Who has logged in sends mail; the next one is somebody else.
            assert_eq!(smtp.recipient("u1@example.org", "friend@example.com"), "250 2.1.5 Ok");
            *smtp = postfix.submission();
        }
        said
    };
    site.check("smtp", &words, &log_in);
    let mut smtp = postfix.submission();
    assert_eq!(smtp.auth_login("u2@example.org", "secret-1"), refused(WRONG));
    assert_eq!(smtp.auth_login("u2@example.org", "secret-2"), words.welcome);
    // An empty password is refused before any bind.
    let mut smtp = postfix.submission();
    assert_eq!(smtp.auth_plain("u2", ""), refused(WRONG));
}

#[test]
fn testsaslauthd_asks_as_it_asks_saslauthd() {
    let mut site = Site::start();
    let mux = site.daemon.path("mux");
    let words = Words {
        welcome: "0: OK \"Success.\"",
        wrong: "0: NO \"authentication failed\"",
        // It knows no reasons.
        exhausted: "0: NO \"authentication failed\"",
        disabled: "0: NO \"authentication failed\"",
        outage: "0: size read failed",
        no_daemon: "0: size read failed",
    };
    let log_in = |user: &str, password: &str| {
        // It has two words for a daemon that is gone.
        test_saslauthd(&mux, user, password).replace("connect() : Connection refused", "size read failed")
    };
    site.check("imap", &words, &log_in);
}

#[test]
fn a_server_with_cyrus_sasl_asks_as_it_asks_saslauthd() {
    let mut site = Site::start();
    // A server with the shipped file.
    let postfix = postfix_by_cyrus_sasl(&site);
    let wrong = refused("authentication failure");
    let words = Words {
        welcome: "235 2.7.0 Authentication successful",
        wrong: &wrong,
        // libsasl2 drops the reason.
        exhausted: &wrong,
        disabled: &wrong,
        outage: "454 4.7.0 Temporary authentication failure: generic failure",
        no_daemon: "454 4.7.0 Temporary authentication failure: generic failure",
    };
    let log_in = |user: &str, password: &str| postfix.submission().auth_plain(user, password);
    site.check("smtp", &words, &log_in);
}

#[test]
fn nginx_lets_people_through_to_a_dovecot() {
    let mut site = Site::start();
    let MailProxy { nginx, .. } = &MailProxy::start(&mut site);
    let [imap, pop3, smtp] = nginx.ports[..] else { panic!() };

    let outage = "The mail system cannot verify passwords now. Please try again later.";
    let say = |code: &str, message: &str| format!("{code} {message}");
    let words = [
        say("a1 NO [AUTHENTICATIONFAILED]", WRONG),
        say("a1 NO [ALERT]", EXHAUSTED),
        say("a1 NO [ALERT]", DISABLED),
        say("a1 NO [UNAVAILABLE]", outage),
    ];
    let words = Words {
        welcome: "welcome",
        wrong: &words[0],
        exhausted: &words[1],
        disabled: &words[2],
        outage: &words[3],
        no_daemon: "* BAD internal server error",
    };
    let log_in = |user: &str, password: &str| {
        let said = first_words(imap, &format!("a1 LOGIN {user} {password}"));
        if !said.starts_with("a1 OK ") {
            return said;
        }
        imap_login(imap, user, password).unwrap();
        "welcome".to_owned()
    };
    site.check("imap", &words, &log_in);

    // The other two protocols, in their own words.
    pop3_login(pop3, "u1", "secret-1").unwrap();
    assert_eq!(pop3_login(pop3, "u1", "x").unwrap_err(), format!("-ERR [AUTH] {WRONG}"));
    assert_eq!(pop3_login(pop3, "u3", "secret-3").unwrap_err(), format!("-ERR [AUTH] {EXHAUSTED}"));
    let auth = |user: &str, password: &str| Smtp::connect(smtp).unwrap().auth_plain(user, password);
    assert_eq!(auth("u1", "secret-1"), "235 2.0.0 OK");
    assert_eq!(auth("u1", "x"), format!("535 5.7.8 {WRONG}"));
    assert_eq!(auth("u3", "secret-3"), format!("535 5.7.8 {EXHAUSTED}"));
    site.slapd.kill();
    assert_eq!(auth("u1", "secret-1"), format!("454 4.7.0 {outage}"));
    assert_eq!(pop3_login(pop3, "u1", "secret-1").unwrap_err(), format!("-ERR [SYS/TEMP] {outage}"));
    assert!(!nginx.log().contains("[emerg]"), "{}", nginx.log());
}

/// What a server says to a command, after its greeting: one line, whatever it begins with.
fn first_words(port: u16, command: &str) -> String {
    let mut client = Client::connect(&Address::Tcp(format!("127.0.0.1:{port}"))).unwrap();
    client.line().unwrap();
    client.send(format!("{command}\r\n").as_bytes()).unwrap();
    client.line().unwrap_or_else(|error| error.to_string())
}

/// A request with Basic credentials: the status, the body, and a header.
fn get(port: u16, path: &str, credentials: Option<(&str, &str)>) -> (u16, String, Vec<String>) {
    let mut client = Client::connect(&Address::Tcp(format!("127.0.0.1:{port}"))).unwrap();
    let authorization = credentials.map(|(user, password)| {
        format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
    });
    let authorization = authorization.unwrap_or_default();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n").as_bytes()).unwrap();
    let answer = client.answer().unwrap();
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned(), answer.headers)
}

#[test]
fn a_web_application_behind_nginx_is_for_those_who_have_a_seat() {
    let mut site = Site::start();
    let nginx = web_application(&site);
    let port = nginx.ports[0];
    let (status, _, headers) = get(port, "/mail.txt", None);
    assert_eq!(status, 401, "{}", nginx.log());
    let challenge = "www-authenticate: Basic realm=\"Mail\", charset=\"UTF-8\"".to_owned();
    assert!(headers.contains(&challenge), "{headers:?}");
    let (_, _, headers) = get(port, "/mail.txt", Some(("U1", "secret-1")));
    assert!(headers.contains(&"x-user: u1@example.org".to_owned()), "{headers:?}");
    let words = [format!("403 {EXHAUSTED}"), format!("403 {DISABLED}")];
    let words = Words {
        welcome: "200 Your mail.",
        wrong: "401 ",
        exhausted: &words[0],
        disabled: &words[1],
        outage: "500 ",
        no_daemon: "500 ",
    };
    let log_in = |user: &str, password: &str| {
        let (status, body, _) = get(port, "/mail.txt", Some((user, password)));
        // nginx has pages of its own for these.
        if matches!(status, 401 | 500) {
            format!("{status} ")
        } else {
            format!("{status} {}", body.trim_end())
        }
    };
    site.check("web", &words, &log_in);
}

/// Caddy hands on what the daemon says to whom it doesn't let in.
#[test]
fn a_web_application_behind_caddy_is_for_those_who_have_a_seat() {
    let mut site = Site::start();
    let caddy = Caddy::start(&format!(
        "forward_auth 127.0.0.1:{} {{\n uri /v1/forward-auth\n copy_headers Remote-User\n }}\n \
         respond \"The mail of {{http.request.header.Remote-User}}.\"",
        site.ports[0]
    ));
    let (status, _, headers) = get(caddy.port, "/", None);
    assert_eq!(status, 401, "{}", caddy.log());
    let challenge = "www-authenticate: Basic realm=\"Mail\", charset=\"UTF-8\"".to_owned();
    assert!(headers.contains(&challenge), "{headers:?}");
    let reasons = [EXHAUSTED, DISABLED].map(|reason| format!("403 {reason}"));
    let words = Words {
        welcome: "200 welcome",
        wrong: "401",
        exhausted: &reasons[0],
        disabled: &reasons[1],
        outage: "503",
        no_daemon: "502",
    };
    let log_in = |user: &str, password: &str| {
        let (status, body, _) = get(caddy.port, "/", Some((user, password)));
        match status {
            200 => {
                assert_eq!(body, format!("The mail of {}@example.org.", user[..2].to_lowercase()));
                "200 welcome".to_owned()
            }
            401 | 502 | 503 => status.to_string(),
            _ => format!("{status} {}", body.trim_end()),
        }
    };
    site.check("web", &words, &log_in);
}

#[test]
fn passwords_over_http_are_answered_like_checks() {
    let mut site = Site::start();
    let http = Address::Tcp(format!("127.0.0.1:{}", site.ports[0]));
    let words = [
        format!("200 wrong_password {WRONG}"),
        format!("200 exhausted {EXHAUSTED}"),
        format!("200 disabled {DISABLED}"),
    ];
    let words = Words {
        welcome: "200 welcome",
        wrong: &words[0],
        exhausted: &words[1],
        disabled: &words[2],
        outage: "503 a password cannot be verified",
        no_daemon: "no answer",
    };
    let log_in = |user: &str, password: &str| {
        let body = json!({ "user": user, "password": password, "service": "imap", "client_ip": "192.0.2.7" });
        let Ok(answer) = http.ask("POST", "/v1/authenticate", &body.to_string()) else {
            return "no answer".to_owned();
        };
        if answer.status != 200 {
            // What follows is each server's trouble.
            let problem = answer.problem(503);
            return format!("503 {}", problem.split(':').next().unwrap());
        }
        let verdict: Value = answer.json();
        assert_eq!(verdict["allow"], matches!(verdict["decision"].as_str(), Some("held" | "granted")));
        if verdict["allow"] == true {
            return "200 welcome".to_owned();
        }
        format!("200 {} {}", verdict["decision"].as_str().unwrap(), verdict["message"].as_str().unwrap())
    };
    site.check("imap", &words, &log_in);
    // Tries are slowed, then refused, and no password is looked at any more.
    for _ in 0..10 {
        log_in("u5", "x");
    }
    let throttled = "200 throttled Too many failed logins. Please try again in a few minutes.";
    assert_eq!(log_in("u5", "secret-5"), throttled);
    assert_eq!(log_in("u1", "secret-1"), "200 welcome");
    site.daemon.wait_for_log(&[" WARN ", "Too many failed logins of u5@example.org"]);
}

/// The longest that a login takes: one that is held up after failures, at a directory whose servers all hang. It ends
/// in the words of who asks, and not in those of the HTTP listener, which has a deadline too.
#[test]
fn the_slowest_login_over_http_still_ends_in_its_own_words() {
    let mut site = Site::start();
    let same = site.slapd.ldaps_url().replace("127.0.0.1", "localhost");
    let urls = [site.slapd.ldaps_url(), same, site.slapd.url()];
    let tls = format!("[directory.ldap.tls]\nca_file = {:?}\n", site.slapd.ca_file());
    site.settings.tables = ldap_directory(&site.slapd, &urls.each_ref().map(String::as_str), &tls);
    site.daemon.configure(&site.settings);
    site.daemon.reload().unwrap();
    let [http, _, nginx] = site.ports;
    let authenticate = |user: &str, password: &str| {
        let body = json!({ "user": user, "password": password }).to_string();
        let http = Address::Tcp(format!("127.0.0.1:{http}"));
        http.ask("POST", "/v1/authenticate", &body).unwrap()
    };
    for user in ["u1", "u2", "u3"] {
        for _ in 0..3 {
            assert_eq!(authenticate(user, "x").json()["decision"], "wrong_password");
        }
    }
    site.slapd.stop();
    let silent = "a password cannot be verified: the directory corp has not answered within 5s";
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(authenticate("u1", "secret-1").problem(503), silent));
        scope.spawn(|| {
            let (status, body, _) = get(http, "/v1/forward-auth", Some(("u2", "secret-2")));
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, &problem["detail"]), (503, &json!(silent)));
        });
        let mut client = Client::connect(&Address::Tcp(format!("127.0.0.1:{nginx}"))).unwrap();
        let request = "GET / HTTP/1.0\r\nAuth-Method: plain\r\nAuth-User: u3\r\nAuth-Pass: secret-3\r\n\
                       Auth-Protocol: imap\r\n\r\n";
        client.send(request.as_bytes()).unwrap();
        let outage = "[UNAVAILABLE] The mail system cannot verify passwords now. Please try again later.";
        assert_eq!(client.answer().unwrap().header("auth-status"), Some(outage));
    });
    site.slapd.resume();
    assert_eq!(authenticate("u1", "secret-1").json()["decision"], "held");
}

/// A password goes over the network encrypted or not at all.
#[test]
fn without_tls_only_this_machine_is_told_a_password() {
    let name = Command::new("hostname").arg("-I").output().unwrap();
    let addresses = String::from_utf8_lossy(&name.stdout).into_owned();
    let Some(address) = addresses.split_whitespace().find(|address| address.contains('.')) else { return };
    let site = Site::start();
    let url = format!("ldap://{address}:389");
    let tables = ldap_directory(&site.slapd, &[&site.slapd.url(), &url], "");
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    let ask = || {
        let body = json!({ "user": "u1", "password": "secret-1" }).to_string();
        daemon.http().ask("POST", "/v1/authenticate", &body).unwrap()
    };
    assert_eq!(ask().json()["decision"], "granted");
    site.slapd.stop();
    let problem = ask().problem(503);
    assert!(
        problem.contains("passwords of users are sent over TLS alone: use ldaps:// or starttls"),
        "{problem}"
    );
    site.slapd.resume();
}
