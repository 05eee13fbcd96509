//! Since when what is behind has not answered.

use std::time::{Duration, Instant};

/// A failure that nobody has repeated for that long says nothing any more.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// Pure; is told of every answer and every failure.
#[derive(Debug, Default)]
pub struct Reach {
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    why: String,
}

impl Reach {
    /// It answered.
    pub fn answered(&mut self) {
        self.failing = None;
    }

    /// It did not.
    pub fn failed(&mut self, now: Instant, why: impl Into<String>) {
        let since = self.fresh(now).map_or(now, |failing| failing.since);
        self.failing = Some(Failing { since, last: now, why: why.into() });
    }

    /// For how long it has not answered, and what it said last.
    #[must_use]
    pub fn away_for(&self, now: Instant) -> Option<(Duration, &str)> {
        self.fresh(now).map(|failing| (now.saturating_duration_since(failing.since), failing.why.as_str()))
    }

    fn fresh(&self, now: Instant) -> Option<&Failing> {
        self.failing.as_ref().filter(|failing| now.saturating_duration_since(failing.last) < STALE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_away_from_the_first_failure_until_an_answer() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut reach = Reach::default();
        assert!(reach.away_for(at(9)).is_none());
        reach.failed(at(1), "refused");
        reach.failed(at(4), "timeout");
        assert_eq!(reach.away_for(at(6)), Some((Duration::from_secs(5), "timeout")));
        reach.answered();
        assert!(reach.away_for(at(7)).is_none());
        reach.failed(at(8), "refused");
        assert_eq!(reach.away_for(at(9)), Some((Duration::from_secs(1), "refused")));
        assert!(reach.away_for(at(38)).is_none(), "nobody has asked since");
        reach.failed(at(40), "timeout");
        assert_eq!(reach.away_for(at(42)), Some((Duration::from_secs(2), "timeout")));
    }
}
