//! The licence server: HTTPS for daemons, and a control socket for the vendor.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Segment, Request, State};
use axum::http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::{get, post};
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::shop::{Shop, ShopError, SoldLicense, etag};
use crate::cli::license::{ServeArgs, TermsArgs};
use crate::config::{BadTcp, Bind};
use crate::domain::license::{InstallationId, License, PublicKey};
use crate::licensing::protocol::{ActivationRequest, LicenseAnswer, NONCE, TIME};
use crate::licensing::signer::Signer;
use crate::licensing::time::Nonce;
use crate::net::http::{connection, connection_over, json, read_body, with_fallbacks};
use crate::net::problem::Problem;
use crate::net::serve::serve;
use crate::net::socket::{BindError, Socket};

/// Daemons ask twice a day.
const CONNECTIONS: usize = 256;

/// The vendor's commands.
const CONTROL_CONNECTIONS: usize = 16;

/// Only who may read the file.
const CONTROL_MODE: u32 = 0o600;

/// Behind a proxy of the same machine.
const PUBLIC_MODE: u32 = 0o666;

/// A client that takes longer to say hello is none.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Where to listen.
    #[error("{text:?} is no HOST:PORT and no unix:/path: it {problem}")]
    BadBind {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: BadTcp,
    },
    /// `--also-trust`.
    #[error("{0:?} is no Ed25519 public key in SPKI form: copy the line that license keygen printed")]
    BadKey(String),
    /// The activation keys would be readable on the way.
    #[error(
        "{0} is reached from other machines: give --cert and --cert-key, or listen on loopback behind a proxy"
    )]
    Unencrypted(String),
    /// The certificate or its key.
    #[error("{}: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file or the key.
    #[error(transparent)]
    Shop(#[from] ShopError),
}

/// What every request needs.
struct Office {
    shop: Shop,
    signer: Signer,
    /// Keys that licences in hand may be signed with.
    trusted: Vec<PublicKey>,
    issuer: Option<String>,
}

/// The control socket of a licence server's file.
pub fn control_socket(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".sock");
    path.into()
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: &ServeArgs) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let bind = parse_bind(&args.bind)?;
    let tls = match (&args.cert, &args.cert_key) {
        (Some(cert), Some(key)) => Some(acceptor(cert, key)?),
        _ if bind.is_local() => None,
        _ => return Err(ServeError::Unencrypted(args.bind.clone())),
    };
    let signer = Signer::load(&args.key).map_err(ShopError::from)?;
    let mut trusted = vec![signer.public_key().clone()];
    for text in &args.also_trust {
        trusted.push(PublicKey::parse(text).ok_or(ServeError::BadKey(text.clone()))?);
    }
    let shop = Shop::open(&args.database.database)?;
    let office = Arc::new(Office { shop, signer, trusted, issuer: args.issuer.clone() });
    let control = Socket::bind(&Bind::Unix(control_socket(&args.database.database)), CONTROL_MODE).await?;
    let public = Socket::bind(&bind, PUBLIC_MODE).await?;
    let (listener, encrypted) = (public.shown().to_owned(), tls.is_some());
    info!(event = "started", listener, encrypted, "The licence server listens on {listener}.");

    let stop = CancellationToken::new();
    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!(event = "stopping", "The licence server finishes what was asked, and ends.");
        stop.cancel();
    };
    tokio::join!(
        signalled,
        listen(public, CONNECTIONS, with_fallbacks(public_routes(&office)), tls, &stop),
        listen(control, CONTROL_CONNECTIONS, with_fallbacks(control_routes(&office)), None, &stop),
    );
    Ok(())
}

fn listen(
    socket: Socket,
    connections: usize,
    router: Router,
    tls: Option<TlsAcceptor>,
    stop: &CancellationToken,
) -> impl Future<Output = ()> {
    let stop = stop.clone();
    async move {
        let (_keep, limit) = watch::channel(connections);
        serve(socket, Arc::new(AtomicUsize::new(0)), limit, stop, |stream, stop| {
            let (router, tls) = (router.clone(), tls.clone());
            async move {
                let Some(tls) = tls else { return connection(stream, router, stop, true).await };
                let peer = stream.peer();
                match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection_over(stream, peer, router, stop, true).await,
                    Ok(Err(error)) => debug!(error = %error, "A client did not agree on TLS."),
                    Err(_) => debug!("A client took too long for TLS."),
                }
            }
        })
        .await;
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, ServeError> {
    let wrong = |path: &Path, problem: String| ServeError::Certificate { path: path.to_owned(), problem };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(cert, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| wrong(cert, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn parse_bind(text: &str) -> Result<Bind, ServeError> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Bind::Unix(path.into()));
    }
    Bind::parse_tcp(text).map_err(|problem| ServeError::BadBind { text: text.to_owned(), problem })
}

fn public_routes(office: &Arc<Office>) -> Router {
    Router::new()
        .route("/v1/activations", post(activate).delete(deactivate))
        .route("/v1/license", get(current))
        .route("/healthz", get(health))
        .with_state(Arc::clone(office))
}

fn control_routes(office: &Arc<Office>) -> Router {
    Router::new()
        .route("/v1/sales", get(sold))
        .route("/v1/sales/{id}", post(sell))
        .route("/v1/sales/{id}/free", post(free))
        .route("/v1/sales/{id}/revoke", post(revoke))
        .with_state(Arc::clone(office))
}

type Answer = Result<Response<Body>, Problem>;

impl From<ShopError> for Problem {
    fn from(error: ShopError) -> Problem {
        Problem::new(error.status(), error.to_string())
    }
}

/// The file's changes wait for the disk.
async fn blocking<T: Send + 'static>(
    office: &Arc<Office>,
    work: impl FnOnce(&Office) -> Result<T, ShopError> + Send + 'static,
) -> Result<T, Problem> {
    let office = Arc::clone(office);
    match tokio::task::spawn_blocking(move || work(&office)).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

fn license_answer(
    office: &Office,
    license: &License,
    known: Option<&HeaderValue>,
    nonce: Option<Nonce>,
) -> Answer {
    let token = office.signer.sign(license).map_err(ShopError::from)?;
    let tag = etag(&token);
    let tag = header(tag)?;
    let mut response = if known == Some(&tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        json(StatusCode::OK, &LicenseAnswer { license: token })
    };
    response.headers_mut().insert(ETAG, tag);
    if let Some(nonce) = nonce {
        let time = office.signer.sign_time(&nonce, Timestamp::now()).map_err(ShopError::from)?;
        response.headers_mut().insert(TIME, header(time)?);
    }
    Ok(response)
}

/// What a daemon sent that asks for the time as well.
fn nonce(headers: &HeaderMap) -> Option<Nonce> {
    Nonce::parse(headers.get(NONCE)?.to_str().ok()?)
}

fn header(value: String) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(value)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// 503 while nothing can be sold or activated.
async fn health(State(office): State<Arc<Office>>) -> Result<&'static str, Problem> {
    blocking(&office, |office| office.shop.health()).await?;
    Ok("ok\n")
}

async fn activate(State(office): State<Arc<Office>>, request: Request) -> Answer {
    let nonce = nonce(request.headers());
    let body = read_body(request.into_body()).await?;
    // The error names a place, never what stands there: the key is a secret.
    let request: ActivationRequest = serde_json::from_slice(&body).map_err(|error| {
        let place = format!("the body is wrong at line {}, column {}", error.line(), error.column());
        Problem::new(StatusCode::BAD_REQUEST, place)
    })?;
    // What is no id is not logged.
    let installation =
        InstallationId::parse(&request.installation).map_or(String::new(), |id| id.to_string());
    match blocking(&office, move |office| office.shop.activate(&request, Timestamp::now())).await {
        Ok(license) => {
            let (id, serial) = (&license.id, license.serial);
            info!(
                event = "license_activated",
                license = id,
                serial,
                installation,
                "{id} is active on {installation}."
            );
            license_answer(&office, &license, None, nonce)
        }
        Err(problem) => {
            let reason = &problem.detail;
            warn!(event = "activation_refused", installation, reason, "An activation was refused: {reason}");
            Err(problem)
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<String, Problem> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer "));
    token.map(str::to_owned).ok_or_else(|| {
        Problem::new(StatusCode::UNAUTHORIZED, "show the licence in hand: Authorization: Bearer LICENCE")
    })
}

async fn current(State(office): State<Arc<Office>>, headers: HeaderMap) -> Answer {
    let token = bearer(&headers)?;
    let license = blocking(&office, move |office| office.shop.current(&token, &office.trusted)).await?;
    license_answer(&office, &license, headers.get(IF_NONE_MATCH), nonce(&headers))
}

async fn deactivate(State(office): State<Arc<Office>>, headers: HeaderMap) -> Answer {
    let token = bearer(&headers)?;
    let now = Timestamp::now();
    let license =
        blocking(&office, move |office| office.shop.deactivate(&token, &office.trusted, now)).await?;
    info!(event = "license_deactivated", license = license.id, "{} was given back.", license.id);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

async fn sold(State(office): State<Arc<Office>>) -> Answer {
    Ok(json(StatusCode::OK, &blocking(&office, |office| office.shop.sold()).await?))
}

async fn sell(State(office): State<Arc<Office>>, Segment(id): Segment<String>, request: Request) -> Answer {
    let body = read_body(request.into_body()).await?;
    let terms: TermsArgs = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is wrong: {error}")))?;
    let sold = blocking(&office, move |office| {
        office.shop.sell(&id, office.issuer.as_deref(), &terms, Timestamp::now())
    })
    .await?;
    Ok(told("license_sold", &sold))
}

async fn free(State(office): State<Arc<Office>>, Segment(id): Segment<String>) -> Answer {
    Ok(told(
        "license_freed",
        &blocking(&office, move |office| office.shop.free(&id, Timestamp::now())).await?,
    ))
}

async fn revoke(State(office): State<Arc<Office>>, Segment(id): Segment<String>) -> Answer {
    Ok(told("license_revoked", &blocking(&office, move |office| office.shop.revoke(&id)).await?))
}

fn told(event: &str, sold: &SoldLicense) -> Response<Body> {
    let (id, serial, seats) = (&sold.license.sub, sold.license.serial, sold.license.seats);
    info!(event, license = id, serial, seats, "The licence {id} was changed by the vendor.");
    json(StatusCode::OK, sold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_does_without_tls() {
        for (text, local) in [
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
            ("localhost:0", true),
            ("unix:/run/x", true),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("licenses.example.net:443", false),
            ("127.example.net:443", false),
        ] {
            assert_eq!(parse_bind(text).unwrap().is_local(), local, "{text}");
        }
        for text in ["", "80", ":80", "a:b", "unix:", "::1:80", "[x]:80", "http://x:80"] {
            assert!(parse_bind(text).is_err(), "{text}");
        }
    }
}
