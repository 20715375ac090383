//! Stands before a server, and holds its answers back after so many bytes: a server that is in the middle of
//! something for as long as the test wants.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Bytes of answers that may still pass.
#[derive(Default)]
struct Gauge {
    left: Mutex<usize>,
    opened: Condvar,
}

impl Gauge {
    /// Waits until something may pass; how much of this.
    fn take(&self, wanted: usize) -> usize {
        let left = self.left.lock().unwrap();
        let mut left = self.opened.wait_while(left, |left| *left == 0).unwrap();
        let taken = wanted.min(*left);
        if *left != usize::MAX {
            *left -= taken;
        }
        taken
    }

    fn set(&self, bytes: usize) {
        *self.left.lock().unwrap() = bytes;
        self.opened.notify_all();
    }
}

/// The valve; open at first.
pub(crate) struct Valve {
    port: u16,
    gauge: Arc<Gauge>,
}

impl Valve {
    /// Before the server at `ldap://HOST:PORT`.
    pub(crate) fn start(server: &str) -> Valve {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gauge = Arc::new(Gauge::default());
        gauge.set(usize::MAX);
        let server = server.trim_start_matches("ldap://").to_owned();
        let gauges = Arc::clone(&gauge);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A server that is down refuses, and so does this.
                let Ok(far) = TcpStream::connect(&server) else { continue };
                let (from, to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || pass(from, to, &|wanted| wanted));
                let gauge = Arc::clone(&gauges);
                thread::spawn(move || pass(far, near, &|wanted| gauge.take(wanted)));
            }
        });
        Valve { port, gauge }
    }

    pub(crate) fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// Lets so many more bytes through, of all connections together.
    pub(crate) fn close_after(&self, bytes: usize) {
        self.gauge.set(bytes);
    }

    pub(crate) fn open(&self) {
        self.gauge.set(usize::MAX);
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.open();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, allow: &dyn Fn(usize) -> usize) {
    let mut buffer = [0; 4096];
    'reading: while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(allow(rest.len()));
            if to.write_all(now).is_err() {
                break 'reading;
            }
            rest = later;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
