//! What is shown of a fact, as pure functions of its set of mentions: wording, counts, and when it holds.

use std::collections::BTreeMap;

use memori_schemas::{FactId, FactKind, MessageKey};

use super::rows::{FactKey, FactRow, MentionRow, StatsRow, ValidityRow};

/// A fact's mentions, one per distinct message: a message that was re-sent in another event counts once, at its smallest.
#[derive(Clone, Debug)]
pub(super) struct Derived<'a> {
    /// The smallest mention: it words the fact.
    pub(super) representative: &'a MentionRow,
    /// One mention per message, in order.
    pub(super) entries: Vec<&'a MentionRow>,
}

impl<'a> Derived<'a> {
    /// `None` where nothing mentions the fact any more.
    pub(super) fn of(mentions: impl IntoIterator<Item = &'a MentionRow>) -> Option<Self> {
        let mut by_message: BTreeMap<&MessageKey, &MentionRow> = BTreeMap::new();
        for mention in mentions {
            let entry = by_message.entry(&mention.key.message_key).or_insert(mention);
            if mention.order() < entry.order() {
                *entry = mention;
            }
        }
        let mut entries: Vec<&MentionRow> = by_message.into_values().collect();
        entries.sort_by(|a, b| a.order().cmp(&b.order()));
        let representative = *entries.first()?;
        Some(Self { representative, entries })
    }

    pub(super) fn slot(&self) -> Option<&'a str> {
        self.representative.surface.slot.as_deref()
    }

    pub(super) fn stats(&self) -> StatsRow {
        let (generation, fact_id) = self.representative.fact();
        StatsRow {
            generation,
            fact_id,
            mentions: i64::try_from(self.entries.len()).unwrap_or(i64::MAX),
            first_mentioned_at_us: self.representative.occurred_at_us,
            last_mentioned_at_us: self.entries.last().map_or(self.representative.occurred_at_us, |m| m.occurred_at_us),
        }
    }

    /// One interval, from the earliest beginning; its end is what the last mention says of it.
    pub(super) fn unslotted_validity(&self) -> ValidityRow {
        let (generation, fact_id) = self.representative.fact();
        let valid_from_us = self.entries.iter().map(|m| m.start_us()).min().unwrap_or_default();
        let last = self.entries.iter().max_by_key(|m| (m.start_us(), m.order())).and_then(|m| m.end_us());
        ValidityRow { generation, fact_id, valid_from_us, valid_to_us: last, closed_by: None }
    }
}

/// The fact's row, worded by `representative`.
pub(super) fn fact_row(representative: &MentionRow) -> FactRow {
    let surface = &representative.surface;
    FactRow {
        generation: representative.key.generation,
        fact_id: representative.key.fact_id,
        kind: kind_code(surface.kind),
        body: surface.text.clone(),
        subject: surface.subject.clone(),
        predicate: surface.predicate.clone(),
        object: surface.object.clone(),
        slot: surface.slot.clone(),
        confidence: surface.confidence,
        process_id: surface.process_id.clone(),
        extractor: surface.extractor.clone(),
        rep_occurred_at_us: representative.occurred_at_us,
        rep_event_id: representative.key.event.event_id.clone(),
        rep_message_index: representative.message_index,
    }
}

/// The `kind` column: the index in [`FactKind::ALL`].
fn kind_code(kind: FactKind) -> i16 {
    FactKind::ALL.iter().position(|k| *k == kind).and_then(|i| i16::try_from(i).ok()).unwrap_or_default()
}

/// When each fact of a single-valued slot holds: its members' mentions in the order in which they begin to hold; each new value
/// closes the one before (Paris → Berlin → Paris is three intervals).
pub(super) fn slot_validity(generation: i32, members: &[&Derived<'_>]) -> BTreeMap<FactKey, Vec<ValidityRow>> {
    let mut timeline: Vec<&MentionRow> = members.iter().flat_map(|m| m.entries.iter().copied()).collect();
    timeline.sort_by(|a, b| (a.start_us(), a.order(), a.key.fact_id).cmp(&(b.start_us(), b.order(), b.key.fact_id)));
    let open = |m: &MentionRow| ValidityRow {
        generation,
        fact_id: m.key.fact_id,
        valid_from_us: m.start_us(),
        valid_to_us: m.end_us(),
        closed_by: None,
    };
    let mut intervals: Vec<ValidityRow> = Vec::new();
    for mention in timeline {
        let start = mention.start_us();
        match intervals.last_mut() {
            Some(last) if last.fact_id == mention.key.fact_id && last.valid_to_us.is_none_or(|end| end > start) => {
                last.valid_to_us = mention.end_us();
            }
            Some(last) => {
                if last.fact_id != mention.key.fact_id && last.valid_to_us.is_none_or(|end| end > start) {
                    last.valid_to_us = Some(start);
                    last.closed_by = Some(mention.key.fact_id);
                }
                intervals.push(open(mention));
            }
            None => intervals.push(open(mention)),
        }
    }
    // Two intervals of one fact that begin together (several values said at one time): the longer one stands.
    let mut by_start: BTreeMap<(FactId, i64), ValidityRow> = BTreeMap::new();
    for interval in intervals {
        let longer = |row: &ValidityRow| row.valid_to_us.unwrap_or(i64::MAX);
        match by_start.get(&(interval.fact_id, interval.valid_from_us)) {
            Some(present) if longer(present) >= longer(&interval) => {}
            _ => {
                by_start.insert((interval.fact_id, interval.valid_from_us), interval);
            }
        }
    }
    let mut out: BTreeMap<FactKey, Vec<ValidityRow>> = BTreeMap::new();
    for ((fact_id, _), interval) in by_start {
        out.entry((generation, fact_id)).or_default().push(interval);
    }
    out
}
