//! Directories as the store knows them: listed, carried over to another name, forgotten.

use super::admin::{Admin, AdminError};
use super::answers::{DirectoryList, ForgetReport, RenameReport, StoredDirectory};
use super::{log_move, log_release};
use crate::domain::user::{Kind, Origin};
use crate::store::{DirectoryRecord, NotRetired, Part, ReadView, StoreError};
use tracing::info;

/// Users named in a report; the others are counted. It is built in memory.
const LISTED: usize = 10_000;

impl Admin {
    /// Configured directories, then those that only the store still knows.
    pub fn directories_stored(&self) -> DirectoryList {
        let view = self.store().view();
        let settings = self.settings();
        let configured = settings.directories.iter().map(|(name, domains)| {
            let domains = domains.iter().map(ToString::to_string).collect();
            stored(name, domains, true, view.directory_named(name))
        });
        let is_configured = |name: &str| settings.directories.iter().any(|(other, _)| other == name);
        let others = view.directories().filter(|record| record.origin() == Origin::Mapped);
        let others = others.filter(|record| !is_configured(&record.name));
        let others = others.map(|record| stored(&record.name, Vec::new(), false, Some(record)));
        DirectoryList { directories: configured.chain(others).collect() }
    }

    /// Carries everything that is stored of a directory over to the new name of its block.
    pub async fn rename_directory(&self, old: &str, new: &str) -> Result<RenameReport, AdminError> {
        let mut report = RenameReport { from: old.to_owned(), to: new.to_owned(), ..RenameReport::default() };
        loop {
            let part = self.store().rename_some(old, new, self.store().now()).await?;
            let part = part.map_err(|reason| refusal(reason, old, new))?;
            tell(&part);
            report.users += part.users;
            report.seats += part.moved.iter().filter(|moved| moved.seat).count() as u64;
            if part.is_done {
                break;
            }
        }
        let users = report.users;
        info!(directory = new, from = old, users, "The {users} users of {old} are users of {new} now.");
        Ok(report)
    }

    /// Removes a directory that is not configured, with its users and their seats; with `dry_run` only says whose.
    pub async fn forget_directory(&self, name: &str, dry_run: bool) -> Result<ForgetReport, AdminError> {
        let mut report = ForgetReport { directory: name.to_owned(), dry_run, ..ForgetReport::default() };
        if dry_run {
            let view = self.store().view();
            let record = view.directory_named(name).filter(|record| record.origin() == Origin::Mapped);
            let record = record.ok_or_else(|| AdminError::NothingStored(name.to_owned()))?;
            if view.name_rules().is_configured(name) {
                return Err(AdminError::StillConfigured(name.to_owned()));
            }
            let id = record.id;
            let listing = tokio::task::spawn_blocking(move || {
                list_losers(&view, id, &mut report)?;
                report.seats_used = view.seats_used()?;
                Ok::<ForgetReport, StoreError>(report)
            });
            return Ok(listing.await.map_err(|_| AdminError::Interrupted)??);
        }
        loop {
            let part = self.store().forget_some(name, self.store().now()).await?;
            let part = part.map_err(|reason| refusal(reason, name, name))?;
            tell(&part);
            report.users += part.users;
            report.seats_moved +=
                part.moved.iter().filter(|moved| moved.seat || moved.released.is_some()).count() as u64;
            for released in &part.released {
                report.add_loser(released.name.to_string());
            }
            if part.is_done {
                break;
            }
        }
        report.seats_used = self.store().view().seats_used()?;
        let (users, seats) = (report.users, report.seats_total);
        info!(
            directory = name,
            users, seats, "The directory {name} was forgotten, with {users} users and {seats} seats."
        );
        Ok(report)
    }
}

fn stored(
    name: &str,
    domains: Vec<String>,
    configured: bool,
    record: Option<&DirectoryRecord>,
) -> StoredDirectory {
    let census = record.map(|record| record.census).unwrap_or_default();
    StoredDirectory {
        name: name.to_owned(),
        configured,
        domains,
        users: census.people,
        removed: census.tombstoned,
        seats_used: census.seats,
        last_success: record.and_then(|record| record.last_success),
    }
}

fn tell(part: &Part) {
    part.released.iter().for_each(log_release);
    part.moved.iter().for_each(log_move);
}

fn refusal(reason: NotRetired, old: &str, new: &str) -> AdminError {
    match reason {
        NotRetired::Unknown => AdminError::NothingStored(old.to_owned()),
        NotRetired::Configured => AdminError::StillConfigured(old.to_owned()),
        NotRetired::NoTarget => AdminError::NoSuchDirectory(new.to_owned()),
    }
}

fn list_losers(
    view: &ReadView,
    directory: crate::domain::user::DirectoryId,
    report: &mut ForgetReport,
) -> Result<(), StoreError> {
    for user in view.users_of(directory)? {
        let (key, user) = user?;
        report.users += 1;
        if user.mapped.kind != Kind::Person || view.seat_of(key)?.is_none() {
            continue;
        }
        match view.heir_of(&user)? {
            Some(_) => report.seats_moved += 1,
            None => report.add_loser(view.shown_name_of(key, &user)?.to_string()),
        }
    }
    Ok(())
}

impl ForgetReport {
    fn add_loser(&mut self, name: String) {
        self.seats_total += 1;
        if self.seats.len() < LISTED {
            self.seats.push(name);
        }
    }
}
