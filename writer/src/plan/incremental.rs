//! A known fact without slot is said again, in the common way: its row and counts tell enough, and its mentions stay unread.

use std::collections::BTreeMap;

use memori_schemas::MessageKey;

use super::derive::fact_row;
use super::rows::{MentionKey, MentionRow, StatsRow, ValidityRow};
use super::{EntityView, EntityWrites, StoredFact};

/// Writes what changes by `new` mentions; `false` where only all of the fact's mentions can tell.
pub(super) fn add(
    stored: &StoredFact,
    new: &BTreeMap<&MentionKey, &MentionRow>,
    view: &EntityView,
    writes: &mut EntityWrites,
) -> bool {
    let [interval] = stored.validity.as_slice() else { return false };
    let plain = |m: &MentionRow| m.surface.slot.is_none() && m.surface.valid_from_us.is_none() && m.surface.valid_to_us.is_none();
    if stored.row.slot.is_some() || interval.valid_to_us.is_some() || !new.values().all(|m| plain(m)) {
        return false;
    }
    let mut first_of_message: BTreeMap<&MessageKey, &MentionRow> = BTreeMap::new();
    for mention in new.values() {
        let first = first_of_message.entry(&mention.key.message_key).or_insert(mention);
        if mention.order() < first.order() {
            *first = mention;
        }
    }
    let fact = (stored.row.generation, stored.row.fact_id);
    let mut row = stored.row.clone();
    let mut stats = stored.stats.clone();
    let mut valid_from_us = interval.valid_from_us;
    for (message_key, mention) in first_of_message {
        let mut present = view.pairs.values().filter(|m| m.fact() == fact && m.key.message_key == *message_key).peekable();
        if present.peek().is_some() {
            // A message that was re-sent counts at its smallest; a smaller one may move what was computed from the other.
            if present.any(|m| m.order() < mention.order()) {
                continue;
            }
            return false;
        }
        let place = |occurred: i64, event_id: &str, index: i32| (occurred, event_id.to_owned(), index);
        let theirs = place(row.rep_occurred_at_us, &row.rep_event_id, row.rep_message_index);
        let ours = place(mention.occurred_at_us, &mention.key.event.event_id, mention.message_index);
        match ours.cmp(&theirs) {
            std::cmp::Ordering::Less => row = fact_row(mention),
            std::cmp::Ordering::Equal => return false,
            std::cmp::Ordering::Greater => {}
        }
        stats = StatsRow {
            mentions: stats.mentions + 1,
            first_mentioned_at_us: stats.first_mentioned_at_us.min(mention.occurred_at_us),
            last_mentioned_at_us: stats.last_mentioned_at_us.max(mention.occurred_at_us),
            ..stats
        };
        valid_from_us = valid_from_us.min(mention.occurred_at_us);
    }
    if row != stored.row {
        writes.facts.push(true, row);
    }
    if stats != stored.stats {
        writes.stats.push(true, stats);
    }
    if valid_from_us != interval.valid_from_us {
        writes.validity_deleted.push(fact);
        writes.validity.push(ValidityRow { valid_from_us, ..interval.clone() });
    }
    true
}
