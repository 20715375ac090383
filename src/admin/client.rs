//! HTTP/1.1 over the control socket: one connection a request.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::upload::Upload;
use crate::cli::Exit;

/// The longest body that is read: the list of some four million users. It is kept in memory, so that a
/// terminal that does not scroll holds up nothing in the daemon.
const MAX_BODY: usize = 1 << 30;

/// How long an answer may take. A list of a million users takes some seconds.
pub(super) const USUAL: Duration = Duration::from_secs(600);

/// How long a file may take to be sent and imported: one that is piped in may be slow to come.
const UPLOAD: Duration = Duration::from_secs(3600);

/// How long a backup may take, also to a slow disk.
const DOWNLOAD: Duration = Duration::from_secs(3600);

/// How long a sync may take that somebody waits for; an interrupt ends the wait before that.
pub(super) const SYNC: Duration = Duration::from_secs(24 * 3600);

/// What RFC 3986 section 2.3 leaves unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there is no answer to show.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach the daemon at {}: {error}; is it running?", path.display())]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The socket, or the directory it is in, is not for this user.
    #[error(
        "cannot reach the daemon at {}: permission denied; run this as root, or as a member of the socket's \
         group", .0.display()
    )]
    Forbidden(PathBuf),
    /// The daemon refused, or failed.
    #[error("{}", .0.detail)]
    Refused(Refusal),
    /// The answer could not be written here.
    #[error("cannot write: {0}")]
    NotWritten(io::Error),
    /// The answer is not what the API promises.
    #[error("the daemon at {} did not answer as it should: {reason}", path.display())]
    Broken {
        /// The control socket.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ClientError {
    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            ClientError::Refused(_) | ClientError::NotWritten(_) => Exit::Failed,
            ClientError::Unreachable { .. } | ClientError::Forbidden(_) | ClientError::Broken { .. } => {
                Exit::Unreachable
            }
        }
    }
}

/// A problem (RFC 9457) that the daemon answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What is wrong: a sentence.
    pub detail: String,
    /// The whole answer.
    pub body: Bytes,
}

/// An answer with a status of success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub bytes: Bytes,
}

type Answer = axum::http::Response<hyper::body::Incoming>;

/// The task that moves the bytes. Ends with the sender of requests; what goes wrong in it is told to the request, too.
type Connection = tokio::task::JoinHandle<hyper::Result<()>>;

#[derive(Deserialize)]
struct ProblemAnswer {
    detail: String,
}

/// Asks the daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens at this path; connects with each request.
    pub fn new(socket: &Path) -> Client {
        Client { socket: socket.to_owned() }
    }

    /// Sends a request with a JSON body, and reads the whole answer.
    pub async fn send<T: Serialize>(
        &self,
        method: Method,
        path_and_query: &str,
        value: &T,
    ) -> Result<Response, ClientError> {
        let body = serde_json::to_vec(value)
            .map_err(|error| self.broken(format!("the request cannot be written: {error}")))?;
        self.exchange_within(method, path_and_query, whole(body.into()), USUAL).await
    }

    /// Sends a request without a body, and reads the whole answer.
    pub async fn request(&self, method: Method, path_and_query: &str) -> Result<Response, ClientError> {
        self.request_within(method, path_and_query, USUAL).await
    }

    /// Sends a request with a body that is no JSON, and reads the whole answer.
    pub async fn send_bytes(
        &self,
        method: Method,
        path_and_query: &str,
        body: Bytes,
    ) -> Result<Response, ClientError> {
        self.exchange_within(method, path_and_query, whole(body), USUAL).await
    }

    /// The same, for an answer that may take longer.
    pub async fn request_within(
        &self,
        method: Method,
        path_and_query: &str,
        limit: Duration,
    ) -> Result<Response, ClientError> {
        self.exchange_within(method, path_and_query, whole(Bytes::new()), limit).await
    }

    /// Sends a file, and reads the whole answer.
    pub(super) async fn upload(&self, path_and_query: &str, upload: Upload) -> Result<Response, ClientError> {
        self.exchange_within(Method::POST, path_and_query, upload.boxed(), UPLOAD).await
    }

    /// Sends a request without a body, and writes the answer's as it comes. What was written is whole when this is `Ok`.
    pub(super) async fn download(&self, path_and_query: &str, out: &mut File) -> Result<(), ClientError> {
        match tokio::time::timeout(DOWNLOAD, self.fetch(path_and_query, out)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.broken(format!("there was no end within {} s", DOWNLOAD.as_secs()))),
        }
    }

    async fn fetch(&self, path_and_query: &str, out: &mut File) -> Result<(), ClientError> {
        let (answer, connection) = self.begin(Method::GET, path_and_query, whole(Bytes::new())).await?;
        if !answer.status().is_success() {
            return self.finish(answer, connection).await.map(drop);
        }
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(describe(&error)))?;
            let Some(bytes) = frame.data_ref() else { continue };
            out.write_all(bytes).await.map_err(ClientError::NotWritten)?;
        }
        connection.abort();
        // The last bytes may not be written yet, and only this returns their error.
        out.flush().await.map_err(ClientError::NotWritten)?;
        out.sync_all().await.map_err(ClientError::NotWritten)
    }

    async fn exchange_within(
        &self,
        method: Method,
        path_and_query: &str,
        body: BoxBody<Bytes, io::Error>,
        limit: Duration,
    ) -> Result<Response, ClientError> {
        match tokio::time::timeout(limit, self.exchange(method, path_and_query, body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.broken(format!("there was no answer within {} s", limit.as_secs()))),
        }
    }

    /// Reads an answer's body as JSON.
    pub fn decode<T: DeserializeOwned>(&self, response: &Response) -> Result<T, ClientError> {
        serde_json::from_slice(&response.bytes)
            .map_err(|error| self.broken(format!("{error}; are daemon and client of the same version?")))
    }

    async fn exchange(
        &self,
        method: Method,
        path_and_query: &str,
        body: BoxBody<Bytes, io::Error>,
    ) -> Result<Response, ClientError> {
        let (answer, connection) = self.begin(method, path_and_query, body).await?;
        self.finish(answer, connection).await
    }

    async fn begin(
        &self,
        method: Method,
        path_and_query: &str,
        body: BoxBody<Bytes, io::Error>,
    ) -> Result<(Answer, Connection), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(error))?;
        let broken = |error: hyper::Error| self.broken(describe(&error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(header::HOST, "localhost")
            .body(body)
            .map_err(|error| self.broken(format!("the request cannot be written: {error}")))?;
        Ok((sender.send_request(request).await.map_err(broken)?, connection))
    }

    async fn finish(&self, answer: Answer, connection: Connection) -> Result<Response, ClientError> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        connection.abort();
        let bytes = body.map_err(|error| self.broken(unread(error.as_ref())))?.to_bytes();
        if status.is_success() {
            return Ok(Response { status, bytes });
        }
        match serde_json::from_slice(&bytes) {
            Ok(ProblemAnswer { detail }) => {
                Err(ClientError::Refused(Refusal { status, detail, body: bytes }))
            }
            Err(_) => Err(self.broken(format!("{status} without an explanation"))),
        }
    }

    fn no_connection(&self, error: io::Error) -> ClientError {
        let path = self.socket.clone();
        match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(path),
            _ => ClientError::Unreachable { path, error },
        }
    }

    fn broken(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), reason: reason.into() }
    }
}

fn unread(error: &(dyn std::error::Error + 'static)) -> String {
    if error.is::<LengthLimitError>() {
        return format!("the answer is longer than {MAX_BODY} bytes");
    }
    describe(error)
}

/// hyper keeps what happened in its error's source.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// Text as one segment of a path, or one value of a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::body::Body;
    use axum::extract::Path as Segment;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::Bind;
    use crate::net::http::{connection, with_fallbacks};
    use crate::net::serve::serve;
    use crate::net::socket::Socket;

    /// Serves a router on a socket, asks it, and stops.
    async fn ask(router: Router, path: &str) -> Result<Response, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let stop = CancellationToken::new();
        let listener = Socket::bind(&Bind::Unix(socket.clone()), 0o660).await.unwrap();
        let (_keep, limit) = watch::channel(4);
        let server =
            serve(listener, Arc::new(AtomicUsize::new(0)), limit, stop.clone(), move |stream, stop| {
                connection(stream, router.clone(), stop, false)
            });
        let exchange = async {
            let answer = Client::new(&socket).request(Method::GET, path).await;
            stop.cancel();
            answer
        };
        tokio::join!(server, exchange).1
    }

    #[tokio::test]
    async fn segments_arrive_as_they_were_typed() {
        let router = Router::new().route("/say/{text}", get(async |Segment(text): Segment<String>| text));
        for text in ["alice@example.org", "a/b", "50%", "ü ö", "..", "?x=1&y=2#z", "a+b"] {
            let answer = ask(router.clone(), &format!("/say/{}", encode(text))).await.unwrap();
            assert_eq!((answer.status, answer.bytes), (StatusCode::OK, Bytes::from(text)));
        }
    }

    #[tokio::test]
    async fn a_problem_is_told_from_a_broken_answer() {
        let error = ask(with_fallbacks(Router::new()), "/x").await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit()), ("there is nothing at /x", Exit::Failed));

        let plain = Router::new().route("/", get(async || (StatusCode::BAD_GATEWAY, "oops").into_response()));
        let error = ask(plain, "/").await.unwrap_err();
        assert!(error.to_string().ends_with("502 Bad Gateway without an explanation"), "{error}");
        assert_eq!(error.exit(), Exit::Unreachable);
    }

    #[tokio::test]
    async fn a_body_cut_short_is_an_error() {
        let cut = async || {
            let promised = Body::from("half").into_data_stream();
            ([(header::CONTENT_LENGTH, "10")], Body::from_stream(promised)).into_response()
        };
        let error = ask(Router::new().route("/", get(cut)), "/").await.unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    }

    #[tokio::test]
    async fn who_cannot_connect_gets_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let client = Client::new(&socket);
        let check = async |part: &str| {
            let error = client.request(Method::GET, "/v1/status").await.unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.to_string().contains(&*socket.to_string_lossy()), "{error}");
            assert_eq!(error.exit(), Exit::Unreachable);
        };
        check("No such file").await;
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        check("is it running?").await;
        // To root nothing is locked, so only the wording can be checked here.
        let error = client.no_connection(io::ErrorKind::PermissionDenied.into());
        assert!(error.to_string().ends_with("run this as root, or as a member of the socket's group"));
    }
}
