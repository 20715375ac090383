//! A network namespace of a test's own: no port in it is anybody else's, and it can lose packets. That needs
//! root.
//!
//! The thread that enters it stays in it, and so does everything that it starts: servers and the daemon.
//!
//! Also what can be seen from outside of the connections of whichever network a thread is in.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};

use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::slapd::{installed, run};
use super::wait_for;

/// The namespace, which ends when nobody is in it any more.
pub(crate) struct Network {
    holder: Child,
}

impl Network {
    /// Makes a network with nothing but a loopback, and takes the calling thread into it for good.
    pub(crate) fn enter() -> Network {
        assert!(geteuid().is_root(), "this test needs root, for a network namespace of its own");
        let mut command = installed("unshare", "util-linux");
        // Ends at the end of its input, so it does not survive a test that was killed.
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let holder = command.spawn().unwrap();
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", holder.id());
        wait_for("a network namespace", || (fs::read_link(&theirs).ok()? != ours).then_some(()));
        let namespace = File::open(&theirs).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        ip(&["link", "set", "lo", "up"]);
        // Else what is local is found before any other rule is looked at.
        ip(&["rule", "add", "pref", "10", "lookup", "local"]);
        ip(&["rule", "del", "pref", "0"]);
        Network { holder }
    }

    /// Loses, without a word, every packet to a port from now on.
    pub(crate) fn lose_packets_to(&self, port: u16) {
        ip(&["rule", "add", "pref", "1", "ipproto", "tcp", "dport", &port.to_string(), "blackhole"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn ip(arguments: &[&str]) {
    run(installed("ip", "iproute2").args(arguments), "");
}

/// An IPv4 connection that both sides have made and neither has closed, as one of them sees it.
struct Established {
    local_port: u16,
    remote_port: u16,
    /// Bytes that came in and were not read.
    unread: u64,
}

/// All of them: `/proc/net/tcp` of proc(5), whose numbers are hexadecimal.
fn established() -> Vec<Established> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |at: usize| u16::from_str_radix(fields.get(at)?.rsplit(':').next()?, 16).ok();
        let unread = u64::from_str_radix(fields.get(4)?.rsplit(':').next()?, 16).ok()?;
        let is_established = *fields.get(3)? == "01";
        is_established.then_some(Established { local_port: port(1)?, remote_port: port(2)?, unread })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// How many connections to a port there are.
pub(crate) fn connections_to(port: u16) -> usize {
    established().iter().filter(|connection| connection.remote_port == port).count()
}

/// Whether something came in at a port that nobody has read.
pub(crate) fn is_unread_at(port: u16) -> bool {
    established().iter().any(|connection| connection.local_port == port && connection.unread > 0)
}
