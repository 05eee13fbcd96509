//! Which keys are stored of an entity, remembered from flush to flush, so that new ones are not looked up.
//!
//! Promises: what is remembered holds of one version of the entity's row in one table, and is used only where the row that the
//! flush has locked is the next one: whoever wrote in between counted the version up. A server that lost commits of ours is told by
//! its offsets, which fail the flush; a failed flush forgets everything. A flush takes what it uses out, and puts it back after its
//! commit only. A key that is not remembered is not stored; one that is remembered may be stored, and is looked up.
//! Entities with erasures, forgets or withdrawals are not remembered, nor those that were there before this process came to them.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Mutex, PoisonError};

use crate::plan::{EntityBatch, EntityRef, EntityWrites, Needs};
use crate::store::Foreseen;

/// All that is remembered, in bytes; those that nobody touched for the longest go first.
const MAX_BYTES: usize = 64 << 20;
/// What an entity takes beside its keys, roughly.
const ENTITY_BYTES: usize = 256;

/// What a key is of.
#[derive(Hash)]
enum Of<K> {
    Event(K),
    Fact(K),
    Letter(K),
}

/// A version of an entity's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Which table; a view that was made anew counts from 1 again.
    pub(super) table: u32,
    pub(super) number: i64,
}

impl Version {
    pub(super) fn before(self) -> Self {
        Self { number: self.number - 1, ..self }
    }
}

/// What is stored of an entity without erasures, forgets and withdrawals.
#[derive(Debug, Default)]
pub(super) struct Known {
    entity_id: Option<String>,
    /// Hashes of the keys of every event with a row or an outcome, every fact, every dead letter.
    keys: HashSet<u64>,
}

impl Known {
    fn bytes(&self) -> usize {
        ENTITY_BYTES + self.keys.capacity() * 10
    }
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<EntityRef, (Version, Known)>,
    young_bytes: usize,
    old: HashMap<EntityRef, (Version, Known)>,
}

/// What is remembered of all entities.
#[derive(Debug, Default)]
pub(super) struct Memory {
    generations: Mutex<Generations>,
    hasher: RandomState,
}

impl Memory {
    fn generations(&self) -> std::sync::MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what is remembered of these entities.
    pub(super) fn take<'a>(&self, entities: impl Iterator<Item = &'a EntityRef>) -> HashMap<EntityRef, (Version, Known)> {
        let mut guard = self.generations();
        let generations = &mut *guard;
        let mut out = HashMap::new();
        for entity in entities {
            let young = generations.young.remove_entry(entity);
            if let Some((_, (_, known))) = &young {
                generations.young_bytes = generations.young_bytes.saturating_sub(known.bytes());
            }
            out.extend(young.or_else(|| generations.old.remove_entry(entity)));
        }
        out
    }

    /// Remembers what is stored at a version that is committed.
    pub(super) fn put(&self, entity: EntityRef, version: Version, known: Known) {
        let bytes = known.bytes();
        // One entity shall not push out all others.
        if bytes > MAX_BYTES / 16 {
            return;
        }
        let mut generations = self.generations();
        if generations.young_bytes + bytes > MAX_BYTES / 2 {
            generations.old = std::mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
        generations.young_bytes += bytes;
        generations.young.insert(entity, (version, known));
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.generations() = Generations::default();
    }

    fn hash<K: Hash>(&self, key: Of<K>) -> u64 {
        self.hasher.hash_one(key)
    }

    /// What can be said of an entity whose row stands at `version`, where nothing is stored that the batch names.
    pub(super) fn foresee(&self, known: &Known, version: Version, batch: &EntityBatch) -> Option<Foreseen> {
        let outcomes = batch.extractions.iter().flat_map(|x| &x.outcomes).chain(batch.burials.iter().flat_map(|b| &b.outcomes));
        let mut events = batch.copies.iter().map(|copy| &copy.row.event).chain(outcomes.map(|outcome| &outcome.event));
        let mut mentions = batch.extractions.iter().flat_map(|x| &x.mentions);
        let new = batch.erasures.is_empty()
            && batch.forgets.is_empty()
            && batch.withdrawals.is_empty()
            && !events.any(|event| known.keys.contains(&self.hash(Of::Event(event))))
            && !mentions.any(|mention| known.keys.contains(&self.hash(Of::Fact(&mention.fact()))))
            && !batch.burials.iter().any(|burial| known.keys.contains(&self.hash(Of::Letter(&burial.row.key))));
        new.then(|| Foreseen { entity_id: known.entity_id.clone(), version: version.number + 1 })
    }

    /// What of `needs` may be stored.
    pub(super) fn stored(&self, known: &Known, needs: &Needs) -> Needs {
        let keys = &known.keys;
        if keys.is_empty() {
            return Needs::default();
        }
        let facts: BTreeSet<_> = needs.facts.iter().filter(|fact| keys.contains(&self.hash(Of::Fact(fact)))).copied().collect();
        Needs {
            events: needs.events.iter().filter(|event| keys.contains(&self.hash(Of::Event(event)))).cloned().collect(),
            pairs: needs.pairs.iter().filter(|(fact, _)| facts.contains(fact)).copied().collect(),
            facts,
            dead_letters: needs.dead_letters.iter().filter(|key| keys.contains(&self.hash(Of::Letter(key)))).cloned().collect(),
            ..Needs::default()
        }
    }

    /// What is known after these writes; nothing where removals have to be looked up from now on.
    pub(super) fn after(&self, mut known: Known, writes: &EntityWrites) -> Option<Known> {
        let removals = [&writes.erasures.insert, &writes.erasures.update].iter().any(|rows| !rows.is_empty())
            || [&writes.forgets.insert, &writes.forgets.update].iter().any(|rows| !rows.is_empty())
            || [&writes.withdrawals.insert, &writes.withdrawals.update].iter().any(|rows| !rows.is_empty());
        if removals {
            return None;
        }
        if let Some(entity_id) = &writes.entity_id {
            known.entity_id.clone_from(entity_id);
        }
        let events = writes.events.insert.iter().map(|row| &row.event);
        let outcomes = writes.outcomes.insert.iter().map(|row| &row.event);
        known.keys.extend(events.chain(outcomes).map(|event| self.hash(Of::Event(event))));
        known.keys.extend(writes.facts.insert.iter().map(|row| self.hash(Of::Fact(&(row.generation, row.fact_id)))));
        known.keys.extend(writes.dead_letters.insert.iter().map(|row| self.hash(Of::Letter(&row.key))));
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use memori_schemas::{ContentHash, EntityKey};

    use super::*;
    use crate::plan::EventRef;

    fn entity(n: usize) -> EntityRef {
        EntityRef { tenant: format!("t{n}"), key: EntityKey([0; 16]) }
    }

    fn known(keys: usize) -> Known {
        Known { entity_id: None, keys: (0..keys as u64).collect() }
    }

    const FIRST: Version = Version { table: 1, number: 1 };

    #[test]
    fn what_is_taken_out_is_gone_until_it_is_put_back() {
        let memory = Memory::default();
        memory.put(entity(1), FIRST, known(3));
        let taken = memory.take([entity(1), entity(2)].iter());
        assert_eq!((taken.len(), taken[&entity(1)].0, taken[&entity(1)].1.keys.len()), (1, FIRST, 3));
        assert!(memory.take([entity(1)].iter()).is_empty());
        memory.put(entity(1), FIRST, known(3));
        memory.clear();
        assert!(memory.take([entity(1)].iter()).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_was_touched_last() {
        let memory = Memory::default();
        let (each, many) = (known(100_000).bytes(), 200);
        assert!(each * many > 2 * MAX_BYTES, "so many do not fit");
        for n in 0..many {
            memory.put(entity(n), FIRST, known(100_000));
            let held = memory.generations();
            let bytes: usize = held.young.values().chain(held.old.values()).map(|(_, known)| known.bytes()).sum();
            assert!(bytes <= MAX_BYTES, "{bytes} bytes after {n}");
        }
        assert!(memory.take([entity(0)].iter()).is_empty());
        assert_eq!(memory.take([entity(many - 1)].iter()).len(), 1);
        memory.put(entity(0), FIRST, known(10_000_000));
        assert!(memory.take([entity(0)].iter()).is_empty(), "one entity does not push out all others");
    }

    #[test]
    fn only_what_is_remembered_may_be_stored() {
        let memory = Memory::default();
        let event = |id: &str| EventRef { event_id: id.to_owned(), content_hash: ContentHash([1; 32]) };
        let mut known = Known::default();
        known.keys.insert(memory.hash(Of::Event(&event("stored"))));
        let needs = Needs { events: [event("stored"), event("new")].into(), ..Needs::default() };
        assert_eq!(memory.stored(&known, &needs).events, [event("stored")].into());
        assert!(memory.stored(&Known::default(), &needs).is_empty());
    }
}
