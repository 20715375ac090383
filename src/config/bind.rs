//! Encryption of `[[directory.ldap]]`, and whom the daemon logs in as.

use super::mistakes::quoted;
use super::reader::{FileKind, Section, Text, Value};
use crate::domain::directory::{Bind, LdapUrl, SimpleBind, Tls, TlsIdentity};
use crate::domain::ldap_text::Dn;

const EXAMPLE_DN: &str = r#""cn=seatkeeper,dc=example,dc=org""#;
const EXAMPLE_PASSWORD_FILE: &str = r#""/etc/seatkeeper/corp.password""#;
const EXAMPLE_CERT_FILE: &str = r#""/etc/seatkeeper/corp-client.pem""#;
const EXAMPLE_KEY_FILE: &str = r#""$CREDENTIALS_DIRECTORY/corp-client.key""#;

/// The URLs, each with its text; `None` where it is none.
type Urls<'a> = [(Option<LdapUrl>, Text<'a>)];

/// How the daemon says who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Simple,
    External,
    Anonymous,
}

/// `None` where there is a mistake. Without `bind`, the other keys say what is meant.
pub(super) fn bind(section: &mut Section<'_>, tls: &Tls, urls: &Urls<'_>) -> Option<Bind> {
    let method = section.take("bind", r#""external""#).and_then(|value| value.text());
    let dn = section.take("bind_dn", EXAMPLE_DN);
    let file = section.take("bind_password_file", EXAMPLE_PASSWORD_FILE);
    section.refuse(
        "bind_password",
        "write the password into a file that only the daemon can read, and name it: bind_password_file = \"…\"",
    );
    let chosen = match &method {
        Some(text) => text.choice(&[
            ("simple", Method::Simple),
            ("external", Method::External),
            ("anonymous", Method::Anonymous),
        ])?,
        None if dn.is_some() || file.is_some() => Method::Simple,
        None if tls.identity.is_some() => Method::External,
        None => Method::Anonymous,
    };
    match (chosen, method) {
        (Method::Simple, method) => simple(dn, file, method.as_ref()).map(Bind::Simple),
        (_, Some(method)) if refuse_simple(&dn, &file, method.text) => None,
        (Method::Anonymous, _) => Some(Bind::Anonymous),
        (Method::External, method) => external(method.as_ref(), tls, urls).then_some(Bind::External),
    }
}

/// A DN and the file with its password.
fn simple(dn: Option<Value<'_>>, file: Option<Value<'_>>, method: Option<&Text<'_>>) -> Option<SimpleBind> {
    match (&dn, &file) {
        (Some(dn), None) => dn.wrong(
            "`bind_dn` needs `bind_password_file`",
            format!(
                "add bind_password_file = {EXAMPLE_PASSWORD_FILE}, or leave out both to bind anonymously"
            ),
        ),
        (None, Some(file)) => file.wrong(
            "`bind_password_file` needs `bind_dn`",
            format!("add bind_dn = {EXAMPLE_DN}, or leave out both to bind anonymously"),
        ),
        (None, None) => {
            if let Some(method) = method {
                method.wrong(
                    "a simple bind needs `bind_dn` and `bind_password_file`",
                    format!("add bind_dn = {EXAMPLE_DN} and bind_password_file = {EXAMPLE_PASSWORD_FILE}"),
                );
            }
        }
        (Some(_), Some(_)) => {}
    }
    let dn: Option<Dn> = dn.and_then(|value| value.text()).and_then(|text| text.dn());
    let text = file.and_then(|value| value.text())?;
    let password_file = text.path()?;
    text.name_file(&password_file, FileKind::Secret);
    Some(SimpleBind { dn: dn?, password_file })
}

/// True where a key of a simple bind stands beside another method.
fn refuse_simple(dn: &Option<Value<'_>>, file: &Option<Value<'_>>, method: &str) -> bool {
    for value in [dn, file].into_iter().flatten() {
        let message = format!("`{}` has no effect with bind = {}", value.key, quoted(method));
        value.wrong(message, "leave it out, or write bind = \"simple\"");
    }
    dn.is_some() || file.is_some()
}

/// Whether there is a certificate, and every server gets to see it.
fn external(method: Option<&Text<'_>>, tls: &Tls, urls: &Urls<'_>) -> bool {
    if let (None, Some(method)) = (&tls.identity, method) {
        method.wrong(
            "bind = \"external\" needs a certificate",
            format!(
                "add cert_file = {EXAMPLE_CERT_FILE} and key_file = {EXAMPLE_KEY_FILE} to [directory.ldap.tls]"
            ),
        );
        return false;
    }
    let is_plain = |url: &Option<LdapUrl>| url.as_ref().is_some_and(|url| !url.is_ldaps);
    let plain = urls.iter().find(|(url, _)| is_plain(url) && !tls.starttls);
    if let Some((_, text)) = plain {
        text.wrong(
            "this server would not see the certificate that the daemon binds with",
            "write ldaps://, or starttls = true",
        );
    }
    plain.is_none()
}

/// `[directory.ldap.tls]`.
pub(super) fn tls(section: &mut Section<'_>, urls: &Urls<'_>) -> Tls {
    let mut section = section.table("tls", "[directory.ldap.tls]");
    let ca_file = section.take("ca_file", r#""/etc/ssl/certs/corp-ca.pem""#).and_then(|value| value.text());
    let cert_file = section.take("cert_file", EXAMPLE_CERT_FILE).and_then(|value| value.text());
    let key_file = section.take("key_file", EXAMPLE_KEY_FILE).and_then(|value| value.text());
    let starttls_value = section.take("starttls", "true");
    let starttls = starttls_value.as_ref().and_then(|value| value.boolean()).unwrap_or(false);
    section.finish();

    let is_ldaps = |url: &Option<LdapUrl>| url.as_ref().is_some_and(|url| url.is_ldaps);
    if starttls && let Some((_, text)) = urls.iter().find(|(url, _)| is_ldaps(url)) {
        text.wrong(
            "an ldaps:// URL can't be used with starttls = true",
            "write ldap://, or leave out starttls: ldaps:// is encrypted from the first byte",
        );
    }
    let all_plain =
        !urls.is_empty() && urls.iter().all(|(url, _)| url.as_ref().is_some_and(|url| !url.is_ldaps));
    if all_plain && !starttls {
        for text in [&ca_file, &cert_file].into_iter().flatten() {
            text.wrong(
                format!("`{}` has no effect: no URL is encrypted", text.key),
                "write ldaps:// in urls, or starttls = true",
            );
        }
    }
    let ca_file = ca_file.and_then(|text| named(&text, FileKind::Public));
    Tls { ca_file, starttls, identity: identity(cert_file, key_file) }
}

/// A certificate and its key: both, or none.
fn identity(cert_file: Option<Text<'_>>, key_file: Option<Text<'_>>) -> Option<TlsIdentity> {
    match (&cert_file, &key_file) {
        (Some(cert_file), None) => {
            cert_file.wrong("`cert_file` needs `key_file`", format!("add key_file = {EXAMPLE_KEY_FILE}"));
        }
        (None, Some(key_file)) => {
            key_file.wrong("`key_file` needs `cert_file`", format!("add cert_file = {EXAMPLE_CERT_FILE}"));
        }
        _ => {}
    }
    let cert_file = cert_file.and_then(|text| named(&text, FileKind::Public));
    let key_file = key_file.and_then(|text| named(&text, FileKind::Secret));
    Some(TlsIdentity { cert_file: cert_file?, key_file: key_file? })
}

fn named(text: &Text<'_>, kind: FileKind) -> Option<std::path::PathBuf> {
    let path = text.path()?;
    text.name_file(&path, kind);
    Some(path)
}

#[cfg(test)]
mod tests {
    use crate::config::directories::tests::{LDAP, ldap};
    use crate::config::tests::{check, decode_good};
    use crate::domain::directory::{Bind, Source, TlsIdentity};

    #[test]
    fn binds() {
        ldap(
            "bind_dn = \"cn=x\"",
            &[
                "6:11: `bind_dn` needs `bind_password_file` = add bind_password_file = \"/etc/seatkeeper/corp.password\", or leave out both to bind anonymously",
            ],
        );
        ldap("bind_password_file = \"x\"", &["6:22: `bind_password_file` needs `bind_dn`"]);
        ldap(
            "bind_dn = \"cn=x;y\"\nbind_password_file = \"$X/y\"",
            &[
                "6:16: `bind_dn` is not a DN: this character must be written with a backslash = write it like bind_dn = \"cn=seatkeeper,dc=example,dc=org\"",
                "7:23: `bind_password_file`: this variable is not expanded here",
            ],
        );
    }

    const TLS: &str = "tls = { starttls = true, cert_file = \"c\", key_file = \"k\" }";

    #[test]
    fn methods_and_what_they_need() {
        ldap(
            "bind = \"external\"",
            &[
                "6:8: bind = \"external\" needs a certificate = add cert_file = \"/etc/seatkeeper/corp-client.pem\" and key_file = \"$CREDENTIALS_DIRECTORY/corp-client.key\" to [directory.ldap.tls]",
            ],
        );
        ldap("bind = \"simple\"", &["6:8: a simple bind needs `bind_dn` and `bind_password_file`"]);
        ldap("bind = \"extrenal\"", &["6:8: `bind` can't be `extrenal` = did you mean \"external\"?"]);
        for method in ["external", "anonymous"] {
            ldap(
                &format!("bind = \"{method}\"\nbind_dn = \"cn=x\"\n{TLS}"),
                &[&format!(
                    "7:11: `bind_dn` has no effect with bind = `{method}` = leave it out, or write bind = \"simple\""
                )],
            );
        }
        ldap(
            "tls = { starttls = true, cert_file = \"c\" }",
            &[
                "6:38: `cert_file` needs `key_file` = add key_file = \"$CREDENTIALS_DIRECTORY/corp-client.key\"",
            ],
        );
        ldap("tls = { starttls = true, key_file = \"k\" }", &["6:37: `key_file` needs `cert_file`"]);
        let mixed = LDAP.replace("[\"ldap://a\"]", "[\"ldaps://a\", \"ldap://b\"]");
        check(
            &format!("{mixed}tls = {{ cert_file = \"c\", key_file = \"k\" }}"),
            &[
                "4:22: this server would not see the certificate that the daemon binds with = write ldaps://, or starttls = true",
            ],
        );
        ldap(
            "tls = { cert_file = \"c\", key_file = \"k\" }\nbind = \"anonymous\"",
            &["6:21: `cert_file` has no effect: no URL is encrypted"],
        );
    }

    #[test]
    fn the_keys_say_what_is_meant() {
        let read = |keys: &str| {
            let directories = decode_good(&format!("{LDAP}{keys}")).directories;
            match directories.into_iter().next().unwrap().source {
                Source::Ldap(ldap) => (ldap.bind, ldap.tls.identity),
                Source::Ldif(_) => panic!("no server"),
            }
        };
        let files = TlsIdentity { cert_file: "/base/c".into(), key_file: "/base/k".into() };
        assert_eq!(read(""), (Bind::Anonymous, None));
        assert_eq!(read(TLS), (Bind::External, Some(files.clone())));
        assert_eq!(read(&format!("bind = \"anonymous\"\n{TLS}")), (Bind::Anonymous, Some(files.clone())));
        let simple = read(&format!("bind_dn = \"cn=x\"\nbind_password_file = \"p\"\n{TLS}"));
        assert!(matches!(simple, (Bind::Simple(_), Some(identity)) if identity == files));
    }
}
