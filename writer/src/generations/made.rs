//! What came of events in a generation, as the records that carry it over to another.

use std::collections::{BTreeMap, HashMap, HashSet};

use memori_schemas::{
    ContentHash, Cover, Evidence, ExtractorInfo, Fact, FactsExtracted, Lane, MessageKey, MessageVector, Micros, Vector,
};

use super::Made;
use crate::plan::Surface;
use crate::reads::ReadError;
use crate::reads::db::Row;

/// All of a tenant's entity ($1, $2), a generation ($3) and ids of events ($4).
pub(super) const STATEMENTS: [&str; 4] = [
    "SELECT event_id, content_hash, process_id, session_id, erased FROM @events \
     WHERE tenant = $1 AND entity_key = $2 AND CAST($3 AS bigint) > 0 AND event_id {any $4}",
    "SELECT event_id, content_hash, kind, extractor_name, extractor_version, extractor_model, prompt_hash, ended_at_us \
     FROM @outcomes WHERE tenant = $1 AND entity_key = $2 AND generation = CAST($3 AS integer) AND event_id {any $4}",
    "SELECT event_id, content_hash, fact_id, surface, message_key, message_index, message_id, occurred_at_us, \
     vector_model, vector_scale, vector FROM @mentions \
     WHERE tenant = $1 AND entity_key = $2 AND generation = CAST($3 AS integer) AND event_id {any $4} \
     ORDER BY fact_id, message_index, message_key",
    "SELECT event_id, content_hash, message_key, message_index, vector_model, vector_scale, vector FROM @message_vectors \
     WHERE tenant = $1 AND entity_key = $2 AND generation = CAST($3 AS integer) AND event_id {any $4} \
     ORDER BY message_index, message_key",
];

type Event = (String, ContentHash);

fn event(row: &mut Row) -> Result<Event, ReadError> {
    Ok((row.text()?, row.hash(ContentHash::from_slice)?))
}

fn index(row: &mut Row) -> Result<i32, ReadError> {
    i32::try_from(row.int()?).map_err(|_| ReadError::Corrupt("a message's place is out of range"))
}

#[expect(clippy::cast_possible_truncation, reason = "it was stored from an f32")]
fn vector(row: &mut Row) -> Result<Option<Vector>, ReadError> {
    let (model, scale, values) = (row.opt_text()?, row.opt_real()?, row.opt_bytes()?);
    Ok(model.zip(scale).zip(values).map(|((model, scale), values)| Vector { model, scale: scale as f32, values }))
}

/// Reads what [`STATEMENTS`] answered, for each of `events` in their order.
pub(super) fn made_of(
    (tenant, entity_id, generation): (&str, &str, i32),
    events: &[Event],
    results: Vec<Vec<Row>>,
) -> Result<Vec<Made>, ReadError> {
    let [stored, outcomes, mentions, message_vectors]: [Vec<Row>; 4] =
        results.try_into().map_err(|_| ReadError::Corrupt("a statement without a result"))?;
    let mut erased = HashSet::new();
    let mut of_session = HashMap::new();
    for mut row in stored {
        let event = event(&mut row)?;
        let session = (row.opt_text()?, row.opt_text()?);
        if row.int()? != 0 {
            erased.insert(event.clone());
        }
        of_session.insert(event, session);
    }
    let mut made: HashMap<Event, Made> = HashMap::new();
    for mut row in outcomes {
        let event = event(&mut row)?;
        let kind = row.int()?;
        let extractor = ExtractorInfo {
            name: row.opt_text()?.unwrap_or_default(),
            version: row.opt_text()?.unwrap_or_default(),
            model: row.opt_text()?,
            prompt_hash: row.opt_text()?,
            tokens_in: 0,
            tokens_out: 0,
            cost_micros: 0,
        };
        let extracted_at = Micros(row.int()?);
        let (process_id, session_id) = of_session.get(&event).cloned().unwrap_or_default();
        let record = FactsExtracted {
            tenant: tenant.to_owned(),
            entity_id: entity_id.to_owned(),
            process_id,
            session_id,
            generation,
            covers: vec![cover(&event)],
            facts: Vec::new(),
            message_vectors: Vec::new(),
            extractor,
            extracted_at,
            key_id: None,
        };
        made.insert(event, if kind == 2 { Made::Dead } else { Made::Facts(Box::new(record)) });
    }
    let mut facts: BTreeMap<(Event, Vec<u8>, String), Fact> = BTreeMap::new();
    for mut row in mentions {
        let event = event(&mut row)?;
        let fact_id = row.bytes()?.to_vec();
        let text = row.text()?;
        let surface: Surface =
            serde_json::from_str(&text).map_err(|_| ReadError::Corrupt("a mention's surface is not what it should be"))?;
        let message_key = row.hash(MessageKey::from_slice)?;
        let evidence = Evidence {
            event_id: event.0.clone(),
            content_hash: event.1,
            message_key,
            message_index: index(&mut row)?,
            message_id: row.text()?,
            occurred_at: Micros(row.int()?),
        };
        let vector = vector(&mut row)?;
        let fact = facts.entry((event, fact_id, text)).or_insert_with(|| Fact {
            kind: surface.kind,
            text: surface.text,
            subject: surface.subject,
            predicate: surface.predicate,
            object: surface.object,
            slot: surface.slot,
            valid_from: surface.valid_from_us.map(Micros),
            valid_to: surface.valid_to_us.map(Micros),
            confidence: surface.confidence,
            evidence: Vec::new(),
            vector,
        });
        fact.evidence.push(evidence);
    }
    for ((event, ..), fact) in facts {
        if let Some(Made::Facts(record)) = made.get_mut(&event) {
            record.facts.push(fact);
        }
    }
    for mut row in message_vectors {
        let event = event(&mut row)?;
        let (message_key, message_index) = (row.hash(MessageKey::from_slice)?, index(&mut row)?);
        let Some(vector) = vector(&mut row)? else { continue };
        if let Some(Made::Facts(record)) = made.get_mut(&event) {
            let (event_id, content_hash) = event;
            record.message_vectors.push(MessageVector { event_id, content_hash, message_key, message_index, vector });
        }
    }
    let nothing = |event: &Event| {
        let extractor = ExtractorInfo {
            name: "erased".to_owned(),
            version: String::new(),
            model: None,
            prompt_hash: None,
            tokens_in: 0,
            tokens_out: 0,
            cost_micros: 0,
        };
        Made::Facts(Box::new(FactsExtracted {
            tenant: tenant.to_owned(),
            entity_id: entity_id.to_owned(),
            process_id: None,
            session_id: None,
            generation,
            covers: vec![cover(event)],
            facts: Vec::new(),
            message_vectors: Vec::new(),
            extractor,
            extracted_at: Micros(0),
            key_id: None,
        }))
    };
    let of = |event: &Event| match made.remove(event) {
        _ if erased.contains(event) => nothing(event),
        Some(made) => made,
        None => Made::Pending,
    };
    Ok(events.iter().map(of).collect())
}

/// Names the event; where its record stands, whoever carries it over knows.
fn cover((event_id, content_hash): &Event) -> Cover {
    Cover {
        event_id: event_id.clone(),
        content_hash: *content_hash,
        lane: Lane::Live,
        offset: 0,
        origin: None,
        spooled: false,
        accepted_at: Micros(0),
        occurred_at: Micros(0),
        attempt: 0,
    }
}
