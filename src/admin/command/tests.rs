//! The commands against a served API, on a real socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use clap::Parser;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::fixture::Fixture;
use super::*;
use crate::cli::{Cli, Command};
use crate::config::Bind;
use crate::net::http::connection;
use crate::net::serve::serve;
use crate::net::socket::Socket;

struct Daemon {
    fixture: Fixture,
    socket: PathBuf,
    _stop: DropGuard,
    _limit: watch::Sender<usize>,
}

async fn daemon() -> Daemon {
    let fixture = Fixture::new(4).await;
    let socket = fixture.folder.path().join("control.sock");
    let listener = Socket::bind(&Bind::Unix(socket.clone()), 0o660).await.unwrap();
    let (sender, limit) = watch::channel(4);
    let stop = CancellationToken::new();
    let router = fixture.router();
    let token = stop.clone();
    tokio::spawn(async move {
        let connections = Arc::new(AtomicUsize::new(0));
        serve(listener, connections, limit, token, move |stream, stop| {
            connection(stream, router.clone(), stop, false)
        })
        .await;
    });
    Daemon { fixture, socket, _stop: stop.drop_guard(), _limit: sender }
}

/// What a command wrote, and how it ended.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    exit: Exit,
    out: String,
    err: String,
}

async fn run_at(socket: &Path, line: &str) -> Outcome {
    let cli = Cli::try_parse_from(["seatkeeper"].into_iter().chain(line.split(' '))).unwrap();
    let Command::Client(command) = cli.command else { panic!("{line} asks no daemon") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = run(&command, socket, cli.json, &mut out, &mut err, false).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { exit, out: text(out), err: text(err) }
}

impl Daemon {
    async fn run(&self, line: &str) -> Outcome {
        run_at(&self.socket, line).await
    }
}

#[track_caller]
fn check_text(outcome: &Outcome, exit: Exit, out: &str, err: &str) {
    let expected = Outcome { exit, out: out.to_owned(), err: err.to_owned() };
    assert_eq!(*outcome, expected);
}

const FULL: &str = "2 of 2 seats are used. Release some (`seatkeeper users --seated --sort last-login` shows who is \
                    longest away), or install a license with more.";

#[tokio::test]
async fn seats_change_one_by_one() {
    let daemon = daemon().await;
    let outcome = daemon.run("seats grant u1 u9 u2 u4 u2").await;
    check_text(
        &outcome,
        Exit::Failed,
        "u1@example.org: A seat was granted. (1 seat in use)\n\
         u2@example.org: A seat was granted. (2 seats in use)\n\
         u2@example.org: A seat is held. (2 seats in use)\n",
        &format!(
            "seatkeeper: there is no user u9@example.org\n\
             seatkeeper: u4@example.org gets no seat (exhausted): {FULL}\n"
        ),
    );
    let outcome = daemon.run("seats release u1 u1").await;
    check_text(
        &outcome,
        Exit::Done,
        "u1@example.org: The seat was released. (1 seat in use)\n\
         u1@example.org: This user holds no seat. (1 seat in use)\n",
        "",
    );
    let outcome = daemon.run("seats history --limit 1").await;
    assert!(outcome.out.contains("released  u1@example.org  administrator"), "{}", outcome.out);
    assert_eq!(daemon.run("seats history u2").await.out.lines().count(), 2);
}

#[tokio::test]
async fn json_is_a_document_a_line() {
    let daemon = daemon().await;
    let outcome = daemon.run("seats grant u1 u9 --json").await;
    assert_eq!((outcome.exit, outcome.err.as_str()), (Exit::Failed, ""));
    let lines: Vec<serde_json::Value> =
        outcome.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["outcome"], &lines[1]["status"]), (&"granted".into(), &404.into()));
    for command in
        ["status", "users --seated", "explain u1", "seats history", "verify", "sync", "sync corp --wait"]
    {
        let outcome = daemon.run(&format!("{command} --json")).await;
        assert_eq!((outcome.exit, outcome.err.as_str()), (Exit::Done, ""), "{command}");
        assert!(outcome.out.ends_with("}\n") && outcome.out.lines().count() == 1, "{command}");
        serde_json::from_str::<serde_json::Value>(&outcome.out).unwrap();
    }
}

#[tokio::test]
async fn people_get_pages() {
    let daemon = daemon().await;
    let status = daemon.run("status").await;
    assert!(status.out.contains("Seats    0 used of 2, 2 free\n"), "{}", status.out);
    let users = daemon.run("users --domain example.org --inactive 180d").await;
    check_text(&users, Exit::Done, "no users\n", "");
    let users = daemon.run("users --unseated --sort last-login").await;
    assert_eq!(users.out.lines().count(), 5, "{}", users.out);
    assert!(
        users.out.contains("u3@example.org  User 3  corp       -     never       disabled\n"),
        "{}",
        users.out
    );
    let explained = daemon.run("explain U1").await;
    assert!(explained.out.starts_with("u1@example.org (User 1)\n"), "{}", explained.out);
    let nobody = daemon.run("explain u9").await;
    check_text(&nobody, Exit::Failed, "", "seatkeeper: there is no user u9@example.org\n");
    check_text(&daemon.run("verify").await, Exit::Done, "all invariants hold\n", "");
}

#[tokio::test]
async fn syncs_are_started_waited_for_and_approved() {
    let daemon = daemon().await;
    daemon.fixture.add_loop("broken");
    daemon.fixture.add_loop("held");
    let outcome = daemon.run("sync").await;
    check_text(&outcome, Exit::Done, "broken: started\ncorp: started\nheld: started\n", "");
    let outcome = daemon.run("sync --wait --full").await;
    let held = "held: synced, except for what the brake holds back\n  5 entries read: 1 added\n  the brake holds back 9 \
                removals of 9 users (the directory showed nobody at all); if that is right: seatkeeper sync \
                approve held\n";
    let out = format!("corp: synced\n  5 entries read: 1 added\n{held}");
    check_text(&outcome, Exit::Failed, &out, "seatkeeper: the server refused the password\n");
    let outcome = daemon.run("sync held --dry-run").await;
    assert_eq!(outcome.exit, Exit::Done);
    assert!(outcome.out.contains("the brake would hold back 9 removals"), "{}", outcome.out);
    check_text(&daemon.run("sync approve corp").await, Exit::Done, "corp: started\n", "");
    let outcome = daemon.run("sync approve corp --wait").await;
    check_text(&outcome, Exit::Done, "corp: synced\n  5 entries read: 1 added\n", "");
    let outcome = daemon.run("sync lab --dry-run").await;
    assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::Failed, ""));
    let err = "seatkeeper: there is no directory \"lab\" in the configuration";
    assert!(outcome.err.starts_with(err) && outcome.err.contains("at a reload"), "{}", outcome.err);
}

#[tokio::test]
async fn without_a_daemon_the_exit_code_says_so() {
    let outcome = run_at(Path::new("/nonexistent/control.sock"), "status").await;
    let err = "seatkeeper: cannot reach the daemon at /nonexistent/control.sock: No such file or directory (os \
               error 2); is it running?\n";
    check_text(&outcome, Exit::Unreachable, "", err);
}

/// A pipe whose reader is gone, or a full disk.
struct Deaf(io::ErrorKind);

impl Write for Deaf {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let daemon = daemon().await;
    for (kind, exit) in [(io::ErrorKind::BrokenPipe, Exit::Done), (io::ErrorKind::StorageFull, Exit::Failed)]
    {
        let mut err = Vec::new();
        let status = ClientCommand::Status;
        assert_eq!(run(&status, &daemon.socket, false, &mut Deaf(kind), &mut err, false).await, exit);
        assert_eq!(err.is_empty(), exit == Exit::Done);
    }
}

#[test]
fn filters_become_a_query() {
    assert_eq!(users_path(&UsersArgs::default()), "/v1/users?sort=name");
    let args = UsersArgs {
        unseated: true,
        inactive: Some(Duration::from_secs(86_400)),
        domain: Some("a&b".to_owned()),
        ..UsersArgs::default()
    };
    assert_eq!(users_path(&args), "/v1/users?sort=name&seated=false&inactive=86400s&domain=a%26b");
}
