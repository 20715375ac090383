//! A directory as it is configured: checked values, which `config` makes and `directory` acts on.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::brake::Brake;
use super::course::Choice;
use super::filter::Condition;
use super::ldap_text::{Dn, Filter};
use super::mapping::{Preset, Rules};
use super::name::Domain;
use super::names::DirectoryNames;

/// One upstream: LDAP servers that hold the same data, or an LDIF file, serving one or more mail domains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory {
    /// Unique; the store knows the directory by it.
    pub name: String,
    /// Added to login names that have no domain; the first of `domains`.
    pub domain: Domain,
    /// Mail domains that the directory serves; never empty.
    pub domains: Vec<Domain>,
    /// Whether its users may have mail addresses in domains that no directory serves.
    pub foreign_names: bool,
    /// Whether a login name is a mail address where no user has it as one.
    pub login_is_address: bool,
    /// Directories whose users are the same people where they have the same stable id, while both entries live.
    pub moved_from: Vec<String>,
    /// A cap for this directory's users, inside the licence.
    pub seat_limit: Option<u64>,
    /// Which people have shared or service mailboxes, which need no seat.
    pub seatless: Option<Condition>,
    /// How many users may lose something within an hour.
    pub brake: Brake,
    /// Time between two sweeps, or between two looks at the file.
    pub poll_every: Duration,
    /// Time between two readings of everything, where changes come by themselves.
    pub full_sync_every: Duration,
    /// Attributes chosen instead of the preset's.
    pub attributes: Attributes,
    /// Where the entries come from.
    pub source: Source,
}

/// Attributes chosen in the configuration; `None` leaves the preset's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// Login names.
    pub login: Option<Vec<String>>,
    /// Mail addresses.
    pub mail: Option<Vec<String>>,
    /// The name for people.
    pub name: Option<Vec<String>>,
}

/// Where the entries of a directory come from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them for each directory")]
pub enum Source {
    /// LDAP servers.
    Ldap(LdapSource),
    /// An LDIF file.
    Ldif(LdifSource),
}

/// An LDIF file (RFC 2849).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LdifSource {
    /// The file.
    pub file: PathBuf,
}

/// LDAP servers that hold the same data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LdapSource {
    /// Tried in this order; never empty.
    pub urls: Vec<LdapUrl>,
    /// Where the sweep begins; the whole subtree is searched.
    pub base_dn: Dn,
    /// Who the daemon is to the servers.
    pub bind: Bind,
    /// How changes are found.
    pub sync: Choice,
    /// `None` finds out from the root DSE.
    pub preset: Option<Preset>,
    /// `None` takes the preset's.
    pub filter: Option<Filter>,
    /// Which lists and rooms are read beside people.
    pub lists: Lists,
    /// Only its members are mapped; `None` maps everybody.
    pub required_group: Option<Dn>,
    /// Encryption.
    pub tls: Tls,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Entries asked for at a time (RFC 2696). Active Directory caps a page at 1,000.
    pub page_size: u32,
}

/// `list_filter`: lists and rooms, which take no seat and are known so that mail to them passes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Lists {
    /// Those of the preset.
    #[default]
    Preset,
    /// Only those that `filter` finds.
    Unread,
    /// Those that match. An entry whose class says nothing is a list then.
    Matching(Condition),
}

/// Who the daemon is to the directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Bind {
    /// Nobody.
    #[default]
    Anonymous,
    /// A DN with a password (RFC 4513 section 5.1.3).
    Simple(SimpleBind),
    /// Whoever the certificate in [`Tls::identity`] stands for (SASL EXTERNAL, RFC 4422 appendix A).
    External,
}

/// A DN and its password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimpleBind {
    /// The bind DN.
    pub dn: Dn,
    /// Read at each bind, so that a changed password needs no restart.
    pub password_file: PathBuf,
}

/// How a connection is encrypted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// The only authorities to trust; `None` trusts those of the system.
    pub ca_file: Option<PathBuf>,
    /// Encrypt an `ldap://` connection before the bind.
    pub starttls: bool,
    /// What the daemon shows to servers that ask for a certificate.
    pub identity: Option<TlsIdentity>,
}

/// A certificate of the daemon's own. Both files are read for each connection, so that a renewed certificate
/// needs no restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsIdentity {
    /// The certificate and those between it and the authority, in PEM.
    pub cert_file: PathBuf,
    /// Its private key, in PEM.
    pub key_file: PathBuf,
}

/// Deadlines: a server that hangs is an error, never an empty directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For TCP, TLS and the bind, each server.
    pub connect: Duration,
    /// Longest silence during a search.
    pub read: Duration,
    /// For a sweep as a whole.
    pub sweep: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(30),
            // A million entries take about a minute; an hour is far from any honest sweep.
            sweep: Duration::from_secs(3600),
        }
    }
}

/// `ldap://HOST[:PORT]` or `ldaps://HOST[:PORT]` (RFC 4516, without what follows the host); or `srv:DOMAIN` or
/// `srv+ldaps:DOMAIN`, which stand for the servers that the DNS lists for `_ldap._tcp` or `_ldaps._tcp`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LdapUrl {
    /// TLS from the first byte.
    pub is_ldaps: bool,
    /// The host is a domain, and there is no port.
    pub is_srv: bool,
    /// Host name or IP address, an IPv6 one without brackets.
    pub host: String,
    /// 389 or 636 where the URL has none.
    pub port: u16,
}

/// The text is not the URL of an LDAP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an LDAP server: write it like ldaps://ldap1.example.org, ldap://ldap1.example.org:389 or srv:example.org"
)]
pub struct LdapUrlError;

impl LdapUrl {
    /// Checks a URL.
    pub fn parse(text: &str) -> Result<LdapUrl, LdapUrlError> {
        if let Some((scheme, domain)) = text.split_once(':')
            && !domain.starts_with('/')
        {
            return LdapUrl::parse_srv(&scheme.to_ascii_lowercase(), domain);
        }
        let (scheme, rest) = text.split_once("://").ok_or(LdapUrlError)?;
        let is_ldaps = match scheme.to_ascii_lowercase().as_str() {
            "ldap" => false,
            "ldaps" => true,
            _ => return Err(LdapUrlError),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(LdapUrlError)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| LdapUrlError)?;
                let port =
                    if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(LdapUrlError)?) };
                (host, port)
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let is_host_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 255 || !host.chars().all(is_host_character) {
            return Err(LdapUrlError);
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(LdapUrlError)?,
            None if is_ldaps => 636,
            None => 389,
        };
        Ok(LdapUrl { is_ldaps, is_srv: false, host: host.to_owned(), port })
    }

    fn parse_srv(scheme: &str, domain: &str) -> Result<LdapUrl, LdapUrlError> {
        let is_ldaps = match scheme {
            "srv" => false,
            "srv+ldaps" => true,
            _ => return Err(LdapUrlError),
        };
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let is_label = |label: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(is_letter)
        };
        // With `_ldaps._tcp.` before it a name in the DNS (RFC 1035 section 2.3.4).
        if domain.len() > 240 || !domain.split('.').all(is_label) {
            return Err(LdapUrlError);
        }
        Ok(LdapUrl { is_ldaps, is_srv: true, host: domain.to_owned(), port: 0 })
    }
}

impl fmt::Display for LdapUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_srv {
            return write!(f, "{}:{}", if self.is_ldaps { "srv+ldaps" } else { "srv" }, self.host);
        }
        let scheme = if self.is_ldaps { "ldaps" } else { "ldap" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl Directory {
    /// What the directory has to do with names.
    pub fn names(&self) -> DirectoryNames {
        DirectoryNames {
            name: self.name.clone(),
            domains: self.domains.clone(),
            foreign_names: self.foreign_names,
            login_is_address: self.login_is_address,
            moved_from: self.moved_from.clone(),
        }
    }

    /// The mapping rules under a preset, with the configuration's own attributes laid over them.
    pub fn rules(&self, preset: Preset) -> Rules {
        let mut rules = Rules::new(preset, self.domain.clone());
        let Attributes { login, mail, name } = self.attributes.clone();
        rules.login = login.unwrap_or(rules.login);
        rules.mail = mail.unwrap_or(rules.mail);
        rules.name = name.unwrap_or(rules.name);
        rules.seatless = self.seatless.clone();
        if let Source::Ldap(LdapSource { lists: Lists::Matching(lists), .. }) = &self.source {
            rules.lists = Some(lists.clone());
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for (text, shown) in [
            ("ldaps://ldap1.example.org", "ldaps://ldap1.example.org:636"),
            ("LDAP://127.0.0.1:3890/", "ldap://127.0.0.1:3890"),
            ("ldap://[::1]", "ldap://[::1]:389"),
            ("ldap://[::1]:3890", "ldap://[::1]:3890"),
            ("srv:example.org", "srv:example.org"),
            ("SRV+LDAPS:ad.example.org.", "srv+ldaps:ad.example.org"),
        ] {
            assert_eq!(LdapUrl::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "ldap1.example.org",
            "http://x",
            "ldap://",
            "ldap://x:0",
            "ldap://x:y",
            "ldap://x/dc=a",
            "ldap://[::1",
            "ldap://u@x",
            "srv:",
            "srv://example.org",
            "srv:a..b",
            "srv:example.org:389",
            "srv:a/b",
            "ldap:example.org",
        ] {
            assert!(LdapUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
