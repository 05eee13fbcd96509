//! What a sink is asked between flushes, in a task of its own.
//!
//! Promises: a store that does not answer keeps neither the log from being polled nor the process from ending. What was asked about
//! a partition that has gone meanwhile counts no more: the driver asks again if it comes back.

use std::collections::BTreeMap;

use super::sink::{BatchSink, SinkError};
use crate::seam::Start;
use crate::topic::TopicPartition;

/// The sink, and what it said.
pub(super) struct Answers {
    pub(super) sink: Box<dyn BatchSink>,
    /// Who was to begin.
    pub(super) begins: Vec<TopicPartition>,
    /// Where, as far as the sink knows.
    pub(super) starts: Result<BTreeMap<TopicPartition, Start>, SinkError>,
    /// Whether these may flow.
    pub(super) flows: Vec<(TopicPartition, Result<bool, SinkError>)>,
}

/// Asks where `begins` begin, and whether they and the `held` ones may flow.
pub(super) async fn ask(mut sink: Box<dyn BatchSink>, begins: Vec<TopicPartition>, held: Vec<TopicPartition>) -> Answers {
    let starts = if begins.is_empty() {
        Ok(BTreeMap::new())
    } else {
        sink.starts(&begins).await.map(|starts| starts.into_iter().collect())
    };
    let mut flows = Vec::new();
    for partition in begins.iter().filter(|_| starts.is_ok()).chain(&held) {
        flows.push((*partition, sink.may_flow(*partition).await));
    }
    Answers { sink, begins, starts, flows }
}
