//! Replays, for operators and for whoever administers a tenant: start, look, compare, switch, drop.
//!
//! Promises: who administers one tenant starts and steers replays of that tenant alone, and sees of others nothing, not even whether
//! they are; every act is a line of the audit log; an answer's size does not grow with the history.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State as Shared};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use memori_schemas::{EntityKey, FactKind, Micros};
use memori_service::auth::{EVERY_TENANT, is_tenant_name};
use memori_service::generations::{Category, FIRST, Generation, Limits, MAX_ENTITIES, MAX_TENANTS, Selection, Spec, State};
use memori_service::problem::{Answer, FieldErrors, Fields, Problem};
use serde_json::{Map, Value, json};

use super::estimate::Asked;
use super::request::{MAX_ENTITY_ID_BYTES, QueryParameters, json_body};
use super::tenants::{Administrator, MAX_BODY_BYTES, no_such_tenant, time};
use super::{ApiState, unreadable};
use crate::generations::diff::{Difference, compare};
use crate::generations::{ComparedFact, GenerationStore, NewGeneration, Progress, Switched};

/// The most that anything here counts to.
const MOST: i64 = 1 << 50;
/// Millionths of a whole.
const MICROS: f64 = 1e6;
/// Messages that a sample quotes.
const MAX_EVIDENCE: usize = 5;
/// Samples of one page of a comparison.
const MAX_SAMPLES: usize = 100;
/// How long a switch waits, for a generation that is a little late, and then for its entities that trail.
const SWITCH_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at them.
const SWITCH_PAUSE: Duration = Duration::from_millis(20);

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

/// A request to start one.
struct Wanted {
    tenants: Vec<String>,
    base: Option<i32>,
    spec: Spec,
    selection: Selection,
    limits: Limits,
}

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

pub(super) async fn estimate(
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

pub(super) async fn start(
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

/// What an act takes.
#[derive(Default)]
struct Act {
    tenants: Vec<String>,
    force: bool,
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

pub(super) async fn act(
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
async fn named_tenants(
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

async fn cut_over(
    store: &dyn GenerationStore,
    administrator: &Administrator,
    generation: &Generation,
    given: &Act,
) -> Answer<Json<Value>> {
    let mut done = Vec::new();
    for tenant in named_tenants(store, administrator, generation, given).await? {
        let begun = Instant::now();
        let before = loop {
            if !given.force {
                near(store, &tenant, generation, begun).await?;
            }
            match store.cut_over(&tenant, generation, given.force, &administrator.act()).await.map_err(unreadable)? {
                Switched::From(before) => break Some(before),
                Switched::Already => break None,
                Switched::Not => {
                    let why = format!("the generation does not run, or is dropped for {tenant}: resume it first");
                    return Err(Problem::conflict(why));
                }
                Switched::Behind if begun.elapsed() < SWITCH_PATIENCE => tokio::time::sleep(SWITCH_PAUSE).await,
                Switched::Behind => return Err(behind(store, &tenant, generation).await?),
            }
        };
        done.push(switched(store, &tenant, (generation.generation, before), begun).await?);
    }
    Ok(Json(json!({"generation": generation.generation, "tenants": done})))
}

/// Passes where all of history is there and, after a while, of what arrived since all but what is on its way.
async fn near(store: &dyn GenerationStore, tenant: &str, generation: &Generation, since: Instant) -> Answer<()> {
    let progress = store.progress(tenant, generation, Micros::now().0).await.map_err(unreadable)?;
    if progress.done < progress.events {
        return Err(behind(store, tenant, generation).await?);
    }
    while store.behind(tenant, generation.generation, Micros::now().0).await.map_err(unreadable)?.for_long > 0 {
        if since.elapsed() >= SWITCH_PATIENCE {
            return Err(behind(store, tenant, generation).await?);
        }
        tokio::time::sleep(SWITCH_PAUSE * 5).await;
    }
    Ok(())
}

/// Why a switch is refused.
async fn behind(store: &dyn GenerationStore, tenant: &str, generation: &Generation) -> Answer<Problem> {
    let number = generation.generation;
    let events = store.behind(tenant, number, Micros::now().0).await.map_err(unreadable)?.events;
    Ok(Problem::conflict(format!(
        "{events} events that {tenant} reads of now are not extracted in generation {number} yet: wait for them, or use `force` and do \
         without them until they are"
    )))
}

/// Tells of a switch, once the entities that trail have followed, or after a while.
async fn switched(
    store: &dyn GenerationStore,
    tenant: &str,
    (active, before): (i32, Option<i32>),
    begun: Instant,
) -> Answer<Value> {
    let mut trailing = store.follow(tenant).await.map_err(unreadable)?;
    let since = Instant::now();
    while trailing > 0 && since.elapsed() < SWITCH_PATIENCE {
        tokio::time::sleep(SWITCH_PAUSE).await;
        trailing = store.follow(tenant).await.map_err(unreadable)?;
    }
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    Ok(json!({"tenant": tenant, "active": active, "before": before, "took_ms": took_ms, "trailing_entities": trailing}))
}

async fn roll_back(
    store: &dyn GenerationStore,
    administrator: &Administrator,
    generation: &Generation,
    given: &Act,
) -> Answer<Json<Value>> {
    let tenants = if given.tenants.is_empty() && administrator.is_operator() {
        let followed = store.followed().await.map_err(unreadable)?;
        let readers = followed.active.into_iter().filter(|one| one.generation == generation.generation);
        readers.map(|one| one.tenant).collect()
    } else {
        named_tenants(store, administrator, generation, given).await?
    };
    let mut done = Vec::new();
    for tenant in tenants {
        let begun = Instant::now();
        let back = store.roll_back(&tenant, generation.generation, &administrator.act()).await.map_err(unreadable)?;
        let Some(active) = back else {
            let why = format!("{tenant} does not read this generation, or what it read before is dropped or does not run");
            return Err(Problem::conflict(why));
        };
        done.push(switched(store, &tenant, (active, Some(generation.generation)), begun).await?);
    }
    Ok(Json(json!({"generation": generation.generation, "tenants": done})))
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

/// Counts of one kind of difference, by kind of fact.
type Counts = BTreeMap<&'static str, i64>;

pub(super) async fn diff(
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

/// Millionths as a number of the currency.
#[expect(clippy::cast_precision_loss, reason = "money for people")]
pub(super) fn currency(micros: i64) -> f64 {
    micros as f64 / MICROS
}
