//! The naive model: one list of everything that waits; every question is answered by looking through it.

use std::collections::BTreeSet;

use super::*;

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    item: Item,
    at_ms: u64,
    push: u64,
    /// Of what was out before: which of those it goes with.
    again: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Model {
    bounds: BTreeMap<Topic, WindowBounds>,
    fairness: Fairness,
    floors: LaneFloors,
    items: Vec<Entry>,
    pub(super) out: Vec<(Key, Vec<Item>)>,
    parked: Vec<(Key, u64)>,
    ready: BTreeSet<Key>,
    pushes: u64,
    times_again: u64,
    closed_before: u64,
    full: bool,
    now_ms: u64,
}

impl Model {
    pub(super) fn new(bounds: BTreeMap<Topic, WindowBounds>, fairness: Fairness, floors: LaneFloors) -> Self {
        Self {
            bounds,
            fairness,
            floors,
            items: Vec::new(),
            out: Vec::new(),
            parked: Vec::new(),
            ready: BTreeSet::new(),
            pushes: 0,
            times_again: 0,
            closed_before: 0,
            full: false,
            now_ms: 0,
        }
    }

    /// Where the first window of a key stands in the list, and whether nothing can join it.
    fn first_window(&self, key: &Key) -> (Vec<usize>, bool) {
        let bounds = self.bounds[&key.0.topic];
        let mut own = (0..self.items.len()).filter(|index| self.items[*index].key == *key);
        let Some(first) = own.next() else { return (Vec::new(), false) };
        let head = &self.items[first];
        let mut window = vec![first];
        if head.again.is_some() {
            window.extend(own.take_while(|index| self.items[*index].again == head.again));
            return (window, true);
        }
        let Windowing::With { group, messages } = head.item.window else { return (window, true) };
        let (mut messages, mut cost) = (messages as usize, head.item.cost);
        while window.len() < bounds.events && messages < bounds.messages && cost < bounds.cost {
            let Some(next) = own.next() else { return (window, false) };
            let item = &self.items[next].item;
            match item.window {
                Windowing::Closes if item.tenant == head.item.tenant => {
                    window.push(next);
                    return (window, true);
                }
                Windowing::With { group: other, messages: more }
                    if other == group
                        && item.tenant == head.item.tenant
                        && messages + more as usize <= bounds.messages
                        && cost + item.cost <= bounds.cost =>
                {
                    window.push(next);
                    (messages, cost) = (messages + more as usize, cost + item.cost);
                }
                _ => return (window, true),
            }
        }
        (window, true)
    }

    fn keys(&self) -> BTreeSet<Key> {
        self.items.iter().map(|entry| entry.key.clone()).collect()
    }

    fn is_out(&self, key: &Key) -> bool {
        self.out.iter().any(|(out, _)| out == key)
    }

    fn is_parked(&self, key: &Key) -> bool {
        self.parked.iter().any(|(parked, _)| parked == key)
    }

    /// Keys whose first window is waited for, and until when.
    fn open(&self) -> Vec<(Key, u64)> {
        let waits = |key: &Key| !self.ready.contains(key) && !self.is_out(key) && !self.is_parked(key);
        self.keys().into_iter().filter(waits).map(|key| (key.clone(), self.closes_at_ms(&key))).collect()
    }

    fn closes_at_ms(&self, key: &Key) -> u64 {
        let bounds = self.bounds[&key.0.topic];
        let (window, _) = self.first_window(key);
        let (first, last) = (&self.items[window[0]], &self.items[window[window.len() - 1]]);
        let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap();
        (last.at_ms + ms(bounds.idle)).min(first.at_ms + ms(bounds.age))
    }

    /// What no more is waited for is ready, and stays so.
    pub(super) fn settle(&mut self) {
        for (key, _) in self.open() {
            let (window, is_closed) = self.first_window(&key);
            if is_closed || self.full || self.items[window[0]].push < self.closed_before {
                self.ready.insert(key);
            }
        }
    }

    pub(super) fn push(&mut self, key: Key, item: Item) {
        self.pushes += 1;
        self.items.push(Entry { key, item, at_ms: self.now_ms, push: self.pushes, again: None });
    }

    /// Takes out the first window of a key.
    pub(super) fn pop(&mut self, key: &Key) -> Vec<Item> {
        let (window, _) = self.first_window(key);
        let items: Vec<Item> = window.iter().map(|index| self.items[*index].item.clone()).collect();
        let mut index = 0;
        self.items.retain(|_| {
            index += 1;
            !window.contains(&(index - 1))
        });
        self.ready.remove(key);
        self.out.push((key.clone(), items.clone()));
        items
    }

    fn again(&mut self, key: &Key, windows: Vec<Vec<Item>>) {
        let mut entries = Vec::new();
        for window in windows {
            self.times_again += 1;
            entries.extend(window.into_iter().map(|item| Entry {
                key: key.clone(),
                item,
                at_ms: self.now_ms,
                push: 0,
                again: Some(self.times_again),
            }));
        }
        self.items.splice(0..0, entries);
    }

    pub(super) fn park(&mut self, key: &Key, items: Vec<Item>, until_ms: u64) {
        self.again(key, vec![items]);
        self.parked.push((key.clone(), until_ms));
    }

    pub(super) fn apart(&mut self, key: &Key, items: Vec<Item>) {
        self.again(key, items.into_iter().map(|item| vec![item]).collect());
    }

    pub(super) fn wake(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for (key, at) in self.open() {
            if at <= now_ms {
                self.ready.insert(key);
            }
        }
        for (key, until) in std::mem::take(&mut self.parked) {
            if until <= now_ms {
                self.ready.insert(key);
            } else {
                self.parked.push((key, until));
            }
        }
    }

    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        self.open().into_iter().chain(self.parked.iter().cloned()).map(|(_, at)| at).min()
    }

    pub(super) fn close_all(&mut self) {
        self.closed_before = self.pushes + 1;
    }

    pub(super) fn set_full(&mut self, full: bool) {
        self.full = full;
        if full {
            self.close_all();
        }
    }

    pub(super) fn discard(&mut self, matches: impl Fn(&Key) -> bool) -> Vec<u64> {
        let dropped = self.items.iter().filter(|entry| matches(&entry.key)).map(|entry| entry.item.serial).collect();
        self.items.retain(|entry| !matches(&entry.key));
        self.parked.retain(|(key, _)| !matches(key));
        self.ready.retain(|key| !matches(key));
        dropped
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    pub(super) fn in_flight(&self, topic: Topic) -> usize {
        self.out.iter().filter(|(key, _)| key.0.topic == topic).count()
    }

    pub(super) fn held(&self, partition: TopicPartition) -> BTreeMap<Arc<str>, Holding> {
        let out = self.out.iter().flat_map(|(key, items)| items.iter().map(move |item| (key, item)));
        let mut held: BTreeMap<Arc<str>, Holding> = BTreeMap::new();
        for (_, item) in self.items.iter().map(|entry| (&entry.key, &entry.item)).chain(out).filter(|(key, _)| key.0 == partition)
        {
            let of = held.entry(Arc::clone(&item.tenant)).or_default();
            *of = Holding { items: of.items + 1, bytes: of.bytes + item.bytes() };
        }
        held
    }

    pub(super) fn partitions(&self) -> BTreeSet<TopicPartition> {
        self.items.iter().map(|entry| entry.key.0).chain(self.out.iter().map(|(key, _)| key.0)).collect()
    }

    fn tenant_in_flight(&self, tenant: &str, topic: Option<Topic>) -> usize {
        let of = |(key, items): &&(Key, Vec<Item>)| *items[0].tenant == *tenant && topic.is_none_or(|topic| topic == key.0.topic);
        self.out.iter().filter(of).count()
    }

    /// Keys that may go at a bound. Of a capped tenant the last place may be kept for the other lane: `surely` leaves that out.
    pub(super) fn may_go(&self, bound: usize, surely: bool) -> Vec<Key> {
        if self.out.len() >= bound {
            return Vec::new();
        }
        let [live, backfill] = TOPICS;
        let open = |bound: usize| bound - (bound * self.floors.live_percent as usize).div_ceil(100).min(bound - 1);
        let may_go = |key: &&Key| {
            let tenant = self.tenant_of(key);
            let share = self.fairness.tenants.get(&**tenant).unwrap_or(&self.fairness.default);
            let cap = share.max_in_flight.unwrap_or(usize::MAX / 200);
            let other = if key.0.topic == live { backfill } else { live };
            let kept = surely && self.ready.iter().any(|key| key.0.topic == other && self.tenant_of(key) == tenant);
            let has_room = self.tenant_in_flight(tenant, None) + usize::from(kept) < cap;
            let backfill_has_room =
                || self.tenant_in_flight(tenant, Some(backfill)) < open(cap) && self.in_flight(backfill) < open(bound);
            has_room && (key.0.topic == live || backfill_has_room())
        };
        self.ready.iter().filter(may_go).cloned().collect()
    }

    fn tenant_of(&self, key: &Key) -> &Arc<str> {
        &self.items[self.first_window(key).0[0]].item.tenant
    }
}
