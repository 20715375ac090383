//! A real service over a store in a temporary folder, for the tests of the API, the commands and the front
//! ends.

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::server::routes;
use crate::domain::admission::TakeOn;
use crate::domain::brake::Brake;
use crate::domain::license::Components;
use crate::domain::name::{Domain, Name, StableId};
use crate::domain::names::{DirectoryNames, NameRules};
use crate::domain::user::{Kind, Mapped};
use crate::net::http::with_fallbacks;
use crate::service::Service;
use crate::service::Settings;
use crate::service::answers::{DirectoryState, LossReport, SyncReport};
use crate::service::directories::{Board, DirectoryHandle, Progress, SyncCommand};
use crate::service::license::LicenseBoard;
use crate::service::listeners::ListenerBoard;
use crate::store::{Changes, Checkpoint, Policy, Store};

/// One directory `corp` of `example.org`, and two seats.
pub(crate) struct Fixture {
    pub(crate) service: Service,
    /// Holds the store's file.
    pub(super) folder: tempfile::TempDir,
    board: Board,
}

fn person(number: u32) -> Mapped {
    let name = |text: String| Name::parse(&text, None).unwrap();
    let mut id = [7; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Mapped {
        id: StableId::new(&id).unwrap(),
        kind: Kind::Person,
        enabled: true,
        seatless: false,
        logins: Vec::new(),
        addresses: vec![name(format!("u{number}@example.org"))],
        display_name: Some(format!("User {number}").into()),
        dn: format!("uid=u{number}").into(),
    }
}

impl Fixture {
    /// With the people `u1` to `u<people>`, of whom `u3` is disabled, and a list `all`.
    pub(crate) async fn new(people: u32) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let take_on = TakeOn { login: true, delivery: false };
        let policy = Policy {
            seat_limit: Some(2),
            seatless_limit: Some(0),
            directory_limits: [].into(),
            domain_limits: [].into(),
            take_on,
            names: NameRules::new(
                vec![DirectoryNames {
                    name: "corp".to_owned(),
                    domains: Vec::new(),
                    foreign_names: true,
                    login_is_address: true,
                    moved_from: Vec::new(),
                }],
                None,
            ),
            expired: None,
            components: Components::default(),
        };
        let (store, _writer) = Store::open(&folder.path().join("store.redb"), policy).unwrap();
        let directory = store.directory("corp").await.unwrap();
        let mut entries: Vec<Mapped> = (1..=people).map(person).collect();
        for entry in entries.iter_mut().skip(2).take(1) {
            entry.enabled = false;
        }
        let all = Name::parse("all@example.org", None).unwrap();
        entries.push(Mapped { kind: Kind::List, addresses: vec![all], ..person(u32::MAX) });
        let checkpoint = Some(Checkpoint { skipped: Some([].into()), ..Checkpoint::default() });
        let changes = Changes { upserts: entries, checkpoint, ..Changes::default() };
        store.apply(directory, changes, Timestamp::now()).await.unwrap();

        let domain = Domain::parse("example.org").unwrap();
        let settings = Settings {
            default_domain: Some(domain.clone()),
            directories: vec![("corp".to_owned(), vec![domain])],
            removal_grace: std::time::Duration::from_secs(7 * 86_400),
            state_dir: folder.path().to_owned(),
            protected: Vec::new(),
            reclaim_brake: Brake::OF_SEATS,
        };
        let board = Board::default();
        let service =
            Service::new(store, settings, board.clone(), ListenerBoard::default(), LicenseBoard::new().0);
        let fixture = Fixture { service, folder, board };
        fixture.add_loop("corp");
        fixture
    }

    pub(super) fn router(&self) -> axum::Router {
        with_fallbacks(routes(self.service.admin()))
    }

    /// Puts a directory on the board whose loop answers each command, `broken` with a failure and `held`
    /// with a tripped brake.
    pub(super) fn add_loop(&self, name: &str) {
        let (commands, mut queue) = mpsc::channel(4);
        let (_, progress) = watch::channel(Progress { state: DirectoryState::Idle, ..Progress::default() });
        let domain = "example.org".to_owned();
        self.board.insert(name, DirectoryHandle { domain, progress, commands });
        let directory = name.to_owned();
        tokio::spawn(async move {
            while let Some(command) = queue.recv().await {
                let (dry_run, reply) = match command {
                    SyncCommand::Sync { dry_run, reply, .. } => (dry_run, reply),
                    SyncCommand::Approve { reply, .. } => (false, reply),
                };
                let loss = LossReport { removed: 9, people: 9, empty: true, ..LossReport::default() };
                let report = SyncReport {
                    directory: directory.clone(),
                    dry_run,
                    seen: 5,
                    added: 1,
                    held: (directory == "held").then_some(loss),
                    ..SyncReport::default()
                };
                let failure = "the server refused the password".to_owned();
                // Whoever does not wait has no ear for the answer.
                let _ = reply.send(if directory == "broken" { Err(failure) } else { Ok(report) });
            }
        });
    }

    /// Puts a directory on the board whose loop takes no command.
    pub(super) fn add_stuck(&self, name: &str) {
        let (commands, _) = mpsc::channel(1);
        let (_, progress) = watch::channel(Progress::default());
        self.board.insert(name, DirectoryHandle { domain: "example.org".to_owned(), progress, commands });
    }
}
