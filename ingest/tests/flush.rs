//! What a wait asks the worker for: to begin with the windows that hold what is waited for, and nothing else.

mod common;

use std::time::Duration;

use common::{Door, FakeLog, FakeWriter, Mode, event};
use memori_event_log::Topic;
use memori_ingest::{IngestConfig, SpoolConfig};
use memori_service::auth::KeyRing;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const LIVE: Topic = Topic::ConversationsLive;

fn config() -> IngestConfig {
    IngestConfig { flush_on_wait: true, log_timeout: Some(Duration::from_millis(30)), ..IngestConfig::default() }
}

async fn door() -> Door {
    Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), config()).await
}

async fn wait(door: &Door, ids: &[&str], more: &Value) -> Value {
    let mut body = json!({"event_ids": ids, "timeout_ms": 1});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    door.post("/v1/events/wait", &body).await.ok(200).body.clone()
}

#[tokio::test]
async fn each_entity_of_what_is_not_final_is_asked_for_once() {
    let door = door().await;
    for (id, entity) in [("a1", "ann"), ("a2", "ann"), ("b1", "ben"), ("c1", "cat")] {
        door.post("/v1/events", &event(id, entity, id)).await.ok(202);
    }
    let final_one = door.log.events().into_iter().find(|event| event.event_id == "c1").unwrap();
    door.writer.knows(&final_one, "applied");
    wait(&door, &["a1", "a2", "b1", "c1", "nobody knows"], &json!({})).await;
    assert_eq!(door.log.flushed(LIVE, 2).await, ["ann", "ben"]);
    wait(&door, &["a1", "b1"], &json!({})).await;
    wait(&door, &["c1"], &json!({})).await;
    door.post("/v1/events", &event("b2", "ben", "b2")).await.ok(202);
    wait(&door, &["b2"], &json!({})).await;
    assert_eq!(door.log.flushed(LIVE, 3).await, ["ann", "ben", "ben"], "one more, for what came behind the first");
}

#[tokio::test]
async fn who_only_looks_or_is_not_in_a_hurry_asks_for_nothing() {
    let door = door().await;
    door.post("/v1/events", &event("a1", "ann", "a1")).await.ok(202);
    wait(&door, &["a1"], &json!({"timeout_ms": 0})).await;
    wait(&door, &["a1"], &json!({"flush": false})).await;
    wait(&door, &["nobody knows"], &json!({})).await;
    wait(&door, &[], &json!({})).await;
    door.post("/v1/events", &event("b1", "ben", "b1")).await.ok(202);
    wait(&door, &["b1"], &json!({})).await;
    assert_eq!(door.log.flushed(LIVE, 1).await, ["ben"]);
    let shut = Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), IngestConfig::default()).await;
    shut.post("/v1/events", &event("a1", "ann", "a1")).await.ok(202);
    wait(&shut, &["a1"], &json!({})).await;
    assert_eq!(shut.log.appends(), 1, "where each event is extracted alone there is nothing to ask for");
}

#[tokio::test]
async fn what_another_took_is_found_through_the_writer_in_its_lane() {
    let door = door().await;
    let tenant = {
        door.post("/v1/events", &event("a1", "ann", "a1")).await.ok(202);
        door.log.events()[0].tenant.clone()
    };
    let place = json!({"event_id": "old", "status": "accepted", "entity_id": "ann", "lane": "backfill", "accepted_at_us": 5});
    door.writer.inner().status.insert((tenant.clone(), "old".into()), place);
    wait(&door, &["old"], &json!({})).await;
    assert_eq!(door.log.flushed(Topic::ConversationsBackfill, 1).await, ["ann"]);
    assert!(door.log.flushed(LIVE, 0).await.is_empty());
    // One that the writer does not know yet is looked for again.
    door.writer.inner().delay = Duration::from_millis(100);
    let patience = json!({"timeout_ms": 2_000});
    let waiting = wait(&door, &["soon"], &patience);
    let known_later = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let place = json!({"event_id": "soon", "status": "accepted", "entity_id": "sue", "lane": "live", "accepted_at_us": 5});
        door.writer.inner().status.insert((tenant, "soon".into()), place);
        door.log.flushed(LIVE, 1).await
    };
    let (_, flushed) = tokio::join!(waiting, known_later);
    assert_eq!(flushed, ["sue"]);
}

#[tokio::test]
async fn a_wait_goes_on_where_the_log_or_the_writer_is_away() {
    let door = door().await;
    door.post("/v1/events", &event("a1", "ann", "a1")).await.ok(202);
    door.log.set(Mode::Away);
    let answer = wait(&door, &["a1"], &json!({})).await;
    assert_eq!((&answer["complete"], &answer["events"][0]["status"]), (&json!(false), &json!("accepted")));
    door.log.set(Mode::Up);
    door.post("/v1/events", &event("b1", "ben", "b1")).await.ok(202);
    door.writer.inner().broken = Some(http::StatusCode::SERVICE_UNAVAILABLE);
    door.post("/v1/events/wait", &json!({"event_ids": ["b1"], "timeout_ms": 1})).await.problem(503);
    assert_eq!(door.log.flushed(LIVE, 1).await, ["ben"], "what the door remembers needs no writer");
}

#[tokio::test]
async fn what_waits_in_the_spool_has_no_window_yet() {
    let folder = tempfile::tempdir().unwrap();
    let spool =
        SpoolConfig { folder: folder.path().to_owned(), max_bytes: 1 << 20, shutdown: CancellationToken::new(), beside: None };
    let (log, writer) = (FakeLog::new(), FakeWriter::default());
    let door = Door::with_spool(log, writer, KeyRing::open(), config(), Some(spool)).await;
    door.post("/v1/events", &event("b1", "ben", "b1")).await.ok(202);
    door.log.set(Mode::Forgetful);
    assert_eq!(door.post("/v1/events", &event("a1", "ann", "a1")).await.ok(202).body["durable_in"], "spool");
    wait(&door, &["a1", "b1"], &json!({})).await;
    assert_eq!(door.log.flushed(LIVE, 1).await, ["ben"], "a flush would stand before the event that it is for");
}
