//! What a turn added is read in ahead of the next turn: somebody who talks comes back, and a recall that has to bring an entity's
//! image up to date first takes many times as long as one that finds it so.
//!
//! Promises: only in this process's own memory, and only for entities that a turn has just recalled for, so that their image is there;
//! one reading per entity and a bounded number at once. Where there is none, the next recall reads for itself.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::config::Target;
use crate::engine::{Engine, lock};
use crate::stats::add;
use crate::system::ask;

/// Entities that are read ahead at once, at most.
const AT_ONCE: usize = 32;
/// How long an event may take to be applied: what takes longer is not waited for.
const APPLIED_WITHIN: Duration = Duration::from_secs(10);

/// Reads an entity in once its event, of this number in the queue, is applied.
pub(crate) fn read(engine: &Arc<Engine>, entity_id: &str, query: &str, number: u64, event_id: &str) {
    if matches!(engine.config.target, Target::Platform { .. }) || query.is_empty() {
        return;
    }
    let Some(running) = engine.running() else { return };
    let Some(place) = Place::take(engine, entity_id) else { return };
    // Nobody is in a hurry: what the worker gathers to extract together stays together.
    let wait = json!({"event_ids": [event_id], "timeout_ms": APPLIED_WITHIN.as_millis(), "flush": false}).to_string();
    // The turn's own query: its vector is at hand.
    let question = json!({"entity_id": entity_id, "query": query, "limit": 1}).to_string();
    running.handle.spawn(async move {
        let engine = &place.engine;
        let applied = async {
            // The door knows an event once it has it.
            engine.durable_up_to(number + 1).await;
            let system = engine.system().await?;
            let (_, answer) = ask(system.router(), Method::POST, "/v1/events/wait", Some(wait.into())).await;
            serde_json::from_slice::<Ends>(&answer).is_ok_and(|ends| ends.complete).then_some(system)
        };
        if let Ok(Some(system)) = tokio::time::timeout(APPLIED_WITHIN, applied).await {
            let (status, _) = ask(system.router(), Method::POST, "/v1/recall", Some(question.into())).await;
            add(&engine.stats.read_ahead, u64::from(status == 200));
        }
    });
}

#[derive(serde::Deserialize)]
struct Ends {
    complete: bool,
}

/// That an entity is being read, until it is dropped.
struct Place {
    engine: Arc<Engine>,
    entity_id: Box<str>,
}

impl Place {
    fn take(engine: &Arc<Engine>, entity_id: &str) -> Option<Self> {
        let mut reading = lock(&engine.reading_ahead);
        if reading.len() >= AT_ONCE || !reading.insert(entity_id.into()) {
            return None;
        }
        Some(Self { engine: Arc::clone(engine), entity_id: entity_id.into() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.engine.reading_ahead).remove(&self.entity_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn an_entity_is_read_once_at_a_time_and_so_many_at_once() {
        let config = Config::read(r#"{"mode":"sqlite","data_dir":"/nowhere"}"#).unwrap();
        let engine = Arc::new(Engine::new(String::new(), config));
        let mut places: Vec<Place> = (0..AT_ONCE).map(|n| Place::take(&engine, &n.to_string()).unwrap()).collect();
        assert!(Place::take(&engine, "one more").is_none());
        places.pop();
        assert!(Place::take(&engine, "0").is_none(), "it is being read");
        assert!(Place::take(&engine, "one more").is_some());
        drop(places);
        assert!(lock(&engine.reading_ahead).is_empty());
    }
}
