//! Stands before a server, and holds its answers back after so many bytes: a server that is in the middle of
//! something for as long as the test wants.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::wait_for;

#[derive(Default)]
struct State {
    /// Bytes of answers that may still pass.
    left: usize,
    /// Connections opened before so many cuts are over.
    cuts: u32,
    /// Bytes of answers that have passed.
    passed: usize,
}

#[derive(Default)]
struct Gauge {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gauge {
    /// Waits until something may pass: how much of this, or `None` when the connection is over.
    fn take(&self, wanted: usize, born: u32) -> Option<usize> {
        let state = self.state.lock().unwrap();
        let is_held = |state: &mut State| state.left == 0 && state.cuts == born;
        let mut state = self.changed.wait_while(state, is_held).unwrap();
        if state.cuts != born {
            return None;
        }
        let taken = wanted.min(state.left);
        state.passed += taken;
        if state.left != usize::MAX {
            state.left -= taken;
        }
        Some(taken)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
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
        gauge.change(|state| state.left = usize::MAX);
        let server = server.trim_start_matches("ldap://").to_owned();
        let gauges = Arc::clone(&gauge);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A server that is down refuses, and so does this.
                let Ok(far) = TcpStream::connect(&server) else { continue };
                let (from, to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || pass(from, to, &|wanted| Some(wanted)));
                let gauge = Arc::clone(&gauges);
                let born = gauge.state.lock().unwrap().cuts;
                thread::spawn(move || pass(far, near, &|wanted| gauge.take(wanted, born)));
            }
        });
        Valve { port, gauge }
    }

    pub(crate) fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// Lets so many more bytes through, of all connections together.
    pub(crate) fn close_after(&self, bytes: usize) {
        self.gauge.change(|state| state.left = bytes);
    }

    /// Bytes of answers that have passed, of all connections together.
    pub(crate) fn passed(&self) -> usize {
        self.gauge.state.lock().unwrap().passed
    }

    /// Waits until it holds something back.
    #[track_caller]
    pub(crate) fn wait_until_closed(&self) {
        wait_for("the valve to close", || (self.gauge.state.lock().unwrap().left == 0).then_some(()));
    }

    pub(crate) fn open(&self) {
        self.gauge.change(|state| state.left = usize::MAX);
    }

    /// Breaks every connection, with what it held back, and opens.
    pub(crate) fn cut(&self) {
        self.gauge.change(|state| {
            state.cuts += 1;
            state.left = usize::MAX;
        });
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.cut();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, allow: &dyn Fn(usize) -> Option<usize>) {
    let mut buffer = [0; 4096];
    'reading: while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let Some(allowed) = allow(rest.len()) else { break 'reading };
            let (now, later) = rest.split_at(allowed);
            if to.write_all(now).is_err() {
                break 'reading;
            }
            rest = later;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
