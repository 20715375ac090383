//! Passwords: who is it, before the question whether they may come in.
//!
//! A password is verified where it belongs, by a bind as the user at the user's directory. Only after a right one is a
//! seat considered, and only then may the reason of a refusal be told: an unknown user and a wrong password look
//! the same, also in the time that they take. A directory that can't be asked is an error, never a refusal.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use tokio::sync::Mutex as Turn;
use tracing::{debug, warn};

use super::answers::Verdict;
use super::hashes::{self, HashError};
use super::recent::Recent;
use super::throttle::{Gate, SLOWER, Shut, Tag, Throttle};
use super::{Admission, AdmitError, Ask};
use crate::domain::admission::{Decision, Operation};
use crate::domain::name::Name;
use crate::domain::names::Purpose;
use crate::domain::password::{Password, PasswordHash};
use crate::domain::user::{Kind, Origin, User, UserKey};

/// From the question to the directory's answer, the wait for a connection included. Mail servers wait longer.
const VERIFY_DEADLINE: Duration = Duration::from_secs(5);

/// From a try to the answer of the directory, or to the word that there is none.
pub const LONGEST_LOGIN: Duration = SLOWER.saturating_add(VERIFY_DEADLINE);

/// Right passwords remembered, where that is switched on: up to twice as many, 5 MB in all.
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
    /// A local account's hash can't be computed.
    #[error("a password cannot be verified: {0}")]
    Hash(HashError),
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
    proof: Proof,
}

enum Proof {
    /// At a directory, by its name; without a DN for somebody who has no entry with a password.
    Bind { directory: String, dn: Option<String> },
    /// Here: a local or imported account, or nobody where there are such accounts.
    Hash(Option<PasswordHash>),
}

impl Authenticator {
    /// Without a cache until [`Authenticator::set_cache`].
    pub fn new(admission: Admission, verify: Arc<dyn Verify>) -> Authenticator {
        let (throttle, turns, cache) = (Throttle::new(), Turns::default(), Cache::new());
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
            Some(name) => self.place(name)?,
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
                if let Some(shut) = throttle.failed(tag, attempt.client, Instant::now()) {
                    warn_shut(shut, shown, attempt.client);
                }
                debug!(user = shown, "The user is unknown or the password wrong.");
                return Ok(Login::Wrong);
            }
            None => return Ok(Login::Throttled),
        }
        let Some(name) = name else { return Ok(Login::Wrong) };
        throttle.succeeded(tag, attempt.client);
        let operation = Operation::Login;
        let ask = Ask { user: name.as_str(), service: attempt.service, operation, client: attempt.client };
        let decision = admission.decision(&ask).await?;
        Ok(Login::Decided(name, decision))
    }

    /// `None` where too many others failed while this one waited for its turn.
    async fn is_right(&self, place: Option<Place>, attempt: &Attempt<'_>) -> Result<Option<bool>, AuthError> {
        let Shared { verify, throttle, turns, cache, .. } = &*self.0;
        let (Some(place), Some(password)) = (place, &attempt.password) else { return Ok(Some(false)) };
        let is_shut = || throttle.gate(place.tag, attempt.client, Instant::now()) == Gate::Shut;
        let (directory, dn) = match place.proof {
            Proof::Hash(hash) => {
                let verifying = turns.take(place.tag, async {
                    if is_shut() {
                        return Ok(None);
                    }
                    hashes::verify(hash, Arc::clone(password)).await.map(Some)
                });
                return verifying.await.map_err(AuthError::Hash);
            }
            Proof::Bind { directory, dn } => (directory, dn),
        };
        let remembered = cache.hash(&directory, dn.as_deref(), password);
        if remembered.as_ref().is_some_and(|hash| cache.knows(hash)) {
            return Ok(Some(true));
        }
        let verifying = turns.take(place.tag, async {
            if is_shut() {
                return Ok(None);
            }
            verify.verify(&directory, dn.as_deref(), password).await.map(Some)
        });
        let is_right = match tokio::time::timeout(VERIFY_DEADLINE, verifying).await {
            Ok(verified) => verified.map_err(AuthError::Directory)?,
            Err(_) => return Err(AuthError::Deadline(directory)),
        };
        if let (Some(true), Some(hash)) = (is_right, remembered) {
            cache.remember(hash);
        }
        Ok(is_right)
    }

    /// Where the password of a name is verified. An unknown name is looked for where its domain is served, as a
    /// known one would be; `None` where nobody serves it.
    fn place(&self, name: &Name) -> Result<Option<Place>, AdmitError> {
        let admission = &self.0.admission;
        let throttle = &self.0.throttle;
        if let Some(entry) = admission.entry(name)? {
            let tag = throttle.tag(entry.key);
            let is_person = entry.user.mapped.kind == Kind::Person && entry.user.is_living();
            let proof = match entry.origin {
                Origin::Mapped => {
                    let dn = is_person.then(|| entry.user.mapped.dn.to_string());
                    Proof::Bind { directory: entry.directory, dn }
                }
                // The internal administrator is let in whatever the state of the account: so a disabled one must
                // not verify a password.
                Origin::Local | Origin::Imported => {
                    let is_shut = entry.is_administrator && !entry.user.mapped.enabled;
                    Proof::Hash(entry.hash.filter(|_| !is_shut))
                }
            };
            return Ok(Some(Place { tag, proof }));
        }
        if let Some(directory) = admission.may_be_unmapped(name) {
            return Err(AdmitError::NotMapped(directory));
        }
        let tag = throttle.tag(name);
        Ok(match admission.0.coverage().directory_of(name.domain()) {
            Some(directory) => {
                Some(Place { tag, proof: Proof::Bind { directory: directory.to_owned(), dn: None } })
            }
            None => admission.has_accounts().then_some(Place { tag, proof: Proof::Hash(None) }),
        })
    }
}

/// An empty `user` is a name that nobody can have.
fn warn_shut(shut: Shut, user: &str, client: Option<IpAddr>) {
    let from = client.map_or_else(|| "an address that is not told".to_owned(), |client| client.to_string());
    let whose = if user.is_empty() { "a name that nobody can have" } else { user };
    let told = match shut {
        Shut::Place => format!("of {whose} from {from}: none of these is tried for a while"),
        Shut::Client => format!("from {from}: none from there is tried for a while"),
        Shut::User => format!("of {whose} from many addresses: none from a new one is tried for a while"),
    };
    warn!(user, client = client.map(tracing::field::display), "Too many failed logins {told}.");
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
    /// Made when it is first used: the library needs some 30 ms to find chance for the first time, which a start
    /// without a cache need not wait for. Without chance there is no cache.
    key: LazyLock<Option<hmac::Key>>,
    keep: RwLock<Duration>,
    /// When each of them was right.
    known: Mutex<Recent<Vec<u8>, Instant>>,
}

impl Cache {
    fn new() -> Cache {
        Cache {
            key: LazyLock::new(|| hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()).ok()),
            keep: RwLock::default(),
            known: Mutex::new(Recent::new(MAX_REMEMBERED)),
        }
    }

    fn set(&self, keep: Duration) {
        *self.keep.write().unwrap_or_else(PoisonError::into_inner) = keep;
        // What was remembered under another rule is forgotten.
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self) -> Duration {
        *self.keep.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who, where and what; lengths keep the parts apart. `None` where nothing is to be remembered.
    fn hash(&self, directory: &str, dn: Option<&str>, password: &Password) -> Option<Vec<u8>> {
        if self.keep().is_zero() {
            return None;
        }
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        for part in [directory, dn?, password.expose()] {
            context.update(&part.len().to_le_bytes());
            context.update(part.as_bytes());
        }
        Some(context.sign().as_ref().to_vec())
    }

    fn knows(&self, hash: &[u8]) -> bool {
        let keep = self.keep();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(hash).is_some_and(|at| at.elapsed() < keep)
    }

    fn remember(&self, hash: Vec<u8>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(hash, Instant::now());
    }
}

/// A user as far as passwords are concerned.
struct Entry {
    key: UserKey,
    user: User,
    directory: String,
    origin: Origin,
    hash: Option<PasswordHash>,
    is_administrator: bool,
}

impl Admission {
    fn entry(&self, name: &Name) -> Result<Option<Entry>, AdmitError> {
        let view = self.0.store.view();
        let Some(key) = view.find(name, Purpose::Login)? else { return Ok(None) };
        let Some(user) = view.user_of(key)? else { return Ok(None) };
        let hash = view.password_of(key)?;
        let is_administrator = view.is_administrator(name, Some(key))?;
        let record = view.directory(user.directory);
        Ok(record.map(|record| Entry {
            key,
            user,
            directory: record.name.clone(),
            origin: record.origin(),
            hash,
            is_administrator,
        }))
    }

    /// Whether there are local or imported accounts.
    fn has_accounts(&self) -> bool {
        let view = self.0.store.view();
        view.directories().any(|record| record.origin() != Origin::Mapped && record.census.people > 0)
    }
}

#[cfg(test)]
pub(crate) mod tests;
