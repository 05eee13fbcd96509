//! Which lane goes next.
//!
//! Promises, of a bound in force of at least 2 places: backfill never has more than live's floor leaves it, so a live window finds a
//! place at once; while both have something ready, live goes first, except that backfill gets each place below its floor, and of a
//! floor that is no whole place the rest by turns. Neither ever waits for the other to run dry: where places are not what is short
//! (one place, or tenants that are not allowed as many as there are), each gets its percentage of turns at the least.

use super::LaneFloors;

pub(super) const LIVE: usize = 0;
pub(super) const BACKFILL: usize = 1;

/// Hundredths of a turn in a turn.
const TURN: u32 = 100;

impl LaneFloors {
    pub(super) fn cut(self) -> Self {
        let live_percent = self.live_percent.clamp(1, 99);
        Self { live_percent, backfill_percent: self.backfill_percent.clamp(1, 100 - live_percent) }
    }

    /// Places of `bound` that backfill may have at most.
    pub(super) fn open_to_backfill(self, bound: usize) -> usize {
        let reserved = hundredths(bound, self.live_percent).div_ceil(100);
        bound - usize::try_from(reserved).unwrap_or(bound).min(bound.saturating_sub(1))
    }
}

fn hundredths(bound: usize, percent: u32) -> u128 {
    bound as u128 * u128::from(percent)
}

#[derive(Debug)]
pub(super) struct Lanes {
    floors: LaneFloors,
    in_flight: [usize; 2],
    /// Hundredths of a turn that backfill has come up to while both waited.
    turn: u32,
    /// The same of live, since its last.
    live_turn: u32,
}

impl Lanes {
    pub(super) fn new(floors: LaneFloors) -> Self {
        Self { floors: floors.cut(), in_flight: [0; 2], turn: 0, live_turn: 0 }
    }

    /// The lane of the next window, by which have something ready. The window is in flight from here on.
    pub(super) fn next(&mut self, bound: usize, ready: [bool; 2]) -> Option<usize> {
        let backfill = self.in_flight[BACKFILL];
        if self.in_flight() >= bound {
            return None;
        }
        let lane = match (ready[LIVE], ready[BACKFILL] && backfill < self.floors.open_to_backfill(bound)) {
            (false, false) => return None,
            (true, false) => LIVE,
            (false, true) => BACKFILL,
            (true, true) => self.contested(bound, backfill),
        };
        self.in_flight[lane] += 1;
        Some(lane)
    }

    fn contested(&mut self, bound: usize, backfill: usize) -> usize {
        let (floor, has) = (hundredths(bound, self.floors.backfill_percent), hundredths(backfill, 100));
        self.turn = (self.turn + self.floors.backfill_percent).min(TURN + self.floors.backfill_percent);
        self.live_turn += self.floors.live_percent;
        let is_below = has + 100 <= floor || (has < floor && self.turn >= TURN);
        if is_below && self.live_turn < TURN {
            self.turn = self.turn.saturating_sub(TURN);
            return BACKFILL;
        }
        self.live_turn = 0;
        LIVE
    }

    pub(super) fn ended(&mut self, lane: usize) {
        debug_assert!(self.in_flight[lane] > 0, "more has ended than was begun");
        self.in_flight[lane] = self.in_flight[lane].saturating_sub(1);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.iter().sum()
    }

    pub(super) fn in_flight_of(&self, lane: usize) -> usize {
        self.in_flight[lane]
    }
}
