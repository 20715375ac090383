//! The vendor's side: keys, licences by hand, and the licence server.
//!
//! A vendor runs this; the daemon of a customer never comes here.

mod server;
mod shop;
pub(crate) mod terms;

use std::io::{self, Write};
use std::path::Path;

use axum::http::Method;
use jiff::Timestamp;

use crate::admin::client::{Client, ClientError, encode};
use crate::cli::license::{IssueArgs, IssuerCommand, SellArgs, TermsArgs};
use crate::domain::license::{InstallationId, License};
use crate::licensing::claims::Claims;
use crate::licensing::protocol::LicenseRequest;
use crate::licensing::signer::{Signer, SignerError};
use crate::licensing::token::key_id;
use server::{ServeError, control_socket};
use shop::{Shop, ShopError, SoldLicense};
use terms::TermsError;

/// A request has some hundred bytes.
const MAX_REQUEST: u64 = 64 * 1024;

/// Why a vendor's command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The key.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// What is sold.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The licences.
    #[error(transparent)]
    Shop(#[from] ShopError),
    /// The server.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The running server said no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The request file.
    #[error("{0}: {1}")]
    Request(String, String),
    /// What is issued would be refused by every daemon.
    #[error("such a licence would be refused: {0}")]
    Refused(String),
    /// Standard output.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Runs a vendor's command.
pub async fn run(command: &IssuerCommand, json: bool, out: &mut dyn Write) -> Result<(), IssuerError> {
    match command {
        IssuerCommand::Keygen { file } => keygen(file, json, out),
        IssuerCommand::Issue(args) => issue(args, out),
        IssuerCommand::Serve(args) => Ok(server::run(args).await?),
        IssuerCommand::Sell(sell) => {
            let SellArgs { id, terms, database } = &**sell;
            let path = format!("/v1/sales/{}", encode(id));
            let sold = ask(&database.database, &path, Some(terms), |shop| {
                shop.sell(id, None, terms, Timestamp::now())
            });
            show(&sold.await?, json, out)
        }
        IssuerCommand::Free(args) => {
            let path = format!("/v1/sales/{}/free", encode(&args.id));
            let free = |shop: &Shop| shop.free(&args.id, Timestamp::now());
            show(&ask(&args.database.database, &path, None, free).await?, json, out)
        }
        IssuerCommand::Revoke(args) => {
            let path = format!("/v1/sales/{}/revoke", encode(&args.id));
            let revoke = |shop: &Shop| shop.revoke(&args.id);
            show(&ask(&args.database.database, &path, None, revoke).await?, json, out)
        }
        IssuerCommand::Sold { database } => {
            for sold in all_sold(&database.database).await? {
                show(&sold, json, out)?;
            }
            Ok(())
        }
    }
}

fn keygen(file: &Path, json: bool, out: &mut dyn Write) -> Result<(), IssuerError> {
    let signer = Signer::generate(file)?;
    let (key, kid) = (signer.public_key().to_spki(), key_id(signer.public_key()));
    if json {
        return Ok(writeln!(out, "{}", serde_json::json!({ "trusted_key": key, "kid": kid }))?);
    }
    Ok(writeln!(out, "{key}")?)
}

fn issue(args: &IssueArgs, out: &mut dyn Write) -> Result<(), IssuerError> {
    let signer = Signer::load(&args.key)?;
    let now = Timestamp::now();
    let mut license = terms::blank(&args.id, args.issuer.as_deref());
    terms::change(&mut license, &args.terms)?;
    if let Some(path) = &args.request {
        let request = read_request(path)?;
        let mut customer = request.customer;
        // What the vendor types counts more than what the customer wrote.
        customer.extend(crate::licensing::claims::customer_claim(&license.customer));
        terms::register(&mut license, &customer)?;
        bind(&mut license, &request.installation, now)?;
    }
    if let Some(installation) = &args.installation {
        bind(&mut license, installation, now)?;
    }
    terms::issue(&mut license, now);
    license.serial = args.serial.unwrap_or(license.serial);
    license.not_before = args.not_before.map(terms::midnight).transpose()?;
    Claims::from(&license).check().map_err(|error| IssuerError::Refused(error.to_string()))?;
    Ok(writeln!(out, "{}", signer.sign(&license)?)?)
}

fn bind(license: &mut License, installation: &str, now: Timestamp) -> Result<(), IssuerError> {
    let id = InstallationId::parse(installation)
        .ok_or_else(|| IssuerError::Refused(format!("{installation:?} is no installation's id")))?;
    terms::bind(license, id, now);
    Ok(())
}

fn read_request(path: &Path) -> Result<LicenseRequest, IssuerError> {
    use std::io::Read;
    let shown = path.display().to_string();
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_REQUEST).read_to_end(&mut text));
    read.map_err(|error| IssuerError::Request(shown.clone(), error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| IssuerError::Request(shown, error.to_string()))
}

/// Asks the server that runs on the file, or, where none runs, opens the file itself.
async fn ask(
    database: &Path,
    path: &str,
    terms: Option<&TermsArgs>,
    by_hand: impl FnOnce(&Shop) -> Result<SoldLicense, ShopError>,
) -> Result<SoldLicense, IssuerError> {
    let client = Client::new(&control_socket(database));
    let answer = match terms {
        Some(terms) => client.send(Method::POST, path, terms).await,
        None => client.request(Method::POST, path).await,
    };
    match answer {
        Ok(answer) => Ok(client.decode(&answer)?),
        Err(ClientError::Unreachable { .. }) => Ok(by_hand(&Shop::open(database)?)?),
        Err(error) => Err(error.into()),
    }
}

async fn all_sold(database: &Path) -> Result<Vec<SoldLicense>, IssuerError> {
    let client = Client::new(&control_socket(database));
    match client.request(Method::GET, "/v1/sales").await {
        Ok(answer) => Ok(client.decode(&answer)?),
        Err(ClientError::Unreachable { .. }) => Ok(Shop::open(database)?.sold()?),
        Err(error) => Err(error.into()),
    }
}

fn show(sold: &SoldLicense, json: bool, out: &mut dyn Write) -> Result<(), IssuerError> {
    if json {
        serde_json::to_writer(&mut *out, sold).map_err(io::Error::other)?;
        return Ok(writeln!(out)?);
    }
    let license = &sold.license;
    let mut line = format!("{} (serial {}): {} seats", license.sub, license.serial, license.seats);
    for name in license.components.keys() {
        line += &format!(", {name}");
    }
    line += &license.customer.get("name").map(|name| format!(", {name}")).unwrap_or_default();
    line += &match &license.installation {
        Some(installation) => format!(", active on {installation}"),
        None => ", not active".to_owned(),
    };
    line += if sold.revoked { ", REVOKED" } else { "" };
    writeln!(out, "{line}")?;
    if let Some(key) = &sold.activation_key {
        writeln!(out, "Activation key, shown only once: {key}")?;
    }
    Ok(())
}
