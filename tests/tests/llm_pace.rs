//! How fast the `llm` extractor asks, from outside: the real program against a double that fails in phases, that has a capacity which
//! it tells nobody, and beside another one. Nothing is lost, nothing is done twice, dead letters are exactly the hopeless events, and
//! what a provider can do is used again soon after it can.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use memori_tests::client::{Api, metric};
use memori_tests::embedded::Embedded;
use memori_tests::provider::{Behaviour, Beyond, Capacity, PerMinute, Provider, Recorded, answers};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

const FINAL_WITHIN: Duration = Duration::from_secs(180);
/// Of the calls at a time that are allowed; small enough for a machine that does everything at once.
const AT_A_TIME: &str = "16";

fn start(provider: &Provider, more: &[(&str, &str)]) -> anyhow::Result<Embedded> {
    let base_url = provider.base_url();
    let mut env = vec![
        ("MEMORI__EXTRACTOR__KIND", "llm"),
        ("MEMORI__EXTRACTOR__BASE_URL", base_url.as_str()),
        ("MEMORI__EXTRACTOR__MODEL", "double-1"),
        ("MEMORI__EXTRACTOR__TIMEOUT_MS", "1500"),
        ("MEMORI__EXTRACTOR__KNOWN_FACTS_TOKENS", "0"),
        ("MEMORI__EXTRACTOR__MAX_CONCURRENCY", AT_A_TIME),
        ("MEMORI__WORKER__WINDOW_EVENTS", "1"),
        ("MEMORI__EMBEDDING__KIND", "none"),
    ];
    env.retain(|(name, _)| more.iter().all(|(other, _)| name != other));
    env.extend(more);
    Embedded::start(&["acme".to_owned()], &env)
}

/// Event `n` of the entity whose it is; every 40th cannot be extracted by anybody.
struct Planned {
    id: String,
    entity: String,
    text: String,
    dead_as: Option<&'static str>,
}

fn planned(n: usize, entities: usize) -> Planned {
    const HOPELESS: [(&str, &str); 3] =
        [("server-error", "expired"), ("content-policy", "refused"), ("not-json", "invalid_output")];
    let hopeless = (n % 40 == 39).then(|| HOPELESS[(n / 40) % HOPELESS.len()]);
    let order = hopeless.map(|(order, _)| format!(" [[provider:{order}]].")).unwrap_or_default();
    Planned {
        id: format!("e{n}"),
        entity: format!("person-{}", n % entities),
        text: format!("I like item{n}x.{order}"),
        dead_as: hopeless.map(|(_, class)| class),
    }
}

/// Some at a time, which are of different entities, so that each entity's are accepted in their order.
async fn post_all(api: &Api, events: &[Planned]) -> anyhow::Result<()> {
    for some in events.chunks(16) {
        let posts = some.iter().map(|event| async {
            let body = json!({"event_id": event.id, "entity_id": event.entity, "process_id": "bot", "session_id": "s",
                "messages": [{"role": "user", "name": "Ann", "content": event.text}]});
            let answer = api.post("/v1/events", &body).await?;
            ensure!(answer.status == 202, "{}: {}", answer.status, answer.body);
            Ok(())
        });
        futures::future::try_join_all(posts).await?;
    }
    Ok(())
}

/// Each event has come to what it had to come to, once, and each entity's were asked about one after the other.
async fn audit(api: &Api, admin: &Api, provider: &Provider, events: &[Planned]) -> anyhow::Result<()> {
    let mut said = BTreeMap::<&str, BTreeSet<String>>::new();
    let mut dead = 0;
    for event in events {
        let status = api.event(&event.id).await?.context("a status")?;
        match event.dead_as {
            None => {
                ensure!(status["status"] == "applied" && status["facts"] == 1, "{}: {status}", event.id);
                let found = answers::facts_of("Ann", &event.text).into_iter().map(|found| found.text);
                said.entry(&event.entity).or_default().extend(found);
            }
            Some(class) => {
                ensure!(status["status"] == "dead_lettered" && status["class"] == class, "{} ({class}): {status}", event.id);
                dead += 1;
            }
        }
    }
    for (entity, expected) in &said {
        let facts = api.facts(entity).await?;
        let found: Vec<&str> =
            facts.iter().filter(|fact| fact["kind"] == "fact").filter_map(|fact| fact["content"].as_str()).collect();
        let set: BTreeSet<String> = found.iter().map(|text| (*text).to_owned()).collect();
        ensure!(found.len() == set.len() && set == *expected, "{entity}: {found:?}");
    }
    let text = admin.metrics().await?;
    let count = |name: &str| metric(&text, name, &[]).unwrap_or(0.0);
    ensure!(
        count("memori_worker_events_dead_lettered_total") == f64::from(dead),
        "each hopeless event is one dead letter\n{text}"
    );
    let extracted = count("memori_worker_events_extracted_total");
    ensure!(extracted == events.len() as f64 - f64::from(dead), "{extracted} were extracted: one went twice");

    let mut asked = BTreeMap::<usize, (usize, usize)>::new();
    for (place, request) in provider.recorded().iter().enumerate() {
        let Some(n) = event_of(request) else { continue };
        let (_, last) = asked.entry(n).or_insert((place, place));
        *last = place;
    }
    let mut last = BTreeMap::<&str, usize>::new();
    for event in events {
        let n: usize = event.id.trim_start_matches('e').parse()?;
        let (from, to) = asked.get(&n).with_context(|| format!("nothing was asked about {}", event.id))?;
        let before = last.insert(&event.entity, *to);
        ensure!(before.is_none_or(|before| before < *from), "{} was asked about before the one before it was done", event.id);
    }
    Ok(())
}

/// Which event a request is about.
fn event_of(request: &Recorded) -> Option<usize> {
    let data = request.conversation()?;
    let text = data["messages"].as_array()?.iter().find_map(|message| message["text"].as_str())?.to_owned();
    text.split_once("item")?.1.split_once('x')?.0.parse().ok()
}

/// Calls since that moment that the provider was there for: answered well, or as their own event asks for. Those of hopeless events take
/// the same time, and there are more of them as the run goes on.
fn answered_since(provider: &Provider, since: Instant) -> usize {
    let is_served = |request: &&Recorded| is_good(request) || request.text().contains("[[provider:");
    provider.look(|recorded| recorded.iter().rev().take_while(|request| request.at >= since).filter(is_served).count())
}

fn is_good(request: &Recorded) -> bool {
    request.status == 200 && request.behaviour == Behaviour::Well && request.conversation().is_some()
}

/// The greatest number of good answers within two seconds, watched for so long or until it is `enough`; and when that was.
async fn rate(provider: &Provider, patience: Duration, enough: usize) -> (usize, Duration) {
    let begin = Instant::now();
    let mut best = 0;
    while begin.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let window = Instant::now().checked_sub(Duration::from_secs(2)).map_or(begin, |since| since.max(begin));
        best = best.max(answered_since(provider, window));
        if best >= enough {
            break;
        }
    }
    (best, begin.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_provider_does_for_a_while_costs_no_event_and_no_more_time_than_that() -> anyhow::Result<()> {
    const PHASES: [Behaviour; 7] = [
        Behaviour::RateLimited,
        Behaviour::ServerError,
        Behaviour::Unavailable,
        Behaviour::Hang,
        Behaviour::Garbage,
        Behaviour::Reset,
        Behaviour::Unauthorized,
    ];
    // Nine tenths within ten seconds is what the simulations hold it to, in their own time; of a machine that does everything at once
    // it is asked whether it comes back at all.
    let is_soak = std::env::var("MEMORI_SOAK").is_ok_and(|soak| soak == "1");
    let (count, share, within) = if is_soak { (10_000, 9, Duration::from_secs(10)) } else { (1_000, 5, Duration::from_secs(30)) };
    let seed = std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("MEMORI_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let provider = Provider::start().await?;
    provider.take_about(Duration::from_millis(500), 0.3);
    let shape = start(&provider, &[])?;
    let (api, admin) = (shape.api("acme"), Api::new(&shape.process.admin(), None));
    let events: Vec<Planned> = (0..count).map(|n| planned(n, count / 4 - 1)).collect();
    post_all(&api, &events).await?;
    // Until the limit has settled.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let usual = answered_since(&provider, begin) / 2;
    ensure!(usual >= 20, "{usual} answers in two seconds before anything happens");

    let mut at = random.random_range(0..PHASES.len());
    let mut slowest = Duration::ZERO;
    let mut measured = 0;
    // While there is enough left to measure by.
    while done(&provider) + 5 * usual < count {
        let phase = PHASES[at % PHASES.len()];
        at += 1;
        let lasts = Duration::from_millis(random.random_range(500..4_000));
        provider.always(Some(phase));
        tokio::time::sleep(lasts).await;
        provider.always(None);
        let enough = usual * share / 10;
        let (again, took) = rate(&provider, within, enough).await;
        if again < enough {
            let text = admin.metrics().await?;
            let now = ["memori_llm_limit", "memori_llm_in_flight", "memori_llm_breaker", "memori_worker_events_in_flight"]
                .map(|name| format!("{name} {:?}", metric(&text, name, &[])));
            bail!(
                "seed {seed}: {lasts:?} of {phase:?}, and {within:?} later {again} answers in two seconds for {usual} before; {}",
                now.join(", ")
            );
        }
        slowest = slowest.max(took);
        measured += 1;
    }
    ensure!(measured >= 2, "{measured} phases");
    eprintln!("{measured} phases; {usual} answers in two seconds; back to {share} tenths within {slowest:?}");
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    api.wait_final(&ids, FINAL_WITHIN).await?;
    audit(&api, &admin, &provider, &events).await.with_context(|| format!("seed {seed}"))
}

/// Each request about an event, and how many of the sixteen before and after it were answered well.
fn story(provider: &Provider, event: &Planned) -> String {
    let (recorded, n) = (provider.recorded(), event.id.trim_start_matches('e').parse().ok());
    let well = |range: &[Recorded]| range.iter().filter(|request| request.status == 200).count();
    let about = recorded.iter().enumerate().filter(|(_, request)| event_of(request) == n);
    let lines = about.map(|(place, request)| {
        let (before, after) =
            (&recorded[place.saturating_sub(16)..place], &recorded[place + 1..(place + 17).min(recorded.len())]);
        let (behaviour, status) = (request.behaviour, request.status);
        format!("request {place} of {}: {behaviour:?}, {status}; {} before, {} after", recorded.len(), well(before), well(after))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Events that were answered well.
fn done(provider: &Provider) -> usize {
    provider
        .look(|recorded| recorded.iter().filter(|request| is_good(request)).filter_map(event_of).collect::<BTreeSet<_>>().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_at_random_dead_letter_no_good_event() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    provider.take_about(Duration::from_millis(30), 0.3);
    let shape = start(&provider, &[("MEMORI__WORKER__MAX_ATTEMPTS", "3")])?;
    let (api, admin) = (shape.api("acme"), Api::new(&shape.process.admin(), None));
    // Two of three calls fail, whoever asks.
    let mut random = StdRng::seed_from_u64(7);
    let kinds =
        [Behaviour::ServerError, Behaviour::Reset, Behaviour::Garbage, Behaviour::Well, Behaviour::Well, Behaviour::Unavailable];
    provider.script((0..900).map(|_| kinds[random.random_range(0..kinds.len())]));
    let events: Vec<Planned> = (0..150).map(|n| planned(n, 30)).collect();
    post_all(&api, &events).await?;
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    api.wait_final(&ids, FINAL_WITHIN).await?;
    for event in &events {
        let status = api.event(&event.id).await?.context("a status")?;
        let is_right = event.dead_as.map_or(status["status"] == "applied", |class| status["class"] == class);
        // A hopeless event may meet a good answer from the script, and then it is one.
        ensure!(
            is_right || (event.dead_as.is_some() && status["status"] == "applied"),
            "{}: {status}\n{}",
            event.id,
            story(&provider, event)
        );
    }
    let text = admin.metrics().await?;
    ensure!(
        metric(&text, "memori_worker_retries_total", &["reason=\"unavailable\""]).unwrap_or(0.0) > 100.0,
        "calls failed\n{text}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_settles_at_a_hidden_capacity_and_follows_it() -> anyhow::Result<()> {
    // How near it comes is what the simulations hold it to, in their own time. A machine that does everything at once may never have
    // enough calls under way to meet the capacity; then it has nothing to be found out by.
    // With a few round trips to settle in, and a few to be looked at, one trial with half as many calls is a great part of the mean.
    let is_long = std::env::var_os("MEMORI_SOAK").is_some();
    let (within, call_ms, count, settles_s, looks_s) =
        if is_long { (0.15, 150, 24_000, 16, 24) } else { (0.35, 600, 3_000, 8, 8) };
    let provider = Provider::start().await?;
    provider.take_about(Duration::from_millis(call_ms), 0.3);
    let refusals = || provider.look(|recorded| recorded.iter().filter(|request| request.status == 429).count());
    let takes = |slots| Capacity { slots: Some(slots), beyond: Beyond::Refused { retry_after: None }, per_minute: None };
    provider.has(takes(30));
    let shape = start(&provider, &[("MEMORI__EXTRACTOR__MAX_CONCURRENCY", "100")])?;
    let (api, admin) = (shape.api("acme"), Api::new(&shape.process.admin(), None));
    let events: Vec<Planned> = (0..count).filter(|n| n % 40 != 39).map(|n| planned(n, 400)).collect();
    post_all(&api, &events).await?;
    for slots in [30, 20, 30] {
        provider.has(takes(slots));
        tokio::time::sleep(Duration::from_secs(settles_s)).await;
        let before = refusals();
        let mean = mean_limit(&admin, Duration::from_secs(looks_s)).await?;
        let met = refusals() > before;
        ensure!(
            !met || (mean / slots as f64 - 1.0).abs() <= within,
            "the limit is {mean:.1} on the mean for a capacity of {slots}"
        );
    }
    let (refused, asked) = (refusals(), provider.look(<[_]>::len));
    ensure!(refused * 20 < asked, "{refused} of {asked} were refused");
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    api.wait_final(&ids, FINAL_WITHIN).await
}

/// The limit's mean over a while.
async fn mean_limit(admin: &Api, span: Duration) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let (mut sum, mut looks) = (0.0, 0.0);
    while begin.elapsed() < span {
        let text = admin.metrics().await?;
        sum += metric(&text, "memori_llm_limit", &["endpoint=\"0\""]).context("a limit")?;
        looks += 1.0;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(sum / looks)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_tells_of_its_limits_is_kept_to() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    provider.take_about(Duration::from_millis(50), 0.3);
    let per_minute = Some(PerMinute { requests: 600.0, burst: 12.0, tells: true });
    provider.has(Capacity { per_minute, ..Capacity::default() });
    let shape = start(&provider, &[])?;
    let api = shape.api("acme");
    let events: Vec<Planned> = (0..100).filter(|n| n % 40 != 39).map(|n| planned(n, 100)).collect();
    let began = Instant::now();
    post_all(&api, &events).await?;
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    api.wait_final(&ids, FINAL_WITHIN).await?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(60), "98 requests took {took:?} at 10 a second");
    // Who has not been told anything yet, or asks while an answer is on its way, may ask one too many.
    let refused = provider.recorded().iter().filter(|request| request.status == 429).count();
    ensure!(refused <= 8, "{refused} of {} were refused", provider.recorded().len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_endpoints_share_calls_by_weight_and_take_over_from_one_that_is_away() -> anyhow::Result<()> {
    let (mut first, second) = (Provider::start().await?, Provider::start().await?);
    for provider in [&first, &second] {
        provider.take_about(Duration::from_millis(100), 0.3);
    }
    let (a, b) = (first.base_url(), second.base_url());
    let shape = start(
        &first,
        &[
            ("MEMORI__EXTRACTOR__ENDPOINTS__0__NAME", "main"),
            ("MEMORI__EXTRACTOR__ENDPOINTS__0__BASE_URL", &a),
            ("MEMORI__EXTRACTOR__ENDPOINTS__0__WEIGHT", "3"),
            ("MEMORI__EXTRACTOR__ENDPOINTS__1__NAME", "spare"),
            ("MEMORI__EXTRACTOR__ENDPOINTS__1__BASE_URL", &b),
            ("MEMORI__EXTRACTOR__ENDPOINTS__1__MODEL", "double-2"),
        ],
    )?;
    let (api, admin) = (shape.api("acme"), Api::new(&shape.process.admin(), None));
    let events: Vec<Planned> = (0..280).filter(|n| n % 40 != 39).map(|n| planned(n, 10_000)).collect();
    let (before, after) = events.split_at(140);
    let ids = |events: &[Planned]| events.iter().map(|event| event.id.clone()).collect::<Vec<String>>();
    // Few at a time, which either would have room for: what one has no room for goes to the other, whatever the weights.
    for some in before.chunks(4) {
        post_all(&api, some).await?;
        api.wait_final(&ids(some), FINAL_WITHIN).await?;
    }
    let shares = [&first, &second].map(|provider| provider.recorded().iter().filter(|request| is_good(request)).count());
    ensure!(shares[1] >= 20 && shares[0] >= 2 * shares[1], "{shares:?} for weights 3 and 1");

    first.go_down().await;
    // The other one has room for the first few.
    for some in [&after[..4], &after[4..]] {
        post_all(&api, some).await?;
        api.wait_final(&ids(some), FINAL_WITHIN).await?;
    }
    for event in &events {
        let status = api.event(&event.id).await?.context("a status")?;
        ensure!(status["status"] == "applied", "{}: {status}", event.id);
    }
    let text = admin.metrics().await?;
    let of = |name: &str, endpoint: &str| metric(&text, name, &[&format!("endpoint=\"{endpoint}\"")]);
    ensure!(of("memori_llm_failed_over_total", "main").unwrap_or(0.0) >= 1.0, "calls were made again elsewhere\n{text}");
    ensure!(of("memori_llm_breaker", "main").is_some_and(|position| position > 0.0), "its breaker is open\n{text}");
    ensure!(of("memori_llm_breaker", "spare") == Some(0.0), "the other's is not\n{text}");
    let ready = admin.get("/readyz").await?;
    ensure!(ready.status == 200 && ready.body.to_string().contains("endpoint main"), "{}", ready.body);

    first.come_back().await?;
    let since = Instant::now();
    while metric(&admin.metrics().await?, "memori_llm_breaker", &["endpoint=\"main\""]) != Some(0.0) {
        ensure!(since.elapsed() < FINAL_WITHIN, "it is still not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_for_long_is_probed_and_nobody_is_given_up() -> anyhow::Result<()> {
    let mut provider = Provider::start().await?;
    let shape = start(&provider, &[("MEMORI__WORKER__MAX_ATTEMPTS", "2")])?;
    let (api, admin) = (shape.api("acme"), Api::new(&shape.process.admin(), None));
    provider.always(Some(Behaviour::ServerError));
    let events: Vec<Planned> = (0..200).filter(|n| n % 40 != 39).map(|n| planned(n, 50)).collect();
    post_all(&api, &events).await?;
    let open = async |wanted: bool| -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let text = admin.metrics().await?;
            let position = metric(&text, "memori_llm_breaker", &["endpoint=\"0\""]).unwrap_or(0.0);
            if (position > 0.0) == wanted {
                return Ok(());
            }
            ensure!(since.elapsed() < FINAL_WITHIN, "the breaker is at {position}\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    open(true).await?;
    let ready = admin.get("/readyz").await?;
    ensure!(ready.status == 200 && ready.body.to_string().contains("extractor"), "{}: {}", ready.status, ready.body);
    let asked = provider.recorded().len();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let probed = provider.recorded().len() - asked;
    ensure!((1..=12).contains(&probed), "{probed} requests in six seconds to a provider that is down");
    provider.go_down().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    provider.always(None);
    provider.come_back().await?;
    open(false).await?;
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    api.wait_final(&ids, FINAL_WITHIN).await?;
    audit(&api, &admin, &provider, &events).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_per_minute_is_shared_by_replicas_and_kept_by_waiting() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let more = [("MEMORI__EXTRACTOR__REQUESTS_PER_MINUTE", "1200"), ("MEMORI__EXTRACTOR__REPLICAS", "4")];
    let shape = start(&provider, &more)?;
    let api = shape.api("acme");
    let events: Vec<Planned> = (0..60).filter(|n| n % 40 != 39).map(|n| planned(n, 60)).collect();
    let began = Instant::now();
    post_all(&api, &events).await?;
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    api.wait_final(&ids, FINAL_WITHIN).await?;
    // 300 a minute: 15 at once, then 4.75 a second.
    let (took, requests) = (began.elapsed(), provider.recorded().len());
    ensure!(took >= Duration::from_secs(8), "{requests} requests took {took:?}");
    ensure!(provider.recorded().iter().all(|request| request.status == 200), "none was refused");
    let value: Value = api.event(&events[0].id).await?.context("a status")?;
    ensure!(value["status"] == "applied", "{value}");
    Ok(())
}
