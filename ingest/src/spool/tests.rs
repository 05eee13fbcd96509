use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use memori_event_log::{AppendError, Fence, NewRecord, Position, Producer, Topic, TopicPartition};
use memori_schemas::{ContentFormat, Message, Role, Supplied};
use tokio_util::sync::CancellationToken;

use super::*;

fn event(n: usize, entity: &str) -> ConversationEvent {
    let content = format!("statement {n}");
    let messages = vec![Message {
        message_id: None,
        role: Role::User,
        name: None,
        content,
        content_format: ContentFormat::Text,
        created_at: None,
    }];
    ConversationEvent {
        tenant: "t".to_owned(),
        entity_id: entity.to_owned(),
        process_id: None,
        session_id: None,
        event_id: format!("e{n}"),
        content_hash: ids::content_hash(entity, None, &messages, &[]),
        occurred_at: Micros(0),
        accepted_at: Micros(i64::try_from(n).unwrap()),
        messages,
        metadata: vec![],
        supplied: Supplied::default(),
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    }
}

/// Opens a spool that another one may be leaving just now.
async fn open(folder: &Path, max_bytes: u64) -> (Spool, Vec<String>) {
    for _ in 0..500 {
        let mut seen = Vec::new();
        if let Ok(spool) = Spool::open(folder, max_bytes, |event| seen.push(event.event_id.clone())) {
            return (spool, seen);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the folder stays locked");
}

/// Takes or refuses, as told, and remembers in which order.
#[derive(Default)]
struct Sink {
    taken: Mutex<Vec<ConversationEvent>>,
    /// Answers of the next records; when they run out, all are taken.
    answers: Mutex<Vec<Result<(), AppendError>>>,
    changed: Notify,
}

impl Sink {
    fn ids(&self) -> Vec<String> {
        self.taken.lock().unwrap().iter().map(|event| event.event_id.clone()).collect()
    }

    async fn has(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.taken.lock().unwrap().len() >= count {
                return;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Producer for Sink {
    async fn append(&self, records: &[NewRecord], _: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let source = TopicPartition { topic: Topic::ConversationsLive, partition: 0 };
        let results = records
            .iter()
            .map(|record| {
                let answer = {
                    let mut answers = self.answers.lock().unwrap();
                    if answers.is_empty() { Ok(()) } else { answers.remove(0) }
                };
                answer.map(|()| {
                    let LogRecordBody::Conversation(event) = framing::decode(&record.payload).unwrap() else {
                        panic!("no event")
                    };
                    let mut taken = self.taken.lock().unwrap();
                    taken.push(event);
                    Position { source, offset: i64::try_from(taken.len()).ok() }
                })
            })
            .collect();
        self.changed.notify_one();
        results
    }

    async fn flush(&self, _: Duration) {}
}

fn away() -> Result<(), AppendError> {
    Err(AppendError::Unconfirmed("away".to_owned()))
}

async fn until_empty(folder: &Path) {
    for _ in 0..1_000 {
        let left = std::fs::read_dir(folder)
            .unwrap()
            .filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().ends_with(".spool"))
            .count();
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("segments are left");
}

#[tokio::test]
async fn what_was_spooled_is_delivered_in_order_once_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path(), 1 << 20).await;
    let spool = Arc::new(spool);
    let results = spool.append((0..20).map(|n| event(n, if n % 3 == 0 { "a" } else { "b" })).collect(), Some("00-1-2-01")).await;
    assert!(results.iter().all(Result::is_ok));
    assert!(spool.must_queue(&ids::log_key("t", "a")) && !spool.must_queue(&ids::log_key("t", "c")));
    assert_eq!(spool.accepted_at("t", "e7"), Some(Micros(7)));
    assert_eq!(spool.accepted_at("u", "e7"), None);
    let sink = Arc::new(Sink::default());
    *sink.answers.lock().unwrap() = vec![away(), away()];
    let stop = CancellationToken::new();
    let replaying = tokio::spawn(replay(Arc::clone(&spool), sink.clone(), stop.clone()));
    sink.has(20).await;
    until_empty(folder.path()).await;
    for (entity, third) in [("a", true), ("b", false)] {
        let taken: Vec<String> =
            sink.taken.lock().unwrap().iter().filter(|e| e.entity_id == entity).map(|e| e.event_id.clone()).collect();
        assert_eq!(taken, (0..20).filter(|n| (n % 3 == 0) == third).map(|n| format!("e{n}")).collect::<Vec<_>>());
    }
    assert!(sink.taken.lock().unwrap().iter().all(|event| event.spooled));
    assert!(!spool.must_queue(&ids::log_key("t", "a")) && spool.accepted_at("t", "e7").is_none() && spool.waiting() == 0);
    while spool.shared.index().bytes() > 0 {
        tokio::task::yield_now().await;
    }
    // And it goes on: what comes later is delivered, too.
    assert!(spool.append(vec![event(99, "a")], None).await[0].is_ok());
    sink.has(21).await;
    until_empty(folder.path()).await;
    stop.cancel();
    replaying.await.unwrap();
}

#[tokio::test]
async fn a_failure_in_the_middle_keeps_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(open(folder.path(), 1 << 20).await.0);
    spool.append((0..10).map(|n| event(n, "a")).collect(), None).await;
    let sink = Arc::new(Sink::default());
    *sink.answers.lock().unwrap() = [vec![Ok(()); 4], vec![away(); 6]].concat();
    let stop = CancellationToken::new();
    tokio::spawn(replay(Arc::clone(&spool), sink.clone(), stop.clone()));
    sink.has(10).await;
    assert_eq!(sink.ids(), (0..10).map(|n| format!("e{n}")).collect::<Vec<_>>());
    stop.cancel();
}

#[tokio::test]
async fn what_the_log_never_takes_is_set_aside_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(open(folder.path(), 1 << 20).await.0);
    spool.append((0..3).map(|n| event(n, "a")).collect(), None).await;
    let sink = Arc::new(Sink::default());
    *sink.answers.lock().unwrap() = vec![Ok(()), Err(AppendError::TooLarge("8 MiB".to_owned()))];
    let stop = CancellationToken::new();
    tokio::spawn(replay(Arc::clone(&spool), sink.clone(), stop.clone()));
    sink.has(2).await;
    until_empty(folder.path()).await;
    assert_eq!(sink.ids(), ["e0", "e2"]);
    let bytes = std::fs::read(folder.path().join("set-aside")).unwrap();
    assert_eq!(frame::tests::read_all(&bytes).0[0].0.event_id, "e1");
    stop.cancel();
}

#[tokio::test]
async fn a_full_spool_refuses_and_takes_again_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(open(folder.path(), 1_000).await.0);
    let results = spool.append((0..20).map(|n| event(n, "a")).collect(), None).await;
    let taken = results.iter().take_while(|result| result.is_ok()).count();
    assert!(taken > 0 && taken < 20);
    assert!(results[taken..].iter().all(|result| *result == Err(SpoolError::Full)));
    assert!(spool.shared.index().bytes() <= 1_000);
    let sink = Arc::new(Sink::default());
    let stop = CancellationToken::new();
    tokio::spawn(replay(Arc::clone(&spool), sink.clone(), stop.clone()));
    sink.has(taken).await;
    until_empty(folder.path()).await;
    while spool.shared.index().bytes() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(spool.append(vec![event(50, "a")], None).await[0].is_ok());
    stop.cancel();
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_spool, _) = open(folder.path(), 1_000).await;
    let error = Spool::open(folder.path(), 1_000, |_| {}).err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn after_a_restart_what_waits_is_there_and_what_was_delivered_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(open(folder.path(), 1 << 20).await.0);
    spool.append((0..10).map(|n| event(n, "a")).collect(), None).await;
    let sink = Arc::new(Sink::default());
    *sink.answers.lock().unwrap() = [vec![Ok(()); 4], vec![away(); 1_000]].concat();
    let stop = CancellationToken::new();
    let replaying = tokio::spawn(replay(Arc::clone(&spool), sink.clone(), stop.clone()));
    sink.has(4).await;
    while !folder.path().join("delivered").exists() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    replaying.await.unwrap();
    drop(spool);
    let (spool, seen) = open(folder.path(), 1 << 20).await;
    assert_eq!(seen, (4..10).map(|n| format!("e{n}")).collect::<Vec<_>>());
    assert_eq!(spool.waiting(), 6);
    // New events stand in a segment of their own, behind the old ones.
    spool.append(vec![event(10, "a")], None).await;
    drop(spool);
    assert_eq!(open(folder.path(), 1 << 20).await.1.len(), 7);
}

/// The folder as a kill would leave it: each file is whatever prefix of it had been written.
fn crash_image(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        // A file may be renamed or deleted meanwhile: then a kill would not have left it either.
        if path.file_name().unwrap() != "lock" {
            let _ = std::fs::copy(&path, to.join(path.file_name().unwrap()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_that_was_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(open(folder.path(), 1 << 24).await.0);
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (spool, acknowledged) = (Arc::clone(&spool), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                for round in 0..60 {
                    let events: Vec<_> = (0..3).map(|n| event(writer * 1_000 + round * 3 + n, "a")).collect();
                    let ids: Vec<_> = events.iter().map(|event| event.event_id.clone()).collect();
                    assert!(spool.append(events, None).await.iter().all(Result::is_ok));
                    acknowledged.lock().unwrap().extend(ids);
                }
            })
        })
        .collect();
    let mut images = Vec::new();
    while images.len() < 12 {
        let held: BTreeSet<String> = acknowledged.lock().unwrap().clone();
        let image = tempfile::tempdir().unwrap();
        crash_image(folder.path(), image.path());
        images.push((held, image));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for (held, image) in images {
        let seen: BTreeSet<String> = open(image.path(), 1 << 24).await.1.into_iter().collect();
        assert!(held.is_subset(&seen), "{:?} are lost", held.difference(&seen).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_torn_tail_costs_only_itself_and_a_bad_note_delivers_again() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path(), 1 << 20).await;
    spool.append((0..3).map(|n| event(n, "a")).collect(), None).await;
    drop(spool);
    let segment = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).find(|p| p.extension().is_some()).unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&segment, bytes).unwrap();
    std::fs::write(folder.path().join("delivered"), b"not a note at all...").unwrap();
    let (spool, seen) = open(folder.path(), 1 << 20).await;
    assert_eq!(seen, ["e0", "e1"]);
    let spool = Arc::new(spool);
    let sink = Arc::new(Sink::default());
    let stop = CancellationToken::new();
    tokio::spawn(replay(Arc::clone(&spool), sink.clone(), stop.clone()));
    sink.has(2).await;
    until_empty(folder.path()).await;
    assert_eq!(sink.ids(), ["e0", "e1"]);
    stop.cancel();
}
