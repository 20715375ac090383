//! Passwords: who is it, before the question whether they may come in.
//!
//! A password is verified where it belongs, by a bind as the user at the user's directory. Only after a right one is a
//! seat considered, and only then may the reason of a refusal be told: an unknown user and a wrong password look
//! the same, also in the time that they take. A directory that can't be asked is an error, never a refusal.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use tokio::sync::Mutex as Turn;
use tracing::{debug, warn};

use super::answers::Verdict;
use super::throttle::{Gate, Tag, Throttle};
use super::{Admission, AdmitError, Ask, Settings};
use crate::domain::admission::{Decision, Operation};
use crate::domain::name::Name;
use crate::domain::password::Password;
use crate::domain::user::{Kind, User, UserKey};

/// From the question to the directory's answer, the wait for a connection included. Mail servers wait longer.
const VERIFY_DEADLINE: Duration = Duration::from_secs(5);

/// Right passwords remembered in each of two generations, where that is switched on: 5 MB in all.
const MAX_REMEMBERED: usize = 20_000;

/// What a person reads who is not let in before a decision.
const WRONG: &str = "The user name or the password is wrong.";
const THROTTLED: &str = "Too many failed logins. Please try again in a few minutes.";

/// Verifies passwords at directories; the daemon puts it together.
pub trait Verify: Send + Sync {
    /// Whether it is the password of the entry `dn` in a directory, by its name. Without a DN nobody's password is
    /// tried there, which takes as long and fails as well when the directory is down. An error is a sentence.
    fn verify<'a>(
        &'a self,
        directory: &'a str,
        dn: Option<&'a str>,
        password: &'a Arc<Password>,
    ) -> Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>>;
}

/// One try to log in, as it came in.
pub struct Attempt<'a> {
    /// Who: a login name or an address, not yet checked.
    pub user: &'a str,
    /// `None` where it can be nobody's.
    pub password: Option<Arc<Password>>,
    /// Through which service.
    pub service: Option<&'a str>,
    /// The client's address, where it is known.
    pub client: Option<IpAddr>,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Login {
    /// The password is right, and this was decided.
    Decided(Name, Decision),
    /// There is no such user, or it is not their password.
    Wrong,
    /// Not looked at: there were too many failures before.
    Throttled,
}

impl Login {
    /// The user in the compared form, where they may come in.
    pub fn allowed(&self) -> Option<&Name> {
        match self {
            Login::Decided(name, decision) if decision.allows() => Some(name),
            _ => None,
        }
    }

    /// One sentence for the person, of printable ASCII.
    pub fn message(&self) -> &'static str {
        match self {
            Login::Decided(_, decision) => decision.message(),
            Login::Wrong => WRONG,
            Login::Throttled => THROTTLED,
        }
    }

    /// The answer of the HTTP API about `user`, the name that was typed.
    pub fn verdict(&self, user: &str) -> Verdict {
        let (code, shown) = match self {
            Login::Decided(name, decision) => return Verdict::new(decision, name.as_str()),
            Login::Wrong => ("wrong_password", user),
            Login::Throttled => ("throttled", user),
        };
        Verdict {
            allow: false,
            decision: code.to_owned(),
            user: shown.to_owned(),
            message: self.message().to_owned(),
        }
    }
}

/// Why nothing is known about a try.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The directory can't be asked.
    #[error("a password cannot be verified: {0}")]
    Directory(String),
    /// It has not answered in time.
    #[error("a password cannot be verified: the directory {0} has not answered within {VERIFY_DEADLINE:?}")]
    Deadline(String),
    /// There is no decision.
    #[error(transparent)]
    Admit(#[from] AdmitError),
}

/// Verifies passwords and then decides; clones share it.
#[derive(Clone)]
pub struct Authenticator(Arc<Shared>);

struct Shared {
    admission: Admission,
    verify: Arc<dyn Verify>,
    throttle: Throttle,
    turns: Turns,
    cache: Cache,
}

/// Where a user's password is verified.
struct Place {
    tag: Tag,
    directory: String,
    /// `None` for somebody who has no entry with a password.
    dn: Option<String>,
}

impl Authenticator {
    /// Without a cache until [`Authenticator::set_cache`].
    pub fn new(admission: Admission, verify: Arc<dyn Verify>) -> Authenticator {
        let (throttle, turns, cache) = (Throttle::default(), Turns::default(), Cache::new());
        Authenticator(Arc::new(Shared { admission, verify, throttle, turns, cache }))
    }

    /// How long a right password is remembered; zero never.
    pub fn set_cache(&self, keep: Duration) {
        self.0.cache.set(keep);
    }

    /// Verifies a password, and then decides about the login.
    pub async fn log_in(&self, attempt: &Attempt<'_>) -> Result<Login, AuthError> {
        let Shared { admission, throttle, .. } = &*self.0;
        let settings = admission.0.settings();
        let name = Name::parse(attempt.user, settings.default_domain.as_ref()).ok();
        let place = match &name {
            Some(name) => self.place(name, &settings)?,
            None => None,
        };
        let tag = place.as_ref().map_or_else(|| throttle.tag(attempt.user), |place| place.tag);
        match throttle.gate(tag, attempt.client, Instant::now()) {
            Gate::Open => {}
            Gate::Slow(wait) => tokio::time::sleep(wait).await,
            Gate::Shut => return Ok(Login::Throttled),
        }
        // What was sent as a name may be a password that was typed into the wrong field: it isn't logged.
        let shown = name.as_ref().map_or("", Name::as_str);
        match self.is_right(place, attempt).await? {
            Some(true) => {}
            Some(false) => {
                if throttle.failed(tag, attempt.client, Instant::now()) {
                    warn!(
                        user = shown,
                        client = attempt.client.map(tracing::field::display),
                        "Too many failed logins of {shown}: no password is tried for a while."
                    );
                }
                debug!(user = shown, "The user is unknown or the password wrong.");
                return Ok(Login::Wrong);
            }
            None => return Ok(Login::Throttled),
        }
        let Some(name) = name else { return Ok(Login::Wrong) };
        throttle.succeeded(tag);
        let operation = Operation::Login;
        let ask = Ask { user: name.as_str(), service: attempt.service, operation, client: attempt.client };
        let decision = admission.decision(&ask).await?;
        Ok(Login::Decided(name, decision))
    }

    /// `None` where too many others failed while this one waited for its turn.
    async fn is_right(&self, place: Option<Place>, attempt: &Attempt<'_>) -> Result<Option<bool>, AuthError> {
        let Shared { verify, throttle, turns, cache, .. } = &*self.0;
        let (Some(place), Some(password)) = (place, &attempt.password) else { return Ok(Some(false)) };
        if cache.knows(&place, password) {
            return Ok(Some(true));
        }
        let verifying = turns.take(place.tag, async {
            if throttle.gate(place.tag, attempt.client, Instant::now()) == Gate::Shut {
                return Ok(None);
            }
            verify.verify(&place.directory, place.dn.as_deref(), password).await.map(Some)
        });
        let is_right = match tokio::time::timeout(VERIFY_DEADLINE, verifying).await {
            Ok(verified) => verified.map_err(AuthError::Directory)?,
            Err(_) => return Err(AuthError::Deadline(place.directory)),
        };
        if is_right == Some(true) {
            cache.remember(&place, password);
        }
        Ok(is_right)
    }

    /// Where the password of a name is verified. An unknown name is looked for where its domain is served, as a
    /// known one would be; `None` where nobody serves it.
    fn place(&self, name: &Name, settings: &Settings) -> Result<Option<Place>, AdmitError> {
        let admission = &self.0.admission;
        let throttle = &self.0.throttle;
        if let Some((key, user, directory)) = admission.entry(name)? {
            let is_person = user.mapped.kind == Kind::Person && user.is_living();
            let dn = is_person.then(|| user.mapped.dn.to_string());
            return Ok(Some(Place { tag: throttle.tag(key), directory, dn }));
        }
        if let Some(directory) = admission.may_be_unmapped(name, settings) {
            return Err(AdmitError::NotMapped(directory));
        }
        let served = settings.directories.iter().find(|(_, domain)| domain.as_str() == name.domain());
        let tag = throttle.tag(name);
        Ok(served.map(|(directory, _)| Place { tag, directory: directory.clone(), dn: None }))
    }
}

/// One bind at a time for each user: an attacker who tries in parallel gains nothing by it.
#[derive(Default)]
struct Turns(Mutex<HashMap<Tag, Arc<Turn<()>>>>);

impl Turns {
    async fn take<T>(&self, tag: Tag, work: impl Future<Output = T>) -> T {
        let place = InLine { turns: self, tag, turn: self.lock().entry(tag).or_default().clone() };
        let _turn = place.turn.lock().await;
        work.await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Tag, Arc<Turn<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line, whether it is one's turn or one gave up: the last one out puts the light off.
struct InLine<'a> {
    turns: &'a Turns,
    tag: Tag,
    turn: Arc<Turn<()>>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        // The map's and ours.
        if Arc::strong_count(&self.turn) <= 2 {
            turns.remove(&self.tag);
        }
    }
}

/// Right passwords, as keyed hashes under a key that no other process knows.
struct Cache {
    key: Option<hmac::Key>,
    keep: RwLock<Duration>,
    known: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    young: HashMap<Vec<u8>, Instant>,
    old: HashMap<Vec<u8>, Instant>,
}

impl Cache {
    fn new() -> Cache {
        // Without chance there is no cache.
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()).ok();
        Cache { key, keep: RwLock::default(), known: Mutex::default() }
    }

    fn set(&self, keep: Duration) {
        *self.keep.write().unwrap_or_else(PoisonError::into_inner) = keep;
        // What was remembered under another rule is forgotten.
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Remembered::default();
    }

    fn keep(&self) -> Duration {
        *self.keep.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who, where and what; lengths keep the parts apart.
    fn hash(&self, Place { directory, dn, .. }: &Place, password: &Password) -> Option<Vec<u8>> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        for part in [directory.as_str(), dn.as_deref()?, password.expose()] {
            context.update(&part.len().to_le_bytes());
            context.update(part.as_bytes());
        }
        Some(context.sign().as_ref().to_vec())
    }

    fn knows(&self, place: &Place, password: &Password) -> bool {
        let keep = self.keep();
        if keep.is_zero() {
            return false;
        }
        let Some(hash) = self.hash(place, password) else { return false };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.young.get(&hash).or_else(|| known.old.get(&hash));
        at.is_some_and(|at| at.elapsed() < keep)
    }

    fn remember(&self, place: &Place, password: &Password) {
        if self.keep().is_zero() {
            return;
        }
        let Some(hash) = self.hash(place, password) else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.young.len() >= MAX_REMEMBERED {
            known.old = std::mem::take(&mut known.young);
        }
        known.young.insert(hash, Instant::now());
    }
}

impl Admission {
    /// The user of a name, with the name of their directory.
    fn entry(&self, name: &Name) -> Result<Option<(UserKey, User, String)>, AdmitError> {
        let view = self.0.store.view();
        let Some(key) = view.find(name)? else { return Ok(None) };
        let Some(user) = view.user_of(key)? else { return Ok(None) };
        let record = view.directories().find(|record| record.id == user.directory);
        Ok(record.map(|record| (key, user, record.name.clone())))
    }
}

#[cfg(test)]
pub(crate) mod tests;
