//! Turns that had no answer yet, so that a retry is known as the turn that it repeats; and the blocks of turns that go on.
//!
//! Promises: pure; a retry is the same bytes from the same scope, within ten minutes, of a turn that was not answered; at most
//! [`MAX_KEPT`] are kept, and the oldest goes first.

use std::collections::{BTreeMap, HashMap, VecDeque};
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

/// The most calls of the same name.
const MAX_OF_NAME: usize = 64;

/// Calls without an answer, by what a retry of theirs is known by; the same may be asked several times at once.
#[derive(Debug)]
pub(crate) struct Calls<K, C>(Lately<K, VecDeque<Tried<C>>>);

/// A call, and the number of its latest try.
#[derive(Clone, Debug)]
struct Tried<C> {
    call: C,
    retry: u32,
}

impl<K: Clone + Eq + Hash, C: Clone> Default for Calls<K, C> {
    fn default() -> Self {
        Self(Lately::default())
    }
}

impl<K: Clone + Eq + Hash, C: Clone> Calls<K, C> {
    /// A call was begun.
    pub(crate) fn began(&mut self, now: Instant, name: K, call: C) {
        let mut calls = self.0.get(now, &name).unwrap_or_default();
        if calls.len() >= MAX_OF_NAME {
            calls.pop_front();
        }
        calls.push_back(Tried { call, retry: 0 });
        self.0.keep(now, name, calls);
    }

    /// The call that is tried again as its `retry`th: rather one none of whose tries is under way, and that was tried as often as
    /// this one was.
    pub(crate) fn again(&mut self, now: Instant, name: K, retry: u32, is_over: impl Fn(&C) -> bool) -> Option<C> {
        let mut calls = self.0.get(now, &name)?;
        let fit = |tried: &Tried<C>| (is_over(&tried.call), tried.retry.checked_add(1) == Some(retry));
        // Of several the oldest.
        let (place, _) = calls.iter().enumerate().rev().max_by_key(|(_, tried)| fit(tried))?;
        let call = calls.remove(place)?.call;
        calls.push_back(Tried { call: call.clone(), retry });
        self.0.keep(now, name, calls);
        Some(call)
    }

    /// A call needs no retry any more.
    pub(crate) fn ended(&mut self, now: Instant, name: &K, is: impl Fn(&C) -> bool) {
        let Some(mut calls) = self.0.get(now, name) else { return };
        calls.retain(|tried| !is(&tried.call));
        if calls.is_empty() {
            self.0.forget(name);
        } else {
            self.0.keep(now, name.clone(), calls);
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
        lately.forget(&2);
        assert!(lately.get(start, &2).is_none());
        for name in 0..MAX_KEPT + 10 {
            lately.keep(start, name, "x");
        }
        assert_eq!((lately.by_name.len(), lately.by_age.len()), (MAX_KEPT, MAX_KEPT));
        assert!(lately.get(start, &9).is_none() && lately.get(start, &10).is_some());
    }

    #[test]
    fn the_same_asked_twice_and_tried_again_twice_is_two_calls() {
        let now = Instant::now();
        let mut calls = Calls::default();
        calls.began(now, "k", 'a');
        calls.began(now, "k", 'b');
        let all = |_: &char| true;
        assert_eq!(calls.again(now, "k", 1, all), Some('a'));
        assert_eq!(calls.again(now, "k", 1, all), Some('b'));
        assert_eq!(calls.again(now, "k", 2, |call| *call == 'b'), Some('b'), "the other is under way");
        assert_eq!(calls.again(now, "k", 2, all), Some('a'), "the other was tried that often already");
        calls.ended(now, &"k", |call| *call == 'a');
        assert_eq!(calls.again(now, "k", 3, all), Some('b'));
        calls.ended(now, &"k", |call| *call == 'b');
        assert_eq!(calls.again(now, "k", 3, all), None);
        for n in 0..MAX_OF_NAME + 1 {
            calls.began(now, "many", char::from_u32(0x100 + u32::try_from(n).unwrap()).unwrap());
        }
        assert_eq!(calls.again(now, "many", 1, all), Some('\u{101}'), "the oldest went");
    }
}
