//! A log that goes on where an archive ends, held to the suite of all providers: whoever joins a group finds that the topics have lost what
//! stood there until then, and so do those who are reading. Not among the cases are the two in which a record is gone for good: here the
//! archive has it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use memori_archive::{Archive, ArchivedLog, Archiver, ArchiverConfig, Place};
use memori_event_log::conformance::Provider;
use memori_event_log::driver::batch::{Advance, Batch, BatchSink as _, FlushCause};
use memori_event_log::kafka::{KafkaConfig, KafkaLog};
use memori_event_log::{Consumer, Log, LogError, LogIdentity, LogRecord, Producer, Topic, TopicPartition};
use memori_tests::Servers;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

#[derive(Clone)]
struct Archived {
    brokers: String,
    prefix: String,
    folder: PathBuf,
    /// Removes the folder after its last user.
    _made: Option<Arc<tempfile::TempDir>>,
}

impl Archived {
    async fn kafka(&self) -> Arc<dyn Log> {
        let mut config = KafkaConfig::new(&self.brokers, &self.prefix);
        // a member that is silent is given up soon
        config.properties = BTreeMap::from(
            [("session_timeout_ms", "2000"), ("heartbeat_interval_ms", "300")].map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        Arc::new(KafkaLog::connect(config).await.expect("connects"))
    }

    fn archive(&self) -> Arc<Archive> {
        Arc::new(Archive::open(&self.folder.display().to_string()).expect("a folder"))
    }

    /// Archives all that stands on the log, and deletes it there.
    async fn forget(&self, log: &Arc<dyn Log>) {
        let identity = log.identity().await.expect("an identity");
        let archive = self.archive();
        let config = ArchiverConfig {
            roll_bytes: 1 << 20,
            roll_age: Duration::from_secs(1),
            begin_at_log_start: false,
            drain_deadline: Duration::from_secs(1),
        };
        let mut archiver = Archiver::new(log.clone(), archive.clone(), identity.clone(), config);
        for topic in Topic::ALL {
            for partition in 0..identity.partitions {
                let partition = TopicPartition { topic, partition };
                // A partition that has just been made may have no leader yet.
                let (_, end) = loop {
                    match log.watermarks(partition).await {
                        Ok(span) => break span,
                        Err(LogError::Transient(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                        Err(error) => panic!("{error}"),
                    }
                };
                let place = Place::of(&identity, partition).expect("a place");
                loop {
                    let from_offset = archive.last(&place).await.expect("a chain").map_or(0, |last| last.to);
                    if from_offset >= end {
                        break;
                    }
                    let Ok(records) = log.read(partition, from_offset, 700).await else { continue };
                    let Some(last) = records.last() else { break };
                    let advance = Advance { partition, from_offset, next_offset: last.offset + 1 };
                    // Another member may be at it, too: then its range counts.
                    let _ = archiver.flush(&Batch { records, advances: vec![advance], cause: FlushCause::Age }).await;
                }
                if end > 0 {
                    self.delete_before(partition, end).await;
                }
            }
        }
    }
}

/// Forgets before anybody joins.
struct Forgetful {
    of: Archived,
    kafka: Arc<dyn Log>,
    both: ArchivedLog,
}

#[async_trait]
impl Log for Forgetful {
    fn producer(&self) -> Arc<dyn Producer> {
        self.both.producer()
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        self.of.forget(&self.kafka).await;
        self.both.subscribe(group, topics).await
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        self.both.create_topics(partitions).await
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.both.identity().await
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        self.both.watermarks(partition).await
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        self.both.read(partition, offset, max_records).await
    }
}

#[async_trait]
impl Provider for Archived {
    const FENCES_APPENDS: bool = false;

    async fn fresh(partitions: i32) -> Self {
        let servers = tokio::task::spawn_blocking(Servers::shared).await.expect("no panic").expect("the servers start");
        let prefix = servers.fresh_prefix();
        let made = tempfile::Builder::new().prefix("memori-archive-").tempdir().expect("a folder");
        let (brokers, folder) = (servers.kafka_brokers().to_owned(), made.path().to_owned());
        let archived = Self { brokers, prefix, folder, _made: Some(Arc::new(made)) };
        archived.kafka().await.create_topics(partitions).await.expect("makes the topics");
        archived
    }

    fn address(&self) -> String {
        format!("{} {} {}", self.brokers, self.prefix, self.folder.display())
    }

    async fn reach(address: &str) -> Self {
        let mut parts = address.splitn(3, ' ').map(str::to_owned);
        let mut part = || parts.next().expect("brokers, prefix and folder");
        Self { brokers: part(), prefix: part(), folder: part().into(), _made: None }
    }

    async fn connect(&self) -> Arc<dyn Log> {
        let kafka = self.kafka().await;
        Arc::new(Forgetful { of: self.clone(), both: ArchivedLog::new(kafka.clone(), self.archive()), kafka })
    }

    async fn delete_before(&self, partition: TopicPartition, offset: i64) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("a client");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&format!("{}.{}", self.prefix, partition.topic), partition.partition, Offset::Offset(offset))
            .expect("an offset");
        let deleted = admin.delete_records(&list, &AdminOptions::new()).await.expect("an answer");
        for element in deleted.elements() {
            element.error().expect("deletes");
        }
    }
}

memori_event_log::conformance_suite!(
    Archived: identity_and_watermarks, order_per_key, records_of_one_byte_and_of_one_mebibyte, assigning_again_moves,
    paused_partitions_rest, redelivery_after_a_crash, rebalance_while_work_is_in_flight,
    late_completions_of_an_old_epoch_are_dropped, budget_full_and_reopened, commit_never_past_an_unfinished_event,
    poison_records_halt_their_partition_only, batches_are_written_once_over_crashes,
    fenced_batches_go_on_where_the_store_says, retried_batches_stay_the_same, held_partitions_wait,
    what_stands_beside_an_offset_comes_back, what_stands_beside_an_offset_goes_to_the_next_owner,
    what_is_finished_above_the_frontier_is_not_worked_on_again, a_tenants_backlog_is_read_past,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn woken_from_sigstop() {
    memori_event_log::conformance::woken_from_sigstop::<Archived>(concat!(module_path!(), "::woken_from_sigstop")).await;
}
