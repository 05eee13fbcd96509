//! What embedding counts. Labels are bounded: kinds and causes from fixed lists.

#![allow(clippy::disallowed_macros, reason = "this is the metrics module")]

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Whether there is an embedder (1), or recall goes by words alone (0).
pub const AVAILABLE: &str = "memori_embedding_available";
/// Texts that became vectors, by kind.
pub const TEXTS: &str = "memori_embedding_texts_total";
/// Texts that were embedded together, by kind.
pub const BATCH_TEXTS: &str = "memori_embedding_batch_texts";
/// Seconds from a call to its answer, by kind.
pub const SECONDS: &str = "memori_embedding_seconds";
/// Calls that failed, by kind and cause.
pub const FAILURES: &str = "memori_embedding_failures_total";
/// Requests to an endpoint that are repeated, by cause.
pub const RETRIES: &str = "memori_embedding_retries_total";

/// What makes the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model in this process.
    Local,
    /// An endpoint.
    Endpoint,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Local, Self::Endpoint];

    fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Endpoint => "endpoint",
        }
    }
}

/// Why a call failed or is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Connection,
    /// 429.
    RateLimited,
    /// 5xx.
    Unavailable,
    /// Another status: the request, the key or the model is not accepted.
    Refused,
    /// An answer that cannot be used.
    Invalid,
    /// The model in this process failed.
    Model,
}

impl Cause {
    const ALL: [Self; 7] =
        [Self::Timeout, Self::Connection, Self::RateLimited, Self::Unavailable, Self::Refused, Self::Invalid, Self::Model];

    /// As a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::Model => "model",
        }
    }
}

/// Describes every metric once, and makes the counters that an alarm may ask for before they first count.
pub fn describe() {
    describe_gauge!(AVAILABLE, "1 where texts become vectors, 0 where recall goes by words alone");
    describe_counter!(TEXTS, "texts that became vectors, by what made them: `local`, `endpoint`; labels: kind");
    describe_histogram!(BATCH_TEXTS, "texts embedded together; labels: kind");
    describe_histogram!(SECONDS, Unit::Seconds, "from a call for vectors to its answer; labels: kind");
    describe_counter!(
        FAILURES,
        "calls for vectors that failed: `timeout`, `connection`, `rate_limited`, `unavailable`, `refused`, `invalid`, `model`; labels: kind, cause"
    );
    describe_counter!(RETRIES, "requests to an endpoint that are repeated; labels: cause");
    for kind in Kind::ALL {
        counter!(TEXTS, "kind" => kind.as_str()).increment(0);
        for cause in Cause::ALL {
            counter!(FAILURES, "kind" => kind.as_str(), "cause" => cause.as_str()).increment(0);
        }
    }
    for cause in Cause::ALL {
        counter!(RETRIES, "cause" => cause.as_str()).increment(0);
    }
}

pub(crate) fn available(is: bool) {
    gauge!(AVAILABLE).set(f64::from(u8::from(is)));
}

#[expect(clippy::cast_precision_loss, reason = "a histogram of small counts")]
pub(crate) fn batch(kind: Kind, texts: usize) {
    histogram!(BATCH_TEXTS, "kind" => kind.as_str()).record(texts as f64);
}

pub(crate) fn done(kind: Kind, texts: usize, took: Duration) {
    counter!(TEXTS, "kind" => kind.as_str()).increment(texts as u64);
    histogram!(SECONDS, "kind" => kind.as_str()).record(took.as_secs_f64());
}

pub(crate) fn failed(kind: Kind, cause: Cause) {
    counter!(FAILURES, "kind" => kind.as_str(), "cause" => cause.as_str()).increment(1);
}

pub(crate) fn retried(cause: Cause) {
    counter!(RETRIES, "cause" => cause.as_str()).increment(1);
}
