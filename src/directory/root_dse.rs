//! What a server says of itself (RFC 4512 section 5.1).

use super::changelog::Changes;
use super::dirsync_wire::DIRSYNC;
use super::notify::NOTIFICATION;
use super::rfc4533::SYNC_REQUEST;
use crate::domain::course::Offers;
use crate::domain::mapping::{Entry, Preset};

/// A server, as its root DSE shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Whose conventions its entries follow: the configured preset, else what the root DSE tells.
    pub preset: Preset,
    /// Product and version for people to read.
    pub vendor: String,
    /// Answers in pages (RFC 2696). Assumed where the server does not tell what it supports.
    pub pages: bool,
    /// The changelog of 389 Directory Server.
    pub changes: Changes,
    /// How it can tell changes.
    pub offers: Offers,
    /// Says when something was written, so that a poll need not wait for its time.
    pub notifies: bool,
    /// What polling a domain controller needs to know of it; empty elsewhere.
    pub(super) controller: Controller,
}

/// A domain controller.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Controller {
    /// The roots of what it holds.
    pub(super) naming_contexts: Vec<String>,
    /// Which one it is, the DN of its settings.
    pub(super) service: String,
    /// The number of its latest write, where it tells it.
    pub(super) usn: Option<u64>,
}

impl Controller {
    /// The naming context that holds this base, by the longest text that it ends with.
    pub(super) fn naming_context(&self, base: &str) -> Option<&str> {
        let holds = |root: &&String| is_below(base, root);
        self.naming_contexts.iter().filter(holds).max_by_key(|root| root.len()).map(String::as_str)
    }
}

/// Whether a DN is this root or ends with it. Spaces around commas and equal signs mean nothing (RFC 4514
/// section 3), nor does case in the names of domains.
pub(super) fn is_below(dn: &str, root: &str) -> bool {
    let normal = |dn: &str| {
        let parts = dn.split(',').map(|part| part.split('=').map(str::trim).collect::<Vec<_>>().join("="));
        parts.collect::<Vec<_>>().join(",").to_lowercase()
    };
    let (dn, root) = (normal(dn), normal(root));
    dn.strip_suffix(&root)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with(',') && !rest.ends_with("\\,"))
}

/// Operational attributes come only when they are asked for by name.
pub(super) const ATTRIBUTES: [&str; 15] = [
    "objectClass",
    "structuralObjectClass",
    "vendorName",
    "vendorVersion",
    "supportedControl",
    "supportedExtension",
    "supportedCapabilities",
    "rootDomainNamingContext",
    "ipaDomainLevel",
    "ipaTopologyPluginVersion",
    "ipaTopologyIsManaged",
    "firstChangeNumber",
    "namingContexts",
    "dsServiceName",
    "highestCommittedUSN",
];

const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";

/// LDAP_CAP_ACTIVE_DIRECTORY_OID ([MS-ADTS] section 3.1.1.3.4.3.1); Samba shows it too.
const ACTIVE_DIRECTORY: &str = "1.2.840.113556.1.4.800";

/// FreeIPA's own extended operations (setting and getting keytabs, joining a host) are all in this arc.
const FREE_IPA_ARC: &str = "2.16.840.1.113730.3.8.";

/// Reads a root DSE; `None` where the server does not show it.
///
/// The first rule that holds decides:
/// 1. Active Directory and Samba: the capability, or a root domain's naming context.
/// 2. FreeIPA: a domain level or a topology plug-in (every FreeIPA since 4.3), or an extended operation
///    of its own (every FreeIPA), on a 389 Directory Server or any vendor.
/// 3. 389 Directory Server and its relatives from Red Hat: the vendor's name.
/// 4. OpenLDAP: the class of its root DSE, or the vendor's name.
/// 5. Anything else is read with OpenLDAP's conventions, which are those of the RFCs.
pub(super) fn server(root_dse: Option<&Entry>, configured: Option<Preset>) -> Server {
    let Some(root_dse) = root_dse.map(RootDse) else {
        return Server {
            preset: configured.unwrap_or(Preset::OpenLdap),
            vendor: "a server that hides its root DSE".to_owned(),
            pages: true,
            changes: Changes::default(),
            offers: Offers::default(),
            notifies: false,
            controller: Controller::default(),
        };
    };
    let preset = configured.unwrap_or_else(|| root_dse.preset());
    // 389 Directory Server shows the control as well, but leaves out deletions and attributes.
    let syncrepl = preset == Preset::OpenLdap && root_dse.controls(SYNC_REQUEST);
    let dirsync = preset == Preset::ActiveDirectory && root_dse.controls(DIRSYNC);
    let controller = root_dse.controller();
    let usn = preset == Preset::ActiveDirectory && controller.usn.is_some() && !controller.service.is_empty();
    let changes =
        Changes { first: root_dse.values("firstChangeNumber").next().and_then(|number| number.parse().ok()) };
    let content_sync = matches!(preset, Preset::Ds389 | Preset::FreeIpa)
        && root_dse.controls(SYNC_REQUEST)
        && changes.first.is_some();
    Server {
        preset,
        vendor: root_dse.vendor(),
        pages: root_dse.pages(),
        changes,
        offers: Offers { syncrepl, content_sync, dirsync, usn },
        notifies: preset == Preset::ActiveDirectory && root_dse.controls(NOTIFICATION),
        controller,
    }
}

/// The values of an attribute that are text.
pub(super) fn texts<'a>(entry: &'a Entry, name: &str) -> impl Iterator<Item = &'a str> {
    entry
        .attributes
        .iter()
        .filter(move |attribute| attribute.name.eq_ignore_ascii_case(name))
        .flat_map(|attribute| &attribute.values)
        .filter_map(|value| std::str::from_utf8(value).ok())
}

struct RootDse<'a>(&'a Entry);

impl RootDse<'_> {
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        texts(self.0, name)
    }

    fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    fn preset(&self) -> Preset {
        self.known().unwrap_or(Preset::OpenLdap)
    }

    fn known(&self) -> Option<Preset> {
        let is_vendor = |word: &str| self.values("vendorName").any(|name| name.contains(word));
        if self.values("supportedCapabilities").any(|oid| oid == ACTIVE_DIRECTORY)
            || self.has("rootDomainNamingContext")
        {
            Some(Preset::ActiveDirectory)
        } else if ["ipaDomainLevel", "ipaTopologyPluginVersion", "ipaTopologyIsManaged"]
            .iter()
            .any(|name| self.has(name))
            || self.values("supportedExtension").any(|oid| oid.starts_with(FREE_IPA_ARC))
        {
            Some(Preset::FreeIpa)
        } else if is_vendor("389 Project") || is_vendor("Red Hat") || is_vendor("Fedora Project") {
            Some(Preset::Ds389)
        } else if ["objectClass", "structuralObjectClass"]
            .iter()
            .any(|name| self.values(name).any(|class| class.eq_ignore_ascii_case("OpenLDAProotDSE")))
            || is_vendor("OpenLDAP")
        {
            Some(Preset::OpenLdap)
        } else {
            None
        }
    }

    fn vendor(&self) -> String {
        let mut words: Vec<String> = ["vendorName", "vendorVersion"]
            .iter()
            .filter_map(|name| self.values(name).next())
            .map(super::error::clean)
            .collect();
        words.retain(|word| !word.is_empty());
        if !words.is_empty() {
            return words.join(" ");
        }
        match self.known() {
            Some(Preset::OpenLdap) => "OpenLDAP",
            Some(Preset::ActiveDirectory) => "Active Directory",
            Some(Preset::FreeIpa) => "FreeIPA",
            Some(Preset::Ds389) => "389 Directory Server",
            Some(Preset::Ldif) | None => "a server of unknown make",
        }
        .to_owned()
    }

    fn pages(&self) -> bool {
        !self.has("supportedControl") || self.controls(PAGED_RESULTS)
    }

    fn controller(&self) -> Controller {
        Controller {
            naming_contexts: self.values("namingContexts").map(str::to_owned).collect(),
            service: self.values("dsServiceName").next().unwrap_or_default().to_owned(),
            usn: self.values("highestCommittedUSN").next().and_then(|usn| usn.parse().ok()),
        }
    }

    fn controls(&self, oid: &str) -> bool {
        self.values("supportedControl").any(|known| known == oid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mapping::Attribute;

    fn check(attributes: &[(&str, &str)], preset: Preset, vendor: &str) {
        let attributes = attributes
            .iter()
            .map(|(name, value)| Attribute {
                name: (*name).to_owned(),
                values: vec![value.as_bytes().to_vec()],
            })
            .collect();
        let entry = Entry { dn: String::new(), attributes };
        let found = server(Some(&entry), None);
        assert_eq!((found.preset, found.vendor.as_str()), (preset, vendor), "{entry:?}");
        assert_eq!(server(Some(&entry), Some(Preset::FreeIpa)).preset, Preset::FreeIpa);
    }

    #[test]
    fn the_server_is_recognised() {
        check(&[("objectClass", "OpenLDAProotDSE")], Preset::OpenLdap, "OpenLDAP");
        check(&[("structuralobjectclass", "OpenLDAProotDSE")], Preset::OpenLdap, "OpenLDAP");
        let ds389 = ("vendorName", "389 Project");
        let version = ("vendorVersion", "389-Directory/2.3.1 B2023.026.0000");
        check(&[ds389, version], Preset::Ds389, "389 Project 389-Directory/2.3.1 B2023.026.0000");
        check(&[ds389, ("ipaDomainLevel", "1")], Preset::FreeIpa, "389 Project");
        check(&[ds389, ("ipatopologyismanaged", "on")], Preset::FreeIpa, "389 Project");
        check(&[ds389, ("supportedExtension", "2.16.840.1.113730.3.8.10.1")], Preset::FreeIpa, "389 Project");
        check(&[ds389, ("supportedExtension", "2.16.840.1.113730.3.5.12")], Preset::Ds389, "389 Project");
        check(&[("supportedCapabilities", ACTIVE_DIRECTORY)], Preset::ActiveDirectory, "Active Directory");
        check(
            &[("vendorName", "Samba Team (https://www.samba.org)"), ("rootDomainNamingContext", "DC=x")],
            Preset::ActiveDirectory,
            "Samba Team (https://www.samba.org)",
        );
        check(&[("vendorName", "Acme\r\nInc")], Preset::OpenLdap, "AcmeInc");
        check(&[], Preset::OpenLdap, "a server of unknown make");
    }

    #[test]
    fn a_hidden_root_dse_leaves_the_defaults() {
        assert_eq!(server(None, None).preset, Preset::OpenLdap);
        assert_eq!(server(None, Some(Preset::ActiveDirectory)).preset, Preset::ActiveDirectory);
        assert!(server(None, None).pages);
    }

    #[test]
    fn the_naming_context_holds_the_base() {
        let roots = ["DC=ad,DC=org", "CN=Configuration,DC=ad,DC=org", "DC=sub,DC=ad,DC=org"];
        let controller =
            Controller { naming_contexts: roots.map(str::to_owned).to_vec(), ..Controller::default() };
        for (base, root) in [
            ("DC=ad,DC=org", Some(roots[0])),
            ("ou=People, dc=AD, dc = org", Some(roots[0])),
            ("ou=x,dc=sub,dc=ad,dc=org", Some(roots[2])),
            ("cn=configuration,dc=ad,dc=org", Some(roots[1])),
            ("ou=x,xdc=ad,dc=org", None),
            ("ou=x\\,dc=ad,dc=org", None),
            ("dc=org", None),
        ] {
            assert_eq!(controller.naming_context(base), root, "{base}");
        }
    }

    #[test]
    fn paging_is_used_where_it_is_offered() {
        let with = |oid: &str| {
            let attribute =
                Attribute { name: "supportedControl".to_owned(), values: vec![oid.as_bytes().to_vec()] };
            server(Some(&Entry { dn: String::new(), attributes: vec![attribute] }), None).pages
        };
        assert!(with(PAGED_RESULTS));
        assert!(!with("2.16.840.1.113730.3.4.2"));
    }
}
