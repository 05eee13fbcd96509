//! Tenants take turns, in each lane apart: deficit round robin (M. Shreedhar and G. Varghese, "Efficient Fair Queueing Using Deficit
//! Round Robin", SIGCOMM 1995), with the cost of a window in the place of a packet's length.
//!
//! Promises: of two tenants that have something ready all the time, what each is given, divided by its weight, differs by at most a
//! quantum and a window of each. No tenant has more windows in flight than its cap. One that is at its cap, or that waits for its
//! own windows in flight, resumes its turn where it was, with what was left of it and no more; one of which nothing waits keeps
//! nothing. Within a tenant keys take turns. Looking for the next takes a constant number of steps on average as long as a turn is
//! good for a window; where it is not, at most two rounds.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::lanes::{BACKFILL, LIVE};
use super::{Fairness, Key, LaneFloors, Share};

/// One tenant's turn in one lane.
#[derive(Debug, Default)]
struct Turn {
    /// Its keys that have something ready.
    ready: VecDeque<Key>,
    /// Items that wait, ready or not.
    waiting: usize,
    in_flight: usize,
    deficit: u64,
    /// It was given its quantum, and has not come to the end of it.
    begun: bool,
    in_ring: bool,
    eligible: bool,
}

#[derive(Debug)]
struct Tenant {
    weight: u64,
    /// Windows in flight at most: in all, and of backfill.
    caps: Option<(usize, usize)>,
    turns: [Turn; 2],
    /// The lane whose turn came while the other held all that the cap allows: the next place is that lane's.
    owed: Option<usize>,
}

impl Tenant {
    fn new(share: Share, floors: LaneFloors) -> Self {
        let caps = share.max_in_flight.map(|cap| (cap.max(1), floors.open_to_backfill(cap.max(1))));
        Self { weight: share.weight.max(1).into(), caps, turns: Default::default(), owed: None }
    }

    fn is_eligible(&self, lane: usize) -> bool {
        let turn = &self.turns[lane];
        let in_flight = self.turns[LIVE].in_flight + self.turns[BACKFILL].in_flight;
        let owed = usize::from(self.owed.is_some_and(|owed| owed != lane));
        let has_room = |(cap, backfill)| in_flight + owed < cap && (lane == LIVE || turn.in_flight < backfill);
        !turn.ready.is_empty() && self.caps.is_none_or(has_room)
    }

    fn is_gone(&self) -> bool {
        self.turns.iter().all(|turn| turn.waiting == 0 && turn.in_flight == 0)
    }
}

/// The tenants of one lane that have something ready, or had when they were last looked at.
#[derive(Debug, Default)]
struct Ring {
    tenants: VecDeque<Arc<str>>,
    eligible: usize,
}

#[derive(Debug)]
pub(super) struct Turns {
    fairness: Fairness,
    floors: LaneFloors,
    tenants: HashMap<Arc<str>, Tenant>,
    rings: [Ring; 2],
    visits: u64,
}

impl Turns {
    pub(super) fn new(fairness: Fairness, floors: LaneFloors) -> Self {
        Self { fairness, floors: floors.cut(), tenants: HashMap::new(), rings: Default::default(), visits: 0 }
    }

    /// Items of a tenant wait from here on.
    pub(super) fn wait(&mut self, tenant: &Arc<str>, lane: usize, items: usize) {
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.turns[lane].waiting += items;
            return;
        }
        let share = self.fairness.tenants.get(&**tenant).copied().unwrap_or(self.fairness.default);
        let mut new = Tenant::new(share, self.floors);
        new.turns[lane].waiting = items;
        self.tenants.insert(Arc::clone(tenant), new);
    }

    /// A key of a tenant has something ready, of items that wait.
    pub(super) fn ready(&mut self, tenant: &Arc<str>, lane: usize, key: Key) {
        if let Some(found) = self.tenants.get_mut(tenant) {
            found.turns[lane].ready.push_back(key);
            self.settle(tenant);
        }
    }

    /// A window of a tenant is no longer in flight.
    pub(super) fn ended(&mut self, tenant: &Arc<str>, lane: usize) {
        if let Some(found) = self.tenants.get_mut(tenant) {
            let turn = &mut found.turns[lane];
            debug_assert!(turn.in_flight > 0, "more has ended than was begun");
            turn.in_flight = turn.in_flight.saturating_sub(1);
            self.settle(tenant);
        }
    }

    /// Items of a tenant wait no longer; its keys are to be looked through with [`Self::retain`].
    pub(super) fn dropped(&mut self, tenant: &Arc<str>, lane: usize, items: usize) {
        if let Some(found) = self.tenants.get_mut(tenant) {
            found.turns[lane].waiting = found.turns[lane].waiting.saturating_sub(items);
        }
    }

    /// Keeps the keys that still have something ready.
    pub(super) fn retain(&mut self, mut still_ready: impl FnMut(&Key) -> bool) {
        for tenant in self.tenants.values_mut() {
            for turn in &mut tenant.turns {
                turn.ready.retain(&mut still_ready);
                turn.in_ring &= !turn.ready.is_empty();
            }
        }
        for (lane, ring) in self.rings.iter_mut().enumerate() {
            ring.tenants.retain(|tenant| self.tenants.get(tenant).is_some_and(|tenant| tenant.turns[lane].in_ring));
        }
        let mut names: Vec<Arc<str>> = self.tenants.keys().cloned().collect();
        names.sort_unstable();
        names.iter().for_each(|tenant| self.settle(tenant));
    }

    /// Whether a lane has something that may go.
    pub(super) fn is_eligible(&self, lane: usize) -> bool {
        self.rings[lane].eligible > 0
    }

    /// The key whose window goes next, by what each key's first window costs and how many items it has. It is in flight from here on.
    pub(super) fn next(&mut self, lane: usize, first_window: impl Fn(&Key) -> (u64, usize)) -> Option<Key> {
        let mut in_vain = 0;
        while self.is_eligible(lane) {
            self.visits += 1;
            let ring = &mut self.rings[lane].tenants;
            let name = Arc::clone(ring.front()?);
            let tenant = self.tenants.get_mut(&name)?;
            let turn = &mut tenant.turns[lane];
            // It comes back when it has room. Where the other lane has all of it, that is settled at its turn.
            let is_kept_out = !turn.eligible && turn.in_flight == 0;
            if !turn.eligible && !is_kept_out {
                ring.pop_front();
                turn.in_ring = false;
                continue;
            }
            if !turn.begun {
                turn.begun = true;
                turn.deficit = turn.deficit.saturating_add(self.fairness.quantum.max(1).saturating_mul(tenant.weight));
            }
            let (cost, items) = first_window(turn.ready.front()?);
            let Some(left) = turn.deficit.checked_sub(cost) else {
                turn.begun = false;
                ring.rotate_left(1);
                in_vain += 1;
                let is_round_over = in_vain >= ring.len();
                if tenant.owed.take_if(|owed| *owed == lane).is_some() {
                    // The place is the other lane's again.
                    self.settle(&name);
                }
                if is_round_over {
                    self.skip_rounds(lane, &first_window);
                    in_vain = 0;
                }
                continue;
            };
            if is_kept_out {
                ring.pop_front();
                turn.in_ring = false;
                tenant.owed = tenant.owed.or(Some(lane));
                continue;
            }
            turn.deficit = left;
            turn.in_flight += 1;
            turn.waiting = turn.waiting.saturating_sub(items);
            let key = turn.ready.pop_front();
            self.settle(&name);
            self.leave_where_ineligible(&name, lane);
            return key;
        }
        None
    }

    /// After a round in which nobody could pay: gives everybody the rounds in which nobody could either.
    fn skip_rounds(&mut self, lane: usize, first_window: impl Fn(&Key) -> (u64, usize)) {
        let quantum = self.fairness.quantum.max(1);
        let ring = &self.rings[lane].tenants;
        let short_of = |tenant: &Tenant| {
            let turn = &tenant.turns[lane];
            let cost = turn.ready.front().map_or(0, |key| first_window(key).0);
            cost.saturating_sub(turn.deficit).div_ceil(quantum.saturating_mul(tenant.weight))
        };
        let rounds = ring.iter().filter_map(|name| self.tenants.get(name)).map(short_of).min().unwrap_or(0).saturating_sub(1);
        self.visits += ring.len() as u64;
        if rounds == 0 {
            return;
        }
        for name in ring {
            if let Some(tenant) = self.tenants.get_mut(name) {
                let given = quantum.saturating_mul(tenant.weight).saturating_mul(rounds);
                tenant.turns[lane].deficit = tenant.turns[lane].deficit.saturating_add(given);
            }
        }
    }

    /// The tenant at the front of a lane's ring leaves it where it cannot go on.
    fn leave_where_ineligible(&mut self, name: &Arc<str>, lane: usize) {
        if let Some(turn) = self.tenants.get_mut(name).map(|tenant| &mut tenant.turns[lane]).filter(|turn| !turn.eligible) {
            turn.in_ring = false;
            self.rings[lane].tenants.pop_front();
        }
    }

    /// Draws the conclusions from a tenant's change.
    fn settle(&mut self, name: &Arc<str>) {
        let Some(tenant) = self.tenants.get_mut(name) else { return };
        let turns = &tenant.turns;
        tenant.owed.take_if(|owed| turns[*owed].ready.is_empty() || turns[*owed].in_flight > 0);
        for lane in [LIVE, BACKFILL] {
            let eligible = tenant.is_eligible(lane);
            let (turn, ring) = (&mut tenant.turns[lane], &mut self.rings[lane]);
            ring.eligible = ring.eligible + usize::from(eligible) - usize::from(turn.eligible);
            turn.eligible = eligible;
            if turn.ready.is_empty() && (turn.waiting == 0 || turn.in_flight == 0) {
                (turn.deficit, turn.begun) = (0, false);
            }
            if eligible && !turn.in_ring {
                turn.in_ring = true;
                if turn.begun { ring.tenants.push_front(Arc::clone(name)) } else { ring.tenants.push_back(Arc::clone(name)) }
            }
        }
        if tenant.is_gone() {
            self.tenants.remove(name);
        }
    }

    pub(super) fn visits(&self) -> u64 {
        self.visits
    }
}

#[cfg(test)]
impl Turns {
    pub(super) fn len(&self) -> usize {
        self.tenants.len()
    }

    /// Looks through everything: what is remembered is what would be found.
    pub(super) fn assert_consistent(&self, largest_cost: u64) {
        for (lane, ring) in self.rings.iter().enumerate() {
            let eligible = self.tenants.values().filter(|tenant| tenant.is_eligible(lane)).count();
            assert_eq!(ring.eligible, eligible);
            let mut names: Vec<&Arc<str>> = ring.tenants.iter().collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), ring.tenants.len(), "nobody stands in a ring twice");
            for (name, tenant) in &self.tenants {
                let turn = &tenant.turns[lane];
                assert_eq!(turn.in_ring, names.binary_search(&name).is_ok());
                assert_eq!(turn.eligible, tenant.is_eligible(lane));
                assert!(turn.in_ring || !turn.eligible, "who may go stands in the ring");
                let largest = if turn.begun { self.fairness.quantum * tenant.weight + largest_cost } else { largest_cost };
                assert!(turn.deficit <= largest, "nobody saves up more than a turn");
                assert!(turn.waiting > 0 || turn.deficit == 0, "who has nothing keeps nothing");
            }
        }
        assert!(self.tenants.values().all(|tenant| !tenant.is_gone()));
    }
}
