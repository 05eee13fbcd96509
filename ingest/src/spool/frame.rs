//! The bytes of a spool's segment: frames, one after the other, each found again whatever happened to its neighbours.
//!
//! A frame is a mark, the body's length and a CRC-32 of length and body (u32, big-endian), the body. The mark holds bytes that no
//! UTF-8 text has, so no text inside an event can pass for a frame.

use bytes::Bytes;

/// What begins a frame.
const MARK: [u8; 4] = [0xff, b'M', b'S', 0xfe];
/// Mark, length, CRC.
const HEAD_BYTES: usize = 12;
/// No body is longer: an event is at most 1 MiB of JSON, and a record of the log at most 8 MiB.
const MAX_BODY_BYTES: usize = 9 << 20;

/// One event in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// When it was accepted, microseconds since 1970.
    pub(crate) accepted_at_us: i64,
    /// Its key on the log.
    pub(crate) key: Bytes,
    /// Its id.
    pub(crate) event_id: String,
    /// The trace that goes on with it.
    pub(crate) traceparent: Option<String>,
    /// The framed record.
    pub(crate) payload: Bytes,
}

impl Entry {
    /// Appends its frame.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MARK);
        out.extend_from_slice(&[0; 8]);
        let body = out.len();
        out.extend_from_slice(&self.accepted_at_us.to_be_bytes());
        for part in [&self.key[..], self.event_id.as_bytes(), self.traceparent.as_deref().unwrap_or_default().as_bytes()] {
            out.extend_from_slice(&u32_of(part.len()).to_be_bytes());
            out.extend_from_slice(part);
        }
        out.extend_from_slice(&self.payload);
        let length = u32_of(out.len() - body).to_be_bytes();
        let crc = checksum(length, &out[body..]).to_be_bytes();
        out[start + 4..start + 8].copy_from_slice(&length);
        out[start + 8..start + 12].copy_from_slice(&crc);
    }

    fn read(body: &[u8]) -> Option<Self> {
        fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            rest.split_at_checked(u32::from_be_bytes(*length) as usize)
        }
        let (accepted_at_us, rest) = body.split_first_chunk::<8>()?;
        let (key, rest) = part(rest)?;
        let (event_id, rest) = part(rest)?;
        let (traceparent, payload) = part(rest)?;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        Some(Self {
            accepted_at_us: i64::from_be_bytes(*accepted_at_us),
            key: Bytes::copy_from_slice(key),
            event_id: text(event_id)?,
            traceparent: if traceparent.is_empty() { None } else { Some(text(traceparent)?) },
            payload: Bytes::copy_from_slice(payload),
        })
    }
}

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("an event is shorter than 4 GiB")
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

/// What stands at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole entry, and the bytes of its frame.
    Entry(Box<Entry>, usize),
    /// So many bytes that are no whole frame, before the next mark or the end.
    Damage(usize),
    /// Nothing.
    End,
}

/// Looks at the start of `bytes`.
pub(crate) fn next(bytes: &[u8]) -> Found {
    if bytes.is_empty() {
        return Found::End;
    }
    if let Some((entry, length)) = whole(bytes) {
        return Found::Entry(Box::new(entry), length);
    }
    // The mark's first byte is rare: no text holds it.
    let skipped = (1..bytes.len()).find(|at| bytes[*at] == MARK[0] && whole(&bytes[*at..]).is_some());
    Found::Damage(skipped.unwrap_or(bytes.len()))
}

/// The entry at the very start of `bytes`, and the bytes of its frame.
fn whole(bytes: &[u8]) -> Option<(Entry, usize)> {
    let (mark, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let body_bytes = u32::from_be_bytes(*length) as usize;
    if *mark != MARK || body_bytes > MAX_BODY_BYTES {
        return None;
    }
    let body = rest.get(..body_bytes)?;
    if checksum(*length, body) != u32::from_be_bytes(*crc) {
        return None;
    }
    Some((Entry::read(body)?, HEAD_BYTES + body_bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn entry(n: usize, key: &str, size: usize) -> Entry {
        Entry {
            accepted_at_us: i64::try_from(n).unwrap(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            event_id: format!("e{n}"),
            traceparent: n.is_multiple_of(2).then(|| "00-11-22-01".to_owned()),
            payload: vec![u8::try_from(n % 251).unwrap(); size].into(),
        }
    }

    /// The entries in some bytes with where each ends, and how many bytes are damage.
    pub(crate) fn read_all(bytes: &[u8]) -> (Vec<(Entry, usize)>, usize) {
        let (mut at, mut damaged, mut entries) = (0, 0, Vec::new());
        loop {
            match next(&bytes[at..]) {
                Found::Entry(entry, length) => {
                    at += length;
                    entries.push((*entry, at));
                }
                Found::Damage(length) => {
                    at += length;
                    damaged += length;
                }
                Found::End => return (entries, damaged),
            }
        }
    }

    #[test]
    fn cut_at_any_byte_every_whole_entry_before_is_kept() {
        let entries: Vec<Entry> = (0..6).map(|n| entry(n, "k", n * 7)).collect();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for entry in &entries {
            entry.write(&mut bytes);
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let (read, damaged) = read_all(&bytes[..cut]);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(read.len(), whole, "cut at {cut}");
            assert!(read.iter().zip(&entries).all(|((read, _), written)| read == written));
            assert_eq!(damaged, cut - ends[..whole].last().copied().unwrap_or(0));
        }
    }

    proptest! {
        #[test]
        fn one_damaged_byte_costs_its_own_entry_only(
            sizes in proptest::collection::vec(0_usize..60, 1..8), at in any::<prop::sample::Index>(), flip in 1_u8..=255,
        ) {
            let entries: Vec<Entry> = sizes.iter().enumerate().map(|(n, size)| entry(n, "key", *size)).collect();
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for entry in &entries {
                entry.write(&mut bytes);
                ends.push(bytes.len());
            }
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let hit = ends.iter().position(|end| at < *end).unwrap();
            let (read, damaged) = read_all(&bytes);
            let expected: Vec<&Entry> = entries.iter().enumerate().filter(|(n, _)| *n != hit).map(|(_, entry)| entry).collect();
            prop_assert_eq!(read.iter().map(|(entry, _)| entry).collect::<Vec<_>>(), expected);
            prop_assert_eq!(damaged, ends[hit] - hit.checked_sub(1).map_or(0, |before| ends[before]));
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(prop_oneof![Just(0xff), Just(b'M'), Just(b'S'), Just(0xfe), any::<u8>()], 0..200)) {
            let (entries, damaged) = read_all(&bytes);
            prop_assert!(entries.is_empty() && damaged == bytes.len());
        }
    }
}
