use super::*;
use crate::config::tests::{check, decode_good};

fn bind(kind: &str, bind: &str, expected: &[&str]) {
    check(&format!("[[listen.{kind}]]\nbind = \"{bind}\"\n"), expected);
}

#[test]
fn listeners_keep_their_order() {
    let config = decode_good(
        "[[listen.dovecot_policy]]\nbind = \"localhost:0\"\n\
         [[listen.http]]\nbind = \"unix:http.sock\"\nmax_connections = 65536\n\
         [[listen.dovecot_policy]]\nbind = \"[::1]:4001\"\n",
    );
    let shown: Vec<String> = config
        .listeners
        .iter()
        .map(|listener| {
            format!("{} {} {}", listener.protocol.kind(), listener.bind, listener.max_connections)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "dovecot_policy localhost:0 1024",
            "http unix:/base/http.sock 65536",
            "dovecot_policy [::1]:4001 1024"
        ]
    );
}

#[test]
fn binds_are_checked() {
    bind("http", "127.0.0.1", &["2:8: `bind` has no port = write it like bind = \"127.0.0.1:8460\""]);
    bind("http", "127.0.0.1:70000", &["2:8: `bind` has no port between 0 and 65535 behind its last colon"]);
    bind(
        "http",
        "::1:80",
        &["2:8: `bind` has an IPv6 address without brackets = write it like bind = \"[::1]:8460\""],
    );
    bind("http", "[::z]:80", &["2:8: `bind` has no IPv6 address between its brackets"]);
    bind(
        "http",
        ":80",
        &["2:8: `bind` has no host = write 0.0.0.0 or [::] before the colon for every address"],
    );
    bind("http", "http//x:80", &["2:8: `bind` has no host name or address before its last colon"]);
    bind(
        "http",
        "unix:",
        &["2:8: `bind` has no path after unix: = write it like bind = \"unix:/run/seatkeeper/http.sock\""],
    );
    bind("http", "unix:$X/a", &["2:8: `bind`: this variable is not expanded here"]);
    bind("http", &format!("unix:/{}", "x".repeat(107)), &["2:8: `bind` is too long for a socket"]);
    bind(
        "dovecot_policy",
        "unix:/a",
        &[
            "2:8: Dovecot asks its policy server over TCP, not over a Unix socket = write it like bind = \"127.0.0.1:4001\"",
        ],
    );
}

#[test]
fn tables_are_checked() {
    check("[[listen.http]]\n", &["1:1: [[listen.http]] has no `bind` = add bind = \"127.0.0.1:8460\""]);
    check(
        "[listen.http]\nbind = \"a:1\"",
        &["1:1: `http` must be a list of tables, in double brackets = write [[listen.http]] before its keys"],
    );
    check(
        "[[listen]]\nkind = \"http\"",
        &[
            "1:1: `listen` must be a table, not an array = write it as [[listen.http]] or another listener kind",
        ],
    );
    check("listen.http = [1]", &["1:16: `http` must hold tables, not a whole number"]);
    check(
        "[[listen.telepathy]]",
        &[
            "1:10: unknown listener kind `telepathy` = known here: http, dovecot_policy, postfix_policy, socketmap, dovecot_auth, saslauthd, nginx_auth",
        ],
    );
    check("[[listen.https]]", &["1:10: unknown listener kind `https` = did you mean `http`?"]);
    for number in ["0", "65537", "-1"] {
        let text = format!("[[listen.http]]\nbind = \"a:1\"\nmax_connections = {number}");
        check(&text, &["3:19: `max_connections` must be 1 to 65536 = write it like max_connections = 1024"]);
    }
}

#[test]
fn binds_are_unique() {
    let two = |one: &str, other: &str| {
        format!("[[listen.http]]\nbind = \"{one}\"\n[[listen.http]]\nbind = \"{other}\"\n")
    };
    for (one, other) in [
        ("a:1", "A:1"),
        ("127.0.0.1:1", "0.0.0.0:1"),
        ("[::]:1", "[::1]:1"),
        ("[::1]:1", "[0::1]:1"),
        ("unix:/a", "unix:/./a"),
    ] {
        let Some(found) = decode_good(&two(one, "other:9")).listeners.first().map(|l| l.bind.to_string())
        else {
            panic!("{one}")
        };
        check(
            &two(one, other),
            &[&format!(
                "4:8: the listener on line 2 has {found} already = give every listener an address or a port of its own"
            )],
        );
    }
    for (one, other) in [("a:0", "a:0"), ("a:1", "a:2"), ("0.0.0.0:1", "[::]:1"), ("a:1", "unix:/a")] {
        assert_eq!(decode_good(&two(one, other)).listeners.len(), 2);
    }
    check(
        "control_socket = \"/a/b\"\n[[listen.http]]\nbind = \"unix:/a//b\"",
        &["3:8: the control socket is on this path = write another path here, or another control_socket"],
    );
}

fn protocol(table: &str) -> Protocol {
    let mut listeners = decode_good(&format!("[[listen.{table}")).listeners;
    listeners.remove(0).protocol
}

#[test]
fn protocols_have_settings_of_their_own() {
    let policy = |text: &str| protocol(&format!("postfix_policy]]\nbind = \"a:1\"\n{text}"));
    let defer = RecipientPolicy {
        unseated: MailWithoutSeat::Defer,
        exhausted: MailWithoutSeat::Defer,
        delimiter: Some('+'),
    };
    assert_eq!(policy(""), Protocol::PostfixPolicy(defer));
    assert_eq!(
        policy("unseated = \"accept\"\nexhausted = \"reject\"\nrecipient_delimiter = \"\""),
        Protocol::PostfixPolicy(RecipientPolicy {
            unseated: MailWithoutSeat::Accept,
            exhausted: MailWithoutSeat::Reject,
            delimiter: None,
        })
    );
    let backends =
        "nginx_auth]]\nbind = \"a:1\"\nbackends.imap = \"127.0.0.1:143\"\nbackends.smtp = \"[::1]:25\"";
    assert_eq!(
        protocol(backends),
        Protocol::NginxAuth(Backends {
            imap: Some(([127, 0, 0, 1], 143).into()),
            pop3: None,
            smtp: "[::1]:25".parse().ok(),
        })
    );
    assert_eq!(
        protocol("socketmap]]\nbind = \"a:1\""),
        Protocol::Socketmap(MailboxTemplate::parse("{domain}/{login}/").unwrap())
    );
}

#[test]
fn settings_of_protocols_are_checked() {
    let settings = |kind: &str, text: &str, expected: &str| {
        check(&format!("[[listen.{kind}]]\nbind = \"a:1\"\n{text}"), &[expected]);
    };
    settings(
        "postfix_policy",
        "unseated = \"bounce\"",
        "3:12: `unseated` can't be `bounce` = write accept, defer or reject",
    );
    settings(
        "postfix_policy",
        "recipient_delimiter = \"ab\"",
        "3:23: `recipient_delimiter` is not one punctuation mark = write \"+\", or \"\" where addresses have no such part",
    );
    settings("http", "unseated = \"defer\"", "3:1: unknown key `unseated`");
    settings(
        "socketmap",
        "mailbox = \"{user}\"",
        "3:11: `mailbox` has a brace that begins or ends no {domain}, {login} or {address} = write it like mailbox = \"{domain}/{login}/\"",
    );
    settings(
        "socketmap",
        "mailbox = \"all\"",
        "3:11: `mailbox` has neither {login} nor {address}, so all users would share a mailbox",
    );
    settings("socketmap", &format!("mailbox = \"{}\"", "x".repeat(2000)), "3:11: `mailbox` is too long");
    check(
        "[[listen.nginx_auth]]\nbind = \"a:1\"",
        &["1:1: [[listen.nginx_auth]] has no `backends` = add backends.imap = \"127.0.0.1:143\""],
    );
    settings(
        "nginx_auth",
        "backends.imap = \"localhost:143\"",
        "3:17: nginx takes a server by its IP address and port alone = write it like imap = \"127.0.0.1:143\"",
    );
    settings(
        "nginx_auth",
        "backends.ftp = \"127.0.0.1:21\"\nbackends.imap = \"127.0.0.1:143\"",
        "3:10: unknown key `ftp`",
    );
}

#[test]
fn socket_modes_are_checked() {
    let with =
        |bind: &str, mode: &str| format!("[[listen.http]]\nbind = \"{bind}\"\nsocket_mode = \"{mode}\"");
    let mode = |text: &str| decode_good(text).listeners[0].socket_mode;
    assert_eq!(mode(&with("unix:/a", "0660")), 0o660);
    assert_eq!(mode(&with("unix:/a", "600")), 0o600);
    assert_eq!(mode("[[listen.http]]\nbind = \"unix:/a\""), 0o666);
    for bad in ["", "rw", "777", "4666", "66", "00660", "0680", "+66"] {
        check(
            &with("unix:/a", bad),
            &[
                "3:15: `socket_mode` is not a mode of reading and writing = write it like socket_mode = \"0660\"",
            ],
        );
    }
    check(
        &with("a:1", "0660"),
        &["3:15: `socket_mode` is for Unix sockets alone = take it away, or bind to unix:/path"],
    );
}
