//! Many clients at once, slow ones and rude ones, on every listener that speaks a protocol of mail servers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::daemon::{Daemon, Settings, ldap_directory, listener};
use crate::support::http::Address;
use crate::support::slapd::{Options, Slapd, person};
use crate::support::{PATIENCE, wait_for};

const CLIENTS: usize = 500;

/// All of them together, on a loaded machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// A request of a holder in each protocol, and what its answer ends with.
struct Protocol {
    kind: &'static str,
    request: Vec<u8>,
    answer: &'static [u8],
}

fn protocols() -> [Protocol; 5] {
    let sasl: Vec<u8> = [&b"u1"[..], b"secret-1", b"imap", b""]
        .iter()
        .flat_map(|part| [&[0, u8::try_from(part.len()).unwrap()][..], part].concat())
        .collect();
    let plain = STANDARD.encode("\0u1\0secret-1");
    let policy = "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@example.com\nrecipient=u1@example.org\n\n";
    let nginx = "GET /auth HTTP/1.0\r\nAuth-Method: plain\r\nAuth-User: u1\r\nAuth-Pass: secret-1\r\n\
                 Auth-Protocol: imap\r\n\r\n";
    [
        Protocol { kind: "postfix_policy", request: policy.into(), answer: b"action=DUNNO\n\n" },
        Protocol {
            kind: "socketmap",
            request: b"21:seated u1@example.org,".to_vec(),
            answer: b"17:OK u1@example.org,",
        },
        Protocol {
            kind: "dovecot_auth",
            request: format!("VERSION\t1\t1\nCPID\t1\nAUTH\t1\tPLAIN\tservice=smtp\tresp={plain}\n").into(),
            answer: b"OK\t1\tuser=u1@example.org\n",
        },
        Protocol { kind: "saslauthd", request: sasl, answer: b"\0\x02OK" },
        Protocol { kind: "nginx_auth", request: nginx.into(), answer: b"auth-status: OK" },
    ]
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_until(stream: &mut TcpStream, what: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.windows(what.len()).any(|window| window == what) {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) => panic!("{error} after {}", answer.escape_ascii()),
        }
    }
    answer
}

fn check_answer(stream: &mut TcpStream, Protocol { kind, answer, .. }: &Protocol) {
    let said = read_until(stream, answer);
    let found = said.windows(answer.len()).any(|window| window == *answer);
    assert!(found, "{kind}: {}", said.escape_ascii());
}

#[test]
fn five_hundred_clients_are_answered_beside_slow_ones_and_those_who_never_read() {
    let data = person(1).trim_end().to_owned() + "\nuserPassword: secret-1\n\n";
    let slapd = Slapd::start(Options { data, ..Options::default() });
    let tls = format!("[directory.ldap.tls]\nca_file = {:?}\n", slapd.ca_file());
    let kinds: String = protocols()
        .iter()
        .map(|Protocol { kind, .. }| format!("[[listen.{kind}]]\nbind = \"127.0.0.1:0\"\n"))
        .collect();
    let settings = Settings {
        tables: ldap_directory(&slapd, &[&slapd.ldaps_url()], &tls),
        listeners: format!(
            "[[listen.http]]\nbind = \"127.0.0.1:0\"\n{kinds}backends.imap = \"127.0.0.1:143\"\n"
        ),
        ..Settings::default()
    };
    let daemon = Daemon::start(settings);
    daemon.expect("u1", "granted");
    for protocol in protocols() {
        let Some(Address::Tcp(bind)) = listener(&daemon.status(), protocol.kind) else { panic!() };
        let port = bind.rsplit(':').next().unwrap().parse().unwrap();

        // One that sends half a request, and one that asks without end and never reads.
        let mut slow = connect(port);
        let (half, rest) = protocol.request.split_at(protocol.request.len() / 2);
        slow.write_all(half).unwrap();
        let mut rude = connect(port);
        rude.set_nonblocking(true).unwrap();
        let many = protocol.request.repeat(1000);
        for _ in 0..100 {
            if rude.write(&many).is_err() {
                break;
            }
        }

        let start = Instant::now();
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(port)).collect();
        for client in &mut clients {
            client.write_all(&protocol.request).unwrap();
        }
        for client in &mut clients {
            check_answer(client, &protocol);
        }
        let took = start.elapsed();
        assert!(took < ANSWERED_WITHIN, "{}: {took:?}", protocol.kind);
        slow.write_all(rest).unwrap();
        check_answer(&mut slow, &protocol);
        drop((clients, rude));
        // A client that is gone leaves nothing behind; the one half of a request waits for its deadline.
        let mut gone = connect(port);
        gone.write_all(half).unwrap();
        gone.shutdown(Shutdown::Both).unwrap();
        drop((gone, slow));
        wait_for("every connection to end", || {
            let status = daemon.status();
            let listeners = status["listeners"].as_array().unwrap();
            let listener = listeners.iter().find(|listener| listener["kind"] == protocol.kind).unwrap();
            (listener["connections"] == 0).then_some(())
        });
    }
    assert_eq!(daemon.seats_used(), 1);
    daemon.verify();
}
