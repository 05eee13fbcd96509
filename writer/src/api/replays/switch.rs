//! Switching tenants between generations. A switch waits for what is on its way, for some seconds; see decision 24.

use std::time::{Duration, Instant};

use axum::Json;
use memori_schemas::Micros;
use memori_service::generations::Generation;
use memori_service::problem::{Answer, Problem};
use serde_json::{Value, json};

use super::super::tenants::Administrator;
use super::super::unreadable;
use super::acts::{Act, named_tenants};
use crate::generations::{GenerationStore, Switched};

/// How long a switch waits, for a generation that is a little late, and then for its entities that trail.
const SWITCH_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at them.
const SWITCH_PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn cut_over(
    store: &dyn GenerationStore,
    administrator: &Administrator,
    generation: &Generation,
    given: &Act,
) -> Answer<Json<Value>> {
    let mut done = Vec::new();
    for tenant in named_tenants(store, administrator, generation, given).await? {
        let asked = Instant::now();
        let mut begun = asked;
        let before = loop {
            if !given.force {
                near(store, &tenant, generation, asked).await?;
                begun = Instant::now();
            }
            match store.cut_over(&tenant, generation, given.force, &administrator.act()).await.map_err(unreadable)? {
                Switched::From(before) => break Some(before),
                Switched::Already => break None,
                Switched::Not => {
                    let why = format!("the generation does not run, or is dropped for {tenant}: resume it first");
                    return Err(Problem::conflict(why));
                }
                Switched::Behind if asked.elapsed() < SWITCH_PATIENCE => tokio::time::sleep(SWITCH_PAUSE).await,
                Switched::Behind => return Err(behind(store, &tenant, generation).await?),
            }
        };
        let mut told = switched(store, &tenant, (generation.generation, before), begun).await?;
        told["waited_ms"] = (begun.duration_since(asked).as_secs_f64() * 1e3).into();
        done.push(told);
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

pub(super) async fn roll_back(
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
