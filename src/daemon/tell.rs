//! What a sync says in the log of each user, the same in a refresh and while following.

use tracing::{debug, error, info};

use crate::domain::brake::{Held, Loss, sums};
use crate::domain::sync::Change;
use crate::domain::user::Kind;
use crate::service::{log_move, log_release};
use crate::store::{Applied, Entombed, Upserted, log_clash};

/// Tells what became of a batch. `is_first_map` keeps the first map from writing a line for everybody.
pub(super) fn applied(directory: &str, applied: &Applied, is_first_map: bool) {
    for written in &applied.upserted {
        upserted(directory, written, is_first_map);
    }
    for entombed in &applied.entombed {
        let Entombed { name, kind, keeps_seat, moved } = entombed;
        if *kind == Kind::Person {
            info!(event = "user_removed", directory, user = %name, keeps_seat, "{name} is gone from the directory.");
        } else if entombed.is_list() {
            info!(directory, %name, %kind, "The {kind} {name} is gone from the directory: mail to it is refused.");
        }
        moved.iter().for_each(log_move);
    }
}

fn upserted(directory: &str, upserted: &Upserted, is_first_map: bool) {
    let name = &upserted.name;
    upserted.clashes.iter().for_each(log_clash);
    match &upserted.moved_from {
        Some((from, true)) => {
            info!(event = "seat_moved", directory, from, user = %name, "{name} is in {directory} now, and was in {from} before.");
        }
        // A block under another name may have a million of them.
        Some((from, false)) => {
            debug!(directory, from, user = %name, "{name} is in {directory} now, and was in {from}.")
        }
        None => {}
    }
    upserted.moved.iter().for_each(log_move);
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
    let Loss { removed, disabled, seatless, names, enabled, people, empty } = held.loss;
    let (seats, examples) = (held.affected.seats, held.affected.to_string());
    let sums = sums(held.losses, held.enablings).collect::<Vec<String>>().join("; ");
    error!(
        event = "brake_tripped",
        directory,
        removed,
        disabled,
        seatless,
        names,
        enabled,
        people,
        empty,
        seats,
        examples,
        "The directory would lose {removed} of {people} users, disable {disabled}, take the seats of {seatless} who \
         match seatless_filter now, take names from {names} and enable {enabled} again; {seats} of them hold a seat. The brake holds this back ({sums}). If it is right, \
         run: seatkeeper sync approve {directory}"
    );
}
