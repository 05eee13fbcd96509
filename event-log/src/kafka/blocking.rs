//! librdkafka's blocking calls, off the runtime's threads.
//!
//! Each runs on a thread of its own, not on the runtime's blocking pool: a runtime that shuts down waits for that pool, and one
//! call against a cluster that is away would hold up the process's exit for as long as librdkafka is willing to wait.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::seam::LogError;

/// How long librdkafka may wait for an answer to one request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `call` elsewhere. Dropping the future does not stop it; its answer is then dropped.
pub(super) async fn detached<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, LogError> {
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new()
        .name("kafka-call".to_owned())
        .spawn(move || {
            let _ = answer.send(call());
        })
        .map_err(|error| LogError::Transient(format!("no thread for a call to Kafka: {error}")))?;
    answered.await.map_err(|_| LogError::Fatal("a call to the Kafka library panicked".to_owned()))
}
