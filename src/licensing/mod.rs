//! Signed licences: a token becomes a [`crate::domain::license::License`], or is refused with its reason; a
//! licence server is asked for newer ones; and the vendor's key signs them.

pub mod claims;
pub mod client;
pub mod protocol;
pub mod signer;
pub mod time;
pub mod token;
