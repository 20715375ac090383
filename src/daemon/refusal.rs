//! A server that shows a mechanism may not work with it: then it is swept, and the mechanism is tried again
//! after a while.

use std::time::{Duration, Instant};

use super::intake::SyncError;
use crate::directory::DirectoryError;
use crate::domain::course::{self, Mechanism};

/// unavailableCriticalExtension (RFC 4511 appendix A): the database has no sync provider.
const UNAVAILABLE_EXTENSION: u32 = 12;

/// insufficientAccessRights.
const NO_RIGHTS: u32 = 50;

/// Refreshes by content synchronization that break off before the directory is swept. A server that was
/// restarted breaks off one or two.
const MAX_FAILURES: u32 = 3;

/// Why a mechanism is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// As `mechanism_reason` in the status has it.
    pub(super) reason: &'static str,
    /// What to do about it.
    advice: &'static str,
}

impl Refusal {
    /// A sentence for whoever may change it.
    pub(super) fn warning(self, directory: &str, again: Duration) -> String {
        let Refusal { reason, advice } = self;
        let again = humantime::format_duration(again);
        format!(
            "everything is read at each poll, since {reason}; {advice}; it is tried again after {again}, or by \
             `seatkeeper sync {directory} --full`"
        )
    }
}

/// What a directory's servers refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The mechanism of the refresh that runs.
    tried: Option<Mechanism>,
    failures: u32,
    refused: Option<(Refusal, Instant)>,
    /// Ways to poll that a domain controller refused, each once.
    polls: Vec<course::Refusal>,
}

impl Refusals {
    /// What was refused, and not so long ago that it should be tried again.
    pub(super) fn current(&self, again: Duration) -> Option<Refusal> {
        self.refused.filter(|(_, at)| at.elapsed() < again).map(|(refusal, _)| refusal)
    }

    /// The ways to poll that were refused.
    pub(super) fn of_polls(&self) -> &[course::Refusal] {
        &self.polls
    }

    /// Whether a domain controller refuses a way to poll it, so that another one takes its place.
    pub(super) fn refuses(&mut self, error: &SyncError) -> bool {
        let SyncError::Directory(DirectoryError::MechanismRefused { mechanism, problem, .. }) = error else {
            return false;
        };
        let is_new = self.polls.iter().all(|(refused, _)| refused != mechanism);
        if is_new {
            self.polls.push((*mechanism, format!("the server refuses {}: {problem}", mechanism.as_str())));
        }
        is_new
    }

    /// Ways to poll are tried again: the bind user may have got the rights meanwhile.
    pub(super) fn forget_polls(&mut self) {
        self.polls.clear();
    }

    /// A refresh begins.
    pub(super) fn tries(&mut self, mechanism: Mechanism) {
        self.tried = Some(mechanism);
    }

    /// The refresh came to its end.
    pub(super) fn succeeded(&mut self) {
        self.tried = None;
        self.failures = 0;
    }

    /// An administrator wants everything to be tried.
    pub(super) fn forget(&mut self) {
        self.forget_polls();
        self.refused = None;
        self.failures = 0;
    }

    /// True where the mechanism is at fault, which is not used from now on.
    pub(super) fn failed(&mut self, error: &SyncError) -> bool {
        let refusal = match self.tried.take() {
            Some(Mechanism::ContentSync) => self.refused_hints(error),
            Some(Mechanism::SyncRepl) => refused_syncrepl(error),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.failures = 0;
            self.refused = Some((refusal, Instant::now()));
        }
        refusal.is_some()
    }

    /// 389 Directory Server: whatever it is that goes wrong, a sweep may still go well.
    fn refused_hints(&mut self, error: &SyncError) -> Option<Refusal> {
        use DirectoryError::{
            Abandoned, CaFile, EmptyPassword, Filter, NoServer, NoSuchBase, NoSystemRoots, PasswordFile,
            Refused, SilentRefresh, SizeLimit, TlsSetup,
        };
        let refusal = |reason, advice| Some(Refusal { reason, advice });
        let SyncError::Directory(error) = error else { return None };
        match error {
            SizeLimit { .. } => refusal(
                "the server's size limit leaves no room for syncrepl",
                "lift nsSizeLimit and nsLookThroughLimit of the bind user, or nsslapd-sizelimit and \
                 nsslapd-lookthroughlimit of the server",
            ),
            SilentRefresh { .. } => refusal(
                "the server falls silent when it is asked for syncrepl",
                "lift the size and time limits of the bind user, and look into the server's error log",
            ),
            Refused { result, .. } if result.code == UNAVAILABLE_EXTENSION => refusal(
                "the server does not offer syncrepl",
                "enable its plugins Content Synchronization and Retro Changelog",
            ),
            Refused { result, .. } if result.code == NO_RIGHTS => refusal(
                "the server refuses syncrepl",
                "let the bind user read the entry oid=1.3.6.1.4.1.4203.1.9.1.1,cn=features,cn=config",
            ),
            // A sweep would not go better.
            NoServer(_) | CaFile { .. } | NoSystemRoots | TlsSetup(_) | PasswordFile { .. } => None,
            EmptyPassword { .. } | NoSuchBase { .. } | Filter { .. } | Abandoned => None,
            _ => {
                self.failures += 1;
                let is_over = self.failures >= MAX_FAILURES;
                is_over.then_some(())?;
                refusal("syncrepl failed again and again", "look into the server's error log")
            }
        }
    }
}

fn refused_syncrepl(error: &SyncError) -> Option<Refusal> {
    let refusal = |reason, advice| Some(Refusal { reason, advice });
    match error {
        SyncError::Directory(DirectoryError::Refused { result, .. })
            if result.code == UNAVAILABLE_EXTENSION =>
        {
            refusal(
                "the server offers syncrepl, but not for this base",
                "load the overlay syncprov into the database of the base",
            )
        }
        SyncError::Directory(DirectoryError::SizeLimit { .. }) => refusal(
            "the server's size limit leaves no room for syncrepl",
            "lift the size limits of the bind user",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::ServerProblem;
    use crate::domain::directory::LdapUrl;
    use crate::domain::ldap_text::Dn;

    const AGAIN: Duration = Duration::from_secs(3600);

    fn url() -> LdapUrl {
        LdapUrl::parse("ldap://ldap.example.org").unwrap()
    }

    fn silent() -> SyncError {
        DirectoryError::SilentRefresh { url: url(), base: Dn::parse("dc=example").unwrap(), entries: 9 }
            .into()
    }

    fn lost() -> SyncError {
        DirectoryError::Lost { url: url(), problem: ServerProblem::Closed }.into()
    }

    #[test]
    fn a_silent_server_is_swept_until_it_is_tried_again() {
        let mut refusals = Refusals::default();
        refusals.tries(Mechanism::ContentSync);
        assert!(refusals.failed(&silent()));
        let refusal = refusals.current(AGAIN).unwrap();
        let warning = refusal.warning("corp", AGAIN);
        assert!(warning.contains("falls silent") && warning.contains("tried again after 1h"), "{warning}");
        assert_eq!(refusals.current(Duration::ZERO), None);
        refusals.forget();
        assert_eq!(refusals.current(AGAIN), None);
    }

    #[test]
    fn one_that_breaks_off_is_swept_after_some_times() {
        let mut refusals = Refusals::default();
        let fail = |refusals: &mut Refusals| {
            refusals.tries(Mechanism::ContentSync);
            refusals.failed(&lost())
        };
        assert!(!fail(&mut refusals) && !fail(&mut refusals));
        refusals.succeeded();
        assert!(!fail(&mut refusals) && !fail(&mut refusals) && fail(&mut refusals));
        assert!(refusals.current(AGAIN).is_some());
    }

    #[test]
    fn what_happens_to_a_sweep_or_after_a_refresh_is_no_refusal() {
        let mut refusals = Refusals::default();
        refusals.tries(Mechanism::Sweep);
        assert!(!refusals.failed(&silent()));
        refusals.tries(Mechanism::ContentSync);
        refusals.succeeded();
        assert!(!refusals.failed(&silent()));
        refusals.tries(Mechanism::ContentSync);
        assert!(!refusals.failed(&DirectoryError::NoServer(Vec::new()).into()));
        assert_eq!(refusals.current(AGAIN), None);
    }
}
