//! Digests by rules through the API: recalled by kind, listed, found by id, with lineage, exported, forgotten.

mod world;

use memori_schemas::{FactId, FactKind, ForgetFact, MessageKey, Micros, Role, TextHash, ids};
use serde_json::{Value, json};
use world::{START_US, TENANT, World, contents, event, fact};

const DAY_MINUTES: i64 = 1_440;

/// Three visits to the gym on three days, and on the last day three other things.
async fn alice() -> World {
    let mut world = World::sqlite().await;
    for (n, texts) in [
        &["Alice went to the gym with Tom"][..],
        &["Alice has a new gym card"],
        &["Alice left the gym early", "Alice likes green tea", "Alice owns a boat", "Alice works as a nurse"],
    ]
    .iter()
    .enumerate()
    {
        let n = i64::try_from(n).unwrap();
        let mut said = event("alice", &format!("e{n}"), n * DAY_MINUTES, &[(Role::User, &texts.join(". "))]);
        said.session_id = Some(format!("s{n}"));
        world.said(&said);
        world.learned(&said, 1, texts.iter().map(|text| fact(&said, 0, FactKind::Fact, text)).collect());
        world.flush().await;
    }
    world
}

/// The digest of a kind and subject, where there is one.
async fn find(world: &World, kind: &str, subject: &str) -> Option<Value> {
    let answer = world.recall(json!({"entity_id": "alice", "query": "gym", "kinds": [kind], "limit": 100})).await;
    answer["facts"].as_array().unwrap().iter().find(|fact| fact["subject"] == subject).cloned()
}

async fn digest(world: &World, kind: &str, subject: &str) -> Value {
    find(world, kind, subject).await.expect("it is there")
}

#[tokio::test]
async fn digests_are_recalled_by_kind_and_read_as_facts_are() {
    let world = alice().await;
    let timeline = digest(&world, "timeline", "gym").await;
    assert_eq!(
        timeline["content"],
        "gym, 3 times: 2026-01-01 Alice went to the gym with Tom; 2026-01-02 Alice has a new gym card; \
         2026-01-03 Alice left the gym early"
    );
    assert_eq!(
        (&timeline["subject"], &timeline["mentions"], &timeline["extractor"]),
        (&json!("gym"), &json!(3), &json!("digests/1"))
    );
    assert_eq!(
        (&timeline["first_mentioned_at"], &timeline["last_mentioned_at"]),
        (&json!("2026-01-01T00:00:00Z"), &json!("2026-01-03T00:00:00Z"))
    );
    let sessions: Vec<&str> = timeline["sources"].as_array().unwrap().iter().map(|s| s["session_id"].as_str().unwrap()).collect();
    assert_eq!(sessions, ["s0", "s1", "s2"]);
    let summary = digest(&world, "summary", "s2").await;
    assert_eq!((&summary["subject"], &summary["mentions"]), (&json!("s2"), &json!(1)));
    assert!(summary["content"].as_str().unwrap().starts_with("2026-01-03: "), "{summary}");

    // A plain question is answered by its fact first.
    let plain = world.recall(json!({"entity_id": "alice", "query": "does Alice have a gym card"})).await;
    assert_eq!(contents(&plain["facts"])[0], "Alice has a new gym card");
    // What was not known yet is not shown.
    let before = Micros(START_US + DAY_MINUTES * world::MINUTE_US + 1).to_rfc3339();
    let then =
        world.recall(json!({"entity_id": "alice", "query": "gym", "kinds": ["timeline", "summary"], "as_of": before})).await;
    assert_eq!(then["facts"], json!([]));
    for (scope, there) in
        [(json!({"session_id": "s0"}), true), (json!({"session_id": "s2"}), true), (json!({"session_id": "s9"}), false)]
    {
        let mut body = json!({"entity_id": "alice", "query": "gym", "kinds": ["timeline", "summary"]});
        body.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
        let found = world.recall(body).await;
        assert_eq!(
            found["facts"].as_array().unwrap().iter().any(|fact| fact["fact_id"] == timeline["fact_id"]),
            there,
            "{scope}"
        );
    }

    let id = timeline["fact_id"].as_str().unwrap();
    let listed = world.get("/v1/entities/alice/facts?kind=timeline").await.json();
    assert_eq!(listed["facts"].as_array().unwrap().iter().filter(|fact| fact["fact_id"] == id).count(), 1, "{listed}");
    let shown = world.get(&format!("/v1/facts/{id}")).await.json();
    assert_eq!((&shown["content"], &shown["confidence"]), (&timeline["content"], &json!(0.75)));
    assert_eq!(shown["validity"], json!([{"valid_from": "2026-01-03T00:00:00Z", "valid_to": null}]));
    let lineage = world.get(&format!("/v1/facts/{id}/lineage")).await.json();
    let events: Vec<&str> = lineage["mentions"].as_array().unwrap().iter().map(|m| m["event_id"].as_str().unwrap()).collect();
    assert_eq!(events, ["e0", "e1", "e2"]);
    assert_eq!(contents(&lineage["mentions"])[1], "Alice has a new gym card");
    assert_eq!(lineage["mentions"][0]["tokens_in"], 11, "{lineage}");
    let export = world.get("/v1/entities/alice/export").await.lines();
    let of_kind = |kind: &str| export.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((of_kind("fact"), of_kind("summary")), (6, 1));
    assert_eq!(export.iter().filter(|line| line["fact_id"] == id).count(), 1);
    assert_eq!(
        world
            .call(world::request("GET", &format!("/v1/facts/{id}"), "other").body(axum::body::Body::empty()).unwrap())
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_digest_is_forgotten_with_its_messages_and_comes_back_of_new_ones() {
    let mut world = alice().await;
    let timeline = digest(&world, "timeline", "gym").await;
    let id = timeline["fact_id"].as_str().unwrap().to_owned();
    let target = world.get(&format!("/internal/v1/facts/{id}/forget")).await.json();
    assert_eq!((&target["entity_id"], &target["triple_hash"]), (&json!("alice"), &json!(null)));
    let bytes = |value: &Value| -> [u8; 16] {
        let hex = value.as_str().unwrap();
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    };
    let message_keys: Vec<MessageKey> =
        target["message_keys"].as_array().unwrap().iter().map(|key| MessageKey(bytes(key))).collect();
    assert_eq!(message_keys.len(), 3);
    world.forget(ForgetFact {
        tenant: TENANT.into(),
        entity_id: "alice".into(),
        forget_id: "f1".into(),
        fact_id: id.clone(),
        requested_at: Micros(START_US),
        text_hash: TextHash(bytes(&target["text_hash"])),
        triple_hash: None,
        message_keys,
        key_id: None,
    });
    world.flush().await;
    assert_eq!(find(&world, "timeline", "gym").await, None);
    assert_eq!(world.get(&format!("/v1/facts/{id}")).await.status, 404);
    // The facts that it gathered are still known, and so is the other digest.
    let facts = world.recall(json!({"entity_id": "alice", "query": "gym", "kinds": ["fact"]})).await;
    assert_eq!(facts["facts"].as_array().unwrap().len(), 5, "limited");
    digest(&world, "summary", "s2").await;

    for (n, text) in (10..).zip(["Alice swam at the gym", "The gym was closed", "Alice found a cheaper gym"]) {
        let said = event("alice", &format!("g{n}"), n * DAY_MINUTES, &[(Role::User, text)]);
        world.told(&said, &[(FactKind::Fact, text)]);
    }
    world.flush().await;
    let again = digest(&world, "timeline", "gym").await;
    assert_eq!(again["fact_id"], id);
    let content = again["content"].as_str().unwrap();
    assert!(content.starts_with("gym, 3 times: 2026-01-11") && !content.contains("Tom"), "{content}");
    // Their own ids never meet those of facts.
    let key = ids::entity_key(TENANT, "alice");
    assert_ne!(FactId(id.parse().unwrap()), ids::fact_id(&key, 1, FactKind::Timeline, Some("gym"), content));
}
