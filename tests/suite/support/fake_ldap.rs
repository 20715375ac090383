//! An LDAP server of the test's own making, for what a real one can't be made to do.
//!
//! ```no_run
//! let fake = FakeLdap::start(Kind::OpenLdap, 0..20);
//! fake.next(When::Sync, vec![Step::Say(added(&fake.people()[0])), Step::Close]);
//! // The first synchronization breaks off after one entry; later ones are told everything.
//! fake.push(vec![Step::Say(new_cookie(b"c2"))]);
//! ```
//!
//! Left alone it is an honest server with some people: it lets everybody bind, shows the root DSE of its
//! [`Kind`], searches (all in one page), synchronizes by RFC 4533 and by DirSync. What it shall do instead is
//! scripted with [`FakeLdap::next`], once for each request of a kind; whatever the bytes say, they are sent.
//! Each connection is served by a thread of its own, and all end with the value.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{PATIENCE, wait_for};

/// Holds the people: the base of a search.
pub(crate) const PEOPLE: &str = "ou=people,dc=example,dc=org";

pub(crate) const PAGED_RESULTS: &str = "1.2.840.113556.1.4.319";
const SYNC_REQUEST: &str = "1.3.6.1.4.1.4203.1.9.1.1";
const SYNC_STATE: &str = "1.3.6.1.4.1.4203.1.9.1.2";
const SYNC_DONE: &str = "1.3.6.1.4.1.4203.1.9.1.3";
const SYNC_INFO: &str = "1.3.6.1.4.1.4203.1.9.1.4";
pub(crate) const DIRSYNC: &str = "1.2.840.113556.1.4.841";
/// LDAP_SERVER_NOTIFICATION_OID ([MS-ADTS] section 3.1.1.3.4.1.9).
pub(crate) const NOTIFICATION: &str = "1.2.840.113556.1.4.528";
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";
const NOTICE_OF_DISCONNECTION: &str = "1.3.6.1.4.1.1466.20036";

/// Whose conventions it follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    OpenLdap,
    Ds389,
    ActiveDirectory,
}

/// A kind of request that can be scripted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum When {
    /// A connection, before any request.
    Connect,
    Bind,
    /// The search of the root DSE.
    RootDse,
    /// A search with the control of RFC 4533.
    Sync,
    /// A search with the DirSync control.
    DirSync,
    /// A search that stays open and tells of writes; the root DSE does not offer it unless it is told to.
    Notification,
    /// Any other search.
    Search,
    /// StartTLS, which it knows nothing of.
    StartTls,
    /// Who am I, the heartbeat; or another extended operation.
    Extended,
}

/// What is done in answer to a request, or in the middle of a search that stays open.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A message, with the request's id.
    Say(Message),
    /// These bytes, whatever they are.
    Bytes(Vec<u8>),
    /// What it does without a script.
    Honestly,
    /// Not another word on this connection, which stays open.
    Hang,
    /// The end of the connection.
    Close,
}

/// An operation with its controls.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Another id than the request's.
    pub(crate) id: Option<u32>,
    operation: Vec<u8>,
    controls: Vec<u8>,
}

/// An entry of the server.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) dn: String,
    pub(crate) id: [u8; 16],
    pub(crate) attributes: Vec<(String, Vec<Vec<u8>>)>,
    /// The version of the content since which it is as it is.
    pub(crate) version: u64,
}

/// What somebody asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u32,
    pub(crate) when: Option<When>,
    /// Of a search.
    pub(crate) base: String,
    pub(crate) attributes: Vec<String>,
    filter: Vec<u8>,
    controls: Vec<(String, Vec<u8>)>,
}

impl Request {
    fn control(&self, oid: &str) -> Option<&[u8]> {
        self.controls.iter().find(|(name, _)| name == oid).map(|(_, value)| value.as_slice())
    }

    /// The cookie in the control of RFC 4533.
    pub(crate) fn sync_cookie(&self) -> Option<Vec<u8>> {
        let (_, content, _) = take(self.control(SYNC_REQUEST)?);
        let (_, _mode, rest) = take(content);
        (!rest.is_empty() && rest[0] == 4).then(|| take(rest).1.to_vec())
    }

    /// Flags and cookie of the DirSync control.
    pub(crate) fn dirsync(&self) -> Option<(u32, Vec<u8>)> {
        let (_, content, _) = take(self.control(DIRSYNC)?);
        let (_, flags, rest) = take(content);
        let (_, _max_bytes, rest) = take(rest);
        Some((number(flags), take(rest).1.to_vec()))
    }
}

/// A running server.
pub(crate) struct FakeLdap {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    kind: Kind,
    is_over: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    people: Vec<Entry>,
    /// Ids that are gone, each with the version that it went with.
    gone: Vec<([u8; 16], u64)>,
    version: u64,
    scripts: HashMap<When, VecDeque<Vec<Step>>>,
    /// Attributes of the root DSE that are not as its kind has them.
    root_dse: HashMap<String, Vec<String>>,
    requests: Vec<Request>,
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    is_silent: bool,
    /// The id of the search that stays open.
    search: Option<u32>,
}

impl FakeLdap {
    /// Whose conventions it follows.
    pub(crate) fn kind(&self) -> Kind {
        self.shared.kind
    }

    /// Starts a server with so many people.
    pub(crate) fn start(kind: Kind, people: Range<u32>) -> FakeLdap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let people = people.map(|number| person(kind, number)).collect();
        let state = Mutex::new(State { people, version: 1, ..State::default() });
        let shared = Arc::new(Shared { kind, is_over: AtomicBool::new(false), state });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.serve(stream.unwrap()));
            }
        });
        FakeLdap { port, shared }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// `ldap://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    /// `[[directory.ldap]]` named `corp` at this server, with these keys, then tables.
    pub(crate) fn directory(&self, keys: &str) -> String {
        let url = self.url();
        format!(
            "[[directory.ldap]]\nname = \"corp\"\ndomain = \"example.org\"\nurls = [{url:?}]\n\
             base_dn = \"{PEOPLE}\"\n{keys}\n"
        )
    }

    /// Does this at the next request of its kind that is not scripted yet.
    pub(crate) fn next(&self, when: When, steps: Vec<Step>) {
        self.state().scripts.entry(when).or_default().push_back(steps);
    }

    /// Forgets the scripts that nobody asked for.
    pub(crate) fn be_honest(&self) {
        self.state().scripts.clear();
    }

    /// Whether every script was asked for.
    pub(crate) fn is_done(&self) -> bool {
        self.state().scripts.values().all(VecDeque::is_empty)
    }

    /// Does this in the search that stays open, once there is one.
    #[track_caller]
    pub(crate) fn push(&self, steps: Vec<Step>) {
        let at = wait_for("a search that stays open", || self.following());
        let shared = &self.shared;
        let mut state = self.state();
        let request = Request { id: state.connections[at].search.unwrap(), ..Request::nothing() };
        shared.play(&mut state, at, &request, steps);
    }

    fn following(&self) -> Option<usize> {
        let state = self.state();
        state.connections.iter().rposition(|connection| connection.search.is_some())
    }

    /// Whether a search stays open.
    pub(crate) fn is_followed(&self) -> bool {
        self.following().is_some()
    }

    /// Everything that was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The requests of one kind.
    pub(crate) fn asked(&self, when: When) -> Vec<Request> {
        self.state().requests.iter().filter(|request| request.when == Some(when)).cloned().collect()
    }

    /// The people.
    pub(crate) fn people(&self) -> Vec<Entry> {
        self.state().people.clone()
    }

    /// Adds somebody, or replaces who has the same id, and tells nobody; the entry.
    pub(crate) fn put(&self, entry: Entry) -> Entry {
        let mut state = self.state();
        state.version += 1;
        let entry = Entry { version: state.version, ..entry };
        state.people.retain(|other| other.id != entry.id);
        state.gone.retain(|(id, _)| *id != entry.id);
        state.people.push(entry.clone());
        entry
    }

    /// Adds a person, and tells nobody.
    pub(crate) fn add(&self, number: u32) -> Entry {
        self.put(person(self.shared.kind, number))
    }

    /// Takes a person away, and tells nobody; who it was.
    #[track_caller]
    pub(crate) fn remove(&self, number: u32) -> Entry {
        let mut state = self.state();
        state.version += 1;
        let at = state.people.iter().position(|entry| entry.id == id(number)).expect("is there");
        let entry = state.people.remove(at);
        let version = state.version;
        state.gone.push((entry.id, version));
        entry
    }

    /// Sets an attribute of the root DSE; one without values is not shown.
    pub(crate) fn set_root_dse(&self, name: &str, values: &[&str]) {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.state().root_dse.insert(name.to_owned(), values);
    }

    /// The cookie that covers its content.
    pub(crate) fn cookie(&self) -> Vec<u8> {
        self.shared.cookie(&self.state())
    }

    /// Ends every connection.
    pub(crate) fn disconnect(&self) {
        for connection in &mut self.state().connections {
            connection.search = None;
            // It may have ended already.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for FakeLdap {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.disconnect();
        // Wakes the one that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked left nothing half done.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) {
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let at = {
            let mut state = self.state();
            let connection =
                Connection { stream: stream.try_clone().unwrap(), is_silent: false, search: None };
            state.connections.push(connection);
            let at = state.connections.len() - 1;
            self.answer(&mut state, at, Request { when: Some(When::Connect), ..Request::nothing() });
            at
        };
        while let Some(request) = read_request(&mut stream) {
            let mut state = self.state();
            if !state.connections[at].is_silent {
                self.answer(&mut state, at, request);
            }
        }
        self.state().connections[at].search = None;
    }

    /// Answers as scripted, else honestly.
    fn answer(&self, state: &mut State, at: usize, request: Request) {
        let script = request.when.and_then(|when| state.scripts.get_mut(&when)?.pop_front());
        if matches!(request.when, Some(When::Sync | When::Notification)) {
            state.connections[at].search = Some(request.id);
        }
        if request.when != Some(When::Connect) {
            state.requests.push(request.clone());
        }
        self.play(state, at, &request, script.unwrap_or_else(|| vec![Step::Honestly]));
    }

    fn play(&self, state: &mut State, at: usize, request: &Request, steps: Vec<Step>) {
        for step in steps {
            let bytes = match step {
                Step::Say(message) => message.encode(request.id),
                Step::Bytes(bytes) => bytes,
                Step::Honestly => {
                    let messages = self.honestly(state, request);
                    messages.iter().flat_map(|message| message.encode(request.id)).collect()
                }
                Step::Hang => {
                    state.connections[at].is_silent = true;
                    return;
                }
                Step::Close => {
                    state.connections[at].search = None;
                    let _ = state.connections[at].stream.shutdown(Shutdown::Both);
                    return;
                }
            };
            // Whoever asked may have gone.
            let _ = state.connections[at].stream.write_all(&bytes);
        }
    }

    fn honestly(&self, state: &State, request: &Request) -> Vec<Message> {
        match request.when {
            None | Some(When::Connect | When::Notification) => Vec::new(),
            Some(When::Bind) => vec![Message::new(ber(0x61, &[&result_content(0, "")]))],
            Some(When::StartTls) => vec![extended(2)],
            Some(When::Extended) => vec![extended(0)],
            Some(When::RootDse) => vec![self.root_dse(state), done(0)],
            Some(When::Search) => {
                if !PEOPLE.ends_with(&request.base.to_ascii_lowercase()) {
                    return vec![done(32)];
                }
                let mut messages: Vec<_> = self.found(state, request).map(Entry::message).collect();
                let end = done(0);
                messages.push(match request.control(PAGED_RESULTS) {
                    Some(_) => end.with(PAGED_RESULTS, &sequence(&[&integer(0), &octets(b"")])),
                    None => end,
                });
                messages
            }
            Some(When::Sync) => self.synchronized(state, request),
            Some(When::DirSync) => self.dirsynced(state, request),
        }
    }

    fn found<'a>(&self, state: &'a State, request: &'a Request) -> impl Iterator<Item = &'a Entry> {
        state.people.iter().filter(|entry| matches(&request.filter, entry))
    }

    /// Nothing, where the cookie covers everything; else all, and whoever is not told is gone.
    fn synchronized(&self, state: &State, request: &Request) -> Vec<Message> {
        let cookie = self.cookie(state);
        if request.sync_cookie().as_ref() == Some(&cookie) {
            return vec![match self.kind {
                Kind::Ds389 => refresh_present(Some(&cookie), true),
                _ => refresh_delete(None, true),
            }];
        }
        let mut messages: Vec<_> = self.found(state, request).map(added).collect();
        messages.push(refresh_present(Some(&cookie), true));
        messages
    }

    fn dirsynced(&self, state: &State, request: &Request) -> Vec<Message> {
        let since = request.dirsync().map(|(_, cookie)| cookie).unwrap_or_default();
        let since =
            std::str::from_utf8(&since).ok().and_then(|text| text.strip_prefix("dirsync-")?.parse().ok());
        let since: u64 = since.unwrap_or(0);
        let found = self.found(state, request).filter(|entry| entry.version > since);
        let mut messages: Vec<_> = found.map(Entry::message).collect();
        let is_new =
            |(id, version): &&([u8; 16], u64)| *version > since && matches(&request.filter, &tombstone(*id));
        messages.extend(state.gone.iter().filter(is_new).map(|(id, _)| tombstone(*id).message()));
        messages.push(dirsync_done(false, &self.cookie(state)));
        messages
    }

    fn cookie(&self, state: &State) -> Vec<u8> {
        let version = state.version;
        match self.kind {
            Kind::OpenLdap => format!("rid=000,csn={version}"),
            Kind::Ds389 => format!("fake:389#:{PEOPLE}:#{version}"),
            Kind::ActiveDirectory => format!("dirsync-{version}"),
        }
        .into_bytes()
    }

    fn root_dse(&self, state: &State) -> Message {
        let version = state.version.to_string();
        let kind: &[(&str, &[&str])] = match self.kind {
            Kind::OpenLdap => &[
                ("objectClass", &["top", "OpenLDAProotDSE"]),
                ("supportedControl", &[PAGED_RESULTS, SYNC_REQUEST]),
            ],
            Kind::Ds389 => &[
                ("vendorName", &["389 Project"]),
                ("firstChangeNumber", &["1"]),
                ("supportedControl", &[PAGED_RESULTS, SYNC_REQUEST]),
            ],
            Kind::ActiveDirectory => &[
                ("supportedCapabilities", &["1.2.840.113556.1.4.800"]),
                ("namingContexts", &["dc=example,dc=org"]),
                ("dsServiceName", &["CN=NTDS Settings,CN=FAKE,DC=example,DC=org"]),
                ("highestCommittedUSN", &[&version]),
                ("supportedControl", &[PAGED_RESULTS, DIRSYNC]),
            ],
        };
        let own = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let mut shown: HashMap<String, Vec<String>> =
            kind.iter().map(|(name, values)| ((*name).to_owned(), own(values))).collect();
        shown.extend(state.root_dse.clone());
        let bytes = |values: Vec<String>| values.into_iter().map(String::into_bytes).collect();
        let attributes = shown.into_iter().filter(|(_, values)| !values.is_empty());
        let attributes = attributes.map(|(name, values)| (name, bytes(values))).collect();
        Entry { dn: String::new(), id: [0; 16], attributes, version: 0 }.message()
    }
}

impl Entry {
    /// `SearchResultEntry` (RFC 4511 section 4.5.2).
    pub(crate) fn message(&self) -> Message {
        let attributes: Vec<Vec<u8>> = self
            .attributes
            .iter()
            .map(|(name, values)| {
                let values: Vec<Vec<u8>> = values.iter().map(|value| octets(value)).collect();
                sequence(&[&octets(name.as_bytes()), &ber(0x31, &[&values.concat()])])
            })
            .collect();
        Message::new(ber(0x64, &[&octets(self.dn.as_bytes()), &sequence(&[&attributes.concat()])]))
    }

    /// The same with another value of an attribute.
    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Entry {
        self.attributes.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.attributes.push((name.to_owned(), vec![value.to_vec()]));
        self
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &Vec<u8>> {
        let named = self.attributes.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name));
        named.flat_map(|(_, values)| values)
    }
}

impl Message {
    /// An operation, encoded.
    pub(crate) fn new(operation: Vec<u8>) -> Message {
        Message { id: None, operation, controls: Vec::new() }
    }

    /// The same with another control.
    pub(crate) fn with(mut self, oid: &str, value: &[u8]) -> Message {
        self.controls.extend(sequence(&[&octets(oid.as_bytes()), &octets(value)]));
        self
    }

    /// `LDAPMessage` (RFC 4511 section 4.1.1) with this id, where it has none of its own.
    pub(crate) fn encode(&self, id: u32) -> Vec<u8> {
        let id = integer(self.id.unwrap_or(id));
        let controls = if self.controls.is_empty() { Vec::new() } else { ber(0xa0, &[&self.controls]) };
        sequence(&[&id, &self.operation, &controls])
    }
}

impl Request {
    fn nothing() -> Request {
        Request {
            id: 0,
            when: None,
            base: String::new(),
            attributes: Vec::new(),
            filter: Vec::new(),
            controls: Vec::new(),
        }
    }

    fn parse(message: &[u8]) -> Request {
        let (_, id, rest) = take(message);
        let (operation, content, rest) = take(rest);
        let mut request = Request { id: number(id), ..Request::nothing() };
        if !rest.is_empty() {
            let mut controls = take(rest).1;
            while !controls.is_empty() {
                let (_, control, rest) = take(controls);
                controls = rest;
                let (_, oid, rest) = take(control);
                let rest = if rest.first() == Some(&1) { take(rest).2 } else { rest };
                let value = if rest.is_empty() { &[] } else { take(rest).1 };
                request.controls.push((text(oid), value.to_vec()));
            }
        }
        request.when = match operation {
            0x60 => Some(When::Bind),
            0x77 if text(take(content).1) == START_TLS => Some(When::StartTls),
            0x77 => Some(When::Extended),
            0x63 => {
                request.read_search(content);
                let is_search_of = |oid| request.control(oid).is_some();
                Some(match () {
                    () if request.base.is_empty() => When::RootDse,
                    () if is_search_of(SYNC_REQUEST) => When::Sync,
                    () if is_search_of(DIRSYNC) => When::DirSync,
                    () if is_search_of(NOTIFICATION) => When::Notification,
                    () => When::Search,
                })
            }
            // Unbind and abandon have no answer.
            _ => None,
        };
        request
    }

    /// `SearchRequest` (RFC 4511 section 4.5.1).
    fn read_search(&mut self, content: &[u8]) {
        let (_, base, mut rest) = take(content);
        self.base = text(base);
        // Scope, aliases, size limit, time limit, types only.
        for _ in 0..5 {
            rest = take(rest).2;
        }
        let (_, _, after) = take(rest);
        self.filter = rest[..rest.len() - after.len()].to_vec();
        let mut names = take(after).1;
        while !names.is_empty() {
            let (_, name, rest) = take(names);
            self.attributes.push(text(name));
            names = rest;
        }
    }
}

/// Whether an entry matches a filter (RFC 4511 section 4.5.1.7). Whatever is not used here does.
fn matches(filter: &[u8], entry: &Entry) -> bool {
    let (kind, content, _) = take(filter);
    let parts = || {
        let mut rest = content;
        std::iter::from_fn(move || {
            let part = rest;
            let length = part.len() - (!part.is_empty()).then(|| take(part).2)?.len();
            rest = &part[length..];
            Some(&part[..length])
        })
    };
    match kind {
        0xa0 => parts().all(|part| matches(part, entry)),
        0xa1 => parts().any(|part| matches(part, entry)),
        0xa2 => !matches(content, entry),
        0xa3 => {
            let (_, name, rest) = take(content);
            let wanted = take(rest).1;
            entry.values(&text(name)).any(|value| value.eq_ignore_ascii_case(wanted))
        }
        0x87 => {
            text(content).eq_ignore_ascii_case("objectClass") || entry.values(&text(content)).next().is_some()
        }
        _ => true,
    }
}

/// One message: its content. `None` at the end of the connection.
fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let length = if head[1] < 0x80 {
        usize::from(head[1])
    } else {
        let mut length = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut length).ok()?;
        length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let mut content = vec![0; length];
    stream.read_exact(&mut content).ok()?;
    Some(Request::parse(&content))
}

/// The id of a person.
pub(crate) fn id(number: u32) -> [u8; 16] {
    (0x5ea7 << 64 | u128::from(number)).to_be_bytes()
}

/// A person as a server of this kind has them: `u1` with the address `u1@example.org`.
pub(crate) fn person(kind: Kind, number: u32) -> Entry {
    let (id, name) = (id(number), format!("u{number}"));
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| &hex[from..to];
    let own: Vec<(&str, Vec<u8>)> = match kind {
        Kind::OpenLdap => {
            let parts = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)];
            vec![("objectClass", b"inetOrgPerson".to_vec()), ("entryUUID", parts.join("-").into_bytes())]
        }
        Kind::Ds389 => {
            let parts = [part(0, 8), part(8, 16), part(16, 24), part(24, 32)];
            vec![("objectClass", b"inetOrgPerson".to_vec()), ("nsUniqueId", parts.join("-").into_bytes())]
        }
        Kind::ActiveDirectory => vec![
            ("objectClass", b"user".to_vec()),
            ("objectGUID", id.to_vec()),
            ("sAMAccountName", name.clone().into_bytes()),
            ("userAccountControl", b"512".to_vec()),
        ],
    };
    let common = [("uid", name.clone()), ("mail", format!("{name}@example.org")), ("cn", name.clone())];
    let common = common.map(|(attribute, value)| (attribute, value.into_bytes()));
    let attributes =
        own.into_iter().chain(common).map(|(attribute, value)| (attribute.to_owned(), vec![value])).collect();
    Entry { dn: format!("uid={name},{PEOPLE}"), id, attributes, version: 1 }
}

/// What DirSync tells of somebody who was deleted.
pub(crate) fn tombstone(id: [u8; 16]) -> Entry {
    let attributes = vec![
        ("objectGUID".to_owned(), vec![id.to_vec()]),
        ("isDeleted".to_owned(), vec![b"TRUE".to_vec()]),
        ("objectClass".to_owned(), vec![b"user".to_vec()]),
    ];
    Entry { dn: "CN=gone,CN=Deleted Objects,DC=example,DC=org".to_owned(), id, attributes, version: 1 }
}

/// An entry that is new or changed, with its sync state control.
pub(crate) fn added(entry: &Entry) -> Message {
    entry.message().with(SYNC_STATE, &sync_state(1, &entry.id, None))
}

/// An entry with a state (0 present, 1 add, 2 modify, 3 delete) and perhaps a cookie.
pub(crate) fn told(entry: &Entry, state: u8, cookie: Option<&[u8]>) -> Message {
    entry.message().with(SYNC_STATE, &sync_state(state, &entry.id, cookie))
}

/// An entry with whatever as its sync state control.
pub(crate) fn with_state(entry: &Entry, value: &[u8]) -> Message {
    entry.message().with(SYNC_STATE, value)
}

/// `SyncStateValue` (RFC 4533 section 2.3).
pub(crate) fn sync_state(state: u8, id: &[u8], cookie: Option<&[u8]>) -> Vec<u8> {
    let cookie = cookie.map(octets).unwrap_or_default();
    sequence(&[&[0x0a, 1, state], &octets(id), &cookie])
}

/// A sync info message (RFC 4533 section 2.5) with whatever in it.
pub(crate) fn sync_info(value: &[u8]) -> Message {
    Message::new(ber(0x79, &[&ber(0x80, &[SYNC_INFO.as_bytes()]), &ber(0x81, &[value])]))
}

/// A sync info message with nothing but a cookie.
pub(crate) fn new_cookie(cookie: &[u8]) -> Message {
    sync_info(&ber(0x80, &[cookie]))
}

/// The end of a delete phase.
pub(crate) fn refresh_delete(cookie: Option<&[u8]>, done: bool) -> Message {
    sync_info(&ber(0xa1, &[&cookie.map(octets).unwrap_or_default(), &boolean(done)]))
}

/// The end of a present phase.
pub(crate) fn refresh_present(cookie: Option<&[u8]>, done: bool) -> Message {
    sync_info(&ber(0xa2, &[&cookie.map(octets).unwrap_or_default(), &boolean(done)]))
}

/// A set of ids that are there, or that are gone.
pub(crate) fn id_set(cookie: Option<&[u8]>, deletes: bool, ids: &[&[u8]]) -> Message {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| octets(id)).collect();
    let set = ber(0x31, &[&ids.concat()]);
    sync_info(&ber(0xa3, &[&cookie.map(octets).unwrap_or_default(), &boolean(deletes), &set]))
}

/// `SearchResultDone`.
pub(crate) fn done(code: u32) -> Message {
    Message::new(ber(0x65, &[&result_content(code, "")]))
}

/// The same with a diagnostic message.
pub(crate) fn done_saying(code: u32, text: &str) -> Message {
    Message::new(ber(0x65, &[&result_content(code, text)]))
}

/// `SearchResultDone` with a sync done control (RFC 4533 section 2.4).
pub(crate) fn sync_done(code: u32, cookie: Option<&[u8]>, refresh_deletes: bool) -> Message {
    let cookie = cookie.map(octets).unwrap_or_default();
    done(code).with(SYNC_DONE, &sequence(&[&cookie, &boolean(refresh_deletes)]))
}

/// `SearchResultDone` with a DirSync control ([MS-ADTS] section 3.1.1.3.4.1.3).
pub(crate) fn dirsync_done(more: bool, cookie: &[u8]) -> Message {
    done(0).with(DIRSYNC, &sequence(&[&integer(u32::from(more)), &integer(0), &octets(cookie)]))
}

/// `SearchResultDone` with whatever as its DirSync control.
pub(crate) fn dirsync_done_with(value: &[u8]) -> Message {
    done(0).with(DIRSYNC, value)
}

/// A reference to another server (RFC 4511 section 4.5.3).
pub(crate) fn reference(url: &str) -> Message {
    Message::new(ber(0x73, &[&octets(url.as_bytes())]))
}

/// The server is about to close the connection (RFC 4511 section 4.4.1).
pub(crate) fn notice_of_disconnection(code: u32, text: &str) -> Message {
    let name = ber(0x8a, &[NOTICE_OF_DISCONNECTION.as_bytes()]);
    Message { id: Some(0), ..Message::new(ber(0x78, &[&result_content(code, text), &name])) }
}

/// `ExtendedResponse`.
fn extended(code: u32) -> Message {
    Message::new(ber(0x78, &[&result_content(code, "")]))
}

fn result_content(code: u32, text: &str) -> Vec<u8> {
    let code: Vec<u8> = integer(code).into_iter().skip(1).collect();
    [&[0x0a], code.as_slice(), &octets(b""), &octets(text.as_bytes())].concat()
}

/// An element, with the shortest length.
pub(crate) fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(7)..];
    let head = match content.len() {
        0..0x80 => vec![tag, significant[0]],
        _ => [&[tag, 0x80 | significant.len() as u8], significant].concat(),
    };
    [head, content].concat()
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    ber(0x30, parts)
}

pub(crate) fn octets(bytes: &[u8]) -> Vec<u8> {
    ber(4, &[bytes])
}

fn boolean(value: bool) -> Vec<u8> {
    vec![1, 1, if value { 0xff } else { 0 }]
}

fn integer(value: u32) -> Vec<u8> {
    let bytes = u64::from(value).to_be_bytes();
    // A zero before a set top bit, which would make it negative.
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    let first = if bytes[first] & 0x80 != 0 { first - 1 } else { first };
    ber(2, &[&bytes[first..]])
}

/// Takes one element off the front: tag, content, and what follows. The clients here are honest.
fn take(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
    let (tag, first, rest) = (bytes[0], bytes[1], &bytes[2..]);
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (length, rest) = rest.split_at(usize::from(first & 0x7f));
        (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at(length);
    (tag, content, rest)
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
