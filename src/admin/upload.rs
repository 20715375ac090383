//! A file as the body of a request, read piece by piece.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;

/// Bytes that are read and sent at a time.
const CHUNK: usize = 64 * 1024;

/// A file on its way.
pub(super) struct Upload {
    file: File,
    sent: Arc<AtomicU64>,
}

impl Upload {
    /// Sends what is left of the file; `sent` counts the bytes.
    pub(super) fn new(file: File, sent: Arc<AtomicU64>) -> Upload {
        Upload { file, sent }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = io::Error;

    /// Reads here and now: the client has nothing else to do.
    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = this.file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        Poll::Ready(match read {
            Ok(0) => None,
            Ok(read) => {
                this.sent.fetch_add(read as u64, Ordering::Relaxed);
                Some(Ok(Frame::data(chunk.into())))
            }
            Err(error) => Some(Err(error)),
        })
    }
}
