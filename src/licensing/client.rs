//! Asking a licence server.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, IF_NONE_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use super::protocol::{ActivationRequest, LicenseAnswer, NONCE, TIME};
use super::time::Nonce;

/// A server that takes longer is as good as down; the licence in hand goes on working.
const TIMEOUT: Duration = Duration::from_secs(20);

/// For the connection alone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A licence in JSON has some 20 kB at most.
const MAX_ANSWER: usize = 64 * 1024;

/// Longer explanations are cut.
const MAX_DETAIL: usize = 300;

/// A bundle of every public authority is a quarter of this.
const MAX_CA_FILE: u64 = 1024 * 1024;

/// Why the server gave nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServerFailure {
    /// It may pass by itself: no connection, no answer, a server in trouble.
    #[error("{0}")]
    Transient(String),
    /// The server understood, and says no.
    #[error("{0}")]
    Permanent(String),
}

/// What the server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The licence in hand is the newest.
    Unchanged,
    /// A licence, with its tag.
    License {
        /// The token, not yet verified.
        token: String,
        /// For the next question.
        etag: Option<String>,
    },
}

/// An answer, and the time with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// About the licence.
    pub answer: Answer,
    /// The signed time, not yet verified; older servers send none.
    pub time: Option<String>,
}

/// A licence server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LicenseServer {
    /// Its URL, without a slash at its end.
    pub url: String,
    /// The only authorities that vouch for it; those of the system by default.
    pub ca_file: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ProblemAnswer {
    detail: String,
}

impl LicenseServer {
    /// Binds a licence to this installation.
    pub async fn activate(
        &self,
        request: &ActivationRequest,
        nonce: Option<&Nonce>,
    ) -> Result<Answered, ServerFailure> {
        let body =
            serde_json::to_vec(request).map_err(|error| ServerFailure::Permanent(error.to_string()))?;
        let client = self.client().await?;
        let request = client.post(format!("{}/v1/activations", self.url));
        self.license(request.header("content-type", "application/json").body(body), nonce).await
    }

    /// Asks for a licence that is newer than the one in hand.
    pub async fn refresh(
        &self,
        token: &str,
        etag: Option<&str>,
        nonce: Option<&Nonce>,
    ) -> Result<Answered, ServerFailure> {
        let client = self.client().await?;
        let mut request = client.get(format!("{}/v1/license", self.url)).headers(bearer(token)?);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        self.license(request, nonce).await
    }

    /// Gives the licence back.
    pub async fn deactivate(&self, token: &str) -> Result<(), ServerFailure> {
        let client = self.client().await?;
        let request = client.delete(format!("{}/v1/activations", self.url)).headers(bearer(token)?);
        self.send(request).await.map(drop)
    }

    /// Reads the authorities anew each time, since both they and the certificates change over the years.
    async fn client(&self) -> Result<Client, ServerFailure> {
        // The only provider that is linked; whoever came first has installed the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // The licence goes to the server that is configured, and to nobody else.
            .redirect(Policy::none())
            .user_agent(concat!("seatkeeper/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &self.ca_file {
            builder = builder.tls_certs_only(authorities(path)?);
        }
        let built = tokio::task::spawn_blocking(move || builder.build()).await;
        let built = built.map_err(|error| ServerFailure::Transient(error.to_string()))?;
        built.map_err(|error| ServerFailure::Transient(format!("cannot set up TLS: {}", chain(&error))))
    }

    async fn license(
        &self,
        mut request: RequestBuilder,
        nonce: Option<&Nonce>,
    ) -> Result<Answered, ServerFailure> {
        if let Some(nonce) = nonce {
            request = request.header(NONCE, nonce.as_str());
        }
        let response = self.send(request).await?;
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let (etag, time) = (header(ETAG.as_str()), header(TIME));
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Answered { answer: Answer::Unchanged, time });
        }
        let body = self.body(response).await?;
        let answer: LicenseAnswer = serde_json::from_slice(&body).map_err(|_| {
            ServerFailure::Transient(format!("{} did not answer like a licence server", self.url))
        })?;
        Ok(Answered { answer: Answer::License { token: answer.license, etag }, time })
    }

    /// Sends, and sorts out every answer but success and "not modified".
    async fn send(&self, request: RequestBuilder) -> Result<Response, ServerFailure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let body = self.body(response).await.unwrap_or_default();
        let detail = serde_json::from_slice(&body).map(|ProblemAnswer { detail }| clean(&detail));
        let url = &self.url;
        let said = match detail {
            Ok(detail) => format!("the licence server {url} said: {detail}"),
            Err(_) => format!("the licence server {url} answered {status}"),
        };
        Err(if is_permanent(status) {
            ServerFailure::Permanent(said)
        } else {
            ServerFailure::Transient(said)
        })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, ServerFailure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                let said = format!("the answer of {} is longer than {MAX_ANSWER} bytes", self.url);
                return Err(ServerFailure::Transient(said));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> ServerFailure {
        let said = format!("cannot reach the licence server {}: {}", self.url, chain(error));
        ServerFailure::Transient(said)
    }
}

/// The server understood the question, and would answer the same again.
fn is_permanent(status: StatusCode) -> bool {
    status.is_client_error()
        && status != StatusCode::TOO_MANY_REQUESTS
        && status != StatusCode::REQUEST_TIMEOUT
}

fn bearer(token: &str) -> Result<HeaderMap, ServerFailure> {
    let mut value = reqwest::header::HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| ServerFailure::Permanent("the licence in hand is no token".to_owned()))?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, ServerFailure> {
    use std::io::Read as _;
    let problem = |what: String| ServerFailure::Transient(format!("ca_file {}: {what}", path.display()));
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| problem(error.to_string()))?;
    file.take(MAX_CA_FILE).read_to_end(&mut pem).map_err(|error| problem(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| problem(chain(&error)))?;
    if certificates.is_empty() {
        Err(problem("it has no certificate in PEM".to_owned()))
    } else {
        Ok(certificates)
    }
}

/// The innermost cause says what happened.
fn chain(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Somebody else wrote this text, and it goes into a log line.
fn clean(text: &str) -> String {
    text.chars().take(MAX_DETAIL).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_may_change_by_themselves_are_told_apart() {
        for (status, permanent) in [
            (400, true),
            (401, true),
            (403, true),
            (404, true),
            (409, true),
            (410, true),
            (408, false),
            (429, false),
            (500, false),
            (502, false),
            (503, false),
            (301, false),
        ] {
            assert_eq!(is_permanent(StatusCode::from_u16(status).unwrap()), permanent, "{status}");
        }
    }

    #[test]
    fn the_activation_key_is_not_shown() {
        let request = ActivationRequest {
            key: "SECRET".to_owned(),
            installation: "i".to_owned(),
            customer: Default::default(),
        };
        assert!(!format!("{request:?}").contains("SECRET"));
        assert!(bearer("SECRET").unwrap()[AUTHORIZATION].is_sensitive());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_a_transient_failure() {
        let url = "http://127.0.0.1:1".to_owned();
        let server = LicenseServer { url: url.clone(), ca_file: None };
        let failure = server.refresh("a.b.c", None, None).await.unwrap_err();
        let ServerFailure::Transient(said) = failure else { panic!("{failure:?}") };
        assert!(said.contains(&url) && said.contains("refused"), "{said}");
        let server = LicenseServer { ca_file: Some("/nonexistent".into()), ..server };
        let failure = server.refresh("a.b.c", None, None).await.unwrap_err();
        assert!(failure.to_string().contains("ca_file /nonexistent"), "{failure}");
    }
}
