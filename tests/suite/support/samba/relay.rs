//! A port in another network namespace, reached by one in ours.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    tampering: Arc<Tampering>,
}

/// Changes bytes of a request in their place.
pub(super) type Edit = Box<dyn Fn(&mut [u8]) + Send>;

/// What is done to the bytes on their way.
struct Tampering {
    /// What is done to requests.
    edits: Mutex<Vec<Edit>>,
    /// Bytes of answers that still go through.
    left: AtomicUsize,
}

impl Relay {
    pub(super) fn start(network: &Arc<Network>, port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let nothing = Tampering { edits: Mutex::default(), left: AtomicUsize::new(usize::MAX) };
        let tampering = Arc::new(nothing);
        let (network, over, with) = (network.clone(), is_over.clone(), tampering.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (client, network, with) = (client.unwrap(), network.clone(), with.clone());
                // A thread of its own, since it can't leave the server's network any more.
                thread::spawn(move || {
                    if let Ok(server) = network.connect(port) {
                        relay(client, server, &with);
                    }
                });
            }
        });
        Relay { address, is_over, tampering }
    }

    /// Edits requests from now on.
    pub(super) fn edit(&self, edit: Edit) {
        self.tampering.edits.lock().unwrap().push(edit);
    }

    /// Edits nothing any more.
    pub(super) fn be_honest(&self) {
        self.tampering.edits.lock().unwrap().clear();
    }

    /// Lets so many more bytes of answers through, then swallows them.
    pub(super) fn cut_after(&self, bytes: usize) {
        self.tampering.left.store(bytes, Ordering::SeqCst);
    }

    /// Whether answers were swallowed.
    pub(super) fn is_cut(&self) -> bool {
        self.tampering.left.load(Ordering::SeqCst) == 0
    }
}

impl Tampering {
    fn request(&self, bytes: &mut [u8]) {
        for edit in self.edits.lock().unwrap().iter() {
            edit(bytes);
        }
    }

    /// How many of so many bytes of an answer go through.
    fn answer(&self, bytes: usize) -> usize {
        let left = self.left.load(Ordering::SeqCst);
        if left == usize::MAX {
            return bytes;
        }
        self.left.store(left - bytes.min(left), Ordering::SeqCst);
        bytes.min(left)
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
fn relay(client: TcpStream, server: TcpStream, tampering: &Arc<Tampering>) {
    let (from, to, with) = (client.try_clone().unwrap(), server.try_clone().unwrap(), tampering.clone());
    thread::spawn(move || {
        copy_one_way(from, to, |bytes| {
            with.request(bytes);
            bytes.len()
        });
    });
    copy_one_way(server, client, |bytes| tampering.answer(bytes.len()));
}

/// Copies what `pass` lets through: so many of the bytes, as it leaves them.
fn copy_one_way(mut from: TcpStream, mut to: TcpStream, pass: impl Fn(&mut [u8]) -> usize) {
    let mut buffer = vec![0; 16 * 1024];
    let how = loop {
        match from.read(&mut buffer) {
            Ok(0) => break Shutdown::Write,
            Err(_) => break Shutdown::Both,
            Ok(read) => {
                let passed = pass(&mut buffer[..read]);
                if to.write_all(&buffer[..passed]).is_err() {
                    break Shutdown::Both;
                }
            }
        }
    };
    // It may be closed already.
    let _ = to.shutdown(how);
}
