//! What waits to be worked on, and what goes next.
//!
//! Promises:
//!
//! - *Order.* Items of a key leave in the order in which they came, in windows; of a key at most one window is out at a time,
//!   and a parked key waits for its time without holding back any other.
//! - *Readiness.* A window goes once it is closed: by its bounds, by an item that does not go with it, by [`Windowing::Closes`], by
//!   time, or because the memory it waits in is needed. One that is due by time or need still grows until it goes.
//! - *Turns.* Lanes by their floors, within a lane tenants by what their windows cost, within a tenant keys one after the other. Nothing that is ready waits for ever while places come free.
//! - *Bounds.* What is kept is proportional to what was pushed and has not been given back; nothing is kept of a key or a tenant of
//!   which nothing waits or is out.
//!
//! The same calls come to the same answers: nothing depends on a clock, on chance, or on the order of a hash table.

mod holdings;
mod lanes;
mod settings;
#[cfg(test)]
mod tests;
mod timers;
mod turns;
mod window;

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};
use memori_schemas::Lane;
use tokio::time::Instant;

pub use holdings::Holding;
pub use settings::{Fairness, LaneFloors, Share, WindowBounds, Windowing};

use crate::topic::{Topic, TopicPartition};
use holdings::Holdings;
use lanes::{BACKFILL, LIVE, Lanes};
use timers::Timers;
use turns::Turns;
use window::{Queue, State};

/// Whose items stand in order.
pub type Key = (TopicPartition, Bytes);

/// What the schedule asks of an item. The answers are the same as long as it holds it.
pub trait Scheduled {
    /// Who takes turns; empty where unknown.
    fn tenant(&self) -> &Arc<str>;
    /// What a turn costs; taken as at least 1.
    fn cost(&self) -> u64;
    /// What it counts for in a budget of bytes.
    fn bytes(&self) -> usize;
    /// How it goes into windows.
    fn window(&self) -> Windowing;
}

/// What waits of one consumer.
#[derive(Debug)]
pub struct Schedule<T> {
    windows: BTreeMap<Topic, WindowBounds>,
    has_lanes: bool,
    keys: HashMap<Key, Queue<T>>,
    turns: Turns,
    lanes: Lanes,
    /// Keys whose first window may still grow.
    open: Timers,
    parked: Timers,
    holdings: Holdings,
    waiting: usize,
    pushes: u64,
    /// Windows begun by earlier pushes are not waited for.
    closed_before: u64,
    /// No window is waited for.
    full: bool,
}

impl<T: Scheduled> Schedule<T> {
    /// Nothing waits. Floors apply where `topics` has both lanes; a topic without bounds has windows of one record.
    #[must_use]
    pub fn new(topics: &[Topic], windows: BTreeMap<Topic, WindowBounds>, fairness: Fairness, floors: LaneFloors) -> Self {
        let (backfill, live): (Vec<Topic>, Vec<Topic>) = topics.iter().partition(|topic| topic.lane() == Some(Lane::Backfill));
        Self {
            windows,
            has_lanes: !backfill.is_empty() && !live.is_empty(),
            keys: HashMap::new(),
            turns: Turns::new(fairness, floors),
            lanes: Lanes::new(floors),
            open: Timers::default(),
            parked: Timers::default(),
            holdings: Holdings::default(),
            waiting: 0,
            pushes: 0,
            closed_before: 0,
            full: false,
        }
    }

    fn lane(&self, key: &Key) -> usize {
        if self.has_lanes && key.0.topic.lane() == Some(Lane::Backfill) { BACKFILL } else { LIVE }
    }

    /// Puts an item behind its key's others.
    pub fn push(&mut self, key: Key, item: T, now: Instant) {
        self.pushes += 1;
        self.holds(&key, std::slice::from_ref(&item));
        let bounds = self.windows.get(&key.0.topic).copied().unwrap_or(WindowBounds::SINGLE);
        let queue = self.keys.entry(key.clone()).or_insert_with(Queue::new);
        queue.push(item, &bounds, now, self.pushes);
        if let State::Open(timer) = queue.state {
            self.open.cancel(timer);
            queue.state = State::Changed;
        }
        self.settle(key);
    }

    /// The window that goes next, at a bound of `bound` windows in flight; none while as many are. Its key is out until
    /// [`Self::done`], [`Self::park`] or [`Self::apart`].
    pub fn pop(&mut self, bound: usize) -> Option<(Key, Vec<T>)> {
        let lane = self.lanes.next(bound, [self.turns.is_eligible(LIVE), self.turns.is_eligible(BACKFILL)])?;
        let keys = &self.keys;
        let first_window =
            |key: &Key| keys.get(key).and_then(Queue::first).map_or((1, 0), |first| (first.cost, first.items.len()));
        let key = self.turns.next(lane, first_window)?;
        let queue = self.keys.get_mut(&key)?;
        let window = queue.pop()?;
        queue.state = State::Out(window.tenant, Holding::of(&window.items));
        self.waiting -= window.items.len();
        Some((key, window.items))
    }

    /// The window that was out is finished.
    pub fn done(&mut self, key: &Key) {
        if let Some(out) = self.take_out(key) {
            self.ended(key, out);
        }
    }

    /// The window that was out is tried again at `until`, as it is; until then its key waits.
    pub fn park(&mut self, key: &Key, items: Vec<T>, until: Instant) {
        let Some(out) = self.take_out(key) else { return };
        if !items.is_empty() {
            self.holds(key, &items);
            let timer = self.parked.set(until, key.clone());
            if let Some(queue) = self.keys.get_mut(key) {
                queue.push_front(items);
                queue.state = State::Parked(timer);
            }
        }
        self.ended(key, out);
    }

    /// The items of the window that was out are windows of their own, in their order and before anything else of the key.
    pub fn apart(&mut self, key: &Key, items: Vec<T>) {
        let Some(out) = self.take_out(key) else { return };
        self.holds(key, &items);
        if let Some(queue) = self.keys.get_mut(key) {
            items.into_iter().rev().for_each(|item| queue.push_front(vec![item]));
        }
        self.ended(key, out);
    }

    /// Whose window is out of a key, and what it holds, where one is: from here on none is.
    fn take_out(&mut self, key: &Key) -> Option<(Arc<str>, Holding)> {
        let queue = self.keys.get_mut(key)?;
        match mem::replace(&mut queue.state, State::Changed) {
            State::Out(tenant, held) => Some((tenant, held)),
            other => {
                queue.state = other;
                None
            }
        }
    }

    /// Gives back what was out of a key.
    fn ended(&mut self, key: &Key, (tenant, held): (Arc<str>, Holding)) {
        // What waits behind is ready before the window is over, so that its tenant, if it goes on, does so in its turn.
        self.settle(key.clone());
        let lane = self.lane(key);
        self.holdings.give(key.0, &tenant, held);
        self.lanes.ended(lane);
        self.turns.ended(&tenant, lane);
    }

    /// Counts items that wait from here on.
    fn holds(&mut self, key: &Key, items: &[T]) {
        let lane = self.lane(key);
        self.waiting += items.len();
        for item in items {
            self.turns.wait(item.tenant(), lane, 1);
            self.holdings.take(key.0, item.tenant(), Holding { items: 1, bytes: item.bytes() });
        }
    }

    /// Finds a changed key its place.
    fn settle(&mut self, key: Key) {
        let Some(queue) = self.keys.get_mut(&key).filter(|queue| matches!(queue.state, State::Changed)) else { return };
        let Some(first) = queue.first() else {
            self.keys.remove(&key);
            return;
        };
        let bounds = self.windows.get(&key.0.topic).copied().unwrap_or(WindowBounds::SINGLE);
        match first.closes_at(&bounds) {
            Some(at) if !self.full && !first.is_closed(self.closed_before) => queue.state = State::Open(self.open.set(at, key)),
            _ => self.is_ready(key),
        }
    }

    /// A key has waited for whatever it had to.
    fn is_ready(&mut self, key: Key) {
        let lane = self.lane(&key);
        if let Some(queue) = self.keys.get_mut(&key)
            && let Some(first) = queue.first()
        {
            let tenant = Arc::clone(&first.tenant);
            queue.state = State::Ready;
            self.turns.ready(&tenant, lane, key);
        }
    }

    /// Makes the keys ready whose time has come.
    pub fn wake(&mut self, now: Instant) {
        while let Some(key) = self.parked.due(now).or_else(|| self.open.due(now)) {
            self.is_ready(key);
        }
    }

    /// When the next key's time comes. It may have come already.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        [self.parked.next(), self.open.next()].into_iter().flatten().min()
    }

    /// Waits for no window that is open now.
    pub fn close_all(&mut self) {
        self.closed_before = self.pushes + 1;
        while let Some(key) = self.open.first() {
            self.is_ready(key);
        }
    }

    /// Full: no window is waited for, neither those that are open now nor those that come, until it is full no longer.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
        if full {
            self.close_all();
        }
    }

    /// Drops what waits under the keys that match; a key with a window out stays out until that is settled.
    pub fn discard(&mut self, mut matches: impl FnMut(&Key) -> bool) -> Vec<T> {
        let mut found: Vec<Key> = self.keys.keys().filter(|key| matches(key)).cloned().collect();
        found.sort_unstable();
        let mut dropped = Vec::new();
        for key in found {
            let lane = self.lane(&key);
            let Some(queue) = self.keys.get_mut(&key) else { continue };
            for window in queue.drain() {
                self.turns.dropped(&window.tenant, lane, window.items.len());
                self.holdings.give(key.0, &window.tenant, Holding::of(&window.items));
                dropped.extend(window.items);
            }
            match queue.state {
                State::Out(..) => continue,
                State::Open(timer) => self.open.cancel(timer),
                State::Parked(timer) => self.parked.cancel(timer),
                State::Ready | State::Changed => {}
            }
            self.keys.remove(&key);
        }
        self.waiting -= dropped.len();
        let keys = &self.keys;
        self.turns.retain(|key| keys.contains_key(key));
        dropped
    }

    /// Items that wait; those that are out do not count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Windows that are out.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lanes.in_flight()
    }

    /// Those of one lane. Where there are no two lanes, all count as live.
    #[must_use]
    pub fn in_flight_of(&self, lane: Lane) -> usize {
        self.lanes.in_flight_of(match lane {
            Lane::Live => LIVE,
            Lane::Backfill => BACKFILL,
        })
    }

    /// Keys that wait to be tried again.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// What is held of a tenant in a partition: waiting, and out until that is settled.
    #[must_use]
    pub fn held(&self, partition: TopicPartition, tenant: &str) -> Holding {
        self.holdings.of(partition, tenant)
    }

    /// Tenants of which something is held in a partition.
    #[must_use]
    pub fn tenants_in(&self, partition: TopicPartition) -> usize {
        self.holdings.tenants_in(partition)
    }

    /// What is held of each tenant in a partition, by their names.
    pub fn held_in(&self, partition: TopicPartition) -> impl Iterator<Item = (&Arc<str>, Holding)> {
        self.holdings.all_in(partition)
    }

    /// Turns looked at so far: what popping costs, whatever the machine.
    #[must_use]
    pub fn visits(&self) -> u64 {
        self.turns.visits()
    }
}
