//! LDIF: the people among the entries.

use std::io::BufRead;

use super::Row;
use crate::directory::ldif::Reader;
use crate::domain::account::{ImportRow, ImportedPerson, MAX_ALIASES, Mistake, RowContent, Rows};
use crate::domain::mapping::{Entry, Preset, Rules, map_entry_under, stable_id};
use crate::domain::name::{Domain, Name, StableId};
use crate::domain::user::{Kind, Mapped};

pub(super) fn rows(input: impl BufRead + Send + 'static, domain: Domain) -> Rows {
    let rules = Rules::new(Preset::Ldif, domain.clone());
    Box::new(Entries { reader: Reader::new(input), rules, domain, is_over: false })
}

struct Entries<R> {
    reader: Reader<R>,
    rules: Rules,
    domain: Domain,
    is_over: bool,
}

impl<R: BufRead> Iterator for Entries<R> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.is_over {
            return None;
        }
        match self.reader.entry() {
            Ok(Some(entry)) => {
                let content = self.content(&entry);
                Some(Ok(ImportRow { line: self.reader.entry_line(), content }))
            }
            Ok(None) => None,
            Err(error) => {
                self.is_over = true;
                Some(Err(error.to_string()))
            }
        }
    }
}

impl<R> Entries<R> {
    fn content(&self, entry: &Entry) -> RowContent {
        let id = stable_id(entry, Preset::Ldif);
        // Only the mapping needs one; without one of its own the entry is known by its address.
        let Some(placeholder) = id.clone().or_else(|| StableId::new(&[0])) else {
            return RowContent::Skipped("no_id");
        };
        match map_entry_under(entry, &self.rules, placeholder) {
            Ok(mapped) if mapped.kind == Kind::Person => self.person(&mapped, id),
            Ok(_) => RowContent::Skipped("not_a_person"),
            Err(skip) => RowContent::Skipped(skip.code()),
        }
    }

    /// Under the names in the domain; those of other domains are left out.
    fn person(&self, mapped: &Mapped, id: Option<StableId>) -> RowContent {
        let is_ours = |name: &&Name| name.domain() == self.domain.as_str() && name.is_address();
        let ours: Vec<Name> =
            mapped.addresses.iter().chain(&mapped.logins).filter(is_ours).cloned().collect();
        let Some((address, aliases)) = ours.split_first() else {
            let message = format!("{} has no address in {}", mapped.primary(), self.domain);
            let user = Some(mapped.primary().to_owned());
            return RowContent::Wrong(Mistake { user, reason: "foreign_domain", message });
        };
        if aliases.len() > MAX_ALIASES {
            let message = format!("there are more than {MAX_ALIASES} aliases");
            let user = Some(address.to_string());
            return RowContent::Wrong(Mistake { user, reason: "invalid", message });
        }
        RowContent::Person(ImportedPerson {
            address: address.clone(),
            aliases: Some(aliases.to_vec()),
            display_name: Some(mapped.display_name.as_deref().unwrap_or_default().to_owned()),
            id,
            enabled: mapped.enabled,
        })
    }
}
