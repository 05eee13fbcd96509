//! Replays, for operators and for whoever administers a tenant: start, look, compare, switch, drop.
//!
//! Promises: who administers one tenant starts and steers replays of that tenant alone, and sees of others nothing, not even whether
//! they are; every act is a line of the audit log; an answer's size does not grow with the history.

mod acts;
mod comparison;
mod start;
mod switch;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State as Shared};
use http::request::Parts;
use memori_schemas::Micros;
use memori_service::generations::{FIRST, Generation, MAX_TENANTS, State};
use memori_service::problem::{Answer, Fields, Problem};
use serde_json::{Value, json};

use super::request::QueryParameters;
use super::tenants::{Administrator, time};
use super::{ApiState, unreadable};
use crate::generations::{GenerationStore, Progress};

pub(super) use acts::act;
pub(super) use comparison::diff;
pub(super) use start::{estimate, start};

/// Millionths of a whole.
const MICROS: f64 = 1e6;

/// A path that names a generation.
pub(super) struct Numbered(i32);

impl<S: Send + Sync> FromRequestParts<S> for Numbered {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<Vec<(String, String)>>, PathRejection> = Path::from_request_parts(parts, state).await;
        let named = path.ok().and_then(|Path(named)| named.into_iter().find(|(name, _)| name == "generation"));
        named.and_then(|(_, text)| text.parse().ok()).filter(|number| *number >= FIRST).map(Self).ok_or_else(no_such_replay)
    }
}

fn no_such_replay() -> Problem {
    Problem::not_found("there is no such replay")
}

/// One that the administrator may see.
async fn seen(store: &dyn GenerationStore, administrator: &Administrator, number: i32) -> Answer<Generation> {
    let generation = store.generation(number).await.map_err(unreadable)?.ok_or_else(no_such_replay)?;
    match administrator.own_tenant() {
        Some(own) if !generation.is_of(own) => Err(no_such_replay()),
        _ => Ok(generation),
    }
}

/// Passes where nobody else's is touched.
fn steer(administrator: &Administrator, generation: &Generation) -> Answer<()> {
    match administrator.own_tenant() {
        Some(own) if generation.tenants != [own] => {
            Err(Problem::conflict("the replay is of other tenants too; this takes a key that is bound to `*`"))
        }
        _ => Ok(()),
    }
}

/// The tenants of a generation that the administrator may name: of one that is everybody's, those with anything stored.
async fn tenants_of(store: &dyn GenerationStore, administrator: &Administrator, generation: &Generation) -> Answer<Vec<String>> {
    match administrator.own_tenant() {
        Some(own) => Ok(vec![own.to_owned()]),
        None if generation.is_of_all() => store.tenants_with_data("", MAX_TENANTS).await.map_err(unreadable),
        None => Ok(generation.tenants.clone()),
    }
}

fn shown(generation: &Generation, own: Option<&str>) -> Value {
    let tenants = own.map_or_else(|| generation.tenants.clone(), |own| vec![own.to_owned()]);
    let selection = &generation.selection;
    let mut extractor = json!(generation.spec);
    if generation.spec.keep {
        extractor["extractor"] = "keep".into();
    }
    if let Some(members) = extractor.as_object_mut() {
        members.remove("keep");
        members.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()));
    }
    json!({
        "generation": generation.generation,
        "base": generation.base,
        "tenants": tenants,
        "state": generation.state.as_str(),
        "reason": generation.reason,
        "created_at": time(generation.created_at_us),
        "extraction": extractor,
        "selection": {
            "entities": selection.entities,
            "from": selection.from_us.map(time),
            "until": selection.until_us.map(time),
        },
        "limits": {
            "max_concurrency": generation.limits.max_concurrency,
            "tokens_per_minute": generation.limits.tokens_per_minute,
            "cost_micros": generation.limits.cost_micros,
        },
    })
}

pub(super) async fn list(
    Shared(state): Shared<ApiState>,
    administrator: Administrator,
    mut parameters: QueryParameters,
) -> Answer<Json<Value>> {
    let limit = parameters.limit();
    let before = parameters.take("cursor", "a cursor of this listing", |text| text.parse::<i32>().ok());
    parameters.finish()?;
    let rows = state.generations()?.generations(before.unwrap_or(i32::MAX), limit + 1).await.map_err(unreadable)?;
    let more = rows.len() > limit;
    let page = &rows[..rows.len().min(limit)];
    let next_cursor = page.last().filter(|_| more).map(|last| last.generation.to_string());
    let own = administrator.own_tenant();
    let shown: Vec<Value> = page.iter().filter(|one| own.is_none_or(|own| one.is_of(own))).map(|one| shown(one, own)).collect();
    Ok(Json(json!({"replays": shown, "next_cursor": next_cursor})))
}

/// Texts of a list, each of which must fit.
fn texts(fields: &mut Fields<'_>, name: &str, most: usize, fits: impl Fn(&str) -> bool, expected: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for (place, value) in fields.list(name, 0..=most).unwrap_or_default().into_iter().enumerate() {
        match value {
            Value::String(text) if fits(&text) => texts.push(text),
            _ => {
                let path = format!("{}[{place}]", fields.path_of(name));
                fields.errors().push(path, expected);
            }
        }
    }
    texts
}

#[expect(clippy::cast_precision_loss, reason = "a rate and a time for people")]
fn progress_of(progress: Progress) -> Value {
    let left = (progress.events - progress.done).max(0);
    let rate = progress.last_minute as f64 / 60.0;
    let eta = (left > 0 && progress.last_minute > 0).then(|| (left as f64 / rate).ceil());
    json!({
        "events": progress.events,
        "done": progress.done.min(progress.events),
        "dead_lettered": progress.dead,
        "events_per_second": (rate * 10.0).round() / 10.0,
        "eta_seconds": if left == 0 { Some(0.0) } else { eta },
    })
}

pub(super) async fn show(
    Shared(state): Shared<ApiState>,
    administrator: Administrator,
    Numbered(number): Numbered,
    parameters: QueryParameters,
) -> Answer<Json<Value>> {
    parameters.finish()?;
    let store = state.generations()?;
    let generation = seen(&**store, &administrator, number).await?;
    let own = administrator.own_tenant();
    let mut answer = shown(&generation, own);
    let followed = store.followed().await.map_err(unreadable)?;
    let mut standings = store.standings(number).await.map_err(unreadable)?;
    standings.retain(|one| own.is_none_or(|own| one.tenant == own));
    let mut progress = Progress::default();
    if generation.state != State::Dropped {
        let now = Micros::now().0;
        for tenant in tenants_of(&**store, &administrator, &generation).await? {
            progress = progress.and(store.progress(&tenant, &generation, now).await.map_err(unreadable)?);
        }
    }
    answer["progress"] = progress_of(progress);
    answer["spent"] = json!(store.spent(own, number).await.map_err(unreadable)?);
    let standing = |one: &crate::generations::TenantStanding| {
        json!({
            "tenant": one.tenant,
            "active": followed.active_of(&one.tenant) == number,
            "before": one.before,
            "cut_over_at": one.cut_over_at_us.map(time),
            "dropped_at": one.dropped_at_us.map(time),
            "freed_at": one.freed_at_us.map(time),
        })
    };
    answer["standings"] = standings.iter().map(standing).collect();
    Ok(Json(answer))
}

/// Millionths as a number of the currency.
#[expect(clippy::cast_precision_loss, reason = "money for people")]
pub(super) fn currency(micros: i64) -> f64 {
    micros as f64 / MICROS
}
