//! Five hundred people at once through real mail servers, beside one who is slow and one who never reads.
//!
//! What each protocol's own listener does with such clients is in `crowd`: here they are the servers' clients, and
//! each server has a process or a connection for each of them that asks the daemon.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::daemon::{Daemon, Settings, ldap_directory};
use crate::support::dovecot::{Dovecot, DovecotOptions};
use crate::support::nginx::Nginx;
use crate::support::postfix::{Postfix, PostfixOptions, Smtp};
use crate::support::slapd::{Options, PEOPLE, Slapd, person};
use crate::support::{PATIENCE, shipped, test_saslauthd};

const CLIENTS: u32 = 500;

const SENDER: &str = "friend@example.com";
const ACCEPTED: &str = "250 2.1.5 Ok";
const WELCOME: &str = "235 2.7.0 Authentication successful";
const EXHAUSTED: &str = "All mailbox licenses are in use. Please ask your mail administrator for one.";

/// A directory of one more than there are seats.
fn directory() -> Slapd {
    let with_password = |number| format!("{}\nuserPassword: secret-{number}\n\n", person(number).trim_end());
    Slapd::start(Options { data: (1..=CLIENTS + 1).map(with_password).collect(), ..Options::default() })
}

fn settings(slapd: &Slapd, listeners: String) -> Settings {
    Settings {
        seats: CLIENTS.into(),
        tables: "[seats]\ntake_on = [\"login\", \"delivery\"]\n".to_owned()
            + &ldap_directory(slapd, &[&slapd.url()], ""),
        listeners,
        ..Settings::default()
    }
}

/// Each in a thread of its own.
fn at_once<T: Send, R: Send>(clients: impl IntoIterator<Item = T>, ask: impl Fn(T) -> R + Sync) -> Vec<R> {
    let ask = &ask;
    thread::scope(|scope| {
        let asking: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || ask(client))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    })
}

/// Everybody reads the same.
#[track_caller]
fn all_read(said: &[String], expected: &str, log: &str) {
    assert_eq!(said.len(), CLIENTS as usize);
    let other: Vec<_> = said.iter().filter(|said| *said != expected).collect();
    assert!(other.is_empty(), "{} of them: {:?}\n{log}", other.len(), other.first());
}

/// Everybody has a seat, by one line of the ledger, and there is no further one.
#[track_caller]
fn check_seats(daemon: &Daemon) {
    assert_eq!(daemon.seats_used(), u64::from(CLIENTS));
    assert_eq!(daemon.history("").len(), CLIENTS as usize);
    daemon.verify();
}

/// A client of any protocol of lines.
struct Line(BufReader<TcpStream>);

impl Line {
    /// Connects, and reads the greeting where there is one.
    fn open(port: u16, is_greeted: bool) -> Line {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = Line(BufReader::new(stream));
        if is_greeted {
            line.read();
        }
        line
    }

    fn read(&mut self) -> String {
        let mut text = String::new();
        self.0.read_line(&mut text).unwrap();
        text.trim_end().to_owned()
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// A command, and a reply of one line that begins like this.
    #[track_caller]
    fn say(&mut self, command: &str, expected: &str) {
        self.send(&format!("{command}\r\n"));
        let said = self.read();
        assert!(said.starts_with(expected), "{command}: {said}");
    }

    /// Asks without end from here on, as far as the server goes on reading, and never reads an answer.
    fn never_read(self, command: &str) -> TcpStream {
        let mut stream = self.0.into_inner();
        stream.set_nonblocking(true).unwrap();
        let many = format!("{command}\r\n").repeat(1000);
        for _ in 0..100 {
            match stream.write(many.as_bytes()) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        stream
    }
}

/// An IMAP response without what it says to programs in brackets.
fn without_code(said: &str) -> String {
    match (said.split_once(" ["), said.split_once("] ")) {
        (Some((begin, _)), Some((_, text))) => format!("{begin} {text}"),
        _ => said.to_owned(),
    }
}

fn plain(number: u32) -> String {
    STANDARD.encode(format!("\0u{number}\0secret-{number}"))
}

#[test]
fn five_hundred_get_mail_and_send_it_through_postfix() {
    let slapd = directory();
    // Each process of Postfix keeps its connections.
    let table = |kind| format!("[[listen.{kind}]]\nbind = \"127.0.0.1:0\"\nmax_connections = 4096\n");
    let listeners = ["http", "postfix_policy", "socketmap", "dovecot_auth"].map(table).concat();
    let daemon = Daemon::start(settings(&slapd, listeners));
    let postfix = Postfix::start(&PostfixOptions {
        settings: format!(
            "seatkeeper_policy = inet:127.0.0.1:{}\nseatkeeper_maps = socketmap:inet:127.0.0.1:{}\n\
             seatkeeper_auth = inet:127.0.0.1:{}\n\
             smtpd_sasl_auth_enable = yes\n\
             smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination\n",
            daemon.port("postfix_policy"),
            daemon.port("socketmap"),
            daemon.port("dovecot_auth")
        ),
        ..PostfixOptions::default()
    });

    // Mail to everybody: each takes a seat.
    let begin = || {
        let mut line = Line::open(postfix.smtp_port, true);
        line.say("HELO client.example.net", "250 ");
        line
    };
    let mut slow = begin();
    slow.say("MAIL FROM:<>", "250 ");
    slow.send("RCPT TO:<u1@exam");
    let mut rude = begin();
    rude.say(&format!("MAIL FROM:<{SENDER}>"), "250 ");
    let rude = rude.never_read("RCPT TO:<u1@example.org>");
    let clients = at_once(1..=CLIENTS, |number| (number, postfix.smtp()));
    let said = at_once(clients, |(number, mut smtp): (u32, Smtp)| {
        smtp.recipient(SENDER, &format!("u{number}@example.org"))
    });
    all_read(&said, ACCEPTED, &postfix.log());
    slow.say("ple.org>", ACCEPTED);
    drop(rude);
    check_seats(&daemon);
    let one_more = format!("u{}@example.org", CLIENTS + 1);
    assert_eq!(
        postfix.smtp().recipient(SENDER, &one_more),
        format!("450 4.2.1 <{one_more}>: Recipient address rejected: {EXHAUSTED}")
    );

    // Everybody sends mail, through the same port, where its processes are already.
    let mut slow = begin();
    slow.send(&format!("AUTH PLAIN {}", &plain(1)[..4]));
    let mut rude = begin();
    rude.say(&format!("AUTH PLAIN {}", plain(1)), WELCOME);
    rude.say("MAIL FROM:<u1@example.org>", "250 ");
    let rude = rude.never_read(&format!("RCPT TO:<{SENDER}>"));
    let mut clients = at_once(1..=CLIENTS, |number| (number, postfix.smtp()));
    let said = at_once(&mut clients, |(number, smtp)| {
        smtp.auth_plain(&format!("u{number}"), &format!("secret-{number}"))
    });
    all_read(&said, WELCOME, &postfix.log());
    let said =
        at_once(clients, |(number, mut smtp)| smtp.recipient(&format!("u{number}@example.org"), SENDER));
    all_read(&said, ACCEPTED, &postfix.log());
    slow.say(&plain(1)[4..], WELCOME);
    drop(rude);
    check_seats(&daemon);
}

#[test]
fn five_hundred_log_in_through_nginx_and_by_saslauthds_protocol() {
    let slapd = directory();
    // Dovecot's port is known only later.
    let nowhere = "backends.imap = \"127.0.0.1:1\"\n";
    let listeners = format!(
        "[[listen.http]]\nbind = \"127.0.0.1:0\"\n[[listen.dovecot_policy]]\nbind = \"127.0.0.1:0\"\n\
         [[listen.saslauthd]]\nbind = \"unix:mux\"\n[[listen.nginx_auth]]\nbind = \"127.0.0.1:0\"\n{nowhere}"
    );
    let mut settings = settings(&slapd, listeners);
    let mut daemon = Daemon::start(settings.clone());
    let dovecot = Dovecot::start(&DovecotOptions {
        ldap_url: &slapd.url(),
        base_dn: PEOPLE,
        policy_port: daemon.port("dovecot_policy"),
        lua: None,
        master: None,
        // Some processes for all, instead of one for each.
        extra: "service imap {\n service_count = 0\n client_limit = 200\n process_limit = 20\n}\n",
    });
    let backend = format!("backends.imap = \"127.0.0.1:{}\"\n", dovecot.imap_port);
    settings.listeners = settings.listeners.replace(nowhere, &backend);
    daemon.configure(&settings);
    daemon.reload().unwrap();
    let mail = shipped(
        "nginx-mail.conf",
        &[("127.0.0.1:4005", &format!("127.0.0.1:{}", daemon.port("nginx_auth")))],
    );
    let web = shipped(
        "nginx-forward-auth.conf",
        &[("127.0.0.1:8460", &format!("127.0.0.1:{}", daemon.port("http")))],
    );
    let servers = "mail {\n include SCRATCH/mail.conf;\n server { listen 127.0.0.1:PORT0; protocol imap; }\n}\n\
                   http {\n access_log off;\n client_body_temp_path SCRATCH/body;\n\
                   proxy_temp_path SCRATCH/proxy;\n fastcgi_temp_path SCRATCH/f;\n uwsgi_temp_path SCRATCH/u;\n\
                   scgi_temp_path SCRATCH/s;\n\
                   server { listen 127.0.0.1:PORT1; include SCRATCH/web.conf; root SCRATCH; }\n}\n";
    let files = [("mail.conf", mail.as_str()), ("web.conf", &web), ("mail.txt", "Your mail.\n")];
    let nginx = Nginx::start(2, servers, &files);
    let [imap, http] = nginx.ports[..] else { panic!() };

    // Everybody's first login, and each stays.
    let mut slow = Line::open(imap, true);
    slow.send("a1 LOGIN u1 sec");
    let mut rude = Line::open(imap, true);
    rude.say("a1 LOGIN u1 secret-1", "a1 OK ");
    let rude = rude.never_read("a2 NOOP");
    let mut clients = at_once(1..=CLIENTS, |number| (number, Line::open(imap, true)));
    let said = at_once(&mut clients, |(number, line)| {
        line.send(&format!("a1 LOGIN u{number} secret-{number}\r\n"));
        without_code(&line.read())
    });
    all_read(&said, "a1 OK Logged in", &(nginx.log() + &dovecot.log()));
    slow.say("ret-1", "a1 OK ");
    check_seats(&daemon);
    let one_more = CLIENTS + 1;
    Line::open(imap, true)
        .say(&format!("a1 LOGIN u{one_more} secret-{one_more}"), &format!("a1 NO [ALERT] {EXHAUSTED}"));
    drop((rude, clients));

    // Everybody reads their mail in the browser.
    let request = |number: u32| {
        let credentials = STANDARD.encode(format!("u{number}:secret-{number}"));
        format!("GET /mail.txt HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n")
    };
    let page = |line: &mut Line| {
        let status = line.read();
        while !line.read().is_empty() {}
        format!("{status}: {}", line.read())
    };
    let whole = request(1);
    let (half, rest) = whole.split_at(whole.len() / 2);
    let mut slow = Line::open(http, false);
    slow.send(half);
    let rude = Line::open(http, false).never_read(whole.strip_suffix("\r\n").unwrap());
    let mut clients = at_once(1..=CLIENTS, |number| (number, Line::open(http, false)));
    let said = at_once(&mut clients, |(number, line)| {
        line.send(&request(*number));
        page(line)
    });
    all_read(&said, "HTTP/1.1 200 OK: Your mail.", &nginx.log());
    slow.send(rest);
    assert_eq!(page(&mut slow), "HTTP/1.1 200 OK: Your mail.");
    drop(rude);

    // And every server with libsasl2 asks at once.
    let mux = daemon.path("mux");
    let said = at_once(1..=CLIENTS, |number| {
        test_saslauthd(&mux, &format!("u{number}"), &format!("secret-{number}"))
    });
    all_read(&said, "0: OK \"Success.\"", &daemon.log());
    check_seats(&daemon);
}

#[test]
fn five_hundred_log_in_to_a_postfix_that_asks_by_libsasl2() {
    let slapd = directory();
    let listeners = "[[listen.http]]\nbind = \"127.0.0.1:0\"\n\
                     [[listen.saslauthd]]\nbind = \"unix:mux\"\nsocket_mode = \"0666\"\n";
    let daemon = Daemon::start(settings(&slapd, listeners.to_owned()));
    // Postfix is not root when it asks.
    std::fs::set_permissions(daemon.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mux = daemon.path("mux").display().to_string();
    let postfix = Postfix::start(&PostfixOptions {
        settings: "smtpd_sasl_type = cyrus\nsmtpd_sasl_path = smtpd\n\
                   smtpd_relay_restrictions = permit_sasl_authenticated, reject\n"
            .to_owned(),
        bare: true,
        sasl: shipped("cyrus-sasl.conf", &[("/run/seatkeeper/saslauthd.sock", &mux)]),
    });
    let port = postfix.submission_port;
    let begin = || {
        let mut line = Line::open(port, true);
        line.say("HELO client.example.net", "250 ");
        line
    };
    let mut slow = begin();
    slow.send(&format!("AUTH PLAIN {}", &plain(1)[..4]));
    let rude = begin().never_read(&format!("AUTH PLAIN {}", plain(1)));
    let clients = at_once(1..=CLIENTS, |number| (number, postfix.submission()));
    let said = at_once(clients, |(number, mut smtp): (u32, Smtp)| {
        smtp.auth_plain(&format!("u{number}"), &format!("secret-{number}"))
    });
    all_read(&said, WELCOME, &postfix.log());
    slow.say(&plain(1)[4..], WELCOME);
    drop(rude);
    check_seats(&daemon);
}
