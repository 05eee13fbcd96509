//! What the packer measures.
#![allow(clippy::disallowed_macros, reason = "this is a metrics module")]

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

const PACKS: &str = "memori_writer_packs_total";
const PACK_SECONDS: &str = "memori_writer_pack_seconds";
const PACK_BYTES: &str = "memori_writer_pack_bytes_total";
const NOTES_DROPPED: &str = "memori_writer_pack_notes_dropped_total";

/// Describes every metric once.
pub fn describe() {
    describe_counter!(
        PACKS,
        "entities that the packer looked at: `packed`, `not_due`, `outrun` (something was removed meanwhile, or another packer was first), `failed`; labels: result"
    );
    describe_histogram!(PACK_SECONDS, Unit::Seconds, "how long an entity's packs took to be read, made and stored");
    describe_counter!(PACK_BYTES, Unit::Bytes, "bytes of the packs that were stored");
    describe_counter!(
        NOTES_DROPPED,
        "flushes that the packer was too far behind to take note of; those entities are packed later"
    );
}

pub(super) fn packed(took: Duration, bytes: usize) {
    ended("packed");
    histogram!(PACK_SECONDS).record(took.as_secs_f64());
    counter!(PACK_BYTES).increment(bytes as u64);
}

pub(super) fn ended(result: &'static str) {
    counter!(PACKS, "result" => result).increment(1);
}

pub(super) fn note_dropped() {
    counter!(NOTES_DROPPED).increment(1);
}
