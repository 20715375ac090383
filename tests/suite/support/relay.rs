//! Stands between a client and a server, and breaks the connection where a test wants it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// A server behind which a byte count can end the answers in the middle.
#[derive(Clone)]
pub(crate) struct Relay {
    port: u16,
    left: Arc<AtomicUsize>,
    is_cut: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
}

impl Relay {
    /// In front of `ldap://HOST:PORT`.
    pub(crate) fn start(server: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay =
            Relay { port, left: Arc::new(usize::MAX.into()), is_cut: Arc::default(), passed: Arc::default() };
        let server = server.trim_start_matches("ldap://").to_owned();
        let Relay { left, is_cut, passed, .. } = relay.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&server) else { continue };
                let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut to));
                let (left, is_cut, passed) = (Arc::clone(&left), Arc::clone(&is_cut), Arc::clone(&passed));
                thread::spawn(move || answer(far, near, &left, &is_cut, &passed));
            }
        });
        relay
    }

    pub(crate) fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// Lets so many more bytes of answers through.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.is_cut.store(false, Ordering::SeqCst);
        self.left.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn repair(&self) {
        self.left.store(usize::MAX, Ordering::SeqCst);
    }

    /// Something was swallowed.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Bytes of answers that came through so far.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Passes answers on until there were enough; then swallows them until the server is gone.
fn answer(
    mut far: TcpStream,
    mut near: TcpStream,
    left: &AtomicUsize,
    is_cut: &AtomicBool,
    total: &AtomicUsize,
) {
    let mut buffer = [0; 4096];
    while let Ok(read) = far.read(&mut buffer) {
        let allowed = left.load(Ordering::SeqCst);
        let passed = read.min(allowed);
        if read == 0 || near.write_all(&buffer[..passed]).is_err() {
            break;
        }
        total.fetch_add(passed, Ordering::SeqCst);
        if allowed != usize::MAX {
            left.store(allowed - passed, Ordering::SeqCst);
            is_cut.store(passed < read, Ordering::SeqCst);
        }
    }
    let _ = near.shutdown(Shutdown::Both);
}
