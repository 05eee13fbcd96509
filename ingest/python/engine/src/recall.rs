//! What is known, as the block of one call, within a deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use memori_ingest::injection::{Options, Recalled, block};
use memori_schemas::Micros;
use serde_json::json;

use crate::engine::{Engine, lock};
use crate::notices::Level;
use crate::stats::PassedThrough;
use crate::system::ask;

/// The block for a query, or why there is none. A recall that takes longer than the deadline goes on: what it loads serves the next.
pub(crate) async fn recalled_block(engine: &Arc<Engine>, entity_id: &str, query: &str) -> Result<Arc<str>, PassedThrough> {
    let deadline = tokio::time::Instant::now() + engine.config.recall_deadline;
    if !lock(&engine.breaker).may_ask(Instant::now()) {
        return Err(PassedThrough::Unanswering);
    }
    let place = tokio::time::timeout_at(deadline, Arc::clone(&engine.recalls).acquire_owned()).await;
    let Ok(Ok(place)) = place else { return Err(PassedThrough::Busy) };
    let Ok(system) = tokio::time::timeout_at(deadline, engine.system()).await else { return Err(PassedThrough::Starting) };
    let system = system.ok_or(PassedThrough::Closed)?;
    system.up(deadline.saturating_duration_since(tokio::time::Instant::now())).await.map_err(|_| PassedThrough::Starting)?;
    let question = json!({"entity_id": entity_id, "query": query, "limit": engine.config.recall_limit}).to_string();
    let started = Instant::now();
    let recalling = {
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            let answer = ask(system.router(), Method::POST, "/v1/recall", Some(question.into())).await;
            engine.stats.recall.record(started.elapsed());
            drop(place);
            answer
        })
    };
    let (status, answer) = match tokio::time::timeout_at(deadline, recalling).await {
        Ok(Ok(answer)) => {
            lock(&engine.breaker).in_time();
            answer
        }
        Ok(Err(_)) => return Err(PassedThrough::Internal),
        Err(_) => {
            lock(&engine.breaker).late(Instant::now());
            engine.note("recall_deadline", Level::Warning, || {
                let ms = engine.config.recall_deadline.as_millis();
                format!("recall took longer than {ms} ms; the call goes out without it (recall_deadline_ms is that bound)")
            });
            return Err(PassedThrough::Deadline);
        }
    };
    if status != 200 {
        engine.note("recall_failed", Level::Warning, || {
            let detail = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
            format!("recall answers {status}; the call goes out without it: {detail}")
        });
        return Err(PassedThrough::RecallFailed);
    }
    let recalled: Recalled = serde_json::from_slice(&answer).map_err(|_| PassedThrough::RecallFailed)?;
    let options = Options { token_budget: engine.config.token_budget, ..Options::at(Micros::now()) };
    block(&recalled, &options).map(Arc::from).ok_or(PassedThrough::NothingRecalled)
}

/// How long a caller waits for its block at most: the deadline, and a little for the way there and back.
pub(crate) fn patience(engine: &Engine) -> Duration {
    engine.config.recall_deadline + Duration::from_millis(5)
}
