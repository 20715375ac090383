//! The HTTP listeners, spoken to with raw bytes: limits, errors, and clients that mean no good.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use crate::support::daemon::{Daemon, HTTP, Settings};
use crate::support::http::{Address, Answer, Client, check_body, request};
use crate::support::slapd::people;

/// `net::http::MAX_BODY` and `MAX_HEAD`.
const LIMIT: usize = 16 * 1024;

fn daemon() -> Daemon {
    Daemon::start(Settings::ldif(5, &people(0..10)))
}

fn ask_check(daemon: &Daemon, body: &str) -> Answer {
    daemon.http().ask("POST", "/v1/check", body).unwrap()
}

#[test]
fn wrong_requests_are_problems_that_say_what_is_wrong() {
    let daemon = daemon();
    for (method, path, body, status, part) in [
        ("POST", "/v1/check", "{\"user\": ", 400, "EOF"),
        ("POST", "/v1/check", "", 400, "EOF"),
        ("POST", "/v1/check", "{}", 400, "missing field `user`"),
        ("POST", "/v1/check", "{\"user\": \"u1\", \"colour\": 1}", 400, "unknown field `colour`"),
        ("POST", "/v1/check", "{\"user\": \"u1\", \"operation\": \"steal\"}", 400, "unknown variant `steal`"),
        ("POST", "/v1/check", "{\"user\": 1}", 400, "expected a string"),
        ("POST", "/v1/check", "{\"user\": \"u1\", \"user\": \"u2\"}", 400, "duplicate field `user`"),
        ("POST", "/v1/check", "{\"user\": \"a\nb\"}", 400, "control character"),
        ("POST", "/v1/check", "{\"user\": \"\"}", 400, "empty"),
        ("GET", "/v1/check", "", 405, "does not take GET"),
        ("DELETE", "/v1/status", "", 405, "does not take DELETE"),
        ("POST", "/readyz", "", 405, "does not take POST"),
        ("GET", "/", "", 404, "nothing at /"),
        ("GET", "/v1/nothing", "", 404, "nothing at /v1/nothing"),
        // Whoever reaches the port is no administrator.
        ("GET", "/v1/users", "", 404, "nothing at"),
        ("DELETE", "/v1/seats/u1", "", 404, "nothing at"),
        ("PUT", "/v1/seats/u1", "", 404, "nothing at"),
        ("POST", "/v1/directories/people/approve", "", 404, "nothing at"),
    ] {
        let answer = daemon.http().ask(method, path, body).unwrap();
        if status == 405 {
            assert!(answer.header("allow").is_some(), "{answer:?}");
        }
        let detail = answer.problem(status);
        assert!(detail.contains(part), "{method} {path} {body}: {detail}");
    }
    assert_eq!(daemon.seats_used(), 0);
}

#[test]
fn the_policy_listener_says_what_is_wrong_too() {
    let daemon = daemon();
    let policy = Address::parse(&format!("127.0.0.1:{}", daemon.port("dovecot_policy")));
    for (path, body, status) in [
        ("/?command=allow", "{\"user\": ", 400),
        ("/?command=allow", "{}", 400),
        ("/?command=steal", "{\"user\": \"u1\"}", 400),
        ("/v1/check", "{\"user\": \"u1\"}", 404),
    ] {
        policy.ask("POST", path, body).unwrap().problem(status);
    }
    policy.ask("GET", "/?command=allow", "").unwrap().problem(405);
    let answer = policy.ask("POST", "/?command=allow", "{\"user\": \"u1\", \"protocol\": \"imap\"}").unwrap();
    assert_eq!(answer.json()["status"], 0);
    let answer = policy.ask("POST", "/?command=allow", "{\"user\": \"x\\r\\na OK\"}").unwrap().json();
    assert_eq!(answer, serde_json::json!({ "status": -1, "msg": "There is no mail user by this name." }));
    assert_eq!(daemon.seats_used(), 1);
}

#[test]
fn bodies_and_heads_have_a_limit() {
    let daemon = daemon();
    let fits = "{\"user\": \"u1\"}".to_owned() + &" ".repeat(LIMIT - 14);
    assert_eq!(fits.len(), LIMIT);
    assert_eq!(ask_check(&daemon, &fits).status, 200);
    let problem = ask_check(&daemon, &(fits.clone() + " ")).problem(413);
    assert!(problem.contains("16384"), "{problem}");

    // Refused for its announced length, before it is sent.
    let mut client = daemon.client();
    client.send(b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n").unwrap();
    client.answer().unwrap().problem(413);
    // And when it is sent in pieces that announce nothing.
    let mut client = daemon.client();
    client.send(b"POST /v1/check HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("{LIMIT:x}\r\n{fits}\r\n1\r\n \r\n0\r\n\r\n");
    client.send(chunk.as_bytes()).unwrap();
    client.answer().unwrap().problem(413);

    let mut client = daemon.client();
    let long = "x".repeat(2 * LIMIT);
    // The server may have closed before all of it is sent.
    let _ = client.send(format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n").as_bytes());
    match client.answer() {
        Ok(answer) => assert_eq!(answer.status, 431),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    for garbage in
        ["\0\0\0\0\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"]
    {
        let mut client = daemon.client();
        client.send(garbage.as_bytes()).unwrap();
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 400, "{garbage:?}");
        assert!(client.is_closed());
    }
    assert_eq!(daemon.check("u1").0, "held");
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    let daemon = daemon();
    let users: Vec<String> = (0..10).chain(0..10).map(|number| format!("u{number}@example.org")).collect();
    let all: String = users.iter().map(|user| request("POST", "/v1/check", &check_body(user))).collect();
    let mut client = daemon.client();
    client.send(all.as_bytes()).unwrap();
    for (at, user) in users.iter().enumerate() {
        let answer = client.answer().unwrap().json();
        assert_eq!(answer["user"], *user, "answers come in the order of the questions");
        let expected = match at {
            0..5 => "granted",
            10..15 => "held",
            _ => "exhausted",
        };
        assert_eq!(answer["decision"], expected, "{user}");
    }
    assert_eq!(client.check("u0"), ("held".to_owned(), true));
}

#[test]
fn a_unix_socket_speaks_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let listeners = format!("[[listen.http]]\nbind = \"unix:{}\"\n", path.display());
    let daemon = Daemon::start(Settings { listeners, ..Settings::ldif(5, &people(0..10)) });
    // Mail servers have users of their own.
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    daemon.expect("u1", "granted");
    let mut client = daemon.client();
    assert_eq!(client.check("u1").0, "held");
    assert_eq!(client.ask("GET", "/readyz", "").unwrap().status, 200);
    client.ask("GET", "/v1/nothing", "").unwrap().problem(404);
}

#[test]
fn slow_clients_block_nobody() {
    let daemon = daemon();
    // Each stops somewhere else.
    let request = request("POST", "/v1/check", &check_body("u1"));
    let _slow: Vec<Client> = (0..request.len())
        .map(|sent| {
            let mut client = daemon.client();
            client.send(&request.as_bytes()[..sent]).unwrap();
            client
        })
        .collect();
    let mut client = daemon.client();
    for _ in 0..100 {
        assert!(client.check("u2").1);
    }
    assert_eq!(daemon.check("u3").0, "granted");
    assert_eq!(daemon.seats_used(), 2, "half a request takes no seat");
}

#[test]
fn further_clients_wait_until_a_connection_is_free() {
    let listeners = format!("{HTTP}max_connections = 2\n[[listen.dovecot_policy]]\nbind = \"127.0.0.1:0\"\n");
    let daemon = Daemon::start(Settings { listeners, ..Settings::ldif(5, &people(0..10)) });
    let Address::Tcp(bind) = daemon.http() else { panic!("a port") };
    let mut first = daemon.client();
    let mut second = daemon.client();
    assert_eq!((first.check("u1").0, second.check("u2").0), ("granted".to_owned(), "granted".to_owned()));
    assert_eq!(daemon.status()["listeners"][0]["connections"], 2);

    // The kernel takes the third connection; the daemon does not.
    let mut third = TcpStream::connect(&bind).unwrap();
    third.write_all(request("POST", "/v1/check", &check_body("u3")).as_bytes()).unwrap();
    for _ in 0..50 {
        assert_eq!(first.check("u1").0, "held");
        assert_eq!(second.check("u2").0, "held");
    }
    third.set_nonblocking(true).unwrap();
    assert_eq!(third.peek(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let status = daemon.status();
    assert_eq!((&status["listeners"][0]["connections"], &status["seats"]["used"]), (&2.into(), &2.into()));
    let full = "has 2 connections, which are its max_connections: more wait.";
    assert_eq!(daemon.log().matches(full).count(), 1, "{}", daemon.log());
    // The limit is this listener's own.
    let policy = Address::parse(&format!("127.0.0.1:{}", daemon.port("dovecot_policy")));
    let allowed = policy.ask("POST", "/?command=allow", "{\"user\": \"u1\"}").unwrap();
    assert_eq!(allowed.json()["status"], 0);

    drop(first);
    third.set_nonblocking(false).unwrap();
    third.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    assert!(third.peek(&mut [0]).unwrap() > 0, "served after one has closed");
    assert_eq!(daemon.seats_used(), 3);
    assert_eq!(second.check("u2").0, "held");
}
