//! What every store must do. Each check is given a fresh, migrated store and panics with what is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use memori_schemas::{
    ContentFormat, ConversationEvent, Cover, DeadLetter, DeadLetterClass, EraseEntity, Evidence, ExtractorInfo, Fact, FactKind,
    FactsExtracted, ForgetFact, Lane, LogRecordBody, Message, MessageVector, Micros, Role, Supplied, Vector, ids,
};
use serde_json::Value;

use super::{
    Dump, FlushInput, FlushReport, Foreseen, InsertMode, LockedEntity, OffsetKey, OffsetMove, PlannedEntity, Store, StoreError,
    StoreTransaction, flush,
};
use crate::plan::intake::{self, Place};
use crate::plan::{DeadLetterKey, DeadLetterRow, EntityBatch, EntityRef, EntityView, Needs, Upserts};

const TENANT: &str = "acme";

/// Which topic a record stands in.
fn topic_of(body: &LogRecordBody, lane: Lane) -> String {
    match body {
        LogRecordBody::Conversation(_) | LogRecordBody::Flush(_) => format!("conversations-{lane}"),
        LogRecordBody::Facts(_) => format!("facts-{lane}"),
        LogRecordBody::EraseEntity(_) | LogRecordBody::ForgetFact(_) | LogRecordBody::WithdrawFacts(_) => "controls".to_owned(),
        LogRecordBody::DeadLetter(_) => "dead-letters".to_owned(),
    }
}

/// A partition of a log in memory: gives offsets, and flush inputs from them.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    records: Vec<(String, Lane, i64, LogRecordBody)>,
    ends: BTreeMap<String, i64>,
}

impl Partition {
    fn append(&mut self, lane: Lane, body: LogRecordBody) -> i64 {
        let topic = topic_of(&body, lane);
        let end = self.ends.entry(topic.clone()).or_default();
        let offset = *end;
        *end += 1;
        self.records.push((topic, lane, offset, body));
        offset
    }

    /// One flush of these records; they must be consecutive in each topic.
    fn input(&self, which: impl IntoIterator<Item = usize>) -> FlushInput {
        let mut input = FlushInput::default();
        let mut spans: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for n in which {
            let (topic, lane, offset, body) = &self.records[n];
            let span = spans.entry(topic.clone()).or_insert((*offset, *offset + 1));
            *span = (span.0.min(*offset), span.1.max(offset + 1));
            let place = Place { lane: *lane, topic_id: topic.as_str().into(), partition: 0, offset: *offset };
            take(Arc::make_mut(&mut input.entities), body, &place);
        }
        input.moves = spans.into_iter().map(|(topic, (from, next))| OffsetMove { key: offset_key(&topic), from, next }).collect();
        input
    }

    fn all(&self) -> FlushInput {
        self.input(0..self.records.len())
    }
}

fn offset_key(topic: &str) -> OffsetKey {
    OffsetKey { cluster_id: "cluster".into(), topic_id: topic.into(), partition: 0 }
}

fn take(entities: &mut BTreeMap<EntityRef, EntityBatch>, body: &LogRecordBody, place: &Place) {
    let entity_id = match body {
        LogRecordBody::Conversation(r) => r.entity_id.clone(),
        LogRecordBody::Flush(r) => r.entity_id.clone(),
        LogRecordBody::Facts(r) => r.entity_id.clone(),
        LogRecordBody::EraseEntity(r) => r.entity_id.clone(),
        LogRecordBody::ForgetFact(r) => r.entity_id.clone(),
        LogRecordBody::WithdrawFacts(r) => r.entity_id.clone(),
        LogRecordBody::DeadLetter(r) => r.entity_id.clone().expect("the suite's letters have owners"),
    };
    let owner = EntityRef { tenant: TENANT.to_owned(), key: ids::entity_key(TENANT, &entity_id) };
    let batch = entities.entry(owner.clone()).or_default();
    batch.entity_id = entity_id;
    match body {
        LogRecordBody::Conversation(r) => batch.copies.push(intake::event_copy(r, place).expect("storable")),
        LogRecordBody::Facts(r) => batch.extractions.push(intake::extraction(&owner, r, place).expect("storable")),
        LogRecordBody::DeadLetter(r) => batch.burials.push(intake::burial(r, place)),
        LogRecordBody::EraseEntity(r) => batch.erasures.push(intake::erasure(r, 1).expect("storable")),
        LogRecordBody::ForgetFact(r) => batch.forgets.push(intake::forget(r, 1).expect("storable")),
        LogRecordBody::WithdrawFacts(r) => batch.withdrawals.push(intake::withdrawal(r, 1).expect("storable")),
        LogRecordBody::Flush(_) => {}
    }
}

/// An event that says `texts`, with everything a client can give.
fn event(event_id: &str, entity_id: &str, at: i64, texts: &[&str]) -> ConversationEvent {
    let message = |text: &&str| Message {
        message_id: None,
        role: Role::User,
        name: Some("Åsa".to_owned()),
        content: (*text).to_owned(),
        content_format: ContentFormat::Text,
        created_at: Some(Micros(at - 1)),
    };
    let messages: Vec<Message> = texts.iter().map(message).collect();
    let process_id = Some("bot".to_owned());
    ConversationEvent {
        tenant: TENANT.to_owned(),
        entity_id: entity_id.to_owned(),
        content_hash: ids::content_hash(entity_id, process_id.as_deref(), &messages, &[]),
        process_id,
        session_id: Some("s".to_owned()),
        event_id: event_id.to_owned(),
        occurred_at: Micros(at),
        accepted_at: Micros(at + 5),
        messages,
        metadata: Vec::new(),
        supplied: Supplied { event_id: true, occurred_at: true },
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    }
}

fn cover(event: &ConversationEvent, lane: Lane, offset: i64) -> Cover {
    Cover {
        event_id: event.event_id.clone(),
        content_hash: event.content_hash,
        lane,
        offset,
        origin: event.origin,
        spooled: event.spooled,
        accepted_at: event.accepted_at,
        occurred_at: event.occurred_at,
        attempt: event.attempt,
    }
}

/// Made of a text, whatever it says.
fn vector(text: &str) -> Vector {
    let values = ids::text_hash(text).as_bytes().to_vec();
    Vector { model: "hash@1".to_owned(), scale: 0.007_812_5, values }
}

fn message_vectors(event: &ConversationEvent) -> Vec<MessageVector> {
    let of = |(index, message): (usize, &Message)| MessageVector {
        event_id: event.event_id.clone(),
        content_hash: event.content_hash,
        message_key: event.message_key(index),
        message_index: i32::try_from(index).expect("few messages"),
        vector: vector(&message.content),
    };
    event.messages.iter().enumerate().map(of).collect()
}

/// Texts and the slots that they fill.
type Said<'a> = &'a [(&'a str, Option<&'a str>)];

/// `(text, slot)` each become a fact with the event's first message as evidence.
fn facts(event: &ConversationEvent, lane: Lane, offset: i64, said: Said<'_>) -> LogRecordBody {
    let fact = |(text, slot): &(&str, Option<&str>)| Fact {
        kind: FactKind::Fact,
        text: (*text).to_owned(),
        subject: Some("user".to_owned()),
        predicate: Some("says".to_owned()),
        object: Some((*text).to_owned()),
        slot: slot.map(str::to_owned),
        valid_from: None,
        valid_to: None,
        confidence: 0.9,
        evidence: vec![Evidence {
            event_id: event.event_id.clone(),
            content_hash: event.content_hash,
            message_key: event.message_key(0),
            message_index: 0,
            message_id: event.shown_message_id(0),
            occurred_at: event.occurred_at,
        }],
        vector: Some(vector(text)),
    };
    LogRecordBody::Facts(FactsExtracted {
        tenant: TENANT.to_owned(),
        entity_id: event.entity_id.clone(),
        process_id: event.process_id.clone(),
        session_id: event.session_id.clone(),
        generation: 1,
        covers: vec![cover(event, lane, offset)],
        facts: said.iter().map(fact).collect(),
        message_vectors: message_vectors(event),
        extractor: ExtractorInfo {
            name: "builtin".to_owned(),
            version: "1".to_owned(),
            model: Some("m".to_owned()),
            prompt_hash: None,
            tokens_in: 3,
            tokens_out: 4,
            cost_micros: 5,
        },
        extracted_at: Micros(99),
        key_id: None,
    })
}

fn letter(event: &ConversationEvent, lane: Lane, offset: i64) -> LogRecordBody {
    LogRecordBody::DeadLetter(DeadLetter {
        tenant: Some(TENANT.to_owned()),
        entity_id: Some(event.entity_id.clone()),
        source_topic: format!("conversations.{lane}"),
        source_topic_id: format!("conversations-{lane}"),
        source_partition: 0,
        source_offset: offset,
        lane,
        generation: 1,
        class: DeadLetterClass::Refused,
        reason: "the provider said no \u{1f6ab}".to_owned(),
        attempts: 3,
        covers: vec![cover(event, lane, offset)],
        original_key: vec![0, 1, 255],
        original_payload: vec![0xc3, 0x01, 0],
        failed_at: Micros(77),
        key_id: None,
    })
}

fn erase(entity_id: &str, live_end_offset: i64) -> LogRecordBody {
    LogRecordBody::EraseEntity(EraseEntity {
        tenant: TENANT.to_owned(),
        entity_id: entity_id.to_owned(),
        erasure_id: format!("erasure-of-{entity_id}"),
        requested_at: Micros(50),
        live_end_offset,
        backfill_end_offset: 0,
        key_id: None,
    })
}

fn forget(event: &ConversationEvent, text: &str) -> LogRecordBody {
    let entity_key = ids::entity_key(TENANT, &event.entity_id);
    LogRecordBody::ForgetFact(ForgetFact {
        tenant: TENANT.to_owned(),
        entity_id: event.entity_id.clone(),
        forget_id: format!("forget-{text}"),
        fact_id: ids::fact_id(&entity_key, 1, FactKind::Fact, Some("user"), text).to_string(),
        requested_at: Micros(60),
        text_hash: ids::text_hash(text),
        triple_hash: None,
        message_keys: vec![event.message_key(0)],
        key_id: None,
    })
}

const TOWN: Option<&str> = Some("user/lives_in");

/// Conversations of three entities in both lanes, facts, a dead letter, a forget and an erasure; odd text included.
#[must_use]
pub fn scenario() -> Partition {
    let mut log = Partition::default();
    let long = "long ".repeat(20_000);
    let said = [
        ("e1", "ann", 1_000, vec!["I live in Paris.", "and: \u{202e}\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \"'\\ \t\n"]),
        ("e2", "ann", 2_000, vec!["I live in Berlin."]),
        ("e3", "ann", 3_000, vec!["I live in Paris."]),
        ("e4", "böb", 1_500, vec!["\u{6211}\u{559c}\u{6b22}\u{8336}\u{3002}", ""]),
        ("e5", "", 1_600, vec![long.as_str()]),
        ("e6", "carl", 1_700, vec!["my number is 4"]),
        ("e7", "carl", 1_800, vec!["hello"]),
    ];
    let mut events = Vec::new();
    for (id, entity, at, texts) in &said {
        let event = event(id, entity, *at, texts);
        let offset = log.append(Lane::Live, LogRecordBody::Conversation(event.clone()));
        events.push((event, offset));
    }
    // History holds the first event once more, accepted earlier.
    let again = ConversationEvent { accepted_at: Micros(3), session_id: None, ..events[0].0.clone() };
    let again_offset = log.append(Lane::Backfill, LogRecordBody::Conversation(again.clone()));
    let extracted: [(usize, Said<'_>); 6] = [
        (0, &[("The user lives in Paris", TOWN), ("The user likes tea", None)]),
        (1, &[("The user lives in Berlin", TOWN), ("the user  likes TEA.", None)]),
        (2, &[("The user lives in Paris", TOWN)]),
        (3, &[("\u{6211}\u{559c}\u{6b22}\u{8336}", None), ("C", None), ("C++", None), ("C#", None)]),
        (4, &[]),
        (5, &[("The number is 4", None)]),
    ];
    for (n, said) in extracted {
        let (event, offset) = &events[n];
        log.append(Lane::Live, facts(event, Lane::Live, *offset, said));
    }
    // The same event in the other lane, with another answer: it loses.
    log.append(Lane::Backfill, facts(&again, Lane::Backfill, again_offset, &[("The user lives in Rome", TOWN)]));
    // Given up, and then not: applied wins.
    log.append(Lane::Live, letter(&events[3].0, Lane::Live, events[3].1));
    log.append(Lane::Live, letter(&events[6].0, Lane::Live, events[6].1));
    log.append(Lane::Live, forget(&events[1].0, "The user likes tea"));
    log.append(Lane::Live, erase("carl", events[6].1 + 1));
    log
}

fn rows<'d>(dump: &'d Dump, table: &str) -> &'d [serde_json::Map<String, Value>] {
    dump.0.get(table).map_or(&[], Vec::as_slice)
}

fn column(dump: &Dump, table: &str, column: &str) -> Vec<String> {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows(dump, table).iter().map(|row| shown(&row[column])).collect()
}

async fn dump(store: &dyn Store) -> Dump {
    store.dump().await.expect("dumps")
}

async fn apply(store: &dyn Store, input: &FlushInput) -> FlushReport {
    flush(store, input).await.expect("flushes")
}

/// What the scenario must leave, looked at from outside; answers its dump, to be compared with that of another store.
pub async fn a_scenario_leaves_what_it_says(store: Arc<dyn Store>) -> Dump {
    let log = scenario();
    let report = apply(&*store, &log.all()).await;
    assert_eq!((report.applied, report.erased), (5, 2), "{report:?}");
    let dump = dump(&*store).await;

    let towns: BTreeMap<String, String> =
        rows(&dump, "facts").iter().map(|f| (f["fact_id"].to_string(), f["body"].to_string())).collect();
    let mut intervals: Vec<(i64, Option<i64>, String)> = rows(&dump, "validity")
        .iter()
        .map(|v| {
            (v["valid_from_us"].as_i64().expect("a time"), v["valid_to_us"].as_i64(), towns[&v["fact_id"].to_string()].clone())
        })
        .filter(|(_, _, town)| town.contains("lives in"))
        .collect();
    intervals.sort();
    let interval = |from, to, town: &str| (from, to, format!("\"The user lives in {town}\""));
    assert_eq!(
        intervals,
        [interval(1_000, Some(2_000), "Paris"), interval(2_000, Some(3_000), "Berlin"), interval(3_000, None, "Paris")]
    );

    let bodies = column(&dump, "facts", "body");
    for apart in ["C", "C++", "C#", "\u{6211}\u{559c}\u{6b22}\u{8336}", "The user likes tea"] {
        assert!(bodies.iter().any(|body| body == apart), "{apart} in {bodies:?}");
    }
    assert!(!bodies.iter().any(|b| b.contains("Rome") || b.contains("number")), "a loser's or an erased fact: {bodies:?}");
    let tea = rows(&dump, "facts").iter().find(|f| f["body"] == "The user likes tea").expect("still said by e1");
    let stats = rows(&dump, "fact_stats").iter().find(|s| s["fact_id"] == tea["fact_id"]).expect("has counts");
    assert_eq!(stats["mentions"], 1, "the mention by e2 was forgotten");

    let vector_of = |text: &str| hex::encode(vector(text).values);
    let tea_vectors: Vec<&Value> =
        rows(&dump, "mentions").iter().filter(|m| m["fact_id"] == tea["fact_id"]).map(|m| &m["vector"]).collect();
    assert_eq!(tea_vectors, [&Value::from(vector_of("The user likes tea"))]);
    let said = column(&dump, "message_vectors", "vector");
    assert!(said.contains(&vector_of("I live in Paris.")), "{said:?}");
    assert!(!said.contains(&vector_of("my number is 4")), "an erased message's vector stayed");
    assert_eq!(said.len(), 7, "one for each message of an applied event that was not erased: {said:?}");

    let erased: Vec<&Value> = rows(&dump, "events").iter().filter(|e| e["erased"] == true).map(|e| &e["event_id"]).collect();
    assert_eq!(erased, ["e6", "e7"]);
    let text = dump.to_string();
    assert!(!text.contains("my number is 4") && !text.contains("\"carl\""), "content of an erased entity stayed");
    let letters = rows(&dump, "dead_letters");
    let kept: Vec<bool> = letters.iter().map(|l| !l["original_payload"].is_null()).collect();
    assert_eq!(kept, [true, false], "the erased letter keeps no bytes");
    assert_eq!(column(&dump, "entities", "entity_id").iter().filter(|id| *id == "null").count(), 1);
    let first = rows(&dump, "events").iter().find(|e| e["event_id"] == "e1").expect("is there");
    assert_eq!((&first["accepted_at_us"], &first["lane"]), (&Value::from(3), &Value::from(1)), "the earliest copy is shown");
    dump
}

/// Record by record, backwards by topic, and all at once: the same tables. A second delivery under new offsets adds nothing.
pub async fn batching_does_not_matter(fresh: &[Arc<dyn Store>; 2]) {
    let log = scenario();
    apply(&*fresh[0], &log.all()).await;
    // One at a time; the controls and dead letters first, then facts, then conversations.
    for n in (0..log.records.len()).rev() {
        let mut one = log.input([n]);
        // Offsets of a topic move forward whatever is in the batch: only the first flush of each is given the move.
        one.moves.clear();
        apply(&*fresh[1], &one).await;
    }
    let (at_once, one_by_one) = (dump(&*fresh[0]).await, dump(&*fresh[1]).await);
    assert_eq!(at_once, one_by_one, "{:?}", at_once.difference(&one_by_one));
    let mut again = log.all();
    again.moves.clear();
    let report = apply(&*fresh[1], &again).await;
    assert_eq!(report, FlushReport::default(), "a redelivery writes nothing");
    assert_eq!(dump(&*fresh[1]).await, one_by_one);
}

/// A flush whose offsets another has moved fails and writes nothing; so does one that skips.
pub async fn a_zombie_writes_nothing(store: Arc<dyn Store>) {
    let mut log = Partition::default();
    for n in 0..4 {
        log.append(Lane::Live, LogRecordBody::Conversation(event(&format!("z{n}"), "zoe", 10 + n, &["hi"])));
    }
    let topic = offset_key("conversations-live");
    assert_eq!(store.next_offsets(std::slice::from_ref(&topic)).await.expect("reads"), [None]);
    let skipping = flush(&*store, &log.input([1, 2])).await;
    assert!(matches!(&skipping, Err(StoreError::Fenced(keys)) if *keys == [topic.clone()]), "{skipping:?}");
    assert!(rows(&dump(&*store).await, "events").is_empty());
    assert_eq!(store.next_offsets(std::slice::from_ref(&topic)).await.expect("reads").first().copied().flatten().unwrap_or(0), 0);

    apply(&*store, &log.input([0, 1])).await;
    let before = dump(&*store).await;
    for stale in [vec![0], vec![0, 1], vec![0, 1, 2, 3]] {
        let zombie = flush(&*store, &log.input(stale)).await;
        assert!(matches!(&zombie, Err(StoreError::Fenced(keys)) if *keys == [topic.clone()]), "{zombie:?}");
    }
    assert_eq!(dump(&*store).await, before);
    apply(&*store, &log.input([2, 3])).await;
    assert_eq!(store.next_offsets(&[topic]).await.expect("reads"), [Some(4)]);
    assert_eq!(rows(&dump(&*store).await, "events").len(), 4);
}

/// Offsets are those of one topic of one cluster: the same numbers elsewhere are other offsets.
pub async fn offsets_belong_to_cluster_and_topic(store: Arc<dyn Store>) {
    let mut log = Partition::default();
    log.append(Lane::Live, LogRecordBody::Conversation(event("o1", "olga", 10, &["hi"])));
    apply(&*store, &log.all()).await;
    let mut elsewhere = log.all();
    elsewhere.moves[0].key.cluster_id = "another cluster".into();
    apply(&*store, &elsewhere).await;
    let mut remade = log.all();
    remade.moves[0].key.topic_id = "made again".into();
    apply(&*store, &remade).await;
    let keys = [log.all().moves[0].key.clone(), elsewhere.moves[0].key.clone(), remade.moves[0].key.clone()];
    assert_eq!(store.next_offsets(&keys).await.expect("reads"), [Some(1); 3]);
}

/// Where COMMIT's answer is lost, repeating the flush writes once, whether it had happened or not.
pub async fn a_lost_answer_to_commit_writes_once(fresh: &[Arc<dyn Store>; 2]) {
    let log = scenario();
    for (store, happened) in fresh.iter().zip([true, false]) {
        let faulty = Faulty { store: store.clone(), fault: Fault::LoseAnswer { happened }, armed: AtomicBool::new(true) };
        let lost = flush(&faulty, &log.all()).await;
        assert!(matches!(lost, Err(StoreError::CommitUnknown(_))), "{lost:?}");
        assert_eq!(rows(&dump(&**store).await, "events").is_empty(), !happened);
        let report = apply(&faulty, &FlushInput { unsure: true, ..log.all() }).await;
        assert_eq!(report.already_done, happened);
        // Who is not unsure is a zombie.
        assert!(matches!(flush(&faulty, &log.all()).await, Err(StoreError::Fenced(_))));
    }
    let (one, two) = (dump(&*fresh[0]).await, dump(&*fresh[1]).await);
    assert_eq!(one, two, "{:?}", one.difference(&two));
}

/// Where a new row turns out to be there, the flush is repeated by upserts, with the same result.
pub async fn a_conflict_is_repeated_by_upserts(fresh: &[Arc<dyn Store>; 2]) {
    let log = scenario();
    apply(&*fresh[0], &log.all()).await;
    let faulty = Faulty { store: fresh[1].clone(), fault: Fault::Conflict, armed: AtomicBool::new(true) };
    apply(&faulty, &log.all()).await;
    let (fast, upserted) = (dump(&*fresh[0]).await, dump(&*fresh[1]).await);
    assert_eq!(fast, upserted, "{:?}", fast.difference(&upserted));
}

/// Several writers on one entity at the same time: nothing is lost, nothing is counted twice.
pub async fn writers_meet_on_one_entity(store: Arc<dyn Store>) {
    const WRITERS: i64 = 4;
    const EVENTS: i64 = 12;
    let mut flushes = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        flushes.spawn(async move {
            for n in 0..EVENTS {
                let said = event(&format!("w{writer}-{n}"), "shared", 100 + n * WRITERS + writer, &["I like tea"]);
                let mut log = Partition::default();
                log.append(Lane::Live, LogRecordBody::Conversation(said.clone()));
                log.append(Lane::Live, facts(&said, Lane::Live, 0, &[("The user likes tea", None)]));
                let mut input = log.all();
                for step in &mut input.moves {
                    step.key.topic_id = format!("{}-{writer}", step.key.topic_id).into();
                    (step.from, step.next) = (n, n + 1);
                }
                while let Err(error) = flush(&*store, &input).await {
                    assert!(matches!(error, StoreError::Retry(_)), "{error}");
                }
            }
        });
    }
    while let Some(ended) = flushes.join_next().await {
        ended.expect("a writer failed");
    }
    let dump = dump(&*store).await;
    assert_eq!(rows(&dump, "events").len(), usize::try_from(WRITERS * EVENTS).expect("few"));
    let [stats] = rows(&dump, "fact_stats") else { panic!("one fact, not {:?}", rows(&dump, "fact_stats")) };
    assert_eq!((&stats["mentions"], &stats["first_mentioned_at_us"]), (&Value::from(WRITERS * EVENTS), &Value::from(100)));
    assert_eq!(stats["last_mentioned_at_us"], 100 + WRITERS * EVENTS - 1);
}

/// Two writers of one store take turns, each with what it remembers of its own flushes, `run` records at a time and each record a
/// flush: they leave what one flush leaves at another store.
pub async fn writers_take_turns(writers: &[Arc<dyn Store>; 2], other: Arc<dyn Store>, run: usize) {
    let log = scenario();
    for n in 0..log.records.len() {
        apply(&*writers[n / run % 2], &log.input([n])).await;
    }
    apply(&*other, &log.all()).await;
    let (turns, once) = (dump(&*writers[0]).await, dump(&*other).await);
    assert_eq!(turns, once, "{run} at a time: {:?}", turns.difference(&once));
    // A view that another one made anew is not taken for the old one.
    writers[1].drop_view().await.expect("drops");
    writers[1].migrate().await.expect("migrates");
    for n in 0..log.records.len() {
        apply(&*writers[(n / run + 1) % 2], &log.input([n])).await;
    }
    let anew = dump(&*writers[0]).await;
    assert_eq!(anew, once, "{run} at a time, made anew: {:?}", anew.difference(&once));
}

/// Dead letters that belong to nobody are a set, too: the earliest of several about one record is kept.
pub async fn letters_of_nobody_are_a_set(store: Arc<dyn Store>) {
    let row = |failed_at_us| DeadLetterRow {
        key: DeadLetterKey { source_topic_id: "t".into(), source_partition: 0, source_offset: 9, generation: 1 },
        source_topic: "conversations.live".into(),
        lane: Lane::Live,
        class: "poison".into(),
        reason: "no key".into(),
        attempts: 1,
        covers: Vec::new(),
        erased: false,
        original_key: Some(Vec::new()),
        original_payload: Some(vec![1, 2]),
        failed_at_us,
    };
    for times in [vec![5, 7], vec![3], vec![4], vec![3]] {
        apply(&*store, &FlushInput { unowned: times.into_iter().map(row).collect(), ..FlushInput::default() }).await;
    }
    assert_eq!(column(&dump(&*store).await, "dead_letters", "failed_at_us"), ["3"]);
}

/// Dropping the view and reading the log again gives the same memory, deletions included.
pub async fn the_view_can_be_rebuilt(store: Arc<dyn Store>) {
    let log = scenario();
    apply(&*store, &log.all()).await;
    let before = dump(&*store).await;
    store.drop_view().await.expect("drops");
    store.migrate().await.expect("migrates");
    assert!(dump(&*store).await.0.values().all(Vec::is_empty));
    // Controls first, as a writer that starts reads them.
    let controls = |n: &usize| log.records[*n].0 == "controls";
    let (first, then): (Vec<usize>, Vec<usize>) = (0..log.records.len()).partition(controls);
    apply(&*store, &log.input(first)).await;
    apply(&*store, &log.input(then)).await;
    let after = dump(&*store).await;
    assert_eq!(before, after, "{:?}", before.difference(&after));
    store.migrate().await.expect("migrating again changes nothing");
    assert_eq!(dump(&*store).await, after);
}

enum Fault {
    /// COMMIT is answered by a broken connection.
    LoseAnswer { happened: bool },
    /// The fast way meets a row.
    Conflict,
}

/// A store that fails once.
struct Faulty {
    store: Arc<dyn Store>,
    fault: Fault,
    armed: AtomicBool,
}

#[async_trait]
impl Store for Faulty {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.store.migrate().await
    }

    async fn drop_view(&self) -> Result<(), StoreError> {
        self.store.drop_view().await
    }

    async fn empty_view(&self) -> Result<(), StoreError> {
        self.store.empty_view().await
    }

    async fn epoch(&self) -> Result<i64, StoreError> {
        self.store.epoch().await
    }

    async fn next_offsets(&self, keys: &[OffsetKey]) -> Result<Vec<Option<i64>>, StoreError> {
        self.store.next_offsets(keys).await
    }

    async fn begin(&self, mode: InsertMode) -> Result<Box<dyn StoreTransaction>, StoreError> {
        let inner = self.store.begin(mode).await?;
        if !self.armed.swap(false, Ordering::SeqCst) {
            return Ok(inner);
        }
        let (lose_answer, conflict) = match self.fault {
            Fault::LoseAnswer { happened } => (Some(happened), false),
            Fault::Conflict => (None, true),
        };
        Ok(Box::new(FaultyTransaction { inner, lose_answer, conflict }))
    }

    async fn dump(&self) -> Result<Dump, StoreError> {
        self.store.dump().await
    }
}

struct FaultyTransaction {
    inner: Box<dyn StoreTransaction>,
    lose_answer: Option<bool>,
    conflict: bool,
}

#[async_trait]
impl StoreTransaction for FaultyTransaction {
    async fn lock_offsets(&mut self, keys: &[OffsetKey]) -> Result<Vec<i64>, StoreError> {
        self.inner.lock_offsets(keys).await
    }

    fn foresee<'a>(&mut self, batches: &'a BTreeMap<EntityRef, EntityBatch>) -> BTreeMap<&'a EntityRef, Foreseen> {
        self.inner.foresee(batches)
    }

    async fn lock_entities(&mut self, entities: &[&EntityRef]) -> Result<Vec<LockedEntity>, StoreError> {
        self.inner.lock_entities(entities).await
    }

    async fn read(
        &mut self,
        needs: &BTreeMap<&EntityRef, Needs>,
        first: bool,
        views: &mut BTreeMap<EntityRef, EntityView>,
    ) -> Result<(), StoreError> {
        self.inner.read(needs, first, views).await
    }

    async fn read_letters(
        &mut self,
        keys: &std::collections::BTreeSet<&DeadLetterKey>,
    ) -> Result<BTreeMap<DeadLetterKey, DeadLetterRow>, StoreError> {
        self.inner.read_letters(keys).await
    }

    async fn write(&mut self, writes: &[PlannedEntity<'_>], unowned: &Upserts<DeadLetterRow>) -> Result<(), StoreError> {
        self.inner.write(writes, unowned).await?;
        if self.conflict { Err(StoreError::Conflict("as arranged".to_owned())) } else { Ok(()) }
    }

    async fn move_offsets(&mut self, moves: &[OffsetMove]) -> Result<(), StoreError> {
        self.inner.move_offsets(moves).await
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        match self.lose_answer {
            None => return self.inner.commit().await,
            Some(true) => self.inner.commit().await?,
            Some(false) => self.inner.rollback().await,
        }
        Err(StoreError::CommitUnknown("as arranged".to_owned()))
    }

    async fn rollback(self: Box<Self>) {
        self.inner.rollback().await;
    }
}
