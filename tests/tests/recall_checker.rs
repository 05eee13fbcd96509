//! Recall is never stale: many connections write, forget, erase and recall one entity, and each answer is held to what was settled
//! before it was asked for. After a `wait` no recall misses what it must see; after a deletion none shows it; none shows what
//! nobody said. The cache is on; in the distributed shape every other recall goes to another writer, and writers are stopped,
//! killed and frozen meanwhile, so that partitions pass between them.
//!
//! `MEMORI_SOAK=1` runs the large size, `MEMORI_SEED=n` another seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::client::{Api, escape, metric};
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::process::Process;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::{Value, json};

const TENANT: &str = "tenant-a";
const ENTITY: &str = "the one";
const WRITING: usize = 4;
const RECALLING: usize = 4;
/// Said before anything is checked: enough that recall keeps an image of the entity and brings it up to date from changes.
const PRELOADED: usize = 600;
const WITHIN: Duration = Duration::from_secs(120);

fn soak() -> bool {
    std::env::var_os("MEMORI_SOAK").is_some()
}

fn seed() -> u64 {
    std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121)
}

fn rounds() -> usize {
    if soak() { 120 } else { 12 }
}

/// Where one statement stands, as its writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Being posted: any answer is right.
    Saying,
    /// A `wait` has said that it is applied.
    Settled,
    /// Being deleted: any answer is right.
    Leaving,
    /// A deletion has been answered. Its words may stay (only the fact is gone).
    Forgotten,
    /// An erasure's receipt says applied: nothing of it is left.
    Erased,
}

/// What every connection has settled, under one short lock.
#[derive(Default)]
struct Ledger {
    stages: BTreeMap<String, Stage>,
}

/// Each statement is about a tea of its own, by which answers are read.
fn tea(number: usize) -> String {
    format!("blend{number:05}")
}

fn teas_in(text: &str, into: &mut BTreeSet<String>) {
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        let word = word.to_ascii_lowercase();
        if word.len() == 10 && word.starts_with("blend") {
            into.insert(word);
        }
    }
}

fn event(tea: &str) -> Value {
    json!({"event_id": format!("e-{tea}"), "entity_id": ENTITY, "session_id": format!("s-{}", &tea[..8]),
        "messages": [{"role": "user", "content": format!("I like {tea} tea.")}]})
}

/// One way to ask: the front door, or a writer as the front door asks it.
#[derive(Clone)]
struct Way {
    base: String,
    key: Option<String>,
    http: reqwest::Client,
}

impl Way {
    fn writer(process: &Process) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().expect("an http client");
        Self { base: process.api(), key: Some("between-ingest-and-writer".to_owned()), http }
    }

    /// `None` where there was no answer: whoever was asked is stopped, or is not there yet.
    async fn recall(&self, body: &Value) -> anyhow::Result<Option<Value>> {
        let request = self.http.post(format!("{}/v1/recall", self.base)).header("x-memori-tenant", TENANT).json(body);
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let Ok(answer) = request.send().await else { return Ok(None) };
        let status = answer.status();
        let Ok(text) = answer.text().await else { return Ok(None) };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Ok(None);
        }
        ensure!(status == StatusCode::OK, "recall: {status}: {text}");
        Ok(Some(serde_json::from_str(&text)?))
    }
}

struct Checker {
    api: Api,
    ways: Vec<Way>,
    ledger: Mutex<Ledger>,
    /// Writers hold it for reading; an erasure holds it alone, since what is said while it is asked for may go or stay.
    erasing: tokio::sync::RwLock<()>,
    next: AtomicUsize,
    over: AtomicBool,
    checked: AtomicUsize,
    unanswered: AtomicUsize,
}

impl Checker {
    fn new(api: Api, ways: Vec<Way>) -> Arc<Self> {
        Arc::new(Self {
            api,
            ways,
            ledger: Mutex::default(),
            erasing: tokio::sync::RwLock::new(()),
            next: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            checked: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
        })
    }

    fn stages(&self) -> BTreeMap<String, Stage> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).stages.clone()
    }

    fn set(&self, tea: &str, stage: Stage) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).stages.insert(tea.to_owned(), stage);
    }

    async fn preload(&self) -> anyhow::Result<()> {
        let teas: Vec<String> = (0..PRELOADED).map(|_| tea(self.next.fetch_add(1, Ordering::Relaxed))).collect();
        let mut ids = Vec::new();
        for chunk in teas.chunks(200) {
            chunk.iter().for_each(|tea| self.set(tea, Stage::Saying));
            let events: Vec<Value> = chunk.iter().map(|tea| event(tea)).collect();
            let answer = self.api.post("/v1/events/batch", &json!({"events": events})).await?;
            ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.body);
            ids.extend(events.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)));
        }
        self.api.wait_final(&ids, WITHIN).await?;
        teas.iter().for_each(|tea| self.set(tea, Stage::Settled));
        Ok(())
    }

    /// Says something, waits, and now and then forgets something of its own.
    async fn write(&self, seed: u64) -> anyhow::Result<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut own: Vec<String> = Vec::new();
        for _ in 0..rounds() {
            let _ours = self.erasing.read().await;
            let stages = self.stages();
            own.retain(|tea| stages[tea] == Stage::Settled);
            for _ in 0..rng.random_range(1..4) {
                let tea = tea(self.next.fetch_add(1, Ordering::Relaxed));
                self.set(&tea, Stage::Saying);
                let answer = self.api.post("/v1/events", &event(&tea)).await?;
                ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
                self.api.wait_final(&[format!("e-{tea}")], WITHIN).await?;
                self.set(&tea, Stage::Settled);
                own.push(tea);
            }
            if rng.random_bool(0.6) {
                let tea = own.swap_remove(rng.random_range(0..own.len()));
                self.forget(&tea).await?;
            }
        }
        Ok(())
    }

    async fn forget(&self, tea: &str) -> anyhow::Result<()> {
        let answer = self.api.post("/v1/recall", &json!({"entity_id": ENTITY, "query": tea, "limit": 1_000})).await?;
        let facts = answer.body["facts"].as_array().context("facts")?;
        let of_tea = facts.iter().filter(|fact| fact["content"].to_string().to_ascii_lowercase().contains(tea));
        let ids: Vec<&str> = of_tea.filter(|fact| fact["kind"] == "fact").filter_map(|fact| fact["fact_id"].as_str()).collect();
        ensure!(!ids.is_empty(), "{tea} was settled, and the one who settled it does not recall it");
        self.set(tea, Stage::Leaving);
        for id in ids {
            let answer = self.api.delete(&format!("/v1/facts/{id}")).await?;
            ensure!(answer.status == StatusCode::NO_CONTENT, "{}: {}", answer.status, answer.body);
        }
        self.set(tea, Stage::Forgotten);
        Ok(())
    }

    /// Erases the entity while nobody says anything, and everybody goes on asking.
    async fn erase(&self) -> anyhow::Result<()> {
        let _alone = self.erasing.write().await;
        for (tea, stage) in self.stages() {
            if stage != Stage::Erased {
                self.set(&tea, Stage::Leaving);
            }
        }
        let answer = self.api.delete(&format!("/v1/entities/{}", escape(ENTITY))).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
        let receipt = format!("/v1/erasures/{}", answer.body["erasure_id"].as_str().context("a receipt's id")?);
        let since = Instant::now();
        while self.api.get(&receipt).await?.body["status"] != "applied" {
            ensure!(since.elapsed() < WITHIN, "the erasure is not applied within {WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (tea, stage) in self.stages() {
            if stage == Stage::Leaving {
                self.set(&tea, Stage::Erased);
            }
        }
        Ok(())
    }

    /// Asks again and again, and holds each answer to what was settled when it was asked for.
    async fn recall(&self, number: usize) -> anyhow::Result<()> {
        let body = json!({"entity_id": ENTITY, "query": "Which tea do I like?", "limit": 1_000, "include_messages": true});
        let mut turn = number;
        while !self.over.load(Ordering::Relaxed) {
            turn += 1;
            let way = &self.ways[turn % self.ways.len()];
            let before = self.stages();
            let Some(answer) = way.recall(&body).await? else {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let after = self.stages();
            self.hold(&before, &after, &answer).with_context(|| format!("asked at {}", way.base))?;
            self.checked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn hold(&self, before: &BTreeMap<String, Stage>, after: &BTreeMap<String, Stage>, answer: &Value) -> anyhow::Result<()> {
        let texts = |part: &str, of: &dyn Fn(&Value) -> bool| -> anyhow::Result<BTreeSet<String>> {
            let mut teas = BTreeSet::new();
            for item in answer[part].as_array().with_context(|| format!("no {part}"))?.iter().filter(|item| of(item)) {
                teas_in(item["content"].as_str().context("content")?, &mut teas);
            }
            Ok(teas)
        };
        let facts = texts("facts", &|item| item["kind"] == "fact")?;
        // Digests are made of facts: what is forgotten is in none of them either.
        let anything = texts("facts", &|_| true)?;
        let messages = texts("messages", &|_| true)?;
        for tea in anything.union(&messages) {
            ensure!(after.contains_key(tea), "{tea} was never said");
        }
        for (tea, stage) in before {
            let steady = after[tea] == *stage;
            match stage {
                Stage::Settled if steady => {
                    ensure!(facts.contains(tea), "stale: {tea} was settled before the recall, and its fact is missing");
                    ensure!(messages.contains(tea), "stale: {tea} was settled before the recall, and its message is missing");
                }
                Stage::Forgotten => {
                    ensure!(!anything.contains(tea), "stale: {tea} was forgotten before the recall, and is shown")
                }
                Stage::Erased => {
                    ensure!(!anything.contains(tea), "stale: {tea} was erased before the recall, and its fact is shown");
                    ensure!(!messages.contains(tea), "stale: {tea} was erased before the recall, and its message is shown");
                }
                Stage::Saying | Stage::Settled | Stage::Leaving => {}
            }
        }
        Ok(())
    }

    /// Runs it all to its end, with `disturb` beside it.
    async fn run(self: &Arc<Self>, disturb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        self.preload().await?;
        let recalling: Vec<_> = (0..RECALLING)
            .map(|number| {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.recall(number).await })
            })
            .collect();
        let writing: Vec<_> = (0..WRITING)
            .map(|number| {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.write(seed().wrapping_add(number as u64)).await })
            })
            .collect();
        let erasing = Arc::clone(self);
        let half_way = tokio::spawn(async move {
            // In the middle of what is said: a full image is dropped, and a new one begins.
            while erasing.next.load(Ordering::Relaxed) < PRELOADED + (WRITING * rounds()).min(250)
                && !erasing.over.load(Ordering::Relaxed)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            erasing.erase().await
        });
        let done = async {
            for task in writing {
                task.await??;
            }
            half_way.await??;
            anyhow::Ok(())
        };
        let outcome = futures::future::try_join(done, disturb).await;
        self.over.store(true, Ordering::Relaxed);
        for task in recalling {
            task.await??;
        }
        outcome?;
        let checked = self.checked.load(Ordering::Relaxed);
        tell(&format!(
            "{checked} recalls were held to what was settled, {} had no answer",
            self.unanswered.load(Ordering::Relaxed)
        ));
        ensure!(checked >= rounds(), "only {checked} recalls were answered");
        Ok(())
    }
}

async fn cache_was_used(api: &Api) -> anyhow::Result<()> {
    let text = api.metrics().await?;
    let hits = metric(&text, "memori_recall_cache_hits_total", &[]).unwrap_or(0.0);
    ensure!(hits > 0.0, "the cache was never used, so it was not checked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() -> anyhow::Result<()> {
    tell(&format!("seed {}", seed()));
    let shape = Embedded::start(&[TENANT.to_owned()], &[])?;
    let api = shape.api(TENANT);
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build()?;
    let way = Way { base: shape.process.api(), key: Some(shape.key(TENANT).to_owned()), http };
    let checker = Checker::new(api.clone(), vec![way]);
    checker.run(async { Ok(()) }).await?;
    cache_was_used(&api).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_and_rebalances_between_them() -> anyhow::Result<()> {
    tell(&format!("seed {}", seed()));
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &[]).await?;
    let mut other = shape.another_writer("writer-2")?;
    let checker = Checker::new(shape.api(TENANT), vec![Way::writer(&shape.writer), Way::writer(&other)]);
    let saying = Arc::clone(&checker);
    let disturb = async {
        let mut rng = StdRng::seed_from_u64(seed());
        let least = if soak() { 12 } else { 3 };
        let mut done = 0;
        while done < least {
            // Something new is settled between two disturbances.
            let said = saying.checked.load(Ordering::Relaxed);
            let since = Instant::now();
            while saying.checked.load(Ordering::Relaxed) < said + 8 {
                ensure!(since.elapsed() < WITHIN, "no recall is answered any more");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            match done % 3 {
                0 => tokio::task::block_in_place(|| other.kill_and_restart())?,
                1 => {
                    tokio::task::block_in_place(|| other.stop())?;
                    tokio::task::block_in_place(|| other.start_again())?;
                }
                _ => {
                    // Longer than its session: its partitions pass on, and it wakes as a zombie.
                    other.freeze(true)?;
                    tokio::time::sleep(Duration::from_millis(rng.random_range(7_000..9_000))).await;
                    other.freeze(false)?;
                }
            }
            done += 1;
        }
        tell(&format!("{done} times a writer was killed, stopped or frozen"));
        Ok(())
    };
    checker.run(disturb).await?;
    cache_was_used(&Api::new(&shape.writer.admin(), None)).await
}
