//! `memori topics create`: makes the log's topics in Kafka. Idempotent.

use std::time::Duration;

use clap::Subcommand;
use memori_event_log::{Log as _, LogError};
use memori_service::{ProcessError, Settings};

use crate::output::{say, table};
use crate::platform;

#[derive(Subcommand)]
pub(crate) enum Topics {
    /// Make the topics that are missing, with the partition count that they keep for good.
    Create {
        /// Partitions of every topic; growth is a new topic set filled by replay.
        #[arg(long)]
        partitions: Option<i32>,
    },
}

pub(crate) async fn run(settings: Settings, topics: Topics) -> Result<(), ProcessError> {
    let Topics::Create { partitions } = topics;
    let partitions = partitions.unwrap_or(settings.kafka.partitions);
    if !(1..=10_000).contains(&partitions) {
        return Err(ProcessError::Usage(format!("--partitions is {partitions}; it must be between 1 and 10000")));
    }
    let log = platform::kafka(&settings, Duration::from_millis(settings.start.deadline_ms)).await?;
    log.create_topics(partitions).await.map_err(|e| match e {
        LogError::Transient(_) => ProcessError::Unreachable(e.to_string()),
        other => ProcessError::Usage(other.to_string()),
    })?;
    let identity = log.identity().await.map_err(|e| ProcessError::Failed(e.to_string()))?;
    let rows: Vec<Vec<String>> = identity
        .topic_ids
        .iter()
        .map(|(topic, id)| vec![format!("{}.{topic}", settings.kafka.topic_prefix), identity.partitions.to_string(), id.clone()])
        .collect();
    say(table(&["topic", "partitions", "id"], &rows));
    Ok(())
}
