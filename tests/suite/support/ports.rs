//! Ports for servers that need to know their port before they bind it, or bind the same one after a restart.
//!
//! A port that is found by binding port 0 and closing the socket can be taken, before the server binds it, by any
//! outgoing connection or any other bind to port 0 on the machine. The ports handed out here are below
//! `ip_local_port_range`, from which the kernel takes those. Each process claims blocks of them with file locks,
//! which the kernel releases when the process ends. So a port belongs to one test until then, also while its server
//! is down, and no process hands out a port twice.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Servers of the machine itself are mostly below.
const FIRST: u16 = 10_000;

/// Ports to a lock: a run of the suite needs several hundred ports, and each lock costs a file descriptor.
const BLOCK: u16 = 64;

/// The same folder for every user and every setting of TMPDIR.
const LOCKS: &str = "/tmp/seatkeeper-test-ports";

static CLAIMS: Mutex<Claims> = Mutex::new(Claims::new());

/// A port on which nothing listens, and which nobody else gets before this process ends.
pub(crate) fn free_port() -> u16 {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).port()
}

/// The blocks of one process.
pub(crate) struct Claims {
    locks: Vec<File>,
    /// What is left of the newest block.
    left: Range<u16>,
}

impl Claims {
    pub(crate) const fn new() -> Claims {
        Claims { locks: Vec::new(), left: 0..0 }
    }

    pub(crate) fn port(&mut self) -> u16 {
        // Read each time: every network namespace has a range of its own.
        let end = kernels_first_port();
        loop {
            let port = self.next(end);
            let is_unused = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
            if port < end && is_unused() {
                return port;
            }
        }
    }

    fn next(&mut self, end: u16) -> u16 {
        loop {
            if let Some(port) = self.left.next() {
                return port;
            }
            self.claim_block(end);
        }
    }

    /// Starts at a random block, so that the ports of the last run are not used again immediately.
    fn claim_block(&mut self, end: u16) {
        let blocks = end.saturating_sub(FIRST) / BLOCK;
        assert!(
            blocks > 0,
            "the tests need ports from {FIRST} up to ip_local_port_range, which begins at {end}: \
             sysctl net.ipv4.ip_local_port_range=\"32768 60999\""
        );
        let start = fastrand::u16(0..blocks);
        let lock = |block: u16| Some((block, lock(block)?));
        let claimed = (0..blocks).map(|step| (start + step) % blocks).find_map(lock);
        let (block, file) = claimed.unwrap_or_else(|| panic!("all blocks of ports are claimed: see {LOCKS}"));
        self.locks.push(file);
        self.left = FIRST + block * BLOCK..FIRST + (block + 1) * BLOCK;
    }
}

/// Where the ports begin that the kernel chooses (ip(7)).
pub(crate) fn kernels_first_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    range.split_whitespace().next().unwrap().parse().unwrap()
}

/// The lock of a block, unless another process has it.
fn lock(block: u16) -> Option<File> {
    if fs::create_dir(LOCKS).is_ok() {
        fs::set_permissions(LOCKS, Permissions::from_mode(0o1777)).unwrap();
    }
    let path = Path::new(LOCKS).join(block.to_string());
    // Another user may have made it: then it can be read, and a reader can lock it.
    let open = || File::open(&path).or_else(|_| File::create_new(&path)).or_else(|_| File::open(&path));
    let file = open().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.try_lock().is_ok().then_some(file)
}
