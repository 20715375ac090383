//! Synchronization with a server that misbehaves: nobody is removed by it, the cookie does not move past
//! it, the daemon goes on, and says what was wrong.

use crate::support::daemon::{Daemon, Settings, directory};
use crate::support::fake_ldap::{FakeLdap, Kind};

/// A daemon that has mapped everybody.
fn daemon(fake: &FakeLdap, keys: &str) -> Daemon {
    let tables = fake.directory(&format!("poll_every = \"1h\"\n{keys}"));
    Daemon::start(Settings { tables, ..Settings::default() })
}

#[test]
fn the_fake_server_is_honest_unless_told_otherwise() {
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
        assert_eq!(status["users"]["total"], 20, "{status:#}");
        fake.add(100);
        fake.remove(3);
        daemon.sync("corp").unwrap();
        let status = daemon.status();
        assert_eq!(
            (&status["users"]["total"], daemon.probe("u100").as_str()),
            (&20.into(), "granted"),
            "{status:#}"
        );
        assert_eq!(daemon.probe("u3"), "removed");
        daemon.agrees();
    }
}
