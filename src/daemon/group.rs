//! `required_group` in a run: whom it maps, and whether they are still the members.
//!
//! A run maps the members that the group has when it begins. When it has others, what was read is worth
//! nothing: who joined is not told as changed, and neither is who left. So the cookie is keyed by the
//! members, and everything is read again.

use std::sync::Arc;
use std::time::Duration;

use super::intake::SyncError;
use crate::directory::{Connection, keeps_member_of};
use crate::domain::directory::LdapSource;
use crate::domain::group::Members;
use crate::domain::ldap_text::{Filter, escaped};
use crate::domain::mapping::Rules;

/// Groups that a filter asks for; with more of them everybody is read, and the others are left out here.
const MAX_FILTERED: usize = 50;

/// The members of the required group, as a run knows them.
#[derive(Clone, Debug)]
pub(super) struct Group {
    members: Arc<Members>,
    /// The one server of the run.
    source: LdapSource,
}

impl Group {
    /// Reads the members where a group is required.
    pub(super) async fn read(
        ldap: &LdapSource,
        connection: &mut Connection,
    ) -> Result<Option<Group>, SyncError> {
        let Some(group) = &ldap.required_group else { return Ok(None) };
        let members = Arc::new(connection.members(group).await?);
        let source = LdapSource { urls: vec![connection.url().clone()], ..ldap.clone() };
        Ok(Some(Group { members, source }))
    }

    pub(super) fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members)
    }

    /// Whether the server decides who is a member, entry by entry: when the group is renamed in the middle of
    /// a sweep, nobody else is.
    pub(super) fn is_narrowing(&self, rules: &Rules) -> bool {
        knows_members(rules).is_some()
    }

    /// Whether the group has other members by now, asked on a connection of its own.
    pub(super) async fn has_changed(&self) -> Result<bool, SyncError> {
        let mut connection = Connection::open(&self.source, 0).await?;
        let now = Group::read(&self.source, &mut connection).await?;
        connection.close().await;
        Ok(now.is_none_or(|now| now.members != self.members))
    }
}

/// Returns when the group has other members, asking again and again, or when it can't be asked.
pub(super) async fn changed(group: Option<Group>, every: Duration) -> Result<(), SyncError> {
    let Some(group) = group else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every).await;
        if group.has_changed().await? {
            return Ok(());
        }
    }
}

/// Asks only for members, where the server is certain to know them.
pub(super) fn narrow(filter: Filter, rules: &Rules) -> Filter {
    let Some(members) = knows_members(rules) else { return filter };
    let mut any: String =
        members.groups().iter().map(|group| format!("(memberOf={})", escaped(group))).collect();
    for id in members.relative_ids() {
        any.push_str(&format!("(primaryGroupID={id})"));
    }
    // Both parts are good, so the whole is.
    Filter::parse(&format!("(&{filter}(|{any}))")).unwrap_or(filter)
}

/// The members, where a filter can ask for all of them.
fn knows_members(rules: &Rules) -> Option<&Members> {
    let members = rules.members.as_deref().filter(|_| keeps_member_of(rules.preset));
    members.filter(|members| members.is_by_filter() && members.groups().len() <= MAX_FILTERED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::group::Membership;
    use crate::domain::mapping::Preset;
    use crate::domain::name::Domain;

    fn narrowed(preset: Preset, told: Membership) -> String {
        let mut rules = Rules::new(preset, Domain::parse("example.org").unwrap());
        rules.members = Some(Arc::new(told.finish()));
        narrow(Filter::parse("(uid=*)").unwrap(), &rules).to_string()
    }

    fn group() -> Membership {
        let mut told = Membership::default();
        told.push_group(r"CN=a\, (*),DC=x", Some(&[1, 1, 0, 0, 0, 0, 0, 5, 1, 2, 0, 0]));
        told
    }

    #[test]
    fn the_filter_asks_for_members_where_the_server_knows_them() {
        let expected = r"(&(uid=*)(|(memberOf=CN=a\5c, \28\2a\29,DC=x)(primaryGroupID=513)))";
        assert_eq!(narrowed(Preset::ActiveDirectory, group()), expected);
        assert_eq!(narrowed(Preset::OpenLdap, group()), "(uid=*)");
        let mut told = group();
        told.push_login("a");
        assert_eq!(narrowed(Preset::FreeIpa, told), "(uid=*)");
        let mut told = group();
        (0..MAX_FILTERED).for_each(|number| told.push_group(&format!("cn={number}"), None));
        assert_eq!(narrowed(Preset::ActiveDirectory, told), "(uid=*)");
    }
}
