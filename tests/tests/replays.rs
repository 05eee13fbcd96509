//! Replays from end to end: into a generation beside the one that is read, while live events arrive and somebody asks throughout.
//!
//! Who is killed when comes from seeds, which are printed; `MEMORI_SOAK=1` runs 50 of them, and replays 100,000 events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::administration::Operator;
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;
use memori_tests::provider::Provider;
use memori_tests::replays::{self, Checker};
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use serde_json::{Value, json};

const TENANT: &str = "tenant-a";
const OTHER: &str = "tenant-b";
const WITHIN: Duration = Duration::from_secs(300);

fn tenants() -> Vec<String> {
    vec![TENANT.to_owned(), OTHER.to_owned()]
}

fn soak() -> bool {
    std::env::var_os("MEMORI_SOAK").is_some()
}

fn entities(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("person-{n}")).collect()
}

/// Event number `n`, of one of these entities, with something to learn.
fn event(n: usize, entities: &[String]) -> Value {
    const CITIES: [&str; 5] = ["Rome", "Lisbon", "Porto", "Oslo", "Vienna"];
    const TEAS: [&str; 6] = ["green tea", "oolong tea", "jasmine tea", "white tea", "rooibos tea", "mint tea"];
    let entity = n % entities.len();
    let text = match n % 3 {
        0 => format!("I live in {}.", CITIES[(n / 3) % CITIES.len()]),
        1 => format!("I like {}.", TEAS[(n / 3) % TEAS.len()]),
        _ => format!("Always answer in {} words.", 10 + n % 90),
    };
    let at = jiff::Timestamp::from_second(1_760_000_000 + i64::try_from(n).unwrap_or(0) * 60).expect("a time");
    json!({"event_id": format!("e-{n}"), "entity_id": entities[entity], "session_id": format!("s-{}", n / 20),
        "occurred_at": at.to_string(), "messages": [{"role": "user", "content": text}]})
}

async fn post(api: &Api, events: Vec<Value>) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(events.len());
    for batch in events.chunks(500) {
        let body = json!({"events": batch});
        let answer = api.insist(|| api.request(reqwest::Method::POST, "/v1/events/batch").json(&body)).await?;
        ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
        ids.extend(batch.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)));
    }
    Ok(ids)
}

/// Live events from number `first` on, one after the other, until it is ended; how many. What was once seen applied is asked for again
/// and again, whatever is switched meanwhile: it stays so.
struct Live {
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<anyhow::Result<Vec<String>>>,
    watch: tokio::task::JoinHandle<anyhow::Result<usize>>,
}

/// Events that are asked for again.
const WATCHED: usize = 5;

impl Live {
    /// `watched`: not where the writer is killed; without it the front door says what it knows itself, that an event was accepted.
    fn begin(api: &Api, first: usize, entities: &[String], pause: Duration, watched: bool) -> Self {
        let (stop, posted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (poster, entities, stopping, counting) = (api.clone(), entities.to_vec(), stop.clone(), posted.clone());
        let task = tokio::spawn(async move {
            let mut ids = Vec::new();
            while !stopping.load(Ordering::Relaxed) {
                let event = event(first + ids.len(), &entities);
                ids.extend(post(&poster, vec![event]).await?);
                counting.store(ids.len(), Ordering::Relaxed);
                tokio::time::sleep(pause).await;
            }
            Ok(ids)
        });
        let (api, stopping, counting) = (api.clone(), stop.clone(), posted.clone());
        let watch = tokio::spawn(async move {
            let (mut applied, mut asked, mut next) = (VecDeque::new(), 0, first);
            while watched && !stopping.load(Ordering::Relaxed) {
                let id = format!("e-{next}");
                if next < first + counting.load(Ordering::Relaxed)
                    && api.event(&id).await?.is_some_and(|event| event["status"] == "applied")
                {
                    applied.push_back(id);
                    next += 1;
                }
                for id in &applied {
                    let status = api.event(id).await?.context("it is known")?;
                    ensure!(status["status"] == "applied", "{id} was applied and is {status}");
                    asked += 1;
                }
                if applied.len() > WATCHED {
                    applied.pop_front();
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            Ok(asked)
        });
        Self { stop, posted, task, watch }
    }

    async fn has_posted(&self, more: usize) {
        let before = self.posted.load(Ordering::Relaxed);
        while self.posted.load(Ordering::Relaxed) < before + more && !self.task.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) -> anyhow::Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.watch.await??;
        if asked > 0 {
            tell(&format!("asked {asked} times whether what was applied still is"));
        }
        self.task.await?
    }
}

/// Every event has a good end in the generation that is read.
async fn all_applied(api: &Api, ids: &[String]) -> anyhow::Result<()> {
    let since = Instant::now();
    for id in ids {
        loop {
            let status = api.event(id).await?.context("it is known")?;
            if status["status"] == "applied" {
                break;
            }
            ensure!(since.elapsed() < WITHIN, "{id} is {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// The whole course: replay beside live traffic, look, switch, switch back, switch, drop.
async fn course(api: &Api, operator: &Operator, history: usize) -> anyhow::Result<()> {
    let people = entities(40);
    let mut ids = post(api, (0..history).map(|n| event(n, &people)).collect()).await?;
    api.wait_final(&ids, WITHIN).await?;
    let live = Live::begin(api, history, &people, Duration::from_millis(50), true);

    let estimate = operator.api().post("/v1/admin/replays/estimate", &json!({"tenants": [TENANT]})).await?;
    ensure!(estimate.status == StatusCode::OK, "{}: {}", estimate.status, estimate.body);
    let counted = estimate.body["events"].as_u64().context("events")?;
    ensure!(counted >= history as u64, "{}", estimate.body);

    let began = Instant::now();
    let generation = replays::start(operator, &json!({"tenants": [TENANT], "max_concurrency": 8})).await?;
    ensure!(generation == 2, "{generation}");
    let checker = Checker::begin(api, TENANT, &people, &[1, generation]);
    let shown = replays::done(operator, generation, history).await?;
    tell(&format!("replayed {} events in {:.1} s", shown["progress"]["events"], began.elapsed().as_secs_f64()));

    // The same extractor makes the same, whatever arrives meanwhile: what is on its way to either is awaited.
    live.has_posted(5).await;
    checker.has_asked(50).await;
    let asked = Instant::now();
    let switched = replays::cut_over(operator, generation, TENANT).await?;
    tell(&format!(
        "cut over in {} ms, having waited {} ms; {} ms after it was first asked for",
        switched["took_ms"],
        switched["waited_ms"],
        asked.elapsed().as_millis()
    ));
    ensure!(switched["trailing_entities"] == 0, "{switched}");
    checker.has_asked(50).await;
    let back = replays::act(operator, generation, "roll-back", &json!({"tenants": [TENANT]})).await?;
    tell(&format!("rolled back in {} ms", back["tenants"][0]["took_ms"]));
    ensure!(back["tenants"][0]["active"] == 1, "{back}");
    checker.has_asked(50).await;
    replays::cut_over(operator, generation, TENANT).await?;
    live.has_posted(5).await;
    checker.has_asked(50).await;
    ids.extend(live.end().await?);
    all_applied(api, &ids).await?;
    let seen = checker.end().await?;
    tell(&format!("answers by generation: {:?}", seen.answers));
    ensure!(seen.answers.len() == 2, "{seen:?}");

    ensure!(replays::same(operator, generation, TENANT).await? > 0, "nothing is known");

    // What is read cannot be dropped, paused or cancelled.
    for act in ["drop", "pause", "cancel"] {
        let refused = replays::try_act(operator, generation, act, &json!({})).await?;
        ensure!(refused.status == StatusCode::CONFLICT, "{act}: {}: {}", refused.status, refused.body);
    }
    replays::act(operator, 1, "drop", &json!({"tenants": [TENANT]})).await?;
    let refused = replays::try_act(operator, generation, "roll-back", &json!({"tenants": [TENANT]})).await?;
    ensure!(refused.status == StatusCode::CONFLICT, "{}: {}", refused.status, refused.body);
    // It is the tenant's extractor now.
    let more = post(api, vec![event(9_999, &people)]).await?;
    all_applied(api, &more).await?;
    let facts = api.facts(&people[9_999 % people.len()]).await?;
    ensure!(!facts.is_empty());
    for fact in &facts {
        let of = replays::generation_of(TENANT, &people[9_999 % people.len()], fact, &[1, generation])?;
        ensure!(of.is_none_or(|of| of == generation), "{fact}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> anyhow::Result<()> {
    let shape = Embedded::start(&tenants(), &[])?;
    course(&shape.api(TENANT), &Operator::at(&shape.process.api()), 300).await
}

#[tokio::test(flavor = "multi_thread")]
async fn distributed() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let shape = Distributed::start(servers, &tenants(), 2, &[]).await?;
    let history = if soak() { 100_000 } else { 2_000 };
    course(&shape.api(TENANT), &Operator::at(&shape.ingest.api()), history).await?;

    // What the dropped generation held is gone, and nothing of the other's.
    let (client, connection) = tokio_postgres::connect(&shape.database, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let rows = async |table: &str, generation: i32| -> anyhow::Result<i64> {
        let sql = format!("SELECT count(*) FROM memori.{table} WHERE tenant = $1 AND generation = $2");
        Ok(client.query_one(&sql, &[&TENANT, &generation]).await?.get(0))
    };
    let since = Instant::now();
    for table in ["outcomes", "mentions", "facts", "fact_stats", "validity", "message_vectors"] {
        while rows(table, 1).await? > 0 {
            ensure!(since.elapsed() < WITHIN, "{table} still has rows of what was dropped");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        ensure!(rows(table, 2).await? > 0, "{table} has lost what is read");
    }
    let events: i64 = client.query_one("SELECT count(*) FROM memori.events WHERE tenant = $1", &[&TENANT]).await?.get(0);
    ensure!(rows("outcomes", 2).await? == events, "each event has one outcome in what is read");
    Ok(())
}

/// What is not selected is carried over as it is, and costs nothing; what is selected is made by the other extractor.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_selected_is_carried_over() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let base = provider.base_url();
    let env = [
        ("MEMORI__EXTRACTOR__BASE_URL", base.as_str()),
        ("MEMORI__EXTRACTOR__MODEL", "double"),
        ("MEMORI__EXTRACTOR__API_KEY", "key"),
        ("MEMORI__EXTRACTOR__PRICE_IN_PER_MILLION", "1"),
    ];
    let shape = Embedded::start(&tenants(), &env)?;
    let (api, operator) = (shape.api(TENANT), Operator::at(&shape.process.api()));
    let people = entities(4);
    // What one extractor understands and the other does not: the model learns the first, the rules the second, and of the third each
    // another half.
    let seeded = ["I wonder about that.", "My name is Ann.", "I wonder about tea. My favourite colour is blue."];
    let seed = |(n, text): (usize, &str)| {
        json!({"event_id": format!("seeded-{n}"), "entity_id": people[0], "occurred_at": format!("2025-12-0{}T10:00:00Z", n + 1),
            "messages": [{"role": "user", "content": text}]})
    };
    let seeded = seeded.into_iter().enumerate().map(seed);
    let ids = post(&api, (0..48).map(|n| event(n, &people)).chain(seeded).collect()).await?;
    api.wait_final(&ids, WITHIN).await?;
    let mut before = Vec::new();
    for person in &people {
        before.push(replays::texts(&api, person).await?);
    }
    let body = json!({"tenants": [TENANT], "entities": [people[0]], "extractor": "llm", "max_concurrency": 2});
    let estimate = operator.api().post("/v1/admin/replays/estimate", &body).await?.body;
    ensure!(estimate["events"] == 15 && estimate["carried_events"] == 36 && estimate["cost"].as_f64() > Some(0.0), "{estimate}");
    let generation = replays::start(&operator, &body).await?;
    let shown = replays::done(&operator, generation, 51).await?;
    ensure!(shown["spent"]["tokens_in"].as_i64() > Some(0), "{shown}");
    for recorded in provider.recorded() {
        let said = recorded.text();
        ensure!((0..48).filter(|n| n % 4 != 0).all(|n| !said.contains(&format!("e-{n}\""))), "an unselected event was sent");
    }
    let (counts, samples) = replays::diff(&operator, generation, TENANT).await?;
    ensure!(samples.iter().all(|sample| sample["entity_id"] == people[0].as_str()), "{samples:?}");
    replays::act(&operator, generation, "cut-over", &json!({})).await?;
    let mut differences = (0, 0);
    for (person, before) in people.iter().zip(&before) {
        let after = replays::texts(&api, person).await?;
        if *person == people[0] {
            differences = (after.difference(before).count(), before.difference(&after).count());
            ensure!(differences.0 >= 1 && differences.1 >= 1, "one knows what the other does not: {before:?} {after:?}");
            tell(&format!("seeded: {differences:?} by texts, {counts:?}"));
            let told = |difference: &str, side: &str, word: &str| {
                let shows = |one: &&Value| one["difference"] == difference && one[side]["content"].to_string().contains(word);
                samples.iter().find(shows).map(|one| one[side]["evidence"].to_string())
            };
            let gained = told("gained", "after", "wonders about that").context("what the model alone understands is gained")?;
            ensure!(gained.contains("I wonder about that"), "{gained}");
            let lost = told("lost", "before", "Ann").context("what the rules alone understand is lost")?;
            ensure!(lost.contains("My name is Ann"), "{lost}");
            told("changed", "before", "blue").context("what each understands of one message in its way has changed")?;
        } else {
            ensure!(after == *before, "what is known of {person} is another: {before:?} {after:?}");
        }
        for fact in api.facts(person).await? {
            let id = fact["fact_id"].as_str().context("an id")?;
            if !["fact", "instruction"].contains(&fact["kind"].as_str().unwrap_or_default()) {
                continue;
            }
            let lineage = api.get(&format!("/v1/facts/{id}/lineage")).await?;
            let by = if *person == people[0] { "llm" } else { "builtin" };
            ensure!(lineage.body.to_string().contains(by), "{person}: {}", lineage.body);
        }
    }
    // As the sets of texts tell: each is counted as what it is.
    let of = |name: &str| usize::try_from(counts[name]).unwrap_or(0);
    let same_text = samples.iter().filter(|one| one["before"]["content"] == one["after"]["content"]).count();
    ensure!(
        of("gained") + of("changed") - same_text == differences.0 && of("lost") + of("changed") - same_text == differences.1,
        "{counts:?} over {differences:?}: {samples:?}"
    );

    // Carried over once more, as a whole.
    let kept = replays::start(&operator, &json!({"tenants": [TENANT], "extractor": "keep"})).await?;
    let asked = provider.recorded().len();
    replays::done(&operator, kept, 51).await?;
    ensure!(provider.recorded().len() == asked, "what is kept was asked for again");
    ensure!(replays::same(&operator, kept, TENANT).await? > 0, "nothing is known");
    Ok(())
}

/// A cap on cost pauses, and one tenant's administrator reaches nothing of another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_bounded_and_a_tenants_own() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let base = provider.base_url();
    let env = [
        ("MEMORI__EXTRACTOR__BASE_URL", base.as_str()),
        ("MEMORI__EXTRACTOR__MODEL", "double"),
        ("MEMORI__EXTRACTOR__API_KEY", "key"),
        ("MEMORI__EXTRACTOR__PRICE_IN_PER_MILLION", "1000000"),
    ];
    let shape = Embedded::start(&tenants(), &env)?;
    let (api, operator) = (shape.api(TENANT), Operator::at(&shape.process.api()));
    let people = entities(3);
    let ids = post(&api, (0..60).map(|n| event(n, &people)).collect()).await?;
    api.wait_final(&ids, WITHIN).await?;
    provider.take_time(Duration::from_millis(300));
    let body =
        json!({"tenants": [TENANT], "extractor": "llm", "max_concurrency": 1, "window_events": 1, "cost_micros": 1_000_000});
    let generation = replays::start(&operator, &body).await?;
    let since = Instant::now();
    let paused = loop {
        let shown = replays::show(&operator, generation).await?;
        if shown["state"] == "paused" {
            break shown;
        }
        ensure!(since.elapsed() < WITHIN, "it was never paused: {shown}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    ensure!(paused["reason"].as_str().is_some_and(|why| why.contains("cap")), "{paused}");
    let refused = replays::try_act(&operator, generation, "cut-over", &json!({"force": true})).await?;
    ensure!(refused.status == StatusCode::CONFLICT, "{}: {}", refused.status, refused.body);

    let stranger = Api::new(&shape.process.api(), Some(&Keys::admin_of(OTHER)));
    let own = Api::new(&shape.process.api(), Some(&Keys::admin_of(TENANT)));
    for (path, body) in [("", None), ("/diff", None), ("/pause", Some(json!({}))), ("/drop", Some(json!({})))] {
        let path = format!("/v1/admin/replays/{generation}{path}");
        let answer = match &body {
            Some(body) => stranger.post(&path, body).await?,
            None => stranger.get(&path).await?,
        };
        ensure!(answer.status == StatusCode::NOT_FOUND, "{path}: {}: {}", answer.status, answer.body);
    }
    let answer = stranger.post("/v1/admin/replays", &json!({"tenants": [TENANT]})).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND, "{}: {}", answer.status, answer.body);
    let answer = stranger.get("/v1/admin/replays").await?;
    ensure!(answer.body["replays"].as_array().is_some_and(Vec::is_empty), "{}", answer.body);
    let answer = own.post("/v1/admin/replays", &json!({"model": "dear"})).await?;
    ensure!(answer.status == StatusCode::UNPROCESSABLE_ENTITY, "{}: {}", answer.status, answer.body);
    let answer = own.post(&format!("/v1/admin/replays/{generation}/cancel"), &json!({})).await?;
    ensure!(answer.status == StatusCode::OK && answer.body["state"] == "cancelled", "{}", answer.body);
    let answer = own.post(&format!("/v1/admin/replays/{generation}/drop"), &json!({})).await?;
    ensure!(answer.status == StatusCode::OK && answer.body["state"] == "dropped", "{}", answer.body);
    Ok(())
}

/// Kills everything, again and again, while history is replayed and at the moment of the switch: what is known in the end is what it
/// was, in both generations, and no answer was a mixture.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_replays_and_switches() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let seed = std::env::var("MEMORI_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match seed {
        Some(seed) => vec![seed],
        None => (0..if soak() { 50 } else { 2 }).map(|_| rand::random::<u64>() >> 16).collect(),
    };
    for seed in seeds {
        tell(&format!("seed {seed}"));
        killed(servers, seed).await.with_context(|| format!("MEMORI_SEED={seed}"))?;
    }
    Ok(())
}

async fn killed(servers: &Servers, seed: u64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut shape = Distributed::start(servers, &tenants(), 2, &[]).await?;
    let (api, operator) = (shape.api(TENANT), Operator::at(&shape.ingest.api()));
    let people = entities(8);
    let history = 1_200;
    let mut ids = post(&api, (0..history).map(|n| event(n, &people)).collect()).await?;
    api.wait_final(&ids, WITHIN).await?;
    let live = Live::begin(&api, history, &people, Duration::from_millis(100), false);
    let generation = replays::start(&operator, &json!({"tenants": [TENANT]})).await?;
    let checker = Checker::begin(&api, TENANT, &people, &[1, generation]);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..800))).await;
        kill_one(&mut shape, &mut rng)?;
    }
    replays::done(&operator, generation, history).await?;
    // The switch and a kill at the same moment; whoever asked asks again.
    let switching = tokio::spawn({
        let operator = operator.clone();
        async move { replays::cut_over(&operator, generation, TENANT).await }
    });
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..120))).await;
    tokio::task::block_in_place(|| shape.writer.kill_and_restart())?;
    switching.await??;
    kill_one(&mut shape, &mut rng)?;
    if rng.random_bool(0.5) {
        replays::act(&operator, generation, "roll-back", &json!({"tenants": [TENANT]})).await?;
        kill_one(&mut shape, &mut rng)?;
        replays::cut_over(&operator, generation, TENANT).await?;
    }
    live.has_posted(3).await;
    ids.extend(live.end().await?);
    all_applied(&api, &ids).await?;
    let seen = checker.end().await?;
    tell(&format!("answers by generation: {:?}", seen.answers));

    // Both are whole: whichever is read, the same is known, and each event has one outcome in each.
    let (client, connection) = tokio_postgres::connect(&shape.database, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let since = Instant::now();
    loop {
        let sql = "SELECT (SELECT count(*) FROM memori.events WHERE tenant = $1), \
            (SELECT count(*) FROM memori.outcomes WHERE tenant = $1 AND generation = 1 AND kind = 1), \
            (SELECT count(*) FROM memori.outcomes WHERE tenant = $1 AND generation = $2 AND kind = 1)";
        let row = client.query_one(sql, &[&TENANT, &generation]).await?;
        let counts: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        if counts.0 == ids.len() as i64 && counts.1 == counts.0 && counts.2 == counts.0 {
            break;
        }
        ensure!(since.elapsed() < WITHIN, "{} events were posted; events and outcomes of each generation: {counts:?}", ids.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(replays::same(&operator, generation, TENANT).await? > 0, "nothing is known");
    Ok(())
}

fn kill_one(shape: &mut Distributed<'_>, rng: &mut StdRng) -> anyhow::Result<()> {
    tokio::task::block_in_place(|| match rng.random_range(0..3) {
        0 => shape.writer.kill_and_restart(),
        n => shape.workers[n - 1].kill_and_restart(),
    })
}
