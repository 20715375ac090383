//! How soon a change in a directory is in the store, beside a consumer that only prints it, and what few
//! changes cost in a large directory, also after a restart.
//!
//! `cargo bench --bench follow`; `BENCH_USERS` (100,000) and `BENCH_CHANGES` (500) change its size.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use support::daemon::Daemon;
use support::suite::slapd::{Options, PEOPLE, Slapd, people};
use support::{Table, ldap_directory, percentile, setting};

/// A pause between two changes: longer than one takes, so that each is measured alone.
const PACE: Duration = Duration::from_millis(20);

/// Changes whose cost is counted.
const FEW: u64 = 10;

/// Longer than any change may take: it was lost then.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let users = setting("BENCH_USERS", 100_000);
    let changes = setting("BENCH_CHANGES", 500);
    println!("loading {users} users into slapd");
    let mut options = Options::provider(people(0..users));
    options.database.push_str("database monitor\naccess to * by * read\n");
    let slapd = Slapd::start(options);
    let mut daemon = Daemon::new();
    daemon.configure(&ldap_directory(&daemon, &slapd));
    daemon.start();
    daemon.wait_until_ready();
    wait_until_following(&mut daemon);

    let mut table = Table::new();
    let (stored, printed) = latencies(&mut daemon, &slapd, changes);
    let show = |times: &[Duration]| {
        let [half, most, all] = [50, 95, 100].map(|p| percentile(times, p).as_secs_f64() * 1000.0);
        format!("{half:.1}, {most:.1}, {all:.1} ms")
    };
    table.line("sent until in the store: p50, p95, longest", show(&stored), "p95 at most 100 ms");
    table.line("sent until a consumer printed it: the same", show(&printed), "");
    let ratio = percentile(&stored, 95).as_secs_f64() / percentile(&printed, 95).as_secs_f64();
    table.line("  of the consumer's p95", format!("{ratio:.2} ×"), "");

    let mut writer = Modify::start(&slapd);
    let followed = entries_sent(&slapd, || {
        few_changes(&mut daemon, &mut writer, "following");
    });
    table.line("entries sent for 10 changes, following", followed, "at most 20");
    let restarted = entries_sent(&slapd, || {
        daemon.stop();
        for number in 0..FEW {
            writer.change(number, &format!("stopped {number}"));
        }
        daemon.start();
        daemon.wait_until_ready();
        for number in 0..FEW {
            wait_for_name(&mut daemon, number, &format!("stopped {number}"));
        }
    });
    table.line("  while the daemon was down", restarted, "at most 20");
    table.print(&format!("{changes} changes in a directory of {users} users"));
    assert!(followed >= FEW && restarted >= FEW, "the server's counter does not count what is sent");
}

fn wait_until_following(daemon: &mut Daemon) {
    daemon.poll("the daemon to follow", |daemon| {
        (daemon.admin("/v1/status")["directories"][0]["state"] == "following").then_some(())
    });
}

/// How long each change took until the store had it, and until the consumer printed it; both sorted.
fn latencies(daemon: &mut Daemon, slapd: &Slapd, changes: u64) -> (Vec<Duration>, Vec<Duration>) {
    let consumer = Consumer::start(slapd);
    let mut writer = Modify::start(slapd);
    let (mut stored, mut printed) = (Vec::new(), Vec::new());
    for number in 0..changes {
        let name = format!("change {number}");
        let sent = Instant::now();
        writer.change(number, &name);
        wait_for_name(daemon, number, &name);
        stored.push(sent.elapsed());
        printed.push(consumer.wait_for(&name) - sent);
        thread::sleep(PACE);
    }
    stored.sort();
    printed.sort();
    (stored, printed)
}

fn few_changes(daemon: &mut Daemon, writer: &mut Modify, name: &str) {
    for number in 0..FEW {
        writer.change(number, &format!("{name} {number}"));
    }
    for number in 0..FEW {
        wait_for_name(daemon, number, &format!("{name} {number}"));
    }
}

/// Until the store shows a person under a name.
fn wait_for_name(daemon: &mut Daemon, number: u64, name: &str) {
    let mut client = daemon.control();
    let path = format!("/v1/users/u{number}@example.org");
    daemon.poll("a change", |_| (client.get(&path).unwrap()["display_name"] == name).then_some(()));
}

/// Entries that the server sent meanwhile, by its own count (slapd-monitor(5)).
fn entries_sent(slapd: &Slapd, work: impl FnOnce()) -> u64 {
    let count = || -> u64 {
        let text =
            slapd.search("cn=Entries,cn=Statistics,cn=Monitor", "(objectClass=*)", &["monitorCounter"]);
        text.lines().find_map(|line| line.strip_prefix("monitorCounter: ")).unwrap().parse().unwrap()
    };
    let before = count();
    work();
    // The first count is an entry, too, which was sent after it was made.
    count() - before - 1
}

/// ldapmodify(1), which makes each change as soon as it has read it.
struct Modify {
    process: Child,
    changes: ChildStdin,
}

impl Modify {
    fn start(slapd: &Slapd) -> Modify {
        let mut command = slapd.client("ldapmodify");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let changes = process.stdin.take().unwrap();
        Modify { process, changes }
    }

    fn change(&mut self, number: u64, name: &str) {
        let change = format!(
            "dn: uid=u{number},{PEOPLE}\nchangetype: modify\nreplace: displayName\ndisplayName: {name}\n\n"
        );
        self.changes.write_all(change.as_bytes()).unwrap();
    }
}

impl Drop for Modify {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// ldapsearch(1) in refreshAndPersist mode, which prints each change as it comes.
struct Consumer {
    process: Child,
    names: Receiver<(Instant, String)>,
}

impl Consumer {
    /// Returns when it has printed all that there is.
    fn start(slapd: &Slapd) -> Consumer {
        let mut command = slapd.client("ldapsearch");
        command.args(["-E", "!sync=rp", "-b", PEOPLE, "(objectClass=inetOrgPerson)", "displayName"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, names) = channel();
        thread::spawn(move || {
            let mut is_refreshed = false;
            for line in output.lines().map_while(Result::ok) {
                is_refreshed |=
                    line.contains("refresh done") || line.contains("switching to refreshAndPersist");
                let name = line.strip_prefix("displayName: ").map(str::to_owned);
                let is_first = std::mem::take(&mut is_refreshed);
                if let Some(line) = name.or(is_first.then(String::new))
                    && sender.send((Instant::now(), line)).is_err()
                {
                    break;
                }
            }
        });
        let consumer = Consumer { process, names };
        consumer.wait_for("");
        consumer
    }

    fn wait_for(&self, name: &str) -> Instant {
        loop {
            let (at, found) = self.names.recv_timeout(PATIENCE).unwrap();
            if found == name {
                return at;
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
