//! `memori topics create|check`: makes the log's topics in Kafka, and says where they differ from what they are made with. Idempotent.

use std::time::Duration;

use clap::Subcommand;
use memori_event_log::kafka::Drift;
use memori_event_log::{Log as _, LogError};
use memori_service::{ProcessError, Settings};
use serde_json::json;

use crate::output::{say, table};
use crate::platform;

#[derive(Subcommand)]
pub(crate) enum Topics {
    /// Make the topics that are missing, with the partition count that they keep for good.
    Create {
        /// Partitions of every topic; growth is a new topic set filled by replay.
        #[arg(long)]
        partitions: Option<i32>,
        /// Make topics with a retention although there is no archive: what they lose no rebuild and no replay will have.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Compare the topics' settings with those that they are made with. Ends with 1 where they differ.
    Check {
        /// Print the differences as JSON, one a line.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(settings: Settings, topics: Topics) -> Result<(), ProcessError> {
    let (partitions, accept_loss) = match topics {
        Topics::Create { partitions, accept_loss } => (partitions, accept_loss),
        Topics::Check { json } => return check(settings, json).await,
    };
    if let Some((kind, days)) = settings.kafka.retention_days.first_key_value()
        && settings.archive.url.is_none()
        && !accept_loss
    {
        return Err(ProcessError::Usage(format!(
            "kafka.retention_days.{kind} is {days}, and there is no archive: after that time a rebuild and a replay would lose what stood \
             there. Name one in archive.url and run `memori archive run`, or say --accept-loss"
        )));
    }
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

async fn check(settings: Settings, as_json: bool) -> Result<(), ProcessError> {
    let log = platform::kafka(&settings, Duration::from_millis(settings.start.deadline_ms)).await?;
    let drift = log.drift().await.map_err(|e| match e {
        LogError::Transient(_) => ProcessError::Unreachable(e.to_string()),
        other => ProcessError::Usage(other.to_string()),
    })?;
    if as_json {
        for one in &drift {
            let shown = json!({"topic": one.topic, "setting": one.setting, "wanted": one.wanted, "present": one.present, "loses": one.loses});
            say(shown.to_string());
        }
    } else if drift.is_empty() {
        say("every topic is as it is made");
    } else {
        let row = |one: &Drift| {
            let loses = if one.loses { "records go that are to stay" } else { "" };
            vec![one.topic.clone(), one.setting.to_owned(), one.wanted.clone(), one.present.clone(), loses.to_owned()]
        };
        let rows: Vec<Vec<String>> = drift.iter().map(row).collect();
        say(table(&["topic", "setting", "wanted", "is", ""], &rows));
    }
    if drift.is_empty() {
        return Ok(());
    }
    Err(ProcessError::Failed(format!(
        "{} settings differ; change them with Kafka's own tools (kafka-configs), or kafka.retention_days to what is meant",
        drift.len()
    )))
}
