//! How many calls may be in flight at one endpoint: found out by its refusals and by how long it takes.
//!
//! Promises: never more than the bound, never less than one. It begins small and doubles with every round trip until the first sign of
//! a limit: a refusal, or answers that take longer the more are asked for. At a sign it falls below what the sign shows to be there,
//! at most once per round trip; then it grows towards that, rests near it, and looks beyond it ever more boldly. It grows only
//! while it is used. Several limiters at one provider come to equal shares: a fall takes a share of what one has, growth does not.

use std::time::Duration;

use super::bucket::whole;
use super::latency::{Latency, Reading};

/// Where it begins.
const FIRST: f64 = 4.0;
/// Of what a sign shows to be there, what is used next.
const FALL: f64 = 0.8;
/// The same where the sign was a queue: nothing was refused yet.
const FALL_OF_QUEUE: f64 = 0.92;
/// Round trips until it is back where the sign was.
const REST: f64 = 8.0;
/// What it grows per round trip at least.
const STEADY: f64 = 0.5;
/// A sign so far from the last one means that others share the capacity.
const SHARED: f64 = 0.06;
/// What it has grown beyond the sign after as many round trips again.
const BOLD: f64 = 1.0;
/// While it doubles: how far it may be ahead of what is known to be answered as quickly as less.
const AHEAD: f64 = 4.0;
/// Of what was proven, what a first sign must show to be there for it to be a limit.
const BELIEVED: f64 = 0.9;
/// How much of what was proven is forgotten with every answer.
const FORGET: f64 = 0.002;
/// Of the calls of a round trip, those that must be late for that to be a sign; and how many at least, since any call may be.
const LATE: f64 = 0.1;
const LATE_LEAST: f64 = 2.0;
/// Of the limit, what must be in flight for it to be used.
const USED: f64 = 0.75;

/// A call in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    number: u64,
    /// It and those before it that were in flight when it began.
    beside: usize,
}

/// What a call that has ended says about the limit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sign {
    /// It was answered, after this long for its length.
    Answered(Duration),
    /// It was refused because there are too many.
    Refused,
    /// It had no answer in time.
    Late,
    /// Nothing.
    None,
}

/// Since a sign.
#[derive(Clone, Copy, Debug)]
struct Fallen {
    /// What the sign showed to be there.
    ceiling: f64,
    /// Where it fell to.
    floor: f64,
    /// Round trips since.
    age: f64,
    /// Others take from the same capacity.
    is_shared: bool,
    /// The sign was a queue, and nothing was refused.
    is_queue: bool,
}

/// A limit.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    most: f64,
    limit: f64,
    in_flight: usize,
    /// Of the next call.
    number: u64,
    /// Calls from before this one know nothing of the present limit.
    since: u64,
    /// What was in flight at the first refusal since then.
    refused_at: Option<usize>,
    fallen: Option<Fallen>,
    /// Half the limit is tried.
    is_trial: bool,
    /// So many at a time were answered as quickly as fewer.
    seen: f64,
    /// So many at a time were answered lately.
    proven: f64,
    /// Whether any call that was in flight at the last refusal was answered after it.
    answered_beside: bool,
    /// Calls after this one and up to `since` were begun between the last two falls; whether any of them was answered.
    round_from: u64,
    round_answered: bool,
    /// The latest call that was answered.
    answered_last: u64,
    /// Nothing was answered since the last refusal at which it fell.
    is_silent: bool,
    /// Nor between that one and the fall before it: then everything is refused, and the first answer says that this is over. Calls
    /// that are still refused beside that answer do not make it a limit. Nor does a single sign far below what was proven, after a rest:
    /// if it was one, there will soon be another.
    is_out: bool,
    /// The last refusal at which it fell came after a rest.
    is_surprise: bool,
    /// Where it doubles to again after a time in which everything was refused: that says nothing about how many there may be.
    regains: Option<f64>,
    /// Calls that were late since as many as make a round trip were answered in a row, and those answers.
    late: f64,
    answered_in_a_row: usize,
    latency: Latency,
    is_adaptive: bool,
}

#[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
fn float(n: usize) -> f64 {
    n as f64
}

impl Limit {
    /// One that adapts below `most`, or that is `most`.
    pub(crate) fn new(most: usize, is_adaptive: bool) -> Self {
        let most = float(most.max(1));
        Self {
            most,
            limit: if is_adaptive { FIRST.min(most) } else { most },
            in_flight: 0,
            number: 0,
            since: 0,
            refused_at: None,
            fallen: None,
            is_trial: false,
            seen: FIRST,
            proven: 0.0,
            answered_beside: true,
            round_from: 0,
            round_answered: true,
            answered_last: 0,
            is_silent: false,
            is_out: false,
            is_surprise: false,
            regains: None,
            late: 0.0,
            answered_in_a_row: 0,
            latency: Latency::default(),
            is_adaptive,
        }
    }

    /// Moves the bound.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = float(most.max(1));
        self.limit = if self.is_adaptive { self.limit.min(self.most) } else { self.most };
    }

    /// What is in force.
    pub(crate) fn get(&self) -> usize {
        let limit = if self.is_trial { self.limit / 2.0 } else { self.limit };
        whole(limit + 1e-9).max(1)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many may begin.
    pub(crate) fn room(&self) -> usize {
        self.get().saturating_sub(self.in_flight)
    }

    /// A call begins.
    pub(crate) fn begin(&mut self) -> Flight {
        self.in_flight += 1;
        self.number += 1;
        Flight { number: self.number, beside: self.in_flight }
    }

    /// A call has ended.
    pub(crate) fn end(&mut self, flight: Flight, sign: Sign) {
        let before = self.in_flight;
        self.in_flight = self.in_flight.saturating_sub(1);
        if !self.is_adaptive {
            return;
        }
        match sign {
            Sign::Answered(took) => self.answered(flight, took),
            Sign::Refused => self.refused(flight, before),
            Sign::Late if flight.number > self.since => self.late(),
            Sign::Late | Sign::None => {}
        }
    }

    /// Another process or another day: it begins as at first, from a part of what was there.
    pub(crate) fn begin_anew(&mut self) {
        if self.is_adaptive {
            self.limit = (self.limit / 4.0).max(FIRST).min(self.most);
            self.fallen = None;
            self.is_trial = false;
            self.since = self.number;
            self.refused_at = None;
            self.latency.rest();
        }
    }

    fn answered(&mut self, flight: Flight, took: Duration) {
        self.answered_beside |= flight.number <= self.since;
        self.round_answered |= flight.number > self.round_from && flight.number <= self.since;
        let is_first = flight.number > self.since && self.answered_last <= self.since;
        if std::mem::take(&mut self.is_out) || (is_first && !(self.answered_beside && self.round_answered)) {
            // All that was in flight was refused, or all that was begun since the time before: then there was no service, which says
            // nothing about how many calls there may be.
            self.regains = Some(self.proven);
            self.latency.rest();
        }
        self.is_silent = false;
        self.answered_in_a_row += 1;
        if self.answered_in_a_row >= self.get() {
            self.late = 0.0;
        }
        self.answered_last = self.answered_last.max(flight.number);
        self.proven = float(flight.beside).max(self.proven * (1.0 - FORGET));
        if flight.number <= self.since {
            return;
        }
        self.refused_at = None;
        let load = float(flight.beside);
        if load < USED * float(self.get()) {
            return;
        }
        if !self.is_trial && !self.latency.is_doubted() {
            self.grow();
        }
        let learns = self.fallen.is_none_or(|fallen| load < 0.97 * fallen.ceiling);
        let settled = self.fallen.is_some() || self.limit >= self.most;
        let is_known = self.fallen.is_some_and(|fallen| fallen.is_queue && load >= 0.97 * fallen.ceiling);
        match self.latency.answered(took.as_secs_f64(), load, self.get(), learns, settled, is_known) {
            Reading::Early | Reading::Trying => {}
            Reading::Usual => self.seen = self.seen.max(load),
            Reading::Try => {
                self.is_trial = true;
                self.since = self.number;
            }
            Reading::Queued { there } => self.fall(there, FALL_OF_QUEUE),
            Reading::Free => {
                self.is_trial = false;
                self.since = self.number;
            }
        }
    }

    fn refused(&mut self, flight: Flight, before: usize) {
        if flight.number > self.since {
            self.refused_at = Some(before);
            self.regains = None;
            self.is_surprise = self.fallen.is_none_or(|last| last.age >= REST);
            let there = float(before.saturating_sub(1));
            self.fall(there, FALL);
            self.answered_beside = false;
            self.is_out = std::mem::replace(&mut self.is_silent, true) || self.is_unlikely(there);
            return;
        }
        // Of those that were in flight at the first refusal, each further one shows that there is room for one less.
        if let (Some(first), Some(fallen)) = (self.refused_at, &mut self.fallen) {
            let there = float(self.in_flight).max(float(first) / 2.0);
            if there < fallen.ceiling {
                fallen.ceiling = there;
                fallen.floor = (FALL * there).max(1.0);
                self.limit = self.limit.min(fallen.floor);
                self.is_out |= self.is_unlikely(there);
            }
        }
    }

    fn late(&mut self) {
        self.answered_in_a_row = 0;
        self.late += 1.0;
        if self.late >= (LATE * self.limit).max(LATE_LEAST) {
            self.late = 0.0;
            // What waits for answers that do not come shows nothing of how many there may be.
            self.fall(self.limit, FALL);
        }
    }

    fn is_unlikely(&self, there: f64) -> bool {
        self.is_surprise && there < BELIEVED * self.proven
    }

    fn fall(&mut self, there: f64, share: f64) {
        let there = there.max(1.0);
        // Alone one meets the limit where it was. Who meets it elsewhere shares it; so does who had all that is allowed, and met none.
        let is_shared = match self.fallen {
            Some(last) => (there - last.ceiling).abs() > (SHARED * last.ceiling).max(0.75),
            None => self.limit >= self.most,
        };
        self.limit = self.limit.min((share * there).max(1.0));
        self.fallen = Some(Fallen { ceiling: there, floor: self.limit, age: 0.0, is_shared, is_queue: share > FALL });
        self.round_from = self.since;
        self.since = self.number;
        self.round_answered = self.answered_last > self.round_from;
        self.answered_beside = true;
        self.is_trial = false;
        self.latency.begin_anew();
    }

    /// One answer's worth of growth.
    fn grow(&mut self) {
        if let Some(there) = self.regains {
            self.limit = (self.limit + 1.0).min(there).min(self.most);
            if self.limit >= there.min(self.most) {
                self.regains = None;
                self.fallen = Some(Fallen { ceiling: there, floor: self.limit, age: 0.0, is_shared: true, is_queue: false });
            }
            return;
        }
        let target = match &mut self.fallen {
            None => (self.limit + 1.0).min(AHEAD * self.seen),
            Some(fallen) => {
                fallen.age += 1.0 / self.limit;
                let from_rest = fallen.age / REST - 1.0;
                let height = if from_rest < 0.0 { fallen.ceiling - fallen.floor } else { BOLD };
                let cubic = fallen.ceiling + height * from_rest.powi(3);
                let steady = fallen.floor + STEADY * fallen.age;
                if fallen.is_shared {
                    steady
                } else if fallen.is_queue {
                    cubic.max(fallen.ceiling + STEADY.max(0.02 * fallen.ceiling) * (fallen.age - REST))
                } else {
                    cubic
                }
                .min(self.limit + 1.0)
            }
        };
        self.limit = self.limit.max(target).min(self.most);
    }
}
