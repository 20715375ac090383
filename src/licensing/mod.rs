//! Signed licences: a token becomes a [`crate::domain::license::License`], or is refused with its reason;
//! and the other end, where licences are signed.

pub mod claims;
pub mod signer;
pub mod token;
