//! The whole file: text becomes a [`Config`], without touching the file system.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::mistakes::{Found, line_start, quoted};
use super::reader::{NamedFile, Reader, Section, Text};
use super::{Backup, Config, Log, LogFormat, LogLevel, Seats, directories, license, listeners};
use crate::domain::admission::TakeOn;
use crate::domain::brake::Brake;
use crate::domain::directory::Directory;
use crate::domain::license::BUILT_IN_KEYS;
use crate::domain::name::Domain;
use crate::domain::names::Administrator;

const STATE_DIR: &str = "/var/lib/seatkeeper";
const CONTROL_SOCKET: &str = "/run/seatkeeper/control.sock";
const REMOVAL_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

const KEPT_BACKUPS: usize = 7;

const DOMAIN_TITLE: &str = r#"[domains."example.org"]"#;

/// Almost three years of nights.
const MAX_BACKUPS: u64 = 1000;

/// A shorter time would drop what an administrator looks at the next day.
const MIN_LEDGER_KEEP: Duration = Duration::from_secs(24 * 3600);

/// A shorter time would take the seats of people who are at work.
const MIN_RECLAIM_AFTER: Duration = Duration::from_secs(1);

const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

const FORMATS: [(&str, LogFormat); 4] = [
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
    ("journald", LogFormat::Journald),
];

/// What the text of a configuration file says.
pub(super) struct Decoded {
    /// `None` where there is a mistake.
    pub(super) config: Option<Config>,
    /// Files that must exist and be good.
    pub(super) files: Vec<NamedFile>,
    /// In no order.
    pub(super) found: Vec<Found>,
}

/// Decodes a whole file. Relative paths begin at `base`; `env` looks up variables of the environment.
pub(super) fn decode(text: &str, base: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Decoded {
    let (document, errors) = DeTable::parse_recoverable(text);
    let reader = Reader::new(text, base, env);
    let config = read(Section::root(&reader, document.get_ref()));
    let (found, files) = reader.into_parts();
    if errors.is_empty() {
        let config = config.filter(|_| found.is_empty());
        return Decoded { config, files, found };
    }
    let found = beside_syntax(text, errors.iter().map(syntax_mistake).collect(), found);
    Decoded { config: None, files, found }
}

/// The parser goes on behind an error with what it could make of the line. So only the first error of a line
/// is told, and what seems wrong on such a line, seems to be absent, or stands in a table whose header is
/// broken may only follow from it.
fn beside_syntax(text: &str, mut syntax: Vec<Found>, found: Vec<Found>) -> Vec<Found> {
    let line = |mistake: &Found| line_start(text, mistake.span.start);
    syntax.sort_by_key(|mistake| mistake.span.start);
    syntax.dedup_by_key(|mistake| line(mistake));
    let broken: HashSet<usize> = syntax.iter().map(line).collect();
    let is_header = |start: &usize| text.get(*start..).is_some_and(|line| line.trim_start().starts_with('['));
    let trusted_until = broken.iter().copied().filter(is_header).min().unwrap_or(usize::MAX);
    let is_own = |mistake: &Found| {
        let line = line(mistake);
        !mistake.is_absence && !broken.contains(&line) && line < trusted_until
    };
    syntax.extend(found.into_iter().filter(is_own));
    syntax
}

fn syntax_mistake(error: &toml::de::Error) -> Found {
    let (message, help) = match error.message().split_once(", expected ") {
        // The parser takes a word for a number or a truth value by its first letter alone.
        Some(("invalid boolean" | "invalid float" | "string values must be quoted", _)) => (
            "text must be quoted",
            "put it between double quotes; only numbers, true and false stand without".to_owned(),
        ),
        Some((message, expected)) => (message, format!("expected here: {expected}")),
        None if error.message() == "duplicate key" => {
            (error.message(), "write each key and each [table] once; only [[lists]] repeat".to_owned())
        }
        None => (error.message(), "correct the TOML (https://toml.io)".to_owned()),
    };
    Found::new(error.span().unwrap_or_default(), message, help)
}

fn read(mut root: Section<'_>) -> Option<Config> {
    let state_dir = root.take("state_dir", r#""/var/lib/seatkeeper""#).and_then(|value| value.text());
    let state_dir = state_dir.and_then(|text| text.path()).unwrap_or_else(|| PathBuf::from(STATE_DIR));
    let control_socket = control_socket(&mut root);
    let default_domain = root.take("default_domain", r#""example.org""#).and_then(|value| value.text());
    let default_domain = default_domain.and_then(|text| text.domain());
    let (seat_limit, license) = license::read(&mut root, BUILT_IN_KEYS);
    let components = license::components(&mut root);
    let (mut seats, protected) = seats(&mut root);
    let ledger_keep = ledger(&mut root);
    let administrator = admin(&mut root);
    let password_cache = passwords(&mut root);
    let log = log(&mut root);
    let backup = backup(&mut root);
    let directories = directories::read(&mut root);
    let domain_limits = domain_limits(&mut root);
    let listeners = listeners::read(&mut root, &control_socket);
    root.finish();
    let (directories, listeners) = (directories?, listeners?);
    let default_domain = default_domain.or_else(|| match directories.as_slice() {
        [only] => Some(only.domain.clone()),
        _ => None,
    });
    seats.protected = protected.iter().filter_map(|text| text.user(default_domain.as_ref())).collect();
    let administrator = administrator.and_then(|admin| admin.check(default_domain.as_ref(), &directories));
    Some(Config {
        state_dir,
        control_socket,
        default_domain,
        seat_limit,
        license,
        components,
        seats,
        ledger_keep,
        administrator,
        password_cache,
        log,
        backup,
        directories,
        domain_limits,
        listeners,
    })
}

fn control_socket(root: &mut Section<'_>) -> PathBuf {
    let text =
        root.take("control_socket", r#""/run/seatkeeper/control.sock""#).and_then(|value| value.text());
    let path = text.and_then(|text| text.socket_path(text.path()?));
    path.unwrap_or_else(|| PathBuf::from(CONTROL_SOCKET))
}

/// The names that are protected wait for the default domain.
fn seats<'a>(root: &mut Section<'a>) -> (Seats, Vec<Text<'a>>) {
    let mut section = root.table("seats", "[seats]");
    let take_on = section.take("take_on", r#"["login", "delivery"]"#).map(|value| {
        let words = [("login", true), ("delivery", false)];
        let chosen: Vec<bool> = value.texts().iter().filter_map(|text| text.choice(&words)).collect();
        TakeOn { login: chosen.contains(&true), delivery: chosen.contains(&false) }
    });
    let removal_grace = section.duration("removal_grace", r#""7d""#, Duration::ZERO, REMOVAL_GRACE);
    let protected = section.take("protected", r#"["ceo@example.org"]"#).map(|value| value.texts());
    let reclaim_after = section.take("reclaim_after", r#""180d""#).and_then(|value| value.text());
    let reclaim_after = reclaim_after.and_then(|text| text.duration(MIN_RECLAIM_AFTER));
    let brake = directories::brake(&mut section, "[seats.brake]", Brake::OF_SEATS);
    section.finish();
    let take_on = take_on.unwrap_or(TakeOn { login: true, delivery: false });
    let seats = Seats { take_on, removal_grace, protected: Vec::new(), reclaim_after, brake };
    (seats, protected.unwrap_or_default())
}

fn ledger(root: &mut Section<'_>) -> Option<Duration> {
    let mut section = root.table("ledger", "[ledger]");
    let keep = section.take("keep", r#""400d""#).and_then(|value| value.text());
    section.finish();
    keep.and_then(|text| text.duration(MIN_LEDGER_KEEP))
}

/// `[admin]`, which waits for the default domain and the directories.
struct Admin<'a> {
    address: Text<'a>,
    directory: Option<Text<'a>>,
}

fn admin<'a>(root: &mut Section<'a>) -> Option<Admin<'a>> {
    let mut section = root.table("admin", "[admin]");
    let address = section.take("address", r#""admin@example.org""#).and_then(|value| value.text());
    let directory = section.take("directory", r#""corp""#).and_then(|value| value.text());
    section.finish();
    if let (None, Some(directory)) = (&address, &directory) {
        directory.wrong(
            "[admin] has a `directory` but no `address`",
            r#"add the administrator's login name with its domain: address = "admin@example.org""#,
        );
    }
    Some(Admin { address: address?, directory })
}

impl Admin<'_> {
    fn check(self, default_domain: Option<&Domain>, directories: &[Directory]) -> Option<Administrator> {
        let name = self.address.user(default_domain)?;
        let Some(text) = self.directory else { return Some(Administrator { name, directory: None }) };
        if !directories.iter().any(|directory| directory.name == text.text) {
            let known: Vec<&str> = directories.iter().map(|directory| directory.name.as_str()).collect();
            text.wrong(
                format!("there is no directory `{}`", text.text),
                format!("name a configured directory: {}", known.join(", ")),
            );
            return None;
        }
        Some(Administrator { name, directory: Some(text.text.to_owned()) })
    }
}

/// `[domains."…"]`: by domains in their compared form.
fn domain_limits(root: &mut Section<'_>) -> BTreeMap<String, u64> {
    let mut limits = BTreeMap::new();
    for (name, mut section) in root.table("domains", DOMAIN_TITLE).into_tables(DOMAIN_TITLE) {
        let domain = Domain::parse(name);
        if domain.is_err() {
            section.wrong(
                format!("{} is not a mail domain", quoted(name)),
                format!("write it like {DOMAIN_TITLE}"),
            );
        }
        let limit = section.require("seat_limit", "5").and_then(|value| value.integer(0..=u64::MAX));
        if let (Ok(domain), Some(limit)) = (domain, limit)
            && limits.insert(domain.as_str().to_owned(), limit).is_some()
        {
            let domain = quoted(domain.as_str());
            section.wrong(format!("the domain {domain} is here twice"), "write each domain once");
        }
        section.finish();
    }
    limits
}

fn passwords(root: &mut Section<'_>) -> Duration {
    let mut section = root.table("passwords", "[passwords]");
    let cache = section.duration("cache", r#""5m""#, Duration::ZERO, Duration::ZERO);
    section.finish();
    cache
}

fn backup(root: &mut Section<'_>) -> Option<Backup> {
    let mut section = root.table("backup", "[backup]");
    let folder = section.take("folder", r#""/var/backups/seatkeeper""#).and_then(|value| value.text());
    let keep = section.take("keep", "7");
    if let (None, Some(keep)) = (&folder, &keep) {
        keep.wrong(
            "[backup] has `keep` but no `folder`",
            r#"name a folder: folder = "/var/backups/seatkeeper""#,
        );
    }
    section.finish();
    let keep = keep.and_then(|value| value.integer(1..=MAX_BACKUPS));
    let keep = keep.and_then(|keep| usize::try_from(keep).ok()).unwrap_or(KEPT_BACKUPS);
    Some(Backup { folder: folder?.path()?, keep })
}

fn log(root: &mut Section<'_>) -> Log {
    let mut section = root.table("log", "[log]");
    let level = section.choice("level", r#""info""#, &LEVELS, LogLevel::Info);
    let format = section.choice("format", r#""auto""#, &FORMATS, LogFormat::Auto);
    section.finish();
    Log { level, format }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{check, decode_good};

    use super::*;
    use crate::domain::name::Name;

    #[test]
    fn an_empty_file_is_all_defaults() {
        let expected = Config {
            state_dir: "/var/lib/seatkeeper".into(),
            control_socket: "/run/seatkeeper/control.sock".into(),
            default_domain: None,
            seat_limit: None,
            license: crate::config::SignedLicense::default(),
            components: Default::default(),
            seats: Seats {
                take_on: TakeOn { login: true, delivery: false },
                removal_grace: Duration::from_secs(604_800),
                protected: Vec::new(),
                reclaim_after: None,
                brake: Brake::OF_SEATS,
            },
            ledger_keep: None,
            administrator: None,
            password_cache: Duration::ZERO,
            log: Log { level: LogLevel::Info, format: LogFormat::Auto },
            backup: None,
            directories: Vec::new(),
            domain_limits: BTreeMap::new(),
            listeners: Vec::new(),
        };
        assert_eq!(decode_good(""), expected);
        assert_eq!(decode_good("\u{feff}[log]\r\n[seats]\r\n"), expected);
    }

    #[test]
    fn values_are_taken_over() {
        let config = decode_good(
            "state_dir = \"state\"\ncontrol_socket = \"/run/x\"\ndefault_domain = \"Example.ORG\"\n\
             license.seats = 0\nseats = { take_on = [\"delivery\"], removal_grace = \"0s\" }\n\
             [log]\nlevel = \"trace\"\nformat = \"json\"\n",
        );
        assert_eq!(config.state_dir, Path::new("/base/state"));
        assert_eq!(config.control_socket, Path::new("/run/x"));
        assert_eq!(config.default_domain.map(|domain| domain.to_string()).as_deref(), Some("example.org"));
        assert_eq!(config.seat_limit, Some(0));
        assert_eq!(config.seats.take_on, TakeOn { login: false, delivery: true });
        assert_eq!(config.seats.removal_grace, Duration::ZERO);
        assert_eq!(config.log, Log { level: LogLevel::Trace, format: LogFormat::Json });
    }

    #[test]
    fn the_only_directory_gives_the_default_domain() {
        let one = "[[directory.ldif]]\nname = \"a\"\ndomain = \"a.example\"\nfile = \"a.ldif\"\n";
        let two = format!("{one}{}", one.replace("\"a", "\"b"));
        assert_eq!(decode_good(one).default_domain, Domain::parse("a.example").ok());
        assert_eq!(decode_good(&two).default_domain, None);
        let chosen = format!("default_domain = \"c.example\"\n{one}");
        assert_eq!(decode_good(&chosen).default_domain, Domain::parse("c.example").ok());
    }

    #[test]
    fn users_are_named_with_the_default_domain() {
        let text = "default_domain = \"x.org\"\n[admin]\naddress = \"Root\"\n\
                    [seats]\nprotected = [\"ceo\", \"a@Y.org\"]\nreclaim_after = \"180d\"\n";
        let config = decode_good(text);
        assert_eq!(config.administrator.map(|admin| admin.name), Name::parse("root@x.org", None).ok());
        let protected: Vec<&str> = config.seats.protected.iter().map(Name::as_str).collect();
        assert_eq!(protected, ["ceo@x.org", "a@y.org"]);
        assert_eq!(config.seats.reclaim_after, Some(Duration::from_secs(180 * 86_400)));
        let named = "[admin]\naddress = \"root@x.org\"\ndirectory = \"nowhere\"";
        check(named, &["3:13: there is no directory `nowhere` = name a configured directory: "]);
        check("[admin]\ndirectory = \"a\"", &["2:13: [admin] has a `directory` but no `address`"]);
        check(
            "[admin]\naddress = \"root\"",
            &[
                "2:11: `root` is no user: the name has no @domain, and no default domain is set = write it like address = \"admin@example.org\"",
            ],
        );
        check(
            "[seats]\nprotected = [\"a@x.org\", \"@x.org\"]",
            &["2:25: `@x.org` is no user: the part before or after the @ is empty"],
        );
        check(
            "[seats]\nprotected = \"a@x.org\"",
            &["2:13: `protected` must be an array of strings, not a string"],
        );
        check("[seats]\nreclaim_after = \"0s\"", &["2:17: `reclaim_after` is too short = write 1s or more"]);
        check("[admin]\naddres = \"a@x.org\"", &["2:1: unknown key `addres` = did you mean `address`?"]);
    }

    #[test]
    fn domains_have_caps() {
        let config =
            decode_good("[domains.\"Alias.example\"]\nseat_limit = 5\n[domains.x]\nseat_limit = 0\n");
        assert_eq!(config.domain_limits, [("alias.example".to_owned(), 5), ("x".to_owned(), 0)].into());
        check(
            "[domains.\"a.org\"]\n[domains.\"@\"]\nseat_limit = 1",
            &[
                "1:1: [domains.\"example.org\"] has no `seat_limit` = add seat_limit = 5",
                "2:1: `@` is not a mail domain = write it like [domains.\"example.org\"]",
            ],
        );
        check(
            "[domains]\n\"a.org\" = 5",
            &["2:11: `a.org` must be a table, not a whole number = write it as [domains.\"example.org\"]"],
        );
        check(
            "[domains.a]\nseat_limits = 5",
            &[
                "1:1: [domains.\"example.org\"] has no `seat_limit`",
                "2:1: unknown key `seat_limits` = did you mean `seat_limit`?",
            ],
        );
        check("[domains.a]\nseat_limit = -1", &["2:14: `seat_limit` must be 0 or more"]);
        check(
            "[domains.a]\nseat_limit = 1\n[domains.A]\nseat_limit = 1",
            &["1:1: the domain `a` is here twice = write each domain once"],
        );
    }

    #[test]
    fn seats_have_a_brake() {
        let config = decode_good("[seats.brake]\nmax_removals_percent = 50\nmax_removals = 5\n");
        let expected = Brake { max_removals_percent: 50, max_removals: 5, ..Brake::OF_SEATS };
        assert_eq!(config.seats.brake, expected);
        check(
            "[seats.brake]\nmax_removals_percent = 101",
            &["2:24: `max_removals_percent` must be 0 to 100 = write it like max_removals_percent = 10"],
        );
        check(
            "[seats.brake]\nmax_removals = 4",
            &[
                "2:16: `min_removals` (5) is more than `max_removals` (4) = write a max_removals that is not below min_removals",
            ],
        );
        check(
            "[seats.brake]\nmax = 1",
            &["2:1: unknown key `max` = known here: max_removals_percent, min_removals, max_removals"],
        );
    }

    #[test]
    fn backups_have_a_folder() {
        let backup = |text| decode_good(text).backup;
        let expected = |keep| Some(Backup { folder: "/base/copies".into(), keep });
        assert_eq!(backup("[backup]\nfolder = \"copies\"\n"), expected(7));
        assert_eq!(backup("[backup]\nfolder = \"copies\"\nkeep = 30\n"), expected(30));
        assert_eq!(backup("[backup]\n"), None);
        check(
            "[backup]\nkeep = 3",
            &[
                "2:8: [backup] has `keep` but no `folder` = name a folder: folder = \"/var/backups/seatkeeper\"",
            ],
        );
        check(
            "[backup]\nfolder = \"a\"\nkeep = 0",
            &["3:8: `keep` must be 1 to 1000 = write it like keep = 7"],
        );
        check("[backup]\nfolders = \"a\"", &["2:1: unknown key `folders` = did you mean `folder`?"]);
    }

    #[test]
    fn the_ledger_is_kept_for_a_day_at_least() {
        assert_eq!(decode_good("[ledger]\n").ledger_keep, None);
        let keep = decode_good("[ledger]\nkeep = \"400d\"\n").ledger_keep;
        assert_eq!(keep, Some(Duration::from_secs(400 * 86_400)));
        check("[ledger]\nkeep = \"23h\"", &["2:8: `keep` is too short = write 1day or more"]);
        check(
            "[ledger]\nkeep = 400",
            &["2:8: `keep` must be a string, not a whole number = write it like keep = \"400d\""],
        );
        check("[ledger]\nkep = \"400d\"", &["2:1: unknown key `kep` = did you mean `keep`?"]);
    }

    #[test]
    fn unknown_keys() {
        check("stat_dir = \"x\"", &["1:1: unknown key `stat_dir` = did you mean `state_dir`?"]);
        check("[license]\nseat = 1", &["2:1: unknown key `seat` = did you mean `seats`?"]);
        check(
            "[license]\nkey = \"x\"",
            &[
                "2:1: unknown key `key` = known here: seats, file, trusted_keys, server, ca_file, refresh_every",
            ],
        );
        check(
            "[seats]\nholiday = \"1d\"",
            &[
                "2:1: unknown key `holiday` = known here: take_on, removal_grace, protected, reclaim_after, brake",
            ],
        );
        check(
            "[[web]]",
            &[
                "1:3: unknown key `web` = known here: state_dir, control_socket, default_domain, license, components, seats, ledger, admin, passwords, log, backup, directory, domains, listen",
            ],
        );
        check("\"\\u001b\" = 1", &["1:1: unknown key `\u{fffd}`"]);
    }

    #[test]
    fn wrong_types() {
        check(
            "state_dir = 1",
            &[
                "1:13: `state_dir` must be a string, not a whole number = write it like state_dir = \"/var/lib/seatkeeper\"",
            ],
        );
        check(
            "license = 25",
            &["1:11: `license` must be a table, not a whole number = write it as [license]"],
        );
        check(
            "[[license]]\nseats = 1",
            &["1:1: `license` must be a table, not an array = write it as [license]"],
        );
        check(
            "[license]\nseats = \"25\"",
            &["2:9: `seats` must be a whole number, not a string = write it like seats = 25"],
        );
        check("[license]\nseats = 2.5", &["2:9: `seats` must be a whole number, not a fraction"]);
        check("[license]\nseats = -1", &["2:9: `seats` must be 0 or more"]);
        check("[license]\nseats = 99999999999999999999", &["2:9: `seats` must be 0 or more"]);
        check("[seats]\ntake_on = \"login\"", &["2:11: `take_on` must be an array of strings, not a string"]);
        check(
            "[seats]\ntake_on = [1, \"login\", true]",
            &[
                "2:12: `take_on` must hold only strings, not a whole number",
                "2:24: `take_on` must hold only strings, not true or false",
            ],
        );
        check(
            "[seats]\ntake_on = []",
            &["2:11: `take_on` is empty = write it like take_on = [\"login\", \"delivery\"]"],
        );
        check(
            "[seats]\nremoval_grace = 7",
            &[
                "2:17: `removal_grace` must be a string, not a whole number = write it like removal_grace = \"7d\"",
            ],
        );
        check("log = 1979-05-27", &["1:7: `log` must be a table, not a date"]);
    }

    #[test]
    fn wrong_words() {
        check("[log]\nlevel = \"wran\"", &["2:9: `level` can't be `wran` = did you mean \"warn\"?"]);
        check(
            "[log]\nformat = \"xml\"",
            &["2:10: `format` can't be `xml` = write auto, text, json or journald"],
        );
        check(
            "[seats]\ntake_on = [\"login\", \"logn\"]",
            &["2:21: `take_on` can't be `logn` = did you mean \"login\"?"],
        );
        check(
            "default_domain = \"a..b\"",
            &["1:18: `a..b` is not a mail domain = write it like default_domain = \"example.org\""],
        );
    }

    #[test]
    fn syntax() {
        check(
            "[log]\nlevel = info\nfromat = \"x\"",
            &[
                "2:9: text must be quoted = put it between double quotes; only numbers, true and false stand without",
                "3:1: unknown key `fromat` = did you mean `format`?",
            ],
        );
        for bare in ["True", "ten", "yes", "/var/lib", "1m", "nobody"] {
            check(&format!("state_dir = {bare}"), &["1:13: text must be quoted"]);
        }
        check("[log]\nlevel = \"info\n", &["2:14: invalid basic string"]);
        check(
            "[log]\n[log]\n",
            &["2:2: duplicate key = write each key and each [table] once; only [[lists]] repeat"],
        );
        check("x = [1,\ny = 2\n", &["1:1: unknown key `x`", "2:1: text must be quoted"]);
        // The keys of a table with a broken header, and a name that is there but broken, are not told.
        check("[log\nlevel = 1\nwhat = 1", &["1:5: unclosed table = expected here: `]`"]);
        check("[[directory.ldif]]\nname = x\ndomain = \"a\"\n", &["2:8: text must be quoted"]);
        check(
            &format!("x = {}", "[".repeat(100_000)),
            &["1:85: cannot recurse further; max recursion depth met"],
        );
    }
}
