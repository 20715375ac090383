//! `[[listen.socketmap]]`: Postfix's look-ups over a socket (socketmap_table(5)), which Sendmail has too.
//!
//! A request is a netstring `map key`, and so is the answer: `OK value`, `NOTFOUND `, `TEMP reason`, `PERM
//! reason`.

use tokio::sync::watch;
use tracing::warn;

use crate::domain::mail_server::MailboxTemplate;
use crate::domain::user::Kind;
use crate::net::dialogue::{Dialogue, Garbled, Next};
use crate::service::{Admission, AdmitError, Resident};

/// A map's name, and an address of at most 320 bytes. Postfix asks for whatever its client sends, which may be
/// longer than any address.
const MAX_REQUEST: usize = 16 * 1024;

/// A look-up table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Map {
    /// Address -> path of the mailbox, for people and for rooms and the like.
    Mailboxes,
    /// Another address of somebody -> the main one.
    Aliases,
    /// Domain -> itself, where it is ours.
    Domains,
    /// Address -> main address, where its owner holds a seat.
    Seated,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reply {
    Found(String),
    NotFound,
    Temporary(String),
    Permanent(&'static str),
}

/// Where the first netstring in the buffer has its text, and where it ends.
fn netstring(buffer: &[u8]) -> Result<Option<(usize, usize)>, Garbled> {
    let digits = buffer.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // Longer numbers than this are longer requests than any.
    if digits > 6 || digits == 0 && !buffer.is_empty() || digits > 1 && buffer.starts_with(b"0") {
        return Err(Garbled);
    }
    match buffer.get(digits) {
        None => return Ok(None),
        Some(b':') => {}
        Some(_) => return Err(Garbled),
    }
    let number = buffer.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok());
    let length: usize = number.and_then(|digits| digits.parse().ok()).ok_or(Garbled)?;
    let end = digits + 1 + length;
    if end >= MAX_REQUEST {
        return Err(Garbled);
    }
    match buffer.get(end) {
        None => Ok(None),
        Some(b',') => Ok(Some((digits + 1, end))),
        Some(_) => Err(Garbled),
    }
}

/// The map and the key; an unknown map is a mistake in the mail server's configuration.
fn parse(text: &[u8]) -> Result<(Map, String), Reply> {
    let text = String::from_utf8_lossy(text);
    let Some((map, key)) = text.split_once(' ') else {
        return Err(Reply::Permanent("the request has no key"));
    };
    let map = match map {
        "mailboxes" => Map::Mailboxes,
        "aliases" => Map::Aliases,
        "domains" => Map::Domains,
        "seated" => Map::Seated,
        _ => return Err(Reply::Permanent("unknown map: use mailboxes, aliases, domains or seated")),
    };
    Ok((map, key.to_owned()))
}

/// The value for an address that somebody has.
fn value(map: Map, resident: &Resident, template: &MailboxTemplate) -> Reply {
    let found = |name: &str| Reply::Found(name.to_owned());
    match map {
        Map::Domains => Reply::NotFound,
        Map::Mailboxes if matches!(resident.kind, Kind::Person | Kind::Resource) => {
            let Resident { name, primary, login, .. } = resident;
            if login.is_none() && template.needs_login() {
                warn!(
                    user = %primary, name = %name,
                    "The mailbox of {primary} has no path: another user owns each of its login names. See `seatkeeper explain {primary}`."
                );
                return Reply::Temporary("the user owns no login name".to_owned());
            }
            match template.path(login.as_ref().unwrap_or(primary), primary) {
                Some(path) => Reply::Found(path),
                None => Reply::Temporary("the user's name cannot be part of a path".to_owned()),
            }
        }
        Map::Mailboxes => Reply::NotFound,
        Map::Aliases if resident.name == resident.primary => Reply::NotFound,
        Map::Aliases => found(resident.primary.as_str()),
        Map::Seated if resident.seated && resident.enabled && !resident.removed => {
            found(resident.primary.as_str())
        }
        Map::Seated => Reply::NotFound,
    }
}

fn render(reply: &Reply, answer: &mut Vec<u8>) {
    let (status, text) = match reply {
        Reply::Found(value) => ("OK ", value.as_str()),
        Reply::NotFound => ("NOTFOUND ", ""),
        Reply::Temporary(reason) => ("TEMP ", reason.as_str()),
        Reply::Permanent(reason) => ("PERM ", *reason),
    };
    let length = (status.len() + text.len()).to_string();
    for part in [&length, ":", status, text, ","] {
        answer.extend_from_slice(part.as_bytes());
    }
}

/// A connection of a mail server.
pub struct Socketmap {
    admission: Admission,
    template: watch::Receiver<MailboxTemplate>,
}

impl Socketmap {
    /// Makes paths by the template as it is at each request.
    pub fn new(admission: Admission, template: watch::Receiver<MailboxTemplate>) -> Socketmap {
        Socketmap { admission, template }
    }

    fn look_up(&self, map: Map, key: &str) -> Result<Reply, AdmitError> {
        if map == Map::Domains {
            let is_ours = self.admission.serves(key);
            return Ok(if is_ours { Reply::Found(key.to_lowercase()) } else { Reply::NotFound });
        }
        let resident = self.admission.resident(key)?;
        let template = self.template.borrow();
        Ok(resident.map_or(Reply::NotFound, |resident| value(map, &resident, &template)))
    }
}

impl Dialogue for Socketmap {
    const MAX_REQUEST: usize = MAX_REQUEST;

    fn cut(&self, buffer: &[u8]) -> Result<Option<usize>, Garbled> {
        Ok(netstring(buffer)?.map(|(_, end)| end + 1))
    }

    async fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Next {
        let text = match netstring(request) {
            Ok(Some((start, end))) => request.get(start..end).unwrap_or_default(),
            _ => return Next::End,
        };
        let looked_up = parse(text).map(|(map, key)| self.look_up(map, &key));
        let reply = match looked_up {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                super::log_outage(&error);
                Reply::Temporary("the users cannot be looked up now".to_owned())
            }
            Err(reply) => reply,
        };
        render(&reply, answer);
        Next::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::name::Name;

    #[test]
    fn netstrings_are_cut() {
        let cut = |text: &str| netstring(text.as_bytes());
        assert_eq!(cut("9:domains x,"), Ok(Some((2, 11))));
        assert_eq!(cut("9:domains x,9:do"), Ok(Some((2, 11))));
        assert_eq!(cut("0:,"), Ok(Some((2, 2))));
        for whole in ["9:domains x,", "12:0123456789ab,"] {
            for end in 1..whole.len() {
                assert_eq!(cut(&whole[..end]), Ok(None), "{}", &whole[..end]);
            }
        }
        for bad in ["x", ":", "9;", "3:abcd", "-1:,", "01:a,", "9999999:", "16384:", "999999:", " 1:a,", "\n"]
        {
            assert_eq!(cut(bad), Err(Garbled), "{bad}");
        }
    }

    #[test]
    fn requests_are_parsed() {
        assert_eq!(parse(b"mailboxes a@b.org"), Ok((Map::Mailboxes, "a@b.org".to_owned())));
        assert_eq!(parse(b"aliases with space @b"), Ok((Map::Aliases, "with space @b".to_owned())));
        assert_eq!(parse(b"seated "), Ok((Map::Seated, String::new())));
        assert_eq!(parse(b"domains \xff"), Ok((Map::Domains, "\u{fffd}".to_owned())));
        assert!(matches!(parse(b"mailboxes"), Err(Reply::Permanent(_))));
        assert!(matches!(parse(b"Mailboxes a@b"), Err(Reply::Permanent(_))));
        assert!(matches!(parse(b""), Err(Reply::Permanent(_))));
    }

    fn resident(asked: &str) -> Resident {
        let name = |text: &str| Name::parse(text, None).unwrap();
        Resident {
            kind: Kind::Person,
            enabled: true,
            removed: false,
            seated: false,
            name: name(asked),
            primary: name("alice@example.org"),
            login: Some(name("al@example.org")),
        }
    }

    #[test]
    fn values_depend_on_the_map() {
        let template = MailboxTemplate::parse("{domain}/{login}/").unwrap();
        let said = |map, resident: &Resident| {
            let mut answer = Vec::new();
            render(&value(map, resident, &template), &mut answer);
            String::from_utf8(answer).unwrap()
        };
        let (alias, primary) = (resident("a.l@example.org"), resident("alice@example.org"));
        assert_eq!(said(Map::Mailboxes, &alias), "18:OK example.org/al/,");
        assert_eq!(said(Map::Aliases, &alias), "20:OK alice@example.org,");
        assert_eq!(said(Map::Aliases, &primary), "9:NOTFOUND ,");
        assert_eq!(said(Map::Seated, &alias), "9:NOTFOUND ,");
        let seated = Resident { seated: true, ..alias.clone() };
        assert_eq!(said(Map::Seated, &seated), "20:OK alice@example.org,");
        assert_eq!(said(Map::Seated, &Resident { enabled: false, ..seated.clone() }), "9:NOTFOUND ,");
        assert_eq!(said(Map::Seated, &Resident { removed: true, ..seated }), "9:NOTFOUND ,");
        let room = Resident { kind: Kind::Resource, ..alias.clone() };
        assert_eq!(said(Map::Mailboxes, &room), "18:OK example.org/al/,");
        let list = Resident { kind: Kind::List, ..alias.clone() };
        assert_eq!(said(Map::Mailboxes, &list), "9:NOTFOUND ,");
        assert_eq!(said(Map::Aliases, &list), "20:OK alice@example.org,");
        let login = Name::parse("../x@example.org", None).unwrap();
        assert!(
            said(Map::Mailboxes, &Resident { login: Some(login), ..alias }).contains(":TEMP the user's name")
        );
    }
}
