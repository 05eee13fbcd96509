//! Turns that had no answer yet, so that a retry is known as the turn that it repeats; and the blocks of turns that go on.
//!
//! Promises: pure; a retry is the same bytes from the same scope, within ten minutes, of a turn that was not answered; at most
//! [`MAX_KEPT`] are kept, and the oldest goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long something is kept.
const KEPT_FOR: Duration = Duration::from_mins(10);
/// How many are kept.
pub(crate) const MAX_KEPT: usize = 4_096;

/// Some values by name, each for ten minutes.
#[derive(Debug)]
pub(crate) struct Lately<K, V> {
    by_name: HashMap<K, (u64, V)>,
    by_age: BTreeMap<u64, (Instant, K)>,
    next: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Default for Lately<K, V> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), by_age: BTreeMap::new(), next: 0 }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Lately<K, V> {
    /// Keeps a value, in the place of an older one of that name.
    pub(crate) fn keep(&mut self, now: Instant, name: K, value: V) {
        self.forget(&name);
        self.drop_old(now);
        while self.by_age.len() >= MAX_KEPT
            && let Some((_, (_, oldest))) = self.by_age.pop_first()
        {
            self.by_name.remove(&oldest);
        }
        self.by_age.insert(self.next, (now, name.clone()));
        self.by_name.insert(name, (self.next, value));
        self.next += 1;
    }

    /// The value of that name, where it is not too old.
    pub(crate) fn get(&mut self, now: Instant, name: &K) -> Option<V> {
        self.drop_old(now);
        self.by_name.get(name).map(|(_, value)| value.clone())
    }

    /// Forgets it.
    pub(crate) fn forget(&mut self, name: &K) {
        if let Some((age, _)) = self.by_name.remove(name) {
            self.by_age.remove(&age);
        }
    }

    /// Forgets it, where it is still the one that `is` says.
    pub(crate) fn forget_if(&mut self, name: &K, is: impl FnOnce(&V) -> bool) {
        if self.by_name.get(name).is_some_and(|(_, value)| is(value)) {
            self.forget(name);
        }
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some(entry) = self.by_age.first_entry() {
            if now.saturating_duration_since(entry.get().0) < KEPT_FOR {
                break;
            }
            let (_, name) = entry.remove();
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_with_age_number_and_name() {
        let start = Instant::now();
        let mut lately = Lately::default();
        lately.keep(start, 1, "a");
        lately.keep(start + KEPT_FOR / 2, 2, "b");
        lately.keep(start + KEPT_FOR / 2, 2, "c");
        assert_eq!((lately.get(start, &1), lately.get(start, &2)), (Some("a"), Some("c")));
        assert_eq!((lately.get(start + KEPT_FOR, &1), lately.get(start + KEPT_FOR, &2)), (None, Some("c")));
        lately.forget_if(&2, |value| *value == "b");
        assert!(lately.get(start, &2).is_some());
        lately.forget_if(&2, |value| *value == "c");
        assert!(lately.get(start, &2).is_none());
        for name in 0..MAX_KEPT + 10 {
            lately.keep(start, name, "x");
        }
        assert_eq!((lately.by_name.len(), lately.by_age.len()), (MAX_KEPT, MAX_KEPT));
        assert!(lately.get(start, &9).is_none() && lately.get(start, &10).is_some());
    }
}
