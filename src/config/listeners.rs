//! `[[listen.…]]`: what is listened on, and the settings of each protocol.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::reader::{Section, Text};
use super::{BadTcp, Bind, Listener, Protocol};
use crate::domain::mail_server::{Backends, MailWithoutSeat, MailboxTemplate, RecipientPolicy};

const MAX_CONNECTIONS: usize = 1024;

/// Each connection needs a file descriptor, and a process may have about a million.
const MOST_CONNECTIONS: u64 = 65_536;

/// Everybody on the machine may connect, as on a loopback port; the folder of the socket can say otherwise.
const SOCKET_MODE: u32 = 0o666;

const MAILBOX: &str = "{domain}/{login}/";
const DELIMITER: char = '+';

const WITHOUT_SEAT: [(&str, MailWithoutSeat); 3] = [
    ("accept", MailWithoutSeat::Accept),
    ("defer", MailWithoutSeat::Defer),
    ("reject", MailWithoutSeat::Reject),
];

/// One kind of listener: its table, an example of its `bind`, and how the rest of it is read.
struct Kind {
    key: &'static str,
    title: &'static str,
    example: &'static str,
    read: fn(&mut Section<'_>) -> Option<Protocol>,
}

const KINDS: [Kind; 7] = [
    Kind {
        key: "http",
        title: "[[listen.http]]",
        example: r#""127.0.0.1:8460""#,
        read: |_| Some(Protocol::Http),
    },
    Kind {
        key: "dovecot_policy",
        title: "[[listen.dovecot_policy]]",
        example: r#""127.0.0.1:4001""#,
        read: |_| Some(Protocol::DovecotPolicy),
    },
    Kind {
        key: "postfix_policy",
        title: "[[listen.postfix_policy]]",
        example: r#""127.0.0.1:4002""#,
        read: postfix_policy,
    },
    Kind { key: "socketmap", title: "[[listen.socketmap]]", example: r#""127.0.0.1:4003""#, read: socketmap },
    Kind {
        key: "dovecot_auth",
        title: "[[listen.dovecot_auth]]",
        example: r#""127.0.0.1:4004""#,
        read: |_| Some(Protocol::DovecotAuth),
    },
    Kind {
        key: "saslauthd",
        title: "[[listen.saslauthd]]",
        example: r#""unix:/run/seatkeeper/saslauthd/mux""#,
        read: |_| Some(Protocol::Saslauthd),
    },
    Kind {
        key: "nginx_auth",
        title: "[[listen.nginx_auth]]",
        example: r#""127.0.0.1:4005""#,
        read: nginx_auth,
    },
];

/// All listeners, in the order of the file; `None` where one has a mistake.
pub(super) fn read(root: &mut Section<'_>, control_socket: &Path) -> Option<Vec<Listener>> {
    let mut section = root.table("listen", "[[listen.http]] or another listener kind");
    let mut tables = Vec::new();
    for kind in &KINDS {
        tables.extend(section.tables(kind.key, kind.title).into_iter().map(|table| (kind, table)));
    }
    section.finish_kinds("listener kind");
    tables.sort_by_key(|(_, table)| table.span().start);

    let mut binds: Vec<(Bind, usize)> = Vec::new();
    let mut all = Some(Vec::new());
    for (kind, table) in tables {
        let listener = read_one(kind, table, control_socket, &mut binds);
        all = all.zip(listener).map(|(mut all, listener)| {
            all.push(listener);
            all
        });
    }
    all
}

fn read_one(
    kind: &Kind,
    mut section: Section<'_>,
    control_socket: &Path,
    binds: &mut Vec<(Bind, usize)>,
) -> Option<Listener> {
    let text = section.require("bind", kind.example).and_then(|value| value.text());
    let max_connections = section.take("max_connections", "1024");
    let max_connections = max_connections
        .and_then(|value| value.integer(1..=MOST_CONNECTIONS))
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(MAX_CONNECTIONS);
    let mode = section.take("socket_mode", r#""0660""#).and_then(|value| value.text());
    let protocol = (kind.read)(&mut section);
    section.finish();
    let text = text?;
    let bind = parse_bind(kind, &text)?;
    check_unique(&bind, &text, control_socket, binds);
    let socket_mode = match (&bind, mode) {
        (Bind::Unix(_), Some(mode)) => parse_mode(&mode)?,
        (Bind::Tcp { .. }, Some(mode)) => {
            mode.wrong("`socket_mode` is for Unix sockets alone", "take it away, or bind to unix:/path");
            return None;
        }
        (_, None) => SOCKET_MODE,
    };
    Some(Listener { protocol: protocol?, bind, max_connections, socket_mode })
}

/// Three or four octal digits, without execution and other bits that mean nothing for a socket.
fn parse_mode(text: &Text<'_>) -> Option<u32> {
    let is_short = (3..=4).contains(&text.text.len()) && text.text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text.text, 8).ok().filter(|mode| is_short && *mode & !0o666 == 0);
    if mode.is_none() {
        text.wrong_form("`socket_mode` is not a mode of reading and writing");
    }
    mode
}

fn postfix_policy(section: &mut Section<'_>) -> Option<Protocol> {
    let unseated = section.choice("unseated", r#""defer""#, &WITHOUT_SEAT, MailWithoutSeat::Defer);
    let exhausted = section.choice("exhausted", r#""defer""#, &WITHOUT_SEAT, MailWithoutSeat::Defer);
    let delimiter = section.take("recipient_delimiter", r#""+""#).and_then(|value| value.text());
    let delimiter = match delimiter {
        None => Some(DELIMITER),
        Some(text) => {
            let mut chars = text.text.chars();
            match (chars.next(), chars.next()) {
                (None, _) => None,
                (Some(c), None) if c.is_ascii_punctuation() && c != '@' => Some(c),
                _ => {
                    text.wrong(
                        "`recipient_delimiter` is not one punctuation mark",
                        "write \"+\", or \"\" where addresses have no such part",
                    );
                    return None;
                }
            }
        }
    };
    Some(Protocol::PostfixPolicy(RecipientPolicy { unseated, exhausted, delimiter }))
}

fn socketmap(section: &mut Section<'_>) -> Option<Protocol> {
    let text = section.take("mailbox", r#""{domain}/{login}/""#).and_then(|value| value.text());
    let template = match &text {
        Some(text) if text.text.len() > MailboxTemplate::MAX_BYTES => {
            text.wrong(
                "`mailbox` is too long",
                format!("write a path of at most {} bytes", MailboxTemplate::MAX_BYTES),
            );
            return None;
        }
        Some(text) => MailboxTemplate::parse(text.text),
        None => MailboxTemplate::parse(MAILBOX),
    };
    match (template, text) {
        (Ok(template), _) => Some(Protocol::Socketmap(template)),
        (Err(error), text) => {
            if let Some(text) = text {
                text.wrong_form(format!("`mailbox` {error}"));
            }
            None
        }
    }
}

fn nginx_auth(section: &mut Section<'_>) -> Option<Protocol> {
    let span = section.span();
    let mut table = section.table("backends", "[listen.nginx_auth.backends]");
    let mut backend = |key, example| {
        let text = table.take(key, example).and_then(|value| value.text())?;
        let address = text.text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        if address.is_none() {
            text.wrong_form("nginx takes a server by its IP address and port alone");
        }
        address
    };
    let backends = Backends {
        imap: backend("imap", r#""127.0.0.1:143""#),
        pop3: backend("pop3", r#""127.0.0.1:110""#),
        smtp: backend("smtp", r#""127.0.0.1:587""#),
    };
    let is_empty = table.is_empty();
    table.finish();
    if is_empty {
        section.report(
            span,
            "[[listen.nginx_auth]] has no `backends`",
            "add backends.imap = \"127.0.0.1:143\"",
        );
        return None;
    }
    Some(Protocol::NginxAuth(backends))
}

fn parse_bind(kind: &Kind, text: &Text<'_>) -> Option<Bind> {
    let Some(path) = text.text.strip_prefix("unix:") else { return parse_tcp(text) };
    if kind.key == "dovecot_policy" {
        text.wrong_form("Dovecot asks its policy server over TCP, not over a Unix socket");
        return None;
    }
    if path.is_empty() {
        text.wrong(
            "`bind` has no path after unix:",
            format!("write it like bind = \"unix:/run/seatkeeper/{}.sock\"", kind.key),
        );
        return None;
    }
    let path = text.tail("unix:".len()).path()?;
    text.socket_path(path).map(Bind::Unix)
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn parse_tcp(text: &Text<'_>) -> Option<Bind> {
    let wrong = match Bind::parse_tcp(text.text) {
        Ok(bind) => return Some(bind),
        Err(wrong) => wrong,
    };
    let help = match wrong {
        BadTcp::NoBrackets => "write it like bind = \"[::1]:8460\"".to_owned(),
        BadTcp::NoHost => "write 0.0.0.0 or [::] before the colon for every address".to_owned(),
        _ => text.like(),
    };
    text.wrong(format!("`bind` {wrong}"), help);
    None
}

fn check_unique(bind: &Bind, text: &Text<'_>, control_socket: &Path, binds: &mut Vec<(Bind, usize)>) {
    if matches!(bind, Bind::Unix(path) if path == control_socket) {
        text.wrong(
            "the control socket is on this path",
            "write another path here, or another control_socket",
        );
    }
    match binds.iter().find(|(other, _)| overlap(bind, other)) {
        Some((other, line)) => text.wrong(
            format!("the listener on line {line} has {other} already"),
            "give every listener an address or a port of its own",
        ),
        None => binds.push((bind.clone(), text.line())),
    }
}

/// Whether the kernel would refuse the second of two binds. Port 0 is another port each time.
fn overlap(one: &Bind, other: &Bind) -> bool {
    match (one, other) {
        (Bind::Unix(one), Bind::Unix(other)) => one == other,
        (Bind::Tcp { host: one, port }, Bind::Tcp { host: other, port: other_port }) => {
            port == other_port && *port != 0 && hosts_overlap(one, other)
        }
        _ => false,
    }
}

fn hosts_overlap(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => {
            one == other
                || (one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified()))
        }
        _ => one.eq_ignore_ascii_case(other),
    }
}

#[cfg(test)]
mod tests;
