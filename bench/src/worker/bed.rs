//! What the worker's benches stand on: topics of their own on a real Kafka, events in them, and an extractor that takes a set time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use memori_augment_worker::{ExtractError, Extraction, Extractor, InFlight, WorkerConfig};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::seam::{Log, LogError, NewRecord};
use memori_event_log::topic::Topic;
use memori_schemas::{ConversationEvent, ExtractorInfo, Lane, LogRecordBody, Micros, framing, ids};
use memori_service::Settings;
use memori_tests::servers::Servers;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::input;

/// How long anything may take before it counts as broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// Topics of its own.
pub(super) struct Bed {
    log: Arc<KafkaLog>,
    servers_kafka: String,
    prefix: String,
    pub(super) partitions: i32,
}

impl Bed {
    pub(super) async fn new(servers: &Servers, partitions: i32) -> anyhow::Result<Self> {
        let prefix = servers.fresh_prefix();
        let log = Arc::new(KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &prefix)).await?);
        log.create_topics(partitions).await?;
        Ok(Self { log, servers_kafka: servers.kafka_brokers().to_owned(), prefix, partitions })
    }

    pub(super) fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.log) as _
    }

    pub(super) fn brokers(&self) -> &str {
        &self.servers_kafka
    }

    /// The name of a topic at the broker.
    pub(super) fn topic(&self, topic: Topic) -> String {
        format!("{}.{}", self.prefix, topic.as_str())
    }

    /// Puts events in, accepted now. Their numbers begin at `first`.
    pub(super) async fn publish(&self, lane: Lane, owners: &[(&str, String)], first: usize) -> anyhow::Result<()> {
        let producer = self.log.producer();
        for (chunk, owners) in owners.chunks(1_000).enumerate() {
            let mut records = Vec::with_capacity(owners.len());
            for (place, (tenant, entity)) in owners.iter().enumerate() {
                let (mut event, _) = input::event(tenant, entity, first + chunk * 1_000 + place, 1);
                event.accepted_at = Micros::now();
                let payload = framing::encode(&LogRecordBody::Conversation(event))?;
                let key = ids::log_key(tenant, entity).into();
                records.push(NewRecord { topic: Topic::conversations(lane), key, payload: payload.into(), headers: Vec::new() });
            }
            for appended in producer.append(&records, None).await {
                appended.context("publishing")?;
            }
        }
        Ok(())
    }

    /// Entities so chosen that every partition has as many of them.
    pub(super) fn entities(&self, per_partition: usize) -> Vec<String> {
        let mut left = vec![per_partition; usize::try_from(self.partitions).unwrap_or(1)];
        let (mut chosen, mut n) = (Vec::new(), 0_usize);
        while chosen.len() < per_partition * left.len() {
            let name = format!("user-{n}");
            n += 1;
            let partition = usize::try_from(ids::partition_of(&ids::log_key("tenant", &name), self.partitions)).unwrap_or(0);
            if left[partition] > 0 {
                left[partition] -= 1;
                chosen.push(name);
            }
        }
        chosen
    }

    /// Workers on these topics, each with its own extractor's bound.
    pub(super) fn work(&self, workers: usize, settings: &Settings, extractor: &Arc<dyn Extractor>) -> Workers {
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        for _ in 0..workers {
            let config = WorkerConfig::from_settings(settings);
            let (log, extractor, stop) = (self.log(), Arc::clone(extractor), stop.clone());
            running.spawn(memori_augment_worker::run(log, config, extractor, None, InFlight::unasked(), stop));
        }
        Workers { stop, running }
    }
}

/// Running workers.
pub(super) struct Workers {
    stop: CancellationToken,
    running: JoinSet<Result<(), LogError>>,
}

impl Workers {
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// One call, of one event.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) tenant: Arc<str>,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// From the door to here, in seconds.
    pub(super) since_accepted: f64,
}

/// What an extractor is asked, with the times.
pub(super) struct Watched {
    inner: Box<dyn Extractor>,
    calls: Mutex<Vec<Call>>,
    /// Since they were last taken, by tenant.
    done: Mutex<HashMap<Arc<str>, usize>>,
    grown: Notify,
}

impl Watched {
    pub(super) fn new(inner: impl Extractor) -> Arc<Self> {
        Arc::new(Self { inner: Box::new(inner), calls: Mutex::default(), done: Mutex::default(), grown: Notify::new() })
    }

    /// Waits until so many events are extracted, of one tenant or of all, and takes all calls until then.
    pub(super) async fn take(&self, tenant: Option<&str>, events: usize) -> anyhow::Result<Vec<Call>> {
        let arrived = async {
            loop {
                let grown = self.grown.notified();
                let done: usize = {
                    let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.iter().filter(|(of, _)| tenant.is_none_or(|tenant| &***of == tenant)).map(|(_, count)| count).sum()
                };
                if done >= events {
                    return;
                }
                grown.await;
            }
        };
        tokio::time::timeout(PATIENCE, arrived).await.context("the workers do not come to an end")?;
        let calls = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.clear();
            std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let of_tenant = calls.iter().filter(|call| tenant.is_none_or(|tenant| &*call.tenant == tenant)).count();
        ensure!(of_tenant == events, "{of_tenant} calls for {events} events: something was worked on twice");
        Ok(calls)
    }
}

#[async_trait]
impl Extractor for Watched {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        let began = Instant::now();
        let extraction = self.inner.extract(lane, events).await?;
        let ended = Instant::now();
        for event in events {
            let tenant: Arc<str> = event.tenant.as_str().into();
            #[allow(clippy::cast_precision_loss, reason = "seconds")]
            let since_accepted = (Micros::now().0 - event.accepted_at.0) as f64 / 1e6;
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            *done.entry(Arc::clone(&tenant)).or_default() += 1;
            let call = Call { tenant, began, ended, since_accepted };
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        }
        self.grown.notify_waiters();
        Ok(extraction)
    }
}

/// From the first call's beginning to the last one's end, in seconds.
pub(super) fn span(calls: &[Call]) -> f64 {
    let began = calls.iter().map(|call| call.began).min();
    let ended = calls.iter().map(|call| call.ended).max();
    began.zip(ended).map_or(0.0, |(began, ended)| ended.duration_since(began).as_secs_f64())
}

/// An extractor that finds nothing, and takes its time.
pub(super) struct Taking<F>(pub(super) F);

#[async_trait]
impl<F: Fn(&ConversationEvent) -> Duration + Send + Sync + 'static> Extractor for Taking<F> {
    async fn extract(&self, _: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        let time = events.iter().map(|event| (self.0)(event)).sum::<Duration>();
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        Ok(nothing())
    }
}

/// An extraction without a fact.
pub(super) fn nothing() -> Extraction {
    let extractor = ExtractorInfo {
        name: "bench".to_owned(),
        version: "1".to_owned(),
        model: None,
        prompt_hash: None,
        tokens_in: 0,
        tokens_out: 0,
        cost_micros: 0,
    };
    Extraction { facts: Vec::new(), extractor }
}
