//! Local and imported accounts: what an administrator can do to them.

use std::sync::Arc;

use tracing::info;

use super::admin::{Admin, AdminError};
use super::answers::AccountReport;
use super::hashes;
use super::log_release;
use crate::domain::account::{AccountChange, AccountRefusal, MAX_ALIASES, NewAccount};
use crate::domain::name::Name;
use crate::domain::password::Password;
use crate::store::AccountChanged;

/// The words for an account's change.
#[derive(Clone, Copy)]
struct Words {
    /// The event in the log, and what it says of the user.
    event: &'static str,
    happened: &'static str,
    outcome: &'static str,
    /// What the administrator reads, and that where nothing was to be done.
    done: &'static str,
    nothing: &'static str,
}

impl Admin {
    /// Creates a local account, which takes a seat.
    pub async fn add_account(
        &self,
        address: &str,
        display_name: Option<&str>,
        aliases: &[String],
    ) -> Result<AccountReport, AdminError> {
        if aliases.len() > MAX_ALIASES {
            return Err(AdminError::TooManyAliases);
        }
        let aliases = aliases.iter().map(|alias| self.address(alias)).collect::<Result<_, _>>()?;
        let account = NewAccount::new(self.address(address)?, aliases, display_name);
        let words = Words {
            event: "user_added",
            happened: "was created",
            outcome: "added",
            done: "The account was created",
            nothing: "",
        };
        self.change_account(AccountChange::Add(account), words).await
    }

    /// Removes a local or imported account. Its seat is free at once, its history stays.
    pub async fn remove_account(&self, name: &str) -> Result<AccountReport, AdminError> {
        let words = Words {
            event: "user_removed",
            happened: "was removed",
            outcome: "removed",
            done: "The account was removed",
            nothing: "",
        };
        self.change_account(AccountChange::Remove(self.parse(name)?), words).await
    }

    /// Enables a local or imported account, which takes a seat.
    pub async fn enable_account(&self, name: &str) -> Result<AccountReport, AdminError> {
        let nothing = "The account is enabled already.";
        let words = Words {
            event: "user_changed",
            happened: "was enabled",
            outcome: "enabled",
            done: "The account was enabled",
            nothing,
        };
        self.change_account(AccountChange::Enable(self.parse(name)?), words).await
    }

    /// Disables a local or imported account. Its seat is free at once.
    pub async fn disable_account(&self, name: &str) -> Result<AccountReport, AdminError> {
        let nothing = "The account is disabled already.";
        let words = Words {
            event: "user_disabled",
            happened: "was disabled",
            outcome: "disabled",
            done: "The account was disabled",
            nothing,
        };
        self.change_account(AccountChange::Disable(self.parse(name)?), words).await
    }

    /// Gives a local or imported account another password.
    pub async fn set_account_password(
        &self,
        name: &str,
        password: &[u8],
    ) -> Result<AccountReport, AdminError> {
        let password = Password::parse(password).map(Arc::new).ok_or(AdminError::BadPassword)?;
        let hash = hashes::hash(password).await.map_err(AdminError::Hash)?;
        let words = Words {
            event: "user_changed",
            happened: "has another password",
            outcome: "password_set",
            done: "The password was set",
            nothing: "",
        };
        self.change_account(AccountChange::SetPassword(self.parse(name)?, hash), words).await
    }

    fn address(&self, text: &str) -> Result<Name, AdminError> {
        Name::parse_address(text, self.settings().default_domain.as_ref())
            .map_err(|error| AdminError::BadName(text.to_owned(), error))
    }

    async fn change_account(&self, change: AccountChange, words: Words) -> Result<AccountReport, AdminError> {
        let changed = self.store().account(change, self.store().now()).await??;
        let AccountChanged { name, origin, unchanged, granted, released, seats_used } = changed;
        if let Some(seat) = &granted {
            let by = seat.by.to_string();
            info!(event = "seat_granted", user = %name, by, seats_used, "{name} took a seat.");
        }
        if let Some(released) = &released {
            log_release(released);
        }
        let message = match (unchanged, &granted, &released) {
            (true, ..) => words.nothing.to_owned(),
            (false, Some(_), _) => format!("{} and took a seat.", words.done),
            (false, None, Some(_)) => format!("{} and the seat released.", words.done),
            (false, None, None) => format!("{}.", words.done),
        };
        let (user, origin) = (name.to_string(), origin.to_string());
        if !unchanged {
            let Words { event, happened, .. } = words;
            info!(event, user, origin, "{user} {happened}.");
        }
        Ok(AccountReport {
            user,
            origin,
            outcome: if unchanged { "unchanged" } else { words.outcome }.to_owned(),
            message,
            seats_used,
        })
    }
}

impl From<AccountRefusal> for AdminError {
    fn from(refusal: AccountRefusal) -> AdminError {
        match refusal {
            AccountRefusal::Unknown(name) => AdminError::NoSuchUser(name.to_string()),
            refusal => AdminError::Account(refusal),
        }
    }
}
