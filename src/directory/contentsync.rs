//! Content Synchronization of 389 Directory Server and FreeIPA (RFC 4533): a hint of what changed, and
//! changes as they happen.
//!
//! What the server tells since a cookie lacks deletions, whatever left the filter, everything below a
//! subtree that was renamed, and the attributes that were asked for. So only the ids of that answer are
//! used. After it the ids of everything that exists are listed, in pages on a second connection to the same
//! server, and compared with the mirror; what the answer named, what the mirror lacks and what has another
//! DN is read. The search that tells changes stands before the list begins, so that nothing falls between
//! them. Without a cookie the answer is complete: an ordinary search. Changes that come after it are
//! complete as well, but for entries below a subtree that is renamed or moved: no change is told of them, so
//! that another run is due now and then.
//!
//! A cookie is worth something only while the changelog still has everything since then, which the server
//! doesn't check, and while the changelog covers the base and names ids. Few bind users may read whether it
//! does. But the cookie of a change holds its number in the changelog, or where it is not there a number that
//! stands for none, or that of an earlier change: where the settings are hidden, that decides.
//!
//! Where the search behind the refresh fails, as on a limit, the server says nothing at all, for ever. An
//! ordinary search then tells why.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use ldap3::ResultEntry;
use tokio::sync::mpsc;

use super::batch::Batch;
use super::error::DirectoryError;
use super::ldap::{Connection, Session};
use super::rfc4533::{State, SyncInfo, SyncState};
use super::sync_search::{HEARTBEAT_DEADLINE, Heard, Stream, SyncSearch};
use super::{Authority, Coverage, Event, Hinted, sweep};
use crate::domain::ldap_text::Filter;
use crate::domain::mapping::{Entry, NS_UNIQUE_ID, Preset, stable_id};
use crate::domain::name::StableId;

/// Entries read one by one, about; with more, reading everything costs the server less. It bounds what the
/// server's hint takes in memory, too.
const MAX_REREAD: usize = 20_000;

/// Ids in one filter: some 5 kB, and an index lookup each.
const IDS_IN_FILTER: usize = 100;

/// Batches between a search and whoever sorts it.
const QUEUE: usize = 2;

/// Kept in place of a cookie where a change was not in the changelog.
const OF_NO_USE: &[u8] = b"";

/// Silence of a refresh after which an ordinary search is to tell whether it failed. A server that works sends
/// thousands of entries in a second.
const SUSPICIOUS_SILENCE: Duration = Duration::from_secs(5);

/// One synchronization.
pub(super) struct Job {
    pub(super) search: SyncSearch,
    pub(super) hinted: Hinted,
    pub(super) preset: Preset,
    pub(super) coverage: Coverage,
}

/// What the server told at first.
#[derive(Default)]
struct Told {
    /// Changed since the cookie.
    named: HashSet<StableId>,
    cookie: Option<Vec<u8>>,
    entries: u64,
    /// An ordinary search has been tried.
    is_checked: bool,
}

impl Job {
    /// Tells the refresh, then every change, until the connection or the consumer ends. Never returns `Ok`.
    pub(super) async fn run(self, mut session: Session) -> Result<Infallible, DirectoryError> {
        let mut newest = None;
        let refresh = async {
            let (stream, told) = self.told(&mut session).await?;
            if let Some(cookie) = &self.search.cookie {
                self.reconcile(cookie, told.named).await?;
            }
            newest = told.cookie.as_deref().and_then(change_number);
            let cookie = self.worth_keeping(told.cookie.filter(|_| newest.is_some()));
            self.search.send(Event::EndRefresh(Authority::Everything, cookie)).await?;
            Ok(stream)
        };
        let mut stream = self.search.limited(refresh).await?;
        loop {
            if let Some(item) = self.search.change(&mut session, &mut stream).await? {
                session = self.take(item, session, newest).await?;
            }
        }
    }

    /// The cookie of a refresh, or what tells the next run that it has to read everything.
    fn worth_keeping(&self, cookie: Option<Vec<u8>>) -> Option<Vec<u8>> {
        if self.coverage.is_trustworthy(self.preset, &self.hinted.evidence) {
            return cookie;
        }
        // A restart would forget what a change has shown.
        let is_shown = self.coverage == Coverage::Hidden && self.hinted.evidence.is_recorded().is_some();
        is_shown.then(|| OF_NO_USE.to_vec())
    }

    /// Begins the search, and takes in what it tells before it waits for changes: with a cookie the ids of
    /// what changed, and without one everything.
    async fn told(&self, session: &mut Session) -> Result<(Stream, Told), DirectoryError> {
        let mut told = Told::default();
        let mut batch = Batch::default();
        if self.search.cookie.as_deref().is_some_and(|cookie| change_number(cookie).is_none()) {
            return Err(self.refresh_required());
        }
        let mut stream = self.search.request(session).await?;
        loop {
            let Some(item) = self.next(session, &mut stream, &mut told).await? else {
                return Err(self.search.ended(&mut stream, told.entries).await);
            };
            if item.is_ref() {
                continue;
            }
            if item.is_intermediate() {
                // What it says to be gone is not all that is gone, so it is not even looked at.
                if let Some(
                    SyncInfo::RefreshDelete { cookie, done: true }
                    | SyncInfo::RefreshPresent { cookie, done: true },
                ) = self.search.info(&item)?
                {
                    batch.flush(&self.search.events).await?;
                    told.cookie = cookie;
                    return Ok((stream, told));
                }
                continue;
            }
            let SyncState { state, id, .. } = self.search.state(&item.1)?;
            told.entries += 1;
            if self.search.cookie.is_some() {
                told.named.insert(id);
                if told.named.len() > MAX_REREAD {
                    return Err(self.refresh_required());
                }
            } else if state != State::Delete && batch.push(self.search.entry(item)?) {
                batch.flush(&self.search.events).await?;
            }
        }
    }

    /// The next message of the refresh; `None` where the search has ended. Silence is a failure: an ordinary
    /// search says of what.
    async fn next(
        &self,
        session: &mut Session,
        stream: &mut Stream,
        told: &mut Told,
    ) -> Result<Option<ResultEntry>, DirectoryError> {
        let limit = self.search.timeouts.read;
        let suspicious = if told.is_checked { limit } else { SUSPICIOUS_SILENCE.min(limit) };
        let mut heard = self.search.hear(session, stream, suspicious).await?;
        if matches!(heard, Heard::Silence) && !told.is_checked {
            told.is_checked = true;
            self.search.heartbeat(session, HEARTBEAT_DEADLINE.min(limit), limit).await?;
            let mut connection = Connection::open(&self.hinted.server, 0).await?;
            connection.search_at_once(&self.search.base, &self.search.filter).await?;
            connection.close().await;
            heard = self.search.hear(session, stream, limit).await?;
        }
        match heard {
            Heard::Message(item) => Ok(Some(item)),
            Heard::End => Ok(None),
            Heard::Silence => {
                self.search.heartbeat(session, HEARTBEAT_DEADLINE.min(limit), limit).await?;
                Err(self.silent(told.entries))
            }
        }
    }

    /// Compares everything that exists with the mirror, and reads what differs.
    async fn reconcile(&self, cookie: &[u8], named: HashSet<StableId>) -> Result<(), DirectoryError> {
        let mut connection = Connection::open(&self.hinted.server, 0).await?;
        // Only now: what is trimmed from here on was told before.
        let changes = connection.server().changes;
        if !change_number(cookie).is_some_and(|number| changes.reach_back_to(number)) {
            return Err(self.refresh_required());
        }
        let (listed, queue) = mpsc::channel(QUEUE);
        let list = async {
            let listed = listed;
            let attributes = [&[NS_UNIQUE_ID], self.hinted.reads].concat();
            connection.sweep(&self.search.base, &self.search.filter, &attributes, &listed).await
        };
        let (listed, differing) = tokio::join!(list, self.compare(queue, &named));
        // In this order: a comparison that gave up is why the list could not be told.
        let differing = differing?;
        listed?;
        for ids in differing.chunks(IDS_IN_FILTER) {
            self.read(&mut connection, ids).await?;
        }
        connection.close().await;
        Ok(())
    }

    /// Tells who is there unchanged; the ids of the others.
    async fn compare(
        &self,
        mut listed: mpsc::Receiver<Event>,
        named: &HashSet<StableId>,
    ) -> Result<Vec<StableId>, DirectoryError> {
        let mut differing = Vec::new();
        while let Some(event) = listed.recv().await {
            let Event::Upserts(entries) = event else { continue };
            let mut present = Vec::new();
            for entry in entries {
                // Without an id it is nobody.
                let Some(id) = stable_id(&entry, Preset::Ds389) else { continue };
                if named.contains(&id) || !(self.hinted.is_known)(&id, &entry) {
                    differing.push(id);
                } else {
                    present.push(id);
                }
            }
            if differing.len() > MAX_REREAD {
                return Err(self.refresh_required());
            }
            if !present.is_empty() {
                self.search.send(Event::Present(present)).await?;
            }
        }
        Ok(differing)
    }

    /// Tells some entries. Those that are gone meanwhile are not told.
    async fn read(&self, connection: &mut Connection, ids: &[StableId]) -> Result<(), DirectoryError> {
        let attributes: Vec<&str> = self.search.attributes.iter().map(String::as_str).collect();
        let filter = self.only(ids);
        let (told, mut queue) = mpsc::channel(QUEUE);
        let read = async {
            let told = told;
            connection.sweep(&self.search.base, &filter, &attributes, &told).await
        };
        let hand_on = async {
            while let Some(event) = queue.recv().await {
                if matches!(event, Event::Upserts(_)) {
                    self.search.send(event).await?;
                }
            }
            Ok(())
        };
        let (read, handed_on): (_, Result<(), DirectoryError>) = tokio::join!(read, hand_on);
        read?;
        handed_on
    }

    /// Takes in one message of the persist stage. `newest` is the number of the last change before it.
    async fn take(
        &self,
        item: ResultEntry,
        mut session: Session,
        newest: Option<u64>,
    ) -> Result<Session, DirectoryError> {
        if item.is_intermediate() {
            // It tells nothing here, and may be malformed all the same.
            self.search.info(&item)?;
            return Ok(session);
        }
        if item.is_ref() {
            return Ok(session);
        }
        let SyncState { state, id, cookie } = self.search.state(&item.1)?;
        let event = match state {
            State::Delete => {
                let found;
                (session, found) = self.look(session, &id).await?;
                found.map_or(Event::Deletes(vec![id]), |entry| Event::Upserts(vec![entry]))
            }
            _ => Event::Upserts(vec![self.search.entry(item)?]),
        };
        self.search.send(event).await?;
        let number = cookie.as_deref().and_then(change_number);
        let checkpoint = match &self.coverage {
            Coverage::Hidden => {
                // Each change has a greater number: an older one is that of an earlier change.
                let is_recorded = number > newest;
                self.hinted.evidence.show(is_recorded);
                if is_recorded { cookie } else { Some(OF_NO_USE.to_vec()) }
            }
            Coverage::Covers => cookie.filter(|_| number.is_some()),
            Coverage::Elsewhere(_) | Coverage::Excluded(_) | Coverage::NoIds => None,
        };
        if let Some(cookie) = checkpoint {
            self.search.send(Event::Checkpoint(cookie)).await?;
        }
        Ok(session)
    }

    /// Reads one entry, on the connection that tells the changes: it may have left and come back.
    async fn look(
        &self,
        session: Session,
        id: &StableId,
    ) -> Result<(Session, Option<Entry>), DirectoryError> {
        // Room for the entry and for the end.
        let (events, mut told) = mpsc::channel(2);
        let job = sweep::Job {
            url: self.search.url.clone(),
            base: self.search.base.clone(),
            filter: self.only(std::slice::from_ref(id)),
            attributes: self.search.attributes.clone(),
            page_size: None,
            timeouts: self.search.timeouts,
            events,
        };
        let (session, _) = job.run(session).await?;
        let found = match told.try_recv() {
            Ok(Event::Upserts(entries)) => entries.into_iter().next(),
            _ => None,
        };
        Ok((session, found))
    }

    fn only(&self, ids: &[StableId]) -> Filter {
        self.search.filter.with_any(NS_UNIQUE_ID, ids.iter().map(unique_id))
    }

    /// With a cookie it may have been too much for the server, which looks up every change by itself.
    fn silent(&self, entries: u64) -> DirectoryError {
        if self.search.cookie.is_some() {
            return self.refresh_required();
        }
        let (url, base) = (self.search.url.clone(), self.search.base.clone());
        DirectoryError::SilentRefresh { url, base, entries }
    }

    fn refresh_required(&self) -> DirectoryError {
        DirectoryError::RefreshRequired { url: self.search.url.clone() }
    }
}

/// An nsUniqueId as the server writes it, in four groups of eight digits.
fn unique_id(id: &StableId) -> String {
    let mut text = String::new();
    for (at, byte) in id.as_bytes().iter().enumerate() {
        if at % 4 == 0 && at > 0 {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Stand for no change, in a server's earlier and in its later versions: -1 without a sign.
const NO_CHANGE: [u64; 2] = [u32::MAX as u64, u64::MAX];

/// The number of the last change that a cookie covers: `server#bind DN:base:filter#number`. `None` for one that
/// stands for no change, which must not be kept.
fn change_number(cookie: &[u8]) -> Option<u64> {
    let digits = cookie.rsplit(|byte| *byte == b'#').next()?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (!NO_CHANGE.contains(&number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_has_a_change_number() {
        let cookie = |end: &str| format!("localhost:389#cn=reader,dc=x:ou=people,dc=x:(cn=a#1)#{end}");
        assert_eq!(change_number(cookie("2317").as_bytes()), Some(2317));
        assert_eq!(change_number(cookie("0").as_bytes()), Some(0));
        assert_eq!(change_number(cookie("4294967296").as_bytes()), Some(4_294_967_296));
        for end in
            ["18446744073709551615", "4294967295", "18446744073709551616", "", "-1", "x", "1\n", "\u{fffd}"]
        {
            assert_eq!(change_number(cookie(end).as_bytes()), None, "{end}");
        }
        assert_eq!(change_number(b""), None);
    }

    #[test]
    fn an_id_is_written_as_the_server_does() {
        let bytes: Vec<u8> = (0..16).map(|at| at * 16 + 1).collect();
        assert_eq!(unique_id(&StableId::new(&bytes).unwrap()), "01112131-41516171-8191a1b1-c1d1e1f1");
    }

    #[test]
    fn a_filter_is_narrowed_to_ids() {
        let filter = Filter::parse("(uid=*)").unwrap();
        let narrow = filter.with_any(NS_UNIQUE_ID, ["01-ab".to_owned(), "x)(y*".to_owned()].into_iter());
        assert_eq!(narrow.as_str(), "(&(uid=*)(|(nsUniqueId=01-ab)(nsUniqueId=xy)))");
        assert!(Filter::parse(narrow.as_str()).is_ok());
    }
}
