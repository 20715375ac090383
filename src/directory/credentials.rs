//! Who the daemon is to its servers, with the password.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::DirectoryError;
use crate::domain::directory::{Bind, SimpleBind, Tls};

/// No password of a person or a machine is longer.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// Who the daemon is, with the password. Not `Debug`.
pub(super) enum Credentials {
    Anonymous,
    Simple { bind: SimpleBind, password: String },
    External { cert_file: PathBuf },
}

impl Credentials {
    pub(super) fn load(bind: &Bind, tls: &Tls) -> Result<Arc<Credentials>, DirectoryError> {
        let bind = match bind {
            Bind::Simple(bind) => bind,
            Bind::Anonymous => return Ok(Arc::new(Credentials::Anonymous)),
            Bind::External => {
                // Without one the server says what is missing.
                let cert_file = tls.identity.as_ref().map(|identity| identity.cert_file.clone());
                return Ok(Arc::new(Credentials::External { cert_file: cert_file.unwrap_or_default() }));
            }
        };
        let path = &bind.password_file;
        let password = read_password(path)
            .map_err(|source| DirectoryError::PasswordFile { path: path.clone(), source })?;
        if password.is_empty() {
            return Err(DirectoryError::EmptyPassword { path: path.clone() });
        }
        Ok(Arc::new(Credentials::Simple { bind: bind.clone(), password }))
    }
}

/// The password without the newline that editors add; UTF-8, as RFC 4513 section 5.1.1 wants it.
fn read_password(path: &Path) -> io::Result<String> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if std::fs::metadata(path)?.len() > MAX_PASSWORD_BYTES {
        return Err(invalid("it is too long for a password"));
    }
    let mut bytes = std::fs::read(path)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))
}
