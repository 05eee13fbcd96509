//! Who may do what, for every route of the served OpenAPI document: each right, each kind of key, one's own tenant and another's. What
//! is expected comes from the document alone (`x-memori-right`, `x-memori-scope`, `x-memori-entity`, the declared success), so that a
//! route that is added is tested, or fails for want of a description.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use memori_tests::administration::{MadeKey, Operator, until_status};
use memori_tests::client::{Answer, Api, escape};
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::servers::Servers;
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

const RIGHTS: [&str; 5] = ["events", "recall", "erase", "gateway", "admin"];
/// What was changed is known at the front door that soon.
const QUICK: (&str, &str) = ("MEMORI__AUTH__KEY_CACHE_MS", "200");

/// What a backfill may read, where nobody answers.
const NOWHERE: &str = "https://127.0.0.1:1/";
const MAY_READ: (&str, &str) = ("MEMORI__INGEST__BACKFILL_SOURCES", NOWHERE);

/// One method of one path, as the document describes it.
struct Operation {
    method: Method,
    path: String,
    right: String,
    /// Takes a key that is bound to `*`.
    operator: bool,
    /// Where the entity is named.
    entity: Option<String>,
    success: StatusCode,
    body: Option<Value>,
}

fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(pointer) => document.pointer(pointer.trim_start_matches('#')).expect("a reference that leads somewhere"),
        None => value,
    }
}

fn operations(document: &Value) -> anyhow::Result<Vec<Operation>> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("methods")?.iter().filter(|(method, _)| *method != "parameters") {
            let Some(right) = operation["x-memori-right"].as_str() else { continue };
            let success: Vec<&String> = operation["responses"]
                .as_object()
                .context("responses")?
                .keys()
                .filter(|status| status.starts_with('2'))
                .collect();
            ensure!(success.len() == 1, "{method} {path} succeeds in several ways");
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            operations.push(Operation {
                method: method.to_uppercase().parse()?,
                path: path.clone(),
                right: right.to_owned(),
                operator: operation["x-memori-scope"] == "operator",
                entity: operation["x-memori-entity"].as_str().map(str::to_owned),
                success: success[0].parse()?,
                body: (!schema.is_null()).then(|| example(document, schema, "")),
            });
        }
    }
    // What takes away comes last, and the whole entity after all.
    operations.sort_by_key(|operation| (operation.method == Method::DELETE, operation.path == "/v1/entities/{entity_id}"));
    Ok(operations)
}

/// A least value that a schema takes.
fn example(document: &Value, schema: &Value, name: &str) -> Value {
    let schema = resolved(document, schema);
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(one) = schema[several].get(0).filter(|_| schema["properties"].is_null()) {
            return example(document, one, name);
        }
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"].get(0).and_then(Value::as_str)).unwrap_or("object");
    match kind {
        "object" => {
            let mut required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            // Where one of several members is needed, the first.
            required.extend(schema["anyOf"][0]["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
            required.extend(schema["oneOf"][0]["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
            // Nobody waits here.
            required.extend(schema["properties"]["timeout_ms"].is_object().then_some("timeout_ms"));
            let member = |name: &&str| ((*name).to_owned(), example(document, &schema["properties"][*name], name));
            Value::Object(required.iter().map(member).collect::<Map<_, _>>())
        }
        "array" => {
            let items = usize::try_from(schema["minItems"].as_u64().unwrap_or(1)).unwrap_or(1).max(1);
            vec![example(document, &schema["items"], name); items].into()
        }
        "integer" | "number" => schema["minimum"].as_i64().unwrap_or(0).into(),
        "boolean" => false.into(),
        _ => match name {
            "entity_id" => "alice",
            "tenant" => "a-new-one",
            "source" => NOWHERE,
            _ => "x",
        }
        .into(),
    }
}

/// What belongs to a tenant, by the name of the parameter that names it.
type Things = BTreeMap<&'static str, String>;

async fn things(operator: &Operator, tenant: &str, all: &Api) -> anyhow::Result<Things> {
    for (event_id, entity_id, text) in
        [("there", "alice", "I like amber tea."), ("also", "alice", "I live in Lisbon."), ("gone", "erased", "I like birch tea.")]
    {
        let body = json!({"event_id": event_id, "entity_id": entity_id, "messages": [{"role": "user", "content": text}]});
        let answer = all.post("/v1/events", &body).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
    }
    all.wait_final(&["there".to_owned(), "also".to_owned(), "gone".to_owned()], Duration::from_secs(120)).await?;
    let fact = all.facts("alice").await?.first().and_then(|fact| fact["fact_id"].as_str()).context("a fact")?.to_owned();
    let erased = all.delete("/v1/entities/erased").await?;
    let erasure = erased.body["erasure_id"].as_str().context("a receipt")?.to_owned();
    let replay = operator.api().post("/v1/admin/replays", &json!({"tenants": [tenant]})).await?;
    ensure!(replay.status == StatusCode::CREATED, "{}: {}", replay.status, replay.body);
    let spare = operator.key(tenant, &["events"], &json!({})).await?;
    Ok(Things::from([
        ("event_id", "there".to_owned()),
        ("entity_id", "alice".to_owned()),
        ("fact_id", fact),
        ("erasure_id", erasure),
        ("tenant", tenant.to_owned()),
        ("key_id", spare.id),
        ("generation", replay.body["generation"].to_string()),
        ("act", "pause".to_owned()),
        // Nothing was given up, so there is none.
        ("id", "0000".to_owned()),
    ]))
}

struct World {
    operator: Operator,
    operations: Vec<Operation>,
    acme: Things,
    /// A key of the tenant for each right, and one for all but `admin`.
    keys: BTreeMap<&'static str, MadeKey>,
    strangers: BTreeMap<&'static str, MadeKey>,
}

impl World {
    async fn make(base: &str) -> anyhow::Result<Self> {
        let operator = Operator::at(base);
        let document = operator.api().get("/openapi.json").await?.body;
        let operations = operations(&document)?;
        let mut of: Vec<BTreeMap<&'static str, MadeKey>> = Vec::new();
        for tenant in ["acme", "globex"] {
            operator.tenant(tenant).await?;
            let mut keys = BTreeMap::new();
            for right in RIGHTS {
                keys.insert(right, operator.key(tenant, &[right], &json!({})).await?);
            }
            keys.insert("all", operator.key(tenant, &RIGHTS[..4], &json!({})).await?);
            of.push(keys);
        }
        let (strangers, keys) = (of.pop().context("globex")?, of.pop().context("acme")?);
        let mut acme = things(&operator, "acme", &operator.with(&keys["all"].key)).await?;
        // An import that is not over while the test lasts.
        let admin = operator.with(&keys["admin"].key);
        let line =
            |n| format!("{{\"entity_id\": \"imported\", \"messages\": [{{\"role\": \"user\", \"content\": \"number {n}\"}}]}}\n");
        let lines: String = (0..1_000).map(line).collect();
        let upload =
            admin.request(Method::POST, "/v1/admin/backfills?rate=1").header("content-type", "application/x-ndjson").body(lines);
        let begun = admin.send(upload).await?;
        ensure!(begun.status == StatusCode::ACCEPTED, "{}: {}", begun.status, begun.body);
        acme.insert("backfill_id", begun.body["backfill_id"].as_str().context("an id")?.to_owned());
        Ok(Self { operator, operations, acme, keys, strangers })
    }

    /// The path with these things in it.
    fn path(&self, operation: &Operation, things: &Things) -> anyhow::Result<String> {
        let segments: Vec<String> = operation
            .path
            .split('/')
            .map(|segment| match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                None => Ok(segment.to_owned()),
                Some(name) => things.get(name).map(|id| escape(id)).with_context(|| format!("what is {name}?")),
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(segments.join("/"))
    }

    async fn call(&self, operation: &Operation, key: Option<&str>, things: &Things) -> anyhow::Result<Answer> {
        let api = self.operator.api().with_key(key);
        let mut request = api.request(operation.method.clone(), &self.path(operation, things)?);
        if let Some(body) = &operation.body {
            let mut body = body.clone();
            // The entity that the things are about, wherever the body names one.
            name_entity(&mut body, &things["entity_id"]);
            request = request.json(&body);
        }
        api.send(request).await
    }

    async fn expect(&self, operation: &Operation, key: Option<&str>, who: &str, status: StatusCode) -> anyhow::Result<Answer> {
        let answer = self.call(operation, key, &self.acme).await?;
        let (method, path) = (&operation.method, &operation.path);
        ensure!(answer.status == status, "{method} {path} with {who}: {} and not {status}: {}", answer.status, answer.body);
        if !status.is_success() {
            ensure!(answer.body["status"] == json!(status.as_u16()), "{method} {path} with {who}: no problem: {}", answer.body);
        }
        Ok(answer)
    }
}

fn name_entity(value: &mut Value, entity_id: &str) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == "entity_id" { *member = entity_id.into() } else { name_entity(member, entity_id) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| name_entity(item, entity_id)),
        _ => {}
    }
}

/// What the path names can be another tenant's.
fn names_somebodys(operation: &Operation) -> bool {
    ["{fact_id}", "{event_id}", "{erasure_id}", "{tenant}", "{key_id}", "{id}", "{backfill_id}"]
        .iter()
        .any(|part| operation.path.contains(part))
}

async fn every_route(base: &str) -> anyhow::Result<()> {
    let world = World::make(base).await?;
    let operator = &world.operator;
    ensure!(world.operations.len() > 25, "the document describes {} operations", world.operations.len());

    // Keys that let nobody in, each for the one reason.
    let nobodys = format!("mk_{}_{}", "0123456789abcdef", "ab".repeat(32));
    let mut forged = world.keys["all"].key.clone();
    let last = forged.pop().context("a key")?;
    forged.push(if last == '0' { '1' } else { '0' });
    let soon = jiff::Timestamp::now() + Duration::from_secs(1);
    let expired = operator.key("acme", &RIGHTS, &json!({"expires_at": soon.to_string()})).await?;
    let revoked = operator.key("acme", &RIGHTS, &json!({})).await?;
    until_status(&operator.with(&revoked.key), Method::GET, "/v1/entities", None, StatusCode::OK).await?;
    operator.revoke("acme", &revoked.id).await?;
    for key in [&expired, &revoked] {
        until_status(&operator.with(&key.key), Method::GET, "/v1/entities", None, StatusCode::UNAUTHORIZED).await?;
    }
    let bound = operator.key("acme", &RIGHTS[..4], &json!({"entity_id": "alice"})).await?;
    let by_prefix = operator.key("acme", &RIGHTS[..4], &json!({"entity_prefix": "al"})).await?;
    let elsewhere = operator.key("acme", &RIGHTS[..4], &json!({"entity_id": "bob"})).await?;
    let other_prefix = operator.key("acme", &RIGHTS[..4], &json!({"entity_prefix": "alicea"})).await?;

    for operation in &world.operations {
        for (who, key) in [
            ("no key", None),
            ("an unknown key", Some(nobodys.as_str())),
            ("a key of another kind", Some("nobodys-key-0123456789")),
            ("a known id and another secret", Some(forged.as_str())),
            ("an expired key", Some(expired.key.as_str())),
            ("a revoked key", Some(revoked.key.as_str())),
        ] {
            world.expect(operation, key, who, StatusCode::UNAUTHORIZED).await?;
        }
        for right in RIGHTS.into_iter().filter(|right| *right != operation.right) {
            let who = format!("the right {right}");
            world.expect(operation, Some(&world.keys[right].key), &who, StatusCode::FORBIDDEN).await?;
        }
        // Bound to somebody else: nothing that names an entity, and nothing that names none.
        for (who, key) in [("a key of another entity", &elsewhere), ("a key of another prefix", &other_prefix)] {
            if operation.path == "/v1/events/batch" {
                let answer = world.expect(operation, Some(&key.key), who, StatusCode::OK).await?;
                ensure!(answer.body["results"][0]["error"]["status"] == 403, "a batch with {who}: {}", answer.body);
            } else {
                world.expect(operation, Some(&key.key), who, StatusCode::FORBIDDEN).await?;
            }
        }
        if operation.entity.is_none() {
            world.expect(operation, Some(&bound.key), "a bound key", StatusCode::FORBIDDEN).await?;
        }
        // Another tenant's: what is named by an id is not there, the rest is the stranger's own.
        let stranger = &world.strangers[operation.right.as_str()].key;
        if names_somebodys(operation) {
            world.expect(operation, Some(stranger), "another tenant's key", StatusCode::NOT_FOUND).await?;
        } else if operation.operator {
            world.expect(operation, Some(stranger), "another tenant's key", StatusCode::FORBIDDEN).await?;
        }
    }

    // Suspended: nothing at all, with whatever right; and then again as before.
    let probes = [
        ("events", "/v1/events/there".to_owned()),
        ("recall", "/v1/entities".to_owned()),
        ("erase", format!("/v1/erasures/{}", world.acme["erasure_id"])),
        ("admin", "/v1/admin/audit".to_owned()),
    ];
    for (suspended, status) in [(true, StatusCode::FORBIDDEN), (false, StatusCode::OK)] {
        operator.suspend("acme", suspended).await?;
        for (right, path) in &probes {
            until_status(&operator.with(&world.keys[*right].key), Method::GET, path, None, status).await?;
        }
        for key in [&bound, &by_prefix] {
            until_status(&operator.with(&key.key), Method::GET, "/v1/entities/alice/facts", None, status).await?;
        }
    }

    // And what is one's own: the declared success, with the right itself, and with a key that is bound to the entity.
    for operation in &world.operations {
        if operation.path.ends_with("/dead-letters/{id}") {
            world.expect(operation, Some(&world.keys["admin"].key), "its own key", StatusCode::NOT_FOUND).await?;
            continue;
        }
        if operation.operator {
            world
                .expect(operation, Some(&world.keys["admin"].key), "a tenant's own administrator", StatusCode::FORBIDDEN)
                .await?;
            world.expect(operation, Some(memori_tests::keys::Keys::OPERATOR), "the operator", operation.success).await?;
            continue;
        }
        // A stranger's success changes nothing here.
        if !names_somebodys(operation) && operation.right != "admin" {
            world
                .expect(
                    operation,
                    Some(&world.strangers[operation.right.as_str()].key),
                    "another tenant's own",
                    operation.success,
                )
                .await?;
        }
        if operation.entity.is_some() {
            for (who, key) in [("a key of the entity", &bound), ("a key of its prefix", &by_prefix)] {
                world.expect(operation, Some(&key.key), who, operation.success).await?;
            }
        }
        world.expect(operation, Some(&world.keys[operation.right.as_str()].key), "its own key", operation.success).await?;
    }

    // Each act of administration is told, by whom, and without a secret.
    let acts = operator.api().get("/v1/admin/audit?tenant=acme&limit=1000").await?.body;
    let names: Vec<&str> = acts["acts"].as_array().context("acts")?.iter().filter_map(|act| act["act"].as_str()).collect();
    for act in ["tenant.create", "tenant.change", "key.create", "key.rotate", "key.revoke", "quotas.set"] {
        ensure!(names.contains(&act), "no {act} among {names:?}");
    }
    ensure!(!acts.to_string().contains("mk_") && !acts.to_string().contains("sha256"), "the audit log holds a key");
    let own = operator.with(&world.strangers["admin"].key).get("/v1/admin/audit?limit=1000").await?.body;
    ensure!(own["acts"].as_array().is_some_and(|acts| acts.iter().all(|act| act["tenant"] == "globex")), "{own}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_right_and_key_embedded() -> anyhow::Result<()> {
    let shape = Embedded::start(&["in-the-file".to_owned()], &[QUICK, MAY_READ])?;
    every_route(&shape.process.api()).await?;
    let log = shape.process.log_text();
    ensure!(!log.contains("mk_"), "the log holds a key");
    let metrics = Api::new(&shape.process.admin(), None).metrics().await?;
    ensure!(!metrics.contains("acme") && metrics.contains("memori_ingest_keys_denied_total{reason=\"expired\"}"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_right_and_key_on_kafka_and_postgres() -> anyhow::Result<()> {
    let servers = Servers::shared()?;
    let mut shape = Distributed::start(servers, &["in-the-file".to_owned()], 1, &[QUICK, MAY_READ]).await?;
    let base = shape.ingest.api();
    every_route(&base).await?;

    // While the key store is away, a key that was used works on, and one that never was cannot be judged.
    let operator = Operator::at(&base);
    let known = operator.key("acme", &["events"], &json!({})).await?;
    let never_used = operator.key("acme", &["events"], &json!({})).await?;
    let event = json!({"entity_id": "e", "messages": [{"role": "user", "content": "I like tea."}]});
    let (known, never_used) = (operator.with(&known.key), operator.with(&never_used.key));
    ensure!(known.post("/v1/events", &event).await?.status == StatusCode::ACCEPTED, "a key of the key store is refused");
    shape.writer.kill();
    let refused = never_used.send(never_used.request(Method::POST, "/v1/events").json(&event)).await?;
    ensure!(refused.status == StatusCode::SERVICE_UNAVAILABLE, "{}: {}", refused.status, refused.body);
    let since = std::time::Instant::now();
    // Far beyond the age up to which it needs no question.
    while since.elapsed() < Duration::from_secs(2) {
        let answer = known.send(known.request(Method::POST, "/v1/events").json(&event)).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "a remembered key: {}: {}", answer.status, answer.body);
    }
    shape.writer.start_again()?;
    until_status(&never_used, Method::POST, "/v1/events", Some(&event), StatusCode::ACCEPTED).await?;
    Ok(())
}
