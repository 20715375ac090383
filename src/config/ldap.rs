//! What is particular to `[[directory.ldap]]`: servers, base, bind, filter, encryption, deadlines.

use std::time::Duration;

use super::bind;
use super::reader::{Section, Text};
use crate::domain::course::Choice;
use crate::domain::directory::{LdapSource, LdapUrl, Lists, Source, Timeouts};
use crate::domain::ldap_text::Dn;
use crate::domain::mapping::Preset;

/// Nothing answers faster.
const MIN_TIMEOUT: Duration = Duration::from_millis(10);

const PAGE_SIZE: u32 = 1000;
const MAX_PAGE_SIZE: u64 = 100_000;

const EXAMPLE_GROUP: &str = r#""cn=mail,ou=groups,dc=example,dc=org""#;

const EXAMPLE_LISTS: &str = r#""(&(objectClass=groupOfNames)(mail=*))""#;

/// The keys that `[[directory.ldap]]` has for itself.
pub(super) fn source(section: &mut Section<'_>) -> Option<Source> {
    let urls = section.require("urls", r#"["ldaps://ldap1.example.org"]"#).map(|value| value.texts());
    let urls: Vec<_> = urls.unwrap_or_default().into_iter().map(|text| (url(&text), text)).collect();
    let base_dn = section.require("base_dn", r#""ou=people,dc=example,dc=org""#);
    let base_dn = base_dn.and_then(|value| value.text()).and_then(|text| text.dn());
    let preset = preset(section);
    let filter = section.take("filter", r#""(objectClass=inetOrgPerson)""#);
    let filter = filter.and_then(|value| value.text()).and_then(|text| text.filter());
    let lists = lists(section);
    let required_group = required_group(section);
    let sync = sync(section);
    let page_size = section.take("page_size", "1000").and_then(|value| value.integer(1..=MAX_PAGE_SIZE));
    let page_size = page_size.and_then(|size| u32::try_from(size).ok()).unwrap_or(PAGE_SIZE);
    let tls = bind::tls(section, &urls);
    let bind = bind::bind(section, &tls, &urls);
    let timeouts = timeouts(section);
    let urls = urls.into_iter().map(|(url, _)| url).collect::<Option<Vec<LdapUrl>>>()?;
    Some(Source::Ldap(LdapSource {
        urls,
        base_dn: base_dn?,
        bind: bind?,
        sync: sync?,
        preset,
        filter,
        lists: lists?,
        required_group: required_group?,
        tls,
        timeouts,
        page_size,
    }))
}

fn url(text: &Text<'_>) -> Option<LdapUrl> {
    let url = LdapUrl::parse(text.text).ok();
    if url.is_none() {
        text.wrong(
            "not the URL of an LDAP server",
            "write it like ldaps://ldap1.example.org, ldap://ldap1.example.org:389 or srv:example.org, without a path or a user",
        );
    }
    url
}

fn preset(section: &mut Section<'_>) -> Option<Preset> {
    let presets = [Preset::OpenLdap, Preset::Ds389, Preset::FreeIpa, Preset::ActiveDirectory];
    let mut words: Vec<_> = presets.into_iter().map(|preset| (preset.as_str(), Some(preset))).collect();
    words.push(("auto", None));
    section.choice("preset", r#""openldap""#, &words, None)
}

/// `None` where it is there and is not a filter.
fn lists(section: &mut Section<'_>) -> Option<Lists> {
    let Some(value) = section.take("list_filter", EXAMPLE_LISTS) else { return Some(Lists::Preset) };
    let text = value.text()?;
    if text.text.is_empty() { Some(Lists::Unread) } else { text.condition().map(Lists::Matching) }
}

/// `None` where it is there and is no DN: with a mistake in it everybody would be mapped.
fn required_group(section: &mut Section<'_>) -> Option<Option<Dn>> {
    let Some(value) = section.take("required_group", EXAMPLE_GROUP) else { return Some(None) };
    value.text().and_then(|text| text.dn()).map(Some)
}

fn sync(section: &mut Section<'_>) -> Option<Choice> {
    let Some(text) = section.take("sync", r#""auto""#).and_then(|value| value.text()) else {
        return Some(Choice::Auto);
    };
    text.choice(&[
        ("auto", Choice::Auto),
        ("syncrepl", Choice::SyncRepl),
        ("dirsync", Choice::DirSync),
        ("sweep", Choice::Sweep),
    ])
}

fn timeouts(section: &mut Section<'_>) -> Timeouts {
    let defaults = Timeouts::default();
    let mut section = section.table("timeouts", "[directory.ldap.timeouts]");
    let timeouts = Timeouts {
        connect: section.duration("connect", r#""5s""#, MIN_TIMEOUT, defaults.connect),
        read: section.duration("read", r#""30s""#, MIN_TIMEOUT, defaults.read),
        sweep: section.duration("sweep", r#""1h""#, MIN_TIMEOUT, defaults.sweep),
    };
    section.finish();
    timeouts
}

#[cfg(test)]
mod tests {
    use crate::config::directories::tests::{LDAP, changed, ldap};
    use crate::config::tests::check;

    #[test]
    fn urls_and_encryption() {
        let not_a_url = [
            "4:9: not the URL of an LDAP server = write it like ldaps://ldap1.example.org, ldap://ldap1.example.org:389 or srv:example.org, without a path or a user",
        ];
        for bad in ["a", "http://a", "ldap://u:secret@a", "ldap://a/dc=x"] {
            changed("ldap://a", bad, &not_a_url);
        }
        changed("[\"ldap://a\"]", "[]", &["4:8: `urls` is empty"]);
        changed(
            "[\"ldap://a\"]",
            "\"ldap://a\"",
            &[
                "4:8: `urls` must be an array of strings, not a string = write it like urls = [\"ldaps://ldap1.example.org\"]",
            ],
        );
        let mixed = LDAP.replace("[\"ldap://a\"]", "[\"ldap://a\", \"ldaps://b\"]");
        check(
            &format!("{mixed}tls.starttls = true"),
            &["4:21: an ldaps:// URL can't be used with starttls = true"],
        );
        ldap(
            "tls.starttls = \"yes\"",
            &["6:16: `starttls` must be true or false, not a string = write it like starttls = true"],
        );
        ldap(
            "tls.ca_file = \"x\"",
            &[
                "6:15: `ca_file` has no effect: no URL is encrypted = write ldaps:// in urls, or starttls = true",
            ],
        );
    }

    #[test]
    fn dns_and_filters_are_marked_at_the_character() {
        changed("dc=a", "example.org", &["5:23: `base_dn` is not a DN: expected = after the attribute"]);
        changed("dc=a", "", &["5:12: `base_dn` is not a DN: expected an attribute such as dc, ou or uid"]);
        changed(
            "dc=a",
            "ou=ä,ou=ö;x",
            &["5:21: `base_dn` is not a DN: this character must be written with a backslash"],
        );
        changed(
            "dc=a",
            "cn=a\\\\,b;c",
            &["5:11: `base_dn` is not a DN: this character must be written with a backslash"],
        );
        ldap(
            "filter = \"(&(a=b)(c=d)\"",
            &[
                "6:23: `filter` is not a filter: expected ) = write it like filter = \"(objectClass=inetOrgPerson)\"",
            ],
        );
        ldap(
            "list_filter = 'mail=*'",
            &[
                "6:16: `list_filter` is not a filter that is evaluated here: expected ( = write it like list_filter = \"(&(objectClass=groupOfNames)(mail=*))\"",
            ],
        );
        ldap("list_filter = 1", &["6:15: `list_filter` must be a string, not a whole number"]);
        ldap("list_filter = ''", &[]);
        ldap("filter = 'mail=*'", &["6:11: `filter` is not a filter: expected ("]);
        ldap(
            "required_group = \"mail\"",
            &[
                "6:23: `required_group` is not a DN: expected = after the attribute = write it like required_group = \"cn=mail,ou=groups,dc=example,dc=org\"",
            ],
        );
    }

    #[test]
    fn words_and_numbers() {
        ldap(
            "preset = \"ldif\"",
            &["6:10: `preset` can't be `ldif` = write openldap, 389ds, freeipa, active-directory or auto"],
        );
        ldap(
            "preset = \"active_directory\"",
            &["6:10: `preset` can't be `active_directory` = did you mean \"active-directory\"?"],
        );
        ldap("sync = \"dirsync\"", &[]);
        ldap("sync = \"never\"", &["6:8: `sync` can't be `never` = write auto, syncrepl, dirsync or sweep"]);
        ldap("page_size = 0", &["6:13: `page_size` must be 1 to 100000 = write it like page_size = 1000"]);
        ldap("seat_limit = -5", &["6:14: `seat_limit` must be 0 or more = write it like seat_limit = 50"]);
        ldap("poll_every = \"999ms\"", &["6:14: `poll_every` is too short = write 1s or more"]);
        ldap("timeouts.read = \"0s\"", &["6:17: `read` is too short = write 10ms or more"]);
    }
}
