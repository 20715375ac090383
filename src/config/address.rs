//! Where something listens.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::domain::host::is_loopback;

/// A name of more bytes is none of DNS' (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 255;

/// Where a listener listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Bind {
    /// `HOST:PORT`; port 0 lets the kernel choose.
    Tcp {
        /// Host name or address, an IPv6 one without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Why a text is no `HOST:PORT`; the subject comes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTcp {
    /// No colon.
    #[error("has no port")]
    NoPort,
    /// What follows the last colon.
    #[error("has no port between 0 and 65535 behind its last colon")]
    BadPort,
    /// `[x]:80`
    #[error("has no IPv6 address between its brackets")]
    BadBrackets,
    /// `::1:80`
    #[error("has an IPv6 address without brackets")]
    NoBrackets,
    /// `:80`
    #[error("has no host")]
    NoHost,
    /// `http://x:80`
    #[error("has no host name or address before its last colon")]
    BadHost,
}

impl Bind {
    /// `HOST:PORT`, an IPv6 address in brackets.
    pub fn parse_tcp(text: &str) -> Result<Bind, BadTcp> {
        let (host, port) = text.rsplit_once(':').ok_or(BadTcp::NoPort)?;
        let port = port.parse().map_err(|_| BadTcp::BadPort)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
            Some(_) => return Err(BadTcp::BadBrackets),
            None if host.contains(':') => return Err(BadTcp::NoBrackets),
            None => host,
        };
        if host.is_empty() {
            return Err(BadTcp::NoHost);
        }
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.len() > MAX_HOST || !host.chars().all(is_host) {
            return Err(BadTcp::BadHost);
        }
        Ok(Bind::Tcp { host: host.to_owned(), port })
    }

    /// Whether only this machine gets there.
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Tcp { host, .. } => is_loopback(host),
            Bind::Unix(_) => true,
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Bind::Tcp { host, port } => write!(f, "{host}:{port}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
