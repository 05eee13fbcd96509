//! What the SQL log promises beyond the seam: one name per file, migrations beside other tables, grouping, exclusive use.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{SqlLog, SqlLogConfig};
use crate::seam::{AppendError, Committed, Consumer, ConsumerEvent, Header, Log, LogError, NewRecord, Start};
use crate::sqlite::SqliteDatabase;
use crate::topic::{Topic, TopicPartition};

fn record(key: &str, payload: &[u8]) -> NewRecord {
    NewRecord {
        topic: Topic::ConversationsLive,
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: Bytes::copy_from_slice(payload),
        headers: vec![Header { name: "tenant".into(), value: Bytes::from_static(b"acme") }],
    }
}

async fn open(folder: &tempfile::TempDir, config: SqlLogConfig) -> SqlLog {
    let database = SqliteDatabase::open(&folder.path().join("memori.db")).await.expect("opens");
    SqlLog::open(database, config).await.expect("migrates")
}

async fn records(consumer: &mut dyn Consumer, wanted: usize) -> Vec<(TopicPartition, i64)> {
    let mut got = Vec::new();
    while got.len() < wanted {
        match consumer.next().await.expect("next") {
            ConsumerEvent::Assigned(partitions) => {
                let starts: Vec<_> = partitions.into_iter().map(|p| (p, Start::Committed)).collect();
                consumer.assign(&starts).await.expect("assign");
            }
            ConsumerEvent::Records(records) => got.extend(records.iter().map(|r| (r.source, r.offset))),
            event => panic!("unexpected {event:?}"),
        }
    }
    got
}

#[tokio::test]
async fn the_name_and_the_topics_outlive_the_handle() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(&folder, SqlLogConfig::default()).await;
    assert!(matches!(log.identity().await, Err(LogError::Fatal(_))), "no topics yet");
    log.create_topics(3).await.expect("creates");
    log.create_topics(3).await.expect("is idempotent");
    let refusal = log.create_topics(4).await.expect_err("another count");
    assert!(refusal.to_string().contains("has 3 partitions, not 4"), "{refusal}");
    let identity = log.identity().await.expect("identity");
    drop(log);
    let again = open(&folder, SqlLogConfig::default()).await;
    assert_eq!(again.identity().await.expect("identity"), identity);
    assert_eq!(identity.partitions, 3);
}

#[tokio::test]
async fn concurrent_appends_get_dense_offsets_in_the_order_of_each_caller() {
    let folder = tempfile::tempdir().expect("folder");
    let log = Arc::new(open(&folder, SqlLogConfig::default()).await);
    log.create_topics(2).await.expect("creates");
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut offsets = Vec::new();
                for n in 0..20 {
                    let batch = vec![record(&format!("caller {caller}"), &[n]), record(&format!("caller {caller}"), &[n])];
                    for result in log.producer().append(&batch, None).await {
                        offsets.push(result.expect("appended"));
                    }
                }
                offsets
            })
        })
        .collect();
    let mut all = Vec::new();
    for caller in callers {
        let offsets = caller.await.expect("joins");
        assert!(offsets.is_sorted_by(|a, b| a.source == b.source && a.offset < b.offset));
        all.extend(offsets);
    }
    all.sort();
    for partition in 0..2 {
        let source = TopicPartition { topic: Topic::ConversationsLive, partition };
        let offsets: Vec<i64> = all.iter().filter(|p| p.source == source).filter_map(|p| p.offset).collect();
        let end = i64::try_from(offsets.len()).expect("fits");
        assert_eq!(offsets, (0..end).collect::<Vec<_>>());
        assert_eq!(log.watermarks(source).await.expect("watermarks"), (0, end));
        assert_eq!(log.read(source, 0, 1000).await.expect("read").len(), offsets.len());
    }
}

#[tokio::test]
async fn a_record_above_the_limit_is_refused_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(&folder, SqlLogConfig::default()).await;
    log.create_topics(1).await.expect("creates");
    let results = log
        .producer()
        .append(&[record("a", b"1"), record("a", &vec![0; super::MAX_PAYLOAD_BYTES + 1]), record("a", b"2")], None)
        .await;
    assert_eq!(results[0].as_ref().expect("fits").offset, Some(0));
    assert!(matches!(results[1], Err(AppendError::TooLarge(_))));
    assert_eq!(results[2].as_ref().expect("fits").offset, Some(1));
}

#[tokio::test]
async fn an_exclusive_owner_does_not_wait_for_the_leases_of_the_dead() {
    let folder = tempfile::tempdir().expect("folder");
    let config = SqlLogConfig { lease_ttl: Duration::from_secs(3600), exclusive: true, ..SqlLogConfig::default() };
    let log = open(&folder, config.clone()).await;
    log.create_topics(2).await.expect("creates");
    log.producer().append(&[record("a", b"1")], None).await.pop().expect("one").expect("appended");
    let mut dead = log.subscribe("g", &[Topic::ConversationsLive]).await.expect("joins");
    records(&mut *dead, 1).await;
    drop(dead);
    let again = open(&folder, config).await;
    let mut consumer = again.subscribe("g", &[Topic::ConversationsLive]).await.expect("joins");
    assert_eq!(records(&mut *consumer, 1).await.len(), 1);
}

#[tokio::test]
async fn an_offset_beyond_the_end_halts() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(&folder, SqlLogConfig::default()).await;
    log.create_topics(1).await.expect("creates");
    let mut consumer = log.subscribe("g", &[Topic::Controls]).await.expect("joins");
    let Ok(ConsumerEvent::Assigned(partitions)) = consumer.next().await else { panic!("no assignment") };
    let error = consumer.assign(&[(partitions[0], Start::Offset(7))]).await.expect_err("beyond the end");
    assert!(error.to_string().contains("controls[0] ends at offset 0, but 7 is wanted"), "{error}");
}

#[tokio::test]
async fn a_log_of_the_first_version_keeps_its_commits() {
    let folder = tempfile::tempdir().expect("folder");
    let database = SqliteDatabase::open(&folder.path().join("memori.db")).await.expect("opens");
    // As its process left it: the table without the column, the migration not yet noted.
    let log = SqlLog::open(database.clone(), SqlLogConfig::default()).await.expect("migrates");
    log.create_topics(1).await.expect("creates");
    for n in 0..3 {
        log.producer().append(&[record("a", &[n])], None).await.pop().expect("one").expect("appended");
    }
    drop(log);
    for sql in [
        "ALTER TABLE log_group_offsets DROP COLUMN metadata",
        "DELETE FROM log_migrations WHERE version > 1",
        "INSERT INTO log_group_offsets (group_name, topic, log_partition, next_offset) VALUES ('g', 'conversations.live', 0, 2)",
    ] {
        sqlx::query(sql).execute(database.writes()).await.expect(sql);
    }
    database.close().await;
    let log = open(&folder, SqlLogConfig::default()).await;
    let mut consumer = log.subscribe("g", &[Topic::ConversationsLive]).await.expect("joins");
    let got = records(&mut *consumer, 1).await;
    assert_eq!(got[0].1, 2);
    let expected = Committed { next_offset: 2, metadata: String::new(), log_end: 3 };
    assert_eq!(consumer.committed(got[0].0), Some(&expected));
}
