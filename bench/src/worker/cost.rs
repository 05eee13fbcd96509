//! What the worker itself costs an event, in processor time and in allocations: with an extractor that takes no time and finds nothing.
//!
//! The floor reads the same records with the same client and appends records of the same size, and decides nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use memori_augment_worker::Extractor;
use memori_event_log::topic::Topic;
use memori_schemas::Lane;
use memori_tests::servers::Servers;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use super::bed::{Bed, Taking, Watched};
use super::settings;
use crate::Options;
use crate::allocations;
use crate::report::{Better, Report};

/// Bytes of an outcome without facts, about.
const OUTCOME_BYTES: usize = 260;

/// What this process has used of the processors, in seconds.
fn processor_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may hold anything: user and system time are the 12th and 13th, in hundredths.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok()).context("/proc/self/stat");
    Ok((f64::from(ticks(11)?) + f64::from(ticks(12)?)) / 100.0)
}

fn raw(bed: &Bed, events: usize) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bed.brokers())
        .set("group.id", "floor")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&bed.topic(Topic::ConversationsLive), 0, Offset::Beginning)?;
    consumer.assign(&from)?;
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bed.brokers())
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "zstd")
        .set("linger.ms", "2")
        .create()?;
    let (topic, outcome) = (bed.topic(Topic::FactsLive), vec![b'x'; OUTCOME_BYTES]);
    for _ in 0..events {
        let record = consumer.poll(Duration::from_secs(60)).context("nothing to read")??;
        let outcome = BaseRecord::to(&topic).key(record.key().unwrap_or_default()).payload(&outcome);
        producer.send(outcome).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "figures per event")]
pub(super) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let events = if options.quick { 2_000 } else { 50_000 };
    let per = |value: f64| value / events as f64;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    let (mut allocated, mut floor_allocated, mut bytes, mut floor_bytes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let bed = Bed::new(servers, 1).await?;
        let owners: Vec<(&str, String)> = (0..events).map(|n| ("tenant", format!("user-{}", n % 1_000))).collect();
        bed.publish(Lane::Live, &owners, 0).await?;
        let (before, since) = (allocations::count(), processor_seconds()?);
        tokio::task::block_in_place(|| raw(&bed, events))?;
        let seen = allocations::count() - before;
        floors.push(per((processor_seconds()? - since) * 1e6));
        floor_allocated.push(per(seen.allocations as f64));
        floor_bytes.push(per(seen.bytes as f64));

        let watched = Watched::new(Taking(|_: &_| Duration::ZERO));
        let extractor: Arc<dyn Extractor> = Arc::clone(&watched) as _;
        let (before, since) = (allocations::count(), processor_seconds()?);
        let workers = bed.work(1, &settings(100), &extractor);
        watched.take(None, events).await?;
        workers.end().await?;
        let seen = allocations::count() - before;
        ours.push(per((processor_seconds()? - since) * 1e6));
        allocated.push(per(seen.allocations as f64));
        bytes.push(per(seen.bytes as f64));
    }
    report.add("worker", "processor time of an event, client included", "µs", Better::Lower, &ours, &floors);
    report.add("worker", "allocations of an event", "allocations", Better::Lower, &allocated, &floor_allocated);
    report.add("worker", "bytes allocated for an event", "bytes", Better::Lower, &bytes, &floor_bytes);
    Ok(())
}
