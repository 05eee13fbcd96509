//! A burst of dead letters on the SQL log: the worker pauses, loses nothing, and goes on by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use memori_augment_worker::{
    Builtin, Burst, BurstLimits, ExtractError, Extraction, Extractor, InFlight, RetryPolicy, WorkerConfig, run,
};
use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{Log, NewRecord, Topic, TopicPartition};
use memori_schemas::{
    ContentFormat, ConversationEvent, DeadLetterClass, Lane, LogRecordBody, Message, Micros, Role, Supplied, framing, ids,
};
use memori_service::Settings;
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 2;
const EVENTS: usize = 60;
const LETTERS: u32 = 5;

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

fn conversation(n: usize) -> NewRecord {
    let (entity_id, event_id) = (format!("person-{}", n % 30), format!("e{n}"));
    let messages = vec![Message {
        message_id: None,
        role: Role::User,
        name: None,
        content: format!("I like item{n}."),
        content_format: ContentFormat::Text,
        created_at: None,
    }];
    let event = ConversationEvent {
        tenant: "acme".into(),
        content_hash: ids::content_hash(&entity_id, None, &messages, &[]),
        entity_id,
        process_id: None,
        session_id: None,
        event_id,
        occurred_at: Micros(1),
        accepted_at: Micros(2),
        messages,
        metadata: Vec::new(),
        supplied: Supplied::default(),
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    };
    let key = ids::log_key(&event.tenant, &event.entity_id).into();
    let payload = framing::encode(&LogRecordBody::Conversation(event)).expect("encodes").into();
    NewRecord { topic: Topic::conversations(Lane::Live), key, payload, headers: Vec::new() }
}

/// The events that records of a topic account for, with how often.
async fn covered(log: &dyn Log, topic: Topic) -> BTreeMap<String, usize> {
    let mut covered = BTreeMap::new();
    for partition in 0..PARTITIONS {
        for record in log.read(TopicPartition { topic, partition }, 0, 10_000).await.expect("reads") {
            let covers = match framing::decode(&record.payload).expect("decodes") {
                LogRecordBody::Facts(facts) => facts.covers,
                LogRecordBody::DeadLetter(letter) => {
                    assert!(!letter.original_payload.is_empty() && letter.attempts >= 1, "{letter:?}");
                    letter.covers
                }
                other => panic!("{other:?}"),
            };
            for cover in covers {
                *covered.entry(cover.event_id).or_default() += 1;
            }
        }
    }
    covered
}

/// A model that a deploy broke.
#[derive(Default)]
struct Deployed {
    broken: AtomicBool,
    calls: AtomicUsize,
}

#[async_trait]
impl Extractor for Deployed {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            let message = "the model's answer was not JSON".to_owned();
            return Err(ExtractError::Permanent { class: DeadLetterClass::InvalidOutput, message });
        }
        Builtin.extract(lane, events).await
    }
}

fn config(burst: &Burst) -> WorkerConfig {
    WorkerConfig {
        generation: 1,
        max_concurrency: 16.into(),
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
        burst: burst.clone(),
        ..WorkerConfig::from_settings(&Settings::default())
    }
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_wrong_deploy_costs_few_events_and_what_waited_comes_through() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = open(folder.path()).await;
    for appended in log.producer().append(&(0..EVENTS).map(conversation).collect::<Vec<_>>(), None).await {
        appended.expect("appends");
    }
    let burst = Burst::new(BurstLimits { letters: LETTERS, share_percent: 20, pause: Duration::from_millis(400) });
    let extractor = Arc::new(Deployed { broken: AtomicBool::new(true), ..Deployed::default() });
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run(log.clone(), config(&burst), extractor.clone(), None, InFlight::new(), stop.clone()));

    until("a burst", async || burst.complaint().is_some()).await;
    let why = burst.complaint().or_else(|| burst.caution()).expect("it says why");
    assert!(why.contains("invalid_output") && why.contains("memori dead-letters list"), "{why}");
    // It tries again after its pause, a few at a time, and pauses again, longer.
    let calls = extractor.calls.load(Ordering::Relaxed);
    until("another try", async || extractor.calls.load(Ordering::Relaxed) > calls && burst.complaint().is_some()).await;
    let dead = covered(&*log, Topic::DeadLetters).await;
    assert!((LETTERS as usize..=LETTERS as usize + 2).contains(&dead.len()), "{dead:?}");

    extractor.broken.store(false, Ordering::Relaxed);
    until("all others", async || covered(&*log, Topic::FactsLive).await.len() + dead.len() >= EVENTS - 2).await;
    until("each of them", async || {
        covered(&*log, Topic::FactsLive).await.len() + covered(&*log, Topic::DeadLetters).await.len() == EVENTS
    })
    .await;
    until("the end of the burst", async || burst.complaint().is_none() && burst.caution().is_none()).await;
    let (applied, dead) = (covered(&*log, Topic::FactsLive).await, covered(&*log, Topic::DeadLetters).await);
    assert!(dead.len() <= LETTERS as usize + 3, "{dead:?}");
    assert!(applied.values().chain(dead.values()).all(|times| *times == 1), "each ends once: {applied:?} {dead:?}");
    assert!(applied.keys().all(|event| !dead.contains_key(event)));
    stop.cancel();
    worker.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn a_stop_while_it_is_paused_is_at_once_and_a_restart_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = open(folder.path()).await;
    for appended in log.producer().append(&(0..EVENTS).map(conversation).collect::<Vec<_>>(), None).await {
        appended.expect("appends");
    }
    let limits = BurstLimits { letters: LETTERS, share_percent: 20, pause: Duration::from_secs(3_600) };
    let extractor = Arc::new(Deployed { broken: AtomicBool::new(true), ..Deployed::default() });
    let burst = Burst::new(limits);
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run(log.clone(), config(&burst), extractor.clone(), None, InFlight::new(), stop.clone()));
    until("a burst", async || burst.complaint().is_some()).await;
    stop.cancel();
    worker.await.expect("no panic").expect("an orderly end");
    assert_eq!(covered(&*log, Topic::DeadLetters).await.len(), LETTERS as usize);

    extractor.broken.store(false, Ordering::Relaxed);
    let (burst, stop) = (Burst::new(limits), CancellationToken::new());
    let worker = tokio::spawn(run(log.clone(), config(&burst), extractor, None, InFlight::new(), stop.clone()));
    until("all others", async || covered(&*log, Topic::FactsLive).await.len() == EVENTS - LETTERS as usize).await;
    assert_eq!((burst.complaint(), covered(&*log, Topic::DeadLetters).await.len()), (None, LETTERS as usize));
    stop.cancel();
    worker.await.expect("no panic").expect("an orderly end");
}
