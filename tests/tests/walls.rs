//! Tenants are walls: with one tenant's key nothing of another's can be read, asked about or deleted, by whatever id; and a key
//! does only what it may.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::servers::Servers;
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

/// Tables of ours that hold rows of tenants, and whether the database walls them.
const OF_TENANTS: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.relrowsecurity FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' \
    WHERE n.nspname IN ('memori', 'memori_control') AND c.relkind IN ('r', 'p') ORDER BY 1";

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_the_recall_role_see_one_tenant_whatever_they_ask() -> anyhow::Result<()> {
    let servers = Servers::shared()?;
    let database = servers.empty_database().await?;
    let role = format!("r{}", uuid::Uuid::now_v7().simple());
    servers.administer(&format!("CREATE ROLE {role} LOGIN")).await?;
    let as_role = database.replacen("postgres://postgres@", &format!("postgres://{role}@"), 1);
    ensure!(as_role != database, "{database} names no role");
    let tenants = ["tenant-a".to_owned(), "tenant-b".to_owned()];
    let env = [("MEMORI__POSTGRES__RECALL_URL", as_role.as_str())];
    let shape = Distributed::start_on(servers, database.clone(), &tenants, 1, &env).await?;

    // What the services do under that role, they do as ever.
    for (tenant, own, foreign) in [("tenant-a", "amber", "birch"), ("tenant-b", "birch", "amber")] {
        let api = shape.api(tenant);
        say(&api, "same", &format!("I like {own} tea.")).await?;
        let query = json!({"entity_id": "shared", "query": "tea", "limit": 100, "include_messages": true});
        let seen = api.post("/v1/recall", &query).await?.body.to_string();
        ensure!(seen.contains(own) && !seen.contains(foreign), "recall shows: {seen}");
        for fact in api.facts("shared").await? {
            let lineage = api.get(&format!("/v1/facts/{}/lineage", fact["fact_id"].as_str().context("an id")?)).await?;
            ensure!(lineage.status == StatusCode::OK, "{}: {}", lineage.status, lineage.body);
        }
    }
    ensure!(!shape.writer.log_text().contains("row level security"), "the writer says that its role is not walled");
    let letters = Api::new(&shape.ingest.api(), Some(memori_tests::keys::Keys::OPERATOR)).get("/v1/admin/dead-letters").await?;
    ensure!(letters.status == StatusCode::OK, "{}: {}", letters.status, letters.body);

    // By hand, as somebody with the writer's password would.
    let (owner, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let (client, connection) = tokio_postgres::connect(&as_role, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let may: (bool, bool) = {
        let row = client.query_one("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user", &[]).await?;
        (row.get(0), row.get(1))
    };
    ensure!(may == (false, false), "the role may bypass row level security");
    let tables: Vec<(String, bool)> = owner.query(OF_TENANTS, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    ensure!(tables.len() >= 20, "{tables:?}");
    let mut seen_of_a = 0;
    for (table, walled) in &tables {
        ensure!(*walled, "{table} has rows of tenants and no wall");
        let count = async |sql: String| client.query_one(&sql, &[]).await.map(|row| row.get::<_, i64>(0));
        client.batch_execute("RESET memori.tenant").await?;
        let all = format!("SELECT count(*) FROM {table}");
        match count(all.clone()).await {
            Ok(rows) => ensure!(rows == 0, "{table} shows {rows} rows to who names no tenant"),
            // Keys, quotas, usage and audit are not recall's to read at all.
            Err(error) => {
                let refused = error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE);
                ensure!(refused && table.starts_with("memori_control."), "{table}: {error}");
                continue;
            }
        }
        client.batch_execute("SET memori.tenant = 'tenant-a'").await?;
        let foreign = count(format!("SELECT count(*) FROM {table} WHERE tenant IS DISTINCT FROM 'tenant-a'")).await?;
        ensure!(foreign == 0, "{table} shows {foreign} rows of others");
        let joined = count(format!(
            "SELECT count(*) FROM {table} x RIGHT JOIN (VALUES ('tenant-b')) v(t) ON x.tenant = v.t WHERE x.tenant IS NOT NULL"
        ))
        .await?;
        ensure!(joined == 0, "{table} shows {joined} rows of tenant-b");
        seen_of_a += count(all.clone()).await?;
        for change in
            [format!("DELETE FROM {table}"), format!("UPDATE {table} SET tenant = 'tenant-a'"), format!("TRUNCATE {table}")]
        {
            ensure!(client.batch_execute(&change).await.is_err(), "{change} is allowed");
        }
        client.batch_execute("SET row_security = off").await?;
        ensure!(count(all).await.is_err(), "{table} can be read past its wall");
        client.batch_execute("SET row_security = on").await?;
    }
    ensure!(seen_of_a > 0, "nothing of one's own is seen either");
    for escape in [
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER TABLE memori.facts DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenants_are_walls ON memori.facts",
    ] {
        ensure!(client.batch_execute(escape).await.is_err(), "{escape} is allowed");
    }
    Ok(())
}
