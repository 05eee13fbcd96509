//! "Recall": every option, each by what it changes in the answer.

use serde_json::{Value, json};

use crate::http::Http;
use crate::system::{System, contents};

async fn rita(http: &Http) {
    let user = |text: &str| json!({"role": "user", "content": text});
    for (id, session, process, at, messages) in [
        ("r1", "s1", "p1", "2026-01-01T10:00:00Z", vec![user("I live in Paris.")]),
        ("r2", "s2", "p2", "2026-03-01T10:00:00Z", vec![user("I live in Berlin now."), user("My email is rita@example.com.")]),
        (
            "r3",
            "s2",
            "p2",
            "2026-03-02T10:00:00Z",
            vec![
                user("From now on, always answer in French."),
                user("Always use metric units."),
                user("I play the violin in an orchestra."),
                json!({"role": "assistant", "content": "Noted, Rita."}),
            ],
        ),
    ] {
        http.learn(json!({"event_id": id, "entity_id": "rita", "session_id": session, "process_id": process, "occurred_at": at,
            "messages": messages}))
            .await;
    }
}

const QUERY: &str = "where does she live";

#[tokio::test(flavor = "multi_thread")]
async fn every_option_changes_what_it_says() {
    let system = System::open().await;
    let http = &system.http;
    rita(http).await;
    // Digests tell of the past, too: here it is facts that are looked at.
    let recall = async |options: Value| {
        let mut of_facts = json!({"kinds": ["fact"]});
        of_facts.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
        http.recall("rita", QUERY, of_facts).await
    };
    let home = |answer: &Value, place: &str| contents(&answer["facts"]).iter().any(|content| content.contains(place));

    let plain = recall(json!({})).await;
    assert!(contents(&plain["facts"])[0].contains("Berlin"), "{plain}");
    assert!(!home(&plain, "Paris"), "what was superseded is not shown: {plain}");
    assert_eq!(plain["instructions"].as_array().map(Vec::len), Some(2), "{plain}");
    assert!(plain.get("messages").is_none() && plain["took_ms"].is_number(), "{plain}");
    let fact = plain["facts"][0].as_object().expect("a fact");
    for name in [
        "fact_id",
        "kind",
        "content",
        "score",
        "subject",
        "predicate",
        "object",
        "occurred_at",
        "first_mentioned_at",
        "last_mentioned_at",
        "mentions",
        "valid_from",
        "valid_to",
        "sources",
        "extractor",
        "generation",
    ] {
        assert!(fact.contains_key(name), "no {name}: {plain}");
    }
    let source = json!({"event_id": "r2", "message_id": "r2#0", "session_id": "s2", "occurred_at": "2026-03-01T10:00:00Z"});
    assert_eq!(fact["sources"], json!([source]));
    let scores: Vec<f64> = plain["facts"].as_array().expect("facts").iter().filter_map(|fact| fact["score"].as_f64()).collect();
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)) && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let explicit = json!({"limit": 5, "kinds": ["fact", "attribute", "summary", "timeline"], "instruction_limit": 3, "process_id": null,
        "session_id": null, "as_of": null, "include_superseded": false, "include_messages": false, "token_budget": null, "min_score": null,
        "explain": false, "vectors": true});
    let default = http.recall("rita", QUERY, json!({})).await;
    assert_eq!(recall(explicit).await["facts"], default["facts"], "these are the defaults");
    assert!(contents(&default["facts"])[0].contains("Berlin"), "a fact before the digests that repeat it: {default}");

    let all = recall(json!({"include_superseded": true, "limit": 100})).await;
    assert!(home(&all, "Paris") && home(&all, "Berlin"), "{all}");
    let ended = all["facts"].as_array().expect("facts").iter().find(|fact| fact["object"] == "Paris").expect("Paris");
    assert_eq!((&ended["valid_from"], &ended["valid_to"]), (&json!("2026-01-01T10:00:00Z"), &json!("2026-03-01T10:00:00Z")));

    let then = recall(json!({"as_of": "2026-02-01T00:00:00Z"})).await;
    assert!(home(&then, "Paris") && !home(&then, "Berlin") && then["instructions"] == json!([]), "{then}");
    let before = recall(json!({"as_of": "2025-01-01T00:00:00+05:00"})).await;
    assert_eq!((&before["facts"], &before["instructions"]), (&json!([]), &json!([])));

    let one = recall(json!({"limit": 1, "include_messages": true})).await;
    assert_eq!((one["facts"].as_array().map(Vec::len), one["messages"].as_array().map(Vec::len)), (Some(1), Some(1)), "{one}");
    assert_eq!(recall(json!({"limit": 1_000})).await["facts"].as_array().map(Vec::len), plain["facts"].as_array().map(Vec::len));
    for (limit, expected) in [(0, 0), (1, 1), (1_000, 2)] {
        let answer = recall(json!({"instruction_limit": limit})).await;
        assert_eq!(answer["instructions"].as_array().map(Vec::len), Some(expected), "{answer}");
        assert_eq!(answer["facts"], plain["facts"], "instructions never compete with facts");
        assert!(answer["instructions"].as_array().expect("a list").iter().all(|one| one["kind"] == "instruction"));
    }
    let course = recall(json!({"kinds": ["timeline"]})).await;
    assert!(home(&course, "Paris (2026-01-01) → Berlin (2026-03-01)"), "{course}");
    assert_eq!(recall(json!({"kinds": ["attribute"]})).await["facts"], json!([]));
    assert_eq!(recall(json!({"kinds": ["fact"]})).await["facts"], plain["facts"]);

    let of_session = recall(json!({"session_id": "s1", "include_superseded": true})).await;
    assert!(home(&of_session, "Paris") && !home(&of_session, "Berlin"), "{of_session}");
    let of_process = recall(json!({"process_id": "p2", "include_messages": true, "limit": 100})).await;
    assert!(home(&of_process, "Berlin") && of_process["messages"].as_array().map(Vec::len) == Some(6), "{of_process}");
    assert_eq!(recall(json!({"session_id": "nobody's"})).await["facts"], json!([]));

    let best = scores[0];
    let strong = recall(json!({"min_score": best})).await;
    assert_eq!(strong["facts"].as_array().map(Vec::len), Some(scores.iter().filter(|score| **score >= best).count()), "{strong}");
    assert_eq!(recall(json!({"token_budget": 0})).await["facts"], json!([]));
    let few = recall(json!({"token_budget": 12})).await["facts"].as_array().map_or(0, Vec::len);
    assert!(few >= 1 && few < scores.len(), "{few} facts within 12 tokens, {} without a bound", scores.len());

    let said = recall(json!({"include_messages": true, "limit": 100})).await;
    let messages = said["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 7);
    for message in messages {
        for name in ["message_id", "event_id", "session_id", "role", "content", "occurred_at", "score"] {
            assert!(message.get(name).is_some(), "no {name}: {message}");
        }
    }
    assert!(messages.iter().any(|message| message["role"] == "assistant" && message["content"] == "Noted, Rita."));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explained_answer_says_what_it_is_made_of_and_is_the_same_answer() {
    let system = System::open().await;
    let http = &system.http;
    rita(http).await;
    let recall = async |options: Value| http.recall("rita", QUERY, options).await;
    let plain = recall(json!({"include_messages": true, "limit": 100})).await;
    let explained = recall(json!({"include_messages": true, "limit": 100, "explain": true})).await;
    let signs = [
        "bm25",
        "role",
        "neighbour",
        "person_two_away",
        "session",
        "window",
        "speaker",
        "length",
        "vector",
        "vector_context",
        "vector_neighbour",
        "time",
        "question",
    ];
    for list in ["facts", "instructions", "messages"] {
        let (items, bare) = (explained[list].as_array().expect("a list"), plain[list].as_array().expect("a list"));
        assert!(!items.is_empty() && items.len() == bare.len(), "{explained}");
        let mut last = f64::INFINITY;
        for (item, bare) in items.iter().zip(bare) {
            assert!(bare.get("score_parts").is_none() && bare.get("score_raw").is_none(), "{bare}");
            assert_eq!((&item["content"], &item["score"]), (&bare["content"], &bare["score"]));
            let parts = item["score_parts"].as_object().expect("parts");
            assert!(parts.keys().all(|name| signs.contains(&name.as_str())), "{item}");
            let sum: f64 = parts.values().map(|part| part.as_f64().expect("a number")).sum();
            let raw = item["score_raw"].as_f64().expect("a number");
            assert!((sum - raw).abs() < 1e-5, "{item}");
            assert!(raw <= last, "sorted by the raw score: {explained}");
            last = raw;
        }
    }
    assert!(plain.get("ranking").is_none(), "{plain}");
    let ranking = explained["ranking"].as_object().expect("how it was ranked");
    match ranking["recipe"].as_str() {
        Some("vectors") => assert!(ranking["model"].is_string() && ranking["reason"].is_null(), "{explained}"),
        Some("lexical") => assert!(ranking["model"].is_null() && ranking["reason"].is_string(), "{explained}"),
        _ => panic!("{explained}"),
    }
    let by_words = recall(json!({"explain": true, "vectors": false})).await;
    assert_eq!(by_words["ranking"], json!({"recipe": "lexical", "model": null, "reason": "not_wanted"}));
    let nobody = http.recall("nobody", QUERY, json!({"explain": true})).await;
    assert_eq!(nobody["ranking"]["recipe"], "lexical", "{nobody}");
    for (field, value) in [("explain", json!(1)), ("vectors", json!("no"))] {
        let refused = http.post("/v1/recall", &json!({"entity_id": "rita", "query": QUERY, field: value})).await.ok(422).json;
        assert_eq!(refused["errors"][0]["path"], field, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_strangers() {
    let system = System::open().await;
    let http = &system.http;
    rita(http).await;
    let query = |entity: &str, query: &str| json!({"entity_id": entity, "query": query});
    let nothing = http.recall("nobody", QUERY, json!({"include_messages": true})).await;
    assert_eq!((&nothing["facts"], &nothing["instructions"], &nothing["messages"]), (&json!([]), &json!([]), &json!([])));
    for odd in ["", " ", "?!", "'; DROP TABLE facts; --", "\" OR 1=1", "* AND NEAR(", "漢字", "😀", "a\u{301}\u{200d}"] {
        http.recall("rita", odd, json!({"include_messages": true})).await;
    }
    http.recall("rita", &"violin ".repeat(9_000), json!({})).await;

    let mut queries =
        vec![query("rita", QUERY), json!(7), query("nobody", QUERY), query("rita", "which instrument does she play")];
    let answer = http.post("/v1/recall/batch", &json!({"queries": queries})).await.ok(200).json;
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 4);
    assert!(contents(&results[0]["facts"])[0].contains("Berlin"), "{answer}");
    assert_eq!(results[1]["error"]["status"], 422, "{answer}");
    assert_eq!(results[2]["facts"], json!([]));
    assert!(contents(&results[3]["facts"])[0].contains("violin"), "{answer}");
    queries.resize(100, query("rita", QUERY));
    let answer = http.post("/v1/recall/batch", &json!({"queries": queries})).await.ok(200).json;
    assert_eq!(answer["results"].as_array().map(Vec::len), Some(100));
    assert_eq!(http.post("/v1/recall/batch", &json!({"queries": []})).await.ok(200).json, json!({"results": []}));
}
