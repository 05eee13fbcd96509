//! The writer's API over the SQLite store: every route, with every error that its contract names.

mod world;

use std::time::Duration;

use axum::body::Body;
use memori_schemas::{ContentFormat, FactKind, Message, Micros, Role, ids};
use serde_json::{Value, json};
use world::{MINUTE_US, START_US, TENANT, World, contents, event, fact, rehash, request};

use Role::{Assistant, User};

async fn alice() -> World {
    let mut world = World::sqlite().await;
    let e1 = event(
        "alice",
        "e1",
        0,
        &[(User, "I prefer async Python and I have a dog called Rex"), (Assistant, "Noted: async Python!")],
    );
    let mut python = fact(&e1, 0, FactKind::Fact, "Alice prefers async Python");
    (python.subject, python.predicate, python.object) =
        (Some("Alice".into()), Some("prefers".into()), Some("async Python".into()));
    let rex = fact(&e1, 0, FactKind::Fact, "Alice has a dog called Rex");
    world.said(&e1);
    world.learned(&e1, 1, vec![python.clone(), rex]);
    let e2 =
        event("alice", "e2", 20, &[(User, "Always answer me in metric units. Ich wohne in einer kleinen Wohnung in Berlin.")]);
    world.told(
        &e2,
        &[
            (FactKind::Instruction, "Always answer Alice in metric units"),
            (FactKind::Fact, "Alice wohnt in einer kleinen Wohnung in Berlin"),
        ],
    );
    let e3 = event("alice", "e3", 90, &[(User, "As I said, I prefer async Python")]);
    world.said(&e3);
    world.learned(&e3, 1, vec![memori_schemas::Fact { evidence: fact(&e3, 0, FactKind::Fact, "").evidence, ..python }]);
    world.flush().await;
    world
}

#[tokio::test]
async fn a_recall_has_every_field_of_the_contract() {
    let world = alice().await;
    let answer =
        world.recall(json!({"entity_id": "alice", "query": "which Python does Alice like", "include_messages": true})).await;
    let best = &answer["facts"][0];
    assert_eq!(best["content"], "Alice prefers async Python");
    let key = ids::entity_key(TENANT, "alice");
    let session = |first: &str| ids::island_session_id(&key, None, first).to_string();
    assert_eq!(best["fact_id"], ids::fact_id(&key, 1, FactKind::Fact, Some("Alice"), "Alice prefers async Python").to_string());
    for (name, value) in [
        ("kind", json!("fact")),
        ("subject", json!("Alice")),
        ("predicate", json!("prefers")),
        ("object", json!("async Python")),
        ("occurred_at", json!("2026-01-01T00:00:00Z")),
        ("first_mentioned_at", json!("2026-01-01T00:00:00Z")),
        ("last_mentioned_at", json!("2026-01-01T01:30:00Z")),
        ("mentions", json!(2)),
        ("valid_from", json!("2026-01-01T00:00:00Z")),
        ("valid_to", json!(null)),
        ("extractor", json!("builtin/1")),
        ("generation", json!(1)),
        (
            "sources",
            json!([
                {"event_id": "e1", "message_id": "e1#0", "session_id": session("e1"), "occurred_at": "2026-01-01T00:00:00Z"},
                {"event_id": "e3", "message_id": "e3#0", "session_id": session("e3"), "occurred_at": "2026-01-01T01:30:00Z"},
            ]),
        ),
    ] {
        assert_eq!(best[name], value, "{name}");
    }
    let scores: Vec<f64> = answer["facts"].as_array().unwrap().iter().map(|f| f["score"].as_f64().unwrap()).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]) && scores.iter().all(|s| (0.0..=1.0).contains(s)), "{scores:?}");
    assert!(scores[0] > 2.0 * scores[1], "{scores:?}");
    assert_eq!(contents(&answer["instructions"]), ["Always answer Alice in metric units"]);
    assert_eq!(answer["instructions"][0]["kind"], "instruction");
    assert!(contents(&answer["facts"]).iter().all(|c| !c.starts_with("Always")));
    let first = &answer["messages"][0];
    assert_eq!(first["role"], "user");
    assert!(first["content"].as_str().unwrap().contains("async Python"), "{first}");
    assert_eq!(first["session_id"], if first["event_id"] == "e3" { session("e3") } else { session("e1") });
    assert!(answer["took_ms"].as_f64().unwrap() > 0.0);

    let without = world.recall(json!({"entity_id": "alice", "query": "Python"})).await;
    assert!(without.get("messages").is_none());
}

#[tokio::test]
async fn a_recall_is_narrowed_by_what_it_says() {
    let mut world = alice().await;
    let mut work = event("alice", "w1", 200, &[(User, "The deployment runs on Fridays"), (User, "I am planning a trip")]);
    (work.process_id, work.session_id) = (Some("ops-bot".into()), Some("s-1".into()));
    rehash(&mut work);
    world.told(&work, &[(FactKind::Attribute, "The deployment runs on Fridays"), (FactKind::Summary, "Alice plans a trip")]);
    world.flush().await;

    let all = world.recall(json!({"entity_id": "alice", "query": "deployment", "limit": 1000})).await;
    assert_eq!(all["facts"].as_array().unwrap().len(), 5);
    let limited = world.recall(json!({"entity_id": "alice", "query": "deployment", "limit": 1})).await;
    assert_eq!(contents(&limited["facts"]), ["The deployment runs on Fridays"]);
    let kinds = world.recall(json!({"entity_id": "alice", "query": "deployment", "kinds": ["summary"]})).await;
    assert_eq!(contents(&kinds["facts"]), ["Alice plans a trip"]);
    for narrowed in [json!({"process_id": "ops-bot"}), json!({"session_id": "s-1"})] {
        let mut body = json!({"entity_id": "alice", "query": "Python", "include_messages": true});
        body.as_object_mut().unwrap().extend(narrowed.as_object().unwrap().clone());
        let answer = world.recall(body).await;
        assert_eq!(answer["facts"].as_array().unwrap().len(), 2, "{narrowed}");
        assert_eq!(answer["messages"].as_array().unwrap().len(), 2, "{narrowed}");
        assert_eq!(answer["instructions"].as_array().unwrap().len(), 1, "instructions hold for all");
    }
    let none = world.recall(json!({"entity_id": "alice", "query": "deployment", "process_id": "other"})).await;
    assert_eq!(none["facts"], json!([]));
    let good = world.recall(json!({"entity_id": "alice", "query": "deployment Fridays", "min_score": 0.5})).await;
    assert_eq!(contents(&good["facts"]), ["The deployment runs on Fridays"]);
    // 4 for the item, and a quarter of 30 characters.
    let budget = world.recall(json!({"entity_id": "alice", "query": "deployment Fridays", "token_budget": 12})).await;
    assert_eq!(contents(&budget["facts"]), ["The deployment runs on Fridays"]);
    assert_eq!(budget["instructions"].as_array().unwrap().len(), 1);
    let nothing =
        world.recall(json!({"entity_id": "alice", "query": "deployment", "token_budget": 0, "instruction_limit": 0})).await;
    assert_eq!((&nothing["facts"], &nothing["instructions"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn queries_without_words_unknown_entities_and_other_tenants_are_answered() {
    let world = alice().await;
    for query in ["", "   ", "…?!", "🍕"] {
        let answer = world.recall(json!({"entity_id": "alice", "query": query})).await;
        assert_eq!(answer["facts"].as_array().unwrap().len(), 3, "{query:?}");
        let again = world.recall(json!({"entity_id": "alice", "query": query})).await;
        assert_eq!(answer["facts"], again["facts"]);
    }
    let unknown = world.recall(json!({"entity_id": "Alice", "query": "Python", "include_messages": true})).await;
    assert_eq!((&unknown["facts"], &unknown["instructions"], &unknown["messages"]), (&json!([]), &json!([]), &json!([])));
    let other = world.post_as("umbrella", "/v1/recall", json!({"entity_id": "alice", "query": "Python"})).await;
    assert_eq!((other.status.as_u16(), &other.json()["facts"]), (200, &json!([])));
}

#[tokio::test]
async fn what_holds_is_shown_and_what_was_superseded_is_asked_for() {
    let mut world = World::sqlite().await;
    for (n, city) in ["Paris", "Berlin", "Paris"].iter().enumerate() {
        let e = event("bob", &format!("e{n}"), 1_000 * i64::try_from(n).unwrap(), &[(User, &format!("I live in {city} ({n})"))]);
        let mut lives = fact(&e, 0, FactKind::Fact, &format!("Bob lives in {city}"));
        (lives.subject, lives.predicate, lives.object) = (Some("Bob".into()), Some("lives in".into()), Some((*city).into()));
        lives.slot = Some("user/lives_in".into());
        world.said(&e);
        world.learned(&e, 1, vec![lives]);
    }
    world.flush().await;
    let time = |minute: i64| Micros(START_US + minute * MINUTE_US).to_rfc3339();
    let recalled = |at: Option<i64>, all: bool| {
        let body = json!({"entity_id": "bob", "query": "where does Bob live", "kinds": ["fact"], "as_of": at.map(time), "include_superseded": all});
        async { world.recall(body).await["facts"].clone() }
    };
    let now = recalled(None, false).await;
    assert_eq!(contents(&now), ["Bob lives in Paris"]);
    assert_eq!((&now[0]["valid_from"], &now[0]["valid_to"]), (&json!(time(2_000)), &json!(null)));
    assert_eq!(now[0]["mentions"], 2);
    let then = recalled(Some(1_500), false).await;
    assert_eq!(contents(&then), ["Bob lives in Berlin"]);
    assert_eq!((&then[0]["valid_from"], &then[0]["valid_to"]), (&json!(time(1_000)), &json!(time(2_000))));
    let first = recalled(Some(500), false).await;
    assert_eq!(contents(&first), ["Bob lives in Paris"]);
    assert_eq!((&first[0]["valid_from"], &first[0]["valid_to"]), (&json!(time(0)), &json!(time(1_000))));
    assert_eq!(recalled(Some(-500), false).await, json!([]));
    assert_eq!(recalled(None, true).await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_commit_is_seen_by_the_next_recall_and_so_is_a_deletion() {
    let mut world = alice().await;
    let ask = || json!({"entity_id": "alice", "query": "Rex the dog, cats", "include_messages": true, "limit": 50});
    assert_eq!(world.recall(ask()).await["facts"][0]["content"], "Alice has a dog called Rex");
    let e4 = event("alice", "e4", 300, &[(User, "my cats are Tom and Kit")]);
    world.told(&e4, &[(FactKind::Fact, "Alice's cats are Tom and Kit")]);
    world.flush().await;
    let answer = world.recall(ask()).await;
    assert!(contents(&answer["facts"]).contains(&"Alice's cats are Tom and Kit"));
    assert!(contents(&answer["messages"]).contains(&"my cats are Tom and Kit"));
    world.forgotten("alice", &fact(&e4, 0, FactKind::Fact, "Alice's cats are Tom and Kit"), "f1");
    world.flush().await;
    let answer = world.recall(ask()).await;
    assert!(!contents(&answer["facts"]).contains(&"Alice's cats are Tom and Kit"));
    world.erased("alice", "x1");
    world.flush().await;
    let answer = world.recall(ask()).await;
    assert_eq!((&answer["facts"], &answer["messages"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn facts_are_found_in_their_own_language() {
    let mut world = World::sqlite().await;
    let told = [
        ("Wohnungen", "Er hat eine Wohnung in Hamburg gekauft"),
        ("habiter Lyon", "Elle habite à Lyon depuis trois ans"),
        ("где живет", "Он живёт в Санкт-Петербурге"),
        ("他住在哪里", "他住在巴黎的一间公寓"),
        ("東京", "彼女は東京に住んでいます"),
        ("부산에서", "그는 부산에 산다"),
        ("قهوة", "يحب قهوة الصباح"),
        ("อาหารไทย", "เขาชอบอาหารไทยมาก"),
        ("C++", "He writes C++ at work"),
        ("C#", "He writes C# at home"),
    ];
    for (n, (_, text)) in told.iter().enumerate() {
        let e = event("poly", &format!("e{n}"), i64::try_from(n).unwrap(), &[(User, text)]);
        world.told(&e, &[(FactKind::Fact, text)]);
    }
    world.flush().await;
    for (query, text) in told {
        let answer = world.recall(json!({"entity_id": "poly", "query": query, "limit": 1})).await;
        assert_eq!(contents(&answer["facts"]), [text], "{query}");
    }
}

#[tokio::test]
async fn a_batch_answers_each_query_by_itself() {
    let world = alice().await;
    let good = json!({"entity_id": "alice", "query": "Python", "limit": 1});
    let answer = world.post("/v1/recall/batch", json!({"queries": [good, {"entity_id": "alice"}, 7, good]})).await.json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!(contents(&results[0]["facts"]), ["Alice prefers async Python"]);
    assert_eq!(results[1]["error"]["status"], 422);
    assert_eq!(results[1]["error"]["errors"][0]["path"], "query");
    assert_eq!(results[2]["error"]["status"], 422);
    assert_eq!(results[3]["facts"], results[0]["facts"]);
    let many: Vec<Value> = (0..101).map(|_| good.clone()).collect();
    assert_eq!(world.post("/v1/recall/batch", json!({"queries": many})).await.status, 422);
}

#[tokio::test]
async fn recall_refuses_what_the_contract_refuses() {
    let world = World::sqlite().await;
    for (body, path) in [
        (json!([]), ""),
        (json!({"query": "q"}), "entity_id"),
        (json!({"entity_id": "", "query": "q"}), "entity_id"),
        (json!({"entity_id": "x".repeat(257), "query": "q"}), "entity_id"),
        (json!({"entity_id": "a\u{0}", "query": "q"}), "entity_id"),
        (json!({"entity_id": 7, "query": "q"}), "entity_id"),
        (json!({"entity_id": "a"}), "query"),
        (json!({"entity_id": "a", "query": "\u{0}"}), "query"),
        (json!({"entity_id": "a", "query": "q", "limit": 0}), "limit"),
        (json!({"entity_id": "a", "query": "q", "limit": 1001}), "limit"),
        (json!({"entity_id": "a", "query": "q", "limit": "5"}), "limit"),
        (json!({"entity_id": "a", "query": "q", "kinds": ["nonsense"]}), "kinds[0]"),
        (json!({"entity_id": "a", "query": "q", "kinds": ["fact", "instruction"]}), "kinds[1]"),
        (json!({"entity_id": "a", "query": "q", "kinds": "fact"}), "kinds"),
        (json!({"entity_id": "a", "query": "q", "as_of": "yesterday"}), "as_of"),
        (json!({"entity_id": "a", "query": "q", "include_superseded": 1}), "include_superseded"),
        (json!({"entity_id": "a", "query": "q", "include_messages": "yes"}), "include_messages"),
        (json!({"entity_id": "a", "query": "q", "token_budget": -1}), "token_budget"),
        (json!({"entity_id": "a", "query": "q", "min_score": 1.5}), "min_score"),
        (json!({"entity_id": "a", "query": "q", "instruction_limit": 1.5}), "instruction_limit"),
        (json!({"entity_id": "a", "query": "q", "nonsense": 1}), "nonsense"),
    ] {
        let answer = world.post("/v1/recall", body.clone()).await;
        assert_eq!(answer.status, 422, "{body}");
        assert_eq!(answer.media_type, "application/problem+json");
        assert_eq!(answer.json()["errors"][0]["path"], path, "{body}");
    }
    let raw = |content_type: &'static str, body: Vec<u8>| {
        let request = request("POST", "/v1/recall", TENANT).header("content-type", content_type).body(Body::from(body)).unwrap();
        async { world.call(request).await }
    };
    for (content_type, body, status) in [
        ("application/json", b"{".to_vec(), 400),
        ("application/json", b"{\"entity_id\": \"\\ud800\", \"query\": \"\"}".to_vec(), 400),
        ("application/json", b"\xff\xfe".to_vec(), 400),
        ("text/plain", b"{}".to_vec(), 415),
        ("application/json", vec![b' '; (1 << 20) + 1], 413),
    ] {
        let answer = raw(content_type, body).await;
        assert_eq!((answer.status.as_u16(), answer.media_type.as_str()), (status, "application/problem+json"));
        assert_eq!(answer.json()["status"], status);
    }
    for (method, path, status) in [
        ("GET", "/v1/recall", 405),
        ("POST", "/v1/entities", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("DELETE", "/v1/facts/x", 405),
    ] {
        let answer = world.call(request(method, path, TENANT).body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.media_type.as_str()), (status, "application/problem+json"), "{method} {path}");
    }
    let nobody = http::Request::builder().uri("/v1/entities").body(Body::empty()).unwrap();
    assert_eq!(world.call(nobody).await.status, 401);
}

#[tokio::test]
async fn listings_are_complete_without_repeats_page_by_page() {
    let mut world = World::sqlite().await;
    for n in 0..23 {
        let id = format!("user/{n} é%");
        let e = event(&id, "e", n, &[(User, "hello")]);
        world.told(&e, &[]);
    }
    let many = event("many", "m", 0, &[(User, "a lot")]);
    world.said(&many);
    let facts =
        (0..57).map(|n| fact(&many, 0, if n % 3 == 0 { FactKind::Attribute } else { FactKind::Fact }, &format!("number {n}")));
    world.learned(&many, 1, facts.collect());
    world.flush().await;

    for (path, list, expected) in [
        ("/v1/entities?limit=5", "entities", 24),
        // 57 facts, and the summary of their session.
        ("/v1/entities/many/facts?limit=10", "facts", 58),
        ("/v1/entities/many/facts?limit=10&kind=fact", "facts", 38),
        ("/v1/entities/many/facts?limit=10&kind=attribute", "facts", 19),
        ("/v1/entities/many/facts?limit=1000", "facts", 58),
        ("/v1/entities/nobody/facts", "facts", 0),
    ] {
        let mut seen = std::collections::BTreeSet::new();
        let mut cursor = String::new();
        loop {
            let joiner = if path.contains('?') { '&' } else { '?' };
            let answer = world.get(&format!("{path}{joiner}cursor={cursor}")).await;
            assert_eq!(answer.status, 200);
            let page = answer.json();
            for item in page[list].as_array().unwrap() {
                let id = item.get("fact_id").or(item.get("entity_id")).unwrap().as_str().unwrap().to_owned();
                assert!(seen.insert(id), "{item} twice");
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen.len(), expected, "{path}");
    }
    let one = world.get("/v1/entities/user%2F3%20%C3%A9%25/facts").await;
    assert_eq!(one.status, 200);
    for (path, field) in [
        ("/v1/entities?limit=0", "limit"),
        ("/v1/entities?limit=1001", "limit"),
        ("/v1/entities?limit=x", "limit"),
        ("/v1/entities?cursor=zz", "cursor"),
        ("/v1/entities?nonsense=1", "nonsense"),
        ("/v1/entities?limit=1&limit=2", "limit"),
        ("/v1/entities/many/facts?kind=nonsense", "kind"),
        ("/v1/entities/many/facts?cursor=00", "cursor"),
        ("/v1/entities/%FF/facts", "entity_id"),
        ("/v1/entities/a%00b/facts", "entity_id"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, 422, "{path}");
        assert_eq!(answer.json()["errors"][0]["path"], field, "{path}");
    }
    let long = world.get(&format!("/v1/entities/{}/export", "x".repeat(257))).await;
    assert_eq!(long.status, 422);
}

#[tokio::test]
async fn an_entity_of_which_nothing_is_left_is_not_listed() {
    let mut world = alice().await;
    assert_eq!(world.get("/v1/entities").await.json()["entities"], json!([{"entity_id": "alice"}]));
    world.erased("alice", "x1");
    world.flush().await;
    assert_eq!(world.get("/v1/entities").await.json()["entities"], json!([]));
    let receipt = world.get("/v1/erasures/x1").await;
    assert_eq!(receipt.status, 200);
    let receipt = receipt.json();
    assert_eq!(
        (&receipt["erasure_id"], &receipt["status"], &receipt["events_erased"]),
        (&json!("x1"), &json!("applied"), &json!(3))
    );
    assert_eq!(world.get("/v1/erasures/x2").await.status, 404);
}

#[tokio::test]
async fn a_fact_is_shown_with_its_lineage_and_what_forgetting_it_takes() {
    let mut world = alice().await;
    let key = ids::entity_key(TENANT, "alice");
    let id = ids::fact_id(&key, 1, FactKind::Fact, Some("Alice"), "Alice prefers async Python");
    let shown = world.get(&format!("/v1/facts/{id}")).await.json();
    assert_eq!((&shown["content"], &shown["mentions"]), (&json!("Alice prefers async Python"), &json!(2)));
    let lineage = world.get(&format!("/v1/facts/{id}/lineage")).await.json();
    let mentions = lineage["mentions"].as_array().unwrap();
    assert_eq!(mentions.len(), 2);
    for (name, value) in [
        ("event_id", json!("e1")),
        ("message_id", json!("e1#0")),
        ("topic", json!("memori.facts.live")),
        ("partition", json!(3)),
        ("extractor", json!("builtin/1")),
        ("model", json!("m")),
        ("prompt_hash", json!("abc")),
        ("tokens_in", json!(11)),
        ("tokens_out", json!(7)),
        ("cost_micros", json!(5)),
        ("content", json!("Alice prefers async Python")),
        ("session_id", json!(ids::island_session_id(&key, None, "e1").to_string())),
    ] {
        assert_eq!(mentions[0][name], value, "{name}");
    }
    assert!(mentions[0]["offset"].as_i64().unwrap() > 0);

    let forget = world.get(&format!("/internal/v1/facts/{id}/forget")).await.json();
    assert_eq!(forget["entity_id"], "alice");
    assert_eq!(forget["text_hash"], ids::text_hash("Alice prefers async Python").to_string());
    assert_eq!(
        forget["triple_hash"],
        ids::triple_hash(Some("Alice"), Some("prefers"), Some("async Python")).unwrap().to_string()
    );
    assert_eq!(forget["message_keys"].as_array().unwrap().len(), 2);

    // A fact of a generation that is not the active one is found by its id all the same.
    let e9 = event("alice", "e9", 900, &[(User, "second pipeline")]);
    world.said(&e9);
    world.learned(&e9, 2, vec![fact(&e9, 0, FactKind::Fact, "Alice tries a second pipeline")]);
    world.flush().await;
    let other = ids::fact_id(&key, 2, FactKind::Fact, None, "Alice tries a second pipeline");
    assert_eq!(world.get(&format!("/v1/facts/{other}")).await.json()["generation"], 2);
    let answer = world.recall(json!({"entity_id": "alice", "query": "second pipeline", "limit": 100})).await;
    assert!(!contents(&answer["facts"]).contains(&"Alice tries a second pipeline"));

    let unknown = ids::fact_id(&key, 1, FactKind::Fact, None, "never said");
    let nowhere = ids::fact_id(&ids::entity_key(TENANT, "nobody"), 1, FactKind::Fact, None, "never said");
    for path in ["", "/lineage"] {
        for id in [unknown.to_string(), nowhere.to_string(), "nonsense".to_owned(), "%FF".to_owned()] {
            assert_eq!(world.get(&format!("/v1/facts/{id}{path}")).await.status, 404);
        }
        let foreign = request("GET", &format!("/v1/facts/{id}{path}"), "umbrella").body(Body::empty()).unwrap();
        assert_eq!(world.call(foreign).await.status, 404);
        assert_eq!(world.get(&format!("/v1/facts/{id}{path}?x=1")).await.status, 422);
    }
    assert_eq!(world.get(&format!("/internal/v1/facts/{unknown}/forget")).await.status, 404);
}

#[tokio::test]
async fn an_export_is_everything_in_order_and_the_same_whatever_the_order_of_arrival() {
    let mut events = vec![
        event("eve", "b", 10, &[(User, "second"), (Assistant, "ok")]),
        event("eve", "a", 10, &[(User, "first")]),
        event("eve", "c", 0, &[(User, "zeroth")]),
    ];
    let parts = Message {
        message_id: Some("m-1".into()),
        role: Role::User,
        name: Some("Eve".into()),
        content: r#"[{"text":"look","type":"text"}]"#.into(),
        content_format: ContentFormat::Parts,
        created_at: Some(Micros(START_US)),
    };
    events.push(world::with_messages("eve", "d", 100, vec![parts]));
    let mut exports = Vec::new();
    for reversed in [false, true] {
        let mut world = World::sqlite().await;
        let order: Vec<_> = if reversed { events.iter().rev().collect() } else { events.iter().collect() };
        for event in order {
            world.told(event, &[(FactKind::Fact, &format!("fact of {}", event.event_id)), (FactKind::Fact, "said by all")]);
            world.flush().await;
        }
        let answer = world.get("/v1/entities/eve/export").await;
        assert_eq!((answer.status.as_u16(), answer.media_type.as_str()), (200, "application/x-ndjson"));
        let lines = answer.lines();
        let said: Vec<_> = lines.iter().filter(|l| l["type"] == "message").map(|l| l["content"].clone()).collect();
        assert_eq!(
            said,
            [json!("zeroth"), json!("first"), json!("second"), json!("ok"), json!([{"text": "look", "type": "text"}])]
        );
        let facts: Vec<_> = lines.iter().filter(|l| l["kind"] == "fact").map(|l| l["content"].as_str().unwrap()).collect();
        assert_eq!(facts.len(), 5);
        assert!(lines.iter().rposition(|l| l["type"] == "message") < lines.iter().position(|l| l["type"] == "fact"));
        let all = lines.iter().find(|l| l["content"] == "said by all").unwrap();
        assert_eq!((&all["mentions"], all["sources"].as_array().unwrap().len()), (&json!(4), 4));
        assert_eq!(lines[4]["created_at"], "2026-01-01T00:00:00Z");
        exports.push(answer.bytes);
    }
    assert_eq!(exports[0], exports[1]);
    let nobody = World::sqlite().await.get("/v1/entities/nobody/export").await;
    assert_eq!((nobody.status.as_u16(), nobody.bytes.len()), (200, 0));
}

#[tokio::test]
async fn status_is_the_join_of_events_and_outcomes() {
    let mut world = World::sqlite().await;
    let accepted = event("s", "accepted", 0, &[(User, "one")]);
    let applied = event("s", "applied", 1, &[(User, "two")]);
    let dead = event("s", "dead", 2, &[(User, "three")]);
    let ahead = event("s", "ahead", 3, &[(User, "its facts came first")]);
    world.said(&accepted);
    world.told(&applied, &[(FactKind::Fact, "x"), (FactKind::Instruction, "y")]);
    world.said(&dead);
    world.buried(&dead, "the provider refused it");
    world.learned(&ahead, 1, vec![fact(&ahead, 0, FactKind::Fact, "z")]);
    let gone = event("gone", "gone", 0, &[(User, "bye")]);
    world.told(&gone, &[(FactKind::Fact, "w")]);
    world.flush().await;
    world.erased("gone", "x");
    // Two contents under one id: that with the smaller time of acceptance is shown.
    let mut early = event("s", "raced", 5, &[(User, "early")]);
    let late = event("s", "raced", 6, &[(User, "late")]);
    early.accepted_at = Micros(START_US);
    world.told(&late, &[]);
    world.said(&early);
    world.flush().await;

    let all = ["accepted", "applied", "dead", "ahead", "gone", "raced", "nobody"];
    let answer = world.post("/internal/v1/events/status", json!({"event_ids": all})).await.json();
    let events = answer["events"].as_array().unwrap();
    let of = |id: &str| events.iter().find(|e| e["event_id"] == id).cloned().unwrap_or_default();
    assert_eq!(events.len(), 5);
    let time = |minute: i64, more: i64| Micros(START_US + minute * MINUTE_US + more).to_rfc3339();
    assert_eq!(of("accepted"), json!({"event_id": "accepted", "status": "accepted", "accepted_at": time(0, 5), "facts": 0}));
    assert_eq!(
        of("applied"),
        json!({"event_id": "applied", "status": "applied", "accepted_at": time(1, 5), "applied_at": time(1, 105), "facts": 2})
    );
    assert_eq!(
        of("dead"),
        json!({"event_id": "dead", "status": "dead_lettered", "accepted_at": time(2, 5), "facts": 0, "class": "refused",
            "reason": "the provider refused it"})
    );
    assert_eq!(of("gone")["status"], "erased");
    assert_eq!((&of("raced")["status"], &of("raced")["accepted_at"]), (&json!("accepted"), &json!(time(0, 0))));
    for event in events.iter().filter(|e| e["status"] != "erased") {
        let id = event["event_id"].as_str().unwrap();
        let foreign = world.post_as("umbrella", "/internal/v1/events/status", json!({"event_ids": [id]})).await.json();
        assert_eq!(foreign["events"], json!([]));
    }

    let known =
        world.post("/internal/v1/events/known", json!({"event_ids": ["accepted", "gone", "raced", "nobody"]})).await.json();
    let known = known["events"].as_array().unwrap();
    assert_eq!(known.len(), 4);
    assert_eq!(
        known[0],
        json!({"event_id": "accepted", "entity_key": ids::entity_key(TENANT, "s").to_string(),
            "content_hash": accepted.content_hash.to_string(), "accepted_at_us": START_US + 5, "occurred_at_us": START_US,
            "session_id": null, "message_ids": [null], "created_at_us": [null]})
    );
    assert_eq!((&known[1]["occurred_at_us"], &known[1]["message_ids"]), (&json!(null), &json!([])));
    assert_eq!(known[2]["content_hash"], early.content_hash.to_string());
    assert_eq!(known[3]["content_hash"], late.content_hash.to_string());
    for (body, path) in [
        (json!({}), "event_ids"),
        (json!({"event_ids": [1]}), "event_ids[0]"),
        (json!({"event_ids": vec!["x"; 1001]}), "event_ids"),
        (json!({"event_ids": [], "more": 1}), "more"),
    ] {
        for route in ["status", "known", "wait"] {
            let answer = world.post(&format!("/internal/v1/events/{route}"), body.clone()).await;
            assert_eq!(answer.status, 422, "{route} {body}");
            assert_eq!(answer.json()["errors"][0]["path"], path);
        }
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_commit_that_completes_it() {
    let mut world = World::sqlite().await;
    let one = event("w", "one", 0, &[(User, "one")]);
    let two = event("w", "two", 1, &[(User, "two")]);
    world.told(&one, &[]);
    world.said(&two);
    world.flush().await;
    let body = json!({"event_ids": ["one", "two", "two", "three"], "timeout_ms": 0});
    let at_once = world.post("/internal/v1/events/wait", body.clone()).await.json();
    assert_eq!(at_once["complete"], false);
    // Of one that is not final it says where it is: ingest may ask for its extraction.
    let place =
        json!({"event_id": "two", "status": "accepted", "entity_id": "w", "lane": "live", "accepted_at_us": two.accepted_at.0});
    let shown = json!([{"event_id": "one", "status": "applied"}, place, {"event_id": "three", "status": "unknown"}]);
    assert_eq!(at_once["events"], shown);

    let router = world.router.clone();
    let waiting = tokio::spawn(async move {
        let body = json!({"event_ids": ["one", "two", "three"], "timeout_ms": 60_000});
        let request = request("POST", "/internal/v1/events/wait", TENANT).header("content-type", "application/json");
        let response = tower::ServiceExt::oneshot(router, request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    });
    let three = event("w", "three", 2, &[(User, "three")]);
    world.learned(&two, 1, vec![fact(&two, 0, FactKind::Fact, "two is two")]);
    world.flush().await;
    world.said(&three);
    world.buried(&three, "no");
    world.flush().await;
    let answer = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    assert_eq!(answer["complete"], true);
    assert_eq!(answer["events"][1]["status"], "applied");
    assert_eq!(answer["events"][2]["status"], "dead_lettered");

    let nothing = world.post("/internal/v1/events/wait", json!({"event_ids": []})).await.json();
    assert_eq!(nothing, json!({"complete": true, "events": []}));
    let out_of_time = world.post("/internal/v1/events/wait", json!({"event_ids": ["never"], "timeout_ms": 20})).await.json();
    assert_eq!(out_of_time, json!({"complete": false, "events": [{"event_id": "never", "status": "unknown"}]}));
}

#[tokio::test]
async fn a_control_is_waited_for() {
    let mut world = alice().await;
    let ask = |body: Value| world.post("/internal/v1/controls/wait", body);
    let pending = ask(json!({"entity_id": "alice", "forget_id": "f1", "timeout_ms": 10})).await.json();
    assert_eq!(pending, json!({"applied": false}));
    for body in [
        json!({"entity_id": "alice"}),
        json!({"entity_id": "alice", "forget_id": "a", "erasure_id": "b"}),
        json!({"forget_id": "a"}),
        json!({"entity_id": "alice", "forget_id": "a", "timeout_ms": -1}),
    ] {
        assert_eq!(ask(body).await.status, 422);
    }
    let e1 = event("alice", "e1", 0, &[(User, "x")]);
    world.forgotten("alice", &fact(&e1, 0, FactKind::Fact, "y"), "f1");
    world.erased("alice", "x1");
    world.flush().await;
    for control in [json!({"entity_id": "alice", "forget_id": "f1"}), json!({"entity_id": "alice", "erasure_id": "x1"})] {
        assert_eq!(world.post("/internal/v1/controls/wait", control).await.json(), json!({"applied": true}));
    }
}

#[tokio::test]
async fn too_many_waiters_are_refused_and_the_token_is_asked_for() {
    let world = World::sqlite().await;
    let config = memori_writer::api::ApiConfig { max_waiters: 0, ..Default::default() };
    let folder = tempfile::tempdir().unwrap();
    let database = memori_event_log::sqlite::SqliteDatabase::open(&folder.path().join("m.db")).await.unwrap();
    let store = memori_writer::store::sqlite::SqliteStore::new(database.clone());
    let reads = memori_writer::reads::SqliteReads::new(database.reads().clone());
    let mut bounded = World::over(std::sync::Arc::new(store), std::sync::Arc::new(reads), config).await;
    let refused = bounded.post("/internal/v1/events/wait", json!({"event_ids": ["x"], "timeout_ms": 1000})).await;
    assert_eq!((refused.status.as_u16(), refused.media_type.as_str()), (503, "application/problem+json"));

    bounded.router = memori_writer::api::with_internal_token(world.router.clone(), "secret");
    assert_eq!(bounded.get("/v1/entities").await.status, 401);
    for (token, status) in [("Bearer secret", 200), ("Bearer secre", 401), ("secret", 401)] {
        let asked = request("GET", "/v1/entities", TENANT).header("authorization", token).body(Body::empty()).unwrap();
        assert_eq!(bounded.call(asked).await.status.as_u16(), status);
    }
}
