//! The statements of generations, once for both databases.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use memori_schemas::{ContentHash, EntityKey, FactKind, MessageKey, ids};
use memori_service::auth::EVERY_TENANT;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    Behind, ComparedFact, Followed, Generation, GenerationStore, MAX_GENERATIONS, Made, NewGeneration, OfTenant, Progress,
    Selected, Selection, Spent, State, Switched, TenantStanding, made,
};
use crate::control::Act;
use crate::control::sql::{Changing, SqlControl, line, text};
use crate::reads::ReadError;
use crate::reads::db::{Param, Row, Statement};

macro_rules! columns {
    () => {
        "generation, base, tenants, spec, selection, limits, state, reason, created_at_us"
    };
}

const FOLLOWED: &str = concat!("SELECT ", columns!(), " FROM @@generations WHERE state <> 'dropped' ORDER BY generation");
const ACTIVE: &str = "SELECT tenant, generation FROM @@active_generations WHERE generation <> 1";
const DROPPED: &str = "SELECT tenant, generation FROM @@tenant_generations WHERE dropped_at_us IS NOT NULL";
const DROPPED_WHOLLY: &str = "SELECT generation FROM @@generations WHERE state = 'dropped'";

/// A number that two take at once goes to one of them: the other's statement fails.
const START: &str = "INSERT INTO @@generations (generation, base, tenants, spec, selection, limits, state, created_at_us, \
    created_by, act_id) SELECT coalesce(max(generation), 1) + 1, CAST($1 AS integer), CAST($2 AS text), CAST($3 AS text), \
    CAST($4 AS text), CAST($5 AS text), 'running', CAST($6 AS bigint), CAST($7 AS text), CAST($8 AS text) FROM @@generations \
    HAVING (SELECT count(*) FROM @@generations WHERE state <> 'dropped') < CAST($9 AS bigint) RETURNING generation";

const GENERATIONS: &str =
    concat!("SELECT ", columns!(), " FROM @@generations WHERE generation < $1 ORDER BY generation DESC LIMIT $2");
const GENERATION: &str = concat!("SELECT ", columns!(), " FROM @@generations WHERE generation = $1");
const STANDINGS: &str = "SELECT tenant, before_generation, cut_over_at_us, dropped_at_us, freed_at_us FROM @@tenant_generations \
    WHERE generation = $1 ORDER BY tenant {bytewise}";

const CHANGE: &str = "UPDATE @@generations SET state = $2, reason = $3, act_id = $4, \
    dropped_at_us = CASE WHEN $2 = 'dropped' THEN CAST($6 AS bigint) END \
    WHERE generation = $1 AND state {any $5} AND ($2 = 'running' OR NOT EXISTS \
    (SELECT generation FROM @@active_generations WHERE generation = $1 \
    UNION ALL SELECT generation FROM @@trailing_entities WHERE generation = $1)) RETURNING generation";

/// Takes the row's lock, so that nobody drops what somebody switches to.
const LOCK_GENERATION: &str = "UPDATE @@generations SET act_id = act_id WHERE generation = $1";
/// Makes the row of a tenant that has read the first generation ever since, and takes its lock.
const LOCK_ACTIVE: &str = "INSERT INTO @@active_generations AS a (tenant, generation) VALUES ($1, 1) \
    ON CONFLICT (tenant) DO UPDATE SET generation = a.generation RETURNING generation";

/// Until the transaction ends, what is read does not change.
const ALONE: &str = "{alone among flushes}";

/// An outcome `o` is missing in another generation. A value, not a condition: a planner that takes the table for empty would join it with
/// itself row by row.
macro_rules! lacks {
    ($target:literal) => {
        concat!(
            "(SELECT n.generation FROM @outcomes n WHERE n.tenant = $1 AND n.entity_key = o.entity_key AND n.event_id = o.event_id \
             AND n.content_hash = o.content_hash AND n.generation = ",
            $target,
            ") IS NULL"
        )
    };
}

macro_rules! trail {
    ($target:literal) => {
        concat!(
            "INSERT INTO @@trailing_entities (tenant, entity_key, generation) \
             SELECT DISTINCT o.tenant, o.entity_key, o.generation FROM @outcomes o JOIN @@active_generations a ON a.tenant = o.tenant \
             WHERE o.tenant = $1 AND o.generation = a.generation AND o.ended_at_us >= CAST($3 AS bigint) AND a.generation <> ",
            $target,
            " AND ",
            lacks!($target),
            " LIMIT $4 ON CONFLICT (tenant, entity_key) DO NOTHING"
        )
    };
}

/// Entities of which something that is read now, and ended lately, is not in the other generation yet.
const TRAIL: &str = trail!("$2");
/// The same where the other one is what was read before.
const TRAIL_BACK: &str =
    trail!("(SELECT t.before_generation FROM @@tenant_generations t WHERE t.tenant = $1 AND t.generation = CAST($2 AS integer))");

const CUT_OVER: &str = "INSERT INTO @@tenant_generations (tenant, generation, before_generation, cut_over_at_us, act_id) \
    SELECT CAST($1 AS text), CAST($2 AS integer), a.generation, CAST($3 AS bigint), CAST($4 AS text) \
    FROM @@active_generations a WHERE a.tenant = $1 AND a.generation <> $2 \
    AND EXISTS (SELECT 1 FROM @@generations g WHERE g.generation = $2 AND g.state = 'running') \
    AND NOT EXISTS (SELECT 1 FROM @@tenant_generations d WHERE d.tenant = $1 AND d.generation = $2 AND d.dropped_at_us IS NOT NULL) \
    AND (CAST($5 AS bigint) = 1 OR (SELECT count(*) FROM @@trailing_entities t WHERE t.tenant = $1) <= CAST($6 AS bigint)) \
    ON CONFLICT (tenant, generation) DO UPDATE SET before_generation = excluded.before_generation, \
    cut_over_at_us = excluded.cut_over_at_us, act_id = excluded.act_id RETURNING before_generation";

const ACTIVATE: &str = "UPDATE @@active_generations SET generation = $2 WHERE tenant = $1 \
    AND EXISTS (SELECT 1 FROM @@tenant_generations t WHERE t.tenant = $1 AND t.generation = $2 AND t.act_id = $3)";

const ROLL_BACK: &str = "UPDATE @@tenant_generations AS t SET cut_over_at_us = NULL, act_id = $3 WHERE t.tenant = $1 AND t.generation = $2 \
    AND t.before_generation IS NOT NULL \
    AND EXISTS (SELECT 1 FROM @@active_generations a WHERE a.tenant = $1 AND a.generation = $2) \
    AND NOT EXISTS (SELECT 1 FROM @@tenant_generations d WHERE d.tenant = $1 \
      AND d.generation = t.before_generation AND d.dropped_at_us IS NOT NULL) \
    AND (t.before_generation = 1 OR EXISTS (SELECT 1 FROM @@generations g \
      WHERE g.generation = t.before_generation AND g.state = 'running')) RETURNING before_generation";

const ACTIVATE_BEFORE: &str = "UPDATE @@active_generations SET generation = (SELECT t.before_generation FROM @@tenant_generations t \
    WHERE t.tenant = $1 AND t.generation = $2) WHERE tenant = $1 \
    AND EXISTS (SELECT 1 FROM @@tenant_generations t WHERE t.tenant = $1 AND t.generation = $2 AND t.act_id = $3)";

const DROP_OF: &str = "INSERT INTO @@tenant_generations AS t (tenant, generation, dropped_at_us, act_id) \
    SELECT CAST($1 AS text), CAST($2 AS integer), CAST($3 AS bigint), CAST($4 AS text) FROM @@active_generations a \
    WHERE a.tenant = $1 AND a.generation <> $2 \
    AND NOT EXISTS (SELECT 1 FROM @@trailing_entities r WHERE r.tenant = $1 AND r.generation = $2) \
    ON CONFLICT (tenant, generation) DO UPDATE SET dropped_at_us = excluded.dropped_at_us, act_id = excluded.act_id \
    WHERE t.dropped_at_us IS NULL RETURNING tenant";

const AUDIT_GENERATION: &str = "INSERT INTO @@audit_log (act_id, at_us, tenant, actor, actor_tenant, act, subject, detail) \
    SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), CAST($6 AS text), \
    coalesce((SELECT CAST(generation AS text) FROM @@generations WHERE act_id = $1), CAST($7 AS text)), CAST($8 AS text) \
    WHERE EXISTS (SELECT 1 FROM @@generations WHERE act_id = $1)";

const AUDIT_OF_TENANT: &str = "INSERT INTO @@audit_log (act_id, at_us, tenant, actor, actor_tenant, act, subject, detail) \
    SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), CAST($6 AS text), \
    CAST($7 AS text), CAST($8 AS text) WHERE EXISTS (SELECT 1 FROM @@tenant_generations WHERE tenant = $3 AND act_id = $1)";

const TO_FREE: &str = "SELECT generation, NULL FROM @@generations \
    WHERE state = 'dropped' AND freed_at_us IS NULL AND dropped_at_us < CAST($1 AS bigint) \
    UNION ALL SELECT generation, tenant FROM @@tenant_generations WHERE freed_at_us IS NULL AND dropped_at_us < CAST($1 AS bigint)";

/// Entities in the order of their keys, from one on.
const ENTITIES_AFTER: &str =
    "SELECT entity_key FROM @entities WHERE tenant = $1 AND entity_key > $2 ORDER BY entity_key LIMIT $3";

/// As the sink takes these locks: in the order of the keys. A new version tells what is remembered of an entity that it is no more so.
const LOCK_ENTITIES: &str = "UPDATE @entities SET version = version + 1 WHERE tenant = $1 AND entity_key IN \
    (SELECT e.entity_key FROM @entities e WHERE e.tenant = $1 AND e.entity_key > $3 AND e.entity_key <= $4 \
    AND (EXISTS (SELECT 1 FROM @outcomes o WHERE o.tenant = $1 AND o.entity_key = e.entity_key AND o.generation = $2) \
      OR EXISTS (SELECT 1 FROM @dead_letters d WHERE d.tenant = $1 AND d.entity_key = e.entity_key AND d.generation = $2)) \
    ORDER BY e.entity_key {for update})";

const FREED_OF_TENANT: &str = "UPDATE @@tenant_generations SET freed_at_us = $3 WHERE tenant = $1 AND generation = $2";
const FREED_WHOLLY: &str = "UPDATE @@generations SET freed_at_us = $2 WHERE generation = $1";

const HISTORY: &str = "SELECT count(*) FROM @events WHERE tenant = $1 AND NOT erased AND accepted_at_us < CAST($2 AS bigint)";
const OUTCOMES: &str = "SELECT \
    coalesce(sum(CASE WHEN event_accepted_at_us < CAST($3 AS bigint) THEN CAST(1 AS integer) ELSE CAST(0 AS integer) END), 0), \
    coalesce(sum(CASE WHEN event_accepted_at_us < CAST($3 AS bigint) AND kind = 2 THEN CAST(1 AS integer) ELSE CAST(0 AS integer) END), 0), \
    coalesce(sum(CASE WHEN ended_at_us >= CAST($4 AS bigint) THEN CAST(1 AS integer) ELSE CAST(0 AS integer) END), 0) \
    FROM @outcomes WHERE tenant = $1 AND generation = $2";

/// All, and those that ended before a time.
const BEHIND: &str = concat!(
    "SELECT count(*), coalesce(sum(CASE WHEN o.ended_at_us < CAST($3 AS bigint) THEN CAST(1 AS integer) ELSE CAST(0 AS integer) END), 0) \
    FROM @outcomes o WHERE o.tenant = $1 \
    AND o.generation = coalesce((SELECT a.generation FROM @@active_generations a WHERE a.tenant = $1), 1) AND ",
    lacks!("$2")
);

const TRAILING: &str = "SELECT count(*) FROM @@trailing_entities WHERE tenant = $1";
const TENANTS_TRAILING: &str = "SELECT DISTINCT tenant FROM @@trailing_entities";
/// As the sink takes these locks: in the order of the keys.
const LOCK_TRAILING: &str = "SELECT e.version FROM @entities e WHERE e.tenant = $1 AND e.entity_key IN \
    (SELECT t.entity_key FROM @@trailing_entities t WHERE t.tenant = $1) ORDER BY e.entity_key {for update}";
const FOLLOW: &str = concat!(
    "DELETE FROM @@trailing_entities AS t WHERE t.tenant = $1 AND NOT EXISTS (SELECT 1 FROM @outcomes o \
    WHERE o.tenant = $1 AND o.entity_key = t.entity_key AND o.generation = t.generation AND ",
    lacks!("coalesce((SELECT a.generation FROM @@active_generations a WHERE a.tenant = $1), 1)"),
    ") RETURNING 1"
);

/// A call that served several events has one record on the log, and its tokens are counted once.
const SPENT: &str = "SELECT coalesce(CAST(sum(events) AS bigint), 0), coalesce(CAST(sum(tokens_in) AS bigint), 0), \
    coalesce(CAST(sum(tokens_out) AS bigint), 0), coalesce(CAST(sum(cost_micros) AS bigint), 0) FROM \
    (SELECT count(*) AS events, max(tokens_in) AS tokens_in, max(tokens_out) AS tokens_out, max(cost_micros) AS cost_micros \
    FROM @outcomes WHERE generation = $2 AND tokens_in > 0 AND (CAST($1 AS text) = '*' OR tenant = $1) \
    GROUP BY tenant, log_topic_id, log_partition, log_offset) c";

const SELECTED: &str = "SELECT count(*), coalesce(CAST(sum(x.messages) AS bigint), 0), coalesce(CAST(sum(x.characters) AS bigint), 0) \
    FROM (SELECT count(m.message_key) AS messages, coalesce(sum(length(m.content)), 0) AS characters FROM @events e \
    JOIN @entities n ON n.tenant = e.tenant AND n.entity_key = e.entity_key \
    LEFT JOIN @messages m ON m.tenant = e.tenant AND m.entity_key = e.entity_key AND m.event_id = e.event_id \
      AND m.content_hash = e.content_hash \
    WHERE e.tenant = $1 AND NOT e.erased AND e.accepted_at_us < CAST($2 AS bigint) \
    AND e.occurred_at_us >= CAST($3 AS bigint) AND e.occurred_at_us < CAST($4 AS bigint) \
    AND (CAST($5 AS bigint) = 0 OR n.entity_id {any $6}) GROUP BY e.event_id, e.entity_key, e.content_hash) x";

/// Each tenant by one look into the index, however many rows it has.
const TENANT_AFTER: &str = "SELECT tenant FROM @entities WHERE tenant {bytewise} > $1 ORDER BY tenant {bytewise} LIMIT 1";

const SIDE_FACTS: &str = "SELECT fact_id, kind, body, subject, slot FROM @facts \
    WHERE tenant = $1 AND entity_key = $2 AND generation = $3 ORDER BY fact_id";
const SIDE_VALIDITY: &str = "SELECT fact_id, valid_from_us, valid_to_us FROM @validity \
    WHERE tenant = $1 AND entity_key = $2 AND generation = $3 ORDER BY fact_id, valid_from_us";
const SIDE_MENTIONS: &str = "SELECT DISTINCT fact_id, message_key, message_id FROM @mentions \
    WHERE tenant = $1 AND entity_key = $2 AND generation = $3 ORDER BY fact_id, message_key, message_id";
const SAID: &str = "SELECT content FROM @messages WHERE tenant = $1 AND entity_key = $2 AND message_key = $3 \
    ORDER BY occurred_at_us, event_id LIMIT 1";

/// Tables with rows of generations, those that others are made of last: what was begun and not ended is found again by its outcomes.
const FREE: [&str; 8] = [
    "DELETE FROM @packs WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
    "DELETE FROM @validity WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
    "DELETE FROM @fact_stats WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
    "DELETE FROM @facts WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
    "DELETE FROM @message_vectors WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
    "DELETE FROM @mentions WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
    "DELETE FROM @dead_letters WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
    "DELETE FROM @outcomes WHERE tenant = $1 AND generation = $2 AND entity_key > $3 AND entity_key <= $4 RETURNING 1",
];

/// Entities that one step of freeing looks at.
const FREE_ENTITIES: i64 = 50;
/// Entities of a tenant that may trail at a switch.
const MAX_TRAILING: i64 = 1_000;
/// What ended longer ago and is missing is behind, and not on its way; microseconds.
const ON_ITS_WAY_US: i64 = 5_000_000;
/// As far back entities are looked for that trail: what ended before is there, as was seen just before.
const RECENT_US: i64 = 60_000_000;
/// Tries of a number that others took meanwhile.
const START_TRIES: usize = 5;

fn int(n: impl Into<i64>) -> Param {
    Param::Int(n.into())
}

fn key(entity_key: &EntityKey) -> Param {
    Param::Bytes(entity_key.0.to_vec())
}

fn number(row: &mut Row) -> Result<i32, ReadError> {
    i32::try_from(row.int()?).map_err(|_| ReadError::Corrupt("a generation out of range"))
}

fn opt_number(row: &mut Row) -> Result<Option<i32>, ReadError> {
    row.opt_int()?.map(i32::try_from).transpose().map_err(|_| ReadError::Corrupt("a generation out of range"))
}

fn document<T: DeserializeOwned>(row: &mut Row) -> Result<T, ReadError> {
    serde_json::from_str(&row.text()?).map_err(|_| ReadError::Corrupt("a generation that this version cannot read"))
}

fn written(document: &impl serde::Serialize) -> Param {
    // Maps with names of text alone: nothing in them cannot be written.
    Param::Text(serde_json::to_string(document).unwrap_or_default())
}

fn generation_row(row: &mut Row) -> Result<Generation, ReadError> {
    Ok(Generation {
        generation: number(row)?,
        base: number(row)?,
        tenants: document(row)?,
        spec: document(row)?,
        selection: document(row)?,
        limits: document(row)?,
        state: State::parse(&row.text()?).ok_or(ReadError::Corrupt("a generation in an unknown state"))?,
        reason: row.opt_text()?,
        created_at_us: row.int()?,
    })
}

fn of_tenant(row: &mut Row) -> Result<OfTenant, ReadError> {
    Ok(OfTenant { tenant: row.text()?, generation: number(row)? })
}

fn all<T>(rows: Vec<Row>, read: impl Fn(&mut Row) -> Result<T, ReadError>) -> Result<Vec<T>, ReadError> {
    rows.into_iter().map(|mut row| read(&mut row)).collect()
}

/// Under whose name an act on a generation stands in the audit log.
fn told_of(tenants: &[String]) -> &str {
    match tenants {
        [one] => one,
        _ => EVERY_TENANT,
    }
}

fn facts_of(results: Vec<Vec<Row>>) -> Result<Vec<ComparedFact>, ReadError> {
    let [facts, validity, mentions]: [Vec<Row>; 3] =
        results.try_into().map_err(|_| ReadError::Corrupt("a statement without a result"))?;
    let mut by_id: BTreeMap<Vec<u8>, ComparedFact> = BTreeMap::new();
    let id = |row: &mut Row| row.bytes().map(|bytes| bytes.to_vec());
    for mut row in facts {
        let id = id(&mut row)?;
        let kind = row.one_of(FactKind::ALL)?;
        let (text, subject, slot) = (row.text()?, row.opt_text()?, row.opt_text()?);
        by_id.insert(id, ComparedFact { kind, text, subject, slot, validity: Vec::new(), evidence: Vec::new() });
    }
    for mut row in validity {
        let id = id(&mut row)?;
        let interval = (row.int()?, row.opt_int()?);
        if let Some(fact) = by_id.get_mut(&id) {
            fact.validity.push(interval);
        }
    }
    for mut row in mentions {
        let id = id(&mut row)?;
        let evidence = (row.hash(MessageKey::from_slice)?, row.text()?);
        if let Some(fact) = by_id.get_mut(&id) {
            fact.evidence.push(evidence);
        }
    }
    Ok(by_id.into_values().collect())
}

impl<D: Changing> SqlControl<D> {
    async fn rows(&self, template: &'static str, params: Vec<Param>) -> Result<Vec<Row>, ReadError> {
        self.0.query(Statement::whole(template, params)).await
    }

    async fn one_row(&self, template: &'static str, params: Vec<Param>) -> Result<Row, ReadError> {
        self.rows(template, params).await?.into_iter().next().ok_or(ReadError::Corrupt("a count without a row"))
    }
}

#[async_trait]
impl<D: Changing> GenerationStore for SqlControl<D> {
    async fn followed(&self) -> Result<Followed, ReadError> {
        let statements = [FOLLOWED, ACTIVE, DROPPED, DROPPED_WHOLLY].map(|template| Statement::whole(template, Vec::new()));
        let results = self.0.snapshot(statements.into()).await?;
        let [generations, active, dropped, wholly]: [Vec<Row>; 4] =
            results.try_into().map_err(|_| ReadError::Corrupt("a statement without a result"))?;
        Ok(Followed {
            generations: all(generations, generation_row)?,
            active: all(active, of_tenant)?.into_iter().collect(),
            dropped: all(dropped, of_tenant)?.into_iter().collect(),
            dropped_wholly: all(wholly, number)?.into_iter().collect(),
        })
    }

    async fn start(&self, new: &NewGeneration, act: &Act) -> Result<Option<Generation>, ReadError> {
        let detail = json!({
            "base": new.base, "tenants": new.tenants, "spec": new.spec, "selection": new.selection, "limits": new.limits,
        });
        let params = || {
            vec![
                int(new.base),
                written(&new.tenants),
                written(&new.spec),
                written(&new.selection),
                written(&new.limits),
                int(act.at_us),
                text(&act.actor),
                text(&act.id),
                int(MAX_GENERATIONS),
            ]
        };
        let mut tries = 0;
        let results = loop {
            let statements = vec![
                Statement::whole(START, params()),
                line(AUDIT_GENERATION, act, told_of(&new.tenants), "replay.start", "", &detail),
            ];
            tries += 1;
            match self.0.change(statements).await {
                Err(_) if tries < START_TRIES => {}
                settled => break settled?,
            }
        };
        let Some(mut row) = results.into_iter().next().and_then(|rows| rows.into_iter().next()) else { return Ok(None) };
        GenerationStore::generation(self, number(&mut row)?).await
    }

    async fn generations(&self, before: i32, limit: usize) -> Result<Vec<Generation>, ReadError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        all(self.rows(GENERATIONS, vec![int(before), int(limit)]).await?, generation_row)
    }

    async fn generation(&self, generation: i32) -> Result<Option<Generation>, ReadError> {
        Ok(all(self.rows(GENERATION, vec![int(generation)]).await?, generation_row)?.pop())
    }

    async fn standings(&self, generation: i32) -> Result<Vec<TenantStanding>, ReadError> {
        all(self.rows(STANDINGS, vec![int(generation)]).await?, |row| {
            Ok(TenantStanding {
                tenant: row.text()?,
                before: opt_number(row)?,
                cut_over_at_us: row.opt_int()?,
                dropped_at_us: row.opt_int()?,
                freed_at_us: row.opt_int()?,
            })
        })
    }

    async fn change(
        &self,
        generation: &Generation,
        from: &[State],
        to: State,
        reason: Option<&str>,
        act: &Act,
    ) -> Result<bool, ReadError> {
        let name = match to {
            State::Running => "replay.resume",
            State::Paused => "replay.pause",
            State::Cancelled => "replay.cancel",
            State::Dropped => "replay.drop",
        };
        let params = vec![
            int(generation.generation),
            text(to.as_str()),
            Param::OptText(reason.map(str::to_owned)),
            text(&act.id),
            Param::Texts(from.iter().map(|state| state.as_str().to_owned()).collect()),
            int(act.at_us),
        ];
        let detail = reason.map_or_else(|| json!({}), |reason| json!({"reason": reason}));
        let subject = generation.generation.to_string();
        let results = self
            .0
            .change(vec![
                Statement::whole(CHANGE, params),
                line(AUDIT_GENERATION, act, told_of(&generation.tenants), name, &subject, &detail),
            ])
            .await?;
        Ok(results.first().is_some_and(|rows| !rows.is_empty()))
    }

    async fn cut_over(&self, tenant: &str, generation: &Generation, forced: bool, act: &Act) -> Result<Switched, ReadError> {
        let number = int(generation.generation);
        let params = vec![text(tenant), number.clone(), int(act.at_us), text(&act.id), int(i64::from(forced)), int(MAX_TRAILING)];
        // Whoever forces a switch does without what is missing.
        let most = if forced { 0 } else { MAX_TRAILING + 1 };
        let trail = vec![text(tenant), number.clone(), int(act.at_us - RECENT_US), int(most)];
        let detail = json!({"forced": forced});
        let subject = generation.generation.to_string();
        let results = self
            .0
            .change(vec![
                Statement::across_tenants(ALONE, Vec::new()),
                Statement::whole(LOCK_GENERATION, vec![number.clone()]),
                Statement::whole(LOCK_ACTIVE, vec![text(tenant)]),
                Statement::whole(TRAIL, trail),
                Statement::whole(CUT_OVER, params),
                Statement::whole(ACTIVATE, vec![text(tenant), number, text(&act.id)]),
                line(AUDIT_OF_TENANT, act, tenant, "replay.cut_over", &subject, &detail),
            ])
            .await?;
        let mut results = results.into_iter().skip(2);
        let active = results.next().and_then(|rows| rows.into_iter().next()).map(|mut row| self::number(&mut row)).transpose()?;
        let mut results = results.skip(1);
        if let Some(mut row) = results.next().and_then(|rows| rows.into_iter().next()) {
            return Ok(Switched::From(self::number(&mut row)?));
        }
        if active == Some(generation.generation) {
            return Ok(Switched::Already);
        }
        let followed = self.followed().await?;
        let runs = |one: &Generation| one.generation == generation.generation && one.state == State::Running;
        if !followed.generations.iter().any(runs) || followed.is_dropped(tenant, generation.generation) {
            return Ok(Switched::Not);
        }
        Ok(Switched::Behind)
    }

    async fn roll_back(&self, tenant: &str, generation: i32, act: &Act) -> Result<Option<i32>, ReadError> {
        let params = || vec![text(tenant), int(generation), text(&act.id)];
        let trail = vec![text(tenant), int(generation), int(act.at_us - RECENT_US), int(MAX_TRAILING)];
        let results = self
            .0
            .change(vec![
                Statement::across_tenants(ALONE, Vec::new()),
                Statement::whole(LOCK_ACTIVE, vec![text(tenant)]),
                Statement::whole(TRAIL_BACK, trail),
                Statement::whole(ROLL_BACK, params()),
                Statement::whole(ACTIVATE_BEFORE, params()),
                line(AUDIT_OF_TENANT, act, tenant, "replay.roll_back", &generation.to_string(), &json!({})),
            ])
            .await?;
        results.into_iter().nth(3).and_then(|rows| rows.into_iter().next()).map(|mut row| number(&mut row)).transpose()
    }

    async fn drop_of(&self, tenant: &str, generation: i32, act: &Act) -> Result<bool, ReadError> {
        let params = vec![text(tenant), int(generation), int(act.at_us), text(&act.id)];
        let results = self
            .0
            .change(vec![
                Statement::whole(LOCK_ACTIVE, vec![text(tenant)]),
                Statement::whole(DROP_OF, params),
                line(AUDIT_OF_TENANT, act, tenant, "replay.drop", &generation.to_string(), &json!({})),
            ])
            .await?;
        Ok(results.get(1).is_some_and(|rows| !rows.is_empty()))
    }

    async fn drop_whole(&self, generation: &Generation, act: &Act) -> Result<bool, ReadError> {
        self.change(generation, &[State::Running, State::Paused, State::Cancelled], State::Dropped, None, act).await
    }

    async fn to_free(&self, dropped_before_us: i64) -> Result<Vec<(i32, Option<String>)>, ReadError> {
        all(self.rows(TO_FREE, vec![int(dropped_before_us)]).await?, |row| Ok((number(row)?, row.opt_text()?)))
    }

    async fn free(&self, tenant: &str, generation: i32, after: &EntityKey) -> Result<(u64, Option<EntityKey>), ReadError> {
        let entities = self.rows(ENTITIES_AFTER, vec![text(tenant), key(after), int(FREE_ENTITIES)]).await?;
        let Some(mut last) = entities.into_iter().next_back() else { return Ok((0, None)) };
        let last = last.hash(EntityKey::from_slice)?;
        let params = || vec![text(tenant), int(generation), key(after), key(&last)];
        let statements = std::iter::once(LOCK_ENTITIES).chain(FREE).map(|template| Statement::whole(template, params()));
        let results = self.0.change(statements.collect()).await?;
        Ok((results.iter().skip(1).map(|rows| rows.len() as u64).sum(), Some(last)))
    }

    async fn freed(&self, generation: i32, tenant: Option<&str>, at_us: i64) -> Result<(), ReadError> {
        let statement = match tenant {
            Some(tenant) => Statement::whole(FREED_OF_TENANT, vec![text(tenant), int(generation), int(at_us)]),
            None => Statement::whole(FREED_WHOLLY, vec![int(generation), int(at_us)]),
        };
        self.0.change(vec![statement]).await.map(drop)
    }

    async fn progress(&self, tenant: &str, generation: &Generation, now_us: i64) -> Result<Progress, ReadError> {
        let history = int(generation.created_at_us);
        let mut events = self.one_row(HISTORY, vec![text(tenant), history.clone()]).await?;
        let params = vec![text(tenant), int(generation.generation), history, int(now_us - 60_000_000)];
        let mut outcomes = self.one_row(OUTCOMES, params).await?;
        Ok(Progress { events: events.int()?, done: outcomes.int()?, dead: outcomes.int()?, last_minute: outcomes.int()? })
    }

    async fn behind(&self, tenant: &str, generation: i32, now_us: i64) -> Result<Behind, ReadError> {
        let asked = Statement::whole(BEHIND, vec![text(tenant), int(generation), int(now_us - ON_ITS_WAY_US)]);
        let rows = self.0.snapshot(vec![asked]).await?.into_iter().next().unwrap_or_default();
        let mut row = rows.into_iter().next().ok_or(ReadError::Corrupt("a count without a row"))?;
        Ok(Behind { events: row.int()?, for_long: row.int()? })
    }

    async fn follow(&self, tenant: &str) -> Result<i64, ReadError> {
        let mut trailing = self.one_row(TRAILING, vec![text(tenant)]).await?.int()?;
        if trailing > 0 {
            // Not beside a switch: what it sees trailing is still to trail when it is done.
            let statements = [LOCK_ACTIVE, LOCK_TRAILING, FOLLOW].map(|template| Statement::whole(template, vec![text(tenant)]));
            let results = self.0.change(statements.into()).await?;
            trailing -= results.get(2).map_or(0, |rows| i64::try_from(rows.len()).unwrap_or(i64::MAX));
        }
        Ok(trailing.max(0))
    }

    async fn tenants_trailing(&self) -> Result<Vec<String>, ReadError> {
        all(self.rows(TENANTS_TRAILING, Vec::new()).await?, Row::text)
    }

    async fn spent(&self, tenant: Option<&str>, generation: i32) -> Result<Spent, ReadError> {
        let mut row = self.one_row(SPENT, vec![text(tenant.unwrap_or(EVERY_TENANT)), int(generation)]).await?;
        Ok(Spent { events: row.int()?, tokens_in: row.int()?, tokens_out: row.int()?, cost_micros: row.int()? })
    }

    async fn selected(&self, tenant: &str, selection: &Selection, accepted_before_us: i64) -> Result<Selected, ReadError> {
        let entities: Vec<String> = selection.entities.iter().cloned().collect();
        let params = vec![
            text(tenant),
            int(accepted_before_us),
            int(selection.from_us.unwrap_or(i64::MIN)),
            int(selection.until_us.unwrap_or(i64::MAX)),
            int(i64::from(!entities.is_empty())),
            Param::Texts(entities),
        ];
        let mut row = self.one_row(SELECTED, params).await?;
        Ok(Selected { events: row.int()?, messages: row.int()?, characters: row.int()? })
    }

    async fn tenants_with_data(&self, after: &str, limit: usize) -> Result<Vec<String>, ReadError> {
        let mut tenants: Vec<String> = Vec::new();
        while tenants.len() < limit {
            let after = tenants.last().map_or(after, String::as_str);
            let Some(mut row) = self.rows(TENANT_AFTER, vec![text(after)]).await?.into_iter().next() else { break };
            tenants.push(row.text()?);
        }
        Ok(tenants)
    }

    async fn made_of(
        &self,
        tenant: &str,
        entity_id: &str,
        generation: i32,
        events: &[(String, ContentHash)],
    ) -> Result<Vec<Made>, ReadError> {
        let entity_key = ids::entity_key(tenant, entity_id);
        let names: BTreeSet<&String> = events.iter().map(|(event_id, _)| event_id).collect();
        let params = || {
            let names = names.iter().map(|name| (*name).clone()).collect();
            vec![text(tenant), key(&entity_key), int(generation), Param::Texts(names)]
        };
        let statements = made::STATEMENTS.map(|template| Statement::whole(template, params()));
        made::made_of((tenant, entity_id, generation), events, self.0.snapshot(statements.into()).await?)
    }

    async fn sides(
        &self,
        tenant: &str,
        entity_key: &EntityKey,
        generations: (i32, i32),
    ) -> Result<(Vec<ComparedFact>, Vec<ComparedFact>), ReadError> {
        let of = |generation: i32| {
            [SIDE_FACTS, SIDE_VALIDITY, SIDE_MENTIONS]
                .map(|template| Statement::whole(template, vec![text(tenant), key(entity_key), int(generation)]))
        };
        let statements = of(generations.0).into_iter().chain(of(generations.1)).collect();
        let mut this = self.0.snapshot(statements).await?;
        let other = this.split_off(3);
        Ok((facts_of(this)?, facts_of(other)?))
    }

    async fn said(&self, tenant: &str, entity_key: &EntityKey, message_key: &MessageKey) -> Result<Option<String>, ReadError> {
        let params = vec![text(tenant), key(entity_key), Param::Bytes(message_key.0.to_vec())];
        self.rows(SAID, params).await?.into_iter().next().map(|mut row| row.text()).transpose()
    }
}

/// What an act says of itself where nobody asked for it.
pub(super) fn by_itself(at_us: i64) -> Act {
    Act { id: uuid::Uuid::now_v7().to_string(), at_us, actor: "memori".to_owned(), actor_tenant: EVERY_TENANT.to_owned() }
}
