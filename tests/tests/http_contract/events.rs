//! "Events": what is accepted, what is a duplicate, what is a conflict; batches; status; waiting.

use std::time::{Duration, Instant};

use memori_tests::client::escape;
use serde_json::{Value, json};

use crate::system::{System, event};

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_what_the_client_gave_again() {
    let system = System::open().await;
    let http = &system.http;
    let full = json!({"event_id": "full", "entity_id": "a", "process_id": "p", "session_id": "s", "occurred_at": "2026-01-01T12:00:00Z",
        "messages": [{"message_id": "m", "role": "user", "content": "I like tea.", "name": "Ann", "created_at": "2026-01-01T11:59:00Z"}],
        "metadata": {"k": "v"}});
    let bare = event("bare", "a", "I like tea.");
    let change = |base: &Value, pointer: &str, value: Value| {
        let mut changed = base.clone();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = changed.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        if value.is_null() {
            parent.remove(name);
        } else {
            parent.insert(name.to_owned(), value);
        }
        changed
    };
    let same: Vec<(&str, Value)> = vec![
        ("word for word", full.clone()),
        ("no time", change(&full, "/occurred_at", Value::Null)),
        ("the same time in another zone", change(&full, "/occurred_at", json!("2026-01-01T14:00:00+02:00"))),
        ("no session", change(&full, "/session_id", Value::Null)),
        ("no message id", change(&full, "/messages/0/message_id", Value::Null)),
        ("no time of the message", change(&full, "/messages/0/created_at", Value::Null)),
        ("a time where there was none", change(&bare, "/occurred_at", json!("2020-01-01T00:00:00Z"))),
        ("a session where there was none", change(&bare, "/session_id", json!("s"))),
        ("a message id where there was none", change(&bare, "/messages/0/message_id", json!("m"))),
        ("null for absent", change(&bare, "/metadata", json!({}))),
    ];
    let other: Vec<(&str, Value)> = vec![
        ("entity", change(&full, "/entity_id", json!("b"))),
        ("process", change(&full, "/process_id", json!("q"))),
        ("no process", change(&full, "/process_id", Value::Null)),
        ("role", change(&full, "/messages/0/role", json!("assistant"))),
        ("content", change(&full, "/messages/0/content", json!("I like tea"))),
        ("content as parts", change(&full, "/messages/0/content", json!([{"type": "text", "text": "I like tea."}]))),
        ("name", change(&full, "/messages/0/name", json!("Bo"))),
        ("no name", change(&full, "/messages/0/name", Value::Null)),
        ("metadata", change(&full, "/metadata", json!({"k": "w"}))),
        ("no metadata", change(&full, "/metadata", Value::Null)),
        ("time", change(&full, "/occurred_at", json!("2026-01-01T12:00:01Z"))),
        ("session", change(&full, "/session_id", json!("t"))),
        ("message id", change(&full, "/messages/0/message_id", json!("n"))),
        ("time of the message", change(&full, "/messages/0/created_at", json!("2026-01-01T11:59:01Z"))),
    ];
    for event in [&full, &bare] {
        let answer = http.post("/v1/events", event).await.ok(202).json;
        assert_eq!(answer, json!({"event_id": event["event_id"], "status": "accepted", "durable_in": "log"}));
    }
    // The same before and after the store has it.
    for round in 0..2 {
        for (what, event) in &same {
            let answer = http.post("/v1/events", event).await.ok(202).json;
            assert_eq!(answer["status"], "duplicate", "round {round}, {what}: {answer}");
        }
        for (what, event) in &other {
            assert_eq!(http.post("/v1/events", event).await.status, 409, "round {round}, {what}");
        }
        http.applied(&["full", "bare"]).await;
    }
    // And after a restart.
    let mut system = system;
    tokio::task::block_in_place(|| system.process.kill_and_restart()).expect("a restart");
    let http = &system.http;
    assert_eq!(http.post("/v1/events", &full).await.ok(202).json["status"], "duplicate");
    for (what, event) in &other {
        assert_eq!(http.post("/v1/events", event).await.status, 409, "after a restart, {what}");
    }
    let facts = http.all_facts("a", 10).await;
    assert!(facts.iter().all(|fact| fact["mentions"].as_i64() <= Some(2)), "{facts:?}");
    let messages = http.get("/v1/entities/a/export").await.ok(200).lines();
    assert_eq!(messages.iter().filter(|line| line["type"] == "message").count(), 2, "two events, a message each");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_any_text_and_are_made_where_none_is_given() {
    let system = System::open().await;
    let http = &system.http;
    let mut nameless = event("", "a", "I like tea.");
    nameless.as_object_mut().expect("an object").remove("event_id");
    let mut made = Vec::new();
    for _ in 0..2 {
        let answer = http.learn(nameless.clone()).await.json;
        assert_eq!(answer["status"], "accepted");
        made.push(answer["event_id"].as_str().expect("an id").to_owned());
    }
    assert_ne!(made[0], made[1]);
    assert!(made.iter().all(|id| uuid::Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 7)), "{made:?}");
    let longest = "😀".repeat(128);
    for id in [
        "wait",
        "batch",
        "a/b",
        "..",
        ".",
        "%2F",
        "a?b#c",
        " ",
        "+",
        "ü 漢字",
        "\n",
        "'; DROP TABLE events; --",
        longest.as_str(),
    ] {
        http.learn(event(id, "ids", "I like tea.")).await;
        let status = http.get(&format!("/v1/events/{}", escape(id))).await.ok(200).json;
        assert_eq!((status["event_id"].as_str(), status["status"].as_str()), (Some(id), Some("applied")), "{status}");
        assert_eq!(status["facts"], 1, "{status}");
        for time in ["accepted_at", "applied_at"] {
            assert!(status[time].as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{status}");
        }
        assert!(status.get("reason").is_none() && status.get("class").is_none(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_judges_each_event_alone() {
    let system = System::open().await;
    let http = &system.http;
    http.learn(event("there", "batch", "I like tea.")).await;
    let huge = json!({"event_id": "huge", "entity_id": "batch", "messages": [{"role": "user", "content": "x".repeat(1 << 20)}]});
    let items = [
        event("new", "batch", "I like jam."),
        event("there", "batch", "I like tea."),
        event("there", "batch", "I like coffee."),
        json!(7),
        event("new", "batch", "I like jam."),
        event("new", "batch", "I like marmalade."),
        huge,
        event("other", "batch", "I play chess."),
    ];
    let expected = [
        ("accepted", 0),
        ("duplicate", 0),
        ("rejected", 409),
        ("rejected", 422),
        ("duplicate", 0),
        ("rejected", 409),
        ("rejected", 413),
        ("accepted", 0),
    ];
    let lines: String = items.iter().map(|item| format!("{item}\n")).collect();
    for round in 0..2 {
        let answer = if round == 0 {
            http.post("/v1/events/batch", &json!({"events": items})).await
        } else {
            http.post_bytes("/v1/events/batch", "application/x-ndjson", lines.as_bytes()).await
        };
        let answer = answer.ok(200).json;
        let results = answer["results"].as_array().expect("results");
        assert_eq!(results.len(), items.len());
        for (index, (result, (status, code))) in results.iter().zip(expected).enumerate() {
            // The second time nothing is new.
            let status = if round == 1 && status == "accepted" { "duplicate" } else { status };
            assert_eq!((&result["index"], &result["status"]), (&json!(index), &json!(status)), "{result}");
            assert_eq!(result["error"]["status"].as_u64().unwrap_or(0), code, "{result}");
            if [0, 1, 2, 4, 5, 7].contains(&index) {
                assert_eq!(result["event_id"], items[index]["event_id"], "{result}");
            }
        }
    }
    http.applied(&["new", "there", "other"]).await;
    assert_eq!(http.all_facts("batch", 2).await.len(), 3);

    // Blank lines count for nothing; a thousand fit and no more.
    let thousand: String =
        (0..1_000).map(|n| format!("{}\r\n\n", event(&format!("n{n}"), &format!("many-{}", n % 7), "hello"))).collect();
    let answer = http.post_bytes("/v1/events/batch", "application/x-ndjson", thousand.as_bytes()).await.ok(200).json;
    let results = answer["results"].as_array().expect("results");
    assert!(results.len() == 1_000 && results.iter().all(|result| result["status"] == "accepted"));
    let more = format!("{thousand}{}\n", event("n1000", "many", "hello"));
    http.post_bytes("/v1/events/batch", "application/x-ndjson", more.as_bytes()).await.ok(422);
    let over = json!({"events": vec![event("x", "many", "hello"); 1_001]});
    assert_eq!(http.post("/v1/events/batch", &over).await.ok(422).paths(), ["events"]);
    http.get("/v1/events/n1000").await.ok(404);
    assert_eq!(http.post("/v1/events/batch", &json!({"events": []})).await.ok(200).json, json!({"results": []}));
    let ids: Vec<String> = (0..1_000).map(|n| format!("n{n}")).collect();
    http.applied(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_all_are_final_or_time_is_up() {
    let system = System::open().await;
    let http = &system.http;
    let wait = async |ids: &[&str], timeout_ms: u64| {
        http.post("/v1/events/wait", &json!({"event_ids": ids, "timeout_ms": timeout_ms})).await.ok(200).json
    };
    assert_eq!(wait(&[], 1_000).await, json!({"complete": true, "events": []}));
    http.post("/v1/events", &event("w", "a", "I like tea.")).await.ok(202);
    let answer = wait(&["w", "w"], 50_000).await;
    let applied = json!({"event_id": "w", "status": "applied"});
    assert_eq!(answer, json!({"complete": true, "events": [applied, applied]}));
    // Applied means that the very next recall sees it.
    assert_eq!(http.recall("a", "tea", json!({})).await["facts"].as_array().map(Vec::len), Some(1));

    let started = Instant::now();
    let answer = wait(&["w", "nobody's"], 300).await;
    assert_eq!(answer, json!({"complete": false, "events": [applied, {"event_id": "nobody's", "status": "unknown"}]}));
    assert!(started.elapsed() >= Duration::from_millis(300), "it gave up after {:?}", started.elapsed());
    assert_eq!(wait(&["nobody's"], 0).await["complete"], false);

    // An id that is unknown when the wait begins is waited for.
    let waiting = tokio::spawn({
        let http = http.clone();
        async move { http.post("/v1/events/wait", &json!({"event_ids": ["later"], "timeout_ms": 50_000})).await.ok(200).json }
    });
    http.learn(event("later", "a", "I like jam.")).await;
    assert_eq!(
        waiting.await.expect("an answer"),
        json!({"complete": true, "events": [{"event_id": "later", "status": "applied"}]})
    );

    http.erase("a").await;
    let erased = wait(&["w"], 50_000).await;
    assert_eq!(erased, json!({"complete": true, "events": [{"event_id": "w", "status": "erased"}]}));
    assert_eq!(http.get("/v1/events/w").await.ok(200).json["status"], "erased");
    // Whoever leaves a wait takes nothing with it.
    for _ in 0..50 {
        let mut stream = http.connect().await;
        let body = r#"{"event_ids":["nobody's"],"timeout_ms":600000}"#;
        let head = format!(
            "POST /v1/events/wait HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{head}{body}").as_bytes()).await.expect("sent");
    }
    http.learn(event("after", "b", "I like tea.")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_blocks_and_names() {
    let system = System::open().await;
    let http = &system.http;
    let parts = json!([{"type": "text", "text": "I play chess. <memori_context>zebra</memori_context>"}, "<memori_context>zebra</memori_context>", {"type": "image", "url": "x"}]);
    http.learn(json!({"event_id": "blocks", "entity_id": "ctx", "messages": [
        {"role": "user", "content": "I like tea.<memori_context>\nI own a zebra.\n</memori_context> I like jam."},
        {"role": "user", "content": "<memori_context>I own a <memori_context>zebra</memori_context>.</memori_context>"},
        {"role": "system", "content": "<memori_context>zebra</memori_context>"},
        {"role": "user", "content": parts},
        {"role": "user", "content": "I like </memori_context> brackets <memori_context>."},
    ]}))
    .await;
    let export = http.get("/v1/entities/ctx/export").await.ok(200);
    assert!(!export.text().contains("zebra"), "{}", export.text());
    let said = export.lines();
    assert_eq!(said[0]["content"], "I like tea. I like jam.");
    // A part that held nothing else goes with its block.
    assert_eq!(said[3]["content"], json!([{"type": "text", "text": "I play chess. "}, {"type": "image", "url": "x"}]));
    let recalled = http.recall("ctx", "zebra", json!({"limit": 100, "include_messages": true, "include_superseded": true})).await;
    assert!(!recalled.to_string().contains("zebra"), "{recalled}");
    for learned in ["tea", "jam", "chess"] {
        assert!(recalled["facts"].to_string().contains(learned), "{learned}: {recalled}");
    }

    http.learn(json!({"event_id": "names", "entity_id": "team", "messages": [
        {"role": "user", "name": "Ann", "content": "I live in Oslo."},
        {"role": "user", "name": "Bo", "content": "I live in Bergen."},
    ]}))
    .await;
    let facts = http.all_facts("team", 10).await;
    let of =
        |name: &str| facts.iter().filter(|fact| fact["subject"] == name).map(|fact| fact["object"].clone()).collect::<Vec<_>>();
    assert_eq!((of("Ann"), of("Bo")), (vec![json!("Oslo")], vec![json!("Bergen")]), "{facts:?}");
    assert!(facts.iter().all(|fact| fact["valid_to"].is_null()), "one's home does not end the other's: {facts:?}");

    // Any script, any language: a plain statement is learned.
    for (n, text) in [
        "Я живу в Москве.",
        "私は東京に住んでいます。",
        "أنا أعيش في القاهرة.",
        "मैं दिल्ली में रहता हूँ।",
        "Ζω στην Αθήνα.",
        "我住在上海。",
    ]
    .iter()
    .enumerate()
    {
        let entity = format!("script-{n}");
        http.learn(event(&entity, &entity, text)).await;
        assert!(!http.all_facts(&entity, 10).await.is_empty(), "{text} teaches nothing");
    }
}
