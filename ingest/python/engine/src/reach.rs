//! Since when what is behind has not answered.

use std::time::{Duration, Instant};

/// Pure; is told of every answer and every failure.
#[derive(Debug, Default)]
pub struct Reach {
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    why: String,
}

impl Reach {
    /// It answered.
    pub fn answered(&mut self) {
        self.failing = None;
    }

    /// It did not.
    pub fn failed(&mut self, now: Instant, why: impl Into<String>) {
        let since = self.failing.as_ref().map_or(now, |failing| failing.since);
        self.failing = Some(Failing { since, why: why.into() });
    }

    /// For how long it has not answered, and what it said last.
    #[must_use]
    pub fn away_for(&self, now: Instant) -> Option<(Duration, &str)> {
        self.failing.as_ref().map(|failing| (now.saturating_duration_since(failing.since), failing.why.as_str()))
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
    }
}
