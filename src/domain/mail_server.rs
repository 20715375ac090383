//! What mail servers are told beside the decision: as it is configured for a listener.

use std::net::SocketAddr;

use super::name::Name;

/// What becomes of mail for somebody who may not have a seat for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailWithoutSeat {
    /// It is delivered all the same.
    Accept,
    /// The sender tries again later, and gives up after days.
    Defer,
    /// The sender gets it back.
    Reject,
}

/// How a policy server answers about recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecipientPolicy {
    /// For a user who has no seat and may not take one by a delivery.
    pub unseated: MailWithoutSeat,
    /// For a user who might take one, but none is free.
    pub exhausted: MailWithoutSeat,
    /// Separates what people add to their address (`alice+lists@example.org`), as the mail server has it.
    pub delimiter: Option<char>,
}

/// Where a mailbox lies, from `{domain}`, `{login}` and `{address}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailboxTemplate(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Domain,
    Login,
    Address,
}

/// Why a text is no [`MailboxTemplate`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// Another word in braces, or a brace alone.
    #[error("has a brace that begins or ends no {{domain}}, {{login}} or {{address}}")]
    Brace,
    /// Every mailbox would be the same.
    #[error("has neither {{login}} nor {{address}}, so all users would share a mailbox")]
    Shared,
    /// Control characters.
    #[error("holds a control character")]
    Control,
}

impl MailboxTemplate {
    /// Longer than any path of a mailbox needs.
    pub const MAX_BYTES: usize = 1024;

    /// Checks a template.
    pub fn parse(text: &str) -> Result<MailboxTemplate, TemplateError> {
        if text.chars().any(char::is_control) {
            return Err(TemplateError::Control);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (word, after) = after.split_once('}').ok_or(TemplateError::Brace)?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(match word {
                "domain" => Part::Domain,
                "login" => Part::Login,
                "address" => Part::Address,
                _ => return Err(TemplateError::Brace),
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        if parts.iter().any(|part| matches!(part, Part::Text(text) if text.contains('}'))) {
            return Err(TemplateError::Brace);
        }
        if !parts.iter().any(|part| matches!(part, Part::Login | Part::Address)) {
            return Err(TemplateError::Shared);
        }
        Ok(MailboxTemplate(parts))
    }

    /// Whether the path of a mailbox depends on the user's login name.
    pub fn needs_login(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Login | Part::Domain))
    }

    /// The path of one user's mailbox. `None` where a name could lead out of its folder: it has a slash, or
    /// begins with a dot.
    pub fn path(&self, login: &Name, address: &Name) -> Option<String> {
        let mut path = String::new();
        for part in &self.0 {
            let name = match part {
                Part::Text(text) => {
                    path.push_str(text);
                    continue;
                }
                Part::Domain => login.domain(),
                Part::Login => login.local_part(),
                Part::Address => address.as_str(),
            };
            if name.contains('/') || name.starts_with('.') {
                return None;
            }
            path.push_str(name);
        }
        Some(path)
    }
}

/// The servers behind a mail proxy; a proxy reaches them by address alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backends {
    /// IMAP.
    pub imap: Option<SocketAddr>,
    /// POP3.
    pub pop3: Option<SocketAddr>,
    /// Submission.
    pub smtp: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(template: &str, login: &str, address: &str) -> Option<String> {
        let name = |text| Name::parse(text, None).unwrap();
        MailboxTemplate::parse(template).unwrap().path(&name(login), &name(address))
    }

    #[test]
    fn templates_are_filled() {
        let filled = |template| path(template, "al@example.org", "alice@example.com").unwrap();
        assert_eq!(filled("{domain}/{login}/"), "example.org/al/");
        assert_eq!(filled("/srv/{address}"), "/srv/alice@example.com");
        assert_eq!(filled("{login}{login}"), "alal");
    }

    #[test]
    fn templates_are_checked() {
        for (text, error) in [
            ("", TemplateError::Shared),
            ("{domain}/", TemplateError::Shared),
            ("{login", TemplateError::Brace),
            ("login}", TemplateError::Brace),
            ("{user}", TemplateError::Brace),
            ("{{login}}", TemplateError::Brace),
            ("{login}\n", TemplateError::Control),
        ] {
            assert_eq!(MailboxTemplate::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for login in ["../root@example.org", "a/b@example.org", "..@example.org", ".hidden@example.org"] {
            assert_eq!(path("{domain}/{login}/", login, "a@example.org"), None, "{login}");
        }
        assert_eq!(path("{login}", "a@../x", "a@example.org"), Some("a".to_owned()));
        assert_eq!(path("{domain}/{login}", "a@../x", "a@example.org"), None);
        assert_eq!(path("{address}", "a@example.org", "../a@example.org"), None);
        assert_eq!(path("{login}", "a..b@example.org", "a@example.org"), Some("a..b".to_owned()));
    }
}
