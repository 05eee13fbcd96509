//! The sink: batches of records to flushes of the store.
//!
//! Promises: what cannot be taken never stops what can, except on the controls, where skipping a deletion would be worse than
//! standing still. A fact event that is refused is dead-lettered, and that is acknowledged, before the flush that passes it is
//! committed. Conversations, facts and dead letters of a partition are held back until the controls that were there when it was
//! assigned have been applied, by whichever writer. Waiters are woken after the commit, never inside it.

pub mod metrics;
mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use memori_event_log::driver::batch::{Batch, BatchSink, SinkError};
use memori_event_log::{Log, LogError, LogIdentity, NewRecord, Start, Topic, TopicPartition};
use memori_schemas::{LogRecordBody, Micros, framing};
use memori_service::trace_context;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::generations::DroppedGenerations;
use crate::notify::Commits;
use crate::pace::Pace;
use crate::packer::PackerHandle;
use crate::store::{self, FlushReport, OffsetKey, OffsetMove, Store, StoreError};
use prepare::{Prepared, Refused};

/// What a log may count beside a record's payload, key and headers.
const ENVELOPE_BYTES: usize = 64 * 1024;
/// A flush span links this many of its events' traces, at most.
const MAX_LINKS: usize = 128;

/// Writes batches to a store.
pub struct Sink {
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    identity: LogIdentity,
    commits: Commits,
    /// Told after each commit, for whoever tells other writers.
    committed: Arc<Notify>,
    /// Told of what flushes changed.
    packer: Option<PackerHandle>,
    /// Per partition number: where its controls ended when others of its topics were assigned.
    controls_until: BTreeMap<i32, i64>,
    /// The last attempt may have been committed.
    unsure: bool,
    pace: Pace,
    dropped: DroppedGenerations,
    /// Refused records of the batch under way whose dead letters are acknowledged.
    buried: BTreeSet<(TopicPartition, i64)>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Sink {
    /// Between a log, whose ids are `identity`, and a store.
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        store: Arc<dyn Store>,
        identity: LogIdentity,
        commits: Commits,
        committed: Arc<Notify>,
    ) -> Self {
        let (controls_until, buried) = (BTreeMap::new(), BTreeSet::new());
        Self {
            log,
            store,
            identity,
            commits,
            committed,
            packer: None,
            controls_until,
            unsure: false,
            pace: Pace::default(),
            dropped: DroppedGenerations::default(),
            buried,
        }
    }

    /// Rests between flushes as `pace` says.
    #[must_use]
    pub fn at_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Passes over what is of these.
    #[must_use]
    pub fn without(self, dropped: DroppedGenerations) -> Self {
        Self { dropped, ..self }
    }

    /// Tells a packer of what its flushes change.
    #[must_use]
    pub fn with_packer(self, packer: Option<PackerHandle>) -> Self {
        Self { packer, ..self }
    }

    fn offset_key(&self, partition: TopicPartition) -> Result<OffsetKey, SinkError> {
        let topic_id = self
            .identity
            .topic_ids
            .get(&partition.topic)
            .ok_or_else(|| SinkError::Halt(format!("the log has no topic {}; create the topics", partition.topic)))?;
        Ok(OffsetKey {
            cluster_id: self.identity.cluster_id.as_str().into(),
            topic_id: topic_id.as_str().into(),
            partition: partition.partition,
        })
    }

    fn controls_key(&self, partition: i32) -> Result<OffsetKey, SinkError> {
        self.offset_key(TopicPartition { topic: Topic::Controls, partition })
    }

    /// Dead-letters what was refused; returns once the log has acknowledged all of it.
    async fn bury(&mut self, refused: &[Refused]) -> Result<(), SinkError> {
        let open: Vec<&Refused> = refused.iter().filter(|r| !self.buried.contains(&(r.source, r.offset))).collect();
        if open.is_empty() {
            return Ok(());
        }
        let records = open.iter().map(|r| new_record(r)).collect::<Result<Vec<_>, _>>()?;
        for (refused, answer) in open.iter().zip(self.log.producer().append(&records, None).await) {
            answer.map_err(|e| SinkError::Retry(format!("a dead letter was not acknowledged: {e}")))?;
            self.buried.insert((refused.source, refused.offset));
            metrics::refused(refused.letter.class.as_str());
            tracing::warn!(
                source = %refused.source,
                offset = refused.offset,
                class = refused.letter.class.as_str(),
                reason = refused.letter.reason,
                "dead-lettered a fact event"
            );
        }
        Ok(())
    }

    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let now = Micros::now();
        let prepared = prepare::prepare(&batch.records, &self.identity, &self.dropped, now)?;
        self.bury(&prepared.refused).await?;
        let Prepared { mut input, passed, of_dropped, .. } = prepared;
        for advance in &batch.advances {
            input.moves.push(OffsetMove {
                key: self.offset_key(advance.partition)?,
                from: advance.from_offset,
                next: advance.next_offset,
            });
        }
        input.moves.sort_by(|a, b| a.key.cmp(&b.key));
        input.unsure = self.unsure;
        let report = match store::flush(&*self.store, &input).await {
            Ok(report) => report,
            Err(error) => return Err(self.failed(error, batch)),
        };
        self.unsure = false;
        self.buried.clear();
        for (topic, class) in passed {
            metrics::passed(topic.as_str(), class.as_str());
        }
        metrics::of_dropped_generations(of_dropped);
        self.after_commit(report);
        Ok(())
    }

    fn after_commit(&self, report: FlushReport) {
        metrics::committed(&report, Micros::now().0);
        self.commits.bump();
        self.committed.notify_one();
        tracing::debug!(rows = report.rows, applied = report.applied, "committed");
        if let Some(packer) = &self.packer {
            packer.flushed(report.changed);
        }
    }

    fn failed(&mut self, error: StoreError, batch: &Batch) -> SinkError {
        match error {
            StoreError::CommitUnknown(_) => {
                self.unsure = true;
                SinkError::Retry(error.to_string())
            }
            StoreError::Retry(_) | StoreError::Conflict(_) => SinkError::Retry(error.to_string()),
            StoreError::Broken(_) => SinkError::Halt(error.to_string()),
            StoreError::Fenced(keys) => {
                self.unsure = false;
                self.buried.clear();
                let ours = batch.advances.iter().map(|a| a.partition);
                SinkError::Fenced(ours.filter(|p| self.offset_key(*p).is_ok_and(|key| keys.contains(&key))).collect())
            }
        }
    }
}

fn new_record(refused: &Refused) -> Result<NewRecord, SinkError> {
    let mut letter = refused.letter.clone();
    let around = refused.key.len() + refused.headers.iter().map(|h| h.name.len() + h.value.len()).sum::<usize>();
    let largest = framing::MAX_PAYLOAD_BYTES.saturating_sub(ENVELOPE_BYTES + around);
    let payload = framing::encode(&LogRecordBody::DeadLetter(letter.clone())).ok().filter(|payload| payload.len() <= largest);
    let payload = match payload {
        Some(payload) => payload,
        // The letter around a record of the largest size is over the log's bound: it keeps everything but the bytes, which stay
        // where they are.
        None => {
            letter.original_payload.clear();
            letter.reason.push_str(" (its bytes are too large for a dead letter; they stand at the source offset)");
            framing::encode(&LogRecordBody::DeadLetter(letter))
                .map_err(|e| SinkError::Halt(format!("a dead letter cannot be written: {e}")))?
        }
    };
    Ok(NewRecord {
        topic: Topic::DeadLetters,
        key: refused.key.clone(),
        payload: payload.into(),
        headers: refused.headers.clone(),
    })
}

fn log_failed(error: LogError) -> SinkError {
    match error {
        LogError::Transient(_) | LogError::Fenced(_) => SinkError::Retry(error.to_string()),
        LogError::BelowLogStart { .. } | LogError::Fatal(_) => SinkError::Halt(error.to_string()),
    }
}

fn store_failed(error: StoreError) -> SinkError {
    match error {
        StoreError::Broken(_) => SinkError::Halt(error.to_string()),
        _ => SinkError::Retry(error.to_string()),
    }
}

#[async_trait]
impl BatchSink for Sink {
    async fn starts(&mut self, assigned: &[TopicPartition]) -> Result<Vec<(TopicPartition, Start)>, SinkError> {
        let keys = assigned.iter().map(|p| self.offset_key(*p)).collect::<Result<Vec<_>, _>>()?;
        let offsets = self.store.next_offsets(&keys).await.map_err(store_failed)?;
        let numbers: BTreeSet<i32> = assigned.iter().filter(|p| p.topic != Topic::Controls).map(|p| p.partition).collect();
        for partition in numbers {
            let (_, end) = self.log.watermarks(TopicPartition { topic: Topic::Controls, partition }).await.map_err(log_failed)?;
            self.controls_until.insert(partition, end);
        }
        // A store that knows nothing of a partition begins at 0: where the log's start lies above it, that is an error, never a reset.
        Ok(assigned.iter().zip(offsets).map(|(p, offset)| (*p, Start::Offset(offset.unwrap_or(0)))).collect())
    }

    async fn flush(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let span = tracing::info_span!("flush", records = batch.records.len(), cause = batch.cause.as_str());
        let traces: BTreeSet<&[u8]> = batch.records.iter().filter_map(|r| r.header(trace_context::TRACEPARENT)).collect();
        for traceparent in traces.into_iter().take(MAX_LINKS) {
            trace_context::add_link(&span, traceparent);
        }
        let began = Instant::now();
        self.write(batch).instrument(span).await?;
        // After the commit, and what was gathered meanwhile goes in one flush.
        self.pace.rest(began.elapsed()).await;
        Ok(())
    }

    async fn may_flow(&mut self, partition: TopicPartition) -> Result<bool, SinkError> {
        if partition.topic == Topic::Controls {
            return Ok(true);
        }
        let Some(until) = self.controls_until.get(&partition.partition).copied() else { return Ok(true) };
        if until > 0 {
            let key = self.controls_key(partition.partition)?;
            let applied = self.store.next_offsets(&[key]).await.map_err(store_failed)?;
            if applied.first().copied().flatten().unwrap_or(0) < until {
                return Ok(false);
            }
        }
        self.controls_until.remove(&partition.partition);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use memori_schemas::{DeadLetter, DeadLetterClass, Lane};

    use super::*;

    #[test]
    fn a_letter_that_a_log_would_refuse_as_too_large_goes_without_its_bytes() {
        for (bytes, kept) in [(1 << 20, true), (framing::MAX_PAYLOAD_BYTES - 600, false), (framing::MAX_PAYLOAD_BYTES, false)] {
            let letter = DeadLetter {
                tenant: Some("t".into()),
                entity_id: Some("e".into()),
                source_topic: "facts.live".into(),
                source_topic_id: "id".into(),
                source_partition: 0,
                source_offset: 7,
                lane: Lane::Live,
                generation: 1,
                class: DeadLetterClass::InvalidOutput,
                reason: "no evidence".into(),
                attempts: 1,
                covers: Vec::new(),
                original_key: vec![1; 8],
                original_payload: vec![2; bytes],
                failed_at: Micros(0),
                key_id: None,
            };
            let source = TopicPartition { topic: Topic::FactsLive, partition: 0 };
            let refused = Refused { source, offset: 7, key: Bytes::from_static(b"key"), headers: Vec::new(), letter };
            let record = new_record(&refused).unwrap();
            assert!(record.payload.len() + record.key.len() + 1024 <= framing::MAX_PAYLOAD_BYTES, "a log takes it");
            let LogRecordBody::DeadLetter(written) = framing::decode(&record.payload).unwrap() else { panic!("not a letter") };
            assert_eq!((!written.original_payload.is_empty(), written.reason.contains("too large")), (kept, !kept));
        }
    }
}
