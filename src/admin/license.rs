//! `/v1/license`, and the commands that ask for it.

use std::io;
use std::path::Path;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode};
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::command::{Session, Trouble};
use super::output;
use super::server::{Answer, NoQuery, bad_request, query};
use crate::cli::license::{CustomerArgs, LicenseCommand};
use crate::net::http::{json, read_body};
use crate::service::Admin;
use crate::service::answers::{LicenseChange, LicenseStatus};
use crate::service::license::{ActivationKey, CustomerDetails, LicenseCommand as Command};

/// A licence is some kilobytes; what is longer is none, and is not read to its end.
const MAX_FILE: u64 = 15 * 1024;

/// The routes, without fallbacks.
pub(super) fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/v1/license", get(show).put(install))
        .route("/v1/license/activate", post(activate))
        .route("/v1/license/refresh", post(refresh))
        .route("/v1/license/deactivate", post(deactivate))
        .with_state(admin)
}

async fn show(State(admin): State<Admin>, request: Request) -> Answer {
    let NoQuery {} = query(request.uri())?;
    Ok(json(StatusCode::OK, &admin.license()?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallQuery {
    #[serde(default)]
    force: bool,
}

/// The body is the licence as it is: one line of text.
async fn install(State(admin): State<Admin>, request: Request) -> Answer {
    let InstallQuery { force } = query(request.uri())?;
    let body = read_body(request.into_body()).await?;
    let token = std::str::from_utf8(&body).map_err(|_| bad_request("the body is no text"))?.to_owned();
    Ok(changed(&admin.change_license(|reply| Command::Install { token, force, reply }).await?))
}

/// The body of `POST /v1/license/activate`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ActivateBody {
    key: String,
    #[serde(default)]
    customer: CustomerDetails,
}

async fn activate(State(admin): State<Admin>, request: Request) -> Answer {
    let NoQuery {} = query(request.uri())?;
    let body = read_body(request.into_body()).await?;
    // The error names a place, never what stands there: the key is a secret.
    let ActivateBody { key, customer } = serde_json::from_slice(&body).map_err(|error| {
        bad_request(format!("the body is wrong at line {}, column {}", error.line(), error.column()))
    })?;
    let key = ActivationKey(key);
    Ok(changed(&admin.change_license(|reply| Command::Activate { key, customer, reply }).await?))
}

async fn refresh(State(admin): State<Admin>, request: Request) -> Answer {
    let NoQuery {} = query(request.uri())?;
    Ok(changed(&admin.change_license(|reply| Command::Refresh { reply }).await?))
}

async fn deactivate(State(admin): State<Admin>, request: Request) -> Answer {
    let NoQuery {} = query(request.uri())?;
    Ok(changed(&admin.change_license(|reply| Command::Deactivate { reply }).await?))
}

fn changed(change: &LicenseChange) -> Response<Body> {
    json(StatusCode::OK, change)
}

impl Session<'_> {
    /// Runs one of the commands that ask the daemon about its licence.
    pub(super) async fn license(&mut self, command: &LicenseCommand) -> Result<(), Trouble> {
        let now = Timestamp::now();
        match command {
            LicenseCommand::Show => {
                let answer = self.get("/v1/license").await?;
                self.show(&answer, |license: &LicenseStatus| output::license(license, now))
            }
            LicenseCommand::Install { file, force } => {
                let path = format!("/v1/license?force={force}");
                let answer = self.client.send_bytes(Method::PUT, &path, read(file)?).await?;
                self.license_changed(&answer)
            }
            LicenseCommand::Activate { key, customer } => {
                let body = ActivateBody { key: activation_key(key)?, customer: details(customer) };
                let answer = self.client.send(Method::POST, "/v1/license/activate", &body).await?;
                self.license_changed(&answer)
            }
            LicenseCommand::Refresh => {
                let answer = self.client.request(Method::POST, "/v1/license/refresh").await?;
                self.license_changed(&answer)
            }
            LicenseCommand::Deactivate => {
                let answer = self.client.request(Method::POST, "/v1/license/deactivate").await?;
                self.license_changed(&answer)
            }
            LicenseCommand::Request { customer } => {
                let answer = self.get("/v1/license").await?;
                let LicenseStatus { installation, id, .. } = self.client.decode(&answer)?;
                // What `license issue --request` reads.
                let customer = details(customer);
                let request =
                    serde_json::json!({ "installation": installation, "license": id, "customer": customer });
                serde_json::to_writer_pretty(&mut *self.out, &request).map_err(io::Error::other)?;
                Ok(writeln!(self.out)?)
            }
        }
    }

    fn license_changed(&mut self, answer: &super::client::Response) -> Result<(), Trouble> {
        self.show(answer, |change: &LicenseChange| format!("{}\n", output::clean(&change.message)))
    }
}

/// A key on the command line is seen by everybody on the machine: `-` reads it from standard input.
fn activation_key(typed: &str) -> io::Result<String> {
    if typed != "-" {
        return Ok(typed.to_owned());
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn read(file: &Path) -> io::Result<Bytes> {
    use std::io::Read;
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let mut text = Vec::new();
    if file == Path::new("-") {
        io::stdin().take(MAX_FILE).read_to_end(&mut text)?;
    } else {
        std::fs::File::open(file).map_err(named)?.take(MAX_FILE).read_to_end(&mut text).map_err(named)?;
    }
    Ok(text.into())
}

fn details(customer: &CustomerArgs) -> CustomerDetails {
    let named = [("name", &customer.customer), ("email", &customer.email)];
    let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
    named.chain(customer.detail.iter().cloned()).collect()
}
