//! The conventions of each server: which attributes hold what, and which classes are what.

use super::mapping::Skip;
use super::user::Kind;

/// Which server's conventions an entry follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// OpenLDAP.
    OpenLdap,
    /// 389 Directory Server.
    Ds389,
    /// FreeIPA, which is 389-ds with a schema of its own.
    FreeIpa,
    /// Active Directory, Samba AD DC among it.
    ActiveDirectory,
    /// A file, exported from any of them: whatever id and flag an entry has is used.
    Ldif,
}

impl Preset {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Preset::OpenLdap => "openldap",
            Preset::Ds389 => "389ds",
            Preset::FreeIpa => "freeipa",
            Preset::ActiveDirectory => "active-directory",
            Preset::Ldif => "ldif",
        }
    }

    /// Finds people, and neither the machines that Active Directory files under `user`, nor the accounts that
    /// belong to the system itself (Administrator, Guest, krbtgt).
    pub fn default_filter(self) -> &'static str {
        match self {
            Preset::OpenLdap | Preset::Ds389 => "(objectClass=inetOrgPerson)",
            Preset::FreeIpa => "(objectClass=posixAccount)",
            Preset::ActiveDirectory => {
                "(&(objectClass=user)(!(objectClass=computer))(!(isCriticalSystemObject=TRUE)))"
            }
            Preset::Ldif => "(objectClass=*)",
        }
    }

    /// Finds lists and rooms that have an address in one of these attributes; `None` where everything is read anyway.
    pub fn default_list_filter(self, mail: &[String]) -> Option<String> {
        let addresses: String = mail.iter().map(|attribute| format!("({attribute}=*)")).collect();
        let any = |attribute: &str, values: &mut dyn Iterator<Item = String>| -> String {
            values.map(|value| format!("({attribute}={value})")).collect()
        };
        let classes = match self {
            Preset::OpenLdap | Preset::Ds389 | Preset::FreeIpa => {
                let lists = CLASSES
                    .iter()
                    .filter(|(_, kind)| matches!(kind, Ok(Kind::List | Kind::Group | Kind::Resource)));
                let classes = lists.flat_map(|(classes, _)| classes.iter());
                any("objectClass", &mut classes.map(|class| (*class).to_owned()))
            }
            Preset::ActiveDirectory => {
                let rooms = RESOURCE_RECIPIENTS.iter().map(u64::to_string);
                format!("(objectClass=group){}", any(RECIPIENT_TYPE, &mut rooms.into_iter()))
            }
            Preset::Ldif => return None,
        };
        Some(format!("(&(|{classes})(|{addresses}))"))
    }

    /// Attributes that hold login names.
    pub fn default_login(self) -> &'static [&'static str] {
        match self {
            Preset::OpenLdap | Preset::Ds389 | Preset::FreeIpa => &["uid"],
            Preset::ActiveDirectory => &["sAMAccountName", "userPrincipalName"],
            Preset::Ldif => &["uid", "sAMAccountName", "userPrincipalName"],
        }
    }

    /// Attributes that hold mail addresses.
    pub fn default_mail(self) -> &'static [&'static str] {
        match self {
            Preset::OpenLdap | Preset::Ds389 | Preset::FreeIpa => &["mail"],
            Preset::ActiveDirectory | Preset::Ldif => &["mail", "proxyAddresses"],
        }
    }

    /// Attributes that hold the name for people; the first one present is used.
    pub fn default_name(self) -> &'static [&'static str] {
        &["displayName", "cn"]
    }

    /// Attributes that identify an entry for good; the first one that it has does.
    pub fn id_attributes(self) -> &'static [&'static str] {
        match self {
            Preset::OpenLdap => &[ENTRY_UUID],
            Preset::Ds389 | Preset::FreeIpa => &[NS_UNIQUE_ID],
            Preset::ActiveDirectory => &[OBJECT_GUID],
            Preset::Ldif => &[ENTRY_UUID, NS_UNIQUE_ID, OBJECT_GUID],
        }
    }

    pub(super) fn flag_attributes(self) -> &'static [&'static str] {
        match self {
            Preset::OpenLdap => &[PWD_ACCOUNT_LOCKED_TIME],
            Preset::Ds389 | Preset::FreeIpa => &[NS_ACCOUNT_LOCK],
            Preset::ActiveDirectory => &[USER_ACCOUNT_CONTROL, RECIPIENT_TYPE],
            Preset::Ldif => &[PWD_ACCOUNT_LOCKED_TIME, NS_ACCOUNT_LOCK, USER_ACCOUNT_CONTROL, RECIPIENT_TYPE],
        }
    }
}

/// The classes of an entry (RFC 4512 section 3.3).
pub const OBJECT_CLASS: &str = "objectClass";
pub(super) const ENTRY_UUID: &str = "entryUUID";
/// The id of an entry of 389 Directory Server.
pub const NS_UNIQUE_ID: &str = "nsUniqueId";
pub(super) const OBJECT_GUID: &str = "objectGUID";
pub(super) const PWD_ACCOUNT_LOCKED_TIME: &str = "pwdAccountLockedTime";
pub(super) const NS_ACCOUNT_LOCK: &str = "nsAccountLock";
pub(super) const USER_ACCOUNT_CONTROL: &str = "userAccountControl";
pub(super) const RECIPIENT_TYPE: &str = "msExchRecipientTypeDetails";

/// Recipient types of shared, room, equipment, arbitration, discovery, monitoring and remote
/// room/equipment/shared mailboxes (Microsoft Exchange documentation, msExchRecipientTypeDetails).
pub(super) const RESOURCE_RECIPIENTS: [u64; 9] =
    [4, 16, 32, 8_388_608, 536_870_912, 549_755_813_888, 8_589_934_592, 17_179_869_184, 34_359_738_368];

/// The decisive classes, the first table that matches wins. An entry of another class is taken for a
/// person: a schema of one's own is common, and mapping too much costs no seat.
pub(super) const CLASSES: [(&[&str], Result<Kind, Skip>); 7] = [
    (&["computer", "msDS-ManagedServiceAccount", "ipaHost", "ipaService", "ipHost"], Err(Skip::NotAUser)),
    (&["room", "device", "calendarResource", "calResource", "icsCalendarResource"], Ok(Kind::Resource)),
    (&["inetOrgPerson", "posixAccount", "account", "inetUser", "user"], Ok(Kind::Person)),
    // Before `person`, of which it is a kind in Active Directory.
    (&["contact"], Ok(Kind::Contact)),
    (&["person"], Ok(Kind::Person)),
    (&["nisMailAlias", "mailGroup", "rfc822MailGroup", "distributionList"], Ok(Kind::List)),
    (
        &["groupOfNames", "groupOfUniqueNames", "groupOfURLs", "groupOfMembers", "posixGroup", "group"],
        Ok(Kind::Group),
    ),
];

/// Entries that only hold others together, or describe the directory itself.
pub(super) const CONTAINERS: [&str; 12] = [
    "organizationalUnit",
    "organization",
    "organizationalRole",
    "domain",
    "dcObject",
    "locality",
    "country",
    "container",
    "nsContainer",
    "builtinDomain",
    "applicationProcess",
    "referral",
];
