//! All about one user, and why they count or not.

use std::time::Duration;

use super::admin::AdminError;
use super::answers::{Explanation, LoginReport, RefusalsReport, SeatReport, Verdict};
use super::resolve::removed_holders;
use crate::domain::user::{Kind, Origin, User};
use crate::store::{ReadView, UserDetails};

pub(super) fn explanation(
    view: &ReadView,
    details: UserDetails,
    login_now: Verdict,
    removal_grace: Duration,
) -> Result<Explanation, AdminError> {
    let UserDetails { key, user, name, directory, origin, seat, last_login, refusals } = details;
    let configured = view.is_configured(&user);
    let seat_is_missing = seat.is_none() && user.is_living();
    let mut names = Vec::new();
    let mut names_held_by_others = Vec::new();
    for claimed in user.mapped.names() {
        let is_owned = view.clash_of(claimed, key)?.is_none();
        let list = if is_owned { &mut names } else { &mut names_held_by_others };
        list.push(claimed.to_string());
    }
    let forgotten_at = user.removed_at.and_then(|at| at.checked_add(removal_grace).ok());
    Ok(Explanation {
        user: name.to_string(),
        names,
        names_held_by_others,
        directory,
        origin: origin.to_string(),
        id: user.mapped.id.to_string(),
        dn: user.mapped.dn.to_string(),
        kind: user.mapped.kind.to_string(),
        enabled: user.mapped.enabled,
        since: user.since,
        removed_at: user.removed_at,
        forgotten_at,
        counts: seat.is_some(),
        counts_because: match login_now.decision.as_str() {
            "exempt" if user.is_seatless() => "a mailbox that needs no seat, by seatless_filter",
            "exempt" => "the internal administrator never counts",
            "held" if seat.is_none() => "the same person holds a seat under another entry with this id",
            "not_seated" if !configured => {
                "the directory is not configured any more: its users take no new seats"
            }
            _ if user.is_seatless() && seat.is_none() => {
                "the license allows fewer mailboxes without a seat: this one needs one"
            }
            _ => counts_because(&user, origin, seat.is_some()),
        }
        .to_owned(),
        seat: seat.map(|seat| SeatReport { granted_at: seat.granted_at, by: seat.by.to_string() }),
        components: view.components_of(key)?,
        last_login: last_login.map(|login| LoginReport {
            at: login.at,
            service: login.service.map(|service| service.as_str().to_owned()),
        }),
        refusals: refusals.map(|refusals| RefusalsReport {
            first: refusals.first,
            last: refusals.last,
            count: refusals.count,
            reason: refusals.reason.into(),
        }),
        configured,
        removed_holders: if seat_is_missing { removed_holders(view, key, &user)? } else { Vec::new() },
        login_now,
        display_name: user.mapped.display_name.map(String::from),
    })
}

fn counts_because(user: &User, origin: Origin, is_seated: bool) -> &'static str {
    match (user.mapped.kind, user.is_living(), user.mapped.enabled, is_seated) {
        (Kind::Person, false, _, true) => "gone from the directory, but keeps the seat for the grace period",
        (Kind::Person, _, _, true) => "holds a seat",
        (Kind::Person, false, _, false) => "gone from the directory, and held no seat",
        (Kind::Person, true, false, false) => "the account is disabled",
        (Kind::Person, true, true, false) if origin == Origin::Mapped => "mapped, but has no seat yet",
        (Kind::Person, true, true, false) => "enabled, but the seat was released",
        _ => "not a person",
    }
}
