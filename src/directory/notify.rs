//! Change notification ([MS-ADTS] section 3.1.1.3.4.1.9): a domain controller says that something was written, so
//! that a poll need not wait for its time.
//!
//! It is a hint: what it says is not looked at, but whether a machine was written, which is never mapped. It has a
//! connection of its own, which may break, hang or be refused; polls go on at their time, and it is opened again.

use std::sync::Arc;
use std::time::Duration;

use ldap3::controls::RawControl;
use ldap3::exop::WhoAmI;
use ldap3::{Scope, SearchStream};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::ber;
use super::guard::guarded;
use super::ldap::{Connection, Session};
use super::root_dse::texts;
use super::usn::SHOW_DELETED;
use crate::domain::directory::LdapSource;
use crate::domain::mapping::Entry;

/// LDAP_SERVER_NOTIFICATION_OID.
pub(super) const NOTIFICATION: &str = "1.2.840.113556.1.4.528";

/// The only filter that servers take with it.
const ANYTHING: &str = "(objectClass=*)";

const OBJECT_CLASS: &str = "objectClass";

/// Silence after which the server is asked whether it still lives; it also keeps an idle connection open, which
/// Active Directory ends after 15 minutes.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);

/// Time for the answer to that.
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(10);

/// Before a connection that ended is opened again: it is not needed, so a server that refuses it is left in peace.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Watches one server until it is dropped.
#[derive(Debug)]
pub struct Watch {
    woken: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Watch {
    /// Begins to watch the first of the source's servers.
    pub fn start(source: LdapSource) -> Watch {
        let woken = Arc::new(Notify::new());
        let wake = Arc::clone(&woken);
        let watching = async move {
            loop {
                // How it ended is of no interest: a poll says what is wrong with the server.
                watch(&source, &wake).await;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        };
        Watch { woken, _task: AbortOnDropHandle::new(tokio::spawn(watching)) }
    }

    /// Waits until something was written since the last time. May be dropped.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }
}

async fn watch(source: &LdapSource, wake: &Arc<Notify>) -> Option<()> {
    let connection = Connection::open(source, 0).await.ok()?;
    let controller = connection.server().controller.clone();
    // Active Directory takes no other base for a subtree.
    let root = controller.naming_context(source.base_dn.as_str()).map(str::to_owned)?;
    let watcher = Watcher { root, read: source.timeouts.read, wake: Arc::clone(wake) };
    // The library panics on some malformed messages.
    guarded(watcher.run(connection.into_session()?)).await.ok()?
}

struct Watcher {
    root: String,
    read: Duration,
    wake: Arc<Notify>,
}

impl Watcher {
    /// Runs until the connection or the search ends.
    async fn run(self, mut session: Session) -> Option<()> {
        let (ldap, line) = session.parts();
        // Deletions are told to whoever may see deleted entries.
        ldap.with_controls(vec![
            RawControl { ctype: NOTIFICATION.to_owned(), crit: true, val: None },
            RawControl { ctype: SHOW_DELETED.to_owned(), crit: false, val: None },
        ]);
        let search = ldap.streaming_search(&self.root, Scope::Subtree, ANYTHING, [OBJECT_CLASS]);
        let started = tokio::time::timeout(self.read, line.with(search)).await.ok()?;
        let mut stream: SearchStream<'static, &str, [&str; 1]> = started.ok()?;
        // What was written before it stood.
        self.wake.notify_one();
        loop {
            let (ldap, line) = session.parts();
            match tokio::time::timeout(HEARTBEAT_EVERY, line.with(stream.next())).await {
                Ok(Ok(Some(item))) => {
                    if !item.is_ref() && !item.is_intermediate() && !is_machine(&ber::entry(item.0).ok()?) {
                        self.wake.notify_one();
                    }
                }
                Ok(Ok(None) | Err(_)) => return None,
                Err(_) => {
                    let answer = line.with(ldap.extended(WhoAmI));
                    // Any answer will do: a server may not know the operation.
                    tokio::time::timeout(HEARTBEAT_DEADLINE, answer).await.ok()?.ok()?;
                }
            }
        }
    }
}

fn is_machine(entry: &Entry) -> bool {
    texts(entry, OBJECT_CLASS).any(|class| class.eq_ignore_ascii_case("computer"))
}
