//! `[[listen.http]]` and `[[listen.dovecot_policy]]`.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::reader::{Section, Text};
use super::{Bind, Listener, ListenerKind};

const MAX_CONNECTIONS: usize = 1024;

/// Each connection needs a file descriptor, and a process may have about a million.
const MOST_CONNECTIONS: u64 = 65_536;

/// All listeners, in the order of the file; `None` where one has a mistake.
pub(super) fn read(root: &mut Section<'_>, control_socket: &Path) -> Option<Vec<Listener>> {
    let mut section = root.table("listen", "[[listen.http]] or [[listen.dovecot_policy]]");
    let http = section.tables("http", "[[listen.http]]");
    let dovecot_policy = section.tables("dovecot_policy", "[[listen.dovecot_policy]]");
    section.finish_kinds("listener kind");
    let http = http.into_iter().map(|table| (ListenerKind::Http, table));
    let dovecot_policy = dovecot_policy.into_iter().map(|table| (ListenerKind::DovecotPolicy, table));
    let mut tables: Vec<_> = http.chain(dovecot_policy).collect();
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
    kind: ListenerKind,
    mut section: Section<'_>,
    control_socket: &Path,
    binds: &mut Vec<(Bind, usize)>,
) -> Option<Listener> {
    let example = match kind {
        ListenerKind::Http => r#""127.0.0.1:8460""#,
        ListenerKind::DovecotPolicy => r#""127.0.0.1:4001""#,
    };
    let text = section.require("bind", example).and_then(|value| value.text());
    let max_connections = section.take("max_connections", "1024");
    let max_connections = max_connections
        .and_then(|value| value.integer(1..=MOST_CONNECTIONS))
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(MAX_CONNECTIONS);
    section.finish();
    let text = text?;
    let bind = parse_bind(kind, &text)?;
    check_unique(&bind, &text, control_socket, binds);
    Some(Listener { kind, bind, max_connections })
}

fn parse_bind(kind: ListenerKind, text: &Text<'_>) -> Option<Bind> {
    let Some(path) = text.text.strip_prefix("unix:") else { return parse_tcp(text) };
    if kind == ListenerKind::DovecotPolicy {
        text.wrong_form("Dovecot asks its policy server over TCP, not over a Unix socket");
        return None;
    }
    if path.is_empty() {
        text.wrong(
            "`bind` has no path after unix:",
            "write it like bind = \"unix:/run/seatkeeper/http.sock\"",
        );
        return None;
    }
    let path = text.tail("unix:".len()).path()?;
    text.socket_path(path).map(Bind::Unix)
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn parse_tcp(text: &Text<'_>) -> Option<Bind> {
    let wrong = |message: &str, help: &str| {
        text.wrong(message, help);
        None
    };
    let Some((host, port)) = text.text.rsplit_once(':') else {
        return wrong("`bind` has no port", &text.like());
    };
    let Ok(port) = port.parse::<u16>() else {
        return wrong("`bind` has no port between 0 and 65535 behind its last colon", &text.like());
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
        Some(_) => return wrong("`bind` has no IPv6 address between its brackets", &text.like()),
        None if host.contains(':') => {
            return wrong(
                "`bind` has an IPv6 address without brackets",
                "write it like bind = \"[::1]:8460\"",
            );
        }
        None => host,
    };
    if host.is_empty() {
        return wrong("`bind` has no host", "write 0.0.0.0 or [::] before the colon for every address");
    }
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.len() > 255 || !host.chars().all(is_host) {
        return wrong("`bind` has no host name or address before its last colon", &text.like());
    }
    Some(Bind::Tcp { host: host.to_owned(), port })
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
mod tests {
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
            .map(|listener| format!("{} {} {}", listener.kind, listener.bind, listener.max_connections))
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
        bind(
            "http",
            "127.0.0.1:70000",
            &["2:8: `bind` has no port between 0 and 65535 behind its last colon"],
        );
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
            &[
                "2:8: `bind` has no path after unix: = write it like bind = \"unix:/run/seatkeeper/http.sock\"",
            ],
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
            &[
                "1:1: `http` must be a list of tables, in double brackets = write [[listen.http]] before its keys",
            ],
        );
        check(
            "[[listen]]\nkind = \"http\"",
            &[
                "1:1: `listen` must be a table, not an array = write it as [[listen.http]] or [[listen.dovecot_policy]]",
            ],
        );
        check("listen.http = [1]", &["1:16: `http` must hold tables, not a whole number"]);
        check(
            "[[listen.postfix_policy]]",
            &["1:10: unknown listener kind `postfix_policy` = known here: http, dovecot_policy"],
        );
        check("[[listen.https]]", &["1:10: unknown listener kind `https` = did you mean `http`?"]);
        for number in ["0", "65537", "-1"] {
            let text = format!("[[listen.http]]\nbind = \"a:1\"\nmax_connections = {number}");
            check(
                &text,
                &["3:19: `max_connections` must be 1 to 65536 = write it like max_connections = 1024"],
            );
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
}
