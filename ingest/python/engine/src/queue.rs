//! What was captured and is not durable yet.
//!
//! Promises: pure; bounded in events and bytes, and full means refused, never blocked; taken in the order of capture, and what is
//! given back stands where it stood, as does an event whose place was reserved before it was written; every number below
//! [`Queue::first_unsettled`] is settled.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// One captured event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its number among all that were captured, from 0.
    pub number: u64,
    /// Whose ledger it is in.
    pub member: u64,
    /// Its id.
    pub event_id: String,
    /// It, as the front door reads it.
    pub json: Bytes,
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many wait as may.
    Events,
    /// As many bytes wait as may.
    Bytes,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    waiting: VecDeque<Item>,
    /// Waiting ones that are not written yet, with the bytes that they count for meanwhile.
    reserved: BTreeMap<u64, usize>,
    /// Taken and not settled, with their bytes.
    taken: BTreeMap<u64, usize>,
    bytes: usize,
    next_number: u64,
    max_events: usize,
    max_bytes: usize,
}

impl Queue {
    /// An empty one with these bounds.
    #[must_use]
    pub fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            reserved: BTreeMap::new(),
            taken: BTreeMap::new(),
            bytes: 0,
            next_number: 0,
            max_events,
            max_bytes,
        }
    }

    /// Takes an event in; answers its number.
    ///
    /// # Errors
    /// Which bound it would go beyond.
    pub fn push(&mut self, member: u64, event_id: String, json: Bytes) -> Result<u64, Full> {
        self.place(json.len())?;
        Ok(self.append(member, event_id, json))
    }

    /// The place of an event that is still to be written, and is taken for so many bytes until then; answers its number.
    ///
    /// # Errors
    /// Which bound it would go beyond.
    pub fn reserve(&mut self, member: u64, event_id: String, bytes: usize) -> Result<u64, Full> {
        self.place(bytes)?;
        let number = self.append(member, event_id, Bytes::new());
        self.bytes += bytes;
        self.reserved.insert(number, bytes);
        Ok(number)
    }

    /// Writes an event into its reserved place; whether it was still there.
    pub fn fill(&mut self, number: u64, json: Bytes) -> bool {
        let Some(bytes) = self.reserved.remove(&number) else { return false };
        self.bytes -= bytes;
        let Some(item) = self.waiting.iter_mut().rfind(|item| item.number == number) else { return false };
        self.bytes += json.len();
        item.json = json;
        true
    }

    fn place(&self, bytes: usize) -> Result<(), Full> {
        if self.waiting.len() + self.taken.len() >= self.max_events {
            return Err(Full::Events);
        }
        if self.bytes.saturating_add(bytes) > self.max_bytes { Err(Full::Bytes) } else { Ok(()) }
    }

    fn append(&mut self, member: u64, event_id: String, json: Bytes) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += json.len();
        self.waiting.push_back(Item { number, member, event_id, json });
        number
    }

    /// The oldest, at most so many, and at least one where there is one.
    pub fn take(&mut self, max_events: usize, max_bytes: usize) -> Vec<Item> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.waiting.front().filter(|next| !self.reserved.contains_key(&next.number)) {
            let size = next.json.len();
            if items.len() >= max_events || (!items.is_empty() && bytes + size > max_bytes) {
                break;
            }
            bytes += size;
            let Some(item) = self.waiting.pop_front() else { break };
            self.taken.insert(item.number, size);
            items.push(item);
        }
        items
    }

    /// What became of a taken one is known.
    pub fn settle(&mut self, number: u64) {
        if let Some(bytes) = self.taken.remove(&number) {
            self.bytes -= bytes;
        }
    }

    /// Takes one back that nobody has taken; whether there was one.
    pub fn withdraw(&mut self, number: u64) -> bool {
        let place = self.waiting.iter().rposition(|item| item.number == number);
        let item = place.and_then(|place| self.waiting.remove(place));
        self.bytes -= item.as_ref().map_or(0, |item| item.json.len()) + self.reserved.remove(&number).unwrap_or(0);
        item.is_some()
    }

    /// Taken ones, in their order, that are to be tried again before anything else.
    pub fn give_back(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            if self.taken.remove(&item.number).is_some() {
                self.waiting.push_front(item);
            }
        }
    }

    /// The number that the next event gets.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The lowest number that is not settled.
    #[must_use]
    pub fn first_unsettled(&self) -> u64 {
        let taken = self.taken.first_key_value().map(|(number, _)| *number);
        let waiting = self.waiting.front().map(|item| item.number);
        taken.into_iter().chain(waiting).min().unwrap_or(self.next_number)
    }

    /// Events that are not settled.
    #[must_use]
    pub fn events(&self) -> usize {
        self.waiting.len() + self.taken.len()
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether any waits to be taken.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.waiting.front().is_some_and(|next| !self.reserved.contains_key(&next.number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(sizes: &[usize]) -> Queue {
        let mut queue = Queue::new(4, 100);
        for (n, size) in sizes.iter().enumerate() {
            assert_eq!(queue.push(1, format!("e{n}"), vec![b'x'; *size].into()), Ok(n as u64));
        }
        queue
    }

    #[test]
    fn it_refuses_beyond_either_bound_and_counts_what_was_taken() {
        let mut queue = filled(&[10, 10, 10, 10]);
        assert_eq!(queue.push(1, "e".into(), Bytes::new()), Err(Full::Events));
        let taken = queue.take(2, 1_000);
        assert_eq!(queue.push(1, "e".into(), Bytes::new()), Err(Full::Events), "what is on its way still counts");
        taken.iter().for_each(|item| queue.settle(item.number));
        assert_eq!(queue.push(1, "e".into(), vec![0; 81].into()), Err(Full::Bytes));
        assert_eq!(queue.push(1, "e".into(), vec![0; 80].into()), Ok(4));
    }

    #[test]
    fn one_larger_than_a_batch_is_taken_alone() {
        let mut queue = filled(&[60, 30]);
        assert_eq!(queue.take(10, 50).len(), 1);
        assert_eq!(queue.take(10, 50).len(), 1);
        assert!(queue.take(10, 50).is_empty());
    }

    #[test]
    fn one_that_waits_can_be_withdrawn() {
        let mut queue = filled(&[10, 20, 30]);
        let taken = queue.take(1, 100);
        assert!(!queue.withdraw(taken[0].number), "it is on its way");
        assert!(queue.withdraw(1) && !queue.withdraw(1));
        assert_eq!((queue.events(), queue.bytes(), queue.first_unsettled()), (2, 40, 0));
    }

    #[test]
    fn a_reserved_place_holds_back_what_is_behind_it_until_it_is_written_or_given_up() {
        let mut queue = Queue::new(4, 100);
        let (first, second) = (queue.reserve(1, "a".into(), 60).unwrap(), queue.push(1, "b".into(), vec![0; 10].into()).unwrap());
        let third = queue.reserve(1, "c".into(), 20).unwrap();
        assert_eq!(queue.reserve(1, "d".into(), 11), Err(Full::Bytes));
        assert!(!queue.has_waiting() && queue.take(9, 1_000).is_empty());
        assert!(queue.fill(first, vec![0; 5].into()) && !queue.fill(first, Bytes::new()) && !queue.fill(second, Bytes::new()));
        assert_eq!((queue.bytes(), queue.first_unsettled()), (35, first));
        let taken: Vec<u64> = queue.take(9, 1_000).iter().map(|item| item.number).collect();
        assert_eq!((taken, queue.has_waiting()), (vec![first, second], false));
        assert!(queue.withdraw(third) && !queue.fill(third, Bytes::new()));
        assert_eq!((queue.bytes(), queue.events()), (15, 2));
    }

    proptest! {
        #[test]
        fn it_settles_in_order_whatever_is_given_back(steps in proptest::collection::vec((1_usize..4, any::<[bool; 4]>()), 1..40)) {
            let mut queue = Queue::new(100, 10_000);
            let mut settled = std::collections::BTreeSet::new();
            for (count, fates) in steps {
                for _ in 0..count {
                    let _ = queue.push(0, String::new(), Bytes::from_static(b"12345"));
                }
                let taken = queue.take(4, 1_000);
                prop_assert!(taken.windows(2).all(|pair| pair[0].number < pair[1].number));
                let first = queue.first_unsettled();
                prop_assert!(taken.iter().all(|item| item.number >= first));
                let mut back = Vec::new();
                for (item, done) in taken.into_iter().zip(fates) {
                    if done {
                        queue.settle(item.number);
                        settled.insert(item.number);
                    } else {
                        back.push(item);
                    }
                }
                queue.give_back(back);
                let first = queue.first_unsettled();
                prop_assert!((0..first).all(|number| settled.contains(&number)) && !settled.contains(&first));
                prop_assert_eq!(queue.bytes(), queue.events() * 5);
            }
        }
    }
}
