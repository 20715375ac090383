//! The LDAP driver against a server that misbehaves: whatever it sends, nothing is told to be complete.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use seatkeeper::directory::{Connection, DirectoryError, Event, ServerProblem};
use seatkeeper::domain::course::Choice;
use seatkeeper::domain::directory::{Bind, LdapSource, LdapUrl, Lists, Timeouts, Tls};
use seatkeeper::domain::ldap_text::{Dn, Filter};
use tokio::sync::mpsc;

use crate::support::PATIENCE;

/// Message ids: the root DSE is asked first.
const ROOT_DSE: u8 = 1;
const SWEEP: u8 = 2;

/// Answers one request after the other, each with its bytes, then closes or goes silent.
fn serve(answers: Vec<Vec<u8>>, closes: bool) -> LdapUrl {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for answer in answers {
            read_request(&mut stream);
            // The client may leave in the middle of it.
            let _ = stream.write_all(&answer);
        }
        if closes {
            let _ = stream.shutdown(Shutdown::Write);
        }
        // Until the client leaves.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    LdapUrl::parse(&format!("ldap://127.0.0.1:{port}")).unwrap()
}

/// One message: all of them here are shorter than 64 kB.
fn read_request(stream: &mut TcpStream) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut length = [0; 2];
    let length = match head[1] {
        0x81 => {
            stream.read_exact(&mut length[1..]).unwrap();
            u16::from_be_bytes(length)
        }
        0x82 => {
            stream.read_exact(&mut length).unwrap();
            u16::from_be_bytes(length)
        }
        short => u16::from(short),
    };
    stream.read_exact(&mut vec![0; length.into()]).unwrap();
}

/// An element shorter than 128 bytes.
fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    assert!(content.len() < 0x80);
    [&[tag, content.len() as u8], content.as_slice()].concat()
}

fn message(id: u8, parts: &[&[u8]]) -> Vec<u8> {
    let id = [2, 1, id];
    ber(0x30, &[&[&id[..]], parts].concat())
}

fn entry(id: u8, dn: &[u8]) -> Vec<u8> {
    let values = ber(0x31, &[&ber(4, &[b"x"])]);
    let attribute = ber(0x30, &[&ber(4, &[b"uid"]), &values]);
    message(id, &[&ber(0x64, &[&ber(4, &[dn]), &ber(0x30, &[&attribute])])])
}

/// `SearchResultDone` with a result code.
fn done(code: u8) -> Vec<u8> {
    ber(0x65, &[&[0x0a, 1, code, 4, 0, 4, 0]])
}

/// The paging control with a cookie.
fn paging(cookie: &[u8]) -> Vec<u8> {
    let value = ber(0x30, &[&[2, 1, 0], &ber(4, &[cookie])]);
    let control = ber(0x30, &[&ber(4, &[b"1.2.840.113556.1.4.319"]), &ber(4, &[&value])]);
    ber(0xa0, &[&control])
}

fn source(url: LdapUrl) -> LdapSource {
    let silence = Duration::from_secs(3);
    LdapSource {
        urls: vec![url],
        base_dn: Dn::parse("dc=x").unwrap(),
        bind: Bind::Anonymous,
        sync: Choice::Sweep,
        preset: None,
        filter: None,
        lists: Lists::Preset,
        required_group: None,
        tls: Tls::default(),
        timeouts: Timeouts { read: silence, ..Timeouts::default() },
        page_size: 10,
    }
}

/// Sweeps; the result, the entries told, and whether the end was.
async fn sweep(source: &LdapSource) -> (Result<u64, DirectoryError>, usize, bool) {
    let mut connection = Connection::open(source, 0).await.unwrap();
    let (events, mut receiver) = mpsc::channel(100);
    let filter = Filter::parse("(objectClass=*)").unwrap();
    let result = connection.sweep(&source.base_dn, &filter, &["uid"], &events).await;
    drop(events);
    let (mut entries, mut has_end) = (0, false);
    while let Some(event) = receiver.recv().await {
        match event {
            Event::Upserts(batch) => entries += batch.len(),
            Event::EndRefresh(..) => has_end = true,
            other => panic!("a sweep does not tell {other:?}"),
        }
    }
    (result.map(|swept| swept.entries), entries, has_end)
}

async fn check(answers: Vec<Vec<u8>>, closes: bool, is_expected: impl Fn(&DirectoryError) -> bool) {
    let shown: Vec<_> = answers.iter().map(|answer| &answer[..answer.len().min(200)]).collect();
    let hides_root_dse = vec![message(ROOT_DSE, &[&done(32)])];
    let url = serve([hides_root_dse, answers.clone()].concat(), closes);
    let (result, _, has_end) = sweep(&source(url)).await;
    assert!(!has_end, "{shown:02x?}");
    let error = result.unwrap_err();
    assert!(is_expected(&error), "{error:?}: {shown:02x?}");
}

/// The whole answer to the sweep: an entry, and then this message.
fn entry_then(parts: &[&[u8]]) -> Vec<u8> {
    [entry(SWEEP, b"uid=x"), message(SWEEP, parts)].concat()
}

#[tokio::test]
async fn pages_are_read_until_the_cookie_is_empty() {
    let first = entry_then(&[&done(0), &paging(b"more")]);
    let second = [entry(3, b"uid=y"), message(3, &[&done(0), &paging(b"")])].concat();
    let url = serve(vec![message(ROOT_DSE, &[&done(32)]), first, second], true);
    let (result, entries, has_end) = sweep(&source(url)).await;
    assert_eq!((result.unwrap(), entries, has_end), (2, 2, true));
}

#[tokio::test]
async fn a_server_without_paging_tells_all_in_one_search() {
    let supported = ber(0x31, &[&ber(4, &[b"1.2.3"])]);
    let attribute = ber(0x30, &[&ber(4, &[b"supportedControl"]), &supported]);
    let root_dse = message(ROOT_DSE, &[&ber(0x64, &[&[4, 0], &ber(0x30, &[&attribute])])]);
    let answers = vec![[root_dse, message(ROOT_DSE, &[&done(0)])].concat(), entry_then(&[&done(0)])];
    let (result, entries, has_end) = sweep(&source(serve(answers, true))).await;
    assert_eq!((result.unwrap(), entries, has_end), (1, 1, true));
}

#[tokio::test]
async fn results_other_than_success_are_errors() {
    for code in [1, 2, 8, 12, 13, 50, 51, 52, 53, 80, 100] {
        let is_refused = |error: &DirectoryError| matches!(error, DirectoryError::Refused { result, .. } if result.code == u32::from(code));
        check(vec![entry_then(&[&done(code), &paging(b"")])], false, is_refused).await;
    }
    let is_limit = |error: &DirectoryError| matches!(error, DirectoryError::SizeLimit { entries: 1, .. });
    for code in [4, 11] {
        check(vec![entry_then(&[&done(code), &paging(b"")])], false, is_limit).await;
    }
    let is_limit = |error: &DirectoryError| matches!(error, DirectoryError::TimeLimit { entries: 1, .. });
    check(vec![entry_then(&[&done(3), &paging(b"")])], false, is_limit).await;
    let is_missing = |error: &DirectoryError| matches!(error, DirectoryError::NoSuchBase { .. });
    check(vec![entry_then(&[&done(32), &paging(b"")])], false, is_missing).await;
    let is_referral = |error: &DirectoryError| matches!(error, DirectoryError::Referral { .. });
    check(vec![entry_then(&[&done(10), &paging(b"")])], false, is_referral).await;
}

#[tokio::test]
async fn a_missing_or_malformed_paging_control_is_an_error() {
    let is_paging = |error: &DirectoryError| matches!(error, DirectoryError::Paging { .. });
    check(vec![entry_then(&[&done(0)])], false, is_paging).await;
    let other = ber(0xa0, &[&ber(0x30, &[&ber(4, &[b"1.2.3"])])]);
    check(vec![entry_then(&[&done(0), &other])], false, is_paging).await;
    let oid = ber(4, &[b"1.2.840.113556.1.4.319"]);
    let without_value = ber(0xa0, &[&ber(0x30, &[&oid])]);
    check(vec![entry_then(&[&done(0), &without_value])], false, is_paging).await;
    for value in [&b""[..], b"\x30", b"\x30\x05\x02\x01", b"\x30\x84\xff\xff\xff\xff", b"\x04\x00"] {
        let control = ber(0xa0, &[&ber(0x30, &[&oid, &ber(4, &[value])])]);
        check(vec![entry_then(&[&done(0), &control])], false, is_paging).await;
    }
}

#[tokio::test]
async fn an_end_of_the_connection_is_no_end_of_the_search() {
    let is_closed =
        |error: &DirectoryError| matches!(error, DirectoryError::Lost { problem: ServerProblem::Closed, .. });
    check(vec![Vec::new()], true, is_closed).await;
    check(vec![entry(SWEEP, b"uid=x")], true, is_closed).await;
    check(vec![entry_then(&[&done(0), &paging(b"more")]), entry(3, b"uid=y")], true, is_closed).await;
    // In the middle of a message.
    let is_lost = |error: &DirectoryError| matches!(error, DirectoryError::Lost { .. });
    let mut cut = entry_then(&[&done(0), &paging(b"")]);
    cut.pop();
    check(vec![cut], true, is_lost).await;
    // A notice of disconnection (RFC 4511 section 4.4.1).
    let oid = ber(0x8a, &[b"1.3.6.1.4.1.1466.20036"]);
    let notice = message(0, &[&ber(0x78, &[&[0x0a, 1, 52, 4, 0, 4, 0], &oid])]);
    let is_told = |error: &DirectoryError| error.to_string().contains("ended the connection: result 52");
    for closes in [true, false] {
        check(vec![[entry(SWEEP, b"uid=x"), notice.clone()].concat()], closes, is_told).await;
    }
}

#[tokio::test]
async fn silence_is_an_error() {
    let is_silent = |error: &DirectoryError| {
        matches!(error, DirectoryError::Lost { problem: ServerProblem::Silent(_), .. })
    };
    check(vec![entry(SWEEP, b"uid=x")], false, is_silent).await;
    // Somebody else's answer, and a message that never ends.
    check(vec![message(99, &[&done(0), &paging(b"")])], false, is_silent).await;
    check(vec![b"\x30\x84\x00\xff\xff\xff".to_vec()], false, is_silent).await;
}

#[tokio::test]
async fn malformed_messages_are_errors() {
    let is_error = |error: &DirectoryError| {
        matches!(
            error,
            DirectoryError::MalformedEntry { .. }
                | DirectoryError::Panicked { .. }
                | DirectoryError::Lost { problem: ServerProblem::Malformed, .. }
        )
    };
    for answer in [
        // Entries that are none.
        message(SWEEP, &[&ber(0x64, &[])]),
        message(SWEEP, &[&ber(0x44, &[b"x"])]),
        message(SWEEP, &[&ber(0x64, &[&[4, 0], &[4, 0]])]),
        // Results that are none, an operation that does not belong here, controls that are none.
        message(SWEEP, &[&ber(0x65, &[])]),
        message(SWEEP, &[&ber(0x65, &[&[0x0a, 0]])]),
        message(SWEEP, &[&ber(0x67, &[&[0x0a, 1, 0, 4, 0, 4, 0]])]),
        message(SWEEP, &[&done(0), &ber(0xa0, &[&[4, 0]])]),
        message(SWEEP, &[&done(0), &ber(0x80, &[b"x"])]),
        // No LDAP at all.
        vec![0x30, 0],
        vec![0x30, 2, 4, 0],
    ] {
        check(vec![answer], false, is_error).await;
    }
}

#[tokio::test]
async fn what_would_overwhelm_the_library_does_not_reach_it() {
    // Each in the one before, to the last byte.
    let nested = |depth: u32| {
        let lengths = (0..depth).map(|level| (0x80_0000 - 6 * level).to_be_bytes());
        lengths.flat_map(|length| [[0x30, 0x84].as_slice(), length.as_slice()].concat()).collect::<Vec<u8>>()
    };
    for (bytes, part) in [
        // It would wait for these, and keep what comes.
        (b"\x30\x84\xff\xff\xff\xff".to_vec(), "a message of 4294967295 bytes"),
        (b"\x30\x84\x01\x00\x00\x01".to_vec(), "a message of 16777217 bytes"),
        (b"\x30\x88\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec(), "a form that LDAP does not use"),
        (b"\x30\x80\x02\x01\x02".to_vec(), "a form that LDAP does not use"),
        // It would call itself for each level.
        (nested(100_000), "more than 16 levels deep"),
        // Each part would take many times its size.
        ([b"\x30\x83\xff\xff\xff".to_vec(), [4, 0].repeat(300_000)].concat(), "more than 262144 parts"),
        // It would wait for ever.
        (message(SWEEP, &[&[0x64, 9, 4, 0]]), "longer than what it is a part of"),
        (message(SWEEP, &[&ber(0x64, &[&[4, 0, 0x30, 0x84, 0xff, 0xff, 0xff, 0xff]])]), "longer than"),
        (message(SWEEP, &[&done(0), &[0xa0, 1, 0x30]]), "longer than"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "no LDAP message: it begins with the byte 0x48"),
        (b"\x02\x01\x00".to_vec(), "no LDAP message: it begins with the byte 0x02"),
    ] {
        for before in [Vec::new(), entry(SWEEP, b"uid=x")] {
            let is_said = |error: &DirectoryError| error.to_string().contains(part);
            check(vec![[before, bytes.clone()].concat()], false, is_said).await;
        }
    }
}

#[tokio::test]
async fn a_malformed_root_dse_is_an_error_of_that_server() {
    for answer in [vec![0x30, 0], message(ROOT_DSE, &[&ber(0x64, &[])]), b"HTTP/1.1 400 Bad".to_vec()] {
        let url = serve(vec![answer], true);
        let error = Connection::open(&source(url.clone()), 0).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DirectoryError::NoServer(_)) && text.contains(&url.to_string()), "{text}");
    }
}

#[tokio::test]
async fn only_a_success_of_starttls_is_a_permission_to_go_on() {
    let ca = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&ca_file, ca.cert.pem()).unwrap();
    // An answer to the extended request, which has id 1.
    let answer = |code| message(1, &[&ber(0x78, &[&[0x0a, 1, code, 4, 0, 4, 0]])]);
    // What somebody on the way puts behind it is no answer to what is asked encrypted.
    let injected = [answer(0), message(1, &[&done(0)])].concat();
    for (bytes, closes, part) in [
        (answer(2), false, "StartTLS was refused: result 2 (protocolError)"),
        (answer(52), false, "StartTLS was refused: result 52 (unavailable)"),
        (injected, false, "TLS failed"),
        (answer(0), true, "TLS failed"),
        (message(1, &[&done(0)]), false, "no LDAP message"),
        (b"\x30\x84\xff\xff\xff\xff".to_vec(), false, "no LDAP message"),
        (b"\x30\x88\x00\x00\x00\x00\x00\x00\x00\x01".to_vec(), false, "no LDAP message"),
        (b"HTTP/1.1 400 Bad Request".to_vec(), false, "no LDAP message"),
        (b"\x30".to_vec(), true, "closed the connection"),
        (Vec::new(), true, "closed the connection"),
        (b"\x30\x0c\x02".to_vec(), false, "within 1s to the TLS handshake"),
    ] {
        let source = source(serve(vec![bytes], closes));
        let tls = Tls { ca_file: Some(ca_file.path().to_owned()), starttls: true, ..Tls::default() };
        let timeouts = Timeouts { connect: Duration::from_secs(1), ..source.timeouts };
        let error = Connection::open(&LdapSource { tls, timeouts, ..source }, 0).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
