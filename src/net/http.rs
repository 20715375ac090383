//! HTTP/1.1 on a connection: the limits that every HTTP listener has.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::problem::Problem;
use super::socket::Stream;

/// The longest body of a request. A check is some 150 bytes; the longest names make it 2 kB.
pub const MAX_BODY: usize = 16 * 1024;

/// Time to send the head of a request, the idle time before it included. Dovecot closes an idle
/// connection after ten seconds by itself, so it never meets this.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Time for a request and its answer. It is longer than any login takes (`front` holds it to that), so that a
/// directory which hangs is told in the words of who asks, and this ends only what nobody waits for any more.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(8);

/// Bytes of a head: request line and headers.
const MAX_HEAD: usize = 16 * 1024;

/// Serves a connection until the client closes it, or `stop` asks to finish the request at hand.
///
/// `deadline` false lifts the deadline of a request: an administrator may wait for a whole sync.
pub async fn connection(stream: Stream, router: Router, stop: CancellationToken, deadline: bool) {
    let peer = stream.peer();
    connection_over(stream, peer, router, stop, deadline).await;
}

/// The same over a stream that was made of a connection, as TLS does.
pub async fn connection_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<IpAddr>,
    router: Router,
    stop: CancellationToken,
    deadline: bool,
) {
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move {
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            let answer = router.oneshot(request.map(Body::new));
            if !deadline {
                return answer.await;
            }
            match tokio::time::timeout(REQUEST_DEADLINE, answer).await {
                Ok(response) => response,
                Err(_) => Ok::<_, Infallible>(too_slow().into_response()),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        // A client may close its side when it has asked, and still read the answer.
        .half_close(true)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // How a connection ends is the client's affair: a broken one has nobody left to tell.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

fn too_slow() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the request took too long: try again later")
}

/// Adds the answers for unknown paths and wrong methods.
pub fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(async |request: Request| {
            Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", request.uri().path()))
        })
        .method_not_allowed_fallback(async |method: Method, request: Request| {
            let detail = format!("{} does not take {method}: see the Allow header", request.uri().path());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
}

/// Reads a whole body of at most [`MAX_BODY`] bytes.
pub async fn read_body(body: Body) -> Result<Bytes, Problem> {
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {MAX_BODY} bytes"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
        let is_limit = std::error::Error::source(&error)
            .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if is_limit {
            too_large()
        } else {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body did not arrive: {error}"))
        }
    })
}

/// A JSON answer.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(Body::from(bytes));
            *response.status_mut() = status;
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer is no JSON: {error}"))
                .into_response()
        }
    }
}
