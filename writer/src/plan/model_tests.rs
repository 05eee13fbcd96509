//! The plan against a naive model: the whole set of records at once, computed straight from decision 3.

use std::collections::{BTreeMap, BTreeSet};

use memori_schemas::{ContentHash, FactId, FactKind, Lane, MessageKey, Origin, TextHash, TripleHash, Vector};
use proptest::prelude::*;
use uuid::Uuid;

use super::derive::{Derived, fact_row, slot_validity};
use super::*;

/// A small generator, so that a case is one seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn long(&mut self, n: usize) -> i64 {
        i64::try_from(self.below(n)).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn lane(&mut self) -> Lane {
        if self.chance(60) { Lane::Live } else { Lane::Backfill }
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[derive(Clone, Debug)]
enum Record {
    Copy(EventCopy),
    Extraction(Extraction),
    Burial(Burial),
    Erasure(ErasureRow),
    Forget(ForgetRow),
    Withdrawal(WithdrawalRow),
}

fn message_key(n: usize) -> MessageKey {
    MessageKey([u8::try_from(n).unwrap(); 16])
}

fn copy(dice: &mut Dice, event: EventRef, lane: Lane, offset: i64, origin: Option<Origin>) -> EventCopy {
    let (accepted_at_us, spooled) = (dice.long(20), dice.chance(20));
    let session_id = Some(format!("s{}", dice.below(3)));
    let number = usize::from(event.content_hash.0[0]) + event.event_id.len() + usize::from(event.event_id.as_bytes()[1]);
    let messages = (0..2).map(|index: i32| MessageRow {
        message_key: message_key((number * 2 + usize::try_from(index).unwrap() + dice.below(2)) % 200),
        event: event.clone(),
        message_index: index,
        message_id: format!("{}#{index}", event.event_id),
        role: 0,
        name: None,
        content: "words".to_owned(),
        content_format: 0,
        created_at_us: None,
        process_id: None,
        session_id: session_id.clone(),
        occurred_at_us: accepted_at_us,
    });
    let messages = messages.collect();
    let row = EventRow {
        marks: Marks::of(lane, offset, origin, spooled, accepted_at_us),
        event,
        erased: false,
        process_id: Some("p".to_owned()),
        session_id,
        occurred_at_us: accepted_at_us,
        accepted_at_us,
        spooled,
        lane,
        log_partition: 0,
        log_offset: offset,
        origin,
        attempt: i32::from(origin.is_some()),
        client_fields: Some("{}".to_owned()),
    };
    EventCopy { row, messages }
}

fn outcome(copy: &EventRow, generation: i32, kind: OutcomeKind, lane: Lane, offset: i64) -> OutcomeRow {
    OutcomeRow {
        event: copy.event.clone(),
        generation,
        kind,
        lane,
        log_topic_id: if kind == OutcomeKind::Dead { "dead".to_owned() } else { format!("facts-{lane}") },
        log_partition: 0,
        log_offset: offset,
        event_lane: copy.lane,
        event_offset: copy.log_offset,
        event_origin: copy.origin,
        event_spooled: copy.spooled,
        event_accepted_at_us: copy.accepted_at_us,
        attempt: copy.attempt,
        withdrawn: false,
        dead_letter_class: (kind == OutcomeKind::Dead).then(|| "refused".to_owned()),
        dead_letter_reason: None,
        extractor_name: (kind == OutcomeKind::Applied).then(|| format!("x{}", offset % 2)),
        extractor_version: None,
        extractor_model: None,
        prompt_hash: None,
        tokens_in: 0,
        tokens_out: 0,
        cost_micros: 0,
        ended_at_us: offset,
    }
}

fn mention(dice: &mut Dice, event: &EventRow, generation: i32, lane: Lane, offset: i64) -> MentionRow {
    let number = dice.below(7);
    let index = dice.below(2);
    let message =
        if dice.chance(30) { dice.below(3) } else { 100 + usize::from(event.event.event_id.as_bytes()[1]) % 50 + index };
    // Facts 0–2 stand in one slot, mostly; 3 may have bounds of its own; the others are plain.
    let slot = (number < 3 && dice.chance(90))
        .then(|| "user/lives_in".to_owned())
        .or_else(|| (number == 4 && dice.chance(20)).then(|| "user/job".to_owned()));
    let bounds = number == 3 || (number < 2 && dice.chance(20));
    MentionRow {
        key: MentionKey {
            generation,
            fact_id: FactId(Uuid::from_u128(number as u128 + 1)),
            message_key: message_key(message),
            event: event.event.clone(),
        },
        message_index: i32::try_from(index).unwrap(),
        message_id: format!("{}#{index}", event.event.event_id),
        session_id: None,
        occurred_at_us: event.occurred_at_us,
        lane,
        log_partition: 0,
        log_offset: offset,
        text_hash: TextHash([u8::try_from(number).unwrap(); 16]),
        triple_hash: number.is_multiple_of(2).then_some(TripleHash([9; 16])),
        surface: Surface {
            kind: FactKind::Fact,
            text: format!("fact {number} as of {offset}"),
            subject: None,
            predicate: None,
            object: None,
            slot,
            confidence: 1.0,
            valid_from_us: (bounds && dice.chance(30)).then(|| dice.long(20)),
            valid_to_us: (bounds && dice.chance(30)).then(|| dice.long(25)),
            extractor: "builtin/1".to_owned(),
            process_id: None,
        },
        vector: dice.chance(60).then(|| vector(dice)),
    }
}

fn vector(dice: &mut Dice) -> Vector {
    Vector { model: format!("model@{}", dice.below(2)), scale: 0.5, values: vec![u8::try_from(dice.below(3)).unwrap(); 2] }
}

fn message_vector(dice: &mut Dice, event: &EventRow, generation: i32) -> MessageVectorRow {
    let message_key = message_key(100 + dice.below(3));
    MessageVectorRow {
        key: MessageVectorKey { generation, message_key, event: event.event.clone() },
        message_index: i32::try_from(dice.below(2)).unwrap(),
        vector: vector(dice),
    }
}

fn records(dice: &mut Dice) -> Vec<Record> {
    let seed = dice.0;
    let mut out = Vec::new();
    let mut copies: Vec<EventRow> = Vec::new();
    let mut offsets = BTreeMap::from([(Lane::Live, 0), (Lane::Backfill, 0)]);
    for _ in 0..1 + dice.below(10) {
        let event =
            EventRef { event_id: format!("e{}", dice.below(5)), content_hash: ContentHash([u8::from(dice.chance(10)); 32]) };
        let lane = dice.lane();
        let offset = offsets[&lane];
        offsets.insert(lane, offset + 1);
        let first = copies.iter().find(|c| c.event == event).map(|c| Origin { lane: c.lane, offset: c.log_offset });
        let origin = first.filter(|_| dice.chance(30));
        let copy = copy(dice, event, lane, offset, origin);
        copies.push(copy.row.clone());
        out.push(Record::Copy(copy));
    }
    for offset in 0..dice.long(10) {
        let (lane, generation) = (dice.lane(), 1 + i32::from(dice.chance(20)));
        let covered: Vec<EventRow> = (0..1 + dice.below(2)).map(|_| copies[dice.below(copies.len())].clone()).collect();
        let outcomes = covered.iter().map(|c| outcome(c, generation, OutcomeKind::Applied, lane, offset)).collect();
        let mentions = (0..dice.below(5)).map(|_| {
            let event = &covered[dice.below(covered.len())];
            mention(dice, event, generation, lane, offset)
        });
        let mentions = mentions.collect();
        let message_vectors = (0..dice.below(4)).map(|_| {
            let event = &covered[dice.below(covered.len())];
            message_vector(dice, event, generation)
        });
        out.push(Record::Extraction(Extraction { mentions, message_vectors: message_vectors.collect(), outcomes }));
    }
    for offset in 0..dice.long(4) {
        let covered = &copies[dice.below(copies.len())];
        let lane = covered.lane;
        let known = dice.chance(80);
        let row = DeadLetterRow {
            key: DeadLetterKey {
                source_topic_id: format!("conversations-{lane}"),
                source_partition: 0,
                source_offset: covered.log_offset,
                generation: 1,
            },
            source_topic: format!("conversations.{lane}"),
            lane,
            class: "refused".to_owned(),
            reason: "said no".to_owned(),
            attempts: 1,
            covers: if known { vec![DeadCover::new(&covered.event, &covered.marks)] } else { Vec::new() },
            erased: false,
            original_key: Some(vec![1]),
            original_payload: Some(vec![2]),
            failed_at_us: dice.long(20),
        };
        let outcomes = if known { vec![outcome(covered, 1, OutcomeKind::Dead, lane, offset)] } else { Vec::new() };
        // What a letter covers is a function of the record that it is about.
        let contradicts =
            out.iter().any(|r| matches!(r, Record::Burial(b) if b.row.key == row.key && b.row.covers != row.covers));
        if !contradicts {
            out.push(Record::Burial(Burial { row, outcomes }));
        }
    }
    for number in 0..dice.below(3) {
        if dice.chance(40) {
            out.push(Record::Withdrawal(WithdrawalRow {
                withdrawal_id: format!("w{}", dice.below(2)),
                // One id says one selection.
                extractor_name: (!seed.is_multiple_of(3)).then(|| "x0".to_owned()),
                extractor_version: None,
                extractor_model: None,
                prompt_hash: None,
                generation: seed.is_multiple_of(5).then_some(1),
                live_end_offset: dice.long(8),
                backfill_end_offset: dice.long(8),
                requested_at_us: dice.long(20),
                applied_at_us: 0,
            }));
        } else if dice.chance(60) {
            out.push(Record::Erasure(ErasureRow {
                erasure_id: format!("x{}", dice.below(2)),
                requested_at_us: dice.long(20) - 10,
                live_end_offset: dice.long(4),
                backfill_end_offset: dice.long(3),
                applied_at_us: 0,
            }));
        } else {
            let fact = dice.below(7);
            out.push(Record::Forget(ForgetRow {
                forget_id: format!("f{number}"),
                fact_id: Uuid::from_u128(fact as u128 + 1),
                text_hash: TextHash([u8::try_from(fact).unwrap(); 16]),
                triple_hash: dice.chance(50).then_some(TripleHash([9; 16])),
                message_keys: (0..60).map(|_| message_key(dice.below(200))).collect(),
                requested_at_us: 0,
                applied_at_us: 0,
            }));
        }
    }
    out
}

/// The base tables of one entity, and a store's reading and writing of them without a store.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tables {
    entity_id: Option<String>,
    events: BTreeMap<EventRef, EventRow>,
    messages: BTreeSet<(EventRef, MessageKey, i32, Option<String>)>,
    outcomes: BTreeMap<OutcomeKey, OutcomeRow>,
    mentions: BTreeMap<MentionKey, MentionRow>,
    message_vectors: BTreeMap<MessageVectorKey, MessageVectorRow>,
    facts: BTreeMap<FactKey, FactRow>,
    stats: BTreeMap<FactKey, StatsRow>,
    validity: BTreeMap<(FactKey, i64), ValidityRow>,
    erasures: BTreeMap<String, ErasureRow>,
    forgets: BTreeMap<String, ForgetRow>,
    withdrawals: BTreeMap<String, WithdrawalRow>,
    dead_letters: BTreeMap<DeadLetterKey, DeadLetterRow>,
}

impl Tables {
    fn read(&self, needs: &Needs, first: bool, view: &mut EntityView) {
        if first {
            view.entity_id.clone_from(&self.entity_id);
            view.erasures = self.erasures.values().cloned().collect();
            view.forgets = self.forgets.values().cloned().collect();
            view.withdrawals = self.withdrawals.values().cloned().collect();
        }
        let event_wanted = |e: &EventRef| needs.whole || needs.events.contains(e);
        view.events.extend(self.events.iter().filter(|(e, _)| event_wanted(e)).map(|(k, r)| (k.clone(), r.clone())));
        view.outcomes.extend(self.outcomes.iter().filter(|(k, _)| event_wanted(&k.0)).map(|(k, r)| (k.clone(), r.clone())));
        for fact in needs.facts.iter().filter(|f| self.facts.contains_key(f)) {
            let validity = self.validity.iter().filter(|((f, _), _)| f == fact).map(|(_, r)| r.clone()).collect();
            view.facts.insert(*fact, StoredFact { row: self.facts[fact].clone(), stats: self.stats[fact].clone(), validity });
        }
        let mentions = |wanted: &dyn Fn(&MentionRow) -> bool| {
            let lean = |m: &MentionRow| MentionRow { vector: None, ..m.clone() };
            self.mentions.iter().filter(|(_, m)| wanted(m)).map(|(k, m)| (k.clone(), lean(m))).collect::<Vec<_>>()
        };
        view.pairs.extend(mentions(&|m| needs.pairs.contains(&(m.fact(), m.key.message_key))));
        let letters = self.dead_letters.iter().filter(|(k, _)| needs.whole || needs.dead_letters.contains(k));
        view.dead_letters.extend(letters.map(|(k, r)| (k.clone(), r.clone())));
        let in_slot = |m: &MentionRow| {
            self.facts[&m.fact()].slot.as_ref().is_some_and(|slot| needs.slots.contains(&(m.key.generation, slot.clone())))
        };
        view.mentions.extend(mentions(&|m| needs.whole || needs.full_facts.contains(&m.fact()) || in_slot(m)));
        view.message_vectors.extend(self.message_vectors.keys().filter(|_| needs.whole).cloned());
        view.whole |= needs.whole;
        view.slots.extend(needs.slots.iter().cloned());
        view.full_facts.extend(needs.full_facts.iter().copied());
    }

    fn write(&mut self, w: EntityWrites) {
        fn put<K: Ord + std::fmt::Debug, R>(table: &mut BTreeMap<K, R>, upserts: Upserts<R>, key: impl Fn(&R) -> K) {
            for row in upserts.insert {
                let key = key(&row);
                assert!(!table.contains_key(&key), "inserted twice: {key:?}");
                table.insert(key, row);
            }
            for row in upserts.update {
                let key = key(&row);
                assert!(table.contains_key(&key), "updated but not there: {key:?}");
                table.insert(key, row);
            }
        }
        if let Some(id) = w.entity_id {
            self.entity_id = id;
        }
        self.messages.retain(|m| !w.messages_deleted.contains(&m.0));
        for key in &w.outcomes_deleted {
            self.outcomes.remove(key).expect("deletes what is there");
        }
        for key in &w.mentions_deleted {
            self.mentions.remove(key).expect("deletes what is there");
        }
        for key in &w.message_vectors_deleted {
            self.message_vectors.remove(key).expect("deletes what is there");
        }
        for fact in &w.facts_deleted {
            self.facts.remove(fact).expect("deletes what is there");
            self.stats.remove(fact).expect("deletes what is there");
        }
        self.validity.retain(|(fact, _), _| !w.facts_deleted.contains(fact) && !w.validity_deleted.contains(fact));
        put(&mut self.events, w.events, |r| r.event.clone());
        for m in w.messages {
            assert!(self.messages.insert((m.event, m.message_key, m.message_index, m.session_id)), "a message twice");
        }
        put(&mut self.outcomes, w.outcomes, OutcomeRow::key);
        put(&mut self.mentions, Upserts { insert: w.mentions, update: Vec::new() }, |r| r.key.clone());
        let vectors = Upserts { insert: w.message_vectors, update: Vec::new() };
        put(&mut self.message_vectors, vectors, |r| r.key.clone());
        put(&mut self.facts, w.facts, |r| (r.generation, r.fact_id));
        put(&mut self.stats, w.stats, |r| (r.generation, r.fact_id));
        let validity = Upserts { insert: w.validity, update: Vec::new() };
        put(&mut self.validity, validity, |r| ((r.generation, r.fact_id), r.valid_from_us));
        put(&mut self.erasures, w.erasures, |r| r.erasure_id.clone());
        put(&mut self.forgets, w.forgets, |r| r.forget_id.clone());
        put(&mut self.withdrawals, w.withdrawals, |r| r.withdrawal_id.clone());
        put(&mut self.dead_letters, w.dead_letters, |r| r.key.clone());
    }

    fn plan(&self, batch: &EntityBatch) -> EntityWrites {
        let mut view = EntityView::default();
        self.read(&batch.first_needs(), true, &mut view);
        self.read(&batch.fact_needs(&view), false, &mut view);
        plan(batch, &view).unwrap_or_else(|needs| {
            self.read(&needs, false, &mut view);
            plan(batch, &view).expect("three rounds are enough")
        })
    }
}

fn batch_of(records: &[Record]) -> EntityBatch {
    let mut batch = EntityBatch { entity_id: "someone".to_owned(), ..EntityBatch::default() };
    for record in records.iter().cloned() {
        match record {
            Record::Copy(r) => batch.copies.push(r),
            Record::Extraction(r) => batch.extractions.push(r),
            Record::Burial(r) => batch.burials.push(r),
            Record::Erasure(r) => batch.erasures.push(r),
            Record::Forget(r) => batch.forgets.push(r),
            Record::Withdrawal(r) => batch.withdrawals.push(r),
        }
    }
    batch
}

/// A vector as something that has an order.
fn written(vector: Option<&Vector>) -> Option<(String, u32, Vec<u8>)> {
    vector.map(|v| (v.model.clone(), v.scale.to_bits(), v.values.clone()))
}

/// Those of the fact event that each outcome came from; of several of one message that with the smallest index, then vector.
fn model_message_vectors(candidates: &[(&OutcomeRow, Option<&Extraction>)], out: &mut Tables) {
    for winner in out.outcomes.values() {
        let by = candidates
            .iter()
            .find(|(o, _)| OutcomeRow { withdrawn: winner.withdrawn, ..(*o).clone() } == *winner)
            .and_then(|(_, by)| *by);
        for row in by.iter().flat_map(|x| &x.message_vectors) {
            if row.key.event != winner.event || row.key.generation != winner.generation {
                continue;
            }
            let place = |r: &MessageVectorRow| (r.message_index, written(Some(&r.vector)));
            let kept = out.message_vectors.entry(row.key.clone()).or_insert_with(|| row.clone());
            if place(row) < place(kept) {
                *kept = row.clone();
            }
        }
    }
}

/// Decision 3, literally.
fn model(records: &[Record]) -> Tables {
    let all = batch_of(records);
    let mut out = Tables::default();
    for e in &all.erasures {
        let kept = out.erasures.entry(e.erasure_id.clone()).or_insert_with(|| e.clone());
        kept.requested_at_us = kept.requested_at_us.max(e.requested_at_us);
        kept.live_end_offset = kept.live_end_offset.max(e.live_end_offset);
        kept.backfill_end_offset = kept.backfill_end_offset.max(e.backfill_end_offset);
    }
    for w in &all.withdrawals {
        let kept = out.withdrawals.entry(w.withdrawal_id.clone()).or_insert_with(|| w.clone());
        kept.requested_at_us = kept.requested_at_us.max(w.requested_at_us);
        kept.live_end_offset = kept.live_end_offset.max(w.live_end_offset);
        kept.backfill_end_offset = kept.backfill_end_offset.max(w.backfill_end_offset);
    }
    out.forgets = all.forgets.iter().map(|f| (f.forget_id.clone(), f.clone())).collect();
    let record_erased = |lane: Lane, offset: i64, origin: Option<Origin>, spooled: bool, accepted: i64| {
        out.erasures.values().any(|e| {
            let below =
                |lane: Lane, offset: i64| offset < if lane == Lane::Live { e.live_end_offset } else { e.backfill_end_offset };
            below(lane, offset) || origin.is_some_and(|o| below(o.lane, o.offset)) || (spooled && accepted <= e.requested_at_us)
        })
    };
    let erased: BTreeSet<&EventRef> = all
        .copies
        .iter()
        .filter(|c| record_erased(c.row.lane, c.row.log_offset, c.row.origin, c.row.spooled, c.row.accepted_at_us))
        .map(|c| &c.row.event)
        .collect();
    for copy in &all.copies {
        let same = || all.copies.iter().filter(|c| c.row.event == copy.row.event);
        let shown = same().min_by_key(|c| c.row.order()).unwrap();
        let mut row = shown.row.clone();
        row.marks = same().fold(Marks::default(), |m, c| m.merge(c.row.marks));
        if erased.contains(&row.event) {
            row = row.blank();
        } else {
            out.messages
                .extend(shown.messages.iter().map(|m| (m.event.clone(), m.message_key, m.message_index, m.session_id.clone())));
        }
        out.events.insert(row.event.clone(), row);
    }
    let candidates: Vec<(&OutcomeRow, Option<&Extraction>)> = all
        .extractions
        .iter()
        .flat_map(|x| x.outcomes.iter().map(move |o| (o, Some(x))))
        .chain(all.burials.iter().flat_map(|b| b.outcomes.iter().map(|o| (o, None))))
        .filter(|(o, _)| !erased.contains(&o.event))
        .collect();
    for (candidate, _) in &candidates {
        let key = candidate.key();
        let better = |a: &OutcomeRow, b: &OutcomeRow| match (a.kind, b.kind) {
            (OutcomeKind::Applied, OutcomeKind::Dead) => std::cmp::Ordering::Less,
            (OutcomeKind::Dead, OutcomeKind::Applied) => std::cmp::Ordering::Greater,
            (OutcomeKind::Applied, OutcomeKind::Applied) => {
                b.attempt.cmp(&a.attempt).then((a.lane, a.log_offset).cmp(&(b.lane, b.log_offset)))
            }
            (OutcomeKind::Dead, OutcomeKind::Dead) => (b.attempt, a.log_offset).cmp(&(a.attempt, b.log_offset)),
        };
        let same = candidates.iter().filter(|(o, _)| o.key() == key);
        let (best, by) = same
            .min_by(|a, b| better(a.0, b.0).then((a.0.event_lane, a.0.event_offset).cmp(&(b.0.event_lane, b.0.event_offset))))
            .unwrap();
        let withdrawn = best.kind == OutcomeKind::Applied
            && out.withdrawals.values().any(|w| {
                let end = if best.lane == Lane::Live { w.live_end_offset } else { w.backfill_end_offset };
                let named = w.extractor_name.is_none() || w.extractor_name == best.extractor_name;
                named && best.log_offset < end && w.generation.is_none_or(|g| g == i64::from(best.generation))
            });
        out.outcomes.insert(key.clone(), OutcomeRow { withdrawn, ..(*best).clone() });
        if withdrawn {
            continue;
        }
        for m in by.iter().flat_map(|x| &x.mentions).filter(|m| m.key.event == key.0 && m.key.generation == key.1) {
            if all.forgets.iter().any(|f| f.drops(m)) {
                continue;
            }
            let words =
                |m: &MentionRow| (m.message_index, serde_json::to_string(&m.surface).unwrap(), written(m.vector.as_ref()));
            let kept = out.mentions.entry(m.key.clone()).or_insert_with(|| m.clone());
            if words(m) < words(kept) {
                *kept = m.clone();
            }
        }
    }
    model_message_vectors(&candidates, &mut out);
    let mentions = out.mentions.clone();
    let facts: BTreeSet<FactKey> = mentions.values().map(MentionRow::fact).collect();
    let derived: BTreeMap<FactKey, Derived<'_>> =
        facts.iter().map(|f| (*f, Derived::of(mentions.values().filter(|m| m.fact() == *f)).unwrap())).collect();
    let slots: BTreeSet<(i32, &str)> = derived.iter().filter_map(|(f, d)| Some((f.0, d.slot()?))).collect();
    for (fact, d) in &derived {
        out.facts.insert(*fact, fact_row(d.representative));
        out.stats.insert(*fact, d.stats());
        if d.slot().is_none() {
            let row = d.unslotted_validity();
            out.validity.insert((*fact, row.valid_from_us), row);
        }
    }
    for (generation, slot) in slots {
        let members: Vec<&Derived<'_>> =
            derived.iter().filter(|(f, d)| f.0 == generation && d.slot() == Some(slot)).map(|(_, d)| d).collect();
        for row in slot_validity(generation, &members).into_values().flatten() {
            out.validity.insert(((generation, row.fact_id), row.valid_from_us), row);
        }
    }
    for b in &all.burials {
        let letters = || all.burials.iter().filter(|o| o.row.key == b.row.key);
        let row = letters().map(|o| &o.row).min_by(|a, b| a.order().cmp(&b.order())).unwrap();
        let gone = letters().any(|o| {
            let covers_erased = o
                .row
                .covers
                .iter()
                .any(|c| erased.iter().any(|e| e.event_id == c.event_id && e.content_hash.to_string() == c.content_hash));
            covers_erased || out.erasures.values().any(|e| o.row.erased_by(e))
        });
        out.dead_letters.insert(row.key.clone(), if gone { row.clone().blank() } else { row.clone() });
    }
    let alive =
        out.events.values().any(|e| !e.erased) || !out.outcomes.is_empty() || out.dead_letters.values().any(|l| !l.erased);
    out.entity_id = alive.then(|| "someone".to_owned());
    out
}

/// Whether what is named is all that an image would show otherwise: every row that is new or another, and none that went.
fn tells(change: &ImageChange, before: &Tables, after: &Tables) -> bool {
    fn changed<K: Ord + Clone, R: PartialEq>(before: &BTreeMap<K, R>, after: &BTreeMap<K, R>) -> (Vec<K>, bool) {
        let new = after.iter().filter(|(key, row)| before.get(key) != Some(row)).map(|(key, _)| key.clone()).collect();
        (new, before.keys().any(|key| !after.contains_key(key)))
    }
    let (facts, fact_went) = changed(&before.facts, &after.facts);
    let (stats, _) = changed(&before.stats, &after.stats);
    let (mentions, mention_went) = changed(&before.mentions, &after.mentions);
    let (vectors, vector_went) = changed(&before.message_vectors, &after.message_vectors);
    let message_went = before.messages.iter().any(|message| !after.messages.contains(message));
    let unnamed = |tables: &Tables| -> BTreeSet<EventRef> {
        let rows = tables.events.values().filter(|row| !row.erased && row.session_id.is_none());
        rows.map(|row| row.event.clone()).collect()
    };
    let event_went = !unnamed(before).is_subset(&unnamed(after));
    let mut named_facts: BTreeSet<FactId> = facts.iter().chain(&stats).map(|fact| fact.1).collect();
    named_facts.extend(mentions.iter().map(|key| key.fact_id));
    // An interval that went is replaced: its fact is read anew.
    for (fact, _) in changed(&before.validity, &after.validity).0.iter().chain(&changed(&after.validity, &before.validity).0) {
        named_facts.insert(fact.1);
    }
    let mut named_messages: BTreeSet<MessageKey> =
        after.messages.iter().filter(|message| !before.messages.contains(*message)).map(|message| message.1).collect();
    named_messages.extend(vectors.iter().map(|key| key.message_key));
    let went = fact_went || mention_went || vector_went || message_went || event_went;
    match change {
        ImageChange::Rebased => true,
        ImageChange::Nothing => !went && named_facts.is_empty() && named_messages.is_empty(),
        ImageChange::Named(row) => !went && named_facts.is_subset(&row.facts) && named_messages.is_subset(&row.messages),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_any_batching_end_in_the_same_tables(seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let set = records(&mut dice);
        let expected = model(&set);
        for _ in 0..3 {
            let mut arriving = set.clone();
            let again: Vec<Record> = set.iter().filter(|_| dice.chance(20)).cloned().collect();
            arriving.extend(again);
            dice.shuffle(&mut arriving);
            let mut tables = Tables::default();
            let mut rest = arriving.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(1 + dice.below(rest.len()));
                let writes = tables.plan(&batch_of(now));
                let (before, change) = (tables.clone(), writes.image_change(1));
                tables.write(writes);
                prop_assert!(tells(&change, &before, &tables), "{:?} is not all that changed", change);
                rest = later;
            }
            prop_assert_eq!(&tables, &expected);
            prop_assert_eq!(tables.plan(&batch_of(&set)), EntityWrites::default(), "a redelivery writes nothing");
        }
    }
}
