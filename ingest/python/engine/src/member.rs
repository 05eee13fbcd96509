//! One `Memori` of the program: what it captured, and whether that is applied.

use std::sync::Arc;
use std::time::Duration;

use memori_schemas::Micros;
use serde_json::Value;

use crate::engine::{Engine, lock};
use crate::ledger::Failure;
use crate::settle;

/// One `Memori`: a number in the ledger.
pub struct Member {
    engine: Arc<Engine>,
    number: u64,
}

impl Engine {
    /// A new member.
    #[must_use]
    pub fn member(self: &Arc<Self>) -> Member {
        let number = lock(&self.ledger).member();
        Member { engine: Arc::clone(self), number }
    }
}

impl Member {
    /// Its engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Its number in the ledger.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Queues an event as the body of `POST /v1/events` has it, and gives its id.
    ///
    /// # Errors
    /// Why it is no event.
    pub fn capture(&self, event_json: &[u8]) -> Result<(String, Option<u64>), String> {
        let invalid = |problem: memori_service::problem::Problem| problem.detail;
        let mut event = memori_service::problem::parse_json(event_json).map_err(invalid)?;
        if let Some(fields) = event.as_object_mut() {
            let is_new = fields.get("event_id").is_none_or(Value::is_null);
            if is_new {
                fields.insert("event_id".to_owned(), uuid::Uuid::now_v7().to_string().into());
            }
            // Said now: it may get to where memory lives much later. An event that its caller named may be one sent before; a time
            // of ours would make another of it.
            if is_new && fields.get("occurred_at").is_none_or(Value::is_null) {
                fields.insert("occurred_at".to_owned(), Micros::now().to_rfc3339().into());
            }
        }
        let json = event.to_string();
        let read = memori_ingest::new_event::NewEvent::read(event).map_err(invalid)?;
        let event_id = read.event_id.unwrap_or_default();
        let number = self.engine.capture(self.number, &event_id, json.into());
        Ok((event_id, number))
    }

    /// Waits until all that it captured is applied; what else ends a wait is in [`settle::wait`].
    pub fn wait(&self, timeout: Option<Duration>) -> impl Future<Output = bool> + Send + 'static {
        settle::wait(Arc::clone(&self.engine), self.number, timeout)
    }

    /// Its failures, oldest first.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        lock(&self.engine.ledger).failures(self.number)
    }

    /// Waits until the event with this number is durable.
    pub fn durable(&self, number: u64) -> impl Future<Output = bool> + Send + 'static {
        let engine = Arc::clone(&self.engine);
        let member = self.number;
        async move {
            engine.durable_up_to(number + 1).await;
            !lock(&engine.ledger).has_failed(member, number)
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.engine.is_of_this_process() {
            lock(&self.engine.ledger).gone(self.number);
        }
    }
}
