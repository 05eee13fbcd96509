//! What the tests share: items, keys and settings.

mod fairness;
mod floors;
mod model;
mod orders;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) serial: u64,
    pub(super) tenant: Arc<str>,
    pub(super) cost: u64,
    pub(super) window: Windowing,
}

impl Item {
    /// A window of its own.
    fn alone(tenant: &str, cost: u64) -> Self {
        Self { serial: 0, tenant: tenant.into(), cost, window: Windowing::Alone }
    }
}

impl Scheduled for Item {
    fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    fn cost(&self) -> u64 {
        self.cost
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.serial % 7).unwrap_or(0)
    }

    fn window(&self) -> Windowing {
        self.window
    }
}

const TOPICS: [Topic; 2] = [Topic::ConversationsLive, Topic::ConversationsBackfill];

fn key(topic: Topic, partition: i32, name: &str) -> Key {
    (TopicPartition { topic, partition }, Bytes::copy_from_slice(name.as_bytes()))
}

fn live(name: &str) -> Key {
    key(Topic::ConversationsLive, 0, name)
}

fn backfill(name: &str) -> Key {
    key(Topic::ConversationsBackfill, 0, name)
}

/// Everything is a window of its own.
fn single(fairness: Fairness) -> Schedule<Item> {
    Schedule::new(&TOPICS, BTreeMap::new(), fairness, LaneFloors::default())
}

fn shares(quantum: u64, shares: &[(&str, u32, Option<usize>)]) -> Fairness {
    let share = |&(name, weight, max_in_flight): &(&str, u32, Option<usize>)| (name.to_owned(), Share { weight, max_in_flight });
    Fairness { quantum, tenants: shares.iter().map(share).collect(), default: Share::default() }
}

impl Schedule<Item> {
    fn assert_consistent(&self, largest_cost: u64) {
        self.turns.assert_consistent(largest_cost);
    }

    /// Nothing is kept of what is over.
    fn assert_nothing_is_kept(&self) {
        assert_eq!((self.len(), self.in_flight(), self.keys.len(), self.turns.len()), (0, 0, 0, 0));
        assert_eq!((self.open.len(), self.parked.len(), self.next_wake()), (0, 0, None));
        for topic in TOPICS {
            for partition in 0..2 {
                assert_eq!(self.tenants_in(TopicPartition { topic, partition }), 0);
            }
        }
    }
}
