//! The scenario that Confluent's parallel consumer publishes times of: 10,000 messages on one partition, 0 to 5 ms of work each, at
//! most 100 at a time, in order of their keys (README of confluentinc/parallel-consumer, "Illustrative Performance Example"; their
//! machine is not ours).
//!
//! Like theirs, the work sleeps and writes nothing. The floor of each case is the same work without a log: a task for each key that
//! does its work in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_event_log::driver::{KeyedConfig, Reading, RecordHandler, Unobserved, Verdict, Windowing, Work, run_keyed};
use memori_event_log::seam::{Log, LogRecord};
use memori_event_log::topic::Topic;
use memori_schemas::Lane;
use memori_tests::servers::Servers;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bed::{Bed, PATIENCE};
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

/// Sleeps, and counts.
struct Sleeping {
    messages: usize,
    done: AtomicUsize,
    /// When the first one began, and when the last one ended.
    span: Mutex<Option<(Instant, Instant)>>,
    all: Notify,
}

impl RecordHandler for Sleeping {
    type Item = ();

    fn read(&self, _: &LogRecord) -> Reading<()> {
        Reading { item: (), tenant: Arc::from("tenant"), cost: 1, bytes: 0, window: Windowing::Alone }
    }

    async fn handle(&self, work: Work<()>) -> Verdict {
        let began = Instant::now();
        let n = work.window.first().and_then(|held| usize::try_from(held.record.offset).ok()).unwrap_or(0);
        tokio::time::sleep(work_of(n)).await;
        {
            let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
            let first = span.map_or(began, |(first, _)| first.min(began));
            *span = Some((first, Instant::now()));
        }
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 >= self.messages {
            self.all.notify_one();
        }
        Verdict::Done
    }
}

async fn ours(servers: &Servers, messages: usize, keys: usize) -> anyhow::Result<f64> {
    let bed = Bed::new(servers, 1).await?;
    let owners: Vec<(&str, String)> = (0..messages).map(|n| ("tenant", format!("user-{}", n % keys))).collect();
    bed.publish(Lane::Live, &owners, 0).await?;
    let handler = Arc::new(Sleeping { messages, done: AtomicUsize::new(0), span: Mutex::default(), all: Notify::new() });
    let config = KeyedConfig { max_concurrency: IN_FLIGHT.into(), ..KeyedConfig::new("peer", vec![Topic::ConversationsLive]) };
    let stop = CancellationToken::new();
    let log: Arc<dyn Log> = bed.log();
    let driver = tokio::spawn(run_keyed(log, config, Arc::clone(&handler), Arc::new(Unobserved), stop.clone()));
    tokio::time::timeout(PATIENCE, handler.all.notified()).await.context("the messages are not worked on")?;
    stop.cancel();
    driver.await??;
    ensure!(handler.done.load(Ordering::SeqCst) == messages, "messages were worked on twice");
    let span = *handler.span.lock().unwrap_or_else(PoisonError::into_inner);
    let (began, ended) = span.context("nothing was worked on")?;
    Ok(ended.duration_since(began).as_secs_f64())
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
        let (mut took, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..if keys <= 2 { 1 } else { options.runs } {
            took.push(ours(servers, messages, keys).await?);
            floors.push(floor(messages, keys).await?);
        }
        report.add("worker", &format!("{messages} messages of 0-5 ms, {keys} keys"), "s", Better::Lower, &took, &floors);
        if !options.quick {
            say(&format!("{:<12} {:<42} {published:>14.3} s, as published for the parallel consumer", "", ""));
        }
    }
    Ok(())
}
