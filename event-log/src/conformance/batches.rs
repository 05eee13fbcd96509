//! The batch driver on a provider, over a store of the suite's own: a table of offsets and a list of what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Provider;
use super::tools::{Listener, Progress, TOPIC, Told, append, at, key_of, number, numbered, within};
use crate::driver::{Batch, BatchConfig, BatchSink, SinkError, StandBack, run_batches};
use crate::seam::{Log, LogError, Start};
use crate::topic::TopicPartition;

/// What all writers share: one transaction at a time.
#[derive(Default)]
struct Store {
    offsets: BTreeMap<TopicPartition, i64>,
    written: Vec<(TopicPartition, i64, u64)>,
    /// Who has written anything.
    writers: BTreeSet<usize>,
    /// The next flushes fail, having written or not.
    failures: Vec<Failure>,
    attempts: Vec<Vec<(TopicPartition, i64)>>,
    closed: BTreeSet<TopicPartition>,
}

#[derive(Clone, Copy)]
enum Failure {
    Nothing,
    /// The write happened, but the answer was lost.
    AnswerLost,
}

struct Sink {
    store: Arc<Progress<Store>>,
    /// Which writer's it is.
    writer: usize,
}

#[async_trait]
impl BatchSink for Sink {
    async fn starts(&mut self, assigned: &[TopicPartition]) -> Result<Vec<(TopicPartition, Start)>, SinkError> {
        Ok(self
            .store
            .look(|store| assigned.iter().map(|p| (*p, Start::Offset(store.offsets.get(p).copied().unwrap_or(0)))).collect()))
    }

    async fn flush(&mut self, batch: &Batch) -> Result<(), SinkError> {
        // So that members, crashes and flushes interleave.
        tokio::task::yield_now().await;
        self.store.change(|store| {
            store.attempts.push(batch.records.iter().map(|r| (r.source, r.offset)).collect());
            let failure = store.failures.pop();
            if matches!(failure, Some(Failure::Nothing)) {
                return Err(SinkError::Retry("away".to_owned()));
            }
            let stale = |a: &&crate::driver::Advance| store.offsets.get(&a.partition).copied().unwrap_or(0) != a.from_offset;
            let fenced: Vec<TopicPartition> = batch.advances.iter().filter(stale).map(|a| a.partition).collect();
            if !fenced.is_empty() {
                return Err(SinkError::Fenced(fenced));
            }
            for advance in &batch.advances {
                store.offsets.insert(advance.partition, advance.next_offset);
            }
            store.written.extend(batch.records.iter().map(|r| (r.source, r.offset, number(r))));
            store.writers.insert(self.writer);
            if failure.is_some() { Err(SinkError::Retry("the answer was lost".to_owned())) } else { Ok(()) }
        })
    }

    async fn may_flow(&mut self, partition: TopicPartition) -> Result<bool, SinkError> {
        Ok(self.store.look(|store| !store.closed.contains(&partition)))
    }
}

struct Writer {
    told: Arc<Progress<Told>>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), LogError>>,
}

fn config() -> BatchConfig {
    BatchConfig {
        group: "writers".to_owned(),
        topics: vec![TOPIC],
        batch_rows: 7.into(),
        batch_bytes: 1024 * 1024,
        batch_max_age: Duration::from_millis(5),
        backfill: StandBack { max_age: Duration::from_millis(20), rows_beside: 3, ..StandBack::never(Duration::from_millis(5)) },
        budget_events: 100,
        budget_bytes: 1024 * 1024,
        drain_deadline: Duration::from_secs(20),
    }
}

impl Writer {
    fn start(log: Arc<dyn Log>, store: &Arc<Progress<Store>>, writer: usize) -> Self {
        let (told, shutdown) = (Progress::new(), CancellationToken::new());
        let sink = Box::new(Sink { store: Arc::clone(store), writer });
        let running = tokio::spawn(run_batches(log, config(), sink, Arc::new(Listener(Arc::clone(&told))), shutdown.clone()));
        Self { told, shutdown, running }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        within("a driver's end", self.running).await.expect("the driver does not panic").expect("ends well");
    }
}

fn in_order_and_once(store: &Store, partitions: i32, each: i64) {
    for partition in (0..partitions).map(at) {
        let offsets: Vec<i64> = store.written.iter().filter(|w| w.0 == partition).map(|w| w.1).collect();
        assert_eq!(offsets, (0..each).collect::<Vec<_>>(), "{partition}");
    }
}

/// Writers come, crash in the middle, and come again; the store lost answers on the way: every record is written once, in order.
pub async fn batches_are_written_once_over_crashes<P: Provider>() {
    const PARTITIONS: i32 = 3;
    let provider = P::fresh(PARTITIONS).await;
    let log = provider.connect().await;
    let store = Progress::<Store>::new();
    let keys: Vec<String> = (0..PARTITIONS).map(|p| key_of(p, PARTITIONS, 0)).collect();
    let steady = Writer::start(provider.connect().await, &store, 0);
    let mut appended = 0;
    for doomed in 1..=3_usize {
        let writer = Writer::start(provider.connect().await, &store, doomed);
        store.change(|store| store.failures.extend([Failure::Nothing, Failure::AnswerLost]));
        // Records come until the new writer has written too, so that it has partitions to lose.
        while !store.look(|store| store.writers.contains(&doomed)) {
            append(&*log, (0..50).flat_map(|n| keys.iter().map(move |key| numbered(key, n))).collect()).await;
            appended += 50;
            let some = keys.len() * (appended - 20);
            store.until("some of it", |store| store.written.len() >= some || store.writers.contains(&doomed)).await;
        }
        // Gone without a word, in whatever it is doing.
        append(&*log, (0..50).flat_map(|n| keys.iter().map(move |key| numbered(key, n))).collect()).await;
        appended += 50;
        writer.running.abort();
        assert!(writer.running.await.is_err(), "it was running");
    }
    let all = keys.len() * appended;
    store.until("all of it", |store| store.written.len() >= all).await;
    steady.stop().await;
    store.look(|store| in_order_and_once(store, PARTITIONS, i64::try_from(appended).expect("small")));
}

/// Another owner has moved a partition's row: what was gathered of it is dropped, and reading goes on where the row stands.
pub async fn fenced_batches_go_on_where_the_store_says<P: Provider>() {
    let provider = P::fresh(2).await;
    let log = provider.connect().await;
    let store = Progress::<Store>::new();
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    append(&*log, (0..10).flat_map(|n| [numbered(&keys[0], n), numbered(&keys[1], n)]).collect()).await;
    let writer = Writer::start(provider.connect().await, &store, 0);
    store.until("the first records", |store| store.written.len() == 20).await;
    // As another writer would have written 10..15 of one partition.
    append(&*log, (10..15).map(|n| numbered(&keys[0], n)).collect()).await;
    store.until("these", |store| store.written.len() == 25).await;
    store.change(|store| {
        store.offsets.insert(at(0), 12);
        store.written.retain(|(partition, offset, _)| *partition != at(0) || *offset < 12);
    });
    append(&*log, vec![numbered(&keys[0], 15), numbered(&keys[1], 10)]).await;
    store.until("the rest, again", |store| store.written.len() == 27).await;
    assert!(writer.told.look(|told| told.fenced) >= 1);
    writer.stop().await;
    store.look(|store| {
        let of = |partition| store.written.iter().filter(|w| w.0 == at(partition)).map(|w| w.1).collect::<Vec<_>>();
        assert_eq!(of(0), (0..16).collect::<Vec<_>>());
        assert_eq!(of(1), (0..11).collect::<Vec<_>>());
    });
}

/// A batch that failed for a while is tried again as it was, whatever has been gathered since.
pub async fn retried_batches_stay_the_same<P: Provider>() {
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    let store = Progress::<Store>::new();
    store.change(|store| store.failures = vec![Failure::Nothing; 3]);
    append(&*log, (0..3).map(|n| numbered("k", n)).collect()).await;
    let writer = Writer::start(provider.connect().await, &store, 0);
    writer.told.until("the first retry", |told| told.flush_retries >= 1).await;
    append(&*log, (3..20).map(|n| numbered("k", n)).collect()).await;
    store.until("all of it", |store| store.written.len() == 20).await;
    writer.stop().await;
    store.look(|store| {
        assert!(store.attempts[..4].iter().all(|attempt| *attempt == store.attempts[0]), "{:?}", &store.attempts[..4]);
        in_order_and_once(store, 1, 20);
    });
}

/// A partition that may not flow yet waits, without holding back another, and then gives everything in order.
pub async fn held_partitions_wait<P: Provider>() {
    let provider = P::fresh(2).await;
    let log = provider.connect().await;
    let store = Progress::<Store>::new();
    store.change(|store| store.closed.insert(at(0)));
    let keys = [key_of(0, 2, 0), key_of(1, 2, 0)];
    append(&*log, (0..30).flat_map(|n| [numbered(&keys[0], n), numbered(&keys[1], n)]).collect()).await;
    let writer = Writer::start(provider.connect().await, &store, 0);
    store.until("the open one", |store| store.written.len() == 30).await;
    append(&*log, vec![numbered(&keys[0], 30), numbered(&keys[1], 30)]).await;
    store.until("the open one, further", |store| store.written.len() == 31).await;
    store.look(|store| assert!(store.written.iter().all(|w| w.0 == at(1))));
    store.change(|store| store.closed.clear());
    store.until("both", |store| store.written.len() == 62).await;
    writer.stop().await;
    store.look(|store| in_order_and_once(store, 2, 31));
}
