//! Names and addresses of machines.

use std::net::IpAddr;

/// Whether a host is this machine itself, so that nobody on the way can listen: whoever can listen there can read
/// the daemon's memory as well. An IPv6 address may have brackets, as in a URL. A name that merely looks like an
/// address (`127.example.org`) is anybody's; only `localhost` is never looked up elsewhere (RFC 6761 section 6.3).
pub fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in
            ["localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "::ffff:127.0.0.1", "0:0::1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "127.evil.example.com",
            "127.0.0.1.example.org",
            "127.",
            "127.0.0.256",
            "127.0.0.1:80",
            "localhost.example.org",
            "localhost:80",
            "[localhost]",
            "[::1",
            "::2",
            "::",
            "0.0.0.0",
            "192.0.2.1",
            "128.0.0.1",
            "::ffff:192.0.2.1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
