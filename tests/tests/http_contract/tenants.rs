//! Keys, rights and walls between tenants.

use memori_tests::client::escape;
use serde_json::{Value, json};

use crate::http::Http;
use crate::system::{System, event, key_entry};

const RIGHTS: [&str; 5] = ["events", "recall", "erase", "gateway", "admin"];
const SECRET: &str = "-of-acme-4242424242424242";

fn keys() -> String {
    let mut file: String = RIGHTS.iter().map(|right| key_entry("acme", &[right], &format!("{right}{SECRET}"))).collect();
    for tenant in ["acme", "globex", "Acme"] {
        file.push_str(&key_entry(tenant, &["events", "recall", "erase"], &format!("all-of-{tenant}")));
    }
    file.push_str(&key_entry("*", &["admin"], "operator"));
    file
}

/// A request of every route, and the right it takes.
fn routes(fact_id: &str, erasure_id: &str) -> Vec<(&'static str, String, Option<Value>, &'static str)> {
    let recall = json!({"entity_id": "e", "query": "tea"});
    vec![
        ("POST", "/v1/events".into(), Some(event("x", "e", "hello")), "events"),
        ("POST", "/v1/events/batch".into(), Some(json!({"events": []})), "events"),
        ("POST", "/v1/events/wait".into(), Some(json!({"event_ids": []})), "events"),
        ("GET", "/v1/events/there".into(), None, "events"),
        ("POST", "/v1/recall".into(), Some(recall.clone()), "recall"),
        ("POST", "/v1/recall/batch".into(), Some(json!({"queries": [recall]})), "recall"),
        ("GET", "/v1/entities".into(), None, "recall"),
        ("GET", "/v1/entities/e/facts".into(), None, "recall"),
        ("GET", "/v1/entities/e/export".into(), None, "recall"),
        ("GET", format!("/v1/facts/{fact_id}"), None, "recall"),
        ("GET", format!("/v1/facts/{fact_id}/lineage"), None, "recall"),
        ("DELETE", format!("/v1/facts/{fact_id}"), None, "erase"),
        ("GET", format!("/v1/erasures/{erasure_id}"), None, "erase"),
        ("DELETE", "/v1/entities/e".into(), None, "erase"),
        ("GET", "/v1/admin/dead-letters".into(), None, "admin"),
        ("POST", "/v1/admin/dead-letters/redrive".into(), Some(json!({"filter": {}})), "admin"),
    ]
}

async fn call(http: &Http, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> u16 {
    let text = body.map(Value::to_string);
    let mut headers = headers.to_vec();
    if text.is_some() {
        headers.push(("content-type", "application/json"));
    }
    http.send(method, path, &headers, text.as_deref().map(str::as_bytes)).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_takes_its_right_and_no_other() {
    let system = System::start(Some(&keys()), &[]).await;
    let acme = system.http.with_key("all-of-acme");
    acme.learn(event("there", "e", "I like tea.")).await;
    let fact_id = acme.all_facts("e", 10).await[0]["fact_id"].as_str().expect("an id").to_owned();
    acme.learn(event("gone", "erased", "I like tea.")).await;
    let erasure_id = acme.erase("erased").await["erasure_id"].as_str().expect("an id").to_owned();
    for (method, path, body, right) in routes(&fact_id, &erasure_id) {
        let plain = &system.http;
        for headers in [
            &[][..],
            &[("authorization", "Bearer nobody's")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Basic YWxsLW9mLWFjbWU6")],
            &[("authorization", "all-of-acme")],
            &[("x-memori-api-key", "nobody's")],
            &[("x-memori-tenant", "acme")],
        ] {
            assert_eq!(call(plain, method, &path, headers, body.as_ref()).await, 401, "{method} {path} {headers:?}");
        }
        let expected = if right == "admin" { 200 } else { 403 };
        assert_eq!(call(&plain.with_key("operator"), method, &path, &[], body.as_ref()).await, expected, "{method} {path}");
        for other in RIGHTS.iter().filter(|other| **other != right) {
            let status = call(&plain.with_key(&format!("{other}{SECRET}")), method, &path, &[], body.as_ref()).await;
            assert_eq!(status, 403, "{method} {path} with {other}");
        }
        // Either header carries a key.
        let key = format!("{right}{SECRET}");
        let status = call(plain, method, &path, &[("x-memori-api-key", &key)], body.as_ref()).await;
        assert!((200..300).contains(&status), "{method} {path} with {right}: {status}");
        if method != "DELETE" {
            let status = call(&plain.with_key(&key), method, &path, &[], body.as_ref()).await;
            assert!((200..300).contains(&status), "{method} {path} with {right}: {status}");
        }
    }
    let unauthorized = system.http.get("/v1/entities").await.ok(401);
    assert!(unauthorized.header("www-authenticate").is_some_and(|scheme| scheme.starts_with("Bearer")));
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        system.http.get(path).await.ok(200);
    }
    system.http.get("/v1/nope").await.ok(404);
    // No key is ever written down.
    let log = system.process.log_text();
    for key in ["all-of-acme", SECRET, "operator", "nobody's"] {
        assert!(!log.contains(key), "the log holds the key {key}");
    }
    let metrics = system.http.get("/metrics").await.text();
    for unbounded in ["acme", "there", SECRET] {
        assert!(!metrics.contains(unbounded), "a metric holds {unbounded}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_walls_on_every_route() {
    let system = System::start(Some(&keys()), &[]).await;
    let acme = system.http.with_key("all-of-acme");
    acme.learn(event("there", "e", "I like tea.")).await;
    acme.learn(event("other", "only-acme's", "I like tea.")).await;
    let fact = acme.all_facts("e", 10).await.remove(0);
    let fact_id = fact["fact_id"].as_str().expect("an id");
    acme.learn(event("gone", "erased", "I like tea.")).await;
    let erasure_id = acme.erase("erased").await["erasure_id"].as_str().expect("an id").to_owned();
    let before = acme.get("/v1/entities/e/export").await.ok(200).text();

    for stranger in ["all-of-globex", "all-of-Acme"] {
        let stranger = system.http.with_key(stranger);
        stranger.get("/v1/events/there").await.ok(404);
        let wait = stranger.post("/v1/events/wait", &json!({"event_ids": ["there"], "timeout_ms": 0})).await.ok(200).json;
        assert_eq!(wait["events"][0]["status"], "unknown");
        assert_eq!(stranger.recall("e", "tea", json!({"include_messages": true})).await["facts"], json!([]));
        let batch =
            stranger.post("/v1/recall/batch", &json!({"queries": [{"entity_id": "e", "query": "tea"}]})).await.ok(200).json;
        assert_eq!(batch["results"][0]["facts"], json!([]));
        assert_eq!(stranger.get("/v1/entities").await.ok(200).json["entities"], json!([]));
        assert_eq!(stranger.get("/v1/entities/e/facts").await.ok(200).json["facts"], json!([]));
        assert_eq!(stranger.get("/v1/entities/e/export").await.ok(200).text(), "");
        stranger.get(&format!("/v1/facts/{fact_id}")).await.ok(404);
        stranger.get(&format!("/v1/facts/{fact_id}/lineage")).await.ok(404);
        stranger.delete(&format!("/v1/facts/{fact_id}")).await.ok(404);
        stranger.get(&format!("/v1/erasures/{erasure_id}")).await.ok(404);
        // What a header claims counts for nothing.
        let claimed = stranger.send("GET", "/v1/events/there", &[("x-memori-tenant", "acme")], None).await;
        claimed.ok(404);
        // Erasing one's own entity of the same name touches nobody else's.
        stranger.erase("e").await;
        // The same names are free for others.
        stranger.learn(event("there", "e", "I like coffee.")).await;
        let facts = stranger.all_facts("e", 10).await;
        assert!(facts.len() == 1 && facts[0]["object"] == "coffee" && facts[0]["fact_id"] != fact_id, "{facts:?}");
        stranger.post("/v1/events", &event("there", "e", "I like tea.")).await.ok(409);
        stranger.get(&format!("/v1/entities/{}/facts", escape("only-acme's"))).await.ok(200);
    }
    assert_eq!(acme.get("/v1/entities/e/export").await.ok(200).text(), before);
    assert_eq!(acme.get("/v1/entities").await.ok(200).json["entities"].as_array().map(Vec::len), Some(2));
}
