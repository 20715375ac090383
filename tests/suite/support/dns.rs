//! A real DNS server on the usual port, in a network of the test's own: see [`Network`](super::network::Network).

use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process_group};

use super::slapd::{group, installed, wait_until_stopped};
use super::wait_for;

/// A running server for example.org.
pub(crate) struct Dns {
    process: Child,
}

impl Dns {
    /// Starts it with records in the words of dnsmasq(8), `srv-host=…` and `host-record=…`; returns when it
    /// answers. Other names below example.org do not exist, and questions for other domains are refused.
    pub(crate) fn start(records: &[String]) -> Dns {
        let mut command = installed("dnsmasq", "dnsmasq-base");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]);
        command.args([
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--pid-file=",
            "--local=/example.org/",
        ]);
        command.args(records.iter().map(|record| format!("--{record}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let dns = Dns { process: command.spawn().unwrap() };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // A question for the root's name servers (RFC 1035 section 4.1).
        let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01";
        wait_for("the DNS", || {
            socket.send_to(question, "127.0.0.1:53").ok()?;
            socket.recv(&mut [0; 512]).ok()
        });
        dns
    }

    /// SIGSTOP: nothing is answered.
    pub(crate) fn stop(&self) {
        kill_process_group(group(&self.process), Signal::STOP).unwrap();
        wait_until_stopped(&self.process);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
