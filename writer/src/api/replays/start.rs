//! What a replay is to be: read, judged, estimated, started.

use axum::Json;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use memori_schemas::Micros;
use memori_service::auth::{EVERY_TENANT, is_tenant_name};
use memori_service::generations::{Category, FIRST, Limits, MAX_ENTITIES, MAX_TENANTS, Selection, Spec};
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::Value;

use super::super::estimate::Asked;
use super::super::request::{MAX_ENTITY_ID_BYTES, json_body};
use super::super::tenants::{Administrator, MAX_BODY_BYTES, no_such_tenant};
use super::super::{ApiState, unreadable};
use super::{shown, texts};
use crate::generations::{GenerationStore, NewGeneration};

/// The most that anything here counts to.
const MOST: i64 = 1 << 50;

/// A request to start one.
struct Wanted {
    tenants: Vec<String>,
    base: Option<i32>,
    spec: Spec,
    selection: Selection,
    limits: Limits,
}

fn categories(fields: &mut Fields<'_>) -> Vec<Category> {
    let mut categories = Vec::new();
    for (place, value) in fields.list("categories", 0..=50).unwrap_or_default().into_iter().enumerate() {
        let path = format!("{}[{place}]", fields.path_of("categories"));
        if let Some(mut one) = Fields::of(value, path, fields.errors()) {
            let (name, description) = (one.required_text("name", 1..=64), one.text("description", 0..=300));
            one.finish();
            categories.extend(name.map(|name| Category { name, description }));
        }
    }
    categories
}

async fn wanted(headers: &HeaderMap, body: Body) -> Answer<Wanted> {
    let mut errors = FieldErrors::default();
    let wanted = Fields::of(json_body(headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let tenants = texts(&mut fields, "tenants", MAX_TENANTS, is_tenant_name, "must be a tenant's name, or `*`");
        let fits = |text: &str| (1..=MAX_ENTITY_ID_BYTES).contains(&text.len()) && !text.contains('\0');
        let entities = texts(&mut fields, "entities", MAX_ENTITIES, fits, "must be 1 to 256 bytes without U+0000");
        let at = |text: &str| Micros::parse_rfc3339(text).map(|at| at.0);
        let from_us = fields.parsed("from", "an RFC 3339 time", at);
        let until_us = fields.parsed("until", "an RFC 3339 time", at);
        let extractor = fields.text("extractor", 1..=16);
        let known = ["configured", "builtin", "llm", "keep"];
        if extractor.as_deref().is_some_and(|name| !known.contains(&name)) {
            fields.broken("extractor", "must be configured, builtin, llm or keep");
        }
        let size = |n: Option<i64>| n.and_then(|n| usize::try_from(n).ok());
        let tokens = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        let spec = Spec {
            keep: extractor.as_deref() == Some("keep"),
            extractor: extractor.filter(|name| name == "builtin" || name == "llm"),
            model: fields.text("model", 1..=128),
            endpoint: fields.text("endpoint", 1..=64),
            instructions: fields.text("instructions", 1..=4_000),
            categories: categories(&mut fields),
            window_events: size(fields.integer("window_events", 1..=1_000)),
            window_messages: size(fields.integer("window_messages", 1..=10_000)),
            window_tokens: tokens(fields.integer("window_tokens", 1..=1_000_000)),
        };
        let limits = Limits {
            max_concurrency: size(fields.integer("max_concurrency", 1..=1_000)).unwrap_or(Limits::default().max_concurrency),
            tokens_per_minute: tokens(fields.integer("tokens_per_minute", 1..=MOST)),
            cost_micros: fields.integer("cost_micros", 1..=MOST),
        };
        let base = fields.integer("base", 1..=i64::from(i32::MAX)).and_then(|base| i32::try_from(base).ok());
        if let (Some(from), Some(until)) = (from_us, until_us)
            && from >= until
        {
            fields.broken("until", "must be later than `from`");
        }
        fields.finish();
        let selection = Selection { entities: entities.into_iter().collect(), from_us, until_us };
        Wanted { tenants, base, spec, selection, limits }
    });
    errors.into_result(wanted)?.ok_or_else(Problem::internal)
}

/// Whose it is to be: of who administers one tenant that one, of an operator those that are named.
fn own_tenants(administrator: &Administrator, mut tenants: Vec<String>) -> Answer<Vec<String>> {
    tenants.sort_unstable();
    tenants.dedup();
    match administrator.own_tenant() {
        Some(own) if tenants.iter().all(|tenant| tenant == own) => Ok(vec![own.to_owned()]),
        Some(_) => Err(no_such_tenant()),
        None if tenants.is_empty() => Err(Problem::invalid_field("tenants", "must name tenants, or be [\"*\"] for all of them")),
        None if tenants.len() > 1 && tenants.iter().any(|tenant| tenant == EVERY_TENANT) => {
            Err(Problem::invalid_field("tenants", "`*` is all of them: name it alone"))
        }
        None => Ok(tenants),
    }
}

/// What is asked for, as it would be made.
async fn new_generation(
    store: &dyn GenerationStore,
    administrator: &Administrator,
    headers: &HeaderMap,
    body: Body,
) -> Answer<NewGeneration> {
    let Wanted { tenants, base, mut spec, selection, limits } = wanted(headers, body).await?;
    let tenants = own_tenants(administrator, tenants)?;
    if !administrator.is_operator() && (spec.model.is_some() || spec.endpoint.is_some()) {
        let why = "is the operator's to say: this takes a key that is bound to `*`";
        return Err(Problem::invalid_field(if spec.model.is_some() { "model" } else { "endpoint" }, why));
    }
    if (spec.instructions.is_some() || !spec.categories.is_empty()) && tenants == [EVERY_TENANT] {
        return Err(Problem::invalid_field("tenants", "instructions and categories are of tenants that are named"));
    }
    let followed = store.followed().await.map_err(unreadable)?;
    let mut read: Vec<i32> = if tenants == [EVERY_TENANT] {
        followed.active.iter().map(|one| one.generation).chain([FIRST]).collect()
    } else {
        tenants.iter().map(|tenant| followed.active_of(tenant)).collect()
    };
    read.sort_unstable();
    read.dedup();
    let base = match (base, &read[..]) {
        (Some(base), _) => base,
        (None, [one]) => *one,
        (None, _) => {
            let why = "must be said: the tenants read different generations; or start a replay for those of each";
            return Err(Problem::invalid_field("base", why));
        }
    };
    if base != FIRST {
        let of_base = followed.generations.iter().find(|one| one.generation == base);
        let Some(of_base) = of_base.filter(|one| tenants.iter().all(|tenant| one.is_of(tenant))) else {
            return Err(Problem::invalid_field("base", "there is no such generation of these tenants"));
        };
        if spec.keep {
            // What comes later is extracted as the base is.
            spec = Spec { keep: true, ..of_base.spec.clone() };
        }
    }
    if tenants.iter().any(|tenant| followed.is_dropped(tenant, base)) {
        return Err(Problem::invalid_field("base", "it is dropped: nothing can be carried over from it"));
    }
    Ok(NewGeneration { base, tenants, spec, selection, limits })
}

pub(in crate::api) async fn estimate(
    Shared(state): Shared<ApiState>,
    administrator: Administrator,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let store = state.generations()?;
    let new = new_generation(&**store, &administrator, &headers, body).await?;
    let asked = Asked { new: &new, now_us: Micros::now().0 };
    Ok(Json(state.estimates.estimate(&**store, &asked).await?))
}

pub(in crate::api) async fn start(
    Shared(state): Shared<ApiState>,
    administrator: Administrator,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let store = state.generations()?;
    let new = new_generation(&**store, &administrator, &headers, body).await?;
    state.estimates.check(&new)?;
    let Some(made) = store.start(&new, &administrator.act()).await.map_err(unreadable)? else {
        return Err(Problem::conflict("there are as many generations as there may be; drop some"));
    };
    Ok((StatusCode::CREATED, Json(shown(&made, administrator.own_tenant()))).into_response())
}
