//! `[[directory.ldap]]` and `[[directory.ldif]]`.

use std::time::Duration;

use super::ldap;
use super::reader::{Section, Text};
use super::values::Unique;
use crate::domain::brake::Brake;
use crate::domain::directory::{Attributes, Directory, LdifSource, Source};
use crate::domain::name::Domain;

const LDAP_POLL: Duration = Duration::from_secs(60);

/// Looking at a file costs next to nothing.
const LDIF_POLL: Duration = Duration::from_secs(5);

/// More often, a sweep would do nothing but load the directory.
const MIN_POLL: Duration = Duration::from_secs(1);

/// Time between two readings of everything, where changes come by themselves.
const FULL_SYNC: Duration = Duration::from_secs(24 * 3600);

/// More often, following changes would save nothing.
const MIN_FULL_SYNC: Duration = Duration::from_secs(1);

/// A directory's name stands in file names, log lines and URLs.
const MAX_NAME: usize = 64;

const EXAMPLE_SEATLESS: &str = r#""(employeeType=shared)""#;

/// All directories, in the order of the file; `None` where one has a mistake.
pub(super) fn read(root: &mut Section<'_>) -> Option<Vec<Directory>> {
    let mut section = root.table("directory", "[[directory.ldap]] or [[directory.ldif]]");
    let mut names = Unique::new("a directory named", "give every directory a name of its own");
    let ldap = section.tables("ldap", "[[directory.ldap]]").into_iter().map(|table| (true, table));
    let ldif = section.tables("ldif", "[[directory.ldif]]").into_iter().map(|table| (false, table));
    let mut tables: Vec<(bool, Section<'_>)> = ldap.chain(ldif).collect();
    tables.sort_by_key(|(_, table)| table.span().start);
    section.finish_kinds("directory kind");

    let mut all = Some(Vec::new());
    for (is_ldap, table) in tables {
        let directory = read_one(is_ldap, table, &mut names);
        all = all.zip(directory).map(|(mut all, directory)| {
            all.push(directory);
            all
        });
    }
    all
}

/// What both kinds have, and around it what only one has.
fn read_one(is_ldap: bool, mut section: Section<'_>, names: &mut Unique) -> Option<Directory> {
    let name = section.require("name", r#""corp""#).and_then(|value| value.text());
    let name = name.and_then(|text| directory_name(&text, names));
    let domains = domains(&mut section);
    let foreign_names = flag(&mut section, "foreign_names");
    let login_is_address = flag(&mut section, "login_is_address");
    let moved_from = moved_from(&mut section, name.as_deref());
    let source = if is_ldap { ldap::source(&mut section) } else { ldif_source(&mut section) };
    let poll = if is_ldap { LDAP_POLL } else { LDIF_POLL };
    let poll_every = section.duration("poll_every", r#""1m""#, MIN_POLL, poll);
    let seat_limit = section.take("seat_limit", "50").and_then(|value| value.integer(0..=u64::MAX));
    let seatless = section.take("seatless_filter", EXAMPLE_SEATLESS).map(|value| value.text()?.condition());
    let attributes = attributes(&mut section, is_ldap);
    let title = if is_ldap { "[directory.ldap.brake]" } else { "[directory.ldif.brake]" };
    let brake = brake(&mut section, title, Brake::default());
    let full_sync_every = if is_ldap {
        section.duration("full_sync_every", r#""24h""#, MIN_FULL_SYNC, FULL_SYNC)
    } else {
        section.refuse("full_sync_every", "a file is always read as a whole: write poll_every");
        FULL_SYNC
    };
    section.finish();
    let domains = domains?;
    let seatless = match seatless {
        // With a mistake in it, people would need seats.
        Some(condition) => Some(condition?),
        None => None,
    };
    Some(Directory {
        name: name?,
        domain: domains.first()?.clone(),
        domains,
        foreign_names,
        login_is_address,
        moved_from,
        seat_limit,
        seatless,
        brake,
        poll_every,
        full_sync_every,
        attributes,
        source: source?,
    })
}

/// A name that a directory can have.
fn checked_name<'a>(text: &Text<'a>) -> Option<&'a str> {
    let name = text.text;
    let is_good = (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !is_good {
        text.wrong(
            "not a name for a directory",
            format!("write 1 to {MAX_NAME} letters, digits, `.`, `_` and `-`, the first no `.` and no `-`"),
        );
    }
    is_good.then_some(name)
}

/// The names of other directories. They may be configured or not: those of a directory that is not are moved anyway.
fn moved_from(section: &mut Section<'_>, name: Option<&str>) -> Vec<String> {
    let Some(value) = section.take("moved_from", r#"["old"]"#) else { return Vec::new() };
    let mut names = Vec::new();
    for text in &value.texts() {
        let Some(old) = checked_name(text) else { continue };
        if Some(old) == name {
            text.wrong(
                "`moved_from` names the directory itself",
                "name the directory that its users come from",
            );
        }
        names.push(old.to_owned());
    }
    names
}

fn directory_name(text: &Text<'_>, names: &mut Unique) -> Option<String> {
    let name = checked_name(text)?;
    // The command line has `sync DIRECTORY` and `sync approve DIRECTORY`.
    if name == "approve" {
        text.wrong("a directory can't be named `approve`, which is a command", text.like());
        return None;
    }
    names.add(name, text);
    Some(name.to_owned())
}

/// True by default.
fn flag(section: &mut Section<'_>, key: &'static str) -> bool {
    section.take(key, "false").and_then(|value| value.boolean()).unwrap_or(true)
}

/// `domain` for one, `domains` for several.
fn domains(section: &mut Section<'_>) -> Option<Vec<Domain>> {
    let Some(value) = section.take("domains", r#"["example.org", "alias.example"]"#) else {
        let domain = section.require("domain", r#""example.org""#)?.text()?;
        return Some(vec![domain.domain()?]);
    };
    if let Some(one) = section.take("domain", r#""example.org""#) {
        one.wrong(
            "`domain` and `domains` exclude each other",
            "write all domains into `domains`, the first for bare logins",
        );
        return None;
    }
    let texts = value.texts();
    let mut unique = Unique::new("the domain", "write each domain once");
    let checked: Vec<Option<Domain>> = texts.iter().map(|text| unique_domain(text, &mut unique)).collect();
    checked.into_iter().collect()
}

fn unique_domain(text: &Text<'_>, unique: &mut Unique) -> Option<Domain> {
    let domain = text.domain()?;
    unique.add(domain.as_str(), text);
    Some(domain)
}

fn ldif_source(section: &mut Section<'_>) -> Option<Source> {
    let file = section.require("file", r#""people.ldif""#)?.text()?.path()?;
    Some(Source::Ldif(LdifSource { file }))
}

fn attributes(section: &mut Section<'_>, is_ldap: bool) -> Attributes {
    let title = if is_ldap { "[directory.ldap.attributes]" } else { "[directory.ldif.attributes]" };
    let mut section = section.table("attributes", title);
    let mut names = |key, example| {
        let texts = section.take(key, example)?.one_or_more_texts();
        Some(texts.iter().filter_map(attribute).collect())
    };
    let attributes = Attributes {
        login: names("login", r#""uid""#),
        mail: names("mail", r#"["mail", "mailAlternateAddress"]"#),
        name: names("name", r#""displayName""#),
    };
    section.finish();
    attributes
}

/// A name or an OID with options (RFC 4512 section 2.5).
fn attribute(text: &Text<'_>) -> Option<String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';');
    if text.text.is_empty() {
        text.wrong_form(format!("`{}` holds an empty attribute name", text.key));
        return None;
    }
    if let Some((at, c)) = text.text.char_indices().find(|(_, c)| !is_good(*c)) {
        let message = format!("`{}`: this character can't be in an attribute name", text.key);
        text.wrong_at(at..at + c.len_utf8(), message, text.like());
        return None;
    }
    Some(text.text.to_owned())
}

/// The table `brake` of a directory, or of the seats.
pub(super) fn brake(section: &mut Section<'_>, title: &'static str, defaults: Brake) -> Brake {
    let mut section = section.table("brake", title);
    let percent = section.take("max_removals_percent", "10").and_then(|value| value.integer(0..=100));
    let min_value = section.take("min_removals", "3");
    let min = min_value.as_ref().and_then(|value| value.integer(0..=u64::MAX));
    let max_value = section.take("max_removals", "500");
    let max = max_value.as_ref().and_then(|value| value.integer(0..=u64::MAX));
    section.finish();
    let brake = Brake {
        max_removals_percent: percent
            .and_then(|percent| u8::try_from(percent).ok())
            .unwrap_or(defaults.max_removals_percent),
        min_removals: min.unwrap_or(defaults.min_removals),
        max_removals: max.unwrap_or(defaults.max_removals),
    };
    if brake.min_removals > brake.max_removals
        && let Some(value) = max_value.or(min_value)
    {
        let Brake { min_removals, max_removals, .. } = brake;
        value.wrong(
            format!("`min_removals` ({min_removals}) is more than `max_removals` ({max_removals})"),
            "write a max_removals that is not below min_removals",
        );
    }
    brake
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::tests::{check, decode_good};
    use crate::domain::directory::{Bind, LdapSource, LdapUrl, Lists, Timeouts, Tls};
    use crate::domain::filter::Condition;
    use crate::domain::ldap_text::Dn;
    use crate::domain::mapping::Preset;

    /// Five lines, so that what is added begins on line 6.
    pub(in crate::config) const LDAP: &str = "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\n\
                        urls = [\"ldap://a\"]\nbase_dn = \"dc=a\"\n";

    pub(in crate::config) fn ldap(added: &str, expected: &[&str]) {
        check(&format!("{LDAP}{added}"), expected);
    }

    pub(in crate::config) fn changed(from: &str, to: &str, expected: &[&str]) {
        check(&LDAP.replace(from, to), expected);
    }

    #[test]
    fn missing_keys() {
        check(
            "[[directory.ldap]]\n[[directory.ldif]]",
            &[
                "1:1: [[directory.ldap]] has no `name` = add name = \"corp\"",
                "1:1: [[directory.ldap]] has no `domain` = add domain = \"example.org\"",
                "1:1: [[directory.ldap]] has no `urls` = add urls = [\"ldaps://ldap1.example.org\"]",
                "1:1: [[directory.ldap]] has no `base_dn` = add base_dn = \"ou=people,dc=example,dc=org\"",
                "2:1: [[directory.ldif]] has no `name`",
                "2:1: [[directory.ldif]] has no `domain`",
                "2:1: [[directory.ldif]] has no `file` = add file = \"people.ldif\"",
            ],
        );
    }

    #[test]
    fn unknown_keys() {
        ldap("pol_every = \"1m\"", &["6:1: unknown key `pol_every` = did you mean `poll_every`?"]);
        ldap(
            "bind_password = \"hunter2\"",
            &[
                "6:1: unknown key `bind_password` = write the password into a file that only the daemon can read, and name it: bind_password_file = \"…\"",
            ],
        );
        ldap("tls.cafile = \"x\"", &["6:5: unknown key `cafile` = did you mean `ca_file`?"]);
        ldap(
            "[directory.ldap.brake]\nmax = 1",
            &["7:1: unknown key `max` = known here: max_removals_percent, min_removals, max_removals"],
        );
        ldap(
            "[directory.ldap.timeouts]\nconect = \"1s\"",
            &["7:1: unknown key `conect` = did you mean `connect`?"],
        );
        ldap(
            "[directory.ldap.attributes]\nemail = \"mail\"",
            &["7:1: unknown key `email` = did you mean `mail`?"],
        );
        check("[[directory.ladp]]", &["1:13: unknown directory kind `ladp` = did you mean `ldap`?"]);
        check("[[directory.sql]]", &["1:13: unknown directory kind `sql` = known here: ldap, ldif"]);
        check(
            "[[directory]]\ntype = \"ldap\"",
            &[
                "1:1: `directory` must be a table, not an array = write it as [[directory.ldap]] or [[directory.ldif]]",
            ],
        );
    }

    #[test]
    fn names_and_domains() {
        let not_a_name = [
            "2:8: not a name for a directory = write 1 to 64 letters, digits, `.`, `_` and `-`, the first no `.` and no `-`",
        ];
        for bad in ["", ".a", "-a", "a/b", "a b", "ä", &"x".repeat(65)] {
            changed("corp", bad, &not_a_name);
        }
        changed("corp", "approve", &["2:8: a directory can't be named `approve`, which is a command"]);
        changed(
            "example.org",
            "@example.org",
            &["3:10: `@example.org` is not a mail domain = write it like domain = \"example.org\""],
        );
        let second = "[[directory.ldif]]\nname = \"corp\"\ndomain = \"EXAMPLE.org\"\nfile = \"x\"";
        ldap(
            second,
            &["7:8: a directory named `corp` is on line 2 already = give every directory a name of its own"],
        );
    }

    #[test]
    fn directories_that_users_come_from() {
        let moved = |names: &str| format!("moved_from = {names}");
        let directories = decode_good(&format!("{LDAP}{}", moved(r#"["old", "older"]"#))).directories;
        assert_eq!(directories[0].moved_from, ["old", "older"]);
        ldap(&moved("\"old\""), &["6:14: `moved_from` must be an array of strings, not a string"]);
        ldap(&moved("[\"a/b\"]"), &["6:15: not a name for a directory"]);
        ldap(
            &moved("[\"corp\"]"),
            &["6:15: `moved_from` names the directory itself = name the directory that its users come from"],
        );
    }

    #[test]
    fn several_domains() {
        let several =
            |domains: &str| LDAP.replace("domain = \"example.org\"", &format!("domains = {domains}"));
        let directories = decode_good(&several(r#"["b.org", "a.org"]"#)).directories;
        let names: Vec<&str> = directories[0].domains.iter().map(Domain::as_str).collect();
        assert_eq!((names, directories[0].domain.as_str()), (vec!["b.org", "a.org"], "b.org"));
        check(
            &several("[]"),
            &["3:11: `domains` is empty = write it like domains = [\"example.org\", \"alias.example\"]"],
        );
        check(&several("\"a.org\""), &["3:11: `domains` must be an array of strings, not a string"]);
        check(&several("[\"a.org\", \"@\"]"), &["3:21: `@` is not a mail domain"]);
        check(
            &several("[\"a.org\", \"a.org\"]"),
            &["3:21: the domain `a.org` is on line 3 already = write each domain once"],
        );
        ldap("domains = [\"b.org\"]", &["3:10: `domain` and `domains` exclude each other"]);
        ldap("foreign_names = 1", &["6:17: `foreign_names` must be true or false, not a whole number"]);
    }

    #[test]
    fn a_filter_that_is_evaluated_here() {
        let shared = decode_good(&format!("{LDAP}seatless_filter = \"(employeeType=shared*)\"")).directories;
        let rules = shared[0].rules(Preset::OpenLdap);
        assert_eq!(rules.seatless.as_ref().map(Condition::as_str), Some("(employeeType=shared*)"));
        assert!(rules.attributes().contains(&"employeeType"));
        ldap(
            "seatless_filter = \"(a=b\"",
            &[
                "6:24: `seatless_filter` is not a filter that is evaluated here: expected ) = write it like seatless_filter = \"(employeeType=shared)\"",
            ],
        );
        ldap(
            "seatless_filter = \"(cn~=x)\"",
            &[
                "6:23: `seatless_filter` is not a filter that is evaluated here: ~= can't be evaluated: write = with asterisks",
            ],
        );
        ldap("seatless_filter = 1", &["6:19: `seatless_filter` must be a string, not a whole number"]);
        ldap(
            "seatless_filter = ''",
            &["6:20: `seatless_filter` is not a filter that is evaluated here: expected ("],
        );
    }

    #[test]
    fn brakes() {
        ldap(
            "brake.max_removals_percent = 101",
            &["6:30: `max_removals_percent` must be 0 to 100 = write it like max_removals_percent = 10"],
        );
        ldap(
            "brake = { min_removals = 9, max_removals = 8 }",
            &[
                "6:44: `min_removals` (9) is more than `max_removals` (8) = write a max_removals that is not below min_removals",
            ],
        );
        ldap("brake.min_removals = 501", &["6:22: `min_removals` (501) is more than `max_removals` (500)"]);
    }

    #[test]
    fn attributes_are_checked() {
        ldap(
            "attributes.login = \"\"",
            &["6:20: `login` holds an empty attribute name = write it like login = \"uid\""],
        );
        ldap("attributes.login = []", &["6:20: `login` is empty"]);
        ldap(
            "attributes.mail = [\"mail\", \"e mail\"]",
            &["6:30: `mail`: this character can't be in an attribute name"],
        );
        ldap(
            "attributes.name = 1",
            &["6:19: `name` must be a string or an array of strings, not a whole number"],
        );
    }

    #[test]
    fn a_small_directory_has_the_defaults() {
        let directories = decode_good(LDAP).directories;
        let expected = Directory {
            name: "corp".to_owned(),
            domain: Domain::parse("example.org").unwrap(),
            domains: vec![Domain::parse("example.org").unwrap()],
            foreign_names: true,
            login_is_address: true,
            moved_from: Vec::new(),
            seat_limit: None,
            seatless: None,
            brake: Brake::default(),
            poll_every: Duration::from_secs(60),
            attributes: Attributes::default(),
            full_sync_every: FULL_SYNC,
            source: Source::Ldap(LdapSource {
                sync: crate::domain::course::Choice::Auto,
                urls: vec![LdapUrl::parse("ldap://a").unwrap()],
                base_dn: Dn::parse("dc=a").unwrap(),
                bind: Bind::Anonymous,
                preset: None,
                filter: None,
                lists: Lists::Preset,
                required_group: None,
                tls: Tls::default(),
                timeouts: Timeouts::default(),
                page_size: 1000,
            }),
        };
        assert_eq!(directories, [expected]);
    }

    #[test]
    fn directories_keep_their_order() {
        let ldif = "[[directory.ldif]]\nname = \"NAME\"\ndomain = \"NAME.example\"\nfile = \"../NAME.ldif\"\n\
                    attributes = { login = \"uid\", mail = [\"mail;x-a\", \"2.5.4.3\"] }\n";
        let (first, last) = (ldif.replace("NAME", "a"), ldif.replace("NAME", "z"));
        let directories = decode_good(&format!("{first}{LDAP}{last}")).directories;
        let names: Vec<&str> = directories.iter().map(|directory| directory.name.as_str()).collect();
        assert_eq!(names, ["a", "corp", "z"]);
        let Some(first) = directories.first() else { panic!("none") };
        assert_eq!(first.poll_every, Duration::from_secs(5));
        assert_eq!(first.source, Source::Ldif(LdifSource { file: Path::new("/base/../a.ldif").to_owned() }));
        assert_eq!(first.attributes.login, Some(vec!["uid".to_owned()]));
        assert_eq!(first.attributes.mail, Some(vec!["mail;x-a".to_owned(), "2.5.4.3".to_owned()]));
        assert_eq!(first.attributes.name, None);
    }
}
