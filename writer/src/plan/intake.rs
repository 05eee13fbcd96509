//! From decoded records to what the planner takes: which rows a record would make were it alone.
//!
//! What cannot be stored or must not be believed is refused here, with a class, so that no record can make a flush fail for ever.

use std::sync::Arc;

use memori_schemas::{
    ContentFormat, ConversationEvent, Cover, DeadLetter, DeadLetterClass, EraseEntity, FactsExtracted, ForgetFact, Lane, Role,
    Vector, WithdrawFacts, ids,
};
use uuid::Uuid;

use super::rows::{
    DeadCover, DeadLetterKey, DeadLetterRow, EntityRef, ErasureRow, EventRef, EventRow, ForgetRow, Marks, MentionKey, MentionRow,
    MessageRow, MessageVectorKey, MessageVectorRow, OutcomeKind, OutcomeRow, Surface, WithdrawalRow,
};
use super::{Burial, EventCopy, Extraction};

/// The longest id that a key column takes, in bytes; the door's bounds lie far below.
const MAX_ID_BYTES: usize = 1_024;
/// The longest reason that is stored, in bytes.
const MAX_REASON_BYTES: usize = 4_096;

/// The most components that a vector may have.
const MAX_DIMENSIONS: usize = 16_384;

/// Where a record stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// The lane of its topic; live where it has none.
    pub lane: Lane,
    /// The log's id of its topic.
    pub topic_id: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// Why a record is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// As a class.
    pub class: DeadLetterClass,
    /// In words, without content.
    pub reason: String,
}

fn refuse(reason: impl Into<String>) -> Refusal {
    Refusal { class: DeadLetterClass::InvalidOutput, reason: reason.into() }
}

/// Text columns take no U+0000, and ids are bounded so that they fit an index.
fn check_id(what: &str, id: &str) -> Result<(), Refusal> {
    if id.len() > MAX_ID_BYTES {
        return Err(refuse(format!("{what} has {} bytes, over the bound of {MAX_ID_BYTES}", id.len())));
    }
    check_text(what, id)
}

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.contains('\0') { Err(refuse(format!("{what} contains U+0000"))) } else { Ok(()) }
}

fn check_texts<'a>(texts: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Result<(), Refusal> {
    texts.into_iter().try_for_each(|(what, text)| text.map_or(Ok(()), |text| check_text(what, text)))
}

fn check_vector(what: &str, vector: &Vector) -> Result<(), Refusal> {
    check_id("an embedding's model", &vector.model)?;
    if vector.model.is_empty() || !vector.scale.is_finite() || vector.values.is_empty() {
        return Err(refuse(format!("the vector of {what} has no model, no scale or no values")));
    }
    if vector.values.len() > MAX_DIMENSIONS {
        let dimensions = vector.values.len();
        return Err(refuse(format!("the vector of {what} has {dimensions} dimensions, over the bound of {MAX_DIMENSIONS}")));
    }
    Ok(())
}

/// Whom a record is about, and that it stands where records about them belong.
///
/// # Errors
/// Another key than that of the record's tenant and entity, or an id that cannot be stored.
pub fn owner(tenant: &str, entity_id: &str, key: &[u8]) -> Result<EntityRef, Refusal> {
    check_id("tenant", tenant)?;
    check_id("entity_id", entity_id)?;
    if ids::parse_log_key(key) != Some((tenant, entity_id)) {
        return Err(refuse("the record's key is not that of its tenant and entity"));
    }
    Ok(EntityRef { tenant: tenant.to_owned(), key: ids::entity_key(tenant, entity_id) })
}

fn code(position: Option<usize>) -> i16 {
    position.and_then(|i| i16::try_from(i).ok()).unwrap_or_default()
}

/// What the client gave besides the content, as decision 4 compares it.
#[derive(serde::Serialize)]
struct ClientFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at_us: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    message_ids: Vec<Option<&'a str>>,
    created_at_us: Vec<Option<i64>>,
}

/// A conversation event.
///
/// # Errors
/// Text or ids that cannot be stored.
pub fn event_copy(event: &ConversationEvent, place: &Place) -> Result<EventCopy, Refusal> {
    check_id("event_id", &event.event_id)?;
    check_texts([("process_id", event.process_id.as_deref()), ("session_id", event.session_id.as_deref())])?;
    let event_ref = EventRef { event_id: event.event_id.clone(), content_hash: event.content_hash };
    let client_fields = ClientFields {
        occurred_at_us: event.supplied.occurred_at.then_some(event.occurred_at.0),
        session_id: event.session_id.as_deref(),
        message_ids: event.messages.iter().map(|m| m.message_id.as_deref()).collect(),
        created_at_us: event.messages.iter().map(|m| m.created_at.map(|t| t.0)).collect(),
    };
    let mut messages = Vec::with_capacity(event.messages.len());
    for (index, message) in event.messages.iter().enumerate() {
        check_texts([
            ("name", message.name.as_deref()),
            ("content", Some(&message.content)),
            ("message_id", message.message_id.as_deref()),
        ])?;
        messages.push(MessageRow {
            message_key: event.message_key(index),
            event: event_ref.clone(),
            message_index: i32::try_from(index).map_err(|_| refuse("too many messages"))?,
            message_id: event.shown_message_id(index),
            role: code(Role::ALL.iter().position(|r| *r == message.role)),
            name: message.name.clone(),
            content: message.content.clone(),
            content_format: code(ContentFormat::ALL.iter().position(|f| *f == message.content_format)),
            created_at_us: message.created_at.map(|t| t.0),
            process_id: event.process_id.clone(),
            session_id: event.session_id.clone(),
            occurred_at_us: event.occurred_at.0,
        });
    }
    let row = EventRow {
        event: event_ref,
        erased: false,
        process_id: event.process_id.clone(),
        session_id: event.session_id.clone(),
        occurred_at_us: event.occurred_at.0,
        accepted_at_us: event.accepted_at.0,
        spooled: event.spooled,
        lane: place.lane,
        log_partition: place.partition,
        log_offset: place.offset,
        origin: event.origin,
        attempt: event.attempt,
        marks: Marks::of(place.lane, place.offset, event.origin, event.spooled, event.accepted_at.0),
        client_fields: Some(serde_json::to_string(&client_fields).map_err(|e| refuse(e.to_string()))?),
    };
    Ok(EventCopy { row, messages })
}

fn outcome(cover: &Cover, generation: i32, kind: OutcomeKind, place: &Place, ended_at_us: i64) -> OutcomeRow {
    OutcomeRow {
        event: EventRef { event_id: cover.event_id.clone(), content_hash: cover.content_hash },
        generation,
        kind,
        lane: place.lane,
        log_topic_id: place.topic_id.to_string(),
        log_partition: place.partition,
        log_offset: place.offset,
        event_lane: cover.lane,
        event_offset: cover.offset,
        event_origin: cover.origin,
        event_spooled: cover.spooled,
        event_accepted_at_us: cover.accepted_at.0,
        attempt: cover.attempt,
        withdrawn: false,
        dead_letter_class: None,
        dead_letter_reason: None,
        extractor_name: None,
        extractor_version: None,
        extractor_model: None,
        prompt_hash: None,
        tokens_in: 0,
        tokens_out: 0,
        cost_micros: 0,
        ended_at_us,
    }
}

/// A fact event.
///
/// # Errors
/// A record that covers nothing, a fact without evidence or with evidence outside of what the record covers, a message's vector
/// outside of it, text, numbers or vectors that cannot be stored.
pub fn extraction(owner: &EntityRef, record: &FactsExtracted, place: &Place) -> Result<Extraction, Refusal> {
    if record.covers.is_empty() {
        return Err(refuse("the record covers no event"));
    }
    let extractor = &record.extractor;
    check_texts([
        ("process_id", record.process_id.as_deref()),
        ("session_id", record.session_id.as_deref()),
        ("extractor", Some(&extractor.name)),
        ("extractor version", Some(&extractor.version)),
        ("model", extractor.model.as_deref()),
        ("prompt_hash", extractor.prompt_hash.as_deref()),
    ])?;
    let mut outcomes = Vec::with_capacity(record.covers.len());
    for cover in &record.covers {
        check_id("event_id", &cover.event_id)?;
        outcomes.push(OutcomeRow {
            extractor_name: Some(extractor.name.clone()),
            extractor_version: Some(extractor.version.clone()),
            extractor_model: extractor.model.clone(),
            prompt_hash: extractor.prompt_hash.clone(),
            tokens_in: extractor.tokens_in,
            tokens_out: extractor.tokens_out,
            cost_micros: extractor.cost_micros,
            ..outcome(cover, record.generation, OutcomeKind::Applied, place, record.extracted_at.0)
        });
    }
    let mut mentions = Vec::new();
    for (number, fact) in record.facts.iter().enumerate() {
        if fact.evidence.is_empty() {
            return Err(refuse(format!("fact {number} has no evidence")));
        }
        if !fact.confidence.is_finite() {
            return Err(refuse(format!("the confidence of fact {number} is not a number")));
        }
        check_texts([
            ("text", Some(fact.text.as_str())),
            ("subject", fact.subject.as_deref()),
            ("predicate", fact.predicate.as_deref()),
            ("object", fact.object.as_deref()),
            ("slot", fact.slot.as_deref()),
        ])?;
        if let Some(slot) = &fact.slot {
            check_id("slot", slot)?;
        }
        if let Some(vector) = &fact.vector {
            check_vector(&format!("fact {number}"), vector)?;
        }
        let fact_id = fact.id(&owner.key, record.generation);
        for evidence in &fact.evidence {
            let event = EventRef { event_id: evidence.event_id.clone(), content_hash: evidence.content_hash };
            if !outcomes.iter().any(|o| o.event == event) {
                return Err(refuse(format!("fact {number} names evidence in an event that the record does not cover")));
            }
            check_text("message_id", &evidence.message_id)?;
            mentions.push(MentionRow {
                key: MentionKey { generation: record.generation, fact_id, message_key: evidence.message_key, event },
                message_index: evidence.message_index,
                message_id: evidence.message_id.clone(),
                session_id: record.session_id.clone(),
                occurred_at_us: evidence.occurred_at.0,
                lane: place.lane,
                log_partition: place.partition,
                log_offset: place.offset,
                text_hash: fact.text_hash(),
                triple_hash: fact.triple_hash(),
                surface: Surface {
                    kind: fact.kind,
                    text: fact.text.clone(),
                    subject: fact.subject.clone(),
                    predicate: fact.predicate.clone(),
                    object: fact.object.clone(),
                    slot: fact.slot.clone(),
                    confidence: fact.confidence,
                    valid_from_us: fact.valid_from.map(|t| t.0),
                    valid_to_us: fact.valid_to.map(|t| t.0),
                    extractor: format!("{}/{}", extractor.name, extractor.version),
                    process_id: record.process_id.clone(),
                },
                vector: fact.vector.clone(),
            });
        }
    }
    let message_vectors = message_vectors(record, &outcomes)?;
    Ok(Extraction { outcomes, mentions, message_vectors })
}

fn message_vectors(record: &FactsExtracted, outcomes: &[OutcomeRow]) -> Result<Vec<MessageVectorRow>, Refusal> {
    let row = |(number, given): (usize, &memori_schemas::MessageVector)| {
        let event = EventRef { event_id: given.event_id.clone(), content_hash: given.content_hash };
        if !outcomes.iter().any(|o| o.event == event) {
            return Err(refuse(format!("message vector {number} names an event that the record does not cover")));
        }
        check_vector(&format!("message vector {number}"), &given.vector)?;
        Ok(MessageVectorRow {
            key: MessageVectorKey { generation: record.generation, message_key: given.message_key, event },
            message_index: given.message_index,
            vector: given.vector.clone(),
        })
    };
    record.message_vectors.iter().enumerate().map(row).collect()
}

/// A dead letter. Its words are made storable rather than refused: nothing comes after it.
#[must_use]
pub fn burial(letter: &DeadLetter, place: &Place) -> Burial {
    let reason = bounded(&letter.reason.replace('\0', "\u{fffd}"), MAX_REASON_BYTES);
    let covers: Vec<&Cover> = letter.covers.iter().filter(|c| check_id("event_id", &c.event_id).is_ok()).collect();
    let outcomes = covers.iter().map(|cover| OutcomeRow {
        dead_letter_class: Some(letter.class.as_str().to_owned()),
        dead_letter_reason: Some(reason.clone()),
        ..outcome(cover, letter.generation, OutcomeKind::Dead, place, letter.failed_at.0)
    });
    let dead_covers = covers.iter().map(|cover| {
        let event = EventRef { event_id: cover.event_id.clone(), content_hash: cover.content_hash };
        DeadCover::new(&event, &Marks::of_cover(cover))
    });
    Burial {
        row: DeadLetterRow {
            key: DeadLetterKey {
                source_topic_id: bounded(&letter.source_topic_id.replace('\0', "\u{fffd}"), MAX_ID_BYTES),
                source_partition: letter.source_partition,
                source_offset: letter.source_offset,
                generation: letter.generation,
            },
            source_topic: bounded(&letter.source_topic.replace('\0', "\u{fffd}"), MAX_ID_BYTES),
            lane: letter.lane,
            class: letter.class.as_str().to_owned(),
            attempts: letter.attempts,
            covers: dead_covers.collect(),
            erased: false,
            original_key: Some(letter.original_key.clone()),
            original_payload: Some(letter.original_payload.clone()),
            failed_at_us: letter.failed_at.0,
            reason: reason.clone(),
        },
        outcomes: outcomes.collect(),
    }
}

/// The first `bytes` of a text, cut at a character.
fn bounded(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// An erasure, applied at `now_us`.
///
/// # Errors
/// An id that cannot be stored.
pub fn erasure(record: &EraseEntity, now_us: i64) -> Result<ErasureRow, Refusal> {
    check_id("erasure_id", &record.erasure_id)?;
    Ok(ErasureRow {
        erasure_id: record.erasure_id.clone(),
        requested_at_us: record.requested_at.0,
        live_end_offset: record.live_end_offset,
        backfill_end_offset: record.backfill_end_offset,
        applied_at_us: now_us,
    })
}

/// A forget, applied at `now_us`.
///
/// # Errors
/// An id that cannot be stored.
pub fn forget(record: &ForgetFact, now_us: i64) -> Result<ForgetRow, Refusal> {
    check_id("forget_id", &record.forget_id)?;
    Ok(ForgetRow {
        forget_id: record.forget_id.clone(),
        fact_id: record.fact_id.parse::<Uuid>().map_err(|_| refuse("fact_id is not a UUID"))?,
        text_hash: record.text_hash,
        triple_hash: record.triple_hash,
        message_keys: record.message_keys.iter().copied().collect(),
        requested_at_us: record.requested_at.0,
        applied_at_us: now_us,
    })
}

/// A withdrawal, applied at `now_us`.
///
/// # Errors
/// An id that cannot be stored.
pub fn withdrawal(record: &WithdrawFacts, now_us: i64) -> Result<WithdrawalRow, Refusal> {
    check_id("withdrawal_id", &record.withdrawal_id)?;
    check_texts([
        ("extractor", record.extractor.as_deref()),
        ("version", record.version.as_deref()),
        ("model", record.model.as_deref()),
        ("prompt_hash", record.prompt_hash.as_deref()),
    ])?;
    Ok(WithdrawalRow {
        withdrawal_id: record.withdrawal_id.clone(),
        extractor_name: record.extractor.clone(),
        extractor_version: record.version.clone(),
        extractor_model: record.model.clone(),
        prompt_hash: record.prompt_hash.clone(),
        generation: record.generation.map(i64::from),
        live_end_offset: record.live_end_offset,
        backfill_end_offset: record.backfill_end_offset,
        requested_at_us: record.requested_at.0,
        applied_at_us: now_us,
    })
}
