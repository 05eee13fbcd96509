//! Which entity is to be packed, and when: pure, given the time.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Named;
use crate::plan::EntityRef;
use crate::store::packs::PackState;

/// Entities of fewer items are read by rows in about the same time.
pub const MIN_ITEMS: usize = 24;
/// Entities of more items are not packed: packing reads all of them at once.
pub const MAX_ITEMS: usize = 200_000;
/// So many changes are read by rows without being noticed.
pub const MIN_CHANGES: usize = 200;
/// Small entities are packed anew after this part of their items has changed: then most of the work was done in vain.
const SMALL_ITEMS_PER_CHANGE: usize = 2;
/// Large entities are packed anew after this part of their items has changed, so that a change costs the same packing everywhere.
const ITEMS_PER_CHANGE: usize = 20;

/// How long an entity that was looked at is left alone.
const PAUSE: Duration = Duration::from_secs(30);
/// Entities that are remembered; of more the least changed are forgotten.
const REMEMBERED: usize = 10_000;

/// Whether an entity's packs, made by `model` ([`crate::recall::packed::made_by`]), would be worth their while.
#[must_use]
pub fn is_due(state: &PackState, model: &str) -> bool {
    if !(MIN_ITEMS..=MAX_ITEMS).contains(&state.items) {
        return false;
    }
    match &state.packed {
        Some((generation, of_model)) if *generation == state.generation && of_model == model => {
            state.changed > MIN_CHANGES.min(state.items / SMALL_ITEMS_PER_CHANGE).max(state.items / ITEMS_PER_CHANGE)
        }
        _ => true,
    }
}

/// Entities that flushes changed.
#[derive(Debug, Default)]
pub struct Candidates {
    entities: HashMap<EntityRef, Seen>,
    /// Those that changed enough, by when they may be looked at.
    ripe: BTreeSet<(Instant, EntityRef)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    changed: usize,
    looked_at: Option<Instant>,
    ripe: Option<Instant>,
}

impl Candidates {
    /// Takes note of a flush.
    pub fn note(&mut self, now: Instant, entities: Vec<(EntityRef, Named)>) {
        for (entity, named) in entities {
            let seen = self.entities.entry(entity.clone()).or_default();
            // Where something was removed, whatever was packed is gone.
            seen.changed = seen.changed.saturating_add(named.unwrap_or(MIN_CHANGES + 1));
            if seen.changed > MIN_CHANGES && seen.ripe.is_none() {
                let at = seen.looked_at.map_or(now, |last| (last + PAUSE).max(now));
                seen.ripe = Some(at);
                self.ripe.insert((at, entity));
            }
        }
        if self.entities.len() > REMEMBERED {
            self.forget();
        }
    }

    /// The next entity to look at; it is then left alone for a while.
    pub fn next(&mut self, now: Instant) -> Option<EntityRef> {
        let first = self.ripe.first().filter(|(at, _)| *at <= now)?.clone();
        self.ripe.remove(&first);
        let (_, entity) = first;
        self.entities.insert(entity.clone(), Seen { changed: 0, looked_at: Some(now), ripe: None });
        Some(entity)
    }

    /// Keeps half: those that changed most, and of those that did not, those that were looked at last.
    fn forget(&mut self) {
        let mut order: Vec<(usize, Option<Instant>, EntityRef)> =
            self.entities.iter().map(|(entity, seen)| (seen.changed, seen.looked_at, entity.clone())).collect();
        order.sort_unstable();
        for (_, _, entity) in order.into_iter().take(REMEMBERED / 2) {
            if let Some(Seen { ripe: Some(at), .. }) = self.entities.remove(&entity) {
                self.ripe.remove(&(at, entity));
            }
        }
    }

    /// Entities that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use memori_schemas::EntityKey;
    use proptest::prelude::*;

    use super::*;

    fn entity(n: u16) -> EntityRef {
        let mut key = [0; 16];
        key[..2].copy_from_slice(&n.to_be_bytes());
        EntityRef { tenant: "t".into(), key: EntityKey(key) }
    }

    fn state(items: usize, changed: usize, packed: Option<(i32, &str)>) -> PackState {
        PackState { generation: 1, items, changed, packed: packed.map(|(generation, model)| (generation, model.to_owned())) }
    }

    #[test]
    fn packs_are_due_where_they_are_worth_their_while() {
        for (due, state) in [
            (false, state(23, 23, None)),
            (true, state(24, 24, None)),
            (false, state(100, 50, Some((1, "m@1")))),
            (true, state(100, 51, Some((1, "m@1")))),
            (false, state(MAX_ITEMS + 1, MAX_ITEMS + 1, None)),
            (false, state(1_000, 200, Some((1, "m@1")))),
            (true, state(1_000, 201, Some((1, "m@1")))),
            (false, state(10_000, 500, Some((1, "m@1")))),
            (true, state(10_000, 501, Some((1, "m@1")))),
            (true, state(1_000, 0, Some((1, "m@2")))),
            (true, state(1_000, 0, Some((2, "m@1")))),
        ] {
            assert_eq!(is_due(&state, "m@1"), due, "{state:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_most_changed_stay() {
        let mut candidates = Candidates::default();
        let now = Instant::now();
        candidates.note(now, vec![(entity(u16::MAX), Some(MIN_CHANGES))]);
        for n in 0..20_000 {
            candidates.note(now, vec![(entity(n), Some(1 + usize::from(n % 7)))]);
            assert!(candidates.len() <= REMEMBERED);
        }
        assert_eq!(candidates.next(now), None);
        candidates.note(now, vec![(entity(u16::MAX), Some(1))]);
        assert_eq!(candidates.next(now), Some(entity(u16::MAX)));
    }

    proptest! {
        /// Against a list of all that was noted: who has changed enough since it was looked at, and was not looked at just now.
        #[test]
        fn whoever_changed_enough_is_looked_at_once_and_then_left_alone(
            steps in prop::collection::vec((0..4_u16, prop::option::of(0..150_usize), 0..20_u64), 0..80),
        ) {
            let began = Instant::now();
            let mut now = began;
            let mut candidates = Candidates::default();
            let mut naive: BTreeMap<EntityRef, (usize, Option<Instant>)> = BTreeMap::new();
            for (n, named, seconds) in steps {
                now += Duration::from_secs(seconds);
                candidates.note(now, vec![(entity(n), named)]);
                naive.entry(entity(n)).or_default().0 += named.unwrap_or(MIN_CHANGES + 1);
                let wanted: BTreeSet<EntityRef> = naive
                    .iter()
                    .filter(|(_, (changed, last))| *changed > MIN_CHANGES && last.is_none_or(|last| last + PAUSE <= now))
                    .map(|(entity, _)| entity.clone())
                    .collect();
                let found: BTreeSet<EntityRef> = std::iter::from_fn(|| candidates.next(now)).collect();
                prop_assert_eq!(&found, &wanted);
                for entity in found {
                    naive.insert(entity, (0, Some(now)));
                }
            }
        }
    }
}
