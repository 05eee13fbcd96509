//! The platform as a log: events are appended by posting them; nothing is read from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode};
use memori_event_log::{
    AppendError, Consumer, Fence, Log, LogError, LogIdentity, LogRecord, NewRecord, Position, Producer, Topic, TopicPartition,
};
use memori_schemas::{Lane, LogRecordBody, framing};

use super::events::{self, Verdict, Verdicts};
use super::platform::Platform;

/// How long the platform may take to accept a batch.
const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The most bytes of an answer about a batch.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The platform as a log.
#[derive(Clone, Debug)]
pub struct RemoteLog(Arc<Platform>);

impl RemoteLog {
    /// Of this platform.
    #[must_use]
    pub fn new(platform: Arc<Platform>) -> Self {
        Self(platform)
    }

    /// Posts events in order; stops behind the first failure that may pass. An answer for each.
    async fn post(&self, lane: Lane, events: &[(String, Bytes)]) -> Vec<Result<(), AppendError>> {
        let mut results = Vec::with_capacity(events.len());
        while results.len() < events.len() {
            let rest = &events[results.len()..];
            let some = &rest[..events::fitting(rest.iter().map(|(_, json)| json.len()), self.0.batch_events())];
            let verdicts = self.post_some(lane, some).await;
            let is_over = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Later(_)));
            results.extend(some.iter().zip(verdicts).map(|((event_id, _), verdict)| self.noted(event_id, verdict)));
            if is_over {
                break;
            }
        }
        let unsent = || AppendError::Unconfirmed("not sent behind a failure".to_owned());
        results.resize_with(events.len(), || Err(unsent()));
        results
    }

    async fn post_some(&self, lane: Lane, events: &[(String, Bytes)]) -> Vec<Verdict> {
        let bodies: Vec<Bytes> = events.iter().map(|(_, json)| json.clone()).collect();
        match self.post_batch(lane, &bodies).await {
            Verdicts::Each(verdicts) => verdicts,
            Verdicts::Apart => {
                let mut each = Vec::with_capacity(bodies.len());
                for body in bodies {
                    let verdict = match self.post_batch(lane, &[body]).await {
                        Verdicts::Each(mut one) => one.pop(),
                        Verdicts::Apart => None,
                    };
                    let verdict = verdict.unwrap_or_else(|| Verdict::Later("the platform does not take it alone".to_owned()));
                    let is_over = matches!(verdict, Verdict::Later(_));
                    each.push(verdict);
                    if is_over {
                        break;
                    }
                }
                each.resize(events.len(), Verdict::Later("not sent behind a failure".to_owned()));
                each
            }
        }
    }

    async fn post_batch(&self, lane: Lane, events: &[Bytes]) -> Verdicts {
        let body = events::batch(events);
        let path = match lane {
            Lane::Live => "/v1/events/batch",
            Lane::Backfill => "/v1/events/batch?lane=backfill",
        };
        match self.0.ask_events(Method::POST, path, Some(body), MAX_ANSWER_BYTES, POST_TIMEOUT).await {
            Ok((status, answer)) => events::verdicts(events.len(), status, &answer),
            Err(away) => Verdicts::Each(vec![Verdict::Later(away.0); events.len()]),
        }
    }

    fn noted(&self, event_id: &str, verdict: Verdict) -> Result<(), AppendError> {
        match verdict {
            Verdict::Taken => Ok(()),
            Verdict::Later(why) => Err(AppendError::Unconfirmed(why)),
            Verdict::Refused(refused) => {
                let why = refused.reason.clone();
                self.0.refuse(event_id, refused);
                Err(AppendError::Unacceptable(why))
            }
        }
    }
}

#[async_trait]
impl Producer for RemoteLog {
    async fn append(&self, records: &[NewRecord], _fence: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let mut results: Vec<Option<Result<Position, AppendError>>> = Vec::with_capacity(records.len());
        let mut events = Vec::with_capacity(records.len());
        let mut places = Vec::with_capacity(records.len());
        // One call is of one lane: the door's are live, an importer's are not.
        let topic = records.first().map_or(Topic::ConversationsLive, |record| record.topic);
        let lane = if topic == Topic::ConversationsBackfill { Lane::Backfill } else { Lane::Live };
        for (place, record) in records.iter().enumerate() {
            match framing::decode(&record.payload) {
                Ok(LogRecordBody::Conversation(event)) if record.topic == topic && topic.lane() == Some(lane) => {
                    let event_id = event.event_id.clone();
                    events.push((event_id, Bytes::from(events::to_json(event).to_string())));
                    places.push(place);
                    results.push(None);
                }
                Ok(_) => results.push(Some(Err(AppendError::Refused("a platform takes events only".to_owned())))),
                Err(error) => results.push(Some(Err(AppendError::Unacceptable(error.to_string())))),
            }
        }
        let source = TopicPartition { topic, partition: 0 };
        for (place, posted) in places.into_iter().zip(self.post(lane, &events).await) {
            results[place] = Some(posted.map(|()| Position { source, offset: None }));
        }
        let unsettled = || Err(AppendError::Unconfirmed("not sent".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(unsettled)).collect()
    }

    async fn flush(&self, _deadline: Duration) {}
}

#[async_trait]
impl Log for RemoteLog {
    fn producer(&self) -> Arc<dyn Producer> {
        Arc::new(self.clone())
    }

    async fn subscribe(&self, _group: &str, _topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Fatal("a platform's log is not read by its clients".to_owned()))
    }

    async fn create_topics(&self, _partitions: i32) -> Result<(), LogError> {
        Ok(())
    }

    /// Whether the platform takes events from us, as far as that can be asked.
    async fn identity(&self) -> Result<LogIdentity, LogError> {
        let question = Bytes::from_static(br#"{"event_ids":[],"timeout_ms":0}"#);
        let asked = self.0.ask_events(Method::POST, "/v1/events/wait", Some(question), MAX_ANSWER_BYTES, PROBE_TIMEOUT).await;
        match asked {
            Ok((StatusCode::OK, _)) => {
                Ok(LogIdentity { cluster_id: "platform".to_owned(), topic_ids: BTreeMap::new(), partitions: 1 })
            }
            Ok((status, _)) => Err(LogError::Transient(self.0.complaint().unwrap_or_else(|| format!("it answers {status}")))),
            Err(away) => Err(LogError::Transient(away.0)),
        }
    }

    async fn watermarks(&self, _partition: TopicPartition) -> Result<(i64, i64), LogError> {
        Ok((0, 0))
    }

    async fn read(&self, _partition: TopicPartition, _offset: i64, _max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        Ok(Vec::new())
    }
}
