//! The names of this crate's metrics, and the only place that records them.
#![allow(clippy::disallowed_macros, reason = "this is the metrics module")]

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Recalls answered, by route: `single`, `batch`, `worker`.
pub const RECALLS_TOTAL: &str = "memori_recalls_total";
/// How long a recall took, from its query to its answer.
pub const RECALL_SECONDS: &str = "memori_recall_seconds";
/// Images found in the cache and still true, by part: `facts`, `messages`.
pub const RECALL_CACHE_HITS_TOTAL: &str = "memori_recall_cache_hits_total";
/// Images that had to be read, by part.
pub const RECALL_CACHE_MISSES_TOTAL: &str = "memori_recall_cache_misses_total";
/// Bytes of the cached images.
pub const RECALL_CACHE_BYTES: &str = "memori_recall_cache_bytes";
/// Answers by recipe (`vectors`, `lexical`) and, of the latter, by reason.
pub const RECALL_RANKINGS_TOTAL: &str = "memori_recall_rankings_total";
/// Vectors of queries, by result: `cached`, `joined` (another query had asked for it), `asked`.
pub const RECALL_QUERY_VECTORS_TOTAL: &str = "memori_recall_query_vectors_total";
/// Packed chunks that were not used, by reason: `version`, `checksum`, `malformed`. The rows were read instead.
pub const RECALL_PACKS_REFUSED_TOTAL: &str = "memori_recall_packs_refused_total";
/// How long reading and indexing an image took, by what it was made from: `rows`, `packs`, `changes`; `outline`: of packs, what ranks alone.
pub const RECALL_IMAGE_SECONDS: &str = "memori_recall_image_seconds";
/// Requests that wait for a commit.
pub const WAITERS: &str = "memori_writer_waiters";
/// Waits refused because too many wait already.
pub const WAITS_REFUSED_TOTAL: &str = "memori_writer_waits_refused_total";
/// Times that waiters were told to look, by cause: `notified`, `reconnected`, `poll`.
pub const WAKE_UPS_TOTAL: &str = "memori_writer_wake_ups_total";

/// Describes the metrics of recall and reads. Once per process.
pub fn describe_reads() {
    describe_counter!(
        RECALLS_TOTAL,
        Unit::Count,
        "recalls answered: `single`, `batch`, `worker` (what the extractor asks in the embedded process); labels: route"
    );
    describe_histogram!(RECALL_SECONDS, Unit::Seconds, "from a query to its answer");
    describe_counter!(RECALL_CACHE_HITS_TOTAL, Unit::Count, "images found in the cache and still true; labels: part");
    describe_counter!(RECALL_CACHE_MISSES_TOTAL, Unit::Count, "images that had to be read; labels: part");
    describe_gauge!(RECALL_CACHE_BYTES, Unit::Bytes, "bytes of the cached images");
    describe_histogram!(
        RECALL_IMAGE_SECONDS,
        Unit::Seconds,
        "reading and indexing an image, by what it was made from: `rows`, `packs`, `changes`; `outline`: of packs, what ranks alone; labels: source"
    );
    describe_counter!(
        RECALL_PACKS_REFUSED_TOTAL,
        Unit::Count,
        "packed chunks that were not used, so that the rows were read: `version` (another version wrote them), `checksum`, `malformed`; labels: reason"
    );
    describe_counter!(
        RECALL_RANKINGS_TOTAL,
        Unit::Count,
        "answers by `vectors` or `lexical`, and why the latter: `no_model`, `timeout`, `no_vectors`, …; labels: recipe, reason"
    );
    describe_counter!(
        RECALL_QUERY_VECTORS_TOTAL,
        Unit::Count,
        "vectors of queries: `cached`, `joined` (asked for by another query), `asked`; labels: result"
    );
    describe_gauge!(WAITERS, Unit::Count, "requests that wait for a commit");
    describe_counter!(
        WAKE_UPS_TOTAL,
        Unit::Count,
        "times that waiters were told to look: `notified` (a commit, of whichever writer), `reconnected`, `poll`; labels: cause"
    );
    describe_counter!(WAITS_REFUSED_TOTAL, Unit::Count, "waits refused because too many wait already");
    counter!(WAITS_REFUSED_TOTAL).increment(0);
}

pub(crate) fn recalled(route: &'static str, took: Duration) {
    counter!(RECALLS_TOTAL, "route" => route).increment(1);
    histogram!(RECALL_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn cache_hit(part: &'static str) {
    counter!(RECALL_CACHE_HITS_TOTAL, "part" => part).increment(1);
}

pub(crate) fn cache_miss(part: &'static str) {
    counter!(RECALL_CACHE_MISSES_TOTAL, "part" => part).increment(1);
}

#[allow(clippy::cast_precision_loss)] // a gauge is a float
pub(crate) fn cache_bytes(bytes: usize) {
    gauge!(RECALL_CACHE_BYTES).set(bytes as f64);
}

pub(crate) fn image_built(source: &'static str, took: Duration) {
    histogram!(RECALL_IMAGE_SECONDS, "source" => source).record(took.as_secs_f64());
}

pub(crate) fn pack_refused(reason: &'static str) {
    counter!(RECALL_PACKS_REFUSED_TOTAL, "reason" => reason).increment(1);
}

pub(crate) fn ranked(recipe: &'static str, reason: &'static str) {
    counter!(RECALL_RANKINGS_TOTAL, "recipe" => recipe, "reason" => reason).increment(1);
}

pub(crate) fn query_embedding(result: &'static str) {
    counter!(RECALL_QUERY_VECTORS_TOTAL, "result" => result).increment(1);
}

pub(crate) fn waiters(change: f64) {
    gauge!(WAITERS).increment(change);
}

pub(crate) fn woken(cause: &'static str) {
    counter!(WAKE_UPS_TOTAL, "cause" => cause).increment(1);
}

pub(crate) fn wait_refused() {
    counter!(WAITS_REFUSED_TOTAL).increment(1);
}
