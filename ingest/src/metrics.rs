//! What the front door counts. Labels are bounded: routes as they are declared, classes of status, reasons from fixed lists.

#![allow(clippy::disallowed_macros, reason = "this is the metrics module")]

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use memori_service::auth::Denied;

use crate::redrive::Refusal;
use crate::tenants::quotas::Quota;

/// Events accepted, by where they became durable (`log`, `spool`).
pub const ACCEPTED: &str = "memori_ingest_events_accepted_total";
/// Requests for events that were accepted before.
pub const DUPLICATES: &str = "memori_ingest_events_duplicate_total";
/// Events refused, by reason.
pub const REJECTED: &str = "memori_ingest_events_rejected_total";
/// Injected blocks removed from messages.
pub const CONTEXT_BLOCKS_REMOVED: &str = "memori_ingest_context_blocks_removed_total";
/// Seconds from the head of a request to the head of its answer, by route, method and class of status.
pub const REQUEST_SECONDS: &str = "memori_ingest_request_duration_seconds";
/// Requests being served.
pub const REQUESTS_IN_FLIGHT: &str = "memori_ingest_requests_in_flight";
/// Events in the spool that are not yet in the log.
pub const SPOOL_EVENTS: &str = "memori_ingest_spool_events";
/// Bytes of the spool on disk.
pub const SPOOL_BYTES: &str = "memori_ingest_spool_bytes";
/// Events refused because the spool was full.
pub const SPOOL_FULL: &str = "memori_ingest_spool_full_total";
/// Events that the spool could not write.
pub const SPOOL_FAILED: &str = "memori_ingest_spool_failed_total";
/// Spooled events that reached the log.
pub const SPOOL_DELIVERED: &str = "memori_ingest_spool_delivered_total";
/// Spooled events that the log refuses for good; they are set aside on disk.
pub const SPOOL_SET_ASIDE: &str = "memori_ingest_spool_set_aside_total";
/// Bytes of the spool that were no whole record when it was opened: torn tails.
pub const SPOOL_TORN_BYTES: &str = "memori_ingest_spool_torn_bytes_total";
/// Events that the log did not confirm in time.
pub const UNCONFIRMED: &str = "memori_ingest_log_unconfirmed_total";
/// Look-ups of event ids at the writer, by result (`answered`, `unanswered`).
pub const LOOKUPS: &str = "memori_ingest_door_lookups_total";
/// Events that the door remembers.
pub const RECENT_EVENTS: &str = "memori_ingest_door_recent_events";
/// Controls put on the log, by kind (`erase`, `forget`, `withdraw`).
pub const CONTROLS: &str = "memori_ingest_controls_total";
/// Flushes that waits asked for, by result (`sent`, `failed`, `asked_before`, `too_many`).
pub const FLUSHES: &str = "memori_ingest_flushes_total";

/// Requests refused because, without keys, their `Host` was not this machine.
pub const HOSTS_REFUSED: &str = "memori_ingest_hosts_refused_total";

/// What came of a flush that a wait asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// It is on the log.
    Sent,
    /// The log did not take it.
    Failed,
    /// One is under way that covers the event.
    AskedBefore,
    /// A bound is reached.
    TooMany,
}

impl Flushed {
    const ALL: [Self; 4] = [Self::Sent, Self::Failed, Self::AskedBefore, Self::TooMany];

    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::AskedBefore => "asked_before",
            Self::TooMany => "too_many",
        }
    }
}

/// Imports that run here, or wait for their turn.
pub const BACKFILLS: &str = "memori_ingest_backfills_running";
/// Events that imports put on the log.
pub const BACKFILL_EVENTS: &str = "memori_ingest_backfill_events_total";
/// Parts of records that imports set aside.
pub const BACKFILL_REJECTED: &str = "memori_ingest_backfill_rejected_total";

/// Dead-lettered events put back, by the lane that they went to.
pub const REDRIVEN: &str = "memori_ingest_redriven_total";
/// Dead letters that were not put back, by reason.
pub const REDRIVE_REFUSED: &str = "memori_ingest_redrive_refused_total";

/// Events and queries refused because a tenant's quota was used up, by quota.
pub const QUOTA_REFUSED: &str = "memori_ingest_quota_refused_total";
/// How much the tenant that is nearest to its bound has used of a quota that fills up, by quota.
pub const QUOTA_USED: &str = "memori_ingest_quota_used_ratio";
/// Requests with a key of the key store that lets nobody in, by reason.
pub const KEYS_DENIED: &str = "memori_ingest_keys_denied_total";
/// Look-ups of keys at the key store, by result (`found`, `unknown`, `unanswered`), and uses of a key beyond its age because nobody
/// answered (`remembered`).
pub const KEY_LOOKUPS: &str = "memori_ingest_key_lookups_total";
/// Keys of the key store that the front door remembers.
pub const KEYS_REMEMBERED: &str = "memori_ingest_keys_remembered";

const LOOKUP_RESULTS: [&str; 4] = ["found", "unknown", "unanswered", "remembered"];

/// Describes every metric once, and makes the counters that an alarm may ask for before they first count.
pub fn describe() {
    describe_counter!(ACCEPTED, "events accepted, by where they became durable: `log`, `spool`; labels: durable_in");
    describe_counter!(DUPLICATES, "requests for events that had been accepted before");
    describe_counter!(REJECTED, "events refused; labels: reason");
    describe_counter!(CONTEXT_BLOCKS_REMOVED, "injected memory blocks taken out of messages");
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "from the head of a request to the head of its answer; labels: route, method, class"
    );
    describe_gauge!(REQUESTS_IN_FLIGHT, "requests being served");
    describe_gauge!(SPOOL_EVENTS, "events in the spool that are not yet in the log");
    describe_gauge!(SPOOL_BYTES, Unit::Bytes, "size of the spool on disk");
    describe_counter!(SPOOL_FULL, "events refused because the spool was full");
    describe_counter!(SPOOL_FAILED, "events that the spool could not write");
    describe_counter!(SPOOL_DELIVERED, "spooled events that reached the log");
    describe_counter!(SPOOL_SET_ASIDE, "spooled events that the log refuses for good; they are kept beside it");
    describe_counter!(SPOOL_TORN_BYTES, Unit::Bytes, "bytes that were no whole record when the spool was opened");
    describe_counter!(UNCONFIRMED, "events that the log did not confirm in time");
    describe_counter!(LOOKUPS, "look-ups of event ids at the writer; labels: result");
    describe_gauge!(RECENT_EVENTS, "events that the door remembers");
    describe_counter!(CONTROLS, "deletions put on the log; labels: kind");
    describe_counter!(
        FLUSHES,
        "flushes that waits asked the worker for: `sent`, `failed`, `asked_before` (one that is under way covers the event), `too_many`; labels: result"
    );
    for result in Flushed::ALL {
        counter!(FLUSHES, "result" => result.as_str()).increment(0);
    }
    describe_gauge!(BACKFILLS, "imports of `/v1/admin/backfills` that run here, or wait for their turn");
    level(BACKFILLS, 0);
    for (name, what) in [
        (BACKFILL_EVENTS, "events that imports of `/v1/admin/backfills` put on the log"),
        (BACKFILL_REJECTED, "parts of records that they set aside; the import's `rejected_sample` says why"),
    ] {
        describe_counter!(name, what);
        counter!(name).increment(0);
    }
    describe_counter!(REDRIVEN, "dead-lettered events put back, by the lane that they went to; labels: lane");
    describe_counter!(
        REDRIVE_REFUSED,
        "dead letters that were not put back: `not_found`, `erased`, `applied`, `superseded`, `unreadable`, `sealed`, `other_log`, `not_in_log`, `under_way`, `not_taken`; labels: reason"
    );
    for lane in memori_schemas::Lane::ALL {
        counter!(REDRIVEN, "lane" => lane.as_str()).increment(0);
    }
    for refusal in Refusal::ALL {
        counter!(REDRIVE_REFUSED, "reason" => refusal.as_str()).increment(0);
    }
    describe_gauge!(
        QUOTA_USED,
        "how much of a quota that fills up the tenant that is nearest to its bound has used, 1 being all, of those that called within a minute: `stored_facts`, `llm_tokens_per_day`; labels: quota"
    );
    quotas_used([(Quota::StoredFacts, 0.0), (Quota::LlmTokensPerDay, 0.0)]);
    describe_counter!(
        QUOTA_REFUSED,
        "events and queries refused because a tenant's quota was used up: `events_per_second`, `recalls_per_second`, `stored_facts`, `llm_tokens_per_day`, `spool_share`; labels: quota"
    );
    for quota in Quota::ALL {
        counter!(QUOTA_REFUSED, "quota" => quota.as_str()).increment(0);
    }
    describe_counter!(
        KEYS_DENIED,
        "requests with a key of the key store that lets nobody in: `unknown`, `expired`, `revoked`, `tenant_suspended`; labels: reason"
    );
    for denied in Denied::ALL {
        counter!(KEYS_DENIED, "reason" => denied.as_str()).increment(0);
    }
    describe_counter!(
        KEY_LOOKUPS,
        "questions to the key store: `found`, `unknown`, `unanswered`; and `remembered`: a key was used beyond its age because nobody answered; labels: result"
    );
    for result in LOOKUP_RESULTS {
        counter!(KEY_LOOKUPS, "result" => result).increment(0);
    }
    describe_gauge!(KEYS_REMEMBERED, "keys of the key store that the front door remembers");
    gauge!(KEYS_REMEMBERED).set(0.0);
    describe_counter!(
        HOSTS_REFUSED,
        "requests whose `Host` was not this machine, where no keys are configured: a page that rebinds its name, or a proxy that keeps the name it was called by"
    );
    for durable_in in ["log", "spool"] {
        counter!(ACCEPTED, "durable_in" => durable_in).increment(0);
    }
    for name in [
        DUPLICATES,
        CONTEXT_BLOCKS_REMOVED,
        SPOOL_FULL,
        SPOOL_FAILED,
        SPOOL_DELIVERED,
        SPOOL_SET_ASIDE,
        SPOOL_TORN_BYTES,
        UNCONFIRMED,
        HOSTS_REFUSED,
    ] {
        counter!(name).increment(0);
    }
    for kind in ["erase", "forget", "withdraw"] {
        counter!(CONTROLS, "kind" => kind).increment(0);
    }
    // That a front door is there is read off this one.
    gauge!(REQUESTS_IN_FLIGHT).set(0.0);
    gauge!(SPOOL_EVENTS).set(0.0);
    gauge!(SPOOL_BYTES).set(0.0);
}

/// Counts `count` on a counter without labels.
pub(crate) fn count(name: &'static str, count: usize) {
    if count > 0 {
        counter!(name).increment(count as u64);
    }
}

/// Counts one accepted event.
pub(crate) fn accepted(durable_in: &'static str) {
    counter!(ACCEPTED, "durable_in" => durable_in).increment(1);
}

/// Counts one refused event by the status of its answer.
pub(crate) fn rejected(status: http::StatusCode) {
    let reason = match status.as_u16() {
        400 => "not_json",
        408 => "timeout",
        409 => "conflict",
        413 => "too_large",
        415 => "media_type",
        422 => "invalid",
        429 => "quota",
        503 => "unavailable",
        _ => "other",
    };
    counter!(REJECTED, "reason" => reason).increment(1);
}

/// Counts one look-up.
pub(crate) fn lookup(answered: bool) {
    counter!(LOOKUPS, "result" => if answered { "answered" } else { "unanswered" }).increment(1);
}

/// Counts one flush.
pub(crate) fn flushed(result: Flushed) {
    counter!(FLUSHES, "result" => result.as_str()).increment(1);
}

/// Counts one control.
pub(crate) fn control(kind: &'static str) {
    counter!(CONTROLS, "kind" => kind).increment(1);
}

/// Counts dead-lettered events that were put back.
pub(crate) fn redriven(lane: memori_schemas::Lane, count: usize) {
    counter!(REDRIVEN, "lane" => lane.as_str()).increment(count as u64);
}

/// Counts a dead letter that was not put back.
pub(crate) fn redrive_refused(refusal: Refusal) {
    counter!(REDRIVE_REFUSED, "reason" => refusal.as_str()).increment(1);
}

/// Tells how much of each quota the tenant that is nearest to its bound has used, 1 being all.
pub(crate) fn quotas_used(used: [(Quota, f64); 2]) {
    for (quota, ratio) in used {
        gauge!(QUOTA_USED, "quota" => quota.as_str()).set(ratio);
    }
}

/// Counts events or queries that a quota refuses.
pub(crate) fn quota_refused(quota: Quota, count: usize) {
    counter!(QUOTA_REFUSED, "quota" => quota.as_str()).increment(count as u64);
}

/// Counts a key that lets nobody in.
pub(crate) fn key_denied(denied: Denied) {
    counter!(KEYS_DENIED, "reason" => denied.as_str()).increment(1);
}

/// Counts a look-up of a key.
pub(crate) fn key_looked_up(result: &'static str) {
    counter!(KEY_LOOKUPS, "result" => result).increment(1);
}

/// Notes how large something is now.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; sizes are far below 2^52")]
pub(crate) fn level(name: &'static str, value: usize) {
    gauge!(name).set(value as f64);
}

/// One request is being served; ends with the guard.
pub(crate) struct InFlight;

impl InFlight {
    pub(crate) fn begin() -> Self {
        gauge!(REQUESTS_IN_FLIGHT).increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(REQUESTS_IN_FLIGHT).decrement(1.0);
    }
}

/// One request was answered.
pub(crate) fn answered(route: &str, method: &http::Method, status: http::StatusCode, took: Duration) {
    let class = match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    let method = match *method {
        http::Method::GET => "GET",
        http::Method::POST => "POST",
        http::Method::PUT => "PUT",
        http::Method::PATCH => "PATCH",
        http::Method::DELETE => "DELETE",
        _ => "other",
    };
    histogram!(REQUEST_SECONDS, "route" => route.to_owned(), "method" => method, "class" => class).record(took.as_secs_f64());
}

/// Counts a request that took us for somebody else.
pub fn host_refused() {
    counter!(HOSTS_REFUSED).increment(1);
}
