//! The drivers over a log whose every word is the test's: what no real group can be made to do at will.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Batch, BatchConfig, BatchSink, FlushCause, KeyedConfig, LiveBound, Observer, Reading, RecordHandler, SinkError, StandBack,
    Verdict, Windowing, Work, run_batches, run_keyed,
};
use crate::finished::{self, Run};
use crate::seam::{Commit, Committed, Consumer, ConsumerEvent, Fence, Log, LogError, LogIdentity, LogRecord, Producer, Start};
use crate::topic::{Topic, TopicPartition};

const PATIENCE: Duration = Duration::from_secs(30);

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: Topic::ConversationsLive, partition }
}

fn record(partition: i32, offset: i64, key: &'static str) -> LogRecord {
    LogRecord {
        source: at(partition),
        offset,
        appended_at_ms: 1,
        key: Bytes::from_static(key.as_bytes()),
        payload: Bytes::from_static(b"payload"),
        headers: Vec::new(),
    }
}

/// What a driver did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Assign(Vec<(TopicPartition, Start)>),
    Unassign(Vec<TopicPartition>),
    Pause(Vec<TopicPartition>),
    Resume(Vec<TopicPartition>),
    Commit(Vec<(TopicPartition, i64)>),
    Work(i64, u32),
    Finish(i64),
    Flush(FlushCause, Vec<i64>),
    Ask(usize),
    Dropped(usize),
    Skipped(usize),
    Close,
}

#[derive(Clone)]
struct Diary {
    entries: Arc<Mutex<Vec<Did>>>,
    changed: watch::Sender<usize>,
}

impl Diary {
    fn new() -> Self {
        Self { entries: Arc::default(), changed: watch::Sender::new(0) }
    }

    fn write(&self, did: Did) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(did);
        self.changed.send_modify(|n| *n += 1);
    }

    fn read(&self) -> Vec<Did> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn position(&self, did: &Did) -> Option<usize> {
        self.read().iter().position(|d| d == did)
    }

    async fn until(&self, did: Did) {
        self.count(did, 1).await;
    }

    async fn count(&self, did: Did, times: usize) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while self.read().iter().filter(|d| **d == did).count() < times {
                changed.changed().await.expect("the sender is ours");
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("waited too long for {times} {did:?} in {:?}", self.read());
        }
    }
}

impl Observer for Diary {
    fn dropped_by_epoch(&self, records: usize) {
        self.write(Did::Dropped(records));
    }

    fn skipped_as_finished(&self, records: usize) {
        self.write(Did::Skipped(records));
    }
}

type Script = mpsc::UnboundedSender<Result<ConsumerEvent, LogError>>;

struct ScriptedLog {
    consumer: Mutex<Option<ScriptedConsumer>>,
}

/// What a group has committed; it outlives its members.
type Offsets = Arc<Mutex<BTreeMap<TopicPartition, Committed>>>;

struct ScriptedConsumer {
    diary: Diary,
    offsets: Offsets,
    taken_up: BTreeMap<TopicPartition, Committed>,
    script: mpsc::UnboundedReceiver<Result<ConsumerEvent, LogError>>,
    commit_errors: Arc<Mutex<Vec<LogError>>>,
    refuses_to_assign: Arc<AtomicBool>,
}

#[async_trait]
impl Log for ScriptedLog {
    fn producer(&self) -> Arc<dyn Producer> {
        unreachable!("drivers append nothing")
    }

    async fn subscribe(&self, _group: &str, _topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(self.consumer.lock().unwrap_or_else(PoisonError::into_inner).take().expect("one member")))
    }

    async fn create_topics(&self, _partitions: i32) -> Result<(), LogError> {
        Ok(())
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        Err(LogError::Transient("not asked".to_owned()))
    }

    async fn watermarks(&self, _partition: TopicPartition) -> Result<(i64, i64), LogError> {
        Ok((0, 100))
    }

    async fn read(&self, _partition: TopicPartition, _offset: i64, _max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Consumer for ScriptedConsumer {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        match self.script.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        self.diary.write(Did::Assign(starts.to_vec()));
        if self.refuses_to_assign.load(Ordering::Relaxed) {
            return Err(LogError::Transient("the group is changing".to_owned()));
        }
        let offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, start) in starts {
            self.taken_up.remove(partition);
            if let Some(committed) = offsets.get(partition).filter(|_| *start == Start::Committed) {
                self.taken_up.insert(*partition, committed.clone());
            }
        }
        Ok(())
    }

    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.diary.write(Did::Unassign(partitions.to_vec()));
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.diary.write(Did::Pause(partitions.to_vec()));
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.diary.write(Did::Resume(partitions.to_vec()));
        Ok(())
    }

    fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        self.taken_up.get(&partition)
    }

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError> {
        if let Some(error) = self.commit_errors.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Err(error);
        }
        let committed = |Commit { partition, next_offset, metadata }: &Commit| {
            (*partition, Committed { next_offset: *next_offset, metadata: metadata.clone(), log_end: i64::MAX })
        };
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner).extend(commits.iter().map(committed));
        self.diary.write(Did::Commit(commits.iter().map(|commit| (commit.partition, commit.next_offset)).collect()));
        Ok(())
    }

    fn fence(&self, _partition: TopicPartition) -> Option<Fence> {
        None
    }

    async fn close(self: Box<Self>, _deadline: Duration) {
        self.diary.write(Did::Close);
    }
}

/// A driver that runs on a script.
struct Running {
    diary: Diary,
    script: Script,
    commit_errors: Arc<Mutex<Vec<LogError>>>,
    refuses_to_assign: Arc<AtomicBool>,
    shutdown: CancellationToken,
    driver: JoinHandle<Result<(), LogError>>,
}

impl Running {
    fn start(run: impl AsyncRun) -> Self {
        Self::start_in(&Offsets::default(), run)
    }

    fn start_in(offsets: &Offsets, run: impl AsyncRun) -> Self {
        let (diary, shutdown, commit_errors) = (Diary::new(), CancellationToken::new(), Arc::default());
        let (script, events) = mpsc::unbounded_channel();
        let refuses_to_assign = Arc::new(AtomicBool::new(false));
        let consumer = ScriptedConsumer {
            diary: diary.clone(),
            offsets: Arc::clone(offsets),
            taken_up: BTreeMap::new(),
            script: events,
            commit_errors: Arc::clone(&commit_errors),
            refuses_to_assign: Arc::clone(&refuses_to_assign),
        };
        let log = Arc::new(ScriptedLog { consumer: Mutex::new(Some(consumer)) });
        let driver = run.run(log, diary.clone(), shutdown.clone());
        Self { diary, script, commit_errors, refuses_to_assign, shutdown, driver }
    }

    fn tell(&self, event: ConsumerEvent) {
        self.script.send(Ok(event)).expect("the driver listens");
    }

    async fn stop(self) -> Vec<Did> {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.driver).await.expect("it ends");
        ended.expect("no panic").expect("ends well");
        self.diary.read()
    }
}

trait AsyncRun {
    fn run(self, log: Arc<ScriptedLog>, diary: Diary, shutdown: CancellationToken) -> JoinHandle<Result<(), LogError>>;
}

fn alone() -> Reading<()> {
    Reading { item: (), tenant: Arc::from("acme"), cost: 1, bytes: 0, window: Windowing::Alone }
}

/// Works for as long as there are no permits.
struct KeyedRun {
    permits: Arc<Semaphore>,
    drain_deadline: Duration,
    bound: LiveBound,
}

struct Permitted {
    diary: Diary,
    permits: Arc<Semaphore>,
}

impl RecordHandler for Permitted {
    type Item = ();

    fn read(&self, _: &LogRecord) -> Reading<()> {
        alone()
    }

    async fn handle(&self, work: Work<()>) -> Verdict {
        let offset = work.window[0].record.offset;
        self.diary.write(Did::Work(offset, work.attempt));
        self.permits.acquire().await.expect("open").forget();
        self.diary.write(Did::Finish(offset));
        Verdict::Done
    }
}

impl AsyncRun for KeyedRun {
    fn run(self, log: Arc<ScriptedLog>, diary: Diary, shutdown: CancellationToken) -> JoinHandle<Result<(), LogError>> {
        let config = KeyedConfig {
            max_concurrency: self.bound,
            budget_events: 100,
            budget_bytes: 10_000,
            commit_interval: Duration::from_millis(10),
            drain_deadline: self.drain_deadline,
            read_ahead_records: 0,
            ..KeyedConfig::new("g", vec![Topic::ConversationsLive])
        };
        let handler = Arc::new(Permitted { diary: diary.clone(), permits: self.permits });
        tokio::spawn(run_keyed(log, config, handler, Arc::new(diary), shutdown))
    }
}

fn keyed(permits: &Arc<Semaphore>) -> Running {
    Running::start(KeyedRun { permits: Arc::clone(permits), drain_deadline: PATIENCE, bound: 8.into() })
}

#[tokio::test]
async fn a_bound_that_is_moved_is_obeyed_from_the_next_record_on() {
    let (permits, bound) = (Arc::new(Semaphore::new(0)), LiveBound::new(1));
    let run = KeyedRun { permits: Arc::clone(&permits), drain_deadline: PATIENCE, bound: bound.clone() };
    let running = Running::start(run);
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    running.tell(ConsumerEvent::Records((0..).zip(keys).map(|(offset, key)| record(0, offset, key)).collect()));
    running.diary.until(Did::Work(0, 0)).await;
    permits.add_permits(1);
    running.diary.until(Did::Work(1, 0)).await;
    assert!(running.diary.position(&Did::Finish(0)) < running.diary.position(&Did::Work(1, 0)), "one at a time");
    // Nothing ends meanwhile.
    bound.set(4);
    running.diary.until(Did::Work(4, 0)).await;
    bound.set(1);
    permits.add_permits(100);
    running.diary.until(Did::Finish(6)).await;
    let begun = running.diary.position(&Did::Work(5, 0));
    for ended in 1..=4 {
        assert!(running.diary.position(&Did::Finish(ended)) < begun, "what was in flight ends first");
    }
    assert!(running.diary.position(&Did::Finish(5)) < running.diary.position(&Did::Work(6, 0)));
    running.stop().await;
}

#[tokio::test]
async fn work_of_an_epoch_that_is_over_does_not_finish_the_record_of_the_next() {
    let permits = Arc::new(Semaphore::new(0));
    let running = keyed(&permits);
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 5, "a"), record(0, 6, "b")]));
    running.diary.until(Did::Work(6, 0)).await;
    // Gone and back, while both are in work: both come again, and wait for the old ones to end, because their keys are busy.
    running.tell(ConsumerEvent::Lost(vec![at(0)]));
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 5, "a"), record(0, 6, "b"), record(0, 7, "c")]));
    running.diary.until(Did::Work(7, 0)).await;
    assert_eq!(running.diary.read().iter().filter(|did| matches!(did, Did::Work(..))).count(), 3, "a key has one record in work");
    permits.add_permits(2);
    running.diary.count(Did::Dropped(1), 2).await;
    running.diary.count(Did::Work(5, 0), 2).await;
    running.diary.count(Did::Work(6, 0), 2).await;
    assert!(!running.diary.read().iter().any(|did| matches!(did, Did::Commit(_))), "nothing of the new epoch is finished");
    permits.add_permits(3);
    running.diary.until(Did::Commit(vec![(at(0), 8)])).await;
    running.stop().await;
}

#[tokio::test]
async fn a_flood_in_one_partition_rests_that_one_alone() {
    let permits = Arc::new(Semaphore::new(0));
    let running = keyed(&permits);
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    // As many as the whole budget takes, all of one key: one is in work, the others stand behind it.
    running.tell(ConsumerEvent::Records((0..100).map(|offset| record(0, offset, "a")).collect()));
    running.diary.until(Did::Pause(vec![at(0)])).await;
    running.tell(ConsumerEvent::Records(vec![record(1, 0, "b"), record(1, 1, "c")]));
    running.diary.until(Did::Work(1, 0)).await;
    assert_eq!(running.diary.position(&Did::Pause(vec![at(1)])), None, "who holds less than a share flows on");
    // More than its share of a full budget rests the other one, too; both flow again once there is room.
    running.tell(ConsumerEvent::Records((2..60).map(|offset| record(1, offset, "c")).collect()));
    running.diary.until(Did::Pause(vec![at(1)])).await;
    permits.add_permits(160);
    running.diary.until(Did::Resume(vec![at(0)])).await;
    running.diary.until(Did::Resume(vec![at(1)])).await;
    running.diary.until(Did::Finish(99)).await;
    running.stop().await;
}

/// Finishes everything at once but the first record, for which it takes permits.
struct StuckRun(Arc<Semaphore>);

struct Stuck(Permitted);

impl RecordHandler for Stuck {
    type Item = ();

    fn read(&self, _: &LogRecord) -> Reading<()> {
        alone()
    }

    async fn handle(&self, work: Work<()>) -> Verdict {
        if work.window[0].record.offset == 0 { self.0.handle(work).await } else { Verdict::Done }
    }
}

impl AsyncRun for StuckRun {
    fn run(self, log: Arc<ScriptedLog>, diary: Diary, shutdown: CancellationToken) -> JoinHandle<Result<(), LogError>> {
        let config = KeyedConfig {
            max_concurrency: 8.into(),
            budget_events: 100,
            budget_bytes: 10_000,
            commit_interval: Duration::from_millis(10),
            drain_deadline: PATIENCE,
            read_ahead_records: 0,
            ..KeyedConfig::new("g", vec![Topic::ConversationsLive])
        };
        let handler = Arc::new(Stuck(Permitted { diary: diary.clone(), permits: self.0 }));
        tokio::spawn(run_keyed(log, config, handler, Arc::new(diary), shutdown))
    }
}

#[tokio::test]
async fn nothing_runs_without_bound_ahead_of_a_record_that_is_not_done() {
    let permits = Arc::new(Semaphore::new(0));
    let running = Running::start(StuckRun(Arc::clone(&permits)));
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "stuck")]));
    running.diary.until(Did::Work(0, 0)).await;
    // Each is finished before the next few come, so the budget is never full.
    for offset in (1..120).step_by(4) {
        running.tell(ConsumerEvent::Records((offset..offset + 4).map(|offset| record(0, offset, "free")).collect()));
        tokio::task::yield_now().await;
    }
    running.diary.until(Did::Pause(vec![at(0)])).await;
    permits.add_permits(1);
    running.diary.until(Did::Resume(vec![at(0)])).await;
    running.diary.until(Did::Commit(vec![(at(0), 121)])).await;
    running.stop().await;
}

/// Finishes everything but what stands at the given offset, which is parked.
struct ParkingRun(Option<i64>);

struct Parking {
    diary: Diary,
    parked: Option<i64>,
}

impl RecordHandler for Parking {
    type Item = ();

    fn read(&self, _: &LogRecord) -> Reading<()> {
        alone()
    }

    async fn handle(&self, work: Work<()>) -> Verdict {
        let offset = work.window[0].record.offset;
        self.diary.write(Did::Work(offset, work.attempt));
        if self.parked == Some(offset) { Verdict::RetryAfter(Duration::from_secs(3600)) } else { Verdict::Done }
    }
}

impl AsyncRun for ParkingRun {
    fn run(self, log: Arc<ScriptedLog>, diary: Diary, shutdown: CancellationToken) -> JoinHandle<Result<(), LogError>> {
        let config = KeyedConfig {
            max_concurrency: 64.into(),
            budget_events: 2000,
            budget_bytes: 10_000_000,
            commit_interval: Duration::from_millis(10),
            drain_deadline: PATIENCE,
            read_ahead_records: 0,
            ..KeyedConfig::new("g", vec![Topic::ConversationsLive])
        };
        let handler = Arc::new(Parking { diary: diary.clone(), parked: self.0 });
        tokio::spawn(run_keyed(log, config, handler, Arc::new(diary), shutdown))
    }
}

fn of_many_keys(offsets: std::ops::Range<i64>) -> ConsumerEvent {
    let keyed = |offset| LogRecord { key: Bytes::from(format!("key {offset}")), ..record(0, offset, "") };
    ConsumerEvent::Records(offsets.map(keyed).collect())
}

fn worked_on(did: &[Did]) -> Vec<i64> {
    did.iter().filter_map(|did| if let Did::Work(offset, _) = did { Some(*offset) } else { None }).collect()
}

#[tokio::test]
async fn what_was_done_behind_a_parked_record_is_not_done_again_after_a_crash() {
    let offsets = Offsets::default();
    let running = Running::start_in(&offsets, ParkingRun(Some(0)));
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(of_many_keys(0..1000));
    let whole = finished::encode(0, [Run { first: 1, last: 999 }], finished::MAX_BYTES);
    let mut changed = running.diary.changed.subscribe();
    tokio::time::timeout(PATIENCE, async {
        while offsets.lock().unwrap_or_else(PoisonError::into_inner).get(&at(0)).is_none_or(|c| c.metadata != whole) {
            changed.changed().await.expect("the sender is ours");
        }
    })
    .await
    .expect("what is done is committed");
    running.driver.abort();
    assert!(running.driver.await.expect_err("it was killed").is_cancelled());
    assert_eq!(worked_on(&running.diary.read()).len(), 1000);

    let again = Running::start_in(&offsets, ParkingRun(None));
    again.tell(ConsumerEvent::Assigned(vec![at(0)]));
    again.tell(of_many_keys(0..1001));
    again.diary.until(Did::Commit(vec![(at(0), 1001)])).await;
    let did = again.stop().await;
    assert_eq!(worked_on(&did), [0, 1000], "the one that was parked, and the one that is new");
    let skipped = did.iter().map(|did| if let Did::Skipped(records) = did { *records } else { 0 });
    assert_eq!(skipped.sum::<usize>(), 999);
}

#[tokio::test]
async fn what_others_wrote_beside_an_offset_is_not_believed() {
    let offsets = Offsets::default();
    let foreign = Committed { next_offset: 3, metadata: "host-17".to_owned(), log_end: i64::MAX };
    offsets.lock().unwrap_or_else(PoisonError::into_inner).insert(at(0), foreign);
    let running = Running::start_in(&offsets, ParkingRun(None));
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(of_many_keys(3..10));
    running.diary.until(Did::Commit(vec![(at(0), 10)])).await;
    let did = running.stop().await;
    assert_eq!(worked_on(&did).len(), 7);
    assert_eq!(offsets.lock().unwrap_or_else(PoisonError::into_inner)[&at(0)].metadata, "");
}

#[tokio::test]
async fn gaps_in_the_offsets_do_not_hold_the_frontier() {
    let permits = Arc::new(Semaphore::new(100));
    let running = keyed(&permits);
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 5, "a"), record(0, 9, "b"), record(0, 12, "a")]));
    // A repetition is not worked on again.
    running.tell(ConsumerEvent::Records(vec![record(0, 9, "b"), record(0, 20, "a")]));
    running.diary.until(Did::Commit(vec![(at(0), 21)])).await;
    let did = running.stop().await;
    assert_eq!(did.iter().filter(|did| matches!(did, Did::Finish(_))).count(), 4);
}

#[tokio::test]
async fn revoked_partitions_are_drained_then_committed_then_let_go() {
    let permits = Arc::new(Semaphore::new(0));
    let running = keyed(&permits);
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a"), record(0, 1, "a"), record(1, 0, "b")]));
    running.diary.until(Did::Work(0, 0)).await;
    running.tell(ConsumerEvent::Revoked(vec![at(0)]));
    // Others flow on meanwhile.
    running.tell(ConsumerEvent::Records(vec![record(1, 1, "c")]));
    running.diary.until(Did::Work(1, 0)).await;
    assert_eq!(running.diary.position(&Did::Unassign(vec![at(0)])), None);
    permits.add_permits(3);
    running.diary.until(Did::Unassign(vec![at(0)])).await;
    let did = running.stop().await;
    let let_go = did.iter().position(|did| *did == Did::Unassign(vec![at(0)])).expect("let go");
    let committed =
        did.iter().position(|did| matches!(did, Did::Commit(offsets) if offsets.contains(&(at(0), 1)))).expect("committed");
    assert!(committed < let_go, "{did:?}");
    assert_eq!(
        did.iter().filter(|did| matches!(did, Did::Work(1, _))).count(),
        1,
        "what was only queued is the next owner's: {did:?}"
    );
    assert_eq!(did.last(), Some(&Did::Close));
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let permits = Arc::new(Semaphore::new(0));
    let running =
        Running::start(KeyedRun { permits: Arc::clone(&permits), drain_deadline: Duration::from_millis(20), bound: 8.into() });
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a")]));
    running.diary.until(Did::Work(0, 0)).await;
    running.tell(ConsumerEvent::Revoked(vec![at(0)]));
    running.diary.until(Did::Unassign(vec![at(0)])).await;
    permits.add_permits(1);
    running.diary.until(Did::Dropped(1)).await;
    let did = running.stop().await;
    assert!(!did.iter().any(|did| matches!(did, Did::Commit(_))), "{did:?}");
}

#[tokio::test]
async fn a_fenced_commit_drops_its_partition_and_the_rest_is_committed() {
    let permits = Arc::new(Semaphore::new(0));
    let running = keyed(&permits);
    running.commit_errors.lock().expect("not poisoned").push(LogError::Fenced(at(0)));
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 3, "a"), record(1, 4, "b"), record(0, 5, "a")]));
    running.diary.until(Did::Work(4, 0)).await;
    permits.add_permits(10);
    running.diary.until(Did::Commit(vec![(at(1), 5)])).await;
    assert!(
        !running.diary.read().iter().any(|did| matches!(did, Did::Commit(offsets) if offsets.iter().any(|(p, _)| *p == at(0)))),
        "nothing of it counts"
    );
    // It was ours after all: it begins anew where the group has committed.
    running.diary.until(Did::Assign(vec![(at(0), Start::Committed)])).await;
    running.tell(ConsumerEvent::Records(vec![record(0, 3, "a")]));
    running.diary.until(Did::Commit(vec![(at(0), 4)])).await;
    running.stop().await;
}

#[tokio::test]
async fn the_group_is_heard_while_partitions_cannot_be_taken_up() {
    let running = keyed(&Arc::new(Semaphore::new(10)));
    running.refuses_to_assign.store(true, Ordering::Relaxed);
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.diary.count(Did::Assign(vec![(at(0), Start::Committed)]), 2).await;
    // That they are not ours any more is why.
    running.tell(ConsumerEvent::Lost(vec![at(0)]));
    running.diary.until(Did::Unassign(vec![at(0)])).await;
    running.refuses_to_assign.store(false, Ordering::Relaxed);
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a")]));
    running.diary.until(Did::Commit(vec![(at(0), 1)])).await;
    running.stop().await;
}

#[tokio::test]
async fn a_log_that_is_away_is_asked_again() {
    let permits = Arc::new(Semaphore::new(10));
    let running = keyed(&permits);
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    for _ in 0..3 {
        running.script.send(Err(LogError::Transient("away".to_owned()))).expect("it listens");
    }
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a")]));
    running.diary.until(Did::Commit(vec![(at(0), 1)])).await;
    running.stop().await;
}

/// Writes for as long as there are no permits; answers from a list, then well.
struct BatchRun {
    permits: Arc<Semaphore>,
    answers: Vec<Result<(), SinkError>>,
    drain_deadline: Duration,
}

struct ScriptedSink {
    diary: Diary,
    permits: Arc<Semaphore>,
    answers: Vec<Result<(), SinkError>>,
    rows: std::collections::BTreeMap<TopicPartition, i64>,
}

#[async_trait]
impl BatchSink for ScriptedSink {
    async fn starts(&mut self, assigned: &[TopicPartition]) -> Result<Vec<(TopicPartition, Start)>, SinkError> {
        Ok(assigned.iter().map(|p| (*p, Start::Offset(self.rows.get(p).copied().unwrap_or(0)))).collect())
    }

    async fn flush(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.diary.write(Did::Flush(batch.cause, batch.records.iter().map(|r| r.offset).collect()));
        self.permits.acquire().await.expect("open").forget();
        self.answers.pop().unwrap_or(Ok(()))?;
        for advance in &batch.advances {
            assert_eq!(
                self.rows.insert(advance.partition, advance.next_offset).unwrap_or(0),
                advance.from_offset,
                "the moves join"
            );
        }
        Ok(())
    }
}

impl AsyncRun for BatchRun {
    fn run(self, log: Arc<ScriptedLog>, diary: Diary, shutdown: CancellationToken) -> JoinHandle<Result<(), LogError>> {
        let config = BatchConfig {
            group: "g".to_owned(),
            topics: vec![Topic::ConversationsLive],
            batch_rows: 3.into(),
            batch_bytes: 10_000,
            batch_max_age: Duration::from_secs(3600),
            backfill: StandBack::never(Duration::from_secs(3600)),
            budget_events: 100,
            budget_bytes: 10_000,
            drain_deadline: self.drain_deadline,
        };
        let sink = ScriptedSink { diary: diary.clone(), permits: self.permits, answers: self.answers, rows: Default::default() };
        tokio::spawn(run_batches(log, config, Box::new(sink), Arc::new(diary), shutdown))
    }
}

#[tokio::test]
async fn a_batch_gathers_while_one_is_written_and_a_drain_writes_the_rest() {
    let permits = Arc::new(Semaphore::new(0));
    let running = Running::start(BatchRun { permits: Arc::clone(&permits), answers: Vec::new(), drain_deadline: PATIENCE });
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.diary.until(Did::Resume(vec![at(0), at(1)])).await;
    running.tell(ConsumerEvent::Records(vec![
        record(0, 0, "a"),
        record(0, 4, "a"),
        record(1, 0, "b"),
        record(0, 5, "a"),
        record(1, 1, "b"),
    ]));
    running.diary.until(Did::Flush(FlushCause::Rows, vec![0, 4, 0])).await;
    running.tell(ConsumerEvent::Revoked(vec![at(0)]));
    // Comes too late for the batch: the next owner reads it.
    running.tell(ConsumerEvent::Records(vec![record(0, 6, "a")]));
    permits.add_permits(1);
    running.diary.until(Did::Flush(FlushCause::Drain, vec![5, 1])).await;
    assert_eq!(running.diary.position(&Did::Unassign(vec![at(0)])), None);
    permits.add_permits(1);
    running.diary.until(Did::Unassign(vec![at(0)])).await;
    running.tell(ConsumerEvent::Records(vec![record(1, 2, "b")]));
    permits.add_permits(1);
    let did = running.stop().await;
    let let_go = did.iter().position(|did| *did == Did::Unassign(vec![at(0)])).expect("let go");
    let committed = did.iter().position(|did| *did == Did::Commit(vec![(at(0), 6), (at(1), 2)])).expect("committed");
    assert!(committed < let_go, "{did:?}");
}

#[tokio::test]
async fn a_refused_batch_is_written_without_the_partition_that_another_owner_moved() {
    let permits = Arc::new(Semaphore::new(100));
    let answers = vec![Err(SinkError::Fenced(vec![at(0)]))];
    let running = Running::start(BatchRun { permits, answers, drain_deadline: PATIENCE });
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.diary.until(Did::Resume(vec![at(0), at(1)])).await;
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a"), record(1, 0, "b"), record(1, 1, "b")]));
    running.diary.until(Did::Flush(FlushCause::Rows, vec![0, 0, 1])).await;
    // The store says where: once when it was assigned, once after the fence (and once more for each when it may flow).
    running.diary.count(Did::Assign(vec![(at(0), Start::Offset(0))]), 2).await;
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a")]));
    running.diary.until(Did::Flush(FlushCause::Rows, vec![0, 1, 0])).await;
    running.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_holds_a_revoked_partition_no_longer_than_the_deadline() {
    let permits = Arc::new(Semaphore::new(1000));
    let answers = vec![Err(SinkError::Retry("away".to_owned())); 3];
    let running = Running::start(BatchRun { permits, answers, drain_deadline: Duration::from_millis(20) });
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.diary.until(Did::Resume(vec![at(0), at(1)])).await;
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a"), record(1, 0, "b"), record(0, 1, "b")]));
    running.diary.until(Did::Flush(FlushCause::Rows, vec![0, 0, 1])).await;
    running.tell(ConsumerEvent::Revoked(vec![at(0)]));
    running.diary.until(Did::Unassign(vec![at(0)])).await;
    // What is still ours of that batch is written with the next.
    running.tell(ConsumerEvent::Records(vec![record(1, 1, "b"), record(1, 2, "b")]));
    running.diary.until(Did::Flush(FlushCause::Rows, vec![0, 1, 2])).await;
    running.diary.until(Did::Dropped(2)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_record_that_must_not_be_passed_halts_its_partition_only() {
    let permits = Arc::new(Semaphore::new(10));
    let answers = vec![Err(SinkError::StandStill { partition: at(0), offset: 1, reason: "upgrade first".to_owned() })];
    let running = Running::start(BatchRun { permits, answers, drain_deadline: PATIENCE });
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.diary.until(Did::Resume(vec![at(0), at(1)])).await;
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a"), record(0, 1, "a"), record(1, 0, "b")]));
    running.diary.until(Did::Pause(vec![at(0)])).await;
    running.tell(ConsumerEvent::Records(vec![record(0, 2, "a"), record(1, 1, "b"), record(1, 2, "b"), record(1, 3, "b")]));
    // What came before it, and the other partition, go on.
    running.diary.until(Did::Flush(FlushCause::Rows, vec![0, 0, 1])).await;
    let did = running.stop().await;
    assert!(did.contains(&Did::Flush(FlushCause::Drain, vec![2, 3])), "{did:?}");
    let committed = |offset| did.iter().any(|did| matches!(did, Did::Commit(offsets) if offsets.contains(&(at(0), offset))));
    assert!(committed(1) && !committed(2) && !committed(3), "{did:?}");
}

#[tokio::test]
async fn a_sink_that_halts_ends_the_driver_with_its_reason() {
    let permits = Arc::new(Semaphore::new(10));
    let answers = vec![Err(SinkError::Halt("an unknown control: upgrade first".to_owned()))];
    let running = Running::start(BatchRun { permits, answers, drain_deadline: PATIENCE });
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    running.diary.until(Did::Resume(vec![at(0)])).await;
    running.tell(ConsumerEvent::Records(vec![record(0, 0, "a"), record(0, 1, "a"), record(0, 2, "a")]));
    let ended = tokio::time::timeout(PATIENCE, running.driver).await.expect("it ends").expect("no panic");
    assert!(matches!(ended, Err(LogError::Fatal(reason)) if reason == "an unknown control: upgrade first"));
    assert_eq!(running.diary.read().last(), Some(&Did::Close));
}

/// Says where partitions begin only for permits: at as many as it was asked.
struct SlowSink {
    diary: Diary,
    permits: Arc<Semaphore>,
    asked: usize,
}

#[async_trait]
impl BatchSink for SlowSink {
    async fn starts(&mut self, assigned: &[TopicPartition]) -> Result<Vec<(TopicPartition, Start)>, SinkError> {
        self.asked += 1;
        self.diary.write(Did::Ask(self.asked));
        self.permits.acquire().await.expect("open").forget();
        let offset = i64::try_from(self.asked).expect("few");
        Ok(assigned.iter().map(|p| (*p, Start::Offset(offset))).collect())
    }

    async fn flush(&mut self, _: &Batch) -> Result<(), SinkError> {
        Ok(())
    }
}

struct SlowRun(Arc<Semaphore>);

impl AsyncRun for SlowRun {
    fn run(self, log: Arc<ScriptedLog>, diary: Diary, shutdown: CancellationToken) -> JoinHandle<Result<(), LogError>> {
        let config = BatchConfig {
            group: "g".to_owned(),
            topics: vec![Topic::ConversationsLive],
            batch_rows: 3.into(),
            batch_bytes: 10_000,
            batch_max_age: Duration::from_secs(3600),
            backfill: StandBack::never(Duration::from_secs(3600)),
            budget_events: 100,
            budget_bytes: 10_000,
            drain_deadline: PATIENCE,
        };
        let sink = SlowSink { diary: diary.clone(), permits: self.0, asked: 0 };
        tokio::spawn(run_batches(log, config, Box::new(sink), Arc::new(diary), shutdown))
    }
}

#[tokio::test]
async fn a_store_that_never_answers_stops_neither_the_polling_nor_the_end() {
    let running = Running::start(SlowRun(Arc::new(Semaphore::new(0))));
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.diary.until(Did::Ask(1)).await;
    // Only who polls hears of these.
    running.tell(ConsumerEvent::Revoked(vec![at(0)]));
    running.diary.until(Did::Unassign(vec![at(0)])).await;
    running.tell(ConsumerEvent::Lost(vec![at(1)]));
    running.diary.until(Did::Unassign(vec![at(1)])).await;
    running.tell(ConsumerEvent::Assigned(vec![at(2)]));
    let did = running.stop().await;
    assert_eq!(did.last(), Some(&Did::Close));
    assert!(!did.iter().any(|did| matches!(did, Did::Assign(_))), "{did:?}");
}

#[tokio::test]
async fn an_answer_about_a_partition_that_has_gone_does_not_count_when_it_is_back() {
    let permits = Arc::new(Semaphore::new(0));
    let running = Running::start(SlowRun(Arc::clone(&permits)));
    running.tell(ConsumerEvent::Assigned(vec![at(0), at(1)]));
    running.diary.until(Did::Ask(1)).await;
    running.tell(ConsumerEvent::Lost(vec![at(0)]));
    running.diary.until(Did::Unassign(vec![at(0)])).await;
    running.tell(ConsumerEvent::Assigned(vec![at(0)]));
    permits.add_permits(1);
    running.diary.until(Did::Resume(vec![at(1)])).await;
    permits.add_permits(1);
    running.diary.until(Did::Assign(vec![(at(0), Start::Offset(2))])).await;
    let did = running.stop().await;
    assert!(did.contains(&Did::Assign(vec![(at(1), Start::Offset(1))])), "{did:?}");
    assert!(!did.contains(&Did::Assign(vec![(at(0), Start::Offset(1))])), "{did:?}");
}
