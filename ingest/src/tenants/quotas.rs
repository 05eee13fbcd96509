//! What tenants may use at this front door. Pure: it is given the time, how tenants stand, and how full the spool is.
//!
//! Promises: no call to a model is ever refused here, only what would be remembered of it, and recalls; a tenant whose standing is not
//! known is not refused; bounded, however many tenants call.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::bucket::Bucket;

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quota {
    EventsPerSecond,
    RecallsPerSecond,
    StoredFacts,
    LlmTokensPerDay,
    SpoolShare,
}

impl Quota {
    pub(crate) const ALL: [Self; 5] =
        [Self::EventsPerSecond, Self::RecallsPerSecond, Self::StoredFacts, Self::LlmTokensPerDay, Self::SpoolShare];

    /// Its name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::EventsPerSecond => "events_per_second",
            Self::RecallsPerSecond => "recalls_per_second",
            Self::StoredFacts => "stored_facts",
            Self::LlmTokensPerDay => "llm_tokens_per_day",
            Self::SpoolShare => "spool_share",
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::EventsPerSecond => "the tenant's events per second are used up",
            Self::RecallsPerSecond => "the tenant's recalls per second are used up",
            Self::StoredFacts => "the tenant stores as many facts as it may; delete some, or ask for more",
            Self::LlmTokensPerDay => "the tenant's tokens of this day are used up; they begin anew at midnight UTC",
            Self::SpoolShare => "the log is away, and the tenant's share of what can be kept meanwhile is used up",
        }
    }
}

/// Why something is not taken, and when to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) quota: Quota,
    pub(crate) retry_after: Duration,
}

impl Refusal {
    fn after(quota: Quota, retry_after: Duration) -> Self {
        Self { quota, retry_after }
    }

    /// 429, with whole seconds.
    pub(crate) fn to_problem(self) -> memori_service::problem::Problem {
        let seconds = self.retry_after.as_millis().div_ceil(1_000).max(1);
        memori_service::problem::Problem::too_many(self.quota.in_words(), u64::try_from(seconds).unwrap_or(u64::MAX))
    }
}

/// What a tenant may use; `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Limits {
    pub(crate) events_per_second: Option<i64>,
    pub(crate) recalls_per_second: Option<i64>,
    pub(crate) stored_facts: Option<i64>,
    pub(crate) llm_tokens_per_day: Option<i64>,
    pub(crate) spool_percent: Option<i64>,
}

/// How a tenant stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) limits: Limits,
    pub(crate) facts: i64,
    /// Tokens of `day`.
    pub(crate) tokens: i64,
    /// Days since 1970.
    pub(crate) day: i64,
}

/// Bytes of the spool, where it stands in for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpoolLevel {
    pub(crate) of_tenant: u64,
    pub(crate) bound: u64,
}

/// How often it is worth asking again for what does not come back by itself.
const COUNTED_AGAIN: Duration = Duration::from_secs(60);
/// The longest that anybody is told to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
const DAY_US: i64 = 86_400_000_000;

#[derive(Debug)]
struct Held {
    standing: Standing,
    events: Option<Bucket>,
    recalls: Option<Bucket>,
    used_at: Instant,
}

/// What is known of tenants.
#[derive(Debug)]
pub(crate) struct QuotaBook {
    sharers: u32,
    max_tenants: usize,
    tenants: HashMap<Arc<str>, Held>,
    /// Each of `tenants` once; the front goes first.
    turn: VecDeque<Arc<str>>,
}

impl QuotaBook {
    /// As one of so many front doors.
    pub(crate) fn new(sharers: u32, max_tenants: usize) -> Self {
        Self { sharers, max_tenants: max_tenants.max(1), tenants: HashMap::new(), turn: VecDeque::new() }
    }

    /// Whether a tenant's standing was ever told.
    pub(crate) fn knows(&self, tenant: &str) -> bool {
        self.tenants.contains_key(tenant)
    }

    /// How a tenant stands from now on.
    pub(crate) fn learned(&mut self, tenant: &str, standing: Standing, now: Instant) {
        let sharers = self.sharers;
        if !self.tenants.contains_key(tenant) {
            let name: Arc<str> = tenant.into();
            let held = Held { standing: Standing::default(), events: None, recalls: None, used_at: now };
            self.turn.push_back(name.clone());
            self.tenants.insert(name, held);
            while self.tenants.len() > self.max_tenants {
                if let Some(oldest) = self.turn.pop_front() {
                    self.tenants.remove(&oldest);
                }
            }
        }
        let Some(held) = self.tenants.get_mut(tenant) else { return };
        held.standing = standing;
        let paced = |bucket: Option<Bucket>, per_second: Option<i64>| match (bucket, per_second) {
            (_, None) => None,
            (None, Some(per_second)) => Some(Bucket::new(per_second, sharers, now)),
            (Some(mut bucket), Some(per_second)) => {
                bucket.set(per_second, sharers, now);
                Some(bucket)
            }
        };
        held.events = paced(held.events.take(), standing.limits.events_per_second);
        held.recalls = paced(held.recalls.take(), standing.limits.recalls_per_second);
    }

    /// Tenants that called since `since`, at most so many.
    pub(crate) fn lively(&self, since: Instant) -> Vec<Arc<str>> {
        self.tenants.iter().filter(|(_, held)| held.used_at >= since).map(|(tenant, _)| tenant.clone()).collect()
    }

    /// Of the quotas that fill up and do not come back by themselves: how much the one who called since `since` and is nearest to its
    /// bound has used of it, 1 being all. 0 where nobody is bounded.
    pub(crate) fn nearest(&self, since: Instant, now_us: i64) -> [(Quota, f64); 2] {
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let share = |used: i64, most: Option<i64>| most.map_or(0.0, |most| used as f64 / most.max(1) as f64);
        let today = now_us.div_euclid(DAY_US);
        let lively = self.tenants.values().filter(|held| held.used_at >= since).map(|held| held.standing);
        lively.fold([(Quota::StoredFacts, 0.0), (Quota::LlmTokensPerDay, 0.0)], |[(_, facts), (_, tokens)], standing| {
            let of_today = if standing.day == today { standing.tokens } else { 0 };
            [
                (Quota::StoredFacts, share(standing.facts, standing.limits.stored_facts).max(facts)),
                (Quota::LlmTokensPerDay, share(of_today, standing.limits.llm_tokens_per_day).max(tokens)),
            ]
        })
    }

    /// Whether a tenant's share of the spool is bounded.
    pub(crate) fn shares_spool(&self, tenant: &str) -> bool {
        self.tenants.get(tenant).is_some_and(|held| held.standing.limits.spool_percent.is_some())
    }

    /// Whether a tenant's recalls are bounded.
    pub(crate) fn limits_recalls(&self, tenant: &str) -> bool {
        self.tenants.get(tenant).is_some_and(|held| held.recalls.is_some())
    }

    /// How many of `wanted` events are taken; where not all, why.
    pub(crate) fn events(
        &mut self,
        tenant: &str,
        wanted: usize,
        spool: Option<SpoolLevel>,
        now: Instant,
        now_us: i64,
    ) -> (usize, Option<Refusal>) {
        let Some(held) = self.tenants.get_mut(tenant) else { return (wanted, None) };
        held.used_at = now;
        let (limits, standing) = (held.standing.limits, held.standing);
        let refused = |quota, wait: Duration| (0, Some(Refusal::after(quota, wait.min(LONGEST_WAIT))));
        if let (Some(percent), Some(level)) = (limits.spool_percent, spool)
            && u128::from(level.of_tenant) * 100 >= u128::from(level.bound) * u128::try_from(percent).unwrap_or(0)
        {
            return refused(Quota::SpoolShare, Duration::from_secs(2));
        }
        if limits.stored_facts.is_some_and(|most| standing.facts >= most) {
            return refused(Quota::StoredFacts, COUNTED_AGAIN);
        }
        let today = now_us.div_euclid(DAY_US);
        if standing.day == today && limits.llm_tokens_per_day.is_some_and(|most| standing.tokens >= most) {
            let left_us = (today + 1) * DAY_US - now_us;
            return refused(Quota::LlmTokensPerDay, Duration::from_micros(u64::try_from(left_us).unwrap_or(0)));
        }
        let Some(bucket) = &mut held.events else { return (wanted, None) };
        let taken = bucket.take(wanted, now);
        if taken == wanted {
            return (taken, None);
        }
        let wait = bucket.wait(now).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        (taken, Some(Refusal::after(Quota::EventsPerSecond, wait)))
    }

    /// Whether so many queries are answered.
    pub(crate) fn recalls(&mut self, tenant: &str, queries: usize, now: Instant) -> Result<(), Refusal> {
        let Some(held) = self.tenants.get_mut(tenant) else { return Ok(()) };
        held.used_at = now;
        let Some(bucket) = &mut held.recalls else { return Ok(()) };
        if queries == 0 || bucket.take_all(queries, now) {
            return Ok(());
        }
        let wait = bucket.wait(now).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        Err(Refusal::after(Quota::RecallsPerSecond, wait))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standing(limits: Limits) -> Standing {
        Standing { limits, ..Standing::default() }
    }

    #[test]
    fn who_is_not_known_or_has_no_bound_is_not_refused() {
        let now = Instant::now();
        let mut book = QuotaBook::new(1, 10);
        assert!(!book.knows("acme"));
        assert_eq!(book.events("acme", 1_000, None, now, 0), (1_000, None));
        assert_eq!(book.recalls("acme", 1_000, now), Ok(()));
        book.learned("acme", Standing { facts: 1 << 40, tokens: 1 << 40, ..Standing::default() }, now);
        assert!(book.knows("acme"));
        assert_eq!(book.events("acme", 1_000, Some(SpoolLevel { of_tenant: 9, bound: 9 }), now, 0), (1_000, None));
        assert_eq!(book.recalls("acme", 1_000, now), Ok(()));
    }

    #[test]
    fn each_quota_refuses_what_it_is_about() {
        let now = Instant::now();
        let mut book = QuotaBook::new(1, 10);
        let limits = Limits {
            events_per_second: Some(5),
            recalls_per_second: Some(2),
            stored_facts: Some(100),
            llm_tokens_per_day: Some(1_000),
            spool_percent: Some(10),
        };
        book.learned("acme", standing(limits), now);
        let (taken, refusal) = book.events("acme", 8, None, now, 0);
        assert_eq!((taken, refusal.map(|refusal| refusal.quota)), (5, Some(Quota::EventsPerSecond)));
        assert_eq!(refusal.unwrap().to_problem().retry_after, Some(1));
        assert!(book.recalls("acme", 2, now).is_ok());
        assert_eq!(book.recalls("acme", 1, now).unwrap_err().quota, Quota::RecallsPerSecond);

        let later = now + Duration::from_secs(60);
        let quota = |book: &mut QuotaBook, spool| book.events("acme", 1, spool, later, DAY_US + 5).1.map(|refusal| refusal.quota);
        book.learned("acme", Standing { facts: 100, ..standing(limits) }, later);
        assert_eq!(quota(&mut book, None), Some(Quota::StoredFacts));
        book.learned("acme", Standing { tokens: 1_000, day: 1, ..standing(limits) }, later);
        assert_eq!(quota(&mut book, None), Some(Quota::LlmTokensPerDay));
        assert_eq!(book.events("acme", 1, None, later, 2 * DAY_US), (1, None), "a new day");
        book.learned("acme", standing(limits), later);
        assert_eq!(quota(&mut book, Some(SpoolLevel { of_tenant: 10, bound: 100 })), Some(Quota::SpoolShare));
        assert_eq!(quota(&mut book, Some(SpoolLevel { of_tenant: 9, bound: 100 })), None);
    }

    #[test]
    fn the_nearest_to_its_bound_is_told_of_those_that_call() {
        let now = Instant::now();
        let mut book = QuotaBook::new(1, 10);
        let limits = Limits { stored_facts: Some(100), llm_tokens_per_day: Some(1_000), ..Limits::default() };
        for (tenant, facts, tokens) in [("a", 10, 900), ("b", 70, 0), ("unbounded", 1 << 40, 1 << 40)] {
            let limits = if tenant == "unbounded" { Limits::default() } else { limits };
            book.learned(tenant, Standing { limits, facts, tokens, day: 3 }, now);
        }
        let told = |book: &QuotaBook, since, day| book.nearest(since, day * DAY_US).map(|(_, ratio)| (ratio * 100.0).round());
        assert!(told(&book, now, 3) == [70.0, 90.0]);
        assert!(told(&book, now, 4) == [70.0, 0.0], "the tokens of yesterday");
        assert!(told(&book, now + Duration::from_secs(1), 3) == [0.0, 0.0], "nobody calls");
    }

    #[test]
    fn another_rate_holds_at_once_and_gives_nothing_away() {
        let now = Instant::now();
        let mut book = QuotaBook::new(2, 10);
        let per_second = |n| standing(Limits { events_per_second: Some(n), ..Limits::default() });
        book.learned("acme", per_second(20), now);
        assert_eq!(book.events("acme", 100, None, now, 0).0, 10, "half of it is this front door's");
        for _ in 0..50 {
            book.learned("acme", per_second(20), now);
        }
        assert_eq!(book.events("acme", 100, None, now, 0).0, 0, "hearing the same again fills nothing");
        book.learned("acme", per_second(200), now);
        assert_eq!(book.events("acme", 1_000, None, now + Duration::from_millis(500), 0).0, 50);
        book.learned("acme", Standing::default(), now);
        assert_eq!(book.events("acme", 1_000, None, now, 0), (1_000, None));
        book.learned("acme", per_second(0), now);
        let (taken, refusal) = book.events("acme", 1, None, now, 0);
        assert_eq!((taken, refusal.map(|refusal| refusal.retry_after)), (0, Some(LONGEST_WAIT)));
    }

    proptest! {
        #[test]
        fn bounded_however_many_call(tenants in proptest::collection::vec(0_u8..40, 0..200)) {
            let now = Instant::now();
            let mut book = QuotaBook::new(1, 7);
            for tenant in tenants {
                let tenant = tenant.to_string();
                book.learned(&tenant, standing(Limits { events_per_second: Some(1), ..Limits::default() }), now);
                let _ = book.events(&tenant, 1, None, now, 0);
                prop_assert!(book.tenants.len() <= 7 && book.tenants.len() == book.turn.len());
                prop_assert!(book.lively(now).len() <= 7);
            }
        }
    }
}
