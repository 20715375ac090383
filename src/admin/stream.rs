//! The list of users, or a backup, as a body: read on a thread that may block, and never whole in memory.

use std::io::{self, BufWriter, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Frame;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::net::problem::Problem;
use crate::service::UserList;
use crate::service::answers::UserLine;
use crate::service::backup::Backup;

/// Bytes that are collected before they are sent: a million users make some 3000 pieces.
const CHUNK: usize = 64 * 1024;

/// Pieces that wait for the client: one is sent while the next is made.
const QUEUE: usize = 2;

/// How long a client may leave the answer unread. It holds a thread, and a state of the store whose space
/// cannot be used again meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// A part of the body on its way from the thread that reads.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// The body is whole. A channel that closes without this is a body cut short.
    End,
    Failed(CutShort),
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut short: {0}")]
struct CutShort(String);

fn cut_short(error: impl std::fmt::Display) -> CutShort {
    CutShort(error.to_string())
}

/// Answers `{"users":[…]}`.
pub(super) async fn users(list: UserList) -> Result<Response<Body>, Problem> {
    answer("application/json", move |send| write(&list, send)).await
}

/// Answers with a backup.
pub(super) async fn backup(backup: Backup) -> Result<Response<Body>, Problem> {
    answer("application/octet-stream", move |send| {
        let mut out = BufWriter::with_capacity(CHUNK, Sending(send));
        backup.write(&mut out).map_err(cut_short)?;
        out.flush().map_err(cut_short)
    })
    .await
}

/// Writes to whatever takes pieces.
struct Sending<'a>(&'a mut dyn FnMut(Bytes) -> bool);

impl Write for Sending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (self.0)(Bytes::copy_from_slice(bytes)) {
            true => Ok(bytes.len()),
            false => Err(io::Error::other("nobody reads it")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers with a body that `work` writes on a thread that may block. An error before the first piece is an answer of
/// its own; a later one breaks the connection, so that nobody takes half of it for the whole.
async fn answer(
    content_type: &'static str,
    work: impl FnOnce(&mut dyn FnMut(Bytes) -> bool) -> Result<(), CutShort> + Send + 'static,
) -> Result<Response<Body>, Problem> {
    let (sender, mut pieces) = mpsc::channel(QUEUE);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let send = |piece| runtime.block_on(sender.send_timeout(piece, PATIENCE)).is_ok();
        let end = match work(&mut |bytes| send(Piece::Bytes(bytes))) {
            Ok(()) => Piece::End,
            Err(error) => Piece::Failed(error),
        };
        // Who does not hear of the end sees that there was none.
        let _ = send(end);
    });
    match pieces.recv().await {
        Some(Piece::Bytes(bytes)) => {
            let mut response = Response::new(Body::new(Pieces { first: Some(bytes), rest: pieces }));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            Ok(response)
        }
        Some(Piece::Failed(error)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
        Some(Piece::End) | None => {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "there was no answer"))
        }
    }
}

/// Writes the document in pieces until one is not taken.
fn write(list: &UserList, send: &mut dyn FnMut(Bytes) -> bool) -> Result<(), CutShort> {
    let mut document = Document { buffer: b"{\"users\":[".to_vec(), is_first: true };
    let mut failure = None;
    let mut each = |line: UserLine| -> Result<(), CutShort> {
        document.push(&line)?;
        if document.buffer.len() >= CHUNK && !send(document.take()) {
            return Err(CutShort("nobody reads it".to_owned()));
        }
        Ok(())
    };
    list.for_each(|line| match each(line) {
        Ok(()) => true,
        Err(error) => {
            failure = Some(error);
            false
        }
    })
    .map_err(cut_short)?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    document.buffer.extend_from_slice(b"]}");
    if send(document.take()) { Ok(()) } else { Err(CutShort("nobody reads it".to_owned())) }
}

/// What was written of the document and not sent.
struct Document {
    buffer: Vec<u8>,
    is_first: bool,
}

impl Document {
    fn push(&mut self, line: &UserLine) -> Result<(), CutShort> {
        if !std::mem::take(&mut self.is_first) {
            self.buffer.push(b',');
        }
        serde_json::to_writer(&mut self.buffer, line).map_err(cut_short)
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.buffer).into()
    }
}

/// The body.
struct Pieces {
    first: Option<Bytes>,
    rest: mpsc::Receiver<Piece>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        Poll::Ready(match ready!(this.rest.poll_recv(cx)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => None,
            Some(Piece::Failed(error)) => Some(Err(error)),
            None => Some(Err(CutShort("its reader is gone".to_owned()))),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body(pieces: Vec<Piece>) -> Result<Bytes, CutShort> {
        let (sender, rest) = mpsc::channel(8);
        for piece in pieces {
            sender.send(piece).await.unwrap();
        }
        drop(sender);
        let whole = Pieces { first: Some(Bytes::from_static(b"a")), rest }.collect().await;
        whole.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn only_a_list_with_its_end_is_whole() {
        let b = || Piece::Bytes(Bytes::from_static(b"b"));
        assert_eq!(body(vec![b(), Piece::End]).await.unwrap(), "ab");
        assert!(body(vec![b()]).await.unwrap_err().to_string().contains("its reader is gone"));
        let failed = Piece::Failed(CutShort("the disk".to_owned()));
        assert!(body(vec![b(), failed]).await.unwrap_err().to_string().contains("the disk"));
    }
}
