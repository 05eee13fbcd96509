//! The reads as statements, once for both databases.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use memori_schemas::{ContentHash, EntityKey, FactId, Lane, MessageKey, TextHash, TripleHash, ids};
use uuid::Uuid;

use super::db::{Database, Param, Part, Row, Statement};
use super::images::{
    AsPackedRows, Of, VERSION, as_outlined, as_packed, chunks, facts_of, mention_row, messages_of, named_facts_of, version,
};
use super::letters::{Letter, LetterBytes, LetterFilter, LetterOrder, LetterPlace};
use super::lineages::{Lineage, LineageCount, LineageEntity, WithdrawnEvent, WithdrawnPlace};
use super::rows::{
    AsPacked, Changes, ControlId, EntityRow, EntityVersion, ErasureReceipt, EventState, EventStatus, FactPlace, FactRows,
    ForgetTarget, KnownEvent, LineageRow, MessageRows, Packed, Shown, TakeChunk,
};
use super::{ReadError, ReadStore};
use crate::plan::DeadLetterKey;
use crate::store::packs::PackKind;

const STATUS: &str = "SELECT e.event_id, e.entity_key, e.content_hash, e.erased, e.accepted_at_us, e.lane, n.entity_id, \
    o.kind, o.ended_at_us, o.dead_letter_class, o.dead_letter_reason \
    FROM @events e LEFT JOIN @entities n ON n.tenant = e.tenant AND n.entity_key = e.entity_key LEFT JOIN @outcomes o ON o.tenant = e.tenant AND o.entity_key = e.entity_key \
    AND o.generation = {generation of e.entity_key} \
    AND o.event_id = e.event_id AND o.content_hash = e.content_hash \
    WHERE e.tenant = $1 AND e.event_id {any $2} ORDER BY e.event_id, e.accepted_at_us, e.content_hash";

const FACT_COUNTS: &str = "SELECT m.event_id, m.content_hash, count(DISTINCT m.fact_id) FROM @mentions m \
    WHERE m.tenant = $1 AND m.entity_key = $2 \
    AND m.generation = {generation of $2} \
    AND m.event_id {any $3} GROUP BY m.event_id, m.content_hash";

const KNOWN: &str = "SELECT event_id, entity_key, content_hash, accepted_at_us, client_fields FROM @events \
    WHERE tenant = $1 AND event_id {any $2} ORDER BY event_id, accepted_at_us, content_hash";

const ENTITIES: &str = "SELECT entity_key, entity_id FROM @entities \
    WHERE tenant = $1 AND entity_key > $2 AND entity_id IS NOT NULL ORDER BY entity_key LIMIT $3";

const LOCATE_ACTIVE: &str = "SELECT f.entity_key, f.generation FROM @entities e JOIN @facts f \
    ON f.tenant = e.tenant AND f.entity_key = e.entity_key AND f.fact_id = $4 \
    AND f.generation = {generation of f.entity_key} \
    WHERE e.tenant = $1 AND e.entity_key >= $2 AND e.entity_key <= $3 ORDER BY f.entity_key LIMIT 1";

const LOCATE_ANY: &str = "SELECT f.entity_key, f.generation FROM @entities e JOIN @facts f \
    ON f.tenant = e.tenant AND f.entity_key = e.entity_key AND f.fact_id = $4 \
    WHERE e.tenant = $1 AND e.entity_key >= $2 AND e.entity_key <= $3 ORDER BY f.generation DESC, f.entity_key LIMIT 1";

const LINEAGE: &str = "SELECT m.fact_id, m.message_key, m.event_id, m.content_hash, m.message_index, m.message_id, m.session_id, \
    {process of m}, m.occurred_at_us, m.surface, m.lane, m.log_partition, m.log_offset, \
    o.log_topic_id, o.extractor_name, o.extractor_version, o.extractor_model, o.prompt_hash, \
    coalesce(o.tokens_in, 0), coalesce(o.tokens_out, 0), coalesce(o.cost_micros, 0), o.ended_at_us \
    FROM @mentions m LEFT JOIN @outcomes o ON o.tenant = m.tenant AND o.entity_key = m.entity_key AND o.generation = m.generation \
    AND o.event_id = m.event_id AND o.content_hash = m.content_hash \
    WHERE m.tenant = $1 AND m.entity_key = $2 AND m.generation = $3 AND m.fact_id = $4 \
    ORDER BY m.occurred_at_us, m.event_id {bytewise}, m.message_index, m.content_hash, m.message_key";

const FORGET: &str = "SELECT m.message_key, m.text_hash, m.triple_hash FROM @mentions m \
    WHERE m.tenant = $1 AND m.entity_key = $2 AND m.generation = $3 AND m.fact_id = $4 \
    ORDER BY m.occurred_at_us, m.event_id {bytewise}, m.message_index, m.content_hash, m.message_key";

const ENTITY_ID: &str = "SELECT entity_id FROM @entities WHERE tenant = $1 AND entity_key = $2";

const FORGET_APPLIED: &str = "SELECT 1 FROM @forgets WHERE tenant = $1 AND entity_key = $2 AND forget_id = $3";

const ERASURE_APPLIED: &str = "SELECT 1 FROM @erasures WHERE tenant = $1 AND entity_key = $2 AND erasure_id = $3";

const WITHDRAWAL_APPLIED: &str = "SELECT 1 FROM @withdrawals WHERE tenant = $1 AND entity_key = $2 AND withdrawal_id = $3";

const ERASURE: &str = "SELECT x.erasure_id, x.entity_key, x.requested_at_us, x.applied_at_us, \
    (SELECT count(*) FROM @events e WHERE e.tenant = x.tenant AND e.entity_key = x.entity_key AND e.erased), \
    (SELECT count(*) FROM @events e WHERE e.tenant = x.tenant AND e.entity_key = x.entity_key AND NOT e.erased) \
    FROM @erasures x WHERE x.tenant = $1 AND x.erasure_id = $2 ORDER BY x.entity_key LIMIT 1";

/// The reads over a database.
#[derive(Clone, Debug)]
pub struct SqlReads<D>(D);

impl<D: Database> SqlReads<D> {
    /// Over this database.
    #[must_use]
    pub fn over(database: D) -> Self {
        Self(database)
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &D {
        &self.0
    }

    /// Facts with what recall shows of them, at one instant.
    async fn facts(&self, of: &Of<'_>, part: Part) -> Result<(EntityVersion, FactRows), ReadError> {
        facts_of(of, self.0.snapshot(of.fact_statements(part)).await?)
    }

    /// Messages, at one instant.
    async fn messages(&self, of: &Of<'_>, part: Part) -> Result<(EntityVersion, MessageRows), ReadError> {
        messages_of(of, self.0.snapshot(of.message_statements(part)).await?)
    }

    /// The version, and where packs show it the chunks of the events without a session; the others go on.
    async fn packed(&self, statement: Statement, chunk: TakeChunk<'_>) -> Result<(EntityVersion, Option<Vec<Bytes>>), ReadError> {
        let mut rows = AsPackedRows::default();
        self.0.each(statement, &mut |row| rows.take(row, &mut *chunk)).await?;
        rows.end()
    }

    async fn one(&self, template: &'static str, params: Vec<Param>) -> Result<Option<Row>, ReadError> {
        Ok(self.0.query(Statement::whole(template, params)).await?.into_iter().next())
    }
}

pub(super) fn text(text: &str) -> Param {
    Param::Text(text.to_owned())
}

pub(super) fn key(entity_key: &EntityKey) -> Param {
    Param::Bytes(entity_key.0.to_vec())
}

fn fact(fact_id: FactId) -> Param {
    Param::Bytes(fact_id.0.as_bytes().to_vec())
}

pub(super) fn fact_id(row: &mut Row) -> Result<FactId, ReadError> {
    row.hash(|bytes| Uuid::from_slice(bytes).ok()).map(FactId)
}

pub(super) fn generation_of(n: i64) -> Result<i32, ReadError> {
    i32::try_from(n).map_err(|_| ReadError::Corrupt("a generation out of range"))
}

/// Whatever a template's columns are, each row by one function.
pub(super) fn all<T>(rows: Vec<Row>, read: impl Fn(&mut Row) -> Result<T, ReadError>) -> Result<Vec<T>, ReadError> {
    rows.into_iter().map(|mut row| read(&mut row)).collect()
}

fn status_row(row: &mut Row) -> Result<EventStatus, ReadError> {
    let event_id = row.text()?;
    let entity_key = row.hash(EntityKey::from_slice)?;
    let content_hash = row.hash(ContentHash::from_slice)?;
    let erased = row.int()? != 0;
    let accepted_at_us = row.int()?;
    let (lane, entity_id) = (row.one_of(Lane::ALL)?, row.opt_text()?);
    let state = match (erased, row.opt_int()?) {
        (true, _) => EventState::Erased,
        (false, None) => EventState::Accepted,
        (false, Some(1)) => EventState::Applied,
        (false, Some(2)) => EventState::DeadLettered,
        (false, Some(_)) => return Err(ReadError::Corrupt("an unknown kind of outcome")),
    };
    let (ended_at_us, class, reason) = (row.opt_int()?, row.opt_text()?, row.opt_text()?);
    let ended = matches!(state, EventState::Applied | EventState::DeadLettered);
    let dead = state == EventState::DeadLettered;
    Ok(EventStatus {
        event_id,
        entity_key,
        content_hash,
        state,
        accepted_at_us,
        lane,
        entity_id,
        ended_at_us: ended_at_us.filter(|_| ended),
        class: class.filter(|_| dead),
        reason: reason.filter(|_| dead),
    })
}

fn lineage_row(row: &mut Row) -> Result<LineageRow, ReadError> {
    Ok(LineageRow {
        mention: mention_row(row)?,
        surface: row.text()?,
        lane: row.one_of(Lane::ALL)?,
        log_partition: row.int()?,
        log_offset: row.int()?,
        log_topic_id: row.opt_text()?,
        extractor_name: row.opt_text()?,
        extractor_version: row.opt_text()?,
        extractor_model: row.opt_text()?,
        prompt_hash: row.opt_text()?,
        tokens_in: row.int()?,
        tokens_out: row.int()?,
        cost_micros: row.int()?,
        ended_at_us: row.opt_int()?,
    })
}

/// Rows that say that nothing has changed since.
fn nothing_since(EntityVersion { version, epoch, generation, .. }: EntityVersion) -> FactRows {
    FactRows { version, epoch, generation, ..FactRows::default() }
}

#[async_trait]
impl<D: Database + 'static> ReadStore for SqlReads<D> {
    async fn entity_version(&self, tenant: &str, entity_key: &EntityKey) -> Result<EntityVersion, ReadError> {
        version(self.0.query(Statement::whole(VERSION, vec![text(tenant), key(entity_key)])).await?)
    }

    async fn fact_rows(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<FactRows, ReadError> {
        let of = Of { tenant, entity_key, generation, model };
        Ok(self.facts(&of, Part::Whole).await?.1)
    }

    async fn message_rows(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<MessageRows, ReadError> {
        let of = Of { tenant, entity_key, generation, model };
        Ok(self.messages(&of, Part::Whole).await?.1)
    }

    async fn fact_changes_since(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
        shown: Shown,
    ) -> Result<Changes<FactRows>, ReadError> {
        let of = Of { tenant, entity_key, generation, model };
        let (head, rows) = self.facts(&of, Part::Since(shown.version)).await?;
        Ok(if head.tells_since(shown) { Changes::Since(rows) } else { Changes::Reload })
    }

    async fn message_changes_since(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
        shown: Shown,
    ) -> Result<Changes<MessageRows>, ReadError> {
        let of = Of { tenant, entity_key, generation, model };
        let (head, rows) = self.messages(&of, Part::Since(shown.version)).await?;
        Ok(if head.tells_since(shown) { Changes::Since(rows) } else { Changes::Reload })
    }

    async fn packed_facts(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<Option<Packed<FactRows>>, ReadError> {
        let of = Of { tenant, entity_key, generation, model };
        let mut statements = of.fact_statements(Part::SincePack);
        statements.push(of.packs(PackKind::Facts));
        let mut results = self.0.snapshot(statements).await?;
        let packs = chunks(results.pop().unwrap_or_default())?;
        let (_, since) = facts_of(&of, results)?;
        Ok(packs.map(|(chunks, unnamed)| Packed { chunks, unnamed, since }))
    }

    async fn packed_messages(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
    ) -> Result<Option<Packed<MessageRows>>, ReadError> {
        let of = Of { tenant, entity_key, generation, model };
        let mut statements = of.message_statements(Part::SincePack);
        statements.push(of.packs(PackKind::Messages));
        let mut results = self.0.snapshot(statements).await?;
        let packs = chunks(results.pop().unwrap_or_default())?;
        let (_, since) = messages_of(&of, results)?;
        Ok(packs.map(|(chunks, unnamed)| Packed { chunks, unnamed, since }))
    }

    async fn facts_as_packed(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        model: Option<&str>,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<FactRows>, ReadError> {
        let (head, unnamed) = self.packed(as_packed(tenant, entity_key, model, PackKind::Facts), take).await?;
        Ok((head, unnamed.map(|unnamed| (unnamed, nothing_since(head)))))
    }

    async fn facts_outlined(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        model: Option<&str>,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<FactRows>, ReadError> {
        let (head, unnamed) = self.packed(as_outlined(tenant, entity_key, model), take).await?;
        Ok((head, unnamed.map(|unnamed| (unnamed, nothing_since(head)))))
    }

    async fn named_facts(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generation: i32,
        model: Option<&str>,
        fact_ids: &[FactId],
        chunks: &[u16],
    ) -> Result<(EntityVersion, FactRows, Vec<Bytes>), ReadError> {
        let of = Of { tenant, entity_key, generation, model };
        named_facts_of(&of, self.0.snapshot(of.named_facts(fact_ids, chunks)).await?)
    }

    async fn messages_as_packed(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        model: Option<&str>,
        take: TakeChunk<'_>,
    ) -> Result<AsPacked<MessageRows>, ReadError> {
        let (head, unnamed) = self.packed(as_packed(tenant, entity_key, model, PackKind::Messages), take).await?;
        let EntityVersion { version, epoch, generation, .. } = head;
        let since = MessageRows { version, epoch, generation, ..MessageRows::default() };
        Ok((head, unnamed.map(|unnamed| (unnamed, since))))
    }

    async fn event_status(&self, tenant: &str, event_ids: &[String]) -> Result<Vec<EventStatus>, ReadError> {
        let params = vec![text(tenant), Param::Texts(event_ids.to_vec())];
        let mut events = all(self.0.query(Statement::whole(STATUS, params)).await?, status_row)?;
        // Ordered so that of several contents of one id the one to show comes first.
        events.dedup_by(|later, first| later.event_id == first.event_id);
        Ok(events)
    }

    async fn fact_counts(&self, tenant: &str, events: &[EventStatus]) -> Result<Vec<i64>, ReadError> {
        let mut by_entity: BTreeMap<EntityKey, Vec<String>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.state == EventState::Applied) {
            by_entity.entry(event.entity_key).or_default().push(event.event_id.clone());
        }
        if by_entity.is_empty() {
            return Ok(vec![0; events.len()]);
        }
        let keys: Vec<EntityKey> = by_entity.keys().copied().collect();
        let statements = by_entity
            .into_iter()
            .map(|(entity_key, ids)| Statement::whole(FACT_COUNTS, vec![text(tenant), key(&entity_key), Param::Texts(ids)]))
            .collect();
        let mut counts = HashMap::new();
        for (entity_key, rows) in keys.into_iter().zip(self.0.snapshot(statements).await?) {
            for mut row in rows {
                let event = (entity_key, row.text()?, row.hash(ContentHash::from_slice)?);
                counts.insert(event, row.int()?);
            }
        }
        let count = |event: &EventStatus| counts.get(&(event.entity_key, event.event_id.clone(), event.content_hash)).copied();
        Ok(events.iter().map(|event| count(event).unwrap_or(0)).collect())
    }

    async fn known_events(&self, tenant: &str, event_ids: &[String]) -> Result<Vec<KnownEvent>, ReadError> {
        let params = vec![text(tenant), Param::Texts(event_ids.to_vec())];
        all(self.0.query(Statement::whole(KNOWN, params)).await?, |row| {
            Ok(KnownEvent {
                event_id: row.text()?,
                entity_key: row.hash(EntityKey::from_slice)?,
                content_hash: row.hash(ContentHash::from_slice)?,
                accepted_at_us: row.int()?,
                client_fields: row.opt_text()?,
            })
        })
    }

    async fn entities(&self, tenant: &str, after: Option<&EntityKey>, limit: usize) -> Result<Vec<EntityRow>, ReadError> {
        // Every key is longer than nothing at all, so the empty one stands before the first.
        let after = Param::Bytes(after.map(|key| key.0.to_vec()).unwrap_or_default());
        let limit = Param::Int(i64::try_from(limit).unwrap_or(i64::MAX));
        all(self.0.query(Statement::whole(ENTITIES, vec![text(tenant), after, limit])).await?, |row| {
            Ok(EntityRow { entity_key: row.hash(EntityKey::from_slice)?, entity_id: row.text()? })
        })
    }

    async fn locate_fact(&self, tenant: &str, fact_id: FactId) -> Result<Option<FactPlace>, ReadError> {
        let (low, high) = ids::entity_key_range(fact_id);
        for template in [LOCATE_ACTIVE, LOCATE_ANY] {
            if let Some(mut row) = self.one(template, vec![text(tenant), key(&low), key(&high), fact(fact_id)]).await? {
                let entity_key = row.hash(EntityKey::from_slice)?;
                return Ok(Some(FactPlace { entity_key, generation: generation_of(row.int()?)? }));
            }
        }
        Ok(None)
    }

    async fn lineage(&self, tenant: &str, place: &FactPlace, fact_id: FactId) -> Result<Vec<LineageRow>, ReadError> {
        let params = vec![text(tenant), key(&place.entity_key), Param::Int(place.generation.into()), fact(fact_id)];
        all(self.0.query(Statement::whole(LINEAGE, params)).await?, lineage_row)
    }

    async fn entity_id(&self, tenant: &str, entity_key: &EntityKey) -> Result<Option<String>, ReadError> {
        match self.one(ENTITY_ID, vec![text(tenant), key(entity_key)]).await? {
            Some(mut row) => row.opt_text(),
            None => Ok(None),
        }
    }

    async fn forget_target(&self, tenant: &str, place: &FactPlace, fact_id: FactId) -> Result<Option<ForgetTarget>, ReadError> {
        let statements = vec![
            Statement::whole(ENTITY_ID, vec![text(tenant), key(&place.entity_key)]),
            Statement::whole(
                FORGET,
                vec![text(tenant), key(&place.entity_key), Param::Int(place.generation.into()), fact(fact_id)],
            ),
        ];
        let [entity, mentions] = exactly(self.0.snapshot(statements).await?)?;
        let entity_id = match entity.into_iter().next() {
            Some(mut row) => row.opt_text()?,
            None => None,
        };
        let mentions = all(mentions, |row| {
            let message_key = row.hash(MessageKey::from_slice)?;
            let text_hash = row.hash(TextHash::from_slice)?;
            Ok((message_key, text_hash, row.opt_bytes()?.and_then(|bytes| TripleHash::from_slice(&bytes))))
        })?;
        // The first mention is the one that words the fact.
        let (Some(entity_id), Some((_, text_hash, triple_hash))) = (entity_id, mentions.first().copied()) else {
            return Ok(None);
        };
        let mut message_keys: Vec<MessageKey> = mentions.into_iter().map(|(message_key, _, _)| message_key).collect();
        message_keys.sort_unstable();
        message_keys.dedup();
        Ok(Some(ForgetTarget { entity_id, text_hash, triple_hash, message_keys }))
    }

    async fn control_applied(&self, tenant: &str, entity_key: &EntityKey, control: &ControlId) -> Result<bool, ReadError> {
        let (template, id) = match control {
            ControlId::Forget(id) => (FORGET_APPLIED, id),
            ControlId::Erasure(id) => (ERASURE_APPLIED, id),
            ControlId::Withdrawal(id) => (WITHDRAWAL_APPLIED, id),
        };
        Ok(self.one(template, vec![text(tenant), key(entity_key), text(id)]).await?.is_some())
    }

    async fn lineages(&self, tenant: &str) -> Result<Vec<LineageCount>, ReadError> {
        self.read_lineages(tenant).await
    }

    async fn lineage_entities(
        &self,
        tenant: &str,
        lineage: &Lineage,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<Vec<LineageEntity>, ReadError> {
        self.read_lineage_entities(tenant, lineage, after, limit).await
    }

    async fn withdrawn_events(
        &self,
        tenant: &str,
        lineage: &Lineage,
        after: Option<&WithdrawnPlace>,
        limit: usize,
    ) -> Result<Vec<WithdrawnEvent>, ReadError> {
        self.read_withdrawn_events(tenant, lineage, after, limit).await
    }

    async fn erasure(&self, tenant: &str, erasure_id: &str) -> Result<Option<ErasureReceipt>, ReadError> {
        let Some(mut row) = self.one(ERASURE, vec![text(tenant), text(erasure_id)]).await? else { return Ok(None) };
        Ok(Some(ErasureReceipt {
            erasure_id: row.text()?,
            entity_key: row.hash(EntityKey::from_slice)?,
            requested_at_us: row.int()?,
            applied_at_us: row.int()?,
            events_erased: row.int()?,
            events_kept: row.int()?,
        }))
    }

    async fn letters(
        &self,
        filter: &LetterFilter,
        order: LetterOrder,
        after: Option<&LetterPlace>,
        limit: usize,
    ) -> Result<Vec<Letter>, ReadError> {
        self.read_letters(filter, order, after, limit).await
    }

    async fn letters_by_key(&self, keys: &[DeadLetterKey]) -> Result<Vec<Option<Letter>>, ReadError> {
        self.read_letters_by_key(keys).await
    }

    async fn letter_bytes(&self, keys: &[DeadLetterKey]) -> Result<Vec<Option<LetterBytes>>, ReadError> {
        self.read_letter_bytes(keys).await
    }
}

/// As many results as there were statements.
pub(super) fn exactly<const N: usize>(results: Vec<Vec<Row>>) -> Result<[Vec<Row>; N], ReadError> {
    results.try_into().map_err(|_| ReadError::Corrupt("a statement without a result"))
}
