//! Produce and consume: one seam ([`seam`]) over Kafka and the SQL log, and above it, shared by worker and writer, the pure
//! machines (frontier ledger, schedule, budget, epochs) with the drivers that run them.

pub mod backoff;
pub mod budget;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod driver;
pub mod epochs;
pub mod finished;
pub mod gather;
#[cfg(feature = "kafka")]
pub mod kafka;
mod keyed;
pub mod ledger;
#[cfg(feature = "kafka")]
pub mod registry;
pub mod schedule;
pub mod seam;
pub mod sql;
pub mod sqlite;
pub mod topic;

pub use seam::{
    AppendError, Commit, Committed, Consumer, ConsumerEvent, Fence, Header, Log, LogError, LogIdentity, LogRecord, NewRecord,
    Position, Producer, Start,
};
pub use topic::{Topic, TopicPartition};
