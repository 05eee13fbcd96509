//! Two generations side by side: counts and samples, a page of entities at a time.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State as Shared;
use memori_schemas::{EntityKey, FactKind};
use memori_service::auth::{EVERY_TENANT, is_tenant_name};
use memori_service::generations::FIRST;
use memori_service::problem::{Answer, Problem};
use serde_json::{Map, Value, json};

use super::super::request::QueryParameters;
use super::super::tenants::{Administrator, time};
use super::super::{ApiState, unreadable};
use super::{Numbered, seen};
use crate::generations::diff::{Difference, compare};
use crate::generations::{ComparedFact, GenerationStore};

/// Messages that a sample quotes.
const MAX_EVIDENCE: usize = 5;
/// Samples of one page of a comparison.
const MAX_SAMPLES: usize = 100;

/// Counts of one kind of difference, by kind of fact.
type Counts = BTreeMap<&'static str, i64>;

pub(in crate::api) async fn diff(
    Shared(state): Shared<ApiState>,
    administrator: Administrator,
    Numbered(number): Numbered,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    let limit = parameters.limit();
    let against = parameters.take("against", "a generation's number", |text| text.parse::<i32>().ok().filter(|n| *n >= FIRST));
    let tenant = parameters.take("tenant", "a tenant's name", |text| is_tenant_name(text).then(|| text.to_owned()));
    let wanted = parameters.take("samples", "a whole number up to 100", |text| text.parse().ok().filter(|n| *n <= MAX_SAMPLES));
    let after = parameters.take("cursor", "a cursor of this comparison", |text| {
        let bytes = hex::decode(text).ok()?;
        EntityKey::from_slice(&bytes)
    });
    parameters.finish()?;
    let store = state.generations()?;
    let generation = seen(&**store, &administrator, number).await?;
    let tenant = match (tenant, administrator.own_tenant(), &generation.tenants[..]) {
        (Some(tenant), _, _) => tenant,
        (None, Some(own), _) => own.to_owned(),
        (None, None, [one]) if one != EVERY_TENANT => one.clone(),
        (None, None, _) => return Err(Problem::invalid_field("tenant", "must be named: the replay is of several")),
    };
    administrator.reach(&tenant)?;
    if !generation.is_of(&tenant) {
        return Err(Problem::invalid_field("tenant", "the replay is not of this tenant"));
    }
    let against = against.unwrap_or(generation.base);
    let entities = state.store.entities(&tenant, after.as_ref(), limit).await.map_err(unreadable)?;
    let mut counts: BTreeMap<&'static str, Counts> =
        ["same", "gained", "lost", "changed"].map(|name| (name, Counts::new())).into();
    let mut samples = Vec::new();
    for entity in &entities {
        let sides = store.sides(&tenant, &entity.entity_key, (against, number)).await.map_err(unreadable)?;
        let (differences, _) = compare(&sides.0, &sides.1);
        for fact in &sides.0 {
            *counts.entry("same").or_default().entry(fact.kind.as_str()).or_default() += 1;
        }
        for difference in &differences {
            let kind = difference.kind().as_str();
            *counts.entry(difference.name()).or_default().entry(kind).or_default() += 1;
            if !matches!(difference, Difference::Gained(_)) {
                *counts.entry("same").or_default().entry(kind).or_default() -= 1;
            }
            if samples.len() < wanted.unwrap_or(10) {
                samples.push(sample(&**store, &tenant, entity, difference).await?);
            }
        }
    }
    let next_cursor = entities.last().filter(|_| entities.len() == limit).map(|last| hex::encode(last.entity_key.0));
    let counts: Map<String, Value> = counts.into_iter().map(|(name, of)| (name.to_owned(), by_kind(&of))).collect();
    Ok(Json(json!({
        "generation": number,
        "against": against,
        "tenant": tenant,
        "entities": entities.len(),
        "counts": counts,
        "samples": samples,
        "next_cursor": next_cursor,
    })))
}

fn by_kind(counts: &Counts) -> Value {
    let shown = FactKind::ALL.iter().filter_map(|kind| Some((kind.as_str().to_owned(), (*counts.get(kind.as_str())?).into())));
    Value::Object(shown.collect())
}

async fn sample(
    store: &dyn GenerationStore,
    tenant: &str,
    entity: &crate::reads::rows::EntityRow,
    difference: &Difference<'_>,
) -> Answer<Value> {
    let (before, after) = match *difference {
        Difference::Gained(fact) => (None, Some(fact)),
        Difference::Lost(fact) => (Some(fact), None),
        Difference::Changed(fact, other) => (Some(fact), Some(other)),
    };
    Ok(json!({
        "entity_id": entity.entity_id,
        "difference": difference.name(),
        "kind": difference.kind().as_str(),
        "before": side(store, tenant, entity, before).await?,
        "after": side(store, tenant, entity, after).await?,
    }))
}

async fn side(
    store: &dyn GenerationStore,
    tenant: &str,
    entity: &crate::reads::rows::EntityRow,
    fact: Option<&ComparedFact>,
) -> Answer<Value> {
    let Some(fact) = fact else { return Ok(Value::Null) };
    let mut evidence = Vec::new();
    for (message_key, message_id) in fact.evidence.iter().take(MAX_EVIDENCE) {
        let said = store.said(tenant, &entity.entity_key, message_key).await.map_err(unreadable)?;
        evidence.push(json!({"message_id": message_id, "content": said}));
    }
    let validity: Vec<Value> =
        fact.validity.iter().map(|(from, to)| json!({"valid_from": time(*from), "valid_to": to.map(time)})).collect();
    Ok(json!({
        "content": fact.text,
        "subject": fact.subject,
        "slot": fact.slot,
        "validity": validity,
        "mentions": fact.evidence.len(),
        "evidence": evidence,
    }))
}
