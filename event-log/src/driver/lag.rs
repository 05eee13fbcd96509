//! Looks up the ends of the assigned partitions now and then, beside the driver's loop.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{LAG_INTERVAL, Observer, now_ms};
use crate::seam::Log;
use crate::topic::TopicPartition;

pub(super) struct LagProbe {
    log: Arc<dyn Log>,
    looking: JoinSet<Vec<(TopicPartition, i64)>>,
    pub(super) due_at: Instant,
}

impl LagProbe {
    pub(super) fn new(log: Arc<dyn Log>) -> Self {
        Self { log, looking: JoinSet::new(), due_at: Instant::now() + LAG_INTERVAL }
    }

    /// Begins a look where one is due; one at a time.
    pub(super) fn tick(&mut self, now: Instant, partitions: Vec<TopicPartition>) {
        if now < self.due_at {
            return;
        }
        self.due_at = now + LAG_INTERVAL;
        if !self.looking.is_empty() || partitions.is_empty() {
            return;
        }
        let log = Arc::clone(&self.log);
        self.looking.spawn(async move {
            let mut ends = Vec::with_capacity(partitions.len());
            for partition in partitions {
                // A log that is away has no lag to tell.
                if let Ok((_, end)) = log.watermarks(partition).await {
                    ends.push((partition, end));
                }
            }
            ends
        });
    }

    /// What a look brought; pending while none is on its way. Cancel safe.
    pub(super) async fn looked(&mut self) -> Vec<(TopicPartition, i64)> {
        match self.looking.join_next().await {
            Some(ends) => ends.unwrap_or_default(),
            None => std::future::pending().await,
        }
    }
}

/// Tells the lag of a partition that stands at (next offset, when its record was taken).
pub(super) fn tell(observer: &dyn Observer, partition: TopicPartition, end: i64, standing: Option<(i64, i64)>) {
    let Some((next_offset, appended_at_ms)) = standing else { return };
    let events = (end - next_offset).max(0);
    // Milliseconds of an age: no precision is lost.
    #[expect(clippy::cast_precision_loss, reason = "an age in milliseconds is far below 2^52")]
    let seconds = if events == 0 { 0.0 } else { (now_ms() - appended_at_ms).max(0) as f64 / 1000.0 };
    observer.lag(partition, events, seconds);
}
