//! Memory stays bounded by the budget whatever the input: for an hour nobody's work is done, while the log goes on for ever. The hour is
//! as many tries as it has, as fast as they can be made. What is counted is the payloads that anything still holds, not what the driver
//! says that it holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{KeyedConfig, Observer, Reading, RecordHandler, Verdict, Windowing, Work, run_keyed};
use crate::seam::{Commit, Committed, Consumer, ConsumerEvent, Fence, Log, LogError, LogIdentity, LogRecord, Producer, Start};
use crate::topic::{Topic, TopicPartition};

const PARTITION: TopicPartition = TopicPartition { topic: Topic::ConversationsLive, partition: 0 };
/// Records that come with one poll.
const BATCH: i64 = 16;
/// Of each key, in an hour: one a minute.
const TRIES: usize = 60;
const PATIENCE: Duration = Duration::from_secs(600);

/// What is in the log, which is made when it is read.
#[derive(Clone, Copy)]
struct Input {
    keys: i64,
    payload_bytes: usize,
    /// Of as many records, one is of another tenant than the rest.
    others_every: i64,
}

impl Input {
    fn record(self, offset: i64, alive: &Arc<Alive>) -> LogRecord {
        LogRecord {
            source: PARTITION,
            offset,
            appended_at_ms: 1,
            key: Bytes::from((offset % self.keys).to_string()),
            payload: Bytes::from_owner(Payload::new(self.payload_bytes, alive)),
            headers: Vec::new(),
        }
    }

    /// Between two tries of a key on the mean; leaves the driver time for what comes.
    fn pause(self) -> Duration {
        Duration::from_micros(75) * u32::try_from(self.keys).unwrap_or(u32::MAX)
    }

    fn tenant(self, offset: i64) -> &'static str {
        if offset % self.keys % self.others_every == 0 { "other" } else { "flood" }
    }
}

#[derive(Default)]
struct Alive {
    bytes: AtomicUsize,
    most_bytes: AtomicUsize,
    records: AtomicUsize,
    most_records: AtomicUsize,
}

struct Payload {
    content: Vec<u8>,
    alive: Arc<Alive>,
}

impl Payload {
    fn new(bytes: usize, alive: &Arc<Alive>) -> Self {
        let all = alive.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        alive.most_bytes.fetch_max(all, Ordering::Relaxed);
        let all = alive.records.fetch_add(1, Ordering::Relaxed) + 1;
        alive.most_records.fetch_max(all, Ordering::Relaxed);
        Self { content: vec![b'x'; bytes], alive: Arc::clone(alive) }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.alive.bytes.fetch_sub(self.content.len(), Ordering::Relaxed);
        self.alive.records.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A log that never ends, until it is told where it does.
struct Endless {
    input: Input,
    alive: Arc<Alive>,
    end: AtomicI64,
    /// What was read up to.
    position: AtomicI64,
    paused: AtomicBool,
    changed: Notify,
    /// What is committed up to.
    committed: AtomicI64,
}

struct Shared(Arc<Endless>);

struct Reader {
    log: Arc<Endless>,
    position: Option<i64>,
    is_assigned: bool,
}

#[async_trait]
impl Log for Shared {
    fn producer(&self) -> Arc<dyn Producer> {
        unreachable!("drivers append nothing")
    }

    async fn subscribe(&self, _group: &str, _topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(Reader { log: Arc::clone(&self.0), position: None, is_assigned: false }))
    }

    async fn create_topics(&self, _partitions: i32) -> Result<(), LogError> {
        Ok(())
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        Err(LogError::Transient("not asked".to_owned()))
    }

    async fn watermarks(&self, _partition: TopicPartition) -> Result<(i64, i64), LogError> {
        Ok((0, self.0.end.load(Ordering::Relaxed)))
    }

    async fn read(&self, _partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        let most = offset.saturating_add(i64::try_from(max_records).unwrap_or(i64::MAX));
        let end = self.0.end.load(Ordering::Relaxed).min(most);
        Ok((offset..end).map(|offset| self.0.input.record(offset, &self.0.alive)).collect())
    }
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        if !self.is_assigned {
            self.is_assigned = true;
            return Ok(ConsumerEvent::Assigned(vec![PARTITION]));
        }
        loop {
            let changed = self.log.changed.notified();
            let end = self.log.end.load(Ordering::Relaxed);
            if let Some(position) = self.position
                && position < end
                && !self.log.paused.load(Ordering::Relaxed)
            {
                // As a client's poll does.
                tokio::time::sleep(Duration::from_micros(100)).await;
                let next = (position + BATCH).min(end);
                self.position = Some(next);
                self.log.position.store(next, Ordering::Relaxed);
                return Ok(ConsumerEvent::Records(
                    (position..next).map(|at| self.log.input.record(at, &self.log.alive)).collect(),
                ));
            }
            changed.await;
        }
    }

    async fn assign(&mut self, _starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        self.position = Some(0);
        Ok(())
    }

    async fn unassign(&mut self, _partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.position = None;
        Ok(())
    }

    fn pause(&mut self, _partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.log.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn resume(&mut self, _partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.log.paused.store(false, Ordering::Relaxed);
        self.log.changed.notify_one();
        Ok(())
    }

    fn committed(&self, _partition: TopicPartition) -> Option<&Committed> {
        None
    }

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError> {
        for commit in commits {
            assert!(commit.metadata.len() <= crate::finished::MAX_BYTES, "the map of what is finished is bounded, too");
            self.log.committed.store(commit.next_offset, Ordering::Relaxed);
        }
        self.log.changed.notify_waiters();
        Ok(())
    }

    fn fence(&self, _partition: TopicPartition) -> Option<Fence> {
        None
    }

    async fn close(self: Box<Self>, _deadline: Duration) {}
}

/// Nobody is served while `away`.
struct Provider {
    input: Input,
    away: AtomicBool,
    tries: AtomicUsize,
    done: AtomicUsize,
    /// The latest offset done of each key.
    last: Mutex<HashMap<Bytes, i64>>,
}

impl RecordHandler for Provider {
    type Item = ();

    fn read(&self, record: &LogRecord) -> Reading<()> {
        let tenant = Arc::from(self.input.tenant(record.offset));
        Reading { item: (), tenant, cost: 1, bytes: record.payload.len(), window: Windowing::Alone }
    }

    async fn handle(&self, work: Work<()>) -> Verdict {
        self.tries.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Verdict::RetryAfter(self.input.pause().mul_f64(0.5 + rand::random::<f64>()));
        }
        let record = &work.window[0].record;
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(record.key.clone(), record.offset);
        assert!(before.is_none_or(|before| before < record.offset), "{:?} after {before:?}", record.offset);
        self.done.fetch_add(1, Ordering::Relaxed);
        Verdict::Done
    }
}

struct Silent;

impl Observer for Silent {}

/// Of what the budget lets be held, what is alive beside it: what was on its way, and what is read again.
const BESIDE: i64 = 8 * BATCH;

async fn an_hour_of_nobody(input: Input, budget_events: usize, budget_bytes: usize) {
    let alive = Arc::<Alive>::default();
    let log = Arc::new(Endless {
        input,
        alive: Arc::clone(&alive),
        end: AtomicI64::new(i64::MAX),
        position: AtomicI64::new(0),
        paused: AtomicBool::new(false),
        changed: Notify::new(),
        committed: AtomicI64::new(0),
    });
    let provider = Arc::new(Provider {
        input,
        away: AtomicBool::new(true),
        tries: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        last: Mutex::default(),
    });
    let config = KeyedConfig {
        max_concurrency: 1_000.into(),
        budget_events,
        budget_bytes,
        read_ahead_records: 50_000,
        ..KeyedConfig::new("g", vec![Topic::ConversationsLive])
    };
    let shutdown = CancellationToken::new();
    let driver = tokio::spawn(run_keyed(
        Arc::new(Shared(Arc::clone(&log))),
        config,
        Arc::clone(&provider),
        Arc::new(Silent),
        shutdown.clone(),
    ));
    let held = budget_events.min(budget_bytes / input.payload_bytes).min(usize::try_from(input.keys).unwrap());
    let begin = Instant::now();
    while provider.tries.load(Ordering::Relaxed) < held * TRIES {
        assert!(begin.elapsed() < PATIENCE, "{} tries", provider.tries.load(Ordering::Relaxed));
        tokio::time::sleep(input.pause()).await;
    }
    let (bytes, records) = (alive.most_bytes.load(Ordering::Relaxed), alive.most_records.load(Ordering::Relaxed));
    let beside = usize::try_from(BESIDE).unwrap();
    // A full budget leaves each tenant its share: twice as much altogether.
    assert!(bytes <= 2 * budget_bytes + beside * input.payload_bytes, "{bytes} bytes for a budget of {budget_bytes}");
    assert!(records <= 2 * budget_events + beside, "{records} records for a budget of {budget_events}");
    assert!(records >= held / 2, "{records} were ever held of {held} that may be: the budget was not met");
    assert_eq!(log.committed.load(Ordering::Relaxed), 0);

    // Then the log ends somewhere, and everything in it is done once.
    let end = log.position.load(Ordering::Relaxed).max(2 * input.keys) + 1_000;
    log.end.store(end, Ordering::Relaxed);
    provider.away.store(false, Ordering::Relaxed);
    log.changed.notify_one();
    let since = Instant::now();
    while log.committed.load(Ordering::Relaxed) < end {
        assert!(since.elapsed() < PATIENCE, "{} of {end}", log.committed.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shutdown.cancel();
    driver.await.unwrap().unwrap();
    let most = alive.most_bytes.load(Ordering::Relaxed);
    assert!(most <= 2 * budget_bytes + beside * input.payload_bytes, "{most} bytes when it went on");
    assert_eq!(alive.bytes.load(Ordering::Relaxed), 0, "nothing is kept");
    let tries = provider.tries.load(Ordering::Relaxed);
    eprintln!(
        "{} records and {} KiB at most, {tries} tries, {} done",
        alive.most_records.load(Ordering::Relaxed),
        most >> 10,
        provider.done.load(Ordering::Relaxed)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_parked_keys() {
    let keys = if std::env::var("MEMORI_SOAK").is_ok_and(|soak| soak == "1") { 10_000 } else { 2_000 };
    an_hour_of_nobody(Input { keys, payload_bytes: 200, others_every: 10 }, usize::try_from(keys).unwrap(), 64 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_mebibyte() {
    an_hour_of_nobody(Input { keys: 1_000, payload_bytes: 1 << 20, others_every: 10 }, 10_000, 64 << 20).await;
}
