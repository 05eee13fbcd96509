//! One queue per key: order within a key, turns between keys.
//!
//! Promises: items of a key leave in the order in which they came, and at most one of them is out at a time; keys that have
//! something ready take turns; a parked key waits for its time without holding back any other.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the round.
    Ready,
    /// One item is out.
    Busy,
    /// Its first item waits.
    Parked(Instant, u64),
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    state: State,
}

/// The queues of one consumer. A key is there while it has an item, inside or out.
#[derive(Debug)]
pub struct KeyQueues<K, T> {
    queues: HashMap<K, Queue<T>>,
    ready: VecDeque<K>,
    parked: BTreeSet<(Instant, u64)>,
    parked_keys: HashMap<u64, K>,
    parkings: u64,
    len: usize,
}

impl<K: Clone + Eq + Hash, T> Default for KeyQueues<K, T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            ready: VecDeque::new(),
            parked: BTreeSet::new(),
            parked_keys: HashMap::new(),
            parkings: 0,
            len: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, T> KeyQueues<K, T> {
    /// Nothing queued.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues an item behind its key's others.
    pub fn push(&mut self, key: K, item: T) {
        self.len += 1;
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.items.push_back(item);
            return;
        }
        self.ready.push_back(key.clone());
        self.queues.insert(key, Queue { items: VecDeque::from([item]), state: State::Ready });
    }

    /// The next ready key's first item. The key is busy until [`Self::done`] or [`Self::park`].
    pub fn pop(&mut self) -> Option<(K, T)> {
        let key = self.ready.pop_front()?;
        let queue = self.queues.get_mut(&key)?;
        let item = queue.items.pop_front()?;
        queue.state = State::Busy;
        self.len -= 1;
        Some((key, item))
    }

    /// The item that was out is finished: the key takes its turn behind those that are ready.
    pub fn done(&mut self, key: &K) {
        let Some(queue) = self.queues.get_mut(key).filter(|queue| queue.state == State::Busy) else { return };
        if queue.items.is_empty() {
            self.queues.remove(key);
        } else {
            queue.state = State::Ready;
            self.ready.push_back(key.clone());
        }
    }

    /// The item that was out goes back to the head of its key, which waits until `until`.
    pub fn park(&mut self, key: &K, item: T, until: Instant) {
        let Some(queue) = self.queues.get_mut(key).filter(|queue| queue.state == State::Busy) else { return };
        self.parkings += 1;
        self.len += 1;
        queue.items.push_front(item);
        queue.state = State::Parked(until, self.parkings);
        self.parked.insert((until, self.parkings));
        self.parked_keys.insert(self.parkings, key.clone());
    }

    /// Makes the keys ready whose time has come.
    pub fn wake(&mut self, now: Instant) {
        while let Some(&(until, parking)) = self.parked.first().filter(|(until, _)| *until <= now) {
            self.parked.remove(&(until, parking));
            if let Some(key) = self.parked_keys.remove(&parking)
                && let Some(queue) = self.queues.get_mut(&key)
            {
                queue.state = State::Ready;
                self.ready.push_back(key);
            }
        }
    }

    /// When the next parked key's time comes.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.parked.first().map(|(until, _)| *until)
    }

    /// Drops what is queued under the keys that match; a key with an item out stays busy until that is settled.
    pub fn discard(&mut self, mut matches: impl FnMut(&K) -> bool) -> Vec<T> {
        let mut dropped = Vec::new();
        let (parked, parked_keys) = (&mut self.parked, &mut self.parked_keys);
        self.queues.retain(|key, queue| {
            if !matches(key) {
                return true;
            }
            dropped.extend(queue.items.drain(..));
            if let State::Parked(until, parking) = queue.state {
                parked.remove(&(until, parking));
                parked_keys.remove(&parking);
            }
            queue.state == State::Busy
        });
        self.ready.retain(|key| self.queues.contains_key(key));
        self.len -= dropped.len();
        dropped
    }

    /// Items queued; the one that is out does not count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        Pop,
        Done(usize),
        Park(usize, u64),
        Pass(u64),
        Discard(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..5).prop_map(Step::Push),
            3 => Just(Step::Pop),
            2 => (0_usize..5).prop_map(Step::Done),
            1 => ((0_usize..5), (0_u64..20)).prop_map(|(n, ms)| Step::Park(n, ms)),
            1 => (0_u64..20).prop_map(Step::Pass),
            1 => (0_u8..5).prop_map(Step::Discard),
        ]
    }

    /// One list of all items, and per key when it became ready; every question is answered by looking through it.
    #[derive(Default)]
    struct Model {
        items: Vec<(u8, u32)>,
        out: Vec<(u8, u32)>,
        parked: Vec<(u8, u64, u64)>,
        ready_since: HashMap<u8, u64>,
        clock: u64,
    }

    impl Model {
        fn tick(&mut self) -> u64 {
            self.clock += 1;
            self.clock
        }

        fn settle(&mut self) {
            // Every key with an item that is neither out nor parked is ready, since now at the latest.
            let mut keys: Vec<u8> = Vec::new();
            for (key, _) in &self.items {
                if !keys.contains(key) {
                    keys.push(*key);
                }
            }
            let idle = |key: &u8| !self.out.iter().any(|o| o.0 == *key) && !self.parked.iter().any(|p| p.0 == *key);
            let now_ready: Vec<u8> = keys.into_iter().filter(idle).collect();
            self.ready_since.retain(|key, _| now_ready.contains(key));
            for key in now_ready {
                if !self.ready_since.contains_key(&key) {
                    let at = self.tick();
                    self.ready_since.insert(key, at);
                }
            }
        }

        fn pop(&mut self) -> Option<(u8, u32)> {
            let key = *self.ready_since.iter().min_by_key(|(_, since)| **since)?.0;
            let index = self.items.iter().position(|(k, _)| *k == key)?;
            let item = self.items.remove(index);
            self.out.push(item);
            Some(item)
        }
    }

    proptest! {
        #[test]
        fn orders_and_turns_as_the_naive_model(steps in proptest::collection::vec(step(), 0..200)) {
            let start = Instant::now();
            let (mut queues, mut model) = (KeyQueues::new(), Model::default());
            let (mut serial, mut now_ms) = (0_u32, 0_u64);
            for step in steps {
                match step {
                    Step::Push(key) => {
                        serial += 1;
                        queues.push(key, serial);
                        model.items.push((key, serial));
                    }
                    Step::Pop => prop_assert_eq!(queues.pop(), model.pop()),
                    Step::Done(n) if !model.out.is_empty() => {
                        let index = n % model.out.len();
                        let (key, _) = model.out.remove(index);
                        queues.done(&key);
                    }
                    Step::Park(n, ms) if !model.out.is_empty() => {
                        let index = n % model.out.len();
                        let (key, item) = model.out.remove(index);
                        let parking = model.tick();
                        queues.park(&key, item, start + Duration::from_millis(now_ms + ms));
                        model.parked.push((key, now_ms + ms, parking));
                        let head = model.items.iter().position(|(k, _)| *k == key).unwrap_or(model.items.len());
                        model.items.insert(head, (key, item));
                    }
                    Step::Pass(ms) => {
                        now_ms += ms;
                        queues.wake(start + Duration::from_millis(now_ms));
                        let mut due: Vec<(u8, u64, u64)> = model.parked.iter().copied().filter(|p| p.1 <= now_ms).collect();
                        due.sort_by_key(|p| (p.1, p.2));
                        model.parked.retain(|p| p.1 > now_ms);
                        for (key, _, _) in due {
                            let at = model.tick();
                            model.ready_since.insert(key, at);
                        }
                    }
                    Step::Discard(key) => {
                        let mut dropped = queues.discard(|k| *k == key);
                        dropped.sort_unstable();
                        let mut expected: Vec<u32> = model.items.iter().filter(|i| i.0 == key).map(|i| i.1).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(dropped, expected);
                        model.items.retain(|i| i.0 != key);
                        model.parked.retain(|p| p.0 != key);
                    }
                    Step::Done(_) | Step::Park(..) => {}
                }
                model.settle();
                prop_assert_eq!(queues.len(), model.items.len());
                let wake = model.parked.iter().map(|p| p.1).min();
                prop_assert_eq!(queues.next_wake(), wake.map(|ms| start + Duration::from_millis(ms)));
            }
        }
    }
}
