//! A log behind a schema registry: what is written is in the registry's wire format, what is read may be in either framing.
//!
//! Promises: everything inside of us keeps its one framing, and only the bytes on the log differ; every released schema is registered
//! before the first record is written, old ones first, and one that the registry's subject does not take is refused with its name; a
//! record whose schema is not known yet waits for the registry rather than being given up; what is remembered is bounded.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use memori_schemas::framing::RELEASED;
use memori_schemas::framing::registry::{
    Fingerprint, fingerprint_of_payload, fingerprint_of_text, registry_id_of_payload, with_fingerprint, with_registry_id,
};
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id, get_schema_by_subject, post_schema};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RegisteredSchema, SchemaType, SubjectNameStrategy, SuppliedSchema};
use serde_json::json;

use crate::seam::{
    AppendError, Commit, Committed, Consumer, ConsumerEvent, Fence, Log, LogError, LogIdentity, LogRecord, NewRecord, Position,
    Producer, Start,
};
use crate::topic::{Topic, TopicPartition};

/// How long one question to the registry may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Schemas of others that are remembered.
const MAX_FOREIGN: usize = 10_000;

/// What a subject holds its versions to: whoever has the newest reads all older ones.
const COMPATIBILITY: &str = "BACKWARD";

/// A log whose records are in the registry's wire format.
pub struct RegistryLog {
    inner: Arc<dyn Log>,
    schemas: Arc<Schemas>,
    producer: Arc<dyn Producer>,
}

/// Which id a schema has there, and which schema an id is.
struct Schemas {
    settings: SrSettings,
    ids: HashMap<Fingerprint, u32>,
    fingerprints: RwLock<HashMap<u32, Option<Fingerprint>>>,
}

/// The subject of a record, whatever topic it stands in.
fn subject(record: &str) -> String {
    format!("memori.{record}")
}

fn has_status(error: &SRCError, status: &str) -> bool {
    error.error.contains(&format!("status {status}"))
}

fn away(url: &str, error: &dyn std::fmt::Display) -> LogError {
    LogError::Transient(format!("the schema registry at {url}: {error}"))
}

/// A URL without what lets in.
fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            match authority.rsplit_once('@') {
                Some((credentials, _)) => format!("{scheme}://***{}", &rest[credentials.len()..]),
                None => url.to_owned(),
            }
        }
        None => url.to_owned(),
    }
}

impl RegistryLog {
    /// Puts a registry before a log: `url` is that of its Confluent API. Registers every released schema.
    ///
    /// # Errors
    /// [`LogError::Fatal`] where the registry refuses a schema: says which and what to do. [`LogError::Transient`] where it is away.
    pub async fn connect(inner: Arc<dyn Log>, url: &str) -> Result<Self, LogError> {
        let url = url.trim_end_matches('/');
        let named = shown(url);
        let fatal = |why: &dyn std::fmt::Display| LogError::Fatal(format!("registry.url {named} cannot be used: {why}"));
        let settings = SrSettings::new_builder(url.to_owned()).set_timeout(TIMEOUT).build().map_err(|e| fatal(&e))?;
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|e| fatal(&e))?;
        let (mut ids, mut fingerprints) = (HashMap::new(), HashMap::new());
        for version in RELEASED {
            let subject = subject(version.record);
            let fingerprint = fingerprint_of_text(version.avsc)
                .ok_or_else(|| LogError::Fatal(format!("the schema of {subject} version {} is none", version.version)))?;
            // What is there already holds its successors to the rule; what is not, from its first version on.
            let there = match get_schema_by_subject(&settings, &SubjectNameStrategy::RecordNameStrategy(subject.clone())).await {
                Ok(_) => true,
                Err(error) if has_status(&error, "404") => false,
                Err(error) => return Err(away(&named, &error)),
            };
            if there {
                hold_to_rule(&http, url, &named, &subject).await?;
            }
            let schema = SuppliedSchema::new(Some(subject.clone()), SchemaType::Avro, version.avsc.to_owned());
            let registered = registered(&settings, &subject, schema).await.map_err(|error| {
                if has_status(&error, "409") || has_status(&error, "422") {
                    return LogError::Fatal(format!(
                        "the schema registry at {named} refuses version {} of {subject}: it is not {COMPATIBILITY} compatible with what is \
                         registered there. Another program uses the subject, or a later version of this one has changed it: look at its \
                         versions, remove what is not ours, or name another registry in registry.url",
                        version.version
                    ));
                }
                away(&named, &error)
            })?;
            if !there {
                hold_to_rule(&http, url, &named, &subject).await?;
            }
            ids.insert(fingerprint, registered.id);
            fingerprints.insert(registered.id, Some(fingerprint));
        }
        tracing::info!(registry = named, schemas = ids.len(), "records are written in the schema registry's wire format");
        let schemas = Arc::new(Schemas { settings, ids, fingerprints: RwLock::new(fingerprints) });
        let producer = Arc::new(RegistryProducer { inner: inner.producer(), schemas: schemas.clone() });
        Ok(Self { inner, schemas, producer })
    }
}

/// Between two tries to reach a registry.
const PAUSE: Duration = Duration::from_millis(500);
/// Times that a schema is offered before the registry's refusal counts.
const REGISTER_TRIES: usize = 3;

/// The log, behind a registry where one is named; one that is away is waited for within `patience`.
///
/// # Errors
/// As [`RegistryLog::connect`].
pub async fn behind(log: Arc<dyn Log>, url: Option<&str>, patience: Duration) -> Result<Arc<dyn Log>, LogError> {
    let Some(url) = url else { return Ok(log) };
    let end = tokio::time::Instant::now() + patience;
    loop {
        match RegistryLog::connect(log.clone(), url).await {
            Ok(log) => return Ok(Arc::new(log)),
            Err(error @ LogError::Transient(_)) if tokio::time::Instant::now() + PAUSE < end => {
                tracing::info!(%error, "waiting for the schema registry");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Registers a schema. Processes that start together register the same ones, and a registry may refuse one of two that come at the same
/// time; so what it refuses is tried again before it counts.
async fn registered(settings: &SrSettings, subject: &str, schema: SuppliedSchema) -> Result<RegisteredSchema, SRCError> {
    let mut tries = 1;
    loop {
        match post_schema(settings, subject.to_owned(), schema.clone()).await {
            Err(error) if has_status(&error, "409") && tries < REGISTER_TRIES => tries += 1,
            answer => return answer,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Registries differ in what they hold a subject to by themselves; some to nothing.
async fn hold_to_rule(http: &reqwest::Client, url: &str, named: &str, subject: &str) -> Result<(), LogError> {
    let asked = http.put(format!("{url}/config/{subject}")).json(&json!({"compatibility": COMPATIBILITY})).send().await;
    let answer = asked.map_err(|error| away(named, &error.without_url()))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        // Another process sets it at the same time.
        status if status.is_server_error() || status == reqwest::StatusCode::CONFLICT => Err(away(named, &status)),
        status => Err(LogError::Fatal(format!(
            "the schema registry at {named} does not let the compatibility of {subject} be set ({status}): let this program's user \
             write /config/{subject}"
        ))),
    }
}

impl Schemas {
    /// In the registry's wire format. What is in none of ours stays as it is.
    fn framed(&self, record: NewRecord) -> NewRecord {
        let id = fingerprint_of_payload(&record.payload).and_then(|fingerprint| self.ids.get(fingerprint));
        match id.and_then(|id| with_registry_id(&record.payload, *id)) {
            Some(payload) => NewRecord { payload: payload.into(), ..record },
            None => record,
        }
    }

    fn known(&self, id: u32) -> Option<Option<Fingerprint>> {
        self.fingerprints.read().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    /// Our framing of a record, where it is in the registry's; one whose schema nobody has registered stays as it is.
    async fn unframe(&self, record: &mut LogRecord) -> Result<(), LogError> {
        let Some(id) = registry_id_of_payload(&record.payload) else { return Ok(()) };
        let fingerprint = match self.known(id) {
            Some(known) => known,
            None => self.learn(id).await?,
        };
        if let Some(payload) = fingerprint.and_then(|fingerprint| with_fingerprint(&record.payload, &fingerprint)) {
            record.payload = payload.into();
        }
        Ok(())
    }

    async fn learn(&self, id: u32) -> Result<Option<Fingerprint>, LogError> {
        let fingerprint = match get_schema_by_id(id, &self.settings).await {
            Ok(schema) => fingerprint_of_text(&schema.schema),
            Err(error) if has_status(&error, "404") => None,
            Err(error) => return Err(LogError::Transient(format!("the schema registry, asked for schema {id}: {error}"))),
        };
        let mut known = self.fingerprints.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_FOREIGN + self.ids.len() {
            let ours: Vec<u32> = self.ids.values().copied().collect();
            known.retain(|id, _| ours.contains(id));
        }
        // An id never means another schema; that there is none may change.
        if fingerprint.is_some() {
            known.insert(id, fingerprint);
        }
        Ok(fingerprint)
    }
}

struct RegistryProducer {
    inner: Arc<dyn Producer>,
    schemas: Arc<Schemas>,
}

#[async_trait]
impl Producer for RegistryProducer {
    async fn append(&self, records: &[NewRecord], fence: Option<&Fence>) -> Vec<Result<Position, AppendError>> {
        let framed: Vec<NewRecord> = records.iter().map(|record| self.schemas.framed(record.clone())).collect();
        self.inner.append(&framed, fence).await
    }

    async fn append_one(&self, record: &NewRecord, fence: Option<&Fence>) -> Result<Position, AppendError> {
        self.inner.append_one(&self.schemas.framed(record.clone()), fence).await
    }

    async fn flush(&self, deadline: Duration) {
        self.inner.flush(deadline).await;
    }
}

struct RegistryConsumer {
    inner: Box<dyn Consumer>,
    schemas: Arc<Schemas>,
    /// Records that were read, and how many of them are in our framing: kept where the future is dropped, or the registry is away.
    waiting: Option<(Vec<LogRecord>, usize)>,
}

#[async_trait]
impl Consumer for RegistryConsumer {
    async fn next(&mut self) -> Result<ConsumerEvent, LogError> {
        if self.waiting.is_none() {
            match self.inner.next().await? {
                ConsumerEvent::Records(records) => self.waiting = Some((records, 0)),
                event => return Ok(event),
            }
        }
        if let Some((records, done)) = &mut self.waiting {
            while let Some(record) = records.get_mut(*done) {
                self.schemas.unframe(record).await?;
                *done += 1;
            }
        }
        Ok(ConsumerEvent::Records(self.waiting.take().map(|(records, _)| records).unwrap_or_default()))
    }

    async fn assign(&mut self, starts: &[(TopicPartition, Start)]) -> Result<(), LogError> {
        // Of a position that is left behind nothing more is delivered.
        self.drop_waiting(|source| starts.iter().any(|(assigned, _)| *assigned == source));
        self.inner.assign(starts).await
    }

    async fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.drop_waiting(|source| partitions.contains(&source));
        self.inner.unassign(partitions).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.pause(partitions)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.inner.resume(partitions)
    }

    fn committed(&self, partition: TopicPartition) -> Option<&Committed> {
        self.inner.committed(partition)
    }

    async fn commit(&mut self, commits: &[Commit]) -> Result<(), LogError> {
        self.inner.commit(commits).await
    }

    fn fence(&self, partition: TopicPartition) -> Option<Fence> {
        self.inner.fence(partition)
    }

    async fn close(self: Box<Self>, deadline: Duration) {
        self.inner.close(deadline).await;
    }
}

impl RegistryConsumer {
    fn drop_waiting(&mut self, gone: impl Fn(TopicPartition) -> bool) {
        if let Some((records, done)) = &mut self.waiting {
            let before = &records[..*done];
            *done -= before.iter().filter(|record| gone(record.source)).count();
            records.retain(|record| !gone(record.source));
        }
    }
}

#[async_trait]
impl Log for RegistryLog {
    fn producer(&self) -> Arc<dyn Producer> {
        self.producer.clone()
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        let inner = self.inner.subscribe(group, topics).await?;
        Ok(Box::new(RegistryConsumer { inner, schemas: self.schemas.clone(), waiting: None }))
    }

    async fn create_topics(&self, partitions: i32) -> Result<(), LogError> {
        self.inner.create_topics(partitions).await
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.inner.identity().await
    }

    async fn watermarks(&self, partition: TopicPartition) -> Result<(i64, i64), LogError> {
        self.inner.watermarks(partition).await
    }

    async fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        let mut records = self.inner.read(partition, offset, max_records).await?;
        for record in &mut records {
            self.schemas.unframe(record).await?;
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_url_is_shown_without_what_lets_in() {
        assert_eq!(shown("http://u:hunter2@registry:8081/x"), "http://***@registry:8081/x");
        assert_eq!(shown("http://registry:8081/a@b"), "http://registry:8081/a@b");
    }
}
