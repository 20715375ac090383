//! Raw bytes on every listener: truncated, oversized, in any pieces, pipelined, and names with whatever a byte can be.

use std::io::Write;
use std::time::Duration;

use seatkeeper::domain::name::is_deceptive;
use socket2::SockRef;

use crate::support::daemon::{Daemon, Settings, ldap_directory, listener};
use crate::support::http::{Address, Client};
use crate::support::slapd::{Options, PEOPLE, Slapd, person};
use crate::support::wires::{LISTENERS, LOGIN_PROMPTS, WIRES, Wire, connect, exchange};

const PEOPLE_COUNT: u32 = 30;

/// A directory with passwords, and a daemon with every listener.
struct Site {
    _slapd: Slapd,
    daemon: Daemon,
    binds: Vec<(&'static str, String)>,
}

impl Site {
    fn start() -> Site {
        let with_password =
            |number| format!("{}\nuserPassword: secret-{number}\n\n", person(number).trim_end());
        let mut data: String = (1..PEOPLE_COUNT).map(with_password).collect();
        // `uid: jürgen`, whose password is `pässwörd`.
        data += &format!(
            "dn: cn=x,{PEOPLE}\nobjectClass: inetOrgPerson\nuid:: asO8cmdlbg==\ncn: x\nsn: x\n\
             userPassword:: cMOkc3N3w7ZyZA==\nentryUUID: 00000000-0000-4000-8000-00000000ffff\n\n"
        );
        let slapd = Slapd::start(Options { data, ..Options::default() });
        let mut tables = ldap_directory(&slapd, &[&slapd.url()], "");
        // Who is remembered costs no bind, so that requests can be cut in every place.
        tables += "[passwords]\ncache = \"1h\"\n[seats]\ntake_on = [\"login\", \"delivery\"]\n";
        let listeners =
            LISTENERS.map(|(kind, keys)| format!("[[listen.{kind}]]\nbind = \"127.0.0.1:0\"\n{keys}"));
        let daemon = Daemon::start(Settings {
            seats: 100,
            tables,
            listeners: listeners.concat(),
            ..Settings::default()
        });
        let status = daemon.status();
        let bind = |(kind, _)| match listener(&status, kind) {
            Some(Address::Tcp(bind)) => (kind, bind),
            other => panic!("{other:?}"),
        };
        let binds = LISTENERS.map(bind).to_vec();
        Site { _slapd: slapd, daemon, binds }
    }

    fn bind(&self, kind: &str) -> &str {
        &self.binds.iter().find(|(found, _)| *found == kind).unwrap().1
    }

    /// A connection on which [`turn`] waits.
    fn client(&self) -> Client {
        self.daemon.client()
    }

    /// The answers to requests that come in these pieces, the daemon having had its turn between them.
    #[track_caller]
    fn ask(&self, wire: &Wire, pieces: &[&[u8]]) -> Vec<String> {
        let mut client = (pieces.len() > 1).then(|| self.client());
        let between = || turn(client.as_mut().unwrap());
        wire.read(&exchange(self.bind(wire.kind), pieces, between))
    }

    fn wait_until_all_are_gone(&self) {
        self.daemon.wait_for("every connection to end", |status| {
            status["listeners"].as_array().unwrap().iter().all(|listener| listener["connections"] == 0)
        });
    }

    /// What is so whatever was sent.
    #[track_caller]
    fn check(&self, seats: u64) {
        self.wait_until_all_are_gone();
        assert_eq!(self.daemon.seats_used(), seats, "{}", self.daemon.log());
        self.daemon.verify();
        let log = self.daemon.log();
        assert!(!log.contains("panic"), "{log}");
        for line in log.lines() {
            let mut words = line.split(' ');
            let (time, level) = (words.next().unwrap(), words.next().unwrap_or_default());
            assert!(time.len() > 19 && time.ends_with('Z') && time.starts_with("20"), "{line:?}");
            assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&level), "{line:?}");
            assert!(!line.starts_with(FORGED) && !line.contains(is_deceptive), "{line:?}");
        }
    }
}

/// An answer to somebody else: what was sent before is read, if anything is.
fn turn(client: &mut Client) {
    assert_eq!(client.ask("GET", "/healthz", "").unwrap().status, 200);
}

fn user(number: u32) -> (Vec<u8>, Vec<u8>) {
    (format!("u{number}").into_bytes(), format!("secret-{number}").into_bytes())
}

/// A request about the user of a number.
fn request(wire: &Wire, number: u32) -> Vec<u8> {
    let (user, password) = user(number);
    (wire.request)(&user, &password)
}

#[test]
fn a_request_that_ends_early_takes_no_seat() {
    let site = Site::start();
    let mut client = site.client();
    let mut seats = 0;
    for (number, wire) in (1..).zip(&WIRES) {
        let whole = request(wire, number);
        for end in 0..whole.len() {
            let part = &whole[..end];
            // The client has no more to say, and listens.
            let said = site.ask(wire, &[part]);
            // LOGIN asks for what is missing.
            let expected = match end {
                _ if said.is_empty() => Vec::new(),
                _ if wire.is_http() => vec!["400 problem".to_owned()],
                _ => LOGIN_PROMPTS[..said.len().min(2)].iter().map(|prompt| (*prompt).to_owned()).collect(),
            };
            assert_eq!(said, expected, "{}, {end} bytes", wire.name);
            assert!(said.is_empty() || wire.is_http() || wire.name == "dovecot_auth, LOGIN", "{}", wire.name);
            // The client is dead.
            let mut stream = connect(site.bind(wire.kind));
            stream.write_all(part).unwrap();
            turn(&mut client);
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(std::mem::replace(&mut client, site.client()));
        assert_eq!(site.daemon.seats_used(), seats, "{}", wire.name);
        // The last byte makes the difference.
        seats += u64::from(wire.takes_seat);
        site.ask(wire, &[&whole]);
        assert_eq!(site.daemon.seats_used(), seats, "{}", wire.name);
    }
    drop(client);
    site.check(seats);
}

#[test]
fn requests_come_in_any_pieces() {
    let site = Site::start();
    site.daemon.expect("u1", "granted");
    let mut client = site.client();
    for wire in &WIRES {
        let whole = request(wire, 1);
        let expected = (wire.welcome)("u1");
        assert_eq!(site.ask(wire, &[&whole]), expected, "{}", wire.name);
        for at in 1..whole.len() {
            let (one, other) = whole.split_at(at);
            let answer = exchange(site.bind(wire.kind), &[one, other], || turn(&mut client));
            assert_eq!(wire.read(&answer), expected, "{}, split at {at}", wire.name);
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        let answer = exchange(site.bind(wire.kind), &bytes, || turn(&mut client));
        assert_eq!(wire.read(&answer), expected, "{}, byte by byte", wire.name);
    }
    drop(client);
    site.check(1);
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    let site = Site::start();
    for number in [1, 2] {
        site.daemon.expect(&format!("u{number}"), "granted");
    }
    for (number, wire) in (1..).zip(&WIRES) {
        let stranger = format!("nobody{number}").into_bytes();
        let nobody = (wire.request)(&stranger, b"secret-1");
        let all = [&request(wire, 1)[..], &nobody, &request(wire, 2), &request(wire, 1)];
        let mut expected =
            [(wire.welcome)("u1"), (wire.unknown)(&stranger), (wire.welcome)("u2"), (wire.welcome)("u1")]
                .concat();
        // One request is all that a connection of libsasl2 has.
        if wire.kind == "saslauthd" {
            expected.truncate(1);
        }
        assert_eq!(site.ask(wire, &[&all.concat()]), expected, "{}", wire.name);
        if !wire.is_http() {
            continue;
        }
        // HTTP/1.0 has one request a connection, or says so.
        let older = |keep: &str| {
            let rewrite = |request: &[u8]| {
                let text = String::from_utf8(request.to_vec()).unwrap();
                text.replace(" HTTP/1.1\r\nHost: x\r\n", &format!(" HTTP/1.0\r\n{keep}")).into_bytes()
            };
            let requests: Vec<u8> = all.iter().flat_map(|request| rewrite(request)).collect();
            site.ask(wire, &[&requests])
        };
        assert_eq!(older("Connection: keep-alive\r\n"), expected, "{}", wire.name);
        assert_eq!(older(""), expected[..1], "{}", wire.name);
    }
    site.check(2);
}

const FORGED: &str = "2026-01-01T00:00:00Z ERROR event=brake_tripped";

/// None is said twice to the throttle, which would hold it up: each kind of question has a user of its own.
fn names_of_nobody(number: usize) -> Vec<Vec<u8>> {
    let names = [
        &b"u1\0"[..],
        b"\0u1",
        b"u1\r",
        b"u1\n",
        b"u1\r\n",
        b"\r\nu1",
        b"u1\r\nX-Injected: yes\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"u1\raction=DUNNO\r\r",
        b"u1\naction=DUNNO\n\n",
        b"u1,5:OK u1,",
        b"u1\tuser=u1\nOK\t1\tuser=u1",
        b"u1\x01t\x01nOK",
        b"u1\x1b[2J",
        b"u1\x7f",
        b"\xff\xfe",
        b"u1\xff",
        b"j\xc3",
        b"j\xfcrgen",
        b"\xed\xa0\x80",
        b"\xc0\x80u1",
        "jörgen".as_bytes(),
        "u1\u{85}x".as_bytes(),
        "\u{202e}1u".as_bytes(),
        b"u1 x",
        b"*",
        b"u1)(uid=*",
        b"u1@",
        b"@example.org",
        b"u1@example.org@example.org",
        b"u1%0D%0A",
        b"u1\\",
        b"\"u1\"",
        &[b'x'; 700],
    ]
    .map(<[u8]>::to_vec);
    let lines = [format!("u1\n{FORGED} all is lost"), format!("u1\"\r{FORGED}\u{2028}{FORGED}")];
    let of_its_own = |name: Vec<u8>| match name.windows(2).position(|two| two == b"u1") {
        Some(at) => [&name[..at], format!("u{number}").as_bytes(), &name[at + 2..]].concat(),
        None => [&name[..], number.to_string().as_bytes()].concat(),
    };
    names.into_iter().chain(lines.map(String::into_bytes)).map(of_its_own).collect()
}

#[test]
fn names_that_nobody_can_have_are_unknown_and_forge_nothing() {
    let site = Site::start();
    for (number, wire) in (1..).zip(&WIRES) {
        for name in names_of_nobody(number) {
            if wire.can_carry(&name) {
                let said = site.ask(wire, &[&(wire.request)(&name, b"secret-1")]);
                assert_eq!(said, (wire.unknown)(&name), "{}, {}", wire.name, name.escape_ascii());
            }
        }
    }
    // Written after all of the above.
    site.daemon.expect("u2", "granted");
    site.daemon.wait_for_log(&["event=seat_granted", "user=u2@example.org"]);
    assert!(site.daemon.log().contains("event=seat_refused"));
    site.check(1);
}

#[test]
fn names_and_passwords_beyond_ascii_are_somebodys() {
    let site = Site::start();
    site.daemon.expect("jürgen", "granted");
    for wire in &WIRES {
        // Composed, in capitals, and with the dots as a character of their own.
        for name in ["jürgen", "JÜRGEN", "ju\u{308}rgen"] {
            let said = site.ask(wire, &[&(wire.request)(name.as_bytes(), "pässwörd".as_bytes())]);
            assert_eq!(said, (wire.welcome)("jürgen"), "{}, {name}", wire.name);
        }
        if wire.has_password {
            let said = site.ask(wire, &[&(wire.request)("jürgen".as_bytes(), b"p\xe4ssw\xf6rd")]);
            let no_json = wire.name == "/v1/authenticate";
            let expected =
                if no_json { vec!["400 problem".to_owned()] } else { (wire.unknown)("jürgen".as_bytes()) };
            assert_eq!(said, expected, "{}, Latin-1", wire.name);
        }
    }
    site.check(1);
}

#[test]
fn every_field_has_a_limit() {
    let site = Site::start();
    for wire in &WIRES {
        // Longer than any name or password is, and not too long for the protocol.
        let long = vec![b'x'; 1024];
        assert_eq!(site.ask(wire, &[&(wire.request)(&long, b"x")]), (wire.unknown)(&long), "{}", wire.name);
        if wire.has_password && wire.kind != "saslauthd" {
            let said = site.ask(wire, &[&(wire.request)(b"u1", &[b'x'; 1025])]);
            assert_eq!(said, (wire.unknown)(b"u1"), "{}", wire.name);
        }
        let (length, answer) = wire.too_long;
        let said = site.ask(wire, &[&(wire.request)(&vec![b'x'; length], b"secret-1")]);
        // The daemon may have left before it read all of a head.
        let is_lost = answer == ["431"] && said.is_empty();
        assert!(said == answer || is_lost, "{}: {said:?}", wire.name);
    }
    site.check(0);
}

/// What a client sends on and on that has no end of its request in mind: how it begins, and how it goes on.
fn endless() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let chunk = [&b"1000\r\n"[..], &[b'x'; 0x1000], b"\r\n"].concat();
    let chunked =
        |line: &str| format!("{line} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    let mut floods = vec![
        ("postfix_policy", b"request=".to_vec(), b"x".to_vec()),
        ("postfix_policy", Vec::new(), b"a=b\n".to_vec()),
        ("socketmap", Vec::new(), b"1".to_vec()),
        ("socketmap", b"16000:mailboxes ".to_vec(), b"x".to_vec()),
        ("socketmap", b"99999:mailboxes ".to_vec(), b"x".to_vec()),
        ("dovecot_auth", Vec::new(), b"x".to_vec()),
        ("dovecot_auth", b"AUTH\t1\tPLAIN".to_vec(), b"\tx=y".to_vec()),
        ("saslauthd", b"\x04\x00".to_vec(), b"x".to_vec()),
        ("saslauthd", b"\xff\xff".to_vec(), b"x".to_vec()),
        ("dovecot_policy", chunked("POST /?command=allow"), chunk.clone()),
        ("nginx_auth", chunked("GET /auth"), chunk.clone()),
        ("http", chunked("GET /v1/forward-auth"), chunk.clone()),
        ("http", chunked("POST /v1/check"), chunk.clone()),
        ("http", chunked("POST /v1/authenticate"), chunk),
        ("http", [chunked("POST /v1/check"), b"1;".to_vec()].concat(), b"x".to_vec()),
        ("http", [chunked("POST /v1/check"), b"0\r\n".to_vec()].concat(), b"a: b\r\n".to_vec()),
    ];
    for kind in ["http", "dovecot_policy", "nginx_auth"] {
        floods.push((kind, b"GET /".to_vec(), b"x".to_vec()));
        floods.push((kind, b"GET / HTTP/1.1\r\nX: ".to_vec(), b"x".to_vec()));
        floods.push((kind, b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".to_vec()));
    }
    floods
}

#[test]
fn a_request_without_end_is_cut_off_and_takes_no_memory() {
    const CLIENTS: usize = 8;
    const MOST_SENT: usize = 64 << 20;
    // Buffers of what is read at the same time; far less than any one client would send.
    const MOST_GROWN: usize = 16 << 20;
    let site = Site::start();
    let before = site.daemon.memory("VmRSS");
    for (kind, begin, more) in endless() {
        let bind = site.bind(kind);
        let piece = more.repeat((64 << 10) / more.len());
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut stream = connect(bind);
                    stream.write_all(&begin).unwrap();
                    let is_cut_off = (0..MOST_SENT / piece.len()).any(|_| stream.write_all(&piece).is_err());
                    assert!(is_cut_off, "{kind}: {}", begin.escape_ascii());
                });
            }
        });
    }
    let grown = site.daemon.memory("VmHWM").saturating_sub(before);
    assert!(grown < MOST_GROWN, "{grown} bytes");
    site.check(0);
}

#[test]
fn logins_that_wait_for_their_password_are_counted() {
    let site = Site::start();
    let wire = WIRES.iter().find(|wire| wire.name == "dovecot_auth, LOGIN").unwrap();
    let begin = (1..=1030).map(|id| format!("AUTH\t{id}\tLOGIN\tservice=imap\n"));
    // One is given up, which makes room for another.
    let requests = begin.collect::<String>() + "CANCEL\t7\nAUTH\t2000\tPLAIN\nAUTH\t2001\tPLAIN\n";
    let said = site.ask(wire, &[requests.as_bytes()]);
    let full = |id: u32| format!("FAIL\t{id}\treason=Too many logins wait for their password.");
    assert_eq!(said.len(), 1032);
    for (id, said) in (1..).zip(&said[..1030]) {
        let expected = if id <= 1024 { format!("CONT\t{id}\tVXNlcm5hbWU6") } else { full(id) };
        assert_eq!(*said, expected);
    }
    assert_eq!(said[1030..], ["CONT\t2000\t".to_owned(), full(2001)]);
    site.check(0);
}
