//! Reads a partition outside any group.
//!
//! A few readers are kept, each with the place where it stopped, so that who reads page after page fetches every record once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::names::log_error;
use super::{Quiet, Shared};
use crate::seam::{LogError, LogRecord};
use crate::topic::TopicPartition;

/// How many idle readers are kept.
const KEPT: usize = 4;
/// How long nothing may come of a partition that has more.
const STALL: Duration = Duration::from_secs(30);

struct Reader {
    native: BaseConsumer<Quiet>,
    /// What it delivers next.
    at: Option<(TopicPartition, i64)>,
}

pub(super) struct Readers {
    shared: Arc<Shared>,
    idle: Mutex<Vec<Reader>>,
}

impl Readers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, idle: Mutex::new(Vec::new()) }
    }

    /// Blocks.
    pub(super) fn read(&self, partition: TopicPartition, offset: i64, max_records: usize) -> Result<Vec<LogRecord>, LogError> {
        let (_, end) = self.shared.check_start(partition, offset)?;
        if offset == end || max_records == 0 {
            return Ok(Vec::new());
        }
        let mut reader = self.take(partition, offset)?;
        let records = self.fill(&mut reader, partition, offset, end, max_records)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // the oldest goes; a failed one is not kept at all
        if idle.len() >= KEPT {
            idle.remove(0);
        }
        idle.push(reader);
        Ok(records)
    }

    fn take(&self, partition: TopicPartition, offset: i64) -> Result<Reader, LogError> {
        let mut reader = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            match idle.iter().position(|reader| reader.at == Some((partition, offset))) {
                Some(index) => return Ok(idle.remove(index)),
                None if idle.len() >= KEPT => Some(idle.remove(0)),
                None => None,
            }
        };
        let reader = match reader.take() {
            Some(reader) => reader,
            None => {
                let native =
                    self.shared.properties.reader(&self.shared.names.group("reader")).create_with_context(Quiet::default());
                Reader { native: native.map_err(|error| log_error("open a reader", &error))?, at: None }
            }
        };
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(self.shared.names.of(partition.topic), partition.partition, Offset::Offset(offset))
            .and_then(|()| reader.native.assign(&list))
            .map_err(|error| log_error(&format!("read {partition}"), &error))?;
        Ok(Reader { native: reader.native, at: Some((partition, offset)) })
    }

    fn fill(
        &self,
        reader: &mut Reader,
        partition: TopicPartition,
        offset: i64,
        end: i64,
        max_records: usize,
    ) -> Result<Vec<LogRecord>, LogError> {
        let mut records = Vec::new();
        let mut next = offset;
        let mut moved = Instant::now();
        while next < end && records.len() < max_records {
            match reader.native.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    if let Some(record) = self.shared.names.record(&message)
                        && record.source == partition
                        && record.offset >= next
                    {
                        next = record.offset + 1;
                        moved = Instant::now();
                        records.push(record);
                    }
                }
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                        self.shared.check_start(partition, next)?;
                        return Err(LogError::Transient(format!("read {partition} at {next}: {error}")));
                    }
                    _ => {
                        if let fatal @ LogError::Fatal(_) = log_error(&format!("read {partition}"), &error) {
                            return Err(fatal);
                        }
                        tracing::warn!(%error, %partition, "reading the log");
                    }
                },
                None => {}
            }
            if moved.elapsed() > STALL {
                return Err(LogError::Transient(format!("no record of {partition} came for {} s", STALL.as_secs())));
            }
        }
        reader.at = Some((partition, next));
        Ok(records)
    }
}
