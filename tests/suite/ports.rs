//! What every other test relies on: a port that is handed out stays free for its server.

use std::collections::BTreeSet;
use std::net::TcpListener;

use crate::support::ports::{Claims, kernels_first_port};

/// More than a block.
const MANY: usize = 150;

#[test]
fn a_port_is_handed_out_once_and_never_by_the_kernel() {
    // Two processes, as far as the locks are concerned.
    let (mut ours, mut theirs) = (Claims::new(), Claims::new());
    let ports: BTreeSet<u16> = (0..MANY).flat_map(|_| [ours.port(), theirs.port()]).collect();
    assert_eq!(ports.len(), 2 * MANY);
    let kernels = kernels_first_port();
    assert!(ports.iter().all(|port| *port < kernels), "{ports:?}");
    let chosen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(chosen.port() >= kernels, "{chosen}");
}

#[test]
fn a_port_on_which_somebody_listens_is_passed_over() {
    let mut claims = Claims::new();
    let next = claims.port() + 1;
    let Ok(_stranger) = TcpListener::bind(("127.0.0.1", next)) else { return };
    assert_ne!(claims.port(), next);
}
