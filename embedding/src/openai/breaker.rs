//! Leaves an endpoint alone that failed in spite of retries: pure, given the time.

use std::time::{Duration, Instant};

use crate::metrics::Cause;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Closed until a call fails for good; then calls fail at once for a while that doubles, and after it one call at a time tries.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Option<Open>);

#[derive(Clone, Copy, Debug)]
struct Open {
    cause: Cause,
    until: Instant,
    pause: Duration,
}

impl Breaker {
    /// Whether a call may go on. The one that goes on after a pause holds the others off for another.
    pub(crate) fn enter(&mut self, now: Instant) -> Result<(), Cause> {
        let Some(open) = &mut self.0 else { return Ok(()) };
        if now < open.until {
            return Err(open.cause);
        }
        open.until = now + open.pause;
        Ok(())
    }

    /// A call succeeded.
    pub(crate) fn worked(&mut self) {
        self.0 = None;
    }

    /// A call failed, with all its retries. Calls that began before the first failure tell nothing new.
    pub(crate) fn failed(&mut self, cause: Cause, now: Instant) {
        let pause = match &self.0 {
            None => FIRST,
            Some(open) if now < open.until && open.until - now > open.pause / 2 => return,
            Some(open) => (open.pause * 2).min(LONGEST),
        };
        self.0 = Some(Open { cause, until: now + pause, pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_one_call_tries_and_success_ends_it() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut breaker = Breaker::default();
        assert!(breaker.enter(at(0)).is_ok());
        breaker.failed(Cause::Timeout, at(0));
        breaker.failed(Cause::Connection, at(1));
        assert_eq!(breaker.enter(at(999)), Err(Cause::Timeout));
        assert!(breaker.enter(at(1_000)).is_ok());
        assert_eq!(breaker.enter(at(1_001)), Err(Cause::Timeout), "one call tries");
        breaker.failed(Cause::Unavailable, at(1_900));
        assert_eq!(breaker.enter(at(3_899)), Err(Cause::Unavailable));
        assert!(breaker.enter(at(3_900)).is_ok());
        breaker.worked();
        assert!(breaker.enter(at(3_901)).is_ok());
        let mut now = at(4_000);
        for _ in 0..10 {
            breaker.failed(Cause::Timeout, now);
            now += LONGEST;
        }
        breaker.failed(Cause::Timeout, now);
        assert!(breaker.enter(now + LONGEST).is_ok(), "a pause has a bound");
    }
}
