//! The pure heart of the sink: what is stored of an entity and what a batch says about it, to what is to be written.
//!
//! Promises: any interleaving and any batching of one set of records, at any number of writers, ends in equal tables; a record
//! that comes again adds nothing. Nothing here does I/O or asks for the time. What must be read is asked for in at most three
//! rounds: [`EntityBatch::first_needs`], [`EntityBatch::fact_needs`], then what [`plan`] answers with; the first two cost as much as
//! the batch is large, the third happens only for removals and for facts of single-valued slots.

mod changes;
mod dead;
mod derive;
mod entity;
mod incremental;
pub mod intake;
pub mod rows;

use std::collections::{BTreeMap, BTreeSet};

use memori_schemas::MessageKey;

pub use changes::{ChangesRow, ImageChange};
pub use entity::plan;
pub use rows::{
    DeadCover, DeadLetterKey, DeadLetterRow, EntityRef, ErasureRow, EventRef, EventRow, FactKey, FactRow, ForgetRow, Marks,
    MentionKey, MentionRow, MessageRow, MessageVectorKey, MessageVectorRow, OutcomeKey, OutcomeKind, OutcomeRow, StatsRow,
    Surface, ValidityRow, WithdrawalRow,
};

/// One record of a conversation event: its row were it alone, and its messages.
#[derive(Clone, Debug, PartialEq)]
pub struct EventCopy {
    /// Not erased.
    pub row: EventRow,
    /// In order.
    pub messages: Vec<MessageRow>,
}

/// One fact event.
#[derive(Clone, Debug, PartialEq)]
pub struct Extraction {
    /// One for each event that it covers, all of one generation.
    pub outcomes: Vec<OutcomeRow>,
    /// All of them; those of events that it does not win are dropped.
    pub mentions: Vec<MentionRow>,
    /// All of them; those of events that it does not win are dropped.
    pub message_vectors: Vec<MessageVectorRow>,
}

/// One dead letter about the entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Burial {
    /// The letter.
    pub row: DeadLetterRow,
    /// One for each event that ends in it.
    pub outcomes: Vec<OutcomeRow>,
}

/// What a batch says about one entity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntityBatch {
    /// As given.
    pub entity_id: String,
    /// From conversations.
    pub copies: Vec<EventCopy>,
    /// From facts.
    pub extractions: Vec<Extraction>,
    /// From dead letters.
    pub burials: Vec<Burial>,
    /// From controls.
    pub erasures: Vec<ErasureRow>,
    /// From controls.
    pub forgets: Vec<ForgetRow>,
    /// From controls.
    pub withdrawals: Vec<WithdrawalRow>,
}

/// What is to be read of one entity, beside its erasures, forgets, withdrawals and `entity_id`, which always are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Their rows, and their outcomes in every generation.
    pub events: BTreeSet<EventRef>,
    /// Their rows, counts and intervals.
    pub facts: BTreeSet<FactKey>,
    /// The mentions of these facts by these messages.
    pub pairs: BTreeSet<(FactKey, MessageKey)>,
    /// Their rows.
    pub dead_letters: BTreeSet<DeadLetterKey>,
    /// Last round: all events, outcomes, mentions and dead letters, and the keys of all message vectors.
    pub whole: bool,
    /// Last round: all mentions of the facts whose rows stand in these slots.
    pub slots: BTreeSet<(i32, String)>,
    /// Last round: all mentions of these facts.
    pub full_facts: BTreeSet<FactKey>,
}

impl Needs {
    /// Nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A fact as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredFact {
    /// Its wording.
    pub row: FactRow,
    /// Its counts.
    pub stats: StatsRow,
    /// Its intervals.
    pub validity: Vec<ValidityRow>,
}

/// What was read of one entity: everything that was asked for, and nothing is stored that was asked for and is not here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntityView {
    /// The stored `entity_id`; null once nothing but erased events is left.
    pub entity_id: Option<String>,
    /// All of them.
    pub erasures: Vec<ErasureRow>,
    /// All of them.
    pub forgets: Vec<ForgetRow>,
    /// All of them.
    pub withdrawals: Vec<WithdrawalRow>,
    /// Of [`Needs::events`], or all.
    pub events: BTreeMap<EventRef, EventRow>,
    /// Of [`Needs::events`], or all.
    pub outcomes: BTreeMap<OutcomeKey, OutcomeRow>,
    /// Of [`Needs::facts`].
    pub facts: BTreeMap<FactKey, StoredFact>,
    /// Of [`Needs::pairs`].
    pub pairs: BTreeMap<MentionKey, MentionRow>,
    /// Of [`Needs::dead_letters`], or all.
    pub dead_letters: BTreeMap<DeadLetterKey, DeadLetterRow>,
    /// [`Needs::whole`] was read.
    pub whole: bool,
    /// [`Needs::slots`] that were read.
    pub slots: BTreeSet<(i32, String)>,
    /// [`Needs::full_facts`] that were read.
    pub full_facts: BTreeSet<FactKey>,
    /// Of the last round: every mention of each fact that occurs here.
    pub mentions: BTreeMap<MentionKey, MentionRow>,
    /// Of [`Needs::whole`].
    pub message_vectors: BTreeSet<MessageVectorKey>,
}

/// Rows to write: those whose key is not stored, and those that replace a stored row.
#[derive(Clone, Debug, PartialEq)]
pub struct Upserts<R> {
    /// Their keys were looked up and are not there.
    pub insert: Vec<R>,
    /// Their keys are there.
    pub update: Vec<R>,
}

impl<R> Default for Upserts<R> {
    fn default() -> Self {
        Self { insert: Vec::new(), update: Vec::new() }
    }
}

impl<R> Upserts<R> {
    fn push(&mut self, stored: bool, row: R) {
        if stored { self.update.push(row) } else { self.insert.push(row) }
    }
}

/// What is to be written of one entity. Deletions come before insertions.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the tables' names")]
pub struct EntityWrites {
    /// `None`: leave it as it is.
    pub entity_id: Option<Option<String>>,
    pub events: Upserts<EventRow>,
    /// All messages of these events.
    pub messages_deleted: Vec<EventRef>,
    pub messages: Vec<MessageRow>,
    pub outcomes: Upserts<OutcomeRow>,
    pub outcomes_deleted: Vec<OutcomeKey>,
    pub mentions_deleted: Vec<MentionKey>,
    pub mentions: Vec<MentionRow>,
    pub message_vectors_deleted: Vec<MessageVectorKey>,
    pub message_vectors: Vec<MessageVectorRow>,
    pub facts: Upserts<FactRow>,
    pub stats: Upserts<StatsRow>,
    /// Rows of `facts`, `fact_stats` and `validity`.
    pub facts_deleted: Vec<FactKey>,
    /// All intervals of these facts.
    pub validity_deleted: Vec<FactKey>,
    pub validity: Vec<ValidityRow>,
    pub erasures: Upserts<ErasureRow>,
    pub forgets: Upserts<ForgetRow>,
    pub withdrawals: Upserts<WithdrawalRow>,
    pub dead_letters: Upserts<DeadLetterRow>,
}

impl EntityBatch {
    /// What the planner must know before it can say anything of events.
    #[must_use]
    pub fn first_needs(&self) -> Needs {
        let removes = !self.erasures.is_empty() || !self.forgets.is_empty() || !self.withdrawals.is_empty();
        let mut needs = Needs { whole: removes, ..Needs::default() };
        needs.events.extend(self.copies.iter().map(|copy| copy.row.event.clone()));
        let outcomes = self.extractions.iter().flat_map(|x| &x.outcomes).chain(self.burials.iter().flat_map(|b| &b.outcomes));
        needs.events.extend(outcomes.map(|outcome| outcome.event.clone()));
        needs.dead_letters.extend(self.burials.iter().map(|burial| burial.row.key.clone()));
        needs
    }

    /// What it must know of facts, once the events are read: of those that a fact event says which no stored outcome beats.
    #[must_use]
    pub fn fact_needs(&self, view: &EntityView) -> Needs {
        let mut needs = Needs::default();
        for extraction in &self.extractions {
            let beaten = |o: &OutcomeRow| view.outcomes.get(&o.key()).is_some_and(|stored| stored.rank() <= o.rank());
            let may_win: Vec<&EventRef> = if view.outcomes.is_empty() {
                extraction.outcomes.iter().map(|outcome| &outcome.event).collect()
            } else {
                extraction.outcomes.iter().filter(|o| !beaten(o)).map(|outcome| &outcome.event).collect()
            };
            for mention in extraction.mentions.iter().filter(|mention| may_win.contains(&&mention.key.event)) {
                needs.facts.insert(mention.fact());
                needs.pairs.insert((mention.fact(), mention.key.message_key));
            }
        }
        needs
    }
}

/// Dead letters whose record's key does not tell an entity: nothing can erase them, and they cover nothing.
#[must_use]
pub fn plan_unowned(letters: &[DeadLetterRow], stored: &BTreeMap<DeadLetterKey, DeadLetterRow>) -> Upserts<DeadLetterRow> {
    let mut out = Upserts::default();
    for (key, row) in dead::smallest(letters) {
        match stored.get(key) {
            Some(present) if present.order() <= row.order() => {}
            present => out.push(present.is_some(), row.clone()),
        }
    }
    out
}

#[cfg(test)]
mod model_tests;
