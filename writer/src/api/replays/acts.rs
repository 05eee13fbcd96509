//! What is done to a replay: paused, resumed, cancelled, switched to and back, dropped.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State as Shared};
use http::HeaderMap;
use memori_service::auth::is_tenant_name;
use memori_service::generations::{FIRST, Generation, MAX_TENANTS, State};
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Value, json};

use super::super::request::json_body;
use super::super::tenants::{Administrator, MAX_BODY_BYTES};
use super::super::{ApiState, unreadable};
use super::switch::{cut_over, roll_back};
use super::{Numbered, no_such_replay, seen, shown, steer, tenants_of, texts};
use crate::generations::GenerationStore;

/// What an act takes.
#[derive(Default)]
pub(super) struct Act {
    pub(super) tenants: Vec<String>,
    pub(super) force: bool,
}

async fn act_of(headers: &HeaderMap, body: Body) -> Answer<Act> {
    let mut errors = FieldErrors::default();
    let act = Fields::of(json_body(headers, body, MAX_BODY_BYTES).await?, "", &mut errors).map(|mut fields| {
        let tenants = texts(&mut fields, "tenants", MAX_TENANTS, is_tenant_name, "must be a tenant's name");
        let force = fields.boolean("force").unwrap_or(false);
        fields.finish();
        Act { tenants, force }
    });
    Ok(errors.into_result(act)?.unwrap_or_default())
}

pub(in crate::api) async fn act(
    Shared(state): Shared<ApiState>,
    administrator: Administrator,
    Numbered(number): Numbered,
    Path((_, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Value>> {
    let given = act_of(&headers, body).await?;
    let store = &**state.generations()?;
    if name == "drop" && number == FIRST {
        return drop_first(store, &administrator, &given).await;
    }
    let generation = seen(store, &administrator, number).await?;
    match name.as_str() {
        "pause" => change(store, &administrator, &generation, &given, &[State::Running], State::Paused).await,
        "resume" => change(store, &administrator, &generation, &given, &[State::Paused], State::Running).await,
        "cancel" => change(store, &administrator, &generation, &given, &[State::Running, State::Paused], State::Cancelled).await,
        "cut-over" => cut_over(store, &administrator, &generation, &given).await,
        "roll-back" => roll_back(store, &administrator, &generation, &given).await,
        "drop" if given.tenants.is_empty() && steer(&administrator, &generation).is_ok() => {
            drop_whole(store, &administrator, &generation).await
        }
        "drop" => {
            let tenants = named_tenants(store, &administrator, &generation, &given).await?;
            drop_of(store, &administrator, number, tenants).await
        }
        _ => Err(Problem::not_found("a replay can be: pause, resume, cancel, cut-over, roll-back, drop")),
    }
}

/// Those that are named, else all that the administrator may name.
pub(super) async fn named_tenants(
    store: &dyn GenerationStore,
    administrator: &Administrator,
    generation: &Generation,
    given: &Act,
) -> Answer<Vec<String>> {
    if given.tenants.is_empty() {
        return tenants_of(store, administrator, generation).await;
    }
    for tenant in &given.tenants {
        administrator.reach(tenant)?;
        if !generation.is_of(tenant) {
            return Err(Problem::invalid_field("tenants", "the replay is not of this tenant"));
        }
    }
    Ok(given.tenants.clone())
}

async fn change(
    store: &dyn GenerationStore,
    administrator: &Administrator,
    generation: &Generation,
    given: &Act,
    from: &[State],
    to: State,
) -> Answer<Json<Value>> {
    steer(administrator, generation)?;
    if !given.tenants.is_empty() {
        return Err(Problem::invalid_field("tenants", "this is for the whole replay"));
    }
    if generation.state != to && !store.change(generation, from, to, None, &administrator.act()).await.map_err(unreadable)? {
        let why = format!(
            "the replay is {}, or somebody reads its generation; roll that back first",
            store.generation(generation.generation).await.map_err(unreadable)?.map_or("gone", |now| now.state.as_str())
        );
        return Err(Problem::conflict(why));
    }
    let now = store.generation(generation.generation).await.map_err(unreadable)?.ok_or_else(no_such_replay)?;
    Ok(Json(shown(&now, administrator.own_tenant())))
}

/// Passes where no replay that has not been switched to still carries anything over from it.
async fn unneeded(store: &dyn GenerationStore, number: i32, tenant: Option<&str>) -> Answer<()> {
    let followed = store.followed().await.map_err(unreadable)?;
    let needs = |one: &&Generation| {
        one.base == number
            && matches!(one.state, State::Running | State::Paused)
            && one.carries()
            && match tenant {
                Some(tenant) => one.is_of(tenant) && followed.active_of(tenant) != one.generation,
                None => !followed.is_active(one.generation),
            }
    };
    match followed.generations.iter().find(needs) {
        Some(one) => Err(Problem::conflict(format!(
            "generation {} still carries facts over from it: switch to that, or cancel it, first",
            one.generation
        ))),
        None => Ok(()),
    }
}

async fn drop_whole(store: &dyn GenerationStore, administrator: &Administrator, generation: &Generation) -> Answer<Json<Value>> {
    unneeded(store, generation.generation, None).await?;
    if generation.state != State::Dropped && !store.drop_whole(generation, &administrator.act()).await.map_err(unreadable)? {
        return Err(Problem::conflict("somebody reads this generation: switch them to another first"));
    }
    let now = store.generation(generation.generation).await.map_err(unreadable)?.ok_or_else(no_such_replay)?;
    Ok(Json(shown(&now, administrator.own_tenant())))
}

/// The first generation is everybody's: it is dropped of tenants that are named, and read another one.
async fn drop_first(store: &dyn GenerationStore, administrator: &Administrator, given: &Act) -> Answer<Json<Value>> {
    let tenants = match administrator.own_tenant() {
        Some(own) if given.tenants.is_empty() => vec![own.to_owned()],
        _ if given.tenants.is_empty() => {
            return Err(Problem::invalid_field("tenants", "must name whose: the first generation is everybody's"));
        }
        _ => given.tenants.clone(),
    };
    for tenant in &tenants {
        administrator.reach(tenant)?;
    }
    drop_of(store, administrator, FIRST, tenants).await
}

async fn drop_of(
    store: &dyn GenerationStore,
    administrator: &Administrator,
    number: i32,
    tenants: Vec<String>,
) -> Answer<Json<Value>> {
    let mut done = Vec::new();
    for tenant in tenants {
        unneeded(store, number, Some(&tenant)).await?;
        if !store.drop_of(&tenant, number, &administrator.act()).await.map_err(unreadable)? {
            let followed = store.followed().await.map_err(unreadable)?;
            if !followed.is_dropped(&tenant, number) {
                return Err(Problem::conflict(format!("{tenant} reads this generation: switch it to another first")));
            }
        }
        done.push(json!({"tenant": tenant}));
    }
    Ok(Json(json!({"generation": number, "tenants": done})))
}
