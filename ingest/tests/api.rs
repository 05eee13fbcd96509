//! Every route and every error of the contract, against a log in memory and a writer that knows what it is told.
#![allow(missing_docs, reason = "a test binary")]

mod common;

use std::time::Duration;

use axum::body::Body;
use common::{Door, FakeLog, FakeWriter, Mode, event, json_request};
use http::{Request, StatusCode};
use memori_event_log::Topic;
use memori_ingest::backfill::BackfillsConfig;
use memori_ingest::{IngestConfig, Lookup, OPENAPI, routes};
use memori_schemas::{LogRecordBody, framing, ids};
use memori_service::auth::KeyRing;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn an_event_is_accepted_once_and_stands_on_the_log() {
    let door = Door::open().await;
    let answer = door.post("/v1/events", &event("e1", "alice", "I like tea. <memori_context>old</memori_context>")).await;
    assert_eq!(answer.ok(202).body, json!({"event_id": "e1", "status": "accepted", "durable_in": "log"}));
    let again = door.post("/v1/events", &event("e1", "alice", "I like tea. ")).await;
    assert_eq!(again.ok(202).body["status"], "duplicate");
    door.post("/v1/events", &event("e1", "alice", "I like coffee.")).await.problem(409);
    door.post("/v1/events", &event("e1", "bob", "I like tea. ")).await.problem(409);

    let records = door.log.records(Topic::ConversationsLive);
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record.key, ids::log_key("default", "alice"));
    assert_eq!(record.header("tenant"), Some(b"default".as_slice()));
    assert_eq!(record.header("lane"), Some(b"live".as_slice()));
    assert_eq!(record.header("schema").map(<[u8]>::len), Some(16));
    let stored = &door.log.events()[0];
    assert_eq!(stored.messages[0].content, "I like tea. ");
    assert!(stored.supplied.event_id && !stored.supplied.occurred_at && !stored.spooled);
    assert_eq!(stored.occurred_at, stored.accepted_at);
    assert_eq!(stored.content_hash, ids::content_hash("alice", None, &stored.messages, &stored.metadata));
}

#[tokio::test]
async fn an_event_without_id_gets_one_and_is_never_a_duplicate() {
    let door = Door::open().await;
    let body = json!({"entity_id": "a", "messages": [{"role": "user", "content": "x"}]});
    let first = door.post("/v1/events", &body).await.ok(202).body["event_id"].as_str().unwrap().to_owned();
    let second = door.post("/v1/events", &body).await.ok(202).body.clone();
    assert_eq!(second["status"], "accepted");
    assert_ne!(second["event_id"], first.as_str());
    assert_eq!(uuid::Uuid::parse_str(&first).unwrap().get_version_num(), 7);
    assert!(!door.log.events()[0].supplied.event_id);
    assert_eq!(door.writer.inner().known_asked, 0, "our own ids are not looked up");
}

#[tokio::test]
async fn the_callers_trace_goes_on_with_the_record() {
    let door = Door::open().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = json_request("POST", "/v1/events", event("e", "a", "x").to_string());
    request.headers_mut().insert("traceparent", parent.parse().unwrap());
    door.send(request).await.ok(202);
    assert_eq!(door.log.records(Topic::ConversationsLive)[0].header("traceparent"), Some(parent.as_bytes()));
}

#[tokio::test]
async fn errors_of_a_body_are_those_of_the_contract() {
    let door = Door::open().await;
    let plain = |body: &str| Request::post("/v1/events").body(Body::from(body.to_owned())).unwrap();
    door.send(plain("{}")).await.problem(415);
    door.send(json_request("POST", "/v1/events", "{")).await.problem(400);
    door.send(json_request("POST", "/v1/events", "{\"entity_id\":\"\\ud800\"}")).await.problem(400);
    door.send(json_request("POST", "/v1/events", vec![b'x'; (1 << 20) + 1])).await.problem(413);
    door.send(json_request("POST", "/v1/events/batch", vec![b' '; (16 << 20) + 1])).await.problem(413);
    let answer = door.post("/v1/events", &json!({"messages": [{"role": "robot", "content": "x"}], "more": 1})).await;
    let paths: Vec<&str> =
        answer.problem(422).body["errors"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["entity_id", "messages[0].role", "more"]);
    assert!(door.log.events().is_empty());
    door.post("/v1/nothing", &json!({})).await.problem(404);
    door.get("/v1/entities//facts").await.problem(404);
}

#[tokio::test]
async fn every_route_is_there_and_every_other_method_is_405() {
    let door = Door::open().await;
    for route in &routes::ROUTES {
        let path = route
            .path
            .replace("{entity_id}", "a")
            .replace("{event_id}", "e")
            .replace("{fact_id}", "f")
            .replace("{erasure_id}", "x");
        let answer = door.send(json_request(route.method.as_str(), &path, "{}")).await;
        assert_ne!(answer.status, 405, "{} {path}", route.method);
        assert!(answer.status != 404 || answer.body["detail"] != "no such route", "{} {path}", route.method);
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let declared = routes::find(route.path, &method.parse().unwrap()).is_some();
            if !declared {
                let answer = door.send(json_request(method, &path, "{}")).await;
                assert_eq!(answer.status, 405, "{method} {path}");
                assert_eq!(answer.headers["content-type"], "application/problem+json");
                assert!(answer.headers["allow"].to_str().unwrap().contains(route.method.as_str()));
            }
        }
    }
}

#[tokio::test]
async fn an_import_that_cannot_be_noted_does_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    let (sources, shutdown) = (Vec::new(), CancellationToken::new());
    let backfills = BackfillsConfig { folder: folder.path().to_owned(), sources, running: 1, shutdown };
    let config = IngestConfig { backfills: Some(backfills), ..IngestConfig::default() };
    let door = Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), config).await;
    door.writer.inner().takes_no_acts = true;
    let lines = Body::from(event("e", "alice", "I like tea.").to_string());
    let request = Request::post("/v1/admin/backfills").header("content-type", "application/x-ndjson").body(lines).unwrap();
    let refused = door.send(request).await;
    refused.problem(503);
    assert!(refused.body["detail"].as_str().unwrap().contains("nothing is done"), "{}", refused.body);
    assert_eq!(door.get("/v1/admin/backfills").await.ok(200).body, json!({"backfills": []}));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(door.log.records(Topic::ConversationsBackfill).is_empty());
}

#[tokio::test]
async fn the_openapi_document_names_exactly_the_routes() {
    let door = Door::open().await;
    let served = door.get("/openapi.json").await.ok(200).body.clone();
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(served, document);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut declared: Vec<(String, String)> =
        routes::ROUTES.iter().map(|route| (route.path.to_owned(), route.method.as_str().to_lowercase())).collect();
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method == "parameters" {
                continue;
            }
            described.push((path.clone(), method.clone()));
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
            let right = routes::find(path, &method.to_uppercase().parse().unwrap()).and_then(|route| route.right);
            let route = routes::find(path, &method.to_uppercase().parse().unwrap()).unwrap();
            assert_eq!(operation["x-memori-entity"].as_str(), routes::names_entity(route).as_str(), "{method} {path}");
            let scope = routes::takes_operator(route).then_some("operator");
            assert_eq!(operation["x-memori-scope"].as_str(), scope, "{method} {path}");
            assert_eq!(responses.contains_key("401"), right.is_some(), "{method} {path}");
            assert_eq!(operation["x-memori-right"].as_str(), right.map(|right| right.as_str()), "{method} {path}");
            let named: Vec<&str> =
                item["parameters"].as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
            for part in path.split('/').filter(|part| part.starts_with('{')) {
                assert!(named.contains(&part.trim_matches(['{', '}'])), "{path} describes {part}");
            }
        }
    }
    declared.sort();
    described.sort();
    assert_eq!(declared, described);
    check_references(&document, &document);
}

fn check_references(value: &Value, document: &Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == "$ref" {
                    let pointer = member.as_str().unwrap().strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{pointer} is not there");
                }
                check_references(member, document);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| check_references(item, document)),
        _ => {}
    }
}

fn keys() -> KeyRing {
    let entry = |tenant: &str, right: &str| {
        let hash = hex::encode(Sha256::digest(format!("{tenant}-{right}")));
        format!("[[keys]]\ntenant = \"{tenant}\"\nrights = [\"{right}\"]\nsha256 = \"{hash}\"\n")
    };
    let text: String = ["acme", "other"]
        .iter()
        .flat_map(|tenant| ["events", "recall", "erase", "gateway"].map(|right| entry(tenant, right)))
        .collect();
    KeyRing::parse(&text).unwrap()
}

#[tokio::test]
async fn each_route_takes_its_right_and_no_other() {
    let door = Door::with(FakeLog::new(), FakeWriter::default(), keys(), IngestConfig::default()).await;
    for route in &routes::ROUTES {
        let Some(needed) = route.right else { continue };
        let path = route
            .path
            .replace("{entity_id}", "a")
            .replace("{event_id}", "e")
            .replace("{fact_id}", "f")
            .replace("{erasure_id}", "x");
        let send = async |key: Option<&str>| {
            let mut request = json_request(route.method.as_str(), &path, "{}");
            if let Some(key) = key {
                request.headers_mut().insert("x-memori-api-key", key.parse().unwrap());
            }
            door.send(request).await
        };
        send(None).await.problem(401);
        send(Some("wrong")).await.problem(401);
        for right in ["events", "recall", "erase", "gateway"] {
            let answer = send(Some(&format!("acme-{right}"))).await;
            if right == needed.as_str() {
                assert!(![401, 403].contains(&answer.status), "{} {path} with {right}", route.method);
            } else {
                answer.problem(403);
            }
        }
    }
}

#[tokio::test]
async fn tenants_are_walls() {
    let door = Door::with(FakeLog::new(), FakeWriter::default(), keys(), IngestConfig::default()).await;
    let send = async |key: &str, mut request: Request<Body>| {
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        request.headers_mut().insert("x-memori-tenant", "other".parse().unwrap());
        door.send(request).await
    };
    send("acme-events", json_request("POST", "/v1/events", event("e", "a", "x").to_string())).await.ok(202);
    let other = send("other-events", json_request("POST", "/v1/events", event("e", "a", "y").to_string())).await;
    assert_eq!(other.ok(202).body["status"], "accepted", "the other tenant's ids are its own");
    let tenants: Vec<String> = door.log.events().into_iter().map(|event| event.tenant).collect();
    assert!(tenants.contains(&"acme".to_owned()) && tenants.contains(&"other".to_owned()));
    let recall = send("acme-recall", json_request("POST", "/v1/recall", "{}")).await;
    assert_eq!(recall.ok(200).body["tenant"], "acme", "nobody names its own tenant");
    assert_eq!(recall.body["credentials"], false, "the caller's key stays here");
    let erased = send("acme-erase", json_request("DELETE", "/v1/entities/a", "")).await.ok(202).body["erasure_id"].clone();
    let receipt = format!("/v1/erasures/{}", erased.as_str().unwrap());
    send("acme-erase", json_request("GET", &receipt, "")).await.ok(200);
    send("other-erase", json_request("GET", &receipt, "")).await.problem(404);
    send("other-events", json_request("GET", "/v1/events/nothing", "")).await.problem(404);
}

#[tokio::test]
async fn a_batch_judges_each_event_alone() {
    let door = Door::open().await;
    let body = json!({"events": [
        event("a", "x", "1"), event("b", "x", "2"), {"event_id": "c"}, event("a", "x", "1"), event("a", "x", "other"), 7, event("d", "x", "3"),
    ]});
    let answer = door.post("/v1/events/batch", &body).await;
    let results = answer.ok(200).body["results"].as_array().unwrap().clone();
    let shown: Vec<(Value, Value, Value)> =
        results.iter().map(|r| (r["event_id"].clone(), r["status"].clone(), r["error"]["status"].clone())).collect();
    let row = |id: &str, status: &str, error: Option<u16>| (json!(id), json!(status), json!(error));
    let mut expected = vec![
        row("a", "accepted", None),
        row("b", "accepted", None),
        row("c", "rejected", Some(422)),
        row("a", "duplicate", None),
        row("a", "rejected", Some(409)),
        (Value::Null, json!("rejected"), json!(422)),
        row("d", "accepted", None),
    ];
    assert_eq!(shown, expected);
    assert!(results.iter().enumerate().all(|(index, r)| r["index"] == index));
    assert_eq!(results[2]["error"]["errors"][0]["path"], "entity_id");
    assert_eq!(door.log.event_ids(), ["a", "b", "d"], "one entity's events keep their order");

    let lines = format!("{}\n{}\nnonsense\n", event("d", "x", "3"), event("f", "x", "4"));
    let request =
        Request::post("/v1/events/batch").header("content-type", "application/x-ndjson").body(Body::from(lines)).unwrap();
    let answer = door.send(request).await;
    expected = vec![row("d", "duplicate", None), row("f", "accepted", None), (Value::Null, json!("rejected"), json!(400))];
    let results = answer.ok(200).body["results"].as_array().unwrap();
    let shown: Vec<_> =
        results.iter().map(|r| (r["event_id"].clone(), r["status"].clone(), r["error"]["status"].clone())).collect();
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn racing_requests_for_one_id_agree_on_one_content() {
    let door = Door::open().await;
    let answers = futures::future::join_all((0..40).map(|n| {
        let app = &door;
        async move { app.post("/v1/events", &event("race", "a", if n % 2 == 0 { "tea" } else { "coffee" })).await }
    }))
    .await;
    let count = |status: &str| answers.iter().filter(|a| a.body["status"] == status).count();
    assert_eq!(count("accepted"), 1);
    assert_eq!(count("duplicate"), 19);
    assert_eq!(answers.iter().filter(|a| a.status == 409).count(), 20);
    assert_eq!(door.log.events().len(), 1);
}

#[tokio::test]
async fn batches_that_share_ids_in_opposite_order_do_not_lock_each_other() {
    let door = Door::open().await;
    let batch = |reverse: bool| {
        let mut events: Vec<Value> = (0..20).map(|n| event(&format!("e{n}"), "a", "x")).collect();
        if reverse {
            events.reverse();
        }
        json!({"events": events})
    };
    let answers = futures::future::join_all((0..10).map(|n| {
        let (door, body) = (&door, batch(n % 2 == 0));
        async move { door.post("/v1/events/batch", &body).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(door.log.events().len(), 20);
}

#[tokio::test]
async fn the_door_is_rebuilt_from_the_logs_tail() {
    let first = Door::open().await;
    first.post("/v1/events", &event("e", "alice", "tea")).await.ok(202);
    let second = Door::with(first.log.clone(), FakeWriter::default(), KeyRing::open(), IngestConfig::default()).await;
    assert_eq!(second.post("/v1/events", &event("e", "alice", "tea")).await.ok(202).body["status"], "duplicate");
    second.post("/v1/events", &event("e", "alice", "coffee")).await.problem(409);
    assert_eq!(second.get("/v1/events/e").await.ok(200).body["status"], "accepted");
    assert_eq!(second.log.events().len(), 1);
}

/// A door whose memory holds one event only, so that it has to ask.
async fn forgetful(lookup: Lookup) -> Door {
    let config = IngestConfig { recent_events: 1, tail_records: 0, lookup, ..IngestConfig::default() };
    Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), config).await
}

#[tokio::test]
async fn what_the_table_forgot_the_writer_knows() {
    let door = forgetful(Lookup::BestEffort(Duration::from_secs(10))).await;
    let mut full = event("e", "a", "tea");
    full["occurred_at"] = json!("2026-01-01T00:00:00Z");
    full["session_id"] = json!("s");
    door.post("/v1/events", &full).await.ok(202);
    door.writer.knows(&door.log.events()[0], "applied");
    door.post("/v1/events", &event("push out", "a", "x")).await.ok(202);
    assert_eq!(door.post("/v1/events", &event("e", "a", "tea")).await.ok(202).body["status"], "duplicate");
    full["occurred_at"] = json!("2026-01-01T00:00:01Z");
    door.post("/v1/events", &full).await.problem(409);
    door.post("/v1/events", &event("e", "a", "coffee")).await.problem(409);
    assert_eq!(door.log.events().len(), 2);
}

#[tokio::test]
async fn accepting_does_not_depend_on_the_writer() {
    let door = forgetful(Lookup::BestEffort(Duration::from_millis(20))).await;
    door.writer.inner().broken = Some(StatusCode::INTERNAL_SERVER_ERROR);
    door.post("/v1/events", &event("e", "a", "tea")).await.ok(202);
    let answer = door.post("/v1/recall", &json!({})).await;
    answer.problem(503);
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("SELECT"));
    assert!(answer.headers.contains_key("retry-after"));
    door.get("/v1/events/elsewhere").await.problem(503);
    assert_eq!(door.get("/v1/events/e").await.ok(200).body["status"], "accepted", "known to whoever accepted it");
    door.writer.inner().broken = Some(StatusCode::UNAUTHORIZED);
    door.get("/v1/entities").await.problem(503);
}

#[tokio::test]
async fn an_exact_door_forgets_only_what_the_writer_knows() {
    let door = forgetful(Lookup::Exact).await;
    door.post("/v1/events", &event("a", "x", "1")).await.ok(202);
    door.post("/v1/events", &event("b", "x", "2")).await.ok(202);
    // The writer knows neither: both are still remembered, and beyond twice the bound nothing new is taken.
    door.post("/v1/events", &event("a", "x", "other")).await.problem(409);
    door.post("/v1/events", &event("c", "x", "3")).await.ok(202);
    door.post("/v1/events", &event("d", "x", "4")).await.problem(503);
    for event in door.log.events() {
        door.writer.knows(&event, "applied");
    }
    door.post("/v1/events", &event("d", "x", "4")).await.ok(202);
    door.post("/v1/events", &event("a", "x", "other")).await.problem(409);
    door.writer.inner().broken = Some(StatusCode::INTERNAL_SERVER_ERROR);
    door.post("/v1/events", &event("unseen", "x", "5")).await.problem(503);
}

#[tokio::test]
async fn an_exact_door_starts_with_all_that_the_writer_does_not_know() {
    let writer = FakeWriter::default();
    let config = IngestConfig { lookup: Lookup::Exact, ..IngestConfig::default() };
    let first = Door::with(FakeLog::new(), writer.clone(), KeyRing::open(), config.clone()).await;
    let events: Vec<Value> = (0..1_000).map(|n| event(&format!("e{n}"), "one entity", "x")).collect();
    first.post("/v1/events/batch", &json!({"events": events})).await.ok(200);
    let more: Vec<Value> = (1_000..1_700).map(|n| event(&format!("e{n}"), "one entity", "x")).collect();
    first.post("/v1/events/batch", &json!({"events": more})).await.ok(200);
    for event in &first.log.events()[..300] {
        writer.knows(event, "applied");
    }
    let second = Door::with(first.log.clone(), writer.clone(), KeyRing::open(), config).await;
    let asked = writer.inner().known_asked;
    for n in [300, 301, 999, 1_699] {
        second.post("/v1/events", &event(&format!("e{n}"), "one entity", "y")).await.problem(409);
    }
    assert_eq!(writer.inner().known_asked, asked, "answered from memory");
    second.post("/v1/events", &event("e5", "one entity", "y")).await.problem(409);
}

#[tokio::test]
async fn status_and_wait_follow_the_writer_and_fill_its_gaps() {
    let door = Door::open().await;
    door.post("/v1/events", &event("seen / ü", "a", "1")).await.ok(202);
    door.post("/v1/events", &event("done", "a", "2")).await.ok(202);
    let done = door.log.events().into_iter().find(|e| e.event_id == "done").unwrap();
    door.writer.knows(&done, "applied");
    let status = door.get("/v1/events/seen%20%2F%20%C3%BC").await;
    assert_eq!(status.ok(200).body["status"], "accepted");
    assert_eq!(status.body["facts"], 0);
    assert!(status.body["accepted_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(door.get("/v1/events/done").await.ok(200).body["status"], "applied");
    door.get("/v1/events/nobody").await.problem(404);
    door.get("/v1/events/%FF").await.problem(422);
    let wait = door.post("/v1/events/wait", &json!({"event_ids": ["done", "seen / ü", "nobody"], "timeout_ms": 10})).await;
    assert_eq!(
        wait.ok(200).body,
        json!({"complete": false, "events": [{"event_id": "done", "status": "applied"}, {"event_id": "seen / ü", "status": "accepted"},
            {"event_id": "nobody", "status": "unknown"}]})
    );
    let wait = door.post("/v1/events/wait", &json!({"event_ids": ["done"]})).await;
    assert_eq!(wait.ok(200).body["complete"], true);
    door.post("/v1/events/wait", &json!({"event_ids": "done"})).await.problem(422);
    door.send(Request::post("/v1/events/wait").body(Body::from("{}")).unwrap()).await.problem(415);
}

#[tokio::test]
async fn reads_are_passed_on_byte_for_byte() {
    let door = Door::open().await;
    for target in [
        "/v1/entities?cursor=a%2Fb&limit=5",
        "/v1/entities/%2E%2E/facts?kind=fact",
        "/v1/entities/a%2Fb%20%C3%BC/export",
        "/v1/facts/x/lineage",
    ] {
        let answer = door.get(target).await;
        assert_eq!(answer.ok(200).body["echo"], target);
    }
    door.send(json_request("POST", "/v1/recall", "not even JSON")).await.ok(200);
    let seen = door.writer.inner().seen.last().unwrap().clone();
    assert_eq!(seen, ("POST".into(), "/v1/recall".into(), "default".into(), "not even JSON".into()));
}

#[tokio::test]
async fn an_erasure_names_the_logs_ends_and_has_a_receipt_at_once() {
    let door = Door::open().await;
    let entity = "a/b %";
    for n in 0..3 {
        door.post("/v1/events", &event(&format!("e{n}"), entity, "x")).await.ok(202);
    }
    let erasure_id = door.delete("/v1/entities/a%2Fb%20%25").await.ok(202).body["erasure_id"].as_str().unwrap().to_owned();
    let controls = door.log.records(Topic::Controls);
    let LogRecordBody::EraseEntity(control) = framing::decode(&controls[0].payload).unwrap() else { panic!("no erasure") };
    assert_eq!((control.entity_id.as_str(), control.live_end_offset, control.backfill_end_offset), (entity, 3, 0));
    assert_eq!(control.erasure_id, erasure_id);
    assert!(door.log.events().iter().all(|event| event.accepted_at < control.requested_at));
    assert_eq!(controls[0].key, ids::log_key("default", entity));
    let receipt = door.get(&format!("/v1/erasures/{erasure_id}")).await;
    assert_eq!(receipt.ok(200).body["status"], "pending");
    assert_eq!(receipt.body["requested_at"], control.requested_at.to_rfc3339());
    door.writer.inner().receipts.insert(("default".into(), erasure_id.clone()), json!({"status": "applied"}));
    assert_eq!(door.get(&format!("/v1/erasures/{erasure_id}")).await.ok(200).body["status"], "applied");
    door.get("/v1/erasures/nothing").await.problem(404);
    door.delete(&format!("/v1/entities/{}", "x".repeat(257))).await.problem(422);
    door.delete("/v1/entities/%FF").await.problem(422);
    door.delete("/v1/entities/").await.problem(404);
    door.log.set(Mode::Away);
    door.delete("/v1/entities/a").await.problem(503);
    assert_eq!(door.log.records(Topic::Controls).len(), 1);
}

#[tokio::test]
async fn a_fact_is_forgotten_through_the_log() {
    let door = Door::open().await;
    let fact_id = uuid::Uuid::now_v7().to_string();
    door.delete(&format!("/v1/facts/{fact_id}")).await.problem(404);
    door.delete("/v1/facts/not-a-fact").await.problem(404);
    let answer = json!({"entity_id": "a", "text_hash": "11".repeat(16), "triple_hash": null, "message_keys": ["22".repeat(16), "33".repeat(16)]});
    door.writer.inner().forgettable.insert(("default".into(), fact_id.clone()), answer);
    let late = door.delete(&format!("/v1/facts/{fact_id}")).await;
    assert!(late.problem(503).headers.contains_key("retry-after"));
    door.writer.inner().controls_applied = true;
    assert!(door.delete(&format!("/v1/facts/{fact_id}")).await.ok(204).bytes.is_empty());
    let controls = door.log.records(Topic::Controls);
    assert_eq!(controls.len(), 2);
    let LogRecordBody::ForgetFact(control) = framing::decode(&controls[1].payload).unwrap() else { panic!("no forget") };
    assert_eq!((control.entity_id.as_str(), control.fact_id.as_str()), ("a", fact_id.as_str()));
    assert_eq!(control.message_keys.len(), 2);
    assert_eq!((control.text_hash.0, control.triple_hash), ([0x11; 16], None));
    door.writer.inner().broken = Some(StatusCode::INTERNAL_SERVER_ERROR);
    door.delete(&format!("/v1/facts/{fact_id}")).await.problem(503);
}

#[tokio::test]
async fn without_a_spool_an_absent_log_is_503_and_nothing_is_remembered() {
    let config = IngestConfig { log_timeout: Some(Duration::from_millis(30)), ..IngestConfig::default() };
    let door = Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), config).await;
    for mode in [Mode::Away, Mode::Silent] {
        door.log.set(mode);
        let answer = door.post("/v1/events", &event("e", "a", "tea")).await;
        assert!(answer.problem(503).headers.contains_key("retry-after"));
        let batch = door.post("/v1/events/batch", &json!({"events": [event("b", "a", "tea")]})).await;
        assert_eq!(batch.ok(200).body["results"][0]["error"]["status"], 503);
    }
    door.log.set(Mode::Up);
    assert_eq!(door.post("/v1/events", &event("e", "a", "coffee")).await.ok(202).body["status"], "accepted");
    door.log.set(Mode::TooLarge);
    door.post("/v1/events", &event("large", "a", "tea")).await.problem(413);
}

#[tokio::test]
async fn beyond_the_bound_of_requests_the_answer_is_503_at_once() {
    let config = IngestConfig { max_requests: 1, ..IngestConfig::default() };
    let door = Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::open(), config).await;
    door.log.set(Mode::Silent);
    let (held, tried) = (event("held", "a", "x"), event("tried", "a", "x"));
    let first = door.post("/v1/events", &held);
    let second = async {
        while door.log.appends() == 0 {
            tokio::task::yield_now().await;
        }
        let refused = door.post("/v1/events", &tried).await;
        door.post("/v1/events/wait", &json!({"event_ids": []})).await.ok(200);
        door.log.set(Mode::Up);
        refused
    };
    let (first, second) = tokio::join!(first, second);
    first.ok(202);
    assert_eq!(second.problem(503).headers["retry-after"], "1");
    door.post("/v1/events", &tried).await.ok(202);
}

#[tokio::test]
async fn a_caller_who_leaves_changes_nothing_about_its_event() {
    let door = Door::open().await;
    door.log.set(Mode::Silent);
    let tea = event("e", "a", "tea");
    let gone = door.post("/v1/events", &tea);
    tokio::select! {
        _ = gone => panic!("answered"),
        () = async { while door.log.appends() == 0 { tokio::task::yield_now().await } } => {}
    }
    door.log.set(Mode::Up);
    // The turn of the one who left ends with its record; then the same id with other content is refused.
    door.post("/v1/events", &event("e", "a", "coffee")).await.problem(409);
    assert_eq!(door.log.events().len(), 1);
}

#[tokio::test]
async fn without_keys_only_requests_that_mean_this_machine_are_answered() {
    let hash = hex::encode(Sha256::digest(b"k"));
    let keys = format!("[[keys]]\ntenant = \"acme\"\nrights = [\"events\", \"recall\"]\nsha256 = \"{hash}\"\n");
    let open = Door::open().await;
    let keyed = Door::with(FakeLog::new(), FakeWriter::default(), KeyRing::parse(&keys).unwrap(), IngestConfig::default()).await;
    let ask = |host: &str, path: &str| {
        let mut request = json_request("POST", path, event("e", "alice", "hi").to_string());
        request.headers_mut().insert("host", host.parse().unwrap());
        request.headers_mut().insert("authorization", "Bearer k".parse().unwrap());
        request
    };
    for host in ["evil.example", "evil.example:7700", "localhost.evil.example", "10.0.0.1:7700"] {
        for path in ["/v1/events", "/v1/recall", "/openapi.json", "/nowhere"] {
            let answer = open.send(ask(host, path)).await;
            answer.problem(403);
            assert!(!answer.body.to_string().contains("evil"), "{}", answer.body);
        }
        // A key says more than a name.
        keyed.send(ask(host, "/v1/events")).await.ok(202);
    }
    assert!(open.log.events().is_empty(), "nothing of it reached the log");
    for host in ["localhost", "localhost:7700", "127.0.0.1:7700", "[::1]:7700"] {
        open.send(ask(host, "/v1/events")).await.ok(202);
    }
}
