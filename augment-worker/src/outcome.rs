//! The records that the worker writes: fact events and dead letters, with their headers.

use bytes::Bytes;
use memori_event_log::seam::LATE;
use memori_event_log::{Header, LogIdentity, LogRecord, NewRecord, Topic};
use memori_schemas::framing::{self, FramingError, MAX_PAYLOAD_BYTES};
use memori_schemas::{
    ContentHash, ConversationEvent, CoverToWrite, DeadLetter, DeadLetterClass, Fact, FactsToWrite, Lane, LogRecordBody,
    MessageVector, Micros, ids,
};
use memori_service::trace_context::TRACEPARENT;

use crate::extractor::Extraction;
use crate::publish::Yield;
use crate::window::Turn;

/// Room in a dead letter beside the original payload, in bytes.
const ENVELOPE_BYTES: usize = 256 * 1024;
/// The longest key that a dead letter repeats, in bytes.
const MAX_KEY_BYTES: usize = 128 * 1024;
/// The longest reason, in bytes.
const MAX_REASON_BYTES: usize = 2_000;
/// What is extracted so long after its event was accepted, in microseconds, is late.
const LATE_US: i64 = 1_000_000;

/// Where a record was read, and for which generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) record: &'a LogRecord,
    pub(crate) generation: i32,
    /// By which lane what came of it goes; absent: by its own.
    pub(crate) facts_lane: Option<Lane>,
    /// The trace to continue.
    pub(crate) traceparent: Option<&'a str>,
}

impl Source<'_> {
    /// Only conversation topics are read, and each has a lane.
    pub(crate) fn lane(&self) -> Lane {
        self.record.source.topic.lane().unwrap_or(Lane::Live)
    }

    fn cover<'e>(&self, event: &'e ConversationEvent) -> CoverToWrite<'e> {
        CoverToWrite {
            event_id: &event.event_id,
            content_hash: event.content_hash,
            lane: self.lane(),
            offset: self.record.offset,
            origin: event.origin,
            spooled: event.spooled,
            accepted_at: event.accepted_at,
            occurred_at: event.occurred_at,
            attempt: event.attempt,
        }
    }

    fn headers(&self, tenant: Option<&str>, schema: &'static str) -> Vec<Header> {
        let header = |name: &'static str, value: Bytes| Header { name: name.into(), value };
        let copied = |value: &str| Bytes::copy_from_slice(value.as_bytes());
        // The same bytes as in the key of the record that was read, which is held as long.
        let of_key = |tenant: &str| {
            let at = ids::parse_log_key(&self.record.key).filter(|(own, _)| *own == tenant)?.0.as_bytes();
            Some(self.record.key.slice_ref(at))
        };
        let mut headers = Vec::with_capacity(6);
        headers.extend(tenant.map(|tenant| header("tenant", of_key(tenant).unwrap_or_else(|| copied(tenant)))));
        headers.push(header("lane", Bytes::from_static(self.lane().as_str().as_bytes())));
        headers.push(header("generation", generation(self.generation)));
        headers.push(header("schema", Bytes::from_static(schema.as_bytes())));
        headers.extend(self.traceparent.map(|parent| header(TRACEPARENT, copied(parent))));
        headers
    }
}

/// A generation's number in words; of the first, which nearly all are of, without an allocation.
fn generation(number: i32) -> Bytes {
    if number == 1 { Bytes::from_static(b"1") } else { number.to_string().into() }
}

/// The fact event of a window's events; `source` is of the first.
///
/// # Errors
/// [`FramingError::TooLarge`] where it does not fit a record.
pub(crate) fn facts(
    source: Source<'_>,
    turns: &[Turn<'_>],
    yielded: &Yield,
    extracted_at: Micros,
) -> Result<NewRecord, FramingError> {
    let Yield { extraction, vectors } = yielded;
    let of = turns.first().map(|turn| &**turn.event);
    let (payload, schema) = framing::encode_facts(&FactsToWrite {
        tenant: of.map_or("", |event| &event.tenant),
        entity_id: of.map_or("", |event| &event.entity_id),
        process_id: of.and_then(|event| event.process_id.as_deref()),
        session_id: of.and_then(|event| event.session_id.as_deref()),
        generation: source.generation,
        covers: turns.iter().map(|turn| Source { record: turn.record, ..source }.cover(turn.event)).collect(),
        facts: &extraction.facts,
        message_vectors: vectors,
        extractor: &extraction.extractor,
        extracted_at,
        key_id: None,
    })?;
    let mut headers = source.headers(of.map(|event| event.tenant.as_str()), schema);
    let accepted_at_us = turns.iter().map(|turn| turn.event.accepted_at.0).max();
    if accepted_at_us.is_some_and(|accepted_at_us| extracted_at.0.saturating_sub(accepted_at_us) > LATE_US) {
        headers.push(Header { name: LATE.into(), value: Bytes::from_static(b"1") });
    }
    Ok(NewRecord {
        topic: Topic::facts(source.facts_lane.unwrap_or(source.lane())),
        key: source.record.key.clone(),
        payload: payload.into(),
        headers,
    })
}

/// What is of one event in a window's extraction: its evidence and the facts that rest on it, and its messages' vectors.
pub(crate) fn part_of(
    event: &ConversationEvent,
    extraction: &Extraction,
    vectors: &[MessageVector],
) -> (Extraction, Vec<MessageVector>) {
    let is_its = |event_id: &str, content_hash: &ContentHash| event_id == event.event_id && *content_hash == event.content_hash;
    let of_fact = |fact: &Fact| {
        let mut fact = fact.clone();
        fact.evidence.retain(|evidence| is_its(&evidence.event_id, &evidence.content_hash));
        (!fact.evidence.is_empty()).then_some(fact)
    };
    let facts = extraction.facts.iter().filter_map(of_fact).collect();
    let vectors = vectors.iter().filter(|vector| is_its(&vector.event_id, &vector.content_hash)).cloned().collect();
    (Extraction { facts, extractor: extraction.extractor.clone() }, vectors)
}

/// Why a record is given up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GivenUp<'a> {
    pub(crate) class: DeadLetterClass,
    pub(crate) reason: String,
    pub(crate) attempts: u32,
    pub(crate) event: Option<&'a ConversationEvent>,
}

/// The dead letter of a record. What is longer than a record can carry is cut, and the reason says so.
///
/// # Errors
/// Where type and schema disagree: a broken invariant.
pub(crate) fn dead_letter(
    source: Source<'_>,
    identity: &LogIdentity,
    given_up: GivenUp<'_>,
    failed_at: Micros,
) -> Result<NewRecord, FramingError> {
    let record = source.record;
    let by_key = ids::parse_log_key(&record.key);
    let owner = given_up.event.map(|event| (event.tenant.as_str(), event.entity_id.as_str())).or(by_key);
    let payload_bytes = record.payload.len().min(MAX_PAYLOAD_BYTES - ENVELOPE_BYTES);
    let key_bytes = record.key.len().min(MAX_KEY_BYTES);
    let mut reason = given_up.reason;
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    if payload_bytes < record.payload.len() || key_bytes < record.key.len() {
        reason.push_str(&format!("; of {} bytes only the first are kept here", record.bytes()));
    }
    let body = LogRecordBody::DeadLetter(DeadLetter {
        tenant: owner.map(|(tenant, _)| tenant.to_owned()),
        entity_id: owner.map(|(_, entity)| entity.to_owned()),
        source_topic: record.source.topic.as_str().to_owned(),
        source_topic_id: identity.topic_ids.get(&record.source.topic).cloned().unwrap_or_default(),
        source_partition: record.source.partition,
        source_offset: record.offset,
        lane: source.lane(),
        generation: source.generation,
        class: given_up.class,
        reason,
        attempts: i32::try_from(given_up.attempts).unwrap_or(i32::MAX),
        covers: given_up.event.map(|event| source.cover(event).into()).into_iter().collect(),
        original_key: record.key[..key_bytes].to_vec(),
        original_payload: record.payload[..payload_bytes].to_vec(),
        failed_at,
        key_id: None,
    });
    let payload = framing::encode(&body)?;
    Ok(NewRecord {
        topic: Topic::DeadLetters,
        key: record.key.clone(),
        payload: payload.into(),
        headers: source.headers(
            owner.map(|(tenant, _)| tenant).filter(|tenant| tenant.len() <= MAX_REASON_BYTES),
            framing::fingerprint_hex(&body),
        ),
    })
}
