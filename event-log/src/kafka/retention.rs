//! What a topic is made with, and where topics that are there differ from it.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};

use super::blocking::{REQUEST_TIMEOUT, detached};
use super::names::log_error;
use super::{KafkaLog, MAX_MESSAGE_BYTES, Quiet};
use crate::seam::LogError;
use crate::topic::Topic;

const DAY_MS: i64 = 86_400_000;

/// A setting of a topic that is not what it is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The topic's whole name.
    pub topic: String,
    /// The setting.
    pub setting: &'static str,
    /// What it is made with.
    pub wanted: String,
    /// What the brokers say.
    pub present: String,
    /// Records go, or have gone, that are to stay.
    pub loses: bool,
}

/// The settings of a new topic. Never compacted: a key is an entity, and all of its records count.
pub(super) fn settings_of(
    topic: Topic,
    retention_days: &BTreeMap<String, u32>,
    replicas: Option<i32>,
) -> Vec<(&'static str, String)> {
    let retention = retention_days.get(topic.kind()).map_or(-1, |days| i64::from(*days) * DAY_MS);
    let mut settings = vec![
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", retention.to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("max.message.bytes", MAX_MESSAGE_BYTES.to_string()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
    ];
    // `acks=all` waits for the replicas that are in sync, which may be the leader alone: then an acknowledgement would be worth one
    // disk. Of three, one may be away.
    if replicas.is_some_and(|replicas| replicas >= 3) {
        settings.push(("min.insync.replicas", "2".to_owned()));
    }
    settings
}

/// Whether less is kept than wanted.
fn loses(setting: &str, wanted: &str, present: &str) -> bool {
    let kept = |text: &str| text.parse::<i64>().ok().map(|n| if n < 0 { i64::MAX } else { n });
    match setting {
        "cleanup.policy" => true,
        "retention.ms" | "retention.bytes" => kept(present) < kept(wanted),
        _ => false,
    }
}

impl KafkaLog {
    /// Where the topics differ from what [`Log::create_topics`](crate::seam::Log::create_topics) makes them with.
    ///
    /// # Errors
    /// A topic is missing, or the brokers do not tell.
    pub async fn drift(&self) -> Result<Vec<Drift>, LogError> {
        let admin: AdminClient<Quiet> = self
            .shared
            .properties
            .plain()
            .create_with_context(Quiet::default())
            .map_err(|error| log_error("ask for the topics' settings", &error))?;
        let names: Vec<(Topic, String)> = self.shared.names.all().map(|(topic, name)| (topic, name.to_owned())).collect();
        let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|(_, name)| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let answers = admin.describe_configs(asked.iter(), &options).await;
        let answers = answers.map_err(|error| log_error("ask for the topics' settings", &error))?;
        let mut drift = Vec::new();
        for ((topic, name), answer) in names.iter().zip(answers) {
            let present = answer.map_err(|code| LogError::Fatal(format!("the settings of topic {name}: {code}")))?;
            for (setting, wanted) in settings_of(*topic, &self.shared.retention_days, self.shared.replication_factor) {
                let value = present.get(setting).and_then(|entry| entry.value.clone()).unwrap_or_default();
                if value != wanted {
                    let loses = loses(setting, &wanted, &value);
                    drift.push(Drift { topic: name.clone(), setting, wanted, present: value, loses });
                }
            }
        }
        // dropping it waits for its threads
        detached(move || drop(admin)).await?;
        Ok(drift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_a_loss_and_more_is_none() {
        for (setting, wanted, present, lost) in [
            ("retention.ms", "-1", "604800000", true),
            ("retention.ms", "604800000", "-1", false),
            ("retention.ms", "604800000", "1000", true),
            ("retention.bytes", "-1", "1073741824", true),
            ("cleanup.policy", "delete", "compact", true),
            ("max.message.bytes", "8388608", "1048588", false),
        ] {
            assert_eq!(loses(setting, wanted, present), lost, "{setting} {present}");
        }
        let days = BTreeMap::from([("conversations".to_owned(), 7)]);
        let of = |topic| settings_of(topic, &days, Some(1)).into_iter().find(|(name, _)| *name == "retention.ms").map(|(_, v)| v);
        assert_eq!(of(Topic::ConversationsBackfill).as_deref(), Some("604800000"));
        assert_eq!(of(Topic::Controls).as_deref(), Some("-1"));
    }
}
