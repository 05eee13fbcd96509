//! What an erasure takes from an archived record. The rules are the writer's (docs/decisions/0005); what is left is enough to make the same
//! rows again: an erased event's id without a word of it.

use std::collections::HashMap;

use bytes::Bytes;
use memori_event_log::{LogRecord, Topic};
use memori_schemas::{
    ConversationEvent, Cover, DeadLetter, EntityKey, EraseEntity, FactsExtracted, Lane, LogRecordBody, Origin, framing, ids,
};

use crate::store::ArchiveError;

/// An erasure of one entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Erasure {
    requested_at_us: i64,
    live_end: i64,
    backfill_end: i64,
}

impl Erasure {
    fn takes_place(&self, lane: Lane, offset: i64) -> bool {
        offset < if lane == Lane::Live { self.live_end } else { self.backfill_end }
    }

    fn takes(&self, place: (Lane, i64), origin: Option<Origin>, spooled: bool, accepted_at_us: i64) -> bool {
        self.takes_place(place.0, place.1)
            || origin.is_some_and(|origin| self.takes_place(origin.lane, origin.offset))
            || (spooled && accepted_at_us <= self.requested_at_us)
    }

    fn takes_cover(&self, cover: &Cover) -> bool {
        self.takes((cover.lane, cover.offset), cover.origin, cover.spooled, cover.accepted_at.0)
    }

    fn takes_letter(&self, letter: &DeadLetter) -> bool {
        if !letter.covers.is_empty() {
            return letter.covers.iter().any(|cover| self.takes_cover(cover));
        }
        if letter.source_topic.starts_with("conversations.") {
            return self.takes_place(letter.lane, letter.source_offset);
        }
        letter.failed_at.0 <= self.requested_at_us
    }
}

/// All erasures of a partition's number, by entity: some hundred bytes for each.
#[derive(Debug, Default)]
pub(crate) struct Erasures {
    /// Controls below this offset are in here.
    pub(crate) until: i64,
    of: HashMap<EntityKey, Vec<Erasure>>,
}

impl Erasures {
    /// Takes a control in; answers whose records it takes.
    ///
    /// # Errors
    /// A control that this version cannot read: it may be an erasure.
    pub(crate) fn control(&mut self, record: &LogRecord) -> Result<Option<EraseEntity>, ArchiveError> {
        let body = framing::decode(&record.payload).map_err(|e| {
            ArchiveError::Broken(format!("{} at offset {} cannot be read ({e}); upgrade first", record.source, record.offset))
        })?;
        self.until = self.until.max(record.offset + 1);
        let LogRecordBody::EraseEntity(control) = body else { return Ok(None) };
        let erasure = Erasure {
            requested_at_us: control.requested_at.0,
            live_end: control.live_end_offset,
            backfill_end: control.backfill_end_offset,
        };
        self.of.entry(ids::entity_key(&control.tenant, &control.entity_id)).or_default().push(erasure);
        Ok(Some(control))
    }

    /// The record without what was erased; `None` where it stays as it is.
    pub(crate) fn apply(&self, record: &LogRecord) -> Option<LogRecord> {
        if self.of.is_empty() {
            return None;
        }
        let (tenant, entity_id) = ids::parse_log_key(&record.key)?;
        let erasures = self.of.get(&ids::entity_key(tenant, entity_id))?;
        let payload = without(record, erasures)?;
        (payload != record.payload).then(|| LogRecord { payload, ..record.clone() })
    }
}

fn without(record: &LogRecord, erasures: &[Erasure]) -> Option<Bytes> {
    let topic = record.source.topic;
    let body = match (topic, framing::decode(&record.payload)) {
        (Topic::Controls, _) => return None,
        (_, Ok(body)) => body,
        // What nobody can read may hold anything.
        (Topic::ConversationsLive | Topic::ConversationsBackfill, Err(_)) => {
            let lane = topic.lane().unwrap_or(Lane::Live);
            return erasures.iter().any(|e| e.takes_place(lane, record.offset)).then(Bytes::new);
        }
        (_, Err(_)) => return Some(Bytes::new()),
    };
    let left = match body {
        LogRecordBody::Conversation(event) => {
            let place = (topic.lane().unwrap_or(Lane::Live), record.offset);
            let taken = |e: &Erasure| e.takes(place, event.origin, event.spooled, event.accepted_at.0);
            if !erasures.iter().any(taken) {
                return None;
            }
            let (messages, metadata) = (Vec::new(), Vec::new());
            LogRecordBody::Conversation(ConversationEvent { process_id: None, session_id: None, messages, metadata, ..event })
        }
        LogRecordBody::Facts(facts) => LogRecordBody::Facts(facts_without(facts, erasures)?),
        LogRecordBody::DeadLetter(letter) if erasures.iter().any(|e| e.takes_letter(&letter)) => {
            let (original_key, original_payload) = (Vec::new(), Vec::new());
            LogRecordBody::DeadLetter(DeadLetter { original_key, original_payload, ..letter })
        }
        _ => return None,
    };
    // What was read once is written again: it only became less.
    framing::encode(&left).ok().map(Bytes::from)
}

/// What rests on erased events goes; which events it covers stays, so that it still stands where it stood in the ranking.
fn facts_without(facts: FactsExtracted, erasures: &[Erasure]) -> Option<FactsExtracted> {
    let erased: Vec<(String, memori_schemas::ContentHash)> = facts
        .covers
        .iter()
        .filter(|cover| erasures.iter().any(|e| e.takes_cover(cover)))
        .map(|cover| (cover.event_id.clone(), cover.content_hash))
        .collect();
    if erased.is_empty() {
        return None;
    }
    let gone = |event_id: &str, hash: &memori_schemas::ContentHash| erased.iter().any(|(id, h)| id == event_id && h == hash);
    let mut left = facts;
    for fact in &mut left.facts {
        fact.evidence.retain(|evidence| !gone(&evidence.event_id, &evidence.content_hash));
    }
    left.facts.retain(|fact| !fact.evidence.is_empty());
    left.message_vectors.retain(|vector| !gone(&vector.event_id, &vector.content_hash));
    Some(left)
}
