//! The vendor's licences: sold, activated, refreshed, given back. Blocks: each change is on disk when it returns.

use std::path::Path;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::terms::{self, TermsError};
use crate::cli::license::TermsArgs;
use crate::domain::license::{InstallationId, License, PublicKey};
use crate::licensing::claims::{Claims, ClaimsError};
use crate::licensing::protocol::ActivationRequest;
use crate::licensing::signer::SignerError;
use crate::licensing::token;
use crate::store::StoreError;
use crate::store::issuer::{IssuerStore, Sale};

/// The longest id of a licence.
const MAX_ID: usize = 128;

/// Bytes of an activation key: nobody guesses one.
const KEY_BYTES: usize = 16;

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// Nobody has this activation key.
    #[error("this activation key is unknown")]
    UnknownKey,
    /// Nothing was sold under this id.
    #[error("no licence {0} was sold")]
    UnknownLicense(String),
    /// The vendor has taken it back.
    #[error("the licence {0} was revoked")]
    Revoked(String),
    /// Somebody else has it.
    #[error(
        "the licence {id} is active on the installation {installation} already: deactivate it there, or have the \
         vendor free it"
    )]
    ActiveElsewhere {
        /// The licence.
        id: String,
        /// Where it is active.
        installation: String,
    },
    /// The licence that is shown is not the installation's any more.
    #[error("the licence {id} is not active on the installation {installation} any more")]
    NotActive {
        /// The licence.
        id: String,
        /// Who asks.
        installation: String,
    },
    /// What is shown is no licence of this vendor.
    #[error("the licence in hand is not accepted: {0}")]
    BadToken(String),
    /// The request can't be fulfilled by anybody.
    #[error("{0}")]
    BadRequest(String),
    /// What is sold makes no sense.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The file holds claims that are none.
    #[error("the licence server's file is damaged: {0}")]
    Claims(#[from] ClaimsError),
    /// The file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The system.
    #[error("the system has no randomness")]
    Random,
}

impl ShopError {
    /// The HTTP status: a daemon tells by it whether to ask again.
    pub fn status(&self) -> StatusCode {
        match self {
            ShopError::UnknownKey | ShopError::UnknownLicense(_) => StatusCode::NOT_FOUND,
            ShopError::Revoked(_) => StatusCode::GONE,
            ShopError::ActiveElsewhere { .. } => StatusCode::CONFLICT,
            ShopError::NotActive { .. } => StatusCode::FORBIDDEN,
            ShopError::BadToken(_) => StatusCode::UNAUTHORIZED,
            ShopError::BadRequest(_) | ShopError::Terms(_) => StatusCode::BAD_REQUEST,
            ShopError::Claims(_) | ShopError::Store(_) | ShopError::Signer(_) | ShopError::Random => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// What was sold, for the vendor.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct SoldLicense {
    /// The claims of its current issue.
    pub license: Claims,
    /// Its refreshes are refused.
    pub revoked: bool,
    /// Set for a new one, and never shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_key: Option<String>,
}

/// The licences of one vendor.
pub struct Shop {
    store: IssuerStore,
}

impl Shop {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Shop, ShopError> {
        Ok(Shop { store: IssuerStore::open(path)? })
    }

    /// Whether changes of the file can be written; tries again where they could not.
    pub fn health(&self) -> Result<(), ShopError> {
        Ok(self.store.health()?)
    }

    /// Sells a licence, or changes one that was sold.
    pub fn sell(
        &self,
        id: &str,
        issuer: Option<&str>,
        wanted: &TermsArgs,
        now: Timestamp,
    ) -> Result<SoldLicense, ShopError> {
        if id.is_empty() || id.len() > MAX_ID || id.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(ShopError::BadRequest(format!("{id:?} can be no licence's id")));
        }
        let mut activation_key = None;
        let sale = self.store.change(id, |old| {
            let (mut license, mut sale) = match old {
                Some(sale) => (license_of(&sale)?, sale),
                None => {
                    let key = new_key()?;
                    let key_digest = digest(&key);
                    activation_key = Some(key);
                    (terms::blank(id, issuer), Sale { claims: Vec::new(), key_digest, is_revoked: false })
                }
            };
            terms::change(&mut license, wanted)?;
            terms::issue(&mut license, now);
            sale.claims = claims_of(&license)?;
            Ok::<_, ShopError>(sale)
        })?;
        Ok(SoldLicense { activation_key, ..sold(&sale)? })
    }

    /// Binds the licence of an activation key to an installation; again for the same one is no change.
    pub fn activate(&self, request: &ActivationRequest, now: Timestamp) -> Result<License, ShopError> {
        let installation = InstallationId::parse(&request.installation)
            .ok_or_else(|| ShopError::BadRequest("installation is no installation's id".to_owned()))?;
        let id = self.store.id_by_key(&digest(&request.key))?.ok_or(ShopError::UnknownKey)?;
        self.change(&id, |license| {
            match &license.installation {
                Some(active) if *active != installation => {
                    let (id, installation) = (license.id.clone(), active.to_string());
                    return Err(ShopError::ActiveElsewhere { id, installation });
                }
                Some(_) if request.customer.is_empty() => return Ok(()),
                _ => {}
            }
            terms::register(license, &request.customer)?;
            terms::bind(license, installation, now);
            terms::issue(license, now);
            Ok(())
        })
    }

    /// The current issue of the licence that somebody shows.
    pub fn current(&self, token: &str, trusted: &[PublicKey]) -> Result<License, ShopError> {
        let shown = shown(token, trusted)?;
        let sale = self.store.sale(&shown.id)?.ok_or(ShopError::UnknownLicense(shown.id.clone()))?;
        let license = license_of(&sale)?;
        check_holder(&shown, &license, sale.is_revoked)?;
        Ok(license)
    }

    /// Takes the activation of the licence that somebody shows back.
    pub fn deactivate(
        &self,
        token: &str,
        trusted: &[PublicKey],
        now: Timestamp,
    ) -> Result<License, ShopError> {
        let shown = shown(token, trusted)?;
        self.change(&shown.id, |license| {
            check_holder(&shown, license, false)?;
            license.installation = None;
            terms::issue(license, now);
            Ok(())
        })
    }

    /// Takes an activation back without its installation.
    pub fn free(&self, id: &str, now: Timestamp) -> Result<SoldLicense, ShopError> {
        self.change(id, |license| {
            license.installation = None;
            terms::issue(license, now);
            Ok(())
        })?;
        self.sold_one(id)
    }

    /// Refuses the refreshes of a licence from now on.
    pub fn revoke(&self, id: &str) -> Result<SoldLicense, ShopError> {
        self.store.change(id, |old| {
            let sale = old.ok_or(ShopError::UnknownLicense(id.to_owned()))?;
            Ok::<_, ShopError>(Sale { is_revoked: true, ..sale })
        })?;
        self.sold_one(id)
    }

    /// Everything that was sold.
    pub fn sold(&self) -> Result<Vec<SoldLicense>, ShopError> {
        self.store.sales()?.iter().map(|(_, sale)| sold(sale)).collect()
    }

    fn sold_one(&self, id: &str) -> Result<SoldLicense, ShopError> {
        sold(&self.store.sale(id)?.ok_or(ShopError::UnknownLicense(id.to_owned()))?)
    }

    fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut License) -> Result<(), ShopError>,
    ) -> Result<License, ShopError> {
        let sale = self.store.change(id, |old| {
            let sale = old.ok_or(ShopError::UnknownLicense(id.to_owned()))?;
            if sale.is_revoked {
                return Err(ShopError::Revoked(id.to_owned()));
            }
            let mut license = license_of(&sale)?;
            change(&mut license)?;
            Ok(Sale { claims: claims_of(&license)?, ..sale })
        })?;
        Ok(license_of(&sale)?)
    }
}

fn shown(token: &str, trusted: &[PublicKey]) -> Result<License, ShopError> {
    token::verify(token, trusted).map_err(|error| ShopError::BadToken(error.to_string()))
}

/// Whoever shows a licence must be the installation that it is active on.
fn check_holder(shown: &License, current: &License, is_revoked: bool) -> Result<(), ShopError> {
    if is_revoked {
        return Err(ShopError::Revoked(shown.id.clone()));
    }
    if shown.installation.is_none() || shown.installation != current.installation {
        let installation = shown.installation.as_ref().map_or("of nobody", InstallationId::as_str).to_owned();
        return Err(ShopError::NotActive { id: shown.id.clone(), installation });
    }
    Ok(())
}

fn license_of(sale: &Sale) -> Result<License, ClaimsError> {
    Claims::read(&sale.claims)?.check()
}

fn claims_of(license: &License) -> Result<Vec<u8>, ShopError> {
    let bytes = serde_json::to_vec(&Claims::from(license));
    let bytes = bytes.map_err(|error| ShopError::BadRequest(error.to_string()))?;
    // What is sold must be what a daemon takes.
    Claims::read(&bytes)?.check().map_err(|error| ShopError::BadRequest(error.to_string()))?;
    Ok(bytes)
}

fn sold(sale: &Sale) -> Result<SoldLicense, ShopError> {
    let license = Claims::read(&sale.claims)?;
    Ok(SoldLicense { license, revoked: sale.is_revoked, activation_key: None })
}

fn new_key() -> Result<String, ShopError> {
    let mut bytes = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ShopError::Random)?;
    // Letters and digits in groups, for those who type it from paper.
    let hex: Vec<String> =
        bytes.chunks(4).map(|group| group.iter().map(|b| format!("{b:02X}")).collect()).collect();
    Ok(hex.join("-"))
}

/// Keys are random, so a plain digest keeps them; how they are typed does not matter.
fn digest(key: &str) -> Vec<u8> {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, plain.to_ascii_uppercase().as_bytes());
    digest.as_ref().to_vec()
}

/// The tag of a licence's current issue.
pub fn etag(token: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::license::SeatsTerm;
    use crate::licensing::signer::Signer;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn request(key: &str, installation: &str) -> ActivationRequest {
        let customer = [("name".to_owned(), "Example".to_owned())].into();
        ActivationRequest { key: key.to_owned(), installation: installation.to_owned(), customer }
    }

    #[test]
    fn a_licence_belongs_to_one_installation() {
        let folder = tempfile::tempdir().unwrap();
        let shop = Shop::open(&folder.path().join("licenses.redb")).unwrap();
        let signer = Signer::generate(&folder.path().join("key.pem")).unwrap();
        let trusted = [signer.public_key().clone()];
        let terms = TermsArgs { seats: Some(SeatsTerm::Exactly(5)), ..TermsArgs::default() };
        let sold = shop.sell("L-1", Some("Vendor"), &terms, at(0)).unwrap();
        let key = sold.activation_key.unwrap();
        assert_eq!(key.len(), 35);

        let first = shop.activate(&request(&key, "one"), at(1)).unwrap();
        assert_eq!(first.installation.as_ref().map(InstallationId::as_str), Some("one"));
        assert_eq!(first.customer.name.as_deref(), Some("Example"));
        let typed = key.to_lowercase().replace('-', " ");
        assert!(shop.activate(&request(&typed, "one"), at(2)).unwrap().serial > first.serial);
        let error = shop.activate(&request(&key, "two"), at(3)).unwrap_err();
        assert_eq!(error.status(), StatusCode::CONFLICT);
        assert!(error.to_string().contains("active on the installation one already"), "{error}");
        assert!(matches!(shop.activate(&request("nonsense", "one"), at(3)), Err(ShopError::UnknownKey)));

        // The licence in hand is the proof; an older issue of it will do.
        let old = signer.sign(&first).unwrap();
        let more = TermsArgs { seats: Some(SeatsTerm::More(10)), ..TermsArgs::default() };
        assert_eq!(shop.sell("L-1", None, &more, at(4)).unwrap().activation_key, None);
        let current = shop.current(&old, &trusted).unwrap();
        assert_eq!((current.seats, current.issuer.as_deref()), (15, Some("Vendor")));

        let stranger = Signer::generate(&folder.path().join("other.pem")).unwrap();
        let forged = stranger.sign(&first).unwrap();
        assert_eq!(shop.current(&forged, &trusted).unwrap_err().status(), StatusCode::UNAUTHORIZED);
        let unbound = License { installation: None, ..first.clone() };
        let unbound = signer.sign(&unbound).unwrap();
        assert_eq!(shop.current(&unbound, &trusted).unwrap_err().status(), StatusCode::FORBIDDEN);
        let unknown = signer.sign(&License { id: "L-2".to_owned(), ..first }).unwrap();
        assert_eq!(shop.current(&unknown, &trusted).unwrap_err().status(), StatusCode::NOT_FOUND);

        // The vendor's key was changed: the old one counts as long as it is trusted.
        let new_key = [stranger.public_key().clone()];
        assert_eq!(shop.current(&old, &new_key).unwrap_err().status(), StatusCode::UNAUTHORIZED);
        assert!(shop.current(&old, &[new_key[0].clone(), trusted[0].clone()]).is_ok());

        // Given back, it is another's; the first one's licence is worth nothing here any more.
        shop.deactivate(&old, &trusted, at(5)).unwrap();
        let second = shop.activate(&request(&key, "two"), at(6)).unwrap();
        assert_eq!(shop.current(&old, &trusted).unwrap_err().status(), StatusCode::FORBIDDEN);
        assert_eq!(shop.deactivate(&old, &trusted, at(7)).unwrap_err().status(), StatusCode::FORBIDDEN);
        assert_eq!(second.registered, current.registered, "the anniversary stays");

        shop.free("L-1", at(8)).unwrap();
        let third = shop.activate(&request(&key, "three"), at(9)).unwrap();
        let third = signer.sign(&third).unwrap();
        assert!(shop.revoke("L-1").unwrap().revoked);
        assert_eq!(shop.current(&third, &trusted).unwrap_err().status(), StatusCode::GONE);
        assert!(matches!(shop.activate(&request(&key, "three"), at(9)), Err(ShopError::Revoked(_))));
        assert_eq!(shop.sold().unwrap().len(), 1);
        assert!(matches!(shop.free("L-9", at(0)), Err(ShopError::UnknownLicense(_))));
        assert!(matches!(shop.sell("a b", None, &terms, at(0)), Err(ShopError::BadRequest(_))));
    }
}
