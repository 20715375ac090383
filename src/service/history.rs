//! What the ledger says of a user, of a name, or of everybody.

use super::admin::{Admin, AdminError, blocking};
use super::answers::HistoryLine;
use crate::domain::seats::{LedgerEvent, Movement};
use crate::store::StoreError;

impl Admin {
    /// At most `limit` ledger lines, the newest first; of one user, or of all. A name that no user has any more stands
    /// for whoever had it.
    pub async fn history(&self, user: Option<&str>, limit: usize) -> Result<Vec<HistoryLine>, AdminError> {
        let view = self.store().view();
        let user = match user {
            None => None,
            Some(user) => match self.resolve(&view, user).await {
                Ok(key) => Some(key),
                Err(AdminError::NoSuchUser(_) | AdminError::OnlyAdministrator(_)) => {
                    let name = self.parse(user)?;
                    let sought = name.clone();
                    let lines = blocking(move || {
                        view.history_of_name(&sought)?
                            .take(limit)
                            .map(history_line)
                            .collect::<Result<Vec<_>, _>>()
                    });
                    return match lines.await? {
                        lines if lines.is_empty() => Err(AdminError::NoSuchUser(name.to_string())),
                        lines => Ok(lines),
                    };
                }
                Err(error) => return Err(error),
            },
        };
        blocking(move || view.history(user)?.take(limit).map(history_line).collect()).await
    }
}

fn history_line(event: Result<LedgerEvent, StoreError>) -> Result<HistoryLine, StoreError> {
    let event = event?;
    let (what, reason) = match &event.what {
        Movement::Granted(by) => ("granted", by.to_string()),
        Movement::Released(reason) => ("released", reason.to_string()),
        Movement::Moved { name, .. } => ("moved", format!("from {name}")),
    };
    Ok(HistoryLine {
        at: event.at,
        event: what.to_owned(),
        user: event.name.to_string(),
        reason,
        seats_used: event.used_after,
    })
}
