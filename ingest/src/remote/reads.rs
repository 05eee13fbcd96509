//! The platform in the place of a writer: what the front door asks a writer is answered by the platform's own routes.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::platform::{Away, Platform};
use crate::backend::BackendError;

/// The most bytes of an answer: 1,000 events fit by far.
const MAX_ANSWER_BYTES: usize = 4 << 20;

impl Platform {
    /// Answers a question of the front door to its writer.
    pub(crate) async fn ask_as_writer(
        &self,
        path: &str,
        question: Option<&Value>,
        timeout: Duration,
    ) -> Result<Option<Value>, BackendError> {
        let ids = || -> Vec<&str> {
            let ids = question.and_then(|question| question["event_ids"].as_array());
            ids.into_iter().flatten().filter_map(Value::as_str).collect()
        };
        match path {
            // The platform's own door judges what is new.
            "/internal/v1/events/known" => Ok(Some(json!({"events": []}))),
            "/internal/v1/events/status" => {
                let mut events = Vec::new();
                for id in ids() {
                    events.extend(self.status(id, timeout).await?);
                }
                Ok(Some(json!({"events": events})))
            }
            "/internal/v1/events/wait" => {
                let timeout_ms = question.and_then(|question| question["timeout_ms"].as_u64()).unwrap_or(0);
                self.wait(&ids(), timeout_ms, timeout).await.map(Some)
            }
            _ => Err(BackendError::Unreachable("a platform has no such question".to_owned())),
        }
    }

    async fn status(&self, event_id: &str, timeout: Duration) -> Result<Option<Value>, BackendError> {
        if let Some(refused) = self.refusal(event_id) {
            let shown = json!({"event_id": event_id, "status": "dead_lettered", "class": refused.class, "reason": refused.reason, "facts": 0});
            return Ok(Some(shown));
        }
        let path = format!("/v1/events/{}", utf8_percent_encode(event_id, NON_ALPHANUMERIC));
        match self.answer(Method::GET, &path, None, timeout).await {
            Ok(answer) => Ok(Some(answer)),
            Err(BackendError::Unexpected { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn wait(&self, event_ids: &[&str], timeout_ms: u64, timeout: Duration) -> Result<Value, BackendError> {
        let (refused, open): (Vec<&str>, Vec<&str>) = event_ids.iter().partition(|id| self.refusal(id).is_some());
        let mut answer = if open.is_empty() {
            json!({"complete": true, "events": []})
        } else {
            let question = json!({"event_ids": open, "timeout_ms": timeout_ms}).to_string();
            self.answer(Method::POST, "/v1/events/wait", Some(question.into()), timeout).await?
        };
        if let Some(events) = answer["events"].as_array_mut() {
            events.extend(refused.iter().map(|id| json!({"event_id": id, "status": "dead_lettered"})));
        }
        Ok(answer)
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        question: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Value, BackendError> {
        let asked = self.ask_events(method, path, question, MAX_ANSWER_BYTES, timeout).await;
        let (status, answer) = asked.map_err(|Away(why)| BackendError::Unreachable(why))?;
        let unexpected = || {
            let detail = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
            BackendError::Unexpected { status, detail }
        };
        if status != StatusCode::OK {
            return Err(unexpected());
        }
        serde_json::from_slice(&answer).map_err(|_| unexpected())
    }
}
