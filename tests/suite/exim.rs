//! A real Exim asks for whom it may accept mail, and who may send it.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::Barrier;
use std::thread;

use super::passwords::{Site, Words};
use super::postfix::{EXHAUSTED, SENDER, UNSEATED, directory};
use crate::support::daemon::{Daemon, HTTP, Settings};
use crate::support::exim::{Exim, EximOptions};
use crate::support::postfix::Smtp;
use crate::support::slapd::{installed, run};
use crate::support::{free_port, wait_for};

const ACCEPTED: &str = "250 Accepted";
const OUTAGE: &str = "The mail system cannot look up its users now. Please try again later.";

const WELCOME: &str = "235 Authentication succeeded";
const REFUSED: &str = "535 Incorrect authentication data";
const TRY_LATER: &str = "435 Unable to authenticate at present";

const CLIENTS: usize = 500;

/// What a person is told about a recipient. Exim breaks what is longer than 75 characters, and begins each line with
/// the codes.
#[track_caller]
fn told(smtp: &mut Smtp, sender: &str, recipient: &str) -> String {
    let lines = smtp.recipient_lines(sender, recipient);
    let [lines @ .., last] = &lines[..] else { panic!() };
    let codes = &last[..last.len().min("450 4.2.1 ".len())];
    let first_lines = codes.replacen(' ', "-", 1);
    let texts: Vec<&str> = lines
        .iter()
        .map(|line| line.strip_prefix(&first_lines).unwrap_or_else(|| panic!("{line}")))
        .collect();
    [codes, &[&texts[..], &[&last[codes.len()..]]].concat().join(" ")].concat()
}

fn refused(codes: &str, reason: &str) -> String {
    format!("{codes} {reason}")
}

/// Exim's processes are no longer root's when they ask.
fn let_others_in(daemon: &Daemon) {
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o755)).unwrap();
}

fn start(top: &str) -> (Daemon, Exim) {
    let base = Settings::ldif(2, &directory());
    let tables = format!("{top}\n{}", base.tables);
    let listeners = format!("{HTTP}[[listen.postfix_policy]]\nbind = \"unix:policy\"\n");
    let daemon = Daemon::start(Settings { tables, listeners, ..base });
    let_others_in(&daemon);
    let policy = daemon.path("policy").display().to_string();
    let exim = Exim::start(&EximOptions { policy: &policy, ..EximOptions::default() });
    (daemon, exim)
}

/// An Exim that people of this site send mail through.
fn sending(site: &Site, tls: bool) -> Exim {
    let [policy, auth] = ["policy", "auth"].map(|name| site.daemon.path(name).display().to_string());
    Exim::start(&EximOptions { policy: &policy, auth: &auth, tls })
}

#[test]
fn mail_is_accepted_for_those_who_hold_a_seat() {
    let (daemon, exim) = start("");
    let mut smtp = exim.smtp();
    let mut check = |recipient: &str, expected: &str| {
        assert_eq!(told(&mut smtp, SENDER, recipient), expected, "{recipient}\n{}", exim.log());
    };
    // Mapped, but nobody has logged in: mail takes no seat.
    let unseated = refused("450 4.2.1", UNSEATED);
    check("u1@example.org", &unseated);
    assert_eq!(daemon.seats_used(), 0);
    daemon.expect("u1", "granted");
    daemon.expect("u9", "granted");
    for recipient in [
        "u1@example.org",
        "U1@EXAMPLE.ORG",
        "\"u1\"@example.org",
        "u1+lists@example.org",
        "n.nine@example.org",
        "room@example.org",
        "all@example.org",
    ] {
        check(recipient, ACCEPTED);
    }
    check("u2@example.org", &unseated);
    check("nobody@example.org", &refused("550 5.1.1", "There is no mail user by this name."));
    let disabled = "This account is disabled. Please ask your mail administrator.";
    check("gone@example.org", &refused("550 5.2.1", disabled));
    // Another domain is not ours to judge, and what Exim accepts by itself is never asked about.
    check("x@example.com", "550 relay not permitted");
    check("postmaster@example.org", ACCEPTED);

    let mut smtp = exim.smtp();
    assert_eq!(told(&mut smtp, SENDER, "u1@example.org"), ACCEPTED);
    let queued = smtp.data("Hello");
    assert!(queued.starts_with("250 OK id="), "{queued}");
    assert_eq!(daemon.seats_used(), 2);
    daemon.verify();
}

#[test]
fn a_delivery_takes_a_seat_where_it_may_and_a_question_does_not() {
    let (daemon, exim) = start("[seats]\ntake_on = [\"delivery\"]\n");
    let mut smtp = exim.smtp();
    // A bounce; another server's call-out; and what an administrator asks Exim.
    assert_eq!(told(&mut smtp, "", "u1@example.org"), ACCEPTED);
    let mut relay = exim.connect(exim.relay_port);
    assert_eq!(told(&mut relay, SENDER, "u1@example.org"), ACCEPTED, "{}", exim.log());
    assert_eq!(
        relay.recipient_lines(SENDER, "nobody@example.org"),
        ["550-Callout verification failed:", "550 550 5.1.1 There is no mail user by this name."]
    );
    let verified = run(exim.command().args(["-bv", "u1@example.org"]), "");
    assert_eq!(String::from_utf8_lossy(&verified.stdout), "u1@example.org verified\n");
    let test = |sender: &str| {
        let session = format!("EHLO x\nMAIL FROM:<{sender}>\nRCPT TO:<u1@example.org>\nQUIT\n");
        let said = run(exim.command().args(["-bh", "192.0.2.7"]), &session).stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("\n250 Accepted\r\n"), "{said}");
    };
    test("");
    assert_eq!((daemon.seats_used(), daemon.history("").len()), (0, 0));
    // It is as good as a client.
    test(SENDER);
    assert_eq!(daemon.explain("u1")["last_login"], serde_json::Value::Null);
    assert_eq!(daemon.seats_used(), 1);

    for _ in 0..3 {
        assert_eq!(told(&mut smtp, SENDER, "u1@example.org"), ACCEPTED);
        assert_eq!(told(&mut smtp, SENDER, "n.nine@example.org"), ACCEPTED);
        assert_eq!(told(&mut smtp, SENDER, "u9@example.org"), ACCEPTED);
    }
    assert_eq!((daemon.seats_used(), daemon.history("").len()), (2, 2));
    assert_eq!(daemon.explain("u9")["seat"]["by"], "delivery (smtp)");
    let deferred = refused("450 4.2.1", EXHAUSTED);
    assert_eq!(told(&mut smtp, SENDER, "u2@example.org"), deferred);
    assert_eq!(told(&mut smtp, "", "u2@example.org"), deferred);
    assert_eq!(relay.recipient(SENDER, "u2@example.org"), "451 Could not complete recipient verify callout");
    daemon.verify();
}

/// Over a port this time.
#[test]
fn an_outage_is_temporary_and_over_when_the_daemon_is_back() {
    let port = free_port();
    let listeners = format!("{HTTP}[[listen.postfix_policy]]\nbind = \"127.0.0.1:{port}\"\n");
    let mut daemon = Daemon::start(Settings { listeners, ..Settings::ldif(2, &directory()) });
    daemon.expect("u1", "granted");
    let policy = format!("inet:127.0.0.1:{port}");
    let exim = Exim::start(&EximOptions { policy: &policy, ..EximOptions::default() });
    let mut smtp = exim.smtp();
    assert_eq!(told(&mut smtp, SENDER, "u1@example.org"), ACCEPTED, "{}", exim.log());

    let outage = refused("450 4.3.0", OUTAGE);
    daemon.stop();
    assert_eq!(told(&mut smtp, SENDER, "u1@example.org"), outage, "it hangs");
    daemon.resume();
    assert_eq!(told(&mut smtp, SENDER, "u1@example.org"), ACCEPTED);

    daemon.kill9();
    for recipient in ["u1@example.org", "nobody@example.org", "room@example.org"] {
        assert_eq!(told(&mut smtp, SENDER, recipient), outage, "it is gone");
    }
    assert!(exim.log().contains("Seatkeeper does not answer"), "{}", exim.log());
    daemon.restart();
    assert_eq!(told(&mut smtp, SENDER, "u1@example.org"), ACCEPTED);
}

#[test]
fn people_send_mail_through_exim_which_asks_by_dovecots_protocol() {
    let mut site = Site::start();
    let exim = sending(&site, false);
    let words = Words {
        welcome: WELCOME,
        wrong: REFUSED,
        // Exim drops the reason.
        exhausted: REFUSED,
        disabled: REFUSED,
        outage: TRY_LATER,
        no_daemon: TRY_LATER,
    };
    let log_in = |user: &str, password: &str| {
        let mut smtp = exim.submission();
        let said = smtp.auth_plain(user, password);
        let mail = told(&mut smtp, "u1@example.org", "friend@example.com");
        assert_eq!(mail == ACCEPTED, said == WELCOME, "{mail} after {said}");
        said
    };
    site.check("smtp", &words, &log_in);

    // The ways in which mail programs send a name and a password; Exim's log has the name.
    assert_eq!(exim.submission().auth_login("u2@example.org", "secret-2"), WELCOME);
    assert_eq!(exim.submission().auth_login("u2@example.org", "secret-1"), REFUSED);
    let mut smtp = exim.submission();
    assert_eq!(smtp.say("AUTH LOGIN dTI=").unwrap(), "334 UGFzc3dvcmQ6");
    assert_eq!(smtp.say("c2VjcmV0LTI=").unwrap(), WELCOME);
    let mut smtp = exim.submission();
    assert_eq!(smtp.say("AUTH PLAIN").unwrap(), "334");
    assert_eq!(smtp.say("AHUyAHNlY3JldC0y").unwrap(), WELCOME);
    assert_eq!(exim.submission().auth_plain("u2", ""), REFUSED);
    assert!(exim.log().contains("(set_id=u2@example.org)"), "{}", exim.log());

    // The daemon dies while Exim waits for it.
    site.slapd.stop();
    let mut smtp = exim.submission();
    let said = thread::scope(|scope| {
        let login = scope.spawn(|| smtp.auth_plain("u1", "secret-1"));
        site.daemon.wait_for("the login", |status| {
            let listeners = status["listeners"].as_array().unwrap();
            listeners
                .iter()
                .any(|listener| listener["kind"] == "dovecot_auth" && listener["connections"] != 0)
        });
        site.daemon.kill9();
        login.join().unwrap()
    });
    assert_eq!(said, TRY_LATER);
    site.slapd.resume();
    site.daemon.restart();
    assert_eq!(smtp.auth_plain("u1", "secret-1"), WELCOME);
}

#[test]
fn whoever_is_logged_in_and_loses_the_seat_reads_why() {
    let site = Site::start();
    let exim = sending(&site, false);
    let mut smtp = exim.submission();
    assert_eq!(smtp.auth_plain("u1", "secret-1"), WELCOME);
    // The sender is asked about, not the recipient, who has no seat.
    assert_eq!(told(&mut smtp, "u1@example.org", "u5@example.org"), ACCEPTED);
    site.daemon.release("u1");
    site.daemon.expect("u2", "granted");
    site.daemon.expect("u3", "granted");
    let exhausted = refused("550 5.7.1", EXHAUSTED);
    assert_eq!(told(&mut smtp, "u1@example.org", "u5@example.org"), exhausted);
    assert_eq!(site.daemon.seats_used(), 2);
}

/// A real mail program, which asks for TLS.
#[test]
fn passwords_are_taken_over_tls_alone() {
    let site = Site::start();
    let exim = sending(&site, true);
    let said = exim.submission().auth_plain("u1", "secret-1");
    assert_eq!(said, "503 AUTH command used when not advertised");
    let send = |mechanism: &str, password: &str| {
        let mut curl = installed("curl", "curl");
        curl.args(["--silent", "--show-error", "--ssl-reqd", "--insecure", "--upload-file", "-"]);
        curl.args(["--mail-from", "u1@example.org", "--mail-rcpt", "friend@example.com"]);
        curl.args(["--login-options", mechanism, "--user", &format!("u1:{password}")]);
        let curl = curl.arg(format!("smtp://127.0.0.1:{}/client.example.net", exim.submission_port));
        let output = curl.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for mechanism in ["AUTH=PLAIN", "AUTH=LOGIN"] {
        assert_eq!(send(mechanism, "secret-1"), (Some(0), String::new()), "{mechanism}\n{}", exim.log());
        let (code, said) = send(mechanism, "x");
        assert_eq!((code, said.trim()), (Some(67), "curl: (67) Login denied"), "{mechanism}");
    }
}

#[test]
fn five_hundred_clients_are_served_beside_slow_ones_and_those_who_never_read() {
    let mut site = Site::start();
    // The crowd is to meet in Exim and the daemon, not at the directory.
    site.settings.tables.push_str("[passwords]\ncache = \"1h\"\n");
    site.daemon.configure(&site.settings);
    site.daemon.reload().unwrap();
    let exim = sending(&site, false);
    let mut slow = exim.submission();
    assert_eq!(slow.say("AUTH LOGIN").unwrap(), "334 VXNlcm5hbWU6");
    let mut rude = TcpStream::connect(("127.0.0.1", exim.submission_port)).unwrap();
    rude.set_nonblocking(true).unwrap();
    let many = "EHLO x\r\nRSET\r\nAUTH PLAIN AHUxAHNlY3JldC0x\r\n".repeat(1000);
    while rude.write(many.as_bytes()).is_ok() {}

    // All are connected before the first of them logs in.
    let connected = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut smtp = exim.submission();
                connected.wait();
                assert_eq!(smtp.auth_plain("u1", "secret-1"), WELCOME);
                assert_eq!(told(&mut smtp, "u1@example.org", "friend@example.com"), ACCEPTED);
            });
        }
    });
    assert_eq!(slow.say("dTE=").unwrap(), "334 UGFzc3dvcmQ6");
    assert_eq!(slow.say("c2VjcmV0LTE=").unwrap(), WELCOME);
    drop((slow, rude));
    wait_for("every connection to end", || {
        let status = site.daemon.status();
        let listeners = status["listeners"].as_array().unwrap();
        let asks = |kind: &str| listeners.iter().any(|l| l["kind"] == kind && l["connections"] != 0);
        (!asks("dovecot_auth") && !asks("postfix_policy")).then_some(())
    });
    assert_eq!(site.daemon.seats_used(), 1);
    site.daemon.verify();
}
