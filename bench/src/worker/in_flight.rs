//! Events per second over the bound: calls in flight divided by the time that a call takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;
use memori_augment_worker::{ExtractError, Extraction, Extractor, Llm};
use memori_schemas::{ConversationEvent, Lane};
use memori_tests::provider::Provider;
use memori_tests::servers::Servers;

use super::bed::{Bed, Taking, Watched, span};
use super::settings;
use crate::Options;
use crate::report::{Better, Report};

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn rate(events: usize, seconds: f64) -> f64 {
    events as f64 / seconds
}

/// Through the `llm` extractor to a double of a provider over HTTP, which runs on the same cores: one partition, 1,000 keys. Once also
/// with the limit that is found out, from its slow start on.
pub(super) async fn calls(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    const KEYS: usize = 1_000;
    for (in_flight, latency, adaptive) in [(16_usize, 100_u64, false), (100, 250, false), (100, 250, true), (1_000, 1_000, false)]
    {
        let rounds = if options.quick { 2 } else { 20 };
        let events = (in_flight * rounds).max(KEYS);
        let provider = Provider::start().await?;
        provider.take_time(Duration::from_millis(latency));
        let mut settings = settings(in_flight);
        settings.extractor.kind = "llm".to_owned();
        settings.extractor.base_url = Some(provider.base_url());
        settings.extractor.model = Some("bench".to_owned());
        settings.extractor.known_facts_tokens = 0;
        settings.worker.window_events = 1;
        settings.extractor.adaptive = adaptive;
        let (mut ours, mut bound) = (Vec::new(), Vec::new());
        for _ in 0..options.runs {
            let bed = Bed::new(servers, 1).await?;
            let owners: Vec<(&str, String)> = (0..events).map(|n| ("tenant", format!("user-{}", n % KEYS))).collect();
            bed.publish(Lane::Live, &owners, 0).await?;
            let watched = Watched::new(Llm::new(&settings, None).map_err(anyhow::Error::msg)?);
            let extractor: Arc<dyn Extractor> = Arc::clone(&watched) as _;
            let workers = bed.work(1, &settings, &extractor);
            let calls = watched.take(None, events).await?;
            workers.end().await?;
            ours.push(rate(events, span(&calls)));
            bound.push(rate(in_flight, f64::from(u32::try_from(latency)?) / 1e3));
        }
        let found_out = if adaptive { ", limit found out" } else { "" };
        let case = format!("{in_flight} in flight, {latency} ms a call{found_out}");
        report.add("worker", &case, "events/s", Better::Higher, &ours, &bound);
    }
    Ok(())
}

/// What one of several workers asks, counted.
struct Member {
    all: Arc<Watched>,
    events: AtomicUsize,
}

impl Member {
    fn new(all: &Arc<Watched>) -> Self {
        Self { all: Arc::clone(all), events: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Extractor for Member {
    async fn extract(&self, lane: Lane, events: &[Arc<ConversationEvent>]) -> Result<Extraction, ExtractError> {
        self.events.fetch_add(events.len(), Ordering::Relaxed);
        self.all.extract(lane, events).await
    }
}

/// Eight workers beside one, with calls of a second: the floor is eight times what one does.
pub(super) async fn workers(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    const WORKERS: usize = 8;
    let per_partition = if options.quick { 10 } else { 60 };
    let settings = settings(50);
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let mut rates = Vec::new();
        for workers in [1, WORKERS] {
            // As much for each worker in both cases.
            let bed = Bed::new(servers, i32::try_from(2 * workers)?).await?;
            let watched = Watched::new(Taking(|_: &_| Duration::from_secs(1)));
            let members: Vec<Arc<Member>> = (0..workers).map(|_| Arc::new(Member::new(&watched))).collect();
            let running: Vec<_> =
                members.iter().map(|member| bed.work(1, &settings, &(Arc::clone(member) as Arc<dyn Extractor>))).collect();
            let entities = bed.entities(per_partition);
            let owners = |entities: &[String]| entities.iter().map(|entity| ("tenant", entity.clone())).collect::<Vec<_>>();
            // Once an event of every partition has come through three times in the same way, the group has settled.
            let (mut rounds, mut shares, mut alike) = (0, Vec::new(), 0);
            loop {
                bed.publish(Lane::Live, &owners(&bed.entities(1)), rounds).await?;
                watched.take(None, 2 * workers).await?;
                let now: Vec<usize> = members.iter().map(|member| member.events.swap(0, Ordering::Relaxed)).collect();
                alike = if now == shares { alike + 1 } else { 0 };
                shares = now;
                if alike == 2 {
                    break;
                }
                rounds += 1;
                ensure!(rounds < 120, "the group does not settle: {shares:?}");
            }
            let all: Vec<_> = (0..5).flat_map(|_| owners(&entities)).collect();
            bed.publish(Lane::Live, &all, 1_000).await?;
            let calls = watched.take(None, all.len()).await?;
            for one in running {
                one.end().await?;
            }
            rates.push(rate(all.len(), span(&calls)));
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        floor.push(rates[0] * WORKERS as f64);
        ours.push(rates[1]);
    }
    report.add("worker", "8 workers over 8 times one, 1 s a call", "events/s", Better::Higher, &ours, &floor);
    Ok(())
}
