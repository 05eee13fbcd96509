//! The speed of an import over its last seconds. Pure: it is given the time.

use std::collections::VecDeque;

use tokio::time::Instant;

/// How fast it went lately.
#[derive(Debug)]
pub(crate) struct Rate {
    marks: VecDeque<(Instant, u64, u64)>,
}

impl Rate {
    /// Over so many ticks.
    const MARKS: usize = 10;

    pub(crate) fn new(now: Instant) -> Self {
        Self { marks: VecDeque::from([(now, 0, 0)]) }
    }

    pub(crate) fn note(&mut self, now: Instant, events: u64, bytes: u64) {
        if let [(_, 0, 0)] = self.marks.make_contiguous() {
            // What earlier runs did is not this one's speed.
            self.marks.clear();
        }
        self.marks.push_back((now, events, bytes));
        if self.marks.len() > Self::MARKS {
            self.marks.pop_front();
        }
    }

    /// Events and bytes a second.
    pub(crate) fn per_second(&self, now: Instant) -> (f64, f64) {
        let (Some((from, events, bytes)), Some((_, events_now, bytes_now))) = (self.marks.front(), self.marks.back()) else {
            return (0.0, 0.0);
        };
        let seconds = now.duration_since(*from).as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "rates")]
        let rates = ((events_now - events) as f64 / seconds, (bytes_now - bytes) as f64 / seconds);
        rates
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_an_earlier_run_did_is_not_this_ones_speed() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut rate = Rate::new(began);
        assert_eq!(rate.per_second(at(1)), (0.0, 0.0));
        rate.note(at(1), 1_000, 50);
        rate.note(at(2), 1_100, 60);
        assert_eq!(rate.per_second(at(2)), (100.0, 10.0));
        for second in 3..60 {
            rate.note(at(second), 1_100, 60);
        }
        assert_eq!(rate.per_second(at(60)), (0.0, 0.0));
    }
}
