//! Windows from outside: events of one session in one call, against a double of the provider that finds one fact per message of a
//! person. Fewer calls, and the same memory as with one call per event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::client::{Api, escape, metric};
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::provider::Provider;
use memori_tests::servers::Servers;
use serde_json::{Value, json};

const MODEL: &str = "double-1";
const FINAL_WITHIN: Duration = Duration::from_secs(300);
/// Longer than any of these tests may take: what ends a window sooner is what the test is about.
const LONG_MS: &str = "3600000";
/// Turns of one session.
const SESSION: usize = 20;

fn environment<'e>(base_url: &'e str, more: &[(&'e str, &'e str)]) -> Vec<(&'e str, &'e str)> {
    let mut env = vec![
        ("MEMORI__EXTRACTOR__KIND", "llm"),
        ("MEMORI__EXTRACTOR__BASE_URL", base_url),
        ("MEMORI__EXTRACTOR__MODEL", MODEL),
        ("MEMORI__EXTRACTOR__PRICE_IN_PER_MILLION", "2"),
        ("MEMORI__EXTRACTOR__PRICE_OUT_PER_MILLION", "8"),
        ("MEMORI__EMBEDDING__KIND", "none"),
    ];
    env.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
    env.extend(more);
    env
}

fn start(provider: &Provider, more: &[(&str, &str)]) -> anyhow::Result<Embedded> {
    let base_url = provider.base_url();
    Embedded::start(&["acme".to_owned(), "beta".to_owned()], &environment(&base_url, more))
}

/// A turn, half a minute after the one before it.
fn turn(entity: &str, session: &str, number: usize, text: &str) -> Value {
    let at = jiff::Timestamp::from_second(1_767_225_600 + 30 * i64::try_from(number).unwrap_or(0)).map(|at| at.to_string());
    json!({"event_id": format!("{entity}-{session}-{number}"), "entity_id": entity, "process_id": "bot", "session_id": session,
    "occurred_at": at.unwrap_or_default(), "messages": [
        {"role": "user", "name": "Ann", "content": text},
        {"role": "assistant", "content": "I see. Is there anything else that you would like to tell me?"},
    ]})
}

fn id_of(event: &Value) -> String {
    event["event_id"].as_str().unwrap_or_default().to_owned()
}

async fn post(api: &Api, events: &[Value]) -> anyhow::Result<Vec<String>> {
    for some in events.chunks(500) {
        let answer = api.post("/v1/events/batch", &json!({"events": some})).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
        let results = answer.body["results"].as_array().context("results")?;
        ensure!(results.iter().all(|result| result["status"] == "accepted"), "{}", answer.body);
    }
    Ok(events.iter().map(id_of).collect())
}

/// One fact per message of a person: most of them new, some said before, some that take another's place.
fn said(number: usize) -> String {
    match number % 5 {
        0 => "I like tea.".to_owned(),
        1 => format!("I live in Town{}.", number % 3),
        _ => format!("I visited place{number}."),
    }
}

/// Everything that memory shows of these people: each fact with what is counted of it, when it holds, and the messages that say it.
async fn memory(api: &Api, people: &[String]) -> anyhow::Result<BTreeMap<(String, String), Value>> {
    let mut all = BTreeMap::new();
    for person in people {
        for fact in api.facts(person).await? {
            if fact["kind"] != "fact" {
                continue;
            }
            let id = fact["fact_id"].as_str().context("an id")?;
            let lineage = api.get(&format!("/v1/facts/{}/lineage", escape(id))).await?;
            let mentions = lineage.body["mentions"].as_array().context("mentions")?;
            let said: Vec<Value> =
                mentions.iter().map(|mention| json!([mention["event_id"], mention["message_index"]])).collect();
            let shown = json!({"id": id, "mentions": fact["mentions"], "from": fact["valid_from"], "to": fact["valid_to"],
                "first": fact["first_mentioned_at"], "last": fact["last_mentioned_at"], "said": said});
            all.insert((person.clone(), fact["content"].as_str().context("a content")?.to_owned()), shown);
        }
    }
    Ok(all)
}

/// `1,000` turns with `MEMORI_SOAK=1`, else a few.
#[tokio::test(flavor = "multi_thread")]
async fn windows_save_three_calls_of_four_and_the_memory_is_the_same() -> anyhow::Result<()> {
    let turns = if std::env::var("MEMORI_SOAK").is_ok_and(|soak| soak == "1") { 1_000 } else { 120 };
    let sessions: Vec<(String, String)> =
        (0..turns / SESSION).map(|n| (format!("person-{}", n % 10), format!("session-{}", n / 10))).collect();
    let mut people: Vec<String> = sessions.iter().map(|(person, _)| person.clone()).collect();
    people.sort();
    people.dedup();
    // People talk beside each other, each of them in one session after the other.
    let events: Vec<Value> = sessions
        .chunks(10)
        .enumerate()
        .flat_map(|(round, some)| {
            (0..SESSION).flat_map(move |n| {
                let number = round * SESSION + n;
                some.iter().map(move |(person, session)| turn(person, session, number, &said(number)))
            })
        })
        .collect();
    ensure!(events.len() == turns, "{} turns", events.len());

    let mut memories = Vec::new();
    let mut calls = Vec::new();
    for window_events in ["1", "8"] {
        let provider = Provider::start().await?;
        let shape = start(&provider, &[("MEMORI__WORKER__WINDOW_EVENTS", window_events)])?;
        let api = shape.api("acme");
        let ids = post(&api, &events).await?;
        api.wait_final(&ids, FINAL_WITHIN).await?;
        memories.push(memory(&api, &people).await?);
        calls.push(provider.recorded().len());
        let text = Api::new(&shape.process.admin(), None).metrics().await?;
        let counted = |name: &str| metric(&text, name, &["lane=\"live\""]).unwrap_or(0.0);
        ensure!((counted("memori_worker_events_extracted_total") - turns as f64).abs() < 0.5, "each event has an outcome");
        ensure!((counted("memori_worker_extractions_total") - provider.recorded().len() as f64).abs() < 0.5, "calls are counted");
    }
    let per_thousand = calls[1] * 1_000 / turns;
    eprintln!("{turns} turns: {} calls one by one, {} in windows: {per_thousand} per 1,000 turns", calls[0], calls[1]);
    ensure!(calls[0] == turns, "{} calls for {turns} turns", calls[0]);
    ensure!(per_thousand <= 250, "{per_thousand} calls per 1,000 turns");
    let expected: usize = people.len() * 5;
    ensure!(memories[0].len() >= expected, "{} facts", memories[0].len());
    for (fact, alone) in &memories[0] {
        ensure!(memories[1].get(fact) == Some(alone), "{fact:?}: {alone} alone, {:?} in windows", memories[1].get(fact));
    }
    ensure!(memories[0].len() == memories[1].len(), "{} facts alone, {} in windows", memories[0].len(), memories[1].len());
    Ok(())
}

/// Three turns wait for more of their session until somebody waits for one of them.
async fn a_wait_ends_a_window(api: &Api, provider: &Provider) -> anyhow::Result<()> {
    let events: Vec<Value> = (0..3).map(|n| turn("ann", "s", n, &format!("I visited place{n}."))).collect();
    let ids = post(api, &events).await?;
    let look = |body: Value| async move { anyhow::Ok(api.post("/v1/events/wait", &body).await?.body) };
    let unhurried = look(json!({"event_ids": ids, "timeout_ms": 700, "flush": false})).await?;
    ensure!(unhurried["complete"] == false && provider.recorded().is_empty(), "{unhurried}");
    let only_looked = look(json!({"event_ids": ids, "timeout_ms": 0})).await?;
    ensure!(only_looked["complete"] == false && provider.recorded().is_empty(), "{only_looked}");
    api.wait_final(&ids[..1], FINAL_WITHIN).await?;
    api.wait_final(&ids, FINAL_WITHIN).await?;
    let recorded = provider.recorded();
    ensure!(recorded.len() == 1, "{} calls", recorded.len());
    let shown = recorded[0].conversation().context("a conversation")?;
    ensure!(shown["messages"].as_array().map(Vec::len) == Some(6), "{shown}");

    // The next window has the next of them, and one session does not wait for another of the same person.
    let next = post(api, &[turn("ann", "s", 3, "I like tea."), turn("ann", "t", 4, "I like rum.")]).await?;
    api.wait_final(&next, FINAL_WITHIN).await?;
    ensure!(provider.recorded().len() == 3, "{} calls", provider.recorded().len());
    for id in ids.iter().chain(&next) {
        ensure!(api.event(id).await?.context("a status")?["status"] == "applied", "{id}");
    }
    Ok(())
}

const PATIENT: [(&str, &str); 2] = [("MEMORI__WORKER__WINDOW_IDLE_MS", LONG_MS), ("MEMORI__WORKER__WINDOW_AGE_MS", LONG_MS)];

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_windows_at_once_in_one_process() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let shape = start(&provider, &PATIENT)?;
    a_wait_ends_a_window(&shape.api("acme"), &provider).await?;
    let text = Api::new(&shape.process.admin(), None).metrics().await?;
    ensure!(metric(&text, "memori_ingest_flushes_total", &["result=\"sent\""]).unwrap_or(0.0) >= 2.0, "flushes are counted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_windows_at_once_in_processes_of_their_own() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let base_url = provider.base_url();
    let shape = Distributed::start(servers, &["acme".to_owned()], 1, &environment(&base_url, &PATIENT)).await?;
    a_wait_ends_a_window(&shape.api("acme"), &provider).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_again_is_a_mention_and_what_ended_is_closed() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    // Whatever is known, the model is to see it.
    let shape = start(&provider, &[("MEMORI__EXTRACTOR__KNOWN_FACTS_TIMEOUT_MS", "10000")])?;
    let api = shape.api("acme");
    for (n, text) in ["I like tea. I like rain.", "I like tea.", "I no longer like tea."].into_iter().enumerate() {
        let ids = post(&api, &[turn("ann", "s", n, text)]).await?;
        api.wait_final(&ids, FINAL_WITHIN).await?;
    }
    let updates: Vec<Value> = provider
        .recorded()
        .iter()
        .filter_map(|request| {
            Some(request.conversation()?["known"].as_array()?.iter().filter(|k| k["number"].is_i64()).count().into())
        })
        .collect();
    ensure!(updates[0] == 0 && updates[2].as_u64() >= Some(2), "known facts are shown with numbers: {updates:?}");
    let facts = api.facts("ann").await?;
    let of = |text: &str| facts.iter().find(|fact| fact["content"] == text).cloned().context(text.to_owned());
    let tea = of("Ann likes tea")?;
    ensure!(tea["mentions"] == 3 && tea["valid_from"] == "2026-01-01T00:00:00Z", "{tea}");
    ensure!(tea["valid_to"] == "2026-01-01T00:01:00Z", "it holds until it was taken back: {tea}");
    ensure!(of("Ann likes rain")?["valid_to"].is_null(), "nothing else has ended");
    let recalled = api.post("/v1/recall", &json!({"entity_id": "ann", "query": "What does Ann like to drink? tea"})).await?;
    let texts: Vec<&Value> = recalled.body["facts"].as_array().context("facts")?.iter().map(|fact| &fact["content"]).collect();
    ensure!(!texts.contains(&&json!("Ann likes tea")), "{texts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_wishes_stand_in_its_prompts_and_its_use_is_counted() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let wish = "Only what they eat and drink. END WISHES";
    let shape = start(&provider, &[("MEMORI__EXTRACTOR__TENANTS__ACME__INSTRUCTIONS", wish)])?;
    let mut hashes = Vec::new();
    for tenant in ["acme", "beta"] {
        let api = shape.api(tenant);
        let ids = post(&api, &[turn(tenant, "s", 0, "I like tea.")]).await?;
        api.wait_final(&ids, FINAL_WITHIN).await?;
        let facts = api.facts(tenant).await?;
        let fact = facts.iter().find(|fact| fact["kind"] == "fact").context("a fact")?;
        let lineage = api.get(&format!("/v1/facts/{}/lineage", escape(fact["fact_id"].as_str().context("an id")?))).await?;
        hashes.push(lineage.body["mentions"][0]["prompt_hash"].clone());
    }
    ensure!(hashes[0] != hashes[1] && hashes.iter().all(Value::is_string), "{hashes:?}");
    let shown: Vec<bool> = provider.recorded().iter().map(|request| request.text().contains("Only what they eat")).collect();
    ensure!(shown == [true, false], "{shown:?}");
    let text = Api::new(&shape.process.admin(), None).metrics().await?;
    for tenant in ["acme", "other"] {
        let labels = [format!("tenant=\"{tenant}\""), "lane=\"live\"".to_owned(), format!("model=\"{MODEL}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        ensure!(metric(&text, "memori_llm_usage_cost_micros_total", &labels).unwrap_or(0.0) > 0.0, "{tenant}");
        for direction in ["direction=\"in\"", "direction=\"out\""] {
            let labels: Vec<&str> = labels.iter().copied().chain([direction]).collect();
            ensure!(metric(&text, "memori_llm_usage_tokens_total", &labels).unwrap_or(0.0) > 0.0, "{tenant} {direction}");
        }
    }
    ensure!(!text.contains("beta"), "a tenant that is not named has no label");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_nobody_waits_for_ends_by_itself() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let shape = start(&provider, &[("MEMORI__WORKER__WINDOW_IDLE_MS", "300"), ("MEMORI__WORKER__WINDOW_AGE_MS", LONG_MS)])?;
    let api = shape.api("acme");
    let ids = post(&api, &[turn("ann", "s", 0, "I like tea."), turn("ann", "s", 1, "I like rum.")]).await?;
    let since = Instant::now();
    loop {
        let answer = api.post("/v1/events/wait", &json!({"event_ids": ids, "timeout_ms": 5_000, "flush": false})).await?;
        if answer.body["complete"] == true {
            break;
        }
        ensure!(since.elapsed() < FINAL_WITHIN, "{}", answer.body);
    }
    ensure!(provider.recorded().len() == 1, "{} calls", provider.recorded().len());
    Ok(())
}
