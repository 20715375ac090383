//! The TCP connection: our own socket, so that a dead peer is noticed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

use super::error::ServerProblem;
use crate::domain::directory::LdapUrl;

// A peer that vanished without a word is noticed within 30 seconds.

/// It is probed after this silence,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// this often,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// and given up after so many probes without an answer.
const KEEPALIVE_PROBES: u32 = 3;
/// What we sent and nobody acknowledged breaks the connection after this (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The addresses of a server.
pub(super) async fn resolve(url: &LdapUrl) -> Result<Vec<SocketAddr>, ServerProblem> {
    let found = lookup_host((url.host.as_str(), url.port)).await.map_err(ServerProblem::Resolve)?;
    Ok(found.collect())
}

/// Connects to the first address that answers. Each gets an equal share of the time that is left, so that
/// one in a black hole (an IPv6 address without a route, often) leaves time for the next.
pub(super) async fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ServerProblem> {
    let mut problem = ServerProblem::NoAddress;
    for (at, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        // There are far fewer addresses than 2^32.
        let share = left / (addresses.len() - at) as u32;
        let attempt = async {
            let stream = TcpStream::connect(address).await?;
            configure(&stream)?;
            Ok(stream)
        };
        problem = match tokio::time::timeout(share, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => ServerProblem::Tcp(*address, error),
            Err(_) => ServerProblem::Tcp(*address, std::io::ErrorKind::TimedOut.into()),
        };
    }
    Err(problem)
}

fn configure(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}
