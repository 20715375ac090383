//! Backups, and stores that are missing or damaged.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::daemon::{Daemon, SEATKEEPER, Settings};
use crate::support::disk::SmallDisk;
use crate::support::slapd::{people, wait_until_stopped};
use crate::support::wait_for;

/// The exit code, and all that was printed.
fn outcome(output: &Output) -> (Option<i32>, String) {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[track_caller]
fn check(output: &Output, code: i32, said: &str) -> String {
    let (found, text) = outcome(output);
    assert_eq!(found, Some(code), "{text}");
    assert!(text.contains(said), "{text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn settings() -> Settings {
    Settings::ldif(5, &people(0..20))
}

/// A command that a test stops, goes on with or ends.
struct Running(Child);

impl Running {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Running {
        let mut command = Command::new(SEATKEEPER);
        command.arg("--config").arg(daemon.config()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    #[track_caller]
    fn end(&mut self) -> Option<i32> {
        wait_for("the command to end", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command that might wait for ever, which is exit code 124 then.
fn bounded(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", SEATKEEPER, "--config"]).arg(daemon.config()).args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

/// The names in a folder that contain this, sorted.
fn names_with(folder: &Path, part: &str) -> Vec<String> {
    let found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = found.filter(|name| name.contains(part)).collect();
    names.sort_unstable();
    names
}

/// A daemon with two holders, stopped, and a backup of its store.
fn backed_up() -> (Daemon, PathBuf) {
    let mut daemon = Daemon::start(settings());
    daemon.expect("u1", "granted");
    daemon.expect("u2", "granted");
    let file = daemon.path("x.backup");
    check(&daemon.command(&["backup", text(&file)]), 0, "20 users and 2 seats");
    daemon.terminate();
    (daemon, file)
}

#[test]
fn a_backup_is_restored_on_another_machine() {
    let daemon = Daemon::start(settings());
    daemon.expect("u1", "granted");
    check(&daemon.command(&["account", "add", "local@example.org"]), 0, "local@example.org");
    let file = daemon.path("x.backup");
    check(&daemon.command(&["backup", text(&file)]), 0, "21 users and 2 seats");
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it holds hashes of passwords");
    daemon.expect("u2", "granted");
    let history = daemon.history("u1");

    let mut other = Daemon::prepare(&settings());
    let done = check(&other.command(&["--json", "restore", text(&file)]), 0, "");
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(
        (&done["backup"]["seats"], &done["replaced"], &done["findings"][0]),
        (&2.into(), &Value::Null, &Value::Null)
    );
    other.restart();
    other.expect("u1", "held");
    other.expect("local", "held");
    assert_eq!(other.seats_used(), 2, "u2 came later");
    assert_eq!(other.history("u1"), history);
    other.verify();

    // Not over a store, and not over one in use.
    check(&other.command(&["restore", "--replace", text(&file)]), 1, "the daemon runs");
    check(&other.command(&["store", "new"]), 1, "the daemon runs");
    other.expect("u3", "granted");
    other.terminate();
    let said =
        check(&other.command(&["restore", "--replace", text(&file)]), 0, "The store that was there is");
    other.restart();
    assert_eq!(other.seats_used(), 2, "{said}");
    other.terminate();
    // However soon it is done again: an older one is never replaced.
    let mut names = 1;
    for _ in 0..3 {
        names += usize::from(other.command(&["restore", "--replace", text(&file)]).status.success());
    }
    let kept = fs::read_dir(other.path("state")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = kept.filter(|path| text(path).contains(".replaced-")).collect();
    assert_eq!(kept.len(), names);
    check(&other.command(&["verify", "--store", text(&kept[0])]), 0, "all invariants hold");
}

#[test]
fn a_damaged_backup_is_refused_and_the_store_stays() {
    let (daemon, file) = backed_up();
    let store = daemon.path("state/seatkeeper.redb");
    let before = fs::read(&store).unwrap();
    let good = fs::read(&file).unwrap();
    check(&daemon.command(&["verify", "--store", text(&file)]), 0, "all invariants hold");
    let bad = daemon.path("bad.backup");
    let try_bytes = |bytes: &[u8], said: &str| {
        fs::write(&bad, bytes).unwrap();
        check(&daemon.command(&["restore", "--replace", text(&bad)]), 1, said);
        assert_eq!(fs::read(&store).unwrap(), before, "{said}");
    };
    try_bytes(&good[..good.len() / 2], "its checksum is wrong");
    try_bytes(&good[..30], "cut short");
    try_bytes(b"", "no backup of seatkeeper");
    try_bytes(&before, "no backup of seatkeeper");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    try_bytes(&flipped, "its checksum is wrong");
    check(&daemon.command(&["verify", "--store", text(&bad)]), 1, "its checksum is wrong");
    check(&daemon.command(&["restore", "--replace", "/nonexistent"]), 1, "No such file");
    // A backup goes over a backup, and over nothing else.
    check(&daemon.command(&["backup", text(&store)]), 1, "another file already");
    check(&daemon.command(&["backup", "-"]), 1, "name a file");
}

#[test]
fn only_one_restore_runs_and_no_daemon_beside_it() {
    let daemon = Daemon::start(Settings::ldif(5, &people(0..2000)));
    daemon.expect("u1", "granted");
    let file = daemon.path("x.backup");
    check(&daemon.command(&["backup", text(&file)]), 0, "2000 users and 1 seats");

    // Nothing is there yet.
    let mut other = Daemon::prepare(&settings());
    let mut restore = Running::start(&other, &["restore", text(&file)]);
    let unfinished = other.path("state/seatkeeper.redb.restoring");
    wait_for("the restore to begin", || unfinished.exists().then_some(()));
    restore.signal(Signal::STOP);
    wait_until_stopped(&restore.0);
    assert!(unfinished.exists(), "it is in the middle");
    check(&other.command(&["restore", text(&file)]), 1, "is in use");
    check(&other.command(&["store", "new"]), 1, "is in use");
    let (status, said) = other.start_in_vain();
    assert!(status.code() == Some(1) && said.contains("is in use"), "{status}: {said}");
    restore.signal(Signal::CONT);
    assert_eq!(restore.end(), Some(0));
    other.restart();
    other.expect("u1", "held");
}

#[test]
fn a_store_behind_a_symbolic_link_is_replaced_where_it_is() {
    let (mut daemon, file) = backed_up();
    let (link, disk) = (daemon.path("state/seatkeeper.redb"), daemon.path("disk"));
    fs::create_dir(&disk).unwrap();
    fs::rename(&link, disk.join("store")).unwrap();
    symlink("../disk/store", &link).unwrap();
    check(&daemon.command(&["restore", "--replace", text(&file)]), 0, "The store that was there is");
    assert!(link.is_symlink());
    assert_eq!(names_with(&disk, "store.replaced-").len(), 1, "beside the new one");
    daemon.restart();
    daemon.expect("u1", "held");
    daemon.terminate();

    // A link that leads to no file is as good as no store; one that leads nowhere is a mistake.
    fs::remove_file(disk.join("store")).unwrap();
    check(&daemon.command(&["restore", text(&file)]), 0, "20 users and 2 seats");
    assert!(link.is_symlink());
    fs::remove_dir_all(daemon.path("state")).unwrap();
    symlink("nowhere", daemon.path("state")).unwrap();
    let said = check(&daemon.command(&["restore", text(&file)]), 1, "is a symbolic link to nowhere");
    let (_, log) = daemon.start_in_vain();
    assert!(log.contains("is a symbolic link to nowhere"), "{said}{log}");
}

#[test]
fn a_backup_is_written_to_no_file_that_is_there() {
    let daemon = Daemon::start(settings());
    let file = daemon.path("x.backup");
    let configuration = fs::read(daemon.config()).unwrap();
    symlink(daemon.config(), daemon.path("x.backup.partial")).unwrap();
    check(&daemon.command(&["backup", text(&file)]), 0, "0 seats");
    assert!(fs::read(daemon.config()).unwrap() == configuration, "it was written over");
    assert!(!file.is_symlink() && daemon.path("x.backup.partial").is_symlink());

    // The mode of another file is not taken over.
    let (open, other) = (daemon.path("y.backup.partial"), daemon.path("y.backup"));
    fs::write(&open, "precious").unwrap();
    fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    check(&daemon.command(&["backup", text(&other)]), 0, "0 seats");
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&open).unwrap(), b"precious");
}

#[test]
fn a_backup_that_is_cut_off_leaves_nothing_in_the_way() {
    let daemon = Daemon::start(settings());
    let (folder, file) = (daemon.path("copies"), daemon.path("copies/x.backup"));
    fs::create_dir(&folder).unwrap();
    let begin = || {
        daemon.stop();
        let backup = Running::start(&daemon, &["backup", text(&file)]);
        wait_for("the backup to begin", || (!names_with(&folder, "").is_empty()).then_some(()));
        backup
    };
    for signal in [Signal::INT, Signal::TERM] {
        let mut backup = begin();
        backup.signal(signal);
        assert_eq!(backup.end(), Some(1), "{signal:?}");
        assert!(names_with(&folder, "").is_empty(), "{signal:?}: {:?}", names_with(&folder, ""));
        daemon.resume();
    }
    let mut backup = begin();
    backup.signal(Signal::KILL);
    backup.end();
    daemon.resume();
    check(&daemon.command(&["backup", text(&file)]), 0, "0 seats");
    check(&daemon.command(&["verify", "--store", text(&file)]), 0, "all invariants hold");
}

#[test]
fn a_backup_to_a_full_disk_leaves_the_older_one() {
    let daemon = Daemon::start(settings());
    let mut disk = SmallDisk::new();
    disk.mount(&daemon.path("disk"), 1);
    let file = daemon.path("disk/x.backup");
    let back_up = || {
        let mut words = disk.wrapper().into_iter();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(SEATKEEPER).arg("--config").arg(daemon.config());
        command.arg("backup").arg(&file).stdin(Stdio::null()).output().unwrap()
    };
    check(&back_up(), 0, "0 seats");
    let before = fs::read(disk.path("x.backup")).unwrap();
    disk.fill();
    let said = check(&back_up(), 1, "No space left on device");
    assert!(said.contains(text(&file)), "{said}");
    assert!(fs::read(disk.path("x.backup")).unwrap() == before, "it is not the older one");
    assert_eq!(names_with(&disk.path(""), ""), ["full", "x.backup"]);
}

#[test]
fn only_a_file_is_a_store_or_a_backup() {
    let (mut daemon, file) = backed_up();
    // Nobody writes to it, so whoever opens it waits.
    let pipe = daemon.path("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    for other in [text(&pipe), "/dev/null", text(&daemon.path("state"))] {
        check(&bounded(&daemon, &["restore", "--replace", other]), 1, "not a regular file");
        check(&bounded(&daemon, &["verify", "--store", other]), 1, "not a regular file");
    }
    let empty = daemon.path("empty");
    fs::write(&empty, "").unwrap();
    let said = check(&daemon.command(&["verify", "--store", text(&empty)]), 1, "the file is empty");
    assert!(!said.contains("all invariants hold"), "{said}");

    daemon.restart();
    for other in [text(&pipe), "/dev/null", "/dev/stdout", text(&daemon.path("state"))] {
        check(&bounded(&daemon, &["backup", other]), 1, "not a regular file");
    }
    assert!(names_with(Path::new("/dev"), ".partial").is_empty());
    check(&daemon.command(&["backup", text(&file)]), 0, "2 seats");
}

#[test]
fn a_file_of_another_user_is_not_said_to_be_misplaced() {
    let (daemon, file) = backed_up();
    let store = daemon.path("state/seatkeeper.redb");
    for path in [&file, &store] {
        chown(path, Some(65_534), Some(65_534)).unwrap();
        // Root as any other user.
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-dac_override,-dac_read_search", SEATKEEPER, "verify", "--store"]);
        let said = check(&command.arg(path).stdin(Stdio::null()).output().unwrap(), 1, "permission denied");
        assert!(said.contains("run this as root, or as the user") && !said.contains("belong"), "{said}");
    }
}

#[test]
fn a_store_that_is_missing_is_no_first_start() {
    let (mut daemon, file) = backed_up();
    let store = daemon.path("state/seatkeeper.redb");
    // As when its disk is not mounted.
    fs::remove_dir_all(daemon.path("state")).unwrap();
    let vain = |daemon: &mut Daemon| {
        let (status, said) = daemon.start_in_vain();
        assert_eq!(status.code(), Some(78), "{said}");
        assert!(
            said.contains("is missing or empty, and was there before") && said.contains(" ERROR "),
            "{said}"
        );
        assert!(said.contains("seatkeeper store new"), "{said}");
    };
    vain(&mut daemon);
    fs::write(&store, "").unwrap();
    vain(&mut daemon);
    check(&daemon.command(&["restore", text(&file)]), 0, "20 users and 2 seats");
    daemon.restart();
    daemon.expect("u1", "held");
    check(&daemon.command(&["store", "new"]), 1, "the daemon runs");
    daemon.terminate();
    check(&daemon.command(&["store", "new"]), 1, "there is a store");
    fs::remove_file(&store).unwrap();
    vain(&mut daemon);
    check(&daemon.command(&["store", "new"]), 0, "an empty store");
    daemon.restart();
    daemon.wait_for("the directory", |status| status["ready"] == true);
    assert_eq!(daemon.seats_used(), 0);
}

#[test]
fn a_damaged_store_is_refused_with_advice() {
    let (mut daemon, _) = backed_up();
    let store = daemon.path("state/seatkeeper.redb");
    check(&daemon.command(&["verify", "--store", text(&store)]), 0, "all invariants hold");
    let good = fs::read(&store).unwrap();
    // Every kind of page is hit.
    let mut bad = good.clone();
    for page in bad.chunks_mut(4096).skip(1) {
        page[100] ^= 0xff;
    }
    fs::write(&store, &bad).unwrap();
    let said = check(&daemon.command(&["verify", "--store", text(&store)]), 1, "damaged");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(fs::read(&store).unwrap(), bad, "it is only read");
    let (status, said) = daemon.start_in_vain();
    assert_eq!(status.code(), Some(78), "{said}");
    assert!(said.contains("restore FILE"), "{said}");
    fs::write(&store, &good).unwrap();
    daemon.restart();
    daemon.expect("u1", "held");
    check(&daemon.command(&["verify", "--store", text(&store)]), 1, "in use");
}

#[test]
fn backups_are_made_by_themselves() {
    let mut settings = settings();
    settings.tables += "[backup]\nfolder = \"copies\"\nkeep = 2\n";
    let mut daemon = Daemon::start(settings.clone());
    let status = daemon.wait_for("the first backup", |status| !status["backup"]["latest"].is_null());
    assert_eq!(status["backup"]["kept"], 1, "{status}");
    let copies = daemon.path("copies");
    let first = names_with(&copies, "").remove(0);
    check(&daemon.command(&["verify", "--store", text(&copies.join(&first))]), 0, "all invariants");
    daemon.terminate();

    // Those of other nights, of which only one stays, and what was cut off; other files are nobody's business.
    fs::rename(copies.join(&first), copies.join("seatkeeper-20200103T010000Z.backup")).unwrap();
    for name in ["seatkeeper-20200101T010000Z.backup", "seatkeeper-20200102T010000Z.backup", "notes.txt"] {
        fs::write(copies.join(name), "").unwrap();
    }
    fs::write(copies.join("seatkeeper-20200104T010000Z.partial"), "").unwrap();
    daemon.restart();
    daemon.wait_for("another backup", |status| status["backup"]["kept"] == 2);
    let found = names_with(&copies, "");
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!((found[0].as_str(), found[1].as_str()), ("notes.txt", "seatkeeper-20200103T010000Z.backup"));

    // A folder that cannot be made.
    settings.tables = settings.tables.replace("\"copies\"", "\"copies/notes.txt/below\"");
    daemon.configure(&settings);
    daemon.reload().unwrap();
    daemon.wait_for_log(&[" ERROR ", "There is no backup of this night", "Not a directory"]);
    let page = String::from_utf8(daemon.command(&["status"]).stdout).unwrap();
    assert!(page.contains("Backup   FAILED: "), "{page}");
}

/// As after a clock that was ahead.
#[test]
fn backups_dated_later_than_now_cost_no_other() {
    let mut settings = settings();
    settings.tables += "[backup]\nfolder = \"copies\"\nkeep = 2\n";
    let mut daemon = Daemon::prepare(&settings);
    let copies = daemon.path("copies");
    // A folder with such a name is not a backup either.
    fs::create_dir_all(copies.join("seatkeeper-20010101T000000Z.backup")).unwrap();
    let later = ["2097", "2098", "2099"].map(|year| format!("seatkeeper-{year}0101T000000Z.backup"));
    for name in &later {
        fs::write(copies.join(name), "").unwrap();
    }
    daemon.restart();
    let status = daemon.wait_for("the backup", |status| !status["backup"]["latest"].is_null());
    assert_eq!((&status["backup"]["kept"], &status["backup"]["problem"]), (&1.into(), &Value::Null));
    daemon.wait_for_log(&[" WARN ", "dated later than now", later[0].as_str()]);
    let found = names_with(&copies, ".backup");
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(later.iter().all(|name| found.contains(name)), "{found:?}");
    check(&daemon.command(&["verify", "--store", text(&copies.join(&found[1]))]), 0, "all invariants");
}
