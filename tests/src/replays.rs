//! Replays as an operator runs them, and a checker that watches whether an answer ever mixes generations.
//!
//! A fact's id is a function of its generation, so the checker needs no marks: of every fact that is answered it computes which
//! generation made it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use memori_schemas::{FactKind, ids};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::administration::Operator;
use crate::client::{Answer, Api};

/// How long anything may take that is waited for.
const WITHIN: Duration = Duration::from_secs(300);

/// Starts a replay; its generation.
///
/// # Errors
/// It does not start.
pub async fn start(operator: &Operator, body: &Value) -> anyhow::Result<i32> {
    let answer = operator.api().post("/v1/admin/replays", body).await?;
    ensure!(answer.status == StatusCode::CREATED, "{}: {}", answer.status, answer.body);
    answer.body["generation"].as_i64().and_then(|n| i32::try_from(n).ok()).context("a number")
}

/// One replay as it stands.
///
/// # Errors
/// It is not there.
pub async fn show(operator: &Operator, generation: i32) -> anyhow::Result<Value> {
    let path = format!("/v1/admin/replays/{generation}");
    let answer = operator.api().insist(|| operator.api().request(reqwest::Method::GET, &path)).await?;
    ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.body);
    Ok(answer.body)
}

/// Switches a tenant, as soon as what arrives is there soon after; what the switch was.
///
/// # Errors
/// It never is.
pub async fn cut_over(operator: &Operator, generation: i32, tenant: &str) -> anyhow::Result<Value> {
    let since = Instant::now();
    loop {
        let answer = try_act(operator, generation, "cut-over", &json!({"tenants": [tenant]})).await?;
        match answer.status {
            StatusCode::OK => return Ok(answer.body["tenants"][0].clone()),
            StatusCode::CONFLICT if since.elapsed() < WITHIN => tokio::time::sleep(Duration::from_millis(200)).await,
            status => bail!("{status}: {}", answer.body),
        }
    }
}

/// Waits until all of its history is extracted, and there is some.
///
/// # Errors
/// It never is.
pub async fn done(operator: &Operator, generation: i32, events: usize) -> anyhow::Result<Value> {
    let since = Instant::now();
    loop {
        let shown = show(operator, generation).await?;
        let of = |name: &str| shown["progress"][name].as_u64().unwrap_or(0);
        if of("events") >= events as u64 && of("done") >= of("events") {
            return Ok(shown);
        }
        ensure!(since.elapsed() < WITHIN, "generation {generation} is not done: {shown}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Tries an act once.
///
/// # Errors
/// Nobody answers.
pub async fn try_act(operator: &Operator, generation: i32, act: &str, body: &Value) -> anyhow::Result<Answer> {
    operator.api().post(&format!("/v1/admin/replays/{generation}/{act}"), body).await
}

/// Does an act, however often it takes: what is refused because live events are on their way is asked for again.
///
/// # Errors
/// It is refused for good.
pub async fn act(operator: &Operator, generation: i32, act: &str, body: &Value) -> anyhow::Result<Value> {
    let since = Instant::now();
    loop {
        let answer = match try_act(operator, generation, act, body).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(answer.body),
            Ok(answer) => format!("{}: {}", answer.status, answer.body),
            Err(error) => error.to_string(),
        };
        ensure!(since.elapsed() < WITHIN, "{act} of generation {generation}: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All differences of a tenant's entities: counts by name, and samples.
///
/// # Errors
/// They are not told.
pub async fn diff(operator: &Operator, generation: i32, tenant: &str) -> anyhow::Result<(BTreeMap<String, i64>, Vec<Value>)> {
    let (mut counts, mut samples, mut after) = (BTreeMap::new(), Vec::new(), String::new());
    loop {
        let path = format!("/v1/admin/replays/{generation}/diff?tenant={tenant}&limit=2&samples=100{after}");
        let page = operator.api().get(&path).await?;
        ensure!(page.status == StatusCode::OK, "{}: {}", page.status, page.body);
        for (name, kinds) in page.body["counts"].as_object().context("counts")? {
            let total: i64 = kinds.as_object().into_iter().flatten().filter_map(|(_, n)| n.as_i64()).sum();
            *counts.entry(name.clone()).or_default() += total;
        }
        samples.extend(page.body["samples"].as_array().cloned().unwrap_or_default());
        match page.body["next_cursor"].as_str() {
            Some(cursor) => after = format!("&cursor={cursor}"),
            None => return Ok((counts, samples)),
        }
    }
}

/// Waits until both know the same: what is on its way to either is awaited.
///
/// # Errors
/// They never do.
pub async fn same(operator: &Operator, generation: i32, tenant: &str) -> anyhow::Result<i64> {
    let since = Instant::now();
    loop {
        let (counts, samples) = diff(operator, generation, tenant).await?;
        if ["gained", "lost", "changed"].iter().all(|name| counts[*name] == 0) {
            return Ok(counts["same"]);
        }
        ensure!(since.elapsed() < WITHIN / 5, "{counts:?}: {samples:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Which of these generations made a fact that was answered; `None` for what is computed from facts when asked.
///
/// # Errors
/// None of them did.
pub fn generation_of(tenant: &str, entity_id: &str, fact: &Value, generations: &[i32]) -> anyhow::Result<Option<i32>> {
    let kind = fact["kind"].as_str().and_then(FactKind::parse).unwrap_or(FactKind::Instruction);
    if !matches!(kind, FactKind::Fact | FactKind::Instruction | FactKind::Attribute) {
        return Ok(None);
    }
    let entity_key = ids::entity_key(tenant, entity_id);
    let (id, text) = (fact["fact_id"].as_str().context("an id")?, fact["content"].as_str().context("a text")?);
    let made =
        |generation: &&i32| ids::fact_id(&entity_key, **generation, kind, fact["subject"].as_str(), text).0.to_string() == id;
    match generations.iter().find(made) {
        Some(generation) => Ok(Some(*generation)),
        None => bail!("no generation of {generations:?} made {fact}"),
    }
}

/// What a checker saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers with facts, by the generation that all of them were of.
    pub answers: BTreeMap<i32, u64>,
}

/// Asks for what is known of entities, again and again, until it is ended.
pub struct Checker {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<anyhow::Result<Seen>>>,
}

impl Checker {
    /// Begins; `generations` are those that may be read.
    #[must_use]
    pub fn begin(api: &Api, tenant: &str, entities: &[String], generations: &[i32]) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |way: usize| {
            let (api, tenant, entities, generations) = (api.clone(), tenant.to_owned(), entities.to_vec(), generations.to_vec());
            let (stop, asked) = (stop.clone(), asked.clone());
            tokio::spawn(async move {
                let mut seen = Seen::default();
                while !stop.load(Ordering::Relaxed) {
                    for entity_id in &entities {
                        let facts = match way {
                            0 => recalled(&api, entity_id).await,
                            _ => listed(&api, entity_id).await,
                        };
                        // Who is killed does not answer; that is no mixture.
                        let Ok(facts) = facts else {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            continue;
                        };
                        asked.fetch_add(1, Ordering::Relaxed);
                        let mut of = BTreeSet::new();
                        for fact in &facts {
                            of.extend(generation_of(&tenant, entity_id, fact, &generations)?);
                        }
                        ensure!(of.len() <= 1, "an answer about {entity_id} mixes generations {of:?}: {facts:?}");
                        for generation in of {
                            *seen.answers.entry(generation).or_default() += 1;
                        }
                    }
                }
                Ok(seen)
            })
        };
        let tasks = (0..2).map(one).collect();
        Self { stop, asked, tasks }
    }

    /// Waits until it has asked so often again.
    pub async fn has_asked(&self, times: u64) {
        let before = self.asked.load(Ordering::Relaxed);
        while self.asked.load(Ordering::Relaxed) < before + times && !self.tasks.iter().any(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends; what it saw.
    ///
    /// # Errors
    /// An answer was a mixture.
    pub async fn end(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Seen::default();
        for task in self.tasks {
            for (generation, answers) in task.await??.answers {
                *seen.answers.entry(generation).or_default() += answers;
            }
        }
        Ok(seen)
    }
}

async fn recalled(api: &Api, entity_id: &str) -> anyhow::Result<Vec<Value>> {
    let body = json!({"entity_id": entity_id, "query": "tea", "limit": 200, "instruction_limit": 50, "include_superseded": true});
    let answer = api.send(api.request(reqwest::Method::POST, "/v1/recall").json(&body)).await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    let list = |name: &str| answer.body[name].as_array().cloned().unwrap_or_default();
    Ok(list("facts").into_iter().chain(list("instructions")).collect())
}

async fn listed(api: &Api, entity_id: &str) -> anyhow::Result<Vec<Value>> {
    // One page: the next one may be of another generation, as it may be of a later state.
    let path = format!("/v1/entities/{}/facts?limit=500", crate::client::escape(entity_id));
    let answer = api.send(api.request(reqwest::Method::GET, &path)).await?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    Ok(answer.body["facts"].as_array().cloned().unwrap_or_default())
}

/// What is known of an entity, as texts with their kinds.
///
/// # Errors
/// Nobody answers.
pub async fn texts(api: &Api, entity_id: &str) -> anyhow::Result<BTreeSet<(String, String)>> {
    let text = |fact: &Value, name: &str| fact[name].as_str().unwrap_or_default().to_owned();
    let facts = api.facts(entity_id).await?;
    let stored = facts.iter().filter(|fact| ["fact", "instruction", "attribute"].contains(&text(fact, "kind").as_str()));
    Ok(stored.map(|fact| (text(fact, "kind"), text(fact, "content"))).collect())
}
