//! Bound sockets, TCP or Unix.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Bind;

/// A socket that listens. Dropping it closes it, and removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: Listener,
    shown: String,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Why a socket cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused.
    #[error("cannot listen on {bind}: {error}")]
    Io {
        /// Where.
        bind: String,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody answers on the Unix socket.
    #[error("cannot listen on unix:{}: another process answers there", .0.display())]
    InUse(PathBuf),
    /// There is a file that is no socket.
    #[error("cannot listen on unix:{}: there is a file that is not a socket; move it away", .0.display())]
    NotASocket(PathBuf),
}

impl Socket {
    /// Listens. A Unix socket gets `mode`; a stale one that a dead process left is replaced.
    pub async fn bind(bind: &Bind, mode: u32) -> Result<Socket, BindError> {
        let io_error = |error| BindError::Io { bind: bind.to_string(), error };
        match bind {
            Bind::Tcp { host, port } => {
                let listener = TcpListener::bind((host.as_str(), *port)).await.map_err(io_error)?;
                let shown = listener.local_addr().map_err(io_error)?.to_string();
                Ok(Socket { listener: Listener::Tcp(listener), shown })
            }
            Bind::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path).map_err(io_error)?;
                set_mode(path, mode).map_err(io_error)?;
                Ok(Socket { listener: Listener::Unix(listener, path.clone()), shown: bind.to_string() })
            }
        }
    }

    /// Where it listens, with the port that the kernel chose.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Waits for a connection.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small: waiting to fill a packet would only delay them.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Says who may connect to a Unix socket: whoever may write to it (unix(7)).
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = &self.listener {
            // A file that is gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A dead daemon leaves its socket file behind; a living one answers on it.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io_error = |error| BindError::Io { bind: format!("unix:{}", path.display()), error };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
    }
}

/// A connection, TCP or Unix.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    /// The peer's address, where there is one.
    pub fn peer(&self) -> Option<IpAddr> {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Stream::Unix(_) => None,
        }
    }

    /// Has TCP send a reset when the connection is closed (RFC 9293 section 3.6), where there is anything to send.
    pub fn reset(&self) {
        if let Stream::Tcp(stream) = self {
            // Without it the client only learns later.
            let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// Waits until there is something to read, or the end.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.readable().await,
            Stream::Unix(stream) => stream.readable().await,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let bind = Bind::Unix(path.clone());

        // A listener that is closed without removing its file is what a killed daemon leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = Socket::bind(&bind, 0o660).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Socket::bind(&bind, 0o660).await, Err(BindError::InUse(_))));
        drop(live);
        assert!(!path.exists());

        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&bind, 0o660).await, Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
