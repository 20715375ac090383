//! Files that bring users: CSV (RFC 4180) and LDIF (RFC 2849), read row by row, so that memory does not grow
//! with the file.
//!
//! A mistake in one row is that row's; one after which nothing can be told of the rest ends the reading.

mod csv;
mod ldif;

use std::io::{self, BufRead};

use crate::domain::account::{ImportRow, Rows};
use crate::domain::name::Domain;

/// U+FEFF in UTF-8, which spreadsheets put in front.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The rows of a file for a domain, in its order. An `Err` is a sentence, and the last of them.
///
/// A file whose first line that says something begins with `dn:` or `version:` is LDIF.
pub fn rows(mut input: impl BufRead + Send + 'static, domain: Domain) -> io::Result<Rows> {
    Ok(if is_ldif(&mut input)? { ldif::rows(input, domain) } else { csv::rows(input, domain) })
}

/// Looks into the input without taking anything but a byte order mark.
fn is_ldif(input: &mut impl BufRead) -> io::Result<bool> {
    if input.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        input.consume(BYTE_ORDER_MARK.len());
    }
    let lines = input.fill_buf()?.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut telling = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let first = telling.next().unwrap_or_default();
    let begins = |with: &[u8]| first.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with));
    Ok(begins(b"dn:") || begins(b"version:"))
}

fn failed<T>(line: u64, what: impl std::fmt::Display) -> Option<Result<T, String>> {
    Some(Err(format!("line {line}: {what}")))
}

type Row = Result<ImportRow, String>;

#[cfg(test)]
mod tests;
