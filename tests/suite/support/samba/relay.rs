//! A port in another network namespace, reached by one in ours.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// True when a process in another network than ours listens on all these ports.
pub(super) fn listens(proc: &Path, ports: &[u16]) -> bool {
    let network = |proc: &Path| fs::read_link(proc.join("ns/net")).ok();
    // proc_pid_net(5): local address, remote address, state; 0A is LISTEN.
    let table = fs::read_to_string(proc.join("net/tcp")).unwrap_or_default();
    network(proc).is_some_and(|theirs| Some(theirs) != network(Path::new("/proc/self")))
        && ports.iter().all(|port| table.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

/// The server's network namespace, while it has one.
#[derive(Debug, Default)]
pub(super) struct Network(Mutex<Option<Arc<File>>>);

impl Network {
    pub(super) fn enter_from_now_on(&self, namespace: File) {
        *self.0.lock().unwrap() = Some(Arc::new(namespace));
    }

    pub(super) fn leave(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// Takes the calling thread to the server's network for good, and connects there.
    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let namespace = self.0.lock().unwrap().clone().ok_or(io::ErrorKind::ConnectionRefused)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
    }
}

/// Listens in our network and passes connections on to a port in the server's.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Relay {
    pub(super) fn start(network: &Arc<Network>, port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let (network, over) = (network.clone(), is_over.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (client, network) = (client.unwrap(), network.clone());
                // A thread of its own, since it can't leave the server's network any more.
                thread::spawn(move || {
                    if let Ok(server) = network.connect(port) {
                        relay(client, server);
                    }
                });
            }
        });
        Relay { address, is_over }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
    }
}

/// Copies both ways until each side has ended.
fn relay(client: TcpStream, server: TcpStream) {
    let copy_one_way = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        move || {
            let how = if io::copy(&mut from, &mut to).is_ok() { Shutdown::Write } else { Shutdown::Both };
            // It may be closed already.
            let _ = to.shutdown(how);
        }
    };
    thread::spawn(copy_one_way(&client, &server));
    copy_one_way(&server, &client)();
}
