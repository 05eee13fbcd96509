//! What images are made from, as statements and from their rows: everything of an entity, or what changed.

use std::collections::HashMap;

use bytes::Bytes;
use memori_schemas::{ContentFormat, ContentHash, EntityKey, FactId, FactKind, MessageKey, Role, TextHash};

use super::ReadError;
use super::db::{Param, Part, Row, Statement};
use super::rows::{
    EntityVersion, FactRow, FactRows, ForgottenRow, IntervalRow, MentionRow, MessageRow, MessageRows, TakeChunk, UnnamedRow,
    VectorRow,
};
use super::sql::{all, exactly, fact_id, generation_of, key, text};
use crate::recall::islands::Unnamed;
use crate::recall::packed;
use crate::store::packs::PackKind;

/// The generation of a tenant without a row of its own.
const FIRST_GENERATION: i64 = 1;

pub(super) const VERSION: &str = "SELECT e.version, {epoch}, \
    {generation of $2}, e.rebased_version, e.packed_version \
    FROM (SELECT 1) one LEFT JOIN @entities e ON e.tenant = $1 AND e.entity_key = $2";

const FACTS: &str = "SELECT f.fact_id, f.kind, f.body, f.subject, f.predicate, f.object, f.confidence, f.process_id, f.extractor, \
    f.rep_occurred_at_us, f.rep_event_id, f.rep_message_index, \
    coalesce(s.mentions, 0), coalesce(s.first_mentioned_at_us, f.rep_occurred_at_us), \
    coalesce(s.last_mentioned_at_us, f.rep_occurred_at_us) \
    FROM @facts f LEFT JOIN @fact_stats s \
    ON s.tenant = f.tenant AND s.entity_key = f.entity_key AND s.generation = f.generation \
    AND s.fact_id = f.fact_id{part of s.fact_id} \
    WHERE f.tenant = $1 AND f.entity_key = $2 AND f.generation = $3{part of f.fact_id}";

const MENTIONS: &str = "SELECT m.fact_id, m.message_key, m.event_id, m.content_hash, m.message_index, m.message_id, m.session_id, \
    {process of m}, m.occurred_at_us, NULL, NULL FROM @mentions m \
    WHERE m.tenant = $1 AND m.entity_key = $2 AND m.generation = $3{part of fact_id}";

/// As [`MENTIONS`]; the smallest mention of each fact that has a vector of the model brings it.
const MENTIONS_WITH_VECTORS: &str = "SELECT m.fact_id, m.message_key, m.event_id, m.content_hash, m.message_index, m.message_id, \
    m.session_id, m.process_id, m.occurred_at_us, \
    CASE WHEN m.place = 1 THEN m.vector_scale END, CASE WHEN m.place = 1 THEN m.vector END FROM (\
    SELECT m.fact_id, m.message_key, m.event_id, m.content_hash, m.message_index, m.message_id, m.session_id, \
    {process of m} AS process_id, m.occurred_at_us, m.vector_scale, m.vector, \
    CASE WHEN m.vector_model = $4 THEN row_number() OVER (PARTITION BY m.fact_id, m.vector_model \
    ORDER BY m.occurred_at_us, m.event_id {bytewise}, m.message_index, m.content_hash, m.message_key) END AS place \
    FROM @mentions m WHERE m.tenant = $1 AND m.entity_key = $2 AND m.generation = $3{part of fact_id}) m";

const VALIDITY: &str = "SELECT fact_id, valid_from_us, valid_to_us FROM @validity \
    WHERE tenant = $1 AND entity_key = $2 AND generation = $3{part of fact_id}";

const UNNAMED: &str = "SELECT process_id, occurred_at_us, event_id, content_hash FROM @events \
    WHERE tenant = $1 AND entity_key = $2 AND session_id IS NULL AND NOT erased";

const FORGOTTEN: &str = "SELECT text_hash, message_keys FROM @forgets WHERE tenant = $1 AND entity_key = $2";

/// As [`UNNAMED`], by the messages that changed: whatever event is new has some.
const UNNAMED_OF_MESSAGES: &str = "SELECT DISTINCT process_id, occurred_at_us, event_id, content_hash FROM @messages \
    WHERE tenant = $1 AND entity_key = $2 AND session_id IS NULL{part of message_key}";

const MESSAGES: &str = "SELECT message_key, event_id, content_hash, message_index, message_id, role, name, content, content_format, \
    created_at_us, process_id, session_id, occurred_at_us, NULL, NULL FROM @messages \
    WHERE tenant = $1 AND entity_key = $2{part of message_key}";

const MESSAGES_WITH_VECTORS: &str = "SELECT m.message_key, m.event_id, m.content_hash, m.message_index, m.message_id, m.role, m.name, \
    m.content, m.content_format, m.created_at_us, m.process_id, m.session_id, m.occurred_at_us, v.vector_scale, v.vector \
    FROM @messages m LEFT JOIN @message_vectors v ON v.tenant = m.tenant AND v.entity_key = m.entity_key AND v.generation = $3 \
    AND v.message_key = m.message_key AND v.event_id = m.event_id AND v.content_hash = m.content_hash \
    AND v.message_index = m.message_index AND v.vector_model = $4{part of v.message_key} \
    WHERE m.tenant = $1 AND m.entity_key = $2{part of m.message_key}";

/// Chunks of one kind with what goes with them, and of the events without a session ([`PackKind`]), each in their order.
const PACKS: &str = "SELECT p.kind, p.chunk, p.bytes FROM @entities e JOIN @packs p ON p.tenant = e.tenant \
    AND p.entity_key = e.entity_key AND p.version = e.packed_version AND p.generation = $3 AND p.model = $4 AND p.kind IN ($5, $6, 3) \
    WHERE e.tenant = $1 AND e.entity_key = $2 ORDER BY p.chunk, p.kind";

/// One chunk of the facts.
const CHUNK: &str = "SELECT p.bytes FROM @entities e JOIN @packs p ON p.tenant = e.tenant \
    AND p.entity_key = e.entity_key AND p.version = e.packed_version AND p.generation = $3 AND p.model = $4 AND p.kind = 1 \
    AND p.chunk = $5 WHERE e.tenant = $1 AND e.entity_key = $2";

/// As [`VERSION`], and beside it, where nothing has changed since the entity was packed and nothing of it was asked to be forgotten,
/// its [`PACKS`]: a row for each chunk, or one without.
const AS_PACKED: &str = "SELECT e.version, {epoch}, g.generation, e.rebased_version, e.packed_version, p.kind, p.chunk, p.bytes \
    FROM (SELECT {generation of $2} AS generation) g \
    LEFT JOIN @entities e ON e.tenant = $1 AND e.entity_key = $2 \
    LEFT JOIN @packs p ON p.tenant = $1 AND p.entity_key = $2 AND p.version = e.packed_version AND p.generation = g.generation \
    AND p.model = $3 AND p.kind IN ($4, $5, 3) AND NOT EXISTS (SELECT 1 FROM @entity_changes c \
    WHERE c.tenant = $1 AND c.entity_key = $2 AND c.version > e.packed_version) \
    AND NOT EXISTS (SELECT 1 FROM @forgets x WHERE x.tenant = $1 AND x.entity_key = $2) ORDER BY p.chunk, p.kind";

/// As [`AS_PACKED`]; where the facts have an outline, its chunks in place of theirs.
const AS_OUTLINED: &str = "SELECT e.version, {epoch}, g.generation, e.rebased_version, e.packed_version, p.kind, p.chunk, p.bytes \
    FROM (SELECT {generation of $2} AS generation) g \
    LEFT JOIN @entities e ON e.tenant = $1 AND e.entity_key = $2 \
    LEFT JOIN @packs o ON o.tenant = $1 AND o.entity_key = $2 AND o.version = e.packed_version AND o.generation = g.generation \
    AND o.kind = 5 AND o.chunk = 0 \
    LEFT JOIN @packs p ON p.tenant = $1 AND p.entity_key = $2 AND p.version = e.packed_version AND p.generation = g.generation \
    AND p.model = $3 AND p.kind IN (CASE WHEN o.kind IS NULL THEN 1 ELSE 5 END, 3, 4) AND NOT EXISTS (SELECT 1 FROM @entity_changes c \
    WHERE c.tenant = $1 AND c.entity_key = $2 AND c.version > e.packed_version) \
    AND NOT EXISTS (SELECT 1 FROM @forgets x WHERE x.tenant = $1 AND x.entity_key = $2) ORDER BY p.chunk, p.kind";

/// What goes with the chunks of a kind.
fn goes_with(kind: PackKind) -> PackKind {
    if kind == PackKind::Facts { PackKind::Vectors } else { kind }
}

/// The version of an entity, and its packs of a kind where they show it as it is.
pub(super) fn as_packed(tenant: &str, entity_key: &EntityKey, model: Option<&str>, kind: PackKind) -> Statement {
    let made_by = text(&packed::made_by(model));
    let kinds = [kind, goes_with(kind)].map(|kind| Param::Int(kind.code().into()));
    Statement::whole(AS_PACKED, [text(tenant), key(entity_key), made_by].into_iter().chain(kinds).collect())
}

/// As [`as_packed`] of the facts, or of their outline where there is one.
pub(super) fn as_outlined(tenant: &str, entity_key: &EntityKey, model: Option<&str>) -> Statement {
    Statement::whole(AS_OUTLINED, vec![text(tenant), key(entity_key), text(&packed::made_by(model))])
}

/// What [`as_packed`] and [`as_outlined`] read, row by row.
#[derive(Default)]
pub(super) struct AsPackedRows {
    head: Option<EntityVersion>,
    chunks: Numbered,
    unnamed: Vec<Bytes>,
}

/// How many chunks of each kind have come: each kind's come in their order, and none is missing.
#[derive(Default)]
struct Numbered(HashMap<PackKind, usize>);

impl Numbered {
    /// Kind and bytes of the next chunk; `None` of a row without one.
    fn next(&mut self, row: &mut Row) -> Result<Option<(PackKind, Bytes)>, ReadError> {
        let Some(code) = row.opt_int()? else { return Ok(None) };
        let kind = PackKind::of_code(code).ok_or(ReadError::Corrupt("a chunk of an unknown kind"))?;
        let next = self.0.entry(kind).or_default();
        if usize::try_from(row.int()?).ok() != Some(*next) {
            return Err(ReadError::Corrupt("a chunk is missing"));
        }
        *next += 1;
        Ok(Some((kind, row.bytes()?)))
    }

    /// Whether there are any beside those of the events without a session.
    fn any(&self) -> bool {
        self.0.keys().any(|kind| *kind != PackKind::Unnamed)
    }
}

impl AsPackedRows {
    /// Takes a row; a chunk goes on, but for those of the events without a session.
    pub(super) fn take(&mut self, mut row: Row, chunk: TakeChunk<'_>) -> Result<(), ReadError> {
        self.head.get_or_insert(version_of(&mut row)?);
        match self.chunks.next(&mut row)? {
            Some((PackKind::Unnamed, bytes)) => self.unnamed.push(bytes),
            Some((kind, bytes)) => chunk(kind, bytes),
            None => {}
        }
        Ok(())
    }

    /// The version, and the chunks of the events without a session where there are such and others.
    pub(super) fn end(self) -> Result<(EntityVersion, Option<Vec<Bytes>>), ReadError> {
        let head = self.head.ok_or(ReadError::Corrupt("a version without a row"))?;
        Ok((head, (self.chunks.any() && !self.unnamed.is_empty()).then_some(self.unnamed)))
    }
}

/// Whose rows an image is made from, of which generation, with vectors of which model.
pub(super) struct Of<'a> {
    pub(super) tenant: &'a str,
    pub(super) entity_key: &'a EntityKey,
    pub(super) generation: i32,
    pub(super) model: Option<&'a str>,
}

impl Of<'_> {
    fn of_entity(&self) -> Vec<Param> {
        vec![text(self.tenant), key(self.entity_key)]
    }

    fn of_generation(&self) -> Vec<Param> {
        vec![text(self.tenant), key(self.entity_key), Param::Int(self.generation.into())]
    }

    fn of_model(&self) -> Vec<Param> {
        let mut params = self.of_generation();
        params.push(text(self.model.unwrap_or_default()));
        params
    }

    /// What [`facts_of`] reads.
    pub(super) fn fact_statements(&self, part: Part) -> Vec<Statement> {
        let mentions = match self.model {
            None => Statement::part(MENTIONS, self.of_generation(), part),
            Some(_) => Statement::part(MENTIONS_WITH_VECTORS, self.of_model(), part),
        };
        vec![
            Statement::whole(VERSION, self.of_entity()),
            Statement::part(FACTS, self.of_generation(), part),
            mentions,
            Statement::part(VALIDITY, self.of_generation(), part),
            self.unnamed(part),
            Statement::whole(FORGOTTEN, self.of_entity()),
        ]
    }

    /// What [`messages_of`] reads.
    pub(super) fn message_statements(&self, part: Part) -> Vec<Statement> {
        let messages = match self.model {
            None => Statement::part(MESSAGES, self.of_entity(), part),
            Some(_) => Statement::part(MESSAGES_WITH_VECTORS, self.of_model(), part),
        };
        vec![Statement::whole(VERSION, self.of_entity()), messages, self.unnamed(part)]
    }

    pub(super) fn packs(&self, kind: PackKind) -> Statement {
        let mut params = self.of_generation();
        params.push(text(&packed::made_by(self.model)));
        params.extend([kind, goes_with(kind)].map(|kind| Param::Int(kind.code().into())));
        Statement::whole(PACKS, params)
    }

    /// What [`named_facts_of`] reads: these facts as their rows tell them, and chunks of the facts by their numbers.
    pub(super) fn named_facts(&self, fact_ids: &[FactId], chunks: &[u16]) -> Vec<Statement> {
        let ids: Vec<u8> = fact_ids.iter().flat_map(|fact_id| *fact_id.0.as_bytes()).collect();
        let named = |template| Statement::named(template, self.of_generation(), ids.clone());
        let mut statements = vec![Statement::whole(VERSION, self.of_entity()), named(FACTS), named(MENTIONS), named(VALIDITY)];
        statements.extend(chunks.iter().map(|chunk| {
            let mut params = self.of_generation();
            params.extend([text(&packed::made_by(self.model)), Param::Int((*chunk).into())]);
            Statement::whole(CHUNK, params)
        }));
        statements
    }

    fn unnamed(&self, part: Part) -> Statement {
        let template = if part == Part::Whole { UNNAMED } else { UNNAMED_OF_MESSAGES };
        Statement::part(template, self.of_entity(), part)
    }
}

pub(super) fn facts_of(of: &Of<'_>, results: Vec<Vec<Row>>) -> Result<(EntityVersion, FactRows), ReadError> {
    let [head, facts, mentions, validity, unnamed, forgets] = exactly(results)?;
    let head = version(head)?;
    let mut facts = all(facts, fact_row)?;
    let rows = FactRows {
        version: head.version,
        epoch: head.epoch,
        generation: of.generation,
        mentions: mentions_and_vectors(mentions, &mut facts)?,
        facts,
        validity: all(validity, interval_row)?,
        unnamed: all(unnamed, unnamed_row)?,
        forgets: all(forgets, forgotten_row)?,
    };
    Ok((head, rows))
}

/// Facts by their ids, and the chunks that were asked for: fewer where they are no longer there.
pub(super) fn named_facts_of(
    of: &Of<'_>,
    mut results: Vec<Vec<Row>>,
) -> Result<(EntityVersion, FactRows, Vec<Bytes>), ReadError> {
    let chunks = results.split_off(results.len().min(4));
    let [head, facts, mentions, validity] = exactly(results)?;
    let head = version(head)?;
    let rows = FactRows {
        version: head.version,
        epoch: head.epoch,
        generation: of.generation,
        facts: all(facts, fact_row)?,
        mentions: all(mentions, mention_row)?,
        validity: all(validity, interval_row)?,
        ..FactRows::default()
    };
    let chunks = chunks.into_iter().flatten().map(|mut row| row.bytes()).collect::<Result<_, _>>()?;
    Ok((head, rows, chunks))
}

pub(super) fn messages_of(of: &Of<'_>, results: Vec<Vec<Row>>) -> Result<(EntityVersion, MessageRows), ReadError> {
    let [head, messages, unnamed] = exactly(results)?;
    let head = version(head)?;
    let rows = MessageRows {
        version: head.version,
        epoch: head.epoch,
        generation: of.generation,
        messages: all(messages, message_row)?,
        unnamed: all(unnamed, unnamed_row)?,
    };
    Ok((head, rows))
}

/// Chunks with their kinds, and of the events without a session.
pub(super) type Chunks = (Vec<(PackKind, Bytes)>, Vec<Bytes>);

/// Chunks of [`PACKS`] and of the events without a session; `None` where either is missing.
pub(super) fn chunks(rows: Vec<Row>) -> Result<Option<Chunks>, ReadError> {
    let (mut chunks, mut unnamed) = (Vec::with_capacity(rows.len()), Vec::new());
    let mut numbered = Numbered::default();
    for mut row in rows {
        match numbered.next(&mut row)? {
            Some((PackKind::Unnamed, bytes)) => unnamed.push(bytes),
            Some(chunk) => chunks.push(chunk),
            None => {}
        }
    }
    Ok((!chunks.is_empty() && !unnamed.is_empty()).then_some((chunks, unnamed)))
}

pub(super) fn version(rows: Vec<Row>) -> Result<EntityVersion, ReadError> {
    version_of(&mut rows.into_iter().next().ok_or(ReadError::Corrupt("a version without a row"))?)
}

fn version_of(row: &mut Row) -> Result<EntityVersion, ReadError> {
    Ok(EntityVersion {
        version: row.opt_int()?,
        epoch: row.int()?,
        generation: generation_of(row.opt_int()?.unwrap_or(FIRST_GENERATION))?,
        rebased_version: row.opt_int()?.unwrap_or(0),
        packed_version: row.opt_int()?,
    })
}

fn fact_row(row: &mut Row) -> Result<FactRow, ReadError> {
    Ok(FactRow {
        fact_id: fact_id(row)?,
        kind: row.one_of(FactKind::ALL)?,
        body: row.text()?,
        subject: row.opt_text()?,
        predicate: row.opt_text()?,
        object: row.opt_text()?,
        confidence: row.real()?,
        process_id: row.opt_text()?,
        extractor: row.text()?,
        rep_occurred_at_us: row.int()?,
        rep_event_id: row.text()?,
        rep_message_index: row.int()?,
        mentions: row.int()?,
        first_mentioned_at_us: row.int()?,
        last_mentioned_at_us: row.int()?,
        vector: None,
    })
}

#[allow(clippy::cast_possible_truncation)] // a column of four bytes
fn vector_row(row: &mut Row) -> Result<Option<VectorRow>, ReadError> {
    let scale = row.opt_real()?;
    Ok(scale.zip(row.opt_bytes()?).map(|(scale, values)| VectorRow { scale: scale as f32, values }))
}

/// Gives each fact the vector that one of its mentions brings, and takes the mentions.
fn mentions_and_vectors(rows: Vec<Row>, facts: &mut [FactRow]) -> Result<Vec<MentionRow>, ReadError> {
    let mut vectors: HashMap<FactId, VectorRow> = HashMap::new();
    let mut mentions = Vec::with_capacity(rows.len());
    for mut row in rows {
        let mention = mention_row(&mut row)?;
        if let Some(vector) = vector_row(&mut row)? {
            vectors.insert(mention.fact_id, vector);
        }
        mentions.push(mention);
    }
    for fact in facts {
        fact.vector = vectors.remove(&fact.fact_id);
    }
    Ok(mentions)
}

pub(super) fn mention_row(row: &mut Row) -> Result<MentionRow, ReadError> {
    Ok(MentionRow {
        fact_id: fact_id(row)?,
        message_key: row.hash(MessageKey::from_slice)?,
        event_id: row.text()?,
        content_hash: row.hash(ContentHash::from_slice)?,
        message_index: row.int()?,
        message_id: row.text()?,
        session_id: row.opt_text()?,
        process_id: row.opt_text()?,
        occurred_at_us: row.int()?,
    })
}

fn interval_row(row: &mut Row) -> Result<IntervalRow, ReadError> {
    Ok(IntervalRow { fact_id: fact_id(row)?, valid_from_us: row.int()?, valid_to_us: row.opt_int()? })
}

fn forgotten_row(row: &mut Row) -> Result<ForgottenRow, ReadError> {
    let text_hash = row.hash(TextHash::from_slice)?;
    let bytes = row.bytes()?;
    let (keys, rest) = bytes.as_chunks::<{ MessageKey::LEN }>();
    if !rest.is_empty() {
        return Err(ReadError::Corrupt("message keys that are none"));
    }
    Ok(ForgottenRow { text_hash, message_keys: keys.iter().copied().map(MessageKey).collect() })
}

fn unnamed_row(row: &mut Row) -> Result<UnnamedRow, ReadError> {
    let event = Unnamed { process_id: row.opt_text()?, occurred_at_us: row.int()?, event_id: row.text()? };
    Ok(UnnamedRow { event, content_hash: row.hash(ContentHash::from_slice)? })
}

fn message_row(row: &mut Row) -> Result<MessageRow, ReadError> {
    Ok(MessageRow {
        message_key: row.hash(MessageKey::from_slice)?,
        event_id: row.text()?,
        content_hash: row.hash(ContentHash::from_slice)?,
        message_index: row.int()?,
        message_id: row.text()?,
        role: row.one_of(Role::ALL)?,
        name: row.opt_text()?,
        content: row.text()?,
        content_format: row.one_of(ContentFormat::ALL)?,
        created_at_us: row.opt_int()?,
        process_id: row.opt_text()?,
        session_id: row.opt_text()?,
        occurred_at_us: row.int()?,
        vector: vector_row(row)?,
    })
}
