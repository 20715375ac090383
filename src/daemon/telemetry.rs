//! Logs: where they go, and how a line of text looks.

use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::domain::name::is_deceptive;

/// Changes the level of the running daemon.
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

impl LevelHandle {
    /// Puts another level in force.
    pub fn set(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then nobody reads a log.
        let _ = self.0.modify(|filter| *filter = level_filter(level));
    }
}

/// Starts logging for the whole process. Call it once.
pub fn start(log: Log) -> io::Result<LevelHandle> {
    let (filter, handle) = reload::Layer::new(level_filter(log.level));
    let format = match log.format {
        LogFormat::Auto if is_journal_stream() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        format => format,
    };
    let layer: Box<dyn Layer<_> + Send + Sync> = match format {
        LogFormat::Journald => {
            // The prefix keeps our fields apart from those that the journal itself gives a meaning.
            let layer = tracing_journald::layer()?.with_field_prefix(Some("SEATKEEPER".to_owned()));
            Box::new(layer.with_syslog_identifier("seatkeeper".to_owned()))
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false);
            Box::new(layer.with_writer(io::stderr))
        }
        LogFormat::Auto | LogFormat::Text => {
            Box::new(tracing_subscriber::fmt::layer().event_format(TextFormat).with_writer(io::stderr))
        }
    };
    tracing_subscriber::registry().with(filter).with(layer).init();
    Ok(LevelHandle(handle))
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Whether standard error is the journal: systemd names its device and inode in `JOURNAL_STREAM`
/// (systemd.exec(5)). A shell that systemd started passes the variable on, but has another stderr.
fn is_journal_stream() -> bool {
    let Ok(expected) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(metadata) = std::fs::File::from(stderr).metadata() else { return false };
    expected == format!("{}:{}", metadata.dev(), metadata.ino())
}

/// One line an event: time, level, fields, and the sentence last.
struct TextFormat;

impl<S, N> FormatEvent<S, N> for TextFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "TRACE",
        };
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(writer, "{:.3} {level:<5}{}{}", Timestamp::now(), line.fields, line.sentence)
    }
}

/// Collects the fields, and the message apart from them.
#[derive(Default)]
struct Line {
    fields: String,
    sentence: String,
}

impl Line {
    fn field(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.sentence.push(' ');
            push_escaped(&mut self.sentence, value);
            return;
        }
        let _ = write!(self.fields, " {}=", field.name());
        let is_bare = |c: char| !c.is_whitespace() && !is_deceptive(c) && !matches!(c, '"' | '=' | '\\');
        if !value.is_empty() && value.chars().all(is_bare) {
            self.fields.push_str(value);
        } else {
            self.fields.push('"');
            push_escaped(&mut self.fields, value);
            self.fields.push('"');
        }
    }
}

/// Escapes whatever could end the line, or look like the end of a quoted value.
fn push_escaped(line: &mut String, value: &str) {
    for c in value.chars() {
        if is_deceptive(c) || matches!(c, '"' | '\\') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer =
            tracing_subscriber::fmt::layer().event_format(TextFormat).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn fields_come_first_and_the_sentence_last() {
        let line = logged(|| {
            tracing::info!(event = "seat_granted", user = "alice@example.org", seats_used = 3, "A seat.");
        });
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.parse::<Timestamp>().is_ok(), "{time}");
        assert_eq!(rest, "INFO  event=seat_granted user=alice@example.org seats_used=3 A seat.\n");
    }

    #[test]
    fn nothing_from_outside_can_forge_a_line() {
        let line = logged(|| {
            let user = "x\n2026-01-01 ERROR event=\"brake_tripped\"\u{1b}[2J";
            tracing::warn!(user, "{user} was refused.");
        });
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains('\u{1b}'));
        assert!(line.contains(r#"user="x\n2026-01-01 ERROR event=\"brake_tripped\"\u{1b}[2J""#), "{line}");
    }
}
