//! Crashes: what was answered is on disk, and nothing else is there.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::daemon::{Daemon, Settings};
use crate::support::http::{Address, Client};
use crate::support::slapd::people;

const ROUNDS: u32 = 50;
const CLIENTS: u64 = 6;
const USERS: u32 = 2200;
/// Free seats at the beginning of a round. Some rounds use all of them, others are killed before.
const FREE: u64 = 30;

enum Answer {
    Granted(u32),
    Exhausted,
}

/// Asks for one new user after the other until the daemon is gone, or there is no seat.
fn hammer(address: &Address, next: &AtomicU32, answers: &Sender<Answer>) {
    // The first answers of the others may have led to the kill already.
    let Ok(mut client) = Client::connect(address) else { return };
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        assert!(number < USERS, "there are too few users");
        match client.try_check(&format!("u{number}")) {
            Ok((decision, true)) => {
                assert_eq!(decision, "granted");
                answers.send(Answer::Granted(number)).unwrap();
            }
            Ok((decision, false)) => {
                assert_eq!(decision, "exhausted");
                answers.send(Answer::Exhausted).unwrap();
                return;
            }
            Err(_) => return,
        }
    }
}

/// Kills the daemon after some answers: in the middle of the round, or when all seats are taken.
fn kill_after(daemon: &mut Daemon, count: u64, answers: &Receiver<Answer>) -> Vec<u32> {
    let mut granted = Vec::new();
    let mut exhausted = 0;
    while (granted.len() as u64) < count && exhausted < CLIENTS {
        match answers.recv_timeout(PATIENCE).unwrap() {
            Answer::Granted(number) => granted.push(number),
            Answer::Exhausted => exhausted += 1,
        }
    }
    // Anywhere in the next commits.
    thread::sleep(Duration::from_micros(fastrand::u64(0..3000)));
    daemon.kill9();
    granted
}

#[test]
fn fifty_crashes_while_seats_are_taken() {
    let mut settings = Settings::ldif(FREE, &people(0..USERS)).on_own_ports();
    let mut daemon = Daemon::start(settings.clone());
    let next = AtomicU32::new(0);
    let mut answered = 0;
    for round in 1..=u64::from(ROUNDS) {
        let (sender, answers) = channel();
        let address = daemon.http();
        let granted = thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let (sender, address, next) = (sender.clone(), &address, &next);
                scope.spawn(move || hammer(address, next, &sender));
            }
            drop(sender);
            // One round in three or so uses every seat.
            let mut granted = kill_after(&mut daemon, fastrand::u64(1..FREE + FREE / 2), &answers);
            // Answers that were on their way.
            granted.extend(answers.iter().filter_map(|answer| match answer {
                Answer::Granted(number) => Some(number),
                Answer::Exhausted => None,
            }));
            granted
        });
        assert!(!granted.is_empty());
        answered += granted.len() as u64;

        daemon.restart();
        let used = daemon.seats_used();
        assert!(used <= settings.seats, "round {round}: {used} seats of {} are taken", settings.seats);
        assert!(used >= answered, "round {round}: {answered} grants were answered, and {used} are there");
        // A grant that nobody heard of was one that somebody was waiting for.
        assert!(used <= answered + round * CLIENTS, "round {round}: {used} for {answered} answers");
        let mut client = daemon.client();
        for number in &granted {
            assert_eq!(client.check(&format!("u{number}")), ("held".to_owned(), true), "round {round}");
        }
        daemon.verify();
        settings.seats = used + FREE;
        daemon.configure(&settings);
        daemon.reload().unwrap();
    }
    assert_eq!(daemon.history("").len() as u64, daemon.seats_used(), "each is granted once");
}
