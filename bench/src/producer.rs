//! Our producer over a raw one: the same records, acknowledged by all replicas, with the same librdkafka settings.
//!
//! The floor is a `ThreadedProducer`-style loop without futures: enqueue everything, count delivery reports in a callback.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::seam::{Log, NewRecord};
use memori_event_log::topic::Topic;
use memori_schemas::ids;
use memori_tests::servers::Servers;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use crate::Options;
use crate::report::{Better, Report};

const PARTITIONS: i32 = 6;

/// Records of about a real event's size, with content that does not compress to nothing.
pub(crate) fn records(count: usize, bytes: usize) -> Vec<NewRecord> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count)
        .map(|n| {
            let key = ids::log_key("tenant", &format!("user-{}", n % 997));
            let payload: Vec<u8> = (0..bytes)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    b"etaoinshrdlucmfw"[(state & 15) as usize]
                })
                .collect();
            NewRecord { topic: Topic::ConversationsLive, key: key.into(), payload: payload.into(), headers: Vec::new() }
        })
        .collect()
}

/// Counts delivery reports.
#[derive(Clone, Default)]
struct Reports {
    delivered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.delivered } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Records a second, by a producer that lingers as ours does for that topic. What they carry, headers included, is what ours carry.
pub(crate) fn raw(brokers: &str, topic: &str, linger_ms: &str, records: &[NewRecord]) -> anyhow::Result<f64> {
    let reports = Reports::default();
    let producer: ThreadedProducer<Reports> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "zstd")
        .set("linger.ms", linger_ms)
        .set("message.max.bytes", "8388608")
        .create_with_context(reports.clone())?;
    // The connection is not part of what is measured.
    producer.client().fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let since = Instant::now();
    for NewRecord { key, payload, headers, .. } in records {
        let mut record = BaseRecord::to(topic).key(key.as_ref()).payload(payload.as_ref());
        if !headers.is_empty() {
            let own = OwnedHeaders::new_with_capacity(headers.len());
            record = record.headers(
                headers.iter().fold(own, |own, h| own.insert(KafkaHeader { key: &h.name, value: Some(h.value.as_ref()) })),
            );
        }
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    #[allow(clippy::disallowed_methods, reason = "the floor runs on a thread that may block")]
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    producer.flush(Duration::from_secs(60))?;
    let took = since.elapsed().as_secs_f64();
    let delivered = reports.delivered.load(Ordering::Relaxed);
    ensure!(delivered == records.len(), "{delivered} of {} were delivered", records.len());
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok(records.len() as f64 / took)
}

async fn ours(log: &KafkaLog, records: &[NewRecord], batch: usize) -> anyhow::Result<f64> {
    let producer = log.producer();
    let batches: Vec<Vec<NewRecord>> = records.chunks(batch).map(<[NewRecord]>::to_vec).collect();
    let since = Instant::now();
    // As many requests side by side as a busy front door serves.
    let limit = Arc::new(tokio::sync::Semaphore::new((20_000 / batch).max(1)));
    let mut running = tokio::task::JoinSet::new();
    for batch in batches {
        let permit = Arc::clone(&limit).acquire_owned().await?;
        let producer = Arc::clone(&producer);
        running.spawn(async move {
            let answers = producer.append(&batch, None).await;
            drop(permit);
            answers.into_iter().filter(Result::is_ok).count()
        });
    }
    let mut delivered = 0;
    while let Some(count) = running.join_next().await {
        delivered += count.context("a producer task panicked")?;
    }
    let took = since.elapsed().as_secs_f64();
    ensure!(delivered == records.len(), "{delivered} of {} were delivered", records.len());
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok(records.len() as f64 / took)
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let prefix = servers.fresh_prefix();
    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &prefix)).await?;
    log.create_topics(PARTITIONS).await?;
    let topic = format!("{prefix}.{}", Topic::ConversationsLive);
    let count = if options.quick { 20_000 } else { 100_000 };
    for (case, bytes, batch) in
        [("append(1) x 1 KiB", 1_024, 1), ("append(1) x 200 B", 200, 1), ("append(1000) x 200 B", 200, 1_000)]
    {
        let records = records(count, bytes);
        let (mut our_runs, mut floor_runs) = (Vec::new(), Vec::new());
        // The first pair warms broker and page cache up, and is dropped.
        for run in 0..=options.runs {
            let (floor, own) = (
                tokio::task::block_in_place(|| raw(servers.kafka_brokers(), &topic, "2", &records))?,
                ours(&log, &records, batch).await?,
            );
            if run > 0 {
                floor_runs.push(floor);
                our_runs.push(own);
            }
        }
        report.add("producer", case, "records/s", Better::Higher, &our_runs, &floor_runs);
    }
    Ok(())
}
