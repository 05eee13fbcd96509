//! Hostile bytes give an error, never a panic, and never an allocation beyond a small multiple of their length.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use memori_schemas::framing::{self, FramingError};
use memori_schemas::{ConversationEvent, LogRecordBody, MetadataEntry};
use proptest::prelude::*;

/// Counts what the calling thread holds, and the most that it held since the last reset.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    // Growing is the default: the new block is taken before the old one is given back, and both are counted.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bound: the smallest item (an empty metadata entry, two bytes) becomes 48 bytes, and a list that grows is held twice
/// over for a moment. Errors and the library's own working memory take the constant.
const BYTES_PER_BYTE: usize = 80;
const BYTES_ALWAYS: usize = 4 * 1024;

fn decode_within_bounds(payload: &[u8]) -> Result<LogRecordBody, FramingError> {
    let before = HELD.get();
    PEAK.set(before);
    let result = framing::decode(payload);
    let taken = (PEAK.get() - before).cast_unsigned();
    let allowed = BYTES_ALWAYS + BYTES_PER_BYTE * payload.len();
    assert!(taken <= allowed, "{} bytes made the decoder take {taken}, more than {allowed}: {result:?}", payload.len());
    result
}

fn payloads() -> Vec<Vec<u8>> {
    common::all().iter().map(|(_, record)| framing::encode(record).expect("it encodes")).collect()
}

/// `head` of a payload up to where `needle` stands in it, and what follows it.
fn split_at(payload: &[u8], needle: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let at = payload.windows(needle.len()).position(|window| window == needle).expect("it is there");
    (payload[..at].to_vec(), payload[at + needle.len()..].to_vec())
}

/// A zigzag varint.
fn long(n: i64) -> Vec<u8> {
    let mut bits = ((n << 1) ^ (n >> 63)).cast_unsigned();
    let mut out = vec![];
    while bits >= 0x80 {
        out.push(u8::try_from(bits & 0x7f).expect("seven bits") | 0x80);
        bits >>= 7;
    }
    out.push(u8::try_from(bits).expect("seven bits"));
    out
}

fn event(change: impl FnOnce(&mut ConversationEvent)) -> Vec<u8> {
    let Some((_, LogRecordBody::Conversation(mut event))) = common::bare().into_iter().next() else {
        unreachable!("the first one is a conversation")
    };
    change(&mut event);
    framing::encode(&LogRecordBody::Conversation(event)).expect("it encodes")
}

#[test]
fn every_truncation_is_an_error() {
    for payload in payloads() {
        for cut in 0..payload.len() {
            assert!(decode_within_bounds(&payload[..cut]).is_err(), "{} bytes cut at {cut}", payload.len());
        }
    }
}

#[test]
fn anything_behind_the_record_is_an_error() {
    for mut payload in payloads() {
        payload.push(0);
        assert!(matches!(decode_within_bounds(&payload), Err(FramingError::Invalid { .. })));
    }
}

#[test]
fn every_flipped_bit_gives_a_record_or_an_error() {
    let mut errors = 0;
    for payload in payloads() {
        for bit in 0..payload.len() * 8 {
            let mut payload = payload.clone();
            payload[bit / 8] ^= 1 << (bit % 8);
            errors += usize::from(decode_within_bounds(&payload).is_err());
        }
    }
    assert!(errors > 1_000, "many a flip breaks a length, an index or the fingerprint: {errors}");
}

#[test]
fn lengths_that_lie_are_errors() {
    let payload = event(|e| e.tenant = "TENANT".into());
    let (head, tail) = split_at(&payload, b"\x0cTENANT");
    for length in [7 + 1_000, 1 << 20, 1 << 30, i64::from(i32::MAX), 1 << 40, i64::MAX, -1, i64::MIN] {
        let hostile = [head.clone(), long(length), b"TENANT".to_vec(), tail.clone()].concat();
        assert!(decode_within_bounds(&hostile).is_err(), "a string of {length}");
    }
    let endless = [head.clone(), vec![0xff; 64]].concat();
    assert!(decode_within_bounds(&endless).is_err(), "a number that does not end");
    let not_utf8 = [head, b"\x0cTEN\xffNT".to_vec(), tail].concat();
    assert!(decode_within_bounds(&not_utf8).is_err());
}

#[test]
fn counts_that_lie_are_errors() {
    // One message, whose fields end in: content "hi", format text, no time; then the empty list of metadata.
    let payload = event(|e| e.metadata = vec![MetadataEntry { key: "KEY".into(), value: "VALUE".into() }]);
    let list = b"\x02\x06KEY\x0aVALUE\x00";
    let (head, tail) = split_at(&payload, list);
    let with = |list: Vec<u8>| decode_within_bounds(&[head.clone(), list, tail.clone()].concat());
    let item = &list[1..11];
    for count in [1_000, 1 << 30, i64::MAX, i64::MIN, i64::MIN + 1, -(1 << 40), -1_000] {
        for size in [vec![], long(10), long(i64::MAX), long(-1)] {
            let bomb = [long(count), size, item.to_vec(), vec![0]].concat();
            assert!(with(bomb).is_err(), "a list of {count}");
        }
    }
    // What Avro allows: a block that names its size, and several blocks.
    let sized = [long(-1), long(10), item.to_vec(), long(1), item.to_vec(), vec![0]].concat();
    let Ok(LogRecordBody::Conversation(read)) = with(sized) else { panic!("blocks with sizes are legal") };
    assert_eq!(read.metadata.len(), 2);
    let wrong_size = [long(-1), long(9), item.to_vec(), vec![0]].concat();
    assert!(with(wrong_size).is_err());
}

/// The worst that a valid payload can do: as many of the smallest items as there is room for.
#[test]
fn the_densest_lists_stay_within_the_bound() {
    let payload = event(|e| e.metadata = vec![MetadataEntry { key: "KEY".into(), value: "VALUE".into() }]);
    let (head, tail) = split_at(&payload, b"\x02\x06KEY\x0aVALUE\x00");
    for items in [10, 10_000, 1_000_000] {
        let count = long(i64::try_from(items).expect("it fits"));
        let one_block = [head.clone(), count, vec![0; 2 * items + 1], tail.clone()].concat();
        let Ok(LogRecordBody::Conversation(read)) = decode_within_bounds(&one_block) else { panic!("it is a legal datum") };
        assert_eq!(read.metadata.len(), items);
        let many_blocks = [head.clone(), [2, 0, 0].repeat(items), vec![0], tail.clone()].concat();
        assert!(decode_within_bounds(&many_blocks).is_ok());
    }
}

#[test]
fn symbols_branches_and_booleans_out_of_range_are_errors() {
    let payload = event(|e| e.tenant = "TENANT".into());
    let (head, _) = split_at(&payload, b"\x0cTENANT");
    let after_entity = payload[head.len() + 7..].to_vec();
    let Some((_, record)) = common::bare().into_iter().next() else { unreachable!("there are records") };
    let LogRecordBody::Conversation(bare) = record else { unreachable!("the first one is a conversation") };
    let entity_bytes = 1 + bare.entity_id.len();
    for branch in [2, -1, i64::MAX, i64::MIN, 1 << 32] {
        // The first field behind the entity is an optional string: its branch.
        let hostile =
            [&head, &b"\x0cTENANT"[..], &after_entity[..entity_bytes], &long(branch), &after_entity[entity_bytes + 1..]].concat();
        assert!(decode_within_bounds(&hostile).is_err(), "branch {branch}");
    }
}

#[test]
fn an_error_quotes_no_content() {
    for payload in payloads() {
        for cut in 10..payload.len() {
            let Err(error) = decode_within_bounds(&payload[..cut]) else { panic!("it is cut") };
            assert!(!error.to_string().contains("alice") && !error.to_string().contains("acme"), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_an_error_or_a_record(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_within_bounds(&bytes);
    }

    #[test]
    fn random_bytes_behind_a_known_fingerprint_are_an_error_or_a_record(which in 0_usize..12, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let payload = [payloads()[which][..10].to_vec(), bytes].concat();
        let _ = decode_within_bounds(&payload);
    }

    #[test]
    fn a_spliced_payload_is_an_error_or_a_record(a in 0_usize..12, b in 0_usize..12, cut in any::<prop::sample::Index>(), join in any::<prop::sample::Index>(), noise in proptest::collection::vec(any::<u8>(), 0..12)) {
        let (a, b) = (&payloads()[a], &payloads()[b]);
        let payload = [&a[..cut.index(a.len())], &noise[..], &b[join.index(b.len())..]].concat();
        if let Ok(record) = decode_within_bounds(&payload) {
            // Whatever was accepted can be written again.
            prop_assert!(framing::encode(&record).is_ok());
        }
    }
}
