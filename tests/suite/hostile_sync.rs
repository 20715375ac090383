//! Synchronization with a server that misbehaves: nobody is removed by it, the cookie does not move past
//! it, the daemon goes on, and says what was wrong.

use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, Settings, directory};
use crate::support::fake_ldap::{
    Entry, FakeLdap, Kind, Message, Step, When, added, ber, dirsync_done, dirsync_done_with, done,
    done_saying, id, id_set, new_cookie, notice_of_disconnection, person, reference, refresh_delete,
    refresh_present, sync_done, sync_info, sync_state, told, tombstone, with_state,
};
use crate::support::wait_for;

/// How long a server may be silent here.
const SILENCE: &str = "[directory.ldap.timeouts]\nread = \"1s\"\nconnect = \"2s\"\n";

/// A cookie past what a misbehaving server told.
const PAST: &[u8] = b"rid=000,csn=past";

/// A daemon that has mapped everybody.
fn daemon(fake: &FakeLdap, keys: &str) -> Daemon {
    let tables = fake.directory(&format!("poll_every = \"1h\"\n{keys}"));
    Daemon::start(Settings { seats: 10, tables, ..Settings::default() })
}

/// The log's lines of failed syncs.
fn failures(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    // The last one may not be written to its end.
    let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
    whole.lines().filter(|line| line.contains("event=sync_failed")).map(str::to_owned).collect()
}

/// How often it was said that everything is read again.
fn reloads(daemon: &Daemon) -> usize {
    daemon.log().matches("has to be read from the beginning").count()
}

/// The cookie of the last synchronization that was asked for.
fn last_cookie(fake: &FakeLdap) -> Option<Vec<u8>> {
    fake.asked(When::Sync).last().expect("it synchronized").sync_cookie()
}

#[track_caller]
fn nobody_is_gone(daemon: &Daemon, fake: &FakeLdap, case: &str) {
    let users = daemon.status()["users"].clone();
    assert_eq!((&users["total"], &users["tombstoned"]), (&fake.people().len().into(), &0.into()), "{case}");
}

fn say(messages: Vec<Message>) -> Vec<Step> {
    messages.into_iter().map(Step::Say).collect()
}

/// What a server does, and a part of what is said of it.
type Case = (&'static str, Vec<Step>, &'static str);

/// Messages that are no part of a synchronization, wherever they come.
fn malformed(entry: &Entry) -> Vec<Case> {
    let state = sync_state(2, &entry.id, Some(PAST));
    let wrong_length = [&[0x30, state[1] + 9], &state[2..]].concat();
    let case = |name, message, part| (name, vec![Step::Say(message)], part);
    let ids: &[&[u8]] = &[&entry.id, &[1; 15]];
    let truncated_set = [&[0xa3, 0x14, 0x31, 0x12, 4, 17][..], &entry.id].concat();
    vec![
        case("no state", entry.message(), "an entry has no sync state control"),
        case("empty state", with_state(entry, b""), "truncated"),
        case("truncated state", with_state(entry, &state[..9]), "truncated"),
        case("a length that is wrong", with_state(entry, &wrong_length), "truncated"),
        case("a length of 4 GB", with_state(entry, b"\x30\x84\xff\xff\xff\xff\x0a\x01\x01"), "truncated"),
        case("deep nesting", with_state(entry, &[0x30, 0x80].repeat(10_000)), "invalid length"),
        case("unknown state", with_state(entry, &sync_state(7, &entry.id, None)), "state is unknown"),
        case("no id", with_state(entry, &sync_state(1, b"", None)), "16 bytes"),
        case("a short id", with_state(entry, &sync_state(3, &[7; 15], None)), "16 bytes"),
        case("a long id", with_state(entry, &sync_state(1, &[7; 17], None)), "16 bytes"),
        case("an endless cookie", told(entry, 2, Some(&vec![b'c'; 1 << 20])), "cookie is too long"),
        case("an unknown message", sync_info(&ber(0x84, &[PAST])), "unknown kind"),
        case("an empty message", sync_info(b""), "empty"),
        case("a truncated message", sync_info(&[0xa2, 9, 4, 1]), "truncated"),
        case("a truncated set", sync_info(&truncated_set), "truncated"),
        case("a set with a short id", id_set(Some(PAST), true, ids), "16 bytes"),
        case("too many ids", sync_info(&too_many_ids()), "too large"),
        case("an endless new cookie", new_cookie(&vec![b'c'; 1 << 20]), "cookie is too long"),
        case("no value", Message::new(ber(0x79, &[&ber(0x80, &[b"1.3.6.1.4.1.4203.1.9.1.4"])])), "no value"),
    ]
}

fn too_many_ids() -> Vec<u8> {
    let id = ber(4, &[&[9; 16]]);
    ber(0xa3, &[&[1, 1, 0xff], &ber(0x31, &[&id.repeat(70_000)])])
}

/// What ends a search or the connection, wherever it comes.
fn ends() -> Vec<Case> {
    let case = |name, step, part| (name, vec![step], part);
    vec![
        case("success", Step::Say(done(0)), "ended a search that was to stay open"),
        case("success with a cookie", Step::Say(sync_done(0, Some(PAST), true)), "was to stay open"),
        case(
            "success with a broken control",
            Step::Say(done(0).with("1.3.6.1.4.1.4203.1.9.1.3", b"\x30\x09")),
            "stay open",
        ),
        case("operationsError", Step::Say(done(1)), "result 1 (operationsError)"),
        case("sizeLimitExceeded", Step::Say(done(4)), "lift its size limits"),
        case("timeLimitExceeded", Step::Say(done(3)), "time limit"),
        case("referral", Step::Say(done(10)), "refers to"),
        case("unavailableCriticalExtension", Step::Say(done(12)), "result 12 (unavailableCriticalExtension)"),
        case("noSuchObject", Step::Say(done(32)), "does not exist, or the bind user may not see it"),
        case(
            "insufficientAccessRights",
            Step::Say(done_saying(50, "go away")),
            "result 50 (insufficientAccessRights), ",
        ),
        case("busy", Step::Say(done(51)), "result 51 (busy)"),
        case("unavailable", Step::Say(done(52)), "result 52 (unavailable)"),
        case("other", Step::Say(sync_done(80, Some(PAST), true)), "result 80 (other)"),
        case(
            "notice",
            Step::Say(notice_of_disconnection(52, "shutting down")),
            "ended the connection: result 52 (unavailable), ",
        ),
        case("close", Step::Close, "the server closed the connection"),
        case("4 GB", Step::Bytes(b"\x30\x84\xff\xff\xff\xff".to_vec()), "a message of 4294967295 bytes"),
        case("no LDAP", Step::Bytes(b"GET / HTTP/1.1\r\n\r\n".to_vec()), "no LDAP message"),
        case(
            "wrong lengths",
            Step::Bytes(b"\x30\x06\x02\x01\x02\x64\x09\x04".to_vec()),
            "longer than what it is a part of",
        ),
    ]
}

/// Plays a case in the refresh, and then goes on as ever.
#[track_caller]
fn check_refresh(
    daemon: &Daemon,
    fake: &FakeLdap,
    cookie: &[u8],
    before: &[Message],
    (name, steps, part): Case,
) {
    let case = format!("{name} after {} messages", before.len());
    fake.next(When::Sync, say(before.to_vec()).into_iter().chain(steps).collect());
    let error = daemon.sync("corp").expect_err(&case);
    assert!(error.contains(part), "{case}: {error}");
    nobody_is_gone(daemon, fake, &case);
    let refuses = ["unavailableCriticalExtension", "sizeLimitExceeded", "insufficientAccessRights"];
    if fake.kind() == Kind::Ds389 && refuses.contains(&name) {
        // There it may be refused for good, while a sweep goes well.
        daemon.sync("corp").unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "sweep", "{case}");
        nobody_is_gone(daemon, fake, &case);
        daemon.api("POST", "/v1/directories/corp/sync?full=true&wait=true");
    }
    goes_on(daemon, fake, cookie, &case);
}

/// 389 Directory Server says nothing when the search behind a refresh fails, but answers everything else.
#[test]
fn a_refresh_that_falls_silent_is_followed_by_sweeps() {
    let fake = FakeLdap::start(Kind::Ds389, 0..20);
    fake.next(When::Sync, say(vec![added(&fake.people()[0])]));
    let daemon = daemon(&fake, SILENCE);
    let status = daemon.status();
    let corp = directory(&status, "corp");
    assert_eq!(corp["mechanism"], "sweep", "{corp}");
    assert_eq!(corp["mechanism_reason"], "the server falls silent when it is asked for syncrepl");
    let part = "fell silent in the refresh of content synchronization of ou=people,dc=example,dc=org after 1 entries";
    assert!(failures(&daemon)[0].contains(part), "{}", failures(&daemon)[0]);
    daemon.wait_for_log(&[" WARN ", "everything is read at each poll, since the server falls silent"]);
    daemon.agrees();
    daemon.api("POST", "/v1/directories/corp/sync?full=true&wait=true");
    assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "content-sync");

    // From a cookie it may have been too much for the server: then everything is read.
    let reloaded = reloads(&daemon);
    fake.next(When::Sync, say(vec![told(&fake.people()[0], 2, None)]));
    daemon.sync("corp").unwrap();
    assert_eq!((reloads(&daemon), last_cookie(&fake)), (reloaded + 1, None));
    assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "content-sync");
    daemon.agrees();
}

/// The next synchronization begins where the last good one ended, and succeeds. A server that fails in it is
/// swept where that is the rule, until everything is asked for.
#[track_caller]
fn goes_on(daemon: &Daemon, fake: &FakeLdap, cookie: &[u8], case: &str) {
    assert!(fake.is_done(), "{case}");
    let asked = fake.asked(When::Sync).len();
    daemon.sync("corp").unwrap_or_else(|error| panic!("{case}: {error}"));
    nobody_is_gone(daemon, fake, case);
    if fake.asked(When::Sync).len() > asked {
        assert_eq!(last_cookie(fake).as_deref(), Some(cookie), "{case}");
    } else {
        assert_eq!(directory(&daemon.status(), "corp")["mechanism"], "sweep", "{case}");
        let answer = daemon.api("POST", "/v1/directories/corp/sync?full=true&wait=true");
        assert_eq!((answer.status, fake.asked(When::Sync).len()), (200, asked + 1), "{case}: {answer:?}");
    }
}

#[test]
fn the_server_is_honest_unless_told_otherwise() {
    for (kind, sync, mechanism) in [
        (Kind::OpenLdap, "auto", "syncrepl"),
        (Kind::Ds389, "syncrepl", "content-sync"),
        (Kind::ActiveDirectory, "dirsync", "dirsync"),
        (Kind::ActiveDirectory, "sweep", "sweep"),
    ] {
        let fake = FakeLdap::start(kind, 0..20);
        let daemon = daemon(&fake, &format!("sync = \"{sync}\"\n"));
        let status = daemon.status();
        assert_eq!(directory(&status, "corp")["mechanism"], mechanism, "{status:#}");
        nobody_is_gone(&daemon, &fake, mechanism);
        fake.add(100);
        fake.remove(3);
        daemon.sync("corp").unwrap();
        assert_eq!((daemon.probe("u3"), daemon.probe("u100")), ("removed".to_owned(), "granted".to_owned()));
        daemon.agrees();
    }
}

#[test]
fn a_refresh_that_goes_wrong_takes_nobody_away() {
    for (kind, refreshed) in [(Kind::OpenLdap, "delete"), (Kind::Ds389, "present")] {
        let fake = FakeLdap::start(kind, 0..20);
        let daemon = daemon(&fake, &format!("sync = \"syncrepl\"\n{SILENCE}"));
        let (cookie, people) = (fake.cookie(), fake.people());
        // Two are there; of the others nothing is said, or that one is gone.
        let middle = [
            new_cookie(PAST),
            told(&people[0], 2, Some(PAST)),
            told(&people[1], 0, None),
            id_set(None, true, &[&people[2].id]),
            reference("ldap://elsewhere.example.org/ou=people,dc=example,dc=org??sub"),
        ];
        let end = [refresh_present(Some(PAST), false)];
        for case in malformed(&people[0]).into_iter().chain(ends()) {
            check_refresh(&daemon, &fake, &cookie, &[], case.clone());
            check_refresh(&daemon, &fake, &cookie, &middle, case.clone());
            check_refresh(&daemon, &fake, &cookie, &end, case);
        }
        // A refresh without an end, and a message that stops in the middle. With content synchronization the
        // heartbeat notices it, which takes longer.
        if kind == Kind::OpenLdap {
            let half = added(&people[0]).encode(2)[..30].to_vec();
            let silent = "silent for 1s";
            check_refresh(&daemon, &fake, &cookie, &middle, ("hang", vec![Step::Hang], silent));
            check_refresh(&daemon, &fake, &cookie, &end, ("present without done", vec![Step::Hang], silent));
            check_refresh(
                &daemon,
                &fake,
                &cookie,
                &[],
                ("half", vec![Step::Bytes(half), Step::Hang], silent),
            );
        }
        let endless = vec![b'c'; 1 << 20];
        let endless = match refreshed {
            "delete" => refresh_delete(Some(&endless), true),
            _ => refresh_present(Some(&endless), true),
        };
        let case = ("an end with an endless cookie", vec![Step::Say(endless)], "cookie is too long");
        check_refresh(&daemon, &fake, &cookie, &middle, case);
        daemon.agrees();
    }
}

#[test]
fn following_that_goes_wrong_takes_nobody_away() {
    for kind in [Kind::OpenLdap, Kind::Ds389] {
        let fake = FakeLdap::start(kind, 0..20);
        let daemon = daemon(&fake, &format!("sync = \"syncrepl\"\n{SILENCE}"));
        let (cookie, people) = (fake.cookie(), fake.people());
        for (name, steps, part) in malformed(&people[0]).into_iter().chain(ends()) {
            let before = failures(&daemon).len();
            fake.push(steps);
            let failure = wait_for(name, || failures(&daemon).into_iter().nth(before));
            assert!(failure.contains(part), "{name}: {failure}");
            nobody_is_gone(&daemon, &fake, name);
            goes_on(&daemon, &fake, &cookie, name);
        }
        daemon.agrees();
    }
}

#[test]
fn a_server_that_wants_a_refresh_gets_one_and_no_more() {
    const REFRESH_REQUIRED: u32 = 4096;
    for (kind, codes) in
        [(Kind::OpenLdap, &[REFRESH_REQUIRED, 53][..]), (Kind::Ds389, &[REFRESH_REQUIRED, 53])]
    {
        let fake = FakeLdap::start(kind, 0..20);
        let daemon = daemon(&fake, &format!("sync = \"syncrepl\"\n{SILENCE}"));
        let (cookie, people) = (fake.cookie(), fake.people());
        let middle =
            [new_cookie(PAST), told(&people[0], 2, Some(PAST)), id_set(None, true, &[&people[2].id])];
        for (code, before) in codes.iter().flat_map(|code| [(*code, &middle[..0]), (*code, &middle[..])]) {
            let (case, reloaded) = (format!("{code} after {}", before.len()), reloads(&daemon));
            let result = [sync_done(code, Some(PAST), true)];
            fake.next(When::Sync, say([before, &result].concat()));
            let report = daemon.sync("corp").unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!((&report["seen"], last_cookie(&fake)), (&20.into(), None), "{case}");
            assert_eq!(reloads(&daemon), reloaded + 1, "{case}");
            nobody_is_gone(&daemon, &fake, &case);
            goes_on(&daemon, &fake, &cookie, &case);
        }

        // While it follows, after a run that began with the cookie.
        for code in codes {
            let reloaded = reloads(&daemon);
            fake.push(say(vec![done(*code)]));
            wait_for("everything to be read", || {
                (reloads(&daemon) > reloaded && last_cookie(&fake).is_none()).then_some(())
            });
            wait_for("the search", || fake.is_followed().then_some(()));
            nobody_is_gone(&daemon, &fake, "while it follows");
            goes_on(&daemon, &fake, &cookie, "while it follows");
        }

        // Even without a cookie: that is a failure like any other.
        fake.next(When::Sync, say(vec![done(REFRESH_REQUIRED)]));
        fake.next(When::Sync, say(vec![added(&people[0]), done(REFRESH_REQUIRED)]));
        let error = daemon.sync("corp").unwrap_err();
        assert!(error.contains("cannot go on where we stopped"), "{error}");
        nobody_is_gone(&daemon, &fake, "again and again");
        goes_on(&daemon, &fake, &cookie, "again and again");
        daemon.agrees();
    }
}

/// After a full refresh the server wants another, and after that another.
#[test]
fn a_server_that_always_wants_a_refresh_is_not_asked_in_a_loop() {
    let fake = FakeLdap::start(Kind::OpenLdap, 0..20);
    let daemon = daemon(&fake, "");
    for _ in 0..1000 {
        fake.next(When::Sync, vec![Step::Honestly, Step::Say(done(4096))]);
    }
    let (started, before) = (Instant::now(), fake.asked(When::Sync).len());
    fake.push(say(vec![done(4096)]));
    wait_for("some refreshes", || (fake.asked(When::Sync).len() > before + 6).then_some(()));
    // Each second one comes after a wait.
    assert!(started.elapsed() > Duration::from_millis(1500), "{:?}", started.elapsed());
    nobody_is_gone(&daemon, &fake, "in a loop");
}

#[test]
fn a_hang_before_the_search_is_an_error_that_says_where() {
    let fake = FakeLdap::start(Kind::OpenLdap, 0..20);
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&password, "secret\n").unwrap();
    let bind =
        format!("bind_dn = \"cn=reader,dc=example,dc=org\"\nbind_password_file = {:?}\n", password.path());
    let daemon = daemon(&fake, &(bind + SILENCE));
    for (when, part) in
        [(When::Bind, "within 2s to the bind"), (When::RootDse, "to the search of the root DSE")]
    {
        for steps in [vec![Step::Hang], vec![Step::Bytes(vec![0x30]), Step::Hang]] {
            fake.next(when, steps);
            let error = daemon.sync("corp").unwrap_err();
            assert!(error.contains(part), "{error}");
            nobody_is_gone(&daemon, &fake, part);
        }
        fake.next(when, say(vec![notice_of_disconnection(51, "too many of you")]));
        let error = daemon.sync("corp").unwrap_err();
        assert!(error.contains("result 51 (busy), \"too many of you\""), "{error}");
        goes_on(&daemon, &fake, &fake.cookie(), part);
    }
}

#[test]
fn the_next_server_is_used_instead() {
    let (bad, good) = (FakeLdap::start(Kind::OpenLdap, 0..20), FakeLdap::start(Kind::OpenLdap, 0..20));
    for _ in 0..10 {
        bad.next(When::Sync, vec![Step::Say(added(&bad.people()[0])), Step::Bytes(vec![0x48, 0])]);
    }
    let urls = format!("urls = [{:?}, {:?}]", bad.url(), good.url());
    let tables = bad.directory("poll_every = \"1h\"\n").replace(&format!("urls = [{:?}]", bad.url()), &urls);
    let daemon = Daemon::start(Settings { tables, ..Settings::default() });
    assert_eq!((bad.asked(When::Sync).len(), good.asked(When::Sync).len()), (1, 1));
    nobody_is_gone(&daemon, &good, "the next server");
}

#[test]
fn oddities_that_are_no_errors() {
    let fake = FakeLdap::start(Kind::OpenLdap, 0..20);
    let daemon = daemon(&fake, SILENCE);
    let (cookie, people) = (fake.cookie(), fake.people());
    let twin = Entry { dn: person(Kind::OpenLdap, 77).dn, ..people[1].clone() };
    let elsewhere = "ldap://elsewhere.example.org/";
    for (name, messages) in [
        ("an empty cookie", vec![refresh_delete(Some(b""), true)]),
        ("the end twice", vec![refresh_delete(None, true), refresh_delete(None, true)]),
        ("another end after it", vec![refresh_delete(None, true), refresh_present(None, true)]),
        ("a reference", vec![reference(elsewhere), refresh_delete(None, true), reference(elsewhere)]),
        ("the same id twice", vec![added(&twin), added(&people[1]), refresh_delete(None, true)]),
        ("unknown ids", vec![id_set(None, true, &[&[9; 16]]), refresh_delete(None, true)]),
        ("an empty new cookie", vec![refresh_delete(None, true), new_cookie(b"")]),
        ("a change with an empty cookie", vec![refresh_delete(None, true), told(&people[3], 2, Some(b""))]),
        ("present once more", vec![refresh_delete(None, true), told(&people[3], 0, None)]),
        ("a set of who is there", vec![refresh_delete(None, true), id_set(None, false, &[&people[4].id])]),
        (
            "another kind of message",
            vec![Message::new(ber(0x79, &[&ber(0x80, &[b"1.2.3"])])), refresh_delete(None, true)],
        ),
        // Present, then delete, as RFC 4533 section 3.3.2 allows.
        ("two phases", {
            let present: Vec<&[u8]> = people.iter().map(|entry| entry.id.as_slice()).collect();
            vec![id_set(None, false, &present), refresh_present(None, false), refresh_delete(None, true)]
        }),
    ] {
        fake.next(When::Sync, say(messages));
        daemon.sync("corp").unwrap_or_else(|error| panic!("{name}: {error}"));
        nobody_is_gone(&daemon, &fake, name);
        goes_on(&daemon, &fake, &cookie, name);
        daemon.agrees();
    }
    assert_eq!(failures(&daemon), [""; 0]);
}

#[test]
fn deletions_that_the_server_forgets_are_found() {
    let fake = FakeLdap::start(Kind::OpenLdap, 0..20);
    let openldap = daemon(&fake, "");
    openldap.expect("u5", "granted");
    let (five, _six) = (fake.remove(5), fake.remove(6));
    fake.next(
        When::Sync,
        say(vec![id_set(None, true, &[&five.id]), refresh_delete(Some(&fake.cookie()), true)]),
    );
    openldap.sync("corp").unwrap();
    assert_eq!((openldap.probe("u5"), openldap.probe("u6")), ("removed".to_owned(), "granted".to_owned()));
    let answer = openldap.api("POST", "/v1/directories/corp/sync?full=true&wait=true");
    assert_eq!((answer.status, openldap.probe("u6").as_str()), (200, "removed"), "{answer:?}");
    openldap.agrees();

    // There it is the rule, so that every refresh looks for them; and nobody is gone whom it only says to be.
    let fake = FakeLdap::start(Kind::Ds389, 0..20);
    let ds389 = daemon(&fake, "sync = \"syncrepl\"\n");
    fake.remove(6);
    let cookie = fake.cookie();
    fake.next(When::Sync, say(vec![id_set(None, true, &[&id(7)]), refresh_present(Some(&cookie), true)]));
    ds389.sync("corp").unwrap();
    assert_eq!((ds389.probe("u6"), ds389.probe("u7")), ("removed".to_owned(), "granted".to_owned()));
    fake.push(say(vec![told(&person(Kind::Ds389, 7), 3, Some(&cookie)), id_set(None, true, &[&id(8)])]));
    fake.push(say(vec![told(&fake.add(100), 1, Some(&fake.cookie()))]));
    wait_for("the change after it", || (ds389.probe("u100") == "granted").then_some(()));
    assert_eq!((ds389.probe("u7"), ds389.probe("u8")), ("granted".to_owned(), "granted".to_owned()));
    ds389.agrees();
}

/// Entries as long as a message may be, and others of as many parts.
#[test]
fn memory_stays_bounded_whatever_entries_hold() {
    let fake = FakeLdap::start(Kind::OpenLdap, 0..20);
    let daemon = daemon(&fake, "[directory.ldap.timeouts]\nread = \"20s\"\n");
    let entry = fake.people()[0].clone();
    let long = entry.clone().with("jpegPhoto", &vec![0xff; 16_000_000]);
    let mut many = entry.clone();
    many.attributes.push(("description".to_owned(), vec![Vec::new(); 250_000]));
    for (entry, times) in [(&long, 20), (&many, 5)] {
        let bytes = added(entry).encode(2).repeat(times);
        fake.next(When::Sync, vec![Step::Bytes(bytes), Step::Close]);
        let error = daemon.sync("corp").unwrap_err();
        assert!(error.contains("closed the connection"), "{error}");
    }
    nobody_is_gone(&daemon, &fake, "after huge entries");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 256 * 1024, "{peak} kB, of the 320 MB that were sent at once");
}

/// A daemon that polls by DirSync only when it is asked.
fn polling(fake: &FakeLdap) -> Daemon {
    daemon(fake, &format!("sync = \"dirsync\"\n{SILENCE}"))
}

/// Flags and cookies of the last requests, the latest last.
fn polls(fake: &FakeLdap, count: usize) -> Vec<(u32, String)> {
    let asked = fake.asked(When::DirSync);
    let last = asked[asked.len() - count..].iter().map(|request| request.dirsync().unwrap());
    last.map(|(flags, cookie)| (flags, String::from_utf8_lossy(&cookie).into_owned())).collect()
}

/// An entry of which DirSync tells only some attributes.
fn partial(entry: &Entry, names: &[&str]) -> Message {
    let attributes =
        entry.attributes.iter().filter(|(name, _)| name == "objectGUID" || names.contains(&name.as_str()));
    Entry { attributes: attributes.cloned().collect(), ..entry.clone() }.message()
}

#[test]
fn a_poll_that_goes_wrong_takes_nobody_away() {
    let fake = FakeLdap::start(Kind::ActiveDirectory, 0..20);
    let daemon = polling(&fake);
    let (cookie, people) = (String::from_utf8(fake.cookie()).unwrap(), fake.people());
    let gone = tombstone(people[2].id).message();
    let value = |cookie: &[u8]| ber(0x30, &[&[2, 1, 0, 2, 1, 0], &ber(4, &[cookie])]);
    let case = |name, message, part| (name, vec![Step::Say(message)], part);
    let nameless = Entry { attributes: Vec::new(), ..people[0].clone() };
    let cases: Vec<Case> = vec![
        case("no control", done(0), "the answer has no DirSync control"),
        case("an empty control", dirsync_done_with(b""), "truncated"),
        case("a truncated control", dirsync_done_with(&value(PAST)[..12]), "truncated"),
        case("a wrong length", dirsync_done_with(b"\x30\x09\x02\x01\x00\x02\x01\x00\x04\x09c"), "truncated"),
        case("a length of 4 GB", dirsync_done_with(b"\x30\x84\xff\xff\xff\xff"), "truncated"),
        case("deep nesting", dirsync_done_with(&[0x30, 0x80].repeat(10_000)), "invalid length"),
        case("an empty cookie", dirsync_done(false, b""), "cookie is empty or too long"),
        case("an endless cookie", dirsync_done(false, &vec![b'c'; 1 << 20]), "cookie is empty or too long"),
        case("a change of nobody", nameless.message(), "a change has no objectGUID"),
        case("the same again", dirsync_done(true, cookie.as_bytes()), "the same again and again"),
        case("busy", done(51), "result 51 (busy)"),
        case("unavailable", done(52), "result 52 (unavailable)"),
        case("notice", notice_of_disconnection(52, "bye"), "ended the connection: result 52 (unavailable)"),
        ("close", vec![Step::Close], "the server closed the connection"),
        ("hang", vec![Step::Hang], "silent for 1s"),
        ("4 GB", vec![Step::Bytes(b"\x30\x84\xff\xff\xff\xff".to_vec())], "a message of 4294967295 bytes"),
    ];
    for (name, steps, part) in cases {
        for before in [vec![], vec![partial(&people[1], &["mail"]), gone.clone()]] {
            fake.next(When::DirSync, say(before).into_iter().chain(steps.clone()).collect());
            let error = daemon.sync("corp").unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
            nobody_is_gone(&daemon, &fake, name);
            daemon.sync("corp").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(polls(&fake, 1)[0].1, cookie, "{name}");
            nobody_is_gone(&daemon, &fake, name);
        }
    }
    daemon.agrees();
}

#[test]
fn dirsync_is_asked_until_there_is_no_more() {
    let fake = FakeLdap::start(Kind::ActiveDirectory, 0..20);
    let daemon = polling(&fake);
    daemon.expect("u3", "granted");
    let first = String::from_utf8(fake.cookie()).unwrap();
    let changed = fake.put(fake.people()[1].clone().with("mail", b"other@example.org"));
    let (added, gone) = (fake.add(100), fake.remove(3));
    let rounds = [
        (partial(&changed, &["mail"]), dirsync_done(true, b"one")),
        (added.message(), dirsync_done(true, b"two")),
        (reference("ldap://elsewhere.example.org/"), dirsync_done(true, b"three")),
        (tombstone(gone.id).message(), dirsync_done(false, &fake.cookie())),
    ];
    for (told, end) in rounds {
        fake.next(When::DirSync, say(vec![told, end]));
    }
    daemon.sync("corp").unwrap();
    let cookies: Vec<String> = polls(&fake, 4).into_iter().map(|(_, cookie)| cookie).collect();
    assert_eq!(cookies, [first.as_str(), "one", "two", "three"]);
    for (user, decision) in
        [("other@example.org", "granted"), ("u1", "granted"), ("u100", "granted"), ("u3", "removed")]
    {
        assert_eq!(daemon.probe(user), decision, "{user}");
    }
    daemon.agrees();

    // Each round with a cookie of its own, and no end: the time for reading everything ends it.
    for round in 0..200_000 {
        fake.next(When::DirSync, say(vec![dirsync_done(true, format!("round-{round}").as_bytes())]));
    }
    let limit = "[directory.ldap.timeouts]\nsweep = \"2s\"\n";
    let tables = fake.directory(&format!("poll_every = \"1h\"\nsync = \"dirsync\"\n{limit}"));
    let impatient = Daemon::launch(&Settings { tables, ..Settings::default() });
    impatient.wait_for_log(&["event=sync_failed", "took longer than 2s"]);
    assert_eq!(impatient.status()["users"]["total"], 0);
}

#[test]
fn a_bind_user_without_rights_gets_what_it_may_see() {
    const INSUFFICIENT_ACCESS: u32 = 50;
    const UNWILLING: u32 = 53;
    let fake = FakeLdap::start(Kind::ActiveDirectory, 0..20);
    fake.next(When::DirSync, say(vec![done(INSUFFICIENT_ACCESS)]));
    let daemon = polling(&fake);
    let flags: Vec<u32> = polls(&fake, 2).into_iter().map(|(flags, _)| flags).collect();
    assert_eq!(flags, [0, 1], "object security");
    // It is remembered with the cookie.
    fake.add(100);
    daemon.sync("corp").unwrap();
    assert_eq!((polls(&fake, 1)[0].0, daemon.probe("u100").as_str()), (1, "granted"));
    daemon.agrees();

    // A cookie that the server does not take.
    fake.remove(4);
    fake.next(When::DirSync, say(vec![done(UNWILLING)]));
    daemon.sync("corp").unwrap();
    assert_eq!((reloads(&daemon), daemon.probe("u4").as_str()), (1, "removed"));
    daemon.agrees();
}
