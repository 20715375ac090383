//! Raw bytes for every protocol: truncated, oversized, split at every byte, pipelined, with NUL, CR, LF and
//! bytes beyond ASCII.

use tokio::sync::watch;

use super::postfix_policy::PostfixPolicy;
use super::socketmap::Socketmap;
use crate::admin::fixture::Fixture;
use crate::domain::mail_server::{MailWithoutSeat, MailboxTemplate, RecipientPolicy};
use crate::net::dialogue::tests::{check_split, exchange};

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
