//! Quotas at the front door: what is taken is what a tenant may, on one front door and on three together; each kind refuses with 429 and
//! says when to come again, and none refuses a call to a model; and a key is rotated while it is used, with no request refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::administration::{Operator, until_status};
use memori_tests::client::{Api, metric};
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::provider::Provider;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const IN_FILE: &str = "in-the-file";
/// What was changed is known at the front door that soon.
const QUICK: [(&str, &str); 2] = [("MEMORI__AUTH__KEY_CACHE_MS", "200"), ("MEMORI__INGEST__QUOTA_REFRESH_MS", "200")];
/// How long the pace is measured.
const SPAN: Duration = Duration::from_secs(10);
/// Events of one request: less than a hundredth of what is taken in all.
const TOGETHER: usize = 5;

fn event(entity_id: &str) -> Value {
    json!({"entity_id": entity_id, "messages": [{"role": "user", "content": "I like tea."}]})
}

/// Posts batches, without a pause but while nothing is taken, until told to stop. Counts what is taken.
async fn press(
    api: Api,
    who: usize,
    taken: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let body = json!({"events": vec![event(&format!("e{who}")); TOGETHER]});
    while !stop.load(Ordering::Relaxed) {
        let request = api.request(Method::POST, "/v1/events/batch").json(&body);
        let answer = api.send(request).await?;
        match answer.status {
            StatusCode::TOO_MANY_REQUESTS => {
                refused.fetch_add(TOGETHER, Ordering::Relaxed);
                // Sooner than it was told to, so that no share stays untaken.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            StatusCode::OK => {
                let results = answer.body["results"].as_array().context("results")?;
                let accepted = results.iter().filter(|result| result["status"] == "accepted").count();
                let by_quota = results.iter().filter(|result| result["error"]["status"] == 429).count();
                ensure!(accepted + by_quota == TOGETHER, "{}", answer.body);
                taken.fetch_add(accepted, Ordering::Relaxed);
                refused.fetch_add(by_quota, Ordering::Relaxed);
            }
            status => anyhow::bail!("{status}: {}", answer.body),
        }
    }
    Ok(())
}

/// Who presses each door at the same time: more than one, so that it is the quota that is met and not how fast one of them is.
const PRESSERS: usize = 4;

/// Events a second that all doors together take of those who press them evenly.
async fn pace(doors: &[Api]) -> anyhow::Result<f64> {
    let (taken, refused, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let pressing: Vec<_> = doors
        .iter()
        .cycle()
        .take(PRESSERS * doors.len())
        .enumerate()
        .map(|(who, api)| tokio::spawn(press(api.clone(), who, taken.clone(), refused.clone(), stop.clone())))
        .collect();
    // What was saved up goes first, until each door has refused.
    let since = Instant::now();
    while refused.load(Ordering::Relaxed) < TOGETHER * pressing.len() * 5 {
        ensure!(since.elapsed() < Duration::from_secs(60), "nothing is refused: {} taken", taken.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (begun, before) = (Instant::now(), taken.load(Ordering::Relaxed));
    tokio::time::sleep(SPAN).await;
    let (span, after) = (begun.elapsed(), taken.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    for presser in pressing {
        presser.await??;
    }
    Ok((after - before) as f64 / span.as_secs_f64())
}

fn within_a_tenth(what: &str, measured: f64, quota: f64) -> anyhow::Result<()> {
    tell(&format!("{what}: {measured:.1} events/s of a quota of {quota}"));
    ensure!((measured - quota).abs() <= quota / 10.0, "{what}: {measured:.1} events/s of a quota of {quota}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_front_door_keeps_a_quota_and_says_when_to_come_again() -> anyhow::Result<()> {
    let shape = Embedded::start(&[IN_FILE.to_owned()], &QUICK)?;
    let operator = Operator::at(&shape.process.api());
    operator.tenant("acme").await?;
    let key = operator.key("acme", &["events", "recall", "erase"], &json!({})).await?;
    let acme = operator.with(&key.key);
    let once = async |api: &Api, path: &str, body: &Value| api.send(api.request(Method::POST, path).json(body)).await;
    ensure!(once(&acme, "/v1/events", &event("e")).await?.status == StatusCode::ACCEPTED, "refused without a quota");

    operator.quotas("acme", &json!({"events_per_second": 80})).await?;
    within_a_tenth("one front door", pace(std::slice::from_ref(&acme)).await?, 80.0)?;

    // Nothing at all; and another tenant, whose key is in the file, is not touched.
    operator.quotas("acme", &json!({"events_per_second": 0})).await?;
    until_status(&acme, Method::POST, "/v1/events", Some(&event("e")), StatusCode::TOO_MANY_REQUESTS).await?;
    let other = shape.api(IN_FILE);
    ensure!(once(&other, "/v1/events", &event("e")).await?.status == StatusCode::ACCEPTED, "another tenant is refused");
    let recall = json!({"entity_id": "e", "query": "tea"});
    ensure!(once(&acme, "/v1/recall", &recall).await?.status == StatusCode::OK, "a quota of events refuses a recall");

    // A tenant whose key is in the file has quotas, too, once it is made.
    operator.tenant(IN_FILE).await?;
    operator.quotas(IN_FILE, &json!({"recalls_per_second": 1})).await?;
    let refused = until_status(&other, Method::POST, "/v1/recall", Some(&recall), StatusCode::TOO_MANY_REQUESTS).await?;
    ensure!(refused.body["detail"].as_str().is_some_and(|why| why.contains("recalls")), "{}", refused.body);
    let batch = json!({"queries": vec![recall.clone(); 20]});
    until_status(&other, Method::POST, "/v1/recall/batch", Some(&batch), StatusCode::OK).await?;
    let after = once(&other, "/v1/recall/batch", &batch).await?;
    ensure!(after.status == StatusCode::TOO_MANY_REQUESTS, "each query of a batch counts: {}", after.status);
    ensure!(once(&other, "/v1/events", &event("e")).await?.status == StatusCode::ACCEPTED, "a quota of recalls refuses an event");

    // Stored facts: full, and then again room.
    operator.quotas("acme", &json!({})).await?;
    until_status(&acme, Method::POST, "/v1/events", Some(&event("e")), StatusCode::ACCEPTED).await?;
    operator.quotas("acme", &json!({"stored_facts": 1})).await?;
    let full = until_status(&acme, Method::POST, "/v1/events", Some(&event("e")), StatusCode::TOO_MANY_REQUESTS).await;
    let full = match full {
        Ok(full) => full,
        Err(error) => anyhow::bail!("{error}: {}", operator.api().get("/v1/admin/tenants/acme/quotas").await?.body),
    };
    ensure!(full.body["detail"].as_str().is_some_and(|why| why.contains("facts")), "{}", full.body);
    for entity in acme.entities().await? {
        acme.delete(&format!("/v1/entities/{}", memori_tests::client::escape(&entity))).await?;
    }
    until_status(&acme, Method::POST, "/v1/events", Some(&event("another")), StatusCode::ACCEPTED).await?;

    // What was refused is counted by kind, and of what was used there is a bill.
    let metrics = Api::new(&shape.process.admin(), None).metrics().await?;
    for quota in ["events_per_second", "recalls_per_second", "stored_facts"] {
        let refused = metric(&metrics, "memori_ingest_quota_refused_total", &[&format!("quota=\"{quota}\"")]);
        ensure!(refused.is_some_and(|refused| refused > 0.0), "{quota}: {refused:?}");
    }
    let usage = operator.api().get("/v1/admin/tenants/acme/usage").await?.body;
    let line = &usage["usage"][0];
    ensure!(line["events"].as_i64().is_some_and(|events| events > 500) && line["tenant"] == "acme", "{usage}");
    let csv = operator.api().get("/v1/admin/usage?format=csv").await?.body;
    let lines: Vec<&str> = csv.as_str().context("CSV is a text")?.lines().collect();
    ensure!(lines[0].starts_with("tenant,day,events") && lines.iter().any(|line| line.starts_with("acme,")), "{lines:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_front_doors_keep_a_quota_together() -> anyhow::Result<()> {
    let servers = Servers::shared()?;
    let env = [&QUICK[..], &[("MEMORI__INGEST__REPLICAS", "3")]].concat();
    let shape = Distributed::start(servers, &[IN_FILE.to_owned()], 1, &env).await?;
    let (second, third) = (shape.another_door("ingest-2")?, shape.another_door("ingest-3")?);
    let operator = Operator::at(&shape.ingest.api());
    operator.tenant("acme").await?;
    let key = operator.key("acme", &["events"], &json!({})).await?;
    operator.quotas("acme", &json!({"events_per_second": 120})).await?;
    let doors: Vec<Api> = [&shape.ingest, &second, &third].iter().map(|door| Api::new(&door.api(), Some(&key.key))).collect();
    within_a_tenth("three front doors", pace(&doors).await?, 120.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_under_load_and_no_request_is_refused() -> anyhow::Result<()> {
    const ROTATIONS: usize = 6;
    let shape = Embedded::start(&[IN_FILE.to_owned()], &QUICK)?;
    let operator = Operator::at(&shape.process.api());
    operator.tenant("acme").await?;
    let mut key = operator.key("acme", &["events", "recall"], &json!({})).await?;
    let first = key.clone();
    let (in_use, present) = tokio::sync::watch::channel(operator.with(&key.key));
    let served = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..4)
        .map(|who| {
            let (present, served) = (present.clone(), served.clone());
            tokio::spawn(async move {
                while present.has_changed().is_ok() {
                    let api = present.borrow().clone();
                    let (path, body, expected) = match who % 2 {
                        0 => ("/v1/events", event(&format!("e{who}")), StatusCode::ACCEPTED),
                        _ => ("/v1/recall", json!({"entity_id": "e", "query": "tea"}), StatusCode::OK),
                    };
                    let answer = api.send(api.request(Method::POST, path).json(&body)).await?;
                    ensure!(answer.status == expected, "{path}: {}: {}", answer.status, answer.body);
                    served.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for _ in 0..ROTATIONS {
        let before = served.load(Ordering::Relaxed);
        // Each is used for a while before it is followed by the next.
        while served.load(Ordering::Relaxed) < before + 40 && callers.iter().all(|caller| !caller.is_finished()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        key = operator.rotate("acme", &key.id, 20).await?;
        in_use.send_replace(operator.with(&key.key));
    }
    let last = served.load(Ordering::Relaxed);
    while served.load(Ordering::Relaxed) < last + 40 && callers.iter().all(|caller| !caller.is_finished()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(in_use);
    for caller in callers {
        caller.await??;
    }
    tell(&format!("{} requests over {ROTATIONS} rotations, none refused", served.load(Ordering::Relaxed)));
    // The old one ends with its overlap, and says where it went.
    until_status(&operator.with(&first.key), Method::GET, "/v1/entities", None, StatusCode::UNAUTHORIZED).await?;
    let shown = operator.api().get(&format!("/v1/admin/tenants/acme/keys/{}", first.id)).await?.body;
    ensure!(shown["state"] == "expired" && shown["replaced_by"].is_string() && shown["last_used_at"].is_string(), "{shown}");
    let again = operator.api().post(&format!("/v1/admin/tenants/acme/keys/{}/rotate", first.id), &json!({})).await?;
    ensure!(again.status == StatusCode::CONFLICT, "{}: {}", again.status, again.body);
    Ok(())
}

/// A refusal as its caller sees it: the problem, and the seconds after which to come again.
async fn refusal(api: &Api, body: &Value) -> anyhow::Result<(Value, u64)> {
    let answer = api.request(Method::POST, "/v1/events").json(body).send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await?;
    ensure!(status == StatusCode::TOO_MANY_REQUESTS, "{status}: {text}");
    ensure!(headers[reqwest::header::CONTENT_TYPE] == "application/problem+json", "{headers:?}");
    let seconds = headers.get(reqwest::header::RETRY_AFTER).context("no Retry-After")?.to_str()?.parse()?;
    let problem: Value = serde_json::from_str(&text)?;
    ensure!(problem["status"] == 429 && problem["title"].is_string(), "{problem}");
    Ok((problem, seconds))
}

/// The day's tokens are used up: events are refused until the day ends, what was accepted before is extracted all the same, and recalls
/// go on.
#[tokio::test(flavor = "multi_thread")]
async fn used_up_tokens_refuse_events_and_no_call_to_a_model() -> anyhow::Result<()> {
    const WAITING: usize = 4;
    let provider = Provider::start().await?;
    let base_url = provider.base_url();
    let extractor = [
        ("MEMORI__EXTRACTOR__KIND", "llm"),
        ("MEMORI__EXTRACTOR__BASE_URL", &base_url),
        ("MEMORI__EXTRACTOR__MODEL", "double-1"),
        ("MEMORI__EXTRACTOR__API_KEY", "sk-of-the-double"),
        // One call after another, each of one event.
        ("MEMORI__EXTRACTOR__MAX_CONCURRENCY", "1"),
        ("MEMORI__WORKER__WINDOW_EVENTS", "1"),
        ("MEMORI__EMBEDDING__KIND", "none"),
    ];
    let shape = Embedded::start(&[IN_FILE.to_owned()], &[&QUICK[..], &extractor[..]].concat())?;
    let operator = Operator::at(&shape.process.api());
    operator.tenant("acme").await?;
    let acme = operator.with(&operator.key("acme", &["events", "recall"], &json!({})).await?.key);
    let said = |n: usize| json!({"event_id": format!("e{n}"), "entity_id": format!("person-{n}"), "messages": [{"role": "user", "content": format!("I own {n} cats.")}]});
    ensure!(acme.post("/v1/events", &said(0)).await?.status == StatusCode::ACCEPTED);
    acme.wait_final(&["e0".to_owned()], Duration::from_secs(60)).await?;

    // Accepted while there was no bound, and waiting for a slow model.
    provider.take_time(Duration::from_millis(1_500));
    let waiting: Vec<String> = (1..=WAITING).map(|n| format!("e{n}")).collect();
    for n in 1..=WAITING {
        ensure!(acme.post("/v1/events", &said(n)).await?.status == StatusCode::ACCEPTED);
    }
    operator.quotas("acme", &json!({"llm_tokens_per_day": 1})).await?;
    // A refused event is not kept, so that the same may be asked again and again.
    until_status(&acme, Method::POST, "/v1/events", Some(&said(99)), StatusCode::TOO_MANY_REQUESTS).await?;
    let refused_at = Instant::now();
    let (problem, seconds) = refusal(&acme, &said(99)).await?;
    ensure!(problem["detail"].as_str().is_some_and(|why| why.contains("tokens of this day")), "{problem}");
    let day = 24 * 3_600;
    let left = day - std::time::UNIX_EPOCH.elapsed()?.as_secs() % day;
    // Nobody is told to wait for longer than an hour.
    ensure!(
        (left.min(3_600)..=(left + 60).min(3_600)).contains(&seconds),
        "come again in {seconds} s, and the day has {left} s left"
    );
    ensure!(acme.post("/v1/recall", &json!({"entity_id": "person-0", "query": "cats"})).await?.status == StatusCode::OK);
    let other = shape.api(IN_FILE);
    ensure!(other.post("/v1/events", &event("e")).await?.status == StatusCode::ACCEPTED, "another tenant is refused");

    acme.wait_final(&waiting, Duration::from_secs(120)).await?;
    for n in 1..=WAITING {
        ensure!(!acme.facts(&format!("person-{n}")).await?.is_empty(), "nothing is known of person-{n}");
    }
    let later =
        provider.recorded().into_iter().filter(|call| call.at > refused_at && call.status == 200 && call.text().contains("cats"));
    ensure!(later.count() >= 1, "the model was not asked after events were refused");
    let metrics = Api::new(&shape.process.admin(), None).metrics().await?;
    let counted = metric(&metrics, "memori_ingest_quota_refused_total", &["quota=\"llm_tokens_per_day\""]);
    ensure!(counted.is_some_and(|refused| refused >= 2.0), "{counted:?}");
    Ok(())
}

/// Kafka is away: a tenant keeps its share of the spool and no more, another one has the rest, and all that was accepted is applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_share_of_the_spool_leaves_the_rest_to_others() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::start)?;
    let env = [&QUICK[..], &[("MEMORI__INGEST__SPOOL_MAX_BYTES", "262144")]].concat();
    let shape = Distributed::start(&servers, &[IN_FILE.to_owned()], 1, &env).await?;
    let operator = Operator::at(&shape.ingest.api());
    operator.tenant("acme").await?;
    let (acme, other) = (operator.with(&operator.key("acme", &["events", "recall"], &json!({})).await?.key), shape.api(IN_FILE));
    operator.quotas("acme", &json!({"spool_percent": 10, "events_per_second": 0})).await?;
    // A second quota tells when the first one is known.
    until_status(&acme, Method::POST, "/v1/events", Some(&event("e")), StatusCode::TOO_MANY_REQUESTS).await?;
    operator.quotas("acme", &json!({"spool_percent": 10})).await?;
    until_status(&acme, Method::POST, "/v1/events", Some(&event("e")), StatusCode::ACCEPTED).await?;
    let large = |id: &str| json!({"event_id": id, "entity_id": "e", "messages": [{"role": "user", "content": format!("I like tea. {}", "x".repeat(2_000))}]});
    tokio::task::block_in_place(|| servers.kill9_kafka())?;

    let mut accepted = Vec::new();
    let refused = loop {
        let id = format!("acme-{}", accepted.len());
        let answer = acme.send(acme.request(Method::POST, "/v1/events").json(&large(&id))).await?;
        if answer.status != StatusCode::ACCEPTED {
            break answer;
        }
        ensure!(answer.body["durable_in"] == "spool", "{}", answer.body);
        accepted.push(id);
        ensure!(accepted.len() < 100, "a tenth of the spool takes all of it");
    };
    ensure!(
        refused.status == StatusCode::TOO_MANY_REQUESTS && accepted.len() >= 5,
        "{} after {}",
        refused.status,
        accepted.len()
    );
    let (problem, seconds) = refusal(&acme, &large("late")).await?;
    ensure!(
        problem["detail"].as_str().is_some_and(|why| why.contains("share of what can be kept")) && seconds == 2,
        "{seconds}: {problem}"
    );
    // Twice as much as the other one's share, and there is room.
    let more: Vec<String> = (0..accepted.len() * 2).map(|n| format!("other-{n}")).collect();
    for id in &more {
        let answer = other.send(other.request(Method::POST, "/v1/events").json(&large(id))).await?;
        ensure!(
            answer.status == StatusCode::ACCEPTED && answer.body["durable_in"] == "spool",
            "{}: {}",
            answer.status,
            answer.body
        );
    }
    ensure!(acme.post("/v1/recall", &json!({"entity_id": "e", "query": "tea"})).await?.status == StatusCode::OK);
    let metrics = Api::new(&shape.ingest.admin(), None).metrics().await?;
    let counted = metric(&metrics, "memori_ingest_quota_refused_total", &["quota=\"spool_share\""]);
    ensure!(counted == Some(2.0), "{counted:?}");
    ensure!(metric(&metrics, "memori_ingest_spool_full_total", &[]) == Some(0.0), "the spool was full");

    tokio::task::block_in_place(|| servers.restart_kafka())?;
    acme.wait_final(&accepted, Duration::from_secs(180)).await?;
    other.wait_final(&more, Duration::from_secs(180)).await?;
    let again = until_status(&acme, Method::POST, "/v1/events", Some(&large("late")), StatusCode::ACCEPTED).await?;
    ensure!(again.body["durable_in"] == "log", "{}", again.body);
    Ok(())
}
