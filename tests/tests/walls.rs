//! Tenants are walls: with one tenant's key nothing of another's can be read, asked about or deleted, by whatever id; and a key
//! does only what it may.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_tests::client::Api;
use memori_tests::embedded::Embedded;
use reqwest::{Method, StatusCode};
use serde_json::json;

async fn say(api: &Api, event_id: &str, text: &str) -> anyhow::Result<()> {
    let body = json!({"event_id": event_id, "entity_id": "shared", "messages": [{"role": "user", "content": text}]});
    let answer = api.post("/v1/events", &body).await?;
    ensure!(answer.status == StatusCode::ACCEPTED && answer.body["status"] == "accepted", "{}: {}", answer.status, answer.body);
    api.wait_final(&[event_id.to_owned()], Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_crosses() -> anyhow::Result<()> {
    let tenants = ["tenant-a".to_owned(), "tenant-b".to_owned()];
    let shape = Embedded::start(&tenants, &[])?;
    let (a, b) = (shape.api("tenant-a"), shape.api("tenant-b"));
    // The same entity and the same event id are two of each; one more event is only a's.
    say(&a, "same", "I like amber tea.").await?;
    say(&b, "same", "I like birch tea.").await?;
    say(&a, "only-a", "I live in Lisbon.").await?;

    for (api, own, foreign) in [(&a, "amber", "birch"), (&b, "birch", "amber")] {
        for path in ["/v1/entities/shared/facts", "/v1/entities/shared/export", "/v1/entities"] {
            let seen = api.get(path).await?.body.to_string();
            ensure!(!seen.contains(foreign), "{path} shows another tenant's: {seen}");
        }
        let query = json!({"entity_id": "shared", "query": format!("{foreign} tea"), "limit": 100, "include_messages": true});
        let seen = api.post("/v1/recall", &query).await?.body.to_string();
        ensure!(seen.contains(own) && !seen.contains(foreign), "recall shows: {seen}");
        let seen = api.post("/v1/recall/batch", &json!({"queries": [query]})).await?.body.to_string();
        ensure!(seen.contains(own) && !seen.contains(foreign), "a batch of recalls shows: {seen}");
    }

    // Ids of a's, with b's key.
    ensure!(b.event("only-a").await?.is_none(), "another tenant's event has a status");
    let waited = b.post("/v1/events/wait", &json!({"event_ids": ["only-a"], "timeout_ms": 0})).await?;
    ensure!(waited.body["events"][0]["status"] == "unknown", "{}", waited.body);
    for fact in a.facts("shared").await? {
        let id = fact["fact_id"].as_str().context("an id")?;
        for path in [format!("/v1/facts/{id}"), format!("/v1/facts/{id}/lineage")] {
            ensure!(a.get(&path).await?.status == StatusCode::OK, "{path} is not there for its owner");
            ensure!(b.get(&path).await?.status == StatusCode::NOT_FOUND, "{path} is there for another tenant");
        }
        ensure!(
            b.delete(&format!("/v1/facts/{id}")).await?.status == StatusCode::NOT_FOUND,
            "another tenant's fact can be deleted"
        );
    }
    let before = a.export("shared").await?;
    let erased = b.delete("/v1/entities/shared").await?;
    ensure!(erased.status == StatusCode::ACCEPTED, "{}: {}", erased.status, erased.body);
    let receipt = format!("/v1/erasures/{}", erased.body["erasure_id"].as_str().context("a receipt")?);
    ensure!(a.get(&receipt).await?.status == StatusCode::NOT_FOUND, "another tenant's receipt can be read");
    // b's erasure is applied once a later event of the same partition is.
    say(&b, "later", "I like cedar tea.").await?;
    ensure!(!b.export("shared").await?.iter().any(|line| line.to_string().contains("birch")), "b's own was not erased");
    ensure!(a.export("shared").await? == before, "an erasure crossed the wall");

    // No key, no one's key.
    for api in [Api::new(&shape.process.api(), None), Api::new(&shape.process.api(), Some("key-of-nobody-0123456789"))] {
        for (method, path) in
            [(Method::GET, "/v1/entities"), (Method::POST, "/v1/recall"), (Method::DELETE, "/v1/entities/shared")]
        {
            let answer = api.send(api.request(method.clone(), path)).await?;
            ensure!(answer.status == StatusCode::UNAUTHORIZED, "{method} {path}: {}", answer.status);
        }
    }
    Ok(())
}
