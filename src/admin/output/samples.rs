//! Answers for the tests of the pages.

use jiff::Timestamp;

use crate::service::answers::{
    ClockStatus, DirectoryState, DirectoryStatus, LicenseStatus, SeatlessStatus, SeatsByOrigin, SeatsStatus,
    Status, StoreStatus, UsersStatus,
};

/// So many seconds after noon of 1 March 2026, which is when the tests take place.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_772_366_400 + second).unwrap()
}

/// A directory that works.
pub(crate) fn directory(name: &str) -> DirectoryStatus {
    DirectoryStatus {
        name: name.to_owned(),
        domain: "example.org".to_owned(),
        state: DirectoryState::Idle,
        mechanism: Some("sweep".to_owned()),
        mechanism_reason: None,
        warning: None,
        seen: 0,
        rate: None,
        server: None,
        url: None,
        users: 12,
        seats_used: 3,
        seat_limit: None,
        last_attempt: Some(at(-300)),
        last_success: Some(at(-300)),
        last_error: None,
        skipped: [].into(),
        foreign_names: 0,
        logins_only: 0,
        held: None,
        drift: None,
        configured: true,
    }
}

/// A daemon that works, with one directory.
pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        started: at(-3 * 3600),
        ready: true,
        clock: ClockStatus::default(),
        license: LicenseStatus {
            state: "active".to_owned(),
            declared: true,
            seats: 25,
            ..LicenseStatus::default()
        },
        store: StoreStatus::default(),
        backup: None,
        seatless: SeatlessStatus::default(),
        seats: SeatsStatus { limit: 25, used: 3, free: 22, over_limit: false },
        users: UsersStatus { total: 12, mapped: 12, local: 0, imported: 0, disabled: 1, tombstoned: 0 },
        seats_by_origin: SeatsByOrigin { mapped: 3, local: 0, imported: 0 },
        directories: vec![directory("corp")],
        domains: Vec::new(),
        clashes: Vec::new(),
        listeners: Vec::new(),
    }
}
