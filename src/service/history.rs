//! What the ledger says of a user, of a name, or of everybody.

use std::sync::Arc;

use super::admin::{Admin, AdminError, blocking};
use super::answers::HistoryLine;
use crate::domain::name::Name;
use crate::domain::seats::{LedgerEvent, Movement};
use crate::store::{ReadView, StoreError};

impl Admin {
    /// At most `limit` ledger lines, the newest first; of one user, or of all. A name that no user has any more stands
    /// for whoever had it.
    pub async fn history(&self, user: Option<&str>, limit: usize) -> Result<Vec<HistoryLine>, AdminError> {
        let view = self.store().view();
        let key = match user {
            None => None,
            Some(user) => match self.resolve(&view, user).await {
                Err(AdminError::NoSuchUser(_) | AdminError::OnlyAdministrator(_)) => {
                    return of_name(view, self.parse(user)?, limit).await;
                }
                found => Some(found?),
            },
        };
        blocking(move || view.history(key)?.take(limit).map(history_line).collect()).await
    }
}

/// The lines about a name that no user has.
async fn of_name(view: Arc<ReadView>, name: Name, limit: usize) -> Result<Vec<HistoryLine>, AdminError> {
    let sought = name.clone();
    let read = move || view.history_of_name(&sought)?.take(limit).map(history_line).collect();
    let lines: Vec<HistoryLine> = blocking(read).await?;
    if lines.is_empty() { Err(AdminError::NoSuchUser(name.to_string())) } else { Ok(lines) }
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
