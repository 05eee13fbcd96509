//! The engine on real systems: a SQLite file, and a platform that is not there.
#![allow(missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memori_sdk::turn::Scope;
use memori_sdk::{Engine, Member, Method};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

fn open(config: &Value) -> Arc<Engine> {
    Engine::open(&config.to_string()).unwrap()
}

fn sqlite(folder: &std::path::Path) -> Value {
    json!({
        "mode": "sqlite", "path": folder.join("app.memori.db"), "data_dir": folder.join("data"), "recall_deadline_ms": 5_000,
        "embedding": {"kind": "none"},
    })
}

/// A platform at an address where nobody listens.
fn nobody(folder: &std::path::Path) -> Value {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    json!({
        "mode": "platform", "url": format!("http://127.0.0.1:{port}"), "api_key": "sesame", "data_dir": folder,
        "unreachable_after_ms": 300,
    })
}

fn member(engine: &Arc<Engine>) -> Arc<Member> {
    Arc::new(engine.member())
}

fn wait(member: &Member, timeout: Option<Duration>) -> bool {
    member.engine().block_on(PATIENCE, member.wait(timeout)).expect("a wait ends")
}

fn stats(engine: &Engine) -> Value {
    serde_json::from_str(&engine.stats_json()).unwrap()
}

fn scope() -> Scope {
    Scope { entity_id: "alice".to_owned(), ..Scope::default() }
}

fn request(text: &str) -> Bytes {
    json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string().into()
}

fn answer() -> String {
    json!({"id": "c", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Noted."}}]})
        .to_string()
}

#[test]
fn what_is_captured_is_applied_recalled_and_injected() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&sqlite(folder.path()));
    let place = engine.block_on(PATIENCE, Arc::clone(&engine).build(PATIENCE)).unwrap().unwrap();
    assert!(place.contains("app.memori.db"), "{place}");
    let alice = member(&engine);
    assert!(wait(&alice, None), "nothing was captured");

    let begin = |text: &str| alice.begin(scope(), "/v1/chat/completions", None, request(text), 0).unwrap();
    let turn = begin("I live in Paris.");
    assert_eq!(turn.inject_here(), request("I live in Paris."), "nothing is known yet");
    turn.answer(200, answer().into(), 1.0);
    assert!(wait(&alice, Some(PATIENCE)));

    let turn = begin("Where do I live?");
    let sent = turn.inject_here();
    assert!(String::from_utf8_lossy(&sent).contains("Paris"), "{sent:?}");
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    turn.inject_then(move |body| sender.send(body).unwrap());
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), sent, "the same block");
    let begun = answer().replace("message", "delta").replace(r#""finish_reason":"stop","#, "");
    for piece in format!("data: {begun}\n\n").as_bytes().chunks(7) {
        turn.feed(piece);
    }
    turn.end(200, false, 2.0);
    assert!(wait(&alice, Some(PATIENCE)));
    let seen = stats(&engine);
    assert_eq!(
        (&seen["captured"], &seen["applied"], &seen["injected"], &seen["cut"]),
        (&json!(2), &json!(2), &json!(1), &json!(1)),
        "{seen}"
    );

    for _ in 0..2 {
        let again = br#"{"event_id":"mine","entity_id":"bob","messages":[{"role":"user","content":"I have a dog."}]}"#;
        assert_eq!(alice.capture(again).unwrap().0, "mine");
    }
    assert!(wait(&alice, Some(PATIENCE)), "the same event counts once: {:?}", alice.failures());

    // A deletion comes after what was captured before it; a closed engine starts anew.
    alice.capture(br#"{"entity_id":"alice","messages":[{"role":"user","content":"I have a cat."}]}"#).unwrap();
    let erased = engine.request(Method::DELETE, "/v1/entities/alice".to_owned(), None, PATIENCE);
    assert_eq!(erased.0, 202);
    assert!(wait(&alice, Some(PATIENCE)), "erased is nothing to wait for: {:?}", alice.failures());
    assert!(engine.close(PATIENCE));
    assert_eq!(stats(&engine)["phase"], "closed");
    let turn = begin("I live in Rome.");
    turn.answer(200, answer().into(), 1.0);
    assert!(wait(&alice, Some(PATIENCE)));
    assert!(engine.close(PATIENCE));
}

#[test]
fn what_a_turn_added_is_read_in_ahead_of_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&sqlite(folder.path()));
    let alice = member(&engine);
    alice.capture(br#"{"entity_id":"alice","messages":[{"role":"user","content":"I live in Paris."}]}"#).unwrap();
    assert!(wait(&alice, Some(PATIENCE)));
    let turn = |text: &str| alice.begin(scope(), "/v1/chat/completions", None, request(text), 0).unwrap();
    turn("I have a cat.").answer(200, answer().into(), 1.0);
    assert!(wait(&alice, Some(PATIENCE)));
    let recalled = turn("I like tea.");
    recalled.inject_here();
    recalled.answer(200, answer().into(), 1.0);
    let began = Instant::now();
    while stats(&engine)["read_ahead"] == 0 || stats(&engine)["reading_ahead"] != 0 {
        assert!(began.elapsed() < PATIENCE, "{}", stats(&engine));
        std::thread::yield_now();
    }
    assert_eq!(stats(&engine)["read_ahead"], 1, "what nobody recalled for is not");
    assert!(wait(&alice, Some(PATIENCE)));
    engine.close(PATIENCE);
}

#[test]
fn a_retry_is_the_same_turn_and_one_turn_is_one_event() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&sqlite(folder.path()));
    let alice = member(&engine);
    let begin = |text: &str, retry| alice.begin(scope(), "/v1/chat/completions", None, request(text), retry).unwrap();
    let first = begin("I like tea.", 0);
    first.answer(503, Bytes::from_static(b"{}"), 1.0);
    let second = begin("I like tea.", 1);
    assert_eq!(first.event_id(), second.event_id());
    assert_ne!(begin("I like tea.", 0).event_id(), second.event_id(), "no retry, and so another turn");
    assert_ne!(begin("I like beer.", 1).event_id(), second.event_id(), "other bytes are another turn");
    let other = member(&engine);
    let of_other = other.begin(scope(), "/v1/chat/completions", None, request("I like tea."), 1).unwrap();
    assert_ne!(of_other.event_id(), second.event_id(), "another member's");

    let tried = begin("I like milk.", 0);
    let again = begin("I like milk.", 1);
    again.answer(200, answer().into(), 1.0);
    tried.answer(200, answer().into(), 1.0);
    assert_ne!(begin("I like milk.", 1).event_id(), again.event_id(), "it was answered");
    assert!(wait(&alice, Some(PATIENCE)));
    let seen = stats(&engine);
    assert_eq!((&seen["captured"], &seen["retries"]), (&json!(1), &json!(2)), "{seen}");
    assert!(alice.begin(Scope::default(), "/v1/chat/completions", None, request("x"), 0).is_none(), "about nobody");
    assert!(alice.begin(scope(), "/v1/embeddings", None, request("x"), 0).is_none(), "no conversation");
    engine.close(PATIENCE);
}

#[test]
fn a_platform_that_is_away_costs_no_call_anything_and_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let config = nobody(folder.path());
    let engine = open(&config);
    let alice = member(&engine);
    let turn = alice.begin(scope(), "/v1/chat/completions", None, request("I like tea."), 0).unwrap();
    let started = Instant::now();
    assert_eq!(turn.inject_here(), request("I like tea."));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    turn.answer(200, answer().into(), 1.0);
    let (_, number) = alice.capture(br#"{"entity_id":"alice","messages":[{"role":"user","content":"I have a cat."}]}"#).unwrap();
    assert_eq!(engine.block_on(PATIENCE, alice.durable(number.unwrap())), Some(true), "in the spool");
    let told = engine.notices();
    assert!(told.iter().any(|(_, text)| text.contains("keeps events on this machine")), "{told:?}");
    let started = Instant::now();
    assert!(!wait(&alice, None));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(alice.failures().is_empty(), "the spool keeps them");
    let seen = stats(&engine);
    assert_eq!((&seen["spooled"], &seen["system"]["spooled"]), (&json!(2), &json!(2)), "{seen}");
    assert!(engine.notices().iter().any(|(_, text)| text.contains("waits no longer")));
    let started = Instant::now();
    assert!(engine.close(Duration::from_secs(5)));
    assert!(started.elapsed() < Duration::from_secs(6));

    // What starts there next finds them.
    let engine = open(&config);
    let end = Instant::now() + PATIENCE;
    while stats(&engine)["system"]["spooled"] != 2 {
        assert!(Instant::now() < end, "{}", stats(&engine));
        std::thread::yield_now();
    }
    engine.close(PATIENCE);
}

#[test]
fn a_full_queue_drops_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    // A file stands where the folder should be: the system never starts.
    std::fs::write(folder.path().join("data"), b"").unwrap();
    let mut config = sqlite(folder.path());
    config["queue_events"] = json!(2);
    config["unreachable_after_ms"] = json!(100);
    let engine = open(&config);
    let alice = member(&engine);
    let event = |text: &str| json!({"entity_id": "alice", "messages": [{"role": "user", "content": text}]}).to_string();
    for text in ["a", "b", "c"] {
        alice.capture(event(text).as_bytes()).unwrap();
    }
    assert!(!wait(&alice, Some(Duration::from_secs(5))));
    let failures = alice.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!((failures[0].status, failures[0].class.as_str()), ("dropped", "queue_events"));
    assert_eq!(stats(&engine)["dropped"]["queue_events"], 1);
    assert!(alice.capture(b"{}").unwrap_err().contains("entity_id"));
    assert!(alice.capture(b"[").is_err());
    let why = engine.block_on(PATIENCE, Arc::clone(&engine).build(Duration::from_millis(200))).unwrap().unwrap_err();
    assert!(why.contains("data"), "{why}");
    assert!(!engine.close(Duration::from_millis(200)), "what is queued cannot be made durable");
}

#[test]
fn the_same_call_made_twice_at_once_is_two_events_though_both_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&sqlite(folder.path()));
    let alice = member(&engine);
    let begin = |retry| alice.begin(scope(), "/v1/chat/completions", None, request("I like tea."), retry).unwrap();
    let first: Vec<_> = (0..2).map(|_| begin(0)).collect();
    first.iter().for_each(|turn| turn.answer(500, Bytes::from_static(b"{}"), 1.0));
    let again: Vec<_> = (0..2).map(|_| begin(1)).collect();
    assert_ne!(again[0].event_id(), again[1].event_id());
    again.iter().for_each(|turn| turn.answer(200, answer().into(), 1.0));
    assert_eq!(stats(&engine)["captured"], 2);
    assert!(wait(&alice, Some(PATIENCE)), "{:?}", alice.failures());
    engine.close(PATIENCE);
}

#[test]
fn who_is_asked_while_another_handle_closes_the_engine_is_answered_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(&sqlite(folder.path()));
    let alice = member(&engine);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                assert!(engine.close(PATIENCE));
            }
            is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
            alice.capture(br#"{"entity_id":"alice","messages":[{"role":"user","content":"I have a cat."}]}"#).unwrap();
            let question = json!({"entity_id": "alice", "query": "cat"}).to_string();
            let (status, said) = engine.request(Method::POST, "/v1/recall".to_owned(), Some(question.into()), PATIENCE);
            assert_eq!(status, 200, "{said:?}");
        }
    });
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    alice.wait_then(Some(PATIENCE), move |applied| sender.send(applied).unwrap());
    assert_eq!(receiver.recv(), Ok(true), "{:?} {}", alice.failures(), stats(&engine));
    engine.close(PATIENCE);
}

#[test]
fn a_wait_without_a_time_ends_where_the_extractor_has_nobody_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = sqlite(folder.path());
    config["unreachable_after_ms"] = json!(500);
    config["extractor"] = json!({"kind": "llm", "base_url": "http://127.0.0.1:1/v1", "model": "m"});
    let engine = open(&config);
    let alice = member(&engine);
    alice.capture(br#"{"entity_id":"alice","messages":[{"role":"user","content":"I have a cat."}]}"#).unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    alice.wait_then(None, move |applied| sender.send(applied).unwrap());
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(false));
    assert!(alice.failures().is_empty(), "it is still to come: {:?}", alice.failures());
    engine.close(Duration::from_secs(1));
}
