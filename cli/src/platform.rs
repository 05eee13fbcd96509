//! Kafka and Postgres, as the operator's commands reach them.

use std::time::Duration;

use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_service::{ProcessError, Secret, Settings, process};
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;

/// The log, once it answers within `patience`.
pub(crate) async fn kafka(settings: &Settings, patience: Duration) -> Result<KafkaLog, ProcessError> {
    let kafka = &settings.kafka;
    let config = KafkaConfig {
        properties: kafka.client_properties(),
        replication_factor: kafka.replication_factor,
        retention_days: kafka.retention_days.clone(),
        ..KafkaConfig::new(kafka.brokers.clone(), kafka.topic_prefix.clone())
    };
    process::reach(&format!("kafka at {}", kafka.brokers), patience, || KafkaLog::connect(config.clone())).await
}

/// The store as the administrator reaches it. Connects when it is first used.
pub(crate) fn postgres(settings: &Settings) -> Result<PostgresStore, ProcessError> {
    let url = settings.postgres.url.as_ref().map(Secret::expose).ok_or_else(|| {
        ProcessError::Usage(
            "postgres.url is missing: set MEMORI__POSTGRES__URL to a role that may create schemas and tables".into(),
        )
    })?;
    let usage = |e: &dyn std::fmt::Display| ProcessError::Usage(e.to_string());
    let pool = PostgresTarget::parse(url, "memori-migrate").map_err(|e| usage(&e))?.pool(1).map_err(|e| usage(&e))?;
    Ok(PostgresStore::new(pool, url))
}

/// The role that recall has to itself; `None` where it reads as whoever administers.
pub(crate) fn recall_role(settings: &Settings) -> Result<Option<String>, ProcessError> {
    let role = |url: &Option<Secret>| match url {
        None => Ok(None),
        Some(url) => PostgresTarget::parse(url.expose(), "memori-migrate")
            .map(|target| target.role().map(str::to_owned))
            .map_err(|e| ProcessError::Usage(e.to_string())),
    };
    let (own, administrator) = (role(&settings.postgres.recall_url)?, role(&settings.postgres.url)?);
    Ok(own.filter(|own| Some(own) != administrator.as_ref()))
}
