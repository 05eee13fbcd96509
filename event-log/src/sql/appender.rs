//! Group commit: one task owns appending; whatever callers hand over while a transaction is running shares the next one.
//!
//! Promises: records are appended in the order in which they were handed over; a caller is answered after the commit that made
//! its records durable; a caller that goes away does not undo its append.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::MAX_PAYLOAD_BYTES;
use super::dialect::{AppendOutcome, AppendRequest, Dialect};
use crate::seam::{AppendError, Fence, NewRecord, Position, Producer};

/// Callers that wait for the task; the next one waits for a place.
const QUEUED_CALLS: usize = 1024;
/// A transaction takes no further call above these.
const BATCH_RECORDS: usize = 4096;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

struct Call {
    request: AppendRequest,
    answer: oneshot::Sender<Result<AppendOutcome, AppendError>>,
}

pub(super) struct Appender {
    calls: mpsc::Sender<Call>,
}

impl Appender {
    /// Starts the task; it ends when the last handle is gone and everything handed over is settled.
    pub(super) fn start(dialect: Arc<dyn Dialect>) -> Self {
        let (calls, receiver) = mpsc::channel(QUEUED_CALLS);
        tokio::spawn(run(dialect, receiver));
        Self { calls }
    }

    async fn submit(&self, request: AppendRequest) -> Result<AppendOutcome, AppendError> {
        let gone = |_| AppendError::Unconfirmed("the appending task has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        self.calls.send(Call { request, answer }).await.map_err(|_| AppendError::Refused("the log is closed".to_owned()))?;
        answered.await.map_err(gone)?
    }
}

async fn run(dialect: Arc<dyn Dialect>, mut calls: mpsc::Receiver<Call>) {
    let size = |call: &Call| call.request.records.iter().map(|r| r.key.len() + r.payload.len()).sum::<usize>();
    while let Some(first) = calls.recv().await {
        let (mut records, mut bytes) = (first.request.records.len(), size(&first));
        let mut answers = vec![first.answer];
        let mut requests = vec![first.request];
        while records < BATCH_RECORDS && bytes < BATCH_BYTES {
            let Ok(call) = calls.try_recv() else { break };
            records += call.request.records.len();
            bytes += size(&call);
            answers.push(call.answer);
            requests.push(call.request);
        }
        // A flush hands over no records: it is only to be answered in its turn.
        let result = if records == 0 {
            Ok(requests.iter().map(|_| AppendOutcome::Appended(Vec::new())).collect())
        } else {
            dialect.append(&requests).await
        };
        match result {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // A caller that went away has nobody left to tell.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, records, "appending to the log failed");
                for answer in answers {
                    let _ = answer.send(Err(AppendError::Unconfirmed(e.to_string())));
                }
            }
        }
    }
}

#[async_trait]
impl Producer for Appender {
    async fn append(&self, records: &[NewRecord], fence: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let refusals: Vec<Option<AppendError>> = records
            .iter()
            .map(|record| {
                let bytes = record.payload.len();
                (bytes > MAX_PAYLOAD_BYTES).then(|| AppendError::TooLarge(format!("{bytes} bytes, at most {MAX_PAYLOAD_BYTES}")))
            })
            .collect();
        let fitting: Vec<NewRecord> =
            records.iter().zip(&refusals).filter(|(_, refusal)| refusal.is_none()).map(|(r, _)| r.clone()).collect();
        if fitting.is_empty() {
            return refusals.into_iter().flatten().map(Err).collect();
        }
        let (mut positions, failure) = match self.submit(AppendRequest { records: fitting, fence: fence.cloned() }).await {
            Ok(AppendOutcome::Appended(positions)) => (positions.into_iter(), None),
            Ok(AppendOutcome::Fenced(partition)) => (Vec::new().into_iter(), Some(AppendError::Fenced(partition))),
            Err(e) => (Vec::new().into_iter(), Some(e)),
        };
        let lost = || AppendError::Unconfirmed("the log gave no answer for this record".to_owned());
        refusals
            .into_iter()
            .map(|refusal| match (refusal, &failure) {
                (Some(refusal), _) => Err(refusal),
                (None, Some(failure)) => Err(failure.clone()),
                (None, None) => {
                    positions.next().map(|(source, offset)| Position { source, offset: Some(offset) }).ok_or_else(lost)
                }
            })
            .collect()
    }

    async fn flush(&self, deadline: Duration) {
        // Only the waiting is cut short: the task goes on.
        let _ = tokio::time::timeout(deadline, self.submit(AppendRequest { records: Vec::new(), fence: None })).await;
    }
}
