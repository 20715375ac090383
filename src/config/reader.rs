//! Decodes a spanned TOML tree by hand: every mistake goes to one place, and reading goes on.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::OsString;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{Found, closest, line_of, quoted};

/// What the whole decoding shares.
pub(super) struct Reader<'a> {
    /// The file.
    pub(super) text: &'a str,
    /// Relative paths begin here.
    pub(super) base: &'a Path,
    /// Looks up a variable of the environment.
    pub(super) env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Mistakes so far. Many sections are open at once and all report here, hence the cell.
    found: RefCell<Vec<Found>>,
    files: RefCell<Vec<NamedFile>>,
}

/// A file that the configuration names and that must be good already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NamedFile {
    pub(super) path: PathBuf,
    /// Where it is named.
    pub(super) span: Range<usize>,
    pub(super) kind: FileKind,
}

/// What a named file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileKind {
    /// Nobody else may read it.
    Secret,
    /// Certificates, which anybody may read.
    Public,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        text: &'a str,
        base: &'a Path,
        env: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Reader<'a> {
        Reader { text, base, env, found: RefCell::default(), files: RefCell::default() }
    }

    pub(super) fn report(&self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.found.borrow_mut().push(Found::new(span, message, help));
    }

    fn report_absence(&self, span: Range<usize>, message: String, help: String) {
        self.found.borrow_mut().push(Found { is_absence: true, ..Found::new(span, message, help) });
    }

    pub(super) fn into_parts(self) -> (Vec<Found>, Vec<NamedFile>) {
        (self.found.into_inner(), self.files.into_inner())
    }
}

/// A table that is being read. A key is known once it was asked for; [`Section::finish`] reports the others.
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    /// `None` where the file has no such table: every key is absent then.
    table: Option<&'a DeTable<'a>>,
    /// Its header, where a missing key is reported.
    span: Range<usize>,
    /// How it is written, `[log]`; empty for the top level.
    title: &'static str,
    asked: Vec<&'static str>,
    refused: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(reader: &'a Reader<'a>, table: &'a DeTable<'a>) -> Section<'a> {
        Section::new(reader, Some(table), 0..0, "")
    }

    fn new(
        reader: &'a Reader<'a>,
        table: Option<&'a DeTable<'a>>,
        span: Range<usize>,
        title: &'static str,
    ) -> Section<'a> {
        Section { reader, table, span, title, asked: Vec::new(), refused: Vec::new() }
    }

    /// Where its header stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Whether the file has no such table, or nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_none_or(|table| table.is_empty())
    }

    /// A mistake somewhere in it.
    pub(super) fn report(&self, span: Range<usize>, message: &str, help: &str) {
        self.reader.report(span, message, help);
    }

    fn lookup(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table?.get(key)
    }

    /// The value of a key. `example` is a value as it is written in TOML, for the help of a mistake.
    pub(super) fn take(&mut self, key: &'static str, example: &'static str) -> Option<Value<'a>> {
        let value = self.lookup(key)?;
        Some(Value { reader: self.reader, key, example, span: value.span(), value: value.get_ref() })
    }

    /// The value of a key that must be there.
    pub(super) fn require(&mut self, key: &'static str, example: &'static str) -> Option<Value<'a>> {
        let value = self.take(key, example);
        if value.is_none() {
            let message = format!("{} has no `{key}`", self.title);
            self.reader.report_absence(self.span(), message, format!("add {key} = {example}"));
        }
        value
    }

    /// A table inside; an absent one is read as empty, so that the defaults are in one place.
    pub(super) fn table(&mut self, key: &'static str, title: &'static str) -> Section<'a> {
        let value = self.lookup(key);
        let table = match value.map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => Some(table),
            Some(other) => {
                let message = format!("`{key}` must be a table, not {}", type_of(other));
                self.reader.report(span_of(value), message, format!("write it as {title}"));
                None
            }
            None => None,
        };
        Section::new(self.reader, table, span_of(value), title)
    }

    /// The tables of a `[[list]]`, in the order of the file.
    pub(super) fn tables(&mut self, key: &'static str, title: &'static str) -> Vec<Section<'a>> {
        let reader = self.reader;
        let section = |span, table| Section::new(reader, Some(table), span, title);
        let wrong = |span, message| reader.report(span, message, format!("write {title} before its keys"));
        let Some(value) = self.lookup(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| match item.get_ref() {
                    DeValue::Table(table) => Some(section(item.span(), table)),
                    other => {
                        wrong(item.span(), format!("`{key}` must hold tables, not {}", type_of(other)));
                        None
                    }
                })
                .collect(),
            DeValue::Table(table) => {
                wrong(value.span(), format!("`{key}` must be a list of tables, in double brackets"));
                vec![section(value.span(), table)]
            }
            other => {
                wrong(value.span(), format!("`{key}` must be a list of tables, not {}", type_of(other)));
                Vec::new()
            }
        }
    }

    /// Every key of a table whose keys are names, in the order of the names. `example` is a value of one.
    pub(super) fn into_values(self, example: &'static str) -> Vec<Value<'a>> {
        let reader = self.reader;
        let value = |(key, value): (&'a Spanned<Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| Value {
            reader,
            key: key.get_ref(),
            example,
            span: value.span(),
            value: value.get_ref(),
        };
        self.table.into_iter().flatten().map(value).collect()
    }

    /// Every table in a table whose keys are names, with its name.
    pub(super) fn into_tables(self, title: &'static str) -> Vec<(&'a str, Section<'a>)> {
        let mut sections = Vec::new();
        for (key, value) in self.table.into_iter().flatten() {
            let (key, span) = (key.get_ref().as_ref(), value.span());
            match value.get_ref() {
                DeValue::Table(table) => {
                    sections.push((key, Section::new(self.reader, Some(table), span, title)));
                }
                other => {
                    let message = format!("{} must be a table, not {}", quoted(key), type_of(other));
                    self.reader.report(span, message, format!("write it as {title}"));
                }
            }
        }
        sections
    }

    /// A mistake in the table as a whole.
    pub(super) fn wrong(&self, message: impl Into<String>, help: impl Into<String>) {
        self.reader.report(self.span(), message, help);
    }

    /// A key that somebody may well write, but that is unknown here.
    pub(super) fn refuse(&mut self, key: &'static str, help: &str) {
        self.refused.push(key);
        if let Some((found, _)) = self.table.and_then(|table| table.get_key_value(key)) {
            self.reader.report(found.span(), format!("unknown key `{key}`"), help);
        }
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        self.finish_kinds("key");
    }

    /// [`Section::finish`] where the keys are kinds of something.
    pub(super) fn finish_kinds(self, noun: &str) {
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) || self.refused.contains(&name) {
                continue;
            }
            let help = match closest(name, &self.asked) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            self.reader.report(key.span(), format!("unknown {noun} {}", quoted(name)), help);
        }
    }
}

/// The value of one key.
pub(super) struct Value<'a> {
    reader: &'a Reader<'a>,
    pub(super) key: &'a str,
    example: &'static str,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Value<'a> {
    /// A mistake in the value as a whole.
    pub(super) fn wrong(&self, message: impl Into<String>, help: impl Into<String>) {
        self.reader.report(self.span.clone(), message, help);
    }

    fn wrong_type(&self, span: Range<usize>, wanted: &str, value: &DeValue<'_>) {
        let message = format!("`{}` must {wanted}, not {}", self.key, type_of(value));
        self.reader.report(span, message, self.like());
    }

    fn like(&self) -> String {
        format!("write it like {} = {}", self.key, self.example)
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.wrong_type(self.span.clone(), "be true or false", self.value);
        }
        boolean
    }

    /// A whole number in a range.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let Some(integer) = self.value.as_integer() else {
            self.wrong_type(self.span.clone(), "be a whole number", self.value);
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| u64::try_from(number).ok()).filter(|n| range.contains(n));
        if number.is_none() {
            let wanted = match *range.end() {
                u64::MAX => format!("{} or more", range.start()),
                end => format!("{} to {end}", range.start()),
            };
            self.wrong(format!("`{}` must be {wanted}", self.key), self.like());
        }
        number
    }

    pub(super) fn text(&self) -> Option<Text<'a>> {
        let text = self.item(self.span.clone(), self.value);
        if text.is_none() {
            self.wrong_type(self.span.clone(), "be a string", self.value);
        }
        text
    }

    /// An array of strings, of one at least.
    pub(super) fn texts(&self) -> Vec<Text<'a>> {
        match self.value.as_array().map(AsRef::as_ref) {
            Some([]) => self.wrong(format!("`{}` is empty", self.key), self.like()),
            Some(items) => return self.items(items),
            None => self.wrong_type(self.span.clone(), "be an array of strings", self.value),
        }
        Vec::new()
    }

    /// One string, or an array of them.
    pub(super) fn one_or_more_texts(&self) -> Vec<Text<'a>> {
        match (self.item(self.span.clone(), self.value), self.value.as_array()) {
            (Some(text), _) => return vec![text],
            (None, Some(_)) => return self.texts(),
            (None, None) => {}
        }
        self.wrong_type(self.span.clone(), "be a string or an array of strings", self.value);
        Vec::new()
    }

    fn items(&self, items: &'a [Spanned<DeValue<'a>>]) -> Vec<Text<'a>> {
        let item = |item: &'a Spanned<DeValue<'a>>| {
            let text = self.item(item.span(), item.get_ref());
            if text.is_none() {
                self.wrong_type(item.span(), "hold only strings", item.get_ref());
            }
            text
        };
        items.iter().filter_map(item).collect()
    }

    fn item(&self, span: Range<usize>, value: &'a DeValue<'a>) -> Option<Text<'a>> {
        let Value { reader, key, example, .. } = *self;
        value.as_str().map(|text| Text { reader, key, example, span, text })
    }
}

/// A string of the file.
#[derive(Clone)]
pub(super) struct Text<'a> {
    pub(super) reader: &'a Reader<'a>,
    pub(super) key: &'a str,
    example: &'static str,
    span: Range<usize>,
    /// Without the quotes, escapes resolved.
    pub(super) text: &'a str,
}

impl Text<'_> {
    /// Without its first bytes; mistakes in it are shown at the whole string.
    pub(super) fn tail(&self, from: usize) -> Self {
        Text { text: self.text.get(from..).unwrap_or_default(), ..self.clone() }
    }

    /// A mistake in the string as a whole.
    pub(super) fn wrong(&self, message: impl Into<String>, help: impl Into<String>) {
        self.reader.report(self.span.clone(), message, help);
    }

    /// [`Text::wrong`] with the key's example for help.
    pub(super) fn wrong_form(&self, message: impl Into<String>) {
        self.wrong(message, self.like());
    }

    pub(super) fn like(&self) -> String {
        format!("write it like {} = {}", self.key, self.example)
    }

    /// A mistake in a range of bytes of the string.
    pub(super) fn wrong_at(&self, range: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let span = self.inside(range).unwrap_or(self.span.clone());
        self.reader.report(span, message, help);
    }

    /// Where in the file a range of the string stands, if the file has the string just as it is: between
    /// plain quotes and without escapes.
    fn inside(&self, range: Range<usize>) -> Option<Range<usize>> {
        let written = self.reader.text.get(self.span.clone())?;
        let unquoted = written.get(1..written.len().checked_sub(1)?)?;
        (unquoted == self.text).then(|| {
            let start = self.span.start + 1;
            // At the end of the string the closing quote is shown.
            let end = range.end.max(range.start + 1);
            start + range.start..start + end
        })
    }

    /// Has the file that is named here checked after the decoding.
    pub(super) fn name_file(&self, path: &Path, kind: FileKind) {
        let file = NamedFile { path: path.to_owned(), span: self.span.clone(), kind };
        self.reader.files.borrow_mut().push(file);
    }

    /// The line on which it stands.
    pub(super) fn line(&self) -> usize {
        line_of(self.reader.text, self.span.start)
    }
}

fn span_of(value: Option<&Spanned<DeValue<'_>>>) -> Range<usize> {
    value.map(Spanned::span).unwrap_or_default()
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
