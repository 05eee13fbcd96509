//! From records as they were read to what a flush takes, and what must be said about those that cannot be taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use memori_event_log::driver::batch::SinkError;
use memori_event_log::{Header, LogIdentity, LogRecord, Topic, TopicPartition};
use memori_schemas::framing::{self, FramingError};
use memori_schemas::{DeadLetter, DeadLetterClass, FactsExtracted, Lane, LogRecordBody, Micros, ids};

use crate::generations::DroppedGenerations;
use crate::plan::intake::{self, Place, Refusal};
use crate::plan::{EntityBatch, EntityRef};
use crate::store::FlushInput;

/// The header that names a fact event's generation, for those whose bytes cannot be read.
const GENERATION_HEADER: &str = "generation";

/// A fact event that is dead-lettered.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) source: TopicPartition,
    pub(super) offset: i64,
    /// The record's own key, so that the letter stands in the same partition.
    pub(super) key: Bytes,
    pub(super) headers: Vec<Header>,
    pub(super) letter: DeadLetter,
}

/// A batch, sorted out.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// Without its offsets.
    pub(super) input: FlushInput,
    pub(super) refused: Vec<Refused>,
    /// Records that somebody else dead-letters.
    pub(super) passed: Vec<(Topic, DeadLetterClass)>,
    /// Records of generations that are dropped.
    pub(super) of_dropped: u64,
}

impl Prepared {
    fn entity(&mut self, owner: EntityRef, entity_id: &str) -> &mut EntityBatch {
        let entry = || EntityBatch { entity_id: entity_id.to_owned(), ..EntityBatch::default() };
        Arc::make_mut(&mut self.input.entities).entry(owner).or_insert_with(entry)
    }
}

/// Sorts out a batch.
///
/// # Errors
/// Where and why a partition must stand still: a control that this version does not understand.
pub(super) fn prepare(
    records: &[LogRecord],
    identity: &LogIdentity,
    dropped: &DroppedGenerations,
    now: Micros,
) -> Result<Prepared, SinkError> {
    let mut out = Prepared::default();
    let topic_ids: BTreeMap<Topic, Arc<str>> =
        identity.topic_ids.iter().map(|(topic, id)| (*topic, id.as_str().into())).collect();
    for record in records {
        let topic = record.source.topic;
        let place = Place {
            lane: topic.lane().unwrap_or(Lane::Live),
            topic_id: topic_ids
                .get(&topic)
                .cloned()
                .ok_or_else(|| SinkError::Halt(format!("the log has no topic {topic}; create the topics")))?,
            partition: record.source.partition,
            offset: record.offset,
        };
        let body = framing::decode(&record.payload);
        if let Ok(body) = &body
            && is_of_dropped(body, dropped)
        {
            out.of_dropped += 1;
            continue;
        }
        let sealed = body.as_ref().is_ok_and(|b| b.key_id().is_some());
        match topic {
            Topic::Controls => control(&mut out, record, body, sealed, now).map_err(|why| stand_still(record, why))?,
            Topic::ConversationsLive | Topic::ConversationsBackfill => conversation(&mut out, record, body, sealed, &place),
            Topic::FactsLive | Topic::FactsBackfill => facts(&mut out, record, body, sealed, &place, now),
            Topic::DeadLetters => dead_letter(&mut out, record, body, sealed, &place).map_err(|why| stand_still(record, why))?,
        }
    }
    Ok(out)
}

/// Whether nobody wants it any more: all that it says is of a generation that was dropped.
fn is_of_dropped(body: &LogRecordBody, dropped: &DroppedGenerations) -> bool {
    match body {
        LogRecordBody::Facts(facts) => dropped.contains(&facts.tenant, facts.generation),
        LogRecordBody::DeadLetter(letter) => {
            letter.tenant.as_deref().is_some_and(|tenant| dropped.contains(tenant, letter.generation))
        }
        _ => false,
    }
}

fn stand_still(record: &LogRecord, reason: String) -> SinkError {
    SinkError::StandStill { partition: record.source, offset: record.offset, reason }
}

fn control(
    out: &mut Prepared,
    record: &LogRecord,
    body: Result<LogRecordBody, FramingError>,
    sealed: bool,
    now: Micros,
) -> Result<(), String> {
    if sealed {
        return Err("a sealed control; upgrade first".to_owned());
    }
    let told = |refusal: Refusal| format!("a control that cannot be applied ({refusal}); upgrade first, or repair the log");
    match body.map_err(|e| format!("a control that cannot be read ({e}); upgrade first"))? {
        LogRecordBody::EraseEntity(erase) => {
            let owner = intake::owner(&erase.tenant, &erase.entity_id, &record.key).map_err(told)?;
            let row = intake::erasure(&erase, now.0).map_err(told)?;
            out.entity(owner, &erase.entity_id).erasures.push(row);
        }
        LogRecordBody::ForgetFact(forget) => {
            let owner = intake::owner(&forget.tenant, &forget.entity_id, &record.key).map_err(told)?;
            let row = intake::forget(&forget, now.0).map_err(told)?;
            out.entity(owner, &forget.entity_id).forgets.push(row);
        }
        LogRecordBody::WithdrawFacts(withdraw) => {
            let owner = intake::owner(&withdraw.tenant, &withdraw.entity_id, &record.key).map_err(told)?;
            let row = intake::withdrawal(&withdraw, now.0).map_err(told)?;
            out.entity(owner, &withdraw.entity_id).withdrawals.push(row);
        }
        _ => return Err("a record that is not a control; upgrade first".to_owned()),
    }
    Ok(())
}

fn conversation(out: &mut Prepared, record: &LogRecord, body: Result<LogRecordBody, FramingError>, sealed: bool, place: &Place) {
    let topic = record.source.topic;
    match body {
        Ok(_) if sealed => out.passed.push((topic, DeadLetterClass::Sealed)),
        Ok(LogRecordBody::Conversation(event)) => {
            let owner = intake::owner(&event.tenant, &event.entity_id, &record.key);
            match owner.and_then(|owner| Ok((owner, intake::event_copy(&event, place)?))) {
                Ok((owner, copy)) => out.entity(owner, &event.entity_id).copies.push(copy),
                Err(refusal) => {
                    tracing::warn!(source = %record.source, offset = record.offset, %refusal, "passed over a conversation event");
                    out.passed.push((topic, DeadLetterClass::Poison));
                }
            }
        }
        Ok(LogRecordBody::Flush(_)) => {}
        Ok(_) => out.passed.push((topic, DeadLetterClass::UnknownRecord)),
        Err(_) => out.passed.push((topic, DeadLetterClass::Poison)),
    }
}

fn facts(
    out: &mut Prepared,
    record: &LogRecord,
    body: Result<LogRecordBody, FramingError>,
    sealed: bool,
    place: &Place,
    now: Micros,
) {
    let refused = match body {
        Ok(LogRecordBody::Facts(facts)) if sealed => {
            let refusal = Refusal { class: DeadLetterClass::Sealed, reason: "sealed bodies are not supported yet".to_owned() };
            (refusal, Some(facts))
        }
        Ok(LogRecordBody::Facts(facts)) => {
            let owner = intake::owner(&facts.tenant, &facts.entity_id, &record.key);
            match owner.and_then(|owner| intake::extraction(&owner, &facts, place).map(|extraction| (owner, extraction))) {
                Ok((owner, extraction)) => {
                    out.entity(owner, &facts.entity_id).extractions.push(extraction);
                    return;
                }
                Err(refusal) => (refusal, Some(facts)),
            }
        }
        Ok(_) => {
            let reason = "a record type that the facts topics do not carry".to_owned();
            (Refusal { class: DeadLetterClass::UnknownRecord, reason }, None)
        }
        Err(error) => (Refusal { class: DeadLetterClass::Poison, reason: error.to_string() }, None),
    };
    out.refused.push(refuse(record, place, refused.0, refused.1, now));
}

fn refuse(record: &LogRecord, place: &Place, refusal: Refusal, facts: Option<FactsExtracted>, now: Micros) -> Refused {
    let owner = ids::parse_log_key(&record.key);
    // What a record says of its events counts only where it stands where records of its entity belong.
    let facts = facts.filter(|facts| owner == Some((facts.tenant.as_str(), facts.entity_id.as_str())));
    let header = || record.header(GENERATION_HEADER).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let letter = DeadLetter {
        tenant: owner.map(|(tenant, _)| tenant.to_owned()),
        entity_id: owner.map(|(_, entity_id)| entity_id.to_owned()),
        source_topic: record.source.topic.as_str().to_owned(),
        source_topic_id: place.topic_id.to_string(),
        source_partition: place.partition,
        source_offset: place.offset,
        lane: place.lane,
        generation: facts.as_ref().map(|f| f.generation).or_else(header).unwrap_or(1),
        class: refusal.class,
        reason: refusal.reason,
        attempts: 1,
        covers: facts.map(|f| f.covers).unwrap_or_default(),
        original_key: record.key.to_vec(),
        original_payload: record.payload.to_vec(),
        failed_at: now,
        key_id: None,
    };
    Refused { source: record.source, offset: record.offset, key: record.key.clone(), headers: record.headers.clone(), letter }
}

fn dead_letter(
    out: &mut Prepared,
    record: &LogRecord,
    body: Result<LogRecordBody, FramingError>,
    sealed: bool,
    place: &Place,
) -> Result<(), String> {
    let topic = record.source.topic;
    match body {
        Ok(_) if sealed => return Err("a sealed dead letter; upgrade first".to_owned()),
        Ok(LogRecordBody::DeadLetter(letter)) => {
            let burial = intake::burial(&letter, place);
            let named = letter.tenant.as_deref().zip(letter.entity_id.as_deref());
            match named.and_then(|(tenant, entity_id)| Some((intake::owner(tenant, entity_id, &record.key).ok()?, entity_id))) {
                Some((owner, entity_id)) => out.entity(owner, entity_id).burials.push(burial),
                None => {
                    // Nobody owns it, so nothing may end in it.
                    let mut row = burial.row;
                    row.covers.clear();
                    out.input.unowned.push(row);
                }
            }
        }
        // A newer version's letter ends an event: passing it over would leave that event open for ever.
        Err(error @ (FramingError::UnknownFingerprint(_) | FramingError::RegistryFraming)) => return Err(error.to_string()),
        Ok(_) => out.passed.push((topic, DeadLetterClass::UnknownRecord)),
        Err(_) => out.passed.push((topic, DeadLetterClass::Poison)),
    }
    Ok(())
}
