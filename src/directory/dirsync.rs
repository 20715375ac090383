//! DirSync ([MS-ADTS] section 3.1.1.3.4.1.3): asks a domain controller what changed since a cookie of its own.
//!
//! An answer has only the attributes that changed, so the class is told of new entries alone, and an empty
//! attribute was taken away. Without the right "Replicating Directory Changes" it works with a flag, for what
//! the bind user may read.

use std::sync::Arc;

use ldap3::controls::RawControl;

use super::adpoll::{ALL_BUT_MACHINES, BUSY, INSUFFICIENT_ACCESS, Job, Told, UNAVAILABLE, id};
use super::bookmark::Bookmark;
use super::dirsync_wire::{self, DIRSYNC};
use super::error::{DirectoryError, LdapResult};
use super::ldap::Session;
use crate::domain::mapping::Entry;

/// No entry has this objectGUID, and a search for it is a look into an index.
const NOTHING: &str = r"(objectGUID=\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00)";

/// Told where an entry was renamed or moved.
const PLACE: [&str; 2] = ["name", "parentGUID"];

const OBJECT_CLASS: &str = "objectClass";
const IS_DELETED: &str = "isDeleted";

impl Job {
    /// Where the server stands now.
    pub(super) async fn find_position(
        &self,
        session: &mut Session,
        root: &str,
        bookmark: &mut Bookmark,
    ) -> Result<(), DirectoryError> {
        self.ask(session, root, NOTHING, bookmark, |_| Ok(())).await
    }

    /// What changed since the bookmark's cookie, which moves on.
    pub(super) async fn ask_dirsync(
        &self,
        session: &mut Session,
        root: &str,
        bookmark: &mut Bookmark,
        told: &mut Told,
    ) -> Result<(), DirectoryError> {
        let take = |entry: Entry| {
            let id = id(&entry).ok_or_else(|| self.malformed("a change has no objectGUID"))?;
            let is_moved = !has(&entry, OBJECT_CLASS) && PLACE.iter().any(|name| has(&entry, name));
            if told.take(id, is_moved) { Ok(()) } else { Err(self.refresh_required()) }
        };
        self.ask(session, root, ALL_BUT_MACHINES, bookmark, take).await
    }

    /// Asks for changes until there are no more.
    async fn ask(
        &self,
        session: &mut Session,
        root: &str,
        filter: &str,
        bookmark: &mut Bookmark,
        mut take: impl FnMut(Entry) -> Result<(), DirectoryError>,
    ) -> Result<(), DirectoryError> {
        let names = self.attributes.iter().map(String::as_str).chain(named_in(self.filter.as_str()));
        let attributes: Arc<[String]> = names.chain(PLACE).chain([IS_DELETED]).map(str::to_owned).collect();
        loop {
            let control = RawControl {
                ctype: DIRSYNC.to_owned(),
                // Else a server that ignored it would tell everything; it has to be critical, too.
                crit: true,
                val: Some(dirsync_wire::request(bookmark.object_security, &bookmark.cookie)),
            };
            let result = self.search(session, root, filter, &attributes, vec![control], &mut take).await?;
            match result.rc {
                0 => {}
                BUSY | UNAVAILABLE => return Err(self.refused(&result)),
                INSUFFICIENT_ACCESS if !bookmark.object_security => {
                    bookmark.object_security = true;
                    continue;
                }
                // What is wrong with a cookie has no result of its own, nor has a right that is missing.
                _ if !bookmark.cookie.is_empty() => return Err(self.refresh_required()),
                _ if !bookmark.object_security => {
                    bookmark.object_security = true;
                    continue;
                }
                code => {
                    let problem = LdapResult::new(code, &result.text).to_string();
                    return Err(self.mechanism_refused(problem));
                }
            }
            let Some(control) = result.ctrls.iter().find(|control| control.1.ctype == DIRSYNC) else {
                if !bookmark.cookie.is_empty() {
                    return Err(self.refresh_required());
                }
                return Err(self.mechanism_refused("it ignores the control".to_owned()));
            };
            let value = control.1.val.as_deref().ok_or("the DirSync control has no value");
            let answer = value.and_then(dirsync_wire::answer).map_err(|problem| self.malformed(problem))?;
            let is_stuck = answer.more && answer.cookie == bookmark.cookie;
            bookmark.cookie = answer.cookie;
            if is_stuck {
                return Err(self.malformed("DirSync tells the same again and again"));
            } else if !answer.more {
                return Ok(());
            }
        }
    }
}

/// Whether an attribute is there with a value: an empty one was taken away.
fn has(entry: &Entry, name: &str) -> bool {
    let mut attributes = entry.attributes.iter();
    attributes.any(|attribute| attribute.name.eq_ignore_ascii_case(name) && !attribute.values.is_empty())
}

/// The attributes that a filter asks for. A parenthesis within a value is always escaped (RFC 4515 section 3),
/// so each one opens an item.
fn named_in(filter: &str) -> impl Iterator<Item = &str> {
    filter.split('(').filter_map(|item| {
        let end = item.find(['=', '<', '>', '~', ':', ';'])?;
        let name = item[..end].trim();
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attributes_of_a_filter_are_found() {
        let named = |filter| named_in(filter).collect::<Vec<_>>();
        assert_eq!(named("(mail=*)"), ["mail"]);
        assert_eq!(
            named(r"(&(objectClass=user)(!(department=a\28b=c))(|(x>=1)(y;lang-de~=2)( z <=3)))"),
            ["objectClass", "department", "x", "y", "z"]
        );
        assert_eq!(named("(&(memberOf:1.2.840:=cn=x)(:dn:2.5.13.2:=y))"), ["memberOf"]);
    }

    #[test]
    fn our_own_filters_can_be_used() {
        assert!(ldap3::parse_filter(NOTHING).is_ok());
    }
}
