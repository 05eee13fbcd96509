//! Rows of the tables as chunks.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use memori_schemas::{ContentHash, FactId, MessageKey};

use super::layout::{self, Arena, ArenaWriter, Column, NONE, Put};
use super::tables::{NAME_BYTES, Names, NamesWriter, SessionRef, place};
use super::{
    Analysed, CHUNK_ITEMS, FactInput, Interval, MessageInput, PackError, SourceInput, UNNAMED, VectorInput, encode_messages,
};
use crate::reads::rows::{FactRow, FactRows, MentionRow, MessageRow, MessageRows, UnnamedRow, VectorRow};
use crate::recall::analyse;
use crate::recall::islands::Unnamed;

/// All messages of complete rows as chunks, in conversation order; the rows' vectors are those of `model`.
#[must_use]
pub fn pack_messages(rows: &MessageRows, model: Option<&str>) -> Vec<Bytes> {
    message_inputs(rows, model, |_| None).chunks(CHUNK_ITEMS).map(|inputs| encode_messages(inputs).into()).collect()
}

fn half(hash: &ContentHash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.0[..16]);
    half
}

fn session<'a>(named: Option<&'a String>, event_id: &'a str, hash: &ContentHash) -> SessionRef<'a> {
    named.map_or_else(|| SessionRef::Unnamed(event_id, half(hash)), |session| SessionRef::Named(session))
}

fn vectors<'a>(row: Option<&'a VectorRow>, model: Option<&'a str>) -> Vec<VectorInput<'a>> {
    let with_model = model.zip(row);
    with_model.map(|(model, row)| VectorInput { model, scale: row.scale, values: &row.values }).into_iter().collect()
}

/// What rows say of facts, in the order of what words them; `known` may have taken a fact apart before.
pub(in crate::recall) fn fact_inputs<'a>(
    rows: &'a FactRows,
    model: Option<&'a str>,
    known: impl Fn(&FactRow) -> Option<Analysed>,
) -> Vec<FactInput<'a>> {
    let mut mentions: HashMap<FactId, Vec<&MentionRow>> = HashMap::with_capacity(rows.facts.len());
    for mention in &rows.mentions {
        mentions.entry(mention.fact_id).or_default().push(mention);
    }
    let mut intervals: HashMap<FactId, Vec<Interval>> = HashMap::with_capacity(rows.facts.len());
    for row in &rows.validity {
        intervals.entry(row.fact_id).or_default().push(Interval { from_us: row.valid_from_us, to_us: row.valid_to_us });
    }
    let mut facts: Vec<FactInput<'_>> = rows
        .facts
        .iter()
        .map(|row| {
            let mut own = mentions.remove(&row.fact_id).unwrap_or_default();
            own.sort_unstable_by(|a, b| order_of_mentions(a).cmp(&order_of_mentions(b)));
            let mut seen = HashSet::new();
            own.retain(|mention| seen.insert(mention.message_key));
            let mut holds = intervals.remove(&row.fact_id).unwrap_or_default();
            holds.sort_unstable_by_key(|interval| interval.from_us);
            if holds.is_empty() {
                holds.push(Interval { from_us: row.first_mentioned_at_us, to_us: None });
            }
            FactInput {
                fact_id: row.fact_id,
                kind: row.kind,
                content: &row.body,
                subject: row.subject.as_deref(),
                predicate: row.predicate.as_deref(),
                object: row.object.as_deref(),
                confidence: row.confidence,
                process_id: row.process_id.as_deref(),
                extractor: &row.extractor,
                occurred_at_us: row.rep_occurred_at_us,
                rep_event_id: &row.rep_event_id,
                rep_message_index: row.rep_message_index,
                mentions: row.mentions,
                first_mentioned_at_us: row.first_mentioned_at_us,
                last_mentioned_at_us: row.last_mentioned_at_us,
                intervals: holds,
                sources: own.into_iter().map(SourceInput::of).collect(),
                analysed: known(row).unwrap_or_else(|| analyse::text(&row.body, row.rep_occurred_at_us)),
                vectors: vectors(row.vector.as_ref(), model),
            }
        })
        .collect();
    facts.sort_unstable_by(|a, b| order_of_facts(a).cmp(&order_of_facts(b)));
    facts
}

impl<'a> SourceInput<'a> {
    fn of(mention: &'a MentionRow) -> Self {
        Self {
            message_key: mention.message_key,
            message_id: &mention.message_id,
            event_id: &mention.event_id,
            session: session(mention.session_id.as_ref(), &mention.event_id, &mention.content_hash),
            process_id: mention.process_id.as_deref(),
            occurred_at_us: mention.occurred_at_us,
        }
    }
}

fn order_of_mentions(mention: &MentionRow) -> (i64, &str, i64, &ContentHash) {
    (mention.occurred_at_us, &mention.event_id, mention.message_index, &mention.content_hash)
}

/// Where a fact stands among the facts of its entity.
pub(in crate::recall) fn order_of_facts<'a>(fact: &FactInput<'a>) -> (i64, &'a str, i64, FactId) {
    (fact.occurred_at_us, fact.rep_event_id, fact.rep_message_index, fact.fact_id)
}

/// What rows say of messages, each once, in conversation order; `known` may have taken a message apart before.
pub(in crate::recall) fn message_inputs<'a>(
    rows: &'a MessageRows,
    model: Option<&'a str>,
    known: impl Fn(&MessageRow) -> Option<Analysed>,
) -> Vec<MessageInput<'a>> {
    let mut order: Vec<&MessageRow> = rows.messages.iter().collect();
    let key = |m: &MessageRow| (m.occurred_at_us, m.message_index);
    order.sort_unstable_by(|a, b| {
        (key(a).0, &a.event_id, key(a).1, &a.content_hash).cmp(&(key(b).0, &b.event_id, key(b).1, &b.content_hash))
    });
    // The same words have the same vector, whichever event brought it.
    let mut with_vector: HashMap<MessageKey, &VectorRow> = HashMap::new();
    for message in &order {
        if let Some(vector) = &message.vector {
            with_vector.entry(message.message_key).or_insert(vector);
        }
    }
    let mut seen = HashSet::with_capacity(order.len());
    order.retain(|message| seen.insert(message.message_key));
    order
        .into_iter()
        .map(|row| MessageInput {
            message_key: row.message_key,
            message_id: &row.message_id,
            event_id: &row.event_id,
            content_hash: half(&row.content_hash),
            message_index: row.message_index,
            session: session(row.session_id.as_ref(), &row.event_id, &row.content_hash),
            process_id: row.process_id.as_deref(),
            role: row.role,
            name: row.name.as_deref(),
            content: &row.content,
            content_format: row.content_format,
            created_at_us: row.created_at_us,
            occurred_at_us: row.occurred_at_us,
            analysed: known(row)
                .unwrap_or_else(|| analyse::text(&analyse::spoken(&row.content, row.content_format), row.occurred_at_us)),
            vectors: vectors(with_vector.get(&row.message_key).copied(), model),
        })
        .collect()
}

/// Where a message stands in the conversation.
pub(in crate::recall) fn order_of_messages<'a>(message: &MessageInput<'a>) -> (i64, &'a str, i64, [u8; 16]) {
    (message.occurred_at_us, message.event_id, message.message_index, message.content_hash)
}

const UNNAMED_BYTES: usize = 52;

/// Events whose client named no session, as one chunk.
///
/// # Panics
/// They are over 4 GiB.
#[must_use]
pub fn pack_unnamed(rows: &[UnnamedRow]) -> Vec<u8> {
    let mut arena = ArenaWriter::default();
    let mut processes = NamesWriter::default();
    let mut records = Vec::with_capacity(rows.len() * UNNAMED_BYTES);
    for row in rows {
        records.put_span(arena.span(&row.event.event_id));
        records.put_u32(row.event.process_id.as_deref().map_or(NONE, |process| processes.number(process, &mut arena)));
        records.put_i64(row.event.occurred_at_us);
        records.extend_from_slice(&row.content_hash.0);
    }
    layout::close(UNNAMED, 0, rows.len(), &[arena.bytes, records, processes.rows, processes.words])
}

/// What [`pack_unnamed`] packed.
///
/// # Errors
/// It is not what this version writes.
pub fn unpack_unnamed(bytes: impl Into<Bytes>) -> Result<Vec<UnnamedRow>, PackError> {
    let (count, [arena, records, names, words]) = layout::open::<4>(&bytes.into(), UNNAMED, 0)?;
    let (arena, records) = (Arena::open(arena)?, Column(records));
    if names.len() % NAME_BYTES != 0 {
        return Err(PackError::Malformed("its processes"));
    }
    let processes = Names::open(names, words, &arena)?;
    records.expect_rows(UNNAMED_BYTES, count)?;
    (0..count)
        .map(|item| {
            let at = item * UNNAMED_BYTES;
            let event = (records.u32(at), records.u32(at + 4));
            let process = place(records.u32(at + 8));
            if !arena.has(event) || process.is_some_and(|n| n >= processes.len()) {
                return Err(PackError::Malformed("an event"));
            }
            let event = Unnamed {
                process_id: process.map(|n| processes.get(&arena, n).to_owned()),
                occurred_at_us: records.i64(at + 12),
                event_id: arena.text(event).to_owned(),
            };
            Ok(UnnamedRow { event, content_hash: ContentHash(records.array(at + 20)) })
        })
        .collect()
}
