//! The whole way with the builtin extractor: conversations that wait on Kafka, to rows in Postgres that a recall can see. One worker and
//! one writer as processes of their own, beside broker and database on the same machine.
//!
//! The floor without vectors is the least that any such pipeline must do at its end: the rows that this run left, by COPY into empty
//! tables of the same shape, over one connection. With the built-in model it is that model alone, on all processors: the texts of
//! which this run made vectors. Where the time goes is told beside it, as processor time of an event in each kind of process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use memori_embedding::Embedder;
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::seam::{Log as _, NewRecord};
use memori_event_log::topic::Topic;
use memori_schemas::{ContentFormat, ConversationEvent, LogRecordBody, Message, Micros, Role, Supplied, framing, ids};
use memori_service::Settings;
use memori_tests::phrases::{LANGUAGES, WORDS};
use memori_tests::process::{Process, Program};
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::Store as _;
use memori_writer::store::postgres::PostgresStore;
use tokio_postgres::{Client, NoTls};

use crate::Options;
use crate::report::{Better, Report, median, say};

const TENANT: &str = "tenant";
const PARTITIONS: i32 = 6;
/// How many events one person has.
const EVENTS_EACH: usize = 50;
/// How long the events may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked how far the writer is.
const LOOK: Duration = Duration::from_millis(100);
/// How many windows' texts are embedded at a time at the floor: as many as the worker has in flight.
const EMBEDDED_AT_A_TIME: usize = 50;
/// The tables that a flush fills.
const TABLES: [&str; 10] = [
    "entities",
    "events",
    "messages",
    "outcomes",
    "facts",
    "mentions",
    "message_vectors",
    "fact_stats",
    "validity",
    "entity_changes",
];

/// An event of a person who says two things, one of which may be learned, and an assistant's short answer.
fn event(n: usize) -> ConversationEvent {
    let (person, turn) = (n / EVENTS_EACH, n % EVENTS_EACH);
    let entity_id = format!("user-{person}");
    let english = &LANGUAGES[0];
    let fill = |text: &str| text.replace("{}", WORDS[(n * 5 + 1) % WORDS.len()]).replace("{n}", &(n % 9 + 2).to_string());
    let said = format!(
        "{} {}",
        fill(english.statements[(n * 7 + person) % english.statements.len()]),
        fill(english.chatter[n % english.chatter.len()])
    );
    let message = |role, content: String| Message {
        message_id: None,
        role,
        name: None,
        content,
        content_format: ContentFormat::Text,
        created_at: None,
    };
    let messages =
        vec![message(Role::User, said), message(Role::Assistant, "Noted. Is there anything else that I can do?".to_owned())];
    ConversationEvent {
        tenant: TENANT.to_owned(),
        process_id: Some("assistant".to_owned()),
        session_id: Some(format!("s{}", turn / 10)),
        event_id: format!("{entity_id}-{turn}"),
        content_hash: ids::content_hash(&entity_id, Some("assistant"), &messages, &[]),
        entity_id,
        occurred_at: Micros(1_770_000_000_000_000 + i64::try_from(n).unwrap_or(0) * 60_000_000),
        accepted_at: Micros::now(),
        messages,
        metadata: Vec::new(),
        supplied: Supplied { event_id: true, occurred_at: true },
        spooled: false,
        attempt: 0,
        origin: None,
        key_id: None,
    }
}

/// Puts the events on the log, people's turns one after the other and people side by side.
async fn publish(log: &KafkaLog, events: usize) -> anyhow::Result<()> {
    let producer = log.producer();
    let people = events / EVENTS_EACH;
    let order: Vec<usize> =
        (0..EVENTS_EACH).flat_map(|turn| (0..people).map(move |person| person * EVENTS_EACH + turn)).collect();
    for numbers in order.chunks(5_000) {
        let mut records = Vec::with_capacity(numbers.len());
        for n in numbers {
            let event = event(*n);
            let key = ids::log_key(TENANT, &event.entity_id).into();
            let payload = framing::encode(&LogRecordBody::Conversation(event))?.into();
            records.push(NewRecord { topic: Topic::ConversationsLive, key, payload, headers: Vec::new() });
        }
        for appended in producer.append(&records, None).await {
            appended.context("publishing")?;
        }
    }
    Ok(())
}

/// Processor seconds of all processes that live now, by what they are.
fn used() -> BTreeMap<&'static str, f64> {
    let mut used = BTreeMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    for process in processes {
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        let kinds =
            [("(java)", "Kafka"), ("(postgres)", "Postgres"), ("(memori-augment", "worker"), ("(memori-writer", "writer")];
        let Some((_, kind)) = kinds.iter().find(|(name, _)| stat.contains(name)) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Of its own, in hundredths of a second: the 12th and 13th behind the name; of children that ended: the two after.
        let ticks: f64 = (11..15).filter_map(|at| fields.get(at)?.parse::<f64>().ok()).sum();
        *used.entry(*kind).or_default() += ticks / 100.0;
    }
    used
}

/// What one run came to.
struct Run {
    events_per_s: f64,
    /// Processor µs of an event.
    used_us: BTreeMap<&'static str, f64>,
    database: String,
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// How many events became applied, by a writer's metrics.
fn applied(metrics: &str) -> usize {
    let value = metrics.lines().find_map(|line| line.strip_prefix("memori_writer_applied_total "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

async fn run_once(servers: &Servers, events: usize, embedding: &str) -> anyhow::Result<Run> {
    let (prefix, database) = (servers.fresh_prefix(), servers.empty_database().await?);
    PostgresStore::new(PostgresTarget::parse(&database, "bench")?.pool(1)?, &database).migrate().await?;
    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &prefix)).await?;
    log.create_topics(PARTITIONS).await?;
    publish(&log, events).await?;

    let mut env: Vec<(String, String)> = [
        ("MEMORI__KAFKA__BROKERS", servers.kafka_brokers()),
        ("MEMORI__KAFKA__TOPIC_PREFIX", &prefix),
        ("MEMORI__POSTGRES__URL", &database),
        ("MEMORI__AUTH__INTERNAL_TOKEN", "between-ingest-and-writer"),
        ("MEMORI__EMBEDDING__KIND", embedding),
        ("MEMORI__LOG__LEVEL", "warn"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    // To measure with other settings.
    env.extend(std::env::vars().filter(|(name, _)| name.starts_with("MEMORI__")));
    let folder = tempfile::Builder::new().prefix("memori-pipeline-").tempdir()?;
    let program = |binary, listen_key| Program { binary, args: Vec::new(), env: env.clone(), listen_key, has_admin: true };
    let start = |name: &str, program| tokio::task::block_in_place(|| Process::start(name, program, folder.path()));
    let mut writer = start("writer", program("memori-writer", Some("MEMORI__WRITER__LISTEN")))?;
    let mut worker = start("worker", program("memori-augment-worker", None))?;
    let (since, before) = (Instant::now(), used());
    let metrics = reqwest::Client::new();
    loop {
        let done = applied(&metrics.get(format!("{}/metrics", writer.admin())).send().await?.text().await?);
        if done >= events {
            break;
        }
        ensure!(since.elapsed() < PATIENCE, "{done} of {events} events are done\n{}{}", worker.log_text(), writer.log_text());
        tokio::time::sleep(LOOK).await;
    }
    let took = since.elapsed().as_secs_f64();
    let after = used();
    tokio::task::block_in_place(|| worker.stop())?;
    tokio::task::block_in_place(|| writer.stop())?;
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let count = events as f64;
    let used_us = after
        .into_iter()
        .map(|(kind, seconds)| (kind, (seconds - before.get(kind).copied().unwrap_or_default()) * 1e6 / count))
        .collect();
    Ok(Run { events_per_s: count / took, used_us, database })
}

/// The rows of a run, by COPY into empty tables; answers events per second.
async fn copied(servers: &Servers, run: &Run, events: usize) -> anyhow::Result<f64> {
    let target = servers.empty_database().await?;
    PostgresStore::new(PostgresTarget::parse(&target, "bench")?.pool(1)?, &target).migrate().await?;
    let (from, to) = (connect(&run.database).await?, connect(&target).await?);
    let mut seconds = 0.0;
    for table in TABLES {
        let out = from.copy_out(&format!("COPY memori.{table} TO STDOUT (FORMAT binary)")).await?;
        let mut bytes = BytesMut::new();
        out.try_for_each(|piece| {
            bytes.extend_from_slice(&piece);
            std::future::ready(Ok(()))
        })
        .await?;
        let bytes: Bytes = bytes.freeze();
        let since = Instant::now();
        let sink = to.copy_in(&format!("COPY memori.{table} FROM STDIN (FORMAT binary)")).await?;
        let mut sink = std::pin::pin!(sink);
        for start in (0..bytes.len()).step_by(64 << 10) {
            sink.send(bytes.slice(start..bytes.len().min(start + (64 << 10)))).await?;
        }
        sink.finish().await?;
        seconds += since.elapsed().as_secs_f64();
    }
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok(events as f64 / seconds)
}

/// The texts of a run's vectors, by the model alone; answers events per second.
async fn embedded(embedder: &dyn Embedder, run: &Run, events: usize) -> anyhow::Result<f64> {
    let client = connect(&run.database).await?;
    // As the worker asks for them: what was learned from an event, and what was said in it.
    let sql = "SELECT array_agg(t) FROM (\
        SELECT m.event_id AS e, m.surface::jsonb->>'text' AS t FROM memori.mentions m \
        UNION ALL SELECT event_id, content FROM memori.messages WHERE role = 0) q GROUP BY e";
    let texts: Vec<Vec<String>> = client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
    ensure!(texts.len() == events, "{} of {events} events have texts", texts.len());
    let since = Instant::now();
    let mut calls = futures::stream::iter(texts.iter().map(|texts| embedder.embed(texts))).buffer_unordered(EMBEDDED_AT_A_TIME);
    while let Some(answer) = calls.next().await {
        answer?;
    }
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok(events as f64 / since.elapsed().as_secs_f64())
}

pub(crate) async fn run(servers: &Servers, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let embedder = memori_embedding::embedder_of(&Settings::default())?.context("the built-in model; `memori model fetch`")?;
    for (name, embedding, events) in [("without vectors", "none", 100_000), ("with the built-in model", "builtin", 20_000)] {
        let events = if options.quick { 2_000 } else { events };
        let (mut ours, mut floor, mut used_us) = (Vec::new(), Vec::new(), BTreeMap::<&str, Vec<f64>>::new());
        for _ in 0..options.runs {
            let run = run_once(servers, events, embedding).await?;
            floor.push(match embedding {
                "none" => copied(servers, &run, events).await?,
                _ => embedded(&*embedder, &run, events).await?,
            });
            ours.push(run.events_per_s);
            for (kind, us) in run.used_us {
                used_us.entry(kind).or_default().push(us);
            }
        }
        report.add("pipeline", name, "events/s", Better::Higher, &ours, &floor);
        let parts: Vec<String> = used_us.iter().map(|(kind, us)| format!("{kind} {:.0}", median(us))).collect();
        say(&format!("{:12} {name}: processor µs of an event: {}", "", parts.join(", ")));
    }
    Ok(())
}
