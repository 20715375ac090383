//! Servers that the DNS lists (RFC 2782): `srv:example.org` stands for those of `_ldap._tcp.example.org`.
//!
//! They are looked up for each connection, with the system's own resolver settings, and nothing is kept between
//! two of them. The certificate of a server must be for its own name as the record has it, so that whoever
//! answers for the DNS chooses among all servers with a certificate that is trusted.

use std::fmt;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::SRV;

use super::error::{ServerError, ServerProblem};
use crate::domain::directory::LdapUrl;

/// Servers of one domain that are tried: each that is dead takes the deadline for connecting, and so many take
/// more than a minute together.
const MAX_TARGETS: usize = 16;

/// Why a domain has no servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SrvProblem {
    /// Neither the name nor the type.
    NoRecords,
    /// One record, whose target is the root (RFC 2782, "Target").
    NotOffered,
    /// The question was not answered: in the resolver's words.
    NoAnswer(String),
    /// Not within this time.
    Timeout(Duration),
}

impl fmt::Display for SrvProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SrvProblem::NoRecords => f.write_str("there are none"),
            SrvProblem::NotOffered => f.write_str("they say that the domain offers no LDAP"),
            SrvProblem::NoAnswer(problem) => f.write_str(problem),
            SrvProblem::Timeout(limit) => write!(f, "no answer from the DNS within {limit:?}"),
        }
    }
}

/// Puts servers in the place of domains; what went wrong with those that have none.
pub(super) async fn expand(urls: &[LdapUrl], limit: Duration) -> (Vec<LdapUrl>, Vec<ServerError>) {
    let (mut servers, mut errors) = (Vec::new(), Vec::new());
    for url in urls {
        if !url.is_srv {
            servers.push(url.clone());
            continue;
        }
        let found = tokio::time::timeout(limit, look_up(url, limit)).await;
        match found.unwrap_or(Err(SrvProblem::Timeout(limit))) {
            Ok(found) => servers.extend(found),
            Err(problem) => {
                let problem = ServerProblem::Srv { records: name(url), problem };
                errors.push(ServerError { url: url.clone(), problem });
            }
        }
    }
    (servers, errors)
}

fn name(url: &LdapUrl) -> String {
    let service = if url.is_ldaps { "_ldaps" } else { "_ldap" };
    format!("{service}._tcp.{}", url.host.trim_end_matches('.'))
}

async fn look_up(url: &LdapUrl, limit: Duration) -> Result<Vec<LdapUrl>, SrvProblem> {
    let no_answer = |error: NetError| SrvProblem::NoAnswer(super::error::clean(&error.to_string()));
    let mut builder = TokioResolver::builder_tokio().map_err(no_answer)?;
    let options = builder.options_mut();
    // A second try within the limit, since packets get lost.
    (options.timeout, options.attempts, options.cache_size) = (limit / 3, 2, 0);
    let resolver = builder.build().map_err(no_answer)?;
    // With the dot at its end no other domain is searched.
    let answer = resolver.srv_lookup(format!("{}.", name(url))).await.map_err(|error| match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => SrvProblem::NoRecords,
        NetError::Timeout => SrvProblem::Timeout(limit),
        error => no_answer(error),
    })?;
    let records = answer.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(srv.clone()),
        _ => None,
    });
    let records = ordered(records.collect(), |sum| fastrand::u32(0..=sum));
    if records.is_empty() {
        return Err(SrvProblem::NoRecords);
    }
    let servers: Vec<LdapUrl> = records.iter().filter_map(|record| server(url, record)).collect();
    if servers.is_empty() { Err(SrvProblem::NotOffered) } else { Ok(servers) }
}

/// `None` where the target is the root, or no name of a host.
fn server(url: &LdapUrl, record: &SRV) -> Option<LdapUrl> {
    let scheme = if url.is_ldaps { "ldaps" } else { "ldap" };
    let host = record.target.to_ascii();
    LdapUrl::parse(&format!("{scheme}://{}:{}", host.trim_end_matches('.'), record.port)).ok()
}

/// The order in which they are to be tried: the lowest priority first, and within it at random by weight.
/// `random` gives a number from 0 to its argument.
fn ordered(mut records: Vec<SRV>, mut random: impl FnMut(u32) -> u32) -> Vec<SRV> {
    // Those without a weight come first, so that they have a small chance (RFC 2782, "Weight").
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::new();
    while let Some(priority) = records.first().map(|record| record.priority) {
        let group = records.iter().take_while(|record| record.priority == priority);
        let weights: Vec<u32> = group.map(|record| u32::from(record.weight)).collect();
        let mut left = random(weights.iter().sum());
        let chosen = weights.iter().position(|weight| {
            let is_chosen = left <= *weight;
            left = left.saturating_sub(*weight);
            is_chosen
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered.truncate(MAX_TARGETS);
    ordered
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::Name;

    use super::*;

    fn record(priority: u16, weight: u16, target: &str) -> SRV {
        SRV::new(priority, weight, 389, Name::from_ascii(target).unwrap())
    }

    fn targets(records: Vec<SRV>, random: impl FnMut(u32) -> u32) -> Vec<String> {
        ordered(records, random).iter().map(|record| record.target.to_ascii()).collect()
    }

    #[test]
    fn priority_comes_before_weight() {
        let records = vec![record(2, 100, "c."), record(1, 0, "b."), record(1, 60, "a.")];
        assert_eq!(targets(records.clone(), |sum| sum), ["a.", "b.", "c."]);
        assert_eq!(targets(records, |_| 0), ["b.", "a.", "c."]);
        let many: Vec<SRV> = (0..100).map(|number| record(number, 0, "x.")).collect();
        assert_eq!(targets(many, |_| 0).len(), MAX_TARGETS);
        assert_eq!(targets(Vec::new(), |_| 0), [""; 0]);
    }

    #[test]
    fn weights_are_chances() {
        let first = |at: u32| {
            let records = vec![record(1, 10, "a."), record(1, 30, "b."), record(1, 60, "c.")];
            targets(records, |sum| if sum == 100 { at } else { 0 }).remove(0)
        };
        let count = |name: &str| (1..=100).filter(|at| first(*at) == name).count();
        assert_eq!([count("a."), count("b."), count("c.")], [10, 30, 60]);
    }

    #[test]
    fn a_record_is_a_server() {
        let url = |text: &str| LdapUrl::parse(text).unwrap();
        let of = |text, target| server(&url(text), &record(0, 0, target)).map(|server| server.to_string());
        assert_eq!(of("srv:example.org", "dc1.example.org.").as_deref(), Some("ldap://dc1.example.org:389"));
        let ldaps = of("srv+ldaps:example.org", "dc1.example.org.");
        assert_eq!(ldaps.as_deref(), Some("ldaps://dc1.example.org:389"));
        assert_eq!(of("srv:example.org", "."), None);
        assert_eq!(name(&url("srv:example.org")), "_ldap._tcp.example.org");
        assert_eq!(name(&url("srv+ldaps:Example.org.")), "_ldaps._tcp.Example.org");
    }
}
