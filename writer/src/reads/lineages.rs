//! What lineages made, and what of it was withdrawn.

use memori_schemas::{ContentHash, EntityKey, Lane};

use super::ReadError;
use super::db::{Database, Param, Row, Statement};
use super::sql::{SqlReads, generation_of, key, text};

/// A lineage, or a selection of lineages: what is absent selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Lineage {
    pub extractor: Option<String>,
    pub version: Option<String>,
    pub model: Option<String>,
    pub prompt_hash: Option<String>,
    pub generation: Option<i32>,
}

/// What one lineage made of a tenant's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageCount {
    /// Which; it has a generation.
    pub lineage: Lineage,
    /// Events that it was applied to.
    pub events: i64,
    /// Of these, events of which it was withdrawn.
    pub withdrawn: i64,
    /// Facts that rest on it.
    pub facts: i64,
    /// Mentions.
    pub mentions: i64,
    /// When the first of these events ended, microseconds since 1970.
    pub first_at_us: i64,
    /// When the last did.
    pub last_at_us: i64,
}

/// An entity with something that a lineage made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageEntity {
    /// Its key.
    pub entity_key: EntityKey,
    /// Its id.
    pub entity_id: String,
    /// Events that the lineage was applied to.
    pub events: i64,
}

/// An event of which everything that counts was withdrawn, in some generation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns' names")]
pub struct WithdrawnEvent {
    pub entity_key: EntityKey,
    pub entity_id: String,
    pub event_id: String,
    pub content_hash: ContentHash,
    /// The highest of its withdrawn outcomes.
    pub attempt: i32,
    pub lane: Lane,
    pub partition: i32,
    pub offset: i64,
}

/// After which event a page of withdrawn ones goes on.
pub type WithdrawnPlace = (EntityKey, String, ContentHash);

macro_rules! selected {
    () => {
        "(CAST($2 AS text) IS NULL OR o.extractor_name = CAST($2 AS text)) \
         AND (CAST($3 AS text) IS NULL OR o.extractor_version = CAST($3 AS text)) \
         AND (CAST($4 AS text) IS NULL OR o.extractor_model = CAST($4 AS text)) \
         AND (CAST($5 AS text) IS NULL OR o.prompt_hash = CAST($5 AS text)) \
         AND (CAST($6 AS bigint) IS NULL OR o.generation = CAST($6 AS bigint))"
    };
}

const COUNTS: &str = "SELECT o.generation, o.extractor_name, o.extractor_version, o.extractor_model, o.prompt_hash, count(*), \
    CAST(coalesce(sum(CASE WHEN o.withdrawn THEN 1 ELSE 0 END), 0) AS bigint), min(o.ended_at_us), max(o.ended_at_us) \
    FROM @outcomes o WHERE o.tenant = $1 AND o.kind = 1 \
    GROUP BY o.generation, o.extractor_name, o.extractor_version, o.extractor_model, o.prompt_hash \
    ORDER BY o.generation, o.extractor_name, o.extractor_version, o.extractor_model, o.prompt_hash";

const MENTIONS: &str = "SELECT o.generation, o.extractor_name, o.extractor_version, o.extractor_model, o.prompt_hash, \
    count(DISTINCT m.fact_id), count(*) FROM @mentions m JOIN @outcomes o ON o.tenant = m.tenant AND o.entity_key = m.entity_key \
    AND o.event_id = m.event_id AND o.content_hash = m.content_hash AND o.generation = m.generation WHERE m.tenant = $1 \
    GROUP BY o.generation, o.extractor_name, o.extractor_version, o.extractor_model, o.prompt_hash";

const ENTITIES: &str = concat!(
    "SELECT o.entity_key, n.entity_id, count(*) FROM @outcomes o JOIN @entities n ON n.tenant = o.tenant AND n.entity_key = o.entity_key \
     AND n.entity_id IS NOT NULL WHERE o.tenant = $1 AND o.entity_key > $7 AND o.kind = 1 AND NOT o.withdrawn AND ",
    selected!(),
    " GROUP BY o.entity_key, n.entity_id ORDER BY o.entity_key LIMIT $8"
);

const WITHDRAWN: &str = concat!(
    "SELECT o.entity_key, n.entity_id, o.event_id, o.content_hash, max(o.attempt), e.lane, e.log_partition, e.log_offset \
     FROM @outcomes o JOIN @entities n ON n.tenant = o.tenant AND n.entity_key = o.entity_key AND n.entity_id IS NOT NULL \
     JOIN @events e ON e.tenant = o.tenant AND e.event_id = o.event_id AND e.entity_key = o.entity_key \
     AND e.content_hash = o.content_hash AND NOT e.erased \
     WHERE o.tenant = $1 AND o.withdrawn AND o.entity_key >= $7 AND (o.entity_key > $7 OR o.event_id {bytewise} > CAST($8 AS text) \
     OR (o.event_id = CAST($8 AS text) AND o.content_hash > $9)) AND ",
    selected!(),
    " GROUP BY o.entity_key, n.entity_id, o.event_id, o.content_hash, e.lane, e.log_partition, e.log_offset \
     ORDER BY o.entity_key, o.event_id {bytewise}, o.content_hash LIMIT $10"
);

fn lineage_of(row: &mut Row) -> Result<Lineage, ReadError> {
    Ok(Lineage {
        generation: Some(generation_of(row.int()?)?),
        extractor: row.opt_text()?,
        version: row.opt_text()?,
        model: row.opt_text()?,
        prompt_hash: row.opt_text()?,
    })
}

fn selection(tenant: &str, lineage: &Lineage) -> Vec<Param> {
    vec![
        text(tenant),
        Param::OptText(lineage.extractor.clone()),
        Param::OptText(lineage.version.clone()),
        Param::OptText(lineage.model.clone()),
        Param::OptText(lineage.prompt_hash.clone()),
        Param::OptInt(lineage.generation.map(i64::from)),
    ]
}

fn count(limit: usize) -> Param {
    Param::Int(i64::try_from(limit).unwrap_or(i64::MAX))
}

impl<D: Database> SqlReads<D> {
    pub(super) async fn read_lineages(&self, tenant: &str) -> Result<Vec<LineageCount>, ReadError> {
        let of_tenant = |template| Statement::whole(template, vec![text(tenant)]);
        let counts = self.database().query(of_tenant(COUNTS)).await?;
        let mut mentions = Vec::new();
        for mut row in self.database().query(of_tenant(MENTIONS)).await? {
            mentions.push((lineage_of(&mut row)?, row.int()?, row.int()?));
        }
        counts
            .into_iter()
            .map(|mut row| {
                let lineage = lineage_of(&mut row)?;
                let (events, withdrawn, first_at_us, last_at_us) = (row.int()?, row.int()?, row.int()?, row.int()?);
                let found = mentions.iter().find(|(of, ..)| *of == lineage);
                let (facts, mentions) = found.map_or((0, 0), |(_, facts, mentions)| (*facts, *mentions));
                Ok(LineageCount { lineage, events, withdrawn, facts, mentions, first_at_us, last_at_us })
            })
            .collect()
    }

    pub(super) async fn read_lineage_entities(
        &self,
        tenant: &str,
        lineage: &Lineage,
        after: Option<&EntityKey>,
        limit: usize,
    ) -> Result<Vec<LineageEntity>, ReadError> {
        let mut params = selection(tenant, lineage);
        params.push(after.map_or_else(|| Param::Bytes(Vec::new()), key));
        params.push(count(limit));
        let rows = self.database().query(Statement::whole(ENTITIES, params)).await?;
        rows.into_iter()
            .map(|mut row| {
                Ok(LineageEntity { entity_key: row.hash(EntityKey::from_slice)?, entity_id: row.text()?, events: row.int()? })
            })
            .collect()
    }

    pub(super) async fn read_withdrawn_events(
        &self,
        tenant: &str,
        lineage: &Lineage,
        after: Option<&WithdrawnPlace>,
        limit: usize,
    ) -> Result<Vec<WithdrawnEvent>, ReadError> {
        let mut params = selection(tenant, lineage);
        match after {
            Some((entity_key, event_id, hash)) => {
                params.extend([key(entity_key), text(event_id), Param::Bytes(hash.0.to_vec())]);
            }
            None => params.extend([Param::Bytes(Vec::new()), text(""), Param::Bytes(Vec::new())]),
        }
        params.push(count(limit));
        let rows = self.database().query(Statement::whole(WITHDRAWN, params)).await?;
        rows.into_iter()
            .map(|mut row| {
                Ok(WithdrawnEvent {
                    entity_key: row.hash(EntityKey::from_slice)?,
                    entity_id: row.text()?,
                    event_id: row.text()?,
                    content_hash: row.hash(ContentHash::from_slice)?,
                    attempt: i32::try_from(row.int()?).map_err(|_| ReadError::Corrupt("an attempt out of range"))?,
                    lane: row.one_of(Lane::ALL)?,
                    partition: i32::try_from(row.int()?).map_err(|_| ReadError::Corrupt("a partition out of range"))?,
                    offset: row.int()?,
                })
            })
            .collect()
    }
}
