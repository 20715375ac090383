//! The only place of the configuration that touches the file system.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::mistakes::Found;
use super::reader::{FileKind, NamedFile};

/// A configuration of a thousand directories is far smaller.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// The configuration file as bytes.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// What is wrong with the files that the configuration names.
pub(super) fn check(files: &[NamedFile]) -> Vec<Found> {
    let found = |file: &NamedFile| {
        let (message, help) = mistake(file)?;
        Some(Found::new(file.span.clone(), message, help))
    };
    files.iter().filter_map(found).collect()
}

fn mistake(file: &NamedFile) -> Option<(String, String)> {
    let path = file.path.display();
    let metadata = match fs::metadata(&file.path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some((format!("there is no file {path}"), "create it, or correct the path".to_owned()));
        }
        Err(error) => return Some(unreadable(file, &error)),
    };
    // Looked at before the file is opened: opening a pipe would wait for a writer.
    if !metadata.is_file() {
        return Some((format!("{path} is not a file"), "name a regular file".to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if file.kind == FileKind::Secret && mode & 0o007 != 0 {
        let message = format!("every user of this machine has access to {path} (mode {mode:04o})");
        return Some((message, format!("chmod o= {path}, and change what is in it")));
    }
    match is_blank(&file.path) {
        Ok(true) => Some((format!("{path} is empty"), "write its content, or correct the path".to_owned())),
        Ok(false) => None,
        Err(error) => Some(unreadable(file, &error)),
    }
}

fn unreadable(file: &NamedFile, error: &io::Error) -> (String, String) {
    let message = format!("can't read {}: {error}", file.path.display());
    (message, "let the user that the daemon runs as read it".to_owned())
}

/// Whether a file holds nothing, or nothing but the end of a line.
fn is_blank(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(3).read_to_end(&mut start)?;
    Ok(matches!(start.as_slice(), b"" | b"\n" | b"\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_files_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("good", "hunter2\n", 0o640);
        write("public", "hunter2\n", 0o644);
        write("writable", "hunter2\n", 0o602);
        write("empty", "", 0o600);
        write("blank", "\r\n", 0o600);
        write("short", "x\n", 0o600);
        for (name, kind, expected) in [
            ("good", FileKind::Secret, None),
            ("short", FileKind::Secret, None),
            ("public", FileKind::Public, None),
            ("public", FileKind::Secret, Some("every user of this machine has access to PATH (mode 0644)")),
            ("writable", FileKind::Secret, Some("every user of this machine has access to PATH (mode 0602)")),
            ("empty", FileKind::Secret, Some("PATH is empty")),
            ("blank", FileKind::Secret, Some("PATH is empty")),
            ("empty", FileKind::Public, Some("PATH is empty")),
            ("missing", FileKind::Secret, Some("there is no file PATH")),
            ("missing", FileKind::Public, Some("there is no file PATH")),
            ("good/x", FileKind::Secret, Some("can't read PATH: Not a directory (os error 20)")),
            ("", FileKind::Secret, Some("PATH is not a file")),
        ] {
            let path = folder.path().join(name);
            let expected = expected.map(|text| text.replace("PATH", &path.display().to_string()));
            let file = NamedFile { path, span: 3..4, kind };
            assert_eq!(mistake(&file).map(|(message, _)| message), expected, "{name}");
        }
    }

    #[test]
    fn the_size_of_a_configuration_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big.toml");
        fs::write(&path, vec![b'#'; 1024 * 1024]).unwrap();
        assert!(read(&path).is_ok());
        fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "it is larger than 1 MiB");
    }
}
