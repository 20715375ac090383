//! What is said to the licence server, and what becomes of its answers.

use tracing::{debug, error, warn};

use super::{InstallError, Keeper, Locked, Via, refused, sentence};
use crate::licensing::client::{Answer, Answered, LicenseServer, ServerFailure};
use crate::licensing::protocol::ActivationRequest;
use crate::licensing::time::{self, Nonce};
use crate::service::license::{ActivationKey, CustomerDetails, LicenseFailure};
use crate::store::{RefreshRecord, StoreError};

impl From<ServerFailure> for LicenseFailure {
    fn from(failure: ServerFailure) -> LicenseFailure {
        match failure {
            ServerFailure::Transient(said) => LicenseFailure::Unreachable(said),
            ServerFailure::Permanent(said) => LicenseFailure::Refused(said),
        }
    }
}

impl From<StoreError> for LicenseFailure {
    fn from(error: StoreError) -> LicenseFailure {
        LicenseFailure::Unreachable(error.to_string())
    }
}

fn no_server() -> LicenseFailure {
    LicenseFailure::Refused("no licence server is configured: write server into [license]".to_owned())
}

fn no_licence() -> LicenseFailure {
    LicenseFailure::Refused("there is no signed licence in force".to_owned())
}

/// What there is to ask the server with.
struct Question {
    server: Option<LicenseServer>,
    token: Option<String>,
    etag: Option<String>,
    installation: String,
}

impl Keeper {
    /// The lock is not held while the server is asked.
    async fn question(&self) -> Question {
        let held = self.0.held.lock().await;
        let signed = &held.settings.signed;
        let server = |url: &String| LicenseServer { url: url.clone(), ca_file: signed.ca_file.clone() };
        Question {
            server: signed.server.as_ref().map(server),
            token: held.record.token.clone().filter(|_| held.license.is_some()),
            etag: held.record.refresh.as_ref().and_then(|refresh| refresh.etag.clone()),
            installation: held.record.installation.clone(),
        }
    }

    pub(super) async fn activate(
        &self,
        ActivationKey(key): ActivationKey,
        customer: CustomerDetails,
    ) -> Result<String, LicenseFailure> {
        let Question { server, installation, .. } = self.question().await;
        let request = ActivationRequest { key, installation, customer };
        let nonce = Nonce::random();
        let Answered { answer, time } =
            server.ok_or_else(no_server)?.activate(&request, nonce.as_ref()).await?;
        let Answer::License { token, etag } = answer else { return Err(no_licence()) };
        let mut held = self.0.held.lock().await;
        self.note_time(&held, time, nonce.as_ref());
        let license = self.put(&mut held, &token, Via::Activation).await.map_err(|error| refused(&error))?;
        let at = self.0.store.now();
        let outcome = "updated".to_owned();
        held.record.refresh = Some(RefreshRecord { at, etag, failures: 0, outcome, error: None });
        self.apply(&mut held).await?;
        // `apply` has seen no difference where only the answer's time is new.
        self.0.store.keep_license(held.record.clone()).await?;
        Ok(sentence(&license))
    }

    pub(super) async fn deactivate(&self) -> Result<String, LicenseFailure> {
        let Question { server, token, .. } = self.question().await;
        let token = token.ok_or_else(no_licence)?;
        let is_told = server.is_some();
        if let Some(server) = server {
            server.deactivate(&token).await?;
        }
        let mut held = self.0.held.lock().await;
        let Some(license) = held.license.take() else { return Err(no_licence()) };
        held.record.token = None;
        held.record.refresh = None;
        (held.record.coming, held.coming) = (None, None);
        // A copy of the licence that was given back must not be installed again.
        held.record.serials.insert(license.id.clone(), license.serial.saturating_add(1));
        self.0.store.keep_license(held.record.clone()).await?;
        self.apply(&mut held).await?;
        let id = license.id;
        Ok(match is_told {
            true => format!("The licence {id} was given back, and may be activated elsewhere."),
            false => format!("The licence {id} is not used here any more; tell the vendor, who frees it."),
        })
    }

    pub(super) async fn refresh(&self) -> Result<String, LicenseFailure> {
        let Question { server, token, etag, .. } = self.question().await;
        let (server, token) = (server.ok_or_else(no_server)?, token.ok_or_else(no_licence)?);
        let nonce = Nonce::random();
        let answered = server.refresh(&token, etag.as_deref(), nonce.as_ref()).await;
        let mut held = self.0.held.lock().await;
        let answer = answered.map(|Answered { answer, time }| {
            self.note_time(&held, time, nonce.as_ref());
            answer
        });
        let outcome = self.conclude(&mut held, answer).await;
        held.chance = fastrand::f64();
        self.0.store.keep_license(held.record.clone()).await?;
        self.apply(&mut held).await?;
        outcome
    }

    /// Takes over what time it is, where the server has signed it for us.
    fn note_time(&self, held: &Locked<'_>, time: Option<String>, nonce: Option<&Nonce>) {
        let (Some(token), Some(nonce)) = (time, nonce) else { return };
        match time::verify(&token, &held.settings.signed.trusted_keys, nonce) {
            Ok(time) => self.0.store.clock().signed(time),
            Err(error) => {
                warn!(reason = %error, "The time that the licence server sent does not count: {error}.")
            }
        }
    }

    /// Takes over what the server answered, and keeps how it went.
    async fn conclude(
        &self,
        held: &mut Locked<'_>,
        answer: Result<Answer, ServerFailure>,
    ) -> Result<String, LicenseFailure> {
        let before = held.record.refresh.clone();
        let same_etag = before.as_ref().and_then(|before| before.etag.clone());
        let (outcome, etag, result) = match answer {
            Ok(Answer::Unchanged) => ("unchanged", same_etag, Ok(unchanged())),
            Ok(Answer::License { token, etag }) if held.record.token.as_deref() == Some(token.trim()) => {
                ("unchanged", etag, Ok(unchanged()))
            }
            Ok(Answer::License { token, etag }) => match self.put(held, &token, Via::Refresh).await {
                Ok(license) => ("updated", etag, Ok(sentence(&license))),
                Err(InstallError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    let said = format!("the licence server sent a licence that is refused: {error}");
                    ("refused", None, Err(LicenseFailure::Refused(said)))
                }
            },
            Err(failure) => {
                let failure = LicenseFailure::from(failure);
                let outcome = match failure {
                    LicenseFailure::Unreachable(_) => "unreachable",
                    LicenseFailure::Refused(_) => "refused",
                };
                (outcome, same_etag, Err(failure))
            }
        };
        let failures = match &result {
            Err(LicenseFailure::Unreachable(_)) => before.as_ref().map_or(0, |before| before.failures) + 1,
            _ => 0,
        };
        let error = result.as_ref().err().map(ToString::to_string);
        let refresh =
            RefreshRecord { at: self.0.store.now(), etag, failures, outcome: outcome.to_owned(), error };
        tell(before.as_ref(), &refresh);
        held.record.refresh = Some(refresh);
        result
    }
}

fn unchanged() -> String {
    "The licence in hand is the newest.".to_owned()
}

/// Says what went wrong, once: the server is asked again and again.
fn tell(before: Option<&RefreshRecord>, now: &RefreshRecord) {
    let Some(reason) = now.error.as_deref() else {
        debug!(outcome = now.outcome, "The licence server was asked.");
        return;
    };
    let is_told = before.is_some_and(|before| before.outcome == now.outcome);
    match now.outcome.as_str() {
        _ if is_told => debug!(reason, "The licence server gave no licence again."),
        "unreachable" => {
            warn!(
                event = "license_refresh_failed",
                reason, "The licence in hand goes on working, and the server is asked again: {reason}"
            );
        }
        _ => {
            error!(event = "license_refresh_failed", reason, "The licence in hand goes on working: {reason}")
        }
    }
}
