//! What the spool holds, in memory: its segments, how far each is delivered, and which keys and events wait in it. Pure.

use std::collections::{BTreeMap, HashMap};

use memori_schemas::Micros;

use super::frame::Entry;

/// A short name of a key or an event.
type Digest = [u8; 16];

fn digest(parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

/// One file of the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Bytes that are durable.
    pub(crate) durable_bytes: u64,
    /// Up to here everything is in the log.
    pub(crate) delivered_bytes: u64,
}

/// Something undelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undelivered {
    /// Which segment.
    pub(crate) segment: u64,
    /// From which byte.
    pub(crate) from: u64,
    /// To which byte.
    pub(crate) to: u64,
}

/// The spool's index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    segments: BTreeMap<u64, Segment>,
    /// How many entries of a key wait.
    keys: HashMap<Digest, u32>,
    /// How many copies of an event wait, and when the first was accepted.
    events: HashMap<Digest, (u32, Micros)>,
    /// Bytes of a tenant's entries that wait.
    tenants: HashMap<Digest, u64>,
    entries: usize,
    /// Bytes promised to entries that are being written.
    reserved_bytes: u64,
    max_bytes: u64,
}

impl Index {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    /// Sets bytes aside for an entry; `false` where that would go beyond the bound.
    pub(crate) fn reserve(&mut self, bytes: u64) -> bool {
        let fits = self.bytes() + bytes <= self.max_bytes;
        if fits {
            self.reserved_bytes += bytes;
        }
        fits
    }

    /// Gives bytes back that were set aside.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(bytes);
    }

    /// A file of that many durable bytes, of which the first are delivered.
    pub(crate) fn add_segment(&mut self, segment: u64, durable_bytes: u64, delivered_bytes: u64) {
        self.segments.insert(segment, Segment { durable_bytes, delivered_bytes: delivered_bytes.min(durable_bytes) });
    }

    /// A segment grew by durable bytes.
    pub(crate) fn grow(&mut self, segment: u64, bytes: u64) {
        self.segments.entry(segment).or_default().durable_bytes += bytes;
    }

    /// An entry waits.
    pub(crate) fn add(&mut self, entry: &Entry) {
        *self.keys.entry(digest(&[&entry.key])).or_default() += 1;
        let event = self.events.entry(event_digest(&entry.key, &entry.event_id)).or_insert((0, Micros(entry.accepted_at_us)));
        event.0 += 1;
        event.1 = event.1.min(Micros(entry.accepted_at_us));
        *self.tenants.entry(tenant_digest(&entry.key)).or_default() += size(entry);
        self.entries += 1;
    }

    /// An entry waits no more.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        let key = digest(&[&entry.key]);
        if let Some(count) = self.keys.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&key);
            }
        }
        let event = event_digest(&entry.key, &entry.event_id);
        if let Some((count, _)) = self.events.get_mut(&event) {
            *count -= 1;
            if *count == 0 {
                self.events.remove(&event);
            }
        }
        let tenant = tenant_digest(&entry.key);
        if let Some(bytes) = self.tenants.get_mut(&tenant) {
            *bytes = bytes.saturating_sub(size(entry));
            if *bytes == 0 {
                self.tenants.remove(&tenant);
            }
        }
        self.entries = self.entries.saturating_sub(1);
    }

    /// Bytes of a tenant's entries that wait.
    pub(crate) fn bytes_of(&self, tenant: &str) -> u64 {
        self.tenants.get(&digest(&[tenant.as_bytes()])).copied().unwrap_or(0)
    }

    /// The bound.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Whether entries of this key wait: then later ones wait behind them.
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.keys.contains_key(&digest(&[key]))
    }

    /// When a waiting event was accepted.
    pub(crate) fn accepted_at(&self, tenant: &str, event_id: &str) -> Option<Micros> {
        self.events.get(&digest(&[tenant.as_bytes(), event_id.as_bytes()])).map(|(_, at)| *at)
    }

    /// The oldest segment with undelivered bytes.
    pub(crate) fn oldest_undelivered(&self) -> Option<Undelivered> {
        let (number, segment) = self.segments.iter().find(|(_, segment)| segment.delivered_bytes < segment.durable_bytes)?;
        Some(Undelivered { segment: *number, from: segment.delivered_bytes, to: segment.durable_bytes })
    }

    /// Everything of a segment before this byte is in the log.
    pub(crate) fn deliver(&mut self, segment: u64, up_to: u64) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.delivered_bytes = segment.delivered_bytes.max(up_to.min(segment.durable_bytes));
        }
    }

    /// The segment, where it is there.
    pub(crate) fn segment(&self, segment: u64) -> Option<Segment> {
        self.segments.get(&segment).copied()
    }

    /// The segment's file is gone.
    pub(crate) fn drop_segment(&mut self, segment: u64) {
        self.segments.remove(&segment);
    }

    /// How many entries wait.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Bytes on disk, and those that are promised.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.durable_bytes).sum::<u64>() + self.reserved_bytes
    }
}

/// The tenant is the first part of a key.
fn tenant_of(key: &[u8]) -> &str {
    memori_schemas::ids::parse_log_key(key).map_or("", |(tenant, _)| tenant)
}

fn tenant_digest(key: &[u8]) -> Digest {
    digest(&[tenant_of(key).as_bytes()])
}

fn event_digest(key: &[u8], event_id: &str) -> Digest {
    digest(&[tenant_of(key).as_bytes(), event_id.as_bytes()])
}

/// What an entry counts for: its key and its record.
fn size(entry: &Entry) -> u64 {
    (entry.key.len() + entry.payload.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::entry;
    use super::*;

    #[test]
    fn keys_and_events_wait_until_their_last_entry_is_gone() {
        let mut index = Index::new(100);
        let key = memori_schemas::ids::log_key("t", "alice");
        let mut first = entry(1, "", 0);
        first.key = key.clone().into();
        let mut second = first.clone();
        second.accepted_at_us = 9;
        index.add(&first);
        index.add(&second);
        assert!(index.has_key(&key) && !index.has_key(b"other"));
        assert_eq!(index.accepted_at("t", "e1"), Some(Micros(1)));
        assert_eq!(index.accepted_at("u", "e1"), None);
        assert_eq!((index.bytes_of("t"), index.bytes_of("u")), (2 * size(&first), 0));
        index.remove(&first);
        assert!(index.has_key(&key));
        index.remove(&second);
        assert!(!index.has_key(&key) && index.accepted_at("t", "e1").is_none());
        assert_eq!((index.entries(), index.keys.len(), index.events.len(), index.tenants.len()), (0, 0, 0, 0));
    }

    #[test]
    fn bytes_are_promised_only_up_to_the_bound() {
        let mut index = Index::new(100);
        assert!(index.reserve(60) && !index.reserve(41) && index.reserve(40));
        index.release(40);
        index.grow(7, 60);
        index.release(60);
        assert_eq!(index.bytes(), 60);
        assert!(!index.reserve(41));
        assert_eq!(index.oldest_undelivered(), Some(Undelivered { segment: 7, from: 0, to: 60 }));
        index.deliver(7, 59);
        assert_eq!(index.oldest_undelivered(), Some(Undelivered { segment: 7, from: 59, to: 60 }));
        index.deliver(7, 60);
        assert_eq!(index.oldest_undelivered(), None);
        index.drop_segment(7);
        assert!(index.reserve(100));
    }
}
