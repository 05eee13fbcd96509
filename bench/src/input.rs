//! Flushes of a realistic shape: events of two messages, each with two facts, spread over entities.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use memori_schemas::{
    ContentFormat, ConversationEvent, Cover, Evidence, ExtractorInfo, Fact, FactKind, FactsExtracted, Lane, Message,
    MessageVector, Micros, Role, Supplied, Vector, ids,
};
use memori_writer::plan::intake::{self, Place};
use memori_writer::plan::{EntityBatch, EntityRef};
use memori_writer::store::{FlushInput, OffsetKey, OffsetMove};

const CITIES: [&str; 8] = ["Lisbon", "Oslo", "Lima", "Kyoto", "Nairobi", "Quebec", "Tallinn", "Hanoi"];
const TOPICS: [&str; 6] = ["jasmine tea", "asynchronous Python", "trail running", "baroque music", "chess openings", "sourdough"];

/// The model that the vectors claim to be of.
pub(crate) const MODEL: &str = "bench@1";
/// Components of a vector: those of the built-in model.
pub(crate) const DIMENSIONS: usize = 512;

/// A direction that is a function of the text and as dear to keep and compare as a real one.
pub(crate) fn vector(text: &str) -> Vector {
    let mut values = vec![0; DIMENSIONS];
    blake3::Hasher::new().update(text.as_bytes()).finalize_xof().fill(&mut values);
    // Uniform int8 have a mean square of 127² / 3.
    Vector { model: MODEL.to_owned(), scale: 3.0_f32.sqrt() / (127.0 * 512.0_f32.sqrt()), values }
}

/// A user's event and what is learned from it.
pub(crate) fn event(tenant: &str, entity: &str, n: usize, facts: usize) -> (ConversationEvent, FactsExtracted) {
    let at = Micros(1_770_000_000_000_000 + i64::try_from(n).unwrap_or(0) * 60_000_000);
    let texts: Vec<String> = (0..facts)
        .map(|k| {
            let (city, topic) = (CITIES[(n + k) % CITIES.len()], TOPICS[(n * 7 + k) % TOPICS.len()]);
            format!("The user went to {city} for {topic} on trip {n}-{k} and would like to go again next spring")
        })
        .collect();
    let message = |role, content: String| Message {
        message_id: None,
        role,
        name: None,
        content,
        content_format: ContentFormat::Text,
        created_at: None,
    };
    let messages = vec![
        message(Role::User, texts.join(". ")),
        message(Role::Assistant, "Noted, that sounds like a good plan for the spring.".to_owned()),
    ];
    let event = ConversationEvent {
        tenant: tenant.to_owned(),
        entity_id: entity.to_owned(),
        process_id: Some("bench".to_owned()),
        session_id: Some(format!("s{}", n / 10)),
        event_id: format!("{entity}-{n}"),
        content_hash: ids::content_hash(entity, Some("bench"), &messages, &[]),
        occurred_at: at,
        accepted_at: at,
        messages,
        metadata: Vec::new(),
        supplied: Supplied { event_id: true, occurred_at: true },
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    };
    let offset = i64::try_from(n).unwrap_or(0);
    let facts = texts
        .into_iter()
        .map(|text| Fact {
            kind: FactKind::Fact,
            object: Some(text.split(" for ").nth(1).unwrap_or_default().to_owned()),
            vector: Some(vector(&text)),
            text,
            subject: Some("user".to_owned()),
            predicate: Some("went to".to_owned()),
            slot: None,
            valid_from: None,
            valid_to: None,
            confidence: 0.9,
            evidence: vec![Evidence {
                event_id: event.event_id.clone(),
                content_hash: event.content_hash,
                message_key: event.message_key(0),
                message_index: 0,
                message_id: event.shown_message_id(0),
                occurred_at: at,
            }],
        })
        .collect();
    let extracted = FactsExtracted {
        tenant: tenant.to_owned(),
        entity_id: entity.to_owned(),
        process_id: event.process_id.clone(),
        session_id: event.session_id.clone(),
        generation: 1,
        covers: vec![Cover {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            lane: Lane::Live,
            offset,
            origin: None,
            spooled: false,
            accepted_at: at,
            occurred_at: at,
            attempt: 0,
        }],
        facts,
        message_vectors: vec![MessageVector {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(0),
            message_index: 0,
            vector: vector(&event.messages[0].content),
        }],
        extractor: ExtractorInfo {
            name: "builtin".to_owned(),
            version: "1".to_owned(),
            model: None,
            prompt_hash: None,
            tokens_in: 0,
            tokens_out: 0,
            cost_micros: 0,
        },
        extracted_at: at,
        key_id: None,
    };
    (event, extracted)
}

/// One flush of the events of these numbers (and as many fact events) about `entities` entities of a tenant of its own. A number that
/// was flushed before is a redelivery under new offsets.
pub(crate) fn flush(tenant: &str, entities: usize, numbers: Range<usize>, facts: usize, from: i64) -> FlushInput {
    let place = |topic: &str, offset| Place { lane: Lane::Live, topic_id: Arc::from(topic), partition: 0, offset };
    let mut batches: BTreeMap<EntityRef, EntityBatch> = BTreeMap::new();
    let events = numbers.len();
    for (position, n) in numbers.enumerate() {
        let entity_id = format!("user-{}", n % entities);
        let (event, extracted) = event(tenant, &entity_id, n, facts);
        let owner = EntityRef { tenant: tenant.to_owned(), key: event.entity_key() };
        let offset = from + i64::try_from(position).unwrap_or(0);
        let batch = batches.entry(owner.clone()).or_default();
        batch.copies.push(intake::event_copy(&event, &place("conversations", offset)).expect("a storable event"));
        batch.extractions.push(intake::extraction(&owner, &extracted, &place("facts", offset)).expect("a storable extraction"));
        batch.entity_id = entity_id;
    }
    let next = from + i64::try_from(events).unwrap_or(0);
    let moves = ["conversations", "facts"].map(|topic| OffsetMove {
        key: OffsetKey { cluster_id: Arc::from("bench"), topic_id: Arc::from(topic), partition: 0 },
        from,
        next,
    });
    FlushInput { moves: moves.to_vec(), entities: batches.into(), unowned: Vec::new(), unsure: false }
}
