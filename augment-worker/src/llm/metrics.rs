//! What the `llm` extractor counts. Labels are bounded: purposes, results and reasons from fixed lists.

#![allow(clippy::disallowed_macros, reason = "this is the metrics module")]

use std::sync::Arc;
use std::time::Duration;

use memori_schemas::Lane;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::convert::Ignored;
use super::refused::Refusal;
use super::tokens::Tokens;
use crate::pace::{Position, Wait};

/// Calls to the model, by purpose and result.
pub const CALLS: &str = "memori_llm_calls_total";
/// Seconds of one call, by purpose.
pub const CALL_SECONDS: &str = "memori_llm_call_seconds";
/// Tokens, by direction and by who counted them.
pub const TOKENS: &str = "memori_llm_tokens_total";
/// What they cost, in millionths of the configured currency.
pub const COST: &str = "memori_llm_cost_micros_total";
/// Tokens of extractions and their repairs, by lane, model, direction and tenant (those that configuration names, `other`).
pub const USAGE_TOKENS: &str = "memori_llm_usage_tokens_total";
/// What they cost, in millionths of the configured currency, by lane, model and tenant.
pub const USAGE_COST: &str = "memori_llm_usage_cost_micros_total";
/// Answers that could not be used and were asked for again, by outcome.
pub const REPAIRS: &str = "memori_llm_repairs_total";
/// Items of answers that are not kept, by reason.
pub const REFUSED: &str = "memori_llm_facts_refused_total";
/// What items said that was not taken over, by what it was.
pub const IGNORED: &str = "memori_llm_fields_ignored_total";
/// Requests that were made again in a form that the server understands.
pub const STEPPED_DOWN: &str = "memori_llm_stepped_down_total";
/// What came of asking for known facts, by outcome.
pub const KNOWN: &str = "memori_llm_known_facts_total";
/// Whether the endpoint can be used (1): key, model, address and quota are in order.
pub const USABLE: &str = "memori_llm_endpoint_usable";

/// Calls that may be in flight now, by endpoint.
pub const LIMIT: &str = "memori_llm_limit";
/// Calls in flight, by endpoint.
pub const IN_USE: &str = "memori_llm_in_flight";
/// 0: the breaker is closed, 1: it is probed, 2: it is open; by endpoint.
pub const BREAKER: &str = "memori_llm_breaker";
/// Calls that an endpoint refused because there are too many.
pub const LIMITED: &str = "memori_llm_limited_total";
/// Calls that were made again elsewhere because an endpoint was in trouble, by that endpoint.
pub const FAILED_OVER: &str = "memori_llm_failed_over_total";
/// Seconds that calls waited for their turn, by what they waited for.
pub const WAIT_SECONDS: &str = "memori_llm_wait_seconds";

/// Why a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Extract,
    Repair,
    Probe,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Repair => "repair",
            Self::Probe => "probe",
        }
    }
}

/// What came of asking for known facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownOutcome {
    Used,
    Empty,
    Timeout,
    Failed,
}

impl KnownOutcome {
    const ALL: [Self; 4] = [Self::Used, Self::Empty, Self::Timeout, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Empty => "empty",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
        }
    }
}

/// How a repair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repaired {
    Mended,
    Failed,
    /// The provider failed meanwhile; all of it is done again.
    Interrupted,
}

impl Repaired {
    const ALL: [Self; 3] = [Self::Mended, Self::Failed, Self::Interrupted];

    fn as_str(self) -> &'static str {
        match self {
            Self::Mended => "mended",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Describes every metric once, and makes the counters that an alarm may ask for before they first count.
pub(crate) fn describe() {
    describe_counter!(
        CALLS,
        "calls to the model: `extract`, `repair` or `probe`; `answered`, or why not; labels: purpose, result"
    );
    describe_histogram!(CALL_SECONDS, Unit::Seconds, "one call to the model; labels: purpose");
    describe_counter!(
        TOKENS,
        "tokens `in` and `out`, as the provider counted (`usage`) or `estimated` where it does not; labels: direction, source"
    );
    describe_counter!(COST, "what calls to the model cost by the configured prices, in millionths of the currency");
    describe_counter!(
        USAGE_TOKENS,
        "tokens of extractions and their repairs, by whose they are. `tenant` is one that configuration names (below `extractor.tenants` or `worker.tenants`, the first 100 by name), else `other`; labels: lane, model, tenant, direction"
    );
    describe_counter!(
        USAGE_COST,
        "what extractions and their repairs cost, by whose they are, in millionths of the currency; labels: lane, model, tenant"
    );
    describe_counter!(
        REPAIRS,
        "answers that could not be used: `mended` by the second call, `failed`, or `interrupted` by the provider; labels: outcome"
    );
    describe_counter!(REFUSED, "items of answers that are not kept; the others of the same answer are; labels: reason");
    describe_counter!(
        IGNORED,
        "what items said that was not taken over: a `slot` outside the list, a `time` that is none, `evidence` that is no user's beside one that is; labels: field"
    );
    describe_counter!(STEPPED_DOWN, "requests that were made again without a part that the server does not know");
    describe_counter!(KNOWN, "requests for what is known already: `used`, `empty`, `timeout`, `failed`; labels: outcome");
    describe_gauge!(USABLE, "0 while an operator must act at one of the endpoints: key, model, address, quota");
    for outcome in Repaired::ALL {
        counter!(REPAIRS, "outcome" => outcome.as_str()).increment(0);
    }
    for reason in Refusal::ALL {
        counter!(REFUSED, "reason" => reason.as_str()).increment(0);
    }
    for field in Ignored::ALL {
        counter!(IGNORED, "field" => field.as_str()).increment(0);
    }
    for outcome in KnownOutcome::ALL {
        counter!(KNOWN, "outcome" => outcome.as_str()).increment(0);
    }
    describe_gauge!(
        LIMIT,
        "calls that may be in flight now, by the endpoint's name in the configuration (its place in the list, from 0, where it has none); labels: endpoint"
    );
    describe_gauge!(IN_USE, "calls in flight; labels: endpoint");
    describe_gauge!(
        BREAKER,
        "0 while an endpoint is asked, 2 while its breaker is open, 1 while a probe is under way; labels: endpoint"
    );
    describe_counter!(LIMITED, "calls that an endpoint refused because there are too many; labels: endpoint");
    describe_counter!(
        FAILED_OVER,
        "calls that were made again at another endpoint because this one, which is named, was in trouble; labels: endpoint"
    );
    describe_histogram!(
        WAIT_SECONDS,
        Unit::Seconds,
        "calls that waited for their turn, by what they waited for first: `limit`, `requests_per_minute`, `tokens_per_minute`, `retry_after`, `provider_said`, `breaker`; labels: for"
    );
    for wait in Wait::ALL {
        // served with nothing in it until a call has waited
        drop(histogram!(WAIT_SECONDS, "for" => wait.as_str()));
    }
    counter!(COST).increment(0);
    counter!(STEPPED_DOWN).increment(0);
    gauge!(USABLE).set(1.0);
}

/// `result` is a name of `CallError` or `answered`.
pub(crate) fn called(purpose: Purpose, result: &'static str, took: Duration) {
    counter!(CALLS, "purpose" => purpose.as_str(), "result" => result).increment(1);
    histogram!(CALL_SECONDS, "purpose" => purpose.as_str()).record(took.as_secs_f64());
}

pub(crate) fn spent(tokens: Tokens, is_counted: bool, cost_micros: i64) {
    let source = if is_counted { "usage" } else { "estimated" };
    counter!(TOKENS, "direction" => "in", "source" => source).increment(tokens.read);
    counter!(TOKENS, "direction" => "out", "source" => source).increment(tokens.written);
    counter!(COST).increment(u64::try_from(cost_micros).unwrap_or(0));
}

/// On whose account a call goes.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) lane: Lane,
    /// As configured.
    pub(crate) model: String,
    /// A name of [`super::accounts::Accounts`].
    pub(crate) tenant: Arc<str>,
}

pub(crate) fn used(account: &Account, tokens: Tokens, cost_micros: i64) {
    let Account { lane, model, tenant } = account;
    for (direction, count) in [("in", tokens.read), ("out", tokens.written)] {
        counter!(USAGE_TOKENS, "lane" => lane.as_str(), "model" => model.clone(), "tenant" => Arc::clone(tenant), "direction" => direction)
            .increment(count);
    }
    counter!(USAGE_COST, "lane" => lane.as_str(), "model" => model.clone(), "tenant" => Arc::clone(tenant))
        .increment(u64::try_from(cost_micros).unwrap_or(0));
}

pub(crate) fn repaired(outcome: Repaired) {
    counter!(REPAIRS, "outcome" => outcome.as_str()).increment(1);
}

pub(crate) fn refused(reason: Refusal) {
    counter!(REFUSED, "reason" => reason.as_str()).increment(1);
}

pub(crate) fn ignored(field: Ignored) {
    counter!(IGNORED, "field" => field.as_str()).increment(1);
}

pub(crate) fn stepped_down() {
    counter!(STEPPED_DOWN).increment(1);
}

pub(crate) fn known_facts(outcome: KnownOutcome) {
    counter!(KNOWN, "outcome" => outcome.as_str()).increment(1);
}

/// `endpoint` is a name of the configuration, here and below.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn paced(endpoint: &str, limit: usize, in_flight: usize, position: Position) {
    gauge!(LIMIT, "endpoint" => endpoint.to_owned()).set(limit as f64);
    gauge!(IN_USE, "endpoint" => endpoint.to_owned()).set(in_flight as f64);
    gauge!(BREAKER, "endpoint" => endpoint.to_owned()).set(position.level());
    // from zero on, so that the first is seen to have been added
    counter!(LIMITED, "endpoint" => endpoint.to_owned()).increment(0);
    counter!(FAILED_OVER, "endpoint" => endpoint.to_owned()).increment(0);
}

pub(crate) fn limited(endpoint: &str) {
    counter!(LIMITED, "endpoint" => endpoint.to_owned()).increment(1);
}

pub(crate) fn failed_over(endpoint: &str) {
    counter!(FAILED_OVER, "endpoint" => endpoint.to_owned()).increment(1);
}

pub(crate) fn waited(wait: Wait, took: Duration) {
    histogram!(WAIT_SECONDS, "for" => wait.as_str()).record(took.as_secs_f64());
}

pub(crate) fn usable(usable: bool) {
    gauge!(USABLE).set(f64::from(u8::from(usable)));
}
