//! The worker on the SQL log: what goes in as conversations comes out as facts or dead letters, exactly, in order.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use memori_augment_worker::{
    Builtin, Burst, BurstLimits, ExtractError, Extraction, Extractor, InFlight, RetryPolicy, RetryReason, WorkerConfig, run,
};
use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{
    AppendError, Consumer, Fence, Header, Log, LogError, LogIdentity, LogRecord, NewRecord, Position, Producer, Topic,
    TopicPartition,
};
use memori_schemas::{
    ContentFormat, ConversationEvent, DeadLetter, DeadLetterClass, FactsExtracted, Flush, Lane, LogRecordBody, Message, Micros,
    Role, Supplied, framing, ids,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const PARTITIONS: i32 = 3;

async fn open(folder: &Path) -> Arc<SqlLog> {
    let database = SqliteDatabase::open(&folder.join("memori.db")).await.expect("opens");
    let config = SqlLogConfig {
        heartbeat: Duration::from_millis(50),
        poll_interval: Duration::from_millis(10),
        exclusive: true,
        ..SqlLogConfig::default()
    };
    let log = SqlLog::open(database, config).await.expect("migrates");
    log.create_topics(PARTITIONS).await.expect("makes topics");
    Arc::new(log)
}

fn event(entity: &str, event_id: &str, text: &str) -> ConversationEvent {
    let messages = vec![Message {
        message_id: None,
        role: Role::User,
        name: None,
        content: text.into(),
        content_format: ContentFormat::Text,
        created_at: None,
    }];
    ConversationEvent {
        tenant: "acme".into(),
        entity_id: entity.into(),
        process_id: Some("bot".into()),
        session_id: Some("s".into()),
        event_id: event_id.into(),
        content_hash: ids::content_hash(entity, Some("bot"), &messages, &[]),
        occurred_at: Micros(1_715_767_200_000_000),
        accepted_at: Micros(1_715_767_201_000_000),
        messages,
        metadata: Vec::new(),
        supplied: Supplied::default(),
        spooled: true,
        attempt: 2,
        origin: None,
        key_id: None,
    }
}

fn record_of(topic: Topic, entity: &str, payload: Vec<u8>) -> NewRecord {
    let headers = vec![Header { name: "traceparent".into(), value: Bytes::from_static(TRACEPARENT.as_bytes()) }];
    NewRecord { topic, key: ids::log_key("acme", entity).into(), payload: payload.into(), headers }
}

fn conversation(lane: Lane, event: &ConversationEvent) -> NewRecord {
    let payload = framing::encode(&LogRecordBody::Conversation(event.clone())).expect("encodes");
    record_of(Topic::conversations(lane), &event.entity_id, payload)
}

async fn append(log: &dyn Log, records: Vec<NewRecord>) -> Vec<Position> {
    log.producer().append(&records, None).await.into_iter().map(|r| r.expect("appends")).collect()
}

fn config() -> WorkerConfig {
    WorkerConfig {
        generation: 1,
        max_concurrency: 8.into(),
        budget_events: 1_000,
        budget_bytes: 32 << 20,
        commit_interval: Duration::from_millis(20),
        drain_deadline: Duration::from_secs(10),
        retry: RetryPolicy {
            max_attempts: 4,
            max_elapsed: Duration::from_secs(30),
            first: Duration::from_millis(2),
            longest: Duration::from_millis(10),
        },
        windows: BTreeMap::new(),
        burst: Burst::new(BurstLimits::default()),
        ..WorkerConfig::from_settings(&memori_service::Settings::default())
    }
}

struct Running {
    stop: CancellationToken,
    worker: JoinHandle<Result<(), LogError>>,
}

impl Running {
    fn start(log: Arc<dyn Log>, config: WorkerConfig, extractor: Arc<dyn Extractor>, in_flight: InFlight) -> Self {
        let stop = CancellationToken::new();
        let worker = tokio::spawn(run(log, config, extractor, None, in_flight, stop.clone()));
        Self { stop, worker }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.worker.await.expect("no panic").expect("an orderly end");
    }
}

/// All records of a topic, once there are `wanted` of them.
async fn read(log: &dyn Log, topic: Topic, wanted: usize) -> Vec<LogRecord> {
    let all = async {
        loop {
            let mut out = Vec::new();
            for partition in 0..PARTITIONS {
                out.extend(log.read(TopicPartition { topic, partition }, 0, 10_000).await.expect("reads"));
            }
            if out.len() >= wanted {
                return out;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap_or_else(|_| panic!("{wanted} records of {topic}"))
}

fn facts(record: &LogRecord) -> FactsExtracted {
    match framing::decode(&record.payload).expect("decodes") {
        LogRecordBody::Facts(facts) => facts,
        other => panic!("{other:?}"),
    }
}

fn dead(record: &LogRecord) -> DeadLetter {
    match framing::decode(&record.payload).expect("decodes") {
        LogRecordBody::DeadLetter(letter) => letter,
        other => panic!("{other:?}"),
    }
}

/// Answers by script: per event id the answers of its first attempts, then the builtin extractor's. Calls are noted by the ids of
/// their events.
#[derive(Default)]
struct Scripted {
    answers: Mutex<HashMap<String, Vec<ExtractError>>>,
    calls: Mutex<Vec<String>>,
    busy: Mutex<BTreeMap<String, usize>>,
    overlaps: AtomicUsize,
}

impl Scripted {
    fn answering(script: impl IntoIterator<Item = (&'static str, Vec<ExtractError>)>) -> Arc<Self> {
        let answers = script.into_iter().map(|(id, mut answers)| {
            answers.reverse();
            (id.to_owned(), answers)
        });
        Arc::new(Self { answers: Mutex::new(answers.collect()), ..Self::default() })
    }

    fn calls_of(&self, prefix: &str) -> Vec<String> {
        self.calls.lock().unwrap().iter().filter(|id| id.starts_with(prefix)).cloned().collect()
    }
}

#[async_trait]
impl Extractor for Scripted {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        let ids: Vec<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
        self.calls.lock().unwrap().push(ids.join("+"));
        let entity = &events[0].entity_id;
        let busy = {
            let mut busy = self.busy.lock().unwrap();
            let n = busy.entry(entity.clone()).or_default();
            *n += 1;
            *n
        };
        if busy > 1 {
            self.overlaps.fetch_add(1, Ordering::Relaxed);
        }
        tokio::task::yield_now().await;
        let scripted = ids.iter().find_map(|id| {
            let mut answers = self.answers.lock().unwrap();
            let answers = answers.get_mut(*id)?;
            match answers.last() {
                // What is wrong with an event is wrong with every window that holds it.
                Some(ExtractError::Permanent { .. }) if ids.len() > 1 => answers.last().cloned(),
                _ => answers.pop(),
            }
        });
        let answer = match scripted {
            Some(error) => Err(error),
            None => Builtin.extract(lane, events).await,
        };
        *self.busy.lock().unwrap().get_mut(entity).unwrap() -= 1;
        answer
    }
}

fn transient() -> ExtractError {
    ExtractError::Transient { reason: RetryReason::Unavailable, message: "the provider is down".into(), retry_after: None }
}

#[tokio::test]
async fn a_conversation_becomes_a_fact_event_in_its_lane() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let (live, old) = (event("alice", "e1", "I live in Berlin."), event("alice", "e2", "Hello!"));
    let at = append(&*log, vec![conversation(Lane::Live, &live), conversation(Lane::Backfill, &old)]).await;
    let worker = Running::start(log.clone(), WorkerConfig { generation: 3, ..config() }, Arc::new(Builtin), InFlight::new());

    let record = read(&*log, Topic::FactsLive, 1).await.remove(0);
    let outcome = facts(&record);
    assert_eq!(record.key, ids::log_key("acme", "alice"));
    for (name, value) in [("tenant", "acme"), ("lane", "live"), ("generation", "3"), ("traceparent", TRACEPARENT)] {
        assert_eq!(record.header(name), Some(value.as_bytes()), "{name}");
    }
    assert_eq!(record.header("schema"), Some(framing::fingerprint_hex(&LogRecordBody::Facts(outcome.clone())).as_bytes()));
    assert_eq!((outcome.tenant.as_str(), outcome.entity_id.as_str(), outcome.generation), ("acme", "alice", 3));
    assert_eq!((outcome.process_id.as_deref(), outcome.session_id.as_deref()), (Some("bot"), Some("s")));
    let cover = &outcome.covers[0];
    assert_eq!(
        (cover.event_id.as_str(), cover.content_hash, cover.lane, cover.offset),
        ("e1", live.content_hash, Lane::Live, at[0].offset.unwrap())
    );
    assert_eq!(
        (cover.spooled, cover.accepted_at, cover.occurred_at, cover.attempt),
        (true, live.accepted_at, live.occurred_at, 2)
    );
    assert_eq!(outcome.facts.len(), 1);
    assert_eq!(outcome.facts[0].text, "User lives in Berlin");
    assert_eq!(outcome.facts[0].evidence[0].message_key, live.message_key(0));
    assert_eq!(outcome.extractor, memori_augment_worker::builtin::info());

    let empty = facts(&read(&*log, Topic::FactsBackfill, 1).await.remove(0));
    assert_eq!((empty.covers[0].event_id.as_str(), empty.covers[0].lane), ("e2", Lane::Backfill));
    assert!(empty.facts.is_empty(), "an event without facts is accounted for");
    worker.stop().await;
}

#[tokio::test]
async fn what_is_done_is_not_done_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    for round in 1..=3_usize {
        let id = format!("e{round}");
        append(&*log, vec![conversation(Lane::Live, &event("bob", &id, "I like tea."))]).await;
        let worker = Running::start(log.clone(), config(), Arc::new(Builtin), InFlight::new());
        let records = read(&*log, Topic::FactsLive, round).await;
        worker.stop().await;
        let ids: Vec<String> = records.iter().map(|r| facts(r).covers[0].event_id.clone()).collect();
        assert_eq!(ids, (1..=round).map(|n| format!("e{n}")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn retries_park_their_entity_and_keep_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let extractor = Scripted::answering([("a0", vec![transient(), transient(), transient()]), ("a2", vec![transient()])]);
    let mut records = Vec::new();
    for n in 0..4 {
        for entity in ["a", "b", "c", "d"] {
            records.push(conversation(Lane::Live, &event(entity, &format!("{entity}{n}"), &format!("I saw item {n}."))));
        }
    }
    append(&*log, records).await;
    let worker = Running::start(log.clone(), config(), extractor.clone(), InFlight::new());
    let out = read(&*log, Topic::FactsLive, 16).await;
    worker.stop().await;
    for entity in ["a", "b", "c", "d"] {
        let of_entity: Vec<String> =
            out.iter().map(facts).filter(|f| f.entity_id == entity).map(|f| f.covers[0].event_id.clone()).collect();
        assert_eq!(of_entity, (0..4).map(|n| format!("{entity}{n}")).collect::<Vec<_>>());
    }
    assert_eq!(extractor.calls_of("a"), ["a0", "a0", "a0", "a0", "a1", "a2", "a2", "a3"]);
    assert_eq!(extractor.overlaps.load(Ordering::Relaxed), 0, "one call at a time per entity");
}

#[tokio::test]
async fn dead_letters_are_exactly_the_hopeless_ones() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let refused = ExtractError::Permanent { class: DeadLetterClass::Refused, message: "no".into() };
    let extractor =
        Scripted::answering([("refused", vec![refused]), ("expired", vec![transient(), transient(), transient(), transient()])]);
    let sealed = ConversationEvent { key_id: Some("k".into()), ..event("e", "sealed", "I like tea.") };
    let flush = Flush { tenant: "acme".into(), entity_id: "e".into(), requested_at: Micros(1), key_id: None };
    let stray = facts_of_nothing();
    let mut misplaced = conversation(Lane::Live, &event("somebody else", "misplaced", "I like tea."));
    misplaced.key = ids::log_key("acme", "e").into();
    let records = vec![
        record_of(Topic::ConversationsLive, "e", b"poison".to_vec()),
        record_of(Topic::ConversationsBackfill, "e", stray.clone()),
        conversation(Lane::Live, &sealed),
        misplaced,
        conversation(Lane::Live, &event("e", "refused", "I like tea.")),
        conversation(Lane::Live, &event("e", "expired", "I like tea.")),
        record_of(Topic::ConversationsLive, "e", framing::encode(&LogRecordBody::Flush(flush)).unwrap()),
        conversation(Lane::Live, &event("e", "good", "I like tea.")),
        NewRecord {
            key: Bytes::from_static(b"no key of ours"),
            ..record_of(Topic::ConversationsLive, "e", b"poison too".to_vec())
        },
    ];
    let positions = append(&*log, records.clone()).await;
    let worker = Running::start(log.clone(), config(), extractor, InFlight::new());
    let letters = read(&*log, Topic::DeadLetters, 7).await;
    let good = read(&*log, Topic::FactsLive, 1).await;
    worker.stop().await;
    assert_eq!(letters.len(), 7);
    assert_eq!(good.len(), 1);
    assert_eq!(facts(&good[0]).covers[0].event_id, "good");

    let topic_ids = log.identity().await.unwrap().topic_ids;
    let expected = [
        (0, DeadLetterClass::Poison, None, 1),
        (1, DeadLetterClass::UnknownRecord, None, 1),
        (2, DeadLetterClass::Sealed, Some("sealed"), 1),
        (3, DeadLetterClass::Poison, None, 1),
        (4, DeadLetterClass::Refused, Some("refused"), 1),
        (5, DeadLetterClass::Expired, Some("expired"), 4),
        (8, DeadLetterClass::Poison, None, 1),
    ];
    for (index, class, covered, attempts) in expected {
        let (record, position) = (&records[index], positions[index]);
        let found = letters.iter().find(|l| {
            let letter = dead(l);
            (letter.source_topic.as_str(), Some(letter.source_offset)) == (record.topic.as_str(), position.offset)
                && letter.source_partition == position.source.partition
        });
        let raw = found.unwrap_or_else(|| panic!("record {index} is dead-lettered"));
        let letter = dead(raw);
        assert_eq!(raw.key, record.key);
        assert_eq!(letter.class, class, "record {index}");
        assert_eq!(letter.source_topic_id, topic_ids[&record.topic]);
        assert_eq!(letter.lane, record.topic.lane().unwrap());
        assert_eq!((letter.generation, letter.attempts), (1, attempts), "record {index}");
        assert_eq!((&letter.original_key[..], &letter.original_payload[..]), (&record.key[..], &record.payload[..]));
        assert_eq!(
            letter.covers.iter().map(|c| c.event_id.as_str()).collect::<Vec<_>>(),
            covered.into_iter().collect::<Vec<_>>()
        );
        let owner = if index == 8 { (None, None) } else { (Some("acme"), Some("e")) };
        assert_eq!((letter.tenant.as_deref(), letter.entity_id.as_deref()), owner);
    }
}

fn facts_of_nothing() -> Vec<u8> {
    let body = FactsExtracted {
        tenant: "acme".into(),
        entity_id: "e".into(),
        process_id: None,
        session_id: None,
        generation: 1,
        covers: Vec::new(),
        facts: Vec::new(),
        message_vectors: Vec::new(),
        extractor: memori_augment_worker::builtin::info(),
        extracted_at: Micros(0),
        key_id: None,
    };
    framing::encode(&LogRecordBody::Facts(body)).unwrap()
}

/// An extractor that says what nobody said.
struct Inventing;

#[async_trait]
impl Extractor for Inventing {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        let mut extraction = Builtin.extract(lane, events).await?;
        match events[0].event_id.as_str() {
            "foreign" => extraction.facts[0].evidence[0].event_id = "another".into(),
            "outside" => extraction.facts[0].evidence[0].message_index = 7,
            "none" => extraction.facts[0].evidence.clear(),
            _ => {}
        }
        Ok(extraction)
    }
}

#[tokio::test]
async fn facts_without_true_evidence_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let ids = ["foreign", "outside", "none", "fine"];
    append(&*log, ids.iter().map(|id| conversation(Lane::Live, &event(id, id, "I like tea."))).collect()).await;
    let worker = Running::start(log.clone(), config(), Arc::new(Inventing), InFlight::new());
    let letters = read(&*log, Topic::DeadLetters, 3).await;
    let good = read(&*log, Topic::FactsLive, 1).await;
    worker.stop().await;
    assert!(letters.iter().map(dead).all(|l| l.class == DeadLetterClass::InvalidOutput && l.covers[0].event_id != "fine"));
    assert_eq!((letters.len(), good.len()), (3, 1));
}

/// A log whose producer fails by script: before the append, or after it with its answer lost.
struct Flaky {
    inner: Arc<dyn Log>,
    producer: Arc<FlakyProducer>,
}

struct FlakyProducer {
    inner: Arc<dyn Producer>,
    script: Mutex<Vec<Failure>>,
}

#[derive(Clone, Copy)]
enum Failure {
    NotAppended,
    AnswerLost,
    TooLarge,
}

#[async_trait]
impl Producer for FlakyProducer {
    async fn append(&self, records: &[NewRecord], fence: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let failure = self.script.lock().unwrap().pop();
        match failure {
            None => self.inner.append(records, fence).await,
            Some(Failure::NotAppended) => records.iter().map(|_| Err(AppendError::Unconfirmed("away".into()))).collect(),
            Some(Failure::TooLarge) => records.iter().map(|_| Err(AppendError::TooLarge("over".into()))).collect(),
            Some(Failure::AnswerLost) => {
                let answers = self.inner.append(records, fence).await;
                answers.into_iter().map(|_| Err(AppendError::Unconfirmed("answer lost".into()))).collect()
            }
        }
    }

    async fn flush(&self, deadline: Duration) {
        self.inner.flush(deadline).await;
    }
}

#[async_trait]
impl Log for Flaky {
    fn producer(&self) -> Arc<dyn Producer> {
        self.producer.clone()
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        self.inner.subscribe(group, topics).await
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        self.inner.create_topics(partitions).await
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.inner.identity().await
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        self.inner.watermarks(partition).await
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        self.inner.read(partition, offset, max_records).await
    }
}

fn flaky(log: Arc<dyn Log>, mut script: Vec<Failure>) -> Arc<Flaky> {
    script.reverse();
    let producer = Arc::new(FlakyProducer { inner: log.producer(), script: Mutex::new(script) });
    Arc::new(Flaky { inner: log, producer })
}

#[tokio::test]
async fn an_unconfirmed_append_is_repeated_without_another_call() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    append(
        &*log,
        vec![
            conversation(Lane::Live, &event("a", "a0", "I like tea.")),
            conversation(Lane::Live, &event("a", "a1", "I like rain.")),
        ],
    )
    .await;
    let extractor = Scripted::answering([]);
    let away = flaky(log.clone(), vec![Failure::NotAppended, Failure::AnswerLost, Failure::NotAppended]);
    let worker = Running::start(away, config(), extractor.clone(), InFlight::new());
    // The answer that was lost leaves a copy: at least once, in order.
    let out = read(&*log, Topic::FactsLive, 3).await;
    worker.stop().await;
    let covered: Vec<String> = out.iter().map(|r| facts(r).covers[0].event_id.clone()).collect();
    assert_eq!(covered, ["a0", "a0", "a1"]);
    assert_eq!(extractor.calls_of("a"), ["a0", "a1"], "an outcome that was paid for is kept");
}

#[tokio::test]
async fn an_outcome_that_the_log_cannot_take_is_dead_lettered() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    append(&*log, vec![conversation(Lane::Live, &event("a", "a0", "I like tea."))]).await;
    let worker = Running::start(flaky(log.clone(), vec![Failure::TooLarge]), config(), Arc::new(Builtin), InFlight::new());
    let letter = dead(&read(&*log, Topic::DeadLetters, 1).await[0]);
    worker.stop().await;
    assert_eq!((letter.class, letter.covers[0].event_id.as_str()), (DeadLetterClass::TooLarge, "a0"));
}

/// Waits until it is told to go on.
#[derive(Default)]
struct Held {
    entered: Notify,
    go: Notify,
}

#[async_trait]
impl Extractor for Held {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        self.entered.notify_one();
        self.go.notified().await;
        Builtin.extract(lane, events).await
    }
}

#[tokio::test]
async fn what_is_being_extracted_can_be_asked_and_a_stop_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    append(&*log, vec![conversation(Lane::Live, &event("a", "a0", "I like tea."))]).await;
    let (extractor, in_flight) = (Arc::new(Held::default()), InFlight::new());
    let worker = Running::start(log.clone(), config(), extractor.clone(), in_flight.clone());
    extractor.entered.notified().await;
    assert!(in_flight.contains("acme", "a0"));
    assert!(!in_flight.contains("acme", "a1") && !in_flight.contains("other", "a0"));
    worker.stop.cancel();
    extractor.go.notify_one();
    worker.stop().await;
    assert_eq!(read(&*log, Topic::FactsLive, 1).await.len(), 1);
    assert!(!in_flight.contains("acme", "a0"));
}

#[tokio::test]
async fn the_largest_event_has_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let mut text: String = (0..70_000).map(|i| format!("I saw {i}. ")).collect();
    text.truncate(1_000_000);
    append(
        &*log,
        vec![conversation(Lane::Live, &event("a", "a0", &text)), conversation(Lane::Live, &event("b", "b0", "I like tea."))],
    )
    .await;
    let worker = Running::start(log.clone(), config(), Arc::new(Builtin), InFlight::new());
    let out = read(&*log, Topic::FactsLive, 2).await;
    worker.stop().await;
    let big = out.iter().map(facts).find(|f| f.entity_id == "a").unwrap();
    assert!(big.facts.len() > 2_000);
}

/// Counts how many ask it at the same time. All of a round end together, so that their outcomes are published together.
#[derive(Default)]
struct Crowd {
    asking: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Extractor for Crowd {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        let asking = self.asking.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(asking, Ordering::SeqCst);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.asking.fetch_sub(1, Ordering::SeqCst);
        Builtin.extract(lane, events).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extractor_is_never_asked_more_often_at_a_time_than_the_bound() {
    const EVENTS: usize = 600;
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).await;
    let crowd = Arc::new(Crowd::default());
    let running = Running::start(log.clone(), config(), crowd.clone(), InFlight::unasked());
    let records = (0..EVENTS).map(|n| conversation(Lane::Live, &event(&format!("user-{n}"), &format!("e{n}"), "I like tea.")));
    append(&*log, records.collect()).await;
    read(&*log, Topic::FactsLive, EVENTS).await;
    running.stop().await;
    assert_eq!(crowd.most.load(Ordering::SeqCst), 8);
}
