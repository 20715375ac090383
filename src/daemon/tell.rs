//! What a sync says in the log of each user, the same in a refresh and while following.

use tracing::{debug, error, info, warn};

use crate::domain::brake::{Held, Loss, sums};
use crate::domain::sync::Change;
use crate::domain::user::Kind;
use crate::service::log_release;
use crate::store::{Applied, Entombed, ReadView, Upserted};

/// Tells what became of a batch. `is_first_map` keeps the first map from writing a line for everybody.
pub(super) fn applied(directory: &str, view: &ReadView, applied: &Applied, is_first_map: bool) {
    for written in &applied.upserted {
        upserted(directory, view, written, is_first_map);
    }
    for Entombed { name, kind, keeps_seat } in &applied.entombed {
        if *kind == Kind::Person {
            info!(event = "user_removed", directory, user = %name, keeps_seat, "{name} is gone from the directory.");
        }
    }
}

fn upserted(directory: &str, view: &ReadView, upserted: &Upserted, is_first_map: bool) {
    let name = &upserted.name;
    for clash in &upserted.clashes {
        let claimed = &clash.name;
        let owner = view.name_of(clash.owner).ok().flatten();
        let owner = owner.map(|owner| owner.to_string()).unwrap_or_default();
        warn!(event = "name_clash", directory, user = %name, name = %claimed, owner, "{name} is mapped without {claimed}, which {owner} had first.");
    }
    if upserted.is_person {
        match upserted.change {
            Change::Added if is_first_map => {
                debug!(event = "user_added", directory, user = %name, "{name} is mapped.");
            }
            Change::Added => info!(event = "user_added", directory, user = %name, "{name} is mapped."),
            Change::Returned => {
                info!(event = "user_added", directory, user = %name, "{name} is back in the directory.");
            }
            Change::Changed => {
                info!(event = "user_changed", directory, user = %name, "{name} was changed in the directory.");
            }
            Change::Disabled => {
                info!(event = "user_disabled", directory, user = %name, "{name} is disabled in the directory.");
            }
            Change::Unchanged => {}
        }
    }
    if let Some(released) = &upserted.released {
        log_release(released);
    }
}

/// Says what the brake holds back. The caller logs it once, and again when it affects others.
pub(super) fn brake_tripped(directory: &str, held: &Held) {
    let Loss { removed, disabled, names, enabled, people, empty } = held.loss;
    let (seats, examples) = (held.affected.seats, held.affected.to_string());
    let sums = sums(held.losses, held.enablings).collect::<Vec<String>>().join("; ");
    error!(
        event = "brake_tripped",
        directory,
        removed,
        disabled,
        names,
        enabled,
        people,
        empty,
        seats,
        examples,
        "The directory would lose {removed} of {people} users, disable {disabled}, take names from {names} and \
         enable {enabled} again; {seats} of them hold a seat. The brake holds this back ({sums}). If it is right, \
         run: seatkeeper sync approve {directory}"
    );
}
