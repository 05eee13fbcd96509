//! The operator's routes for dead letters: what they answer, what they refuse. (That something is put back: `dead_letters.rs` of the
//! end-to-end tests.)

use memori_schemas::ids;
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;

use crate::system::{System, key_entry};

const LIST: &str = "/v1/admin/dead-letters";
const REDRIVE: &str = "/v1/admin/dead-letters/redrive";

/// A record that nobody can read, as a foreign producer might leave it: in the folder's log, behind the back of the door.
async fn poison(system: &System, tenant: &str, entity_id: &str) {
    let file = system.dir.path().join("data").join("memori.db");
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).connect().await.expect("the database");
    let key = ids::log_key(tenant, entity_id);
    let names = sqlx::query_scalar::<_, String>("SELECT name FROM sqlite_master WHERE type = 'table'");
    let names: Vec<String> = names.fetch_all(&mut connection).await.expect("tables");
    assert!(names.iter().any(|name| name == "dead_letters"), "{names:?}");
    // As the sink would store it: the routes read the table, however its rows came.
    let insert = "INSERT INTO dead_letters (source_topic_id, source_partition, source_offset, generation, tenant, entity_key, \
        source_topic, lane, class, reason, attempts, covers, erased, original_key, original_payload, failed_at_us) \
        VALUES ('topic.of-a-test', 0, 7, 1, $1, $2, 'conversations.live', 0, 'poison', 'not one of our records', 1, '[]', 0, $3, $4, 5)";
    let inserted = sqlx::query(insert)
        .bind(tenant)
        .bind(ids::entity_key(tenant, entity_id).0.to_vec())
        .bind(key)
        .bind(b"\xff\x00nonsense".to_vec())
        .execute(&mut connection)
        .await;
    inserted.expect("a letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_and_refused_as_the_contract_says() {
    let keys: String = [("acme", "admin-of-acme"), ("globex", "admin-of-globex"), ("*", "operator")]
        .map(|(tenant, key)| key_entry(tenant, &["admin"], key))
        .concat();
    let system = System::start(Some(&keys), &[]).await;
    let (acme, globex, operator) =
        (system.http.with_key("admin-of-acme"), system.http.with_key("admin-of-globex"), system.http.with_key("operator"));
    let none = acme.get(LIST).await.ok(200).json;
    assert_eq!(none, json!({"dead_letters": [], "next_cursor": null}));
    poison(&system, "acme", "e").await;

    let letter = acme.get(LIST).await.ok(200).json["dead_letters"][0].clone();
    let expected = json!({
        "id": "topic.of-a-test.0.7.1", "state": "unreadable", "tenant": "acme", "entity_id": null, "class": "poison",
        "reason": "not one of our records", "attempts": 1, "failed_at": "1970-01-01T00:00:00.000005Z", "generation": 1, "lane": "live",
        "source": {"topic": "memori.conversations.live", "topic_id": "topic.of-a-test", "partition": 0, "offset": 7},
        "events": [], "key_bytes": ids::log_key("acme", "e").len(), "payload_bytes": 10,
    });
    assert_eq!(letter, expected);
    let path = format!("{LIST}/topic.of-a-test.0.7.1");
    let shown = acme.get(&path).await.ok(200).json;
    assert_eq!(shown["key"], json!({"format": "entity", "value": {"tenant": "acme", "entity_id": "e"}}));
    assert_eq!(shown["payload"], json!({"format": "base64", "value": "/wBub25zZW5zZQ=="}));

    // Walls.
    assert_eq!(globex.get(LIST).await.ok(200).json["dead_letters"], json!([]));
    globex.get(&path).await.ok(404);
    assert_eq!(globex.get(&format!("{LIST}?tenant=acme")).await.ok(422).paths(), ["tenant"]);
    assert_eq!(operator.get(LIST).await.ok(200).json["dead_letters"][0], expected);
    assert_eq!(operator.get(&format!("{LIST}?tenant=globex")).await.ok(200).json["dead_letters"], json!([]));
    operator.get(&path).await.ok(200);
    let claimed = globex.send("GET", LIST, &[("x-memori-tenant", "*")], None).await.ok(200);
    assert_eq!(claimed.json["dead_letters"], json!([]), "what a header claims counts for nothing");

    // Nobody can put it back, and why.
    let id = "topic.of-a-test.0.7.1";
    for (who, reason) in [(&acme, "other_log"), (&globex, "not_found"), (&operator, "other_log")] {
        for dry_run in [true, false] {
            let answer = who.post(REDRIVE, &json!({"ids": [id], "dry_run": dry_run})).await.ok(200).json;
            assert_eq!((&answer["redriven"], &answer["refused"]), (&json!(0), &json!(1)), "{answer}");
            assert_eq!(answer["reasons"], json!({ reason: 1 }), "{answer}");
        }
    }

    // What is wrong is named.
    for (query, path) in [
        ("limit=0", "limit"),
        ("class=bad", "class"),
        ("state=bad", "state"),
        ("lane=bad", "lane"),
        ("since=bad", "since"),
        ("until=bad", "until"),
        ("generation=bad", "generation"),
        ("cursor=bad", "cursor"),
        ("x=1", "x"),
        ("limit=1&limit=2", "limit"),
    ] {
        assert_eq!(acme.get(&format!("{LIST}?{query}")).await.ok(422).paths(), [path], "{query}");
    }
    for (body, path) in [
        (json!({}), "ids"),
        (json!({"ids": []}), "ids"),
        (json!({"ids": ["x"], "filter": {}}), "filter"),
        (json!({"filter": {"class": "bad"}}), "filter.class"),
        (json!({"filter": {"x": 1}}), "filter.x"),
        (json!({"filter": {"tenant": "globex"}}), "filter.tenant"),
        (json!({"filter": [], "limit": 1}), "filter"),
        (json!({"filter": {}, "limit": 0}), "limit"),
        (json!({"filter": {}, "to_lane": "live"}), "to_lane"),
        (json!({"filter": {}, "dry_run": 1}), "dry_run"),
        (json!({"filter": {}, "x": 1}), "x"),
    ] {
        assert_eq!(acme.post(REDRIVE, &body).await.ok(422).paths(), [path], "{body}");
    }
    acme.post_bytes(REDRIVE, "text/plain", b"{}").await.ok(415);
    acme.post_bytes(REDRIVE, "application/json", b"{").await.ok(400);
    acme.post_bytes(REDRIVE, "application/json", &vec![b' '; (2 << 20) + 1]).await.ok(413);
    acme.get(REDRIVE).await.ok(405);
    acme.delete(LIST).await.ok(405);
    acme.get(&format!("{LIST}/{}", "x".repeat(2_000))).await.ok(404);
    acme.get(&format!("{LIST}/a%00b.0.7.1")).await.ok(404);
    assert_eq!(acme.get(&format!("{path}?raw=bad")).await.ok(422).paths(), ["raw"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_the_one_tenant_administers_itself() {
    let system = System::open().await;
    poison(&system, "default", "e").await;
    poison_of_another(&system).await;
    let letters = system.http.get(LIST).await.ok(200).json["dead_letters"].as_array().cloned().unwrap_or_default();
    let tenants: Vec<&Value> = letters.iter().map(|letter| &letter["tenant"]).collect();
    assert_eq!(tenants, ["default"]);
}

async fn poison_of_another(system: &System) {
    let file = system.dir.path().join("data").join("memori.db");
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).connect().await.expect("the database");
    let copied = "INSERT INTO dead_letters SELECT source_topic_id, source_partition, source_offset + 1, generation, 'elsewhere', \
        entity_key, source_topic, lane, class, reason, attempts, covers, erased, original_key, original_payload, failed_at_us \
        FROM dead_letters";
    sqlx::query(copied).execute(&mut connection).await.expect("a letter of another tenant");
}
