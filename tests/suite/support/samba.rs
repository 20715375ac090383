//! A real Samba domain controller for Active Directory, in a temporary directory.
//!
//! ```no_run
//! let samba = SambaAd::start(Options { data: people(0..10), ..Options::default() });
//! samba.disable("CN=Person 1,OU=People,DC=ad,DC=example,DC=org");
//! samba.stop(); // hangs until samba.resume()
//! ```
//!
//! Its LDAP ports are fixed, so each server has a network namespace of its own, and relays listen for it
//! on ports that the kernel chose. That needs root. Making a domain takes seconds, so each is made once,
//! kept in cargo's directory for tests, and copied: all domains with the same data have the same GUIDs,
//! as restored backups would have. Tests bind as [`SambaAd::bind_dn`], an ordinary user; changes are made
//! by the administrator.

mod domain;
mod relay;

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::{Signal, geteuid, kill_process_group};
use tempfile::TempDir;

use self::domain::{configure, copy, domain, restrict};
use self::relay::{Network, Relay, listens};
use super::slapd::{certify, group, installed, run, wait_until_stopped};
use super::{PATIENCE, wait_at_most};

/// The domain's naming context.
pub(crate) const ROOT: &str = "DC=ad,DC=example,DC=org";

/// Holds the people.
pub(crate) const PEOPLE: &str = "OU=People,DC=ad,DC=example,DC=org";

const ADMIN_DN: &str = "CN=Administrator,CN=Users,DC=ad,DC=example,DC=org";
const ADMIN_PASSWORD: &str = "Admin-secret-1";
const BIND_DN: &str = "CN=Reader,CN=Users,DC=ad,DC=example,DC=org";
const BIND_PASSWORD: &str = "Reader-secret-1";

/// "Replicating Directory Changes" ([MS-ADTS] section 5.1.3.2.1).
const REPLICATING_CHANGES: &str = "1131f6aa-9c07-11d1-f79f-00c04fc2dcd2";

/// The schemaIDGUID of the attribute ([MS-ADA3] section 2.341).
const USER_ACCOUNT_CONTROL: &str = "bf967a68-0de6-11d0-a285-00aa003049e2";

/// LDAP_SERVER_SHOW_DELETED_OID ([MS-ADTS] section 3.1.1.3.4.1.14).
const SHOW_DELETED: &str = "!1.2.840.113556.1.4.417";

/// LDAP_SERVER_DIRSYNC_OID ([MS-ADTS] section 3.1.1.3.4.1.3).
const DIRSYNC: &str = "1.2.840.113556.1.4.841";

const LDAP_PORT: u16 = 389;
const LDAPS_PORT: u16 = 636;

/// Two keys of 4,096 bits are generated where the server makes its own certificate.
const START_PATIENCE: Duration = PATIENCE.saturating_mul(2);

/// How a domain controller is set up.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// LDIF that is loaded below [`PEOPLE`] (and may be anywhere below [`ROOT`]): see [`people`].
    pub(crate) data: String,
    /// Names and addresses that the certificate is for. Without any, Samba makes its own certificate,
    /// which has no name but a common name.
    pub(crate) certificate_names: Vec<String>,
    /// Binds without encryption are let in, so that a test can tamper with what is said.
    pub(crate) is_plain: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            data: String::new(),
            certificate_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            is_plain: false,
        }
    }
}

/// A running domain controller.
pub(crate) struct SambaAd {
    dir: TempDir,
    process: Option<Child>,
    /// Where the present process listens.
    network: Arc<Network>,
    ldap: Relay,
    ldaps: Relay,
}

impl SambaAd {
    /// Copies the domain with this data and starts a server on it; returns when it listens.
    pub(crate) fn start(options: Options) -> SambaAd {
        assert!(geteuid().is_root(), "Samba's tests need root, for a network namespace of their own");
        let dir = tempfile::tempdir().unwrap();
        copy(&domain(&options.data), dir.path());
        configure(dir.path(), options.is_plain);
        let password_file = dir.path().join("bind.password");
        fs::write(&password_file, format!("{BIND_PASSWORD}\n")).unwrap();
        restrict(&password_file);
        if !options.certificate_names.is_empty() {
            certify(dir.path(), &options.certificate_names);
            let tls = dir.path().join("private/tls");
            for (ours, theirs) in
                [("ca.pem", "ca.pem"), ("server.pem", "cert.pem"), ("server.key", "key.pem")]
            {
                fs::rename(dir.path().join(ours), tls.join(theirs)).unwrap();
            }
            restrict(&tls.join("key.pem"));
        }
        let network = Arc::new(Network::default());
        let (ldap, ldaps) = (Relay::start(&network, LDAP_PORT), Relay::start(&network, LDAPS_PORT));
        let mut samba = SambaAd { dir, process: None, network, ldap, ldaps };
        samba.launch();
        samba
    }

    /// `ldap://127.0.0.1:PORT`, where a bind is refused unless the options say otherwise: Samba wants encryption.
    pub(crate) fn url(&self) -> String {
        format!("ldap://{}", self.ldap.address)
    }

    /// `ldaps://127.0.0.1:PORT`.
    pub(crate) fn ldaps_url(&self) -> String {
        format!("ldaps://{}", self.ldaps.address)
    }

    /// The authority that signed the server's certificate, in PEM.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("private/tls/ca.pem")
    }

    /// Makes the server refuse DirSync at [`url`](SambaAd::url): its control comes without being critical, which it
    /// must be. Its root DSE shows the control all the same.
    pub(crate) fn refuse_dirsync(&self) {
        let control = |critical: u8| [DIRSYNC.as_bytes(), &[0x01, 0x01, critical]].concat();
        self.write_over(&control(0xff), 0, &control(0));
    }

    /// Writes over what is asked at [`url`](SambaAd::url): so many bytes after the place where some bytes begin.
    pub(crate) fn write_over(&self, place: &[u8], after: usize, new: &[u8]) {
        let (place, new) = (place.to_vec(), new.to_vec());
        self.ldap.edit(Box::new(move |request| {
            if let Some(at) = request.windows(place.len()).position(|window| window == place) {
                let over = request.iter_mut().skip(at + after);
                over.zip(&new).for_each(|(old, new)| *old = *new);
            }
        }));
    }

    /// Lets requests through as they are.
    pub(crate) fn be_honest(&self) {
        self.ldap.be_honest();
    }

    /// Lets so many more bytes of answers through from both ports; what follows is lost.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.ldap.cut_after(bytes);
        self.ldaps.cut_after(bytes);
    }

    /// Waits until answers were lost.
    pub(crate) fn wait_until_cut(&self) {
        super::wait_for("answers to be cut", || (self.ldap.is_cut() || self.ldaps.is_cut()).then_some(()));
    }

    /// Lets all answers through.
    pub(crate) fn mend(&self) {
        self.cut_after(usize::MAX);
    }

    /// The administrator, who may see deleted entries, and the file with their password.
    pub(crate) fn administrator(&self) -> (&'static str, PathBuf) {
        let file = self.dir.path().join("admin.password");
        fs::write(&file, format!("{ADMIN_PASSWORD}\n")).unwrap();
        restrict(&file);
        (ADMIN_DN, file)
    }

    /// A copy of the database of a server that doesn't run, as a virtual machine's snapshot would have it.
    pub(crate) fn backup(&self) -> TempDir {
        assert!(self.process.is_none(), "samba runs");
        let backup = tempfile::tempdir().unwrap();
        copy(&self.dir.path().join("private"), backup.path());
        backup
    }

    /// Puts a copy back, out of order: the database does not know that it is older.
    pub(crate) fn restore(&self, backup: &TempDir) {
        assert!(self.process.is_none(), "samba runs");
        let private = self.dir.path().join("private");
        fs::remove_dir_all(&private).unwrap();
        copy(backup.path(), &private);
    }

    /// Begins another life of a database that no server runs on, as an orderly restore does.
    pub(crate) fn begin_another_life(&self) {
        assert!(self.process.is_none(), "samba runs");
        let settings = format!(
            "CN=NTDS Settings,CN=DC1,CN=Servers,CN=Default-First-Site-Name,CN=Sites,CN=Configuration,{ROOT}"
        );
        let id = BASE64.encode([7; 16]);
        let ldif =
            format!("dn: {settings}\nchangetype: modify\nreplace: invocationId\ninvocationId:: {id}\n");
        let mut command = installed("ldbmodify", PACKAGES);
        command.arg("--configfile").arg(self.dir.path().join("smb.conf"));
        command.arg("-H").arg(self.dir.path().join("private/sam.ldb"));
        run(command.env("TDB_NO_FSYNC", "1"), &ldif);
    }

    /// Who reads: an ordinary user, with the right to read what every user may read.
    pub(crate) fn bind_dn(&self) -> &'static str {
        BIND_DN
    }

    /// Holds the password of [`bind_dn`](SambaAd::bind_dn) and a newline; a test may write another into it.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.dir.path().join("bind.password")
    }

    /// Change records, as in ldapmodify(1).
    pub(crate) fn modify(&self, ldif: &str) {
        run(&mut self.client("ldapmodify"), ldif);
    }

    /// Entries, as in ldapadd(1).
    pub(crate) fn add(&self, ldif: &str) {
        run(&mut self.client("ldapadd"), ldif);
    }

    /// Deletes one entry: a tombstone below `CN=Deleted Objects` is left.
    pub(crate) fn delete(&self, dn: &str) {
        run(self.client("ldapdelete").arg(dn), "");
    }

    /// Gives an entry another name, which replaces the old one: `rename("CN=a,…", "CN=b")`.
    pub(crate) fn rename(&self, dn: &str, new_rdn: &str) {
        run(self.client("ldapmodrdn").args(["-r", dn, new_rdn]), "");
    }

    /// Moves an entry with its name to another parent.
    pub(crate) fn move_to(&self, dn: &str, parent: &str) {
        let (rdn, _) = dn.split_once(',').unwrap();
        run(self.client("ldapmodrdn").args(["-r", "-s", parent, dn, rdn]), "");
    }

    /// Replaces an attribute by one value.
    pub(crate) fn replace(&self, dn: &str, name: &str, value: &str) {
        self.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: {name}\n{name}: {value}\n"));
    }

    /// Takes an attribute away.
    pub(crate) fn remove(&self, dn: &str, name: &str) {
        self.modify(&format!("dn: {dn}\nchangetype: modify\ndelete: {name}\n"));
    }

    /// NORMAL_ACCOUNT, PASSWD_NOTREQD and ACCOUNTDISABLE ([MS-ADTS] section 2.2.16).
    pub(crate) fn disable(&self, dn: &str) {
        self.replace(dn, "userAccountControl", "546");
    }

    /// The same without ACCOUNTDISABLE.
    pub(crate) fn enable(&self, dn: &str) {
        self.replace(dn, "userAccountControl", "544");
    }

    /// Makes an entry of a tombstone again ([MS-ADTS] section 3.1.1.5.3.7). Attributes such as `mail` are
    /// gone; the GUID is the same.
    pub(crate) fn undelete(&self, login: &str, dn: &str) {
        let tombstone = self.tombstone(login);
        let change = "changetype: modify\ndelete: isDeleted\n-\nreplace: distinguishedName\n";
        let ldif = format!("dn: {tombstone}\n{change}distinguishedName: {dn}\n");
        run(self.client("ldapmodify").args(["-e", SHOW_DELETED]), &ldif);
    }

    /// The DN of a deleted user.
    #[track_caller]
    pub(crate) fn tombstone(&self, login: &str) -> String {
        let filter = format!("(&(isDeleted=TRUE)(sAMAccountName={login}))");
        let mut search = self.searcher(ROOT, &filter, &["1.1"]);
        let found = String::from_utf8(run(search.args(["-E", SHOW_DELETED]), "").stdout).unwrap();
        let dn = found.lines().find_map(|line| line.strip_prefix("dn: "));
        dn.unwrap_or_else(|| panic!("no tombstone of {login}:\n{found}")).to_owned()
    }

    /// What ldapsearch(1) prints for the administrator.
    pub(crate) fn search(&self, base: &str, filter: &str, attributes: &[&str]) -> String {
        String::from_utf8(run(&mut self.searcher(base, filter, attributes), "").stdout).unwrap()
    }

    /// The raw objectGUID of an entry.
    #[track_caller]
    pub(crate) fn guid(&self, dn: &str) -> Vec<u8> {
        let found = self.search(dn, "(objectClass=*)", &["objectGUID"]);
        // Random bytes are as good as never printable, but may be.
        let guid = found.lines().find_map(|line| line.strip_prefix("objectGUID:")).unwrap();
        match guid.strip_prefix(": ") {
            Some(base64) => BASE64.decode(base64).unwrap(),
            None => guid.trim_start_matches(' ').as_bytes().to_vec(),
        }
    }

    /// Lets the bind user ask for DirSync without the flag for its own rights.
    pub(crate) fn allow_replication(&self) {
        self.set_right(ROOT, &format!("OA;;CR;{REPLICATING_CHANGES};"));
    }

    /// Hides from the bind user whether an account is enabled.
    pub(crate) fn hide_account_state(&self, dn: &str) {
        self.set_right(dn, &format!("OD;;RP;{USER_ACCOUNT_CONTROL};"));
    }

    /// An access control entry of an object for the bind user, without its end.
    fn set_right(&self, dn: &str, right: &str) {
        let mut show = self.tool(&["user", "show", "Reader", "--attributes=objectSid"]);
        let shown = String::from_utf8(run(&mut show, "").stdout).unwrap();
        let sid = shown.lines().find_map(|line| line.strip_prefix("objectSid: ")).unwrap();
        let (object, right) = (format!("--objectdn={dn}"), format!("--sddl=({right};{sid})"));
        run(&mut self.tool(&["dsacl", "set", &object, &right]), "");
    }

    /// `kill -9`, as a crash; `restart` brings it back. Meanwhile a new connection is closed at once.
    pub(crate) fn kill(&mut self) {
        self.network.leave();
        if let Some(mut process) = self.process.take() {
            kill_process_group(group(&process), Signal::KILL).unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts the server again, on the same ports and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.launch();
    }

    /// SIGSTOP: connections open and nothing is answered. Returns when every thread has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until_stopped(self.process.as_ref().expect("samba is not running"));
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// What the server wrote since it was started last.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("samba is not running");
        kill_process_group(group(process), signal).unwrap();
    }

    fn launch(&mut self) {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let samba = installed("samba", PACKAGES);
        // Each program becomes the next one, so the process is Samba itself.
        let mut command = installed("unshare", "util-linux");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        command.arg(samba.get_program()).args(["-i", "-M", "single", "--debug-stdout"]);
        command.arg("--configfile").arg(self.dir.path().join("smb.conf"));
        // Samba ends at the end of its input, so it does not survive a test that was killed.
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TDB_NO_FSYNC", "1");
        let process = self.process.insert(command.spawn().unwrap());
        let proc = PathBuf::from(format!("/proc/{}", process.id()));
        let is_running = wait_at_most(START_PATIENCE, "samba to start", || {
            if process.try_wait().unwrap().is_some() {
                return Some(false);
            }
            listens(&proc, &[LDAP_PORT, LDAPS_PORT]).then_some(true)
        });
        if !is_running {
            self.process = None;
        }
        assert!(is_running, "samba does not start (apt-get install {PACKAGES} iproute2?):\n{}", self.log());
        self.network.enter_from_now_on(File::open(proc.join("ns/net")).unwrap());
    }

    fn client(&self, program: &str) -> Command {
        let mut command = installed(program, "ldap-utils");
        command.args(["-x", "-H", &self.ldaps_url(), "-D", ADMIN_DN, "-w", ADMIN_PASSWORD]);
        // The certificate that Samba makes has no name to check.
        let check = if self.dir.path().join("other-ca.pem").exists() { "demand" } else { "never" };
        command.env("LDAPTLS_CACERT", self.ca_file()).env("LDAPTLS_REQCERT", check);
        command
    }

    fn searcher(&self, base: &str, filter: &str, attributes: &[&str]) -> Command {
        let mut search = self.client("ldapsearch");
        search.args(["-LLL", "-o", "ldif-wrap=no", "-b", base, filter]).args(attributes);
        search
    }

    /// samba-tool(8) on the database, which the server shares.
    fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = installed("samba-tool", "samba");
        command.args(arguments).arg("--configfile").arg(self.dir.path().join("smb.conf"));
        command.arg("-H").arg(self.dir.path().join("private/sam.ldb"));
        command
    }
}

impl Drop for SambaAd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a machine needs.
const PACKAGES: &str = "samba samba-ad-provision samba-dsdb-modules samba-vfs-modules ldb-tools";

/// LDIF of numbered people below [`PEOPLE`], enabled and without a password.
pub(crate) fn people(numbers: Range<u32>) -> String {
    numbers.map(person).collect()
}

/// LDIF of one of them.
pub(crate) fn person(number: u32) -> String {
    format!(
        "dn: {}\nobjectClass: user\nsAMAccountName: u{number}\nuserPrincipalName: u{number}@ad.example.org\n\
         displayName: Person Number {number}\nmail: u{number}@example.org\nuserAccountControl: 544\n\n",
        dn(number)
    )
}

/// The DN of a numbered person.
pub(crate) fn dn(number: u32) -> String {
    format!("CN=Person {number},{PEOPLE}")
}
