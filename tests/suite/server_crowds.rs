//! Five hundred clients at once through real servers, beside slow ones and those that never read. Exim is in
//! `exim.rs`, Dovecot in `dovecot_crowd.rs`; `crowd.rs` speaks to the daemon itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Barrier, Mutex};
use std::thread;

use crate::passwords::{MailProxy, Site, get, postfix_by_cyrus_sasl, postfix_by_dovecot, web_application};
use crate::postfix::{SENDER, directory};
use crate::support::daemon::{Daemon, HTTP, Settings};
use crate::support::dovecot::imap_login;
use crate::support::postfix::{Postfix, PostfixOptions};
use crate::support::slapd::installed;
use crate::support::{PATIENCE, free_port, wait_for};

const CLIENTS: usize = 500;

const ACCEPTED: &str = "250 2.1.5 Ok";
const WELCOME: &str = "235 2.7.0 Authentication successful";

/// Right passwords are remembered, so that the crowd meets in the mail server and the daemon, not at the directory.
fn site() -> Site {
    let mut site = Site::start();
    site.settings.tables.push_str("[passwords]\ncache = \"1h\"\n");
    site.daemon.configure(&site.settings);
    site.daemon.reload().unwrap();
    site
}

/// Lets five hundred clients do the same. All are there before the first goes on.
fn crowd<Client: Send>(connect: impl Fn() -> Client + Sync, go_on: impl Fn(Client) + Sync) {
    let connected = Barrier::new(CLIENTS);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = connect();
                connected.wait();
                go_on(client);
            });
        }
    });
}

/// A client that says something without end and never reads.
fn rude(port: u16, what: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nonblocking(true).unwrap();
    let many = what.repeat(1000);
    // So long as somebody takes it, and some while longer than buffers last.
    for _ in 0..1000 {
        if stream.write(many.as_bytes()).is_err() {
            break;
        }
    }
    stream
}

#[track_caller]
fn is_quiet(daemon: &Daemon, kinds: &[&str]) {
    wait_for("every connection to end", || {
        let status = daemon.status();
        let listeners = status["listeners"].as_array().unwrap();
        let asks =
            |l: &&serde_json::Value| kinds.iter().any(|kind| l["kind"] == *kind) && l["connections"] != 0;
        listeners.iter().find(asks).is_none().then_some(())
    });
    daemon.verify();
}

#[test]
fn five_hundred_servers_bring_mail_beside_slow_ones_and_those_who_never_read() {
    let [policy, maps] = [(); 2].map(|()| free_port());
    let listeners = format!(
        "{HTTP}[[listen.postfix_policy]]\nbind = \"127.0.0.1:{policy}\"\n\
         [[listen.socketmap]]\nbind = \"127.0.0.1:{maps}\"\n"
    );
    let daemon = Daemon::start(Settings { listeners, ..Settings::ldif(2, &directory()) });
    daemon.expect("u1", "granted");
    let settings = format!(
        "seatkeeper_policy = inet:127.0.0.1:{policy}\nseatkeeper_maps = socketmap:inet:127.0.0.1:{maps}\n"
    );
    let postfix = Postfix::start(&PostfixOptions { settings, ..PostfixOptions::default() });
    let mut slow = postfix.smtp();
    assert!(slow.say(&format!("MAIL FROM:<{SENDER}>")).unwrap().starts_with("250 "));
    let rude = rude(
        postfix.smtp_port,
        "EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<u1@example.org>\r\nRSET\r\n",
    );
    crowd(|| postfix.smtp(), |mut smtp| assert_eq!(smtp.recipient(SENDER, "u1@example.org"), ACCEPTED));
    assert_eq!(slow.say("RCPT TO:<u1@example.org>").unwrap(), ACCEPTED);
    drop((slow, rude));
    assert_eq!(daemon.seats_used(), 1);
    // Postfix keeps its processes, and they their connections, for a while.
    drop(postfix);
    is_quiet(&daemon, &["postfix_policy", "socketmap"]);
}

#[test]
fn five_hundred_people_log_in_to_postfix_beside_slow_ones_and_those_who_never_read() {
    let site = site();
    for postfix in [postfix_by_dovecot(&site), postfix_by_cyrus_sasl(&site)] {
        let mut slow = postfix.submission();
        assert_eq!(slow.say("AUTH LOGIN").unwrap(), "334 VXNlcm5hbWU6");
        let rude = rude(postfix.submission_port, "EHLO x\r\nAUTH PLAIN AHUxAHNlY3JldC0x\r\n");
        crowd(|| postfix.submission(), |mut smtp| assert_eq!(smtp.auth_plain("u1", "secret-1"), WELCOME));
        assert_eq!(slow.say("dTE=").unwrap(), "334 UGFzc3dvcmQ6");
        assert_eq!(slow.say("c2VjcmV0LTE=").unwrap(), WELCOME);
        drop((slow, rude));
        assert_eq!(site.daemon.seats_used(), 1);
        drop(postfix);
        is_quiet(&site.daemon, &["dovecot_auth", "saslauthd"]);
    }
}

#[test]
fn five_hundred_times_testsaslauthd() {
    /// At a time, since each is a process.
    const AT_ONCE: usize = 100;
    let site = site();
    let mux = site.daemon.path("mux");
    // One that sends half a request, and one that asks and never reads.
    let request = b"\0\x02u1\0\x08secret-1\0\x04imap\0\0";
    let mut slow = std::os::unix::net::UnixStream::connect(&mux).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(&request[..9]).unwrap();
    let mut rude = std::os::unix::net::UnixStream::connect(&mux).unwrap();
    rude.write_all(request).unwrap();
    for _ in 0..CLIENTS / AT_ONCE {
        let asking: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let mut command = installed("testsaslauthd", "sasl2-bin");
                command.args(["-u", "u1", "-p", "secret-1", "-s", "imap", "-f"]).arg(&mux);
                command.stdout(std::process::Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for asking in asking {
            let output = asking.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "0: OK \"Success.\"\n");
        }
    }
    slow.write_all(&request[9..]).unwrap();
    let mut said = [0; 4];
    slow.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"\0\x02OK");
    drop((slow, rude));
    assert_eq!(site.daemon.seats_used(), 1);
    is_quiet(&site.daemon, &["saslauthd"]);
}

#[test]
fn five_hundred_people_come_through_nginx_beside_slow_ones_and_those_who_never_read() {
    let mut site = site();
    // Dovecot's own limits are for a small site.
    let proxy = MailProxy::start(
        &mut site,
        "mail_max_userip_connections = 1000\n\
         service imap-login {\n service_count = 0\n client_limit = 2000\n process_limit = 2\n process_min_avail = 1\n}\n\
         service imap {\n process_limit = 1000\n}\nservice auth {\n client_limit = 8000\n}\n",
    );
    let port = proxy.nginx.ports[0];
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(b"a1 LOGIN u1 sec").unwrap();
    let rude = rude(port, "a1 LOGIN u1 secret-1\r\n");
    let failures = Mutex::new(Vec::new());
    crowd(
        || (),
        |()| {
            if let Err(said) = imap_login(port, "u1", "secret-1") {
                failures.lock().unwrap().push(said);
            }
        },
    );
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:?}\n{}\n{}", proxy.nginx.log(), proxy.dovecot.log());
    slow.write_all(b"ret-1\r\na2 LOGOUT\r\n").unwrap();
    let mut said = String::new();
    slow.read_to_string(&mut said).unwrap();
    assert!(said.contains("a1 OK ") && said.contains("a2 OK "), "{said}");
    drop((slow, rude));
    assert_eq!(site.daemon.seats_used(), 1);
    drop(proxy);
    is_quiet(&site.daemon, &["nginx_auth"]);
}

#[test]
fn five_hundred_people_use_a_web_application_beside_slow_ones_and_those_who_never_read() {
    let site = site();
    let nginx = web_application(&site);
    let port = nginx.ports[0];
    let request = "GET /mail.txt HTTP/1.1\r\nHost: x\r\nAuthorization: Basic dTE6c2VjcmV0LTE=\r\n\r\n";
    let (half, rest) = request.split_at(request.len() / 2);
    let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(half.as_bytes()).unwrap();
    let rude = rude(port, request);
    crowd(
        || (),
        |()| {
            let (status, body, _) = get(port, "/mail.txt", Some(("u1", "secret-1")));
            assert_eq!((status, body.as_str()), (200, "Your mail."));
        },
    );
    slow.write_all(rest.as_bytes()).unwrap();
    let mut said = [0; 12];
    slow.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"HTTP/1.1 200");
    drop((slow, rude));
    assert_eq!(site.daemon.seats_used(), 1);
    drop(nginx);
    site.daemon.verify();
}
