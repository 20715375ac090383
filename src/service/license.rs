//! The licence as the rest of the daemon sees it: what is in force, and how to ask for another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::answers::{ComingLicense, ComponentStatus, LicenseStatus, RefreshStatus};
use crate::domain::license::{ComponentStanding, License, State};
use crate::store::{LicenseRecord, Policy, ReadView, StoreError};

/// Commands that may wait: administrators ask for a licence one by one.
const QUEUE: usize = 8;

/// What its keeper last told of the licence.
#[derive(Clone, Debug)]
pub struct LicenseFacts {
    /// The seats are declared in the configuration.
    pub declared: bool,
    /// Where the licence is in its life.
    pub state: State,
    /// The signed licence in force.
    pub license: Option<License>,
    /// What outlives a restart.
    pub record: LicenseRecord,
    /// The licence server, where one is configured.
    pub server: Option<String>,
    /// When it is asked next.
    pub next_refresh: Option<Timestamp>,
    /// The signed licence that takes effect on a later day.
    pub coming: Option<License>,
    /// What somebody should look at: a licence that was refused.
    pub problems: Vec<String>,
}

impl Default for LicenseFacts {
    fn default() -> LicenseFacts {
        LicenseFacts {
            declared: true,
            state: State::Missing,
            license: None,
            record: LicenseRecord::default(),
            server: None,
            next_refresh: None,
            coming: None,
            problems: Vec::new(),
        }
    }
}

/// An activation key: a secret that nothing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct ActivationKey(pub String);

impl fmt::Debug for ActivationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActivationKey(…)")
    }
}

/// Details of a customer: `name`, `email`, and whatever else the vendor asks for.
pub type CustomerDetails = BTreeMap<String, String>;

/// What can be asked of the licence's keeper.
#[derive(Debug)]
pub enum LicenseCommand {
    /// Put a signed licence in force.
    Install {
        /// The licence.
        token: String,
        /// Also an older one.
        force: bool,
        /// Where the outcome goes.
        reply: Reply,
    },
    /// Have the server bind a licence to this installation.
    Activate {
        /// What the customer got from the vendor.
        key: ActivationKey,
        /// Who registers.
        customer: CustomerDetails,
        /// Where the outcome goes.
        reply: Reply,
    },
    /// Look at the dates: it is another time.
    Look {
        /// Where the outcome goes.
        reply: Reply,
    },
    /// Ask the server for a newer licence now.
    Refresh {
        /// Where the outcome goes.
        reply: Reply,
    },
    /// Give the licence back, so that another installation can be activated.
    Deactivate {
        /// Where the outcome goes.
        reply: Reply,
    },
}

/// Where a sentence goes that says what was done, or why not.
pub type Reply = oneshot::Sender<Result<String, LicenseFailure>>;

/// Why nothing was done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LicenseFailure {
    /// The licence, or the server, says no.
    #[error("{0}")]
    Refused(String),
    /// The server can't be reached; later it may be.
    #[error("{0}")]
    Unreachable(String),
}

/// The licence's place, which its keeper keeps true.
#[derive(Clone)]
pub struct LicenseBoard {
    facts: Arc<RwLock<Arc<LicenseFacts>>>,
    commands: mpsc::Sender<LicenseCommand>,
}

impl LicenseBoard {
    /// A board, and where its commands arrive.
    pub fn new() -> (LicenseBoard, mpsc::Receiver<LicenseCommand>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        (LicenseBoard { facts: Arc::default(), commands }, queue)
    }

    /// Tells what is in force.
    pub fn publish(&self, facts: LicenseFacts) {
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    /// What was told last.
    pub fn facts(&self) -> Arc<LicenseFacts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the keeper, and waits for what it says.
    pub(super) async fn ask(
        &self,
        command: impl FnOnce(Reply) -> LicenseCommand,
    ) -> Result<String, LicenseFailure> {
        let stopped = || LicenseFailure::Unreachable("the daemon is stopping".to_owned());
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                LicenseFailure::Unreachable("too many requests wait: try again later".to_owned())
            }
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        answer.await.map_err(|_| stopped())?
    }
}

/// All about the licence, for people. `now` is the time that its states come by.
pub(super) fn status(
    facts: &LicenseFacts,
    policy: &Policy,
    view: &ReadView,
    now: Timestamp,
) -> Result<LicenseStatus, StoreError> {
    let license = facts.license.as_ref();
    let declared = facts.declared && policy.seat_limit.is_some();
    let state = if declared { State::Active } else { facts.state };
    Ok(LicenseStatus {
        state: state.as_str().to_owned(),
        declared,
        seats: license.map_or(policy.seat_limit.unwrap_or(0), |license| license.seats),
        seatless: policy.seatless_limit,
        overage_percent: license.map_or(0, |license| license.overage_percent),
        to_release: view.seats_used()?.saturating_sub(policy.seat_limit.unwrap_or(u64::MAX)),
        components: license.map(|license| components(license, policy, view)).transpose()?.unwrap_or_default(),
        licensee: license.and_then(|license| license.customer.name.clone()),
        email: license.and_then(|license| license.customer.email.clone()),
        id: license.map(|license| license.id.clone()),
        serial: license.map(|license| license.serial),
        issuer: license.and_then(|license| license.issuer.clone()),
        issued_at: license.map(|license| license.issued_at),
        registered: license.and_then(|license| license.registered).map(|date| date.to_string()),
        maintenance_until: license.and_then(|license| license.maintenance_until).map(|date| date.to_string()),
        expires: license.and_then(|license| license.expires),
        days_left: license.and_then(|license| license.expires).map(|end| days(now, end)),
        ends: license.and_then(License::ends),
        on_expiry: license.map(|license| license.on_expiry.as_str().to_owned()),
        installation: facts.record.installation.clone(),
        bound: license.is_some_and(|license| license.installation.is_some()),
        installed_at: facts.record.installed_at.filter(|_| license.is_some()),
        server: facts.server.clone(),
        last_refresh: facts.record.refresh.as_ref().map(|refresh| RefreshStatus {
            at: refresh.at,
            outcome: refresh.outcome.clone(),
            error: refresh.error.clone(),
        }),
        next_refresh: facts.next_refresh,
        coming: facts.coming.as_ref().map(|license| ComingLicense {
            id: license.id.clone(),
            serial: license.serial,
            seats: license.seats,
            not_before: license.not_before.unwrap_or(license.issued_at),
        }),
        problems: facts.problems.clone(),
    })
}

/// Whole days until then; negative when it is over.
fn days(now: Timestamp, then: Timestamp) -> i64 {
    then.duration_since(now).as_secs().div_euclid(86_400)
}

fn components(
    license: &License,
    policy: &Policy,
    view: &ReadView,
) -> Result<Vec<ComponentStatus>, StoreError> {
    let status = |(name, component): (&_, &crate::domain::license::Component)| {
        let standing = policy.components.standing(name);
        Ok(ComponentStatus {
            name: name.to_string(),
            licensed: matches!(standing, ComponentStanding::Licensed { .. }),
            seats: component.seats,
            used: component.seats.map(|_| view.component_seats_used(name)).transpose()?,
            expires: component.expires.map(|date| date.to_string()),
        })
    };
    license.components.iter().map(status).collect()
}
