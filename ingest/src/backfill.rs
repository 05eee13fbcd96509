//! History on its way to the log: judged as what comes through the front door is, and put on the backfill lane.

pub(crate) mod jobs;
mod spec;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use memori_event_log::Topic;
use memori_history::{Admit, Admitted};
use memori_schemas::{LogRecordBody, Micros};
use serde_json::Value;

use crate::new_event::{MAX_EVENT_BYTES, NewEvent};
use crate::publish::new_record;

pub use jobs::{Backfills, BackfillsConfig};
pub(crate) use spec::Asked;

/// Judges the events of one import, and makes their records.
#[derive(Debug)]
pub struct Admission {
    tenant: Arc<str>,
    last: AtomicI64,
}

impl Admission {
    /// Everything belongs to `tenant`. A platform's front door names it by the key, whatever stands here.
    #[must_use]
    pub fn new(tenant: &str) -> Self {
        Self { tenant: tenant.into(), last: AtomicI64::default() }
    }

    /// Now, and never the same twice: what stands in one order in the source is accepted in that order.
    fn tick(&self) -> Micros {
        let now = Micros::now().0;
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        Micros(now.max(last.unwrap_or_else(|last| last) + 1))
    }
}

impl Admit for Admission {
    fn admit(&self, body: Value) -> Result<Admitted, String> {
        self.record(NewEvent::read(body).map_err(|problem| problem.detail)?)
    }

    fn admit_text(&self, text: &[u8]) -> Option<Result<Admitted, String>> {
        let event = NewEvent::read_plain(text)?;
        event.event_id.is_some().then(|| self.record(event))
    }
}

impl Admission {
    fn record(&self, event: NewEvent) -> Result<Admitted, String> {
        let content_hash = event.content_hash();
        let messages = event.messages.len() as u64;
        let timeless = event.occurred_at.is_none();
        let Some(event_id) = event.event_id.clone() else { return Err("the event has no id".to_owned()) };
        let entity_id = event.entity_id.clone();
        let body = LogRecordBody::Conversation(event.into_record(&self.tenant, event_id, content_hash, self.tick()));
        let record =
            new_record(Topic::ConversationsBackfill, &self.tenant, &entity_id, &body, None).map_err(|problem| problem.detail)?;
        // What the door refuses for its size it refuses here, too; a record is about as long as its event.
        if record.payload.len() > MAX_EVENT_BYTES {
            return Err(format!("an event is at most {MAX_EVENT_BYTES} bytes"));
        }
        Ok(Admitted { record, messages, timeless })
    }
}

#[cfg(test)]
mod tests {
    use memori_schemas::framing;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_comes_from_history_is_what_the_door_makes_of_it() {
        let admission = Admission::new("t");
        let body = json!({"event_id": "e", "entity_id": "ada", "occurred_at": "2020-01-01T00:00:00Z", "messages": [
            {"role": "user", "content": "hello <memori_context>\nold\n</memori_context>"}, {"role": "assistant", "content": "hi"}]});
        let admitted = admission.admit(body).unwrap();
        assert_eq!((admitted.messages, admitted.record.topic), (2, Topic::ConversationsBackfill));
        let LogRecordBody::Conversation(event) = framing::decode(&admitted.record.payload).unwrap() else { panic!("an event") };
        assert_eq!((&*event.tenant, &*event.event_id, event.supplied.event_id), ("t", "e", true));
        assert_eq!(event.occurred_at.to_rfc3339(), "2020-01-01T00:00:00Z");
        assert!(!event.messages[0].content.contains("old"), "{}", event.messages[0].content);
        assert_eq!(event.content_hash, memori_schemas::ids::content_hash("ada", None, &event.messages, &[]));
        let refused = |body| admission.admit(body).unwrap_err();
        assert!(refused(json!({"event_id": "e", "entity_id": "", "messages": []})).contains("entity_id"));
        assert!(refused(json!({"entity_id": "a", "messages": [{"role": "user", "content": "x"}]})).contains("no id"));
        let large =
            json!({"event_id": "e", "entity_id": "a", "messages": [{"role": "user", "content": "x".repeat(MAX_EVENT_BYTES)}]});
        assert!(refused(large).contains("at most"));
    }
}
