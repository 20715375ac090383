//! Answers about the clock.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What time it is, and how that is known.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct ClockStatus {
    /// The time that counts: for seats, logins, the brake and all dates.
    pub trusted: Timestamp,
    /// The clock of the machine.
    pub wall: Timestamp,
    /// The clock may be wrong: nothing is reclaimed, forgotten or expired by date.
    pub in_doubt: bool,
    /// Since when it is in doubt.
    pub since: Option<Timestamp>,
    /// What is wrong with the clock, and what to do; also where it is not in doubt.
    pub problem: Option<String>,
}

/// `POST /v1/clock/confirm`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ClockChange {
    /// A sentence.
    pub message: String,
    /// The clock.
    pub clock: ClockStatus,
}
