//! What one member has made of one partition since it took it up, and what must hold of that at every step.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::spec::{Spec, cost_of, tenant_of, window_of};
use super::world::Stored;
use crate::finished;
use crate::schedule::Windowing;
use crate::seam::{Commit, LogRecord};

/// A window that waits for its retry.
#[derive(Debug)]
struct Parked {
    offsets: Vec<i64>,
    attempt: u32,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Tenure {
    /// Which one this is, over all members.
    pub(super) number: u64,
    /// Finished when it was taken up, or since, by this tenure.
    finished: BTreeSet<i64>,
    parked: BTreeMap<Vec<u8>, Parked>,
    apart: BTreeSet<i64>,
}

/// Work that the core began.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) partition: usize,
    pub(super) tenure: u64,
    pub(super) key: Vec<u8>,
    pub(super) offsets: Vec<i64>,
    pub(super) attempt: u32,
    /// It never ends.
    pub(super) is_stuck: bool,
    pub(super) began_at: Instant,
}

impl Tenure {
    pub(super) fn new(number: u64, log: &[LogRecord], stored: Option<&Stored>) -> Self {
        let mut finished = BTreeSet::new();
        if let Some(stored) = stored {
            let end = log.last().map_or(0, |record| record.offset + 1);
            let known = finished::decode(&stored.metadata, stored.next_offset, end).expect("ours");
            let is_known = |offset: i64| known.iter().any(|run| (run.first..=run.last).contains(&offset));
            finished.extend(log.iter().map(|record| record.offset).filter(|&o| o < stored.next_offset || is_known(o)));
        }
        Self { number, finished, parked: BTreeMap::new(), apart: BTreeSet::new() }
    }

    pub(super) fn is_finished(&self, offset: i64) -> bool {
        self.finished.contains(&offset)
    }

    /// A window goes out.
    pub(super) fn begins(&mut self, task: &Task, window: &[&LogRecord], log: &[LogRecord], spec: &Spec, now: Instant) {
        let key = &window[0].key;
        assert!(window.iter().all(|record| record.key == *key && record.source == window[0].source), "one key, one partition");
        assert!(task.offsets.is_sorted_by(|a, b| a < b), "in log order");
        let last = task.offsets[task.offsets.len() - 1];
        for record in log.iter().filter(|record| record.key == *key && record.offset <= last) {
            let (offset, inside) = (record.offset, task.offsets.contains(&record.offset));
            assert!(inside || self.is_finished(offset), "offset {offset} was passed over by {:?}", task.offsets);
            assert!(!inside || !self.is_finished(offset), "offset {offset} is worked on again though it is finished");
        }
        if let Some(parked) = self.parked.remove(&task.key) {
            assert_eq!(parked.offsets, task.offsets, "a window is tried again as it was");
            assert_eq!(parked.attempt + 1, task.attempt, "attempts are counted");
            assert!(now >= parked.until, "tried again too early");
        } else {
            assert_eq!(task.attempt, 0, "nothing was tried before");
        }
        assert!(window.len() == 1 || !task.offsets.iter().any(|offset| self.apart.contains(offset)), "these go alone");
        self.is_legal(window, spec);
    }

    fn is_legal(&self, window: &[&LogRecord], spec: &Spec) {
        if window.len() == 1 {
            return;
        }
        let bounds = spec.bounds(window[0].source.topic);
        let (mut messages, mut cost, mut groups) = (0, 0, BTreeSet::new());
        for (n, record) in window.iter().enumerate() {
            match window_of(&record.payload) {
                Windowing::Alone => panic!("a record that goes alone is in a window of {}", window.len()),
                Windowing::Closes => assert_eq!(n, window.len() - 1, "nothing comes behind what closes"),
                Windowing::With { group, messages: more } => {
                    groups.insert(group);
                    messages += more as usize;
                    cost += cost_of(&record.payload);
                }
            }
        }
        assert!(groups.len() <= 1, "one group");
        assert!(window.len() <= bounds.events && messages <= bounds.messages && cost <= bounds.cost, "within {bounds:?}");
        assert!(window.iter().all(|record| tenant_of(&record.key) == tenant_of(&window[0].key)));
    }

    pub(super) fn done(&mut self, task: &Task) {
        for &offset in &task.offsets {
            assert!(self.finished.insert(offset), "finished twice: {offset}");
        }
    }

    pub(super) fn parks(&mut self, task: &Task, until: Instant) {
        self.parked.insert(task.key.clone(), Parked { offsets: task.offsets.clone(), attempt: task.attempt, until });
    }

    pub(super) fn falls_apart(&mut self, task: &Task) {
        self.apart.extend(&task.offsets);
    }

    /// What the core wants committed: nothing unfinished, and everything that is finished.
    pub(super) fn commits(&self, commit: &Commit, log: &[LogRecord]) {
        let end = log.last().map_or(0, |record| record.offset + 1);
        let known = finished::decode(&commit.metadata, commit.next_offset, end).expect("ours");
        for LogRecord { offset, .. } in log {
            let is_told = *offset < commit.next_offset || known.iter().any(|run| (run.first..=run.last).contains(offset));
            assert_eq!(is_told, self.is_finished(*offset), "offset {offset}: committed, finished; {}", commit.next_offset);
        }
    }
}
