//! Lineages for operators, and what ingest asks to withdraw what one made and to have it extracted again.
//!
//! Promises: who administers one tenant sees and withdraws that tenant's alone; nothing of what was said is in an answer.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use memori_schemas::Micros;
use memori_service::problem::{Answer, FieldErrors, Fields, Problem, join};
use serde_json::{Value, json};

use super::request::{QueryParameters, Tenant, json_body};
use super::tenants::Administrator;
use super::{ApiState, EVERY_TENANT, unreadable};
use crate::reads::cursor;
use crate::reads::lineages::{Lineage, LineageCount};

const MAX_BODY_BYTES: usize = 64 << 10;
/// Bytes of a tenant's or a lineage's name.
const MAX_NAME: usize = 512;
/// Entities, or events, of one page.
const MAX_PAGE: i64 = 1_000;

/// Whose: the caller's own tenant, or the one that an operator names.
fn owner(caller: &str, named: Option<String>) -> Answer<String> {
    match named {
        Some(tenant) if caller == EVERY_TENANT || tenant == caller => Ok(tenant),
        Some(_) => Err(Problem::invalid_field(
            join("", "tenant"),
            "the key administers its own tenant only; one that is bound to `*` names any",
        )),
        None if caller == EVERY_TENANT => {
            Err(Problem::invalid_field(join("", "tenant"), "is required with a key that is bound to `*`"))
        }
        None => Ok(caller.to_owned()),
    }
}

pub(super) async fn list(State(state): State<ApiState>, tenant: Tenant, mut parameters: QueryParameters) -> Answer<Json<Value>> {
    let named = parameters.take("tenant", "a tenant", |text| (text.len() <= MAX_NAME).then(|| text.to_owned()));
    parameters.finish()?;
    let tenant = owner(&tenant.0, named)?;
    let counts = state.store.lineages(&tenant).await.map_err(unreadable)?;
    let shown: Vec<Value> = counts.iter().map(shown).collect();
    Ok(Json(json!({"tenant": tenant, "lineages": shown})))
}

fn shown(count: &LineageCount) -> Value {
    let lineage = &count.lineage;
    json!({
        "extractor": lineage.extractor,
        "version": lineage.version,
        "model": lineage.model,
        "prompt_hash": lineage.prompt_hash,
        "generation": lineage.generation,
        "events": count.events,
        "withdrawn": count.withdrawn,
        "facts": count.facts,
        "mentions": count.mentions,
        "first_at": Micros(count.first_at_us).to_rfc3339(),
        "last_at": Micros(count.last_at_us).to_rfc3339(),
    })
}

/// What ingest asks about.
struct Asked {
    tenant: Option<String>,
    lineage: Lineage,
    cursor: Option<String>,
    limit: usize,
    /// To be noted in the audit log.
    act: Option<(String, String)>,
}

async fn asked(headers: &HeaderMap, body: Body) -> Answer<Asked> {
    let mut errors = FieldErrors::default();
    let asked = Fields::of(json_body(headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let generation = fields.integer("generation", 1..=i32::MAX.into());
        let asked = Asked {
            tenant: fields.text("tenant", 1..=MAX_NAME),
            lineage: Lineage {
                extractor: fields.text("extractor", 1..=MAX_NAME),
                version: fields.text("version", 1..=MAX_NAME),
                model: fields.text("model", 1..=MAX_NAME),
                prompt_hash: fields.text("prompt_hash", 1..=MAX_NAME),
                generation: generation.and_then(|n| i32::try_from(n).ok()),
            },
            cursor: fields.text("cursor", 1..=4_096),
            limit: fields.integer("limit", 1..=MAX_PAGE).and_then(|n| usize::try_from(n).ok()).unwrap_or(200),
            act: fields.text("act", 1..=64).zip(fields.text("subject", 1..=128)),
        };
        fields.finish();
        asked
    });
    errors.into_result(asked)?.ok_or_else(Problem::internal)
}

fn no_cursor() -> Problem {
    Problem::invalid_field(join("", "cursor"), "must be a cursor of this listing")
}

/// Writes the act down that this question is part of, if it says one.
async fn note(state: &ApiState, administrator: &Administrator, tenant: &str, asked: &Asked) -> Answer<()> {
    let (Some((act, subject)), Some(control)) = (&asked.act, &state.control) else { return Ok(()) };
    let lineage = &asked.lineage;
    let detail = json!({"extractor": lineage.extractor, "version": lineage.version, "model": lineage.model,
        "prompt_hash": lineage.prompt_hash, "generation": lineage.generation});
    control.note(tenant, act, subject, &detail, &administrator.act()).await.map_err(unreadable)
}

/// Entities with something that the lineage made and that was not withdrawn, by key.
pub(super) async fn entities(
    State(state): State<ApiState>,
    administrator: Administrator,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let asked = asked(&headers, body).await?;
    let tenant = owner(administrator.tenant(), asked.tenant.clone())?;
    let after = asked.cursor.as_deref().map(|text| cursor::entity(text).ok_or_else(no_cursor)).transpose()?;
    note(&state, &administrator, &tenant, &asked).await?;
    let mut rows =
        state.store.lineage_entities(&tenant, &asked.lineage, after.as_ref(), asked.limit + 1).await.map_err(unreadable)?;
    let more = rows.len() > asked.limit;
    rows.truncate(asked.limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| cursor::of_entity(&row.entity_key));
    let entities: Vec<Value> = rows.iter().map(|row| json!({"entity_id": row.entity_id, "events": row.events})).collect();
    Ok(Json(json!({"tenant": tenant, "entities": entities, "next_cursor": next_cursor})))
}

/// Events whose outcome was withdrawn, with where their records stand.
pub(super) async fn withdrawn(
    State(state): State<ApiState>,
    administrator: Administrator,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let asked = asked(&headers, body).await?;
    let tenant = owner(administrator.tenant(), asked.tenant.clone())?;
    let after = asked.cursor.as_deref().map(|text| cursor::withdrawn(text).ok_or_else(no_cursor)).transpose()?;
    note(&state, &administrator, &tenant, &asked).await?;
    let mut rows =
        state.store.withdrawn_events(&tenant, &asked.lineage, after.as_ref(), asked.limit + 1).await.map_err(unreadable)?;
    let more = rows.len() > asked.limit;
    rows.truncate(asked.limit);
    let next_cursor =
        rows.last().filter(|_| more).map(|row| cursor::of_withdrawn(&(row.entity_key, row.event_id.clone(), row.content_hash)));
    let events: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "entity_id": row.entity_id,
                "event_id": row.event_id,
                "content_hash": row.content_hash.to_string(),
                "attempt": row.attempt,
                "lane": row.lane.as_str(),
                "partition": row.partition,
                "offset": row.offset,
            })
        })
        .collect();
    Ok(Json(json!({"tenant": tenant, "events": events, "next_cursor": next_cursor})))
}
