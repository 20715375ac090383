//! What a daemon and a licence server say to each other, as JSON over HTTP.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /v1/activations` with [`ActivationRequest`] | 200 with [`LicenseAnswer`]; 404 unknown key, 409 active elsewhere, 410 revoked |
//! | `GET /v1/license`, `Authorization: Bearer LICENCE` | 200 with [`LicenseAnswer`] and an ETag, or 304; 401, 403, 404, 410 |
//! | `DELETE /v1/activations`, `Authorization: Bearer LICENCE` | 204 |
//!
//! A daemon that sends the header [`NONCE`] gets the header [`TIME`] with every 200 and 304: the time, signed with the
//! key of the licences ([`super::time`]). A server that does not know it answers without, and a daemon does without.
//!
//! The licence in hand is the proof of who asks: it is signed, and names the installation. So the daemon
//! keeps no other secret, and forgets the activation key at once.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The header with a number that is used once, of a daemon that asks for the time as well.
pub const NONCE: &str = "seatkeeper-nonce";

/// The header with the signed time.
pub const TIME: &str = "seatkeeper-time";

/// Binds a licence to an installation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationRequest {
    /// The activation key, a secret.
    pub key: String,
    /// The installation's id.
    pub installation: String,
    /// Who registers: `name`, `email`, ….
    #[serde(default)]
    pub customer: BTreeMap<String, String>,
}

impl fmt::Debug for ActivationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivationRequest").field("installation", &self.installation).finish_non_exhaustive()
    }
}

/// A signed licence.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct LicenseAnswer {
    /// The token.
    pub license: String,
}

/// What `license request` writes for a vendor who is not reached online.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct LicenseRequest {
    /// The installation's id.
    pub installation: String,
    /// The licence in force, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Who asks: `name`, `email`, ….
    #[serde(default)]
    pub customer: BTreeMap<String, String>,
}
