//! What the tests of this module share, and tests of whole files.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::schema::{Decoded, decode};
use super::*;

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
    = help: chmod o= PATH/corp.password, and change the password

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
