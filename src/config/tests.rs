//! What the tests of this module share, and tests of whole files.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::schema::{Decoded, decode};
use super::*;
use crate::domain::directory::Source;
use crate::domain::mapping::{Preset, Rules};

pub(super) fn decode_with(text: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Decoded {
    decode(text, Path::new("/base"), env)
}

pub(super) fn decode_good(text: &str) -> Config {
    let decoded = decode_with(text, &|_| None);
    decoded.config.unwrap_or_else(|| panic!("{text}\n{:#?}", decoded.found))
}

/// Decodes a text with mistakes. Each expected one is `line:column: message`, or that and ` = help`.
pub(super) fn check(text: &str, expected: &[&str]) {
    let mut found = decode_with(text, &|_| None).found;
    found.sort_by_key(|mistake| mistake.span.start);
    let shown: Vec<String> = found
        .into_iter()
        .map(|mistake| {
            let Mistake { place, message, help, .. } = mistake.into_mistake(Path::new(""), text);
            let place = place.unwrap();
            format!("{}:{}: {message} = {help}", place.line, place.column)
        })
        .collect();
    let is_like = |shown: &String, expected: &&str| {
        shown == expected || shown.strip_prefix(expected).is_some_and(|rest| rest.starts_with(" = "))
    };
    let same = shown.len() == expected.len() && shown.iter().zip(expected).all(|(s, e)| is_like(s, e));
    assert!(same, "{text}\nfound: {shown:#?}\nexpected: {expected:#?}");
    for text in shown {
        assert!(!text.contains(['\n', '\u{1b}']) && !text.contains(". "), "{text}");
    }
}

fn write(folder: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn many_mistakes_are_shown_at_once() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "corp.password", "hunter2\n", 0o644);
    let path = write(
        folder.path(),
        "seatkeeper.toml",
        r#"stat_dir = "/var/lib/seatkeeper"

[license]
seats = "many"

[[directory.ldap]]
name = "corp"
urls = ["ldaps://ldap1.example.org"]
base_dn = "ou=people,dc=example;dc=org"
bind_dn = "cn=seatkeeper,dc=example,dc=org"
bind_password_file = "corp.password"
bind_password = "hunter2"
poll_every = "1 minit"
"#,
        0o644,
    );
    let expected = r#"PATH/seatkeeper.toml:1:1: unknown key `stat_dir`
   |
 1 | stat_dir = "/var/lib/seatkeeper"
   | ^^^^^^^^
   = help: did you mean `state_dir`?

PATH/seatkeeper.toml:4:9: `seats` must be a whole number, not a string
   |
 4 | seats = "many"
   |         ^^^^^^
   = help: write it like seats = 25

PATH/seatkeeper.toml:6:1: [[directory.ldap]] has no `domain`
   |
 6 | [[directory.ldap]]
   | ^^^^^^^^^^^^^^^^^^
   = help: add domain = "example.org"

PATH/seatkeeper.toml:9:32: `base_dn` is not a DN: this character must be written with a backslash
   |
 9 | base_dn = "ou=people,dc=example;dc=org"
   |                                ^
   = help: write it like base_dn = "ou=people,dc=example,dc=org"

PATH/seatkeeper.toml:11:22: every user of this machine has access to PATH/corp.password (mode 0644)
    |
 11 | bind_password_file = "corp.password"
    |                      ^^^^^^^^^^^^^^^
    = help: chmod o= PATH/corp.password, and change what is in it

PATH/seatkeeper.toml:12:1: unknown key `bind_password`
    |
 12 | bind_password = …
    | ^^^^^^^^^^^^^
    = help: write the password into a file that only the daemon can read, and name it: bind_password_file = "…"

PATH/seatkeeper.toml:13:17: `poll_every`: unknown unit `minit`
    |
 13 | poll_every = "1 minit"
    |                 ^^^^^
    = help: write it like poll_every = "1m"; the units are ms, s, m, h, d and w"#;
    let shown = load(&path).unwrap_err().to_string();
    assert_eq!(shown.replace(&folder.path().display().to_string(), "PATH"), expected);
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    assert_eq!(
        load(&path).unwrap_err().to_string(),
        format!(
            "{}: can't read the configuration: No such file or directory (os error 2)\n  \
             = help: name the file with --config PATH or SEATKEEPER_CONFIG",
            path.display()
        )
    );
    assert!(load(folder.path()).unwrap_err().to_string().contains("Is a directory"));
}

#[test]
fn mistakes_without_end_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..150).map(|number| format!("unknown{number} = 1\n")).collect();
    let path = write(folder.path(), "a.toml", &text, 0o644);
    let ConfigError(mistakes) = load(&path).unwrap_err();
    assert_eq!(mistakes.len(), 101);
    assert_eq!(mistakes.last().map(|mistake| mistake.message.as_str()), Some("50 more mistakes"));
}

#[test]
fn a_file_that_is_not_utf8_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    fs::write(&path, b"# J\xc3\xbcrgen\n# J\xfcrgen\n[lgo]\n").unwrap();
    let shown = load(&path).unwrap_err().to_string();
    assert!(shown.contains("a.toml:2:4: the file is not UTF-8 text"), "{shown}");
    assert!(shown.contains("a.toml:3:2: unknown key `lgo`"), "{shown}");
}

#[test]
fn secrets_are_found_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "corp.password", "hunter2\n", 0o640);
    let text = "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [\"ldaps://a\"]\n\
                base_dn = \"dc=a\"\nbind_dn = \"cn=a\"\nbind_password_file = \"corp.password\"\n";
    let path = write(folder.path(), "a.toml", text, 0o644);
    assert_eq!(load(&path).unwrap().directories.len(), 1);
    fs::remove_file(folder.path().join("corp.password")).unwrap();
    let shown = load(&path).unwrap_err().to_string();
    assert!(shown.contains("a.toml:7:22: there is no file"), "{shown}");
}

fn example_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/seatkeeper.toml")
}

/// The example with every setting made: `#key = value` is a setting, `# text` is text.
fn full_example() -> String {
    let text = fs::read_to_string(example_path()).unwrap();
    text.lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
            _ => line,
        })
        // Not beside a signed licence, and not beside `domains`.
        .map(|line| if line == DECLARED_SEATS || line.starts_with(ONE_DOMAIN) { "#" } else { line })
        .fold(String::new(), |text, line| text + line + "\n")
}

const DECLARED_SEATS: &str = "seats = 25";
const ONE_DOMAIN: &str = "domain = ";

fn decode_full(text: &str) -> Decoded {
    decode_with(text, &|_| Some("/run/credentials".into()))
}

#[test]
fn the_example_loads_as_it_is_and_with_every_setting() {
    let plain = load(&example_path()).unwrap_or_else(|error| panic!("{error}"));
    let decoded = decode_full(&full_example());
    let full = decoded.config.unwrap_or_else(|| panic!("{:#?}", decoded.found));

    // What is written down as a default is the default.
    assert_eq!(plain.state_dir, full.state_dir);
    assert_eq!(plain.control_socket, full.control_socket);
    assert_eq!(plain.default_domain, full.default_domain);
    assert_eq!(plain.license.refresh_every, full.license.refresh_every);
    assert_eq!((plain.seat_limit, full.seat_limit, full.components.len()), (Some(25), None, 5));
    let Seats { take_on, removal_grace, .. } = plain.seats;
    assert_eq!((take_on, removal_grace), (full.seats.take_on, full.seats.removal_grace));
    assert_eq!(plain.log, full.log);
    let (written, examples) = full.listeners.split_at(plain.listeners.len());
    assert_eq!(plain.listeners, written);
    for example in examples {
        let (kind, bind) = (example.protocol.kind(), &example.bind);
        let needed = match kind {
            "nginx_auth" => {
                "backends = { imap = \"127.0.0.1:143\", pop3 = \"127.0.0.1:110\", smtp = \"127.0.0.1:587\" }"
            }
            _ => "",
        };
        let bare = decode_good(&format!("[[listen.{kind}]]\nbind = \"{bind}\"\n{needed}\n"));
        assert_eq!(bare.listeners.as_slice(), std::slice::from_ref(example));
    }
    let [plain] = plain.directories.as_slice() else { panic!("one directory") };
    let [ldap, ldif] = full.directories.as_slice() else { panic!("two directories") };
    assert_eq!((plain.brake, plain.poll_every), (ldap.brake, ldap.poll_every));
    assert_eq!((plain.brake, Duration::from_secs(5)), (ldif.brake, ldif.poll_every));
    let (Source::Ldap(plain), Source::Ldap(ldap)) = (&plain.source, &ldap.source) else { panic!("ldap") };
    assert_eq!((plain.timeouts, plain.page_size, plain.preset), (ldap.timeouts, ldap.page_size, ldap.preset));
    let filter = ldap.filter.as_ref().map(|filter| filter.as_str());
    assert_eq!(filter, Some(Preset::OpenLdap.default_filter()));
    let rules = full.directories.iter().zip([Preset::OpenLdap, Preset::Ldif]);
    for (directory, preset) in rules {
        let Rules { seatless, lists, .. } = directory.rules(preset);
        assert_eq!(
            directory.rules(preset),
            Rules { seatless, lists, ..Rules::new(preset, directory.domain.clone()) }
        );
    }
}

/// The help of an unknown key lists the known ones: each must stand in the example.
#[test]
fn the_example_has_every_key() {
    let text = full_example();
    let mut tables = 0;
    // The keys of this one are names.
    let is_fixed = |line: &&str| line.starts_with('[') && *line != "[components]";
    for header in text.lines().filter(is_fixed).chain([""]) {
        let stray = format!("{header}\nzzzzzzzzzzzz = 1\n");
        let changed = if header.is_empty() { stray + &text } else { text.replacen(header, &stray, 1) };
        let found = decode_full(&changed).found;
        let [mistake] = found.as_slice() else { panic!("{header}: {found:#?}") };
        let known = mistake.help.strip_prefix("known here: ").unwrap();
        let from = changed.find("zzzzzzzzzzzz").unwrap();
        let table = changed.get(from..).and_then(|rest| rest.split("\n\n\n").next()).unwrap();
        // Only a Unix socket has a mode.
        let is_tcp = table.lines().any(|line| line.starts_with("bind = ") && !line.contains("unix:"));
        for key in known.split(", ").filter(|key| !(is_tcp && *key == "socket_mode")) {
            let is_key = |line: &str| line.starts_with(&format!("{key} = "));
            let is_table = |line: &str| line.starts_with('[') && line.contains(key);
            let place = if header.is_empty() { changed.as_str() } else { table };
            let is_there = place.lines().any(|line| is_key(line) || is_table(line));
            let is_left_out = (header, key) == ("[license]", "seats") || key == "domain";
            assert!(is_there || is_left_out, "{header} {key}");
        }
        tables += 1;
    }
    assert_eq!(tables, 26);
    assert!(fs::read_to_string(example_path()).unwrap().lines().any(|line| line == DECLARED_SEATS));
    assert!(fs::read_to_string(example_path()).unwrap().lines().any(|line| line.starts_with(ONE_DOMAIN)));
}

proptest! {
    /// Whatever an editor leaves behind is decoded and shown without a panic, at a place that exists.
    #[test]
    fn a_damaged_file_is_shown(from in 0..9000_usize, length in 0..40_usize, written in "\\PC{0,6}|[\"'\\[\\]={}\\\\\n]{0,4}") {
        let mut text = full_example();
        let at = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let range = at(from)..at(from + length);
        text.replace_range(range, &written);
        let decoded = decode_full(&text);
        assert_eq!(decoded.config.is_some(), decoded.found.is_empty());
        for mistake in decoded.found {
            let place = mistake.clone().into_mistake(Path::new("a"), &text).place.unwrap();
            let line = text.split('\n').nth(place.line - 1).unwrap();
            assert!(place.column <= line.chars().count() + 1, "{mistake:?}");
        }
    }
}
