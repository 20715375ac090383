//! Holds the sources to the dependency directions that the crate's documentation promises, and files to a
//! length that one person holds in mind.
//!
//! Only names in code count: comments, literals and `#[cfg(test)]` items are taken out first. A macro that
//! makes a path out of pieces would escape.

#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The style asks for about 400 lines; a file's own tests stand at its end and come on top of them.
const MAX_LINES: usize = 600;

/// Crates that one module alone may name, so that what lies behind it can be changed.
const OWNED_CRATES: [(&str, &str); 2] = [("redb", "store"), ("ldap3", "directory")];

/// The modules of the crate that a module may name beside itself. One that isn't listed may name all.
const DIRECTIONS: [(&str, &[&str]); 14] = [
    ("domain", &[]),
    ("clock", &["domain"]),
    ("config", &["domain"]),
    ("store", &["clock", "domain"]),
    ("directory", &["domain"]),
    ("licensing", &["domain"]),
    ("issuer", &["store", "licensing", "net", "config", "admin", "cli", "domain"]),
    ("net", &["config"]),
    ("service", &["store", "clock", "domain"]),
    ("front", &["service", "net", "domain"]),
    ("admin", &["service", "net", "domain", "cli", "import"]),
    ("import", &["directory", "domain"]),
    ("cli", &[]),
    ("web", &["service", "net", "domain"]),
];

/// Crates that would bring I/O, tasks, logging or chance into the domain.
const IMPURE_CRATES: [&str; 12] = [
    "tokio",
    "tokio_util",
    "axum",
    "fastrand",
    "futures_util",
    "hyper",
    "hyper_util",
    "log",
    "rustls",
    "socket2",
    "tracing",
    "tower",
];

/// The same in the standard library.
const IMPURE_STD: [&str; 6] = ["env", "fs", "io", "net", "process", "thread"];

/// Addresses in `std::net` are plain data: they are in `core::net` too.
const PURE_NET: [&str; 5] = ["AddrParseError", "IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr"];

/// Clocks, whichever way they were imported; so is every `…::now`.
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];

/// A rule broken at a line of a file.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.rule)
    }
}

#[test]
fn sources_keep_the_directions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.iter().any(|(module, _)| module.first().is_some_and(|m| m == "domain")), "src was walked");
    let tests: BTreeSet<Vec<String>> =
        files.iter().flat_map(|(module, path)| test_modules(module, &code_of(&read(path)))).collect();
    let mut found = Vec::new();
    for (module, path) in &files {
        let text = read(path);
        let is_test = (0..=module.len()).any(|end| tests.contains(&module[..end]));
        let dependencies = if is_test { Vec::new() } else { check(module, &text) };
        let short = path.strip_prefix(&root).unwrap_or(path).display();
        found.extend(dependencies.iter().chain(&check_length(&text)).map(|v| format!("src/{short}:{v}")));
    }
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a directory, each with its module's path in the crate.
fn collect(directory: &Path, files: &mut Vec<(Vec<String>, PathBuf)>) {
    fn walk(directory: &Path, module: &[String], files: &mut Vec<(Vec<String>, PathBuf)>) {
        for entry in fs::read_dir(directory).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut inner = module.to_vec();
            if path.is_dir() {
                inner.push(name);
                walk(&path, &inner, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let is_parent = name == "mod" || module.is_empty() && (name == "lib" || name == "main");
                if !is_parent {
                    inner.push(name);
                }
                files.push((inner, path));
            }
        }
    }
    walk(directory, &[], files);
}

/// The dependency rules, over the text of the file that is the given module.
fn check(module: &[String], text: &str) -> Vec<Violation> {
    let code = without_tests(&code_of(text)).0;
    let tokens = tokens(&code);
    let top = module.first().map_or("", String::as_str);
    let mut found = Vec::new();
    for (line, path) in paths(&tokens) {
        let path = absolute(path, module);
        let segments: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Some(rule) = broken_rule(top, &segments) {
            found.push(Violation { line, rule });
        }
    }
    found
}

fn broken_rule(top: &str, path: &[&str]) -> Option<String> {
    let spelled = path.join("::");
    let first = path.first().copied().unwrap_or_default();
    if let Some((name, owner)) = OWNED_CRATES.iter().find(|(name, owner)| *name == first && *owner != top) {
        return Some(format!("only {owner} may name {name}, this is {spelled}"));
    }
    if let ["crate" | "seatkeeper", target, ..] = path
        && let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == top)
        && *target != top
        && !allowed.contains(target)
        // Modules are lower case; a type at the crate's root is no module, but a glob takes them all.
        && !target.starts_with(char::is_uppercase)
    {
        return Some(format!("{top} may not name {target}, this is {spelled}"));
    }
    if top != "domain" {
        return None;
    }
    let is_impure = match path {
        ["async" | "await"] => true,
        ["std", "net", name, ..] if PURE_NET.contains(name) => false,
        ["std", second, ..] => IMPURE_STD.contains(second),
        _ => IMPURE_CRATES.contains(&first),
    };
    let is_clock = path.iter().any(|segment| CLOCKS.contains(segment))
        || path.len() > 1 && path.last().is_some_and(|last| *last == "now");
    if is_clock {
        return Some(format!("time is a parameter in the domain, this is {spelled}"));
    }
    is_impure.then(|| format!("the domain is pure, this is {spelled}"))
}

fn check_length(text: &str) -> Vec<Violation> {
    let lines = text.lines().count();
    let rule = format!("{lines} lines, at most {MAX_LINES}: split the file");
    (lines > MAX_LINES).then_some(Violation { line: lines, rule }).into_iter().collect()
}

/// A path as from the crate's root: `super` and `self` at its start are resolved against the module.
fn absolute(path: Vec<String>, module: &[String]) -> Vec<String> {
    let is_relative = |segment: &&String| *segment == "super" || *segment == "self";
    let relative = path.iter().take_while(is_relative).count();
    if relative == 0 || path.len() == relative {
        return path;
    }
    let up = path[..relative].iter().filter(|segment| *segment == "super").count();
    let base = &module[..module.len().saturating_sub(up)];
    ["crate".to_owned()].iter().chain(base).chain(&path[relative..]).cloned().collect()
}

/// A word or a sign, with its line.
type Token = (usize, String);

/// The words of the code, `::`, and every other character that is no space.
fn tokens(code: &str) -> Vec<Token> {
    let mut found: Vec<Token> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                _ if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            if !first.is_whitespace() {
                found.push((number + 1, rest[..length].to_owned()));
            }
            rest = &rest[length..];
        }
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_') || token == "*"
}

/// Every path in the code, with the groups of `use` declarations multiplied out.
fn paths(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_word(&tokens[at].1) {
            at = read_path(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path, or one branch of a group; gives the position after it.
fn read_path(
    tokens: &[Token],
    start: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |(_, text)| text.as_str());
    let mut path = prefix.to_vec();
    let mut at = start;
    loop {
        if text(at) == "{" && at > start {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                at = if is_word(text(at)) { read_path(tokens, at, &path, found) } else { at + 1 };
            }
            return at + 1;
        }
        if !is_word(text(at)) {
            break;
        }
        // `self` at the end of a group's branch is the group itself.
        if prefix.is_empty() || text(at) != "self" || at != start {
            path.push(text(at).to_owned());
        }
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    found.push((tokens[start].0, path));
    at.max(start + 1)
}

/// The text with comments and literals blanked out; line breaks stay, so that lines keep their numbers.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match literal_or_comment(&chars, at) {
            Some(end) => end.min(chars.len()),
            None => {
                code.push(chars[at]);
                at += 1;
                continue;
            }
        };
        code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// Where the comment or literal ends that starts here, if one does.
fn literal_or_comment(chars: &[char], at: usize) -> Option<usize> {
    let char_at = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let after_word = at > 0 && (char_at(at - 1).is_alphanumeric() || char_at(at - 1) == '_');
    match (char_at(at), char_at(at + 1)) {
        ('/', '/') => Some(chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n)),
        ('/', '*') => Some(block_comment_end(chars, at)),
        ('"', _) => Some(string_end(chars, at)),
        ('\'', '\\') => Some(quote_end(chars, at, '\'')),
        // `'a'` is a character, `'a` a lifetime.
        ('\'', _) if char_at(at + 2) == '\'' => Some(at + 3),
        ('r', '"' | '#') if !after_word || matches!(char_at(at - 1), 'b' | 'c') => {
            raw_string_end(chars, at + 1)
        }
        _ => None,
    }
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut at) = (0, at);
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(chars: &[char], at: usize) -> usize {
    quote_end(chars, at, '"')
}

/// Behind the closing quote of a literal in which a backslash escapes.
fn quote_end(chars: &[char], at: usize, quote: char) -> usize {
    let mut at = at + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `hashes` is where the hashes or the quote start, behind the `r`; a raw identifier is no string.
fn raw_string_end(chars: &[char], hashes: usize) -> Option<usize> {
    let count = chars[hashes..].iter().take_while(|c| **c == '#').count();
    let open = hashes + count;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let is_end =
        |at: usize| chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= count;
    let end = (open + 1..chars.len()).find(|at| is_end(*at)).map_or(chars.len(), |at| at + 1 + count);
    Some(end)
}

/// The code without items under `#[cfg(test)]`, and the names of modules in other files that were among them.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut kept = String::new();
    let mut modules = Vec::new();
    while let Some(start) = rest.find(MARK) {
        let (before, item) = rest.split_at(start);
        kept.push_str(before);
        let end = item_end(item);
        let words = tokens(&item[MARK.len()..end]);
        if let Some([.., (_, keyword), (_, name), (_, semicolon)]) = words.get(..)
            && keyword == "mod"
            && semicolon == ";"
        {
            modules.push(name.clone());
        }
        kept.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, modules)
}

/// Where the item ends: at its closing brace, or at a semicolon outside of brackets.
fn item_end(item: &str) -> usize {
    let mut depth = 0_i32;
    for (at, c) in item.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return at;
        }
        if depth == 0 && matches!(c, '}' | ';') {
            return at + 1;
        }
    }
    item.len()
}

/// The modules in files of their own that a file declares for tests alone.
fn test_modules(module: &[String], code: &str) -> Vec<Vec<String>> {
    let names = without_tests(code).1;
    names.into_iter().map(|name| module.iter().cloned().chain([name]).collect()).collect()
}

/// The lines at which the text breaks a rule, were it the module of that path.
fn broken_lines(module: &str, text: &str) -> Vec<usize> {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    let mut lines: Vec<usize> = check(&module, text).into_iter().map(|violation| violation.line).collect();
    lines.dedup();
    lines
}

#[test]
fn violations_are_caught() {
    let cases: &[(&str, &str)] = &[
        ("front::http", "use redb::Database;"),
        ("store", "use ldap3::LdapConn;"),
        ("daemon", "fn f(db: &::redb::Database) {}"),
        ("daemon", "use redb as database;"),
        ("domain::seats", "use tokio::sync::mpsc;"),
        ("domain", "pub async fn f() {}"),
        ("domain", "fn f() { g().await }"),
        ("domain", "use std::time::Instant;"),
        ("domain", "use std::{collections::BTreeMap, time::{Duration, SystemTime}};"),
        ("domain", "fn f() { let now = Timestamp::now(); }"),
        ("domain", "fn f() { jiff::Zoned::now() }"),
        ("domain", "use std::{fmt, fs};"),
        ("domain", "use std::{fmt, io::{self, Write}};"),
        ("domain", "fn f(a: std::net::TcpStream) {}"),
        ("domain", "fn f() { tracing::info!(\"text\") }"),
        ("domain::seats", "use crate::store::Store;"),
        ("domain::seats", "use crate::{domain::user::User, store};"),
        ("domain::seats", "use super::super::config::Config;"),
        ("domain", "use super::config::Config;"),
        ("domain", "use crate::*;"),
        ("directory::ldap", "use crate::config::Limits;"),
        ("directory", "use crate::service::Admin;"),
        ("front::http", "use crate::store::ReadView;"),
        ("front::http", "fn f() { crate::daemon::stop() }"),
        ("store", "use crate::service::Admission;"),
        ("config", "use crate::directory::Driver;"),
        ("service", "use crate::front::Listener;"),
        ("admin", "use crate::store::ReadView;"),
        ("domain", "const C: char = '\"'; use std::fs; const D: char = '\"';"),
        ("domain", "fn f<'a>(x: &'a str) { std::fs::read(x) }"),
        ("domain", "#[cfg(not(test))] use std::fs;"),
        ("domain", "#[cfg(test)] mod tests { fn f() {} } use std::fs;"),
    ];
    for (module, text) in cases {
        assert_eq!(broken_lines(module, text), [1], "in {module}: {text}");
    }
    assert_eq!(broken_lines("domain", "/* one\n two */\n\nuse std::{\n    fmt,\n    io,\n};\n"), [6]);
    assert_eq!(broken_lines("domain", "#[cfg(test)]\nmod tests {\n}\nuse std::fs;\n"), [4]);
}

#[test]
fn what_is_allowed_passes() {
    let cases: &[(&str, &str)] = &[
        ("store::tables", "use redb::TableDefinition; use crate::domain::user::User;"),
        ("directory::ldap", "use ldap3::LdapConn; use std::time::Instant;"),
        ("domain", "// tokio::spawn, std::fs and redb\n/// async\n/* crate::store /* nested */ redb::X */"),
        (
            "domain",
            "const A: &str = \"use redb::Database; \\\" std::fs\"; const B: &[u8] = br#\"\"tokio::x\"#;",
        ),
        ("domain", "fn f(a: std::net::IpAddr, b: core::net::Ipv6Addr) {}"),
        ("domain", "fn f(now: Timestamp) -> Timestamp { now }"),
        ("domain", "use std::time::Duration; use std::{fmt, net_like}; use crate::domain::{self, user};"),
        ("domain::seats", "use super::user::User; use self::inner::X; pub(crate) fn f() {}"),
        ("domain", "#[cfg(test)]\nmod tests { use std::time::Instant; fn f() { Timestamp::now(); } }"),
        ("domain", "#[cfg(test)] use std::fs;"),
        ("front::dovecot", "use crate::service::Admission; use super::super::domain::name::Name;"),
        ("service", "use crate::{domain::name::Name, store::ReadView};"),
        ("admin::api", "use crate::net::http::json;"),
        ("daemon", "use crate::{config, directory, front, store}; fn f() { Instant::now(); }"),
    ];
    for (module, text) in cases {
        assert_eq!(broken_lines(module, text), [0; 0], "in {module}: {text}");
    }
}

#[test]
fn files_of_tests_and_long_files_are_found() {
    let store = ["store".to_owned()];
    let code = code_of("mod view;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod inline { mod x; }\n");
    assert_eq!(test_modules(&store, &code), [["store", "tests"]]);
    assert_eq!(check_length(&"x\n".repeat(MAX_LINES)), []);
    assert_eq!(check_length(&"x\n".repeat(MAX_LINES + 1)).len(), 1);
}
