//! `/v1/import`: takes a file from the client, since the daemon may not read the administrator's files.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::server::{Answer, bad_request, query};
use crate::domain::name::Domain;
use crate::import;
use crate::net::http::json;
use crate::net::problem::Problem;
use crate::service::{Admin, ImportMode};

/// The longest file. It lies in the state directory while it is imported, and is read in one transaction, for
/// which newcomers who log in wait: this much of LDIF takes seconds. A hundred thousand lines of CSV are some
/// 6 MB.
pub(super) const MAX_IMPORT_BYTES: u64 = 256 << 20;

/// How long a client may send nothing: it holds a file in the state directory.
const PATIENCE: Duration = Duration::from_secs(60);

/// Large enough that a read costs little beside the parsing, and that the first line is seen whole.
const BUFFER_BYTES: usize = 128 * 1024;

pub(super) fn routes(admin: Admin) -> Router {
    Router::new().route("/v1/import", post(import)).with_state(admin)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    domain: String,
    #[serde(default)]
    partial: bool,
    #[serde(default)]
    dry_run: bool,
}

async fn import(State(admin): State<Admin>, request: Request) -> Answer {
    let ImportQuery { domain, partial, dry_run } = query(request.uri())?;
    let domain = Domain::parse(&domain)
        .map_err(|error| bad_request(format!("the query is wrong: domain={domain:?}: {error}")))?;
    let file = admin.spool().map_err(cannot_keep)?;
    let mut file = spool(request.into_body(), file).await?;
    file.rewind().map_err(cannot_keep)?;
    let input = BufReader::with_capacity(BUFFER_BYTES, file);
    let rows = import::rows(input, domain.clone()).map_err(cannot_keep)?;
    Ok(json(StatusCode::OK, &admin.import(domain, rows, ImportMode { partial, dry_run }).await?))
}

/// Writes a body into a file.
async fn spool(mut body: Body, file: File) -> Result<File, Problem> {
    let mut file = tokio::fs::File::from_std(file);
    let mut size = 0;
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.map_err(|_| {
            let detail = format!("nothing was sent for {} s", PATIENCE.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| bad_request(format!("the file did not arrive whole: {error}")))?;
        let Ok(bytes) = frame.into_data() else { continue };
        size += bytes.len() as u64;
        if size > MAX_IMPORT_BYTES {
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, too_long()));
        }
        file.write_all(&bytes).await.map_err(cannot_keep)?;
    }
    file.flush().await.map_err(cannot_keep)?;
    Ok(file.into_std().await)
}

fn cannot_keep(error: std::io::Error) -> Problem {
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, format!("cannot keep the file meanwhile: {error}"))
}

/// What to say of a longer file.
pub(super) fn too_long() -> String {
    format!("the file is longer than {} MiB: split it", MAX_IMPORT_BYTES >> 20)
}
