//! The plan for one entity.

use std::collections::{BTreeMap, BTreeSet};

use super::derive::{Derived, fact_row, slot_validity};
use super::rows::{
    ErasureRow, EventRef, FactKey, ForgetRow, Marks, MentionKey, MentionRow, MessageVectorKey, MessageVectorRow, OutcomeKey,
    OutcomeKind, OutcomeRow, WithdrawalRow,
};
use super::{EntityBatch, EntityView, EntityWrites, EventCopy, Needs, dead};

/// What is to be written, or what must be read first. A view that holds what was asked for is never answered with a need.
///
/// # Errors
/// What to read in the last round.
pub fn plan(batch: &EntityBatch, view: &EntityView) -> Result<EntityWrites, Needs> {
    let mut writes = EntityWrites::default();
    let erasures = merge_erasures(batch, view, &mut writes);
    let forgets = merge_forgets(batch, view, &mut writes);
    let withdrawals = merge_withdrawals(batch, view, &mut writes);
    let events = Events::new(batch, view, &erasures);
    if !view.whole && events.must_purge(view) {
        return Err(Needs { whole: true, ..Needs::default() });
    }
    let lives_on = events.plan(view, &mut writes);
    let outcomes = plan_outcomes(batch, view, &events.erased, &withdrawals, &mut writes);
    if !view.whole && !outcomes.replaced.is_empty() {
        return Err(Needs { whole: true, ..Needs::default() });
    }
    let kept_letters = dead::plan(batch, view, &erasures, &events.erased, &mut writes);

    let added = added_mentions(batch, &outcomes, &forgets);
    let removed: BTreeSet<&MentionKey> = if view.whole {
        let gone = |m: &MentionRow| {
            events.erased.contains(&m.key.event)
                || outcomes.replaced.contains(&(m.key.event.clone(), m.key.generation))
                || outcomes.emptied.contains(&(m.key.event.clone(), m.key.generation))
                || forgets.iter().any(|f| f.drops(m))
        };
        view.mentions.values().filter(|m| gone(m)).map(|m| &m.key).collect()
    } else {
        BTreeSet::new()
    };
    plan_facts(view, &added, &removed, &mut writes)?;
    writes.mentions_deleted = removed.into_iter().cloned().collect();
    writes.mentions = added.into_values().cloned().collect();
    plan_message_vectors(batch, view, &events.erased, &outcomes, &mut writes);

    let alive = lives_on || outcomes.any || kept_letters;
    let entity_id = match (alive, view.whole) {
        (true, _) => Some(Some(batch.entity_id.clone())),
        (false, true) => Some(None),
        (false, false) => None,
    };
    writes.entity_id = entity_id.filter(|id| *id != view.entity_id);
    Ok(writes)
}

/// Stored and new ones. One id twice (a request that was appended twice) takes the larger bounds.
fn merge_erasures(batch: &EntityBatch, view: &EntityView, writes: &mut EntityWrites) -> Vec<ErasureRow> {
    let mut all: BTreeMap<&str, ErasureRow> = view.erasures.iter().map(|e| (e.erasure_id.as_str(), e.clone())).collect();
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    for erasure in &batch.erasures {
        let Some(present) = all.get_mut(erasure.erasure_id.as_str()) else {
            all.insert(&erasure.erasure_id, erasure.clone());
            changed.insert(&erasure.erasure_id);
            continue;
        };
        let merged = ErasureRow {
            requested_at_us: present.requested_at_us.max(erasure.requested_at_us),
            live_end_offset: present.live_end_offset.max(erasure.live_end_offset),
            backfill_end_offset: present.backfill_end_offset.max(erasure.backfill_end_offset),
            ..present.clone()
        };
        if merged != *present {
            *present = merged;
            changed.insert(&erasure.erasure_id);
        }
    }
    for id in changed {
        let stored = view.erasures.iter().any(|e| e.erasure_id == id);
        writes.erasures.push(stored, all[id].clone());
    }
    all.into_values().collect()
}

/// Stored and new ones. One id twice names the messages of both.
fn merge_forgets(batch: &EntityBatch, view: &EntityView, writes: &mut EntityWrites) -> Vec<ForgetRow> {
    let mut all: BTreeMap<&str, ForgetRow> = view.forgets.iter().map(|f| (f.forget_id.as_str(), f.clone())).collect();
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    for forget in &batch.forgets {
        match all.get_mut(forget.forget_id.as_str()) {
            None => {
                all.insert(&forget.forget_id, forget.clone());
                changed.insert(&forget.forget_id);
            }
            Some(present) => {
                if !forget.message_keys.is_subset(&present.message_keys) {
                    present.message_keys.extend(&forget.message_keys);
                    changed.insert(&forget.forget_id);
                }
            }
        }
    }
    for id in changed {
        let stored = view.forgets.iter().any(|f| f.forget_id == id);
        writes.forgets.push(stored, all[id].clone());
    }
    all.into_values().collect()
}

/// Stored and new ones. One id twice (a request that was appended twice) takes the larger bounds.
fn merge_withdrawals(batch: &EntityBatch, view: &EntityView, writes: &mut EntityWrites) -> Vec<WithdrawalRow> {
    let stored = view.withdrawals.iter().map(|w| (w.withdrawal_id.as_str(), w.clone()));
    let mut all: BTreeMap<&str, WithdrawalRow> = stored.collect();
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    for withdrawal in &batch.withdrawals {
        let Some(present) = all.get_mut(withdrawal.withdrawal_id.as_str()) else {
            all.insert(&withdrawal.withdrawal_id, withdrawal.clone());
            changed.insert(&withdrawal.withdrawal_id);
            continue;
        };
        let merged = WithdrawalRow {
            requested_at_us: present.requested_at_us.max(withdrawal.requested_at_us),
            live_end_offset: present.live_end_offset.max(withdrawal.live_end_offset),
            backfill_end_offset: present.backfill_end_offset.max(withdrawal.backfill_end_offset),
            ..present.clone()
        };
        if merged != *present {
            *present = merged;
            changed.insert(&withdrawal.withdrawal_id);
        }
    }
    for id in changed {
        let stored = view.withdrawals.iter().any(|w| w.withdrawal_id == id);
        writes.withdrawals.push(stored, all[id].clone());
    }
    all.into_values().collect()
}

/// The events that the batch touches (or, where the whole entity was read, all), and which of them are erased.
struct Events<'a> {
    copies: BTreeMap<&'a EventRef, Vec<&'a EventCopy>>,
    marks: BTreeMap<&'a EventRef, Marks>,
    erased: BTreeSet<&'a EventRef>,
}

fn batch_outcomes(batch: &EntityBatch) -> impl Iterator<Item = &OutcomeRow> {
    batch.extractions.iter().flat_map(|x| &x.outcomes).chain(batch.burials.iter().flat_map(|b| &b.outcomes))
}

impl<'a> Events<'a> {
    fn new(batch: &'a EntityBatch, view: &'a EntityView, erasures: &[ErasureRow]) -> Self {
        let mut copies: BTreeMap<&EventRef, Vec<&EventCopy>> = BTreeMap::new();
        // What the row will say, and besides that what outcomes say of their events.
        let mut marks: BTreeMap<&EventRef, Marks> = view.events.iter().map(|(event, row)| (event, row.marks)).collect();
        for copy in &batch.copies {
            copies.entry(&copy.row.event).or_default().push(copy);
            let known = marks.entry(&copy.row.event).or_default();
            *known = known.merge(copy.row.marks);
        }
        let mut deciding = marks.clone();
        for outcome in view.outcomes.values().chain(batch_outcomes(batch)) {
            let known = deciding.entry(&outcome.event).or_default();
            *known = known.merge(outcome.marks());
        }
        let is_erased = |event: &EventRef, marks: &Marks| {
            view.events.get(event).is_some_and(|row| row.erased) || erasures.iter().any(|e| e.erases(marks))
        };
        let erased = deciding.iter().filter(|(event, marks)| is_erased(event, marks)).map(|(event, _)| *event).collect();
        Self { copies, marks, erased }
    }

    /// Whether something is stored that an erasure takes.
    fn must_purge(&self, view: &EntityView) -> bool {
        let live_row = |event: &EventRef| view.events.get(event).is_some_and(|row| !row.erased);
        self.erased.iter().any(|event| live_row(event)) || view.outcomes.keys().any(|(event, _)| self.erased.contains(event))
    }

    /// Answers whether an event with content is among them.
    fn plan(&self, view: &EntityView, writes: &mut EntityWrites) -> bool {
        let mut lives_on = false;
        for (event, marks) in &self.marks {
            let stored = view.events.get(*event);
            let smallest = self.copies.get(event).and_then(|copies| copies.iter().min_by_key(|copy| copy.row.order()));
            let newer = smallest.filter(|copy| stored.is_none_or(|row| copy.row.order() < row.order()));
            let Some(mut row) = newer.map(|copy| &copy.row).or(stored).cloned() else { continue };
            row.marks = *marks;
            let erased = self.erased.contains(event);
            if erased {
                row = row.blank();
            }
            lives_on |= !erased;
            if stored.is_some_and(|s| !s.erased) && (erased || newer.is_some()) {
                writes.messages_deleted.push((*event).clone());
            }
            if let (false, Some(copy)) = (erased, newer) {
                writes.messages.extend(copy.messages.iter().cloned());
            }
            if stored != Some(&row) {
                writes.events.push(stored.is_some(), row);
            }
        }
        lives_on
    }
}

/// Which outcome counts for each (event, generation) that the batch speaks of.
struct Outcomes {
    /// Won by the fact event of this number in the batch.
    won: BTreeMap<OutcomeKey, usize>,
    /// Stored as applied, and now replaced: its mentions go.
    replaced: BTreeSet<OutcomeKey>,
    /// What it made is withdrawn: its mentions go, or are not taken.
    emptied: BTreeSet<OutcomeKey>,
    /// One is left, as far as was read.
    any: bool,
}

fn plan_outcomes(
    batch: &EntityBatch,
    view: &EntityView,
    erased: &BTreeSet<&EventRef>,
    withdrawals: &[WithdrawalRow],
    writes: &mut EntityWrites,
) -> Outcomes {
    let withdrawn = |outcome: &OutcomeRow| withdrawals.iter().any(|w| w.withdraws(outcome));
    let mut best: BTreeMap<OutcomeKey, (&OutcomeRow, Option<usize>)> = BTreeMap::new();
    let extractions = batch.extractions.iter().enumerate().flat_map(|(i, x)| x.outcomes.iter().map(move |o| (o, Some(i))));
    let burials = batch.burials.iter().flat_map(|b| b.outcomes.iter().map(|o| (o, None)));
    for (outcome, by) in extractions.chain(burials).filter(|(o, _)| !erased.contains(&o.event)) {
        let leader = best.entry(outcome.key()).or_insert((outcome, by));
        if outcome.rank() < leader.0.rank() {
            *leader = (outcome, by);
        }
    }
    let mut out = Outcomes { won: BTreeMap::new(), replaced: BTreeSet::new(), emptied: BTreeSet::new(), any: !best.is_empty() };
    let mut decided: BTreeSet<OutcomeKey> = BTreeSet::new();
    for (key, (outcome, by)) in best {
        let stored = view.outcomes.get(&key);
        if stored.is_some_and(|s| s.rank() <= outcome.rank()) {
            continue;
        }
        if stored.is_some_and(|s| s.kind == OutcomeKind::Applied) {
            out.replaced.insert(key.clone());
        }
        let row = OutcomeRow { withdrawn: withdrawn(outcome), ..outcome.clone() };
        decided.insert(key.clone());
        if row.withdrawn {
            out.emptied.insert(key.clone());
        }
        writes.outcomes.push(stored.is_some(), row);
        if let Some(by) = by {
            out.won.insert(key, by);
        }
    }
    for (key, stored) in &view.outcomes {
        if erased.contains(&key.0) {
            writes.outcomes_deleted.push(key.clone());
            continue;
        }
        out.any = true;
        if !decided.contains(key) && !stored.withdrawn && withdrawn(stored) {
            out.emptied.insert(key.clone());
            writes.outcomes.push(true, OutcomeRow { withdrawn: true, ..stored.clone() });
        }
    }
    out
}

/// The mentions of winning fact events, less those that were forgotten or withdrawn.
fn added_mentions<'a>(
    batch: &'a EntityBatch,
    outcomes: &Outcomes,
    forgets: &[ForgetRow],
) -> BTreeMap<&'a MentionKey, &'a MentionRow> {
    let mut added: BTreeMap<&MentionKey, &MentionRow> = BTreeMap::new();
    for (key, by) in outcomes.won.iter().filter(|(key, _)| !outcomes.emptied.contains(*key)) {
        for mention in &batch.extractions[*by].mentions {
            if mention.key.event != key.0 || mention.key.generation != key.1 || forgets.iter().any(|f| f.drops(mention)) {
                continue;
            }
            // One record may word one fact twice by one message: any fixed choice will do.
            if added.get(&mention.key).is_none_or(|present| mention.wording_order() < present.wording_order()) {
                added.insert(&mention.key, mention);
            }
        }
    }
    added
}

/// The message vectors of winning fact events, whoever withdrew their facts: no lineage made them. Those of erased events and of replaced outcomes go.
fn plan_message_vectors(
    batch: &EntityBatch,
    view: &EntityView,
    erased: &BTreeSet<&EventRef>,
    outcomes: &Outcomes,
    writes: &mut EntityWrites,
) {
    let gone =
        |key: &MessageVectorKey| erased.contains(&key.event) || outcomes.replaced.contains(&(key.event.clone(), key.generation));
    writes.message_vectors_deleted = view.message_vectors.iter().filter(|key| gone(key)).cloned().collect();
    let mut added: BTreeMap<&MessageVectorKey, &MessageVectorRow> = BTreeMap::new();
    for (outcome, by) in &outcomes.won {
        for row in &batch.extractions[*by].message_vectors {
            let ours = row.key.event == outcome.0 && row.key.generation == outcome.1;
            if ours && added.get(&row.key).is_none_or(|present| row.order() < present.order()) {
                added.insert(&row.key, row);
            }
        }
    }
    writes.message_vectors = added.into_values().cloned().collect();
}

type Mentions<'a> = BTreeMap<&'a MentionKey, &'a MentionRow>;

/// Wording, counts and validity of every fact whose mentions change, and of the slots that they stand in.
fn plan_facts(
    view: &EntityView,
    added: &Mentions<'_>,
    removed: &BTreeSet<&MentionKey>,
    writes: &mut EntityWrites,
) -> Result<(), Needs> {
    let mut before: BTreeMap<FactKey, Mentions<'_>> = BTreeMap::new();
    for (key, mention) in &view.mentions {
        before.entry(mention.fact()).or_default().insert(key, mention);
    }
    let mut news: BTreeMap<FactKey, Mentions<'_>> = BTreeMap::new();
    for (key, mention) in added {
        news.entry(mention.fact()).or_default().insert(key, mention);
    }
    for key in removed {
        news.entry((key.generation, key.fact_id)).or_default();
    }

    let mut needs = Needs::default();
    let mut touched: BTreeMap<FactKey, (Option<String>, Option<Derived<'_>>)> = BTreeMap::new();
    for (fact, new) in &news {
        let stored = view.facts.get(fact);
        let all_known = view.whole
            || stored.is_none_or(|s| {
                view.full_facts.contains(fact)
                    || s.row.slot.as_ref().is_some_and(|slot| view.slots.contains(&(fact.0, slot.clone())))
            });
        if all_known {
            let old = before.get(fact);
            let mut now: Mentions<'_> = old.cloned().unwrap_or_default();
            now.retain(|key, _| !removed.contains(*key));
            now.extend(new.iter().map(|(key, mention)| (*key, *mention)));
            let old_slot = match stored {
                Some(stored) => stored.row.slot.clone(),
                None => old.and_then(|o| Derived::of(o.values().copied())).and_then(|d| d.slot().map(str::to_owned)),
            };
            touched.insert(*fact, (old_slot, Derived::of(now.into_values())));
        } else if let Some(stored) = stored
            && !super::incremental::add(stored, new, view, writes)
        {
            needs.full_facts.insert(*fact);
            let slots = stored.row.slot.iter().chain(new.values().filter_map(|m| m.surface.slot.as_ref()));
            needs.slots.extend(slots.map(|slot| (fact.0, slot.clone())));
        }
    }
    let mut slots: BTreeSet<(i32, String)> = BTreeSet::new();
    for (fact, (old_slot, now)) in &touched {
        let new_slot = now.as_ref().and_then(|d| d.slot().map(str::to_owned));
        slots.extend(old_slot.iter().chain(new_slot.iter()).map(|slot| (fact.0, slot.clone())));
    }
    if !view.whole {
        needs.slots.extend(slots.iter().filter(|slot| !view.slots.contains(slot)).cloned());
    }
    if !needs.is_empty() {
        return Err(needs);
    }

    for (fact, (_, now)) in &touched {
        let was_stored = view.facts.contains_key(fact) || before.contains_key(fact);
        let Some(now) = now else {
            if was_stored {
                writes.facts_deleted.push(*fact);
            }
            continue;
        };
        let row = fact_row(now.representative);
        let stored = view.facts.get(fact);
        if stored.is_none_or(|s| s.row != row) {
            writes.facts.push(was_stored, row);
        }
        let stats = now.stats();
        if stored.is_none_or(|s| s.stats != stats) {
            writes.stats.push(was_stored, stats);
        }
        if now.slot().is_none() {
            let validity = vec![now.unslotted_validity()];
            if stored.is_none_or(|s| s.validity != validity) {
                if was_stored {
                    writes.validity_deleted.push(*fact);
                }
                writes.validity.extend(validity);
            }
        }
    }
    if slots.is_empty() {
        return Ok(());
    }
    let standing: BTreeMap<FactKey, Derived<'_>> = before
        .iter()
        .filter(|(fact, _)| !touched.contains_key(*fact))
        .filter_map(|(fact, mentions)| Some((*fact, Derived::of(mentions.values().copied())?)))
        .collect();
    for (generation, slot) in &slots {
        let members: Vec<&Derived<'_>> = standing
            .iter()
            .chain(touched.iter().filter_map(|(fact, (_, now))| Some((fact, now.as_ref()?))))
            .filter(|(fact, d)| fact.0 == *generation && d.slot() == Some(slot))
            .map(|(_, d)| d)
            .collect();
        for (fact, validity) in slot_validity(*generation, &members) {
            if view.facts.contains_key(&fact) || before.contains_key(&fact) {
                writes.validity_deleted.push(fact);
            }
            writes.validity.extend(validity);
        }
    }
    Ok(())
}
