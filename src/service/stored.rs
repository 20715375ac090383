//! Directories as the store knows them: listed, carried over to another name, forgotten.

use tracing::info;

use super::admin::{Admin, AdminError, blocking};
use super::answers::{DirectoryList, ForgetReport, RenameReport, StoredDirectory};
use super::{log_move, log_release};
use crate::domain::seats::ReleaseReason;
use crate::domain::user::{DirectoryId, Kind, Origin};
use crate::store::{DirectoryRecord, NotRetired, Part, ReadView, StoreError};

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

    /// Carries everything that is stored of a directory over to the new name of its block; with `dry_run` only says
    /// what would become of it.
    pub async fn rename_directory(
        &self,
        old: &str,
        new: &str,
        dry_run: bool,
    ) -> Result<RenameReport, AdminError> {
        let (from, to) = (old.to_owned(), new.to_owned());
        let mut report = RenameReport { from, to, dry_run, ..RenameReport::default() };
        if dry_run {
            let view = self.store().view();
            let from = unconfigured(&view, old)?;
            if !view.name_rules().is_configured(new) {
                return Err(AdminError::NoSuchDirectory(new.to_owned()));
            }
            return blocking(move || {
                report.list(&view, from)?;
                Ok(report)
            })
            .await;
        }
        loop {
            let part = self.store().rename_some(old, new, self.store().now()).await?;
            let part = part.map_err(|reason| refusal(reason, old, new))?;
            tell(&part);
            report.users += part.users;
            report.known += part.known;
            report.seats += part.moved.iter().filter(|moved| moved.seat).count() as u64;
            for released in &part.released {
                match released.reason {
                    ReleaseReason::SamePerson => report.second_seats += 1,
                    _ => report.add_loser(released.name.to_string()),
                }
            }
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
            let directory = unconfigured(&view, name)?;
            return blocking(move || {
                report.list(&view, directory)?;
                report.seats_used = view.seats_used()?;
                Ok(report)
            })
            .await;
        }
        loop {
            let part = self.store().forget_some(name, self.store().now()).await?;
            let part = part.map_err(|reason| refusal(reason, name, name))?;
            tell(&part);
            report.users += part.users;
            report.seats_moved += part.moved.iter().filter(|moved| moved.seat).count() as u64;
            for released in &part.released {
                match released.reason {
                    ReleaseReason::SamePerson => report.seats_moved += 1,
                    _ => report.add_loser(released.name.to_string()),
                }
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

/// The number of a directory that is not configured any more.
fn unconfigured(view: &ReadView, name: &str) -> Result<DirectoryId, AdminError> {
    let record = view.directory_named(name).filter(|record| record.origin() == Origin::Mapped);
    let record = record.ok_or_else(|| AdminError::NothingStored(name.to_owned()))?;
    match view.name_rules().is_configured(name) {
        true => Err(AdminError::StillConfigured(name.to_owned())),
        false => Ok(record.id),
    }
}

impl ForgetReport {
    /// What would become of the users of a directory.
    fn list(&mut self, view: &ReadView, directory: DirectoryId) -> Result<(), StoreError> {
        for user in view.users_of(directory)? {
            let (key, user) = user?;
            self.users += 1;
            if user.mapped.kind != Kind::Person || view.seat_of(key)?.is_none() {
                continue;
            }
            match view.heir_of(&user)? {
                Some(_) => self.seats_moved += 1,
                None => self.add_loser(view.shown_name_of(key, &user)?.to_string()),
            }
        }
        Ok(())
    }

    fn add_loser(&mut self, name: String) {
        add_loser(&mut self.seats, &mut self.seats_total, name);
    }
}

impl RenameReport {
    /// What would become of the users of a directory.
    fn list(&mut self, view: &ReadView, directory: DirectoryId) -> Result<(), StoreError> {
        let to = view.directory_named(&self.to).map(|record| record.id);
        for user in view.users_of(directory)? {
            let (key, user) = user?;
            let outcome = view.handed_over(key, &user, to)?;
            self.users += 1;
            self.known += u64::from(outcome.is_known);
            self.seats += u64::from(outcome.seat);
            self.second_seats += u64::from(outcome.second);
            if outcome.loses {
                self.add_loser(view.shown_name_of(key, &user)?.to_string());
            }
        }
        Ok(())
    }

    fn add_loser(&mut self, name: String) {
        add_loser(&mut self.losers, &mut self.losers_total, name);
    }
}

fn add_loser(listed: &mut Vec<String>, total: &mut u64, name: String) {
    *total += 1;
    if listed.len() < LISTED {
        listed.push(name);
    }
}
