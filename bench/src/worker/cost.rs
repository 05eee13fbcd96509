//! What the worker itself costs an event, in processor time and in allocations: with an extractor that takes no time and finds nothing.
//!
//! The floor reads the same records with the same client and appends records of the same size, and decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use memori_augment_worker::{ExtractError, Extraction, Extractor};
use memori_event_log::topic::Topic;
use memori_schemas::{ConversationEvent, Lane};
use memori_service::Settings;
use memori_tests::servers::Servers;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tokio::sync::Notify;

use super::bed::{Bed, PATIENCE, nothing};
use super::settings;
use crate::Options;
use crate::allocations;
use crate::report::{Better, Report};

/// Bytes of an outcome without facts, about.
const OUTCOME_BYTES: usize = 260;

/// User and system time of a process or thread in a `stat` file, in seconds.
fn seconds_in(stat: &str) -> anyhow::Result<f64> {
    // Behind the name, which may hold anything: the 12th and 13th, in hundredths.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok()).context("a stat file");
    Ok((f64::from(ticks(11)?) + f64::from(ticks(12)?)) / 100.0)
}

/// What this process has used of the processors, in seconds.
#[derive(Clone, Copy)]
struct Used {
    /// By threads of the runtime: all that is ours.
    own: f64,
    /// Beside those, by threads of the Kafka client.
    client: f64,
}

impl Used {
    fn now() -> anyhow::Result<Self> {
        let all = seconds_in(&std::fs::read_to_string("/proc/self/stat")?)?;
        let mut own = 0.0;
        // Threads of the client come and go with it; those of the runtime stay.
        for thread in std::fs::read_dir("/proc/self/task")? {
            let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            if ["(tokio", "(memori-bench"].iter().any(|name| stat.contains(name)) {
                own += seconds_in(&stat)?;
            }
        }
        Ok(Self { own, client: all - own })
    }

    fn since(self, before: Self) -> Self {
        Self { own: self.own - before.own, client: self.client - before.client }
    }
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

/// Finds nothing, and tells when it has seen as many events as there are. It is to cost next to nothing itself.
struct Tally {
    left: AtomicUsize,
    over: Notify,
}

#[async_trait]
impl Extractor for Tally {
    async fn extract(&self, _: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        if self.left.fetch_sub(events.len(), Ordering::Relaxed) == events.len() {
            self.over.notify_one();
        }
        Ok(nothing())
    }
}

/// How a backlog of one tenant is worked off.
#[derive(Clone, Copy)]
enum Backlog {
    /// Each record is read once: as where a worker keeps up, or where no other tenants are to be looked for.
    ReadOnce,
    /// What does not fit the budget is read past in search of other tenants, and read again in its turn: four of five here.
    PutOff,
}

impl Backlog {
    fn settings(self) -> Settings {
        let mut settings = settings(100);
        if let Self::ReadOnce = self {
            settings.worker.read_ahead_records = 0;
        }
        settings
    }

    fn name(self) -> &'static str {
        match self {
            Self::ReadOnce => "",
            Self::PutOff => ", read twice",
        }
    }
}

/// Runs' figures per event.
#[derive(Default)]
struct Runs {
    own: Vec<f64>,
    client: Vec<f64>,
    allocated: Vec<f64>,
    bytes: Vec<f64>,
}

#[allow(clippy::cast_precision_loss, reason = "figures per event")]
impl Runs {
    fn add(&mut self, events: usize, used: Used, seen: allocations::Count) {
        let per = |value: f64| value / events as f64;
        self.own.push(per(used.own * 1e6));
        self.client.push(per(used.client * 1e6));
        self.allocated.push(per(seen.allocations as f64));
        self.bytes.push(per(seen.bytes as f64));
    }
}

pub(super) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let events = if options.quick { 2_000 } else { 50_000 };
    for backlog in [Backlog::ReadOnce, Backlog::PutOff] {
        let (mut ours, mut floor) = (Runs::default(), Runs::default());
        for _ in 0..options.runs {
            let bed = Bed::new(servers, 1).await?;
            let owners: Vec<(&str, String)> = (0..events).map(|n| ("tenant", format!("user-{}", n % 1_000))).collect();
            bed.publish(Lane::Live, &owners, 0).await?;
            let (before, since) = (allocations::count(), Used::now()?);
            tokio::task::block_in_place(|| raw(&bed, events))?;
            let used = Used::now()?.since(since);
            floor.add(events, Used { own: used.own + used.client, client: 0.0 }, allocations::count() - before);

            let done = Arc::new(Tally { left: AtomicUsize::new(events), over: Notify::new() });
            let extractor: Arc<dyn Extractor> = Arc::clone(&done) as _;
            let (before, since) = (allocations::count(), Used::now()?);
            let workers = bed.work(1, &backlog.settings(), &extractor);
            tokio::time::timeout(PATIENCE, done.over.notified()).await.context("the worker does not come to an end")?;
            workers.end().await?;
            ours.add(events, Used::now()?.since(since), allocations::count() - before);
        }
        let mut add = |what: &str, unit: &'static str, ours: &[f64], floor: &[f64]| {
            report.add("worker", &format!("{what}{}", backlog.name()), unit, Better::Lower, ours, floor);
        };
        add("processor time of an event, our own", "µs", &ours.own, &floor.own);
        add("processor time of an event, the Kafka client's threads", "µs", &ours.client, &floor.own);
        add("allocations of an event", "allocations", &ours.allocated, &floor.allocated);
        add("bytes allocated for an event", "bytes", &ours.bytes, &floor.bytes);
    }
    Ok(())
}
