//! Traces: one trace from the request through the log to the worker, linked by the flush that wrote its event; sent to a collector
//! where there is one, carried on the log where there is none; a collector that is away costs nothing but spans. A line of a process's own
//! log names trace and span.

use std::net::TcpListener as BlackHole;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::{Log as _, Topic, TopicPartition};
use memori_tests::client::Api;
use memori_tests::distributed::Distributed;
use memori_tests::embedded::Embedded;
use memori_tests::servers::Servers;
use memori_tests::storm::tell;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::sync::watch;

const TENANT: &str = "tenant-a";
const WITHIN: Duration = Duration::from_secs(90);
/// As the writer bounds them.
const MAX_LINKS: usize = 128;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A span and the service that sent it.
#[derive(Clone, Debug)]
struct Seen {
    service: String,
    span: Span,
}

impl Seen {
    fn is(&self, name: &str, trace: &str) -> bool {
        self.span.name == name && hex::encode(&self.span.trace_id) == trace
    }

    fn links(&self, other: &Seen) -> bool {
        self.span.links.iter().any(|link| link.trace_id == other.span.trace_id && link.span_id == other.span.span_id)
    }
}

/// A collector that keeps what it is sent.
struct Collector {
    endpoint: String,
    seen: Arc<watch::Sender<Vec<Seen>>>,
}

impl Collector {
    async fn start() -> anyhow::Result<Self> {
        let seen = Arc::new(watch::Sender::new(Vec::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { endpoint, seen })
    }

    fn env(&self) -> [(&str, &str); 2] {
        [("MEMORI__OTLP__ENDPOINT", &self.endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "200")]
    }

    /// Everything, once `enough` finds what it looks for in it.
    async fn until<T>(&self, what: &str, enough: impl Fn(&[Seen]) -> Option<T>) -> anyhow::Result<T> {
        let mut changes = self.seen.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = enough(&changes.borrow_and_update()) {
                    return anyhow::Ok(found);
                }
                changes.changed().await?;
            }
        };
        match tokio::time::timeout(WITHIN, waiting).await {
            Ok(found) => found,
            Err(_) => {
                let names: Vec<String> = self
                    .seen
                    .borrow()
                    .iter()
                    .map(|s| format!("{} {} {} +{}", s.service, s.span.name, hex::encode(&s.span.trace_id), s.span.links.len()))
                    .collect();
                anyhow::bail!("the collector did not get {what}; it has\n{}", names.join("\n"))
            }
        }
    }
}

async fn take(State(seen): State<Arc<watch::Sender<Vec<Seen>>>>, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let request = ExportTraceServiceRequest::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let spans = request.resource_spans.into_iter().flat_map(|resource| {
        let service = resource
            .resource
            .into_iter()
            .flat_map(|resource| resource.attributes)
            .find(|attribute| attribute.key == "service.name")
            .and_then(|attribute| match attribute.value?.value? {
                AnyValue::StringValue(name) => Some(name),
                _ => None,
            })
            .unwrap_or_default();
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| Seen { service: service.clone(), span }).collect::<Vec<_>>()
    });
    let spans: Vec<Seen> = spans.collect();
    seen.send_modify(|all| all.extend(spans));
    Ok(ExportTraceServiceResponse::default().encode_to_vec())
}

async fn say(api: &Api, event_id: &str, entity: &str, traceparent: &str) -> anyhow::Result<()> {
    let body = json!({"event_id": event_id, "entity_id": entity, "messages": [{"role": "user", "content": "I live in Lisbon."}]});
    let answer = api.insist(|| api.request(Method::POST, "/v1/events").header("traceparent", traceparent).json(&body)).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
    Ok(())
}

/// One event's whole story; `services` are those of request, augmentation and flush.
async fn follow(api: &Api, collector: &Collector, services: [&str; 3]) -> anyhow::Result<()> {
    say(api, "evt-1", "user-1", &format!("00-{TRACE}-{CALLER}-01")).await?;
    api.wait_final(&["evt-1".to_owned()], WITHIN).await?;
    let find = |all: &[Seen], name: &str| all.iter().find(|seen| seen.is(name, TRACE)).cloned();
    let request = collector.until("the request", |all| find(all, "request")).await?;
    let augment = collector.until("the augmentation", |all| find(all, "augment")).await?;
    ensure!(hex::encode(&request.span.parent_span_id) == CALLER, "the request is not its caller's: {request:?}");
    ensure!(augment.span.parent_span_id == request.span.span_id, "the augmentation is not the request's: {augment:?}");
    let mut flush_service = String::new();
    for (what, wanted) in [("a flush of the conversation", &request), ("a flush of the facts", &augment)] {
        let is_it = |seen: &&Seen| seen.span.name == "flush" && seen.links(wanted);
        let flush = collector.until(what, |all| all.iter().find(is_it).cloned()).await?;
        ensure!(flush.span.trace_id != wanted.span.trace_id, "{what} is in its event's trace: {flush:?}");
        ensure!(flush.span.parent_span_id.is_empty(), "{what} has a parent: {flush:?}");
        flush_service = flush.service;
    }
    ensure!([&*request.service, &augment.service, &flush_service] == services, "{request:?} {augment:?} {flush_service}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_from_the_request_to_the_flush_across_processes() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let servers = tokio::task::block_in_place(Servers::shared)?;
    let mut env = collector.env().to_vec();
    env.push(("MEMORI__LOG__FORMAT", "json"));
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &env).await?;
    let api = shape.api(TENANT);
    follow(&api, &collector, ["memori-ingest", "memori-augment-worker", "memori-writer"]).await?;
    a_slow_request_is_told_with_its_trace(&shape, &api, &collector).await
}

/// While the writer sleeps a recall waits for it: the log's line says which trace that was, and in which bucket it was counted.
async fn a_slow_request_is_told_with_its_trace(shape: &Distributed<'_>, api: &Api, collector: &Collector) -> anyhow::Result<()> {
    const SLOW_TRACE: &str = "5b8efff798038103d269b633813fc60c";
    shape.writer.freeze(true)?;
    let asked = tokio::spawn({
        let body = json!({"entity_id": "user-1", "query": "Where?"});
        let request = api.request(Method::POST, "/v1/recall").header("traceparent", format!("00-{SLOW_TRACE}-{CALLER}-01"));
        async move { request.json(&body).send().await }
    });
    // As long as is slow.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    shape.writer.freeze(false)?;
    asked.await??;
    let request =
        collector.until("the slow request", |all| all.iter().find(|seen| seen.is("request", SLOW_TRACE)).cloned()).await?;
    let log = shape.ingest.log_text();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let told: Vec<_> = lines.filter(|line| line["fields"]["message"] == "a slow request").collect();
    let [line] = &told[..] else { anyhow::bail!("one line, not {told:?}") };
    ensure!(
        (line["trace_id"].as_str(), line["span_id"].as_str()) == (Some(SLOW_TRACE), Some(&*hex::encode(&request.span.span_id))),
        "{line}"
    );
    ensure!(line["span"]["route"] == "/v1/recall" && line["fields"]["seconds"].as_f64() >= Some(1.0), "{line}");
    let bucket = line["fields"]["bucket"].as_str().context("a bucket")?;
    let (route, le) = ("route=\"/v1/recall\"", format!("le=\"{bucket}\""));
    let scraped = reqwest::get(format!("{}/metrics", shape.ingest.admin())).await?.text().await?;
    let mut buckets = scraped.lines().filter(|line| line.starts_with("memori_ingest_request_duration_seconds_bucket"));
    let counted = buckets.any(|line| line.contains(route) && line.contains(&le) && line.ends_with(" 1"));
    ensure!(counted, "it is not counted in {le}: {scraped}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_in_one_process_and_links_are_bounded() -> anyhow::Result<()> {
    const EVENTS: usize = 200;
    let collector = Collector::start().await?;
    let mut env = collector.env().to_vec();
    // One flush takes what comes within this.
    env.push(("MEMORI__WRITER__BATCH_MAX_AGE_MS", "8000"));
    let embedded = tokio::task::block_in_place(|| Embedded::start(&[TENANT.to_owned()], &env))?;
    let api = embedded.api(TENANT);
    follow(&api, &collector, ["memori"; 3]).await?;

    let event_ids: Vec<String> = (0..EVENTS).map(|n| format!("many-{n}")).collect();
    futures::stream::iter(event_ids.iter().enumerate().map(|(n, event_id)| {
        let api = api.clone();
        async move { say(&api, event_id, &format!("user-{n}"), &format!("00-{:032x}-{CALLER}-01", n + 1)).await }
    }))
    .buffer_unordered(32)
    .try_collect::<()>()
    .await?;
    api.wait_final(&event_ids, WITHIN).await?;
    let most = collector
        .until("a flush with as many links as there may be", |all| {
            let most = all.iter().filter(|seen| seen.span.name == "flush").map(|seen| seen.span.links.len()).max()?;
            (most >= MAX_LINKS).then_some(most)
        })
        .await?;
    ensure!(most == MAX_LINKS, "a flush links {most} spans");
    let dropped: u32 =
        collector.seen.borrow().iter().filter(|s| s.span.name == "flush").map(|s| s.span.dropped_links_count).sum();
    ensure!(dropped == 0, "{dropped} links were made in vain");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_log_still_carries_the_trace() -> anyhow::Result<()> {
    let servers = tokio::task::block_in_place(Servers::shared)?;
    // Of each topic the one record that is looked at.
    let env = [("MEMORI__INGEST__FLUSH_ON_WAIT", "false")];
    let shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &env).await?;
    let api = shape.api(TENANT);
    say(&api, "evt-1", "user-1", &format!("00-{TRACE}-{CALLER}-01")).await?;
    api.wait_final(&["evt-1".to_owned()], WITHIN).await?;

    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &shape.prefix)).await?;
    let mut parents = Vec::new();
    for topic in [Topic::ConversationsLive, Topic::FactsLive] {
        let mut found = Vec::new();
        for partition in 0..log.identity().await?.partitions {
            found.extend(log.read(TopicPartition { topic, partition }, 0, 10).await?);
        }
        let [record] = &found[..] else { anyhow::bail!("{topic} has {} records", found.len()) };
        let parent = record.header("traceparent").with_context(|| format!("{topic}: no traceparent"))?;
        let parent = std::str::from_utf8(parent)?.to_owned();
        ensure!(parent.starts_with(&format!("00-{TRACE}-")), "{topic}: {parent}");
        parents.push(parent);
    }
    ensure!(parents[0] != parents[1] && !parents.iter().any(|parent| parent.contains(CALLER)), "no spans between: {parents:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_nothing_but_spans() -> anyhow::Result<()> {
    const DEADLINE: Duration = Duration::from_secs(8);
    // One port that refuses, and one that takes connections and never answers.
    let refusing = BlackHole::bind("127.0.0.1:0")?.local_addr()?;
    let silent = BlackHole::bind("127.0.0.1:0")?;
    let deadline_ms = DEADLINE.as_millis().to_string();
    for (what, address) in [("refusing", refusing), ("silent", silent.local_addr()?)] {
        let endpoint = format!("http://{address}");
        let env = [
            ("MEMORI__OTLP__ENDPOINT", endpoint.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("MEMORI__SHUTDOWN__DEADLINE_MS", &deadline_ms),
        ];
        let mut embedded = tokio::task::block_in_place(|| Embedded::start(&[TENANT.to_owned()], &env))?;
        let api = embedded.api(TENANT);
        let event_ids: Vec<String> = (0..60).map(|n| format!("evt-{n}")).collect();
        for event_id in &event_ids {
            say(&api, event_id, "user-1", &format!("00-{TRACE}-{CALLER}-01")).await?;
        }
        api.wait_final(&event_ids, WITHIN).await?;
        let since = Instant::now();
        let status = tokio::task::block_in_place(|| embedded.process.stop())?;
        let took = since.elapsed();
        tell(&format!("with a {what} collector the process stopped after {took:?}"));
        ensure!(status.success(), "{what}: {status}\n{}", embedded.process.log_text());
        ensure!(took < DEADLINE, "{what}: stopping took {took:?} of {DEADLINE:?}");
    }
    Ok(())
}
