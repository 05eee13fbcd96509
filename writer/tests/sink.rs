//! The sink between the SQL log and the store on SQLite: what is taken, what is refused, what is passed over, what stands still.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use memori_event_log::sql::{SqlLog, SqlLogConfig};
use memori_event_log::sqlite::SqliteDatabase;
use memori_event_log::{Log, LogError, NewRecord, Topic, TopicPartition};
use memori_schemas::{
    ContentFormat, ConversationEvent, Cover, EraseEntity, Evidence, ExtractorInfo, Fact, FactKind, FactsExtracted, Lane,
    LogRecordBody, Message, Micros, Role, Supplied, framing, ids,
};
use memori_writer::notify::Commits;
use memori_writer::run::{SinkConfig, run_sink};
use memori_writer::store::sqlite::SqliteStore;
use memori_writer::store::{Dump, Store};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct World {
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    commits: Commits,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), LogError>>,
}

impl Running {
    async fn stop(self) -> Result<(), LogError> {
        self.stop.cancel();
        self.task.await.expect("the sink does not panic")
    }
}

fn quick() -> SinkConfig {
    SinkConfig {
        batch_rows: 3.into(),
        batch_bytes: 1 << 20,
        batch_max_age: Duration::from_millis(5),
        backfill: memori_event_log::driver::StandBack {
            late_max_age: Duration::from_millis(10),
            max_age: Duration::from_millis(20),
            rows_beside: 2,
        },
        drain_deadline: Duration::from_secs(20),
        packer: None,
        pace: memori_writer::pace::Pace::default(),
        levels: memori_event_log::driver::Levels::default(),
        slow_reads: memori_writer::packer::SlowReads::default(),
        dropped: memori_writer::generations::DroppedGenerations::default(),
    }
}

impl World {
    async fn new(folder: &Path) -> Self {
        let database = SqliteDatabase::open(&folder.join("memori.db")).await.expect("opens");
        let log =
            SqlLog::open(database.clone(), SqlLogConfig { exclusive: true, ..SqlLogConfig::default() }).await.expect("opens");
        log.create_topics(1).await.expect("creates topics");
        let store = SqliteStore::new(database);
        store.migrate().await.expect("migrates beside the log");
        Self { log: Arc::new(log), store: Arc::new(store), commits: Commits::new() }
    }

    fn start(&self) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run_sink(self.log.clone(), self.store.clone(), self.commits.clone(), quick(), stop.clone()));
        Running { stop, task }
    }

    async fn append(&self, topic: Topic, entity_id: &str, payload: Vec<u8>) -> i64 {
        let record =
            NewRecord { topic, key: ids::log_key("acme", entity_id).into(), payload: payload.into(), headers: Vec::new() };
        let answers = self.log.producer().append(&[record], None).await;
        answers.into_iter().next().expect("one answer").expect("is appended").offset.expect("the SQL log knows where")
    }

    async fn say(&self, topic: Topic, entity_id: &str, body: &LogRecordBody) -> i64 {
        self.append(topic, entity_id, framing::encode(body).expect("encodes")).await
    }

    /// Waits for commits until the tables are as wanted.
    async fn until(&self, wanted: impl Fn(&Dump) -> bool) -> Dump {
        let mut commits = self.commits.subscribe();
        let waiting = async {
            loop {
                let dump = self.store.dump().await.expect("dumps");
                if wanted(&dump) {
                    return dump;
                }
                commits.changed().await.expect("the sink lives");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("the tables come to be as wanted")
    }
}

fn said(event_id: &str, entity_id: &str, text: &str) -> ConversationEvent {
    let messages = vec![Message {
        message_id: None,
        role: Role::User,
        name: None,
        content: text.to_owned(),
        content_format: ContentFormat::Text,
        created_at: None,
    }];
    ConversationEvent {
        tenant: "acme".to_owned(),
        entity_id: entity_id.to_owned(),
        process_id: None,
        session_id: None,
        event_id: event_id.to_owned(),
        content_hash: ids::content_hash(entity_id, None, &messages, &[]),
        occurred_at: Micros(10),
        accepted_at: Micros(11),
        messages,
        metadata: Vec::new(),
        supplied: Supplied::default(),
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    }
}

fn learned(event: &ConversationEvent, offset: i64, text: &str) -> FactsExtracted {
    let evidence = Evidence {
        event_id: event.event_id.clone(),
        content_hash: event.content_hash,
        message_key: event.message_key(0),
        message_index: 0,
        message_id: event.shown_message_id(0),
        occurred_at: event.occurred_at,
    };
    let fact = Fact {
        kind: FactKind::Fact,
        text: text.to_owned(),
        subject: None,
        predicate: None,
        object: None,
        slot: None,
        valid_from: None,
        valid_to: None,
        confidence: 1.0,
        evidence: vec![evidence],
        vector: None,
    };
    FactsExtracted {
        tenant: event.tenant.clone(),
        entity_id: event.entity_id.clone(),
        process_id: None,
        session_id: None,
        generation: 1,
        covers: vec![Cover {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            lane: Lane::Live,
            offset,
            origin: None,
            spooled: false,
            accepted_at: event.accepted_at,
            occurred_at: event.occurred_at,
            attempt: 0,
        }],
        facts: vec![fact],
        message_vectors: Vec::new(),
        extractor: ExtractorInfo {
            name: "builtin".to_owned(),
            version: "1".to_owned(),
            model: None,
            prompt_hash: None,
            tokens_in: 0,
            tokens_out: 0,
            cost_micros: 0,
        },
        extracted_at: Micros(12),
        key_id: None,
    }
}

fn column<'d>(dump: &'d Dump, table: &str, name: &str) -> Vec<&'d Value> {
    dump.0.get(table).into_iter().flatten().map(|row| &row[name]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_dead_lettered_and_the_rest_is_applied() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new(folder.path()).await;
    let mut events = Vec::new();
    for n in 0..6 {
        let event = said(&format!("e{n}"), "ann", &format!("text {n}"));
        let offset = world.say(Topic::ConversationsLive, "ann", &LogRecordBody::Conversation(event.clone())).await;
        events.push((event, offset));
    }
    // Bytes that are nothing, on a topic whose dead letters the worker writes.
    world.append(Topic::ConversationsLive, "ann", b"junk".to_vec()).await;
    let facts = |n: usize| {
        let (event, offset) = &events[n];
        learned(event, *offset, &format!("fact {n}"))
    };
    let mut bad = [facts(1), facts(2), facts(3), facts(4)];
    bad[0].facts[0].evidence.clear();
    bad[1].facts[0].evidence[0].event_id = "never covered".to_owned();
    bad[2].facts[0].text = "zero \0 byte".to_owned();
    bad[3].key_id = Some("sealed".to_owned());
    world.say(Topic::FactsLive, "ann", &LogRecordBody::Facts(facts(0))).await;
    for record in bad {
        world.say(Topic::FactsLive, "ann", &LogRecordBody::Facts(record)).await;
    }
    // Facts of one entity under the key of another: a wall.
    world.say(Topic::FactsLive, "ben", &LogRecordBody::Facts(facts(5))).await;
    world.append(Topic::FactsLive, "ann", b"junk".to_vec()).await;
    world.say(Topic::FactsBackfill, "ann", &LogRecordBody::Facts(facts(5))).await;

    let running = world.start();
    let dump = world.until(|d| column(d, "dead_letters", "class").len() == 6 && column(d, "outcomes", "kind").len() == 6).await;
    running.stop().await.expect("drains");
    assert_eq!(column(&dump, "events", "event_id").len(), 6, "junk is passed over");
    let mut bodies = column(&dump, "facts", "body");
    bodies.sort_by_key(|v| v.to_string());
    assert_eq!(bodies, ["fact 0", "fact 5"]);
    let mut classes = column(&dump, "dead_letters", "class");
    classes.sort_by_key(|v| v.to_string());
    assert_eq!(classes, ["invalid_output", "invalid_output", "invalid_output", "invalid_output", "poison", "sealed"]);
    let kinds: Vec<(&Value, &Value)> =
        column(&dump, "outcomes", "event_id").into_iter().zip(column(&dump, "outcomes", "kind")).collect();
    for (event_id, kind) in kinds {
        let applied = event_id == "e0" || event_id == "e5";
        assert_eq!(kind, if applied { 1 } else { 2 }, "{event_id}");
    }

    // Another start reads nothing again.
    let (_, before) = world.log.watermarks(TopicPartition { topic: Topic::DeadLetters, partition: 0 }).await.expect("reads");
    let running = world.start();
    let last = said("e9", "ann", "one more");
    world.say(Topic::ConversationsLive, "ann", &LogRecordBody::Conversation(last)).await;
    world.until(|d| column(d, "events", "event_id").len() == 7).await;
    running.stop().await.expect("drains");
    let (_, after) = world.log.watermarks(TopicPartition { topic: Topic::DeadLetters, partition: 0 }).await.expect("reads");
    assert_eq!((before, after), (6, 6), "each refused record has one dead letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn controls_come_before_what_they_delete() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new(folder.path()).await;
    for n in 0..20 {
        let event = said(&format!("e{n}"), "ann", "secret words");
        let offset = world.say(Topic::ConversationsLive, "ann", &LogRecordBody::Conversation(event.clone())).await;
        world.say(Topic::FactsLive, "ann", &LogRecordBody::Facts(learned(&event, offset, "a secret"))).await;
    }
    let erase = |entity_id: &str, live_end_offset| {
        LogRecordBody::EraseEntity(EraseEntity {
            tenant: "acme".to_owned(),
            entity_id: entity_id.to_owned(),
            erasure_id: "x1".to_owned(),
            requested_at: Micros(20),
            live_end_offset,
            backfill_end_offset: 0,
            key_id: None,
        })
    };
    // Enough controls in front that they take several batches.
    for n in 0..12 {
        world.say(Topic::Controls, &format!("other {n}"), &erase(&format!("other {n}"), 0)).await;
    }
    world.say(Topic::Controls, "ann", &erase("ann", 20)).await;
    let running = world.start();
    // At no commit is there a trace of what was to be erased.
    let dump = world
        .until(|d| {
            let text = d.to_string();
            assert!(!text.contains("secret") && !text.contains("\"ann\""), "{text}");
            column(d, "events", "event_id").len() == 20
        })
        .await;
    running.stop().await.expect("drains");
    assert!(column(&dump, "events", "erased").iter().all(|erased| **erased == true));
    assert!(column(&dump, "outcomes", "kind").is_empty() && column(&dump, "messages", "content").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_that_is_not_understood_stands_still() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new(folder.path()).await;
    let event = said("e1", "ann", "hello");
    let before = EraseEntity {
        tenant: "acme".to_owned(),
        entity_id: "bob".to_owned(),
        erasure_id: "before".to_owned(),
        requested_at: Micros(50),
        live_end_offset: 0,
        backfill_end_offset: 0,
        key_id: None,
    };
    let after = EraseEntity { erasure_id: "after".to_owned(), ..before.clone() };
    world.say(Topic::Controls, "bob", &LogRecordBody::EraseEntity(before)).await;
    world.say(Topic::Controls, "ann", &LogRecordBody::Conversation(event.clone())).await;
    world.say(Topic::Controls, "bob", &LogRecordBody::EraseEntity(after)).await;
    world.say(Topic::ConversationsLive, "ann", &LogRecordBody::Conversation(event)).await;
    let running = world.start();
    world.until(|dump| column(dump, "erasures", "erasure_id") == ["before"]).await;
    running.stop().await.expect("the sink lives on");
    let dump = world.store.dump().await.expect("dumps");
    assert_eq!(column(&dump, "erasures", "erasure_id"), ["before"], "it is not passed");
    assert!(column(&dump, "events", "event_id").is_empty(), "nothing overtook the control");
}

/// One record for several events: `facts` with the numbers of the events that each rests on.
fn window(events: &[(ConversationEvent, i64)], facts: &[(&str, &[usize])]) -> FactsExtracted {
    let alone: Vec<FactsExtracted> = events.iter().map(|(event, offset)| learned(event, *offset, "")).collect();
    let fact = |(text, of): &(&str, &[usize])| Fact {
        text: (*text).to_owned(),
        evidence: of.iter().map(|n| alone[*n].facts[0].evidence[0].clone()).collect(),
        ..alone[0].facts[0].clone()
    };
    FactsExtracted {
        covers: alone.iter().map(|one| one.covers[0].clone()).collect(),
        facts: facts.iter().map(fact).collect(),
        ..alone[0].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_window_counts_what_rests_on_the_events_that_it_wins() {
    // The outcome of e1 alone, from its copy in the other lane, and the window, in either order of arrival and rank.
    for (first_alone, alone_in, alone_wins) in [
        (true, Topic::FactsLive, true),
        (true, Topic::FactsBackfill, false),
        (false, Topic::FactsLive, false),
        (false, Topic::FactsBackfill, false),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let world = World::new(folder.path()).await;
        let mut events = Vec::new();
        for n in 0..3 {
            let event = said(&format!("e{n}"), "ann", &format!("text {n}"));
            let offset = world.say(Topic::ConversationsLive, "ann", &LogRecordBody::Conversation(event.clone())).await;
            events.push((event, offset));
        }
        let alone = LogRecordBody::Facts(learned(&events[1].0, events[1].1, "by itself"));
        let together = window(&events, &[("of the first", &[0]), ("of the second", &[1]), ("of all", &[0, 1, 2])]);
        let together = LogRecordBody::Facts(together);
        if first_alone {
            world.say(alone_in, "ann", &alone).await;
        }
        world.say(Topic::FactsLive, "ann", &together).await;
        if !first_alone {
            world.say(alone_in, "ann", &alone).await;
        }
        let running = world.start();
        let expected: &[(&str, usize)] = if alone_wins {
            &[("by itself", 1), ("of all", 2), ("of the first", 1)]
        } else {
            &[("of all", 3), ("of the first", 1), ("of the second", 1)]
        };
        let shown = |dump: &Dump| {
            let of = |table: &str, name: &str| -> Vec<String> {
                column(dump, table, name).into_iter().map(ToString::to_string).collect()
            };
            let mentions = of("mentions", "fact_id");
            let count = |id: &String| mentions.iter().filter(|other| *other == id).count();
            let ids = of("facts", "fact_id");
            let mut facts: Vec<(String, usize)> = of("facts", "body").into_iter().zip(ids.iter().map(count)).collect();
            facts.sort();
            facts
        };
        let wanted: Vec<(String, usize)> = expected.iter().map(|(text, n)| (format!("{text:?}"), *n)).collect();
        world.until(|dump| column(dump, "outcomes", "kind").len() == 3 && shown(dump) == wanted).await;
        // Whatever was read by now, a later look says the same.
        let last = said("e9", "ann", "one more");
        world.say(Topic::ConversationsLive, "ann", &LogRecordBody::Conversation(last)).await;
        let dump = world.until(|d| column(d, "events", "event_id").len() == 4).await;
        running.stop().await.expect("drains");
        assert_eq!(shown(&dump), wanted, "alone first: {first_alone}, in {alone_in}");
    }
}
