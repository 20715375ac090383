//! A real 389 Directory Server in a temporary directory.
//!
//! ```no_run
//! let ds389 = Ds389::start(Options { data: people(0..10), ..Options::default() });
//! ds389.lock("uid=u1,ou=people,dc=example,dc=org");
//! ds389.stop(); // hangs until ds389.resume()
//! ```
//!
//! The package's own tools (dscreate, dscontainer) make an instance in the system's directories on fixed
//! ports. The server itself takes every path and port from one file, so this writes that file, from the
//! package's template: no root, no namespace, and any number of servers at once. It listens with and
//! without TLS on ports of its own, in a process group of its own, which dies with the value.
//! Tests bind as [`Ds389::bind_dn`], whom limits and access rules hold; changes are made by the directory
//! manager, whom they don't.

use std::fs;
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process_group};
use tempfile::TempDir;

use super::slapd::{
    BIND_DN, BIND_PASSWORD, PEOPLE, Ports, ROOT_PASSWORD, SUFFIX, certify, group, installed, run,
    wait_until_stopped,
};
use super::wait_for;

const PACKAGE: &str = "389-ds-base";
const ROOT_DN: &str = "cn=Directory Manager";
const TEMPLATE: &str = "/usr/share/dirsrv/data/template-dse.ldif";

/// slapd.h: what is logged by default. Any level keeps the server in the foreground.
const LOG_LEVEL: &str = "266354688";

/// How a server is set up.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// LDIF that is added below [`PEOPLE`] (and may be anywhere below [`SUFFIX`]): see [`people`].
    pub(crate) data: String,
    /// Limits of the bind DN, as attributes of its entry. The server's own default is 2,000 entries.
    pub(crate) limits: String,
    /// Access rules of the suffix, an `aci: ` line each.
    pub(crate) access: String,
    /// The Retro Changelog with nsUniqueIds, and Content Synchronization (RFC 4533) on top of it.
    pub(crate) content_sync: bool,
    /// `memberOf`, of groups in groups too, as FreeIPA keeps it.
    pub(crate) member_of: bool,
    /// Wants a certificate of clients, whose common name says who they are.
    pub(crate) client_certificates: bool,
    /// How the Retro Changelog is set, an attribute a line.
    pub(crate) changelog: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            data: String::new(),
            limits: "nsSizeLimit: -1\nnsPagedSizeLimit: -1\nnsLookThroughLimit: -1\nnsTimeLimit: -1\n"
                .to_owned(),
            access: "aci: (targetattr!=\"userPassword\")(version 3.0; acl \"everybody reads\"; \
                     allow (read, search, compare) userdn=\"ldap:///anyone\";)\n"
                .to_owned(),
            content_sync: false,
            member_of: false,
            client_certificates: false,
            changelog: "nsslapd-attribute: nsuniqueid:targetUniqueId\n".to_owned(),
        }
    }
}

/// A running server.
pub(crate) struct Ds389 {
    dir: TempDir,
    ports: Ports,
    process: Option<Child>,
}

impl Ds389 {
    /// Starts the server and adds the data; returns when it answers.
    pub(crate) fn start(options: Options) -> Ds389 {
        let mut server = Ds389::prepare(&options);
        assert!(server.launch(), "ns-slapd does not start:\n{}", server.log());
        server.add(&(skeleton(&options) + &options.data));
        server
    }

    fn prepare(options: &Options) -> Ds389 {
        let dir = tempfile::Builder::new().prefix("ds389-").tempdir().unwrap();
        let server = Ds389 { dir, ports: Ports::free(), process: None };
        fs::create_dir_all(server.config().join("schema")).unwrap();
        fs::create_dir(server.path("run")).unwrap();
        fs::write(server.config().join("dse.ldif"), server.configuration(options)).unwrap();
        // The schema of its own, and the collations, which only servers of other languages need.
        let schema = "dn: cn=schema\nobjectClass: top\nobjectClass: ldapSubentry\nobjectClass: subschema\n";
        fs::write(server.config().join("schema/99user.ldif"), schema.to_owned() + "cn: schema\n").unwrap();
        fs::write(server.config().join("slapd-collations.conf"), "").unwrap();
        fs::write(server.password_file(), format!("{BIND_PASSWORD}\n")).unwrap();
        fs::set_permissions(server.password_file(), fs::Permissions::from_mode(0o600)).unwrap();
        certify(server.dir.path(), &["localhost".to_owned(), "127.0.0.1".to_owned()]);
        server.store_certificate();
        server
    }

    /// `ldap://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.ports.ldap)
    }

    /// `ldaps://127.0.0.1:PORT`.
    pub(crate) fn ldaps_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.ports.ldaps)
    }

    /// The authority that signed the server's certificate, in PEM.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// An authority that signed nothing, in PEM.
    pub(crate) fn other_ca_file(&self) -> PathBuf {
        self.path("other-ca.pem")
    }

    /// A file in the server's directory, as [`Slapd::file`](super::slapd::Slapd::file).
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    /// Who reads: limits and access rules hold for it.
    pub(crate) fn bind_dn(&self) -> &'static str {
        BIND_DN
    }

    /// Holds the password of [`bind_dn`](Ds389::bind_dn) and a newline.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.path("bind.password")
    }

    /// The base of a sweep.
    pub(crate) fn base_dn(&self) -> &'static str {
        PEOPLE
    }

    /// Entries, as in ldapadd(1). The server gives them their nsUniqueIds.
    pub(crate) fn add(&self, ldif: &str) {
        run(&mut self.client("ldapadd"), ldif);
    }

    /// Change records, as in ldapmodify(1).
    pub(crate) fn modify(&self, ldif: &str) {
        run(&mut self.client("ldapmodify"), ldif);
    }

    /// Deletes one entry.
    pub(crate) fn delete(&self, dn: &str) {
        run(self.client("ldapdelete").arg(dn), "");
    }

    /// Gives an entry another name, which replaces the old one: `rename("uid=a,…", "uid=b")`.
    pub(crate) fn rename(&self, dn: &str, new_rdn: &str) {
        run(self.client("ldapmodrdn").arg("-r").arg(dn).arg(new_rdn), "");
    }

    /// Disables an account, as `dsidm account lock` does.
    pub(crate) fn lock(&self, dn: &str) {
        self.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: nsAccountLock\nnsAccountLock: true\n"));
    }

    /// Enables it again.
    pub(crate) fn unlock(&self, dn: &str) {
        self.modify(&format!("dn: {dn}\nchangetype: modify\nreplace: nsAccountLock\n"));
    }

    /// What ldapsearch(1) prints for the directory manager.
    pub(crate) fn search(&self, base: &str, filter: &str, attributes: &[&str]) -> String {
        let mut search = self.client("ldapsearch");
        search.args(["-LLL", "-o", "ldif-wrap=no", "-b", base, filter]).args(attributes);
        String::from_utf8(run(&mut search, "").stdout).unwrap()
    }

    /// One attribute of one entry.
    #[track_caller]
    pub(crate) fn attribute(&self, dn: &str, name: &str) -> Option<String> {
        let text = run(
            self.client("ldapsearch").args(["-LLL", "-o", "ldif-wrap=no", "-s", "base", "-b", dn, name]),
            "",
        );
        let text = String::from_utf8(text.stdout).unwrap();
        let value = |line: &str| {
            let (attribute, value) = line.split_once(": ")?;
            attribute.eq_ignore_ascii_case(name).then(|| value.to_owned())
        };
        text.lines().find_map(value)
    }

    /// The controls that the root DSE lists.
    pub(crate) fn controls(&self) -> String {
        let mut search = self.client("ldapsearch");
        search.args(["-LLL", "-s", "base", "-b", "", "supportedControl"]);
        String::from_utf8(run(&mut search, "").stdout).unwrap()
    }

    /// What ldapsearch(1) prints for the bind DN of a refresh (RFC 4533) of the people, comments included:
    /// entries with their sync state, sets of ids, and the new cookie.
    pub(crate) fn content_sync(&self, cookie: Option<&str>) -> String {
        let extension = format!("!sync=ro{}", cookie.map(|cookie| format!("/{cookie}")).unwrap_or_default());
        let mut search = installed("ldapsearch", "ldap-utils");
        search.args(["-x", "-H", &self.url(), "-D", BIND_DN, "-w", BIND_PASSWORD, "-o", "ldif-wrap=no"]);
        search.args(["-E", &extension, "-b", PEOPLE, "(objectClass=inetOrgPerson)"]);
        search.args(["uid", "mail", "nsAccountLock"]);
        String::from_utf8(run(&mut search, "").stdout).unwrap()
    }

    /// A program of ldap-utils, as the directory manager.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = installed(program, "ldap-utils");
        command.args(["-x", "-H", &self.url(), "-D", ROOT_DN, "-w", ROOT_PASSWORD]);
        command
    }

    /// `kill -9`, as a crash; `restart` brings it back.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            kill_process_group(group(&process), Signal::KILL).unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts the server again after a crash, on the same ports and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "ns-slapd does not start again:\n{}", self.log());
    }

    /// Keeps a copy of the data, for which the server is restarted.
    pub(crate) fn keep_copy(&mut self) {
        self.kill();
        copy(&self.path("run"), &self.path("copy"));
        self.restart();
    }

    /// Brings the copy back, as an administrator does after a loss.
    pub(crate) fn restore_copy(&mut self) {
        self.kill();
        fs::remove_dir_all(self.path("run")).unwrap();
        copy(&self.path("copy"), &self.path("run"));
        self.restart();
    }

    /// SIGSTOP: connections open and nothing is answered. Returns when every thread has stopped.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        wait_until_stopped(self.process());
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// What the server wrote since it was started last.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process_group(group(self.process()), signal).unwrap();
    }

    fn process(&self) -> &Child {
        self.process.as_ref().expect("ns-slapd is not running")
    }

    /// The server calls itself, and a semaphore that all servers of the machine see, by this directory's name.
    fn config(&self) -> PathBuf {
        self.path(&self.name())
    }

    fn name(&self) -> String {
        self.dir.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// True when the server runs, false when it gave up, as it does when a port is taken.
    fn launch(&mut self) -> bool {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = installed("ns-slapd", PACKAGE);
        command.arg("-D").arg(self.config()).args(["-d", LOG_LEVEL]);
        // Else it takes /dev/null for the file of its process id, and takes everybody's right to write there away.
        command.arg("-i").arg(self.config().join("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let ports = self.ports;
        let log = self.path("log");
        let process = self.process.insert(command.spawn().unwrap());
        let is_running = wait_for("ns-slapd to start", || {
            if process.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let log = fs::read_to_string(&log).unwrap_or_default();
            let has_ports =
                ["LDAP", "LDAPS"].iter().all(|kind| log.contains(&format!("for {kind} requests")));
            let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
            (has_ports && listens(ports.ldap) && listens(ports.ldaps)).then_some(true)
        });
        if !is_running {
            self.process = None;
        }
        is_running
    }

    /// The package's template of dse.ldif with everything in this server's directory.
    fn configuration(&self, options: &Options) -> String {
        let template = fs::read_to_string(TEMPLATE)
            .unwrap_or_else(|error| panic!("{TEMPLATE}: {error}: apt-get install {PACKAGE}"));
        let mut text = fill(&template, |name| match name {
            "config_dir" | "cert_dir" => self.config().display().to_string(),
            "schema_dir" => self.config().join("schema").display().to_string(),
            "ds_user" => user(),
            "ds_port" => self.ports.ldap.to_string(),
            "ds_suffix" => SUFFIX.to_owned(),
            "ds_passwd" => format!("{{CLEAR}}{ROOT_PASSWORD}"),
            "rootdn" => ROOT_DN.to_owned(),
            "fqdn" => "localhost".to_owned(),
            "db_lib" => "bdb".to_owned(),
            "ldapi_enabled" | "ldapi_autobind" => "off".to_owned(),
            _ => self.path("run").display().to_string(),
        });
        let secure_port = self.ports.ldaps;
        // Few descriptors, since it makes a table of them; and little memory, since there are several.
        extend(
            &mut text,
            "cn=config",
            &format!(
                "nsslapd-rootpwstoragescheme: CLEAR\nnsslapd-listenhost: 127.0.0.1\n\
                 nsslapd-securelistenhost: 127.0.0.1\nnsslapd-security: on\nnsslapd-securePort: {secure_port}\n\
                 nsslapd-maxdescriptors: 256\n"
            ),
        );
        // What was written is with the system, which a killed server does not take with it.
        extend(
            &mut text,
            "cn=config,cn=ldbm database,cn=plugins,cn=config",
            "nsslapd-db-durable-transaction: off\nnsslapd-cache-autosize: 0\nnsslapd-dbcachesize: 10000000\n",
        );
        if options.content_sync {
            for (plugin, more) in
                [("Retro Changelog Plugin", options.changelog.as_str()), ("Content Synchronization", "")]
            {
                let lines = format!("nsslapd-pluginEnabled: on\n{more}");
                extend(&mut text, &format!("cn={plugin},cn=plugins,cn=config"), &lines);
            }
        }
        if options.member_of {
            let lines = "nsslapd-pluginEnabled: on\nmemberofautoaddoc: nsMemberOf\n";
            extend(&mut text, "cn=MemberOf Plugin,cn=plugins,cn=config", lines);
        }
        if options.client_certificates {
            extend(&mut text, "cn=encryption,cn=config", "nsSSLClientAuth: required\n");
            let map = "certmap default default\ndefault:DNComps\ndefault:FilterComps cn\n";
            fs::write(self.config().join("certmap.conf"), map).unwrap();
        }
        format!("{}\n\n{}", text.trim_end(), backend())
    }

    /// Puts the certificate where the server looks for it: an NSS database.
    fn store_certificate(&self) {
        let (database, bundle) = (format!("sql:{}", self.config().display()), self.path("server.p12"));
        run(installed("certutil", "libnss3-tools").args(["-N", "--empty-password", "-d", &database]), "");
        let mut export = installed("openssl", "openssl");
        export
            .args(["pkcs12", "-export", "-name", "Server-Cert", "-passout", "pass:bundle", "-out"])
            .arg(&bundle);
        run(export.arg("-in").arg(self.path("server.pem")).arg("-inkey").arg(self.path("server.key")), "");
        let mut import = installed("pk12util", "libnss3-tools");
        run(import.args(["-d", &database, "-K", "", "-W", "bundle", "-i"]).arg(&bundle), "");
        let mut trust = installed("certutil", "libnss3-tools");
        run(trust.args(["-A", "-n", "ca", "-t", "CT,,", "-d", &database, "-i"]).arg(self.ca_file()), "");
    }
}

impl Drop for Ds389 {
    fn drop(&mut self) {
        self.kill();
        // The server's own, which it makes anew at each start and leaves behind.
        let _ = fs::remove_file(format!("/dev/shm/sem.{}.stats", self.name()));
    }
}

/// LDIF of numbered people below [`PEOPLE`].
pub(crate) fn people(numbers: Range<u32>) -> String {
    numbers.map(person).collect()
}

/// LDIF of one of them.
pub(crate) fn person(number: u32) -> String {
    format!(
        "dn: {}\nobjectClass: inetOrgPerson\nuid: u{number}\ncn: Person {number}\nsn: Person\n\
         mail: u{number}@example.org\n\n",
        dn(number)
    )
}

/// The name of one of them.
pub(crate) fn dn(number: u32) -> String {
    format!("uid=u{number},{PEOPLE}")
}

fn skeleton(options: &Options) -> String {
    let Options { limits, access, .. } = options;
    format!(
        "dn: {SUFFIX}\nobjectClass: domain\ndc: example\n{access}\n\
         dn: {BIND_DN}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: reader\n\
         userPassword: {BIND_PASSWORD}\n{limits}\n\
         dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n"
    )
}

/// Where the suffix is stored. No empty line may be doubled in dse.ldif.
fn backend() -> String {
    format!(
        "dn: cn=userRoot,cn=ldbm database,cn=plugins,cn=config\nobjectClass: top\nobjectClass: extensibleObject\n\
         objectClass: nsBackendInstance\ncn: userRoot\nnsslapd-suffix: {SUFFIX}\n\n\
         dn: cn=\"{SUFFIX}\",cn=mapping tree,cn=config\nobjectClass: top\nobjectClass: extensibleObject\n\
         objectClass: nsMappingTree\ncn: {SUFFIX}\nnsslapd-state: backend\nnsslapd-backend: userRoot\n"
    )
}

/// Replaces every `%name%`.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for (number, part) in template.split('%').enumerate() {
        if number % 2 == 0 {
            text.push_str(part);
        } else {
            text.push_str(&value(part));
        }
    }
    text
}

/// Sets attributes of an entry of dse.ldif, one a line.
fn extend(text: &mut String, dn: &str, lines: &str) {
    let head = format!("dn: {dn}\n");
    let start = text.find(&head).unwrap_or_else(|| panic!("{TEMPLATE} has no {dn}")) + head.len();
    let end = text[start..].find("\n\n").map_or(text.len(), |length| start + length + 1);
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let is_kept = |line: &&str| lines.lines().all(|new| name(new) != name(line));
    let kept: String = text[start..end].lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
    text.replace_range(start..end, &(kept + lines));
}

fn copy(from: &Path, to: &Path) {
    run(installed("cp", "coreutils").arg("-a").arg(from).arg(to), "");
}

/// Who the server runs as: who runs the tests.
fn user() -> String {
    let output = run(installed("id", "coreutils").arg("-un"), "");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
