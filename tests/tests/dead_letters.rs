//! Dead letters from outside: a provider that answers nonsense, operators who look, a provider that is mended, events that are put
//! back. What was given up is applied, once; what was erased stays so; a burst stops the worker and ends by itself.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use memori_tests::client::{Api, escape, metric};
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::process::{self, Process};
use memori_tests::provider::{Behaviour, Provider, answers};
use memori_tests::servers::Servers;
use reqwest::Method;
use serde_json::{Value, json};

const FINAL_WITHIN: Duration = Duration::from_secs(120);
const LETTERS: &str = "/v1/admin/dead-letters";
const REDRIVE: &str = "/v1/admin/dead-letters/redrive";

fn tenants() -> Vec<String> {
    vec!["acme".to_owned(), "other".to_owned()]
}

fn environment(provider: &Provider) -> Vec<(String, String)> {
    [
        ("MEMORI__EXTRACTOR__KIND", "llm"),
        ("MEMORI__EXTRACTOR__BASE_URL", &provider.base_url()),
        ("MEMORI__EXTRACTOR__MODEL", "double-1"),
        ("MEMORI__EXTRACTOR__TIMEOUT_MS", "5000"),
        ("MEMORI__WORKER__MAX_ATTEMPTS", "3"),
        // Nobody waits for what is put back, so nothing else ends its window.
        ("MEMORI__WORKER__WINDOW_IDLE_MS", "100"),
        ("MEMORI__WORKER__BACKFILL_WINDOW_IDLE_MS", "100"),
        ("MEMORI__EMBEDDING__KIND", "none"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

async fn post(api: &Api, entity: &str, event_id: &str, text: &str) -> anyhow::Result<()> {
    let event = json!({"event_id": event_id, "entity_id": entity, "session_id": "s",
        "messages": [{"role": "user", "name": "Ann", "content": text}]});
    let answer = api.post("/v1/events", &event).await?;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.body);
    Ok(())
}

/// Waits until an event stands so; a redriven one is dead-lettered until it is not.
async fn stands(api: &Api, event_id: &str, wanted: &str) -> anyhow::Result<Value> {
    let end = Instant::now() + FINAL_WITHIN;
    loop {
        let status = api.event(event_id).await?.context("a status")?;
        if status["status"] == wanted {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "{event_id} is not {wanted}: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn letters(admin: &Api, query: &str) -> anyhow::Result<Vec<Value>> {
    let answer = admin.get(&format!("{LETTERS}?{query}")).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
    Ok(answer.body["dead_letters"].as_array().context("a list")?.clone())
}

async fn states(admin: &Api, query: &str) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut states = BTreeMap::new();
    for letter in letters(admin, query).await? {
        *states.entry(letter["state"].as_str().context("a state")?.to_owned()).or_default() += 1;
    }
    Ok(states)
}

async fn redrive(admin: &Api, body: &Value) -> anyhow::Result<Value> {
    let answer = admin.post(REDRIVE, body).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
    Ok(answer.body)
}

/// Each statement of an entity with how often it was said.
async fn mentions(api: &Api, entity: &str) -> anyhow::Result<BTreeMap<String, i64>> {
    let facts = api.facts(entity).await?;
    let stated = facts.iter().filter(|fact| fact["kind"] == "fact");
    stated.map(|f| Ok((f["content"].as_str().context("text")?.to_owned(), f["mentions"].as_i64().context("mentions")?))).collect()
}

/// What the double finds in these texts, each said once.
fn said_once(texts: &[&str]) -> BTreeMap<String, i64> {
    texts.iter().flat_map(|text| answers::facts_of("Ann", text)).map(|found| (found.text, 1)).collect()
}

/// `memori ARGS` with a key, to its end: what it said on stdout.
fn memori(api: &str, key: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(process::binary("memori")?);
    command.args(args).env_clear().env("MEMORI_API_URL", api).env("MEMORI_API_KEY", key);
    let output = tokio::task::block_in_place(|| command.output())?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "memori {args:?}: {}\n{out}\n{err}", output.status);
    Ok(out.into_owned())
}

/// The whole story, on whatever is behind `door`, whose front door may be started again.
async fn given_up_and_put_back(provider: &Provider, api: impl Fn() -> Api, door: &mut Process) -> anyhow::Result<()> {
    let key = Keys::admin_of("acme");
    let as_admin = |door: &Process| Api::new(&door.api(), Some(&key));
    let (acme, admin) = (api(), as_admin(door));
    let people = 6;
    for n in 0..people {
        post(&acme, &format!("person-{n}"), &format!("good-{n}"), &format!("I visited place{n}.")).await?;
        post(&acme, &format!("person-{n}"), &format!("bad-{n}"), &format!("I like item{n}. [[provider:not-json]]")).await?;
    }
    let ids: Vec<String> = (0..people).flat_map(|n| [format!("good-{n}"), format!("bad-{n}")]).collect();
    acme.wait_final(&ids, FINAL_WITHIN).await?;
    ensure!(states(&admin, "").await? == BTreeMap::from([("open".to_owned(), people)]), "only the bad ones");

    // What an operator sees, and nobody else.
    let letter = letters(&admin, "event_id=bad-3&class=invalid_output&entity_id=person-3&lane=live").await?.remove(0);
    ensure!(letter["attempts"] == 1 && letter["events"][0]["event_id"] == "bad-3" && letter["tenant"] == "acme", "{letter}");
    let id = letter["id"].as_str().context("an id")?.to_owned();
    let shown = admin.get(&format!("{LETTERS}/{}", escape(&id))).await?.body;
    let said = &shown["payload"]["value"]["messages"][0]["content"];
    ensure!(said == "I like item3. [[provider:not-json]]" && shown["payload"]["value"]["event_id"] == "bad-3", "{shown}");
    for stranger in [Keys::admin_of("other"), Keys::OPERATOR.to_owned()] {
        let stranger_sees = letters(&Api::new(&door.api(), Some(&stranger)), "").await?.len();
        ensure!(stranger_sees == if stranger == Keys::OPERATOR { people } else { 0 }, "{stranger} sees {stranger_sees}");
    }
    let other = Api::new(&door.api(), Some(&Keys::admin_of("other")));
    ensure!(other.get(&format!("{LETTERS}/{}", escape(&id))).await?.status == 404, "tenants are walls");
    let refused = redrive(&other, &json!({"ids": [id]})).await?;
    ensure!(refused["reasons"] == json!({"not_found": 1}), "{refused}");
    ensure!(redrive(&other, &json!({"filter": {}})).await?["results"] == json!([]), "there is nothing of theirs");
    ensure!(acme.get(LETTERS).await?.status == 403 && acme.post(REDRIVE, &json!({"filter": {}})).await?.status == 403, "a right");

    // One is erased; the others are put back, and the provider is well again.
    let erased = acme.delete("/v1/entities/person-5").await?;
    ensure!(erased.status == 202, "{}", erased.body);
    stands(&acme, "bad-5", "erased").await?;
    let dry = redrive(&admin, &json!({"filter": {}, "dry_run": true})).await?;
    ensure!(dry["redriven"] == people - 1 && dry["reasons"] == json!({"erased": 1}), "{dry}");
    provider.always(Some(Behaviour::Well));
    let said = memori(&door.api(), &key, &["dead-letters", "redrive", "--class", "invalid_output", "--json"])?;
    let counts: Value = serde_json::from_str(said.lines().last().context("counts")?)?;
    ensure!(counts["redriven"] == people - 1 && counts["reasons"] == json!({"erased": 1}), "{said}");
    let log = admin.get("/v1/admin/audit").await?.body;
    let lines = log["acts"].as_array().into_iter().flatten().filter(|line| line["act"] == "dead_letters.redrive").count();
    ensure!(lines == 1, "one redrive, and a dry run that is none: {log}");
    for n in 0..people - 1 {
        let status = stands(&acme, &format!("bad-{n}"), "applied").await?;
        ensure!(status["facts"] == 1 && status.get("class").is_none(), "{status}");
        let expected = said_once(&[&format!("I like item{n}."), &format!("I visited place{n}.")]);
        let found = mentions(&acme, &format!("person-{n}")).await?;
        ensure!(found == expected, "{found:?}");
        let query = json!({"entity_id": format!("person-{n}"), "query": format!("item{n}")});
        let recalled = acme.post("/v1/recall", &query).await?.body;
        ensure!(recalled["facts"][0]["content"] == format!("Ann likes item{n}"), "{recalled}");
    }
    ensure!(stands(&acme, "bad-5", "erased").await?["facts"] == 0, "what was erased stays so");
    ensure!(acme.facts("person-5").await?.is_empty(), "nothing came back");

    // The same again changes nothing, and no letter is gone.
    let again = redrive(&admin, &json!({"filter": {}})).await?;
    ensure!(again["reasons"] == json!({"applied": people - 1, "erased": 1}) && again["redriven"] == 0, "{again}");
    let expected = BTreeMap::from([("applied".to_owned(), people - 1), ("erased".to_owned(), 1)]);
    ensure!(states(&admin, "").await? == expected, "letters are a set");

    // One that dies again has a second letter, of which the later counts.
    provider.always(None);
    post(&acme, "twice", "twice", "I like soup. [[provider:refusal]]").await?;
    acme.wait_final(&["twice".to_owned()], FINAL_WITHIN).await?;
    let first = redrive(&admin, &json!({"filter": {"event_id": "twice"}, "to_lane": "backfill"})).await?;
    ensure!(first["results"][0]["attempt"] == 1 && first["results"][0]["lane"] == "backfill", "{first}");
    let end = Instant::now() + FINAL_WITHIN;
    while states(&admin, "event_id=twice").await? != BTreeMap::from([("open".to_owned(), 1), ("superseded".to_owned(), 1)]) {
        ensure!(Instant::now() < end, "the copy did not die: {:?}", letters(&admin, "event_id=twice").await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(letters(&admin, "event_id=twice&state=open").await?[0]["class"] == "refused", "its class");

    // Redriven by two front doors that know nothing of each other: two equal copies, of which one counts.
    provider.always(Some(Behaviour::Unauthorized));
    for _ in 0..2 {
        let admin = as_admin(door);
        let sent = redrive(&admin, &json!({"filter": {"event_id": "twice"}})).await?;
        ensure!(sent["redriven"] == 1 && sent["reasons"] == json!({"superseded": 1}), "{sent}");
        let sent = sent["results"].as_array().into_iter().flatten().find(|one| one["result"] == "redriven").cloned();
        ensure!(sent.as_ref().is_some_and(|one| one["attempt"] == 2), "{sent:?}");
        let once_more = redrive(&admin, &json!({"filter": {"event_id": "twice", "state": "open"}})).await?;
        ensure!(once_more["reasons"] == json!({"under_way": 1}), "{once_more}");
        tokio::task::block_in_place(|| door.kill_and_restart())?;
    }
    provider.always(Some(Behaviour::Well));
    let acme = api();
    stands(&acme, "twice", "applied").await?;
    post(&acme, "twice", "after", "I visited Rome.").await?;
    acme.wait_final(&["after".to_owned()], FINAL_WITHIN).await?;
    let found = mentions(&acme, "twice").await?;
    ensure!(found == said_once(&["I like soup.", "I visited Rome."]), "{found:?}");
    let expected = BTreeMap::from([("applied".to_owned(), 2)]);
    ensure!(states(&as_admin(door), "event_id=twice").await? == expected, "both are applied since");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_what_was_given_up_is_put_back() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let env = environment(&provider);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut shape = Embedded::start(&tenants(), &env)?;
    let (address, key) = (shape.process.api(), shape.key("acme").to_owned());
    given_up_and_put_back(&provider, || Api::new(&address, Some(&key)), &mut shape.process).await?;
    let (list, admin) = (&["dead-letters", "list", "--state", "erased"][..], Keys::admin_of("acme"));
    let table = memori(&shape.process.api(), &admin, list)?;
    // Words, since an id may hold anything.
    let words: Vec<&str> = table.split_whitespace().collect();
    ensure!(words.contains(&"bad-5") && words.contains(&"invalid_output") && !words.contains(&"bad-4"), "{table}");
    let lines = memori(&shape.process.api(), &admin, &["dead-letters", "list", "--json", "--event", "bad-2"])?;
    let id = serde_json::from_str::<Value>(&lines)?["id"].as_str().context("an id")?.to_owned();
    let shown = memori(&shape.process.api(), &admin, &["dead-letters", "show", &id])?;
    ensure!(shown.contains("I like item2.") && shown.contains("applied"), "{shown}");
    let text = Api::new(&shape.process.admin(), None).metrics().await?;
    let count = |name: &str, labels: &[&str]| metric(&text, name, labels).unwrap_or(-1.0);
    ensure!(count("memori_ingest_redrive_refused_total", &["reason=\"applied\""]) >= 0.0, "refusals are counted");
    let log = shape.process.log_text();
    ensure!(!log.contains("item2") && !log.contains("soup"), "the log holds a conversation");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed_what_was_given_up_is_put_back() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let env = environment(&provider);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut shape = Distributed::start(Servers::shared()?, &tenants(), 2, &env).await?;
    let api = shape.api("acme");
    given_up_and_put_back(&provider, || api.clone(), &mut shape.ingest).await
}

/// Waits until a metric has a value.
async fn shows(admin: &Api, name: &str, wanted: f64) -> anyhow::Result<()> {
    let end = Instant::now() + FINAL_WITHIN;
    loop {
        let now = metric(&admin.metrics().await?, name, &[]);
        if now.is_some_and(|now| (now - wanted).abs() < 0.5) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{name} is {now:?} and not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A deploy that breaks everything: few events are given up, the rest waits, all are applied in the end.
async fn a_burst(provider: &Provider, acme: &Api, letters_of: &Api, admins: &[Api], ready: u16) -> anyhow::Result<()> {
    provider.always(Some(Behaviour::NotJson));
    let ids: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        post(acme, &format!("person-{n}"), id, &format!("I like item{n}.")).await?;
    }
    let end = Instant::now() + FINAL_WITHIN;
    let (paused, why) = 'paused: loop {
        for admin in admins {
            // As it is: a client of the API would take 503 for an answer that is yet to come.
            let answer = admin.send(admin.request(Method::GET, "/readyz")).await?;
            if answer.body.to_string().contains("a burst of dead letters") {
                break 'paused (admin, answer);
            }
        }
        ensure!(Instant::now() < end, "nobody says that there is a burst");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure!(why.body.to_string().contains("invalid_output") && why.body.to_string().contains("redrive"), "{}", why.body);
    ensure!(why.status == ready || why.body.to_string().contains("degraded"), "{}: {}", why.status, why.body);
    shows(paused, "memori_worker_dead_letter_burst", 1.0).await?;
    provider.always(Some(Behaviour::Well));
    acme.wait_final(&ids, FINAL_WITHIN).await?;
    let dead = letters(letters_of, "state=open&limit=1000").await?.len();
    // Each worker to its bound, and what it tried between pauses.
    ensure!(dead >= 4 && dead <= admins.len() * 8, "{dead} of {} were given up", ids.len());
    for admin in admins {
        shows(admin, "memori_worker_dead_letter_burst", 0.0).await?;
        ensure!(admin.get("/readyz").await?.status == 200, "ready again");
    }
    let again = redrive(letters_of, &json!({"filter": {"state": "open"}})).await?;
    ensure!(again["redriven"] == dead && again["refused"] == 0, "{again}");
    for (n, id) in ids.iter().enumerate() {
        stands(acme, id, "applied").await?;
        let found = mentions(acme, &format!("person-{n}")).await?;
        ensure!(found == said_once(&[&format!("I like item{n}.")]), "{found:?}");
    }
    Ok(())
}

const BURST: [(&str, &str); 2] = [("MEMORI__WORKER__DEAD_LETTER_BURST", "4"), ("MEMORI__WORKER__DEAD_LETTER_PAUSE_MS", "1500")];

#[tokio::test(flavor = "multi_thread")]
async fn embedded_a_burst_pauses_the_worker_and_not_the_door() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let env = environment(&provider);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(BURST).collect();
    let shape = Embedded::start(&tenants(), &env)?;
    let admin = Api::new(&shape.process.admin(), None);
    let letters_of = Api::new(&shape.process.api(), Some(&Keys::admin_of("acme")));
    a_burst(&provider, &shape.api("acme"), &letters_of, &[admin], 200).await
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed_a_burst_makes_workers_unready() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let env = environment(&provider);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(BURST).collect();
    let shape = Distributed::start(Servers::shared()?, &tenants(), 2, &env).await?;
    let admins: Vec<Api> = shape.workers.iter().map(|worker| Api::new(&worker.admin(), None)).collect();
    let letters_of = Api::new(&shape.ingest.api(), Some(&Keys::admin_of("acme")));
    if admins.is_empty() {
        bail!("there are no workers");
    }
    a_burst(&provider, &shape.api("acme"), &letters_of, &admins, 503).await
}
