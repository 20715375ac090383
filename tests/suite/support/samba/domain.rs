//! Domains, which are made once, kept and copied.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, Permissions};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::slapd::{installed, run};
use super::{ADMIN_PASSWORD, BIND_DN, BIND_PASSWORD, PACKAGES, PEOPLE};

/// What the directory of a domain is made from; another word here makes old ones worthless.
const RECIPE: [&str; 8] = [
    "--realm=AD.EXAMPLE.ORG",
    "--domain=AD",
    "--server-role=dc",
    "--dns-backend=NONE",
    "--host-ip=127.0.0.1",
    "--host-name=dc1",
    "--option=interfaces=lo",
    "--option=bind interfaces only=yes",
];

/// One domain is made at a time, since most tests want the same one.
static MAKING: Mutex<()> = Mutex::new(());

/// The directory of a domain with this data, which is made when it is not there.
pub(super) fn domain(data: &str) -> PathBuf {
    let version = String::from_utf8(run(installed("samba", PACKAGES).arg("-V"), "").stdout).unwrap();
    let _one = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let fresh = kept(&(&version, RECIPE, ADMIN_PASSWORD), provision);
    let prepared = kept(&(&version, RECIPE, ADMIN_PASSWORD, skeleton()), |dir| {
        copy(&fresh, dir);
        load(dir, &skeleton());
    });
    if data.is_empty() {
        return prepared;
    }
    kept(&(&version, RECIPE, ADMIN_PASSWORD, skeleton(), data), |dir| {
        copy(&prepared, dir);
        load(dir, data);
    })
}

/// A directory in cargo's own for tests, by a key; a run that is cut short leaves none half made.
fn kept(key: &impl Hash, make: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = parent.join(format!("samba-{:016x}", hasher.finish()));
    if !path.exists() {
        let dir = tempfile::tempdir_in(parent).unwrap();
        make(dir.path());
        // Another process may have been faster; its is as good.
        let renamed = fs::rename(dir.path(), &path);
        assert!(path.exists(), "{renamed:?}");
    }
    path
}

fn provision(dir: &Path) {
    // Without the machine's own configuration.
    let seed = dir.join("seed.conf");
    fs::write(&seed, "[global]\n").unwrap();
    let mut command = installed("samba-tool", PACKAGES);
    command.args(["domain", "provision"]).args(RECIPE);
    command.arg(format!("--adminpass={ADMIN_PASSWORD}")).arg("--configfile").arg(&seed);
    let mut targetdir = std::ffi::OsString::from("--targetdir=");
    targetdir.push(dir);
    run(command.arg(targetdir).env("TDB_NO_FSYNC", "1"), "");
}

/// Adds entries to a domain that no server runs on, in one transaction.
fn load(dir: &Path, ldif: &str) {
    configure(dir, false);
    let data = dir.join("data.ldif");
    fs::write(&data, ldif).unwrap();
    let mut command = installed("ldbadd", PACKAGES);
    command.arg("--configfile").arg(dir.join("smb.conf"));
    command.arg("-H").arg(dir.join("private/sam.ldb")).arg(&data);
    run(command.env("TDB_NO_FSYNC", "1"), "");
}

pub(super) fn copy(from: &Path, to: &Path) {
    let mut contents = from.as_os_str().to_owned();
    contents.push("/.");
    run(installed("cp", "coreutils").args(["-a", "--sparse=always"]).arg(contents).arg(to), "");
}

/// For the owner's eyes only, as Samba and the daemon want secrets to be.
pub(super) fn restrict(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

pub(super) fn configure(dir: &Path, is_plain: bool) {
    let path = dir.display();
    let strong = if is_plain { "no" } else { "yes" };
    let text = format!(
        "[global]\nserver role = active directory domain controller\nserver services = ldap\n\
         workgroup = AD\nrealm = AD.EXAMPLE.ORG\nnetbios name = DC1\n\
         interfaces = lo\nbind interfaces only = yes\n\
         private dir = {path}/private\nlock directory = {path}\nstate directory = {path}/state\n\
         cache directory = {path}/cache\npid directory = {path}\nncalrpc dir = {path}/ncalrpc\n\
         ntp signd socket directory = {path}/ntp_signd\nwinbindd socket directory = {path}/winbindd\n\
         log file = {path}/samba.log\nldap server require strong auth = {strong}\n"
    );
    fs::write(dir.join("smb.conf"), text).unwrap();
}

fn skeleton() -> String {
    // [MS-ADTS] section 3.1.1.3.1.5.1: in quotes, as UTF-16.
    let password: Vec<u8> =
        format!("\"{BIND_PASSWORD}\"").encode_utf16().flat_map(u16::to_le_bytes).collect();
    format!(
        "dn: {PEOPLE}\nobjectClass: organizationalUnit\n\n\
         dn: {BIND_DN}\nobjectClass: user\nsAMAccountName: Reader\nuserAccountControl: 512\n\
         unicodePwd:: {}\n\n",
        BASE64.encode(password)
    )
}
