//! What each command asks the daemon, and what it shows of the answer.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::accounts::{Description, NewPassword};
use super::client::{self, Client, ClientError, Response, encode};
use super::password::{self, ReadError};
use super::reclaim::Refused;
use super::upload::Upload;
use super::{History, Users, grants, import, output, progress};
use crate::cli::{
    AccountCommand, ClientCommand, DirectoryCommand, Exit, ImportArgs, LicenseArgs, MatchName, SeatsCommand,
    SyncAction, SyncArgs, UsersAction, UsersArgs,
};
use crate::service::answers::{
    DirectoryList, Explanation, GrantsReport, ImportReport, ReclaimReport, Status, SyncReport, Verification,
};

/// Longer than `yes` with blanks around it.
const MAX_ANSWER: u64 = 64;

/// How often a long import says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Runs a command against the daemon behind a control socket.
///
/// What was asked for goes to `out`: text for people, or with `json` one compact document a line, as the API
/// answered it. What went wrong goes to `err`, and how far a sync is, where `err` is a terminal. A reader of `out`
/// that goes away is no failure.
pub async fn run(
    command: &ClientCommand,
    socket: &Path,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
    err_is_terminal: bool,
) -> Exit {
    let client = Client::new(socket);
    let mut session = Session { client, json, out, err, err_is_terminal, worst: Exit::Done };
    let (problem, exit) = match session.run(command).await {
        Ok(()) => return session.worst,
        Err(Trouble::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return session.worst,
        Err(Trouble::Client(error)) => (error.to_string(), error.exit()),
        Err(Trouble::File(problem)) => (problem, Exit::Failed),
        Err(Trouble::Output(error)) => (format!("cannot write: {error}"), Exit::Failed),
        Err(Trouble::Password(error)) => (error.to_string(), Exit::Failed),
    };
    session.complain(&problem);
    exit
}

/// Why a command stops.
pub(super) enum Trouble {
    Client(ClientError),
    Password(ReadError),
    /// A file that cannot be read or written.
    File(String),
    Output(io::Error),
}

impl Trouble {
    pub(super) fn file(path: &Path, problem: impl fmt::Display) -> Trouble {
        Trouble::File(format!("{}: {problem}", path.display()))
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Trouble {
        Trouble::Client(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Output(error)
    }
}

pub(super) struct Session<'a> {
    pub(super) client: Client,
    json: bool,
    pub(super) out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    err_is_terminal: bool,
    /// How the command ends, where one part of it failed and the others went on.
    worst: Exit,
}

impl Session<'_> {
    async fn run(&mut self, command: &ClientCommand) -> Result<(), Trouble> {
        let now = Timestamp::now();
        match command {
            ClientCommand::Status => {
                let answer = self.get("/v1/status").await?;
                self.show(&answer, |status: &Status| output::status(status, now_of(status, now)))
            }
            ClientCommand::Users(UsersArgs { action: Some(UsersAction::Forget { users }), .. }) => {
                self.change(Method::DELETE, "users", users, "").await
            }
            ClientCommand::Users(args) => {
                let answer = self.get(&users_path(args)).await?;
                self.show(&answer, |Users { users }: &Users| output::users(users, now))
            }
            ClientCommand::Explain { user } => {
                let answer = self.get(&format!("/v1/users/{}", encode(user))).await?;
                self.show(&answer, |explanation: &Explanation| output::explanation(explanation, now))
            }
            ClientCommand::Account(command) => self.account(command).await,
            ClientCommand::Import(args) => self.import(args).await,
            ClientCommand::Seats(SeatsCommand::Grant { file: Some(file), partial, dry_run, .. }) => {
                self.grant_list(file, *partial, *dry_run).await
            }
            ClientCommand::Seats(SeatsCommand::Grant { users, .. }) => {
                self.change(Method::PUT, "seats", users, "").await
            }
            ClientCommand::Seats(SeatsCommand::Release { users, force }) => {
                let query = if *force { "?force=true" } else { "" };
                self.change(Method::DELETE, "seats", users, query).await
            }
            ClientCommand::Seats(SeatsCommand::History { user, limit }) => {
                let of_user = user.as_ref().map(|user| format!("&user={}", encode(user)));
                let path = format!("/v1/history?limit={limit}{}", of_user.unwrap_or_default());
                let answer = self.get(&path).await?;
                self.show(&answer, |History { history }: &History| output::history(history, now))
            }
            ClientCommand::Seats(SeatsCommand::Reclaim { inactive, dry_run, yes }) => {
                self.reclaim(*inactive, *dry_run, *yes, now).await
            }
            ClientCommand::Seats(SeatsCommand::Move { old, new, by, from, to, dry_run }) => {
                let names = [("old", old), ("new", new), ("from", from), ("to", to)];
                self.move_seats(&names, *by, *dry_run).await
            }
            ClientCommand::Seats(SeatsCommand::Refused { limit }) => {
                let answer = self.get(&format!("/v1/refused?limit={limit}")).await?;
                self.show(&answer, |Refused { refused }: &Refused| output::refused(refused, now))
            }
            ClientCommand::Directory(command) => self.directory(command, now).await,
            ClientCommand::Sync(args) => self.sync(args).await,
            ClientCommand::Backup { file } => self.backup(file).await,
            ClientCommand::Verify { .. } => self.verify().await,
            ClientCommand::Clock(command) => self.clock(command).await,
            ClientCommand::License(LicenseArgs::Client(command)) => self.license(command).await,
            // It has nothing to do with the daemon.
            ClientCommand::License(LicenseArgs::Issuer(_)) => Ok(()),
        }
    }

    /// A script has said what it wants; whoever types a command sees first whom it is about.
    async fn reclaim(
        &mut self,
        inactive: Duration,
        dry_run: bool,
        yes: bool,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let path = |dry_run| format!("/v1/reclaim?inactive={}s&dry_run={dry_run}", inactive.as_secs());
        if !dry_run && !yes && self.err_is_terminal && io::stdin().is_terminal() {
            let preview = self.client.request(Method::POST, &path(true)).await?;
            let report: ReclaimReport = self.client.decode(&preview)?;
            let is_asked = !report.reclaimed.is_empty() && report.held.is_none();
            if is_asked && !self.confirm(&output::reclaimed(&report, now))? {
                self.complain("no seat was taken back");
                self.worst = Exit::Failed;
                return Ok(());
            }
        }
        let answer = self.client.request(Method::POST, &path(dry_run)).await?;
        self.show(&answer, |report: &ReclaimReport| output::reclaimed(report, now))
    }

    /// Asks on the terminal whether what is shown is to be done.
    fn confirm(&mut self, shown: &str) -> io::Result<bool> {
        write!(self.err, "{shown}Take them back? [y/N] ")?;
        self.err.flush()?;
        let mut line = String::new();
        io::stdin().lock().take(MAX_ANSWER).read_line(&mut line)?;
        Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Response, ClientError> {
        self.client.request(Method::GET, path).await
    }

    async fn account(&mut self, command: &AccountCommand) -> Result<(), Trouble> {
        let path = |address: &str, verb: &str| format!("/v1/accounts/{}{verb}", encode(address));
        let answer = match command {
            AccountCommand::Add { address, name, aliases } => {
                let description = Description { name: name.clone(), aliases: aliases.clone() };
                self.client.send(Method::PUT, &path(address, ""), &description).await?
            }
            AccountCommand::Passwd { address } => {
                let password = password::read().map_err(Trouble::Password)?.expose().to_owned();
                self.client.send(Method::PUT, &path(address, "/password"), &NewPassword { password }).await?
            }
            AccountCommand::Remove { address } => {
                self.client.request(Method::DELETE, &path(address, "")).await?
            }
            AccountCommand::Enable { address } => {
                self.client.request(Method::POST, &path(address, "/enable")).await?
            }
            AccountCommand::Disable { address } => {
                self.client.request(Method::POST, &path(address, "/disable")).await?
            }
        };
        self.show(&answer, output::account)
    }

    /// The file is read here: it may be nobody's business but the administrator's.
    async fn import(&mut self, args: &ImportArgs) -> Result<(), Trouble> {
        let unreadable = |error: io::Error| Trouble::file(&args.file, error);
        let file = std::fs::File::open(&args.file).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        if size > import::MAX_IMPORT_BYTES {
            return Err(Trouble::file(&args.file, import::too_long()));
        }
        let ImportArgs { domain, partial, dry_run, .. } = args;
        let path = format!("/v1/import?domain={}&partial={partial}&dry_run={dry_run}", encode(domain));
        let sent = Arc::new(AtomicU64::new(0));
        let client = self.client.clone();
        let exchange = client.upload(&path, Upload::new(file, Arc::clone(&sent)));
        tokio::pin!(exchange);
        let mut told = String::new();
        let answer = loop {
            tokio::select! {
                answer = &mut exchange => break answer?,
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    let text = sent_so_far(sent.load(Ordering::Relaxed), size);
                    if text != told {
                        self.complain(&text);
                        told = text;
                    }
                }
            }
        };
        let report: ImportReport = self.client.decode(&answer)?;
        if report.refused > 0 {
            self.worst = Exit::Failed;
        }
        self.show(&answer, output::imported)
    }

    async fn grant_list(&mut self, file: &Path, partial: bool, dry_run: bool) -> Result<(), Trouble> {
        let unreadable = |error: io::Error| Trouble::file(file, error);
        let source: Box<dyn Read> = match file.as_os_str().as_encoded_bytes() {
            b"-" => Box::new(io::stdin().lock()),
            _ => Box::new(std::fs::File::open(file).map_err(unreadable)?),
        };
        let mut list = Vec::new();
        source.take(grants::MAX_LIST_BYTES as u64 + 1).read_to_end(&mut list).map_err(unreadable)?;
        if list.len() > grants::MAX_LIST_BYTES {
            return Err(Trouble::file(file, grants::too_long()));
        }
        let path = format!("/v1/grants?partial={partial}&dry_run={dry_run}");
        let answer = self.client.send_bytes(Method::POST, &path, list.into()).await?;
        let report: GrantsReport = self.client.decode(&answer)?;
        if report.refused > 0 {
            self.worst = Exit::Failed;
        }
        self.show(&answer, output::grants)
    }

    /// Each user by itself: what one is refused does not stop the next.
    async fn change(
        &mut self,
        method: Method,
        of: &str,
        users: &[String],
        query: &str,
    ) -> Result<(), Trouble> {
        for user in users {
            let path = format!("/v1/{of}/{}{query}", encode(user));
            match self.client.request(method.clone(), &path).await {
                Ok(answer) => self.show(&answer, output::change)?,
                Err(ClientError::Refused(refusal)) => self.refused(&refusal)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn directory(&mut self, command: &DirectoryCommand, now: Timestamp) -> Result<(), Trouble> {
        let path = |name: &str| format!("/v1/directories/{}", encode(name));
        match command {
            DirectoryCommand::List => {
                let answer = self.get("/v1/directories").await?;
                self.show(&answer, |list: &DirectoryList| output::listed(list, now))
            }
            DirectoryCommand::Rename { old, new, dry_run } => {
                let path = format!("{}/rename?to={}&dry_run={dry_run}", path(old), encode(new));
                let answer = self.client.request(Method::POST, &path).await?;
                self.show(&answer, output::renamed)
            }
            DirectoryCommand::Forget { name, dry_run } => {
                let path = format!("{}?dry_run={dry_run}", path(name));
                let answer = self.client.request(Method::DELETE, &path).await?;
                self.show(&answer, output::forgotten)
            }
        }
    }

    async fn move_seats(
        &mut self,
        names: &[(&str, &Option<String>)],
        by: Option<MatchName>,
        dry_run: bool,
    ) -> Result<(), Trouble> {
        let mut path = format!("/v1/moves?dry_run={dry_run}");
        for (key, name) in names {
            path += &name.as_ref().map(|name| format!("&{key}={}", encode(name))).unwrap_or_default();
        }
        path += &matching(by);
        let answer = self.client.request(Method::POST, &path).await?;
        self.show(&answer, output::moved)
    }

    async fn sync(&mut self, args: &SyncArgs) -> Result<(), Trouble> {
        if let Some(SyncAction::Approve { directory, by, wait }) = &args.action {
            let request = format!("approve?wait={wait}{}", matching(*by));
            return self.sync_one(directory, &request).await;
        }
        let request = format!("sync?full={}&dry_run={}&wait={}", args.full, args.dry_run, args.wait);
        let directories = match &args.directory {
            Some(directory) => vec![directory.clone()],
            None => self.directories().await?,
        };
        for directory in &directories {
            self.sync_one(directory, &request).await?;
        }
        Ok(())
    }

    async fn directories(&mut self) -> Result<Vec<String>, Trouble> {
        let status: Status = self.client.decode(&self.get("/v1/status").await?)?;
        let configured = status.directories.into_iter().filter(|directory| directory.configured);
        let names: Vec<String> = configured.map(|directory| directory.name).collect();
        if names.is_empty() && !self.json {
            writeln!(self.out, "no directory is configured")?;
        }
        Ok(names)
    }

    async fn sync_one(&mut self, directory: &str, request: &str) -> Result<(), Trouble> {
        let path = format!("/v1/directories/{}/{request}", encode(directory));
        let answer = self.client.request_within(Method::POST, &path, client::SYNC);
        let answer = if self.err_is_terminal {
            progress::shown(&self.client, directory, answer, self.err).await?
        } else {
            answer.await
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(ClientError::Refused(refusal)) => return self.refused(&refusal),
            Err(error) => return Err(error.into()),
        };
        if answer.status == StatusCode::ACCEPTED {
            if self.json {
                return self.show_json(&answer.bytes);
            }
            return Ok(writeln!(self.out, "{}: started", output::clean(directory))?);
        }
        let report: SyncReport = self.client.decode(&answer)?;
        if report.held.is_some() && !report.dry_run {
            self.worst = Exit::Failed;
        }
        self.show(&answer, output::report)
    }

    async fn verify(&mut self) -> Result<(), Trouble> {
        let answer = self.get("/v1/verify").await?;
        let verification: Verification = self.client.decode(&answer)?;
        if !verification.clean {
            self.worst = Exit::Failed;
        }
        self.show(&answer, output::verification)
    }

    /// Shows an answer: as it came, or as a page.
    pub(super) fn show<T: DeserializeOwned>(
        &mut self,
        answer: &Response,
        page: impl FnOnce(&T) -> String,
    ) -> Result<(), Trouble> {
        if self.json {
            return self.show_json(&answer.bytes);
        }
        let page = page(&self.client.decode(answer)?);
        self.show_page(&page)
    }

    /// Shows something that was found out here.
    pub(super) fn show_value<T: Serialize>(
        &mut self,
        value: &T,
        page: impl FnOnce(&T) -> String,
    ) -> Result<(), Trouble> {
        if self.json {
            let document = serde_json::to_vec(value).map_err(io::Error::from)?;
            return self.show_json(&document);
        }
        self.show_page(&page(value))
    }

    fn show_page(&mut self, page: &str) -> Result<(), Trouble> {
        self.out.write_all(page.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn show_json(&mut self, document: &[u8]) -> Result<(), Trouble> {
        self.out.write_all(document)?;
        self.out.write_all(b"\n")?;
        Ok(self.out.flush()?)
    }

    /// One part of a command that has several was refused. With `--json` each part has its line in `out`.
    fn refused(&mut self, refusal: &client::Refusal) -> Result<(), Trouble> {
        self.worst = Exit::Failed;
        if self.json {
            return self.show_json(&refusal.body);
        }
        self.complain(&refusal.detail);
        Ok(())
    }

    fn complain(&mut self, text: &str) {
        // There is nowhere else to say that this failed.
        let _ = writeln!(self.err, "seatkeeper: {}", output::clean(text));
    }
}

/// What the daemon's times are to be compared with; an older daemon does not say.
fn now_of(status: &Status, wall: Timestamp) -> Timestamp {
    Some(status.clock.trusted).filter(|trusted| *trusted != Timestamp::default()).unwrap_or(wall)
}

/// How far an import is. What is not a regular file has no size.
fn sent_so_far(sent: u64, size: u64) -> String {
    if sent < size {
        format!("{} of {} kB are sent", sent / 1000, size / 1000)
    } else {
        format!("{} kB are sent, and are being imported", sent / 1000)
    }
}

fn matching(by: Option<MatchName>) -> String {
    by.map(|by| format!("&match={}", by.as_str())).unwrap_or_default()
}

fn users_path(args: &UsersArgs) -> String {
    let mut path = format!("/v1/users?sort={}", args.sort.as_str());
    if args.seated || args.unseated {
        path += if args.seated { "&seated=true" } else { "&seated=false" };
    }
    if let Some(inactive) = args.inactive {
        path += &format!("&inactive={}s", inactive.as_secs());
    }
    if args.never {
        path += "&never=true";
    }
    if let Some(domain) = &args.domain {
        path += &format!("&domain={}", encode(domain));
    }
    path
}

#[cfg(test)]
mod tests;
