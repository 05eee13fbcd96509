//! A front door whose log and writer are a platform's front door, over loopback, in every way a platform can fail.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use common::{Answer, Door, FakeLog, FakeWriter, event};
use http::StatusCode;
use memori_ingest::remote::{Platform, RemoteLog};
use memori_ingest::spool::Spool;
use memori_ingest::{IngestConfig, IngestParts, IngestState, Lookup, SpoolConfig, WriterBackend, app};
use memori_service::Secret;
use memori_service::auth::KeyRing;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

const KEY: &str = "sesame";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Up,
    Hang,
    Garbage,
    Broken,
    Quota,
    /// Somebody on the way has enough.
    Crowded,
    TooLarge,
}

struct Stub {
    mode: Mutex<Mode>,
    asked: AtomicUsize,
}

/// A platform that can be told to fail, and a door in front of it with a spool.
struct Setup {
    platform: Door,
    stub: Arc<Stub>,
    door: Door,
    remote: Arc<Platform>,
    _folder: tempfile::TempDir,
    /// Spools of other processes.
    beside: tempfile::TempDir,
    stop: CancellationToken,
}

async fn scripted(State(stub): State<Arc<Stub>>, request: Request, next: Next) -> Response {
    stub.asked.fetch_add(1, Ordering::SeqCst);
    let mode = *stub.mode.lock().unwrap();
    let is_post = request.uri().path() == "/v1/events/batch";
    match mode {
        Mode::Up => next.run(request).await,
        Mode::Hang => std::future::pending().await,
        Mode::Garbage => "<html>welcome to the captive portal</html>".into_response(),
        Mode::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "stack trace").into_response(),
        Mode::Quota => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "{}").into_response(),
        Mode::Crowded => (StatusCode::TOO_MANY_REQUESTS, "slow down").into_response(),
        Mode::TooLarge if is_post && request.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap() > 300 => {
            StatusCode::PAYLOAD_TOO_LARGE.into_response()
        }
        Mode::TooLarge => next.run(request).await,
    }
}

impl Setup {
    async fn new(mode: Mode, key: &str) -> Self {
        let entry = format!(
            "[[keys]]\ntenant = \"acme\"\nrights = [\"events\", \"recall\"]\nsha256 = \"{}\"\n",
            hex::encode(Sha256::digest(KEY))
        );
        let keys = KeyRing::parse(&entry).unwrap();
        let platform = Door::with(FakeLog::new(), FakeWriter::default(), keys, IngestConfig::default()).await;
        let stub = Arc::new(Stub { mode: Mutex::new(mode), asked: AtomicUsize::new(0) });
        let served = platform.app.clone().layer(middleware::from_fn_with_state(Arc::clone(&stub), scripted));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, served).await });

        let (folder, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stop = CancellationToken::new();
        let remote = Platform::new(&url, Some(&Secret::new(key.to_owned()))).unwrap();
        let config = IngestConfig {
            log_timeout: Some(Duration::from_millis(500)),
            tail_records: 0,
            lookup: Lookup::BestEffort(Duration::ZERO),
            ..IngestConfig::default()
        };
        let parts = IngestParts {
            log: Arc::new(RemoteLog::new(Arc::clone(&remote))),
            backend: WriterBackend::Remote(Arc::clone(&remote)),
            keys: KeyRing::open(),
            extracting: None,
            config,
        };
        let spool = SpoolConfig {
            folder: folder.path().to_owned(),
            max_bytes: 1 << 20,
            shutdown: stop.clone(),
            beside: Some(beside.path().to_owned()),
        };
        let state = IngestState::start_with_spool(parts, Some(spool)).await.unwrap();
        let door = Door { log: FakeLog::new(), writer: FakeWriter::default(), app: app(state) };
        Self { platform, stub, door, remote, _folder: folder, beside, stop }
    }

    fn set(&self, mode: Mode) {
        *self.stub.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> usize {
        self.stub.asked.load(Ordering::SeqCst)
    }

    async fn until_arrived(&self, ids: &[&str]) {
        let arrived = async {
            while self.platform.log.event_ids() != ids {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let seen = || format!("{:?}", self.platform.log.event_ids());
        tokio::time::timeout(Duration::from_secs(20), arrived).await.unwrap_or_else(|_| panic!("arrived: {}", seen()));
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn durable_in(answer: &Answer) -> &str {
    answer.ok(202).body["durable_in"].as_str().unwrap()
}

#[tokio::test]
async fn an_event_arrives_as_the_one_that_it_is() {
    let setup = Setup::new(Mode::Up, KEY).await;
    let posted = json!({
        "event_id": "e1", "entity_id": "alice", "process_id": "p", "session_id": "s", "occurred_at": "2026-01-31T12:00:00Z",
        "messages": [
            {"message_id": "m1", "role": "user", "name": "al", "content": "hi", "created_at": "2026-01-31T12:00:00Z"},
            {"role": "assistant", "content": [{"type": "text", "text": "hello"}, {"type": "tool_call", "arguments": {"b": 1, "a": [2]}}]},
        ],
        "metadata": {"llm.model": "m", "a": "b"},
    });
    assert_eq!(durable_in(&setup.door.post("/v1/events", &posted).await), "log");
    let alone = Door::open().await;
    alone.post("/v1/events", &posted).await.ok(202);
    let (mut there, mut here) = (setup.platform.log.events(), alone.log.events());
    let (there, here) = (there.remove(0), here.remove(0));
    assert_eq!(there.tenant, "acme", "the platform names the tenant, by the key");
    assert_eq!(
        (&there.messages, &there.metadata, there.occurred_at, there.content_hash, &there.session_id),
        (&here.messages, &here.metadata, here.occurred_at, here.content_hash, &here.session_id)
    );
    let wait = setup.door.post("/v1/events/wait", &json!({"event_ids": ["e1"], "timeout_ms": 0})).await;
    assert_eq!(wait.ok(200).body["complete"], false);
    setup.platform.writer.knows(&there, "applied");
    let wait = setup.door.post("/v1/events/wait", &json!({"event_ids": ["e1"], "timeout_ms": 5_000})).await;
    assert_eq!(wait.ok(200).body, json!({"complete": true, "events": [{"event_id": "e1", "status": "applied"}]}));
    assert_eq!(setup.door.get("/v1/events/e1").await.ok(200).body["status"], "applied");
}

#[tokio::test]
async fn an_event_that_comes_again_without_a_time_is_the_same_one() {
    let setup = Setup::new(Mode::Up, KEY).await;
    assert_eq!(durable_in(&setup.door.post("/v1/events", &event("a", "alice", "1")).await), "log");
    let again = setup.platform.send(axum_request("/v1/events", &event("a", "alice", "1"))).await;
    assert_eq!(again.ok(202).body["status"], "duplicate");
    assert_eq!(setup.platform.log.event_ids(), ["a"]);
}

#[tokio::test]
async fn whatever_fails_for_now_leaves_events_in_the_spool_and_in_order() {
    let outage = async |mode: Mode| {
        let setup = Setup::new(Mode::Up, KEY).await;
        assert_eq!(durable_in(&setup.door.post("/v1/events", &event("a", "alice", "1")).await), "log", "{mode:?}");
        setup.set(mode);
        for id in ["b", "c"] {
            let started = Instant::now();
            assert_eq!(durable_in(&setup.door.post("/v1/events", &event(id, "alice", id)).await), "spool", "{mode:?}");
            assert!(started.elapsed() < Duration::from_secs(3), "{mode:?}: {:?}", started.elapsed());
        }
        if mode == Mode::Quota {
            let asked = setup.asked();
            setup.door.post("/v1/recall", &json!({"entity_id": "alice", "query": "x"})).await;
            assert!(setup.asked() <= asked + 2, "a platform that asks for a pause gets it");
        }
        setup.set(Mode::Up);
        setup.until_arrived(&["a", "b", "c"]).await;
    };
    tokio::join!(outage(Mode::Hang), outage(Mode::Garbage), outage(Mode::Broken), outage(Mode::Quota));
}

#[tokio::test]
async fn a_key_that_is_not_known_is_a_standing_complaint_and_not_a_storm() {
    let setup = Setup::new(Mode::Up, "wrong").await;
    assert_eq!(durable_in(&setup.door.post("/v1/events", &event("a", "alice", "1")).await), "spool");
    assert!(setup.remote.complaint().unwrap().contains("API key"));
    let asked = setup.asked();
    for n in 0..20 {
        setup.door.post("/v1/events", &event(&format!("n{n}"), "alice", "1")).await.ok(202);
    }
    assert!(setup.asked() <= asked + 1, "{} more", setup.asked() - asked);
    setup.door.post("/v1/recall", &json!({"entity_id": "alice", "query": "x"})).await.problem(401);
}

#[tokio::test]
async fn what_the_platform_refuses_for_good_is_a_dead_letter_with_its_reason() {
    let setup = Setup::new(Mode::Up, KEY).await;
    // Somebody else had this id first, with other content.
    let direct = axum_request("/v1/events", &event("taken", "bob", "first"));
    setup.platform.send(direct).await.ok(202);
    setup.set(Mode::Broken);
    for (id, text) in [("taken", "second"), ("fine", "third")] {
        assert_eq!(durable_in(&setup.door.post("/v1/events", &event(id, "alice", text)).await), "spool");
    }
    setup.set(Mode::Up);
    setup.until_arrived(&["taken", "fine"]).await;
    let wait = setup.door.post("/v1/events/wait", &json!({"event_ids": ["taken"], "timeout_ms": 5_000})).await;
    assert_eq!(wait.ok(200).body["events"], json!([{"event_id": "taken", "status": "dead_lettered"}]));
    let status = setup.door.get("/v1/events/taken").await;
    assert_eq!((&status.ok(200).body["status"], &status.body["class"]), (&json!("dead_lettered"), &json!("refused_409")));
    assert!(status.body["reason"].as_str().unwrap().contains("refuses it"), "{}", status.body);
    // Told at once where the platform is there to tell.
    setup.door.post("/v1/events", &event("fine", "alice", "fourth")).await.problem(409);
    let again = event("taken2", "bob", "x");
    setup.platform.send(axum_request("/v1/events", &again)).await.ok(202);
    setup.door.post("/v1/events", &event("taken2", "alice", "y")).await.problem(422);
}

#[tokio::test]
async fn a_batch_that_is_too_large_as_a_whole_is_taken_apart() {
    let setup = Setup::new(Mode::TooLarge, KEY).await;
    let events: Vec<Value> = ["a", "b", "c"].iter().map(|id| event(id, "alice", "some words")).collect();
    let posted = setup.door.post("/v1/events/batch", &json!({"events": events})).await;
    let in_log = posted.ok(200).body["results"].as_array().unwrap().iter().filter(|one| one["durable_in"] == "log").count();
    assert_eq!(in_log, 3, "{}", posted.body);
    assert_eq!(setup.platform.log.event_ids(), ["a", "b", "c"]);
}

#[tokio::test]
async fn reads_and_deletions_are_the_platforms_to_judge() {
    let setup = Setup::new(Mode::Up, KEY).await;
    let recalled = setup.door.post("/v1/recall?x=1", &json!({"entity_id": "alice"})).await;
    recalled.problem(422);
    let recalled = setup.door.post("/v1/recall", &json!({"entity_id": "alice"})).await;
    assert_eq!(recalled.ok(200).body["tenant"], "acme");
    // This key has no right to erase.
    setup.door.delete("/v1/entities/alice").await.problem(403);
    setup.door.delete("/v1/facts/0190f3a0-0000-7000-8000-000000000000").await.problem(403);
    assert!(setup.remote.complaint().is_none(), "events are taken all the same");
    setup.set(Mode::Hang);
    let started = Instant::now();
    let question = json!({"event_ids": ["x"], "timeout_ms": 100});
    let waiting = setup.door.post("/v1/events/wait", &question);
    tokio::time::timeout(Duration::from_secs(15), waiting).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(12));
}

#[tokio::test]
async fn a_platform_that_is_away_at_the_start_is_found_later() {
    let setup = Setup::new(Mode::Hang, KEY).await;
    assert_eq!(durable_in(&setup.door.post("/v1/events", &event("a", "alice", "1")).await), "spool");
    setup.set(Mode::Up);
    setup.until_arrived(&["a"]).await;
}

#[tokio::test]
async fn a_deletion_waits_for_what_came_before_it() {
    let setup = Setup::new(Mode::Up, KEY).await;
    setup.door.post("/v1/events", &event("a", "alice", "1")).await.ok(202);
    let delete = async |path: &str, patience_ms: u64| {
        let mut request = common::json_request("DELETE", path, String::new());
        request.extensions_mut().insert(memori_ingest::Patience(Duration::from_millis(patience_ms)));
        setup.door.send(request).await
    };
    let (alice, bob, fact) = ("/v1/entities/alice", "/v1/entities/bob", "/v1/facts/0190f3a0-0000-7000-8000-000000000000");
    // This key has no right to erase: 403 is the platform's word.
    delete(alice, 100).await.problem(403);

    setup.set(Mode::Broken);
    assert_eq!(durable_in(&setup.door.post("/v1/events", &event("b", "alice", "2")).await), "spool");
    for path in [alice, fact] {
        let refused = delete(path, 100).await;
        refused.problem(503);
        assert!(refused.headers.contains_key("retry-after"));
        assert!(refused.body["detail"].as_str().unwrap().contains("nothing is deleted"), "{}", refused.body);
    }
    let passed_on = String::from_utf8_lossy(&delete(bob, 100).await.bytes).into_owned();
    assert!(!passed_on.contains("nothing is deleted"), "of him nothing waits: {passed_on}");
    setup.set(Mode::Up);
    delete(alice, 20_000).await.problem(403);
    assert_eq!(setup.platform.log.event_ids(), ["a", "b"], "delivered before the deletion was passed on");

    // What a process that is gone, or another one, has not delivered yet.
    let mut left = setup.platform.log.events().remove(0);
    left.tenant = "default".to_owned();
    let folder = setup.beside.path().join("7");
    let spool = Spool::open(&folder, 1 << 20, |_| {}).unwrap();
    assert!(spool.append(vec![left], None).await.iter().all(Result::is_ok));
    delete(alice, 100).await.problem(503);
    delete(fact, 100).await.problem(503);
    delete(bob, 100).await.problem(403);
    std::fs::remove_dir_all(&folder).unwrap();
    delete(alice, 100).await.problem(403);
}

#[tokio::test]
async fn only_who_says_so_speaks_of_quota() {
    let setup = Setup::new(Mode::Up, KEY).await;
    setup.set(Mode::Crowded);
    assert_eq!(durable_in(&setup.door.post("/v1/events", &event("a", "alice", "1")).await), "spool");
    assert_eq!(setup.remote.quota(), None, "it is a pause, no more");
    let setup = Setup::new(Mode::Up, KEY).await;
    setup.set(Mode::Quota);
    assert_eq!(durable_in(&setup.door.post("/v1/events", &event("a", "alice", "1")).await), "spool");
    assert!(setup.remote.quota().is_some());
}

#[test]
fn a_url_that_is_none_is_shown_without_its_password() {
    for url in ["http://me:s3cret@[bad", "ftp://me:s3cret@h", "http://me:s3cret@h:x/y"] {
        let said = Platform::new(url, None).map_or_else(|error| error.to_string(), |platform| format!("{platform:?}"));
        assert!(!said.contains("s3cret"), "{said}");
    }
}

fn axum_request(path: &str, body: &Value) -> http::Request<axum::body::Body> {
    let mut request = common::json_request("POST", path, body.to_string());
    request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    request
}
