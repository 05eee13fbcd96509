//! What the cases are made with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, Provider};
use crate::driver::{Held, KeyedConfig, Observer, Reading, RecordHandler, Verdict, Windowing, Work, run_keyed};
use crate::seam::{Consumer, ConsumerEvent, Fence, Header, Log, LogError, LogRecord, NewRecord, Position, Start};
use crate::topic::{Topic, TopicPartition};

pub(super) const TOPIC: Topic = Topic::ConversationsLive;

pub(super) fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: TOPIC, partition }
}

/// The n-th key whose records go to a partition.
pub(super) fn key_of(partition: i32, partitions: i32, n: usize) -> String {
    (0..)
        .map(|i| format!("key {i}"))
        .filter(|key| memori_schemas::ids::partition_of(key.as_bytes(), partitions) == partition)
        .nth(n)
        .expect("keys do not end")
}

pub(super) fn record(key: &str, payload: impl Into<Bytes>) -> NewRecord {
    let headers = vec![Header { name: "tenant".into(), value: Bytes::from_static(b"acme") }];
    NewRecord { topic: TOPIC, key: Bytes::copy_from_slice(key.as_bytes()), payload: payload.into(), headers }
}

/// A record whose payload is a number.
pub(super) fn numbered(key: &str, n: u64) -> NewRecord {
    record(key, n.to_be_bytes().to_vec())
}

/// The same of another tenant than everybody else.
pub(super) fn of_another(mut record: NewRecord) -> NewRecord {
    record.headers = vec![Header { name: "tenant".into(), value: Bytes::from_static(b"other") }];
    record
}

pub(super) fn number(record: &LogRecord) -> u64 {
    u64::from_be_bytes(record.payload.as_ref().try_into().expect("a numbered record"))
}

pub(super) async fn append(log: &dyn Log, records: Vec<NewRecord>) -> Vec<Position> {
    log.producer().append(&records, None).await.into_iter().map(|result| result.expect("appended")).collect()
}

/// One call for each, in their order, side by side.
pub(super) async fn append_each(log: &dyn Log, records: Vec<NewRecord>) -> Vec<Position> {
    let producer = log.producer();
    let answers = futures::future::join_all(records.iter().map(|record| producer.append_one(record, None))).await;
    answers.into_iter().map(|result| result.expect("appended")).collect()
}

pub(super) async fn within<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes assignments up as the group has committed, until `wanted` records have come.
pub(super) async fn take(consumer: &mut dyn Consumer, wanted: usize) -> Vec<LogRecord> {
    let mut taken = Vec::new();
    while taken.len() < wanted {
        match within("records", consumer.next()).await.expect("the log answers") {
            ConsumerEvent::Assigned(partitions) => {
                let starts: Vec<_> = partitions.into_iter().map(|p| (p, Start::Committed)).collect();
                consumer.assign(&starts).await.expect("assigns");
            }
            ConsumerEvent::Revoked(partitions) | ConsumerEvent::Lost(partitions) => {
                consumer.unassign(&partitions).await.expect("lets go")
            }
            ConsumerEvent::Records(records) => taken.extend(records),
        }
    }
    taken
}

/// The first assignment, not yet taken up.
pub(super) async fn assigned(consumer: &mut dyn Consumer) -> Vec<TopicPartition> {
    match within("an assignment", consumer.next()).await.expect("the log answers") {
        ConsumerEvent::Assigned(partitions) => partitions,
        event => panic!("an assignment comes first, not {event:?}"),
    }
}

/// What happened, told to whoever waits for it.
pub(super) struct Progress<T> {
    state: Mutex<T>,
    changed: watch::Sender<u64>,
}

impl<T: Default> Progress<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(T::default()), changed: watch::Sender::new(0) })
    }
}

impl<T> Progress<T> {
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut lock(&self.state));
        self.changed.send_modify(|n| *n += 1);
        result
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&lock(&self.state))
    }

    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut(&T) -> bool) {
        let mut changed = self.changed.subscribe();
        within(what, async {
            while !self.look(&mut holds) {
                changed.changed().await.expect("the sender is ours");
            }
        })
        .await;
    }
}

/// What a driver told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) dropped: usize,
    pub(super) skipped: usize,
    pub(super) put_off: usize,
    pub(super) reread: usize,
    pub(super) pauses: usize,
    pub(super) reopened: usize,
    pub(super) held_most: usize,
    pub(super) halted: BTreeMap<TopicPartition, String>,
    pub(super) fenced: usize,
    pub(super) flush_retries: usize,
}

pub(super) struct Listener(pub(super) Arc<Progress<Told>>);

impl Observer for Listener {
    fn held(&self, records: usize, _bytes: usize) {
        self.0.change(|told| told.held_most = told.held_most.max(records));
    }

    fn paused(&self, paused: bool) {
        self.0.change(|told| if paused { told.pauses += 1 } else { told.reopened += 1 });
    }

    fn dropped_by_epoch(&self, records: usize) {
        self.0.change(|told| told.dropped += records);
    }

    fn skipped_as_finished(&self, records: usize) {
        self.0.change(|told| told.skipped += records);
    }

    fn put_off(&self, records: usize) {
        self.0.change(|told| told.put_off += records);
    }

    fn reread(&self, records: usize) {
        self.0.change(|told| told.reread += records);
    }

    fn halted(&self, partition: TopicPartition, reason: &str) {
        self.0.change(|told| told.halted.insert(partition, reason.to_owned()));
    }

    fn fenced(&self, _partition: TopicPartition) {
        self.0.change(|told| told.fenced += 1);
    }

    fn flush_retried(&self, _cause: crate::driver::FlushCause, _reason: &str, _wait: Duration) {
        self.0.change(|told| told.flush_retries += 1);
    }
}

/// One record to work on: here, every window is one.
pub(super) struct Task {
    held: Arc<Held<()>>,
    pub(super) attempt: u32,
    pub(super) first_tried_at_ms: i64,
    pub(super) fence: Option<Fence>,
}

impl Task {
    pub(super) fn record(&self) -> &LogRecord {
        &self.held.record
    }
}

type Handle = Box<dyn Fn(Task) -> BoxFuture<'static, Verdict> + Send + Sync>;

struct Handler(Handle);

impl RecordHandler for Handler {
    type Item = ();

    fn read(&self, record: &LogRecord) -> Reading<()> {
        let cost = u64::try_from(record.bytes()).expect("small").max(1);
        let tenant = record.header("tenant").map_or_else(String::new, |tenant| String::from_utf8_lossy(tenant).into_owned());
        Reading { item: (), tenant: tenant.into(), cost, bytes: 0, window: Windowing::Alone }
    }

    async fn handle(&self, work: Work<()>) -> Verdict {
        let Work { window, attempt, first_tried_at_ms, fence } = work;
        let [held] = <[_; 1]>::try_from(window).expect("windows of one record");
        (self.0)(Task { held, attempt, first_tried_at_ms, fence }).await
    }
}

/// A keyed driver that runs beside the case.
pub(super) struct Member {
    pub(super) told: Arc<Progress<Told>>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), LogError>>,
}

pub(super) fn keyed_config() -> KeyedConfig {
    KeyedConfig {
        max_concurrency: 16.into(),
        budget_events: 1000,
        budget_bytes: 16 * 1024 * 1024,
        commit_interval: Duration::from_millis(50),
        drain_deadline: Duration::from_secs(20),
        ..KeyedConfig::new("workers", vec![TOPIC])
    }
}

impl Member {
    pub(super) async fn start<P: Provider>(
        provider: &P,
        config: KeyedConfig,
        handle: impl Fn(Task) -> BoxFuture<'static, Verdict> + Send + Sync + 'static,
    ) -> Self {
        let log = provider.connect().await;
        let (told, shutdown) = (Progress::new(), CancellationToken::new());
        let handler = Arc::new(Handler(Box::new(handle)));
        let running = tokio::spawn(run_keyed(log, config, handler, Arc::new(Listener(Arc::clone(&told))), shutdown.clone()));
        Self { told, shutdown, running }
    }

    pub(super) async fn stop(self) -> Result<(), LogError> {
        self.shutdown.cancel();
        self.ended().await
    }

    pub(super) async fn ended(self) -> Result<(), LogError> {
        within("a driver's end", self.running).await.expect("the driver does not panic")
    }
}

/// Where a group would go on, per partition: a member takes the assignment up and says the first offset that it is given, or the
/// end. Every partition must have at least one record.
pub(super) async fn goes_on_at(log: &dyn Log, group: &str, partitions: i32) -> BTreeMap<i32, i64> {
    // A mark at each partition's end, so that something comes of each.
    let mut ends = BTreeMap::new();
    for partition in 0..partitions {
        let mark = append(log, vec![record(&key_of(partition, partitions, 0), Bytes::from_static(b"mark"))]).await;
        ends.insert(partition, mark[0].offset);
    }
    let mut consumer = log.subscribe(group, &[TOPIC]).await.expect("joins");
    let mut first = BTreeMap::new();
    let mut open: BTreeSet<i32> = ends.keys().copied().collect();
    while !open.is_empty() {
        for record in take(&mut *consumer, 1).await {
            first.entry(record.source.partition).or_insert(record.offset);
            open.remove(&record.source.partition);
        }
    }
    consumer.close(Duration::from_secs(10)).await;
    first
}
