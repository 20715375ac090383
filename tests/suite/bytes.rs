//! Every protocol, spoken with raw bytes: cut off, in pieces, in a heap, too long, and with names that are none.
//!
//! `wire.rs` has what belongs to HTTP alone.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::PATIENCE;
use crate::support::daemon::{Daemon, Settings, ldap_directory, listener};
use crate::support::http::Address;
use crate::support::slapd::{Options, Slapd, person};

const USER: &[u8] = b"u1@example.org";
const PASSWORD: &[u8] = b"secret-1";

/// One way to ask for a login or a delivery.
struct Protocol {
    name: &'static str,
    /// The listener's.
    kind: &'static str,
    /// A request for a user, with the password.
    request: fn(&[u8]) -> Vec<u8>,
    /// What is in the answer when the user may enter.
    yes: &'static [u8],
    /// Whether an answer is there to its end.
    is_whole: fn(&[u8]) -> bool,
    /// Whether several requests may follow each other.
    goes_on: bool,
    /// Whether the user takes a seat.
    takes_seat: bool,
}

const PROTOCOLS: [Protocol; 9] = [
    Protocol {
        name: "postfix_policy",
        kind: "postfix_policy",
        request: |user| {
            let head = b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@example.com\nrecipient=";
            [head, user, b"\n\n"].concat()
        },
        yes: b"action=DUNNO\n\n",
        is_whole: |answer| answer.ends_with(b"\n\n"),
        goes_on: true,
        takes_seat: true,
    },
    Protocol {
        name: "socketmap",
        kind: "socketmap",
        request: |user| [format!("{}:mailboxes ", user.len() + 10).as_bytes(), user, b","].concat(),
        yes: b":OK example.org/u1/,",
        is_whole: |answer| answer.ends_with(b","),
        goes_on: true,
        takes_seat: false,
    },
    Protocol {
        name: "dovecot_auth",
        kind: "dovecot_auth",
        request: |user| {
            let plain = STANDARD.encode([b"\0", user, b"\0", PASSWORD].concat());
            format!("VERSION\t1\t1\nCPID\t1\nAUTH\t7\tPLAIN\tservice=smtp\tresp={plain}\n").into()
        },
        yes: b"OK\t7\tuser=u1@example.org\n",
        is_whole: |answer| {
            let text = String::from_utf8_lossy(answer);
            text.ends_with('\n') && (text.contains("\nOK\t7") || text.contains("\nFAIL\t7"))
        },
        goes_on: false,
        takes_seat: true,
    },
    Protocol {
        name: "saslauthd",
        kind: "saslauthd",
        request: |user| {
            let fields = [user, PASSWORD, b"imap", b""];
            let with_length =
                |field: &[u8]| [&u16::try_from(field.len()).unwrap().to_be_bytes()[..], field].concat();
            fields.into_iter().flat_map(with_length).collect()
        },
        yes: b"\0\x02OK",
        is_whole: |answer| {
            answer
                .first_chunk()
                .is_some_and(|length| answer.len() == 2 + usize::from(u16::from_be_bytes(*length)))
        },
        goes_on: false,
        takes_seat: true,
    },
    Protocol {
        name: "nginx_auth",
        kind: "nginx_auth",
        request: |user| {
            let (user, password) = (percent(user), percent(PASSWORD));
            format!(
                "GET /auth HTTP/1.1\r\nHost: x\r\nAuth-Method: plain\r\nAuth-User: {user}\r\nAuth-Pass: {password}\r\n\
                 Auth-Protocol: imap\r\n\r\n"
            )
            .into()
        },
        yes: b"auth-status: OK",
        is_whole: is_http,
        goes_on: true,
        takes_seat: true,
    },
    Protocol {
        name: "/v1/check",
        kind: "http",
        request: |user| post("/v1/check", &[b"{\"user\": \"", &escaped(user)[..], b"\"}"].concat()),
        yes: b"\"allow\":true",
        is_whole: is_http,
        goes_on: true,
        takes_seat: true,
    },
    Protocol {
        name: "/v1/authenticate",
        kind: "http",
        request: |user| {
            let body =
                [b"{\"user\": \"", &escaped(user)[..], b"\", \"password\": \"", PASSWORD, b"\"}"].concat();
            post("/v1/authenticate", &body)
        },
        yes: b"\"allow\":true",
        is_whole: is_http,
        goes_on: true,
        takes_seat: true,
    },
    Protocol {
        name: "/v1/forward-auth",
        kind: "http",
        request: |user| {
            let credentials = STANDARD.encode([user, b":", PASSWORD].concat());
            format!("GET /v1/forward-auth HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n")
                .into()
        },
        yes: b"remote-user: u1@example.org",
        is_whole: is_http,
        goes_on: true,
        takes_seat: true,
    },
    Protocol {
        name: "dovecot_policy",
        kind: "dovecot_policy",
        request: |user| {
            let body = [b"{\"user\": \"", &escaped(user)[..], b"\", \"protocol\": \"imap\"}"].concat();
            post("/?command=allow", &body)
        },
        yes: b"{\"status\":0",
        is_whole: is_http,
        goes_on: true,
        takes_seat: true,
    },
];

/// Every byte but letters and digits, as nginx writes them and more.
fn percent(bytes: &[u8]) -> String {
    let encoded = |byte: &u8| {
        if byte.is_ascii_alphanumeric() { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
    };
    bytes.iter().map(encoded).collect()
}

/// For a JSON string. Bytes that are no UTF-8 stay.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => escaped.extend([b'\\', byte]),
            0..0x20 => escaped.extend(format!("\\u{byte:04x}").bytes()),
            _ => escaped.push(byte),
        }
    }
    escaped
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// One answer with its body.
fn is_http(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.to_ascii_lowercase();
    let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

struct Site {
    daemon: Daemon,
    _slapd: Slapd,
}

impl Site {
    /// Three people of whom nobody has a seat.
    fn start() -> Site {
        let with_password =
            |number| person(number).trim_end().to_owned() + &format!("\nuserPassword: secret-{number}\n\n");
        let slapd = Slapd::start(Options { data: (1..4).map(with_password).collect(), ..Options::default() });
        let tls = format!("[directory.ldap.tls]\nca_file = {:?}\n", slapd.ca_file());
        let kinds = [
            "http",
            "dovecot_policy",
            "postfix_policy",
            "socketmap",
            "dovecot_auth",
            "saslauthd",
            "nginx_auth",
        ];
        let listeners: String =
            kinds.iter().map(|kind| format!("[[listen.{kind}]]\nbind = \"127.0.0.1:0\"\n")).collect();
        let daemon = Daemon::start(Settings {
            seats: 5,
            tables: format!(
                "[seats]\ntake_on = [\"login\", \"delivery\"]\n{}",
                ldap_directory(&slapd, &[&slapd.ldaps_url()], &tls)
            ),
            listeners: listeners + "backends.imap = \"127.0.0.1:143\"\n",
            ..Settings::default()
        });
        Site { daemon, _slapd: slapd }
    }

    fn connect(&self, protocol: &Protocol) -> TcpStream {
        let Some(Address::Tcp(bind)) = listener(&self.daemon.status(), protocol.kind) else { panic!() };
        connect(&bind)
    }

    /// The daemon has had its turn with what was sent before.
    fn turn(&self) {
        assert_eq!(self.daemon.http().ask("GET", "/healthz", "").unwrap().status, 200);
    }

    /// Nobody is harmed: a holder enters, the books agree, and every line of the log begins as one.
    fn is_well(&self, what: &str) {
        assert!(!self.daemon.log().contains("panic"), "{what}: {}", self.daemon.log());
        for line in self.daemon.log().lines() {
            let is_dated =
                line.starts_with("20") && line.split(' ').next().is_some_and(|time| time.ends_with('Z'));
            assert!(is_dated && !line.contains(char::is_control), "{what}: {line:?}");
        }
        self.daemon.verify();
    }
}

fn connect(bind: &str) -> TcpStream {
    let stream = TcpStream::connect(bind).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What comes until `is_enough`, or until the server closes.
fn read(stream: &mut TcpStream, is_enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !is_enough(&answer) {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {}", answer.escape_ascii()),
        }
    }
    answer
}

fn count(answer: &[u8], part: &[u8]) -> usize {
    answer.windows(part.len()).filter(|window| *window == part).count()
}

#[test]
fn a_request_that_is_cut_off_takes_no_seat() {
    let site = Site::start();
    for protocol in &PROTOCOLS {
        let request = (protocol.request)(USER);
        let Some(Address::Tcp(bind)) = listener(&site.daemon.status(), protocol.kind) else { panic!() };
        for end in 0..request.len() {
            let mut stream = connect(&bind);
            // Whoever was refused already may be closed.
            let _ = stream.write_all(&request[..end]);
            let _ = stream.shutdown(Shutdown::Write);
            let answer = read(&mut stream, |_| false);
            assert_eq!(
                count(&answer, protocol.yes),
                0,
                "{} at {end}: {}",
                protocol.name,
                answer.escape_ascii()
            );
        }
        assert_eq!(site.daemon.seats_used(), 0, "{}", protocol.name);
        let mut stream = connect(&bind);
        stream.write_all(&request).unwrap();
        let answer = read(&mut stream, protocol.is_whole);
        assert_eq!(count(&answer, protocol.yes), 1, "{}: {}", protocol.name, answer.escape_ascii());
        assert_eq!(site.daemon.seats_used(), u64::from(protocol.takes_seat), "{}", protocol.name);
        if protocol.takes_seat {
            site.daemon.release("u1");
        }
    }
    site.is_well("cut off");
}

#[test]
fn a_request_may_be_cut_into_pieces_anywhere() {
    let site = Site::start();
    for protocol in &PROTOCOLS {
        let request = (protocol.request)(USER);
        let mut stream = site.connect(protocol);
        let mut ask = |pieces: &[&[u8]]| {
            for (at, piece) in pieces.iter().enumerate() {
                if at == 1 {
                    site.turn();
                }
                stream.write_all(piece).unwrap();
            }
            let answer = read(&mut stream, protocol.is_whole);
            assert_eq!(count(&answer, protocol.yes), 1, "{}: {}", protocol.name, answer.escape_ascii());
            if !protocol.goes_on {
                stream = site.connect(protocol);
            }
        };
        for at in 1..request.len() {
            let (first, second) = request.split_at(at);
            ask(&[first, second]);
        }
        ask(&request.chunks(1).collect::<Vec<_>>());
    }
    assert_eq!(site.daemon.seats_used(), 1);
    site.is_well("pieces");
}

#[test]
fn requests_in_a_heap_are_answered_in_their_order() {
    const REQUESTS: usize = 20;
    let site = Site::start();
    site.daemon.expect("u1", "granted");
    for protocol in PROTOCOLS.iter().filter(|protocol| protocol.goes_on) {
        let (known, unknown) = ((protocol.request)(USER), (protocol.request)(b"nobody@example.org"));
        let mut stream = site.connect(protocol);
        // Unknown users once in a while: whoever fails too often is slowed.
        let requests = (0..REQUESTS).flat_map(|at| if at == REQUESTS / 2 { &unknown } else { &known });
        stream.write_all(&requests.copied().collect::<Vec<u8>>()).unwrap();
        let is_no = |answer: &[u8]| answer.windows(protocol.yes.len()).all(|window| window != protocol.yes);
        let all = read(&mut stream, |answer| count(answer, protocol.yes) == REQUESTS - 1);
        assert_eq!(count(&all, protocol.yes), REQUESTS - 1, "{}: {}", protocol.name, all.escape_ascii());
        // The refusal is between the tenth and the eleventh answer.
        let places: Vec<usize> = (0..all.len()).filter(|at| all[*at..].starts_with(protocol.yes)).collect();
        let gap = |at: usize| places[at] - places[at - 1];
        let widest = (1..places.len()).max_by_key(|at| gap(*at)).unwrap();
        assert_eq!(widest, REQUESTS / 2, "{}: {}", protocol.name, all.escape_ascii());
        assert!(is_no(&all[places[widest - 1] + protocol.yes.len()..places[widest]]), "{}", protocol.name);
    }
    // Dovecot's protocol names each request.
    let dovecot = PROTOCOLS.iter().find(|protocol| protocol.name == "dovecot_auth").unwrap();
    let one = String::from_utf8((dovecot.request)(USER)).unwrap();
    let (hello, auth) = one.split_at(one.find("AUTH").unwrap());
    let all: String = (1..=REQUESTS).map(|at| auth.replacen("\t7\t", &format!("\t{at}\t"), 1)).collect();
    let mut stream = site.connect(dovecot);
    stream.write_all((hello.to_owned() + &all).as_bytes()).unwrap();
    let is_enough = |answer: &[u8]| count(answer, b"\nOK\t") + count(answer, b"\nFAIL\t") == REQUESTS;
    let answer = String::from_utf8(read(&mut stream, is_enough)).unwrap();
    for at in 1..=REQUESTS {
        assert!(answer.contains(&format!("\nOK\t{at}\tuser=u1@example.org")), "{at}: {answer}");
    }
    assert_eq!(site.daemon.seats_used(), 1);
    site.is_well("a heap");
}

#[test]
fn names_that_nobody_can_have_enter_nowhere_and_forge_nothing() {
    let site = Site::start();
    let long = b"u".repeat(600);
    let names: [&[u8]; 12] = [
        b"u1@example.org\0",
        b"u1\0@example.org",
        b"u1@example.org\r\nForged: yes",
        b"u1\r\naction=OK\r\n\r\nOK\t7\tuser=u1",
        b"u1@example.org\n",
        b"u1@example.org\rForged: yes",
        b"\xffu1@example.org",
        b"u1\xc3@example.org",
        "\u{fc}1@example.org".as_bytes(),
        "u1@ex\u{e4}mple.org".as_bytes(),
        b"",
        &long,
    ];
    for protocol in &PROTOCOLS {
        for name in names {
            // A line end ends the line there, so that this is another request.
            if protocol.name == "postfix_policy" && name.contains(&b'\n') {
                continue;
            }
            let what = format!("{} {}", protocol.name, name.escape_ascii());
            let mut stream = site.connect(protocol);
            stream.write_all(&(protocol.request)(name)).unwrap();
            let answer = read(&mut stream, protocol.is_whole);
            let shown = answer.escape_ascii();
            // For mail to nobody of ours Postfix gets its word to go on.
            assert!(
                count(&answer, protocol.yes) == 0 || protocol.name == "postfix_policy",
                "{what}: {shown}"
            );
            for forged in [&b"\nForged"[..], b"\rForged", b"\naction=OK", b"\nOK\t7"] {
                assert_eq!(count(&answer, forged), 0, "{what}: {shown}");
            }
        }
    }
    assert_eq!(site.daemon.seats_used(), 0);
    site.is_well("names");
}

#[test]
fn what_has_no_end_is_refused_and_takes_no_memory() {
    const HUGE: usize = 64 << 20;
    let site = Site::start();
    site.daemon.expect("u1", "granted");
    let memory = |daemon: &Daemon| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
        line.trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let before = memory(&site.daemon);
    for protocol in &PROTOCOLS {
        let request = (protocol.request)(USER);
        // At each of these places a field that goes on for ever.
        for at in [0, request.len() / 2, request.len() - 1] {
            let mut stream = site.connect(protocol);
            let _ = stream.write_all(&request[..at]);
            let piece = [b'7'; 1 << 16];
            let mut sent = 0;
            while sent < HUGE && stream.write_all(&piece).is_ok() {
                sent += piece.len();
            }
            assert!(sent < HUGE, "{} at {at} takes everything", protocol.name);
        }
        let mut stream = site.connect(protocol);
        stream.write_all(&request).unwrap();
        let answer = read(&mut stream, protocol.is_whole);
        assert_eq!(count(&answer, protocol.yes), 1, "{}: {}", protocol.name, answer.escape_ascii());
    }
    let grown = memory(&site.daemon).saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    site.is_well("too long");
}
