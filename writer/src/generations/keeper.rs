//! What is done to generations beside everything else: entities that trail behind a switch follow, dropped ones are freed, and one whose
//! cost has reached its cap is paused.
//!
//! Two writers at once do no harm. Freeing goes over a generation again until it finds nothing, and begins some seconds after the drop,
//! when every sink has heard of it.

use std::sync::Arc;
use std::time::Duration;

use memori_schemas::{EntityKey, Micros};
use memori_service::generations::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::GenerationStore;
use super::sql::by_itself;
use crate::reads::ReadError;
use crate::sink::metrics;

/// Between two rounds, at least.
pub const KEEPER_PAUSE: Duration = Duration::from_secs(2);
/// How much longer than it works the keeper rests between rounds.
const KEEPING_RESTS: u32 = 9;
/// How much longer than it works freeing rests between its steps.
const FREEING_RESTS: u32 = 3;
/// From a drop until the first row goes, in microseconds.
const FREED_AFTER_US: i64 = 5_000_000;
/// Tenants of one look.
const TENANTS: usize = 100;

/// Looks after generations until `stop`.
pub async fn keep_generations_until(store: Arc<dyn GenerationStore>, pause: Duration, stop: CancellationToken) {
    let (keeping, freeing) = (Arc::clone(&store), store);
    let keeping = again_and_again(pause, KEEPING_RESTS, || async {
        told("followed", follow_all(&*keeping).await);
        told("held to their cost", hold_to_costs(&*keeping).await);
    });
    // Apart, since it takes long where much was dropped; it rests between its steps.
    let freeing = again_and_again(pause, 0, || async { told("freed", free_all(&*freeing).await) });
    stop.run_until_cancelled(async { tokio::join!(keeping, freeing) }).await;
}

/// With `rests` times as long between two rounds as a round takes, and `pause` at least.
async fn again_and_again<F: Future<Output = ()>>(pause: Duration, rests: u32, mut round: impl FnMut() -> F) {
    loop {
        let begun = Instant::now();
        round().await;
        tokio::time::sleep(pause.max(begun.elapsed() * rests)).await;
    }
}

fn told(what: &str, done: Result<(), ReadError>) {
    if let Err(error) = done {
        tracing::warn!(error = &error as &dyn std::error::Error, "generations could not be {what}; it is tried again");
    }
}

/// What whoever asked for a switch did not see to its end.
async fn follow_all(store: &dyn GenerationStore) -> Result<(), ReadError> {
    for tenant in store.tenants_trailing().await? {
        store.follow(&tenant).await?;
    }
    Ok(())
}

async fn free_all(store: &dyn GenerationStore) -> Result<(), ReadError> {
    for (generation, tenant) in store.to_free(Micros::now().0 - FREED_AFTER_US).await? {
        let rows = match &tenant {
            Some(tenant) => free(store, tenant, generation).await?,
            None => free_of_all(store, generation).await?,
        };
        if rows == 0 {
            store.freed(generation, tenant.as_deref(), Micros::now().0).await?;
            tracing::info!(generation, "a dropped generation is freed");
        }
    }
    Ok(())
}

async fn free_of_all(store: &dyn GenerationStore, generation: i32) -> Result<u64, ReadError> {
    let (mut rows, mut after) = (0, String::new());
    loop {
        let tenants = store.tenants_with_data(&after, TENANTS).await?;
        let Some(last) = tenants.last() else { return Ok(rows) };
        after.clone_from(last);
        for tenant in &tenants {
            rows += free(store, tenant, generation).await?;
        }
    }
}

async fn free(store: &dyn GenerationStore, tenant: &str, generation: i32) -> Result<u64, ReadError> {
    let (mut rows, mut after) = (0, EntityKey([0; 16]));
    loop {
        let begun = Instant::now();
        let (freed, last) = store.free(tenant, generation, &after).await?;
        rows += freed;
        metrics::generation_rows_freed(freed);
        match last {
            Some(last) => after = last,
            None => return Ok(rows),
        }
        // Nobody waits for this; whoever waits for these entities, or for the disk, goes first.
        tokio::time::sleep(begun.elapsed() * FREEING_RESTS).await;
    }
}

async fn hold_to_costs(store: &dyn GenerationStore) -> Result<(), ReadError> {
    let followed = store.followed().await?;
    let running = |state: State| followed.generations.iter().filter(move |one| one.state == state).count();
    metrics::generations(running(State::Running), running(State::Paused));
    for generation in &followed.generations {
        let Some(cap) = generation.limits.cost_micros else { continue };
        // Nobody's present stops for what history has cost.
        if generation.state != State::Running || followed.is_active(generation.generation) {
            continue;
        }
        let spent = store.spent(None, generation.generation).await?;
        if spent.cost_micros >= cap {
            let reason = format!("it has cost {} millionths; its cap is {cap}", spent.cost_micros);
            let act = by_itself(Micros::now().0);
            if store.change(generation, &[State::Running], State::Paused, Some(&reason), &act).await? {
                tracing::warn!(generation = generation.generation, reason, "a replay is paused");
            }
        }
    }
    Ok(())
}
