//! CSV: `address,name,aliases`, with a header or without.

use std::io::BufRead;

use super::{Row, failed};
use crate::domain::account::{ImportRow, ImportedPerson, MAX_ALIASES, Mistake, RowContent, Rows};
use crate::domain::name::{Domain, Name};

/// The longest row. A hundred aliases of the longest names are half of it; what is longer is no list of
/// people, and must not take the memory of one.
const MAX_ROW_BYTES: usize = 64 * 1024;

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Address,
    Name,
    Aliases,
}

/// The columns without a header, and all that a header may name.
const COLUMNS: [(&str, Column); 3] =
    [("address", Column::Address), ("name", Column::Name), ("aliases", Column::Aliases)];

pub(super) fn rows(input: impl BufRead + Send + 'static, domain: Domain) -> Rows {
    Box::new(Reader {
        input,
        domain,
        line: 0,
        splitter: Splitter::new(),
        columns: Vec::new(),
        is_over: false,
    })
}

struct Reader<R> {
    input: R,
    domain: Domain,
    /// Lines read so far.
    line: u64,
    splitter: Splitter,
    /// Empty before the first row.
    columns: Vec<Column>,
    is_over: bool,
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let row = if self.is_over { None } else { self.row() };
        self.is_over = !matches!(row, Some(Ok(_)));
        row
    }
}

/// The bytes of one row, or what is wrong with them.
enum Raw {
    Row(Vec<u8>),
    Wrong(&'static str),
}

impl<R: BufRead> Reader<R> {
    fn row(&mut self) -> Option<Row> {
        loop {
            let line = self.line + 1;
            let row = match self.raw() {
                Ok(None) => return None,
                Ok(Some(Raw::Row(row))) if row.is_empty() => continue,
                Ok(Some(Raw::Row(row))) => row,
                Ok(Some(Raw::Wrong(what))) => return Some(Ok(wrong(line, None, "invalid", what))),
                Err(error) => return failed(line, format_args!("cannot read the file: {error}")),
            };
            let fields = match self.splitter.fields(&row) {
                Ok(fields) => fields,
                Err(what) => return Some(Ok(wrong(line, None, "invalid", what))),
            };
            if self.columns.is_empty() {
                match header(&fields) {
                    Ok(Some(columns)) => {
                        self.columns = columns;
                        continue;
                    }
                    Ok(None) => self.columns = COLUMNS.iter().take(fields.len()).map(|(_, c)| *c).collect(),
                    Err(what) => return failed(line, what),
                }
            }
            return Some(Ok(self.person(line, &fields)));
        }
    }

    /// The next row without its end: a line, or several where a quote spans them.
    fn raw(&mut self) -> std::io::Result<Option<Raw>> {
        let mut row = Vec::new();
        let mut quotes = Quotes { is_open: false, may_open: true };
        loop {
            let room = MAX_ROW_BYTES - row.len();
            let (read, is_whole) = self.append_line(&mut row, room)?;
            if read == 0 {
                return Ok(
                    (!row.is_empty()).then_some(Raw::Wrong("a quote that begins here is never closed"))
                );
            }
            if !is_whole {
                self.skip_line()?;
                return Ok(Some(Raw::Wrong("the row is longer than 64 KiB")));
            }
            quotes.take(row.get(row.len() - read..).unwrap_or_default());
            if !quotes.is_open {
                let end = row.strip_suffix(b"\n").unwrap_or(&row);
                row.truncate(end.strip_suffix(b"\r").unwrap_or(end).len());
                return Ok(Some(Raw::Row(row)));
            }
        }
    }

    /// Appends at most `room` bytes of the next line: how many, and whether that was all of it.
    fn append_line(&mut self, row: &mut Vec<u8>, room: usize) -> std::io::Result<(usize, bool)> {
        let before = row.len();
        let mut limited = std::io::Read::take(&mut self.input, room as u64);
        let read = limited.read_until(b'\n', row)?;
        let is_whole = read < room || row.last() == Some(&b'\n');
        self.line += u64::from(read > 0);
        Ok((row.len() - before, is_whole))
    }

    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let (used, is_end) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.input.consume(used);
            if is_end {
                return Ok(());
            }
        }
    }

    fn person(&self, line: u64, fields: &[String]) -> ImportRow {
        let of = |wanted: Column| {
            let at = self.columns.iter().position(|column| *column == wanted);
            at.and_then(|at| fields.get(at)).map(|field| field.trim())
        };
        let user = of(Column::Address).unwrap_or_default();
        if fields.len() != self.columns.len() {
            let what = format!("there are {} columns instead of {}", fields.len(), self.columns.len());
            return wrong(line, Some(user), "invalid", what);
        }
        let parse = |text: &str| match Name::parse_address(text, None) {
            Ok(name) if name.domain() == self.domain.as_str() => Ok(name),
            Ok(name) => {
                let what = format!("{name} is not in {}", self.domain);
                Err(wrong(line, Some(user), "foreign_domain", what))
            }
            Err(error) => {
                let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
                Err(wrong(line, Some(user), "invalid", format!("\"{shown}\": {error}")))
            }
        };
        let address = match parse(user) {
            Ok(address) => address,
            Err(wrong) => return wrong,
        };
        let separators = [' ', ',', ';'];
        let aliases = of(Column::Aliases)
            .map(|list| list.split(separators).filter(|text| !text.is_empty()).map(parse).collect());
        let aliases: Option<Vec<Name>> = match aliases.transpose() {
            Ok(aliases) => aliases,
            Err(wrong) => return wrong,
        };
        if aliases.as_ref().is_some_and(|aliases| aliases.len() > MAX_ALIASES) {
            return wrong(line, Some(user), "invalid", format!("there are more than {MAX_ALIASES} aliases"));
        }
        let display_name = of(Column::Name).map(str::to_owned);
        let person = ImportedPerson { address, aliases, display_name, id: None, enabled: true };
        ImportRow { line, content: RowContent::Person(person) }
    }
}

fn wrong(line: u64, user: Option<&str>, reason: &'static str, message: impl Into<String>) -> ImportRow {
    let user = user.map(|user| user.chars().take(64).collect());
    let mistake = Mistake { user, reason, message: message.into() };
    ImportRow { line, content: RowContent::Wrong(mistake) }
}

/// Whether a quote is open: one that began a field, and was not closed (RFC 4180 section 2.5 to 2.7).
struct Quotes {
    is_open: bool,
    /// Where a quote would open one: at the start of a field, or behind a closing one, which it doubles.
    may_open: bool,
}

impl Quotes {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'"' if self.is_open => (self.is_open, self.may_open) = (false, true),
                b'"' if self.may_open => self.is_open = true,
                byte => self.may_open = *byte == b',',
            }
        }
    }
}

/// More columns than any list of people has; ours are three.
const MAX_COLUMNS: usize = 64;

/// Parts rows into fields. The parser is made once: it builds its table for a single row as for a file.
struct Splitter {
    parser: csv_core::Reader,
    text: Vec<u8>,
    ends: [usize; MAX_COLUMNS],
}

impl Splitter {
    fn new() -> Splitter {
        Splitter { parser: csv_core::Reader::new(), text: Vec::new(), ends: [0; MAX_COLUMNS] }
    }

    fn fields(&mut self, row: &[u8]) -> Result<Vec<String>, &'static str> {
        self.parser.reset();
        // The fields are never longer than what they are written as.
        self.text.resize(row.len(), 0);
        let (mut read, mut written, mut ended) = (0, 0, 0);
        loop {
            let input = row.get(read..).unwrap_or_default();
            let text = self.text.get_mut(written..).unwrap_or_default();
            let ends = self.ends.get_mut(ended..).unwrap_or_default();
            let (result, taken, put, fields) = self.parser.read_record(input, text, ends);
            (read, written, ended) = (read + taken, written + put, ended + fields);
            match result {
                // The end of the input ends the record.
                csv_core::ReadRecordResult::InputEmpty => {}
                csv_core::ReadRecordResult::Record => break,
                csv_core::ReadRecordResult::OutputEndsFull => return Err("there are too many columns"),
                csv_core::ReadRecordResult::OutputFull | csv_core::ReadRecordResult::End => {
                    return Err("this is no row of CSV");
                }
            }
        }
        let mut start = 0;
        let mut fields = Vec::with_capacity(ended);
        for end in self.ends.iter().take(ended) {
            let field = std::str::from_utf8(self.text.get(start..*end).unwrap_or_default());
            fields.push(field.map_err(|_| "this is not UTF-8: save the file as UTF-8")?.to_owned());
            start = *end;
        }
        Ok(fields)
    }
}

/// The columns that the first row names, if it is a header; an `Err` where it is neither that nor a person.
fn header(fields: &[String]) -> Result<Option<Vec<Column>>, String> {
    let named = |field: &String| {
        COLUMNS.iter().find(|(name, _)| field.trim().eq_ignore_ascii_case(name)).map(|(_, column)| *column)
    };
    let columns: Vec<Option<Column>> = fields.iter().map(named).collect();
    let known = "the columns are address, name and aliases, separated by commas";
    if columns.contains(&Some(Column::Address)) {
        let mut header = Vec::new();
        for (column, field) in columns.iter().zip(fields) {
            match column {
                Some(column) if !header.contains(column) => header.push(*column),
                Some(_) => return Err(format!("the column {:?} stands twice", field.trim())),
                None => return Err(format!("{:?} is no column: {known}", field.trim())),
            }
        }
        return Ok(Some(header));
    }
    let is_address = fields.first().is_some_and(|field| field.contains('@'));
    let has_others = fields.first().is_some_and(|field| field.contains([';', '\t']));
    match (is_address, has_others, fields.len()) {
        (true, false, 1..=3) => Ok(None),
        (true, false, many) => Err(format!("there are {many} columns and no header: {known}")),
        _ => Err(format!("this is neither a header with the column address nor an address: {known}")),
    }
}
