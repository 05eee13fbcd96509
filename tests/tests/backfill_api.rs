//! `/v1/admin/backfills`: imports that are uploaded or lie in an object store, paused, resumed, killed with the process, cancelled; and
//! what may not be read.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use memori_tests::client::{Answer, Api};
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::objects::ObjectStore;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const TENANTS: [&str; 2] = ["tenant-a", "tenant-b"];
const WITHIN: Duration = Duration::from_secs(120);

fn fixture(name: &str) -> anyhow::Result<Bytes> {
    Ok(std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("backfill").join(name))?.into())
}

async fn store() -> anyhow::Result<ObjectStore> {
    let mut objects = BTreeMap::new();
    for name in ["claude-conversations.json", "openai.jsonl"] {
        objects.insert(format!("history/2024/{name}"), fixture(name)?);
    }
    objects.insert("history/secret.jsonl".to_owned(), Bytes::from_static(b"{}"));
    ObjectStore::start(objects).await
}

fn start(store: &ObjectStore) -> anyhow::Result<Embedded> {
    let mut env = store.env();
    env.push(("MEMORI__INGEST__BACKFILL_SOURCES".to_owned(), "s3://history/2024/, s3://other/".to_owned()));
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    Embedded::start(&TENANTS.map(str::to_owned), &env)
}

/// A tenant's ways in: for its reads, and for its administration.
fn ways(system: &Embedded, tenant: &str) -> (Api, Api) {
    let api = system.api(tenant);
    let admin = api.with_key(Some(&Keys::admin_of(tenant)));
    (api, admin)
}

async fn upload(api: &Api, query: &str, lines: String) -> anyhow::Result<Answer> {
    let path = format!("/v1/admin/backfills?{query}");
    api.insist(|| api.request(Method::POST, &path).header("content-type", "application/x-ndjson").body(lines.clone())).await
}

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{{\"entity_id\":\"up\",\"event_id\":\"u{n}\",\"messages\":[{{\"role\":\"user\",\"content\":\"I know word number {n}.\"}}]}}\n")).collect()
}

async fn until(api: &Api, id: &str, what: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let since = Instant::now();
    loop {
        let shown = api.get(&format!("/v1/admin/backfills/{id}")).await?.body;
        if what(&shown) {
            return Ok(shown);
        }
        ensure!(since.elapsed() < WITHIN, "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn id(answer: &Answer) -> anyhow::Result<String> {
    ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
    Ok(answer.body["backfill_id"].as_str().context("an id")?.to_owned())
}

async fn act(api: &Api, id: &str, act: &str) -> anyhow::Result<Answer> {
    api.insist(|| api.request(Method::POST, &format!("/v1/admin/backfills/{id}/{act}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_object_store_and_no_further_than_allowed() -> anyhow::Result<()> {
    let store = store().await?;
    let system = start(&store)?;
    let (api, admin) = ways(&system, TENANTS[0]);
    for (source, entity, events, messages) in
        [("s3://history/2024/openai.jsonl", "one", 3, 7), ("s3://history/2024/", "all", 5, 10)]
    {
        let begun = admin
            .post("/v1/admin/backfills", &json!({"source": source, "entity_id": entity, "occurred_at": "2020-01-01T00:00:00Z"}))
            .await?;
        let done = until(&admin, &id(&begun)?, |shown| shown["state"] != "running").await?;
        ensure!(
            done["state"] == "done" && done["events"] == events && done["rejected"] == 1 && done["source"] == source,
            "{done}"
        );
        ensure!(
            done["rejected_sample"][0].as_str().is_some_and(|said| said.contains("openai.jsonl, record 3: a message's `role`")),
            "{done}"
        );
        let since = Instant::now();
        while api.export(entity).await?.iter().filter(|line| line["type"] == "message").count() < messages {
            ensure!(since.elapsed() < WITHIN, "{entity} is not whole");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for source in [
        "s3://history/secret.jsonl",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://169.254.169.254/",
        "s3://history/2024/../secret.jsonl",
        "s3://history/2024/%2e%2E/secret.jsonl",
        "s3://history/2024/x/./..\t/../secret.jsonl",
        "s3://history/2024/..",
        "s3://history/2024",
        "-",
    ] {
        let refused = admin.post("/v1/admin/backfills", &json!({"source": source})).await?;
        ensure!(
            refused.status == StatusCode::UNPROCESSABLE_ENTITY && refused.body["errors"][0]["path"] == "source",
            "{source}: {}",
            refused.body
        );
    }
    let missing = admin.post("/v1/admin/backfills", &json!({"source": "s3://history/2024/none.jsonl"})).await?;
    let failed = until(&admin, &id(&missing)?, |shown| shown["state"] == "failed").await?;
    ensure!(failed["error"].as_str().is_some_and(|said| said.contains("no such object")), "{failed}");
    Ok(())
}

/// A signed URL is kept to go on with the import, and told nobody.
#[tokio::test(flavor = "multi_thread")]
async fn from_a_signed_url() -> anyhow::Result<()> {
    const QUERY: &str = "X-Amz-Credential=reader/20240501&X-Amz-Signature=4f6e2c0ffee";
    let store = ObjectStore::start(BTreeMap::from([("signed/up.jsonl".to_owned(), Bytes::from(lines(400)))])).await?;
    store.sign(QUERY);
    let env = [("MEMORI__INGEST__BACKFILL_SOURCES", &*store.url("signed/"))];
    let mut system = Embedded::start(&TENANTS.map(str::to_owned), &env)?;
    let (_, admin) = ways(&system, TENANTS[0]);
    let source = store.url(&format!("signed/up.jsonl?{QUERY}"));
    let begun = id(&admin.post("/v1/admin/backfills", &json!({"source": source, "rate": 40})).await?)?;
    until(&admin, &begun, |shown| shown["events"].as_u64() > Some(0)).await?;
    tokio::task::block_in_place(|| system.process.kill_and_restart())?;
    let (_, admin) = ways(&system, TENANTS[0]);
    let done = until(&admin, &begun, |shown| shown["state"] == "done").await?;
    ensure!(done["events"] == 400 && done["source"] == store.url("signed/up.jsonl"), "{done}");
    let unsigned = store.url("signed/up.jsonl?X-Amz-Signature=4f6e2c0ffeeX");
    let refused = id(&admin.post("/v1/admin/backfills", &json!({"source": unsigned})).await?)?;
    let failed = until(&admin, &refused, |shown| shown["state"] == "failed").await?;
    ensure!(failed["error"].as_str().is_some_and(|said| said.contains("403")), "{failed}");
    let told = [done, failed, admin.get("/v1/admin/backfills").await?.body, admin.get("/v1/admin/audit").await?.body];
    for told in told.map(|told| told.to_string()).into_iter().chain([system.process.log_text()]) {
        ensure!(!told.contains("4f6e2c0ffee"), "{told}");
    }
    // Only who runs the front door reads what it goes on with.
    let kept = system.data_dir().join("backfills").join(&begun);
    for entry in std::fs::read_dir(kept)? {
        let entry = entry?;
        let mode = std::os::unix::fs::MetadataExt::mode(&entry.metadata()?) & 0o077;
        let tells = std::fs::read_to_string(entry.path())?.contains("4f6e2c0ffee");
        ensure!(!tells || mode == 0, "{}: {mode:o}", entry.path().display());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_paused_resumed_survive_the_process_and_are_ones_own() -> anyhow::Result<()> {
    let store = store().await?;
    let mut system = start(&store)?;
    let (_, admin) = ways(&system, TENANTS[0]);
    let slow = id(&upload(&admin, "rate=40", lines(400)).await?)?;
    until(&admin, &slow, |shown| shown["events"].as_u64() > Some(0)).await?;
    ensure!(act(&admin, &slow, "pause").await?.body["state"] == "paused");

    // What is another tenant's is not there.
    let (_, stranger) = ways(&system, TENANTS[1]);
    ensure!(stranger.get(&format!("/v1/admin/backfills/{slow}")).await?.status == StatusCode::NOT_FOUND);
    ensure!(act(&stranger, &slow, "cancel").await?.status == StatusCode::NOT_FOUND);
    ensure!(stranger.get("/v1/admin/backfills").await?.body["backfills"] == json!([]));

    let paused = until(&admin, &slow, |shown| shown["state"] == "paused").await?;
    ensure!(paused["events"].as_u64() < Some(400), "{paused}");
    ensure!(act(&admin, &slow, "resume").await?.body["state"] == "running");
    // Killed under way, it goes on by itself.
    tokio::task::block_in_place(|| system.process.kill_and_restart())?;
    let (api, admin) = ways(&system, TENANTS[0]);
    let done = until(&admin, &slow, |shown| shown["state"] == "done").await?;
    ensure!(done["events"] == 400 && done["records"] == 400, "{done}");
    api.wait_final(&(0..400).map(|n| format!("u{n}")).collect::<Vec<_>>(), WITHIN).await?;
    let said = api.export("up").await?.iter().filter(|line| line["type"] == "message").count();
    ensure!(said == 400, "{said} messages");
    ensure!(act(&admin, &slow, "cancel").await?.status == StatusCode::CONFLICT, "it is done");

    let ended = id(&upload(&admin, "rate=1", lines(400)).await?)?;
    ensure!(act(&admin, &ended, "cancel").await?.body["state"] == "cancelled");
    let listed = admin.get("/v1/admin/backfills").await?.body;
    let ids: Vec<&str> =
        listed["backfills"].as_array().context("a list")?.iter().filter_map(|shown| shown["backfill_id"].as_str()).collect();
    ensure!(ids == [&*ended, &*slow], "{listed}");
    for id in [&ended, &slow] {
        ensure!(admin.delete(&format!("/v1/admin/backfills/{id}")).await?.status == StatusCode::NO_CONTENT);
        ensure!(admin.get(&format!("/v1/admin/backfills/{id}")).await?.status == StatusCode::NOT_FOUND);
    }
    // What cannot be done is no act; what was done is a line each, of the key's own tenant.
    ensure!(act(&admin, &slow, "cancel").await?.status == StatusCode::NOT_FOUND);
    let audit = admin.get("/v1/admin/audit").await?.body;
    let acts: Vec<(&str, &str)> = audit["acts"]
        .as_array()
        .context("acts")?
        .iter()
        .rev()
        .filter_map(|line| Some((line["act"].as_str()?, line["subject"].as_str()?)))
        .collect();
    let expected = [
        ("backfill.start", &*slow),
        ("backfill.pause", &slow),
        ("backfill.resume", &slow),
        ("backfill.start", &ended),
        ("backfill.cancel", &ended),
        ("backfill.delete", &ended),
        ("backfill.delete", &slow),
    ];
    ensure!(acts == expected, "{audit}");
    let first = &audit["acts"][expected.len() - 1];
    ensure!(first["tenant"] == TENANTS[0] && first["actor"] == "keys-file" && first["actor_tenant"] == TENANTS[0], "{first}");
    ensure!(first["detail"]["source"] == "upload" && first["detail"]["rate"] == 40, "{first}");
    ensure!(stranger.get("/v1/admin/audit").await?.body["acts"] == json!([]), "another tenant's acts are shown");
    // For somebody else an operator says so, and it is that tenant's line.
    let operator = api.with_key(Some(Keys::OPERATOR));
    let helped = id(&upload(&operator, "tenant=tenant-b&rate=1", lines(2)).await?)?;
    ensure!(act(&operator, &helped, "pause").await?.body["tenant"] == TENANTS[1]);
    let audit = stranger.get("/v1/admin/audit").await?.body;
    let told: Vec<[&Value; 3]> = audit["acts"]
        .as_array()
        .context("acts")?
        .iter()
        .map(|line| [&line["act"], &line["subject"], &line["actor_tenant"]])
        .collect();
    ensure!(
        told == [
            [&json!("backfill.pause"), &json!(helped), &json!("*")],
            [&json!("backfill.start"), &json!(helped), &json!("*")]
        ],
        "{audit}"
    );
    let bad = upload(&admin, "surprise=1", lines(1)).await?;
    ensure!(bad.status == StatusCode::UNPROCESSABLE_ENTITY && bad.body["errors"][0]["path"] == "surprise", "{}", bad.body);
    Ok(())
}
