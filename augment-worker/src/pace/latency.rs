//! Whether answers queue: windowed medians against a baseline that slowly forgets, and trials with fewer calls.
//!
//! Answers of one model take several times as long as others, so a difference counts only where it stands out of the scatter. And a
//! model may simply become slower. So a window that is longer than usual only asks for a trial: with half as many calls a queue is
//! shorter, and a slow model is no quicker. Trials are made now and then without cause too, since a baseline may have been learned
//! from a queue. All is in logarithms: queueing multiplies.

use std::collections::VecDeque;

/// A window has at least so many answers.
const LEAST: usize = 16;
/// A trial has at most so many.
const MOST: f64 = 200.0;
/// So many windows are looked at together.
const TOGETHER: usize = 12;
/// Less than this is no queue worth shrinking for.
const WORTH: f64 = 0.08;
/// More than this is far from what would be right, and soon tried again.
const FAR: f64 = 0.3;
/// In standard errors: what is not by chance.
const SURE: f64 = 3.0;
/// In standard errors: what may be chance.
const LIKELY: f64 = 2.5;
/// The baseline remembers about so many answers.
const MEMORY: f64 = 600.0;
/// The standard error of a median, in standard deviations over the root of the count.
const OF_MEDIAN: f64 = 1.2533;
/// A standard deviation, in median absolute deviations.
const OF_DEVIATION: f64 = 1.4826;
/// Answers after an interruption before one.
const RESTED: f64 = 2_000.0;
/// Windows after an interruption of which none is doubted: whoever comes back may be slow at first, and a trial would halve what is asked
/// just when everything waits.
const UNDOUBTED: u32 = 20;
/// Answers between trials without cause, in those that the last trial took: at first, and at most.
const FIRST_PAUSE: f64 = 3.0;
const LONGEST_PAUSE: f64 = 96.0;

/// What an answer said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reading {
    /// Too little yet.
    Early,
    /// No more than usual.
    Usual,
    /// It should be tried with half as many calls.
    Try,
    /// The trial goes on.
    Trying,
    /// The trial showed a queue: so many calls would have none.
    Queued { there: f64 },
    /// The trial showed none.
    Free,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    /// Calls in flight, as a logarithm.
    load: f64,
    median: f64,
    answers: f64,
}

impl Window {
    fn and(self, other: Self) -> Self {
        let answers = self.answers + other.answers;
        let mean = |a: f64, b: f64| (a * self.answers + b * other.answers) / answers;
        Self { load: mean(self.load, other.load), median: mean(self.median, other.median), answers }
    }
}

/// What is known of one endpoint's latency.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    baseline: Option<Window>,
    /// Of a single answer's logarithm.
    deviation: f64,
    loads: f64,
    gathered: Vec<f64>,
    windows: VecDeque<Window>,
    /// What looked longer is looked at afresh.
    is_doubted: bool,
    /// Windows that are still not doubted.
    undoubted: u32,
    /// What a trial is held against, while one is made.
    tried: Option<Window>,
    /// Answers until the next trial without cause, and the pause after it.
    until_trial: f64,
    pause: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            baseline: None,
            deviation: 0.0,
            loads: 0.0,
            gathered: Vec::new(),
            windows: VecDeque::new(),
            is_doubted: false,
            undoubted: 0,
            tried: None,
            until_trial: 0.0,
            pause: FIRST_PAUSE,
        }
    }
}

impl Latency {
    /// An answer took so long, with so many calls in flight when it began, of `limit`. It is learned as usual where that is below
    /// what is known to queue; trials without cause are made where the limit has `settled`.
    pub(crate) fn answered(
        &mut self,
        took_seconds: f64,
        load: f64,
        limit: usize,
        learns: bool,
        settled: bool,
        is_known: bool,
    ) -> Reading {
        self.gathered.push(took_seconds.max(1e-6).ln());
        self.loads += load.max(1.0).ln();
        self.until_trial -= 1.0;
        let is_trial = self.tried.is_some();
        if self.gathered.len() < if is_trial { LEAST } else { limit.max(LEAST) } {
            return if is_trial { Reading::Trying } else { Reading::Early };
        }
        let window = self.close();
        self.windows.push_back(window);
        if let Some(before) = self.tried {
            return self.trial(before);
        }
        if self.windows.len() > TOGETHER {
            self.windows.pop_front();
        }
        if self.undoubted > 0 {
            self.undoubted -= 1;
            self.windows.clear();
            return Reading::Usual;
        }
        if self.longer().is_some() && !self.is_doubted {
            // Windows that were picked because they are long are no fair witnesses.
            self.begin_anew();
            self.is_doubted = true;
            return Reading::Early;
        }
        if self.is_doubted {
            let seen = self.windows.iter().copied().reduce(Window::and).unwrap_or(window);
            let Some(baseline) = self.baseline else { return Reading::Usual };
            let by = seen.median - baseline.median;
            let error = self.error(&seen, &baseline);
            if by - error > WORTH / 2.0 && by > WORTH {
                if !is_known {
                    return self.try_against(seen);
                }
                self.begin_anew();
                return Reading::Queued { there: seen.load.exp() * (-by).exp() };
            }
            self.is_doubted = by + error > WORTH && self.windows.len() < 4;
            return Reading::Early;
        }
        if learns {
            self.learn(window);
        }
        if settled && self.until_trial <= 0.0 {
            let together = self.windows.iter().copied().reduce(Window::and).unwrap_or(window);
            return self.try_against(together);
        }
        Reading::Usual
    }

    fn close(&mut self) -> Window {
        let mut values = std::mem::take(&mut self.gathered);
        let median = median(&mut values);
        for value in &mut values {
            *value = (*value - median).abs();
        }
        let scatter = self::median(&mut values) * OF_DEVIATION;
        self.deviation += (scatter - self.deviation) * if self.baseline.is_none() { 1.0 } else { 0.2 };
        #[expect(clippy::cast_precision_loss, reason = "a count of answers in flight")]
        let answers = values.len() as f64;
        Window { load: std::mem::take(&mut self.loads) / answers, median, answers }
    }

    fn error(&self, a: &Window, b: &Window) -> f64 {
        OF_MEDIAN * self.deviation * (1.0 / a.answers + 1.0 / b.answers).sqrt()
    }

    fn try_against(&mut self, seen: Window) -> Reading {
        self.begin_anew();
        self.tried = Some(seen);
        Reading::Try
    }

    /// Whether what is seen now may be a queue's beginning.
    pub(crate) fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    /// The trial until now, against what was before.
    fn trial(&mut self, before: Window) -> Reading {
        let Some(seen) = self.windows.iter().copied().reduce(Window::and) else { return Reading::Trying };
        let won = before.median - seen.median;
        let error = self.error(&before, &seen);
        let is_queue = won - LIKELY * error > WORTH / 2.0 && won > WORTH;
        let is_none = won + error < 2.0 * WORTH;
        if !is_queue && !is_none && seen.answers < MOST {
            return Reading::Trying;
        }
        self.begin_anew();
        self.pause = if is_queue && won > FAR { FIRST_PAUSE } else { (self.pause * 2.0).min(LONGEST_PAUSE) };
        // In answers of the whole limit, of which a trial sees half as many in the same time.
        self.until_trial = 2.0 * self.pause * seen.answers;
        if is_queue {
            // Two that agree know more than one.
            let agrees = |usual: &Window| (usual.median - seen.median).abs() < LIKELY * self.error(usual, &seen);
            self.baseline = Some(self.baseline.filter(agrees).map_or(seen, |usual| usual.and(seen)));
            return Reading::Queued { there: before.load.exp() * (-won).exp() };
        }
        // What was seen with half as many is surely usual; and where it was longer than that before, the model has changed.
        let is_usual = self.baseline.is_some_and(|usual| seen.median - usual.median < SURE * self.error(&usual, &seen) + WORTH);
        match self.baseline.filter(|_| is_usual) {
            Some(usual) => self.baseline = Some(usual.and(seen)),
            None => self.baseline = Some(before.and(seen)),
        }
        Reading::Free
    }

    /// The latest windows together, as many as say most, where they are above the baseline.
    fn longer(&self) -> Option<Window> {
        let baseline = self.baseline?;
        let mut together: Option<Window> = None;
        let mut found = None;
        for window in self.windows.iter().rev() {
            let seen = together.map_or(*window, |together| together.and(*window));
            if seen.median - baseline.median > (SURE * self.error(&seen, &baseline)).max(WORTH) {
                found = Some(seen);
            }
            together = Some(seen);
        }
        found
    }

    fn learn(&mut self, window: Window) {
        let learned = self.baseline.map_or(window, |baseline| baseline.and(window));
        self.baseline = Some(Window { answers: learned.answers.min(MEMORY), ..learned });
    }

    /// It was interrupted: no trial for a while, and none without cause for a long one.
    pub(crate) fn rest(&mut self) {
        self.begin_anew();
        self.undoubted = UNDOUBTED;
        self.until_trial = self.until_trial.max(RESTED);
    }

    /// The limit has moved: what was gathered before says nothing about now.
    pub(crate) fn begin_anew(&mut self) {
        self.gathered.clear();
        self.loads = 0.0;
        self.windows.clear();
        self.is_doubted = false;
        if self.tried.take().is_some() {
            // What broke it off is not to be followed by the next one.
            self.until_trial = self.until_trial.max(self.pause * MOST);
        }
    }
}

/// The values are left in another order.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return 0.0;
    }
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
