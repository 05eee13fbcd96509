//! The archive: each record once over an archiver that is killed again and again, a rebuild from archive and log where the topics have lost
//! their heads, erasures, and a group that goes from the archive over to the topic.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use memori_archive::{Archive, ArchivedLog, Archiver, ArchiverConfig, Place, verify::verify};
use memori_event_log::driver::batch::{Advance, Batch, BatchSink as _, FlushCause, SinkError};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::{Commit, Consumer, ConsumerEvent, Log, LogError, LogRecord, NewRecord, Start, Topic, TopicPartition};
use memori_schemas::ids;
use memori_tests::audit;
use memori_tests::client::{Api, escape};
use memori_tests::distributed::Distributed;
use memori_tests::process::{Process, Program};
use memori_tests::servers::Servers;
use memori_writer::postgres::PostgresTarget;
use memori_writer::store::postgres::PostgresStore;
use memori_writer::store::{Dump, Store as _};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::StatusCode;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(120);
const TENANT: &str = "tenant-a";
const PARTITIONS: i32 = 2;

fn servers() -> anyhow::Result<&'static Servers> {
    tokio::task::block_in_place(Servers::shared)
}

/// A log on Kafka of a test's own.
async fn fresh() -> anyhow::Result<(Arc<dyn Log>, String)> {
    let servers = servers()?;
    let prefix = servers.fresh_prefix();
    let log = KafkaLog::connect(KafkaConfig::new(servers.kafka_brokers(), &prefix)).await?;
    log.create_topics(PARTITIONS).await?;
    Ok((Arc::new(log), prefix))
}

async fn append(log: &dyn Log, topic: Topic, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    let record = |n: usize| NewRecord {
        topic,
        key: Bytes::from(ids::log_key(&format!("tenant-{}", n % 3), &format!("entity {}", n % 7))),
        payload: Bytes::from(format!("record {n} {}", "x".repeat(n % 50))),
        headers: vec![memori_event_log::Header::read("tenant", Bytes::from(format!("tenant-{}", n % 3)))],
    };
    for answer in log.producer().append(&numbers.map(record).collect::<Vec<_>>(), None).await {
        answer?;
    }
    Ok(())
}

async fn all(log: &dyn Log, partition: TopicPartition) -> anyhow::Result<Vec<LogRecord>> {
    let (from, end) = log.watermarks(partition).await?;
    let mut records: Vec<LogRecord> = Vec::new();
    while records.last().map_or(from, |last| last.offset + 1) < end {
        let next = records.last().map_or(from, |last| last.offset + 1);
        let more = log.read(partition, next, 1_000).await?;
        ensure!(!more.is_empty(), "{partition} ends at {next}, not at {end}");
        records.extend(more);
    }
    Ok(records)
}

fn partitions(topic: Topic) -> impl Iterator<Item = TopicPartition> {
    (0..PARTITIONS).map(move |partition| TopicPartition { topic, partition })
}

/// Deletes the head of partitions, as a retention does.
async fn trim(prefix: &str, before: &[(TopicPartition, i64)]) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers()?.kafka_brokers()).create()?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in before.iter().filter(|(_, offset)| *offset > 0) {
        list.add_partition_offset(&format!("{prefix}.{}", partition.topic), partition.partition, Offset::Offset(*offset))?;
    }
    for element in admin.delete_records(&list, &AdminOptions::new()).await?.elements() {
        element.error()?;
    }
    Ok(())
}

fn config() -> ArchiverConfig {
    ArchiverConfig {
        roll_bytes: 1 << 20,
        roll_age: Duration::from_millis(100),
        begin_at_log_start: false,
        drain_deadline: Duration::from_secs(5),
    }
}

/// An archiver as a process of its own.
fn archiver(name: &str, prefix: &str, folder: &Path, logs: &Path) -> anyhow::Result<Process> {
    let folder = folder.display().to_string();
    let env = [
        ("MEMORI__KAFKA__BROKERS", servers()?.kafka_brokers()),
        ("MEMORI__KAFKA__TOPIC_PREFIX", prefix),
        ("MEMORI__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000"),
        ("MEMORI__KAFKA__PROPERTIES__HEARTBEAT_INTERVAL_MS", "500"),
        // The group's name stays with a killed member's successor, so that it need not wait for the session's end.
        ("MEMORI__KAFKA__GROUP_INSTANCE_ID", name),
        ("MEMORI__ARCHIVE__URL", &folder),
        ("MEMORI__ARCHIVE__ROLL_AGE_S", "1"),
        ("MEMORI__ARCHIVE__ROLL_BYTES", "20000"),
    ];
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let args = vec!["archive".to_owned(), "run".to_owned()];
    let program = Program { binary: "memori", args, env, listen_key: None, has_admin: true };
    tokio::task::block_in_place(|| Process::start(name, program, logs))
}

/// Waits until the archive has all that the log has.
async fn caught_up(archive: &Archive, log: &dyn Log) -> anyhow::Result<()> {
    let identity = log.identity().await?;
    let since = Instant::now();
    'again: loop {
        ensure!(since.elapsed() < WITHIN, "the archive does not catch up");
        tokio::time::sleep(Duration::from_millis(100)).await;
        for topic in Topic::ALL {
            for partition in 0..identity.partitions {
                let partition = TopicPartition { topic, partition };
                let (_, end) = log.watermarks(partition).await?;
                let place = Place::of(&identity, partition).context("a place")?;
                let archived = archive.last(&place).await?.map_or(0, |last| last.to);
                if archived < end {
                    continue 'again;
                }
            }
        }
        return Ok(());
    }
}

/// Killed without warning, twenty times: every record stands in the archive once, as it stands on the log.
#[tokio::test(flavor = "multi_thread")]
async fn each_record_once_over_kills() -> anyhow::Result<()> {
    let seed: u64 = std::env::var("MEMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("MEMORI_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (log, prefix) = fresh().await?;
    let folder = tempfile::Builder::new().prefix("memori-archive-").tempdir()?;
    let logs = tempfile::Builder::new().prefix("memori-archiver-").tempdir()?;
    let mut process = archiver("archiver", &prefix, folder.path(), logs.path())?;
    let mut sent = 0;
    for _ in 0..20 {
        for topic in [Topic::ConversationsLive, Topic::FactsBackfill] {
            append(&*log, topic, sent..sent + rng.random_range(1..120)).await?;
        }
        sent += 120;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
        tokio::task::block_in_place(|| process.kill_and_restart())?;
    }
    let archive = Archive::open(&folder.path().display().to_string())?;
    caught_up(&archive, &*log).await?;
    tokio::task::block_in_place(|| process.stop())?;
    let findings = verify(&archive, true).await?;
    ensure!(findings.wrong.is_empty(), "{:#?}", findings.wrong);
    let mut compared = 0;
    let (mut before, mut records) = (Vec::new(), BTreeMap::new());
    for topic in [Topic::ConversationsLive, Topic::FactsBackfill] {
        for partition in partitions(topic) {
            let there = all(&*log, partition).await?;
            compared += there.len();
            before.push((partition, log.watermarks(partition).await?.1));
            records.insert(partition, there);
        }
    }
    let archived: u64 = findings.partitions.iter().map(|standing| standing.records).sum();
    ensure!(archived == compared as u64, "{archived} records are archived of {compared}");
    // As if it were the topic, once the topic has lost them.
    trim(&prefix, &before).await?;
    let both = ArchivedLog::new(log, Arc::new(archive));
    for (partition, there) in records {
        ensure!(all(&both, partition).await? == there, "{partition} is another one in the archive");
    }
    eprintln!("{compared} records, {} files nobody names, killed 20 times", findings.unnamed.len());
    Ok(())
}

/// Two that write the same range: the second one fails, and its files are named by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_range_is_not_committed_twice() -> anyhow::Result<()> {
    let (log, _) = fresh().await?;
    append(&*log, Topic::ConversationsLive, 0..50).await?;
    let folder = tempfile::tempdir()?;
    let archive = Arc::new(Archive::open(&folder.path().display().to_string())?);
    let identity = log.identity().await?;
    let partition = partitions(Topic::ConversationsLive).next().context("a partition")?;
    let records = all(&*log, partition).await?;
    let next_offset = records.last().context("records")?.offset + 1;
    let batch = Batch { records, advances: vec![Advance { partition, from_offset: 0, next_offset }], cause: FlushCause::Age };
    let mut one = Archiver::new(log.clone(), archive.clone(), identity.clone(), config());
    let mut two = Archiver::new(log.clone(), archive.clone(), identity, config());
    for archiver in [&mut one, &mut two] {
        ensure!(archiver.starts(&[partition]).await?[0].1 == Start::Offset(0));
    }
    let (first, second) = tokio::join!(one.flush(&batch), two.flush(&batch));
    let lost = |ended: &Result<(), SinkError>| matches!(ended, Err(SinkError::Fenced(partitions)) if *partitions == [partition]);
    ensure!((first.is_ok() && lost(&second)) || (second.is_ok() && lost(&first)), "{first:?} {second:?}");
    ensure!(one.starts(&[partition]).await? == vec![(partition, Start::Offset(next_offset))], "both go on where it ends");
    let findings = verify(&archive, true).await?;
    ensure!(findings.wrong.is_empty() && findings.partitions[0].records == batch.records.len() as u64, "{findings:#?}");
    Ok(())
}

async fn next(consumer: &mut Box<dyn Consumer>) -> anyhow::Result<ConsumerEvent> {
    Ok(tokio::time::timeout(WITHIN, consumer.next()).await.context("no event came")??)
}

/// A new group reads the archive and then the topic; one whose place is gone from the topic goes on in the archive; without an archive both
/// are told what is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_from_the_archive_over_to_the_topic() -> anyhow::Result<()> {
    let (log, prefix) = fresh().await?;
    append(&*log, Topic::ConversationsLive, 0..3_000).await?;
    let mut expected: BTreeMap<TopicPartition, Vec<LogRecord>> = BTreeMap::new();
    for partition in partitions(Topic::ConversationsLive) {
        expected.insert(partition, all(&*log, partition).await?);
    }
    let folder = tempfile::tempdir()?;
    let archive = Arc::new(Archive::open(&folder.path().display().to_string())?);
    let mut sink = Archiver::new(log.clone(), archive.clone(), log.identity().await?, config());
    for (partition, records) in &expected {
        // In several ranges; the topic keeps some of what is archived.
        for part in records.chunks(400) {
            let (first, last) = (part.first().context("one")?.offset, part.last().context("one")?.offset);
            let advance = Advance { partition: *partition, from_offset: first, next_offset: last + 1 };
            sink.flush(&Batch { records: part.to_vec(), advances: vec![advance], cause: FlushCause::Rows }).await?;
        }
    }
    let cuts: Vec<(TopicPartition, i64)> =
        expected.iter().map(|(p, records)| (*p, records[records.len() * 2 / 3].offset)).collect();
    trim(&prefix, &cuts).await?;
    append(&*log, Topic::ConversationsLive, 3_000..3_500).await?;
    for partition in partitions(Topic::ConversationsLive) {
        let known = expected.entry(partition).or_default();
        let from = known.last().map_or(0, |last| last.offset + 1);
        known.extend(all(&*log, partition).await?.into_iter().filter(|record| record.offset >= from));
    }

    let both: Arc<dyn Log> = Arc::new(ArchivedLog::new(log.clone(), archive.clone()));
    for (group, start) in [("new", None), ("old", Some(100))] {
        let mut consumer = both.subscribe(group, &[Topic::ConversationsLive]).await?;
        let mut seen: BTreeMap<TopicPartition, Vec<LogRecord>> = BTreeMap::new();
        let wanted = |partition: &TopicPartition| -> Vec<LogRecord> {
            expected[partition].iter().filter(|record| record.offset >= start.unwrap_or(0)).cloned().collect()
        };
        let mut rested = false;
        while expected.keys().any(|partition| seen.get(partition).map_or(0, Vec::len) < wanted(partition).len()) {
            match next(&mut consumer).await? {
                ConsumerEvent::Assigned(partitions) => {
                    let start = start.map_or(Start::Committed, Start::Offset);
                    consumer.assign(&partitions.iter().map(|p| (*p, start)).collect::<Vec<_>>()).await?;
                }
                ConsumerEvent::Records(records) => {
                    for record in records {
                        seen.entry(record.source).or_default().push(record);
                    }
                    if !rested {
                        // A rest in the middle loses and repeats nothing.
                        rested = true;
                        let held: Vec<TopicPartition> =
                            expected.keys().copied().filter(|p| consumer.fence(*p).is_some()).collect();
                        consumer.pause(&held)?;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        consumer.resume(&held)?;
                    }
                }
                ConsumerEvent::Revoked(partitions) | ConsumerEvent::Lost(partitions) => consumer.unassign(&partitions).await?,
            }
        }
        for partition in expected.keys() {
            ensure!(seen[partition] == wanted(partition), "{group}: {partition} is not what stood there");
        }
        consumer.close(Duration::from_secs(10)).await;
    }

    let nothing = Arc::new(Archive::open(&tempfile::tempdir()?.path().display().to_string())?);
    let bare = ArchivedLog::new(log, nothing);
    let partition = cuts[0].0;
    let error = bare.read(partition, 0, 10).await.err().context("records that are gone were read")?;
    ensure!(matches!(error, LogError::BelowLogStart { .. }), "{error}");
    ensure!(bare.watermarks(partition).await?.0 == cuts[0].1);
    Ok(())
}

/// While a member rests, the topic loses what it has not read: it is asked to give everything back, and reads on in the archive from where
/// it committed, each record once.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_topic_overtakes_goes_on_in_the_archive() -> anyhow::Result<()> {
    let (log, prefix) = fresh().await?;
    append(&*log, Topic::ConversationsLive, 0..200).await?;
    let folder = tempfile::tempdir()?;
    let archive = Arc::new(Archive::open(&folder.path().display().to_string())?);
    let both: Arc<dyn Log> = Arc::new(ArchivedLog::new(log.clone(), archive.clone()));
    let mut consumer = both.subscribe("overtaken", &[Topic::ConversationsLive]).await?;
    let mut seen: BTreeMap<TopicPartition, Vec<LogRecord>> = BTreeMap::new();
    let count = |seen: &BTreeMap<TopicPartition, Vec<LogRecord>>| seen.values().map(Vec::len).sum::<usize>();
    let mut given_back = 0;
    while count(&seen) < 550 {
        match next(&mut consumer).await? {
            ConsumerEvent::Assigned(partitions) => {
                consumer.assign(&partitions.iter().map(|p| (*p, Start::Committed)).collect::<Vec<_>>()).await?;
            }
            ConsumerEvent::Revoked(partitions) => {
                let next_offset = |p: &TopicPartition| seen.get(p).and_then(|read| read.last()).map_or(0, |last| last.offset + 1);
                consumer.commit(&partitions.iter().map(|p| Commit::at(*p, next_offset(p))).collect::<Vec<_>>()).await?;
                consumer.unassign(&partitions).await?;
                given_back += partitions.len();
            }
            ConsumerEvent::Lost(partitions) => anyhow::bail!("{partitions:?} are lost"),
            ConsumerEvent::Records(records) => {
                for record in records {
                    seen.entry(record.source).or_default().push(record);
                }
                if count(&seen) != 200 {
                    continue;
                }
                let held: Vec<TopicPartition> = partitions(Topic::ConversationsLive).collect();
                consumer.pause(&held)?;
                append(&*log, Topic::ConversationsLive, 200..500).await?;
                let mut sink = Archiver::new(log.clone(), archive.clone(), log.identity().await?, config());
                let mut ends = Vec::new();
                for partition in &held {
                    let records = all(&*log, *partition).await?;
                    let next_offset = records.last().context("records")?.offset + 1;
                    let advance = Advance { partition: *partition, from_offset: 0, next_offset };
                    sink.flush(&Batch { records, advances: vec![advance], cause: FlushCause::Rows }).await?;
                    ends.push((*partition, next_offset));
                }
                trim(&prefix, &ends).await?;
                append(&*log, Topic::ConversationsLive, 500..550).await?;
                consumer.resume(&held)?;
            }
        }
    }
    let held: Vec<TopicPartition> = partitions(Topic::ConversationsLive).collect();
    ensure!(given_back == held.len(), "{given_back} partitions were given back");
    for partition in held {
        ensure!(seen[&partition] == all(&*both, partition).await?, "{partition} is not what stood there");
    }
    consumer.close(Duration::from_secs(10)).await;
    Ok(())
}

fn postgres(url: &str) -> anyhow::Result<PostgresStore> {
    Ok(PostgresStore::new(PostgresTarget::parse(url, "archive")?.pool(1)?, url))
}

async fn live_a_little(api: &Api) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for (n, (entity, text)) in
        [("ann", "I live in Lisbon."), ("ann", "I like jasmine tea."), ("bob", "I have 3 cats."), ("eve", "My name is Nobody.")]
            .into_iter()
            .enumerate()
    {
        let id = format!("event-{n}");
        let event = json!({"event_id": id, "entity_id": entity, "occurred_at": format!("2026-02-0{}T10:00:00Z", n + 1),
            "messages": [{"role": "user", "content": text}]});
        ensure!(api.post("/v1/events", &event).await?.status == StatusCode::ACCEPTED);
        ids.push(id);
    }
    api.wait_final(&ids, WITHIN).await?;
    let fact = api.facts("bob").await?.first().and_then(|fact| fact["fact_id"].as_str().map(str::to_owned)).context("a fact")?;
    ensure!(api.delete(&format!("/v1/facts/{fact}")).await?.status == StatusCode::NO_CONTENT);
    Ok(ids)
}

/// The topics lose everything that is archived; a rebuild makes the same rows, those of an erased entity included, and nothing that was said
/// by who was erased is left in the archive.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_from_archive_and_log_is_the_view_before() -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("memori-archive-").tempdir()?;
    let url = folder.path().display().to_string();
    let shape = Distributed::start(servers()?, &[TENANT.to_owned()], 1, &[("MEMORI__ARCHIVE__URL", &url)]).await?;
    let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(KafkaConfig::new(shape.servers.kafka_brokers(), &shape.prefix)).await?);
    let api = shape.api(TENANT);
    let ids = live_a_little(&api).await?;
    let logs = tempfile::Builder::new().prefix("memori-archiver-").tempdir()?;
    let mut process = archiver("archiver", &shape.prefix, folder.path(), logs.path())?;
    let archive = Archive::open(&url)?;
    caught_up(&archive, &*log).await?;
    ensure!(said(&archive, &*log).await?.iter().any(|text| text.contains("Nobody")), "the archive holds what was said");

    let answer = api.delete(&format!("/v1/entities/{}", escape("eve"))).await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.body);
    while api.export("eve").await?.iter().any(|line| line["type"] == "message" || line["type"] == "fact") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    caught_up(&archive, &*log).await?;
    let left = said(&archive, &*log).await?;
    ensure!(left.iter().any(|text| text.contains("jasmine")) && !left.iter().any(|text| text.contains("Nobody")), "{left:?}");
    let findings = verify(&archive, true).await?;
    ensure!(findings.wrong.is_empty(), "{:?}", findings.wrong);

    let store = postgres(&shape.database)?;
    let (seen, before) = (audit::observe(&api, &ids, WITHIN).await?, store.dump().await?);
    let identity = log.identity().await?;
    let mut ends = Vec::new();
    for topic in Topic::ALL {
        for partition in 0..identity.partitions {
            let partition = TopicPartition { topic, partition };
            ends.push((partition, log.watermarks(partition).await?.1));
        }
    }
    trim(&shape.prefix, &ends).await?;
    tokio::task::block_in_place(|| process.stop())?;
    ensure!(before.0["events"].len() == 4 && !before.0["forgets"].is_empty() && !before.0["erasures"].is_empty());
    rebuilt(&shape)?;
    same(&before, &store.dump().await?)?;
    audit::none(&audit::unlike(&seen, &audit::observe(&api, &ids, WITHIN).await?))?;
    // What comes after stands on the topics alone.
    let event = json!({"event_id": "after", "entity_id": "ann", "messages": [{"role": "user", "content": "I like oolong tea."}]});
    ensure!(api.post("/v1/events", &event).await?.status == StatusCode::ACCEPTED);
    api.wait_final(&["after".to_owned()], WITHIN).await?;
    let before = store.dump().await?;
    rebuilt(&shape)?;
    same(&before, &store.dump().await?)
}

fn rebuilt(shape: &Distributed<'_>) -> anyhow::Result<()> {
    let output = shape.memori(&["rebuild", "--platform", "--yes", "--json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let last: Value = serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().last().context("it said nothing")?)?;
    ensure!(last["state"] == "done", "{last}");
    Ok(())
}

fn same(before: &Dump, after: &Dump) -> anyhow::Result<()> {
    ensure!(before == after, "the rebuilt view is another one: {:#?}", before.difference(after));
    Ok(())
}

/// All payloads of the archive, as text as far as they are.
async fn said(archive: &Archive, log: &dyn Log) -> anyhow::Result<BTreeSet<String>> {
    let identity = log.identity().await?;
    let mut texts = BTreeSet::new();
    for topic in Topic::ALL {
        for partition in 0..identity.partitions {
            let place = Place::of(&identity, TopicPartition { topic, partition }).context("a place")?;
            for link in archive.chain(&place).await? {
                let manifest = archive.manifest(&place, link).await?;
                texts.extend(archive.records(&manifest).await?.iter().map(|r| String::from_utf8_lossy(&r.payload).into_owned()));
            }
        }
    }
    Ok(texts)
}
