//! Seats for a list of users, before their first login.

use std::collections::BTreeSet;

use tracing::info;

use super::ImportMode;
use super::admin::{Admin, AdminError};
use super::answers::{GrantsReport, ImportedLine, RefusedRow};
use super::resolve;
use crate::domain::account::Mistake;
use crate::domain::name::Name;
use crate::domain::user::UserKey;
use crate::store::{GrantLine, Granted, Grants, MAX_ROWS, ReadView};

impl Admin {
    /// Grants a seat to the user of each line of a list, all or none of them unless the mode says otherwise. Whoever holds
    /// one keeps it. Blank lines and those that begin with `#` mean nobody. Looks at as many users as there are lines: run
    /// it where blocking is allowed.
    pub async fn grant_list(&self, list: String, mode: ImportMode) -> Result<GrantsReport, AdminError> {
        let admin = self.clone();
        let view = self.store().view();
        let lines = tokio::task::spawn_blocking(move || admin.lines(&view, &list));
        let lines = lines.await.map_err(|_| AdminError::Interrupted)??;
        let count = lines.len() as u64;
        let ImportMode { partial, dry_run } = mode;
        let grants = Grants { lines, partial, dry_run, now: self.store().now() };
        let granted = self.store().grant_list(grants).await?;
        if granted.applied {
            for (_, user) in &granted.granted_users {
                info!(event = "seat_granted", user = %user, by = "administrator", "{user} was given a seat.");
            }
        }
        let limit = self.store().policy().seat_limit.unwrap_or(0);
        Ok(report(count, limit, mode, granted))
    }

    fn lines(&self, view: &ReadView, list: &str) -> Result<Vec<GrantLine>, AdminError> {
        let mut lines = Vec::new();
        let mut seen = BTreeSet::new();
        for (line, text) in (1u64..).zip(list.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if lines.len() as u64 >= MAX_ROWS {
                let sentence = format!("line {line}: the list has more than {MAX_ROWS} users: split it");
                return Err(AdminError::WrongFile(sentence));
            }
            match self.listed(view, text) {
                // The same user again is one user.
                Ok((Some(key), _)) if !seen.insert(key) => {}
                Ok((_, name)) => lines.push((line, Ok(name))),
                Err(AdminError::Store(error)) => return Err(error.into()),
                Err(error) => lines.push((line, Err(mistake(text, &error)))),
            }
        }
        Ok(lines)
    }

    /// The user of a line, by a name to log in with.
    fn listed(&self, view: &ReadView, text: &str) -> Result<(Option<UserKey>, Name), AdminError> {
        let name = self.parse(text);
        match resolve::by_name_or_id(view, text, &name)? {
            Some(key) => {
                let user = view.user_of(key)?.ok_or_else(|| AdminError::NoSuchUser(text.to_owned()))?;
                let name = view.login_name(key, &user)?;
                Ok((Some(key), name.ok_or_else(|| AdminError::NoLoginName(text.to_owned()))?))
            }
            // Nobody has it; the decision says so, or that it is the internal administrator's.
            None => Ok((None, name?)),
        }
    }
}

fn mistake(text: &str, error: &AdminError) -> Mistake {
    let reason = match error {
        AdminError::BadName(..) => "bad_name",
        AdminError::Ambiguous(..) => "ambiguous",
        _ => "unknown_user",
    };
    Mistake { user: Some(text.to_owned()), reason, message: error.to_string() }
}

fn report(lines: u64, seat_limit: u64, mode: ImportMode, granted: Granted) -> GrantsReport {
    GrantsReport {
        dry_run: mode.dry_run,
        partial: mode.partial,
        applied: granted.applied,
        users: lines,
        granted: granted.granted,
        held: granted.held,
        exempt: granted.exempt,
        refused: granted.refused,
        seats_needed: granted.seats_needed,
        seats_free: granted.seats_free,
        seats_used: granted.seats_used,
        seat_limit,
        granted_users: ImportedLine::list(granted.granted_users),
        refusals: RefusedRow::list(granted.refusals),
    }
}
