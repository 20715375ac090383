//! The user whom an administrator means.

use std::sync::Arc;

use super::admin::{Admin, AdminError};
use crate::domain::mapping::unhex;
use crate::domain::name::{Name, StableId};
use crate::domain::user::UserKey;
use crate::store::{ReadView, StoreError};

impl Admin {
    /// Finds a user by an address, a login name, a stable id as `explain` shows it, or a DN; tombstones too. Where one
    /// name has two owners, or one id stands in two directories, nobody is guessed.
    pub(super) async fn resolve(&self, view: &Arc<ReadView>, text: &str) -> Result<UserKey, AdminError> {
        let name = self.parse(text);
        let by_name = name.as_ref().ok().map(|name| by_name(view, name)).transpose()?.flatten();
        let mut found = match unhex(text).and_then(|bytes| StableId::new(&bytes)) {
            Some(id) => view.find_by_id(&id)?,
            None if text.contains('=') => {
                let (view, dn) = (Arc::clone(view), text.trim().to_owned());
                let search = tokio::task::spawn_blocking(move || view.find_by_dn(&dn));
                search.await.map_err(|_| AdminError::Interrupted)??
            }
            None => Vec::new(),
        };
        // A user may have a name that looks like the id or the DN of another.
        found.extend(by_name.filter(|key| !found.contains(key)));
        match (found.as_slice(), name) {
            ([key], _) => Ok(*key),
            ([], Ok(name)) if view.name_rules().is_administrator(&name) => {
                Err(AdminError::OnlyAdministrator(name.to_string()))
            }
            ([], Ok(name)) => Err(AdminError::NoSuchUser(name.to_string())),
            ([], Err(error)) => Err(error),
            (several, _) => Err(ambiguous(view, text, several)?),
        }
    }
}

fn by_name(view: &ReadView, name: &Name) -> Result<Option<UserKey>, AdminError> {
    let owners = view.owners(name)?;
    match (owners.login, owners.mail) {
        (Some(login), Some(mail)) if login != mail => Err(ambiguous(view, name.as_str(), &[login, mail])?),
        (Some(key), _) | (None, Some(key)) => Ok(Some(key)),
        // A name that was withheld from the only user who has it still means that user.
        (None, None) => Ok(match view.users_claiming(name)?.as_slice() {
            [only] => Some(*only),
            _ => None,
        }),
    }
}

fn ambiguous(view: &ReadView, text: &str, keys: &[UserKey]) -> Result<AdminError, StoreError> {
    let mut users = Vec::new();
    for key in keys {
        if let Some(details) = view.details(*key)? {
            let directory = details.directory.unwrap_or_else(|| details.origin.to_string());
            users.push(format!("{} ({directory}, id {})", details.name, details.user.mapped.id));
        }
    }
    Ok(AdminError::Ambiguous(text.to_owned(), users.join(" and ")))
}
