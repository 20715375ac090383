//! What the benches share: the real daemon, a keep-alive HTTP client, medians, and the table they print.

#![allow(dead_code, reason = "each bench uses the part that it needs")]

pub(crate) mod client;
pub(crate) mod daemon;

// Its own lints are those of a test.
#[allow(
    unused_imports,
    clippy::expect_used,
    reason = "the suite's harness, of which a bench uses the part that it needs"
)]
#[path = "../../tests/suite/support/mod.rs"]
pub(crate) mod suite;

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use daemon::Daemon;
use suite::slapd::{PEOPLE, Slapd};

/// A setting from the environment, so that a bench can be made smaller or more thorough.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// The value in the middle, and the lowest and highest beside it: others may use the machine meanwhile.
pub(crate) struct Spread {
    values: Vec<f64>,
}

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Spread { values }
    }
}

impl Spread {
    pub(crate) fn median(&self) -> f64 {
        self.values[self.values.len() / 2]
    }

    /// `0.98 (0.91 to 1.20)`.
    pub(crate) fn show(&self, decimals: usize, unit: &str) -> String {
        let (low, high) = (self.values[0], self.values[self.values.len() - 1]);
        let median = self.median();
        format!("{median:.decimals$}{unit} ({low:.decimals$} to {high:.decimals$})")
    }
}

/// LDIF of numbered people, `a7@a.example` among those of `a.example`.
pub(crate) fn ldif(prefix: char, numbers: Range<usize>) -> String {
    let person = |number| {
        let uuid = format!("{number:08x}-0000-4000-8000-{:012x}", u32::from(prefix));
        format!(
            "dn: uid={prefix}{number},dc={prefix},dc=example\nobjectClass: inetOrgPerson\nuid: {prefix}{number}\n\
             cn: Person {number}\nsn: Person\nmail: {}\nentryUUID: {uuid}\n\n",
            address(prefix, number)
        )
    };
    numbers.map(person).collect()
}

/// One of them.
pub(crate) fn address(prefix: char, number: usize) -> String {
    format!("{prefix}{number}@{prefix}.example")
}

/// The configuration of a directory that is a file of them.
pub(crate) fn ldif_directory(prefix: char) -> String {
    format!(
        "[[directory.ldif]]\nname = \"{prefix}\"\ndomain = \"{prefix}.example\"\nfile = \"{prefix}.ldif\"\n"
    )
}

/// The configuration of slapd's people, with the password in the daemon's folder.
pub(crate) fn ldap_directory(daemon: &Daemon, slapd: &Slapd) -> String {
    let password = std::fs::read_to_string(slapd.password_file()).unwrap();
    daemon.write_secret("bind.password", &password);
    let (url, bind_dn) = (slapd.url(), slapd.bind_dn());
    format!(
        "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\n\
         urls = [\"{url}\"]\nbase_dn = \"{PEOPLE}\"\nbind_dn = \"{bind_dn}\"\n\
         bind_password_file = \"bind.password\"\npreset = \"openldap\"\n"
    )
}

/// Of sorted durations, the one that `percent` of them do not exceed.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// The lines that a bench prints: what was measured, the value, and what it should be.
pub(crate) struct Table {
    lines: Vec<[String; 3]>,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { lines: Vec::new() }
    }

    pub(crate) fn line(&mut self, what: &str, value: impl Display, target: &str) {
        self.lines.push([what.to_owned(), value.to_string(), target.to_owned()]);
    }

    pub(crate) fn print(&self, title: &str) {
        let width = |column: usize| self.lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let (first, second) = (width(0), width(1));
        println!("\n{title}\n{}\n", machine());
        for [what, value, target] in &self.lines {
            let target = if target.is_empty() { String::new() } else { format!("   target: {target}") };
            println!("  {what:first$}   {value:>second$}{target}");
        }
        println!();
    }
}

/// Cores, model and kernel.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = model.map_or("unknown processor", |(_, model)| model);
    format!("{cores} cores of {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
