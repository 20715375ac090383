//! The decision: may this user come in, and does it cost a seat?
//!
//! [`decide`] is the only rule. The read path calls it with a view of the mirror; when it answers
//! [`Decision::Granted`], the writer calls it again inside its transaction, and that answer counts.

use jiff::Timestamp;

use super::license::OnExpiry;
use super::names::Purpose;
use super::seats::{Seat, SeatCount, Service, TakenBy};
use super::user::Kind;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Somebody logs in.
    Login,
    /// Mail arrives for somebody.
    Delivery,
    /// Only a question, what a login would get: never takes a seat.
    Probe,
    /// The same for a delivery.
    DeliveryProbe,
    /// An administrator grants a seat.
    Grant,
    /// A local account is created.
    Create,
    /// A local or imported account is enabled.
    Enable,
    /// An import brings the user.
    Import,
}

impl Operation {
    /// What the name in the request is looked up for.
    pub fn purpose(&self) -> Purpose {
        match self {
            Operation::Delivery | Operation::DeliveryProbe => Purpose::Mail,
            _ => Purpose::Login,
        }
    }
}

/// One request, already parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked for.
    pub operation: Operation,
    /// The service that asks.
    pub service: Option<Service>,
}

/// Which operations may take a seat: `[seats] take_on`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakeOn {
    /// The first login takes a seat.
    pub login: bool,
    /// The first delivery takes a seat.
    pub delivery: bool,
}

/// What is known of the user who is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Person or not.
    pub kind: Kind,
    /// By the directory.
    pub enabled: bool,
    /// A tombstone.
    pub removed: bool,
    /// A mailbox that needs no seat, and is one of those that the licence allows.
    pub seatless: bool,
    /// Holds a seat.
    pub seated: bool,
    /// The user's directory is configured, or it is an account.
    pub configured: bool,
    /// The cap of the user's own directory, where it has one.
    pub directory_seats: Option<SeatCount>,
    /// The cap of the mail domain in which the user counts, where it has one.
    pub domain_seats: Option<SeatCount>,
}

/// What the asking service needs beside a seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ComponentView {
    /// A component that was not bought, or whose time is over.
    Unlicensed,
    /// Nothing, or a component for everybody.
    Licensed,
    /// A seat of the component's own.
    Counted {
        /// The user holds one.
        held: bool,
        /// All of them.
        seats: SeatCount,
    },
}

/// All that the decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// `None`: nobody by that name.
    pub subject: Option<Subject>,
    /// `None`: no licence.
    pub seats: Option<SeatCount>,
    /// What may take a seat.
    pub take_on: TakeOn,
    /// Set where the licence has expired.
    pub expired: Option<OnExpiry>,
    /// What the service needs.
    pub component: ComponentView,
    /// It is the internal administrator, whoever that is in the directories.
    pub exempt: bool,
}

/// The outcome of one request.
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Does not count: the internal administrator, or a mailbox that needs no seat.
    Exempt,
    /// Holds a seat already.
    Held,
    /// Takes this seat now. Not an answer until the seat is on disk.
    Granted(Seat),
    /// Holds a seat, and takes one of the service's component now. Not an answer until it is on disk.
    GrantedComponent,
    /// Would take a seat, but only asked.
    WouldGrant,
    /// No seat is free.
    Exhausted,
    /// The cap of the directory or of the mail domain is reached.
    DomainExhausted,
    /// No seat of the service's component is free.
    ComponentExhausted,
    /// Nobody by that name.
    UnknownUser,
    /// The account is disabled.
    Disabled,
    /// Gone from the directory, in the grace period.
    Removed,
    /// A list, a resource, a contact, a group.
    NotAPerson(Kind),
    /// Has no seat, and may not take one by this operation.
    NotSeated,
    /// Has no seat, and may not take one, since the directory is not configured any more.
    NotConfigured,
    /// There is no licence.
    LicenseMissing,
    /// The licence has expired.
    LicenseExpired,
    /// The service needs a component that was not bought.
    ComponentUnlicensed,
}

/// Decides one request. `now` becomes the time of the grant.
pub fn decide(view: &View, request: &Request, now: Timestamp) -> Decision {
    // Before all else: somebody must get in to mend whatever keeps the others out.
    if view.exempt {
        return Decision::Exempt;
    }
    let Some(subject) = &view.subject else { return Decision::UnknownUser };
    if subject.kind != Kind::Person {
        return Decision::NotAPerson(subject.kind);
    }
    if subject.removed {
        return Decision::Removed;
    }
    if !subject.enabled {
        return Decision::Disabled;
    }
    if view.expired == Some(OnExpiry::RefuseAll) {
        return Decision::LicenseExpired;
    }
    if subject.seatless {
        return Decision::Exempt;
    }
    let component = match view.component {
        ComponentView::Unlicensed => return Decision::ComponentUnlicensed,
        ComponentView::Licensed | ComponentView::Counted { held: true, .. } => None,
        ComponentView::Counted { held: false, seats } => Some(seats),
    };
    if subject.seated && component.is_none() {
        return Decision::Held;
    }
    if !subject.seated && !subject.configured {
        return Decision::NotConfigured;
    }
    let may_take = match request.operation {
        Operation::Login => view.take_on.login,
        Operation::Delivery | Operation::DeliveryProbe => view.take_on.delivery,
        Operation::Probe => view.take_on.login,
        Operation::Grant | Operation::Create | Operation::Enable | Operation::Import => true,
    };
    if !may_take {
        return Decision::NotSeated;
    }
    if view.expired.is_some() {
        return Decision::LicenseExpired;
    }
    let Some(seats) = view.seats else { return Decision::LicenseMissing };
    if !subject.seated && seats.free() == 0 {
        return Decision::Exhausted;
    }
    let is_full = |cap: Option<SeatCount>| cap.is_some_and(|cap| cap.free() == 0);
    if !subject.seated && (is_full(subject.directory_seats) || is_full(subject.domain_seats)) {
        return Decision::DomainExhausted;
    }
    if component.is_some_and(|component| component.free() == 0) {
        return Decision::ComponentExhausted;
    }
    let by = match request.operation {
        Operation::Probe | Operation::DeliveryProbe => return Decision::WouldGrant,
        _ if subject.seated => return Decision::GrantedComponent,
        Operation::Login => TakenBy::Login(request.service.clone()),
        Operation::Delivery => TakenBy::Delivery(request.service.clone()),
        Operation::Grant => TakenBy::Administrator,
        Operation::Create => TakenBy::Created,
        Operation::Enable => TakenBy::Enabled,
        Operation::Import => TakenBy::Imported,
    };
    Decision::Granted(Seat { granted_at: now, by })
}

impl Decision {
    /// Whether the user may come in.
    pub fn allows(&self) -> bool {
        match self {
            Decision::Exempt
            | Decision::Held
            | Decision::Granted(_)
            | Decision::GrantedComponent
            | Decision::WouldGrant => true,
            Decision::Exhausted
            | Decision::DomainExhausted
            | Decision::ComponentExhausted
            | Decision::UnknownUser
            | Decision::Disabled
            | Decision::Removed
            | Decision::NotAPerson(_)
            | Decision::NotSeated
            | Decision::NotConfigured
            | Decision::LicenseMissing
            | Decision::LicenseExpired
            | Decision::ComponentUnlicensed => false,
        }
    }

    /// The stable reason code of the API and the log.
    pub fn code(&self) -> &'static str {
        match self {
            Decision::Exempt => "exempt",
            Decision::Held => "held",
            Decision::Granted(_) | Decision::GrantedComponent | Decision::WouldGrant => "granted",
            Decision::Exhausted | Decision::ComponentExhausted => "exhausted",
            Decision::DomainExhausted => "domain_exhausted",
            Decision::UnknownUser => "unknown_user",
            Decision::Disabled => "disabled",
            Decision::Removed => "removed",
            Decision::NotAPerson(_) => "not_a_person",
            Decision::NotSeated | Decision::NotConfigured => "not_seated",
            Decision::LicenseMissing => "license_missing",
            Decision::LicenseExpired => "license_expired",
            Decision::ComponentUnlicensed => "component_unlicensed",
        }
    }

    /// One sentence for the person: printable ASCII on one line, since mail servers pass it on as it is.
    pub fn message(&self) -> &'static str {
        match self {
            Decision::Exempt => "No seat is needed.",
            Decision::Held => "A seat is held.",
            Decision::Granted(_) => "A seat was granted.",
            Decision::GrantedComponent => "A seat of this service was granted.",
            Decision::WouldGrant => "A seat would be granted.",
            Decision::Exhausted => {
                "All mailbox licenses are in use. Please ask your mail administrator for one."
            }
            Decision::DomainExhausted => {
                "All mailbox licenses of your domain are in use. Please ask your mail administrator for one."
            }
            Decision::ComponentExhausted => {
                "All licenses of this service are in use. Please ask your mail administrator for one."
            }
            Decision::UnknownUser => "There is no mail user by this name.",
            Decision::Disabled => "This account is disabled. Please ask your mail administrator.",
            Decision::Removed => {
                "This account was removed from the directory. Please ask your mail administrator."
            }
            Decision::NotAPerson(Kind::Resource) => {
                "This is a resource, not a person: nobody can log in to it."
            }
            Decision::NotAPerson(Kind::Contact) => {
                "This is a contact, not a person: nobody can log in to it."
            }
            Decision::NotAPerson(_) => "This is a group or list, not a person: nobody can log in to it.",
            Decision::NotSeated => "This user has no mailbox license, and this request may not take one.",
            Decision::NotConfigured => {
                "This user has no mailbox license, and cannot get one now. Please ask your mail administrator."
            }
            Decision::LicenseMissing => {
                "The mail server has no license for new mailboxes. Please ask your mail administrator."
            }
            Decision::LicenseExpired => {
                "The license of the mail server has expired. Please ask your mail administrator."
            }
            Decision::ComponentUnlicensed => {
                "The mail server has no license for this service. Please ask your mail administrator."
            }
        }
    }
}

impl Decision {
    /// The sentence for an administrator, who can do something about it. `seats` are those of the licence.
    pub fn advice(&self, seats: Option<SeatCount>) -> String {
        match (self, seats) {
            (Decision::Exhausted, Some(SeatCount { used, limit })) => format!(
                "{used} of {limit} seats are used. Release some (`seatkeeper users --seated --sort last-login` shows who is \
                 longest away), or install a license with more."
            ),
            (Decision::DomainExhausted, _) => {
                "The cap of the directory or of the mail domain is reached. Release seats in \
                                               it, or raise its seat_limit."
                    .to_owned()
            }
            (Decision::LicenseMissing, _) => {
                "There is no license. Install one, or write seats into [license].".to_owned()
            }
            _ => self.message().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERSON: Subject = Subject {
        kind: Kind::Person,
        enabled: true,
        removed: false,
        seatless: false,
        seated: false,
        configured: true,
        directory_seats: None,
        domain_seats: None,
    };

    fn view(subject: Subject) -> View {
        View {
            subject: Some(subject),
            seats: Some(SeatCount { used: 1, limit: 2 }),
            take_on: TakeOn { login: true, delivery: false },
            expired: None,
            component: ComponentView::Licensed,
            exempt: false,
        }
    }

    fn check(view: View, operation: Operation, expected: &str) {
        let request = Request { operation, service: None };
        let decision = decide(&view, &request, Timestamp::UNIX_EPOCH);
        assert_eq!(decision.code(), expected, "{view:?} {request:?}");
        assert!(decision.message().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }

    #[test]
    fn who_may_come_in() {
        use Operation::{Create, Delivery, Enable, Grant, Import, Login, Probe};
        let seated = Subject { seated: true, ..PERSON };
        let exhausted = |subject| View { seats: Some(SeatCount { used: 2, limit: 2 }), ..view(subject) };
        let over = |subject| View { seats: Some(SeatCount { used: 9, limit: 2 }), ..view(subject) };
        let unlicensed = |subject| View { seats: None, ..view(subject) };
        let orphan = Subject { configured: false, ..PERSON };
        let full = Some(SeatCount { used: 3, limit: 3 });
        let free = Some(SeatCount { used: 2, limit: 3 });
        let capped = Subject { directory_seats: full, ..PERSON };

        check(view(PERSON), Login, "granted");
        check(view(PERSON), Grant, "granted");
        for operation in [Login, Probe, Delivery, Grant] {
            check(view(orphan), operation.clone(), "not_seated");
            check(unlicensed(orphan), operation.clone(), "not_seated");
            check(view(Subject { seated: true, ..orphan }), operation.clone(), "held");
            check(view(Subject { enabled: false, ..orphan }), operation, "disabled");
        }
        check(view(PERSON), Probe, "granted");
        check(view(PERSON), Delivery, "not_seated");
        check(view(seated), Delivery, "held");
        check(exhausted(PERSON), Login, "exhausted");
        check(exhausted(PERSON), Grant, "exhausted");
        check(exhausted(PERSON), Probe, "exhausted");
        check(over(PERSON), Login, "exhausted");
        check(exhausted(seated), Login, "held");
        check(over(seated), Login, "held");
        check(unlicensed(PERSON), Login, "license_missing");
        check(unlicensed(seated), Login, "held");
        check(view(capped), Login, "domain_exhausted");
        check(exhausted(capped), Login, "exhausted");
        check(view(Subject { seated: true, ..capped }), Login, "held");
        check(view(Subject { domain_seats: full, ..PERSON }), Login, "domain_exhausted");
        check(
            view(Subject { domain_seats: full, directory_seats: free, ..PERSON }),
            Import,
            "domain_exhausted",
        );
        check(
            view(Subject { domain_seats: free, directory_seats: full, ..PERSON }),
            Login,
            "domain_exhausted",
        );
        check(view(Subject { domain_seats: free, directory_seats: free, ..PERSON }), Login, "granted");
        check(view(Subject { seated: true, domain_seats: full, ..PERSON }), Login, "held");
        check(view(Subject { enabled: false, ..seated }), Login, "disabled");
        check(view(Subject { removed: true, ..seated }), Login, "removed");
        check(view(Subject { kind: Kind::List, ..PERSON }), Grant, "not_a_person");
        check(View { subject: None, ..view(PERSON) }, Login, "unknown_user");
        for operation in [Create, Enable, Import] {
            check(view(PERSON), operation.clone(), "granted");
            check(exhausted(PERSON), operation.clone(), "exhausted");
            check(over(PERSON), operation.clone(), "exhausted");
            check(unlicensed(PERSON), operation, "license_missing");
        }
        for administrator in [
            exhausted(PERSON),
            over(seated),
            unlicensed(PERSON),
            view(Subject { enabled: false, ..PERSON }),
            view(Subject { removed: true, ..PERSON }),
            View { subject: None, seats: None, ..view(PERSON) },
        ] {
            for operation in [Login, Delivery, Probe, Grant, Create, Enable, Import] {
                check(View { exempt: true, ..administrator }, operation, "exempt");
            }
        }
    }

    #[test]
    fn a_mailbox_without_a_seat_is_checked_like_a_person_first() {
        use Operation::{Delivery, Grant, Login, Probe};
        let shared = Subject { seatless: true, ..PERSON };
        for operation in [Login, Delivery, Probe, Grant] {
            check(view(shared), operation.clone(), "exempt");
            check(View { seats: None, ..view(shared) }, operation.clone(), "exempt");
            check(View { expired: Some(OnExpiry::RefuseNew), ..view(shared) }, operation.clone(), "exempt");
            check(View { component: ComponentView::Unlicensed, ..view(shared) }, operation.clone(), "exempt");
            check(view(Subject { enabled: false, ..shared }), operation.clone(), "disabled");
            check(view(Subject { removed: true, ..shared }), operation.clone(), "removed");
            let expired = Some(OnExpiry::RefuseAll);
            check(View { expired, ..view(shared) }, operation.clone(), "license_expired");
            check(view(Subject { kind: Kind::Resource, ..shared }), operation, "not_a_person");
        }
    }

    #[test]
    fn an_expired_licence_refuses_whom_it_says() {
        use Operation::{Login, Probe};
        let seated = Subject { seated: true, ..PERSON };
        let expired = |subject, whom| View { expired: Some(whom), ..view(subject) };
        check(expired(PERSON, OnExpiry::RefuseNew), Login, "license_expired");
        check(expired(PERSON, OnExpiry::RefuseNew), Probe, "license_expired");
        check(expired(seated, OnExpiry::RefuseNew), Login, "held");
        check(expired(seated, OnExpiry::RefuseAll), Login, "license_expired");
        check(expired(Subject { enabled: false, ..seated }, OnExpiry::RefuseAll), Login, "disabled");
    }

    #[test]
    fn a_component_is_needed_beside_the_seat() {
        use Operation::{Delivery, Login, Probe};
        let seated = Subject { seated: true, ..PERSON };
        let with = |subject, component| View { component, ..view(subject) };
        let counted = |held, used| ComponentView::Counted { held, seats: SeatCount { used, limit: 1 } };
        check(with(PERSON, ComponentView::Unlicensed), Login, "component_unlicensed");
        check(with(seated, ComponentView::Unlicensed), Login, "component_unlicensed");
        check(with(seated, ComponentView::Licensed), Login, "held");
        check(with(seated, counted(true, 1)), Login, "held");
        check(with(seated, counted(true, 9)), Login, "held");
        check(with(seated, counted(false, 0)), Login, "granted");
        check(with(seated, counted(false, 0)), Probe, "granted");
        check(with(seated, counted(false, 0)), Delivery, "not_seated");
        check(with(seated, counted(false, 1)), Login, "exhausted");
        check(with(PERSON, counted(false, 0)), Login, "granted");
        check(with(PERSON, counted(false, 1)), Login, "exhausted");
        let all_taken = Some(SeatCount { used: 2, limit: 2 });
        check(View { seats: all_taken, ..with(PERSON, counted(false, 0)) }, Login, "exhausted");
        check(View { seats: all_taken, ..with(seated, counted(false, 0)) }, Login, "granted");
        let expired = Some(OnExpiry::RefuseNew);
        check(View { expired, ..with(seated, counted(false, 0)) }, Login, "license_expired");
        check(View { expired, ..with(seated, counted(true, 1)) }, Login, "held");
    }

    #[test]
    fn a_probe_never_takes_a_seat() {
        let both = View { take_on: TakeOn { login: true, delivery: true }, ..view(PERSON) };
        for operation in [Operation::Probe, Operation::DeliveryProbe] {
            let request = Request { operation, service: None };
            assert_eq!(decide(&both, &request, Timestamp::UNIX_EPOCH), Decision::WouldGrant);
        }
        check(view(PERSON), Operation::DeliveryProbe, "not_seated");
    }
}
