//! Compares the ids of everything in a directory with the mirror, and reads what differs.
//!
//! One search lists ids, DNs and the stamps of the last changes (`entryCSN` of OpenLDAP), and nothing else.
//! Whoever is in the mirror under the same DN, with a stamp that the last proof covers, is unchanged since
//! then, and was equal then. All others are read: those that changed since, and those of whom no change is ever
//! told, such as entries below a subtree that was renamed.
//!
//! What the cookie covers was told while following, so that a difference there is drift. What came after it
//! is told by the refresh that follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc::Sender;

use super::error::DirectoryError;
use super::ldap::Session;
use super::root_dse::texts;
use super::{Event, IsKnown, sweep};
use crate::domain::directory::{LdapUrl, Timeouts};
use crate::domain::ldap_text::{Dn, Filter};
use crate::domain::mapping::{Entry, Preset, stable_id};
use crate::domain::name::StableId;

/// The stamp of an entry's last change: time, count, server and part of it, parted by `#`. Those of one server
/// grow (draft-chu-ldap-csn).
const ENTRY_CSN: &str = "entryCSN";

/// Entries read one by one, about; with more, reading everything costs the server less. It bounds what the
/// comparison takes in memory, too.
const MAX_REREAD: usize = 20_000;

/// Ids in one filter: some 5 kB, and an index lookup each.
const IDS_IN_FILTER: usize = 100;

/// What the mirror is known to hold.
#[derive(Clone)]
pub struct Known {
    /// Who is in it.
    pub is_known: IsKnown,
    /// Attributes that this looks at.
    pub reads: &'static [&'static str],
    /// The cookie when it was last proved equal to the directory.
    pub proven: Vec<u8>,
    /// The cookie that it has now.
    pub cookie: Vec<u8>,
}

/// One comparison, with everything that it needs.
pub(super) struct Job {
    pub(super) url: LdapUrl,
    pub(super) base: Dn,
    pub(super) filter: Filter,
    pub(super) attributes: Arc<[String]>,
    pub(super) preset: Preset,
    pub(super) timeouts: Timeouts,
    pub(super) known: Known,
    pub(super) events: Sender<Event>,
}

impl Job {
    /// Tells everything that exists: the unchanged by their ids. Gives the session back.
    pub(super) async fn run(self, session: Session) -> Result<Session, DirectoryError> {
        let (mut session, differing) = self.compare(session).await?;
        let covered = Stamps::of_cookie(&self.known.cookie);
        for ids in differing.chunks(IDS_IN_FILTER) {
            session = self.read(session, ids, &covered).await?;
        }
        Ok(session)
    }

    /// Tells who is there unchanged; the ids of the others.
    async fn compare(&self, session: Session) -> Result<(Session, Vec<StableId>), DirectoryError> {
        let proven = Stamps::of_cookie(&self.known.proven);
        let mut differing = Vec::new();
        let names = [self.id_attribute(), ENTRY_CSN].into_iter().chain(self.known.reads.iter().copied());
        let attributes = names.map(str::to_owned).collect();
        let session = self
            .search(session, self.filter.clone(), attributes, |entries| {
                let mut present = Vec::new();
                for entry in entries {
                    // Without an id it is nobody.
                    let Some(id) = stable_id(&entry, self.preset) else { continue };
                    if proven.cover(&entry) && (self.known.is_known)(&id, &entry) {
                        present.push(id);
                    } else {
                        differing.push(id);
                    }
                }
                if differing.len() > MAX_REREAD {
                    return Err(DirectoryError::RefreshRequired { url: self.url.clone() });
                }
                Ok(vec![Event::Present(present)])
            })
            .await?;
        Ok((session, differing))
    }

    /// Tells some entries. Those that are gone meanwhile are not told.
    async fn read(
        &self,
        session: Session,
        ids: &[StableId],
        covered: &Stamps,
    ) -> Result<Session, DirectoryError> {
        let filter = self.filter.with_any(self.id_attribute(), ids.iter().map(StableId::to_string));
        let attributes = self.attributes.iter().cloned().chain([ENTRY_CSN.to_owned()]).collect();
        self.search(session, filter, attributes, |entries| {
            let (drifted, changed): (Vec<Entry>, Vec<Entry>) =
                entries.into_iter().partition(|entry| !covered.precede(entry));
            Ok(vec![Event::Differences(drifted), Event::Upserts(changed)])
        })
        .await
    }

    /// One search to its end, without pages: whoever may refresh needs none. Sends what `take` makes of it.
    async fn search(
        &self,
        session: Session,
        filter: Filter,
        attributes: Arc<[String]>,
        mut take: impl FnMut(Vec<Entry>) -> Result<Vec<Event>, DirectoryError>,
    ) -> Result<Session, DirectoryError> {
        let job = sweep::Job {
            url: self.url.clone(),
            base: self.base.clone(),
            filter,
            attributes,
            page_size: None,
            timeouts: self.timeouts,
            events: self.events.clone(),
        };
        let relay = |event| match event {
            Event::Upserts(entries) => take(entries),
            _ => Ok(Vec::new()),
        };
        Ok(job.through(session, relay).await?.0)
    }

    fn id_attribute(&self) -> &'static str {
        self.preset.id_attributes().first().copied().unwrap_or_default()
    }
}

/// The last change of each server that is known.
#[derive(Debug, Default)]
struct Stamps(BTreeMap<String, String>);

impl Stamps {
    /// Those of OpenLDAP's cookie: `rid=…,csn=…;…`. Of another one nothing is known, so that it covers
    /// nothing.
    fn of_cookie(cookie: &[u8]) -> Stamps {
        let text = String::from_utf8_lossy(cookie);
        let csns = text.split(',').find_map(|part| part.trim().strip_prefix("csn="));
        let stamps = csns.into_iter().flat_map(|csns| csns.split(';'));
        Stamps(stamps.filter_map(|csn| Some((server(csn)?.to_owned(), csn.to_owned()))).collect())
    }

    /// The entry did not change after these.
    fn cover(&self, entry: &Entry) -> bool {
        let Some(csn) = stamp(entry) else { return false };
        let last = server(csn).and_then(|server| self.0.get(server));
        last.is_some_and(|last| csn <= last.as_str())
    }

    /// The entry changed after these. Of one without a stamp nothing can be said.
    fn precede(&self, entry: &Entry) -> bool {
        stamp(entry).is_some() && !self.cover(entry)
    }
}

fn stamp(entry: &Entry) -> Option<&str> {
    texts(entry, ENTRY_CSN).next()
}

fn server(csn: &str) -> Option<&str> {
    csn.split('#').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mapping::Attribute;

    fn check(cookie: &str, csn: &str, is_covered: bool) {
        let stamp = Attribute { name: "entrycsn".to_owned(), values: vec![csn.as_bytes().to_vec()] };
        let entry = Entry { dn: String::new(), attributes: vec![stamp] };
        let stamps = Stamps::of_cookie(cookie.as_bytes());
        assert_eq!(
            (stamps.cover(&entry), stamps.precede(&entry)),
            (is_covered, !is_covered),
            "{cookie} {csn}"
        );
    }

    #[test]
    fn a_cookie_covers_what_each_server_changed_up_to_it() {
        let cookie =
            "rid=000,csn=20261124063328.000002Z#000000#000#000000;20261101000000.000000Z#000000#00a#000000";
        for (csn, is_covered) in [
            ("20261124063328.000001Z#000000#000#000000", true),
            ("20261124063328.000002Z#000000#000#000000", true),
            ("20261124063328.000002Z#000001#000#000000", false),
            ("20261124063328.000003Z#000000#000#000000", false),
            ("20261101000000.000000Z#000000#00a#000000", true),
            ("20261102000000.000000Z#000000#00a#000000", false),
            ("20260101000000.000000Z#000000#00b#000000", false),
            ("20260101000000.000000Z", false),
            ("", false),
        ] {
            check(cookie, csn, is_covered);
        }
        for cookie in ["", "rid=000", "csn=", "localhost#cn=x#5"] {
            check(cookie, "20260101000000.000000Z#000000#000#000000", false);
        }
    }

    #[test]
    fn an_entry_without_a_stamp_is_neither_earlier_nor_later() {
        let stamps = Stamps::of_cookie(b"csn=20261124063328.000002Z#000000#000#000000");
        assert_eq!((stamps.cover(&Entry::default()), stamps.precede(&Entry::default())), (false, false));
    }
}
