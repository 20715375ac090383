//! A real OpenLDAP server in a temporary directory.
//!
//! ```no_run
//! let slapd = Slapd::start(Options { data: people(0..10), ..Options::default() });
//! slapd.modify("dn: uid=u1,ou=people,dc=example,dc=org\nchangetype: modify\nreplace: sn\nsn: New\n");
//! slapd.stop(); // hangs until slapd.resume()
//! ```
//!
//! It listens with and without TLS on ports of its own, in a process group of its own, which dies with the
//! value. Tests bind as [`Slapd::bind_dn`], whom limits and access rules hold; changes are
//! made by the root DN, whom they don't.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{assert_may_start, free_port, wait_for};

/// The database's suffix.
pub(crate) const SUFFIX: &str = "dc=example,dc=org";

/// Holds the people: the base of a sweep.
pub(crate) const PEOPLE: &str = "ou=people,dc=example,dc=org";

const ROOT_DN: &str = "cn=root,dc=example,dc=org";
pub(super) const ROOT_PASSWORD: &str = "root-secret";
pub(crate) const BIND_DN: &str = "cn=reader,dc=example,dc=org";
pub(crate) const BIND_PASSWORD: &str = "reader-secret";

/// The database may grow to this; of the file only what is used takes space. A million people are some 2 GiB.
const MAP_BYTES: u64 = 8 << 30;

/// How a server is set up.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// LDIF that is loaded below [`PEOPLE`] (and may be anywhere below [`SUFFIX`]): see [`people`].
    pub(crate) data: String,
    /// `limits` of the bind DN, in the words of slapd.conf(5).
    pub(crate) limits: String,
    /// `access` directives of the database.
    pub(crate) access: String,
    /// More lines inside the database section: overlays, indexes.
    pub(crate) database: String,
    /// More lines before the database section: modules.
    pub(crate) global: String,
    /// Names and addresses that the certificate is for.
    pub(crate) certificate_names: Vec<String>,
}

impl Options {
    /// A server that tells its changes: the syncprov overlay, with a session log.
    pub(crate) fn provider(data: String) -> Options {
        Options {
            data,
            global: "moduleload syncprov\n".to_owned(),
            database: "overlay syncprov\nsyncprov-sessionlog 1000\n".to_owned(),
            ..Options::default()
        }
    }

    /// A server that holds nothing yet, and copies all that a provider has: its syncrepl with its
    /// defaults, and the indexes that it needs.
    pub(crate) fn consumer(provider: &Slapd) -> Options {
        let syncrepl = format!(
            "syncrepl rid=1 provider={} type=refreshOnly searchbase=\"{SUFFIX}\" bindmethod=simple\n \
             binddn=\"{ROOT_DN}\" credentials={ROOT_PASSWORD}\nindex entryUUID,entryCSN eq\n",
            provider.url()
        );
        Options { database: syncrepl, ..Options::default() }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            data: String::new(),
            limits: "size=unlimited time=unlimited".to_owned(),
            access: "access to attrs=userPassword by anonymous auth\naccess to * by * read\n".to_owned(),
            database: String::new(),
            global: String::new(),
            certificate_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        }
    }
}

/// A running server.
pub(crate) struct Slapd {
    dir: TempDir,
    ports: Ports,
    process: Option<Child>,
}

#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub(super) ldap: u16,
    pub(super) ldaps: u16,
}

impl Ports {
    pub(super) fn free() -> Ports {
        Ports { ldap: free_port(), ldaps: free_port() }
    }
}

impl Slapd {
    /// Loads the data and starts the server; returns when it answers.
    pub(crate) fn start(options: Options) -> Slapd {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("db")).unwrap();
        fs::write(dir.path().join("slapd.conf"), configuration(dir.path(), &options)).unwrap();
        let password_file = dir.path().join("bind.password");
        fs::write(&password_file, format!("{BIND_PASSWORD}\n")).unwrap();
        fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600)).unwrap();
        certify(dir.path(), &options.certificate_names);
        load(dir.path(), &options.data);
        let mut slapd = Slapd { dir, ports: Ports::free(), process: None };
        assert!(slapd.launch(), "slapd does not start:\n{}", slapd.log());
        slapd
    }

    /// `ldap://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.ports.ldap)
    }

    /// Where it listens without TLS.
    pub(crate) fn port(&self) -> u16 {
        self.ports.ldap
    }

    /// Where it listens with TLS.
    pub(crate) fn tls_port(&self) -> u16 {
        self.ports.ldaps
    }

    /// `ldaps://127.0.0.1:PORT`.
    pub(crate) fn ldaps_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.ports.ldaps)
    }

    /// The authority that signed the server's certificate, in PEM.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// An authority that signed nothing, in PEM.
    pub(crate) fn other_ca_file(&self) -> PathBuf {
        self.dir.path().join("other-ca.pem")
    }

    /// A file in the server's directory: `client.pem`, `client.key`, and the same of `renewed`, `expired` and
    /// `foreign`, are certificates for the common name of [`bind_dn`](Slapd::bind_dn).
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Who reads: limits and access rules hold for it.
    pub(crate) fn bind_dn(&self) -> &'static str {
        BIND_DN
    }

    /// Holds the password of [`bind_dn`](Slapd::bind_dn) and a newline; a test may write another into it.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.dir.path().join("bind.password")
    }

    /// Change records, as in ldapmodify(1).
    pub(crate) fn modify(&self, ldif: &str) {
        run(&mut self.client("ldapmodify"), ldif);
    }

    /// Entries, as in ldapadd(1); an entryUUID among the attributes is kept.
    pub(crate) fn add(&self, ldif: &str) {
        run(self.client("ldapadd").args(["-e", "relax"]), ldif);
    }

    /// Deletes one entry.
    pub(crate) fn delete(&self, dn: &str) {
        run(self.client("ldapdelete").arg(dn), "");
    }

    /// Deletes an entry and everything below it.
    pub(crate) fn delete_tree(&self, dn: &str) {
        run(self.client("ldapdelete").arg("-r").arg(dn), "");
    }

    /// Gives an entry another name, which replaces the old one: `rename("uid=a,…", "uid=b")`.
    pub(crate) fn rename(&self, dn: &str, new_rdn: &str) {
        run(self.client("ldapmodrdn").arg("-r").arg(dn).arg(new_rdn), "");
    }

    /// What ldapsearch(1) prints for the root DN.
    pub(crate) fn search(&self, base: &str, filter: &str, attributes: &[&str]) -> String {
        let mut search = self.client("ldapsearch");
        search.args(["-LLL", "-o", "ldif-wrap=no", "-b", base, filter]).args(attributes);
        String::from_utf8(run(&mut search, "").stdout).unwrap()
    }

    /// `kill -9`, as a crash; `restart` brings it back.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            kill_process_group(group(&process), Signal::KILL).unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts the server again, on the same ports and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "slapd does not start again:\n{}", self.log());
    }

    /// Puts other data in the place of all that there was, as restoring a backup does, and starts again.
    pub(crate) fn restore(&mut self, data: &str) {
        self.kill();
        fs::remove_dir_all(self.dir.path().join("db")).unwrap();
        fs::create_dir(self.dir.path().join("db")).unwrap();
        load(self.dir.path(), data);
        self.restart();
    }

    /// Puts another server's data in the place of all that there was: both are restarted.
    pub(crate) fn copy(&mut self, other: &mut Slapd) {
        self.kill();
        other.kill();
        let mut copy = installed("cp", "coreutils");
        run(copy.args(["-a", "--sparse=always"]).arg(other.dir.path().join("db")).arg(self.dir.path()), "");
        self.restart();
        other.restart();
    }

    /// All that is in the database, as slapcat(8) saves it.
    pub(crate) fn save(&self) -> String {
        let mut save = installed("slapcat", "slapd");
        let output = run(save.arg("-f").arg(self.dir.path().join("slapd.conf")), "");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Puts back what was saved, or nothing at all, in the place of all that there was, and starts again.
    pub(crate) fn restore_saved(&mut self, saved: &str) {
        self.kill();
        fs::remove_dir_all(self.dir.path().join("db")).unwrap();
        fs::create_dir(self.dir.path().join("db")).unwrap();
        if !saved.is_empty() {
            slapadd(self.dir.path(), saved);
        }
        self.restart();
    }

    /// Other limits, access rules or overlays on the same data: a restart. The data and the certificate
    /// stay as they are.
    pub(crate) fn reconfigure(&mut self, options: &Options) {
        self.kill();
        fs::write(self.dir.path().join("slapd.conf"), configuration(self.dir.path(), options)).unwrap();
        self.restart();
    }

    /// SIGSTOP: connections open and nothing is answered. Returns when every thread has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until_stopped(self.process.as_ref().expect("slapd is not running"));
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
        let process = self.process.as_ref().expect("slapd is not running");
        kill_process_group(group(process), signal).unwrap();
    }

    /// True when the server runs, false when it gave up, as it does when a port is taken.
    fn launch(&mut self) -> bool {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let urls = format!("{} {}", self.url(), self.ldaps_url());
        let mut command = installed("slapd", "slapd");
        // With -d it stays in the foreground.
        command.args(["-d", "none", "-h", &urls, "-f"]).arg(self.dir.path().join("slapd.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let ports = self.ports;
        let process = self.process.insert(command.spawn().unwrap());
        let log = self.dir.path().join("log");
        let is_running = wait_for("slapd to start", || {
            if process.try_wait().unwrap().is_some() {
                return Some(false);
            }
            // It says that it has the ports a moment before it listens.
            let has_ports = fs::read_to_string(&log).unwrap_or_default().contains("slapd starting");
            let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
            (has_ports && listens(ports.ldap) && listens(ports.ldaps)).then_some(true)
        });
        if !is_running {
            self.process = None;
        }
        is_running
    }

    /// A program of ldap-utils, as the root DN.
    pub(crate) fn client(&self, program: &str) -> Command {
        self.client_as(program, ROOT_DN, ROOT_PASSWORD)
    }

    /// The same as [`bind_dn`](Slapd::bind_dn).
    pub(crate) fn reader(&self, program: &str) -> Command {
        self.client_as(program, BIND_DN, BIND_PASSWORD)
    }

    fn client_as(&self, program: &str, dn: &str, password: &str) -> Command {
        let mut command = installed(program, "ldap-utils");
        command.args(["-x", "-H", &self.url(), "-D", dn, "-w", password]);
        command
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// LDIF of numbered people below [`PEOPLE`], each with a fixed [`entry_uuid`].
pub(crate) fn people(numbers: Range<u32>) -> String {
    numbers.map(person).collect()
}

/// LDIF of one of them.
pub(crate) fn person(number: u32) -> String {
    let uuid = entry_uuid(number);
    format!(
        "dn: uid=u{number},{PEOPLE}\nobjectClass: inetOrgPerson\nuid: u{number}\ncn: Person {number}\n\
         sn: Person\nmail: u{number}@example.org\nentryUUID: {uuid}\n\n"
    )
}

/// The entryUUID of a numbered person.
pub(crate) fn entry_uuid(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

fn skeleton() -> String {
    format!(
        "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n\
         dn: {BIND_DN}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: reader\n\
         userPassword: {BIND_PASSWORD}\n\n\
         dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n"
    )
}

/// Fills the empty database.
fn load(dir: &Path, data: &str) {
    slapadd(dir, &(skeleton() + data));
}

fn slapadd(dir: &Path, data: &str) {
    fs::write(dir.join("data.ldif"), data).unwrap();
    let mut load = installed("slapadd", "slapd");
    load.arg("-q").arg("-f").arg(dir.join("slapd.conf"));
    run(load.arg("-l").arg(dir.join("data.ldif")), "");
}

fn configuration(dir: &Path, options: &Options) -> String {
    let mut text = String::new();
    for schema in ["core", "cosine", "inetorgperson", "nis"] {
        let _ = writeln!(text, "include /etc/ldap/schema/{schema}.schema");
    }
    let Options { limits, access, database, global, .. } = options;
    let dir = dir.display();
    let _ = write!(
        text,
        "modulepath /usr/lib/ldap\nmoduleload back_mdb\n\
         TLSCACertificateFile {dir}/ca.pem\nTLSCertificateFile {dir}/server.pem\n\
         TLSCertificateKeyFile {dir}/server.key\n{global}\n\
         database mdb\nmaxsize {MAP_BYTES}\nsuffix \"{SUFFIX}\"\nrootdn \"{ROOT_DN}\"\n\
         rootpw {ROOT_PASSWORD}\ndirectory {dir}/db\n\
         limits dn.exact=\"{BIND_DN}\" {limits}\n{access}\n{database}\n"
    );
    text
}

/// Two private authorities, a certificate of the first one, and what clients may show: see [`client`].
pub(super) fn certify(dir: &Path, names: &[String]) {
    let (ca, other_ca) = (authority(), authority());
    client(dir, "client", &ca, false);
    client(dir, "renewed", &ca, false);
    client(dir, "expired", &ca, true);
    client(dir, "foreign", &other_ca, false);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    fs::write(dir.join("other-ca.pem"), other_ca.pem()).unwrap();
    fs::write(dir.join("server.pem"), certificate.pem()).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
}

/// A certificate for the common name of [`BIND_DN`], in `NAME.pem` and `NAME.key`.
fn client(dir: &Path, name: &str, issuer: &CertifiedIssuer<'static, KeyPair>, is_expired: bool) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, "reader");
    if is_expired {
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    fs::write(dir.join(name).with_extension("pem"), certificate.pem()).unwrap();
    let key_file = dir.join(name).with_extension("key");
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Waits until every thread has obeyed SIGSTOP.
pub(crate) fn wait_until_stopped(process: &Child) {
    let threads = format!("/proc/{}/task", process.id());
    wait_for("a server to stop", || {
        // proc_pid_stat(5): the state follows the name in parentheses.
        let is_stopped = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        fs::read_dir(&threads).unwrap().flatten().all(is_stopped).then_some(())
    });
}

pub(super) fn group(process: &Child) -> Pid {
    Pid::from_child(process)
}

/// A program of a Debian package; fails with what to install.
#[track_caller]
pub(crate) fn installed(program: &str, package: &str) -> Command {
    assert_may_start(program);
    let found = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists());
    let path = found.unwrap_or_else(|| panic!("{program} is missing: apt-get install {package}"));
    Command::new(path)
}

/// Runs a program to its end; fails with what it printed.
pub(crate) fn run(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // It prints while it reads, more than a pipe holds. One that ends before says why.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output().unwrap()
    });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    output
}
