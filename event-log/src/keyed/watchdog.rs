//! Sees work that stands still.
//!
//! A frontier cannot move while a window below it is being worked on, so the oldest window in flight says it all. Time does not count
//! while there is a reason that no restart mends: the log takes nothing, the bound is 0, or the process itself was frozen.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Watchdog {
    patience: Duration,
    looked_at: Instant,
    /// Nothing before this counts.
    excused_until: Instant,
}

impl Watchdog {
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, looked_at: now, excused_until: now }
    }

    /// How long work has stood still, where that is too long. `oldest` is when the oldest window in flight began.
    pub(super) fn look(&mut self, now: Instant, oldest: Option<Instant>, is_excused: bool) -> Option<Duration> {
        let frozen = now.saturating_duration_since(self.looked_at) > self.patience / 2;
        self.looked_at = now;
        if is_excused || frozen {
            self.excused_until = now;
        }
        let still = now.saturating_duration_since(oldest?.max(self.excused_until));
        (still >= self.patience).then_some(still)
    }

    /// When to look again at the latest.
    pub(super) fn due_at(&self, oldest: Option<Instant>) -> Option<Instant> {
        oldest.map(|oldest| (oldest.max(self.excused_until) + self.patience).min(self.looked_at + self.patience / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_without_an_excuse_counts() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new(Duration::from_secs(8), begin);
        let mut look = |now, oldest, excused| watchdog.look(at(now), oldest, excused).map(|still| still.as_secs());
        assert_eq!(look(4, None, false), None, "nothing is in flight");
        assert_eq!([5, 8].map(|now| look(now, Some(at(1)), false)), [None; 2]);
        assert_eq!(look(9, Some(at(1)), false), Some(8));
        assert_eq!(look(10, Some(at(1)), true), None, "the log is away");
        assert_eq!([14, 17].map(|now| look(now, Some(at(1)), false)), [None; 2]);
        assert_eq!(look(18, Some(at(1)), false), Some(8));
        assert_eq!(look(30, Some(at(1)), false), None, "the process was frozen");
        assert_eq!(look(34, Some(at(33)), false), None);
        assert_eq!(watchdog.due_at(Some(at(33))), Some(at(36)));
        assert_eq!(watchdog.due_at(None), None);
    }
}
