//! Raw bytes for every protocol: truncated, oversized, split at every byte, pipelined, with NUL, CR, LF and
//! bytes beyond ASCII.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::watch;

use super::dovecot_auth::DovecotAuth;
use super::postfix_policy::PostfixPolicy;
use super::saslauthd::Saslauthd;
use super::socketmap::Socketmap;
use crate::admin::fixture::Fixture;
use crate::domain::mail_server::{MailWithoutSeat, MailboxTemplate, RecipientPolicy};
use crate::net::dialogue::tests::{check_split, exchange};
use crate::net::dialogue::{Dialogue, Garbled, Next};
use crate::service::passwords::Authenticator;
use crate::service::passwords::tests::FakeDirectory;

const DUNNO: &[u8] = b"action=DUNNO\n\n";
const UNKNOWN: &[u8] = b"action=550 5.1.1 There is no mail user by this name.\n\n";
const UNSEATED: &[u8] =
    b"action=450 4.2.1 This user has no mailbox license, and this request may not take one.\n\n";

fn policy(fixture: &Fixture) -> impl Fn() -> PostfixPolicy {
    let admission = fixture.service.admission();
    let policy = RecipientPolicy {
        unseated: MailWithoutSeat::Defer,
        exhausted: MailWithoutSeat::Defer,
        delimiter: Some('+'),
    };
    let (_, policy) = watch::channel(policy);
    move || PostfixPolicy::new(admission.clone(), policy.clone())
}

fn rcpt(recipient: &[u8]) -> Vec<u8> {
    let head =
        b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=s@example.net\nrecipient=".as_slice();
    [head, recipient, b"\n\n"].concat()
}

fn login(user: &[u8]) -> Vec<u8> {
    let head = b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=x@example.net\nsasl_username="
        .as_slice();
    [head, user, b"\n\n"].concat()
}

#[tokio::test]
async fn postfix_policy_takes_requests_in_any_pieces() {
    let fixture = Fixture::new(3).await;
    let requests = [
        login(b"u1@example.org"),
        rcpt(b"u1@example.org"),
        rcpt(b"u2@example.org"),
        rcpt(b"nobody@example.org"),
        rcpt(b"u2@example.com"),
        rcpt(b"U1+lists@EXAMPLE.org"),
        rcpt(b"all@example.org"),
    ];
    let answers = [DUNNO, DUNNO, UNSEATED, UNKNOWN, DUNNO, DUNNO, DUNNO].concat();
    check_split(policy(&fixture), &requests.concat(), &answers).await;
}

#[tokio::test]
async fn postfix_policy_stands_what_is_no_request() {
    let fixture = Fixture::new(3).await;
    let policy = policy(&fixture);
    for garbage in [
        &b"\n"[..],
        b"\n\n",
        b"request=smtpd_access_policy\nnonsense\n\n",
        b"request=other\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\x01\x02\xff",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=u1@exam",
    ] {
        assert_eq!(exchange(policy(), &[garbage]).await, b"", "{}", garbage.escape_ascii());
        // What was asked before is answered.
        let after = exchange(policy(), &[&rcpt(b"a@example.com"), garbage]).await;
        assert_eq!(after, DUNNO, "{}", garbage.escape_ascii());
    }
    let long = |length: usize| rcpt(&[&vec![b'x'; length][..], b"@example.org"].concat());
    assert_eq!(exchange(policy(), &[&long(60_000)]).await, UNKNOWN);
    assert_eq!(exchange(policy(), &[&long(70_000)]).await, b"");
    assert_eq!(exchange(policy(), &[&[b'x'; 1_000_000]]).await, b"");
}

#[tokio::test]
async fn postfix_policy_stands_strange_names() {
    let fixture = Fixture::new(3).await;
    let policy = policy(&fixture);
    for name in
        [&b"u1\0@example.org"[..], b"u1\r@example.org", b"\xff\xfe@example.org", b"u\xc3\xbc@example.org"]
    {
        let answer = exchange(policy(), &[&rcpt(name)]).await;
        assert_eq!(answer.escape_ascii().to_string(), UNKNOWN.escape_ascii().to_string());
        let refused = b"action=550 5.7.1 There is no mail user by this name.\n\n";
        assert_eq!(exchange(policy(), &[&login(name)]).await, refused);
    }
    // A line break ends a value: the rest is a line of its own, and not a name.
    assert_eq!(exchange(policy(), &[&rcpt(b"u1@example.org\naction=DUNNO")]).await, UNSEATED);
    assert_eq!(exchange(policy(), &[&rcpt(b"u1@example.org\n\naction=DUNNO")]).await, UNSEATED);
}

fn socketmap(fixture: &Fixture) -> impl Fn() -> Socketmap {
    let admission = fixture.service.admission();
    let (_, template) = watch::channel(MailboxTemplate::parse("{domain}/{login}/").unwrap());
    move || Socketmap::new(admission.clone(), template.clone())
}

fn netstring(text: &[u8]) -> Vec<u8> {
    [text.len().to_string().as_bytes(), b":", text, b","].concat()
}

#[tokio::test]
async fn socketmap_takes_requests_in_any_pieces() {
    let fixture = Fixture::new(3).await;
    assert_eq!(exchange(policy(&fixture)(), &[&login(b"u1")]).await, DUNNO);
    let cases: [(&[u8], &[u8]); 14] = [
        (b"mailboxes u1@example.org", b"OK example.org/u1/"),
        (b"mailboxes U2@EXAMPLE.ORG", b"OK example.org/u2/"),
        (b"mailboxes nobody@example.org", b"NOTFOUND "),
        (b"mailboxes all@example.org", b"NOTFOUND "),
        (b"mailboxes @example.org", b"NOTFOUND "),
        (b"mailboxes u1", b"NOTFOUND "),
        (b"aliases u1@example.org", b"NOTFOUND "),
        (b"domains example.org", b"OK example.org"),
        (b"domains Example.ORG", b"OK example.org"),
        (b"domains example.com", b"NOTFOUND "),
        (b"seated u1@example.org", b"OK u1@example.org"),
        (b"seated u2@example.org", b"NOTFOUND "),
        (b"other u2@example.org", b"PERM unknown map: use mailboxes, aliases, domains or seated"),
        (b"", b"PERM the request has no key"),
    ];
    let requests: Vec<u8> = cases.iter().flat_map(|(request, _)| netstring(request)).collect();
    let answers: Vec<u8> = cases.iter().flat_map(|(_, answer)| netstring(answer)).collect();
    check_split(socketmap(&fixture), &requests, &answers).await;
}

#[tokio::test]
async fn socketmap_stands_what_is_no_request_and_strange_names() {
    let fixture = Fixture::new(3).await;
    let socketmap = socketmap(&fixture);
    let good = netstring(b"domains example.org");
    for garbage in [
        &b"x"[..],
        b"\n",
        b":,",
        b"5:abcdefg",
        b"99999999:",
        b"20000:",
        b"19:domains example.o",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x05",
    ] {
        let answers = exchange(socketmap(), &[&good, garbage]).await;
        assert_eq!(answers, netstring(b"OK example.org"), "{}", garbage.escape_ascii());
    }
    let long = netstring(&[b"mailboxes ", &[b'x'; 16_000][..], b"@example.org"].concat());
    assert_eq!(exchange(socketmap(), &[&long]).await, netstring(b"NOTFOUND "));
    for name in [
        &b"u1\0@example.org"[..],
        b"u1@example.org\r\n",
        b"u1@example.org\nOK x",
        b"u1@example.org,9:OK x",
        b"\xff@example.org",
        b" u1@example.org\t",
    ] {
        let request = netstring(&[b"mailboxes ", name].concat());
        let answer = exchange(socketmap(), &[&request]).await;
        assert_eq!(answer, netstring(b"NOTFOUND "), "{}", name.escape_ascii());
    }
}

fn authenticator(fixture: &Fixture) -> (Authenticator, Arc<FakeDirectory>) {
    let directory = Arc::new(FakeDirectory::default());
    (Authenticator::new(fixture.service.admission(), directory.clone()), directory)
}

/// Without the greeting, which has a cookie in it.
struct Greeted(DovecotAuth);

impl Dialogue for Greeted {
    const MAX_REQUEST: usize = DovecotAuth::MAX_REQUEST;

    fn cut(&self, buffer: &[u8]) -> Result<Option<usize>, Garbled> {
        self.0.cut(buffer)
    }

    async fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Next {
        self.0.answer(request, answer).await
    }
}

fn plain(id: u32, user: &str, password: &str) -> String {
    let response = STANDARD.encode(format!("\0{user}\0{password}"));
    format!("AUTH\t{id}\tPLAIN\tservice=smtp\tnologin\tresp={response}\n")
}

const HANDSHAKE: &str = "VERSION\t1\t1\nCPID\t77\n";
const WRONG: &str = "The user name or the password is wrong.";

#[tokio::test]
async fn dovecot_auth_greets_and_takes_requests_in_any_pieces() {
    let fixture = Fixture::new(5).await;
    let (authenticator, _) = authenticator(&fixture);
    let greeting = exchange(DovecotAuth::new(authenticator.clone()), &[]).await;
    let greeting = String::from_utf8(greeting).unwrap();
    let words: Vec<&str> = greeting.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(words, ["VERSION", "MECH", "MECH", "SPID", "CUID", "COOKIE", "DONE"], "{greeting}");
    assert!(greeting.starts_with("VERSION\t1\t2\nMECH\tPLAIN\tplaintext\n"), "{greeting}");

    let requests = [
        HANDSHAKE,
        &plain(1, "u1", "right"),
        &plain(2, "U1@example.org", "right"),
        "AUTH\t3\tLOGIN\tservice=smtp\nCONT\t3\tdTE=\nCONT\t3\tcmlnaHQ=\n",
        "AUTH\t4\tPLAIN\tservice=smtp\nCONT\t4\tAHUxAHJpZ2h0\n",
        "AUTH\t5\tCRAM-MD5\tservice=smtp\n",
        "AUTH\t6\tPLAIN\tresp=%%\n",
        "CONT\t9\tdTE=\n",
        "AUTH\t7\tLOGIN\nCANCEL\t7\nCONT\t7\tdTE=\n",
    ]
    .concat();
    let answers = "OK\t1\tuser=u1@example.org\nOK\t2\tuser=u1@example.org\n\
                   CONT\t3\tVXNlcm5hbWU6\nCONT\t3\tUGFzc3dvcmQ6\nOK\t3\tuser=u1@example.org\n\
                   CONT\t4\t\nOK\t4\tuser=u1@example.org\n\
                   FAIL\t5\treason=The mechanism is not PLAIN or LOGIN.\n\
                   FAIL\t6\treason=The response is not Base64.\n\
                   FAIL\t9\treason=The login was not begun.\n\
                   CONT\t7\tVXNlcm5hbWU6\nFAIL\t7\treason=The login was not begun.\n";
    let dialogue = || Greeted(DovecotAuth::new(authenticator.clone()));
    check_split(dialogue, requests.as_bytes(), answers.as_bytes()).await;
}

#[tokio::test(start_paused = true)]
async fn dovecot_auth_stands_strange_names_and_tells_reasons_after_a_right_password() {
    let fixture = Fixture::new(5).await;
    let (authenticator, directory) = authenticator(&fixture);
    let ask = async |request: &str| {
        let answer = exchange(Greeted(DovecotAuth::new(authenticator.clone())), &[request.as_bytes()]).await;
        String::from_utf8(answer).unwrap()
    };
    for (user, password, expected) in [
        ("u1", "wrong", format!("FAIL\t1\tuser=u1\treason={WRONG}\n")),
        ("nobody", "right", format!("FAIL\t1\tuser=nobody\treason={WRONG}\n")),
        ("u1", "", format!("FAIL\t1\tuser=u1\treason={WRONG}\n")),
        ("u1\r\n", "right", format!("FAIL\t1\tuser=u1\u{1}r\u{1}n\treason={WRONG}\n")),
        ("a\tuser=u1\nOK\t1", "x", format!("FAIL\t1\tuser=a\u{1}tuser=u1\u{1}nOK\u{1}t1\treason={WRONG}\n")),
        ("j\u{fc}", "right", format!("FAIL\t1\tuser=j\u{fc}\treason={WRONG}\n")),
        (
            "u3",
            "right",
            "FAIL\t1\tuser=u3\treason=This account is disabled. Please ask your mail administrator.\n"
                .to_owned(),
        ),
    ] {
        assert_eq!(ask(&plain(1, user, password)).await, expected);
    }
    for garbage in ["HELO\n", "\n", "AUTH\tx\n", "GET / HTTP/1.1\r\n", "VERSION\t2\t0\n", "AUTH\t1\tPLAIN"] {
        assert_eq!(ask(garbage).await, "", "{garbage:?}");
    }
    assert_eq!(ask(&"x".repeat(100_000)).await, "");
    // Bytes that are no text, and a NUL.
    for garbage in [&b"AUTH\t1\t\xff\xfe\n"[..], b"\0\0\n"] {
        let dialogue = Greeted(DovecotAuth::new(authenticator.clone()));
        assert_eq!(exchange(dialogue, &[garbage]).await, b"");
    }
    // An outage ends the connection, and what was answered before it arrives.
    directory.down.store(true, Ordering::SeqCst);
    let before = "AUTH\t9\tLOGIN\n".to_owned();
    assert_eq!(
        ask(&(before + &plain(1, "u1", "right") + &plain(2, "u1", "right"))).await,
        "CONT\t9\tVXNlcm5hbWU6\n"
    );
}

fn sasl(parts: [&[u8]; 4]) -> Vec<u8> {
    let length = |part: &[u8]| u16::try_from(part.len()).unwrap().to_be_bytes();
    parts.iter().flat_map(|part| [&length(part)[..], part].concat()).collect()
}

fn counted(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

#[tokio::test(start_paused = true)]
async fn saslauthd_takes_requests_in_any_pieces_and_always_ends() {
    let fixture = Fixture::new(5).await;
    let (authenticator, directory) = authenticator(&fixture);
    let dialogue = || Saslauthd::new(authenticator.clone());
    let right = sasl([b"u1", b"right", b"imap", b"example.org"]);
    check_split(dialogue, &right, &counted("OK")).await;
    // A newer client sends its address too, and a confused one the request again.
    for more in [&b"\0\x09192.0.2.7"[..], &right] {
        check_split(dialogue, &[&right[..], more].concat(), &counted("OK")).await;
    }
    let wrong = format!("NO {WRONG}");
    for (user, password, realm, expected) in [
        (&b"u1"[..], &b"wrong"[..], &b""[..], wrong.as_str()),
        (b"u1", b"", b"", &wrong),
        (b"u1", b"right\0", b"", &wrong),
        (b"u1\0", b"right", b"", &wrong),
        (b"u1\r\n", b"right", b"", &wrong),
        (b"\xff", b"right", b"", &wrong),
        (b"u1", b"right", b"example.com", &wrong),
        (b"u2", b"right", b"", "OK"),
        (b"u3", b"right", b"", "NO This account is disabled. Please ask your mail administrator."),
        (
            b"u4",
            b"right",
            b"",
            "NO All mailbox licenses are in use. Please ask your mail administrator for one.",
        ),
    ] {
        let answer = exchange(dialogue(), &[&sasl([user, password, b"imap", realm])]).await;
        assert_eq!(answer.escape_ascii().to_string(), counted(expected).escape_ascii().to_string());
    }
    for garbage in [&b"\xff\xff"[..], b"\0\x02u", b"GET / HTTP/1.1\r\n\r\n", b"\0"] {
        assert_eq!(exchange(dialogue(), &[garbage]).await, b"", "{}", garbage.escape_ascii());
    }
    assert_eq!(exchange(dialogue(), &[&sasl([&[b'x'; 1025], b"", b"", b""])]).await, b"");
    directory.down.store(true, Ordering::SeqCst);
    assert_eq!(exchange(dialogue(), &[&right]).await, b"");
}
