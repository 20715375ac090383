//! `[[listen.postfix_policy]]`: Postfix's policy delegation (SMTPD_POLICY_README).
//!
//! A request is lines of `name=value` and an empty line; the answer is `action=…` and an empty line. Mail to
//! an address of ours is a delivery, whoever sends it; a client that has logged in (`sasl_username`) is a login of
//! that user instead. Everything else is left to Postfix' next rule, `DUNNO`.

use tokio::sync::watch;

use crate::domain::admission::{Decision, Operation};
use crate::domain::mail_server::{MailWithoutSeat, RecipientPolicy};
use crate::net::dialogue::{Dialogue, Garbled, Next};
use crate::service::{Admission, AdmitError, Ask};

/// Postfix cuts each of its some 30 values at 2048 bytes; real requests have less than 1 kB.
const MAX_REQUEST: usize = 64 * 1024;

/// The service that the ledger names for a delivery, and for a login.
const DELIVERY_SERVICE: &str = "smtp";
const LOGIN_SERVICE: &str = "submission";

/// Where Postfix says that it only asks whether an address exists (`address_verify_sender`).
const PROBING_SENDER: &str = "double-bounce";

/// The part of a request that counts.
#[derive(PartialEq, Eq, Debug, Default)]
struct PolicyRequest<'a> {
    protocol_state: &'a str,
    /// `None` where it is not told; empty for a bounce, and for a server that only asks.
    sender: Option<&'a str>,
    recipient: &'a str,
    sasl_username: &'a str,
    client_address: &'a str,
}

/// What is asked for.
#[derive(PartialEq, Eq, Debug)]
enum Question<'a> {
    Login(&'a str),
    Recipient(&'a str),
    Nothing,
}

/// What Postfix is to do.
#[derive(PartialEq, Eq, Debug)]
enum Action {
    /// Ask the next rule.
    Dunno,
    /// Refuse with this reply code and enhanced status code (RFC 3463), and this text.
    Reply(&'static str, &'static str),
}

/// The outage's own sign: a temporary error of the system, never of the mailbox.
const OUTAGE: Action =
    Action::Reply("450 4.3.0", "The mail system cannot look up its users now. Please try again later.");

/// Parses a request, without its last empty line. Bytes that are not UTF-8 make a name that nobody has.
fn parse(request: &str) -> Result<PolicyRequest<'_>, Garbled> {
    let mut parsed = PolicyRequest::default();
    let mut kind = "";
    for line in request.split_terminator('\n') {
        let (name, value) = line.split_once('=').ok_or(Garbled)?;
        match name {
            "request" => kind = value,
            "protocol_state" => parsed.protocol_state = value,
            "sender" => parsed.sender = Some(value),
            "recipient" => parsed.recipient = value,
            "sasl_username" => parsed.sasl_username = value,
            "client_address" => parsed.client_address = value,
            _ => {}
        }
    }
    if kind == "smtpd_access_policy" { Ok(parsed) } else { Err(Garbled) }
}

impl<'a> PolicyRequest<'a> {
    fn question(&self) -> Question<'a> {
        if !self.sasl_username.is_empty() {
            Question::Login(self.sasl_username)
        } else if self.protocol_state == "RCPT" && !self.recipient.is_empty() {
            Question::Recipient(self.recipient)
        } else {
            Question::Nothing
        }
    }

    /// A bounce takes no seat, and neither does a server that asks whether the address exists.
    fn delivery(&self) -> Operation {
        let local_part = self.sender.map(|sender| sender.split('@').next().unwrap_or_default());
        match local_part {
            Some("" | PROBING_SENDER) => Operation::DeliveryProbe,
            _ => Operation::Delivery,
        }
    }
}

/// The answer about a recipient.
fn recipient_action(decision: &Decision, policy: &RecipientPolicy) -> Action {
    let choice = match decision {
        // Lists and rooms need no seat: whether they take mail is not ours to say.
        Decision::NotAPerson(_) => return Action::Dunno,
        decision if decision.allows() => return Action::Dunno,
        Decision::UnknownUser => return Action::Reply("550 5.1.1", decision.message()),
        Decision::Disabled => return Action::Reply("550 5.2.1", decision.message()),
        // Whoever is gone by mistake comes back within the grace period, and then gets the mail.
        Decision::Removed => return Action::Reply("450 4.2.1", decision.message()),
        Decision::NotSeated | Decision::NotConfigured => policy.unseated,
        _ => policy.exhausted,
    };
    match choice {
        MailWithoutSeat::Accept => Action::Dunno,
        MailWithoutSeat::Defer => Action::Reply("450 4.2.1", decision.message()),
        MailWithoutSeat::Reject => Action::Reply("550 5.2.1", decision.message()),
    }
}

/// The answer to a client who has logged in and waits.
fn login_action(decision: &Decision) -> Action {
    if decision.allows() { Action::Dunno } else { Action::Reply("550 5.7.1", decision.message()) }
}

fn render(action: &Action, answer: &mut Vec<u8>) {
    match action {
        Action::Dunno => answer.extend_from_slice(b"action=DUNNO\n\n"),
        Action::Reply(code, text) => {
            for part in ["action=", code, " ", text, "\n\n"] {
                answer.extend_from_slice(part.as_bytes());
            }
        }
    }
}

/// The address without what its owner added to it: `alice@example.org` for `alice+lists@example.org`.
fn without_extension(address: &str, delimiter: Option<char>) -> Option<String> {
    let (local, domain) = address.rsplit_once('@')?;
    let (local, _) = local.split_once(delimiter?).filter(|(local, _)| !local.is_empty())?;
    Some(format!("{local}@{domain}"))
}

/// A connection of Postfix.
pub struct PostfixPolicy {
    admission: Admission,
    policy: watch::Receiver<RecipientPolicy>,
}

impl PostfixPolicy {
    /// Answers by the policy as it is at each request.
    pub fn new(admission: Admission, policy: watch::Receiver<RecipientPolicy>) -> PostfixPolicy {
        PostfixPolicy { admission, policy }
    }

    async fn act(&self, request: &PolicyRequest<'_>) -> Result<Action, AdmitError> {
        let (user, service, operation) = match request.question() {
            Question::Nothing => return Ok(Action::Dunno),
            Question::Login(user) => (user, LOGIN_SERVICE, Operation::Login),
            Question::Recipient(address) => {
                let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
                if !self.admission.serves(domain) {
                    return Ok(Action::Dunno);
                }
                (address, DELIVERY_SERVICE, request.delivery())
            }
        };
        let policy = *self.policy.borrow();
        let is_login = operation == Operation::Login;
        let shorter = if is_login { None } else { without_extension(user, policy.delimiter) };
        let shorter = match shorter {
            Some(shorter) if !self.admission.knows(user)? => Some(shorter),
            _ => None,
        };
        let client = request.client_address.parse().ok();
        let user = shorter.as_deref().unwrap_or(user);
        let ask = Ask { user, service: Some(service), operation, client };
        let decision = self.admission.decision(&ask).await?;
        Ok(if is_login { login_action(&decision) } else { recipient_action(&decision, &policy) })
    }
}

impl Dialogue for PostfixPolicy {
    const MAX_REQUEST: usize = MAX_REQUEST;

    fn cut(&self, buffer: &[u8]) -> Result<Option<usize>, Garbled> {
        if buffer.starts_with(b"\n") {
            return Err(Garbled);
        }
        Ok(buffer.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2))
    }

    async fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Next {
        let text = String::from_utf8_lossy(request.strip_suffix(b"\n").unwrap_or(request));
        let Ok(request) = parse(&text) else {
            // Postfix tells its client to try again when it gets no answer.
            tracing::warn!("A request on a postfix_policy listener is none of Postfix'.");
            return Next::End;
        };
        let action = self.act(&request).await.unwrap_or_else(|error| {
            super::log_outage(&error);
            OUTAGE
        });
        render(&action, answer);
        Next::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::user::Kind;

    const POLICY: RecipientPolicy = RecipientPolicy {
        unseated: MailWithoutSeat::Defer,
        exhausted: MailWithoutSeat::Reject,
        delimiter: Some('+'),
    };

    fn question(lines: &str) -> Question<'_> {
        parse(lines).unwrap().question()
    }

    #[test]
    fn requests_are_parsed() {
        let whole = "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n\
                     client_address=192.0.2.7\nsender=\nrecipient=a=b@example.org\nsasl_username=\nfuture=x\n";
        assert_eq!(
            parse(whole),
            Ok(PolicyRequest {
                protocol_state: "RCPT",
                sender: Some(""),
                recipient: "a=b@example.org",
                sasl_username: "",
                client_address: "192.0.2.7",
            })
        );
        for bad in ["", "request=junk\n", "request=smtpd_access_policy\nrecipient\n", "recipient=a@b\n"] {
            assert_eq!(parse(bad), Err(Garbled), "{bad:?}");
        }
    }

    #[test]
    fn what_is_asked_depends_on_the_state() {
        let with = |lines: &str| format!("request=smtpd_access_policy\n{lines}");
        for (lines, expected) in [
            ("protocol_state=RCPT\nrecipient=a@b\n", Question::Recipient("a@b")),
            ("protocol_state=MAIL\nrecipient=a@b\n", Question::Nothing),
            ("protocol_state=RCPT\nrecipient=\n", Question::Nothing),
            ("protocol_state=DATA\nrecipient=\n", Question::Nothing),
            ("protocol_state=RCPT\nrecipient=a@b\nsasl_username=u\n", Question::Login("u")),
            ("protocol_state=MAIL\nsasl_username=u\n", Question::Login("u")),
            ("", Question::Nothing),
        ] {
            assert_eq!(question(&with(lines)), expected, "{lines}");
        }
        for (lines, expected) in [
            ("sender=a@b\n", Operation::Delivery),
            ("", Operation::Delivery),
            ("sender=\n", Operation::DeliveryProbe),
            ("sender=double-bounce@example.net\n", Operation::DeliveryProbe),
        ] {
            assert_eq!(parse(&with(lines)).unwrap().delivery(), expected, "{lines}");
        }
    }

    #[test]
    fn every_decision_has_its_action() {
        let said = |decision: Decision, policy: RecipientPolicy| {
            let mut answer = Vec::new();
            render(&recipient_action(&decision, &policy), &mut answer);
            String::from_utf8(answer).unwrap()
        };
        let dunno = "action=DUNNO\n\n";
        assert_eq!(said(Decision::Held, POLICY), dunno);
        assert_eq!(said(Decision::WouldGrant, POLICY), dunno);
        assert_eq!(said(Decision::NotAPerson(Kind::List), POLICY), dunno);
        assert_eq!(
            said(Decision::UnknownUser, POLICY),
            "action=550 5.1.1 There is no mail user by this name.\n\n"
        );
        assert_eq!(
            said(Decision::Disabled, POLICY),
            "action=550 5.2.1 This account is disabled. Please ask your mail administrator.\n\n"
        );
        assert_eq!(
            said(Decision::Removed, POLICY),
            "action=450 4.2.1 This account was removed from the directory. Please ask your mail administrator.\n\n"
        );
        let unseated = "This user has no mailbox license, and this request may not take one.";
        let exhausted = "All mailbox licenses are in use. Please ask your mail administrator for one.";
        for (choice, code) in [
            (MailWithoutSeat::Accept, None),
            (MailWithoutSeat::Defer, Some("450 4.2.1")),
            (MailWithoutSeat::Reject, Some("550 5.2.1")),
        ] {
            let expected = |text| code.map_or(dunno.to_owned(), |code| format!("action={code} {text}\n\n"));
            let policy = RecipientPolicy { unseated: choice, ..POLICY };
            assert_eq!(said(Decision::NotSeated, policy), expected(unseated));
            let policy = RecipientPolicy { exhausted: choice, ..POLICY };
            assert_eq!(said(Decision::Exhausted, policy), expected(exhausted));
        }
        let login = |decision| {
            let mut answer = Vec::new();
            render(&login_action(&decision), &mut answer);
            String::from_utf8(answer).unwrap()
        };
        assert_eq!(login(Decision::Held), dunno);
        assert_eq!(login(Decision::Exhausted), format!("action=550 5.7.1 {exhausted}\n\n"));
    }

    #[test]
    fn extensions_are_taken_off() {
        let check = |address, delimiter, expected: Option<&str>| {
            assert_eq!(without_extension(address, delimiter).as_deref(), expected, "{address}");
        };
        check("alice+lists@example.org", Some('+'), Some("alice@example.org"));
        check("alice+a+b@example.org", Some('+'), Some("alice@example.org"));
        check("alice@example.org", Some('+'), None);
        check("+lists@example.org", Some('+'), None);
        check("alice+lists@example.org", None, None);
        check("alice-lists@example.org", Some('-'), Some("alice@example.org"));
        check("alice+lists", Some('+'), None);
    }
}
