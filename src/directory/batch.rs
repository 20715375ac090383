//! Collects entries into batches of bounded size.

use tokio::sync::mpsc::Sender;

use super::{DirectoryError, Event};
use crate::domain::mapping::Entry;

/// A millisecond's work for whoever maps them, so that reading and mapping go on at the same time.
const MAX_ENTRIES: usize = 500;

/// Photos and certificates make entries large: a batch ends here at the latest, and the channel's
/// memory is this times its length.
const MAX_BYTES: usize = 1024 * 1024;

/// What an attribute or a value costs beyond its bytes, so that many empty ones count too.
const OVERHEAD_BYTES: usize = 64;

/// A batch that is being filled.
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Batch {
    /// Adds an entry; true when the batch is full and has to be handed on.
    pub(super) fn push(&mut self, entry: Entry) -> bool {
        if self.entries.is_empty() {
            self.entries.reserve_exact(MAX_ENTRIES);
        }
        self.bytes += weight(&entry);
        self.entries.push(entry);
        self.entries.len() >= MAX_ENTRIES || self.bytes >= MAX_BYTES
    }

    /// Takes the entries as an event, or nothing where there are none.
    pub(super) fn take(&mut self) -> Option<Event> {
        self.bytes = 0;
        let entries = std::mem::take(&mut self.entries);
        (!entries.is_empty()).then_some(Event::Upserts(entries))
    }

    /// Hands the entries on, and waits while the channel is full.
    pub(super) async fn flush(&mut self, events: &Sender<Event>) -> Result<(), DirectoryError> {
        match self.take() {
            Some(event) => events.send(event).await.map_err(|_| DirectoryError::Abandoned),
            None => Ok(()),
        }
    }

    /// [`flush`](Batch::flush) for a thread that may block.
    pub(super) fn blocking_flush(&mut self, events: &Sender<Event>) -> Result<(), DirectoryError> {
        match self.take() {
            Some(event) => events.blocking_send(event).map_err(|_| DirectoryError::Abandoned),
            None => Ok(()),
        }
    }
}

fn weight(entry: &Entry) -> usize {
    let attributes = entry.attributes.iter().map(|attribute| {
        let values: usize = attribute.values.iter().map(|value| value.len() + OVERHEAD_BYTES).sum();
        attribute.name.len() + OVERHEAD_BYTES + values
    });
    entry.dn.len() + OVERHEAD_BYTES + attributes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mapping::Attribute;

    fn entry(bytes: usize) -> Entry {
        let photo = Attribute { name: "jpegPhoto".to_owned(), values: vec![vec![0; bytes]] };
        Entry { dn: String::new(), attributes: vec![photo] }
    }

    #[test]
    fn a_batch_is_bounded_by_entries_and_by_bytes() {
        let mut batch = Batch::default();
        assert!(batch.take().is_none());
        assert!((1..MAX_ENTRIES).all(|_| !batch.push(entry(1))));
        assert!(batch.push(entry(1)));
        assert!(matches!(batch.take(), Some(Event::Upserts(entries)) if entries.len() == MAX_ENTRIES));
        assert!(!batch.push(entry(MAX_BYTES / 2)));
        assert!(batch.push(entry(MAX_BYTES / 2)));
        assert!(batch.take().is_some());
        assert!(!batch.push(entry(1)));
    }
}
