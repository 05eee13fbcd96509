//! One endpoint: its limit, its breaker, its budgets, and what it said about its own.

use std::time::{Duration, Instant};

use super::allowance::{Allowance, Allowed};
use super::breaker::{Breaker, Position, Trouble};
use super::bucket::Bucket;
use super::limit::{Flight, Limit, Sign};

/// Where nothing is known yet: tokens of an answer.
const ANSWER_TOKENS: f64 = 300.0;
/// Where nothing is known yet: tokens of a call.
const CALL_TOKENS: f64 = 1_000.0;
/// How fast that is learned.
const LEARN: f64 = 0.05;
/// Calls in flight of which none ends for so long mean that nothing is answered.
const STALLED_LEAST: Duration = Duration::from_secs(10);
/// The same, in usual calls.
const STALLED_TIMES: f64 = 8.0;
/// So many calls at least: one alone may be long.
const STALLED_CALLS: usize = 4;
/// A call that takes so long is long, and so many usual ones.
const LONG_LEAST: Duration = Duration::from_secs(2);
const LONG_TIMES: f64 = 4.0;

/// What the operator allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Its share of calls, beside other endpoints'.
    pub(crate) weight: u32,
    /// Calls at a time.
    pub(crate) most: usize,
    /// Whether the limit finds itself below that.
    pub(crate) is_adaptive: bool,
    pub(crate) requests_per_minute: Option<f64>,
    pub(crate) tokens_per_minute: Option<f64>,
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wait {
    /// The breaker is open.
    Breaker,
    /// The provider said when it wants to be asked again.
    RetryAfter,
    /// The provider said that nothing is left.
    Said,
    /// The budget of requests per minute.
    Requests,
    /// That of tokens.
    Tokens,
    /// Calls in flight must end first.
    Limit,
}

impl Wait {
    pub(crate) const ALL: [Self; 6] = [Self::Breaker, Self::RetryAfter, Self::Said, Self::Requests, Self::Tokens, Self::Limit];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::RetryAfter => "retry_after",
            Self::Said => "provider_said",
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::Limit => "limit",
        }
    }
}

/// A call in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    flight: Flight,
    number: u64,
    pub(crate) began: Instant,
    /// Tokens that are reserved for it.
    reserved: f64,
    /// All that were reserved until then, this one's included.
    tokens_until: f64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// It was answered; with this many tokens in and out.
    Answered { tokens: u64, written: u64 },
    /// It was answered with something about this call alone.
    Refused,
    /// There are too many; it is not to be asked before this has passed.
    Limited { retry_after: Option<Duration> },
    /// It failed; `late` where there was no answer in time.
    Failed { trouble: Trouble, late: bool },
    /// It was given up from this side.
    Abandoned,
}

/// One endpoint's pace.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) weight: u32,
    own_most: usize,
    limit: Limit,
    breaker: Breaker,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    requests_left: Allowance,
    tokens_left: Allowance,
    not_before: Option<Instant>,
    number: u64,
    reserved_ever: f64,
    answer_tokens: f64,
    call_tokens: f64,
    answer_ms: Option<f64>,
    last_end: Instant,
    /// Stalls since the last answer.
    stalls: u32,
}

impl Endpoint {
    pub(crate) fn new(terms: Terms, now: Instant) -> Self {
        let bucket = |per_minute: Option<f64>| per_minute.map(|per_minute| Bucket::new(per_minute, now));
        Self {
            weight: terms.weight,
            own_most: terms.most,
            limit: Limit::new(terms.most, terms.is_adaptive),
            breaker: Breaker::default(),
            requests: bucket(terms.requests_per_minute),
            tokens: bucket(terms.tokens_per_minute),
            requests_left: Allowance::default(),
            tokens_left: Allowance::default(),
            not_before: None,
            number: 0,
            reserved_ever: 0.0,
            answer_tokens: ANSWER_TOKENS,
            call_tokens: CALL_TOKENS,
            answer_ms: None,
            last_end: now,
            stalls: 0,
        }
    }

    /// The bound of all endpoints has moved.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.limit.set_most(self.own_most.min(most));
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.get()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.limit.in_flight()
    }

    pub(crate) fn position(&self) -> Position {
        self.breaker.position()
    }

    /// Whether its tokens are counted, by us or by its provider.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.tokens.is_some() || self.tokens_left.is_known()
    }

    /// What a call with a prompt of so many tokens will take.
    pub(crate) fn expected_tokens(&self, prompt: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "tokens of one prompt")]
        let prompt = prompt as f64;
        prompt + self.answer_tokens
    }

    /// Why a call that takes so many tokens cannot begin now, and until when at least, where that is known.
    pub(crate) fn obstacle(&self, now: Instant, tokens: f64) -> Option<(Wait, Option<Instant>)> {
        if !self.breaker.is_closed() {
            return Some((Wait::Breaker, None));
        }
        if let Some(until) = self.not_before.filter(|until| now < *until) {
            return Some((Wait::RetryAfter, Some(until)));
        }
        let said = self.requests_left.wait(now, 1.0).max(self.tokens_left.wait(now, tokens));
        if !said.is_zero() {
            return Some((Wait::Said, now.checked_add(said)));
        }
        let budget = |bucket: &Option<Bucket>, cost: f64| bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(now, cost));
        for (wait, pause) in [(Wait::Requests, budget(&self.requests, 1.0)), (Wait::Tokens, budget(&self.tokens, tokens))] {
            if !pause.is_zero() {
                return Some((wait, now.checked_add(pause)));
            }
        }
        (self.limit.room() == 0).then_some((Wait::Limit, None))
    }

    /// How many usual calls may begin now.
    pub(crate) fn room(&self, now: Instant) -> usize {
        if !self.breaker.is_closed() || self.not_before.is_some_and(|until| now < until) {
            return 0;
        }
        let budget = |bucket: &Option<Bucket>, cost: f64| bucket.as_ref().map_or(usize::MAX, |bucket| bucket.times(now, cost));
        let said = self.requests_left.times(now, 1.0).min(self.tokens_left.times(now, self.call_tokens));
        self.limit.room().min(said).min(budget(&self.requests, 1.0)).min(budget(&self.tokens, self.call_tokens))
    }

    /// When there may be room without any call's end, where there is none now.
    pub(crate) fn room_at(&self, now: Instant) -> Option<Instant> {
        self.obstacle(now, self.call_tokens).and_then(|(_, until)| until)
    }

    /// A call begins that takes so many tokens.
    pub(crate) fn begin(&mut self, now: Instant, tokens: f64) -> Call {
        if self.limit.in_flight() == 0 {
            self.last_end = now;
        }
        self.number += 1;
        self.reserved_ever += tokens;
        self.requests_left.take(1.0);
        self.tokens_left.take(tokens);
        if let Some(bucket) = &mut self.requests {
            bucket.take(now, 1.0);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(now, tokens);
        }
        Call { flight: self.limit.begin(), number: self.number, began: now, reserved: tokens, tokens_until: self.reserved_ever }
    }

    /// The answer to a call told what is left.
    pub(crate) fn told(&mut self, call: &Call, now: Instant, allowed: Allowed) {
        #[expect(clippy::cast_precision_loss, reason = "calls since one that has just ended")]
        let since = (self.number - call.number) as f64;
        if let Some(requests) = allowed.requests {
            self.requests_left.told(now, call.number, requests, since);
        }
        if let Some(tokens) = allowed.tokens {
            self.tokens_left.told(now, call.number, tokens, self.reserved_ever - call.tokens_until);
        }
    }

    /// A call has ended. Whether that opened the breaker.
    pub(crate) fn end(&mut self, call: Call, now: Instant, outcome: Outcome, chance: f64) -> bool {
        let took = now.saturating_duration_since(call.began);
        self.last_end = self.last_end.max(now);
        let (sign, used) = match outcome {
            Outcome::Answered { tokens, written } => {
                #[expect(clippy::cast_precision_loss, reason = "tokens of one call")]
                let (tokens, written) = (tokens as f64, written as f64);
                self.answer_tokens += (written - self.answer_tokens) * LEARN;
                self.call_tokens += (tokens - self.call_tokens) * LEARN;
                self.stalls = 0;
                let ms = took.as_secs_f64() * 1e3;
                self.answer_ms = Some(self.answer_ms.map_or(ms, |before| before + (ms - before) * LEARN));
                (Sign::Answered(took), tokens)
            }
            Outcome::Limited { retry_after } => {
                if let Some(until) = retry_after.and_then(|wait| now.checked_add(wait)) {
                    self.not_before = Some(self.not_before.map_or(until, |before| before.max(until)));
                }
                (Sign::Refused, 0.0)
            }
            Outcome::Refused => (Sign::None, call.reserved),
            Outcome::Failed { late, .. } => (if late { Sign::Late } else { Sign::None }, call.reserved),
            Outcome::Abandoned => (Sign::None, call.reserved),
        };
        if let Some(bucket) = &mut self.tokens {
            bucket.take(now, used - call.reserved);
        }
        self.limit.end(call.flight, sign);
        match outcome {
            Outcome::Answered { .. } | Outcome::Refused | Outcome::Limited { .. } => {
                self.breaker.answered();
                false
            }
            Outcome::Failed { trouble, .. } => self.breaker.failed(now, trouble, chance),
            Outcome::Abandoned => false,
        }
    }

    /// Since when the breaker has been open.
    pub(crate) fn opened_at(&self) -> Option<Instant> {
        self.breaker.opened_at()
    }

    /// When a probe is due.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        let at = self.breaker.probe_at()?;
        Some(self.not_before.map_or(at, |until| at.max(until)))
    }

    pub(crate) fn probe_begins(&mut self, now: Instant, chance: f64) {
        if let Some(bucket) = &mut self.requests {
            bucket.take(now, 1.0);
        }
        self.breaker.probe_begins(now, chance);
    }

    /// A probe ended: with an answer of any kind, or with this trouble. Whether that closed the breaker.
    pub(crate) fn probe_ended(&mut self, now: Instant, trouble: Option<Trouble>, chance: f64) -> bool {
        let closed = self.breaker.probe_ended(now, trouble, chance);
        if closed {
            self.limit.begin_anew();
            self.last_end = now;
        }
        closed
    }

    /// How long a call takes that will hardly be answered any more, where the endpoint answers others.
    pub(crate) fn long(&self) -> Duration {
        self.usual(LONG_TIMES).max(LONG_LEAST)
    }

    fn usual(&self, times: f64) -> Duration {
        Duration::try_from_secs_f64(self.answer_ms.unwrap_or(0.0) / 1e3 * times).unwrap_or(Duration::MAX)
    }

    /// When calls in flight of which none has ended by then mean that nothing is answered any more.
    pub(crate) fn stalls_at(&self) -> Option<Instant> {
        self.answer_ms?;
        // After each time that it was no stall, twice as long: perhaps all of them are long calls.
        let patience =
            self.usual(STALLED_TIMES).max(STALLED_LEAST).saturating_mul(1_u32.checked_shl(self.stalls).unwrap_or(u32::MAX));
        let is_tried = self.breaker.is_closed() && self.limit.in_flight() >= STALLED_CALLS;
        is_tried.then(|| self.last_end.checked_add(patience)).flatten()
    }

    /// Nothing is answered any more: the breaker opens, and a probe finds out.
    pub(crate) fn stalled(&mut self, now: Instant) {
        self.stalls = self.stalls.saturating_add(1);
        self.breaker.open(now, Trouble::Passing, 0.0);
    }
}
