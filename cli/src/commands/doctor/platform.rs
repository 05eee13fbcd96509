//! The platform: are Kafka, its topics, Postgres, its tables and the writer there, and do they fit this program?

use memori_event_log::{Log as _, LogError};
use memori_service::Settings;
use memori_writer::store::OffsetKey;
use memori_writer::store::Store as _;

use super::{Finding, PATIENCE, writable};
use crate::platform;

pub(crate) async fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = kafka(settings).await;
    findings.push(postgres(settings).await);
    findings.push(writer(settings).await);
    findings.push(spool(settings));
    if settings.auth.internal_token.is_none() && !settings.writer.listen.ip().is_loopback() {
        findings.push(Finding::failed(
            "internal token",
            format!("none, and the writer listens on {}", settings.writer.listen),
            "set MEMORI__AUTH__INTERNAL_TOKEN to the same long random text for ingest and writer",
        ));
    }
    findings
}

async fn kafka(settings: &Settings) -> Vec<Finding> {
    let brokers = &settings.kafka.brokers;
    let log = match platform::kafka(settings, PATIENCE).await {
        Ok(log) => log,
        Err(error) => {
            return vec![Finding::failed(
                "kafka",
                error.to_string(),
                "start it, or set MEMORI__KAFKA__BROKERS and, for TLS or SASL, MEMORI__KAFKA__PROPERTIES__…",
            )];
        }
    };
    let mut findings = vec![Finding::ok("kafka", format!("answers at {brokers}"))];
    findings.push(match log.identity().await {
        Ok(identity) => Finding::ok(
            "topics",
            format!("{} of {} partitions, prefix {}", identity.topic_ids.len(), identity.partitions, settings.kafka.topic_prefix),
        ),
        Err(error @ LogError::Transient(_)) => Finding::failed("topics", error.to_string(), "is the cluster healthy?"),
        Err(error) => Finding::failed("topics", error.to_string(), "run `memori topics create`"),
    });
    findings
}

async fn postgres(settings: &Settings) -> Finding {
    let store = match platform::postgres(settings) {
        Ok(store) => store,
        Err(error) => return Finding::failed("postgres", "not configured", error.to_string()),
    };
    let probe = OffsetKey { cluster_id: "doctor".into(), topic_id: "doctor".into(), partition: 0 };
    match tokio::time::timeout(PATIENCE, store.next_offsets(&[probe])).await {
        Ok(Ok(_)) => Finding::ok("postgres", "answers, and has the tables"),
        Ok(Err(error)) => Finding::failed(
            "postgres",
            error.to_string(),
            "if it does not answer: start it, or correct MEMORI__POSTGRES__URL; if tables are missing: run `memori migrate`",
        ),
        Err(_) => Finding::failed("postgres", "does not answer", "start it, or correct MEMORI__POSTGRES__URL"),
    }
}

async fn writer(settings: &Settings) -> Finding {
    let url = &settings.ingest.writer_url;
    let answer = reqwest::Client::new().get(format!("{url}/v1/recall")).timeout(PATIENCE).send().await;
    match answer {
        Ok(_) => Finding::ok("writer", format!("answers at {url}")),
        Err(_) => Finding::note(
            "writer",
            format!("does not answer at {url}"),
            "start memori-writer, or set MEMORI__INGEST__WRITER_URL; without it events are still taken, reads answer 503",
        ),
    }
}

fn spool(settings: &Settings) -> Finding {
    match &settings.ingest.spool_dir {
        None => Finding::note(
            "spool",
            "off: while Kafka is away events are refused with 503",
            "set MEMORI__INGEST__SPOOL_DIR to a folder on a disk that stays",
        ),
        Some(dir) if !dir.exists() => Finding::ok("spool", format!("{} is not there yet; memori-ingest makes it", dir.display())),
        Some(dir) => match writable(dir) {
            Ok(()) => {
                Finding::ok("spool", format!("{} is writable, at most {} bytes", dir.display(), settings.ingest.spool_max_bytes))
            }
            Err(error) => Finding::failed("spool", format!("{}: {error}", dir.display()), "make it writable for memori-ingest"),
        },
    }
}
