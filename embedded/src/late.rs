//! A log and a writer that are not there yet, or not just now: what the front door of a library stands on, so that it can take events
//! whatever becomes of the database.
//!
//! Promises: what is asked of the log while it is not there is answered at once as passing, but for appends: those wait, as for a
//! broker that is away, until it is back or their caller has had enough.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use memori_event_log::{
    AppendError, Consumer, Fence, Log, LogError, LogIdentity, LogRecord, NewRecord, Position, Producer, Topic, TopicPartition,
};
use memori_service::problem::Problem;
use tokio::sync::watch;
use tower::ServiceExt as _;

/// What is open.
#[derive(Clone)]
struct Open {
    log: Arc<dyn Log>,
    writer: Router,
}

/// Opens and shuts what the others stand on.
pub(crate) struct Late(watch::Sender<Option<Open>>);

impl Late {
    /// Nothing is there yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// From now on these answer.
    pub(crate) fn open(&self, log: Arc<dyn Log>, writer: Router) {
        self.0.send_replace(Some(Open { log, writer }));
    }

    /// From now on nobody does.
    pub(crate) fn shut(&self) {
        self.0.send_replace(None);
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        let open = self.0.subscribe();
        Arc::new(LateLog { producer: Arc::new(LateProducer(open.clone())), open })
    }

    /// The writer's routes.
    pub(crate) fn writer(&self) -> Router {
        let open = self.0.subscribe();
        Router::new().fallback(move |request: Request| {
            let writer = open.borrow().as_ref().map(|open| open.writer.clone());
            async move {
                match writer {
                    Some(writer) => writer.oneshot(request).await.into_response(),
                    None => Problem::unavailable("the database is not open now", 1).into_response(),
                }
            }
        })
    }
}

struct LateLog {
    open: watch::Receiver<Option<Open>>,
    producer: Arc<LateProducer>,
}

impl LateLog {
    fn now(&self) -> Result<Arc<dyn Log>, LogError> {
        let open = self.open.borrow();
        open.as_ref().map(|open| open.log.clone()).ok_or_else(|| LogError::Transient("the database is not open".to_owned()))
    }
}

#[async_trait]
impl Log for LateLog {
    fn producer(&self) -> Arc<dyn Producer> {
        self.producer.clone()
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        self.now()?.subscribe(group, topics).await
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        self.now()?.create_topics(partitions).await
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.now()?.identity().await
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        self.now()?.watermarks(partition).await
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        self.now()?.read(partition, offset, max_records).await
    }
}

struct LateProducer(watch::Receiver<Option<Open>>);

#[async_trait]
impl Producer for LateProducer {
    async fn append(&self, records: &[NewRecord], fence: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let mut open = self.0.clone();
        let log = match open.wait_for(Option::is_some).await {
            Ok(open) => open.as_ref().map(|open| open.log.clone()),
            Err(_) => None,
        };
        match log {
            Some(log) => log.producer().append(records, fence).await,
            None => vec![Err(AppendError::Unconfirmed("the log is closed".to_owned())); records.len()],
        }
    }

    async fn flush(&self, deadline: Duration) {
        let log = self.0.borrow().as_ref().map(|open| open.log.clone());
        if let Some(log) = log {
            log.producer().flush(deadline).await;
        }
    }
}
