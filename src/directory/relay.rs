//! Stands between a server and the LDAP library: what the server sends reaches the library only when
//! [`Frames`] lets it pass.
//!
//! The library speaks over one end of a socket pair; a task holds the other end and the server's stream, which
//! it has encrypted where that is configured. Its memory is one buffer each way. It reads from the server
//! only when the library has taken what was read before, so that a slow library slows the server down.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::error::ServerProblem;
use super::frame::{Frames, Refused};

/// Read from a server at once: several TLS records, some hundred entries.
const FROM_SERVER: usize = 64 * 1024;

/// Read from the library at once: requests are small.
const FROM_LIBRARY: usize = 8 * 1024;

/// A relay that runs. It ends with the value, and the connection to the server with it.
pub(super) struct Relay {
    task: AbortOnDropHandle<()>,
    problem: Arc<Mutex<Option<ServerProblem>>>,
}

impl Relay {
    /// Starts a relay; the other end is for the library.
    pub(super) fn start(
        server: impl AsyncRead + AsyncWrite + Send + 'static,
    ) -> io::Result<(Relay, std::os::unix::net::UnixStream)> {
        let (ours, library) = UnixStream::pair()?;
        let library = library.into_std()?;
        let problem = Arc::new(Mutex::new(None));
        let told = Arc::clone(&problem);
        let task = tokio::spawn(async move {
            let mut ours = ours;
            if let Err(found) = run(server, &mut ours).await {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            }
            // Only now does the library see the end, and ask why.
            drop(ours);
        });
        Ok((Relay { task: AbortOnDropHandle::new(task), problem }, library))
    }

    /// Why the relay ended, where that was not an orderly end.
    pub(super) fn problem(&self) -> Option<ServerProblem> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until all that the library had to say is sent, once it said that this was all.
    pub(super) async fn finished(&mut self) {
        // It ends in any case.
        let _ = (&mut self.task).await;
    }
}

/// Passes bytes in both directions, until one side has no more.
async fn run(server: impl AsyncRead + AsyncWrite, library: &mut UnixStream) -> Result<(), ServerProblem> {
    let (from_server, to_server) = tokio::io::split(server);
    let (from_library, to_library) = library.split();
    tokio::select! {
        ended = receive(from_server, to_library) => ended,
        ended = send(from_library, to_server) => ended.map_err(ServerProblem::Broken),
    }
}

/// From the server to the library, until the server has no more or is refused.
async fn receive(
    mut server: impl AsyncRead + Unpin,
    mut library: impl AsyncWrite + Unpin,
) -> Result<(), ServerProblem> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; FROM_SERVER];
    loop {
        let count = server.read(&mut buffer).await.map_err(ServerProblem::Broken)?;
        let bytes = &buffer[..count];
        if bytes.is_empty() {
            return Err(ServerProblem::Closed);
        }
        frames.check(bytes).map_err(|refused| match refused {
            Refused::Violation(violation) => ServerProblem::Violation(violation),
            Refused::Notice(result) => ServerProblem::Disconnected(result),
        })?;
        // The library has gone, and nobody will ask why.
        library.write_all(bytes).await.map_err(ServerProblem::Broken)?;
    }
}

/// From the library to the server, until the library has no more.
async fn send(mut library: impl AsyncRead + Unpin, mut server: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; FROM_LIBRARY];
    loop {
        let count = library.read(&mut buffer).await?;
        if count == 0 {
            return server.shutdown().await;
        }
        server.write_all(&buffer[..count]).await?;
        server.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An entry, as far as the relay looks at it.
    fn message() -> Vec<u8> {
        let value = vec![b'x'; 1000];
        [b"\x30\x82\x03\xef\x02\x01\x02\x04\x82\x03\xe8".as_slice(), &value].concat()
    }

    #[tokio::test]
    async fn a_library_that_does_not_read_slows_the_server_down() {
        let (server, mut peer) = tokio::io::duplex(FROM_SERVER);
        let (relay, library) = Relay::start(server).unwrap();
        let mut sent = 0;
        while let Ok(written) =
            tokio::time::timeout(Duration::from_millis(200), peer.write_all(&message())).await
        {
            written.unwrap();
            sent += message().len();
            assert!(sent < 1024 * 1024, "what is not read is kept somewhere");
        }
        // All of it arrives, once somebody reads.
        let mut library = UnixStream::from_std(library).unwrap();
        let mut buffer = vec![0; sent];
        library.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer[..message().len()], message());
        assert!(relay.problem().is_none());
    }

    #[tokio::test]
    async fn what_the_library_says_last_is_sent() {
        let (server, mut peer) = tokio::io::duplex(FROM_SERVER);
        let (mut relay, library) = Relay::start(server).unwrap();
        let mut library = UnixStream::from_std(library).unwrap();
        library.write_all(b"good-bye").await.unwrap();
        library.shutdown().await.unwrap();
        relay.finished().await;
        let mut said = Vec::new();
        peer.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"good-bye");
    }

    #[tokio::test]
    async fn nothing_passes_that_is_refused() {
        let (server, mut peer) = tokio::io::duplex(FROM_SERVER);
        let (relay, library) = Relay::start(server).unwrap();
        let mut library = UnixStream::from_std(library).unwrap();
        peer.write_all(&message()).await.unwrap();
        library.read_exact(&mut vec![0; message().len()]).await.unwrap();
        peer.write_all(b"\x30\x84\xff\xff\xff\xff").await.unwrap();
        assert_eq!(library.read(&mut [0; 100]).await.unwrap(), 0, "it ended");
        assert!(matches!(relay.problem(), Some(ServerProblem::Violation(_))));
        assert!(peer.write_all(&message()).await.is_err(), "so did the connection");
    }
}
