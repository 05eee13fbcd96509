//! The scenario that Confluent's parallel consumer publishes times of: 10,000 messages on one partition, 0 to 5 ms of work each, at
//! most 100 at a time, in order of their keys (README of confluentinc/parallel-consumer, "Illustrative Performance Example"; their
//! machine is not ours).
//!
//! The floor of each case is the same work without a log: a task for each key that does its work in order. Ours also appends, for each
//! message, what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use memori_augment_worker::Extractor;
use memori_schemas::{ConversationEvent, Lane};
use memori_tests::servers::Servers;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::bed::{Bed, Taking, Watched, span};
use super::settings;
use crate::Options;
use crate::report::{Better, Report, say};

const IN_FLIGHT: usize = 100;
/// Keys, and the seconds that are published for them.
const PUBLISHED: [(usize, f64); 7] =
    [(1, 26.743), (2, 13.576), (5, 5.916), (10, 3.310), (20, 2.242), (100, 2.178), (1_000, 2.056)];

/// 0 to 5 ms, by the number of the message.
fn work_of(n: usize) -> Duration {
    let hash = blake3::hash(&n.to_le_bytes());
    Duration::from_micros(u64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) * 5_000 / u64::from(u16::MAX))
}

fn number_of(event: &ConversationEvent) -> usize {
    event.event_id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

async fn floor(messages: usize, keys: usize) -> anyhow::Result<f64> {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut running = JoinSet::new();
    let since = Instant::now();
    for key in 0..keys {
        let places = Arc::clone(&places);
        running.spawn(async move {
            for n in (key..messages).step_by(keys) {
                let _place = places.acquire().await;
                tokio::time::sleep(work_of(n)).await;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    Ok(since.elapsed().as_secs_f64())
}

pub(super) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let messages = if options.quick { 500 } else { 10_000 };
    for (keys, published) in PUBLISHED {
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..if keys <= 2 { 1 } else { options.runs } {
            let bed = Bed::new(servers, 1).await?;
            let owners: Vec<(&str, String)> = (0..messages).map(|n| ("tenant", format!("user-{}", n % keys))).collect();
            bed.publish(Lane::Live, &owners, 0).await?;
            let watched = Watched::new(Taking(|event: &ConversationEvent| work_of(number_of(event))));
            let extractor: Arc<dyn Extractor> = Arc::clone(&watched) as _;
            let workers = bed.work(1, &settings(IN_FLIGHT), &extractor);
            let calls = watched.take(None, messages).await?;
            workers.end().await?;
            ours.push(span(&calls));
            floors.push(floor(messages, keys).await?);
        }
        report.add("worker", &format!("10,000 messages of 0-5 ms, {keys} keys"), "s", Better::Lower, &ours, &floors);
        if !options.quick {
            say(&format!("{:<12} {:<42} {published:>14} s, as published for the parallel consumer", "", ""));
        }
    }
    Ok(())
}
