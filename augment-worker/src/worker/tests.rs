//! Windows in the handler's hands, without a driver.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use memori_event_log::driver::{Held, RecordHandler as _, Verdict, Work};
use memori_event_log::{AppendError, Fence, LogIdentity, LogRecord, NewRecord, Position, Producer, Topic, TopicPartition};
use memori_schemas::{
    ConversationEvent, DeadLetter, DeadLetterClass, ExtractorInfo, FactsExtracted, Flush, Lane, LogRecordBody, Micros, Role,
    framing, ids,
};
use memori_service::Settings;
use tokio_util::sync::CancellationToken;

use super::Handler;
use crate::extractor::{Builtin, ExtractError, Extraction, Extractor, RetryReason};
use crate::in_flight::InFlight;
use crate::llm::prompt_tests::event as talk;
use crate::policy::{Forgiven, Incoming, RetryPolicy};
use crate::publish::Publishing;

const SOURCE: TopicPartition = TopicPartition { topic: Topic::ConversationsLive, partition: 2 };

/// Takes records up to a size.
struct Shelf {
    records: Mutex<Vec<NewRecord>>,
    most: usize,
}

#[async_trait]
impl Producer for Shelf {
    async fn append(&self, records: &[NewRecord], _: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let put = |record: &NewRecord| {
            if record.topic != Topic::DeadLetters && record.payload.len() > self.most {
                return Err(AppendError::TooLarge("over".into()));
            }
            let source = TopicPartition { topic: record.topic, partition: SOURCE.partition };
            self.records.lock().unwrap().push(record.clone());
            Ok(Position { source, offset: None })
        };
        records.iter().map(put).collect()
    }

    async fn flush(&self, _: Duration) {}
}

type Answer = Box<dyn Fn(&[Arc<ConversationEvent>]) -> Option<ExtractError> + Send + Sync>;

/// The builtin extractor, where the script has nothing else to say; notes which events each call was about, and that all are in flight.
struct Script {
    answer: Answer,
    calls: Mutex<Vec<String>>,
    in_flight: InFlight,
}

#[async_trait]
impl Extractor for Script {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        assert!(events.iter().all(|event| self.in_flight.contains(&event.tenant, &event.event_id)));
        let ids: Vec<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
        self.calls.lock().unwrap().push(ids.join("+"));
        if let Some(error) = (self.answer)(events) {
            return Err(error);
        }
        let mut extraction = Builtin.extract(lane, events).await?;
        extraction.extractor = ExtractorInfo { tokens_in: 7, tokens_out: 3, cost_micros: 5, ..extraction.extractor };
        Ok(extraction)
    }
}

struct World {
    handler: Handler,
    script: Arc<Script>,
    shelf: Arc<Shelf>,
}

impl World {
    fn new(most: usize, answer: impl Fn(&[Arc<ConversationEvent>]) -> Option<ExtractError> + Send + Sync + 'static) -> Self {
        let in_flight = InFlight::new();
        let script = Arc::new(Script { answer: Box::new(answer), calls: Mutex::default(), in_flight: in_flight.clone() });
        let shelf = Arc::new(Shelf { records: Mutex::default(), most });
        let handler = Handler {
            producer: shelf.clone(),
            identity: LogIdentity { cluster_id: "c".into(), topic_ids: BTreeMap::new(), partitions: 3 },
            extractor: script.clone(),
            embedder: None,
            generation: 1,
            scope: crate::replay::Scope::default(),
            retry: RetryPolicy {
                max_attempts: 2,
                max_elapsed: Duration::from_secs(60),
                first: Duration::from_millis(1),
                longest: Duration::from_millis(2),
            },
            forgiven: Mutex::new(Forgiven::new(10)),
            burst: crate::burst::Burst::new(crate::burst::BurstLimits::default()),
            publishing: Publishing::default(),
            unconfirmed: std::sync::atomic::AtomicUsize::new(0),
            in_flight,
            stop: CancellationToken::new(),
        };
        Self { handler, script, shelf }
    }

    async fn handle(&self, window: Vec<Arc<Held<Incoming>>>, attempt: u32) -> Verdict {
        let first_tried_at_ms = super::now_ms();
        self.handler.handle(Work { window, attempt, first_tried_at_ms, fence: None }).await
    }

    fn calls(&self) -> Vec<String> {
        self.script.calls.lock().unwrap().clone()
    }

    fn bodies(&self) -> Vec<LogRecordBody> {
        self.shelf.records.lock().unwrap().iter().map(|record| framing::decode(&record.payload).unwrap()).collect()
    }

    fn facts(&self) -> Vec<FactsExtracted> {
        let facts = |body| if let LogRecordBody::Facts(facts) = body { Some(facts) } else { None };
        self.bodies().into_iter().filter_map(facts).collect()
    }

    fn letters(&self) -> Vec<DeadLetter> {
        let letter = |body| if let LogRecordBody::DeadLetter(letter) = body { Some(letter) } else { None };
        self.bodies().into_iter().filter_map(letter).collect()
    }

    fn held(&self, offset: i64, payload: Vec<u8>) -> Arc<Held<Incoming>> {
        let key = Bytes::from(ids::log_key("secret-tenant", "secret-entity"));
        let record = LogRecord { source: SOURCE, offset, appended_at_ms: 0, key, payload: payload.into(), headers: Vec::new() };
        let item = self.handler.read(&record).item;
        Arc::new(Held { record, item })
    }

    fn turn(&self, offset: i64, event: &ConversationEvent) -> Arc<Held<Incoming>> {
        self.held(offset, framing::encode(&LogRecordBody::Conversation(event.clone())).unwrap())
    }

    fn turns(&self, said: &[&str]) -> Vec<Arc<Held<Incoming>>> {
        let turn = |(n, text): (usize, &&str)| {
            let event = talk(&format!("e{n}"), &[(Role::User, text), (Role::Assistant, "I see.")]);
            self.turn(10 + i64::try_from(n).unwrap(), &event)
        };
        said.iter().enumerate().map(turn).collect()
    }

    fn flush(&self, offset: i64) -> Arc<Held<Incoming>> {
        let flush =
            Flush { tenant: "secret-tenant".into(), entity_id: "secret-entity".into(), requested_at: Micros(0), key_id: None };
        self.held(offset, framing::encode(&LogRecordBody::Flush(flush)).unwrap())
    }
}

fn never(_: &[Arc<ConversationEvent>]) -> Option<ExtractError> {
    None
}

fn covers(facts: &FactsExtracted) -> Vec<(&str, i64)> {
    facts.covers.iter().map(|cover| (cover.event_id.as_str(), cover.offset)).collect()
}

fn texts(facts: &FactsExtracted) -> Vec<(&str, Vec<&str>)> {
    facts.facts.iter().map(|fact| (fact.text.as_str(), fact.evidence.iter().map(|e| e.event_id.as_str()).collect())).collect()
}

#[tokio::test]
async fn a_window_is_one_call_and_one_record() {
    let world = World::new(usize::MAX, never);
    let mut window = world.turns(&["I like tea.", "Hello!", "I like rain."]);
    window.push(world.flush(13));
    assert_eq!(world.handle(window, 0).await, Verdict::Done);
    assert_eq!(world.calls(), ["e0+e1+e2"]);
    let [facts] = &world.facts()[..] else { panic!("one record: {:?}", world.bodies()) };
    assert_eq!(covers(facts), [("e0", 10), ("e1", 11), ("e2", 12)]);
    assert_eq!(texts(facts), [("Alice likes tea", vec!["e0"]), ("Alice likes rain", vec!["e2"])]);
    assert_eq!((facts.session_id.as_deref(), facts.extractor.tokens_in), (Some("secret-session"), 7));
    assert!(!world.script.in_flight.contains("secret-tenant", "e0"), "it has ended");
    assert_eq!(world.handle(vec![world.flush(14)], 0).await, Verdict::Done);
    assert_eq!(world.bodies().len(), 1, "a flush has no outcome");
}

#[tokio::test]
async fn a_window_that_fails_for_good_comes_apart_before_anything_is_dead_lettered() {
    let refused = |events: &[Arc<ConversationEvent>]| {
        let bad = events.iter().any(|event| event.event_id == "e1");
        bad.then(|| ExtractError::Permanent { class: DeadLetterClass::Refused, message: "no".into() })
    };
    let world = World::new(usize::MAX, refused);
    let window = world.turns(&["I like tea.", "I like rain.", "I like snow."]);
    assert_eq!(world.handle(window.clone(), 0).await, Verdict::Apart);
    assert!(world.bodies().is_empty());
    for held in window {
        assert_eq!(world.handle(vec![held], 0).await, Verdict::Done);
    }
    assert_eq!(world.calls(), ["e0+e1+e2", "e0", "e1", "e2"]);
    let letters = world.letters();
    let dead: Vec<_> = letters.iter().map(|l| (l.class, l.source_offset, l.covers[0].event_id.as_str())).collect();
    assert_eq!(dead, [(DeadLetterClass::Refused, 11, "e1")]);
    let done: Vec<String> = world.facts().iter().map(|facts| facts.covers[0].event_id.clone()).collect();
    assert_eq!(done, ["e0", "e2"]);
}

#[tokio::test]
async fn a_window_is_tried_again_as_a_whole_and_then_apart() {
    let away = |_: &[Arc<ConversationEvent>]| {
        Some(ExtractError::Transient { reason: RetryReason::Unavailable, message: "away".into(), retry_after: None })
    };
    let world = World::new(usize::MAX, away);
    let window = world.turns(&["I like tea.", "I like rain."]);
    assert!(matches!(world.handle(window.clone(), 0).await, Verdict::RetryAfter(_)));
    assert_eq!(world.handle(window.clone(), 1).await, Verdict::Apart);
    assert!(matches!(world.handle(window[..1].to_vec(), 0).await, Verdict::RetryAfter(_)), "its attempts begin anew");
    assert_eq!(world.handle(window[..1].to_vec(), 1).await, Verdict::Done);
    assert_eq!(world.letters()[0].class, DeadLetterClass::Expired);
}

#[tokio::test]
async fn a_hopeless_record_costs_only_itself() {
    let world = World::new(usize::MAX, never);
    let mut window = world.turns(&["I like tea.", "I like rain."]);
    window.insert(1, world.held(20, b"poison".to_vec()));
    assert_eq!(world.handle(window, 0).await, Verdict::Done);
    assert_eq!(world.calls(), ["e0+e1"]);
    assert_eq!((world.letters()[0].source_offset, world.letters()[0].class), (20, DeadLetterClass::Poison));
    assert_eq!(covers(&world.facts()[0]), [("e0", 10), ("e1", 11)]);
}

#[tokio::test]
async fn sessions_that_only_seem_the_same_come_apart() {
    let world = World::new(usize::MAX, never);
    let one = talk("e0", &[(Role::User, "I like tea.")]);
    let mut other = (*one).clone();
    other.session_id = None;
    assert_eq!(world.handle(vec![world.turn(1, &one), world.turn(2, &other)], 0).await, Verdict::Apart);
    assert!(world.calls().is_empty());
}

#[tokio::test]
async fn an_outcome_that_does_not_fit_is_split_by_event_and_says_the_same() {
    let said = ["I like tea.", "I like rain.", "Hello!", "I like tea."];
    let whole = World::new(usize::MAX, never);
    whole.handle(whole.turns(&said), 0).await;
    let size = whole.shelf.records.lock().unwrap()[0].payload.len();
    let mentions = |world: &World| {
        let mut all: Vec<(String, String)> = world
            .facts()
            .iter()
            .flat_map(|facts| {
                texts(facts)
                    .into_iter()
                    .flat_map(|(text, of)| of.into_iter().map(move |id| (text.to_owned(), id.to_owned())))
                    .collect::<Vec<_>>()
            })
            .collect();
        all.sort();
        all
    };
    let split = World::new(size - 1, never);
    assert_eq!(split.handle(split.turns(&said), 0).await, Verdict::Done);
    assert_eq!(split.calls(), ["e0+e1+e2+e3"], "it was paid for once");
    let records = split.facts();
    assert_eq!(records.iter().map(covers).collect::<Vec<_>>(), [[("e0", 10)], [("e1", 11)], [("e2", 12)], [("e3", 13)]]);
    assert_eq!(records.iter().map(|facts| facts.extractor.tokens_in).sum::<i64>(), 7, "and is counted once");
    assert_eq!(mentions(&split), mentions(&whole));
}

#[tokio::test]
async fn of_a_split_outcome_only_what_fits_in_no_way_is_dead_lettered() {
    let long: String = (0..40).map(|n| format!("I like item {n}. ")).collect();
    let world = World::new(1_500, never);
    assert_eq!(world.handle(world.turns(&["I like tea.", &long, "I like rain."]), 0).await, Verdict::Done);
    let covered: Vec<String> = world.facts().iter().map(|facts| facts.covers[0].event_id.clone()).collect();
    assert_eq!(covered, ["e0", "e2"]);
    let letters = world.letters();
    let letter = &letters[0];
    assert_eq!((letters.len(), letter.class, letter.source_offset), (1, DeadLetterClass::TooLarge, 11));
}

#[test]
fn only_an_extractor_with_calls_to_save_gathers() {
    let mut settings = Settings::default();
    assert!(super::windows(&settings).is_empty(), "the builtin one takes events one by one");
    settings.extractor.kind = "llm".into();
    let windows = super::windows(&settings);
    let (live, backfill) = (windows[&Topic::ConversationsLive], windows[&Topic::ConversationsBackfill]);
    assert_eq!((live.events, live.messages, live.cost), (8, 24, 3_000));
    assert_eq!((live.idle, backfill.idle), (Duration::from_secs(10), Duration::from_secs(1)));
    assert_eq!((live.age, backfill.age), (Duration::from_secs(60), Duration::from_secs(60)));
    settings.worker.window_events = 1;
    assert!(super::windows(&settings).is_empty());
}
