//! Every error that the contract names, by route; on the way, that the next request finds the service as it was.

use serde_json::{Value, json};

use crate::http::Http;
use crate::system::{System, event};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

async fn check(http: &Http, path: &str, content_type: &str, body: &[u8], status: u16, fields: &[&str]) {
    let answer = http.post_bytes(path, content_type, body).await;
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    assert_eq!(answer.status, status, "POST {path} {shown}: {:.1000}", answer.text());
    assert_eq!(answer.paths(), fields, "POST {path} {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_methods_that_are_not_there() {
    let system = System::open().await;
    let http = &system.http;
    for path in [
        "/",
        "/v1",
        "/v2/events",
        "/v1/nope",
        "/v1/events/",
        "/v1/events/a/b",
        "/v1/entities//facts",
        "/v1/facts/",
        "/internal/v1/events/status",
        "/internal/v1/events/wait",
        "/v1/entities/a/facts/",
        "/V1/events",
        "//v1/events",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            http.send(method, path, &[], None).await.ok(404);
        }
    }
    let routes = [
        ("/v1/events", "POST"),
        ("/v1/events/batch", "GET, HEAD, POST"),
        ("/v1/events/wait", "GET, HEAD, POST"),
        ("/v1/events/e", "GET, HEAD"),
        ("/v1/recall", "POST"),
        ("/v1/recall/batch", "POST"),
        ("/v1/entities", "GET, HEAD"),
        ("/v1/entities/a", "DELETE"),
        ("/v1/entities/a/facts", "GET, HEAD"),
        ("/v1/entities/a/export", "GET, HEAD"),
        ("/v1/facts/f", "DELETE, GET, HEAD"),
        ("/v1/facts/f/lineage", "GET, HEAD"),
        ("/v1/erasures/e", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
    ];
    for (path, allowed) in routes {
        for method in ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW", "GET", "POST", "DELETE"] {
            if allowed.split(", ").any(|one| one == method) {
                continue;
            }
            let answer = http.send(method, path, &[], None).await.ok(405);
            let mut allow: Vec<&str> = answer.header("allow").unwrap_or_default().split(',').map(str::trim).collect();
            allow.sort_unstable();
            assert_eq!(allow.join(", "), allowed, "{method} {path}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/entities"] {
        let answer = http.send("HEAD", path, &[], None).await.ok(200);
        assert!(answer.body.is_empty(), "HEAD {path} has a body");
        http.get(path).await.ok(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_refused() {
    let system = System::open().await;
    let http = &system.http;
    let posts = ["/v1/events", "/v1/events/batch", "/v1/events/wait", "/v1/recall", "/v1/recall/batch"];
    for path in posts {
        for body in ["", "{", "nul", "{} x", "{\"a\":NaN}", "[\"\\ud8zz\"]"] {
            check(http, path, JSON, body.as_bytes(), 400, &[]).await;
        }
        // A batch does not look into what it does not know: there it is an unknown field.
        if path != "/v1/events/batch" {
            for body in ["{\"a\":\"\\ud800\"}", "{\"a\":\"\\udc00x\"}", "[\"\\udc00\\ud800\"]"] {
                check(http, path, JSON, body.as_bytes(), 400, &[]).await;
            }
        }
        check(http, path, JSON, b"{\"a\":\"\xff\"}", 400, &[]).await;
        for body in ["[]", "7", "null", "\"text\""] {
            check(http, path, JSON, body.as_bytes(), 422, &[""]).await;
        }
        for other in ["text/plain", "application/xml", "application/json; charset=utf-16", "application/x-www-form-urlencoded"] {
            check(http, path, other, b"{}", 415, &[]).await;
        }
        http.send("POST", path, &[], Some(b"{}")).await.ok(415);
        for encoding in ["gzip", "br", "zstd"] {
            http.send("POST", path, &[("content-type", JSON), ("content-encoding", encoding)], Some(b"{}")).await.ok(415);
        }
        let unknown = http.post(&format!("{path}?dry_run=1"), &json!({})).await.ok(422);
        assert_eq!(unknown.paths(), ["dry_run"]);
    }
    for path in ["/v1/events", "/v1/events/wait", "/v1/recall", "/v1/recall/batch"] {
        check(http, path, NDJSON, b"{}\n", 415, &[]).await;
    }
    let over = |bytes: usize| vec![b' '; bytes + 1];
    for (path, content_type, bound) in [
        ("/v1/events", JSON, 1 << 20),
        ("/v1/events/batch", JSON, 16 << 20),
        ("/v1/events/batch", NDJSON, 16 << 20),
        ("/v1/events/wait", JSON, 4 << 20),
        ("/v1/recall", JSON, 1 << 20),
        ("/v1/recall/batch", JSON, 16 << 20),
    ] {
        check(http, path, content_type, &over(bound), 413, &[]).await;
    }
    // Exactly at the bound of bytes is fine.
    let mut largest = event("largest", "a", "x").to_string();
    largest.push_str(&" ".repeat((1 << 20) - largest.len()));
    http.post_bytes("/v1/events", JSON, largest.as_bytes()).await.ok(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_are_refused_by_path() {
    let system = System::open().await;
    let http = &system.http;
    let long = |bytes: usize| "x".repeat(bytes);
    let message = |change: Value| {
        let mut message = json!({"role": "user", "content": "x"});
        for (name, value) in change.as_object().into_iter().flatten() {
            message[name] = value.clone();
        }
        json!({"entity_id": "a", "messages": [{"role": "user", "content": "fine"}, message]})
    };
    let with = |change: Value| {
        let mut whole = json!({"entity_id": "a", "messages": [{"role": "user", "content": "x"}]});
        for (name, value) in change.as_object().into_iter().flatten() {
            whole[name] = value.clone();
        }
        whole
    };
    let many_entries: Value = (0..65).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    let events: Vec<(Value, &[&str])> = vec![
        (json!({}), &["entity_id", "messages"]),
        (with(json!({"entity_id": ""})), &["entity_id"]),
        (with(json!({"entity_id": long(257)})), &["entity_id"]),
        (with(json!({"entity_id": "é".repeat(129)})), &["entity_id"]),
        (with(json!({"entity_id": 7})), &["entity_id"]),
        (with(json!({"entity_id": "a\0"})), &["entity_id"]),
        (with(json!({"event_id": ""})), &["event_id"]),
        (with(json!({"event_id": long(129)})), &["event_id"]),
        (with(json!({"event_id": "a\0"})), &["event_id"]),
        (with(json!({"process_id": long(257)})), &["process_id"]),
        (with(json!({"session_id": long(257), "process_id": 1})), &["process_id", "session_id"]),
        (with(json!({"session_id": "\0"})), &["session_id"]),
        (with(json!({"occurred_at": "yesterday"})), &["occurred_at"]),
        (with(json!({"occurred_at": "2026-01-01T00:00:00"})), &["occurred_at"]),
        (with(json!({"occurred_at": 1_700_000_000})), &["occurred_at"]),
        (with(json!({"messages": []})), &["messages"]),
        (with(json!({"messages": {}})), &["messages"]),
        (with(json!({"messages": vec![json!({"role": "user", "content": ""}); 1_001]})), &["messages"]),
        (with(json!({"messages": ["x"]})), &["messages[0]"]),
        (with(json!({"metadata": {"a": 1}})), &["metadata.a"]),
        (with(json!({"metadata": []})), &["metadata"]),
        (with(json!({"metadata": many_entries})), &["metadata"]),
        (with(json!({"metadata": {"k": "a\0"}})), &["metadata.k"]),
        (with(json!({"surprise": 1})), &["surprise"]),
        (message(json!({"role": "robot"})), &["messages[1].role"]),
        (message(json!({"role": null})), &["messages[1].role"]),
        (message(json!({"content": null})), &["messages[1].content"]),
        (message(json!({"content": 7})), &["messages[1].content"]),
        (message(json!({"content": "a\0b"})), &["messages[1].content"]),
        (message(json!({"content": [7]})), &["messages[1].content[0]"]),
        (message(json!({"content": [{"type": "text", "text": "\0"}]})), &["messages[1].content[0]"]),
        (message(json!({"message_id": long(257)})), &["messages[1].message_id"]),
        (message(json!({"name": "a\0"})), &["messages[1].name"]),
        (message(json!({"created_at": "noon"})), &["messages[1].created_at"]),
        (message(json!({"colour": 1})), &["messages[1].colour"]),
    ];
    for (body, paths) in &events {
        check(http, "/v1/events", JSON, body.to_string().as_bytes(), 422, paths).await;
        // The same event in a batch is refused alone, in the same words.
        let batch = json!({"events": [body, event("", "a", "x")]});
        let answer = http.post("/v1/events/batch", &batch).await.ok(200).json;
        assert_eq!(answer["results"][0]["status"], "rejected", "{answer}");
        let problem = &answer["results"][0]["error"];
        assert_eq!(problem["status"], 422, "{answer}");
        assert!(
            problem["errors"]
                .as_array()
                .expect("errors")
                .iter()
                .map(|e| e["path"].as_str().unwrap_or_default())
                .eq(paths.iter().copied()),
            "{problem}"
        );
    }
    let twice = json!({"entity_id": "a", "messages": [{"role": "user", "content": "x", "message_id": "m"}, {"role": "user", "content": "y", "message_id": "m"}]});
    check(http, "/v1/events", JSON, twice.to_string().as_bytes(), 422, &["messages[1].message_id"]).await;
    check(
        http,
        "/v1/events",
        JSON,
        br#"{"entity_id":"a","entity_id":"b","messages":[{"role":"user","content":"x"}]}"#,
        422,
        &["entity_id"],
    )
    .await;

    let ids = |n: usize| (0..n).map(|n| json!(n.to_string())).collect::<Vec<_>>();
    let waits: Vec<(Value, &[&str])> = vec![
        (json!({}), &["event_ids"]),
        (json!({"event_ids": "a"}), &["event_ids"]),
        (
            json!({"event_ids": [7, "fine", "", "a\0", long(129)]}),
            &["event_ids[0]", "event_ids[2]", "event_ids[3]", "event_ids[4]"],
        ),
        (json!({"event_ids": ids(1_001)}), &["event_ids"]),
        (json!({"event_ids": [], "timeout_ms": -1}), &["timeout_ms"]),
        (json!({"event_ids": [], "timeout_ms": "1"}), &["timeout_ms"]),
        (json!({"event_ids": [], "until": 1}), &["until"]),
    ];
    for (body, paths) in waits {
        check(http, "/v1/events/wait", JSON, body.to_string().as_bytes(), 422, paths).await;
    }
    let recall = |change: Value| {
        let mut whole = json!({"entity_id": "a", "query": "x"});
        for (name, value) in change.as_object().into_iter().flatten() {
            whole[name] = value.clone();
        }
        whole
    };
    let recalls: Vec<(Value, &[&str])> = vec![
        (json!({}), &["entity_id", "query"]),
        (recall(json!({"entity_id": long(257)})), &["entity_id"]),
        (recall(json!({"query": "a\0"})), &["query"]),
        (recall(json!({"limit": 0})), &["limit"]),
        (recall(json!({"limit": 1_001})), &["limit"]),
        (recall(json!({"limit": 2.5})), &["limit"]),
        (recall(json!({"kinds": ["fact", "instruction", 7]})), &["kinds[1]", "kinds[2]"]),
        (recall(json!({"kinds": "fact"})), &["kinds"]),
        (recall(json!({"instruction_limit": -1, "as_of": "then"})), &["instruction_limit", "as_of"]),
        (recall(json!({"include_superseded": 1, "include_messages": "yes"})), &["include_superseded", "include_messages"]),
        (recall(json!({"token_budget": -1, "min_score": 1.1})), &["token_budget", "min_score"]),
        (recall(json!({"process_id": 7, "session_id": []})), &["process_id", "session_id"]),
        (recall(json!({"top_k": 5})), &["top_k"]),
    ];
    for (body, paths) in &recalls {
        check(http, "/v1/recall", JSON, body.to_string().as_bytes(), 422, paths).await;
        let batch = http.post("/v1/recall/batch", &json!({"queries": [body, recall(json!({}))]})).await.ok(200).json;
        assert_eq!(batch["results"][0]["error"]["status"], 422, "{batch}");
        assert!(batch["results"][1]["facts"].is_array(), "{batch}");
    }
    let too_many = json!({"queries": vec![recall(json!({})); 101]});
    check(http, "/v1/recall/batch", JSON, too_many.to_string().as_bytes(), 422, &["queries"]).await;
    check(http, "/v1/recall/batch", JSON, b"{}", 422, &["queries"]).await;

    for (path, fields) in [
        ("/v1/entities?limit=0", &["limit"][..]),
        ("/v1/entities?limit=1001", &["limit"]),
        ("/v1/entities?limit=ten&cursor=what", &["limit", "cursor"]),
        ("/v1/entities?page=2", &["page"]),
        ("/v1/entities?limit=1&limit=2", &["limit"]),
        ("/v1/entities/a/facts?kind=rumour", &["kind"]),
        ("/v1/entities/a/facts?cursor=00", &["cursor"]),
        ("/v1/entities/a/export?format=csv", &["format"]),
        ("/v1/facts/00000000-0000-8000-8000-000000000000?x=1", &["x"]),
        ("/v1/events/e?verbose=1", &["verbose"]),
        ("/v1/erasures/e?x=1", &["x"]),
    ] {
        assert_eq!(http.get(path).await.ok(422).paths(), fields, "GET {path}");
    }
    for path in ["/v1/entities/a?dry_run=true", "/v1/facts/00000000-0000-8000-8000-000000000000?dry_run=true"] {
        assert_eq!(http.delete(path).await.ok(422).paths(), ["dry_run"], "DELETE {path}");
    }
    let giant = "a".repeat(257);
    for id in ["%ff", "%00", "%c3%28", giant.as_str()] {
        http.get(&format!("/v1/entities/{id}/facts")).await.ok(422);
        http.get(&format!("/v1/entities/{id}/export")).await.ok(422);
        http.delete(&format!("/v1/entities/{id}")).await.ok(422);
    }
    for id in ["x", "%F0%9F%98%80", "00000000-0000-8000-8000-000000000000"] {
        http.get(&format!("/v1/facts/{id}")).await.ok(404);
        http.get(&format!("/v1/facts/{id}/lineage")).await.ok(404);
        http.delete(&format!("/v1/facts/{id}")).await.ok(404);
        http.get(&format!("/v1/erasures/{id}")).await.ok(404);
        http.get(&format!("/v1/events/{id}")).await.ok(404);
    }
    assert!(http.all_facts("a", 10).await.len() <= 1, "what was refused was learned");
}
