//! Keys that wait for a moment.
//!
//! Promises: each comes out once, when its moment has come, in the order of the moments and then in that of setting.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Key;

/// A key's place among those that wait; it finds the key again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer(Instant, u64);

#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: BTreeMap<Timer, Key>,
    set: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, key: Key) -> Timer {
        self.set += 1;
        let timer = Timer(at, self.set);
        self.waiting.insert(timer, key);
        timer
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        self.waiting.remove(&timer);
    }

    /// Takes out the next key whose moment has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Key> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    /// Takes out the next key, whatever its moment.
    pub(super) fn first(&mut self) -> Option<Key> {
        self.waiting.pop_first().map(|(_, key)| key)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(timer, _)| timer.0)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
