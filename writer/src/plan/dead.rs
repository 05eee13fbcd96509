//! Dead letters as a set: of several about one record the smallest is kept, and an erasure takes the bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{DeadLetterKey, DeadLetterRow, ErasureRow, EventRef};
use super::{EntityBatch, EntityView, EntityWrites};

/// The smallest letter about each record.
pub(super) fn smallest<'a>(
    letters: impl IntoIterator<Item = &'a DeadLetterRow>,
) -> BTreeMap<&'a DeadLetterKey, &'a DeadLetterRow> {
    let mut out: BTreeMap<&DeadLetterKey, &DeadLetterRow> = BTreeMap::new();
    for letter in letters {
        let kept = out.entry(&letter.key).or_insert(letter);
        if letter.order() < kept.order() {
            *kept = letter;
        }
    }
    out
}

/// Writes what changes of the entity's letters; answers whether any of its letters keeps its bytes.
pub(super) fn plan(
    batch: &EntityBatch,
    view: &EntityView,
    erasures: &[ErasureRow],
    erased_events: &BTreeSet<&EventRef>,
    writes: &mut EntityWrites,
) -> bool {
    let mut kept_bytes = false;
    let letters = smallest(view.dead_letters.values().chain(batch.burials.iter().map(|b| &b.row)));
    // Every letter about the record decides, not only the one that is kept: they cover the same events.
    let mut erased: BTreeSet<&DeadLetterKey> = BTreeSet::new();
    let erased_ids: BTreeSet<(&str, String)> =
        erased_events.iter().map(|e| (e.event_id.as_str(), e.content_hash.to_string())).collect();
    for letter in view.dead_letters.values().chain(batch.burials.iter().map(|b| &b.row)) {
        let covers_erased = || letter.covers.iter().any(|c| erased_ids.contains(&(c.event_id.as_str(), c.content_hash.clone())));
        if letter.erased || erasures.iter().any(|e| letter.erased_by(e)) || covers_erased() {
            erased.insert(&letter.key);
        }
    }
    for (key, letter) in letters {
        let row = if erased.contains(key) { letter.clone().blank() } else { letter.clone() };
        kept_bytes |= !row.erased;
        let stored = view.dead_letters.get(key);
        if stored != Some(&row) {
            writes.dead_letters.push(stored.is_some(), row);
        }
    }
    kept_bytes
}
