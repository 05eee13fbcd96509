//! A storm of rebalances: eight real workers on 32 partitions are stopped, killed, frozen beyond their session and joined by others
//! while events come in. In the end every event has its outcome, the same one however often it was worked on, and the outcomes of an
//! entity begin in the order of its events.
//!
//! The same storm strikes the members of the driver's model (`keyed/simulation/storm.rs`). `MEMORI_SOAK=1` runs the large size,
//! `MEMORI_SEED=n` another seed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_event_log::conformance::storm::{Blow, Storm, Strike};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::seam::{Log, NewRecord};
use memori_event_log::topic::{Topic, TopicPartition};
use memori_schemas::{
    ContentFormat, ConversationEvent, Fact, Lane, LogRecordBody, Message, Micros, Role, Supplied, framing, ids,
};
use memori_tests::process::{Process, Program};
use memori_tests::servers::Servers;
use memori_tests::storm::tell;

const TENANT: &str = "tenant-a";
/// How long nothing may happen before the storm counts as stuck: far above a session's time-out.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

fn event(entity: usize, n: usize) -> ConversationEvent {
    let entity_id = format!("user-{entity}");
    let messages = vec![Message {
        message_id: None,
        role: Role::User,
        name: None,
        content: format!("I own item {entity}-{n}. I like colour {}.", n % 7),
        content_format: ContentFormat::Text,
        created_at: None,
    }];
    let at = Micros(1_770_000_000_000_000 + i64::try_from(n).unwrap_or(0) * 1_000_000);
    ConversationEvent {
        tenant: TENANT.to_owned(),
        process_id: None,
        session_id: None,
        event_id: format!("{entity}-{n}"),
        content_hash: ids::content_hash(&entity_id, None, &messages, &[]),
        entity_id,
        occurred_at: at,
        accepted_at: at,
        messages,
        metadata: Vec::new(),
        supplied: Supplied { event_id: true, occurred_at: true },
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    }
}

/// What the workers have said so far.
#[derive(Default)]
struct Outcomes {
    partitions: i32,
    read_to: BTreeMap<i32, i64>,
    /// By event; the first one.
    facts: HashMap<String, Vec<Fact>>,
    /// By entity, the numbers of its events in the order of their first outcomes.
    order: HashMap<usize, Vec<usize>>,
    repeats: usize,
}

impl Outcomes {
    /// Reads what is new; whether there was anything.
    async fn read(&mut self, log: &KafkaLog) -> anyhow::Result<bool> {
        let mut any = false;
        for partition in 0..self.partitions {
            let place = TopicPartition { topic: Topic::FactsLive, partition };
            let from = self.read_to.entry(partition).or_default();
            let (_, end) = log.watermarks(place).await?;
            while *from < end {
                let records = log.read(place, *from, 1_000).await?;
                let Some(last) = records.last() else { break };
                *from = last.offset + 1;
                any = true;
                for record in records {
                    let LogRecordBody::Facts(outcome) = framing::decode(&record.payload)? else { continue };
                    for cover in &outcome.covers {
                        let of_event = |fact: &&Fact| fact.evidence.iter().any(|evidence| evidence.event_id == cover.event_id);
                        let facts: Vec<Fact> = outcome.facts.iter().filter(of_event).cloned().collect();
                        if let Some(first) = self.facts.get(&cover.event_id) {
                            ensure!(*first == facts, "event {} has two different outcomes", cover.event_id);
                            self.repeats += 1;
                            continue;
                        }
                        let (entity, n) = cover.event_id.split_once('-').context("an event that nobody published")?;
                        self.order.entry(entity.parse()?).or_default().push(n.parse()?);
                        self.facts.insert(cover.event_id.clone(), facts);
                    }
                }
            }
        }
        Ok(any)
    }

    /// Waits until so many events have an outcome.
    async fn reach(&mut self, log: &KafkaLog, events: usize) -> anyhow::Result<()> {
        let mut since = Instant::now();
        loop {
            if self.read(log).await? {
                since = Instant::now();
            }
            if self.facts.len() >= events {
                return Ok(());
            }
            ensure!(since.elapsed() < PATIENCE, "{} of {events} events have an outcome, and nothing happens", self.facts.len());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn start(name: &str, env: &[(String, String)], folder: &std::path::Path) -> anyhow::Result<Process> {
    let program =
        Program { binary: "memori-augment-worker", args: Vec::new(), env: env.to_vec(), listen_key: None, has_admin: true };
    tokio::task::block_in_place(|| Process::start(name, program, folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_has_one_outcome_whatever_happens_to_the_workers() -> anyhow::Result<()> {
    let storm = Storm::asked_for();
    let (entities, each) = (storm.entities, storm.each);
    tell(&format!(
        "rebalance storm: seed {}, {} workers, {} partitions, {} events",
        storm.seed,
        storm.workers,
        storm.partitions,
        storm.events()
    ));

    let servers = Servers::shared()?;
    let prefix = servers.fresh_prefix();
    let log = Arc::new(KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &prefix)).await?);
    log.create_topics(storm.partitions).await?;
    let folder = tempfile::Builder::new().prefix("memori-storm-").tempdir()?;
    let env: Vec<(String, String)> = [
        ("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()),
        ("MEMORI__KAFKA__TOPIC_PREFIX", &prefix),
        ("MEMORI__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000"),
        ("MEMORI__KAFKA__PROPERTIES__HEARTBEAT_INTERVAL_MS", "1000"),
        ("MEMORI__EMBEDDING__KIND", "none"),
        ("MEMORI__WORKER__COMMIT_INTERVAL_MS", "200"),
        ("MEMORI__LOG__LEVEL", "warn"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let mut workers = Vec::new();
    for n in 0..storm.workers {
        workers.push(start(&format!("worker-{n}"), &env, folder.path())?);
    }
    let mut guest: Option<Process> = None;
    let mut guests = 0;

    let mut outcomes = Outcomes { partitions: storm.partitions, ..Outcomes::default() };
    let producer = log.producer();
    let mut published = 0;
    for (blow, &Strike { published_each, at_outcomes, victim, blow: what }) in storm.strikes.iter().enumerate() {
        for n in published / entities..published_each {
            let mut records = Vec::with_capacity(entities);
            for entity in 0..entities {
                let event = event(entity, n);
                let key = ids::log_key(TENANT, &event.entity_id).into();
                let payload = framing::encode(&LogRecordBody::Conversation(event))?.into();
                records.push(NewRecord { topic: Topic::conversations(Lane::Live), key, payload, headers: Vec::new() });
            }
            for appended in producer.append(&records, None).await {
                appended?;
            }
            published += entities;
        }
        outcomes.reach(&log, at_outcomes).await?;
        tell(&format!(
            "blow {}/{}: {what:?} worker {victim} at {} outcomes",
            blow + 1,
            storm.strikes.len(),
            outcomes.facts.len()
        ));
        match what {
            Blow::Stop => {
                let status = tokio::task::block_in_place(|| workers[victim].stop())?;
                ensure!(status.success(), "SIGTERM does not end in exit 0");
                tokio::task::block_in_place(|| workers[victim].start_again())?;
            }
            Blow::Kill => tokio::task::block_in_place(|| workers[victim].kill_and_restart())?,
            Blow::Freeze => {
                workers[victim].freeze(true)?;
                // Only those that took its partitions over can finish what was published.
                let gone_on = outcomes.reach(&log, published).await;
                workers[victim].freeze(false)?;
                gone_on?;
            }
            Blow::Join => match guest.take() {
                Some(mut leaves) => {
                    ensure!(tokio::task::block_in_place(|| leaves.stop())?.success(), "SIGTERM does not end in exit 0");
                }
                None => {
                    guests += 1;
                    guest = Some(start(&format!("guest-{guests}"), &env, folder.path())?);
                }
            },
        }
    }
    outcomes.reach(&log, entities * each).await?;
    ensure!(outcomes.facts.len() == entities * each, "outcomes of events that nobody published");
    for (entity, order) in &outcomes.order {
        ensure!(order.is_sorted() && order.len() == each, "the outcomes of user-{entity} begin in the order {order:?}");
    }
    let learned = outcomes.facts.values().filter(|facts| !facts.is_empty()).count();
    ensure!(learned == entities * each, "{learned} events taught anything");
    for partition in 0..storm.partitions {
        let (from, to) = log.watermarks(TopicPartition { topic: Topic::DeadLetters, partition }).await?;
        ensure!(from == to, "partition {partition} holds {} dead letters", to - from);
    }
    for mut process in workers.into_iter().chain(guest) {
        ensure!(tokio::task::block_in_place(|| process.stop())?.success(), "SIGTERM does not end in exit 0");
    }
    // Stopped in order, each has handed on what it had finished: nothing is left to be done twice.
    let repeats = outcomes.repeats;
    let _ = outcomes.read(&log).await?;
    ensure!(outcomes.repeats == repeats, "the last stops left work to be done again");
    tell(&format!("{} events, each with its outcome; {} were worked on again", entities * each, outcomes.repeats));
    Ok(())
}
