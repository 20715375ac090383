//! The numbers of writes ([MS-ADTS] section 3.1.1.1.9, USN): asks a domain controller for the entries that were
//! written since a number, where DirSync is refused.
//!
//! Each domain controller counts for itself, and begins anew after a restore: a number means something only
//! with the `invocationId` under which it was read. The highest number is read before the search, so that
//! what is written meanwhile comes with the next poll.

use std::sync::Arc;

use ldap3::controls::RawControl;

use super::adpoll::{ALL_BUT_MACHINES, INSUFFICIENT_ACCESS, Job, OBJECT_GUID, Told, id};
use super::error::{DirectoryError, LdapResult};
use super::ldap::Session;
use super::root_dse::texts;
use super::sweep;
use crate::domain::mapping::Entry;

/// LDAP_SERVER_SHOW_DELETED_OID ([MS-ADTS] section 3.1.1.3.4.1.14).
pub(super) const SHOW_DELETED: &str = "1.2.840.113556.1.4.417";

/// Results (RFC 4511 appendix A) that mean that the server can't search for the number.
const INAPPROPRIATE_MATCHING: u32 = 18;
const UNWILLING_TO_PERFORM: u32 = 53;

const USN_CREATED: &str = "uSNCreated";

impl Job {
    /// What was written after this number.
    pub(super) async fn ask_by_usn(
        &self,
        session: &mut Session,
        root: &str,
        since: u64,
        told: &mut Told,
    ) -> Result<(), DirectoryError> {
        let filter = format!("(&(uSNChanged>={}){ALL_BUT_MACHINES})", since.saturating_add(1));
        let attributes: Arc<[String]> = [OBJECT_GUID, USN_CREATED].map(str::to_owned).into();
        let mut cookie = Vec::new();
        loop {
            // Deleted entries that are not shown are found by the comparison of ids.
            let mut controls = vec![RawControl { ctype: SHOW_DELETED.to_owned(), crit: false, val: None }];
            controls.extend(self.page_size.map(|size| sweep::paging(size, &cookie)));
            let take = |entry: Entry| {
                let id = id(&entry).ok_or_else(|| self.malformed("a change has no objectGUID"))?;
                let created: Option<u64> = texts(&entry, USN_CREATED).next().and_then(|usn| usn.parse().ok());
                let is_new = created.is_some_and(|usn| usn > since);
                if told.take(id, !is_new) { Ok(()) } else { Err(self.refresh_required()) }
            };
            let result = self.search(session, root, &filter, &attributes, controls, take).await?;
            if matches!(result.rc, INAPPROPRIATE_MATCHING | INSUFFICIENT_ACCESS | UNWILLING_TO_PERFORM) {
                let problem = LdapResult::new(result.rc, &result.text).to_string();
                return Err(self.mechanism_refused(problem));
            }
            self.succeeded(&result)?;
            if self.page_size.is_none() {
                return Ok(());
            }
            let next = sweep::cookie(&result.ctrls).map_err(|problem| self.malformed(problem))?;
            if next.is_empty() {
                return Ok(());
            } else if next == cookie {
                return Err(self.malformed("the search tells the same page again and again"));
            }
            cookie = next;
        }
    }
}
