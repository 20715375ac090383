//! Hundreds of people log in at a real Dovecot at once, beside slow ones and those who never read: by the policy server
//! and by the Lua passdb.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::thread;

use crate::dovecot_logins::{Ports, Site, Way, with_password};
use crate::support::http::{Address, Client};
use crate::support::postfix::Smtp;

/// Each comes five times at once, and all of them at the same time.
const PEOPLE_COUNT: u32 = 100;
const CLIENTS: u32 = 500;

const EXHAUSTED: &str = "All mailbox licenses are in use. Please ask your mail administrator for one.";

/// Few processes that serve many clients each, as Dovecot's documentation recommends for logins: a process for everybody
/// would be most of the work. A time-out of the policy server would let in without a seat.
const SETTINGS: &str = "auth_policy_server_timeout_msecs = 30000
service imap-login {
  client_limit = 1000
  process_min_avail = 2
}
service pop3-login {
  client_limit = 1000
  process_min_avail = 2
}
service submission-login {
  client_limit = 1000
}
service imap {
  client_limit = 100
  process_limit = 20
  service_count = 0
}
service pop3 {
  client_limit = 100
  process_limit = 20
  service_count = 0
}
";

/// A person's mail program.
enum Person {
    Imap(Client),
    Pop3(Client),
    Submission(Smtp),
}

fn connect(port: u16) -> io::Result<Client> {
    let mut client = Client::connect(&Address::Tcp(format!("127.0.0.1:{port}")))?;
    client.line()?;
    Ok(client)
}

impl Person {
    fn connect(ports: Ports, number: u32) -> io::Result<Person> {
        Ok(match number % 10 {
            0 => Person::Submission(Smtp::connect(ports.submission).map_err(io::Error::other)?),
            1..5 => Person::Pop3(connect(ports.pop3)?),
            _ => Person::Imap(connect(ports.imap)?),
        })
    }

    /// What the person reads in the end.
    fn log_in(&mut self, user: u32) -> io::Result<String> {
        match self {
            Person::Imap(client) => {
                client.send(format!("a LOGIN u{user} secret-{user}\r\n").as_bytes())?;
                // Whoever waits is told so.
                let mut said = client.line()?;
                while said.starts_with("* OK ") {
                    said = client.line()?;
                }
                Ok(said)
            }
            Person::Pop3(client) => {
                client.send(format!("USER u{user}\r\n").as_bytes())?;
                client.line()?;
                client.send(format!("PASS secret-{user}\r\n").as_bytes())?;
                client.line()
            }
            Person::Submission(smtp) => Ok(smtp.auth_plain(&format!("u{user}"), &format!("secret-{user}"))),
        }
    }
}

fn is_welcome(said: &str) -> bool {
    ["a OK ", "+OK ", "235 2.7.0 "].iter().any(|welcome| said.starts_with(welcome))
}

/// All connect, then all log in, and none leaves before the last is in: what each of them read.
fn storm(ports: Ports) -> Vec<String> {
    let start = Barrier::new(CLIENTS as usize);
    let come = |number| {
        let person = Person::connect(ports, number);
        start.wait();
        let mut person = person?;
        let said = person.log_in(1 + number % PEOPLE_COUNT)?;
        io::Result::Ok((person, said))
    };
    let come = &come;
    let clients: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || come(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let read = |(number, client): (usize, &io::Result<(Person, String)>)| match client {
        Ok((_, said)) => said.clone(),
        Err(error) => format!("client {number}: {error}"),
    };
    clients.iter().enumerate().map(read).collect()
}

/// Asks without end after a login, and reads nothing.
fn never_reads(port: u16, login: &str, question: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(login.as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let many = question.repeat(1000);
    for _ in 0..100 {
        if stream.write(many.as_bytes()).is_err() {
            break;
        }
    }
    stream
}

fn check(way: Way) {
    let data: String = (1..PEOPLE_COUNT + 2).map(with_password).collect();
    let site = Site::start(way, PEOPLE_COUNT.into(), data, SETTINGS);
    let ports = site.ports;
    let mut slow_imap = connect(ports.imap).unwrap();
    slow_imap.send(b"a LOGIN u1 sec").unwrap();
    let mut slow_pop3 = connect(ports.pop3).unwrap();
    slow_pop3.send(b"USER u2\r\nPASS s").unwrap();
    let rude = [
        never_reads(ports.imap, "a LOGIN u3 secret-3\r\n", "a CAPABILITY\r\n"),
        never_reads(ports.imap, "", "a LOGIN u101 wrong\r\n"),
        never_reads(ports.pop3, "USER u4\r\nPASS secret-4\r\n", "CAPA\r\n"),
    ];

    // Everybody's first login, and then holders.
    for _ in 0..2 {
        let said = storm(ports);
        let refused: BTreeSet<&String> = said.iter().filter(|said| !is_welcome(said)).collect();
        assert!(refused.is_empty(), "{refused:?}\n{}\n{}", site.dovecot.log(), site.daemon.log());
        assert_eq!(site.daemon.seats_used(), u64::from(PEOPLE_COUNT));
    }
    let mut last = Person::connect(ports, 9).unwrap();
    let said = last.log_in(PEOPLE_COUNT + 1).unwrap();
    assert!(said.ends_with(EXHAUSTED), "{said}");

    // The slow ones are still welcome, byte by byte.
    assert!(slow_pop3.line().unwrap().starts_with("+OK"));
    for byte in b"ret-1\r\n" {
        slow_imap.send(&[*byte]).unwrap();
    }
    for byte in b"ecret-2\r\n" {
        slow_pop3.send(&[*byte]).unwrap();
    }
    for client in [&mut slow_imap, &mut slow_pop3] {
        let said = client.line().unwrap();
        assert!(is_welcome(&said), "{said}");
    }
    drop(rude);
    // One seat each, and each by a login.
    let history = site.daemon.history("");
    assert_eq!(history.len(), PEOPLE_COUNT as usize);
    let users: BTreeSet<String> = history.iter().map(|line| line["user"].to_string()).collect();
    assert_eq!(users.len(), PEOPLE_COUNT as usize);
    site.daemon.verify();
}

#[test]
fn five_hundred_people_log_in_by_the_policy_server() {
    check(Way::Policy);
}

#[test]
fn five_hundred_people_log_in_by_the_lua_passdb() {
    check(Way::Lua);
}
