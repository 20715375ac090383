//! `[license]` and `[components]`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::mistakes::quoted;
use super::reader::{FileKind, Section, Text};
use crate::domain::host::is_loopback;
use crate::domain::license::{ComponentName, PublicKey};
use crate::domain::refresh;
use crate::domain::seats::Service;

const REFRESH_EVERY: Duration = Duration::from_secs(12 * 3600);
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// What `[license]` says of a signed licence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedLicense {
    /// A licence in a file, installed at the start and at each reload. It need not exist.
    pub file: Option<PathBuf>,
    /// Keys that licences may be signed with; those that the program was built with, where it was.
    pub trusted_keys: Vec<PublicKey>,
    /// The licence server's URL, without a slash at its end.
    pub server: Option<String>,
    /// The only authorities that vouch for the server.
    pub ca_file: Option<PathBuf>,
    /// How often the server is asked: 12 hours by default, at most 24.
    pub refresh_every: Duration,
}

impl Default for SignedLicense {
    fn default() -> SignedLicense {
        SignedLicense {
            file: None,
            trusted_keys: Vec::new(),
            server: None,
            ca_file: None,
            refresh_every: REFRESH_EVERY,
        }
    }
}

/// `[license]`: seats that are declared, or a signed licence.
pub(super) fn read(root: &mut Section<'_>, built_in: Option<&str>) -> (Option<u64>, SignedLicense) {
    let mut section = root.table("license", "[license]");
    let seats = section.take("seats", "25");
    let file = section.take("file", r#""/var/lib/seatkeeper/license.jwt""#);
    let trusted_keys = section.take("trusted_keys", r#"["MCowBQYDK2VwAyEA…"]"#);
    let server = section.take("server", r#""https://licenses.example.net""#);
    let ca_file = section.take("ca_file", r#""/etc/ssl/certs/licenses-ca.pem""#);
    let refresh_every = section.take("refresh_every", r#""12h""#);
    if let Some(seats) = &seats {
        if built_in.is_some() {
            seats.wrong("this program takes signed licences only", "install the licence that you bought");
        } else if file.is_some() || trusted_keys.is_some() || server.is_some() {
            seats.wrong(
                "seats can't be declared beside a signed licence, which has its own",
                "leave out seats, or file, trusted_keys and server",
            );
        }
    }
    let seats = seats.and_then(|value| value.integer(0..=u64::MAX));
    let needs_keys = trusted_keys.is_none() && built_in.is_none();
    if needs_keys && let Some(value) = file.as_ref().or(server.as_ref()) {
        value.wrong(
            "there are no trusted_keys to verify a licence with",
            "add the vendor's: trusted_keys = [\"MCowBQYDK2VwAyEA…\"]",
        );
    }
    if ca_file.is_some() && server.is_none() {
        section.wrong("`ca_file` has no effect without a server", "add server, or leave it out");
    }
    let trusted_keys = match (built_in, trusted_keys) {
        (Some(_), Some(value)) => {
            value.wrong("the trusted keys of this program were fixed when it was built", "leave them out");
            Vec::new()
        }
        (Some(built_in), None) => {
            let keys: Option<Vec<PublicKey>> = built_in.split(',').map(PublicKey::parse).collect();
            if keys.is_none() {
                section.wrong("this program was built with keys that are none", "get another build");
            }
            keys.unwrap_or_default()
        }
        (None, value) => {
            value.map(|value| value.texts()).unwrap_or_default().iter().filter_map(trusted_key).collect()
        }
    };
    let signed = SignedLicense {
        file: file.and_then(|value| value.text()).and_then(|text| text.path()),
        trusted_keys,
        server: server.and_then(|value| value.text()).and_then(|text| server_url(&text)),
        ca_file: ca_file.and_then(|value| value.text()).and_then(|text| {
            let path = text.path()?;
            text.name_file(&path, FileKind::Public);
            Some(path)
        }),
        refresh_every: refresh_every
            .and_then(|value| value.text())
            .and_then(|text| refresh_interval(&text))
            .unwrap_or(REFRESH_EVERY),
    };
    section.finish();
    (seats, signed)
}

fn trusted_key(text: &Text<'_>) -> Option<PublicKey> {
    let key = PublicKey::parse(text.text);
    if key.is_none() {
        text.wrong(
            "this is no Ed25519 public key in SPKI form",
            "copy the line that `seatkeeper license keygen` printed: it begins with MCowBQYDK2VwAyEA",
        );
    }
    key
}

fn refresh_interval(text: &Text<'_>) -> Option<Duration> {
    let interval = text.duration(SHORTEST_REFRESH)?;
    if interval > refresh::LONGEST {
        text.wrong("`refresh_every` is too long", "write 24h or less");
        return None;
    }
    Some(interval)
}

/// The activation key goes to the server, so nobody on the way may read it.
fn server_url(text: &Text<'_>) -> Option<String> {
    let Some(url) = reqwest::Url::parse(text.text).ok().filter(|url| url.host_str().is_some()) else {
        text.wrong_form("`server` is no URL");
        return None;
    };
    let is_local = is_loopback(url.host_str().unwrap_or_default());
    if url.scheme() != "https" && !(url.scheme() == "http" && is_local) {
        text.wrong("`server` is not encrypted", "write https://; only loopback may do without");
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        text.wrong_form("`server` has more than a host, a port and a path");
        return None;
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

/// `[components]`: which services belong to which component.
pub(super) fn components(root: &mut Section<'_>) -> HashMap<Service, ComponentName> {
    let section = root.table("components", "[components]");
    let mut services = HashMap::new();
    for value in section.into_values(r#"["activesync", "eas"]"#) {
        let Some(component) = ComponentName::parse(value.key) else {
            value.wrong(
                format!("{} is no component's name", quoted(value.key)),
                "write lower-case letters, digits, - and _",
            );
            continue;
        };
        for text in value.texts() {
            let Some(service) = Service::parse(text.text) else {
                text.wrong_form(format!("{} is no service's name", quoted(text.text)));
                continue;
            };
            match services.get(&service) {
                Some(other) => text.wrong(
                    format!("{} belongs to {other} already", quoted(text.text)),
                    "name each service once",
                ),
                None => drop(services.insert(service, component.clone())),
            }
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use toml::de::DeTable;

    use super::*;
    use crate::config::reader::Reader;
    use crate::config::tests::{check, decode_good};

    const KEY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    fn license(keys: &str, expected: &[&str]) {
        check(&format!("[license]\n{keys}"), expected);
    }

    #[test]
    fn a_signed_licence_is_configured() {
        let config = decode_good(&format!(
            "[license]\nfile = \"a.jwt\"\ntrusted_keys = [\"{KEY}\"]\nserver = \"https://l.example/x/\"\n\
             ca_file = \"ca.pem\"\nrefresh_every = \"24h\"\n"
        ));
        assert_eq!(config.seat_limit, None);
        let signed = config.license;
        assert_eq!(signed.file.as_deref(), Some(Path::new("/base/a.jwt")));
        assert_eq!(signed.trusted_keys[0].to_spki(), KEY);
        assert_eq!(signed.server.as_deref(), Some("https://l.example/x"));
        assert_eq!(signed.refresh_every, Duration::from_secs(86_400));
        assert_eq!(decode_good("[license]\nseats = 3").license, SignedLicense::default());
    }

    #[test]
    fn mistakes_are_told() {
        license(
            &format!("seats = 3\ntrusted_keys = [\"{KEY}\"]"),
            &["2:9: seats can't be declared beside a signed licence, which has its own"],
        );
        license("file = \"a.jwt\"", &["2:8: there are no trusted_keys to verify a licence with"]);
        license("trusted_keys = []", &["2:16: `trusted_keys` is empty"]);
        license("trusted_keys = [\"abc\"]", &["2:17: this is no Ed25519 public key in SPKI form"]);
        let server = |url: &str, expected: &str| {
            license(&format!("trusted_keys = [\"{KEY}\"]\nserver = \"{url}\""), &[expected]);
        };
        server("licenses.example.net", "3:10: `server` is no URL");
        server("http://licenses.example.net", "3:10: `server` is not encrypted");
        server("http://127.licenses.example.net", "3:10: `server` is not encrypted");
        server("ftp://licenses.example.net", "3:10: `server` is not encrypted");
        for local in ["localhost:1", "127.0.0.1", "[::1]:8080/x"] {
            let config =
                decode_good(&format!("[license]\ntrusted_keys = [\"{KEY}\"]\nserver = \"http://{local}\""));
            assert_eq!(config.license.server, Some(format!("http://{local}")));
        }
        server("https://a/?x=1", "3:10: `server` has more than a host, a port and a path");
        license("ca_file = \"ca.pem\"", &["1:1: `ca_file` has no effect without a server"]);
        license("refresh_every = \"25h\"", &["2:17: `refresh_every` is too long = write 24h or less"]);
        license("refresh_every = \"10ms\"", &["2:17: `refresh_every` is too short = write 1s or more"]);
    }

    /// With keys that were fixed at build time nobody adds one, and nobody declares seats.
    #[test]
    fn built_in_keys_are_the_only_ones() {
        let read = |text: &str, built_in: &str| {
            let (document, _) = DeTable::parse_recoverable(text);
            let reader = Reader::new(text, Path::new("/base"), &|_| None);
            let (seats, signed) = read(&mut Section::root(&reader, document.get_ref()), Some(built_in));
            let found = reader.into_parts().0;
            (seats, signed.trusted_keys, found.into_iter().map(|found| found.message).collect::<Vec<_>>())
        };
        let (seats, keys, found) = read("[license]\nfile = \"a.jwt\"", &format!("{KEY}, {KEY}"));
        assert_eq!((seats, keys.len(), found), (None, 2, Vec::new()));
        let (_, keys, found) = read("", KEY);
        assert_eq!((keys.len(), found), (1, Vec::new()));
        let (_, _, found) = read("[license]\nseats = 1000", KEY);
        assert_eq!(found, ["this program takes signed licences only"]);
        let (_, keys, found) = read(&format!("[license]\ntrusted_keys = [\"{KEY}\"]"), KEY);
        assert_eq!(keys, []);
        assert_eq!(found, ["the trusted keys of this program were fixed when it was built"]);
        let (_, _, found) = read("", "nonsense");
        assert_eq!(found, ["this program was built with keys that are none"]);
    }

    #[test]
    fn services_belong_to_components() {
        let config =
            decode_good("[components]\nactivesync = [\"ActiveSync\", \"eas\"]\nantispam = [\"rspamd\"]\n");
        let component = |service| config.components.get(&Service::parse(service).unwrap());
        assert_eq!(component("eas").map(ComponentName::as_str), Some("activesync"));
        assert_eq!(component("activesync"), component("eas"));
        assert_eq!(component("imap"), None);
        let components = |text: &str, expected: &[&str]| check(&format!("[components]\n{text}"), expected);
        components("\"Anti Virus\" = [\"x\"]", &["2:16: `Anti Virus` is no component's name"]);
        components("a = \"x\"", &["2:5: `a` must be an array of strings, not a string"]);
        components("a = [\"a b\"]", &["2:6: `a b` is no service's name"]);
        components("a = [\"x\"]\nb = [\"X\"]", &["3:6: `X` belongs to a already = name each service once"]);
    }
}
