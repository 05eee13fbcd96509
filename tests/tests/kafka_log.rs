//! What the log on Kafka promises beyond the suite that all logs share: its topics, its offsets, its members, on a real broker.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use memori_event_log::driver::{KeyedConfig, Reading, RecordHandler, Unobserved, Verdict, Windowing, Work, run_keyed};
use memori_event_log::finished::{self, Run};
use memori_event_log::kafka::{KafkaConfig, KafkaLog, MAX_MESSAGE_BYTES};
use memori_event_log::{
    AppendError, Commit, Consumer, ConsumerEvent, Header, Log, LogError, LogRecord, NewRecord, Start, Topic, TopicPartition,
};
use memori_schemas::ids::partition_of;
use memori_tests::Servers;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 3;
/// Nothing here takes long; what waits for this has failed.
const DEADLINE: Duration = Duration::from_secs(60);

async fn shared() -> Result<&'static Servers> {
    tokio::task::spawn_blocking(Servers::shared).await?
}

fn config(servers: &Servers, prefix: &str, properties: &[(&str, &str)]) -> KafkaConfig {
    let mut config = KafkaConfig::new(servers.kafka_brokers(), prefix);
    config.properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    config
}

async fn fresh_log(properties: &[(&str, &str)]) -> Result<(KafkaLog, String)> {
    let servers = shared().await?;
    let prefix = servers.fresh_prefix();
    let log = KafkaLog::connect(config(servers, &prefix, properties)).await?;
    log.create_topics(PARTITIONS).await?;
    Ok((log, prefix))
}

fn record(key: &str, payload: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        topic: Topic::ConversationsLive,
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: payload.into(),
        headers: vec![],
    }
}

/// A key of each partition.
fn keys() -> Vec<String> {
    let mut found = BTreeMap::new();
    for n in 0.. {
        let key = format!("key {n}");
        found.entry(partition_of(key.as_bytes(), PARTITIONS)).or_insert(key);
        if found.len() == PARTITIONS as usize {
            break;
        }
    }
    found.into_values().collect()
}

fn partition_with(key: &str) -> TopicPartition {
    TopicPartition { topic: Topic::ConversationsLive, partition: partition_of(key.as_bytes(), PARTITIONS) }
}

/// The next event but records of nothing.
async fn next(consumer: &mut Box<dyn Consumer>) -> Result<ConsumerEvent> {
    Ok(tokio::time::timeout(DEADLINE, consumer.next()).await.context("no event came")??)
}

async fn assigned(consumer: &mut Box<dyn Consumer>, start: Start) -> Result<Vec<TopicPartition>> {
    match next(consumer).await? {
        ConsumerEvent::Assigned(partitions) => {
            consumer.assign(&partitions.iter().map(|p| (*p, start)).collect::<Vec<_>>()).await?;
            Ok(partitions)
        }
        other => bail!("no assignment but {other:?}"),
    }
}

async fn records(consumer: &mut Box<dyn Consumer>, count: usize) -> Result<Vec<LogRecord>> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(consumer).await? {
            ConsumerEvent::Records(records) => all.extend(records),
            other => bail!("no records but {other:?}"),
        }
    }
    Ok(all)
}

/// Removes what stands before `offset`, as the retention of a misconfigured topic would.
async fn trim(servers: &Servers, prefix: &str, partition: TopicPartition, offset: i64) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers.kafka_brokers()).create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&format!("{prefix}.{}", partition.topic), partition.partition, Offset::Offset(offset))?;
    let trimmed = admin.delete_records(&list, &AdminOptions::new()).await?;
    for element in trimmed.elements() {
        element.error()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_once_and_name_the_log() -> Result<()> {
    let servers = shared().await?;
    let prefix = servers.fresh_prefix();
    let log = KafkaLog::connect(config(servers, &prefix, &[])).await?;
    let missing = log.identity().await.unwrap_err().to_string();
    ensure!(missing.contains("memori topics create") && missing.contains(&prefix), "{missing}");
    let missing = log.subscribe("g", &[Topic::Controls]).await.err().context("subscribed to nothing")?.to_string();
    ensure!(missing.contains("memori topics create"), "{missing}");
    let refused = log.producer().append(&[record("a", "b")], None).await.remove(0).unwrap_err();
    ensure!(matches!(&refused, AppendError::Refused(why) if why.contains("memori topics create")), "{refused}");

    let other = KafkaLog::connect(config(servers, &prefix, &[])).await?;
    let (one, two) = tokio::join!(log.create_topics(PARTITIONS), other.create_topics(PARTITIONS));
    one?;
    two?;
    log.create_topics(PARTITIONS).await?;
    let error = log.create_topics(PARTITIONS + 1).await.unwrap_err();
    ensure!(matches!(&error, LogError::Fatal(why) if why.contains("3 partitions, not 4")), "{error}");

    let identity = log.identity().await?;
    ensure!(identity.partitions == PARTITIONS && !identity.cluster_id.is_empty());
    let ids: BTreeSet<&String> = identity.topic_ids.values().collect();
    ensure!(ids.len() == Topic::ALL.len() && ids.iter().all(|id| id.len() == 22), "{ids:?}");
    ensure!(identity == other.identity().await?);

    // another topic of the same name has another id
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers.kafka_brokers()).create()?;
    let name = format!("{prefix}.controls");
    for result in admin.delete_topics(&[&name], &AdminOptions::new()).await? {
        result.map_err(|(name, code)| anyhow::anyhow!("{name}: {code}"))?;
    }
    tokio::time::timeout(DEADLINE, async {
        while log.identity().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await?;
    log.create_topics(PARTITIONS).await?;
    let again = log.identity().await?;
    ensure!(again.topic_ids[&Topic::Controls] != identity.topic_ids[&Topic::Controls]);
    ensure!(again.topic_ids[&Topic::FactsLive] == identity.topic_ids[&Topic::FactsLive]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_is_read_as_it_was() -> Result<()> {
    let (log, _) = fresh_log(&[]).await?;
    let before_ms = jiff::Timestamp::now().as_millisecond();
    let mut sent = vec![record("a", vec![7_u8]), record("a", vec![9_u8; 1024 * 1024]), record("a", Bytes::new())];
    sent[0].headers = vec![
        Header { name: "traceparent".into(), value: Bytes::from_static(b"00-1") },
        Header { name: "empty".into(), value: Bytes::new() },
    ];
    sent.push(record("a", vec![1_u8; MAX_MESSAGE_BYTES]));
    sent.push(record("a", rand::random_iter::<u8>().take(MAX_MESSAGE_BYTES - 4096).collect::<Vec<u8>>()));
    let answers = log.producer().append(&sent, None).await;
    ensure!(matches!(answers[3], Err(AppendError::TooLarge(_))), "{:?}", answers[3]);
    let partition = partition_with("a");
    for (index, offset) in [(0, 0), (1, 1), (2, 2), (4, 3)] {
        let position = answers[index].clone()?;
        ensure!(position.source == partition && position.offset.is_none_or(|told| told == offset), "{position:?}");
    }
    let read = log.read(partition, 0, 100).await?;
    ensure!(read.len() == 4);
    for (read, sent) in read.iter().zip([&sent[0], &sent[1], &sent[2], &sent[4]]) {
        ensure!(read.key == sent.key && read.payload == sent.payload && read.headers == sent.headers && read.source == partition);
        ensure!((before_ms..before_ms + 60_000).contains(&read.appended_at_ms), "{}", read.appended_at_ms);
    }
    ensure!(log.watermarks(partition).await? == (0, 4));
    ensure!(log.read(partition, 4, 100).await?.is_empty());
    ensure!(log.read(partition, 0, 0).await?.is_empty());
    ensure!(matches!(log.read(partition, 5, 1).await, Err(LogError::Fatal(_))), "read beyond the end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_join_without_a_gap_while_the_log_grows() -> Result<()> {
    let (log, _) = fresh_log(&[]).await?;
    let partition = partition_with("a");
    let mut offsets = Vec::new();
    for round in 0..5 {
        let batch: Vec<_> = (0..100).map(|n| record("a", format!("{round} {n}"))).collect();
        for answer in log.producer().append(&batch, None).await {
            answer?;
        }
        loop {
            let page = log.read(partition, offsets.len() as i64, 33).await?;
            offsets.extend(page.iter().map(|r| r.offset));
            if page.len() < 33 {
                break;
            }
        }
    }
    ensure!(offsets == (0..500).collect::<Vec<i64>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_makes_the_caller_wait_and_keeps_the_order() -> Result<()> {
    let (log, _) = fresh_log(&[("queue_buffering_max_messages", "7")]).await?;
    let producer = log.producer();
    // pipelined: the second call enters the queue behind all of the first
    let batches =
        (0..4).map(|batch| {
            let producer = Arc::clone(&producer);
            async move {
                producer.append(&(0..300).map(|n| record("a", format!("{}", batch * 300 + n))).collect::<Vec<_>>(), None).await
            }
        });
    for answers in futures::future::join_all(batches).await {
        for answer in answers {
            answer?;
        }
    }
    let read = log.read(partition_with("a"), 0, 2000).await?;
    let order: Vec<u32> = read.iter().map(|r| String::from_utf8_lossy(&r.payload).parse()).collect::<Result<_, _>>()?;
    ensure!(order == (0..1200).collect::<Vec<u32>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_never_skips_over_records_that_are_gone() -> Result<()> {
    let servers = shared().await?;
    let (log, prefix) = fresh_log(&[]).await?;
    let partition = partition_with("a");
    let ten = || (0..10).map(|n| record("a", format!("{n}"))).collect::<Vec<_>>();
    for answer in log.producer().append(&ten(), None).await {
        answer?;
    }
    let below = |error: LogError, wanted: i64, log_start: i64| {
        let expected = matches!(error, LogError::BelowLogStart { source_partition, wanted: w, log_start: s }
            if source_partition == partition && w == wanted && s == log_start);
        ensure!(expected, "{error}");
        Ok(())
    };

    // its next record goes while it reads
    let mut consumer = log.subscribe("running", &[Topic::ConversationsLive]).await?;
    let all = assigned(&mut consumer, Start::Committed).await?;
    ensure!(all.len() == PARTITIONS as usize);
    ensure!(records(&mut consumer, 10).await?.len() == 10);
    consumer.commit(&[Commit::at(partition, 4)]).await?;
    consumer.pause(&[partition])?;
    for answer in log.producer().append(&ten(), None).await {
        answer?;
    }
    trim(servers, &prefix, partition, 15).await?;
    consumer.resume(&[partition])?;
    let error = tokio::time::timeout(DEADLINE, consumer.next()).await?.err().context("it went on")?;
    below(error, 10, 15)?;
    consumer.close(DEADLINE).await;

    // what it committed is gone when it comes back
    let mut consumer = log.subscribe("running", &[Topic::ConversationsLive]).await?;
    let ConsumerEvent::Assigned(all) = next(&mut consumer).await? else { bail!("no assignment") };
    let starts: Vec<_> = all.iter().map(|p| (*p, Start::Committed)).collect();
    below(consumer.assign(&starts).await.unwrap_err(), 4, 15)?;
    // so is an offset of its own; one beyond the end is a log that was replaced
    let other = |offset| {
        all.iter().map(|p| (*p, if *p == partition { Start::Offset(offset) } else { Start::Committed })).collect::<Vec<_>>()
    };
    below(consumer.assign(&other(14)).await.unwrap_err(), 14, 15)?;
    let beyond = consumer.assign(&other(21)).await.unwrap_err();
    ensure!(matches!(&beyond, LogError::Fatal(why) if why.contains("ends at offset 20, but 21 is wanted")), "{beyond}");
    // and an offset that exists works after all of these
    consumer.assign(&other(15)).await?;
    ensure!(records(&mut consumer, 5).await?[0].offset == 15);
    consumer.close(DEADLINE).await;

    // a group that never committed starts at what there is
    let mut consumer = log.subscribe("fresh", &[Topic::ConversationsLive]).await?;
    assigned(&mut consumer, Start::Committed).await?;
    ensure!(records(&mut consumer, 5).await?[0].offset == 15);
    consumer.close(DEADLINE).await;
    below(log.read(partition, 14, 1).await.unwrap_err(), 14, 15)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_takes_over_only_what_the_first_let_go() -> Result<()> {
    let (log, _) = fresh_log(&[]).await?;
    let keys = keys();
    let batch = || keys.iter().map(|key| record(key, key.clone())).collect::<Vec<_>>();
    let mut first = log.subscribe("pair", &[Topic::ConversationsLive]).await?;
    let all = assigned(&mut first, Start::Committed).await?;
    ensure!(all.len() == PARTITIONS as usize);
    let epoch = first.fence(all[0]).context("no fence")?.epoch;

    let mut second = log.subscribe("pair", &[Topic::ConversationsLive]).await?;
    let revoked = tokio::select! {
        event = next(&mut first) => event?,
        event = next(&mut second) => bail!("the second was told {event:?} before the first let go"),
    };
    let ConsumerEvent::Revoked(revoked) = revoked else { bail!("not revoked but {revoked:?}") };
    ensure!(!revoked.is_empty() && revoked.len() < all.len(), "{revoked:?}");
    // while it drains it is the owner still
    first.commit(&revoked.iter().map(|p| Commit::at(*p, 0)).collect::<Vec<_>>()).await?;
    ensure!(first.fence(revoked[0]).is_some());
    first.unassign(&revoked).await?;
    ensure!(first.fence(revoked[0]).is_none());
    let fenced = first.commit(&[Commit::at(revoked[0], 0)]).await.unwrap_err();
    ensure!(matches!(fenced, LogError::Fenced(p) if p == revoked[0]), "{fenced}");

    // the first goes on being polled, as its driver would
    let taken = tokio::select! {
        event = next(&mut first) => bail!("the first was told {:?}", event?),
        event = next(&mut second) => match event? {
            ConsumerEvent::Assigned(taken) => taken,
            other => bail!("no assignment but {other:?}"),
        },
    };
    ensure!(taken.iter().collect::<BTreeSet<_>>() == revoked.iter().collect(), "{taken:?} of {revoked:?}");
    // nothing flows before the answer
    for answer in log.producer().append(&batch(), None).await {
        answer?;
    }
    let kept: BTreeSet<TopicPartition> = all.iter().copied().filter(|p| !revoked.contains(p)).collect();
    let seen = records(&mut first, kept.len()).await?;
    ensure!(seen.iter().all(|r| kept.contains(&r.source)));
    second.assign(&taken.iter().map(|p| (*p, Start::Committed)).collect::<Vec<_>>()).await?;
    let seen = records(&mut second, taken.len()).await?;
    ensure!(seen.iter().all(|r| taken.contains(&r.source)));

    // the second leaves; what it had comes back under a new epoch, from its commit
    second.commit(&taken.iter().map(|p| Commit::at(*p, 1)).collect::<Vec<_>>()).await?;
    second.close(DEADLINE).await;
    let back = assigned(&mut first, Start::Committed).await?;
    ensure!(back.iter().collect::<BTreeSet<_>>() == taken.iter().collect());
    ensure!(back.iter().all(|p| first.fence(*p).is_some_and(|f| f.epoch > epoch)));
    for answer in log.producer().append(&batch(), None).await {
        answer?;
    }
    let seen = records(&mut first, all.len()).await?;
    ensure!(seen.iter().all(|r| r.offset == 1), "{seen:?}");
    first.close(DEADLINE).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_stands_whose_metadata_the_broker_refuses() -> Result<()> {
    let (log, _) = fresh_log(&[]).await?;
    let (one, other) = (partition_with(&keys()[0]), partition_with(&keys()[1]));
    let batch: Vec<_> = keys().iter().flat_map(|key| (0..4).map(move |n| record(key, format!("{n}")))).collect();
    for answer in log.producer().append(&batch, None).await {
        answer?;
    }
    let mut consumer = log.subscribe("g", &[Topic::ConversationsLive]).await?;
    assigned(&mut consumer, Start::Committed).await?;
    let commit = |partition, next_offset, metadata: &str| Commit { partition, next_offset, metadata: metadata.to_owned() };
    consumer.commit(&[commit(one, 1, "before"), commit(other, 1, "before")]).await?;
    consumer.commit(&[commit(one, 2, &"x".repeat(finished::MAX_BYTES + 1)), commit(other, 3, "fits")]).await?;
    consumer.close(DEADLINE).await;
    let mut consumer = log.subscribe("g", &[Topic::ConversationsLive]).await?;
    assigned(&mut consumer, Start::Committed).await?;
    let committed = |partition| consumer.committed(partition).map(|c| (c.next_offset, c.metadata.clone()));
    ensure!(committed(one) == Some((2, String::new())), "{:?}", committed(one));
    ensure!(committed(other).is_some_and(|(offset, _)| offset == 3), "{:?}", committed(other));
    consumer.close(DEADLINE).await;
    Ok(())
}

/// Finishes all but what is parked, and notes what it was given.
struct Parking {
    parked: Option<&'static str>,
    given: Arc<Mutex<Vec<String>>>,
}

impl RecordHandler for Parking {
    type Item = String;

    fn read(&self, record: &LogRecord) -> Reading<String> {
        let item = String::from_utf8_lossy(&record.payload).into_owned();
        Reading { item, tenant: Arc::from("acme"), cost: 1, bytes: 0, window: Windowing::Alone }
    }

    async fn handle(&self, work: Work<String>) -> Verdict {
        let item = work.window[0].item.clone();
        let parked = self.parked == Some(&*item);
        self.given.lock().expect("no panic").push(item);
        if parked { Verdict::RetryAfter(Duration::from_secs(3600)) } else { Verdict::Done }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_behind_a_parked_record_is_not_done_again_after_a_crash() -> Result<()> {
    const RECORDS: usize = 300;
    let servers = shared().await?;
    let prefix = servers.fresh_prefix();
    let log = Arc::new(KafkaLog::connect(config(servers, &prefix, SHORT_SESSION)).await?);
    log.create_topics(1).await?;
    let batch: Vec<_> = (0..RECORDS).map(|n| record(&format!("key {n}"), format!("{n}"))).collect();
    for answer in log.producer().append(&batch, None).await {
        answer?;
    }
    let start = |parked, given: &Arc<Mutex<Vec<String>>>| {
        let config = KeyedConfig {
            max_concurrency: 16.into(),
            commit_interval: Duration::from_millis(50),
            drain_deadline: Duration::from_secs(10),
            ..KeyedConfig::new("workers", vec![Topic::ConversationsLive])
        };
        let handler = Arc::new(Parking { parked, given: Arc::clone(given) });
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(run_keyed(log.clone(), config, handler, Arc::new(Unobserved), shutdown.clone()));
        (running, shutdown)
    };
    let first = Arc::default();
    let (running, _) = start(Some("0"), &first);
    // What the group has committed, as anybody may ask who knows its name.
    let onlooker: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers.kafka_brokers())
        .set("group.id", format!("{prefix}.workers.{}", Topic::ConversationsLive))
        .create()?;
    let onlooker = Arc::new(onlooker);
    let topic = format!("{prefix}.{}", Topic::ConversationsLive);
    let committed = || {
        let (onlooker, topic) = (Arc::clone(&onlooker), topic.clone());
        tokio::task::spawn_blocking(move || {
            let mut asked = TopicPartitionList::new();
            asked.add_partition(&topic, 0);
            let told = onlooker.committed_offsets(asked, DEADLINE)?;
            let element = told.find_partition(&topic, 0).context("not told")?;
            Ok::<_, anyhow::Error>((element.offset(), element.metadata().to_owned()))
        })
    };
    let whole = finished::encode(0, [Run { first: 1, last: 299 }], finished::MAX_BYTES);
    let until = tokio::time::Instant::now() + DEADLINE;
    while committed().await?? != (Offset::Offset(0), whole.clone()) {
        ensure!(tokio::time::Instant::now() < until, "what is done was not committed: {:?}", committed().await??);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.abort();
    ensure!(running.await.is_err_and(|e| e.is_cancelled()));
    ensure!(first.lock().expect("no panic").len() == RECORDS);

    for answer in log.producer().append(&[record("key 0", "new")], None).await {
        answer?;
    }
    let second = Arc::default();
    let (running, shutdown) = start(None, &second);
    while committed().await?? != (Offset::Offset(301), String::new()) {
        ensure!(tokio::time::Instant::now() < until, "not done: {:?}", committed().await??);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shutdown.cancel();
    running.await??;
    ensure!(*second.lock().expect("no panic") == ["0", "new"], "{second:?}");
    Ok(())
}

/// What a named member reads waits for it; that it was away moves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_member_that_comes_back_finds_its_partitions_and_disturbs_nobody() -> Result<()> {
    let (log, prefix) = fresh_log(&[]).await?;
    let servers = shared().await?;
    let member = async |name: &str| -> Result<Box<dyn Consumer>> {
        let config = KafkaConfig { group_instance_id: Some(name.to_owned()), ..config(servers, &prefix, &[]) };
        Ok(KafkaLog::connect(config).await?.subscribe("named", &[Topic::ConversationsLive]).await?)
    };
    let all: Vec<String> = keys();
    let mut first = member("first").await?;
    ensure!(assigned(&mut first, Start::Committed).await?.len() == all.len());
    let mut second = member("second").await?;
    let revoked = tokio::select! {
        event = next(&mut first) => event?,
        event = next(&mut second) => bail!("the second was told {event:?} before the first let go"),
    };
    let ConsumerEvent::Revoked(given) = revoked else { bail!("not revoked but {revoked:?}") };
    first.unassign(&given).await?;
    let taken = tokio::select! {
        event = next(&mut first) => bail!("the first was told {:?}", event?),
        taken = assigned(&mut second, Start::Committed) => taken?,
    };
    ensure!(taken.iter().collect::<BTreeSet<_>>() == given.iter().collect(), "{taken:?} of {given:?}");
    let theirs = all.iter().find(|key| given.contains(&partition_with(key))).context("one of the second's")?;
    let ours = all.iter().find(|key| !given.contains(&partition_with(key))).context("one of the first's")?;

    first.close(DEADLINE).await;
    let mut again = member("first").await?;
    let kept = assigned(&mut again, Start::Committed).await?;
    ensure!(kept.len() == all.len() - given.len() && kept.iter().all(|partition| !given.contains(partition)), "{kept:?}");
    for key in [ours, theirs] {
        log.producer().append(&[record(key, "x")], None).await.remove(0)?;
    }
    ensure!(records(&mut again, 1).await?[0].source == partition_with(ours));
    // The first thing that it hears is a record: it was asked for nothing meanwhile.
    ensure!(records(&mut second, 1).await?[0].source == partition_with(theirs));
    again.close(DEADLINE).await;
    second.close(DEADLINE).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_outlive_its_assignment() -> Result<()> {
    let (log, _) = fresh_log(&[]).await?;
    let keys = keys();
    let mut first = log.subscribe("pair", &[Topic::ConversationsLive]).await?;
    let all = assigned(&mut first, Start::Committed).await?;
    first.pause(&all)?;
    let mut second = log.subscribe("pair", &[Topic::ConversationsLive]).await?;
    let told = tokio::select! { event = next(&mut first) => event?, _ = next(&mut second) => bail!("too early") };
    let ConsumerEvent::Revoked(revoked) = told else { bail!("not revoked") };
    first.unassign(&revoked).await?;
    // the second leaves without ever answering
    tokio::select! {
        event = next(&mut second) => ensure!(matches!(event?, ConsumerEvent::Assigned(_))),
        event = next(&mut first) => bail!("the first was told {:?}", event?),
    }
    second.close(DEADLINE).await;
    let back = assigned(&mut first, Start::Committed).await?;
    for answer in log.producer().append(&keys.iter().map(|key| record(key, key.clone())).collect::<Vec<_>>(), None).await {
        answer?;
    }
    let seen = records(&mut first, back.len()).await?;
    ensure!(seen.iter().all(|r| back.contains(&r.source)), "the others are still paused");
    first.close(DEADLINE).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_no_answer_of_ours() -> Result<()> {
    let (log, _) = fresh_log(&[]).await?;
    // before the assignment was told, after it, and while a revocation is not answered
    let never_told = log.subscribe("g", &[Topic::ConversationsLive]).await?;
    let started = std::time::Instant::now();
    never_told.close(DEADLINE).await;
    let mut told = log.subscribe("g", &[Topic::ConversationsLive]).await?;
    ensure!(matches!(next(&mut told).await?, ConsumerEvent::Assigned(_)));
    told.close(DEADLINE).await;
    let mut first = log.subscribe("g", &[Topic::ConversationsLive]).await?;
    let all = assigned(&mut first, Start::Committed).await?;
    let mut second = log.subscribe("g", &[Topic::ConversationsLive]).await?;
    tokio::select! {
        event = next(&mut first) => ensure!(matches!(event?, ConsumerEvent::Revoked(_))),
        _ = next(&mut second) => bail!("too early"),
    }
    first.close(DEADLINE).await;
    let mut got = BTreeSet::new();
    while got.len() < all.len() {
        got.extend(assigned(&mut second, Start::Committed).await?);
    }
    second.close(DEADLINE).await;
    ensure!(started.elapsed() < DEADLINE / 2, "closing took until its deadline: {:?}", started.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_next_loses_nothing() -> Result<()> {
    let (log, _) = fresh_log(&[]).await?;
    let mut consumer = log.subscribe("g", &[Topic::ConversationsLive]).await?;
    assigned(&mut consumer, Start::Committed).await?;
    let producer = log.producer();
    let sending = tokio::spawn(async move {
        for n in 0..400 {
            producer.append(&[record("a", format!("{n}"))], None).await.remove(0)?;
        }
        Ok::<_, AppendError>(())
    });
    let mut offsets: Vec<i64> = Vec::new();
    let until = tokio::time::Instant::now() + DEADLINE;
    while offsets.len() < 400 {
        ensure!(tokio::time::Instant::now() < until, "{} records of 400 came", offsets.len());
        if let Ok(event) = tokio::time::timeout(Duration::from_micros(700), consumer.next()).await
            && let ConsumerEvent::Records(records) = event?
        {
            offsets.extend(records.iter().map(|r| r.offset));
        }
    }
    sending.await??;
    ensure!(offsets == (0..400).collect::<Vec<i64>>());
    consumer.close(DEADLINE).await;
    Ok(())
}

const MEMBER: &str = "MEMORI_TEST_MEMBER";
const SHORT_SESSION: &[(&str, &str)] = &[("session_timeout_ms", "1500"), ("heartbeat_interval_ms", "300")];

/// Not a test of its own: the process that the next one stops and wakes. It answers each line of its input.
#[tokio::test(flavor = "multi_thread")]
async fn member_process() -> Result<()> {
    let Ok(place) = std::env::var(MEMBER) else { return Ok(()) };
    let (brokers, prefix) = place.split_once(' ').context("BROKERS PREFIX")?;
    let mut config = KafkaConfig::new(brokers, prefix);
    config.properties = SHORT_SESSION.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let log = KafkaLog::connect(config).await?;
    let mut consumer = log.subscribe("zombie", &[Topic::ConversationsLive]).await?;
    let all = assigned(&mut consumer, Start::Committed).await?;
    let seen = records(&mut consumer, 1).await?;
    eprintln!("member: owns {} read {}", all.len(), seen.len());
    // nothing else of this process needs the thread
    for line in std::io::stdin().lines() {
        match line?.as_str() {
            "commit" => eprintln!("member: {:?}", consumer.commit(&[Commit::at(seen[0].source, seen[0].offset + 1)]).await),
            _ => {
                let lost = loop {
                    match next(&mut consumer).await? {
                        ConsumerEvent::Records(_) => {}
                        other => break other,
                    }
                };
                eprintln!("member: {lost:?}");
                let ConsumerEvent::Lost(lost) = lost else { continue };
                consumer.unassign(&lost).await?;
                // and it may join again
                eprintln!("member: {:?}", tokio::time::timeout(Duration::from_secs(3), consumer.next()).await);
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_woken_from_sigstop_is_fenced() -> Result<()> {
    let servers = shared().await?;
    let (log, prefix) = fresh_log(SHORT_SESSION).await?;
    log.producer().append(&[record("a", "b")], None).await.remove(0)?;
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "member_process", "--nocapture"])
        .env(MEMBER, format!("{} {prefix}", servers.kafka_brokers()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut output = BufReader::new(child.stderr.take().context("no output")?).lines();
    let mut said = async || -> Result<String> {
        loop {
            let line = tokio::time::timeout(DEADLINE, output.next_line()).await??.context("the member ended")?;
            if let Some(said) = line.split_once("member: ").map(|(_, said)| said.to_owned()) {
                return Ok(said);
            }
        }
    };
    ensure!(said().await? == format!("owns {PARTITIONS} read 1"));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().context("it ended")?)?).context("no pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;

    let mut heir = log.subscribe("zombie", &[Topic::ConversationsLive]).await?;
    let all = assigned(&mut heir, Start::Committed).await?;
    ensure!(all.len() == PARTITIONS as usize);
    let seen = records(&mut heir, 1).await?;
    heir.commit(&[Commit::at(seen[0].source, seen[0].offset + 1)]).await?;

    rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
    input.write_all(b"commit\n").await?;
    let answer = said().await?;
    ensure!(answer.starts_with("Err(Fenced("), "{answer}");
    input.write_all(b"next\n").await?;
    let answer = said().await?;
    ensure!(answer.starts_with("Lost("), "{answer}");
    drop(input);
    heir.close(DEADLINE).await;
    child.kill().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_dies_with_records_in_flight() -> Result<()> {
    const KEYS: usize = 40;
    const EACH: usize = 250;
    let servers = Arc::new(tokio::task::spawn_blocking(Servers::start).await??);
    let mut own = config(&servers, "memori", &[]);
    own.delivery_timeout = Duration::from_secs(120);
    let log = Arc::new(KafkaLog::connect(own).await?);
    log.create_topics(PARTITIONS).await?;
    let mut impatient = config(&servers, "memori", &[]);
    impatient.delivery_timeout = Duration::from_secs(1);
    let impatient = KafkaLog::connect(impatient).await?;
    impatient.producer().append(&[record("impatient", "0")], None).await.remove(0)?;

    // in steps of a few, so that many calls are under way when it dies
    let acked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let senders: Vec<_> = (0..KEYS)
        .map(|key| {
            let (producer, acked) = (log.producer(), Arc::clone(&acked));
            tokio::spawn(async move {
                let mut positions = Vec::new();
                for step in (0..EACH).step_by(5) {
                    let batch: Vec<_> = (step..step + 5).map(|n| record(&format!("k{key}"), format!("k{key} {n}"))).collect();
                    for (n, answer) in (step..).zip(producer.append(&batch, None).await) {
                        positions.push((format!("k{key} {n}"), answer));
                        acked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
                positions
            })
        })
        .collect();
    for share in [4, 2] {
        let goal = KEYS * EACH / share;
        tokio::time::timeout(DEADLINE, async {
            while acked.load(std::sync::atomic::Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await?;
        let killer = Arc::clone(&servers);
        tokio::task::spawn_blocking(move || killer.kill9_kafka()).await??;
        if share == 4 {
            // who waits a second only is told that nothing is known, not that all is well
            let answer = impatient.producer().append(&[record("impatient", "1")], None).await.remove(0);
            ensure!(matches!(answer, Err(AppendError::Unconfirmed(_))), "{answer:?}");
        }
        let starter = Arc::clone(&servers);
        tokio::task::spawn_blocking(move || starter.restart_kafka()).await??;
    }

    let mut answers = BTreeMap::new();
    for sender in senders {
        answers.extend(tokio::time::timeout(DEADLINE * 2, sender).await??);
    }
    let mut there: BTreeMap<String, Vec<(TopicPartition, i64)>> = BTreeMap::new();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for partition in (0..PARTITIONS).map(|partition| TopicPartition { topic: Topic::ConversationsLive, partition }) {
        for read in log.read(partition, 0, usize::MAX).await? {
            let payload = String::from_utf8_lossy(&read.payload).into_owned();
            let Some((key, n)) = payload.split_once(' ').and_then(|(key, n)| Some((key.to_owned(), n.parse::<i64>().ok()?)))
            else {
                continue;
            };
            ensure!(last.insert(key, n).is_none_or(|before| before < n), "{payload} is out of order");
            there.entry(payload).or_default().push((read.source, read.offset));
        }
    }
    let mut confirmed = 0;
    for (payload, answer) in &answers {
        let found = there.get(payload).map_or(&[][..], Vec::as_slice);
        ensure!(found.len() <= 1, "{payload} is there {} times", found.len());
        if let Ok(position) = answer {
            confirmed += 1;
            let as_told = |&(source, offset)| source == position.source && position.offset.is_none_or(|told| told == offset);
            ensure!(found.len() == 1 && found.iter().all(as_told), "{payload} was confirmed at {position:?} and is at {found:?}");
        }
    }
    ensure!(answers.len() == KEYS * EACH && confirmed > KEYS * EACH * 9 / 10, "{confirmed} confirmed of {}", answers.len());
    drop((log, impatient));
    tokio::task::spawn_blocking(move || drop(servers)).await?;
    Ok(())
}
