//! The listeners that run, and how a reload changes them without dropping a connection.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axum::Router;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin;
use crate::config::{Bind, Listener, Protocol};
use crate::domain::mail_server::{Backends, MailboxTemplate, RecipientPolicy};
use crate::front;
use crate::front::dovecot_auth::DovecotAuth;
use crate::front::postfix_policy::PostfixPolicy;
use crate::front::saslauthd::Saslauthd;
use crate::front::socketmap::Socketmap;
use crate::net::dialogue::{Dialogue, converse};
use crate::net::http::{self, with_fallbacks};
use crate::net::serve::serve;
use crate::net::socket::{BindError, Socket, set_mode};
use crate::service::Service;
use crate::service::listeners::{ListenerBoard, ListenerEntry};
use crate::service::passwords::Authenticator;

/// Who may administer: the daemon's user and group.
const CONTROL_MODE: u32 = 0o660;

/// Administrators' connections: a person, and a few scripts.
const CONTROL_CONNECTIONS: usize = 64;

/// All listeners of the daemon.
pub struct Listeners {
    service: Service,
    authenticator: Authenticator,
    board: ListenerBoard,
    running: Vec<Running>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Running {
    listener: Listener,
    entry: ListenerEntry,
    max_connections: watch::Sender<usize>,
    settings: Settings,
    stop: CancellationToken,
}

/// A socket, and how to treat its connections.
struct Accepting {
    socket: Socket,
    connections: Arc<AtomicUsize>,
    limit: watch::Receiver<usize>,
    stop: CancellationToken,
}

/// The settings of a front end that a reload may change.
enum Settings {
    None,
    PostfixPolicy(watch::Sender<RecipientPolicy>),
    Socketmap(watch::Sender<MailboxTemplate>),
    NginxAuth(watch::Sender<Backends>),
}

impl Settings {
    fn set(&self, protocol: &Protocol) {
        match (self, protocol) {
            (Settings::PostfixPolicy(settings), Protocol::PostfixPolicy(policy)) => {
                settings.send_replace(*policy);
            }
            (Settings::Socketmap(settings), Protocol::Socketmap(template)) => {
                settings.send_replace(template.clone());
            }
            (Settings::NginxAuth(settings), Protocol::NginxAuth(backends)) => {
                settings.send_replace(*backends);
            }
            _ => {}
        }
    }
}

impl Running {
    /// Takes over what may differ in a listener that stays.
    fn change(&mut self, wanted: Listener) {
        self.max_connections.send_replace(wanted.max_connections);
        self.settings.set(&wanted.protocol);
        if let Bind::Unix(path) = &wanted.bind
            && wanted.socket_mode != self.listener.socket_mode
            && let Err(error) = set_mode(path, wanted.socket_mode)
        {
            warn!(listener = self.entry.bind, error = %error, "The mode of {} stays as it was: {error}.", self.entry.bind);
        }
        self.listener = wanted;
    }
}

/// New sockets, bound already, so that nothing changes when one of them cannot be had.
pub struct Plan {
    wanted: Vec<Listener>,
    bound: Vec<(Listener, Socket)>,
}

impl Listeners {
    /// No listener yet. `stop` ends all of them.
    pub fn new(
        service: Service,
        authenticator: Authenticator,
        board: ListenerBoard,
        stop: CancellationToken,
    ) -> Listeners {
        Listeners { service, authenticator, board, running: Vec::new(), tasks: TaskTracker::new(), stop }
    }

    /// Serves the administration API on the control socket.
    pub async fn serve_control(&self, bind: &Bind) -> Result<(), BindError> {
        let socket = Socket::bind(bind, CONTROL_MODE).await?;
        let checks = front::http::routes(self.service.admission(), self.authenticator.clone());
        let router = with_fallbacks(checks.merge(admin::server::routes(self.service.admin())));
        let (_, max_connections) = watch::channel(CONTROL_CONNECTIONS);
        let connections = Arc::new(AtomicUsize::new(0));
        let stop = self.stop.clone();
        self.tasks.spawn(serve(socket, connections, max_connections, stop, move |stream, stop| {
            http::connection(stream, router.clone(), stop, false)
        }));
        Ok(())
    }

    /// Binds what is wanted and not there yet.
    pub async fn plan(&self, wanted: &[Listener]) -> Result<Plan, BindError> {
        let mut bound = Vec::new();
        for listener in missing(&self.running, wanted) {
            let socket = Socket::bind(&listener.bind, listener.socket_mode).await?;
            bound.push((listener, socket));
        }
        Ok(Plan { wanted: wanted.to_vec(), bound })
    }

    /// Ends what is no longer wanted (open connections finish their request), starts what is new.
    pub fn apply(&mut self, Plan { mut wanted, bound }: Plan) {
        let mut kept = Vec::new();
        for mut running in self.running.drain(..) {
            match wanted.iter().position(|listener| is_same(listener, &running.listener)) {
                Some(at) => {
                    running.change(wanted.swap_remove(at));
                    kept.push(running);
                }
                None => {
                    info!(listener = running.entry.bind, "No longer listening on {}.", running.entry.bind);
                    running.stop.cancel();
                }
            }
        }
        self.running = kept;
        for (listener, socket) in bound {
            self.start(listener, socket);
        }
        self.board.set(self.running.iter().map(|running| running.entry.clone()).collect());
    }

    fn start(&mut self, listener: Listener, socket: Socket) {
        let connections = Arc::new(AtomicUsize::new(0));
        let entry = ListenerEntry {
            kind: listener.protocol.kind().to_owned(),
            bind: socket.shown().to_owned(),
            connections: Arc::clone(&connections),
        };
        info!(kind = entry.kind, listener = entry.bind, "Listening on {}.", entry.bind);
        let (max_connections, limit) = watch::channel(listener.max_connections);
        let stop = self.stop.child_token();
        let accepting = Accepting { socket, connections, limit, stop: stop.clone() };
        let settings = self.serve(&listener.protocol, accepting);
        self.running.push(Running { listener, entry, max_connections, settings, stop });
    }

    /// Starts a front end; what comes back changes its settings.
    fn serve(&self, protocol: &Protocol, accepting: Accepting) -> Settings {
        let (admission, admin) = (self.service.admission(), self.service.admin());
        let authenticator = self.authenticator.clone();
        match protocol.clone() {
            Protocol::Http => {
                let routes =
                    front::http::routes(admission, authenticator).merge(admin::server::status_route(admin));
                self.serve_http(routes, accepting);
            }
            Protocol::DovecotPolicy => self.serve_http(front::dovecot_policy::routes(admission), accepting),
            Protocol::PostfixPolicy(policy) => {
                let (settings, policy) = watch::channel(policy);
                self.converse(accepting, move || PostfixPolicy::new(admission.clone(), policy.clone()));
                return Settings::PostfixPolicy(settings);
            }
            Protocol::Socketmap(template) => {
                let (settings, template) = watch::channel(template);
                self.converse(accepting, move || Socketmap::new(admission.clone(), template.clone()));
                return Settings::Socketmap(settings);
            }
            Protocol::DovecotAuth => {
                self.converse(accepting, move || DovecotAuth::new(authenticator.clone()));
            }
            Protocol::Saslauthd => self.converse(accepting, move || Saslauthd::new(authenticator.clone())),
            Protocol::NginxAuth(backends) => {
                let (settings, backends) = watch::channel(backends);
                self.serve_http(front::nginx_auth::routes(authenticator, backends), accepting);
                return Settings::NginxAuth(settings);
            }
        }
        Settings::None
    }

    fn serve_http(&self, routes: Router, Accepting { socket, connections, limit, stop }: Accepting) {
        let router = with_fallbacks(routes);
        self.tasks.spawn(serve(socket, connections, limit, stop, move |stream, stop| {
            http::connection(stream, router.clone(), stop, true)
        }));
    }

    fn converse<D: Dialogue + 'static>(
        &self,
        Accepting { socket, connections, limit, stop }: Accepting,
        dialogue: impl Fn() -> D + Send + 'static,
    ) {
        self.tasks.spawn(serve(socket, connections, limit, stop, move |stream, stop| {
            converse(stream, dialogue(), stop)
        }));
    }

    /// Waits until every listener has ended and its connections are drained.
    pub async fn drained(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The same socket for the same protocol; limits and settings may differ.
fn is_same(one: &Listener, other: &Listener) -> bool {
    one.protocol.kind() == other.protocol.kind() && one.bind == other.bind
}

/// Wanted listeners that do not run. Each running one counts once, since port 0 may be wanted twice.
fn missing(running: &[Running], wanted: &[Listener]) -> Vec<Listener> {
    let mut there: Vec<&Listener> = running.iter().map(|running| &running.listener).collect();
    let mut missing = Vec::new();
    for listener in wanted {
        match there.iter().position(|running| is_same(running, listener)) {
            Some(at) => drop(there.swap_remove(at)),
            None => missing.push(listener.clone()),
        }
    }
    missing
}
