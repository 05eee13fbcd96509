//! The breaker of one endpoint: closed while it answers, open while it does not.
//!
//! Promises: while it is open nothing begins but probes, whose waits grow and are bounded, and of which only a few are under way; one
//! good probe closes it. What fails for one event while others succeed does not open it for longer than a probe.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Failures in a row that open it, where the trouble should pass.
const IN_A_ROW: u32 = 8;
/// The same where an operator must act: calls like that do not pass.
const IN_A_ROW_FOR_GOOD: u32 = 3;
/// Of the last so many calls …
const LOOKED_AT: usize = 40;
/// … so many failures open it.
const OF_THEM: usize = 34;
/// The first wait for a probe.
const FIRST: Duration = Duration::from_millis(500);
/// The longest, where the trouble should pass: a provider that is back is used again soon.
const LONGEST: Duration = Duration::from_secs(5);
/// The longest, where an operator must act.
const LONGEST_FOR_GOOD: Duration = Duration::from_secs(30);
/// Probes without an answer at a time: one that hangs does not keep the next from finding out.
const PROBES: usize = 8;
/// So many more answers than failures since it closed, and the next opening begins with the first wait. Not answers in a row: where one event
/// in forty cannot be extracted by anybody, and is tried several times, there may never be as many.
const STEADY: u32 = 20;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No connection, no answer in time, or one that says so: it should pass.
    Passing,
    /// Key, model, address or quota: an operator must act.
    Lasting,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// Calls go through.
    Closed,
    /// Open, with a probe under way.
    HalfOpen,
    /// Open.
    Open,
}

impl Position {
    /// The value in metrics.
    pub(crate) fn level(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

#[derive(Clone, Debug)]
struct Opened {
    at: Instant,
    trouble: Trouble,
    probe_at: Instant,
    probes: usize,
}

/// A breaker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    opened: Option<Opened>,
    /// Failures since the last answer.
    in_a_row: u32,
    /// Whether each of the last calls failed.
    last: VecDeque<bool>,
    /// Probes since it worked steadily: what the waits grow by.
    tries: u32,
    /// Answers since it closed, less the failures between them.
    answers_ahead: u32,
}

impl Breaker {
    /// What it does.
    pub(crate) fn position(&self) -> Position {
        match &self.opened {
            None => Position::Closed,
            Some(opened) if opened.probes > 0 => Position::HalfOpen,
            Some(_) => Position::Open,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.opened.is_none()
    }

    /// Since when it has been open.
    pub(crate) fn opened_at(&self) -> Option<Instant> {
        self.opened.as_ref().map(|opened| opened.at)
    }

    fn counts(&mut self, failed: bool) {
        self.last.push_back(failed);
        if self.last.len() > LOOKED_AT {
            self.last.pop_front();
        }
    }

    /// A call was answered, be it with a refusal of its content or a limit.
    pub(crate) fn answered(&mut self) {
        // What was begun before it opened says nothing about now.
        if self.opened.is_some() {
            return;
        }
        self.in_a_row = 0;
        self.counts(false);
        self.answers_ahead = self.answers_ahead.saturating_add(1);
        if self.answers_ahead >= STEADY {
            self.tries = 0;
        }
    }

    /// A call failed. Whether that opened it.
    pub(crate) fn failed(&mut self, now: Instant, trouble: Trouble, chance: f64) -> bool {
        if self.opened.is_some() {
            return false;
        }
        self.answers_ahead = self.answers_ahead.saturating_sub(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.counts(true);
        let enough = if trouble == Trouble::Lasting { IN_A_ROW_FOR_GOOD } else { IN_A_ROW };
        let many = self.last.len() == LOOKED_AT && self.last.iter().filter(|failed| **failed).count() >= OF_THEM;
        if self.in_a_row < enough && !many {
            return false;
        }
        self.open(now, trouble, chance);
        true
    }

    /// Opens it.
    pub(crate) fn open(&mut self, now: Instant, trouble: Trouble, chance: f64) {
        if self.opened.is_none() {
            self.last.clear();
            let probe_at = now + self.wait(trouble, chance);
            self.opened = Some(Opened { at: now, trouble, probe_at, probes: 0 });
        }
    }

    fn wait(&self, trouble: Trouble, chance: f64) -> Duration {
        let longest = if trouble == Trouble::Lasting { LONGEST_FOR_GOOD } else { LONGEST };
        let grown = FIRST.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(longest);
        // Half of it is chance: replicas that found out together ask apart.
        grown.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }

    /// When the next probe is due; none while it is closed, or while enough are under way.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        self.opened.as_ref().filter(|opened| opened.probes < PROBES).map(|opened| opened.probe_at)
    }

    /// A probe begins.
    pub(crate) fn probe_begins(&mut self, now: Instant, chance: f64) {
        self.tries = self.tries.saturating_add(1);
        let Some(trouble) = self.opened.as_ref().map(|opened| opened.trouble) else { return };
        let next = now + self.wait(trouble, chance);
        if let Some(opened) = &mut self.opened {
            opened.probes += 1;
            opened.probe_at = next;
        }
    }

    /// A probe was answered (`None`) or failed. Whether that closed it.
    pub(crate) fn probe_ended(&mut self, now: Instant, trouble: Option<Trouble>, chance: f64) -> bool {
        let Some(opened) = &mut self.opened else { return false };
        let Some(trouble) = trouble else {
            self.opened = None;
            self.in_a_row = 0;
            self.answers_ahead = 0;
            return true;
        };
        opened.probes = opened.probes.saturating_sub(1);
        let changed = opened.trouble != trouble;
        opened.trouble = trouble;
        if changed {
            let next = now + self.wait(trouble, chance);
            if let Some(opened) = &mut self.opened {
                opened.probe_at = next;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened(trouble: Trouble, now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        while !breaker.failed(now, trouble, 1.0) {}
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_answers_between_do_not_let_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..200 {
            for _ in 0..2 {
                assert!(!breaker.failed(now, Trouble::Passing, 1.0));
            }
            breaker.answered();
        }
        for n in 1..=IN_A_ROW {
            assert_eq!(breaker.failed(now, Trouble::Passing, 1.0), n == IN_A_ROW);
        }
        assert_eq!(breaker.position(), Position::Open);
        breaker.answered();
        assert_eq!(breaker.position(), Position::Open, "what was begun before does not close it");
    }

    #[test]
    fn most_of_many_failing_opens_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let mut opened = false;
        for n in 0..LOOKED_AT * 2 {
            if n % 7 == 6 {
                breaker.answered();
            } else {
                opened |= breaker.failed(now, Trouble::Passing, 1.0);
            }
        }
        assert!(opened);
    }

    #[test]
    fn probes_wait_longer_up_to_a_bound_and_one_that_is_answered_closes_it() {
        let mut now = Instant::now();
        for (trouble, longest) in [(Trouble::Passing, LONGEST), (Trouble::Lasting, LONGEST_FOR_GOOD)] {
            let mut breaker = opened(trouble, now);
            let mut waits = Vec::new();
            for _ in 0..12 {
                let at = breaker.probe_at().expect("one is due");
                waits.push(at.duration_since(now));
                now = at;
                breaker.probe_begins(now, 1.0);
                assert_eq!(breaker.position(), Position::HalfOpen);
                assert!(!breaker.probe_ended(now, Some(trouble), 1.0));
            }
            assert!(waits.is_sorted() && waits[0] == FIRST && waits[11] == longest, "{waits:?}");
            breaker.probe_begins(now, 1.0);
            assert!(breaker.probe_ended(now, None, 1.0));
            assert!(breaker.is_closed() && breaker.probe_at().is_none());
            // One that closes and opens again goes on where it was, until it has worked for a while.
            while !breaker.failed(now, trouble, 1.0) {}
            assert_eq!(breaker.probe_at().expect("one is due").duration_since(now), longest);
        }
    }

    #[test]
    fn probes_that_hang_do_not_keep_the_next_from_finding_out_and_are_bounded() {
        let mut now = Instant::now();
        let mut breaker = opened(Trouble::Passing, now);
        for _ in 0..PROBES {
            now = breaker.probe_at().expect("one is due");
            breaker.probe_begins(now, 1.0);
        }
        assert_eq!(breaker.probe_at(), None);
        breaker.probe_ended(now, Some(Trouble::Passing), 1.0);
        assert!(breaker.probe_at().is_some());
        assert!(breaker.probe_ended(now, None, 1.0));
        assert!(!breaker.probe_ended(now, Some(Trouble::Passing), 1.0), "a late one does not open it");
    }

    proptest! {
        /// Whatever happens, it is closed or a probe is due within the longest wait or under way.
        #[test]
        fn it_never_stays_open_for_want_of_a_probe(steps in proptest::collection::vec((0_u8..5, 0_u64..4_000, 0.0..1.0), 0..300)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut under_way = 0_usize;
            for (what, ms, chance) in steps {
                now += Duration::from_millis(ms);
                match what {
                    0 => breaker.answered(),
                    1 => drop(breaker.failed(now, Trouble::Passing, chance)),
                    2 => drop(breaker.failed(now, Trouble::Lasting, chance)),
                    3 if breaker.probe_at().is_some_and(|at| at <= now) => {
                        breaker.probe_begins(now, chance);
                        under_way += 1;
                    }
                    _ if under_way > 0 => {
                        let trouble = (chance < 0.8).then_some(if chance < 0.4 { Trouble::Passing } else { Trouble::Lasting });
                        under_way -= 1;
                        if breaker.probe_ended(now, trouble, chance) {
                            under_way = 0;
                        }
                    }
                    _ => {}
                }
                prop_assert!(under_way <= PROBES);
                let due = breaker.probe_at().is_some_and(|at| at <= now + LONGEST_FOR_GOOD);
                prop_assert!(breaker.is_closed() || due || under_way > 0);
            }
        }
    }
}
