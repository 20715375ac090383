//! How many questions a second the daemon answers for people who hold a seat, beside a server that answers
//! without thinking.
//!
//! `cargo bench --bench check`; `BENCH_USERS` (100,000), `BENCH_ROUNDS` (3) and `BENCH_SECONDS` (5, for each
//! run of wrk) change its size. wrk runs on the same cores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints, and fails by panicking"
)]

mod support;

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::Command;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use support::daemon::Daemon;
use support::{Spread, Table, address, ldif, ldif_directory, setting};

/// Who asks: people who hold a seat, over so many kept connections.
const HOLDERS: usize = 400;
const CONNECTIONS: usize = 32;

/// What wrk says of one run.
#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn main() {
    let users = setting("BENCH_USERS", 100_000);
    let seconds = setting("BENCH_SECONDS", 5);
    let mut daemon = Daemon::new();
    println!("mapping {users} users");
    fs::write(daemon.path("h.ldif"), ldif('h', 0..users)).unwrap();
    daemon.configure(&ldif_directory('h'));
    daemon.start();
    daemon.wait_until_ready();
    let mut client = daemon.client();
    // Holders are spread over the directory, as in life.
    let holders: Vec<String> = (0..HOLDERS).map(|at| address('h', at * users / HOLDERS)).collect();
    for holder in &holders {
        client.check(holder, "login").unwrap();
    }
    let script = daemon.path("check.lua");
    fs::write(&script, lua(&holders)).unwrap();
    let answer = client.check_raw(&holders[0], "login").unwrap().to_vec();
    let reference = reference_server(answer);
    let rounds: Vec<(Run, Run)> = (0..setting("BENCH_ROUNDS", 3))
        .map(|_| {
            let ours = wrk(daemon.address(), &script, seconds);
            let bare = wrk(&reference, &script, seconds);
            println!("{:.0} answers/s, the reference {:.0}/s", ours.per_second, bare.per_second);
            (ours, bare)
        })
        .collect();
    // All along they were holders, and still are. The daemon closed the first connection meanwhile.
    let mut client = daemon.client();
    assert!(holders.iter().all(|holder| client.check(holder, "probe").unwrap() == "held"));

    let mut table = Table::new();
    let spread = |value: fn(&(Run, Run)) -> f64| rounds.iter().map(value).collect::<Spread>();
    table.line("/v1/check of holders", spread(|(ours, _)| ours.per_second).show(0, "/s"), "at least 40000/s");
    table.line("  p50", spread(|(ours, _)| ours.p50_ms).show(2, " ms"), "");
    table.line("  p99", spread(|(ours, _)| ours.p99_ms).show(2, " ms"), "");
    table.line("bare hyper, a constant answer", spread(|(_, bare)| bare.per_second).show(0, "/s"), "");
    table.line("  p50", spread(|(_, bare)| bare.p50_ms).show(2, " ms"), "");
    table.line("  p99", spread(|(_, bare)| bare.p99_ms).show(2, " ms"), "");
    table.line(
        "of the bare server",
        spread(|(ours, bare)| ours.per_second / bare.per_second).show(2, " ×"),
        "",
    );
    table.line("peak memory of the daemon", format!("{:.0} MiB", daemon.peak_memory()), "");
    table.print(&format!("{HOLDERS} holders among {users} users ask over {CONNECTIONS} connections"));
}

/// Asks for one holder after the other, and prints what a program can read.
fn lua(holders: &[String]) -> String {
    let names: String = holders.iter().map(|holder| format!("\"{holder}\",")).collect();
    format!(
        r#"local names = {{{names}}}
local requests = {{}}
local at = 0
function init(args)
  for i, name in ipairs(names) do
    local body = '{{"user":"' .. name .. '","service":"imap","operation":"login"}}'
    requests[i] = wrk.format("POST", "/v1/check", {{["Content-Type"] = "application/json"}}, body)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, _)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("result %f %f %f %d\n", summary.requests / summary.duration * 1000000,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, failed))
end
"#
    )
}

fn wrk(address: &str, script: &Path, seconds: u32) -> Run {
    let mut command = Command::new("wrk");
    command.arg(format!("-c{CONNECTIONS}")).arg("-t2").arg(format!("-d{seconds}s")).arg("-s").arg(script);
    let output = command.arg(format!("http://{address}")).output().expect("apt-get install wrk");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = text.lines().find_map(|line| line.strip_prefix("result ")).expect(&text);
    let numbers: Vec<f64> = result.split(' ').map(|number| number.parse().unwrap()).collect();
    let [per_second, p50_ms, p99_ms, failed] = numbers[..] else { panic!("{text}") };
    assert_eq!(failed, 0.0, "{text}");
    Run { per_second, p50_ms, p99_ms }
}

/// Answers everything with `answer`, without looking at the question. It ends with the process.
fn reference_server(answer: Vec<u8>) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let answer = Bytes::from(answer);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let response = Response::builder().header("content-type", "application/json");
                let response = response.body(Full::new(answer.clone())).unwrap();
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that leaves is no failure.
            tokio::spawn(async move {
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await)
            });
        }
    };
    std::thread::spawn(move || runtime.block_on(serve));
    address
}
