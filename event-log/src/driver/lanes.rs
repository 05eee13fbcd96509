//! The queues of each topic apart, so that topics take turns however much waits in one of them: history never delays the present.
//!
//! Promises: a topic that has something ready is asked again at the latest when every other one has been asked once; order and
//! turns within a topic are those of [`KeyQueues`].

use bytes::Bytes;
use tokio::time::Instant;

use crate::queues::KeyQueues;
use crate::topic::{Topic, TopicPartition};

/// Whose records stand in order.
pub(super) type Key = (TopicPartition, Bytes);

#[derive(Debug)]
pub(super) struct Lanes<T> {
    queues: Vec<(Topic, KeyQueues<Key, T>)>,
    /// Where the next look for something ready begins.
    turn: usize,
}

impl<T> Lanes<T> {
    pub(super) fn new() -> Self {
        Self { queues: Vec::new(), turn: 0 }
    }

    fn of(&mut self, topic: Topic) -> Option<&mut KeyQueues<Key, T>> {
        self.queues.iter_mut().find(|(t, _)| *t == topic).map(|(_, queues)| queues)
    }

    pub(super) fn push(&mut self, key: Key, item: T) {
        let topic = key.0.topic;
        if let Some(queues) = self.of(topic) {
            queues.push(key, item);
        } else {
            let mut queues = KeyQueues::new();
            queues.push(key, item);
            self.queues.push((topic, queues));
        }
    }

    pub(super) fn pop(&mut self) -> Option<(Key, T)> {
        for step in 0..self.queues.len() {
            let index = (self.turn + step) % self.queues.len();
            if let Some(popped) = self.queues[index].1.pop() {
                self.turn = (index + 1) % self.queues.len();
                return Some(popped);
            }
        }
        None
    }

    pub(super) fn done(&mut self, key: &Key) {
        if let Some(queues) = self.of(key.0.topic) {
            queues.done(key);
        }
    }

    pub(super) fn park(&mut self, key: &Key, item: T, until: Instant) {
        if let Some(queues) = self.of(key.0.topic) {
            queues.park(key, item, until);
        }
    }

    pub(super) fn wake(&mut self, now: Instant) {
        self.queues.iter_mut().for_each(|(_, queues)| queues.wake(now));
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|(_, queues)| queues.next_wake()).min()
    }

    pub(super) fn discard(&mut self, mut matches: impl FnMut(&Key) -> bool) -> Vec<T> {
        self.queues.iter_mut().flat_map(|(_, queues)| queues.discard(&mut matches)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(topic: Topic, name: &'static str) -> Key {
        (TopicPartition { topic, partition: 0 }, Bytes::from_static(name.as_bytes()))
    }

    #[test]
    fn what_waits_in_one_topic_does_not_delay_the_other() {
        let mut lanes = Lanes::new();
        for name in ["a", "b", "c", "d"] {
            lanes.push(key(Topic::ConversationsBackfill, name), name);
        }
        assert_eq!(lanes.pop().map(|popped| popped.1), Some("a"));
        lanes.push(key(Topic::ConversationsLive, "x"), "x");
        lanes.push(key(Topic::ConversationsLive, "y"), "y");
        let order: Vec<&str> = std::iter::from_fn(|| lanes.pop().map(|popped| popped.1)).collect();
        assert_eq!(order, ["b", "x", "c", "y", "d"], "they take turns, and a topic without anything ready costs none");
        lanes.done(&key(Topic::ConversationsLive, "x"));
        lanes.push(key(Topic::ConversationsLive, "y"), "y2");
        assert_eq!(lanes.pop().map(|popped| popped.1), None, "a busy key waits");
        let later = Instant::now();
        lanes.park(&key(Topic::ConversationsLive, "y"), "y", later);
        assert_eq!(lanes.next_wake(), Some(later));
        let mut left = lanes.discard(|key| key.0.topic == Topic::ConversationsLive);
        left.sort_unstable();
        assert_eq!((left, lanes.next_wake()), (vec!["y", "y2"], None));
    }
}
