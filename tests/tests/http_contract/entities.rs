//! "Entities and facts": listings, a fact and its lineage, the export, both deletions; for any text as an id.

use std::collections::BTreeSet;

use memori_tests::client::escape;
use serde_json::{Value, json};

use crate::system::{System, contents, event};

#[tokio::test(flavor = "multi_thread")]
async fn any_text_is_an_entity_on_every_route() {
    let system = System::open().await;
    let http = &system.http;
    let (longest, wide) = ("x".repeat(256), "漢".repeat(85));
    let ids = [
        "a/b",
        "/",
        "//",
        "..",
        ".",
        "../../etc/passwd",
        "%2F",
        "%",
        "a%20b",
        "a b",
        " ",
        "+",
        "a?b#c",
        "a&limit=1",
        "ü",
        "u\u{308}",
        "漢字",
        "😀",
        "\n",
        "\u{7f}",
        "\"\\",
        "'; DROP TABLE facts; --",
        "*",
        "export",
        "facts",
        "1",
        "001",
        "１",
        "null",
        "A",
        "a",
        "א‏",
        longest.as_str(),
        wide.as_str(),
    ];
    for (n, id) in ids.iter().enumerate() {
        http.learn(event(&format!("e{n}"), id, &format!("I keep {} goats.", n + 2))).await;
    }
    let mut listed = Vec::new();
    let mut page = http.get("/v1/entities?limit=5").await.ok(200).json;
    loop {
        listed.extend(
            page["entities"].as_array().expect("entities").iter().map(|e| e["entity_id"].as_str().expect("an id").to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        page = http.get(&format!("/v1/entities?limit=5&cursor={}", escape(cursor))).await.ok(200).json;
    }
    assert_eq!(listed.len(), ids.len(), "each once: {listed:?}");
    assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), ids.into_iter().collect());
    for (n, id) in ids.iter().enumerate() {
        let own = format!("{} goats", n + 2);
        let facts = http.all_facts(id, 10).await;
        assert!(facts.len() == 1 && facts[0]["content"].as_str().is_some_and(|text| text.contains(&own)), "{id:?}: {facts:?}");
        let export = http.get(&format!("/v1/entities/{}/export", escape(id))).await.ok(200);
        assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(
            export.lines().iter().map(|line| line["type"].as_str().unwrap_or_default()).collect::<Vec<_>>(),
            ["message", "fact"]
        );
        let recalled = http.recall(id, "goats", json!({})).await;
        assert!(contents(&recalled["facts"]).len() == 1 && contents(&recalled["facts"])[0].contains(&own), "{id:?}: {recalled}");
    }
    // Every other one is erased: those are gone, the rest is as it was.
    for id in ids.iter().step_by(2) {
        let receipt = http.erase(id).await;
        assert_eq!((&receipt["events_erased"], &receipt["events_kept"]), (&json!(1), &json!(0)), "{id:?}: {receipt}");
    }
    for (n, id) in ids.iter().enumerate() {
        let left = usize::from(n % 2 == 1);
        assert_eq!(http.all_facts(id, 10).await.len(), left, "{id:?}");
        assert_eq!(http.get(&format!("/v1/entities/{}/export", escape(id))).await.ok(200).lines().len(), left * 2, "{id:?}");
        let status = http.get(&format!("/v1/events/e{n}")).await.ok(200).json;
        assert_eq!(status["status"], if left == 1 { "applied" } else { "erased" }, "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_complete_and_repeat_nothing() {
    let system = System::open().await;
    let http = &system.http;
    let events: Vec<Value> = (0..40)
        .map(|n| {
            let text = if n % 8 == 0 { format!("Always mention the number {n}.") } else { format!("I own boat number {n}.") };
            event(&format!("e{n}"), "owner", &text)
        })
        .collect();
    http.post("/v1/events/batch", &json!({"events": events})).await.ok(200);
    let ids: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    http.applied(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let whole = http.all_facts("owner", 1_000).await;
    assert!(whole.len() >= 40, "{}", whole.len());
    let id_of = |fact: &Value| fact["fact_id"].as_str().expect("an id").to_owned();
    let expected: BTreeSet<String> = whole.iter().map(id_of).collect();
    assert_eq!(expected.len(), whole.len());
    for limit in [1, 3, 7, 39, 40, 41] {
        let paged = http.all_facts("owner", limit).await;
        assert_eq!(paged.len(), whole.len(), "limit {limit}");
        assert_eq!(paged.iter().map(id_of).collect::<BTreeSet<_>>(), expected, "limit {limit}");
    }
    let mut by_kind = 0;
    for kind in ["fact", "instruction", "attribute", "summary", "timeline"] {
        let page = http.get(&format!("/v1/entities/owner/facts?kind={kind}&limit=1000")).await.ok(200).json;
        let facts = page["facts"].as_array().expect("facts");
        assert!(facts.iter().all(|fact| fact["kind"] == kind), "{page}");
        by_kind += facts.len();
    }
    assert_eq!(by_kind, whole.len());
    // What is learned or forgotten while somebody turns pages costs the others nothing; digests are made anew of what is left.
    let by_rules = |fact: &Value| fact["extractor"].as_str().is_some_and(|name| name.starts_with("digests/"));
    let expected: BTreeSet<String> = whole.iter().filter(|fact| !by_rules(fact)).map(id_of).collect();
    let first = http.get("/v1/entities/owner/facts?limit=10").await.ok(200).json;
    let mut seen: BTreeSet<String> = first["facts"].as_array().expect("facts").iter().map(id_of).collect();
    http.delete(&format!("/v1/facts/{}", seen.iter().find(|id| expected.contains(*id)).expect("a fact"))).await.ok(204);
    http.learn(event("new", "owner", "I own a lighthouse.")).await;
    let mut cursor = first["next_cursor"].as_str().map(str::to_owned);
    while let Some(at) = cursor {
        let page = http.get(&format!("/v1/entities/owner/facts?limit=10&cursor={}", escape(&at))).await.ok(200).json;
        for fact in page["facts"].as_array().expect("facts") {
            assert!(seen.insert(id_of(fact)), "shown twice: {fact}");
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
    }
    assert!(expected.is_subset(&seen), "left out: {:?}", expected.difference(&seen).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_its_lineage_and_the_export() {
    let system = System::open().await;
    let http = &system.http;
    let said = |id: &str, at: &str, text: &str| {
        json!({"event_id": id, "entity_id": "lin", "process_id": "p", "session_id": "s", "occurred_at": at,
            "messages": [{"role": "assistant", "content": "Tell me."}, {"role": "user", "content": text}]})
    };
    // Against the order in which they happened.
    http.learn(said("second", "2026-02-01T00:00:00Z", "I like green tea.")).await;
    http.learn(said("first", "2026-01-01T00:00:00Z", "I like green tea.")).await;
    let facts = http.all_facts("lin", 10).await;
    assert_eq!(facts.len(), 1, "{facts:?}");
    let fact_id = facts[0]["fact_id"].as_str().expect("an id");
    let fact = http.get(&format!("/v1/facts/{fact_id}")).await.ok(200).json;
    assert_eq!(fact["mentions"], 2);
    assert_eq!(
        (&fact["first_mentioned_at"], &fact["last_mentioned_at"]),
        (&json!("2026-01-01T00:00:00Z"), &json!("2026-02-01T00:00:00Z"))
    );
    assert!(fact.get("score").is_none(), "nothing was asked that a score could be for: {fact}");

    let lineage = http.get(&format!("/v1/facts/{fact_id}/lineage")).await.ok(200).json;
    assert_eq!(lineage["fact_id"], fact_id);
    let mentions = lineage["mentions"].as_array().expect("mentions");
    assert_eq!(
        mentions.iter().map(|m| m["event_id"].as_str().unwrap_or_default()).collect::<BTreeSet<_>>(),
        BTreeSet::from(["first", "second"])
    );
    for mention in mentions {
        for name in [
            "event_id",
            "message_id",
            "message_index",
            "session_id",
            "process_id",
            "occurred_at",
            "content",
            "topic",
            "topic_id",
            "partition",
            "offset",
            "lane",
            "extractor",
            "extracted_at",
            "tokens_in",
            "tokens_out",
            "cost_micros",
        ] {
            assert!(mention.get(name).is_some_and(|value| !value.is_null()), "no {name}: {mention}");
        }
        // The built-in extractor asks no model.
        assert!(
            mention.get("model").is_some_and(Value::is_null) && mention.get("prompt_hash").is_some_and(Value::is_null),
            "{mention}"
        );
        assert_eq!(
            (&mention["message_index"], &mention["topic"], &mention["extractor"]),
            (&json!(1), &json!("memori.facts.live"), &json!("builtin/2"))
        );
    }
    let export = http.get("/v1/entities/lin/export").await.ok(200);
    let lines = export.lines();
    let shown: Vec<(&str, &str)> = lines
        .iter()
        .map(|line| (line["type"].as_str().unwrap_or_default(), line["event_id"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(shown, [("message", "first"), ("message", "first"), ("message", "second"), ("message", "second"), ("fact", "")]);
    assert_eq!(lines[1]["content"], "I like green tea.");
    assert_eq!(http.get("/v1/entities/lin/export").await.ok(200).text(), export.text(), "the same again");
    assert_eq!(http.get("/v1/entities/nobody/export").await.ok(200).text(), "");
    assert_eq!(http.get("/v1/entities/nobody/facts").await.ok(200).json, json!({"facts": [], "next_cursor": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_comes_back_only_when_it_is_said_anew() {
    let system = System::open().await;
    let http = &system.http;
    let mut original = event("said", "f", "I like green tea. I play chess.");
    original["messages"][0]["message_id"] = json!("m1");
    http.learn(original.clone()).await;
    let facts = http.all_facts("f", 10).await;
    assert_eq!(facts.len(), 2, "{facts:?}");
    let tea =
        facts.iter().find(|fact| fact["object"] == "green tea").expect("tea")["fact_id"].as_str().expect("an id").to_owned();
    http.delete(&format!("/v1/facts/{tea}")).await.ok(204);
    let knows_tea = async || {
        let answer = http.recall("f", "tea", json!({"limit": 100, "include_superseded": true})).await;
        contents(&answer["facts"]).iter().any(|content| content.contains("tea"))
    };
    assert!(!knows_tea().await, "204 means that it is gone from the next recall");
    for path in [format!("/v1/facts/{tea}"), format!("/v1/facts/{tea}/lineage")] {
        http.get(&path).await.ok(404);
    }
    assert_eq!(http.all_facts("f", 10).await.len(), 1);
    let repeated = http.delete(&format!("/v1/facts/{tea}")).await.status;
    assert!([204, 404].contains(&repeated), "repeating it is harmless: {repeated}");
    // The same message again teaches it not: neither as the same event nor under another one's name.
    assert_eq!(http.post("/v1/events", &original).await.ok(202).json["status"], "duplicate");
    let mut copy = original.clone();
    copy["event_id"] = json!("copy");
    http.learn(copy).await;
    assert!(!knows_tea().await, "learned again from a copy of the same message");
    http.learn(event("anew", "f", "I like green tea.")).await;
    assert!(knows_tea().await, "said anew, and not learned");

    let receipt = http.erase("f").await;
    for name in ["erasure_id", "status", "requested_at", "applied_at", "events_erased"] {
        assert!(!receipt[name].is_null(), "no {name}: {receipt}");
    }
    assert!(http.all_facts("f", 10).await.is_empty());
    assert_eq!(http.recall("f", "tea chess", json!({"include_messages": true})).await["messages"], json!([]));
    // A new conversation of the same entity begins from nothing.
    http.learn(event("fresh", "f", "I play go.")).await;
    assert_eq!(http.all_facts("f", 10).await.len(), 1);
}
