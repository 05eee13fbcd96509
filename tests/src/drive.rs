//! Posts a workload as its clients would: side by side, each in order, repeating what was not acknowledged under the same id.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Answer, Api};
use crate::workload::{Client, Expect, Post, Step, Workload};

/// What may happen on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing fails: every answer is exactly the expected one.
    Calm,
    /// Processes die. `exact_door`: one process owns door and store, so that a conflict is refused whatever has died.
    Storm {
        /// See above.
        exact_door: bool,
    },
}

/// How far the clients may go, and how far they are.
#[derive(Debug)]
pub struct Pace {
    allowed: watch::Sender<usize>,
    started: AtomicUsize,
    finished: watch::Sender<usize>,
}

impl Pace {
    /// Up to `allowed` requests.
    #[must_use]
    pub fn up_to(allowed: usize) -> Arc<Self> {
        Arc::new(Self { allowed: watch::channel(allowed).0, started: AtomicUsize::new(0), finished: watch::channel(0).0 })
    }

    /// No bound.
    #[must_use]
    pub fn free() -> Arc<Self> {
        Self::up_to(usize::MAX)
    }

    /// Lets the clients go on to `allowed` requests.
    pub fn allow(&self, allowed: usize) {
        self.allowed.send_replace(allowed);
    }

    /// Returns once `count` requests are answered.
    pub async fn reached(&self, count: usize) {
        let mut finished = self.finished.subscribe();
        // The sender lives as long as `self`.
        let _ = finished.wait_for(|finished| *finished >= count).await;
    }

    async fn begin(&self) {
        let ticket = self.started.fetch_add(1, Ordering::SeqCst);
        let mut allowed = self.allowed.subscribe();
        let _ = allowed.wait_for(|allowed| ticket < *allowed).await;
    }

    fn end(&self) {
        self.finished.send_modify(|finished| *finished += 1);
    }
}

/// Posts everything.
///
/// # Errors
/// An answer that the contract does not allow, or none for a long time.
pub async fn drive(workload: &Workload, api: impl Fn(&str) -> Api, pace: &Arc<Pace>, weather: Weather) -> anyhow::Result<()> {
    let clients = workload.clients.iter().map(|client| {
        let (api, client, pace) = (api(&client.tenant), client.clone(), Arc::clone(pace));
        tokio::spawn(async move { run_client(&api, &client, &pace, weather).await })
    });
    for client in futures::future::join_all(clients).await {
        client.context("a client panicked")??;
    }
    if weather == (Weather::Storm { exact_door: false }) {
        // A door that has just been born may not know the id yet; now that all is quiet, it must.
        for client in &workload.clients {
            for post in client.steps.iter().flat_map(Step::posts).filter(|post| post.expect == Expect::Conflict) {
                single(&api(&client.tenant), post, Weather::Calm).await?;
            }
        }
    }
    Ok(())
}

async fn run_client(api: &Api, client: &Client, pace: &Pace, weather: Weather) -> anyhow::Result<()> {
    for step in &client.steps {
        pace.begin().await;
        match step {
            Step::Single(post) => single(api, post, weather).await?,
            Step::Batch(posts) => batch(api, posts, false, weather).await?,
            Step::Ndjson(posts) => batch(api, posts, true, weather).await?,
        }
        pace.end();
    }
    Ok(())
}

fn later(post: &Post, weather: Weather) -> bool {
    post.expect == Expect::Conflict && weather == (Weather::Storm { exact_door: false })
}

async fn single(api: &Api, post: &Post, weather: Weather) -> anyhow::Result<()> {
    if later(post, weather) {
        return Ok(());
    }
    let Answer { status, body } = api.post("/v1/events", &post.body).await?;
    let judged = match status {
        StatusCode::ACCEPTED => {
            ensure!(body["event_id"] == post.body["event_id"], "another id came back: {body}");
            ensure!(["log", "spool"].contains(&body["durable_in"].as_str().unwrap_or("")), "not durable: {body}");
            body["status"].as_str().map(str::to_owned).context("no status")?
        }
        status => status.as_str().to_owned(),
    };
    judge(post, &judged, weather).with_context(|| format!("POST /v1/events answered {status} {body}"))
}

async fn batch(api: &Api, posts: &[Post], ndjson: bool, weather: Weather) -> anyhow::Result<()> {
    let mut open: Vec<&Post> = posts.iter().filter(|post| !later(post, weather)).collect();
    while !open.is_empty() {
        let bodies: Vec<&Value> = open.iter().map(|post| &post.body).collect();
        let answer = if ndjson {
            let lines: String = bodies.iter().map(|body| format!("{body}\n")).collect();
            let make = || {
                let request = api.request(Method::POST, "/v1/events/batch");
                request.header("content-type", "application/x-ndjson").body(lines.clone())
            };
            api.insist(make).await?
        } else {
            api.post("/v1/events/batch", &json!({"events": bodies})).await?
        };
        ensure!(answer.status == StatusCode::OK, "a batch was answered {}: {}", answer.status, answer.body);
        let results = answer.body["results"].as_array().context("no results")?;
        ensure!(results.len() == open.len(), "{} results for {} events", results.len(), open.len());
        let mut again = Vec::new();
        for (index, (result, post)) in results.iter().zip(&open).enumerate() {
            ensure!(result["index"] == json!(index), "results out of order: {}", answer.body);
            let status = result["status"].as_str().context("no status")?;
            let judged = match status {
                "rejected" => result["error"]["status"].as_u64().context("no error status")?.to_string(),
                status => status.to_owned(),
            };
            if judged == "503" {
                again.push(*post);
                continue;
            }
            judge(post, &judged, weather).with_context(|| format!("item {index} of a batch was answered {result}"))?;
        }
        open = again;
    }
    Ok(())
}

fn judge(post: &Post, answer: &str, weather: Weather) -> anyhow::Result<()> {
    let allowed: &[&str] = match (post.expect, weather) {
        (Expect::Accepted, Weather::Calm) => &["accepted"],
        // It may have been durable before its answer was lost.
        (Expect::Accepted, Weather::Storm { .. }) => &["accepted", "duplicate"],
        (Expect::Duplicate, Weather::Calm | Weather::Storm { exact_door: true }) => &["duplicate"],
        (Expect::Duplicate, Weather::Storm { exact_door: false }) => &["accepted", "duplicate"],
        (Expect::Invalid, _) => &["422"],
        (Expect::Conflict, _) => &["409"],
    };
    if !allowed.contains(&answer) {
        bail!("{answer} instead of one of {allowed:?} for {:?} {}", post.expect, post.body);
    }
    Ok(())
}

/// The ids of a tenant's accepted events.
#[must_use]
pub fn event_ids(workload: &Workload, tenant: &str) -> Vec<String> {
    let ids: BTreeSet<String> =
        workload.accepted().into_keys().filter(|(owner, _)| owner == tenant).map(|(_, event_id)| event_id).collect();
    ids.into_iter().collect()
}
