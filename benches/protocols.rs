//! How many questions a second the daemon answers to mail servers for people who hold a seat, beside a server that
//! answers without thinking, and what idle connections cost.
//!
//! `cargo bench --bench protocols`; `BENCH_USERS` (100,000), `BENCH_ROUNDS` (3), `BENCH_SECONDS` (5) and `BENCH_IDLE`
//! (10,000 connections) change its size. The clients run on the same cores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints, and fails by panicking"
)]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use support::daemon::Daemon;
use support::{Spread, Table, address, ldif, ldif_directory, percentile, setting};

/// Who asks: people who hold a seat, over so many kept connections.
const HOLDERS: usize = 400;
const CONNECTIONS: usize = 32;

/// The answer to each question is known, since all are for holders.
#[derive(Clone)]
struct Protocol {
    kind: &'static str,
    questions: Arc<Vec<(Vec<u8>, Vec<u8>)>>,
}

#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    p99_ms: f64,
}

fn main() {
    let users = setting("BENCH_USERS", 100_000);
    let mut daemon = Daemon::new();
    println!("mapping {users} users");
    fs::write(daemon.path("h.ldif"), ldif('h', 0..users)).unwrap();
    let listener = |kind| format!("[[listen.{kind}]]\nbind = \"127.0.0.1:0\"\nmax_connections = 20000\n");
    daemon.configure(&(ldif_directory('h') + &listener("postfix_policy") + &listener("socketmap")));
    daemon.start();
    daemon.wait_until_ready();
    let holders: Vec<String> = (0..HOLDERS).map(|at| address('h', at * users / HOLDERS)).collect();
    let mut client = daemon.client();
    for holder in &holders {
        client.check(holder, "login").unwrap();
    }
    let status = client.get("/v1/status").unwrap();
    let bind = |kind: &str| {
        let listeners = status["listeners"].as_array().unwrap();
        let listener = listeners.iter().find(|listener| listener["kind"] == kind).unwrap();
        listener["bind"].as_str().unwrap().to_owned()
    };

    let runtime = Runtime::new().unwrap();
    let mut table = Table::new();
    for protocol in [postfix_policy(&holders), socketmap(&holders)] {
        let bare = runtime.block_on(reference_server(protocol.questions[0].1.clone()));
        // Every question gets the first one's answer there.
        let constant =
            Protocol { questions: Arc::new(vec![protocol.questions[0].clone()]), ..protocol.clone() };
        let rounds: Vec<(Run, Run)> = (0..setting("BENCH_ROUNDS", 3))
            .map(|_| {
                let ours = runtime.block_on(load(bind(protocol.kind), protocol.clone()));
                let bare = runtime.block_on(load(bare.clone(), constant.clone()));
                println!("{:.0} answers/s, the reference {:.0}/s", ours.per_second, bare.per_second);
                (ours, bare)
            })
            .collect();
        let spread = |value: fn(&(Run, Run)) -> f64| rounds.iter().map(value).collect::<Spread>();
        let ours = spread(|(ours, _)| ours.per_second).show(0, "/s");
        table.line(protocol.kind, ours, "at least 60000/s");
        table.line("  p99", spread(|(ours, _)| ours.p99_ms).show(2, " ms"), "under 5 ms");
        table.line("  a constant answer", spread(|(_, bare)| bare.per_second).show(0, "/s"), "");
        table.line("  p99", spread(|(_, bare)| bare.p99_ms).show(2, " ms"), "");
        let share = spread(|(ours, bare)| ours.per_second / bare.per_second);
        table.line("  of the constant answer", share.show(2, " ×"), "");
    }

    let idle = setting("BENCH_IDLE", 10_000);
    let before = daemon.peak_memory();
    let protocol = postfix_policy(&holders);
    // Each has asked once, so that it has all the memory that it ever needs.
    let connections = runtime.block_on(open(&bind(protocol.kind), &protocol, idle));
    let after = daemon.peak_memory();
    table.line("memory before", format!("{before:.0} MiB"), "");
    table.line(&format!("with {idle} idle connections"), format!("{after:.0} MiB"), "under 150 MiB");
    drop(connections);
    table.print(&format!("{HOLDERS} holders among {users} users ask over {CONNECTIONS} connections"));
}

/// The request of a real smtpd.
fn postfix_policy(holders: &[String]) -> Protocol {
    let question = |holder: &String| {
        let request = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.7\n\
             client_name=mx.example.com\nclient_port=41234\nreverse_client_name=mx.example.com\n\
             server_address=192.0.2.1\nserver_port=25\nhelo_name=mx.example.com\nsender=friend@example.com\n\
             recipient={holder}\nrecipient_count=0\nqueue_id=\ninstance=4f2d.65f0a1b2.c3d4e.0\nsize=4711\n\
             etrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\n\
             ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n\
             encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n\n"
        );
        (request.into_bytes(), b"action=DUNNO\n\n".to_vec())
    };
    Protocol { kind: "postfix_policy", questions: Arc::new(holders.iter().map(question).collect()) }
}

fn socketmap(holders: &[String]) -> Protocol {
    let netstring = |text: &str| format!("{}:{text},", text.len()).into_bytes();
    let question = |holder: &String| {
        let login = holder.split('@').next().unwrap();
        (netstring(&format!("mailboxes {holder}")), netstring(&format!("OK h.example/{login}/")))
    };
    Protocol { kind: "socketmap", questions: Arc::new(holders.iter().map(question).collect()) }
}

async fn ask(stream: &mut TcpStream, (request, expected): &(Vec<u8>, Vec<u8>), answer: &mut [u8]) {
    stream.write_all(request).await.unwrap();
    let answer = &mut answer[..expected.len()];
    stream.read_exact(answer).await.unwrap();
    assert_eq!(answer, expected.as_slice());
}

/// Asks for one holder after the other on every connection, each question after the answer to the one before.
async fn load(address: String, protocol: Protocol) -> Run {
    let start = Instant::now();
    let until = start + Duration::from_secs(setting("BENCH_SECONDS", 5));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (address, protocol) = (address.clone(), protocol.clone());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut times = Vec::new();
                let mut answer = [0; 256];
                let mut now = Instant::now();
                for question in protocol.questions.iter().cycle().skip(number * 7) {
                    ask(&mut stream, question, &mut answer).await;
                    let then = std::mem::replace(&mut now, Instant::now());
                    times.push(now - then);
                    if now >= until {
                        break;
                    }
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    let took = start.elapsed();
    times.sort_unstable();
    Run {
        per_second: times.len() as f64 / took.as_secs_f64(),
        p99_ms: percentile(&times, 99).as_secs_f64() * 1000.0,
    }
}

async fn open(address: &str, protocol: &Protocol, count: usize) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    let mut answer = [0; 256];
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask(&mut stream, &protocol.questions[0], &mut answer).await;
        connections.push(stream);
    }
    connections
}

/// Answers whatever arrives with `answer`, without looking at it. It ends with the process.
async fn reference_server(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        // Threads of its own, like the daemon's.
        let runtime = Runtime::new().unwrap();
        let listener = listener.into_std().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        if stream.write_all(&answer).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
    });
    address
}
