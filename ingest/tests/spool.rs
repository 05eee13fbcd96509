//! The log goes away and comes back under the API: what was accepted is delivered, in order; what does not fit is refused.
#![allow(missing_docs, reason = "a test binary")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use common::{Door, FakeLog, FakeWriter, Mode, event};
use memori_ingest::{IngestConfig, SpoolConfig};
use memori_service::auth::KeyRing;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

async fn door(log: FakeLog, folder: &Path, max_bytes: u64) -> Door {
    let config = IngestConfig { log_timeout: Some(Duration::from_millis(30)), ..IngestConfig::default() };
    let spool = SpoolConfig { folder: folder.to_owned(), max_bytes, shutdown: CancellationToken::new(), beside: None };
    Door::with_spool(log, FakeWriter::default(), KeyRing::open(), config, Some(spool)).await
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not come");
}

/// The spooled events on the log, first copies only, in order.
fn delivered(log: &FakeLog) -> Vec<String> {
    let mut seen = BTreeSet::new();
    log.events()
        .into_iter()
        .filter(|event| event.spooled && seen.insert(event.event_id.clone()))
        .map(|event| event.event_id)
        .collect()
}

#[tokio::test]
async fn with_the_log_away_events_are_accepted_into_the_spool_and_delivered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [Mode::Away, Mode::Silent, Mode::Forgetful] {
        let log = FakeLog::new();
        let folder = folder.path().join(format!("{mode:?}"));
        let door = door(log.clone(), &folder, 1 << 20).await;
        assert_eq!(door.post("/v1/events", &event("before", "alice", "x")).await.ok(202).body["durable_in"], "log");
        log.set(mode);
        let ids: Vec<String> = (0..12).map(|n| format!("e{n:02}")).collect();
        for id in &ids[..4] {
            let answer = door.post("/v1/events", &event(id, "alice", "x")).await;
            assert_eq!(answer.ok(202).body, json!({"event_id": id, "status": "accepted", "durable_in": "spool"}));
        }
        let appends = log.appends();
        let batch: Vec<Value> = ids[4..].iter().map(|id| event(id, "alice", "x")).collect();
        let answer = door.post("/v1/events/batch", &json!({"events": batch})).await;
        assert!(
            answer.ok(200).body["results"]
                .as_array()
                .unwrap()
                .iter()
                .all(|r| r["status"] == "accepted" && r["durable_in"] == "spool")
        );
        assert!(log.appends() <= appends + 8, "the log is not asked for each one while it is known to be away");
        let again = door.post("/v1/events", &event("e03", "alice", "x")).await;
        assert_eq!(again.ok(202).body, json!({"event_id": "e03", "status": "duplicate", "durable_in": "spool"}));
        door.post("/v1/events", &event("e03", "alice", "y")).await.problem(409);
        assert_eq!(door.get("/v1/events/e03").await.ok(200).body["status"], "accepted");
        log.set(Mode::Up);
        until(|| delivered(&log).len() == 12).await;
        assert_eq!(delivered(&log), ids, "{mode:?}");
        until(|| std::fs::read_dir(&folder).unwrap().all(|f| f.unwrap().path().extension().is_none())).await;
        let after = door.post("/v1/events", &event("after", "alice", "x")).await;
        assert_eq!(after.ok(202).body["durable_in"], "log", "{mode:?}");
        assert_eq!(log.event_ids().iter().filter(|id| *id == "after").count(), 1);
    }
}

#[tokio::test]
async fn a_full_spool_is_503_and_nothing_that_was_accepted_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let log = FakeLog::new();
    let door = door(log.clone(), folder.path(), 4_000).await;
    log.set(Mode::Away);
    let mut accepted = Vec::new();
    let mut refused = Vec::new();
    for n in 0..40 {
        let id = format!("e{n:02}");
        let answer = door.post("/v1/events", &event(&id, "alice", "something to remember")).await;
        match answer.status {
            202 => accepted.push(id),
            _ => {
                answer.problem(503);
                assert!(answer.headers.contains_key("retry-after"));
                refused.push(id);
            }
        }
    }
    assert!(!accepted.is_empty() && !refused.is_empty());
    let batch = door.post("/v1/events/batch", &json!({"events": [event("more", "alice", "something to remember")]})).await;
    assert_eq!(batch.ok(200).body["results"][0]["error"]["status"], 503);
    door.get("/v1/events/more").await.problem(404);
    log.set(Mode::Up);
    until(|| delivered(&log).len() == accepted.len()).await;
    assert_eq!(delivered(&log), accepted);
    for id in refused {
        assert_eq!(
            door.post("/v1/events", &event(&id, "alice", "something to remember")).await.ok(202).body["status"],
            "accepted"
        );
    }
}

#[tokio::test]
async fn a_door_that_starts_again_knows_its_spool() {
    let folder = tempfile::tempdir().unwrap();
    let image = tempfile::tempdir().unwrap();
    let log = FakeLog::new();
    let first = door(log.clone(), folder.path(), 1 << 20).await;
    log.set(Mode::Away);
    first.post("/v1/events", &event("e", "alice", "tea")).await.ok(202);
    // As a kill would leave it.
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, image.path().join(path.file_name().unwrap())).unwrap();
    }
    let fresh = FakeLog::new();
    let second = door(fresh.clone(), image.path(), 1 << 20).await;
    assert_eq!(second.post("/v1/events", &event("e", "alice", "tea")).await.ok(202).body["status"], "duplicate");
    second.post("/v1/events", &event("e", "alice", "coffee")).await.problem(409);
    assert_eq!(second.get("/v1/events/e").await.ok(200).body["status"], "accepted");
    until(|| delivered(&fresh).len() == 1).await;
    assert!(fresh.events()[0].accepted_at <= memori_schemas::Micros::now());
}
