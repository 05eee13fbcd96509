//! When dead letters are a burst: a machine without a clock. Its memory is a minute in seconds.

use std::collections::VecDeque;
use std::time::Duration;

use memori_schemas::DeadLetterClass;

/// Over how long letters are counted, in seconds.
const WINDOW_SECONDS: u64 = 60;
/// Events in flight while it tries whether things are well again.
const TRIED_AT_A_TIME: usize = 4;
/// Events that must come through while it tries.
const COME_THROUGH: u32 = 10;
/// Pauses double up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// When a burst begins, and how long a pause lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BurstLimits {
    /// Letters of one cause within a minute, at most; 0: no bound.
    pub letters: u32,
    /// As long as at most this share of all outcomes are letters, any number is.
    pub share_percent: u32,
    /// The first pause.
    pub pause: Duration,
}

impl Default for BurstLimits {
    fn default() -> Self {
        Self { letters: 100, share_percent: 20, pause: Duration::from_secs(300) }
    }
}

/// What letters have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// What stands on the log cannot be read.
    Records,
    /// The extractor's answers, or that there are none.
    Answers,
}

impl Cause {
    const COUNT: usize = 2;

    fn of(class: DeadLetterClass) -> Self {
        match class {
            DeadLetterClass::Poison | DeadLetterClass::UnknownRecord | DeadLetterClass::Sealed => Self::Records,
            DeadLetterClass::InvalidOutput
            | DeadLetterClass::Refused
            | DeadLetterClass::TooLarge
            | DeadLetterClass::Quota
            | DeadLetterClass::Expired => Self::Answers,
        }
    }

    fn what_to_do(self) -> &'static str {
        match self {
            Self::Records => {
                "look at what is written to the conversation topics and at this worker's version (an older one cannot read newer \
                 records)"
            }
            Self::Answers => "look at the extractor's settings, prompt and model, and at what was deployed last",
        }
    }
}

/// Whether events are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// As many as ever.
    Watching,
    /// None.
    Paused { until: Duration },
    /// A few, and a few letters.
    Trying { until: Duration, letters_left: u32, came_through: u32 },
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    letters: [u32; Cause::COUNT],
    came_through: u32,
}

/// The machine. Times are since its beginning.
#[derive(Debug)]
pub(super) struct Machine {
    limits: BurstLimits,
    seconds: VecDeque<Second>,
    phase: Phase,
    /// Why the latest pause began.
    class: Option<DeadLetterClass>,
    pauses: u32,
}

impl Machine {
    pub(super) fn new(limits: BurstLimits) -> Self {
        Self { limits, seconds: VecDeque::new(), phase: Phase::Watching, class: None, pauses: 0 }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// How much may be in flight.
    pub(super) fn bound(&self) -> usize {
        match self.phase {
            Phase::Watching => usize::MAX,
            Phase::Paused { .. } => 0,
            Phase::Trying { .. } => TRIED_AT_A_TIME,
        }
    }

    /// Until something changes by itself.
    pub(super) fn wakes_in(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Watching => None,
            Phase::Paused { until } | Phase::Trying { until, .. } => Some(until.saturating_sub(now)),
        }
    }

    /// In words, while it is not watching.
    pub(super) fn what_happened(&self) -> Option<String> {
        let class = self.class.filter(|_| self.phase != Phase::Watching)?;
        Some(format!(
            "a burst of dead letters, the last of class {class}: {}; `memori dead-letters list` shows them. It goes on by itself \
             once events come through, or when it is started again; `memori dead-letters redrive` puts back what was given up",
            Cause::of(class).what_to_do()
        ))
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Duration) {
        match self.phase {
            Phase::Paused { until } if now >= until => {
                let until = now.saturating_add(self.limits.pause);
                self.phase = Phase::Trying { until, letters_left: self.allowed_while_trying(), came_through: 0 };
            }
            // Nothing speaks against it any more.
            Phase::Trying { until, .. } if now >= until => self.watch(),
            _ => {}
        }
    }

    /// Events came through.
    pub(super) fn came_through(&mut self, events: u32, now: Duration) {
        let second = self.second(now);
        second.came_through = second.came_through.saturating_add(events);
        if let Phase::Trying { came_through, .. } = &mut self.phase {
            *came_through = came_through.saturating_add(events);
            if *came_through >= COME_THROUGH {
                self.watch();
            }
        }
    }

    /// Whether one more letter may be written; where not, how long its event waits.
    pub(super) fn bury(&mut self, class: DeadLetterClass, now: Duration) -> Result<(), Duration> {
        if self.limits.letters == 0 {
            return Ok(());
        }
        self.tick(now);
        let burst = self.phase == Phase::Watching && self.is_burst(class, now);
        match self.phase {
            Phase::Paused { until } => return Err(until.saturating_sub(now)),
            Phase::Trying { letters_left: 0, .. } => return Err(self.pause(class, now)),
            Phase::Trying { until, letters_left, came_through } => {
                self.phase = Phase::Trying { until, letters_left: letters_left - 1, came_through };
            }
            Phase::Watching if burst => return Err(self.pause(class, now)),
            Phase::Watching => {}
        }
        self.second(now).letters[Cause::of(class) as usize] += 1;
        Ok(())
    }

    /// Whether one more of this class would be one too many.
    fn is_burst(&mut self, class: DeadLetterClass, now: Duration) -> bool {
        self.forget(now);
        let of_cause: u64 = self.seconds.iter().map(|second| u64::from(second.letters[Cause::of(class) as usize])).sum();
        let letters = 1 + self.seconds.iter().flat_map(|second| second.letters).map(u64::from).sum::<u64>();
        let all = letters + self.seconds.iter().map(|second| u64::from(second.came_through)).sum::<u64>();
        of_cause >= u64::from(self.limits.letters) && letters * 100 > all * u64::from(self.limits.share_percent)
    }

    fn pause(&mut self, class: DeadLetterClass, now: Duration) -> Duration {
        let pause = self.limits.pause.saturating_mul(1_u32.checked_shl(self.pauses).unwrap_or(u32::MAX));
        let pause = pause.min(LONGEST_PAUSE.max(self.limits.pause));
        self.phase = Phase::Paused { until: now.saturating_add(pause) };
        self.class = Some(class);
        self.pauses = self.pauses.saturating_add(1);
        pause
    }

    fn watch(&mut self) {
        self.phase = Phase::Watching;
        self.pauses = 0;
        self.seconds.clear();
    }

    fn allowed_while_trying(&self) -> u32 {
        (self.limits.letters / 10).max(1)
    }

    fn forget(&mut self, now: Duration) {
        while self.seconds.front().is_some_and(|second| second.number + WINDOW_SECONDS <= now.as_secs()) {
            self.seconds.pop_front();
        }
    }

    fn second(&mut self, now: Duration) -> &mut Second {
        self.forget(now);
        let number = now.as_secs();
        // A time that was taken before another's lock and comes after it counts with that one.
        if self.seconds.back().is_none_or(|second| second.number < number) {
            self.seconds.push_back(Second { number, ..Second::default() });
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(300);
    const LIMITS: BurstLimits = BurstLimits { letters: 20, share_percent: 20, pause: PAUSE };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Letters that are written of `asked`.
    fn bury(machine: &mut Machine, class: DeadLetterClass, asked: u32, now: Duration) -> u32 {
        (0..asked).filter(|_| machine.bury(class, now).is_ok()).count() as u32
    }

    #[test]
    fn a_burst_pauses_and_what_comes_after_its_bound_waits() {
        let mut machine = Machine::new(LIMITS);
        assert_eq!(bury(&mut machine, DeadLetterClass::InvalidOutput, 500, at(5)), 20);
        assert_eq!((machine.bound(), machine.phase()), (0, Phase::Paused { until: at(305) }));
        assert_eq!(machine.bury(DeadLetterClass::InvalidOutput, at(100)), Err(at(205)));
        let why = machine.what_happened().unwrap();
        assert!(why.contains("invalid_output") && why.contains("model"), "{why}");
        assert_eq!(machine.wakes_in(at(105)), Some(at(200)));
    }

    #[test]
    fn few_in_a_minute_or_few_among_many_are_no_burst() {
        let mut machine = Machine::new(LIMITS);
        for minute in 0..50 {
            assert_eq!(bury(&mut machine, DeadLetterClass::Refused, 20, at(60 * minute)), 20);
        }
        let mut machine = Machine::new(LIMITS);
        for n in 0..10_000_u64 {
            machine.came_through(1, at(n / 100));
            if n % 5 == 0 {
                machine.came_through(1, at(n / 100));
                assert_eq!(machine.bury(DeadLetterClass::Refused, at(n / 100)), Ok(()), "{n}");
            }
        }
        let mut machine = Machine::new(LIMITS);
        assert_eq!(bury(&mut machine, DeadLetterClass::Refused, 15, at(0)), 15);
        assert_eq!(bury(&mut machine, DeadLetterClass::Poison, 15, at(0)), 15, "two causes are not one");
        assert_eq!(machine.phase(), Phase::Watching);
        let mut machine = Machine::new(BurstLimits { letters: 0, ..LIMITS });
        assert_eq!(bury(&mut machine, DeadLetterClass::Poison, 10_000, at(0)), 10_000, "no bound is wanted");
    }

    #[test]
    fn after_the_pause_a_few_are_tried_and_well_ones_end_it() {
        let mut machine = Machine::new(LIMITS);
        bury(&mut machine, DeadLetterClass::Expired, 21, at(0));
        machine.tick(at(299));
        assert_eq!(machine.bound(), 0);
        machine.tick(at(300));
        assert_eq!(machine.bound(), TRIED_AT_A_TIME);
        assert_eq!(machine.bury(DeadLetterClass::Expired, at(301)), Ok(()), "one that is hopeless by itself");
        for _ in 0..COME_THROUGH {
            machine.came_through(1, at(302));
        }
        assert_eq!((machine.phase(), machine.bound(), machine.what_happened()), (Phase::Watching, usize::MAX, None));
        assert_eq!(bury(&mut machine, DeadLetterClass::Expired, 500, at(303)), 20, "the next burst is a new one");
        assert_eq!(machine.wakes_in(at(303)), Some(PAUSE));
    }

    #[test]
    fn while_they_still_fail_pauses_double_to_an_hour_and_few_letters_are_written() {
        let mut machine = Machine::new(LIMITS);
        let (mut now, mut written, mut pauses) = (at(0), 0, Vec::new());
        while now < at(48 * 3_600) {
            written += bury(&mut machine, DeadLetterClass::InvalidOutput, 1_000, now);
            let pause = machine.wakes_in(now).unwrap();
            pauses.push(pause.as_secs());
            now += pause;
            machine.tick(now);
        }
        assert_eq!(pauses[..6], [300, 600, 1_200, 2_400, 3_600, 3_600]);
        assert!(written <= 20 + 2 * pauses.len() as u32, "{written}");
        assert!(written < 200, "a weekend costs {written}");
    }

    #[test]
    fn trying_without_anything_to_try_ends() {
        let mut machine = Machine::new(LIMITS);
        bury(&mut machine, DeadLetterClass::Poison, 21, at(0));
        machine.tick(at(300));
        machine.tick(at(599));
        assert!(matches!(machine.phase(), Phase::Trying { .. }));
        machine.tick(at(600));
        assert_eq!(machine.phase(), Phase::Watching);
    }

    proptest! {
        #[test]
        fn as_a_plain_list_of_the_last_minute(
            steps in proptest::collection::vec((0_u64..90, 0_usize..DeadLetterClass::ALL.len(), 0_u32..40, 0_u32..40), 1..80)
        ) {
            let mut machine = Machine::new(LIMITS);
            let mut outcomes: Vec<(u64, Option<Cause>)> = Vec::new();
            let mut now = 0;
            for (passed, class, letters, well) in steps {
                now += passed;
                let class = DeadLetterClass::ALL[class];
                machine.tick(at(now));
                if let Phase::Trying { .. } = machine.phase() {
                    outcomes.clear();
                }
                for _ in 0..well {
                    let tried = machine.phase() != Phase::Watching;
                    machine.came_through(1, at(now));
                    if !tried {
                        outcomes.push((now, None));
                    }
                }
                for _ in 0..letters {
                    let before = machine.phase();
                    let verdict = machine.bury(class, at(now));
                    match before {
                        Phase::Watching => {
                            outcomes.retain(|(second, _)| second + 60 > now);
                            let letters = 1 + outcomes.iter().filter(|(_, cause)| cause.is_some()).count();
                            let of_cause = outcomes.iter().filter(|(_, cause)| *cause == Some(Cause::of(class))).count();
                            let burst = of_cause >= 20 && letters * 100 > (outcomes.len() + 1) * 20;
                            prop_assert_eq!(verdict.is_err(), burst);
                            outcomes.push((now, Some(Cause::of(class))));
                        }
                        Phase::Paused { until } => prop_assert_eq!(verdict, Err(until - at(now))),
                        Phase::Trying { letters_left, .. } => prop_assert_eq!(verdict.is_ok(), letters_left > 0),
                    }
                    prop_assert_eq!(machine.bound() == 0, verdict.is_err());
                }
                prop_assert!(machine.seconds.len() <= 60);
            }
        }
    }
}
