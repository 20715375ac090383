//! `license …`: what the customer's side asks of its daemon, and what a vendor runs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// The licence of a running daemon.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum LicenseCommand {
    /// Show the licence.
    Show,
    /// Install a signed licence from a file.
    Install {
        /// The file, or - for standard input.
        file: PathBuf,
        /// Install it even if a newer issue was installed before; the log says so.
        #[arg(long)]
        force: bool,
    },
    /// Register, and have the licence server bind the licence to this installation.
    Activate {
        /// The activation key that the vendor gave you, or - to read it from standard input.
        key: String,
        /// Who registers.
        #[command(flatten)]
        customer: CustomerArgs,
    },
    /// Ask the licence server for a newer licence now.
    Refresh,
    /// Give the licence back, so that it can be activated on another machine.
    Deactivate,
    /// Print a request for a licence, for a vendor who is not reached online.
    Request {
        /// Who asks.
        #[command(flatten)]
        customer: CustomerArgs,
    },
}

/// Details of a customer.
#[derive(Args, Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct CustomerArgs {
    /// The organisation's name.
    #[arg(long, value_name = "NAME")]
    pub customer: Option<String>,
    /// Whom to write to.
    #[arg(long, value_name = "ADDRESS")]
    pub email: Option<String>,
    /// Another detail, as often as needed.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_detail)]
    pub detail: Vec<(String, String)>,
}

fn parse_detail(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it like phone=123")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What a vendor runs: makes keys, signs licences, and serves them.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum IssuerCommand {
    /// Make a key to sign licences with (vendor).
    ///
    /// Writes the private key into a new file that only you can read, and prints the public one: the line
    /// for trusted_keys. Needs no daemon.
    Keygen {
        /// The private key's file (PKCS#8 PEM); it must not exist yet.
        file: PathBuf,
    },
    /// Sign a licence, and print it (vendor).
    ///
    /// Needs no daemon.
    Issue(Box<IssueArgs>),
    /// Run a licence server (vendor).
    ///
    /// Keeps registrations, activations and the current licences in a file of its own. Speaks HTTPS with
    /// --cert and --cert-key; without them it listens on loopback or a Unix socket only, behind a proxy.
    Serve(Box<ServeArgs>),
    /// Sell a licence, or change one that was sold (vendor).
    ///
    /// A new one prints its activation key. Customers get the change with their next refresh.
    Sell(Box<SellArgs>),
    /// Take a licence's activation away, so that it can be activated again (vendor).
    Free(SoldArgs),
    /// Revoke a licence: its refreshes are refused (vendor).
    Revoke(SoldArgs),
    /// List the licences that were sold (vendor).
    Sold {
        /// Where they are kept.
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// The licence server's file.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct DatabaseArgs {
    /// The licence server's file; its control socket is beside it.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/seatkeeper-licenses/licenses.redb")]
    pub database: PathBuf,
}

/// One licence that was sold.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct SoldArgs {
    /// The licence's id.
    pub id: String,
    /// Where it is kept.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// `license issue`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct IssueArgs {
    /// The private key's file.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The licence's id.
    #[arg(long, value_name = "ID")]
    pub id: String,
    /// What `license request` printed on the customer's machine: binds the licence to it.
    #[arg(long, value_name = "FILE")]
    pub request: Option<PathBuf>,
    /// The installation that alone may use the licence.
    #[arg(long, value_name = "ID", conflicts_with = "request")]
    pub installation: Option<String>,
    /// Grows with each issue of this licence; by default the seconds since 1970.
    #[arg(long, value_name = "N")]
    pub serial: Option<u64>,
    /// Who issues it.
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Not valid before this date.
    #[arg(long, value_name = "DATE")]
    pub not_before: Option<jiff::civil::Date>,
    /// What is sold.
    #[command(flatten)]
    pub terms: TermsArgs,
}

/// `license sell`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct SellArgs {
    /// The licence's id: a new one, or one that was sold before.
    pub id: String,
    /// What is sold, or changed.
    #[command(flatten)]
    pub terms: TermsArgs,
    /// Where it is kept.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// What is sold. What is not said stays as it was.
#[derive(Args, Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct TermsArgs {
    /// Seats: 25, or +10 and -5 to change them.
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = parse_seats)]
    pub seats: Option<SeatsTerm>,
    /// Shared and service mailboxes that need no seat.
    #[arg(long, value_name = "N")]
    pub seatless: Option<u64>,
    /// A component: antivirus, or with users of its own and a last day, activesync:10@2027-05-01.
    #[arg(long, value_name = "NAME[:SEATS][@DATE]", value_parser = parse_component)]
    pub component: Vec<ComponentTerm>,
    /// A component that is no longer sold.
    #[arg(long, value_name = "NAME")]
    pub no_component: Vec<String>,
    /// When it ends (at the beginning of this day, in UTC), or never.
    #[arg(long, value_name = "DATE", value_parser = parse_end)]
    pub expires: Option<EndTerm>,
    /// How long everything goes on after that: 14d.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub grace: Option<std::time::Duration>,
    /// Whom an expired licence refuses.
    #[arg(long, value_enum, value_name = "WHOM")]
    pub on_expiry: Option<OnExpiryTerm>,
    /// So many percent more seats may be taken, 0 to 100.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=100))]
    pub overage: Option<u64>,
    /// The last day of maintenance.
    #[arg(long, value_name = "DATE")]
    pub maintenance_until: Option<jiff::civil::Date>,
    /// Who buys it.
    #[command(flatten)]
    pub customer: CustomerArgs,
}

/// `--seats`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum SeatsTerm {
    /// So many.
    Exactly(u64),
    /// So many more.
    More(u64),
    /// So many fewer.
    Fewer(u64),
}

fn parse_seats(text: &str) -> Result<SeatsTerm, String> {
    let number = |digits: &str| match digits.parse() {
        Ok(number) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err("write it like 25, +10 or -5".to_owned()),
    };
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => number(more).map(SeatsTerm::More),
        (_, Some(fewer)) => number(fewer).map(SeatsTerm::Fewer),
        _ => number(text).map(SeatsTerm::Exactly),
    }
}

/// `--component`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ComponentTerm {
    /// Its name.
    pub name: String,
    /// Users of its own.
    pub seats: Option<u64>,
    /// Its last day.
    pub expires: Option<jiff::civil::Date>,
}

fn parse_component(text: &str) -> Result<ComponentTerm, String> {
    let (head, expires) = match text.split_once('@') {
        Some((head, date)) => {
            let date = date.parse().map_err(|_| "write its last day like activesync@2027-05-01")?;
            (head, Some(date))
        }
        None => (text, None),
    };
    let (name, seats) = match head.split_once(':') {
        Some((name, seats)) => (name, Some(seats.parse().map_err(|_| "write its users like activesync:10")?)),
        None => (head, None),
    };
    Ok(ComponentTerm { name: name.to_owned(), seats, expires })
}

/// `--expires`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum EndTerm {
    /// It does not end.
    Never,
    /// At the beginning of this day.
    On(jiff::civil::Date),
}

fn parse_end(text: &str) -> Result<EndTerm, String> {
    match text {
        "never" => Ok(EndTerm::Never),
        date => date.parse().map(EndTerm::On).map_err(|_| "write it like 2027-05-01, or never".to_owned()),
    }
}

/// `--on-expiry`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[value(rename_all = "snake_case")]
pub enum OnExpiryTerm {
    /// Holders enter, nobody new.
    RefuseNew,
    /// Nobody enters.
    RefuseAll,
}

/// `license serve`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ServeArgs {
    /// The private key's file.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Where to listen: HOST:PORT, or unix:/path.
    #[arg(long, value_name = "BIND", default_value = "127.0.0.1:8470")]
    pub bind: String,
    /// The certificate and its chain, as PEM. Restart the server when it was renewed.
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key, as PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub cert_key: Option<PathBuf>,
    /// A public key that licences in hand may still be signed with, after the key was changed; as often as
    /// needed.
    #[arg(long, value_name = "SPKI")]
    pub also_trust: Vec<String>,
    /// The name of the issuer in the licences.
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Where the licences are kept.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, ClientCommand, Command, LicenseArgs};

    fn parse(line: &str) -> Result<LicenseArgs, String> {
        match Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?.command {
            Command::Client(ClientCommand::License(license)) => Ok(license),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn terms(options: &str) -> Result<TermsArgs, String> {
        match parse(&format!("seatkeeper license sell L-1 {options}"))? {
            LicenseArgs::Issuer(IssuerCommand::Sell(sell)) => Ok(sell.terms),
            other => panic!("{options}: {other:?}"),
        }
    }

    #[test]
    fn the_customers_commands_are_parsed() {
        let check = |line: &str, expected: LicenseCommand| {
            assert_eq!(parse(line), Ok(LicenseArgs::Client(expected)), "{line}");
        };
        check("seatkeeper license show", LicenseCommand::Show);
        check("seatkeeper license refresh --json", LicenseCommand::Refresh);
        check("seatkeeper license deactivate", LicenseCommand::Deactivate);
        let install = |force| LicenseCommand::Install { file: "a.jwt".into(), force };
        check("seatkeeper license install a.jwt", install(false));
        check("seatkeeper license install a.jwt --force", install(true));
        let customer = CustomerArgs {
            customer: Some("Example".to_owned()),
            email: Some("it@example.org".to_owned()),
            detail: vec![("phone".to_owned(), "1=2".to_owned())],
        };
        let line =
            "seatkeeper license activate KEY --customer Example --email it@example.org --detail phone=1=2";
        check(line, LicenseCommand::Activate { key: "KEY".to_owned(), customer });
        check("seatkeeper license request", LicenseCommand::Request { customer: CustomerArgs::default() });
        assert!(parse("seatkeeper license request --detail phone").is_err());
        assert!(parse("seatkeeper license").is_err());
    }

    #[test]
    fn terms_are_parsed() {
        let seats = |text: &str| terms(&format!("--seats {text}")).map(|terms| terms.seats.unwrap());
        assert_eq!(seats("25"), Ok(SeatsTerm::Exactly(25)));
        assert_eq!(seats("+10"), Ok(SeatsTerm::More(10)));
        assert_eq!(seats("-5"), Ok(SeatsTerm::Fewer(5)));
        for wrong in ["+", "-", "++1", "-+1", "many", "1.5"] {
            assert!(seats(wrong).is_err(), "{wrong}");
        }
        let component =
            |text: &str| terms(&format!("--component {text}")).map(|mut terms| terms.component.remove(0));
        let named = |seats, expires: Option<&str>| {
            let expires = expires.and_then(|date| date.parse().ok());
            Ok(ComponentTerm { name: "activesync".to_owned(), seats, expires })
        };
        assert_eq!(component("activesync"), named(None, None));
        assert_eq!(component("activesync:10"), named(Some(10), None));
        assert_eq!(component("activesync@2027-05-01"), named(None, Some("2027-05-01")));
        assert_eq!(component("activesync:10@2027-05-01"), named(Some(10), Some("2027-05-01")));
        assert!(component("activesync:many").is_err() && component("activesync@soon").is_err());
        assert_eq!(terms("--expires never").unwrap().expires, Some(EndTerm::Never));
        assert!(terms("--expires soon").is_err() && terms("--overage 101").is_err());
        assert_eq!(terms("--on-expiry refuse_all").unwrap().on_expiry, Some(OnExpiryTerm::RefuseAll));
        let all = terms("--seats 5 --component a --component b --grace 14d --maintenance-until 2027-01-01")
            .unwrap();
        let sent: TermsArgs = serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
        assert_eq!(sent, all, "they go to the server as JSON");
    }
}
